"""The lesson's arms and controls, and what is measured of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.datasets.arrivals import (
    CLUES,
    PAIRS,
    Arrivals,
    clues_in_turn,
    genres_in_turn,
    pairs_in_turn,
    stacked,
)
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.models.continual import ContinualRecommender, fisher_diagonal
from recmtl_lessons.teaching import Running
from recmtl_lessons.teaching.texts import read_yaml
from recmtl_lessons.training import ManyModels, Scores, auc, draw_batches, mae, transfer_matrix
from recmtl_lessons.training.continual import (
    JOINT,
    NAIVE,
    Course,
    Learner,
    Method,
    all_ones,
    factorization,
    fisher_of,
    flat,
    in_turn,
    learn_in_turn,
    network,
    new_rows,
    random_pairs,
    shuffled,
)

SETTINGS = read_yaml(Path(__file__).with_name("settings.yaml"))
STRENGTHS, CHOSEN, RELATEDNESS, EVERY = (SETTINGS[n] for n in ("strengths", "chosen", "relatedness", "every"))
ONE_HEAD, ON_TABLE, FEW_ROWS, SLOWER, PLAIN = (
    SETTINGS[name] for name in ("one_head", "on_table", "few_rows", "slower", "plain_descent")
)
STRENGTH, STEPS, LEARNING_RATE = CHOSEN["exact"], SETTINGS["network"]["steps"], SETTINGS["network"]["learning_rate"]
DOMAINS = CLUES.domains
FISHER_ROWS = 200
KINDS = ("exact", "sampled", "empirical", "batched", "shuffled", "flat")


def open_clues(shift: float = CLUES.shift, seeds: tuple[int, ...] = SEEDS) -> Arrivals:
    """Return the shops of the network on features; with ``shift`` 0 the banner means the same in all of them."""
    return clues_in_turn(replace(CLUES, shift=shift), tuple(seeds))


def open_pairs(relatedness: float = PAIRS.relatedness, seeds: tuple[int, ...] = SEEDS) -> Arrivals:
    """Return the shops of the tables of users and items, whose tastes are related so much."""
    return pairs_in_turn(replace(PAIRS, relatedness=relatedness), tuple(seeds))


def on_features(arrivals: Arrivals, heads: str = "per_domain") -> Learner:
    """Return the network on features, with a head for each domain or one for all."""
    return network(arrivals, heads=heads, **SETTINGS["network"])


def on_table(arrivals: Arrivals, users: str = "shared") -> Learner:
    """Return the tables of users and items, with a vector for each user, or one for each user and domain."""
    return factorization(arrivals, users, **SETTINGS["table"])


def measured(course: Course, arms: Sequence[object], n_seeds: int = len(SEEDS)) -> dict[str, Scores]:
    """Return what a course came to, arm by arm.

    Returns
    -------
    dict {measure: Scores}
        ``average`` AUC over the domains at the end, ``backward`` transfer, ``forgetting``; ``learned``, the first
        domain's AUC when it had been learned; each domain's AUC at the end by its place, 0 for the first; and ``over
        training`` and ``last over training``, that of the first and of the last.
    """
    found = transfer_matrix(course.matrix[:, 1:], course.matrix[:, 0])

    def scores(measure: str, values: Tensor, steps: Sequence[int] = ()) -> Scores:
        return Scores(measure, tuple(arms), values.view(len(arms), n_seeds, *values.shape[1:]), steps)

    return {
        "average": scores("mean AUC at the end", found.average),
        "backward": scores("backward transfer", found.backward_transfer),
        "forgetting": scores("forgetting", found.forgetting),
        "learned": scores("AUC when learned", course.matrix[:, 1, 0]),
        **{place: scores("AUC at the end", course.matrix[:, -1, place]) for place in range(course.matrix.shape[2])},
        "over training": scores("AUC of the first domain", course.curves[:, 0], course.steps),
        "last over training": scores("AUC of the last domain", course.curves[:, -1], course.steps),
    }


def method_of(kind: str, learner: Learner) -> Method:
    """Return elastic weight consolidation with one way of saying how much each weight matters."""
    changed = {"shuffled": shuffled, "flat": flat}.get(kind, lambda fisher: fisher)
    return Method(fisher=changed(fisher_of(learner, "exact" if kind in ("shuffled", "flat") else kind, FISHER_ROWS)))


# The network on features, a head for each domain.


def sweep(
    kind: str = "exact", strengths: Sequence[float] = (0.0, *STRENGTHS[1:]), arrivals: Arrivals | None = None, by="test"
) -> dict[str, Scores]:
    """Learn the three shops in turn, with every strength: the scores of the strengths, as `measured` returns them."""
    own = arrivals or open_clues()
    learner, seeds = on_features(own), SEEDS if arrivals is None else tuple(range(own.n_seeds))
    every = EVERY if kind == "exact" and by == "test" else None
    course = learn_in_turn(
        learner, own, {"ewc": strengths}, seeds, method_of(kind, learner), every=every, by=by, label=kind
    )
    found = measured(course, strengths, own.n_seeds)
    if kind == "exact" and arrivals is None and {0.0, STRENGTH} <= set(strengths):
        _LAST.update(found)
    return found


_LAST: dict[str, Scores] = {}  # what the claims' own sweep came to


def course_band() -> dict[str, Scores]:
    """Return what came of the course's networks without and with the penalty: the last sweep, or a small one."""
    return _LAST or sweep(strengths=(0.0, STRENGTH))


def strength_of(kind: str) -> float:
    """Choose a strength again, on worlds and rows that no claim is about."""
    scores = sweep(kind, STRENGTHS, open_clues(seeds=DESIGN_SEEDS), by="valid")["average"]
    return STRENGTHS[int(scores.values.mean(1).argmax())]


def importances(swept: Mapping[str, dict[str, Scores]]) -> Scores:
    """Return the mean AUC at the end of each way of saying how much a weight matters, each with its own strength.

    Also of exact importances with the strength of batched ones. What was swept is taken from there.
    """
    found = {"naive": swept["exact"]["average"][0.0]}
    rest = [kind for kind in KINDS if kind not in swept]
    arrivals = open_clues()
    learner = on_features(arrivals)
    methods = [method_of(kind, learner).fisher for kind in rest]

    def each_its_own(models: ManyModels, domain: str, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        of_kinds = [method(models, domain, fields) for method in methods]
        which = models.setting("kind").long()  # (M,)
        own = torch.arange(len(which), device=which.device)
        return {name: torch.stack([part[name] for part in of_kinds])[which, own] for name in of_kinds[0]}

    settings = [{"kind": float(k), "ewc": CHOSEN[kind]} for k, kind in enumerate(rest)]
    course = learn_in_turn(learner, arrivals, settings, SEEDS, Method(fisher=each_its_own), label=", ".join(rest))
    others = measured(course, rest)["average"]
    for kind in KINDS:
        found[kind] = others[kind] if kind in rest else swept[kind]["average"][CHOSEN[kind]]
    return Scores.of("mean AUC at the end", {**found, "carried over": swept["exact"]["average"][CHOSEN["batched"]]})


def learning_slower(
    heads: str = "per_domain", factor: float | None = None, arrivals: Arrivals | None = None, by: str = "test"
) -> dict[str, Scores]:
    """Learn with nothing held, and an encoder that learns more slowly after the first domain."""
    own, seeds = arrivals or open_clues(), SEEDS if arrivals is None else DESIGN_SEEDS
    method = Method(slower=SLOWER[heads] if factor is None else factor)
    course = learn_in_turn(on_features(own, heads), own, {"ewc": (0.0,)}, seeds, method, by=by, label="more slowly")
    return measured(course, ("slower",), own.n_seeds)


def best_slower(heads: str) -> float:
    """Choose the factor of `learning_slower` again, on worlds and rows that no claim is about."""
    own = open_clues(seeds=DESIGN_SEEDS)
    found = {f: learning_slower(heads, f, own, "valid")["average"].values.mean() for f in SLOWER["grid"]}
    return max(found, key=found.get)


def sizes_of_batched(sizes: Sequence[int] = (4, 20, 50, 200)) -> dict[int, float]:
    """Return the sum of the squared gradients of batches of so many rows, as a share of that of single rows."""
    arrivals, model = open_clues().one(0), trained_on_books()
    fields = {name: values[:FISHER_ROWS] for name, values in arrivals.train[DOMAINS[0]].items()}

    def total(kind: str, size: int = 1) -> float:
        answer, inputs = (lambda model, x: model(x, DOMAINS[0])), [fields["x"]]
        found = fisher_diagonal(model, answer, inputs, fields["click"], kind, batch_size=size)
        return float(sum(value.sum() for value in found.values()))

    single = total("empirical")
    return {size: total("batched", size) / single for size in sizes}


@lru_cache(maxsize=1)
def trained_on_books() -> nn.Module:
    """Return one network that has learned the first shop, of the first seed."""
    model = make_network(SEEDS[0])
    for _ in learn_domain(model, DOMAINS[0], open_clues().one(0), SEEDS[0], lambda model: 0.0):
        pass
    return model


# One network at a time, in a loop of one's own.


def make_network(seed: int) -> ContinualRecommender:
    """Return the network of a seed, as the stack makes it, with all its heads."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return on_features(open_clues()).build()


def learn_domain(model: nn.Module, domain: str, shop: Arrivals, seed: int, penalty: Callable) -> Iterator[int]:
    """Learn one domain in a plain loop, on the stack's batches; yield the number of each step when it is done."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for step, batch in enumerate(draw_batches({domain: shop.train[domain]}, seed, STEPS), start=1):
        rows = batch[domain]
        loss = F.binary_cross_entropy_with_logits(model(rows["x"], domain).squeeze(1), rows["click"])
        loss = loss + penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield step


@torch.no_grad()
def auc_of(model: nn.Module, shop: Arrivals, domain: str = DOMAINS[0]) -> float:
    """Return the AUC of one network's clicks in one domain, of the shops of one seed."""
    fields = shop.test[domain]
    return float(auc(model(fields["x"], domain).reshape(-1), fields["click"]))


def train_with(answer: Callable) -> Iterator[Running]:
    """Train four networks, one after another, with an answer to the exercise for the penalty, at the chosen strength.

    Starts, batches, optimizer and importances are those of the sweep, so that a right answer gives its networks.
    """
    curves: list[list[list[float]]] = []
    whole = len(DOMAINS) * STEPS

    def snapshot() -> Scores | None:
        done = [curve for curve in curves if len(curve) == whole // EVERY] or [curves[0]]
        return own_scores(done) if done[0] else None

    for number, seed in enumerate(SEEDS[:4]):
        shop, model, memories = open_clues().one(number), make_network(seed), []
        curves.append([])

        def penalty(model: nn.Module, memories: list = memories) -> Tensor | float:
            weights = dict(model.named_parameters())
            return STRENGTH * sum(answer(weights, *memory) for memory in memories)

        for place, domain in enumerate(DOMAINS):
            for step in learn_domain(model, domain, shop, seed, penalty):
                if step % EVERY == 0:
                    curves[-1].append([auc_of(model, shop, d) for d in DOMAINS])
                yield Running(number * whole + place * STEPS + step, 4 * whole, snapshot)
            rows = shop.train[domain]["x"][:FISHER_ROWS]
            fisher = fisher_diagonal(model, lambda m, x, d=domain: m(x, d), [rows])
            memories.append(({name: w.detach().clone() for name, w in model.named_parameters()}, fisher))
    return snapshot()


def own_scores(curves: Sequence[Sequence[Sequence[float]]]) -> Scores:
    """Return the AUC of each domain, of networks of one's own that were measured every 20 steps, as scores."""
    values = torch.tensor(curves).permute(2, 0, 1)  # (domains, networks, moments)
    return Scores("AUC", DOMAINS, values, tuple(range(EVERY, EVERY * values.shape[2] + 1, EVERY)))


def difference_from_the_stack(make: Callable, learn: Callable) -> dict[float, float]:
    """Train a network of one's own; return the largest difference of any weight from the stack's of the same seed.

    In float64: sums in another order differ in float32's seventh digit, and now and then such a difference grows.

    Parameters
    ----------
    make : callable (seed) -> nn.Module
    learn : callable (model, shop, seed)
        All three domains in turn, as the notebook writes it.

    Returns
    -------
    dict {strength: difference}
        From the stack's network without the penalty, and with it.
    """
    arrivals, seeds, strengths = open_clues(seeds=SEEDS[:2]).double(), SEEDS[:2], (0.0, STRENGTH)
    model = make(seeds[0]).double()
    learn(model, arrivals.one(0), seeds[0])
    learner = on_features(arrivals)
    learner = replace(learner, build=lambda: on_features(arrivals).build().double())
    course = learn_in_turn(learner, arrivals, {"ewc": strengths}, seeds, method_of("exact", learner), label="float64")
    mine, stack = list(model.parameters()), course.models

    def gap(strength: float) -> float:
        theirs = stack.model(stack.number(seeds[0], ewc=strength)).parameters()
        return max(float((a - b).detach().abs().max()) for a, b in zip(mine, theirs, strict=True))

    return {strength: gap(strength) for strength in strengths}


# Several arms as one stack: a term that an arm has not counts 0 times in its loss.


def together(
    learner: Learner,
    arrivals: Arrivals,
    arms: Mapping[str, Mapping[str, float]],
    method: Method,
    seeds: Sequence[int] = SEEDS,
    every: int | None = None,
) -> dict[str, Scores]:
    """Learn the domains in turn with several arms at once; an arm says how much each term of its loss counts."""
    settings = [{"ewc": 0.0, "distil": 0.0, "replay": 0.0, **terms} for terms in arms.values()]
    course = learn_in_turn(learner, arrivals, settings, seeds, method, every=every, label=", ".join(map(str, arms)))
    return measured(course, tuple(arms), len(seeds))


NOTHING_OR_ALL = {"naive": {}, "joint": {"replay": 1.0}}  # with all rows kept


def merged(*found: Mapping[str, Scores]) -> dict[str, Scores]:
    """Return the scores of several runs as one, measure by measure."""
    return {
        name: Scores.of(scores.measure, {arm: part[name][arm] for part in found for arm in part[name]})
        for name, scores in found[0].items()
        if not scores.steps
    }


# One head for all domains.


@lru_cache(maxsize=1)
def switches() -> dict[str, dict[str, Scores]]:
    """Learn through one head, with nothing done and with all rows kept: where the banner turns, and where it stays.

    Returns
    -------
    dict {"differ" or "same": scores as `measured` returns them}
    """
    arrivals = stacked([open_clues(), open_clues(0.0)])
    seeds = (*SEEDS, *(seed + 1000 for seed in SEEDS))
    found = together(on_features(arrivals, "shared"), arrivals, NOTHING_OR_ALL, JOINT, seeds, every=10)
    parts = {"differ": slice(0, len(SEEDS)), "same": slice(len(SEEDS), None)}
    return {
        world: {name: replace(scores, values=scores.values[:, part]) for name, scores in found.items()}
        for world, part in parts.items()
    }


def one_head() -> dict[str, Scores]:
    """Learn the three shops through one head: nothing done, each method at its best strength, and all rows kept."""
    arrivals = open_clues()
    learner = on_features(arrivals, "shared")
    arms = {
        "EWC": {"ewc": ONE_HEAD["ewc"]["chosen"]},
        "distil": {"distil": ONE_HEAD["distil"]["chosen"]},
        "rows": {"replay": ONE_HEAD["replay"]["chosen"]},
    }
    method = replace(method_of("exact", learner), rows=FEW_ROWS["network"], asked=new_rows)
    return merged(together(learner, arrivals, arms, method), learning_slower("shared"), switches()["differ"])


def heads_apart() -> dict[str, Scores]:
    """Learn them through a head for each: asking the network before about the new rows, and all rows kept."""
    arrivals = open_clues()
    learner = on_features(arrivals)
    distil = together(learner, arrivals, {"distil": {"distil": SETTINGS["heads_distil"]}}, Method(asked=new_rows))
    return merged(distil, nothing_or_all())


@lru_cache(maxsize=1)
def nothing_or_all() -> dict[str, Scores]:
    """Learn them through a head for each, with nothing done and with all rows kept; ``so far`` after each domain too.

    ``so far`` is the mean AUC of what has been learned, with the domains as moments.
    """
    arrivals = open_clues()
    learner = on_features(arrivals)
    settings = [{"replay": 0.0}, {"replay": 1.0}]
    course = learn_in_turn(learner, arrivals, settings, SEEDS, JOINT, label="nothing, all rows")
    matrix = course.matrix[:, 1:].view(2, len(SEEDS), 3, 3)
    found = measured(course, ("naive", "joint"))
    return {**found, "so far": Scores("AUC so far", ("naive", "joint"), so_far(matrix), (1, 2, 3))}


def so_far(matrices: Tensor) -> Tensor:
    """Return the mean over the domains that have been learned: (..., 3, 3) -> (..., 3)."""
    return torch.stack([matrices[..., k, : k + 1].mean(-1) for k in range(3)], dim=-1)


def stability_gap() -> Scores:
    """Return the AUC of books over joint training through one head: where shops differ, and where they do not."""
    found = {world: scores["over training"]["joint"] for world, scores in switches().items()}
    return Scores.of("AUC of books", found, switches()["same"]["over training"].steps)


def dip(curve: Tensor) -> Tensor:
    """Return how far the AUC falls, in the last domain's time, below where it ends: (S,), at most 0."""
    last = curve[:, -(curve.shape[1] // len(DOMAINS)) :]
    return last.amin(1) - last[:, -1]


# Tables of users and items.


def over_relatedness() -> dict[str, dict[str, Scores]]:
    """Learn the tables in turn, at each relatedness: users shared, shared and three times as wide, and one a domain."""
    arrivals = stacked([open_pairs(level) for level in RELATEDNESS])
    seeds = tuple(seed + 1000 * k for k in range(len(RELATEDNESS)) for seed in SEEDS)
    found = {}
    wide = {**SETTINGS["table"], "embedding_dim": len(arrivals.domains) * SETTINGS["table"]["embedding_dim"]}
    learners = {
        "shared": on_table(arrivals),
        "wide": factorization(arrivals, "shared", **wide),
        "per_domain": on_table(arrivals, "per_domain"),
    }
    for users, learner in learners.items():
        course = learn_in_turn(learner, arrivals, {"ewc": (0.0,)}, seeds, label=users)
        found[users] = measured(course, RELATEDNESS)
    return found


def methods_on_tables() -> tuple[dict[str, Scores], Scores]:
    """Learn the tables in turn with each method, at its best strength.

    Returns
    -------
    dict {measure: Scores}
    Scores
        The mean AUC with few rows kept, over the weight that these have in the loss.
    """
    arrivals = open_pairs()
    learner, few = on_table(arrivals), Method(rows=FEW_ROWS["table"])
    weights = ON_TABLE["replay"]["grid"][::2]
    over_weights = together(learner, arrivals, {w: {"replay": w} for w in weights}, few)
    chosen = ON_TABLE["replay"]["chosen"]
    arms = {"EWC": {"ewc": ON_TABLE["ewc"]["chosen"]}, "distil": {"distil": ON_TABLE["distil"]["chosen"]}}
    method = replace(method_of("exact", learner), asked=random_pairs(arrivals))
    rows = {
        name: Scores.of(scores.measure, {"rows": scores[chosen]})
        for name, scores in over_weights.items()
        if not scores.steps
    }
    found = merged(together(learner, arrivals, arms, method), rows, together(learner, arrivals, NOTHING_OR_ALL, JOINT))
    return found, over_weights["average"]


def importance_one(strength: float = 0.001) -> dict[str, Scores]:
    """Hold weights of the tables alike: all, also those that no domain has touched yet, or those that were touched."""
    arrivals = open_pairs()
    learner = on_table(arrivals)
    whole = len(next(iter(arrivals.train.values()))["click"][0])
    touched = Method(fisher=flat(fisher_of(learner, rows=whole)))
    return merged(
        together(learner, arrivals, {"everywhere": {"ewc": strength}}, Method(fisher=all_ones)),
        together(learner, arrivals, {"touched": {"ewc": strength}}, touched),
    )


def rows_by_plain_descent() -> Scores:
    """Return the mean AUC of the tables with plain gradient descent in Adam's place: nothing done, few rows kept."""
    arrivals, few = open_pairs(), Method(rows=FEW_ROWS["table"])
    arms = {"naive": {}, "rows": {"replay": PLAIN["replay"]["chosen"]}}
    return together(by_plain_descent(arrivals, PLAIN["rate"]["chosen"]), arrivals, arms, few)["average"]


def by_plain_descent(arrivals: Arrivals, rate: float) -> Learner:
    """Return the tables, trained by plain gradient descent."""
    return replace(on_table(arrivals), optimizer="sgd", learning_rate=rate)


def best_by_plain_descent() -> tuple[float, float]:
    """Choose the rate, with nothing done, and the weight of the rows again, on worlds that no claim is about."""
    arrivals = open_pairs(seeds=DESIGN_SEEDS)
    found = {}
    for rate in PLAIN["rate"]["grid"]:
        course = learn_in_turn(
            by_plain_descent(arrivals, rate), arrivals, {"ewc": (0.0,)}, DESIGN_SEEDS, by="valid", label=f"rate {rate}"
        )
        found[rate] = float(transfer_matrix(course.matrix[:, 1:], course.matrix[:, 0]).average.mean())
    rate = max(found, key=found.get)
    few, grid = Method(rows=FEW_ROWS["table"]), PLAIN["replay"]["grid"]
    return rate, _best(by_plain_descent(arrivals, rate), arrivals, "replay", grid, few)


def best_of_one_head(name: str, heads: str = "shared") -> float:
    """Choose the strength of a method for the network again, on worlds and rows that no claim is about."""
    arrivals, grid = open_clues(seeds=DESIGN_SEEDS), ONE_HEAD[name]["grid"]
    learner = on_features(arrivals, heads)
    methods = {
        "ewc": method_of("exact", learner),
        "distil": Method(asked=new_rows),
        "replay": Method(rows=FEW_ROWS["network"]),
    }
    return _best(learner, arrivals, name, grid, methods[name])


def best_on_table(name: str) -> float:
    """Choose the strength of a method for the tables again, on worlds and rows that no claim is about."""
    arrivals, grid = open_pairs(seeds=DESIGN_SEEDS), ON_TABLE[name]["grid"]
    learner = on_table(arrivals)
    methods = {
        "ewc": method_of("exact", learner),
        "distil": Method(asked=random_pairs(arrivals)),
        "replay": Method(rows=FEW_ROWS["table"]),
    }
    return _best(learner, arrivals, name, grid, methods[name])


def _best(learner: Learner, arrivals: Arrivals, name: str, grid: Sequence[float], method: Method) -> float:
    course = learn_in_turn(learner, arrivals, {name: grid}, DESIGN_SEEDS, method, by="valid", label=name)
    return grid[int(measured(course, grid)["average"].values.mean(1).argmax())]


# Real ratings.


def genres_one_after_another(ratings: Ratings) -> dict[str, Scores]:
    """Predict likes in genres that arrive one after another, with nothing done, few rows kept, and vectors apart.

    A seed says which ratings are trained on; the rows' weight was chosen on the tables of the worlds.
    """
    arrivals = genres_in_turn(ratings, SEEDS)
    shared, apart = on_table(arrivals), on_table(arrivals, "per_domain")
    arms = {"naive": {}, "rows": {"replay": ON_TABLE["replay"]["chosen"]}}
    found = merged(
        together(shared, arrivals, arms, Method(rows=FEW_ROWS["table"])),
        together(apart, arrivals, {"own": {}}, NAIVE),
    )
    return {**found, "means of films": Scores.of("mean AUC", {"means": _by_means_of_films(arrivals)})}


def _by_means_of_films(arrivals: Arrivals, pull: float = 5.0) -> Tensor:
    """Return the mean AUC of ranking by how often a film was liked, whoever asks; shrunk towards the mean: (S,)."""
    found = []
    for domain, known in arrivals.train.items():
        shape = (arrivals.n_seeds, arrivals.n_items[domain])
        liked = torch.zeros(shape).scatter_add_(1, known["item"], known["click"])
        count = torch.zeros(shape).scatter_add_(1, known["item"], torch.ones_like(known["click"]))
        means = (liked + pull * known["click"].mean(1, keepdim=True)) / (count + pull)  # (S, items)
        held_out = arrivals.test[domain]
        found.append(auc(means.gather(1, held_out["item"]), held_out["click"]))
    return torch.stack(found).mean(0)


def three_splits(ratings: Ratings) -> dict[str, dict[str, float]]:
    """Predict ratings by offsets of user and item, with three ways of leaving a fifth out.

    Returns
    -------
    dict {split: {"error": MAE, "known": share of the rows whose user was trained on, "error of known": theirs}}
        Splits: "at random", "the last of all" by time, and "the last of each" user.
    """
    n = len(ratings)
    generator = torch.Generator().manual_seed(SEEDS[0])
    by_time = ratings.time.argsort(stable=True)
    by_user = by_time[ratings.user[by_time].argsort(stable=True)]  # each user's rows in order of time
    counts = torch.bincount(ratings.user, minlength=ratings.n_users)
    place = torch.arange(n) - (counts.cumsum(0) - counts)[ratings.user[by_user]]
    late = torch.zeros(n, dtype=torch.bool)
    late[by_user] = place >= 0.8 * counts[ratings.user[by_user]]
    splits = {
        "at random": torch.rand(n, generator=generator) < 0.2,
        "the last of all": torch.zeros(n, dtype=torch.bool),
    }
    splits["the last of all"][by_time[round(0.8 * n) :]] = True
    splits["the last of each"] = late
    return {name: _judged_by_offsets(ratings, held_out) for name, held_out in splits.items()}


def _judged_by_offsets(ratings: Ratings, held_out: Tensor, pull: float = 5.0) -> dict[str, float]:
    """Predict the mean, plus an offset of the item, plus one of the user, each shrunk towards 0."""
    known = ~held_out
    rest = ratings.rating - ratings.rating[known].mean()
    predicted = torch.zeros(len(ratings)) + ratings.rating[known].mean()
    for ids, size in ((ratings.item, ratings.n_items), (ratings.user, ratings.n_users)):
        total = torch.zeros(size).index_add_(0, ids[known], rest[known])
        offset = (total / (torch.bincount(ids[known], minlength=size) + pull))[ids]
        predicted, rest = predicted + offset, rest - offset
    seen = torch.bincount(ratings.user[known], minlength=ratings.n_users)[ratings.user] > 0
    both = held_out & seen
    return {
        "error": float(mae(predicted[held_out], ratings.rating[held_out])),
        "known": float(both.sum() / held_out.sum()),
        "error of known": float(mae(predicted[both], ratings.rating[both])),
    }


# One setting, live.


METHODS = ("nothing", "EWC", "some rows", "all rows", "distil pairs", "own vectors")
ORDERS = {"books, films, games": (0, 1, 2), "games, films, books": (2, 1, 0), "films, books, games": (1, 0, 2)}


@dataclass(frozen=True)
class LiveCourse:
    """Eight models while domains arrive, T domains.

    Attributes
    ----------
    domains : tuple of str
        In the order of their arrival.
    matrix : Tensor, (8, arrivals so far + 1, T)
    curves : Scores
        AUC of each domain over training, one arm a domain.
    """

    domains: tuple[str, ...]
    matrix: Tensor
    curves: Scores


def train_live(method: str, strength: float, rows: int, relatedness: float, order: str, seed: int) -> Iterator[Running]:
    """Learn the tables in turn; ``seed`` k takes the k-th eight worlds and starts."""
    seeds = tuple(SEEDS[0] + 8 * seed + k for k in range(8))
    arrivals = open_pairs(relatedness, seeds)
    arrivals = arrivals.in_order([arrivals.domains[k] for k in ORDERS[order]])
    learner = on_table(arrivals, "per_domain" if method == "own vectors" else "shared")
    what = {
        "EWC": Method(fisher=fisher_of(learner, rows=FISHER_ROWS)),
        "some rows": Method(rows=rows),
        "all rows": JOINT,
        "distil pairs": Method(asked=random_pairs(arrivals)),
    }.get(method, NAIVE)
    strengths = {"ewc": (strength,), "distil": (strength,)}

    def snapshot(course: Callable[[], Course]) -> LiveCourse:
        now = course()
        curves = {domain: now.curves[:, k] for k, domain in enumerate(arrivals.domains)}
        return LiveCourse(arrivals.domains, now.matrix, Scores.of("AUC", curves, now.steps))

    for moment, course in in_turn(learner, arrivals, strengths, seeds, what, every=25):
        yield Running(moment.step, moment.steps, partial(snapshot, course))
    return snapshot(course)


@dataclass(frozen=True)
class OneWeight:
    """One weight of a network that learned books, then films, with each strength.

    Attributes
    ----------
    importances : Tensor, (weights,)
        Of all weights of the encoder, which books and films share, the largest first.
    rank : int
        The weight's place among them, from 0.
    name : str
    before : float
        Where it stood after books.
    after : Tensor, (strengths,)
        Where it stood after films.
    moved : Tensor, (strengths, weights)
        How far each weight moved.
    """

    importances: Tensor
    rank: int
    name: str
    before: float
    after: Tensor
    moved: Tensor


def look_at_weight(rank: int, importance: str, seed: int) -> OneWeight:
    """Look at one weight, by its place among all in percent, in networks that were trained with each strength."""
    names, fisher, before, after = _trained_with_strengths(importance, seed)
    order = fisher.argsort(descending=True)
    at = min(round(rank / 100 * (len(order) - 1)), len(order) - 1)
    place = int(order[at])
    moved = (after - before)[:, order].abs()
    return OneWeight(fisher[order], at, names[place], float(before[place]), after[:, place], moved)


LOOK_STRENGTHS = (0.0, *STRENGTHS)


@lru_cache(maxsize=16)
def _trained_with_strengths(importance: str, seed: int) -> tuple[list[str], Tensor, Tensor, Tensor]:
    """Names, importances (P,), and values after books (P,) and after films (strengths, P), of the encoder's weights."""
    seeds = (SEEDS[0] + seed,)
    arrivals = open_clues(seeds=seeds).in_order(DOMAINS[:2])
    learner = on_features(arrivals)
    state = {}
    inner = method_of(importance, learner).fisher

    def fisher(models, domain, fields):
        found = inner(models, domain, fields)
        if not state:
            state["fisher"] = found
            state["before"] = models.each_own(lambda model: dict(model.named_parameters()))
        return found

    *_, (_, course) = in_turn(learner, arrivals, {"ewc": LOOK_STRENGTHS}, seeds, Method(fisher=fisher))
    after = course().models.each_own(lambda model: dict(model.named_parameters()))
    touched = [name for name in after if name.startswith("encoder.")]
    names = [f"{name}[{k}]" for name in touched for k in range(after[name][0].numel())]

    def flat(values: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([values[name].flatten(1) for name in touched], dim=1).detach().cpu()  # (strengths, P)

    return names, flat(state["fisher"])[0], flat(state["before"])[0], flat(after)
