"""What the lesson says of other settings: tried once, kept here, and to be tried again."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.lessons.policy.experiments import (
    ACTIONS,
    STATE_DIM,
    TRAINING,
    WORLDS,
    Build,
    OnePerTask,
    bounds,
    compare_networks,
    exact_returns,
    fit,
    sessions_for,
    stack_of,
    where_satiated,
)
from recmtl_lessons.models import MultiTaskPolicyNetwork

RATES = (6e-3, 1e-2, 1.5e-2, 2.2e-2)
NARROW = replace(TRAINING, learning_rate=1.5e-2)

#: Mean and 95 % interval of leads with narrower networks, from `compare_narrower`.
NARROWER: dict[str, tuple[float, float, float]] = {
    "planning, satiation strong": (0.091, 0.058, 0.124),
    "sharing, in common: tastes and rules": (0.130, 0.061, 0.198),
    "sharing, in common: rules alone": (0.130, 0.044, 0.216),
    "sharing, in common: nothing": (-0.061, -0.117, -0.005),
}


def narrower_shared() -> MultiTaskPolicyNetwork:
    """One network for all three tasks."""
    return MultiTaskPolicyNetwork(STATE_DIM, ACTIONS, shared_dims=(56, 40), task_dims=())


def narrower_separate() -> OnePerTask:
    """Three networks that together have as many parameters."""
    return OnePerTask(STATE_DIM, ACTIONS, shared_dims=(28, 24), task_dims=())


def compare_narrower(seeds: tuple[int, ...] = SEEDS) -> dict[str, Tensor]:
    """Leads as in `NARROWER`, seed by seed, {what: Tensor (S,)}."""
    found = compare_networks(narrower_shared, narrower_separate, seeds, NARROW)
    leads = {f"sharing, in common: {name}": found.shared[name] - found.separate[name] for name in WORLDS}
    planning = where_satiated({name: found.shared[name] - found.bandit[name] for name in WORLDS})
    return {"planning, satiation strong": planning, **leads}


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
