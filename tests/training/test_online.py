"""Following users rating by rating: the steps are gradient descent, and nothing is known before it came."""

from dataclasses import replace

import pytest
import torch

from recmtl_lessons.datasets.streams import Streams
from recmtl_lessons.models import MAMLRecommender
from recmtl_lessons.training import ManyModels
from recmtl_lessons.training.online import STANDING, Followed, Plan, alarms_on, follow, followed
from recmtl_lessons.training.stacked import DivergenceError

SEEDS, USERS, LENGTH, WIDTH = (0, 1), 3, 14, 4


@pytest.fixture(scope="module")
def models():
    def objective(model, batch, setting, progress=0.0):
        return model(batch["rows"]["x"]).square().mean(), {}

    data = {"rows": {"x": torch.zeros(len(SEEDS), 2, WIDTH)}}
    return ManyModels(lambda: MAMLRecommender(WIDTH, (5,)), objective, data, {"lam": (0.0,)}, SEEDS, device="cpu")


@pytest.fixture(scope="module")
def streams():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(SEEDS), USERS, LENGTH, WIDTH, generator=generator)
    y = x.sum(3) + 0.5 * torch.randn(x.shape[:3], generator=generator)
    return Streams(torch.zeros(len(SEEDS), USERS), x, y, torch.ones_like(y, dtype=torch.bool))


def by_hand(model, x, y, how, alarms=(), peek=False):
    """One user by a plain loop with autograd, in double precision."""
    model, x, y = model.double(), x.double(), y.double()
    start = {name: value.detach() for name, value in model.named_weights().items()}
    w, errors, since = start, [], 0
    for n in range(len(y)):
        before = (model(x[n : n + 1], w)[0, 0] - y[n]).abs()
        first = max(since, 0 if how.window is None else n + 1 - how.window)
        if how.after is None or n + 1 in how.after:
            w = start if how.restart else w
            for _ in range(how.steps):
                w = {name: value.clone().requires_grad_() for name, value in w.items()}
                loss = (model(x[first : n + 1], w).squeeze(1) - y[first : n + 1]).square().mean()
                slopes = torch.autograd.grad(loss, list(w.values()))
                w = {k: (v - how.rate * g).detach() for (k, v), g in zip(w.items(), slopes, strict=True)}
        since = n + 1 if n + 1 in alarms else since
        errors.append(float((model(x[n : n + 1], w)[0, 0] - y[n]).abs() if peek else before))
    return torch.tensor(errors)


class OnCount:
    """A detector that gives an alarm after these numbers of ratings."""

    drift_detected = False

    def __init__(self, *counts):
        self.counts, self.seen = counts, []

    def update(self, x):
        self.seen.append(x)
        self.drift_detected = len(self.seen) in self.counts


PLANS = {
    "all": Plan(0.05),
    "window": Plan(0.05, window=4),
    "two steps": Plan(0.05, 2, window=6),
    "restart": Plan(0.1, 3, window=5, restart=True),
    "after": Plan(0.1, 4, after=(3, 9)),
    "standing": STANDING,
}


class TestFollowing:
    @pytest.mark.parametrize("peek", [False, True])
    @pytest.mark.parametrize("name", PLANS)
    def test_is_gradient_descent_on_the_latest_ratings(self, name, peek, models, streams):
        found = followed(models, streams, PLANS[name], peek=peek)
        assert found.errors.shape == (2, USERS, LENGTH)
        for s in range(2):
            for k in range(USERS):
                mine = by_hand(models.model(s), streams.x[s, k], streams.y[s, k], PLANS[name], peek=peek)
                torch.testing.assert_close(found.errors[s, k], mine, atol=2e-6, rtol=1e-5)

    @pytest.mark.parametrize("window", [None, 4])
    def test_an_alarm_empties_the_window(self, window, models, streams):
        how = Plan(0.05, window=window)
        found = followed(models, streams, how, detector=lambda: OnCount(5, 11))
        assert found.alarms.nonzero()[:, 2].unique().tolist() == [4, 10]
        mine = by_hand(models.model(1), streams.x[1, 2], streams.y[1, 2], how, alarms=(5, 11))
        torch.testing.assert_close(found.errors[1, 2], mine, atol=2e-6, rtol=1e-5)

    @pytest.mark.parametrize("name", PLANS)
    def test_no_error_depends_on_what_comes_later(self, name, models, streams):
        y = streams.y.clone()
        y[..., 9:] += 5
        one, other = (followed(models, s, PLANS[name]).errors for s in (streams, replace(streams, y=y)))
        assert torch.equal(one[..., :9], other[..., :9])
        assert not torch.equal(one[..., 9:], other[..., 9:])

    def test_to_look_first_flatters(self, models, streams):
        how = Plan(0.02, window=1)  # each step is on the rating that is scored
        honest, peeked = (followed(models, streams, how, peek=peek).errors for peek in (False, True))
        assert (peeked < honest).all()

    def test_says_where_it_stands(self, models, streams):
        steps = [(moment.step, moment.steps) for moment, _ in follow(models, streams, STANDING)]
        assert steps == [(n + 1, LENGTH) for n in range(LENGTH)]

    def test_what_diverges_is_said(self, models, streams):
        with pytest.raises(DivergenceError, match="at a rate of 50,"):
            followed(models, streams, Plan(50.0, 5))


class TestPlans:
    def test_count_their_gradients(self):
        assert Plan(0.1).gradients(10) == 55
        assert Plan(0.1, 2, window=3).gradients(5) == 2 * (1 + 2 + 3 + 3 + 3)
        assert Plan(0.1, 7, after=(3, 20)).gradients(10) == 21
        assert STANDING.gradients(10) == 0


class TestMeans:
    def test_leave_out_what_is_not_known(self):
        errors = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [5.0, 7.0, 99.0, 99.0]]])
        known = torch.tensor([[[True] * 4, [True, True, False, False]]])
        found = Followed(errors, torch.zeros_like(known), known)
        assert found.each_user(2).tolist() == [[3.0, 7.0]]
        assert found.each_user(1, 2).tolist() == [[1.5, 6.0]]
        assert found.mean(3).tolist() == [3.5]  # the second has none there
        assert found.mean(1).tolist() == [(2.5 + 6.0) / 2]


class TestDetectors:
    def test_look_at_known_errors_alone_and_each_at_its_own(self):
        made = []

        def detector():
            made.append(OnCount(2))
            return made[-1]

        errors = torch.tensor([[0.1, 9.0, 0.3], [0.4, 0.5, 0.6]])
        known = torch.tensor([[True, False, True], [True, True, True]])
        found = alarms_on(errors, known, detector)
        assert found.tolist() == [[False, False, True], [False, True, False]]
        assert [len(one.seen) for one in made] == [2, 3]
        assert made[0].seen == pytest.approx([0.1, 0.3])

    def test_to_look_on_is_what_they_do_while_following(self, models, streams):
        found = followed(models, streams, STANDING, detector=lambda: OnCount(6))
        assert torch.equal(found.alarms, alarms_on(found.errors, found.known, lambda: OnCount(6)))
