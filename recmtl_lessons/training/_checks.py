"""What training asks of plain numbers, in one voice: the argument, what came, what was expected."""


def check_count(name: str, value: object, least: int = 1) -> None:
    """Refuse anything but an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: got {value!r}, expected an integer of at least {least}")


def check_fraction(name: str, value: object) -> None:
    """Refuse anything but a number in [0, 1]."""
    if not is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name}: got {value!r}, expected a number in [0, 1]")


def is_number(value: object) -> bool:
    """Whether it is an integer or a float, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
