"""Lesson 06: prototypical networks. New shelves and new users from a few examples; then the section's comparison."""

from recmtl_lessons.lessons.prototypical.exercises import exercise_classify, exercise_design, exercise_linear
from recmtl_lessons.lessons.prototypical.experiments import (
    broken_objective,
    by_ways,
    compare,
    episodic_objective,
    in_the_shop,
    three_controls,
    train_broken,
)
from recmtl_lessons.lessons.prototypical.explorers import explore_plane, explore_pull
from recmtl_lessons.lessons.prototypical.pictures import (
    draw_broken,
    draw_controls,
    draw_films,
    draw_idea,
    draw_new_shelves,
    draw_section,
    draw_ways,
)
from recmtl_lessons.lessons.prototypical.questions import LESSON, prediction, study_cold_start
from recmtl_lessons.lessons.prototypical.serving import (
    measure_costs,
    pulled_prototypes,
    rank_films,
    score_serving,
    serve_films,
    serve_in_shop,
    table,
)
