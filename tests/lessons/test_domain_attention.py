"""Lesson 03: its notebook's exercises can be solved, and its experiments measure what they say."""

import math
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from scipy.optimize import nnls
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.lessons import domain_attention as lesson
from recmtl_lessons.lessons.domain_attention import experiments, explorers, films, looking, pictures
from recmtl_lessons.teaching.style import new_figure
from recmtl_lessons.training import Scores

SMALL = tuple(range(2))
TOWN = replace(experiments.TOWN, n_users=150, train_rows=1_500, test_rows=1_200)


@pytest.fixture(scope="module", autouse=True)
def few_validation_users():
    """A small town has fewer rows to validate on than the lesson's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "_VALID_ROWS", 300)
        patch.setattr(experiments, "STEPS", 10)
        patch.setattr(experiments, "SHORT", 10)
        yield


@pytest.fixture(scope="module")
def shops():
    return experiments.open_shops(TOWN, SMALL)


@pytest.fixture(scope="module")
def compared():
    return lesson.compare(TOWN, SMALL)


def test_other_right_ways_are_accepted(verdict):
    def late_but_renormalised(scores, mask):
        weights = scores.softmax(1) * mask
        return weights / weights.sum(1, keepdim=True)

    def by_loop(users, ids, features):
        place = {int(user): k for k, user in enumerate(ids)}
        rows = [features[place[int(u)]] if int(u) in place else torch.zeros(features.shape[1]) for u in users]
        return torch.stack(rows), torch.tensor([int(u) in place for u in users])

    assert verdict(lesson.exercise_softmax, late_but_renormalised).kind == "right"
    assert verdict(lesson.exercise_align, by_loop).kind == "right"


def test_the_notebook_with_solutions_in_it_passes_its_checks(solved):
    answers = {
        "my_weights": "return scores.masked_fill(~mask, -torch.inf).softmax(dim=1)",
        "my_rows": "same = users[:, None] == ids\nreturn same.float() @ features, same.any(1)",
        "my_contributions": "length = weights * values.norm(dim=2)\nreturn length / length.sum(1, keepdim=True)",
    }
    kinds = solved("03_domain_attention.ipynb", {"torch": torch, "F": F, "lesson": lesson}, answers)
    assert kinds == dict.fromkeys(answers, "right")


# The data.


@pytest.mark.parametrize("seed", range(6))
def test_relatedness_on_an_arc_is_a_correlation_matrix(seed):
    matrix = experiments.TOWN.relatedness(seed)
    assert torch.equal(matrix, matrix.T)
    assert torch.equal(matrix.diagonal(), torch.ones(5))
    assert float(torch.linalg.eigvalsh(matrix.double()).min()) > 0
    assert not torch.equal(matrix, experiments.TOWN.relatedness(seed + 1))


def test_the_other_towns_are_related_as_they_say():
    odd = experiments.odd_town(-0.8).relatedness(0)
    assert torch.equal(odd[2], torch.tensor([-0.8, -0.8, 1.0, -0.8, -0.8]))
    assert float(odd[0, 1]) == pytest.approx(0.6)
    twins = experiments.TWINS.relatedness(0)
    assert twins[0].tolist() == pytest.approx([1.0, 0.8, 0.8, 0.5, 0.0])
    assert float(twins[1, 2]) == pytest.approx(0.99)


def test_no_user_is_in_two_parts_and_no_row_is_in_a_profile(shops):
    world = shops.worlds[0]
    place = experiments.place_in_history(world)
    later = place >= 32
    for s in SMALL:
        parts = [set(part["user"][s].tolist()) for part in (shops.train, shops.valid, shops.test)]
        assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
        assert min(map(len, parts)) > 0
    rows = {(int(u), int(d), c) for u, d, c in zip(*_of(shops.worlds[0], later), strict=True)}
    test = shops.test
    seen = {
        (int(u), int(q), i.numpy().tobytes())
        for u, q, i in zip(test["user"][0], test["query"][0], test["item"][0], strict=True)
    }
    assert seen <= rows


def _of(world, chosen):
    items = world.item_factors[world.domain, world.item][chosen]
    return world.user[chosen], world.domain[chosen], [item.numpy().tobytes() for item in items]


def test_a_profile_is_what_it_says(shops):
    world = shops.worlds[0]
    test = shops.test
    for row in range(0, 40, 7):
        user = int(test["user"][0, row])
        for d in range(5):
            mine = ((world.user == user) & (world.domain == d)).nonzero().squeeze(1)[: int(test["history"][0, row, d])]
            turned = (world.click[mine] - 0.5)[:, None] * world.item_factors[d, world.item[mine]]
            expected = 4 * turned.mean(0)
            torch.testing.assert_close(test["features"][0, row, d, :8], expected, rtol=1e-4, atol=1e-5)
            length = math.log((len(mine) + 1) / 9)
            assert float(test["features"][0, row, d, 8]) == pytest.approx(length, abs=1e-5)


def test_profiles_do_not_hold_the_clicks_that_are_predicted(shops):
    world = shops.worlds[0]
    later = experiments.place_in_history(world) >= 32
    turned = replace(world, click=torch.where(later, 1 - world.click, world.click))
    known = ~later
    assert torch.equal(experiments.profiles(world, known)[0], experiments.profiles(turned, known)[0])


def test_the_shop_asked_about_is_hidden_and_the_closest_is_the_closest(shops):
    rows = torch.arange(len(shops.test["query"][0]))
    for s in SMALL:
        query = shops.test["query"][s]
        assert not shops.test["mask"][s][rows, query].any()
        assert bool(shops.test["mask"][s].any(1).all())
        for k in range(20):
            related = shops.relatedness[s][query[k]].clone()
            related[query[k]] = -2
            assert shops.test["closest"][s][k].nonzero().item() == int(related.argmax())


def test_training_sees_no_truth(shops):
    assert set(shops.stream()["rows"]) == {"features", "mask", "closest", "query", "item", "click"}


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match=r"rows: got \d+, expected at least 5000"):
        experiments.open_shops(replace(TOWN, test_rows=5_000), SMALL)


# What is measured.


def test_the_scores_are_those_of_the_networks(compared):
    rows = compared.shops.test
    for s, network in enumerate(compared.networks):
        x = experiments.by_domain(rows["features"][s])
        answer = network(rows["query"][s], x, rows["mask"][s], rows["item"][s])
        logits, weights = (answer[name].detach() for name in ("predictions", "attention_weights"))
        for score, some in ((compared.auc, slice(None)), (compared.live_auc, slice(experiments.LIVE_ROWS))):
            expected = roc_auc_score(rows["click"][s, some], logits[some])
            assert float(score["attention"][s]) == pytest.approx(expected, abs=1e-6)
        for asked in range(5):
            mean = weights[rows["query"][s] == asked].mean(0)
            torch.testing.assert_close(compared.weights[s, asked], mean, rtol=1e-4, atol=1e-5)
    uniform = experiments.many_networks(compared.shops, SMALL, (experiments.UNIFORM,))
    list(uniform.train(10))
    (logits,), _ = experiments.answers(uniform, rows)
    expected = [roc_auc_score(rows["click"][s], logits[s]) for s in SMALL]
    assert compared.auc["uniform"].tolist() == pytest.approx(expected, abs=1e-6)
    assert set(compared.auc) == {"attention", "uniform", "closest", "fixed", "concatenation", "truth", "exact"}


def test_weighted_profiles_meet_items_in_a_dot_product(compared):
    test = compared.shops.test
    for s in SMALL:
        taste = sum(compared.row_weights[s, :, d, None] * test["features"][s, :, d, :8] for d in range(5))
        expected = roc_auc_score(test["click"][s], (taste * test["item"][s]).sum(1))
        assert float(compared.auc["exact"][s]) == pytest.approx(expected, abs=1e-6)


def test_fixed_weights_are_the_same_for_all_users_and_differ_between_shops(shops):
    models = experiments._many_fixed(shops, SMALL, 0.01)
    list(models.train(20))
    _, (weights,) = experiments.answers(models, shops.test)
    _, (plain,) = experiments.answers(experiments.many_networks(shops, SMALL), shops.test)
    for s in SMALL:
        for asked in range(5):
            here = shops.test["query"][s] == asked
            assert bool((shops.test["mask"][s, here].sum(1) == 4).all())
            assert float((weights[s, here] - weights[s, here][0]).abs().max()) < 1e-6
            assert float((plain[s, here] - plain[s, here][0]).abs().max()) > 0.01
            others = torch.arange(5) != asked
            assert float(weights[s, here][0][others].std()) > 0.001


def test_fixed_weights_are_scored_in_both_towns(compared):
    plain, uneven = lesson.fixed_weights(TOWN, SMALL)
    assert torch.equal(plain, compared.auc["fixed"])
    town = experiments.with_uneven_histories(TOWN)
    assert set(experiments.open_shops(town, SMALL).train["history"].unique().tolist()) >= {2, 8, 32}
    both = experiments.side_by_side([experiments.open_shops(t, SMALL) for t in (TOWN, town)])
    models = experiments._many_fixed(both, [0, 1, 1000, 1001], experiments.RATES["fixed"])
    list(models.train(10))
    (logits,), _ = experiments.answers(models, both.test)
    expected = [roc_auc_score(click, scores) for click, scores in zip(both.test["click"], logits, strict=True)]
    assert torch.cat([plain, uneven]).tolist() == pytest.approx(expected, abs=1e-6)


def test_rates_are_scored_on_validation_users(shops, monkeypatch):
    monkeypatch.setitem(experiments.SETTINGS, "rate_grid", (0.003, 0.01))
    found = experiments.score_rates(TOWN, SMALL)
    assert set(found) == set(experiments.RATES)
    rows = shops.valid
    for arm, models in (
        ("uniform", experiments.many_networks(shops, SMALL, (experiments.UNIFORM,), 0.01)),
        ("fixed", experiments._many_fixed(shops, SMALL, 0.01)),
    ):
        list(models.train(10))
        (logits,), _ = experiments.answers(models, rows)
        expected = sum(roc_auc_score(rows["click"][s], logits[s]) for s in SMALL) / 2
        assert found[arm][0.01] == pytest.approx(expected, abs=1e-6)
    assert experiments.best_rates({"a": {0.1: 0.6, 0.2: 0.7}, "b": {0.1: 0.7, 0.2: 0.6}}) == {"a": 0.2, "b": 0.1}


@pytest.mark.skipif(not os.environ.get("RECMTL_SLOW_TESTS"), reason="half a minute: set RECMTL_SLOW_TESTS=1")
def test_each_arms_rate_is_the_best_of_those_tried(monkeypatch):
    monkeypatch.setattr(experiments, "STEPS", 250)
    monkeypatch.setattr(experiments, "_VALID_ROWS", 1_000)
    experiments.open_shops.cache_clear()
    assert experiments.best_rates(experiments.score_rates()) == experiments.RATES


def test_uniform_is_uniform_and_closest_sees_the_closest(shops):
    arms = (experiments.UNIFORM, experiments.CLOSEST)
    models = experiments.many_networks(shops, SMALL, arms)
    list(models.train(3))
    _, (uniform, closest) = experiments.answers(models, shops.test)
    torch.testing.assert_close(uniform, shops.test["mask"] / shops.test["mask"].sum(-1, keepdim=True))
    assert torch.equal(closest, shops.test["closest"].float())


def test_agreement_is_spearmans_over_different_shops():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(2, 3, 5, 5, generator=generator)
    pairs = ~torch.eye(5, dtype=torch.bool)
    expected = [spearmanr(a[pairs], b[pairs]).statistic for a, b in zip(one, other, strict=True)]
    torch.testing.assert_close(lesson.agreement(one, other), torch.tensor(expected, dtype=torch.float32))
    tied = (one * 4).round()
    expected = [spearmanr(a[pairs], b[pairs]).statistic for a, b in zip(tied, other, strict=True)]
    torch.testing.assert_close(lesson.agreement(tied, other), torch.tensor(expected, dtype=torch.float32))


def test_the_best_weights_are_scipys_non_negative_least_squares(shops):
    weights = experiments.best_weights(shops)
    world, test = shops.worlds[0], shops.test
    noise = experiments._profile_noise(world)
    for row in range(0, 60, 5):
        seen = test["mask"][0, row]
        among = shops.relatedness[0][seen][:, seen] + torch.diag(noise / test["history"][0, row][seen])
        towards = shops.relatedness[0][test["query"][0, row]][seen]
        root = torch.linalg.cholesky(among.double())  # |L' b - L^-1 r|^2 = b' A b - 2 b' r + a constant
        beta, _ = nnls(root.T.numpy(), torch.linalg.solve(root, towards.double()).numpy())
        expected = torch.zeros(5)
        expected[seen] = torch.tensor(beta, dtype=torch.float32)
        torch.testing.assert_close(weights[0, row], expected, rtol=1e-3, atol=1e-4)


def test_the_noise_of_a_profile_is_measured_rightly(shops):
    world = shops.worlds[0]
    turned = (world.click - 0.5)[:, None] * world.item_factors[world.domain, world.item]
    taste = world.tastes[world.user, world.domain]
    slope = float((turned * taste).sum() / taste.square().sum())
    many, length = torch.randperm(len(turned), generator=torch.Generator().manual_seed(0)), 10
    rest = (turned / slope - taste)[many[: len(many) // length * length]].view(-1, length, 8).mean(1)
    assert float(rest.square().mean()) * length == pytest.approx(experiments._profile_noise(world), rel=0.05)


def test_removal_takes_out_what_it_says(compared):
    lost, by_pair = lesson.remove_shops(compared)
    assert lost.arms == (1, 2, 3, 4, "any")
    rows, network = compared.shops.test, compared.networks[1]
    x, mask, click = experiments.by_domain(rows["features"][1]), rows["mask"][1], rows["click"][1]

    def asked(mask):
        return network(rows["query"][1], x, mask, rows["item"][1])

    def loss(less, some):
        both = (asked(m)["predictions"].detach()[some] for m in (mask, less))
        whole, rest = (roc_auc_score(click[some], logits) for logits in both)
        return pytest.approx(whole - rest, abs=1e-6)

    without_best = mask.clone()
    without_best[torch.arange(len(mask)), asked(mask)["attention_weights"].argmax(1)] = False
    assert float(lost[1][1]) == loss(without_best, slice(None))
    assert float(by_pair[1, 3, 0]) == loss(mask & (torch.arange(5) != 0), rows["query"][1] == 3)


def test_rows_of_different_users_are_different_users(shops):
    models = experiments.many_networks(shops, SMALL)
    batch = next(models.draw_batches(0, 1))
    seen = {}

    class Spy:
        domains = lesson.DOMAINS

        def __call__(self, query, features, mask, item, temperature):
            seen.update(features)
            return {"predictions": torch.zeros(len(query))}

    setting = {name: torch.tensor(value) for name, value in experiments.ATTENTION.items()}
    lesson.objective_with_rows_of_different_users(Spy(), batch, setting, 0.0)
    for d, table in enumerate(batch["rows"]["features"].unbind(1)):
        mixed = seen[lesson.DOMAINS[d]]
        assert torch.equal(mixed, table.roll(7 * (d + 1), 0))
        assert float((mixed == table).all(1).float().mean()) < 0.1
    first = seen["books"].roll(-7, 0)
    assert torch.equal(first, batch["rows"]["features"][:, 0])


def test_gains_and_turning_have_the_shapes_they_say(monkeypatch):
    small = replace(lesson.UNEVEN_HISTORIES, n_users=150, train_rows=1_500, test_rows=1_200)
    monkeypatch.setattr(
        experiments, "odd_town", lambda level: replace(small, kind="odd", level=level, asked=("books", "films", "news"))
    )
    (gain,) = lesson.gains([small], SMALL)
    assert gain["auc"].arms == ("attention", "uniform")
    shops = experiments.open_shops(small, SMALL)
    models = experiments.many_networks(shops, SMALL)
    list(models.train(10))
    _, (weights,) = experiments.answers(models, shops.test)
    by_hand = weights[0][shops.test["mask"][0] & (shops.test["history"][0] == 8)].mean()
    assert float(gain["weight"][8][0]) == pytest.approx(float(by_hand), abs=1e-5)
    turning = lesson.turn_a_shop((0.4, -0.4), seeds=SMALL)
    assert turning.weight.arms == turning.auc.arms == (0.4, -0.4)
    assert turning.row_weights.shape == (1_000, 5)
    assert turning.values.shape == (1_000, 5, 16)
    whose = experiments.open_shops(experiments.odd_town(-0.4), SMALL).test["query"][0]
    assert float(turning.row_weights[torch.arange(1_000), whose[:1_000]].abs().max()) == 0


def test_twins_are_taken_out_alone_and_together(monkeypatch):
    monkeypatch.setattr(experiments, "TWINS", replace(experiments.TWINS, n_users=150, train_rows=1_500, test_rows=800))
    town = lesson.remove_twins(SMALL)
    assert set(town["lost"]) == {"films", "games", "music", "news", "films + games", "games + music"}
    torch.testing.assert_close(town["weight"].values.sum(0), torch.ones(2))


# The explorers.


@pytest.fixture
def desk(compared, monkeypatch):
    monkeypatch.setattr(looking, "compare", lambda: compared)


def test_looking_at_a_user_is_asking_the_network(compared, desk):
    test = compared.shops.test
    users = test["user"][0].unique()
    row = int((test["user"][0] == users[4]).nonzero()[0])
    history = test["history"][0, row]
    closest = int(compared.shops.relatedness[0, 1].masked_fill(torch.arange(5) == 1, -2).argmax())
    shown = looking.look(5, "films", int(history[closest]), "none")
    assert torch.equal(shown.history, history)
    mask = (history > 0) & (torch.arange(5) != 1)
    x = experiments.by_domain(test["features"][0, row][None])
    _, expected = compared.networks[0].compute_cross_domain_attention("films", x, mask[None])
    torch.testing.assert_close(shown.weights[1], expected[0].detach(), rtol=1e-4, atol=1e-5)
    assert bool((shown.truth.diff() >= 0).all())
    assert bool(((shown.probability > 0) & (shown.probability < 1)).all())


def test_the_controls_of_the_first_explorer_do_what_they_say(desk):
    plain = looking.look(1, "books", 32, "none")
    closest = lesson.DOMAINS.index(plain.closest)
    short = looking.look(1, "books", 1, "none")
    assert short.history[closest] == 1
    assert not torch.equal(short.probability, plain.probability)
    nothing = looking.look(1, "books", 0, "none")
    assert float(nothing.weights[0, closest]) == 0
    assert torch.equal(looking.look(1, "books", 16, plain.closest).weights, nothing.weights)
    out = next(name for name in lesson.DOMAINS[1:] if name != plain.closest)
    without = looking.look(1, "books", 32, out)
    assert float(without.weights[:, lesson.DOMAINS.index(out)].abs().max()) == 0
    torch.testing.assert_close(without.weights.sum(1), torch.ones(5))


def test_the_first_explorer_starts_with_a_typical_user(compared, desk):
    typical = looking.typical_user("films", 32)
    rows = torch.stack([looking.look(user, "films", 32, "none").weights[1] for user in range(1, 46)])
    distance = (rows - rows.mean(0)).norm(dim=1)
    assert float(distance[typical - 1]) == float(distance.min())
    explorer = explorers.explore_users()
    assert explorer._start["user"] == typical
    explorer.close()


def test_the_first_explorer_runs_at_every_end_of_its_controls(desk):
    explorer = explorers.explore_users()
    for user in (1, 30):
        for asked in lesson.DOMAINS:
            for length in (0, 32):
                for out in ("none", "books", "news"):
                    explorer.run(user=user, asked=asked, length=length, out=out)
    explorer.close()


def test_live_training_reports_and_can_be_left(compared, monkeypatch):
    monkeypatch.setattr(experiments, "TOWN", TOWN)
    steps = experiments.train_live(2.0, 1, 0)
    first = next(steps)
    result = first.snapshot()
    assert (first.done, first.total) == (10, 10)
    assert result.curve["yours"].shape == (8, 1)
    assert result.weights.shape == (8, 5, 5)
    figure = new_figure(10, 4)
    pictures.draw_live(result, compared.live_auc, figure)
    words = pictures.describe_live(result, {"temperature": 2.0, "attention_dim": 1, "seed": 0})
    assert f"Temperature 2, width 1, step 10 of {pictures.STEPS}, 8 networks" in words
    steps.close()


def test_pictures_follow_the_number_of_domains_and_of_seeds(monkeypatch):
    names = (*lesson.DOMAINS, "travel")
    monkeypatch.setattr(pictures, "DOMAINS", names)
    generator = torch.Generator().manual_seed(0)
    weights, truth = torch.rand(2, 3, 6, 6, generator=generator)
    figure = new_figure(10, 4)
    pictures.draw_weights(SimpleNamespace(weights=weights, shops=SimpleNamespace(relatedness=truth)), figure)
    *_, points = figure.axes
    assert points.get_title(loc="left") == "All 3 seeds"
    assert sorted(len(line.get_xdata()) for line in points.lines) == [2, 30, 30, 30]
    assert points.lines[-1].get_ydata()[0] == pytest.approx(1 / 5)
    result = looking.OneUser("news", torch.arange(6), truth[0, 1], weights[0], torch.rand(10), torch.rand(10))
    controls = {"user": 2, "asked": "films", "length": 4, "out": "none"}
    pictures.draw_look(result, figure, controls)
    heat, flows, _ = figure.axes
    assert [label.get_text() for label in heat.get_yticklabels()] == list(names)
    low, high = flows.get_ylim()
    assert all(low < text.get_position()[1] < high for text in flows.texts)
    assert "travel 0." in pictures.describe_look(result, controls)
    lost = Scores("AUC lost", (1, 2, 3, 4, 5, "any"), torch.rand(6, 3))
    twins = Scores("AUC lost", ("films", "games", "music", "films + games"), torch.rand(4, 3))
    pictures.draw_removal(lost, {"weight": twins, "lost": twins}, figure)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()][3:] == ["4th", "least", "any of\nthem"]


# Films.


@pytest.fixture(scope="module")
def ratings():
    generator = torch.Generator().manual_seed(0)
    n, users, items = 30_000, 60, 90
    genres = torch.zeros(items, 4, dtype=torch.bool)
    genres[torch.arange(items), torch.arange(items) % 3] = True
    genres[::4, 3] = True
    return Ratings(
        user=torch.randint(users, (n,), generator=generator),
        item=torch.randint(items, (n,), generator=generator),
        rating=torch.randint(1, 6, (n,), generator=generator).float(),
        user_ids=tuple(range(users)),
        item_ids=tuple(range(items)),
        years=torch.randint(1950, 2010, (items,), generator=generator),
        genres=genres,
        genre_names=("A", "B", "C", "D"),
    )


def test_film_rows_hide_what_they_say_and_share_no_user(ratings):
    halves = films.film_rows(ratings, ("A", "B", "C"), SMALL)
    for part in halves.values():
        rows = torch.arange(part["query"].shape[1])
        for s in SMALL:
            query = part["query"][s]
            assert torch.bincount(query).tolist() == [500] * 3
            assert not part["new"][s][rows, query].any()
            assert bool(part["seen"][s][rows, query].all())
            assert torch.equal(part["closest"][s], F.one_hot(query, 3).bool())
    hidden = (halves["train"]["mask"] == halves["train"]["new"]).all(-1).float().mean()
    assert float(hidden) == pytest.approx(0.5, abs=0.05)
    for s in SMALL:
        profiles = [{row.numpy().tobytes() for row in part["features"][s]} for part in halves.values()]
        assert not profiles[0] & profiles[1]


def test_profiles_of_films_do_not_hold_the_labels_that_are_predicted(ratings):
    before = films.film_rows(ratings, ("A", "B", "C"), SMALL)
    domains = films.genre_domains(ratings, ("A", "B", "C"), min_user_ratings=0)
    history = torch.rand(len(domains), generator=torch.Generator().manual_seed(0)) < 0.5
    turned = replace(
        domains, rating=torch.where(history, domains.rating, 6 - domains.rating), domain=None, domain_names=()
    )
    after = films.film_rows(turned, ("A", "B", "C"), SMALL)
    for part in ("train", "test"):
        assert torch.equal(before[part]["features"], after[part]["features"])
        assert not torch.equal(before[part]["click"], after[part]["click"])


def test_attention_to_genres_is_measured_as_it_says(ratings):
    result = lesson.attend_to_genres(ratings, ("A", "B", "C"), steps=5, seeds=SMALL)
    assert result.known.values.shape == (4, 2)
    assert result.new.arms == ("attention", "uniform", "blind")
    assert not torch.equal(result.known["uniform"], result.new["uniform"])
    torch.testing.assert_close(result.known["blind"], result.new["blind"])
    rows = films.film_rows(ratings, ("A", "B", "C"), SMALL)["test"]
    elsewhere = rows["query"] != 2
    expected = (~rows["seen"][..., 2][elsewhere]).float().mean()
    assert float(result.unknown[2]) == pytest.approx(float(expected))
    torch.testing.assert_close(result.weights.sum(-1), torch.ones(2, 3))
    assert torch.equal(result.weights.diagonal(dim1=1, dim2=2), torch.zeros(2, 3))
    assert torch.equal(result.lost.diagonal(dim1=1, dim2=2).float(), torch.zeros(2, 3))
    assert float(result.lost.abs().max()) > 0
