"""The lesson's prediction and its study question, from ``texts.yaml``."""

from pathlib import Path

from recmtl_lessons.teaching.study import StudyQuestion
from recmtl_lessons.teaching.texts import Texts

TEXTS = Texts(Path(__file__).with_name("texts.yaml"), "domain_adversarial")
LESSON = TEXTS.lesson
prediction = TEXTS.predict("predict")


def study_question(*evidence_from) -> StudyQuestion:
    """Return the lesson's study question; its evidence comes from these explorers and exercises."""
    return TEXTS.study("study", *evidence_from)
