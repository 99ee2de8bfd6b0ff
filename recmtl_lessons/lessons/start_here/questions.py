"""The prediction and the question of the first notebook, from ``texts.yaml``."""

from pathlib import Path

from recmtl_lessons.teaching.texts import Texts

TEXTS = Texts(Path(__file__).with_name("texts.yaml"), "start_here")
LESSON = TEXTS.lesson
prediction = TEXTS.predict("predict")
quiz = TEXTS.quiz("quiz")
