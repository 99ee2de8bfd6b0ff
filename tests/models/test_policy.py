"""The policy network, its returns and its losses against loops, closed forms and PyTorch's own distributions."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.distributions import Categorical
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F

from recmtl_lessons.models.policy import (
    MultiTaskPolicyNetwork,
    actor_critic_loss,
    gae,
    n_step_returns,
    ppo_loss,
)

ACTIONS = {"home page": 4, "search.ranking": 3, "notify": 6}
NAMES = tuple(ACTIONS)
STATE = 5


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def uniform(*shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def some_actions(rows, count, seed=0):
    return torch.randint(count, (rows,), generator=torch.Generator().manual_seed(seed))


def some_mask(rows, count, seed=0):
    mask = uniform(rows, count, seed=seed + 50) < 0.5
    mask[torch.arange(rows), torch.arange(rows) % count] = True
    return mask


def network(seed=0, dtype=torch.float64, sharp=True, **changed):
    """A small network; ``sharp`` gives it policies that are far from uniform, and biases that are not 0."""
    arguments = {"state_dim": STATE, "action_dims": ACTIONS, "shared_dims": (7, 6), "task_dims": (4,), **changed}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MultiTaskPolicyNetwork(**arguments)
        if sharp:
            with torch.no_grad():
                for name, value in model.named_parameters():
                    scale = 1.0 if name.endswith("bias") or name.startswith("policy_heads") else 0.5
                    value.add_(scale * torch.randn_like(value))
    return model.to(dtype)


def refusal(name, came=""):
    """Pattern of a message that names the argument, what came and what was expected."""
    return rf"^{re.escape(name)}: got .*{came}.*expected "


def assert_close(one, other, atol=1e-12):
    assert one.shape == other.shape
    assert float((one - other).detach().abs().max()) <= atol


class TestNetwork:
    @pytest.mark.parametrize("shared_dims", [(), (7,), [7, 6]])
    @pytest.mark.parametrize("task_dims", [(), [4], (4, 3)])
    def test_against_a_composition_by_hand(self, shared_dims, task_dims):
        model, states = network(shared_dims=shared_dims, task_dims=task_dims), normal(6, STATE)
        p = {name: value.detach() for name, value in model.named_parameters()}
        for number, (task, count) in enumerate(ACTIONS.items()):
            logits, value = model(states, task)
            assert logits.shape == (6, count)
            assert value.shape == (6,)
            for k, hidden in enumerate(states):
                layers = [f"shared.{2 * i}" for i in range(len(shared_dims))]
                layers += [f"task_trunks.{number}.{2 * i}" for i in range(len(task_dims))]
                for layer in layers:
                    hidden = torch.tanh(p[f"{layer}.weight"] @ hidden + p[f"{layer}.bias"])
                head = f"policy_heads.{number}"
                assert_close(logits[k], p[f"{head}.weight"] @ hidden + p[f"{head}.bias"])
                head = f"value_heads.{number}"
                assert_close(value[k], p[f"{head}.weight"][0] @ hidden + p[f"{head}.bias"][0])

    def test_the_first_weights(self):
        model = network(sharp=False)
        gains = {"shared": math.sqrt(2), "task_trunks": math.sqrt(2), "policy_heads": 0.01, "value_heads": 1.0}
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                assert not value.any()
                continue
            short = value if value.shape[0] <= value.shape[1] else value.T  # orthonormal along the shorter side
            gain = gains[name.split(".")[0]]
            assert_close(short @ short.T, gain**2 * torch.eye(len(short), dtype=value.dtype), 1e-6 * gain**2)

    def test_the_first_policy_is_nearly_uniform(self):
        model = network(sharp=False, shared_dims=(128, 64), task_dims=(32,))
        for task, count in ACTIONS.items():
            policy = model.action_probabilities(10 * normal(50, STATE), task)
            assert 0 < float((policy - 1 / count).detach().abs().max()) < 0.05 / count

    @settings(max_examples=40, deadline=None)
    @given(
        st.integers(1, 6),
        st.lists(st.integers(1, 5), min_size=1, max_size=4),
        st.lists(st.integers(1, 5), max_size=2),
        st.lists(st.integers(1, 5), max_size=2),
        st.integers(1, 7),
    )
    def test_shapes(self, state_dim, counts, shared_dims, task_dims, rows):
        action_dims = {f"task {k}": count for k, count in enumerate(counts)}
        model = network(state_dim=state_dim, action_dims=action_dims, shared_dims=shared_dims, task_dims=task_dims)
        states = normal(rows, state_dim)
        for task, count in action_dims.items():
            logits, value = model(states, task)
            action, log_prob = model.get_action(states, task)
            assert logits.shape == (rows, count)
            assert value.shape == action.shape == log_prob.shape == (rows,)
            assert action.dtype == torch.int64
            assert all(part.shape == (rows,) for part in model.evaluate_actions(states, task, action))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_batch_of_one_is_a_row_of_many(self, dtype, device):
        model, states = network(dtype=dtype).to(device), normal(5, STATE, dtype=dtype).to(device)
        mask, action = some_mask(5, 6).to(device), torch.arange(5, device=device)
        mask[torch.arange(5), action] = True
        together = (*model(states, "notify"), *model.evaluate_actions(states, "notify", action, mask))
        for k in range(5):
            one = slice(k, k + 1)
            alone = model.evaluate_actions(states[one], "notify", action[one], mask[one])
            for part, whole in zip((*model(states[one], "notify"), *alone), together, strict=True):
                assert part.dtype == dtype
                torch.testing.assert_close(part, whole[one])

    def test_state_dict_round_trip(self):
        one, other, states = network(seed=0), network(seed=1), normal(4, STATE)
        assert not torch.equal(one(states, "notify")[0], other(states, "notify")[0])
        other.load_state_dict(one.state_dict())
        for task in NAMES:
            assert all(torch.equal(a, b) for a, b in zip(one(states, task), other(states, task), strict=True))

    def test_what_is_shared_and_what_is_not(self):
        model = network()
        own = {task: model.task_parameters(task) for task in NAMES}
        parts = [model.shared_parameters(), *own.values()]
        names = [name for part in parts for name in part]
        assert sorted(names) == sorted(dict(model.named_parameters()))
        assert all(model.get_parameter(name) is value for part in parts for name, value in part.items())
        logits, value = model(normal(4, STATE), "search.ranking")
        (logits.square().sum() + value.sum()).backward()
        moved = {name for name, value in model.named_parameters() if value.grad is not None}
        assert moved == {*model.shared_parameters(), *own["search.ranking"]}
        assert all(float(model.get_parameter(name).grad.abs().max()) > 0 for name in moved)

    def test_without_shared_layers_nothing_is_shared(self):
        model = network(shared_dims=())
        assert model.shared_parameters() == {}
        assert len(model.task_parameters("notify")) * len(NAMES) == len(list(model.parameters()))

    def test_eleven_tasks_keep_their_parameters_apart(self):
        model = network(action_dims={f"t{k}": 2 for k in range(11)})
        names = [set(model.task_parameters(f"t{k}")) for k in range(11)]
        assert len(set().union(*names)) == sum(len(part) for part in names) == 11 * 6

    def test_the_mode_does_not_matter_and_the_ratio_is_one(self):
        model, states, action = network(), normal(200, STATE), some_actions(200, 6)
        learning = model.train().evaluate_actions(states, "notify", action)
        again = model.evaluate_actions(states, "notify", action)
        measured = model.eval().evaluate_actions(states, "notify", action)
        for one, other, third in zip(learning, again, measured, strict=True):
            assert torch.equal(one, other)
            assert torch.equal(one, third)
        assert torch.equal((learning[0] - again[0]).exp(), torch.ones(200, dtype=torch.float64))

    def test_dropout_would_move_the_ratio(self):
        """The classic mistake: dropout between the layers, and PPO's ratio is not 1 before the first step."""
        model, states, action = network().train(), normal(200, STATE), some_actions(200, 6)
        model.shared.append(torch.nn.Dropout(0.2))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            old, new = (model.evaluate_actions(states, "notify", action)[0] for _ in range(2))
        ratio = (new - old).exp().detach()
        assert float(ratio.std()) > 0.1
        assert float(((ratio - 1).abs() > 0.2).double().mean()) > 0.1  # clipped without having learned anything


class TestActions:
    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("task", NAMES)
    def test_is_pytorchs_categorical(self, task, masked, device):
        model, states, count = network().to(device), normal(40, STATE).to(device), ACTIONS[task]
        mask = some_mask(40, count).to(device) if masked else None
        logits, value = model(states, task)
        allowed = logits if mask is None else torch.where(mask, logits, torch.tensor(-math.inf).to(logits))
        expected = Categorical(logits=allowed)
        action, log_prob = model.get_action(states, task, mask=mask, generator=torch.Generator().manual_seed(0))
        assert_close(log_prob, expected.log_prob(action))
        found = model.evaluate_actions(states, task, action, mask)
        assert_close(found[0], expected.log_prob(action))
        assert_close(found[1], expected.entropy())
        assert torch.equal(found[2], value)
        policy = model.action_probabilities(states, task, mask)
        assert_close(policy, expected.probs)
        assert_close(policy.sum(1), torch.ones(40, dtype=policy.dtype, device=device))
        if masked:
            assert not policy[~mask].any()
            assert bool((~mask).any())

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("masked", [False, True])
    def test_actions_are_drawn_from_the_policy(self, masked, dtype, device):
        model, rows = network(dtype=dtype).to(device), 20_000
        states = normal(1, STATE, dtype=dtype).to(device).expand(rows, -1)
        mask = torch.tensor([True, True, False, True, False, True], device=device).expand(rows, -1) if masked else None
        action, _ = model.get_action(states, "notify", mask=mask, generator=torch.Generator().manual_seed(1))
        policy = model.action_probabilities(states[:1], "notify", mask if mask is None else mask[:1])[0]
        counts, expected = torch.bincount(action, minlength=6).cpu(), rows * policy.detach().double().cpu()
        assert int(counts[expected == 0].sum()) == 0
        kept = expected > 0
        assert float(expected[kept].min()) > 50
        assert chisquare(counts[kept], expected[kept] * (rows / expected[kept].sum())).pvalue > 1e-3
        others = torch.full_like(expected[kept], rows / int(kept.sum()))
        assert chisquare(counts[kept], others).pvalue < 1e-9  # the test can tell a wrong policy

    def test_rows_are_drawn_apart(self):
        model, states = network(sharp=False), normal(1, STATE).expand(4000, -1)
        action, _ = model.get_action(states, "home page", generator=torch.Generator().manual_seed(0))
        pairs = torch.bincount(4 * action[::2] + action[1::2], minlength=16)
        assert chisquare(pairs).pvalue > 1e-3

    @pytest.mark.parametrize("number", [0.0, 1 - 2**-53, 0.5])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_the_ends_of_the_uniform_numbers(self, number, dtype):
        """Equal numbers leave the most probable action; one 0 alone must not lift an excluded action."""
        model, states, mask = network(dtype=dtype), normal(30, STATE, dtype=dtype), some_mask(30, 6)
        number = min(number, 1 - torch.finfo(dtype).eps / 2)
        equal = torch.full((30, 6), number, dtype=dtype)
        action, log_prob = model.get_action(states, "notify", mask=mask, uniform=equal)
        assert torch.equal(action, model.get_action(states, "notify", deterministic=True, mask=mask)[0])
        assert torch.isfinite(log_prob).all()
        lifted = torch.where(mask, equal, 0.0)
        assert bool(mask.gather(1, model.get_action(states, "notify", mask=mask, uniform=lifted)[0][:, None]).all())

    def test_a_hundred_thousand_draws_respect_the_mask(self):
        model = network(dtype=torch.float32)
        states, mask = normal(100_000, STATE, dtype=torch.float32), some_mask(100_000, 6)
        action, log_prob = model.get_action(states, "notify", mask=mask, generator=torch.Generator().manual_seed(0))
        assert bool(mask.gather(1, action[:, None]).all())
        assert torch.isfinite(log_prob).all()

    def test_deterministic_is_the_most_probable_allowed_action(self):
        model, states, mask = network(), normal(40, STATE), some_mask(40, 6)
        logits = model(states, "notify")[0].detach()
        before = torch.random.get_rng_state()
        action, log_prob = model.get_action(states, "notify", deterministic=True, mask=mask)
        assert torch.equal(before, torch.random.get_rng_state())
        for k in range(40):
            allowed = [j for j in range(6) if mask[k, j]]
            assert int(action[k]) == max(allowed, key=lambda j, k=k: float(logits[k, j]))
        assert bool((action != logits.argmax(1)).any())
        assert torch.equal(log_prob, model.evaluate_actions(states, "notify", action, mask)[0])

    def test_of_equal_actions_the_first(self):
        model = network()
        torch.nn.init.zeros_(model.policy_heads[2].weight)
        torch.nn.init.zeros_(model.policy_heads[2].bias)
        mask = torch.tensor([[True] * 6, [False, False, True, False, True, True]])
        action, _ = model.get_action(normal(2, STATE), "notify", deterministic=True, mask=mask)
        assert action.tolist() == [0, 2]

    def test_the_generator_decides(self):
        model, states = network(), normal(60, STATE)
        before = torch.random.get_rng_state()
        one, other, third = (
            model.get_action(states, "notify", generator=torch.Generator().manual_seed(seed))[0] for seed in (3, 3, 4)
        )
        assert torch.equal(one, other)
        assert not torch.equal(one, third)
        assert torch.equal(before, torch.random.get_rng_state())
        handed = uniform(60, 6, seed=3)
        assert torch.equal(one, model.get_action(states, "notify", uniform=handed)[0])

    def test_without_one_it_is_torchs_own(self):
        model, states = network(), normal(60, STATE)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            one = model.get_action(states, "notify")[0]
            torch.manual_seed(5)
            assert torch.equal(one, model.get_action(states, "notify")[0])
            assert not torch.equal(one, model.get_action(states, "notify")[0])

    def test_gradients_in_closed_form_under_masks(self):
        """With respect to a head's bias, which is a gradient of logits: of log-probability 1_a - p, of entropy."""
        model, states, mask = network(), normal(1, STATE), torch.tensor([[True, False, True, True, False, True]])
        action = torch.tensor([2])
        p = model.action_probabilities(states, "notify", mask)[0].detach()
        log_prob, entropy, _ = model.evaluate_actions(states, "notify", action, mask)
        bias = model.policy_heads[2].bias
        found = torch.autograd.grad(log_prob.sum(), bias, retain_graph=True)[0]
        assert_close(found, F.one_hot(action[0], 6) - p)
        found = torch.autograd.grad(entropy.sum(), bias)[0]
        assert_close(found, torch.where(p > 0, -p * (torch.where(p > 0, p, 1.0).log() + entropy.detach()), 0.0))
        assert float(found.abs().max()) > 1e-3

    def test_one_allowed_action_is_certain(self):
        model, action = network(), some_actions(5, 6)
        mask = F.one_hot(action, 6).bool()
        drawn, log_prob = model.get_action(normal(5, STATE), "notify", mask=mask)
        assert torch.equal(drawn, action)
        assert not log_prob.detach().any()
        log_prob, entropy, _ = model.evaluate_actions(normal(5, STATE), "notify", action, mask)
        (log_prob + entropy).sum().backward()
        assert not entropy.detach().any()
        assert not model.policy_heads[2].weight.grad.any()  # finite, and 0: there was no choice

    def test_entropy_goes_from_zero_to_the_logarithm(self):
        model, states, action = network(), normal(30, STATE), torch.zeros(30, dtype=torch.int64)
        torch.nn.init.zeros_(model.policy_heads[0].weight)
        torch.nn.init.zeros_(model.policy_heads[0].bias)
        mask = torch.tensor([True, False, True, True]).expand(30, -1)
        flat = model.evaluate_actions(states, "home page", action)[1]
        assert_close(flat, torch.full((30,), math.log(4), dtype=torch.float64))
        flat = model.evaluate_actions(states, "home page", action, mask)[1]
        assert_close(flat, torch.full((30,), math.log(3), dtype=torch.float64))
        with torch.no_grad():
            model.policy_heads[0].bias[0] = 2000.0  # probabilities of exactly 0 without any mask
        log_prob, entropy, _ = model.evaluate_actions(states, "home page", action)
        (log_prob + entropy).sum().backward()
        assert not entropy.detach().any()
        assert torch.isfinite(model.policy_heads[0].bias.grad).all()

    def test_policy_times_mask_is_no_policy(self):
        """The classic mistake: what is left does not sum to 1; a row whose mass lies on excluded actions is lost."""
        model, states, mask = network(), normal(20, STATE), some_mask(20, 6)
        wrong = (model.action_probabilities(states, "notify") * mask).sum(1).detach()
        assert float(wrong.min()) < 0.5
        assert_close(model.action_probabilities(states, "notify", mask).sum(1), torch.ones(20, dtype=torch.float64))
        with torch.no_grad():
            model.policy_heads[2].bias[0] = 2000.0
        mask[:, 0], mask[:, 1] = False, True
        wrong = model.action_probabilities(states, "notify").detach() * mask
        with pytest.raises(ValueError, match="Simplex"):
            Categorical(probs=wrong)
        log_prob = model.get_action(states, "notify", mask=mask)[1]
        assert torch.isfinite(log_prob).all()


class Asked(torch.nn.Module):
    """Lets `functional_call` reach any method."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, method, *arguments, **named):
        return getattr(self.inside, method)(*arguments, **named)


def stacked(models):
    asked = [Asked(model) for model in models]
    return asked[0], stack_module_state(asked)


class TestTogether:
    def test_many_models_at_once(self, device):
        models = [network(seed=seed).to(device) for seed in range(4)]
        skeleton, state = stacked(models)
        states, mask = normal(4, 9, STATE).to(device), some_mask(9, 6).to(device)
        luck = uniform(9, 6).to(device)

        def one(state, states, luck):
            action, log_prob = functional_call(
                skeleton, state, ("get_action", states, "notify"), {"mask": mask, "uniform": luck}
            )
            answers = functional_call(skeleton, state, ("evaluate_actions", states, "notify", action, mask))
            return action, log_prob, *answers, *functional_call(skeleton, state, ("forward", states, "notify"))

        found = torch.vmap(one, in_dims=(0, 0, None))(state, states, luck)
        for k, model in enumerate(models):
            action, log_prob = model.get_action(states[k], "notify", mask=mask, uniform=luck)
            alone = model.evaluate_actions(states[k], "notify", action, mask)
            for part, expected in zip(found, (action, log_prob, *alone, *model(states[k], "notify")), strict=True):
                assert_close(part[k], expected)
        assert len({tuple(row.tolist()) for row in found[0]}) > 1

    def test_many_models_learn_as_each_alone(self):
        """A loss with its own weights for each model, on sessions of its own, through rollout, returns and gradient."""
        models = [network(seed=seed) for seed in range(3)]
        skeleton, state = stacked(models)
        shape = (3, 6, 2)  # models, steps, sessions
        states, action = normal(3, 12, STATE), torch.stack([some_actions(12, 6, seed=s) for s in range(3)])
        rewards, terminated, truncated = normal(*shape), uniform(*shape) < 0.2, uniform(*shape, seed=1) < 0.2
        weights = torch.tensor([[0.9, 0.5, 0.1, 0.2], [0.99, 0.9, 1.0, 0.0], [1.0, 0.0, 0.3, 0.5]])

        def loss_of(evaluate, states, action, rewards, terminated, truncated, weights, old):
            log_prob, entropy, value = evaluate(states, "notify", action)
            steps = value.detach().reshape(6, 2)  # (12,) -> (T, sessions)
            advantages, returns = gae(rewards, steps, steps, terminated, truncated, weights[0], weights[1])
            returns = returns + n_step_returns(rewards, steps, terminated, truncated, weights[0], 3)
            rest = (entropy, value, advantages.flatten(), returns.flatten())
            first, _ = actor_critic_loss(log_prob, *rest, weights[2], weights[3])
            second, parts = ppo_loss(log_prob, old, *rest, weights[2] + 0.1, weights[2], weights[3])
            return first + second + parts["clip_fraction"] + parts["approximate_kl"]

        def one(state, *arguments):
            def evaluate(*asked):
                return functional_call(skeleton, state, ("evaluate_actions", *asked))

            return loss_of(evaluate, *arguments)

        old = -uniform(3, 12) - 1.0
        data = (states, action, rewards, terminated, truncated, weights, old)
        losses = torch.vmap(one)(state, *data)
        names = list(state[0])
        gradients = torch.autograd.grad(losses.sum(), [state[0][name] for name in names], allow_unused=True)
        found = dict(zip(names, gradients, strict=True))
        for k, model in enumerate(models):
            loss = loss_of(model.evaluate_actions, *(part[k] for part in data))
            assert_close(losses[k], loss)
            loss.backward()
            for name, value in model.named_parameters():
                gradient = found[f"inside.{name}"]
                if value.grad is None:
                    assert gradient is None or not gradient[k].any()
                    continue
                assert_close(gradient[k], value.grad)
                assert float(value.grad.abs().max()) > 0

    def test_each_model_draws_its_own(self):
        skeleton, state = stacked([network(seed=0)] * 3)
        states = normal(500, STATE)

        def drawn(seed, randomness):
            generator = torch.Generator().manual_seed(seed)

            def one(state):
                return functional_call(skeleton, state, ("get_action", states, "notify"), {"generator": generator})[0]

            return torch.vmap(one, randomness=randomness)(state)

        apart = drawn(0, "different")
        assert torch.equal(apart, drawn(0, "different"))
        assert not torch.equal(apart[0], apart[1])
        same = drawn(0, "same")
        assert torch.equal(same[0], same[1])

    def test_nothing_allowed_is_seen_in_the_answer_where_values_are_not(self):
        model, states, mask = network(), normal(2, 3, STATE), torch.ones(2, 3, 6, dtype=torch.bool)
        mask[1, 2] = False
        log_prob = torch.vmap(lambda s, m: model.get_action(s, "notify", deterministic=True, mask=m)[1])(states, mask)
        assert torch.isnan(log_prob).nonzero().tolist() == [[1, 2]]


# Returns


def rollout(steps, sessions=3, seed=0):
    shape = (steps, sessions)
    parts = [normal(*shape, seed=seed + k) for k in range(3)]
    return (*parts, uniform(*shape, seed=seed + 3) < 0.2, uniform(*shape, seed=seed + 4) < 0.2)


def consistent(steps, seed=0):
    """Within a session the state that a step reaches is the one in which the next is taken."""
    rewards, values, next_values, terminated, truncated = rollout(steps, seed=seed)
    ended = (terminated | truncated)[:-1]
    next_values[:-1] = torch.where(ended, next_values[:-1], values[1:])
    assert ended.any()
    assert not ended.all()
    return rewards, values, next_values, terminated, truncated


def looped_n_step(rewards, next_values, terminated, truncated, discount, n):
    """For each step on its own, forwards: rewards one by one until n are taken or the session ends."""
    returns = torch.zeros_like(rewards)
    steps, sessions = rewards.shape
    for s in range(sessions):
        for t in range(steps):
            total, factor = 0.0, 1.0
            for k in range(t, min(t + n, steps)):
                total += factor * float(rewards[k, s])
                factor *= discount
                if terminated[k, s]:
                    factor = 0.0
                if terminated[k, s] or truncated[k, s]:
                    break
            returns[t, s] = total + factor * float(next_values[k, s])
    return returns


def looped_gae(rewards, values, next_values, terminated, truncated, discount, gae_lambda):
    """For each step on its own, forwards: the sum of (discount * lambda)^l times the l-th temporal difference."""
    advantages = torch.zeros_like(rewards)
    steps, sessions = rewards.shape
    for s in range(sessions):
        for t in range(steps):
            for k in range(t, steps):
                coming = 0.0 if terminated[k, s] else discount * float(next_values[k, s])
                delta = float(rewards[k, s]) + coming - float(values[k, s])
                advantages[t, s] += (discount * gae_lambda) ** (k - t) * delta
                if terminated[k, s] or truncated[k, s]:
                    break
    return advantages


factors = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0))


class TestReturns:
    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 12), factors, factors, st.integers(0, 99))
    def test_gae_is_a_double_loop(self, steps, discount, gae_lambda, seed):
        data = rollout(steps, seed=seed)
        advantages, returns = gae(*data, discount, gae_lambda)
        assert_close(advantages, looped_gae(*data, discount, gae_lambda), 1e-10)
        assert_close(returns, advantages + data[1], 1e-10)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 12), factors, st.integers(1, 15), st.integers(0, 99))
    def test_n_step_is_a_double_loop(self, steps, discount, n, seed):
        rewards, _, *others = rollout(steps, seed=seed)
        found = n_step_returns(rewards, *others, discount, n)
        assert_close(found, looped_n_step(rewards, *others, discount, n), 1e-10)

    def test_the_comparison_is_not_of_the_easy(self):
        """Among the rollouts above are ends of either kind and of both, in the last row and before it."""
        *_, terminated, truncated = (
            torch.stack(parts) for parts in zip(*(rollout(12, seed=s) for s in range(10)), strict=True)
        )
        for kind in (terminated & ~truncated, truncated & ~terminated, terminated & truncated):
            assert kind[:, -1].any()
            assert kind[:, :-1].any()

    @pytest.mark.parametrize("gae_lambda", [0.0, 0.3, 0.95, 1.0])
    def test_gae_mixes_the_n_step_estimates(self, gae_lambda):
        """Equation 16 as it is defined: weights (1 - lambda) lambda^(n-1), and the rest on the longest."""
        steps = 9
        rewards, values, *others = data = consistent(steps, seed=5)
        mixed = torch.zeros_like(rewards)
        for n in range(1, steps + 1):
            weight = (1 - gae_lambda) * gae_lambda ** (n - 1) if n < steps else gae_lambda ** (n - 1)
            mixed += weight * looped_n_step(rewards, *others, 0.9, n)
        advantages, returns = gae(*data, 0.9, gae_lambda)
        assert_close(returns, mixed, 1e-10)
        assert_close(advantages, mixed - values, 1e-10)

    def test_limits(self):
        rewards, values, *others = data = consistent(10, seed=7)
        assert_close(gae(*data, 0.9, 0.0)[1], n_step_returns(rewards, *others, 0.9, 1), 1e-12)
        assert_close(gae(*data, 0.9, 1.0)[1], n_step_returns(rewards, *others, 0.9, 10), 1e-12)
        longest = n_step_returns(rewards, *others, 0.9, 10)
        assert torch.equal(longest, n_step_returns(rewards, *others, 0.9, 1000))
        assert_close(gae(*data, 0.0, 0.7)[0], rewards - values)
        assert_close(gae(*data)[0], looped_gae(*data, 0.99, 0.95), 1e-10)
        assert_close(n_step_returns(rewards, *others), looped_n_step(rewards, *others, 0.99, 5), 1e-10)

    def chain(self, limit):
        """A walk around five states for ever, watched for ``limit`` steps at a time, and its values, exactly."""
        gain, discount, steps = normal(5, seed=2), 0.9, 23
        onwards = torch.eye(5, dtype=torch.float64).roll(1, dims=1)  # from k to k + 1
        exact = torch.linalg.solve(torch.eye(5, dtype=torch.float64) - discount * onwards, gain)
        at = torch.arange(steps) % 5
        truncated = (torch.arange(steps) + 1) % limit == 0
        rewards, values, next_values = gain[at], exact[at], exact[(at + 1) % 5]
        return rewards, values, next_values, torch.zeros(steps, dtype=torch.bool), truncated, discount

    @pytest.mark.parametrize("limit", [1, 3, 7, 100])
    def test_exact_values_stay_what_they_are(self, limit):
        *data, discount = self.chain(limit)
        rewards, values, *others = data
        for gae_lambda in (0.0, 0.5, 1.0):
            advantages, returns = gae(*data, discount, gae_lambda)
            assert_close(advantages, torch.zeros_like(values), 1e-10)
            assert_close(returns, values, 1e-10)
        for n in (1, 2, 5, 40):
            assert_close(n_step_returns(rewards, *others, discount, n), values, 1e-10)

    @pytest.mark.parametrize("limit", [1, 3, 7])
    def test_a_time_limit_taken_for_an_end_is_wrong(self, limit):
        """The classic mistake: the same sessions, each limit told as a termination."""
        rewards, values, next_values, nothing, ended, discount = self.chain(limit)
        advantages, _ = gae(rewards, values, next_values, ended, nothing, discount, 0.95)
        missing = discount * next_values[ended]
        assert_close(advantages[ended], -missing, 1e-10)
        assert float(missing.abs().max()) > 0.1
        wrong = n_step_returns(rewards, next_values, ended, nothing, discount, 5)
        assert_close(wrong[ended], rewards[ended], 1e-10)

    def test_nothing_comes_back_over_an_end(self):
        rewards, values, next_values, _, _ = rollout(8)
        for place in (0, 1):
            flags = [torch.zeros(8, 3, dtype=torch.bool) for _ in range(2)]
            flags[place][3] = True
            before = (*gae(rewards, values, next_values, *flags), n_step_returns(rewards, next_values, *flags))
            others = [part.clone() for part in (rewards, values, next_values)]
            for part in others:
                part[4:] += 100.0
            after = (*gae(*others, *flags), n_step_returns(others[0], others[2], *flags))
            for one, other in zip(before, after, strict=True):
                assert torch.equal(one[:4], other[:4])
                assert float((one - other)[4:].abs().min()) > 1.0

    def test_a_value_behind_a_termination_is_not_read(self):
        rewards, values, next_values, terminated, truncated = rollout(12)
        assert terminated[:-1].any()
        changed = torch.where(terminated, 1e6, next_values)
        for one, other in zip(
            gae(rewards, values, next_values, terminated, truncated),
            gae(rewards, values, changed, terminated, truncated),
            strict=True,
        ):
            assert torch.equal(one, other)
        one, other = (n_step_returns(rewards, part, terminated, truncated) for part in (next_values, changed))
        assert torch.equal(one, other)

    def test_terminated_wins_over_truncated(self):
        rewards, values, next_values, _, _ = rollout(6)
        flag, none = torch.zeros(6, 3, dtype=torch.bool), torch.zeros(6, 3, dtype=torch.bool)
        flag[2] = True
        both, one = (gae(rewards, values, next_values, flag, other)[0] for other in (flag, none))
        assert torch.equal(both, one)
        assert not torch.equal(both, gae(rewards, values, next_values, none, flag)[0])

    @pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 2, 3), (1,), (1, 1)])
    def test_any_shape_behind_time(self, shape, device):
        data = [normal(*shape, seed=k).to(device) for k in range(3)]
        flags = [(uniform(*shape, seed=k) < 0.3).to(device) for k in (3, 4)]
        flat = [part.reshape(shape[0], -1).cpu() for part in (*data, *flags)]  # (T, sessions)
        advantages, _ = gae(*data, *flags, 0.9, 0.8)
        assert advantages.shape == shape
        assert_close(advantages.reshape(shape[0], -1).cpu(), looped_gae(*flat, 0.9, 0.8), 1e-10)
        found = n_step_returns(data[0], data[2], *flags, 0.9, 3)
        expected = looped_n_step(flat[0], *flat[2:], 0.9, 3)
        assert_close(found.reshape(shape[0], -1).cpu(), expected, 1e-10)

    def test_single_precision_stays_single_and_close(self):
        rewards, values, next_values, *flags = rollout(40)
        small = [part.float() for part in (rewards, values, next_values)]
        found = gae(*small, *flags)[0]
        assert found.dtype == torch.float32
        assert_close(found.double(), looped_gae(rewards, values, next_values, *flags, 0.99, 0.95), 1e-4)

    def test_many_settings_at_once(self):
        data = rollout(9)
        discounts = torch.tensor([0.0, 0.5, 0.99, 1.0], dtype=torch.float64)
        lambdas = discounts.flip(0)
        found = torch.vmap(lambda g, m: gae(*data, g, m)[0])(discounts, lambdas)
        steps = torch.vmap(lambda g: n_step_returns(data[0], *data[2:], g, 4))(discounts)
        for k in range(4):
            assert_close(found[k], looped_gae(*data, float(discounts[k]), float(lambdas[k])), 1e-10)
            assert_close(steps[k], looped_n_step(data[0], *data[2:], float(discounts[k]), 4), 1e-10)

    def test_no_gradient_and_nothing_changed(self):
        rewards, values, next_values, *flags = rollout(5)
        parts = [part.requires_grad_() for part in (rewards, values, next_values)]
        before = [part.detach().clone() for part in parts]
        answers = (*gae(*parts, *flags), n_step_returns(parts[0], parts[2], *flags))
        assert not any(answer.requires_grad for answer in answers)
        assert all(torch.equal(one, other) for one, other in zip(parts, before, strict=True))


# Losses


def terms(rows=8, seed=0):
    log_prob, old = -uniform(rows, seed=seed) - 0.2, -uniform(rows, seed=seed + 1) - 0.2
    entropy = uniform(rows, seed=seed + 2)
    value, advantage, returns = (normal(rows, seed=seed + k) for k in (3, 4, 5))
    return log_prob, old, entropy, value, advantage, returns


class TestLosses:
    @pytest.mark.parametrize("shape", [(8,), (4, 2), (1,)])
    def test_against_loops(self, shape, device):
        rows = math.prod(shape)
        parts = [part[:rows].reshape(shape).to(device) for part in terms()]
        log_prob, old, entropy, value, advantage, returns = (part.flatten().tolist() for part in parts)
        value_loss = sum((r - v) ** 2 for r, v in zip(returns, value, strict=True)) / rows
        bonus = sum(entropy) / rows
        policy = -sum(a * lp for a, lp in zip(advantage, log_prob, strict=True)) / rows
        loss, found = actor_critic_loss(parts[0], *parts[2:], 0.7, 0.3)
        assert float(loss) == pytest.approx(policy + 0.7 * value_loss - 0.3 * bonus, abs=1e-12)
        expected = {"policy_loss": policy, "value_loss": value_loss, "entropy": bonus}
        assert {name: float(part) for name, part in found.items()} == pytest.approx(expected, abs=1e-12)

        ratios = [math.exp(lp - o) for lp, o in zip(log_prob, old, strict=True)]
        policy = -sum(min(r * a, max(0.8, min(1.2, r)) * a) for r, a in zip(ratios, advantage, strict=True)) / rows
        outside = sum(not 0.8 <= r <= 1.2 for r in ratios) / rows
        assert outside > 0 or rows == 1
        expected |= {"policy_loss": policy, "clip_fraction": outside}
        expected["approximate_kl"] = sum(r - 1 - math.log(r) for r in ratios) / rows
        loss, found = ppo_loss(*parts, 0.2, 0.7, 0.3)
        assert float(loss) == pytest.approx(policy + 0.7 * value_loss - 0.3 * bonus, abs=1e-12)
        assert {name: float(part) for name, part in found.items()} == pytest.approx(expected, abs=1e-12)
        assert not any(part.requires_grad for part in found.values())

    def test_defaults(self):
        log_prob, old, *rest = terms()
        loss, found = actor_critic_loss(log_prob, *rest)
        assert_close(loss, found["policy_loss"] + 0.5 * found["value_loss"] - 0.01 * found["entropy"])
        assert_close(ppo_loss(log_prob, old, *rest)[0], ppo_loss(log_prob, old, *rest, 0.2, 0.5, 0.01)[0])

    def test_no_gradient_through_what_is_a_number(self):
        log_prob, old, entropy, value, advantage, returns = (part.requires_grad_() for part in terms())
        actor_critic_loss(log_prob, entropy, value, advantage, returns)[0].backward()
        ppo_loss(log_prob, old, entropy, value, advantage, returns)[0].backward()
        assert old.grad is advantage.grad is returns.grad is None
        assert all(float(part.grad.abs().min()) > 0 for part in (entropy, value))

    def test_rows_that_do_not_count_are_as_if_they_were_not_there(self):
        parts, counted = [part.requires_grad_() for part in terms(20)], torch.arange(20) % 3 > 0
        loss, found = ppo_loss(*parts, 0.2, 0.7, 0.3, counted=counted)
        expected, others = ppo_loss(*(part[counted] for part in parts), 0.2, 0.7, 0.3)
        assert_close(loss, expected)
        for name, part in others.items():
            assert_close(found[name], part)
        assert float(found["clip_fraction"]) > 0
        for got, wanted in zip(
            torch.autograd.grad(loss, (parts[0], parts[3])), torch.autograd.grad(expected, (parts[0], parts[3])),
            strict=True,
        ):  # fmt: skip
            assert_close(got, wanted)
            assert not got[~counted].any()
        assert_close(ppo_loss(*parts, counted=torch.ones(20, dtype=torch.bool))[0], ppo_loss(*parts)[0])

    def test_ratios_past_all_floats_are_refused_where_they_count(self):
        """A ratio of infinity would be clipped, and its gradient would be NaN."""
        log_prob, old, *rest = (part.requires_grad_() for part in terms(4))
        far = old.detach() - torch.tensor([0.0, 800.0, 0.0, 0.0])
        with pytest.raises(ValueError, match=refusal("old_log_prob", "80")):
            ppo_loss(log_prob, far, *rest)
        loss, parts = ppo_loss(log_prob, far, *rest, counted=torch.tensor([True, False, True, True]))
        loss.backward()
        assert torch.isfinite(log_prob.grad).all()
        assert math.isfinite(float(parts["approximate_kl"]))

    def test_a_clip_past_all_floats_clips_nothing(self):
        log_prob, old, *rest = (part.float() for part in terms())
        expected = ppo_loss(log_prob, old, *rest, clip=1e6)[0]
        for clip in (1e300, torch.tensor(200, dtype=torch.uint8)):  # bytes that begin anew below 0
            assert_close(ppo_loss(log_prob, old, *rest, clip=clip)[0], expected)

    def test_where_no_row_counts_the_loss_is_0(self):
        log_prob, *others = (part.requires_grad_() for part in terms(4))
        loss, _ = ppo_loss(log_prob, *others, counted=torch.zeros(4, dtype=torch.bool))
        loss.backward()
        assert float(loss.detach()) == 0
        assert not log_prob.grad.any()

    def gradients(self, model, loss):
        found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        return {name: g for (name, _), g in zip(model.named_parameters(), found, strict=True) if g is not None}

    def test_at_unchanged_weights_ppo_is_actor_critic(self):
        model, states, action, mask = network(), normal(20, STATE), some_actions(20, 6), some_mask(20, 6)
        mask[torch.arange(20), action] = True
        _, _, _, _, advantage, returns = terms(20)
        old = model.evaluate_actions(states, "notify", action, mask)[0].detach()

        def both():
            now = [model.evaluate_actions(states, "notify", action, mask) for _ in range(2)]
            one, _ = actor_critic_loss(*now[0], advantage, returns)
            other, parts = ppo_loss(now[1][0], old, *now[1][1:], advantage, returns)
            return self.gradients(model, one), self.gradients(model, other), parts

        one, other, parts = both()
        assert one.keys() == other.keys() == {*model.shared_parameters(), *model.task_parameters("notify")}
        for name, value in one.items():
            assert_close(value, other[name])
            assert float(value.abs().max()) > 1e-4
        assert float(parts["clip_fraction"]) == float(parts["approximate_kl"]) == 0
        with torch.no_grad():
            for name, value in one.items():
                model.get_parameter(name).sub_(value)
        one, other, parts = both()
        assert float((one["policy_heads.2.bias"] - other["policy_heads.2.bias"]).abs().max()) > 1e-3
        assert float(parts["approximate_kl"]) > 0

    @pytest.mark.parametrize(
        ("ratio", "advantage", "moves"),
        [(1.3, 1.0, False), (1.3, -1.0, True), (0.7, -1.0, False), (0.7, 1.0, True), (1.1, 1.0, True)],
    )
    def test_clipping_stops_one_direction(self, ratio, advantage, moves):
        old = torch.tensor([-1.0], dtype=torch.float64)
        log_prob = (old + math.log(ratio)).requires_grad_()
        zero, a = torch.zeros(1, dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64)
        ppo_loss(log_prob, old, zero, zero, a, zero)[0].backward()
        assert_close(log_prob.grad, -ratio * a if moves else zero)

    def test_the_gradient_of_the_expected_reward(self):
        """With every action weighed by its probability, the loss has minus the gradient of the mean reward itself."""
        model, rows = network(), 6
        states, rewards = normal(rows, STATE), normal(rows, 4)
        policy = model.action_probabilities(states, "home page")
        expected = self.gradients(model, -(policy * rewards).sum(1).mean())
        every = torch.arange(4).repeat(rows)
        log_prob, entropy, value = model.evaluate_actions(states.repeat_interleave(4, 0), "home page", every)
        weighed = 4 * (policy * rewards).detach().flatten()  # (rows, 4) -> (rows * 4,)
        found = self.gradients(model, actor_critic_loss(log_prob, entropy, value, weighed, value, 0.0, 0.0)[0])
        for name, value in expected.items():
            assert_close(found[name], value)
        assert float(expected["shared.0.weight"].abs().max()) > 1e-4

    def test_the_divergence_is_one(self):
        """With each action of a uniform policy once, the mean is the divergence, exactly."""
        logits = normal(7)
        new, old = logits.log_softmax(0), torch.full((7,), -math.log(7), dtype=torch.float64)
        zero = torch.zeros(7, dtype=torch.float64)
        found = ppo_loss(new, old, zero, zero, zero, zero)[1]["approximate_kl"]
        assert_close(found, F.kl_div(new, old, reduction="sum", log_target=True))
        assert float(found) > 0.1

    def test_the_bonus_raises_entropy_and_its_weight_may_be_a_tensor(self):
        model, states, action = network(), normal(30, STATE), some_actions(30, 6)
        before = None
        for _ in range(2):
            log_prob, entropy, value = model.evaluate_actions(states, "notify", action)
            loss, parts = actor_critic_loss(
                log_prob, entropy, value, torch.zeros_like(value), value, torch.tensor(0.5), torch.tensor(1.0)
            )
            if before is None:
                before = float(parts["entropy"])
                with torch.no_grad():
                    for name, gradient in self.gradients(model, loss).items():
                        model.get_parameter(name).sub_(0.1 * gradient)
        assert float(parts["entropy"]) > before + 1e-3

    @pytest.mark.parametrize("method", ["actor-critic", "ppo"])
    def test_two_tasks_are_learned(self, method):
        """Bandits whose best action follows from the state, another one in each task: half of what is missing, gone."""
        model = network(sharp=False, dtype=torch.float32, action_dims={"one": 3, "two": 5}, shared_dims=(32,))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
        generator = torch.Generator().manual_seed(0)
        taste = {task: torch.randn(STATE, count, generator=generator) for task, count in model.action_dims.items()}
        none, test = torch.zeros(256, dtype=torch.bool), normal(500, STATE, dtype=torch.float32)

        def regret():
            gaps = []
            for task in taste:
                means = test @ taste[task]
                policy = model.action_probabilities(test, task).detach()
                gaps.append(float((means.max(1).values - (policy * means).sum(1)).mean()))
            return torch.tensor(gaps)

        before = regret()
        for _ in range(30 if method == "actor-critic" else 10):
            for task in taste:
                states = torch.randn(256, STATE, generator=generator)
                with torch.no_grad():
                    action, old = model.get_action(states, task, generator=generator)
                    rewards = (states @ taste[task]).gather(1, action[:, None]).squeeze(1)
                    value = model(states, task)[1]
                    flags = (~none[None], none[None])
                    advantage, returns = gae(rewards[None], value[None], value[None], *flags)
                for _ in range(1 if method == "actor-critic" else 3):
                    now = model.evaluate_actions(states, task, action)
                    rest = (*now[1:], advantage[0], returns[0])
                    ours = method == "actor-critic"
                    loss, _ = actor_critic_loss(now[0], *rest) if ours else ppo_loss(now[0], old, *rest)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
        assert bool((regret() < 0.5 * before).all())


# Bad input


def holed(tensor, value=math.nan):
    broken = tensor.clone()
    broken.view(-1)[0] = value
    return broken


X, MASK, ACTION = normal(4, STATE), some_mask(4, 6), torch.arange(4) % 6


class TestBadInput:
    """What the table of refusals does not say."""

    @pytest.mark.parametrize("action_dims", [[3, 4], {"": 3}, {1: 3}])
    def test_tasks_without_a_name(self, action_dims):
        with pytest.raises(ValueError, match=refusal("action_dims")):
            MultiTaskPolicyNetwork(STATE, action_dims)

    @pytest.mark.parametrize("rate", [0.2, torch.tensor(0.1)])
    def test_dropout_is_refused_with_the_reason(self, rate):
        """As in a call that names it, or hands it on as the fifth."""
        with pytest.raises(ValueError, match=refusal("dropout_rate") + "0, .*: with dropout one"):
            MultiTaskPolicyNetwork(STATE, ACTIONS, (7, 6), (4,), rate)
        assert network(dropout_rate=0)(X, "notify")[0].shape == (4, 6)

    @pytest.mark.parametrize("part", ["shared.0.bias", "policy_heads.2.weight", "value_heads.2.bias"])
    def test_a_network_whose_weights_are_no_numbers_does_not_act(self, part):
        model, luck = network(), torch.random.get_rng_state()
        with torch.no_grad():
            model.get_parameter(part).view(-1)[0] = math.nan
        for ask in (
            lambda: model(X, "notify"),
            lambda: model.get_action(X, "notify"),
            lambda: model.get_action(X, "notify", deterministic=True, mask=MASK),
            lambda: model.evaluate_actions(X, "notify", ACTION),
            lambda: model.action_probabilities(X, "notify", MASK),
        ):
            with pytest.raises(ValueError, match=refusal("weights", "NaN") + f".*{re.escape(part)}"):
                ask()
        assert torch.equal(luck, torch.random.get_rng_state())

    def test_a_row_in_which_nothing_is_allowed(self):
        model, mask = network(), MASK & torch.tensor([True, True, False, True])[:, None]
        for ask in (
            lambda: model.get_action(X, "notify", mask=mask),
            lambda: model.get_action(X, "notify", deterministic=True, mask=mask),
            lambda: model.evaluate_actions(X, "notify", ACTION, mask),
            lambda: model.action_probabilities(X, "notify", mask),
        ):
            with pytest.raises(ValueError, match=refusal("mask", "no allowed action in row 2")):
                ask()

    def test_an_action_that_the_mask_excludes(self):
        mask = torch.ones(4, 6).bool() & (torch.arange(6) != 2)
        with pytest.raises(ValueError, match=refusal("action", "2 in row 2")):
            network().evaluate_actions(X, "notify", ACTION, mask)

    @pytest.mark.parametrize(
        ("named", "came"),
        [
            ({"uniform": holed(uniform(4, 6), 1.0)}, "to 1"),
            ({"uniform": holed(uniform(4, 6), -0.1)}, "-0.1"),
            ({"uniform": uniform(4, 6), "generator": torch.Generator()}, "generator"),
        ],
    )
    def test_luck(self, named, came):
        with pytest.raises(ValueError, match=refusal("uniform", came)):
            network().get_action(X, "notify", **named)
