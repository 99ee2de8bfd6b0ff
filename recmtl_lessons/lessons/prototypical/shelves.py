"""A shop that opens new shelves: items described by measurements, shelves that training has and shelves it never sees.

What tells shelves apart (the *signal*) and what differs between items of one shelf (the *nuisance*) are numbers of
their own. A catalogue shows neither: its measurements are bent mixtures of both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shop:
    """The knobs of the shop.

    Attributes
    ----------
    signal, nuisance : int
        How many things tell shelves apart, and in how many others items of one shelf differ.
    scatter : float
        How far an item lies from its shelf in the signal, in standard deviations of shelves.
    nuisance_scale : float
        How large the nuisance is beside the signal.
    measurements : int
        How many numbers describe an item.
    bend : float
        How strongly each measurement saturates; at 0 all are linear.
    swapped : bool
        Whether the training shelves are told apart by the nuisance instead, and their items differ in the signal.
    items : int
        Items on a shelf.
    train_shelves, valid_shelves, test_shelves : int
    """

    signal: int = 4
    nuisance: int = 8
    scatter: float = 0.35
    nuisance_scale: float = 1.0
    measurements: int = 24
    bend: float = 1.5
    swapped: bool = False
    items: int = 40
    train_shelves: int = 60
    valid_shelves: int = 20
    test_shelves: int = 40


SHOP = Shop()
SWAPPED = Shop(swapped=True)
# The measurements turn and stretch the signal; shelves overlap, so that there is something to gain for who can.
NOTHING_HIDDEN = Shop(nuisance=1, nuisance_scale=1e-3, bend=0.0, scatter=0.7)


@dataclass(frozen=True)
class Shelves:
    """What stands on the shelves of S shops; no shelf is in two parts.

    Attributes
    ----------
    train, valid, test : Tensor, (S, shelves, items, measurements)
        Standardised by mean and standard deviation of the training items.
    test_signal : Tensor, (S, shelves, items, signal)
        Truth: what tells the test items' shelves apart, which no catalogue shows.
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    test_signal: Tensor


@dataclass(frozen=True)
class Episodes:
    """Rows of some shelves in T episodes of each of S shops: N ways with K shots and Q queries each.

    Attributes
    ----------
    support_x, query_x : Tensor, (S, T, N * K, F) and (S, T, N * Q, F)
    support_y, query_y : Tensor, (S, T, N * K) and (S, T, N * Q), int64
        The shelf within the episode, 0 to N - 1.
    support_shelf, query_shelf : Tensor, of the same shapes
        The shelf within the shop, which a classifier of all training shelves needs.
    ways : int
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    support_shelf: Tensor
    query_shelf: Tensor
    ways: int

    def stream(self) -> dict[str, dict[str, Tensor]]:
        """Return the episodes as a stream to train on, whose batch is then a number of episodes."""
        return {"episodes": {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "ways"}}

    def shots(self, count: int) -> "Episodes":
        """Return the same episodes with the first ``count`` support rows of each shelf alone."""
        kept = self.support_y.shape[-1] // self.ways
        if not 1 <= count <= kept:
            raise ValueError(f"count: got {count!r}, expected 1 to {kept}")
        names = ("support_x", "support_y", "support_shelf")
        fewer = {n: getattr(self, n).unflatten(2, (self.ways, kept))[:, :, :, :count].flatten(2, 3) for n in names}
        return Episodes(**fewer, query_x=self.query_x, query_y=self.query_y, query_shelf=self.query_shelf,
                        ways=self.ways)  # fmt: skip


@lru_cache(maxsize=8)
def open_shops(shop: Shop, seeds: tuple[int, ...]) -> Shelves:
    """Draw one shop per seed, with shelves, items and measurements of its own."""
    parts = zip(*(_one_shop(shop, seed) for seed in seeds), strict=True)
    return Shelves(*(torch.stack(part) for part in parts))


def _one_shop(shop: Shop, seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    counts = (shop.train_shelves, shop.valid_shelves, shop.test_shelves)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def hidden(n_shelves: int, swapped: bool) -> Tensor:
        wide, narrow = (shop.nuisance, shop.signal) if swapped else (shop.signal, shop.nuisance)
        shelf = normal(n_shelves, 1, wide).expand(-1, shop.items, -1)
        telling = (shelf + shop.scatter * normal(n_shelves, shop.items, wide)) / (1 + shop.scatter**2) ** 0.5
        differing = normal(n_shelves, shop.items, narrow)
        return torch.cat([differing, telling] if swapped else [telling, differing], dim=2)

    def described(items: Tensor) -> Tensor:
        scale = torch.ones(items.shape[2])
        scale[shop.signal :] = shop.nuisance_scale
        mixed = (items * scale) @ mixing + offset  # (n_shelves, items, measurements)
        return torch.tanh(shop.bend * mixed) / shop.bend if shop.bend else mixed

    total = (shop.signal + shop.nuisance * shop.nuisance_scale**2) ** 0.5
    mixing = normal(shop.signal + shop.nuisance, shop.measurements) / total
    offset = 0.5 * normal(shop.measurements)
    truth = [hidden(n, shop.swapped and k == 0) for k, n in enumerate(counts)]
    parts = [described(items) for items in truth]
    mean, deviation = parts[0].flatten(0, 1).mean(0), parts[0].flatten(0, 1).std(0)
    return *((part - mean) / deviation for part in parts), truth[2][:, :, : shop.signal]


def draw_episodes(
    shelves: Tensor, count: int, ways: int, shots: int, queries: int, seeds: Sequence[int], shuffled: bool = False
) -> Episodes:
    """Draw episodes from the shelves of each shop, (S, shelves, items, F).

    An episode's shelves are distinct, and so are its items. ``shuffled`` first deals all items of a shop to its shelves
    at random.
    """
    if ways > shelves.shape[1] or shots + queries > shelves.shape[2]:
        raise ValueError(f"ways, shots, queries: got {ways}, {shots}, {queries}, expected at most {shelves.shape[1]} "
                         f"ways and {shelves.shape[2]} rows of each")  # fmt: skip
    parts = [
        _episodes_of(items, count, ways, shots, queries, torch.Generator().manual_seed(7_000 + seed), shuffled)
        for items, seed in zip(shelves, seeds, strict=True)
    ]
    return Episodes(*(torch.stack(part) for part in zip(*parts, strict=True)), ways=ways)


def _episodes_of(items, count, ways, shots, queries, generator, shuffled) -> tuple[Tensor, ...]:
    n_shelves, n_items, width = items.shape
    if shuffled:
        order = torch.randperm(n_shelves * n_items, generator=generator)
        items = items.flatten(0, 1)[order].view(n_shelves, n_items, width)
    shelf = torch.rand(count, n_shelves, generator=generator).argsort(1)[:, :ways]  # (T, N)
    item = torch.rand(count, ways, n_items, generator=generator).argsort(2)[:, :, : shots + queries]
    x = items[shelf[:, :, None], item]  # (T, N, shots + queries, F)
    y = torch.arange(ways).view(1, ways, 1).expand(count, ways, shots + queries)
    shelf = shelf[:, :, None].expand_as(y)

    def part(values: Tensor, rows: slice) -> Tensor:
        return values[:, :, rows].flatten(1, 2)  # (T, N * rows, ...)

    first, rest = slice(0, shots), slice(shots, None)
    return part(x, first), part(y, first), part(x, rest), part(y, rest), part(shelf, first), part(shelf, rest)
