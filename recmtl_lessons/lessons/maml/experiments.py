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
    over_seeds,
    own_mean,
    shop_users,
    user_errors,
)
from recmtl_lessons.models import MAMLRecommender
from recmtl_lessons.training import ManyModels, concurrently_for

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


# Each arm at its own best of the rates tried, on validation users of the design seeds: `score_training` does it again
# for training, `score_adapting` and `score_parts` for adapting. MAML and joint training have a rate of adapting for
# each number of ratings.
SHOP_ARMS = {
    "joint": Arm(joint_objective, 0.002),
    "MAML": Arm(meta_objective, 0.003, 0.1),
    "first-order MAML": Arm(meta_objective, 0.005, 0.05, {"first_order": True}),
    "ANIL": Arm(meta_objective, 0.005, 0.1, {"adapt": "head"}),
}
HIDDEN = (32, 32)
RATINGS = (1, 2, 5, 10, 20, 50)
RATES = (0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15)  # what was tried
LENGTHS = (3, 10, 30, 100, 300)  # of adapting
IN_THREE_STEPS = {
    "joint": dict(zip(RATINGS, (0.003, 0.003, 0.02, 0.07, 0.1, 0.1), strict=True)),
    "MAML": dict(zip(RATINGS, (0.005, 0.01, 0.07, 0.1, 0.1, 0.1), strict=True)),
    "first-order MAML": {SHOTS: 0.07},
    "ANIL": {SHOTS: 0.1},
}
# The rate and the number of steps: the fewest steps within 0.0005 of the best.
AS_LONG_AS_HELPS = {
    "joint": {5: (0.005, 10), 10: (0.05, 30), 50: (0.03, 100)},
    "MAML": {5: (0.03, 10), 10: (0.05, 10), 50: (0.1, 10)},
}
# Parts of the network that can move alone, and the rate at which that is best from joint training's start.
PARTS = {"head alone": ("head.weight", "head.bias"), "bias alone": ("head.bias",)}
PART_RATES = {"head alone": 0.03, "bias alone": 0.003}
# Joint training for about as many seconds as MAML: updates, Adam's rate, and the rate of adapting.
LONGER = (1_200, 0.0005, 0.07)
# Where all users share one taste: rates of training, and of three steps.
ONE_TASTE_ARMS = {"joint": Arm(joint_objective, 0.003), "MAML": Arm(meta_objective, 0.005, 0.01)}
ONE_TASTE_RATE = 0.003


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
    return stack(arm, tasks, seeds, hidden, rates).fit(steps, label=label, every=steps)


def stack(
    arm: Arm, tasks: Tasks, seeds: Sequence[int], hidden: Sequence[int], rates: Sequence[float] | None = None
) -> ManyModels:
    """The same, not trained yet."""
    width = tasks.support_x.shape[-1]

    def build() -> MAMLRecommender:
        return MAMLRecommender(width, hidden, inner_steps=INNER_STEPS, **arm.options)

    settings = {"inner_lr": rates or (arm.inner_lr,)}
    return ManyModels(build, arm.objective, tasks.stream(), settings, seeds, USERS, arm.meta_lr)


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


def errors_of_parts(models: ManyModels, tasks: Tasks, rate: float, part: str) -> Tensor:
    """Mean absolute error after three steps that move one of `PARTS` alone, (n_settings, S)."""

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


def errors(models: ManyModels, tasks: Tasks, rate: float | None, steps: Sequence[int]) -> Tensor:
    """Mean absolute error after some numbers of steps, (len(steps), n_settings, S)."""
    answers = adapt_and_answer(models, tasks, rate, steps)
    return mean_error(answers.unflatten(1, (models.n_settings, models.n_seeds)), tasks)


def score_training(
    arm: str,
    meta_rates: Sequence[float] = (0.002, 0.003, 0.005, 0.01, 0.02),
    inner_rates: Sequence[float] = (0.003, 0.01, 0.03, 0.05, 0.1, 0.15),
    steps: int = STEPS,
    shop: Shop = SHOP,
) -> dict[tuple[float, float], float]:
    """Error on validation users of the design seeds for each pair of rates: how all arms were chosen.

    The first is Adam's. The second is that of the inner steps, in training and for new users alike; joint training has
    inner steps for new users only.
    """
    users = shop_users(shop, DESIGN_SEEDS)
    meta, found = SHOP_ARMS[arm].objective is meta_objective, {}
    for meta_rate in meta_rates:
        chosen = replace(SHOP_ARMS[arm], meta_lr=meta_rate)
        models = train(chosen, users.train, DESIGN_SEEDS, steps=steps, rates=inner_rates if meta else None)
        for k, rate in enumerate(inner_rates):
            scores = errors(models, users.valid.shots(SHOTS), rate, (INNER_STEPS,))
            found[meta_rate, rate] = over_seeds(scores[0, k if meta else 0])
    return found


def score_adapting(
    arm: str, shop: Shop = SHOP, shots: Sequence[int] = (SHOTS,), lengths: Sequence[int] = (INNER_STEPS,)
) -> dict[int, dict[tuple[float, int], float]]:
    """Error on validation users of the design seeds, by number of ratings, then by rate and number of steps.

    How the tables of rates were chosen.
    """
    users = shop_users(shop, DESIGN_SEEDS)
    models, found = train(SHOP_ARMS[arm], users.train, DESIGN_SEEDS), {}
    for count in shots:
        found[count] = {}
        for rate in RATES:
            scores = errors(models, users.valid.shots(count), rate, lengths)[:, 0]
            found[count] |= {(rate, n): over_seeds(score) for n, score in zip(lengths, scores, strict=True)}
    return found


def score_parts(part: str, rates: Sequence[float] = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)) -> dict[float, float]:
    """Error on validation users of the design seeds where one part moves alone: how `PART_RATES` were chosen."""
    users = shop_users(SHOP, DESIGN_SEEDS)
    models, valid = train(SHOP_ARMS["joint"], users.train, DESIGN_SEEDS), users.valid.shots(SHOTS)
    return {rate: over_seeds(errors_of_parts(models, valid, rate, part)[0]) for rate in rates}


# What the lesson compares.


@dataclass(frozen=True)
class Comparison:
    """The arms on new users with ten ratings; S seeds.

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
        models = train(SHOP_ARMS[name], users.train, seeds, steps=steps, label=name)
        return models, errors(models, test, IN_THREE_STEPS[name][SHOTS], (0, INNER_STEPS))[:, 0]

    def longer() -> Tensor:
        updates, meta_lr, rate = LONGER
        arm = replace(SHOP_ARMS["joint"], meta_lr=meta_lr)
        models = train(arm, users.train, seeds, steps=updates * steps // STEPS, label="joint, six times as long")
        return errors(models, test, rate, (INNER_STEPS,))[0, 0]

    slowest_first = ("MAML", "joint, longer", "ANIL", "first-order MAML", "joint")  # so that none learns on alone
    found = concurrently_for(slowest_first, lambda name: learn(name) if name in SHOP_ARMS else longer())
    before, after = ({name: found[name][1][when] for name in SHOP_ARMS} for when in (0, 1))
    models = {name: found[name][0] for name in SHOP_ARMS}
    after = {"own mean": mean_error(own_mean(test), test), **after, "joint, longer": found["joint, longer"]}
    after |= {part: errors_of_parts(models["joint"], test, rate, part)[0] for part, rate in PART_RATES.items()}
    return Comparison(users, before, after, models)


@dataclass(frozen=True)
class Start:
    """Joint training and MAML before a new user's first rating, (S,) each.

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
    joint = adapt_and_answer(result.models["joint"], test, None, (0,))[0]
    maml, moved = adapt_and_answer(result.models["MAML"], test, IN_THREE_STEPS["MAML"][SHOTS], (0, 1))
    prefer_joint = (user_errors(joint, test) < user_errors(maml, test)).float().mean(1)
    return Start(prefer_joint, *((answers - test.query_y).mean((1, 2)) for answers in (maml, moved)))


def from_anothers_ratings(result: Comparison) -> Tensor:
    """Errors of MAML where each user gets the steps on the ratings of another, (S,): a negative control."""
    test = result.users.test.shots(SHOTS)
    swapped = replace(test, support_x=test.support_x.roll(1, 1), support_y=test.support_y.roll(1, 1))
    return errors(result.models["MAML"], swapped, IN_THREE_STEPS["MAML"][SHOTS], (INNER_STEPS,))[0, 0]


@dataclass(frozen=True)
class ByRatings:
    """Errors by the number of ratings that a new user has given; S seeds.

    Attributes
    ----------
    ratings, few : tuple of int
        Numbers of ratings; ``few`` are those with entries in ``as_long_as_helps``.
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
        models, quick = result.models[name], IN_THREE_STEPS[name]
        three[name] = torch.stack([errors(models, test.shots(k), quick[k], (INNER_STEPS,))[0, 0] for k in RATINGS])
        long[name] = torch.stack([errors(models, test.shots(k), r, (n,))[0, 0] for k, (r, n) in chosen.items()])
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
    """The negative control: the same trainings in a shop where there is nothing to adapt to."""
    users = shop_users(shop, seeds)
    test = users.test.shots(SHOTS)

    def learn(name: str) -> ManyModels:
        return train(ONE_TASTE_ARMS[name], users.train, seeds, steps=steps, label=f"one taste, {name}")

    models = concurrently_for(ONE_TASTE_ARMS, learn)
    scores = {name: errors(m, test, ONE_TASTE_RATE, (0, INNER_STEPS))[:, 0] for name, m in models.items()}
    before, after = ({name: both[when] for name, both in scores.items()} for when in (0, 1))
    faster = errors(models["MAML"], test, IN_THREE_STEPS["MAML"][SHOTS], (INNER_STEPS,))[0, 0]
    return OneTaste(before, after, faster)
