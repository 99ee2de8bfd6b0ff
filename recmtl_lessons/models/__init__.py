"""The mathematics: modules and their objectives. Imports torch, and nothing else of ours."""

from recmtl_lessons.models.alignment import (
    TwoSampleTest,
    coral_loss,
    median_bandwidth,
    mmd_permutation_test,
    squared_mmd,
)
from recmtl_lessons.models.continual import (
    ContinualFactorization,
    ContinualRecommender,
    ElasticWeightConsolidation,
    agem_project,
    fisher_diagonal,
    forgetting_loss,
    quadratic_penalty,
)
from recmtl_lessons.models.cross_domain_transfer import CrossDomainTransferNetwork
from recmtl_lessons.models.distilled_q import (
    MultiTaskDistilledQNetwork,
    distillation_loss,
    double_q_target,
    epsilon_greedy,
    q_loss,
    q_value_scale,
    td_errors,
)
from recmtl_lessons.models.domain_adversarial import (
    DomainAdversarialNetwork,
    GradientReversalLayer,
    domain_loss,
    lambda_schedule,
    task_loss,
)
from recmtl_lessons.models.domain_attention import MultiDomainAttentionNetwork, masked_attention
from recmtl_lessons.models.hierarchical import HierarchicalMultiTaskRL, semi_markov_returns, semi_markov_target
from recmtl_lessons.models.maml import MAMLRecommender
from recmtl_lessons.models.policy import (
    MultiTaskPolicyNetwork,
    actor_critic_loss,
    gae,
    n_step_returns,
    ppo_loss,
)
from recmtl_lessons.models.prototypical import PrototypicalNetworkRecommender
from recmtl_lessons.models.reptile import ReptileRecommender

__all__ = [
    "ContinualFactorization",
    "ContinualRecommender",
    "CrossDomainTransferNetwork",
    "DomainAdversarialNetwork",
    "ElasticWeightConsolidation",
    "GradientReversalLayer",
    "HierarchicalMultiTaskRL",
    "MAMLRecommender",
    "MultiDomainAttentionNetwork",
    "MultiTaskDistilledQNetwork",
    "MultiTaskPolicyNetwork",
    "PrototypicalNetworkRecommender",
    "ReptileRecommender",
    "TwoSampleTest",
    "actor_critic_loss",
    "agem_project",
    "coral_loss",
    "distillation_loss",
    "domain_loss",
    "double_q_target",
    "epsilon_greedy",
    "fisher_diagonal",
    "forgetting_loss",
    "gae",
    "lambda_schedule",
    "masked_attention",
    "median_bandwidth",
    "mmd_permutation_test",
    "n_step_returns",
    "ppo_loss",
    "q_loss",
    "q_value_scale",
    "quadratic_penalty",
    "semi_markov_returns",
    "semi_markov_target",
    "squared_mmd",
    "task_loss",
    "td_errors",
]
