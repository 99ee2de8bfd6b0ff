"""The mathematics: modules and their objectives. Imports torch, and nothing else of ours."""

from recmtl_lessons.models.alignment import (
    TwoSampleTest,
    coral_loss,
    linear_time_mmd,
    median_bandwidth,
    mmd_permutation_test,
    squared_mmd,
)
from recmtl_lessons.models.cross_domain_transfer import CrossDomainTransferNetwork
from recmtl_lessons.models.domain_adversarial import (
    DomainAdversarialNetwork,
    GradientReversalLayer,
    domain_loss,
    lambda_schedule,
    task_loss,
)
from recmtl_lessons.models.domain_attention import MultiDomainAttentionNetwork, masked_attention
from recmtl_lessons.models.maml import MAMLRecommender
from recmtl_lessons.models.prototypical import PrototypicalNetworkRecommender
from recmtl_lessons.models.reptile import ReptileRecommender

__all__ = [
    "CrossDomainTransferNetwork",
    "DomainAdversarialNetwork",
    "GradientReversalLayer",
    "MAMLRecommender",
    "MultiDomainAttentionNetwork",
    "PrototypicalNetworkRecommender",
    "ReptileRecommender",
    "TwoSampleTest",
    "coral_loss",
    "domain_loss",
    "lambda_schedule",
    "linear_time_mmd",
    "masked_attention",
    "median_bandwidth",
    "mmd_permutation_test",
    "squared_mmd",
    "task_loss",
]
