"""Lesson 02: transfer by matching distributions and by linking users. Experiments, pictures, explorers, questions."""

from recmtl_lessons.datasets.shops import without_shift
from recmtl_lessons.lessons.cross_domain_transfer.exercises import exercise_bandwidth, exercise_mmd, exercise_test
from recmtl_lessons.lessons.cross_domain_transfer.explorers import explore_linking, explore_matching
from recmtl_lessons.lessons.cross_domain_transfer.genres import transfer_between_genres
from recmtl_lessons.lessons.cross_domain_transfer.linking import (
    ALONE,
    GENTLY,
    account,
    constant_error,
    grid_of_gains,
    in_worlds,
    linked_in_one_table,
    match_accounts,
    objective_with,
    score_penalties,
)
from recmtl_lessons.lessons.cross_domain_transfer.matching import (
    match,
    match_each,
    mmd_at_a_fixed_bandwidth,
    mmd_of,
    mmd_of_mixed_halves,
    open_shops,
    pull_over_bandwidth,
    rejection_rates,
    score_weights,
)
from recmtl_lessons.lessons.cross_domain_transfer.matching import objective_with as click_objective_with
from recmtl_lessons.lessons.cross_domain_transfer.pictures import (
    draw_alignments,
    draw_bandwidth,
    draw_genres,
    draw_grid,
    draw_kernel,
    draw_network,
    draw_ratings,
    draw_test,
)
from recmtl_lessons.lessons.cross_domain_transfer.questions import LESSON, prediction
