"""The lesson's prediction and its concept check, from ``texts.yaml``."""

from pathlib import Path

from recmtl_lessons.teaching.texts import Texts

TEXTS = Texts(Path(__file__).with_name("texts.yaml"), "balancing")
LESSON = TEXTS.lesson
prediction = TEXTS.predict("predict")
concept_check = TEXTS.quiz("check")
