"""The lesson's prediction, from ``texts.yaml``."""

from pathlib import Path

from recmtl_lessons.teaching.texts import Texts

TEXTS = Texts(Path(__file__).with_name("texts.yaml"), "cross_domain_transfer")
LESSON = TEXTS.lesson
prediction = TEXTS.predict("predict")
