"""Where ratings come from: the synthetic world, MovieLens, and your own CSV."""

from recmtl_lessons.datasets.movielens import DataUnavailable, load_movielens
from recmtl_lessons.datasets.own_csv import load_csv
from recmtl_lessons.datasets.ratings import (
    Ratings,
    TaskSplit,
    by_year,
    deal_users,
    describe_items,
    describe_raters,
    draw_tasks,
    genre_domains,
    place_within,
)
from recmtl_lessons.datasets.world import World, WorldSettings, make_world

__all__ = [
    "DataUnavailable",
    "Ratings",
    "TaskSplit",
    "World",
    "WorldSettings",
    "by_year",
    "deal_users",
    "describe_items",
    "describe_raters",
    "draw_tasks",
    "genre_domains",
    "load_csv",
    "load_movielens",
    "make_world",
    "place_within",
]
