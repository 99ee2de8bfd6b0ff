import pytest
import torch

from recmtl_lessons.teaching.exercise import Exercise, Outcome, noted, right, unattempted, wrong
from recmtl_lessons.teaching.lesson import Lesson


def check_double(answer):
    if answer(3) == 9:
        return wrong("You squared the number: 3 became 9.")
    if answer(3) == 3:
        return wrong("The number came back unchanged.")
    if answer(3) != 6:
        return wrong(f"3 became {answer(3)}, expected <6>.")
    return right("Twice the number.")


def double(x):
    """Return twice the number."""
    return 2 * x


WRONG = {
    "squares": (lambda x: x * x, "squared the number"),
    "identity": (lambda x: x, "unchanged"),
    "adds two": (lambda x: x + 2, "3 became 5"),
}
SETTINGS = {
    "title": "Double it",
    "level": "beginner",
    "minutes": 5,
    "task": "Write `double(x)`.",
    "check": check_double,
    "hints": ["Think of a sum.", "Add the number to itself."],
    "solution": double,
    "wrong_answers": WRONG,
    "start": "def double(x):\n    return NotImplemented",
}


@pytest.fixture
def lesson():
    return Lesson("maml", {"exercise-double": "Double it"})


@pytest.fixture
def exercise(lesson):
    return Exercise(lesson, "exercise-double", **SETTINGS)


def text_of(shown):
    return shown[-1][0]["text/plain"]


def test_the_reference_is_right_and_recorded(exercise, lesson, shown):
    outcome = exercise.check(exercise.reference)
    assert outcome == Outcome("right", "Twice the number.")
    assert outcome
    assert text_of(shown) == "✓ Right.\nTwice the number."
    assert lesson.recall("exercise-double") == {"state": "done", "attempts": 1}


@pytest.mark.parametrize("name", WRONG)
def test_each_wrong_answer_gets_its_message(exercise, lesson, shown, name):
    answer, fragment = exercise.wrong_answers[name]
    outcome = exercise.check(answer)
    assert outcome.kind == "wrong"
    assert not outcome
    assert fragment in outcome.message
    assert text_of(shown) == f"✗ Not yet.\n{outcome.message}"
    assert lesson.recall("exercise-double") == {"state": "started", "attempts": 1}


def test_attempts_are_counted_and_solved_stays_solved(exercise, lesson, shown):
    for answer in (WRONG["identity"][0], double, WRONG["squares"][0]):
        exercise.check(answer)
    assert lesson.recall("exercise-double") == {"state": "done", "attempts": 3}


def untouched_function(x):
    return NotImplemented


def dots(x):
    return ...


def raises_it(x):
    raise NotImplementedError


class UntouchedClass:
    @staticmethod
    def forward(x):
        return NotImplemented


@pytest.mark.parametrize("answer", [None, ..., NotImplemented, untouched_function, dots, raises_it, UntouchedClass])
def test_what_was_not_tried_is_said_and_not_counted(exercise, lesson, shown, answer):
    outcome = exercise.check(answer)
    assert outcome.kind == "unattempted"
    assert not outcome
    assert text_of(shown).startswith("Not tried yet.\nReplace the placeholder")
    assert lesson.states() == {"exercise-double": "untouched"}


def forgets_to_return(x):
    2 * x


def test_a_function_that_returns_nothing_is_told_so(lesson):
    settings = {**SETTINGS, "check": lambda answer: right() if abs(answer(3) - 6) < 0.1 else wrong("No.")}
    outcome = Exercise(lesson, "exercise-double", **settings).check(forgets_to_return)
    assert outcome.kind == "wrong"
    assert outcome.message == "Your function returned None. Is a `return` missing?"


def test_a_check_that_can_do_with_none_has_its_say(lesson):
    def check(answer):
        return wrong("I expected a number, and got None.") if answer(1) is None else right()

    exercise = Exercise(lesson, "exercise-double", **{**SETTINGS, "check": check})
    assert exercise.check(forgets_to_return).message == "I expected a number, and got None."


def test_an_error_after_a_good_return_is_not_blamed_on_a_missing_one(lesson):
    def answer(x):
        return None if x == 0 else 1 / (x - 1)

    def check(answer):
        answer(0)
        return right() if answer(1) else wrong("No.")

    exercise = Exercise(lesson, "exercise-double", **{**SETTINGS, "check": check})
    assert "ZeroDivisionError" in exercise.check(answer).message


def test_calling_check_with_nothing_is_not_tried(exercise, shown):
    assert exercise.check().kind == "unattempted"


def test_a_class_is_checked_once_its_methods_are_written(lesson, shown):
    class Reversal(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, gradient):
            return -gradient

    def check(answer):
        x = torch.ones(2, requires_grad=True)
        answer.apply(x).sum().backward()
        return right() if (x.grad == -1).all() else wrong("The gradient keeps its sign.")

    exercise = Exercise(lesson, "exercise-double", **{**SETTINGS, "check": check, "solution": Reversal})
    assert exercise.check(Reversal)

    class Half(Reversal):
        @staticmethod
        def backward(ctx, gradient):
            return NotImplemented

    assert exercise.check(Half).kind == "unattempted"


def broken(x):
    y = x + 1
    return y / 0


def test_an_error_in_the_learners_code_is_one_line_with_its_type_and_place(exercise, lesson, shown):
    outcome = exercise.check(broken)
    assert outcome.kind == "wrong"
    assert outcome.message == "Your code raised `ZeroDivisionError`: division by zero (line 3 of your function)"
    assert lesson.recall("exercise-double")["attempts"] == 1


def test_an_answer_of_another_kind_is_wrong_and_does_not_raise(exercise, shown):
    assert exercise.check(17).message.startswith("Your code raised `TypeError`: 'int' object is not callable")

    def long(x):
        raise ValueError("first line\nsecond line")

    assert "second line" not in exercise.check(long).message


def test_an_interrupt_is_not_swallowed(exercise):
    def stop(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exercise.check(stop)


def test_a_check_that_returns_no_outcome_is_the_authors_error(lesson):
    exercise = Exercise(lesson, "exercise-double", **{**SETTINGS, "check": lambda answer: True})
    with pytest.raises(TypeError, match="the check of 'exercise-double' returned bool, expected an Outcome"):
        exercise.check(double)


def test_text_is_escaped(exercise, shown):
    exercise.check(lambda x: "<b>")
    assert "<b>" not in shown[-1][0]["text/html"]
    assert "3 became &lt;b&gt;" in shown[-1][0]["text/html"]


def test_hints_come_one_by_one(exercise, shown):
    for _ in range(4):
        exercise.hint()
    titles = [bundle["text/plain"].split("\n")[0] for bundle, _ in shown]
    assert titles == ["Hint 1 of 2", "Hint 2 of 2", "That was the last hint.", "That was the last hint."]
    assert "Add the number to itself." in shown[1][0]["text/html"]


def test_the_solution_is_the_references_source(exercise, shown):
    exercise.solution()
    assert text_of(shown) == "def double(x):\n    return 2 * x"


def test_a_cell_shows_the_verdict_once(exercise, shell, shown):
    shell.push({"exercise": exercise, "double": double})
    assert shell.run_cell("exercise.check(double)").success
    assert len(shown) == 1


def test_the_exercise_itself_shows_its_task(exercise, shell):
    data, _ = shell.display_formatter.format(exercise)
    assert set(data) == {"text/markdown", "text/plain"}
    assert data["text/plain"].startswith("Exercise: Double it (beginner, about 5 min)\n\nWrite `double(x)`.")
    assert "```python\ndef double(x):\n    return NotImplemented\n```" in data["text/markdown"]
    without = Exercise(exercise._lesson, exercise.key, **{**SETTINGS, "start": None})
    assert "```" not in shell.display_formatter.format(without)[0]["text/markdown"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": ""}, "title: got ''"),
        ({"task": None}, "task: got None"),
        ({"level": "easy"}, "level: got 'easy', expected one of beginner, intermediate, advanced"),
        ({"minutes": 0}, "minutes: got 0, expected a positive number"),
        ({"hints": []}, r"hints: got \[\], expected a list of at least one"),
        ({"hints": "one"}, "hints: got 'one'"),
        ({"hints": ["a", ""]}, "hints: got"),
        ({"solution": 6}, "solution: got int, expected a function or a class"),
        (
            {"wrong_answers": dict(list(WRONG.items())[:2])},
            "wrong_answers: got 2, expected a mapping of at least 3",
        ),
        ({"wrong_answers": [1, 2, 3]}, "wrong_answers: got list, expected a mapping"),
        (
            {"wrong_answers": {**WRONG, "x": (double, " ")}},
            r"for 'x', expected \(answer, piece of its message\)",
        ),
        ({"wrong_answers": {**WRONG, "x": double}}, "for 'x', expected"),
    ],
)
def test_bad_exercises_are_refused_by_name(lesson, change, message):
    with pytest.raises(ValueError, match=message):
        Exercise(lesson, "exercise-double", **{**SETTINGS, **change})


def test_an_undeclared_key_is_refused(lesson):
    with pytest.raises(ValueError, match="key: 'exercise-triple' is not declared by lesson 'maml'"):
        Exercise(lesson, "exercise-triple", **SETTINGS)


def test_only_right_is_true_and_wrong_needs_words():
    assert right()
    assert not any([wrong("why"), noted("kept"), unattempted()])
    with pytest.raises(ValueError, match="message: got ''"):
        wrong("")


def test_an_outcome_as_html_is_announced_and_escaped():
    shown = wrong("1 < 2").html()
    assert shown.startswith('<div role="status" aria-live="polite">')
    assert "1 &lt; 2" in shown
    assert "✗ Not yet." in shown
