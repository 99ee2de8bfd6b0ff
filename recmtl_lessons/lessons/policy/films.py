"""Real tastes: users of sessions made from the ratings of MovieLens."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.envs import SessionPlanner, SessionSettings, SessionUsers, join_users, users_from_ratings
from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.policy.experiments import (
    SEPARATE,
    SHARED,
    TASKS,
    TEST_USERS,
    TRAINING,
    bounds_under,
    fit,
    returns_under,
    separate_networks,
    shared_network,
    stack_of,
)
from recmtl_lessons.training import Sessions, concurrently_for
from recmtl_lessons.training.actor_critic import DISCOUNT, Training

KNOWING = "knows the tastes, myopic"
FEWER = replace(TRAINING, updates=20)  # half as many rollouts, for the sake of time


@dataclass(frozen=True)
class FilmComparison:
    """The arms with users of MovieLens, S splits of them.

    Attributes
    ----------
    share : dict {arm: Tensor (S,)}
        The way from chance to the best, mean over the tasks.
    related : dict {(task, task): float}
        Correlation of two surfaces' tastes, over users and genres.
    """

    share: dict[str, Tensor]
    related: dict[tuple[str, str], float]


def compare_on_films(ratings: Ratings, seeds: tuple[int, ...] = SEEDS, how: Training = FEWER) -> FilmComparison:
    """Train on six tenths of the users; judge exactly on thirty whom nobody learned from."""
    learned = [users_from_ratings(ratings, seed, 0) for seed in seeds]
    judged = [users_from_ratings(ratings, seed, 2)[:TEST_USERS] for seed in seeds]
    plans = {task: SessionPlanner(join_users(judged), task, SessionSettings(), DISCOUNT) for task in TASKS}
    limits = bounds_under(plans, len(seeds))

    ways = {SHARED: shared_network, SEPARATE: separate_networks}

    def learn(arm: str) -> Tensor:
        stack = stack_of(ways[arm], [{"discount": DISCOUNT}], seeds, how)
        fit(stack, Sessions(learned, TASKS, how.sessions, SessionSettings(), stack.seeds), how, f"films, {arm}")
        found = returns_under(stack, {task: [plan] for task, plan in plans.items()})
        return limits.share({task: values[0] for task, values in found.items()})

    share = concurrently_for(ways, learn) | {KNOWING: limits.share(limits.myopic)}
    return FilmComparison(share, _related(learned[0]))


def _related(users: SessionUsers) -> dict[tuple[str, str], float]:
    flat = {task: users.on(task).flatten() for task in TASKS}
    pairs = [(a, b) for i, a in enumerate(TASKS) for b in TASKS[i + 1 :]]
    return {(a, b): float(torch.corrcoef(torch.stack([flat[a], flat[b]]))[0, 1]) for a, b in pairs}
