"""The one place that decides where tensors live, and how many threads compute."""

import os
import threading

import torch


def default_device() -> torch.device:
    """CUDA when it is present, otherwise the CPU; ``RECMTL_DEVICE`` (``cpu``, ``cuda``, ``cuda:1``) overrides.

    Raises
    ------
    ValueError
        If ``RECMTL_DEVICE`` names no device, or one that this machine does not have.
    """
    wanted = os.environ.get("RECMTL_DEVICE", "").strip()
    if not wanted:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.zeros((), device=device).item()  # "meta" makes tensors too, but they hold no numbers
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"RECMTL_DEVICE: got {wanted!r}, expected a device of this machine ({reason})") from error
    return device


def settle_threads() -> int:
    """Choose how many threads torch computes with, and return the number.

    One core is left to the browser and everything else: a team of threads waits for its slowest member at every
    operation, so that a team as large as the machine becomes many times slower as soon as anything else runs. More
    than four bring nothing to models as small as the course's. Outside the main thread it is one: OpenMP gives each
    Python thread that computes a team of its own, and two teams on the same cores wait for each other. The environment
    variable ``RECMTL_THREADS`` overrides the number for the main thread.

    Raises
    ------
    ValueError
        If ``RECMTL_THREADS`` is not a positive integer.
    """
    wanted = os.environ.get("RECMTL_THREADS", "").strip()
    if wanted and not (wanted.isdecimal() and int(wanted) > 0):
        raise ValueError(f"RECMTL_THREADS: got {wanted!r}, expected a positive integer")
    if threading.current_thread() is not threading.main_thread():
        threads = 1
    else:
        threads = int(wanted) if wanted else max(1, min(4, (os.cpu_count() or 1) - 1))
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    return threads
