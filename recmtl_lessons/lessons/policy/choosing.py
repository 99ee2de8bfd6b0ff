"""What the lesson says of other seeds and other rates: tried once, kept here, and to be tried again."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from recmtl_lessons.lessons.policy.experiments import (
    TRAINING,
    WORLDS,
    Build,
    Comparison,
    bounds,
    compare,
    exact_returns,
    fit,
    sessions_for,
    stack_of,
)

AGAIN = tuple(tuple(range(first, first + 8)) for first in range(200, 248, 8))  # nothing was chosen on these seeds
RATES = (6e-3, 1e-2, 1.5e-2, 2.2e-2)

#: Mean leads in each of six runs, from `compare_again`.
ON_OTHER_SEEDS: dict[str, tuple[float, ...]] = {
    "sharing, tastes and rules": (0.074, 0.106, 0.088, 0.114, 0.107, 0.084),
    "sharing, rules alone": (0.159, 0.060, 0.088, 0.106, 0.094, 0.060),
    "sharing, nothing": (-0.051, -0.063, -0.054, 0.010, 0.007, -0.036),
    "planning, tastes and rules": (0.053, 0.095, 0.065, 0.062, 0.064, 0.031),
    "planning, rules alone": (0.123, 0.068, 0.139, 0.073, 0.127, 0.044),
    "planning, nothing": (-0.051, -0.028, -0.033, -0.040, -0.015, -0.017),
}


def compare_again(runs: Sequence[tuple[int, ...]] = AGAIN) -> dict[str, Tensor]:
    """Run the lesson's comparison on other seeds: mean leads as in `ON_OTHER_SEEDS`, {what: Tensor (runs,)}.

    Sharing is one network for all over one for each, planning is that network over the myopic bandit.
    """
    leads = [_leads(compare(seeds)) for seeds in runs]
    return {what: torch.stack([lead[what].mean() for lead in leads]) for what in leads[0]}


def _leads(found: Comparison) -> dict[str, Tensor]:
    sharing = {f"sharing, {name}": found.shared[name] - found.separate[name] for name in WORLDS}
    planning = {f"planning, {name}": found.shared[name] - found.bandit[name] for name in WORLDS}
    return sharing | planning


def score_rates(
    build: Build, discount: float, rates: Sequence[float] = RATES, seeds: tuple[int, ...] = tuple(range(32))
) -> dict[float, Tensor]:
    """Train one way to build it at several learning rates; return how far each comes, {rate: Tensor (S,)}.

    Users of group 1 judge. There are 32 seeds, as the means of eight differ by 0.03 from luck alone.
    """
    world, found = WORLDS["tastes and rules"], {}
    for rate in rates:
        how = replace(TRAINING, learning_rate=rate)
        stack = stack_of(build, [{"discount": discount}], seeds, how)
        fit(stack, sessions_for(stack, [world], how), how)
        got = {task: values[0] for task, values in exact_returns(stack, [world], 1).items()}
        found[rate] = bounds(world, seeds, 1).share(got)
    return found
