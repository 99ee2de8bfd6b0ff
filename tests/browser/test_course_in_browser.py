"""The notebooks as a learner meets them: move everything, answer everything.

Only the cells that show something to move or to answer run here, with those that they need: that every cell runs, and
what it finds, is seen when the notebooks run as tests of their own. For pictures of whole pages, all cells run.
"""

import os
import re
import time

import nbformat
import pytest

from recmtl_lessons.lessons import (
    balancing,
    continual,
    cross_domain_transfer,
    distilled_q,
    domain_adversarial,
    domain_attention,
    federated,
    hierarchical,
    maml,
    policy,
    prototypical,
    reptile,
)
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


def predict(page, expecting, lesson, choice):
    """Commit to the prediction of this key."""
    first, text = page.locator(".recmtl-ask").first, lesson.prediction.choices[choice].text
    first.get_by_role("radio", name=text, exact=True).check()
    first.get_by_role("button", name="Commit").click()
    expecting(first).to_contain_text(f"Your prediction: {text}")


def outermost(page):
    """Questions that are no part of another."""
    return page.locator(".recmtl-ask:not(.recmtl-ask .recmtl-ask)")


def reveal(notebook, more):
    """Run the cell that lays the prediction beside what came out, and those it needs; return what it shows."""
    return str(notebook.run_cell(more(notebook, OUTCOME)[-1]))


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
    notebook.run_all()  # only now: once an outcome was shown, a prediction is none
    for explorer in notebook.explorers:
        explorer.settle()
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
        notebook.committed = nbformat.read(pytestconfig.rootpath / "notebooks" / name, 4)
        notebook.ran = cells = cells_for(notebook.committed, *texts)
        started = time.monotonic()
        for cell in cells:
            notebook.run_cell(cell)
        measured(f"{name}: run its cells", f"{time.monotonic() - started:.1f} s")
        assert notebook.errors() == []
        for explorer in notebook.explorers:
            explorer.settle()
        return notebook

    return run


@pytest.fixture
def more():
    """Run what showed a text when the notebook was committed, and of what it needs those cells that have not run."""

    def run(notebook, text):
        needed = cells_for(notebook.committed, text, widgets=False)
        for cell in needed[:-1]:
            if cell not in notebook.ran:
                notebook.run_cell(cell)
        notebook.ran = sorted({*notebook.ran, *needed})
        return needed

    return run


def test_the_shipped_setting_is_in_force(lab):
    served = lab.get("lab/api/settings/@jupyterlab/apputils-extension:kernels-settings")
    assert served["settings"] == {}  # nobody set it here
    assert served["schema"]["properties"]["commsOverSubshells"]["default"] == "disabled"


def test_start_here(ran, more, expecting, take_picture):
    notebook = ran("00_start_here.ipynb", "0 of 4 done")
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

    assert "Not as you predicted" in reveal(notebook, more)
    show_map = next(k for k, outputs in enumerate(notebook.outputs()) if "0 of 4 done" in str(outputs))
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

    predict(page, expecting, domain_adversarial, "backwards")

    answer_the_study_question(outermost(page).nth(1), expecting, "lam", domain_adversarial.study_question())
    assert every_control_has_a_name(notebook) >= {"radio", "textbox"}  # those that opened on the way
    fits(notebook)
    whole_page(notebook, take_picture, "01")
    assert notebook.errors() == []

    lab.write("map.ipynb", "from recmtl_lessons.lessons import start_here as course", "course.show_map()")
    start_page = open_notebook(lab, "map.ipynb")
    start_page.run_all()
    assert "4 of 7 done" in str(start_page.outputs()[1])  # all but the exercises


RIGHT = """
    shared = Reversal.apply(encoder(torch.cat([home, abroad])), lam)
    domains = torch.tensor([0] * len(home) + [1] * len(abroad))
    task = F.binary_cross_entropy_with_logits(task_head(encoder(home)), clicks)
    return task + F.cross_entropy(domain_classifier(shared), domains)
"""


@pytest.mark.parametrize(
    ("body", "low", "high", "verdict"),
    [
        (RIGHT, 0.8, 1.0, "Right."),
        (RIGHT.replace("Reversal.apply(encoder(torch.cat([home, abroad])), lam)", "encoder(torch.cat([home, abroad]))"),
         0.2, 0.6, "There is no reversal"),
        (RIGHT.replace("clicks)", "clicks[:3])"), None, None, "Your code raised"),
    ],
    ids=["right", "no reversal", "wrong shape"],
)  # fmt: skip
def test_an_objective_of_ones_own_trains(lab, open_notebook, pytestconfig, take_picture, body, low, high, verdict):
    """Right or wrong it trains, and the picture shows where it lands; an error is one line."""
    cells = nbformat.read(pytestconfig.rootpath / "notebooks" / "01_domain_adversarial.ipynb", 4).cells
    imports, reversal, written, trained = (
        next(c.source for c in cells if c.cell_type == "code" and text in c.source)
        for text in ("import torch", "class Reversal", "def my_objective", "exercise_objective.train")
    )
    written = written.replace("    return NotImplemented  # your lines\n", body.lstrip("\n"))
    notebook = open_notebook(lab, lab.write("yours.ipynb", imports, reversal, written, trained))
    notebook.run_all()
    assert notebook.errors() == []
    *_, checked, drawn = notebook.outputs()
    assert verdict in str(checked)
    take_picture(notebook.page, f"01_yours_{verdict.split()[0]}")
    came = re.search(r"Yours, 8 networks: AUC abroad ([\d.]+)", str(drawn))
    if low is None:
        assert came is None
        assert "Your code raised" in str(drawn)
    else:
        assert low < float(came[1]) < high


def test_cross_domain_transfer(ran, more, expecting, take_picture):
    notebook = ran("02_cross_domain_transfer.ipynb")
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

    predict(page, expecting, cross_domain_transfer, "rises")
    assert "As you predicted" in reveal(notebook, more)
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

    predict(page, expecting, domain_attention, "less")
    asked = outermost(page)
    answer_the_study_question(asked.nth(1), expecting, "asked", domain_attention.study_attention())
    answer_the_study_question(asked.nth(2), expecting, "temperature", domain_attention.study_mechanisms())
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

    predict(page, expecting, maml, "larger")
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

    predict(page, expecting, reptile, "joint")
    answer_the_study_question(outermost(page).nth(1), expecting, "meta_lr", reptile.study_question())
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

    predict(page, expecting, prototypical, "twenty")
    answer_the_study_question(outermost(page).nth(1), expecting, "weight", prototypical.study_cold_start())
    fits(notebook)
    whole_page(notebook, take_picture, "06")
    assert notebook.errors() == []


def test_policy(ran, more, expecting, take_picture):
    notebook = ran("07_policy.ipynb")
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

    predict(page, expecting, policy, "six-tenths")
    assert "As you predicted" in reveal(notebook, more)
    answer_the_study_question(outermost(page).nth(1), expecting, "discount", policy.study_question())
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

    predict(page, expecting, distilled_q, "one")
    answer_the_study_question(outermost(page).nth(1), expecting, "temperature", distilled_q.study_question())
    fits(notebook)
    whole_page(notebook, take_picture, "08")
    assert notebook.errors() == []


def test_hierarchical(ran, more, expecting, take_picture):
    notebook = ran("09_hierarchical.ipynb")
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

    predict(page, expecting, hierarchical, "half")
    assert "As you predicted" in reveal(notebook, more)
    answer_the_study_question(outermost(page).nth(1), expecting, "goal_steps", hierarchical.study_question())
    fits(notebook)
    whole_page(notebook, take_picture, "09")
    assert notebook.errors() == []


def test_continual(ran, expecting, take_picture):
    notebook = ran("10_continual.ipynb")
    page = notebook.page
    arrivals, weight = notebook.explorers
    assert every_control_has_a_name(notebook) >= {"slider", "spinbutton", "combobox", "button", "radio", "textbox"}
    speak_of(arrivals)
    move_every_way(arrivals, 2, "relatedness")
    take_picture(arrivals.root, "10_explorer0_after_relatedness")
    for method in continual.METHODS[1:]:
        arrivals.root.get_by_label("Against forgetting").select_option(method)
        arrivals.settle(method=method)
        expecting(arrivals.summary).to_contain_text(f"{method}, strength 0.1" if method == "EWC" else method)
        take_picture(arrivals.root, f"10_explorer0_{method.replace(' ', '_')}")
    arrivals.root.get_by_label("Order", exact=True).select_option("games, films, books")
    arrivals.settle(order="games, films, books")
    expecting(arrivals.summary).to_contain_text("games: AUC")
    arrivals.button("Reset").click()
    arrivals.settle(method="nothing")
    speak_of(arrivals)

    move_all(((weight, ("rank",)),), take_picture, "10")
    weight.root.get_by_label("Importance").select_option("shuffled")
    weight.settle(importance="shuffled")
    take_picture(weight.root, "10_explorer1_shuffled")
    weight.button("New seed").click()
    weight.settle(seed=1)

    predict(page, expecting, continual, "higher")
    asked = outermost(page)
    answer_the_study_question(asked.nth(1), expecting, "relatedness", continual.study_design())
    answer_the_study_question(asked.nth(2), expecting, "rank", continual.study_forgetting())
    fits(notebook)
    whole_page(notebook, take_picture, "10")
    assert notebook.errors() == []


def test_balancing(ran, expecting, take_picture):
    notebook = ran("11_balancing.ipynb")
    page = notebook.page
    arrows, weights, landscape = notebook.explorers
    assert every_control_has_a_name(notebook) >= {"slider", "spinbutton", "combobox", "button", "radio"}
    move_all(((arrows, ("angle", "length")),), take_picture, "11")

    speak_of(weights)
    move_every_way(weights, 0, "relatedness")
    for way in ("MGDA", "CAGrad", "lagging"):
        weights.root.get_by_label("Weights", exact=True).select_option(way)
        weights.settle(way=way)
        expecting(weights.summary).to_contain_text(way)
        take_picture(weights.root, f"11_explorer1_{way}")
    weights.root.get_by_label("Ratings in", exact=True).select_option("spread")
    weights.settle(unit="spread")
    weights.sliders.nth(1).press("Home")
    weights.settle(width=1)
    weights.button("New seed").click()
    weights.settle(seed=1)
    speak_of(weights)

    speak_of(landscape)
    expecting(landscape.summary).to_contain_text("100,000 steps")
    for way in balancing.WAYS_DOWN:
        landscape.root.get_by_label("Direction", exact=True).select_option(way)
        landscape.settle(way=way)
        take_picture(landscape.root, f"11_explorer2_{way}")
    landscape.sliders.nth(0).press("End")
    landscape.settle(rate=0.1)
    expecting(landscape.summary).to_contain_text("after 1,000 steps")
    landscape.root.get_by_label("Start", exact=True).select_option("2")
    landscape.settle(start="2")
    expecting(landscape.summary).to_contain_text("from start 2 the mean")

    predict(page, expecting, balancing, "none")
    check = outermost(page).nth(1)
    choices = balancing.concept_check.choices
    for choice in ("surgery", "divide"):
        check.get_by_role("radio", name=choices[choice].text, exact=True).check()
        check.get_by_role("button", name="Check").click()
        expecting(check).to_contain_text(choices[choice].why[:40])
    fits(notebook)
    whole_page(notebook, take_picture, "11")
    assert notebook.errors() == []


def test_federated(ran, expecting, take_picture):
    notebook = ran("12_federated.ipynb")
    page = notebook.page
    rounds, masks, stream = notebook.explorers
    assert every_control_has_a_name(notebook) >= {"slider", "spinbutton", "combobox", "button", "radio", "textbox"}
    speak_of(rounds)
    move_every_way(rounds, 2, "spread")
    take_picture(rounds.root, "12_explorer0_after_spread")
    rounds.sliders.nth(0).press("Home")
    rounds.settle(local_steps=1)
    expecting(rounds.summary).to_contain_text("no noise and so no epsilon")
    rounds.sliders.nth(3).press("End")
    rounds.settle(noise=4.0)
    expecting(rounds.summary).to_contain_text("epsilon")
    take_picture(rounds.root, "12_explorer0_noise")
    rounds.button("New seed").click()
    rounds.settle(seed=1)

    move_all(((masks, ("client",)),), take_picture, "12")
    masks.root.get_by_label("Who drops out").select_option("2")
    masks.settle(dropped="2")
    expecting(masks.summary).to_contain_text("client 2 dropped out")
    take_picture(masks.root, "12_explorer1_dropped")
    masks.root.get_by_label("The others give shares of the lost key").check()
    masks.settle(shares=True)
    expecting(masks.summary).to_contain_text("e-06 at most")
    masks.root.get_by_label("Masks", exact=True).select_option("floats")
    masks.settle(masks="floats")
    take_picture(masks.root, "12_explorer1_floats")

    speak_of(stream)
    move_every_way(stream, 1, "drift")
    for window in ("10", "30"):
        stream.root.get_by_label("Learn from the last").select_option(window)
        stream.settle(window=window)
    stream.root.get_by_label("Detector").select_option("acted upon")
    stream.settle(alarms="acted upon")
    take_picture(stream.root, "12_explorer2_alarms")

    predict(page, expecting, federated, "federated")
    asked = outermost(page)
    answer_the_study_question(asked.nth(1), expecting, "noise", federated.study_federated())
    answer_the_study_question(asked.nth(2), expecting, "drift", federated.study_realtime())
    fits(notebook)
    whole_page(notebook, take_picture, "12")
    assert notebook.errors() == []


def answer_the_study_question(study, expecting, control, question):
    """All five steps, with the evidence that the explorer above kept, in which ``control`` occurs."""
    press = lambda name: study.get_by_role("button", name=name, exact=True).first.click()  # noqa: E731
    study.get_by_label("Your answer").first.fill("It learns what both shops have in common.")
    press("Commit")
    expecting(study).to_contain_text("Your first answer is kept")
    press("Record what I tried")
    expecting(study).to_contain_text("Recorded so far")
    expecting(study).to_contain_text(control)
    study.get_by_label("My notes").fill("the AUC rose")
    press("Keep my note")
    expecting(study).to_contain_text("Your notes")
    for k, check in enumerate(question.checks):
        option = check.choices[check.correct]
        asked = study.locator(".recmtl-ask").nth(k)
        asked.get_by_role("radio", name=option.text, exact=True).check()
        asked.get_by_role("button", name="Check", exact=True).click()
        expecting(asked).to_contain_text(plain(option.why)[:60])
    study.get_by_label("Your answer").nth(1).fill("In the end it is what both have in common.")
    study.get_by_role("button", name="Commit", exact=True).nth(1).click()
    expecting(study).to_contain_text("Your final answer is kept")
    press("Show the worked answer")
    expecting(study).to_contain_text("Which of them did your answer have?")
    expecting(study).to_contain_text("What you tried")
    study.get_by_role("button", name="I had this", exact=True).first.click()
    seen = study.get_by_role("button", name="Now I see it", exact=True).last
    seen.focus()
    seen.press("Enter")  # by keyboard this time
    expecting(seen).to_have_class(re.compile("mod-active"))


def plain(text):
    """What is read of a text: without the marks of code and emphasis."""
    return re.sub(r"[`*]", "", text)
