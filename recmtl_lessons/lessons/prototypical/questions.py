"""The lesson's prediction and its study question, from ``texts.yaml``."""

from pathlib import Path

from recmtl_lessons.teaching.study import StudyQuestion
from recmtl_lessons.teaching.texts import Texts

TEXTS = Texts(Path(__file__).with_name("texts.yaml"), "prototypical")
LESSON = TEXTS.lesson
prediction = TEXTS.predict("predict")


def study_cold_start(*evidence_from) -> StudyQuestion:
    """Return the study question on cold start; its evidence comes from these explorers and exercises."""
    return TEXTS.study("study-cold-start", *evidence_from)
