"""The table of ratings and its three views."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recmtl_lessons.datasets.ratings import (
    Ratings,
    by_year,
    deal_users,
    describe_items,
    describe_raters,
    draw_tasks,
    genre_domains,
    place_within,
)

_YEAR_2000, _DAY = 946_684_800, 86_400


def make(n_users=30, n_items=12, per_user=(3, 12), seed=0):
    """Each user rates a random number of different items, at random times in 2000 to 2004."""
    generator = torch.Generator().manual_seed(seed)
    user, item = [], []
    for u in range(n_users):
        count = int(torch.randint(per_user[0], per_user[1] + 1, (), generator=generator))
        user += [u] * count
        item += torch.randperm(n_items, generator=generator)[:count].tolist()
    n = len(user)
    return Ratings(
        user=torch.tensor(user),
        item=torch.tensor(item),
        rating=torch.randint(1, 11, (n,), generator=generator) / 2,
        user_ids=tuple(range(100, 100 + n_users)),
        item_ids=tuple(f"film {i}" for i in range(n_items)),
        time=_YEAR_2000 + torch.randint(0, 1800 * _DAY, (n,), generator=generator),
        genres=torch.rand(n_items, 3, generator=generator) < 0.5,
        genre_names=("Comedy", "Drama", "War"),
    )


def small(**changed):
    """Three ratings, with whatever is to be changed."""
    values = {
        "user": torch.tensor([0, 0, 1]),
        "item": torch.tensor([0, 1, 1]),
        "rating": torch.tensor([1.0, 2.5, 5.0]),
        "user_ids": ("ann", "bob"),
        "item_ids": (7, 8),
    }
    return Ratings(**(values | changed))


class TestRatings:
    def test_sizes_come_from_the_vocabularies(self):
        ratings = small(user_ids=("ann", "bob", "eve"))
        assert (len(ratings), ratings.n_users, ratings.n_items) == (3, 3, 2)

    def test_select_keeps_codes_and_vocabularies(self):
        ratings = small(time=torch.tensor([1, 2, 3]), domain=torch.tensor([0, 1, 1]), domain_names=("books", "films"))
        part = ratings.select(torch.tensor([False, True, True]))
        assert part.user.tolist() == [0, 1]
        assert part.rating.tolist() == [2.5, 5.0]
        assert part.time.tolist() == [2, 3]
        assert part.domain.tolist() == [1, 1]
        kept = ("user_ids", "item_ids", "domain_names")
        assert all(getattr(part, name) == getattr(ratings, name) for name in kept)
        assert len(ratings) == 3

    def test_describe_is_one_line_of_what_is_there(self):
        ratings = small(
            user_ids=("ann", "bob", "eve"),
            time=torch.tensor([_YEAR_2000 - 1, _YEAR_2000, _YEAR_2000 + 400 * _DAY]),
            domain=torch.tensor([1, 1, 1]),
            domain_names=("books", "films"),
        )
        assert ratings.describe() == (
            "3 ratings by 2 users of 2 items, 1 to 5, 1999 to 2001; domains: books 0, films 3"
        )
        assert small().describe() == "3 ratings by 2 users of 2 items, 1 to 5"

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"user": torch.tensor([0, 0, 2])}, "user: got codes 0 to 2, expected 0 to 1"),
            ({"rating": torch.tensor([1.0, float("nan"), 2.0])}, "rating: got nan in row 1, expected finite"),
            ({"user_ids": ("ann", "ann")}, "user_ids: got 'ann' more than once"),
            ({"user_ids": ("ann", 2.0)}, "user_ids: got float, expected a tuple of str or integers"),
            ({"time": 1_700_000_000_000 + torch.arange(3)}, "time: got 17.* expected seconds since 1970"),
            ({"domain": torch.tensor([0, 0, 1])}, "domain, domain_names: got one without the other"),
            ({"domain_names": ("a",)}, "domain, domain_names: got one without the other"),
            ({"titles": ("one",)}, "titles: got 1, expected one for each of 2 items"),
            ({"genre_names": ("War",)}, "genres, genre_names: got one without the other"),
            ({"genres": torch.ones(2, 2).bool(), "genre_names": ("War",)}, r"genres: got .* \(2, 2\), expected .*2, 1"),
            ({"user": torch.zeros(3, dtype=torch.int64, device="meta")}, "user: got a tensor on meta, expected"),
        ],
    )
    def test_what_does_not_fit_is_refused_by_name(self, changed, message):
        with pytest.raises(ValueError, match=message):
            small(**changed)

    def test_select_refuses_a_mask_that_selects_nothing(self):
        with pytest.raises(ValueError, match="mask: got one that selects none of 3 ratings"):
            small().select(torch.zeros(3).bool())

    @settings(deadline=None, max_examples=50)
    @given(st.integers(-3, 6), st.integers(0, 2), st.sampled_from(["user", "item"]))
    def test_a_code_is_accepted_if_and_only_if_it_is_in_the_vocabulary(self, code, row, column):
        codes = torch.zeros(3, dtype=torch.int64)
        codes[row] = code
        if 0 <= code < 2:
            assert getattr(small(**{column: codes}), column)[row] == code
        else:
            with pytest.raises(ValueError, match=f"{column}: got codes .*{code}.*, expected 0 to 1"):
                small(**{column: codes})


def reference_domains(ratings, genres, least):
    """The same rule in plain loops: (user, item, domain name) of the rows that stay."""
    rows = []
    for user, item in zip(ratings.user.tolist(), ratings.item.tolist(), strict=True):
        has = {name for name, flag in zip(ratings.genre_names, ratings.genres[item], strict=True) if flag}
        named = [name for name in genres if name in has]
        if len(named) == 1:
            rows.append((user, item, named[0]))
    counts = Counter((user, name) for user, _, name in rows)
    return [row for row in rows if all(counts[row[0], name] >= least for name in genres)]


class TestGenreDomains:
    @pytest.mark.parametrize("least", [0, 1, 2])
    @pytest.mark.parametrize("genres", [("Drama", "Comedy"), ("Comedy", "War", "Drama")])
    def test_against_plain_loops(self, genres, least):
        ratings = make(n_items=40, per_user=(10, 30), seed=3)
        view = genre_domains(ratings, genres, min_user_ratings=least)
        found = [
            (user, item, view.domain_names[domain])
            for user, item, domain in zip(view.user.tolist(), view.item.tolist(), view.domain.tolist(), strict=True)
        ]
        assert found == reference_domains(ratings, genres, least)
        assert view.domain_names == genres
        assert view.item_ids == ratings.item_ids
        assert len(found) < len(ratings)

    def test_no_item_is_in_two_domains(self):
        view = genre_domains(make(), ["Comedy", "Drama"], min_user_ratings=0)
        items = [set(view.item[view.domain == d].tolist()) for d in (0, 1)]
        assert all(items)
        assert not items[0] & items[1]

    @pytest.mark.parametrize(
        ("genres", "message"),
        [
            (("Comedy", "Western"), "genres: got 'Western', expected one of 'Comedy', 'Drama', 'War'"),
            (("Comedy",), "expected at least two names"),
            (("War", "War"), "expected at least two names, all different"),
        ],
    )
    def test_bad_genres(self, genres, message):
        with pytest.raises(ValueError, match=message):
            genre_domains(make(), genres)

    def test_a_domain_without_ratings_is_named(self):
        ratings = make()
        none_of_war = ratings.genres.clone()
        none_of_war[:, 2] = False
        with pytest.raises(ValueError, match="got 'War', which is left without ratings"):
            genre_domains(replace(ratings, genres=none_of_war), ("Comedy", "War"), min_user_ratings=0)
        with pytest.raises(ValueError, match=r"left without ratings.*min_user_ratings is 99"):
            genre_domains(ratings, ("Comedy", "Drama"), min_user_ratings=99)

    def test_needs_genres(self):
        with pytest.raises(ValueError, match="ratings: got no genres, expected Ratings with `genres` set"):
            genre_domains(small(), ("Comedy", "Drama"))


def at_years(*years):
    """One rating in the middle of each given year, in the given order."""
    n = len(years)
    seconds = [_YEAR_2000 + int((year - 2000 + 0.5) * 365.25 * _DAY) for year in years]
    return Ratings(
        user=torch.zeros(n, dtype=torch.int64),
        item=torch.arange(n),
        rating=torch.ones(n),
        user_ids=(1,),
        item_ids=tuple(range(n)),
        time=torch.tensor(seconds),
    )


class TestByYear:
    def test_one_slice_a_year_in_order(self):
        slices = by_year(at_years(2003, 1969, 2003, 2001))
        assert [(year, part.item.tolist()) for year, part in slices] == [
            (1969, [1]),
            (2001, [3]),
            (2003, [0, 2]),
        ]

    def test_the_year_turns_at_midnight_utc(self):
        ratings = small(time=torch.tensor([_YEAR_2000 - 1, _YEAR_2000, _YEAR_2000 + 366 * _DAY]))
        assert [year for year, _ in by_year(ratings)] == [1999, 2000, 2001]

    def test_small_years_join_the_following_one(self):
        slices = by_year(at_years(2000, 2001, 2001, 2003, 2004, 2005, 2005), min_ratings=2)
        assert [(year, len(part)) for year, part in slices] == [(2001, 3), (2004, 2), (2005, 2)]

    def test_what_is_left_at_the_end_joins_the_slice_before(self):
        slices = by_year(at_years(2000, 2000, 2001, 2001, 2004), min_ratings=2)
        assert [(year, part.item.tolist()) for year, part in slices] == [(2000, [0, 1]), (2004, [2, 3, 4])]

    @settings(deadline=None, max_examples=50)
    @given(st.lists(st.integers(1990, 2010), min_size=1, max_size=25), st.integers(1, 8))
    def test_every_row_is_in_one_slice_of_enough(self, years, least):
        ratings = at_years(*years)
        if len(years) < least:
            with pytest.raises(
                ValueError, match=f"min_ratings: got {least}, expected an integer from 1 to {len(years)}"
            ):
                by_year(ratings, least)
            return
        slices = by_year(ratings, least)
        assert sorted(item for _, part in slices for item in part.item.tolist()) == list(range(len(years)))
        assert all(len(part) >= least for _, part in slices)
        labels = [year for year, _ in slices]
        assert labels == sorted(set(labels))
        assert all(max(years[i] for i in part.item.tolist()) == year for year, part in slices)

    def test_needs_times(self):
        with pytest.raises(ValueError, match="ratings: got no time, expected Ratings with `time` set"):
            by_year(small())


class TestPlaceWithin:
    @given(st.lists(st.integers(0, 4) | st.integers(10**15, 10**15 + 2), max_size=40))
    def test_counts_the_earlier_rows_of_the_group(self, values):
        expected = [values[:k].count(value) for k, value in enumerate(values)]
        assert place_within(torch.tensor(values, dtype=torch.int64)).tolist() == expected


class TestDescribeItems:
    ITEMS = small(
        years=torch.tensor([1975, 0]),
        genres=torch.tensor([[True, False], [True, True]]),
        genre_names=("Comedy", "War"),
    )

    def test_by_hand(self):
        got = describe_items(self.ITEMS)
        counts = torch.tensor([1.0, 2.0])
        torch.testing.assert_close(got[:, 0], torch.tensor([-1.0, -1.0]))  # an unknown year is the median one
        torch.testing.assert_close(got[:, 1], (counts + 1).log() - 3)
        assert got[:, 2:].tolist() == [[1.0, 0.0], [1.0, 1.0]]
        assert describe_items(self.ITEMS, ["Comedy"])[:, 2:].tolist() == [[0.0], [1.0]]

    def test_holds_no_rating(self):
        other = replace(self.ITEMS, rating=torch.tensor([5.0, 1.0, 3.0]))
        assert torch.equal(describe_items(self.ITEMS), describe_items(other))

    @pytest.mark.parametrize(
        ("ratings", "left_out", "message"),
        [
            (small(), (), "ratings: got no genres"),
            (replace(ITEMS, years=None), (), "ratings: got no years"),
            (replace(ITEMS, years=torch.zeros(2, dtype=torch.int64)), (), "ratings: got no item with a year"),
            (ITEMS, ("Western",), "without_genres: got 'Western', expected one of 'Comedy', 'War'"),
        ],
    )
    def test_refuses(self, ratings, left_out, message):
        with pytest.raises(ValueError, match=message):
            describe_items(ratings, left_out)


class TestDescribeRaters:
    RATING, LIKED = torch.tensor([4.0, 2.0, 5.0, 1.0]), torch.tensor([1.0, 0.0, 1.0, 0.0])

    def test_against_a_loop(self):
        group = [2, 0, 2, 0]
        habits, count = describe_raters(torch.tensor(group), 4, self.RATING, self.LIKED, shrinkage=3.0)
        assert count.tolist() == [2, 0, 2, 0]
        for g in range(4):
            rows = [k for k in range(4) if group[k] == g]
            for column, values, scale in ((0, self.RATING, 2), (1, self.LIKED, 4)):
                mean = float(values.mean())
                shrunk = (sum(float(values[k]) for k in rows) + 3 * mean) / (len(rows) + 3)
                assert float(habits[g, column]) == pytest.approx(scale * (shrunk - mean), abs=1e-6)
        assert habits[1].tolist() == [0, 0]  # nothing is known: the average one

    def test_large_numbers_stay_finite_or_are_refused(self):
        group = torch.tensor([0, 1, 2, 0])
        for shrinkage in (1e-6, 1e6, torch.tensor(5.0)):
            habits, _ = describe_raters(group, 4, 1e6 * self.LIKED, self.LIKED, shrinkage)
            assert torch.isfinite(habits).all()
        with pytest.raises(ValueError, match=r"rating: got values from 0 to 1e\+38, expected -1e6 to 1e6"):
            describe_raters(group, 4, 1e38 * self.LIKED, self.LIKED)


class TestDealUsersAndDrawTasks:
    def test_every_user_with_enough_ratings_is_in_one_part(self):
        ratings = make(n_users=60)
        parts = deal_users(ratings, {"one": 0.25, "two": 0.35, "three": 0.4}, min_ratings=6, seed=3)
        counts = Counter(ratings.user.tolist())
        everybody = torch.cat(list(parts.values())).tolist()
        assert sorted(everybody) == [u for u in range(60) if counts[u] >= 6]
        sizes = [len(part) / len(everybody) for part in parts.values()]
        assert sizes == pytest.approx([0.25, 0.35, 0.4], abs=1 / len(everybody))

    def test_a_user_with_few_ratings_repeats_some_and_says_which(self):
        ratings = make(n_users=20, per_user=(4, 12))
        split = draw_tasks(ratings.user, torch.arange(20).repeat(2), 3, 6, torch.Generator().manual_seed(0))
        counts = Counter(ratings.user.tolist())
        assert split.user.tolist() == [*range(20), *range(20)]
        for who, support, query, known in zip(split.user, split.support, split.query, split.known, strict=True):
            assert (ratings.user[torch.cat([support, query])] == who).all()
            assert int(known.sum()) == min(6, counts[int(who)] - 3)
            fresh = torch.cat([support, query[known]]).tolist()
            assert len(set(fresh)) == len(fresh)
            assert set(query[~known].tolist()) <= set(fresh)
        assert not torch.equal(split.support[:20], split.support[20:])  # who appears twice gets two draws

    @pytest.mark.parametrize(
        ("users", "support", "query", "message"),
        [
            ([0, 1], 3, 1, r"users: got 1, who has 3 ratings, expected at least 4"),
            ([7], 1, 1, "users: got 7, who has 0 ratings"),
            ([0, -1], 1, 1, "users: got -1, who has 0 ratings"),
            ([10**18], 1, 1, "users: got 1000000000000000000, who has 0 ratings"),
        ],
    )
    def test_bad_arguments(self, users, support, query, message):
        user = torch.tensor([0] * 5 + [1] * 3)
        with pytest.raises(ValueError, match=message):
            draw_tasks(user, torch.tensor(users), support, query, torch.Generator())

    def test_every_row_of_a_user_can_be_drawn_for_either_part(self):
        ratings, support, query = make(n_users=3, per_user=(4, 4)), set(), set()
        for seed in range(40):
            split = draw_tasks(ratings.user, torch.arange(3), 2, 2, torch.Generator().manual_seed(seed))
            support |= set(split.support.flatten().tolist())
            query |= set(split.query.flatten().tolist())
        assert support == query == set(range(12))

    def test_the_seed_decides_and_a_share_of_zero_is_an_empty_part(self):
        shares = {"one": 0.8, "none": 0.0, "two": 0.2}
        first, same, other = (deal_users(make(), shares, 2, seed) for seed in (1, 1, 2))
        assert all(torch.equal(first[name], same[name]) for name in shares)
        assert not torch.equal(first["one"], other["one"])
        assert first["none"].shape == (0,)

    @pytest.mark.parametrize("shares", [{"one": 0.5}, {}, {"one": 0.7, "two": 0.2, "three": 0.2}])
    def test_shares_must_sum_to_one(self, shares):
        with pytest.raises(ValueError, match=r"shares: .* sum to 1"):
            deal_users(make(), shares)

    def test_too_few_users_for_a_part(self):
        with pytest.raises(ValueError, match=r"got 2 users with the 2 ratings.*would be split \[1, 1, 0\]"):
            deal_users(make(n_users=2), {"one": 0.4, "two": 0.4, "three": 0.2}, min_ratings=2)

    def test_shares_given_as_tensors_are_numbers(self):
        plain, tensors = ({"one": share, "two": 1 - share} for share in (0.25, torch.tensor(0.25)))
        parts, same = (deal_users(make(), shares, min_ratings=2) for shares in (plain, tensors))
        assert all(torch.equal(parts[name], same[name]) for name in plain)
