"""The lesson's shops, its networks, and what is measured of them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recmtl_lessons.datasets import World, WorldSettings, make_world, place_within
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.models import MultiDomainAttentionNetwork
from recmtl_lessons.teaching import Running
from recmtl_lessons.teaching.texts import read_yaml
from recmtl_lessons.training import ManyModels, Scores, auc, concurrently

SETTINGS = read_yaml(Path(__file__).with_name("settings.yaml"))
DOMAINS, STEPS, SHORT, RATES, LEVELS = (SETTINGS[name] for name in ("domains", "steps", "short", "rates", "levels"))
ODD = "games"  # the shop whose relatedness is turned
TASTES = 8  # what is known of an item, and the width of a taste
WIDTH = TASTES + 1  # of a profile
_VALID_ROWS = 1_000
_USERS = {"train": 0.6, "valid": 0.1, "test": 0.3}  # shares


# The data: for each seed five shops of their own.


@dataclass(frozen=True)
class Town:
    """Shops with the same users: how the shops are related, and how much is known of each user.

    Attributes
    ----------
    kind : {"arc", "equal", "odd", "twins"}
        How relatedness is laid out. "arc": by places on an arc that each seed draws anew, near shops being related.
        "equal": ``level`` between any two. "odd": 0.6 between any two, but ``level`` between games and the others.
        "twins": books is related to films and to games, which are nearly the same, and less to music.
    level : float
        As ``kind`` says.
    histories : tuple of int
        A user's history in a shop is as long as one of these says, drawn for each user and shop.
    asked : tuple of str
        Shops in which clicks are predicted.
    n_users, train_rows, test_rows : int
    """

    kind: str = "arc"
    level: float = 0.6
    histories: tuple[int, ...] = (4, 8, 16, 32)
    asked: tuple[str, ...] = DOMAINS
    n_users: int = 500
    train_rows: int = 10_000
    test_rows: int = 6_000

    def relatedness(self, seed: int) -> Tensor:
        """Return the matrix of relatedness, (D, D), which on an arc is another one for each seed."""
        if self.kind == "arc":
            return _on_an_arc(seed).fill_diagonal_(1.0)
        matrix = torch.full((len(DOMAINS), len(DOMAINS)), self.level if self.kind == "equal" else 0.6)
        if self.kind == "odd":
            odd = DOMAINS.index(ODD)
            matrix[odd], matrix[:, odd] = self.level, self.level
        if self.kind == "twins":
            matrix.zero_()
            for one, other, value in ((0, 1, 0.8), (0, 2, 0.8), (1, 2, 0.99), (0, 3, 0.5)):
                matrix[one, other] = matrix[other, one] = value
        return matrix.fill_diagonal_(1.0)


TOWN = Town(n_users=700, train_rows=16_000)
ALL_ALIKE = replace(TOWN, kind="equal", histories=(16,))


def with_uneven_histories(town: Town) -> Town:
    """Return the same town with shops that are equally related, and histories that are very short or very long."""
    return replace(town, kind="equal", histories=(2, 8, 32))


UNEVEN_HISTORIES = with_uneven_histories(TOWN)
TWINS = Town("twins", histories=(40,), asked=("books",), train_rows=6_000, test_rows=3_000)


def odd_town(level: float) -> Town:
    """Return a town in which games is related to the other shops by ``level``, and is not asked about."""
    asked = tuple(name for name in DOMAINS if name != ODD)
    return Town("odd", level, histories=(16,), asked=asked, n_users=350, train_rows=7_000, test_rows=4_000)


def _on_an_arc(seed: int) -> Tensor:
    """Return cosines between places on an arc of 120 degrees, times 0.97: from about 0.95 down to -0.5."""
    generator = torch.Generator().manual_seed(7919 * (seed + 1))
    n = len(DOMAINS)
    wobble = (torch.rand(n, generator=generator) - 0.5) * 0.8 * 120 / n
    places = (torch.linspace(0, 120, n) + wobble)[torch.randperm(n, generator=generator)] * math.pi / 180
    return 0.97 * torch.cos(places[:, None] - places)


@dataclass(frozen=True)
class Shops:
    """One town per seed: S seeds, n rows per part, D domains. A row is a user, a shop asked about, and an item there.

    No user is in two of the parts. A profile is made of a user's first interactions in a shop; the rows are later ones.
    In the shop asked about the user counts as new: its column of the mask is False.

    Attributes
    ----------
    train, valid, test : dict {field: Tensor (S, n, ...)}
        Of the user: ``user`` () the number, ``features`` (D, WIDTH), ``history`` (D,) the lengths, ``mask`` (D,), and
        ``closest`` (D,), the mask that leaves only the most related shop. Of the row: ``query`` () the number of the
        shop asked about, ``item`` (TASTES,), ``click`` ().
    relatedness : Tensor, (S, D, D)
    worlds : tuple of World
    """

    train: dict[str, Tensor]
    valid: dict[str, Tensor]
    test: dict[str, Tensor]
    relatedness: Tensor
    worlds: tuple[World, ...]

    def stream(self) -> dict[str, dict[str, Tensor]]:
        """Return what training may see."""
        return {"rows": {f: self.train[f] for f in ("features", "mask", "closest", "query", "item", "click")}}


@lru_cache(maxsize=8)
def open_shops(town: Town = TOWN, seeds: tuple[int, ...] = SEEDS) -> Shops:
    """Draw one world per seed, and cut its users into those to train, to validate and to test on."""
    worlds = [_world(town, seed) for seed in seeds]
    parts = [_parts(town, world) for world in worlds]
    stacked = (over_seeds([part[name] for part in parts]) for name in _USERS)
    return Shops(*stacked, torch.stack([world.relatedness for world in worlds]), tuple(worlds))


def over_seeds(tables: Sequence[dict[str, Tensor]], put: Callable = torch.stack) -> dict[str, Tensor]:
    """Return tables with the same fields as one: one a seed, to be stacked, or already (S, ...), to be put in a row."""
    return {f: put([table[f] for table in tables]) for f in tables[0]}


def side_by_side(many: Sequence[Shops]) -> Shops:
    """Return several towns as one, their seeds one after another, so that all train as one stack."""
    parts = (over_seeds([getattr(shops, name) for shops in many], torch.cat) for name in _USERS)
    relatedness = torch.cat([shops.relatedness for shops in many])
    return Shops(*parts, relatedness, tuple(world for shops in many for world in shops.worlds))


def _world(town: Town, seed: int) -> World:
    matrix = tuple(tuple(row) for row in town.relatedness(seed).double().tolist())
    spare = 13 if len(town.asked) > 1 else 24  # interactions left to predict, on average
    settings = WorldSettings(
        domains=DOMAINS,
        n_users=town.n_users,
        interactions=town.n_users * (max(town.histories) + spare),
        taste_dim=TASTES,
        nuisance_dim=0,
        relatedness=matrix,
    )
    return make_world(settings, seed)


def _parts(town: Town, world: World) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(world.seed)
    limit = torch.tensor(town.histories)[
        torch.randint(len(town.histories), (town.n_users, len(DOMAINS)), generator=generator)
    ]
    place = place_in_history(world)
    known = place < limit[world.user, world.domain]
    features, history = profiles(world, known)
    asked = torch.tensor([name in town.asked for name in DOMAINS])
    later = (place >= max(town.histories)) & asked[world.domain]
    sizes = {"train": town.train_rows, "valid": _VALID_ROWS, "test": town.test_rows}
    users = torch.randperm(town.n_users, generator=generator)
    users = users.split([round(share * town.n_users) for share in _USERS.values()])
    parts = {}
    for name, some in zip(_USERS, users, strict=True):
        here = torch.zeros(town.n_users, dtype=torch.bool).index_fill_(0, some, True)
        rows = (later & here[world.user]).nonzero().squeeze(1)
        parts[name] = _fields(world, draw_rows(rows, sizes[name], generator), features, history)
    return parts


def draw_rows(rows: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Return some ``n`` of the row numbers, in random order; a ValueError if there are fewer."""
    if len(rows) < n:
        raise ValueError(f"rows: got {len(rows)}, expected at least {n}")
    return rows[torch.randperm(len(rows), generator=generator)[:n]]


def _fields(world: World, rows: Tensor, features: Tensor, history: Tensor) -> dict[str, Tensor]:
    user, query = world.user[rows], world.domain[rows]
    is_query = F.one_hot(query, len(DOMAINS)).bool()  # (n, D)
    closest = world.relatedness[query].masked_fill(is_query, -2.0).argmax(1)
    return {
        "user": user,
        "features": features[user],
        "history": history[user],
        "mask": (history[user] > 0) & ~is_query,
        "closest": F.one_hot(closest, len(DOMAINS)).bool(),
        "query": query,
        "item": world.item_factors[query, world.item[rows]],
        "click": world.click[rows],
    }


def place_in_history(world: World) -> Tensor:
    """Return how many interactions a row's user had in its shop before it, (N,)."""
    return place_within(world.user * len(world.settings.domains) + world.domain)


def profiles(world: World, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is known of each user in each shop, (n_users, D, WIDTH), and from how many interactions.

    It is the mean of the items a user met, each turned by whether it was clicked, which points where the taste points;
    and the logarithm of the history's length.
    """
    n_domains = len(world.settings.domains)
    cell = (world.user * n_domains + world.domain)[known]
    cells = world.settings.n_users * n_domains
    total = torch.zeros(cells, TASTES).index_add_(0, cell, turned_items(world)[known])
    n = torch.bincount(cell, minlength=cells)
    mean = 4.0 * total / n.clamp(min=1).unsqueeze(-1)  # standard deviation about 1
    features = torch.cat([mean, ((n + 1.0).log() - math.log(9)).unsqueeze(-1)], dim=-1)  # (cells, WIDTH)
    return features.view(-1, n_domains, WIDTH), n.view(-1, n_domains)


def turned_items(world: World) -> Tensor:
    """Return each row's item, turned around if it was not clicked, at half its length: (N, TASTES)."""
    return (world.click - 0.5)[:, None] * world.item_factors[world.domain, world.item]


# The networks and the objective, right and wrong.


class FixedWeights(MultiDomainAttentionNetwork):
    """Keys from the tokens alone: one weight for each pair of shops, the same for all users."""

    def _project(self, query_domain, domain_features, mask) -> tuple[Tensor, ...]:
        token, query, keys, values, mask = super()._project(query_domain, domain_features, mask)
        return token, query, self.to_key(self.tokens).expand_as(keys), values, mask


def network(attention_dim: int = 8, shared_encoder: bool = True, kind: type = MultiDomainAttentionNetwork):
    """Return the lesson's network: several shops, profiles of one kind, items with known features."""
    widths = dict.fromkeys(DOMAINS, WIDTH)
    return kind(widths, 16, attention_dim, (16,), item_dim=TASTES, shared_encoder=shared_encoder)


def by_domain(features: Tensor, domains: Sequence[str] = DOMAINS) -> dict[str, Tensor]:
    """Return features by the name of their domain: (batch, D, width) -> {domain: (batch, width)}."""
    return dict(zip(domains, features.unbind(1), strict=True))


def objective(model, batch, setting, progress):
    """Return the mean log loss of the clicks."""
    rows = batch["rows"]
    mask = torch.where(setting["alone"] > 0, rows["closest"], rows["mask"])
    temperature = 1 / setting["focus"]  # focus 0: an infinite temperature, which is uniform averaging
    features = by_domain(rows["features"] * (1 - setting["blind"]), model.domains)
    answer = model(rows["query"], features, mask, rows["item"], temperature)
    return F.binary_cross_entropy_with_logits(answer["predictions"], rows["click"]), {}


def objective_with_rows_of_different_users(model, batch, setting, progress):
    """Broken on purpose: each shop's table is in an order of its own, so row k is another user in each."""
    rows = dict(batch["rows"])
    histories = rows["features"].unbind(1)  # (batch, width) a shop
    tables = [table.roll(7 * (d + 1), dims=0) for d, table in enumerate(histories)]
    rows["features"] = torch.stack(tables, dim=1)
    return objective(model, {"rows": rows}, setting, progress)


class ConcatenationNetwork(nn.Module):
    """The plain rival: all profiles in one row, masked ones as zeros, and one linear map for each shop asked about.

    Its answer to the item is made as in the attention network, from the user, the shop, the item and their product.
    """

    def __init__(self, n_domains: int = len(DOMAINS), embedding_dim: int = 16, hidden_dim: int = 16):
        super().__init__()
        self.n_domains = n_domains
        self.to_user = nn.Linear(n_domains * WIDTH, n_domains * embedding_dim)
        self.tokens = nn.Parameter(torch.randn(n_domains, embedding_dim) / math.sqrt(embedding_dim))
        self.item_encoder = nn.Linear(TASTES, embedding_dim)
        self.head = nn.Sequential(nn.Linear(4 * embedding_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, 1))

    def forward(self, query: Tensor, features: Tensor, mask: Tensor, item: Tensor) -> Tensor:
        """Return logits, (batch,)."""
        flat = (features * mask.unsqueeze(-1)).flatten(1)  # (batch, D * WIDTH)
        is_query = (query.unsqueeze(1) == torch.arange(self.n_domains, device=query.device)).float()  # (batch, D)
        users = self.to_user(flat).unflatten(1, (self.n_domains, -1))  # (batch, D, embedding)
        user = (users * is_query.unsqueeze(-1)).sum(1)  # (batch, embedding)
        embedded = self.item_encoder(item)
        return self.head(torch.cat([user, is_query @ self.tokens, embedded, user * embedded], dim=1)).squeeze(1)


def objective_of_concatenation(model, batch, setting, progress):
    """Return the mean log loss of the clicks."""
    rows = batch["rows"]
    logits = model(rows["query"], rows["features"], rows["mask"], rows["item"])
    return F.binary_cross_entropy_with_logits(logits, rows["click"]), {}


ATTENTION = {"focus": 1.0, "alone": 0.0, "blind": 0.0}
UNIFORM = {**ATTENTION, "focus": 0.0}
CLOSEST = {**ATTENTION, "alone": 1.0}  # sees the most related shop alone


def many_networks(
    shops: Shops,
    seeds: Sequence[int],
    arms: Sequence[Mapping[str, float]] = (ATTENTION,),
    rate: float = RATES["attention"],
    build: Callable[[], nn.Module] = network,
    training_objective: Callable = objective,
) -> ManyModels:
    """Return a stack of this lesson's networks, one for each arm and seed."""
    return ManyModels(build, training_objective, shops.stream(), arms, seeds, learning_rate=rate)


# What is measured.


@torch.no_grad()
def ask(
    networks: Sequence[MultiDomainAttentionNetwork],
    rows: Mapping[str, Tensor],
    mask: Tensor,
    setting: Mapping[str, float] = ATTENTION,
) -> tuple[Tensor, Tensor]:
    """Return logits (S, n) and weights (S, n, D) of one network a seed, where they see what a mask (S, n, D) leaves."""
    temperature = 1 / setting["focus"] if setting["focus"] else math.inf
    found = []
    for s, one in enumerate(networks):
        features = by_domain(rows["features"][s] * (1 - setting["blind"]), one.domains)
        answer = one(rows["query"][s], features, mask[s], rows["item"][s], temperature)
        found.append((answer["predictions"], answer["attention_weights"]))
    logits, weights = (torch.stack(part) for part in zip(*found, strict=True))
    return logits, weights


def networks_of(models: ManyModels, arm: int = 0) -> list[nn.Module]:
    """Return one arm's networks, one a seed."""
    return [models.model(arm * models.n_seeds + s) for s in range(models.n_seeds)]


def answers(models: ManyModels, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return logits (arms, S, n) and weights (arms, S, n, D) for rows, each arm under its own mask."""
    found = []
    for arm, setting in enumerate(models.settings[:: models.n_seeds]):
        mask = rows["closest"] if setting["alone"] else rows["mask"]
        found.append(ask(networks_of(models, arm), rows, mask, setting))
    logits, weights = (torch.stack(part) for part in zip(*found, strict=True))
    return logits, weights


def mean_weights(weights: Tensor, query: Tensor) -> Tensor:
    """Average weights (S, n, D) over the rows that ask about each shop: (S, D asked, D); 0 where none asks."""
    asked = F.one_hot(query, weights.shape[-1]).float()  # (S, n, D)
    return torch.einsum("snq,snd->sqd", asked, weights) / asked.sum(1).clamp(min=1).unsqueeze(-1)


def agreement(one: Tensor, other: Tensor) -> Tensor:
    """Return Spearman's correlation of two (S, D, D) over all pairs of different shops, (S,)."""
    pairs = ~torch.eye(one.shape[-1], dtype=torch.bool)
    ranked = [torch.stack([_ranks(a[pairs]), _ranks(b[pairs])]) for a, b in zip(one, other, strict=True)]
    return torch.stack([torch.corrcoef(both)[0, 1] for both in ranked])


def _ranks(values: Tensor) -> Tensor:
    """Return the rank of each value, (n,), equal ones sharing their mean rank."""
    return (values[:, None] > values).sum(1) + 0.5 * (values[:, None] == values).sum(1)


@dataclass(frozen=True)
class Comparison:
    """Ways to use the other shops, on users that nothing was trained on; S seeds, n rows, D domains.

    Attributes
    ----------
    shops : Shops
    auc : Scores
        "attention"; "uniform", the same network with all weights equal; "closest", the same network given the most
        related shop alone, which the truth chooses for it; "fixed", the same network with one weight for each pair of
        shops; "concatenation". Two more are not trained: "truth" weighs the profiles by the true relatedness, and
        "exact" by the weights that attention has learned, and both know that taste meets item in a dot product.
    live_auc : Scores
        "attention" and "uniform" on the first rows, by which networks are scored live.
    networks : list of MultiDomainAttentionNetwork
        Those that attend, one per seed.
    row_weights : Tensor, (S, n, D)
        Theirs.
    """

    shops: Shops
    auc: Scores
    live_auc: Scores
    networks: list[MultiDomainAttentionNetwork]
    row_weights: Tensor

    @property
    def weights(self) -> Tensor:
        """Mean weight that attention gives each shop (last dimension) for each shop asked about, (S, D, D)."""
        return mean_weights(self.row_weights, self.shops.test["query"])


@lru_cache(maxsize=2)
def compare(town: Town = TOWN, seeds: tuple[int, ...] = SEEDS) -> Comparison:
    """Train every arm on the same rows for as many steps, each at its own best rate, and measure them."""
    shops = open_shops(town, seeds)
    test = shops.test
    models, rival, (fixed, _) = concurrently(
        lambda: many_networks(shops, seeds, (ATTENTION, UNIFORM, CLOSEST)).fit(STEPS, label="three arms"),
        lambda: concatenations(shops, seeds, RATES["concatenation"]).fit(STEPS, label="all in one row"),
        lambda: fixed_weights(town, seeds),
    )
    (attention, uniform, closest), (weights, *_) = answers(models, test)
    logits = {
        "attention": attention,
        "uniform": uniform,
        "closest": closest,
        "concatenation": _answers_of_concatenation(rival, test),
        "truth": _exactly(best_weights(shops), test),
        "exact": _exactly(weights, test),
    }
    score = {"fixed": fixed, **{arm: auc(each, test["click"]) for arm, each in logits.items()}}
    some = slice(LIVE_ROWS)
    live = {arm: auc(logits[arm][:, some], test["click"][:, some]) for arm in ("attention", "uniform")}
    return Comparison(
        shops, Scores.of("AUC of clicks, users new to the shop", score), Scores.of("AUC of clicks", live),
        networks_of(models), weights,
    )  # fmt: skip


@lru_cache(maxsize=2)
def fixed_weights(town: Town = TOWN, seeds: tuple[int, ...] = SEEDS) -> tuple[Tensor, Tensor]:
    """Return the AUC of one weight per pair of shops, (S,), in a town and in the one `with_uneven_histories`."""
    shops = side_by_side([open_shops(t, seeds) for t in (town, with_uneven_histories(town))])
    models = _many_fixed(shops, _names(2, seeds), RATES["fixed"]).fit(STEPS, label="one weight a pair")
    (logits,), _ = answers(models, shops.test)
    return auc(logits, shops.test["click"]).split(len(seeds))


def _many_fixed(shops: Shops, seeds: Sequence[int], rate: float) -> ManyModels:
    return many_networks(shops, seeds, (ATTENTION,), rate, lambda: network(kind=FixedWeights))


def _exactly(weights: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
    """Return dot products of weighted profiles and items, (S, n), for weights (S, n, D)."""
    taste = (weights.unsqueeze(-1) * rows["features"][..., :TASTES]).sum(2)  # (S, n, TASTES)
    return (taste * rows["item"]).sum(-1)


def concatenations(shops: Shops, seeds: Sequence[int], rate: float) -> ManyModels:
    """Return a stack of the rival networks."""
    return many_networks(shops, seeds, (ATTENTION,), rate, ConcatenationNetwork, objective_of_concatenation)


def _answers_of_concatenation(models: ManyModels, rows: Mapping[str, Tensor]) -> Tensor:
    fields = (rows[f] for f in ("query", "features", "mask", "item"))
    return models.each(lambda model, *row: model(*row), *fields).cpu()


def score_rates(town: Town = TOWN, seeds: tuple[int, ...] = DESIGN_SEEDS) -> dict[str, dict[float, float]]:
    """Return the mean AUC on validation users, for each arm and rate; it is how `RATES` was chosen."""
    shops = open_shops(town, seeds)
    rows, found = shops.valid, {arm: {} for arm in RATES}
    for rate in SETTINGS["rate_grid"]:
        models = many_networks(shops, seeds, (ATTENTION, UNIFORM, CLOSEST), rate).fit(STEPS, label=f"rate {rate:g}")
        fixed = _many_fixed(shops, seeds, rate).fit(STEPS, label="one weight a pair")
        rival = concatenations(shops, seeds, rate).fit(STEPS, label="all in one row")
        logits = (*answers(models, rows)[0], answers(fixed, rows)[0][0], _answers_of_concatenation(rival, rows))
        for arm, scores in zip(RATES, logits, strict=True):
            found[arm][rate] = float(auc(scores, rows["click"]).mean())
    return found


def best_rates(found: Mapping[str, Mapping[float, float]]) -> dict[str, float]:
    """Return the rate with the largest score for each arm, from what `score_rates` found."""
    return {arm: max(scores, key=scores.get) for arm, scores in found.items()}


# The reference: weights that know the relatedness and how taste meets item.


def best_weights(shops: Shops) -> Tensor:
    r"""Return for each test row the weights with which the profiles come nearest to the taste asked about, (S, n, D).

    A profile is taken for the taste plus noise, whose variance is :math:`\sigma^2 / n` after n interactions. With
    relatedness :math:`R`, the weighted sum of profiles that is nearest to the taste in the shop asked about has weights

    .. math:: \min_{\beta \ge 0} \; \beta^\top (R_{oo} + \operatorname{diag}(\sigma^2 / n)) \beta - 2 \beta^\top R_{oq},

    over the shops o that the mask leaves. They need not sum to 1. The number :math:`\sigma^2` is measured on
    the world's true tastes.
    """
    test = shops.test
    found = []
    for s, world in enumerate(shops.worlds):
        noise = _profile_noise(world)
        mask = test["mask"][s].float()  # (n, D)
        spread = torch.diag_embed(noise / test["history"][s].clamp(min=1))  # (n, D, D)
        among = (shops.relatedness[s] + spread) * mask[:, :, None] * mask[:, None, :]
        found.append(_nonnegative(among, shops.relatedness[s][test["query"][s]] * mask))
    return torch.stack(found)


def _profile_noise(world: World) -> float:
    """Return the variance of what one interaction adds to a profile beside the taste, in units of the taste."""
    turned, taste = turned_items(world), world.tastes[world.user, world.domain]
    slope = (turned * taste).sum() / taste.square().sum()
    return float((turned - slope * taste).square().mean() / slope**2)


def _nonnegative(among: Tensor, towards: Tensor, sweeps: int = 40) -> Tensor:
    """Minimise beta' A beta - 2 beta' r over beta >= 0, one coordinate after another: (n, D, D), (n, D) -> (n, D)."""
    beta = torch.zeros_like(towards)
    for _ in range(sweeps):
        for d in range(beta.shape[1]):
            own = among[:, d, d].clamp(min=1e-9)
            rest = (among[:, d] * beta).sum(1) - own * beta[:, d]
            beta[:, d] = ((towards[:, d] - rest) / own).clamp(min=0)
    return beta


# The negative control, the attention by content, and the shop that turns around.


def gains(towns: Sequence[Town], seeds: tuple[int, ...] = SEEDS) -> list[dict[str, Scores]]:
    """Train attention and uniform averaging in several towns, all as one stack.

    Returns
    -------
    list of dict {measure: Scores}, one a town
        ``auc`` of "attention" and "uniform"; ``weight`` that attention gives shops by the length of the user's history
        in them.
    """
    shops = side_by_side([open_shops(town, seeds) for town in towns])
    test = shops.test
    models = many_networks(shops, _names(len(towns), seeds), (ATTENTION, UNIFORM)).fit(STEPS, label="controls")
    logits, (weights, _) = answers(models, test)
    scores = Scores(
        "AUC of clicks", ("attention", "uniform"), torch.stack([auc(each, test["click"]) for each in logits])
    )
    found = []
    for k, town in enumerate(towns):
        part = slice(k * len(seeds), (k + 1) * len(seeds))
        chosen = {n: (test["mask"] & (test["history"] == n))[part] for n in town.histories}  # (S, n, D)
        by_length = {n: (weights[part] * here).sum((1, 2)) / here.sum((1, 2)) for n, here in chosen.items()}
        mine = replace(scores, values=scores.values[:, part])
        found.append({"auc": mine, "weight": Scores.of("mean weight", by_length)})
    return found


def _names(n_towns: int, seeds: Sequence[int]) -> list[int]:
    """Return seeds of networks, one for each town and seed: each its own start."""
    return [1000 * k + seed for k in range(n_towns) for seed in seeds]


@dataclass(frozen=True)
class Turning:
    """A shop while it turns around: how much it weighs when another is asked about, and how well users are served.

    Attributes
    ----------
    weight, auc : Scores
        Of the levels of relatedness.
    row_weights, values : Tensor, (n, D) and (n, D, V)
        Those of one network, the first of the last level, for the first test rows.
    """

    weight: Scores
    auc: Scores
    row_weights: Tensor
    values: Tensor


def turn_a_shop(
    levels: Sequence[float] = LEVELS,
    shared_encoder: bool = True,
    seeds: tuple[int, ...] = SEEDS,
    label: str = "turning",
) -> Turning:
    """Train one network for each level and seed, all as one stack."""
    shops = side_by_side([open_shops(odd_town(level), seeds) for level in levels])
    models = many_networks(shops, _names(len(levels), seeds), build=lambda: network(shared_encoder=shared_encoder))
    (logits,), (weights,) = answers(models.fit(SHORT, label=label), shops.test)
    index = len(models) - len(seeds)
    rows = {f: field[index, :1000] for f, field in shops.test.items()}
    with torch.no_grad():
        values = models.model(index).project(rows["query"], by_domain(rows["features"]), rows["mask"])[2]

    def by_level(measure: str, found: Tensor) -> Scores:
        return Scores(measure, tuple(levels), found.view(len(levels), len(seeds)))

    weight = by_level("mean weight", weights[..., DOMAINS.index(ODD)].mean(1))
    return Turning(weight, by_level("AUC", auc(logits, shops.test["click"])), weights[index, :1000], values)


def trained_on_mixed_rows(seeds: tuple[int, ...] = SEEDS) -> Tensor:
    """Return the AUC, on rightly aligned rows, of networks trained on rows of different users: (S,)."""
    shops = open_shops(TOWN, seeds)
    wrong = many_networks(shops, seeds, training_objective=objective_with_rows_of_different_users)
    (logits,), _ = answers(wrong.fit(STEPS, label="rows of different users"), shops.test)
    return auc(logits, shops.test["click"])


# Is attention an explanation?


def remove_shops(result: Comparison) -> tuple[Scores, Tensor]:
    """Take shops out of the mask of the trained attention networks, and measure what is lost.

    Returns
    -------
    lost : Scores
        AUC lost without the most attended shop of each row, 1, the second, 2, and so on to the least; and without
        "any" one of them, at random.
    by_pair : Tensor, (S, D, D)
        For each shop asked about, the loss without each of the others, from all rows that ask about it.
    """
    rows, weights = result.shops.test, result.row_weights
    order = weights.masked_fill(~rows["mask"], -1.0).argsort(-1, descending=True)  # (S, n, D)
    dice = torch.rand(weights.shape, generator=torch.Generator().manual_seed(0))

    def lost(which: Tensor) -> Tensor:
        mask = rows["mask"].scatter(2, which.unsqueeze(-1), False)
        return result.auc["attention"] - auc(ask(result.networks, rows, mask)[0], rows["click"])

    by_arm = {rank + 1: lost(order[..., rank]) for rank in range(len(DOMAINS) - 1)}
    by_arm["any"] = lost(dice.masked_fill(~rows["mask"], -1.0).argmax(-1))
    return Scores.of("AUC lost", by_arm), lost_by_pair(result.networks, rows, rows["mask"])


def lost_by_pair(networks: Sequence[MultiDomainAttentionNetwork], rows: Mapping[str, Tensor], mask: Tensor) -> Tensor:
    """Return the AUC lost without each domain, among the rows that ask about each other one: (S, D asked, D out)."""
    n = mask.shape[-1]
    full, _ = ask(networks, rows, mask)
    lost = torch.zeros(len(full), n, n)
    for out in range(n):
        without, _ = ask(networks, rows, mask & (torch.arange(n) != out))
        for s, query in enumerate(rows["query"]):
            for asked in range(n):
                here = query == asked
                if asked != out:
                    click = rows["click"][s, here]
                    lost[s, asked, out] = auc(full[s, here], click) - auc(without[s, here], click)
    return lost


def remove_twins(seeds: tuple[int, ...] = SEEDS) -> dict[str, Scores]:
    """Train in the town with twins, and take out each shop, and both twins.

    Returns
    -------
    dict {measure: Scores}
        ``weight`` of each shop but books, and ``lost``, the AUC lost, by the shops taken out, " + " between two.
    """
    shops = open_shops(TWINS, seeds)
    rows, networks = shops.test, networks_of(many_networks(shops, seeds).fit(SHORT, label="twins"))
    logits, weights = ask(networks, rows, rows["mask"])
    whole = auc(logits, rows["click"])
    lost = {}
    for out in (("films",), ("games",), ("music",), ("news",), ("films", "games"), ("games", "music")):
        mask = rows["mask"].clone()
        mask[..., [DOMAINS.index(name) for name in out]] = False
        lost[" + ".join(out)] = whole - auc(ask(networks, rows, mask)[0], rows["click"])
    weight = {name: weights[..., d].mean(1) for d, name in enumerate(DOMAINS) if d}
    return {"weight": Scores.of("weight", weight), "lost": Scores.of("AUC lost", lost)}


# One setting, live.

LIVE_ROWS = 1200  # of the test rows, so that scores come fast


@dataclass(frozen=True)
class LiveTraining:
    """Eight networks of one setting while they train: S seeds, D domains.

    ``curve`` is their AUC so far, that of "yours"; ``weights``, now, and ``relatedness`` are (S, D, D).
    """

    curve: Scores
    weights: Tensor
    relatedness: Tensor


def train_live(temperature: float, attention_dim: int, seed: int) -> Iterator[Running]:
    """Train eight networks of one setting; ``seed`` k takes the k-th eight worlds and starts."""
    seeds = tuple(SEEDS[0] + 8 * seed + k for k in range(8))
    shops = open_shops(TOWN, seeds)
    rows = {name: field[:, :LIVE_ROWS] for name, field in shops.test.items()}
    arm = {**ATTENTION, "focus": 1 / temperature}
    models = many_networks(shops, seeds, (arm,), build=lambda: network(attention_dim))
    latest: dict[str, Tensor] = {}

    def measure(models: ManyModels) -> dict[str, Tensor]:
        (logits,), (weights,) = answers(models, rows)
        latest["weights"] = mean_weights(weights, rows["query"])
        return {"auc": auc(logits, rows["click"])}

    def snapshot() -> LiveTraining:
        curve = Scores.of("AUC of clicks", {"yours": models.history["auc"]}, models.history_steps)
        return LiveTraining(curve, latest["weights"], shops.relatedness)

    for moment in models.train(STEPS, every=50, measure=measure):
        yield Running(moment.step, moment.steps, snapshot)
    return snapshot()
