"""Trainings at once: what they return, in which order they are heard, and what happens when one fails."""

import functools
import threading
import time
from itertools import chain

import pytest
import torch

from recmtl_lessons.training import ManyModels, Moment, concurrently, concurrently_for, with_bar
from recmtl_lessons.training import device as device_module
from recmtl_lessons.training.jobs import Stopped


@pytest.fixture
def cores(monkeypatch):
    """Set the number of cores; two unless a test says otherwise."""
    monkeypatch.delenv("RECMTL_THREADS", raising=False)
    monkeypatch.setattr(device_module, "_NOT_ASKED_FOR", {*device_module._NOT_ASKED_FOR, torch.get_num_threads()})

    def set_to(number):
        monkeypatch.setattr(device_module, "_cores", lambda: number)

    set_to(2)
    return set_to


def wait_for(event):
    assert event.wait(20), "the other job never came so far"


def many(seed=0, dropout=0.0):
    """A small stack on rows that depend on the seed."""
    x = torch.randn(3, 50, 4, generator=torch.Generator().manual_seed(seed))

    def build():
        return torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.Dropout(dropout), torch.nn.Tanh(), torch.nn.Linear(8, 1)
        )

    def objective(model, batch, setting, progress):
        return (model(batch["a"]["x"]).squeeze(1) - batch["a"]["x"].sum(1)).square().mean() * setting["w"], {}

    return ManyModels(build, objective, {"a": {"x": x}}, {"w": (1.0, 0.5)}, range(3), 16, 1e-2)


def trained(seed=0, dropout=0.0, steps=40, label=""):
    return many(seed, dropout).fit(steps, label=label, every=1).history["loss"]


class AtOnce:
    """A job that sees how many of its kind run at once."""

    def __init__(self):
        self.most = self._running = 0
        self._lock = threading.Lock()

    def __call__(self):
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
        time.sleep(0.05)
        with self._lock:
            self._running -= 1


class TestResults:
    def test_they_come_in_order_however_long_each_takes(self, cores):
        second = threading.Event()

        def slow():
            wait_for(second)
            return "slow"

        assert concurrently(slow, lambda: second.set() or "quick") == ["slow", "quick"]

    def test_no_job_and_one_job(self, cores):
        assert concurrently() == []
        assert concurrently(lambda: 7) == [7]

    def test_by_key(self, cores):
        second = threading.Event()

        def job(key):
            second.set() if key == "b" else wait_for(second)
            return key.upper()

        found = concurrently_for((key for key in "ab"), job)
        assert list(found.items()) == [("a", "A"), ("b", "B")]

    def test_two_are_under_way_at_the_same_time(self, cores):
        here, there = threading.Event(), threading.Event()

        def one():
            here.set()
            wait_for(there)

        def other():
            there.set()
            wait_for(here)

        assert concurrently(one, other) == [None, None]

    @pytest.mark.parametrize("number", [2, 3])
    def test_never_more_than_there_are_cores(self, cores, number):
        cores(number)
        work = AtOnce()
        concurrently(*[work] * 7)
        assert work.most == number

    @pytest.mark.parametrize("dropout", [0.0, 0.3])
    def test_trainings_give_what_they_give_one_after_another(self, cores, monkeypatch, dropout):
        jobs = [functools.partial(trained, seed, dropout) for seed in (0, 1, 2)]
        at_once = concurrently(*jobs)
        monkeypatch.setenv("RECMTL_THREADS", "1")
        one_by_one = concurrently(*jobs)
        assert all(map(torch.equal, at_once, one_by_one))
        assert not torch.equal(at_once[0], at_once[1])
        assert all(losses[:, -1].mean() < losses[:, 0].mean() / 2 for losses in at_once)

    def test_torchs_generator_is_left_alone(self, cores):
        before = torch.get_rng_state()
        concurrently(functools.partial(trained, 0, 0.3), functools.partial(trained, 1))
        assert torch.equal(torch.get_rng_state(), before)

    def test_each_computes_with_one_thread_and_the_callers_team_stays(self, cores):
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        device_module._NOT_ASKED_FOR.add(2)
        try:
            assert concurrently(torch.get_num_threads, torch.get_num_threads) == [1, 1]
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)

    def test_a_stack_may_be_asked_by_several(self, cores):
        models, x = many(dropout=0.5), torch.ones(3, 5, 4)
        ask = functools.partial(models.each, lambda model, x: model(x), x)
        alone = ask()

        def again():
            return [ask() for _ in range(50)]

        def train():
            models.fit(1, label="")  # in training mode, where there is dropout
            return []

        other = many(dropout=0.5)
        found = concurrently(again, again, lambda: other.fit(30, label="") and [])
        assert all(torch.equal(values, alone) for values in [*found[0], *found[1]])


class TestOneAfterAnother:
    def in_threads(self):
        return concurrently(*[threading.current_thread] * 2)

    def test_on_one_core(self, cores):
        cores(1)
        assert self.in_threads() == [threading.current_thread()] * 2

    def test_when_asked_for(self, cores, monkeypatch):
        monkeypatch.setenv("RECMTL_THREADS", "1")
        assert self.in_threads() == [threading.current_thread()] * 2

    def test_when_torch_was_told_to_take_one(self, cores):
        before = torch.get_num_threads()
        device_module._NOT_ASKED_FOR -= {1}
        torch.set_num_threads(1)
        try:
            assert self.in_threads() == [threading.current_thread()] * 2
        finally:
            torch.set_num_threads(before)

    def test_a_second_call_runs_at_once_again(self, cores):
        for _ in range(2):
            assert threading.current_thread() not in self.in_threads()


class TestWithinAJob:
    def test_they_are_at_once_with_what_has_begun_elsewhere(self, cores):
        """A long job in one thread, two that wait for each other within the other: both threads are needed for them."""
        here, there = threading.Event(), threading.Event()

        def one():
            here.set()
            wait_for(there)
            return "one"

        def other():
            there.set()
            wait_for(here)
            return "other"

        assert concurrently(lambda: concurrently(one, other), lambda: "quick") == [["one", "other"], "quick"]

    def test_they_come_before_those_that_wait_already(self, cores):
        order, begun = [], threading.Event()

        def outer():
            wait_for(begun)
            return concurrently(*[functools.partial(order.append, f"within {k}") for k in range(3)])

        def long():
            begun.set()
            while len(order) < 3:
                time.sleep(0.01)

        concurrently(outer, long, lambda: order.append("after"))
        assert order == ["within 0", "within 1", "within 2", "after"]

    def test_a_thread_that_waits_for_its_own_takes_up_others(self, cores):
        """The outer job's thread has nothing left of its own, and the other thread is held by one of its jobs."""
        after = threading.Event()
        first = functools.partial(wait_for, after)
        assert concurrently(lambda: concurrently(first, lambda: 2, lambda: 3), after.set, after.set)[0] == [None, 2, 3]

    @pytest.mark.parametrize("number", [2, 3])
    def test_never_more_than_there_are_cores(self, cores, number):
        cores(number)
        leaf = AtOnce()

        def tree(depth):
            return concurrently(*[functools.partial(tree, depth - 1)] * 2) if depth else leaf()

        tree(4)
        assert leaf.most == number
        assert not [t for t in threading.enumerate() if t.name.startswith("recmtl-job")]

    def test_trainings_give_what_they_give_alone(self, cores, monkeypatch):
        def outer(seeds):
            return concurrently(*[functools.partial(trained, seed, 0.3) for seed in seeds])

        def both():
            return [*chain.from_iterable(concurrently(lambda: outer((0, 1)), lambda: outer((2, 3))))]

        at_once = both()
        monkeypatch.setenv("RECMTL_THREADS", "1")
        assert all(map(torch.equal, at_once, both()))

    def test_bars_stand_in_their_outer_jobs_place(self, cores, capsys):
        last = threading.Event()

        def job(label, before=None, after=None):
            if before:
                wait_for(before)
            list(with_bar((Moment(step, 2) for step in (1, 2)), label, 2))
            if after:
                after.set()

        def outer():
            job("before")
            concurrently(functools.partial(job, "first", last), functools.partial(job, "second"))
            job("after")

        concurrently(outer, functools.partial(job, "outside", None, last))
        labels = [bar.split(":")[0] for bar in bars_in(capsys.readouterr().out)]
        assert labels == ["before", "first", "second", "after", "outside"]

    def test_an_error_ends_all_and_is_raised(self, cores):
        models, endless, fails = one_endless_and_one_that_fails()
        started = []
        with pytest.raises(KeyError, match="broken"):
            concurrently(endless, lambda: concurrently(fails, lambda: started.append(True)), started.clear)
        assert 1 <= models.history_steps[-1] < ENDLESS
        assert not [t for t in threading.enumerate() if t.name.startswith("recmtl-job")]

    def test_one_after_another_where_there_is_one_core(self, cores):
        cores(1)

        def outer():
            return [threading.current_thread(), *concurrently(*[threading.current_thread] * 2)]

        assert set(chain.from_iterable(concurrently(outer, outer))) == {threading.current_thread()}


def bars_in(out):
    """What is left to be read of each line."""
    return [line.split("\r")[-1] for line in out.rstrip("\n").split("\n")]


class TestBars:
    def test_they_stand_in_the_order_of_the_jobs(self, cores, capsys):
        second = threading.Event()

        def moments(last, before=None, after=None):
            for step in range(1, last + 1):
                if before:
                    wait_for(before)
                yield Moment(step, last)
            if after:
                after.set()

        def job(label, last, **order):
            return list(with_bar(moments(last, **order), label, last))[-1].step

        slow = functools.partial(job, "slow", 3, before=second)
        quick = functools.partial(job, "quick", 4, after=second)
        assert concurrently(slow, quick) == [3, 4]
        first, then = bars_in(capsys.readouterr().out)
        assert first.startswith("slow: 100%|")
        assert "| 3/3 [" in first
        assert then.startswith("quick: 100%|")
        assert "| 4/4 [" in then

    def test_nothing_moves_the_cursor_up(self, cores, capsys):
        concurrently(*[functools.partial(trained, seed, label=f"number {seed}") for seed in range(4)])
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert [bar.split(",")[0] for bar in bars_in(out)] == [f"number {k}" for k in range(4)]

    def test_they_look_as_they_do_alone(self, cores, capsys):
        def looks(line):
            """Words and width; a longer speed leaves less room for the bar."""
            return line.split("|")[0], line.split("|")[2].split("[")[0], len(line)

        def bar():
            return len(list(with_bar((Moment(step, 2) for step in (1, 2)), "alone", 2)))

        concurrently(bar, bar)
        at_once = bars_in(capsys.readouterr().out)
        bar()
        (alone,) = bars_in(capsys.readouterr().out)
        assert [looks(one) for one in at_once] == [looks(alone)] * 2

    def test_the_first_is_seen_while_it_runs(self, cores, monkeypatch):
        seen = threading.Event()

        class Out:
            def write(self, text):
                if "1/2" in text:
                    seen.set()

            def flush(self):
                pass

        monkeypatch.setattr("sys.stdout", Out())

        def moments():
            time.sleep(0.2)  # tqdm draws ten times a second at most
            yield Moment(1, 2)
            wait_for(seen)
            yield Moment(2, 2)

        bar = functools.partial(with_bar, label="seen", total=2)
        assert concurrently(lambda: len(list(bar(moments()))), lambda: 0) == [2, 0]


ENDLESS = 10**5  # updates: minutes


def one_endless_and_one_that_fails():
    """A stack, a job that trains it, and one that fails once the other is under way."""
    models, begun = many(), threading.Event()

    def endless():
        for _ in models.train(ENDLESS, every=1):
            begun.set()

    def fails():
        wait_for(begun)
        raise KeyError("broken")

    return models, endless, fails


class TestWhenOneFails:
    def test_its_error_is_raised_and_the_others_stop(self, cores, capsys):
        models, endless, fails = one_endless_and_one_that_fails()
        with pytest.raises(KeyError, match="broken"):
            concurrently(endless, fails)
        assert 1 <= models.history_steps[-1] < ENDLESS
        assert not [t for t in threading.enumerate() if t.name.startswith("recmtl-job")]

    def test_those_that_wait_do_not_start(self, cores):
        started, (_, endless, fails) = [], one_endless_and_one_that_fails()
        with pytest.raises(KeyError):
            concurrently(endless, fails, lambda: started.append(True), lambda: started.append(True))
        assert started == []

    def test_of_several_errors_the_first_in_order(self, cores):
        second = threading.Event()

        def first():
            wait_for(second)
            raise ValueError("first")

        def then():
            second.set()
            raise KeyError("second")

        with pytest.raises(ValueError, match="first"):
            concurrently(first, then)

    def test_an_interrupt_stops_all(self, cores, monkeypatch):
        models, begun = [many(seed) for seed in (0, 1)], threading.Barrier(3, timeout=20)

        def endless(stack):
            for k, _ in enumerate(stack.train(ENDLESS, every=1)):
                if k == 0:
                    begun.wait()

        def interrupted(*_):
            begun.wait()
            raise KeyboardInterrupt

        monkeypatch.setattr("recmtl_lessons.training.jobs._show", interrupted)
        with pytest.raises(KeyboardInterrupt):
            concurrently(*[functools.partial(endless, stack) for stack in models])
        assert not [t for t in threading.enumerate() if t.name.startswith("recmtl-job")]
        assert all(stack.history_steps[-1] < ENDLESS for stack in models)

    def test_afterwards_all_is_well_again(self, cores):
        def fails():
            raise KeyError("broken")

        stack = many()
        with pytest.raises(KeyError):
            concurrently(lambda: stack.fit(ENDLESS, label=""), fails)
        done = stack.history_steps[-1] if stack.history_steps else 0
        stack.fit(3, label="", every=1)
        assert stack.history_steps[-1] >= done + 3
        assert concurrently(lambda: 1, lambda: 2) == [1, 2]

    def test_stopped_is_no_error_of_its_own(self, cores):
        """Whoever raises it first has no company to blame."""

        def stops():
            raise Stopped

        with pytest.raises(Stopped):
            concurrently(stops, lambda: 1)
