"""The lessons that are written, by name, and what they ask: for tests that hold of every one."""

from importlib import import_module

from recmtl_lessons.lessons.start_here import COURSE

MODULES = {
    entry.name: import_module(f"recmtl_lessons.lessons.{entry.name}") for entry in COURSE if entry.lesson() is not None
}


def asked(kind):
    """What the lessons have of a class of the kit, as pairs (lesson, thing)."""
    return [
        (name, value) for name, module in MODULES.items() for value in vars(module).values() if isinstance(value, kind)
    ]
