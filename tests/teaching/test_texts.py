"""A lesson's words as data: what a file holds is what is asked, and each error names the file and the line."""

import re

import pytest

from recmtl_lessons.teaching.texts import Texts, read_yaml

FILE = """\
activities:
  predict: A prediction
  quiz: A question
  study: A study question
  exercise-double: An exercise
predict:
  question: What will it be?
  choices:
    more: {text: More of it, why: It would need more.}
    less: {text: Less of it, why: It is less., formerly: [Fewer of it]}
quiz:
  question: Which?
  correct: one
  choices:
    one: {text: One, why: It is one.}
    two: {text: Two, why: It is not two.}
study:
  level: beginner
  question: How does it work?
  evidence: Move lambda.
  start: It works
  checks:
    - question: Is it so?
      correct: yes-it-is
      choices:
        yes-it-is: {text: It is, why: So it is.}
        no: {text: It is not, why: It is.}
  points:
    turn: {name: It turns, why: Without that it stands.}
  worked: |
    It turns.

    - and goes on
exercise-double:
  title: Double it
  level: beginner
  minutes: 5
  task: Write `double(x)`.
  hints: [A sum.]
  praise: Twice.
  mistakes:
    square: It is squared.
    same: It came back as it was.
    more: It is one more.
"""


@pytest.fixture
def texts(tmp_path):
    def made(old="", new=""):
        assert old in FILE
        path = tmp_path / "texts.yaml"
        path.write_text(FILE.replace(old, new, 1), encoding="utf-8")
        return Texts(path, "maml")

    return made


def test_what_the_file_says_is_asked(texts):
    found = texts()
    assert list(found.lesson.activities) == ["predict", "quiz", "study", "exercise-double"]
    predict, quiz = found.predict("predict"), found.quiz("quiz")
    assert [option.text for option in predict.choices.values()] == ["More of it", "Less of it"]
    assert predict.choices["less"].formerly == ("Fewer of it",)
    assert quiz.correct == "one"
    study = found.study("study")
    assert [check.key for check in study.checks] == ["study/check-1"]
    assert [(point.key, point.name) for point in study.points] == [("turn", "It turns")]
    assert study.worked == "It turns.\n\n- and goes on\n"


MISTAKES = {"square": lambda x: x * x, "same": lambda x: x, "more": lambda x: x + 1}


def double(x):
    return 2 * x


def test_an_exercise_gets_its_words_from_the_file_and_its_code_from_arguments(texts):
    made = texts().exercise("exercise-double", MISTAKES, solution=double, cases=lambda generator: [{"x": 3}, {"x": 5}])
    assert (made.title, made.level, made.minutes) == ("Double it", "beginner", 5)
    assert made.check(double).message == "Twice."
    assert made.check(lambda x: x).message == "It came back as it was."
    assert [mistake.name for mistake in made.mistakes] == list(MISTAKES)


@pytest.mark.parametrize("names", [("square", "same"), (*MISTAKES, "less")])
def test_each_mistake_has_an_answer_and_a_message(texts, names):
    answers = {name: MISTAKES.get(name, abs) for name in names}
    with pytest.raises(ValueError, match=r"^texts\.yaml, line 42: mistakes: got '(more|less)' on one side alone"):
        texts().exercise("exercise-double", answers, solution=double, cases=list)


@pytest.mark.parametrize(
    ("old", "new", "act", "message"),
    [
        ("  question: Which?\n", "", "quiz", "texts.yaml, line 12: 'question' is missing, expected question, choices"),
        ("correct: one", "correct: three", "quiz", "texts.yaml, line 12: correct: got 'three', expected one of 'one'"),
        ("correct: one", "correct: one\n  hint: x", "quiz", "texts.yaml, line 12: got 'hint', expected question"),
        ("{text: Two, why: It is not two.}", "{text: Two}", "quiz", "texts.yaml, line 16: 'why' is missing"),
        ("{text: Two, why: It is not two.}", "{text: '', why: x}", "quiz", "texts.yaml, line 16: text: got ''"),
        (
            "level: beginner\n  question: How",
            "level: easy\n  question: How",
            "study",
            "texts.yaml, line 18: level: got",
        ),
        ("turn: {name", "turn: {title", "study", "texts.yaml, line 29: got 'title', expected name, why"),
        ("      correct: yes-it-is", "      correct: maybe", "study", "texts.yaml, line 23: correct: got 'maybe'"),
    ],
)
def test_an_error_names_file_and_line(texts, old, new, act, message):
    found = texts(old, new)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        getattr(found, act)(act)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yaml, line 1: got 'a' twice"),
        ("a: [1\nb: 2\n", "x.yaml, line 2: "),
        ("- 1\n", "x.yaml, line 1: got tuple, expected a mapping"),
        ("a: !!python/name:os.system\n", "x.yaml, line 1: could not determine a constructor"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path, text, message):
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        read_yaml(path)


def test_a_key_that_is_not_there_is_named(texts):
    with pytest.raises(ValueError, match=r"line 1: got None for 'other', expected a mapping under this name"):
        texts().quiz("other")


def test_a_mapping_may_take_over_from_another(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("base: &base {a: 1, b: 2}\nother: {<<: *base, b: 3}\n", encoding="utf-8")
    assert read_yaml(path)["other"] == {"a": 1, "b": 3}


def test_settings_are_plain_values(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("rates: [0.1, 0.2]\nchosen: {joint: 0.1}\nwords: [no, on, true]\n", encoding="utf-8")
    assert read_yaml(path) == {
        "rates": (0.1, 0.2),
        "chosen": {"joint": 0.1},
        "words": ("no", "on", True),
    }
