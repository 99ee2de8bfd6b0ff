"""Answers put side by side: what each returns on the same inputs, its gradients, and what it did to the inputs.

Whoever runs gets copies. Values are compared as float64, in whatever form they came; the gradients are those of a
weighted sum of all that was returned, with respect to each input that asks for one.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_TOLERANCE = 1e-4  # of the largest expected number; answers may count in float32
_FLOOR = 1e-6
_FEW = 12  # numbers that a message still writes out

Case = Mapping[str, Any]


class Placeholder(Exception):
    """Raised when a learner's function still returns its placeholder."""


class BackwardError(Exception):
    """Raised when no gradient can be taken through an answer."""


class Misfit(Exception):
    """Raised when an answer has not the form of the expected one; its text says what came, and what was expected."""


@dataclass(frozen=True)
class Ran:
    """One run of an answer.

    Attributes
    ----------
    value : object
        What it returned.
    error : BaseException or None
        What it raised instead.
    before : dict
        The inputs.
    given : dict
        The copies of the inputs that it got, as it left them.
    asking : list of Tensor
        The copies that asked for a gradient when it got them.
    """

    value: Any
    error: BaseException | None
    before: Case
    given: dict[str, Any]
    asking: list[Tensor]

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the inputs that are no longer what they were: looked at anew, since a backward may change them."""
        return tuple(name for name, value in self.before.items() if not _untouched(value, self.given[name]))


@dataclass(frozen=True)
class Seen:
    """A run that has the form of the expected one.

    Attributes
    ----------
    values : nested lists and dicts of Tensor
        Detached; float64, or bool.
    gradients : list of Tensor
        One for each input that asks for one, float64; zeros where none came.
    attached : bool
        Whether a gradient can flow back from what was returned.
    """

    values: Any
    gradients: list[Tensor]
    attached: bool


def run(answer: Any, case: Case, call: Callable) -> Ran:
    """Run an answer on copies of a case's inputs. Only a placeholder and an interrupt are raised."""
    given = {name: copied(value) for name, value in case.items()}
    asking = [part for part in leaves(given) if isinstance(part, Tensor) and part.requires_grad]
    value = error = None
    try:
        with torch.enable_grad():
            value = call(answer, *given.values())
    except (Placeholder, KeyboardInterrupt):
        raise
    except BaseException as raised:  # sys.exit() among them: a learner's cell must not end the kernel
        error = raised
    return Ran(value, error, case, given, asking)


def seen(ran: Ran, like: Any) -> Seen:
    """Bring what a run returned into the form of ``like``, with its gradients.

    Raises
    ------
    Misfit
        If it has another form.
    BackwardError
        If the way back through the answer raises; its cause is that error.
    """
    values = fitted(ran.value, like)
    returned = [part for part in leaves(values) if part.requires_grad]
    found: tuple = (None,) * len(ran.asking)
    if returned and ran.asking:
        total = sum(map(_weighed, returned))
        try:
            found = torch.autograd.grad(total, ran.asking, allow_unused=True, retain_graph=True)
        except Exception as error:  # whatever a backward of the answer's own raises
            raise BackwardError from error
    pairs = zip(found, ran.asking, strict=True)
    gradients = [torch.zeros_like(part).double() if g is None else g.detach().double() for g, part in pairs]
    return Seen(_detached(values), gradients, bool(returned))


def fitted(value: Any, like: Any) -> Any:
    """Return a value in the form of another: its dicts and lists, and in them float64 or bool tensors with a graph.

    A list may come as a tuple, a tensor as an array, a number or a list, one number with or without a dimension.

    Raises
    ------
    Misfit
        If it cannot be brought into that form.
    """
    if value is None:
        raise Misfit("Your function returned None. Is a `return` missing?")
    if isinstance(like, Mapping):
        if not isinstance(value, Mapping) or set(value) != set(like):
            raise Misfit(f"I expected a dict with {_names(like)}, and got {_kind(value)}.")
        return {key: fitted(value[key], part) for key, part in like.items()}
    if isinstance(like, (list, tuple)):
        parts = list(value) if isinstance(value, (Tensor, np.ndarray)) and value.ndim else value
        if not isinstance(parts, (list, tuple)) or len(parts) != len(like):
            raise Misfit(f"I expected {_kind(like)}, and got {_kind(value)}.")
        return [fitted(*pair) for pair in zip(parts, like, strict=True)]
    wanted, found = torch.as_tensor(like), _tensor(value)
    if wanted.ndim == 0 and found.numel() == 1:
        found = found.reshape(())
    if found.shape != wanted.shape:
        raise Misfit(f"I expected {_kind(like)}, and got {_kind(value)}.")
    if wanted.dtype == torch.bool:
        if found.dtype != torch.bool:
            raise Misfit(f"I expected True and False, of dtype bool, and got {_kind(value)} of {found.dtype}.")
        return found
    return found.double()


def alike(a: Any, b: Any) -> bool:
    """Whether two fitted values agree: bool and infinite ones exactly, NaN with NaN, the rest within the tolerance."""
    if isinstance(a, dict):
        return all(alike(a[key], b[key]) for key in b)
    if isinstance(a, list):
        return all(alike(*pair) for pair in zip(a, b, strict=True))
    if a.dtype == torch.bool:
        return torch.equal(a, b)
    finite = torch.isfinite(b)
    if not torch.equal(torch.isfinite(a), finite) or not torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()):
        return False
    a, b = a[finite], b[finite]
    return not len(b) or bool((a - b).abs().max() <= _FLOOR + _TOLERANCE * b.abs().max())


def first_difference(came: Any, expected: Any) -> tuple[str, str]:
    """Two fitted values that do not agree, in a few words; of large tensors the first place in which they differ."""
    pairs = ((a, b) for a, b in zip(leaves(came), leaves(expected), strict=True) if not alike(a, b))
    a, b = next(pairs)
    if b.numel() <= _FEW:
        return brief(a), brief(b)
    place = next(tuple(i) for i in (a != b).nonzero().tolist() if not alike(a[tuple(i)], b[tuple(i)]))
    where = f" in place {list(place)}"
    return brief(a[place].item()), brief(b[place].item()) + where


def leaves(value: Any) -> Iterator[Any]:
    """Yield what nested dicts, lists and tuples hold."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from leaves(part)
    else:
        yield value


def brief(value: Any) -> str:
    """A value in a few words, for a message: numbers rounded, large tensors by their shape."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {brief(part)}" for key, part in value.items()) + "}"
    if isinstance(value, Tensor):
        few = value.numel() <= _FEW
        return brief(value.detach().tolist()) if few else f"a tensor {tuple(value.shape)}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(brief(part) for part in value) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def copied(value: Any) -> Any:
    """Return a deep copy of nested dicts, lists and tuples of tensors and plain values."""
    if isinstance(value, Mapping):
        return {key: copied(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(copied(part) for part in value)
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    return value


def _untouched(before: Any, after: Any) -> bool:
    if isinstance(before, Mapping):
        fits = isinstance(after, Mapping) and list(after) == list(before)
        return fits and all(_untouched(before[key], after[key]) for key in before)
    if isinstance(before, (list, tuple)):
        fits = isinstance(after, (list, tuple)) and len(after) == len(before)
        return fits and all(_untouched(*pair) for pair in zip(before, after, strict=True))
    if isinstance(before, Tensor):
        fits = isinstance(after, Tensor) and (after.shape, after.dtype) == (before.shape, before.dtype)
        return fits and bool(((before == after) | (before.isnan() & after.isnan())).all())
    return before is after or before == after


def _weighed(returned: Tensor) -> Tensor:
    """A sum in which every finite number counts, each by a weight of its own, one in two below 0."""
    generator = torch.Generator().manual_seed(0)
    weights = 0.5 + torch.rand(returned.shape, generator=generator, dtype=torch.float64)
    weights.view(-1)[1::2] *= -1
    return (weights * torch.where(torch.isfinite(returned), returned, 0.0)).sum()


def _detached(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _detached(part) for key, part in values.items()}
    return list(map(_detached, values)) if isinstance(values, list) else values.detach()


def _tensor(value: Any) -> Tensor:
    """A tensor of real numbers or truth values, with its graph; of a list, one whose first dimension it is."""
    try:
        if isinstance(value, (list, tuple)) and value:
            return torch.stack([_tensor(part) for part in value])
        found = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
        if found.layout == torch.strided and not found.is_complex():
            return found.cpu()
    except (TypeError, ValueError, RuntimeError):
        pass
    raise Misfit(f"I expected numbers, and got {_kind(value)}.")


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dict with {_names(value)}"
    if isinstance(value, (list, tuple)):
        return f"{len(value)} {'value' if len(value) == 1 else 'values'} in a {type(value).__name__}"
    if isinstance(value, (Tensor, np.ndarray)):
        name = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{name} of shape {tuple(value.shape)}"
    if isinstance(value, (bool, int, float, np.generic)):
        return "one number"
    return f"{type(value).__name__}"


def _names(value: Mapping) -> str:
    return ", ".join(repr(key) for key in value) or "nothing in it"
