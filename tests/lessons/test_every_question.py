"""What holds of every question: no choice gives itself away, and what was kept before choices had keys is found."""

import inspect
import json
import re
import shutil
from pathlib import Path

import pytest

from recmtl_lessons.lessons.start_here import COURSE
from recmtl_lessons.teaching.quiz import Predict, Quiz
from recmtl_lessons.teaching.study import StudyQuestion
from tests.support.course import MODULES, asked

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
STUDIES = {
    (name, value.key): value
    for name, module in MODULES.items()
    for made in vars(module).values()
    if inspect.isfunction(made) and made.__name__.startswith("study_")
    for value in [made()]
    if isinstance(value, StudyQuestion)
}
QUESTIONS = {(name, value.key): value for name, value in asked((Predict, Quiz))}
QUESTIONS |= {(name, check.key): check for (name, _), study in STUDIES.items() for check in study.checks}
TRUE = {
    entry.name: re.search(r'correct=\\\\?"([\w-]+)', (NOTEBOOKS / entry.notebook).read_text(encoding="utf-8"))[1]
    for entry in COURSE
    if entry.name in MODULES
}
FORMER = json.loads(Path(__file__).with_name("former_choices.json").read_text(encoding="utf-8"))
BEFORE = Path(__file__).parents[1] / "teaching" / "progress_before_keys.json"
ABSOLUTES = re.compile(r"\b(always|never|whatever|whenever|cannot|no one|in no case)\b", re.IGNORECASE)


def right_of(name, question):
    """Key of the choice that is right; a prediction's stands in the notebook, where its outcome is revealed."""
    return question.correct if isinstance(question, Quiz) else TRUE[name]


def test_there_is_something_to_test():
    assert len(QUESTIONS) >= 35
    assert len(STUDIES) >= 8


def test_the_right_choice_is_the_longest_about_as_often_as_by_chance():
    longest = 0
    for (name, _), question in QUESTIONS.items():
        lengths = {key: len(option.text) for key, option in question.choices.items()}
        longest += lengths[right_of(name, question)] == max(lengths.values())
    chance = sum(1 / len(question.choices) for question in QUESTIONS.values())
    assert longest <= chance + len(QUESTIONS) / 10
    assert longest >= chance / 3  # nor is the longest wrong for being so


def test_the_right_choice_does_not_always_stand_at_one_place():
    places = [list(question.choices).index(right_of(name, question)) for (name, _), question in QUESTIONS.items()]
    assert all(places.count(place) <= 0.5 * len(places) for place in set(places))


@pytest.mark.parametrize(("name", "key"), QUESTIONS)
def test_no_wrong_choice_falls_by_its_absolutes(name, key):
    question = QUESTIONS[name, key]
    right = right_of(name, question)
    if not ABSOLUTES.search(question.choices[right].text):
        for choice, option in question.choices.items():
            assert choice == right or not ABSOLUTES.search(option.text), option.text


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, kept in FORMER.items() for key in kept])
def test_a_choice_kept_as_a_sentence_is_found(name, key, tmp_path, monkeypatch):
    monkeypatch.setenv("RECMTL_PROGRESS_DIR", str(tmp_path))
    question = QUESTIONS[name, key]
    found = []
    for sentence in FORMER[name][key]:
        MODULES[name].LESSON.record(key, "done", choice=sentence)
        found.append(question._kept())
    assert sorted(found) == sorted(question.choices)


def test_a_progress_file_of_before_is_brought_over(tmp_path, monkeypatch):
    """The file was written by the course as it was when choices were kept as sentences; all was answered."""
    shutil.copy(BEFORE, tmp_path / "progress.json")
    monkeypatch.setenv("RECMTL_PROGRESS_DIR", str(tmp_path))
    for (name, _), question in QUESTIONS.items():
        if name not in FORMER:
            continue  # a lesson that has had keys from its beginning
        assert question._kept() is not None, (name, question.key)
        if isinstance(question, Quiz):
            assert question.solved
            assert question._kept() == question.correct
    assert {study.step for (name, _), study in STUDIES.items() if name in FORMER} == {5}


@pytest.mark.parametrize(("name", "key"), STUDIES)
def test_a_study_question_has_checks_and_points(name, key):
    study = STUDIES[name, key]
    assert len(study.checks) in (2, 3)
    assert len(study.points) >= 3
    assert len({point.key for point in study.points}) == len(study.points)


@pytest.mark.parametrize("name", TRUE)
def test_the_notebook_reveals_a_choice_that_there_is(name):
    assert TRUE[name] in QUESTIONS[name, "predict"].choices
