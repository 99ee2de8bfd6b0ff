"""Lesson 01: domain-adversarial training. Its experiments, its pictures, its explorers and its questions."""

from recmtl_lessons.datasets.shops import SHOP, turned_around, without_shift
from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.domain_adversarial.exercises import (
    exercise_distance,
    exercise_objective,
    exercise_reversal,
)
from recmtl_lessons.lessons.domain_adversarial.experiments import (
    CLICK,
    LAMBDAS,
    LONGER_ON_FILMS,
    STEPS,
    auc_of,
    course_band,
    difference_from_the_stack,
    networks,
    open_shops,
    own_scores,
    shuffled_domains,
    softmax_inside,
    still_leaning,
    sweep,
    sweep_of_several,
    taste_alone,
    trained_abroad,
    transfer_between_genres,
    two_signs,
    two_tasks_in_three_domains,
)
from recmtl_lessons.lessons.domain_adversarial.explorers import explore_lambda, explore_schedule
from recmtl_lessons.lessons.domain_adversarial.pictures import (
    draw_banner,
    draw_genres,
    draw_idea,
    draw_own,
    draw_softmax,
    draw_sweep,
    draw_two_tasks,
)
from recmtl_lessons.lessons.domain_adversarial.questions import LESSON, prediction, study_question
