"""Lesson 07: policies for several tasks. Its experiments, its pictures, its explorers and its questions."""

from recmtl_lessons.lessons.policy.breaking import with_dropout, with_short_sessions
from recmtl_lessons.lessons.policy.exercises import exercise_mask, exercise_ratio, exercise_returns
from recmtl_lessons.lessons.policy.experiments import (
    BANDIT,
    KNOWING,
    ON_OTHER_SEEDS,
    SEPARATE,
    SHARED,
    TASKS,
    WORLDS,
    bounds,
    compare,
    compare_again,
    compare_on_films,
    separate_networks,
    shared_network,
    way,
    where_satiated,
)
from recmtl_lessons.lessons.policy.explorers import explore_session, explore_training
from recmtl_lessons.lessons.policy.pictures import (
    draw_breaking,
    draw_cosines,
    draw_films,
    draw_loop,
    draw_planning,
    draw_sharing,
)
from recmtl_lessons.lessons.policy.questions import LESSON, prediction, study_question
