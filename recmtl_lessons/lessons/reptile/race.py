"""MAML and Reptile trained before one's eyes, on as many gradients or for as many seconds."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from recmtl_lessons.datasets.few_shot import SHOP, SHOTS, Tasks, shop_users
from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.reptile.experiments import SHOP_ARMS
from recmtl_lessons.teaching import Running
from recmtl_lessons.training import ManyModels
from recmtl_lessons.training.few_shot import GRADIENTS, HIDDEN, INNER_STEPS, SHOP_LEARNERS, FewShotLearner, errors

RIVALS = ("MAML", "first-order MAML")
BUDGETS = ("as many gradients", "as many seconds")
UPDATES = 60  # of each, on as many gradients; the rates were chosen for 200
SECONDS = 2.0  # of training for each, in the other race
SLICE = 15  # updates between two measurements
_MOST = 2_000  # updates, whatever the seconds allow


@dataclass
class Runner:
    """One learner on its way: its stack of networks, and what it has used up.

    Attributes
    ----------
    updates : list of int
        At each measurement, the first before training.
    seconds : list of float
        Of training alone, for all seeds together.
    error : list of Tensor (S,)
        Mean absolute error of new users after three steps.
    """

    learner: FewShotLearner
    models: ManyModels
    updates: list[int] = field(default_factory=lambda: [0])
    seconds: list[float] = field(default_factory=lambda: [0.0])
    error: list[Tensor] = field(default_factory=list)

    def measure(self, tasks: Tasks) -> None:
        """Let the networks adapt to the users who are not trained on."""
        self.error.append(errors(self.learner, self.models, tasks, self.learner.rate, (INNER_STEPS,))[0, 0])


@dataclass(frozen=True)
class Race:
    """Where the two stand, Reptile first.

    Attributes
    ----------
    gradients, seconds : tuple of Tensor (moments,)
        Used up by each: gradients of one user's ten ratings, per seed; and seconds of training, for all seeds.
    error : tuple of Tensor (S, moments)
    """

    gradients: tuple[Tensor, ...]
    seconds: tuple[Tensor, ...]
    error: tuple[Tensor, ...]


def race(inner_steps: int, meta_lr: float, rival: str, budget: str, seed: int) -> Iterator[Running]:
    """Train both by turns, whoever has used up less; ``seed`` k takes the k-th eight shops and starts.

    A number of inner steps that is not among the lesson's arms borrows the inner rates of four.
    """
    seeds = tuple(SEEDS[0] + 8 * seed + k for k in range(8))
    users = shop_users(SHOP, seeds)
    valid = users.valid.shots(SHOTS)  # no test users: settings are tried out here
    runners = _runners(users.train, seeds, inner_steps, meta_lr, rival)
    marches = [runner.models.train(_MOST, every=SLICE) for runner in runners]
    in_seconds = budget == BUDGETS[1]
    end = SECONDS if in_seconds else UPDATES

    def used(runner: Runner) -> float:
        return runner.seconds[-1] if in_seconds else runner.updates[-1]

    def snapshot() -> Race:
        return Race(
            tuple(torch.tensor(r.updates) * GRADIENTS for r in runners),
            tuple(torch.tensor(r.seconds) for r in runners), tuple(torch.stack(r.error, dim=1) for r in runners),
        )  # fmt: skip

    for runner in runners:
        runner.measure(valid)
    while min(used(runner) for runner in runners) < end:
        k = min((0, 1), key=lambda k: used(runners[k]))
        _run_on(runners[k], marches[k])
        runners[k].measure(valid)
        done = sum(min(used(runner), end) for runner in runners)
        yield Running(round(50 * done / end), 100, snapshot, "percent")
    return snapshot()


def _runners(train: Tasks, seeds: tuple[int, ...], inner_steps: int, meta_lr: float, rival: str) -> list[Runner]:
    arm = replace(SHOP_ARMS.get(inner_steps, SHOP_ARMS[4]), inner_steps=inner_steps, meta_lr=meta_lr)
    return [Runner(learner, learner.stack(train, seeds, HIDDEN)) for learner in (arm, SHOP_LEARNERS[rival])]


def _run_on(runner: Runner, march: Iterator) -> None:
    start = time.perf_counter()
    moment = next(march)
    runner.seconds.append(runner.seconds[-1] + time.perf_counter() - start)
    runner.updates.append(moment.step)
