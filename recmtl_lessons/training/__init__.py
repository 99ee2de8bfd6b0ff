"""How models are trained and measured: many at once, metrics, device."""

from recmtl_lessons.training.device import default_device
from recmtl_lessons.training.jobs import concurrently, concurrently_for
from recmtl_lessons.training.metrics import accuracy, auc, mae, proxy_a_distance, rmse, transfer_matrix
from recmtl_lessons.training.progress import Moment, with_bar
from recmtl_lessons.training.replay import ReplayBuffer, ReservoirBuffer
from recmtl_lessons.training.rollouts import Acted, Actors, Chooser, Rollout, Sessions, returns_of, stack_steps
from recmtl_lessons.training.scores import Scores
from recmtl_lessons.training.stacked import DivergenceError, ManyModels, Stack, draw_batches

__all__ = [
    "Acted",
    "Actors",
    "Chooser",
    "DivergenceError",
    "ManyModels",
    "Moment",
    "ReplayBuffer",
    "ReservoirBuffer",
    "Rollout",
    "Scores",
    "Sessions",
    "Stack",
    "accuracy",
    "auc",
    "concurrently",
    "concurrently_for",
    "default_device",
    "draw_batches",
    "mae",
    "proxy_a_distance",
    "returns_of",
    "rmse",
    "stack_steps",
    "transfer_matrix",
    "with_bar",
]
