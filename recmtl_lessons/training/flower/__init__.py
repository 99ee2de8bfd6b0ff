"""The rounds of `recmtl_lessons.training.federated` on Flower: the same users and the same server, on many machines.

A node of Flower is a machine that holds some of the users. It lets each of them take local steps and sends one mean of
their parameters, with its weight; the server takes the mean of the nodes by those weights, which is the mean of all
users. In Flower's simulation nodes are workers of one machine, in a deployment they are SuperNodes that call a
SuperLink.

``pyproject.toml`` beside this file names the two apps and their settings for ``flwr run``.
``python -m recmtl_lessons.training.flower`` runs the simulation and prints what came of it.
"""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from recmtl_lessons.datasets.few_shot import SHOP, SHOTS, Tasks, shop_users
from recmtl_lessons.models import FederatedRecommender, federated_average
from recmtl_lessons.training.federated import Clients, Federation
from recmtl_lessons.training.few_shot import INNER_STEPS, mean_error

try:
    from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
except ImportError as error:
    raise ImportError('Flower is not installed: python -m pip install -e ".[federated]"') from error

Settings = Mapping[str, bool | int | float | str]

HIDDEN = (32,)


# The shop is the same on every machine, which then looks at its own users alone.


def shop_clients(settings: Settings) -> tuple[Clients, Tasks]:
    """Return the shop's first users as clients who differ in how much they rated, and new users to judge by."""
    seed, count = int(settings["seed"]), int(settings["users"])
    users = shop_users(replace(SHOP, episodes=1), (seed,))
    x, y = (getattr(Clients.of(users.train), name)[:, :count] for name in ("x", "y"))
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(*y.shape[:2], 1, generator=generator)
    known = torch.rand(y.shape, generator=generator) < share
    known[:, :, [0, SHOTS]] = True  # everybody has a row of support and one of query
    return Clients(x, y, known), users.test.shots(SHOTS)


def in_process(settings: Settings) -> Federation:
    """Return the same federation without Flower, to start from and to hold its rounds against."""
    clients, _ = shop_clients(settings)

    def build() -> FederatedRecommender:
        return FederatedRecommender(
            clients.x.shape[-1],
            HIDDEN,
            settings["method"],
            local_steps=settings["local-steps"],
            local_lr=settings["local-lr"],
            inner_lr=settings["rate"],
            support_rows=SHOTS,
        )

    return Federation(build, clients, (settings["seed"],), 1.0, by_rows=settings["by-rows"], device="cpu")


def error_for_new_users(model: FederatedRecommender, tasks: Tasks) -> float:
    """Return the mean absolute error for new users, in stars, after a few steps on each one's ten ratings."""
    fields = (getattr(tasks, name)[0] for name in ("support_x", "support_y", "query_x"))
    answers = [model.predict(q, model.personalise(x, y, INNER_STEPS)) for x, y, q in zip(*fields, strict=True)]
    return float(mean_error(torch.stack(answers)[None], tasks))


# A node.

client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Let this node's users take their local steps from the server's parameters, and answer with the mean of them."""
    settings, partition = context.run_config, int(context.node_config["partition-id"])
    clients, _ = shop_clients(settings)
    mine = slice(partition, None, int(context.node_config["num-partitions"]))
    x, y, known = clients.x[0, mine], clients.y[0, mine], clients.known[0, mine]  # (C, R, F), (C, R), (C, R)
    model, arrived = in_process(settings).model(0), message.content["arrays"].to_torch_state_dict()
    model.load_state_dict(arrived, strict=False)
    weights = user_weights(settings, known)
    moved = model.unflatten(federated_average(model.client_updates(x, y, known), weights))
    errors = ((model.predict(x.flatten(0, 1)).view_as(y) - y).square() * known).sum(1) / known.sum(1)  # (C,)
    reply = {
        "arrays": ArrayRecord({name: Array((arrived[name] + move).numpy()) for name, move in moved.items()}),
        "metrics": MetricRecord({"weight": float(weights.sum()), "loss": float(weights @ errors / weights.sum())}),
        "node": ConfigRecord({"partition-id": partition}),
    }
    return Message(RecordDict(reply), reply_to=message)


def user_weights(settings: Settings, known: Tensor) -> Tensor:
    """Return what each user counts, (C, R) -> (C,): the number of their rows, or 1."""
    return known.sum(1).float() if settings["by-rows"] else torch.ones(len(known))


# The server.


class RecordedFedAvg(FedAvg):
    """Flower's FedAvg by the nodes' weights, which records who was asked in each round and who answered.

    Attributes
    ----------
    rounds : list of dict
        For each round how many nodes were ``asked``; the partitions of those that ``answered``; the reasons of those
        that ``failed``; how many stayed ``silent`` until the time was over; and the ``loss`` before its steps.
    """

    def __init__(self, nodes: int):
        super().__init__(
            min_train_nodes=nodes, min_available_nodes=nodes, fraction_evaluate=0.0, weighted_by_key="weight"
        )
        self.rounds = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask all nodes that are there, as soon as there are enough."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self.rounds.append({"asked": len(messages)})
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take the weighted mean of those that answered."""
        replies = list(replies)
        arrays, metrics = super().aggregate_train(server_round, replies)
        this = self.rounds[-1]
        this["answered"] = sorted(int(r.content["node"]["partition-id"]) for r in replies if not r.has_error())
        this["failed"] = [r.error.reason for r in replies if r.has_error()]
        this["silent"] = this["asked"] - len(replies)
        this["loss"] = None if metrics is None else metrics["loss"]
        return arrays, metrics


server_app = ServerApp()


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    """Go through the rounds, and write what came of them to the file that the settings name."""
    settings = context.run_config
    model = in_process(settings).model(0)
    _, new_users = shop_clients(settings)
    before = error_for_new_users(model, new_users)
    sent = model.unflatten(torch.zeros(model.update_size))  # a head that never leaves its client is not among them
    start = ArrayRecord({name: Array(model.get_parameter(name).detach().numpy()) for name in sent})
    strategy, started = RecordedFedAvg(int(settings["nodes"])), time.perf_counter()
    result = strategy.start(grid, start, int(settings["rounds"]), timeout=float(settings["timeout"]))
    parameters = (result.arrays or start).to_torch_state_dict()
    model.load_state_dict(parameters, strict=False)
    found = {
        "rounds": strategy.rounds,
        "seconds": time.perf_counter() - started,
        "errors": [before, error_for_new_users(model, new_users)],
        "parameters": {name: value.tolist() for name, value in parameters.items()},
    }
    partial = Path(f"{settings['out']}.partial")
    partial.write_text(json.dumps(found), encoding="utf-8")
    partial.replace(settings["out"])  # whoever waits for the file finds it whole
