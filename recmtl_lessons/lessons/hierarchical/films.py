"""Real tastes: the comparison with users whose tastes are measured in MovieLens."""

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.envs import users_from_ratings
from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.hierarchical.learning import Training
from recmtl_lessons.lessons.hierarchical.sessions import FEW, FOR_PROGRESS, LATE, TEST_USERS, Comparison, compare_users


def compare_on_films(ratings: Ratings, seeds: tuple[int, ...] = SEEDS, how: Training = FEW) -> Comparison:
    """Train two levels, the flat policy and one paid for progress with six tenths of the raters; the reward is late.

    They are judged with some of those whom nobody learned from; S splits of the raters.
    """
    learned = [users_from_ratings(ratings, seed, 0) for seed in seeds]
    judged = [users_from_ratings(ratings, seed, 2)[:TEST_USERS] for seed in seeds]
    return compare_users(learned, judged, LATE, seeds, how, (FOR_PROGRESS,))
