"""Domains that arrive one after another."""

from dataclasses import replace

import pytest
import torch

from recmtl_lessons.datasets import Ratings, make_world
from recmtl_lessons.datasets.arrivals import CLUES, PAIRS, clues_in_turn, genres_in_turn, pairs_in_turn, stacked

PARTS = ("train", "valid", "test")
SEEDS = (0, 3)
SMALL_PAIRS = replace(PAIRS, n_users=30, n_items=11, interactions=200)
SMALL_CLUES = replace(CLUES, n_users=30, interactions=203)


def films():
    """Six users rate films of two genres often enough, one does not; a film of both genres is nobody's."""
    generator = torch.Generator().manual_seed(0)
    genres = torch.tensor([[True, False]] * 7 + [[False, True]] * 9 + [[True, True]])
    user, item = [], []
    for number in range(7):
        for first, count, known in ((0, 7, 6), (7, 9, 8 if number < 6 else 4), (16, 1, 1)):
            user += [number] * known
            item += (first + torch.randperm(count, generator=generator)[:known]).tolist()
    n = len(user)
    return Ratings(
        user=torch.tensor(user),
        item=torch.tensor(item),
        rating=torch.randint(1, 11, (n,), generator=generator) / 2,
        user_ids=tuple(range(7)),
        item_ids=tuple(range(17)),
        genres=genres,
        genre_names=("Drama", "War"),
    )


def of_films(seeds=SEEDS):
    return genres_in_turn(films(), seeds, ("War", "Drama"))


MADE = {
    "pairs": lambda: pairs_in_turn(SMALL_PAIRS, SEEDS),
    "clues": lambda: clues_in_turn(SMALL_CLUES, SEEDS),
    "genres": of_films,
}


@pytest.fixture(params=MADE)
def arrivals(request):
    return MADE[request.param]()


def everything(arrivals):
    """Every tensor, by part, domain and field."""
    return {
        (part, domain, name): values
        for part in PARTS
        for domain, fields in getattr(arrivals, part).items()
        for name, values in fields.items()
    }


def rows_of(arrivals, domain, number):
    """All rows of a domain and a seed, part after part, each field in one tensor."""
    parts = [getattr(arrivals, part)[domain] for part in PARTS]
    return {name: torch.cat([part[name][number] for part in parts]) for name in parts[0]}


def assert_same(one, other):
    assert list(one) == list(other)
    assert all(torch.equal(value, other[key]) for key, value in one.items())


class TestShapes:
    def test_three_parts_of_the_same_domains_and_fields(self, arrivals):
        assert arrivals.n_seeds == 2
        for domain in arrivals.domains:
            sizes = []
            for part in PARTS:
                fields = getattr(arrivals, part)[domain]
                assert {values.shape[:2] for values in fields.values()} == {(2, fields["click"].shape[1])}
                sizes.append(fields["click"].shape[1])
            total = sum(sizes)
            assert sizes[0] == round(0.6 * total)
            assert sizes[0] + sizes[1] == round(0.8 * total)

    def test_clicks_are_0_or_1_and_both_come_up(self, arrivals):
        for (_, _, name), values in everything(arrivals).items():
            if name == "click":
                assert values.dtype == torch.float32
                assert values.unique().tolist() == [0.0, 1.0]

    def test_what_there_is_of_users_and_items(self):
        pairs, clues, genres = (MADE[name]() for name in ("pairs", "clues", "genres"))
        assert (pairs.domains, pairs.n_users) == (("books", "films", "games"), 30)
        assert pairs.n_items == {"books": 11, "films": 11, "games": 11}
        assert (genres.domains, genres.n_users) == (("War", "Drama"), 6)
        assert genres.n_items["War"] <= 9
        assert genres.n_items["Drama"] <= 7
        assert (clues.n_users, clues.n_items) == (0, None)
        assert clues.train["books"]["x"].shape == (2, 122, 16)

    @pytest.mark.parametrize("kind", ["pairs", "genres"])
    def test_ids_are_numbered_from_0_within_their_vocabulary(self, kind):
        arrivals = MADE[kind]()
        for domain in arrivals.domains:
            for number in range(2):
                rows = rows_of(arrivals, domain, number)
                for name, size in (("user", arrivals.n_users), ("item", arrivals.n_items[domain])):
                    assert rows[name].dtype == torch.int64
                    assert rows[name].unique().tolist() == list(range(size))


class TestRows:
    @pytest.mark.parametrize(
        ("make", "settings", "names"),
        [
            (pairs_in_turn, SMALL_PAIRS, {"user": "user", "item": "item", "click": "click"}),
            (clues_in_turn, SMALL_CLUES, {"x": "features", "click": "click"}),
        ],
    )
    def test_are_those_of_each_seeds_world_in_order_of_time(self, make, settings, names):
        """Each once: the three parts share no row."""
        arrivals = make(settings, SEEDS)
        for number, seed in enumerate(SEEDS):
            world = make_world(settings, seed)
            for domain in settings.domains:
                at = world.rows(domain)
                expected = {name: getattr(world, theirs)[at] for name, theirs in names.items()}
                assert_same(rows_of(arrivals, domain, number), expected)

    def test_of_genres_are_all_ratings_each_once(self):
        """Users and films by new numbers in the order of the old ones; four stars or more are a click."""
        arrivals, table = of_films(), films()
        known = (table.user < 6) & (table.item < 16)
        for domain, first in (("War", 7), ("Drama", 0)):
            here = known & (table.item >= 7 if domain == "War" else table.item < 7)
            numbers = {int(item): k for k, item in enumerate(table.item[here].unique())}
            assert first in numbers
            expected = {
                (int(u), numbers[int(i)], float(r >= 4))
                for u, i, r in zip(table.user[here], table.item[here], table.rating[here], strict=True)
            }
            for number in range(2):
                found = list(
                    zip(*(values.tolist() for values in rows_of(arrivals, domain, number).values()), strict=True)
                )
                assert len(found) == int(here.sum()) == len(expected)
                assert set(found) == expected

    def test_of_genres_are_dealt_by_the_seed_alone(self):
        one, other = of_films(), of_films((3, 0))
        for key, values in everything(one).items():
            assert torch.equal(values.flip(0), everything(other)[key])
        assert not torch.equal(one.train["War"]["item"][0], one.train["War"]["item"][1])

    def test_the_same_seeds_give_the_same(self, arrivals, request):
        pairs_in_turn.cache_clear()
        clues_in_turn.cache_clear()
        again = MADE[request.node.callspec.params["arrivals"]]()
        assert again is not arrivals
        assert_same(everything(arrivals), everything(again))


class TestChanged:
    def test_in_another_order(self, arrivals):
        domains = arrivals.domains[::-1][:2]
        turned = arrivals.in_order(domains)
        assert turned.domains == domains
        assert (turned.n_users, turned.n_items) == (arrivals.n_users, arrivals.n_items)
        before = everything(arrivals)
        assert all(values is before[key] for key, values in everything(turned).items())

    def test_of_one_seed(self, arrivals):
        one = everything(arrivals.one(1))
        assert_same(one, {key: values[1] for key, values in everything(arrivals).items()})

    def test_in_double_precision_ids_stay(self, arrivals):
        for (_, _, name), values in everything(arrivals.double()).items():
            assert values.dtype == (torch.int64 if name in ("user", "item") else torch.float64)
        assert_same(
            everything(arrivals.double()),
            {k: v.double() if v.is_floating_point() else v for k, v in everything(arrivals).items()},
        )

    def test_several_as_one(self):
        one, other = (pairs_in_turn(SMALL_PAIRS, seeds) for seeds in (SEEDS, (5,)))
        both = stacked([one, other])
        assert both.n_seeds == 3
        assert (both.domains, both.n_users, both.n_items) == (one.domains, one.n_users, one.n_items)
        theirs = everything(other)
        for key, values in everything(both).items():
            assert torch.equal(values, torch.cat([everything(one)[key], theirs[key]]))
