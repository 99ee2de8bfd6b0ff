"""Lesson 06: its exercises accept what is right, new shelves stay new, its experiments measure what they say."""

import inspect
import os
from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from torch.nn import functional as F

from recmtl_lessons.datasets import few_shot as users
from recmtl_lessons.datasets import load_movielens
from recmtl_lessons.lessons import prototypical as lesson
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS
from recmtl_lessons.lessons.maml import experiments as maml
from recmtl_lessons.lessons.prototypical import (
    experiments,
    explorers,
    pictures,
    plane,
    rivals,
    serving,
    shelves,
)
from recmtl_lessons.models import PrototypicalNetworkRecommender
from recmtl_lessons.teaching.explorer import Running
from recmtl_lessons.teaching.style import new_figure
from recmtl_lessons.training import auc, few_shot

SMALL = (0, 1)
SHOP = shelves.Shop(train_shelves=24, valid_shelves=8, test_shelves=10)
USERS = users.Shop(ratings=50, query=12, episodes=2, train_users=40, valid_users=10, test_users=15)


@pytest.fixture(scope="module")
def compared():
    return experiments.compare(SHOP, SMALL, 12)


@pytest.fixture(scope="module")
def people():
    return users.shop_users(USERS, SMALL)


# The exercises.


def test_other_right_ways_are_accepted(verdict):
    def centred(queries, prototypes):
        middle = prototypes.mean(0)
        q, c = queries - middle, prototypes - middle
        return (2 * q @ c.T - c.square().sum(1)).log_softmax(1)

    def shifted(prototypes):
        return 2 * prototypes, 7.0 - prototypes.square().sum(1)  # what is the same for all classes drops out

    def with_cdist(queries, prototypes):
        return (-torch.cdist(queries, prototypes).square()).log_softmax(1)

    assert verdict(lesson.exercise_classify, centred).kind == "right"
    assert verdict(lesson.exercise_classify, with_cdist).kind == "right"
    assert verdict(lesson.exercise_linear, shifted).kind == "right"


def test_a_root_that_is_squared_again_has_no_gradient_on_a_prototype(verdict):
    def rooted(queries, prototypes):
        distance = (queries[:, None] - prototypes).square().sum(-1).sqrt()
        return (-distance.square()).log_softmax(1)

    assert "The values are right, a gradient is not" in verdict(lesson.exercise_classify, rooted).message


def test_another_right_design_is_accepted(verdict):
    def serve(own, ratings, offered, everybody):
        above = ratings - ratings.mean() if len(ratings) else ratings
        rows = [own[above < 0], own[above > 0]]
        if min(map(len, rows)) == 0:
            rows = [own[:0], own[:0]]
        near = [(r.sum(0) + 5 * c) / (len(r) + 5) for r, c in zip(rows, everybody, strict=True)]
        log_p = -torch.cdist(offered, torch.stack(near)).square()
        return log_p.softmax(1)[:, 1]

    assert verdict(lesson.exercise_design, serve).kind == "right"


def test_the_notebook_with_solutions_in_it_passes_its_checks(solved):
    answers = {
        "my_log_probabilities": "return (-(queries[:, None] - prototypes).square().sum(-1)).log_softmax(1)",
        "my_linear_classifier": "return 2 * prototypes, -prototypes.square().sum(1)",
        "my_service": "return lesson.exercise_design.reference(own, ratings, offered, everybody)",
    }
    kinds = solved("06_prototypical.ipynb", {"torch": torch, "lesson": lesson}, answers)
    assert kinds == dict.fromkeys(answers, "right")


# Shelves.


def test_no_shelf_is_in_two_parts():
    shops = shelves.open_shops(SHOP, SMALL)
    assert shops.train.shape == (2, 24, 40, 24)
    assert shops.valid.shape == (2, 8, 40, 24)
    assert shops.test.shape == (2, 10, 40, 24)
    for s in SMALL:
        rows = [
            {row.numpy().tobytes() for row in part[s].flatten(0, 1)} for part in (shops.train, shops.valid, shops.test)
        ]
        assert [len(part) for part in rows] == [24 * 40, 8 * 40, 10 * 40]
        assert not rows[0] & rows[1] | rows[0] & rows[2] | rows[1] & rows[2]
    assert not torch.equal(shops.train[0], shops.train[1])


def test_measurements_are_standardised_by_the_training_items():
    train = shelves.open_shops(SHOP, SMALL).train[0].flatten(0, 1)
    torch.testing.assert_close(train.mean(0), torch.zeros(24), rtol=0, atol=1e-5)
    torch.testing.assert_close(train.std(0), torch.ones(24), rtol=0, atol=1e-5)


def between_and_within(items):
    """Variance of shelf means, and variance within shelves: (shelves, items, K) -> two (K,)."""
    return items.mean(1).var(0), items.var(1).mean(0)


def test_a_shelf_shares_its_signal():
    between, within = between_and_within(shelves.open_shops(replace(SHOP, test_shelves=200), (0,)).test_signal[0])
    assert float(between.min()) > 4 * float(within.max())
    torch.testing.assert_close(between + within, torch.ones(4), rtol=0, atol=0.35)


def test_swapped_training_shelves_differ_in_the_nuisance():
    """With linear measurements the hidden numbers can be solved for: there the two kinds of shelves show."""
    shop = replace(SHOP, bend=0.0, swapped=True, train_shelves=150, test_shelves=150)
    shops = shelves.open_shops(shop, (0,))
    own, _ = between_and_within(shops.test_signal[0])
    assert float(own.min()) > 0.5
    x, signal = shops.test[0].flatten(0, 1), shops.test_signal[0].flatten(0, 1)
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    solution = torch.linalg.lstsq(x.double(), signal.double())
    assert float((x.double() @ solution.solution - signal).abs().max()) < 1e-2
    train = torch.cat([shops.train[0], torch.ones(150, 40, 1)], dim=2).double() @ solution.solution
    between, within = between_and_within(train)
    assert float(between.max()) < 0.1 < 0.8 < float(within.min())


def test_episodes_hold_each_item_once_and_call_shelves_by_their_place():
    items = shelves.open_shops(SHOP, SMALL).test
    episodes = shelves.draw_episodes(items, 6, 4, 3, 5, SMALL)
    assert episodes.support_x.shape == (2, 6, 12, 24)
    assert episodes.query_x.shape == (2, 6, 20, 24)
    where = {row.numpy().tobytes(): k // 40 for k, row in enumerate(items[1].flatten(0, 1))}
    for t in range(6):
        rows = torch.cat([episodes.support_x[1, t], episodes.query_x[1, t]])
        names = torch.cat([episodes.support_y[1, t], episodes.query_y[1, t]])
        shelf = torch.cat([episodes.support_shelf[1, t], episodes.query_shelf[1, t]])
        found = [where[row.numpy().tobytes()] for row in rows]
        assert found == shelf.tolist()
        assert len({row.numpy().tobytes() for row in rows}) == 32
        assert len(set(found)) == 4
        assert all(len(set(shelf[names == n].tolist())) == 1 for n in range(4))
        assert names.bincount().tolist() == [8] * 4


def test_fewer_shots_are_the_first_of_each_shelf():
    episodes = shelves.draw_episodes(shelves.open_shops(SHOP, SMALL).test, 3, 4, 5, 2, SMALL)
    few = episodes.shots(2)
    assert few.support_x.shape == (2, 3, 8, 24)
    assert few.support_y[0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert torch.equal(few.support_x[0, 0, 2:4], episodes.support_x[0, 0, 5:7])
    assert torch.equal(few.query_x, episodes.query_x)
    for count in (0, 6):
        with pytest.raises(ValueError, match=rf"^count: got {count}, expected 1 to 5"):
            episodes.shots(count)


def test_shuffled_episodes_mix_the_shelves():
    items = shelves.open_shops(SHOP, SMALL).train
    plain, mixed = (shelves.draw_episodes(items, 40, 5, 5, 5, SMALL, shuffled) for shuffled in (False, True))
    spread = []
    for episodes in (plain, mixed):
        support = episodes.support_x.unflatten(2, (5, 5))
        spread.append(float(support.mean(3).var(2).mean() / support.var(3).mean()))
    assert spread[0] > 1.25 * spread[1]
    assert spread[1] == pytest.approx(0.2, abs=0.02)  # means of five rows that have nothing in common


def test_episodes_that_cannot_be_drawn_are_refused():
    items = torch.zeros(1, 4, 6, 2)
    for ways, shots, queries in ((5, 1, 1), (2, 5, 2)):
        with pytest.raises(ValueError, match=rf"^ways, shots, queries: got {ways}, {shots}, {queries}"):
            shelves.draw_episodes(items, 2, ways, shots, queries, (0,))


# The rivals.


@pytest.fixture(scope="module")
def judged():
    return experiments.judged(shelves.open_shops(SHOP, SMALL).valid, SMALL)


@pytest.mark.parametrize("shots", [1, 5, 20])
@pytest.mark.parametrize("c", [0.03, 1.0])
def test_logistic_regression_is_scikit_learns(judged, shots, c):
    few = judged.shots(shots)
    found = experiments.rival_scores(rivals.logistic_regression, few, c=c).softmax(-1)
    for t in range(3):
        fitted = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(few.support_x[0, t], few.support_y[0, t])
        expected = torch.from_numpy(fitted.predict_proba(few.query_x[0, t])).float()
        torch.testing.assert_close(found[0, t], expected, rtol=0, atol=0.03)


def test_nearest_mean_is_scikit_learns(judged):
    few = judged.shots(5)
    found = experiments.rival_scores(rivals.nearest_mean, few).argmax(-1)
    for t in range(5):
        fitted = NearestCentroid().fit(few.support_x[1, t].numpy(), few.support_y[1, t].numpy())
        assert found[1, t].tolist() == fitted.predict(few.query_x[1, t].numpy()).tolist()


@pytest.mark.parametrize("k", [1, 5])
def test_nearest_neighbours_are_scikit_learns_where_votes_differ(judged, k):
    few = judged.shots(5)
    found = experiments.rival_scores(rivals.nearest_neighbours, few, k=k)
    for t in range(5):
        fitted = KNeighborsClassifier(k).fit(few.support_x[0, t], few.support_y[0, t])
        share = torch.from_numpy(fitted.predict_proba(few.query_x[0, t])).float()
        torch.testing.assert_close(found[0, t].round() / k, share, rtol=0, atol=1e-6)


def test_of_equal_votes_the_nearer_wins():
    support = torch.tensor([[0.0], [1.0], [3.0], [3.2]])
    labels = torch.tensor([0, 1, 1, 0])
    found = rivals.nearest_neighbours(support, labels, torch.tensor([[0.1], [2.9]]), 2, 2)
    assert found.argmax(1).tolist() == [0, 1]
    assert found.round().tolist() == [[1, 1], [1, 1]]


# Training and measuring.


def test_every_arm_sees_the_same_rows(compared):
    batches = [next(models.draw_batches(1, 1))["episodes"] for models in compared.models.values()]
    assert torch.equal(batches[0]["support_x"], batches[1]["support_x"])
    assert batches[0]["support_x"].shape == (1, 100, 24)
    for ways, count in ((2, 10), (5, 4), (10, 2)):
        pool = experiments.old_shelves(SHOP, SMALL, ways)
        models = experiments.train_on_shelves(pool, SMALL, 0.003, steps=1)
        batch = next(models.draw_batches(0, 1))["episodes"]
        assert batch["support_x"].shape[0] == count
        assert batch["support_x"].shape[0] * (batch["support_x"].shape[1] + batch["query_x"].shape[1]) == 200


def test_training_rows_are_of_old_shelves(compared):
    shops = shelves.open_shops(SHOP, SMALL)
    old = {row.numpy().tobytes() for row in shops.train[0].flatten(0, 1)}
    batch = next(compared.models["prototypes"].draw_batches(0, 1))["episodes"]
    rows = torch.cat([batch["support_x"], batch["query_x"]], dim=1).flatten(0, 1)
    assert all(row.numpy().tobytes() in old for row in rows)


def test_the_objectives_are_what_they_say(compared):
    batch = next(compared.models["prototypes"].draw_batches(0, 1))
    e, network = batch["episodes"], experiments.encoder(24)
    log_p = network.episode_forward(e["support_x"], e["support_y"], e["query_x"])
    expected = F.nll_loss(log_p.flatten(0, 1), e["query_y"].flatten())
    torch.testing.assert_close(experiments.episodic_objective(network, batch, {}, 0.0)[0], expected)

    classifier = experiments.ClassifierOfOldShelves(24, 24)
    support, query = (
        F.cross_entropy(classifier.shelf(classifier.encoder(e[f"{p}_x"])).flatten(0, 1), e[f"{p}_shelf"].flatten())
        for p in ("support", "query")
    )
    found = experiments.classifier_objective(classifier, batch, {}, 0.0)[0]
    torch.testing.assert_close(found, (support + query) / 2)


def test_the_broken_objective_is_broken_where_it_says(compared):
    batch = next(compared.models["prototypes"].draw_batches(0, 1))
    e, network = batch["episodes"], experiments.encoder(24)
    right = network.episode_forward(e["support_x"], e["support_y"], e["query_x"])
    prototypes = network.compute_prototypes(network(e["support_x"]), e["support_y"])
    square = torch.cdist(network(e["query_x"]), prototypes).square()
    torch.testing.assert_close((-square).log_softmax(-1), right, rtol=1e-4, atol=1e-4)
    wrong = -square.log_softmax(-1)
    loss, logs = experiments.broken_objective(network, batch, {}, 0.0)
    torch.testing.assert_close(loss, -wrong.gather(-1, e["query_y"][..., None]).mean(), rtol=1e-4, atol=1e-4)
    power = wrong.exp().sum(-1).log10().mean()
    torch.testing.assert_close(logs["row_sum"], power, rtol=1e-3, atol=1e-3)
    assert float(power.detach()) > 2


def test_accuracies_are_those_of_the_networks(compared):
    test = experiments.judged(shelves.open_shops(SHOP, SMALL).test, SMALL).shots(5)
    for name, models in compared.models.items():
        for s in SMALL:
            network = getattr(models.model(s), "encoder", models.model(s))
            right = [
                network.predict(test.support_x[s, t], test.support_y[s, t], test.query_x[s, t]) == test.query_y[s, t]
                for t in range(test.query_y.shape[1])
            ]
            found = compared.accuracy[5][name][s]
            assert float(found) == pytest.approx(float(torch.stack(right).float().mean()), abs=1e-6)


def test_the_signal_itself_is_sorted_best(compared):
    for scores in compared.accuracy.values():
        means = {name: float(scores[name].mean()) for name in scores}
        assert means.pop("signal itself") > max(means.values())


def test_ways_are_judged_with_the_networks_of_the_comparison(compared):
    found = experiments.by_ways(compared, SMALL, 12, (2,), SHOP)
    assert found.arms == (2, 20, "classifier")
    torch.testing.assert_close(found[20], compared.accuracy[5]["prototypes"], rtol=0, atol=0.06)


def test_the_shop_in_the_form_of_a_control(compared):
    found, five = experiments.in_the_shop(compared, SMALL, SHOP), compared.accuracy[5]
    assert torch.equal(found["prototypes"], five["prototypes"])
    best = max((five[name] for name in experiments.RIVALS), key=lambda values: float(values.mean()))
    assert torch.equal(found["best rival"], best)
    assert found.arms == experiments.control(SHOP, "", SMALL, 3, shuffled=True).arms


def test_the_broken_training_is_measured(compared):
    found = experiments.train_broken(compared, SMALL, 8, SHOP)
    loss = found["loss"]
    assert loss.steps == found["row sum"].steps == found["size"].steps == (4, 8)
    assert bool((loss["wrong"][:, -1] < loss["wrong"][:, 0]).all())
    assert bool((loss["right"] > 0).all())


def test_the_scores_behind_the_settings_can_be_had_again(monkeypatch):
    monkeypatch.setattr(experiments, "DESIGN_SEEDS", SMALL)
    monkeypatch.setitem(experiments.SETTINGS, "rates", (0.003,))
    monkeypatch.setattr(experiments, "RATE_OF_WAYS", {20: 0.003})
    monkeypatch.setattr(experiments, "STEPS", 2)
    assert set(experiments.score_rates(SHOP)) == {("20 ways", 0.003), ("classifier", 0.003), ("broken", 0.003)}
    monkeypatch.setattr(experiments, "TO_TRY", (1, 20))
    scores = experiments.score_rivals(SHOP)
    assert {name for name, *_ in scores} == {"neighbours", "regression"}
    assert {shots for _, shots, _ in scores} == {1, 20}


# Liked and disliked.


def tasks_of(support_y, query_y, known=None):
    """One seed; items are numbers on a line, as large as they are liked."""
    support_y, query_y = torch.tensor([support_y]), torch.tensor([query_y])
    return users.Tasks(
        user=torch.arange(support_y.shape[1])[None],
        support_x=support_y[..., None].clone(),
        support_y=support_y,
        query_x=query_y[..., None].clone(),
        query_y=query_y,
        known=torch.ones(query_y.shape, dtype=torch.bool) if known is None else torch.tensor([known]),
    )


def test_liked_lies_above_the_users_own_mean():
    tasks = tasks_of([[5.0, 4.0, 3.0], [4.1, 4.1, 4.1], [1.0, 1.0, 2.0]], [[4.0, 4.5], [4.0, 5.0], [1.0, 1.5]])
    support, query = serving.liked(tasks)
    assert support[0].tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert query[0].tolist() == [[0, 1], [0, 1], [0, 1]]
    assert serving.two_sided(tasks)[0].tolist() == [True, False, True]


def test_one_sided_users_do_not_train():
    tasks = tasks_of([[5.0, 4.0], [3.0, 3.0], [1.0, 2.0]], [[4.0, 4.5]] * 3)
    stream = serving.taste_stream(tasks)["users"]
    assert stream["support_x"].shape == (1, 3, 2, 1)
    assert bool((stream["support_y"].sum(2) == 1).all())


def test_auc_within_users_is_the_mean_of_their_own():
    generator = torch.Generator().manual_seed(0)
    answers, stars = (torch.randn(1, 4, 12, generator=generator) for _ in range(2))
    tasks = tasks_of([[0.5, -0.5]] * 4, stars[0].tolist())
    found = serving.within_user_auc(answers.round(decimals=1), tasks)
    expected = auc(answers[0].round(decimals=1), (stars[0] > 1e-4).long()).mean()
    assert float(found[0]) == pytest.approx(float(expected), abs=1e-6)


def test_auc_leaves_out_what_is_not_known_and_who_has_one_class():
    known = [[True, True, False], [True, True, True]]
    tasks = tasks_of([[1.0, -1.0]] * 2, [[1.0, -1.0, 1.0], [1.0, 2.0, 3.0]], known)
    assert serving.within_user_auc(torch.tensor([[[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]]]), tasks).tolist() == [1.0]
    assert serving.within_user_auc(torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]]), tasks).tolist() == [0.5]
    with pytest.raises(ValueError, match=r"^scores: got \(1, 2, 3\) with 1 NaN"):
        serving.within_user_auc(torch.tensor([[[1.0, torch.nan, 0.0], [0.0, 0.0, 0.0]]]), tasks)
    with pytest.raises(ValueError, match=r"^scores: got \(2, 3\)"):
        serving.within_user_auc(torch.zeros(2, 3), tasks)


def test_pulled_prototypes_by_hand():
    embeddings = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [0.0, 6.0]], [[9.0, 9.0], [9.0, 9.0], [9.0, 9.0]]])
    labels = torch.tensor([[0, 0, 1], [-1, -1, -1]])
    everybody = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    found = serving.pulled_prototypes(embeddings, labels, everybody, 3.0)
    expected = [[[(4 - 3) / 5, -3 / 5], [3 / 4, (6 + 3) / 4]], everybody.tolist()]
    torch.testing.assert_close(found, torch.tensor(expected))
    nearly = serving.pulled_prototypes(embeddings[:1], labels[:1], everybody, 1e-6)
    own = PrototypicalNetworkRecommender(2).compute_prototypes(embeddings[0], labels[0])
    torch.testing.assert_close(nearly[0], own, rtol=0, atol=1e-5)


def test_ratings_from_odds_by_hand():
    tasks = tasks_of([[5.0, 4.0, 1.0, 2.0], [3.0, 3.0, 3.0, 3.0]], [[1.0, 2.0]] * 2)
    odds = torch.tensor([[[0.5, 100.0], [0.0, -5.0]]])
    found = serving.as_ratings(odds, tasks, 0.4, 2.0)
    torch.testing.assert_close(found, torch.tensor([[[3.2, 3.8], [3.0, 2.2]]]))


@pytest.fixture(scope="module")
def tastes(people):
    return {w: serving.train_tastes(people.train, SMALL, 0.003, (8,), w, 8) for w in (0.0, 5.0)}


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_log_odds_are_those_of_the_networks(people, tastes, weight):
    test, trained = people.test.shots(10), tastes[weight]
    found = serving.log_odds(trained, test)
    support_y, both = serving.liked(test)[0], serving.two_sided(test)
    for s in SMALL:
        network = trained.models.model(s)
        with torch.no_grad():
            heap = network(people.train.support_x[s].flatten(0, 1))
            everybody = network.compute_prototypes(heap, serving.liked(people.train)[0][s].flatten())
        for t in both[s].nonzero().squeeze(1).tolist():
            with torch.no_grad():
                own = network(test.support_x[s, t])
                means = [own[support_y[s, t] == k] for k in (0, 1)]
                prototypes = torch.stack(
                    [(m.sum(0) + weight * e) / (len(m) + weight) for m, e in zip(means, everybody, strict=True)]
                )
                square = (network(test.query_x[s, t])[:, None] - prototypes).square().sum(-1)
            torch.testing.assert_close(found[s, t], square[:, 0] - square[:, 1], rtol=1e-3, atol=1e-4)


def test_who_is_one_sided_gets_everybodys_or_nothing(people, tastes):
    test = people.test.shots(10)
    flat = replace(test, support_y=torch.zeros_like(test.support_y))
    assert float(serving.log_odds(tastes[0.0], flat).abs().max()) == 0.0
    pulled, other = (serving.log_odds(tastes[5.0], flat, weight) for weight in (5.0, 500.0))
    torch.testing.assert_close(pulled, other, rtol=1e-4, atol=1e-5)  # nothing of their own pulls back
    assert float(pulled.std()) > 0


def test_the_taste_objective_is_the_cross_entropy(tastes):
    batch = next(tastes[0.0].models.draw_batches(0, 1))
    u, network = batch["users"], tastes[0.0].models.model(0)
    plain = serving.taste_objective(network, batch, {}, 0.0)[0]
    parts = zip(*(u[field] for field in ("support_x", "support_y", "query_x")), strict=True)
    by_hand = F.nll_loss(torch.cat([network.episode_forward(*part) for part in parts]), u["query_y"].flatten())
    torch.testing.assert_close(plain, by_hand)
    nearly = serving.taste_objective(network, batch, {}, 0.0, 1e-6)[0]
    torch.testing.assert_close(nearly, plain, rtol=1e-3, atol=1e-4)
    pulled = serving.taste_objective(network, batch, {}, 0.0, 50.0)[0]
    assert float((pulled - plain).detach().abs()) > 1e-3


def test_the_scores_behind_the_pull_can_be_had_again(people, monkeypatch):
    monkeypatch.setattr(serving, "DESIGN_SEEDS", SMALL)
    monkeypatch.setattr(serving, "STEPS", 2)
    assert set(serving.score_tastes(people, (8,), (0.003,), (0.0, 3.0))) == {(0.003, 0.0), (0.003, 3.0)}


# MovieLens in small.


@pytest.fixture(scope="module")
def ranked(small_movielens):
    return serving.rank_films(small_movielens, SMALL, 5)


def test_films_are_ranked_by_what_they_say(ranked):
    test = ranked.users.test
    assert set(ranked.auc) == set(pictures.RANKED)
    by_mean = serving.within_user_auc(test.query_x[..., users.FILM_MEAN], test)
    assert torch.equal(ranked.auc["mean rating"], by_mean)
    for name, trained in ranked.tastes.items():
        assert torch.equal(ranked.auc[name], serving.within_user_auc(serving.log_odds(trained, test), test))
    assert ranked.tastes["prototypes"].weight == 0
    assert ranked.tastes["prototypes, pulled"].weight == 10.0


def test_the_feature_of_popularity_counts_ratings(small_movielens):
    catalogue = users.deal_film_users(small_movielens, 0)["catalogue"]
    described, _ = users.describe_films(small_movielens, catalogue)
    mine = torch.isin(small_movielens.user, catalogue)
    count = torch.bincount(small_movielens.item[mine], minlength=small_movielens.n_items)
    order = described[:, serving.FILM_COUNT].argsort()
    assert bool((count[order].diff() >= 0).all())
    assert float(described[:, serving.FILM_COUNT].std()) > 0


def test_shares_of_users_are_counted(ranked):
    test = ranked.users.test
    one_sided = (test.support_y.amax(2) == test.support_y.amin(2)).float().mean(1)
    torch.testing.assert_close(ranked.one_sided, one_sided)
    assert bool((ranked.left_out <= 1).all())


# The section.


@pytest.fixture(scope="module")
def served():
    return serving.serve_in_shop(SMALL, 4, USERS)


def test_the_arms_serve_the_same_users_with_their_own_rates(served):
    test = served.users.test.shots(10)
    assert set(served.error) == set(served.auc) == set(serving.ARMS)
    torch.testing.assert_close(served.error["own mean"], few_shot.mean_error(users.own_mean(test), test))
    assert served.auc["own mean"].tolist() == [0.5, 0.5]
    shop = serving.SETTINGS["shop"]
    for name, learner in serving.LEARNERS["shop"].items():
        models = few_shot.train(learner, served.users.train, SMALL, few_shot.HIDDEN, 4)
        for rate, scores, measure in (
            (learner.rate, served.error, few_shot.mean_error),
            (shop["rate_for_auc"][name], served.auc, serving.within_user_auc),
        ):
            answers = few_shot.adapt_and_answer(learner, models, test, rate, (3,))[0]
            torch.testing.assert_close(scores[name], measure(answers, test), rtol=1e-4, atol=1e-5)
    for name, trained in served.tastes.items():
        odds = serving.log_odds(trained, test)
        stars = serving.as_ratings(odds, test, *shop["tastes"][name]["stars"])
        torch.testing.assert_close(served.error[name], few_shot.mean_error(stars, test))
        torch.testing.assert_close(served.auc[name], serving.within_user_auc(odds, test))
    nobodys = serving.log_odds(served.tastes["prototypes, pulled"], test, 1e9)
    torch.testing.assert_close(served.everybody, serving.within_user_auc(nobodys, test), rtol=0, atol=2e-3)


def test_lesson_04_fine_tunes_longer_on_the_same_users():
    """What the notebook says of it; the claim is lesson 04's."""
    here, there = (inspect.signature(f).parameters for f in (serving.serve_in_shop, maml.compare))
    assert all(here[name].default == there[name].default for name in ("shop", "seeds", "steps"))
    assert maml.SETTINGS["longer"]["updates"] == 6 * serving.STEPS
    assert serving.LEARNERS["shop"]["fine-tuning"] == maml.SHOP_ARMS["joint"]


def test_every_arm_trains_on_as_many_ratings(served):
    train = served.users.train
    for learner in serving.LEARNERS["shop"].values():
        models = few_shot.train(learner, train, SMALL, (8,), 1)
        batch = next(models.draw_batches(0, 1))["users"]
        assert batch["support_y"].shape == batch["query_y"].shape == (16, 10)
    batch = next(served.tastes["prototypes"].models.draw_batches(0, 1))["users"]
    assert batch["support_y"].shape == batch["query_y"].shape == (16, 10)


def test_films_are_served_with_the_networks_that_ranked_them(ranked):
    found = serving.serve_films(ranked, SMALL, 3)
    assert set(found.error) == {*serving.ARMS, "film mean + offset"}
    for name in ("prototypes", "prototypes, pulled"):
        assert torch.equal(found.auc[name], ranked.auc[name])
    test = ranked.users.test
    expected = few_shot.mean_error(users.film_mean_and_offset(test), test)
    torch.testing.assert_close(found.error["film mean + offset"], expected)


def test_the_scores_behind_the_section_can_be_had_again(people, monkeypatch):
    monkeypatch.setitem(serving.SETTINGS, "steps_rates", (0.05, 0.1))
    found = serving.score_serving(people, "shop", 2, SMALL)
    for name in serving.STEPPING:
        assert set(found[name]) == {0.05, 0.1}
        assert all(0 < error < 5 and 0 < auc < 1 for error, auc in found[name].values())
    for name, chosen in serving.SETTINGS["shop"]["tastes"].items():
        assert chosen["stars"] in found[name]
        assert len(set(found[name].values())) > 3


SLOW = pytest.mark.skipif(not os.environ.get("RECMTL_SLOW_TESTS"), reason="minutes: set RECMTL_SLOW_TESTS=1")


@SLOW
@pytest.mark.parametrize("where", ["shop", "films"])
def test_each_arm_serves_at_its_best(where):
    shop = where == "shop"
    people = users.shop_users(users.SHOP, DESIGN_SEEDS) if shop else users.film_users(load_movielens(), DESIGN_SEEDS)
    found, chosen = serving.score_serving(people, where), serving.SETTINGS[where]
    for name, learner in serving.LEARNERS[where].items():
        error, auc = (torch.tensor([scores[k] for scores in found[name].values()]) for k in (0, 1))
        assert found[name][learner.rate][0] <= float(error.min()) + 0.001
        assert found[name][chosen["rate_for_auc"][name]][1] >= float(auc.max()) - 0.001
    for name, tastes in chosen["tastes"].items():
        assert found[name][tastes["stars"]] <= min(found[name].values()) + 0.001


def test_costs_and_table(served):
    costs = serving.measure_costs(repeats=2)
    assert set(costs) == set(serving.ARMS)
    assert costs["own mean"].parameters == 0
    network = PrototypicalNetworkRecommender(16, experiments.EMBEDDING, (32, 32))
    assert costs["prototypes"].parameters == sum(p.numel() for p in network.parameters())
    assert costs["MAML"].parameters == costs["Reptile"].parameters == costs["fine-tuning"].parameters
    assert all(cost.serve > 0 for cost in costs.values())
    lines = serving.table(served, None, costs).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == list(serving.ARMS)
    assert f"{float(served.auc['MAML'].mean()):.3f}" in next(line for line in lines if line.startswith("MAML"))


def test_the_work_that_is_timed_is_the_arms():
    """Serving by the timed prototypes is the package's own answer."""
    generator = torch.Generator().manual_seed(1)
    own_x, own_y, query_x = (torch.randn(n, generator=generator) for n in ((10, 16), (10,), (5, 16)))
    network = PrototypicalNetworkRecommender(16, 8, (8,))
    answer = serving._taste_answer(network, own_x, own_y, query_x, 0.0)()
    expected = network.episode_forward(own_x, (own_y > own_y.mean()).long(), query_x)
    torch.testing.assert_close(answer, expected.detach())


# The explorers.


def test_the_plane_is_the_networks(to_the_end):
    assert [type(step) for step in plane.look(3, 4, 2, 1, 0.0, 0.0, shop=SHOP)] == [Running, Running]
    assert list(plane.look(3, 4, 2, 2, 1.0, 0.0, shop=SHOP)) == []  # trained once
    found = to_the_end(plane.look(3, 4, 2, 1, 0.0, 0.0, shop=SHOP))
    network = plane._KEPT[SHOP, 2]
    support, queries = plane.new_episode(SHOP, 0)
    labels = torch.arange(3).repeat_interleave(4)
    with torch.no_grad():
        prototypes = network.compute_prototypes(network(support[:3, :4].flatten(0, 1)), labels)
    torch.testing.assert_close(found.prototypes, prototypes)
    torch.testing.assert_close(found.before, prototypes)
    best = network.predict(support[:3, :4].flatten(0, 1), labels, queries[:3].flatten(0, 1)).view(3, 20)
    torch.testing.assert_close(found.accuracy, (best == torch.arange(3)[:, None]).float().mean(1))


def test_what_is_trained_on_the_way_is_shown():
    shown = [step.snapshot() for step in plane.look(2, 1, 3, 1, 0.0, 0.0, shop=replace(SHOP, items=41))]
    assert [picture.updates for picture in shown] == [1, 2, 3]


def test_a_moved_item_moves_its_prototype_by_its_share(to_the_end):
    still = to_the_end(plane.look(3, 4, 0, 2, 0.0, 0.0, shop=SHOP))
    moved = to_the_end(plane.look(3, 4, 0, 2, 2.0, -1.0, shop=SHOP))
    way = moved.support[1, 0] - moved.start
    torch.testing.assert_close(still.support[1, 0], moved.start)
    torch.testing.assert_close(moved.prototypes[1] - moved.before[1], way / 4)
    assert torch.equal(moved.prototypes[[0, 2]], still.prototypes[[0, 2]])
    assert float(way[0] / way[1]) == pytest.approx(-2.0)
    torch.testing.assert_close(moved.accuracy_before, still.accuracy)
    assert "its prototype followed 25% of the way" in pictures.describe_plane(moved, {"ways": 3, "shots": 4})


def test_cells_hold_what_is_nearest():
    generator = torch.Generator().manual_seed(2)
    prototypes, frame = torch.randn(6, 2, generator=generator), (-3.0, 3.0, -2.0, 2.0)
    parts = plane.cells(prototypes, frame)

    def area(corners):
        x, y = corners.T
        return float((x * y.roll(-1) - x.roll(-1) * y).sum()) / 2

    assert sum(area(c) for c in parts if len(c)) == pytest.approx(24.0)
    grid = torch.stack(torch.meshgrid(torch.linspace(-2.9, 2.9, 60), torch.linspace(-1.9, 1.9, 40), indexing="ij"), -1)
    nearest = (grid[:, :, None] - prototypes).square().sum(-1).argmin(-1)
    share = torch.bincount(nearest.flatten(), minlength=6) / nearest.numel()
    for k, corners in enumerate(parts):
        assert (area(corners) / 24 if len(corners) else 0.0) == pytest.approx(float(share[k]), abs=0.02)
        for corner in corners:  # no other prototype is nearer to a corner
            distance = (corner - prototypes.double()).norm(dim=1)
            assert float(distance[k] - distance.min()) < 1e-9


def test_a_cell_may_be_empty():
    parts = plane.cells(torch.tensor([[0.0, 0.0], [1.0, 0.0], [90.0, 0.0]]), (-1.0, 2.0, -1.0, 1.0))
    assert [len(corners) for corners in parts] == [4, 4, 0]


@pytest.mark.parametrize("ways", [2, 8])
@pytest.mark.parametrize("shots", [1, 10])
@pytest.mark.parametrize(("right", "up"), [(0.0, 0.0), (-4.0, 4.0)])
def test_the_plane_can_be_drawn_at_every_end_of_its_controls(to_the_end, ways, shots, right, up):
    found = to_the_end(plane.look(ways, shots, 0, 8, right, up, 3, SHOP))
    figure, controls = new_figure(11, 4.8), {"ways": ways, "shots": shots}
    pictures.draw_plane(found, figure, controls)
    said = pictures.describe_plane(found, controls)
    assert f"{ways} new shelves, {shots} labelled item" in said
    assert found.shelf == ways
    assert ("followed" in said) == (right != 0)


def test_the_first_explorer_runs(monkeypatch):
    monkeypatch.setattr(explorers, "look", lambda **kw: plane.look(**kw, shop=SHOP))
    explorer = explorers.explore_plane()
    assert len(explorer.run(updates=0, ways=3).prototypes) == 3
    assert "seed" in explorer.values
    explorer.close()


def test_the_pull_is_measured_on_the_first_ratings(people, tastes):
    test = people.test
    look = serving.cold_start_desk({"shop": (tastes[5.0], test)})
    shown = look("shop", 2, 5.0)
    odds = serving.log_odds(tastes[5.0], test.shots(2), 5.0)
    torch.testing.assert_close(shown.auc, serving.within_user_auc(odds, test.shots(10)))
    torch.testing.assert_close(shown.curve[0.0], look("shop", 2, 0.0).auc)
    assert look("shop", 1, 5.0).one_sided == 1.0
    one = look("shop", 1, 3.0).curve
    assert one[0.0].tolist() == [0.5, 0.5]
    assert float(one.lead(1.0, over=300.0).abs().max()) < 1e-6  # everybody's, whatever the weight


def test_the_second_explorer_goes_where_there_are_users(served):
    explorer = explorers.explore_pull(served)
    explorer.run(count=3, weight=7.5)
    assert explorer.history[-1][1].startswith("shop, 3 ratings of each new user, weight 7.5")
    explorer.close()


def test_the_study_question_takes_its_evidence_from_an_explorer(served):
    explorer = explorers.explore_pull(served)
    question = lesson.study_cold_start(explorer)
    assert len({list(check.choices).index(check.correct) for check in question.checks}) > 1
    explorer.close()


def test_pictures_of_the_comparisons_can_be_drawn(compared, ranked, served):
    ways = experiments.by_ways(compared, SMALL, 12, (2,), SHOP)
    shop = experiments.in_the_shop(compared, SMALL, SHOP)
    broken = experiments.train_broken(compared, SMALL, 8, SHOP)
    found = serving.serve_films(ranked, SMALL, 2)
    for draw in (
        lambda f: pictures.draw_idea(f),
        lambda f: pictures.draw_new_shelves(compared, f),
        lambda f: pictures.draw_ways(ways, f),
        lambda f: pictures.draw_controls(shop, {"shuffled": shop}, f),
        lambda f: pictures.draw_broken(broken, f),
        lambda f: pictures.draw_films(ranked, f),
        lambda f: pictures.draw_section(served, found, f),
        lambda f: pictures.draw_section(served, None, f),
    ):
        figure = new_figure(10, 4)
        draw(figure)
        assert figure.axes
