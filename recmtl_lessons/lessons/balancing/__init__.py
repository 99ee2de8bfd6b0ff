"""Lesson 11: balancing tasks. Its experiments, its pictures, its explorers and its questions."""

from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.balancing.exercises import exercise_projection, exercise_schedule, exercise_uncertainty
from recmtl_lessons.lessons.balancing.experiments import (
    band,
    compare,
    compare_over_spread,
    conflicts_left,
    conversions,
    difference_from_the_stack,
    films,
    genres,
    held_out,
    helpers,
    helpers_unrelated,
    make_network,
    mistakes,
    narrow,
    narrow_arms,
    open_shop,
    own_scores,
    schedules,
)
from recmtl_lessons.lessons.balancing.explorers import explore_arrows, explore_landscape, explore_weights
from recmtl_lessons.lessons.balancing.landscape import WAYS_DOWN, ends_of
from recmtl_lessons.lessons.balancing.pictures import (
    draw_helpers,
    draw_idea,
    draw_narrow,
    draw_own,
    draw_ways,
)
from recmtl_lessons.lessons.balancing.questions import LESSON, concept_check, prediction
