"""Lesson 05: Reptile. Its experiments, its pictures, its explorers and its questions."""

from recmtl_lessons.lessons.reptile.breaking import (
    MOMENTUM,
    NO_MOMENTUM,
    train_with_inner_adam,
    with_inner_adam,
)
from recmtl_lessons.lessons.reptile.costs import maml_direction, memory_by_gradients, reptile_direction, time_updates
from recmtl_lessons.lessons.reptile.exercises import exercise_count, exercise_optimizer, exercise_step
from recmtl_lessons.lessons.reptile.expansion import (
    beside_joint_training,
    gradients_agree,
    take_apart,
    two_steps,
)
from recmtl_lessons.lessons.reptile.experiments import (
    RIVALS,
    compare,
    compare_on_films,
    score_training,
    shuffled_for_longer,
    training_users,
    with_one_taste,
    with_shuffled_users,
)
from recmtl_lessons.lessons.reptile.explorers import explore_plane, explore_race
from recmtl_lessons.lessons.reptile.pictures import (
    draw_adam,
    draw_comparison,
    draw_controls,
    draw_films,
    draw_idea,
    draw_memory,
    draw_together,
)
from recmtl_lessons.lessons.reptile.plane import one_update
from recmtl_lessons.lessons.reptile.questions import LESSON, prediction, study_question
