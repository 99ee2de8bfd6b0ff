"""Where sessions come from: recommender environments under the Gymnasium API, one by one and as tensors."""

import os

import torch

from recmtl_lessons.envs.chain import (
    ChainEnv,
    Chains,
    ChainState,
    chain_matrices,
    chain_value,
    chain_values_by_place,
    solve_chain,
)
from recmtl_lessons.envs.planning import Plan, SessionPlanner
from recmtl_lessons.envs.real_users import users_from_ratings
from recmtl_lessons.envs.session import (
    ObservationLayout,
    Outcome,
    SessionEnv,
    SessionRules,
    SessionSettings,
    SessionState,
    layout_of,
)
from recmtl_lessons.envs.surfaces import SURFACES, Surface, make_surface
from recmtl_lessons.envs.users import ACTIONS, STATE_DIM, SessionUsers, join_users, make_users
from recmtl_lessons.envs.vector import SessionVectorEnv, VectorOutcome

# A forked process, such as a worker of Gymnasium's AsyncVectorEnv, inherits that torch has threads, but no threads:
# whoever computes with several there waits for them for ever.
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

__all__ = [
    "ACTIONS",
    "STATE_DIM",
    "SURFACES",
    "ChainEnv",
    "ChainState",
    "Chains",
    "ObservationLayout",
    "Outcome",
    "Plan",
    "SessionEnv",
    "SessionPlanner",
    "SessionRules",
    "SessionSettings",
    "SessionState",
    "SessionUsers",
    "SessionVectorEnv",
    "Surface",
    "VectorOutcome",
    "chain_matrices",
    "chain_value",
    "chain_values_by_place",
    "join_users",
    "layout_of",
    "make_surface",
    "make_users",
    "solve_chain",
    "users_from_ratings",
]
