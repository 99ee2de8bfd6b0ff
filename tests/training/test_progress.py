"""The bar under which trainings run: what it shows, and that it changes nothing."""

import pytest

from recmtl_lessons.training import Moment, with_bar
from recmtl_lessons.training.progress import tqdm


def moments(*steps, of=40):
    yield from (Moment(step, of) for step in steps)


def test_it_passes_the_moments_on(capsys):
    assert list(with_bar(moments(10, 20, 35, 40), "two levels", 40)) == list(moments(10, 20, 35, 40))
    found = capsys.readouterr()
    last = found.out.split("\r")[-1]
    assert last.startswith("two levels: 100%|")
    assert "| 40/40 [" in last
    assert " steps/s]" in last
    assert max(map(len, found.out.rstrip("\n").split("\r"))) <= 80
    assert found.err == ""


def test_the_unit_is_named(capsys):
    list(with_bar(moments(40), "flat", 40, "updates"))
    assert " updates/s]" in capsys.readouterr().out


def test_without_a_label_there_is_no_bar(capfd):
    assert list(with_bar(moments(10, 40), "", 40)) == list(moments(10, 40))
    assert capfd.readouterr() == ("", "")


def test_the_bar_stands_at_each_moment_before_it_is_passed_on(monkeypatch):
    bars = []

    class Kept(tqdm):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            bars.append(self)

    monkeypatch.setattr("recmtl_lessons.training.progress.tqdm", Kept)
    for moment in with_bar(moments(10, 25, 40), "flat", 40):
        assert bars[0].n == moment.step


def test_leaving_the_loop_stops_the_training_and_closes_the_bar(capsys):
    ended = []

    def training():
        try:
            yield from moments(*range(1, 41))
        finally:
            ended.append(True)

    shown = with_bar(training(), "flat", 40)
    assert [next(shown).step for _ in range(3)] == [1, 2, 3]
    shown.close()
    assert ended == [True]
    assert "| 3/40 [" in capsys.readouterr().out.split("\r")[-1]


def test_an_error_of_the_training_is_passed_on(capsys):
    def training():
        yield Moment(1, 40)
        raise ValueError("steps: got 0, expected more")

    with pytest.raises(ValueError, match=r"^steps: got 0"):
        list(with_bar(training(), "flat", 40))
