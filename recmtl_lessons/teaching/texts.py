"""A lesson's words and settings as data: one loader, whose errors name the file and the line.

``texts.yaml`` beside a lesson holds its activities, predictions, quizzes and study questions; ``settings.yaml`` holds
what was chosen, and the grid that it was chosen from.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import yaml

from recmtl_lessons.teaching.exercise import Exercise, Mistake
from recmtl_lessons.teaching.lesson import Lesson
from recmtl_lessons.teaching.quiz import Option, Predict, Quiz
from recmtl_lessons.teaching.study import KeyPoint, StudyQuestion

__all__ = ["Table", "Texts", "read_yaml"]


class Table(dict):
    """A mapping of a YAML file, and where in the file it stands.

    Attributes
    ----------
    place : str
        File and line.
    """

    place = ""

    @contextmanager
    def named(self) -> Iterator[None]:
        """Put the place before what an error within the block says."""
        try:
            yield
        except ValueError as error:
            raise ValueError(str(error) if "line " in str(error) else f"{self.place}: {error}") from error

    def take(self, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return the entries as a plain dict; refuse one that is missing or unknown."""
        missing = [name for name in needed if name not in self]
        unknown = [name for name in self if name not in (*needed, *optional)]
        if missing or unknown:
            came = f"got {', '.join(map(repr, unknown))}" if unknown else f"{', '.join(map(repr, missing))} is missing"
            raise ValueError(f"{self.place}: {came}, expected {', '.join((*needed, *optional))}")
        return dict(self)


def read_yaml(path: Path) -> Table:
    """Return what a YAML file holds: mappings as `Table`, lists as tuples.

    Raises
    ------
    ValueError
        If it is no YAML, holds no mapping, or a mapping names a key twice; the message names file and line.
    """

    class Loader(yaml.SafeLoader):
        # "no", "yes", "on" and "off" are words here, as in YAML 1.2.
        yaml_implicit_resolvers: ClassVar = {
            first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|false"), list("tf"))

    def place_of(node: yaml.Node) -> str:
        return f"{path.name}, line {node.start_mark.line + 1}"

    def table(loader: Loader, node: yaml.MappingNode) -> Table:
        names = [name.value for name, _ in node.value]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{place_of(node)}: got {twice!r} twice, expected each name once")
        loader.flatten_mapping(node)  # what "<<" merges
        made = Table((loader.construct_object(k, True), loader.construct_object(v, True)) for k, v in node.value)
        made.place = place_of(node)
        return made

    Loader.add_constructor("tag:yaml.org,2002:map", table)
    Loader.add_constructor(
        "tag:yaml.org,2002:seq", lambda loader, node: tuple(loader.construct_object(part, True) for part in node.value)
    )
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = (error.problem_mark or error.context_mark).line + 1
        raise ValueError(f"{path.name}, line {line}: {error.problem}") from error
    if not isinstance(found, Table):
        raise ValueError(f"{path.name}, line 1: got {type(found).__name__}, expected a mapping")
    return found


class Texts:
    """What a lesson says and asks, from its ``texts.yaml``.

    Parameters
    ----------
    path : pathlib.Path
    lesson : str
        The lesson's one name.

    Attributes
    ----------
    lesson : Lesson
        Made of ``activities``.
    """

    def __init__(self, path: Path, lesson: str):
        self._table = read_yaml(path)
        activities = self._entry("activities")
        with activities.named():
            self.lesson = Lesson(lesson, activities)

    def predict(self, key: str) -> Predict:
        """Return the prediction of this key: ``question`` and ``choices``, each with ``text`` and ``why``."""
        entry = self._entry(key)
        taken = entry.take(("question", "choices"))
        with entry.named():
            return Predict(self.lesson, key, taken["question"], _options(entry))

    def quiz(self, key: str) -> Quiz:
        """Return the quiz of this key: as a prediction, and ``correct``, the key of the right choice."""
        return self._quiz(key, self._entry(key))

    def exercise(self, key: str, mistakes: Mapping[str, Any], **code: Any) -> Exercise:
        """Return the exercise of this key: its words from the file, its code from the arguments.

        Parameters
        ----------
        key : str
        mistakes : mapping of str to (callable or class)
            Wrong answers by name; the file has a message for each, under ``mistakes``.
        **code
            Solution, cases and what else `Exercise` takes.
        """
        entry = self._entry(key)
        words = entry.take(("title", "level", "minutes", "task", "hints", "praise", "mistakes"))
        messages = words.pop("mistakes")
        if set(messages) != set(mistakes):
            other = ", ".join(map(repr, sorted(set(messages) ^ set(mistakes))))
            raise ValueError(f"{messages.place}: mistakes: got {other} on one side alone, expected answer and message")
        with entry.named():
            listed = [Mistake(name, answer, messages[name]) for name, answer in mistakes.items()]
            return Exercise(self.lesson, key, mistakes=listed, **words, **code)

    def messages(self, key: str) -> Mapping[str, str]:
        """Return the messages of the mistakes of this exercise, by name, for a judge that knows them."""
        return self._entry(key)["mistakes"]

    def study(self, key: str, *evidence_from: Any) -> StudyQuestion:
        """Return the study question of this key; its evidence comes from these explorers and exercises."""
        entry = self._entry(key)
        taken = entry.take(("level", "question", "evidence", "checks", "points", "worked"), ("start",))
        with entry.named():
            checks = [self._quiz(f"{key}/check-{k}", check) for k, check in enumerate(taken["checks"], start=1)]
            points = [KeyPoint(name, **point.take(("name", "why"))) for name, point in taken["points"].items()]
            return StudyQuestion(
                self.lesson, key, level=taken["level"], question=taken["question"],
                evidence_prompt=taken["evidence"], checks=checks, points=points, worked=taken["worked"],
                start=taken.get("start", ""), evidence_from=evidence_from,
            )  # fmt: skip

    def _quiz(self, key: str, entry: Table) -> Quiz:
        taken = entry.take(("question", "choices", "correct"))
        with entry.named():
            return Quiz(self.lesson, key, taken["question"], _options(entry), taken["correct"])

    def _entry(self, key: str) -> Table:
        entry = self._table.get(key)
        if not isinstance(entry, Mapping):
            raise ValueError(f"{self._table.place}: got {entry!r} for {key!r}, expected a mapping under this name")
        return entry


def _options(entry: Table) -> dict[str, Option]:
    options = {}
    for name, option in entry["choices"].items():
        with option.named():
            options[name] = Option(**option.take(("text", "why"), ("formerly",)))
    return options
