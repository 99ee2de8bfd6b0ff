"""Lesson 03: attention across domains. Its experiments, its pictures, its explorers and its questions."""

from recmtl_lessons.lessons.domain_attention.exercises import (
    exercise_align,
    exercise_contribution,
    exercise_softmax,
)
from recmtl_lessons.lessons.domain_attention.experiments import (
    ALL_ALIKE,
    DOMAINS,
    UNEVEN_HISTORIES,
    agreement,
    compare,
    fixed_weights,
    gains,
    objective_with_rows_of_different_users,
    remove_shops,
    remove_twins,
    trained_on_mixed_rows,
    turn_a_shop,
)
from recmtl_lessons.lessons.domain_attention.explorers import explore_training, explore_users
from recmtl_lessons.lessons.domain_attention.films import attend_to_genres
from recmtl_lessons.lessons.domain_attention.pictures import (
    draw_comparison,
    draw_genres,
    draw_idea,
    draw_removal,
    draw_turning,
    draw_weights,
)
from recmtl_lessons.lessons.domain_attention.questions import (
    LESSON,
    prediction,
    study_attention,
    study_mechanisms,
)
