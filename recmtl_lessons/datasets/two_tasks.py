"""Several tasks on one input: clicks and ratings of a shop, whether and how a film is rated, or genres as tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from recmtl_lessons.datasets._parts import Parts, Streams
from recmtl_lessons.datasets.ratings import Ratings, describe_raters, genre_domains
from recmtl_lessons.datasets.world import World, WorldSettings, make_world

#: What the features say of clicks, and what they say of ratings, has nothing in common.
APART = WorldSettings(
    domains=("films",),
    n_users=2000,
    n_items=300,
    nuisance_dim=0,
    interactions=1,
    task_relatedness=0.0,
    rating_features=True,
)
UNITS = ("tenths", "stars", "spread")
GENRES = ("Drama", "Comedy", "Action", "Horror")
_HELD_OUT = (1000, 3000)  # rows to choose settings by, and rows that claims are about


@dataclass(frozen=True)
class Tasks(Parts):
    """Rows of several tasks, to train on, to choose by, and to test on.

    Attributes
    ----------
    train, valid, test : dict {stream: dict {field: Tensor (S, n, ...)}}
        One row of S a seed. ``x`` are features; the other fields are labels, named as their tasks. Tasks whose labels
        stand beside each other share a stream.
    types : dict {task: "classification" or "regression"}
    """

    types: dict[str, str]

    @property
    def feature_dim(self) -> int:
        """Return the number of features."""
        return next(iter(self.train.values()))["x"].shape[-1]

    def in_unit(self, unit: str) -> tuple["Tasks", Tensor]:
        """Return the same with regressions, which are in stars, in another unit; and how many stars that unit is.

        Parameters
        ----------
        unit : {"tenths", "stars", "spread"}
            Tenths of a star, as integers from 10 to 50 are; stars; or the spread of each task's rows to train on.

        Returns
        -------
        Tasks
        Tensor, (S, T)
            1 for classifications.
        """
        if unit not in UNITS:
            raise ValueError(f"unit: got {unit!r}, expected one of {', '.join(map(repr, UNITS))}")
        sizes = torch.ones(self.n_seeds, len(self.types))
        parts = (self.train, self.valid, self.test)
        changed: list[Streams] = [{s: dict(fields) for s, fields in part.items()} for part in parts]
        for number, (task, kind) in enumerate(self.types.items()):
            if kind == "regression":
                stream = next(name for name, fields in self.train.items() if task in fields)
                spread = self.train[stream][task].std(1)
                sizes[:, number] = {"tenths": torch.full_like(spread, 0.1), "spread": spread}.get(unit, 1.0)
                for part in changed:
                    part[stream][task] = part[stream][task] / sizes[:, number : number + 1]
        return Tasks(*changed, self.types), sizes


@lru_cache(maxsize=8)
def clicks_and_ratings(
    settings: WorldSettings = APART,
    seeds: tuple[int, ...] = tuple(range(8)),
    rows: int = 1000,
) -> Tasks:
    """Draw one world per seed: features, with a click and a rating, in stars less their mean, beside each other.

    Parameters
    ----------
    settings : WorldSettings
        How many interactions there are is said by ``rows``.
    seeds : tuple of int
    rows : int
        To train on.
    """
    ends = (0, rows, rows + _HELD_OUT[0], rows + sum(_HELD_OUT))
    settings = WorldSettings(**{**vars(settings), "interactions": ends[-1]})
    drawn = [_of_world(make_world(settings, seed), seed) for seed in seeds]
    fields = {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}
    fields["rating"] = fields["rating"] - fields["rating"][:, :rows].mean(1, keepdim=True)
    parts = ({"rows": {f: t[:, a:b] for f, t in fields.items()}} for a, b in pairwise(ends))
    return Tasks(*parts, {"click": "classification", "rating": "regression"})


def _of_world(world: World, seed: int) -> dict[str, Tensor]:
    order = torch.randperm(len(world), generator=torch.Generator().manual_seed(seed))
    return {"x": world.features[order], "click": world.click[order], "rating": world.rating[order]}


def rated_and_how(ratings: Ratings, seeds: Sequence[int], rows: int = 4000) -> Tasks:
    """Ask of pairs of a user and a film whether the film was rated, and of those that were, how.

    Half of the ratings, dealt by the seed, describe users and films; the other half are rows, so that no row's own
    rating is among its features. A pair that was not rated is a user of a row with a film drawn like that of another
    row: as popular, and never rated by that user.
    """
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(ratings), generator=generator)
        describe = _Described(ratings, order[: len(order) // 2])
        rest = order[len(order) // 2 :]
        chosen = rest[: rows + sum(_HELD_OUT)]
        user, item = ratings.user[chosen], ratings.item[chosen]
        other = ratings.item[rest[torch.randint(len(rest), (len(chosen),), generator=generator)]]
        pair = user * ratings.n_items + other
        free = ~torch.isin(pair, ratings.user * ratings.n_items + ratings.item)
        asked = torch.rand(len(chosen), generator=generator) < 0.5
        asked &= free  # asked about the other film
        x = describe(user, torch.where(asked, other, item))
        drawn.append((x, (~asked).float(), describe(user, item), ratings.rating[chosen] - describe.mean))
    whether, rated, how, stars = (torch.stack(part) for part in zip(*drawn, strict=True))
    return _cut({"rated": {"x": whether, "rated": rated}, "rating": {"x": how, "rating": stars}}, rows, "rated")


def genres_as_tasks(ratings: Ratings, seeds: Sequence[int], rows: int = 4000) -> Tasks:
    """Let the ratings of each genre, in stars less a mean, be a task; films of several genres are in none."""
    films = genre_domains(ratings, GENRES, min_user_ratings=0)
    found: dict[str, list] = {genre: [] for genre in GENRES}
    for seed in seeds:
        order = torch.randperm(len(films), generator=torch.Generator().manual_seed(seed))
        describe = _Described(films, order[: len(order) // 2])
        rest = order[len(order) // 2 :]
        for number, genre in enumerate(GENRES):
            own = rest[films.domain[rest] == number]
            x = describe(films.user[own], films.item[own])
            found[genre].append((x, films.rating[own] - describe.mean))
    streams = {}
    for genre, parts in found.items():
        n = min(len(x) for x, _ in parts)
        streams[genre] = {"x": torch.stack([x[:n] for x, _ in parts]), genre: torch.stack([y[:n] for _, y in parts])}
    return _cut(streams, rows)


class _Described:
    """Users and films as some of the ratings know them: how many, how high, and of which genres."""

    def __init__(self, ratings: Ratings, rows: Tensor):
        user, item, rating = ratings.user[rows], ratings.item[rows], ratings.rating[rows]
        self.mean = rating.mean()
        genres = ratings.genres.float()
        shares = torch.zeros(ratings.n_users, genres.shape[1]).index_add_(0, user, genres[item])
        shares = shares / shares.sum(1, keepdim=True).clamp(min=1)
        years = torch.where(ratings.years > 0, ratings.years, ratings.years[ratings.years > 0].median())
        self._users = torch.cat([self._habits(user, rating, ratings.n_users), shares * 5], dim=1)
        films = [self._habits(item, rating, ratings.n_items), (years.float() - 1990).unsqueeze(1) / 15, genres]
        self._films = torch.cat(films, dim=1)

    def _habits(self, group: Tensor, rating: Tensor, n_groups: int) -> Tensor:
        """Return the logarithm of how many ratings each has, and how high they are, both near 0: (n_groups, 2)."""
        habits, count = describe_raters(group, n_groups, rating, (rating >= 4).float())
        return torch.stack([(count + 1).log() - 2, habits[:, 0]], dim=1)

    def __call__(self, user: Tensor, item: Tensor) -> Tensor:
        return torch.cat([self._users[user], self._films[item]], dim=1)


def _cut(streams: Streams, rows: int, binary: str = "") -> Tasks:
    """Cut each stream: at most so many rows to train on, and of the rest a quarter to choose by."""
    parts: tuple[Streams, Streams, Streams] = ({}, {}, {})
    for name, fields in streams.items():
        n = fields["x"].shape[1]
        first = min(rows, n // 2)
        ends = (0, first, first + (n - first) // 4, n)
        for part, (a, b) in zip(parts, pairwise(ends), strict=True):
            part[name] = {f: t[:, a:b] for f, t in fields.items()}
    return Tasks(*parts, {task: "classification" if task == binary else "regression" for task in streams})
