"""Flower's rounds against the same rounds in this process: simulated, and deployed with a node that dies in one."""

import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

pytest.importorskip("flwr", reason='Flower is not installed: python -m pip install -e ".[federated]"')
if sys.platform == "win32":
    pytest.skip("Flower's processes are ended by session, which Windows has not", allow_module_level=True)

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from flwr.supercore.task_identity import TaskIdentity

from recmtl_lessons.models import federated_average
from recmtl_lessons.training.flower import RecordedFedAvg, in_process, shop_clients, user_weights
from recmtl_lessons.training.flower.loopback import Loopback

NO_NETWORK = (Path(__file__).parents[1] / "support" / "no_network.py").read_text(encoding="utf-8")


@pytest.fixture
def start():
    """Start Flower with the network closed; whatever becomes of the test, nothing of it runs on."""
    homes = []

    def started(**options):
        flower = Loopback(first=NO_NETWORK, **options)
        homes.append(str(flower.home))
        return flower

    yield started
    assert not [process for home in homes for process in running_in(home)]


def running_in(home):
    """What runs with this home of Flower, or was started with a path in it."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = [process.environ().get("FLWR_HOME", ""), *process.cmdline()]
            if process.status() != psutil.STATUS_ZOMBIE and any(home in word for word in words):
                found.append(process)
    return found


def again(settings, answered):
    """Go through the rounds anew, one step at a time, with the users of those nodes that answered in each."""
    clients, _ = shop_clients(settings)
    model = in_process(settings).model(0)
    for nodes in answered:
        here = [user for user in range(settings["users"]) if user % settings["nodes"] in nodes]
        x, y, known = (getattr(clients, name)[0, here] for name in ("x", "y", "known"))
        move = federated_average(model.client_updates(x, y, known), user_weights(settings, known))
        with torch.no_grad():
            for name, value in model.unflatten(move).items():
                model.get_parameter(name).add_(value)
    return model


def largest_gap(parameters, model):
    own = model.state_dict()
    return max(float((torch.tensor(value) - own[name]).abs().max()) for name, value in parameters.items())


@pytest.mark.timeout(240)
def test_simulated_rounds_are_those_in_this_process(start):
    """By rows and by users; and a head that is rebuilt on each client never leaves it."""
    runs = [{"method": "fedavg", "by-rows": True}, {"method": "reconstruction", "by-rows": False}]
    with start(simulation=True) as flower:
        for own in runs:
            flower.submit({**own, "users": 11, "nodes": 5, "rounds": 3})
            found = flower.result(timeout=110)
            same = in_process(flower.settings).fit(3, label="").model(0)
            other = in_process({**flower.settings, "by-rows": not own["by-rows"]}).fit(3, label="").model(0)
            assert [(r["asked"], r["answered"], r["failed"]) for r in found["rounds"]] == [(5, [0, 1, 2, 3, 4], [])] * 3
            assert largest_gap(found["parameters"], same) < 1e-5
            assert largest_gap(found["parameters"], other) > 1e-3, "the two weightings do not differ here"
            assert ("head.weight" in found["parameters"]) == (own["method"] == "fedavg")


@pytest.mark.timeout(280)
def test_a_node_that_dies_in_a_round_is_missed_in_that_round_alone(start):
    """Flower gives a node up a minute after its last sign of life, and takes it for a new one when it comes back."""
    with start() as flower:
        flower.submit({"users": 7, "nodes": 2, "rounds": 3})
        flower.start_node(0, 2)
        node = flower.start_node(1, 2)
        for round_number in (1, 2):
            wait_for(lambda: computes(node), f"node 1 computes in round {round_number}")
            if round_number == 1:
                wait_for(lambda: not computes(node), "node 1 has answered")
        node.end()
        assert not node.processes()
        flower.start_node(1, 2)
        found = flower.result(timeout=160)
    rounds = found["rounds"]
    assert [this["answered"] for this in rounds] == [[0, 1], [0], [0, 1]]
    assert [len(this["failed"]) for this in rounds] == [0, 1, 0]
    assert "Node Unavailable" in rounds[1]["failed"][0]
    assert all(this["asked"] == len(this["answered"]) + len(this["failed"]) == 2 for this in rounds)
    assert largest_gap(found["parameters"], again(flower.settings, [[0, 1], [0], [0, 1]])) < 1e-5
    assert largest_gap(found["parameters"], again(flower.settings, [[0, 1]] * 3)) > 1e-3


def computes(node):
    """Whether a node is at work on a message: it starts a process for each."""
    for process in node.processes():
        with suppress(psutil.Error):
            if any(word.endswith("flwr-clientapp") for word in process.cmdline()):
                return True
    return False


def wait_for(done, what):
    deadline = time.monotonic() + 90
    while not done():
        assert time.monotonic() < deadline, f"in vain for: {what}"
        time.sleep(0.05)


@pytest.mark.timeout(120)
def test_nothing_runs_on_when_something_fails_in_the_middle(start):
    with pytest.raises(ZeroDivisionError), start(simulation=True) as flower:  # noqa: PT012
        flower.submit({"users": 4, "nodes": 2, "rounds": 1000})
        wait_for(lambda: any("raylet" in process.name() for process in running_in(str(flower.home))), "Ray has started")
        raise ZeroDivisionError
    assert not flower.home.exists()


@pytest.mark.timeout(120)
def test_a_run_that_fails_says_what_went_wrong(start):
    with start() as flower:
        flower.submit({"method": "gossip"})
        with pytest.raises(RuntimeError, match="method: got 'gossip', expected"):
            flower.result(timeout=100)


# What needs no process: messages made by hand.


@pytest.fixture
def in_a_run(monkeypatch):
    """Messages say which run they are of, here one that nobody has started."""
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class Nodes:
    """As much of a grid as a strategy asks for."""

    def __init__(self, count):
        self.ids = list(range(1, count + 1))

    def get_node_ids(self):
        return self.ids


def reply(message, value, weight=1.0, **metrics):
    content = {"arrays": ArrayRecord({"w": Array(value)}), "metrics": MetricRecord({"weight": weight, **metrics})}
    return Message(RecordDict({**content, "node": ConfigRecord({"partition-id": 3})}), reply_to=message)


def asked(strategy, start, nodes):
    messages = list(strategy.configure_train(1, ArrayRecord({"w": Array(start)}), ConfigRecord(), Nodes(nodes)))
    for message in messages:  # as sending one does
        message.metadata.__dict__["_message_id"] = message.object_id
    return messages


def test_a_node_that_stays_silent_until_the_time_is_over_is_counted(in_a_run):
    """Then Flower reports no error: it takes the mean of those that came."""
    strategy = RecordedFedAvg(nodes=2)
    first, _ = asked(strategy, np.zeros(2, np.float32), 2)
    arrays, _ = strategy.aggregate_train(1, [reply(first, np.full(2, 5, np.float32), loss=0.5)])
    assert arrays["w"].numpy().tolist() == [5, 5]
    assert strategy.rounds == [{"asked": 2, "answered": [3], "failed": [], "silent": 1, "loss": 0.5}]


def test_a_round_without_an_answer_changes_nothing(in_a_run):
    strategy = RecordedFedAvg(nodes=2)
    asked(strategy, np.zeros(2, np.float32), 2)
    assert strategy.aggregate_train(1, []) == (None, None)
    assert strategy.rounds == [{"asked": 2, "answered": [], "failed": [], "silent": 2, "loss": None}]


@pytest.mark.parametrize(("rows", "moved"), [(100.0, 100 / 109), (1.0, 1 / 10)])
def test_flowers_privacy_makes_its_noise_for_equal_weights_whatever_they_are(in_a_run, rows, moved):
    """Ten clients, clip 1, noise multiplier 1: one with a hundred times the rows moves the model nine times as far."""
    size = 20_000
    start, towards = np.zeros(size, np.float32), np.zeros(size, np.float32)
    towards[0] = 50.0
    found = {}
    for noise in (0.0, 1.0):
        np.random.seed(0)  # noqa: NPY002  Flower draws its noise there
        plain = FedAvg(weighted_by_key="weight", fraction_evaluate=0.0)
        strategy = DifferentialPrivacyServerSideFixedClipping(plain, noise, 1.0, num_sampled_clients=10)
        first, *others = asked(strategy, start, 10)
        still = np.full(size, 1e-9, np.float32)  # an update of zeros is divided by its length
        replies = [reply(first, towards, rows), *(reply(message, still) for message in others)]
        arrays, _ = strategy.aggregate_train(1, replies)
        found[noise] = arrays["w"].numpy()
    assert np.linalg.norm(found[0.0]) == pytest.approx(moved, rel=1e-4)
    assert (found[1.0] - found[0.0]).std() == pytest.approx(0.1, rel=0.03)
