"""The planner against linear programming, against returns that were played, and against what must hold of any plan."""

import itertools
import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from scipy.optimize import linprog
from threadpoolctl import threadpool_info, threadpool_limits

from recmtl_lessons.envs import SURFACES, SessionPlanner, SessionSettings, SessionVectorEnv, make_users, planning

TINY = {
    "at once": SessionSettings(levels=3, patience=2),
    "late": SessionSettings(satiation=0.6, levels=2, patience=2, clicks_needed=3),
    "no satiation": SessionSettings(satiation=0.0, levels=2, patience=3, clicks_needed=2),
}
DISCOUNT = 0.85


# The rules once more, without tensors. A state is (levels, clicks towards a reward, ignored in a row), and "left".


def shown_by(task, categories):
    """For each action: the share of each category shown, by how much it sates, and which is clicked."""
    if task == "search":
        pairs = itertools.permutations(range(categories), 2)
        return [({i: 0.6, j: 0.4}, 1, i) for i, j in pairs]
    alone = [({c: 1.0}, 2, c) for c in range(categories)]
    return [*alone, ({}, 0, None)] if task == "notify" else alone


def states_of(categories, s):
    """Every state in which a session can go on."""
    streaks = [(0,) * categories]
    for c in range(categories):
        streaks += [tuple(k if i == c else 0 for i in range(categories)) for k in range(1, s.clicks_needed)]
    levels = itertools.product(range(s.levels), repeat=categories)
    return list(itertools.product(levels, streaks, range(s.patience)))


def outcomes(state, action, tastes, s):
    """What may follow: (probability, reward, next state) each."""
    (levels, streak, ignored), (share, dose, lead) = state, action
    sated = tuple(
        min(level + dose, s.levels - 1) if c in share else max(level - 1, 0) for c, level in enumerate(levels)
    )
    if lead is None:
        return [(1.0, 0.0, (sated, streak, ignored))]
    logit = sum(w * (tastes[c] - s.satiation * levels[c]) for c, w in share.items())
    p = 1 / (1 + math.exp(-logit))
    count = streak[lead] + 1
    paid = count == s.clicks_needed
    clicks = tuple(0 if c != lead or paid else count for c in range(len(levels)))
    tired = (sated, streak, ignored + 1) if ignored + 1 < s.patience else "left"
    return [(p, float(s.clicks_needed) if paid else 0.0, (sated, clicks, 0)), (1 - p, 0.0, tired)]


def model(task, tastes, s):
    """States, expected reward (S, A), and probability of what follows (S, A, S)."""
    states, actions = states_of(len(tastes), s), shown_by(task, len(tastes))
    number = {state: k for k, state in enumerate(states)}
    reward, moves = np.zeros((len(states), len(actions))), np.zeros((len(states), len(actions), len(states)))
    for k, state in enumerate(states):
        for a, action in enumerate(actions):
            for p, paid, after in outcomes(state, action, tastes, s):
                reward[k, a] += p * paid
                if after != "left":
                    moves[k, a, number[after]] += p
    return states, reward, moves


def best_by_linear_programming(reward, moves, discount):
    """The least function that no action improves on, (S,)."""
    count, actions = reward.shape
    above = (np.eye(count)[:, None] - discount * moves).reshape(count * actions, count)
    found = linprog(np.ones(count), A_ub=-above, b_ub=-reward.flatten(), bounds=(None, None))
    assert found.success
    return found.x


def value_by_equations(policy, reward, moves, discount):
    """Value of a policy (S, A) in each state, (S,)."""
    chosen = np.einsum("sa,sat->st", policy, moves)
    return np.linalg.solve(np.eye(len(chosen)) - discount * chosen, (policy * reward).sum(1))


def places(planner, states):
    """Where the planner has the states of the model above."""
    s = planner.states
    found = zip(s.satiation.tolist(), s.streak.tolist(), s.ignored.tolist(), strict=True)
    number = {(tuple(levels), tuple(streak), ignored): k for k, (levels, streak, ignored) in enumerate(found)}
    assert number.keys() == set(states)
    return [number[state] for state in states]


def tiny(task, knobs, categories=2, count=2):
    return SessionPlanner(make_users(count, 5, n_categories=categories), task, TINY[knobs], DISCOUNT)


def models(planner, task, knobs):
    """For each user: the planner's number of each state, reward and moves."""
    for user in range(len(planner.rules.users)):
        states, reward, moves = model(task, planner.rules.users.on(task)[user].tolist(), TINY[knobs])
        yield user, places(planner, states), reward, moves


def near(values):
    """A ten-thousandth of the largest value, which is what the planner promises, and a little for rounding."""
    return 1.1e-4 * (1 + values.max())


def random_policy(planner, seed, sharpness=2.0):
    shape = (len(planner.rules.users), len(planner.states.user), len(planner.rules.surface))
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (sharpness * logits).softmax(-1)


def always(planner, action):
    """The policy that takes action (U, S) for certain."""
    return torch.nn.functional.one_hot(action, len(planner.rules.surface)).float()


@pytest.mark.parametrize("task", SURFACES)
@pytest.mark.parametrize("knobs", TINY)
class TestTinySessions:
    def test_the_best_by_linear_programming(self, task, knobs):
        planner = tiny(task, knobs)
        plan = planner.best()
        for user, where, reward, moves in models(planner, task, knobs):
            expected = best_by_linear_programming(reward, moves, DISCOUNT)
            assert plan.value[user, where].numpy() == pytest.approx(expected, abs=near(expected))
            worth = reward + DISCOUNT * moves @ expected
            taken = worth[np.arange(len(where)), plan.action[user, where]]
            assert taken == pytest.approx(worth.max(1), abs=near(expected))
            assert expected.std() > 0.05

    def test_any_policy_by_equations_in_numpy(self, task, knobs):
        planner = tiny(task, knobs)
        policy = random_policy(planner, 1)
        found, even = planner.value_of(policy), planner.even()
        for user, where, reward, moves in models(planner, task, knobs):
            start = where.index(0)
            expected = value_by_equations(policy[user, where].double().numpy(), reward, moves, DISCOUNT)
            assert float(found[user]) == pytest.approx(expected[start], rel=1e-4)
            by_chance = np.full(reward.shape, 1 / reward.shape[1])
            expected = value_by_equations(by_chance, reward, moves, DISCOUNT)
            assert float(even[user]) == pytest.approx(expected[start], rel=1e-4)

    def test_any_choice_of_actions_by_equations_in_numpy(self, task, knobs):
        planner = tiny(task, knobs)
        for seed in range(5):
            action = random_policy(planner, seed).argmax(-1)
            found = planner.value_of_actions(action)
            for user, where, reward, moves in models(planner, task, knobs):
                policy = np.eye(reward.shape[1])[action[user, where]]
                expected = value_by_equations(policy, reward, moves, DISCOUNT)[where.index(0)]
                assert float(found[user]) == pytest.approx(expected, rel=1e-5, abs=1e-5)

    def test_the_myopic_takes_what_pays_most_now(self, task, knobs):
        planner = tiny(task, knobs)
        plan = planner.myopic()
        for user, where, reward, moves in models(planner, task, knobs):
            taken = reward[np.arange(len(where)), plan.action[user, where]]
            assert taken == pytest.approx(reward.max(1), abs=1e-5)
            policy = np.eye(reward.shape[1])[plan.action[user, where]]
            expected = value_by_equations(policy, reward, moves, DISCOUNT)
            assert plan.value[user, where].numpy() == pytest.approx(expected, abs=near(expected))


USERS = make_users(10, 7)
LATE = SessionSettings(clicks_needed=2, levels=3)


@pytest.fixture(scope="module", params=SURFACES)
def planned(request):
    planner = SessionPlanner(USERS, request.param, LATE)
    return planner, planner.best()


class TestBest:
    @given(st.integers(0, 10**6), st.floats(0, 8))
    @examples(max_examples=10)
    def test_no_policy_is_better(self, planned, seed, sharpness):
        planner, best = planned
        assert bool((planner.value_of(random_policy(planner, seed, sharpness)) < best.returns + 1e-3).all())

    @pytest.mark.parametrize("task", SURFACES)
    @pytest.mark.parametrize("settings", [SessionSettings(), LATE])
    def test_its_actions_are_worth_what_it_says(self, task, settings):
        planner = SessionPlanner(USERS, task, settings)
        for plan in (planner.best(), planner.myopic()):
            torch.testing.assert_close(planner.value_of(always(planner, plan.action)), plan.returns, rtol=0, atol=1e-3)
            assert float(plan.returns.std()) > 0.2

    @pytest.mark.parametrize("discount", [0.0, 0.5, 0.97, 0.99, 0.999])
    def test_to_within_a_ten_thousandth_whatever_the_discount(self, discount):
        """The further one looks ahead, the shorter the last move has to be."""
        planner = SessionPlanner(USERS, "home", discount=discount)
        plan = planner.best()
        exact = planner.value_of(always(planner, plan.action).double())
        assert float((plan.returns - exact).abs().max()) < near(plan.value)
        assert float(exact.min()) > 0.1

    def test_it_is_above_the_myopic_where_there_is_something_to_plan(self):
        """Satiation, or a reward that comes late."""
        for task in SURFACES:
            for settings in (SessionSettings(), SessionSettings(satiation=0.0, levels=2, clicks_needed=2)):
                planner = SessionPlanner(USERS, task, settings)
                best, myopic = planner.best().returns, planner.myopic().returns
                assert bool((best > myopic - 1e-3).all())
                assert float((best - myopic).mean()) > 0.1

    @pytest.mark.parametrize("task", SURFACES)
    def test_without_satiation_and_late_rewards_the_myopic_is_the_best(self, task):
        """What is liked most pays most now and keeps the user patient; sending nothing takes time."""
        planner = SessionPlanner(make_users(60, 1), task, SessionSettings(satiation=0.0))
        best, myopic = planner.best(), planner.myopic()
        assert torch.equal(best.value, myopic.value)
        assert torch.equal(best.action, myopic.action)
        assert bool(planner.rules.surface.shows[best.action].all())

    @pytest.mark.parametrize("task", SURFACES)
    @pytest.mark.parametrize("settings", [SessionSettings(), LATE])
    def test_whoever_does_not_look_ahead_is_myopic(self, task, settings):
        planner = SessionPlanner(USERS, task, settings, discount=0.0)
        best, myopic = planner.best(), planner.myopic()
        assert torch.equal(best.value, myopic.value)
        assert torch.equal(best.action, myopic.action)

    def test_where_satiation_is_felt_it_pays_to_send_nothing(self):
        planner = SessionPlanner(USERS, "notify", SessionSettings())
        nothing, best = 3, planner.best()
        sated = planner.states.satiation.min(1).values == 3
        quiet = (best.action[:, sated] == nothing).float().mean()
        assert float(quiet) > 0.8, "to nearly all who have had too much of everything"
        assert not bool((best.action[:, 0] == nothing).any()), "at the beginning there is nothing to recover from"
        without = SessionPlanner(USERS, "home", SessionSettings()).best().returns
        assert float((best.returns - without).min()) > -1e-3
        assert float((best.returns - without).mean()) > 0.1


@pytest.mark.parametrize("task", SURFACES)
@pytest.mark.parametrize(
    "settings", [SessionSettings(time_limit=500), SessionSettings(time_limit=500, clicks_needed=2)]
)
def test_a_policys_value_is_what_its_sessions_bring(task, settings):
    """Four users, 800 sessions each of 60 steps: the mean return within four standard errors."""
    users, each, discount = make_users(4, 2), 800, 0.9
    planner = SessionPlanner(users, task, settings, discount)
    policy = (random_policy(planner, 3) + always(planner, planner.best().action)) / 2
    draws, who = torch.Generator().manual_seed(4), torch.arange(4).repeat_interleave(each)
    env = SessionVectorEnv(users, task, 4 * each, settings, torch.stack([who, who + 1], dim=1))
    env.reset(seed=0)
    total, going = torch.zeros(4 * each), torch.ones(4 * each)
    for t in range(60):
        action = torch.multinomial(policy[who, planner.index(env.state)], 1, generator=draws).squeeze(1)
        _, reward, terminated, truncated, _ = env.step(action)
        total += going * discount**t * reward
        going *= (~terminated).float()
        assert not bool(truncated.any())
    returns = total.view(4, each).double()
    error = returns.std(1) / math.sqrt(each)
    expected = planner.value_of(policy).double()
    assert bool(((returns.mean(1) - expected).abs() < 4 * error + expected * discount**60).all())
    assert bool((expected > 10 * error).all()), "0 would be seen"
    assert float(expected.max() - expected.min()) > 20 * float(error.max()), "and so would another user's value"


class TestStates:
    @pytest.mark.parametrize("categories", [2, 3])
    @pytest.mark.parametrize(
        "settings", [SessionSettings(), LATE, SessionSettings(levels=2, patience=1, clicks_needed=4)]
    )
    def test_each_has_its_number(self, categories, settings):
        planner = SessionPlanner(make_users(2, 0, n_categories=categories), "home", settings)
        assert torch.equal(planner.index(planner.states), torch.arange(len(planner.states.user)))
        first = [getattr(planner.states, name)[0].sum() for name in ("satiation", "streak", "ignored")]
        assert first == [0, 0, 0]

    @pytest.mark.parametrize("task", SURFACES)
    def test_sessions_visit_them(self, task):
        """The number of a running session's state leads back to it."""
        planner, env = SessionPlanner(USERS, task, LATE), SessionVectorEnv(USERS, task, 50, LATE)
        env.reset(seed=0)
        draws, visited = torch.Generator().manual_seed(1), set()
        for _ in range(60):
            number = planner.index(env.state)
            visited |= set(number.tolist())
            for name in ("satiation", "streak", "ignored"):
                assert torch.equal(getattr(planner.states, name)[number], getattr(env.state, name))
            seen = planner.observations()[env.state.user, number]
            assert torch.equal(seen, env.rules.observe(env.state))
            env.step(torch.randint(len(planner.rules.surface), (50,), generator=draws))
        assert len(visited) > 50

    def test_observations_are_what_a_system_sees(self):
        planner = SessionPlanner(USERS, "search", LATE)
        seen = planner.observations()
        assert seen.shape == (10, len(planner.states.user), 15)
        assert torch.equal(seen[:, 0, :8], USERS.profile)
        assert float(seen[:, 0, 8:].abs().max()) == 0
        assert torch.equal(seen[3, :, 8:], seen[4, :, 8:])


def blas_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


class TestValueOf:
    def test_users_in_parts_are_the_same(self, monkeypatch):
        planner = SessionPlanner(USERS, "home", LATE)
        policy = random_policy(planner, 0)
        whole = planner.value_of(policy)
        for users in (1, 4, 10):
            monkeypatch.setattr(planning, "_AT_ONCE", users * len(planner.states.user) ** 2)
            torch.testing.assert_close(planner.value_of(policy), whole, rtol=1e-5, atol=1e-5)
        monkeypatch.setattr(planning, "_AT_ONCE", 1)
        torch.testing.assert_close(planner.value_of(policy), whole, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("task", SURFACES)
    def test_any_number_of_threads_finds_the_same(self, task):
        planner = SessionPlanner(USERS, task)
        policy = random_policy(planner, 0)
        before, found = torch.get_num_threads(), []
        try:
            for threads in (1, 2, 4):
                torch.set_num_threads(threads)
                found.append(planner.value_of(policy))
        finally:
            torch.set_num_threads(before)
        torch.testing.assert_close(found[1:], found[:1] * 2, rtol=1e-5, atol=1e-5)

    def test_one_thread_solves_and_the_others_come_back(self, monkeypatch):
        during, solve = [], np.linalg.solve

        def watched(*arguments):
            during.append(blas_threads())
            return solve(*arguments)

        with threadpool_limits(2, "blas"):
            monkeypatch.setattr(np.linalg, "solve", watched)
            SessionPlanner(USERS, "home").even()
            assert during == [{1}]
            assert blas_threads() == {2}

    def test_threads_solve_in_turn_and_leave_as_many_as_there_were(self, monkeypatch):
        """The limit is the process's: of two who set it at once, the second would keep it."""
        planners, solve, solving, most = [SessionPlanner(USERS, task) for task in SURFACES], np.linalg.solve, [], []

        def watched(*arguments):
            solving.append(True)
            most.append(len(solving))
            time.sleep(0.1)
            solving.pop()
            return solve(*arguments)

        alone = [planner.even() for planner in planners]
        monkeypatch.setattr(np.linalg, "solve", watched)
        with threadpool_limits(2, "blas"):
            with ThreadPoolExecutor(len(planners)) as pool:
                found = list(pool.map(SessionPlanner.even, planners))
            assert blas_threads() == {2}
        assert most == [1] * len(planners)
        assert all(map(torch.equal, found, alone))

    def test_no_gradient_is_carried(self):
        planner = SessionPlanner(USERS, "home")
        policy = random_policy(planner, 0)
        assert torch.equal(planner.value_of(policy.clone().requires_grad_()), planner.value_of(policy))
        assert not planner.value_of(policy.requires_grad_()).requires_grad

    @pytest.mark.parametrize("discount", [0.5, 0.97, 0.999])
    @pytest.mark.parametrize("settings", [SessionSettings(), LATE])
    def test_actions_have_the_value_of_a_policy_that_is_sure_of_them(self, settings, discount):
        for task in SURFACES:
            planner = SessionPlanner(USERS, task, settings, discount)
            action = random_policy(planner, 0).argmax(-1)
            exact = planner.value_of(always(planner, action).double())
            found = planner.value_of_actions(action)
            assert float((found - exact).abs().max()) < 1e-6 * (1 + 1.5 * float(planner.best().value.max()))
            assert float(exact.std()) > 0.02

    def test_it_is_a_mixture_in_the_first_step_only(self):
        """Where the discount is 0 the value is linear in the policy; otherwise it is not."""
        for discount, linear in ((0.0, True), (0.9, False)):
            planner = SessionPlanner(USERS, "home", discount=discount)
            one, other = random_policy(planner, 0), random_policy(planner, 1)
            mixed = planner.value_of((one + other) / 2)
            apart = (mixed - (planner.value_of(one) + planner.value_of(other)) / 2).abs().max()
            assert (float(apart) < 1e-5) == linear


def test_what_would_be_done_where_no_session_comes_changes_nothing():
    planner = SessionPlanner(make_users(5, 0), "search", SessionSettings())
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(2, 5, len(planner.states.user), 6, generator=generator).softmax(-1)
    reached = torch.zeros(len(planner.states.user), dtype=torch.bool)
    reached[planner._reachable] = True
    assert 0 < int((~reached).sum()) < len(reached)
    elsewhere = torch.where(reached[:, None], one, other)
    assert torch.equal(planner.value_of(elsewhere), planner.value_of(one))
    assert not torch.equal(planner.value_of(other), planner.value_of(one))
