import sys

import numpy as np
import pytest
import torch

from recmtl_lessons.teaching import answers, exercise
from recmtl_lessons.teaching.exercise import Exercise, Experiment, Mistake, Outcome, noted, right, unattempted, wrong
from recmtl_lessons.teaching.explorer import Running
from recmtl_lessons.teaching.lesson import Lesson
from tests.support.bends import as_answer, right_forms, wrong_forms


def double(x):
    """Return twice the number."""
    return 2 * x


MISTAKES = [
    Mistake("squares", lambda x: x * x, "You squared the number."),
    Mistake("identity", lambda x: x, "The number came back unchanged."),
    Mistake("adds two", lambda x: x + 2, "You added two."),
]
SETTINGS = {
    "title": "Double it",
    "level": "beginner",
    "minutes": 5,
    "task": "Write `double(x)`.",
    "cases": lambda generator: [{"x": 3.0}, {"x": float(torch.rand((), generator=generator))}],
    "hints": ["Think of a sum.", "Add the number to itself."],
    "solution": double,
    "mistakes": MISTAKES,
    "praise": "Twice the number.",
    "start": "def double(x):\n    return NotImplemented",
}


def distances(x, y, scale):
    """Return scaled distances and which are the nearest: a tensor with a gradient, and one of bool."""
    apart = scale * (x[:, None] - y[None]).square().sum(-1)
    return apart, apart == apart.min(1, keepdim=True).values


def two_clouds(generator):
    for n, m in ((2, 3), (3, 4)):
        x, y = torch.randn(n, 2, generator=generator), torch.randn(m, 2, generator=generator)
        yield {"x": x.requires_grad_(), "y": y, "scale": float(torch.rand((), generator=generator)) + 0.5}


CLOUDS = {
    **SETTINGS,
    "cases": two_clouds,
    "solution": distances,
    "mistakes": [
        Mistake("no square", lambda x, y, s: (s * (x[:, None] - y[None]).sum(-1), distances(x, y, s)[1]), "No square."),
        Mistake("no scale", lambda x, y, s: distances(x, y, 1.0), "No scale."),
        Mistake("no graph", lambda x, y, s: distances(x.detach(), y, s), "No graph."),
        Mistake("half", lambda x, y, s: distances(x, y, s)[0], "Half of it."),
    ],
}


@pytest.fixture
def lesson():
    return Lesson("maml", {"exercise-double": "Double it"})


@pytest.fixture
def easy(lesson):
    return Exercise(lesson, "exercise-double", **SETTINGS)


@pytest.fixture
def clouds(lesson):
    return Exercise(lesson, "exercise-double", **CLOUDS)


def text_of(shown):
    return shown[-1][0]["text/plain"]


def test_the_reference_is_right_and_recorded(easy, lesson, shown):
    outcome = easy.check(easy.reference)
    assert outcome == Outcome("right", "Twice the number.")
    assert outcome
    assert text_of(shown) == "✓ Right.\nTwice the number."
    assert lesson.recall("exercise-double") == {"state": "done", "attempts": 1}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_each_mistake_gets_its_message(easy, lesson, shown, mistake):
    outcome = easy.check(mistake.answer)
    assert (outcome.kind, outcome.message) == ("wrong", mistake.message)
    assert not outcome
    assert text_of(shown) == f"✗ Not yet.\n{outcome.message}"
    assert lesson.recall("exercise-double") == {"state": "started", "attempts": 1}


def test_a_wrong_answer_of_another_kind_is_shown_an_example_that_can_be_tried(easy):
    outcome = easy.check(lambda x: 2 * x + 1)
    assert outcome.message == "For x = 3 I expected 6, and got 7."
    assert easy.example == {"x": 3.0}
    assert easy.check(double)
    assert easy.example is None


def test_attempts_are_counted_and_solved_stays_solved(easy, lesson, shown):
    for answer in (MISTAKES[1].answer, double, MISTAKES[0].answer):
        easy.check(answer)
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
def test_what_was_not_tried_is_said_and_not_counted(easy, lesson, shown, answer):
    outcome = easy.check(answer)
    assert outcome.kind == "unattempted"
    assert not outcome
    assert text_of(shown).startswith("Not tried yet.\nReplace the placeholder")
    assert lesson.states() == {"exercise-double": "untouched"}


def test_calling_check_with_nothing_is_not_tried(easy):
    assert easy.check().kind == "unattempted"


class TestForms:
    @pytest.mark.parametrize("settings", [SETTINGS, CLOUDS], ids=["a number", "tensors"])
    def test_right_is_right_in_any_form(self, lesson, settings):
        exercise = Exercise(lesson, "exercise-double", **settings)
        for name, answer in right_forms(exercise).items():
            outcome = exercise.check(as_answer(exercise, answer))
            assert outcome, f"{name}: {outcome.message}"

    @pytest.mark.parametrize("settings", [SETTINGS, CLOUDS], ids=["a number", "tensors"])
    def test_nothing_wrong_is_accepted(self, lesson, settings):
        exercise = Exercise(lesson, "exercise-double", **settings)
        for name, answer in wrong_forms(exercise).items():
            assert exercise.check(as_answer(exercise, answer)).kind == "wrong", name

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (lambda *a: None, "Your function returned None. Is a `return` missing?"),
            (lambda *a: distances(*a)[0], "Half of it."),
            (lambda *a: [distances(*a)[0]], "I expected 2 values in a tuple, and got 1 value in a list."),
            (lambda *a: {"x": 1}, "I expected 2 values in a tuple, and got a dict with 'x'."),
            (
                lambda *a: (distances(*a)[0].T, distances(*a)[1]),
                "I expected a tensor of shape (2, 3), and got a tensor of shape (3, 2).",
            ),
            (lambda *a: ("a", distances(*a)[1]), "I expected numbers, and got str."),
            (
                lambda *a: (distances(*a)[0], distances(*a)[1].float()),
                "I expected True and False, of dtype bool, and got a tensor of shape (2, 3) of torch.float32.",
            ),
        ],
    )
    def test_another_form_is_said_in_one_line(self, clouds, answer, message):
        assert clouds.check(answer).message == message

    def test_an_array_has_no_gradient_and_is_told_so(self, clouds):
        outcome = clouds.check(lambda *a: (distances(*a)[0].detach().numpy(), distances(*a)[1]))
        assert outcome.message == "No graph."  # the mistake of the list that does the same
        without = {**CLOUDS, "mistakes": [*CLOUDS["mistakes"][:2], CLOUDS["mistakes"][3]]}
        plain = Exercise(clouds._lesson, "exercise-double", **without)
        outcome = plain.check(lambda *a: (distances(*a)[0].detach().numpy(), distances(*a)[1]))
        assert outcome.message.startswith("The values are right, but no gradient comes back")

    def test_a_changed_input_is_named(self, clouds):
        def answer(x, y, scale):
            y.add_(1.0)
            return distances(x, y - 1.0, scale)

        assert clouds.check(answer).message.startswith("You changed `y` itself")

    def test_an_input_with_a_gradient_that_is_changed_is_told_as_the_others(self, clouds):
        outcome = clouds.check(lambda x, y, scale: distances(x.add_(1), y, scale))
        assert outcome.message.startswith("You changed one of the inputs itself")

    def test_an_input_that_is_made_to_ask_for_a_gradient(self, clouds):
        def answer(x, y, scale):
            y.requires_grad_()
            return distances(x, y, scale)

        assert clouds.check(answer)
        assert clouds.check(lambda x, y, s: [part.detach() for part in answer(x, y, s)]).message == "No graph."

    def test_of_a_large_tensor_the_first_place_that_differs(self, lesson):
        cases = {"cases": lambda generator: [{"x": torch.arange(20.0) + k} for k in range(2)]}
        exercise = Exercise(lesson, "exercise-double", **{**SETTINGS, **cases, "solution": double})
        outcome = exercise.check(lambda x: torch.where(x == 7, 5.0, 2 * x))
        assert outcome.message == "For x = a tensor (20,) I expected 14 in place [7], and got 5."

    def test_a_gradient_where_none_is_wanted(self, lesson):
        def spread(x):
            return x.detach().std()

        cases = {"cases": lambda generator: [{"x": torch.randn(n, generator=generator)} for n in (3, 5)]}
        exercise = Exercise(lesson, "exercise-double", **{**SETTINGS, **cases, "solution": spread})
        outcome = exercise.check(lambda x: spread(x).requires_grad_())
        assert outcome.message == "The values are right, and still ask for gradients. Detach what you return."


class TestTheMistakeThatIsNamed:
    def test_it_is_the_one_that_fits_every_case(self, lesson):
        """On 3 alone, adding six and tripling are one mistake."""
        more = [*MISTAKES, Mistake("six", lambda x: x + 6, "Six."), Mistake("three", lambda x: 3 * x, "Three.")]
        exercise = Exercise(lesson, "exercise-double", **{**SETTINGS, "mistakes": more})
        assert exercise.check(lambda x: x * 3).message == "Three."

    def test_a_wrong_value_without_a_gradient_is_named_by_the_value(self, clouds):
        outcome = clouds.check(lambda x, y, s: distances(x.detach(), y, 1.0))
        assert outcome.message == "No scale."

    def test_right_or_wrong_values_with_another_gradient_are_another_mistake(self, clouds):
        outcome = clouds.check(lambda x, y, s: distances(x.detach() + 0 * x, y, 1.0))
        assert "I expected" in outcome.message

    def test_a_mistake_may_be_one_that_raises(self, lesson):
        raising = [*MISTAKES, Mistake("of a text", lambda x: x + "a", "It is no text.")]
        exercise = Exercise(lesson, "exercise-double", **{**SETTINGS, "mistakes": raising})
        assert exercise.check(lambda x: x + "b").message == "It is no text."
        assert "ZeroDivisionError" in exercise.check(lambda x: x / 0).message

    def test_two_mistakes_at_once_are_none_of_the_list(self, clouds):
        outcome = clouds.check(lambda x, y, s: (2 * distances(x, y, 1.0)[0], distances(x, y, 1.0)[1]))
        assert "I expected" in outcome.message


class TestNothingLeavesCheck:
    def test_an_error_in_the_learners_code_is_one_line_with_its_type_and_place(self, easy, lesson):
        def broken(x):
            y = x + 1
            return y / 0

        outcome = easy.check(broken)
        assert outcome.kind == "wrong"
        assert (
            outcome.message == "Your code raised `ZeroDivisionError`: float division by zero (line 3 of your function)"
        )
        assert lesson.recall("exercise-double")["attempts"] == 1

    def test_python_is_not_left(self, easy):
        assert "SystemExit" in easy.check(lambda x: sys.exit(3)).message

    def test_only_the_first_line_of_an_error(self, easy):
        def long(x):
            raise ValueError("first line\nsecond line")

        assert "second line" not in easy.check(long).message

    @pytest.mark.parametrize("answer", [17, "double", np.zeros(3), torch.zeros(2), {}])
    def test_what_is_no_function_is_said_to_be_none(self, easy, answer):
        assert easy.check(answer).message.startswith("I expected a function, and got")

    @pytest.mark.parametrize(
        "value", [object(), "six", [], {}, torch.zeros(2).to_sparse(), torch.tensor(1j), [[1], [1, 2]]]
    )
    def test_odd_values_are_refused_in_a_line(self, easy, value):
        assert easy.check(lambda x: value).kind == "wrong"

    def test_an_interrupt_does_leave(self, easy):
        def stop(x):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            easy.check(stop)

    def test_an_error_of_the_check_itself_is_not_put_on_the_learner(self, lesson, shown):
        def fails(x):
            raise RuntimeError("the author's")

        exercise = Exercise(lesson, "exercise-double", **{**SETTINGS, "solution": fails})
        outcome = exercise.check(double)
        assert outcome.kind == "noted"
        assert text_of(shown).startswith(
            "This check is broken, and not your code.\nIts own solution raised RuntimeError"
        )
        assert lesson.states() == {"exercise-double": "untouched"}

    def test_nor_is_one_of_the_comparison(self, easy, monkeypatch):
        monkeypatch.setattr(exercise, "alike", lambda a, b: 1 / 0)
        assert easy.check(double).kind == "noted"

    def test_a_mistake_that_raises_is_passed_over(self, lesson):
        bad = [*MISTAKES, Mistake("raises", lambda x: x.missing, "Raised.")]
        exercise = Exercise(lesson, "exercise-double", **{**SETTINGS, "mistakes": bad})
        assert exercise.check(lambda x: 5 * x).message.startswith("For x = 3 I expected 6")


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class TestClasses:
    @pytest.fixture
    def reversal(self, lesson):
        class Same(Reversal):
            @staticmethod
            def backward(ctx, gradient):
                return gradient

        changed = {
            "cases": lambda generator: [{"x": torch.randn(n, generator=generator).requires_grad_()} for n in (2, 3)],
            "call": lambda answer, x: answer.apply(x),
            "solution": Reversal,
            "mistakes": [Mistake("same", Same, "It keeps its sign."), *MISTAKES[:2]],
        }
        return Exercise(lesson, "exercise-double", **{**SETTINGS, **changed})

    def test_gradients_are_what_a_reversal_is_judged_by(self, reversal):
        assert reversal.check(Reversal)
        assert reversal.check(reversal.mistakes[0].answer).message == "It keeps its sign."

    def test_an_unwritten_method_is_no_answer(self, reversal):
        class Half(Reversal):
            @staticmethod
            def backward(ctx, gradient):
                return NotImplemented

        assert reversal.check(Half).kind == "unattempted"

    def test_what_a_backward_changes_is_seen(self, reversal):
        class Changes(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.x = x
                return x.view_as(x)

            @staticmethod
            def backward(ctx, gradient):
                ctx.x.data += 1
                return -gradient

        assert reversal.check(Changes).message.startswith("You changed `x` itself")

    def test_a_sign_of_the_gradient_counts(self, reversal):
        class Absolute(Reversal):
            @staticmethod
            def backward(ctx, gradient):
                return -gradient.abs()

        assert reversal.check(Absolute).kind == "wrong"

    def test_an_instance_or_a_function_is_no_class(self, reversal):
        for answer in (torch.nn.Linear(2, 2), double):
            assert reversal.check(answer).message.startswith("I expected a class, and got")

    def test_an_error_in_a_method_has_its_line(self, reversal):
        class Broken(Reversal):
            @staticmethod
            def backward(ctx, gradient):
                return gradient.missing

        assert "(line 3 of your function)" in reversal.check(Broken).message


class TestDesigns:
    @pytest.fixture
    def design(self, lesson):
        def judge(ask):
            if float(ask(x=torch.ones(3)).sum()) < 0:
                return "Too small."
            return None if ask(x=torch.zeros(0)).isfinite().all() else "Nothing to average."

        mistakes = [
            Mistake("negative", lambda x: -x, "Too small."),
            Mistake("more so", lambda x: -2 * x, "Too small."),
            Mistake("mean", lambda x: torch.where(x > 0, x, x) * x.mean() if len(x) else x, "Nothing to average."),
        ]
        changed = {"cases": None, "judge": judge, "solution": lambda x: x + 1, "mistakes": mistakes}
        return Exercise(lesson, "exercise-double", **{**SETTINGS, **changed})

    def test_many_answers_are_right(self, design):
        assert design.check(lambda x: x + 5)
        assert design.check(lambda x: (x + 5).tolist())

    def test_what_is_wrong_is_said(self, design):
        assert design.check(lambda x: -x).message == "Too small."
        assert design.check(lambda x: x[:2]).message.startswith("I expected a tensor of shape (3,)")
        assert "IndexError" in design.check(lambda x: x + x[0]).message
        assert design.check(lambda x: x.mul_(2)).message.startswith("You changed `x` itself")

    def test_a_judge_that_fails_is_not_the_learners_fault(self, lesson):
        changed = {"cases": None, "judge": lambda ask: 1 / 0}
        exercise = Exercise(lesson, "exercise-double", **{**SETTINGS, **changed})
        assert exercise.check(double).kind == "noted"


def always(value):
    return lambda *_, **__: value


class TestMutations:
    """A check that is blind in one way lets something pass that the tests of every exercise refuse."""

    @pytest.mark.parametrize(
        ("blind", "settings", "passes"),
        [
            ("inputs", CLOUDS, "argument 1 changed"),
            ("gradients", CLOUDS, "argument 0 detached"),
            ("one case", CLOUDS, "argument 2 hard-coded"),
            ("nan", SETTINGS, "NaN in one place"),
            ("values", SETTINGS, "a constant"),
        ],
    )
    def test_a_blind_check_is_found(self, lesson, monkeypatch, blind, settings, passes):
        made = Exercise(lesson, "exercise-double", **settings)

        def verdict():
            return made.check(as_answer(made, wrong_forms(made)[passes])).kind

        assert verdict() == "wrong"
        alike = answers.alike
        match blind:
            case "inputs":
                monkeypatch.setattr(answers, "_untouched", always(True))
            case "gradients":
                seen = answers.seen
                monkeypatch.setattr(exercise, "seen", lambda *a: answers.Seen(seen(*a).values, [], True))
            case "one case":
                made._cases = lambda generator: list(two_clouds(generator))[:1]
            case "nan":
                monkeypatch.setattr(exercise, "alike", lambda a, b: alike(a, b) or "nan" in str(a))
            case "values":
                monkeypatch.setattr(exercise, "alike", always(True))
        assert verdict() == "right"


class TestTraining:
    @pytest.fixture
    def drawn(self):
        return []

    @pytest.fixture
    def training(self, lesson, drawn):
        def train(answer):
            came = []
            for step in range(1, 6):
                came.append(answer(float(step)))
                yield Running(step, 5, lambda: list(came))
            return came

        experiment = Experiment(
            train,
            lambda result, figure: drawn.append(result),
            lambda result: f"It came to {result[-1]:g}.",
            "The band.",
        )
        return Exercise(lesson, "exercise-double", **{**SETTINGS, "experiment": experiment})

    def test_without_an_answer_the_band_is_drawn(self, training, drawn, shown, lesson):
        for answer in (None, untouched_function):
            assert training.train(answer).kind == "unattempted"
        assert drawn == [None, None]
        assert "The band." in [bundle["text/plain"] for bundle, _ in shown]
        assert lesson.states() == {"exercise-double": "untouched"}

    @pytest.mark.parametrize("answer", [double, MISTAKES[1].answer], ids=["right", "wrong"])
    def test_right_or_wrong_it_trains_and_is_kept(self, training, drawn, shown, lesson, answer):
        training.train(answer)
        assert drawn == [[answer(float(k)) for k in range(1, 6)]]
        said = f"It came to {answer(5.0):g}."
        assert said in [bundle["text/plain"] for bundle, _ in shown]
        assert lesson.recall("exercise-double") == {"state": "started", "trained": said}
        assert training.history == [({"trained": answer.__name__}, said)]

    def test_an_error_is_one_line_with_its_place(self, training, drawn):
        def breaks(x):
            return x if x < 3 else x.missing

        outcome = training.train(breaks)
        assert outcome.message == (
            "Your code raised `AttributeError`: 'float' object has no attribute 'missing' (line 2 of your function) It "
            "happened behind step 2."
        )
        assert drawn == []

    def test_an_error_of_the_experiment_is_not_put_on_the_learner(self, training):
        broken = Experiment(lambda answer: iter([1 / 0]), training.experiment.draw, str, "The band.")
        training.experiment = broken
        assert training.train(double).message.startswith("The training ended with `ZeroDivisionError`")

    def test_it_can_be_stopped(self, training, drawn, shown):
        def stops(x):
            if x == 4:
                raise KeyboardInterrupt
            return x

        assert training.train(stops).title == "Stopped at step 3 of 5."
        assert drawn == [[1.0, 2.0, 3.0]]


def test_text_is_escaped(easy, shown):
    easy.check(lambda x: "<b>")
    assert "<b>" not in shown[-1][0]["text/html"]


def test_hints_come_one_by_one(easy, shown):
    for _ in range(4):
        easy.hint()
    titles = [bundle["text/plain"].split("\n")[0] for bundle, _ in shown]
    assert titles == ["Hint 1 of 2", "Hint 2 of 2", "That was the last hint.", "That was the last hint."]
    assert "Add the number to itself." in shown[1][0]["text/html"]


def test_the_solution_is_the_references_source(easy, shown):
    easy.solution()
    assert text_of(shown) == "def double(x):\n    return 2 * x"


def test_a_cell_shows_the_verdict_once(easy, shell, shown):
    shell.push({"exercise": easy, "double": double})
    assert shell.run_cell("exercise.check(double)").success
    assert len(shown) == 1


def test_the_exercise_itself_shows_its_task(easy, shell):
    data, _ = shell.display_formatter.format(easy)
    assert set(data) == {"text/markdown", "text/plain"}
    assert data["text/plain"].startswith("Exercise: Double it (beginner, about 5 min)\n\nWrite `double(x)`.")
    assert "```python\ndef double(x):\n    return NotImplemented\n```" in data["text/markdown"]
    without = Exercise(easy._lesson, easy.key, **{**SETTINGS, "start": None})
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
        ({"solution": 6}, "solution: got int, expected a function or a class"),
        ({"mistakes": MISTAKES[:2]}, "expected at least 3 of class Mistake"),
        ({"mistakes": [*MISTAKES, double]}, "expected at least 3 of class Mistake"),
        ({"cases": None}, "cases, judge: got both or neither"),
        ({"judge": always(None)}, "cases, judge: got both or neither"),
    ],
)
def test_bad_exercises_are_refused_by_name(lesson, change, message):
    with pytest.raises(ValueError, match=message):
        Exercise(lesson, "exercise-double", **{**SETTINGS, **change})


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (("", double, "x"), "name: got ''"),
        (("a", 6, "x"), "answer: got 6 for 'a'"),
        (("a", double, ""), "message: got ''"),
    ],
)
def test_bad_mistakes_are_refused_by_name(made, message):
    with pytest.raises(ValueError, match=message):
        Mistake(*made)


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
