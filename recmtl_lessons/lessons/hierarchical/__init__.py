"""Lesson 09: deciding at two levels. Its experiments, its pictures, its explorers and its questions."""

from recmtl_lessons.lessons._seeds import MORE_SEEDS
from recmtl_lessons.lessons.hierarchical.chain import (
    BOOTSTRAPS,
    FLAT_Q,
    FLAT_Q_HISTORY,
    FLAT_Q_STOPS,
    NO_GRADIENT,
    SEES_HISTORY,
    TWO_GOALS,
    TWO_LEVELS,
    WAITS,
    compare_on_chain,
    score_flat_policies,
    score_tables,
    second_half,
    two_levels_on_chain,
)
from recmtl_lessons.lessons.hierarchical.exercises import exercise_progress, exercise_rows, exercise_target
from recmtl_lessons.lessons.hierarchical.explorers import explore_goals, explore_training
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
    ON_FRESH_SEEDS,
    RANDOM_GOALS,
    TRAINING,
    compare,
    compare_on_films,
    flat_network,
    score_rates,
    two_level_network,
)
