"""Balancing tasks against other libraries, quadratic programs, and sums that are written out."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn
from torch.nn import functional as F

from recmtl_lessons.models import (
    DynamicWeightAverage,
    GradNorm,
    SharedBottomNetwork,
    TaskSchedule,
    UncertaintyWeights,
    aligned_mtl,
    cagrad,
    entire_space_loss,
    gram_matrix,
    mgda,
    pcgrad,
    scale_free,
    scale_gradient,
    task_losses,
    upgrad,
)
from recmtl_lessons.training import Stack

TYPES = {"click": "classification", "rating": "regression"}
LENGTHS = torch.tensor([1.0, 30.0, 0.02, 4.0, 0.3], dtype=torch.float64)
CASES = 12


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=draws(seed), dtype=dtype)


def gradients(tasks, parameters=6, seed=0):
    """Gradients of very different lengths, (cases, tasks, parameters), half of the cases with a conflict for sure."""
    found = normal(CASES, tasks, parameters, seed=seed)
    found[::2, 1] -= 1.5 * found[::2, 0]
    return found * LENGTHS[:tasks, None]


def gram_of(found):
    return found @ found.mT


def unit(found):
    return found / found.norm(dim=-1, keepdim=True)


def library(name):
    return pytest.importorskip(name, reason="the extra `reference` is not installed")


def assert_close(found, expected, atol=1e-9, rtol=0.0):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), atol=atol, rtol=rtol)


def assert_directions(rule, found, reference, atol=1e-9):
    """The update of each case is the reference's, in units of the longest gradient, and a stack's that of each."""
    weights = rule(gram_of(found))
    for own, weight in zip(found, weights, strict=True):
        assert_close((weight @ own) / own.norm(dim=1).max(), reference(own) / own.norm(dim=1).max(), atol)
    some = rule(gram_of(found[:6]).view(2, 3, *gram_of(found).shape[1:]))
    assert_close(some.flatten(0, 1), weights[:6], 1e-14, 1e-12)


how_many = pytest.mark.parametrize("tasks", [2, 3, 5])


class TestPCGrad:
    def test_of_two_tasks_is_torchjds(self):
        reference = library("torchjd.aggregation").PCGrad()
        assert_directions(pcgrad, gradients(2), reference)

    @how_many
    def test_is_the_loop_over_vectors(self, tasks):
        """What is taken out are parts along the gradients as they were; what is left is summed."""
        orders = torch.rand(CASES, tasks, tasks, generator=draws(1)).argsort(-1)
        found = gradients(tasks)
        weights = pcgrad(gram_of(found), orders)
        for case, own in enumerate(found):
            total = torch.zeros_like(own[0])
            for i in range(tasks):
                left = own[i].clone()
                for j in orders[case, i].tolist():
                    if j != i and left @ own[j] < 0:
                        left -= left @ own[j] / own[j].square().sum() * own[j]
                total += left
            size = own.norm(dim=1).max()
            assert_close(weights[case] @ own / size, total / size)

    def test_orders_are_drawn_evenly_and_from_the_generator(self):
        """Of three tasks; each order as if it were given. Without a conflict the weights are ones."""
        gram = gram_of(torch.tensor([[1.0, 0.0], [-0.3, 1.0], [-0.8, -1.5]]).double())
        one, same = (pcgrad(gram.expand(2000, 3, 3), generator=draws(4)) for _ in range(2))
        assert torch.equal(one, same)
        assert not torch.equal(one, pcgrad(gram.expand(2000, 3, 3), generator=draws(5)))
        every = torch.cartesian_prod(*[torch.arange(3)] * 3)
        every = every[(every.sort(-1).values == torch.arange(3)).all(-1)]  # the six orders of three tasks
        mean = pcgrad(gram.expand(6, 3, 3), every[:, None].expand(6, 3, 3)).mean(0)
        assert one.std(0).max() > 0.1
        assert ((one.mean(0) - mean).abs() <= 4 * one.std(0) / 2000**0.5 + 1e-12).all()
        assert torch.equal(pcgrad(gram_of(normal(3, 2).abs())), torch.ones(3, dtype=torch.float64))


def shortest_in_hull(found):
    """By quadprog, which wants a matrix without zero eigenvalues; at most so many tasks as parameters."""
    tasks, size = len(found), found.norm(dim=1).max()
    G = gram_of(found / size).numpy()
    bounds = np.concatenate([np.ones((tasks, 1)), np.eye(tasks)], axis=1)
    weights = library("quadprog").solve_qp(G, np.zeros(tasks), bounds, np.r_[1.0, np.zeros(tasks)], 1)[0]
    return torch.from_numpy(weights) @ found


class TestMGDA:
    def test_of_two_tasks_is_torchjds(self):
        """With more its Frank-Wolfe stops early: it is off by 0.04 with three, for instance."""
        assert_directions(mgda, gradients(2), library("torchjd.aggregation").MGDA())

    @how_many
    def test_is_the_shortest_vector_of_the_hull(self, tasks):
        near = 0.3 * gradients(tasks) / LENGTHS[:tasks, None] + normal(CASES, 1, 6, seed=2)
        for found in (gradients(tasks), near):  # in the second case several weights are above 0
            assert_directions(mgda, found, shortest_in_hull)
            weights = mgda(gram_of(found))
            assert_close(weights.sum(-1), torch.ones(CASES).double(), 1e-12)
            assert weights.min() >= 0
        assert ((mgda(gram_of(near)) > 1e-6).sum(-1) > 1).any()

    @how_many
    def test_of_unit_lengths(self, tasks):
        found = gradients(tasks)
        lengths = found.norm(dim=-1)
        assert_close(mgda(gram_of(found), unit=True) * lengths, mgda(gram_of(unit(found))), 1e-9)

    def test_where_the_hull_is_flat(self):
        a, b = normal(2, 5)
        zero = torch.zeros(5).double()
        cases = {"opposite": (a, -3 * a), "one is zero": (a, zero), "all are zero": (zero, zero), "equal": (a, a)}
        found = {name: mgda(gram_of(torch.stack(pair))) for name, pair in cases.items()}
        assert_close(found["opposite"], [0.75, 0.25])
        assert_close(found["one is zero"], [0.0, 1.0])
        for name, weights in found.items():
            assert float(weights.sum()) == pytest.approx(1.0, abs=1e-12), name
        assert_close(mgda(gram_of(torch.stack([a, zero])), unit=True), [0.0, 1.0])
        three = mgda(gram_of(torch.stack([a, a, b])))
        assert_close(three @ torch.stack([a, a, b]), shortest_in_hull(torch.stack([a, b])))


class TestAlignedMTL:
    @pytest.mark.parametrize("parameters", [6, 2])
    @how_many
    def test_is_torchjds(self, tasks, parameters):
        """Also where more tasks than parameters leave zero eigenvalues."""
        assert_directions(aligned_mtl, gradients(tasks, parameters), library("torchjd.aggregation").AlignedMTL())

    @how_many
    def test_a_short_gradient_is_not_taken_for_rounding(self, tasks):
        found = gradients(tasks)
        rounded = aligned_mtl(gram_of(found.float())).double()
        assert_close(rounded, aligned_mtl(gram_of(found)), 0, 1e-3)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_what_was_rounded_is_still_zero(self, dtype):
        """The eigenvalue of two gradients that add up to a third is not small: there is none."""
        a, b = normal(2, 5)
        found = torch.stack([a, b, a + b])
        assert_close(aligned_mtl(gram_of(found.to(dtype))).double(), aligned_mtl(gram_of(found)), 1e-4)

    def test_of_nothing_is_nothing(self):
        assert torch.isfinite(aligned_mtl(torch.zeros(2, 3, 3))).all()


def torchjds_upgrad(found):
    linalg, _, _ = (library(name) for name in ("torchjd.linalg", "qpsolvers", "quadprog"))
    exactly = linalg.QuadprogProjector(norm_eps=1e-10, reg_eps=1e-10)  # as they come they blur by 1e-4
    return library("torchjd.aggregation").UPGrad(projector=exactly)(found)


def mean_of_nearest(found):
    """By quadprog among all vectors, not among sums of the gradients."""
    solve, walls = library("quadprog").solve_qp, unit(found).T.numpy().copy()
    parts = [solve(np.eye(len(walls)), own.numpy().copy(), walls, np.zeros(len(found)))[0] for own in found]
    return torch.from_numpy(np.mean(parts, axis=0))


class TestUPGrad:
    @how_many
    def test_is_torchjds(self, tasks):
        """Of lengths alike: what it adds to the diagonal, 1e-10 of the longest, blurs short ones by 1e-4."""
        assert_directions(upgrad, unit(gradients(tasks)), torchjds_upgrad, 1e-6)

    @how_many
    def test_is_the_mean_of_the_nearest_where_no_task_loses(self, tasks):
        assert_directions(upgrad, gradients(tasks), mean_of_nearest)

    def test_of_two_tasks_is_half_of_pcgrad(self):
        gram = gram_of(gradients(2))
        assert_close(upgrad(gram), pcgrad(gram) / 2, 1e-9, 1e-9)

    @pytest.mark.parametrize("parameters", [6, 2])
    @how_many
    def test_no_task_loses(self, tasks, parameters):
        for found in (gradients(tasks, parameters), unit(gradients(tasks, parameters))):
            ways = (found @ (upgrad(gram_of(found)).unsqueeze(-2) @ found).mT).squeeze(-1)
            assert ways.min() >= -1e-9

    def test_opposite_ones_cancel_and_zeros_stay(self):
        a = normal(5)
        assert_close(upgrad(gram_of(torch.stack([a, -3 * a]))) @ torch.stack([a, -3 * a]), torch.zeros(5).double())
        assert_close(upgrad(torch.zeros(3, 3)), torch.full((3,), 1 / 3))


def tight_cagrad(found, c):
    """The dual of the problem by SLSQP from several starts, in units of the mean gradient."""
    tasks, mean = len(found), found.mean(0)
    J, g0 = (found / mean.norm()).numpy(), (mean / mean.norm()).numpy()
    dual = lambda w: w @ J @ g0 + c * np.linalg.norm(w @ J)  # noqa: E731
    slope = lambda w: J @ g0 + c * J @ (w @ J) / np.linalg.norm(w @ J)  # noqa: E731
    starts = [np.full(tasks, 1 / tasks), *(0.9 * np.eye(tasks) + 0.1 / tasks)]
    simplex = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like}
    options = {"ftol": 1e-16, "maxiter": 1000}
    solved = [
        minimize(dual, w, jac=slope, bounds=[(0, 1)] * tasks, constraints=simplex, method="SLSQP", options=options)
        for w in starts
    ]
    w = min(solved, key=lambda one: one.fun).x
    return mean + c * mean.norm() * torch.from_numpy(w @ J / np.linalg.norm(w @ J))


class TestCAGrad:
    @pytest.mark.parametrize("c", [0.2, 0.5, 0.9])
    @how_many
    def test_is_the_minimum_of_the_dual(self, tasks, c):
        found = unit(gradients(tasks)) * torch.linspace(1, 3, tasks)[:, None].double()
        assert_directions(lambda gram: cagrad(gram, c), found, lambda own: tight_cagrad(own, c), 1e-6)

    @pytest.mark.parametrize("c", [0.5, 1.5])
    @how_many
    def test_keeps_its_distance_and_lets_the_worst_task_gain_no_less_than_others_do(self, tasks, c):
        """With lengths as different as they come: held against the mean, `upgrad` and directions by chance."""
        for case, found in enumerate(gradients(tasks)):
            mean, gram = found.mean(0), gram_of(found)
            radius = c * mean.norm()
            way = cagrad(gram, c) @ found
            assert float((way - mean).norm()) <= float(radius) * (1 + 1e-6)
            others = [mean, upgrad(gram) @ found, *(mean + radius * unit(normal(200, 6, seed=case)))]
            allowed = torch.stack([d for d in others if (d - mean).norm() <= radius * (1 + 1e-12)])
            assert (allowed @ found.T).amin(-1).max() <= (found @ way).min() + 1e-9 * mean.norm() ** 2

    @how_many
    def test_at_no_distance_is_the_mean(self, tasks):
        one_is_zero = gradients(tasks) * torch.arange(tasks)[:, None].double()
        for found in (gradients(tasks), one_is_zero, 0 * one_is_zero):
            assert_close(cagrad(gram_of(found), 0.0), torch.full((CASES, tasks), 1 / tasks, dtype=torch.float64), 1e-15)

    def test_on_opposite_gradients(self):
        a = normal(5)
        found = torch.stack([a, -3 * a])
        for c in (0.5, 1.0):  # from the mean, -a, towards the shorter by c
            assert_close(cagrad(gram_of(found), c) @ found, (c - 1) * a, 1e-12)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("tasks", [3, 5])
    def test_stays_where_no_task_can_gain(self, tasks, dtype):
        """From c = 1 on, where some mixture of the gradients is zero the update is as well."""
        found = normal(CASES, tasks, tasks - 1)
        shares = torch.rand(CASES, 1, tasks, generator=draws(1), dtype=torch.float64) + 0.1
        found = (found - shares @ found / shares.sum(-1, keepdim=True)).to(dtype)
        gram = gram_of(found)
        atol = 1e-6 if dtype == torch.float64 else 0.02
        assert mgda(gram).double().sub(shares.squeeze(1) / shares.sum(-1)).abs().max() < atol
        assert_close(cagrad(gram, 1.5).unsqueeze(-2) @ found, torch.zeros(CASES, 1, tasks - 1, dtype=dtype), atol)

    def test_stays_where_two_of_three_are_opposite(self):
        """The mean goes against the second; within 0.8 of its length there is a way on which neither loses."""
        found = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 1.0]]).double()
        assert_close(cagrad(gram_of(found), 0.8) @ found, [0.0, 1 / 3], 1e-9)


class TestWeightsFromLosses:
    LOSSES = torch.tensor([[0.5, 2.0], [0.1, 30.0]], dtype=torch.float64)

    def test_uncertainty_by_hand(self):
        weigh = UncertaintyWeights(["classification", "regression"], size=(2,)).double()
        s = torch.tensor([[0.3, -1.0], [2.0, 0.5]], dtype=torch.float64)
        weigh.log_variances.data = s.clone()
        L = self.LOSSES
        expected = (-s[:, 0]).exp() * L[:, 0] + s[:, 0] / 2 + 0.5 * (-s[:, 1]).exp() * L[:, 1] + s[:, 1] / 2
        total = weigh(L)
        assert_close(total.detach(), expected, 1e-12)
        total.sum().backward()
        half = torch.tensor([1.0, 0.5]).double()
        assert_close(weigh.log_variances.grad, 0.5 - half * (-s).exp() * L, 1e-12)
        assert_close(weigh.weights, half * (-s).exp(), 1e-12)

    def test_uncertainty_settles_at_half_of_one_over_the_loss(self):
        weigh = UncertaintyWeights(["classification", "regression"], start=1.0, size=(2,)).double()
        optimizer = torch.optim.SGD(weigh.parameters(), lr=0.5)
        for _ in range(200):
            optimizer.zero_grad()
            weigh(self.LOSSES).sum().backward()
            optimizer.step()
        assert_close(weigh.weights, 1 / (2 * self.LOSSES), 0, 1e-9)
        assert_close(scale_free(self.LOSSES), 1 / self.LOSSES, 1e-15)

    def test_gradnorm_by_hand(self):
        weigh = GradNorm(3, alpha=1.5, size=(2,)).double()
        weigh.scores.data = normal(2, 3, seed=1)
        norms, losses, first = (normal(2, 3, seed=seed).abs() + 0.1 for seed in (2, 3, 4))
        w = 3 * weigh.scores.detach().softmax(-1)
        ratio = losses / first
        ratio = ratio / ratio.mean(-1, keepdim=True)
        rest = w * norms - (w * norms).mean(-1, keepdim=True) * ratio**1.5
        loss = weigh(norms, losses, first)
        assert_close(loss.detach(), rest.abs().sum(-1), 1e-12)
        loss.sum().backward()
        slopes = rest.sign() * norms  # with respect to the weights; the rest is the softmax's
        assert_close(weigh.scores.grad, w * (slopes - (w * slopes).mean(-1, keepdim=True)), 1e-12)
        assert_close(weigh.weights, w, 1e-12)

    def test_gradnorm_stays_positive_where_a_plain_weight_does_not(self):
        norms, losses = torch.tensor([1.0, 50.0]).double(), torch.ones(2).double()
        plain, weigh = torch.ones(2, dtype=torch.float64), GradNorm(2).double()
        optimizer, lowest = torch.optim.SGD(weigh.parameters(), lr=0.1), []
        for _ in range(30):
            own = plain * norms
            plain = plain - 0.1 * (own - own.mean()).sign() * norms  # algorithm 1, renormalised
            plain = 2 * plain / plain.sum()
            lowest.append(float(plain.min()))
            optimizer.zero_grad()
            weigh(norms, losses, losses).backward()
            optimizer.step()
            assert weigh.weights.min() >= 0
            assert float(weigh.weights.sum()) == pytest.approx(2)
        assert min(lowest) < 0

    def test_dynamic_average_by_hand_without_scale(self):
        history = normal(4, 2, 3, seed=5).abs() + 0.2
        rule, scaled = DynamicWeightAverage(0.5), DynamicWeightAverage(0.5)
        found = [rule.update(losses) for losses in history]
        assert torch.equal(found[0], torch.ones(2, 3).double())
        for t in (1, 2, 3):
            parts = (history[t] / history[t - 1] / 0.5).exp()
            assert_close(found[t], 3 * parts / parts.sum(-1, keepdim=True), 1e-12)
        sizes = torch.tensor([1.0, 100.0, 0.01]).double()
        for losses, weights in zip(history, found, strict=True):
            assert_close(scaled.update(losses * sizes), weights, 1e-12)


def network(types=TYPES, dtype=torch.float64, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SharedBottomNetwork(3, types, **{"hidden_dims": (5, 4), **options}).to(dtype)


def labels(rows):
    return {"click": (normal(rows, seed=8) > 0).double(), "rating": normal(rows, seed=9), "unused": None}


class TestSharedBottom:
    @pytest.mark.parametrize("linear", [False, True])
    def test_is_layers_and_a_head_a_task(self, linear):
        made, x = network(linear=linear), normal(6, 3)
        hidden = x
        for layer in (part for part in made.shared if isinstance(part, nn.Linear)):
            hidden = F.linear(hidden, layer.weight, layer.bias)
            hidden = hidden if linear else hidden.clamp(min=0)
        answers = made(x)
        assert tuple(answers) == made.tasks == tuple(TYPES)
        for task, head in zip(TYPES, made.heads, strict=True):
            assert_close(answers[task].detach(), (hidden @ head.weight.T + head.bias).squeeze(1).detach(), 1e-12)

    def test_weights_change_the_shared_gradient_alone(self):
        made, x, c = network(), normal(6, 3), torch.tensor([3.0, -0.25]).double()
        losses = task_losses(made(x), labels(6), TYPES)
        shared, own = list(made.shared.parameters()), list(made.heads.parameters())
        each = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in losses]
        heads = torch.autograd.grad(losses.sum(), own)
        weighed = made(x, c)
        assert all(torch.equal(weighed[task], answer) for task, answer in made(x).items())
        found = torch.autograd.grad(task_losses(weighed, labels(6), TYPES).sum(), shared + own)
        expected = [sum(w * g for w, g in zip(c, parts, strict=True)) for parts in zip(*each, strict=True)]
        for one, other in zip(found, [*expected, *heads], strict=True):
            assert_close(one, other, 1e-12)

    @pytest.mark.parametrize("weight", [0.0, 0.3, -2.0, 1e6, torch.tensor(1e6)])
    def test_a_scaled_gradient_leaves_the_value_to_the_last_bit(self, weight):
        x = normal(50, dtype=torch.float32).requires_grad_()
        scaled = scale_gradient(x, weight)
        assert torch.equal(scaled, x)
        assert_close(torch.autograd.grad(scaled.sum(), x)[0], torch.full((50,), float(weight)))

    def test_many_side_by_side(self):
        stack = Stack(lambda: network(dtype=torch.float32), {"": (0.0, 1.0)}, (1, 2), device="cpu")
        x, weights = normal(4, 6, 3, dtype=torch.float32), normal(4, 2, dtype=torch.float32)
        rows = {name: labels(6)[name].float().expand(4, 6) for name in TYPES}

        def objective(model, batch, setting=None):
            return task_losses(model(batch["x"], batch["weights"]), batch["labels"], TYPES).sum(), {}

        found = stack.gradients(objective, {"x": x, "weights": weights, "labels": rows})
        for index in range(4):
            model = stack.model(index)
            own = {"x": x[index], "weights": weights[index], "labels": {name: y[index] for name, y in rows.items()}}
            objective(model, own)[0].backward()
            for name, weight in model.named_parameters():
                assert_close(found[name][index], weight.grad, 1e-6)

    def test_losses_of_tasks_are_torchs_in_their_order(self):
        answers, y = {"rating": normal(7, seed=1), "click": 3 * normal(7, seed=2)}, labels(7)
        expected = {
            "click": F.binary_cross_entropy_with_logits(answers["click"], y["click"]),
            "rating": F.mse_loss(answers["rating"], y["rating"]),
        }
        for types in (TYPES, dict(reversed(TYPES.items()))):
            assert_close(task_losses(answers, y, types), torch.stack([expected[task] for task in types]), 1e-12)

    @pytest.mark.parametrize("dims", [0, 1])
    def test_products_of_gradients(self, dims):
        """Of parameters of any shape: in a stack, a scalar of each model too."""
        shapes = {"w": (2, 3), "b": (2,), "scale": ()}
        parts = [
            {n: normal(*[4] * dims, *shape, seed=10 * task + k) for k, (n, shape) in enumerate(shapes.items())}
            for task in range(3)
        ]
        lead = (4,) * dims
        flat = torch.stack([torch.cat([g.reshape(*lead, -1) for g in own.values()], -1) for own in parts], -2)
        assert_close(gram_matrix(parts, dims), torch.einsum("...ip,...jp->...ij", flat, flat), 1e-12)


class TestEntireSpace:
    CLICK = torch.tensor([1.0, 1, 0, 0, 1, 0]).double()
    CONVERSION = torch.tensor([1.0, 0, 0, 0, 1, 0]).double()

    def test_is_the_plain_formula(self):
        a, b = (2 * normal(6, seed=seed).requires_grad_() for seed in (1, 2))
        p, both = a.sigmoid(), a.sigmoid() * b.sigmoid()
        expected = torch.stack([F.binary_cross_entropy(p, self.CLICK), F.binary_cross_entropy(both, self.CONVERSION)])
        found = entire_space_loss(a, b, self.CLICK, self.CONVERSION)
        assert_close(found.detach(), expected.detach(), 1e-12)
        for k in range(2):
            slopes = [
                torch.autograd.grad(loss[k], (a, b), retain_graph=True, allow_unused=True) for loss in (found, expected)
            ]
            assert_close(slopes[0][0], slopes[1][0], 1e-12)
        assert_close(slopes[0][1], slopes[1][1], 1e-12)
        assert not torch.autograd.grad(found[0], b)[0].any()  # a click says nothing of what follows

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_is_stable_for_large_logits(self, dtype):
        """Limits by hand: the loss of what is wrong is the logits' size, its slope -1 or 1; what is right has none."""
        a, b = torch.cartesian_prod(*[torch.tensor([-100.0, 100.0], dtype=dtype)] * 2).T.clone().requires_grad_()
        one, zero = torch.ones(4, dtype=dtype), torch.zeros(4, dtype=dtype)
        came, not_came = (4 * entire_space_loss(a, b, one, y)[1] for y in (one, zero))
        assert float(came.detach()) == pytest.approx(200 + 100 + 100 + math.exp(-100), abs=1e-4)
        assert float(not_came.detach()) == pytest.approx(100 - math.log(2), abs=1e-4)  # log(1 - pq), pq near 1
        assert_close(
            torch.stack(torch.autograd.grad(came, (a, b))), torch.tensor([[-1, -1, 0, 0], [-1, 0, -1, 0]]), 1e-6
        )
        slopes = torch.stack(torch.autograd.grad(not_came, (a, b)))
        assert_close(slopes, torch.tensor([[0, 0, 0, 0.5], [0, 0, 0, 0.5]]).to(dtype), 1e-6)


class TestSchedule:
    STEPS = 7

    def chosen(self, kind, shares=(1, 1, 2), towards=(6, 2, 0)):
        schedule = TaskSchedule(kind, 3, shares, towards)
        return [schedule.choose(step, self.STEPS, generator=draws(step), size=(4000,)) for step in range(self.STEPS)]

    @pytest.mark.parametrize(
        ("kind", "expected"), [("in turn", [0, 1, 2, 0, 1, 2, 0]), ("one after another", [0, 0, 0, 1, 1, 2, 2])]
    )
    def test_without_luck(self, kind, expected):
        found = torch.stack(self.chosen(kind))
        assert torch.equal(found, torch.tensor(expected)[:, None].expand(7, 4000))

    @pytest.mark.parametrize(
        ("kind", "first", "last"),
        [
            ("random", (1 / 3, 1 / 3, 1 / 3), (1 / 3, 1 / 3, 1 / 3)),
            ("proportional", (0.25, 0.25, 0.5), (0.25, 0.25, 0.5)),
            ("annealed", (0.25, 0.25, 0.5), (0.75, 0.25, 0.0)),
        ],
    )
    def test_counts_of_what_is_drawn(self, kind, first, last):
        schedule = TaskSchedule(kind, 3, (1, 1, 2), (6, 2, 0))
        first, last = torch.tensor(first), torch.tensor(last)
        for step, found in enumerate(self.chosen(kind)):
            p = first + step / (self.STEPS - 1) * (last - first)
            assert_close(schedule.probabilities(step, self.STEPS), p, 1e-6)
            counts = torch.bincount(found, minlength=3) / 4000
            assert ((counts - p).abs() <= 4 * (p * (1 - p) / 4000).sqrt() + 1e-7).all()
        assert all(torch.equal(*pair) for pair in zip(self.chosen(kind), self.chosen(kind), strict=True))
        assert schedule.choose(0, 1).shape == ()

    def test_lagging_is_the_largest(self):
        lag = torch.tensor([[0.2, 0.9, -1.0], [5.0, 0.0, 4.0]])
        assert TaskSchedule("lagging", 3).choose(0, 5, lag).tolist() == [1, 0]
