"""Trainings at once: what they return, in which order they are heard, and what happens when one fails."""

import threading
import time
from functools import partial
from itertools import chain

import pytest
import torch

from recmtl_lessons.training import ManyModels, Moment, concurrently, concurrently_for, with_bar
from recmtl_lessons.training import device as device_module
from recmtl_lessons.training import jobs as jobs_module

ENDLESS = 10**5  # updates: minutes


@pytest.fixture(autouse=True)
def cores(monkeypatch):
    """Set the number of cores; two unless a test says otherwise. No test leaves a thread behind."""
    monkeypatch.delenv("RECMTL_THREADS", raising=False)
    monkeypatch.setattr(device_module, "_NOT_ASKED_FOR", {*device_module._NOT_ASKED_FOR, torch.get_num_threads()})

    def set_to(number):
        monkeypatch.setattr(device_module, "_cores", lambda: number)

    set_to(2)
    yield set_to
    assert not [t for t in threading.enumerate() if t.name.startswith("recmtl-job")]


def wait_for(event):
    assert event.wait(20), "the other job never came so far"


def many(seed=0, dropout=0.3):
    """A small stack on rows that depend on the seed."""
    x = torch.randn(3, 50, 4, generator=torch.Generator().manual_seed(seed))

    def build():
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(dropout), torch.nn.Linear(8, 1))

    def objective(model, batch, setting, progress):
        return (model(batch["a"]["x"]).squeeze(1) - batch["a"]["x"].sum(1)).square().mean() * setting["w"], {}

    return ManyModels(build, objective, {"a": {"x": x}}, {"w": (1.0, 0.5)}, range(3), 16, 1e-2)


def trained(seed=0):
    return many(seed).fit(20, label="", every=1).history["loss"]


def bar(label, before=None, after=None, steps=2):
    """A job with a bar, which may wait for an event before it goes on, and tell another one when it is over."""

    def moments():
        for step in range(1, steps + 1):
            if before:
                wait_for(before)
            yield Moment(step, steps)

    list(with_bar(moments(), label, steps))
    if after:
        after.set()
    return label


def lines(out):
    """What is left to be read of each line."""
    return [line.split("\r")[-1] for line in out.rstrip("\n").split("\n")]


def of_a_tree(leaf, depth):
    """Jobs within jobs, and what the last of them return."""
    return concurrently(*[partial(of_a_tree, leaf, depth - 1)] * 2) if depth else leaf()


class TestResults:
    def test_they_come_in_order_however_long_each_takes(self):
        second = threading.Event()
        assert concurrently(lambda: wait_for(second) or "slow", lambda: second.set() or "quick") == ["slow", "quick"]
        assert (concurrently(), concurrently(lambda: 7)) == ([], [7])

    def test_by_key(self):
        second = threading.Event()
        found = concurrently_for(iter("ab"), lambda key: (second.set() if key == "b" else wait_for(second)) or key * 2)
        assert list(found.items()) == [("a", "aa"), ("b", "bb")]

    @pytest.mark.parametrize("depth", [1, 4])
    @pytest.mark.parametrize("number", [2, 3])
    def test_never_more_at_once_than_there_are_cores(self, cores, number, depth):
        cores(number)
        running, seen = [], []

        def leaf():
            running.append(1)
            time.sleep(0.02)
            seen.append(len(running))
            running.pop()

        concurrently(*[partial(of_a_tree, leaf, depth - 1)] * 6)
        assert len(seen) == 6 * 2 ** (depth - 1)
        assert max(seen) <= number

    def test_what_a_job_has_not_begun_of_its_own_another_thread_takes_up(self):
        here, there = threading.Event(), threading.Event()
        meet = lambda mine, other: mine.set() or wait_for(other)  # noqa: E731
        concurrently(lambda: concurrently(partial(meet, here, there), partial(meet, there, here)), lambda: "quick")

    def test_trainings_give_what_they_give_one_after_another(self, monkeypatch):
        def all_five():
            inner = [partial(concurrently, *[partial(trained, seed) for seed in pair]) for pair in ((0, 1), (2, 3))]
            return [*chain.from_iterable(concurrently(*inner, lambda: [trained(4)]))]

        before, at_once = torch.get_rng_state(), all_five()
        assert torch.equal(torch.get_rng_state(), before)
        monkeypatch.setenv("RECMTL_THREADS", "1")
        assert all(map(torch.equal, at_once, all_five()))
        assert not torch.equal(at_once[0], at_once[1])

    def test_each_computes_with_one_thread_and_the_callers_team_stays(self, monkeypatch):
        before = torch.get_num_threads()
        monkeypatch.setattr(device_module, "_NOT_ASKED_FOR", {2})
        torch.set_num_threads(2)
        try:
            assert concurrently(torch.get_num_threads, torch.get_num_threads) == [1, 1]
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)

    def test_a_stack_may_be_asked_by_several(self):
        models, other, x = many(), many(), torch.ones(3, 5, 4)
        ask = partial(models.each, lambda model, x: model(x), x)
        alone = ask()
        found = concurrently(*[lambda: [ask() for _ in range(50)]] * 2, lambda: other.fit(30, label="") and [])
        assert all(torch.equal(values, alone) for values in [*found[0], *found[1]])

    @pytest.mark.parametrize("why", ["one core", "asked for", "torch was told"])
    def test_in_the_callers_thread_where_there_is_one(self, cores, monkeypatch, why):
        if why == "one core":
            cores(1)
        elif why == "asked for":
            monkeypatch.setenv("RECMTL_THREADS", "1")
        else:
            monkeypatch.setattr(device_module, "_NOT_ASKED_FOR", {7})
            monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        where = partial(concurrently, *[threading.current_thread] * 2)
        assert set(chain.from_iterable(concurrently(where, where))) == {threading.current_thread()}


class TestBars:
    def test_they_stand_in_the_order_of_the_jobs_as_they_look_alone(self, capsys):
        bar("alone")
        alone, last = lines(capsys.readouterr().out)[0], threading.Event()

        def outer():
            bar("before")
            concurrently(partial(bar, "first", before=last), partial(bar, "second"))
            bar("after")

        concurrently(outer, partial(bar, "outside", after=last))
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert [line.split(":")[0] for line in lines(out)] == ["before", "first", "second", "after", "outside"]
        assert all(line.split("|")[2][:5] == alone.split("|")[2][:5] == " 2/2 " for line in lines(out))
        assert {len(line) for line in lines(out)} == {len(alone)}

    def test_the_first_is_seen_while_it_runs(self, monkeypatch):
        seen = threading.Event()

        class Out:
            def write(self, text):
                if "seen:   0%" in text:
                    seen.set()

            def flush(self):
                pass

        monkeypatch.setattr("sys.stdout", Out())
        assert concurrently(partial(bar, "seen", before=seen), partial(bar, "other")) == ["seen", "other"]


class TestWhenOneFails:
    @pytest.mark.parametrize("depth", [0, 2])
    def test_its_error_is_raised_and_the_others_stop_or_never_start(self, depth):
        models, begun, started = many(), threading.Event(), []

        def endless():
            for _ in models.train(ENDLESS, every=1):
                begun.set()

        def fails():
            wait_for(begun)
            raise KeyError("broken")

        with pytest.raises(KeyError, match="broken"):
            concurrently(endless, partial(of_a_tree, fails, depth), *[lambda: started.append(True)] * 2)
        assert started == []
        assert 1 <= models.history_steps[-1] < ENDLESS
        assert models.fit(3, label="", every=1).history_steps[-1] < ENDLESS
        assert concurrently(lambda: 1, lambda: 2) == [1, 2]

    def test_of_several_errors_the_first_in_order(self):
        second = threading.Event()

        def fails(error, wait=False):
            wait_for(second) if wait else second.set()
            raise error

        with pytest.raises(ValueError, match="first"):
            concurrently(partial(fails, ValueError("first"), True), partial(fails, KeyError("second")))
        with pytest.raises(jobs_module.Stopped):  # whoever raises it first has nobody to blame
            concurrently(partial(fails, jobs_module.Stopped()), lambda: 1)

    def test_an_interrupt_stops_all(self, monkeypatch):
        models, begun = [many(seed) for seed in (0, 1)], threading.Barrier(3, timeout=20)

        def endless(stack):
            for k, _ in enumerate(stack.train(ENDLESS, every=1)):
                if k == 0:
                    begun.wait()

        def interrupted(_):
            begun.wait()
            raise KeyboardInterrupt

        monkeypatch.setattr("concurrent.futures.Future.result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            concurrently(*[partial(endless, stack) for stack in models])
        assert all(stack.history_steps[-1] < ENDLESS for stack in models)
