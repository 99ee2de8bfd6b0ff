"""New users whose ratings arrive one after another, in a shop where tastes may turn meanwhile, and in MovieLens.

A stream is a user's ratings in order of time. The users to train on come as few-shot tasks; none of them has a stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from recmtl_lessons.datasets.few_shot import (
    ITEMS,
    SHOP,
    SHOTS,
    Tasks,
    catalogue_of,
    deal_film_users,
    describe_films,
    tasks_of,
)
from recmtl_lessons.datasets.ratings import Ratings, draw_tasks, place_within
from recmtl_lessons.datasets.world import WorldSettings, make_world
from recmtl_lessons.models._checks import check_choice, check_count, check_number


@dataclass(frozen=True)
class Streams:
    """Users' ratings in order of time: S seeds with T users each, of whom each has N ratings of F features.

    Attributes
    ----------
    user : Tensor, (S, T)
    x : Tensor, (S, T, N, F)
        What is known of the items.
    y : Tensor, (S, T, N)
        Ratings, minus a constant near their mean.
    known : Tensor, (S, T, N), bool
        False behind the end of a user with fewer than N ratings, where rows are there to fill up.
    """

    user: Tensor
    x: Tensor
    y: Tensor
    known: Tensor

    def users(self, count: int) -> "Streams":
        """Return the first users of each seed alone."""
        check_count("count", count, 1, self.y.shape[1])
        return replace(self, **{name: getattr(self, name)[:, :count] for name in self.__dataclass_fields__})


@dataclass(frozen=True)
class Following:
    """Tasks to train on, streams to choose settings on, and streams to judge by, of different users."""

    train: Tasks
    valid: Streams
    test: Streams


@dataclass(frozen=True)
class StreamShop:
    """The knobs of a shop with streams; items are as in lesson 04's.

    Attributes
    ----------
    drift : float in [0, 1]
        Tastes of users with streams turn by ``drift`` times 90 degrees from their first to their last rating. Those of
        users to train on stand still.
    sudden : bool
        Whether they turn all at once, in the middle of the stream. False: steadily.
    taste_spread : float in [0, 1]
        How much of a taste is the user's own; at 0 all users share one taste.
    length : int
        Ratings of a stream, an even number.
    train_users, valid_users, test_users : int
    """

    drift: float = 0.0
    sudden: bool = False
    taste_spread: float = SHOP.taste_spread
    length: int = 120
    train_users: int = 200
    valid_users: int = 50
    test_users: int = 30

    def __post_init__(self):
        for name in ("drift", "taste_spread"):
            check_number(name, getattr(self, name), 0, 1)
        check_choice("sudden", self.sudden, (False, True))
        for name in ("train_users", "valid_users", "test_users"):
            check_count(name, getattr(self, name))
        check_count("length", self.length, 2 * SHOTS)
        if self.length % 2:
            raise ValueError(f"length: got {self.length!r}, expected an even number")


@lru_cache(maxsize=6)
def shop_streams(shop: StreamShop, seeds: tuple[int, ...]) -> Following:
    """Draw one shop per seed. Shops that differ in how tastes turn have the same users, items, times and noise."""
    return _side_by_side([_one_shop(shop, seed) for seed in seeds])


def _one_shop(shop: StreamShop, seed: int) -> tuple[Tasks, Streams, Streams]:
    train, parts = _standing_still(replace(shop, drift=0.0, sudden=False), seed)
    if shop.drift:
        rating = make_world(_settings(shop), seed).rating - 3.0
        parts = [(rows, replace(streams, y=rating[rows])) for rows, streams in parts]
    return train, *(streams for _, streams in parts)


def _settings(shop: StreamShop) -> WorldSettings:
    n_users = round(1.1 * (shop.train_users + shop.valid_users + shop.test_users))  # some rate too little
    return WorldSettings(
        domains=("films",),
        n_users=n_users,
        n_items=ITEMS,
        taste_dim=SHOP.tastes,
        nuisance_dim=0,
        interactions=2 * shop.length * n_users,
        taste_spread=shop.taste_spread,
        drift=shop.drift,
        sudden=shop.sudden,
    )


@lru_cache(maxsize=32)
def _standing_still(shop: StreamShop, seed: int) -> tuple[Tasks, list[tuple[Tensor, Streams]]]:
    """Return the users to train on, and streams with the world's row of each of their ratings, (T, N)."""
    world, half = make_world(_settings(shop), seed), shop.length // 2
    generator, n_users = torch.Generator().manual_seed(seed), world.settings.n_users
    rows = (place_within(world.user * ITEMS + world.item) == 0).nonzero().squeeze(1)  # an item counts once a user
    user, part = world.user[rows], 2 * world.user[rows] + (world.time[rows] >= 0.5)
    x, y = catalogue_of(world, SHOP.measurements, seed)[world.item], world.rating - 3.0
    enough = (torch.bincount(part, minlength=2 * n_users).view(n_users, 2) >= half).all(1)
    kept, shuffled = torch.zeros(len(rows), dtype=torch.bool), torch.randperm(len(rows), generator=generator)
    kept[shuffled] = (place_within(part[shuffled]) < half) & enough[user[shuffled]]  # so many of each half of time
    rows = rows[kept][user[kept].argsort(stable=True)].view(-1, shop.length)  # a user a row, in the world's order: time
    counts = [shop.train_users, shop.valid_users, shop.test_users]
    dealt = rows[torch.randperm(len(rows), generator=generator)].split([*counts, len(rows) - sum(counts)])
    drawn = torch.rand(shop.train_users * SHOP.episodes, shop.length, generator=generator).argsort(1)
    known = dealt[0].repeat(SHOP.episodes, 1).gather(1, drawn)
    support, query = known[:, :SHOTS], known[:, SHOTS : 2 * SHOTS]
    train = Tasks(
        world.user[known[:, 0]], x[support], y[support], x[query], y[query], torch.ones_like(query, dtype=torch.bool)
    )
    return train, [
        (at, Streams(world.user[at[:, 0]], x[at], y[at], torch.ones_like(at, dtype=torch.bool))) for at in dealt[1:3]
    ]


def film_streams(ratings: Ratings, seeds: Sequence[int], length: int = 60, episodes: int = 6) -> Following:
    """Return users of MovieLens in order of their ratings' times, at most so many; each seed deals the users anew.

    Films are described as in `few_shot.film_users`, by ratings of users who are in none of the three parts. Ratings of
    one second keep the order of the file.
    """
    return _side_by_side([_one_split(ratings, seed, length, episodes) for seed in seeds])


def shuffled(streams: Streams, seed: int) -> Streams:
    """Return the same users with the ratings of each in another order; rows that only fill up stay behind."""
    drawn = torch.rand(streams.y.shape, generator=torch.Generator().manual_seed(seed))
    order = (drawn + (~streams.known).float()).argsort(2)
    x = streams.x.gather(2, order[..., None].expand_as(streams.x))
    return replace(streams, x=x, y=streams.y.gather(2, order), known=streams.known.gather(2, order))


def _one_split(ratings: Ratings, seed: int, length: int, episodes: int) -> tuple[Tasks, Streams, Streams]:
    generator = torch.Generator().manual_seed(seed)
    users = deal_film_users(ratings, seed)
    described, middle = describe_films(ratings, users["catalogue"])
    x, y = described[ratings.item], ratings.rating - middle
    train = draw_tasks(ratings.user, users["train"].repeat(episodes), SHOTS, SHOTS, generator)

    def streams(users: Tensor) -> Streams:
        at, known = [], []
        for one in users:
            mine = (ratings.user == one).nonzero().squeeze(1)
            mine = mine[ratings.time[mine].argsort(stable=True)][:length]
            at.append(mine[torch.arange(length) % len(mine)])
            known.append(torch.arange(length) < len(mine))
        rows = torch.stack(at)
        return Streams(users, x[rows], y[rows], torch.stack(known))

    return tasks_of(train, x, y), streams(users["valid"]), streams(users["test"])


def _side_by_side(seeds: Sequence[tuple[Tasks, Streams, Streams]]) -> Following:
    parts = []
    for many in zip(*seeds, strict=True):
        kind = type(many[0])
        parts.append(kind(*(torch.stack([getattr(one, f) for one in many]) for f in kind.__dataclass_fields__)))
    return Following(*parts)
