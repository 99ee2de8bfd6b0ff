"""Every public call of `envs`, asked with wrong arguments one at a time and with what chance sends."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recmtl_lessons import envs
from recmtl_lessons.datasets import Ratings
from recmtl_lessons.envs import (
    SURFACES,
    ChainEnv,
    Chains,
    ChainState,
    ObservationLayout,
    Outcome,
    Plan,
    SessionEnv,
    SessionPlanner,
    SessionRules,
    SessionSettings,
    SessionState,
    SessionUsers,
    SessionVectorEnv,
    Surface,
    VectorOutcome,
    chain_value,
    chain_values_by_place,
    join_users,
    layout_of,
    make_surface,
    make_users,
    solve_chain,
    users_from_ratings,
)
from tests.support.refusals import (
    Call,
    Count,
    Flag,
    Floats,
    Free,
    Given,
    Integers,
    Kind,
    Mask,
    Number,
    OneOf,
    ask,
    by_chance,
    junk_for,
    missing,
    refusals,
    refused,
)


class Also(Kind):
    """A kind for which more is wrong, as in `Given`."""

    def __init__(self, kind, *more):
        super().__init__(kind.optional)
        self.kind, self.more = kind, Given(*more, optional=True)

    def wrong(self, right):
        yield from self.kind.wrong(right)
        yield from list(self.more.wrong(right))[1:]


PEOPLE = make_users(6, 1)
LATE = SessionSettings(clicks_needed=3)


def rates(count=8):
    """So many users who rate two items."""
    return Ratings(
        user=torch.arange(count).repeat_interleave(2),
        item=torch.arange(2).repeat(count),
        rating=torch.arange(2.0 * count),
        user_ids=tuple(range(count)),
        item_ids=(7, 8),
        genres=torch.eye(2).bool(),
        genre_names=("Comedy", "War"),
    )


def rules():
    return SessionRules(PEOPLE, "home", LATE)


def a_state():
    """Three sessions after a step."""
    begun = rules().begin(torch.tensor([0, 3, 5]))
    return rules().advance(begun, torch.tensor([0, 1, 2]), torch.tensor([True, False, True])).state


def begun(env):
    env.reset(seed=0)
    return env


def planner():
    return SessionPlanner(PEOPLE[:2], "home", SessionSettings(levels=2, patience=1, clicks_needed=2))


def vector():
    return begun(SessionVectorEnv(PEOPLE, "home", 3))


def changed(part, change):
    """A state of which a part is another."""
    return lambda state: replace(state, **{part: change(getattr(state, part))})


PARTS = ("user", "satiation", "streak", "ignored", "elapsed")
CHANGES = (
    lambda values: values.float(), lambda values: values.tolist(), lambda values: values - 9, lambda values: values[:2]
)  # fmt: skip
STATE = Given(
    5,
    lambda state: vars(state),
    *(changed(part, change) for part in PARTS for change in CHANGES),
    *(changed(part, lambda values: values + 6) for part in ("user", "satiation", "streak")),
)

WHO = Given(5, "ab", [PEOPLE], lambda users: users.profile)
SETTINGS = Given(5, {"time_limit": 3}, "ab", SessionSettings, optional=True)
RENDERED = OneOf("ansi", optional=True)
DEVICE = Given("nowhere", "meta", "cuda:9999", 0.5, 10**400)
STRENGTHS = Also(
    Floats("fixed", dtype=False, integers=True, optional=True), lambda right: right - 9, lambda right: right + 1e7
)
SEEDS = (-1, 0.5, True, "0", math.nan, torch.tensor(0.5), torch.tensor(-1), np.float32(1), object(), b"shop")
SEED = Given(*SEEDS, torch.zeros(2).long(), [1], optional=True)
OPTIONS = (5, "ab", ["user"], [], 0, {"usr": 1}, {"user": 1, "task": "home"}, torch.zeros(2), np.zeros(2))
RESET = {"seed": SEED, "options": Given(*OPTIONS, {"user": 3}, optional=True)}
USER = (-1, 6, 1.0, "ann", None, True, torch.tensor([1]), 10**400)
ACTION = Given(-1, 3, 0.5, True, "news", 10**400, np.array([0, 1]), torch.zeros(1).long(), torch.tensor(1.0))
ACTIONS = Given(
    "abc", 0, [0, 1], [0, 3, 1], [0, -1, 1], [0, None, 1], [0.0, 1.0, 2.0], [[0], [0, 1], [2]], [10**400, 0, 0], {0: 1},
    np.array([0, None, 2]), torch.zeros(3), torch.zeros(3).bool(), torch.zeros(3, dtype=torch.complex64),
    torch.zeros(2).long(), torch.zeros(3, 1).long(), torch.tensor(0), torch.zeros(3).long().to_sparse(),
)  # fmt: skip
CHANCE = Also(Floats("fixed", dtype=False, integers=True), lambda right: right - 1, lambda right: right + 1)
NAMES = Given((), "ab", (1, 2), ("a", "a"), ("a",), tuple("abcdefg"), (None, "a"), {"a": 1, "b": 2})
POLICY = Also(Floats("fixed fixed fixed", dtype=False), lambda right: right / 2, lambda right: 1.5 - right)
RECORD = Free("a record: who takes it looks at it")


def of_rules(method, more, kinds):
    right = {"state": a_state, "action": lambda: torch.tensor([2, 1, 0])}
    kinds = {"state": STATE, "action": Integers(2), **kinds}
    if method == "observe":
        right, kinds = {"state": a_state}, {"state": STATE}
    return Call(
        f"SessionRules.{method}",
        lambda: (getattr(rules(), method), {name: make() for name, make in right.items()} | more),
        kinds,
    )


CALLS = [
    # The chain
    Call("ChainEnv", lambda: (ChainEnv, {}), {"history": Flag(), "render_mode": RENDERED}),
    Call("ChainEnv.reset", lambda: (begun(ChainEnv()).reset, {}), RESET),
    Call("ChainEnv.step", lambda: (begun(ChainEnv()).step, {"action": 1}), {"action": ACTION}),
    Call(
        "Chains",
        lambda: (Chains, {"models": 2, "per_model": 3}),
        {
            "models": Count(),
            "per_model": Count(),
            "history": Given([True], [True] * 3, "ab", [0, 1], [True, "no"], 5, {0: True, 1: True}, optional=True),
        },
    ),
    Call(
        "Chains.step",
        lambda: (Chains(2, 3).step, {"action": torch.ones(2, 3).long(), "chance": torch.full((2, 3), 0.5)}),
        {
            "action": Integers(1, "fixed fixed"),
            "chance": Also(Floats("fixed fixed", dtype=False, integers=True), *CHANCE.more.listed),
        },
    ),
    Call("solve_chain", lambda: (solve_chain, {}), {"discount": Number(0, 1)}),
    Call(
        "chain_value",
        lambda: (chain_value, {"policy": torch.full((6, 2, 2), 0.5)}),
        {
            "policy": Also(Floats("fixed fixed fixed", dtype=False, more=True), *POLICY.more.listed),
            "discount": Number(0, 1),
        },
    ),
    Call(
        "chain_values_by_place",
        lambda: (chain_values_by_place, {"policy": torch.full((6, 2), 0.5)}),
        {"policy": Also(Floats("fixed fixed", dtype=False), *POLICY.more.listed, lambda right: right.round())},
    ),
    # Users and surfaces
    Call(
        "make_surface",
        lambda: (make_surface, {"task": "home", "n_categories": 3}),
        {"task": OneOf(*SURFACES), "n_categories": Count(2, 6)},
    ),
    Call(
        "layout_of",
        lambda: (layout_of, {"observation_dim": 15, "n_categories": 3}),
        {"observation_dim": Count(8), "n_categories": Count()},
    ),
    Call(
        "make_users",
        lambda: (make_users, {"n_users": 6, "seed": 0}),
        {
            "n_users": Count(),
            "seed": Count(0),
            "sharing": Number(0, 1),
            "strength": Number(0, 1e6),
            "noise": Also(Number(0), 20.0),
            "n_categories": Count(2, 6),
            "profile_dim": Count(),
            "group": Count(0),
        },
    ),
    Call(
        "SessionUsers",
        lambda: (SessionUsers, {"profile": torch.ones(4, 2), "tastes": torch.ones(4, 3, 3)}),
        {
            "profile": Also(Floats("free free"), torch.full((4, 2), 11.0), torch.full((4, 2), -10.5)),
            "tastes": Floats("fixed fixed fixed"),
            "tasks": Also(NAMES, ("home", "shop")),
            "categories": NAMES,
        },
        ("tastes",),
    ),
    Call("SessionUsers.on", lambda: (PEOPLE.on, {"task": "home"}), {"task": OneOf(*SURFACES)}),
    Call(
        "join_users",
        lambda: (join_users, {"groups": [PEOPLE, make_users(3, 2)]}),
        {"groups": Given((), 5, "ab", [5], {0: PEOPLE}, [PEOPLE, make_users(6, 1, n_categories=4)])},
    ),
    Call(
        "users_from_ratings",
        lambda: (users_from_ratings, {"ratings": rates(), "seed": 0, "genres": ("Comedy", "War")}),
        {
            "ratings": Given(
                5,
                lambda right: vars(right),
                lambda right: replace(right, genres=None, genre_names=()),
                lambda right: rates(1),
                lambda right: replace(right, rating=right.rating * 1e37),
            ),
            "seed": Count(0),
            "group": Count(0, 2),
            "genres": Also(NAMES, ("Comedy", "Opera")),
            "strength": Number(0, 1e6),
        },
    ),
    # Sessions one by one
    Call(
        "SessionSettings",
        lambda: (SessionSettings, {}),
        {
            "satiation": Number(0, 1e6),
            "levels": Count(2),
            "patience": Count(),
            "clicks_needed": Count(),
            "time_limit": Count(),
        },
    ),
    Call(
        "SessionRules",
        lambda: (SessionRules, {"users": PEOPLE, "task": "home", "satiation": torch.ones(3)}),
        {
            "users": WHO,
            "task": OneOf(*SURFACES),
            "settings": SETTINGS,
            "device": DEVICE,
            "satiation": Also(Floats("free", dtype=False, integers=True, optional=True), *STRENGTHS.more.listed),
        },
    ),
    Call("SessionRules.begin", lambda: (rules().begin, {"user": torch.tensor([0, 5])}), {"user": Integers(5, "free")}),
    of_rules("observe", {}, {}),
    of_rules("click_logit", {}, {}),
    of_rules("click_probability", {}, {"dtype": Given("float32", torch.int64, 5)}),
    of_rules("step", {"chance": torch.full((3,), 0.5)}, {"chance": CHANCE}),
    of_rules("advance", {"clicked": torch.ones(3).bool()}, {"clicked": Mask("fixed", optional=False)}),
    Call(
        "SessionEnv",
        lambda: (SessionEnv, {"users": PEOPLE}),
        {"users": WHO, "task": OneOf(*SURFACES), "settings": SETTINGS, "render_mode": RENDERED},
    ),
    Call(
        "SessionEnv.reset",
        lambda: (begun(SessionEnv(PEOPLE)).reset, {}),
        {"seed": SEED, "options": Given(*OPTIONS, *({"user": user} for user in USER), optional=True)},
    ),
    Call("SessionEnv.step", lambda: (begun(SessionEnv(PEOPLE)).step, {"action": 1}), {"action": ACTION}),
    # Planned
    Call(
        "SessionPlanner",
        lambda: (SessionPlanner, {"users": PEOPLE, "task": "home"}),
        {
            "users": WHO,
            "task": OneOf(*SURFACES),
            "settings": Also(SETTINGS, SessionSettings(levels=20, patience=8)),
            "discount": Number(0, 1, below=True),
        },
    ),
    Call(
        "SessionPlanner.value_of",
        lambda: (planner().value_of, {"policy": torch.full((2, 32, 3), 1 / 3)}),
        {"policy": POLICY},
    ),
    Call(
        "SessionPlanner.value_of_actions",
        lambda: (planner().value_of_actions, {"action": torch.ones(2, 32).long()}),
        {"action": Integers(2, "fixed fixed")},
    ),
    Call(
        "SessionPlanner.index",
        lambda: (SessionPlanner(PEOPLE, "home", LATE).index, {"state": a_state()}),
        {"state": Given(*STATE.listed, changed("streak", torch.ones_like))},
    ),
    # Sessions at once
    Call(
        "SessionVectorEnv",
        lambda: (
            SessionVectorEnv,
            {
                "users": PEOPLE,
                "num_envs": 3,
                "user_ranges": torch.tensor([[0, 6], [2, 5], [5, 6]]),
                "satiation": torch.ones(3),
            },
        ),
        {
            "users": WHO,
            "task": OneOf(*SURFACES),
            "num_envs": Count(),
            "settings": SETTINGS,
            "user_ranges": Also(
                Integers(6, "fixed fixed", optional=True),
                torch.tensor([[0, 6], [5, 5], [0, 6]]),
                torch.tensor([[0, 6], [9, 5], [0, 6]]),
            ),
            "satiation": STRENGTHS,
            "device": DEVICE,
        },
    ),
    Call(
        "SessionVectorEnv.reset",
        lambda: (vector().reset, {}),
        {
            **RESET,
            "seed": Given(
                *SEEDS,
                [1, 2],
                [1, 2, 3, 4],
                [],
                [0, -1, 2],
                [0, 1.5, 2],
                [0, None, 2],
                [0, True, 2],
                [1, 2, "3"],
                torch.zeros(2).long(),
                torch.zeros(3),
                np.zeros((3, 1)),
                optional=True,
            ),
        },
    ),
    Call("SessionVectorEnv.step", lambda: (vector().step, {"actions": [0, 1, 2]}), {"actions": ACTIONS}),
    Call("SessionVectorEnv.advance", lambda: (vector().advance, {"actions": [0, 1, 2]}), {"actions": ACTIONS}),
    Call(
        "SessionVectorEnv.check_actions",
        lambda: (vector().check_actions, {"actions": [0, 1, 2]}),
        {"actions": ACTIONS, "name": Free("any words")},
    ),
    # Records
    *(
        Call(kind.__name__, lambda: (dict, {}), dict.fromkeys(kind.__dataclass_fields__, RECORD))
        for kind in (ChainState, ObservationLayout, Plan, SessionState, Surface)
    ),
    *(Call(kind.__name__, lambda: (dict, {}), {"args": RECORD, "kwargs": RECORD}) for kind in (Outcome, VectorOutcome)),
]


@pytest.mark.parametrize(("call", "argument"), refusals(CALLS))
def test_a_wrong_argument_is_refused_by_its_name(call, argument):
    refused(call, argument)


@pytest.mark.parametrize("call", [call for call in CALLS if refusals([call])], ids=lambda call: call.name)
@by_chance
@given(data=st.data())
def test_whatever_comes_is_answered_or_refused(call, data):
    ask(call, *data.draw(junk_for(call)))


def test_every_public_call_has_a_row():
    assert missing(envs, CALLS) == set()


def test_scalars_of_torch_and_numpy_are_numbers():
    half, one = torch.tensor(0.5), torch.tensor(1)
    assert SessionSettings(satiation=half) == SessionSettings(satiation=0.5)
    assert torch.equal(solve_chain(half), solve_chain(0.5))
    plain = make_users(5, 0, sharing=0.5, strength=0.5, noise=0.5)
    same = make_users(5, 0, sharing=half, strength=half, noise=half)
    assert torch.equal(plain.profile, same.profile)
    assert torch.equal(plain.tastes, same.tastes)
    planned = [SessionPlanner(PEOPLE, "home", discount=discount) for discount in (0.5, half)]
    assert torch.equal(*(planner.even() for planner in planned))
    for env in (SessionEnv(PEOPLE), ChainEnv()):
        steps = []
        for action, seed in ((1, 3), (one, torch.tensor(3)), (np.int64(1), np.int64(3))):
            env.reset(seed=seed)
            steps.append(env.step(action)[0].tolist())
        assert steps[0] == steps[1] == steps[2]
    for user in (one, np.int64(1), np.array(1)):
        assert SessionEnv(PEOPLE).reset(options={"user": user})[1]["user"] == 1
