"""Models, data and teaching tools of the course on multi-task learning and cross-domain transfer.

The rooms are ``models`` (the mathematics), ``datasets`` (where ratings come from), ``envs`` (where sessions
come from), ``training`` (how models are trained and measured), ``teaching`` (how things are shown and asked)
and ``lessons`` (one module a notebook). Each is imported when it is first used, so ``import recmtl_lessons``
costs next to nothing.
"""

from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

_ROOMS = ("datasets", "envs", "lessons", "models", "teaching", "training")

__all__ = ["__version__", *_ROOMS]


def __getattr__(name: str) -> ModuleType:
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
