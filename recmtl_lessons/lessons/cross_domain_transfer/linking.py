"""Second half of the lesson: two shops whose customers may be the same people, one of them with few ratings.

A model knows users and items by their numbers alone. What it may carry over is what it learned of a person; whether two
accounts belong to one person is what `shared_users` says.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from recmtl_lessons.datasets import WorldSettings, make_world, place_within
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.lessons.cross_domain_transfer.matching import SETTINGS
from recmtl_lessons.models import CrossDomainTransferNetwork, squared_mmd
from recmtl_lessons.teaching import Running
from recmtl_lessons.training import ManyModels, Scores

ACCOUNTS = WorldSettings(
    domains=("books", "films"), n_users=300, n_items=60, taste_dim=4, nuisance_dim=0,
    interactions=12_000, sparsity=0.25, relatedness=0.9,
)  # fmt: skip
RATINGS_A_USER = (2, 4, 8, 16)  # a quarter of the users has this many ratings of films to learn from
STEPS, PENALTY, RELATEDNESS, OVERLAPS = (
    SETTINGS["linking"][name] for name in ("steps", "penalty", "relatedness", "overlaps")
)
ALONE = {"source": 0.0, "overlap": 0.0}
LINKED = {"source": 1.0, "overlap": 1.0}
GENTLY = {"source": 0.1, "overlap": 1.0}
#: RMSE of some arms by the number of ratings that a user had to learn from, and of the "few" with two or four.
Errors = dict[int | str, Scores]

# The data: for each seed a world of its own.


@dataclass(frozen=True)
class Ledgers:
    """Ratings of two domains as three columns, one world or one split per seed; each tensor is (S, n).

    Attributes
    ----------
    source : dict {"user", "item", "rating": Tensor}
        All ratings of the first domain. Ratings are centred: those of a world at 3.
    train, test : dict
        Ratings of the second: the first few of each user, by time, and those after the sixteenth. No pair of user and
        item is in both.
    valid : dict or None
        Ratings of the second to stop by, where there are any.
    sizes : (int, int, int)
        Numbers of users, of items of the first domain and of items of the second.
    """

    source: dict[str, Tensor]
    train: dict[str, Tensor]
    test: dict[str, Tensor]
    sizes: tuple[int, int, int]
    valid: dict[str, Tensor] | None = None

    @property
    def streams(self) -> dict[str, dict[str, Tensor]]:
        """Return what training sees."""
        return {"source": self.source, "target": self.train}


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


def build(sizes: tuple[int, int, int]) -> Callable[[], CrossDomainTransferNetwork]:
    """Make the lesson's network: each user of the source may come to the target as the same person or as a stranger.

    The target knows twice as many users as the source. Numbers below ``n_users`` are linked to the source's, the others
    are accounts of their own.
    """
    n_users, source_items, target_items = sizes
    everybody = torch.arange(n_users)
    return lambda: CrossDomainTransferNetwork(
        {"source": (n_users, source_items)},
        {"target": (2 * n_users, target_items)},
        embedding_dim=8,
        hidden_dims=(16,),
        shared_dims=(10,),
        shared_users={("source", "target"): torch.stack([everybody, everybody], dim=1)},
    )


def account(user: Tensor, overlap: float | Tensor, n_users: int) -> Tensor:
    """Return the number under which the target knows each user: linked for some of them, a stranger's for the rest.

    The linked users are the same for all models, and a larger overlap links those of a smaller one and more.
    """
    scattered = (user * 7919) % n_users  # a fixed order of the users; 7919 is prime
    return torch.where(scattered < overlap * n_users, user, user + n_users)


def one_table_embed(model, domain: str, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
    """Broken on purpose: item 5 is looked up in the users' table, and finds user 5."""
    n_items = model.vocab_sizes[domain][1]
    return model.embed(domain, user, item)[0], model.user_embeddings(item + (n_items if domain == "target" else 0))


def objective_with(
    n_users: int, embed: Callable = CrossDomainTransferNetwork.embed, domains: tuple[str, str] = ("source", "target")
) -> Callable:
    """Return the objective: squared error of both shops, a penalty on the embeddings, an MMD of what is shared.

    A setting has ``source``, the weight of the source's ratings; ``overlap``, the share of users whose accounts are
    linked; and may have ``mmd``, the weight of the alignment, and ``penalty``. The source's rows and the target's are
    taken for rows of ``domains``.
    """

    def objective(model, batch, setting, progress):
        loss, logs, shared = 0.0, {}, {}
        weights = (setting["source"], 1.0)
        for stream, domain, weight in zip(("source", "target"), domains, weights, strict=True):
            rows = batch[stream]
            user = rows["user"] if stream == "source" else account(rows["user"], setting["overlap"], n_users)
            embedded = embed(model, domain, user, rows["item"])
            shared[stream] = model.encode_embeddings(domain, *embedded)  # (batch, shared)
            error = (model.read(domain, shared[stream]) - rows["rating"]).square().mean()
            size = sum(part.square().sum(1).mean() for part in embedded)
            loss = loss + weight * (error + setting.get("penalty", PENALTY) * size)
            logs[stream] = error
        if "mmd" in setting:
            distance = model.compute_domain_alignment_loss(shared["source"][:48], shared["target"][:48])
            loss, logs = loss + setting["mmd"] * distance, {**logs, "mmd": distance}
        return loss, logs

    return objective


def many_networks(
    ledgers: Ledgers, settings, objective: Callable | None = None, batch_size: int = 192, rate: float = 5e-2
) -> ManyModels:
    """Return a stack of the lesson's networks, one for each setting and seed."""
    return ManyModels(
        build(ledgers.sizes),
        objective or objective_with(ledgers.sizes[0]),
        ledgers.streams,
        settings,
        range(len(ledgers.train["rating"])),
        batch_size=batch_size,
        # The towers learn slowly: they correct the product of the embeddings, and are where few ratings are overfitted.
        learning_rate={"": rate, "towers": 1e-3, "shared_layers": 1e-3},
    )


def predictions(
    models: ManyModels, table: dict[str, Tensor], n_users: int, embed: Callable = CrossDomainTransferNetwork.embed
) -> Tensor:
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


def error_by_ratings(
    models: ManyModels, ledgers: Ledgers, arms: Sequence[Hashable], embed: Callable = CrossDomainTransferNetwork.embed
) -> Errors:
    """Return the RMSE of each arm on held-out ratings, as `by_ratings` does."""
    answers = models.by_setting(predictions(models, ledgers.test, ledgers.sizes[0], embed))
    return by_ratings(arms, answers - ledgers.test["rating"], ledgers.test["user"])


def by_ratings(arms: Sequence[Hashable], wrong_by: Tensor, user: Tensor) -> Errors:
    """Return the RMSE of arms whose answers are wrong by so much, (arms, S, n), to these users, (S, n)."""
    few = few_of(user)
    found = {n: ((wrong_by**2 * (few == n)).sum(-1) / (few == n).sum(-1)).sqrt() for n in RATINGS_A_USER}
    found["few"] = torch.stack([found[2], found[4]], dim=-1).square().mean(-1).sqrt()
    return {name: Scores("RMSE", tuple(arms), values) for name, values in found.items()}


# The experiments.


def linked_in_one_table(seeds: tuple[int, ...] = SEEDS) -> Errors:
    """Return the errors with all accounts linked, but users and items in one table: those of arm "one table"."""
    ledgers = open_ledgers(replace(ACCOUNTS, relatedness=max(RELATEDNESS)), seeds)
    objective = objective_with(ledgers.sizes[0], one_table_embed)
    models = many_networks(ledgers, [LINKED], objective).fit(STEPS, label="one table")
    return error_by_ratings(models, ledgers, ("one table",), one_table_embed)


def grid_of_gains(
    relatedness: Sequence[float] = RELATEDNESS, overlaps: Sequence[float] = OVERLAPS, seeds: tuple[int, ...] = SEEDS
) -> dict[float, Errors]:
    """Train with every overlap in worlds of every relatedness, as one stack: errors of arms named by their overlap."""
    arms = {overlap: {"source": 1.0, "overlap": overlap} for overlap in overlaps}
    return in_worlds(arms, relatedness, seeds, "relatedness and overlap")


def in_worlds(
    arms: Mapping[Hashable, dict[str, float]], relatedness: Sequence[float], seeds: tuple[int, ...] = SEEDS,
    label: str = "training", steps: int | None = None,
) -> dict[float, Errors]:  # fmt: skip
    """Return each arm's errors in worlds of each relatedness, trained as one stack."""
    ledgers = side_by_side([open_ledgers(replace(ACCOUNTS, relatedness=r), seeds) for r in relatedness])
    models = many_networks(ledgers, list(arms.values())).fit(steps or STEPS, label=label)
    errors = error_by_ratings(models, ledgers, tuple(arms))
    parts = {r: slice(k * len(seeds), (k + 1) * len(seeds)) for k, r in enumerate(relatedness)}
    return {
        r: {name: replace(scores, values=scores.values[:, part]) for name, scores in errors.items()}
        for r, part in parts.items()
    }


def score_penalties(relatedness: float = 0.9, steps: int | None = None) -> dict[str, dict[float, float]]:
    """Return the mean RMSE of people with few ratings, for each way and penalty, in worlds that no claim is about.

    It is how `PENALTY` was chosen: one number for all ways, near the best of each.
    """
    ways = {"alone": ALONE, "nobody linked": {"source": 1.0, "overlap": 0.0}, "all linked": LINKED}
    grid = SETTINGS["linking"]["penalty_grid"]
    arms = {(name, penalty): {**way, "penalty": penalty} for name, way in ways.items() for penalty in grid}
    scores = in_worlds(arms, (relatedness,), DESIGN_SEEDS, "penalties", steps)[relatedness]["few"]
    return {name: {penalty: float(scores[name, penalty].mean()) for penalty in grid} for name in ways}


def constant_error(relatedness: float, seeds: tuple[int, ...] = SEEDS) -> Errors:
    """Return the errors of always answering the mean rating of films: those of arm "constant"."""
    ledgers = open_ledgers(replace(ACCOUNTS, relatedness=relatedness), seeds)
    wrong_by = ledgers.train["rating"].mean(1, keepdim=True) - ledgers.test["rating"]  # (S, n)
    return by_ratings(("constant",), wrong_by[None], ledgers.test["user"])


def side_by_side(many: Sequence[Ledgers]) -> Ledgers:
    """Return several kinds of ledgers as one, along the seeds, cut to the rows that all have."""

    def together(tables: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        rows = min(table["user"].shape[1] for table in tables)
        return {name: torch.cat([table[name][:, :rows] for table in tables]) for name in tables[0]}

    parts = (together([getattr(ledgers, part) for ledgers in many]) for part in ("source", "train", "test"))
    return Ledgers(*parts, many[0].sizes)


def match_accounts(weights: Sequence[float] = (0.0, 1.0, 10.0), seeds: tuple[int, ...] = SEEDS) -> dict[str, Scores]:
    """Add the alignment of the first half to the networks of the second, with no account linked.

    Returns
    -------
    dict {measure: Scores of the weights}
        ``error``, the RMSE of users with few ratings, and ``mmd``, the squared MMD between the representations of
        held-out films and of books.
    """
    ledgers = open_ledgers(ACCOUNTS, seeds)
    settings = {"source": (1.0,), "overlap": (0.0,), "mmd": weights}
    models = many_networks(ledgers, settings).fit(STEPS, label="matching accounts")
    rows, n_users = 200, ledgers.sizes[0]

    def distance(model, source_user, source_item, user, item):
        books = model.encode_domain("source", source_user, source_item)
        return squared_mmd(books, model.encode_domain("target", user + n_users, item))

    columns = [ledgers.source["user"], ledgers.source["item"], ledgers.test["user"], ledgers.test["item"]]
    mmd = models.by_setting(models.each(distance, *(column[:, :rows] for column in columns)))
    return {"error": error_by_ratings(models, ledgers, weights)["few"], "mmd": Scores("MMD²", tuple(weights), mmd)}


# Training that is watched.


@dataclass(frozen=True)
class LiveLinking:
    """A training as far as it has come: the errors in eight worlds with "nobody linked" and as "yours", at a step."""

    step: int
    errors: Errors


def train_live(overlap: float, relatedness: float, weight: float, seed: int) -> Iterator[Running]:
    """Train with nobody linked and with some in eight new worlds, and report on the way."""
    seeds = tuple(range(2000 + 8 * seed, 2008 + 8 * seed))
    ledgers = open_ledgers(replace(ACCOUNTS, relatedness=relatedness), seeds)
    models = many_networks(ledgers, [{"source": 1.0, "overlap": 0.0}, {"source": weight, "overlap": overlap}])

    def snapshot() -> LiveLinking:
        return LiveLinking(models.history_steps[-1], error_by_ratings(models, ledgers, ("nobody linked", "yours")))

    for moment in models.train(STEPS, every=20):
        yield Running(moment.step, moment.steps, snapshot)
    return snapshot()
