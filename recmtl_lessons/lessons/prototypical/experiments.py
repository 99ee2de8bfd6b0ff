"""New shelves: how networks are trained on old ones, and what is measured of them and of their rivals."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.lessons.prototypical.rivals import logistic_regression, nearest_mean, nearest_neighbours
from recmtl_lessons.lessons.prototypical.shelves import (
    NOTHING_HIDDEN,
    SHOP,
    SWAPPED,
    Episodes,
    Shop,
    draw_episodes,
    open_shops,
)
from recmtl_lessons.models import PrototypicalNetworkRecommender
from recmtl_lessons.models.prototypical import squared_distances
from recmtl_lessons.teaching.texts import read_yaml
from recmtl_lessons.training import ManyModels, Scores, concurrently, concurrently_for

SETTINGS = read_yaml(Path(__file__).with_name("settings.yaml"))
RATE_OF_WAYS = SETTINGS["rate_of_ways"]
STEPS = 200
WAYS, SHOTS, QUERIES = 20, 5, 5  # of training episodes, unless said otherwise
SHELVES_AN_UPDATE = 20  # one episode of 20 ways, or four of 5
TEST_WAYS = 5
TO_TRY = (1, 2, 5, 10, 20)  # shots of a new shelf
HIDDEN, EMBEDDING = (32, 32), 16
_POOL = 400  # training episodes a shop, from which each update draws
_JUDGED, _MANY, _JUDGED_QUERIES = 50, 200, 10  # episodes a shop, and rows of each shelf to sort
RIVALS = ("nearest mean", "nearest neighbours", "logistic regression")  # which see the support rows alone
MEASURE = "share sorted right"


# Training.


class ClassifierOfOldShelves(nn.Module):
    """The lesson's encoder with a linear head that names the training shelf; the head is cut off afterwards."""

    def __init__(self, width: int, n_shelves: int):
        super().__init__()
        self.encoder = encoder(width)
        self.shelf = nn.Linear(EMBEDDING, n_shelves)


def encoder(width: int) -> PrototypicalNetworkRecommender:
    """Return the lesson's network."""
    return PrototypicalNetworkRecommender(width, EMBEDDING, HIDDEN)


def episodic_objective(model, batch, setting, progress, ways=WAYS):
    """Sort the queries of each episode by the prototypes of its support."""
    e = batch["episodes"]
    losses = model.query_losses((e["support_x"], e["support_y"], e["query_x"], e["query_y"]), ways)
    return losses.mean(), {}


def classifier_objective(model, batch, setting, progress):
    """Name the shelf of each row among all training shelves: the same rows, in one heap."""
    e = batch["episodes"]
    x = torch.cat([e["support_x"], e["query_x"]], dim=1).flatten(0, 1)  # (episodes * rows, F)
    shelf = torch.cat([e["support_shelf"], e["query_shelf"]], dim=1).flatten()
    return F.cross_entropy(model.shelf(model.encoder(x)), shelf), {}


def broken_objective(model, batch, setting, progress, ways=WAYS):
    """Put the sign in the wrong place: minus the log-softmax of the distance."""
    e = batch["episodes"]
    prototypes = model.compute_prototypes(model(e["support_x"]), e["support_y"], ways)
    queries = model(e["query_x"])
    log_p = -squared_distances(queries, prototypes).log_softmax(-1)  # should be (-distances).log_softmax(-1)
    loss = -log_p.gather(-1, e["query_y"].unsqueeze(-1)).mean()
    return loss, {"row_sum": log_p.logsumexp(-1).mean() / math.log(10), "size": queries.square().mean().sqrt()}


def train_on_shelves(
    episodes: Episodes,
    seeds: Sequence[int],
    rate: float,
    objective: Callable | None = None,
    build: Callable[[], nn.Module] | None = None,
    steps: int = STEPS,
    label: str = "",
) -> ManyModels:
    """Train one network per seed; all see as many rows per update, whatever the number of ways."""
    build = build or partial(encoder, episodes.support_x.shape[-1])
    objective = objective or partial(episodic_objective, ways=episodes.ways)
    batch = SHELVES_AN_UPDATE // episodes.ways
    return fit(ManyModels(build, objective, episodes.stream(), [{"rate": rate}], seeds, batch, rate), steps, label)


def train_classifier(
    episodes: Episodes,
    seeds: Sequence[int],
    rate: float = SETTINGS["classifier_rate"],
    steps: int = STEPS,
    label: str = "",
) -> ManyModels:
    """Train one classifier of all training shelves per seed, on the same rows in the same order."""
    build = partial(ClassifierOfOldShelves, episodes.support_x.shape[-1], int(episodes.support_shelf.max()) + 1)
    return train_on_shelves(episodes, seeds, rate, classifier_objective, build, steps, label)


def fit(models: ManyModels, steps: int, label: str = "") -> ManyModels:
    """Train, if there are steps to take, and keep a column of the history every four."""
    return models.fit(steps, label=label, every=min(steps, 4)) if steps else models


# Measuring.


def scores_of(models: ManyModels, episodes: Episodes) -> Tensor:
    """Return the log-probabilities of every query row by each network's prototypes, (S, T, Q, N)."""

    def answer(model, support_x, support_y, query_x):
        return getattr(model, "encoder", model).episode_forward(support_x, support_y, query_x, episodes.ways)

    return models.each(answer, episodes.support_x, episodes.support_y, episodes.query_x).cpu()


def rival_scores(rule: Callable, episodes: Episodes, **options) -> Tensor:
    """Apply a rule of `rivals` to every episode, (S, T, Q, N)."""
    return rule(episodes.support_x, episodes.support_y, episodes.query_x, episodes.ways, **options)


def accuracy(scores: Tensor, episodes: Episodes) -> Tensor:
    """Return the share of the query rows that are sorted onto their shelf, (S,)."""
    return (scores.argmax(-1) == episodes.query_y).float().mean((1, 2))


def judged(shelves: Tensor, seeds: Sequence[int]) -> Episodes:
    """Draw episodes to choose settings by or to judge by: five new shelves, up to twenty labelled items of each."""
    return draw_episodes(shelves, _JUDGED, TEST_WAYS, max(TO_TRY), _JUDGED_QUERIES, seeds)


def old_shelves(shop: Shop, seeds: Sequence[int], ways: int = WAYS, shuffled: bool = False) -> Episodes:
    """Draw the pool of training episodes."""
    return draw_episodes(open_shops(shop, tuple(seeds)).train, _POOL, ways, SHOTS, QUERIES, seeds, shuffled)


def by_rivals(episodes: Episodes, shots: int) -> dict[str, Tensor]:
    """Return the accuracy of the three `RIVALS` at their own best settings, (S,) each."""
    few, k, c = episodes.shots(shots), *(SETTINGS[name]["chosen"][shots] for name in ("neighbours", "penalties"))
    rules = (nearest_mean, partial(nearest_neighbours, k=k), partial(logistic_regression, c=c))
    return {name: accuracy(rival_scores(rule, few), few) for name, rule in zip(RIVALS, rules, strict=True)}


def score_rates(shop: Shop = SHOP, shots: int = SHOTS) -> dict[tuple[str, float], float]:
    """Score each arm and rate by the accuracy on validation shelves of the design seeds: so the rates were chosen."""
    valid = judged(open_shops(shop, DESIGN_SEEDS).valid, DESIGN_SEEDS).shots(shots)
    pools = {ways: old_shelves(shop, DESIGN_SEEDS, ways) for ways in RATE_OF_WAYS}
    found = {}
    for rate in SETTINGS["rates"]:
        arms = {f"{ways} ways": train_on_shelves(pool, DESIGN_SEEDS, rate) for ways, pool in pools.items()}
        arms["classifier"] = train_classifier(pools[WAYS], DESIGN_SEEDS, rate)
        arms["broken"] = train_on_shelves(pools[WAYS], DESIGN_SEEDS, rate, broken_objective)
        found |= {(name, rate): float(accuracy(scores_of(m, valid), valid).mean()) for name, m in arms.items()}
    return found


def score_rivals(shop: Shop = SHOP) -> dict[tuple[str, int, float], float]:
    """Score each rival, number of shots and setting by the accuracy on validation shelves of the design seeds."""
    valid, found = judged(open_shops(shop, DESIGN_SEEDS).valid, DESIGN_SEEDS), {}
    for shots in TO_TRY:
        few = valid.shots(shots)
        for k in (k for k in SETTINGS["neighbours"]["tried"] if k <= TEST_WAYS * shots):
            found["neighbours", shots, k] = float(accuracy(rival_scores(nearest_neighbours, few, k=k), few).mean())
        for c in SETTINGS["penalties"]["tried"]:
            found["regression", shots, c] = float(accuracy(rival_scores(logistic_regression, few, c=c), few).mean())
    return found


# What the lesson compares.


@dataclass(frozen=True)
class NewShelves:
    """How well new shelves are sorted, five at a time.

    Attributes
    ----------
    accuracy : dict {labelled items of each shelf: Scores}
        "prototypes" and "classifier, head cut", which learned from old shelves; the `RIVALS`, which did not; and
        "signal itself", the nearest mean where nothing is hidden.
    models : dict {arm: ManyModels}
    """

    accuracy: dict[int, Scores]
    models: dict[str, ManyModels]


@lru_cache(maxsize=2)
def compare(shop: Shop = SHOP, seeds: tuple[int, ...] = SEEDS, steps: int = STEPS) -> NewShelves:
    """Train on old shelves, and sort the items of new ones from few labelled items."""
    shops, pool = open_shops(shop, seeds), old_shelves(shop, seeds)
    ours, classifier = concurrently(
        lambda: train_on_shelves(pool, seeds, RATE_OF_WAYS[WAYS], steps=steps, label="episodes, 20 ways"),
        lambda: train_classifier(pool, seeds, steps=steps, label="classifier"),
    )
    models = {"prototypes": ours, "classifier, head cut": classifier}
    test, signal = judged(shops.test, seeds), judged(shops.test_signal, seeds)

    def sorted_from(shots: int) -> Scores:
        few, plain = test.shots(shots), signal.shots(shots)
        found = {name: accuracy(scores_of(m, few), few) for name, m in models.items()}
        truth = accuracy(rival_scores(nearest_mean, plain), plain)
        return Scores.of(MEASURE, {**found, **by_rivals(test, shots), "signal itself": truth})

    return NewShelves({shots: sorted_from(shots) for shots in TO_TRY}, models)


def by_ways(
    result: NewShelves,
    seeds: tuple[int, ...] = SEEDS,
    steps: int = STEPS,
    ways: tuple[int, ...] = (2, 5),
    shop: Shop = SHOP,
) -> Scores:
    """Train on episodes of fewer shelves, beside the two networks of a comparison, and judge all on many episodes.

    Returns
    -------
    Scores
        Of five new shelves with five labelled items each, by the number of shelves in a training episode, as many rows
        an update; and of the "classifier" of all old shelves, cut.
    """
    test = draw_episodes(open_shops(shop, seeds).test, _MANY, TEST_WAYS, SHOTS, _JUDGED_QUERIES, seeds)

    def learn(n: int) -> ManyModels:
        pool = old_shelves(shop, seeds, n)
        return train_on_shelves(pool, seeds, RATE_OF_WAYS[n], steps=steps, label=f"episodes, {n} ways")

    trained = concurrently_for(ways, learn) | {WAYS: result.models["prototypes"]}
    trained["classifier"] = result.models["classifier, head cut"]
    return Scores.of(MEASURE, {name: accuracy(scores_of(models, test), test) for name, models in trained.items()})


def with_best_rival(prototypes: Tensor, rivals: dict[str, Tensor], **others: Tensor) -> Scores:
    """Return how well five new shelves are sorted, five labelled items each, where there may be nothing to bring along.

    "best rival" is the one that is best on average. ``others`` are "untrained", prototypes of the network before its
    first update, and "with twenty", those of the trained network from twenty labelled items each.
    """
    best = max(rivals.values(), key=lambda values: float(values.mean()))
    return Scores.of(MEASURE, {"best rival": best, "prototypes": prototypes, **others})


def control(
    shop: Shop, label: str, seeds: tuple[int, ...] = SEEDS, steps: int = STEPS, shuffled: bool = False
) -> Scores:
    """Train in the same way where old shelves say nothing about new ones; scores as `with_best_rival` has them."""
    pool = old_shelves(shop, seeds, shuffled=shuffled)
    models = train_on_shelves(pool, seeds, RATE_OF_WAYS[WAYS], steps=steps, label=label)
    test = judged(open_shops(shop, seeds).test, seeds)
    five, twenty = (accuracy(scores_of(models, test.shots(shots)), test) for shots in (SHOTS, max(TO_TRY)))
    others = {"untrained": _untrained(pool, test, seeds), "with twenty": twenty}
    return with_best_rival(five, by_rivals(test, SHOTS), **others)


def _untrained(pool: Episodes, test: Episodes, seeds: Sequence[int]) -> Tensor:
    models = train_on_shelves(pool, seeds, RATE_OF_WAYS[WAYS], steps=0)
    return accuracy(scores_of(models, test.shots(SHOTS)), test)


def in_the_shop(result: NewShelves, seeds: tuple[int, ...] = SEEDS, shop: Shop = SHOP) -> Scores:
    """Return what came out in the shop itself, in the form of a control."""
    five, twenty = (result.accuracy[shots] for shots in (SHOTS, max(TO_TRY)))
    untrained = _untrained(old_shelves(shop, seeds), judged(open_shops(shop, seeds).test, seeds), seeds)
    others = {"untrained": untrained, "with twenty": twenty["prototypes"]}
    return with_best_rival(five["prototypes"], {name: five[name] for name in RIVALS}, **others)


def three_controls(seeds: tuple[int, ...] = SEEDS, steps: int = STEPS) -> dict[str, Scores]:
    """Train with nothing hidden, with shuffled labels, and on shelves told apart by what differs within new ones."""
    shops = {"nothing hidden": NOTHING_HIDDEN, "shuffled": SHOP, "swapped": SWAPPED}
    return concurrently_for(shops, lambda name: control(shops[name], name, seeds, steps, shuffled=name == "shuffled"))


def train_broken(
    result: NewShelves, seeds: tuple[int, ...] = SEEDS, steps: int = STEPS // 2, shop: Shop = SHOP
) -> dict[str, Scores]:
    """Train with the sign in the wrong place, ``-log_softmax(distance)``, at the rate that is best for it.

    Returns
    -------
    dict {measure: Scores of "wrong"}
        ``loss``, also of "right"; ``row sum``, what the exponentials of a row sum to, as a power of ten; ``size``, the
        root mean square of the embeddings; all three update by update. ``accuracy`` at the end, also of "nearest mean".
    """
    pool = old_shelves(shop, seeds)
    models = train_on_shelves(pool, seeds, SETTINGS["broken_rate"], broken_objective, steps=steps, label="wrong sign")
    test = judged(open_shops(shop, seeds).test, seeds).shots(SHOTS)
    wrong, right, steps = models.history, result.models["prototypes"], models.history_steps
    at = [right.history_steps.index(step) for step in steps]
    ends = {"wrong": accuracy(scores_of(models, test), test), "nearest mean": result.accuracy[SHOTS]["nearest mean"]}
    return {
        "loss": Scores.of("training loss", {"right": right.history["loss"][:, at], "wrong": wrong["loss"]}, steps),
        "row sum": Scores.of("power of ten", {"wrong": wrong["row_sum"]}, steps),
        "size": Scores.of("root mean square", {"wrong": wrong["size"]}, steps),
        "accuracy": Scores.of(MEASURE, ends),
    }
