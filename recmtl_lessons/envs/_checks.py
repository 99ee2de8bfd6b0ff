"""What the environments ask of their input beyond `models._checks`, in the same voice."""

import math

import numpy as np
import torch
from torch import Tensor

from recmtl_lessons.models._checks import check_count, check_dense, check_values

#: Logits beyond which nothing changes: a click is certain or out of the question, and sums of them stay finite.
MOST_LOGITS = 1e6


def whole_number(name: str, value: object, most: float) -> int:
    """Return the integer from 0 to ``most`` that a number or a scalar of NumPy or torch stands for; refuse all else."""
    if isinstance(value, (np.generic, np.ndarray, Tensor)) and value.shape == ():
        value = value.item()
    check_count(name, value, 0, most)
    return value


def checked_seed(seed: object) -> int | None:
    """Return None, or a seed of whatever size; refuse all else."""
    return None if seed is None else whole_number("seed", seed, math.inf)


def check_no_options(options: object, expected: str = "none") -> None:
    """Refuse anything but no options."""
    if options is not None and not (isinstance(options, dict) and not options):
        raise ValueError(f"options: got {options!r}, expected {expected}")


def check_policy(policy: object, shape: tuple[int, ...], more: bool = False) -> None:
    """Refuse anything but probabilities of this shape, each row summing to 1; ``more`` lets dimensions come before."""
    fits = isinstance(policy, Tensor) and (policy.shape[-len(shape) :] if more else policy.shape) == shape
    if not fits:
        came = f"shape {tuple(policy.shape)}" if isinstance(policy, Tensor) else type(policy).__name__
        expected = f"(..., {', '.join(map(str, shape))})" if more else shape
        raise ValueError(f"policy: got {came}, expected a tensor {expected}")
    check_values("policy", policy, policy.shape)
    if not bool((policy >= 0).all() & ((policy.sum(-1) - 1).abs() < 1e-4).all()):
        raise ValueError("policy: got rows that are no probabilities, expected each to sum to 1")


def check_chances(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse anything but a tensor of this shape of numbers from 0 to 1."""
    if not isinstance(value, Tensor) or value.shape != shape or value.is_complex() or value.layout != torch.strided:
        check_values(name, value, shape)
    low, high = _ends(value.double())
    if not (low >= 0 and high <= 1):  # one of them is NaN where a number is
        raise ValueError(f"{name}: got numbers from {low:g} to {high:g}, expected 0 to 1")


def check_choices(name: str, chosen: Tensor, shape: tuple[int, ...], count: float) -> None:
    """Refuse anything but a tensor of this shape whose values are whole numbers from 0 to count - 1."""
    if not isinstance(chosen, Tensor) or chosen.shape != shape or chosen.dtype != torch.int64:
        came = f"{chosen.dtype} {tuple(chosen.shape)}" if isinstance(chosen, Tensor) else type(chosen).__name__
        raise ValueError(f"{name}: got {came}, expected torch.int64 {shape}")
    check_dense(name, chosen)
    low, high = _ends(chosen)
    if low < 0 or high >= count:
        expected = f"0 to {count - 1}" if count < math.inf else "at least 0"
        raise ValueError(f"{name}: got numbers from {low} to {high}, expected {expected}")


def _ends(values: Tensor) -> tuple[float, float]:
    """Return the smallest and the largest; both 0 where there are none."""
    return tuple(end.item() for end in values.aminmax()) if values.numel() else (0, 0)
