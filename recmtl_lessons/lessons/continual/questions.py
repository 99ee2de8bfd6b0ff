"""The lesson's prediction and its two study questions, from ``texts.yaml``."""

from pathlib import Path

from recmtl_lessons.teaching.study import StudyQuestion
from recmtl_lessons.teaching.texts import Texts

TEXTS = Texts(Path(__file__).with_name("texts.yaml"), "continual")
LESSON = TEXTS.lesson
prediction = TEXTS.predict("predict")


def study_design(*evidence_from) -> StudyQuestion:
    """Return the study question on the design of a continual learner; its evidence comes from these."""
    return TEXTS.study("study-design", *evidence_from)


def study_forgetting(*evidence_from) -> StudyQuestion:
    """Return the study question on catastrophic forgetting; its evidence comes from these."""
    return TEXTS.study("study-forgetting", *evidence_from)
