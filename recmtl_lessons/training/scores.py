"""Scores: one measure of several arms over the same seeds, so that any two of them can be compared in pairs."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recmtl_lessons.models._checks import check_count, listed


@dataclass(frozen=True)
class Scores:
    """One measure of several arms, over the same seeds.

    Attributes
    ----------
    measure : str
        What is measured, with its unit: the label of an axis.
    arms : tuple
        Names, or the numbers of a grid such as lambdas; no arm twice.
    values : Tensor, (arms, seeds) or (arms, seeds, moments)
    steps : tuple of int
        The training steps of the moments, if there are any.

    Examples
    --------
    >>> scores = Scores.of("AUC", {"alone": torch.tensor([0.6, 0.7]), "together": torch.tensor([0.7, 0.9])})
    >>> scores.lead("together", "alone")
    tensor([0.1000, 0.2000])
    """

    measure: str
    arms: tuple[Hashable, ...]
    values: Tensor
    steps: tuple[int, ...] = ()

    def __post_init__(self):
        if not isinstance(self.measure, str):
            raise ValueError(f"measure: got {self.measure!r}, expected a str")
        arms, steps = tuple(listed("arms", self.arms)), tuple(listed("steps", self.steps))
        fit = all(isinstance(arm, Hashable) and not isinstance(arm, Tensor) and arm == arm for arm in arms)  # no NaN
        if not arms or not fit or len(set(arms)) != len(arms):
            raise ValueError(f"arms: got {arms!r}, expected at least one, and none twice")
        for step in steps:
            check_count("steps", step, 0)
        if not isinstance(self.values, Tensor) or self.values.is_complex() or self.values.layout != torch.strided:
            raise ValueError(f"values: got {type(self.values).__name__}, expected a tensor of real numbers")
        values, moments = self.values.detach().cpu(), (len(steps),) if steps else ()
        if values.ndim != 2 + len(moments) or len(values) != len(arms) or values.shape[2:] != moments:
            raise ValueError(f"values: got shape {tuple(values.shape)}, expected {(len(arms), 'seeds', *moments)}")
        for name, value in (("arms", arms), ("steps", steps), ("values", values)):
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, measure: str, by_arm: Mapping[Hashable, Tensor], steps: Sequence[int] = ()) -> "Scores":
        """Return scores from one row of seeds per arm."""
        fits = isinstance(by_arm, Mapping) and all(isinstance(values, Tensor) for values in by_arm.values())
        if not fits or not by_arm or len({values.shape for values in by_arm.values()}) > 1:
            raise ValueError(f"by_arm: got {by_arm!r}, expected tensors of one shape, {{arm: (seeds, ...)}}")
        return cls(measure, tuple(by_arm), torch.stack(list(by_arm.values())), steps)

    def __getitem__(self, arm: Hashable) -> Tensor:
        """Return one arm's values, (seeds,) or (seeds, moments)."""
        places = {known: place for place, known in enumerate(self.arms)}
        if not isinstance(arm, Hashable) or arm not in places:
            raise ValueError(f"arm: got {arm!r}, expected one of {', '.join(map(repr, self.arms))}")
        return self.values[places[arm]]

    def __iter__(self):
        """Yield the arms, as a mapping does."""
        return iter(self.arms)

    def lead(self, arm: Hashable, over: Hashable) -> Tensor:
        """Return how far one arm is ahead of another, seed by seed: (seeds,), or (seeds, moments)."""
        return self[arm] - self[over]

    def mean(self, *arms: Hashable) -> Tensor:
        """Return the mean over some arms, seed by seed."""
        return self.only(*arms).values.mean(0)

    def only(self, *arms: Hashable) -> "Scores":
        """Return the scores of some arms, in this order."""
        if not arms:
            raise ValueError("arms: got none, expected at least one")
        return Scores(self.measure, arms, torch.stack([self[arm] for arm in arms]), self.steps)

    def at_end(self) -> "Scores":
        """Return the scores at the last moment."""
        return Scores(self.measure, self.arms, self.values[..., -1])

    def draw(self, axis, looks: Mapping | None = None, **options) -> None:
        """Draw the means over the seeds with their 95 % intervals, as `recmtl_lessons.teaching.looks.draw_scores`."""
        from recmtl_lessons.teaching.looks import draw_scores

        draw_scores(axis, self, looks, **options)
