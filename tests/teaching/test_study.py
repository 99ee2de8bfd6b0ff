from types import SimpleNamespace

import ipywidgets as widgets
import pytest

from recmtl_lessons.teaching.lesson import Lesson
from recmtl_lessons.teaching.quiz import Option, Quiz
from recmtl_lessons.teaching.study import KeyPoint, StudyQuestion

POINTS = (
    KeyPoint("reversal", "Reversal", "it turns the gradient round"),
    KeyPoint("both", "Both domains", "alignment needs two"),
)
YES_NO = {"yes": Option("Yes", "It is."), "no": Option("No", "It is not.")}
TRIED = SimpleNamespace(history=[({"lambda": 0.3}, {"AUC": 0.71234567})])
FIRST = "It makes <things> similar."
FINAL = "The REVERSED gradient hides which shop a row is from."


@pytest.fixture
def lesson():
    return Lesson("maml", {"study": "The study question"})


def make(lesson, **changes):
    checks = [Quiz(lesson, f"study/check-{k}", f"Check {k}?", YES_NO, correct="yes") for k in (1, 2)]
    settings = {
        "level": "beginner",
        "question": "How does it work?",
        "evidence_prompt": "Move lambda, and look at the AUC.",
        "checks": checks,
        "points": POINTS,
        "worked": "An encoder and two heads.\n\n- one < two",
        "start": "It works by",
    }
    return StudyQuestion(lesson, "study", **{**settings, **changes})


@pytest.fixture
def study(lesson):
    return make(lesson)


def answer_all(study):
    for check in study.checks:
        check.answer("yes")


STEPS = (
    lambda study: study.first(FIRST),
    lambda study: study.evidence(TRIED),
    answer_all,
    lambda study: study.final(FINAL),
    lambda study: study.worked_answer(),
)


def walk(study, steps):
    """Take the first so many steps."""
    for act in STEPS[:steps]:
        act(study)


def plain(shown):
    return shown[-1][0]["text/plain"]


def test_the_steps_in_order_lead_to_the_worked_answer(study, lesson, shown):
    reached = [study.step]
    states = [lesson.states()["study"]]
    for act in STEPS:
        act(study)
        reached.append(study.step)
        states.append(lesson.states()["study"])
    assert reached == [0, 1, 2, 3, 4, 5]
    assert states == ["untouched", "started", "started", "started", "done", "done"]
    kept = lesson.recall("study")
    assert kept["first"] == FIRST
    assert kept["evidence"] == [{"settings": "lambda 0.3", "result": "AUC 0.7123"}]
    assert kept["final"] == FINAL


@pytest.mark.parametrize(
    ("done", "act", "comes_first"),
    [
        (0, lambda s: s.evidence(TRIED), "Commit your first answer first"),
        (0, lambda s: s.checks[0].answer("yes"), "Commit your first answer first"),
        (0, lambda s: s.final("text"), "Commit your first answer first"),
        (0, lambda s: s.worked_answer(), "Commit your first answer first"),
        (1, lambda s: s.checks[1].answer("yes"), "Record some evidence first"),
        (1, lambda s: s.final("text"), "Record some evidence first"),
        (2, lambda s: s.final("text"), "Answer the concept checks first"),
        (2, lambda s: s.worked_answer(), "Answer the concept checks first"),
        (3, lambda s: s.worked_answer(), "Commit your final answer first"),
        (4, lambda s: s.mark("both", "had"), "Open the worked answer first"),
    ],
)
def test_out_of_order_is_said_and_changes_nothing(study, lesson, shown, progress_folder, done, act, comes_first):
    walk(study, done)
    before = lesson.recall("study"), [lesson.recall(check.key) for check in study.checks]
    assert not act(study)
    assert plain(shown).startswith(f"One step at a time.\n{comes_first}")
    assert (lesson.recall("study"), [lesson.recall(check.key) for check in study.checks]) == before
    assert "An encoder and two heads" not in plain(shown)


def test_every_check_must_be_right_before_the_final_answer(study, shown):
    walk(study, 2)
    study.checks[0].answer("yes")
    study.checks[1].answer("no")
    assert study.step == 2
    study.checks[1].answer("yes")
    assert study.step == 3


def test_no_word_of_the_final_answer_is_looked_for(study, shown):
    walk(study, 4)
    assert "Reversal" not in plain(shown)
    assert "The worked answer is open now" in plain(shown)


def test_the_worked_answer_opens_with_the_points_to_mark(study, lesson, shown):
    walk(study, 5)
    said = plain(shown)
    assert "- Reversal: it turns the gradient round\n- Both domains: alignment needs two" in said
    assert said.index("Both domains") < said.index("An encoder and two heads.")
    study.mark("reversal", "had")
    study.mark("both", "had")
    study.mark("both", "seen")
    assert lesson.recall("study")["marks"] == {"reversal": "had", "both": "seen"}
    study.worked_answer()
    assert "it turns the gradient round (I had this.)" in plain(shown)
    assert "alignment needs two (Now I see it.)" in plain(shown)


def test_the_worked_answer_stands_beside_what_the_learner_did(study, shown):
    walk(study, 5)
    said = plain(shown)
    for part in ("An encoder and two heads.", "- lambda 0.3: AUC 0.7123", FIRST, FINAL):
        assert part in said
    page = shown[-1][0]["text/html"]
    assert "<li>one &lt; two</li>" in page
    assert "It makes &lt;things&gt; similar." in page


def test_answers_stay_once_the_next_thing_was_seen(study, lesson, shown):
    walk(study, 1)
    study.first("Another first answer.")
    assert lesson.recall("study")["first"] == "Another first answer."
    study.evidence(TRIED)
    study.first("Much too late now.")
    assert plain(shown).startswith("Unchanged.")
    assert lesson.recall("study")["first"] == "Another first answer."
    for check in study.checks:
        check.answer("yes")
    study.final("One way to say it.")
    study.final("Another way to say it.")
    study.worked_answer()
    study.final("A third way to say it.")
    assert plain(shown).startswith("Unchanged.")
    assert lesson.recall("study")["final"] == "Another way to say it."


@pytest.mark.parametrize("text", ["  \n", "", "x", "no idea", "a b c d", "reversal!"])
def test_a_few_letters_are_no_answer(study, lesson, shown, text):
    study.first(text)
    assert plain(shown).startswith("No answer yet.")
    assert study.step == 0
    walk(study, 3)
    study.final(text)
    assert plain(shown).startswith("No answer yet.")
    assert study.step == 3


def test_evidence_gathers_and_does_not_repeat_itself(study, lesson, shown):
    walk(study, 2)
    study.evidence(TRIED)
    assert plain(shown).startswith("Recorded already.")
    study.evidence(SimpleNamespace(history=[({"lambda": 1, "rows": 128}, "the AUC\nfell")]))
    assert lesson.recall("study")["evidence"] == [
        {"settings": "lambda 0.3", "result": "AUC 0.7123"},
        {"settings": "lambda 1, rows 128", "result": "the AUC fell"},
    ]


def test_notes_are_kept_and_are_no_evidence(study, lesson, shown):
    walk(study, 1)
    study.note("lambda 0: AUC 0.4")
    study.note("  ")
    assert plain(shown).startswith("Nothing written yet.")
    assert lesson.recall("study")["notes"] == ["lambda 0: AUC 0.4"]
    assert study.step == 1


def test_evidence_comes_from_several_sources(lesson, shown):
    study = make(lesson, evidence_from=[TRIED, SimpleNamespace(history=[({"trained": "my_loss"}, "AUC 0.9")])])
    study.first(FIRST)
    study.evidence()
    assert [record["settings"] for record in lesson.recall("study")["evidence"]] == ["lambda 0.3", "trained my_loss"]


def test_evidence_is_taken_from_an_explorer(lesson, shown):
    explorer = SimpleNamespace(history=[])
    study = make(lesson, evidence_from=explorer)
    study.first(FIRST)
    study.evidence()
    assert plain(shown).startswith("Nothing to record yet.")
    explorer.history += [({"lambda": k}, f"AUC 0.{k}") for k in range(9)]
    explorer.history.append(explorer.history[-1])
    study.evidence()
    kept = lesson.recall("study")["evidence"]
    assert [record["settings"] for record in kept] == [f"lambda {k}" for k in (4, 5, 6, 7, 8)]
    assert study.step == 2


def test_an_explorer_too_early_is_told_what_comes_first(lesson, shown):
    study = make(lesson)
    study.evidence(SimpleNamespace(history=[]))
    assert "Commit your first answer first" in plain(shown)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.first(3), "text: got int, expected your answer in words"),
        (lambda s: s.final(None), "text: got NoneType"),
        (lambda s: s.note(3), "text: got int"),
        (lambda s: s.mark("other", "had"), "point: got 'other', expected one of 'reversal', 'both'"),
        (lambda s: s.mark("both", "maybe"), "as_what: got 'maybe', expected one of 'had', 'seen'"),
        (lambda s: s.evidence(evidence_from=3), "evidence_from: got 3, expected an object with a history"),
    ],
)
def test_bad_input_is_named(study, lesson, call, message):
    with pytest.raises(ValueError, match=message):
        call(study)
    assert lesson.recall("study") == {}


def bodies(study):
    """What each step shows, for the five steps."""
    return study.widget.children[2::2]


def heads(study):
    return [head.value for head in study.widget.children[1::2]]


def test_the_widget_opens_one_step_after_the_other(lesson, shown):
    explorer = SimpleNamespace(history=[({"lambda": 1}, "AUC 0.7")])
    study = make(lesson, evidence_from=explorer)
    steps = bodies(study)

    def is_open():
        return [body.layout.display == "flex" for body in steps]

    assert is_open() == [True, False, False, False, False]
    assert "opens after step 1" in heads(study)[1]
    text, button, said = steps[0].children
    assert text.placeholder == "It works by"
    button.click()
    assert "No answer yet." in said.value
    text.value = FIRST
    button.click()
    assert "Your first answer is kept." in said.value
    assert is_open() == [True, True, False, False, False]
    assert "(done)" in heads(study)[0]

    _, take, note, keep, said, collected = steps[1].children
    keep.click()
    assert "Nothing written yet." in said.value
    note.value = "AUC <0.4> at 0"
    keep.click()
    assert note.value == ""
    assert "AUC &lt;0.4&gt; at 0" in collected.value
    assert is_open() == [True, True, False, False, False]
    take.click()
    assert "lambda 1: AUC 0.7" in collected.value
    assert is_open() == [True, True, True, False, False]

    for check in steps[2].children:
        _, choice, button, _ = check.children
        choice.value = "yes"
        button.click()
    assert is_open() == [True, True, True, True, False]

    text, button, said = steps[3].children
    text.value = FINAL
    button.click()
    assert "Your final answer is kept." in said.value
    assert is_open() == [True] * 5

    button, points, said = steps[4].children
    assert points.layout.display == "none"
    button.click()
    assert points.layout.display == "flex"
    assert "An encoder and two heads." in said.value
    assert "It makes &lt;things&gt; similar." in said.value
    _, first, second = points.children
    assert "Reversal" in first.children[0].value
    second.children[1].value = "seen"
    assert lesson.recall("study")["marks"] == {"both": "seen"}
    assert all("(done)" in head for head in heads(study))
    assert study.step == 5


def test_without_a_source_there_is_no_button_for_one(study):
    buttons = [part for part in bodies(study)[1].children if isinstance(part, widgets.Button)]
    assert [button.description for button in buttons] == ["Keep my note"]


def test_everything_is_there_when_opened_again(study, lesson, shown):
    walk(study, 5)
    study.mark("both", "seen")
    again = make(lesson)
    steps = bodies(again)
    assert steps[0].children[0].value == FIRST
    assert "lambda 0.3: AUC 0.7123" in steps[1].children[-1].value
    assert steps[2].children[0].children[1].value == "yes"
    assert steps[3].children[0].value == FINAL
    assert "An encoder and two heads." in steps[4].children[2].value
    assert [point.children[1].value for point in steps[4].children[1].children[1:]] == [None, "seen"]


def test_showing_again_keeps_what_is_not_committed_yet(study):
    bodies(study)[0].children[0].value = "half a"
    assert bodies(study)[0].children[0].value == "half a"
    assert study.widget is study.widget


def test_cells_and_widget_stay_together(study, shown):
    steps = bodies(study)
    walk(study, 3)
    assert [body.layout.display for body in steps] == ["flex"] * 4 + ["none"]


def test_every_text_box_has_its_label(study):
    boxes = [child for body in bodies(study) for child in body.children if isinstance(child, widgets.Textarea)]
    assert [box.description for box in boxes] == [
        "Your answer",
        "My notes",
        "Your answer",
    ]


def test_a_page_without_a_kernel_reads_the_question_and_its_steps(study, shell):
    data, _ = shell.display_formatter.format(study)
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["text/plain"] == (
        "Study question (beginner): How does it work?\n"
        "  1. Your first answer.\n"
        "  2. Evidence. Move lambda, and look at the AUC.\n"
        "  3. Concept checks. Check 1? / Check 2?\n"
        "  4. Your final answer.\n"
        "  5. A worked answer."
    )
    assert data["text/html"].count("<li>") == 5
    assert "An encoder" not in str(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": "hard"}, "level: got 'hard'"),
        ({"question": ""}, "question: got ''"),
        ({"evidence_prompt": None}, "evidence_prompt: got None"),
        ({"worked": " "}, "worked: got ' '"),
        ({"checks": []}, r"checks: got \[\], expected at least one Quiz"),
        ({"checks": ["a"]}, "expected at least one Quiz"),
        ({"points": ()}, "expected at least one KeyPoint"),
        ({"evidence_from": 3}, "evidence_from: got 3"),
    ],
)
def test_bad_study_questions_are_refused_by_name(lesson, changes, message):
    with pytest.raises(ValueError, match=message):
        make(lesson, **changes)


def test_an_undeclared_key_is_refused(lesson):
    with pytest.raises(ValueError, match="key: 'other' is not declared"):
        StudyQuestion(
            lesson,
            "other",
            level="beginner",
            question="a",
            evidence_prompt="b",
            checks=[],
            points=[],
            worked="c",
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", "n", "why"), "key: got ''"),
        (("k", "", "why"), "name: got ''"),
        (("k", "n", ""), "why: got ''"),
    ],
)
def test_bad_key_points_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        KeyPoint(*arguments)


def test_a_file_of_before_opens_as_far_as_it_came(lesson, shown):
    """Answers, evidence and choices as a progress file held them when answers were searched for words."""
    lesson.record("study", "done", first=FIRST, evidence=[{"settings": "tried lambda 0", "result": "0.4"}], final=FINAL)
    for k in (1, 2):
        lesson.record(f"study/check-{k}", "done", choice="Yes")
    study = make(lesson)
    assert study.step == 4
    study.worked_answer()
    assert "- tried lambda 0: 0.4" in plain(shown)
