"""The explorer without a browser: what Python does when a hand moves, when code runs, and when something fails."""

import base64
import gc
import io
import json
import math
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from recmtl_lessons.teaching import Choice, Explorer, Lesson, Running, Slider, Toggle, log_stops, style
from recmtl_lessons.teaching import explorer as explorer_module

LESSON = Lesson("waves", {"wave": "Move the wave", "other": "Move another"})
PATIENCE = 20.0  # seconds after which a test gives up; none of them needs one


def a_slider(**changes):
    return Slider(**{"name": "x", "label": "Size of x", "stops": [k / 2 for k in range(11)], "value": 1.0, **changes})


def draw_point(result, figure, controls):
    (axis,) = style.panels(figure, 1)
    axis.plot([0, 1], [0, float(result)])
    axis.set(xlim=(0, 1), ylim=(0, 6), title=f"x = {result}")


def in_words(result, controls=None):
    return f"The line ends at {result}."


@pytest.fixture
def explore():
    """Make explorers of one slider ``x``, unless told otherwise, and close them after the test."""
    made = []

    def make(compute=lambda x: x, **changes):
        options = {
            "lesson": LESSON, "key": "wave", "title": "Waves", "controls": [a_slider()], "compute": compute,
            "draw": draw_point, "describe": in_words, "size": (3.0, 2.0),
        }  # fmt: skip
        made.append(Explorer(**{**options, **changes}))
        return made[-1]

    yield make
    for explorer in made:
        explorer.close()


class Door:
    """A lock that a thread can be kept from taking until the test lets it in."""

    def __init__(self, lock):
        self.lock = lock
        self.kept, self.arrived, self.let_in = None, threading.Event(), threading.Event()

    def __enter__(self):
        if self.kept is not None and self.kept(threading.current_thread()):
            self.arrived.set()
            assert self.let_in.wait(PATIENCE)
        return self.lock.__enter__()

    def __exit__(self, *error):
        return self.lock.__exit__(*error)


class Told(threading.Condition):
    """A condition that says when somebody had to wait for it."""

    def __init__(self):
        super().__init__()
        self.somebody_waits = threading.Event()

    def __enter__(self):
        if not self.acquire(blocking=False):
            self.somebody_waits.set()
            self.acquire()
        return True


class Elsewhere(threading.Thread):
    """A call in a thread of its own, whose result or error ``get`` hands out."""

    def __init__(self, call, *arguments, **options):
        super().__init__(daemon=True)
        self.call, self.outcome = lambda: call(*arguments, **options), None
        self.start()

    def run(self):
        try:
            self.outcome = self.call(), None
        except Exception as error:
            self.outcome = None, error

    def get(self):
        self.join(PATIENCE)
        assert not self.is_alive()
        result, error = self.outcome
        if error is not None:
            raise error
        return result


class Training:
    """A computation of many steps, each of which waits for the test's leave."""

    def __init__(self, total=30):
        self.total = total
        self.begun, self.taken, self.closed, self.finished = [], [], [], []
        self.leave = threading.Semaphore(0)
        self.step_taken = threading.Semaphore(0)

    def __call__(self, x, **_):
        self.begun.append(x)
        try:
            for step in range(1, self.total + 1):
                assert self.leave.acquire(timeout=PATIENCE)
                self.taken.append((x, step))
                self.step_taken.release()
                yield Running(step, self.total, lambda step=step: x + step / 1000, unit="batch")
        except GeneratorExit:
            self.closed.append(x)
            raise
        self.finished.append(x)
        return x

    def let(self, steps):
        """Let it take so many steps, and wait until it has."""
        self.leave.release(steps)
        for _ in range(steps):
            assert self.step_taken.acquire(timeout=PATIENCE)

    def let_go(self):
        """Let it take all steps it wants."""
        self.leave.release(10_000)


def browser_sends(explorer, **values):
    """Set the view's values as a message from the front end does."""
    data = {"method": "update", "state": {"values": values}, "buffer_paths": []}
    explorer._view._handle_msg({"content": {"data": data}, "buffers": []})


def browser_presses(explorer, button):
    """Press a button as a message from the front end does."""
    data = {"method": "custom", "content": {"press": button}}
    explorer._view._handle_msg({"content": {"data": data}, "buffers": []})


def recorded(explorer, trait):
    """Every value that a trait of the view takes from now on."""
    seen = []
    explorer._view.observe(lambda change: seen.append(change["new"]), names=trait)
    return seen


# The picture


def test_run_computes_draws_and_returns_the_result(explore):
    explorer = explore(
        lambda x: 10 * x, draw=lambda result, figure, controls: draw_point(result / 10, figure, controls)
    )
    assert explorer.run(x=2.5) == 25.0
    frame = explorer._view.frame
    assert Image.open(io.BytesIO(frame["png"])).size == (330, 220)
    assert frame["text"] == "The line ends at 25.0."
    assert frame["values"] == {"x": 2.5} == explorer.values == explorer._view.values
    assert frame["final"] is True


def test_run_takes_a_generator_to_its_end(explore):
    training = Training(total=5)
    training.let_go()
    assert explore(training).run(x=3) == 3.0
    assert training.taken == [(3.0, step) for step in range(1, 6)]


def test_a_move_is_served_with_the_picture_that_run_draws(explore):
    explorer = explore()
    explorer.move(x=4)
    assert explorer.values == {"x": 4.0}
    explorer.wait(PATIENCE)
    moved = explorer._view.frame
    assert (moved["values"], moved["text"], moved["final"]) == ({"x": 4.0}, "The line ends at 4.0.", True)
    assert explore(key="other").run(x=4) == 4.0
    assert explore(key="other")._view.frame == {}
    fresh = explore()
    fresh.run(x=4)
    assert fresh._view.frame["png"] == moved["png"]


def test_what_is_not_moved_stays(explore):
    controls = [a_slider(), Toggle("loud", "Loud"), Choice("kind", "Kind", ["sin", "cos"], "cos")]
    explorer = explore(
        lambda **values: values,
        controls=controls,
        seeded=True,
        draw=lambda *_: None,
        describe=lambda result, controls: str(result),
    )
    assert explorer.run(loud=True) == {"x": 1.0, "loud": True, "kind": "cos", "seed": 0}
    assert explorer.run(kind="sin", seed=7) == {"x": 1.0, "loud": True, "kind": "sin", "seed": 7}


def test_what_is_shown_without_a_kernel_is_the_last_picture(explore):
    explorer = explore()
    bundle = explorer._repr_mimebundle_()
    explorer.run(x=5)
    later = explorer._repr_mimebundle_()
    assert bundle["text/plain"] == "Waves\nThe line ends at 1.0."
    assert later["text/plain"] == "Waves\nThe line ends at 5.0."
    assert base64.b64decode(later["image/png"]) == explorer._view.frame["png"]
    assert later["image/png"] != bundle["image/png"]
    view = later["application/vnd.jupyter.widget-view+json"]
    assert view == {"version_major": 2, "version_minor": 1, "model_id": explorer._view.model_id}


def test_the_browser_is_told_what_it_needs_in_plain_json(explore):
    controls = [a_slider(unit="Hz"), Choice("kind", "Kind", ("sin", "cos"), "cos"), Toggle("loud", "Loud", True)]
    explorer = explore(lambda **_: 0, controls=controls, seeded=True)
    told = json.loads(json.dumps(explorer._view.controls))
    assert [(c["kind"], c["name"], c["label"], c["value"]) for c in told] == [
        ("slider", "x", "Size of x", 1.0),
        ("choice", "kind", "Kind", "cos"),
        ("toggle", "loud", "Loud", True),
    ]
    assert told[0]["stops"] == [k / 2 for k in range(11)]
    assert (told[0]["unit"], told[0]["whole"], told[1]["options"]) == ("Hz", False, ["sin", "cos"])
    assert (explorer._view.title, explorer._view.seeded) == ("Waves", True)


# The latest move wins


def test_a_move_during_a_training_ends_it_at_the_next_step(explore):
    training = Training()
    explorer = explore(training)
    explorer.move(x=1.5)
    training.let(4)
    explorer.move(x=2.5)
    training.let_go()
    explorer.wait(PATIENCE)
    assert training.closed == [1.5]
    assert training.finished == [2.5]
    assert sum(x == 1.5 for x, _ in training.taken) <= 5  # it was between two steps, or in one, when the move came
    assert explorer._view.frame["values"] == {"x": 2.5}
    assert [values for values, _ in explorer.history] == [{"x": 2.5}]


def test_of_many_moves_while_it_computes_only_the_latest_is_served(explore):
    gate, begun, calls = threading.Event(), threading.Event(), []

    def compute(x):
        calls.append(x)
        begun.set()
        assert gate.wait(PATIENCE)
        return x

    explorer = explore(compute)
    explorer.move(x=0)
    assert begun.wait(PATIENCE)
    for x in (1, 2, 3, 4):
        explorer.move(x=x)
    gate.set()
    explorer.wait(PATIENCE)
    assert calls == [0.0, 4.0]
    assert explorer._view.frame["values"] == {"x": 4.0}


def test_moves_in_a_burst_end_with_the_last_and_leave_nothing_behind(explore):
    explorer = explore(lambda x: x)
    explorer.run()
    explorer.move(x=0)
    explorer.wait(PATIENCE)  # its thread runs now
    gc.collect()
    figures = sum(issubclass(type(thing), Figure) for thing in gc.get_objects())
    threads = threading.active_count()
    places = np.random.default_rng(0).integers(0, 11, 200) / 2
    for x in places.tolist():
        explorer.move(x=x)
    explorer.wait(PATIENCE)
    assert explorer._view.frame["values"] == {"x": places[-1]}
    assert explorer._view.frame["text"] == f"The line ends at {places[-1]}."
    gc.collect()
    assert sum(issubclass(type(thing), Figure) for thing in gc.get_objects()) == figures
    assert threading.active_count() == threads
    assert len(explorer.history) <= 200


def test_history_keeps_the_last_two_hundred_moves(explore):
    explorer = explore(draw=lambda *_: None, size=(0.5, 0.5))
    for k in range(205):
        explorer.move(x=k / 50)
        explorer.wait(PATIENCE)
    assert len(explorer.history) == 200
    assert explorer.history[0] == ({"x": 0.1}, "The line ends at 0.1.")
    assert explorer.history[-1] == ({"x": 4.08}, "The line ends at 4.08.")


def test_run_during_a_training_ends_it_and_has_the_last_word(explore):
    training = Training()
    explorer = explore(training)
    explorer.move(x=1.5)
    training.let(3)
    training.let_go()
    assert explorer.run(x=2.5) == 2.5
    explorer.wait(PATIENCE)
    assert explorer._view.frame["values"] == {"x": 2.5} == explorer.values
    assert explorer._view.frame["final"] is True
    assert explorer._view.status["message"] == ""
    assert training.finished[-1] == 2.5


def test_run_right_after_a_move_leaves_nobody_waiting(explore):
    explorer = explore()
    for x in (1, 2, 3, 4) * 5:
        explorer.move(x=x)
        assert explorer.run(x=5) == 5.0
        explorer.wait(PATIENCE)
        assert explorer._view.frame["values"] == {"x": 5.0}


def test_a_move_after_run_has_the_last_word_though_it_is_served_first(explore):
    explorer = explore()
    explorer._working = door = Door(explorer._working)
    door.kept = lambda thread: isinstance(thread, Elsewhere)
    runner = Elsewhere(explorer.run, x=2.5)  # waits, as behind a picture that is being drawn
    assert door.arrived.wait(PATIENCE)
    explorer.move(x=4)
    explorer.wait(PATIENCE)
    door.let_in.set()
    assert runner.get() == 2.5
    assert explorer._view.frame["values"] == {"x": 4.0} == explorer.values == explorer._view.values
    assert explorer._view.frame["text"] == "The line ends at 4.0."
    assert [values["x"] for values, _ in explorer.history] == [4.0, 2.5]


def test_a_move_after_run_has_the_last_word_when_it_is_served_last(explore):
    explorer = explore()
    explorer._working = door = Door(explorer._working)
    runner_may = threading.Event()
    door.kept = lambda thread: not runner_may.is_set() or not isinstance(thread, Elsewhere)
    runner = Elsewhere(explorer.run, x=2.5)
    assert door.arrived.wait(PATIENCE)
    explorer.move(x=4)
    runner_may.set()  # from here on the explorer's own thread is kept back, and the run goes first
    door.let_in.set()
    assert runner.get() == 2.5
    explorer.wait(PATIENCE)
    assert explorer._view.frame["values"] == {"x": 4.0} == explorer.values == explorer._view.values


def test_an_overtaken_run_that_fails_is_an_error_in_its_own_cell_only(explore):
    explorer = explore(lambda x: 1 / (x - 2.5))
    explorer._working = door = Door(explorer._working)
    door.kept = lambda thread: isinstance(thread, Elsewhere)
    runner = Elsewhere(explorer.run, x=2.5)
    assert door.arrived.wait(PATIENCE)
    explorer.move(x=3)
    explorer.wait(PATIENCE)
    door.let_in.set()
    with pytest.raises(ZeroDivisionError):
        runner.get()
    assert explorer._view.status["state"] == "idle"
    explorer.wait(PATIENCE)
    explorer.move(x=2.5)
    with pytest.raises(ZeroDivisionError):
        explorer.wait(PATIENCE)


def test_a_run_that_fails_says_so_in_place_too_and_no_progress_stays_behind(explore, monkeypatch):
    monkeypatch.setattr(explorer_module, "_QUIET", -1)  # say at every step how far it is
    training = Training()

    def compute(x):
        return training(x) if x < 3 else 1 / 0

    explorer = explore(compute)
    explorer.move(x=1.5)
    training.let(3)
    training.let_go()
    with pytest.raises(ZeroDivisionError):
        explorer.run(x=3)
    assert explorer._view.status["state"] == "error"
    assert explorer._view.status["message"].startswith("ZeroDivisionError")
    assert explorer.run(x=1.5) == 1.5
    assert explorer._view.status["state"] == "idle"


def test_an_error_that_was_overtaken_is_nobodys_error(explore):
    gate, begun = threading.Event(), threading.Event()

    def compute(x):
        begun.set()
        assert gate.wait(PATIENCE)
        return 1 / (x - 2)

    explorer = explore(compute)
    explorer.move(x=2)
    assert begun.wait(PATIENCE)
    runner = Elsewhere(explorer.run, x=3)
    gate.set()
    assert runner.get() == 1.0
    explorer.wait(PATIENCE)
    assert explorer._view.status["state"] == "idle"


# Two threads at once


def at_the_same_time(explorer, monkeypatch, one, other):
    """Run ``one`` up to where it has read its values, let ``other`` go as far as it can, then finish both."""
    explorer._changed = told = Told()
    begun = []

    def look_in(accept):
        def accepting(*arguments):
            if not begun:
                begun.append(Elsewhere(lambda: (other(), told.somebody_waits.set())))
                assert told.somebody_waits.wait(PATIENCE)  # the other is through, or waits its turn
            return accept(*arguments)

        return accepting

    monkeypatch.setattr(Slider, "accept", look_in(Slider.accept))
    monkeypatch.setattr(explorer_module, "_accept_seed", look_in(explorer_module._accept_seed))
    one()
    begun[0].get()
    explorer.wait(PATIENCE)
    assert explorer._view.frame["values"] == explorer.values


def test_two_clicks_on_new_seed_at_once_are_two_seeds(explore, monkeypatch):
    explorer = explore(lambda x, seed: x, seeded=True)
    at_the_same_time(explorer, monkeypatch, explorer.new_seed, explorer.new_seed)
    assert explorer.values == {"x": 1.0, "seed": 2}


def test_a_click_during_a_move_loses_neither(explore, monkeypatch):
    explorer = explore(lambda x, seed: x, seeded=True)
    at_the_same_time(explorer, monkeypatch, lambda: explorer.move(x=3), explorer.new_seed)
    assert explorer.values == explorer._view.values == {"x": 3.0, "seed": 1}


def test_a_hand_in_the_browser_during_a_click_loses_neither(explore, monkeypatch):
    explorer = explore(lambda x, seed: x, seeded=True)
    at_the_same_time(explorer, monkeypatch, explorer.new_seed, lambda: browser_sends(explorer, x=3))
    assert explorer.values == {"x": 3.0, "seed": 1}


def test_a_hand_that_is_heard_after_a_move_by_code_is_served_and_the_browser_is_told(explore):
    explorer = explore()
    explorer.move(x=4)
    explorer._on_values({"new": {"x": 2.0}})  # said before the move, whose values have gone to the browser since
    explorer.wait(PATIENCE)
    assert explorer.values == explorer._view.values == explorer._view.frame["values"] == {"x": 2.0}


def test_a_hand_in_the_browser_gets_no_answer_that_would_move_it_back(explore):
    explorer = explore(lambda x, seed: x, seeded=True)
    browser_sends(explorer, x=2)
    explorer.wait(PATIENCE)
    assert explorer._view.values == {"x": 2}  # as it was sent: what the kernel set itself would hold the seed


def test_showing_an_explorer_does_not_swallow_a_move(explore):
    explorer = explore()
    explorer._working = door = Door(explorer._working)
    door.kept = lambda thread: thread is not threading.main_thread()
    explorer.move(x=4)
    assert door.arrived.wait(PATIENCE)
    assert explorer._repr_mimebundle_()["text/plain"] == "Waves\nThe line ends at 4.0."
    door.let_in.set()
    explorer.wait(PATIENCE)
    assert explorer.history == [({"x": 4.0}, "The line ends at 4.0.")]
    assert LESSON.states()["wave"] == "done"


# Stop, reset, seed


def test_stop_keeps_the_picture_so_far_and_says_where(explore):
    training = Training(total=30)
    explorer = explore(training)
    explorer.move(x=2)
    training.let(7)
    explorer.stop()
    training.let_go()
    explorer.wait(PATIENCE)
    (stopped_at,) = {len(training.taken)} & {7, 8}
    assert training.closed == [2.0]
    assert explorer._view.frame["final"] is False
    assert explorer._view.frame["text"] == in_words(2 + stopped_at / 1000)
    assert explorer._view.status == {
        "state": "idle", "done": 0, "total": 0, "message": f"stopped at batch {stopped_at} of 30",
    }  # fmt: skip
    assert explorer.history == []


def test_what_was_stopped_is_not_taken_for_the_result(explore):
    training = Training()
    explorer = explore(training)
    explorer.move(x=2)
    training.let(3)
    explorer.stop()
    training.let_go()
    explorer.wait(PATIENCE)
    explorer.move(x=2)
    explorer.wait(PATIENCE)
    assert training.begun == [2.0, 2.0]
    assert training.finished == [2.0]
    assert explorer._view.frame["final"] is True
    assert explorer._view.status["message"] == ""


def test_stop_right_after_a_move_is_not_lost(explore):
    training = Training()
    training.let_go()
    explorer = explore(training)
    explorer._working.acquire()  # as if a picture were being drawn while both arrive
    explorer.move(x=2)
    explorer.stop()
    explorer._working.release()
    explorer.wait(PATIENCE)
    assert training.finished == []
    assert training.closed == [2.0]


def test_stop_while_nothing_runs_does_not_stop_the_next_move(explore):
    training = Training(total=4)
    training.let_go()
    explorer = explore(training)
    explorer.stop()
    explorer.move(x=3)
    explorer.wait(PATIENCE)
    assert training.finished == [3.0]


def test_reset_and_new_seed(explore):
    calls = []

    def compute(x, seed):
        calls.append((x, seed))
        return x

    explorer = explore(compute, seeded=True)
    explorer.move(x=3)
    explorer.wait(PATIENCE)
    for _ in range(2):
        explorer.new_seed()
        explorer.wait(PATIENCE)
    assert explorer.values == {"x": 3.0, "seed": 2}
    explorer.reset()
    explorer.wait(PATIENCE)
    assert explorer.values == explorer._view.frame["values"] == {"x": 1.0, "seed": 0}
    assert calls == [(3.0, 0), (3.0, 1), (3.0, 2), (1.0, 0)]


def test_without_a_seed_a_new_one_changes_nothing(explore):
    explorer = explore(lambda x: 1 / 0)
    explorer.new_seed()
    explorer.wait(PATIENCE)
    assert explorer.values == {"x": 1.0}
    assert explorer._view.frame == {}


# What was computed once


def test_each_setting_is_computed_once(explore):
    calls = []
    explorer = explore(lambda x: calls.append(x) or x)
    for x in (1, 2, 1, 2, 1):
        explorer.move(x=x)
        explorer.wait(PATIENCE)
        assert explorer._view.frame["text"] == f"The line ends at {x:.1f}."
    assert calls == [1.0, 2.0]
    assert len(explorer.history) == 5


def test_what_run_computed_is_remembered_too(explore):
    calls = []
    explorer = explore(lambda x: calls.append(x) or x)
    explorer.run(x=2)
    explorer.run(x=3)
    explorer.move(x=2)
    explorer.wait(PATIENCE)
    assert calls == [2.0, 3.0]
    assert explorer._view.frame["values"] == {"x": 2.0}


def test_the_memory_is_bounded_and_the_oldest_goes_first(explore):
    calls = []
    explorer = explore(lambda x: calls.append(x) or x, draw=lambda *_: None, size=(0.5, 0.5))
    for k in range(129):
        explorer.run(x=k / 32)
    assert len(explorer._seen) == 128
    for k, again in ((1, 0), (128, 0), (0, 1)):
        before = len(calls)
        explorer.move(x=k / 32)
        explorer.wait(PATIENCE)
        assert len(calls) - before == again


# Errors


@pytest.mark.parametrize("broken", ["compute", "draw", "describe"])
def test_an_error_is_one_line_and_the_next_move_works(explore, broken):
    def fail_at_two(result, *_):
        if result == 2:
            raise RuntimeError("two is unlucky\nand this is a second line")
        return in_words(result) if broken == "describe" else result

    part = (lambda x: fail_at_two(x)) if broken == "compute" else fail_at_two
    explorer = explore(**{broken: part})
    explorer.move(x=1)
    explorer.wait(PATIENCE)
    before = explorer._view.frame
    explorer.move(x=2)
    with pytest.raises(RuntimeError, match="two is unlucky"):
        explorer.wait(PATIENCE)
    assert explorer._view.status == {
        "state": "error", "done": 0, "total": 0, "message": "RuntimeError: two is unlucky",
    }  # fmt: skip
    assert explorer._view.frame == before
    explorer.wait(PATIENCE)  # said once
    explorer.move(x=3)
    explorer.wait(PATIENCE)
    assert explorer._view.frame["values"] == {"x": 3.0}
    assert explorer._view.status == {"state": "idle", "done": 0, "total": 0, "message": ""}
    assert [values["x"] for values, _ in explorer.history] == [1.0, 3.0]


def test_an_error_without_words_is_still_named(explore):
    explorer = explore(lambda x: {}[x])
    explorer.move(x=2)
    with pytest.raises(KeyError):
        explorer.wait(PATIENCE)
    assert explorer._view.status["message"] == "KeyError: 2.0"

    def silent(x):
        raise ZeroDivisionError

    explorer = explore(silent)
    explorer.move(x=2)
    with pytest.raises(ZeroDivisionError):
        explorer.wait(PATIENCE)
    assert explorer._view.status["message"] == "ZeroDivisionError: "


def test_run_raises_what_went_wrong(explore):
    def compute(x):
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        explore(compute).run(x=2)


def test_an_error_in_the_middle_of_a_training_closes_it(explore):
    training = Training()

    def snapshot_fails(result, figure, controls):
        raise RuntimeError("cannot draw")

    explorer = explore(training, draw=snapshot_fails)
    explorer.move(x=2)
    training.let(2)
    explorer.stop()
    training.let_go()
    with pytest.raises(RuntimeError, match="cannot draw"):
        explorer.wait(PATIENCE)
    assert training.closed == [2.0]


def test_a_good_run_clears_an_earlier_error(explore):
    explorer = explore(lambda x: 1 / (x - 2))
    explorer.move(x=2)
    with pytest.raises(ZeroDivisionError):
        explorer.wait(PATIENCE)
    explorer.run(x=3)
    assert explorer._view.status == {"state": "idle", "done": 0, "total": 0, "message": ""}


def test_waiting_has_an_end(explore):
    training = Training()
    explorer = explore(training)
    explorer.move(x=2)
    training.let(1)
    with pytest.raises(TimeoutError, match=r"Waves: still busy after 0\.01 s"):
        explorer.wait(0.01)
    training.let_go()
    explorer.wait(PATIENCE)
    assert training.finished == [2.0]


# What a learner sees while it runs


def test_a_training_shows_its_progress_and_its_curve(explore, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(explorer_module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def compute(x):
        for step in range(1, 21):
            now[0] += 1 / 16
            yield Running(step, 20, lambda step=step: step / 10, unit="epoch")
        return x

    explorer = explore(compute)
    statuses, frames = recorded(explorer, "status"), recorded(explorer, "frame")
    explorer.move(x=5)
    explorer.wait(PATIENCE)
    assert statuses[0] == {"state": "running", "done": 2, "total": 20, "message": "epoch 2 of 20"}
    assert [status["done"] for status in statuses] == [*range(2, 21, 2), 0]  # every eighth of a second
    assert statuses[-1]["state"] == "idle"
    assert [frame["text"] for frame in frames] == [in_words(x) for x in (0.4, 0.8, 1.2, 1.6, 2.0, 5.0)]
    assert [frame["final"] for frame in frames] == [False] * 5 + [True]


def test_pictures_take_at_most_a_third_of_a_training(explore, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(explorer_module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def compute(x):
        for step in range(1, 201):
            now[0] += 0.05
            yield Running(step, 200, lambda: x)
        return x

    pictures = []

    def slow_draw(result, figure, controls):
        pictures.append(result)
        now[0] += 0.4

    explorer = explore(compute, draw=slow_draw)
    explorer.move(x=5)
    explorer.wait(PATIENCE)
    drawing, whole = 0.4 * len(pictures), now[0] - 100
    assert whole / 5 < drawing <= whole / 3


def test_a_plain_function_that_takes_its_time_says_that_it_computes(explore):
    said = threading.Event()

    def compute(x):
        assert said.wait(PATIENCE)
        return x

    explorer = explore(compute)
    statuses = recorded(explorer, "status")
    explorer._view.observe(lambda change: said.set(), names="status")
    explorer.move(x=2)
    explorer.wait(PATIENCE)
    assert [(status["state"], status["message"]) for status in statuses] == [("running", "computing"), ("idle", "")]


def test_a_quick_move_says_nothing(explore, monkeypatch):
    monkeypatch.setattr(explorer_module, "_QUIET", PATIENCE)
    explorer = explore()
    statuses = recorded(explorer, "status")
    explorer.move(x=2)
    explorer.wait(PATIENCE)
    assert statuses == []


# Progress


def test_showing_is_no_trying(explore):
    explorer = explore()
    explorer._repr_mimebundle_()
    assert LESSON.recall("wave") == {}
    assert explorer.history == []


def test_a_run_is_evidence_and_no_progress_and_a_move_is_both(explore):
    explorer = explore()
    explorer.run(x=2)
    assert explorer.history == [({"x": 2.0}, "The line ends at 2.0.")]
    assert LESSON.recall("wave") == {}
    explorer.move(x=3)
    explorer.wait(PATIENCE)
    assert [values["x"] for values, _ in explorer.history] == [2.0, 3.0]
    assert LESSON.states() == {"wave": "done", "other": "untouched"}


def test_a_run_that_fails_is_no_evidence(explore):
    explorer = explore(lambda x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        explorer.run(x=2)
    assert explorer.history == []


def test_a_move_that_failed_is_not_recorded(explore):
    explorer = explore(lambda x: 1 / 0)
    explorer.move(x=3)
    with pytest.raises(ZeroDivisionError):
        explorer.wait(PATIENCE)
    assert LESSON.states()["wave"] == "untouched"


# What the browser says


def test_a_hand_in_the_browser_goes_the_same_way(explore):
    explorer = explore()
    browser_sends(explorer, x=3.5)
    explorer.wait(PATIENCE)
    assert explorer.values == explorer._view.frame["values"] == {"x": 3.5}
    assert explorer.history == [({"x": 3.5}, "The line ends at 3.5.")]
    assert LESSON.states()["wave"] == "done"


def test_whole_numbers_from_the_browser_serve_sliders_of_any_kind(explore):
    explorer = explore(lambda x, n: x + n, controls=[a_slider(), Slider("n", "Count", range(5), 0)])
    browser_sends(explorer, x=2, n=3)
    explorer.wait(PATIENCE)
    assert explorer.values == {"x": 2.0, "n": 3}
    assert [type(value) for value in explorer.values.values()] == [float, int]


def test_the_browser_keeps_the_seed_that_it_does_not_mention(explore):
    explorer = explore(lambda x, seed: x + seed, seeded=True)
    explorer.new_seed()
    explorer.wait(PATIENCE)
    browser_sends(explorer, x=2)
    explorer.wait(PATIENCE)
    assert explorer.values == {"x": 2.0, "seed": 1}


def test_buttons_in_the_browser(explore):
    training = Training()
    explorer = explore(training, seeded=True)
    browser_sends(explorer, x=3)
    training.let(2)
    browser_presses(explorer, "stop")
    training.let_go()
    explorer.wait(PATIENCE)
    assert explorer._view.status["message"].startswith("stopped at batch")
    browser_presses(explorer, "new_seed")
    explorer.wait(PATIENCE)
    assert explorer.values == explorer._view.values == {"x": 3.0, "seed": 1}
    browser_presses(explorer, "reset")
    explorer.wait(PATIENCE)
    assert explorer.values == explorer._view.values == {"x": 1.0, "seed": 0}
    assert training.finished == [3.0, 1.0]


@pytest.mark.parametrize("button", ["close", "_serve", "", None, 3, ["stop"], {"stop": 1}])
def test_there_are_no_other_buttons(explore, button):
    explorer = explore()
    browser_presses(explorer, button)
    explorer.move(x=2)
    explorer.wait(PATIENCE)
    assert explorer._view.frame["values"] == {"x": 2.0}


@pytest.mark.parametrize(
    ("junk", "message"),
    [
        ({"x": "2"}, "x: got '2', expected a number from 0.0 to 5.0"),
        ({"x": None}, "x: got None, expected a number from 0.0 to 5.0"),
        ({"x": 2, "y": 1}, "y: no such control, expected one of x, seed"),
        ({"seed": "three"}, "seed: got 'three', expected a whole number, 0 or more"),
        ({"seed": None}, "seed: got None, expected a whole number, 0 or more"),
        ({"x": 99}, "x: got 99, expected a number from 0.0 to 5.0"),
    ],
)
def test_junk_from_the_browser_is_one_line_and_changes_nothing(explore, junk, message):
    explorer = explore(lambda x, seed: x, seeded=True)
    explorer.run(x=3)
    frame = explorer._view.frame
    browser_sends(explorer, **junk)
    explorer.wait(PATIENCE)
    assert explorer._view.status["state"] == "error"
    assert explorer._view.status["message"] == message
    assert explorer.values == {"x": 3.0, "seed": 0}
    assert explorer._view.frame == frame
    browser_sends(explorer, x=2)
    explorer.wait(PATIENCE)
    assert explorer._view.frame["values"] == {"x": 2.0, "seed": 0}
    assert explorer._view.status["state"] == "idle"


# Bad values


@pytest.fixture(scope="module")
def settled():
    """An explorer with one control of each kind, for calls that must change nothing."""
    controls = [a_slider(), Slider("n", "Count", range(5), 0), Choice("kind", "Kind", ["sin", "cos"], "sin")]
    explorer = Explorer(
        lesson=LESSON, key="other", title="Settled", controls=[*controls, Toggle("loud", "Loud")],
        compute=lambda **_: 0, draw=draw_point, describe=in_words, seeded=True,
    )  # fmt: skip
    yield explorer
    explorer.close()


NO_NUMBER = st.none() | st.text() | st.booleans() | st.lists(st.floats()) | st.complex_numbers()
OUTSIDE = st.floats(max_value=-1e-9) | st.floats(min_value=5.0001) | st.just(math.nan)


@given(
    bad=st.one_of(
        st.tuples(st.just("x"), NO_NUMBER | OUTSIDE),
        st.tuples(st.just("n"), NO_NUMBER | OUTSIDE | st.floats(0.01, 0.99)),
        st.tuples(st.just("kind"), st.text().filter(lambda t: t not in ("sin", "cos")) | st.integers() | st.none()),
        st.tuples(st.just("loud"), st.integers() | st.text() | st.none() | st.floats()),
        st.tuples(st.just("seed"), NO_NUMBER | st.floats() | st.integers(max_value=-1)),
        st.tuples(st.from_regex(r"[a-z_]{1,6}", fullmatch=True), st.integers()).filter(
            lambda pair: pair[0] not in ("x", "n", "kind", "loud", "seed", "self")
        ),
    ),
    call=st.sampled_from(["run", "move"]),
)
def test_a_bad_value_is_refused_by_name_and_changes_nothing(settled, bad, call):
    name, value = bad
    with pytest.raises(ValueError, match=rf"^{name}: .*expected ") as refusal:
        getattr(settled, call)(**{"x": 2.0, name: value})
    if "no such control" not in str(refusal.value):
        assert repr(value) in str(refusal.value)
    assert settled.values == {"x": 1.0, "n": 0, "kind": "sin", "loud": False, "seed": 0}
    assert settled._view.frame == {}
    assert settled._thread is None


@given(x=st.floats(0, 5))
def test_any_number_of_the_range_is_accepted_between_the_stops_too(x):
    assert a_slider().accept(x) == x


# Building controls


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stops": [1.0]}, r"stops: got \(1.0,\), expected at least two increasing numbers"),
        ({"stops": []}, r"stops: got \(\), expected"),
        ({"stops": [0, 2, 1]}, r"stops: got \(0, 2, 1\), expected"),
        ({"stops": [0, 1, 1]}, "stops: got"),
        ({"stops": [0.0, math.nan]}, "stops: got"),
        ({"stops": ["a", "b"]}, "stops: got"),
        ({"stops": [False, True]}, "stops: got"),
        ({"value": 5.5}, "x: got 5.5, expected a number from 0.0 to 5.0"),
        ({"value": "1"}, "x: got '1', expected a number"),
        ({"stops": range(3), "value": 0.5}, "x: got 0.5, expected a whole number from 0 to 2"),
    ],
)
def test_a_slider_that_cannot_work_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        a_slider(**changes)


def test_a_choice_or_toggle_that_cannot_work_is_refused():
    with pytest.raises(ValueError, match="kind: got 'tan', expected one of 'sin', 'cos'"):
        Choice("kind", "Kind", ["sin", "cos"], "tan")
    with pytest.raises(ValueError, match="loud: got 1, expected True or False"):
        Toggle("loud", "Loud", 1)


def test_an_explorer_needs_a_declared_activity(explore):
    with pytest.raises(ValueError, match=r"key: 'tide' is not declared by lesson 'waves'"):
        explore(key="tide")


def test_log_stops():
    assert log_stops(0.1, 10, 2) == (0.1, 0.316, 1.0, 3.16, 10.0)
    assert log_stops(0.1, 10, 2, zero=True) == (0.0, 0.1, 0.316, 1.0, 3.16, 10.0)
    ratios = np.diff(np.log(log_stops(0.01, 100)))
    assert len(ratios) == 40
    np.testing.assert_allclose(ratios, math.log(10) / 10, atol=0.01)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (2, 1), (1, 1), (math.nan, 1)])
def test_log_stops_refuse_a_range_without_ratios(low, high):
    with pytest.raises(ValueError, match=rf"low, high: got {low}, {high}, expected 0 < low < high"):
        log_stops(low, high)


# The end


def test_making_an_explorer_again_ends_the_earlier_one(explore):
    training = Training()
    first = explore(training)
    first.move(x=2)
    training.let(2)
    thread = first._thread
    second = explore()
    training.let_go()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert training.closed == [2.0]
    assert first._view.comm is None
    first.wait(PATIENCE)
    second.move(x=3)
    second.wait(PATIENCE)
    assert second._view.frame["values"] == {"x": 3.0}


def test_another_key_is_another_explorer(explore):
    first, second = explore(key="wave"), explore(key="other")
    for explorer in (first, second):
        explorer.move(x=4)
        explorer.wait(PATIENCE)
        assert explorer._view.frame["values"] == {"x": 4.0}


def test_a_closed_explorer_serves_no_more(explore):
    explorer = explore()
    explorer.close()
    explorer.move(x=2)
    explorer.wait(PATIENCE)
    assert explorer._view.frame == {}
    assert explorer._thread is None


# Panels: the axes that explorers draw on


def test_panels_come_back_wiped_and_the_same():
    figure = style.new_figure(6, 3)
    first = style.panels(figure, 2, widths=(2, 1))
    fresh = style.png(figure)
    left, right = first
    left.plot([0, 1], [5, 9], label="line")
    left.fill_between([0, 1], [5, 9], [6, 10])
    left.legend()
    left.text(0.5, 7, "word")
    right.bar([0, 1], [3, 4])
    right.imshow(np.eye(2))
    right.errorbar([0], [1], [0.1])
    assert style.png(figure) != fresh
    again = style.panels(figure, 2, widths=(2, 1))
    assert all(a is b for a, b in zip(first, again, strict=True))
    for axis in again:
        assert not (*axis.lines, *axis.collections, *axis.patches, *axis.texts, *axis.images, *axis.containers)
        assert axis.get_legend() is None
    left.plot([0, 1], [0, 1])
    assert left.get_ylim()[1] < 1.5  # the scale follows what is there now
    assert left.lines[0].get_color() == style.PALETTE["blue"]


def test_a_picture_drawn_twice_is_the_same_picture():
    def draw(figure):
        (axis,) = style.panels(figure, 1)
        axis.plot([0, 1], [0, 1], label="line")
        axis.legend(loc="upper left")

    once, twice = style.new_figure(4, 3), style.new_figure(4, 3)
    draw(once)
    draw(twice)
    style.png(twice)
    draw(twice)
    assert style.png(twice) == style.png(once)
    assert len(twice.axes[0].get_legend().get_texts()) == 1


def test_other_panels_replace_those_before():
    figure = style.new_figure(6, 3)
    first = style.panels(figure, 2)
    assert len(style.panels(figure, 3)) == len(figure.axes) == 3
    widths = [axis.get_subplotspec().get_gridspec().get_width_ratios() for axis in style.panels(figure, 2, (3, 1))]
    assert [list(ratios) for ratios in widths] == [[3, 1], [3, 1]]
    assert all(axis not in first for axis in figure.axes)
