"""Two levels of decisions against a loop over rows, distributions of PyTorch's, tabular solutions, and mistakes."""

import itertools
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from torch.distributions import Categorical
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F

from recmtl_lessons.models.hierarchical import (
    HierarchicalMultiTaskRL,
    LevelLogProbs,
    semi_markov_returns,
    semi_markov_target,
)
from recmtl_lessons.models.policy import n_step_returns

COUNTS = (2, 5, 3)  # actions of the three goals


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def whole(high, *shape, seed=0):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def model(state_dim=4, goals=3, counts=COUNTS, seed=0, dtype=torch.float64, spread=0.5, **changed):
    """Moved away from its start, where policies are nearly uniform and biases are 0."""
    changed = {"meta_dims": (7, 6), "task_dims": (6, 5), "goal_dim": 3, **changed}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = HierarchicalMultiTaskRL(state_dim, goals, counts, **changed).to(dtype)
        with torch.no_grad():
            for value in network.parameters():
                value.add_(spread * torch.randn_like(value))
    return network


def some_rows(batch=40, seed=0, state_dim=4):
    """States, goals, and actions that the goals have."""
    goals = whole(3, batch, seed=seed + 1)
    actions = whole(30, batch, seed=seed + 2) % torch.tensor(COUNTS)[goals]
    return normal(batch, state_dim, seed=seed), goals, actions


def refusal(name, came=""):
    return f"^{re.escape(name)}: got .*{came}.*, expected "


def through(x, layers):
    for weight, bias in layers:
        x = torch.tanh(F.linear(x, weight, bias))
    return x


def by_hand(network, state, goal):
    """One row through one controller, on that controller's own matrices."""
    part = network.controllers
    linear = [layer for layer in part.trunk if not isinstance(layer, nn.Tanh)]
    x = torch.cat([state, part.goal_embedding[goal]])
    hidden = through(x, [(layer.weight[goal], layer.bias[goal]) for layer in linear])
    count = network.task_action_dims[goal]
    logits = F.linear(hidden, part.policy.weight[goal, :count], part.policy.bias[goal, :count])
    return logits, F.linear(hidden, part.value.weight[goal], part.value.bias[goal])[0]


class TestForward:
    @pytest.mark.parametrize("task_dims", [(), (6,), (6, 5)])
    def test_each_row_gets_its_own_controller(self, task_dims, device):
        network = model(task_dims=task_dims).to(device)
        states, goals, _ = (part.to(device) for part in some_rows())
        assert set(goals.tolist()) == {0, 1, 2}
        logits, value = network(states, "task", goals)
        for row in range(len(states)):
            expected, expected_value = by_hand(network, states[row], int(goals[row]))
            torch.testing.assert_close(logits[row, : len(expected)], expected, rtol=0, atol=1e-12)
            torch.testing.assert_close(value[row], expected_value, rtol=0, atol=1e-12)
            assert logits[row, len(expected) :].tolist() == [-math.inf] * (5 - len(expected))

    def test_controllers_differ(self):
        network, states = model(), some_rows()[0]
        values = [network(states, "task", torch.full((40,), goal))[1] for goal in range(3)]
        for one, other in itertools.combinations(values, 2):
            assert float((one - other).detach().abs().mean()) > 0.1

    @pytest.mark.parametrize("meta_dims", [(), (7,), (7, 6)])
    def test_the_meta_controller(self, meta_dims):
        network, states = model(meta_dims=meta_dims), some_rows()[0]
        linear = [(layer.weight, layer.bias) for layer in network.meta.trunk if isinstance(layer, nn.Linear)]
        hidden = through(states, linear)
        logits, value = network(states)
        assert len(linear) == len(meta_dims)
        torch.testing.assert_close(logits, F.linear(hidden, network.meta.policy.weight, network.meta.policy.bias))
        torch.testing.assert_close(value, (hidden @ network.meta.value.weight[0]) + network.meta.value.bias)
        assert torch.equal(logits, network(states, level="meta")[0])

    def test_one_number_of_actions_for_all(self):
        network, (states, goals, _) = model(counts=4), some_rows()
        assert network.task_action_dims == (4, 4, 4)
        logits, _ = network(states, "task", goals)
        assert logits.shape == (40, 4)
        assert torch.isfinite(logits).all()

    @given(
        st.integers(1, 4),
        st.lists(st.integers(1, 5), min_size=1, max_size=4),
        st.lists(st.integers(1, 6), max_size=2),
        st.lists(st.integers(1, 6), max_size=2),
        st.integers(1, 5),
        st.integers(1, 6),
    )
    @settings(max_examples=40, deadline=None)
    def test_shapes_for_any_widths(self, state_dim, counts, meta_dims, task_dims, goal_dim, batch):
        """No two widths have to agree: not the goal's with a layer's, nor one level's with the other's."""
        network = HierarchicalMultiTaskRL(state_dim, len(counts), counts, meta_dims, task_dims, goal_dim).double()
        states, goals = normal(batch, state_dim), whole(len(counts), batch)
        assert [x.shape for x in network(states)] == [(batch, len(counts)), (batch,)]
        assert [x.shape for x in network(states, "task", goals)] == [(batch, max(counts)), (batch,)]
        goals, actions, log_probs = network.get_hierarchical_action(states, generator=seeded())
        assert (actions < torch.tensor(counts)[goals]).all()
        assert log_probs.meta.shape == log_probs.task.shape == (batch,)

    def test_a_fresh_policy_is_nearly_uniform(self):
        network = HierarchicalMultiTaskRL(4, 3, COUNTS)
        states, goals = some_rows()[0].float(), some_rows()[1]
        assert float((network.goal_probabilities(states) - 1 / 3).detach().abs().max()) < 0.02
        uniform = network.allowed[goals] / torch.tensor(COUNTS)[goals].unsqueeze(1)
        assert float((network.action_probabilities(states, goals) - uniform).detach().abs().max()) < 0.02
        hidden = network.controllers.trunk[0].weight.detach()  # each goal's matrix starts orthogonal, and its own
        for matrix in hidden:
            gram = matrix.mT @ matrix
            torch.testing.assert_close(gram, 2 * torch.eye(len(gram)), rtol=0, atol=1e-5)
        assert float((hidden[0] - hidden[1]).abs().max()) > 0.1

    def test_modes_make_no_difference(self):
        network, (states, goals, _) = model(), some_rows()
        assert torch.equal(network.train()(states, "task", goals)[0], network.eval()(states, "task", goals)[0])

    def test_rows_do_not_meet(self):
        network, (states, goals, actions) = model(), some_rows()
        together = (*network.evaluate_goals(states, goals), *network.evaluate_actions(states, goals, actions))
        for row in (0, 17, 39):
            one = slice(row, row + 1)
            apart = (
                *network.evaluate_goals(states[one], goals[one]),
                *network.evaluate_actions(states[one], goals[one], actions[one]),
            )
            for whole_batch, alone in zip(together, apart, strict=True):
                torch.testing.assert_close(whole_batch[one], alone, rtol=0, atol=1e-12)

    def test_state_dict_round_trip(self):
        network, other, (states, goals, _) = model(), model(seed=1), some_rows()
        before = other(states, "task", goals)[1]
        other.load_state_dict(network.state_dict())
        assert not torch.equal(before, network(states, "task", goals)[1])
        for level, asked in (("meta", None), ("task", goals)):
            assert torch.equal(network(states, level, asked)[0], other(states, level, asked)[0])
        assert set(network.state_dict()) == {*dict(network.named_parameters()), "names", "allowed"}

    def test_parameters_belong_to_one_level_each(self):
        network = model()
        meta, task = network.meta_parameters(), network.task_parameters()
        assert not set(meta) & set(task)
        assert {**meta, **task}.keys() == dict(network.named_parameters()).keys()
        assert all(value is network.get_parameter(name) for name, value in {**meta, **task}.items())
        assert all(len(value) == 3 for value in task.values())


NAMED = dict(zip(("home page", "search", "push"), COUNTS, strict=True))


class TestByName:
    def test_the_lectures_call(self):
        network = HierarchicalMultiTaskRL(6, 2, {"home": 3, "search": 4}, [128, 64], [64, 32])
        assert network.tasks == ("home", "search")
        assert network.task_action_dims == {"home": 3, "search": 4}
        goals, actions, _ = network.get_hierarchical_action(torch.zeros(50, 6), generator=seeded())
        counts = torch.tensor([network.task_action_dims[network.tasks[goal]] for goal in goals])
        assert (actions < counts).all()

    @pytest.mark.parametrize("counts", [COUNTS, list(COUNTS), 4])
    def test_without_names_goals_are_numbers(self, counts):
        network = model(counts=counts)
        assert network.tasks == (0, 1, 2)
        assert network.task_action_dims == ((4,) * 3 if counts == 4 else COUNTS)

    def test_a_name_stands_for_its_number_in_every_row(self):
        network, (states, _, _) = model(counts=NAMED), some_rows()
        for number, (name, count) in enumerate(NAMED.items()):
            goals, actions = torch.full((40,), number), whole(count, 40)
            for one, other in zip(
                (
                    *network(states, "task", name),
                    network.action_probabilities(states, name),
                    *network.get_action(states, name, generator=seeded()),
                    *network.get_hierarchical_action(states, goal=name, generator=seeded())[:2],
                    *network.evaluate_goals(states, name),
                    *network.evaluate_actions(states, name, actions),
                ),
                (
                    *network(states, "task", goals),
                    network.action_probabilities(states, goals),
                    *network.get_action(states, goals, generator=seeded()),
                    *network.get_hierarchical_action(states, goal=goals, generator=seeded())[:2],
                    *network.evaluate_goals(states, goals),
                    *network.evaluate_actions(states, goals, actions),
                ),
                strict=True,
            ):
                assert torch.equal(one, other)
        for ask in (lambda: network.get_action(states, "shop"), lambda: model().evaluate_goals(states, "search")):
            with pytest.raises(ValueError, match=refusal("goals")):
                ask()

    def test_a_state_of_other_numbers_of_actions_is_refused(self):
        """The controllers are padded to the largest, so that their shapes do not tell."""
        saved = model(counts=NAMED).state_dict()
        for others in ({**NAMED, "home page": 5}, dict(zip(NAMED, COUNTS[::-1], strict=True))):
            network = model(seed=1, counts=others)
            before = network.meta.policy.weight.clone()
            with pytest.raises(ValueError, match=refusal("state_dict", r"\[2, 5, 3\] actions")):
                network.load_state_dict(saved)
            assert torch.equal(network.meta.policy.weight, before)


class TestEvaluation:
    def test_against_categorical(self):
        network, (states, goals, actions) = model(), some_rows()
        log_prob, entropy, value = network.evaluate_goals(states, goals)
        expected = Categorical(logits=network(states)[0])
        torch.testing.assert_close(log_prob, expected.log_prob(goals), rtol=0, atol=1e-12)
        torch.testing.assert_close(entropy, expected.entropy(), rtol=0, atol=1e-12)
        assert torch.equal(value, network(states)[1])
        log_prob, entropy, value = network.evaluate_actions(states, goals, actions)
        for row in range(len(states)):
            expected = Categorical(logits=by_hand(network, states[row], int(goals[row]))[0])
            torch.testing.assert_close(log_prob[row], expected.log_prob(actions[row]), rtol=0, atol=1e-12)
            torch.testing.assert_close(entropy[row], expected.entropy(), rtol=0, atol=1e-12)
        assert torch.equal(value, network(states, "task", goals)[1])

    def test_probabilities(self):
        network, (states, goals, actions) = model(), some_rows()
        over_goals, over_actions = network.goal_probabilities(states), network.action_probabilities(states, goals)
        for rows in (over_goals, over_actions):
            torch.testing.assert_close(rows.sum(1), torch.ones(40, dtype=torch.float64), rtol=0, atol=1e-12)
        assert (over_actions[~network.allowed[goals]] == 0).all()
        log_prob = network.evaluate_actions(states, goals, actions)[0]
        torch.testing.assert_close(over_actions.log().gather(1, actions[:, None])[:, 0], log_prob)

    def test_a_goal_with_one_action_leaves_no_choice(self):
        network, states = model(counts=(1, 4, 2)), some_rows()[0]
        log_prob, entropy, _ = network.evaluate_actions(states, torch.zeros(40).long(), torch.zeros(40).long())
        assert (log_prob == 0).all()
        assert (entropy == 0).all()

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
    def test_small_integers_are_as_good(self, dtype):
        network, (states, goals, actions) = model(), some_rows()
        plain = network.evaluate_actions(states, goals, actions)
        small = network.evaluate_actions(states, goals.to(dtype), actions.to(dtype))
        assert all(torch.equal(one, other) for one, other in zip(plain, small, strict=True))
        assert network.get_hierarchical_action(states, goal=goals.to(dtype), generator=seeded())[0].dtype == torch.int64


class TestActing:
    def test_what_is_recorded_is_what_was_done(self, device):
        network, states = model().to(device), normal(500, 4).to(device)
        goals, actions, log_probs = network.get_hierarchical_action(states, generator=seeded())
        assert set(goals.tolist()) == {0, 1, 2}
        assert (actions < torch.tensor(COUNTS, device=device)[goals]).all()
        torch.testing.assert_close(log_probs.meta, network.evaluate_goals(states, goals)[0], rtol=0, atol=1e-12)
        again = network.evaluate_actions(states, goals, actions)[0]
        torch.testing.assert_close(log_probs.task, again, rtol=0, atol=1e-12)

    def test_pairs_come_as_often_as_they_should(self):
        """Goal and action together, from one state many times over, against the product of the two policies."""
        network, n = model(spread=0.7), 40_000
        state = normal(1, 4, seed=3)
        goals, actions, _ = network.get_hierarchical_action(state.expand(n, -1), generator=seeded())
        expected = network.goal_probabilities(state)[0, :, None] * network.action_probabilities(
            state.expand(3, -1), torch.arange(3)
        )
        seen = torch.bincount(goals * 5 + actions, minlength=15).double()
        possible = network.allowed.flatten()
        assert (seen[~possible] == 0).all()
        counts, wanted = seen[possible].numpy(), (n * expected.flatten()[possible]).detach().numpy()
        assert wanted.min() > 5
        assert wanted.max() > 2 * wanted.min()
        assert stats.chisquare(counts, wanted).pvalue > 1e-3
        assert stats.chisquare(counts, wanted[::-1]).pvalue < 1e-6  # the test can tell a wrong one

    def test_the_most_probable(self):
        network, states = model(), some_rows()[0]
        goals, actions, log_probs = network.get_hierarchical_action(states, deterministic=True)
        assert torch.equal(goals, network(states)[0].argmax(1))
        assert torch.equal(actions, network(states, "task", goals)[0].argmax(1))
        torch.testing.assert_close(log_probs.meta, network.goal_probabilities(states).amax(1).log())
        torch.testing.assert_close(log_probs.task, network.action_probabilities(states, goals).amax(1).log())

    def test_goals_that_are_kept(self):
        network, (states, goals, _) = model(), some_rows()
        returned, actions, log_probs = network.get_hierarchical_action(states, goal=goals, generator=seeded())
        assert torch.equal(returned, goals)
        torch.testing.assert_close(log_probs.meta, network.evaluate_goals(states, goals)[0])
        torch.testing.assert_close(log_probs.task, network.evaluate_actions(states, goals, actions)[0])
        again, log_prob = network.get_action(states, goals, generator=seeded())  # no number went to the goals
        assert torch.equal(again, actions)
        assert torch.equal(log_prob, log_probs.task)

    def test_in_two_steps_it_is_the_same(self):
        network, states = model(), some_rows()[0]
        goals, actions, log_probs = network.get_hierarchical_action(states, generator=seeded(5))
        generator = seeded(5)
        first, meta = network.get_goal(states, generator=generator)
        second, task = network.get_action(states, first, generator=generator)
        assert torch.equal(goals, first)
        assert torch.equal(actions, second)
        assert torch.equal(log_probs.meta, meta)
        assert torch.equal(log_probs.task, task)

    def test_some_goals_go_on_and_some_are_new(self):
        network, (states, old, _) = model(), some_rows()
        ended = whole(2, 40, seed=9).bool()
        goals = torch.where(ended, network.get_goal(states, generator=seeded())[0], old)
        kept, _, log_probs = network.get_hierarchical_action(states, goal=goals, generator=seeded(1))
        assert torch.equal(kept[~ended], old[~ended])
        assert not torch.equal(kept, old)
        torch.testing.assert_close(log_probs.meta, network.evaluate_goals(states, kept)[0])

    def test_randomness_comes_from_the_generator_alone(self):
        network, states = model(), normal(200, 4)
        before = torch.random.get_rng_state()
        one, same, other = (network.get_hierarchical_action(states, generator=seeded(s))[:2] for s in (0, 0, 1))
        assert torch.equal(torch.random.get_rng_state(), before)
        assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            unseeded = network.get_hierarchical_action(states)[:2]
        expected = network.get_hierarchical_action(states, generator=seeded(3))[:2]
        assert all(torch.equal(a, b) for a, b in zip(unseeded, expected, strict=True))

    def test_numbers_handed_in(self):
        network, states = model(), some_rows()[0]
        uniform = torch.rand(40, 3 + 5, generator=seeded(), dtype=torch.float64)
        goals, actions, _ = network.get_hierarchical_action(states, uniform=uniform)
        first = network.get_goal(states, uniform=uniform[:, :3])[0]
        assert torch.equal(goals, first)
        assert torch.equal(actions, network.get_action(states, first, uniform=uniform[:, 3:])[0])
        assert torch.equal(actions, network.get_hierarchical_action(states, goal=goals, uniform=uniform)[1])
        extreme = torch.zeros_like(uniform)  # an action that does not exist wins by no luck
        extreme[:, 3:5] = 1 - 1e-12
        actions = network.get_hierarchical_action(states, goal=torch.zeros(40).long(), uniform=extreme)[1]
        assert (actions < 2).all()

    def test_one_row(self):
        network = model(dtype=torch.float32)
        goals, actions, log_probs = network.get_hierarchical_action(normal(1, 4).float(), generator=seeded())
        assert goals.shape == actions.shape == log_probs.meta.shape == log_probs.task.shape == (1,)
        assert log_probs.meta.dtype == torch.float32


class TestGradients:
    def gradients(self, network, loss):
        network.zero_grad()
        loss.backward()
        return {name: value.grad for name, value in network.named_parameters()}

    def test_each_level_has_its_own_loss(self):
        network, (states, goals, actions) = model(), some_rows()
        losses = {
            "meta.": sum(part.sum() for part in network.evaluate_goals(states, goals)),
            "controllers.": sum(part.sum() for part in network.evaluate_actions(states, goals, actions)),
        }
        for level, loss in losses.items():
            for name, gradient in self.gradients(network, loss).items():
                assert (gradient is not None) == name.startswith(level), name
                if gradient is not None:
                    assert torch.isfinite(gradient).all(), name
                    assert float(gradient.abs().max()) > 1e-4, name

    def test_what_was_done_carries_gradients_to_both(self):
        network, states = model(), some_rows()[0]
        log_probs = network.get_hierarchical_action(states, generator=seeded())[2]
        for name, gradient in self.gradients(network, log_probs.meta.sum() + log_probs.task.sum()).items():
            if ".value." in name:
                assert gradient is None
            else:
                assert float(gradient.abs().max()) > 1e-4, name

    def test_a_controller_learns_from_its_own_rows_alone(self):
        network, (states, goals, actions) = model(), some_rows()
        rows = goals != 1
        loss = sum(part.sum() for part in network.evaluate_actions(states[rows], goals[rows], actions[rows]))
        for name, gradient in self.gradients(network, loss).items():
            if name.startswith("controllers."):
                assert (gradient[1] == 0).all(), name
                assert float(gradient[[0, 2]].abs().amax()) > 1e-4, name

    def test_actions_that_do_not_exist_get_none(self):
        network, (states, goals, actions) = model(), some_rows()
        loss = sum(part.sum() for part in network.evaluate_actions(states, goals, actions))
        gradient = self.gradients(network, loss)["controllers.policy.weight"]
        assert (gradient[~network.allowed] == 0).all()
        assert (gradient[network.allowed].abs().amax(1) > 1e-4).all()

    def test_against_finite_differences(self):
        network, (states, goals, actions) = model(), some_rows(6)
        names, values = zip(*network.named_parameters(), strict=True)

        class Asked(nn.Module):
            def __init__(self):
                super().__init__()
                self.inside = network

            def forward(self):
                return (
                    *self.inside.evaluate_goals(states, goals),
                    *self.inside.evaluate_actions(states, goals, actions),
                )

        def evaluated(*values):
            given = {f"inside.{name}": value for name, value in zip(names, values, strict=True)}
            return functional_call(Asked(), given, ())

        assert torch.autograd.gradcheck(evaluated, values, fast_mode=True)

    def test_both_levels_learn(self):
        """Reward 1 where goal and action are both the state's number; chance is 1/6."""
        network = model(3, 3, 2, spread=0.0, dtype=torch.float32)
        optimizer, generator = torch.optim.Adam(network.parameters(), lr=0.02), seeded()
        kinds, right = torch.eye(3), torch.tensor([1, 0, 1])

        def reward(number, goals, actions):
            return ((goals == number) & (actions == right[number])).float()

        for _ in range(60):
            number = torch.randint(3, (96,), generator=generator)
            with torch.no_grad():
                goals, actions, _ = network.get_hierarchical_action(kinds[number], generator=generator)
            got, loss = reward(number, goals, actions), 0.0
            for log_prob, _, value in (
                network.evaluate_goals(kinds[number], goals),
                network.evaluate_actions(kinds[number], goals, actions),
            ):
                loss = loss - ((got - value.detach()) * log_prob).mean() + (got - value).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        goals, actions, _ = network.get_hierarchical_action(kinds, deterministic=True)
        assert reward(torch.arange(3), goals, actions).tolist() == [1.0, 1.0, 1.0]


class TestManyModels:
    def stacked(self, ask, models, *arguments, randomness="error"):
        class Asked(nn.Module):
            def __init__(self):
                super().__init__()
                self.inside = models[0]

            def forward(self, *arguments):
                return ask(self.inside, *arguments)

        parameters, buffers = stack_module_state(models)
        parameters, buffers = ({f"inside.{n}": v for n, v in part.items()} for part in (parameters, buffers))

        def one(parameters, buffers, *arguments):
            return functional_call(Asked(), (parameters, buffers), arguments)

        return torch.vmap(one, randomness=randomness)(parameters, buffers, *arguments), parameters

    @pytest.mark.parametrize("batch", [1, 30])
    def test_together_as_one_after_another(self, batch, device):
        models = [model(seed=seed).to(device) for seed in range(3)]
        rows = [[part.to(device) for part in some_rows(batch, seed=10 * seed)] for seed in range(3)]
        uniform = torch.rand(3, batch, 8, generator=seeded(), dtype=torch.float64).to(device)

        def ask(network, states, goals, actions, uniform):
            return (
                *network(states),
                *network(states, "task", goals),
                *network.evaluate_goals(states, goals),
                *network.evaluate_actions(states, goals, actions),
                *network.get_hierarchical_action(states, uniform=uniform)[:2],
                *network.get_hierarchical_action(states, uniform=uniform)[2],
                *network.get_hierarchical_action(states, goal=goals, deterministic=True)[:2],
                network.goal_probabilities(states),
                network.action_probabilities(states, goals),
            )

        many = [torch.stack(parts) for parts in zip(*rows, strict=True)]
        found, _ = self.stacked(ask, models, *many, uniform)
        for number, network in enumerate(models):
            for one, expected in zip(found, ask(network, *rows[number], uniform[number]), strict=True):
                torch.testing.assert_close(one[number], expected, rtol=0, atol=1e-12)

    def test_gradients_too(self):
        models = [model(seed=seed) for seed in range(3)]
        rows = [some_rows(seed=10 * seed) for seed in range(3)]

        def loss(network, states, goals, actions):
            parts = (*network.evaluate_goals(states, goals), *network.evaluate_actions(states, goals, actions))
            return sum(part.mean() for part in parts)

        many = [torch.stack(parts) for parts in zip(*rows, strict=True)]
        found, parameters = self.stacked(loss, models, *many)
        found.sum().backward()
        for number, network in enumerate(models):
            loss(network, *rows[number]).backward()
            for name, value in network.named_parameters():
                together = parameters[f"inside.{name}"].grad[number]
                torch.testing.assert_close(together, value.grad, rtol=0, atol=1e-12)

    def test_each_draws_its_own_numbers(self):
        models, generator = [model() for _ in range(3)], seeded()
        states = normal(200, 4).expand(3, -1, -1)

        def act(network, states):
            goals, actions, log_probs = network.get_hierarchical_action(states, generator=generator)
            return goals, actions, log_probs, network.evaluate_actions(states, goals, actions)[0]

        (goals, actions, log_probs, again), _ = self.stacked(act, models, states, randomness="different")
        assert isinstance(log_probs, LevelLogProbs)
        assert not torch.equal(goals[0], goals[1])
        assert not torch.equal(actions[1], actions[2])
        torch.testing.assert_close(log_probs.task, again)

    def test_an_action_that_is_not_there_has_no_probability(self):
        states, goals = some_rows()[0].expand(2, -1, -1), torch.zeros(2, 40).long()

        def ask(network, *rows):
            return network.evaluate_actions(*rows)[0]

        found, _ = self.stacked(ask, [model(), model()], states, goals, goals + 3)
        assert (found == -math.inf).all()


def double_loop(rewards, next_values, ended, terminated, discount):
    """Every row looks for the end of its goal by itself."""
    steps, columns = rewards.shape
    found = torch.zeros_like(rewards)
    for t in range(steps):
        for b in range(columns):
            last = t
            while last < steps - 1 and not ended[last, b] and not terminated[last, b]:
                last += 1
            total = sum(discount ** (i - t) * rewards[i, b] for i in range(t, last + 1))
            if not terminated[last, b]:
                total = total + discount ** (last - t + 1) * next_values[last, b]
            found[t, b] = total
    return found


def rollout(steps=12, columns=7, seed=0, ending=0.3, dying=0.15):
    draw = torch.rand(2, steps, columns, generator=seeded(seed))
    return normal(steps, columns, seed=seed), normal(steps, columns, seed=seed + 1), draw[0] < ending, draw[1] < dying


class TestSemiMarkovReturns:
    @pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
    @pytest.mark.parametrize("seed", range(4))
    def test_against_a_double_loop(self, discount, seed, device):
        parts = rollout(seed=10 * seed)
        found = semi_markov_returns(*(part.to(device) for part in parts), discount=discount)
        torch.testing.assert_close(found.cpu(), double_loop(*parts, discount), rtol=0, atol=1e-10)

    @given(
        st.integers(1, 9), st.integers(1, 4), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.integers(0, 10**6)
    )
    @settings(max_examples=60, deadline=None)
    def test_any_rollout(self, steps, columns, ending, dying, discount, seed):
        parts = rollout(steps, columns, seed, ending, dying)
        found = semi_markov_returns(*parts, discount=discount)
        torch.testing.assert_close(found, double_loop(*parts, discount), rtol=0, atol=1e-10)

    def test_by_hand(self):
        rewards, values = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([100.0, 200.0, 300.0, 400.0])
        no, after_two = torch.zeros(4).bool(), torch.tensor([False, True, False, False])
        for terminated, expected in (
            (no, [1 + 1 + 0.25 * 200, 2 + 0.5 * 200, 4 + 4 + 0.25 * 400, 8 + 0.5 * 400]),
            (after_two, [2.0, 2.0, 4 + 4 + 0.25 * 400, 8 + 0.5 * 400]),
            (torch.tensor([False, False, False, True]), [1 + 1 + 0.25 * 200, 2 + 0.5 * 200, 8.0, 8.0]),
        ):
            assert semi_markov_returns(rewards, values, after_two, terminated, 0.5).tolist() == expected
        # a task that ended, ends its goal, marked or not
        assert semi_markov_returns(rewards, values, no, after_two, 0.5).tolist()[:2] == [2.0, 2.0]

    def test_goals_of_one_step_give_the_one_step_target(self):
        rewards, values, _, terminated = rollout()
        found = semi_markov_returns(rewards, values, torch.ones_like(terminated), terminated, 0.9)
        torch.testing.assert_close(found, rewards + 0.9 * values * ~terminated, rtol=0, atol=1e-12)

    def test_the_end_of_a_goal_is_to_it_what_truncation_is_to_a_flat_return(self):
        rewards, values, ended, terminated = rollout()
        expected = n_step_returns(rewards, values, terminated, ended, 0.9, n=12)
        torch.testing.assert_close(semi_markov_returns(rewards, values, ended, terminated, 0.9), expected)

    def test_values_are_read_where_goals_end_and_nowhere_else(self):
        rewards, values, ended, terminated = rollout()
        read = ended & ~terminated
        read[-1] = ~terminated[-1]
        found = semi_markov_returns(rewards, values, ended, terminated)
        elsewhere = torch.where(read, values, values + 1e6)
        assert torch.equal(semi_markov_returns(rewards, elsewhere, ended, terminated), found)
        there = torch.where(read, values + 1, values)
        assert (
            (semi_markov_returns(rewards, there, ended, terminated) > found) == self.bootstraps(ended, terminated)
        ).all()

    def bootstraps(self, ended, terminated):
        ones, zeros = torch.ones(ended.shape, dtype=torch.float64), torch.zeros(ended.shape, dtype=torch.float64)
        return double_loop(zeros, ones, ended, terminated, 0.5) > 0

    def test_without_a_gradient(self):
        rewards, values, ended, terminated = rollout()
        assert not semi_markov_returns(rewards, values.requires_grad_(), ended, terminated).requires_grad

    def test_more_dimensions_and_many_at_once(self):
        many = [torch.stack(parts, dim=1) for parts in zip(*(rollout(seed=s) for s in range(3)), strict=True)]
        found = semi_markov_returns(*many, discount=0.9)  # (T, models, sessions)
        discounts = torch.tensor([0.5, 0.9, 1.0], dtype=torch.float64)
        mapped = torch.vmap(semi_markov_returns, in_dims=(1, 1, 1, 1, 0))(*many, discounts)
        for number in range(3):
            expected = semi_markov_returns(*rollout(seed=number), discount=0.9)
            torch.testing.assert_close(found[:, number], expected, rtol=0, atol=1e-12)
            expected = semi_markov_returns(*rollout(seed=number), discount=float(discounts[number]))
            torch.testing.assert_close(mapped[number], expected, rtol=0, atol=1e-12)


def goals_of(rewards, next_values, ended, terminated, discount):
    """Goals that ended, one after another: where each began, its pay, its steps, the value behind it, its end."""
    found = []
    for b in range(rewards.shape[1]):
        start = 0
        for t in range(len(rewards)):
            if ended[t, b] or terminated[t, b]:
                paid = sum(discount ** (i - start) * rewards[i, b] for i in range(start, t + 1))
                found.append(((start, b), paid, t - start + 1, next_values[t, b], terminated[t, b]))
                start = t + 1
    places, paid, steps, values, over = zip(*found, strict=True)
    return places, torch.stack(paid), torch.tensor(steps), torch.stack(values), torch.stack(over)


def some_goals(shape=(40,), seed=0):
    paid, values = normal(*shape, seed=seed), normal(*shape, seed=seed + 1)
    return paid, 1 + whole(9, *shape, seed=seed), values, whole(4, *shape, seed=seed + 2) == 0


class TestSemiMarkovTarget:
    @pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
    @pytest.mark.parametrize("seed", range(4))
    def test_goals_that_have_ended_get_what_a_rollout_that_holds_them_gives(self, discount, seed, device):
        parts = rollout(40, 5, seed=10 * seed)
        places, *goals = goals_of(*parts, discount)
        assert len(set(goals[1].tolist())) >= 5  # of many lengths
        assert 5 < int(goals[3].sum()) < len(places) - 5
        found = semi_markov_target(*(part.to(device) for part in goals), discount=discount).cpu()
        whole_rollouts = semi_markov_returns(*parts, discount=discount)
        expected = double_loop(*parts, discount)
        for place, target in zip(places, found, strict=True):
            assert float(target) == pytest.approx(float(whole_rollouts[place]), abs=1e-12)
            assert float(target) == pytest.approx(float(expected[place]), abs=1e-12)

    @given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.floats(0, 1), st.integers(0, 10**6))
    @settings(max_examples=60, deadline=None)
    def test_goals_of_any_length_against_a_loop(self, lengths, discount, seed):
        values, over = normal(len(lengths), seed=seed), whole(2, len(lengths), seed=seed).bool()
        rewards = [normal(k, seed=seed + 1 + number) for number, k in enumerate(lengths)]
        paid = torch.stack([sum(discount**j * reward for j, reward in enumerate(part)) for part in rewards])
        found = semi_markov_target(paid, torch.tensor(lengths), values, over, discount)
        for number, part in enumerate(rewards):
            total = values[number] * ~over[number]
            for reward in part.flip(0):
                total = reward + discount * total
            torch.testing.assert_close(found[number], total, rtol=1e-12, atol=1e-12)

    def test_by_hand(self):
        paid, steps, values = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([1, 2, 3, 2]), torch.full((4,), 64.0)
        over = torch.tensor([False, False, False, True])
        assert semi_markov_target(paid, steps, values, over, 0.5).tolist() == [1 + 32, 2 + 16, 4 + 8, 8]

    def test_in_double_precision(self):
        """Powers of the discount too, which integers alone would bring to single precision."""
        for discount in (0.9, torch.tensor(0.9, dtype=torch.float64)):
            paid, steps = torch.zeros(60, dtype=torch.float64), torch.arange(1, 61)
            found = semi_markov_target(paid, steps, paid + 1, paid > 0, discount)
            assert found.dtype == torch.float64
            assert found.tolist() == pytest.approx([0.9**k for k in range(1, 61)], rel=1e-13)
        single = semi_markov_target(paid.float(), steps, paid.float() + 1, paid > 0, 0.9)
        assert single.dtype == torch.float32

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
    def test_small_integers_are_as_good(self, dtype):
        paid, steps, values, over = some_goals()
        expected = semi_markov_target(paid, steps, values, over)
        assert torch.equal(semi_markov_target(paid, steps.to(dtype), values, over), expected)

    def test_values_are_not_read_where_the_task_ended(self):
        paid, steps, values, over = some_goals()
        found = semi_markov_target(paid, steps, values, over)
        assert torch.equal(semi_markov_target(paid, steps, torch.where(over, 1e6, values), over), found)
        assert torch.equal(found[over], paid[over])
        moved = semi_markov_target(paid, steps, values + 1, over) - found
        torch.testing.assert_close(moved, 0.99 ** steps.double() * ~over, rtol=0, atol=1e-12)

    def test_without_a_gradient(self):
        paid, steps, values, over = some_goals()
        assert not semi_markov_target(paid.requires_grad_(), steps, values.requires_grad_(), over).requires_grad

    def test_nothing_that_comes_in_is_changed(self):
        parts = some_goals()
        before = [part.clone() for part in parts]
        semi_markov_target(*parts)
        assert all(torch.equal(part, old) for part, old in zip(parts, before, strict=True))

    def test_more_dimensions_and_many_at_once(self):
        many = some_goals((6, 3, 2))
        discounts = torch.tensor([0.5, 0.9, 1.0], dtype=torch.float64)
        found = semi_markov_target(*many, discount=0.9)
        mapped = torch.vmap(semi_markov_target, in_dims=(1, 1, 1, 1, 0), out_dims=1)(*many, discounts)
        assert found.shape == mapped.shape == (6, 3, 2)
        for number, discount in enumerate(discounts.tolist()):
            alone = [part[:, number] for part in many]
            torch.testing.assert_close(found[:, number], semi_markov_target(*alone, 0.9), rtol=0, atol=1e-12)
            torch.testing.assert_close(mapped[:, number], semi_markov_target(*alone, discount), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("least", [0, -3])
    def test_a_goal_takes_a_step_at_least(self, least):
        paid, steps, values, over = some_goals()
        steps[3] = least
        with pytest.raises(ValueError, match=refusal("steps", str(least))):
            semi_markov_target(paid, steps, values, over)


class Chain:
    """States 0 to 5; a step goes where it is meant to with probability 0.7, else the other way.

    Entering 0 pays 0.2 and ends, entering 5 pays 1 and ends. An option goes one way for so many steps at most.
    """

    going, discount, n = 0.7, 0.9, 6

    def one_step(self, direction):
        """Probabilities among states that go on, and the reward expected of a step."""
        moves, rewards = torch.zeros(self.n, self.n, dtype=torch.float64), torch.zeros(self.n, dtype=torch.float64)
        for state in range(1, self.n - 1):
            for step, chance in ((direction, self.going), (-direction, 1 - self.going)):
                after = state + step
                rewards[state] += chance * self.paid(after)
                if 0 < after < self.n - 1:
                    moves[state, after] += chance
        return moves, rewards

    def paid(self, state):
        return {0: 0.2, self.n - 1: 1.0}.get(state, 0.0)

    def worth(self, state, direction, length, values, target=semi_markov_returns):
        """The mean target of an option, over all ways in which it can go, each with its probability."""
        ways = list(itertools.product((True, False), repeat=length))
        chances = [math.prod(self.going if well else 1 - self.going for well in way) for way in ways]
        shape = (length, len(ways))
        rewards, after = torch.full(shape, 7.0, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        ended, terminated = torch.ones(shape).bool(), torch.zeros(shape).bool()  # what follows an end is rubbish
        for column, way in enumerate(ways):
            place = state
            for t, well in enumerate(way):
                place += direction if well else -direction
                rewards[t, column], after[t, column] = self.paid(place), values[place]
                terminated[t, column] = place in (0, self.n - 1)
                ended[t, column] = t == length - 1 or bool(terminated[t, column])
                if terminated[t, column]:
                    break
        first = target(rewards, after, ended, terminated, self.discount)[0]
        return float((torch.tensor(chances, dtype=torch.float64) * first).sum())

    def solve(self, options, target=semi_markov_returns):
        """Value iteration over options, (n,)."""
        values = torch.zeros(self.n, dtype=torch.float64)
        for _ in range(200):
            best = [max(self.worth(s, *option, values, target) for option in options) for s in range(1, self.n - 1)]
            before, values = values, torch.tensor([0.0, *best, 0.0], dtype=torch.float64)
            if torch.allclose(values, before, rtol=0, atol=1e-13):
                return values
        raise AssertionError("value iteration did not come to rest")

    def solve_flat(self):
        values = torch.zeros(self.n, dtype=torch.float64)
        for _ in range(400):
            each = [r + self.discount * p @ values for p, r in map(self.one_step, (-1, 1))]
            values, best = torch.stack(each).max(0)
        return values, best


def discounted_once(rewards, next_values, goal_ended, terminated, discount):
    """The mistake: whatever a goal's length, V is discounted as after one step."""
    alone = semi_markov_returns(rewards, torch.zeros_like(next_values), goal_ended, terminated, discount)
    after = semi_markov_returns(torch.zeros_like(rewards), next_values, goal_ended, terminated, 1.0)
    return alone + discount * after


class TestATabularSolution:
    @pytest.mark.parametrize("length", [1, 2, 3, 4])
    @pytest.mark.parametrize("direction", [-1, 1])
    def test_the_mean_target_is_the_options_model(self, length, direction):
        """r_o + P_o V from powers of the one-step model (Sutton et al. 1999, section 3)."""
        chain, values = Chain(), normal(6)
        moves, rewards = chain.one_step(direction)
        powers = [torch.linalg.matrix_power(chain.discount * moves, i) for i in range(length + 1)]
        expected = sum(power @ rewards for power in powers[:-1]) + powers[-1] @ values
        for state in range(1, 5):
            found = chain.worth(state, direction, length, values)
            assert found == pytest.approx(float(expected[state]), abs=1e-12)

    def test_options_that_hold_the_best_policy_reach_its_value(self):
        chain = Chain()
        flat, best = chain.solve_flat()
        assert best[1:5].tolist() == [1, 1, 1, 1]  # right everywhere, so that going on for three steps costs nothing
        torch.testing.assert_close(chain.solve([(-1, 3), (1, 3)]), flat, rtol=0, atol=1e-9)
        wrong = chain.solve([(-1, 3), (1, 3)], discounted_once)
        assert float((wrong - flat)[1:5].min()) > 0.01

    def test_options_of_one_step_are_the_actions(self):
        chain = Chain()
        torch.testing.assert_close(chain.solve([(-1, 1), (1, 1)]), chain.solve_flat()[0], rtol=0, atol=1e-9)

    def test_options_that_do_not_hold_it_fall_short(self):
        chain = Chain()
        short = chain.solve_flat()[0] - chain.solve([(-1, 3)])
        assert float(short[1:5].min()) > 0.01


class TestClassicMistakes:
    def test_probabilities_times_a_mask(self):
        network, (states, goals, _) = model(), some_rows()
        for goal in range(3):
            mine = goals == goal
            probabilities = network.action_probabilities(states, torch.full((40,), goal)) * mine.unsqueeze(1)
            with pytest.raises(ValueError, match="invalid values"):
                Categorical(probs=probabilities)
        _, actions, log_probs = network.get_hierarchical_action(states, goal=goals, generator=seeded())
        assert (actions < torch.tensor(COUNTS)[goals]).all()
        assert torch.isfinite(log_probs.task).all()

    def test_one_goal_acts_and_another_is_recorded(self):
        network, states, generator = model(), normal(300, 4), seeded()

        def mismatched():
            logits, _ = network(states)
            acting, recorded = logits.argmax(1), Categorical(logits=logits.detach()).sample()
            actions, task = network.get_action(states, acting, generator=generator)
            return recorded, actions, LevelLogProbs(Categorical(logits=logits).log_prob(recorded), task)

        def found_again(goals, actions, log_probs):
            """Whether the log-probability of each action is that of the goal it is recorded under."""
            known = actions < torch.tensor(COUNTS)[goals]
            again = torch.full_like(log_probs.task, -math.inf)
            again[known] = network.evaluate_actions(states[known], goals[known], actions[known])[0]
            return (again - log_probs.task).abs() < 1e-9

        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            broken = found_again(*mismatched())
        assert 0.1 < float(broken.double().mean()) < 0.9  # right where the sample happens to be the greatest
        with torch.no_grad():
            assert found_again(*network.get_hierarchical_action(states, generator=generator)).all()

    def test_a_meta_controller_under_no_grad_never_learns(self):
        network, states = model(), some_rows()[0]
        with torch.no_grad():
            goals, meta = network.get_goal(states, generator=seeded())
        _, task = network.get_action(states, goals, generator=seeded())
        (-(meta + task)).mean().backward()
        assert all(value.grad is None for value in network.meta_parameters().values())
        assert network.controllers.policy.weight.grad is not None
        network.zero_grad()
        log_prob, _, _ = network.evaluate_goals(states, goals)
        (-log_prob).mean().backward()
        assert float(network.meta.policy.weight.grad.abs().max()) > 1e-3

    def test_an_intrinsic_reward_in_the_return_turns_the_choice_around(self):
        """Goal 0 is reached at once and is worth nothing; goal 1 takes three steps and earns 0.2 at its end."""
        earned = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.2]])
        reached = torch.tensor([[True, False], [True, False], [True, True]])
        nothing, no = torch.zeros(3, 2), torch.zeros(3, 2).bool()
        right = semi_markov_returns(earned, nothing, reached, no, 0.9)[0]
        wrong = semi_markov_returns(earned + reached.float(), nothing, reached, no, 0.9)[0]
        assert right.tolist() == pytest.approx([0.0, 0.81 * 0.2])
        assert wrong[0] > wrong[1]


S, G, A = some_rows(4)


class TestRefusals:
    """What the table of refusals does not say."""

    @pytest.mark.parametrize("counts", [{"home": 3}, {"home": 3, "search": 4, "": 2}, {"home": 3, "search": 4, 2: 2}])
    def test_names_that_do_not_fit(self, counts):
        with pytest.raises(ValueError, match=refusal("task_action_dims")):
            HierarchicalMultiTaskRL(4, 3, counts)

    def test_dropout_is_refused_with_the_reason(self):
        with pytest.raises(ValueError, match=refusal("dropout_rate", "0.2") + "0, .*: with dropout one"):
            model(dropout_rate=0.2)

    def test_a_goal_without_its_level(self):
        with pytest.raises(ValueError, match=refusal("goal", "a value")):
            model()(S, "meta", G)

    @pytest.mark.parametrize("part", ["policy.bias", "value.bias"])
    def test_a_network_whose_weights_are_no_numbers_does_not_act(self, part):
        luck = torch.random.get_rng_state()
        for level, asked in {
            "meta": (
                lambda network: network(S),
                lambda network: network.goal_probabilities(S),
                lambda network: network.get_goal(S),
                lambda network: network.get_hierarchical_action(S, deterministic=True),
                lambda network: network.evaluate_goals(S, G),
            ),
            "controllers": (
                lambda network: network(S, "task", G),
                lambda network: network.action_probabilities(S, G),
                lambda network: network.get_action(S, G),
                lambda network: network.get_hierarchical_action(S, goal=G),
                lambda network: network.evaluate_actions(S, G, A),
            ),
        }.items():
            broken = model()
            torch.nn.init.constant_(broken.get_parameter(f"{level}.{part}"), math.nan)
            for ask in asked:
                with pytest.raises(ValueError, match=refusal("weights", "NaN") + f".*{level}.{part}"):
                    ask(broken)
        assert torch.equal(torch.random.get_rng_state(), luck)

    def test_an_action_of_another_goal_says_which(self):
        asked = S, torch.tensor([1, 0, 2, 0]), torch.tensor([4, 2, 2, 1])
        with pytest.raises(ValueError, match=r"^actions: got 2 in row 1, expected 0 to 1 under goal 0$"):
            model().evaluate_actions(*asked)
        named = model(counts=dict(zip(("home page", "search", "push"), COUNTS, strict=True)))
        with pytest.raises(ValueError, match=r"^actions: got 2 in row 1, expected 0 to 1 under goal 'home page'$"):
            named.evaluate_actions(*asked)

    @pytest.mark.parametrize(
        ("luck", "came"),
        [
            ({"uniform": torch.ones(4, 8, dtype=torch.float64)}, "from 1 to 1"),
            ({"uniform": torch.zeros(4, 8, dtype=torch.float64), "generator": seeded()}, "generator"),
        ],
    )
    def test_luck(self, luck, came):
        with pytest.raises(ValueError, match=refusal("uniform", came)):
            model().get_hierarchical_action(S, **luck)

    def test_a_refused_goal_draws_nothing(self):
        generator = seeded()
        before = generator.get_state()
        with pytest.raises(ValueError, match=refusal("goal")):
            model().get_hierarchical_action(S, goal=G + 3, generator=generator)
        assert torch.equal(generator.get_state(), before)
