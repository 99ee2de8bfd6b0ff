"""The lesson's shops, its networks, and what is measured of them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recmtl_lessons.datasets import World, WorldSettings, make_world, place_within
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.models import MultiDomainAttentionNetwork
from recmtl_lessons.teaching import Running
from recmtl_lessons.training import ManyModels, auc, concurrently

DOMAINS = ("books", "films", "games", "music", "news")
ODD = "games"  # the shop whose relatedness is turned
STEPS = 250
SHORT = 150  # steps of the experiments that are compared with one another only, and show enough sooner
TASTES = 8  # what is known of an item, and the width of a taste
WIDTH = TASTES + 1  # of a profile
_VALID_ROWS = 1_000
_USERS = {"train": 0.6, "valid": 0.1, "test": 0.3}  # shares

# Adam's rate for each arm: the best of 0.003, 0.006, 0.01 and 0.02 on validation users of the design seeds
# (`best_rates` of `score_rates` does it again).
RATES = {"attention": 0.006, "uniform": 0.006, "closest": 0.006, "fixed": 0.01, "concatenation": 0.006}


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
        shop asked about, ``item`` (TASTES,), ``click`` (), and ``affinity`` (), its true logit.
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
    train, valid, test = (
        {f: torch.stack([part[name][f] for part in parts]) for f in parts[0][name]} for name in _USERS
    )
    return Shops(train, valid, test, torch.stack([world.relatedness for world in worlds]), tuple(worlds))


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
        "affinity": world.affinity[rows],
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
    turned = (world.click - 0.5)[known, None] * world.item_factors[world.domain, world.item][known]  # (N, TASTES)
    cells = world.settings.n_users * n_domains
    total = torch.zeros(cells, TASTES).index_add_(0, cell, turned)
    n = torch.bincount(cell, minlength=cells)
    return profile(total, n).view(-1, n_domains, WIDTH), n.view(-1, n_domains)


def profile(total: Tensor, n: Tensor) -> Tensor:
    """Return the sum of turned items, (..., TASTES), and the number of them, (...), as features (..., WIDTH)."""
    mean = 4.0 * total / n.clamp(min=1).unsqueeze(-1)  # standard deviation about 1
    return torch.cat([mean, ((n + 1.0).log() - math.log(9)).unsqueeze(-1)], dim=-1)


# The networks and the objective, right and wrong.


class FixedWeights(MultiDomainAttentionNetwork):
    """Keys from the tokens alone: one weight for each pair of shops, the same for all users."""

    def _project(self, query_domain, domain_features, mask) -> tuple[Tensor, ...]:
        token, query, keys, values, mask = super()._project(query_domain, domain_features, mask)
        return token, query, self.to_key(self.tokens).expand_as(keys), values, mask


def network(
    attention_dim: int = 8,
    shared_encoder: bool = True,
    kind: type[MultiDomainAttentionNetwork] = MultiDomainAttentionNetwork,
) -> MultiDomainAttentionNetwork:
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
    answer = model(rows["query"], by_domain(rows["features"]), mask, rows["item"], temperature)
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


ATTENTION = {"focus": 1.0, "alone": 0.0}
UNIFORM = {"focus": 0.0, "alone": 0.0}
CLOSEST = {"focus": 1.0, "alone": 1.0}  # sees the most related shop alone


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
def answers(models: ManyModels, rows: Mapping[str, Tensor], mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return logits (arms, S, n) and weights (arms, S, n, D) for rows, with a mask of their own or another one."""
    logits, weights = [], []
    for index, setting in enumerate(models.settings):
        s = index % models.n_seeds
        seen = (rows["closest"] if setting["alone"] else rows["mask"]) if mask is None else mask
        temperature = 1 / setting["focus"] if setting["focus"] else math.inf
        features = by_domain(rows["features"][s])
        answer = models.model(index)(rows["query"][s], features, seen[s], rows["item"][s], temperature)
        logits.append(answer["predictions"])
        weights.append(answer["attention_weights"])
    return models.by_setting(torch.stack(logits)), models.by_setting(torch.stack(weights))


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
    """Ways to use the other shops, on users that nothing was trained on; S seeds, D domains.

    Attributes
    ----------
    shops : Shops
    auc : dict {arm: Tensor (S,)}
        "attention"; "uniform", the same network with all weights equal; "closest", the same network given the most
        related shop alone, which the truth chooses for it; "fixed", the same network with one weight for each pair of
        shops; "concatenation". Two more are not trained: "truth" weighs the profiles by the true relatedness, and
        "exact" by the weights that attention has learned, and both know that taste meets item in a dot product.
    logits : dict {arm: Tensor (S, n)}
        The logits of "attention" and "uniform".
    weights : Tensor, (S, D, D)
        Mean weight that attention gives each shop (last dimension) for each shop asked about.
    networks : list of MultiDomainAttentionNetwork
        Those that attend, one per seed.
    row_weights : Tensor, (S, n, D)
    """

    shops: Shops
    auc: dict[str, Tensor]
    logits: dict[str, Tensor]
    weights: Tensor
    networks: list[MultiDomainAttentionNetwork]
    row_weights: Tensor


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
    scores = {
        "attention": auc(attention, test["click"]),
        "uniform": auc(uniform, test["click"]),
        "closest": auc(closest, test["click"]),
        "fixed": fixed,
        "concatenation": auc(_answers_of_concatenation(rival, test), test["click"]),
        "truth": auc(_exactly(best_weights(shops), test), test["click"]),
        "exact": auc(_exactly(weights, test), test["click"]),
    }
    networks = [models.model(index) for index in range(len(seeds))]
    logits = {"attention": attention, "uniform": uniform}
    return Comparison(shops, scores, logits, mean_weights(weights, test["query"]), networks, weights)


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


def score_rates(
    rates: Sequence[float] = (0.003, 0.006, 0.01, 0.02), town: Town = TOWN, seeds: tuple[int, ...] = DESIGN_SEEDS
) -> dict[str, dict[float, float]]:
    """Return the mean AUC on validation users, for each arm and rate; it is how `RATES` was chosen."""
    shops = open_shops(town, seeds)
    rows, found = shops.valid, {arm: {} for arm in RATES}
    for rate in rates:
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
    turned = (world.click - 0.5)[:, None] * world.item_factors[world.domain, world.item]  # (N, TASTES)
    taste = world.tastes[world.user, world.domain]
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


@dataclass(frozen=True)
class Gains:
    """Attention beside uniform averaging: AUC (S,) each, and the attention's weights and histories by row."""

    attention: Tensor
    uniform: Tensor
    row_weights: Tensor
    history: Tensor
    mask: Tensor

    def weight_at(self, length: int) -> Tensor:
        """Return the mean weight of shops in which the user has a history of this length, (S,)."""
        chosen = self.mask & (self.history == length)
        return (self.row_weights * chosen).sum((1, 2)) / chosen.sum((1, 2))


def gains(towns: Sequence[Town], seeds: tuple[int, ...] = SEEDS, label: str = "controls") -> list[Gains]:
    """Train attention and uniform averaging in several towns, all as one stack."""
    shops = side_by_side([open_shops(town, seeds) for town in towns])
    test = shops.test
    models = many_networks(shops, _names(len(towns), seeds), (ATTENTION, UNIFORM)).fit(STEPS, label=label)
    logits, (weights, _) = answers(models, test)
    attention, uniform = auc(logits[0], test["click"]), auc(logits[1], test["click"])
    parts = [slice(k * len(seeds), (k + 1) * len(seeds)) for k in range(len(towns))]
    return [Gains(attention[p], uniform[p], weights[p], test["history"][p], test["mask"][p]) for p in parts]


def _names(n_towns: int, seeds: Sequence[int]) -> list[int]:
    """Return seeds of networks, one for each town and seed: each its own start."""
    return [1000 * k + seed for k in range(n_towns) for seed in seeds]


LEVELS = (0.8, 0.0, -0.8)


@dataclass(frozen=True)
class Turning:
    """Weight and score of a shop while it turns around: L levels of relatedness, S seeds.

    ``weight`` (L, S) is the mean weight of the turned shop when another is asked about, ``auc`` (L, S) the score.
    ``row_weights`` (n, D) and ``values`` (n, D, V) are those of one network, the first of the last level, for the
    first test rows.
    """

    levels: tuple[float, ...]
    weight: Tensor
    auc: Tensor
    row_weights: Tensor
    values: Tensor

    def at(self, level: float) -> int:
        """Return the number of a level."""
        return self.levels.index(level)


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
    shape = (len(levels), len(seeds))
    on_odd = weights[..., DOMAINS.index(ODD)].mean(1)  # (L * S,)
    index = len(models) - len(seeds)
    values = _values(models.model(index), {f: rows[index, :1000] for f, rows in shops.test.items()})
    score = auc(logits, shops.test["click"])
    return Turning(tuple(levels), on_odd.view(shape), score.view(shape), weights[index, :1000], values)


@torch.no_grad()
def _values(model: MultiDomainAttentionNetwork, rows: Mapping[str, Tensor]) -> Tensor:
    """Return what a network makes of each history, (n, D, V)."""
    return model.project(rows["query"], by_domain(rows["features"]), rows["mask"])[2]


def side_by_side(many: Sequence[Shops]) -> Shops:
    """Return several towns as one, their seeds one after another, so that all train as one stack."""

    def joined(parts: list[dict]) -> dict:
        return {f: torch.cat([part[f] for part in parts]) for f in parts[0]}

    return Shops(
        joined([s.train for s in many]),
        joined([s.valid for s in many]),
        joined([s.test for s in many]),
        torch.cat([s.relatedness for s in many]),
        tuple(world for s in many for world in s.worlds),
    )


def trained_on_mixed_rows(seeds: tuple[int, ...] = SEEDS) -> Tensor:
    """Return the AUC, on rightly aligned rows, of networks trained on rows of different users: (S,)."""
    shops = open_shops(TOWN, seeds)
    wrong = many_networks(shops, seeds, training_objective=objective_with_rows_of_different_users)
    (logits,), _ = answers(wrong.fit(STEPS, label="rows of different users"), shops.test)
    return auc(logits, shops.test["click"])


# Is attention an explanation?


@dataclass(frozen=True)
class Removal:
    """Loss of AUC when one shop of each row is taken out: S seeds.

    Attributes
    ----------
    by_rank : Tensor, (D - 1, S)
        Losses without the most attended shop of each row, the second, and so on to the least.
    at_random : Tensor, (S,)
        Loss without any one of them.
    by_pair : Tensor, (S, D, D)
        For each shop asked about, the loss without each of the others, from all rows that ask about it.
    """

    by_rank: Tensor
    at_random: Tensor
    by_pair: Tensor


def remove_shops(result: Comparison) -> Removal:
    """Take shops out of the mask of the trained attention networks, and measure what is lost."""
    rows, weights = result.shops.test, result.row_weights
    full = result.logits["attention"]
    whole = auc(full, rows["click"])
    order = weights.masked_fill(~rows["mask"], -1.0).argsort(-1, descending=True)  # (S, n, D)

    def damage(which: Tensor) -> Tensor:
        mask = rows["mask"].scatter(2, which.unsqueeze(-1), False)
        return whole - auc(_attending(result, mask), rows["click"])

    dice = torch.rand(weights.shape, generator=torch.Generator().manual_seed(0))
    at_random = damage(dice.masked_fill(~rows["mask"], -1.0).argmax(-1))
    by_rank = torch.stack([damage(order[..., rank]) for rank in range(len(DOMAINS) - 1)])
    return Removal(by_rank, at_random, _damage_of_pairs(result, full))


@torch.no_grad()
def _attending(result: Comparison, mask: Tensor) -> Tensor:
    """Return the logits of the attention networks with another mask, (S, n)."""
    rows = result.shops.test
    return torch.stack(
        [
            network(rows["query"][s], by_domain(rows["features"][s]), mask[s], rows["item"][s])["predictions"]
            for s, network in enumerate(result.networks)
        ]
    )


def _damage_of_pairs(result: Comparison, full: Tensor) -> Tensor:
    rows, n = result.shops.test, len(DOMAINS)
    damage = torch.zeros(len(full), n, n)
    for out in range(n):
        mask = rows["mask"].clone()
        mask[..., out] = False
        without = _attending(result, mask)
        for s, query in enumerate(rows["query"]):
            for asked in range(n):
                here = query == asked
                if asked != out:
                    click = rows["click"][s, here]
                    damage[s, asked, out] = auc(full[s, here], click) - auc(without[s, here], click)
    return damage


@dataclass(frozen=True)
class TwinTown:
    """Weights, and losses of AUC, in a town with twins: S seeds. Keys are the shops taken out, " + " between two."""

    weight: dict[str, Tensor]
    damage: dict[str, Tensor]


def remove_twins(seeds: tuple[int, ...] = SEEDS) -> TwinTown:
    """Train in the town with twins, and take out each shop, and both twins."""
    shops = open_shops(TWINS, seeds)
    rows = shops.test
    models = many_networks(shops, seeds).fit(SHORT, label="twins")
    (logits,), (weights,) = answers(models, rows)
    whole = auc(logits, rows["click"])
    damage = {}
    for out in (("films",), ("games",), ("music",), ("news",), ("films", "games"), ("games", "music")):
        mask = rows["mask"].clone()
        mask[..., [DOMAINS.index(name) for name in out]] = False
        damage[" + ".join(out)] = whole - auc(answers(models, rows, mask)[0][0], rows["click"])
    return TwinTown({name: weights[..., d].mean(1) for d, name in enumerate(DOMAINS) if d}, damage)


# One setting, live.

LIVE_ROWS = 1200  # of the test rows, so that scores come fast


@dataclass(frozen=True)
class LiveTraining:
    """Eight networks of one setting while they train: S seeds, T moments so far, D domains.

    ``auc`` is (S, T); ``agreement``, (S,), is Spearman's, now; ``weights`` and ``relatedness`` are (S, D, D).
    """

    steps: tuple[int, ...]
    auc: Tensor
    agreement: Tensor
    weights: Tensor
    relatedness: Tensor


def train_live(temperature: float, attention_dim: int, seed: int) -> Iterator[Running]:
    """Train eight networks of one setting; ``seed`` k takes the k-th eight worlds and starts."""
    seeds = tuple(SEEDS[0] + 8 * seed + k for k in range(8))
    shops = open_shops(TOWN, seeds)
    rows = {name: field[:, :LIVE_ROWS] for name, field in shops.test.items()}
    arm = {"focus": 1 / temperature, "alone": 0.0}
    models = many_networks(shops, seeds, (arm,), build=lambda: network(attention_dim))
    latest: dict[str, Tensor] = {}

    def measure(models: ManyModels) -> dict[str, Tensor]:
        (logits,), (weights,) = answers(models, rows)
        latest["weights"] = mean_weights(weights, rows["query"])
        return {"auc": auc(logits, rows["click"])}

    def snapshot() -> LiveTraining:
        weights, steps = latest["weights"], tuple(models.history_steps)
        match = agreement(weights, shops.relatedness)
        scores = models.history["auc"]
        return LiveTraining(steps, scores, match, weights, shops.relatedness)

    for moment in models.train(STEPS, every=50, measure=measure):
        yield Running(moment.step, moment.steps, snapshot)
    return snapshot()
