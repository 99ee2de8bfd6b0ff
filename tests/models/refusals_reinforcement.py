"""Rows of the table of refusals: policies, Q-values, two levels of decisions, and what they are trained by."""

import torch

from recmtl_lessons.models import (
    HierarchicalMultiTaskRL,
    MultiTaskDistilledQNetwork,
    MultiTaskPolicyNetwork,
    actor_critic_loss,
    distillation_loss,
    double_q_target,
    epsilon_greedy,
    gae,
    n_step_returns,
    ppo_loss,
    q_loss,
    q_value_scale,
    semi_markov_returns,
    semi_markov_target,
    td_errors,
)
from tests.support.refusals import (
    Call,
    Count,
    Each,
    Flag,
    Floats,
    Generator,
    Given,
    Integers,
    Mask,
    Number,
    OneOf,
    Widths,
)

ACTIONS = {"home": 3, "search": 4}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def some(most, rows=5):
    return torch.arange(rows) % (most + 1)


def flags(*shape):
    return uniform(*shape) < 0.3


def made(kind, *arguments, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(6, *arguments, **options)


POLICY = made(MultiTaskPolicyNetwork, ACTIONS, (5,), (4,))
Q_NETWORK = made(MultiTaskDistilledQNetwork, ACTIONS, (4,), (4,), num_heads=2)
TWO_LEVEL = made(HierarchicalMultiTaskRL, 2, ACTIONS, (5,), (4,), 3)

COUNT, SHARE, POSITIVE, WEIGHT = Count(), Number(0.0, 1.0), Number(0.0, above=True), Number(0.0)
WIDTHS, FLAG, LUCK, NO_DROPOUT = Widths(empty=True), Flag(), Generator(optional=True), Number(0.0, 0.0)
BY_NAME = Each(dict.fromkeys(ACTIONS, COUNT))
STATE, TASK = Floats("free fixed"), OneOf(*ACTIONS)
UNIFORM = Floats("fixed fixed", optional=True)
GOALS = Integers(1, "fixed")


def bound(network, name, arguments, kinds, **options):
    """A row of a method, none of which changes its network; arguments are made anew for each call."""
    called = f"{type(network).__name__}.{name}"
    return Call(called, lambda: (getattr(network, name), arguments()), kinds, **options)


def states(**others):
    return {"state": normal(5, 6), **others}


ACTED = {"deterministic": FLAG, "generator": LUCK, "uniform": UNIFORM}

POLICIES = [
    Call(
        "MultiTaskPolicyNetwork",
        lambda: (
            MultiTaskPolicyNetwork,
            {"state_dim": 6, "action_dims": dict(ACTIONS), "shared_dims": (5,), "task_dims": [4], "dropout_rate": 0.0},
        ),
        {"state_dim": COUNT, "action_dims": BY_NAME, "shared_dims": WIDTHS, "task_dims": WIDTHS,
         "dropout_rate": NO_DROPOUT},
    ),
    bound(POLICY, "forward", lambda: states(task_name="home"), {"state": STATE, "task_name": TASK}),
    bound(
        POLICY,
        "action_probabilities",
        lambda: states(task_name="home", mask=some(1)[:, None] < torch.arange(1, 4)),
        {"state": STATE, "task_name": TASK, "mask": Mask()},
    ),
    bound(
        POLICY,
        "get_action",
        lambda: states(task_name="home", mask=some(1)[:, None] < torch.arange(1, 4), uniform=uniform(5, 3)),
        {"state": STATE, "task_name": TASK, "mask": Mask(), **ACTED},
    ),
    bound(
        POLICY,
        "evaluate_actions",
        lambda: states(task_name="home", action=some(2), mask=some(1)[:, None] <= torch.arange(3)),
        {"state": STATE, "task_name": TASK, "action": Integers(2, "fixed"), "mask": Mask()},
    ),
    bound(POLICY, "task_parameters", lambda: {"task_name": "home"}, {"task_name": TASK}),
]  # fmt: skip

FREE_DTYPE = Floats("fixed fixed", dtype=False, integers=True)
SHARES, OPTIONAL = Number(0.0, 1.0, optional=True), Number(0.0, above=True, optional=True)
ROWS = Floats("fixed", dtype=False, integers=True)
WEIGHTS = Floats("fixed", dtype=False, integers=True, optional=True)
TAUGHT = {"teacher_q_values": FREE_DTYPE, "temperature": POSITIVE, "scale": OPTIONAL}
TAKEN = {"actions": Integers(2, "fixed"), "targets": ROWS}


def taught():
    return {"teacher_q_values": normal(5, 3, seed=1), "temperature": 0.5, "scale": 2.0}


def taken():
    return {"actions": some(2), "targets": normal(5, seed=2)}


Q_NETWORKS = [
    Call(
        "MultiTaskDistilledQNetwork",
        lambda: (
            MultiTaskDistilledQNetwork,
            {"state_dim": 6, "action_dims": dict(ACTIONS), "shared_dims": [5, 4], "task_dims": (4,),
             "distillation_weight": 0.5, "num_heads": 2, "attention": True, "dropout_rate": 0.0},
        ),
        {"state_dim": COUNT, "action_dims": BY_NAME, "shared_dims": Widths(), "task_dims": WIDTHS,
         "distillation_weight": SHARE, "num_heads": COUNT, "attention": FLAG, "dropout_rate": NO_DROPOUT},
    ),
    bound(
        Q_NETWORK,
        "forward",
        lambda: states(task_name="home"),
        {"state": STATE, "task_name": OneOf(*ACTIONS, optional=True)},
    ),
    bound(
        Q_NETWORK,
        "answer_own",
        lambda: {"states": {"home": normal(5, 6), "search": normal(3, 6)}},
        {"states": Each(dict.fromkeys(ACTIONS, STATE))},
    ),
    bound(Q_NETWORK, "attention_weights", states, {"state": STATE}),
    bound(Q_NETWORK, "greedy_action", lambda: states(task_name="home"), {"state": STATE, "task_name": TASK}),
    bound(
        Q_NETWORK,
        "act",
        lambda: states(task_name="home", epsilon=0.5),
        {"state": STATE, "task_name": TASK, "epsilon": SHARE, "generator": LUCK},
    ),
    bound(
        Q_NETWORK,
        "action_probabilities",
        lambda: states(task_name="home", temperature=0.5, scale=2.0),
        {"state": STATE, "task_name": TASK, "temperature": POSITIVE, "scale": POSITIVE},
    ),
    bound(
        Q_NETWORK,
        "compute_distillation_loss",
        lambda: states(target_task="home", **taught()),
        {"state": STATE, "target_task": TASK, **TAUGHT},
        also=("student_q_values",),
    ),
    bound(
        Q_NETWORK,
        "loss",
        lambda: states(task_name="home", **taken(), **taught(), weights=uniform(5), distillation_weight=0.3),
        {"state": STATE, "task_name": TASK, **TAKEN, **TAUGHT, "weights": WEIGHTS, "distillation_weight": SHARES},
        also=("q_values", "student_q_values"),
    ),
    Call(
        "q_value_scale",
        lambda: (q_value_scale, {"q_values": normal(5, 3)}),
        {"q_values": Floats("free free", dtype=False)},
    ),
    Call(
        "distillation_loss",
        lambda: (distillation_loss, {"student_q_values": normal(5, 3), **taught()}),
        {"student_q_values": Floats("fixed fixed", dtype=False), **TAUGHT},
        also=("teacher_q_values",),
    ),
    Call(
        "double_q_target",
        lambda: (
            double_q_target,
            {"rewards": normal(5), "next_q_online": normal(5, 3), "next_q_target": normal(5, 3, seed=1),
             "terminated": flags(5), "discount": 0.9},
        ),
        {"rewards": ROWS, "next_q_online": Floats("fixed fixed", dtype=False), "next_q_target": FREE_DTYPE,
         "terminated": Given([True] * 5, flags(4), torch.full((5,), 0.5)), "discount": SHARE},
        also=("next_q_target", "rewards"),
    ),
    Call(
        "td_errors",
        lambda: (td_errors, {"q_values": normal(5, 3), **taken()}),
        {"q_values": Floats("fixed free", dtype=False), **TAKEN},
        also=("actions",),
    ),
    Call(
        "q_loss",
        lambda: (q_loss, {"q_values": normal(5, 3), **taken(), "weights": uniform(5)}),
        {"q_values": Floats("fixed free", dtype=False), **TAKEN, "weights": WEIGHTS},
        also=("actions",),
    ),
    Call(
        "epsilon_greedy",
        lambda: (epsilon_greedy, {"q_values": normal(2, 5, 3), "epsilon": 0.5}),
        {"q_values": Given([[1.0]], torch.zeros(2, 0), torch.arange(3), torch.full((2, 3), torch.nan)),
         "epsilon": SHARE, "generator": LUCK},
    ),
]  # fmt: skip

CONTROLLED = {"state": STATE, "goals": GOALS}


def controlled(**others):
    return states(goals=some(1), **others)


TWO_LEVELS = [
    *(
        Call(
            "HierarchicalMultiTaskRL",
            lambda counts=counts: (
                HierarchicalMultiTaskRL,
                {"state_dim": 6, "meta_action_dim": 2, "task_action_dims": counts, "meta_dims": [5], "task_dims": (4,),
                 "goal_dim": 3, "dropout_rate": 0.0},
            ),
            {"state_dim": COUNT, "meta_action_dim": COUNT, "task_action_dims": kind, "meta_dims": WIDTHS,
             "task_dims": WIDTHS, "goal_dim": COUNT, "dropout_rate": NO_DROPOUT},
            also=("task_action_dims",),
        )
        for counts, kind in (
            (dict(ACTIONS), BY_NAME),
            ([3, 4], Given([3], [3, 4, 2], [3, 0], "34", 0, 2.5, (True, 2))),
        )
    ),
    bound(
        TWO_LEVEL,
        "forward",
        lambda: states(level="task", goal=some(1)),
        {"state": STATE, "level": OneOf("meta", "task"), "goal": GOALS},
        infinite=True,
    ),
    bound(TWO_LEVEL, "goal_probabilities", states, {"state": STATE}),
    bound(TWO_LEVEL, "action_probabilities", controlled, CONTROLLED),
    bound(TWO_LEVEL, "get_goal", lambda: states(uniform=uniform(5, 2)), {"state": STATE, **ACTED}),
    bound(TWO_LEVEL, "get_action", lambda: controlled(uniform=uniform(5, 4)), {**CONTROLLED, **ACTED}),
    bound(
        TWO_LEVEL,
        "get_hierarchical_action",
        lambda: states(goal=some(1), uniform=uniform(5, 6)),
        {"state": STATE, "goal": Integers(1, "fixed", optional=True), **ACTED},
    ),
    bound(TWO_LEVEL, "evaluate_goals", controlled, CONTROLLED),
    bound(
        TWO_LEVEL,
        "evaluate_actions",
        lambda: controlled(actions=some(2)),
        {**CONTROLLED, "actions": Integers(3, "fixed")},
    ),
]  # fmt: skip

NUMBERS, ENDS = Floats("fixed fixed"), Mask("fixed fixed", optional=False)


def over_time(function, second, kinds, **others):
    """A row of a function of steps and sessions; the first argument sets shape and dtype, by which the second errs."""

    def right():
        numbers = {name: normal(4, 3, seed=k) for k, name in enumerate(kinds) if kinds[name] is NUMBERS}
        return function, {**numbers, **{name: flags(4, 3) for name in kinds if kinds[name] is ENDS}, **others}

    return Call(function.__name__, right, kinds, also=(second,))


TERMS = dict.fromkeys(("log_prob", "entropy", "value", "advantage", "returns"), NUMBERS)
WEIGHED = {"value_weight": WEIGHT, "entropy_weight": WEIGHT}
REWARDS = {"rewards": NUMBERS, "next_values": NUMBERS, "terminated": ENDS, "discount": SHARE}

TRAINING = [
    over_time(
        gae,
        "values",
        {**REWARDS, "values": NUMBERS, "truncated": ENDS, "gae_lambda": SHARE},
        discount=0.9,
        gae_lambda=0.8,
    ),
    over_time(n_step_returns, "next_values", {**REWARDS, "truncated": ENDS, "n": COUNT}, discount=0.9, n=2),
    over_time(semi_markov_returns, "next_values", {**REWARDS, "goal_ended": ENDS}, discount=0.9),
    over_time(
        semi_markov_target,
        "next_values",
        {"paid": NUMBERS, "steps": Integers(None, "fixed fixed"), "next_values": NUMBERS, "terminated": ENDS,
         "discount": SHARE},
        steps=1 + some(5, 12).view(4, 3),
        discount=0.9,
    ),
    over_time(actor_critic_loss, "entropy", {**TERMS, **WEIGHED}, value_weight=0.5, entropy_weight=0.1),
    over_time(
        ppo_loss,
        "old_log_prob",
        {**TERMS, "old_log_prob": NUMBERS, **WEIGHED, "clip": POSITIVE, "counted": Mask()},
        value_weight=0.5,
        entropy_weight=0.1,
        clip=0.2,
        counted=flags(4, 3),
    ),
]  # fmt: skip

CALLS = [*POLICIES, *Q_NETWORKS, *TWO_LEVELS, *TRAINING]
