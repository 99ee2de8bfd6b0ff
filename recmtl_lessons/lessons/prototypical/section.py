"""The section's ways to serve a new user, side by side: the same users, ratings and numbers of updates."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from recmtl_lessons.datasets.few_shot import (
    SHOP,
    SHOTS,
    ColdStart,
    Shop,
    Tasks,
    film_mean_and_offset,
    own_mean,
    shop_users,
)
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.lessons.prototypical.experiments import EMBEDDING
from recmtl_lessons.lessons.prototypical.films import (
    EVERYBODY,
    FILM_PULLED,
    FILM_RATE,
    FilmRanking,
    Tastes,
    as_ratings,
    log_odds,
    pulled_prototypes,
    score_stars,
    taste_objective,
    train_tastes,
    within_user_auc,
)
from recmtl_lessons.models import MAMLRecommender, PrototypicalNetworkRecommender, ReptileRecommender
from recmtl_lessons.training import concurrently_for
from recmtl_lessons.training.few_shot import (
    FILM_HIDDEN,
    FILM_LEARNERS,
    HIDDEN,
    INNER_STEPS,
    SHOP_LEARNERS,
    STEPS,
    USERS,
    FewShotLearner,
    adapt_and_answer,
    mean_error,
    train,
)

ARMS = ("own mean", "fine-tuning", "MAML", "Reptile", "prototypes", "prototypes, pulled")


@dataclass(frozen=True)
class Settings:
    """What is best for every arm on validation users of the design seeds: see `score_serving` and `score_tastes`.

    Attributes
    ----------
    hidden : tuple of int
        Of every network.
    stepping : mapping {arm: (FewShotLearner, float)}
        The arms that take gradient steps on a new user's ratings, with the rate that is best for the AUC; the
        learner's own is best for the error.
    rate : float
        Of training for prototypes.
    pulled : (float, float)
        The same for pulled prototypes, and how many ratings everybody's count for.
    stars : mapping {arm: (float, float)}
        How log-odds become ratings, for `as_ratings`.
    """

    hidden: tuple[int, ...]
    stepping: Mapping[str, tuple[FewShotLearner, float]]
    rate: float
    pulled: tuple[float, float]
    stars: Mapping[str, tuple[float, float]]


SHOP_SETTINGS = Settings(
    HIDDEN,
    {
        "fine-tuning": (SHOP_LEARNERS["joint"], 0.15),
        "MAML": (SHOP_LEARNERS["MAML"], 0.1),
        "Reptile": (SHOP_LEARNERS["Reptile"], 0.07),
    },
    0.003,
    (0.003, 3.0),
    {"prototypes": (0.5, 4.0), "prototypes, pulled": (0.5, 4.0)},
)
FILM_SETTINGS = Settings(
    FILM_HIDDEN,
    {
        "fine-tuning": (FILM_LEARNERS["joint"], 0.1),
        "MAML": (FILM_LEARNERS["MAML"], 0.05),
        "Reptile": (FILM_LEARNERS["Reptile"], 0.07),
    },
    FILM_RATE,
    FILM_PULLED,
    {"prototypes": (0.3, 2.0), "prototypes, pulled": (0.5, 1.0)},
)
_RATES = (0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2)


def score_serving(
    users: ColdStart, settings: Settings, steps: int = STEPS, seeds: Sequence[int] = DESIGN_SEEDS
) -> dict[str, dict]:
    """Score the settings of serving on validation users of the design seeds: so they were chosen.

    An arm that takes steps has error and AUC at each rate, prototypes have the error at each scale and limit.
    """
    valid, found = users.valid.shots(SHOTS), {}
    for name, (learner, _) in settings.stepping.items():
        models, found[name] = train(learner, users.train, seeds, settings.hidden, steps), {}
        for rate in _RATES:
            answers = adapt_and_answer(learner, models, valid, rate, (INNER_STEPS,))[0]
            scores = _measures(answers, answers, valid)
            found[name][rate] = tuple(float(s.nan_to_num(torch.inf).mean()) for s in scores)
    for name, tastes in _train_tastes(users, settings, seeds, steps).items():
        found[name] = score_stars(tastes, valid)
    return found


def _train_tastes(
    users: ColdStart, settings: Settings, seeds: Sequence[int], steps: int, label: str = ""
) -> dict[str, Tastes]:
    ways = {"prototypes": (settings.rate, 0.0), "prototypes, pulled": settings.pulled}

    def learn(name: str) -> Tastes:
        rate, weight = ways[name]
        title = f"{label}, {name}" if label else ""
        return train_tastes(users.train, seeds, rate, settings.hidden, weight, steps, title)

    return concurrently_for(ways, learn)


def _measures(for_error: Tensor, for_auc: Tensor, tasks: Tasks) -> tuple[Tensor, Tensor]:
    return mean_error(for_error, tasks), within_user_auc(for_auc.nan_to_num(0.0), tasks)


# The comparison.


@dataclass(frozen=True)
class Served:
    """How new users with ten ratings are served in every way; S seeds.

    Attributes
    ----------
    error, auc : dict {arm: Tensor (S,)}
        Mean absolute error in stars, and AUC within users.
    everybody : Tensor, (S,)
        AUC of everybody's prototypes, without the user's own ratings.
    tastes : dict {arm: Tastes}
        The networks behind the two arms with prototypes.
    users : ColdStart
    """

    error: dict[str, Tensor]
    auc: dict[str, Tensor]
    everybody: Tensor
    tastes: dict[str, Tastes]
    users: ColdStart


def serve(
    users: ColdStart, settings: Settings, seeds: Sequence[int], steps: int = STEPS, label: str = "",
    tastes: Mapping[str, Tastes] | None = None,
) -> Served:  # fmt: skip
    """Train every arm on the same users for as many updates, and let each serve the users to be judged.

    ``tastes`` are networks for the arms with prototypes, if there are some already.
    """
    test, error, auc = users.test.shots(SHOTS), {}, {}
    error["own mean"], auc["own mean"] = _measures(own_mean(test), own_mean(test), test)

    def learn(name: str) -> tuple[Tensor, Tensor]:
        learner, for_auc = settings.stepping[name]
        models = train(learner, users.train, seeds, settings.hidden, steps, f"{label}, {name}")
        rates = (learner.rate, for_auc)
        answers = [adapt_and_answer(learner, models, test, rate, (INNER_STEPS,))[0] for rate in rates]
        return _measures(*answers, test)

    for name, measures in concurrently_for(settings.stepping, learn).items():
        error[name], auc[name] = measures
    tastes = tastes or _train_tastes(users, settings, seeds, steps, label)
    for name, trained in tastes.items():
        odds = log_odds(trained, test)
        error[name], auc[name] = _measures(as_ratings(odds, test, *settings.stars[name]), odds, test)
    everybody = within_user_auc(log_odds(tastes["prototypes, pulled"], test, EVERYBODY), test)
    return Served(error, auc, everybody, dict(tastes), users)


@lru_cache(maxsize=2)
def serve_in_shop(seeds: tuple[int, ...] = SEEDS, steps: int = STEPS, shop: Shop = SHOP) -> Served:
    """Compare the arms in lesson 04's shop."""
    return serve(shop_users(shop, seeds), SHOP_SETTINGS, seeds, steps, "shop")


def serve_films(ranked: FilmRanking, seeds: tuple[int, ...] = SEEDS, steps: int = STEPS) -> Served:
    """Compare the arms on MovieLens, with the networks that have ranked its films already.

    One more way needs no network: the film's mean rating plus how generous the user has been.
    """
    served, test = serve(ranked.users, FILM_SETTINGS, seeds, steps, "films", ranked.tastes), ranked.users.test
    known = film_mean_and_offset(test)
    served.error["film mean + offset"], served.auc["film mean + offset"] = _measures(known, known, test)
    return served


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

    tasks = normal(USERS, SHOTS, width), normal(USERS, SHOTS), normal(USERS, SHOTS, width), normal(USERS, SHOTS)
    mine = normal(SHOTS, width), normal(SHOTS), normal(queries, width)
    networks = {
        "fine-tuning": MAMLRecommender(width, HIDDEN, inner_steps=INNER_STEPS),
        "MAML": MAMLRecommender(width, HIDDEN, inner_steps=INNER_STEPS),
        "Reptile": ReptileRecommender(width, HIDDEN, inner_steps=INNER_STEPS + 1, inner_batch_size=SHOTS),
        "prototypes": PrototypicalNetworkRecommender(width, EMBEDDING, HIDDEN),
        "prototypes, pulled": PrototypicalNetworkRecommender(width, EMBEDDING, HIDDEN),
    }
    work = {name: _work(name, network, tasks, mine) for name, network in networks.items()}
    work["own mean"] = (lambda: None, lambda: mine[1].mean().expand(queries))
    times = _median_ms([act for acts in work.values() for act in acts], repeats)
    parameters = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    return {
        name: Cost(parameters.get(name, 0), *pair)
        for name, pair in zip(work, zip(times[::2], times[1::2], strict=True), strict=True)
    }


def _work(name: str, network, tasks: tuple[Tensor, ...], mine: tuple[Tensor, ...]) -> tuple[Callable, Callable]:
    """Return the work of an update, and that of serving one new user."""
    support_x, support_y, query_x, query_y = tasks
    everything = torch.cat([support_x, query_x], dim=1), torch.cat([support_y, query_y], dim=1)
    if name.startswith("prototypes"):
        weight = 0.0 if name == "prototypes" else SHOP_SETTINGS.pulled[1]
        return _taste_update(network, tasks, weight), _taste_answer(network, *mine, weight)
    x, y = everything[0].flatten(0, 1), everything[1].flatten()
    steps = {
        "fine-tuning": _update(network, lambda: F.mse_loss(network(x).squeeze(1), y)),
        "MAML": _update(network, lambda: network.query_losses(tasks).mean()),
        "Reptile": lambda: _reptile_update(network, everything),
    }
    return steps[name], lambda: network.predict(mine[2], network.adapt_to_new_task(*mine[:2], INNER_STEPS))


def _taste_update(network, tasks: tuple[Tensor, ...], weight: float) -> Callable[[], None]:
    support_x, support_y, query_x, query_y = tasks
    labels = {f: (y > y.mean(-1, keepdim=True)).long() for f, y in (("support_y", support_y), ("query_y", query_y))}
    batch = {"users": {"support_x": support_x, "query_x": query_x, **labels}}
    return _update(network, lambda: taste_objective(network, batch, {}, 0.0, weight)[0])


def _update(network, objective: Callable[[], Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.Adam(network.parameters())

    def update() -> None:
        optimizer.zero_grad()
        objective().backward()
        optimizer.step()

    return update


@torch.no_grad()
def _reptile_update(network, everything: tuple[Tensor, Tensor]) -> None:
    move = network.pseudo_gradient(everything)
    for name, value in network.named_weights().items():
        value.sub_(network.meta_lr * move[name])


def _taste_answer(network, own_x: Tensor, own_y: Tensor, query_x: Tensor, weight: float) -> Callable[[], Tensor]:
    labels, everybody = (own_y > own_y.mean()).long(), torch.zeros(2, network.embedding_dim)

    @torch.no_grad()
    def answer() -> Tensor:
        if not weight:
            return network.episode_forward(own_x, labels, query_x)
        prototypes = pulled_prototypes(network(own_x), labels, everybody, weight)
        return network.classify(network(query_x), prototypes)

    return answer


def _median_ms(acts: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Return the median time of each, taken by turns, so that a busy moment of the machine meets all of them."""
    times = torch.zeros(repeats + 3, len(acts))
    for turn in times:
        for k, act in enumerate(acts):
            started = time.perf_counter()
            act()
            turn[k] = 1e3 * (time.perf_counter() - started)
    return times[3:].median(0).values.tolist()


def table(shop: Served, films: Served | None, costs: Mapping[str, Cost]) -> str:
    """Return quality beside cost as text, one line per arm."""
    heads = ("shop error", "AUC", "films error", "AUC", "an update", "a new user", "parameters")
    widths = (12, 7, 13, 7, 11, 12, 12)
    lines = [f"{'':<19}" + "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True))]
    for name in (*ARMS, *(name for name in (films.error if films else ()) if name not in ARMS)):
        cells = [_mean(scores, name) for served in (shop, films) for scores in _both(served)]
        cost = costs.get(name)
        cells += [f"{cost.update:.1f} ms", f"{cost.serve:.2f} ms", f"{cost.parameters:,}"] if cost else [""] * 3
        lines.append(f"{name:<19}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))
    return "\n".join(line.rstrip() for line in lines)


def _both(served: Served | None) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    return (served.error, served.auc) if served else ({}, {})


def _mean(scores: Mapping[str, Tensor], name: str) -> str:
    return f"{float(scores[name].mean()):.3f}" if name in scores else ""
