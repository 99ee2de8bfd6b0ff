"""Lesson 01: domain-adversarial training. Its experiments, its pictures, its explorers and its questions."""

from recmtl_lessons.lessons.domain_adversarial.activities import LESSON
from recmtl_lessons.lessons.domain_adversarial.experiments import (
    CLICK,
    LAMBDAS,
    SEEDS,
    SHOP,
    STEPS,
    both_heads,
    many_networks,
    objective,
    objective_with_shuffled_domains,
    objective_with_softmax_inside,
    objective_with_two_signs,
    open_shops,
    sweep,
    trained_abroad,
    transfer_between_genres,
    turned_around,
    two_sweeps,
    two_tasks_in_three_domains,
    without_shift,
)
from recmtl_lessons.lessons.domain_adversarial.explorers import explore_lambda, explore_schedule
from recmtl_lessons.lessons.domain_adversarial.pictures import (
    draw_banner,
    draw_genres,
    draw_idea,
    draw_softmax,
    draw_sweep,
    draw_two_tasks,
)
from recmtl_lessons.lessons.domain_adversarial.questions import (
    BELOW_A_COIN,
    exercise_distance,
    exercise_objective,
    exercise_reversal,
    prediction,
    study_question,
)
