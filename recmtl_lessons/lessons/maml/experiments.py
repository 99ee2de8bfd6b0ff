"""The lesson's arms, how they are trained, and what is measured of them on the shop's new users."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from recmtl_lessons.datasets.few_shot import ONE_TASTE, SHOP, SHOTS, ColdStart, Shop, Tasks, own_mean, shop_users
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.training import ManyModels, concurrently_for
from recmtl_lessons.training.few_shot import (
    INNER_STEPS,
    RATES,
    SHOP_LEARNERS,
    STEPS,
    MAMLLearner,
    adapt_and_answer,
    errors,
    joint_objective,
    mean_error,
    meta_objective,
    over_seeds,
    train,
    user_errors,
)

# Each arm at its own best of the rates tried, on validation users of the design seeds: `score_training` does it again
# for training, `score_adapting` and `score_parts` for adapting. MAML and joint training have a rate of adapting for
# each number of ratings.
SHOP_ARMS = {
    **{name: SHOP_LEARNERS[name] for name in ("joint", "MAML", "first-order MAML")},
    "ANIL": MAMLLearner(meta_objective, 0.005, rate=0.1, inner_lr=0.1, options={"adapt": "head"}),
}
RATINGS = (1, 2, 5, 10, 20, 50)
LENGTHS = (3, 10, 30, 100, 300)  # of adapting: what was tried
IN_THREE_STEPS = {
    "joint": dict(zip(RATINGS, (0.003, 0.003, 0.02, 0.07, 0.1, 0.1), strict=True)),
    "MAML": dict(zip(RATINGS, (0.005, 0.01, 0.07, 0.1, 0.1, 0.1), strict=True)),
}
# The rate and the number of steps: the fewest steps within 0.0005 of the best.
AS_LONG_AS_HELPS = {
    "joint": {5: (0.005, 10), 10: (0.05, 30), 50: (0.03, 100)},
    "MAML": {5: (0.03, 10), 10: (0.05, 10), 50: (0.1, 10)},
}
# Parts of the network that can move alone, and the rate at which that is best from joint training's start.
PARTS = {"head alone": ("head.weight", "head.bias"), "bias alone": ("head.bias",)}
PART_RATES = {"head alone": 0.03, "bias alone": 0.003}
# Joint training for about as many seconds as MAML: updates, and the rates of training and of adapting.
LONGER = (1_200, replace(SHOP_ARMS["joint"], meta_lr=0.0005))
# Where all users share one taste.
ONE_TASTE_ARMS = {
    "joint": MAMLLearner(joint_objective, 0.003, rate=0.003),
    "MAML": MAMLLearner(meta_objective, 0.005, rate=0.003, inner_lr=0.01),
}


def errors_of_parts(models: ManyModels, tasks: Tasks, rate: float, part: str) -> Tensor:
    """Return the mean absolute error after three steps that move one of `PARTS` alone, (n_settings, S)."""

    def one_user(model, support_x, support_y, query_x):
        fixed = model.named_weights()
        moving = {name: fixed[name] for name in PARTS[part]}

        def loss(moving):
            return (model(support_x, {**fixed, **moving}).squeeze(1) - support_y).square().mean()

        for _ in range(INNER_STEPS):
            gradients = torch.func.grad(loss)(moving)
            moving = {name: value - rate * gradients[name] for name, value in moving.items()}
        return model(query_x, {**fixed, **moving}).squeeze(1)  # (Q,)

    def all_users(model, *tasks):
        return torch.vmap(lambda *task: one_user(model, *task))(*tasks)  # (T, Q)

    answers = models.each(all_users, tasks.support_x, tasks.support_y, tasks.query_x).cpu()
    return mean_error(answers.unflatten(0, (models.n_settings, models.n_seeds)), tasks)


def score_training(
    arm: str,
    meta_rates: Sequence[float] = (0.002, 0.003, 0.005, 0.01, 0.02),
    inner_rates: Sequence[float] = (0.003, 0.01, 0.03, 0.05, 0.1, 0.15),
    steps: int = STEPS,
    shop: Shop = SHOP,
) -> dict[tuple[float, float], float]:
    """Score each pair of rates by the error on validation users of the design seeds: so all arms were chosen.

    The first is Adam's. The second is that of the inner steps, in training and for new users alike; joint training has
    inner steps for new users only.
    """
    users = shop_users(shop, DESIGN_SEEDS)
    meta, found = SHOP_ARMS[arm].objective is meta_objective, {}
    for meta_rate in meta_rates:
        chosen = replace(SHOP_ARMS[arm], meta_lr=meta_rate)
        models = train(chosen, users.train, DESIGN_SEEDS, steps=steps, rates=inner_rates if meta else None)
        for k, rate in enumerate(inner_rates):
            scores = errors(chosen, models, users.valid.shots(SHOTS), rate, (INNER_STEPS,))
            found[meta_rate, rate] = over_seeds(scores[0, k if meta else 0])
    return found


def score_adapting(
    arm: str, shop: Shop = SHOP, shots: Sequence[int] = (SHOTS,), lengths: Sequence[int] = (INNER_STEPS,)
) -> dict[int, dict[tuple[float, int], float]]:
    """Score rates and numbers of steps, for each number of ratings, by the error on validation users.

    The users are those of the design seeds; so the tables of rates were chosen.
    """
    users, learner, found = shop_users(shop, DESIGN_SEEDS), SHOP_ARMS[arm], {}
    models = train(learner, users.train, DESIGN_SEEDS)
    for count in shots:
        found[count] = {}
        for rate in RATES:
            scores = errors(learner, models, users.valid.shots(count), rate, lengths)[:, 0]
            found[count] |= {(rate, n): over_seeds(score) for n, score in zip(lengths, scores, strict=True)}
    return found


def score_parts(part: str, rates: Sequence[float] = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)) -> dict[float, float]:
    """Score rates for one part that moves alone, as `score_adapting` does: so `PART_RATES` were chosen."""
    users = shop_users(SHOP, DESIGN_SEEDS)
    models, valid = train(SHOP_ARMS["joint"], users.train, DESIGN_SEEDS), users.valid.shots(SHOTS)
    return {rate: over_seeds(errors_of_parts(models, valid, rate, part)[0]) for rate in rates}


# What the lesson compares.


@dataclass(frozen=True)
class Comparison:
    """What the arms make of new users with ten ratings; S seeds.

    Attributes
    ----------
    users : ColdStart
    before, after : dict {arm: Tensor (S,)}
        Mean absolute error without adapting, and after three steps. ``after`` has more: "own mean", which is no
        network; "joint, longer", with six times the updates; and "head alone" and "bias alone", where joint training's
        network moves that part only.
    models : dict {arm: ManyModels}
    """

    users: ColdStart
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    models: dict[str, ManyModels]


@lru_cache(maxsize=2)
def compare(shop: Shop = SHOP, seeds: tuple[int, ...] = SEEDS, steps: int = STEPS) -> Comparison:
    """Train every arm for as many updates on as many ratings, and let each adapt with its own best rate."""
    users = shop_users(shop, seeds)
    test = users.test.shots(SHOTS)

    def learn(name: str) -> tuple[ManyModels, Tensor]:
        arm = SHOP_ARMS[name]
        models = train(arm, users.train, seeds, steps=steps, label=name)
        return models, errors(arm, models, test, arm.rate, (0, INNER_STEPS))[:, 0]

    def longer() -> Tensor:
        updates, arm = LONGER
        models = train(arm, users.train, seeds, steps=updates * steps // STEPS, label="joint, six times as long")
        return errors(arm, models, test, arm.rate, (INNER_STEPS,))[0, 0]

    slowest_first = ("MAML", "joint, longer", "ANIL", "first-order MAML", "joint")  # so that none learns on alone
    found = concurrently_for(slowest_first, lambda name: learn(name) if name in SHOP_ARMS else longer())
    before, after = ({name: found[name][1][when] for name in SHOP_ARMS} for when in (0, 1))
    models = {name: found[name][0] for name in SHOP_ARMS}
    after = {"own mean": mean_error(own_mean(test), test), **after, "joint, longer": found["joint, longer"]}
    after |= {part: errors_of_parts(models["joint"], test, rate, part)[0] for part, rate in PART_RATES.items()}
    return Comparison(users, before, after, models)


@dataclass(frozen=True)
class Start:
    """How joint training and MAML stand before a new user's first rating, (S,) each.

    Attributes
    ----------
    prefer_joint : Tensor
        Share of the new users for whom joint training errs less.
    offset, offset_after : Tensor
        How far MAML's answers are off for all users alike, the mean of the answers minus that of the ratings: at the
        start, and after one step on each user's ten ratings.
    """

    prefer_joint: Tensor
    offset: Tensor
    offset_after: Tensor


def before_the_first_rating(result: Comparison) -> Start:
    """Look at the two starting points themselves."""
    test = result.users.test.shots(SHOTS)
    joint = adapt_and_answer(SHOP_ARMS["joint"], result.models["joint"], test, None, (0,))[0]
    arm = SHOP_ARMS["MAML"]
    maml, moved = adapt_and_answer(arm, result.models["MAML"], test, arm.rate, (0, 1))
    prefer_joint = (user_errors(joint, test) < user_errors(maml, test)).float().mean(1)
    return Start(prefer_joint, *((answers - test.query_y).mean((1, 2)) for answers in (maml, moved)))


def from_anothers_ratings(result: Comparison) -> Tensor:
    """Return MAML's errors where each user gets the steps on another's ratings, (S,): a negative control."""
    test = result.users.test.shots(SHOTS)
    swapped = replace(test, support_x=test.support_x.roll(1, 1), support_y=test.support_y.roll(1, 1))
    arm = SHOP_ARMS["MAML"]
    return errors(arm, result.models["MAML"], swapped, arm.rate, (INNER_STEPS,))[0, 0]


@dataclass(frozen=True)
class ByRatings:
    """Errors by the number of ratings that a new user has given; S seeds.

    Attributes
    ----------
    ratings, few : tuple of int
        Numbers of ratings; ``few`` are those of ``as_long_as_helps``.
    without : Tensor, (S,)
        Joint training without adapting.
    in_three_steps : dict {arm: Tensor (len(ratings), S)}
        Each arm with its own best rate for the number of ratings.
    as_long_as_helps : dict {arm: Tensor (len(few), S)}
        With its own best number of steps as well, of `LENGTHS`.
    """

    ratings: tuple[int, ...]
    few: tuple[int, ...]
    without: Tensor
    in_three_steps: dict[str, Tensor]
    as_long_as_helps: dict[str, Tensor]


def by_ratings(result: Comparison) -> ByRatings:
    """Let the networks of a comparison adapt to more and fewer ratings."""
    test, three, long = result.users.test, {}, {}
    for name, chosen in AS_LONG_AS_HELPS.items():

        def after(ratings: int, rate: float, steps: int, name=name) -> Tensor:
            return errors(SHOP_ARMS[name], result.models[name], test.shots(ratings), rate, (steps,))[0, 0]

        three[name] = torch.stack([after(k, rate, INNER_STEPS) for k, rate in IN_THREE_STEPS[name].items()])
        long[name] = torch.stack([after(k, *rate_and_steps) for k, rate_and_steps in chosen.items()])
    return ByRatings(RATINGS, tuple(AS_LONG_AS_HELPS["MAML"]), result.before["joint"], three, long)


@dataclass(frozen=True)
class OneTaste:
    """Errors where all users share one taste, without adapting and after three steps: {arm: Tensor (S,)} each.

    ``at_the_shops_rate``, (S,), is MAML's after three steps at the rate that is best where tastes differ.
    """

    before: dict[str, Tensor]
    after: dict[str, Tensor]
    at_the_shops_rate: Tensor


def with_one_taste(seeds: tuple[int, ...] = SEEDS, steps: int = STEPS, shop: Shop = ONE_TASTE) -> OneTaste:
    """Train both in a shop where there is nothing to adapt to: the negative control."""
    users = shop_users(shop, seeds)
    test = users.test.shots(SHOTS)

    def learn(name: str) -> ManyModels:
        return train(ONE_TASTE_ARMS[name], users.train, seeds, steps=steps, label=f"one taste, {name}")

    models = concurrently_for(ONE_TASTE_ARMS, learn)
    scores = {n: errors(arm, models[n], test, arm.rate, (0, INNER_STEPS))[:, 0] for n, arm in ONE_TASTE_ARMS.items()}
    before, after = ({name: both[when] for name, both in scores.items()} for when in (0, 1))
    faster = errors(ONE_TASTE_ARMS["MAML"], models["MAML"], test, SHOP_ARMS["MAML"].rate, (INNER_STEPS,))[0, 0]
    return OneTaste(before, after, faster)
