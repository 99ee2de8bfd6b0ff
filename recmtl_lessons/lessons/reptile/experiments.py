"""The lesson's arms, how they are trained, and what is measured of them on the shop's new users."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from recmtl_lessons.datasets.few_shot import ONE_TASTE, SHOP, SHOTS, ColdStart, Shop, Tasks, shop_users
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.training import ManyModels, concurrently_for
from recmtl_lessons.training.few_shot import (
    HIDDEN,
    INNER_STEPS,
    RATES,
    SHOP_LEARNERS,
    STEPS,
    ReptileLearner,
    errors,
    over_seeds,
    train,
)

# Each at its own best, on validation users of the design seeds: see `score_training`. A number of inner steps names
# Reptile with so many.
RIVALS = ("joint", "MAML")  # lesson 04's arms
SHOP_ARMS = {
    1: ReptileLearner(1, 1.0, inner_lr=0.15, rate=0.1),
    2: ReptileLearner(2, 1.5, inner_lr=0.07, rate=0.1),
    4: SHOP_LEARNERS["Reptile"],
}
SHUFFLED = ReptileLearner(4, 1.0, inner_lr=0.07, rate=0.1)  # on groups of ratings that are nobody's
RATE_WITH_ONE_TASTE = 0.003  # for new users: see `score_one_taste`; the rates in training are kept


def score_training(
    inner_steps: int,
    meta_rates: Sequence[float] = (0.5, 1.0, 1.5, 2.0),
    inner_rates: Sequence[float] = (0.03, 0.05, 0.07, 0.1, 0.15),
    shop: Shop = SHOP,
    shuffled: bool = False,
) -> dict[tuple[float, float, float], float]:
    """Score rates on validation users of the design seeds: so `SHOP_ARMS` was chosen, and, ``shuffled``, `SHUFFLED`.

    Keys are epsilon, the inner rate in training, and the rate for a new user.
    """
    users, found = shop_users(shop, DESIGN_SEEDS), {}
    known = without_users(users.train, DESIGN_SEEDS) if shuffled else users.train
    for meta_lr in meta_rates:
        arm = ReptileLearner(inner_steps, meta_lr)
        models = train(arm, known, DESIGN_SEEDS, rates=inner_rates)
        for rate in RATES:
            scores = over_seeds(errors(arm, models, users.valid.shots(SHOTS), rate, (INNER_STEPS,))[0])
            found |= {(meta_lr, inner, rate): s for inner, s in zip(inner_rates, scores, strict=True)}
    return found


def score_one_taste(shop: Shop = ONE_TASTE) -> dict[float, float]:
    """Score rates for a new user where all share one taste: so `RATE_WITH_ONE_TASTE` was chosen."""
    users, arm = shop_users(shop, DESIGN_SEEDS), SHOP_ARMS[4]
    models, valid = train(arm, users.train, DESIGN_SEEDS), users.valid.shots(SHOTS)
    return {rate: over_seeds(errors(arm, models, valid, rate, (INNER_STEPS,))[0, 0]) for rate in RATES}


# What the lesson compares.


def training_users(seeds: tuple[int, ...] = SEEDS) -> Tasks:
    """Return the shop's users to train on."""
    return shop_users(SHOP, seeds).train


@dataclass(frozen=True)
class Comparison:
    """What the arms make of new users with ten ratings; S seeds.

    Attributes
    ----------
    users : ColdStart
    before, after : dict {arm: Tensor (S,)}
        Mean absolute error without adapting, and after three steps. Reptile's arms are named by their inner steps,
        lesson 04's by their names there.
    models : dict {arm: ManyModels}
    """

    users: ColdStart
    before: dict[str | int, Tensor]
    after: dict[str | int, Tensor]
    models: dict[str | int, ManyModels]


@lru_cache(maxsize=2)
def compare(
    shop: Shop = SHOP, seeds: tuple[int, ...] = SEEDS, steps: int = STEPS, inner_steps: tuple[int, ...] = (1, 2, 4)
) -> Comparison:
    """Train Reptile with some numbers of inner steps, and lesson 04's arms, MAML on as many gradients an update."""
    users = shop_users(shop, seeds)
    test = users.test.shots(SHOTS)

    def learn(name: str | int) -> tuple[ManyModels, Tensor]:
        rival = name in RIVALS
        arm = SHOP_LEARNERS[name] if rival else SHOP_ARMS[name]
        label = name if rival else f"Reptile, {name} inner step" + "s" * (name > 1)
        models = train(arm, users.train, seeds, steps=steps, label=label)
        return models, errors(arm, models, test, arm.rate, (0, INNER_STEPS))[:, 0]

    names = (*RIVALS, *inner_steps)
    slowest_first = ("MAML", *reversed(inner_steps), "joint")  # so that none is left to learn alone
    found = concurrently_for(slowest_first, learn)
    before, after = ({name: found[name][1][when] for name in names} for when in (0, 1))
    return Comparison(users, before, after, {name: found[name][0] for name in names})


# Controls.


def without_users(tasks: Tasks, seeds: Sequence[int]) -> Tasks:
    """Deal the same ratings anew, so that a "user" holds ratings of many: nobody's taste is left in a group."""
    support, query = tasks.support_y.shape[2], tasks.query_y.shape[2]
    shuffled = {}
    for field in ("x", "y"):
        both = torch.cat([getattr(tasks, f"support_{field}"), getattr(tasks, f"query_{field}")], dim=2)
        flat = both.flatten(1, 2)  # (S, T * 20, ...)
        orders = [torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        dealt = torch.stack([rows[order] for rows, order in zip(flat, orders, strict=True)]).unflatten(
            1, both.shape[1:3]
        )
        shuffled |= {
            f"support_{field}": dealt[:, :, :support],
            f"query_{field}": dealt[:, :, support : support + query],
        }
    return replace(tasks, **shuffled)


@dataclass(frozen=True)
class Shuffled:
    """What training on groups that are nobody's came to: errors of new users, (S,), and the networks."""

    after: Tensor
    models: ManyModels


def with_shuffled_users(result: Comparison, seeds: tuple[int, ...] = SEEDS, steps: int = STEPS) -> Shuffled:
    """Train on the same ratings dealt anew, with four inner steps."""
    groups = without_users(result.users.train, seeds)
    models = train(SHUFFLED, groups, seeds, steps=steps, label="nobody's ratings")
    after = errors(SHUFFLED, models, result.users.test.shots(SHOTS), SHUFFLED.rate, (INNER_STEPS,))[0, 0]
    return Shuffled(after, models)


@dataclass(frozen=True)
class Longer:
    """How new users fare after several lengths of training: errors {way: Tensor (len(updates), S)}."""

    updates: tuple[int, ...]
    after: dict[str, Tensor]

    def __str__(self) -> str:
        lines = [f"{'updates':<24}" + "".join(f"{count:>8,}" for count in self.updates)]
        for way, scores in self.after.items():
            lines.append(f"{way:<24}" + "".join(f"{float(score):8.3f}" for score in scores.mean(1)))
        return "\n".join(lines)


def shuffled_for_longer(
    updates: Sequence[int] = (200, 800, 3_200), seeds: tuple[int, ...] = DESIGN_SEEDS, shop: Shop = SHOP
) -> Longer:
    """Train one step, and four on nobody's and on users' ratings, ever longer, at the rates chosen for 200 updates."""
    users, after = shop_users(shop, seeds), {}
    ways = {
        "one step": (SHOP_ARMS[1], users.train),
        "four, nobody's ratings": (SHUFFLED, without_users(users.train, seeds)),
        "four, users' ratings": (SHOP_ARMS[4], users.train),
    }
    for way, (arm, known) in ways.items():
        models, scores, done = arm.stack(known, seeds, HIDDEN), [], 0
        for count in updates:
            models.fit(count - done, label=way, every=count - done)
            scores.append(errors(arm, models, users.test.shots(SHOTS), arm.rate, (INNER_STEPS,))[0, 0])
            done = count
        after[way] = torch.stack(scores)
    return Longer(tuple(updates), after)


@dataclass(frozen=True)
class OneTaste:
    """Reptile's errors where all users share one taste, (S,) each.

    ``at_the_shops_rate`` is after three steps with the rate that is best where tastes differ.
    """

    before: Tensor
    after: Tensor
    at_the_shops_rate: Tensor


def with_one_taste(seeds: tuple[int, ...] = SEEDS, steps: int = STEPS, shop: Shop = ONE_TASTE) -> OneTaste:
    """Train in a shop where there is nothing to adapt to: the negative control."""
    users = shop_users(shop, seeds)
    test, arm = users.test.shots(SHOTS), SHOP_ARMS[4]
    models = train(arm, users.train, seeds, steps=steps, label="one taste")
    before, after = errors(arm, models, test, RATE_WITH_ONE_TASTE, (0, INNER_STEPS))[:, 0]
    return OneTaste(before, after, errors(arm, models, test, arm.rate, (INNER_STEPS,))[0, 0])
