import ipywidgets as widgets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recmtl_lessons.teaching.lesson import Lesson
from recmtl_lessons.teaching.quiz import NumberQuiz, Option, Predict, Quiz

CHOICES = {
    "rises": Option("It rises", "It would rise if <more> pull meant more signal."),
    "falls": Option("It falls", "The nuisance no longer helps in the source."),
    "stays": Option("It stays", "The source loses a feature that was useful there.", formerly=("It does not move",)),
}
SAME = Option("a", "why")
LONG = "A choice that is long enough to need a second line on any screen: " + "word " * 40


@pytest.fixture
def lesson():
    return Lesson("maml", {"predict": "A prediction", "quiz": "A question", "number": "A number"})


@pytest.fixture
def predict(lesson):
    return Predict(lesson, "predict", "What happens to the **source**?", CHOICES)


@pytest.fixture
def quiz(lesson):
    return Quiz(lesson, "quiz", "Which one?", CHOICES, correct="falls")


@pytest.fixture
def number(lesson):
    return NumberQuiz(lesson, "number", "How large?", 0.693, 0.005, "nats", "It is log 2.")


def parts(question):
    """The controls, the button and the feedback of a question's widget."""
    _, control, button, feedback = question.widget.children
    return control, button, feedback


def test_a_prediction_is_committed_by_clicking(predict, lesson):
    control, button, feedback = parts(predict)
    assert isinstance(control, widgets.RadioButtons)
    assert control.options == tuple((option.text, key) for key, option in CHOICES.items())
    assert control.value is None
    control.value = "rises"
    assert lesson.recall("predict") == {}
    button.click()
    assert lesson.recall("predict") == {"state": "done", "choice": "rises"}
    assert "Your prediction: <strong>It rises</strong>" in feedback.value
    assert 'role="status"' in feedback.value
    assert "would rise" not in feedback.value  # the explanation waits for the outcome


def test_nothing_chosen_is_said(predict, quiz, lesson):
    for question in (predict, quiz):
        _, button, feedback = parts(question)
        button.click()
        assert "Nothing chosen yet." in feedback.value
        assert lesson.recall(question.key) == {}


def test_a_prediction_may_change_until_the_outcome_is_shown(predict, lesson, shown):
    predict.answer("rises")
    predict.answer("stays")
    predict.reveal("The source AUC fell by 0.05.", correct="falls")
    assert not predict.answer("falls")
    assert lesson.recall("predict")["choice"] == "stays"
    assert shown[-1][0]["text/plain"].startswith("Unchanged.")
    control, button, feedback = parts(predict)
    control.value = "falls"
    button.click()
    assert control.value == "stays"
    assert "your prediction stays: <strong>It stays</strong>" in feedback.value


def test_reveal_lays_both_side_by_side_and_explains(predict, shown):
    predict.answer("rises")
    predict.reveal("The source AUC fell by 0.05.", correct="falls")
    page = shown[-1][0]
    assert page["text/plain"].startswith("✗ Not as you predicted\n")
    assert "<strong>You said:</strong> It rises" in page["text/html"]
    assert "<strong>What came out:</strong> The source AUC fell by 0.05." in page["text/html"]
    assert "if &lt;more&gt; pull" in page["text/html"]
    assert CHOICES["falls"].why in page["text/html"]


def test_reveal_of_a_prediction_that_came_true(predict, shown):
    predict.answer("falls")
    predict.reveal("It fell.", correct="falls")
    assert shown[-1][0]["text/plain"].startswith("✓ As you predicted\n")
    assert shown[-1][0]["text/plain"].count(CHOICES["falls"].why) == 1


def test_what_is_chosen_after_the_outcome_was_shown_is_no_prediction(predict, lesson, shown):
    predict.reveal("It fell.", correct="falls")
    assert "You made no prediction this time, which is fine." in shown[-1][0]["text/plain"]
    assert CHOICES["falls"].why in shown[-1][0]["text/plain"]
    assert lesson.states()["predict"] == "started"
    outcome = predict.answer("falls")
    assert outcome.message == "Chosen after the outcome was shown, and so no prediction: **It falls**"
    assert lesson.recall("predict") == {"state": "started", "revealed": True, "choice": "falls", "late": True}
    predict.reveal("It fell.", correct="falls")
    assert shown[-1][0]["text/plain"].startswith("Prediction and outcome\n")
    assert "no prediction: <strong>It falls</strong>" in parts(predict)[2].value
    predict.answer("rises")
    assert lesson.recall("predict")["choice"] == "rises"


@pytest.mark.parametrize("sentence", ["It stays", "It does not move"])
def test_a_file_that_holds_sentences_is_understood(predict, lesson, sentence):
    """Before choices had keys, progress held what the learner had read."""
    lesson.record("predict", "done", choice=sentence)
    control, _, feedback = parts(predict)
    assert control.value == "stays"
    assert "as you made it: <strong>It stays</strong>" in feedback.value


def test_reveal_refuses_what_is_no_choice_or_no_text(predict, shown):
    with pytest.raises(ValueError, match="correct: got 'Up', expected one of 'rises', 'falls', 'stays'"):
        predict.reveal("It fell.", correct="Up")
    with pytest.raises(ValueError, match="outcome_text: got ''"):
        predict.reveal("", correct="falls")
    assert shown == []


def test_every_choice_of_a_quiz_explains_itself(quiz, lesson, shown):
    for choice, option in CHOICES.items():
        outcome = quiz.answer(choice)
        assert outcome.message == option.why
        assert bool(outcome) == (choice == "falls")
    assert lesson.recall("quiz") == {"state": "done", "choice": "stays"}
    assert len(shown) == 3


def test_a_quiz_is_answered_by_clicking_and_may_be_tried_again(quiz, lesson):
    control, button, feedback = parts(quiz)
    control.value = "rises"
    button.click()
    assert "✗ Not yet." in feedback.value
    assert "&lt;more&gt;" in feedback.value
    assert lesson.states()["quiz"] == "started"
    assert not quiz.solved
    control.value = "falls"
    button.click()
    assert "✓ Right." in feedback.value
    assert quiz.solved


def test_answering_from_a_cell_moves_the_widget_too(quiz, number, shown):
    control, _, feedback = parts(quiz)
    quiz.answer("falls")
    assert control.value == "falls"
    assert "✓ Right." in feedback.value
    control, _, feedback = parts(number)
    number.answer(0.693)
    assert control.value == 0.693
    assert "It is log 2." in feedback.value


def test_the_kept_answer_is_shown_when_opened_again(lesson, predict, quiz, number, shown):
    predict.answer("rises")
    quiz.answer("stays")
    number.answer(0.9)
    again = (
        Predict(lesson, "predict", "What?", CHOICES),
        Quiz(lesson, "quiz", "Which one?", CHOICES, correct="falls"),
        NumberQuiz(lesson, "number", "How large?", 0.693, 0.005, "nats", "It is log 2."),
    )
    values = [(parts(question)[0].value, parts(question)[2].value) for question in again]
    assert [value for value, _ in values] == ["rises", "stays", 0.9]
    assert "as you made it: <strong>It rises</strong>" in values[0][1]
    assert CHOICES["stays"].why in values[1][1]
    assert "0.9 is too high." in values[2][1]


def test_a_kept_choice_that_is_gone_is_forgotten(lesson, quiz, shown):
    quiz.answer("stays")
    options = {"yes": Option("Yes", "y"), "no": Option("No", "n")}
    changed = Quiz(lesson, "quiz", "Which one?", options, correct="yes")
    control, _, feedback = parts(changed)
    assert control.value is None
    assert feedback.value == ""


def test_a_number_is_right_within_its_tolerance(number, lesson, shown):
    assert number.answer(0.698)
    assert number.answer(0.688)
    assert not number.answer(0.6985)
    assert lesson.recall("number")["state"] == "done"


def test_a_wrong_number_is_told_its_side_first_and_the_reason_second(number, shown):
    assert number.answer(0).message == "0 is too low. Try once more."
    assert number.answer(1).message == "1 is too high. It is log 2."


def test_a_number_is_given_by_clicking(number, lesson):
    control, button, feedback = parts(number)
    assert control.description == "Your number (nats)"
    control.value = 0.69
    button.click()
    assert "✓ Right." in feedback.value
    assert lesson.recall("number") == {"state": "done", "number": 0.69, "attempts": 1}


@pytest.mark.parametrize("value", [np.float32(0.693), np.float64(0.693)])
def test_numpy_numbers_are_numbers(number, shown, value):
    assert number.answer(value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.none() | st.text() | st.booleans() | st.lists(st.integers()) | st.sampled_from([float("nan"), float("inf")]))
def test_bad_answers_are_named_and_change_nothing(lesson, quiz, number, value):
    with pytest.raises(ValueError, match=r"value: got .*, expected a finite number"):
        number.answer(value)
    with pytest.raises(ValueError, match=r"value: got .*, expected one of 'rises'"):
        quiz.answer(value)
    assert lesson.states() == {"predict": "untouched", "quiz": "untouched", "number": "untouched"}


def test_a_page_without_a_kernel_reads_question_and_choices(predict, quiz, number, shell):
    for question in (predict, quiz):
        data, _ = shell.display_formatter.format(question)
        assert "application/vnd.jupyter.widget-view+json" in data
        for option in CHOICES.values():
            assert f"<li>{option.text}</li>" in data["text/html"]
            assert f"( ) {option.text}" in data["text/plain"]
            assert option.why not in str(data)
    data, _ = shell.display_formatter.format(predict)
    assert data["text/plain"].startswith("Predict: What happens")
    assert "the <strong>source</strong>?" in data["text/html"]
    data, _ = shell.display_formatter.format(number)
    assert data["text/plain"] == "Question: How large?"
    assert "log 2" not in str(data)


def test_text_in_the_static_page_and_the_widget_is_escaped(lesson, shell):
    options = {"yes": Option("<b>yes</b>", "a"), "no": Option("no", "b")}
    quiz = Quiz(lesson, "quiz", "Is 1 < 2?", options, correct="no")
    data, _ = shell.display_formatter.format(quiz)
    assert "&lt;b&gt;yes&lt;/b&gt;" in data["text/html"]
    assert "<b>" not in data["text/html"]
    assert "Is 1 &lt; 2?" in quiz.widget.children[0].value


def test_the_widget_is_made_once_and_takes_long_choices(lesson):
    options = {"long": Option(LONG, "a"), "short": Option("short", "b")}
    quiz = Quiz(lesson, "quiz", "Which?", options, correct="short")
    assert quiz.widget is quiz.widget
    control, _, _ = parts(quiz)
    assert control.options[0] == (LONG, "long")
    assert control.layout.width == "100%"
    assert "recmtl-ask" in quiz.widget._dom_classes
    assert "white-space: normal" in quiz.widget.children[0].value


def test_attached_questions_wait_for_what_comes_first(quiz, lesson, shown):
    open_now, answered = [], []
    quiz.attach(lambda: None if open_now else "Look at the evidence.", lambda: answered.append(True))
    control, button, feedback = parts(quiz)
    assert quiz.answer("falls").kind == "unattempted"
    assert control.value is None
    control.value = "falls"
    button.click()
    assert "One step at a time." in feedback.value
    assert lesson.recall("quiz") == {}
    assert answered == []
    open_now.append(True)
    button.click()
    assert quiz.solved
    assert answered == [True]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: Quiz(x, "other", "Which?", CHOICES, "falls"), "key: 'other' is not declared"),
        (lambda x: Predict(x, "other", "Which?", CHOICES), "key: 'other' is not declared"),
        (lambda x: NumberQuiz(x, "other", "Which?", 1, 0, "", "Why."), "key: 'other' is not declared"),
        (lambda x: Predict(x, "predict", " ", CHOICES), "question: got ' '"),
        (lambda x: Predict(x, "predict", "Which?", {"a": Option("a", "b")}), "choices: got .*, expected at least two"),
        (lambda x: Predict(x, "predict", "Which?", ["a", "b"]), "choices: got"),
        (
            lambda x: Predict(x, "predict", "Which?", {"a": "b", "c": "d"}),
            "choices: got 'b' under 'a', expected an Option",
        ),
        (lambda x: Predict(x, "predict", "Which?", {"a": SAME, "b": SAME}), "choices: got the same text twice"),
        (lambda x: Option("", "why"), "text: got ''"),
        (lambda x: Option("a", " "), "why: got ' '"),
        (lambda x: Quiz(x, "quiz", "Which?", CHOICES, "Up"), "correct: got 'Up'"),
        (lambda x: NumberQuiz(x, "number", "How?", float("nan"), 0, "", "Why."), "answer: got nan"),
        (lambda x: NumberQuiz(x, "number", "How?", 1, -0.1, "", "Why."), "tolerance: got -0.1"),
        (lambda x: NumberQuiz(x, "number", "How?", 1, 0, "", ""), "explain: got ''"),
    ],
)
def test_bad_questions_are_refused_by_name(lesson, build, message):
    with pytest.raises(ValueError, match=message):
        build(lesson)


def test_an_error_in_a_callback_fails_the_test(quiz):
    quiz.attach(lambda: None, lambda: 1 / 0)
    control, button, _ = parts(quiz)
    control.value = "falls"
    with pytest.raises(ZeroDivisionError):
        button.click()
