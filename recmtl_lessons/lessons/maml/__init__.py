"""Lesson 04: MAML. Its experiments, its pictures, its explorers and its questions."""

from recmtl_lessons.lessons.maml.breaking import (
    adapted_wrongly,
    broadcast_loss,
    compare_gradients,
    meta_gradient_in_place,
)
from recmtl_lessons.lessons.maml.exercises import exercise_inner, exercise_outer, exercise_rate
from recmtl_lessons.lessons.maml.experiments import (
    AT_THE_SHOPS_RATE,
    before_the_first_rating,
    by_ratings,
    compare,
    compare_on_films,
    from_anothers_ratings,
    score_training,
    with_one_taste,
)
from recmtl_lessons.lessons.maml.explorers import explore_cold_start, explore_path, explore_waves
from recmtl_lessons.lessons.maml.pictures import (
    draw_broken,
    draw_by_ratings,
    draw_comparison,
    draw_films,
    draw_idea,
    draw_waves,
)
from recmtl_lessons.lessons.maml.questions import LESSON, prediction
from recmtl_lessons.lessons.maml.sinusoid import FULL_RUN, short_run, table
