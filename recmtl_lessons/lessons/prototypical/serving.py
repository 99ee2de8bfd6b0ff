"""New users as episodes of two classes, liked and disliked; and the section's ways to serve them, side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from itertools import product
from types import MappingProxyType

import torch
from torch import Tensor

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.datasets.few_shot import (
    FILM_MEAN,
    SHOP,
    SHOTS,
    ColdStart,
    Shop,
    Tasks,
    film_mean_and_offset,
    film_users,
    own_mean,
    shop_users,
)
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.lessons.prototypical.experiments import EMBEDDING, SETTINGS, fit
from recmtl_lessons.lessons.prototypical.rivals import nearest_mean
from recmtl_lessons.models import MAMLRecommender, PrototypicalNetworkRecommender, ReptileRecommender
from recmtl_lessons.training import ManyModels, Scores, concurrently_for
from recmtl_lessons.training.few_shot import (
    ERROR,
    FIELDS,
    FILM_HIDDEN,
    FILM_LEARNERS,
    HIDDEN,
    INNER_STEPS,
    SHOP_LEARNERS,
    STEPS,
    USERS,
    adapt_and_answer,
    joint_objective,
    mean_error,
    meta_objective,
    milliseconds_by_turns,
    reptile_objective,
    train,
)

FILM_COUNT = 1  # the feature that holds the logarithm of the film's number of ratings
_ROUNDING = 1e-4  # a rating that is the mean does not lie above it
EVERYBODY = 1e6  # a weight at which no user's own ratings count
PLAIN, PULLED = "prototypes", "prototypes, pulled"
STEPPING = {
    "fine-tuning": "joint",
    "MAML": "MAML",
    "Reptile": "Reptile",
}  # they take gradient steps on a user's ratings
ARMS = ("own mean", *STEPPING, PLAIN, PULLED)
LEARNERS = {
    place: {arm: learners[name] for arm, name in STEPPING.items()}
    for place, learners in (("shop", SHOP_LEARNERS), ("films", FILM_LEARNERS))
}
WIDTHS = {"shop": HIDDEN, "films": FILM_HIDDEN}  # of every network
AUC = "AUC within users"


# Liked and disliked.


def liked(tasks: Tasks) -> tuple[Tensor, Tensor]:
    """Say which ratings lie above the mean of the user's support ratings: (S, T, K) and (S, T, Q), 0 or 1."""
    mean = tasks.support_y.mean(2, keepdim=True) + _ROUNDING
    return (tasks.support_y > mean).long(), (tasks.query_y > mean).long()


def two_sided(tasks: Tasks) -> Tensor:
    """Say whether a user's support ratings differ, so that both classes have a rating, (S, T)."""
    good = liked(tasks)[0].bool()
    return good.any(2) & ~good.all(2)


def taste_stream(tasks: Tasks) -> dict[str, dict[str, Tensor]]:
    """Return training users as episodes of two classes, to train on.

    Users whose support ratings are all the same have one class; others of the same seed stand in for them.
    """
    support_y, query_y = liked(tasks)
    fields = {"support_x": tasks.support_x, "support_y": support_y, "query_x": tasks.query_x, "query_y": query_y}
    rows = [keep.nonzero().squeeze(1) for keep in two_sided(tasks)]
    rows = torch.stack([r[torch.arange(tasks.user.shape[1]) % len(r)] for r in rows])  # (S, T)
    seed = torch.arange(len(rows))[:, None]
    return {"users": {name: values[seed, rows] for name, values in fields.items()}}


# Training and serving.


def everybodys_prototypes(model, embeddings: Tensor, labels: Tensor) -> Tensor:
    """Return the prototypes of all users' ratings in one heap: (T, K, D), (T, K) -> (2, D)."""
    return model.compute_prototypes(embeddings.flatten(0, 1), labels.flatten(), 2)


def pulled_prototypes(embeddings: Tensor, labels: Tensor, everybody: Tensor, weight: float) -> Tensor:
    """Pull users' prototypes towards everybody's, which count for ``weight`` ratings: (T, K, D) -> (T, 2, D).

    Rows labelled -1 count for neither class.
    """
    member = (labels.unsqueeze(-1) == torch.arange(2, device=labels.device)).float()  # (T, K, 2)
    count = member.sum(-2).unsqueeze(-1)  # (T, 2, 1)
    return (member.mT @ embeddings + weight * everybody) / (count + weight)


def taste_objective(model, batch, setting, progress, weight=0.0):
    """Tell liked from disliked query items by the prototypes of the support, pulled or not."""
    u = batch["users"]
    if not weight:
        return model.query_losses((u["support_x"], u["support_y"], u["query_x"], u["query_y"]), 2).mean(), {}
    embeddings, labels = model(u["support_x"]), u["support_y"]
    everybody = everybodys_prototypes(model, embeddings, labels)
    log_p = model.classify(model(u["query_x"]), pulled_prototypes(embeddings, labels, everybody, weight))
    return -log_p.gather(-1, u["query_y"].unsqueeze(-1)).mean(), {}


@dataclass(frozen=True)
class Tastes:
    """Networks that tell liked from disliked.

    Attributes
    ----------
    models : ManyModels
    weight : float
        How many ratings everybody's prototypes count for; 0: a user's own alone.
    train : Tasks
        Whose ratings everybody's prototypes are made of.
    """

    models: ManyModels
    weight: float
    train: Tasks


def train_tastes(
    tasks: Tasks, seeds: Sequence[int], rate: float, hidden: Sequence[int], weight: float = 0.0, steps: int = STEPS,
    label: str = "",
) -> Tastes:  # fmt: skip
    """Train one network a seed on users as episodes."""
    build = partial(PrototypicalNetworkRecommender, tasks.support_x.shape[-1], EMBEDDING, tuple(hidden))
    objective = partial(taste_objective, weight=weight)
    models = ManyModels(build, objective, taste_stream(tasks), [{"rate": rate}], seeds, USERS, rate)
    return Tastes(fit(models, steps, label), weight, tasks)


def train_both(
    users: ColdStart, chosen: Mapping[str, Mapping], hidden: Sequence[int], seeds: Sequence[int], steps: int = STEPS,
    label: str = "",
) -> dict[str, Tastes]:  # fmt: skip
    """Train networks for prototypes that are a user's own, and for pulled ones, each with its rate and weight."""

    def learn(name: str) -> Tastes:
        rate, weight = chosen[name]["rate"], chosen[name]["weight"]
        return train_tastes(users.train, seeds, rate, hidden, weight, steps, label and f"{label}, {name}")

    return concurrently_for((PLAIN, PULLED), learn)


def log_odds(tastes: Tastes, tasks: Tasks, weight: float | None = None) -> Tensor:
    """Return how much likelier liked than disliked each query item is, (S, T, Q); ``weight`` overrides training's.

    A user whose support ratings are all the same says nothing of what they prefer. With a pull they get everybody's
    prototypes, without one 0 for all items.
    """
    weight, both = tastes.weight if weight is None else weight, two_sided(tasks)
    everybody_y = liked(tastes.train)[0]
    support_y = torch.where(both[..., None], liked(tasks)[0], -1)

    def answer(model, support_x, support_y, query_x, all_x, all_y):
        embeddings = model(support_x)
        if weight:
            everybody = everybodys_prototypes(model, model(all_x), all_y)
            prototypes = pulled_prototypes(embeddings, support_y, everybody, weight)
        else:
            prototypes = model.compute_prototypes(embeddings, support_y, 2)  # NaN where a class is missing
        log_p = model.classify(model(query_x), prototypes)  # (T, Q, 2)
        return log_p[..., 1] - log_p[..., 0]

    x = (tasks.support_x, support_y, tasks.query_x, tastes.train.support_x, everybody_y)
    found = tastes.models.each(answer, *x).cpu()
    return found if weight else torch.where(both[..., None], found, 0.0)


def as_ratings(odds: Tensor, tasks: Tasks, scale: float, most: float) -> Tensor:
    """Make ratings of log-odds: the user's own mean, plus ``scale`` stars per unit, of ``most`` units at most."""
    return own_mean(tasks) + scale * odds.clamp(-most, most)


def within_user_auc(scores: Tensor, tasks: Tasks) -> Tensor:
    """Return how often a liked query item is ranked before a disliked one of the same user: (S, T, Q) -> (S,).

    Ties count half. Users who like all their query items, or none, are left out, the same for every way to rank.
    """
    if scores.shape != tasks.query_y.shape or scores.isnan().any():
        raise ValueError(f"scores: got {tuple(scores.shape)} with {int(scores.isnan().sum())} NaN, expected numbers of "
                         f"shape {tuple(tasks.query_y.shape)}")  # fmt: skip
    good, bad = (side.bool() & tasks.known for side in (liked(tasks)[1], 1 - liked(tasks)[1]))  # (S, T, Q)
    pairs = good.unsqueeze(-1) & bad.unsqueeze(-2)  # (S, T, Q, Q)
    ahead = scores.unsqueeze(-1) - scores.unsqueeze(-2)
    won = ((ahead > 0).float() + 0.5 * (ahead == 0).float()) * pairs
    count = pairs.sum((-1, -2))
    share = won.sum((-1, -2)) / count.clamp(min=1)  # (S, T), 0 where there is no pair
    return share.sum(1) / (count > 0).sum(1)


def score_stars(tastes: Tastes, tasks: Tasks) -> dict[tuple[float, float], float]:
    """Score each scale and limit of `as_ratings` by the error: so both were chosen, on validation users."""
    odds, pairs = log_odds(tastes, tasks), product(SETTINGS["scales"], SETTINGS["limits"])
    return {pair: float(mean_error(as_ratings(odds, tasks, *pair), tasks).mean()) for pair in pairs}


def score_tastes(
    users: ColdStart, hidden: Sequence[int] = FILM_HIDDEN, rates: Sequence[float] = SETTINGS["taste_rates"],
    weights: Sequence[float] = SETTINGS["taste_weights"],
) -> dict[tuple[float, float], float]:  # fmt: skip
    """Score each rate and pull by the AUC on validation users of `DESIGN_SEEDS`: so both were chosen."""
    valid, found = users.valid.shots(SHOTS), {}
    for rate, weight in product(rates, weights):
        tastes = train_tastes(users.train, DESIGN_SEEDS, rate, hidden, weight)
        found[rate, weight] = float(within_user_auc(log_odds(tastes, valid), valid).mean())
    return found


# What the lesson compares on MovieLens.


@dataclass(frozen=True)
class FilmRanking:
    """How well held-out films are ranked for new users of MovieLens; S splits of the users.

    Attributes
    ----------
    users : ColdStart
    auc : Scores
        Within users, of six ways to rank.
    tastes : dict {"prototypes", "prototypes, pulled"}
    one_sided, left_out : Tensor, (S,)
        Share of the users whose ten ratings are all the same; share without a liked or a disliked film to be judged on.
    """

    users: ColdStart
    auc: Scores
    tastes: dict[str, Tastes]
    one_sided: Tensor
    left_out: Tensor


def rank_films(ratings: Ratings, seeds: tuple[int, ...] = SEEDS, steps: int = STEPS) -> FilmRanking:
    """Train on users as episodes, and rank the films of others."""
    users = film_users(ratings, seeds)
    test = users.test
    tastes = train_both(users, SETTINGS["films"]["tastes"], FILM_HIDDEN, seeds, steps, "films")
    features = nearest_mean(test.support_x, liked(test)[0], test.query_x, 2)  # as they are
    ways = {
        "nearest mean of features": torch.where(two_sided(test)[..., None], features[..., 1] - features[..., 0], 0.0),
        "number of ratings": test.query_x[..., FILM_COUNT],
        PLAIN: log_odds(tastes[PLAIN], test),
        "mean rating": test.query_x[..., FILM_MEAN],
        "everybody's": log_odds(tastes[PULLED], test, EVERYBODY),
        PULLED: log_odds(tastes[PULLED], test),
    }
    auc = Scores.of(AUC, {name: within_user_auc(scores, test) for name, scores in ways.items()})
    query = liked(test)[1].bool()
    no_pair = ~(query & test.known).any(2) | ~(~query & test.known).any(2)
    return FilmRanking(users, auc, tastes, (~two_sided(test)).float().mean(1), no_pair.float().mean(1))


# The section: every way to serve.


def score_serving(
    users: ColdStart, where: str, steps: int = STEPS, seeds: Sequence[int] = DESIGN_SEEDS
) -> dict[str, dict]:
    """Score the settings of serving on validation users of the design seeds: so they were chosen.

    An arm that takes steps has error and AUC at each rate, prototypes have the error at each scale and limit. ``where``
    is "shop" or "films".
    """
    valid, found = users.valid.shots(SHOTS), {}
    for name, learner in LEARNERS[where].items():
        models, found[name] = train(learner, users.train, seeds, WIDTHS[where], steps), {}
        for rate in SETTINGS["steps_rates"]:
            answers = adapt_and_answer(learner, models, valid, rate, (INNER_STEPS,))[0]
            scores = _measures(answers, answers, valid)
            found[name][rate] = tuple(float(s.nan_to_num(torch.inf).mean()) for s in scores)
    for name, tastes in train_both(users, SETTINGS[where]["tastes"], WIDTHS[where], seeds, steps).items():
        found[name] = score_stars(tastes, valid)
    return found


def _measures(for_error: Tensor, for_auc: Tensor, tasks: Tasks) -> tuple[Tensor, Tensor]:
    return mean_error(for_error, tasks), within_user_auc(for_auc.nan_to_num(0.0), tasks)


# The comparison.


@dataclass(frozen=True)
class Served:
    """How new users with ten ratings are served in every way; S seeds.

    Attributes
    ----------
    error, auc : Scores
        Mean absolute error in stars, and AUC within users.
    everybody : Tensor, (S,)
        AUC of everybody's prototypes, without the user's own ratings.
    tastes : dict {arm: Tastes}
        The networks behind the two arms with prototypes.
    users : ColdStart
    """

    error: Scores
    auc: Scores
    everybody: Tensor
    tastes: dict[str, Tastes]
    users: ColdStart


def serve(
    users: ColdStart, where: str, seeds: Sequence[int], steps: int = STEPS, tastes: Mapping[str, Tastes] | None = None,
    answers: Mapping[str, Tensor] = MappingProxyType({}),
) -> Served:  # fmt: skip
    """Train every arm on the same users for as many updates, and let each serve the users to be judged.

    ``tastes`` are networks for the arms with prototypes, if there are some already; ``answers`` are those of ways that
    need no network, (S, T, Q).
    """
    test = users.test.shots(SHOTS)

    def learn(name: str) -> tuple[Tensor, Tensor]:
        learner = LEARNERS[where][name]
        models = train(learner, users.train, seeds, WIDTHS[where], steps, f"{where}, {name}")
        rates = (learner.rate, SETTINGS[where]["rate_for_auc"][name])
        return _measures(*(adapt_and_answer(learner, models, test, rate, (INNER_STEPS,))[0] for rate in rates), test)

    found = {"own mean": _measures(own_mean(test), own_mean(test), test), **concurrently_for(STEPPING, learn)}
    chosen = SETTINGS[where]["tastes"]
    tastes = tastes or train_both(users, chosen, WIDTHS[where], seeds, steps, where)
    for name, trained in tastes.items():
        odds = log_odds(trained, test)
        found[name] = _measures(as_ratings(odds, test, *chosen[name]["stars"]), odds, test)
    found |= {name: _measures(known, known, test) for name, known in answers.items()}
    error, auc = (
        Scores.of(measure, {name: both[k] for name, both in found.items()}) for k, measure in enumerate((ERROR, AUC))
    )
    everybody = within_user_auc(log_odds(tastes[PULLED], test, EVERYBODY), test)
    return Served(error, auc, everybody, dict(tastes), users)


@lru_cache(maxsize=2)
def serve_in_shop(seeds: tuple[int, ...] = SEEDS, steps: int = STEPS, shop: Shop = SHOP) -> Served:
    """Compare the arms in lesson 04's shop."""
    return serve(shop_users(shop, seeds), "shop", seeds, steps)


def serve_films(ranked: FilmRanking, seeds: tuple[int, ...] = SEEDS, steps: int = STEPS) -> Served:
    """Compare the arms on MovieLens, with the networks that have ranked its films already.

    One more way needs no network: the film's mean rating plus how generous the user has been.
    """
    known = {"film mean + offset": film_mean_and_offset(ranked.users.test)}
    return serve(ranked.users, "films", seeds, steps, ranked.tastes, known)


# What it costs.


@dataclass(frozen=True)
class Cost:
    """What one arm costs: its network's parameters, and milliseconds per update on 16 users and per new user."""

    parameters: int
    update: float
    serve: float


def measure_costs(width: int = 16, queries: int = 20, repeats: int = 20) -> dict[str, Cost]:
    """Time one network of each arm alone, at the sizes of the shop, on random rows; medians."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x, y = normal(2, USERS, SHOTS, width), normal(2, USERS, SHOTS)
    stars = dict(zip(FIELDS, (x[0], y[0], x[1], y[1]), strict=True))
    labels = stars | {f: (stars[f] > stars[f].mean(-1, keepdim=True)).long() for f in ("support_y", "query_y")}
    mine = normal(SHOTS, width), normal(SHOTS), normal(queries, width)
    maml, prototypes = partial(MAMLRecommender, width, HIDDEN), PrototypicalNetworkRecommender
    reptile = ReptileRecommender(width, HIDDEN, inner_steps=INNER_STEPS + 1, inner_batch_size=SHOTS)
    arms = {
        "fine-tuning": (maml(inner_steps=INNER_STEPS), joint_objective),
        "MAML": (maml(inner_steps=INNER_STEPS), meta_objective),
        "Reptile": (reptile, reptile_objective),
    }
    work = {"own mean": (lambda: None, lambda: mine[1].mean().expand(queries))}
    work |= {name: (_update(*arm, stars), _answer(arm[0], *mine)) for name, arm in arms.items()}
    for name, chosen in SETTINGS["shop"]["tastes"].items():
        arms[name] = prototypes(width, EMBEDDING, HIDDEN), partial(taste_objective, weight=chosen["weight"])
        work[name] = _update(*arms[name], labels), _taste_answer(arms[name][0], *mine, chosen["weight"])
    times = milliseconds_by_turns([act for acts in work.values() for act in acts], repeats).median(0).values
    parameters = {name: sum(p.numel() for p in network.parameters()) for name, (network, _) in arms.items()}
    pairs = zip(work, times.view(-1, 2).tolist(), strict=True)
    return {name: Cost(parameters.get(name, 0), *pair) for name, pair in pairs}


def _update(network, objective: Callable, users: Mapping[str, Tensor]) -> Callable[[], None]:
    plain = objective is reptile_objective  # its gradient is the step
    optimizer = (torch.optim.SGD if plain else torch.optim.Adam)(network.parameters(), lr=1.0 if plain else 1e-3)

    def update() -> None:
        optimizer.zero_grad()
        objective(network, {"users": users}, {"inner_lr": 0.05}, 0.0)[0].backward()
        optimizer.step()

    return update


def _answer(network, own_x: Tensor, own_y: Tensor, query_x: Tensor) -> Callable[[], Tensor]:
    return lambda: network.predict(query_x, network.adapt_to_new_task(own_x, own_y, INNER_STEPS))


def _taste_answer(network, own_x: Tensor, own_y: Tensor, query_x: Tensor, weight: float) -> Callable[[], Tensor]:
    labels, everybody = (own_y > own_y.mean()).long(), torch.zeros(2, network.embedding_dim)

    @torch.no_grad()
    def answer() -> Tensor:
        if not weight:
            return network.episode_forward(own_x, labels, query_x)
        prototypes = pulled_prototypes(network(own_x), labels, everybody, weight)
        return network.classify(network(query_x), prototypes)

    return answer


def table(shop: Served, films: Served | None, costs: Mapping[str, Cost]) -> str:
    """Return quality beside cost as text, one line per arm."""
    heads = ("shop error", "AUC", "films error", "AUC", "an update", "a new user", "parameters")
    measured = [scores for served in (shop, films) for scores in ((served.error, served.auc) if served else ({}, {}))]
    rows = [("", heads)]
    for name in dict.fromkeys((*ARMS, *measured[2])):
        cells = [f"{float(scores[name].mean()):.3f}" if name in scores else "" for scores in measured]
        if cost := costs.get(name):
            cells += [f"{cost.update:.1f} ms", f"{cost.serve:.2f} ms", f"{cost.parameters:,}"]
        rows.append((name, cells))
    widths = (12, 7, 13, 7, 11, 12, 12)
    lines = (f"{name:<19}" + "".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=False)) for name, cells in rows)
    return "\n".join(line.rstrip() for line in lines)


# How far to believe a new user.

WEIGHTS = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
COUNTS = (1, 2, 3, 5, 10)


@dataclass(frozen=True)
class Pull:
    """How well new users are served, by how strongly their prototypes are pulled towards everybody's.

    Attributes
    ----------
    curve : Scores
        AUC within users at each weight of `WEIGHTS`.
    auc : Tensor, (S,)
        At the chosen weight.
    one_sided : float
        Share of the users whose ratings are all the same, or who have one alone.
    """

    curve: Scores
    auc: Tensor
    one_sided: float


def cold_start_desk(places: Mapping[str, tuple[Tastes, Tasks]]) -> Callable[[str, int, float], Pull]:
    """Return a function that serves the new users of a place from their first ratings, at a weight.

    ``places`` hold trained networks, and users to be judged. What counts as liked lies above the mean of all ten
    ratings, however few are shown.
    """

    @cache
    def auc(where: str, count: int, weight: float) -> Tensor:
        tastes, tasks = places[where]
        return within_user_auc(log_odds(tastes, tasks.shots(count), weight), tasks.shots(SHOTS))

    def look(where: str, count: int, weight: float) -> Pull:
        curve = Scores(AUC, WEIGHTS, torch.stack([auc(where, count, w) for w in WEIGHTS]))
        alone = float((~two_sided(places[where][1].shots(count))).float().mean())
        return Pull(curve, auc(where, count, weight), alone)

    return look
