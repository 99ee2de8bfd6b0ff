"""Few-shot learners for new users: networks that train on known users, many at once, and adapt to new ones.

A learner is a method with its settings. The tables hold those that were chosen on validation users of other seeds than
those of the claims; the lessons' ``score_...`` functions choose again.
"""

import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor, nn

from recmtl_lessons.datasets.few_shot import SHOTS, ColdStart, Tasks
from recmtl_lessons.models import MAMLRecommender, ReptileRecommender
from recmtl_lessons.training.jobs import concurrently_for
from recmtl_lessons.training.scores import Scores
from recmtl_lessons.training.stacked import DivergenceError, ManyModels

Params = dict[str, Tensor]

STEPS = 200  # updates of every learner
USERS = 16  # users per update
INNER_STEPS = 3  # of MAML in training, and of every learner for a new user
GRADIENTS = USERS * (INNER_STEPS + 1)  # per update: for each user MAML's three inner ones and one on the query
HIDDEN, FILM_HIDDEN = (32, 32), (32,)
RATES = (0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15)  # for a new user: what was tried
ERROR = "mean absolute error, stars"
FIELDS = ("support_x", "support_y", "query_x", "query_y")


class FewShotLearner(Protocol):
    """What a way to be ready for new users has to do: `train`, `adapt_and_answer` and `errors` ask for no more."""

    @property
    def rate(self) -> float:
        """The chosen rate of the steps for a new user with ten ratings."""

    def stack(
        self, tasks: Tasks, seeds: Sequence[int], hidden: Sequence[int], rates: Sequence[float] | None = None
    ) -> ManyModels:
        """Return networks to train: one per seed; with ``rates``, one for each of these inner rates and each seed."""

    def adapt(
        self, model: nn.Module, x: Tensor, y: Tensor, num_steps: int, params: Params | None, rate: float | None
    ) -> Params:
        """Take steps on one user's rows, from ``params`` or from the model's own parameters."""


def train(
    learner: FewShotLearner,
    tasks: Tasks,
    seeds: Sequence[int],
    hidden: Sequence[int] = HIDDEN,
    steps: int = STEPS,
    label: str = "",
    rates: Sequence[float] | None = None,
) -> ManyModels:
    """Train one network per seed; with ``rates``, one for each of these inner rates and each seed."""
    return learner.stack(tasks, seeds, hidden, rates).fit(steps, label=label, every=steps)


def adapt_and_answer(
    learner: FewShotLearner, models: ManyModels, tasks: Tasks, rate: float | None, steps: Sequence[int]
) -> Tensor:
    """Let every network adapt to every user's support rows, and answer the query rows after some numbers of steps.

    Returns
    -------
    Tensor, (len(steps), n_models, T, Q)
    """
    marks = sorted(set(steps))

    def one_user(model, support_x, support_y, query_x):
        params, answers, done = None, {}, 0
        for mark in marks:
            params = learner.adapt(model, support_x, support_y, mark - done, params, rate)
            answers[mark], done = model(query_x, params).squeeze(1), mark  # (Q,)
        return torch.stack([answers[mark] for mark in steps])

    return answer_each(one_user, models, tasks).movedim(2, 0)


def answer_each(one_user: Callable, models: ManyModels, tasks: Tasks) -> Tensor:
    """Return every network's answers to every user, (n_models, T, ...), by ``one_user(model, x, y, query_x)``."""

    def all_users(model, *tasks):
        return torch.vmap(lambda *task: one_user(model, *task))(*tasks)

    return models.each(all_users, tasks.support_x, tasks.support_y, tasks.query_x).cpu()


def errors(
    learner: FewShotLearner, models: ManyModels, tasks: Tasks, rate: float | None, steps: Sequence[int]
) -> Tensor:
    """Return the mean absolute error after some numbers of steps, (len(steps), n_settings, S)."""
    answers = adapt_and_answer(learner, models, tasks, rate, steps)
    return mean_error(answers.unflatten(1, (models.n_settings, models.n_seeds)), tasks)


def user_errors(answers: Tensor, tasks: Tasks) -> Tensor:
    """Return the mean absolute error of each user's query rows: (..., S, T, Q) -> (..., S, T)."""
    if answers.shape[-3:] != tasks.query_y.shape:
        raise ValueError(f"answers: got {tuple(answers.shape)}, expected (..., *{tuple(tasks.query_y.shape)})")
    known = tasks.known.to(answers.dtype)
    return ((answers - tasks.query_y).abs() * known).sum(-1) / known.sum(-1)


def mean_error(answers: Tensor, tasks: Tasks) -> Tensor:
    """Return the mean of the users' errors, in which each user counts the same: (..., S, T, Q) -> (..., S)."""
    return user_errors(answers, tasks).mean(-1)


def over_seeds(scores: Tensor) -> list[float]:
    """Return means over seeds, (..., S) -> (...); infinite where a training diverged, for NaN cannot be compared."""
    return scores.mean(-1).nan_to_num(nan=float("inf"), posinf=float("inf")).tolist()


def score_rates(
    learner: FewShotLearner,
    known: Tasks,
    valid: Tasks,
    seeds: Sequence[int],
    meta_rates: Sequence[float],
    inner_rates: Sequence[float] | None = None,
    hidden: Sequence[int] = HIDDEN,
    rates: Sequence[float] = RATES,
    steps: int = STEPS,
) -> dict[tuple[float, float | None, float], float]:
    """Score rates by the error on validation users, mean over the seeds: so they are chosen.

    Keys are the outer rate, the rate of the inner steps in training (None: the learner's own, if it has any), and that
    for a new user.
    """
    found = {}
    for meta_lr in meta_rates:
        arm = replace(learner, meta_lr=meta_lr)
        for inner, models in _trained_at(arm, known, seeds, hidden, steps, inner_rates):
            for rate in rates:
                scores = over_seeds(errors(arm, models, valid, rate, (INNER_STEPS,))[0]) if models else [math.inf]
                found |= {(meta_lr, own, rate): s for own, s in zip(inner, scores, strict=True)}
    return found


def _trained_at(
    learner: FewShotLearner,
    known: Tasks,
    seeds: Sequence[int],
    hidden: Sequence[int],
    steps: int,
    rates: Sequence[float] | None,
) -> Iterator[tuple[Sequence[float | None], ManyModels | None]]:
    """Train all inner rates side by side; if one diverges, which stops all, each alone, with None for those that do."""
    try:
        yield rates or (None,), train(learner, known, seeds, hidden, steps, rates=rates)
    except DivergenceError:
        if rates is None or len(rates) == 1:
            yield rates or (None,), None
        else:
            for rate in rates:
                yield from _trained_at(learner, known, seeds, hidden, steps, (rate,))


@dataclass(frozen=True)
class Compared:
    """What learners make of the same new users with ten ratings.

    Attributes
    ----------
    users : ColdStart
    models : dict {arm: ManyModels}
    by_step : Scores
        Mean absolute error after some numbers of steps, which are the moments; the first is 0.
    after : Scores
        After the last of them; also of answers that need no network.
    """

    users: ColdStart
    models: dict[Hashable, ManyModels]
    by_step: Scores
    after: Scores

    @property
    def before(self) -> Scores:
        """The error without adapting."""
        return replace(self.by_step, values=self.by_step.values[..., 0], steps=())


def compare_learners(
    learners: Mapping[Hashable, FewShotLearner],
    users: ColdStart,
    seeds: Sequence[int],
    hidden: Sequence[int] = HIDDEN,
    steps: int | Mapping[Hashable, int] = STEPS,
    label: Callable[[Hashable], str] = str,
    moments: Sequence[int] = (0, INNER_STEPS),
    answers: Mapping[Hashable, Callable[[Tasks], Tensor]] = MappingProxyType({}),
) -> Compared:
    """Train every learner on the same users, and let each adapt to those to be judged with its own best rate.

    Where learners differ in how long they take, the slowest should come first, so that none learns on alone. ``steps``
    are updates of training, of all or of each. ``answers`` are functions of tasks that need no network.
    """
    test = users.test.shots(SHOTS)

    def learn(name: Hashable) -> tuple[ManyModels, Tensor]:
        updates, learner = steps if isinstance(steps, int) else steps[name], learners[name]
        models = train(learner, users.train, seeds, hidden, updates, label(name))
        return models, errors(learner, models, test, learner.rate, moments)[:, 0]  # (moments, S)

    found = concurrently_for(learners, learn)
    by_step = Scores.of(ERROR, {name: values.T for name, (_, values) in found.items()}, moments)
    after = {name: values[-1] for name, (_, values) in found.items()}
    after |= {name: mean_error(answer(test), test) for name, answer in answers.items()}
    return Compared(users, {name: models for name, (models, _) in found.items()}, by_step, Scores.of(ERROR, after))


def milliseconds_by_turns(acts: Sequence[Callable[[], object]], repeats: int) -> Tensor:
    """Return the times of each act, (repeats, acts), taken by turns: a busy moment of the machine meets all of them."""
    times = torch.zeros(repeats + 3, len(acts))
    for turn in times:
        for k, act in enumerate(acts):
            started = time.perf_counter()
            act()
            turn[k] = 1e3 * (time.perf_counter() - started)
    return times[3:]  # the first ones warm up


# MAML, and joint training with fine-tuning, which adapts in the same way.


def meta_objective(model, batch, setting, progress):
    """MAML: adapt to each user's support ratings, and be judged on the query ratings."""
    users = batch["users"]
    inner_lr = None if model.inner_rates is not None else setting["inner_lr"]
    return model.query_losses(tuple(users[f] for f in FIELDS), inner_lr=inner_lr).mean(), {}


def joint_objective(model, batch, setting, progress):
    """Joint training: all ratings of all users of the batch, in one heap."""
    x, y = all_ratings(batch["users"])
    return (model(x.flatten(0, 1)).squeeze(1) - y.flatten()).square().mean(), {}  # of users * 20 rows


def all_ratings(users: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Put support and query together: x (T, 20, F) and y (T, 20)."""
    x = torch.cat([users["support_x"], users["query_x"]], dim=1)
    return x, torch.cat([users["support_y"], users["query_y"]], dim=1)


@dataclass(frozen=True)
class MAMLLearner:
    """A `MAMLRecommender` with an objective, which takes gradient steps for a new user.

    Attributes
    ----------
    objective : callable
    meta_lr : float
        Adam's rate.
    rate : float
        The rate of the steps for a new user.
    inner_lr : float
        The rate of the inner steps in training; 1 where there are none.
    options : mapping
        Of the network.
    """

    objective: Callable
    meta_lr: float
    rate: float
    inner_lr: float = 1.0
    options: Mapping = field(default_factory=dict)

    def stack(
        self, tasks: Tasks, seeds: Sequence[int], hidden: Sequence[int], rates: Sequence[float] | None = None
    ) -> ManyModels:
        """Return networks to train, as `FewShotLearner` has it."""
        width = tasks.support_x.shape[-1]

        def build() -> MAMLRecommender:
            return MAMLRecommender(width, hidden, inner_steps=INNER_STEPS, **self.options)

        settings = {"inner_lr": rates or (self.inner_lr,)}
        return ManyModels(build, self.objective, tasks.stream(), settings, seeds, USERS, self.meta_lr)

    def adapt(
        self, model: MAMLRecommender, x: Tensor, y: Tensor, num_steps: int, params: Params | None, rate: float | None
    ) -> Params:
        """Take steps on one user's rows, as `FewShotLearner` has it."""
        return model.inner_update(x, y, num_steps, params, first_order=True, inner_lr=rate)


# Reptile.


def reptile_objective(model, batch, setting, progress):
    """Return a number whose gradient is the mean of phi - W, so that gradient descent on it is Reptile's step."""
    move = model.pseudo_gradient(all_ratings(batch["users"]), inner_lr=setting["inner_lr"])
    return sum((value * move[name]).sum() for name, value in model.named_weights().items()), {}


@dataclass(frozen=True)
class ReptileLearner:
    """A `ReptileRecommender` with its settings.

    Attributes
    ----------
    inner_steps : int
        On ten ratings each, by turns the first ten and the second ten of a user. A single step takes all twenty.
    meta_lr : float
        Epsilon.
    inner_lr : float
        The rate of the inner steps in training.
    rate : float
        The rate of the steps for a new user.
    """

    inner_steps: int = INNER_STEPS + 1
    meta_lr: float = 1.0
    inner_lr: float = 0.05
    rate: float = 0.05

    @property
    def rows(self) -> int:
        """Ratings per step."""
        return 2 * SHOTS if self.inner_steps == 1 else SHOTS

    @property
    def users(self) -> int:
        """Users per update, so that it takes as many gradients of ten ratings whatever the number of inner steps."""
        return GRADIENTS * SHOTS // (self.inner_steps * self.rows)

    def stack(
        self, tasks: Tasks, seeds: Sequence[int], hidden: Sequence[int], rates: Sequence[float] | None = None
    ) -> ManyModels:
        """Return networks to train, as `FewShotLearner` has it."""
        width = tasks.support_x.shape[-1]

        def build() -> ReptileRecommender:
            return ReptileRecommender(width, hidden, inner_steps=self.inner_steps, inner_batch_size=self.rows)

        settings = {"inner_lr": rates or (self.inner_lr,)}
        return ManyModels(
            build, reptile_objective, tasks.stream(), settings, seeds, self.users, self.meta_lr, optimizer="sgd"
        )

    def adapt(
        self, model: ReptileRecommender, x: Tensor, y: Tensor, num_steps: int, params: Params | None, rate: float | None
    ) -> Params:
        """Take steps on one user's rows, as `FewShotLearner` has it."""
        return model.inner_loop((x, y), num_steps, params, inner_lr=rate)


# What was chosen, each learner at its own best.

SHOP_LEARNERS = {
    "joint": MAMLLearner(joint_objective, 0.002, rate=0.07),
    "MAML": MAMLLearner(meta_objective, 0.003, rate=0.1, inner_lr=0.1),
    "first-order MAML": MAMLLearner(meta_objective, 0.005, rate=0.07, inner_lr=0.05, options={"first_order": True}),
    "Reptile": ReptileLearner(4, 1.0, inner_lr=0.05, rate=0.05),
}
FILM_LEARNERS = {
    "joint": MAMLLearner(joint_objective, 0.002, rate=0.07),
    "MAML": MAMLLearner(meta_objective, 0.002, rate=0.07, inner_lr=0.05),
    "Reptile": ReptileLearner(4, 0.12, inner_lr=0.2, rate=0.1),
}
