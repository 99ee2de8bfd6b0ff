"""The one place that decides where tensors live, and how many threads compute."""

import os
import threading

import torch

from recmtl_lessons.models._checks import checked_device

# Numbers of threads that nobody asked for: torch's own at the start, and those chosen below. Any other is the user's.
_NOT_ASKED_FOR = {torch.get_num_threads()}


def default_device() -> torch.device:
    """Return CUDA when it is present, otherwise the CPU; ``RECMTL_DEVICE`` (``cpu``, ``cuda``, ``cuda:1``) overrides.

    Raises
    ------
    ValueError
        If ``RECMTL_DEVICE`` names no device, or one that this machine does not have.
    """
    wanted = os.environ.get("RECMTL_DEVICE", "").strip()
    if not wanted:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return checked_device("RECMTL_DEVICE", wanted)


def settle_threads() -> int:
    """Choose how many threads torch computes with, unless the user has, and return the number.

    One core is left to the browser and everything else: a team of threads waits for its slowest member at every
    operation, so that a team as large as the machine becomes many times slower as soon as anything else runs. More
    than four bring nothing to models as small as the course's. The environment variable ``RECMTL_THREADS`` names
    another number. Both give way to ``torch.set_num_threads``, called after the course was imported. (A call that asks
    for the number torch started with cannot be told from no call; ``RECMTL_THREADS`` can ask for that too.)

    Torch's number is one for the whole process, so a notebook's other work computes with it as well. Only outside the
    main thread it is always one, and the main thread's stays: OpenMP gives each Python thread that computes a team of
    its own, and two teams on the same cores wait for each other.

    Raises
    ------
    ValueError
        If ``RECMTL_THREADS`` is not a positive integer.
    """
    wanted = _asked_for()
    if threading.current_thread() is not threading.main_thread():
        if torch.get_num_threads() != 1:
            torch.set_num_threads(1)
        return 1
    current = torch.get_num_threads()
    if current not in _NOT_ASKED_FOR:
        return current
    threads = wanted or max(1, min(4, _cores() - 1))
    if threads != current:
        torch.set_num_threads(threads)
        _NOT_ASKED_FOR.add(threads)
    return threads


def usable_cores() -> int:
    """Return on how many cores jobs may compute: ``RECMTL_THREADS``, ``torch.set_num_threads``'s number, or all.

    Jobs, unlike a team of threads, do not wait for each other, so that no core need be left: where something else
    wants one, they only take longer.

    Raises
    ------
    ValueError
        If ``RECMTL_THREADS`` is not a positive integer.
    """
    wanted, current = _asked_for(), torch.get_num_threads()
    if threading.current_thread() is threading.main_thread() and current not in _NOT_ASKED_FOR:
        return current
    return wanted or _cores()


def _asked_for() -> int | None:
    wanted = os.environ.get("RECMTL_THREADS", "").strip()
    if wanted and not (wanted.isdecimal() and int(wanted) > 0):
        raise ValueError(f"RECMTL_THREADS: got {wanted!r}, expected a positive integer")
    return int(wanted) if wanted else None


def _cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
