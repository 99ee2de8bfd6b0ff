"""Real users: MovieLens. Tastes are measured from ratings; how a session runs stays invented."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from torch import Tensor

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.envs import SessionUsers, users_from_ratings
from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.distilled_q.experiments import (
    DISTILLING,
    PLAIN,
    TEACHING,
    TEST,
    TEST_USERS,
    Crowd,
    from_teachers,
    kept,
    school,
    share_of_best,
    student,
)
from recmtl_lessons.training.q_learning import Distilling, QLearning

FILM_TEACHING, FILM_DISTILLING = replace(TEACHING, updates=120), replace(DISTILLING, updates=120)


@dataclass(frozen=True)
class FilmComparison:
    """With users of MovieLens; S splits of the people.

    Attributes
    ----------
    kept : Tensor, (S,)
        Share of the teachers' return over random that the student keeps.
    of_best : Tensor, (S,)
        The teachers' return over random, as a share of that of whoever knows the tastes and plans.
    """

    kept: Tensor
    of_best: Tensor


def film_crowd(ratings: Ratings) -> Crowd:
    """Return raters as users of sessions."""
    return Crowd(lru_cache(maxsize=64)(partial(_drawn, ratings)))


def _drawn(ratings: Ratings, seed: int, group: int) -> SessionUsers:
    users = users_from_ratings(ratings, seed, group)
    return users[:TEST_USERS] if group else users


def compare_on_films(
    ratings: Ratings,
    seeds: Sequence[int] = SEEDS,
    teaching: QLearning = FILM_TEACHING,
    distilling: Distilling = FILM_DISTILLING,
    group: int = TEST,
) -> FilmComparison:
    """Train teachers on sessions with people of MovieLens, and a student from them."""
    of = school(seeds, teaching, film_crowd(ratings), group, "films, teachers")
    students = from_teachers(student, of, [PLAIN], distilling, "films, distilled")
    return FilmComparison(kept(students, of)[0], share_of_best(of))
