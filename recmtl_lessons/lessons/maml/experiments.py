"""The lesson's arms, how they are trained, and what is measured of them on new users of the shop and of MovieLens."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.datasets.few_shot import (
    ONE_TASTE,
    SHOP,
    SHOTS,
    Shop,
    Tasks,
    film_mean_and_offset,
    film_users,
    own_mean,
    shop_users,
)
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.teaching.texts import read_yaml
from recmtl_lessons.training import ManyModels, Scores
from recmtl_lessons.training.few_shot import (
    ERROR,
    FILM_HIDDEN,
    FILM_LEARNERS,
    HIDDEN,
    INNER_STEPS,
    RATES,
    SHOP_LEARNERS,
    STEPS,
    Compared,
    MAMLLearner,
    adapt_and_answer,
    answer_each,
    compare_learners,
    errors,
    joint_objective,
    mean_error,
    meta_objective,
    over_seeds,
    score_rates,
    train,
    user_errors,
)

SETTINGS = read_yaml(Path(__file__).with_name("settings.yaml"))
_OBJECTIVES = {"joint": joint_objective, "MAML": meta_objective}
SHOP_ARMS = {
    **{name: SHOP_LEARNERS[name] for name in ("joint", "MAML", "first-order MAML")},
    "ANIL": MAMLLearner(meta_objective, **SETTINGS["anil"], options={"adapt": "head"}),
}
LONGER = replace(SHOP_ARMS["joint"], meta_lr=SETTINGS["longer"]["meta_lr"])
ONE_TASTE_ARMS = {name: MAMLLearner(_OBJECTIVES[name], **chosen) for name, chosen in SETTINGS["one_taste"].items()}
FILM_ARMS = {name: FILM_LEARNERS[name] for name in ("joint", "MAML")}
# Parts of the network that can move alone, from joint training's start.
PARTS = {"head alone": ("head.weight", "head.bias"), "bias alone": ("head.bias",)}
AT_THE_SHOPS_RATE = "MAML, at the shop's rate"


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

    answers = answer_each(one_user, models, tasks)
    return mean_error(answers.unflatten(0, (models.n_settings, models.n_seeds)), tasks)


def score_training(
    arm: str,
    meta_rates: Sequence[float] = SETTINGS["meta_rates"],
    inner_rates: Sequence[float] = SETTINGS["inner_rates"],
    steps: int = STEPS,
    shop: Shop = SHOP,
) -> dict[tuple[float, float], float]:
    """Score each pair of rates by the error on validation users of the design seeds: so all arms were chosen.

    The first is Adam's. The second is that of the inner steps, in training and for new users alike; joint training has
    inner steps for new users only.
    """
    users, learner = shop_users(shop, DESIGN_SEEDS), SHOP_ARMS[arm]
    known, valid = users.train, users.valid.shots(SHOTS)
    inner = _in_training(learner, inner_rates)
    scores = score_rates(learner, known, valid, DESIGN_SEEDS, meta_rates, inner, HIDDEN, inner_rates, steps)
    return {(meta, rate): score for (meta, inner, rate), score in scores.items() if inner in (None, rate)}


def score_films(
    ratings: Ratings,
    arm: str,
    meta_rates: Sequence[float] = SETTINGS["film_meta_rates"],
    inner_rates: Sequence[float] = SETTINGS["film_inner_rates"],
) -> dict[tuple[float, float | None, float], float]:
    """Score rates on validation users of MovieLens, as `score_rates` does: so those of the learners were chosen."""
    users, learner = film_users(ratings, DESIGN_SEEDS), FILM_ARMS[arm]
    known, valid, inner = users.train, users.valid.shots(SHOTS), _in_training(learner, inner_rates)
    return score_rates(learner, known, valid, DESIGN_SEEDS, meta_rates, inner, FILM_HIDDEN)


def _in_training(learner: MAMLLearner, rates: Sequence[float]) -> Sequence[float] | None:
    return rates if learner.objective is meta_objective else None


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


def score_parts(
    part: str, ratings: Ratings | None = None, rates: Sequence[float] = SETTINGS["tried_of_parts"]
) -> dict[float, float]:
    """Score rates for one part that moves alone, in the shop or with ``ratings`` on MovieLens, as `score_adapting`."""
    if ratings is None:
        users, learner, hidden = shop_users(SHOP, DESIGN_SEEDS), SHOP_ARMS["joint"], HIDDEN
    else:
        users, learner, hidden = film_users(ratings, DESIGN_SEEDS), FILM_ARMS["joint"], FILM_HIDDEN
    models, valid = train(learner, users.train, DESIGN_SEEDS, hidden), users.valid.shots(SHOTS)
    return {rate: over_seeds(errors_of_parts(models, valid, rate, part)[0]) for rate in rates}


# What the lesson compares.


@lru_cache(maxsize=2)
def compare(shop: Shop = SHOP, seeds: tuple[int, ...] = SEEDS, steps: int = STEPS) -> Compared:
    """Train every arm for as many updates on as many ratings, and let each adapt with its own best rate.

    ``after`` has more arms: "own mean", which is no network; "joint, longer", with six times the updates; and
    "head alone" and "bias alone", where joint training's network moves that part only.
    """
    arms = {**SHOP_ARMS, "joint, longer": LONGER}
    slowest_first = ("MAML", "joint, longer", "ANIL", "first-order MAML", "joint")
    updates = dict.fromkeys(arms, steps) | {"joint, longer": SETTINGS["longer"]["updates"] * steps // STEPS}
    found = compare_learners(
        {name: arms[name] for name in slowest_first},
        shop_users(shop, seeds),
        seeds,
        steps=updates,
        label=lambda name: "joint, six times as long" if name == "joint, longer" else name,
        answers={"own mean": own_mean},
    )
    return _with_parts(found, SETTINGS["parts"])


def _with_parts(found: Compared, rates: Mapping[str, float]) -> Compared:
    """Put the errors beside it of joint training's network where one part moves alone."""
    test, joint = found.users.test.shots(SHOTS), found.models["joint"]
    parts = {part: errors_of_parts(joint, test, rate, part)[0] for part, rate in rates.items()}
    return replace(found, after=Scores.of(ERROR, {arm: found.after[arm] for arm in found.after} | parts))


def compare_on_films(ratings: Ratings, seeds: tuple[int, ...] = SEEDS, steps: int = STEPS) -> Compared:
    """Train both arms on the same users for as many updates, and judge them on users of their own.

    ``after`` has "own mean", "film mean + offset" and "bias alone" too, where joint training's network moves its last
    bias and nothing else.
    """
    users, moments = film_users(ratings, seeds), range(INNER_STEPS + 1)
    known = {"own mean": own_mean, "film mean + offset": film_mean_and_offset}
    label = "films, {}".format
    found = compare_learners(FILM_ARMS, users, seeds, FILM_HIDDEN, steps, label, moments, known)
    return _with_parts(found, {"bias alone": SETTINGS["film_bias"]})


def before_the_first_rating(result: Compared) -> dict[str, Tensor]:
    """Look at the two starting points themselves.

    Returns
    -------
    dict {name: Tensor (S,)}
        ``prefer joint``: share of the new users for whom joint training errs less. ``offset`` and ``offset after``: how
        far MAML's answers are off for all users alike, the mean of the answers minus that of the ratings, at the start
        and after one step on each user's ten ratings.
    """
    test, arm = result.users.test.shots(SHOTS), SHOP_ARMS["MAML"]
    joint = adapt_and_answer(SHOP_ARMS["joint"], result.models["joint"], test, None, (0,))[0]
    maml, moved = adapt_and_answer(arm, result.models["MAML"], test, arm.rate, (0, 1))
    prefer_joint = (user_errors(joint, test) < user_errors(maml, test)).float().mean(1)
    offset, after = ((answers - test.query_y).mean((1, 2)) for answers in (maml, moved))
    return {"prefer joint": prefer_joint, "offset": offset, "offset after": after}


def from_anothers_ratings(result: Compared) -> Tensor:
    """Return MAML's errors where each user gets the steps on another's ratings, (S,): a negative control."""
    test = result.users.test.shots(SHOTS)
    swapped = replace(test, support_x=test.support_x.roll(1, 1), support_y=test.support_y.roll(1, 1))
    arm = SHOP_ARMS["MAML"]
    return errors(arm, result.models["MAML"], swapped, arm.rate, (INNER_STEPS,))[0, 0]


def by_ratings(result: Compared) -> dict[str, dict[int, Scores]]:
    """Let the networks of a comparison adapt to more and fewer ratings.

    Returns
    -------
    dict {"three steps" or "as long as helps": {number of ratings: Scores of "joint" and "MAML"}}
        Each arm with its own best rate for the number of ratings, and, as long as helps, its own best number of steps.
    """

    def scores(ratings: int, chosen: Mapping[str, tuple[float, int]]) -> Scores:
        test = result.users.test.shots(ratings)
        return Scores.of(ERROR, {
            name: errors(SHOP_ARMS[name], result.models[name], test, rate, (steps,))[0, 0]
            for name, (rate, steps) in chosen.items()
        })  # fmt: skip

    three, long = SETTINGS["in_three_steps"], SETTINGS["as_long_as_helps"]
    return {
        "three steps": {k: scores(k, {arm: (three[arm][k], INNER_STEPS) for arm in three}) for k in three["MAML"]},
        "as long as helps": {k: scores(k, {arm: long[arm][k] for arm in long}) for k in long["MAML"]},
    }


def with_one_taste(seeds: tuple[int, ...] = SEEDS, steps: int = STEPS, shop: Shop = ONE_TASTE) -> Compared:
    """Train both in a shop where there is nothing to adapt to: the negative control.

    ``after`` has MAML after three steps `AT_THE_SHOPS_RATE` too, which is best where tastes differ.
    """
    found = compare_learners(ONE_TASTE_ARMS, shop_users(shop, seeds), seeds, steps=steps, label="one taste, {}".format)
    test, maml, rate = found.users.test.shots(SHOTS), ONE_TASTE_ARMS["MAML"], SHOP_ARMS["MAML"].rate
    faster = errors(maml, found.models["MAML"], test, rate, (INNER_STEPS,))[0, 0]
    after = {arm: found.after[arm] for arm in found.after} | {AT_THE_SHOPS_RATE: faster}
    return replace(found, after=Scores.of(ERROR, after))
