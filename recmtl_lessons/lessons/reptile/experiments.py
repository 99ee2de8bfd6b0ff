"""The lesson's arms, how they are trained, and what is measured of them on the shop's new users."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.lessons.maml import experiments as maml
from recmtl_lessons.lessons.maml.users import (
    ONE_TASTE,
    SHOP,
    SHOTS,
    ColdStart,
    Shop,
    Tasks,
    mean_error,
    over_seeds,
    shop_users,
)
from recmtl_lessons.models import ReptileRecommender
from recmtl_lessons.training import ManyModels, concurrently_for

STEPS = maml.STEPS  # updates of every arm
GRADIENTS = maml.USERS * (maml.INNER_STEPS + 1)  # an update: MAML's three inner ones and one on the query, for 16 users
TEST_STEPS = maml.INNER_STEPS  # inner steps for a new user


# The objective.


def all_ratings(users: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Support and query together, x (T, 20, F) and y (T, 20): Reptile does not tell them apart."""
    x = torch.cat([users["support_x"], users["query_x"]], dim=1)
    return x, torch.cat([users["support_y"], users["query_y"]], dim=1)


def reptile_objective(model, batch, setting, progress):
    """A number whose gradient is the mean of phi - W, so that plain gradient descent on it is Reptile's step."""
    move = model.pseudo_gradient(all_ratings(batch["users"]), inner_lr=setting["inner_lr"])
    return sum((value * move[name]).sum() for name, value in model.named_weights().items()), {}


@dataclass(frozen=True)
class Arm:
    """Reptile with some settings.

    Attributes
    ----------
    inner_steps : int
        On ten ratings each, by turns the first ten and the second ten of a user. A single step takes all twenty.
    meta_lr : float
        Epsilon.
    inner_lr : float
        In training.
    rate : float
        Of the steps for a new user.
    """

    inner_steps: int = maml.INNER_STEPS + 1
    meta_lr: float = 1.0
    inner_lr: float = 0.05
    rate: float = 0.05

    @property
    def rows(self) -> int:
        """Ratings a step."""
        return 2 * SHOTS if self.inner_steps == 1 else SHOTS

    @property
    def users(self) -> int:
        """Users an update, so that every arm takes as many gradients of ten ratings."""
        return GRADIENTS * SHOTS // (self.inner_steps * self.rows)


# Each at its own best, on validation users of the design seeds: see `score_training`.
SHOP_ARMS = {1: Arm(1, 1.0, 0.15, 0.1), 2: Arm(2, 1.5, 0.07, 0.1), 4: Arm(4, 1.0, 0.05, 0.05)}
SHUFFLED = Arm(4, 1.0, 0.07, 0.1)  # on groups of ratings that are nobody's
RATES = maml.RATES
RATE_WITH_ONE_TASTE = 0.003  # for new users: see `score_one_taste`; the rates in training are kept
RIVALS = ("joint", "MAML")  # lesson 04's arms


def train(
    arm: Arm,
    tasks: Tasks,
    seeds: Sequence[int],
    hidden: Sequence[int] = maml.HIDDEN,
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

    def build() -> ReptileRecommender:
        return ReptileRecommender(width, hidden, inner_steps=arm.inner_steps, inner_batch_size=arm.rows)

    settings = {"inner_lr": rates or (arm.inner_lr,)}
    return ManyModels(
        build, reptile_objective, tasks.stream(), settings, seeds, arm.users, arm.meta_lr, optimizer="sgd"
    )


def adapt_and_answer(models: ManyModels, tasks: Tasks, rate: float, steps: Sequence[int]) -> Tensor:
    """Let every network train on every user's support rows, and answer the query rows after some numbers of steps.

    Returns
    -------
    Tensor, (len(steps), n_models, T, Q)
    """
    marks = sorted(set(steps))

    def one_user(model, support_x, support_y, query_x):
        params, answers, done = None, {}, 0
        for mark in marks:
            params = model.inner_loop((support_x, support_y), mark - done, params, inner_lr=rate)
            answers[mark], done = model(query_x, params).squeeze(1), mark  # (Q,)
        return torch.stack([answers[mark] for mark in steps])

    def all_users(model, *tasks):
        return torch.vmap(lambda *task: one_user(model, *task))(*tasks)  # (T, len(steps), Q)

    answers = models.each(all_users, tasks.support_x, tasks.support_y, tasks.query_x)
    return answers.movedim(2, 0).cpu()


def errors(models: ManyModels, tasks: Tasks, rate: float, steps: Sequence[int]) -> Tensor:
    """Mean absolute error after some numbers of steps, (len(steps), n_settings, S)."""
    answers = adapt_and_answer(models, tasks, rate, steps)
    return mean_error(answers.unflatten(1, (models.n_settings, models.n_seeds)), tasks)


def score_training(
    inner_steps: int,
    meta_rates: Sequence[float] = (0.5, 1.0, 1.5, 2.0),
    inner_rates: Sequence[float] = (0.03, 0.05, 0.07, 0.1, 0.15),
    shop: Shop = SHOP,
    shuffled: bool = False,
) -> dict[tuple[float, float, float], float]:
    """Error on validation users of the design seeds: how `SHOP_ARMS` and, with ``shuffled``, `SHUFFLED` were chosen.

    Keys are epsilon, the inner rate in training, and the rate for a new user.
    """
    users, found = shop_users(shop, DESIGN_SEEDS), {}
    known = without_users(users.train, DESIGN_SEEDS) if shuffled else users.train
    for meta_lr in meta_rates:
        arm = Arm(inner_steps, meta_lr)
        models = train(arm, known, DESIGN_SEEDS, rates=inner_rates)
        for rate in RATES:
            scores = over_seeds(errors(models, users.valid.shots(SHOTS), rate, (TEST_STEPS,))[0])
            found |= {(meta_lr, inner, rate): s for inner, s in zip(inner_rates, scores, strict=True)}
    return found


def score_one_taste(shop: Shop = ONE_TASTE) -> dict[float, float]:
    """The same where all share one taste, by the rate for a new user: how `RATE_WITH_ONE_TASTE` was chosen."""
    users = shop_users(shop, DESIGN_SEEDS)
    models, valid = train(SHOP_ARMS[4], users.train, DESIGN_SEEDS), users.valid.shots(SHOTS)
    return {rate: over_seeds(errors(models, valid, rate, (TEST_STEPS,))[0, 0]) for rate in RATES}


# What the lesson compares.


def training_users(seeds: tuple[int, ...] = SEEDS) -> Tasks:
    """The shop's users to train on."""
    return shop_users(SHOP, seeds).train


@dataclass(frozen=True)
class Comparison:
    """The arms on new users with ten ratings; S seeds.

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
        if name in RIVALS:
            models = maml.train(maml.SHOP_ARMS[name], users.train, seeds, steps=steps, label=name)
            return models, maml.errors(models, test, maml.IN_THREE_STEPS[name][SHOTS], (0, TEST_STEPS))[:, 0]
        arm, label = SHOP_ARMS[name], f"Reptile, {name} inner step" + "s" * (name > 1)
        models = train(arm, users.train, seeds, steps=steps, label=label)
        return models, errors(models, test, arm.rate, (0, TEST_STEPS))[:, 0]

    names = (*RIVALS, *inner_steps)
    slowest_first = ("MAML", *reversed(inner_steps), "joint")  # so that none is left to learn alone
    found = concurrently_for(slowest_first, learn)
    before, after = ({name: found[name][1][when] for name in names} for when in (0, 1))
    return Comparison(users, before, after, {name: found[name][0] for name in names})


# Controls.


def without_users(tasks: Tasks, seeds: Sequence[int]) -> Tasks:
    """The same ratings dealt anew, so that a "user" holds ratings of many: nobody's taste is left in a group."""
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
    """Reptile trained on groups that are nobody's: errors of new users after three steps, (S,), and the networks."""

    after: Tensor
    models: ManyModels


def with_shuffled_users(result: Comparison, seeds: tuple[int, ...] = SEEDS, steps: int = STEPS) -> Shuffled:
    """Train on the same ratings dealt anew, with four inner steps."""
    groups = without_users(result.users.train, seeds)
    models = train(SHUFFLED, groups, seeds, steps=steps, label="nobody's ratings")
    return Shuffled(errors(models, result.users.test.shots(SHOTS), SHUFFLED.rate, (TEST_STEPS,))[0, 0], models)


@dataclass(frozen=True)
class Longer:
    """The control at several lengths of training: {way: Tensor (len(updates), S)}, errors of new users."""

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
        models, scores, done = stack(arm, known, seeds, maml.HIDDEN), [], 0
        for count in updates:
            models.fit(count - done, label=way, every=count - done)
            scores.append(errors(models, users.test.shots(SHOTS), arm.rate, (TEST_STEPS,))[0, 0])
            done = count
        after[way] = torch.stack(scores)
    return Longer(tuple(updates), after)


@dataclass(frozen=True)
class OneTaste:
    """Errors of Reptile where all users share one taste, (S,) each.

    ``at_the_shops_rate`` is after three steps with the rate that is best where tastes differ.
    """

    before: Tensor
    after: Tensor
    at_the_shops_rate: Tensor


def with_one_taste(seeds: tuple[int, ...] = SEEDS, steps: int = STEPS, shop: Shop = ONE_TASTE) -> OneTaste:
    """The negative control: the same training in a shop where there is nothing to adapt to."""
    users = shop_users(shop, seeds)
    test, arm = users.test.shots(SHOTS), SHOP_ARMS[4]
    models = train(arm, users.train, seeds, steps=steps, label="one taste")
    before, after = errors(models, test, RATE_WITH_ONE_TASTE, (0, TEST_STEPS))[:, 0]
    return OneTaste(before, after, errors(models, test, arm.rate, (TEST_STEPS,))[0, 0])
