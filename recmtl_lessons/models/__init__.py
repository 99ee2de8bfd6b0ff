"""The mathematics: modules and their objectives. Imports torch, and nothing else of ours."""

from recmtl_lessons.models.domain_adversarial import (
    DomainAdversarialNetwork,
    GradientReversalLayer,
    domain_loss,
    lambda_schedule,
    task_loss,
)

__all__ = [
    "DomainAdversarialNetwork",
    "GradientReversalLayer",
    "domain_loss",
    "lambda_schedule",
    "task_loss",
]
