"""Second half of the lesson: two shops whose customers may be the same people, one of them with few ratings.

A model knows users and items by their numbers alone. What it may carry over is what it learned of a person; whether two
accounts belong to one person is what `shared_users` says.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from recmtl_lessons.datasets import WorldSettings, make_world, place_within
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.models import CrossDomainTransferNetwork, squared_mmd
from recmtl_lessons.teaching import Running
from recmtl_lessons.training import ManyModels

ACCOUNTS = WorldSettings(
    domains=("books", "films"), n_users=300, n_items=60, taste_dim=4, nuisance_dim=0,
    interactions=12_000, sparsity=0.25, relatedness=0.9,
)  # fmt: skip
RATINGS_A_USER = (2, 4, 8, 16)  # a quarter of the users has this many ratings of films to learn from
STEPS = 150
PENALTY = 0.3  # on other worlds 0.2 to 0.45 served every arm as well as any, at every relatedness
ALONE = {"source": 0.0, "overlap": 0.0}
LINKED = {"source": 1.0, "overlap": 1.0}
GENTLY = {"source": 0.1, "overlap": 1.0}
RELATEDNESS = (0.0, 0.3, 0.6, 0.9)
OVERLAPS = (0.0, 0.5, 1.0)

# The data: for each seed a world of its own.


@dataclass(frozen=True)
class Ledgers:
    """Ratings as three columns, one world per seed; each tensor is (S, n) and ``rating`` is centred at 3.

    Attributes
    ----------
    source : dict {"user", "item", "rating": Tensor}
        All ratings of the first domain.
    train, test : dict
        Ratings of the second: the first few of each user, by time, and those after the sixteenth. No pair of user and
        item is in both.
    sizes : (int, int, int)
        Numbers of users, of items of the first domain and of items of the second.
    """

    source: dict[str, Tensor]
    train: dict[str, Tensor]
    test: dict[str, Tensor]
    sizes: tuple[int, int, int]

    @property
    def streams(self) -> dict[str, dict[str, Tensor]]:
        """Return what training sees."""
        return {"source": self.source, "target": self.train}

    @property
    def n_seeds(self) -> int:
        """Return the number of worlds."""
        return len(self.train["rating"])


@lru_cache(maxsize=8)
def open_ledgers(settings: WorldSettings = ACCOUNTS, seeds: tuple[int, ...] = SEEDS) -> Ledgers:
    """Draw one world per seed, and thin the second domain."""
    worlds = [_thinned(settings, seed) for seed in seeds]
    parts = (stacked([world[k] for world in worlds]) for k in range(3))
    return Ledgers(*parts, sizes=(settings.n_users, settings.n_items, settings.n_items))


def few_of(user: Tensor) -> Tensor:
    """Return how many target ratings of each user there are to learn from."""
    return torch.tensor(RATINGS_A_USER)[user % len(RATINGS_A_USER)]


def _thinned(settings: WorldSettings, seed: int) -> tuple[dict, dict, dict]:
    world = make_world(settings, seed)
    source, target = (world.rows(domain) for domain in settings.domains)
    target = target[place_within(world.user[target] * settings.n_items + world.item[target]) == 0]  # each film once
    place = place_within(world.user[target])
    train = target[place < few_of(world.user[target])]
    test = target[place >= max(RATINGS_A_USER)]
    return tuple(
        {"user": world.user[rows], "item": world.item[rows], "rating": world.rating[rows] - 3}
        for rows in (source, train, test)
    )


def stacked(columns: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack one table per seed, all cut at random to the size of the smallest."""
    rows = min(len(table["user"]) for table in columns)
    generator = torch.Generator().manual_seed(0)
    kept = [torch.randperm(len(table["user"]), generator=generator)[:rows] for table in columns]
    return {name: torch.stack([t[name][k] for t, k in zip(columns, kept, strict=True)]) for name in columns[0]}


# Networks and their objective.


def build(sizes: tuple[int, int, int], embedding_dim: int = 8) -> Callable[[], CrossDomainTransferNetwork]:
    """Make the lesson's network: each user of the source may come to the target as the same person or as a stranger.

    The target knows twice as many users as the source. Numbers below ``n_users`` are linked to the source's, the others
    are accounts of their own.
    """
    n_users, source_items, target_items = sizes
    everybody = torch.arange(n_users)
    return lambda: CrossDomainTransferNetwork(
        {"source": (n_users, source_items)},
        {"target": (2 * n_users, target_items)},
        embedding_dim,
        hidden_dims=(16,),
        shared_dims=(embedding_dim + 2,),
        shared_users={("source", "target"): torch.stack([everybody, everybody], dim=1)},
    )


def account(user: Tensor, overlap: float | Tensor, n_users: int) -> Tensor:
    """Return the number under which the target knows each user: linked for some of them, a stranger's for the rest.

    The linked users are the same for all models, and a larger overlap links those of a smaller one and more.
    """
    scattered = (user * 7919) % n_users  # a fixed order of the users; 7919 is prime
    return torch.where(scattered < overlap * n_users, user, user + n_users)


def plain_embed(model, domain: str, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
    """Return the embeddings of users and of items, each from a table of their own."""
    return model.embed(domain, user, item)


def one_table_embed(model, domain: str, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
    """Broken on purpose: item 5 is looked up in the users' table, and finds user 5."""
    n_items = model.vocab_sizes[domain][1]
    return model.embed(domain, user, item)[0], model.user_embeddings(item + (n_items if domain == "target" else 0))


def objective_with(n_users: int, embed: Callable = plain_embed) -> Callable:
    """Return the objective: squared error of both shops, a penalty on the embeddings, an MMD of what is shared.

    A setting has ``source``, the weight of the source's ratings; ``overlap``, the share of users whose accounts are
    linked; and may have ``mmd``, the weight of the alignment, and ``penalty``.
    """

    def objective(model, batch, setting, progress):
        loss, logs, shared = 0.0, {}, {}
        for domain, weight in (("source", setting["source"]), ("target", 1.0)):
            rows = batch[domain]
            user = rows["user"] if domain == "source" else account(rows["user"], setting["overlap"], n_users)
            embedded = embed(model, domain, user, rows["item"])
            shared[domain] = model.encode_embeddings(domain, *embedded)  # (batch, shared)
            error = (model.read(domain, shared[domain]) - rows["rating"]).square().mean()
            size = sum(part.square().sum(1).mean() for part in embedded)
            loss = loss + weight * (error + setting.get("penalty", PENALTY) * size)
            logs[domain] = error
        if "mmd" in setting:
            distance = model.compute_domain_alignment_loss(shared["source"][:48], shared["target"][:48])
            loss, logs = loss + setting["mmd"] * distance, {**logs, "mmd": distance}
        return loss, logs

    return objective


def many_networks(ledgers: Ledgers, settings, embed: Callable = plain_embed, embedding_dim: int = 8) -> ManyModels:
    """Return a stack of the lesson's networks, one for each setting and seed."""
    return ManyModels(
        build(ledgers.sizes, embedding_dim),
        objective_with(ledgers.sizes[0], embed),
        ledgers.streams,
        settings,
        range(ledgers.n_seeds),
        batch_size=192,
        # The towers learn slowly: they correct the product of the embeddings, and are where few ratings are overfitted.
        learning_rate={"": 5e-2, "towers": 1e-3, "shared_layers": 1e-3},
    )


def predictions(models: ManyModels, table: dict[str, Tensor], n_users: int, embed: Callable = plain_embed) -> Tensor:
    """Return each model's prediction of the target's rows, under the overlap that it was trained with: (M, n)."""
    overlaps = sorted({setting["overlap"] for setting in models.settings})

    def under_each(model, user, item):
        shared = (
            model.encode_embeddings("target", *embed(model, "target", account(user, overlap, n_users), item))
            for overlap in overlaps
        )
        return torch.stack([model.read("target", z) for z in shared])  # (overlaps, n)

    answers = models.each(under_each, table["user"], table["item"]).cpu()  # (M, overlaps, n)
    own = torch.tensor([overlaps.index(setting["overlap"]) for setting in models.settings])
    return answers[torch.arange(len(answers)), own]


def error_by_ratings(models: ManyModels, ledgers: Ledgers, embed: Callable = plain_embed) -> Tensor:
    """Return the RMSE on held-out ratings, by how many a user had to learn from: (settings, S, groups)."""
    test = ledgers.test
    error = predictions(models, test, ledgers.sizes[0], embed) - test["rating"].repeat(models.n_settings, 1)  # (M, n)
    few = few_of(test["user"]).repeat(models.n_settings, 1)
    groups = [few == number for number in RATINGS_A_USER]
    rmse = torch.stack([((error**2 * g).sum(1) / g.sum(1)).sqrt() for g in groups], dim=1)  # (M, groups)
    return models.by_setting(rmse)


def for_few(error: Tensor) -> Tensor:
    """Return the RMSE of users with two or four ratings, from `error_by_ratings`: (..., groups) -> (...)."""
    return error[..., :2].square().mean(-1).sqrt()


# The experiments.


def linked_in_one_table(seeds: tuple[int, ...] = SEEDS) -> Tensor:
    """Return the RMSE with all accounts linked, but users and items in one table: (S, groups)."""
    ledgers = open_ledgers(replace(ACCOUNTS, relatedness=max(RELATEDNESS)), seeds)
    models = many_networks(ledgers, [LINKED], one_table_embed).fit(STEPS, label="one table")
    return error_by_ratings(models, ledgers, one_table_embed)[0]


@dataclass(frozen=True)
class Grid:
    """RMSE on held-out films in worlds of several kinds: R relatednesses, O overlaps, S seeds, groups of users.

    Attributes
    ----------
    relatedness, overlaps : tuple of float
        R and O of them.
    linked : Tensor, (R, O, S, groups)
        The error with the source, and a share of the accounts linked; the first share is 0.
    """

    relatedness: tuple[float, ...]
    overlaps: tuple[float, ...]
    linked: Tensor

    @property
    def gain(self) -> Tensor:
        """Return how much lower the RMSE of users with few ratings is than with nobody linked, (R, O, S)."""
        few = for_few(self.linked)
        return few[:, :1] - few


def grid_of_gains(
    relatedness: Sequence[float] = RELATEDNESS, overlaps: Sequence[float] = OVERLAPS, seeds: tuple[int, ...] = SEEDS
) -> Grid:
    """Train with every overlap in worlds of every relatedness, as one stack."""
    error = in_worlds([{"source": 1.0, "overlap": o} for o in overlaps], relatedness, seeds, "relatedness and overlap")
    return Grid(tuple(relatedness), tuple(overlaps), error)


def in_worlds(
    settings: Sequence[dict[str, float]], relatedness: Sequence[float], seeds: tuple[int, ...] = SEEDS,
    label: str = "training", steps: int | None = None,
) -> Tensor:  # fmt: skip
    """Return each setting's RMSE in worlds of each relatedness, trained as one stack: (R, settings, S, groups)."""
    ledgers = side_by_side([open_ledgers(replace(ACCOUNTS, relatedness=r), seeds) for r in relatedness])
    models = many_networks(ledgers, settings).fit(steps or STEPS, label=label)
    error = error_by_ratings(models, ledgers).unflatten(1, (len(relatedness), len(seeds)))
    return error.transpose(0, 1)


def score_penalties(
    penalties: Sequence[float] = (0.1, 0.2, 0.3, 0.45, 0.7),
    relatedness: float = 0.9,
    steps: int | None = None,
    seeds: tuple[int, ...] = DESIGN_SEEDS,
) -> dict[str, dict[float, float]]:
    """Return the mean RMSE of people with few ratings, for each way and penalty, in worlds that no claim is about.

    It is how `PENALTY` was chosen: one number for all ways, near the best of each.
    """
    ways = {"alone": ALONE, "nobody linked": {"source": 1.0, "overlap": 0.0}, "all linked": LINKED}
    settings = [{**way, "penalty": penalty} for way in ways.values() for penalty in penalties]
    scores = for_few(in_worlds(settings, (relatedness,), seeds, "penalties", steps))[0].mean(1)  # (settings,)
    rows = scores.view(len(ways), len(penalties)).tolist()
    return {name: dict(zip(penalties, row, strict=True)) for name, row in zip(ways, rows, strict=True)}


def constant_error(relatedness: float, seeds: tuple[int, ...] = SEEDS) -> Tensor:
    """Return the RMSE of always answering the mean rating of films, by ratings per user: (S, groups)."""
    ledgers = open_ledgers(replace(ACCOUNTS, relatedness=relatedness), seeds)
    error = ledgers.train["rating"].mean(1, keepdim=True) - ledgers.test["rating"]  # (S, n)
    few = few_of(ledgers.test["user"])
    groups = [few == number for number in RATINGS_A_USER]
    return torch.stack([((error**2 * g).sum(1) / g.sum(1)).sqrt() for g in groups], dim=1)


def side_by_side(many: Sequence[Ledgers]) -> Ledgers:
    """Return several kinds of ledgers as one, along the seeds; vocabularies as the largest."""
    parts = (together([getattr(ledgers, part) for ledgers in many]) for part in ("source", "train", "test"))
    return Ledgers(*parts, largest(ledgers.sizes for ledgers in many))


def together(tables: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Put tables of (S, n) columns one after another along the seeds, cut to the rows that all have."""
    rows = min(table["user"].shape[1] for table in tables)
    return {name: torch.cat([table[name][:, :rows] for table in tables]) for name in tables[0]}


def largest(sizes: Iterable[tuple[int, int, int]]) -> tuple[int, int, int]:
    """Return sizes that have room for all of these."""
    return tuple(max(column) for column in zip(*sizes, strict=True))


@dataclass(frozen=True)
class MatchedAccounts:
    """Error and distance of the shops where an MMD of the shared representations is trained, and nobody is linked.

    Attributes
    ----------
    weights : tuple of float
    error : Tensor, (weights, S)
        RMSE of users with few ratings.
    mmd : Tensor, (weights, S)
        Squared MMD between the representations of held-out films and of books.
    """

    weights: tuple[float, ...]
    error: Tensor
    mmd: Tensor


def match_accounts(weights: Sequence[float] = (0.0, 1.0, 10.0), seeds: tuple[int, ...] = SEEDS) -> MatchedAccounts:
    """Add the alignment of the first half to the networks of the second, with no account linked."""
    ledgers = open_ledgers(ACCOUNTS, seeds)
    settings = {"source": (1.0,), "overlap": (0.0,), "mmd": tuple(weights)}
    models = many_networks(ledgers, settings).fit(STEPS, label="matching accounts")
    rows, n_users = 200, ledgers.sizes[0]

    def distance(model, source_user, source_item, user, item):
        books = model.encode_domain("source", source_user, source_item)
        return squared_mmd(books, model.encode_domain("target", user + n_users, item))

    columns = [ledgers.source["user"], ledgers.source["item"], ledgers.test["user"], ledgers.test["item"]]
    mmd = models.by_setting(models.each(distance, *(column[:, :rows] for column in columns))).cpu()
    return MatchedAccounts(tuple(weights), for_few(error_by_ratings(models, ledgers)), mmd)


# Training that is watched.


@dataclass(frozen=True)
class LiveLinking:
    """A training as far as it has come: eight worlds, with nobody linked and with some.

    Attributes
    ----------
    step : int
    error : Tensor, (2, S, groups)
        RMSE with nobody linked and a weight of 1, and with the share and the weight of the controls.
    """

    step: int
    error: Tensor

    @property
    def gain(self) -> Tensor:
        """Return the gain of the users with few ratings, (S,)."""
        few = for_few(self.error)
        return few[0] - few[1]


def train_live(overlap: float, relatedness: float, weight: float, seed: int) -> Iterator[Running]:
    """Train with nobody linked and with some in eight new worlds, and report on the way."""
    seeds = tuple(range(2000 + 8 * seed, 2008 + 8 * seed))
    ledgers = open_ledgers(replace(ACCOUNTS, relatedness=relatedness), seeds)
    models = many_networks(ledgers, [{"source": 1.0, "overlap": 0.0}, {"source": weight, "overlap": overlap}])

    def snapshot() -> LiveLinking:
        return LiveLinking(models.history_steps[-1], error_by_ratings(models, ledgers))

    for moment in models.train(STEPS, every=20):
        yield Running(moment.step, moment.steps, snapshot)
    return snapshot()
