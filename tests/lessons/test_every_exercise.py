"""What holds of every exercise: right in any form, each mistake named, and nothing wrong accepted."""

import pytest

from recmtl_lessons.teaching.exercise import Exercise
from tests.support.bends import as_answer, right_forms, wrong_forms
from tests.support.course import MODULES, asked

EXERCISES = [pytest.param(value, id=f"{name}-{value.key}") for name, value in asked(Exercise)]
COMPARED = [param for param in EXERCISES if param.values[0]._cases is not None]
TIMES = 3  # each draws anew


def every(forms):
    return [pytest.param(p.values[0], name, id=f"{p.id}-{name}") for p in COMPARED for name in forms(p.values[0])]


def test_there_is_something_to_test():
    assert {"start_here", "domain_adversarial", "cross_domain_transfer", "domain_attention"} <= set(MODULES)
    assert len(EXERCISES) >= 28


@pytest.mark.parametrize("exercise", EXERCISES)
def test_the_solution_is_right_and_no_answer_is_no_answer(exercise, verdict):
    for _ in range(TIMES):
        outcome = verdict(exercise, exercise.reference)
        assert outcome.kind == "right", outcome.message
    assert verdict(exercise, None).kind == "unattempted"


@pytest.mark.parametrize(
    ("exercise", "mistake"),
    [pytest.param(p.values[0], m, id=f"{p.id}-{m.name}") for p in EXERCISES for m in p.values[0].mistakes],
)
def test_each_mistake_is_named(exercise, mistake, verdict):
    for _ in range(TIMES):
        outcome = verdict(exercise, mistake.answer)
        assert (outcome.kind, outcome.message) == ("wrong", mistake.message)


@pytest.mark.parametrize(("exercise", "name"), every(right_forms))
def test_right_is_right_in_any_form(exercise, name, verdict):
    for _ in range(TIMES):
        outcome = verdict(exercise, as_answer(exercise, right_forms(exercise)[name]))
        assert outcome.kind == "right", outcome.message


@pytest.mark.parametrize(("exercise", "name"), every(wrong_forms))
def test_nothing_wrong_is_accepted(exercise, name, verdict):
    for _ in range(TIMES):
        assert verdict(exercise, as_answer(exercise, wrong_forms(exercise)[name])).kind == "wrong"
    assert exercise.example is not None


@pytest.mark.parametrize("name", MODULES)
def test_every_exercise_is_on_the_map_and_the_other_way_round(name):
    keys = {value.key for lesson, value in asked(Exercise) if lesson == name}
    assert keys == {key for key in MODULES[name].LESSON.states() if key.startswith("exercise-")}
