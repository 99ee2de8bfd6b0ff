"""Lesson 03: attention across domains. Its experiments, its pictures, its explorers and its questions."""

from recmtl_lessons.lessons.domain_attention.exercises import (
    exercise_align,
    exercise_contribution,
    exercise_softmax,
)
from recmtl_lessons.lessons.domain_attention.experiments import (
    ALL_ALIKE,
    DOMAINS,
    SEEDS,
    STEPS,
    TOWN,
    UNEVEN_HISTORIES,
    FixedWeights,
    agreement,
    best_rates,
    by_domain,
    compare,
    fixed_weights,
    gains,
    network,
    objective,
    objective_with_rows_of_different_users,
    open_shops,
    remove_shops,
    remove_twins,
    score_rates,
    trained_on_mixed_rows,
    turn_a_shop,
)
from recmtl_lessons.lessons.domain_attention.explorers import explore_training, explore_users
from recmtl_lessons.lessons.domain_attention.films import GENRES, attend_to_genres
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
