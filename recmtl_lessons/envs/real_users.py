"""Users of sessions whose tastes are measured in real ratings. How a session runs stays invented."""

from collections.abc import Sequence

import torch
from torch import Tensor

from recmtl_lessons.datasets import Ratings, place_within
from recmtl_lessons.envs._checks import MOST_LOGITS
from recmtl_lessons.envs.surfaces import CATEGORIES, SURFACES
from recmtl_lessons.envs.users import SessionUsers, checked_names
from recmtl_lessons.models._checks import check_answer, check_choice, check_count, check_number

_SHARES = (0.6, 0.2, 0.2)  # of the users: to learn from, to choose settings on, to be judged on
_SHRINK = 3.0  # ratings of nobody in particular that are added to each user's own
_WIDEST = 4.0  # standard units


def users_from_ratings(
    ratings: Ratings,
    seed: int,
    group: int = 0,
    genres: Sequence[str] = ("Drama", "Comedy", "Action"),
    strength: float = 1.5,
) -> SessionUsers:
    """Turn raters into users of sessions, with genres as categories.

    Each rating falls into one of two halves by chance. The profile is what the first half says: the share of each
    genre among the user's rated items, how its ratings lie above the user's own mean, and how many and how kind the
    ratings are. The hidden tastes are what the second half says, on each surface something else:

    - home: how often a genre is rated at all;
    - search: how well it is rated;
    - notify: how often it is among the later half of these ratings, by time where there is one.

    Shares, likings and means are drawn towards those of all users by three ratings. A genre's taste is brought to the
    mean 0 and the standard deviation ``strength`` over all users, and what then lies more than four standard deviations
    away to four: ratings have no natural scale in clicks. The profile's features are standardised likewise, to 1.

    Parameters
    ----------
    ratings : Ratings
        With genres.
    seed : int
        Of the halves, and of who belongs to which group.
    group : {0, 1, 2}
        Six tenths of the users, two tenths, and the other two tenths.
    genres : sequence of str
        C of them, from 2 to 6, all different.
    strength : float
        In logits; at most a million.

    Returns
    -------
    SessionUsers
        With a profile of 2 C + 2 features.
    """
    if not isinstance(ratings, Ratings) or ratings.genres is None:
        came = "Ratings without genres" if isinstance(ratings, Ratings) else type(ratings).__name__
        raise ValueError(f"ratings: got {came}, expected Ratings with `genres` set")
    genres = checked_names("genres", genres, 2, len(CATEGORIES))
    for name in genres:
        check_choice("genres", name, ratings.genre_names)
    check_count("seed", seed, 0)
    check_count("group", group, 0, len(_SHARES) - 1)
    check_number("strength", strength, 0, MOST_LOGITS)
    generator = torch.Generator().manual_seed(seed)
    columns = [ratings.genre_names.index(name) for name in genres]
    belongs = ratings.genres[:, columns][ratings.item].float()  # (N, C)
    first = torch.rand(len(ratings.user), generator=generator) < 0.5
    order = torch.randperm(ratings.n_users, generator=generator)
    ends = [0, *(torch.tensor(_SHARES).cumsum(0) * ratings.n_users).round().long().tolist()]
    rows = order[ends[group] : ends[group + 1]]
    if len(rows) == 0 or len(order) == 1:
        raise ValueError(f"ratings: got {ratings.n_users} users, expected enough for three groups")
    if len(first.unique()) == 1:
        raise ValueError(f"ratings: got {len(first)} ratings that all fell into one half, expected some in each")
    known, hidden = (_Half(ratings, belongs, rows) for rows in (first, ~first))
    profile = torch.cat([known.share(), known.liking(), known.habits()], dim=1)
    tastes = torch.stack([hidden.share(), hidden.liking(), _Half(ratings, belongs, hidden.later()).share()], dim=1)
    profile, tastes = _standard(profile), _standard(tastes)
    check_answer(torch.cat([profile, tastes.flatten(1)], dim=1), ratings=ratings.rating)
    return SessionUsers(profile[rows], float(strength) * tastes[rows], SURFACES, genres)


class _Half:
    """Some of the ratings, and what they say of each user; users without a rating get what holds for all."""

    def __init__(self, ratings: Ratings, belongs: Tensor, rows: Tensor):
        self.ratings, self.belongs, self.rows = ratings, belongs, rows
        self._user, self._n = ratings.user[rows], ratings.n_users
        self._rating, self._of = ratings.rating[rows], belongs[rows]
        self._count = self._sum(torch.ones_like(self._rating))  # (U,)

    def share(self) -> Tensor:
        """Return the logit of each genre's share of the user's ratings, (U, C)."""
        everybody = self._of.mean(0)
        share = (self._sum(self._of) + _SHRINK * everybody) / (self._count + _SHRINK)[:, None]
        return share.clamp(0.01, 0.99).logit()

    def liking(self) -> Tensor:
        """Return how far a genre's ratings lie above the user's mean, in stars; few are drawn to 0: (U, C)."""
        above = self._rating - self._mean()[self._user]
        return self._sum(above[:, None] * self._of) / (self._sum(self._of) + _SHRINK)

    def habits(self) -> Tensor:
        """Return the logarithm of the number of ratings, and their mean: (U, 2)."""
        return torch.stack([(self._count + 1).log(), self._mean()], dim=1)

    def later(self) -> Tensor:
        """Return the later half of each user's ratings, as a mask over all; by their order where there are no times."""
        rows = self.rows.nonzero().squeeze(1)
        if self.ratings.time is not None:
            rows = rows[self.ratings.time[rows].argsort(stable=True)]
        user = self.ratings.user[rows]
        late = 2 * place_within(user) >= torch.bincount(user)[user]
        mask = torch.zeros_like(self.rows)
        mask[rows[late]] = True
        return mask

    def _mean(self) -> Tensor:
        everybody = self._rating.mean()
        return (self._sum(self._rating) + _SHRINK * everybody) / (self._count + _SHRINK)

    def _sum(self, values: Tensor) -> Tensor:
        """Sum of the rows of each user, (U, ...)."""
        return torch.zeros(self._n, *values.shape[1:]).index_add_(0, self._user, values)


def _standard(values: Tensor) -> Tensor:
    """Bring values to mean 0 and standard deviation 1 over the users, and outliers in."""
    return ((values - values.mean(0)) / (values.std(0) + 1e-6)).clamp(-_WIDEST, _WIDEST)
