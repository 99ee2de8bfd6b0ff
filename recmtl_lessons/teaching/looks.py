"""How arms look: one table of colours, markers and names a lesson, from which every picture of it is drawn."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recmtl_lessons.teaching.style import LINES, MARKERS, PALETTE, band, points_with_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from recmtl_lessons.training.scores import Scores

#: The one grey, for what is no arm: the line of chance, what was there before, the note at the edge.
GREY = "#555555"


@dataclass(frozen=True)
class Look:
    """How one arm looks in every picture.

    Attributes
    ----------
    label : str
        Its name in a legend.
    colour : str
        A name in `recmtl_lessons.teaching.style.PALETTE`.
    marker : str or None
    line : str or tuple
        A matplotlib line style.
    """

    label: str
    colour: str = "blue"
    marker: str | None = "o"
    line: str | tuple = "-"


def look_of(arm: Hashable, looks: Mapping[Hashable, Look] | None, number: int) -> Look:
    """Return an arm's look from the table, or one by its number where the table does not name it."""
    if looks is not None and arm in looks:
        return looks[arm]
    colours = [name for name in PALETTE if name != "yellow"]
    return Look(str(arm), colours[number % len(colours)], MARKERS[number % len(MARKERS)], LINES[number % len(LINES)])


def draw_line(axis: "Axes", x, values, look: Look) -> None:
    """Draw one arm along x, values (seeds, points), as a mean with its 95 % interval."""
    band(axis, x, values, look.label, look.colour, look.marker, look.line)


def draw_scores(
    axis: "Axes",
    scores: "Scores",
    looks: Mapping[Hashable, Look] | Look | None = None,
    place: Callable[[float], float] = float,
    joined: bool = True,
) -> None:
    """Draw scores, each mean over the seeds with its 95 % interval.

    With moments: a curve per arm over the training steps. With a grid of numbers for arms and one look: a line over the
    grid. Else a point per arm, beside each other, the seeds faint.

    Parameters
    ----------
    axis : matplotlib.axes.Axes
    scores : Scores
    looks : mapping {arm: Look} or Look, optional
    place : callable (float) -> float
        Where a number of a grid stands on the axis.
    joined : bool
        Whether a line joins the points of one seed.
    """
    if scores.steps:
        for k, arm in enumerate(scores):
            curve = looks if isinstance(looks, Look) else look_of(arm, looks, k)
            draw_line(axis, scores.steps, scores[arm], curve)
        axis.set(xlabel="training step", ylabel=scores.measure)
    elif isinstance(looks, Look):
        draw_line(axis, np.array([place(arm) for arm in scores]), scores.values.T, looks)
    else:
        shown = [look_of(arm, looks, k) for k, arm in enumerate(scores)]
        labels, colours = [look.label for look in shown], [look.colour for look in shown]
        points_with_interval(axis, labels, scores.values.T, colours, joined=joined)
        axis.set_ylabel(scores.measure)


def line_at(axis: "Axes", height: float, text: str, colour: str = GREY) -> None:
    """Draw a level that is no arm, such as that of a coin flip, as a dotted line with its name."""
    axis.axhline(height, color=colour, lw=1.2, ls=":")
    place = axis.get_yaxis_transform()
    axis.text(0.01, height, f"{text} ", transform=place, fontsize=11, color=colour, va="bottom")
