"""Notebook 00: the map of the course, the world made visible, and one of each thing to try."""

from recmtl_lessons.lessons.start_here.course import COURSE, Entry, show_map
from recmtl_lessons.lessons.start_here.exercises import agreement_by_seed, exercise_agreement, share_of_equal_signs
from recmtl_lessons.lessons.start_here.questions import LESSON, prediction, quiz
from recmtl_lessons.lessons.start_here.setup import check_setup, show_setup
from recmtl_lessons.lessons.start_here.world import draw_relatedness, explore_world, related_world
