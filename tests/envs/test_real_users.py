"""Users from ratings against loops in plain Python, and that neither half of the ratings says what the other does."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.envs import SURFACES, SessionVectorEnv, users_from_ratings
from tests.support.films import needs_films

GENRES = ("Comedy", "Drama", "War")
NAMES = ("Action", "Comedy", "Drama", "War")


def ratings_of(n_users=20, n_items=25, seed=0, timed=True):
    """Every user but the last rates from 1 to 25 items at random times; the last rates nothing."""
    draws = torch.Generator().manual_seed(seed)
    user, item = [], []
    for u in range(n_users - 1):
        count = int(torch.randint(1, n_items + 1, (), generator=draws))
        user += [u] * count
        item += torch.randperm(n_items, generator=draws)[:count].tolist()
    order = torch.randperm(len(user), generator=draws)
    return Ratings(
        user=torch.tensor(user)[order],
        item=torch.tensor(item)[order],
        rating=torch.randint(1, 11, (len(user),), generator=draws) / 2,
        user_ids=tuple(range(n_users)),
        item_ids=tuple(range(n_items)),
        time=torch.randint(10**9, 10**9 + 50, (len(user),), generator=draws) if timed else None,
        genres=torch.rand(n_items, 4, generator=draws) < 0.4,
        genre_names=NAMES,
    )


def halves(ratings, seed):
    """Row numbers of the first and of the second half, and the users in the order in which groups are dealt."""
    draws = torch.Generator().manual_seed(seed)
    first = torch.rand(len(ratings), generator=draws) < 0.5
    order = torch.randperm(ratings.n_users, generator=draws)
    return first.nonzero().flatten().tolist(), (~first).nonzero().flatten().tolist(), order.tolist()


# The same in plain Python: rows are (user, genres, stars, time).


def rows_of(ratings, numbers):
    columns = [NAMES.index(genre) for genre in GENRES]
    times = range(len(ratings)) if ratings.time is None else ratings.time.tolist()
    belongs = ratings.genres.tolist()
    return [
        (int(ratings.user[n]), [belongs[int(ratings.item[n])][c] for c in columns], float(ratings.rating[n]), times[n])
        for n in numbers
    ]


def shares(rows, users):
    """Logit of each genre's share, with three ratings of everybody's added."""
    everybody = [sum(r[1][c] for r in rows) / len(rows) for c in range(3)]
    found = []
    for u in range(users):
        own = [r for r in rows if r[0] == u]
        share = [(sum(r[1][c] for r in own) + 3 * everybody[c]) / (len(own) + 3) for c in range(3)]
        found.append([math.log(s / (1 - s)) for s in (min(max(s, 0.01), 0.99) for s in share)])
    return found


def means(rows, users):
    everybody = sum(r[2] for r in rows) / len(rows)
    own = [[r[2] for r in rows if r[0] == u] for u in range(users)]
    return [(sum(stars) + 3 * everybody) / (len(stars) + 3) for stars in own]


def likings(rows, users):
    mean, found = means(rows, users), []
    for u in range(users):
        above = [[r[2] - mean[u] for r in rows if r[0] == u and r[1][c]] for c in range(3)]
        found.append([sum(a) / (len(a) + 3) for a in above])
    return found


def later_half(rows, users):
    """Of each user's rows, in the order of time, those from the middle on."""
    found = []
    for u in range(users):
        own = sorted((r for r in rows if r[0] == u), key=lambda r: r[3])
        found += own[math.ceil(len(own) / 2) :]
    return found


def standard(columns_by_user):
    """Mean 0 and standard deviation 1 of each column over all users, at most 4 away."""
    columns = []
    for column in zip(*columns_by_user, strict=True):
        mean = sum(column) / len(column)
        sd = math.sqrt(sum((v - mean) ** 2 for v in column) / (len(column) - 1))
        columns.append([min(max((v - mean) / (sd + 1e-6), -4), 4) for v in column])
    return [list(row) for row in zip(*columns, strict=True)]


def by_hand(ratings, seed, group, strength=1.5):
    """Profile and tastes of a group's users."""
    first, second, order = halves(ratings, seed)
    known, hidden, n = rows_of(ratings, first), rows_of(ratings, second), ratings.n_users
    counts = [math.log(sum(r[0] == u for r in known) + 1) for u in range(n)]
    habits = [list(pair) for pair in zip(counts, means(known, n), strict=True)]
    profile = standard([a + b + c for a, b, c in zip(shares(known, n), likings(known, n), habits, strict=True)])
    tastes = [standard(t) for t in (shares(hidden, n), likings(hidden, n), shares(later_half(hidden, n), n))]
    ends = [0, round(0.6 * n), round(0.8 * n), n]
    people = order[ends[group] : ends[group + 1]]
    tensor = torch.tensor([[tastes[k][u] for k in range(3)] for u in people])
    return torch.tensor([profile[u] for u in people]), strength * tensor


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("group", [0, 1, 2])
@given(st.integers(0, 1000), st.integers(8, 24))
@examples(max_examples=5)
def test_as_in_plain_python(timed, group, seed, n_users):
    ratings = ratings_of(n_users, seed=seed, timed=timed)
    found = users_from_ratings(ratings, seed, group, GENRES)
    profile, tastes = by_hand(ratings, seed, group)
    torch.testing.assert_close(found.profile, profile, rtol=0, atol=2e-4)
    torch.testing.assert_close(found.tastes, tastes, rtol=0, atol=2e-4)
    assert float(tastes.abs().max()) > 0.1
    assert (found.tasks, found.categories) == (SURFACES, GENRES)


class TestHalves:
    RATINGS = ratings_of(seed=4)

    def changed(self, rows):
        """Other stars, times and items in some rows."""
        draws = torch.Generator().manual_seed(9)
        parts = {name: getattr(self.RATINGS, name).clone() for name in ("rating", "item", "time")}
        parts["rating"][rows] = torch.randint(1, 11, (len(rows),), generator=draws) / 2
        parts["item"][rows] = torch.randint(self.RATINGS.n_items, (len(rows),), generator=draws)
        parts["time"][rows] += torch.randint(-90, 90, (len(rows),), generator=draws)
        return replace(self.RATINGS, **parts)

    @pytest.mark.parametrize("seed", [0, 1])
    def test_what_is_hidden_does_not_move_the_profile_nor_what_is_known_the_tastes(self, seed):
        known, hidden, _ = halves(self.RATINGS, seed)
        before = users_from_ratings(self.RATINGS, seed, 0, GENRES)
        for rows, still, moved in ((hidden, "profile", "tastes"), (known, "tastes", "profile")):
            after = users_from_ratings(self.changed(rows), seed, 0, GENRES)
            assert torch.equal(getattr(after, still), getattr(before, still))
            assert float((getattr(after, moved) - getattr(before, moved)).abs().max()) > 0.5

    def test_stars_move_only_how_well_a_genre_is_rated(self):
        _, hidden, _ = halves(self.RATINGS, 0)
        stars = self.RATINGS.rating.clone()
        stars[hidden] = 5.5 - stars[hidden]
        before, after = (
            users_from_ratings(r, 0, 0, GENRES) for r in (self.RATINGS, replace(self.RATINGS, rating=stars))
        )
        assert [torch.equal(before.on(s), after.on(s)) for s in SURFACES] == [True, False, True]

    def test_times_move_only_what_comes_late(self):
        before, after = (
            users_from_ratings(r, 0, 0, GENRES) for r in (self.RATINGS, replace(self.RATINGS, time=-self.RATINGS.time))
        )
        assert torch.equal(before.profile, after.profile)
        assert [torch.equal(before.on(s), after.on(s)) for s in SURFACES] == [True, True, False]


class TestGroups:
    def test_each_user_is_in_one(self):
        """Profile and tastes tell who somebody is."""
        groups = [users_from_ratings(ratings_of(20), 3, group, GENRES) for group in range(3)]
        assert [len(group) for group in groups] == [12, 4, 4]
        people = [torch.cat([group.profile, group.tastes.flatten(1)], dim=1) for group in groups]
        assert len(torch.cat(people).unique(dim=0)) == 20

    def test_the_seed_deals_them(self):
        one, same, other = (users_from_ratings(ratings_of(20), seed, 1, GENRES) for seed in (3, 3, 4))
        assert torch.equal(one.tastes, same.tastes)
        assert not torch.equal(one.tastes, other.tastes)

    @pytest.mark.parametrize("strength", [0.0, 0.5, 3.0])
    def test_tastes_over_all_of_them_have_mean_0_and_the_strength(self, strength):
        groups = [users_from_ratings(ratings_of(60), 3, g, GENRES, strength) for g in range(3)]
        tastes = torch.cat([group.tastes for group in groups]).flatten(1)  # (U, K C)
        torch.testing.assert_close(tastes.mean(0), torch.zeros(9), rtol=0, atol=0.02 * strength + 1e-6)
        torch.testing.assert_close(tastes.std(0), torch.full((9,), strength), rtol=0.02, atol=1e-6)

    def test_they_can_have_sessions(self):
        found = users_from_ratings(ratings_of(), 0, genres=["Comedy", "War"])
        assert found.categories == ("Comedy", "War")
        env = SessionVectorEnv(found, "search", 5)
        assert env.reset(seed=0)[0].shape == (5, 2 * 2 + 2 + 2 * 2 + 1)


def correlation(one, other):
    """Between two tables, mean over the columns."""
    pairs = zip(one.T, other.T, strict=True)
    return float(torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]).mean())


@needs_films
class TestMovieLens:
    @pytest.fixture
    def everybody(self, movielens):
        return [users_from_ratings(movielens, 0, group) for group in range(3)]

    def test_sizes(self, everybody):
        assert [len(group) for group in everybody] == [366, 122, 122]
        assert [group.profile.shape[1] for group in everybody] == [8] * 3
        assert all(float(group.tastes.abs().max()) <= 6 for group in everybody)

    def test_the_profile_says_something_of_hidden_tastes(self, everybody):
        """What is rated, and how well, in one half of the ratings and in the other."""
        profile = torch.cat([group.profile for group in everybody])
        tastes = torch.cat([group.tastes for group in everybody])
        assert correlation(profile[:, :3], tastes[:, 0]) > 0.6
        assert correlation(profile[:, 3:6], tastes[:, 1]) > 0.25

    def test_how_the_surfaces_are_related(self, everybody):
        home, search, notify = torch.cat([group.tastes for group in everybody]).unbind(1)
        assert 0.75 < correlation(home, notify) < 0.95
        assert abs(correlation(home, search)) < 0.3
        assert abs(correlation(search, notify)) < 0.3
