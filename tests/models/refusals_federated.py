"""Rows of the table of refusals: what is learned from clients without their ratings."""

import torch

from recmtl_lessons.models import (
    FederatedRecommender,
    SecureAggregation,
    clip_updates,
    dequantize,
    federated_average,
    pairwise_mask,
    privacy_spent,
    private_average,
    quantize,
    recover_secret,
    share_secret,
)
from recmtl_lessons.models.secure_aggregation import PRIME
from tests.support.refusals import Call, Count, Each, Floats, Generator, Given, Integers, Mask, Number, OneOf, Widths


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=draws(seed))


# Rounds


def network(method="fedavg"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FederatedRecommender(3, (5, 4), method, support_rows=4)


def weights():
    return {name: value.detach() for name, value in network().named_weights().items()}


def known():
    """Two clients with a row too few in either part."""
    return torch.tensor([[1, 1, 1, 0, 1, 1, 0], [0, 1, 1, 1, 0, 1, 1]]).bool()


RATE, RATE_OR_NONE = Number(0.0, above=True), Number(0.0, above=True, optional=True)
PARAMS = Each({name: Floats("fixed " * value.ndim) for name, value in weights().items()}, optional=True)
SENT = Floats("fixed fixed", dtype=False, more=True)
NOBODY = Given(
    lambda right: right & (torch.arange(7) > 3), lambda right: right & (torch.arange(7) < 4), optional=True
)  # fmt: skip
METHODS = ("fedavg", "per-fedavg", "per-fedavg-first-order", "reconstruction")
ROUNDS = [
    Call(
        "FederatedRecommender",
        lambda: (
            FederatedRecommender,
            {
                "input_dim": 3, "hidden_dims": [5, 4], "method": "per-fedavg", "local_steps": 2, "local_lr": 0.1,
                "inner_lr": 0.1, "support_rows": 4, "ridge": 0.5,
            },
        ),
        {
            "input_dim": Count(), "hidden_dims": Widths(empty=True), "method": OneOf(*METHODS), "local_steps": Count(),
            "local_lr": RATE, "inner_lr": RATE, "support_rows": Count(), "ridge": RATE,
        },
    ),
    Call(
        "FederatedRecommender",
        lambda: (FederatedRecommender, {"input_dim": 3, "hidden_dims": (5,), "method": "reconstruction"}),
        {"hidden_dims": Widths()},
    ),
    *(
        Call(
            f"FederatedRecommender.{name}",
            lambda name=name: (getattr(network(), name), {"x": normal(5, 3), "params": weights()}),
            {"x": Floats("free fixed"), "params": PARAMS},
            ("weights",),
        )
        for name in ("forward", "predict")
    ),
    Call(
        "FederatedRecommender.unflatten",
        lambda: (network("reconstruction").unflatten, {"vector": normal(44)}),
        {"vector": Floats("fixed", dtype=False, integers=True, more=True)},
    ),
    *(
        Call(
            "FederatedRecommender.client_updates",
            lambda method=method: (
                network(method).client_updates,
                {"x": normal(2, 7, 3), "y": normal(2, 7), "known": known(), "num_steps": 2, "local_lr": 0.1},
            ),
            {
                "x": Floats("fixed fixed fixed"), "y": Floats("fixed fixed", dtype=False, integers=True), "known": kind,
                "num_steps": Count(optional=True), "local_lr": RATE_OR_NONE,
            },
            ("y", "known"),
        )
        for method in METHODS
        for kind in (Mask(), *([] if method == "fedavg" else [NOBODY]))
    ),
    Call(
        "FederatedRecommender.client_updates",
        lambda: (network("per-fedavg").client_updates, {"x": normal(2, 7, 3), "y": normal(2, 7)}),
        {"x": Given(lambda right: right[:, :4])},
        ("y",),
    ),
    *(
        Call(
            "FederatedRecommender.personalise",
            lambda method=method: (
                network(method).personalise,
                {
                    "support_x": normal(7, 3), "support_y": normal(7), "num_steps": 2, "params": weights(),
                    "inner_lr": 0.1,
                },
            ),
            {
                "support_x": Floats("fixed fixed"), "support_y": Floats("fixed", dtype=False, integers=True),
                "num_steps": Count(0), "params": PARAMS, "inner_lr": RATE_OR_NONE,
            },
            ("support_x", "support_y"),
        )
        for method in METHODS
    ),
    *(
        Call(
            "federated_average",
            lambda: (federated_average, {"updates": normal(3, 5), "weights": normal(3, seed=1).abs()}),
            {"updates": Floats("fixed free", dtype=False, more=True), "weights": kind},
            ("weights",),
        )
        for kind in (
            Floats("fixed", dtype=False, integers=True),
            Given(lambda right: -right, lambda right: 0 * right, lambda right: right - right.mean()),
        )
    ),
    Call(
        "clip_updates",
        lambda: (clip_updates, {"updates": normal(3, 5), "norm": 0.5}),
        {"updates": Floats("free free", dtype=False, more=True), "norm": RATE},
    ),
    Call(
        "private_average",
        lambda: (
            private_average,
            {
                "updates": normal(3, 5), "clip": 0.5, "noise_multiplier": 1.0, "expected_clients": 2.5,
                "noise": normal(5, seed=1),
            },
        ),
        {
            "updates": Floats("free fixed", dtype=False, more=True), "clip": RATE, "noise_multiplier": Number(0.0),
            "expected_clients": RATE, "noise": Floats("fixed", dtype=False, integers=True),
        },
        ("noise", "norm"),
    ),
]  # fmt: skip

# What privacy costs

PRIVACY = [
    Call(
        "privacy_spent",
        lambda: (privacy_spent, {"sampling_rate": 0.1, "noise_multiplier": 1.0, "rounds": 10, "delta": 1e-3}),
        {
            "sampling_rate": Number(0.0, 1.0),
            "noise_multiplier": Number(0.0),
            "rounds": Count(0),
            "delta": Number(0.0, 1.0, above=True, below=True),
        },
        infinite=True,  # without noise
    ),
]

# Secure aggregation

LARGEST = 2**32 - 1
LEVELS = {"clipping_range": Number(0.0, above=True), "bits": Count(1, 32)}
MANY = Given(1025)  # of 22 bits each


def table(clients=3):
    """Seeds that each pair has agreed on."""
    seeds = torch.randint(LARGEST, (clients, clients), generator=draws())
    return seeds.triu() + seeds.triu(1).mT


def aggregation():
    return SecureAggregation(4, 3, seed=0)


def answers(clients):
    return {client: torch.randint(LARGEST, (5,), generator=draws(client)) for client in clients}


def after_a_sum():
    """A round in which client 3 did not answer; that is settled then."""
    aggregator = aggregation()
    aggregator.sum(answers(range(3)))
    return aggregator


MESSAGE = Integers(LARGEST)
NO_ANSWERS = Given(
    [0, 1, 2], 5, "012", lambda right: answers(range(2)), lambda right: {**right, 4: right[0]},
    lambda right: {**right, "3": right[0]}, lambda right: {0: right[0], True: right[1], 2: right[2]},
    lambda right: {0: right[0], 1: right[1], 2.0: right[2]},
)  # fmt: skip
NO_CLIENTS = Given(3, "012", {0, 1}, [2, 2, 2], {0, 1, 4}, {0, 1, -1}, (0, 1, 1.5), torch.arange(3))
AGGREGATION = [
    Call(
        "quantize",
        lambda: (quantize, {"values": normal(2, 5), "clipping_range": 2.0, "bits": 8}),
        {"values": Floats("", dtype=False, more=True), **LEVELS},
    ),
    *(
        Call(
            "dequantize",
            lambda: (dequantize, {"total": torch.tensor([5, 700]), "n_clients": 3, "clipping_range": 2.0, "bits": 8}),
            {"total": Integers(LARGEST, ""), "n_clients": kind, **LEVELS},
        )
        for kind in (Count(), Given(2**24 + 1))
    ),
    *(
        Call(
            "pairwise_mask",
            lambda: (pairwise_mask, {"seeds": table(), "client": 2, "size": 5}),
            {"seeds": kind, "client": Count(0, 2), "size": Count()},
        )
        for kind in (
            Integers(LARGEST, "fixed fixed"),
            Given(lambda right: right.triu(), lambda right: right[:0], lambda right: right[0]),
        )
    ),
    Call(
        "share_secret",
        lambda: (share_secret, {"secret": 7, "n": 4, "threshold": 3, "generator": draws()}),
        {"secret": Count(0, PRIME - 1), "n": Count(1, 1000), "threshold": Count(1, 4), "generator": Generator()},
    ),
    Call(
        "recover_secret",
        lambda: (recover_secret, {"shares": {1: 5, 4: 6}}),
        {"shares": Each({4: Count(0, PRIME - 1)})},
    ),
    Call(
        "recover_secret",
        lambda: (recover_secret, {"shares": {1: 5, 4: 6}}),
        {"shares": Given([5, 6], {0: 5}, {PRIME: 5}, {"1": 5}, {1.0: 5}, {True: 5})},
    ),
    *(
        Call(
            "SecureAggregation",
            lambda: (
                SecureAggregation,
                {"n_clients": 4, "threshold": 3, "seed": 0, "clipping_range": 2.0, "bits": 22},
            ),
            {"n_clients": kind, "threshold": Count(3, 4), "seed": Count(0), **LEVELS},
        )
        for kind in (Count(2, 1000), MANY)
    ),
    Call(
        "SecureAggregation",
        lambda: (SecureAggregation, {"n_clients": 4, "threshold": 3, "seed": 0, "bits": 30}),
        {"bits": Given(31)},
        also=("n_clients",),  # four clients, and two bits left for them
    ),
    Call(
        "SecureAggregation.message",
        lambda: (aggregation().message, {"client": 3, "values": normal(5)}),
        {"client": Count(0, 3), "values": Floats("", dtype=False)},
    ),
    Call(
        "SecureAggregation.message",
        lambda: (aggregation().message, {"client": 3, "values": normal(5)}),
        {"values": Given(lambda right: right[:0], lambda right: right[0])},
    ),
    Call(
        "SecureAggregation.sum",
        lambda: (aggregation().sum, {"messages": answers(range(3))}),
        {"messages": Each({0: MESSAGE, 2: MESSAGE})},
    ),
    Call(
        "SecureAggregation.sum",
        lambda: (aggregation().sum, {"messages": answers(range(3))}),
        {"messages": NO_ANSWERS},
    ),
    Call(
        "SecureAggregation.sum",
        lambda: (after_a_sum().sum, {"messages": answers(range(3))}),
        {"messages": Given(lambda right: answers(range(4)), lambda right: answers((0, 1, 3)))},
    ),
    Call(
        "SecureAggregation.hand_out",
        lambda: (aggregation().hand_out, {"client": 2, "answered": {0, 1, 2}}),
        {"client": Count(0, 3), "answered": NO_CLIENTS},
        also=("client",),
    ),
    Call(
        "SecureAggregation.hand_out",
        lambda: (after_a_sum().hand_out, {"client": 2, "answered": {0, 1, 2}}),
        {"client": Given(3), "answered": Given({0, 1, 2, 3}, {0, 2, 3})},
    ),
]

CALLS = [*ROUNDS, *PRIVACY, *AGGREGATION]
