"""How the flat learners' settings on the chain were chosen: on the seeds on which the lesson was made."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from recmtl_lessons.lessons._seeds import DESIGN_SEEDS
from recmtl_lessons.lessons.hierarchical.chain import EVERY, TABLES, TRAINING, q_learning, train_flat_policies

DISCOUNTS = (0.8, 0.9, 0.95, 0.99)
EPSILONS = (0.1, 0.3)


def score_flat_policies(
    discounts: Sequence[float] = DISCOUNTS, seeds: Sequence[int] = DESIGN_SEEDS
) -> dict[tuple[bool, float], Tensor]:
    """What lesson 07's policy earns in the end, by what it sees and discount, {(history, discount): Tensor (S,)}."""
    arms = [{"discount": discount, "history": history} for history in (0.0, 1.0) for discount in discounts]
    found = train_flat_policies(arms, seeds, TRAINING)
    return {(arm["history"] > 0, arm["discount"]): late for arm, late in zip(arms, _late(found), strict=True)}


def score_tables(
    discounts: Sequence[float] = (0.9, 0.99, 1.0),
    epsilons: Sequence[float] = EPSILONS,
    seeds: Sequence[int] = DESIGN_SEEDS,
) -> dict[tuple[bool, float, float], Tensor]:
    """The same for tables, by what they see, discount and exploration, {(history, discount, epsilon): Tensor (S,)}."""
    arms = [
        replace(table, discount=discount, epsilon=epsilon)
        for table in TABLES for discount in discounts for epsilon in epsilons
    ]  # fmt: skip
    found = q_learning(arms, seeds, TRAINING.environment_steps, TRAINING.updates // EVERY)
    return {
        (arm.history, arm.discount, arm.epsilon): late for arm, late in zip(arms, _late(found), strict=True)
    }  # fmt: skip


def _late(returns: Tensor) -> Tensor:
    """Mean over the last three points, as `ChainComparison.late`."""
    return returns[..., -3:].mean(-1)
