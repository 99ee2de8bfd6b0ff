"""Lesson 01: its exercises refuse what they say they refuse, and its experiments measure what they say."""

from types import SimpleNamespace

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from recmtl_lessons.datasets import Ratings, genre_domains
from recmtl_lessons.lessons import domain_adversarial as lesson
from recmtl_lessons.lessons.domain_adversarial import experiments, pictures, questions
from recmtl_lessons.teaching.style import new_figure

SMALL = tuple(range(2))


@pytest.fixture(scope="module")
def shops():
    return lesson.open_shops(lesson.SHOP, SMALL)


def test_the_notebook_with_solutions_in_it_passes_its_checks(solved):
    answers = {
        "MyReversal": "return -ctx.alpha[:, None] * gradient, None",
        "my_objective": "n = len(clicks)\n"
        "task = F.binary_cross_entropy_with_logits(click_logits[:n], clicks)\n"
        "return task + F.cross_entropy(domain_logits, domains)",
        "my_distance": "error = 1 - (right_home + right_abroad) / (2 * n)\nreturn 2 * (1 - 2 * error)",
    }
    kinds = solved("01_domain_adversarial.ipynb", {"torch": torch, "F": F, "lesson": lesson}, answers)
    assert kinds == dict.fromkeys(answers, "right")


def test_labels_of_the_target_never_reach_training(shops):
    streams = shops.streams("click", "rating")
    assert set(streams["home"]) == {"x", "click", "rating"}
    assert set(streams["abroad"]) == {"x"}


def test_halves_share_no_row(shops):
    for domain in ("home", "abroad"):
        for seed in SMALL:
            train, test = (half[domain]["x"][seed] for half in (shops.train, shops.test))
            rows = {row.numpy().tobytes() for row in train}
            assert len(rows) == len(train)
            assert not rows & {row.numpy().tobytes() for row in test}


def test_the_scores_of_a_sweep_are_those_of_its_networks(shops):
    models = lesson.many_networks(shops.streams("click"), {"lam": (0.0, 1.0), "gamma": (10.0,)}, SMALL)
    list(models.train(30))
    result = experiments.measured(models, shops, (0.0, 1.0))
    for index in range(len(models)):
        setting, seed = divmod(index, len(SMALL))
        network = models.model(index)
        for domain, scores in (("home", result.source_auc), ("abroad", result.target_auc)):
            fields = shops.test[domain]
            expected = roc_auc_score(fields["click"][seed], network.predict(fields["x"][seed], "click"))
            # Of the million pairs behind an AUC, a stack and a single network may order one or two near ties apart.
            assert scores[setting, seed].item() == pytest.approx(expected, abs=3e-6)
        home, abroad = (network(shops.test[d]["x"][seed], "click")[1].argmax(1) for d in ("home", "abroad"))
        expected = ((home == 0).sum() + (abroad == 1).sum()).item() / (len(home) + len(abroad))
        assert result.domain_accuracy[setting, seed].item() == pytest.approx(expected, abs=1e-6)


def test_the_broken_objectives_are_broken_where_they_say(shops):
    models = lesson.many_networks(shops.streams("click"), {"lam": (1.0,), "gamma": (10.0,)}, SMALL)
    batch = next(models.draw_batches(0, 1))
    setting = {"lam": torch.tensor(1.0), "gamma": torch.tensor(10.0)}
    network = models.model(0)

    def pull_on_the_encoder(objective):
        network.zero_grad()
        _, logs = objective(network, batch, setting, 0.5)
        task = torch.autograd.grad(logs["task"], network.encoder[0].weight, retain_graph=True)[0]
        loss, _ = objective(network, batch, setting, 0.5)
        return torch.autograd.grad(loss, network.encoder[0].weight)[0] - task

    right = pull_on_the_encoder(lesson.objective)
    torch.testing.assert_close(pull_on_the_encoder(lesson.objective_with_two_signs), -right, rtol=1e-4, atol=1e-6)
    soft = pull_on_the_encoder(lesson.objective_with_softmax_inside)
    assert 0 < soft.norm() < right.norm()


def test_film_shops_know_nothing_of_their_own_row_or_of_target_labels():
    generator = torch.Generator().manual_seed(0)
    n, users, films = 16000, 40, 60
    genres = torch.zeros(films, 3, dtype=torch.bool)
    genres[: films // 2, 0] = True
    genres[films // 2 :, 1] = True
    ratings = Ratings(
        user=torch.randint(users, (n,), generator=generator),
        item=torch.randint(films, (n,), generator=generator),
        rating=torch.randint(1, 6, (n,), generator=generator).float(),
        user_ids=tuple(range(users)),
        item_ids=tuple(range(films)),
        years=torch.full((films,), 1990),
        genres=genres,
        genre_names=("A", "B", "C"),
    )
    before = experiments.film_shops(ratings, "A", "B", SMALL)
    in_target = genres[:, 1][ratings.item]
    turned = torch.where(in_target, 6 - ratings.rating, ratings.rating)
    after = experiments.film_shops(experiments.replace(ratings, rating=turned), "A", "B", SMALL)
    for domain in ("home", "abroad"):
        assert torch.equal(before.train[domain]["x"], after.train[domain]["x"])
    assert not torch.equal(before.train["abroad"]["click"], after.train["abroad"]["click"])
    # Within a user, what is known of a row must not lean on its label: neither its own, nor, left out, against it.
    films = genre_domains(ratings, ("A", "B"))
    x = before.train["home"]["x"][0]
    known = {tuple(row) for row in x[:, :3].tolist()}
    assert len(known) <= films.n_users  # the same for all rows of a user, so the row's label cannot be in it


def test_live_training_reports_and_can_be_left():
    steps = experiments.train_live(0.3, 10.0, 0)
    first = next(steps)
    result = first.snapshot()
    assert (first.done, first.total) == (20, lesson.STEPS)
    assert result.source_auc.shape == result.target_auc.shape == result.domain_accuracy.shape == (8, 1)
    assert result.points.shape == (2 * 220, 2)
    assert torch.isfinite(result.points).all()
    figure = new_figure(10, 4)
    pictures.draw_schedule(result, figure)
    assert f"step 20 of {lesson.STEPS}" in pictures.describe_live(result)
    steps.close()


@pytest.mark.parametrize(("lam", "place"), [(0.0, 0.0), (0.03, 1.0), (0.3, 3.0), (3.0, 5.0)])
def test_the_axis_of_lambda(lam, place):
    assert pictures._place(lam) == pytest.approx(place)


def test_the_key_points_know_a_good_answer_from_empty_words():
    points = lesson.study_question(SimpleNamespace(history=[])).points
    worked = " ".join(questions._WORKED.split())
    assert [point.name for point in points if not point.found_in(worked)] == []
    for text in ("I have not done this, nothing to note.", "lambda", "It works well with neural networks."):
        assert [point.name for point in points if point.found_in(text)] == []
