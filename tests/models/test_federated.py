"""Federated learning against plain loops, other models of the course, ridge regression, and limits it must have."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch.func import functional_call, stack_module_state

from recmtl_lessons.models import (
    FederatedRecommender,
    MAMLRecommender,
    ReptileRecommender,
    clip_updates,
    federated_average,
    private_average,
)

METHODS = ("fedavg", "per-fedavg", "per-fedavg-first-order", "reconstruction")
MAML_METHODS = METHODS[1:3]
ROWS, SHOTS = 9, 4
COUNTS = ((4, 5), (4, 1), (1, 5), (2, 3), (3, 2))  # known support and query rows of each client

each_method = pytest.mark.parametrize("method", METHODS)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def model(method="fedavg", hidden_dims=(5, 4), seed=0, dtype=torch.float64, kind=FederatedRecommender, **changed):
    own = {"method": method, "support_rows": SHOTS, "local_steps": 3} if kind is FederatedRecommender else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(3, hidden_dims, **{**own, **changed}).to(dtype)


def clients(count=5, rows=ROWS, seed=0, dtype=torch.float64):
    return normal(count, rows, 3, seed=seed, dtype=dtype), normal(count, rows, seed=seed + 1, dtype=dtype)


def unequal():
    """Clients of whom some have fewer rows; support rows are the first of four places, query rows of five."""
    known = torch.zeros(len(COUNTS), ROWS, dtype=torch.bool)
    for own, (support, query) in zip(known, COUNTS, strict=True):
        own[:support] = True
        own[SHOTS : SHOTS + query] = True
    return known


def flat(params):
    return torch.cat([value.detach().flatten() for value in params])


def moved_by_hand(network, x, y, steps, rate, loss=None):
    """What one client sends: a copy, an optimizer of PyTorch's, a loop."""
    twin = copy.deepcopy(network)
    optimizer = torch.optim.SGD([p for p in twin.parameters() if p.requires_grad], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        (loss(twin, x, y) if loss else (twin(x).squeeze(1) - y).square().mean()).backward()
        optimizer.step()
    return flat(twin.parameters()) - flat(network.parameters())


def assert_close(found, expected, atol=1e-12, rtol=0.0):
    torch.testing.assert_close(found, expected, atol=atol, rtol=rtol)


class TestLocalSteps:
    @pytest.mark.parametrize("hidden_dims", [(5, 4), (6,), ()])
    @pytest.mark.parametrize("steps", [1, 4])
    def test_are_a_plain_loop(self, hidden_dims, steps):
        network, (x, y) = model(hidden_dims=hidden_dims, local_steps=steps, local_lr=0.1), clients()
        found = network.client_updates(x, y)
        for own, x_c, y_c in zip(found, x, y, strict=True):
            assert_close(own, moved_by_hand(network, x_c, y_c, steps, 0.1))
        assert found.shape == (len(x), network.update_size)
        assert not found.requires_grad

    @pytest.mark.parametrize("hidden_dims", [(5, 4), ()])
    def test_on_known_rows_alone(self, hidden_dims):
        network, (x, y), known = model(hidden_dims=hidden_dims, local_lr=0.1), clients(), unequal()
        found = network.client_updates(x, y, known)
        for own, x_c, y_c, k in zip(found, x, y, known, strict=True):
            assert_close(own, moved_by_hand(network, x_c[k], y_c[k], 3, 0.1))

    @each_method
    def test_what_fills_up_does_not_matter(self, method):
        network, (x, y), known = model(method), clients(), unequal()
        other_x, other_y = clients(seed=7)
        filled_x = torch.where(known[..., None], x, 100 * other_x)
        filled_y = torch.where(known, y, 100 * other_y)
        assert_close(network.client_updates(filled_x, filled_y, known), network.client_updates(x, y, known))
        assert not torch.allclose(network.client_updates(x, y, known), network.client_updates(x, y), atol=1e-6)

    @each_method
    def test_all_rows_are_known_unless_it_is_said(self, method):
        network, (x, y) = model(method), clients()
        every = torch.ones_like(y, dtype=torch.bool)
        assert torch.equal(network.client_updates(x, y), network.client_updates(x, y, every))

    @each_method
    def test_clients_do_not_meet(self, method):
        network, (x, y), known = model(method), clients(), unequal()
        found = network.client_updates(x, y, known)
        for c, own in enumerate(found):
            assert_close(network.client_updates(x[c : c + 1], y[c : c + 1], known[c : c + 1])[0], own)

    @each_method
    def test_steps_and_rate_of_a_call_stand_for_the_models(self, method):
        network, (x, y) = model(method), clients()
        other = model(method, local_steps=2, local_lr=0.01)
        assert torch.equal(network.client_updates(x, y, num_steps=2, local_lr=0.01), other.client_updates(x, y))
        rate = torch.tensor(0.01, dtype=torch.float64)
        assert_close(network.client_updates(x, y, num_steps=2, local_lr=rate), other.client_updates(x, y))

    @each_method
    def test_the_model_stays_as_it_is(self, method):
        network, (x, y) = model(method), clients()
        before = copy.deepcopy(network.state_dict())
        network.client_updates(x, y)
        network.personalise(x[0], y[0])
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert all(value.grad is None for value in network.parameters())

    @each_method
    def test_many_models_at_once(self, method):
        networks = [model(method, seed=seed) for seed in range(3)]
        rates, known = torch.tensor([0.01, 0.05, 0.1], dtype=torch.float64), unequal().expand(3, -1, -1)
        x, y = (torch.stack(parts) for parts in zip(*(clients(seed=10 * k) for k in range(3)), strict=True))
        parameters, _ = stack_module_state(networks)

        class Asked(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.model = networks[0]

            def forward(self, *arguments):
                return self.model.client_updates(*arguments)

        def one(parameters, x, y, known, rate):
            named = {f"model.{name}": value for name, value in parameters.items()}
            return functional_call(Asked(), named, (x, y, known, 2, rate))

        found = torch.vmap(one)(parameters, x, y, known, rates)
        for own, network, *rest, rate in zip(found, networks, x, y, known, rates, strict=True):
            assert_close(own, network.client_updates(*rest, 2, float(rate)))

    @each_method
    @pytest.mark.parametrize("frozen", ["body.0.weight", "head.bias"])
    def test_frozen_weights_stay(self, method, frozen):
        network, (x, y) = model(method), clients()
        free = network.unflatten(network.client_updates(x, y))
        network.get_parameter(frozen).requires_grad_(False)
        sent = network.unflatten(network.client_updates(x, y))
        assert {name for name, move in sent.items() if not move.any()} == {frozen} & set(free)
        assert sent.keys() == free.keys()
        if method == "fedavg":
            assert_close(flat(move[0] for move in sent.values()), moved_by_hand(network, x[0], y[0], 3, 0.05))

    @pytest.mark.parametrize("frozen", ["body.0.weight", "head.bias"])
    def test_frozen_weights_stay_for_one_client(self, frozen):
        network, (x, y) = model(), clients()
        network.get_parameter(frozen).requires_grad_(False)
        own = network.personalise(x[0], y[0], 3)
        assert torch.equal(own[frozen], network.get_parameter(frozen))
        expected = moved_by_hand(network, x[0], y[0], 3, network.inner_lr)
        assert_close(flat(own.values()) - flat(network.parameters()), expected)

    @each_method
    def test_that_diverge_are_refused(self, method):
        network, (x, y) = model(method, dtype=torch.float32), clients(dtype=torch.float32)
        with pytest.raises(ValueError, match=r"^x: got numbers after 60 inner steps that are not finite, expected "):
            network.client_updates(x, y, num_steps=60, local_lr=1e6)
        if method != "reconstruction":
            with pytest.raises(ValueError, match=r"^support_x: got numbers after 60 inner steps that are not finite"):
                network.personalise(x[0], y[0], 60, inner_lr=1e6)


class TestOneStep:
    def test_by_rows_is_gradient_descent_on_all_rows(self):
        """FedSGD. Clients of one weight each are something else where they differ in their rows."""
        network, (x, y), known = model(local_steps=1, local_lr=0.1), clients(), unequal()
        sent = network.client_updates(x, y, known)
        together = moved_by_hand(network, x[known], y[known], 1, 0.1)
        assert_close(federated_average(sent, known.sum(1)), together)
        assert not torch.allclose(federated_average(sent, torch.ones(len(x))), together, atol=1e-4)
        whole = network.client_updates(x, y)
        assert_close(
            federated_average(whole, torch.ones(len(x))),
            moved_by_hand(network, x.flatten(0, 1), y.flatten(), 1, 0.1),
        )

    def test_several_are_not(self):
        network, (x, y), known = model(local_lr=0.1), clients(), unequal()
        together = moved_by_hand(network, x[known], y[known], 3, 0.1)
        assert not torch.allclose(
            federated_average(network.client_updates(x, y, known), known.sum(1)), together, atol=1e-4
        )

    @pytest.mark.parametrize("method", MAML_METHODS)
    @pytest.mark.parametrize("frozen", [(), ("body.1.weight", "head.bias")])
    def test_is_along_mamls_gradient(self, method, frozen):
        network, (x, y) = model(method, local_steps=1, local_lr=0.1, inner_lr=0.2), clients()
        first_order = method.endswith("first-order")
        maml = model(kind=MAMLRecommender, inner_steps=1, inner_lr=0.2, first_order=first_order)
        maml.load_state_dict(network.state_dict())
        for one in (network, maml):
            for name in frozen:
                one.get_parameter(name).requires_grad_(False)
        losses = maml.query_losses((x[:, :SHOTS], y[:, :SHOTS], x[:, SHOTS:], y[:, SHOTS:]))
        free = {name: value for name, value in maml.named_parameters() if name not in frozen}
        for sent, loss in zip(network.client_updates(x, y), losses, strict=True):
            own = dict(zip(free, torch.autograd.grad(loss, list(free.values()), retain_graph=True), strict=True))
            zeros = {name: torch.zeros_like(value) for name, value in maml.named_parameters()}
            assert_close(sent, -0.1 * flat({**zeros, **own}.values()))


def test_with_uniform_weights_it_is_reptile():
    network, (x, y) = model(local_steps=4, local_lr=0.1), clients()
    reptile = model(kind=ReptileRecommender, inner_steps=4, inner_lr=0.1, meta_lr=1.0)
    reptile.load_state_dict(network.state_dict())
    reptile.meta_update((x, y))
    found = flat(network.parameters()) + federated_average(network.client_updates(x, y), torch.ones(len(x)))
    assert_close(found, flat(reptile.parameters()))


class TestPerFedAvg:
    @staticmethod
    def loss(inner_lr, second_order):
        """One step on the support rows written out, and the query rows' error after it."""

        def of(network, x, y):
            own = dict(network.named_parameters())
            support = (network(x[:SHOTS]).squeeze(1) - y[:SHOTS]).square().mean()
            slopes = torch.autograd.grad(support, list(own.values()), create_graph=second_order)
            adapted = {name: value - inner_lr * slope for (name, value), slope in zip(own.items(), slopes, strict=True)}
            return (functional_call(network, adapted, (x[SHOTS:],)).squeeze(1) - y[SHOTS:]).square().mean()

        return of

    @pytest.mark.parametrize("hidden_dims", [(5, 4), ()])
    @pytest.mark.parametrize("method", MAML_METHODS)
    def test_is_written_out_for_each_client(self, method, hidden_dims):
        network, (x, y) = model(method, hidden_dims, inner_lr=0.2), clients()
        loss = self.loss(0.2, method == "per-fedavg")
        for own, x_c, y_c in zip(network.client_updates(x, y), x, y, strict=True):
            assert_close(own, moved_by_hand(network, x_c, y_c, 3, 0.05, loss))

    @pytest.mark.parametrize("method", MAML_METHODS)
    def test_on_known_rows_alone(self, method):
        network, (x, y), known = model(method, inner_lr=0.2), clients(), unequal()
        found = network.client_updates(x, y, known)
        for own, x_c, y_c, k in zip(found, x, y, known, strict=True):
            short = copy.deepcopy(network)
            short.support_rows = int(k[:SHOTS].sum())
            assert_close(own, short.client_updates(x_c[k][None], y_c[k][None])[0])

    def test_of_first_order_is_another(self):
        x, y = clients()
        first, second = (model(method, inner_lr=0.2).client_updates(x, y) for method in MAML_METHODS)
        assert float((first - second).abs().max()) > 1e-3


def body_answers(network, x):
    for layer in network.body:
        x = layer(x).relu()
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)  # (rows, hidden + 1)


class TestReconstruction:
    """Of a head by ridge regression, whose bias is the coefficient of a column of ones and is penalised as well."""

    @pytest.mark.parametrize("rows", [3, 9, 30])
    @pytest.mark.parametrize("ridge", [0.1, 2.0])
    def test_the_head_is_sklearns(self, rows, ridge):
        network, x, y = model("reconstruction", ridge=ridge), normal(rows, 3, seed=1), normal(rows, seed=2) + 1
        own = network.personalise(x, y)
        features = body_answers(network, x).detach().numpy()
        reference = Ridge(alpha=ridge, fit_intercept=False, solver="cholesky").fit(features, y.numpy())
        assert_close(own["head.weight"][0], torch.from_numpy(reference.coef_[:-1].copy()), 1e-10)
        assert float(own["head.bias"]) == pytest.approx(reference.coef_[-1], abs=1e-10)

    def test_for_one_client_the_body_stays_bit_for_bit(self):
        network, (x, y) = model("reconstruction"), clients()
        start = {name: normal(*value.shape, seed=5) for name, value in network.named_weights().items()}
        for params in (None, start):
            before = dict(params or network.named_weights())
            own = network.personalise(x[0], y[0], 2, params)
            assert own.keys() == before.keys()
            assert all(torch.equal(own[name], before[name]) for name in before if name.startswith("body."))
            assert not torch.allclose(own["head.weight"], before["head.weight"], atol=1e-3)
            none = network.personalise(x[0], y[0], 0, params)
            assert all(torch.equal(none[name], before[name]) for name in before)

    def test_no_head_is_sent(self):
        network, (x, y) = model("reconstruction"), clients()
        body = [value for name, value in network.named_weights().items() if name.startswith("body.")]
        assert network.update_size == sum(value.numel() for value in body)
        sent = network.client_updates(x, y)
        assert sent.shape == (len(x), network.update_size)
        assert network.unflatten(sent).keys() == {"body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias"}

    def test_the_servers_head_does_not_matter(self):
        one, other, (x, y) = model("reconstruction"), model("reconstruction"), clients()
        with torch.no_grad():
            other.head.weight += 1
            other.head.bias -= 1
        assert torch.equal(one.client_updates(x, y), other.client_updates(x, y))

    @pytest.mark.parametrize("counts", COUNTS)
    def test_steps_go_through_the_solution(self, counts):
        """Autograd through least squares: rows with sqrt(ridge) below the features are the penalty."""
        network, (x, y), known = model("reconstruction", ridge=0.5), clients(1), torch.zeros(1, ROWS).bool()
        support, query = counts
        known[0, :support], known[0, SHOTS : SHOTS + query] = True, True

        def loss(twin, x, y):
            features = body_answers(twin, x)
            penalty = 0.5**0.5 * torch.eye(features.shape[1], dtype=features.dtype)
            wanted = torch.cat([y[:support], torch.zeros(len(penalty), dtype=y.dtype)])
            head = torch.linalg.lstsq(torch.cat([features[:support], penalty]), wanted[:, None]).solution
            return (features[support:] @ head - y[support:, None]).square().mean()

        body = moved_by_hand(network, x[known], y[known], 3, 0.05, loss)[: network.update_size]
        assert_close(network.client_updates(x, y, known)[0], body, 1e-11)
        assert body.abs().max() > 1e-3

    def test_a_penalty_that_is_rounded_away_is_refused(self):
        """Rows that are alike and large leave no equation to solve: an error says so."""
        network = model("reconstruction", (1,), ridge=1.0, dtype=torch.float32)
        with torch.no_grad():
            network.body[0].weight.zero_()
            network.body[0].weight[0, 0] = 2.0**20
            network.body[0].bias.zero_()
        alike, (x, y) = torch.ones(1, ROWS, 3), clients(1, dtype=torch.float32)
        with pytest.raises(ValueError, match=r"^support_x: got numbers after 3 inner steps that are not finite"):
            network.personalise(alike[0], y[0])
        with pytest.raises(ValueError, match=r"^x: got numbers after 3 inner steps that are not finite"):
            network.client_updates(torch.cat([alike, x]), torch.cat([y, y]))


class TestWhatIsSent:
    @each_method
    def test_has_names_again(self, method):
        network = model(method)
        names = [n for n, _ in network.named_parameters() if method != "reconstruction" or n.startswith("body.")]
        sent = normal(2, 5, network.update_size)
        parts = network.unflatten(sent)
        assert list(parts) == names
        for name, part in parts.items():
            assert part.shape == (2, 5, *network.get_parameter(name).shape)
        assert torch.equal(torch.cat([part.flatten(2) for part in parts.values()], dim=2), sent)
        assert all(torch.equal(part[1, 3], network.unflatten(sent[1, 3])[name]) for name, part in parts.items())

    def test_added_to_the_server_is_where_the_client_went(self):
        network, (x, y) = model(), clients()
        twin, sent = copy.deepcopy(network), network.client_updates(x[:1], y[:1])[0]
        with torch.no_grad():
            for name, move in network.unflatten(sent).items():
                twin.get_parameter(name).add_(move)
        assert_close(flat(twin.parameters()), flat(network.parameters()) + sent)

    def test_without_hidden_layers_a_head_of_ones_own_leaves_nothing_to_send(self):
        with pytest.raises(ValueError, match=r"^hidden_dims: got \(\), expected a sequence of at least one width"):
            model("reconstruction", ())


class TestForOneClient:
    @pytest.mark.parametrize("method", METHODS[:3])
    def test_are_steps_on_all_rows(self, method):
        network, (x, y) = model(method, inner_lr=0.1), clients()
        found = network.personalise(x[0], y[0], 4)
        assert_close(flat(found.values()) - flat(network.parameters()), moved_by_hand(network, x[0], y[0], 4, 0.1))
        other = network.personalise(x[0], y[0], 4, inner_lr=0.01)
        assert_close(flat(other.values()) - flat(network.parameters()), moved_by_hand(network, x[0], y[0], 4, 0.01))

    @each_method
    def test_go_on_from_parameters_that_are_given(self, method):
        network, (x, y) = model(method), clients()
        once = network.personalise(x[0], y[0], 5)
        twice = network.personalise(x[0], y[0], 3, network.personalise(x[0], y[0], 2))
        assert_close(flat(twice.values()), flat(once.values()))
        assert not any(value.requires_grad for value in twice.values())

    @each_method
    def test_many_clients_of_many_models(self, method):
        network, (x, y) = model(method), clients()
        together = torch.vmap(lambda x, y: network.personalise(x, y, 2))(x, y)
        for c in range(len(x)):
            for name, value in network.personalise(x[c], y[c], 2).items():
                assert_close(together[name][c], value)


class TestAverage:
    def test_is_the_sum_by_hand(self):
        sent, weights = normal(3, 4, 5), torch.tensor([[1.0, 2, 0, 5], [1, 1, 1, 1], [0, 0, 7, 0]])
        found = federated_average(sent, weights)
        for k in range(3):
            total = sum(float(weights[k, c]) * sent[k, c] for c in range(4))
            assert_close(found[k], total / float(weights[k].sum()))
        assert_close(found[1], sent[1].mean(0))
        assert_close(found[2], sent[2, 2])

    def test_by_rows_is_the_mean_of_all_rows(self):
        rows, counts = normal(12, 5), [1, 4, 7]
        means = torch.stack([part.mean(0) for part in rows.split(counts)])
        assert_close(federated_average(means, torch.tensor(counts)), rows.mean(0))
        assert not torch.allclose(federated_average(means, torch.ones(3)), rows.mean(0), atol=1e-3)

    def test_leading_dimensions(self):
        sent, weights = normal(2, 3, 4, 5), torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1))
        found = federated_average(sent, weights)
        assert found.shape == (2, 3, 5)
        assert_close(found[1, 2], federated_average(sent[1, 2], weights[1, 2]))
        mapped = torch.vmap(federated_average)(sent, weights)
        assert_close(mapped, found)

    @pytest.mark.parametrize("weights", [torch.full((4,), 2e38), torch.full((4,), 2**62), torch.full((4,), 1e-45)])
    def test_weights_of_any_size_count_as_shares(self, weights):
        sent = normal(4, 5, dtype=torch.float32)
        torch.testing.assert_close(federated_average(sent, weights), sent.mean(0))

    @pytest.mark.parametrize(
        ("weights", "came"),
        [([1.0, -1.0, 3.0, 0.0], r"got -1, expected 0 or more"), ([0.0] * 4, r"got only 0, expected one above it")],
    )
    def test_weights_that_are_none_are_refused(self, weights, came):
        with pytest.raises(ValueError, match=rf"^weights: {came}"):
            federated_average(normal(4, 5), torch.tensor(weights))


class TestClipping:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_shortens_what_is_longer_and_keeps_the_way(self, dtype):
        ways = normal(2, 6, 5, dtype=dtype)
        ways = ways / ways.norm(dim=-1, keepdim=True)
        lengths = torch.tensor([0.0, 1e-12, 0.3, 0.99999, 1.5, 1e10], dtype=dtype)[:, None]
        found = clip_updates(ways * lengths, 1.0)
        torch.testing.assert_close(found, ways * lengths.clamp(max=1.0))
        short = lengths[:, 0] <= 1
        assert torch.equal(found[:, short], (ways * lengths)[:, short])  # not a bit of them changes
        assert not found[:, 0].any()

    def test_looks_at_the_whole_update_of_each_client(self):
        sent = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
        torch.testing.assert_close(clip_updates(sent, 0.5), torch.tensor([[0.3, 0.4], [0.3, 0.4]]))

    @pytest.mark.parametrize("size", [1e20, 3e38, 1e-25])
    def test_lengths_whose_square_is_not_a_number_of_this_kind(self, size):
        way = torch.tensor([[0.6, -0.8]])
        torch.testing.assert_close(clip_updates(size * way, 1.0), min(size, 1.0) * way, atol=0, rtol=1e-6)
        torch.testing.assert_close(clip_updates(size * way, 1e308), size * way)
        if size < 1:
            torch.testing.assert_close(clip_updates(size * way, size / 10), size / 10 * way, atol=0, rtol=1e-6)


numbers = st.floats(-(2.0**127), 2.0**127, width=32)


class TestPrivateAverage:
    @settings(max_examples=50, deadline=None, derandomize=True, database=None)
    @given(
        sent=st.lists(numbers, min_size=4, max_size=4),
        clip=st.floats(1e-3, 1e3),
        expected=st.floats(0.5, 100),
        others=st.floats(1e-6, 1e3),
    )
    def test_one_client_moves_it_by_no_more_than_the_clip(self, sent, clip, expected, others):
        """Whatever it sends, beside whatever others send; that it comes at all counts no more."""
        rest, noise = others * normal(3, 4, dtype=torch.float32), normal(4, seed=1, dtype=torch.float32)
        without = torch.cat([rest, torch.zeros(1, 4)])
        its = torch.cat([rest, torch.tensor([sent], dtype=torch.float32)])
        moved = [private_average(u, clip, 0.7, expected, noise).double() for u in (its, without)]
        assert torch.isfinite(moved[0]).all()
        rounding = 1e-6 * float(moved[0].norm() + moved[1].norm())
        assert float((moved[0] - moved[1]).norm()) <= clip / expected + rounding

    def test_a_long_update_moves_it_by_the_whole_clip(self):
        """So that the bound is no smaller than it is said to be."""
        sent, noise = normal(4, 5), normal(5, seed=1)
        way = normal(5, seed=2)
        its = torch.cat([sent[:3], 1e6 * way[None]])
        zero = torch.cat([sent[:3], torch.zeros(1, 5, dtype=torch.float64)])
        moved = [private_average(u, 0.5, 1.0, 8.0, noise) for u in (its, zero)]
        assert_close(moved[0] - moved[1], 0.5 / 8 * way / way.norm())

    def test_without_noise_is_a_mean_over_those_expected(self):
        sent = normal(2, 4, 5)
        assert_close(private_average(sent, 1e9, 0.0, 10.0, normal(2, 5)), sent.sum(1) / 10)

    def test_noise_is_the_multiplier_times_the_clip(self):
        """On the sum of updates, so divided by the clients who are expected; of three settings side by side."""
        sent, noise = normal(3, 4, 5), normal(3, 5, seed=1)
        quiet = private_average(sent, 0.3, 0.0, 8.0, noise)
        assert_close(private_average(sent, 0.3, 1.7, 8.0, noise) - quiet, 1.7 * 0.3 / 8 * noise)

    def test_is_clipped_client_by_client(self):
        sent, noise = 3 * normal(4, 5), torch.zeros(5, dtype=torch.float64)
        expected = sum(own * min(1.0, 0.5 / float(own.norm())) for own in sent) / 6
        assert_close(private_average(sent, 0.5, 1.0, 6.0, noise), expected)

    def test_zeros_to_fill_up_change_nothing(self):
        sent, noise = normal(3, 5), normal(5, seed=1)
        filled = torch.cat([sent, torch.zeros(4, 5, dtype=torch.float64)])
        assert_close(private_average(filled, 0.5, 1.0, 6.0, noise), private_average(sent, 0.5, 1.0, 6.0, noise))

    def test_many_at_once(self):
        sent, noise = normal(3, 4, 5), normal(3, 5, seed=1)
        found = private_average(sent, 0.5, 1.0, 6.0, noise)
        mapped = torch.vmap(lambda u, z: private_average(u, 0.5, 1.0, 6.0, z))(sent, noise)
        assert_close(mapped, found)
        assert_close(private_average(sent[1], 0.5, 1.0, 6.0, noise[1]), found[1])


@each_method
def test_clients_differ_in_what_they_send(method):
    sent = model(method).client_updates(*clients())
    assert float(torch.cdist(sent, sent).add(torch.eye(len(sent))).min()) > 1e-3
    assert math.isfinite(float(sent.norm()))
