"""The notebooks as a learner meets them: move everything, answer everything.

Only the cells that show something to move or to answer run here, with those that they need: that every cell runs, and
what it finds, is seen when the notebooks run as tests of their own. For pictures of whole pages, all cells run.
"""

import os
import re
import time

import nbformat
import pytest

from tests.support.cells import cells_for

WIDGETS = ".recmtl-explorer, .recmtl-ask"


def number(text):
    return float(text)


def move_every_way(explorer, k, name=None):
    """Move one slider by key, by typed number and by mouse; each time the picture must follow.

    ``name`` is the slider's; where there are only sliders, it need not be said.
    """
    slider, field = explorer.sliders.nth(k), explorer.fields.nth(k)
    low, high = (number(field.get_attribute(side)) for side in ("min", "max"))
    name = name or list(explorer.picture)[k]
    last = explorer.stops(k)
    slider.scroll_into_view_if_needed()

    slider.press("Home")
    assert slider.input_value() == "0"
    explorer.settle(**{name: low})
    slider.press("ArrowRight")
    assert slider.input_value() == "1"
    slider.press("ArrowRight")
    slider.press("ArrowLeft")
    assert slider.input_value() == "1"
    slider.press("End")
    assert slider.input_value() == str(last)
    explorer.settle(**{name: high})

    typed = low + 0.3 * (high - low)
    typed = round(typed) if high > 1 else round(typed, 2)
    field.fill(str(typed))
    field.press("Enter")
    explorer.settle(**{name: typed})
    assert number(field.input_value()) == typed

    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    slider.page.mouse.move(box["x"] + 0.3 * box["width"], middle)
    slider.page.mouse.down()
    for share in (0.4, 0.5, 0.6, 0.7):
        slider.page.mouse.move(box["x"] + share * box["width"], middle)
    slider.page.mouse.up()
    assert abs(int(slider.input_value()) - 0.7 * last) < 1.5 + 0.05 * last
    explorer.page.wait_for_function(
        """([image, field, name]) => image.dataset.final === "true"
            && Math.abs(JSON.parse(image.dataset.values)[name] - field.valueAsNumber) <= 1e-3 * field.valueAsNumber""",
        arg=[explorer.image.element_handle(), field.element_handle(), name],
        timeout=30_000,
    )


def move_all(explorers, take_picture, lesson):
    """Move the named sliders of each explorer every way, and look at what it says before and after."""
    for n, (explorer, names) in enumerate(explorers):
        speak_of(explorer)
        for k, name in enumerate(names):
            move_every_way(explorer, k, name)
            take_picture(explorer.root, f"{lesson}_explorer{n}_after_{name}")
        speak_of(explorer)


def predict(page, expecting, choice):
    """Commit to a prediction that begins with these words."""
    first = page.locator(".recmtl-ask").first
    first.get_by_role("radio", name=choice).check()
    first.get_by_role("button", name="Commit").click()
    expecting(first).to_contain_text(f"Your prediction: {choice}")


def speak_of(explorer):
    """What a screen reader is given: the picture in words, and where a slider stands."""
    words = explorer.image.get_attribute("alt")
    assert len(words) > 40
    assert explorer.summary.text_content() == words
    for k in range(explorer.sliders.count()):
        value = explorer.sliders.nth(k).get_attribute("aria-valuetext")
        assert number(re.match(r"\S+", value)[0]) == number(explorer.fields.nth(k).input_value())


def every_control_has_a_name(notebook):
    named = notebook.names_of(WIDGETS)
    assert not [role for role, name in named if not name.strip()]
    return {role for role, _ in named}


def whole_page(notebook, take_picture, name):
    """Pictures of everything, where they are asked for, at two widths, in a window as high as the notebook."""
    if not os.environ.get("RECMTL_SCREENSHOTS"):
        return
    page = notebook.page
    for width in (1280, 800):
        page.set_viewport_size({"width": width, "height": 900})
        height = page.locator(".jp-WindowedPanel-outer").first.evaluate("(panel) => panel.scrollHeight")
        page.set_viewport_size({"width": width, "height": min(height + 200, 16_000)})
        page.locator(".jp-WindowedPanel-outer").first.evaluate("(panel) => { panel.scrollTop = 0; }")
        take_picture(page, f"{name}_page_{width}")
        for k, explorer in enumerate(notebook.explorers):
            explorer.root.scroll_into_view_if_needed()
            take_picture(explorer.root, f"{name}_explorer{k}_{width}")
        for k in range(page.locator(".recmtl-ask").count()):
            page.locator(".recmtl-ask").nth(k).scroll_into_view_if_needed()
            take_picture(page.locator(".recmtl-ask").nth(k), f"{name}_ask{k}_{width}")
    page.set_viewport_size({"width": 1280, "height": 900})


def fits(notebook):
    """Nothing of an explorer sticks out of it, in a narrow window either; there the picture scrolls in its frame."""
    for width in (1280, 800):
        notebook.page.set_viewport_size({"width": width, "height": 900})
        for explorer in notebook.explorers:
            explorer.root.scroll_into_view_if_needed()
            over = explorer.root.evaluate(
                """(root) => [...root.querySelectorAll("*:not(img)")].filter((part) =>
                    part.getBoundingClientRect().right > root.getBoundingClientRect().right + 1).length"""
            )
            assert over == 0
    notebook.page.set_viewport_size({"width": 1280, "height": 900})


OUTCOME = "Prediction and outcome"


@pytest.fixture
def ran(lab, open_notebook, measured, pytestconfig):
    """Open a notebook of the course and run what shows a widget, or showed one of some texts when it was committed."""

    def run(name, *texts):
        notebook = open_notebook(lab, name)
        cells = cells_for(nbformat.read(pytestconfig.rootpath / "notebooks" / name, 4), *texts)
        started = time.monotonic()
        if os.environ.get("RECMTL_SCREENSHOTS"):
            notebook.run_all()
        else:
            for cell in cells:
                notebook.run_cell(cell)
        measured(f"{name}: run its cells", f"{time.monotonic() - started:.1f} s")
        assert notebook.errors() == []
        for explorer in notebook.explorers:
            explorer.settle()
        return notebook

    return run


def test_the_shipped_setting_is_in_force(lab):
    served = lab.get("lab/api/settings/@jupyterlab/apputils-extension:kernels-settings")
    assert served["settings"] == {}  # nobody set it here
    assert served["schema"]["properties"]["commsOverSubshells"]["default"] == "disabled"


def test_start_here(ran, expecting, take_picture):
    notebook = ran("00_start_here.ipynb", OUTCOME, "0 of 4 done")
    page = notebook.page
    (explorer,) = notebook.explorers
    assert every_control_has_a_name(notebook) == {"slider", "spinbutton", "button", "radio"}
    speak_of(explorer)
    take_picture(page, "00_window_top")

    before = explorer.summary.text_content()
    for k in range(explorer.sliders.count()):
        move_every_way(explorer, k)
        take_picture(explorer.root, f"00_world_after_slider{k}")
    speak_of(explorer)
    assert explorer.summary.text_content() != before
    explorer.button("New seed").click()
    explorer.settle(seed=1)
    explorer.button("Reset").click()
    explorer.settle(seed=0)
    expecting(explorer.summary).to_have_text(before)

    predict, quiz = page.locator(".recmtl-ask").all()
    predict.get_by_role("button", name="Commit").click()
    expecting(predict).to_contain_text("Nothing chosen yet")
    predict.get_by_role("radio", name="About 70 %").check()
    predict.get_by_role("button", name="Commit").click()
    expecting(predict).to_contain_text("Your prediction: About 70 %")
    quiz.get_by_role("radio", name="There is no effect").check()
    quiz.get_by_role("button", name="Check").click()
    expecting(quiz).to_contain_text("0.07 is as compatible")
    right = quiz.get_by_role("radio", name="These seeds cannot tell")
    right.focus()
    right.press("Space")  # by keyboard this time
    quiz.get_by_role("button", name="Check").press("Enter")
    expecting(quiz).to_contain_text("Zero lies inside the interval")

    cells = notebook.outputs()
    revealed = next(k for k, outputs in enumerate(cells) if OUTCOME in str(outputs))
    assert "Not as you predicted" in str(notebook.run_cell(revealed))
    show_map = next(k for k, outputs in enumerate(cells) if "0 of 4 done" in str(outputs))
    assert "3 of 4 done" in str(notebook.run_cell(show_map))

    fits(notebook)
    whole_page(notebook, take_picture, "00")


def test_domain_adversarial(ran, lab, open_notebook, expecting, take_picture):
    notebook = ran("01_domain_adversarial.ipynb")
    page = notebook.page
    lam, schedule = notebook.explorers
    assert every_control_has_a_name(notebook) >= {"slider", "spinbutton", "button", "radio", "textbox"}
    for n, explorer in enumerate((lam, schedule)):
        speak_of(explorer)
        for k in range(explorer.sliders.count()):
            move_every_way(explorer, k)
            take_picture(explorer.root, f"01_explorer{n}_after_slider{k}")
        speak_of(explorer)

    predict(page, expecting, "Below 0.50")

    answer_the_study_question(
        page.locator(".recmtl-ask").nth(1), expecting, "lam",
        ("Those of the encoder, and of no other", "This one classifier cannot", "It stays"),
        "this lesson's negative control",
        "One encoder is shared. A domain classifier tries to tell the domains apart; its gradient is reversed on the "
        "way back, times lambda. Labels come from the source only. It fails where nothing common remains.",
    )  # fmt: skip
    assert every_control_has_a_name(notebook) >= {"radio", "textbox"}  # those that opened on the way
    fits(notebook)
    whole_page(notebook, take_picture, "01")
    assert notebook.errors() == []

    lab.write("map.ipynb", "from recmtl_lessons.lessons import start_here as course", "course.show_map()")
    start_page = open_notebook(lab, "map.ipynb")
    start_page.run_all()
    assert "4 of 7 done" in str(start_page.outputs()[1])  # all but the exercises


def test_cross_domain_transfer(ran, expecting, take_picture):
    notebook = ran("02_cross_domain_transfer.ipynb", OUTCOME)
    page = notebook.page
    assert every_control_has_a_name(notebook) >= {"slider", "spinbutton", "button", "radio"}
    for n, explorer in enumerate(notebook.explorers):
        speak_of(explorer)
        for k in range(explorer.sliders.count()):
            move_every_way(explorer, k)
            take_picture(explorer.root, f"02_explorer{n}_after_slider{k}")
        speak_of(explorer)
        explorer.button("New seed").click()
        explorer.settle(seed=1)
    assert n == 1

    predict(page, expecting, "It rises: the films")
    cells = notebook.outputs()
    revealed = next(k for k, outputs in enumerate(cells) if OUTCOME in str(outputs))
    assert "As you predicted" in str(notebook.run_cell(revealed))
    fits(notebook)
    whole_page(notebook, take_picture, "02")
    assert notebook.errors() == []


def test_domain_attention(ran, expecting, take_picture):
    notebook = ran("03_domain_attention.ipynb")
    page = notebook.page
    look, training = notebook.explorers
    assert every_control_has_a_name(notebook) >= {"slider", "spinbutton", "combobox", "button", "radio", "textbox"}
    for n, (explorer, names) in enumerate(((look, ("user", "length")), (training, ("temperature", "attention_dim")))):
        speak_of(explorer)
        for k, name in enumerate(names):
            move_every_way(explorer, k, name)
            take_picture(explorer.root, f"03_explorer{n}_after_slider{k}")
        speak_of(explorer)
    look.root.get_by_label("Shop asked about").select_option("games")
    look.settle(asked="games")
    for shop in ("films", "books", "none"):
        look.root.get_by_label("Take out").select_option(shop)
        look.settle(out=shop)
        take_picture(look.root, f"03_without_{shop}")

    predict = page.locator(".recmtl-ask").first
    predict.get_by_role("radio").nth(1).check()
    predict.get_by_role("button", name="Commit").click()
    expecting(predict).to_contain_text("Your prediction:")
    asked = page.locator(".recmtl-ask:not(.recmtl-ask .recmtl-ask)")
    answer_the_study_question(
        asked.nth(1), expecting, "asked",
        ("The other shops share it", "Yes, by weighing long histories", "The score can do without it"),
        "Yes, and no more than that",
        "The shop asked about makes a query, each history a key and a value. The weights sum to 1. They are learned "
        "from the clicks and follow how related the shops are. A long history gets more. Missing ones are masked.",
    )  # fmt: skip
    answer_the_study_question(
        asked.nth(2), expecting, "temperature",
        ("Features that are made to hide the shop", "Aligning features, by an opponent", "It weighs the sources"),
        "copes with those that are missing",
        "Adversarial training hides the domain in the features. MMD is a distance between distributions. Shared users "
        "need overlap. Attention weighs several sources for each user. It fails where alike means something else.",
    )  # fmt: skip
    fits(notebook)
    whole_page(notebook, take_picture, "03")
    assert notebook.errors() == []


def test_maml(ran, expecting, take_picture):
    notebook = ran("04_maml.ipynb")
    page = notebook.page
    waves, path, desk = notebook.explorers
    assert every_control_has_a_name(notebook) >= {"slider", "spinbutton", "combobox", "button", "radio"}
    explorers = ((waves, ("step", "points", "amplitude", "phase")), (path, ("rate", "steps", "shots", "user")))
    move_all(explorers, take_picture, "04")
    for start in ("first-order MAML", "joint training"):
        path.root.get_by_label("Starting point").select_option(start)
        path.settle(start=start)
    typed = {"rate": 2.0, "steps": 10}
    for k, value in enumerate(typed.values()):
        path.fields.nth(k).fill(str(value))
        path.fields.nth(k).press("Enter")
    path.settle(**typed)
    assert "diverge" in path.summary.text_content()
    take_picture(path.root, "04_explorer1_diverged")
    speak_of(path)

    speak_of(desk)
    films = list(desk.picture)[: desk.sliders.count() - 1]
    for k in range(desk.sliders.count()):
        move_every_way(desk, k)
    for k in range(len(films)):
        desk.fields.nth(k).fill("0")
        desk.fields.nth(k).press("Enter")
    desk.settle(**dict.fromkeys(films, 0))
    take_picture(desk.root, "04_explorer2_nothing_rated")
    speak_of(desk)

    predict(page, expecting, "smaller")
    fits(notebook)
    whole_page(notebook, take_picture, "04")
    assert notebook.errors() == []


def test_reptile(ran, expecting, take_picture):
    notebook = ran("05_reptile.ipynb")
    page = notebook.page
    plane, race = notebook.explorers
    assert every_control_has_a_name(notebook) >= {"slider", "spinbutton", "combobox", "button", "radio", "textbox"}
    explorers = ((plane, ("inner_steps", "inner_lr", "meta_lr", "update")), (race, ("inner_steps", "meta_lr")))
    move_all(explorers, take_picture, "05")
    race.root.get_by_label("Both may use").select_option("as many seconds")
    race.settle(budget="as many seconds")
    race.root.get_by_label("Against").select_option("first-order MAML")
    race.settle(rival="first-order MAML")
    take_picture(race.root, "05_equal_seconds")
    race.button("New seed").click()
    race.settle(seed=1)

    predict(page, expecting, "Joint training")
    answer_the_study_question(
        page.locator(".recmtl-ask:not(.recmtl-ask .recmtl-ask)").nth(1), expecting, "meta_lr",
        ("MAML: the gradient", "It about doubles for MAML", "How each gradient changes"),
        "No second derivative is ever computed for it",
        "Both learn a starting point. MAML follows the gradient of the query loss back through the steps, with second "
        "derivatives and more memory. Reptile moves towards where the steps end. With one step it is joint training.",
    )  # fmt: skip
    fits(notebook)
    whole_page(notebook, take_picture, "05")
    assert notebook.errors() == []


def test_prototypical(ran, expecting, take_picture):
    notebook = ran("06_prototypical.ipynb")
    page = notebook.page
    plane, pull = notebook.explorers
    assert every_control_has_a_name(notebook) >= {"slider", "spinbutton", "combobox", "button", "radio", "textbox"}
    explorers = ((plane, ("updates", "ways", "shots", "right", "up")), (pull, ("count", "weight")))
    move_all(explorers, take_picture, "06")
    plane.root.get_by_label("Move an item of shelf").select_option("C")
    plane.settle(shelf="C")
    take_picture(plane.root, "06_explorer0_shelf_c")
    plane.button("New seed").click()
    plane.settle(seed=1)
    pull.root.get_by_label("Users of").select_option("shop")
    pull.settle(where="shop")

    predict(page, expecting, "One episode of 20")
    answer_the_study_question(
        page.locator(".recmtl-ask:not(.recmtl-ask .recmtl-ask)").nth(1), expecting, "weight",
        ("What holds for everybody", "On validation users", "They may be worth nothing"),
        "sorted hardly better than guessing",
        "Users are tasks with support and query. The encoder is shared by all. Before the first rating everybody's "
        "answer is served. Few ratings are pulled towards everybody's prototypes, many are believed. Settings are "
        "chosen on validation users, and it is judged on test users, against the mean.",
    )  # fmt: skip
    fits(notebook)
    whole_page(notebook, take_picture, "06")
    assert notebook.errors() == []


def test_policy(ran, expecting, take_picture):
    notebook = ran("07_policy.ipynb", OUTCOME)
    page = notebook.page
    session, training = notebook.explorers
    assert every_control_has_a_name(notebook) >= {"slider", "spinbutton", "combobox", "button", "radio", "textbox"}
    move_all(((session, ("user", "step")),), take_picture, "07")
    for actor in ("myopic bandit", "best possible", "chance"):
        session.root.get_by_label("Who acts").select_option(actor)
        session.settle(actor=actor)
        expecting(session.summary).to_contain_text(f"On home, acting: {actor}")
    for task in ("search", "notify"):
        session.root.get_by_label("Surface").select_option(task)
        session.settle(task=task)
        take_picture(session.root, f"07_explorer0_{task}")
    session.button("New seed").click()
    session.settle(seed=1)
    speak_of(training)
    for k, name in ((1, "discount"), (2, "sharing")):
        move_every_way(training, k, name)
        take_picture(training.root, f"07_explorer1_after_{name}")
    training.button("Reset").click()
    training.settle(discount=0.9, sharing=1)
    for k, name in enumerate(("entropy", "discount", "sharing", "satiation")):
        training.fields.nth(k).fill("0")
        training.fields.nth(k).press("Enter")
        training.settle(**{name: 0})
    expecting(training.summary).to_contain_text("Entropy bonus 0, discount 0, sharing 0, satiation 0")
    speak_of(training)
    take_picture(training.root, "07_explorer1_nothing_left")

    predict(page, expecting, "About six tenths")
    cells = notebook.outputs()
    revealed = next(k for k, outputs in enumerate(cells) if OUTCOME in str(outputs))
    assert "As you predicted" in str(notebook.run_cell(revealed))
    answer_the_study_question(
        page.locator(".recmtl-ask:not(.recmtl-ask .recmtl-ask)").nth(1), expecting, "discount",
        ("It goes: what is shown", "The reward plus the discounted value", "About as much as one network"),
        "On 48 others it cost a little",
        "What is shown satiates the user, so the harm comes later and a myopic bandit does not see it. Tastes are "
        "hidden. There are few sessions, and exploring costs. Tasks may help or interfere, each with its own actions. "
        "At a time limit one must bootstrap. Compare with a bandit and with the optimum.",
    )  # fmt: skip
    fits(notebook)
    whole_page(notebook, take_picture, "07")
    assert notebook.errors() == []


def test_distilled_q(ran, expecting, take_picture):
    notebook = ran("08_distilled_q.ipynb")
    page = notebook.page
    school, looks = notebook.explorers
    assert every_control_has_a_name(notebook) >= {"slider", "spinbutton", "combobox", "button", "radio", "textbox"}
    explorers = ((school, ("temperature", "weight", "user", "step")), (looks, ("user", "step")))
    move_all(explorers, take_picture, "08")
    for explorer in (school, looks):
        explorer.root.get_by_label("Session on").select_option("search")
        explorer.settle(task="search")
    looks.root.get_by_label("Head").select_option("second")
    looks.settle(head="second")
    looks.root.get_by_label("The student is").select_option("before training")
    looks.settle(when="before training")
    take_picture(looks.root, "08_explorer1_before_training")
    school.fields.nth(0).fill("0.03")
    school.fields.nth(0).press("Enter")
    school.fields.nth(1).fill("0")
    school.fields.nth(1).press("Enter")
    school.settle(temperature=0.03, weight=0)
    take_picture(school.root, "08_explorer0_rewards_alone")
    speak_of(school)

    predict(page, expecting, "T = 1")
    answer_the_study_question(
        page.locator(".recmtl-ask:not(.recmtl-ask .recmtl-ask)").nth(1), expecting, "temperature",
        ("How good every other action is", "The distillation's gradient falls", "It does as its teacher does"),
        "It falls as 1/T²",
        "A teacher for each task, and one student for all of them. It learns the probabilities of all actions from its "
        "teachers. A low temperature leaves the best action alone. It needs fewer parameters, and it learns its "
        "teachers' mistakes too.",
    )  # fmt: skip
    fits(notebook)
    whole_page(notebook, take_picture, "08")
    assert notebook.errors() == []


def test_hierarchical(ran, expecting, take_picture):
    notebook = ran("09_hierarchical.ipynb", OUTCOME)
    page = notebook.page
    by_hand, training = notebook.explorers
    assert every_control_has_a_name(notebook) >= {"slider", "spinbutton", "combobox", "button", "radio", "textbox"}
    move_all(((by_hand, ("user",)),), take_picture, "09")
    for k, (label, goal) in enumerate((("First", "music"), ("Second", "sport"), ("Third", "news"))):
        by_hand.root.get_by_label(f"{label} goal").select_option(goal)
        by_hand.settle(**{f"goal_{k + 1}": goal})
    expecting(by_hand.summary).to_contain_text("music (you) from step 1")
    take_picture(by_hand.root, "09_explorer0_all_mine")
    by_hand.button("New seed").click()
    by_hand.settle(seed=1)
    speak_of(training)
    for k, name in enumerate(("goal_steps", "clicks_needed")):
        move_every_way(training, k, name)
        take_picture(training.root, f"09_explorer1_after_{name}")
    speak_of(training)
    training.button("Reset").click()
    training.settle(goal_steps=20, clicks_needed=8)

    predict(page, expecting, "About 0.1")
    cells = notebook.outputs()
    revealed = next(k for k, outputs in enumerate(cells) if OUTCOME in str(outputs))
    assert "As you predicted" in str(notebook.run_cell(revealed))
    answer_the_study_question(
        page.locator(".recmtl-ask:not(.recmtl-ask .recmtl-ask)").nth(1), expecting, "goal_steps",
        ("From the first: there it chose", "It prefers goals that are easily reached", "γ to the power of k times V"),
        "The same discount a step as in a flat policy",
        "A meta-controller chooses a goal, which is kept for several steps. The goal's controller chooses actions and "
        "is paid intrinsic reward. The meta-controller gets the environment's rewards, with a semi-Markov target. It "
        "helps when rewards are late, and it rests on well designed goals.",
    )  # fmt: skip
    fits(notebook)
    whole_page(notebook, take_picture, "09")
    assert notebook.errors() == []


def answer_the_study_question(study, expecting, control, choices, explanation, answer):
    """All five steps, with the evidence that the explorer above kept, in which ``control`` occurs."""
    press = lambda name: study.get_by_role("button", name=name, exact=True).click()  # noqa: E731
    study.get_by_label("Your answer").first.fill("It learns what both shops have in common.")
    press("Commit")
    expecting(study).to_contain_text("Your first answer is kept")
    press("Record what I tried in the explorer")
    expecting(study).to_contain_text("Recorded so far")
    expecting(study).to_contain_text(control)
    study.get_by_label("What I tried").fill("0.3 by hand")
    study.get_by_label("What came out").fill("the AUC rose")
    press("Record")
    expecting(study).to_contain_text("the AUC rose")
    for k, choice in enumerate(choices):
        check = study.locator(".recmtl-ask").nth(k)
        check.get_by_role("radio", name=choice).check()
        check.get_by_role("button", name="Check", exact=True).click()
    expecting(study).to_contain_text(explanation)
    study.get_by_label("Your answer").nth(1).fill(answer)
    press("Commit and weigh")
    expecting(study).to_contain_text("Your answer touches")
    press("Show the worked answer")
    expecting(study).to_contain_text("What you tried")
