"""Real tastes: the comparison with users whose tastes are measured in MovieLens."""

from dataclasses import dataclass

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.envs import users_from_ratings
from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.hierarchical.learning import Training
from recmtl_lessons.lessons.hierarchical.sessions import (
    FEW,
    LATE,
    TEST_USERS,
    Comparison,
    compare_users,
)


@dataclass(frozen=True)
class FilmComparison:
    """Two levels and the flat policy, with a reward that is late and one that is not."""

    late: Comparison
    immediate: Comparison


def compare_on_films(ratings: Ratings, seeds: tuple[int, ...] = SEEDS, how: Training = FEW) -> FilmComparison:
    """Train with six tenths of the raters, judge with some of those whom nobody learned from; S splits of them."""
    learned = [users_from_ratings(ratings, seed, 0) for seed in seeds]
    judged = [users_from_ratings(ratings, seed, 2)[:TEST_USERS] for seed in seeds]
    late, immediate = (compare_users(learned, judged, clicks, seeds, how) for clicks in (LATE, 1))
    return FilmComparison(late, immediate)
