"""New users as few-shot tasks, in a shop drawn from the synthetic world and in MovieLens.

A task is a user: some ratings to learn from (support), others to be judged on (query). No user is in two of the three
parts: train, valid and test.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from recmtl_lessons.datasets.ratings import Ratings, TaskSplit, deal_users, draw_tasks, place_within
from recmtl_lessons.datasets.world import World, WorldSettings, make_world

SHOTS = 10  # ratings of a new user, and as many to be judged on in training


@dataclass(frozen=True)
class Tasks:
    """Users as tasks: S seeds with T users each, of whom each has K support rows and Q query rows of F features.

    Attributes
    ----------
    user : Tensor, (S, T)
        Who it is; in training a user appears several times, each time with other ratings.
    support_x, query_x : Tensor, (S, T, K, F) and (S, T, Q, F)
        What is known of the items.
    support_y, query_y : Tensor, (S, T, K) and (S, T, Q)
        Ratings, minus a constant near their mean.
    known : Tensor, (S, T, Q), bool
        False where a user has fewer than Q query rows, and the row is there to fill up.
    """

    user: Tensor
    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    known: Tensor

    def shots(self, count: int) -> "Tasks":
        """Return the same users with their first ``count`` support rows alone."""
        if not 1 <= count <= self.support_y.shape[2]:
            raise ValueError(f"count: got {count!r}, expected 1 to {self.support_y.shape[2]}")
        return replace(self, support_x=self.support_x[:, :, :count], support_y=self.support_y[:, :, :count])

    def stream(self) -> dict[str, dict[str, Tensor]]:
        """Return the tasks as a stream to train on, whose batch is then a number of users."""
        if not self.known.all():
            raise ValueError("known: got users with fewer query rows than others, expected as many of each to train on")
        return {"users": {f: getattr(self, f) for f in ("support_x", "support_y", "query_x", "query_y")}}


@dataclass(frozen=True)
class ColdStart:
    """Tasks to train on, to choose settings on, and to judge by; ``middle`` (S,) was taken off the ratings."""

    train: Tasks
    valid: Tasks
    test: Tasks
    middle: Tensor


def own_mean(tasks: Tasks) -> Tensor:
    """Return the simplest answer: the mean of the user's support ratings for everything, (S, T, Q)."""
    return tasks.support_y.mean(2, keepdim=True).expand_as(tasks.query_y)


# The shop.


@dataclass(frozen=True)
class Shop:
    """The knobs of a shop.

    Attributes
    ----------
    taste_spread : float in [0, 1]
        How much of a taste is the user's own; at 0 all users share one taste.
    tastes : int
        How many things people care about in an item.
    measurements : int
        How many numbers describe an item; each is a bent mixture of those things.
    ratings : int
        Support ratings that are kept of each user to be judged.
    query : int
        Ratings that such a user is judged on.
    episodes : int
        Times that each training user appears.
    train_users, valid_users, test_users : int
    """

    taste_spread: float = 0.7
    tastes: int = 4
    measurements: int = 16
    ratings: int = 50
    query: int = 20
    episodes: int = 4
    train_users: int = 300
    valid_users: int = 50
    test_users: int = 100


SHOP = Shop()
ONE_TASTE = Shop(taste_spread=0.0)
ITEMS = 400


@lru_cache(maxsize=4)
def shop_users(shop: Shop, seeds: tuple[int, ...]) -> ColdStart:
    """Draw one shop per seed, with users and a catalogue of its own."""
    return _side_by_side([_one_shop(shop, seed) for seed in seeds], 3.0)


def _one_shop(shop: Shop, seed: int) -> tuple[Tasks, Tasks, Tasks]:
    counts = (shop.train_users, shop.valid_users, shop.test_users)
    n_users, least = round(1.05 * sum(counts)), shop.ratings + shop.query
    world = make_world(
        WorldSettings(
            domains=("films",),
            n_users=n_users,
            n_items=ITEMS,
            taste_dim=shop.tastes,
            nuisance_dim=0,
            interactions=round(1.7 * least * n_users),
            taste_spread=shop.taste_spread,
        ),
        seed,
    )
    generator = torch.Generator().manual_seed(seed)
    described = catalogue_of(world, shop.measurements, seed)
    first = place_within(world.user * ITEMS + world.item) == 0  # who rates an item twice counts once
    user, x, y = world.user[first], described[world.item[first]], world.rating[first] - 3.0
    enough = (torch.bincount(user, minlength=n_users) >= least).nonzero().squeeze(1)
    users = enough[torch.randperm(len(enough), generator=generator)].split([*counts, len(enough) - sum(counts)])

    def tasks(users: Tensor, support: int, query: int, episodes: int = 1) -> Tasks:
        return tasks_of(draw_tasks(user, users.repeat(episodes), support, query, generator), x, y)

    return (
        tasks(users[0], SHOTS, SHOTS, shop.episodes),
        tasks(users[1], shop.ratings, shop.query),
        tasks(users[2], shop.ratings, shop.query),
    )


def catalogue_of(world: World, measurements: int, seed: int) -> Tensor:
    """Describe each item, (n_items, measurements), by bent mixtures of what people care about."""
    generator = torch.Generator().manual_seed(1_000 + seed)
    factors = world.item_factors[0]  # (n_items, tastes)
    mixing = torch.randn(factors.shape[1], measurements, generator=generator) / factors.shape[1] ** 0.5
    return torch.tanh(1.5 * (factors @ mixing + 0.5 * torch.randn(measurements, generator=generator)))


# MovieLens.

_SVD = 8
FILM_MEAN = 2  # the feature that holds the film's mean, in units of _MEAN_SCALE
_MEAN_SCALE = 0.4
_LONGEST = 50  # query ratings of a user to be judged, at most
_SHARES = {"valid": 0.1, "test": 0.2, "catalogue": 0.35, "train": 0.35}


def film_users(ratings: Ratings, seeds: Sequence[int], episodes: int = 6) -> ColdStart:
    """Draw users of MovieLens as tasks; each seed deals the users anew.

    A film is described by its year, genres, number of ratings, mean rating and eight factors. The last three are
    computed from the ratings of a group of users of their own, the *catalogue*, who are in none of the three parts. If
    training users described the films, a film's mean would hold the label it is to predict: in training, not in test.

    A user to be judged gives ten ratings at random to learn from; the rest, at most 50, are the query.
    """
    parts, middles = zip(*(_one_split(ratings, seed, episodes) for seed in seeds), strict=True)
    return _side_by_side(parts, torch.tensor(middles))


def _one_split(ratings: Ratings, seed: int, episodes: int) -> tuple[tuple[Tasks, Tasks, Tasks], float]:
    generator = torch.Generator().manual_seed(seed)
    users = deal_film_users(ratings, seed)
    described, middle = describe_films(ratings, users["catalogue"])
    x, y = described[ratings.item], ratings.rating - middle

    def tasks(users: Tensor, query: int, episodes: int = 1) -> Tasks:
        return tasks_of(draw_tasks(ratings.user, users.repeat(episodes), SHOTS, query, generator), x, y)

    judged = (tasks(users[name], _LONGEST) for name in ("valid", "test"))
    return (tasks(users["train"], SHOTS, episodes), *judged), middle


def deal_film_users(ratings: Ratings, seed: int) -> dict[str, Tensor]:
    """Deal the users with at least twenty ratings to "valid", "test", "catalogue" and "train"."""
    return deal_users(ratings, _SHARES, 2 * SHOTS, seed)


def describe_films(ratings: Ratings, catalogue: Tensor) -> tuple[Tensor, float]:
    """Describe every film by the ratings of the catalogue users, (n_items, F); return the mean of those ratings too."""
    mine = torch.isin(ratings.user, catalogue)
    user, item, rating = ratings.user[mine], ratings.item[mine], ratings.rating[mine]
    middle = rating.mean()
    count = torch.bincount(item, minlength=ratings.n_items).float()
    mean = torch.zeros(ratings.n_items).index_add_(0, item, rating - middle) / (count + 5)  # few ratings: near 0
    rest = rating - middle - mean[item]
    per_user = torch.bincount(user, minlength=ratings.n_users).float()
    offset = torch.zeros(ratings.n_users).index_add_(0, user, rest) / (per_user + 5)
    table = torch.zeros(ratings.n_users, ratings.n_items)
    table[user, item] = rest - offset[user]
    years = torch.where(ratings.years > 0, ratings.years, ratings.years[ratings.years > 0].median()).float()
    columns = [(years - 1990) / 15, (count + 1).log() / 2 - 1, mean / _MEAN_SCALE]
    factors = _factors(table[catalogue], count)
    return torch.cat([torch.stack(columns, 1), ratings.genres.float(), factors], dim=1), float(middle)


def _factors(table: Tensor, count: Tensor) -> Tensor:
    """Return principal factors of the films in a table (users, films), those with few ratings shrunk: (films, _SVD)."""
    vectors = torch.linalg.eigh(table @ table.T).eigenvectors
    factors = table.T @ vectors[:, -_SVD:].flip(1)  # (films, _SVD)
    # An eigenvector's sign is arbitrary: the largest entry is made positive, on every machine.
    largest = factors.gather(0, factors.abs().argmax(0, keepdim=True))
    factors = factors * largest.sign() / (count + 5)[:, None].sqrt()
    return factors / factors[count > 0].std(0).clamp(min=1e-6)


def film_mean_and_offset(tasks: Tasks) -> Tensor:
    """Answer with the film's mean, and how much more generous the user was in their support ratings: (S, T, Q)."""
    seen, asked = (_MEAN_SCALE * x[..., FILM_MEAN] for x in (tasks.support_x, tasks.query_x))
    shots = tasks.support_y.shape[2]
    offset = (tasks.support_y - seen).mean(2, keepdim=True) * (shots / (shots + 3))  # few ratings: near 0
    return asked + offset


# What both have in common.


def tasks_of(split: TaskSplit, x: Tensor, y: Tensor) -> Tasks:
    """Return the tasks of one seed, from features x (N, F) and labels y (N,) of all ratings."""
    return Tasks(split.user, x[split.support], y[split.support], x[split.query], y[split.query], split.known)


def _side_by_side(seeds: Sequence[tuple[Tasks, Tasks, Tasks]], middle: float | Tensor) -> ColdStart:
    parts = []
    for many in zip(*seeds, strict=True):
        fields = {f: torch.stack([getattr(tasks, f) for tasks in many]) for f in Tasks.__dataclass_fields__}
        parts.append(Tasks(**fields))
    return ColdStart(*parts, torch.as_tensor(middle, dtype=torch.float32).expand(len(seeds)))
