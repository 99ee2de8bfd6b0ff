"""How a training reports where it stands, and the bar that shows it."""

from collections.abc import Iterator
from dataclasses import dataclass

from tqdm import tqdm

from recmtl_lessons.models._checks import check_count
from recmtl_lessons.training.jobs import output


@dataclass(frozen=True)
class Moment:
    """Where a training stands: ``step`` of ``steps`` done."""

    step: int
    steps: int


def with_bar(moments: Iterator[Moment], label: str, total: int, unit: str = "steps") -> Iterator[Moment]:
    """Pass on a training's moments under a progress bar; leave the loop to stop the training.

    Parameters
    ----------
    moments : iterator of Moment
    label : str
        Stands before the bar; without one there is no bar.
    total : int
        The step at which the training ends.
    unit : str
        What the steps are called.

    Yields
    ------
    Moment
        Each once the bar shows it.
    """
    check_count("total", total)
    for name, text in (("label", label), ("unit", unit)):
        if not isinstance(text, str):
            raise ValueError(f"{name}: got {text!r}, expected a str")
    if not isinstance(moments, Iterator):
        raise ValueError(f"moments: got {moments!r}, expected an iterator of them")
    # The plain bar, not the widget one: it is still there when the notebook is read without a kernel.
    # At position 0 always: bars of jobs that run at once are written one after another, not one below another.
    with tqdm(total=total, desc=label, unit=f" {unit}", file=output(), ncols=80, disable=not label, position=0) as bar:
        for moment in moments:
            bar.update(moment.step - bar.n)
            yield moment
