"""Claims that are executed: a sentence, the measurements behind it, and a verdict that can fail."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from recmtl_lessons.teaching.lesson import require_texts

__all__ = ["Claim", "ClaimFailed", "claim", "t_interval"]


class ClaimFailed(AssertionError):
    """A claim of the course that its own measurements do not support."""


@dataclass(frozen=True)
class Claim:
    """A claim that held: the mean effect, its interval, and the number of seeds.

    Attributes
    ----------
    effect : float
        Mean over the seeds.
    low, high : float
        Ends of the confidence interval of that mean.
    n : int
        Number of seeds.
    """

    effect: float
    low: float
    high: float
    n: int

    def _ipython_display_(self) -> None:
        """Stay silent as a cell's last value: the claim has already been printed."""


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

    Raises
    ------
    ValueError
        If there are fewer than two rows, a value is not a finite number, or the confidence is out of range.
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
    """Print a claim with its effect, interval and number of seeds, and raise when it does not hold.

    Give exactly one of ``above``, ``below``, ``contains`` and ``inside``. The interval is Student's t interval of the
    mean over the seeds (see `t_interval`), so the values should be independent between seeds: paired
    differences, or one measurement a seed.

    Parameters
    ----------
    sentence : str
        What is claimed, in words.
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
    effect, low, high = (float(x) for x in t_interval(data, confidence))
    result = Claim(effect, low, high, len(data))
    holds, reason = _verdict(result, above, below, contains, within, inside)
    text = _written(sentence, result, unit, confidence, holds, reason)
    if not holds:
        raise ClaimFailed(text)
    print(text)
    return result


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


def _verdict(result: Claim, above, below, contains, within, inside) -> tuple[bool, str]:
    if above is not None:
        return result.low > above, f"the interval must lie above {above:g}"
    if below is not None:
        return result.high < below, f"the interval must lie below {below:g}"
    if inside is not None:
        return inside[0] < result.low and result.high < inside[1], (
            f"the interval must lie between {inside[0]:g} and {inside[1]:g}"
        )
    half = (result.high - result.low) / 2
    if half > within:
        return False, f"the interval is too wide to tell: {half:.3g} to each side, at most {within:g} allowed"
    return (
        result.low <= contains <= result.high,
        f"the interval must contain {contains:g} and reach at most {within:g} to each side",
    )


def _written(sentence: str, result: Claim, unit: str, confidence: float, holds: bool, reason: str) -> str:
    style = "+z.3f" if 0.01 <= max(abs(result.low), abs(result.high)) < 1000 else "+z.3g"  # z: no "-0.000"
    unit = f" {unit}" if unit else ""
    return (
        f"Claim: {sentence}\n"
        f"  effect {result.effect:{style}}{unit}, {confidence * 100:g} % interval "
        f"[{result.low:{style}}, {result.high:{style}}], {result.n} seeds\n"
        f"  {'holds' if holds else 'DOES NOT HOLD'}: {reason}"
    )
