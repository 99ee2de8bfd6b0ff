"""The six-state chain: its optimum four ways, policies against equations in numpy, one episode and many alike."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from recmtl_lessons.envs.chain import (
    LAST,
    LEFT,
    LENGTH,
    OPTIMUM,
    RIGHT,
    START,
    ChainEnv,
    Chains,
    ChainState,
    begin_chain,
    chain_value,
    chain_values_by_place,
    observe_chain,
    solve_chain,
    step_chain,
)


def policy_of(right):
    """Probabilities of both actions from those of going right, (..., 6, 2)."""
    return torch.stack([1 - right, right], dim=-1)


def right_until_visited():
    """Right until s6 was visited, then left: the best."""
    return policy_of(torch.tensor([1.0, 0.0]).expand(LENGTH, 2))


def values_in_numpy(right, discount):
    """Return from s2 of going right with probability ``right[place][visited]``, by equations for ten unknowns."""
    a, b = np.eye(10), np.zeros(10)
    number = {(place, visited): 2 * (place - 2) + visited for place in range(2, 7) for visited in (0, 1)}
    for (place, visited), row in number.items():
        works = 0.5 * right[place - 1][visited]
        for goal, p in ((min(place + 1, 6), works), (place - 1, 1 - works)):
            now = int(visited or goal == 6)
            if goal == 1:
                b[row] += p * (1.0 if now else 0.01)
            else:
                a[row, number[goal, now]] -= discount * p
    return np.linalg.solve(a, b)[number[2, 0]]


def returns_played(policy, discount, episodes, steps=400, seed=0):
    """Discounted reward of episodes that follow a policy (6, 2, 2)."""
    draws = torch.Generator().manual_seed(seed)
    state, total, going = begin_chain(episodes), torch.zeros(episodes), torch.ones(episodes, dtype=torch.bool)
    for t in range(steps):
        chance = torch.rand(2, episodes, generator=draws, dtype=torch.float64)
        action = (chance[0] < policy[state.position, state.visited.long(), RIGHT]).long()
        after, reward, terminated = step_chain(state, action, chance[1])
        total += going * discount**t * reward
        going &= ~terminated
        stay = terminated | (state.position == 0)
        state = ChainState(torch.where(stay, START, after.position), after.visited)
    assert not bool(going.any())
    return total.double()


class TestOptimum:
    def test_by_dynamic_programming(self):
        assert float(solve_chain()[START, 0].max()) == pytest.approx(OPTIMUM, abs=1e-12)

    def test_by_the_gamblers_ruin(self):
        """Fair steps from s2, one place above ruin at s1 and four below s6: s6 comes first one time in five."""
        reaches = 1 / 5
        by_hand = reaches * 1 + (1 - reaches) * 0.01
        assert by_hand == pytest.approx(OPTIMUM, abs=1e-12)

    def test_by_the_best_policys_equations(self):
        assert float(chain_value(right_until_visited())) == pytest.approx(OPTIMUM, abs=1e-12)

    def test_by_playing_the_best_policy(self):
        returns = returns_played(right_until_visited(), 1.0, 40_000)
        error = float(returns.std()) / math.sqrt(len(returns))
        assert error < 0.003
        assert float(returns.mean()) == pytest.approx(OPTIMUM, abs=4 * error)
        assert set(returns.tolist()) == {1.0, float(torch.tensor(0.01))}

    def test_undiscounted_always_right_is_as_good_without_remembering(self):
        """Whoever goes right for ever is led back to s1 all the same, only later: a discount tells them apart."""
        always = policy_of(torch.ones(LENGTH, 2))
        assert float(chain_value(always)) == pytest.approx(OPTIMUM, abs=1e-12)
        for discount in (0.99, 0.9):
            assert float(chain_value(always, discount)) < float(solve_chain(discount)[START, 0].max()) - 0.005

    @pytest.mark.parametrize("discount", [0.0, 0.5, 0.9, 0.99])
    def test_no_policy_on_all_twelve_states_is_better(self, discount):
        """All 1,024 certain ones, and the best of them is found."""
        right = torch.tensor(list(itertools.product((0.0, 1.0), repeat=10))).view(-1, 5, 2)
        right = torch.cat([torch.zeros(len(right), 1, 2), right], dim=1)  # nothing is done in s1
        found = chain_value(policy_of(right), discount)
        assert float(found.max()) == pytest.approx(float(solve_chain(discount)[START, 0].max()), abs=1e-10)

    def test_with_a_discount_whoever_cannot_see_the_visit_stays_behind(self):
        """Of the 32 certain policies that see the place alone."""
        blind = torch.tensor(list(itertools.product((0.0, 1.0), repeat=5)))
        blind = torch.cat([torch.zeros(32, 1), blind], dim=1)[..., None].expand(-1, -1, 2)
        best = float(solve_chain(0.9)[START, 0].max())
        assert float(chain_value(policy_of(blind), 0.9).max()) < 0.6 * best

    def test_the_best_turns_round_after_the_visit(self):
        q = solve_chain(0.95)
        assert torch.equal(q[1:LAST, 0].argmax(-1), torch.full((4,), RIGHT))
        assert torch.equal(q[1:, 1].argmax(-1), torch.full((5,), LEFT))
        assert float(q[0].abs().max()) == 0
        assert q.dtype == torch.float64


class TestValue:
    @given(st.lists(st.floats(0, 1, width=32), min_size=12, max_size=12), st.floats(0, 1))
    @examples(max_examples=50)
    def test_as_in_numpy(self, right, discount):
        right = torch.tensor(right).view(LENGTH, 2)
        found = chain_value(policy_of(right), discount)
        assert float(found) == pytest.approx(values_in_numpy(right.double().tolist(), discount), abs=1e-6)
        assert float(found) <= float(solve_chain(discount)[START, 0].max()) + 1e-6

    def test_as_played(self):
        right = torch.rand(LENGTH, 2, generator=torch.Generator().manual_seed(3)) / 2 + 0.5
        returns = returns_played(policy_of(right), 0.95, 40_000)
        error = float(returns.std()) / math.sqrt(len(returns))
        expected = float(chain_value(policy_of(right), 0.95))
        assert float(returns.mean()) == pytest.approx(expected, abs=4 * error)
        assert expected > 10 * error

    def test_many_policies_at_once(self):
        right = torch.rand(3, 4, LENGTH, 2, generator=torch.Generator().manual_seed(0))
        found = chain_value(policy_of(right), 0.9)
        assert (found.shape, found.dtype) == ((3, 4), torch.float64)
        for i, j in itertools.product(range(3), range(4)):
            assert float(found[i, j]) == pytest.approx(float(chain_value(policy_of(right[i, j]), 0.9)), abs=1e-12)

    def test_of_going_left_at_once(self):
        for discount in (0.0, 0.3, 1.0):
            assert float(chain_value(policy_of(torch.zeros(LENGTH, 2)), discount)) == pytest.approx(0.01, abs=1e-9)


class TestSteps:
    @pytest.mark.parametrize(
        ("place", "visited", "action", "chance", "leads_to", "then", "paid"),
        [
            (3, False, LEFT, 0.0, 2, False, 0),
            (3, False, LEFT, 0.9, 2, False, 0),
            (3, False, RIGHT, 0.49, 4, False, 0),
            (3, False, RIGHT, 0.5, 2, False, 0),  # it does not work
            (4, False, RIGHT, 0.0, 5, True, 0),
            (5, True, RIGHT, 0.0, 5, True, 0),  # at the end of the chain it stays
            (5, True, RIGHT, 0.7, 4, True, 0),
            (1, False, LEFT, 0.0, 0, False, 0.01),
            (1, True, LEFT, 0.0, 0, True, 1.0),
            (1, True, RIGHT, 0.99, 0, True, 1.0),
        ],
    )
    def test_by_hand(self, place, visited, action, chance, leads_to, then, paid):
        state = ChainState(torch.tensor([place]), torch.tensor([visited]))
        after, reward, terminated = step_chain(state, torch.tensor([action]), torch.tensor([chance]))
        assert (int(after.position), bool(after.visited)) == (leads_to, then)
        assert float(reward) == pytest.approx(paid)
        assert bool(terminated) == (leads_to == 0)

    def test_what_is_seen(self):
        state = ChainState(torch.tensor([[1, 5]]), torch.tensor([[False, True]]))
        assert observe_chain(state).tolist() == [[[0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]]]
        assert observe_chain(state, history=True).tolist() == [[[0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1]]]


class TestGymnasium:
    @pytest.mark.parametrize("history", [False, True])
    def test_its_checker_has_nothing_to_say(self, history):
        env = ChainEnv(history)
        env.spec = EnvSpec("Chain-v0", entry_point=lambda **how: ChainEnv(history, **how))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_env(env)

    def test_it_draws_its_chain(self):
        env = ChainEnv(render_mode="ansi")
        assert env.render() is None
        env.reset(seed=0)
        assert env.render() == "s1 [s2] s3 s4 s5 s6"
        assert env.step(LEFT)[2]
        assert env.render() == "[s1] s2 s3 s4 s5 s6"
        assert ChainEnv().render() is None

    def test_steps_before_the_beginning_and_after_the_end(self):
        env = ChainEnv()
        with pytest.raises(RuntimeError, match="has not begun or is over"):
            env.step(LEFT)
        env.reset(seed=0)
        assert env.step(LEFT)[1:] == (pytest.approx(0.01), True, False, {"visited": False})
        with pytest.raises(RuntimeError, match="has not begun or is over"):
            env.step(LEFT)
        env.reset()
        env.step(RIGHT)


class TestValuesByPlace:
    @examples(max_examples=25, deadline=None)
    @given(st.lists(st.floats(0.05, 1.0), min_size=LENGTH, max_size=LENGTH))
    def test_all_are_what_the_policy_itself_earns(self, right):
        policy = policy_of(torch.tensor(right))
        earned = float(chain_value(policy.unsqueeze(1).expand(LENGTH, 2, 2)))
        found = chain_values_by_place(policy)
        assert found[0].tolist() == [0.0, 0.0]
        np.testing.assert_allclose(found[1:], earned, atol=1e-9)

    def test_a_table_arrives_there(self):
        """Q-learning step by step, with a rate that falls, while a policy goes right seven times in ten."""
        draws, q, count = np.random.default_rng(0), np.zeros((LENGTH, 2)), np.zeros((LENGTH, 2))
        place, visited = START, False
        for chance in draws.random((300_000, 2)):
            action = int(chance[0] < 0.7)
            goal = min(place + 1, LAST) if action == RIGHT and chance[1] < 0.5 else place - 1
            visited |= goal == LAST
            target = (1.0 if visited else 0.01) if goal == 0 else q[goal].max()
            count[place, action] += 1
            q[place, action] += (target - q[place, action]) / count[place, action]
            place, visited = (START, False) if goal == 0 else (goal, visited)
        expected = chain_values_by_place(policy_of(torch.full((LENGTH,), 0.7)))
        assert 0.04 < float(expected[START, LEFT]) < 0.06
        np.testing.assert_allclose(q[1:], expected[1:], atol=0.006)

    def test_a_policy_that_does_not_come_everywhere(self):
        with pytest.raises(ValueError, match="policy: got one that never comes to 4 of the places"):
            chain_values_by_place(policy_of(torch.zeros(LENGTH)))


@pytest.mark.parametrize("history", [None, (False, False), (True, False), (True, True)])
def test_many_episodes_are_single_ones_given_the_same_chances(history):
    """Two models, three episodes each; episodes begin anew where they end."""
    chains = Chains(2, 3, history)
    shown = history or (False, False)
    singles = [[ChainEnv(any(shown)) for _ in range(3)] for _ in range(2)]
    seeds = torch.arange(6).view(2, 3).tolist()
    chances = torch.from_numpy(np.stack([[np.random.default_rng(s).random(400) for s in row] for row in seeds]))
    actions = torch.rand(400, 2, 3, generator=torch.Generator().manual_seed(1)) < 0.8

    def blind(observed, m):
        """What a model that does not see the visit has in the last place."""
        return observed if shown[m] or not any(shown) else np.append(observed[:6], np.float32(0))

    for m, b in itertools.product(range(2), range(3)):
        first, _ = singles[m][b].reset(seed=seeds[m][b])
        assert np.array_equal(chains.observations[m, b].numpy(), blind(first, m))
    ended = visits = 0
    for t in range(400):
        observed, reward, terminated, position = chains.step(actions[t].long(), chances[..., t])
        for m, b in itertools.product(range(2), range(3)):
            env = singles[m][b]
            expected, paid, over, _, info = env.step(int(actions[t, m, b]))
            assert np.array_equal(observed[m, b].numpy(), blind(expected, m))
            assert (float(reward[m, b]), bool(terminated[m, b])) == (paid, over)
            assert int(position[m, b]) == int(expected[:6].argmax())
            visits += over and info["visited"]
            ended += over
            following = env.reset()[0] if over else expected
            assert np.array_equal(chains.observations[m, b].numpy(), blind(following, m))
    assert ended > 100
    assert visits > 3
