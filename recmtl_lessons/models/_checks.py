"""What every model asks of its input, in one voice: the argument, what came, what was expected."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

_LARGEST = torch.finfo(torch.float64).max
_MOST = 2**31 - 1  # beyond it no tensor of such a size comes about, and what torch says of it names no argument
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_features(name: str, value: Tensor, width: int, dtype: torch.dtype | None = None) -> None:
    """Refuse anything but finite floats of shape (batch, width) with batch >= 1, of this ``dtype`` if it is given."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}: got {type(value).__name__}, expected a float tensor (batch, {width})")
    if value.ndim != 2 or value.shape[1] != width or value.shape[0] == 0:
        raise ValueError(f"{name}: got shape {tuple(value.shape)}, expected (batch, {width}) with at least one row")
    if not value.is_floating_point():
        raise ValueError(f"{name}: got dtype {value.dtype}, expected a floating point dtype")
    if dtype not in (None, value.dtype):
        raise ValueError(f"{name}: got dtype {value.dtype}, expected {dtype} as the network's")
    check_dense(name, value)
    check_finite(name, value)


def check_labels(name: str, value: Tensor, rows: int, classes: int) -> None:
    """Refuse anything but integer labels of shape (rows,) in 0..classes-1."""
    if not isinstance(value, Tensor) or value.dtype not in _INTEGERS or value.shape != (rows,):
        came = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name}: got {came}, expected integer labels of shape ({rows},)")
    if _values_are_at_hand(value) and not _in_range(value, classes):
        raise ValueError(
            f"{name}: got labels from {int(value.min())} to {int(value.max())}, expected 0 to {classes - 1}"
        )


def check_values(name: str, value: Tensor, shape: tuple[int, ...], binary: bool = False) -> None:
    """Refuse anything but finite numbers of exactly this shape; 0 and 1 alone if ``binary``."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}: got {type(value).__name__}, expected a tensor of shape {shape}")
    if value.shape != shape:
        raise ValueError(f"{name}: got shape {tuple(value.shape)}, expected {shape}")
    if value.is_complex():
        raise ValueError(f"{name}: got dtype {value.dtype}, expected real numbers")
    check_dense(name, value)
    check_finite(name, value)
    if binary and _values_are_at_hand(value) and not ((value == 0) | (value == 1)).all():
        raise ValueError(f"{name}: got values from {value.min():g} to {value.max():g}, expected 0 or 1")


def check_dense(name: str, value: Tensor) -> None:
    """Refuse a sparse tensor."""
    if value.layout != torch.strided:
        raise ValueError(f"{name}: got layout {value.layout}, expected a dense tensor")


def check_ids(name: str, value: Tensor, vocabulary: int, rows: int | None = None) -> None:
    """Refuse anything but integer ids in 0..vocabulary-1, of shape (batch,), or (rows,) if ``rows`` is given."""
    wanted = "(batch,) with at least one row" if rows is None else f"({rows},)"
    if not isinstance(value, Tensor) or value.dtype not in _INTEGERS:
        came = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name}: got {came}, expected an integer tensor of shape {wanted}")
    if value.ndim != 1 or len(value) == 0 or rows not in (None, len(value)):
        raise ValueError(f"{name}: got shape {tuple(value.shape)}, expected {wanted}")
    if _values_are_at_hand(value) and not _in_range(value, vocabulary):
        raise ValueError(
            f"{name}: got ids from {int(value.min())} to {int(value.max())}, expected 0 to {vocabulary - 1}"
        )


def check_widths(name: str, value: object, empty: bool = False) -> None:
    """Refuse anything but a sequence of positive widths: at least one, unless it may be ``empty``."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or not (value or empty):
        raise ValueError(f"{name}: got {value!r}, expected a sequence of at least one width")
    for width in value:
        check_count(name, width)


def listed(name: str, values: object) -> list:
    """What a sequence holds, or a tensor's first dimension; refuse anything else."""
    if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, Tensor)) or not getattr(values, "ndim", 1):
        raise ValueError(f"{name}: got {values!r}, expected a sequence")
    return list(values)


def check_names(name: str, value: object, expected: str) -> None:
    """Refuse anything but a mapping from names, non-empty strings, of which there is at least one."""
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"{name}: got {value!r}, expected {expected}, at least one")
    for one in value:
        if not isinstance(one, str) or not one:
            raise ValueError(f"{name}: got the name {one!r}, expected a non-empty string")


def check_choice(name: str, value: object, known: tuple) -> None:
    """Refuse what is not among the known names, or truth values."""
    if not isinstance(value, tuple({type(one) for one in known})) or value not in known:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, known))}")


def check_count(name: str, value: object, least: int = 1, most: int = _MOST) -> None:
    """Refuse anything but an integer from ``least`` to ``most``."""
    plain = isinstance(value, int) and not isinstance(value, bool)
    if not plain or not least <= value <= most:
        ends = most < _MOST or (plain and value > most)
        limits = f"from {least} to {most}" if ends else f"of at least {least}"
        raise ValueError(f"{name}: got {value!r}, expected an integer {limits}")


def check_number(
    name: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    above: bool = False,
    below: bool = False,
    infinite: bool = False,
) -> None:
    """Refuse anything but one finite real number in [low, high], plain or as a tensor of shape ().

    ``above`` leaves ``low`` itself out, ``below`` leaves ``high`` out; ``infinite`` takes infinity as well.
    """
    came = ""
    if isinstance(value, Tensor):
        real = not value.is_complex() and value.dtype != torch.bool
        fits = real and value.ndim == 0 and value.layout == torch.strided
        if fits and not _values_are_at_hand(value):
            return
        value, came = (value.item(), "a tensor of ") if fits else (value, "")
    else:
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63  # else torch overflows
        fits = whole or isinstance(value, float)
    fits = fits and low <= value <= high and (abs(value) <= _LARGEST or (infinite and value == math.inf))
    if not fits or (above and value == low) or (below and value == high):
        kind = isinstance(value, Tensor)
        shown = f"a tensor of shape {tuple(value.shape)}, {value.dtype}, {value.layout}" if kind else repr(value)
        expected = _range(low, high, above, below) + (" or infinity" if infinite else "")
        raise ValueError(f"{name}: got {came}{shown}, expected {expected}")


def check_positive(name: str, value: object) -> None:
    """Refuse anything but one positive finite number, plain or as a tensor of shape ()."""
    check_number(name, value, 0.0, above=True)


def checked_device(name: str, wanted: torch.device | str) -> torch.device:
    """Return the device of this name; refuse what torch refuses in any way, and what holds no numbers here."""
    try:
        device = torch.device(wanted)
        torch.zeros((), device=device).item()  # "meta" makes tensors too, but they hold no numbers
    except Exception as error:  # torch raises many kinds, and other ones from one version to the next
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{name}: got {wanted!r}, expected a device of this machine ({reason})") from error
    return device


def _range(low: float, high: float, above: bool, below: bool) -> str:
    if high < math.inf:
        return f"a number in {'(' if above else '['}{low}, {high}{')' if below else ']'}"
    if low > -math.inf:
        return "a positive number" if above and low == 0 else f"a number of at least {low}"
    return "a finite number"


def _in_range(value: Tensor, size: int) -> Tensor:
    """Whether all are in 0..size-1; as int64, since a byte compares with 300 as if it were 44."""
    return ((value >= 0) & (value.long() < size)).all()


def check_finite(name: str, value: Tensor, hint: str = "finite numbers") -> None:
    """Refuse NaN and infinite values, where values can be looked at."""
    if _values_are_at_hand(value) and not torch.isfinite(value).all():
        raise ValueError(f"{name}: got NaN or infinite values, expected {hint}")


def check_answer(
    answer: Tensor, network: nn.Module | None = None, small: tuple[str, ...] = (), **came: Tensor | float
) -> None:
    """Refuse an answer that is not finite, where it can be looked at: by the network's weights, if they are not either.

    Else by the name of what is largest of all that the answer was made of, the weights among it; or smallest, of what
    it was divided by. What was taken although it is infinite is not to blame.
    """
    if not _values_are_at_hand(answer) or torch.isfinite(answer).all():
        return
    sizes = {}
    if network is not None:
        check_weights(network)
        sizes["weights"] = max(map(_largest, network.parameters()))
    sizes |= {name: size for name, value in came.items() if (size := _largest(value)) < math.inf}
    name = max(sizes, key=lambda name: max(sizes[name], 1 / sizes[name] if name in small else 0.0))
    expected = f"moderate ones: the answer is not finite in {answer.dtype}"
    raise ValueError(f"{name}: got numbers of up to {sizes[name]:g}, expected {expected}")


def _largest(value: Tensor | float) -> float:
    return float(torch.as_tensor(value, dtype=torch.float64).detach().abs().max())


def check_weights(network: nn.Module) -> None:
    """Refuse a network with a weight that is not finite."""
    for name, weight in network.named_parameters():
        check_finite("weights", weight, f"finite numbers in {name}: no answer of this network means anything")


def _values_are_at_hand(value: Tensor) -> bool:
    """Whether values can be looked at: inside ``torch.vmap`` and ``torch.func.grad`` only shapes can."""
    # Torch has no public way to ask; to try `data_ptr()` and catch its error costs a stacked step three per cent.
    return not torch._C._functorch.is_functorch_wrapped_tensor(value)
