"""Reptile against gradients, a plain loop with PyTorch's own optimizers, and limits it must have."""

import copy
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, stack_module_state

from recmtl_lessons.models import MAMLRecommender, ReptileRecommender


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def model(input_dim=3, hidden_dims=(5, 4), seed=0, dtype=torch.float64, **changed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ReptileRecommender(input_dim, hidden_dims, **changed).to(dtype)


def some_tasks(count=6, rows=8, input_dim=3, output_dim=None, seed=0):
    """Two stacked tensors; targets (count, rows), or (count, rows, output_dim) if that is given."""
    wide = () if output_dim is None else (output_dim,)
    return normal(count, rows, input_dim, seed=10 * seed), normal(count, rows, *wide, seed=10 * seed + 1)


def listed(tasks):
    return list(zip(*tasks, strict=True))


def assert_close(one, other, atol=1e-9):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert float((value - other[name]).detach().abs().max()) <= atol, name


def by_hand(network, x, y, steps, size, make):
    """The inner loop as anybody would write it: a copy, an optimizer of PyTorch's, a loop over minibatches."""
    twin = copy.deepcopy(network)
    optimizer = make(twin.parameters())
    n, place = len(x), 0
    for _ in range(steps):
        rows = [(place + k) % n for k in range(min(size, n))]
        place += size
        optimizer.zero_grad()
        (twin(x[rows]).squeeze(1) - y[rows]).square().mean().backward()
        optimizer.step()
    return dict(twin.named_parameters())


def sgd(rate):
    return lambda parameters: torch.optim.SGD(parameters, lr=rate)


def adam(rate, betas=(0.0, 0.999)):
    return lambda parameters: torch.optim.Adam(parameters, lr=rate, betas=betas)


KINDS = [
    pytest.param({"inner_lr": 0.05}, sgd(0.05), id="sgd"),
    pytest.param({"inner_lr": 0.01, "inner_optimizer": "adam"}, adam(0.01), id="adam"),
    pytest.param(
        {"inner_lr": 0.01, "inner_optimizer": "adam", "inner_betas": (0.9, 0.99)},
        adam(0.01, (0.9, 0.99)),
        id="momentum",
    ),
]


class TestAgainstAPlainLoop:
    @pytest.mark.parametrize(("options", "make"), KINDS)
    @pytest.mark.parametrize("size", [None, 3, 4, 8, 20])
    def test_an_inner_loop(self, options, make, size):
        network, (x, y) = model(inner_batch_size=size, **options), listed(some_tasks())[0]
        found = network.inner_loop((x, y), 5)
        expected = by_hand(network, x, y, 5, size or len(x), make)
        assert_close(found, expected)
        assert float((found["head.bias"] - network.head.bias).detach().abs().max()) > 1e-3

    @pytest.mark.parametrize(("options", "make"), KINDS)
    def test_meta_updates(self, options, make):
        network = model(meta_lr=0.3, inner_steps=4, inner_batch_size=3, **options)
        twin = copy.deepcopy(network)
        start = copy.deepcopy(network)
        for round_ in range(4):
            tasks = some_tasks(seed=round_)
            network.meta_update(tasks)
            after = [by_hand(twin, x, y, 4, 3, make) for x, y in listed(tasks)]
            with torch.no_grad():
                for name, value in twin.named_parameters():
                    mean = torch.stack([w[name] for w in after]).mean(0)
                    value.copy_(value + 0.3 * (mean - value))
        assert_close(network.named_weights(), twin.named_weights())
        assert float((network.head.bias - start.head.bias).detach().abs().max()) > 1e-2

    def test_adam_outside_takes_the_move_for_a_gradient(self):
        network = model(meta_lr=0.01, meta_optimizer="adam", inner_steps=3)
        twin = copy.deepcopy(network)
        optimizer = torch.optim.Adam(twin.parameters(), lr=0.01)
        for round_ in range(3):
            tasks = some_tasks(seed=round_)
            network.meta_update(tasks)
            for name, value in twin.pseudo_gradient(tasks).items():
                twin.get_parameter(name).grad = value
            optimizer.step()
        assert_close(network.named_weights(), twin.named_weights(), 1e-12)

    def test_the_loss_is_that_of_the_rows_before_each_step(self):
        network, tasks = model(inner_steps=3, inner_batch_size=4), some_tasks()
        expected = []
        for x, y in listed(tasks):
            for step in range(3):
                rows = slice(4 * (step % 2), 4 * (step % 2) + 4)
                params = network.inner_loop((x, y), step)
                expected.append(float((network.predict(x[rows], params) - y[rows]).square().mean()))
        assert network.meta_update(tasks) == pytest.approx(sum(expected) / len(expected), abs=1e-12)


class TestLimits:
    def test_with_one_step_the_move_is_the_gradient(self):
        network, (x, y) = model(inner_lr=0.05), listed(some_tasks())[0]
        adapted = network.inner_loop((x, y), 1)
        loss = (network(x).squeeze(1) - y).square().mean()
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        for (name, value), gradient in zip(network.named_parameters(), gradients, strict=True):
            torch.testing.assert_close((adapted[name] - value) / -0.05, gradient, rtol=0, atol=1e-12)
            assert float(gradient.abs().max()) > 1e-3

    def test_with_one_step_it_is_gradient_descent_on_the_heap(self):
        network = model(inner_lr=0.05, meta_lr=0.5, inner_steps=1)
        twin = copy.deepcopy(network)
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.05 * 0.5)
        for round_ in range(5):
            x, y = some_tasks(seed=round_)
            optimizer.zero_grad()
            loss = (twin(x.flatten(0, 1)).squeeze(1) - y.flatten()).square().mean()
            loss.backward()
            optimizer.step()
            assert network.meta_update((x, y)) == pytest.approx(float(loss.detach()), abs=1e-12)
        assert_close(network.named_weights(), twin.named_weights(), 1e-12)

    def test_with_several_steps_it_is_not(self):
        one, several = (model(inner_lr=0.1 / k, meta_lr=1.0, inner_steps=k) for k in (1, 5))
        tasks = some_tasks()
        one.meta_update(tasks)
        several.meta_update(tasks)
        assert float((one.head.weight - several.head.weight).detach().abs().max()) > 1e-3

    def test_a_linear_model_comes_to_rest_where_it_must(self):
        r"""At rest the sum over tasks of :math:`(I - (I - aH)^k)(w^* - \phi)` is 0."""
        network, (x, y) = model(hidden_dims=(), inner_lr=0.05, meta_lr=1.0, inner_steps=6), some_tasks(rows=20)
        for _ in range(60):
            network.meta_update((x, y))
        wide = torch.cat([x, torch.ones(6, 20, 1, dtype=x.dtype)], dim=2)
        hessian, pull = 2 * wide.mT @ wide / 20, 2 * (wide.mT @ y[..., None]) / 20
        shrink = torch.eye(4, dtype=x.dtype) - 0.05 * hessian
        reach = torch.eye(4, dtype=x.dtype) - torch.linalg.matrix_power(shrink, 6)
        optimum = torch.linalg.solve(hessian, pull)
        expected = torch.linalg.solve(reach.sum(0), (reach @ optimum).sum(0))[:, 0]
        found = torch.cat([network.head.weight[0], network.head.bias]).detach()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
        joint = torch.linalg.solve(hessian.sum(0), pull.sum(0))[:, 0]
        assert float((found - joint).abs().max()) > 1e-3

    def test_a_whole_step_outside_lands_on_the_mean(self):
        network, tasks = model(meta_lr=1.0, inner_steps=3), some_tasks()
        after = [network.inner_loop(task, 3) for task in listed(tasks)]
        network.meta_update(tasks)
        for name, value in network.named_weights().items():
            torch.testing.assert_close(value.detach(), torch.stack([w[name] for w in after]).mean(0))

    def test_adapts_as_maml_does(self):
        network, (x, y) = model(inner_lr=0.05), listed(some_tasks())[0]
        maml = MAMLRecommender(3, (5, 4), inner_lr=0.05).double()
        maml.load_state_dict(network.state_dict())
        assert_close(network.adapt_to_new_task(x, y), maml.adapt_to_new_task(x, y), 1e-12)


class TestTheOuterOptimizer:
    @pytest.mark.parametrize("kind", ["sgd", "adam"])
    def test_a_new_rate_counts_from_the_next_update_on(self, kind):
        network, tasks = model(meta_lr=0.1, meta_optimizer=kind, inner_steps=2), some_tasks()
        network.meta_update(tasks)
        twin = copy.deepcopy(network)
        before = copy.deepcopy(network.named_weights())
        twin.meta_lr = 0.02
        network.meta_update(tasks)
        twin.meta_update(tasks)
        for name, value in before.items():
            there, here = network.named_weights()[name] - value, twin.named_weights()[name] - value
            torch.testing.assert_close(here, 0.2 * there)
            assert float(there.detach().abs().max()) > 1e-4


class TestInnerLoop:
    def test_the_model_stays_as_it_is(self):
        network, (x, y) = model(dropout_rate=0.3).train(), listed(some_tasks())[0]
        before = copy.deepcopy(network.state_dict())
        for params in (network.inner_loop((x, y)), network.adapt_to_new_task(x, y), network.inner_loop((x, y), 0)):
            assert all(not value.requires_grad and value.is_leaf for value in params.values())
            for value in params.values():
                value.zero_()
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert all(p.grad is None for p in network.parameters())
        assert network.training

    def test_the_optimizer_is_fresh_each_time(self):
        network = model(inner_optimizer="adam", inner_betas=(0.9, 0.999))
        one, other = listed(some_tasks())[:2]
        first = network.inner_loop(one)
        network.inner_loop(other)
        assert_close(network.inner_loop(one), first, 0.0)

    def test_ten_steps_unless_told(self):
        network, task = model(), listed(some_tasks())[0]
        assert_close(network.inner_loop(task), network.inner_loop(task, 10), 0.0)
        assert_close(network.adapt_to_new_task(*task), network.inner_loop(task, 5), 0.0)

    def test_steps_of_sgd_add_up(self):
        network, task = model(), listed(some_tasks())[0]
        params = network.inner_loop(task, 2)
        assert_close(network.inner_loop(task, 3, params), network.inner_loop(task, 5), 1e-12)

    def test_another_rate(self):
        network, task = model(inner_lr=0.05), listed(some_tasks())[0]
        slow, fast = (network.inner_loop(task, 1, inner_lr=rate) for rate in (0.05, torch.tensor(0.1)))
        assert_close(slow, network.inner_loop(task, 1), 1e-12)
        for name, value in network.named_weights().items():
            torch.testing.assert_close(fast[name] - value, 2 * (slow[name] - value))

    def test_dropout_acts_in_meta_updates_alone(self):
        network, task = model(dropout_rate=0.5).train(), listed(some_tasks())[0]
        assert_close(network.inner_loop(task), model().inner_loop(task), 0.0)
        tasks = some_tasks()
        moves = [network.pseudo_gradient(tasks)["head.weight"] for _ in range(2)]
        assert not torch.equal(*moves)
        assert_close(network.eval().pseudo_gradient(tasks), model().pseudo_gradient(tasks), 1e-12)

    def test_a_target_of_shape_n_is_one_of_shape_n_1(self):
        network, (x, y) = model(), listed(some_tasks())[0]
        assert_close(network.inner_loop((x, y)), network.inner_loop((x, y[:, None])), 0.0)

    def test_works_where_gradients_are_off(self):
        network, task = model(), listed(some_tasks())[0]
        expected = network.inner_loop(task)
        with torch.no_grad():
            assert_close(network.inner_loop(task), expected, 0.0)

    @given(st.integers(1, 4), st.integers(1, 4), st.lists(st.integers(1, 6), max_size=2), st.integers(1, 9))
    @settings(max_examples=40)
    def test_shapes(self, input_dim, output_dim, hidden_dims, rows):
        network = model(input_dim, tuple(hidden_dims), output_dim=output_dim, inner_batch_size=4)
        x, y = normal(rows, input_dim), normal(rows, output_dim)
        params = network.inner_loop((x, y), 2)
        assert {n: v.shape for n, v in params.items()} == {n: v.shape for n, v in network.named_weights().items()}
        assert network(x, params).shape == network(x).shape == (rows, output_dim)
        assert network.predict(x, params).shape == ((rows,) if output_dim == 1 else (rows, output_dim))


class TestTogether:
    @pytest.mark.parametrize(("options", "make"), KINDS)
    def test_stacked_is_one_after_another_and_vmap(self, options, make, device):
        network = model(inner_batch_size=3, **options).to(device)
        tasks = tuple(part.to(device) for part in some_tasks())
        weights = network.named_weights()
        apart = [network.inner_loop(task, 4) for task in listed(tasks)]
        mapped = torch.vmap(lambda x, y: network.inner_loop((x, y), 4))(*tasks)
        moved = network.pseudo_gradient(tasks, num_steps=4)
        for name, value in weights.items():
            one_by_one = torch.stack([w[name] for w in apart])
            torch.testing.assert_close(mapped[name], one_by_one, rtol=0, atol=1e-12)
            torch.testing.assert_close(moved[name], value.detach() - one_by_one.mean(0), rtol=0, atol=1e-12)

    def test_listed_and_stacked_tasks_update_alike(self):
        one, other = model(), model()
        for round_ in range(4):
            tasks = some_tasks(seed=round_)
            assert one.meta_update(tasks) == pytest.approx(other.meta_update(listed(tasks)), abs=1e-12)
        assert_close(one.named_weights(), other.named_weights(), 1e-12)

    def test_tasks_of_different_sizes_count_the_same(self):
        small, large = some_tasks(count=2, rows=3), some_tasks(count=3, rows=11, seed=1)
        mixed = [listed(small)[0], *listed(large), listed(small)[1]]
        network = model(meta_lr=1.0, inner_steps=4)
        after = [network.inner_loop(task, 4) for task in mixed]
        network.meta_update(mixed)
        for name, value in network.named_weights().items():
            torch.testing.assert_close(value.detach(), torch.stack([w[name] for w in after]).mean(0))

    def test_many_models_at_once(self):
        models = [model(seed=seed, inner_steps=3) for seed in range(3)]
        parameters, buffers = stack_module_state(models)
        many = tuple(torch.stack(parts) for parts in zip(*(some_tasks(seed=s) for s in range(3)), strict=True))
        rates = torch.tensor([0.01, 0.03, 0.1], dtype=torch.float64)

        class Asked(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.inside = models[0]

            def forward(self, tasks, rate):
                return self.inside.pseudo_gradient(tasks, inner_lr=rate)

        named, asked = {f"inside.{name}": value for name, value in parameters.items()}, Asked()
        moves = torch.vmap(lambda p, tasks, rate: functional_call(asked, (p, buffers), (tasks, rate)))(
            named, many, rates
        )
        for s, network in enumerate(models):
            alone = network.pseudo_gradient(some_tasks(seed=s), inner_lr=float(rates[s]))
            assert_close({name: value[s] for name, value in moves.items()}, alone, 1e-12)


def holed(tensor):
    broken = tensor.clone()
    broken.view(-1)[0] = math.nan
    return broken


def refusal(name, came=""):
    return rf"^{re.escape(name)}: got .*{came}.*expected "


X, Y = normal(4, 3), normal(4)


@pytest.fixture
def unchanged():
    """A network in training mode; afterwards its mode and every one of its numbers must be as before."""
    network = model(dropout_rate=0.2).train()
    before = copy.deepcopy(network.state_dict())
    yield network
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


class TestBadInput:
    def test_targets_that_do_not_fit(self):
        network = model(dtype=torch.float32)
        x, y = X.float(), Y * 1e300
        with pytest.raises(ValueError, match=refusal("y", "infinite")):
            network.inner_loop((x, y))
        with pytest.raises(ValueError, match=refusal("y", "infinite")):
            network.meta_update([(x, y)])

    def test_rates_of_another_kind(self, unchanged):
        with pytest.raises(ValueError, match=refusal("inner_lr")):
            unchanged.inner_loop((X, Y), inner_lr=torch.tensor(0.1).to_sparse())

    @pytest.mark.parametrize("task", [X, (X,), (X, Y, X)])
    def test_task_data(self, unchanged, task):
        with pytest.raises(ValueError, match=refusal("task_data")):
            unchanged.inner_loop(task)

    @pytest.mark.parametrize(
        ("tasks", "named", "came"),
        [
            ([(X, Y, X)], "tasks_data[0]", "tuple of 3"),
            ([(X, Y), X], "tasks_data[1]", "Tensor"),
            ((X, Y), "x", r"\(4, 3\)"),
            (some_tasks(0), "x", r"\(0, 8, 3\)"),
            ((some_tasks(3)[0], some_tasks(2)[1]), "y", r"\(2, 8\)"),
        ],
    )
    def test_tasks(self, unchanged, tasks, named, came):
        with pytest.raises(ValueError, match=refusal(named, came)):
            unchanged.meta_update(tasks)

    @pytest.mark.parametrize("tasks", [some_tasks()[:1], X])
    def test_moves_of_what_is_no_task(self, unchanged, tasks):
        with pytest.raises(ValueError, match=r"^tasks_data: got .*, expected two stacked tensors"):
            unchanged.pseudo_gradient(tasks)

    def test_inner_steps_that_diverge(self):
        network = model(inner_lr=1e200, inner_steps=5)
        before = copy.deepcopy(network.state_dict())
        with pytest.raises(ValueError, match="a lower inner_lr than 1e\\+200 may help"):
            network.meta_update(some_tasks())
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
