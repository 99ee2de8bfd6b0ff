"""The distilled Q-network against PyTorch's attention, loops, closed forms, a solved decision process; and mistakes."""

import math
import re
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax
from scipy.stats import chisquare
from torch import nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F

from recmtl_lessons.models.distilled_q import (
    MultiTaskDistilledQNetwork,
    distillation_loss,
    double_q_target,
    epsilon_greedy,
    q_loss,
    q_value_scale,
    td_errors,
)

ACTIONS = {"home": 5, "search.top": 3, "push notes": 2}
TASKS = tuple(ACTIONS)
WIDTH = 6


def draws(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=draws(seed), dtype=dtype)


def network(seed=0, dtype=torch.float64, **changed):
    arguments = {"state_dim": WIDTH, "action_dims": ACTIONS, "shared_dims": (10, 8), "task_dims": (7,), "num_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MultiTaskDistilledQNetwork(**{**arguments, **changed}).to(dtype)


def opinionated(**changed):
    """A network whose queries and keys are large enough for its weights to be far from equal."""
    made = network(**changed)
    with torch.no_grad():
        made.to_query.weight.mul_(2)
        made.to_key.weight.mul_(2)
    return made


def refusal(name, came=""):
    """Pattern of a message that names the argument, what came and what was expected."""
    return rf"^{re.escape(name)}: got .*{came}.*expected "


def pytorchs_attention(made):
    """The module of PyTorch's that has a network's attention, with its weights."""
    width = made.to_value.weight.shape[0]
    theirs = nn.MultiheadAttention(width, made.num_heads, bias=False, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        ours = [made.to_query.weight, made.to_key.weight, made.to_value.weight]
        theirs.in_proj_weight.copy_(torch.cat(ours))
        theirs.out_proj.weight.copy_(made.to_output.weight)
    return theirs


class TestNetwork:
    @pytest.mark.parametrize("heads", [1, 2, 4, 8])
    def test_is_pytorchs_attention_over_the_tasks(self, heads):
        made, state = opinionated(num_heads=heads), normal(9, WIDTH)
        trunk = made.trunk(state)
        tokens = torch.stack([F.relu(made.to_token(trunk) + made.task_embeddings[k]) for k in range(3)], dim=1)
        attended, weights = pytorchs_attention(made)(tokens, tokens, tokens, average_attn_weights=False)
        torch.testing.assert_close(made.attention_weights(state), weights, rtol=0, atol=1e-12)
        for k, name in enumerate(TASKS):
            expected = made.heads[k]((tokens + attended)[:, k])
            torch.testing.assert_close(made(state, name), expected, rtol=0, atol=1e-12)
            assert float(expected.detach().std()) > 0.01

    @pytest.mark.parametrize("attention", [True, False])
    def test_a_task_named_or_all_of_them(self, attention, device):
        made, state = network(dtype=torch.float32, attention=attention).to(device), normal(33, WIDTH).float().to(device)
        everything = made(state)
        assert {name: tuple(q.shape) for name, q in everything.items()} == {n: (33, a) for n, a in ACTIONS.items()}
        for name, q_values in everything.items():
            torch.testing.assert_close(made(state, name), q_values, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("attention", [True, False])
    @pytest.mark.parametrize("asked", [("home", "search.top", "push notes"), ("push notes", "home"), ("search.top",)])
    def test_each_task_in_states_of_its_own(self, attention, asked, device):
        made = opinionated() if attention else network(attention=False)
        made = made.to(device)
        states = {name: normal(3 + k, WIDTH, seed=k).to(device) for k, name in enumerate(asked)}  # 3, 4 and 5 of them
        found = made.answer_own(states)
        expected = {name: made(own, name) for name, own in states.items()}
        assert list(found) == list(asked)
        for name in asked:
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-12)
        gradients = []
        for answers in (found, expected):
            made.zero_grad()
            sum(q.square().sum() for q in answers.values()).backward()
            gradients.append({name: p.grad for name, p in made.named_parameters()})
        for name, gradient in gradients[1].items():
            assert (gradient is None) == (name.startswith("heads.") and TASKS[int(name[6])] not in asked), name
            torch.testing.assert_close(gradients[0][name], gradient, rtol=0, atol=1e-12)

    def test_one_task_alone_in_its_own_states(self):
        made, state = network(action_dims={"home": 4}), normal(3, WIDTH)
        torch.testing.assert_close(made.answer_own({"home": state})["home"], made(state, "home"), rtol=0, atol=1e-12)

    def test_the_weights_differ_by_task_and_by_state(self):
        made = opinionated()
        weights = made.attention_weights(normal(50, WIDTH)).detach()
        assert weights.shape == (50, 2, 3, 3)
        torch.testing.assert_close(weights.sum(-1), torch.ones(50, 2, 3, dtype=torch.float64), rtol=0, atol=1e-12)
        assert float(weights.min()) >= 0
        assert float(weights.std(dim=0).mean()) > 0.01  # over states
        assert float((weights[:, :, 0] - weights[:, :, 1]).abs().mean()) > 0.01  # over tasks

    def test_weights_differ_already_at_the_start(self):
        weights = MultiTaskDistilledQNetwork(WIDTH, ACTIONS).attention_weights(normal(50, WIDTH).float())
        assert float(weights.detach().std(dim=0).max()) > 1e-4
        assert float((weights[:, :, 0] - weights[:, :, 1]).detach().abs().max()) > 1e-4

    def test_rows_of_a_batch_do_not_meet(self):
        made, state = opinionated(), normal(12, WIDTH)
        together = made(state, "home")
        for row in range(12):  # each also is a batch of 1
            torch.testing.assert_close(made(state[row : row + 1], "home")[0], together[row], rtol=0, atol=1e-12)

    def test_what_a_task_answers_depends_on_the_others(self):
        state = normal(8, WIDTH)
        for attention in (True, False):
            made = network(attention=attention)
            made(state, "home").sum().backward()
            reached = made.task_embeddings.grad.abs().amax(dim=1) > 1e-6
            assert reached.tolist() == [True, attention, attention]

    def test_each_task_has_layers_of_its_own(self):
        made = network()
        made(normal(8, WIDTH), "search.top").sum().backward()
        assert [head[0].weight.grad is not None for head in made.heads] == [False, True, False]
        assert all(p.grad is not None for n, p in made.named_parameters() if not n.startswith("heads."))

    def test_the_order_of_the_tasks_does_not_matter(self):
        made, order, state = opinionated(), [2, 0, 1], normal(7, WIDTH)
        other = network(seed=1, action_dims={TASKS[k]: ACTIONS[TASKS[k]] for k in order})
        other.load_state_dict(made.state_dict())
        for name in TASKS:
            torch.testing.assert_close(other(state, name), made(state, name), rtol=0, atol=1e-12)
        expected = made.attention_weights(state)[:, :, order][..., order]
        torch.testing.assert_close(other.attention_weights(state), expected, rtol=0, atol=1e-12)

    def test_the_ablation_is_the_same_network_with_the_identity_for_weights(self):
        made, ablated, state = network(), network(attention=False), normal(7, WIDTH)
        kept = dict(made.named_parameters())
        assert set(kept) - set(dict(ablated.named_parameters())) == {"to_query.weight", "to_key.weight"}
        assert all(torch.equal(value, kept[name]) for name, value in ablated.named_parameters())
        # Each looks at itself alone: at the place in the sequence where the same token stands.
        made._weights = lambda looking, tokens: (
            (looking[:, :, None] == tokens[:, None]).all(-1).to(tokens)[:, None].expand(-1, 2, -1, -1)
        )
        for name in TASKS:
            torch.testing.assert_close(ablated(state, name), made(state, name), rtol=0, atol=1e-12)
        assert torch.equal(ablated.attention_weights(state), torch.eye(3, dtype=torch.float64).expand(7, 2, 3, 3))
        assert float((network()(state, "home") - ablated(state, "home")).detach().abs().max()) > 1e-3

    def test_one_task_has_nothing_to_attend_to(self):
        made = network(action_dims={"home": 4})
        assert not made.attention
        assert made.to_query is None
        assert made.attention_weights(normal(3, WIDTH)).flatten().tolist() == [1.0] * 6
        assert made(normal(3, WIDTH))["home"].shape == (3, 4)

    @given(
        st.lists(st.integers(1, 6), min_size=1, max_size=4),
        st.integers(1, 3),
        st.integers(1, 3),
        st.lists(st.integers(1, 6), max_size=2),
        st.integers(1, 5),
    )
    @settings(max_examples=40)
    def test_shapes(self, actions, heads, per_head, task_dims, rows):
        dims = {f"task {k}": n for k, n in enumerate(actions)}
        made = network(action_dims=dims, shared_dims=(heads * per_head,), task_dims=tuple(task_dims), num_heads=heads)
        state = normal(rows, WIDTH)
        assert {name: tuple(q.shape) for name, q in made(state).items()} == {n: (rows, a) for n, a in dims.items()}
        assert made.attention_weights(state).shape == (rows, heads, len(dims), len(dims))

    def test_goes_through_a_state_dict(self):
        made, other, state = network(), network(seed=1), normal(4, WIDTH)
        assert not torch.equal(made(state, "home"), other(state, "home"))
        other.load_state_dict(made.state_dict())
        for name, q_values in made(state).items():
            assert torch.equal(other(state, name), q_values)

    def test_its_defaults(self):
        made = MultiTaskDistilledQNetwork(WIDTH, ACTIONS)
        assert (made.trunk[0].out_features, made.trunk[2].out_features) == (256, 128)
        assert made.heads[0][0].out_features == 64
        assert (made.num_heads, made.distillation_weight, made.attention) == (4, 0.5, True)


class TestScale:
    @given(st.integers(1, 6), st.integers(2, 6), st.integers(0, 99))
    def test_is_the_spread_over_actions(self, rows, actions, seed):
        q_values = 3 * normal(rows, actions, seed=seed) + 50 * normal(rows, 1, seed=seed + 1)
        total = 0.0
        for row in q_values.tolist():
            mean = sum(row) / actions
            total += sum((q - mean) ** 2 for q in row)
        found = q_value_scale(q_values)
        assert float(found) == pytest.approx(math.sqrt(total / (rows * actions)), rel=1e-9)
        torch.testing.assert_close(q_value_scale(0.01 * q_values + 7), 0.01 * found, rtol=1e-9, atol=0)

    @pytest.mark.parametrize("q_values", [torch.full((4, 3), 0.1), torch.zeros(2, 2), 1e6 * normal(5, 1).float()])
    def test_without_a_spread_it_is_1(self, q_values):
        assert float(q_value_scale(q_values)) == 1.0
        loss = distillation_loss(q_values + torch.arange(q_values.shape[1]), q_values)
        assert math.isfinite(float(loss))

    @pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 3e4), (torch.float32, 1e-37), (torch.float32, 1e38)])
    def test_values_of_any_size_have_one(self, dtype, size):
        q_values = normal(6, 4).clamp(-3, 3) / 3
        found = q_value_scale((size * q_values).to(dtype))
        assert float(found) == pytest.approx(size * float(q_value_scale(q_values)), rel=1e-3)

    def test_no_gradient_goes_there(self):
        assert not q_value_scale(normal(4, 3).requires_grad_()).requires_grad


class TestDistillationLoss:
    @pytest.mark.parametrize("temperature", [0.05, 0.5, 1.0, 4.0])
    @pytest.mark.parametrize("scale", [None, 1.0, 3.0])
    def test_is_scipys_divergence(self, temperature, scale):
        student, teacher = normal(6, 4), 2 * normal(6, 4, seed=1)
        used = float(q_value_scale(teacher)) if scale is None else scale
        expected, found = (softmax(q.numpy() / used / temperature, axis=1) for q in (teacher, student))
        divergence = sum(rel_entr(p, q).sum() for p, q in zip(expected, found, strict=True)) / 6
        loss = distillation_loss(student, teacher, temperature, scale)
        assert float(loss) == pytest.approx(temperature**2 * divergence, rel=1e-8)
        assert float(loss) > 1e-3

    def test_its_gradient_is_the_difference_of_the_probabilities(self):
        student, teacher = normal(6, 4).requires_grad_(), normal(6, 4, seed=1).requires_grad_()
        distillation_loss(student, teacher, temperature=2.0, scale=0.7).backward()
        expected = ((student / 1.4).softmax(1) - (teacher / 1.4).softmax(1)) * 2.0**2 / 1.4 / 6
        torch.testing.assert_close(student.grad, expected.detach(), rtol=0, atol=1e-12)
        assert teacher.grad is None

    def test_what_a_state_is_worth_does_not_matter(self):
        student, teacher = normal(6, 4), normal(6, 4, seed=1)
        moved = distillation_loss(student + 30 * normal(6, 1, seed=2), teacher + 30 * normal(6, 1, seed=3))
        torch.testing.assert_close(moved, distillation_loss(student, teacher), rtol=1e-9, atol=0)

    def test_the_unit_of_the_reward_does_not_matter(self):
        student, teacher = normal(6, 4), normal(6, 4, seed=1)
        expected = distillation_loss(student, teacher, 0.3)
        torch.testing.assert_close(distillation_loss(1000 * student, 1000 * teacher, 0.3), expected)
        unscaled = distillation_loss(1000 * student, 1000 * teacher, 0.3, scale=1.0)
        assert not 0.1 < float(unscaled / expected) < 10

    def test_is_0_for_the_teachers_own_values_alone(self):
        teacher = normal(6, 4)
        assert float(distillation_loss(teacher.clone(), teacher)) == pytest.approx(0.0, abs=1e-15)
        assert float(distillation_loss(1.1 * teacher, teacher)) > 1e-4

    def test_at_high_temperature_it_is_half_the_squared_difference(self):
        student, teacher = normal(6, 4), normal(6, 4, seed=1)
        apart = (student - teacher) / q_value_scale(teacher)
        expected = (apart - apart.mean(1, keepdim=True)).square().mean() / 2
        found = distillation_loss(student, teacher, 1e4)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)

    def test_at_low_temperature_only_the_best_action_counts(self):
        student, temperature = normal(6, 4), 0.002
        teacher = normal(6, 4, seed=1).argsort(dim=1).double()  # no two nearly equal
        found = distillation_loss(student, teacher, temperature, scale=1.0) / temperature**2
        expected = F.cross_entropy(student / temperature, teacher.argmax(1))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)

    def test_sharpened_beyond_what_floats_hold_it_stays_finite(self):
        student, teacher = (100 * normal(6, 4, seed=1)).float().requires_grad_(), normal(6, 4)
        loss = distillation_loss(student, teacher, 1e-4)
        loss.backward()
        assert math.isfinite(float(loss.detach()))
        assert torch.isfinite(student.grad).all()

    def test_the_networks_own_is_the_same(self):
        made, state = network(), normal(6, WIDTH)
        for name, actions in ACTIONS.items():
            teacher = normal(6, actions, seed=2)
            for options in ({}, {"temperature": 2.0}, {"temperature": torch.tensor(0.5), "scale": torch.tensor(3.0)}):
                found = made.compute_distillation_loss(state, name, teacher, **options)
                torch.testing.assert_close(found, distillation_loss(made(state, name), teacher, **options))

    def test_probabilities_are_those_compared(self):
        made, state = network(), normal(6, WIDTH)
        found = made.action_probabilities(state, "home", temperature=0.5, scale=0.2)
        torch.testing.assert_close(found, (made(state, "home") / 0.1).softmax(1).detach())
        assert not found.requires_grad


class TestClassicMistakes:
    """Each is built as it is often met, and seen to fail where ours does not."""

    @staticmethod
    def gradients(attend, tokens):
        """The largest gradient of query, key and value, for attention in PyTorch's own module."""
        mixed, _ = attend(tokens, tokens, tokens)
        mixed.square().sum().backward()
        return [float(part.abs().max()) for part in attend.in_proj_weight.grad.chunk(3)]

    def test_attention_over_a_sequence_of_length_1(self):
        shared = network().trunk(normal(16, WIDTH)).detach()
        attend = nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64)
        query, key, value = self.gradients(attend, shared.unsqueeze(1))
        assert (query, key) == (0.0, 0.0)  # exactly: they will never learn
        assert value > 1e-3

    def test_attention_over_copies_of_one_vector(self):
        shared = network().trunk(normal(16, WIDTH)).detach()
        attend = nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64)
        query, key, value = self.gradients(attend, shared.unsqueeze(1).expand(-1, 3, -1))
        assert max(query, key) < 1e-14 * 1e3 * value
        assert value > 1e-3

    def test_ours_has_gradients_for_query_and_key(self):
        made = network()
        sum(q.square().sum() for q in made(normal(16, WIDTH)).values()).backward()
        assert all(float(layer.weight.grad.abs().max()) > 1e-4 for layer in (made.to_query, made.to_key))

    def test_without_the_square_of_the_temperature(self):
        def gradient(temperature, factor):
            student = normal(6, 4).requires_grad_()
            loss = distillation_loss(student, normal(6, 4, seed=1), temperature) * factor
            return float(torch.autograd.grad(loss, student)[0].norm())

        assert gradient(80.0, 1.0) / gradient(20.0, 1.0) == pytest.approx(1.0, rel=0.05)
        broken = gradient(80.0, 80.0**-2) / gradient(20.0, 20.0**-2)
        assert broken == pytest.approx(1 / 16, rel=0.05)  # (20 / 80)^2

    @pytest.mark.parametrize("actions", [2, 5, 9])
    def test_a_mean_over_actions_too(self, actions):
        student, teacher = normal(6, actions), normal(6, actions, seed=1)
        with warnings.catch_warnings(action="ignore"):  # PyTorch itself warns of it
            broken = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="mean")
        assert float(distillation_loss(student, teacher, scale=1.0) / broken) == pytest.approx(actions, rel=1e-9)

    def test_a_time_limit_taken_for_an_end(self):
        """One state, reward 1 for ever, cut after each step: its value is 1 / (1 - g), not 1."""
        cut, value = torch.ones(1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.float64)
        broken = value
        for _ in range(400):
            value = double_q_target(torch.ones(1), value, value, torch.zeros_like(cut), 0.9)[:, None]
            broken = double_q_target(torch.ones(1), broken, broken, cut, 0.9)[:, None]
        assert float(value) == pytest.approx(10.0, rel=1e-9)
        assert float(broken) == 1.0

    def test_one_network_to_choose_and_to_rate(self):
        """All true values are 0: the higher of two noisy ones is 1 / sqrt(pi) on average, the other's answer is 0."""
        one, other = normal(40_000, 2), normal(40_000, 2, seed=1)
        nothing, never = torch.zeros(40_000), torch.zeros(40_000, dtype=torch.bool)
        single = double_q_target(nothing, one, one, never, 1.0).mean()
        double = double_q_target(nothing, one, other, never, 1.0).mean()
        assert float(single) == pytest.approx(1 / math.sqrt(math.pi), abs=4 / math.sqrt(40_000))
        assert float(double) == pytest.approx(0.0, abs=4 / math.sqrt(40_000))


def decision_process(states=5, actions=3, seed=0):
    """A step for each state and action: reward, next state, and whether the session ends there."""
    generator = draws(seed)
    rewards = torch.randn(states, actions, generator=generator, dtype=torch.float64)
    following = torch.randint(states, (states, actions), generator=generator)
    return rewards, following, torch.rand(states, actions, generator=generator) < 0.3


def solved(rewards, following, ends, discount):
    """Optimal Q-values: every policy's value by a linear system, the best kept."""
    states, actions = rewards.shape
    best = torch.full((states,), -math.inf, dtype=torch.float64)
    for code in range(actions**states):
        policy = [code // actions**s % actions for s in range(states)]
        move = torch.zeros(states, states, dtype=torch.float64)
        for s, a in enumerate(policy):
            if not ends[s, a]:
                move[s, following[s, a]] = discount
        gained = torch.stack([rewards[s, a] for s, a in enumerate(policy)])
        best = torch.maximum(best, torch.linalg.solve(torch.eye(states, dtype=torch.float64) - move, gained))
    return rewards + discount * (~ends).double() * best[following]


class TestTargets:
    def test_against_a_loop(self):
        rewards, online, target = normal(20), normal(20, 4, seed=1), normal(20, 4, seed=2)
        ends = normal(20, seed=3) > 0
        found = double_q_target(rewards, online, target, ends, 0.9).tolist()
        for row, value in enumerate(found):
            best = max(range(4), key=lambda a, row=row: float(online[row, a]))
            expected = float(rewards[row]) + (0.0 if ends[row] else 0.9 * float(target[row, best]))
            assert value == pytest.approx(expected, abs=1e-12)
        assert 0 < int(ends.sum()) < 20
        torch.testing.assert_close(
            double_q_target(rewards, online, target, ends.float(), torch.tensor(0.9)).float(), torch.tensor(found)
        )

    @pytest.mark.parametrize("seed", range(3))
    def test_iterated_they_solve_a_decision_process(self, seed):
        rewards, following, ends = decision_process(seed=seed)
        assert ends.any()
        assert not ends.all()
        q_values = torch.zeros_like(rewards)
        for _ in range(400):
            after = q_values[following.flatten()]
            q_values = double_q_target(rewards.flatten(), after, after, ends.flatten(), 0.9).view_as(rewards)
        torch.testing.assert_close(q_values, solved(rewards, following, ends, 0.9), rtol=0, atol=1e-10)

    def test_no_gradient_goes_there(self):
        online, target = normal(3, 2).requires_grad_(), normal(3, 2).requires_grad_()
        assert not double_q_target(normal(3), online, target, torch.zeros(3), 0.9).requires_grad

    def test_two_tasks_are_learned_by_one_network(self):
        """From all steps of two decision processes at once, with a target network that follows now and then."""
        processes = {"home": decision_process(seed=0), "search": decision_process(seed=1)}
        made = network(state_dim=5, action_dims=dict.fromkeys(processes, 3), shared_dims=(32, 32), task_dims=(32,))
        states, optimizer = torch.eye(5, dtype=torch.float64), torch.optim.Adam(made.parameters(), lr=5e-3)
        rows, actions = states.repeat_interleave(3, dim=0), torch.arange(3).repeat(5)
        after = {name: states[following.flatten()] for name, (_, following, _) in processes.items()}
        for step in range(150):
            with torch.no_grad():
                online = made.answer_own(after)
            if step % 10 == 0:
                target = online
            found, loss = made.answer_own(dict.fromkeys(processes, rows)), torch.zeros(())
            for name, (rewards, _, ends) in processes.items():
                wanted = double_q_target(rewards.flatten(), online[name], target[name], ends.flatten(), 0.6)
                loss = loss + q_loss(found[name], actions, wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for name, process in processes.items():
            expected = solved(*process, 0.6)
            torch.testing.assert_close(made(states, name).detach(), expected, rtol=0, atol=0.1)
            assert float(expected.std()) > 0.5
            assert float((expected - process[0]).abs().max()) > 0.5  # what comes later counts


class TestQLoss:
    def test_against_a_loop(self):
        q_values, targets, weights = 2 * normal(30, 4), normal(30, seed=1), normal(30, seed=2).abs()
        actions = torch.randint(4, (30,), generator=draws(3))
        total, plain, sizes = 0.0, 0.0, set()
        for row in range(30):
            error = abs(float(targets[row] - q_values[row, actions[row]]))
            huber = error**2 / 2 if error <= 1 else error - 0.5
            total, plain = total + float(weights[row]) * huber, plain + huber
            sizes.add(error <= 1)
        assert sizes == {True, False}
        assert float(q_loss(q_values, actions, targets, weights)) == pytest.approx(total / 30, abs=1e-12)
        assert float(q_loss(q_values, actions.to(torch.uint8), targets)) == pytest.approx(plain / 30, abs=1e-12)

    def test_its_gradient_is_the_clipped_error_where_an_action_was_taken(self):
        q_values, targets = (3 * normal(10, 4)).requires_grad_(), normal(10, seed=1).requires_grad_()
        actions = torch.randint(4, (10,), generator=draws(2))
        q_loss(q_values, actions, targets).backward()
        errors = td_errors(q_values, actions, targets).detach()
        expected = torch.zeros(10, 4, dtype=torch.float64)
        expected[torch.arange(10), actions] = -errors.clamp(-1, 1) / 10
        torch.testing.assert_close(q_values.grad, expected, rtol=0, atol=1e-12)
        assert targets.grad is None
        assert float(errors.abs().max()) > 1

    def test_the_mixture(self):
        made, state = network(distillation_weight=0.3), normal(8, WIDTH)
        actions, targets, weights = torch.arange(8) % 5, normal(8, seed=1), normal(8, seed=2).abs()
        teacher = normal(8, 5, seed=3)
        td = q_loss(made(state, "home"), actions, targets, weights)
        distillation = made.compute_distillation_loss(state, "home", teacher, 2.0)
        for given_, share in ((None, 0.3), (0.0, 0.0), (1.0, 1.0), (torch.tensor(0.7), 0.7)):
            loss, parts = made.loss(
                state, "home", actions, targets, teacher, 2.0, weights=weights, distillation_weight=given_
            )
            torch.testing.assert_close(loss, (1 - share) * td + share * distillation)
            assert torch.equal(parts["td"], td)
            assert torch.equal(parts["distillation"], distillation)
        assert abs(float((td - distillation).detach())) > 0.01

    def test_a_student_comes_to_act_as_its_teachers(self):
        student = network(dtype=torch.float32, shared_dims=(32, 16), num_heads=4)
        teachers = {name: nn.Linear(WIDTH, actions) for name, actions in ACTIONS.items()}
        for k, teacher in enumerate(teachers.values()):
            nn.init.normal_(teacher.weight, generator=draws(k))
        optimizer, test = torch.optim.Adam(student.parameters(), lr=0.01), normal(500, WIDTH, seed=10_000).float()

        def agreement():
            return [
                float((student.greedy_action(test, n) == t(test).argmax(1)).float().mean()) for n, t in teachers.items()
            ]

        before = agreement()
        for step in range(150):
            state = normal(64, WIDTH, seed=step).float()
            found = student(state)
            loss = sum(distillation_loss(found[n], t(state), 0.5) for n, t in teachers.items())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert min(before) < 0.7
        assert min(agreement()) > 0.85


class TestActing:
    def test_greedy_is_the_best_and_the_first_of_equals(self):
        made, state = network(seed=1), 20 * normal(40, WIDTH)
        expected = [max(range(5), key=row.__getitem__) for row in made(state, "home").tolist()]
        assert made.greedy_action(state, "home").tolist() == expected
        assert len(set(expected)) > 1
        assert epsilon_greedy(torch.tensor([[1.0, 2.0, 2.0]]), 0.0).tolist() == [1]

    @pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, torch.tensor(0.3)])
    def test_epsilon_is_the_share_of_chance(self, epsilon):
        q_values = torch.tensor([0.0, 3.0, 1.0, 2.0]).expand(4, 5_000, 4)
        actions = epsilon_greedy(q_values, epsilon, draws(0))
        assert actions.shape == (4, 5_000)
        chance = float(epsilon)
        expected = torch.full((4,), chance / 4) + torch.tensor([0.0, 1 - chance, 0.0, 0.0])
        counts = torch.bincount(actions.flatten(), minlength=4)
        assert not counts[expected == 0].any()
        seen = expected > 0
        if seen.sum() > 1:
            assert chisquare(counts[seen].numpy(), (20_000 * expected[seen]).double().numpy()).pvalue > 1e-3
        else:
            assert counts[1] == 20_000

    def test_act_is_that_and_the_generator_decides(self, device):
        made, state = network().to(device), normal(200, WIDTH).to(device)
        found = made.act(state, "home", 0.5, draws(3))
        assert torch.equal(found, epsilon_greedy(made(state, "home"), 0.5, draws(3)))
        assert torch.equal(found.cpu(), made.cpu().act(state.cpu(), "home", 0.5, draws(3)))
        assert not torch.equal(found.cpu(), made.act(state.cpu(), "home", 0.5, draws(4)))
        assert torch.equal(made.act(state.cpu(), "home", 0.0), made.greedy_action(state.cpu(), "home"))


class Asked(nn.Module):
    """Lets `functional_call` run any function of the network."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, function, *arguments):
        return function(self.inside, *arguments)


class TestManyAtOnce:
    @pytest.mark.parametrize("attention", [True, False])
    def test_vmap_is_one_after_another(self, attention, device):
        models = [Asked(network(seed=s, attention=attention)).to(device) for s in range(3)]
        stacked = stack_module_state(models)
        settings_ = [
            torch.tensor(values, dtype=torch.float64, device=device)
            for values in ([0.5, 1.0, 4.0], [0.0, 0.5, 1.0], [0.9, 0.5, 0.0])
        ]
        state, after = normal(3, 8, WIDTH).to(device), normal(3, 8, WIDTH, seed=1).to(device)
        rewards, teacher = normal(3, 8, seed=2).to(device), normal(3, 8, 3, seed=3).to(device)
        ends = normal(3, 8, seed=4).to(device) > 0
        actions = torch.randint(3, (3, 8), generator=draws(5)).to(device)
        weights = normal(3, 8, seed=6).abs().to(device)

        def asked(model, state, after, rewards, ends, actions, weights, teacher, temperature, share, discount):
            follow = model(after, "search.top")
            targets = double_q_target(rewards, follow, 2 * follow.sin(), ends, discount)
            loss, _ = model.loss(state, "search.top", actions, targets, teacher, temperature, None, weights, share)
            own = model.answer_own({"home": state, "push notes": after})["push notes"]
            return loss, model.attention_weights(state), model.greedy_action(state, "home"), model(state)["home"], own

        arguments = (state, after, rewards, ends, actions, weights, teacher, *settings_)
        parameters = {name: value.detach().requires_grad_() for name, value in stacked[0].items()}
        together = torch.vmap(lambda p, b, *given_: functional_call(models[0], (p, b), (asked, *given_)))(
            parameters, stacked[1], *arguments
        )
        together[0].sum().backward()
        for s, model in enumerate(models):
            alone = model(asked, *(a[s] for a in arguments))
            for one, many in zip(alone, together, strict=True):
                torch.testing.assert_close(many[s], one, rtol=0, atol=1e-10)
            alone[0].backward()
            for name, value in model.named_parameters():
                found = parameters[name].grad
                assert (found is None) == (value.grad is None), name  # None: the heads of other tasks
                if found is not None:
                    torch.testing.assert_close(found[s], value.grad, rtol=0, atol=1e-10)
        assert float(together[0].detach().std()) > 1e-3


STATE, TEACHER, Q = normal(4, WIDTH), normal(4, 5), normal(4, 3)
TAKEN, TARGETS = torch.tensor([0, 1, 2, 0]), normal(4)


class TestBadInput:
    """What the table of refusals does not say."""

    @pytest.mark.parametrize("action_dims", [[3], {"": 3}, {1: 3}])
    def test_tasks_without_a_name(self, action_dims):
        with pytest.raises(ValueError, match=refusal("action_dims")):
            network(action_dims=action_dims)

    def test_the_width_that_the_heads_do_not_divide(self):
        with pytest.raises(ValueError, match=r"got a last width of 10, expected one that num_heads=4 divides"):
            network(shared_dims=(8, 10), num_heads=4)

    def test_dropout_is_refused_with_the_reason(self):
        with pytest.raises(ValueError, match=refusal("dropout_rate", "0.2") + "0, .*: with dropout one"):
            network(dropout_rate=0.2)

    @pytest.mark.parametrize("name", ["shop", "", 3, None])
    def test_own_states_of_an_unknown_task(self, name):
        with pytest.raises(ValueError, match=refusal("states", re.escape(repr(name)))):
            network().answer_own({"home": STATE, name: STATE})

    @pytest.mark.parametrize("part", ["trunk.0.weight", "task_embeddings", "to_output.weight"])
    def test_a_network_whose_weights_are_no_numbers_does_not_act(self, part):
        made = network()
        with torch.no_grad():
            made.get_parameter(part).view(-1)[-1] = math.nan
        for call in (
            lambda: made(STATE),
            lambda: made(STATE, "home"),
            lambda: made.answer_own({"home": STATE, "push notes": STATE}),
            lambda: made.greedy_action(STATE, "home"),
            lambda: made.act(STATE, "home", 0.1),
            lambda: made.action_probabilities(STATE, "home"),
            lambda: made.loss(STATE, "home", TAKEN, TARGETS, TEACHER),
        ):
            with pytest.raises(ValueError, match=refusal("weights", "NaN") + f".*{re.escape(part)}"):
                call()

    def test_weights_are_at_least_0(self):
        with pytest.raises(ValueError, match=refusal("weights", "-0.5")):
            q_loss(Q, TAKEN, TARGETS, torch.tensor([1.0, 0.0, -0.5, 2.0]))

    @pytest.mark.parametrize(("name", "value"), [("temperature", 1e-300), ("scale", 1e-300), ("temperature", 1e300)])
    def test_settings_out_of_all_measure_are_named(self, name, value):
        with pytest.raises(ValueError, match=refusal(name, re.escape(f"{value:g}"))):
            distillation_loss(TEACHER.float(), TEACHER.float() + 1, **{name: value})
