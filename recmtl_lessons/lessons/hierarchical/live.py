"""Two levels and the flat policy, trained side by side before one's eyes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.hierarchical.sessions import (
    FLAT_TRAINING,
    TRAINING,
    best_returns,
    flat_policies,
    judge_flat,
    judge_two_levels,
    settings_of,
    two_levels,
    users_of,
)
from recmtl_lessons.teaching import Running
from recmtl_lessons.training import actor_critic
from recmtl_lessons.training.two_levels import Training, train

N_SEEDS = 4
EVERY = 3  # updates between two points
PLAYED = 64  # sessions that a model is judged on
LIVE, FLAT_LIVE = (replace(how, updates=12) for how in (TRAINING, FLAT_TRAINING))


@dataclass(frozen=True)
class Live:
    """Where both trainings stand; S seeds, P points.

    Attributes
    ----------
    steps : Tensor, (P,)
        Steps that each model has taken.
    two_levels, flat : Tensor, (S, P)
        Mean discounted reward of a session.
    best : Tensor, (S,)
        What is possible for whoever knows the tastes.
    """

    steps: Tensor
    two_levels: Tensor
    flat: Tensor
    best: Tensor


def train_live(
    goal_steps: int, clicks_needed: int, seed: int, how: Training = LIVE, flat_how: Training = FLAT_LIVE
) -> Iterator[Running]:
    """Train both on four seeds; ``seed`` k takes the k-th four. Judged on validation users."""
    seeds = tuple(SEEDS[0] + N_SEEDS * seed + k for k in range(N_SEEDS))
    settings, how = settings_of(clicks_needed), replace(how, goal_steps=goal_steps)
    learned, judged = ([users_of(s, group) for s in seeds] for group in (0, 1))
    best = best_returns([users[:20] for users in judged], settings)
    stack, walker = two_levels(learned, seeds, settings, how)
    policies, sessions = flat_policies(learned, seeds, settings, flat_how)
    steps, found = [], ([], [])

    def measure() -> None:
        found[0].append(judge_two_levels(stack, judged, settings, goal_steps, PLAYED))
        found[1].append(judge_flat(policies, judged, settings, PLAYED))

    def snapshot() -> Live:
        goals, actions = (torch.stack(values, dim=1) for values in found)
        return Live(torch.tensor(steps), goals, actions, best)

    above = train(stack, walker, how, every=EVERY)
    beside = actor_critic.train(policies, sessions, flat_how, every=EVERY)
    for moment, _ in zip(above, beside, strict=True):
        steps.append(moment.step * how.sessions * how.steps)
        measure()
        yield Running(moment.step, moment.steps, snapshot, "update")
    return snapshot()
