"""What may be called, and with how many arguments."""

import inspect


def check_callable(name: str, value: object, count: int = 0) -> None:
    """Refuse anything that cannot be called with ``count`` arguments."""
    if takes(value, count) is False:
        raise ValueError(f"{name}: got {value!r}, expected a function of {count} arguments")


def takes(value: object, count: int) -> bool | None:
    """Whether something can be called with ``count`` arguments; None where it does not say, as some written in C."""
    try:
        inspect.signature(value).bind(*range(count))
    except TypeError:
        return False
    except ValueError:
        return None
    return True
