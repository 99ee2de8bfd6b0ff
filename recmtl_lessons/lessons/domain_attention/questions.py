"""The lesson's prediction and its two study questions, from ``texts.yaml``."""

from pathlib import Path

from recmtl_lessons.teaching.study import StudyQuestion
from recmtl_lessons.teaching.texts import Texts

TEXTS = Texts(Path(__file__).with_name("texts.yaml"), "domain_attention")
LESSON = TEXTS.lesson
prediction = TEXTS.predict("predict")


def study_attention(*evidence_from) -> StudyQuestion:
    """Return the study question on attention; its evidence comes from these explorers and exercises."""
    return TEXTS.study("study-attention", *evidence_from)


def study_mechanisms(*evidence_from) -> StudyQuestion:
    """Return the study question on the mechanisms of transfer; its evidence comes from these."""
    return TEXTS.study("study-mechanisms", *evidence_from)
