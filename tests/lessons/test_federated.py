"""Lesson 12: what it measures is what it says."""

import math
import os

import pytest
import torch
from torch.func import functional_call, grad, vmap

from recmtl_lessons.datasets.few_shot import film_users
from recmtl_lessons.lessons import federated as lesson
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS
from recmtl_lessons.lessons.federated import exercises, experiments, pictures, realtime, realtime_pictures
from recmtl_lessons.lessons.federated.experiments import SETTINGS, send_masked, train_live
from recmtl_lessons.models import privacy_spent
from recmtl_lessons.teaching.claim import t_interval
from recmtl_lessons.teaching.style import new_figure
from recmtl_lessons.training.online import Followed
from tests.support.films import needs_films

SEED = lesson.SEEDS[0]


def written_out(steps):
    """The notebook's loop, with so many local steps."""
    network = lesson.make_network(SEED)

    def loss_of(w, x, y):
        return (functional_call(network, w, (x,)).squeeze(1) - y).square().mean()

    def client(phi, x, y):
        w = phi
        for _ in range(steps):
            slope = grad(loss_of)(w, x, y)
            w = {name: w[name] - 0.1 * slope[name] for name in w}
        return {name: w[name] - phi[name] for name in w}

    def train(phi, phones):
        for here in phones.taken:
            if here.any():
                sent = vmap(client, in_dims=(None, 0, 0))(phi, phones.x[here], phones.y[here])
                phi = {name: phi[name] + sent[name].mean(0) for name in phi}
        return phi

    return train


class TestTheLearnersServer:
    @pytest.mark.parametrize(("steps", "arm"), [(1, "one step"), (5, "five steps")])
    def test_is_the_stacks(self, steps, arm):
        gaps = lesson.difference_from_the_stack(written_out(steps))
        assert gaps.pop(arm) < 1e-9
        assert min(gaps.values()) > 1e-3

    def test_held_out_is_what_the_band_shows(self):
        users = experiments.open_shop((SEED,))
        learner = experiments.learner_of("five steps")
        *_, (_, stack, kept) = experiments.follow(learner, users, (SEED,), 40)
        found = lesson.held_out(dict(stack.model(0).named_weights()), SEED)
        assert found == pytest.approx(kept[-1][:, 0].tolist(), abs=1e-5)

    def test_an_answer_in_the_round_trains_as_the_course_does(self, to_the_end, monkeypatch):
        monkeypatch.setattr(experiments, "OWN_ROUNDS", 20)
        found = to_the_end(experiments.train_with(exercises.federated_round))
        users, learner = experiments.open_shop(lesson.SEEDS[:2]), experiments.learner_of("five steps")
        *_, (_, _, kept) = experiments.follow(learner, users, lesson.SEEDS[:2], 20)
        for k, part in enumerate(("before", "after")):
            torch.testing.assert_close(found[part]["yours"][:, -1], kept[-1][k], atol=1e-4, rtol=0)
        assert "20 rounds" in pictures.describe_own(found)


def test_ratings_are_dealt_to_other_people_of_the_same_shop():
    users = experiments.open_shop(lesson.SEEDS[:2])
    dealt = experiments.dealt_anew(users, lesson.SEEDS[:2])
    assert dealt.test is users.test
    for k in range(2):
        before, after = (
            torch.cat([torch.cat([t.support_x, t.query_x], 2), torch.cat([t.support_y, t.query_y], 2)[..., None]], 3)[k]
            for t in (users.train, dealt.train)
        )
        assert sorted(before.flatten(0, 1).tolist()) == sorted(after.flatten(0, 1).tolist())
        same = (before[:, :, None] == after[:, None]).all(3).any(2).float().mean()
        assert same < 0.02  # of a person's ratings


def test_one_local_step_is_behind_five_in_five_times_the_rounds_too():
    users, one = experiments.open_shop(), experiments.learner_of("one step")
    stack = one.stack(users.train, lesson.SEEDS, experiments.HIDDEN).fit(5 * experiments.ROUNDS, "")
    error = experiments.errors(one, stack, users.test.shots(10), one.rate, (3,))[0, 0]
    _, low, _ = t_interval(error - lesson.compare().after["five steps"])
    assert low > 0


class TestEpsilon:
    def test_is_that_of_the_rounds_and_of_who_is_expected(self):
        assert lesson.epsilon(3000, 2.0) == privacy_spent(0.01, 2.0, 60, 1e-6)
        assert lesson.epsilon(300, 2.0, rounds=10, expected=60) == privacy_spent(0.2, 2.0, 10, 1e-6)

    def test_beside_the_error(self, to_the_end):
        result = to_the_end(train_live(1, 30, 0.7, 1.0, 0.1, 0))
        assert result.over_rounds["after"].steps == tuple(range(10, 101, 10))
        assert result.spent[-1] == privacy_spent(0.1, 1.0, 100, 1e-6)
        assert result.spent == sorted(result.spent)

    def test_without_noise_there_is_none(self, to_the_end):
        controls = {"local_steps": 1, "clients": 30, "spread": 0.7, "noise": 0.0, "clip": 0.4}
        result = to_the_end(train_live(**controls, seed=1))
        assert math.isinf(result.spent[-1])
        said = pictures.describe_live(result, controls)
        assert "clip 0.4" in said
        assert "no epsilon" in said
        pictures.draw_live(result, new_figure(), controls)


def test_the_live_servers_follow_each_control(to_the_end):
    usual = {"local_steps": 1, "clients": 30, "spread": 0.7, "noise": 0.0, "clip": 0.4, "seed": 0}
    ends = {}
    for name, value in (
        {"": 0} | {"local_steps": 2, "clients": 10, "spread": 0.0, "noise": 2.0, "clip": 0.05, "seed": 1}
    ).items():
        controls = usual | ({name: value} if name else {})
        ends[name] = float(to_the_end(train_live(**controls)).over_rounds["after"].at_end()["live"].mean())
    assert len({round(end, 6) for end in ends.values()}) == len(ends), ends


class TestMasks:
    @pytest.mark.parametrize("masks", ["whole numbers", "floats"])
    @pytest.mark.parametrize(("dropped", "shares"), [("nobody", False), ("nobody", True), ("1", True), ("4", True)])
    def test_vanish_in_the_sum(self, masks, dropped, shares):
        assert send_masked(dropped, shares, masks).off < (1e-5 if masks == "whole numbers" else 0.1)

    @pytest.mark.parametrize("masks", ["whole numbers", "floats"])
    def test_stay_without_the_lost_ones_shares(self, masks):
        found = send_masked("2", False, masks)
        assert found.here == (0, 2, 3, 4)
        assert found.off > 1

    def test_of_whole_numbers_are_spread_over_all(self):
        messages = torch.cat(
            [send_masked("nobody", False, "whole numbers", seed=s).messages.flatten() for s in range(6)]
        )
        assert messages.min() >= 0
        assert messages.max() < 2**32
        share = (messages < 2**31).double().mean()
        assert abs(share - 0.5) < 4 * 0.5 / len(messages) ** 0.5

    def test_of_floats_blur_the_sum(self):
        floats, whole = lesson.float_masks_off()
        assert floats > 100 * whole

    def test_in_words(self):
        controls = {"client": 2, "dropped": "2", "shares": False, "masks": "whole numbers"}
        found = send_masked("2", False, "whole numbers")
        assert "client 2 dropped out: client 2" in pictures.describe_masked(found, controls)
        assert "sends nothing" in pictures.describe_masked(found, controls)
        pictures.draw_masked(found, new_figure(), controls)


def test_one_heavy_client_moves_the_mean_by_its_weight():
    found = lesson.heavy_client()
    assert found["uniform"] == pytest.approx(1 / 10)
    assert found["by rows"] == pytest.approx(100 / 109)


def test_the_masks_of_the_exercise_cancel():
    drawn = torch.randint(2**32, (4, 4, 6), generator=torch.Generator().manual_seed(0))
    streams = torch.stack([torch.stack([drawn[min(i, j), max(i, j)] for j in range(4)]) for i in range(4)])
    numbers = torch.arange(24).view(4, 6)
    sent = torch.stack([exercises.masked(numbers[k], streams, k) for k in range(4)])
    assert torch.equal(sent.sum(0) % 2**32, numbers.sum(0))


@needs_films
def test_films_have_the_same_people_for_all(movielens):
    found = lesson.films(movielens)
    assert found.arms == ("own mean", "film mean and offset", "central", "five steps", "private")
    assert float(found.values.max()) < 1.5


class TestRealTime:
    def test_an_own_loop_is_the_stacks(self):
        for window in ("all", 30):
            network, x, y = realtime.one_shop_streams("turn steadily")
            how, errors = realtime.plan("MAML", window), []
            w = dict(network.named_weights())
            for n in range(60):
                errors.append((network(x[0, n : n + 1], w).squeeze() - y[0, n]).abs().item())
                rows = slice(max(0, n + 1 - (how.window or 60)), n + 1)
                loss = (network(x[0, rows], w).squeeze(1) - y[0, rows]).square().mean()
                slopes = torch.autograd.grad(loss, list(w.values()))
                moved = [(v - how.rate * g).detach().requires_grad_() for v, g in zip(w.values(), slopes, strict=True)]
                w = dict(zip(w, moved, strict=True))
            stack = realtime.run("MAML", how, "turn steadily").errors[0, 0]
            torch.testing.assert_close(stack[:60], torch.tensor(errors), atol=1e-4, rtol=0)
            gaps = realtime.difference_from_the_stack(realtime.run("MAML", how, "turn steadily").errors[0, :3])
            assert gaps.pop(window) == 0
            assert min(gaps.values()) > 0.01

    def test_the_gradient_of_the_exercise_is_that_of_the_network(self):
        network, x, y = realtime.one_shop_streams()
        w = torch.nn.utils.parameters_to_vector(network.named_weights().values()).detach()
        off = network(x[0, :9]).squeeze(1) - y[0, :9]
        slopes = torch.autograd.grad(off.square().mean(), list(network.named_weights().values()))
        expected = torch.cat([g.flatten() for g in slopes])
        torch.testing.assert_close(realtime._gradient(w, x[0, :9], y[0, :9]), expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(realtime._off_and_slope(w, x[0, :9], y[0, :9])[0], off.detach())

    def test_an_own_learner_is_followed_as_the_course_follows(self, to_the_end):
        def learn(w, gradient, x, y, errors):
            assert len(x) == len(y) == len(errors)
            return w - 0.05 * gradient(w, x[-30:], y[-30:])

        found, moved = realtime.follow_one(learn, "turn at once", 2, 1)
        stack = realtime.run("MAML", realtime.plan("MAML", 30), "turn at once").errors[2, 1]
        torch.testing.assert_close(found, stack, atol=1e-4, rtol=0)
        assert moved == list(range(1, 121))

    def test_a_learner_that_writes_into_what_it_got_changes_nothing_else(self):
        def spoil(w, gradient, x, y, errors):
            for given in (w, x, y, errors):
                given.zero_()
            return before.clone()

        network, x, y = realtime.one_shop_streams("stand still")
        before = torch.nn.utils.parameters_to_vector(network.named_weights().values()).detach()
        found, moved = realtime.follow_one(spoil, "stand still", 0, 0)
        torch.testing.assert_close(found, (network(x[0]).squeeze(1) - y[0]).abs().detach())
        assert not moved

    @pytest.mark.parametrize("answer", [lambda *_: None, lambda *_: torch.zeros(3), lambda *_: "w"])
    def test_what_is_no_network_is_refused(self, answer):
        with pytest.raises(realtime.NoWeights):
            realtime.follow_one(answer, "stand still", 0, 0)

    def test_the_detectors_share_is_counted_after_the_turn(self):
        class After(list):
            drift_detected = False

            def update(self, x):
                self.append(x)
                self.drift_detected = len(self) in (10, 67, 70)

        errors = torch.ones(2, 3, 120)
        one = Followed(errors, torch.zeros_like(errors).bool(), torch.ones_like(errors).bool())
        found, late, alarms = realtime._found(one, After)
        assert found.tolist() == [1.0, 1.0]
        assert late.tolist() == [7.0, 7.0]
        assert alarms.tolist() == [3.0, 3.0]

    def test_in_hindsight_is_the_least(self):
        found = realtime.chosen_in_hindsight()
        for other in ("beforehand", "for all"):
            assert (found["in hindsight"] <= found[other]).all()

    def test_costs(self):
        found = realtime.costs()
        assert found["last 30"]["gradients"] == pytest.approx((sum(range(1, 30)) + 91 * 30) / 120)
        assert found["last 30"]["bytes"] == 4 * 577 + 8 * 30
        assert found["last 30, restarting"]["bytes"] == 8 * 30

    def test_live(self, to_the_end):
        usual = {
            "begin": "MAML",
            "window": "all",
            "rate": 0.05,
            "drift": 1.0,
            "turn": "at once",
            "alarms": "acted upon",
        }
        ends = {}
        for name, value in ({"": 0} | {"begin": "joint", "window": "10", "rate": 0.01, "drift": 0.25}).items():
            result = to_the_end(realtime.watch(**(usual | ({name: value} if name else {}))))
            ends[name] = float(result.found.errors.mean())
        ends["turn"] = float(to_the_end(realtime.watch(**usual | {"turn": "steadily"})).found.errors.mean())
        shown = to_the_end(realtime.watch(**usual | {"alarms": "shown"}))
        ends["alarms"] = float(shown.found.errors.mean())
        assert len({round(end, 6) for end in ends.values()}) == len(ends), ends
        off = to_the_end(realtime.watch(**usual | {"alarms": "off"}))
        assert torch.equal(off.found.errors, shown.found.errors)
        assert shown.found.alarms.any()
        assert not off.found.alarms.any()

    def test_in_words_and_drawn_from_the_first_rating(self, to_the_end):
        controls = {"begin": "MAML", "window": "30", "rate": 0.05, "drift": 1.0, "turn": "at once", "alarms": "shown"}
        first = next(realtime.watch(**controls))
        realtime_pictures.draw_live(first.snapshot(), new_figure(), controls)
        assert "not yet known" in realtime_pictures.describe_live(first.snapshot(), controls)
        last = to_the_end(realtime.watch(**controls))
        realtime_pictures.draw_live(last, new_figure(), controls)
        said = realtime_pictures.describe_live(last, controls)
        assert "soon after the turn" in said
        assert f"{float(last.standing.mean(11).mean()):.3f} static" in said

    @needs_films
    def test_films_have_the_same_people_in_both_orders(self, movielens):
        found = realtime.films(movielens)
        assert found["in time"].arms == ("static", "fitted once", 10, "all")
        assert found["shuffled"].arms == (10, "all")
        assert float(found["in time"].values.max()) < 1.5


SLOW = pytest.mark.skipif(not os.environ.get("RECMTL_SLOW_TESTS"), reason="minutes: set RECMTL_SLOW_TESTS=1")


def users_of(shop, movielens):
    if shop == "films":
        return film_users(movielens, DESIGN_SEEDS, episodes=1)
    users = experiments.open_shop(DESIGN_SEEDS, 0.0 if shop == "one_taste" else 0.7)
    return experiments.dealt_anew(users, DESIGN_SEEDS) if shop == "dealt" else users


@needs_films
@SLOW
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("shop", "arm"), [(s, arm) for s in ("chosen", "one_taste", "dealt", "films") for arm in SETTINGS[s]]
)
def test_rates_are_found_again(shop, arm, movielens):
    scores = experiments.score_arm(arm, users_of(shop, movielens))
    assert len(scores) == 36
    assert tuple(SETTINGS[shop][arm]) == min(scores, key=scores.get)


@SLOW
@pytest.mark.timeout(900)
@pytest.mark.parametrize("arm", SETTINGS["thirty_steps"])
def test_rates_of_thirty_steps_are_found_again(arm):
    scores = experiments.score_thirty_steps(arm)
    assert SETTINGS["thirty_steps"][arm] == min(scores, key=scores.get)


@needs_films
@SLOW
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("shop", "clip"), [("chosen", "clip"), ("films", "films")])
def test_clips_are_found_again(shop, clip, movielens):
    scores = experiments.score_clips(users_of(shop, movielens), shop)
    assert experiments.PRIVATE[clip] == min(scores, key=scores.get)


@SLOW
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["joint", "MAML"])
def test_rates_online_are_found_again(name):
    scores = realtime.score_online(name)
    for window, rate in realtime.SETTINGS["windows"][name].items():
        tried = {r: score for (w, r), score in scores.items() if w == window}
        assert rate == min(tried, key=tried.get)
    alone = realtime.score_online(name, (30,), shops=("stand still",), spread=0.0)
    assert realtime.SETTINGS["one_taste"][name] == min(alone, key=alone.get)[1]


@needs_films
@SLOW
@pytest.mark.timeout(900)
def test_other_settings_online_are_found_again(movielens):
    once, again, alarms, films = (
        realtime.score_once(), realtime.score_restarting(), realtime.score_detectors(), realtime.score_films(movielens),
    )  # fmt: skip
    assert tuple(realtime.SETTINGS["once"]["chosen"]) == min(once, key=once.get)
    assert realtime.SETTINGS["restart"]["rate"] == min(again, key=again.get)
    for name, key in (("ADWIN", "delta"), ("Page-Hinkley", "threshold")):
        tried = {setting: score for (n, setting), score in alarms.items() if n == name}
        assert realtime.SETTINGS["detectors"][name][key] == max(tried, key=tried.get)
    for how, rate in realtime.SETTINGS["films"].items():
        tried = {r: score for (h, r), score in films.items() if h == how}
        assert rate == min(tried, key=tried.get)
