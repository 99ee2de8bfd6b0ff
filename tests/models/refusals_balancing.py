"""Rows of the table of refusals: how tasks are weighed."""

import torch

from recmtl_lessons.models import (
    DynamicWeightAverage,
    GradNorm,
    SharedBottomNetwork,
    TaskSchedule,
    UncertaintyWeights,
    aligned_mtl,
    cagrad,
    entire_space_loss,
    gram_matrix,
    mgda,
    pcgrad,
    scale_free,
    scale_gradient,
    task_losses,
    upgrad,
)
from tests.support.refusals import Call, Count, Each, Flag, Floats, Generator, Given, Integers, Number, OneOf, Widths

TYPES = {"click": "classification", "rating": "regression"}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def positive(*shape, seed=0):
    return normal(*shape, seed=seed).abs() + 0.1


def coins(rows):
    return (normal(rows, seed=3) > 0).float()


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SharedBottomNetwork(3, TYPES, (5, 4))


TASKS = Given(
    {}, 5, "click", ("click",), ["click"], {5: "regression"}, {"": "regression"}, {"click": "ranking"}, {"click": 1},
    {"click": None},
)  # fmt: skip
SIZE = Given(5, "4", (0,), (2.5,), (True,), {4: 4})
NETWORKS = [
    Call(
        "SharedBottomNetwork",
        lambda: (SharedBottomNetwork, {"feature_dim": 3, "tasks": TYPES, "hidden_dims": [5, 4], "linear": True}),
        {"feature_dim": Count(), "tasks": TASKS, "hidden_dims": Widths(), "linear": Flag()},
    ),
    Call(
        "SharedBottomNetwork.forward",
        lambda: (network().forward, {"x": normal(4, 3), "weights": normal(2)}),
        {"x": Floats(), "weights": Floats("fixed", dtype=False, integers=True, optional=True)},
    ),
    Call(
        "scale_gradient",
        lambda: (scale_gradient, {"x": normal(4, 3), "weight": 0.5}),
        {"x": Floats("", dtype=False, more=True), "weight": Number()},
    ),
]

# From losses

ANSWER, VALUE = Floats("fixed", dtype=False), Floats("fixed", dtype=False, integers=True)
LABEL = Floats("fixed", dtype=False, integers=True, binary=True)
LOSSES = Floats("fixed fixed", dtype=False, integers=True)
ABOVE = Given(lambda right: -right, lambda right: 0 * right)


def averaging():
    """As after one period: losses of another shape are refused too."""
    rule = DynamicWeightAverage()
    rule.update(positive(2, seed=1))
    return rule.update


FROM_LOSSES = [
    Call(
        "task_losses",
        lambda: (
            task_losses,
            {
                "answers": {"click": normal(4), "rating": normal(4, seed=1)},
                "labels": {"click": coins(4), "rating": normal(4, seed=2)},
                "types": TYPES,
            },
        ),
        {
            "answers": Each({"click": ANSWER, "rating": ANSWER}),
            "labels": Each({"click": LABEL, "rating": VALUE}),
            "types": TASKS,
        },
        also=("labels",),  # longer answers: the labels are too few
    ),
    Call(
        "UncertaintyWeights",
        lambda: (UncertaintyWeights, {"types": ["classification", "regression"], "start": 0.5, "size": (3,)}),
        {
            "types": Given("regression", 5, (), ("ranking",), (None,), (1,), {"click": "regression"}),
            "start": Number(-50.0, 50.0),
            "size": SIZE,
        },
    ),
    Call(
        "UncertaintyWeights.forward",
        lambda: (UncertaintyWeights(list(TYPES.values()), size=(3,)).forward, {"losses": positive(3, 2)}),
        {"losses": LOSSES},
    ),
    Call(
        "GradNorm",
        lambda: (GradNorm, {"n_tasks": 2, "alpha": 1.0, "size": (3,)}),
        {"n_tasks": Count(), "alpha": Number(0.0, 100.0), "size": SIZE},
    ),
    *(
        Call(
            "GradNorm.forward",
            lambda: (
                GradNorm(2, size=(3,)).forward,
                {"norms": positive(3, 2), "losses": positive(3, 2, seed=1), "first_losses": positive(3, 2, seed=2)},
            ),
            {"norms": LOSSES, "losses": LOSSES, "first_losses": kind},
        )
        for kind in (LOSSES, ABOVE)
    ),
    Call(
        "DynamicWeightAverage",
        lambda: (DynamicWeightAverage, {"temperature": 2.0}),
        {"temperature": Number(0.0, above=True)},
    ),
    *(
        Call(name, lambda start=start: (start(), {"losses": positive(2)}), {"losses": kind})
        for kind in (Floats("free", dtype=False, more=True), ABOVE)
        for name, start in (("scale_free", lambda: scale_free), ("DynamicWeightAverage.update", averaging))
    ),
]

# From gradients


def part(seed):
    return {"w": normal(2, 3, seed=seed), "b": normal(2, seed=seed)}


def gram():
    found = normal(3, 5)
    return found @ found.mT


PART = Each({"w": Floats("fixed fixed", dtype=False), "b": Floats("fixed", dtype=False)})
GRAM = Floats("fixed fixed", dtype=False, more=True)
NO_GRAM = Given(
    lambda right: -right, lambda right: right.triu(), lambda right: right + 9 * (1 - torch.eye(3)),
    lambda right: right[0], lambda right: right[:2],
)  # fmt: skip
MANY = Given(lambda right: torch.eye(11))
FROM_GRADIENTS = [
    Call(
        "gram_matrix",
        lambda: (gram_matrix, {"gradients": [part(0), part(1)], "dims": 1}),
        {
            "gradients": Each({0: Given(5, {}, {"w": 1.0}, {**part(0), "w": normal(0, 3)}), 1: PART}),
            "dims": Count(0, 8),
        },
    ),
    Call(
        "gram_matrix",
        lambda: (gram_matrix, {"gradients": [part(0)] * 2, "dims": 1}),
        {"dims": Given(2)},
        ("gradients",),
    ),
    *(
        Call(rule.__name__, lambda rule=rule: (rule, {"gram": gram()}), {"gram": kind})
        for rule in (pcgrad, mgda, cagrad, upgrad, aligned_mtl)
        for kind in (GRAM, NO_GRAM, *([MANY] if rule in (mgda, cagrad, upgrad) else []))
    ),
    Call(
        "pcgrad",
        lambda: (pcgrad, {"gram": gram(), "orders": torch.arange(3).expand(3, 3).clone()}),
        {
            "orders": Integers(2, "fixed fixed", optional=True),
            "generator": Generator(optional=True),
        },
        also=("orders",),
    ),
    Call("mgda", lambda: (mgda, {"gram": gram(), "unit": True}), {"unit": Flag()}),
    Call("cagrad", lambda: (cagrad, {"gram": gram(), "c": 0.5}), {"c": Number(0.0, 100.0)}),
]

# One task at a time, and conversions

SHARES = Given(5, "123", (1, 2), (1, 2, 3, 4), (0, 0, 0), (1, -1, 1), (1, None, 1), (1, float("nan"), 1), optional=True)


def schedule(kind="lagging"):
    return TaskSchedule(kind, 3, (1, 2, 3))


AT = {"step": Count(0, 4), "steps": Count()}
OTHERS = [
    Call(
        "TaskSchedule",
        lambda: (TaskSchedule, {"kind": "annealed", "n_tasks": 3, "shares": (1, 2, 3), "towards": (1, 0, 0)}),
        {"kind": OneOf("annealed"), "n_tasks": Count(), "shares": SHARES, "towards": SHARES},
        also=("shares",),
    ),
    Call(
        "TaskSchedule.choose",
        lambda: (schedule().choose, {"step": 2, "steps": 5, "lag": normal(3)}),
        {**AT, "lag": Floats("fixed", dtype=False, more=True)},
    ),
    Call(
        "TaskSchedule.choose",
        lambda: (schedule("proportional").choose, {"step": 2, "steps": 5, "size": (4,)}),
        {**AT, "generator": Generator(optional=True), "size": SIZE},
    ),
    Call("TaskSchedule.probabilities", lambda: (schedule("annealed").probabilities, {"step": 2, "steps": 5}), AT),
    Call(
        "TaskSchedule.probabilities",
        lambda: (schedule("in turn").probabilities, {"step": 2, "steps": 5}),
        {"step": Given(1)},
        also=("kind",),
    ),
    Call(
        "entire_space_loss",
        lambda: (
            entire_space_loss,
            {
                "click_logits": normal(5),
                "conversion_logits": normal(5, seed=1),
                "click": coins(5),
                "conversion": coins(5),
            },
        ),
        {"click_logits": ANSWER, "conversion_logits": ANSWER, "click": LABEL, "conversion": LABEL},
        also=("conversion_logits",),
    ),
]

CALLS = [*NETWORKS, *FROM_LOSSES, *FROM_GRADIENTS, *OTHERS]
