"""One table for every real source of ratings, and the ways in which the course looks at it.

Users and items are codes that count from 0; the vocabularies keep what the codes stood for in the source. The
views are functions: genres as domains, users as few-shot tasks, calendar years as drift.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from recmtl_lessons.models._checks import check_choice, check_count, check_dense, check_number, check_values

YEAR_1, YEAR_9999 = -62_135_596_800, 253_402_300_799  # their first and last second, since 1970
_IDS = (str, int, np.integer)


@dataclass(frozen=True, eq=False)
class Ratings:
    """Ratings, one per row, with the vocabularies that their codes refer to.

    Parameters
    ----------
    user, item : Tensor
        Shape (N,), int64: codes in ``0..n_users-1`` and ``0..n_items-1``. N is at least 1.
    rating : Tensor
        Shape (N,), float32: finite, on the scale of the source.
    user_ids, item_ids : tuple
        The source's own id of each code, text or an integer, all different.
    time : Tensor, optional
        Shape (N,), int64: seconds since 1970-01-01 UTC, in the years 1 to 9999.
    domain : Tensor, optional
        Shape (N,), int64: codes in ``0..len(domain_names)-1``.
    domain_names : tuple of str
        The name of each domain; empty where ``domain`` is None.
    titles : tuple of str, optional
        The title of each item.
    years : Tensor, optional
        Shape (n_items,), int64: the year of each item, 0 where it is not known.
    genres : Tensor, optional
        Shape (n_items, n_genres), bool: the genres of each item.
    genre_names : tuple of str
        The name of each genre; empty where ``genres`` is None.
    """

    user: Tensor
    item: Tensor
    rating: Tensor
    user_ids: tuple
    item_ids: tuple
    time: Tensor | None = None
    domain: Tensor | None = None
    domain_names: tuple[str, ...] = ()
    titles: tuple[str, ...] | None = None
    years: Tensor | None = None
    genres: Tensor | None = None
    genre_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_rows()
        self._check_domains()
        self._check_items()

    def _check_rows(self) -> None:
        _check_rating(self.rating)
        rows = len(self.rating)
        _check_vocabulary("user_ids", self.user_ids, _IDS)
        _check_vocabulary("item_ids", self.item_ids, _IDS)
        _check_codes("user", self.user, rows, self.n_users)
        _check_codes("item", self.item, rows, self.n_items)
        if self.time is not None:
            _check_tensor("time", self.time, torch.int64, (rows,))
            first, last = int(self.time.min()), int(self.time.max())
            if first < YEAR_1 or last > YEAR_9999:
                raise ValueError(f"time: got {first} to {last}, expected seconds since 1970, in the years 1 to 9999")

    def _check_domains(self) -> None:
        _check_vocabulary("domain_names", self.domain_names)
        if (self.domain is None) != (not self.domain_names):
            raise ValueError("domain, domain_names: got one without the other, expected both or neither")
        if self.domain is not None:
            _check_codes("domain", self.domain, len(self), len(self.domain_names))

    def _check_items(self) -> None:
        if self.titles is not None:
            _check_tuple("titles", self.titles)
            if len(self.titles) != self.n_items:
                raise ValueError(f"titles: got {len(self.titles)}, expected one for each of {self.n_items} items")
        if self.years is not None:
            _check_tensor("years", self.years, torch.int64, (self.n_items,))
        _check_vocabulary("genre_names", self.genre_names)
        if (self.genres is None) != (not self.genre_names):
            raise ValueError("genres, genre_names: got one without the other, expected both or neither")
        if self.genres is not None:
            _check_tensor("genres", self.genres, torch.bool, (self.n_items, len(self.genre_names)))

    def __len__(self) -> int:
        return len(self.rating)

    @property
    def n_users(self) -> int:
        """Return the size of the user vocabulary, users without a rating included."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Return the size of the item vocabulary, items without a rating included."""
        return len(self.item_ids)

    def select(self, mask: Tensor) -> "Ratings":
        """Return the rows where ``mask`` is true; codes and vocabularies stay as they are.

        Parameters
        ----------
        mask : Tensor
            Shape (N,), bool, true at least once.

        Returns
        -------
        Ratings
            Its codes mean what they meant before, so that two selections can be compared.
        """
        _check_tensor("mask", mask, torch.bool, (len(self),))
        if not mask.any():
            raise ValueError(f"mask: got one that selects none of {len(self):,} ratings, expected at least one")
        return replace(
            self,
            user=self.user[mask],
            item=self.item[mask],
            rating=self.rating[mask],
            time=None if self.time is None else self.time[mask],
            domain=None if self.domain is None else self.domain[mask],
        )

    def describe(self) -> str:
        """Say in one line how many ratings there are, by whom, of what, on which scale, and from when."""
        users, items = len(self.user.unique()), len(self.item.unique())
        line = (
            f"{len(self):,} ratings by {users:,} users of {items:,} items, "
            f"{self.rating.min():g} to {self.rating.max():g}"
        )
        if self.time is not None:
            line += f", {_calendar_year(self.time.min())} to {_calendar_year(self.time.max())}"
        if self.domain is not None:
            counts = torch.bincount(self.domain, minlength=len(self.domain_names)).tolist()
            named = (f"{name} {count:,}" for name, count in zip(self.domain_names, counts, strict=True))
            line += f"; domains: {', '.join(named)}"
        return line


@dataclass(frozen=True, eq=False)
class TaskSplit:
    """Few-shot tasks, one per user; ``ratings.rating[split.support]`` has shape (T, support).

    Parameters
    ----------
    user : Tensor
        Shape (T,), int64: the user code of each task.
    support : Tensor
        Shape (T, support), int64: rows of the ratings that the model adapts to.
    query : Tensor
        Shape (T, query), int64: rows of the ratings that it is scored on; none is a support row.
    known : Tensor
        Shape (T, query), bool: False where the user has no more ratings, and the row repeats one to fill up.
    """

    user: Tensor
    support: Tensor
    query: Tensor
    known: Tensor


def genre_domains(ratings: Ratings, genres: Sequence[str], min_user_ratings: int = 5) -> Ratings:
    """Let genres be the domains of a transfer problem.

    A film that has exactly one of the named genres belongs to that domain. A film that has several of them is
    left out, so that the domains share no item and no rating of one can leak into another; genres that were
    not named do not matter. A domain that the ratings already had is replaced.

    Parameters
    ----------
    ratings : Ratings
        Ratings with item genres.
    genres : sequence of str
        At least two different genre names; their order is the order of the domains.
    min_user_ratings : int
        Users with fewer ratings than this in *any* of the domains are left out, so that every user who
        remains is known in every domain. With 0 every user stays; at most the number of all ratings.

    Returns
    -------
    Ratings
        The rows of the domains, in their old order, with ``domain`` and ``domain_names`` set.

    Raises
    ------
    ValueError
        If a domain is left without ratings.
    """
    _check_ratings(ratings, "genres")
    names = _checked_genres("genres", genres, ratings)
    check_count("min_user_ratings", min_user_ratings, 0, len(ratings))
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"genres: got {names}, expected at least two names, all different")
    belongs = ratings.genres[:, [ratings.genre_names.index(name) for name in names]]  # (n_items, D)
    domain = belongs.int().argmax(dim=1)[ratings.item]  # (N,)
    keep = (belongs.sum(dim=1) == 1)[ratings.item]  # (N,)
    cell = ratings.user * len(names) + domain
    counts = torch.bincount(cell[keep], minlength=ratings.n_users * len(names))
    counts = counts.view(ratings.n_users, len(names))
    keep &= (counts >= min_user_ratings).all(dim=1)[ratings.user]
    for name, count in zip(names, torch.bincount(domain[keep], minlength=len(names)), strict=True):
        if count == 0:
            raise ValueError(
                f"genres: got {name!r}, which is left without ratings, expected at least one "
                f"(min_user_ratings is {min_user_ratings})"
            )
    return replace(ratings, domain=domain, domain_names=names).select(keep)


def deal_users(
    ratings: Ratings, shares: Mapping[str, float], min_ratings: int = 20, seed: int = 0
) -> dict[str, Tensor]:
    """Deal the users with enough ratings to several parts at random, no user to two of them.

    Parameters
    ----------
    ratings : Ratings
    shares : mapping of str to float
        The share of the users in each part; they sum to 1, and a share of 0 leaves its part empty.
    min_ratings : int
        Users with fewer ratings are in no part.
    seed : int
        The same seed deals the same way.

    Returns
    -------
    dict of str to Tensor
        User codes of each part, int64, in random order.

    Raises
    ------
    ValueError
        If there are too few users to fill every part that has a share.
    """
    _check_ratings(ratings)
    check_count("min_ratings", min_ratings)
    check_count("seed", seed, 0, 2**63 - 1)
    if not isinstance(shares, Mapping):
        raise ValueError(f"shares: got {shares!r}, expected a share for each name")
    for part, share in shares.items():
        check_number(f"shares[{part!r}]", share, 0, 1)
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"shares: got {tuple(shares.values())}, expected shares from 0 to 1 that sum to 1")
    enough = (torch.bincount(ratings.user, minlength=ratings.n_users) >= min_ratings).nonzero().squeeze(1)
    edges = [0, *(int(share * len(enough) + 0.5) for share in accumulate(shares.values()))]
    sizes = [high - low for low, high in pairwise(edges)]
    if any(share > 0 and size == 0 for share, size in zip(shares.values(), sizes, strict=True)):
        raise ValueError(
            f"ratings: got {len(enough)} users with the {min_ratings} ratings that it takes, expected enough for "
            f"shares of {tuple(shares.values())}; they would be split {sizes}"
        )
    order = enough[torch.randperm(len(enough), generator=torch.Generator().manual_seed(seed))]
    return dict(zip(shares, order.split(sizes), strict=True))


def draw_tasks(user: Tensor, users: Tensor, support: int, query: int, generator: torch.Generator) -> TaskSplit:
    """For each of some users, draw rows to adapt to and rows to be scored on, at random whatever their time.

    Parameters
    ----------
    user : Tensor
        Shape (N,), int64: who gave each of all ratings.
    users : Tensor
        Shape (T,), int64: whose tasks to draw. Somebody who appears twice gets two draws.
    support, query : int
        Rows a task, at least 1 each. A user needs at least ``support + 1``; where they have fewer than
        ``support + query``, some rows are repeated to fill up, and `TaskSplit.known` says which. Neither is more
        than N.
    generator : torch.Generator

    Returns
    -------
    TaskSplit
    """
    _check_tensor("user", user, torch.int64, (None,))
    _check_tensor("users", users, torch.int64, (None,))
    check_count("support", support, most=len(user))
    check_count("query", query, most=len(user))
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        raise ValueError(f"generator: got {generator!r}, expected a torch.Generator of the CPU")
    wanted, order = support + query, user.argsort(stable=True)  # user by user
    ordered = user[order]
    start = torch.searchsorted(ordered, users)
    count = torch.searchsorted(ordered, users, right=True) - start
    if (count <= support).any():
        who, n = next(pair for pair in zip(users.tolist(), count.tolist(), strict=True) if pair[1] <= support)
        raise ValueError(f"users: got {who}, who has {n} ratings, expected at least {support + 1}")
    drawn = torch.empty(len(users), wanted, dtype=torch.int64)
    for row, first, n in zip(drawn, start.tolist(), count.tolist(), strict=True):
        row[:] = order[first + torch.randperm(n, generator=generator)[torch.arange(wanted) % n]]
    known = torch.arange(wanted) < count[:, None]  # (T, support + query)
    return TaskSplit(users, drawn[:, :support], drawn[:, support:], known[:, support:])


def place_within(group: Tensor) -> Tensor:
    """Count, for each row, the earlier rows that have the same group.

    Parameters
    ----------
    group : Tensor
        Shape (N,), int64, none negative: a user, for instance, or the number of a pair of user and domain.

    Returns
    -------
    Tensor
        Shape (N,), int64: 0 at a group's first row, 1 at its second, and so on.
    """
    _check_tensor("group", group, torch.int64, (None,))
    if len(group) and int(group.min()) < 0:
        raise ValueError(f"group: got {int(group.min())}, expected whole numbers of at least 0")
    order = group.argsort(stable=True)
    _, counts = group[order].unique_consecutive(return_counts=True)
    start = (counts.cumsum(0) - counts).repeat_interleave(counts)
    place = torch.empty_like(group)
    place[order] = torch.arange(len(group)) - start
    return place


def describe_items(ratings: Ratings, without_genres: Sequence[str] = ()) -> Tensor:
    """Return what is known of each item, as features near 0 that hold no rating.

    Parameters
    ----------
    ratings : Ratings
        Ratings with item genres and years; an item without a year gets the median year.
    without_genres : sequence of str
        Genres to leave out, for instance because they are the domains.

    Returns
    -------
    Tensor
        Shape (n_items, 2 + genres that are left): (year - 1990) / 15, log(number of ratings + 1) - 3, and a 1 for each
        genre.
    """
    _check_ratings(ratings, "genres", "years")
    left_out = _checked_genres("without_genres", without_genres, ratings)
    known = ratings.years > 0
    if not known.any():
        raise ValueError("ratings: got no item with a year, expected Ratings with `years` set")
    years = torch.where(known, ratings.years, ratings.years[known].median()).float()
    counts = torch.bincount(ratings.item, minlength=ratings.n_items).float()
    others = [k for k, name in enumerate(ratings.genre_names) if name not in left_out]
    numbers = torch.stack([(years - 1990) / 15, (counts + 1).log() - 3], dim=1)  # (n_items, 2)
    return torch.cat([numbers, ratings.genres[:, others].float()], dim=1)


def describe_raters(
    group: Tensor, n_groups: int, rating: Tensor, liked: Tensor, shrinkage: float = 5.0
) -> tuple[Tensor, Tensor]:
    """Return how high those rate who gave some ratings, how often they like, and from how many ratings.

    Parameters
    ----------
    group : Tensor
        Shape (N,), int64: who gave each rating; a user, or a user in one domain.
    n_groups : int
        How many of them there are, those without a rating included.
    rating, liked : Tensor
        Shape (N,), float32 each: the ratings, and 1 where the item was liked, 0 where not.
    shrinkage : float
        So many average ratings, from 1e-6 to 1e6, are added to everybody's: who gave few is taken for the average one.

    Returns
    -------
    habits : Tensor
        Shape (n_groups, 2), float32: twice the mean rating and four times the share of likes, minus everybody's, so
        that both are near 0 and spread alike.
    count : Tensor
        Shape (n_groups,), float32.
    """
    _check_rating(rating)
    if float(rating.abs().max()) > 1e6:
        raise ValueError(f"rating: got values from {rating.min():g} to {rating.max():g}, expected -1e6 to 1e6")
    _check_tensor("liked", liked, torch.float32, (len(rating),))
    check_values("liked", liked, liked.shape, binary=True)
    check_count("n_groups", n_groups)
    check_number("shrinkage", shrinkage, 1e-6, 1e6)
    _check_codes("group", group, len(rating), n_groups)
    rows = torch.stack([torch.ones_like(rating), rating, liked], dim=1)  # (N, 3)
    count, ratings, likes = torch.zeros(n_groups, 3).index_add_(0, group, rows).unbind(1)
    mean, share = rating.mean(), liked.mean()
    habits = [
        2 * ((ratings + shrinkage * mean) / (count + shrinkage) - mean),
        4 * ((likes + shrinkage * share) / (count + shrinkage) - share),
    ]
    return torch.stack(habits, dim=1), count


def by_year(ratings: Ratings, min_ratings: int = 1) -> list[tuple[int, Ratings]]:
    """Cut ratings into slices by the calendar year (UTC) in which they were given.

    A year with fewer than ``min_ratings`` is merged into the following one, again and again until there are
    enough; what is left over at the end joins the slice before it. A slice carries the last of its years.

    Parameters
    ----------
    ratings : Ratings
        Ratings with times.
    min_ratings : int
        Fewest ratings of a slice, from 1 to the number of all.

    Returns
    -------
    list of (int, Ratings)
        Slices in the order of time; together they hold every row once. Years without ratings do not appear.
    """
    _check_ratings(ratings, "time")
    check_count("min_ratings", min_ratings, 1, len(ratings))
    year = torch.from_numpy(_calendar_year(ratings.time))
    slices: list[list[int]] = []
    waiting: list[int] = []
    gathered = 0
    for value, count in zip(*(part.tolist() for part in year.unique(return_counts=True)), strict=True):
        waiting.append(value)
        gathered += count
        if gathered >= min_ratings:
            slices.append(waiting)
            waiting, gathered = [], 0
    if waiting:
        slices[-1] += waiting
    return [(s[-1], ratings.select((year >= s[0]) & (year <= s[-1]))) for s in slices]


def _calendar_year(seconds: Tensor) -> np.ndarray:
    """Return the calendar year (UTC) of seconds since 1970, as int64 of the same shape."""
    return seconds.numpy().astype("datetime64[s]").astype("datetime64[Y]").astype(np.int64) + 1970


def _check_ratings(ratings: object, *needed: str) -> None:
    """Refuse anything but ratings that have all that is ``needed``."""
    if not isinstance(ratings, Ratings):
        raise ValueError(f"ratings: got {type(ratings).__name__}, expected Ratings")
    for name in needed:
        if getattr(ratings, name) is None:
            raise ValueError(f"ratings: got no {name}, expected Ratings with `{name}` set")


def _checked_genres(name: str, chosen: Sequence[str], ratings: Ratings) -> tuple[str, ...]:
    """Refuse anything but names of the ratings' genres."""
    if not isinstance(chosen, Sequence) or isinstance(chosen, str):
        raise ValueError(f"{name}: got {chosen!r}, expected a sequence of genre names")
    for genre in chosen:
        check_choice(name, genre, ratings.genre_names)
    return tuple(chosen)


def _check_tensor(name: str, value: Tensor, dtype: torch.dtype, shape: tuple[int | None, ...]) -> None:
    """Refuse what is no dense tensor of this dtype and shape on the CPU, where None stands for any size."""
    sizes = ", ".join("N" if size is None else str(size) for size in shape)
    wanted = f"{dtype} of shape ({sizes}{',' if len(shape) == 1 else ''})"
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}: got {type(value).__name__}, expected a tensor, {wanted}")
    fits = value.dim() == len(shape) and all(n in (None, m) for n, m in zip(shape, value.shape, strict=True))
    if value.dtype != dtype or not fits:
        raise ValueError(f"{name}: got {value.dtype} of shape {tuple(value.shape)}, expected {wanted}")
    check_dense(name, value)
    if value.device.type != "cpu":
        raise ValueError(f"{name}: got a tensor on {value.device}, expected one on the CPU")


def _check_rating(rating: Tensor) -> None:
    _check_tensor("rating", rating, torch.float32, (None,))
    if len(rating) == 0:
        raise ValueError("rating: got no row, expected at least one rating")
    if not torch.isfinite(rating).all():
        bad = int((~torch.isfinite(rating)).nonzero()[0, 0])
        raise ValueError(f"rating: got {rating[bad]:g} in row {bad}, expected finite numbers")


def _check_codes(name: str, codes: Tensor, rows: int, size: int) -> None:
    _check_tensor(name, codes, torch.int64, (rows,))
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= size:
        raise ValueError(f"{name}: got codes {low} to {high}, expected 0 to {size - 1}")


def _check_tuple(name: str, entries: tuple, kinds: tuple[type, ...] = (str,)) -> None:
    """Refuse anything but a tuple of these kinds."""
    bad = [entries] if not isinstance(entries, tuple) else [e for e in entries if not isinstance(e, kinds)]
    if bad:
        wanted = "a tuple of str" if kinds == (str,) else "a tuple of str or integers"
        raise ValueError(f"{name}: got {type(bad[0]).__name__}, expected {wanted}")


def _check_vocabulary(name: str, entries: tuple, kinds: tuple[type, ...] = (str,)) -> None:
    """Refuse anything but a tuple of these kinds whose entries all differ."""
    _check_tuple(name, entries, kinds)
    if len(set(entries)) < len(entries):
        twice = next(entry for entry, count in Counter(entries).items() if count > 1)
        raise ValueError(f"{name}: got {twice!r} more than once, expected different entries")
