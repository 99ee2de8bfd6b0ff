"""What one update of MAML, first-order MAML and Reptile takes on equal gradients, and what autograd keeps meanwhile.

Sixteen users, ten ratings a gradient. Everything runs in one process with its number of threads; the ways take turns,
so that a machine that slows down meanwhile does so for all.
"""

import time
from collections.abc import Callable, Iterator

from recmtl_lessons.lessons.reptile.costs import memory_by_gradients, ways_of_the_package
from recmtl_lessons.training.device import settle_threads
from recmtl_lessons.training.stacked import _keep_freed_memory

NETS = ((32, 32), (128, 64), (512, 512))
GRADIENTS = (4, 8, 16)


def measure(repeats: int = 9) -> Iterator[tuple[str, list[float], str]]:
    """Milliseconds an update by network and number of gradients, MAML's time over the others', and KiB a user."""
    settle_threads()
    _keep_freed_memory()
    for hidden in NETS:
        for gradients in GRADIENTS:
            ways = ways_of_the_package(hidden, gradients=gradients)
            took = _in_turn(ways, repeats)
            net = f"16-{'-'.join(map(str, hidden))}-1, {gradients} gradients"
            for name, values in took.items():
                yield f"{net}: {name}", values, "ms"
            for name in ("first-order MAML", "Reptile"):
                yield f"{net}: MAML / {name}", _ratios(took["MAML"], took[name]), "times"
    for name, kept in memory_by_gradients(GRADIENTS).items():
        for gradients, size in zip(GRADIENTS, kept, strict=True):
            yield f"kept for one user, {gradients} gradients: {name}", [size / 1024], "KiB"


def _ratios(slow: list[float], fast: list[float]) -> list[float]:
    return [a / b for a, b in zip(slow, fast, strict=True)]


def _in_turn(jobs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(repeats + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if turn:  # the first warms up
                took[name].append(1_000 * (time.perf_counter() - start))
    return took
