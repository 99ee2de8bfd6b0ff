"""Scores: leads are paired, shapes are kept in order, and a drawing shows what was measured."""

import pytest
import torch

from recmtl_lessons.teaching.looks import Look, draw_scores, line_at
from recmtl_lessons.teaching.style import new_figure
from recmtl_lessons.training import Scores

ALONE, TOGETHER = torch.tensor([0.6, 0.7, 0.65]), torch.tensor([0.7, 0.9, 0.8])


@pytest.fixture
def scores():
    return Scores.of("AUC", {"alone": ALONE, "together": TOGETHER})


def test_a_lead_is_paired_by_seed(scores):
    torch.testing.assert_close(scores.lead("together", over="alone"), torch.tensor([0.1, 0.2, 0.15]))
    torch.testing.assert_close(scores.mean("alone", "together"), torch.tensor([0.65, 0.8, 0.725]))
    assert list(scores.only("together")) == ["together"]


def test_moments_stay_behind_the_seeds():
    curve = Scores("AUC", (0.0, 1.0), torch.rand(2, 3, 4), (25, 50, 75, 100))
    assert curve[1.0].shape == (3, 4)
    torch.testing.assert_close(curve.at_end()[1.0], curve.values[1, :, -1])
    assert curve.only(1.0).steps == curve.steps


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("AUC", (), torch.zeros(0, 3)), "arms: got \\(\\), expected at least one"),
        (("AUC", ("a", "a"), torch.zeros(2, 3)), "arms: got .*none twice"),
        (("AUC", ("a",), torch.zeros(2, 3)), r"values: got shape \(2, 3\), expected \(1, 'seeds'\)"),
        (("AUC", ("a",), torch.zeros(1, 3, 4)), r"values: got shape \(1, 3, 4\)"),
        (("AUC", ("a",), torch.zeros(1, 3, 4), (1, 2)), r"expected \(1, 'seeds', 2\)"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        Scores(*arguments)


def test_an_unknown_arm_is_named(scores):
    with pytest.raises(ValueError, match="arm: got 'other', expected one of 'alone', 'together'"):
        scores["other"]


class TestDrawing:
    @pytest.fixture
    def axis(self):
        return new_figure(4, 3).subplots()

    def test_named_arms_are_points(self, axis, scores):
        scores.draw(axis, {"alone": Look("by itself", "green")})
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["by itself", "together"]
        assert axis.get_ylabel() == "AUC"

    def test_a_grid_is_a_line(self, axis):
        draw_scores(axis, Scores("AUC", (0.1, 1.0), torch.rand(2, 3)), Look("home"), place=lambda x: 10 * x)
        (line,) = axis.lines
        assert line.get_xdata().tolist() == [1.0, 10.0]
        assert line.get_label() == "home"

    def test_moments_are_curves(self, axis):
        values = torch.rand(2, 3, 4)
        Scores("AUC", (0.0, 1.0), values, (1, 2, 3, 4)).draw(axis, {0.0: Look("off", line="--")})
        assert [line.get_label() for line in axis.lines] == ["off", "1.0"]
        assert axis.lines[0].get_linestyle() == "--"
        assert axis.lines[1].get_ydata().tolist() == pytest.approx(values[1].mean(0).tolist())

    def test_a_level_has_its_name(self, axis):
        line_at(axis, 0.5, "coin flip")
        assert axis.texts[0].get_text().strip() == "coin flip"
