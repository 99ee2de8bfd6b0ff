"""Lesson 12: federated meta-learning, and adapting in real time."""

from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.federated import realtime
from recmtl_lessons.lessons.federated.exercises import (
    exercise_average,
    exercise_mask,
    exercise_private,
    exercise_round,
)
from recmtl_lessons.lessons.federated.experiments import (
    band,
    compare,
    compare_one_taste,
    difference_from_the_stack,
    epsilon,
    films,
    float_masks_off,
    heavy_client,
    held_out,
    local_steps,
    make_network,
    one_shop,
    own_scores,
    peeking,
    private_rounds,
    weights_forgotten,
)
from recmtl_lessons.lessons.federated.explorers import explore_masks, explore_rounds
from recmtl_lessons.lessons.federated.pictures import (
    draw_arms,
    draw_idea,
    draw_own,
    draw_private,
)
from recmtl_lessons.lessons.federated.questions import LESSON, prediction, study_federated, study_realtime
from recmtl_lessons.lessons.federated.realtime_exercises import exercise_online
from recmtl_lessons.lessons.federated.realtime_explorers import explore_stream
from recmtl_lessons.lessons.federated.realtime_pictures import (
    draw_course,
    draw_film_streams,
    draw_stream_idea,
    draw_streams,
    draw_windows,
)
