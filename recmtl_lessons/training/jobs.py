"""Trainings that do not depend on each other, at once: each in a thread of its own, as many as there are cores."""

import contextvars
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import TypeVar

from recmtl_lessons.models._callables import check_callable
from recmtl_lessons.training.device import settle_threads, usable_cores

K, T = TypeVar("K"), TypeVar("T")


class Stopped(Exception):
    """Raised in a job when another one has failed, or the wait for all was interrupted."""


class _Job:
    """One of several jobs, and the file for its bars: heard once those before it are over, and kept until then."""

    def __init__(self, work: Callable, pool: ThreadPoolExecutor, stop: threading.Event):
        self._work, self.pool, self.stop = work, pool, stop
        self.context = contextvars.copy_context()  # tells a notebook to which cell a thread's output belongs
        self._said, self._out, self._turn = [], None, threading.Lock()
        self.next: _Job | None = None
        self.over, self.result, self.error = False, None, None

    def run(self) -> None:
        """Work in its context, and keep what comes of it."""
        _JOB.set(self)
        try:
            stop_if_told()
            self.result = self._work()
        except BaseException as error:
            self.error = error
            self.stop.set()
        with self._turn:
            self.over = True
            self._pass_on()

    @property
    def encoding(self) -> str | None:
        """Return the encoding of the file that it ends in; a bar asks whether it may use more than ASCII."""
        return getattr(sys.stdout, "encoding", None)

    def write(self, text: str) -> None:
        """As a file's."""
        with self._turn:
            self._said.append(text)
            self._pass_on()

    def flush(self) -> None:
        """As a file's."""

    def say_to(self, out) -> None:
        """Let it have its turn: what it has said and will say goes to this file."""
        with self._turn:
            self._out = out
            self._pass_on()

    def _pass_on(self) -> None:
        if self._out is not None:
            self._out.write("".join(self._said))
            self._out.flush()
            self._said.clear()
            if self.over and self.next:
                self.next.say_to(self._out)


_JOB: contextvars.ContextVar[_Job | None] = contextvars.ContextVar("job", default=None)


def concurrently(*jobs: Callable[[], T]) -> list[T]:
    """Run jobs at once, as many at a time as there are cores, and return what they return, in their order.

    Torch computes outside Python's lock, so two trainings on two cores take about two thirds of their time (measured by
    ``python -m tests.benchmarks jobs``). Every `Stack` draws from generators of its own, so what comes out is the same
    as one after another. And so they run where there is one core, or ``RECMTL_THREADS`` is 1.

    A job may call this again: its jobs wait for the same threads, and it runs those itself that none has begun.
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
    for job in jobs:
        check_callable("jobs", job)
    outer, cores = _JOB.get(), usable_cores()
    if len(jobs) < 2 or (outer is None and cores < 2):
        return [job() for job in jobs]
    if outer is not None:
        return _results([_Job(job, outer.pool, outer.stop) for job in jobs])
    with ThreadPoolExecutor(cores, "recmtl-job", settle_threads) as pool:
        stop = threading.Event()
        try:
            return _results([_Job(job, pool, stop) for job in jobs])
        finally:
            stop.set()


def concurrently_for(keys: Iterable[K], job: Callable[[K], T]) -> dict[K, T]:
    """Run one job for each of some keys as `concurrently` does: ``{key: job(key)}``."""
    try:
        keys = list(dict.fromkeys(keys))
    except TypeError as error:
        raise ValueError(f"keys: got {keys!r}, expected some that a dict can have") from error
    check_callable("job", job, 1)
    return dict(zip(keys, concurrently(*(partial(job, key) for key in keys)), strict=True))


def _results(jobs: list[_Job]) -> list:
    """Let them run; return their results, or raise their first error, a `Stopped` only if there is no other."""
    for job, following in pairwise(jobs):
        job.next = following
    jobs[0].say_to(output())
    futures = [job.pool.submit(job.context.run, job.run) for job in jobs]
    for job, future in zip(jobs, futures, strict=True):
        if _JOB.get() is not None and future.cancel():  # else it might wait for the very thread that waits for it
            job.context.run(job.run)
    for future in futures:
        if not future.cancelled():
            future.result()
    errors = sorted((job.error for job in jobs if job.error), key=lambda error: isinstance(error, Stopped))
    if errors:
        raise errors[0]
    return [job.result for job in jobs]


def stop_if_told() -> None:
    """End the job that calls this, if another one has failed or the wait was interrupted.

    Raises
    ------
    Stopped
    """
    job = _JOB.get()
    if job is not None and job.stop.is_set():
        raise Stopped


def output():
    """Return the file that progress is written to here: the cell's, or a job's way to it."""
    return _JOB.get() or sys.stdout
