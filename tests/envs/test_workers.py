"""Environments in processes of their own."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

STEPS = """
import numpy as np, torch
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from recmtl_lessons.envs import SessionEnv, make_users

torch.set_num_threads(2)  # the first users are made here, with a team of threads, and the workers are forked then
build = lambda: SessionEnv(make_users(2000, 0), "home")
both = [AsyncVectorEnv([build] * 2, context="fork"), SyncVectorEnv([build] * 2)]
seen = [[env.reset(seed=0)[0]] + [env.step(np.array([1, 2]))[0] for _ in range(20)] for env in both]
both[0].close()
print(np.array_equal(*seen), torch.get_num_threads())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_forked_workers_do_not_wait_for_threads_that_they_do_not_have():
    """Gymnasium's `AsyncVectorEnv`, where each worker makes its users: the same as in one process, and it ends."""
    run = subprocess.Popen([sys.executable, "-c", STEPS], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        said, _ = run.communicate(timeout=200)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
    assert said.split() == ["True", "2"]
