"""Networks with named parts keep the names in their state, and load by name."""

import copy
import io
import json
import pickle
import re

import pytest
import torch
from torch import nn

from recmtl_lessons.models import (
    ContinualFactorization,
    ContinualRecommender,
    CrossDomainTransferNetwork,
    DomainAdversarialNetwork,
    HierarchicalMultiTaskRL,
    MultiDomainAttentionNetwork,
    MultiTaskDistilledQNetwork,
    MultiTaskPolicyNetwork,
    SharedBottomNetwork,
)
from recmtl_lessons.training.stacked import Stack

NAMES = ("shop", "a.b", "home page", "ü")  # names are the user's words
ROWS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([0, 3, 1])
WIDTHS = dict(zip(NAMES, (3, 2, 2, 3), strict=True))
SIZES = dict(zip(NAMES, ((4, 5), (5, 4), (6, 4), (7, 5)), strict=True))


def adversarial(names):
    kinds = {"task_type": "regression", "output_dim": 1}
    return DomainAdversarialNetwork(3, (4,), 2, dict.fromkeys(names, kinds))


def transfer(names):
    sizes = {name: SIZES.get(name, (4, 5)) for name in names}
    sources, targets = dict(list(sizes.items())[:2]), dict(list(sizes.items())[2:])
    linked = {pair: torch.tensor([[1, 2], [3, 0]]) for pair in [("shop", "ü")] if set(pair) <= set(sizes)}
    return CrossDomainTransferNetwork(sources, targets, 2, (3,), (4,), shared_users=linked)


def transfer_answers(network, name):
    shared = network.encode_domain(name, IDS, IDS)
    classifier = dict(zip(network.domains, network.domain_classifier(shared).unbind(1), strict=True))
    return torch.stack([network.predict(name, IDS, IDS), *(classifier[name] for name in NAMES)])


def attention(names, shared_encoder=False):
    widths = {name: 2 if shared_encoder else WIDTHS.get(name, 3) for name in names}
    return MultiDomainAttentionNetwork(widths, 4, 3, (5,), shared_encoder=shared_encoder)


def attention_answers(network, name):
    return network.predict(name, {other: ROWS[:, : network.domain_features[other]] for other in NAMES})


def actions(names):
    return {name: WIDTHS.get(name, 3) for name in names}


def hierarchical_answers(network, name):
    goals = dict(zip(network.tasks, network(ROWS)[0].unbind(1), strict=True))
    return torch.cat([network.action_probabilities(ROWS, name), torch.stack([goals[other] for other in NAMES], 1)], 1)


def grown(names):
    network = ContinualRecommender(3, (4,))
    for name in names:
        network.add_task(name, "classification", WIDTHS.get(name, 3))
    return network


def tables(names, users="per_domain"):
    network = ContinualFactorization(4, 2, users)
    for name in names:
        network.add_domain(name, SIZES.get(name, (4, 5))[0])
    return network


CASES = {  # how to build one from its names, and what it answers for one of them
    "adversarial": (adversarial, lambda network, name: network.predict(ROWS, name)),
    "transfer": (transfer, transfer_answers),
    "attention": (attention, attention_answers),
    "policy": (
        lambda names: MultiTaskPolicyNetwork(3, actions(names), (4,), (5,)),
        lambda network, name: torch.cat([network.action_probabilities(ROWS, name), network(ROWS, name)[1][:, None]], 1),
    ),
    "distilled": (
        lambda names: MultiTaskDistilledQNetwork(3, actions(names), (4,), (5,)),
        lambda network, name: network(ROWS, name),
    ),
    "hierarchical": (
        lambda names: HierarchicalMultiTaskRL(3, len(names), actions(names), (4,), (5,), 2),
        hierarchical_answers,
    ),
    "grown": (grown, lambda network, name: network.predict(ROWS, name)),
    "tables": (tables, lambda network, name: network(name, IDS, IDS)),
    "shared bottom": (
        lambda names: SharedBottomNetwork(3, dict.fromkeys(names, "regression"), (4,)),
        lambda network, name: network(ROWS)[name],
    ),
    "attention, one encoder": (lambda names: attention(names, shared_encoder=True), attention_answers),
}


@pytest.fixture(params=CASES)
def case(request):
    torch.manual_seed(0)
    build, answers = CASES[request.param]
    return build, answers, moved(build(NAMES))


def moved(network):
    """A network in which no two parts are alike, as after a training."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return network


def unlike(network, state, words):
    """The state is refused in these words, and the network is as it was."""
    before = copy.deepcopy(network.state_dict())
    for strict in (True, False):
        with pytest.raises(ValueError, match=rf"^state_dict: got .*{re.escape(words)}"):
            network.load_state_dict(state, strict=strict)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("names", [NAMES, sorted(NAMES), NAMES[::-1]])
def test_a_state_is_loaded_by_name(case, names):
    build, answers, saved = case
    names = list(json.loads(json.dumps(dict.fromkeys(names, 1))))  # a configuration that went through JSON
    for assign in (False, True):
        loaded = moved(build(names))
        loaded.load_state_dict(saved.state_dict(), assign=assign)
        for name in NAMES:
            torch.testing.assert_close(answers(loaded, name), answers(saved, name), rtol=1e-5, atol=1e-6)


def test_a_state_goes_through_a_file_and_back_within_a_larger_network(case):
    build, answers, saved = case
    file = io.BytesIO()
    torch.save(nn.ModuleList([saved]).state_dict(), file)
    file.seek(0)
    state, loaded = torch.load(file, weights_only=True), build(sorted(NAMES))
    held = dict(state)
    nn.ModuleList([loaded]).load_state_dict(state)
    assert state.keys() == held.keys()
    assert all(value is held[key] for key, value in state.items())
    torch.testing.assert_close(answers(loaded, "a.b"), answers(saved, "a.b"), rtol=1e-5, atol=1e-6)


def test_copies_pickles_and_stacks_keep_the_names(case):
    build, answers, saved = case
    stacked = Stack(lambda: copy.deepcopy(saved), {"unused": [0.0]}, seeds=[0, 1]).model(1)
    for twin in (copy.deepcopy(saved), pickle.loads(pickle.dumps(saved)), stacked):
        loaded = build(sorted(NAMES))
        loaded.load_state_dict(twin.state_dict())
        torch.testing.assert_close(answers(loaded, "ü"), answers(saved, "ü"), rtol=1e-5, atol=1e-6)


def test_a_state_runs_its_network_as_a_function(case):
    build, answers, saved = case

    class Asked(nn.Module):
        def __init__(self):
            super().__init__()
            self.own = build(NAMES)

        def forward(self):
            return answers(self.own, "a.b")

    found = torch.func.functional_call(Asked(), nn.ModuleDict({"own": saved}).state_dict(), ())
    torch.testing.assert_close(found, answers(saved, "a.b"))


@pytest.mark.parametrize("others", [("shop", "a.b", "home page", "u"), NAMES[:3], (*NAMES, "more")])
def test_other_names_are_refused(case, others):
    build, _, saved = case
    for name in {*NAMES} ^ {*others}:
        unlike(build(others), saved.state_dict(), repr(name))


@pytest.mark.parametrize("names", [None, torch.zeros(3), "shop", torch.tensor([34, 104, 34], dtype=torch.uint8)])
def test_a_state_without_names_is_refused(case, names):
    build, _, saved = case
    state = {key: value for key, value in saved.state_dict().items() if key != "names"}
    unlike(build(NAMES), state if names is None else {**state, "names": names}, "no names of")


def test_a_part_that_belongs_to_no_name_is_loaded_without_them():
    saved, loaded = moved(adversarial(NAMES)), adversarial(("other",))
    state = {key: value for key, value in saved.state_dict().items() if key.startswith("encoder.")}
    loaded.load_state_dict(state, strict=False)
    assert torch.equal(loaded.encode(ROWS), saved.encode(ROWS))
