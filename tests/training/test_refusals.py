"""What every public call of the training room refuses."""

import math
from itertools import islice
from types import MethodType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import nn

from recmtl_lessons import training
from recmtl_lessons.datasets.few_shot import Tasks
from recmtl_lessons.datasets.streams import Streams
from recmtl_lessons.envs import make_users
from recmtl_lessons.models import FederatedRecommender, MAMLRecommender
from recmtl_lessons.models._checks import check_features, check_values
from recmtl_lessons.training import (
    Acted,
    Actors,
    Chooser,
    ManyModels,
    Moment,
    ReplayBuffer,
    ReservoirBuffer,
    Rollout,
    Scores,
    Sessions,
    Stack,
    accuracy,
    auc,
    concurrently,
    concurrently_for,
    draw_batches,
    mae,
    proxy_a_distance,
    returns_of,
    rmse,
    stack_steps,
    transfer_matrix,
    with_bar,
)
from recmtl_lessons.training.federated import Clients, FederatedLearner, Federation, draw_clients
from recmtl_lessons.training.online import Followed, Plan, alarms_on, followed
from tests.support.refusals import (
    Call,
    Count,
    Each,
    Flag,
    Floats,
    Free,
    Generator,
    Given,
    Integers,
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


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Stacks: three models, one a seed, whose network looks at the shapes that it is asked.


class Network(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layer = nn.Linear(width, 1)

    def forward(self, x):
        check_features("features", x, self.layer.in_features, torch.float32)
        return self.layer(x).squeeze(1)


def loss_of(model, batch, setting, progress=0.0):
    batch = batch.get("shop", batch) if isinstance(batch, dict) else {"x": batch}
    answer, target = model(batch.get("x")), batch.get("y")
    check_values("target", target, tuple(answer.shape))
    return (answer - setting["slope"] * target).square().mean(), {}


def losses_of(model, batch, setting):
    """Two losses, and what is none."""
    loss, _ = loss_of(model, batch, setting)
    return 3 * loss, {"one": loss, "other": 2 * loss, "each": loss.expand(2)}


def shop(rows=5):
    return {"x": normal(3, rows, 4), "y": normal(3, rows, seed=1)}


def stack(kind=Stack, build=Network, seeds=(0, 1, 2), **more):
    data = {"objective": loss_of, "data": {"shop": shop()}} if kind is ManyModels else {}
    return kind(build=build, **data, settings={"slope": (1.0,)}, seeds=seeds, device="cpu", **more)


def by_turns():
    """A build whose second model is wider."""
    widths = iter((4, 5, 4))
    return lambda: Network(next(widths))


def positional(method):
    """With what ``*arguments`` takes as one argument; bound as the method is, so that its owner is watched."""

    def call(_, function, arguments):
        several = isinstance(arguments, (list, tuple)) and arguments
        return method(function, *(arguments if several else [arguments]))

    return MethodType(call, method.__self__)


def by_name(method):
    """With what ``**fields`` takes as one argument."""

    def call(_, fields):
        return method(**(fields if isinstance(fields, dict) else {"state": fields}))

    return MethodType(call, method.__self__)


def drained(method):
    """A few of what a method yields."""
    return MethodType(lambda _, **arguments: list(islice(method(**arguments), 5)), method.__self__)


DEVICE = Given("nowhere", "meta", "cuda:9999", 0.5, 10**400, optional=True)
BUILT = {
    "build": Given(
        len, lambda _: lambda: 3, lambda _: lambda: Network().requires_grad_(False), lambda _: by_turns(),
        lambda _: lambda width: Network(width),
    ),
    "settings": Given(
        (), {"slope": ()}, {"slope": 1.0}, {"slope": "12"}, {"slope": ("1",)}, {"slope": (math.nan,)},
        {"slope": (True,)}, {"slope": (1e308,)}, {"slope": (10**400,)}, {"slope": torch.ones(2, 2)},
        [{"slope": None}], [{"slope": 1.0}, {"lam": 1.0}], [{"slope": 1.0}, {"slope": 1.0, "lam": 1.0}], [5], "ab",
    ),
    "seeds": Given((), (1, 1), (-1,), (0.5,), (True,), ("a",), (2**40,), 5, "ab"),
    "learning_rate": Number(0),
    "betas": Given((1.0, 0.9), (0.9, -0.1), (math.nan, 0.9), (0.9,), (True, 0.9), 0.9, "ab"),
    "device": DEVICE,
    "optimizer": OneOf("adam", "sgd"),
}  # fmt: skip
CLIPPED = {**BUILT, "clip": Number(0, above=True, optional=True)}
SHOP = Each({"x": Floats("fixed fixed fixed"), "y": Floats("fixed fixed", integers=True)})
DATA = Each({"x": Floats("fixed fixed free", integers=True), "y": Floats("fixed fixed", integers=True)})
OBJECTIVE = Given(
    len, lambda _: lambda model, batch: 0, lambda _: lambda *_: 3, lambda _: lambda *_: (3, {}),
    lambda _: lambda model, *_: (model.layer.weight[0], {}), lambda _: lambda model, *_: (model.layer.bias.sum(), 3),
    lambda _: lambda model, *_: (model.layer.bias.sum(), {"a": 0.5}),
)  # fmt: skip
TRAINED = Given(*OBJECTIVE.listed, lambda _: lambda *_: (torch.zeros(()), {}))
REPORTED = Given(
    *OBJECTIVE.listed, lambda _: lambda *_: (torch.zeros(()), dict.fromkeys(("one", "other"), torch.ones(())))
)
SCALE = Given(5, torch.ones(2), -torch.ones(3), torch.full((3,), math.inf), optional=True)
NAMES = Given("one", 5, (), ("one", "third"), ("each",), (1,), (["one"],))
FUNCTION = Given(len, lambda _: lambda: 0, lambda _: lambda model, x: 3, lambda _: lambda model, x: {"a": [x, "b"]})
OTHER = Given(
    nn.Linear(4, 1), lambda _: stack(seeds=(0, 1)), lambda _: stack(build=lambda: Network(5)),
    lambda _: stack(build=lambda: Network().double()),
)  # fmt: skip
BUILT_RIGHT = {"build": Network, "settings": {"slope": (1.0,)}, "seeds": (0, 1, 2)}


def rows_of(kind):
    """What all kinds of stacks have."""

    def row(method, right, kinds, *also, infinite=False, written=lambda method: method):
        name = f"{kind.__name__}.{method}"
        return Call(name, lambda: (written(getattr(stack(kind), method)), right()), kinds, also, infinite)

    def batch():
        return {"objective": loss_of, "batch": shop()}

    def reported():
        return {"names": ("one", "other"), "objective": losses_of, "batch": shop()}

    def handed():
        return {"gradients": {"layer.weight": normal(3, 1, 4), "layer.bias": normal(3, 1)}}

    def asked():
        return {"function": lambda model, x: model(x), "arguments": [normal(3, 5, 4)]}

    inside, inside_each = ("features", "target", "loss"), ("argument", "function", "features")
    asks = {"function": FUNCTION, "arguments": Each({0: Floats("fixed free fixed")})}
    steps = Each({"layer.weight": Floats("fixed fixed fixed"), "layer.bias": Floats("fixed fixed")})
    values = Given(lambda right: right[:2], lambda right: right.tolist(), 5)
    return [
        row("update", batch, {"objective": TRAINED, "batch": SHOP}, *inside),
        row("evaluate", batch, {"objective": OBJECTIVE, "batch": SHOP}, *inside),
        row("gradients", batch, {"objective": TRAINED, "batch": SHOP}, *inside),
        row("gradients_of", reported, {"names": NAMES, "objective": REPORTED, "batch": SHOP}, *inside),
        row(
            "step",
            handed,
            {"gradients": steps, "scale": SCALE},
        ),
        row("each", asked, asks, *inside_each, infinite=True, written=positional),
        row("each_own", asked, asks, *inside_each, infinite=True, written=positional),
        row("by_setting", lambda: {"values": normal(3, 2)}, {"values": values}, infinite=True),
        row("model", lambda: {"index": 1}, {"index": Count(0, 2)}),
        row("number", lambda: {"seed": 1, "slope": 1.0}, {"seed": Count(0), "setting": Free("by names")}, "setting"),
        row("setting", lambda: {"name": "slope"}, {"name": OneOf("slope"), "default": Number(optional=True)}),
        row("copy_from", lambda: {"other": stack()}, {"other": OTHER, "tau": Number(0, 1)}),
        row("load", lambda: {"other": stack()}, {"other": OTHER, "prefix": Given(5, "policy.")}, "other"),
    ]


def of_many(method, right, kinds, written=lambda method: method):
    return Call(f"ManyModels.{method}", lambda: (written(getattr(stack(ManyModels), method)), right()), kinds)


MEASURE = Free("called after updates: see test_stacked")
DRAWN = {"seed_number": Count(0, 2), "steps": Count()}
FITTED = {"steps": Count(), "label": Given(5, 0), "options": Free("those of train")}
STACKS = [
    Call("Stack", lambda: (Stack, dict(BUILT_RIGHT)), CLIPPED),
    Call("Actors", lambda: (Actors, dict(BUILT_RIGHT)), CLIPPED),
    Call(
        "ManyModels",
        lambda: (
            ManyModels,
            {**BUILT_RIGHT, "objective": loss_of, "data": {"shop": shop()}, "own": {"anchor": normal(3, 2)}},
        ),
        {
            **BUILT,
            "objective": Given(len, lambda _: lambda model, batch: 0),
            "data": Each({"shop": DATA}),
            "batch_size": Count(),
            "own": Given(
                5,
                [normal(3)],
                {"shop": normal(3)},
                {"anchor": normal(2)},
                {"anchor": normal(3).double()},
                {"anchor": normal(3) / 0},
                {"anchor": [1.0]},
                {"anchor": normal(3).to_sparse()},
                optional=True,
            ),
        },
    ),
    *(row for kind in (Stack, Actors, ManyModels) for row in rows_of(kind)),
    of_many("draw_batches", lambda: {"seed_number": 1, "steps": 2}, DRAWN, drained),
    of_many("batches", lambda: {"steps": 2}, {"steps": Count()}, drained),
    of_many("train", lambda: {"steps": 2}, {"steps": Count(), "every": Count(), "measure": MEASURE}, drained),
    of_many("fit", lambda: {"steps": 2, "label": ""}, FITTED),
]


# Replay, metrics, choosing.


def replay():
    buffer = ReplayBuffer(8, 2)
    buffer.add(**steps(3))
    return buffer


def reservoir():
    buffer = ReservoirBuffer(4, 2)
    buffer.add(torch.Generator().manual_seed(0), **steps(3))
    return buffer


def by_name_and_generator(method):
    """As `by_name`, for a method that is handed a generator as well."""

    def call(_, fields, generator=None):
        return method(generator, **(fields if isinstance(fields, dict) else {"state": fields}))

    return MethodType(call, method.__self__)


def steps(count):
    return {"state": normal(2, count, 3), "reward": normal(2, count)}


FIELDS = {"fields": Each({"state": Floats("fixed fixed fixed"), "reward": Floats("fixed fixed")})}
KEPT = ("state", "reward", "a")
REPLAY = [
    Call("ReplayBuffer.add", lambda: (by_name(replay().add), {"fields": steps(4)}), FIELDS, KEPT),
    Call("ReplayBuffer", lambda: (ReplayBuffer, {"capacity": 4}), {"capacity": Count(), "stacks": Count()}),
    Call(
        "ReplayBuffer.sample",
        lambda: (replay().sample, {"batch_size": 3}),
        {"batch_size": Count(), "generator": Generator(optional=True)},
    ),
    Call("ReservoirBuffer", lambda: (ReservoirBuffer, {"capacity": 4}), {"capacity": Count(), "stacks": Count()}),
    Call(
        "ReservoirBuffer.add",
        lambda: (
            by_name_and_generator(reservoir().add),
            {"fields": steps(4), "generator": torch.Generator().manual_seed(0)},
        ),
        {**FIELDS, "generator": Generator(optional=True)},
        KEPT,
    ),
]

LABELS = torch.tensor([0, 1, 1, 0, 1])
ERRORS = {
    "predictions": Floats("fixed", dtype=False, integers=True),
    "targets": Floats("fixed", dtype=False, integers=True),
}
SCORES = Floats("fixed", dtype=False, integers=True)
METRICS = [
    Call(
        "auc",
        lambda: (auc, {"scores": normal(5), "labels": LABELS.float()}),
        {
            "scores": Floats("fixed", dtype=False, integers=True, infinite=True),
            "labels": Floats("fixed", dtype=False, binary=True, integers=True),
        },
        ("labels",),
    ),
    *(
        Call(
            metric.__name__,
            lambda metric=metric: (metric, {"predictions": normal(5), "targets": normal(5)}),
            ERRORS,
            ("targets",),
        )
        for metric in (mae, rmse)
    ),
    Call(
        "accuracy",
        lambda: (accuracy, {"logits": normal(5, 3), "labels": LABELS}),
        {"logits": Floats("fixed free", dtype=False, integers=True, infinite=True), "labels": Integers(2, "fixed")},
        ("labels",),
    ),
    Call(
        "proxy_a_distance",
        lambda: (proxy_a_distance, {"features": normal(5, 3), "domains": LABELS}),
        {
            "features": Floats("fixed free", dtype=False, integers=True, more=True),
            "domains": Integers(None, "fixed", negative=True),
            "seed": Count(0),
        },
        ("features",),
    ),
    Call(
        "transfer_matrix",
        lambda: (transfer_matrix, {"scores": normal(3, 3), "before": normal(3)}),
        {
            "scores": Floats("fixed fixed", dtype=False, integers=True, infinite=True),
            "before": Floats("fixed", dtype=False, integers=True, infinite=True),
        },
        ("scores", "before"),
    ),
]

LOGITS = Floats("fixed free free", dtype=False)
EPSILON = Given(
    -0.1, 1.1, math.nan, "much", True, torch.tensor([[0.5], [1.5], [0.5]]), torch.tensor(math.nan),
    torch.full((2,), 0.5), torch.full((2, 3, 4), 0.5), torch.full((3, 1), 0.5j), torch.ones(3, 1).bool(),
)  # fmt: skip
CHOOSING = [
    Call("Chooser", lambda: (Chooser, {"n_seeds": 2, "seed": 0}), {"n_seeds": Count(), "seed": Count(0)}),
    Call(
        "Chooser.uniform",
        lambda: (Chooser(3, 0).uniform, {"like": normal(3, 2)}),
        {"like": Given(lambda right: right[:2], lambda right: right[:0], torch.ones(()), [[1.0]], 5)},
    ),
    Call("Chooser.sample", lambda: (Chooser(3, 0).sample, {"logits": normal(3, 4, 5)}), {"logits": LOGITS}),
    Call(
        "Chooser.epsilon_greedy",
        lambda: (Chooser(3, 0).epsilon_greedy, {"values": normal(3, 4, 5), "epsilon": 0.5}),
        {"values": LOGITS, "epsilon": EPSILON},
    ),
]

# Sessions.

WORLDS = [make_users(6, seed) for seed in (1, 2)]


def zeros(observations):
    return {task: Acted(torch.zeros(seen.shape[:2], dtype=torch.int64)) for task, seen in observations.items()}


def played():
    return Sessions(WORLDS, ("home", "notify"), 3)


def a_step(**changed):
    sessions = played()
    step = sessions.step(zeros(sessions.observations))["home"]
    return Rollout(**{**vars(step), **changed})


PLAYED = {
    "worlds": Given(
        (),
        [5],
        5,
        "ab",
        lambda right: [right[0], right[1][:5]],
        lambda right: [right[0], make_users(6, 1, n_categories=4)],
    ),
    "tasks": Given((), "home", ("home", "home"), ("home", "shop"), (1,), ([],), 5),
    "settings": Given(5, {"time_limit": 3}, "ab", optional=True),
    "seeds": Given((1,), (1, -1), (1, 0.5), (1, True), (1, 2**70), 5, "ab", optional=True),
    "satiation": Given(
        (1.0, 2.0, 3.0), (1.0, -2.0), (1.0, math.nan), (1.0, "b"), (1.0, True), (1.0, 1e308), 5, "ab", optional=True
    ),
    "device": Given("nowhere", "meta", "cuda:9999", 0.5),
}
CHOOSE = Given(
    len, lambda _: lambda: 0, lambda _: lambda seen: 3, lambda _: lambda seen: {}, lambda _: lambda seen: {"home": 3}
)
ACTED = Given(
    {}, 5, "ab", {"home": 3}, lambda right: {"home": right["home"]},
    *(
        lambda right, action=action: {**right, "notify": Acted(action)}
        for action in (
            3, [[0] * 3] * 2, torch.zeros(2, 3), torch.zeros(3, 2).long(), torch.full((2, 3), 4), torch.full((2, 3), -1)
        )
    ),
    lambda right: {**right, "home": Acted(torch.zeros(2, 3).long(), 3)},
)  # fmt: skip
SESSIONS = [
    Call(
        "Sessions",
        lambda: (Sessions, {"worlds": list(WORLDS), "tasks": ("home", "notify"), "per_model": 3}),
        {**PLAYED, "per_model": Count()},
        ("groups", "task"),
    ),
    Call("Sessions.step", lambda: (played().step, {"acted": zeros(played().observations)}), {"acted": ACTED}),
    Call(
        "Sessions.collect",
        lambda: (played().collect, {"choose": zeros, "steps": 2}),
        {"choose": CHOOSE, "steps": Count()},
        ("acted",),
    ),
    Call(
        "stack_steps",
        lambda: (stack_steps, {"steps": [a_step(), a_step()]}),
        {
            "steps": Given(
                (),
                5,
                "ab",
                [5],
                lambda right: [right[0], a_step(kept={"chance": torch.zeros(2, 3)})],
                lambda right: [right[0], a_step(rewards=torch.zeros(2, 2))],
                lambda right: [right[0], a_step(actions=3)],
                lambda right: [a_step(kept=3)],
            )
        },
    ),
    Call(
        "returns_of",
        lambda: (
            returns_of,
            {"worlds": list(WORLDS), "tasks": ("home",), "choose": zeros, "sessions": 2, "horizon": 2},
        ),
        {**PLAYED, "choose": CHOOSE, "sessions": Count(), "discount": Number(0, 1), "horizon": Count()},
        ("groups", "task", "acted"),
    ),
]

# Federated rounds, which are no part of the room's own list.


def recommender():
    return FederatedRecommender(4, (5,), local_steps=2)


def rows(rated=7):
    known = torch.arange(rated).expand(3, 6, rated) <= torch.arange(6)[:, None]
    return {"x": normal(3, 6, rated, 4), "y": normal(3, 6, rated), "known": known}


def federation():
    return Federation(recommender, Clients(**rows()), (0, 1, 2), 0.5, device="cpu")


def new_users():
    parts = rows()
    asked = {"query_x": normal(3, 6, 5, 4), "query_y": normal(3, 6, 5), "known": torch.ones(3, 6, 5).bool()}
    return Tasks(torch.zeros(3, 6), parts["x"], parts["y"], **asked)


CLIENTS = Given(
    5,
    lambda _: rows(),
    lambda right: Clients(right.x[:2], right.y[:2], right.known[:2]),
    lambda right: Clients(right.x.double(), right.y, right.known),
    lambda right: Clients(right.x, right.y.half(), right.known),
)
NOBODY = Given(lambda right: right & (torch.arange(6) > 0)[:, None], lambda right: right[:0])
RATES = Given(5, "ab", (), (0.0,), (-0.1,), (0.1, math.nan), (0.1, "b"), (True,), ([0.1],), optional=True)
PLAIN = {
    "build": Given(*BUILT["build"].listed, lambda _: lambda: nn.Linear(4, 1)), "clients": CLIENTS,
    "seeds": BUILT["seeds"], "sampling_rate": Number(0.0, 1.0, above=True), "server_lr": Number(0, above=True),
    "by_rows": Flag(), "clip": Number(0.0, above=True, optional=True), "noise_multiplier": Number(0.0),
    "local_lrs": RATES, "device": DEVICE,
}  # fmt: skip


def servers(**more):
    right = {"build": recommender, "clients": Clients(**rows()), "seeds": (0, 1, 2), "sampling_rate": 0.5}
    return lambda: (Federation, {**right, **more})


LEARNER = {"hidden": Free("the network looks at them"), "rates": RATES}
FEDERATED = [
    *(
        Call(
            "Clients",
            lambda: (Clients, rows()),
            {
                "x": Floats("fixed fixed fixed free", integers=True, dtype=False),
                "y": Floats("fixed fixed fixed", integers=True, dtype=False),
                "known": kind,
            },
            ("y",),
        )
        for kind in (Mask("fixed fixed fixed", optional=False), NOBODY)
    ),
    Call("Clients.of", lambda: (Clients.of, {"tasks": new_users()}), {"tasks": Given(5, {})}),
    Call(
        "draw_clients",
        lambda: (draw_clients, {"n_clients": 5, "sampling_rate": 0.5, "rounds": 3, "seed": 0}),
        {"n_clients": Count(), "sampling_rate": Number(0.0, 1.0), "rounds": Count(), "seed": Count(0)},
    ),
    Call("Federation", servers(by_rows=True), PLAIN),
    Call("Federation", servers(clip=1.0, noise_multiplier=1.0), {**PLAIN, "by_rows": Given(True)}),
    Call("Federation", servers(noise_multiplier=0.0), {"noise_multiplier": Given(1.0)}, ("clip",)),
    Call(
        "Federation.train",
        lambda: (drained(federation().train), {"steps": 2, "every": 1}),
        {"steps": Count(), "every": Count()},
    ),
    Call(
        "Federation.fit",
        lambda: (federation().fit, {"steps": 2, "label": "", "every": 1}),
        {"steps": Count(), "label": Given(5, 0), "every": Count()},
    ),
    Call(
        "FederatedLearner.stack",
        lambda: (FederatedLearner().stack, {"tasks": new_users(), "seeds": (0, 1, 2), "hidden": (5,)}),
        {"tasks": Given(5, {}), "seeds": BUILT["seeds"], **LEARNER},
        ("local_lrs",),
    ),
]

# Following users online, no part of the room's own list either.


def streams(seeds=3, width=4):
    known = torch.ones(seeds, 2, 5, dtype=torch.bool)
    return Streams(torch.zeros(seeds, 2), normal(seeds, 2, 5, width), normal(seeds, 2, 5), known)


def followers(build=lambda: MAMLRecommender(4, (5,))):
    return stack(ManyModels, build)


def what_followed():
    return Followed(normal(3, 2, 5).abs(), torch.zeros(3, 2, 5).bool(), torch.ones(3, 2, 5).bool())


class Silent:
    drift_detected = False

    def update(self, x):
        pass


PARTS = {"first": Count(1, 5), "last": Count(1, 5, optional=True)}
ONLINE = [
    Call(
        "Plan",
        lambda: (Plan, {"rate": 0.1, "steps": 1}),
        {
            "rate": Number(0.0),
            "steps": Count(0),
            "window": Count(optional=True),
            "restart": Flag(),
            "after": Given(5, "ab", (0,), (1.5,), (True,), ("a",), optional=True),
        },
    ),
    Call("Plan.rows_after", lambda: (Plan(0.1).rows_after, {"count": 3}), {"count": Count()}),
    Call("Plan.gradients", lambda: (Plan(0.1).gradients, {"length": 3}), {"length": Count()}),
    Call("Followed.each_user", lambda: (what_followed().each_user, {"first": 1}), PARTS),
    Call("Followed.mean", lambda: (what_followed().mean, {"first": 1}), PARTS),
    Call(
        "followed",
        lambda: (followed, {"models": followers(), "streams": streams(), "plan": Plan(0.1)}),
        {
            "models": Given(5, None, lambda _: followers(Network)),
            "streams": Given(5, None, lambda _: streams(2), lambda _: streams(3, 5)),
            "plan": Given(5, None, {"rate": 0.1}),
            "detector": Given(5, "ADWIN", len, optional=True),
            "peek": Flag(),
        },
    ),
    Call(
        "alarms_on",
        lambda: (alarms_on, {"errors": normal(2, 5).abs(), "known": torch.ones(2, 5).bool(), "detector": Silent}),
        {
            "errors": Given(5, [1.0], torch.ones(2, 5).long(), torch.tensor(1.0), normal(2, 5) / 0, torch.ones(0)),
            "known": Given(5, torch.ones(2, 4).bool(), torch.ones(2, 5)),
            "detector": Given(5, "ADWIN", len),
        },
    ),
]

# The rest.

RECORD = Free("a record: who takes it looks at it")
OTHERS = [
    *(
        Call(kind.__name__, lambda: (dict, {}), dict.fromkeys(kind.__dataclass_fields__, RECORD))
        for kind in (Acted, Rollout, Moment)
    ),
    Call(
        "with_bar",
        lambda: (lambda **given: list(with_bar(**given)), {"moments": iter([Moment(1, 2)]), "label": "", "total": 2}),
        {"moments": Given(5, [3]), "label": Given(5), "total": Count(), "unit": Given(5)},
    ),
    Call(
        "concurrently",
        lambda: (lambda jobs: concurrently(jobs, int), {"jobs": int}),
        {"jobs": Given(5, "ab", len, lambda _: lambda key: key)},
    ),
    Call(
        "concurrently_for",
        lambda: (concurrently_for, {"keys": (1, 2), "job": str}),
        {"keys": Given(5, [[1], [2]]), "job": Free("what it does with a key is its own")},
    ),
]


# Scores.


def scores():
    return Scores.of("AUC", {"alone": normal(3), "together": normal(3)})


def of_scores(method, right, kinds, written=lambda method: method):
    return Call(f"Scores.{method}", lambda: (written(getattr(scores(), method)), dict(right)), kinds, ("arm",))


def spread(method):
    """With what ``*arms`` takes as one argument."""
    return MethodType(lambda _, arms: method(*(arms if isinstance(arms, (list, tuple)) else [arms])), method.__self__)


ARM, ARMS = OneOf("alone", "together"), Given(5, [5], ["alone", "other"], [[1]])
SCORES = [
    Call(
        "Scores",
        lambda: (Scores, {"measure": "AUC", "arms": ("a", "b"), "values": normal(2, 3), "steps": ()}),
        {
            "measure": Given(5),
            "arms": Given(5, (), ("a", "a"), ("a",), "ab", ([1], [2])),
            "values": Given(5, normal(3, 3), normal(2), normal(2, 3, 1), torch.zeros(2, 3, dtype=torch.complex64)),
            "steps": Given(5, (1,), (-1,), ("a",), "ab"),
        },
        ("values",),
        infinite=True,
    ),
    Call(
        "Scores.of",
        lambda: (Scores.of, {"measure": "AUC", "by_arm": {"a": normal(3), "b": normal(3)}}),
        {
            "measure": Given(5),
            "by_arm": Given(5, {}, {"a": 5}, {"a": normal(3), "b": normal(2)}),
            "steps": Given(5, (1,), (-1,)),
        },
        ("values",),
        infinite=True,
    ),
    of_scores("lead", {"arm": "alone", "over": "together"}, {"arm": ARM, "over": ARM}),
    of_scores("mean", {"arms": ["alone"]}, {"arms": ARMS}, spread),
    of_scores("only", {"arms": ["alone"]}, {"arms": ARMS}, spread),
    of_scores(
        "draw",
        {"axis": Figure().subplots()},
        {name: Free("handed on to matplotlib and the kit's drawing") for name in ("axis", "looks", "options")},
    ),
    Call(
        "draw_batches",
        lambda: (draw_batches, {"data": {"shop": {"x": normal(5, 2)}}, "seed": 1, "steps": 2}),
        {
            "data": Given(5, {}, {"shop": {}}, {"shop": {"x": 5}}, {"shop": {"x": normal(5, 2), "y": normal(4)}}),
            "seed": Count(0),
            "steps": Count(),
            "batch_size": Count(),
        },
    ),
]
CALLS = [*STACKS, *REPLAY, *METRICS, *CHOOSING, *SESSIONS, *FEDERATED, *ONLINE, *OTHERS, *SCORES]


@pytest.mark.parametrize(("call", "argument"), refusals(CALLS))
def test_a_wrong_argument_is_refused_by_its_name(call, argument):
    refused(call, argument)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
@by_chance
@given(data=st.data())
def test_whatever_comes_is_answered_or_refused(call, data):
    ask(call, *data.draw(junk_for(call)))


def test_every_public_call_has_a_row():
    assert missing(training, CALLS) == set()
