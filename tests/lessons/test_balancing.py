"""Lesson 11: what it measures is what it says, and its landscape is that of the paper."""

import math
import os

import pytest
import torch

from recmtl_lessons.lessons import balancing as lesson
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS
from recmtl_lessons.lessons.balancing import exercises, experiments, landscape, pictures
from recmtl_lessons.models import balancing
from recmtl_lessons.teaching.style import new_figure


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The landscape of the appendix of Liu et al. 2021, as its formulas stand there.


def formulas(a, b):
    """Both losses of places, (..., 2)."""
    floor = torch.tensor(5e-6, dtype=torch.float64)
    above, below = torch.tanh(b / 2).clamp(min=0), torch.tanh(-b / 2).clamp(min=0)
    f1 = torch.log(torch.maximum((0.5 * (-a - 7) - torch.tanh(-b)).abs(), floor)) + 6
    f2 = torch.log(torch.maximum((0.5 * (-a + 3) + torch.tanh(-b) + 2).abs(), floor)) + 6
    g1 = ((-a + 7) ** 2 + 0.1 * (-b - 8) ** 2) / 10 - 20
    g2 = ((-a - 7) ** 2 + 0.1 * (-b - 8) ** 2) / 10 - 20
    return torch.stack([f1 * above + g1 * below, f2 * above + g2 * below], dim=-1)


def places():
    """Some by chance, and one on each curve along which a logarithm would fall without end."""
    drawn = 20 * torch.rand(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 10
    return [*drawn.tolist(), (-7 + 2 * math.tanh(1.0), 1.0), (7 - 2 * math.tanh(2.0), 2.0)]


def gradients_at(place):
    at = torch.tensor(place, dtype=torch.float64, requires_grad=True)
    losses = formulas(*at)
    return losses, torch.stack([torch.autograd.grad(loss, at, retain_graph=True)[0] for loss in losses])


#: What the ways down should be, of products of gradients.
RULES = {
    "mean": lambda gram: torch.full_like(gram[..., 0], 0.5),
    "PCGrad": balancing.pcgrad,
    "MGDA": balancing.mgda,
    "CAGrad": balancing.cagrad,
}


class TestTheLandscape:
    def test_losses_and_gradients(self):
        for place in places():
            losses, gradients = gradients_at(place)
            found = landscape.losses_at(*place)
            assert found[0] == pytest.approx(losses.tolist(), abs=1e-9)
            for mine, gradient in zip(found[1:], gradients, strict=True):
                assert mine == pytest.approx(gradient.tolist(), rel=1e-6, abs=1e-9), place

    @pytest.mark.parametrize("way", landscape.WAYS_DOWN)
    def test_weights_are_the_packages(self, way):
        """Of gradients by chance, of lengths that differ, of equal and opposite ones, and of those of the landscape."""
        drawn = normal(300, 2, 2) * torch.tensor([[1.0], [30.0]]).double() ** normal(300, 1, 1, seed=1)
        a, b = normal(2, 2, seed=2)
        by_hand = [torch.stack(pair) for pair in ((a, a), (a, 3 * a), (a, -a), (a, -3 * a), (a, 0 * b))]
        there = [gradients_at(place)[1] for place in places()]
        found = torch.stack([*drawn, *by_hand, *there])
        expected = (RULES[way](found @ found.mT).unsqueeze(-2) @ found).squeeze(-2)
        for gradients, direction in zip(found, expected, strict=True):
            weights = torch.tensor(landscape.WAYS_DOWN[way](*map(tuple, gradients.tolist())), dtype=torch.float64)
            size = gradients.norm(dim=1).max()
            torch.testing.assert_close(weights @ gradients / size, direction / size, atol=1e-9, rtol=0)

    @pytest.mark.parametrize("way", landscape.WAYS_DOWN)
    def test_descends_by_adam(self, way, to_the_end):
        found = to_the_end(landscape.descend(way, 0.05, 0, budget=50 * 0.05))
        assert found.steps == list(range(51))
        for start, points in zip(landscape.STARTS, found.points, strict=True):
            at = torch.tensor(start, dtype=torch.float64, requires_grad=True)
            optimizer = torch.optim.Adam([at], lr=0.05)
            for point in points:
                assert point == pytest.approx(at.tolist(), abs=1e-9)
                _, gradients = gradients_at(at.tolist())
                at.grad = RULES[way](gradients @ gradients.T) @ gradients
                optimizer.step()
        second = to_the_end(landscape.descend(way, 0.05, 2, budget=0.1))
        assert second.points == [found.points[1][:3]]

    def test_the_lowest_place(self):
        axis = torch.linspace(-10, 10, 2001, dtype=torch.float64)
        means = formulas(*torch.meshgrid(axis, axis, indexing="ij")).mean(-1)
        assert float(means.min()) == pytest.approx(landscape.LOWEST, abs=0.05)

    @pytest.mark.parametrize(
        ("way", "rate", "reach"),
        [
            ("mean", 0.001, [False, True, False]),
            ("CAGrad", 0.001, [True, True, True]),
            ("mean", 0.01, [True, True, True]),
        ],
    )
    def test_who_gets_stuck(self, way, rate, reach, to_the_end):
        """The paper's figure; with ten times its step the mean gets through as well."""
        found = to_the_end(landscape.descend(way, rate, 0))
        assert found.steps[-1] == round(100 / rate)
        assert [end < -15 for end in found.ends] == reach
        assert all(end > 0 for end, reached in zip(found.ends, reach, strict=True) if not reached)


# By hand.


def test_what_projecting_leaves():
    """Of two tasks the originals leave nothing; in place the second never sees what the first had against it."""
    found = experiments.conflicts_left(draws=500, tasks=2, width=3)
    first, second = torch.randn(500, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind(1)
    dot, one, two = (first * second).sum(1), first.square().sum(1), second.square().sum(1)
    worse = (dot < 0) & (one - dot**2 / two + dot < 0)  # for the first: its own rest, and the second as it was
    assert found == {"originals": 0.0, "in place": pytest.approx(float(worse.double().mean()))}
    of_three = experiments.conflicts_left()
    assert 0 < of_three["originals"] < of_three["in place"]


def test_a_gain_is_the_mean_share_by_which_losses_are_lower():
    found = experiments.gain(torch.tensor([[0.5, 2.0], [1.0, 1.6]]), torch.tensor([1.0, 1.6]))
    assert found.tolist() == pytest.approx([(0.5 - 0.25) / 2, 0.0])


class TestArrows:
    @pytest.mark.parametrize(
        ("angle", "length", "expected"),
        [
            (0.0, 1.0, {"CAGrad": 1.5, "others": 1.0}),
            (180.0, 1.0, {"others": 0.0}),
            (180.0, 3.0, {"mean": -1.0, "Aligned-MTL": -1.0, "CAGrad": -0.5, "others": 0.0}),
        ],
    )
    def test_along_one_line(self, angle, length, expected):
        """As a share of the first gradient, which is (1, 0)."""
        drawn = experiments.draw_by_hand(angle, length)
        torch.testing.assert_close(drawn.gradients[1].norm(), torch.tensor(length).double())
        for way, direction in drawn.directions.items():
            wanted = [expected.get(way, expected["others"]), 0.0]
            assert direction.tolist() == pytest.approx(wanted, abs=1e-7), way

    def test_half_of_pcgrad_is_upgrad(self):
        drawn = experiments.draw_by_hand(125.0, 3.0)
        first, second = drawn.gradients
        assert float(first @ second) == pytest.approx(3 * math.cos(math.radians(125)))
        upgrad = balancing.upgrad(drawn.gradients @ drawn.gradients.T) @ drawn.gradients
        torch.testing.assert_close(drawn.directions["PCGrad / 2 = UPGrad"], upgrad)


class TestAScheduleOfOnesOwn:
    @staticmethod
    def shares(choose):
        return torch.stack([experiments.learn_by(choose, DESIGN_SEEDS, number) for number in (0, 1)]).mean(0)

    def test_the_one_that_lags_learns_both_and_taking_turns_does_not(self):
        seen = []

        def lagging(step, steps, losses):
            seen.append((step, steps, tuple(losses.shape)))
            return int((losses / experiments.BARE).argmax())

        found = self.shares(lagging)
        steps = experiments.NARROW["steps"]
        assert seen == [(step, steps, (2,)) for step in range(steps)] * 2
        assert found.min() > 0.25
        in_turn = self.shares(lambda step, steps, losses: step % 2)
        assert in_turn.min() < 0.25
        assert in_turn.max() > 0.5

    def test_always_the_same_is_a_network_for_that_task(self):
        """Which is what shares are measured by; on the same batches, from the same start."""
        for task in (0, 1):
            share = experiments.learn_by(lambda *_, task=task: task, DESIGN_SEEDS, 2)[task]
            assert float(share) == pytest.approx(1.0, abs=0.02)

    def test_a_pattern_that_tips_one_way_or_the_other_is_no_fair_half(self, verdict):
        """Of a fixed share of clicks each seed makes its own corner, so that only their mean looks fair."""
        found = verdict(lesson.exercise_schedule, lambda step, steps, losses: int(step % 25 >= 19))
        assert found.kind == "wrong"
        assert "less than a quarter" in found.message

    @pytest.mark.parametrize("as_what", [bool, float, torch.tensor])
    def test_a_task_may_come_as_any_number(self, as_what):
        found = exercises._through_the_training(lambda step, steps, losses: as_what(step % 2), 0)
        assert (float(found["amiss"]), float(found["seen"])) == (0.0, 2.0)


# What the notebook says of its experiments, and does not show.


def test_stopped_early_a_fixed_weight_has_not_tipped_yet():
    early = experiments.narrow(1, 0.0, learning_rate=0.005, steps=200)["worst"]
    assert float(early["hindsight"].mean()) > 0.3
    assert float(early.lead("lagging", "hindsight").mean()) < 0.0


@pytest.mark.parametrize("relatedness", [0.0, 0.6])
def test_errors_are_in_stars_whatever_the_unit(relatedness):
    seeds = (0, 1)
    in_stars = experiments.open_shop("stars", seeds, relatedness).train["rows"]["rating"].square().mean(1)
    for unit in ("tenths", "spread", "stars"):
        own = experiments.open_shop(unit, seeds, relatedness).train["rows"]["rating"].square().mean(1)
        losses = torch.stack([torch.ones(2), own], dim=1)
        found = experiments.in_stars(losses, unit, seeds, relatedness)
        torch.testing.assert_close(found, torch.stack([torch.ones(2), in_stars], dim=1))


def test_odds_are_powers_of_ten():
    found = experiments.odds({"a": torch.tensor([[100.0, 1.0]]), "b": torch.tensor([[1.0, 0.0]])})
    assert [float(found[way]) for way in found] == pytest.approx([2.0, 6.0])


def test_what_was_learned_is_a_share_of_a_network_for_one_task():
    bare, (click, rating) = experiments.BARE, (0.4, 0.3)
    alone = {"click alone": torch.tensor([[click, 1.0]]), "rating alone": torch.tensor([[0.7, rating]])}
    shares = dict.fromkeys(experiments.GRID, torch.tensor([[click, 1.0]]))
    half = torch.tensor([[(float(bare[0]) + click) / 2, (1 + rating) / 2]])
    found = experiments.learned_shares({**alone, **shares, "half": half})
    for name in ("click", "rating", "worst", "mean"):
        assert float(found[name]["half"]) == pytest.approx(0.5)
    assert float(found["worst"]["hindsight"]) == pytest.approx(0.0)
    assert float(found["mean"]["click alone"]) == pytest.approx(0.5)


# The explorers, moved.


@pytest.mark.parametrize("way", ["equal", "uncertainty", "GradNorm", "MGDA", "lagging"])
def test_weights_are_shown_while_networks_train(way, monkeypatch):
    monkeypatch.setitem(experiments.SETTINGS["recipe"], "steps", 20)
    controls = {"way": way, "unit": "spread", "relatedness": 0.6, "width": 2}
    running = list(experiments.train_live(**controls, seed=1))
    assert [moment.done for moment in running] == [10, 20]
    result = running[-1].snapshot()
    (arm,) = result.over_training["share"].arms
    assert arm == way
    assert result.over_training["click"][way].shape == (8, 2)
    assert result.front.shape == (len(experiments.FRONT), 2)
    assert (float(result.over_training["share"][way].mean()) == 0.5) == (way == "equal")
    pictures.draw_live(result, new_figure(), controls)
    said = pictures.describe_live(result, controls)
    assert f"{float(result.over_training['click'].at_end()[way].mean()):.3f}" in said


def test_arrows_and_ways_down_speak():
    controls = {"angle": 125, "length": 3.0}
    said = pictures.describe_arrows(experiments.draw_by_hand(125.0, 3.0), controls)
    assert "mean makes the click worse" in said
    assert "CAGrad" not in said
    assert "no way makes a task worse" in pictures.describe_arrows(experiments.draw_by_hand(60.0, 3.0), controls)
    *_, last = lesson.explorers._descend("mean", 0.1, "2")
    result, controls = last.snapshot(), {"way": "mean", "rate": 0.1, "start": "2"}
    pictures.draw_descent(result, new_figure(), controls)
    assert "from start 2 the mean" in pictures.describe_descent(result, controls)
    assert lesson.ends_of("mean", 0.1)[1] == pytest.approx(result.ends[0])


# What was chosen.


SLOW = pytest.mark.skipif(not os.environ.get("RECMTL_SLOW_TESTS"), reason="minutes: set RECMTL_SLOW_TESTS=1")


@SLOW
@pytest.mark.parametrize(("unit", "chosen"), [("tenths", "chosen"), ("spread", "over_spread")])
def test_each_way_is_found_again(unit, chosen):
    wanted = experiments.SETTINGS[chosen]
    for way, scores in experiments.score_ways(unit, tuple(wanted)).items():
        assert len(scores) == 21
        assert list(max(scores, key=scores.get)) == list(wanted[way])


@SLOW
def test_weights_of_a_task_that_helps_are_found_again():
    scores = experiments.score_helpers()
    chosen = {name: list(min(of_arm, key=of_arm.get)) for name, of_arm in scores.items()}
    assert chosen == {name: list(found) for name, found in experiments.SETTINGS["helper"]["chosen"].items()}
    assert {len(of_arm) for of_arm in scores.values()} == {21}
