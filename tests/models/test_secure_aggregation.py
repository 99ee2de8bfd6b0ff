"""Secure aggregation: sums are right to the last number, and nothing but sums can be had."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recmtl_lessons.models import (
    SecureAggregation,
    dequantize,
    pairwise_mask,
    quantize,
    recover_secret,
    share_secret,
)
from recmtl_lessons.models.secure_aggregation import MODULUS, PRIME

quick = settings(max_examples=60, deadline=None, derandomize=True)


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def updates(clients=6, size=50, seed=0):
    return 2 * torch.randn(clients, size, generator=draws(seed))


def messages_of(aggregator, values, answered):
    return {client: aggregator.message(client, values[client]) for client in answered}


def added(messages):
    """All that a server can do with messages alone."""
    return sum(messages.values()) % MODULUS


def is_noise(numbers):
    """Whether numbers are uniform over all residues, by their sizes and by their last four bits."""
    sizes = stats.kstest(numbers.double().numpy() / MODULUS, "uniform").pvalue
    last = stats.chisquare(torch.bincount(numbers % 16, minlength=16).numpy()).pvalue
    return min(sizes, last) > 1e-3


class TestNumbers:
    @pytest.mark.parametrize(("clipping_range", "bits"), [(8.0, 22), (0.5, 10), (100.0, 32), (1.0, 1)])
    def test_a_number_is_that_of_the_nearest_level(self, clipping_range, bits):
        values = (2 * torch.rand(3, 500, generator=draws(), dtype=torch.float64) - 1) * clipping_range
        found = quantize(values, clipping_range, bits)
        assert found.dtype == torch.int64
        assert found.shape == values.shape
        levels = -clipping_range + found.double() * (2 * clipping_range / (2**bits - 1))
        assert (levels - values).abs().max() <= clipping_range / (2**bits - 1) * (1 + 1e-6)
        assert 0 <= found.min() <= found.max() <= 2**bits - 1
        back = dequantize(found[0], 1, clipping_range, bits)
        torch.testing.assert_close(back, levels[0], atol=1e-12 * clipping_range, rtol=0)

    def test_what_lies_beyond_the_range_is_clipped(self):
        found = quantize(torch.tensor([-1e30, -8.1, -8.0, 0.0, 8.0, 9.0, 1e30]))
        assert found.tolist() == [0, 0, 0, 2**21, 2**22 - 1, 2**22 - 1, 2**22 - 1]  # 0 lies between two levels

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
    def test_any_floats_are_taken(self, dtype):
        values = updates().to(dtype)
        assert torch.equal(quantize(values), quantize(values.double()))

    def test_as_many_clients_as_the_modulus_has_room_for(self):
        largest = torch.full((1,), 2**22 - 1) * 1024
        assert dequantize(largest, 1024) == 8 * 1024
        with pytest.raises(ValueError, match=r"^n_clients: got 1025 with 22 bits"):
            dequantize(largest, 1025)


def agreed(clients, seed=0):
    seeds = torch.randint(MODULUS, (clients, clients), generator=draws(seed))
    return seeds.triu() + seeds.triu(1).mT


class TestMasks:
    @quick
    @given(clients=st.integers(2, 9), size=st.integers(1, 40), seed=st.integers(0, 2**31 - 1))
    def test_cancel_over_all_clients(self, clients, size, seed):
        masks = torch.stack([pairwise_mask(agreed(clients, seed), client, size) for client in range(clients)])
        assert 0 <= masks.min() <= masks.max() < MODULUS
        assert not (masks.sum(0) % MODULUS).any()

    def test_are_the_sum_of_streams(self):
        seeds = agreed(4)
        streams = {
            (i, j): torch.randint(MODULUS, (7,), generator=draws(int(seeds[i, j]))) for i in range(4) for j in range(4)
        }
        expected = (streams[2, 3] - streams[2, 0] - streams[2, 1]) % MODULUS
        assert torch.equal(pairwise_mask(seeds, 2, 7), expected)

    def test_one_client_missing_leaves_noise(self):
        assert is_noise(-pairwise_mask(agreed(5), 3, 20000) % MODULUS)


class TestShares:
    def test_any_shares_that_are_enough_give_the_secret(self):
        for secret in (0, 1, 12345678901234567890, PRIME - 1):
            shares = share_secret(secret, 6, 4, draws())
            for count in (4, 5, 6):
                for places in itertools.combinations(shares, count):
                    assert recover_secret({place: shares[place] for place in places}) == secret
            for places in itertools.combinations(shares, 3):
                assert recover_secret({place: shares[place] for place in places}) != secret

    def test_fewer_are_consistent_with_every_secret(self):
        """Each secret comes of the same two shares with one value of the third: two of three say nothing."""
        shares = share_secret(7, 5, 3, draws())
        held = {place: shares[place] for place in (2, 5)}
        for secret in (0, 7, 8, PRIME // 3, PRIME - 1):
            third = value_at(4, {0: secret, **held})
            assert recover_secret({**held, 4: third}) == secret
            assert (third == shares[4]) == (secret == 7)

    def test_of_any_secret_too_few_shares_look_alike(self):
        """Two shares of three, over many draws: even numbers, whatever the secret is."""
        generator = draws()
        for secret in (0, PRIME - 1):
            drawn = [share_secret(secret, 3, 3, generator) for _ in range(3000)]
            for place in (1, 3):
                assert stats.kstest([shares[place] / PRIME for shares in drawn], "uniform").pvalue > 1e-3
            together = [(shares[1] + shares[3]) % PRIME / PRIME for shares in drawn]
            assert stats.kstest(together, "uniform").pvalue > 1e-3

    def test_one_share_of_one_is_the_secret_and_the_same_generator_gives_the_same(self):
        assert share_secret(5, 3, 1, draws()) == {1: 5, 2: 5, 3: 5}
        assert share_secret(5, 3, 2, draws(1)) == share_secret(5, 3, 2, draws(1)) != share_secret(5, 3, 2, draws(2))


def value_at(x, points):
    """Value of the polynomial through all points, by Newton's divided differences over the integers modulo PRIME."""
    places, table = list(points), list(points.values())
    for k in range(1, len(places)):
        for i in reversed(range(k, len(places))):
            table[i] = (table[i] - table[i - 1]) * pow(places[i] - places[i - k], -1, PRIME) % PRIME
    value = 0
    for place, coefficient in zip(reversed(places), reversed(table), strict=True):
        value = (value * (x - place) + coefficient) % PRIME
    return value


class TestSum:
    @quick
    @given(
        clients=st.integers(2, 7),
        spread=st.floats(0.01, 20),
        seed=st.integers(0, 2**31 - 1),
        data=st.data(),
    )
    def test_of_whoever_answers_down_to_the_threshold(self, clients, spread, seed, data):
        """It is the sum of the numbers exactly, and of the values up to half a level of each client."""
        threshold = data.draw(st.integers(clients // 2 + 1, clients))
        answered = data.draw(st.lists(st.integers(0, clients - 1), min_size=threshold, unique=True))
        aggregator = SecureAggregation(clients, threshold, seed)
        values = spread * torch.randn(clients, 9, generator=draws(seed))
        messages = messages_of(aggregator, values, range(clients))  # some are lost on their way
        found = aggregator.sum({client: messages[client] for client in answered})
        numbers = quantize(values[answered]).sum(0)
        assert torch.equal(found, dequantize(numbers, len(answered)))
        exact = values[answered].double().clamp(-8, 8).sum(0)
        assert (found - exact).abs().max() <= len(answered) * 8 / (2**22 - 1) + 1e-12

    def test_too_few_answers_are_refused(self):
        aggregator = SecureAggregation(6, 4, seed=0)
        messages = messages_of(aggregator, updates(), (0, 2, 5))
        with pytest.raises(ValueError, match=r"^messages: got 3 clients, expected at least the threshold 4"):
            aggregator.sum(messages)
        messages[4] = aggregator.message(4, updates()[4])
        assert (aggregator.sum(messages) - updates()[[0, 2, 4, 5]].sum(0)).abs().max() < 1e-4

    def test_without_what_the_others_hand_out_it_is_noise(self):
        """Messages alone add up to noise with all clients there, and with one of them missing too."""
        aggregator = SecureAggregation(6, 4, seed=3)
        messages = messages_of(aggregator, updates(size=20000), range(6))
        assert is_noise(added(messages))
        messages.pop(2)
        assert is_noise(added(messages))
        assert dequantize(added(messages), 5).abs().median() > 1000
        assert aggregator.sum(messages).abs().median() < 10

    def test_a_coarse_and_narrow_grid(self):
        aggregator = SecureAggregation(4, 3, 0, clipping_range=0.5, bits=8)
        values = 0.2 * updates(4)
        error = (aggregator.sum(messages_of(aggregator, values, range(4))) - values.clamp(-0.5, 0.5).sum(0)).abs().max()
        assert 0.1 * 4 * 0.5 / 255 < error <= 4 * 0.5 / 255 + 1e-6

    def test_of_an_own_device(self, device):
        """As on the CPU, to the last bit; and nothing is drawn from torch's own generator."""
        luck = torch.random.get_rng_state()
        results = []
        for place in (device, "cpu"):
            aggregator = SecureAggregation(6, 4, seed=0)
            messages = messages_of(aggregator, updates().to(place), (5, 1, 0, 3))
            results.append((messages[3].cpu(), aggregator.sum(messages).cpu()))
            assert messages[3].device.type == torch.device(place).type == aggregator.sum(messages).device.type
        assert all(torch.equal(here, there) for here, there in zip(*results, strict=True))
        assert torch.equal(torch.random.get_rng_state(), luck)


class TestOneClient:
    @pytest.mark.parametrize("value", [0.0, -8.0, 3.0])
    def test_its_message_is_noise_whatever_the_update(self, value):
        """Over the entries of one message, and over rounds with one entry."""
        assert is_noise(SecureAggregation(5, 3, seed=1).message(2, torch.full((20000,), value)))
        rounds = [SecureAggregation(3, 2, seed).message(0, torch.tensor([value])) for seed in range(800)]
        assert is_noise(torch.cat(rounds))

    def test_messages_of_two_updates_cannot_be_told_apart(self):
        one, other = (
            SecureAggregation(5, 3, seed).message(2, values).double()
            for seed, values in ((1, torch.full((20000,), 7.0)), (2, updates(1, 20000)[0]))
        )
        assert stats.ks_2samp(one.numpy(), other.numpy()).pvalue > 1e-3

    def test_with_the_same_masks_two_messages_differ_by_the_difference(self):
        values = updates()
        one, other = (SecureAggregation(6, 4, seed=0).message(1, values[k]) for k in (1, 2))
        assert torch.equal((one - other) % MODULUS, (quantize(values[1]) - quantize(values[2])) % MODULUS)

    def test_so_that_a_round_takes_one_message_of_it(self):
        aggregator = SecureAggregation(6, 4, seed=0)
        sent = aggregator.message(1, updates()[1])
        assert torch.equal(aggregator.message(1, updates()[1]), sent)
        for values in (updates()[2], updates()[1][:-1]):
            with pytest.raises(ValueError, match=r"^values: got others of client 1 than before"):
                aggregator.message(1, values)

    def test_seeds_give_rounds(self):
        one, same, other = (SecureAggregation(6, 4, seed) for seed in (0, 0, 1))
        assert one.public_keys == same.public_keys
        assert not set(one.public_keys) & set(other.public_keys)
        assert len(set(one.public_keys)) == 6
        values = updates()[1]
        assert torch.equal(one.message(1, values), same.message(1, values))
        assert not torch.equal(one.message(1, values), other.message(1, values))


class TestPretendedDropout:
    """The server has the message of client 2, and asks as if it had not."""

    def test_a_second_sum_without_the_client_is_refused(self):
        """Else the difference of the two sums would be its update."""
        for first, second in ((range(6), (0, 1, 3, 4, 5)), ((0, 1, 3, 4, 5), range(6))):
            aggregator = SecureAggregation(6, 4, seed=0)
            messages = messages_of(aggregator, updates(), range(6))
            once = aggregator.sum({client: messages[client] for client in first})
            with pytest.raises(ValueError, match=r"^messages: got others than client \d was told of"):
                aggregator.sum({client: messages[client] for client in second})
            assert torch.equal(aggregator.sum({client: messages[client] for client in first}), once)

    def test_nobody_hands_out_shares_of_both_secrets(self):
        aggregator = SecureAggregation(6, 4, seed=0)
        handed = aggregator.hand_out(0, range(6))
        assert aggregator.hand_out(0, [5, 4, 3, 2, 1, 0]) == handed
        with pytest.raises(ValueError, match=r"^answered: got others than client 0 was told of"):
            aggregator.hand_out(0, (0, 1, 3, 4, 5))
        with pytest.raises(ValueError, match=r"^messages: got others than client 0 was told of"):
            aggregator.sum(messages_of(aggregator, updates(), (0, 1, 3, 4)))
        assert aggregator.hand_out(1, (0, 1, 3, 4, 5))[2] != aggregator.hand_out(3, range(6))[2]

    @quick
    @given(data=st.data(), clients=st.integers(2, 8))
    def test_telling_some_clients_one_thing_and_some_another_does_not_help(self, data, clients):
        """Of the two kinds of shares of client 0, those of one are too few, and give neither seed nor key."""
        threshold = data.draw(st.integers(clients // 2 + 1, clients))
        aggregator = SecureAggregation(clients, threshold, seed=5)
        with_it, without_it = range(clients), range(1, clients)
        handed = {True: {}, False: {}}
        for client in range(clients):
            pretend = data.draw(st.booleans()) and client > 0 and len(without_it) >= threshold
            handed[pretend][client + 1] = aggregator.hand_out(client, without_it if pretend else with_it)[0]
        secrets = {True: aggregator._private_keys[0], False: aggregator._own_seeds[0]}
        found = {kind: bool(shares) and recover_secret(shares) == secrets[kind] for kind, shares in handed.items()}
        assert found == {kind: len(shares) >= threshold for kind, shares in handed.items()}
        assert not all(found.values())

    def test_half_of_the_clients_are_no_threshold(self):
        """Two halves could be told two things."""
        with pytest.raises(ValueError, match=r"^threshold: got 3, expected an integer from 4 to 6"):
            SecureAggregation(6, 3, seed=0)

    def test_with_both_secrets_a_message_is_bare(self):
        """What all of this is for: the masks come off, if someone has key and seed."""
        aggregator = SecureAggregation(6, 4, seed=0)
        message = aggregator.message(2, updates()[2])
        shares = {kind: {} for kind in ("key", "seed")}
        for client in (0, 1, 3, 4):
            shares["key"][client + 1] = aggregator._key_shares[2][client + 1]
            shares["seed"][client + 1] = aggregator._seed_shares[2][client + 1]
        key, seed = (recover_secret(shares[kind]) for kind in ("key", "seed"))
        seeds = torch.zeros(6, 6, dtype=torch.int64)
        for other, agreed_seed in aggregator._agreed(key, 2, range(6)).items():
            seeds[2, other] = seeds[other, 2] = agreed_seed
        own = torch.randint(MODULUS, (50,), generator=draws(seed))
        assert torch.equal((message - pairwise_mask(seeds, 2, 50) - own) % MODULUS, quantize(updates()[2]))
