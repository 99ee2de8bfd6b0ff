"""Exercises that answer back: a check that names the mistake, hints one by one, and a reference solution."""

import functools
import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from recmtl_lessons.teaching.lesson import LEVELS, Lesson, require_texts
from recmtl_lessons.teaching.source import show_source
from recmtl_lessons.teaching.style import card, prose, show_card

__all__ = ["Exercise", "Outcome", "noted", "right", "unattempted", "wrong"]

_TITLES = {"right": "Right.", "wrong": "Not yet.", "noted": "Kept.", "unattempted": "Not tried yet."}
_TONES = {"right": "right", "wrong": "wrong", "noted": "note", "unattempted": "quiet"}


@dataclass(frozen=True)
class Outcome:
    """What came of an answer. It is true only when the answer is right.

    Attributes
    ----------
    kind : {"right", "wrong", "noted", "unattempted"}
        ``"noted"`` is an answer that was kept without being judged, such as a prediction.
    message : str
        What to tell the learner.
    title : str
        Written above the message; empty for the usual one.
    """

    kind: Literal["right", "wrong", "noted", "unattempted"]
    message: str
    title: str = ""

    def __bool__(self) -> bool:
        return self.kind == "right"

    def _ipython_display_(self) -> None:
        """Stay silent as a cell's last value: the verdict has already been shown."""

    def show(self) -> None:
        """Display the outcome as one block."""
        show_card(self.title or _TITLES[self.kind], self.message, _TONES[self.kind])

    def html(self) -> str:
        """Return the same block as HTML that a screen reader announces."""
        block = card(self.title or _TITLES[self.kind], prose(self.message), _TONES[self.kind])
        return f'<div role="status" aria-live="polite">{block}</div>'


def right(message: str = "") -> Outcome:
    """Return the verdict that an answer is right, with what is worth adding."""
    return Outcome("right", message)


def wrong(message: str) -> Outcome:
    """Return the verdict that an answer is wrong; the message names the mistake.

    Raises
    ------
    ValueError
        If the message is empty: a learner is always told what is wrong.
    """
    require_texts(message=message)
    return Outcome("wrong", message)


def noted(message: str, title: str = "") -> Outcome:
    """Return the outcome of an answer that is kept and not judged."""
    return Outcome("noted", message, title)


def unattempted(
    message: str = "Replace the placeholder with your answer and run the cell again.", title: str = ""
) -> Outcome:
    """Return the verdict that there is no answer yet."""
    return Outcome("unattempted", message, title)


class Exercise:
    """A task with a check, hints and a solution.

    Parameters
    ----------
    lesson : Lesson
        The lesson it belongs to.
    key : str
        Its declared activity.
    title, task : str
        What it is called, and what to do; the task is Markdown.
    level : {"beginner", "intermediate", "advanced"}
    minutes : int
        How long it takes most people.
    check : callable
        Takes the answer and returns `right`, `wrong` or `unattempted` with a message.
    hints : sequence of str
        From a nudge to almost the answer; at least one.
    solution : callable or class
        The reference solution, which the check must accept.
    wrong_answers : mapping of str to (answer, str)
        At least three plausible wrong answers by name, each with a piece of the message that it must get.
    start : str, optional
        Code to start from, shown below the task.

    Attributes
    ----------
    reference : callable or class
        The reference solution.
    wrong_answers : mapping
        As given; the course's tests check that each is refused with its message.

    Raises
    ------
    ValueError
        If the key is not declared, a text is empty, or there are fewer than three wrong answers.
    """

    def __init__(
        self,
        lesson: Lesson,
        key: str,
        *,
        title: str,
        level: str,
        minutes: int,
        task: str,
        check: Callable[[Any], Outcome],
        hints: Sequence[str],
        solution: Callable,
        wrong_answers: Mapping[str, tuple[Any, str]],
        start: str | None = None,
    ):
        lesson.require(key)
        require_texts(title=title, task=task)
        if level not in LEVELS:
            raise ValueError(f"level: got {level!r}, expected one of {', '.join(LEVELS)}")
        if not 0 < minutes < 1000:
            raise ValueError(f"minutes: got {minutes!r}, expected a positive number")
        if isinstance(hints, str) or not hints or not all(isinstance(h, str) and h.strip() for h in hints):
            raise ValueError(f"hints: got {hints!r}, expected a list of at least one non-empty text")
        if not callable(solution):
            raise ValueError(f"solution: got {type(solution).__name__}, expected a function or a class")
        _require_wrong_answers(wrong_answers)
        self.key, self.title, self.level, self.minutes, self.task = key, title, level, minutes, task
        self.reference, self.wrong_answers = solution, MappingProxyType(dict(wrong_answers))
        self._lesson, self._check, self._hints, self._start = lesson, check, tuple(hints), start
        self._hints_given = 0

    def check(self, answer: Any = None) -> Outcome:
        """Check an answer, display the verdict and return it.

        Nothing given, ``...``, and a function that still returns ``NotImplemented`` count as not tried yet.
        An error in the learner's code is a verdict as well, in one line: no answer makes this method raise.

        Parameters
        ----------
        answer : object
            What the task asks for, most often a function.

        Returns
        -------
        Outcome
            True only when the answer is right.
        """
        outcome = self._judge(answer)
        if outcome.kind != "unattempted":
            self._lesson.record(self.key, "done" if outcome else "started", attempts=lambda kept: (kept or 0) + 1)
        outcome.show()
        return outcome

    def hint(self) -> None:
        """Display the next hint."""
        total = len(self._hints)
        if self._hints_given == total:
            show_card("That was the last hint.", "Next in line is the reference solution: `.solution()`.")
            return
        text = self._hints[self._hints_given]
        self._hints_given += 1
        show_card(f"Hint {self._hints_given} of {total}", text)

    def solution(self) -> None:
        """Display the source of the reference solution."""
        show_source(self.reference)

    def _judge(self, answer: Any) -> Outcome:
        if answer is None or answer is Ellipsis or answer is NotImplemented or _is_unwritten_class(answer):
            return unattempted()
        returned: list[Any] = []
        try:
            outcome = self._check(_watched(answer, returned) if inspect.isfunction(answer) else answer)
        except (_Placeholder, NotImplementedError):
            return unattempted()
        except Exception as error:
            if returned and returned[-1] is None:  # the error is the check's, which could do nothing with it
                return wrong("Your function returned None. Is a `return` missing?")
            return wrong(_one_line(error, answer))
        if not isinstance(outcome, Outcome):
            raise TypeError(f"the check of {self.key!r} returned {type(outcome).__name__}, expected an Outcome")
        return outcome

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        head = f"{self.title} ({self.level}, about {self.minutes} min)"
        start = f"\n\n```python\n{self._start.strip()}\n```" if self._start else ""
        return {
            "text/markdown": f"**Exercise: {head}**\n\n{self.task}{start}",
            "text/plain": f"Exercise: {head}\n\n{self.task}{start}",
        }


class _Placeholder(Exception):
    """Raised when a learner's function still returns its placeholder."""


def _watched(function: Callable, returned: list[Any]) -> Callable:
    """The function, which stops at its placeholder; ``returned`` holds what it returned last, if it did."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        returned.clear()
        value = function(*args, **kwargs)
        returned.append(value)
        if value is NotImplemented or value is Ellipsis:
            raise _Placeholder
        return value

    return call


def _is_unwritten_class(answer: Any) -> bool:
    """Whether one of a class's own methods still holds its placeholder, ``NotImplemented``."""
    if not inspect.isclass(answer):
        return False
    methods = (getattr(member, "__func__", member) for member in vars(answer).values())
    return any(
        {"NotImplemented", "NotImplementedError"} & set(method.__code__.co_names)
        for method in methods
        if inspect.isfunction(method)
    )


def _one_line(error: Exception, answer: Any) -> str:
    said = str(error).strip().split("\n")[0]
    code = getattr(answer, "__code__", None)
    lines = [
        frame.lineno - code.co_firstlineno + 1
        for frame in traceback.extract_tb(error.__traceback__)
        if code is not None and frame.filename == code.co_filename and frame.name == code.co_name
    ]
    where = f" (line {lines[-1]} of your function)" if lines else ""
    return f"Your code raised `{type(error).__name__}`: {said or 'without a message'}{where}"


def _require_wrong_answers(wrong_answers: Any) -> None:
    if not isinstance(wrong_answers, Mapping) or len(wrong_answers) < 3:
        count = len(wrong_answers) if isinstance(wrong_answers, Mapping) else type(wrong_answers).__name__
        raise ValueError(f"wrong_answers: got {count}, expected a mapping of at least 3 plausible wrong answers")
    for name, entry in wrong_answers.items():
        if not isinstance(entry, tuple) or len(entry) != 2 or not isinstance(entry[1], str) or not entry[1].strip():
            raise ValueError(f"wrong_answers: got {entry!r} for {name!r}, expected (answer, piece of its message)")
