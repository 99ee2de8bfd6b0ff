"""Replay against lists in Python, and a reservoir against counting."""

import math
import re
from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from recmtl_lessons.training.replay import ReplayBuffer, ReservoirBuffer

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


def filled(capacity=8, stacks=3, steps=8, device=None):
    buffer = ReplayBuffer(capacity, stacks)
    buffer.add(**numbered(stacks, 0, steps, device))
    return buffer


def numbers_in(buffer, model):
    """The numbers of all steps that a model's memory holds, found by drawing many."""
    return set(buffer.sample(3000, draws(0))["number"][model].tolist())


def refusal(name, came=""):
    return rf"^{re.escape(name)}: got .*{came}.*expected "


class TestKeeping:
    @given(st.integers(1, 9), st.integers(1, 3), st.lists(st.integers(1, 12), min_size=1, max_size=6))
    @settings(max_examples=40)
    def test_the_oldest_go_first(self, capacity, stacks, sizes):
        buffer, expected, first = ReplayBuffer(capacity, stacks), deque(maxlen=capacity), 0
        for size in sizes:
            buffer.add(**numbered(stacks, first, size))
            expected.extend(range(first, first + size))
            first += size
            assert len(buffer) == len(expected)
        for model in range(stacks):
            assert numbers_in(buffer, model) == {1000 * model + k for k in expected}

    def test_fields_of_a_step_stay_together(self, device):
        buffer = filled(capacity=5, steps=13, device=device)
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

    def test_it_keeps_copies_without_gradients(self):
        state = torch.ones(1, 4, 2, requires_grad=True)
        buffer = ReplayBuffer(4)
        buffer.add(state=state)
        with torch.no_grad():
            state.fill_(7.0)
        found = buffer.sample(20, draws(0))["state"]
        assert not found.requires_grad
        assert set(found.flatten().tolist()) == {1.0}
        found.fill_(5.0)
        assert set(buffer.sample(20, draws(0))["state"].flatten().tolist()) == {1.0}

    def test_one_step_for_one_model(self):
        buffer = ReplayBuffer(1)
        for value in (1.0, 2.0):
            buffer.add(reward=torch.tensor([[value]]))
            assert len(buffer) == 1
            assert buffer.sample(2)["reward"].tolist() == [[value, value]]


class TestDrawing:
    def test_the_generator_decides(self, device):
        buffer = filled(device=device)
        one, same, other = (buffer.sample(50, draws(seed))["number"] for seed in (3, 3, 4))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        assert torch.equal(one.cpu(), filled().sample(50, draws(3))["number"])

    def test_without_a_generator_it_is_torchs_own(self):
        buffer = filled()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            one = buffer.sample(50)["number"]
            torch.manual_seed(5)
            assert torch.equal(buffer.sample(50)["number"], one)
            assert not torch.equal(buffer.sample(50)["number"], one)

    def test_each_model_draws_its_own(self):
        rows = filled().sample(50, draws(0))["number"] % 1000
        assert not torch.equal(rows[0], rows[1])
        assert not torch.equal(rows[1], rows[2])

    def test_a_new_buffer_draws_uniformly(self):
        buffer = filled(capacity=20, steps=12)
        for model, drawn in enumerate(buffer.sample(12_000, draws(0))["number"]):
            counts = torch.bincount(drawn - 1000 * model, minlength=12)
            assert len(counts) == 12  # not what has not been filled
            assert chisquare(counts.numpy()).pvalue > 1e-3


def offered(pieces, capacity=5, stacks=3, seed=0, device=None):
    """A reservoir to which numbered rows came in pieces."""
    reservoir, first, luck = ReservoirBuffer(capacity, stacks), 0, draws(seed)
    for size in pieces:
        reservoir.add(luck, **numbered(stacks, first, size, device))
        first += size
    return reservoir


def kept_in(reservoir, rows):
    """Whether each row is kept by each model, (stacks, rows)."""
    number = reservoir.rows()["number"] - 1000 * torch.arange(reservoir.stacks)[:, None]
    return torch.zeros(reservoir.stacks, rows, dtype=torch.bool).scatter(1, number, True)


class TestReservoir:
    @pytest.mark.parametrize(
        "pieces",
        [(23,), (1,) * 23, (3, 9, 1, 7, 3), (5, 18), (22, 1)],
        ids=lambda pieces: f"{len(pieces)} pieces, {pieces[0]} first",
    )
    def test_every_row_and_every_pair_is_kept_with_the_same_probability(self, pieces):
        """Within five standard errors: however the rows come, it is the same law."""
        stacks, rows, capacity = 4000, 23, 5
        kept = kept_in(offered(pieces, capacity, stacks), rows).double()
        assert (kept.sum(1) == capacity).all()
        both = kept.T @ kept / stacks  # (rows, rows): how often both are kept; on the diagonal, one
        one, two = capacity / rows, capacity * (capacity - 1) / (rows * (rows - 1))
        expected = torch.full((rows, rows), two).double().fill_diagonal_(one)
        errors = (expected * (1 - expected) / stacks).sqrt()
        assert ((both - expected).abs() <= 5 * errors).all()

    def test_models_choose_apart(self):
        kept = kept_in(offered((23,), stacks=4000), 23).double()
        together = (kept[::2] * kept[1::2]).mean(0)  # of two models beside each other
        expected = (5 / 23) ** 2
        assert ((together - expected).abs() <= 5 * (expected * (1 - expected) / 2000) ** 0.5).all()

    @pytest.mark.parametrize("pieces", [(2,), (1, 1, 2), (5,), (3, 2)])
    def test_all_rows_are_kept_in_their_order_until_it_is_full(self, pieces):
        reservoir, seen = offered(pieces), sum(pieces)
        assert len(reservoir) == seen
        for name, values in numbered(3, 0, seen).items():
            assert torch.equal(reservoir.rows()[name], values)

    @pytest.mark.parametrize("pieces", [(13,), (3, 4, 6), (1,) * 13])
    def test_fields_of_a_row_stay_together(self, pieces, device):
        rows = offered(pieces, device=device).rows()
        number = rows["number"]
        assert number.shape == (3, 5)
        assert number.device.type == device.type
        assert (number // 1000 == torch.arange(3, device=device)[:, None]).all()
        assert torch.equal(rows["state"], number[..., None] + torch.tensor([0.0, 0.25, 0.5], device=device))
        assert torch.equal(rows["terminated"], number % 2 == 0)
        assert torch.equal(rows["grid"], number[..., None, None].expand(-1, -1, 2, 2).double())
        assert [values.dtype for values in rows.values()] == [torch.int64, torch.float32, torch.bool, torch.float64]

    def test_a_longer_stream_still_leaves_as_many(self):
        reservoir = offered((4, 40, 400), capacity=7)
        assert (len(reservoir), reservoir.seen) == (7, 444)
        assert kept_in(reservoir, 444).sum(1).tolist() == [7, 7, 7]

    def test_the_generator_decides(self):
        one, same, other = (offered((4, 19), seed=seed).rows()["number"] for seed in (0, 0, 1))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_without_a_generator_it_is_torchs_own(self):
        found = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for _ in range(2):
                reservoir = ReservoirBuffer(5, 3)
                reservoir.add(**numbered(3, 0, 23))
                found.append(reservoir.rows()["number"])
        assert torch.equal(found[0], offered((23,)).rows()["number"])
        assert not torch.equal(*found)

    def test_it_keeps_copies_without_gradients(self):
        state = torch.ones(1, 4, 2, requires_grad=True)
        reservoir = ReservoirBuffer(4)
        reservoir.add(state=state)
        with torch.no_grad():
            state.fill_(7.0)
        before = reservoir.rows()["state"]
        assert not before.requires_grad
        reservoir.add(state=torch.full((1, 50, 2), 3.0))
        assert set(before.flatten().tolist()) == {1.0}

    def test_nothing_is_kept_before_anything_came(self):
        reservoir = ReservoirBuffer(4)
        assert len(reservoir) == 0
        assert reservoir.rows() == {}


def holed(tensor):
    broken = tensor.clone()
    broken.view(-1)[0] = math.nan
    return broken


STATE, REWARD = torch.ones(2, 3, 4), torch.ones(2, 3)


class TestBadInput:
    @pytest.mark.parametrize(
        ("fields", "named", "came"),
        [
            ({"state": STATE}, "fields", "'state'"),
            ({"state": STATE, "reward": REWARD, "more": REWARD}, "fields", "'more'"),
            ({"state": STATE, "reward": REWARD.to("meta")}, "reward", "meta"),
        ],
    )
    def test_fields(self, fields, named, came):
        buffer = ReplayBuffer(5, 2)
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
            ({"state": STATE, "reward": REWARD[:, :1]}, "reward"),
            ({"state": STATE[:1]}, "state"),
            ({"state": STATE, "reward": holed(REWARD)}, "reward"),
        ],
    )
    def test_first_fields(self, fields, named):
        buffer = ReplayBuffer(5, 2)
        with pytest.raises(ValueError, match=refusal(named)):
            buffer.add(**fields)
        assert len(buffer) == 0
        buffer.add(other=STATE)  # nothing was settled
        assert len(buffer) == 3

    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            ({"state": STATE}, "fields"),
            ({"state": STATE, "reward": REWARD, "more": REWARD}, "fields"),
            ({"state": STATE, "reward": REWARD.double()}, "reward"),
            ({"state": STATE[:, :, :2], "reward": REWARD}, "state"),
            ({"state": STATE, "reward": holed(REWARD)}, "reward"),
        ],
    )
    def test_what_a_reservoir_refuses_changes_nothing(self, fields, named):
        reservoir, luck = ReservoirBuffer(5, 2), draws(0)
        reservoir.add(luck, state=0 * STATE, reward=0 * REWARD)
        before, state = reservoir.rows(), luck.get_state()
        with pytest.raises(ValueError, match=refusal(named)):
            reservoir.add(luck, **fields)
        assert len(reservoir) == 3
        assert torch.equal(luck.get_state(), state)
        assert all(torch.equal(value, before[name]) for name, value in reservoir.rows().items())

    def test_draws(self):
        with pytest.raises(ValueError, match=refusal("sample", "empty")):
            ReplayBuffer(5, 2).sample(3)
