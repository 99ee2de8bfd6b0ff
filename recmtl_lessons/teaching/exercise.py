"""Exercises that answer back: a check that names the mistake, hints, a reference solution, and a training of one's own.

A check holds the answer against the solution on inputs that are drawn anew each time. Its mistakes are answers too, so
that whoever makes one of them is told which, and it can be tested that each is refused.
"""

import functools
import inspect
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from recmtl_lessons.teaching.answers import (
    BackwardError,
    Case,
    Misfit,
    Placeholder,
    Ran,
    Seen,
    alike,
    brief,
    first_difference,
    fitted,
    leaves,
    run,
    seen,
)
from recmtl_lessons.teaching.explorer import Running
from recmtl_lessons.teaching.lesson import LEVELS, Lesson, require_texts
from recmtl_lessons.teaching.source import show_source
from recmtl_lessons.teaching.style import card, new_figure, prose, show, show_card
from recmtl_lessons.training.progress import Moment, with_bar

__all__ = ["Exercise", "Experiment", "Mistake", "Outcome", "noted", "right", "unattempted", "wrong"]

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
    """Return the verdict that an answer is wrong; the message, never empty, names the mistake."""
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


@dataclass(frozen=True)
class Mistake:
    """A plausible wrong answer, and what whoever gives it is told.

    Attributes
    ----------
    name : str
        The mistake in a word or two.
    answer : callable or class
        Written as a learner would write it.
    message : str
        Names the mistake and says why it is one.
    """

    name: str
    answer: Any
    message: str

    def __post_init__(self):
        require_texts(name=self.name, message=self.message)
        if not callable(self.answer):
            raise ValueError(f"answer: got {self.answer!r} for {self.name!r}, expected a function or a class")


@dataclass(frozen=True)
class Experiment:
    """The lesson's training with the learner's answer in the place of a part, drawn upon the course's own result.

    Attributes
    ----------
    train : callable (answer) -> iterator of Running
        A generator that trains with the answer, says where it stands, and returns a result.
    draw : callable (result or None, figure)
        Draws the course's band, and on it the learner's result if there is one.
    describe : callable (result) -> str
        The picture in one or two sentences.
    alt : str
        What the picture shows without a result.
    size : (float, float)
        The figure's width and height in inches.
    """

    train: Callable[[Any], Iterator[Running]]
    draw: Callable[[Any, Any], None]
    describe: Callable[[Any], str]
    alt: str
    size: tuple[float, float] = (8.0, 3.8)


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
    hints : sequence of str
        From a nudge to almost the answer; at least one.
    solution : callable or class
        The reference solution.
    mistakes : sequence of Mistake
        At least three; of several that fit an answer the first is named.
    cases : callable (torch.Generator) -> iterable of {name: value}
        Draws the inputs of several runs, in the order of the answer's arguments: tensors, numbers and texts, in lists
        and dicts as needed. Sizes, constants and values should differ, so that nothing can be hard-coded. A tensor that
        requires a gradient has its gradient compared as well.
    praise : str
        What is said to a right answer.
    call : callable (answer, *inputs) -> object
        How an answer is used; it is called with the inputs unless this is given.
    view : callable (value, inputs) -> object
        What of an answer is compared, where several forms are right.
    judge : callable (ask) -> str or None
        For a design with many right answers, in place of the comparison with the solution: says what is wrong. It gets
        a function that asks the answer, by name, and returns what came in the form of the solution's, as float64.
    start : str, optional
        Code to start from, shown below the task.
    experiment : Experiment, optional
        What `train` runs.

    Attributes
    ----------
    reference : callable or class
        The reference solution.
    mistakes : tuple of Mistake
    example : dict or None
        The inputs of the first run in which the latest answer was wrong.
    history : list of (dict, str)
        What was trained, and what came of it, for a study question to take as evidence.
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
        hints: Sequence[str],
        solution: Callable,
        mistakes: Sequence[Mistake],
        cases: Callable[[torch.Generator], Any] | None = None,
        praise: str = "",
        call: Callable = lambda answer, *inputs: answer(*inputs),
        view: Callable = lambda value, inputs: value,
        judge: Callable[[Callable], str | None] | None = None,
        start: str | None = None,
        experiment: Experiment | None = None,
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
        if len(mistakes) < 3 or not all(isinstance(mistake, Mistake) for mistake in mistakes):
            raise ValueError(f"mistakes: got {mistakes!r}, expected at least 3 of class Mistake")
        if (cases is None) == (judge is None):
            raise ValueError("cases, judge: got both or neither, expected one of them")
        self.key, self.title, self.level, self.minutes, self.task = key, title, level, minutes, task
        self.reference, self.mistakes, self.experiment = solution, tuple(mistakes), experiment
        self.example: Case | None = None
        self.history: list[tuple[dict, str]] = []
        self._lesson, self._hints, self._start, self._praise = lesson, tuple(hints), start, praise
        self._cases, self._call, self._view, self._judge_design = cases, call, view, judge
        self._hints_given = self._draws = 0

    def check(self, answer: Any = None) -> Outcome:
        """Check an answer, display the verdict and return it.

        Nothing given, ``...``, and a function that still returns ``NotImplemented`` count as not tried yet. An error in
        the learner's code is a verdict as well, in one line. Nothing but an interrupt leaves this method: an error of
        the check itself is said to be one.

        Parameters
        ----------
        answer : object
            What the task asks for, most often a function.

        Returns
        -------
        Outcome
            True only when the answer is right.
        """
        self.example = None
        try:
            outcome = self._judged(answer)
        except Placeholder:
            outcome = unattempted()
        except Exception as error:
            said = str(error) if isinstance(error, _Broken) else f"It raised {type(error).__name__}: {error}."
            outcome = noted(f"{said} Your answer was not judged.", "This check is broken, and not your code.")
        if outcome.kind in ("right", "wrong"):
            self._lesson.record(self.key, "done" if outcome else "started", attempts=lambda kept: (kept or 0) + 1)
        outcome.show()
        return outcome

    def train(self, answer: Any = None) -> Outcome:
        """Train the lesson's experiment with an answer in it, right or wrong, and draw where it lands.

        An interrupt of the kernel stops the training; the picture shows how far it came.

        Parameters
        ----------
        answer : object
            As for `check`, which it need not have passed.
        """
        experiment, result, said = self.experiment, None, unattempted()
        if not _is_unwritten(answer):
            result, said = self._trained(answer)
        if said is None or said.kind != "wrong":
            figure = new_figure(*experiment.size)
            experiment.draw(result, figure)
            show(figure, experiment.alt if result is None else experiment.describe(result))
        if result is not None:
            text = experiment.describe(result)
            self.history.append(({"trained": getattr(answer, "__name__", "an answer")}, text))
            self._lesson.record(self.key, "started", trained=text)
        if said is not None:
            said.show()
        return noted("") if said is None else said

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

    # The check.

    def _judged(self, answer: Any) -> Outcome:
        if _is_unwritten(answer):
            return unattempted()
        if not callable(answer) or (inspect.isclass(self.reference) and not inspect.isclass(answer)):
            kind = "a class" if inspect.isclass(self.reference) else "a function"
            return wrong(f"I expected {kind}, and got {brief(answer)}.")
        if self._judge_design is not None:
            return self._design_judged(answer)
        self._draws += 1
        cases = [dict(case) for case in self._cases(torch.Generator().manual_seed(self._draws))]
        wanted = [self._run(self.reference, case) for case in cases]
        ran = [self._run(_watched(answer), case) for case in cases]
        for k, case in enumerate(cases):
            fault = self._fault(ran[k], wanted[k], answer, case)
            if fault:
                self.example = case
                return wrong(self._named(cases, ran, wanted) or fault)
        return right(self._praise)

    def _run(self, answer: Any, case: Case) -> Ran:
        return run(answer, case, self._call)

    def _seen(self, ran: Ran, like: Any, case: Case) -> Seen:
        value = fitted(ran.value, like)
        return seen(replace(ran, value=self._view(value, ran.given)), self._view(like, case))

    def _fault(self, ran: Ran, wanted: Ran, answer: Any, case: Case) -> str | None:
        """What is wrong with one run; None if nothing is."""
        if wanted.error is not None:
            raise _Broken(f"Its own solution raised {type(wanted.error).__name__}: {wanted.error}.")
        if ran.error is not None:
            in_place = "leaf Variable that requires grad" in str(ran.error)
            return _changed(["one of the inputs"]) if in_place else _one_line(ran.error, answer)
        expected = self._seen(wanted, wanted.value, wanted.given)
        try:
            came = self._seen(ran, wanted.value, ran.given)
        except Misfit as misfit:
            return str(misfit)
        except BackwardError as error:
            return _one_line(error.__cause__, answer)
        if ran.changed:
            return _changed([f"`{name}`" for name in ran.changed])
        if not alike(came.values, expected.values):
            nan = "There is NaN in your answer. " if any(part.isnan().any() for part in leaves(came.values)) else ""
            got, meant = first_difference(came.values, expected.values)
            return f"{nan}{_given(case)}I expected {meant}, and got {got}."
        if not alike(came.gradients, expected.gradients):
            if not any(g.any() for g in came.gradients):
                return _NO_GRADIENT
            got, meant = first_difference(came.gradients, expected.gradients)
            return f"The values are right, a gradient is not: for one of the inputs I expected {meant}, and got {got}."
        if came.attached and not expected.attached:
            return "The values are right, and still ask for gradients. Detach what you return."
        return None

    def _named(self, cases: Sequence[Case], ran: Sequence[Ran], wanted: Sequence[Ran]) -> str | None:
        """The message of the mistake that does in every case what the answer did.

        Where the answer has no gradient at all, the values alone decide, unless they are right.
        """
        by_values = None
        values_right = all(self._same(a, b, b)[0] for a, b in zip(ran, wanted, strict=True))
        by_gradients = any(
            part.requires_grad for a in ran for part in leaves(a.value) if isinstance(part, torch.Tensor)
        )
        for mistake in self.mistakes:
            runs = [self._run(mistake.answer, case) for case in cases]
            found = [self._same(*three) for three in zip(ran, runs, wanted, strict=True)]
            if all(values and rest for values, rest in found):
                return mistake.message
            if by_values is None and not (values_right or by_gradients) and all(values for values, _ in found):
                by_values = mistake.message
        return by_values

    def _same(self, a: Ran, b: Ran, wanted: Ran) -> tuple[bool, bool]:
        """Whether two runs agree in what they returned or raised, and in gradients and in what they changed."""
        one, other = self._look(a, wanted), self._look(b, wanted)
        if isinstance(one, tuple) or isinstance(other, tuple):
            return one == other, True
        if one is None or other is None:  # another form than the solution's, and perhaps the same as each other's
            try:
                one, other = seen(a, b.value), seen(b, b.value)
            except (Misfit, BackwardError):
                return False, False
        rest = alike(one.gradients, other.gradients) and one.attached == other.attached
        return alike(one.values, other.values), rest and a.changed == b.changed

    def _look(self, ran: Ran, wanted: Ran) -> Seen | tuple[type, str] | None:
        """A run in the form of the solution's; what it raised, forward or back; None where it has another form."""
        error = ran.error
        if error is None:
            try:
                return self._seen(ran, wanted.value, ran.given)
            except BackwardError as backward:
                error = backward.__cause__
            except Misfit:
                return None
        return type(error), str(error)

    def _design_judged(self, answer: Any) -> Outcome:
        def ask(**case: Any) -> Any:
            ran = self._run(_watched(answer), case)  # first: what is not written yet needs no reference
            wanted = self._run(self.reference, case)
            self.example = case
            fault = self._fault(ran, wanted, answer, case)
            if ran.error is not None or ran.changed:
                raise _Refused(fault)
            try:
                return seen(ran, wanted.value).values
            except Misfit as misfit:
                raise _Refused(str(misfit)) from misfit

        try:
            message = self._judge_design(ask)
        except _Refused as refused:
            message = str(refused)
        except Placeholder:
            raise
        except Exception as error:
            raise _Broken(f"It raised {type(error).__name__}: {error}.") from error
        if message:
            return wrong(message)
        self.example = None
        return right(self._praise)

    # The training.

    def _trained(self, answer: Any) -> tuple[Any, Outcome | None]:
        """The result, as far as it came, and what to say if it did not come to the end."""
        at: list[Running] = []
        end: list[Any] = []

        def moments() -> Iterator[Moment]:
            training = self.experiment.train(_watched(answer))
            while True:
                try:
                    at[:] = [next(training)]
                except StopIteration as stop:
                    end.append(stop.value)
                    return
                yield Moment(at[0].done, at[0].total)

        try:
            first = next(steps := moments(), None)
            if first is not None:
                for _ in with_bar(steps, "yours", first.steps):
                    pass
            return end[0], None
        except Placeholder:
            return None, unattempted()
        except KeyboardInterrupt:
            where = f"at step {at[0].done} of {at[0].total}" if at else "before its first step"
            return at[0].snapshot() if at else None, noted("", f"Stopped {where}.")
        except BaseException as error:
            where = f" It happened behind step {at[0].done}." if at else ""
            return None, wrong(_one_line(error, answer, "The training ended with") + where)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        head = f"{self.title} ({self.level}, about {self.minutes} min)"
        start = f"\n\n```python\n{self._start.strip()}\n```" if self._start else ""
        return {
            "text/markdown": f"**Exercise: {head}**\n\n{self.task}{start}",
            "text/plain": f"Exercise: {head}\n\n{self.task}{start}",
        }


_NO_GRADIENT = (
    "The values are right, but no gradient comes back from your answer. Was something detached, or turned into a "
    "plain number or an array?"
)


_LONG = 120  # letters of inputs that a message still writes out


class _Broken(Exception):
    """Raised when the check itself fails."""


class _Refused(Exception):
    """Raised when an answer to a design cannot be judged any further."""


def _watched(answer: Any) -> Any:
    """The answer, which stops where it still returns its placeholder."""
    if inspect.isclass(answer):
        return answer

    @functools.wraps(answer)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            value = answer(*args, **kwargs)
        except NotImplementedError as error:
            raise Placeholder from error
        if value is NotImplemented or value is Ellipsis:
            raise Placeholder
        return value

    return call


def _is_unwritten(answer: Any) -> bool:
    """Whether there is no answer, or one of a class's own methods still holds its placeholder."""
    if answer is None or answer is Ellipsis or answer is NotImplemented:
        return True
    if not inspect.isclass(answer):
        return False
    methods = (getattr(member, "__func__", member) for member in vars(answer).values())
    return any(
        {"NotImplemented", "NotImplementedError"} & set(method.__code__.co_names)
        for method in methods
        if inspect.isfunction(method)
    )


def _one_line(error: BaseException, answer: Any, otherwise: str = "Your code raised") -> str:
    """An error in one line, with its place in the learner's code; ``otherwise`` is how it begins without a place."""
    members = vars(answer).values() if inspect.isclass(answer) else [answer]
    codes = {getattr(getattr(member, "__func__", member), "__code__", None): member for member in members}
    places = {(code.co_filename, code.co_name): code.co_firstlineno for code in codes if code is not None}
    lines = [
        frame.lineno - places[frame.filename, frame.name] + 1
        for frame in traceback.extract_tb(error.__traceback__)
        if (frame.filename, frame.name) in places
    ]
    said = str(error).strip().split("\n")[0] or "without a message"
    begins, where = ("Your code raised", f" (line {lines[-1]} of your function)") if lines else (otherwise, "")
    return f"{begins} `{type(error).__name__}`: {said}{where}"


def _given(case: Case) -> str:
    text = ", ".join(f"{name} = {brief(value)}" for name, value in case.items())
    return f"For {text} " if len(text) <= _LONG else "For one of my examples (`.example` holds its inputs) "


def _changed(names: Sequence[str]) -> str:
    itself = "itself" if len(names) == 1 else "themselves"
    belongs = "belongs" if len(names) == 1 else "belong"
    said = f"You changed {' and '.join(names)} {itself}, which {belongs} to the caller."
    return f"{said} Work on a copy: `.clone()` of a tensor, `list(...)` of a list."
