"""What the environments ask of plain numbers, in one voice: the argument, what came, what was expected."""

import torch
from torch import Tensor


def check_count(name: str, value: object, least: int = 1, most: int | None = None) -> None:
    """Refuse anything but an integer from ``least`` to ``most``."""
    plain = isinstance(value, int) and not isinstance(value, bool)
    if not plain or value < least or (most is not None and value > most):
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}: got {value!r}, expected an integer {limits}")


def check_number(name: str, value: object, low: float, high: float = float("inf"), below: bool = False) -> None:
    """Refuse anything but a finite number in [low, high], or in [low, high) if ``below``."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not plain or not low <= value <= high or value == (high if below else float("inf")):
        limits = f"of at least {low}" if high == float("inf") else f"in [{low}, {high}{')' if below else ']'}"
        raise ValueError(f"{name}: got {value!r}, expected a number {limits}")


def check_policy(policy: object, shape: tuple[int, ...], more: bool = False) -> None:
    """Refuse anything but probabilities of this shape, each row summing to 1; ``more`` lets dimensions come before."""
    fits = isinstance(policy, Tensor) and (policy.shape[-len(shape) :] if more else policy.shape) == shape
    if not fits:
        came = f"shape {tuple(policy.shape)}" if isinstance(policy, Tensor) else type(policy).__name__
        expected = f"(..., {', '.join(map(str, shape))})" if more else shape
        raise ValueError(f"policy: got {came}, expected a tensor {expected}")
    if not bool((policy >= 0).all() & ((policy.sum(-1) - 1).abs() < 1e-4).all()):
        raise ValueError("policy: got rows that are no probabilities, expected each to sum to 1")


def checked_device(device: torch.device | str) -> torch.device:
    """Refuse a device that cannot hold numbers on this machine."""
    try:
        found = torch.device(device)
        torch.zeros((), device=found).item()  # "meta" makes tensors too, but they hold no numbers
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device: got {device!r}, expected a device of this machine ({reason})") from error
    return found


def check_choices(name: str, chosen: Tensor, shape: tuple[int, ...], count: int) -> None:
    """Refuse anything but a tensor of this shape whose values are whole numbers from 0 to count - 1."""
    if not isinstance(chosen, Tensor) or chosen.shape != shape or chosen.dtype != torch.int64:
        came = f"{chosen.dtype} {tuple(chosen.shape)}" if isinstance(chosen, Tensor) else type(chosen).__name__
        raise ValueError(f"{name}: got {came}, expected torch.int64 {shape}")
    if bool(((chosen < 0) | (chosen >= count)).any()):
        low, high = int(chosen.min()), int(chosen.max())
        raise ValueError(f"{name}: got numbers from {low} to {high}, expected 0 to {count - 1}")
