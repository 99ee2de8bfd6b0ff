"""What holds of every lesson: its exercises refuse what they say they refuse, and its map names what there is to do."""

from importlib import import_module

import pytest

from recmtl_lessons.lessons.start_here import COURSE
from recmtl_lessons.teaching.exercise import Exercise

MODULES = {
    entry.name: import_module(f"recmtl_lessons.lessons.{entry.name}") for entry in COURSE if entry.lesson() is not None
}
EXERCISES = [
    pytest.param(value, id=f"{name}-{value.key}")
    for name, module in MODULES.items()
    for value in vars(module).values()
    if isinstance(value, Exercise)
]
WRONG = [
    pytest.param(param.values[0], wrong, id=f"{param.id}-{wrong}")
    for param in EXERCISES
    for wrong in param.values[0].wrong_answers
]


def test_there_is_something_to_test():
    assert {"start_here", "domain_adversarial", "cross_domain_transfer", "domain_attention"} <= set(MODULES)
    assert len(EXERCISES) >= 10


@pytest.mark.parametrize("exercise", EXERCISES)
def test_the_solution_passes_and_no_answer_is_no_answer(exercise, verdict):
    assert verdict(exercise, exercise.reference).kind == "right"
    assert verdict(exercise, None).kind == "unattempted"


@pytest.mark.parametrize(("exercise", "name"), WRONG)
def test_wrong_answers_are_refused_by_name(exercise, name, verdict):
    answer, message = exercise.wrong_answers[name]
    outcome = verdict(exercise, answer)
    assert outcome.kind == "wrong"
    assert message in outcome.message


@pytest.mark.parametrize("name", MODULES)
def test_every_exercise_is_on_the_map_and_the_other_way_round(name):
    keys = {value.key for value in vars(MODULES[name]).values() if isinstance(value, Exercise)}
    assert keys == {key for key in MODULES[name].LESSON.states() if key.startswith("exercise-")}
