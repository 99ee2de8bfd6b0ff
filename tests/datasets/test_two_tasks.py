"""Several tasks on one input: rows that belong together, units, and nothing of a label among the features."""

import re
from dataclasses import replace

import pytest
import torch

from recmtl_lessons.datasets import Ratings, make_world
from recmtl_lessons.datasets.two_tasks import APART, GENRES, clicks_and_ratings, genres_as_tasks, rated_and_how
from tests.support.films import needs_films

PARTS = ("train", "valid", "test")
SEEDS = (0, 3)
SMALL = replace(APART, n_users=60, n_items=20)
FILMS = 30


@pytest.fixture
def shop():
    return clicks_and_ratings(SMALL, SEEDS, 250)


def everything(tasks):
    """Every tensor, by part, stream and field."""
    return {
        (part, stream, name): values
        for part in PARTS
        for stream, fields in getattr(tasks, part).items()
        for name, values in fields.items()
    }


def rows_of(tasks, stream, number=0):
    """All rows of a stream and a seed, part after part, each field in one tensor."""
    parts = [getattr(tasks, part)[stream] for part in PARTS]
    return {name: torch.cat([part[name][number] for part in parts]) for name in parts[0]}


def same(one, other):
    return list(one) == list(other) and all(torch.equal(value, other[key]) for key, value in one.items())


class TestTheShop:
    def test_shapes(self, shop):
        assert shop.types == {"click": "classification", "rating": "regression"}
        assert (shop.n_seeds, shop.feature_dim) == (2, 16)
        for part, rows in zip(PARTS, (250, 1000, 3000), strict=True):
            shapes = {name: tuple(values.shape) for name, values in getattr(shop, part)["rows"].items()}
            assert shapes == {"x": (2, rows, 16), "click": (2, rows), "rating": (2, rows)}

    def test_rows_are_those_of_each_seeds_world_each_once(self, shop):
        """So no two parts share one; they are dealt, and not cut by time."""
        for number, seed in enumerate(SEEDS):
            world, found = make_world(replace(SMALL, interactions=4250), seed), rows_of(shop, "rows", number)
            mine, theirs = found["x"][:, 0].argsort(), world.features[:, 0].argsort()
            assert torch.equal(found["x"][mine], world.features[theirs])
            assert torch.equal(found["click"][mine], world.click[theirs])
            less = world.rating[theirs] - found["rating"][mine]
            assert float(less.max() - less.min()) < 1e-5
            assert abs(float(found["rating"][:250].mean())) < 1e-5
            times = torch.empty(4250).scatter_(0, mine, world.time[theirs])
            assert abs(float(times[:250].mean()) - 0.5) < 0.1

    def test_the_seed_says_which(self, shop):
        clicks_and_ratings.cache_clear()
        again, turned = clicks_and_ratings(SMALL, SEEDS, 250), clicks_and_ratings(SMALL, SEEDS[::-1], 250)
        assert again is not shop
        assert same(everything(again), everything(shop))
        assert same(everything(turned.one(0)), everything(shop.one(1)))
        assert not torch.equal(shop.train["rows"]["x"][0], shop.train["rows"]["x"][1])

    @pytest.mark.parametrize(("relatedness", "cosine"), [(0.0, 0.0), (1.0, 1.0), (-1.0, -1.0)])
    def test_what_features_say_of_clicks_and_of_ratings(self, relatedness, cosine):
        """Directions of least squares: of the truth, and of the labels of a shop, which have more noise."""
        settings = replace(APART, task_relatedness=relatedness)
        world = make_world(replace(settings, interactions=20_000), 1)
        rows = clicks_and_ratings(settings, (1,), 20_000).one(0).train["rows"]
        for x, *targets in (
            (world.features, world.affinity, world.wish),
            (rows["x"], rows["click"] - rows["click"].mean(), rows["rating"]),
        ):
            one, other = torch.linalg.lstsq(x, torch.stack(targets, dim=1)).solution.T
            assert float(one @ other / one.norm() / other.norm()) == pytest.approx(cosine, abs=0.06)


class TestUnits:
    def test_one_size_a_seed_from_the_rows_to_train_on(self, shop):
        before = {key: values.clone() for key, values in everything(shop).items()}
        spread = torch.stack([rows.std() for rows in shop.train["rows"]["rating"]])
        for unit, size in (("tenths", torch.full((2,), 0.1)), ("stars", torch.ones(2)), ("spread", spread)):
            changed, sizes = shop.in_unit(unit)
            assert changed.types == shop.types
            torch.testing.assert_close(sizes, torch.stack([torch.ones(2), size], dim=1))
            for key, values in everything(changed).items():
                expected = before[key] / size[:, None] if key[-1] == "rating" else before[key]
                torch.testing.assert_close(values, expected)
        assert same(everything(shop), before)
        torch.testing.assert_close(shop.in_unit("spread")[0].train["rows"]["rating"].std(1), torch.ones(2))

    def test_each_of_several_regressions_has_its_own(self):
        tasks = genres_as_tasks(films(), SEEDS)
        changed, sizes = tasks.in_unit("spread")
        for place, genre in enumerate(GENRES):
            torch.testing.assert_close(sizes[:, place], tasks.train[genre][genre].std(1))
            torch.testing.assert_close(changed.test[genre][genre], tasks.test[genre][genre] / sizes[:, place, None])

    @pytest.mark.parametrize("wrong", ["tenth", "", None, 0.1, ["stars"]])
    def test_another_is_refused(self, shop, wrong):
        with pytest.raises(
            ValueError, match=rf"^unit: got {re.escape(repr(wrong))}, expected one of 'tenths', 'stars'"
        ):
            shop.in_unit(wrong)


def test_one_seed_and_double_precision(shop):
    assert same(everything(shop.one(1)), {key: values[1] for key, values in everything(shop).items()})
    assert same(everything(shop.double()), {key: values.double() for key, values in everything(shop).items()})


# Films: ratings of which each part can be told again from the features.


def some_ratings(genres, names):
    """Half of all pairs of 40 users and 30 films; a rating is its user's number."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randperm(40 * FILMS, generator=generator)[:600]
    user, item = pairs // FILMS, pairs % FILMS
    return Ratings(
        user=user,
        item=item,
        rating=user.float(),
        user_ids=tuple(range(40)),
        item_ids=tuple(range(FILMS)),
        years=torch.randint(1950, 2010, (FILMS,), generator=generator) * (torch.arange(FILMS) > 0),
        genres=genres,
        genre_names=names,
    )


def pairs():
    """Each film has a genre of its own."""
    return some_ratings(torch.eye(FILMS, dtype=torch.bool), tuple(f"Film {k}" for k in range(FILMS)))


def films():
    """Five films of each genre, two of two genres, one that has a genre beside that of a task, and the rest of none."""
    genres = torch.zeros(FILMS, 5, dtype=torch.bool)
    genres[torch.arange(20), torch.arange(20) % 4] = True
    genres[25:27, :2] = True
    genres[27, [2, 4]] = True
    return some_ratings(genres, (*GENRES, "War"))


MADE = {"rated": (rated_and_how, pairs), "genres": (genres_as_tasks, films)}


@pytest.fixture(params=MADE)
def made(request):
    return MADE[request.param]


def test_no_rating_of_a_row_is_among_its_features(made):
    """A rating that changes changes one label and no feature, or it is among those that describe users and films."""
    make, table = made[0], made[1]()
    before, rows = everything(make(table, (0,), 100)), 0
    for k in range(0, 600, 7):
        rating = table.rating.clone()
        rating[k] += 2.5
        after = everything(make(replace(table, rating=rating), (0,), 100))
        features = sum(int((after[key] != before[key]).sum()) for key in after if key[-1] == "x")
        labels = sum(int((after[key] != before[key]).sum()) for key in after if key[-1] != "x")
        known = make is rated_and_how or int(table.genres[table.item[k], :4].sum()) == 1
        if not features:
            assert labels == int(known), k
            rows += 1
        else:
            assert known
            assert labels > 1, k  # the mean moves
    assert 30 < rows < 65


def test_films_that_were_not_rated_were_not_rated():
    """A user is told by the label beside the same features; a film by its genre."""
    table, tasks = pairs(), rated_and_how(pairs(), SEEDS, 100)
    assert tasks.types == {"rated": "classification", "rating": "regression"}
    assert [tasks.train["rated"]["x"].shape[1], tasks.valid["rated"]["x"].shape[1]] == [100, 50]
    known = set(zip(table.user.tolist(), table.item.tolist(), strict=True))
    for number in range(2):
        how, whether = (rows_of(tasks, stream, number) for stream in ("rating", "rated"))
        users, by_habits = (how["rating"] - how["rating"].min()).round().int().tolist(), {}  # somebody is number 0
        for user, x in zip(users, how["x"], strict=True):
            assert by_habits.setdefault(tuple(x[: 2 + FILMS].tolist()), user) == user
        assert set(by_habits.values()) == set(users)
        seen = {0: [], 1: []}
        for x, rated in zip(whether["x"], whether["rated"], strict=True):
            pair = (by_habits[tuple(x[: 2 + FILMS].tolist())], int(x[-FILMS:].argmax()))
            assert (pair in known) == bool(rated), pair
            seen[int(rated)].append(pair)
        assert len(seen[1]) == len(set(seen[1]))
        assert 60 < len(seen[0]) < 100  # of 300 half are asked about another film, which is kept where it is free
        in_how = set(zip(users, how["x"][:, -FILMS:].argmax(1).tolist(), strict=True))
        assert set(seen[1]) < in_how
        assert len(in_how) == 300


def test_genres_are_tasks_without_films_of_several():
    table, tasks = films(), genres_as_tasks(films(), (0,), 30)
    assert tasks.types == dict.fromkeys(GENRES, "regression")
    of_one = table.genres[:, :4].sum(1) == 1
    assert int(of_one.sum()) == 21
    counts = 0
    for place, genre in enumerate(GENRES):
        rows = rows_of(tasks, genre)
        assert set(rows) == {"x", genre}
        assert rows["x"].shape[1] == tasks.feature_dim == 2 * 2 + 1 + 2 * 5
        assert torch.equal(rows["x"][:, -5:-1], torch.eye(4)[place].expand(len(rows["x"]), 4))
        assert torch.equal((rows["x"][:, -1] > 0).any(), torch.tensor(genre == "Action"))  # and War
        assert tasks.train[genre]["x"].shape[1] == min(30, len(rows["x"]) // 2)
        counts += len(rows["x"])
    assert counts == -(-int(of_one[table.item].sum()) // 2)


def test_films_are_dealt_by_the_seed(made):
    """A genre has as many rows as the seed with the fewest."""
    make, table = made[0], made[1]()
    alone, both = make(table, (3,), 50), make(table, SEEDS, 50)
    for stream, fields in both.train.items():
        for name, values in fields.items():
            assert torch.equal(alone.train[stream][name][0, : values.shape[1]], values[1])
        assert not torch.equal(*fields["x"])


@needs_films
class TestRealData:
    def test_both_kinds_of_tasks(self, movielens):
        asked, genres = rated_and_how(movielens, SEEDS), genres_as_tasks(movielens, SEEDS)
        for tasks in (asked, genres):
            assert tasks.feature_dim == 43
            for (_, stream, name), values in everything(tasks).items():
                assert torch.isfinite(values).all()
                assert values.abs().max() < 12, (stream, name)
        assert [asked.train["rated"]["x"].shape[1], genres.train["Drama"]["x"].shape[1]] == [4000, 4000]
        assert 0.5 < float(asked.train["rated"]["rated"].mean()) < 0.7
        for tasks, stream in ((asked, "rating"), *((genres, genre) for genre in GENRES)):
            train, test = (part[stream] for part in (tasks.train, tasks.test))
            x, y = (torch.cat([part["x"][0], torch.ones(part["x"].shape[1], 1)], 1) for part in (train, test))
            guess = y @ torch.linalg.lstsq(x, train[stream][0], driver="gelsd").solution
            assert float((guess - test[stream][0]).square().mean()) < 0.85 * float(test[stream][0].var())
