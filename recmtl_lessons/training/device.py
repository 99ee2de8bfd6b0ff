"""The one place that decides where tensors live."""

import os

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
