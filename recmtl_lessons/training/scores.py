"""Scores: one measure of several arms over the same seeds, so that any two of them can be compared in pairs."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


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
        arms, values = tuple(self.arms), torch.as_tensor(self.values).detach().cpu()
        if not arms or len(set(arms)) != len(arms):
            raise ValueError(f"arms: got {arms!r}, expected at least one, and none twice")
        moments = (len(self.steps),) if self.steps else ()
        if values.ndim != 2 + len(moments) or len(values) != len(arms) or values.shape[2:] != moments:
            raise ValueError(f"values: got shape {tuple(values.shape)}, expected {(len(arms), 'seeds', *moments)}")
        object.__setattr__(self, "arms", arms)
        object.__setattr__(self, "values", values)

    @classmethod
    def of(cls, measure: str, by_arm: Mapping[Hashable, Tensor], steps: Sequence[int] = ()) -> "Scores":
        """Return scores from one row of seeds an arm."""
        return cls(measure, tuple(by_arm), torch.stack(list(by_arm.values())), tuple(steps))

    def __getitem__(self, arm: Hashable) -> Tensor:
        """Return one arm's values, (seeds,) or (seeds, moments)."""
        if arm not in self.arms:
            raise ValueError(f"arm: got {arm!r}, expected one of {', '.join(map(repr, self.arms))}")
        return self.values[self.arms.index(arm)]

    def __iter__(self):
        """Yield the arms, as a mapping does."""
        return iter(self.arms)

    def lead(self, arm: Hashable, over: Hashable) -> Tensor:
        """Return how far one arm is ahead of another, seed by seed: (seeds,), or (seeds, moments)."""
        return self[arm] - self[over]

    def mean(self, *arms: Hashable) -> Tensor:
        """Return the mean over some arms, seed by seed."""
        return torch.stack([self[arm] for arm in arms]).mean(0)

    def only(self, *arms: Hashable) -> "Scores":
        """Return the scores of some arms, in this order."""
        return Scores(self.measure, arms, torch.stack([self[arm] for arm in arms]), self.steps)

    def at_end(self) -> "Scores":
        """Return the scores at the last moment."""
        return Scores(self.measure, self.arms, self.values[..., -1])

    def draw(self, axis, looks: Mapping | None = None, **options) -> None:
        """Draw the means over the seeds with their 95 % intervals, as `recmtl_lessons.teaching.looks.draw_scores`."""
        from recmtl_lessons.teaching.looks import draw_scores

        draw_scores(axis, self, looks, **options)
