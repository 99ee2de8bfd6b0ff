"""Networks that weigh their tasks, many at once: each is what a plain loop of one network comes to."""

import math

import pytest
import torch
from torch.nn import functional as F

from recmtl_lessons.datasets.two_tasks import Tasks
from recmtl_lessons.models import TaskSchedule, pcgrad, scale_free
from recmtl_lessons.training import balancing as room
from recmtl_lessons.training import draw_batches
from recmtl_lessons.training.balancing import Arm, Now, Recipe, balance, balanced, fixed, scheduled

SEEDS = (3, 5)
TYPES = {"click": "classification", "rating": "regression", "price": "regression"}
KINDS = tuple(TYPES.values())
ROWS = {"train": 60, "valid": 30, "test": 50}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tasks_of(shared):
    """Three tasks that pull in different ways, in one stream or one stream each."""
    parts, pulls = [], normal(3, 4, seed=1)
    for number, rows in enumerate(ROWS.values()):
        streams = {}
        for place, task in enumerate(TYPES):
            x = normal(2, rows, 4, seed=10 * number + (0 if shared else place))
            y = x @ pulls[place] * (3.0 if task == "price" else 1.0) + 0.3 * normal(2, rows, seed=100 + place)
            label = (y > 0).double() if task == "click" else y
            streams.setdefault("rows" if shared else task, {"x": x})[task] = label
        parts.append(streams)
    return Tasks(*parts, TYPES)


class InDouble(Recipe):
    def build(self, tasks):
        return super().build(tasks).double()


RECIPE = InDouble(0.003, hidden_dims=(5,), steps=12, batch_size=16)


@pytest.fixture(scope="module", params=["one stream", "a stream each"])
def tasks(request):
    return tasks_of(request.param == "one stream")


@pytest.fixture(scope="module")
def shop():
    return tasks_of(shared=True)


# One network of one seed, in a loop of its own. A rule hands back weights, or what moves the shared layers, (P,).


def plain_loss(task, logits, labels):
    return F.binary_cross_entropy_with_logits(logits, labels) if task == "click" else F.mse_loss(logits, labels)


def plain_losses(model, batch):
    found = []
    for task in TYPES:
        fields = next(fields for fields in batch.values() if task in fields)
        found.append(plain_loss(task, model(fields["x"])[task], fields[task]))
    return torch.stack(found)


def plainly(tasks, number, rule, heads_too=False, recipe=RECIPE):
    own, seed = tasks.one(number), SEEDS[number]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = recipe.build(tasks)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    shared, heads, first = list(model.shared.parameters()), list(model.heads.parameters()), None
    for step, batch in enumerate(draw_batches(own.train, seed, recipe.steps, recipe.batch_size)):
        losses = plain_losses(model, batch)
        first = losses.detach() if first is None else first
        gradients = torch.stack(
            [torch.cat([g.flatten() for g in torch.autograd.grad(loss, shared, retain_graph=True)]) for loss in losses]
        )
        found = rule(step, losses.detach(), first, gradients)
        way = found if found.shape == gradients[0].shape else found.double() @ gradients
        optimizer.zero_grad()
        ((found.double() * losses).sum() if heads_too else losses.sum()).backward(inputs=heads)
        for weight, part in zip(shared, way.split([weight.numel() for weight in shared]), strict=True):
            weight.grad = part.view_as(weight)
        optimizer.step()
    return model


class Variances:
    """Log-variances with an Adam of their own, in float32 as the package's; ``penalty`` is their share of the total."""

    def __init__(self, penalty=0.5):
        self.s, self.penalty = torch.zeros(3, requires_grad=True), penalty
        self.optimizer = torch.optim.Adam([self.s], lr=0.1)

    def __call__(self, step, losses, first, gradients):
        weights = torch.tensor([1.0, 0.5, 0.5]) * (-self.s).exp()
        self.optimizer.zero_grad()
        ((weights * losses).sum() + self.penalty * self.s.sum()).backward()
        self.optimizer.step()
        return weights.detach()


class Norms:
    """GradNorm from whole vectors."""

    def __init__(self):
        self.scores = torch.zeros(3, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.scores], lr=0.05)

    def __call__(self, step, losses, first, gradients):
        weights = 3 * self.scores.softmax(0)
        norms = (weights.unsqueeze(1) * gradients).norm(dim=1)
        ratios = losses / first
        wanted = norms.detach().mean() * (ratios / ratios.mean()) ** 1.5
        self.optimizer.zero_grad()
        (norms - wanted).abs().sum().backward()
        self.optimizer.step()
        return weights.detach()


def one_hot(choose):
    return lambda step, losses, first, gradients: F.one_hot(torch.as_tensor(choose(step, losses, first)), 3)


def parts_that_do_not_conflict(step, losses, first, gradients):
    """PCGrad, which meets the tasks in their order."""
    left = gradients.clone()
    for i in range(3):
        for j in range(3):
            if i != j and left[i] @ gradients[j] < 0:
                left[i] -= left[i] @ gradients[j] / gradients[j].square().sum() * gradients[j]
    return left.sum(0)


def in_order(gram):
    return pcgrad(gram, torch.arange(3).expand_as(gram.long()))


BARE = torch.tensor([math.log(2), 1.0, 1.0])


def without_penalty(weigh, losses):
    return weigh(losses) - weigh.log_variances.sum(-1) / 2


def turn(kind, lag=None):
    return scheduled(TaskSchedule(kind, 3), lag)


#: {name: (the package's arm, a rule for `plainly`, made anew for each network)}
ARMS = {
    "static": (fixed(0.25, 3.0, 1.0), lambda: lambda *_: torch.tensor([0.25, 3.0, 1.0])),
    "static, heads too": (
        Arm(fixed(0.25, 3.0, 0.0).start, heads_too=True),
        lambda: lambda *_: torch.tensor([0.25, 3.0, 0.0]),
    ),
    "logarithms": (
        room.by_losses(scale_free),
        lambda: lambda step, losses, first, gradients: 1 / losses,
    ),
    "uncertainty": (room.by_uncertainty(0.1), Variances),
    "uncertainty, another objective": (room.by_uncertainty(0.1, without_penalty), lambda: Variances(penalty=0.0)),
    "norms": (room.by_norms(0.05, 1.5), Norms),
    "projected": (room.by_gradients(in_order), lambda: parts_that_do_not_conflict),
    "in turn": (turn("in turn"), lambda: one_hot(lambda step, losses, first: step % 3)),
    "one after another": (turn("one after another"), lambda: one_hot(lambda step, losses, first: step // 4)),
    "the largest share left": (
        turn("lagging", room.unlearned(KINDS)),
        lambda: one_hot(lambda step, losses, first: (losses / BARE).argmax()),
    ),
    "the largest share of the first": (
        turn("lagging", lambda now: now.losses / now.first),
        lambda: one_hot(lambda step, losses, first: (losses / first).argmax()),
    ),
}


def weights_of(model):
    return dict(model.named_parameters())


def last(tasks, arms, recipe=RECIPE, **options):
    *_, (_, found) = balance(tasks, arms, SEEDS, recipe, **options)
    return found


@pytest.fixture(scope="module")
def trained(tasks):
    """All ways side by side."""
    return last(tasks, {name: arm for name, (arm, _) in ARMS.items()})


class TestIsAPlainLoopOfOneNetwork:
    @pytest.mark.parametrize("name", ARMS)
    def test_weight_by_weight(self, tasks, trained, name):
        arm, rule = ARMS[name]
        for number in range(2):
            mine = weights_of(plainly(tasks, number, rule(), arm.heads_too))
            theirs = weights_of(trained.models.model(2 * trained.arms.index(name) + number))
            for key, value in mine.items():
                torch.testing.assert_close(theirs[key], value, atol=1e-9, rtol=0, msg=f"{number} {key}")

    def test_the_loop_tells_the_ways_apart(self, trained):
        """Were two alike, a wrong one could pass for another."""
        ends = trained.models.by_setting(trained.models.each(lambda model: model.shared[0].weight).flatten(1))[:, 0]
        apart = torch.cdist(ends, ends) + torch.eye(len(ends))
        assert apart.min() > 1e-4

    def test_linear_layers_too(self, shop):
        recipe = InDouble(**{**vars(RECIPE), "linear": True, "hidden_dims": (2,), "steps": 5})
        arm, rule = ARMS["static"]
        theirs = last(shop, {"static": arm}, recipe).models.model(1)
        for key, value in weights_of(plainly(shop, 1, rule(), recipe=recipe)).items():
            torch.testing.assert_close(weights_of(theirs)[key], value, atol=1e-9, rtol=0)


def test_luck_is_an_arms_own(shop):
    """Whatever stands beside it; from its seed."""

    def arms(seed):
        return {"projected": room.projected(seed), "random": scheduled(TaskSchedule("random", 3), seed=seed)}

    def chosen(arms):
        return dict(zip(arms, last(shop, arms).models.each(lambda m: m.shared[0].weight).split(2), strict=True))

    together, other = chosen(arms(0)), chosen(arms(1))
    for name, arm in arms(0).items():
        torch.testing.assert_close(chosen({name: arm})[name], together[name], atol=1e-9, rtol=0)
        assert not torch.allclose(other[name], together[name], atol=1e-6)
    assert not torch.equal(*together["random"])


def test_a_head_that_has_not_been_chosen_stays_bit_for_bit(shop):
    """But where a weight of 0 is that of the shared layers alone, its head learns."""
    arms, heads = {"the first": turn("one after another"), "weights": fixed(1.0, 0.0, 0.0)}, []
    for _, found in balance(shop, arms, SEEDS, RECIPE, every=1):
        heads.append(found.models.each(lambda model: torch.stack([head.weight for head in model.heads])))
    moved = (heads[3] != heads[0]).flatten(2).any(2)  # in four steps, (models, tasks)
    assert moved.tolist() == [[True, False, False]] * 2 + [[True] * 3] * 2


class TestWhatAWayIsTold:
    def test_losses_of_the_step_and_of_the_first(self, tasks):
        seen = []
        told = Arm(lambda n, types: lambda now: (seen.append(now), torch.ones(n, len(types)))[1])
        last(tasks, {"other": fixed(0.0, 1.0, 2.0), "told": told})
        assert [(now.step, now.steps) for now in seen] == [(step, 12) for step in range(12)]
        for now in seen:
            assert torch.equal(now.first, seen[0].losses)
            assert now.losses.shape == (2, 3)
            assert now.gram.shape == (2, 3, 3)
        assert not torch.equal(seen[-1].losses, seen[0].losses)
        batch = next(draw_batches(tasks.one(1).train, SEEDS[1], 1, 16))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEEDS[1])
            model = RECIPE.build(tasks)
        torch.testing.assert_close(seen[0].first[1], plain_losses(model, batch).detach())


def now(step=0, steps=1, losses=None):
    losses = torch.ones(1, 2) if losses is None else losses
    return Now(step, steps, losses, losses, torch.eye(2).expand(1, 2, 2))


def test_progress_is_seen_period_by_period():
    """Weights of two periods hold from the last step of the second on."""
    weigh, losses = room.by_progress(0.5, period=2).start(1, KINDS[:2]), torch.rand(6, 1, 2) + 0.5
    found = [weigh(now(losses=own)) for own in losses]
    means = losses.view(3, 2, 1, 2).mean(1)
    expected = [2 * (means[k] / means[k - 1] / 0.5).softmax(-1) for k in (1, 2)]
    for weights, wanted in zip(found, [torch.ones(1, 2)] * 3 + [expected[0]] * 2 + [expected[1]], strict=True):
        torch.testing.assert_close(weights, wanted)


def test_annealed_weights_go_straight_from_end_to_end():
    weigh = room.annealed((0.2, 0.8), (1.0, 0.0)).start(1, KINDS[:2])
    for step, expected in ((0, (0.2, 0.8)), (5, (0.6, 0.4)), (10, (1.0, 0.0))):
        assert weigh(now(step, 11)).tolist() == pytest.approx(expected)
    assert weigh(now()).tolist() == pytest.approx((0.2, 0.8))


def test_variances_without_an_optimizer_stay(shop):
    found = last(shop, {"never": room.by_uncertainty(0.0)})
    assert found.weights[-1].tolist() == [[[1.0, 0.5, 0.5]] * 2]


class TestMoments:
    def test_come_as_often_as_asked_and_hold_what_was_used(self, shop):
        arms = {"annealed": room.annealed((1.0, 0.0, 0.0), (0.0, 1.0, 0.5)), "equal": fixed(1.0, 1.0, 1.0)}
        moments = [
            (moment.step, moment.steps, len(found.losses)) for moment, found in balance(shop, arms, SEEDS, RECIPE, 5)
        ]
        assert moments == [(5, 12, 1), (10, 12, 2), (12, 12, 3)]
        found = last(shop, arms, every=5)
        assert (found.arms, found.steps) == (("annealed", "equal"), [5, 10, 12])
        for step, weights in zip(found.steps, found.weights, strict=True):
            share = (step - 1) / 11
            assert weights[0, 1].tolist() == pytest.approx([1 - share, share, share / 2])
            assert weights[1].tolist() == [[1.0] * 3] * 2
        assert len(last(shop, arms).losses) == 1

    def test_with_a_bar_or_without(self, shop, capfd):
        arms = {"equal": fixed(1.0, 1.0, 1.0)}
        shown = balanced(shop, arms, SEEDS, RECIPE, "equal", every=4)
        assert "equal, 2 models" in "".join(capfd.readouterr())
        quiet = balanced(shop, arms, SEEDS, RECIPE, "", every=4)
        assert capfd.readouterr() == ("", "")
        assert torch.equal(torch.stack(shown.losses), torch.stack(quiet.losses))
        assert len(shown.losses) == 3


@pytest.mark.parametrize("by", ["valid", "test"])
def test_what_is_held_out_is_asked_model_by_model(tasks, by):
    arms = {"equal": fixed(1.0, 1.0, 1.0), "click": fixed(1.0, 0.0, 0.0)}
    found = last(tasks, arms, by=by)
    losses = found.losses[-1]
    assert losses.shape == (2, 2, 3)
    assert torch.equal(room.held_out_losses(found.models, tasks, by), losses)
    for index in range(4):
        model, own = found.models.model(index), getattr(tasks.one(index % 2), by)
        with torch.no_grad():
            torch.testing.assert_close(losses.flatten(0, 1)[index], plain_losses(model, own))
