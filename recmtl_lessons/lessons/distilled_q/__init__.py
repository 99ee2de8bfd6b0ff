"""Lesson 08: distilled Q-networks. Its experiments, its pictures, its explorers and its questions."""

from recmtl_lessons.lessons.distilled_q.breaking import (
    gradients_at_one,
    gradients_by_temperature,
    look_at_one,
    train_without_square,
)
from recmtl_lessons.lessons.distilled_q.choosing import (
    LONGER,
    ON_FRESH_SEEDS,
    score_longer,
    score_rewards,
    score_widths,
)
from recmtl_lessons.lessons.distilled_q.exercises import exercise_loss, exercise_target, exercise_tokens
from recmtl_lessons.lessons.distilled_q.experiments import (
    Teachers,
    attention_of,
    by_temperature,
    compare,
    compare_on_films,
    cut,
    differs_by_state,
    differs_by_task,
    school,
    share_of_best,
    student,
    untrained,
)
from recmtl_lessons.lessons.distilled_q.explorers import explore_attention, explore_distilling
from recmtl_lessons.lessons.distilled_q.pictures import (
    draw_attention,
    draw_comparison,
    draw_films,
    draw_idea,
    draw_square,
    draw_temperatures,
)
from recmtl_lessons.lessons.distilled_q.questions import LESSON, prediction, study_question
from recmtl_lessons.training.q_learning import learn_from_rewards, teach
