"""Lesson 09: deciding at two levels. Its experiments, its pictures, its explorers and its questions."""

from recmtl_lessons.lessons._seeds import MORE_SEEDS
from recmtl_lessons.lessons.hierarchical.arms import TWO_LEVELS
from recmtl_lessons.lessons.hierarchical.chain import (
    BOOTSTRAPS,
    FLAT_Q,
    FLAT_Q_HISTORY,
    FLAT_Q_STOPS,
    NO_GRADIENT,
    SEES_HISTORY,
    TWO_GOALS,
    WAITS,
    compare_on_chain,
    two_levels_on_chain,
)
from recmtl_lessons.lessons.hierarchical.choosing import (
    ON_FRESH_SEEDS,
    score_flat_policies,
    score_rates,
    score_tables,
    score_two_levels,
)
from recmtl_lessons.lessons.hierarchical.exercises import exercise_progress, exercise_rows, exercise_target
from recmtl_lessons.lessons.hierarchical.explorers import explore_goals, explore_training
from recmtl_lessons.lessons.hierarchical.films import compare_on_films
from recmtl_lessons.lessons.hierarchical.pictures import (
    draw_chain,
    draw_chain_itself,
    draw_films,
    draw_levels,
    draw_mistakes,
    draw_sessions,
)
from recmtl_lessons.lessons.hierarchical.questions import LESSON, prediction, study_question
from recmtl_lessons.lessons.hierarchical.sessions import (
    FLAT,
    FOR_PROGRESS,
    LATE,
    RANDOM_GOALS,
    TRAINING,
    compare,
    flat_network,
    two_level_network,
)
