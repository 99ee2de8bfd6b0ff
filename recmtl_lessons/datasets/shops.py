"""Two shops as two domains: labels from the first alone. Drawn from the synthetic world, or two genres of films."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from recmtl_lessons.datasets.ratings import Ratings, describe_items, describe_raters, genre_domains
from recmtl_lessons.datasets.world import World, WorldSettings, make_world

Streams = dict[str, dict[str, Tensor]]

#: Tastes are the same at home and abroad. A banner stands beside what sells at home; abroad it stands nearly
#: everywhere, and more beside what is not clicked.
SHOP = WorldSettings(
    domains=("home", "abroad"), interactions=4000, relatedness=1.0, nuisance=0.45, shift=1.5, offset=2.0
)
GENRE_PAIRS = (("Comedy", "Horror"), ("Drama", "Sci-Fi"), ("Romance", "Action"))
FILM_ROWS = 1500


def without_shift() -> WorldSettings:
    """The settings of shops in which the banner is used abroad as it is at home."""
    return replace(SHOP, shift=0.0)


def turned_around() -> WorldSettings:
    """The settings of shops in which the banner leans the opposite way abroad and, looked at alone, looks the same."""
    return replace(SHOP, shift=2.0, offset=0.0)


@dataclass(frozen=True)
class Shops:
    """One shop per seed, each domain cut in two by time: S seeds, n rows a half, F features.

    Attributes
    ----------
    train, test : dict {domain: dict {field: Tensor (S, n, ...)}}
        ``x`` is what a model sees, ``click`` and ``rating`` are labels. Where the truth is known ``taste`` and
        ``banner`` say what ``x`` is mixed of: how well the item fits, and how large the banner was.
    """

    train: Streams
    test: Streams

    def streams(self, *labels: str) -> Streams:
        """Return what training may see: features everywhere, the named labels in the first domain only."""
        first = next(iter(self.train))
        return {
            domain: {f: t for f, t in fields.items() if f == "x" or (domain == first and f in labels)}
            for domain, fields in self.train.items()
        }

    def one(self, number: int) -> "Shops":
        """Return the shop of one seed, by its number: the same tensors without the dimension of the seeds."""
        return self._each(lambda tensor: tensor[number])

    def double(self) -> "Shops":
        """Return the same shops as float64."""
        return self._each(Tensor.double)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Shops":
        halves = (
            {d: {f: change(t) for f, t in fields.items()} for d, fields in h.items()} for h in (self.train, self.test)
        )
        return Shops(*halves)

    def with_labels_of(self, domain: str) -> "Shops":
        """Return the same shops with this domain as the first, whose labels training may see."""
        return Shops({domain: self.train[domain], **self.train}, self.test)


@lru_cache(maxsize=8)
def open_shops(
    settings: WorldSettings = SHOP, seeds: tuple[int, ...] = tuple(range(8)), displaced: float = 0.0
) -> Shops:
    """Draw one world per seed; the earlier half of each domain trains, the later half tests.

    Parameters
    ----------
    settings : WorldSettings
    seeds : tuple of int
    displaced : float
        How much larger the banner is everywhere in the last domain, in units of ``settings.nuisance``, beside what
        the settings say.
    """
    worlds = [make_world(settings, seed) for seed in seeds]
    halves: tuple[dict, dict] = ({}, {})
    for number, domain in enumerate(settings.domains):
        moved = displaced * settings.nuisance * (number == len(settings.domains) - 1)
        fields = [_fields(world, world.rows(domain), moved) for world in worlds]
        half = len(fields[0]["click"]) // 2
        for side, cut in zip(halves, (slice(None, half), slice(half, None)), strict=True):
            side[domain] = {name: torch.stack([f[name][cut] for f in fields]) for name in fields[0]}
    return Shops(*halves)


def _fields(world: World, rows: Tensor, moved: float) -> dict[str, Tensor]:
    unmixed = world.features[rows] @ world.mixing.T  # (n, F): signal, then nuisance
    signal, nuisance = unmixed.split([world.settings.taste_dim, world.settings.nuisance_dim], dim=1)
    x = world.features[rows]
    if moved:
        x = x + moved * world.mixing[world.settings.taste_dim :].sum(0)
    banner = nuisance.mean(1) + moved
    return {"x": x, "click": world.click[rows], "rating": world.rating[rows], "taste": signal.sum(1), "banner": banner}


def side_by_side(many: Sequence[Shops]) -> Shops:
    """Return several pairs of shops as one, their seeds one after another, so that all train as one stack."""

    def joined(halves: list[Streams]) -> Streams:
        return {d: {f: torch.cat([h[d][f] for h in halves]) for f in fields} for d, fields in halves[0].items()}

    return Shops(joined([s.train for s in many]), joined([s.test for s in many]))


def film_shops(ratings: Ratings, source: str, target: str, seeds: Sequence[int]) -> Shops:
    """Return ratings of two genres as two shops: features of user and film, and whether the film was liked (4 stars).

    Each seed cuts the users in two halves, one to train on and one to test on. A user is known by one half of their
    ratings of the source genre, and rows at home are drawn from the other half: to leave out only the row's own rating
    would let its label shine through, at home and not abroad. A film is known by its year, its number of ratings and
    its other genres. No feature contains a label of the target genre.
    """
    films = genre_domains(ratings, (source, target))
    liked = (films.rating >= 4).float()
    at_home = films.domain == 0
    history = at_home & (torch.rand(len(films), generator=torch.Generator().manual_seed(0)) < 0.5)
    habits, count = describe_raters(films.user[history], films.n_users, films.rating[history], liked[history])
    of_users = torch.cat([habits, (count + 1).log()[:, None] - 3], dim=1)  # (n_users, 3)
    of_items = describe_items(films, (source, target))
    x = torch.cat([of_users[films.user], of_items[films.item]], dim=1)
    halves: tuple[dict, dict] = ({}, {})
    for d, name in enumerate(("home", "abroad")):
        open_rows = (films.domain == d) & ~history
        drawn = [_rows_of_two_halves(films, open_rows, seed) for seed in seeds]
        for fields, half in zip(halves, (0, 1), strict=True):
            rows = torch.stack([pair[half] for pair in drawn])  # (S, n)
            fields[name] = {"x": x[rows], "click": liked[rows]}
    return Shops(*halves)


def _rows_of_two_halves(films: Ratings, open_rows: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Rows by users to train on and by users to test on, as many of each, drawn from the open ones."""
    generator = torch.Generator().manual_seed(seed)
    users = films.user.unique()
    to_train = torch.zeros(films.n_users, dtype=torch.bool)
    to_train[users[torch.randperm(len(users), generator=generator)[: len(users) // 2]]] = True
    drawn = []
    for half in (to_train, ~to_train):
        rows = (open_rows & half[films.user]).nonzero().squeeze(1)
        if len(rows) < FILM_ROWS:
            raise ValueError(f"films: got {len(rows)} ratings in a half of the users, expected at least {FILM_ROWS}")
        drawn.append(rows[torch.randperm(len(rows), generator=generator)[:FILM_ROWS]])
    return drawn[0], drawn[1]
