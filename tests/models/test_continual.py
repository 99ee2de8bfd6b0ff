"""Continual learning against closed forms, loops in plain autograd, and a quadratic program."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from recmtl_lessons.models import (
    ContinualFactorization,
    ContinualRecommender,
    ElasticWeightConsolidation,
    agem_project,
    distillation_loss,
    fisher_diagonal,
    forgetting_loss,
    quadratic_penalty,
)
from recmtl_lessons.training import Stack

TASKS = {"click": ("classification", 1), "genre": ("classification", 3), "aspects": ("regression", 2)}
IDS = {"user_ids": torch.tensor([0, 6, 2]), "item_ids": torch.tensor([4, 4, 0])}


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=draws(seed), dtype=dtype)


def network(tasks=TASKS, seed=0, dtype=torch.float64, **changed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = ContinualRecommender(3, **{"hidden_dims": (5, 4), **changed}).to(dtype)
        for name in tasks:
            made.add_task(name, *TASKS.get(name, ()))
        return made


def tables(users="shared", seed=0, domains=("books", "films"), dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = ContinualFactorization(7, 2, users).to(dtype)
        for domain in domains:
            made.add_domain(domain, 5)
        return made.to(dtype)


def assert_close(one, other, atol=1e-9):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=atol, msg=name)


class TestGrowing:
    @pytest.mark.parametrize("dropout_rate", [0.0, 0.5])
    def test_a_new_task_changes_no_earlier_answer(self, dropout_rate):
        grown, x = network(dropout_rate=dropout_rate).eval(), normal(6, 3)
        before = {task: (grown(x, task), grown.predict(x, task)) for task in TASKS}
        grown.add_task("rating", "regression")
        for task, (answer, prediction) in before.items():
            assert torch.equal(grown(x, task), answer)
            assert torch.equal(grown.predict(x, task), prediction)
        assert grown.tasks == (*TASKS, "rating")

    @pytest.mark.parametrize("users", ["shared", "per_domain"])
    def test_a_new_domain_changes_no_earlier_answer(self, users):
        grown = tables(users)
        before = {domain: grown(domain, **IDS) for domain in grown.domains}
        grown.add_domain("games", 9)
        assert all(torch.equal(grown(domain, **IDS), answer) for domain, answer in before.items())
        assert grown.n_items == {"books": 5, "films": 5, "games": 9}

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_new_parts_have_the_dtype_and_device_of_the_others(self, device, dtype):
        features, scores = network(("click",)).to(device, dtype), tables("per_domain").to(device, dtype)
        features.add_task("genre")
        scores.add_domain("games", 9)
        for weight in (*features.parameters(), *scores.parameters()):
            assert (weight.dtype, weight.device.type, weight.requires_grad) == (dtype, device.type, True)

    def test_new_parts_are_drawn_from_torchs_generator(self):
        one, same, other = (network(("click",), seed=seed).heads[0].weight for seed in (0, 0, 1))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


class TestRecommender:
    def test_it_is_an_encoder_and_a_head(self):
        made, x = network(), normal(6, 3)
        first, second = made.encoder[0], made.encoder[2]
        hidden = second(first(x).relu()).relu()
        for task, head in zip(TASKS, made.heads, strict=True):
            torch.testing.assert_close(made(x, task), hidden @ head.weight.T + head.bias)

    @pytest.mark.parametrize(
        ("task", "shape", "words"),
        [
            ("click", (6,), lambda answers: answers.sigmoid().squeeze(1)),
            ("genre", (6, 3), lambda answers: answers.softmax(1)),
            ("aspects", (6, 2), lambda answers: answers),
            ("rating", (6,), lambda answers: answers.squeeze(1)),
        ],
    )
    def test_it_predicts_in_the_words_of_the_task(self, task, shape, words):
        made, x = network(), normal(6, 3)
        made.add_task("rating", "regression")
        found = made.predict(x, task)
        assert found.shape == shape
        assert not found.requires_grad
        assert torch.equal(found, words(made(x, task).detach()))

    def test_it_predicts_without_dropout_and_leaves_every_mode(self):
        made, x = network(dropout_rate=0.5).train(), normal(200, 3)
        made.heads[0].eval()
        modes = [part.training for part in made.modules()]
        assert not torch.equal(made(x, "click"), made(x, "click"))
        assert torch.equal(made.predict(x, "click"), made.predict(x, "click"))
        assert [part.training for part in made.modules()] == modes
        assert torch.equal(made.predict(x, "click"), made.eval()(x, "click").sigmoid().squeeze(1))


class TestFactorization:
    @pytest.mark.parametrize("users", ["shared", "per_domain"])
    def test_it_is_a_product_and_a_bias(self, users):
        made = tables(users)
        with torch.no_grad():
            made.item_biases[1].copy_(normal(5))
        of_users = made.shared_users if users == "shared" else made.own_users[1]
        expected = [
            sum(of_users[u, k] * made.items[1][i, k] for k in range(2)) + made.item_biases[1][i]
            for u, i in zip(*(ids.tolist() for ids in IDS.values()), strict=True)
        ]
        torch.testing.assert_close(made("films", **IDS), torch.stack(expected))

    @pytest.mark.parametrize(
        ("users", "touched"),
        [
            ("shared", {"shared_users", "items.1", "item_biases.1"}),
            ("per_domain", {"own_users.1", "items.1", "item_biases.1"}),
        ],
    )
    def test_what_a_domain_learns_from(self, users, touched):
        made = tables(users)
        made("films", **IDS).sum().backward()
        assert {name for name, weight in made.named_parameters() if weight.grad is not None} == touched


# The Fisher. What it is held against: plain autograd, one row and one label after another.


def answer_to(task):
    return lambda model, x: model(x, task)


def log_chance(outputs, label, task_type):
    """Of one label given (1, outputs)."""
    if task_type == "regression":
        return -0.5 * (label - outputs[0]).square().sum()
    logits = F.pad(outputs, (1, 0)) if outputs.shape[1] == 1 else outputs
    return logits.log_softmax(1)[0, int(label)]


def squared_slopes(model, task, x, label):
    weights = dict(model.named_parameters())
    chance = log_chance(model(x[None], task), label, TASKS[task][0])
    slopes = torch.autograd.grad(chance, list(weights.values()), allow_unused=True)
    return {
        name: torch.zeros_like(weight) if slope is None else slope.square()
        for (name, weight), slope in zip(weights.items(), slopes, strict=True)
    }


def labels_and_chances(outputs, task_type):
    """All labels of a classification; of a regression, values whose second moments are the normal distribution's."""
    outputs = outputs.detach()
    if task_type == "regression":
        corners = [torch.tensor(c).to(outputs) for c in itertools.product((-1.0, 1.0), repeat=outputs.shape[1])]
        return [(outputs[0] + corner, 1 / len(corners)) for corner in corners]
    logits = F.pad(outputs, (1, 0)) if outputs.shape[1] == 1 else outputs
    return list(enumerate(logits.softmax(1)[0]))


def expected_over_labels(model, task, x):
    total = {name: torch.zeros_like(weight).detach() for name, weight in model.named_parameters()}
    for row in x:
        for label, chance in labels_and_chances(model(row[None], task), TASKS[task][0]):
            for name, squares in squared_slopes(model, task, row, label).items():
                total[name] += chance * squares / len(x)
    return total


def some_labels(task, rows, seed=5):
    task_type, width = TASKS[task]
    if task_type == "regression":
        return normal(rows, width, seed=seed)
    labels = torch.randint(max(width, 2), (rows,), generator=draws(seed))
    return labels.double() if width == 1 else labels


def fisher(model, task, x, labels=None, kind="exact", **options):
    return fisher_diagonal(model, answer_to(task), [x], labels, kind, TASKS[task][0], **options)


each_task = pytest.mark.parametrize("task", TASKS)


class TestFisher:
    def test_of_logistic_regression_is_the_closed_form(self):
        """Over more rows than are held side by side; the answer may be (rows, 1) or (rows,)."""
        model, x = nn.Linear(4, 1).double(), normal(300, 4)
        p = model(x).sigmoid().detach()
        for answer in (lambda model, x: model(x), lambda model, x: model(x).squeeze(1)):
            found = fisher_diagonal(model, answer, (x,))
            expected = {"weight": (p * (1 - p) * x.square()).mean(0, keepdim=True), "bias": (p * (1 - p)).mean(0)}
            assert_close(found, expected, 1e-12)

    @each_task
    def test_is_the_mean_over_rows_and_labels(self, task):
        model, x = network(), normal(7, 3, seed=1)
        assert_close(fisher(model, task, x), expected_over_labels(model, task, x))

    @each_task
    def test_empirical_is_the_mean_over_rows_at_their_labels(self, task):
        model, x, labels = network(), normal(7, 3, seed=1), some_labels(task, 7)
        rows = [squared_slopes(model, task, row, label) for row, label in zip(x, labels, strict=True)]
        expected = {name: torch.stack([row[name] for row in rows]).mean(0) for name in rows[0]}
        assert_close(fisher(model, task, x, labels, "empirical"), expected)

    @each_task
    def test_sampled_is_the_exact_one_within_its_standard_error(self, task):
        model, x = network(hidden_dims=(2,)), normal(100, 3, seed=1)
        drawn = [fisher(model, task, x, kind="sampled", generator=draws(seed)) for seed in range(40)]
        for name, exact in fisher(model, task, x).items():
            found = torch.stack([one[name] for one in drawn])
            error = found.std(0) / 40**0.5
            assert ((found.mean(0) - exact).abs() <= 4 * error).all(), name
            assert (error[exact > 0] > 0).all()

    @each_task
    def test_the_generator_decides_what_is_sampled(self, task):
        model, x = network(), normal(20, 3, seed=1)
        one, same, other = (fisher(model, task, x, kind="sampled", generator=draws(seed)) for seed in (0, 0, 1))
        assert_close(one, same, 0)
        assert not torch.equal(one["encoder.0.weight"], other["encoder.0.weight"])
        luck = draws(0)
        assert_close(fisher(model, task, x, kind="sampled", generator=luck), one, 0)
        assert not torch.equal(luck.get_state(), draws(0).get_state())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            assert_close(fisher(model, task, x, kind="sampled"), one, 0)

    @each_task
    def test_batched_is_the_mean_over_batches_of_the_squared_mean_slope(self, task):
        """The last batch is smaller, and counts as much less."""
        model, x, labels = network(), normal(7, 3, seed=1), some_labels(task, 7)
        weights, expected = dict(model.named_parameters()), {}
        for batch in torch.arange(7).split(3):
            chances = [log_chance(model(x[n : n + 1], task), labels[n], TASKS[task][0]) for n in batch.tolist()]
            slopes = torch.autograd.grad(torch.stack(chances).mean(), list(weights.values()), allow_unused=True)
            for (name, weight), slope in zip(weights.items(), slopes, strict=True):
                part = torch.zeros_like(weight) if slope is None else slope.square() * len(batch) / 7
                expected[name] = expected.get(name, 0) + part
        assert_close(fisher(model, task, x, labels, "batched", batch_size=3), expected)

    def test_batches_of_one_row_are_the_empirical_one_and_larger_ones_lose_it(self):
        """Slopes at labels that the model itself draws have mean 0: of B of them 1/B is left."""
        model, x = nn.Linear(3, 1).double(), normal(6400, 3, seed=1)
        labels = torch.bernoulli(model(x).sigmoid().detach().squeeze(1), generator=draws(1))
        found = {
            size: fisher_diagonal(model, lambda model, x: model(x), [x], labels, "batched", batch_size=size)
            for size in (1, 4, 16)
        }
        empirical = fisher_diagonal(model, lambda model, x: model(x), [x], labels, "empirical")
        assert_close(found[1], empirical, 1e-12)
        for size, batched in found.items():
            assert float(size * batched["weight"].sum() / empirical["weight"].sum()) == pytest.approx(1, abs=0.2)

    def test_a_weight_may_be_one_number(self):
        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

        x = normal(9, 1)
        p = (0.5 * x).sigmoid()
        found = fisher_diagonal(Scaled(), lambda model, x: model.scale * x, [x])
        assert_close(found, {"scale": (p * (1 - p) * x.square()).mean()}, 1e-12)

    def test_is_zero_where_no_answer_depends_on_a_weight(self):
        model = tables()
        found = fisher_diagonal(model, lambda model, *ids: model("films", *ids), list(IDS.values()))
        touched = {"shared_users": [0, 2, 6], "items.1": [0, 4], "item_biases.1": [0, 4]}
        for name, value in found.items():
            rows = value.reshape(len(value), -1)
            assert (rows != 0).any(1).nonzero().flatten().tolist() == touched.get(name, [])
        of_click = fisher(network(), "click", normal(5, 3))
        assert not any(of_click[f"heads.{k}.{part}"].any() for k in (1, 2) for part in ("weight", "bias"))

    @pytest.mark.parametrize("kind", ["exact", "empirical", "batched"])
    def test_of_many_models_is_that_of_each(self, kind):
        models = Stack(lambda: network(seed=torch.initial_seed()), {"": (0.0, 1.0)}, (1, 2, 3), device="cpu")
        x, labels = normal(6, 9, 3), torch.randint(3, (6, 9), generator=draws())
        found = models.each_own(
            lambda model, x, labels: fisher(model, "genre", x, labels, kind, batch_size=4), x, labels
        )
        for number in range(6):
            expected = fisher(models.model(number), "genre", x[number], labels[number], kind, batch_size=4)
            assert_close({name: value[number] for name, value in found.items()}, expected, 1e-12)

    def test_frozen_weights_are_left_out(self):
        model, x = network(), normal(5, 3)
        everything = fisher(model, "click", x)
        model.encoder.requires_grad_(False)
        assert_close(fisher(model, "click", x), {k: v for k, v in everything.items() if k.startswith("heads.")}, 0)

    def test_leaves_modes_gradients_and_weights_as_they_are(self):
        model = network(dropout_rate=0.5).train()
        model.encoder[0].eval()
        modes, weights = [part.training for part in model.modules()], copy.deepcopy(model.state_dict())
        for kind in ("exact", "empirical", "sampled", "batched"):
            for gradients in (torch.enable_grad, torch.no_grad):
                with gradients():
                    found = fisher(model, "click", normal(5, 3), some_labels("click", 5), kind, generator=draws())
                assert not any(value.requires_grad for value in found.values())
        assert [part.training for part in model.modules()] == modes
        assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())

    def test_dropout_is_on_where_the_model_is_in_training(self):
        model, x = network(dropout_rate=0.5), normal(50, 3)
        with torch.random.fork_rng(devices=[]):
            on = [fisher(model.train(), "click", x)["encoder.0.weight"] for _ in range(2)]
        off = [fisher(model.eval(), "click", x)["encoder.0.weight"] for _ in range(2)]
        assert not torch.equal(*on)
        assert torch.equal(*off)


class TestQuadraticPenalty:
    def test_by_hand(self):
        weights, anchor = (
            {"w": torch.tensor([3.0, 1.0]), "b": torch.tensor(2.0)},
            {"w": torch.ones(2), "b": torch.zeros(())},
        )
        importance = {"w": torch.tensor([0.5, 9.0]), "b": torch.tensor(3.0)}
        assert float(quadratic_penalty(weights, anchor, importance)) == 0.5 * (0.5 * 2**2 + 0 + 3 * 2**2)

    def test_its_gradient_is_the_fisher_times_the_way(self):
        weights, anchor = ({"w": normal(2, 3, seed=k), "b": normal(4, seed=k)} for k in (1, 2))
        importance = {name: value.square() for name, value in weights.items()}
        held = {name: value.clone().requires_grad_() for name, value in weights.items()}
        found = torch.autograd.grad(quadratic_penalty(held, anchor, importance), list(held.values()))
        expected = {name: importance[name] * (weights[name] - anchor[name]) for name in weights}
        assert_close(dict(zip(held, found, strict=True)), expected, 1e-12)

    def test_what_the_fisher_has_not_does_not_count(self):
        weights, anchor, importance = ({"w": torch.full((2,), value)} for value in (3.0, 1.0, 1.0))
        assert float(quadratic_penalty({**weights, "later": torch.ones(5)}, anchor, importance)) == 4.0


def moved(model, seed=9, by=0.1):
    """The same model, its weights a way further."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for number, weight in enumerate(changed.parameters()):
            weight.add_(by * normal(*weight.shape, seed=seed + number).to(weight))
    return changed


def weights_of(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


class TestElasticWeightConsolidation:
    @pytest.mark.parametrize("online", [False, True])
    def test_is_zero_at_first_and_right_after_a_task(self, online):
        model, ewc = network(), ElasticWeightConsolidation(3.0, online)
        assert float(ewc.penalty(model)) == 0.0
        ewc.consolidate(model, fisher(model, "click", normal(5, 3)))
        assert float(ewc.penalty(model).detach()) == 0.0
        assert float(ewc.penalty(moved(model)).detach()) > 0.0

    def test_memories_are_added_up(self):
        first, ewc, expected = network(), ElasticWeightConsolidation(2.0), 0.0
        second = moved(first, 1)
        last = moved(second, 2)
        for model, task in ((first, "click"), (second, "genre")):
            importance = fisher(model, task, normal(5, 3))
            ewc.consolidate(model, importance)
            expected += 2.0 * float(quadratic_penalty(weights_of(last), weights_of(model), importance))
        assert float(ewc.penalty(last).detach()) == pytest.approx(expected, rel=1e-12)
        assert len(ewc.memories) == 2

    @pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
    def test_online_it_is_one_running_fisher_at_the_last_place(self, decay):
        models, ewc, running = [network()], ElasticWeightConsolidation(2.0, online=True, decay=decay), None
        for number in range(3):
            importance = fisher(models[-1], "genre", normal(5, 3, seed=number))
            ewc.consolidate(models[-1], importance)
            old = running or {name: torch.zeros_like(value) for name, value in importance.items()}
            running = {name: decay * old[name] + value for name, value in importance.items()}
            models.append(moved(models[-1], number))
        expected = 2.0 * float(quadratic_penalty(weights_of(models[-1]), weights_of(models[-2]), running))
        assert float(ewc.penalty(models[-1]).detach()) == pytest.approx(expected, rel=1e-12)
        assert len(ewc.memories) == 1

    def test_online_a_weight_that_the_new_fisher_has_not_keeps_the_old_one(self):
        model, ewc = nn.Linear(2, 1), ElasticWeightConsolidation(1.0, online=True, decay=0.5)
        ewc.consolidate(model, {"weight": torch.ones(1, 2), "bias": torch.ones(1)})
        ewc.consolidate(model, {"weight": torch.ones(1, 2)})
        assert ewc.memories[0]["fisher"]["weight"].tolist() == [[1.5, 1.5]]
        assert ewc.memories[0]["fisher"]["bias"].tolist() == [0.5]

    def test_the_strength_multiplies(self):
        model, penalties = network(), {}
        importance = fisher(model, "click", normal(5, 3))
        for strength in (0.0, 1.0, 7.0):
            ewc = ElasticWeightConsolidation(strength)
            ewc.consolidate(model, importance)
            penalties[strength] = float(ewc.penalty(moved(model)).detach())
        assert penalties[0.0] == 0.0
        assert penalties[7.0] == pytest.approx(7 * penalties[1.0], rel=1e-12)

    def test_it_remembers_copies(self):
        model, ewc = network(), ElasticWeightConsolidation(1.0)
        importance = fisher(model, "click", normal(5, 3))
        ewc.consolidate(model, importance)
        kept = copy.deepcopy(ewc.memories)
        with torch.no_grad():
            for value in (*model.parameters(), *importance.values()):
                value.add_(1.0)
        assert all(torch.equal(ewc.memories[0][what][name], v) for what in kept[0] for name, v in kept[0][what].items())

    @pytest.mark.parametrize("online", [False, True])
    def test_what_is_added_later_is_not_held(self, online):
        for model, add, later in (
            (network(), lambda model: model.add_task("rating"), "heads.3."),
            (tables(), lambda model: model.add_domain("games", 9), "items.2"),
        ):
            ewc = ElasticWeightConsolidation(1.0, online)
            ewc.consolidate(model, {name: torch.ones_like(weight) for name, weight in model.named_parameters()})
            add(model)
            new = [weight for name, weight in model.named_parameters() if name.startswith(later)]
            with torch.no_grad():
                for weight in new:
                    weight.add_(1.0)
            assert new
            assert float(ewc.penalty(model).detach()) == 0.0
            gradients = torch.autograd.grad(ewc.penalty(model), new, allow_unused=True)
            assert all(gradient is None for gradient in gradients)


class TestForgettingLoss:
    @pytest.mark.parametrize("temperature", [0.5, 2.0, torch.tensor(3.0)])
    @pytest.mark.parametrize("shape", [(6,), (6, 1)])
    def test_of_a_binary_task_is_the_divergence_of_two_coins(self, shape, temperature):
        logits, old = normal(*shape, seed=1), normal(*shape, seed=2)
        q, p = (logits / temperature).sigmoid(), (old / temperature).sigmoid()
        divergence = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
        found = forgetting_loss(logits, old, temperature)
        torch.testing.assert_close(found, temperature**2 * divergence.mean(), rtol=1e-9, atol=1e-12)

    def test_of_classes_is_torchs_and_that_of_distillation(self):
        logits, old = normal(6, 4, seed=1), normal(6, 4, seed=2)
        expected = 9 * F.kl_div((logits / 3).log_softmax(1), (old / 3).softmax(1), reduction="batchmean")
        torch.testing.assert_close(forgetting_loss(logits, old, 3.0), expected, rtol=1e-9, atol=1e-12)
        assert torch.equal(forgetting_loss(logits, old, 3.0), distillation_loss(logits, old, 3.0, scale=1.0))

    @pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 4)])
    def test_equal_answers_have_no_loss_and_no_gradient(self, shape):
        logits = normal(*shape).requires_grad_()
        loss = forgetting_loss(logits, logits.detach().clone())
        assert float(loss.detach()) == pytest.approx(0.0, abs=1e-15)
        assert float(torch.autograd.grad(loss, logits)[0].abs().max()) < 1e-15

    @pytest.mark.parametrize("shape", [(6,), (6, 4)])
    def test_at_a_high_temperature_is_half_the_mean_squared_difference_of_centred_logits(self, shape):
        logits, old = normal(*shape, seed=1), normal(*shape, seed=2)
        pair = [torch.stack([v, torch.zeros_like(v)], 1) if v.ndim == 1 else v for v in (logits, old)]
        way = pair[0] - pair[1]
        limit = 0.5 * (way - way.mean(1, keepdim=True)).square().mean()
        far = [float((forgetting_loss(logits, old, t) - limit).abs() / limit) for t in (1e1, 1e2, 1e3)]
        assert far[0] > 5 * far[1] > 25 * far[2]
        assert far[2] < 1e-2

    def test_no_gradient_goes_to_the_old_answers(self):
        logits, old = normal(6, seed=1).requires_grad_(), normal(6, seed=2).requires_grad_()
        forgetting_loss(logits, old).backward()
        assert old.grad is None
        assert logits.grad.abs().min() > 0

    @pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 4)])
    def test_many_models_side_by_side(self, shape):
        logits, old, temperature = (
            normal(5, *shape, seed=1),
            normal(5, *shape, seed=2),
            torch.linspace(0.5, 4, 5).double(),
        )
        found = torch.vmap(forgetting_loss)(logits, old, temperature)
        expected = [forgetting_loss(*one) for one in zip(logits, old, temperature, strict=True)]
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-12, atol=1e-15)


def pairs(count=20, weights=6):
    return normal(count, weights, seed=1), normal(count, weights, seed=2)


class TestAGem:
    def test_is_the_nearest_gradient_that_does_not_raise_the_memorys_loss(self):
        quadprog = pytest.importorskip("quadprog", reason="the extra `reference` is not installed")
        gradients, references = pairs()
        found = agem_project(gradients, references)
        for gradient, reference, projected in zip(gradients.numpy(), references.numpy(), found.numpy(), strict=True):
            expected, *_ = quadprog.solve_qp(np.eye(6), gradient, reference[:, None], np.zeros(1))
            np.testing.assert_allclose(projected, expected, rtol=0, atol=1e-9)

    def test_is_gems_with_one_reference(self):
        """`torchjd` projects onto what raises neither loss; the gradient's own never does."""
        aggregation, linalg, *_ = (
            pytest.importorskip(name, reason="the extra `reference` is not installed")
            for name in ("torchjd.aggregation", "torchjd.linalg", "qpsolvers", "quadprog")
        )
        exactly = linalg.QuadprogProjector(norm_eps=1e-12, reg_eps=1e-12)  # as they come they blur by 1e-4
        gem = aggregation.DualProj(torch.tensor([1.0, 0.0], dtype=torch.float64), exactly)
        gradients, references = pairs()
        for gradient, reference in zip(gradients, references, strict=True):
            expected = gem(torch.stack([gradient, reference]))
            torch.testing.assert_close(agem_project(gradient, reference), expected, rtol=0, atol=1e-9)

    def test_only_what_points_against_the_reference_is_changed(self):
        gradients, references = pairs()
        found, against = agem_project(gradients, references), (gradients * references).sum(1) < 0
        assert 0 < against.sum() < len(against)
        assert torch.equal(found[~against], gradients[~against])
        assert ((found * references).sum(1)[against].abs() < 1e-12).all()

    def test_leading_dimensions_are_models(self):
        gradients, references = (value.view(4, 5, 6) for value in pairs())
        found = agem_project(gradients, references)
        assert found.shape == (4, 5, 6)
        torch.testing.assert_close(found[2, 3], agem_project(gradients[2, 3], references[2, 3]), rtol=0, atol=1e-15)

    def test_without_a_direction_of_the_memory_nothing_is_taken_out(self):
        gradients, references = pairs()
        references[::2] = 0
        assert torch.equal(agem_project(gradients, references)[::2], gradients[::2])

    @pytest.mark.parametrize("size", [1e-40, 1e-30, 1.0, 1e30])
    def test_how_long_the_reference_is_does_not_matter(self, size):
        gradients, references = (value.float() for value in pairs())
        found = agem_project(gradients, size * references)
        torch.testing.assert_close(found, agem_project(gradients, references), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("users", ["shared", "per_domain"])
def test_tables_take_the_dtype_that_the_model_was_given_before_its_first_domain(users):
    model = ContinualFactorization(3, 2, users).double()
    model.add_domain("books", 4)
    assert {weight.dtype for weight in model.parameters()} == {torch.float64}
