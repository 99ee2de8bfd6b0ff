"""Rows of the table of refusals: what learns from domains that arrive one after another."""

import torch
from torch import nn

from recmtl_lessons.models import (
    ContinualFactorization,
    ContinualRecommender,
    ElasticWeightConsolidation,
    agem_project,
    fisher_diagonal,
    forgetting_loss,
    quadratic_penalty,
)
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
    Number,
    OneOf,
    Widths,
)

TASKS = {"click": ("classification", 1), "genre": ("classification", 3), "aspects": ("regression", 2)}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = ContinualRecommender(3, (5, 4), 0.2)
        for name, kind in TASKS.items():
            made.add_task(name, *kind)
        return made.eval()


def tables():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = ContinualFactorization(7, 2)
        made.add_domain("books", 5)
        made.add_domain("films", 4)
        return made


# Networks that grow. A name that is there is as wrong as none.

FEATURES = {"x": Floats(), "task_name": OneOf(*TASKS)}


def of_network(name, right, kinds):
    return Call(f"ContinualRecommender.{name}", lambda: (getattr(network(), name), right()), kinds)


def of_tables(name, right, kinds):
    return Call(f"ContinualFactorization.{name}", lambda: (getattr(tables(), name), right()), kinds)


NETWORKS = [
    Call(
        "ContinualRecommender",
        lambda: (ContinualRecommender, {"feature_dim": 3, "hidden_dims": [5, 4], "dropout_rate": 0.1}),
        {"feature_dim": Count(), "hidden_dims": Widths(), "dropout_rate": Number(0.0, 1.0, below=True)},
    ),
    of_network(
        "add_task",
        lambda: {"name": "rating", "task_type": "regression", "output_dim": 2},
        {
            "name": Given("", 5, b"shop", ("shop",), "click"),
            "task_type": OneOf("classification", "regression"),
            "output_dim": Count(),
        },
    ),
    of_network("forward", lambda: {"x": normal(4, 3), "task_name": "genre"}, FEATURES),
    of_network("predict", lambda: {"x": normal(4, 3), "task_name": "click"}, FEATURES),
    Call(
        "ContinualFactorization",
        lambda: (ContinualFactorization, {"n_users": 7, "embedding_dim": 2, "users": "per_domain"}),
        {"n_users": Count(), "embedding_dim": Count(), "users": OneOf("shared", "per_domain")},
    ),
    of_tables(
        "add_domain",
        lambda: {"name": "games", "n_items": 5},
        {"name": Given("", 5, b"shop", ("shop",), "books"), "n_items": Count()},
    ),
    of_tables(
        "forward",
        lambda: {"domain": "films", "user_ids": torch.tensor([0, 6, 2]), "item_ids": torch.tensor([3, 3, 0])},
        {"domain": OneOf("books", "films"), "user_ids": Integers(6, "free"), "item_ids": Integers(3)},
    ),
]

# How much each weight matters

ANSWER = Given(
    5, len, lambda _: lambda model: model, lambda _: lambda model, x, more: x, lambda _: lambda model, x: 3,
    lambda _: lambda model, x: x.long(), lambda _: lambda model, x: x[0, 0], lambda _: lambda model, x: x[:0],
    lambda _: lambda model, x: x.expand(2, 3),
)  # fmt: skip
ASKED = {
    "model": Given(5, nn.Linear, lambda _: nn.ReLU(), lambda right: network().requires_grad_(False)),
    "answer": ANSWER,
    "inputs": Each({0: Floats("free fixed")}),
    "kind": OneOf("exact", "sampled", "empirical", "batched"),
    "task_type": OneOf("classification", "regression"),
    "batch_size": Count(),
    "generator": Generator(optional=True),
}


def asked(task, kind, labels, wrong):
    """The Fisher of one task; of the kinds that need labels, the rows must be as many, and either may be named."""
    rows = {} if kind in ("exact", "sampled") else {"inputs": Each({0: Floats("fixed fixed")})}
    return Call(
        "fisher_diagonal",
        lambda: (
            fisher_diagonal,
            {
                "model": network(),
                "answer": lambda model, x: model(x, task),
                "inputs": [normal(5, 3)],
                "labels": labels(),
                "kind": kind,
                "task_type": TASKS[task][0],
                "generator": torch.Generator().manual_seed(0),
            },
        ),
        {**ASKED, **rows, "labels": wrong},
        also=("x", "weights", "labels"),
    )


COINS = Floats("fixed", dtype=False, binary=True, integers=True)
IGNORED = Free("not looked at: these kinds need none")
FISHER = [
    asked("click", "exact", lambda: None, IGNORED),
    asked("aspects", "sampled", lambda: None, IGNORED),
    asked("click", "empirical", lambda: torch.tensor([0.0, 1, 1, 0, 1]), COINS),
    asked("genre", "batched", lambda: torch.tensor([0, 2, 1, 1, 0]), Integers(2)),
    asked("aspects", "empirical", lambda: normal(5, 2, seed=1), Floats("fixed fixed", dtype=False, integers=True)),
]

# What holds the weights back

WEIGHTS = Each({"w": Floats("fixed fixed", dtype=False), "b": Floats("fixed", dtype=False)})


def weights(seed):
    return {"w": normal(2, 3, seed=seed), "b": normal(2, seed=seed)}


def importance(model):
    return {name: torch.ones_like(weight) for name, weight in model.named_parameters()}


def held(online):
    model, ewc = network(), ElasticWeightConsolidation(2.0, online, 0.5)
    ewc.consolidate(model, importance(model))
    return ewc


MODEL = Given(5, nn.Linear, lambda _: nn.ReLU(), lambda _: tables(), lambda _: ContinualRecommender(4, (5, 4)))
FISHERS = Each(
    {
        "encoder.0.weight": Floats("fixed fixed", dtype=False),
        "encoder.0.bias": Given(5, lambda right: -right, lambda right: right[:2], lambda right: 0 * right / 0),
    }
)
HOLDING = [
    Call(
        "quadratic_penalty",
        lambda: (quadratic_penalty, {"weights": weights(0), "anchor": weights(1), "fisher": weights(2)}),
        {"weights": WEIGHTS, "anchor": WEIGHTS, "fisher": WEIGHTS},
        also=("weights", "anchor"),
    ),
    Call(
        "ElasticWeightConsolidation",
        lambda: (ElasticWeightConsolidation, {"strength": 2.0, "online": True, "decay": 0.5}),
        {"strength": Number(0.0), "online": Flag(), "decay": Number(0.0, 1.0)},
    ),
    *(
        Call(
            "ElasticWeightConsolidation.consolidate",
            lambda online=online: (held(online).consolidate, {"model": network(), "fisher": importance(network())}),
            {"model": MODEL, "fisher": FISHERS},
        )
        for online in (False, True)
    ),
    Call("ElasticWeightConsolidation.penalty", lambda: (held(False).penalty, {"model": network()}), {"model": MODEL}),
    *(
        Call(
            "forgetting_loss",
            lambda shape=shape: (
                forgetting_loss,
                {"logits": normal(*shape), "old_logits": normal(*shape, seed=1), "temperature": 3.0},
            ),
            {
                "logits": Floats(dims, dtype=False),
                "old_logits": Floats(dims, dtype=False),
                "temperature": Number(0.0, above=True),
            },
            also=("old_logits",),
        )
        for shape, dims in (((5,), "fixed"), ((5, 4), "fixed fixed"))
    ),
    Call(
        "agem_project",
        lambda: (agem_project, {"gradient": normal(2, 5), "reference": normal(2, 5, seed=1)}),
        {
            "gradient": Floats("fixed fixed", dtype=False),
            "reference": Floats("fixed fixed", dtype=False),
        },
        also=("reference",),
    ),
]

CALLS = [*NETWORKS, *FISHER, *HOLDING]
