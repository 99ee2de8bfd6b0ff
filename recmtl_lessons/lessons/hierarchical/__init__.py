"""Lesson 09: deciding at two levels. Its experiments, its pictures, its explorers and its questions."""

from recmtl_lessons.lessons._seeds import MORE_SEEDS
from recmtl_lessons.lessons.hierarchical.chain import (
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
    LATE,
    ON_FRESH_SEEDS,
    TRAINING,
    compare,
    compare_on_films,
    flat_network,
    score_rates,
    two_level_network,
)
