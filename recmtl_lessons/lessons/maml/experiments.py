"""The lesson's arms, how they are trained, and what is measured of them on the shop's new users."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.lessons.maml.users import (
    ONE_TASTE,
    SHOP,
    SHOTS,
    ColdStart,
    Shop,
    Tasks,
    mean_error,
    own_mean,
    shop_users,
    user_errors,
)
from recmtl_lessons.models import MAMLRecommender
from recmtl_lessons.training import ManyModels

STEPS = 200  # updates of every arm
USERS = 16  # users an update
INNER_STEPS = 3  # in training, and for a new user


# The objectives.


def meta_objective(model, batch, setting, progress):
    """MAML: adapt to each user's support ratings, and be judged on the query ratings."""
    users = batch["users"]
    tasks = tuple(users[f] for f in ("support_x", "support_y", "query_x", "query_y"))
    inner_lr = None if model.inner_rates is not None else setting["inner_lr"]
    return model.query_losses(tasks, inner_lr=inner_lr).mean(), {}


def joint_objective(model, batch, setting, progress):
    """Joint training: all ratings of all users of the batch, in one heap."""
    users = batch["users"]
    x = torch.cat([users["support_x"], users["query_x"]], dim=1).flatten(0, 1)  # (users * 20, F)
    y = torch.cat([users["support_y"], users["query_y"]], dim=1).flatten()
    return (model(x).squeeze(1) - y).square().mean(), {}


@dataclass(frozen=True)
class Arm:
    """A way to be ready for new users.

    Attributes
    ----------
    objective : callable
    meta_lr : float
        Adam's rate.
    inner_lr : float
        The rate of the inner steps in training; 1 where there are none.
    options : mapping
        Of the network.
    """

    objective: Callable
    meta_lr: float
    inner_lr: float = 1.0
    options: Mapping = field(default_factory=dict)


# Each arm at its own best, on validation users of the design seeds: the rates of training by `score_training`, those of
# adapting by `score_adapting`. In the shop, MAML and joint training have one for each number of ratings.
SHOP_ARMS = {
    "joint": Arm(joint_objective, 0.003),
    "MAML": Arm(meta_objective, 0.005, 0.05),
    "first-order MAML": Arm(meta_objective, 0.005, 0.1, {"first_order": True}),
    "ANIL": Arm(meta_objective, 0.005, 0.1, {"adapt": "head"}),
}
HIDDEN = (32, 32)
RATINGS = (1, 2, 5, 10, 20, 50)
RATES = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15)  # what was tried
IN_THREE_STEPS = {
    "joint": dict(zip(RATINGS, (0.01, 0.01, 0.02, 0.07, 0.1, 0.1), strict=True)),
    "MAML": dict(zip(RATINGS, (0.01, 0.01, 0.03, 0.05, 0.07, 0.07), strict=True)),
    "first-order MAML": {SHOTS: 0.1},
    "ANIL": {SHOTS: 0.1},
}
# The rate and the number of steps, of 1, 3, 10 and 50.
AT_LEISURE = {
    "joint": {5: (0.01, 10), 10: (0.03, 50), 50: (0.07, 50)},
    "MAML": {5: (0.01, 10), 10: (0.03, 10), 50: (0.05, 10)},
}
WITH_ONE_TASTE = {"joint": 0.01, "MAML": 0.01}


def train(
    arm: Arm,
    tasks: Tasks,
    seeds: Sequence[int],
    hidden: Sequence[int] = HIDDEN,
    steps: int = STEPS,
    label: str = "",
    rates: Sequence[float] | None = None,
) -> ManyModels:
    """Train one network a seed; with ``rates``, one for each of these inner rates and each seed."""
    width = tasks.support_x.shape[-1]

    def build() -> MAMLRecommender:
        return MAMLRecommender(width, hidden, inner_steps=INNER_STEPS, **arm.options)

    models = ManyModels(
        build, arm.objective, tasks.stream(), {"inner_lr": rates or (arm.inner_lr,)}, seeds, USERS, arm.meta_lr
    )
    return models.fit(steps, label=label, every=steps) if label else _quietly(models, steps)


def _quietly(models: ManyModels, steps: int) -> ManyModels:
    for _ in models.train(steps, every=steps):
        pass
    return models


def adapt_and_answer(models: ManyModels, tasks: Tasks, rate: float | None, steps: Sequence[int]) -> Tensor:
    """Let every network adapt to every user's support rows, and answer the query rows after some numbers of steps.

    Returns
    -------
    Tensor, (len(steps), n_models, T, Q)
    """
    marks = sorted(set(steps))

    def one_user(model, support_x, support_y, query_x):
        params, answers, done = model.named_weights(), [], 0
        for mark in marks:
            params = model.inner_update(support_x, support_y, mark - done, params, first_order=True, inner_lr=rate)
            answers.append(model(query_x, params).squeeze(1))  # (Q,)
            done = mark
        return torch.stack([answers[marks.index(mark)] for mark in steps])

    def all_users(model, *tasks):
        return torch.vmap(lambda *task: one_user(model, *task))(*tasks)  # (T, len(steps), Q)

    answers = models.each(all_users, tasks.support_x, tasks.support_y, tasks.query_x)
    return answers.movedim(2, 0).cpu()


def errors(models: ManyModels, tasks: Tasks, rate: float | None, steps: Sequence[int]) -> Tensor:
    """Mean absolute error after some numbers of steps, (len(steps), n_settings, S)."""
    answers = adapt_and_answer(models, tasks, rate, steps)
    return mean_error(answers.unflatten(1, (models.n_settings, models.n_seeds)), tasks)


def score_training(
    arm: str, meta_rates: Sequence[float] = (0.003, 0.005, 0.01), inner_rates: Sequence[float] = (0.03, 0.05, 0.1, 0.15)
) -> dict[tuple[float, float], float]:
    """Error on validation users of the design seeds for each pair of rates in training: how `SHOP_ARMS` was chosen.

    Joint training has no inner rate in training; there the second rate is that of fine-tuning.
    """
    users = shop_users(SHOP, DESIGN_SEEDS)
    meta, found = SHOP_ARMS[arm].objective is meta_objective, {}
    for meta_rate in meta_rates:
        chosen = replace(SHOP_ARMS[arm], meta_lr=meta_rate)
        models = train(chosen, users.train, DESIGN_SEEDS, rates=inner_rates if meta else None)
        for k, rate in enumerate(inner_rates):
            scores = errors(models, users.valid.shots(SHOTS), rate, (INNER_STEPS,))
            found[meta_rate, rate] = float(scores[0, k if meta else 0].mean())
    return found


def score_adapting(arm: str, shop: Shop = SHOP, shots: int = SHOTS) -> dict[tuple[float, int], float]:
    """Error on validation users of the design seeds for each rate and number of steps: how the tables were chosen."""
    users, steps = shop_users(shop, DESIGN_SEEDS), (1, 3, 10, 50)
    models, found = train(SHOP_ARMS[arm], users.train, DESIGN_SEEDS), {}
    for rate in RATES:
        scores = errors(models, users.valid.shots(shots), rate, steps)[:, 0].mean(1)
        found |= {(rate, n): float(score) for n, score in zip(steps, scores, strict=True)}
    return found


# What the lesson compares.


@dataclass(frozen=True)
class Comparison:
    """The arms on new users with ten ratings; S seeds.

    Attributes
    ----------
    users : ColdStart
    before, after : dict {arm: Tensor (S,)}
        Mean absolute error without adapting, and after three steps. ``after`` has "own mean" too.
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
    before, after, models = {}, {"own mean": mean_error(own_mean(test), test)}, {}
    for name, arm in SHOP_ARMS.items():
        models[name] = train(arm, users.train, seeds, steps=steps, label=name)
        scores = errors(models[name], test, IN_THREE_STEPS[name][SHOTS], (0, INNER_STEPS))
        before[name], after[name] = scores[:, 0]
    return Comparison(users, before, after, models)


@dataclass(frozen=True)
class Start:
    """Joint training and MAML before a new user's first rating, (S,) each.

    Attributes
    ----------
    prefer_joint : Tensor
        Share of the new users for whom joint training errs less.
    offset : Tensor
        How far MAML's starting point is off for all users alike: the mean of its answers minus that of the ratings.
    """

    prefer_joint: Tensor
    offset: Tensor


def before_the_first_rating(result: Comparison) -> Start:
    """Look at the two starting points themselves."""
    test = result.users.test
    joint, maml = (adapt_and_answer(result.models[name], test, None, (0,))[0] for name in ("joint", "MAML"))
    prefer_joint = (user_errors(joint, test) < user_errors(maml, test)).float().mean(1)
    return Start(prefer_joint, (maml - test.query_y).mean((1, 2)))


@dataclass(frozen=True)
class ByRatings:
    """Errors by the number of ratings that a new user has given; S seeds.

    Attributes
    ----------
    ratings, few : tuple of int
        Numbers of ratings; ``few`` are those with entries in ``at_leisure``.
    without : Tensor, (S,)
        Joint training without adapting.
    in_three_steps : dict {arm: Tensor (len(ratings), S)}
        Each arm with its own best rate for the number of ratings.
    at_leisure : dict {arm: Tensor (len(few), S)}
        With its own best number of steps as well, up to 50.
    """

    ratings: tuple[int, ...]
    few: tuple[int, ...]
    without: Tensor
    in_three_steps: dict[str, Tensor]
    at_leisure: dict[str, Tensor]


def by_ratings(result: Comparison) -> ByRatings:
    """Let the networks of a comparison adapt to more and fewer ratings."""
    test, hurried, leisurely = result.users.test, {}, {}
    for name, chosen in AT_LEISURE.items():
        models, quick = result.models[name], IN_THREE_STEPS[name]
        hurried[name] = torch.stack([errors(models, test.shots(k), quick[k], (INNER_STEPS,))[0, 0] for k in RATINGS])
        leisurely[name] = torch.stack([errors(models, test.shots(k), r, (n,))[0, 0] for k, (r, n) in chosen.items()])
    return ByRatings(RATINGS, tuple(AT_LEISURE["MAML"]), result.before["joint"], hurried, leisurely)


@dataclass(frozen=True)
class OneTaste:
    """Errors where all users share one taste, without adapting and after three steps: {arm: Tensor (S,)} each.

    ``at_the_shops_rate``, (S,), is MAML's after three steps with the rate that is best where tastes differ.
    """

    before: dict[str, Tensor]
    after: dict[str, Tensor]
    at_the_shops_rate: Tensor


def with_one_taste(seeds: tuple[int, ...] = SEEDS, steps: int = STEPS, shop: Shop = ONE_TASTE) -> OneTaste:
    """The negative control: the same trainings in a shop where there is nothing to adapt to."""
    users = shop_users(shop, seeds)
    test, before, after = users.test.shots(SHOTS), {}, {}
    for name, rate in WITH_ONE_TASTE.items():
        models = train(SHOP_ARMS[name], users.train, seeds, steps=steps, label=f"one taste, {name}")
        before[name], after[name] = errors(models, test, rate, (0, INNER_STEPS))[:, 0]
    return OneTaste(before, after, errors(models, test, IN_THREE_STEPS["MAML"][SHOTS], (INNER_STEPS,))[0, 0])
