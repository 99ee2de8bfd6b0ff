"""Lesson 05: its exercises accept what is right, its plane is exact, its experiments measure what they say."""

import math
import os
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from recmtl_lessons.datasets import few_shot as users
from recmtl_lessons.datasets import load_movielens
from recmtl_lessons.lessons import reptile as lesson
from recmtl_lessons.lessons.maml import experiments as lesson_04
from recmtl_lessons.lessons.reptile import (
    breaking,
    costs,
    expansion,
    experiments,
    explorers,
    pictures,
    plane,
    race,
)
from recmtl_lessons.models import MAMLRecommender, ReptileRecommender
from recmtl_lessons.teaching.style import new_figure
from recmtl_lessons.training import few_shot

SLOW = pytest.mark.skipif(not os.environ.get("RECMTL_SLOW_TESTS"), reason="minutes: set RECMTL_SLOW_TESTS=1")
NEAR = 0.001  # stars: as near to the best that was tried as a rate must be
SMALL = (0, 1)
SHOP = users.Shop(ratings=50, query=12, episodes=2, train_users=40, valid_users=10, test_users=15)


@pytest.fixture(scope="module")
def shop():
    return users.shop_users(SHOP, SMALL)


@pytest.fixture(scope="module")
def compared():
    return experiments.compare(SHOP, SMALL, 10)


# What is asked.


def test_other_right_ways_are_accepted(verdict):
    def weighted(phi, after, epsilon):
        return (1 - epsilon) * phi + epsilon * sum(after) / len(after)

    def by_cleared_state(phi, users, loss, make_optimizer):
        w = phi.clone().requires_grad_()
        optimizer, after = make_optimizer([w]), []
        for batches in users:
            w.data.copy_(phi)
            optimizer.state.clear()
            for batch in batches:
                w.grad = None
                loss(w, batch).backward()
                optimizer.step()
            after.append(w.detach().clone())
        return after

    assert verdict(lesson.exercise_step, weighted).kind == "right"
    assert verdict(lesson.exercise_optimizer, by_cleared_state).kind == "right"


def test_further_wrong_answers_are_named(verdict):
    def elsewhere(phi, users, loss, make_optimizer):
        with torch.no_grad():
            phi.mul_(2)
        return lesson.exercise_optimizer.reference(phi, users, loss, make_optimizer)

    assert "You changed `phi` itself" in verdict(lesson.exercise_optimizer, elsewhere).message
    assert "I expected a tensor of shape" in verdict(lesson.exercise_step, lambda p, a, e: 0.5).message
    away = verdict(lesson.exercise_step, lambda p, a, e: (p - e * (sum(a) / len(a) - p)).double())
    assert "walk away" in away.message
    several = verdict(lesson.exercise_count, lambda m, n: (n + (m != "Reptile"), 99 * (m == "MAML")))
    assert "For method = MAML, inner_steps = " in several.message


def test_the_notebook_with_solutions_in_it_passes_its_checks(solved):
    answers = {
        "my_outer_step": "return phi + epsilon * (torch.stack(after).mean(0) - phi)",
        "my_inner_loops": "return lesson.exercise_optimizer.reference(phi, users, loss, make_optimizer)",
        "my_count": 'return (inner_steps + (method != "Reptile"), inner_steps if method == "MAML" else 0)',
    }
    kinds = solved("05_reptile.ipynb", {"torch": torch, "lesson": lesson}, answers)
    assert kinds == dict.fromkeys(answers, "right")


def test_the_study_question_takes_its_evidence_from_an_explorer():
    explorer = explorers.explore_plane()
    study = lesson.study_question(explorer)
    assert len(study.checks) == 3
    places = [list(check.choices).index(check.correct) for check in study.checks]
    assert len(set(places)) > 1
    explorer.close()


# The plane.


def test_the_bowls_are_the_users_errors():
    x, y = plane.ratings()
    assert float(x.mean(1).abs().max()) < 1e-6
    assert float(y.mean(1).abs().max()) < 1e-6
    of = plane.bowls(x, y)
    for place in torch.tensor([[0.3, -1.0], [2.0, 2.0]]):
        by_hand = torch.stack([F.mse_loss(x[t] @ place, y[t]) for t in range(3)])
        torch.testing.assert_close(of.loss(place), by_hand, rtol=1e-4, atol=1e-4)
    joint = plane.joint_optimum(of).requires_grad_()
    slope = torch.autograd.grad(sum(F.mse_loss(x[t] @ joint, y[t]) for t in range(3)), joint)[0]
    assert float(slope.abs().max()) < 1e-4


@pytest.mark.parametrize(("inner_steps", "inner_lr"), [(1, 0.2), (5, 0.1), (20, 0.2)])
def test_the_way_ends_where_it_must(inner_steps, inner_lr, to_the_end):
    shown = to_the_end(plane.reptile_in_the_plane(inner_steps, inner_lr, 1.0, 2))
    assert len(shown.way) == plane.UPDATES + 1
    torch.testing.assert_close(shown.way[-1], shown.rest, rtol=0, atol=2e-2)
    away = float((shown.rest - shown.joint).norm())
    assert away < 1e-4 if inner_steps == 1 else away > 0.2


def test_many_steps_lead_to_the_mean_of_the_optima():
    of = plane.bowls(*plane.ratings())
    torch.testing.assert_close(plane.rest_point(of, 3_000, 0.2), of.optimum.mean(0), rtol=0, atol=1e-3)


def test_paths_and_way_fit_together(to_the_end):
    shown = to_the_end(plane.reptile_in_the_plane(3, 0.1, 0.5, 4))
    assert shown.shown == 4
    assert shown.paths.shape == (3, 4, 2)
    assert torch.equal(shown.paths[:, 0], shown.way[3].expand(3, 2))
    moved = shown.way[3] + 0.5 * (shown.paths[:, -1].mean(0) - shown.way[3])
    torch.testing.assert_close(shown.way[4], moved, rtol=1e-5, atol=1e-5)
    after = pictures.after_steps(shown.users, shown.way[3], 3, 0.1)
    expected = shown.users.loss(shown.paths[0, 2])[0] - shown.users.least[0]
    torch.testing.assert_close(after[2, 0], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("inner_lr", "meta_lr"), [(0.02, 0.1), (0.6, 2.5)])
@pytest.mark.parametrize("inner_steps", [1, 20])
def test_the_plane_can_be_drawn_at_every_end_of_its_controls(inner_steps, inner_lr, meta_lr, to_the_end):
    controls = {"inner_steps": inner_steps, "inner_lr": inner_lr, "meta_lr": meta_lr}
    shown = to_the_end(plane.reptile_in_the_plane(**controls, update=60 if inner_steps == 1 else 1))
    pictures.draw_plane(shown, new_figure(11, 4.8), controls)
    said = pictures.describe_plane(shown, controls)
    assert ("overshoot" in said) == shown.diverges
    assert shown.diverges == (inner_lr == 0.6)
    assert ("climb" in said) == (inner_lr == 0.6)


def test_phi_may_leave_where_every_users_steps_descend(to_the_end):
    shown = to_the_end(plane.reptile_in_the_plane(20, 0.1, 2.5, 1))
    assert shown.diverges
    assert shown.climbers(0.1) == ()
    assert float(shown.way.abs().max()) < 50  # it is told from where it should be, long before that
    assert not to_the_end(plane.reptile_in_the_plane(20, 0.1, 2.0, 1)).diverges


def test_the_climbers_are_those_whose_steps_climb(to_the_end):
    shown = to_the_end(plane.reptile_in_the_plane(20, 0.6, 0.1, 1))
    ends = pictures.after_steps(shown.users, torch.zeros(2), 20, 0.6)
    found = tuple(name for name, up in zip(plane.USERS, ends[-1] > ends[0], strict=True) if up)
    assert shown.climbers(0.6) == found == ("Ada",)


def test_the_right_panel_starts_where_phi_comes_to_rest(to_the_end):
    controls = {"inner_steps": 1, "inner_lr": 0.1, "meta_lr": 0.1}
    shown = to_the_end(plane.reptile_in_the_plane(**controls, update=1))
    assert float((shown.way[-1] - shown.rest).norm()) > 0.5  # not there yet
    figure = new_figure(11, 4.8)
    pictures.draw_plane(shown, figure, controls)
    heights = {line.get_label(): list(line.get_ydata()) for line in figure.axes[1].lines}
    assert heights["from where φ comes to rest"] == pytest.approx(heights["from the joint optimum"], rel=1e-4)
    expected = pictures.after_steps(shown.users, shown.rest, 1, 0.1).mean(1).tolist()
    assert heights["from where φ comes to rest"] == pytest.approx(expected)


def test_the_first_explorer_runs():
    explorer = explorers.explore_plane()
    assert len(explorer.run(inner_steps=2).paths[0]) == 3
    explorer.close()


# Training and measuring.


def test_the_objectives_gradient_is_reptiles_step(shop):
    models = few_shot.train(few_shot.ReptileLearner(4, 0.5, 0.05), shop.train, SMALL, steps=3)
    for s, seed in enumerate(SMALL):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            alone = ReptileRecommender(
                16, few_shot.HIDDEN, inner_steps=4, inner_batch_size=10, inner_lr=0.05, meta_lr=0.5
            )  # fmt: skip
        for batch in models.draw_batches(s, 3):
            alone.meta_update(few_shot.all_ratings(batch["users"]))
        found = models.model(s).named_weights()
        for name, value in alone.named_weights().items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_every_arm_takes_as_many_gradients_of_as_many_ratings():
    ratings = {arm.users * arm.inner_steps * arm.rows for arm in experiments.SHOP_ARMS.values()}
    assert ratings == {few_shot.USERS * (few_shot.INNER_STEPS + 1) * 10}
    assert few_shot.ReptileLearner(8).users == 8
    on_films = (experiments.FILM_ARMS[k] for k in (1, 4))
    assert {arm.users * arm.inner_steps * arm.rows for arm in on_films} == ratings


@pytest.mark.parametrize("arm", [1, 4])
def test_the_errors_are_those_of_the_networks(compared, arm):
    test, rate = compared.users.test.shots(10), experiments.SHOP_ARMS[arm].rate
    for s in SMALL:
        network = compared.models[arm].model(s)
        for steps, scores in ((0, compared.before), (3, compared.after)):
            total = 0.0
            for t in range(15):
                mine = network.inner_loop((test.support_x[s, t], test.support_y[s, t]), steps, inner_lr=rate)
                total += float((network.predict(test.query_x[s, t], mine) - test.query_y[s, t]).abs().mean()) / 15
            assert float(scores[arm][s]) == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("name", experiments.RIVALS)
def test_the_rivals_are_lesson_04s(compared, name):
    test, arm = compared.users.test.shots(10), lesson_04.SHOP_ARMS[name]
    models = few_shot.train(arm, compared.users.train, SMALL, steps=10)
    expected = few_shot.errors(arm, models, test, arm.rate, (3,))[0, 0]
    torch.testing.assert_close(compared.after[name], expected)


def test_shuffled_ratings_are_the_same_ratings(shop):
    dealt = experiments.without_users(shop.train, SMALL)
    for s in SMALL:
        before = torch.cat([shop.train.support_y[s], shop.train.query_y[s]], 1).flatten().sort().values
        after = torch.cat([dealt.support_y[s], dealt.query_y[s]], 1).flatten().sort().values
        assert torch.equal(before, after)
    assert dealt.support_x.shape == shop.train.support_x.shape
    assert rated(dealt, 0) == rated(shop.train, 0)  # a film still has the rating that it was given
    whose = zip(shop.train.user[0].tolist(), shop.train.support_y[0].tolist(), strict=True)
    owner = {stars: user for user, row in whose for stars in row}
    people = [len({owner[y] for y in row if y in owner and abs(y) < 2}) for row in dealt.support_y[0].tolist()]
    assert sum(people) / len(people) > 3  # a group had one owner before


def rated(tasks, s):
    """Every film's features with the rating it got."""
    x, y = few_shot.all_ratings({f: getattr(tasks, f)[s] for f in few_shot.FIELDS})
    return {(*row, stars) for row, stars in zip(x.flatten(0, 1).tolist(), y.flatten().tolist(), strict=True)}


def test_the_controls_have_their_shape(compared):
    assert experiments.with_shuffled_users(compared, SMALL, 3).after["nobody's"].shape == (2,)
    control = experiments.with_one_taste(SMALL, 3, replace(SHOP, taste_spread=0.0))
    assert control.arms == ("before", "after", "after, at the shop's rate")
    assert control.values.unique().numel() == 6


def test_the_longer_control_goes_on_training(shop, monkeypatch):
    monkeypatch.setattr(experiments, "shop_users", lambda *a: shop)
    longer = experiments.shuffled_for_longer((2, 5), SMALL)
    for way, arm, known in (
        ("one step", experiments.SHOP_ARMS[1], shop.train),
        ("four, nobody's ratings", experiments.SHUFFLED, experiments.without_users(shop.train, SMALL)),
    ):
        models = few_shot.train(arm, known, SMALL, steps=5)
        expected = few_shot.errors(arm, models, shop.test.shots(10), arm.rate, (3,))[0, 0]
        torch.testing.assert_close(longer[way][:, 1], expected, rtol=1e-4, atol=1e-4)
        assert not torch.equal(*longer[way].T)
    assert longer.steps == (2, 5)


@SLOW
def test_with_more_updates_nobodys_ratings_are_worth_no_more_than_one_step():
    one, nobodys, users_ = experiments.shuffled_for_longer((200, 3_200)).values.mean(1)
    assert float(one[0] - nobodys[0]) > 0.005  # at first they are
    assert float(one[1] - nobodys[1]) < 0.002
    assert float(nobodys[1] - users_[1]) > 1.5 * float(nobodys[0] - users_[0])


def test_a_training_that_went_to_infinity_is_the_worst():
    scores = few_shot.over_seeds(torch.tensor([[1.0, math.nan], [1.0, 3.0], [math.inf, 1.0]]))
    assert scores == [math.inf, 2.0, math.inf]


@SLOW
@pytest.mark.parametrize(("inner_steps", "shuffled"), [(1, False), (2, False), (4, False), (4, True)])
def test_each_arm_has_its_best_rates(inner_steps, shuffled):
    arm = experiments.SHUFFLED if shuffled else experiments.SHOP_ARMS[inner_steps]
    scores = experiments.score_training(inner_steps, shuffled=shuffled)
    assert scores[arm.meta_lr, arm.inner_lr, arm.rate] <= min(scores.values()) + NEAR


@SLOW
def test_the_rate_with_one_taste_is_the_best_of_those_tried():
    scores = {rate: score for (*_, rate), score in experiments.score_one_taste().items()}
    assert scores[experiments.SETTINGS["rate_with_one_taste"]] == min(scores.values())


@SLOW
@pytest.mark.parametrize("inner_steps", [1, 4])
def test_rates_on_films_are_the_best_of_those_tried(inner_steps):
    arm = experiments.FILM_ARMS[inner_steps]
    scores = experiments.score_films(load_movielens(), inner_steps)
    assert scores[arm.meta_lr, arm.inner_lr, arm.rate] <= min(scores.values()) + NEAR


@SLOW
@pytest.mark.parametrize(("momentum", "chosen"), experiments.SETTINGS["adam"].items())
def test_adams_rates_are_the_best_of_those_tried(momentum, chosen):
    for way, carried in (("fresh", False), ("trained", True)):
        scores = breaking.score_adam(momentum, carried)
        assert scores[chosen[way]] <= min(scores.values()) + NEAR
    scores = breaking.score_serving(momentum)
    assert scores[chosen["served"]] <= min(scores.values()) + NEAR


def test_the_scores_behind_the_rates_can_be_had_again(monkeypatch):
    for module in (experiments, breaking):
        monkeypatch.setattr(module, "DESIGN_SEEDS", SMALL)
        monkeypatch.setattr(module, "SHOP", SHOP)
    train = few_shot.train
    monkeypatch.setattr(few_shot, "train", lambda *a, **k: train(*a[:4], steps=2, **k))
    monkeypatch.setattr(breaking, "UPDATES", 2)
    for shuffled in (False, True):
        scores = experiments.score_training(4, (0.5, 1.0), (0.05, 0.1), SHOP, shuffled)
        assert len(scores) == 4 * len(few_shot.RATES)
        assert len(set(scores.values())) == len(scores)
    assert set(breaking.score_adam(breaking.MOMENTUM, True, (0.003, 0.01))) == {
        (a, b) for a in (0.003, 0.01) for b in (0.003, 0.01)
    }
    assert set(breaking.score_serving(breaking.MOMENTUM, (0.003, 0.01))) == {0.003, 0.01}
    assert {rate for *_, rate in experiments.score_one_taste(SHOP)} == set(few_shot.RATES)


# What the steps add.


def test_beside_joint_training_is_measured_in_shares(shop):
    together = expansion.beside_joint_training(shop.train, SMALL, updates=3)
    assert together.steps == (1, 2, 3)
    assert 0 < float(together[1].max()) < 1e-10
    assert float(together[4].min()) > 1e-3


def test_joint_training_is_set_beside_the_arms_compared(shop):
    shares = expansion.beside_joint_training(shop.train, SMALL, updates=1)[4][:, 0]
    arm = experiments.SHOP_ARMS[4]
    torch.manual_seed(1)
    network = ReptileRecommender(
        16, few_shot.HIDDEN, meta_lr=arm.meta_lr, inner_lr=arm.inner_lr, inner_steps=4, inner_batch_size=10
    ).double()  # fmt: skip
    x, y = few_shot.all_ratings({f: getattr(shop.train, f)[1, :16].double() for f in few_shot.FIELDS})
    start = torch.cat([p.detach().flatten() for p in network.parameters()])
    error = (network(x.flatten(0, 1)).squeeze(1) - y.flatten()).square().mean()
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(error, list(network.parameters()))])
    network.meta_update((x, y))
    there = torch.cat([p.detach().flatten() for p in network.parameters()])
    way = -4 * arm.inner_lr * arm.meta_lr * gradient
    assert float(shares[1]) == pytest.approx(float((there - start - way).norm() / way.norm()), rel=1e-6)


def test_the_agreement_by_hand(compared):
    found = expansion.gradients_agree(compared.models[4], compared.users)
    network, cosines = compared.models[4].model(1), []
    for part in (compared.users.valid, compared.users.test):
        for x, y in zip(part.support_x[1], part.support_y[1], strict=True):
            slopes = []
            for k in range(0, 50, 10):
                error = (network(x[k : k + 10]).squeeze(1) - y[k : k + 10]).square().mean()
                slopes.append(torch.cat([g.flatten() for g in torch.autograd.grad(error, list(network.parameters()))]))
            pairs = [F.cosine_similarity(slopes[i], slopes[j], dim=0) for i in range(5) for j in range(i)]
            cosines.append(torch.stack(pairs).mean())
    assert found.shape == (2,)
    assert float(found[1]) == pytest.approx(float(torch.stack(cosines).mean()), abs=1e-4)


def test_the_parts_of_two_steps_by_hand():
    torch.manual_seed(0)
    network = ReptileRecommender(3, (4,), inner_lr=0.05, inner_steps=2, inner_batch_size=5).double()
    x, y = torch.randn(10, 3, dtype=torch.float64), torch.randn(10, dtype=torch.float64)
    params = {name: value.detach() for name, value in network.named_weights().items()}
    halves = (x[:5], y[:5]), (x[5:], y[5:])
    update, plain, curved = expansion.two_steps(network, params, *halves, 0.05)
    move = network.pseudo_gradient((x[None], y[None]))
    for name in params:
        torch.testing.assert_close(update[name], move[name] / 0.05)

    def gradient(rows, at):
        loss = expansion.loss(network, at, *rows)
        return dict(zip(at, torch.autograd.grad(loss, list(at.values())), strict=True))

    at = {name: value.clone().requires_grad_() for name, value in params.items()}
    first, second = gradient(halves[0], at), gradient(halves[1], at)
    h = 1e-6
    shifted = {name: (value + h * first[name]).requires_grad_() for name, value in params.items()}
    slope = gradient(halves[1], shifted)
    for name in params:
        torch.testing.assert_close(plain[name], first[name] + second[name])
        torch.testing.assert_close(curved[name], -0.05 * (slope[name] - second[name]) / h, rtol=1e-3, atol=1e-6)


def test_the_term_is_the_gradient_of_the_agreement():
    r"""Both orders together: :math:`H_2 g_1 + H_1 g_2 = \nabla (g_1 \cdot g_2)`."""
    torch.manual_seed(1)
    network = ReptileRecommender(3, (4,)).double()
    x, y = torch.randn(10, 3, dtype=torch.float64), torch.randn(10, dtype=torch.float64)
    params = {name: value.detach() for name, value in network.named_weights().items()}
    one, two = (x[:5], y[:5]), (x[5:], y[5:])
    forth, back = (expansion.two_steps(network, params, *pair, 1.0)[2] for pair in ((one, two), (two, one)))

    def agreement(p):
        g1, g2 = (torch.func.grad(lambda p, rows=rows: expansion.loss(network, p, *rows))(p) for rows in (one, two))
        return sum((g1[name] * g2[name]).sum() for name in p)

    expected = torch.func.grad(agreement)(params)
    for name in params:
        torch.testing.assert_close(-(forth[name] + back[name]), expected[name])


def test_the_term_explains_ever_more_as_the_rate_falls(shop):
    parts = expansion.take_apart(shop.train, SMALL, (1e-5, 1e-2), users=6)
    extra, unexplained = parts["extra"], parts["unexplained"]
    assert float(unexplained[1e-5].max()) < 0.02
    assert bool((unexplained[1e-2] > unexplained[1e-5]).all())
    assert bool((extra[1e-2] > 100 * extra[1e-5]).all())


# What it costs.


def test_the_textbook_ways_are_the_packages():
    torch.manual_seed(0)
    network = MAMLRecommender(4, (5,), inner_lr=0.05).double()
    x, y = torch.randn(20, 4, dtype=torch.float64), torch.randn(20, dtype=torch.float64)
    support, query = (x[:10], y[:10]), (x[10:], y[10:])
    for first_order in (False, True):
        loss = network.query_losses(tuple(t[None] for t in (*support, *query)), 3, first_order).mean()
        expected = torch.autograd.grad(loss, list(network.parameters()))
        found = costs.maml_direction(network, support, query, 3, 0.05, first_order)
        for f, e in zip(found, expected, strict=True):
            torch.testing.assert_close(f, e)
    reptile = ReptileRecommender(4, (5,), inner_lr=0.05, inner_steps=4, inner_batch_size=10).double()
    reptile.load_state_dict(network.state_dict())
    expected = reptile.pseudo_gradient((x[None], y[None])).values()
    for f, e in zip(costs.reptile_direction(network, [support, query] * 2, 0.05), expected, strict=True):
        torch.testing.assert_close(f, e)


def test_bytes_kept_by_hand():
    x, w = torch.randn(10, 4), torch.randn(4, 3, requires_grad=True)

    def work():
        hidden = (x @ w).exp()  # exp keeps its result, 10 * 3 floats
        (hidden * hidden).sum().backward()  # and the product keeps it once more, the same bytes

    assert costs.bytes_kept(work, [x, w]) == 10 * 3 * 4
    assert costs.bytes_kept(work, [w]) == 10 * 3 * 4 + 10 * 4 * 4  # the product's rows count, if they were not there
    assert costs.bytes_kept(lambda: None, []) == 0


def test_memory_grows_for_maml_alone():
    memory = costs.memory_by_gradients((2, 4, 6))
    maml_, first_order, reptile = memory["MAML"], memory["first-order MAML"], memory["Reptile"]
    assert maml_[2] - maml_[1] == maml_[1] - maml_[0] > first_order[0]
    assert len({*first_order, *reptile}) == 1


def test_times_are_of_equal_work():
    lines = costs.time_updates(2).splitlines()
    assert [line[:17].strip() for line in lines] == ["MAML", "first-order MAML", "Reptile"]
    assert few_shot.milliseconds_by_turns([lambda: None] * 3, 2).shape == (2, 3)


# What breaks.


def test_training_with_adam_inside_is_the_packages_when_fresh(shop):
    trained = breaking._trained(shop, SMALL, 0.01, breaking.MOMENTUM, False, 2)
    for s, seed in enumerate(SMALL):
        torch.manual_seed(seed)
        alone = ReptileRecommender(
            16, few_shot.HIDDEN, meta_lr=1.0, inner_lr=0.01, inner_steps=4, inner_batch_size=10, inner_optimizer="adam",
            inner_betas=(breaking.MOMENTUM, 0.999),
        )  # fmt: skip
        for (x1, y1), (x2, y2) in breaking._batches(shop.train, SMALL, 2):
            mine = slice(s * breaking.USERS, (s + 1) * breaking.USERS)
            alone.meta_update((torch.cat([x1, x2], 1)[mine], torch.cat([y1, y2], 1)[mine]))
        for name, value in alone.named_weights().items():
            torch.testing.assert_close(trained[s].named_weights()[name], value, rtol=1e-3, atol=1e-4)


def test_the_state_is_carried_from_the_second_update_on(shop):
    def trained(carried, updates):
        return breaking._trained(shop, SMALL, 0.01, breaking.MOMENTUM, carried, updates)[0].head.weight.detach()

    assert torch.equal(trained(True, 1), trained(False, 1))
    assert not torch.allclose(trained(True, 2), trained(False, 2), atol=1e-3)


def test_serving_is_what_the_model_does_when_fresh(shop):
    networks = breaking._trained(shop, SMALL, 0.01, breaking.MOMENTUM, False, 2)
    test = shop.test.shots(10)
    fresh, carried = (breaking.serve(networks, test, 0.01, breaking.MOMENTUM, c) for c in (False, True))
    torch.testing.assert_close(fresh, breaking._errors(networks, test, 0.01), rtol=1e-3, atol=1e-4)
    assert float((fresh - carried).abs().min()) > 1e-4


def test_each_way_with_adam_is_measured():
    found = breaking.with_inner_adam(SHOP, SMALL, 2)
    assert found.arms == tuple(pictures.ADAM)
    assert found.values.shape == (6, 2)
    pictures.draw_adam(found, new_figure(8, 4))


# The race.


@pytest.mark.parametrize("budget", race.BUDGETS)
@pytest.mark.parametrize("rival", race.RIVALS)
def test_the_race_gives_both_as_much(monkeypatch, budget, rival, to_the_end):
    monkeypatch.setattr(race, "SHOP", SHOP)
    monkeypatch.setattr(race, "UPDATES", 30)
    monkeypatch.setattr(race, "SECONDS", 0.3)
    controls = {"inner_steps": 4, "meta_lr": 1.0, "rival": rival, "budget": budget, "seed": 3}
    result = to_the_end(race.race(**controls))
    if budget == race.BUDGETS[0]:
        assert [int(g[-1]) for g in result.gradients] == [30 * 64] * 2
    else:
        assert all(float(s[-1]) >= 0.3 for s in result.seconds)
        assert all(float(s[-2]) < 0.3 for s in result.seconds)
    for error, used in zip(result.error, result.gradients, strict=True):
        assert error.shape == (8, len(used))
    pictures.draw_race(result, new_figure(9, 4.4), controls)
    said = pictures.describe_race(result, controls)
    assert rival in said
    assert all(f"{int(used[-1]):,} gradients" in said for used in result.gradients)
    assert (" s and " in said) == (budget == race.BUDGETS[1])


def test_the_races_errors_are_the_networks(monkeypatch, to_the_end):
    monkeypatch.setattr(race, "SHOP", SHOP)
    monkeypatch.setattr(race, "UPDATES", 15)
    result = to_the_end(race.race(2, 0.5, "MAML", race.BUDGETS[0], 0))
    seeds = tuple(range(100, 108))
    shop_, arm = users.shop_users(SHOP, seeds), few_shot.SHOP_LEARNERS["MAML"]
    models = few_shot.train(arm, shop_.train, seeds, steps=race.SLICE)
    expected = few_shot.errors(arm, models, shop_.valid.shots(10), arm.rate, (3,))[0, 0]
    torch.testing.assert_close(result.error[1][:, 1], expected, rtol=1e-3, atol=1e-3)


def test_the_second_explorer_takes_its_controls(monkeypatch):
    monkeypatch.setattr(race, "SHOP", SHOP)
    monkeypatch.setattr(race, "UPDATES", 15)
    explorer = explorers.explore_race()
    eight = explorer.run(inner_steps=8, meta_lr=0.5, rival="first-order MAML")
    assert "chosen for 4" in pictures.describe_race(eight, explorer.values)
    assert "chosen for 4" not in pictures.describe_race(eight, {**explorer.values, "inner_steps": 2})
    explorer.close()


# Films.


def test_films_are_measured_as_they_say(monkeypatch, shop):
    few = replace(shop, test=shop.test.shots(10), valid=shop.valid.shots(10))
    monkeypatch.setattr(experiments, "film_users", lambda ratings, seeds: few)
    monkeypatch.setattr(experiments, "DESIGN_SEEDS", SMALL)
    result = experiments.compare_on_films(None, SMALL, 3)
    assert set(result.after) == {"MAML", 1, 4, "film mean + offset"}
    arm = experiments.FILM_ARMS[4]
    network = few_shot.train(arm, shop.train, SMALL, few_shot.FILM_HIDDEN, 3).model(0)
    errors = []
    for t in range(15):
        mine = network.inner_loop((few.test.support_x[0, t], few.test.support_y[0, t]), 2, inner_lr=arm.rate)
        errors.append((network.predict(few.test.query_x[0, t], mine) - few.test.query_y[0, t]).abs().mean())
    assert float(result.by_step[4][0, 2]) == pytest.approx(float(torch.stack(errors).mean()), abs=1e-4)
    pictures.draw_films(result, new_figure(10, 4))
    train = few_shot.train
    monkeypatch.setattr(few_shot, "train", lambda *a, **k: train(*a[:4], steps=1, **k))
    assert len(experiments.score_films(None, 4, (0.5,), (0.05, 0.1))) == 2 * len(few_shot.RATES)
    lost = [score for rates, score in experiments.score_films(None, 4, (0.5,), (0.05, 1e30)).items() if 1e30 in rates]
    assert lost
    assert all(score == float("inf") for score in lost)


# Pictures.


def test_pictures_of_the_comparisons_can_be_drawn(compared, shop):
    together = expansion.beside_joint_training(shop.train, SMALL, updates=2)
    for draw in (
        lambda f: pictures.draw_idea(plane.one_update(), f),
        lambda f: pictures.draw_comparison(compared, f),
        lambda f: pictures.draw_together(together, f),
        lambda f: pictures.draw_memory(costs.memory_by_gradients((2, 4)), (2, 4), f),
        lambda f: pictures.draw_controls(compared, experiments.with_shuffled_users(compared, SMALL, 3), f),
    ):
        figure = new_figure(9, 4)
        draw(figure)
        assert figure.axes
