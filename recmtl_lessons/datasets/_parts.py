"""Rows of many seeds side by side, cut into three parts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

Streams = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Parts:
    """Rows to train on, to choose settings by, and to test on.

    Attributes
    ----------
    train, valid, test : dict {stream: dict {field: Tensor (S, n, ...)}}
        One row of S a seed.
    """

    train: Streams
    valid: Streams
    test: Streams

    @property
    def n_seeds(self) -> int:
        """Return the number of seeds."""
        return len(next(iter(next(iter(self.train.values())).values())))

    def one(self, number: int) -> Self:
        """Return what one seed has, by its number: the same tensors without the dimension of the seeds."""
        return self._each(lambda values: values[number])

    def double(self) -> Self:
        """Return the same with numbers as float64; ids stay."""
        return self._each(lambda values: values.double() if values.is_floating_point() else values)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        def changed(part: Streams) -> Streams:
            return {stream: {name: change(values) for name, values in part[stream].items()} for stream in part}

        return replace(self, train=changed(self.train), valid=changed(self.valid), test=changed(self.test))
