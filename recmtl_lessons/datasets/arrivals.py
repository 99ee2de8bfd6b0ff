"""Domains that arrive one after another: pairs of users and items, or features whose clue turns, or genres of films."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from recmtl_lessons.datasets._parts import Parts, Streams
from recmtl_lessons.datasets.ratings import Ratings, genre_domains
from recmtl_lessons.datasets.world import World, WorldSettings, make_world

#: People shop for books, then films, then games: the same people, and tastes that are more or less related.
PAIRS = WorldSettings(n_users=300, n_items=60, taste_dim=4, nuisance_dim=0, interactions=9000, relatedness=0.5)
#: One network on features serves three shops, whose banner helps in the first and misleads in the last.
CLUES = WorldSettings(n_users=600, interactions=3000, relatedness=1.0, nuisance=0.3, shift=2.0, offset=0.0)
GENRES = ("Drama", "Comedy", "Action")
_SHARES = (0.6, 0.2)  # of the rows, to train on and to choose settings by; the rest is what claims are about


@dataclass(frozen=True)
class Arrivals(Parts):
    """Domains in the order in which they arrive, cut into rows to train on, to choose by, and to test on.

    Attributes
    ----------
    train, valid, test : dict {domain: dict {field: Tensor (S, n, ...)}}
        One row of S a seed. ``click`` is the label; ``user`` and ``item`` are ids, or ``x`` are features.
    n_users : int
        Size of the vocabulary of users; 0 where there are features.
    n_items : dict {domain: int}
        Size of each domain's vocabulary of items; empty where there are features.
    """

    n_users: int = 0
    n_items: dict[str, int] | None = None

    @property
    def domains(self) -> tuple[str, ...]:
        """Return the names of the domains, in the order of their arrival."""
        return tuple(self.train)

    def in_order(self, domains: Sequence[str]) -> "Arrivals":
        """Return the same domains, arriving in another order; some may be left out."""
        return replace(
            self, **{name: {d: getattr(self, name)[d] for d in domains} for name in ("train", "valid", "test")}
        )


@lru_cache(maxsize=8)
def pairs_in_turn(settings: WorldSettings = PAIRS, seeds: tuple[int, ...] = tuple(range(8))) -> Arrivals:
    """Draw one world per seed, whose rows are pairs of a user and an item with a click."""
    worlds = [make_world(settings, seed) for seed in seeds]
    rows = {d: [_of_pairs(world, world.rows(d)) for world in worlds] for d in settings.domains}
    return _cut(rows, settings.n_users, dict.fromkeys(settings.domains, settings.n_items))


@lru_cache(maxsize=8)
def clues_in_turn(settings: WorldSettings = CLUES, seeds: tuple[int, ...] = tuple(range(8))) -> Arrivals:
    """Draw one world per seed, whose rows are features of an interaction with a click."""
    worlds = [make_world(settings, seed) for seed in seeds]
    return _cut({d: [_of_features(world, world.rows(d)) for world in worlds] for d in settings.domains})


def genres_in_turn(ratings: Ratings, seeds: Sequence[int], genres: Sequence[str] = GENRES) -> Arrivals:
    """Let genres of films arrive one after another; a click is a rating of four stars or more.

    Films of several of the genres are left out, and users with fewer than five ratings in one of them. A seed says
    which ratings are trained on.
    """
    films = genre_domains(ratings, genres)
    users, user = films.user.unique(return_inverse=True)
    rows, n_items = {}, {}
    for number, genre in enumerate(genres):
        of_genre = films.domain == number
        items, item = films.item[of_genre].unique(return_inverse=True)
        known = {"user": user[of_genre], "item": item, "click": (films.rating[of_genre] >= 4).float()}
        orders = [torch.randperm(len(item), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        rows[genre] = [{name: values[order] for name, values in known.items()} for order in orders]
        n_items[genre] = len(items)
    return _cut(rows, len(users), n_items)


def stacked(many: Sequence[Arrivals]) -> Arrivals:
    """Return several as one, their seeds one after another, so that all train as one stack."""

    def joined(parts: list[Streams]) -> Streams:
        return {d: {f: torch.cat([part[d][f] for part in parts]) for f in fields} for d, fields in parts[0].items()}

    return replace(many[0], **{name: joined([getattr(a, name) for a in many]) for name in ("train", "valid", "test")})


def _of_pairs(world: World, rows: Tensor) -> dict[str, Tensor]:
    return {"user": world.user[rows], "item": world.item[rows], "click": world.click[rows]}


def _of_features(world: World, rows: Tensor) -> dict[str, Tensor]:
    return {"x": world.features[rows], "click": world.click[rows]}


def _cut(rows: dict[str, list[dict[str, Tensor]]], n_users: int = 0, n_items: dict[str, int] | None = None) -> Arrivals:
    parts: tuple[Streams, Streams, Streams] = ({}, {}, {})
    for domain, of_seeds in rows.items():
        n = len(of_seeds[0]["click"])
        ends = (0, round(_SHARES[0] * n), round(sum(_SHARES) * n), n)
        for k, part in enumerate(parts):
            part[domain] = {f: torch.stack([one[f][ends[k] : ends[k + 1]] for one in of_seeds]) for f in of_seeds[0]}
    return Arrivals(*parts, n_users, n_items)
