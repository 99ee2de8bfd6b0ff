"""Every public call of `datasets`, asked with wrong arguments one at a time and with what chance sends."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recmtl_lessons import datasets
from recmtl_lessons.datasets import (
    Ratings,
    WorldSettings,
    by_year,
    deal_users,
    describe_items,
    describe_raters,
    draw_tasks,
    genre_domains,
    load_csv,
    make_world,
    place_within,
)
from recmtl_lessons.datasets.streams import Streams, StreamShop
from tests.support.refusals import (
    Call,
    Count,
    Each,
    Flag,
    Floats,
    Generator,
    Given,
    Integers,
    Mask,
    Number,
    OneOf,
    ask,
    by_chance,
    junk_for,
    missing,
    refusals,
    refused,
)

CSV = Path(__file__).with_name("ratings.csv")
ROWS = 6


def columns():
    """Three users who rate both of two items."""
    return {
        "user": torch.tensor([0, 0, 1, 1, 2, 2]),
        "item": torch.tensor([0, 1, 0, 1, 0, 1]),
        "rating": torch.tensor([4.0, 2.0, 5.0, 1.0, 3.0, 3.5]),
        "user_ids": ("ann", "bob", "eve"),
        "item_ids": (7, 8),
        "time": 1_700_000_000 + 10_000_000 * torch.arange(ROWS),
        "domain": torch.tensor([0, 1, 0, 1, 0, 1]),
        "domain_names": ("books", "films"),
        "titles": ("One (1999)", "Two (2001)"),
        "years": torch.tensor([1999, 2001]),
        "genres": torch.tensor([[True, False], [False, True]]),
        "genre_names": ("Comedy", "War"),
    }


def reads(**arguments):
    """Load the table; that there is no file of a name is said as by `open`, but counts as a refusal here."""
    try:
        return load_csv(**arguments)
    except FileNotFoundError as error:
        raise ValueError(f"path: {error}") from None


def on_ratings(function, **others):
    return lambda: (function, {"ratings": Ratings(**columns()), **others})


def twice(right):
    return (*right[1:], right[1])


def names(*wrong):
    return Given([], 5, *wrong, torch.zeros(2), lambda right: list(right), twice)


RATINGS = Given({}, [1], torch.ones(3), lambda right: right.rating)
GENRES = Given("War", 5, ("War", "Western"), [1, 2], [None], [["War"]], torch.zeros(2))
PLAIN = Given(None, 5, "", ["user"], True, torch.ones(2))
SETTINGS = {
    "domains": Given("abc", (), ("a", "a"), (1, 2), 3, {"a": 1}, torch.ones(3)),
    "n_users": Count(1, 10_000_000),
    "n_items": Count(1, 10_000_000),
    "taste_dim": Count(1, 1_000),
    "nuisance_dim": Count(0, 1_000),
    "interactions": Count(1, 10_000_000),
    "sparsity": Number(0, 1, below=True),
    "relatedness": Number(0, 1),
    "overlap": Number(0, 1),
    "new_users": Number(0, 1, below=True),
    "taste_spread": Number(0, 1),
    "drift": Number(0, 1),
    "sudden": Flag(),
    "task_relatedness": Number(-1, 1),
    "rating_features": Flag(),
    "nuisance": Number(0, 1e6),
    "shift": Number(0, 2),
    "offset": Number(0, 1e6),
    "affinity_scale": Number(0, 1e6),
    "noise": Number(0, 1e6),
}
SMALL = {"n_users": 6, "n_items": 3, "taste_dim": 2, "nuisance_dim": 2, "interactions": 20}


def world(**knobs):
    return make_world(WorldSettings(**{**SMALL, **knobs}))


def streams():
    known = torch.ones(2, 3, 4, dtype=torch.bool)
    return Streams(torch.zeros(2, 3), torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4), known)


CALLS = [
    Call(
        "StreamShop",
        lambda: (StreamShop, {}),
        {
            **dict.fromkeys(("drift", "taste_spread"), Number(0, 1)),
            "sudden": Flag(),
            "length": Given(18, 21, 0, -20, 20.5, "20", None, True),
            **dict.fromkeys(("train_users", "valid_users", "test_users"), Count()),
        },
    ),
    Call("Streams.users", lambda: (streams().users, {"count": 2}), {"count": Count(1, 3)}),
    Call(
        "Ratings",
        lambda: (Ratings, columns()),
        {
            "user": Integers(2),
            "item": Integers(1),
            "rating": Floats("free"),
            "user_ids": names((1.0, 2.0, 3.0), ([1], [2], [3])),
            "item_ids": names((None, 1), (torch.tensor(1), torch.tensor(1))),
            "time": Integers(253_402_300_799, negative=True, optional=True),
            "domain": Integers(1),
            "domain_names": names((1, 2)),
            "titles": Given(["One", "Two"], ("One",), (1, 2), "ab", 5, optional=True),
            "years": Integers(None, negative=True, optional=True),
            "genres": Mask(optional=False),
            "genre_names": names((1, 2)),
        },
    ),
    Call(
        "Ratings.select",
        lambda: (Ratings(**columns()).select, {"mask": torch.arange(ROWS) > 2}),
        {
            "mask": Mask("fixed", optional=False),
        },
    ),
    Call("WorldSettings", lambda: (world, {}), SETTINGS),
    Call(
        "World.rows",
        lambda: (world(new_users=0.5).rows, {}),
        {
            "domain": OneOf("books", "films", "games", optional=True),
            "new": Flag(optional=True),
        },
    ),
    Call(
        "make_world",
        lambda: (make_world, {"settings": WorldSettings(**SMALL), "seed": 3}),
        {
            "settings": Given({}, {"n_users": 3}, 5, "", WorldSettings, optional=True),
            "seed": Count(0, 2**31 - 1),
        },
    ),
    Call(
        "genre_domains",
        on_ratings(genre_domains, genres=("War", "Comedy"), min_user_ratings=1),
        {
            "ratings": RATINGS,
            "genres": GENRES,
            "min_user_ratings": Count(0, ROWS),
        },
    ),
    Call(
        "deal_users",
        on_ratings(deal_users, shares={"one": 0.5, "two": 0.5}, min_ratings=2, seed=0),
        {
            "ratings": RATINGS,
            "shares": Each(dict.fromkeys(("one", "two"), Number(0, 1))),
            "min_ratings": Count(),
            "seed": Count(0, 2**63 - 1),
        },
    ),
    Call(
        "draw_tasks",
        lambda: (
            draw_tasks,
            {
                "user": columns()["user"],
                "users": torch.tensor([2, 0]),
                "support": 1,
                "query": 2,
                "generator": torch.Generator().manual_seed(0),
            },
        ),
        {
            "user": Integers(None, "free", negative=True),
            "users": Integers(2, "free"),
            "support": Count(1, ROWS),
            "query": Count(1, ROWS),
            "generator": Generator(),
        },
    ),
    Call("place_within", lambda: (place_within, {"group": columns()["user"]}), {"group": Integers(None, "free")}),
    Call(
        "describe_items",
        on_ratings(describe_items, without_genres=["War"]),
        {
            "ratings": RATINGS,
            "without_genres": GENRES,
        },
    ),
    Call(
        "describe_raters",
        lambda: (
            describe_raters,
            {
                "group": columns()["user"],
                "n_groups": 4,
                "rating": columns()["rating"],
                "liked": (columns()["rating"] > 3).float(),
                "shrinkage": 5.0,
            },
        ),
        {
            "group": Integers(3),
            "n_groups": Count(),
            "rating": Floats("free"),
            "liked": Floats("fixed", binary=True),
            "shrinkage": Number(1e-6, 1e6),
        },
    ),
    Call("by_year", on_ratings(by_year, min_ratings=2), {"ratings": RATINGS, "min_ratings": Count(1, ROWS)}),
    Call(
        "load_csv",
        lambda: (reads, {"path": CSV}),
        {
            "path": Given(b"ratings.csv", 5, True, "", ".", CSV.parent, "a\0b", [CSV], {"user": [1]}),
            "user": PLAIN,
            "item": PLAIN,
            "rating": PLAIN,
            "time": Given(True, 0, 5, "", ["time"], optional=True),
            "domain": Given(True, 0, 5, "", ["domain"], optional=True),
            "delimiter": Given("", '"', "\n", "a\r", "\0", 5, b",", [","], optional=True),
            "encoding": Given(5, "", "klingon", "hex", "a\0b", b"utf-8", ["utf-8"]),
            "header": Given("abc", (), [], 5, (1, 2, 3), {"user", "item"}, optional=True),
        },
        also=(CSV.name,),
    ),
]


@pytest.mark.parametrize(("call", "argument"), refusals(CALLS))
def test_a_wrong_argument_is_refused_by_its_name(call, argument):
    refused(call, argument)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
@by_chance
@given(data=st.data())
def test_whatever_comes_is_answered_or_refused(call, data):
    ask(call, *data.draw(junk_for(call)))


def test_every_public_call_has_a_row():
    """But for what results are made of, which only the package makes."""
    assert missing(datasets, CALLS) == {"TaskSplit", "World"}
