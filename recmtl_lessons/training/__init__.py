"""How models are trained and measured: many at once, metrics, device."""

from recmtl_lessons.training.device import default_device
from recmtl_lessons.training.metrics import accuracy, auc, mae, ndcg_at_k, proxy_a_distance, rmse
from recmtl_lessons.training.stacked import ManyModels, Moment

__all__ = [
    "ManyModels",
    "Moment",
    "accuracy",
    "auc",
    "default_device",
    "mae",
    "ndcg_at_k",
    "proxy_a_distance",
    "rmse",
]
