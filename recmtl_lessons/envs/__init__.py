"""Where sessions come from: recommender environments under the Gymnasium API, one by one and as tensors."""

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
from recmtl_lessons.envs.users import SessionUsers, join_users, make_users
from recmtl_lessons.envs.vector import SessionVectorEnv

__all__ = [
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
