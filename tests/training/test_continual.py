"""Domains in turn: the stack does what a plain loop does, the matrix is what the models say, and nothing leaks."""

from dataclasses import replace

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from recmtl_lessons.datasets.arrivals import CLUES, PAIRS, clues_in_turn, pairs_in_turn
from recmtl_lessons.models import ElasticWeightConsolidation, fisher_diagonal, forgetting_loss
from recmtl_lessons.training import continual as room
from recmtl_lessons.training import draw_batches, transfer_matrix
from recmtl_lessons.training.continual import JOINT, NAIVE, Method, factorization, in_turn, network

SEEDS = (3, 5)
STEPS = 25


@pytest.fixture(scope="module")
def clues():
    return clues_in_turn(replace(CLUES, interactions=400), SEEDS)


@pytest.fixture(scope="module")
def pairs():
    return pairs_in_turn(replace(PAIRS, n_users=40, n_items=12, interactions=600), SEEDS)


def learned(learner, arrivals, settings, method=NAIVE, **options):
    *_, (_, course) = in_turn(learner, arrivals, settings, SEEDS, method, **options)
    return course()


def plainly(learner, arrivals, number, added):
    """One model of one seed, in a loop of its own; ``added`` says what joins the loss of a domain's step."""
    own, seed = arrivals.one(number), SEEDS[number]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = learner.build()
    for domain in arrivals.domains:
        extra = added(model, domain, own)
        optimizer = torch.optim.Adam(model.parameters(), lr=learner.learning_rate)
        for batch in draw_batches({domain: own.train[domain]}, seed, learner.steps):
            fields = batch[domain]
            loss = F.binary_cross_entropy_with_logits(learner.answer(model, domain, fields), fields["click"])
            loss = loss + extra(model, fields)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        added.close(model, domain, own)
    return model


class Consolidated:
    def __init__(self, learner, strength, rows):
        self.ewc, self.learner, self.rows = ElasticWeightConsolidation(strength), learner, rows

    def __call__(self, model, domain, own):
        return lambda model, fields: self.ewc.penalty(model)

    def close(self, model, domain, own):
        fields = {name: values[: self.rows] for name, values in own.train[domain].items()}
        inputs = [values for name, values in fields.items() if name != "click"]
        names = [name for name in fields if name != "click"]
        self.ewc.consolidate(
            model,
            fisher_diagonal(
                model, lambda m, *v: self.learner.answer(m, domain, dict(zip(names, v, strict=True))), inputs
            ),
        )


@pytest.mark.parametrize("heads", ["shared", "per_domain"])
def test_the_stack_consolidates_as_a_plain_loop_does(clues, heads):
    learner = network(clues, (8, 4), 0.003, STEPS, heads)
    course = learned(learner, clues, {"ewc": (0.0, 5.0)}, Method(fisher=room.fisher_of(learner, rows=60)))
    for number, seed in enumerate(SEEDS):
        for strength in (0.0, 5.0):
            mine = plainly(learner, clues, number, Consolidated(learner, strength, 60))
            theirs = course.models.model(course.models.number(seed, ewc=strength))
            for own, other in zip(mine.parameters(), theirs.parameters(), strict=True):
                torch.testing.assert_close(own, other, rtol=0, atol=1e-4)


def test_the_matrix_is_what_the_models_say_of_the_rows_asked_for(clues):
    learner = network(clues, (8, 4), 0.003, STEPS, "per_domain")
    for by in ("test", "valid"):
        course = learned(learner, clues, {"ewc": (0.0,)}, by=by, every=10)
        assert course.matrix.shape == (2, 4, 3)
        assert course.steps == tuple(STEPS * k + s for k in range(3) for s in (10, 20, 25))
        torch.testing.assert_close(course.curves[:, :, [2, 5, 8]], course.matrix[:, 1:].transpose(1, 2))
        for number in range(2):
            for place, domain in enumerate(clues.domains):
                fields = getattr(clues, by)[domain]
                scores = course.models.model(number).predict(fields["x"][number], domain)
                expected = roc_auc_score(fields["click"][number], scores)
                assert course.matrix[number, -1, place].item() == pytest.approx(expected, abs=1e-6)


def test_what_no_later_domain_asks_stays_bit_for_bit(pairs):
    learner = factorization(pairs, "shared", 3, 0.02, STEPS)
    tables = []
    for moment, course in in_turn(learner, pairs, {"ewc": (0.0,)}, SEEDS):
        if moment.step % STEPS == 0:
            tables.append(room.weights_of(course().models))
    after_books, at_end = tables[0], tables[-1]
    assert torch.equal(after_books["items.0"], at_end["items.0"])
    assert not torch.equal(after_books["shared_users"], at_end["shared_users"])
    apart = factorization(pairs, "per_domain", 3, 0.02, STEPS)
    course = learned(apart, pairs, {"ewc": (0.0,)})
    assert torch.equal(course.matrix[:, 1, 0], course.matrix[:, -1, 0])


def test_kept_rows_are_seen_again_and_weigh_as_they_are_told(pairs):
    learner = factorization(pairs, "shared", 3, 0.02, STEPS)
    few = learned(learner, pairs, {"replay": (0.0, 1.0)}, Method(rows=10))
    nothing = learned(learner, pairs, {"replay": (1.0,)})
    theirs, without = room.weights_of(few.models), room.weights_of(nothing.models)
    torch.testing.assert_close(theirs["items.0"][:2], without["items.0"], rtol=0, atol=1e-5)  # weight 0
    assert not torch.allclose(theirs["items.0"][2:], without["items.0"], atol=1e-3)
    kept = learned(learner, pairs, {"ewc": (0.0,)}, JOINT)
    assert kept.matrix[:, -1, 0].mean() > nothing.matrix[:, -1, 0].mean() - 0.05


def test_joint_training_descends_on_the_mean_over_the_domains_so_far(clues):
    learner = network(clues, (8, 4), 0.003, STEPS, "per_domain")
    model = learner.build()
    batch = {d: {name: values[0, :7] for name, values in fields.items()} for d, fields in clues.train.items()}
    loss, _ = room.objective_of(learner, "games", ["books", "films"])(model, batch, {}, 0.0)
    parts = [F.binary_cross_entropy_with_logits(model(f["x"], d).squeeze(1), f["click"]) for d, f in batch.items()]
    torch.testing.assert_close(loss, torch.stack(parts).mean())


def test_answers_of_the_network_before_are_held_on_the_rows_that_are_asked(clues):
    learner = network(clues, (8, 4), 0.003, STEPS, "shared")
    now, before = learner.build(), learner.build()
    fields = {name: values[0, :7] for name, values in clues.train["films"].items()}
    batch = {"films": fields, "asked books": {"x": fields["x"]}, "old": dict(before.named_parameters())}
    loss, _ = room.objective_of(learner, "films", ["books"])(now, batch, {"distil": 0.7}, 0.0)
    plain = F.binary_cross_entropy_with_logits(now(fields["x"], room.TASK).squeeze(1), fields["click"])
    held = forgetting_loss(now(fields["x"], room.TASK), before(fields["x"], room.TASK))
    torch.testing.assert_close(loss, plain + 0.7 * held)


def test_distilling_holds_old_answers_and_stores_no_row(pairs):
    learner = factorization(pairs, "shared", 3, 0.02, 3 * STEPS)
    asked = room.random_pairs(pairs, 50)("books", pairs.train["films"], torch.Generator().manual_seed(0))
    assert set(asked) == {"user", "item"}
    assert asked["item"].max() < 12
    assert asked["user"].shape == (2, 50)
    course = learned(learner, pairs, {"distil": (0.0, 30.0)}, Method(asked=room.random_pairs(pairs, 50)))
    moved = (course.matrix[:, -1, 0] - course.matrix[:, 1, 0]).abs().view(2, 2).mean(1)
    assert moved[1] < moved[0]


def test_shuffled_importances_are_the_same_numbers_among_the_same_weights(clues):
    learner = network(clues, (8, 4), 0.003, STEPS, "per_domain")
    exact = room.fisher_of(learner, rows=40)
    *_, (_, course) = in_turn(learner, clues.in_order(("books",)), {"ewc": (0.0,)}, SEEDS)
    models, fields = course().models, clues.train["books"]
    right, dealt = exact(models, "books", fields), room.shuffled(exact)(models, "books", fields)
    for number in range(2):
        a, b = (torch.cat([value[number].flatten() for value in found.values()]) for found in (right, dealt))
        assert torch.equal(a.sort().values, b.sort().values)
        assert torch.equal(a == 0, b == 0)
        assert not torch.equal(a, b)
    ones = room.all_ones(models, "books", fields)
    assert all((value == 1).all() for value in ones.values())
    assert set(ones) == set(right)


def test_a_weight_that_is_held_hard_does_not_move(clues):
    learner = network(clues, (8, 4), 0.003, STEPS, "per_domain")
    course = learned(learner, clues, {"ewc": (0.0, 1e5)}, Method(fisher=room.all_ones))
    drift = (course.matrix[:, -1, 0] - course.matrix[:, 1, 0]).abs().view(2, 2)
    assert (drift[1] < 0.01).all()


def test_what_is_shared_can_learn_more_slowly_after_the_first_domain(clues):
    learner = network(clues, (8, 4), 0.003, STEPS, "per_domain")
    frozen = learned(learner, clues, {"ewc": (0.0,)}, Method(slower=0.0))
    assert torch.equal(frozen.matrix[:, 1, 0], frozen.matrix[:, -1, 0])  # neither head nor encoder of books has moved
    usual, slow = (learned(learner, clues, {"ewc": (0.0,)}, Method(slower=share)) for share in (1.0, 0.1))
    first = [course.curves[:, :, 0] for course in (usual, slow)]
    assert torch.equal(*first)  # the first domain is learned as ever
    assert not torch.equal(usual.matrix[:, -1], slow.matrix[:, -1])


class TestTransferMatrix:
    def test_by_hand(self):
        scores = torch.tensor([[0.9, 0.6, 0.5], [0.7, 0.8, 0.55], [0.75, 0.6, 0.95]])
        found = transfer_matrix(scores, torch.tensor([0.5, 0.45, 0.5]))
        assert found.average.item() == pytest.approx((0.75 + 0.6 + 0.95) / 3)
        assert found.forgetting.item() == pytest.approx(((0.9 - 0.75) + (0.8 - 0.6)) / 2)
        assert found.backward_transfer.item() == pytest.approx(((0.75 - 0.9) + (0.6 - 0.8)) / 2)
        assert found.forward_transfer.item() == pytest.approx(((0.6 - 0.45) + (0.55 - 0.5)) / 2)

    def test_the_best_is_taken_since_the_domain_was_learned(self):
        scores = torch.tensor([[0.6, 0.99, 0.5], [0.8, 0.7, 0.5], [0.5, 0.6, 0.9]])
        found = transfer_matrix(scores, torch.full((3,), 0.5))
        assert found.forgetting.item() == pytest.approx(((0.8 - 0.5) + (0.7 - 0.6)) / 2)

    def test_leading_dimensions_are_models(self):
        scores, before = torch.rand(4, 2, 3, 3), torch.rand(4, 2, 3)
        whole = transfer_matrix(scores, before)
        one = transfer_matrix(scores[3, 1], before[3, 1])
        for name in ("average", "forgetting", "backward_transfer", "forward_transfer"):
            assert getattr(whole, name)[3, 1].item() == pytest.approx(getattr(one, name).item())

    @pytest.mark.parametrize(
        ("scores", "before", "named"),
        [
            (torch.rand(1, 1), torch.rand(1), "scores"),
            (torch.rand(2, 3), torch.rand(3), "scores"),
            (torch.rand(3, 3), torch.rand(2), "before"),
            (torch.full((2, 2), torch.nan), torch.rand(2), "scores"),
        ],
    )
    def test_refuses(self, scores, before, named):
        with pytest.raises(ValueError, match=named):
            transfer_matrix(scores, before)
