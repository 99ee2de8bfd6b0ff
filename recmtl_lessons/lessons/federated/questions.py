"""The lesson's prediction and its two study questions, from ``texts.yaml``."""

from pathlib import Path

from recmtl_lessons.teaching.study import StudyQuestion
from recmtl_lessons.teaching.texts import Texts

TEXTS = Texts(Path(__file__).with_name("texts.yaml"), "federated")
LESSON = TEXTS.lesson
prediction = TEXTS.predict("predict")


def study_federated(*evidence_from) -> StudyQuestion:
    """Return the study question on private federated meta-learning; its evidence comes from these."""
    return TEXTS.study("study-federated", *evidence_from)


def study_realtime(*evidence_from) -> StudyQuestion:
    """Return the study question on following preferences in real time; its evidence comes from these."""
    return TEXTS.study("study-realtime", *evidence_from)
