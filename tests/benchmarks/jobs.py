"""Two of lesson 07's trainings at once, against the same two one after another."""

import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from recmtl_lessons.lessons.policy import WORLDS, experiments
from recmtl_lessons.training import concurrently

HOW = replace(experiments.TRAINING, updates=10)


def measure(repeats: int = 5) -> Iterator[tuple[str, list[float], str]]:
    """Seconds for both, each with one thread, and their ratio; on one core they are the same."""
    jobs = [_job(seeds) for seeds in (range(8), range(8, 16))]
    concurrently(*jobs)
    at_once, one_by_one = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        found = concurrently(*jobs)
        at_once.append(time.perf_counter() - start)

        start = time.perf_counter()
        # Within a job everything runs one after another, in a thread that computes alone.
        (expected, _) = concurrently(lambda: [job() for job in jobs], lambda: None)
        one_by_one.append(time.perf_counter() - start)
        assert all(map(torch.equal, found, expected)), "at once they learn something else"
    yield "two trainings of 24 policies at once", at_once, "s"
    yield "the same one after another", one_by_one, "s"
    yield "one after another / at once", [b / a for a, b in zip(at_once, one_by_one, strict=True)], "times"


def _job(seeds):
    def train() -> torch.Tensor:
        worlds = [*WORLDS.values()]
        stack = experiments.stack_of(experiments.shared_network, [{}] * len(worlds), seeds, HOW)
        experiments.fit(stack, experiments.sessions_for(stack, worlds, HOW), HOW)
        return torch.cat([p.detach().flatten() for p in stack.model(0).parameters()])

    return train
