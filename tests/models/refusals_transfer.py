"""Rows of the table of refusals: what aligns domains, and the networks of lessons 01 to 03."""

import torch

from recmtl_lessons.models import (
    CrossDomainTransferNetwork,
    DomainAdversarialNetwork,
    GradientReversalLayer,
    MultiDomainAttentionNetwork,
    TwoSampleTest,
    coral_loss,
    domain_loss,
    lambda_schedule,
    masked_attention,
    median_bandwidth,
    mmd_permutation_test,
    squared_mmd,
    task_loss,
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
    Mask,
    Number,
    OneOf,
    Widths,
)

# Alignment


def samples(**more):
    return {"x": normal(5, 3), "y": normal(4, 3, seed=1), **more}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


SAMPLES = {"x": Floats(), "y": Floats()}
SCALES = Given(1.0, (), (0.0,), (1.0, -1.0), (float("nan"),), ("1",), (True,), torch.ones(2))
KERNEL = {**SAMPLES, "bandwidth": Number(0.0, above=True, optional=True), "scales": SCALES}

ALIGNMENT = [
    Call(
        "squared_mmd",
        lambda: (squared_mmd, samples(scales=(1.0, 2.0), unbiased=True)),
        {**KERNEL, "unbiased": Flag()},
        also=("y",),
    ),
    Call("median_bandwidth", lambda: (median_bandwidth, samples()), SAMPLES, also=("y",)),
    Call("coral_loss", lambda: (coral_loss, samples()), SAMPLES, also=("y",)),
    Call(
        "mmd_permutation_test",
        lambda: (mmd_permutation_test, samples(generator=torch.Generator().manual_seed(0), n_permutations=19)),
        {**KERNEL, "generator": Generator(), "n_permutations": Count(19)},
        also=("y",),
    ),
    Call(
        "TwoSampleTest",
        lambda: (TwoSampleTest, {"statistic": 0.1, "p_value": 0.5, "permuted": normal(19)}),
        dict.fromkeys(("statistic", "p_value", "permuted"), Free("what a test found")),
    ),
]

# Lesson 01

TASKS = {
    "click": {"task_type": "classification", "output_dim": 1},
    "genre": {"task_type": "classification", "output_dim": 4},
    "aspects": {"task_type": "regression", "output_dim": 3},
    "rating": {},
}
TASK = Given("ranking", {"task_type": "clasification"}, {"output_dim": 0}, {"output_dim": 2.0}, {"weight": 1}, [1])


def adversarial(name=None, **arguments):
    network = DomainAdversarialNetwork(3, (4, 5), 2, TASKS, dropout_rate=0.2)
    return network if name is None else getattr(network, name), arguments


def asked(name, **more):
    return adversarial(name, x=normal(4, 3), task_name="genre", **more)


ASKED = {"x": Floats(), "task_name": OneOf(*TASKS)}
VALUES = {"dtype": False, "integers": True}


def losses(kind, target, config):
    width = config.get("output_dim", 1)
    return Call(
        "task_loss",
        lambda: (task_loss, {"output": normal(4, width), "target": target(), "task_config": config}),
        {"output": Floats(dtype=False), "target": kind, "task_config": TASK},
    )


ADVERSARIAL = [
    Call(
        "GradientReversalLayer.apply",
        lambda: (lambda x, alpha: GradientReversalLayer.apply(x, alpha), {"x": normal(4, 3), "alpha": 0.5}),
        {"x": Given([[0.5]], torch.ones(2, 2).long(), torch.ones(2, 2, dtype=torch.complex64)), "alpha": Number()},
        infinite=True,  # whatever comes goes through
    ),
    Call(
        "DomainAdversarialNetwork",
        lambda: (
            DomainAdversarialNetwork,
            {
                "feature_dim": 3,
                "hidden_dims": [4, 5],
                "n_domains": 2,
                "task_configs": TASKS,
                "lambda_domain": 0.5,
                "dropout_rate": 0.1,
            },
        ),
        {
            "feature_dim": Count(),
            "hidden_dims": Widths(),
            "n_domains": Count(2),
            "task_configs": Each(dict.fromkeys(TASKS, TASK)),
            "lambda_domain": Number(0.0),
            "dropout_rate": Number(0.0, 1.0, below=True),
        },
    ),
    Call("DomainAdversarialNetwork.encode", lambda: adversarial("encode", x=normal(4, 3)), {"x": Floats()}),
    Call(
        "DomainAdversarialNetwork.read",
        lambda: adversarial("read", shared=normal(4, 5), task_name="click"),
        {"shared": Floats(), "task_name": OneOf(*TASKS)},
    ),
    Call(
        "DomainAdversarialNetwork.forward",
        lambda: asked("forward", alpha=torch.tensor(0.5)),
        {**ASKED, "alpha": Number(0.0)},
    ),
    Call("DomainAdversarialNetwork.answer", lambda: asked("answer"), ASKED),
    Call("DomainAdversarialNetwork.predict", lambda: asked("predict"), ASKED),
    Call(
        "lambda_schedule",
        lambda: (lambda_schedule, {"progress": 0.5, "gamma": 10.0}),
        {"progress": Number(0.0, 1.0), "gamma": Number(0.0)},
    ),
    losses(
        Floats("fixed", binary=True, dtype=False, integers=True), lambda: torch.tensor([0.0, 1, 1, 0]), TASKS["click"]
    ),
    losses(Integers(3), lambda: torch.tensor([0, 3, 1, 2]), TASKS["genre"]),
    losses(Floats("fixed fixed", **VALUES), lambda: normal(4, 3, seed=1), TASKS["aspects"]),
    losses(Floats("fixed", **VALUES), lambda: normal(4, seed=1), TASKS["rating"]),
    Call(
        "domain_loss",
        lambda: (domain_loss, {"domain_logits": normal(4, 3), "domains": torch.tensor([0, 2, 1, 1])}),
        {"domain_logits": Floats("free free", dtype=False), "domains": Integers(2)},
    ),
]

# Lesson 02

SOURCES, TARGETS = {"books": (7, 5), "music": (6, 8)}, {"films": (9, 6)}
SHARED = {("books", "films"): torch.tensor([[0, 3], [2, 0]])}
ALPHA = Number(0.0)
IDS = {"user_ids": Integers(6, "free"), "item_ids": Integers(4, "free")}
DOMAIN = OneOf(*SOURCES, *TARGETS)
SIZES = Given(9, "44", (3,), (3, 0), (3, 2.0), (3, 4, 5))


def transfer(name, **arguments):
    network = CrossDomainTransferNetwork(SOURCES, TARGETS, 2, (4,), (3, 5), 0.2, SHARED)
    return getattr(network, name), arguments


def rows(name):
    return lambda: transfer(name, domain="books", user_ids=torch.tensor([0, 6, 2]), item_ids=torch.tensor([4, 4, 0]))


def pairs():
    return {
        "source_domain": "books",
        "target_domain": "films",
        "source_user_ids": torch.tensor([0, 6, 2]),
        "source_item_ids": torch.tensor([4, 4, 0]),
        "target_user_ids": torch.tensor([8, 0]),
        "target_item_ids": torch.tensor([5, 1]),
        "alpha": 0.5,
    }


TRANSFER = [
    Call(
        "CrossDomainTransferNetwork",
        lambda: (
            CrossDomainTransferNetwork,
            {
                "source_vocab_sizes": {"books": [7, 5], "music": (6, 8)},
                "target_vocab_sizes": TARGETS,
                "embedding_dim": 2,
                "hidden_dims": [4],
                "shared_dims": [3, 5],
                "dropout_rate": 0.1,
                "shared_users": SHARED,
            },
        ),
        {
            "source_vocab_sizes": Each(dict.fromkeys(SOURCES, SIZES)),
            "target_vocab_sizes": Each(dict.fromkeys(TARGETS, SIZES)),
            "embedding_dim": Count(),
            "hidden_dims": Widths(),
            "shared_dims": Widths(),
            "dropout_rate": Number(0.0, 1.0, below=True),
            "shared_users": Given(
                *({key: SHARED["books", "films"]} for key in ("books", ("books", "cinema"), ("books", "books"), None)),
                *({("books", "films"): pairs} for pairs in ([[0, 1]], torch.tensor([0, 1]), torch.tensor([[0, 1, 2]]))),
                *(
                    {("books", "films"): torch.tensor(pairs)}
                    for pairs in ([[0.0, 1.0]], [[7, 0]], [[0, -1]], [[True] * 2])
                ),
                [],
                torch.zeros(1, 2).long(),
                optional=True,
            ),
        },
    ),
    *(
        Call(f"CrossDomainTransferNetwork.{name}", rows(name), {"domain": DOMAIN, **IDS})
        for name in ("embed", "encode_domain", "answer", "predict")
    ),
    Call(
        "CrossDomainTransferNetwork.encode_embeddings",
        lambda: transfer("encode_embeddings", domain="films", user=normal(4, 3), item=normal(4, 3, seed=1)),
        {"domain": DOMAIN, "user": Floats(), "item": Floats()},
    ),
    Call(
        "CrossDomainTransferNetwork.read",
        lambda: transfer("read", domain="films", shared=normal(4, 5)),
        {"domain": DOMAIN, "shared": Floats()},
    ),
    Call(
        "CrossDomainTransferNetwork.forward",
        lambda: transfer("forward", **pairs()),
        {
            "source_domain": OneOf(*SOURCES),
            "target_domain": OneOf(*TARGETS),
            "source_user_ids": Integers(6, "free"),
            "source_item_ids": Integers(4, "free"),
            "target_user_ids": Integers(8, "free"),
            "target_item_ids": Integers(5, "free"),
            "alpha": Number(0.0),
        },
    ),
    Call(
        "CrossDomainTransferNetwork.compute_domain_alignment_loss",
        lambda: transfer(
            "compute_domain_alignment_loss",
            source_shared=normal(4, 5),
            target_shared=normal(3, 5, seed=1),
            method="mmd",
            bandwidth=None,
        ),
        {
            "source_shared": Floats(),
            "target_shared": Floats(),
            "method": OneOf("mmd", "coral"),
            "bandwidth": Number(0.0, above=True, optional=True),
        },
        also=("target_shared",),
    ),
]

# Lesson 03

WIDTHS = {"books": 3, "films": 2}


def attention(name, item_dim=3, **arguments):
    network = MultiDomainAttentionNetwork(WIDTHS, 4, 3, (4,), 0.2, item_dim=item_dim)
    history = {
        "query_domain": "films",
        "domain_features": {domain: normal(4, width) for domain, width in WIDTHS.items()},
        "mask": torch.tensor([[True, False], [True, True], [False, True], [True, True]]),
    }
    return getattr(network, name), {**history, **arguments}


HISTORY = {
    "query_domain": OneOf(*WIDTHS),
    "domain_features": Each(dict.fromkeys(WIDTHS, Floats("fixed fixed"))),
    "mask": Mask(),
}
BY_ROW = {**HISTORY, "query_domain": Integers(1)}
TEMPERATURE = {"temperature": Number(0.0, above=True, infinite=True)}
ITEMS = {"item_features": Floats("fixed fixed")}

ATTENTION = [
    Call(
        "masked_attention",
        lambda: (
            masked_attention,
            {
                "query": normal(4, 3),
                "keys": normal(4, 2, 3),
                "values": normal(4, 2, 5),
                "mask": torch.tensor([[True, False], [True, True], [False, True], [True, True]]),
                "temperature": 0.5,
            },
        ),
        {
            "query": Floats("fixed fixed"),
            "keys": Floats("fixed fixed fixed"),
            "values": Floats("fixed fixed free"),
            "mask": Mask(),
            **TEMPERATURE,
        },
        also=("keys", "values", "mask"),
    ),
    Call(
        "MultiDomainAttentionNetwork",
        lambda: (
            MultiDomainAttentionNetwork,
            {
                "domain_features": {"books": 3, "films": 3},
                "embedding_dim": 4,
                "attention_dim": 3,
                "hidden_dims": [4],
                "dropout_rate": 0.1,
                "item_dim": 2,
                "shared_encoder": True,
            },
        ),
        {
            "domain_features": Each(dict.fromkeys(WIDTHS, Count())),
            "embedding_dim": Count(),
            "attention_dim": Count(),
            "hidden_dims": Widths(),
            "dropout_rate": Number(0.0, 1.0, below=True),
            "item_dim": Count(0),
            "shared_encoder": Flag(),
        },
        also=("shared_encoder",),
    ),
    Call("MultiDomainAttentionNetwork.project", lambda: attention("project"), HISTORY),
    *(
        Call(
            "MultiDomainAttentionNetwork.compute_cross_domain_attention",
            lambda query=query: attention("compute_cross_domain_attention", query_domain=query, temperature=0.5),
            {**kinds, **TEMPERATURE},
        )
        for query, kinds in (("films", HISTORY), (torch.tensor([0, 1, 1, 0]), BY_ROW))
    ),
    *(
        Call(
            f"MultiDomainAttentionNetwork.{name}",
            lambda name=name: attention(name, item_features=normal(4, 3), temperature=0.5),
            {**HISTORY, **ITEMS, **TEMPERATURE},
        )
        for name in ("forward", "predict")
    ),
]

CALLS = [*ALIGNMENT, *ADVERSARIAL, *TRANSFER, *ATTENTION]
