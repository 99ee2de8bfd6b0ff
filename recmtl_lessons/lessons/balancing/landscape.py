"""The landscape of two losses in the appendix of CAGrad (Liu et al. 2021), and four ways down.

Their figure has 100,000 steps. In plain numbers these take seconds, in tensors of two entries minutes; a test holds the
gradients against autograd, and the weights against the package's.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from recmtl_lessons.teaching import Running

STARTS = ((-8.5, 7.5), (-8.5, -5.0), (9.0, 9.0))
LOWEST = -15.1  # of the mean of the two losses
Pair = tuple[float, float]


@dataclass(frozen=True)
class Descent:
    """A way down from each start.

    Attributes
    ----------
    points : list of list of (float, float)
        For each start the places, from the start on.
    steps : list of int
        The step of each place.
    """

    points: list[list[Pair]]
    steps: list[int]

    @property
    def ends(self) -> list[float]:
        """The mean of the two losses where each way ends."""
        return [sum(losses_at(*way[-1])[0]) / 2 for way in self.points]


def losses_at(a: float, b: float) -> tuple[Pair, Pair, Pair]:
    """Return the two losses at a place, and the gradient of each."""
    tanh, up = math.tanh(b), math.tanh(b / 2)
    bend, lean = 1 - tanh**2, (1 - up**2) / 2  # slopes of the two
    losses, gradients = [], []
    # above the axis a logarithm that falls without end along a curve, below it a bowl; their shares are up and -up
    for inner, slope_a, slope_b, centre in (
        ((-a - 7) / 2 + tanh, -0.5, bend, 7.0),
        ((-a + 3) / 2 - tanh + 2, -0.5, -bend, -7.0),
    ):
        if up > 0:
            size = max(abs(inner), 5e-6)
            height = math.log(size) + 6
            slope = math.copysign(1 / size, inner) if abs(inner) > 5e-6 else 0.0
            losses.append(height * up)
            gradients.append((slope * slope_a * up, slope * slope_b * up + height * lean))
        else:
            height = ((centre - a) ** 2 + 0.1 * (b + 8) ** 2) / 10 - 20
            losses.append(-height * up)
            gradients.append((-up * (a - centre) / 5, -up * 0.02 * (b + 8) - height * lean))
    return tuple(losses), *gradients


def _mean(first: Pair, second: Pair) -> Pair:
    return 0.5, 0.5


def _products(first: Pair, second: Pair) -> tuple[float, float, float]:
    dot = first[0] * second[0] + first[1] * second[1]
    return first[0] ** 2 + first[1] ** 2, dot, second[0] ** 2 + second[1] ** 2


def _pcgrad(first: Pair, second: Pair) -> Pair:
    one, dot, two = _products(first, second)
    return (1 - dot / one, 1 - dot / two) if dot < 0 else (1.0, 1.0)


def _mgda(first: Pair, second: Pair) -> Pair:
    one, dot, two = _products(first, second)
    apart = one + two - 2 * dot
    share = min(max((two - dot) / apart, 0.0), 1.0) if apart > 0 else 0.5
    return share, 1 - share


def _cagrad(first: Pair, second: Pair, c: float = 0.5) -> Pair:
    one, dot, two = _products(first, second)
    apart, toward = one + two - 2 * dot, ((one + dot) / 2, (dot + two) / 2)
    radius = c * math.sqrt(max(one + two + 2 * dot, 0.0)) / 2

    def length(share: float) -> float:
        return math.sqrt(max(share**2 * one + 2 * share * (1 - share) * dot + (1 - share) ** 2 * two, 0.0))

    shares = [0.0, 1.0]
    if apart > 0:
        middle, move = (two - dot) / apart, (toward[1] - toward[0]) / apart
        rest = radius**2 - move**2 * apart
        if rest > 0:
            shares.append(min(max(middle + length(middle) / math.sqrt(rest) * move, 0.0), 1.0))
    best = min(shares, key=lambda share: share * toward[0] + (1 - share) * toward[1] + radius * length(share))
    step = radius / length(best) if length(best) > 1e-12 else 0.0
    return 0.5 + step * best, 0.5 + step * (1 - best)


WAYS_DOWN: dict[str, Callable[[Pair, Pair], Pair]] = {
    "mean": _mean,
    "PCGrad": _pcgrad,
    "MGDA": _mgda,
    "CAGrad": _cagrad,
}


def descend(way: str, learning_rate: float, start: int, budget: float = 100.0) -> Iterator[Running]:
    """Go down by Adam from one start, or from all; the steps times the learning rate are ``budget``.

    Parameters
    ----------
    way : str
        One of `WAYS_DOWN`.
    learning_rate : float
    start : int
        From 1; 0 for all.
    budget : float
    """
    steps, weigh = round(budget / learning_rate), WAYS_DOWN[way]
    starts = STARTS if start == 0 else STARTS[start - 1 : start]
    places, every = [list(place) for place in starts], max(1, steps // 100)
    points, at = [[tuple(place)] for place in places], [0]
    means = [[0.0, 0.0, 0.0, 0.0] for _ in places]  # Adam's: of the slopes, and of their squares

    for step in range(1, steps + 1):
        size = learning_rate * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        floor = 1e-8 * math.sqrt(1 - 0.999**step)
        for place, mean in zip(places, means, strict=True):
            _, first, second = losses_at(*place)
            w, v = weigh(first, second)
            for k in range(2):
                slope = w * first[k] + v * second[k]
                mean[k] += 0.1 * (slope - mean[k])
                mean[2 + k] += 0.001 * (slope**2 - mean[2 + k])
                place[k] -= size * mean[k] / (math.sqrt(mean[2 + k]) + floor)
        if step % every == 0 or step == steps:
            for way_down, place in zip(points, places, strict=True):
                way_down.append(tuple(place))
            at.append(step)
            yield Running(step, steps, lambda: Descent([list(one) for one in points], list(at)))
    return Descent(points, at)


def ends_of(way: str, learning_rate: float) -> list[float]:
    """Return the mean of the two losses where a way ends, from each start."""
    *_, last = descend(way, learning_rate, 0)
    return last.snapshot().ends
