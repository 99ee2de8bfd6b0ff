import json
import re
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recmtl_lessons.__main__ import main
from recmtl_lessons.teaching.claim import MIME, Claim, ClaimFailed, claim, claims, claims_of, t_interval

GAINS = np.array([0.21, 0.25, 0.22, 0.18, 0.30, 0.21, 0.24, 0.26])


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30), st.floats(0.5, 0.99))
def test_the_interval_is_scipys(values, confidence):
    mean, low, high = t_interval(values, confidence)
    scale = stats.sem(values)
    if scale > 1e-9:
        expected = stats.t.interval(confidence, len(values) - 1, loc=np.mean(values), scale=scale)
        np.testing.assert_allclose((low, high), expected, rtol=1e-6, atol=1e-6)
    assert mean == pytest.approx(np.mean(values))


def test_the_interval_is_taken_point_by_point():
    values = np.random.default_rng(0).normal(size=(8, 3, 2))
    mean, low, high = t_interval(values)
    assert mean.shape == low.shape == high.shape == (3, 2)
    np.testing.assert_allclose([low[1, 0], high[1, 0]], t_interval(values[:, 1, 0])[1:])


@pytest.mark.parametrize("as_array", [list, np.asarray, torch.tensor])
def test_a_claim_that_holds_is_printed_and_returns_its_numbers(capsys, as_array):
    result = claim("Adversarial training helps.", as_array(GAINS), above=0.1, unit="AUC")
    _, low, high = t_interval(GAINS)
    numbers = (pytest.approx(GAINS.mean()), pytest.approx(low), pytest.approx(high), 8)
    assert result == Claim("Adversarial training helps.", *numbers, "above", (0.1,), "AUC")
    assert capsys.readouterr().out == (
        "Claim: Adversarial training helps.\n"
        "  effect +0.234 AUC, 95 % interval [+0.203, +0.265], 8 seeds\n"
        "  holds: the interval must lie above 0.1\n"
        "      ┃                  ━━━━━━●━━━━━━\n"
    )


def test_a_claim_that_fails_raises_with_the_same_lines_and_prints_nothing(capsys):
    with pytest.raises(ClaimFailed) as failure:
        claim("It helps a lot.", GAINS, above=0.22)
    text = str(failure.value)
    assert text.startswith("Claim: It helps a lot.\n  effect +0.234, 95 % interval [+0.203, +0.265], 8 seeds")
    assert "DOES NOT HOLD: the interval must lie above 0.22" in text
    assert capsys.readouterr().out == ""
    assert isinstance(failure.value, AssertionError)


def test_below_looks_at_the_upper_end():
    assert claim("It is small.", GAINS, below=0.3).high < 0.3
    with pytest.raises(ClaimFailed, match=r"must lie below 0\.25"):
        claim("It is smaller.", GAINS, below=0.25)


def test_a_control_must_contain_the_number_and_be_narrow_enough():
    control = GAINS - GAINS.mean()
    assert claim("Nothing without a shift.", control, contains=0, within=0.05).n == 8
    with pytest.raises(ClaimFailed, match=r"must lie around 0, and reach at most 0\.05 to each side"):
        claim("Nothing without a shift.", GAINS, contains=0, within=0.05)
    with pytest.raises(ClaimFailed, match=r"must lie around 0, and reach at most 0\.05 to each side"):
        claim("Nothing without a shift.", control * 100, contains=0, within=0.05)


def test_an_equivalence_holds_only_if_both_ends_lie_inside(capsys):
    control = GAINS - GAINS.mean()  # mean 0, 99 % interval about 0.046 to each side
    claim("Nothing without a shift.", control, inside=(-0.05, 0.05), confidence=0.99, unit="AUC")
    assert capsys.readouterr().out == (
        "Claim: Nothing without a shift.\n"
        "  effect +0.000 AUC, 99 % interval [-0.046, +0.046], 8 seeds\n"
        "  holds: the interval must lie between -0.05 and 0.05\n"
        "      ┃━━━━━━━━━━━━━━●━━━━━━━━━━━━━━━┃\n"
    )
    for shifted in (control + 0.01, control - 0.01):
        with pytest.raises(ClaimFailed, match=r"DOES NOT HOLD: the interval must lie between -0\.05 and 0\.05"):
            claim("Nothing without a shift.", shifted, inside=(-0.05, 0.05), confidence=0.99)


def test_noise_cannot_pass_for_equivalence_and_a_tiny_steady_difference_can():
    noisy = (GAINS - GAINS.mean()) * 100
    with pytest.raises(ClaimFailed, match="must lie between"):
        claim("Nothing without a shift.", noisy, inside=(-0.05, 0.05))
    steady = 1e-3 + 1e-3 * (GAINS - GAINS.mean())
    with pytest.raises(ClaimFailed, match="must lie around 0"):
        claim("Nothing without a shift.", steady, contains=0, within=0.05)
    assert claim("Nothing without a shift.", steady, inside=(-0.05, 0.05)).low > 0


def test_the_band_need_not_lie_around_zero():
    assert claim("About a quarter.", GAINS, inside=(0.2, 0.27)).low > 0.2
    with pytest.raises(ClaimFailed, match=r"must lie between 0\.1 and 0\.23"):
        claim("Less.", GAINS, inside=[0.1, 0.23])


def test_another_confidence_gives_another_interval_and_is_named(capsys):
    wide = claim("It helps.", GAINS, above=0, confidence=0.99)
    narrow = claim("It helps.", GAINS, above=0, confidence=0.9)
    assert wide.low < narrow.low
    out = capsys.readouterr().out
    assert "99 % interval" in out
    assert "90 % interval" in out


@pytest.mark.parametrize(
    ("values", "arguments", "message"),
    [
        (GAINS, {}, "got none, expected exactly one of them"),
        (GAINS, {"above": 0, "below": 1}, "got above and below, expected exactly one"),
        (GAINS, {"above": float("nan")}, "above: got nan, expected a finite number"),
        (GAINS, {"above": "0"}, "above: got '0', expected a finite number"),
        (GAINS, {"contains": 0}, "within: got None, expected the largest half-width"),
        (GAINS, {"contains": 0, "within": 0}, "within: got 0, expected"),
        (GAINS, {"above": 0, "inside": (-1, 1)}, "got above and inside, expected exactly one"),
        (GAINS, {"inside": (-1, 1), "within": 1}, "within: got 1 together with inside"),
        (GAINS, {"inside": 1}, "inside: got 1, expected two finite numbers, the smaller one first"),
        (GAINS, {"inside": (1, -1)}, r"inside: got \(1, -1\), expected two finite numbers"),
        (GAINS, {"inside": (0, 0)}, r"inside: got \(0, 0\), expected two finite numbers"),
        (GAINS, {"inside": (-1, float("inf"))}, r"inside: got \(-1, inf\), expected two finite numbers"),
        (GAINS, {"inside": (-1, 0, 1)}, r"inside: got \(-1, 0, 1\), expected two finite numbers"),
        (GAINS, {"inside": ("a", "b")}, r"inside: got \('a', 'b'\), expected two finite numbers"),
        ([0.0] * 8, {"inside": (-1, 1)}, "values: got 8 times 0, expected seeds that differ"),
        (GAINS, {"above": True}, "above: got True, expected a finite number"),
        (GAINS, {"above": 0, "within": 1}, "within: got 1 together with above"),
        (GAINS[:7], {"above": 0}, "values: got 7 seeds, expected at least 8"),
        (GAINS, {"above": 0, "min_seeds": 9}, "values: got 8 seeds, expected at least 9"),
        (GAINS, {"above": 0, "min_seeds": 1}, "min_seeds: got 1, expected at least 2"),
        (GAINS.reshape(2, 4), {"above": 0}, r"values: got shape \(2, 4\), expected \(seeds,\)"),
        ([*GAINS, np.nan], {"above": 0}, "values: got 1 NaN or infinite, expected finite numbers"),
        ([*GAINS, np.inf], {"above": 0}, "values: got 1 NaN or infinite, expected finite numbers"),
        (["a"] * 8, {"above": 0}, "values: got list, expected an array of numbers"),
        ([0.1] * 8, {"above": 0}, r"values: got 8 times 0.1, expected seeds that differ \(allow_constant"),
        ([0.0] * 8, {"contains": 0, "within": 1}, "values: got 8 times 0, expected seeds that differ"),
        (GAINS, {"above": 0, "confidence": 95}, "confidence: got 95, expected a number between 0 and 1"),
    ],
)
def test_what_is_no_claim_is_refused_by_name(values, arguments, message, capsys):
    with pytest.raises(ValueError, match=message):
        claim("It helps.", values, **arguments)
    assert capsys.readouterr().out == ""


def test_a_claim_needs_its_sentence():
    with pytest.raises(ValueError, match="sentence: got ''"):
        claim("", GAINS, above=0)


def test_constant_values_pass_when_they_are_said_to_be_measured():
    result = claim("Exactly one.", [1.0] * 8, above=0.5, allow_constant=True)
    assert (result.low, result.high) == (1.0, 1.0)


def test_the_result_is_not_echoed_in_a_cell(shell, shown):
    shell.push({"claim": claim, "values": GAINS})
    assert shell.run_cell("claim('It helps.', values, above=0)").success
    assert len(shown) == 1


@pytest.mark.parametrize(
    ("sentence", "bound", "said"),
    [
        ("By at least {above:.2f}.", {"above": 0.1}, "By at least 0.10."),
        ("From {inside[0]} to {inside[1]}.", {"inside": (0.0, 0.4)}, "From 0.0 to 0.4."),
        ("Below {below}.", {"below": 1}, "Below 1."),
    ],
)
def test_a_bound_is_written_once(sentence, bound, said):
    assert claim(sentence, GAINS, **bound).sentence == said


def test_a_bound_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"sentence: got 'By \{more\}'"):
        claim("By {more}", GAINS, above=0)
    with pytest.raises(ValueError, match="expected names of the given bound"):
        claim("Below {below:.2f}", GAINS, above=0)


@pytest.mark.parametrize(
    ("kind", "bound", "room"),
    [
        ("above", (0.0,), 2.0),
        ("above", (0.25,), -0.5),
        ("below", (0.5,), 1.0),
        ("inside", (0.1, 0.45), 0.5),
        ("contains", (0.25, 0.2), 0.5),
        ("contains", (0.3, 0.05), -0.5),
    ],
)
def test_room_is_counted_in_half_widths(kind, bound, room):
    made = Claim("It is so.", 0.3, 0.2, 0.4, 8, kind, bound)
    assert made.room == pytest.approx(room)
    assert made.holds == (room > 0)


def test_a_table_holds_a_line_for_each_claim_and_the_data_of_all(shell, shown):
    with claims():
        claim("It is <positive>.", GAINS, above=0)
        claim("It is small.", GAINS, below=0.5)
        assert shown == []
    ((bundle, _),) = shown
    assert bundle["text/html"].count("<tr>") == 2
    assert "It is &lt;positive&gt;." in bundle["text/html"]
    assert [one["sentence"] for one in bundle[MIME]] == ["It is <positive>.", "It is small."]
    claim("Alone again.", GAINS, above=0)
    assert len(shown) == 2


def test_a_claim_that_fails_shows_the_table_so_far(shell, shown):
    def two():
        with claims():
            claim("It is positive.", GAINS, above=0)
            claim("It is huge.", GAINS, above=9)

    with pytest.raises(ClaimFailed):
        two()
    assert [one["sentence"] for one in shown[0][0][MIME]] == ["It is positive."]


def test_the_strip_shows_where_the_interval_lies(shell, shown):
    """Left to right: from the left end to the bound, to the interval, its middle, its right end, and the rest."""
    claim("It is positive.", GAINS, above=0)
    strip = shown[0][0]["text/html"].split("<td")[2]
    widths = [float(width) for width in re.findall(r"width:([\d.]+)em", strip)]
    _, low, _ = t_interval(GAINS)
    assert sum(widths) == pytest.approx(11.0, abs=0.05)
    assert widths[1] / widths[2] == pytest.approx(low / (GAINS.mean() - low), rel=0.05)
    assert widths[2] == pytest.approx(widths[3], rel=0.05)


def test_claims_are_found_in_an_executed_notebook(shell, shown, tmp_path):
    with claims():
        made = [claim("It is positive.", GAINS, above=0), claim("About.", GAINS, contains=0.23, within=0.1)]
    cells = [{"outputs": [{"data": dict(shown[0][0])}, {"text": "x"}]}, {"source": "no outputs"}]
    notebook = tmp_path / "01.ipynb"
    notebook.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert claims_of(notebook) == made


def test_the_command_lists_the_tightest_first(shell, shown, tmp_path, monkeypatch, capsys):
    claim("Far from it.", GAINS, above=-9)
    claim("Close.", GAINS, above=0.2)
    cells = [{"outputs": [{"data": dict(bundle)} for bundle, _ in shown]}]
    (tmp_path / "07_policy.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["recmtl_lessons", "claims", "--notebooks", str(tmp_path)])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 claims.")
    assert lines[1].endswith("07  Close.")
    assert "8 seeds; above 0.2" in lines[2]
    assert lines[3].endswith("07  Far from it.")


def test_the_command_says_when_there_is_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["recmtl_lessons", "claims", "--notebooks", str(tmp_path)])
    with pytest.raises(SystemExit):
        main()
    assert "no claims in the notebooks of" in capsys.readouterr().err
