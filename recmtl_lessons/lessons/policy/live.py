"""A policy trained before one's eyes, with its return against the optimum."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.policy.experiments import (
    TASKS,
    TRAINING,
    World,
    bounds,
    exact_returns,
    sessions_for,
    shared_network,
    stack_of,
)
from recmtl_lessons.teaching import Running
from recmtl_lessons.training.actor_critic import Training, train

N_SEEDS = 4
POINTS = 5  # of a curve, after its start


@dataclass(frozen=True)
class Live:
    """Where a training stands; S seeds, P points on the way.

    Attributes
    ----------
    steps : Tensor, (P,)
        Steps taken by each model on each task.
    share : dict {task: Tensor (S, P)}
        How far the policy has come, from chance (0) to the best (1).
    myopic : dict {task: float}
        Where whoever knows the tastes and is myopic would be.
    """

    steps: Tensor
    share: dict[str, Tensor]
    myopic: dict[str, float]


def train_live(
    entropy: float, discount: float, sharing: float, satiation: float, rollouts: int, seed: int,
    how: Training = TRAINING,
) -> Iterator[Running]:  # fmt: skip
    """Train one network for all tasks on four seeds; ``seed`` k takes the k-th four. Judged on validation users."""
    how = replace(how, updates=rollouts)
    seeds = tuple(SEEDS[0] + N_SEEDS * seed + k for k in range(N_SEEDS))
    world = World(sharing, satiation)
    limits = bounds(world, seeds, 1)
    stack = stack_of(shared_network, [{"discount": discount, "entropy": entropy}], seeds, how)
    steps, found = [0], {task: [] for task in TASKS}

    def measure() -> None:
        got = exact_returns(stack, [world], 1)
        for task in TASKS:
            low = limits.chance[task]
            found[task].append((got[task][0] - low) / (limits.best[task] - low))

    def snapshot() -> Live:
        myopic = {t: float(((limits.myopic[t] - limits.chance[t]) / (limits.best[t] - limits.chance[t])).mean())
                  for t in TASKS}  # fmt: skip
        return Live(torch.tensor(steps), {task: torch.stack(rows, dim=1) for task, rows in found.items()}, myopic)

    measure()
    for moment in train(stack, sessions_for(stack, [world], how), how, every=max(1, rollouts // POINTS)):
        steps.append(moment.step * how.sessions * how.steps)
        measure()
        yield Running(moment.step, moment.steps, snapshot, "update")
    return snapshot()
