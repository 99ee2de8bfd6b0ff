"""Questions: a prediction made before the experiment, a choice that explains itself, a number.

Each is shown as a widget and can be answered from code as well; both go the same way. A page without a kernel
shows the question and its choices as text. The answer is kept and shown again when the notebook is opened
again.
"""

import html
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import Any

import ipywidgets as widgets

from recmtl_lessons.teaching.exercise import Outcome, noted, right, unattempted, wrong
from recmtl_lessons.teaching.lesson import Lesson, require_texts
from recmtl_lessons.teaching.style import card, prose, show_card

__all__ = ["NumberQuiz", "Option", "Predict", "Quiz"]

#: Long choices wrap onto further lines; the stock style gives each choice one line's height.
CSS = """<style>
.recmtl-ask { max-width: 62em; overflow: visible; }
.recmtl-ask .widget-html-content { line-height: 1.5; font-size: var(--jp-content-font-size1, 14px); }
.recmtl-ask .widget-radio { width: 100%; height: auto; }
.recmtl-ask .widget-radio-box label { display: flex; flex-direction: row-reverse; justify-content: flex-end;
  align-items: flex-start; gap: 0.5em; height: auto; line-height: 1.5; margin: 0.15em 0; white-space: normal;
  font-size: var(--jp-content-font-size1, 14px); }
.recmtl-ask .widget-radio-box input { flex: none; height: auto; margin: 0.3em 0 0 1px; }
</style>"""


@dataclass(frozen=True)
class Option:
    """One of a question's choices.

    Attributes
    ----------
    text : str
        What the learner reads and chooses.
    why : str
        Why it is right, or what the mistake in it is.
    formerly : tuple of str
        Earlier wordings, under which progress files of before this option had a key may hold it.
    """

    text: str
    why: str
    formerly: tuple[str, ...] = ()

    def __post_init__(self):
        require_texts(text=self.text, why=self.why)
        object.__setattr__(self, "formerly", tuple(self.formerly))


class _Question:
    """What all questions share: the widget, the feedback line, what is kept, and the static version."""

    _button_label = "Check"

    def __init__(self, lesson: Lesson, key: str, question: str):
        self.key = lesson.require(key)
        require_texts(question=question)
        self.question = question
        self._lesson = lesson
        self._box: widgets.VBox | None = None
        self._gate: Callable[[], str | None] = lambda: None
        self._after: Callable[[], None] = lambda: None

    @property
    def widget(self) -> widgets.VBox:
        """The question as a widget, with the kept answer in it. It is made once."""
        if self._box is None:
            self._box = self._built()
        self._show(self._kept_outcome())
        return self._box

    @property
    def solved(self) -> bool:
        """Whether the kept answer, now or on an earlier day, was right."""
        return self._lesson.recall(self.key).get("state") == "done"

    def attach(self, gate: Callable[[], str | None], after: Callable[[], None]) -> None:
        """Make the question a step of something larger.

        Parameters
        ----------
        gate : callable
            Returns what has to come first, or None when the question may be answered.
        after : callable
            Called after each answer that was accepted.
        """
        self._gate, self._after = gate, after

    def answer(self, value: Any) -> Outcome:
        """Answer from code: the same as answering in the widget and pressing its button.

        Parameters
        ----------
        value : object
            The key of a choice, or a number for a `NumberQuiz`.

        Returns
        -------
        Outcome
            What came of it, which is displayed as well.
        """
        outcome = self._commit(self._accepted(value))
        outcome.show()
        return outcome

    def _commit(self, value: Any) -> Outcome:
        first = self._gate()
        if first:
            outcome = unattempted(first, "One step at a time.")
        else:
            outcome = self._judge(value)
            self._after()
        if self._box is not None:
            self._show(outcome)
        return outcome

    def _built(self) -> widgets.VBox:
        self._input = self._made_input()
        self._feedback = widgets.HTML()
        self._button = widgets.Button(description=self._button_label, button_style="primary")
        self._button.on_click(lambda _: self._clicked())
        asked = widgets.HTML(f'{CSS}<div style="font-weight:600">{prose(self.question)}</div>')
        box = widgets.VBox([asked, self._input, self._button, self._feedback])
        box.add_class("recmtl-ask")
        return box

    def _clicked(self) -> None:
        if self._input.value is None:
            self._show(unattempted("Choose one of the answers first.", "Nothing chosen yet."))
        else:
            self._commit(self._input.value)

    def _show(self, outcome: Outcome | None) -> None:
        """Put the kept answer and its outcome into the widget."""
        kept = self._kept()
        if kept is not None:
            self._input.value = kept
        self._feedback.value = "" if outcome is None else outcome.html()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = dict(self.widget._repr_mimebundle_(**kwargs))
        listed = "".join(f"<li>{html.escape(choice)}</li>" for choice in self._static_choices())
        bundle["text/html"] = card(self._kind, prose(self.question) + (f"<ul>{listed}</ul>" if listed else ""), "quiet")
        bundle["text/plain"] = "\n".join(
            [f"{self._kind} {self.question}", *(f"  ( ) {choice}" for choice in self._static_choices())]
        )
        return bundle


class _ChoiceQuestion(_Question):
    """A question with options, each under a short key, which is what progress keeps."""

    def __init__(self, lesson: Lesson, key: str, question: str, choices: Mapping[str, Option]):
        super().__init__(lesson, key, question)
        if not isinstance(choices, Mapping) or len(choices) < 2:
            raise ValueError(f"choices: got {choices!r}, expected at least two, each an Option under a key")
        for name, option in choices.items():
            if not isinstance(name, str) or not name or not isinstance(option, Option):
                raise ValueError(f"choices: got {option!r} under {name!r}, expected an Option under a short key")
        if len({option.text for option in choices.values()}) < len(choices):
            raise ValueError("choices: got the same text twice, expected texts that differ")
        self.choices = MappingProxyType(dict(choices))

    def _accepted(self, value: Any) -> str:
        return _require_choice("value", value, self.choices)

    def _made_input(self) -> widgets.RadioButtons:
        options = [(option.text, key) for key, option in self.choices.items()]
        return widgets.RadioButtons(options=options, value=None, layout=widgets.Layout(width="100%"))

    def _static_choices(self) -> list[str]:
        return [option.text for option in self.choices.values()]

    def _kept(self) -> str | None:
        """The key of the kept choice; files of before there were keys hold its sentence."""
        kept = self._lesson.recall(self.key).get("choice")
        if kept in self.choices:
            return kept
        return next((k for k, option in self.choices.items() if kept in (option.text, *option.formerly)), None)

    def _said(self) -> str:
        return self.choices[self._kept()].text


class Predict(_ChoiceQuestion):
    """A prediction, committed before the experiment and laid beside what came out.

    Parameters
    ----------
    lesson : Lesson
        The lesson it belongs to.
    key : str
        Its declared activity.
    question : str
        What to predict.
    choices : mapping of str to Option
        By short keys; ``why`` is said to somebody who chose it, once the outcome is known.
    """

    _kind = "Predict:"
    _button_label = "Commit"

    def reveal(self, outcome_text: str, correct: str) -> None:
        """Display what the learner said beside what came out. From then on the prediction stays as it was.

        Where nothing was predicted, this says so and goes on; what is chosen afterwards no longer counts as a
        prediction.

        Parameters
        ----------
        outcome_text : str
            What the experiment showed.
        correct : str
            Key of the choice that came true.
        """
        require_texts(outcome_text=outcome_text)
        right_one = self.choices[_require_choice("correct", correct, self.choices)]
        said = self._kept()
        came = f"**What came out:** {outcome_text}"
        kept = self._lesson.recall(self.key)
        self._lesson.record(self.key, "done" if said and not kept.get("late") else "started", revealed=True)
        if said is None or kept.get("late"):
            show_card("Prediction and outcome", f"{came}\n\n{right_one.why}\n\n{_NO_PREDICTION}")
            return
        text = f"**You said:** {self._said()}\n\n{came}\n\n{self.choices[said].why}"
        if said == correct:
            show_card("As you predicted", text, "right")
        else:
            show_card("Not as you predicted", f"{text}\n\n{right_one.why}", "wrong")

    def _judge(self, value: str) -> Outcome:
        kept = self._lesson.recall(self.key)
        if kept.get("revealed") and self._kept() is not None and not kept.get("late"):
            return noted(f"The outcome has been shown, so your prediction stays: **{self._said()}**", "Unchanged.")
        if kept.get("revealed"):
            self._lesson.record(self.key, "started", choice=value, late=True)
            return self._kept_outcome()
        self._lesson.record(self.key, "done", choice=value)
        return noted(f"Your prediction: **{self._said()}**\n\nNow run the experiment.")

    def _kept_outcome(self) -> Outcome | None:
        if self._kept() is None:
            return None
        if self._lesson.recall(self.key).get("late"):
            return noted(f"Chosen after the outcome was shown, and so no prediction: **{self._said()}**", "Noted.")
        return noted(f"Your prediction, as you made it: **{self._said()}**")


_NO_PREDICTION = "You made no prediction this time, which is fine."


class Quiz(_ChoiceQuestion):
    """A question with one right choice, in which every choice explains itself.

    Parameters
    ----------
    lesson : Lesson
        The lesson it belongs to.
    key : str
        Its declared activity.
    question : str
        What is asked.
    choices : mapping of str to Option
        By short keys.
    correct : str
        Key of the right one.
    """

    _kind = "Question:"

    def __init__(self, lesson: Lesson, key: str, question: str, choices: Mapping[str, Option], correct: str):
        super().__init__(lesson, key, question, choices)
        self.correct = _require_choice("correct", correct, self.choices)

    def _verdict(self, choice: str) -> Outcome:
        return (right if choice == self.correct else wrong)(self.choices[choice].why)

    def _judge(self, value: str) -> Outcome:
        outcome = self._verdict(value)
        self._lesson.record(self.key, "done" if outcome else "started", choice=value)
        return outcome

    def _kept_outcome(self) -> Outcome | None:
        said = self._kept()
        return None if said is None else self._verdict(said)


class NumberQuiz(_Question):
    """A question whose answer is a number, right within a tolerance.

    The first wrong number is told whether it is too high or too low; the explanation comes with a right
    answer and from the second try on.

    Parameters
    ----------
    lesson : Lesson
        The lesson it belongs to.
    key : str
        Its declared activity.
    question : str
        What is asked.
    answer : float
        The right number.
    tolerance : float
        How far from it still counts as right, in the same unit.
    unit : str
        Written beside the box.
    explain : str
        Where the number comes from.
    """

    _kind = "Question:"

    def __init__(
        self,
        lesson: Lesson,
        key: str,
        question: str,
        answer: float,
        tolerance: float,
        unit: str,
        explain: str,
    ):
        super().__init__(lesson, key, question)
        require_texts(explain=explain)
        self.expected, self.tolerance = (
            _require_number("answer", answer),
            _require_number("tolerance", tolerance),
        )
        if self.tolerance < 0:
            raise ValueError(f"tolerance: got {tolerance!r}, expected 0 or more")
        self.unit, self.explain = unit, explain

    def _accepted(self, value: Any) -> float:
        return _require_number("value", value)

    def _made_input(self) -> widgets.FloatText:
        unit = f" ({self.unit})" if self.unit else ""
        return widgets.FloatText(
            description=f"Your number{unit}", style={"description_width": "initial"}, layout={"width": "20em"}
        )

    def _static_choices(self) -> list[str]:
        return []

    def _verdict(self, number: float, attempts: int) -> Outcome:
        distance = number - self.expected
        if abs(distance) <= self.tolerance * (1 + 1e-9):
            return right(self.explain)
        side = f"{number:g} is too {'high' if distance > 0 else 'low'}."
        return wrong(f"{side} {self.explain}" if attempts > 1 else f"{side} Try once more.")

    def _judge(self, value: float) -> Outcome:
        outcome = self._verdict(value, self._lesson.recall(self.key).get("attempts", 0) + 1)
        state = "done" if outcome else "started"
        self._lesson.record(self.key, state, number=value, attempts=lambda kept: (kept or 0) + 1)
        return outcome

    def _kept(self) -> float | None:
        number = self._lesson.recall(self.key).get("number")
        return number if isinstance(number, (int, float)) else None

    def _kept_outcome(self) -> Outcome | None:
        number = self._kept()
        attempts = self._lesson.recall(self.key).get("attempts", 1)
        return None if number is None else self._verdict(number, attempts)


def _require_choice(argument: str, value: Any, choices: Mapping[str, Option]) -> str:
    if not isinstance(value, str) or value not in choices:
        expected = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{argument}: got {value!r}, expected one of {expected}")
    return value


def _require_number(argument: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{argument}: got {value!r}, expected a finite number")
    return float(value)
