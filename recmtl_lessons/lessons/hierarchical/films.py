"""Real tastes: the comparison with users whose tastes are measured in MovieLens."""

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.envs import users_from_ratings
from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.hierarchical.arms import TWO_LEVELS
from recmtl_lessons.lessons.hierarchical.sessions import (
    FLAT,
    FLAT_TRAINING,
    LATE,
    TEST_USERS,
    TRAINING,
    Comparison,
    compare_users,
)
from recmtl_lessons.training.two_levels import Training

FILM_ARMS = (TWO_LEVELS, FLAT)


def compare_on_films(
    ratings: Ratings,
    seeds: tuple[int, ...] = SEEDS,
    how: Training = TRAINING,
    flat_how: Training = FLAT_TRAINING,
    group: int = 2,
) -> Comparison:
    """Train two levels and the flat policy with six tenths of the raters, where the reward is late.

    They are judged with some of those whom nobody learned from; S splits of the raters.
    """
    learned = [users_from_ratings(ratings, seed, 0) for seed in seeds]
    judged = [users_from_ratings(ratings, seed, group)[:TEST_USERS] for seed in seeds]
    return compare_users(learned, judged, LATE, FILM_ARMS, seeds, how, flat_how, every=how.updates)
