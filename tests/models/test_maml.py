"""MAML against a closed form, another library, gradients by differences, and symmetries it must have."""

import copy
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, stack_module_state

from recmtl_lessons.models import MAMLRecommender


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def model(input_dim=3, hidden_dims=(5, 4), seed=0, dtype=torch.float64, **changed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MAMLRecommender(input_dim, hidden_dims, **changed).to(dtype)


def some_tasks(count=6, shots=7, queries=5, input_dim=3, output_dim=None, seed=0, dtype=torch.float64):
    """Four stacked tensors; targets (count, rows), or (count, rows, output_dim) if that is given."""
    wide = () if output_dim is None else (output_dim,)
    sizes = ((shots, input_dim), (shots, *wide), (queries, input_dim), (queries, *wide))
    return tuple(normal(count, *size, seed=10 * seed + k, dtype=dtype) for k, size in enumerate(sizes))


def listed(tasks):
    return list(zip(*tasks, strict=True))


def meta_gradient(network, tasks, **options):
    loss = network.query_losses(tasks, **options).mean()
    return dict(zip(network.named_weights(), torch.autograd.grad(loss, network.named_weights().values()), strict=True))


def assert_close(one, other, atol=1e-9):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert float((value - other[name]).detach().abs().max()) <= atol, name


def plain_query_loss(network, params, task, steps, rate, first_order=False):
    """One task by hand, with PyTorch's plain autograd: what every textbook writes."""
    support_x, support_y, query_x, query_y = task
    for _ in range(steps):
        loss = (functional_call(network, params, (support_x,)).squeeze(1) - support_y).square().mean()
        gradients = torch.autograd.grad(loss, list(params.values()), create_graph=not first_order)
        params = {name: p - rate * g for (name, p), g in zip(params.items(), gradients, strict=True)}
    return (functional_call(network, params, (query_x,)).squeeze(1) - query_y).square().mean()


class TestMetaGradient:
    """Three inner steps, double precision, 1e-9."""

    def test_is_highers(self):
        higher = pytest.importorskip("higher", reason="the extra `reference` is not installed")
        network, tasks = model(inner_lr=0.05), some_tasks()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
        total = {name: torch.zeros_like(value) for name, value in network.named_weights().items()}
        for support_x, support_y, query_x, query_y in listed(tasks):
            with higher.innerloop_ctx(network, optimizer, copy_initial_weights=False) as (functional, stepper):
                for _ in range(3):
                    stepper.step((functional(support_x).squeeze(1) - support_y).square().mean())
                loss = (functional(query_x).squeeze(1) - query_y).square().mean()
                gradients = torch.autograd.grad(loss, list(network.parameters()))
            for name, gradient in zip(total, gradients, strict=True):
                total[name] += gradient / 6
        assert_close(meta_gradient(network, tasks, num_steps=3), total)

    def test_is_the_closed_form_of_a_linear_model(self):
        r"""With a linear model an inner step is affine: :math:`\theta' = (I - a H) \theta + a b`."""
        rate, steps = 0.05, 3
        network, tasks = model(hidden_dims=(), inner_lr=rate), some_tasks()
        theta = torch.cat([network.head.weight[0], network.head.bias]).detach()
        expected = torch.zeros_like(theta)
        for support_x, support_y, query_x, query_y in listed(tasks):
            s, q = (torch.cat([x, torch.ones(len(x), 1)], dim=1) for x in (support_x, query_x))
            hessian, pull = 2 * s.T @ s / len(s), 2 * s.T @ support_y / len(s)
            shrink = torch.eye(len(theta)) - rate * hessian
            adapted = theta
            for _ in range(steps):
                adapted = shrink @ adapted + rate * pull
            expected += torch.linalg.matrix_power(shrink, steps).T @ (2 * q.T @ (q @ adapted - query_y) / len(q)) / 6
        found = meta_gradient(network, tasks, num_steps=steps)
        assert_close(found, {"head.weight": expected[None, :-1], "head.bias": expected[-1:]})

    @pytest.mark.parametrize("first_order", [False, True])
    def test_is_plain_autograds(self, first_order):
        network, tasks = model(inner_lr=0.05), some_tasks()
        params = dict(network.named_parameters())
        losses = [plain_query_loss(network, params, task, 3, 0.05, first_order) for task in listed(tasks)]
        expected = dict(zip(params, torch.autograd.grad(torch.stack(losses).mean(), params.values()), strict=True))
        assert_close(meta_gradient(network, tasks, num_steps=3, first_order=first_order), expected)

    def test_is_the_slope(self):
        network, tasks = model(hidden_dims=(4,)), some_tasks()
        found, h = meta_gradient(network, tasks, num_steps=3), 1e-5
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.view(-1)[0] += h
                above = network.query_losses(tasks, num_steps=3).mean()
                parameter.view(-1)[0] -= 2 * h
                below = network.query_losses(tasks, num_steps=3).mean()
                parameter.view(-1)[0] += h
                assert float((above - below) / (2 * h)) == pytest.approx(float(found[name].view(-1)[0]), abs=1e-7)

    def test_first_order_leaves_out_something(self):
        network, tasks = model(), some_tasks()
        second, first = (meta_gradient(network, tasks, first_order=order) for order in (False, True))
        assert max(float((second[name] - first[name]).abs().max()) for name in second) > 1e-3
        torch.testing.assert_close(
            network.query_losses(tasks, first_order=True), network.query_losses(tasks, first_order=False)
        )

    def test_first_order_is_the_gradient_at_the_adapted_parameters(self):
        network, tasks = model(), some_tasks(count=1)
        support_x, support_y, query_x, query_y = listed(tasks)[0]
        adapted = {k: v.requires_grad_() for k, v in network.adapt_to_new_task(support_x, support_y, 5).items()}
        loss = (network(query_x, adapted).squeeze(1) - query_y).square().mean()
        expected = dict(zip(adapted, torch.autograd.grad(loss, adapted.values()), strict=True))
        assert_close(meta_gradient(network, tasks, first_order=True), expected)

    def test_without_inner_steps_it_is_the_gradient_of_the_query_loss(self):
        network, tasks = model(), some_tasks()
        support_x, support_y, query_x, query_y = tasks
        loss = (network(query_x.flatten(0, 1)).squeeze(1) - query_y.flatten()).square().mean()
        expected = dict(zip(network.named_weights(), torch.autograd.grad(loss, network.parameters()), strict=True))
        assert_close(meta_gradient(network, tasks, num_steps=0), expected)
        del support_x, support_y


class TestInnerUpdate:
    @pytest.mark.parametrize("steps", [1, 4])
    def test_is_gradient_descent(self, steps):
        network, (x, y, _, _) = model(inner_lr=0.1), listed(some_tasks())[0]
        twin = copy.deepcopy(network)
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
        for _ in range(steps):
            optimizer.zero_grad()
            (twin(x).squeeze(1) - y).square().mean().backward()
            optimizer.step()
        assert_close(network.inner_update(x, y, steps), dict(twin.named_parameters()), 1e-12)
        assert_close(network.adapt_to_new_task(x, y, steps), dict(twin.named_parameters()), 1e-12)

    def test_steps_add_up(self):
        network, (x, y, _, _) = model(), listed(some_tasks())[0]
        params = None
        for _ in range(3):
            params = network.inner_update(x, y, params=params)
        assert_close(params, network.inner_update(x, y, 3), 1e-12)
        assert_close(network.inner_update(x, y, 2, params), network.inner_update(x, y, 5), 1e-12)

    def test_no_steps_are_the_starting_point(self):
        network, (x, y, _, _) = model(), listed(some_tasks())[0]
        found = network.inner_update(x, y, 0)
        assert all(torch.equal(found[name], value) for name, value in network.named_weights().items())

    def test_the_model_stays_as_it_is_and_the_graph_is_kept(self):
        network, (x, y, qx, _) = model(dropout_rate=0.3).train(), listed(some_tasks())[0]
        before = copy.deepcopy(network.state_dict())
        params = network.inner_update(x, y, 3)
        network(qx, params).sum().backward()
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert all(float(p.grad.abs().max()) > 0 for p in network.parameters())

    def test_adapting_for_good_leaves_nothing_behind(self):
        network, (x, y, qx, _) = model(dropout_rate=0.3).train(), listed(some_tasks())[0]
        before = copy.deepcopy(network.state_dict())
        params = network.adapt_to_new_task(x, y)
        assert all(not value.requires_grad and value.is_leaf for value in params.values())
        assert all(network.training for network in network.modules())
        assert all(p.grad is None for p in network.parameters())
        with torch.no_grad():
            for value in params.values():
                value.zero_()
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert_close(network.adapt_to_new_task(x, y), network.inner_update(x, y, 5), 1e-12)
        assert network.adapt_to_new_task(x, y, 0)["head.bias"].data_ptr() != network.head.bias.data_ptr()
        del qx

    def test_works_where_gradients_are_off(self):
        network, (x, y, _, _) = model(), listed(some_tasks())[0]
        expected = network.adapt_to_new_task(x, y)
        with torch.no_grad():
            assert_close(network.adapt_to_new_task(x, y), expected, 0.0)
            assert_close(network.inner_update(x, y, 5), expected, 0.0)
        with torch.inference_mode():
            assert_close(network.adapt_to_new_task(x, y), expected, 0.0)

    def test_dropout_never_touches_an_inner_step(self):
        network, (x, y, _, _) = model(dropout_rate=0.5), listed(some_tasks())[0]
        plain = network.eval().inner_update(x, y, 3)
        assert_close(network.train().inner_update(x, y, 3), plain, 0.0)

    def test_a_target_of_shape_n_is_one_of_shape_n_1(self):
        network, tasks = model(), some_tasks()
        x, y, _, _ = listed(tasks)[0]
        assert_close(network.inner_update(x, y), network.inner_update(x, y[:, None]), 0.0)
        wide = (tasks[0], tasks[1][..., None], tasks[2], tasks[3][..., None])
        assert torch.equal(network.query_losses(tasks), network.query_losses(wide))

    def test_another_rate(self):
        network, (x, y, _, _) = model(inner_lr=0.05), listed(some_tasks())[0]
        slow, fast = network.inner_update(x, y, inner_lr=0.05), network.inner_update(x, y, inner_lr=torch.tensor(0.1))
        assert_close(slow, network.inner_update(x, y), 1e-12)
        for name, value in network.named_weights().items():
            torch.testing.assert_close(fast[name] - value, 2 * (slow[name] - value))

    @given(st.integers(1, 4), st.integers(1, 4), st.lists(st.integers(1, 6), max_size=2), st.integers(1, 9))
    @settings(max_examples=40)
    def test_shapes(self, input_dim, output_dim, hidden_dims, shots):
        network = model(input_dim, tuple(hidden_dims), output_dim=output_dim)
        x, y = normal(shots, input_dim), normal(shots, output_dim)
        params = network.inner_update(x, y, 2)
        assert {n: v.shape for n, v in params.items()} == {n: v.shape for n, v in network.named_weights().items()}
        assert network(x, params).shape == network(x).shape == (shots, output_dim)
        assert network.predict(x, params).shape == ((shots,) if output_dim == 1 else (shots, output_dim))


class TestTogether:
    """All tasks at once is one after another, is `torch.vmap`, is any order."""

    @pytest.mark.parametrize("options", [{}, {"first_order": True}, {"adapt": "head"}, {"learn_inner_lr": True}])
    def test_stacked_is_one_after_another_and_vmap(self, options, device):
        network = model(**options).to(device)
        tasks = tuple(part.to(device) for part in some_tasks())
        first_order = options.get("first_order", False)

        def one(sx, sy, qx, qy):
            adapted = network.inner_update(sx, sy, 3, first_order=first_order)
            return (network(qx, adapted).squeeze(1) - qy).square().mean()

        stacked = network.query_losses(tasks, num_steps=3)
        apart, mapped = torch.stack([one(*task) for task in listed(tasks)]), torch.vmap(one)(*tasks)
        learned = list(network.parameters())
        expected = torch.autograd.grad(apart.mean(), learned)
        for losses in (stacked, mapped):
            torch.testing.assert_close(losses, apart, rtol=0, atol=1e-12)
            found = torch.autograd.grad(losses.mean(), learned)
            for f, e in zip(found, expected, strict=True):
                assert float((f - e).abs().max()) <= 1e-12

    def test_listed_and_stacked_tasks_update_alike(self):
        one, other = model(), model()
        for round_ in range(5):
            tasks = some_tasks(seed=round_)
            assert one.meta_update(tasks) == pytest.approx(other.meta_update(listed(tasks)), abs=1e-12)
        assert_close(one.named_weights(), other.named_weights(), 1e-12)

    def test_another_rate_counts_from_the_next_update_on(self):
        one, other, tasks = model(), model(), some_tasks()
        for network in (one, other):
            network.meta_update(tasks)
        other.meta_lr = 10 * one.meta_lr
        start = {name: value.detach().clone() for name, value in one.named_weights().items()}
        for network in (one, other):
            network.meta_update(tasks)
        for name, before in start.items():
            torch.testing.assert_close(
                other.named_weights()[name] - before, 10 * (one.named_weights()[name] - before), rtol=1e-6, atol=1e-9
            )

    def test_tasks_of_different_sizes_count_the_same(self):
        small, large = some_tasks(count=2), some_tasks(count=3, shots=2, queries=11, seed=1)
        mixed = [listed(small)[0], *listed(large), listed(small)[1]]
        network = model()
        params = dict(network.named_parameters())
        losses = torch.stack([plain_query_loss(network, params, task, 5, network.inner_lr) for task in mixed])
        expected = dict(zip(params, torch.autograd.grad(losses.mean(), params.values()), strict=True))
        assert network.meta_update(mixed) == pytest.approx(float(losses.mean().detach()), abs=1e-12)
        assert_close({n: p.grad for n, p in network.named_parameters()}, expected)

    def test_the_order_of_tasks_and_rows_does_not_matter(self):
        network, tasks = model(), some_tasks()
        moved = tuple(part[[3, 1, 0, 5, 4, 2]].flip(1) for part in tasks)
        assert_close(meta_gradient(network, tasks), meta_gradient(network, moved), 1e-12)

    def test_a_task_does_not_depend_on_the_others(self):
        network, tasks = model(), some_tasks()
        alone = network.query_losses(tuple(part[2:3] for part in tasks))
        torch.testing.assert_close(network.query_losses(tasks)[2:3], alone, rtol=0, atol=1e-12)

    def test_many_models_at_once(self):
        models = [model(seed=seed) for seed in range(3)]
        parameters, buffers = stack_module_state(models)
        many = tuple(torch.stack(parts) for parts in zip(*(some_tasks(seed=s) for s in range(3)), strict=True))
        rates = torch.tensor([0.01, 0.03, 0.1], dtype=torch.float64)

        class Asked(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.inside = models[0]

            def forward(self, tasks, rate):
                return self.inside.query_losses(tasks, inner_lr=rate).mean()

        named = {f"inside.{name}": value for name, value in parameters.items()}
        asked = Asked()
        losses = torch.vmap(lambda p, tasks, rate: functional_call(asked, (p, buffers), (tasks, rate)))(
            named, many, rates
        )
        losses.sum().backward()
        for s, network in enumerate(models):
            alone = network.query_losses(some_tasks(seed=s), inner_lr=float(rates[s])).mean()
            alone.backward()
            torch.testing.assert_close(losses[s], alone, rtol=0, atol=1e-12)
            for name, parameter in network.named_parameters():
                assert float((parameters[name].grad[s] - parameter.grad).abs().max()) <= 1e-12


def sines(count, shots, generator, dtype=torch.float32):
    """Tasks of Finn et al., section 5.1, with as many query rows as support rows."""
    amplitude = 0.1 + 4.9 * torch.rand(count, 1, generator=generator)
    phase = math.pi * torch.rand(count, 1, generator=generator)
    x = 10 * torch.rand(count, 2 * shots, generator=generator) - 5
    y = amplitude * torch.sin(x - phase)
    return tuple(part.to(dtype) for part in (x[:, :shots, None], y[:, :shots], x[:, shots:, None], y[:, shots:]))


class TestMetaUpdate:
    def test_learns_the_sinusoid(self):
        generator = torch.Generator().manual_seed(0)
        network = model(1, (40, 40), dtype=torch.float32, inner_lr=0.01, inner_steps=1, meta_lr=0.01)
        for _ in range(100):
            network.meta_update(sines(25, 10, generator))
        tasks = sines(200, 10, generator)
        before, after = (float(network.query_losses(tasks, num_steps=n).mean().detach()) for n in (0, 5))
        assert after < 0.6 * before

    def test_is_one_step_of_adam_on_the_mean_query_loss(self):
        network, tasks = model(meta_lr=0.01), some_tasks()
        twin = copy.deepcopy(network)
        optimizer = torch.optim.Adam(twin.parameters(), lr=0.01)
        for _ in range(3):
            loss = twin.query_losses(tasks).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert network.meta_update(tasks) == pytest.approx(float(loss.detach()), abs=1e-12)
        assert_close(network.named_weights(), twin.named_weights(), 1e-12)

    def test_dropout_acts_on_query_rows_in_training_only(self):
        network, tasks = model(dropout_rate=0.5), some_tasks()
        network.train()
        assert not torch.equal(network.query_losses(tasks), network.query_losses(tasks))
        network.eval()
        plain = model().query_losses(tasks)
        torch.testing.assert_close(network.query_losses(tasks), plain)


class TestOptions:
    def test_anil_moves_the_head_alone_and_learns_the_rest(self):
        network, (x, y, _, _) = model(adapt="head"), listed(some_tasks())[0]
        adapted = network.adapt_to_new_task(x, y)
        for name, value in network.named_weights().items():
            assert torch.equal(adapted[name], value) == (not name.startswith("head."))
        gradients = meta_gradient(network, some_tasks())
        assert all(float(g.abs().max()) > 0 for g in gradients.values())

    def test_anil_is_a_linear_fit_on_fixed_features(self):
        network, (x, y, _, _) = model(adapt="head", inner_lr=0.1), listed(some_tasks())[0]
        hidden = x
        for layer in network.body:
            hidden = layer(hidden).relu()
        linear = MAMLRecommender(4, (), inner_lr=0.1).double()
        linear.head.load_state_dict(network.head.state_dict())
        expected = linear.adapt_to_new_task(hidden.detach(), y, 3)
        assert_close({k: v for k, v in network.adapt_to_new_task(x, y, 3).items() if k in expected}, expected, 1e-12)

    def test_learned_rates_start_as_the_rate_and_are_learned(self):
        network, plain, tasks = model(learn_inner_lr=True), model(), some_tasks()
        torch.testing.assert_close(network.query_losses(tasks), plain.query_losses(tasks))
        assert [rate.shape for rate in network.inner_rates] == [p.shape for p in plain.parameters()]
        network.meta_update(tasks)
        moved = [float((rate.detach() - network.inner_lr).abs().max()) for rate in network.inner_rates]
        assert min(moved) > 0

    def test_the_gradient_of_a_learned_rate_by_hand(self):
        """After one step, d loss / d rate is minus the product of query and support gradient."""
        network, tasks = model(learn_inner_lr=True), some_tasks(count=1)
        x, y, qx, qy = listed(tasks)[0]
        loss = network.query_losses(tasks, num_steps=1).mean()
        found = torch.autograd.grad(loss, list(network.inner_rates))
        params = network.named_weights()
        support = torch.autograd.grad((network(x).squeeze(1) - y).square().mean(), params.values())
        adapted = {k: v.requires_grad_() for k, v in network.adapt_to_new_task(x, y, 1).items()}
        query = torch.autograd.grad((network(qx, adapted).squeeze(1) - qy).square().mean(), adapted.values())
        for f, s, q in zip(found, support, query, strict=True):
            torch.testing.assert_close(f, -s * q)

    def test_head_rates_alone_are_learned_where_the_head_alone_adapts(self):
        network = model(learn_inner_lr=True, adapt="head")
        assert [rate.shape for rate in network.inner_rates] == [(1, 4), (1,)]
        network.meta_update(some_tasks())


def holed(tensor):
    broken = tensor.clone()
    broken.view(-1)[0] = math.nan
    return broken


def refusal(name, came=""):
    return rf"^{re.escape(name)}: got .*{came}.*expected "


X, Y = normal(4, 3), normal(4)
TASK = (X, Y, X, Y)


@pytest.fixture
def unchanged():
    """A network in training mode; afterwards its mode and every one of its numbers must be as before."""
    network = model(dropout_rate=0.2).train()
    before = copy.deepcopy(network.state_dict())
    yield network
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class TestBadInput:
    def test_targets_of_two_values_are_never_broadcast(self):
        network = model(output_dim=2)
        with pytest.raises(ValueError, match=refusal("support_y", r"\(4,\)")):
            network.inner_update(X, Y)
        with pytest.raises(ValueError, match=refusal("support_y", r"\(4, 1\)")):
            network.inner_update(X, Y[:, None])
        with pytest.raises(ValueError, match=refusal("support_y", r"\(1, 4\)")):
            model().inner_update(X, Y[None])

    def test_a_rate_beside_learned_ones(self):
        with pytest.raises(ValueError, match=r"^inner_lr: got 0.1, expected None: this model learns its rates"):
            model(learn_inner_lr=True).inner_update(X, Y, inner_lr=0.1)

    def test_params_of_another_network(self, unchanged):
        params = unchanged.named_weights()
        less = {name: value for name, value in params.items() if name != "head.bias"}
        for wrong, came in ((less, "head.weight"), ({**params, "tail": X}, "tail")):
            for use in (lambda p: unchanged(X, p), lambda p: unchanged.inner_update(X, Y, params=p)):
                with pytest.raises(ValueError, match=refusal("params", came)):
                    use(wrong)

    @pytest.mark.parametrize(
        ("tasks", "named", "came"),
        [
            ([(X, Y, X)], "tasks_data[0]", "tuple of 3"),
            ([TASK, X], "tasks_data[1]", "Tensor"),
            ((X, Y, X, Y), "support_x", r"\(4, 3\)"),
            (some_tasks(0), "support_x", r"\(0, 7, 3\)"),
            ((*some_tasks(3)[:2], *some_tasks(2)[2:]), "query_x", "2 tasks"),
            ((some_tasks()[0], some_tasks()[1][..., None, :], *some_tasks()[2:]), "support_y", r"\(6, 1, 7\)"),
        ],
    )
    def test_tasks(self, unchanged, tasks, named, came):
        with pytest.raises(ValueError, match=refusal(named, came)):
            unchanged.meta_update(tasks)

    def test_inner_steps_that_diverge(self):
        network = model(inner_lr=1e200, inner_steps=5)
        before = copy.deepcopy(network.state_dict())
        with pytest.raises(ValueError, match="a lower inner_lr than 1e\\+200 may help"):
            network.meta_update(some_tasks())
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert all(p.grad is None for p in network.parameters())

    def test_a_gradient_that_overflows_where_the_loss_does_not(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            network = MAMLRecommender(3, (8, 8), inner_lr=1.8)
            tasks = (torch.randn(4, 5, 3), torch.randn(4, 5), torch.randn(4, 5, 3), torch.randn(4, 5))
        loss = network.query_losses(tasks).mean()
        assert torch.isfinite(loss)
        assert not all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, list(network.parameters())))
        before = copy.deepcopy(network.state_dict())
        with pytest.raises(ValueError, match=r"not finite, expected finite ones; a lower inner_lr than 1.8"):
            network.meta_update(tasks)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

    @pytest.mark.parametrize("tasks", [some_tasks()[:3], list(some_tasks())[:2], some_tasks()[0]])
    def test_losses_of_what_is_no_task(self, tasks):
        with pytest.raises(ValueError, match=r"^tasks_data: got .*, expected four stacked tensors"):
            model().query_losses(tasks)
