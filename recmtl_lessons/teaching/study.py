"""Study questions that are answered by doing, in five steps of which each opens the next.

First answer, evidence, concept checks, final answer, and only then a worked answer. What was written is kept,
and shown again when the notebook is opened again.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets

from recmtl_lessons.teaching.exercise import Outcome, noted, unattempted
from recmtl_lessons.teaching.lesson import LEVELS, Lesson, require_texts
from recmtl_lessons.teaching.quiz import CSS, Quiz
from recmtl_lessons.teaching.style import PALETTE, prose

__all__ = ["KeyPoint", "StudyQuestion"]

_STEPS = (
    "Your first answer",
    "Evidence",
    "Concept checks",
    "Your final answer",
    "A worked answer",
)
_IN_ORDER = "One step at a time."
_LEAST_WORDS, _LEAST_LETTERS = 3, 12  # less is no answer
_MARKS = {"had": "I had this", "seen": "Now I see it"}
_TAKEN_AT_ONCE = 6  # the latest moves in an explorer that one press of the button records


@dataclass(frozen=True)
class KeyPoint:
    """Something a good answer says. It stands beside the worked answer, and the learner marks whether theirs had it.

    Parameters
    ----------
    key : str
        What progress keeps the mark under.
    name : str
        The point in a few words.
    why : str
        Why the point matters.
    """

    key: str
    name: str
    why: str

    def __post_init__(self):
        require_texts(key=self.key, name=self.name, why=self.why)


class StudyQuestion:
    """A study question with its five steps, as one widget and as methods to call from a cell.

    A step opens when the one before it is committed. A method called too early says what comes first and
    changes nothing. The first answer stays as it was once evidence is recorded, the final one once the worked
    answer has been seen.

    Parameters
    ----------
    lesson : Lesson
        The lesson it belongs to.
    key : str
        Its declared activity.
    level : {"beginner", "intermediate", "advanced"}
    question : str
        What is asked.
    evidence_prompt : str
        What to try, and what to look for.
    checks : sequence of Quiz
        Two or three questions on the concepts, with keys such as ``"study/check-1"``.
    points : sequence of KeyPoint
        What the learner marks their final answer by.
    worked : str
        The worked answer, in the plain text that `recmtl_lessons.teaching.style.prose` understands.
    start : str
        How a first answer may begin; shown in the empty box.
    evidence_from : object or sequence of objects
        Where evidence comes from: explorers, exercises that train, or anything with a ``history``, a list of
        (settings, summary) pairs, the latest last.
    """

    def __init__(
        self,
        lesson: Lesson,
        key: str,
        *,
        level: str,
        question: str,
        evidence_prompt: str,
        checks: Sequence[Quiz],
        points: Sequence[KeyPoint],
        worked: str,
        start: str = "",
        evidence_from: Any = None,
    ):
        lesson.require(key)
        require_texts(question=question, evidence_prompt=evidence_prompt, worked=worked)
        if level not in LEVELS:
            raise ValueError(f"level: got {level!r}, expected one of {', '.join(LEVELS)}")
        _require_all("checks", checks, Quiz)
        _require_all("points", points, KeyPoint)
        sources = list(evidence_from) if isinstance(evidence_from, (list, tuple)) else [evidence_from]
        self._sources = [_require_history(source) for source in sources if source is not None]
        self.key, self.level, self.question, self.evidence_prompt = key, level, question, evidence_prompt
        self.checks, self.points, self.worked = tuple(checks), tuple(points), worked
        self._lesson, self._start = lesson, start
        self._view: _View | None = None
        for check in self.checks:
            check.attach(lambda: self._missing(2), self._changed)

    # The steps, called from a cell.

    def first(self, text: str) -> Outcome:
        """Commit a first answer, in your own words. Display and return what came of it."""
        _require_str(text)
        return self._shown(self._commit_first(text))

    def evidence(self, evidence_from: Any = None) -> Outcome:
        """Record what was tried, and what came out, from the record of an explorer or of an exercise that trained.

        Parameters
        ----------
        evidence_from : object, optional
            Has a ``history``; those that the question was made with unless given.
        """
        sources = self._sources if evidence_from is None else [_require_history(evidence_from)]
        return self._shown(self._take(sources))

    def note(self, text: str) -> Outcome:
        """Keep a note beside the evidence. It is yours, and opens no further step."""
        _require_str(text)
        return self._shown(self._keep_note(text))

    def final(self, text: str) -> Outcome:
        """Commit the final answer. Display and return what came of it."""
        _require_str(text)
        return self._shown(self._commit_final(text))

    def worked_answer(self) -> Outcome:
        """Display the key points and the worked answer, beside your evidence, your first answer and your final one."""
        return self._shown(self._open_worked())

    def mark(self, point: str, as_what: str) -> Outcome:
        """Mark a key point, once the worked answer is open.

        Parameters
        ----------
        point : str
            Its key.
        as_what : {"had", "seen"}
            Whether the final answer had it, or you see it now.
        """
        keys = [one.key for one in self.points]
        if point not in keys:
            raise ValueError(f"point: got {point!r}, expected one of {', '.join(map(repr, keys))}")
        if as_what not in _MARKS:
            raise ValueError(f"as_what: got {as_what!r}, expected one of {', '.join(map(repr, _MARKS))}")
        return self._shown(self._keep_mark(point, as_what))

    @property
    def step(self) -> int:
        """How many of the five steps are behind the learner, 0 to 5."""
        kept = self._lesson.recall(self.key)
        done = (
            "first" in kept,
            bool(kept.get("evidence")),
            all(check.solved for check in self.checks),
            "final" in kept,
            bool(kept.get("worked_seen")),
        )
        return done.index(False) if False in done else len(done)

    # What each step does, whether a method or a button asks for it.

    def _commit_first(self, text: str) -> Outcome:
        if self.step >= 2:
            return noted("Your first answer stays as it was, to lay beside the final one.", "Unchanged.")
        if _is_no_answer(text):
            return unattempted("Write a sentence or two, however unsure: it is only for you.", "No answer yet.")
        return self._keep("Your first answer is kept. Now look for evidence.", first=text.strip())

    def _take(self, sources: Sequence[Any]) -> Outcome:
        missing = self._missing(1)
        if missing:
            return unattempted(missing, _IN_ORDER)
        pairs = [pair for source in sources for pair in list(source.history)[-_TAKEN_AT_ONCE:]]
        if not pairs:
            return unattempted("Move a control of the explorer first.", "Nothing to record yet.")
        before = self._lesson.recall(self.key).get("evidence", [])
        records = [{"settings": _described(settings), "result": _described(result)} for settings, result in pairs]
        new = [record for k, record in enumerate(records) if record not in before and record not in records[:k]]
        if not new:
            return noted("Try another setting, and see what changes.", "Recorded already.")
        return self._keep(_listed(new), title="Recorded.", evidence=lambda kept: (kept or []) + new)

    def _keep_note(self, text: str) -> Outcome:
        if not text.strip():
            return unattempted("Write down what you noticed.", "Nothing written yet.")
        return self._keep(text.strip(), title="Your note is kept.", notes=lambda kept: [*(kept or []), text.strip()])

    def _commit_final(self, text: str) -> Outcome:
        missing = self._missing(3)
        if missing:
            return unattempted(missing, _IN_ORDER)
        if self._worked_seen():
            return noted("The worked answer is open, so your final answer stays as it was.", "Unchanged.")
        if _is_no_answer(text):
            return unattempted("Write your answer in your own words.", "No answer yet.")
        message = "Your final answer is kept. The worked answer is open now, with the points to mark yours by."
        return self._keep(message, state="done", final=text.strip())

    def _open_worked(self) -> Outcome:
        missing = self._missing(4)
        if missing:
            return unattempted(missing, _IN_ORDER)
        self._lesson.record(self.key, worked_seen=True)
        self._changed()
        return noted(f"{self._points_text()}\n\n{self._worked_text()}", _STEPS[4])

    def _keep_mark(self, point: str, as_what: str) -> Outcome:
        missing = self._missing(5)
        if missing:
            return unattempted(missing, _IN_ORDER)
        return self._keep(
            f"{_MARKS[as_what]}: {next(one.name for one in self.points if one.key == point)}",
            title="Marked.",
            marks=lambda kept: {**(kept or {}), point: as_what},
        )

    def _keep(self, message: str, *, title: str = "", state: str = "started", **facts: Any) -> Outcome:
        self._lesson.record(self.key, state, **facts)
        self._changed()
        return noted(message, title)

    def _missing(self, steps: int) -> str | None:
        """Say what comes first, when fewer than so many steps are done."""
        comes_first = (
            "Commit your first answer first: a sentence or two in your own words.",
            "Record some evidence first: what you tried, and what came out.",
            "Answer the concept checks first.",
            "Commit your final answer first: the worked answer opens after it.",
            "Open the worked answer first.",
        )
        return comes_first[self.step] if self.step < steps else None

    def _worked_seen(self) -> bool:
        return bool(self._lesson.recall(self.key).get("worked_seen"))

    def _changed(self) -> None:
        if self._view is not None:
            self._view.refresh()

    @staticmethod
    def _shown(outcome: Outcome) -> Outcome:
        outcome.show()
        return outcome

    # What the learner reads.

    def _points_text(self) -> str:
        marks = self._marks()
        listed = "\n".join(
            f"- {point.name}: {point.why}{f' ({_MARKS[marks[point.key]]}.)' if point.key in marks else ''}"
            for point in self.points
        )
        return f"**The key points. Which of them did your answer have?**\n{listed}"

    def _marks(self) -> dict[str, str]:
        kept = self._lesson.recall(self.key).get("marks")
        return {k: v for k, v in kept.items() if v in _MARKS} if isinstance(kept, dict) else {}

    def _worked_text(self) -> str:
        kept = self._lesson.recall(self.key)
        return "\n\n".join(
            [
                self.worked,
                f"**What you tried**\n{_listed(kept['evidence'])}",
                f"**Your first answer**\n\n{kept['first']}",
                f"**Your final answer**\n\n{kept['final']}",
            ]
        )

    @property
    def widget(self) -> widgets.VBox:
        """The question and its five steps as one widget. It is made once."""
        if self._view is None:
            self._view = _View(self)
        self._view.restore()
        return self._view.box

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = dict(self.widget._repr_mimebundle_(**kwargs))
        head = f"Study question ({self.level}): {self.question}"
        asked = [check.question for check in self.checks]
        details = ("", self.evidence_prompt, " / ".join(asked), "", "")
        steps = [f"{step}. {detail}".rstrip() for step, detail in zip(_STEPS, details, strict=True)]
        bundle["text/html"] = prose(head) + "<ol>" + "".join(f"<li>{prose(step)}</li>" for step in steps) + "</ol>"
        bundle["text/plain"] = "\n".join([head, *(f"  {k}. {step}" for k, step in enumerate(steps, start=1))])
        return bundle


class _View:
    """The widget of a study question: a numbered list of steps; the open ones show their controls."""

    def __init__(self, study: StudyQuestion):
        self._study = study
        self.first_text = _text_box("Your answer", study._start)
        self.note_text = _text_box("My notes", "what you noticed, for yourself", rows=2)
        self.final_text = _text_box("Your answer", "")
        self.first_button = _button("Commit", lambda: study._commit_first(self.first_text.value), self._tell(0))
        self.take_button = _button("Record what I tried", lambda: study._take(study._sources), self._tell_recorded)
        self.note_button = _button("Keep my note", self._note_written, self._tell_recorded)
        self.final_button = _button("Commit", lambda: study._commit_final(self.final_text.value), self._tell(3))
        self.worked_button = _button("Show the worked answer", study._open_worked, lambda outcome: self._show_worked())
        self.points = {point.key: self._point(point) for point in study.points}
        self._points_box = widgets.VBox(
            [widgets.HTML(prose("**The key points. Which of them did your answer have?**")), *map(_framed, study.points,
             self.points.values())]
        )  # fmt: skip
        self._heads = [widgets.HTML() for _ in _STEPS]
        self.said = [widgets.HTML() for _ in _STEPS]
        self._collected = widgets.HTML()
        self._bodies = [widgets.VBox(parts, layout={"margin": "0 0 0 2.6em"}) for parts in self._parts()]
        kind = f'<p style="opacity:0.75;margin:0">Study question, {study.level}</p>'
        asked = f'{CSS}{kind}<div style="font-size:1.15em">{prose(study.question)}</div>'
        steps = [part for pair in zip(self._heads, self._bodies, strict=True) for part in pair]
        self.box = widgets.VBox([widgets.HTML(asked), *steps])
        self.box.add_class("recmtl-ask")

    def _parts(self) -> list[list[widgets.Widget]]:
        study = self._study
        return [
            [self.first_text, self.first_button, self.said[0]],
            [
                widgets.HTML(prose(study.evidence_prompt)),
                *([self.take_button] if study._sources else []),
                self.note_text,
                self.note_button,
                self.said[1],
                self._collected,
            ],
            [check.widget for check in study.checks],
            [self.final_text, self.final_button, self.said[3]],
            [self.worked_button, self._points_box, self.said[4]],
        ]

    def _point(self, point: KeyPoint) -> widgets.ToggleButtons:
        options = [(words, key) for key, words in _MARKS.items()]
        buttons = widgets.ToggleButtons(options=options, value=None, tooltips=[point.name] * len(options))
        buttons.style.button_width = "9em"
        buttons.observe(lambda change: self._mark(point.key, change["new"]), names="value")
        return buttons

    def _mark(self, point: str, as_what: str | None) -> None:
        if as_what is not None and self._study._marks().get(point) != as_what:
            self._study._keep_mark(point, as_what)

    def _note_written(self) -> Outcome:
        outcome = self._study._keep_note(self.note_text.value)
        if outcome.kind == "noted":
            self.note_text.value = ""
        return outcome

    def _tell(self, step: int):
        def tell(outcome: Outcome) -> None:
            self.said[step].value = outcome.html()

        return tell

    def _tell_recorded(self, outcome: Outcome) -> None:
        """Say that something was recorded; the list below shows what."""
        brief = noted("", outcome.title) if outcome.kind == "noted" else outcome
        self.said[1].value = brief.html()

    def _show_worked(self) -> None:
        seen = self._study._worked_seen()
        self._points_box.layout.display = "flex" if seen else "none"
        for key, buttons in self.points.items():
            buttons.value = self._study._marks().get(key)
        if seen:
            self._tell(4)(noted(self._study._worked_text(), _STEPS[4]))

    def restore(self) -> None:
        """Fill the boxes with what is kept, and say again what was said about it."""
        kept = self._study._lesson.recall(self._study.key)
        self.first_text.value = kept.get("first", self.first_text.value)
        self.final_text.value = kept.get("final", self.final_text.value)
        for said in self.said:
            said.value = ""
        for check in self._study.checks:
            check.widget  # noqa: B018  reading it restores what is kept
        self._show_worked()
        self.refresh()

    def refresh(self) -> None:
        """Open the steps that may be taken now and mark those that are done."""
        step = self._study.step
        for k, (head, body) in enumerate(zip(self._heads, self._bodies, strict=True)):
            head.value = _head(k, step)
            body.layout.display = "flex" if k <= step else "none"
        kept = self._study._lesson.recall(self._study.key)
        evidence, notes = kept.get("evidence", []), kept.get("notes", [])
        text = f"**Recorded so far**\n{_listed(evidence)}" if evidence else ""
        text += "\n\n**Your notes**\n" + "\n".join(f"- {note}" for note in notes) if notes else ""
        self._collected.value = prose(text)


def _framed(point: KeyPoint, buttons: widgets.ToggleButtons) -> widgets.VBox:
    """A key point above the buttons that mark it."""
    text = widgets.HTML(prose(f"**{point.name}.** {point.why}"))
    return widgets.VBox([text, buttons], layout={"margin": "0 0 0.5em 0"})


def _head(k: int, step: int) -> str:
    done, is_open = k < step, k <= step
    fill = PALETTE["green"] if done else PALETTE["blue"] if is_open else "#8A8A8A"
    after = " (done)" if done else "" if is_open else f" (opens after step {k})"
    return (
        '<div role="heading" aria-level="4" '
        'style="display:flex;align-items:center;gap:0.7em;margin-top:0.6em">'
        '<span style="flex:none;width:1.8em;height:1.8em;line-height:1.8em;border-radius:50%;'
        f'text-align:center;color:white;background:{fill};font-weight:600">{"✓" if done else k + 1}</span>'
        f'<span style="font-weight:600">{k + 1}. {html.escape(_STEPS[k])}'
        f'<span style="font-weight:400;opacity:0.75">{after}</span></span></div>'
    )


def _text_box(label: str, placeholder: str, rows: int = 4) -> widgets.Textarea:
    return widgets.Textarea(
        description=label,
        placeholder=placeholder,
        rows=rows,
        layout={"width": "auto", "height": "auto"},
        style={"description_width": "8em"},
    )


def _button(label: str, act, tell) -> widgets.Button:
    button = widgets.Button(description=label, layout={"width": "auto", "align_self": "flex-start"})
    button.on_click(lambda _: tell(act()))
    return button


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_described(item)}" for name, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())


def _listed(evidence: Sequence[Mapping[str, str]]) -> str:
    return "\n".join(f"- {record['settings']}: {record['result']}" for record in evidence)


def _is_no_answer(text: str) -> bool:
    """Whether a text is too short for an answer: a few letters are none."""
    return len(text.split()) < _LEAST_WORDS or len(text.strip()) < _LEAST_LETTERS


def _require_history(source: Any) -> Any:
    if not hasattr(source, "history"):
        raise ValueError(f"evidence_from: got {source!r}, expected an object with a history")
    return source


def _require_str(text: Any) -> None:
    if not isinstance(text, str):
        raise ValueError(f"text: got {type(text).__name__}, expected your answer in words")


def _require_all(argument: str, items: Any, kind: type) -> None:
    if isinstance(items, str) or not items or not all(isinstance(item, kind) for item in items):
        raise ValueError(f"{argument}: got {items!r}, expected at least one {kind.__name__}")
