"""Following users while their ratings arrive: predict, score, then learn, for all users of all networks at once.

A rating is predicted before anything is learned from it, so that every one is a test first and an example afterwards
(prequential evaluation; Gama, Sebastiao, Rodrigues, "On evaluating stream learning algorithms", Machine Learning 90,
2013). Each user has weights of their own, which start from those of a trained network.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from recmtl_lessons.datasets.streams import Streams
from recmtl_lessons.models._callables import check_callable
from recmtl_lessons.models._checks import check_choice, check_count, check_number, listed
from recmtl_lessons.training.progress import Moment
from recmtl_lessons.training.stacked import LARGEST, DivergenceError, ManyModels


class Detector(Protocol):
    """What looks at one user's errors, one after another, as those of ``river.drift`` do."""

    drift_detected: bool

    def update(self, x: float) -> object:
        """Take the next error."""


@dataclass(frozen=True)
class Plan:
    """How a user's weights follow their ratings: gradient steps on the mean squared error of the latest ones.

    Attributes
    ----------
    rate : float
        Of the steps.
    steps : int
        After each rating; 0 learns nothing.
    window : int, optional
        The steps are on so many of the latest ratings; on all so far unless given.
    restart : bool
        Whether the steps begin each time at the network's weights. False: they go on from the user's own, which then
        have to be kept.
    after : tuple of int, optional
        Only after these numbers of ratings something is learned; after each unless given.
    """

    rate: float = 0.0
    steps: int = 1
    window: int | None = None
    restart: bool = False
    after: tuple[int, ...] | None = None

    def __post_init__(self):
        check_number("rate", self.rate, 0.0, LARGEST)
        check_count("steps", self.steps, 0)
        if self.window is not None:
            check_count("window", self.window)
        check_choice("restart", self.restart, (False, True))
        if self.after is not None:
            for count in listed("after", self.after):
                check_count("after", count)
            object.__setattr__(self, "after", tuple(self.after))

    def rows_after(self, count: int) -> int:
        """Return on how many ratings each step is, after so many."""
        check_count("count", count)
        if not self.steps or (self.after is not None and count not in self.after):
            return 0
        return count if self.window is None else min(count, self.window)

    def gradients(self, length: int) -> int:
        """Return how many gradients of one rating it takes to follow a user for so many ratings."""
        check_count("length", length)
        return self.steps * sum(self.rows_after(count) for count in range(1, length + 1))


STANDING = Plan(steps=0)


@dataclass(frozen=True)
class Followed:
    """What came of following: M networks, T users each, N ratings.

    Attributes
    ----------
    errors : Tensor, (M, T, N)
        Absolute errors.
    alarms : Tensor, (M, T, N), bool
        After which ratings a detector gave an alarm.
    known : Tensor, (M, T, N), bool
        Where there is a rating.
    """

    errors: Tensor
    alarms: Tensor
    known: Tensor

    def each_user(self, first: int, last: int | None = None) -> Tensor:
        """Return each user's mean error of ratings ``first`` to ``last``, counted from 1, (M, T); NaN without one."""
        check_count("first", first, 1, self.errors.shape[2])
        if last is not None:
            check_count("last", last, first, self.errors.shape[2])
        part = slice(first - 1, last)
        known = self.known[..., part]
        return (self.errors[..., part] * known).sum(2) / known.sum(2)

    def mean(self, first: int, last: int | None = None) -> Tensor:
        """Return the mean over users of `each_user`, each counting the same, (M,)."""
        return self.each_user(first, last).nanmean(1)


def follow(
    models: ManyModels,
    streams: Streams,
    plan: Plan,
    detector: Callable[[], Detector] | None = None,
    peek: bool = False,
) -> Iterator[tuple[Moment, Followed]]:
    """Follow every user with every network, rating by rating.

    Parameters
    ----------
    models : ManyModels
        Networks with ``named_weights`` that answer ``model(x, params)``, as `MAMLRecommender`.
    streams : Streams
        Of the networks' seeds, in their order.
    plan : Plan
    detector : callable () -> Detector, optional
        Makes a user's detector, which gets their errors. After its alarm the window holds later ratings alone; the
        weights stay. None unless given.
    peek : bool
        Whether each error is that of a prediction made *after* the rating was learned. It is wrong, and here to show by
        how much.

    Yields
    ------
    (Moment, Followed)
        After each rating. The `Followed` is one and the same, filled further each time.

    Raises
    ------
    DivergenceError
        At the end, if an error is not finite.
    """
    answer = _checked(models, streams, plan, detector, peek)
    x, y, known = (_over_settings(getattr(streams, f), models) for f in ("x", "y", "known"))
    n_models, users, length = y.shape
    found = Followed(torch.zeros_like(y), torch.zeros_like(known), known)
    x, y = x.flatten(0, 1), y.flatten(0, 1)  # (M * T, N, F), (M * T, N)
    own = models.each(lambda model: dict(model.named_weights()))  # (M, ...) each
    start = {name: value.detach().repeat_interleave(users, 0) for name, value in own.items()}  # (M * T, ...)
    since = torch.zeros(len(y), dtype=torch.long, device=y.device)  # where the window begins at the earliest
    watchers = [detector() for _ in range(len(y))] if detector else []
    weights = start

    def loss_of(weights, x, y, share):
        return ((answer(weights, x) - y).square() * share).sum()

    def learn(weights, count):
        rows = plan.rows_after(count)
        latest = torch.arange(count - rows, count, device=y.device)
        kept = (latest >= since[:, None]).to(y)  # (M * T, rows)
        share = kept / kept.sum(1, keepdim=True).clamp(min=1)
        weights = start if plan.restart and rows else weights
        for _ in range(plan.steps if rows else 0):
            own = {name: value.detach().requires_grad_() for name, value in weights.items()}
            losses = torch.vmap(loss_of)(own, x[:, count - rows : count], y[:, count - rows : count], share)
            slopes = torch.autograd.grad(losses.sum(), list(own.values()))  # a user's are of their own loss alone
            moved = (v.detach() - plan.rate * g for v, g in zip(own.values(), slopes, strict=True))
            weights = dict(zip(own, moved, strict=True))
        return weights

    def errors_at(weights, n):
        ahead = torch.vmap(answer)(weights, x[:, n : n + 1]).squeeze(1)  # (M * T,)
        return (ahead - y[:, n]).abs()

    for n in range(length):
        errors = errors_at(weights, n)
        weights = learn(weights, n + 1)
        if watchers:
            alarms = _told(watchers, errors, known[..., n].flatten())
            found.alarms[..., n] = alarms.view(n_models, users)
            since[alarms] = n + 1
        found.errors[..., n] = (errors_at(weights, n) if peek else errors).view(n_models, users)
        yield Moment(n + 1, length), found
    if not torch.isfinite(found.errors[known]).all():
        raise DivergenceError(f"plan: got errors that are not finite at a rate of {plan.rate:g}, expected a lower one")


def followed(
    models: ManyModels,
    streams: Streams,
    plan: Plan,
    detector: Callable[[], Detector] | None = None,
    peek: bool = False,
) -> Followed:
    """As `follow`, to the end."""
    *_, (_, found) = follow(models, streams, plan, detector, peek)
    return found


def alarms_on(errors: Tensor, known: Tensor, detector: Callable[[], Detector]) -> Tensor:
    """Return after which ratings a detector that only looks on gives an alarm, (..., N).

    Parameters
    ----------
    errors, known : Tensor, (..., N)
        As a `Followed` has them; a detector for each row.
    detector : callable () -> Detector
    """
    if not isinstance(errors, Tensor) or not errors.is_floating_point() or not errors.ndim or not errors.numel():
        raise ValueError(f"errors: got {_came(errors)}, expected floats of shape (..., N)")
    if not isinstance(known, Tensor) or known.dtype != torch.bool or known.shape != errors.shape:
        raise ValueError(f"known: got {_came(known)}, expected truth values of shape {tuple(errors.shape)}")
    if not torch.isfinite(errors[known]).all():
        raise ValueError("errors: got NaN or infinite values, expected finite numbers where there is a rating")
    check_callable("detector", detector, 0)
    rows, there = errors.reshape(-1, errors.shape[-1]), known.reshape(-1, errors.shape[-1])
    watchers = [detector() for _ in rows]
    alarms = [_told(watchers, rows[:, n], there[:, n]) for n in range(rows.shape[1])]
    return torch.stack(alarms, dim=1).view(errors.shape)


def _told(watchers: Sequence[Detector], errors: Tensor, known: Tensor) -> Tensor:
    """Tell each detector its error, where there is one; return which give an alarm now, (len(watchers),)."""
    alarms = []
    for watcher, error, there in zip(watchers, errors.tolist(), known.tolist(), strict=True):
        if there:
            watcher.update(error)
        alarms.append(there and bool(watcher.drift_detected))
    return torch.tensor(alarms, device=errors.device)


def _over_settings(values: Tensor, models: ManyModels) -> Tensor:
    """Give each setting its copy of what each seed has: (S, ...) -> (M, ...)."""
    return values.to(models.device).repeat(models.n_settings, *[1] * (values.ndim - 1))


def _checked(models: object, streams: object, plan: object, detector: object, peek: object) -> Callable:
    """Refuse what cannot be followed; return a function (weights, x) that answers by one user's weights."""
    for name, value, kind in (("models", models, ManyModels), ("streams", streams, Streams), ("plan", plan, Plan)):
        if not isinstance(value, kind):
            raise ValueError(f"{name}: got {type(value).__name__}, expected {kind.__name__}")
    if detector is not None:
        check_callable("detector", detector, 0)
    check_choice("peek", peek, (False, True))
    model = models.model(0).to(models.device)
    if not hasattr(model, "named_weights"):
        raise ValueError(f"models: got {type(model).__name__}, expected networks with named_weights")
    width = getattr(model, "input_dim", None)
    if len(streams.y) != models.n_seeds or streams.x.shape[-1] != width:
        came = f"{len(streams.y)} seeds and {streams.x.shape[-1]} features"
        raise ValueError(f"streams: got {came}, expected the networks' {models.n_seeds} seeds and {width} features")
    return lambda weights, x: model(x, weights).squeeze(1)


def _came(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
