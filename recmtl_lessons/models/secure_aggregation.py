r"""Secure aggregation: the server learns the sum of the clients' updates, and nothing else of any of them.

Updates become whole numbers. Each pair of clients agrees on a mask, which one of them adds and the other takes away,
modulo :math:`2^{32}`: in the sum the masks cancel. A client that drops out leaves its pairs' masks behind; the others
hold shares of its private key, from which the server finds them. So that a server which only pretends so cannot bare
the message that it has, each client adds a mask of its own too, whose seed is shared likewise, and the others hand out
shares of one of the two secrets of a client, never of both.

Source: Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning", CCS 2017.

Departures: this is a simulation, to be read and not to be used. The group of the keys is a toy, and so are the streams
of masks, from ``torch.Generator``, which takes in 32 bits of a seed: a real one is a cryptographic generator with 128
bits or more. All clients live in one object: no share is encrypted on its way, and nobody signs who has answered.
"""

import hashlib
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from recmtl_lessons.models._actor_critic import check_generator
from recmtl_lessons.models._checks import (
    check_answer,
    check_count,
    check_dense,
    check_finite,
    check_ids,
    check_positive,
)

MODULUS = 2**32
PRIME = 2**127 - 1  # of the field of the shares, and of the group of the keys
_BASE = 43  # its powers modulo PRIME are all numbers but 0


def quantize(values: Tensor, clipping_range: float = 8.0, bits: int = 22) -> Tensor:
    """Return the nearest of 2^bits evenly spaced levels from -``clipping_range`` to ``clipping_range``, by number.

    The floats ``values``, of any shape, are clipped to this range: what lies beyond is lost. What lies within moves by
    at most half the way between two levels, ``clipping_range`` / (2^bits - 1): 2e-6 with 22 bits, of 1 to 32, and 8.0.
    The numbers are int64.
    """
    if not isinstance(values, Tensor) or not values.is_floating_point():
        raise ValueError(f"values: got {getattr(values, 'dtype', type(values).__name__)}, expected a float tensor")
    check_dense("values", values)
    check_finite("values", values)
    check_positive("clipping_range", clipping_range)
    check_count("bits", bits, 1, 32)
    shares = (values.double() / float(clipping_range)).clamp(-1, 1)
    return ((shares + 1) / 2 * (2**bits - 1)).round().long()


def dequantize(total: Tensor, n_clients: int, clipping_range: float = 8.0, bits: int = 22) -> Tensor:
    """Return the sum of the values of ``n_clients`` clients, (P,) float64, from that of their numbers, (P,) integers.

    A total is known modulo 2^32, so that n_clients * 2^bits has to be at most that.
    """
    check_ids("total", total, MODULUS)
    _check_room(n_clients, bits)
    check_positive("clipping_range", clipping_range)
    answer = (total.double() * 2 / (2**bits - 1) - n_clients) * float(clipping_range)
    check_answer(answer, clipping_range=clipping_range)
    return answer


def pairwise_mask(seeds: Tensor, client: int, size: int) -> Tensor:
    r"""Return the sum of a client's masks, (size,) int64; over all clients these sums add up to 0, modulo 2^32.

    With :math:`G(s)` a stream of numbers below 2^32 and :math:`s_{ij}` the seed of clients i and j, it is

    .. math:: m_i = \sum_{j > i} G(s_{ij}) - \sum_{j < i} G(s_{ij}) \mod 2^{32}.

    The ``seeds`` are a symmetric table (clients, clients) of numbers from 0 to 2^32 - 1; its diagonal is not used.
    """
    check_ids("seeds", seeds.flatten() if isinstance(seeds, Tensor) else seeds, MODULUS)
    if seeds.ndim != 2 or seeds.shape[0] != seeds.shape[1] or not torch.equal(seeds, seeds.mT):
        raise ValueError(f"seeds: got shape {tuple(seeds.shape)}, expected a symmetric table (clients, clients)")
    check_count("client", client, 0, len(seeds) - 1)
    check_count("size", size)
    return _pair_masks({j: seed for j, seed in enumerate(seeds[client].tolist()) if j != client}, client, size)


def share_secret(secret: int, n: int, threshold: int, generator: torch.Generator) -> dict[int, int]:
    """Split a secret into n shares, of which ``threshold`` give it back and fewer say nothing of it (Shamir 1979).

    They are the values at 1 to n, {place: value}, of a polynomial over the integers modulo PRIME = 2^127 - 1: it has
    degree ``threshold`` - 1, the secret at 0, and otherwise coefficients that are drawn uniformly.
    """
    check_count("secret", secret, 0, PRIME - 1)
    check_count("n", n, 1, 1000)
    check_count("threshold", threshold, 1, n)
    if generator is None:
        raise ValueError("generator: got None, expected a torch.Generator")
    check_generator(generator)
    shares = dict.fromkeys(range(1, n + 1), 0)
    for coefficient in [*(_draw(generator) for _ in range(threshold - 1)), secret]:
        shares = {place: (value * place + coefficient) % PRIME for place, value in shares.items()}
    return shares


def recover_secret(shares: Mapping[int, int]) -> int:
    """Return the secret that these shares, {place: value}, are of, if they are enough: else another number.

    It is the value at 0 of the polynomial of least degree through all of them, by Lagrange's formula.
    """
    if not isinstance(shares, Mapping) or not shares:
        raise ValueError(f"shares: got {shares!r}, expected a mapping of places to values, at least one")
    for place, value in shares.items():
        check_count("shares", place, 1, PRIME - 1)
        check_count(f"shares[{place}]", value, 0, PRIME - 1)
    secret = 0
    for place, value in shares.items():
        above = below = 1
        for other in shares.keys() - {place}:
            above, below = above * other % PRIME, below * (other - place) % PRIME
        secret += value * above * pow(below, -1, PRIME)
    return secret % PRIME


class SecureAggregation:
    """One round of secure aggregation: its clients, who have agreed on their masks, and what the server does.

    Each client has drawn a private key and the seed of its own mask, has agreed on a seed with each other client by the
    exchange of Diffie and Hellman, and has given each client a share of both secrets.

    Parameters
    ----------
    n_clients : int
        2 to 1000; n_clients * 2^bits is at most 2^32. Work grows with its third power.
    threshold : int
        How many clients have to answer. More than half: two such sets have a client in common, who tells only one.
    seed : int
        Of all secrets.
    clipping_range, bits
        As in `quantize`.

    Attributes
    ----------
    public_keys : tuple of int
        What everybody knows of each client.
    """

    def __init__(self, n_clients: int, threshold: int, seed: int, clipping_range: float = 8.0, bits: int = 22):
        _check_room(n_clients, bits)
        check_count("n_clients", n_clients, 2, 1000)
        check_count("threshold", threshold, n_clients // 2 + 1, n_clients)
        check_count("seed", seed, 0)
        check_positive("clipping_range", clipping_range)
        self.n_clients, self.threshold = n_clients, threshold
        self.clipping_range, self.bits = float(clipping_range), bits
        generator = torch.Generator().manual_seed(seed)
        self._private_keys = [_draw(generator) for _ in range(n_clients)]
        self._own_seeds = [_draw(generator) % MODULUS for _ in range(n_clients)]
        self.public_keys = tuple(pow(_BASE, key, PRIME) for key in self._private_keys)
        # Shares by owner; client i holds those at place i + 1.
        self._key_shares = [share_secret(key, n_clients, threshold, generator) for key in self._private_keys]
        self._seed_shares = [share_secret(own, n_clients, threshold, generator) for own in self._own_seeds]
        self._sent: dict[int, Tensor] = {}
        self._told: dict[int, frozenset[int]] = {}  # of each client who handed out shares: for whose answers

    def message(self, client: int, values: Tensor) -> Tensor:
        """Return what a client sends, (P,) int64: quantized ``values``, plus its pairs' masks and its own, modulo 2^32.

        For whoever has none of its secrets, that is uniform noise. A second message with other values is refused: the
        difference of two that have the same masks is that of the values.
        """
        check_count("client", client, 0, self.n_clients - 1)
        numbers = quantize(values, self.clipping_range, self.bits)
        if values.ndim != 1 or not len(values):
            raise ValueError(f"values: got shape {tuple(values.shape)}, expected (P,) with at least one number")
        seeds = self._agreed(self._private_keys[client], client, range(self.n_clients))
        masks = _pair_masks(seeds, client, len(values)) + _stream(self._own_seeds[client], len(values))
        message = (numbers + masks.to(values.device)) % MODULUS
        if not torch.equal(self._sent.setdefault(client, message.cpu().clone()), message.cpu()):
            raise ValueError(f"values: got others of client {client} than before, expected one message a round")
        return message

    def sum(self, messages: Mapping[int, Tensor]) -> Tensor:
        """Return the sum of the values of those who answered, (P,) float64, as the server finds it.

        There are at least ``threshold`` ``messages``, {client: Tensor (P,)}. One round has one sum: those of other
        clients are refused afterwards, since two sums that differ by a client would give that client's values.
        """
        answered = self._checked("messages", messages)
        if not isinstance(messages, Mapping):
            raise ValueError(f"messages: got {type(messages).__name__}, expected a mapping of clients to messages")
        first = next(iter(messages.values()))
        for client, message in messages.items():
            check_ids(f"messages[{client}]", message, MODULUS, len(first) if getattr(first, "ndim", 0) else None)
        shares = [(holder + 1, self.hand_out(holder, answered)) for holder in sorted(answered)][: self.threshold]
        total = sum(message.cpu().long() for message in messages.values())
        for owner in range(self.n_clients):
            secret = recover_secret({place: handed[owner] for place, handed in shares})
            if owner in answered:
                total = total - _stream(secret, len(first))
            else:  # what it would have added is what the others' masks lack to cancel
                total = total + _pair_masks(self._agreed(secret, owner, answered), owner, len(first))
        return dequantize((total % MODULUS).to(first.device), len(answered), self.clipping_range, self.bits)

    def hand_out(self, client: int, answered: Collection[int]) -> dict[int, int]:
        """Return what a client who answered tells the server in the end, {owner: share}: one share of each client.

        It is one of the own mask's seed if the owner is among the ``answered``, at least ``threshold`` clients, and
        else of the private key. Asked again for others it refuses: both secrets of a client would bare its message.
        """
        check_count("client", client, 0, self.n_clients - 1)
        answered = self._checked("answered", answered, (client,))
        if client not in answered:
            raise ValueError(f"client: got {client}, expected one of those who answered")
        self._told[client] = answered
        kinds = [self._seed_shares if owner in answered else self._key_shares for owner in range(self.n_clients)]
        return {owner: shares[owner][client + 1] for owner, shares in enumerate(kinds)}

    def _agreed(self, private_key: int, client: int, others: Collection[int]) -> dict[int, int]:
        """Seeds of a client's pairs, {other: seed}: both find the same, since (g^a)^b = (g^b)^a."""
        keys = {other: pow(self.public_keys[other], private_key, PRIME) for other in others if other != client}
        return {other: int(hashlib.sha256(str(key).encode()).hexdigest()[:8], 16) for other, key in keys.items()}

    def _checked(self, name: str, answered: Collection[int], asked: Collection[int] | None = None) -> frozenset[int]:
        """Refuse a set of clients that is too small, or other than what one who is ``asked`` was told before."""
        if not isinstance(answered, Collection) or isinstance(answered, (str, bytes, Tensor)):
            raise ValueError(f"{name}: got {answered!r}, expected a collection of clients")
        for client in answered:
            check_count(name, client, 0, self.n_clients - 1)
        answered = frozenset(answered)
        if len(answered) < self.threshold:
            raise ValueError(f"{name}: got {len(answered)} clients, expected at least the threshold {self.threshold}")
        for client in answered if asked is None else asked:
            if self._told.get(client, answered) != answered:
                raise ValueError(f"{name}: got others than client {client} was told of, expected one set a round")
        return answered


def _pair_masks(seeds: Mapping[int, int], client: int, size: int) -> Tensor:
    signed = (_stream(seed, size) * (1 if other > client else -1) for other, seed in seeds.items())
    return sum(signed, torch.zeros(size, dtype=torch.int64)) % MODULUS


def _stream(seed: int, size: int) -> Tensor:
    return torch.randint(MODULUS, (size,), generator=torch.Generator().manual_seed(seed), dtype=torch.int64)


def _draw(generator: torch.Generator) -> int:
    """A number from 0 to PRIME - 1, of 128 bits: each has the same chance, up to 2^-126 of it."""
    parts = torch.randint(MODULUS, (4,), generator=generator, dtype=torch.int64).tolist()
    return sum(part << 32 * k for k, part in enumerate(parts)) % PRIME


def _check_room(n_clients: int, bits: int) -> None:
    check_count("n_clients", n_clients)
    check_count("bits", bits, 1, 32)
    if n_clients * 2**bits > MODULUS:
        raise ValueError(f"n_clients: got {n_clients} with {bits} bits, expected n_clients * 2^bits of at most 2^32")
