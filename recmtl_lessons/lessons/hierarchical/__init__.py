"""Lesson 09: deciding at two levels. Its experiments, its pictures, its explorers and its questions."""

from recmtl_lessons.lessons.hierarchical.activities import LESSON
from recmtl_lessons.lessons.hierarchical.chain import (
    FLAT_POLICY,
    FLAT_Q,
    FLAT_Q_HISTORY,
    NO_GRADIENT,
    TWO_GOALS,
    compare_on_chain,
)
from recmtl_lessons.lessons.hierarchical.chain import two_level_network as two_levels_on_chain
from recmtl_lessons.lessons.hierarchical.explorers import explore_goals, explore_training
from recmtl_lessons.lessons.hierarchical.films import compare_on_films
from recmtl_lessons.lessons.hierarchical.learning import Training, Walker
from recmtl_lessons.lessons.hierarchical.pictures import (
    draw_chain,
    draw_chain_itself,
    draw_clicks,
    draw_films,
    draw_levels,
    draw_mistakes,
    draw_sessions,
)
from recmtl_lessons.lessons.hierarchical.questions import (
    A_TWENTIETH,
    exercise_progress,
    exercise_rows,
    exercise_target,
    prediction,
    study_question,
)
from recmtl_lessons.lessons.hierarchical.sessions import (
    FEW,
    FLAT,
    FOR_CLICKS,
    FOR_PROGRESS,
    LATE,
    TRAINING,
    TWO_LEVELS,
    SessionPlace,
    compare,
    flat_network,
    two_level_network,
)
