"""What the lesson says of other seeds and other rates: tried once, kept here, and to be tried again."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from recmtl_lessons.lessons._seeds import DESIGN_SEEDS
from recmtl_lessons.lessons.policy.experiments import (
    TRAINING,
    WORLDS,
    Build,
    bounds,
    compare,
    exact_returns,
    fit,
    sessions_for,
    stack_of,
)

OTHER_SEEDS = tuple(range(200, 248))  # nothing was chosen on these
HALF_OF_THEM = OTHER_SEEDS[:24]
RATES = (6e-3, 1e-2, 1.5e-2, 2.2e-2)

#: Mean and 95 % interval of leads on `OTHER_SEEDS`, from `compare_again`.
ON_OTHER_SEEDS: dict[str, tuple[float, float, float]] = {
    "sharing, in common: tastes and rules": (0.120, 0.093, 0.148),
    "sharing, in common: rules alone": (0.066, 0.043, 0.090),
    "sharing, in common: nothing": (-0.017, -0.031, -0.003),
    "planning, in common: tastes and rules": (0.068, 0.047, 0.088),
    "planning, in common: rules alone": (0.057, 0.035, 0.078),
    "planning, in common: nothing": (-0.029, -0.048, -0.010),
}
#: The same on the first half of them, `HALF_OF_THEM`, in a run of its own: other chances decide in it.
ON_HALF_OF_THEM: dict[str, tuple[float, float, float]] = {
    "sharing, in common: tastes and rules": (0.139, 0.112, 0.166),
    "sharing, in common: rules alone": (0.107, 0.076, 0.137),
    "sharing, in common: nothing": (-0.076, -0.105, -0.048),
    "planning, in common: tastes and rules": (0.094, 0.067, 0.122),
    "planning, in common: rules alone": (0.118, 0.081, 0.155),
    "planning, in common: nothing": (-0.068, -0.100, -0.036),
}


def compare_again(seeds: tuple[int, ...] = OTHER_SEEDS) -> dict[str, Tensor]:
    """Leads as in `ON_OTHER_SEEDS`, seed by seed, {what: Tensor (S,)}."""
    found = compare(seeds)
    sharing = {f"sharing, in common: {name}": found.shared[name] - found.separate[name] for name in WORLDS}
    planning = {f"planning, in common: {name}": found.shared[name] - found.bandit[name] for name in WORLDS}
    return sharing | planning


def score_rates(
    build: Build, discount: float, rates: Sequence[float] = RATES, seeds: tuple[int, ...] = DESIGN_SEEDS
) -> dict[float, Tensor]:
    """How far one way to build it comes by learning rate, with users of group 1: {rate: Tensor (S,)}."""
    world, found = WORLDS["tastes and rules"], {}
    for rate in rates:
        how = replace(TRAINING, learning_rate=rate)
        stack = stack_of(build, [{"discount": discount}], seeds, how)
        fit(stack, sessions_for(stack, [world], how), how)
        got = {task: values[0] for task, values in exact_returns(stack, [world], 1).items()}
        found[rate] = bounds(world, seeds, 1).share(got)
    return found
