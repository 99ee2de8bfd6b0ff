"""Sessions as one batch of tensors, against Gymnasium's `SyncVectorEnv` over the same dynamics one by one.

Both take the same actions from the same seed and begin a session anew where one ended. The single environment follows
the same rules as a batch of one, so that what it costs is mostly a few dozen calls of torch. Everything runs in one
process with its number of threads; the ways take turns, so that a machine that slows down meanwhile does so for both.
"""

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

from recmtl_lessons.envs import SURFACES, SessionEnv, SessionVectorEnv, make_users
from recmtl_lessons.training.device import settle_threads

SESSIONS = 256
STEPS = 300  # more than the numbers that are drawn at a time, so that drawing anew is in it
STEPS_ONE_BY_ONE = 15
USERS = make_users(200, 0)


def measure(repeats: int = 7) -> Iterator[tuple[str, list[float], str]]:
    """Thousands of steps a second at 256 sessions on each surface, both ways, and their ratio."""
    settle_threads()
    for task in SURFACES:
        together = SessionVectorEnv(USERS, task, SESSIONS)
        make = [lambda task=task: SessionEnv(USERS, task)] * SESSIONS
        one_by_one = SyncVectorEnv(make, autoreset_mode=AutoresetMode.SAME_STEP)
        draws = torch.Generator().manual_seed(0)
        actions = torch.randint(len(together.rules.surface), (STEPS, SESSIONS), generator=draws)
        _check_same(together, one_by_one, actions)
        fast, slow = [], []
        for _ in range(repeats):
            fast.append(_rate(together.step, actions))
            slow.append(_rate(one_by_one.step, actions[:STEPS_ONE_BY_ONE].numpy()))
        yield f"{task}: {SESSIONS} sessions as tensors", fast, "thousand steps/s"
        yield f"{task}: SyncVectorEnv", slow, "thousand steps/s"
        yield f"{task}: as tensors / SyncVectorEnv", [f / s for f, s in zip(fast, slow, strict=True)], "times"


def _rate(step: Callable, actions: Tensor | np.ndarray) -> float:
    start = time.perf_counter()
    for action in actions:
        step(action)
    return len(actions) * SESSIONS / (time.perf_counter() - start) / 1_000


def _check_same(together: SessionVectorEnv, one_by_one: SyncVectorEnv, actions: Tensor) -> None:
    """Warm up, and make sure that both do the same work."""
    together.reset(seed=0)
    one_by_one.reset(seed=0)
    for action in actions[:STEPS_ONE_BY_ONE]:
        one, other = together.step(action), one_by_one.step(action.numpy())
        if not all(np.array_equal(a.numpy(), b) for a, b in zip(one[:4], other[:4], strict=True)):
            raise RuntimeError("the two ways went through different sessions")
