"""Trainings that do not depend on each other, at once: each in a thread of its own, as many as there are cores."""

import contextvars
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from recmtl_lessons.training.device import settle_threads, usable_cores

K, T = TypeVar("K"), TypeVar("T")


class Stopped(Exception):
    """Raised in a job whose company has failed or was interrupted."""


class _Company:
    """The jobs of one call of `concurrently`, and those of calls within them: they share threads and their end."""

    def __init__(self):
        self.waiting: deque[_Job] = deque()  # for a thread
        self.stop = threading.Event()
        self.changed = threading.Condition()  # guards `waiting`, and what jobs have said and whether they are over
        self.news = False  # since it was last shown

    def tell(self) -> None:
        """Wake all who wait for something. The caller holds ``changed``."""
        self.news = True
        self.changed.notify_all()

    def take_on(self, jobs: Sequence[Callable], within: "deque[str | _Job]") -> "list[_Job]":
        """Let jobs wait for threads, before all who wait already, and be heard where ``within`` stands now."""
        new = [_Job(self, job) for job in jobs]
        with self.changed:
            self.waiting.extendleft(reversed(new))
            within.extend(new)
            self.tell()
        return new

    def work(self, jobs: "Sequence[_Job]") -> None:
        """Run whatever waits for a thread, until these jobs are over."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting or all(job.over for job in jobs))
                if all(job.over for job in jobs):
                    return
                job = self.waiting.popleft()
            job.context.run(job.run)


class _Job:
    """One job, and a file for what it says: texts, and jobs of its own that are heard in their place."""

    def __init__(self, company: _Company, work: Callable):
        self.company, self._work = company, work
        self.context = contextvars.copy_context()  # tells a notebook to which cell a thread's output belongs
        self.said: deque[str | _Job] = deque()
        self.over = False
        self.result: object = None
        self.error: BaseException | None = None

    @property
    def encoding(self) -> str | None:
        """Of the file that it ends in; a bar asks whether it may use more than ASCII."""
        return getattr(sys.stdout, "encoding", None)

    def write(self, text: str) -> None:
        """As a file's."""
        with self.company.changed:
            self.said.append(text)
            self.company.tell()

    def flush(self) -> None:
        """As a file's."""

    def run(self) -> None:
        """Work, and keep what comes of it."""
        _JOB.set(self)
        try:
            stop_if_told()
            settle_threads()
            self.result = self._work()
        except BaseException as error:
            self.error = error
            self.company.stop.set()
        finally:
            with self.company.changed:
                self.over = True
                self.company.tell()


_JOB: contextvars.ContextVar[_Job | None] = contextvars.ContextVar("job", default=None)


def concurrently(*jobs: Callable[[], T]) -> list[T]:
    """Run jobs at once, as many at a time as there are cores, and return what they return, in their order.

    Torch computes outside Python's lock, so two trainings on two cores take about two thirds of their time (measured by
    ``python -m tests.benchmarks jobs``). Every `Stack` draws from generators of its own, so what comes out is the same
    as one after another. And so they run where there is one core, or ``RECMTL_THREADS`` is 1.

    A job may call this again: its jobs share the threads with all others, and are taken up before those that wait
    already. Progress bars stand in the order of the jobs. When one fails, or the wait is interrupted, the others stop
    before their next update of a `Stack`, and those that wait do not start.

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
    outer = _JOB.get()
    if len(jobs) < 2 or (outer is None and usable_cores() < 2):
        return [job() for job in jobs]
    if outer is None:
        running = _at_once(jobs, usable_cores())
    else:
        running = outer.company.take_on(jobs, outer.said)
        outer.company.work(running)
    return _results(running)


def concurrently_for(keys: Iterable[K], job: Callable[[K], T]) -> dict[K, T]:
    """`concurrently`, with one job for each of some keys: ``{key: job(key)}``."""
    keys = list(keys)
    return dict(zip(keys, concurrently(*(partial(job, key) for key in keys)), strict=True))


def _at_once(jobs: Sequence[Callable], threads: int) -> list[_Job]:
    """Run jobs in a company of their own, and show what they say."""
    company, said = _Company(), deque()
    running = company.take_on(jobs, said)
    with ThreadPoolExecutor(threads, thread_name_prefix="recmtl-job") as pool:
        for _ in range(threads):
            pool.submit(company.work, running)
        try:
            _show(company, said)
        finally:
            company.stop.set()
    return running


def _results(jobs: Sequence[_Job]) -> list:
    """Of jobs that are over, or else their first error, a `Stopped` only if there is no other."""
    errors = [job.error for job in jobs if job.error is not None]
    errors.sort(key=lambda error: isinstance(error, Stopped))
    if errors:
        raise errors[0]
    return [job.result for job in jobs]


def _show(company: _Company, said: deque) -> None:
    """Write what jobs say, in their order, until all are over: a job is heard when those before it are over."""
    over = False
    while not over:
        texts = []
        with company.changed:
            company.changed.wait_for(lambda: company.news)
            company.news = False
            over = _hear(said, texts)
        sys.stdout.write("".join(texts))
        sys.stdout.flush()


def _hear(said: deque, texts: list[str]) -> bool:
    """Move what can be heard now to ``texts``; whether nothing is left and all jobs are over."""
    while said:
        if isinstance(said[0], str):
            texts.append(said.popleft())
        elif _hear(said[0].said, texts) and said[0].over:
            said.popleft()
        else:
            return False
    return True


def stop_if_told() -> None:
    """End the job that calls this, if its company has failed or was interrupted.

    Raises
    ------
    Stopped
    """
    job = _JOB.get()
    if job is not None and job.company.stop.is_set():
        raise Stopped


def output():
    """The file that progress is written to here: the cell's, or a job's way to it."""
    return _JOB.get() or sys.stdout
