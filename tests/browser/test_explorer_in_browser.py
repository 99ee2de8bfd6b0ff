"""Explorers under a hand: how fast they answer, and what no hand may do to them."""

import json
import random
import statistics
import time

import pytest

CHEAP = """
import math
from recmtl_lessons.teaching import Choice, Explorer, Lesson, Running, Slider, Toggle, style
LESSON = Lesson("trial", {"cheap": "Cheap", "long": "Long", "failing": "Failing", "slow": "Slow"})

def compute(x, kind, steep):
    return [getattr(math, kind)(x * (2 if steep else 1) * k / 50) for k in range(300)]

def draw(curve, figure, controls):
    left, right = style.panels(figure, 2)
    left.plot(curve)
    left.set(xlabel="k", title="Curve", ylim=(-1.1, 1.1))
    right.plot(curve[:-25], curve[25:])
    right.set(title="Against itself", xlim=(-1.1, 1.1), ylim=(-1.1, 1.1))

cheap = Explorer(
    lesson=LESSON, key="cheap", title="Cheap", compute=compute, draw=draw,
    controls=[Slider("x", "Frequency", [k / 4 for k in range(81)], 1.0, "Hz"),
              Choice("kind", "Kind", ["sin", "cos"], "sin"), Toggle("steep", "Twice as steep")],
    describe=lambda curve, controls: f"A curve that ends at {curve[-1]:.3f}.",
)
cheap
"""

LONG = """
import time
def train(x, seed):
    for step in range(1, 1001):
        time.sleep(0.003)
        yield Running(step, 1000, lambda step=step: (x, seed, step))
    return x, seed, 1000

def draw_steps(result, figure, controls):
    (axis,) = style.panels(figure, 1)
    axis.plot([0, result[2]], [0, result[2]])
    axis.set(xlim=(0, 1000), ylim=(0, 1000), title=f"x = {result[0]}, seed {result[1]}")

long = Explorer(
    lesson=LESSON, key="long", title="Long", controls=[Slider("x", "Rate", range(21), 10)], compute=train,
    draw=draw_steps, describe=lambda result, controls: f"After {result[2]} steps at {result[0]}.", seeded=True,
)
long
"""

FAILING = """
def fail_at_three(x):
    if x == 3:
        raise ValueError("three: this cannot be computed, choose another number\\nand a second line")
    return x, 0, 100

Explorer(
    lesson=LESSON, key="failing", title="Failing", controls=[Slider("x", "Number", range(9), 1)],
    compute=fail_at_three, draw=draw_steps, describe=lambda result, controls: f"It is {result[0]}.",
)
"""

KERNEL = """
import gc, os, sys, psutil
from matplotlib.figure import Figure
gc.collect()
open_figures = len(sys.modules["matplotlib.pyplot"].get_fignums()) if "matplotlib.pyplot" in sys.modules else 0
figures = sum(isinstance(thing, Figure) for thing in gc.get_objects())
print(psutil.Process().memory_info().rss // 1_000_000, figures, open_figures)
"""

REAL = """
from recmtl_lessons.lessons import domain_adversarial as lesson
lesson.explore_schedule()
"""


@pytest.fixture
def opened(lab, open_notebook, request):
    """Write a notebook of these cells, open it, and run all."""

    def open_one(*cells, on=lab, wide=1280):
        notebook = open_notebook(on, on.write(f"{request.node.name.split('[')[0]}.ipynb", *cells), width=wide)
        notebook.run_all()
        assert notebook.errors() == []
        for explorer in notebook.explorers:
            explorer.settle()
        return notebook

    return open_one


def in_ms(times):
    """Median and 90 % of times in milliseconds."""
    ordered = sorted(times)
    return f"{statistics.median(ordered):.0f} / {ordered[int(0.9 * len(ordered))]:.0f} ms"


def press_and_time(explorer, watch, key, times):
    """Press a key on the slider so many times, each after the last picture came; return key-to-picture times."""
    slider, taken = explorer.sliders.first, []
    for _ in range(times):
        seen = len(watch.read()["pictures"])
        slider.press(key)
        explorer.page.wait_for_function(
            "([log, seen]) => log.pictures.length > seen", arg=[watch.log, seen], polling="raf"
        )
        log = watch.read()
        taken.append(log["pictures"][seen]["at"] - log["keys"][-1])
    return taken


def never_empty(log):
    assert log["samples"] > 10
    assert log["empty"] == 0


def test_a_cheap_picture_follows_the_key(opened, measured):
    notebook = opened(CHEAP, "cheap.wait()")
    (explorer,) = notebook.explorers
    watch = explorer.watch()
    explorer.sliders.first.press("Home")
    explorer.settle(x=0)
    new = press_and_time(explorer, watch, "ArrowRight", 30)
    seen = len(watch.read()["pictures"])
    back = press_and_time(explorer, watch, "ArrowLeft", 30)
    measured("key to new picture, drawn in the kernel (median / 90 %)", in_ms(new))
    measured("key to a picture seen before (median / 90 %)", in_ms(back))
    explorer.settle(x=0)
    notebook.run_cell(1)  # behind every move in the kernel's queue, so all its pictures have arrived
    log = watch.end()
    shown = [json.loads(picture["values"])["x"] for picture in log["pictures"][seen:]]
    assert shown == [k / 4 for k in reversed(range(30))]  # never back to a picture of an earlier move
    never_empty(log)


def test_every_kind_of_control_works(opened, expecting, take_picture):
    notebook = opened(CHEAP)
    (explorer,) = notebook.explorers
    root = explorer.root
    root.get_by_label("Kind").select_option("cos")
    explorer.settle(kind="cos")
    kind = root.get_by_label("Kind")
    kind.focus()
    kind.press("ArrowUp")
    explorer.settle(kind="sin")
    box = root.get_by_label("Twice as steep")
    box.check()
    explorer.settle(steep=True)
    box.press("Space")
    explorer.settle(steep=False)

    field = root.get_by_label("Frequency, typed in Hz")
    for typed, taken in (("3.3", 3.3), ("99", 20), ("-4", 0), ("", 0)):
        field.fill(typed)
        field.press("Enter")
        explorer.settle(x=taken)
        expecting(field).to_have_value(str(taken))
    explorer.button("Reset").click()
    explorer.settle(x=1, kind="sin", steep=False)
    expecting(field).to_have_value("1")
    assert {role for role, name in notebook.names_of(".recmtl-explorer") if name} >= {"combobox", "checkbox"}
    take_picture(root, "cheap")


def test_a_training_shows_that_it_runs_how_far_and_what_came(opened, measured, expecting, take_picture):
    notebook = opened("from recmtl_lessons.lessons import domain_adversarial as lesson", REAL)
    (explorer,) = notebook.explorers
    watch = explorer.watch()
    progress, first, end = [], [], []
    for key, gamma in (("Home", 0), ("End", 40), ("PageDown", None)):
        before = watch.read()
        explorer.sliders.first.press(key)
        expecting(explorer.status).to_contain_text("step")
        take_picture(explorer.root, f"training_{key}")
        explorer.settle(**({} if gamma is None else {"gamma": gamma}))
        explorer.page.wait_for_function(
            "([log, seen]) => log.pictures.slice(seen).some((p) => p.final)",
            arg=[watch.log, len(before["pictures"])],
        )
        log = watch.read()
        pressed = log["keys"][-1]
        pictures = log["pictures"][len(before["pictures"]) :]
        assert [p["final"] for p in pictures] == [False] * (len(pictures) - 1) + [True]
        assert len(pictures) > 1  # its curve while it ran
        progress.append(next(p["at"] for p in log["progress"][len(before["progress"]) :] if p["busy"]) - pressed)
        first.append(pictures[0]["at"] - pressed)
        end.append(pictures[-1]["at"] - pressed)
    measured("key to progress of a training (median / 90 %)", in_ms(progress))
    measured("key to the first curve of a training (median / 90 %)", in_ms(first))
    measured("key to the end of a training (median / 90 %)", in_ms(end))
    never_empty(watch.end())


def test_stop_new_seed_and_reset(opened, expecting, take_picture):
    notebook = opened(CHEAP, LONG, "print('alive')")
    explorer = notebook.explorers[1]
    expecting(explorer.button("Stop")).to_be_disabled()
    watch = explorer.watch()
    explorer.sliders.first.press("End")
    expecting(explorer.status).to_contain_text("step")
    take_picture(explorer.root, "running")
    expecting(explorer.button("Stop")).to_be_enabled()
    assert "alive" in str(notebook.run_cell(2))  # the page and the kernel go on while it trains
    expecting(explorer.button("Stop")).to_be_enabled()
    explorer.button("Stop").click()
    expecting(explorer.status).to_contain_text("stopped at step")
    expecting(explorer.button("Stop")).to_be_disabled()
    expecting(explorer.image).to_have_attribute("data-final", "false")
    take_picture(explorer.root, "stopped")
    steps = int(explorer.image.get_attribute("alt").split()[1])
    assert 0 < steps < 1000
    expecting(explorer.summary).to_have_text(f"After {steps} steps at 20.")
    assert "alive" in str(notebook.run_cell(2))

    explorer.button("New seed").click()
    explorer.settle(x=20, seed=1)
    assert explorer.image.get_attribute("alt") == "After 1000 steps at 20."
    explorer.button("Reset").press("Enter")
    explorer.settle(x=10, seed=0)
    expecting(explorer.fields.first).to_have_value("10")
    never_empty(watch.end())


def test_a_new_move_ends_the_training_before_it(opened):
    notebook = opened(CHEAP, LONG, "print([values for values, _ in long.history])")
    explorer = notebook.explorers[1]
    watch = explorer.watch()
    for key in ("Home", "End", "Home", "ArrowRight"):
        explorer.sliders.first.press(key)
        time.sleep(0.4)
    explorer.settle(x=1)
    finished = [picture["values"] for picture in watch.end()["pictures"] if picture["final"]]
    assert finished == ['{"x":1,"seed":0}']
    notebook.run_cell(2)
    assert notebook.text(2).strip() == "[{'x': 1, 'seed': 0}]"


@pytest.mark.parametrize("which", ["cheap", "long"])
def test_two_hundred_random_moves_in_ten_seconds(opened, measured, which):
    notebook = opened(CHEAP, LONG, KERNEL)
    explorer = notebook.explorers[which == "long"]
    explorer.sliders.first.press("Home")
    explorer.settle(x=0)
    notebook.run_cell(2)
    before = [int(number) for number in notebook.text(2).split()]
    watch = explorer.watch()
    rng = random.Random(4)
    places = [rng.randrange(explorer.stops(0) + 1) for _ in range(199)] + [13]
    explorer.sliders.first.evaluate(
        """async (slider, places) => {
            const begun = performance.now();
            for (const [k, place] of places.entries()) {
                slider.value = place;
                slider.dispatchEvent(new Event("input", { bubbles: true }));
                await new Promise((next) => setTimeout(next, begun + 50 * (k + 1) - performance.now()));
            }
        }""",
        places,
    )
    let_go = time.monotonic()
    explorer.settle(x=13 if which == "long" else 13 / 4)
    lag = time.monotonic() - let_go
    log = watch.end()
    never_empty(log)
    assert explorer.status.inner_text() == ""
    notebook.run_cell(2)
    after = [int(number) for number in notebook.text(2).split()]
    assert after[1:] == before[1:]  # no figure more than before, none open in pyplot
    assert after[0] - before[0] < 150
    measured(f"200 moves in 10 s, {which}: pictures shown", len(log["pictures"]))
    measured(f"200 moves in 10 s, {which}: last picture after the last move", f"{1000 * lag:.0f} ms")
    measured(f"200 moves in 10 s, {which}: kernel memory before, after", f"{before[0]}, {after[0]} MB")


def test_a_failing_computation_is_one_line_and_the_next_move_works(opened, expecting, take_picture):
    notebook = opened(CHEAP, LONG, FAILING)
    explorer = notebook.explorers[2]
    watch = explorer.watch()
    slider = explorer.sliders.first
    slider.press("ArrowRight")
    explorer.settle(x=2)
    slider.press("ArrowRight")
    alert = explorer.root.get_by_role("alert")
    expecting(alert).to_have_text("ValueError: three: this cannot be computed, choose another number")
    assert explorer.picture == {"x": 2}
    take_picture(explorer.root, "failing")
    assert alert.bounding_box()["height"] < 30  # one line
    slider.press("ArrowRight")
    explorer.settle(x=4)
    expecting(alert).to_have_count(0)
    expecting(explorer.status).to_have_text("")
    never_empty(watch.end())
    assert notebook.errors() == []


# Moving while another cell draws

PLAIN_FIGURES = """
import time
import numpy as np
from matplotlib import pyplot
for k in range(12):
    pyplot.figure(figsize=(4, 2))
    for n in range(1, 4):
        pyplot.plot(np.sin(np.linspace(0, 6, 200) * n + k), label=f"line {n}")
        time.sleep(0.01)
    pyplot.title(f"figure {k}")
    pyplot.legend()
    pyplot.show()
"""

COURSE_FIGURES = """
for k in range(12):
    figure = style.new_figure(4, 2)
    for n in range(1, 4):
        (axis,) = figure.axes or figure.subplots(1, 1, squeeze=False)[0]
        axis.plot([np.sin(j / 30 * n + k) for j in range(200)], label=f"line {n}")
        time.sleep(0.01)
    axis.set_title(f"figure {k}")
    axis.legend()
    style.show(figure, alt=f"Three lines, figure {k}")
"""


def figures_of(outputs):
    return [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]


MOVE_WHILE_IT_RUNS = """async ([slider, cell]) => {
    const model = window.jupyterapp.shell.currentWidget.content.model.cells.get(cell);
    const move = (place) => {
        slider.value = place;
        slider.dispatchEvent(new Event("input", { bubbles: true }));
    };
    let moves = 0;
    while (model.executionState === "running") {
        move((7 * moves++) % 81);
        await new Promise((next) => setTimeout(next, 25));
    }
    move(77);
    return moves;
}"""
PIXELS = "async (image) => Array.from(new Uint8Array(await (await fetch(image.src)).arrayBuffer())).join()"


def draw_while_moving(notebook, cell):
    """Run a cell and move the explorer's slider until it ends; return the cell's figures."""
    notebook.start_cell(cell)
    notebook.page.wait_for_function(
        "(cell) => window.jupyterapp.shell.currentWidget.content.model.cells.get(cell).executionState === 'running'",
        arg=cell,
        polling=5,
    )
    slider = notebook.explorers[0].sliders.first.element_handle()
    assert notebook.page.evaluate(MOVE_WHILE_IT_RUNS, [slider, cell]) > 10
    notebook.wait_for_cells()
    return figures_of(notebook.outputs()[cell])


@pytest.mark.parametrize(("kind", "cell"), [("plain", 1), ("course", 2)])
def test_moving_while_a_cell_draws_corrupts_neither(opened, kind, cell):
    notebook = opened(CHEAP, PLAIN_FIGURES, COURSE_FIGURES)
    (explorer,) = notebook.explorers
    undisturbed = figures_of(notebook.outputs()[cell])
    assert len(set(undisturbed)) == 12
    explorer.sliders.first.evaluate("(slider) => { slider.value = 77; slider.dispatchEvent(new Event('input')); }")
    explorer.settle(x=77 / 4)
    expected = explorer.image.evaluate(PIXELS)
    explorer.button("Reset").click()
    explorer.settle(x=1)
    assert draw_while_moving(notebook, cell) == undisturbed
    explorer.settle(x=77 / 4)
    assert explorer.image.evaluate(PIXELS) == expected
    assert notebook.errors() == []


def test_without_the_shipped_setting_a_cells_plain_figures_are_corrupted(lab_with_subshells, opened, measured):
    """What the setting is for, and that the test above would see it. The course's own figures hold without it."""
    notebook = opened(CHEAP, PLAIN_FIGURES, COURSE_FIGURES, on=lab_with_subshells)
    explorer = notebook.explorers[0]
    explorer.sliders.first.press("ArrowRight")
    explorer.settle(x=1.25)
    plain, course = (figures_of(outputs) for outputs in notebook.outputs()[1:])
    moved = draw_while_moving(notebook, 1)
    right = sum(a == b for a, b in zip(moved, plain, strict=False))
    measured("without the shipped setting: pyplot figures right", f"{right} of 12")
    assert draw_while_moving(notebook, 2) == course
    explorer.settle(x=77 / 4)
    if moved == plain:
        pytest.skip("a race: the plain figures came out right this time, so it was not seen what the setting is for")


# The dark theme

CONTRAST = """(element) => {
    const rgb = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
    let behind = element;
    while ((rgb(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
    const pair = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map(rgb).map(luminance);
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}"""


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_text_stays_readable_in_both_themes(opened, expecting, take_picture, theme):
    notebook = opened(CHEAP, LONG, FAILING)
    notebook.theme(theme)
    cheap, long, failing = notebook.explorers
    failing.fields.first.fill("3")
    failing.fields.first.press("Enter")
    expecting(failing.root.get_by_role("alert")).to_contain_text("three")
    long.sliders.first.press("End")
    expecting(long.status).to_contain_text("step")
    parts = [cheap.summary, cheap.root.locator("header strong"), cheap.fields.first, cheap.button("Reset")]
    parts += [cheap.root.locator("label").first, cheap.root.locator("select"), long.status, failing.status]
    assert [round(part.evaluate(CONTRAST), 1) for part in parts if part.evaluate(CONTRAST) < 4.5] == []
    for name, explorer in (("cheap", cheap), ("long", long), ("failing", failing)):
        explorer.root.scroll_into_view_if_needed()
        take_picture(explorer.root, f"{name}_{theme.split()[1].lower()}")
