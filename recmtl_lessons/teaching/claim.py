"""Claims that are executed: a sentence, the measurements behind it, and a verdict that can fail."""

import html
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from IPython import get_ipython
from IPython.display import display
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from recmtl_lessons.teaching.lesson import require_texts

__all__ = ["Claim", "ClaimFailed", "claim", "claims", "claims_of", "t_interval"]

#: Under this type a notebook keeps its claims as data, beside what a reader sees.
MIME = "application/vnd.recmtl.claims+json"
_TABLE: ContextVar["list[Claim] | None"] = ContextVar("table", default=None)


class ClaimFailed(AssertionError):
    """A claim of the course that its own measurements do not support."""


@dataclass(frozen=True)
class Claim:
    """A claim, its mean effect over the seeds, the interval, and the bound it is held to.

    Attributes
    ----------
    sentence : str
    effect : float
        Mean over the seeds.
    low, high : float
        Ends of the confidence interval of that mean.
    n : int
        Number of seeds.
    kind : {"above", "below", "inside", "contains"}
    bound : tuple of float
        One number; two for "inside", and for "contains", where the second is the largest half-width.
    unit : str
    confidence : float
    """

    sentence: str
    effect: float
    low: float
    high: float
    n: int
    kind: str
    bound: tuple[float, ...]
    unit: str = ""
    confidence: float = 0.95

    @property
    def room(self) -> float:
        """How far the claim is from failing, in half-widths of its interval; negative where it fails."""
        half = (self.high - self.low) / 2
        least = min(self._room())
        return least / half if half else float(np.copysign(np.inf, least))

    @property
    def holds(self) -> bool:
        """Whether the measurements support the claim."""
        least = min(self._room())
        return least >= 0 if self.kind == "contains" else least > 0

    def _room(self) -> tuple[float, ...]:
        first, last = self.bound[0], self.bound[-1]
        match self.kind:
            case "above":
                return (self.low - first,)
            case "below":
                return (first - self.high,)
            case "inside":
                return self.low - first, last - self.high
        return first - self.low, self.high - first, last - (self.high - self.low) / 2

    @property
    def demand(self) -> str:
        """What the interval must do, in words."""
        first, last = self.bound[0], self.bound[-1]
        return {
            "above": f"above {first:g}",
            "below": f"below {first:g}",
            "inside": f"between {first:g} and {last:g}",
            "contains": f"around {first:.4g}, and reach at most {last:g} to each side",
        }[self.kind]

    @property
    def numbers(self) -> str:
        """Effect, interval and number of seeds."""
        style = "+z.3f" if 0.01 <= max(abs(self.low), abs(self.high)) < 1000 else "+z.3g"  # z: no "-0.000"
        unit = f" {self.unit}" if self.unit else ""
        interval = f"[{self.low:{style}}, {self.high:{style}}]"
        return f"{self.effect:{style}}{unit}, {self.confidence * 100:g} % interval {interval}, {self.n} seeds"

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "DOES NOT HOLD"
        return (
            f"Claim: {self.sentence}\n  effect {self.numbers}\n"
            f"  {verdict}: the interval must lie {self.demand}\n  {_strip_of_letters(self)}"
        )

    def _ipython_display_(self) -> None:
        """Stay silent as a cell's last value: the claim has already been shown."""


def t_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Mean over the first axis and its Student t interval.

    .. math:: \bar x \pm t_{(1+c)/2,\,n-1}\; s / \sqrt n

    with :math:`s` the standard deviation with :math:`n - 1` in the denominator and :math:`c` the confidence.

    Parameters
    ----------
    values : array_like, shape (seeds, ...)
        One row for each seed; at least two rows of finite numbers.
    confidence : float
        Between 0 and 1, both excluded.

    Returns
    -------
    mean, low, high : numpy.ndarray, shape (...)
    """
    data = _as_numbers(values)
    if data.ndim == 0 or len(data) < 2:
        raise ValueError(f"values: got shape {data.shape}, expected at least 2 seeds along the first axis")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: got {confidence!r}, expected a number between 0 and 1")
    mean = data.mean(axis=0)
    half = stdtrit(len(data) - 1, (1 + confidence) / 2) * data.std(axis=0, ddof=1) / np.sqrt(len(data))
    return mean, mean - half, mean + half


def claim(
    sentence: str,
    values: ArrayLike,
    *,
    above: float | None = None,
    below: float | None = None,
    contains: float | None = None,
    within: float | None = None,
    inside: tuple[float, float] | None = None,
    unit: str = "",
    confidence: float = 0.95,
    min_seeds: int = 8,
    allow_constant: bool = False,
) -> Claim:
    """Show a claim with its effect, interval and number of seeds, and raise when it does not hold.

    Give exactly one of ``above``, ``below``, ``contains`` and ``inside``. The interval is Student's t interval of the
    mean over the seeds (see `t_interval`), so the values should be independent between seeds: paired
    differences, or one measurement a seed.

    Parameters
    ----------
    sentence : str
        What is claimed, in words. ``{above}``, ``{below}``, ``{contains}``, ``{within}``, ``{inside[0]}`` and
        ``{inside[1]}`` stand for the bound, which so is written once.
    values : array_like, shape (seeds,)
        One paired difference or measurement for each seed.
    above : float, optional
        The claim holds if the whole interval lies above this number.
    below : float, optional
        The claim holds if the whole interval lies below this number.
    contains : float, optional
        For an exact value known beforehand: the claim holds if the interval contains this number and is no wider
        than ``within`` to each side. Without that limit it could pass by being noisy.
    within : float, optional
        The largest half-width accepted with ``contains``; asked for there, refused elsewhere.
    inside : (float, float), optional
        For a negative control: the claim holds if the whole interval lies between these two numbers, which are
        named beforehand and far smaller than the effect that must vanish (a test of equivalence). Here
        ``contains`` is the wrong question: of controls whose true mean is that number, one in twenty misses it at
        95 %, and a mean of 0.0001 with next to no spread misses 0 although it is nil for every purpose.
        Noise makes the interval wide, so it can only make ``inside`` fail.
    unit : str
        Printed after the effect.
    confidence : float
        The interval's confidence.
    min_seeds : int
        The least number of seeds accepted.
    allow_constant : bool
        Accept values that are all the same, whose interval has no width. By default they are refused, because
        seeds that agree to the last digit have usually not been used.

    Returns
    -------
    Claim

    Raises
    ------
    ClaimFailed
        If the measurements do not support the claim.
    ValueError
        If the arguments are not a claim that can be judged.
    """
    _require_one_bound(above, below, contains, within, inside)
    data = _require_measurements(sentence, values, min_seeds, allow_constant)
    bounds = {"above": above, "below": below, "inside": inside, "contains": contains}
    kind = next(name for name, bound in bounds.items() if bound is not None)
    bound = {"inside": inside, "contains": (contains, within)}.get(kind, (bounds[kind],))
    effect, low, high = (float(x) for x in t_interval(data, confidence))
    said = _filled_in(sentence, within=within, **bounds)
    made = Claim(said, effect, low, high, len(data), kind, tuple(map(float, bound)), unit, confidence)
    if not made.holds:
        raise ClaimFailed(str(made))
    table = _TABLE.get()
    if table is None:
        _show([made])
    else:
        table.append(made)
    return made


@contextmanager
def claims() -> Iterator[None]:
    """Show the claims that are made within the block as one table, a line each."""
    made: list[Claim] = []
    token = _TABLE.set(made)
    try:
        yield
    finally:
        _TABLE.reset(token)
        if made:
            _show(made)


def claims_of(notebook: Path) -> list[Claim]:
    """Return the claims that an executed notebook holds."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = (output for cell in cells for output in cell.get("outputs", []))
    kept = (output.get("data", {}).get(MIME, []) for output in outputs)
    return [Claim(**{**fields, "bound": tuple(fields["bound"])}) for fields in itertools.chain.from_iterable(kept)]


def _filled_in(sentence: str, **bounds: object) -> str:
    if "{" not in sentence:
        return sentence
    try:
        return sentence.format(**bounds)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ValueError(f"sentence: got {sentence!r}, expected names of the given bound in its braces") from error


# How claims are shown.


def _show(made: Sequence[Claim]) -> None:
    text = "\n".join(map(str, made))
    if get_ipython() is None:
        print(text)
        return
    rows = "".join(_row(one) for one in made)
    table = f'<table style="{_TABLE_STYLE}">{rows}</table>'
    data = [asdict(one) for one in made]
    display({"text/html": table, "text/plain": text, MIME: data}, raw=True)


_TABLE_STYLE = "border-collapse:collapse;width:100%;max-width:66em;font-size:14px"
_CELL = "text-align:left;vertical-align:middle;padding:5px 14px 5px 0;line-height:1.4"
_BLUE, _GREY, _RED = "#0072B2", "#C8C8C8", "#D55E00"  # each seen on white and on black
_WIDTH = 11.0  # em


def _row(made: Claim) -> str:
    small = "font-size:12px;opacity:0.8"
    return (
        f'<tr><td style="{_CELL};width:50%"><strong>✓</strong> {html.escape(made.sentence)}</td>'
        f'<td style="{_CELL};white-space:nowrap">{_strip(made)}</td>'
        f'<td style="{_CELL}">{html.escape(made.numbers)}<br><span style="{small}">the interval must lie '
        f"{html.escape(made.demand)}</span></td></tr>"
    )


def _marks(made: Claim) -> tuple[list[float], list[float], float, float]:
    """Where the bounds stand, where the interval does, and the ends of a strip that shows both with some room."""
    bounds = list(made.bound[:1] if made.kind == "contains" else made.bound)
    interval = [made.low, made.effect, made.high]
    first, last = min(bounds + interval), max(bounds + interval)
    room = 0.12 * (last - first) or 1.0
    return bounds, interval, first - room, last + room


def _strip(made: Claim) -> str:
    """The interval (blue, its middle a tick) against the bound (a tall red tick), as blocks of colour side by side."""
    bounds, (low, effect, high), first, last = _marks(made)
    cuts = sorted([*((b, "bound") for b in bounds), (low, ""), (effect, "effect"), (high, ""), (last, "")])
    parts, at = [], first
    for place, mark in cuts:
        inside = low <= (at + place) / 2 <= high
        width = _WIDTH * (place - at) / (last - first)
        parts.append(_block(f"{width:.2f}em", "0.5em" if inside else "1px", _BLUE if inside else _GREY))
        if mark:
            parts.append(_block("3px", *(("1.5em", _RED) if mark == "bound" else ("1em", _BLUE))))
        at = place
    return f'<span title="{html.escape(made.demand)}">{"".join(parts)}</span>'


def _block(width: str, height: str, colour: str) -> str:
    look = f"display:inline-block;vertical-align:middle;width:{width};height:{height};background-color:{colour}"
    return f'<span style="{look}"></span>'


def _strip_of_letters(made: Claim, width: int = 40) -> str:
    bounds, (low, effect, high), first, last = _marks(made)

    def place(value: float) -> int:
        return round((value - first) / (last - first) * (width - 1))

    letters = [" "] * width
    letters[place(low) : place(high) + 1] = "━" * (place(high) - place(low) + 1)
    letters[place(effect)] = "●"
    for bound in bounds:
        letters[place(bound)] = "┃" if letters[place(bound)] == " " else "╋"
    return "".join(letters).rstrip()


def _require_one_bound(above, below, contains, within, inside) -> None:
    bounds = {"above": above, "below": below, "contains": contains, "inside": inside}
    given = [name for name, bound in bounds.items() if bound is not None]
    if len(given) != 1:
        came = " and ".join(given) or "none"
        raise ValueError(f"above, below, contains, inside: got {came}, expected exactly one of them")
    if inside is not None:
        _require_band(inside)
    elif not _is_finite_number(bounds[given[0]]):
        raise ValueError(f"{given[0]}: got {bounds[given[0]]!r}, expected a finite number")
    if contains is not None and (within is None or not 0 < within < np.inf):
        raise ValueError(f"within: got {within!r}, expected the largest half-width that counts as close to contains")
    if contains is None and within is not None:
        raise ValueError(f"within: got {within!r} together with {given[0]}, expected it only together with contains")


def _require_band(inside) -> None:
    is_pair = isinstance(inside, (tuple, list)) and len(inside) == 2 and all(map(_is_finite_number, inside))
    if not is_pair or not inside[0] < inside[1]:
        raise ValueError(f"inside: got {inside!r}, expected two finite numbers, the smaller one first")


def _is_finite_number(value) -> bool:
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return is_number and bool(np.isfinite(value))


def _require_measurements(sentence: str, values: ArrayLike, min_seeds: int, allow_constant: bool) -> np.ndarray:
    require_texts(sentence=sentence)
    if min_seeds < 2:
        raise ValueError(f"min_seeds: got {min_seeds!r}, expected at least 2")
    data = _as_numbers(values)
    if data.ndim != 1:
        raise ValueError(f"values: got shape {data.shape}, expected (seeds,)")
    if len(data) < min_seeds:
        raise ValueError(f"values: got {len(data)} seeds, expected at least {min_seeds}")
    if not allow_constant and np.ptp(data) <= 1e-12 * np.abs(data).max():
        raise ValueError(
            f"values: got {len(data)} times {data[0]:g}, expected seeds that differ "
            "(allow_constant=True if this really was measured)"
        )
    return data


def _as_numbers(values: ArrayLike) -> np.ndarray:
    try:
        data = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"values: got {type(values).__name__}, expected an array of numbers ({error})") from error
    if not np.isfinite(data).all():
        raise ValueError(f"values: got {int((~np.isfinite(data)).sum())} NaN or infinite, expected finite numbers")
    return data
