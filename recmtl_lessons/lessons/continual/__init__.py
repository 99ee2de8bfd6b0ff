"""Lesson 10: continual learning. Its experiments, its pictures, its explorers and its questions."""

from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.continual.exercises import (
    exercise_fisher,
    exercise_learner,
    exercise_penalty,
    exercise_reservoir,
)
from recmtl_lessons.lessons.continual.experiments import (
    CHOSEN,
    METHODS,
    RELATEDNESS,
    STRENGTH,
    course_band,
    difference_from_the_stack,
    dip,
    genres_one_after_another,
    heads_apart,
    importance_one,
    importances,
    learning_slower,
    methods_on_tables,
    one_head,
    open_clues,
    over_relatedness,
    own_scores,
    rows_by_plain_descent,
    sizes_of_batched,
    stability_gap,
    sweep,
    switches,
    three_splits,
)
from recmtl_lessons.lessons.continual.explorers import explore_arrivals, explore_weight
from recmtl_lessons.lessons.continual.pictures import (
    draw_gap,
    draw_genres,
    draw_idea,
    draw_methods,
    draw_over_relatedness,
    draw_own,
    draw_strengths,
)
from recmtl_lessons.lessons.continual.questions import LESSON, prediction, study_design, study_forgetting
