"""Rows of the table of refusals: models that learn from tasks."""

import torch

from recmtl_lessons.models import MAMLRecommender, PrototypicalNetworkRecommender, ReptileRecommender
from tests.support.refusals import Call, Count, Each, Flag, Floats, Integers, Number, OneOf, Widths


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(kind, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(3, hidden_dims=(5, 4), **options)


def weights():
    return {name: value.detach() for name, value in network(MAMLRecommender).named_weights().items()}


def of_class(kind, right, kinds):
    return Call(kind.__name__, lambda: (kind, dict(right)), kinds)


def of_method(kind, name, right, kinds, also=(), **options):
    """A method of a network made anew, with right arguments made anew."""
    return Call(f"{kind.__name__}.{name}", lambda: (getattr(network(kind, **options), name), right()), kinds, also)


COUNT, STEPS, SOME, SHARE = Count(), Count(0), Count(optional=True), Number(0.0, 1.0, below=True)
RATE, RATE_OR_NONE = Number(0.0, above=True), Number(0.0, above=True, optional=True)
X = Floats("free fixed")
FIELDS = ("support_x", "support_y", "query_x", "query_y")

# MAML and Reptile. Where an argument stands beside others, their rows must be as many, and either may be named.

FEATURES, TARGETS = Floats("fixed fixed"), Floats("fixed", dtype=False, integers=True)
MANY_FEATURES, MANY_TARGETS = Floats("fixed fixed fixed"), Floats("fixed fixed", dtype=False, integers=True)
PARAMS = Each({name: Floats("fixed " * value.ndim) for name, value in weights().items()}, optional=True)
SUPPORT = {"support_x": FEATURES, "support_y": TARGETS, "num_steps": STEPS}


def support():
    return {"support_x": normal(7, 3), "support_y": normal(7), "num_steps": 2}


def maml_tasks():
    return normal(2, 7, 3), normal(2, 7), normal(2, 5, 3, seed=1), normal(2, 5, seed=1)


def reptile_tasks():
    return maml_tasks()[:2]


def listed(tasks):
    return list(zip(*tasks, strict=True))


ADAPTABLE = {
    "input_dim": COUNT, "hidden_dims": Widths(empty=True), "output_dim": COUNT, "meta_lr": RATE, "inner_lr": RATE,
    "dropout_rate": SHARE, "inner_steps": COUNT,
}  # fmt: skip
SETTINGS = {
    "input_dim": 3, "hidden_dims": (5, 4), "output_dim": 1, "meta_lr": 0.1, "inner_lr": 0.1, "dropout_rate": 0.0,
    "inner_steps": 2,
}  # fmt: skip
MANY = Each({0: MANY_FEATURES, 1: MANY_TARGETS, 2: MANY_FEATURES, 3: MANY_TARGETS})
MANY_ROWS = Each({0: MANY_FEATURES, 1: MANY_TARGETS})

CALLS = [
    of_class(
        MAMLRecommender,
        {**SETTINGS, "first_order": False, "learn_inner_lr": True, "adapt": "all"},
        {**ADAPTABLE, "first_order": Flag(), "learn_inner_lr": Flag(), "adapt": OneOf("all", "head")},
    ),
    of_class(
        ReptileRecommender,
        {**SETTINGS, "inner_batch_size": 4, "inner_optimizer": "adam", "inner_betas": (0.5, 0.9),
         "meta_optimizer": "adam"},
        {**ADAPTABLE, "inner_batch_size": SOME, "inner_optimizer": OneOf("sgd", "adam"),
         "inner_betas": Each({0: SHARE, 1: SHARE}), "meta_optimizer": OneOf("sgd", "adam")},
    ),
    *(
        of_method(
            kind, name, lambda: {"x": normal(5, 3), "params": weights()}, {"x": X, "params": PARAMS}, ("weights",)
        )
        for kind in (MAMLRecommender, ReptileRecommender)
        for name in ("forward", "predict")
    ),
    *(
        of_method(kind, "adapt_to_new_task", support, SUPPORT, FIELDS)
        for kind in (MAMLRecommender, ReptileRecommender)
    ),
    of_method(
        MAMLRecommender, "inner_update",
        lambda: {**support(), "params": weights(), "first_order": False, "inner_lr": 0.1},
        {**SUPPORT, "params": PARAMS, "first_order": Flag(), "inner_lr": RATE_OR_NONE}, FIELDS,
    ),
    of_method(
        MAMLRecommender, "query_losses",
        lambda: {"tasks_data": maml_tasks(), "num_steps": 2, "first_order": False, "inner_lr": 0.1},
        {"tasks_data": MANY, "num_steps": Count(0, optional=True), "first_order": Flag(optional=True),
         "inner_lr": RATE_OR_NONE}, FIELDS,
    ),
    of_method(MAMLRecommender, "meta_update", lambda: {"tasks_data": maml_tasks()}, {"tasks_data": MANY}, FIELDS),
    of_method(
        MAMLRecommender, "meta_update", lambda: {"tasks_data": listed(maml_tasks())},
        {"tasks_data": Each({1: Each({0: FEATURES, 1: TARGETS, 2: FEATURES, 3: TARGETS})})}, FIELDS,
    ),
    of_method(
        ReptileRecommender, "inner_loop",
        lambda: {"task_data": (normal(7, 3), normal(7)), "num_steps": 2, "params": weights(), "inner_lr": 0.1},
        {"task_data": Each({0: FEATURES, 1: TARGETS}), "num_steps": STEPS, "params": PARAMS, "inner_lr": RATE_OR_NONE},
        ("x", "y"), inner_optimizer="adam",
    ),
    of_method(
        ReptileRecommender, "pseudo_gradient",
        lambda: {"tasks_data": reptile_tasks(), "num_steps": 2, "inner_lr": 0.1},
        {"tasks_data": MANY_ROWS, "num_steps": SOME, "inner_lr": RATE_OR_NONE}, ("x", "y"),
    ),
    of_method(
        ReptileRecommender, "meta_update", lambda: {"tasks_data": reptile_tasks()}, {"tasks_data": MANY_ROWS},
        ("x", "y"),
    ),
    of_method(
        ReptileRecommender, "meta_update", lambda: {"tasks_data": listed(reptile_tasks())},
        {"tasks_data": Each({1: Each({0: FEATURES, 1: TARGETS})})}, ("x", "y"), meta_optimizer="adam",
    ),
]  # fmt: skip

# Prototypes: labels are any integers, unless their number is given.


def episode():
    support_y, query_y = torch.tensor([2, 0, 2, 1, 1, 2, 0]), torch.tensor([1, 2, 0, 0, 2])
    return dict(zip(FIELDS, (normal(7, 3), support_y, normal(5, 3, seed=1), query_y), strict=True))


def episodes():
    return tuple(torch.stack([part, part]) for part in episode().values())


def asked(**others):
    return {**{name: value for name, value in episode().items() if name != "query_y"}, **others}


ANY_LABELS, CODES, QUERIES = Integers(None, "fixed", negative=True), Integers(2, "fixed"), Integers(2, "fixed")
MANY_LABELS, MANY_QUERIES = Integers(None, "fixed fixed", negative=True), Integers(2, "fixed fixed")

CALLS += [
    of_class(
        PrototypicalNetworkRecommender,
        {"input_dim": 3, "embedding_dim": 4, "hidden_dims": (5,), "dropout_rate": 0.0, "distance": "cosine",
         "temperature": 0.5, "meta_lr": 0.1},
        {"input_dim": COUNT, "embedding_dim": COUNT, "hidden_dims": Widths(empty=True), "dropout_rate": SHARE,
         "distance": OneOf("euclidean", "cosine"), "temperature": RATE_OR_NONE, "meta_lr": RATE},
    ),
    of_method(
        PrototypicalNetworkRecommender, "forward", lambda: {"x": normal(2, 5, 3)}, {"x": Floats("free free fixed")}
    ),
    of_method(
        PrototypicalNetworkRecommender, "compute_prototypes",
        lambda: {"support_embeddings": normal(7, 4), "support_labels": episode()["support_y"], "n_classes": 3},
        {"support_embeddings": Floats("fixed free", dtype=False), "support_labels": CODES, "n_classes": SOME},
        ("support_embeddings", "support_labels"),
    ),
    *(
        of_method(
            PrototypicalNetworkRecommender, "classify",
            lambda: {"query_embeddings": normal(5, 4), "prototypes": normal(3, 4, seed=1)},
            {"query_embeddings": Floats("free fixed"), "prototypes": Floats("free fixed")},
            ("query_embeddings", "prototypes"), distance=distance,
        )
        for distance in ("euclidean", "cosine")
    ),
    of_method(
        PrototypicalNetworkRecommender, "episode_forward", lambda: asked(n_classes=3),
        {"support_x": FEATURES, "support_y": CODES, "query_x": X, "n_classes": SOME}, FIELDS,
    ),
    of_method(
        PrototypicalNetworkRecommender, "predict", asked,
        {"support_x": FEATURES, "support_y": ANY_LABELS, "query_x": X}, FIELDS, distance="cosine",
    ),
    of_method(
        PrototypicalNetworkRecommender, "query_losses",
        lambda: {"episodes": tuple(episode().values()), "n_classes": None},
        {"episodes": Each({0: FEATURES, 1: ANY_LABELS, 2: FEATURES, 3: QUERIES}), "n_classes": SOME}, FIELDS,
    ),
    of_method(
        PrototypicalNetworkRecommender, "meta_update", lambda: {"episodes": episodes()},
        {"episodes": Each({0: MANY_FEATURES, 1: MANY_LABELS, 2: MANY_FEATURES, 3: MANY_QUERIES})}, FIELDS,
    ),
    of_method(
        PrototypicalNetworkRecommender, "meta_update",
        lambda: {"episodes": [tuple(episode().values()), tuple(episode().values())]},
        {"episodes": Each({1: Each({0: FEATURES, 1: ANY_LABELS, 2: FEATURES, 3: QUERIES})})}, FIELDS,
    ),
]  # fmt: skip
