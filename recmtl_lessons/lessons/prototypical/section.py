"""The section's ways to serve a new user, side by side: the same users, ratings and numbers of updates."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

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
from recmtl_lessons.lessons.prototypical.experiments import EMBEDDING, SETTINGS
from recmtl_lessons.lessons.prototypical.films import (
    EVERYBODY,
    PLAIN,
    PULLED,
    FilmRanking,
    Tastes,
    as_ratings,
    log_odds,
    pulled_prototypes,
    score_stars,
    taste_objective,
    train_both,
    within_user_auc,
)
from recmtl_lessons.models import MAMLRecommender, PrototypicalNetworkRecommender, ReptileRecommender
from recmtl_lessons.training import Scores, concurrently_for
from recmtl_lessons.training.few_shot import (
    FILM_HIDDEN,
    FILM_LEARNERS,
    HIDDEN,
    INNER_STEPS,
    SHOP_LEARNERS,
    STEPS,
    USERS,
    adapt_and_answer,
    mean_error,
    milliseconds_by_turns,
    train,
)

STEPPING = {"fine-tuning": "joint", "MAML": "MAML", "Reptile": "Reptile"}  # they take gradient steps on a user's ratings
ARMS = ("own mean", *STEPPING, PLAIN, PULLED)
LEARNERS = {
    place: {arm: learners[name] for arm, name in STEPPING.items()}
    for place, learners in (("shop", SHOP_LEARNERS), ("films", FILM_LEARNERS))
}
WIDTHS = {"shop": HIDDEN, "films": FILM_HIDDEN}  # of every network


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
    error, auc = ({name: both[k] for name, both in found.items()} for k in (0, 1))
    everybody = within_user_auc(log_odds(tastes[PULLED], test, EVERYBODY), test)
    return Served(
        Scores.of("mean absolute error, stars", error), Scores.of("AUC within users", auc), everybody, dict(tastes), users
    )  # fmt: skip


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

    tasks = normal(USERS, SHOTS, width), normal(USERS, SHOTS), normal(USERS, SHOTS, width), normal(USERS, SHOTS)
    mine = normal(SHOTS, width), normal(SHOTS), normal(queries, width)
    networks = {
        "fine-tuning": MAMLRecommender(width, HIDDEN, inner_steps=INNER_STEPS),
        "MAML": MAMLRecommender(width, HIDDEN, inner_steps=INNER_STEPS),
        "Reptile": ReptileRecommender(width, HIDDEN, inner_steps=INNER_STEPS + 1, inner_batch_size=SHOTS),
        PLAIN: PrototypicalNetworkRecommender(width, EMBEDDING, HIDDEN),
        PULLED: PrototypicalNetworkRecommender(width, EMBEDDING, HIDDEN),
    }
    work = {name: _work(name, network, tasks, mine) for name, network in networks.items()}
    work["own mean"] = (lambda: None, lambda: mine[1].mean().expand(queries))
    times = milliseconds_by_turns([act for acts in work.values() for act in acts], repeats).median(0).values
    parameters = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    pairs = zip(work, times.view(-1, 2).tolist(), strict=True)
    return {name: Cost(parameters.get(name, 0), *pair) for name, pair in pairs}


def _work(name: str, network, tasks: tuple[Tensor, ...], mine: tuple[Tensor, ...]) -> tuple[Callable, Callable]:
    """Return the work of an update, and that of serving one new user."""
    support_x, support_y, query_x, query_y = tasks
    everything = torch.cat([support_x, query_x], dim=1), torch.cat([support_y, query_y], dim=1)
    if name in (PLAIN, PULLED):
        weight = SETTINGS["shop"]["tastes"][name]["weight"]
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


def table(shop: Served, films: Served | None, costs: Mapping[str, Cost]) -> str:
    """Return quality beside cost as text, one line per arm."""
    heads = ("shop error", "AUC", "films error", "AUC", "an update", "a new user", "parameters")
    measured = [scores for served in (shop, films) for scores in ((served.error, served.auc) if served else ({}, {}))]
    rows = [("", heads)]
    for name in dict.fromkeys((*ARMS, *measured[2])):
        cells = [f"{float(scores[name].mean()):.3f}" if name in scores else "" for scores in measured]
        cost = costs.get(name)
        rows.append((name, cells + ([f"{cost.update:.1f} ms", f"{cost.serve:.2f} ms", f"{cost.parameters:,}"] if cost else [""] * 3)))
    widths = (12, 7, 13, 7, 11, 12, 12)
    lines = (f"{name:<19}" + "".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True)) for name, cells in rows)
    return "\n".join(line.rstrip() for line in lines)
