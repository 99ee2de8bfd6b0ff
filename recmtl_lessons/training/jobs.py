"""Trainings that do not depend on each other, at once: each in a thread of its own, as many as there are cores."""

import contextvars
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

from recmtl_lessons.training.device import settle_threads, usable_cores

K, T = TypeVar("K"), TypeVar("T")


class Stopped(Exception):
    """Raised in a job whose company has failed or was interrupted."""


@dataclass(frozen=True)
class _Job:
    """What a job's thread shares with the thread that waits: a way to say something, and a sign to stop."""

    number: int
    said: SimpleQueue  # (number, text); text is None when the job is over
    stop: threading.Event

    @property
    def encoding(self) -> str | None:
        """Of the file that it ends in; a bar asks whether it may use more than ASCII."""
        return getattr(sys.stdout, "encoding", None)

    def write(self, text: str) -> None:
        """As a file's."""
        self.said.put((self.number, text))

    def flush(self) -> None:
        """As a file's."""


_JOB: contextvars.ContextVar[_Job | None] = contextvars.ContextVar("job", default=None)


def concurrently(*jobs: Callable[[], T]) -> list[T]:
    """Run jobs at once, as many at a time as there are cores, and return what they return, in their order.

    Torch computes outside Python's lock, so two trainings on two cores take about two thirds of their time (measured by
    ``python -m tests.benchmarks jobs``). Every `Stack` draws from generators of its own, so what comes out is the same
    as one after another. And so they run where there is one core, or ``RECMTL_THREADS`` is 1, or within a job.

    Progress bars stand in the order of the jobs. When one fails, or the wait is interrupted, the others stop before
    their next update of a `Stack`, and those that wait do not start.

    Parameters
    ----------
    *jobs : callable ()
        They must not change anything that another one uses, and not draw pictures.

    Returns
    -------
    list

    Raises
    ------
    Exception
        What a job has raised; the first of them in order, if there are several.
    """
    at_once = min(len(jobs), usable_cores())
    if at_once < 2 or _JOB.get() is not None:
        return [job() for job in jobs]
    said, stop = SimpleQueue(), threading.Event()
    with ThreadPoolExecutor(at_once, thread_name_prefix="recmtl-job") as pool:
        running = [
            # A copy of the context tells a notebook to which cell a thread's output belongs.
            pool.submit(contextvars.copy_context().run, _run, _Job(number, said, stop), job)
            for number, job in enumerate(jobs)
        ]
        try:
            _show(said, len(jobs))
        finally:
            stop.set()
    errors = [job.exception() for job in running]
    failed = [error for error in errors if error and not isinstance(error, Stopped)]
    if failed:
        raise failed[0]
    return [job.result() for job in running]


def concurrently_for(keys: Iterable[K], job: Callable[[K], T]) -> dict[K, T]:
    """`concurrently`, with one job for each of some keys: ``{key: job(key)}``."""
    keys = list(keys)
    return dict(zip(keys, concurrently(*(partial(job, key) for key in keys)), strict=True))


def _run(this: _Job, job: Callable[[], T]) -> T:
    _JOB.set(this)
    try:
        stop_if_told()
        settle_threads()
        return job()
    except BaseException:
        this.stop.set()
        raise
    finally:
        this.said.put((this.number, None))


def _show(said: SimpleQueue, count: int) -> None:
    """Write what jobs say, in their order: a job is heard when those before it are over."""
    heard, over, first = [[] for _ in range(count)], set(), 0
    while first < count:
        number, text = said.get()
        if text is None:
            over.add(number)
        else:
            heard[number].append(text)
        while first < count:
            sys.stdout.write("".join(heard[first]))
            heard[first].clear()
            if first not in over:
                break
            first += 1
        sys.stdout.flush()


def stop_if_told() -> None:
    """End the job that calls this, if its company has failed or was interrupted.

    Raises
    ------
    Stopped
    """
    job = _JOB.get()
    if job is not None and job.stop.is_set():
        raise Stopped


def output():
    """The file that progress is written to here: the cell's, or a job's way to it."""
    return _JOB.get() or sys.stdout
