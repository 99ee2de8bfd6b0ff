"""Replay against lists in Python, and the shares of what is drawn against the priorities."""

import math
import re
from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from recmtl_lessons.training.replay import PrioritisedReplayBuffer, ReplayBuffer

KINDS = [ReplayBuffer, PrioritisedReplayBuffer]
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))


@pytest.fixture(params=["cpu", CUDA])
def device(request):
    return torch.device(request.param)


def draws(seed):
    return torch.Generator().manual_seed(seed)


def numbered(stacks, first, steps, device=None):
    """Steps with a number each: the model's thousand and the step; in several shapes and dtypes."""
    number = 1000 * torch.arange(stacks)[:, None] + torch.arange(first, first + steps)  # (stacks, steps)
    fields = {
        "number": number,
        "state": number[..., None] + torch.tensor([0.0, 0.25, 0.5]),
        "terminated": number % 2 == 0,
        "grid": number[..., None, None].expand(-1, -1, 2, 2).double(),
    }
    return {name: value.to(device) for name, value in fields.items()}


def filled(kind, capacity=8, stacks=3, steps=8, device=None, **options):
    buffer = kind(capacity, stacks, **options)
    buffer.add(**numbered(stacks, 0, steps, device))
    return buffer


def numbers_in(buffer, model):
    """The numbers of all steps that a model's memory holds, found by drawing many."""
    return set(buffer.sample(3000, draws(0))["number"][model].tolist())


def refusal(name, came=""):
    return rf"^{re.escape(name)}: got .*{came}.*expected "


@pytest.mark.parametrize("kind", KINDS)
class TestKeeping:
    @given(st.integers(1, 9), st.integers(1, 3), st.lists(st.integers(1, 12), min_size=1, max_size=6))
    @settings(max_examples=40)
    def test_the_oldest_go_first(self, kind, capacity, stacks, sizes):
        buffer, expected, first = kind(capacity, stacks), deque(maxlen=capacity), 0
        for size in sizes:
            buffer.add(**numbered(stacks, first, size))
            expected.extend(range(first, first + size))
            first += size
            assert len(buffer) == len(expected)
        for model in range(stacks):
            assert numbers_in(buffer, model) == {1000 * model + k for k in expected}

    def test_fields_of_a_step_stay_together(self, kind, device):
        buffer = filled(kind, capacity=5, steps=13, device=device)
        batch = buffer.sample(64, draws(1))
        number = batch["number"]
        assert number.shape == (3, 64)
        assert number.device.type == device.type
        assert torch.equal(batch["state"], number[..., None] + torch.tensor([0.0, 0.25, 0.5], device=device))
        assert torch.equal(batch["terminated"], number % 2 == 0)
        assert torch.equal(batch["grid"], number[..., None, None].expand(-1, -1, 2, 2).double())
        assert [batch[name].dtype for name in ("number", "state", "terminated", "grid")] == [
            torch.int64,
            torch.float32,
            torch.bool,
            torch.float64,
        ]

    def test_it_keeps_copies_without_gradients(self, kind):
        state = torch.ones(1, 4, 2, requires_grad=True)
        buffer = kind(4)
        buffer.add(state=state)
        with torch.no_grad():
            state.fill_(7.0)
        found = buffer.sample(20, draws(0))["state"]
        assert not found.requires_grad
        assert set(found.flatten().tolist()) == {1.0}
        found.fill_(5.0)
        assert set(buffer.sample(20, draws(0))["state"].flatten().tolist()) == {1.0}

    def test_one_step_for_one_model(self, kind):
        buffer = kind(1)
        for value in (1.0, 2.0):
            buffer.add(reward=torch.tensor([[value]]))
            assert len(buffer) == 1
            assert buffer.sample(2)["reward"].tolist() == [[value, value]]


@pytest.mark.parametrize("kind", KINDS)
class TestDrawing:
    def test_the_generator_decides(self, kind, device):
        buffer = filled(kind, device=device)
        one, same, other = (buffer.sample(50, draws(seed))["number"] for seed in (3, 3, 4))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        assert torch.equal(one.cpu(), filled(kind).sample(50, draws(3))["number"])

    def test_without_a_generator_it_is_torchs_own(self, kind):
        buffer = filled(kind)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            one = buffer.sample(50)["number"]
            torch.manual_seed(5)
            assert torch.equal(buffer.sample(50)["number"], one)
            assert not torch.equal(buffer.sample(50)["number"], one)

    def test_each_model_draws_its_own(self, kind):
        rows = filled(kind).sample(50, draws(0))["number"] % 1000
        assert not torch.equal(rows[0], rows[1])
        assert not torch.equal(rows[1], rows[2])

    def test_a_new_buffer_draws_uniformly(self, kind):
        buffer = filled(kind, capacity=20, steps=12)
        for model, drawn in enumerate(buffer.sample(12_000, draws(0))["number"]):
            counts = torch.bincount(drawn - 1000 * model, minlength=12)
            assert len(counts) == 12  # not what has not been filled
            assert chisquare(counts.numpy()).pvalue > 1e-3


class TestPriorities:
    @staticmethod
    def ranked(alpha=0.7, stacks=2, size=6, **options):
        """A buffer with errors of its own for each model, and the probabilities they should give."""
        buffer = filled(PrioritisedReplayBuffer, 10, stacks, size, alpha=alpha, epsilon=0.01, **options)
        errors = torch.linspace(-2.0, 3.0, stacks * size).view(stacks, size).flip(0)
        buffer.update_priorities(torch.arange(size).expand(stacks, size), errors)
        expected = []
        for row in errors.tolist():
            powers = [(abs(error) + 0.01) ** alpha for error in row]
            expected.append([power / sum(powers) for power in powers])
        return buffer, torch.tensor(expected)

    @pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
    def test_probabilities_follow_the_errors(self, alpha):
        buffer, expected = self.ranked(alpha)
        torch.testing.assert_close(buffer.probabilities(), expected, rtol=1e-5, atol=0)
        assert (float(expected.std()) > 0.02) == (alpha > 0)

    @pytest.mark.parametrize("alpha", [0.4, 1.0])
    def test_so_do_the_draws(self, alpha):
        buffer, expected = self.ranked(alpha)
        drawn = buffer.sample(20_000, draws(0))
        for model in range(2):
            assert torch.equal(drawn["number"][model], 1000 * model + drawn["rows"][model])
            counts = torch.bincount(drawn["rows"][model], minlength=6).double()
            shares = expected[model].double()
            assert chisquare(counts.numpy(), (20_000 * shares / shares.sum()).numpy()).pvalue > 1e-3
            assert chisquare(counts.numpy()).pvalue < 1e-9  # and not uniformly

    @pytest.mark.parametrize("beta", [None, 0.0, 0.5, 1.0])
    def test_weights_by_the_formula(self, beta):
        buffer, shares = self.ranked(beta=0.3)
        drawn = buffer.sample(200, draws(0), beta=beta)
        used = 0.3 if beta is None else beta
        for model in range(2):
            raw = [(6 * p) ** -used for p in shares[model].tolist()]
            expected = [raw[row] / max(raw) for row in drawn["rows"][model].tolist()]
            torch.testing.assert_close(drawn["weights"][model], torch.tensor(expected), rtol=1e-5, atol=0)
        assert float(drawn["weights"].min()) > 0
        assert float(drawn["weights"].max()) <= 1

    def test_at_beta_1_they_correct_the_drawing_entirely(self):
        """The weighted mean over draws, with the weights' own mean taken out, is the mean over all steps."""
        buffer, _ = self.ranked()
        drawn = buffer.sample(200_000, draws(0), beta=1.0)
        value = (drawn["number"] % 1000).float()
        corrected = (drawn["weights"] * value).sum(1) / drawn["weights"].sum(1)
        torch.testing.assert_close(corrected, torch.full((2,), 2.5), rtol=0, atol=0.05)
        assert float((value.mean(1) - 2.5).abs().min()) > 0.2

    def test_new_steps_get_the_highest_priority(self):
        buffer = filled(PrioritisedReplayBuffer, 4, 2, 3, alpha=1.0)
        buffer.update_priorities(torch.tensor([[0, 1, 2]] * 2), torch.tensor([[1.0, 5.0, 2.0], [0.5, 0.1, 0.2]]))
        buffer.add(**numbered(2, 3, 1))
        expected = torch.tensor([[1.0, 5.0, 2.0, 5.0], [0.5, 0.1, 0.2, 0.5]])
        torch.testing.assert_close(buffer.probabilities(), expected / expected.sum(1, keepdim=True), rtol=1e-4, atol=0)
        buffer.add(**numbered(2, 4, 2))  # over the two oldest
        expected = torch.tensor([[5.0, 5.0, 2.0, 5.0], [0.5, 0.5, 0.2, 0.5]])
        torch.testing.assert_close(buffer.probabilities(), expected / expected.sum(1, keepdim=True), rtol=1e-4, atol=0)

    def test_of_a_step_drawn_twice_the_larger_error_counts(self):
        buffer = filled(PrioritisedReplayBuffer, 3, 1, 3, alpha=1.0)
        buffer.update_priorities(torch.tensor([[0, 1, 2, 1]]), torch.tensor([[1.0, 0.5, 1.0, -2.0]]))
        torch.testing.assert_close(buffer.probabilities(), torch.tensor([[0.25, 0.5, 0.25]]), rtol=1e-4, atol=0)
        buffer.update_priorities(torch.tensor([[1, 1]]), torch.tensor([[0.5, 0.1]]))  # not what it was before
        torch.testing.assert_close(buffer.probabilities(), torch.tensor([[0.4, 0.2, 0.4]]), rtol=1e-4, atol=0)

    def test_a_step_without_error_can_come_again(self):
        buffer = filled(PrioritisedReplayBuffer, 4, 1, 4, epsilon=0.1, alpha=1.0)
        buffer.update_priorities(torch.arange(4)[None], torch.tensor([[0.0, 1.0, 1.0, 1.0]]))
        assert 0 in buffer.sample(1000, draws(0))["rows"][0].tolist()

    def test_huge_errors_do_no_harm(self):
        buffer = filled(PrioritisedReplayBuffer, 4, 1, 4, alpha=1.0)
        buffer.update_priorities(torch.arange(4)[None], torch.full((1, 4), 3e38))
        torch.testing.assert_close(buffer.probabilities(), torch.full((1, 4), 0.25))

    def test_errors_with_a_gradient_and_of_another_dtype(self, device):
        buffer = filled(PrioritisedReplayBuffer, 4, 1, 4, device=device, alpha=1.0)
        errors = torch.tensor([[1.0, 3.0]], dtype=torch.float64, device=device, requires_grad=True)
        buffer.update_priorities(torch.tensor([[0, 1]], device=device), errors)
        found = buffer.probabilities()
        assert not found.requires_grad
        torch.testing.assert_close(found.cpu(), torch.tensor([[1.0, 3.0, 1.0, 1.0]]) / 6, rtol=1e-4, atol=0)


def holed(tensor):
    broken = tensor.clone()
    broken.view(-1)[0] = math.nan
    return broken


STATE, REWARD = torch.ones(2, 3, 4), torch.ones(2, 3)


@pytest.mark.parametrize("kind", KINDS)
class TestBadInput:
    @pytest.mark.parametrize(
        ("fields", "named", "came"),
        [
            ({"state": STATE}, "fields", "'state'"),
            ({"state": STATE, "reward": REWARD, "more": REWARD}, "fields", "'more'"),
            ({"state": STATE, "reward": REWARD.to("meta")}, "reward", "meta"),
        ],
    )
    def test_fields(self, kind, fields, named, came):
        buffer = kind(5, 2)
        buffer.add(state=0 * STATE, reward=0 * REWARD)
        before = buffer.sample(40, draws(0))
        with pytest.raises(ValueError, match=refusal(named, came)):
            buffer.add(**fields)
        assert len(buffer) == 3
        assert all(torch.equal(value, before[name]) for name, value in buffer.sample(40, draws(0)).items())

    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            ({}, "fields"),
            ({"rows": REWARD}, "fields"),
            ({"weights": REWARD}, "fields"),
            ({"state": STATE, "reward": REWARD[:, :1]}, "reward"),
            ({"state": STATE[:1]}, "state"),
            ({"state": STATE, "reward": holed(REWARD)}, "reward"),
        ],
    )
    def test_first_fields(self, kind, fields, named):
        buffer = kind(5, 2)
        with pytest.raises(ValueError, match=refusal(named)):
            buffer.add(**fields)
        assert len(buffer) == 0
        buffer.add(other=STATE)  # nothing was settled
        assert len(buffer) == 3

    def test_draws(self, kind):
        with pytest.raises(ValueError, match=refusal("sample", "empty")):
            kind(5, 2).sample(3)


class TestBadPriorities:
    def test_an_empty_buffer(self):
        buffer = PrioritisedReplayBuffer(4)
        with pytest.raises(ValueError, match=refusal("rows")):
            buffer.update_priorities(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1))
        with pytest.raises(ValueError, match=refusal("sample", "empty")):
            buffer.probabilities()

    @pytest.mark.parametrize(
        ("rows", "errors", "named", "came"),
        [
            (torch.zeros(2, 0, dtype=torch.int64), torch.ones(2, 0), "rows", r"\(2, 0\)"),
            (torch.tensor([[0, 1], [0, 1]]), torch.full((2, 2), 1e200, dtype=torch.float64), "td_errors", "infinite"),
        ],
    )
    def test_updates(self, rows, errors, named, came):
        with pytest.raises(ValueError, match=refusal(named, came)):
            filled(PrioritisedReplayBuffer, 5, 2, 3).update_priorities(rows, errors)
