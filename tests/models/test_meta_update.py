"""What MAML, Reptile and prototypes have in common: an outer optimizer that keeps to the model's own parameters."""

import copy
import math

import pytest
import torch
from torch import nn

from recmtl_lessons.models import MAMLRecommender, PrototypicalNetworkRecommender, ReptileRecommender

KINDS = {
    "MAML": (MAMLRecommender, {"meta_lr": 0.01}),
    "MAML, learned rates": (MAMLRecommender, {"meta_lr": 0.01, "learn_inner_lr": True}),
    "Reptile": (ReptileRecommender, {"meta_lr": 0.3}),
    "Reptile, Adam": (ReptileRecommender, {"meta_lr": 0.01, "meta_optimizer": "adam"}),
    "prototypes": (PrototypicalNetworkRecommender, {"meta_lr": 0.01, "embedding_dim": 4}),
}
each_kind = pytest.mark.parametrize("kind", KINDS)
with_adam = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "Reptile"])
with_inner_steps = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "prototypes"])


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(kind, seed=0, hidden_dims=(5,), **changed):
    build, options = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(3, hidden_dims=hidden_dims, **{**options, **changed}).double()


def some_tasks(kind, seed=0, dtype=torch.float64):
    """Four tasks side by side, as the kind takes them."""
    x, y, query_x, query_y = (normal(4, *size, seed=10 * seed + k).to(dtype) for k, size in enumerate(SIZES))
    if kind.startswith("Reptile"):
        return x, y
    return (x, LABELS, query_x, QUERY_LABELS) if kind == "prototypes" else (x, y, query_x, query_y)


SIZES = ((7, 3), (7,), (5, 3), (5,))
LABELS, QUERY_LABELS = torch.tensor([2, 0, 2, 1, 1, 2, 0]).expand(4, 7), torch.tensor([1, 2, 0, 0, 2]).expand(4, 5)


def direction(model, tasks):
    """What the outer optimizer takes for the gradient, by name."""
    if isinstance(model, ReptileRecommender):
        return model.pseudo_gradient(tasks)
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(model.query_losses(tasks).mean(), list(parameters.values()))
    return dict(zip(parameters, gradients, strict=True))


def step(model, optimizer, found, names):
    for name in names:
        model.get_parameter(name).grad = found[name]
    optimizer.step()


def kept(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def moved(model, before):
    return {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}


def assert_alike(one, other, atol=1e-12):
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=atol)


class TestTheOptimizerKeepsToTheParameters:
    @each_kind
    def test_that_a_state_was_put_in_place_of(self, kind):
        trained, fresh = network(kind), network(kind)
        trained.meta_update(some_tasks(kind))
        state = network(kind, seed=1).state_dict()
        trained.load_state_dict(copy.deepcopy(state), assign=True)
        fresh.load_state_dict(state)
        for model in (trained, fresh):
            model.meta_update(some_tasks(kind, seed=1))
        assert moved(trained, state) == set(state)
        assert_alike(trained, fresh)

    @each_kind
    def test_of_a_new_head_and_of_a_body_that_goes_on(self, kind):
        model = network(kind)
        reference = copy.deepcopy(model)
        adam = kind != "Reptile"
        make = torch.optim.Adam if adam else torch.optim.SGD
        old = [name for name in kept(model) if not name.startswith("head.")]
        goes_on = make([reference.get_parameter(name) for name in old], lr=model.meta_lr)
        step(reference, goes_on, direction(reference, some_tasks(kind)), old)
        model.meta_update(some_tasks(kind))
        head = nn.Linear(5, model.head.out_features).double()
        model.head, reference.head = copy.deepcopy(head), head
        begins = make(head.parameters(), lr=model.meta_lr)
        for round_ in (1, 2):
            found = direction(reference, some_tasks(kind, seed=round_))
            step(reference, goes_on, found, old)
            step(reference, begins, found, ["head.weight", "head.bias"])
            model.meta_update(some_tasks(kind, seed=round_))
        assert_alike(model, reference)

    @with_adam
    def test_in_another_dtype(self, kind):
        model = network(kind).float()
        model.meta_update(some_tasks(kind, dtype=torch.float32))
        twin, forgetful = copy.deepcopy(model), copy.deepcopy(model).double()
        forgetful._optimizer = None
        for one in (model.double(), forgetful):
            one.meta_update(some_tasks(kind))
        twin.meta_update(some_tasks(kind, dtype=torch.float32))
        assert all(value.dtype == torch.float64 for value in model.parameters())
        torch.testing.assert_close(model.head.weight, twin.double().head.weight, rtol=0, atol=1e-5)
        assert float((model.head.weight - forgetful.head.weight).detach().abs().max()) > 1e-4

    @each_kind
    def test_in_a_copy(self, kind):
        model = network(kind)
        model.meta_update(some_tasks(kind))
        twin = copy.deepcopy(model)
        for one in (model, twin):
            one.meta_update(some_tasks(kind, seed=1))
        assert_alike(model, twin, 0.0)

    @each_kind
    def test_which_are_all_that_a_state_holds(self, kind):
        model = network(kind)
        model.meta_update(some_tasks(kind))
        assert model.state_dict().keys() == kept(model).keys()


class TestFrozen:
    @each_kind
    def test_stay_while_the_others_move_until_they_are_free_again(self, kind):
        model = network(kind)
        model.meta_update(some_tasks(kind))  # Adam's moments of all exist
        frozen = {"body.0.weight", "head.bias"}
        for name in frozen:
            model.get_parameter(name).requires_grad_(False)
            model.get_parameter(name).grad = torch.ones_like(model.get_parameter(name))
        before = kept(model)
        model.meta_update(some_tasks(kind))
        free = {name for name in before if name not in frozen}
        if "rates" in kind:
            free -= {"inner_rates.0", "inner_rates.3"}  # of the frozen ones, which no inner step moves
        assert moved(model, before) == free
        model.requires_grad_(True)
        before = kept(model)
        model.meta_update(some_tasks(kind))
        assert moved(model, before) == set(before)

    @with_inner_steps
    def test_stay_in_inner_steps(self, kind):
        model, (x, y) = network(kind, inner_lr=0.0625), (normal(7, 3), normal(7))
        model.body.requires_grad_(False)
        reference = copy.deepcopy(model)
        optimizer = torch.optim.SGD(reference.head.parameters(), lr=model.inner_lr)
        for _ in range(3):
            optimizer.zero_grad()
            (reference(x).squeeze(1) - y).square().mean().backward()
            optimizer.step()
        expected = dict(reference.named_parameters())
        found = [model.adapt_to_new_task(x, y, 3)]
        found += [model.inner_update(x, y, 3)] if "MAML" in kind else [model.inner_loop((x, y), 3)]
        for params in found:
            for name, value in params.items():
                torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-12)

    @each_kind
    def test_all_of_them_are_refused(self, kind):
        model = network(kind)
        model.meta_update(some_tasks(kind))
        model.requires_grad_(False)
        before, state = kept(model), copy.deepcopy(model._optimizer.state_dict())
        with pytest.raises(ValueError, match=r"^parameters: got .*all frozen, expected "):
            model.meta_update(some_tasks(kind))
        if kind != "prototypes":
            with pytest.raises(ValueError, match=r"^parameters: got .*all frozen, expected "):
                model.adapt_to_new_task(normal(7, 3), normal(7))
        assert not moved(model, before)
        assert str(model._optimizer.state_dict()) == str(state)

    @pytest.mark.parametrize("kind", ["MAML", "prototypes"])
    def test_gradients_that_are_switched_off(self, kind):
        with torch.no_grad(), pytest.raises(ValueError, match=r"^parameters: got gradients switched off, expected "):
            network(kind).meta_update(some_tasks(kind))


@each_kind
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named(kind, value):
    model, x, y = network(kind), normal(7, 3), normal(7)
    with torch.no_grad():
        model.head.weight[0, 0] = value
    tasks, episode = some_tasks(kind), (x, LABELS[0], normal(5, 3))
    asked = [lambda: model(x), lambda: model.meta_update(tasks)]
    if kind == "prototypes":
        asked += [lambda: model.predict(*episode), lambda: model.episode_forward(*episode)]
    else:
        asked += [lambda: model.predict(x), lambda: model.adapt_to_new_task(x, y)]
    if "MAML" in kind:
        asked += [lambda: model.inner_update(x, y), lambda: model.inner_update(x, y, 0)]
    if "Reptile" in kind:
        asked += [lambda: model.inner_loop((x, y)), lambda: model.pseudo_gradient(tasks)]
    else:
        asked += [lambda: model.query_losses(tasks)]
    for ask in asked:
        with pytest.raises(ValueError, match=r"^weights: got NaN or infinite values, expected .* in head\.weight"):
            ask()
    assert model._optimizer is None


class TestTheLecturesCalls:
    @with_inner_steps
    def test_tasks_data_by_name_as_a_list(self, kind):
        one, other, tasks = network(kind), network(kind), some_tasks(kind)
        assert one.meta_update(tasks_data=list(zip(*tasks, strict=True))) == pytest.approx(other.meta_update(tasks))
        assert_alike(one, other)

    @each_kind
    def test_lists_of_widths(self, kind):
        listed, plain = (network(kind, hidden_dims=widths) for widths in ([5, 4], (5, 4)))
        assert_alike(listed, plain, 0.0)

    def test_scalar_tensors_are_numbers(self):
        rates = {"meta_lr": torch.tensor(0.25), "dropout_rate": torch.tensor(0.5)}
        for kind in KINDS:
            model = network(kind, **rates)
            assert (model.meta_lr, model.dropout_rate) == (0.25, 0.5)
        assert network("MAML", inner_lr=torch.tensor(0.125, dtype=torch.float64)).inner_lr == 0.125
        assert network("prototypes", temperature=torch.tensor(2)).temperature == 2.0


class TestANewHead:
    @with_inner_steps
    def test_of_another_width_answers_as_wide(self, kind):
        model = network(kind, learn_inner_lr=False) if "MAML" in kind else network(kind)
        model.head = nn.Linear(5, 2).double()
        x, y = some_tasks(kind)[:2]
        assert model.output_dim == 2
        assert model.predict(x[0]).shape == (7, 2)
        with pytest.raises(ValueError, match=r"^support_y: got shape \(7,\), expected \(7, 2\)"):
            model.adapt_to_new_task(x[0], y[0])
        assert model.adapt_to_new_task(x[0], y[0][:, None].expand(7, 2))["head.bias"].shape == (2,)

    def test_with_learned_rates_of_the_old_one(self):
        model = network("MAML, learned rates")
        model.head = nn.Linear(5, 2).double()
        with pytest.raises(ValueError, match=r"^inner_rates: got shape \(1, 5\) for head.weight, expected \(2, 5\)"):
            model.inner_update(normal(7, 3), normal(7, 2))


@each_kind
def test_a_rate_set_wrong_is_refused_and_nothing_changes(kind):
    model = network(kind)
    model.meta_update(some_tasks(kind))
    before, model.meta_lr = kept(model), math.nan
    with pytest.raises(ValueError, match=r"^meta_lr: got nan, expected a positive number"):
        model.meta_update(some_tasks(kind))
    assert not moved(model, before)


@pytest.mark.parametrize(
    ("build", "options"),
    [
        (MAMLRecommender, {}),
        (MAMLRecommender, {"first_order": True}),
        (MAMLRecommender, {"learn_inner_lr": True}),
        (MAMLRecommender, {"adapt": "head"}),
        (ReptileRecommender, {}),
        (ReptileRecommender, {"inner_optimizer": "adam", "inner_lr": 0.003}),
        (ReptileRecommender, {"meta_optimizer": "adam", "meta_lr": 0.003}),
    ],
)
def test_the_defaults_converge(build, options):
    """Users like one quality of items, or dislike it: adapting to new ones must come to leave much less error."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(8, **options)
    mixing = torch.randn(1, 8, generator=generator)

    def users(count):
        taste, quality = (torch.randn(count, n, 1, generator=generator) for n in (1, 20))
        x, y = torch.tanh(quality @ mixing), (taste * quality).squeeze(2)
        return x[:, :10], y[:, :10], x[:, 10:], y[:, 10:]

    def error(x, y, new_x, new_y):
        params = model.adapt_to_new_task(x, y)
        return (model.predict(new_x, params) - new_y).square().mean()

    new = users(64)
    before = torch.vmap(error)(*new).mean()
    losses = []
    for _ in range(20):
        x, y, new_x, new_y = users(8)
        whole = torch.cat([x, new_x], dim=1), torch.cat([y, new_y], dim=1)
        losses.append(model.meta_update((x, y, new_x, new_y) if build is MAMLRecommender else whole))
    assert all(math.isfinite(loss) for loss in losses)
    assert torch.vmap(error)(*new).mean() < 0.75 * before
