import pytest

from recmtl_lessons.teaching.lesson import Lesson
from recmtl_lessons.teaching.progress import progress


@pytest.fixture
def lesson():
    return Lesson("maml", {"predict": "A prediction", "study": "The study question"})


def test_states_follow_what_is_recorded(lesson):
    assert lesson.states() == {"predict": "untouched", "study": "untouched"}
    lesson.record("predict")
    assert lesson.states() == {"predict": "started", "study": "untouched"}
    lesson.record("predict", "done", choice="yes")
    assert lesson.states()["predict"] == "done"
    assert lesson.recall("predict") == {"state": "done", "choice": "yes"}


def test_done_is_never_taken_back(lesson):
    lesson.record("predict", "done")
    lesson.record("predict", state="started", tries=3)
    assert lesson.recall("predict") == {"state": "done", "tries": 3}


def test_a_part_is_kept_but_is_no_state_of_its_own(lesson):
    lesson.record("study/check-1", "done", choice="a")
    assert lesson.recall("study/check-1")["choice"] == "a"
    assert lesson.states() == {"predict": "untouched", "study": "untouched"}


@pytest.mark.parametrize("key", ["quiz", "quiz/1", "", None, 3])
def test_an_undeclared_key_is_refused_and_nothing_is_recorded(lesson, key):
    message = r"key: .* is not declared by lesson 'maml', expected one of 'predict', 'study'"
    for act in (lesson.record, lesson.recall, lesson.require):
        with pytest.raises(ValueError, match=message):
            act(key)
    assert progress().lesson("maml") == {}


def test_an_unknown_state_is_refused(lesson):
    with pytest.raises(ValueError, match="state: got 'finished', expected 'started' or 'done'"):
        lesson.record("predict", "finished")
    assert lesson.recall("predict") == {}


def test_an_unknown_state_in_the_file_counts_as_untouched(lesson):
    progress().record("maml", "predict", state="almost")
    assert lesson.states()["predict"] == "untouched"


@pytest.mark.parametrize(
    ("name", "activities", "message"),
    [
        ("", {"a": "b"}, "name: got ''"),
        ("maml", {}, "activities: got {}"),
        ("maml", ["a"], r"activities: got \['a'\]"),
        ("maml", {"a/b": "c"}, "the key 'a/b', expected a non-empty string without a slash"),
        ("maml", {"a": " "}, "the label ' ' for 'a'"),
    ],
)
def test_bad_declarations_are_refused(name, activities, message):
    with pytest.raises(ValueError, match=message):
        Lesson(name, activities)


def test_activities_cannot_be_changed_afterwards(lesson):
    with pytest.raises(TypeError):
        lesson.activities["quiz"] = "A quiz"
