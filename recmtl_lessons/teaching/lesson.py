"""A lesson's list of activities, and how far the learner has come in each."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from recmtl_lessons.teaching.progress import progress

__all__ = ["LEVELS", "Lesson", "require_texts"]

LEVELS = ("beginner", "intermediate", "advanced")
_STATES = ("started", "done")


class Lesson:
    """The activities of one lesson, declared once, so that a map of the course can show them all.

    Parameters
    ----------
    name : str
        The lesson's one name, the same as its module's, such as ``"domain_adversarial"``.
    activities : mapping of str to str
        Each activity's key and the label a learner reads, in the order of the notebook, for instance
        ``{"predict": "A prediction", "exercise-reversal": "Write the reversal"}``.

    Examples
    --------
    >>> lesson = Lesson("domain_adversarial", {"predict": "A prediction"})
    >>> list(lesson.activities)
    ['predict']
    """

    def __init__(self, name: str, activities: Mapping[str, str]):
        require_texts(name=name)
        if not isinstance(activities, Mapping) or not activities:
            raise ValueError(f"activities: got {activities!r}, expected at least one key with its label")
        for key, label in activities.items():
            _require_activity(key, label)
        self.name = name
        self.activities = MappingProxyType(dict(activities))

    def __repr__(self) -> str:
        return f"Lesson({self.name!r}, {len(self.activities)} activities)"

    def require(self, key: str) -> str:
        """Return the key if this lesson declares it.

        A part of an activity is written with a slash: ``"study/check-1"`` belongs to ``"study"``. Its facts
        are kept under the whole key, and it does not appear among the lesson's states.
        """
        whole = key.split("/", 1)[0] if isinstance(key, str) else None
        if whole not in self.activities:
            declared = ", ".join(repr(known) for known in self.activities)
            raise ValueError(f"key: {key!r} is not declared by lesson {self.name!r}, expected one of {declared}")
        return key

    def record(self, key: str, state: Literal["started", "done"] = "started", **facts: Any) -> None:
        """Keep how far the learner is with an activity. What is done stays done.

        Parameters
        ----------
        key : str
            A declared activity.
        state : {"started", "done"}
            The state reached now.
        **facts
            Anything else worth keeping that JSON can hold, or a function of what is kept, as in `Progress.record`.
        """
        self.require(key)
        if state not in _STATES:
            raise ValueError(f"state: got {state!r}, expected 'started' or 'done'")
        progress().record(self.name, key, state=lambda kept: "done" if kept == "done" else state, **facts)

    def recall(self, key: str) -> dict[str, Any]:
        """Return what is kept about an activity, an empty dict where nothing is."""
        return progress().get(self.name, self.require(key)) or {}

    def states(self) -> dict[str, str]:
        """Return each declared activity's state: ``"untouched"``, ``"started"`` or ``"done"``."""
        kept = progress().lesson(self.name)
        return {key: _known_state(kept.get(key, {}).get("state")) for key in self.activities}


def _known_state(state: object) -> str:
    return state if state in _STATES else "untouched"


def _require_activity(key: object, label: object) -> None:
    if not isinstance(key, str) or not key.strip() or "/" in key:
        raise ValueError(f"activities: got the key {key!r}, expected a non-empty string without a slash")
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"activities: got the label {label!r} for {key!r}, expected a non-empty string")


def require_texts(**texts: Any) -> None:
    """Refuse, by its name, each argument that is not a non-empty text."""
    for name, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{name}: got {text!r}, expected a non-empty text")
