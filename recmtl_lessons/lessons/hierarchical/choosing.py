"""How settings were chosen: on the seeds on which the lesson was made, and users who judge nothing else."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from torch import Tensor

from recmtl_lessons.lessons._seeds import DESIGN_SEEDS
from recmtl_lessons.lessons.hierarchical.arms import TWO_LEVELS
from recmtl_lessons.lessons.hierarchical.chain import (
    EVERY,
    FLAT_TRAINING,
    QLearning,
    q_learning,
    second_half,
    train_flat_policies,
    train_two_levels,
)
from recmtl_lessons.lessons.hierarchical.chain import TRAINING as CHAIN_TRAINING
from recmtl_lessons.lessons.hierarchical.sessions import (
    FLAT,
    FOR_PROGRESS,
    TRAINING,
    compare,
)
from recmtl_lessons.lessons.hierarchical.sessions import FLAT_TRAINING as FLAT_SESSIONS

MANY_SEEDS = range(24)
#: Lead of two levels over the flat policy, reward late, on 24 seeds that were looked at once: mean and 95 % interval of
#: ``compare(seeds=tuple(range(300, 324))).lead(TWO_LEVELS, FLAT)``.
ON_FRESH_SEEDS = (0.179, 0.095, 0.263)


def score_flat_policies(
    discounts: Sequence[float] = (0.9, 0.99),
    lambdas: Sequence[float] = (0.5, 1.0),
    entropies: Sequence[float] = (0.0, 0.05),
    rates: Sequence[float] = (5e-3, 1e-2),
    seeds: Sequence[int] = DESIGN_SEEDS,
) -> dict[tuple[bool, float, float, float, float], Tensor]:
    """Return what flat policies earn on the chain, {(history, discount, lambda, entropy, rate): Tensor (S,)}."""
    names = ("history", "discount", "gae_lambda", "entropy")
    arms, found = list(product((0.0, 1.0), discounts, lambdas, entropies)), {}
    for rate in rates:
        settings = [dict(zip(names, arm, strict=True)) for arm in arms]
        returns = second_half(train_flat_policies(settings, seeds, replace(FLAT_TRAINING, learning_rate=rate)))
        found |= {(arm[0] > 0, *arm[1:], rate): late for arm, late in zip(arms, returns, strict=True)}
    return found


def score_tables(
    discounts: Sequence[float] = (0.99, 1.0),
    epsilons: Sequence[float] = (0.0, 0.02, 0.05, 0.1),
    fractions: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    seeds: Sequence[int] = DESIGN_SEEDS,
) -> dict[QLearning, Tensor]:
    """Return what tables earn there, with the history and without, {settings: Tensor (S,)}."""
    arms = [
        QLearning(history, epsilon, fraction, discount)
        for history, epsilon, fraction, discount in product((False, True), epsilons, fractions, discounts)
    ]
    found = q_learning(arms, seeds, FLAT_TRAINING.environment_steps, FLAT_TRAINING.updates // EVERY)
    return dict(zip(arms, second_half(found), strict=True))


def score_rates(
    clicks_needed: int,
    rates: Sequence[float] = (8e-3, 1.6e-2, 3e-2, 5e-2, 8e-2),
    arms: Sequence[str] = (TWO_LEVELS, FLAT, FOR_PROGRESS),
    seeds: Sequence[int] = MANY_SEEDS,
) -> dict[tuple[str, float], Tensor]:
    """Return what arms earn in sessions by learning rate, with users of group 1, {(arm, rate): Tensor (S,)}."""
    found = {}
    for rate in rates:
        hows = (replace(how, learning_rate=rate) for how in (TRAINING, FLAT_SESSIONS))
        result = compare(clicks_needed, tuple(arms), tuple(seeds), *hows, group=1, every=TRAINING.updates)
        found |= {(arm, rate): returns for arm, returns in result.returns.items()}
    return found


def score_two_levels(seeds: Sequence[int] = range(200, 248)) -> Tensor:
    """Return what two levels earn on the chain, on seeds enough to see how often they fail, (S,)."""
    return second_half(train_two_levels(tuple(seeds), CHAIN_TRAINING)[1][:1])[0]
