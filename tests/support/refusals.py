"""One table a room of its public calls and their arguments, and the two tests that are made from it.

A row is a `Call`: how it is written, right arguments, and of which `Kind` each argument is. A kind knows what is wrong
for it, whatever the right value is, so that a new argument needs one entry in a row and no test. From the table come

- `refusals(CALLS)` and `refused`: each argument made wrong in each way of its kind. A ``ValueError`` names it.
- `junk_for(call)` and `ask`: arguments by chance, wrong ones, odd ones and right ones changed. A finite answer comes,
  or a ``ValueError`` that names an argument. A thousand examples a call with ``RECMTL_SLOW_TESTS``, else the same few.
- `missing(room, CALLS)`: public calls of a room, and arguments of theirs, that no row has.

Whichever call fails has changed nothing: not what it is bound to, nor its arguments, nor torch's generator. In a room:

    CALLS = [Call("auc", lambda: (auc, {"scores": ..., "labels": ...}), {"scores": Floats("fixed"), "labels": ...})]

    @pytest.mark.parametrize(("call", "argument"), refusals(CALLS))
    def test_a_wrong_argument_is_refused_by_its_name(call, argument):
        refused(call, argument)

    @pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
    @by_chance
    @given(data=st.data())
    def test_whatever_comes_is_answered_or_refused(call, data):
        ask(call, *data.draw(junk_for(call)))

    def test_every_public_call_has_a_row():
        assert missing(models, CALLS) == set()
"""

import copy
import dataclasses
import inspect
import math
import os
import re
import types
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor, nn

SLOW = bool(os.environ.get("RECMTL_SLOW_TESTS"))
by_chance = settings(
    max_examples=1000 if SLOW else 10,
    derandomize=not SLOW,  # else a change of nobody's could fail on a day when chance finds something
    database=None,
    suppress_health_check=list(HealthCheck),
)


class Kind:
    """What an argument is: `wrong` yields (in words, value) from the right value; None is right if ``optional``."""

    def __init__(self, optional: bool = False):
        self.optional = optional

    def wrong(self, right) -> Iterator[tuple[str, object]]:
        yield "an object", object()
        if not self.optional:
            yield "None", None


class Free(Kind):
    """Whatever it is, it is taken: nothing is wrong."""

    def __init__(self, why: str):
        super().__init__(optional=True)
        self.why = why

    def wrong(self, right):
        return iter(())


class Given(Kind):
    """An argument whose wrong values stand in the row: values, or functions of the right one."""

    def __init__(self, *wrong, optional: bool = False):
        super().__init__(optional)
        self.listed = wrong

    def wrong(self, right):
        yield from super().wrong(right)
        for value in self.listed:
            yield _words(value), (value(right) if isinstance(value, types.FunctionType) else value)


class Count(Kind):
    """An integer from ``least`` to ``most``."""

    def __init__(self, least: int = 1, most: int | None = None, optional: bool = False):
        super().__init__(optional)
        self.least, self.most = least, most

    def wrong(self, right):
        yield from super().wrong(right)
        for value in (self.least - 1, self.least + 0.5, True, str(self.least), math.nan):
            yield repr(value), value
        if self.most is not None:
            yield repr(self.most + 1), self.most + 1


class Number(Kind):
    """A finite real number in [low, high], less an end that is ``above`` or ``below``; a tensor of shape () too.

    ``infinite`` says that infinity is right as well.
    """

    def __init__(self, low=-math.inf, high=math.inf, above=False, below=False, infinite=False, optional=False):
        super().__init__(optional)
        self.low, self.high, self.above, self.below, self.infinite = low, high, above, below, infinite

    def wrong(self, right):
        yield from super().wrong(right)
        outside = [math.nan, -math.inf, *(() if self.infinite else (math.inf,))]
        if self.low > -math.inf:
            outside.append(self.low if self.above else self.low - 0.5)
        if self.high < math.inf:
            outside.append(self.high if self.below else self.high + 0.5)
        for value in outside:
            yield repr(value), value
            yield f"a tensor of {value!r}", torch.tensor(value)
        for value in ("1", True, [0.5], torch.full((2,), 0.5), torch.full((1, 1), 0.5), torch.tensor(0.5 + 0.5j)):
            yield _words(value), value


class OneOf(Kind):
    """One of some names."""

    def __init__(self, *known, optional=False):
        super().__init__(optional)
        self.known = known

    def wrong(self, right):
        yield from super().wrong(right)
        for value in ("no such thing", "", 17, [], {}, torch.zeros(2)):
            yield _words(value), value


class Flag(Kind):
    """True or False."""

    def wrong(self, right):
        yield from super().wrong(right)
        for value in ("yes", 2, [], torch.zeros(2)):
            yield _words(value), value


class Widths(Kind):
    """A sequence of positive widths, at least one unless ``empty``."""

    def __init__(self, empty: bool = False, optional: bool = False):
        super().__init__(optional)
        self.empty = empty

    def wrong(self, right):
        yield from super().wrong(right)
        for value in (4, "44", (4, 0), (4, -1), [2.5], (True,), {4: 4}, *(() if self.empty else ((),))):
            yield repr(value), value


class Floats(Kind):
    """A tensor of finite floats. ``dims`` says of each dimension whether its size is ``"free"`` or ``"fixed"``.

    ``dtype`` says that another floating dtype is wrong, ``binary`` that only 0 and 1 are right; ``integers``, that
    whole numbers are taken as well; ``more``, that other dimensions may come before.
    """

    def __init__(
        self, dims="free fixed", dtype=True, binary=False, integers=False, infinite=False, more=False, optional=False
    ):
        super().__init__(optional)
        self.more = more
        self.dims, self.dtype, self.binary = dims.split(), dtype, binary
        self.integers, self.infinite = integers, infinite

    def wrong(self, right):
        yield from super().wrong(right)
        yield "a list", right.tolist()
        yield "a string", "features"
        yield "complex numbers", right.to(torch.complex64)
        yield "sparse", right.detach().to_sparse()
        if not self.more:
            yield "a dimension more", right[None].expand(2, *right.shape)
        if right.ndim:
            yield "NaN in one place", _with(right, math.nan)
            if not self.infinite:
                yield "infinity in one place", _with(right, math.inf)
        for k, size in enumerate(self.dims):
            if size == "fixed":
                yield f"dimension {k} longer", torch.cat([right, right.narrow(k, 0, 1)], k)
            yield f"dimension {k} empty", right.narrow(k, 0, 0)
        if not self.integers:
            yield "whole numbers", right.long()
        if self.dtype and right.is_floating_point():
            yield "another dtype", right.to(torch.float64 if right.dtype != torch.float64 else torch.float32)
        if self.binary:
            yield "a half", _with(right, 0.5)


class Integers(Kind):
    """A tensor of integers from 0 to ``most``; its sizes as in `Floats`."""

    def __init__(self, most: int | None, dims="fixed", negative=False, optional=False):
        super().__init__(optional)
        self.most, self.dims, self.negative = most, dims.split(), negative

    def wrong(self, right):
        yield from super().wrong(right)
        yield "a list", right.tolist()
        yield "floats", right.double()
        yield "truth values", right.bool()
        yield "a dimension more", right[None].expand(2, *right.shape)
        if not self.negative:
            yield "a negative one", _with(right, -1)
        if self.most is not None:
            yield "one too large", _with(right, self.most + 1)
        for k, size in enumerate(self.dims):
            if size == "fixed":
                yield f"dimension {k} longer", torch.cat([right, right.narrow(k, 0, 1)], k)


class Mask(Kind):
    """A tensor of truth values; its sizes as in `Floats`."""

    def __init__(self, dims="fixed fixed", optional=True):
        super().__init__(optional)
        self.dims = dims.split()

    def wrong(self, right):
        yield from super().wrong(right)
        yield "a list", right.tolist()
        yield "floats", right.float()
        yield "a dimension more", right[None].expand(2, *right.shape)
        for k, size in enumerate(self.dims):
            if size == "fixed":
                yield f"dimension {k} longer", torch.cat([right, right.narrow(k, 0, 1)], k)


class Generator(Kind):
    """A ``torch.Generator``."""

    def wrong(self, right):
        yield from super().wrong(right)
        yield "a seed", 3
        yield "NumPy's generator", np.random.default_rng(0)


class Each(Kind):
    """A container of parts, each of a kind of its own: a mapping by key, or a sequence by place."""

    def __init__(self, parts: Mapping, optional: bool = False):
        super().__init__(optional)
        self.parts = parts

    def wrong(self, right):
        yield from super().wrong(right)
        yield "nothing in it", type(right)()
        for key, kind in self.parts.items():
            for words, value in kind.wrong(right[key]):
                changed = dict(right) if isinstance(right, Mapping) else list(right)
                changed[key] = value
                yield f"[{key!r}] {words}", type(right)(changed)


@dataclasses.dataclass(frozen=True)
class Call:
    """One public call.

    Attributes
    ----------
    name : str
        As it is written: ``"gae"``, ``"MAMLRecommender"``, ``"MAMLRecommender.inner_update"``.
    right : callable () -> (function, {argument: value})
        What to call and right arguments, made anew each time: all for which wrong ones are made from the right one.
        What the function is bound to is watched for changes.
    kinds : dict {argument: Kind}
        Of each argument, in the order of the signature.
    also : tuple of str
        Names that an error may begin with beside the arguments' own, such as parts of one.
    infinite : bool
        Whether infinite values are a right answer.
    """

    name: str
    right: Callable[[], tuple[Callable, dict]]
    kinds: Mapping[str, Kind]
    also: tuple[str, ...] = ()
    infinite: bool = False


def refusals(calls) -> list:
    """Every argument of every call that something is wrong for, as pytest parameters (call, argument)."""
    return [
        pytest.param(call, argument, id=f"{call.name}-{argument}")
        for call in calls
        for argument, kind in call.kinds.items()
        if not isinstance(kind, Free)
    ]


def refused(call: Call, argument: str) -> None:
    """Hold that an argument made wrong in each way of its kind is refused by its name, and that nothing has changed."""
    amiss = []
    for words, wrong in call.kinds[argument].wrong(_right(call, argument)):
        function, arguments = call.right()
        message = ask(call, function, {**arguments, argument: wrong})
        if message is None or not _names(message, (argument, *call.also)):
            amiss.append(f"{words}: {'taken' if message is None else message}")
    assert not amiss, f"{call.name}, {argument}:\n" + "\n".join(amiss)


def ask(call: Call, function: Callable, arguments: dict) -> str | None:
    """Call; return the message of a ``ValueError``, or None where an answer came, which is then looked at."""
    owner, luck = getattr(function, "__self__", None), torch.random.get_rng_state()
    before, message = fingerprint((owner, arguments)), None
    try:
        answer = function(**arguments)
    except ValueError as error:
        message = str(error)
    if message is None:
        assert call.infinite or finite(answer), f"{call.name} answered {answer!r}"
        return None
    assert _names(message, (*call.kinds, *call.also)), f"no argument of {call.name} is named: {message}"
    assert fingerprint((owner, arguments)) == before, f"{call.name} failed ({message}) and changed something"
    assert torch.equal(torch.random.get_rng_state(), luck), f"{call.name} failed ({message}) and drew"
    return message


@st.composite
def junk_for(draw, call: Call):
    """A function and its arguments, of which one or two are made wrong in a way of their kind, or junk."""
    function, arguments = call.right()
    for argument in draw(st.lists(st.sampled_from(sorted(call.kinds)), min_size=1, max_size=2, unique=True)):
        right = arguments.get(argument)
        ways = [value for _, value in call.kinds[argument].wrong(_right(call, argument))]
        choices = [_JUNK, _changed(right), *([st.sampled_from(ways)] if ways else [])]
        if callable(right):  # another function's errors are its own
            choices = [_JUNK.filter(lambda value: not callable(value)), *choices[2:]]
        if not isinstance(call.kinds[argument], Free):
            arguments[argument] = draw(st.one_of(choices))
    return function, arguments


def missing(room: types.ModuleType, calls) -> set[str]:
    """Public calls of a room that no row has, and arguments that their row has not: "name" or "name(argument)"."""
    rows = {call.name: set() for call in calls}
    for call in calls:
        rows[call.name] |= set(call.kinds)
    found = set()
    for name, function in public_calls(room):
        arguments = set(inspect.signature(function).parameters) - {"self", "cls"}
        if name not in rows and arguments:
            found.add(name)
        found |= {f"{name}({argument})" for argument in arguments - rows.get(name, arguments)}
    return found


def public_calls(room: types.ModuleType) -> Iterator[tuple[str, Callable]]:
    """Functions, classes and public methods written in a room's package, by the name they are called by."""
    for name in room.__all__:
        thing = getattr(room, name)
        if inspect.isclass(thing) and issubclass(thing, Exception):
            continue  # is raised, not called
        if inspect.isclass(thing) and issubclass(thing, torch.autograd.Function):
            yield f"{name}.apply", thing.forward
        elif inspect.isclass(thing):
            yield name, thing.__init__
            for key in dir(thing):
                method = inspect.getattr_static(thing, key)
                method = getattr(method, "__func__", method)
                ours = inspect.isfunction(method) and method.__module__.startswith(room.__name__)
                if ours and not key.startswith("_"):
                    yield f"{name}.{key}", method
        elif inspect.isroutine(thing):
            yield name, thing


# What chance may send

_NUMBERS = (0, 1, -1, 2**40, 10**400, 0.0, -0.0, 0.5, 1e20, -1e20, 1e308, math.nan, math.inf, -math.inf, True, False)
_THINGS = (None, "", "shop", b"shop", (), [], {}, {"a": 1}, [1, 2], (0.5,), [[1.0], [2.0]], {1}, int, len, 1j)


@st.composite
def _tensors(draw):
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    dtype = draw(st.sampled_from((torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool)))
    value = draw(st.sampled_from((0.0, 1.0, -1.0, 1e20, math.nan, math.inf, 3.0)))
    if not dtype.is_floating_point:
        value = draw(st.sampled_from((0, 1, 2, 100)))
    return torch.full(shape, value).to(dtype)


@st.composite
def _changed(draw, right: object):
    """A right tensor in another scale, with a value put in, other rows or another dtype; of a container, one part."""
    if type(right) in (dict, list, tuple) and right:
        changed = dict(right) if isinstance(right, dict) else dict(enumerate(right))
        key = draw(st.sampled_from(list(changed)))
        changed[key] = draw(_changed(changed[key]))
        return changed if isinstance(right, dict) else type(right)(changed.values())
    if not isinstance(right, Tensor):
        return draw(_JUNK)
    way = draw(st.sampled_from(("scale", "put", "rows", "dtype", "shape", "array")))
    right = right.detach().clone()
    if way == "scale" and right.is_floating_point():
        return right * draw(st.sampled_from((0.0, 1e-30, 1e10, 1e20, 1e38, -1.0)))
    if way == "put" and right.numel():
        return _with(right, draw(st.sampled_from((math.nan, math.inf, 1e20, -1.0, 0.0))))
    if way == "rows" and right.ndim:
        return right[: draw(st.integers(0, len(right)))]
    if way == "dtype":
        kinds = (torch.float16, torch.bfloat16, torch.float64, torch.float32, torch.int64, torch.int32, torch.bool)
        return right.to(draw(st.sampled_from(kinds)))
    if way == "shape":
        return draw(st.sampled_from((right[None], right.flatten(), right.unsqueeze(-1))))
    return right.numpy()


_JUNK = st.one_of(
    st.sampled_from(_NUMBERS), st.sampled_from(_THINGS), _tensors(),
    st.builds(np.float32, st.just(0.5)), st.builds(np.int64, st.just(2)), st.builds(object),
)  # fmt: skip


# What is looked at


def finite(answer: object) -> bool:
    """Whether all numbers of an answer are finite, wherever they stand."""
    if isinstance(answer, Tensor):
        return not (answer.is_floating_point() or answer.is_complex()) or bool(torch.isfinite(answer).all())
    if isinstance(answer, np.ndarray):
        return answer.dtype.kind not in "fc" or bool(np.isfinite(answer).all())
    if isinstance(answer, float):
        return math.isfinite(answer)
    if isinstance(answer, Mapping):
        return all(map(finite, answer.values()))
    if isinstance(answer, nn.Module):
        return all(map(finite, answer.state_dict().values()))
    if isinstance(answer, (tuple, list)):
        return all(map(finite, answer))
    if dataclasses.is_dataclass(answer) and not isinstance(answer, type):
        return all(finite(getattr(answer, field.name)) for field in dataclasses.fields(answer))
    return True


def fingerprint(thing: object, seen: frozenset = frozenset()) -> object:
    """What a thing holds, in a form that is equal as long as nothing in it has changed."""
    if isinstance(thing, Tensor):
        if thing.layout != torch.strided:
            return "sparse", fingerprint(thing.to_dense())
        numbers = thing.detach().cpu().flatten().contiguous()
        return str(numbers.dtype), tuple(thing.shape), numbers.view(torch.uint8).numpy().tobytes()
    if isinstance(thing, torch.Generator):
        return thing.get_state().numpy().tobytes()
    if isinstance(thing, np.ndarray):
        return str(thing.dtype), thing.shape, repr(thing.tolist()) if thing.dtype == object else thing.tobytes()
    if isinstance(thing, np.random.Generator):
        return repr(thing.bit_generator.state)
    if isinstance(thing, (bool, int, float, complex, str, bytes, type(None), type, torch.dtype, torch.device)):
        return repr(thing)
    if id(thing) in seen or (callable(thing) and not hasattr(thing, "__dict__")):
        return type(thing).__name__
    seen = seen | {id(thing)}
    if isinstance(thing, Mapping):
        return tuple(
            (repr(key) if not isinstance(key, Tensor) else id(key), fingerprint(v, seen)) for key, v in thing.items()
        )
    if isinstance(thing, (list, tuple)):
        return type(thing).__name__, tuple(fingerprint(value, seen) for value in thing)
    if isinstance(thing, (set, frozenset)):
        return sorted(map(repr, thing))
    if isinstance(thing, types.FunctionType | types.MethodType | types.ModuleType):
        return thing.__name__
    return type(thing).__name__, fingerprint(dict(getattr(thing, "__dict__", {})), seen)


def _right(call: Call, argument: str) -> object:
    """The right value of one argument, a copy of its own."""
    return copy.copy(call.right()[1].get(argument))


def _names(message: str, names) -> bool:
    return re.match(rf"({'|'.join(map(re.escape, names))})\b", message) is not None


def _with(right: Tensor, value: float) -> Tensor:
    changed = right.detach().clone().contiguous()
    changed.view(-1)[-1:] = torch.tensor(value).to(changed.dtype)
    return changed


def _words(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}".removeprefix("torch.")
    return value.__name__ if isinstance(value, types.FunctionType) else re.sub(r"\s+", " ", repr(value))[:40]
