"""Lesson 09: its exercises accept what is right, its values are exact, its levels learn from what they should."""

import itertools
import os
import re
from dataclasses import replace

import pytest
import torch

from recmtl_lessons.envs import ChainEnv, SessionPlanner, chain_value, users_from_ratings
from recmtl_lessons.lessons import hierarchical as lesson
from recmtl_lessons.lessons.hierarchical import chain, explorers, pictures, sessions, watching
from recmtl_lessons.models import semi_markov_target
from recmtl_lessons.teaching.claim import t_interval
from recmtl_lessons.teaching.style import new_figure
from recmtl_lessons.training import Acted, Actors, Chooser, Scores, Sessions, actor_critic, two_levels

SLOW = pytest.mark.skipif(not os.environ.get("RECMTL_SLOW_TESTS"), reason="minutes: set RECMTL_SLOW_TESTS=1")
SMALL = (0, 1)
SHORT = two_levels.Training(goal_steps=4, updates=5, sessions=6, steps=5, epochs=1, minibatches=2)
LEVELS = replace(SHORT, updates=15)
POLICIES = replace(LEVELS, epochs=2, minibatches=3)  # of the flat policies, on as many steps


@pytest.fixture(scope="module")
def late():
    return sessions.compare(3, sessions.ARMS, SMALL, LEVELS, POLICIES, group=1, every=5)


def force(stack, part, choices):
    """Let models choose one thing for sure: add 60 to its logit, one choice a model, or one a model and goal."""
    with torch.no_grad():
        (bias,) = (value for name, value in stack._parameters.items() if name.endswith(f"{part}.bias"))
        bias += 60 * torch.nn.functional.one_hot(torch.tensor(choices), bias.shape[-1])
    return stack


def apart(arms):
    """How far the nearest two of some arms (at most 1 from each other) are, where they are farthest."""
    rows = torch.stack(list(arms)).flatten(1)
    return float((torch.cdist(rows, rows, p=float("inf")) + torch.eye(len(rows))).min())


def counted(number, thing):
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


# What is asked.


def test_other_right_ways_are_accepted(verdict):
    def by_a_loop(rewards, value_after, terminated, discount):
        total = torch.zeros(()) if terminated else value_after
        for reward in reversed(rewards):
            total = reward + discount * total
        return total

    def by_gather(answers, goals):
        return answers.gather(0, goals.view(1, -1, 1).expand(1, -1, answers.shape[-1])).squeeze(0)

    def by_one_hot(before, after, paid, goal):
        mine = torch.nn.functional.one_hot(goal, before.shape[1])
        return ((after - before) * mine).sum(1) + paid

    def by_the_package(rewards, value_after, terminated, discount):
        paid = sum(discount**j * reward for j, reward in enumerate(rewards.tolist()))
        goal = torch.tensor([paid]), torch.tensor([len(rewards)]), value_after[None], terminated[None]
        return semi_markov_target(*goal, discount)

    def one_by_one(answers, goals):
        return torch.stack([answers[int(goal)][row] for row, goal in enumerate(goals)])

    for answer in (by_a_loop, by_the_package):
        assert verdict(lesson.exercise_target, answer).kind == "right"
    for answer in (by_gather, one_by_one):
        assert verdict(lesson.exercise_rows, answer).kind == "right"
    assert verdict(lesson.exercise_progress, by_one_hot).kind == "right"


def test_the_notebook_with_solutions_in_it_passes_its_checks(solved):
    answers = {
        "my_target": "powers = discount ** torch.arange(len(rewards))\n"
        "return (powers * rewards).sum() + discount ** len(rewards) * value_after * ~terminated",
        "my_rows": "return answers[goals, torch.arange(len(goals))]",
        "my_progress": "rows = torch.arange(len(goal))\nreturn (after - before)[rows, goal] + paid",
    }
    kinds = solved("09_hierarchical.ipynb", {"lesson": lesson, "torch": torch}, answers)
    assert kinds == dict.fromkeys(answers, "right")


# The chain.


def played_return(model, episodes):
    """Mean return of a model on the chain, played with the environment of one episode."""
    total, env = 0.0, ChainEnv()
    generator = torch.Generator().manual_seed(0)
    for episode in range(episodes):
        state, _ = env.reset(seed=episode)
        goal, terminated = None, False
        while not terminated:
            seen = torch.from_numpy(state).unsqueeze(0)
            if goal is None:
                goal, _ = model.get_goal(seen, generator=generator)
            action, _ = model.get_action(seen, goal, generator=generator)
            state, reward, terminated, _, _ = env.step(action.item())
            total += reward
            if state[goal.item()] == 1:
                goal = None
    return total / episodes


def test_the_value_of_two_levels_is_what_they_earn():
    stack = Actors(chain.two_levels_on_chain, [{"arm": 0.0}], SMALL, 1e-2)
    how = replace(chain.TRAINING, updates=12)
    chances = Chooser(2, 0)
    walker = two_levels.Walker(stack, chain.ChainPlace(2, how.sessions, chances), how.goal_steps, chances)
    for _ in two_levels.train(stack, walker, how):
        pass
    exact = chain.two_levels_value(stack)
    with torch.no_grad():
        played = played_return(stack.model(0), 600)
    assert 0.02 < float(exact[0]) < 0.209
    # A return is 1 or 0.01, so that the standard error of the mean is known.
    error = float(exact[0] * (1 - exact[0]) / 600) ** 0.5
    assert abs(played - float(exact[0])) < 4 * error


def test_levels_whose_goal_is_always_s6_go_right_and_earn_the_optimum():
    stack = Actors(chain.two_levels_on_chain, [{"arm": 0.0}], (0,), 1e-2)
    with torch.no_grad():
        for name, value in stack._parameters.items():
            if "controllers.policy.bias" in name:
                value[..., 1] = 60.0  # whatever the goal: right
    assert float(chain.two_levels_value(stack)) == pytest.approx(0.208, abs=1e-6)


def test_a_flat_policy_has_the_value_of_its_table():
    arms = [{"discount": 0.99, "history": history} for history in (0.0, 1.0)]
    stack, _ = chain.flat_policies(arms, SMALL, chain.TRAINING)
    with torch.no_grad():
        for name, value in stack._parameters.items():
            if "policy_heads" in name:
                value *= 100  # so that places make a difference
    found = chain.flat_policy_value(stack)
    for number, history in enumerate((0, 0, 1, 1)):
        policy = torch.empty(6, 2, 2)
        for visited in (0, 1):
            seen = torch.cat([torch.eye(6), torch.full((6, 1), float(visited * history))], dim=1)
            with torch.no_grad():
                policy[:, visited] = stack.model(number)(seen, "chain")[0].softmax(-1)
        torch.testing.assert_close(found[number], chain_value(policy))
    even = chain_value(torch.full((6, 2, 2), 0.5))
    assert float((found - even).abs().min()) > 1e-3
    assert float(found[0] - found[1]) != pytest.approx(0, abs=1e-3)


def test_a_table_without_the_history_stays_behind_while_it_explores():
    arms = [chain.QLearning(history=True, epsilon=0.3), chain.QLearning(), chain.TABLES["flat Q, stops"]]
    history, without, stops = chain.q_learning(arms, (20, 21, 22), 25_600, 10)
    assert history.shape == without.shape == stops.shape == (3, 10)
    for returns in (history, stops):
        torch.testing.assert_close(returns[:, -1], torch.full((3,), 0.208, dtype=torch.float64))
    assert float(without[:, 5:].mean()) < 0.15


def test_a_table_moves_by_the_mean_of_its_errors():
    table = torch.zeros(1, 12, 2)
    chain._move(table, torch.tensor([[3, 3, 8]]), torch.tensor([[1.0, 3.0, -2.0]]), 0.5)
    expected = torch.zeros(24)
    expected[3], expected[8] = 1.0, -1.0
    assert torch.equal(table.flatten(), expected)


FOUR = (0, 1, 2, 3)  # seeds: the last quarter is one
ON_CHAIN = replace(chain.TRAINING, updates=20, sessions=32, steps=24)  # enough for a table to find the way
FLAT_ON_CHAIN = replace(ON_CHAIN, sessions=64, steps=12, learning_rate=6e-3, entropy=0.01)  # as many steps


@pytest.fixture(scope="module")
def on_chain():
    return chain.compare_on_chain(FOUR, ON_CHAIN, FLAT_ON_CHAIN)


def test_learners_on_the_chain_can_be_told_apart(on_chain):
    """What the tests beside this one need."""
    learners, two_goals, untaught = (on_chain[name] for name in ("learners", "two goals", "no gradient"))
    assert set(learners) == {"two levels", *chain.FLAT_ARMS, *chain.TABLES}
    assert set(two_goals) == {"two levels", "two goals"}
    assert set(untaught) == {"two levels", "no gradient"}
    for scores, seeds in ((learners, 4), (two_goals, 3), (untaught, 1)):
        assert scores.values.shape[1:] == (seeds, 4)
        assert scores.steps == (3_840, 7_680, 11_520, 15_360)
    assert torch.equal(two_goals["two levels"], learners["two levels"][:3])
    assert torch.equal(untaught["two levels"], learners["two levels"][3:])
    assert apart(learners.values[:, :3]) > 1e-3  # where the first mistake is
    some = [arm for arm in learners if arm != "flat Q, stops"]  # on a single seed two tables may earn the same
    assert apart(learners.only(*some).values[:, 3:]) > 1e-3  # where the second is
    for learner in learners:
        assert apart([learners[learner][:3], two_goals["two goals"]]) > 1e-3
        assert apart([learners[learner][3:], untaught["no gradient"]]) > 1e-3
    pictures.draw_chain(on_chain, new_figure(11, 4.5))
    twice = {name: replace(s, values=s.values.repeat(1, 2, 1)) for name, s in on_chain.items()}  # for an interval
    pictures.draw_mistakes(twice, new_figure(8.6, 4.3))


def test_what_is_late_is_the_second_half_of_the_points():
    returns = torch.tensor([[9.0, 9.0, 1.0, 2.0, 6.0], [8.0, 8.0, 2.0, 2.0, 5.0]])  # of five, the middle belongs to it
    late = chain.second_half(Scores.of("return", {"one": returns, "other": returns + 1}, range(1, 6)))
    assert late["one"].tolist() == [3.0, 3.0]
    assert late["other"].tolist() == [4.0, 4.0]
    assert chain.second_half(Scores.of("return", {"": returns[:, 1:]}, range(1, 5)))[""].tolist() == [4.0, 3.5]


def levels_on_chain(seeds, how, two_goals=False, untaught=False, copies=1):
    """Exact returns on the way of two levels trained by themselves, all seeds with the same mistake or with none.

    Copies are for company alone: rounding depends on how many models there are, and grows as they learn.
    """
    stack = Actors(chain.two_levels_on_chain, [{}] * copies, seeds, how.learning_rate, clip=0.5)
    many, chances = len(stack), Chooser(len(seeds), seeds[0])
    place = chain.ChainPlace(many, how.sessions, chances)
    walker = two_levels.Walker(stack, place, how.goal_steps, chances, torch.tensor([two_goals] * many))
    training = two_levels.train(stack, walker, how, untaught=torch.tensor([untaught] * many), every=5)
    return torch.stack([chain.two_levels_value(stack)[: len(seeds)] for _ in training], dim=1).float()


def test_two_levels_on_the_chain_come_to_what_they_do_when_trained_alone(on_chain):
    """The first mistake on the first three quarters of the seeds, the second on the last."""
    right, two, none = (
        levels_on_chain(FOUR, ON_CHAIN, two_goals, untaught, copies=2)
        for two_goals, untaught in ((False, False), (True, False), (False, True))
    )
    for seed in range(4):
        assert apart([right[seed], two[seed], none[seed]]) > 1e-3  # no mistake can be taken for another, on no seed
    torch.testing.assert_close(on_chain["learners"]["two levels"], right, rtol=0, atol=1e-4)
    for mistake, found in (("two goals", two[:3]), ("no gradient", none[3:])):
        torch.testing.assert_close(on_chain[mistake][mistake], found, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("rate", "arms"),
    [
        (5e-3, {"policy, history": (1.0, 0.5, 0.9, 0.0), "policy, λ = 1": (0.0, 1.0, 0.99, 0.0)}),
        (1e-2, {"policy, λ = 0.5": (0.0, 0.5, 0.99, 0.05)}),
    ],
    ids=["slow", "fast"],
)
def test_flat_policies_on_the_chain_come_to_what_they_do_in_another_order(on_chain, rate, arms):
    names, how = ("history", "gae_lambda", "discount", "entropy"), replace(FLAT_ON_CHAIN, learning_rate=rate)
    stack, running = chain.flat_policies([dict(zip(names, arm, strict=True)) for arm in arms.values()], FOUR, how)
    found = [chain.flat_policy_value(stack).float() for _ in actor_critic.train(stack, running, how, every=5)]
    for learner, returns in zip(arms, stack.by_setting(torch.stack(found, dim=1)), strict=True):
        torch.testing.assert_close(on_chain["learners"][learner], returns, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("learner", "settings"),
    [
        ("flat Q", {}), ("flat Q, history", {"history": True}),
        ("flat Q, stops", {"epsilon": 0.0, "exploration_fraction": 0.5}),
    ],
)  # fmt: skip
def test_tables_on_the_chain_come_to_what_they_do_alone(on_chain, learner, settings):
    (found,) = chain.q_learning([chain.QLearning(**settings)], FOUR, 15_360, 4)
    torch.testing.assert_close(on_chain["learners"][learner], found.float(), rtol=0, atol=1e-6)


def test_exploration_falls_as_it_is_told(monkeypatch):
    """From 1 to the last epsilon, over the part of the rounds that is named, of each table by itself."""
    seen, rule = [], Chooser.epsilon_greedy
    monkeypatch.setattr(Chooser, "epsilon_greedy", lambda c, v, epsilon: seen.append(epsilon) or rule(c, v, epsilon))
    arms = [chain.QLearning(epsilon=0.2), chain.QLearning(epsilon=0.0, exploration_fraction=0.5)]
    chain.q_learning(arms, SMALL, 80, 1)
    whole, half = torch.stack(seen).squeeze(2)[:, :: len(SMALL)].T.tolist()  # (20 rounds, 2 tables)
    assert whole == pytest.approx([1 - 0.8 * k / 20 for k in range(1, 21)])
    assert half == pytest.approx([max(0.0, 1 - k / 10) for k in range(1, 21)])


def test_a_history_that_no_model_sees_has_its_place_all_the_same():
    chances = Chooser(1, 0)
    blind, mixed = (chain.ChainSessions(history, 3, chances) for history in ((False,), (False, True)))

    def right(seen):
        return {"chain": Acted(torch.ones(seen["chain"].shape[:2], dtype=torch.long))}

    for running, models in ((blind, 1), (mixed, 2)):
        rollout = running.collect(right, 60)["chain"]
        for seen in (rollout.observations, rollout.next_observations):
            assert seen.shape == (60, models, 3, 7)
            assert bool((seen[:, 0, :, 6] == 0).all())
            assert bool((seen[..., :6].sum(-1) == 1).all())
    assert bool((rollout.next_observations[:, 1, :, 6] == 1).any())


# How both levels learn.


def walker_of(two_goals=None, goal_steps=3, clicks=3, time_limit=sessions.TIME_LIMIT):
    stack = sessions._stack(sessions.two_level_network, SMALL, SHORT)
    learned = [sessions.users_of(s, 0) for s in SMALL]
    settings = replace(sessions.settings_of(clicks), time_limit=time_limit)
    running = Sessions(learned, (sessions.TASK,), SHORT.sessions, settings, SMALL)
    return stack, two_levels.Walker(stack, sessions.SessionPlace(running), goal_steps, Chooser(2, 0), two_goals)


class Scripted:
    """A place where what happens is written down beforehand, whatever is done.

    Where an episode ends, what the step led to is another state than the one that is seen next.
    """

    def __init__(self, steps, models, episodes, reward=None):
        luck = torch.Generator().manual_seed(3)
        shape = (steps, models, episodes)
        self.states, self.last_seen = torch.randn(2, steps + 1, models, episodes, sessions.STATE_DIM, generator=luck)
        draw = torch.rand(4, *shape, generator=luck)
        self.reached, self.terminated, self.truncated = draw[0] < 0.12, draw[1] < 0.08, draw[2] < 0.08
        self.truncated &= ~self.terminated
        self.reward, self.t = draw[3] + 0.5 if reward is None else reward, 0

    @property
    def seen(self):
        return self.states[self.t]

    def step(self, goal, action):
        t = self.t
        self.t += 1
        over = (self.terminated[t] | self.truncated[t])[..., None]
        led_to = torch.where(over, self.last_seen[t], self.states[self.t])
        intrinsic = self.reached[t].float()
        return two_levels.Stepped(
            self.reward[t], intrinsic, self.reached[t], self.terminated[t], self.truncated[t], led_to
        )


MOST = (5, 4)  # steps of a goal, of either model


def scripted(steps, reward=None):
    """Two models, each with a limit of its own on its goals."""
    stack = sessions._stack(sessions.two_level_network, SMALL, SHORT)
    place = Scripted(steps, 2, SHORT.sessions, reward)
    return stack, two_levels.Walker(stack, place, torch.tensor(MOST), Chooser(2, 0))


def in_sessions(_):
    """The same where users decide what happens: two clicks a reward, sessions of eight steps at most."""
    return walker_of(goal_steps=torch.tensor(MOST), clicks=2, time_limit=8)


def joined(rollouts):
    """Rollouts, one behind the other, as one."""
    return two_levels.Walked(**{name: torch.cat([getattr(r, name) for r in rollouts]) for name in vars(rollouts[0])})


def goals_by_hand(stack, walked, most=MOST):
    """All goals that ended, found step by step: {(t, m, b) of their last step: what is known of them}."""
    found = {}
    steps, models, episodes = walked.reward.shape
    for m, b in itertools.product(range(models), range(episodes)):
        network, start = stack.model(m), 0
        for t in range(steps):
            stops = walked.reached[t, m, b] or walked.terminated[t, m, b] or walked.truncated[t, m, b]
            if not stops and t - start + 1 < most[m]:
                continue
            with torch.no_grad():
                logits, value = network(walked.state[start, m, b][None])
                ahead = 0.0 if walked.terminated[t, m, b] else float(network(walked.led_to[t, m, b][None])[1])
            paid = sum(0.9**k * float(r) for k, r in enumerate(walked.reward[start : t + 1, m, b]))
            found[t, m, b] = {
                "start": start, "state": walked.state[start, m, b], "age": t - start + 1, "paid": paid,
                "log_prob": float(logits.log_softmax(-1)[0, walked.goal[start, m, b]]),
                "target": 0.1 * paid + 0.9 ** (t - start + 1) * ahead, "value": float(value),
            }  # fmt: skip
            start = t + 1
    return found


def test_a_goal_is_kept_until_it_ends():
    _, walker = walker_of()
    walked = walker.walk(30)
    ended = walked.goal_ended
    kept = ~ended[:-1]
    assert bool((walked.goal[1:] == walked.goal[:-1])[kept].all())
    assert int((walked.goal[1:] != walked.goal[:-1])[ended[:-1]].sum()) > 20
    over = walked.terminated | walked.truncated | walked.reached
    assert torch.equal(ended, over | (walked.age == 3))
    age = torch.zeros(2, SHORT.sessions)
    for t in range(30):
        age = torch.where(ended[t - 1], 1, age + 1) if t else age + 1
        assert torch.equal(walked.age[t].float(), age)
    assert int(walked.age.max()) == 3


@pytest.mark.parametrize("begin", [scripted, in_sessions])
def test_short_rollouts_one_behind_the_other_are_one_long_one(begin):
    """Of the same luck. Each is shorter than goals may last, so that these run on from one to the next."""
    (_, several), (_, one) = begin(24), begin(24)
    short, long = joined([several.walk(3) for _ in range(8)]), one.walk(24)
    for name, values in vars(long).items():
        assert torch.equal(getattr(short, name), values), name


@pytest.mark.parametrize("begin", [scripted, in_sessions])
def test_what_is_known_of_a_goal_when_it_ends_is_what_a_loop_over_its_steps_finds(begin):
    stack, walker = begin(24)
    walked = joined([walker.walk(3) for _ in range(8)])
    goals = goals_by_hand(stack, walked)
    assert {tuple(place) for place in walked.goal_ended.nonzero().tolist()} == set(goals)
    for place, goal in goals.items():
        assert torch.equal(walked.chosen_in[place], goal["state"])
        assert int(walked.age[place]) == goal["age"]
        assert float(walked.paid[place]) == pytest.approx(goal["paid"], abs=1e-5)
        assert float(walked.goal_log_prob[place]) == pytest.approx(goal["log_prob"], abs=1e-5)
    from_earlier = [goal for (t, _, _), goal in goals.items() if goal["start"] // 3 < t // 3]
    assert len(from_earlier) > 20
    assert sum(goal["paid"] > 0 for goal in from_earlier) > 5
    assert len({goal["age"] for goal in from_earlier}) >= 3


@pytest.mark.parametrize("begin", [scripted, in_sessions])
def test_targets_of_goals_hold_what_came_in_earlier_rollouts_and_in_this_one(begin):
    """Row by row where goals end, and advantages brought to mean 0 and deviation 1 over these rows, model by model."""
    stack, walker = begin(24)
    rollouts = [walker.walk(3) for _ in range(8)]
    walked = joined(rollouts)
    goals, met, late = goals_by_hand(stack, walked), 0, 0
    for number, rollout in enumerate(rollouts):
        rows = two_levels.prepared(stack, rollout, 0.6)
        for m in range(2):
            mine = [goals.get((3 * number + t, m, b)) for t in range(3) for b in range(SHORT.sessions)]
            assert rows["goal_ended"][m].tolist() == [goal is not None for goal in mine]
            ended = [k for k, goal in enumerate(mine) if goal is not None]
            if not ended:
                assert bool(torch.isfinite(rows["goal_advantage"][m]).all())
                continue
            ahead = torch.tensor([mine[k]["target"] - mine[k]["value"] for k in ended])
            for name, key in (("goal_returns", "target"), ("goal_log_prob", "log_prob")):
                expected = torch.tensor([mine[k][key] for k in ended])
                torch.testing.assert_close(rows[name][m, ended], expected, rtol=0, atol=1e-5)
            assert torch.equal(rows["chosen_in"][m, ended], torch.stack([mine[k]["state"] for k in ended]))
            standard = (ahead - ahead.mean()) / (ahead.std(correction=0) + 1e-6)
            torch.testing.assert_close(rows["goal_advantage"][m, ended], standard, rtol=1e-3, atol=2e-3)
            met += len(ended)
            for k in ended:
                t, b = divmod(k, SHORT.sessions)
                earlier = walked.reward[mine[k]["start"] : 3 * number, m, b].sum()
                late += bool(earlier > 0 and rollout.reward[: t + 1, m, b].sum() > 0)
    assert met == len(goals)
    if begin is scripted:  # in sessions no goal is paid twice: it has ended with the first reward
        assert late > 20


def test_every_reward_is_in_exactly_one_target():
    """One reward at a time, and no values: what it adds to the targets of all rollouts is one discounted number."""
    steps, counted, after_a_boundary = 14, 0, 0
    for paid_at in range(steps):
        reward = torch.zeros(steps, 2, SHORT.sessions)
        reward[paid_at] = 1.0
        stack, walker = scripted(steps, reward)
        with torch.no_grad():
            for name, values in stack._parameters.items():
                if "meta.value" in name:
                    values.zero_()
        rollouts = [walker.walk(2) for _ in range(steps // 2)]
        rows = [two_levels.prepared(stack, rollout, 0.6) for rollout in rollouts]
        targets = torch.cat(
            [(r["goal_returns"] * r["goal_ended"]).unflatten(1, (2, SHORT.sessions)) for r in rows], dim=1
        )  # (M, T, B)
        goals = goals_by_hand(stack, joined(rollouts))
        for m, b in itertools.product(range(2), range(SHORT.sessions)):
            holds = {t: g for (t, k, c), g in goals.items() if (k, c) == (m, b) and g["start"] <= paid_at <= t}
            expected = torch.zeros(steps)
            for t, goal in holds.items():
                expected[t] = 0.1 * 0.9 ** (paid_at - goal["start"])
                after_a_boundary += goal["start"] // 2 < paid_at // 2
            assert len(holds) <= 1  # none if the goal has not ended yet
            counted += len(holds)
            torch.testing.assert_close(targets[m, :, b], expected, rtol=0, atol=1e-7)
    running = int((~walker.needs).sum())  # goals that have not ended, of a few steps each
    assert steps * 2 * SHORT.sessions - 4 * running <= counted < steps * 2 * SHORT.sessions
    assert after_a_boundary > 40


def test_who_follows_one_goal_and_records_another_is_found_out():
    """What is recorded is what was drawn first; what acts, and decides what is reached, is the other."""
    _, right = walker_of()
    stack, wrong = walker_of(torch.tensor([False, True]))
    differ, acted, seen = 0, [], []
    for _ in range(12):
        state = wrong.place.seen
        one, other = right.step(), wrong.step()
        assert torch.equal(right.goal, right.recorded)
        assert torch.equal(one.goal, right.recorded)
        assert torch.equal(other.goal, wrong.recorded)
        assert torch.equal(wrong.goal[0], wrong.recorded[0])
        assert torch.equal(one.goal[0], other.goal[0])
        differ += int((wrong.goal[1] != wrong.recorded[1]).sum())
        with torch.no_grad():
            network = stack.model(1)
            acting = network(state[1], "task", wrong.goal[1])[0].log_softmax(-1)
            recorded = network(state[1], "task", wrong.recorded[1])[0].log_softmax(-1)
        acted.append(acting.gather(1, other.action[1][:, None]).squeeze(1) - other.action_log_prob[1])
        seen.append(recorded.gather(1, other.action[1][:, None]).squeeze(1) - other.action_log_prob[1])
    assert differ > 20
    torch.testing.assert_close(torch.stack(acted), torch.zeros(12, SHORT.sessions), rtol=0, atol=1e-5)
    assert float(torch.stack(seen).abs().max()) > 1e-3


def test_targets_of_the_controllers_end_with_the_goal_reached_and_are_cut_where_it_was_given_up():
    """Written out session by session: nothing is added after the end, the controller's own value after a cut."""
    stack, walker = walker_of(clicks=2, time_limit=5)
    walked = walker.walk(12)
    ended = walked.reached | walked.terminated
    given_up = walked.goal_ended & ~ended & ~walked.truncated
    for kind in (walked.reached & ~walked.terminated, walked.terminated, given_up, walked.truncated & ~ended):
        assert int(kind.sum()) >= 2
    rows = two_levels.prepared(stack, walked, 0.6)
    for m in range(2):
        network = stack.model(m)
        with torch.no_grad():
            own, after = (
                torch.stack([network(s, "task", g)[1] for s, g in zip(seen[:, m], walked.goal[:, m], strict=True)])
                for seen in (walked.state, walked.led_to)
            )
        advantage = torch.zeros(12, SHORT.sessions)
        for b in range(SHORT.sessions):
            for t in range(12):
                weight = 1.0
                for k in range(t, 12):
                    ahead = 0.0 if ended[k, m, b] else 0.9 * after[k, b]
                    advantage[t, b] += weight * (0.1 * walked.intrinsic[k, m, b] + ahead - own[k, b])
                    weight *= 0.9 * 0.6
                    if ended[k, m, b] or given_up[k, m, b] or walked.truncated[k, m, b]:
                        break
        torch.testing.assert_close(rows["returns"][m], (advantage + own).flatten(), rtol=1e-4, atol=1e-5)
        standard = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-6)
        torch.testing.assert_close(rows["advantage"][m], standard.flatten(), rtol=1e-3, atol=1e-3)


def loss_of(stack, rows):
    flags = {"taught": torch.ones(2), "meta_taught": torch.ones(2)}
    loss, _ = stack.evaluate(lambda *a: two_levels.objective(*a, clip=0.2, bonus=0.01), {**rows, **flags})
    return loss.detach()


@pytest.mark.parametrize("part", ["goal_advantage", "goal_returns", "goal_log_prob", "chosen_in"])
def test_a_goal_that_goes_on_teaches_the_meta_controller_nothing(part):
    """Whatever stands in its rows; and what stands where a goal has ended does matter."""
    stack, walker = walker_of()
    rows = two_levels.prepared(stack, walker.walk(12), 0.6)
    ended = rows["goal_ended"]
    assert 20 < int(ended.sum()) < ended.numel() - 20
    twist = {"goal_advantage": 99.0, "goal_returns": -99.0, "goal_log_prob": -3.0, "chosen_in": 2.0}[part]
    same, other = (
        {**rows, part: torch.where(where.view(*where.shape, *[1] * (rows[part].ndim - 2)), twist, rows[part])}
        for where in (~ended, ended)
    )
    before = loss_of(stack, rows)
    torch.testing.assert_close(loss_of(stack, same), before)
    assert bool(((loss_of(stack, other) - before).abs() > 1e-3).all())


@pytest.mark.parametrize(
    ("mistakes", "learns"),
    [
        ({"untaught": [False, True]}, [("meta", "controllers"), ("meta",)]),
        ({"meta_untaught": [True, False]}, [("controllers",), ("meta", "controllers")]),
        ({"untaught": [True, False], "meta_untaught": [True, True]}, [(), ("controllers",)]),
        ({}, [("meta", "controllers"), ("meta", "controllers")]),
    ],
)
def test_a_level_that_is_not_taught_keeps_its_weights_and_the_other_learns(mistakes, learns):
    stack, walker = walker_of()
    before = [stack.model(m).state_dict() for m in range(2)]
    for _ in two_levels.train(stack, walker, SHORT, **{name: torch.tensor(flags) for name, flags in mistakes.items()}):
        pass
    for m in range(2):
        after = stack.model(m).state_dict()
        for level in ("meta", "controllers"):
            moved = [not torch.equal(before[m][name], after[name]) for name in after if name.startswith(f"{level}.")]
            assert len(moved) >= 4
            assert all(moved) if level in learns[m] else not any(moved), (m, level)


# Sessions.


def test_progress_is_what_the_count_gains_and_a_click_elsewhere_undoes_it():
    running = Sessions([sessions.users_of(s, 0) for s in SMALL], (sessions.TASK,), 40, sessions.settings_of(3), SMALL)
    place, env = sessions.SessionPlace(running), running.envs[sessions.TASK]
    lead, chances = env.rules.surface.lead, Chooser(2, 1)
    seen_rewards, seen_losses = 0, 0
    for _ in range(60):
        before = env.state.streak.view(2, 40, 3).clone()
        action = chances.uniform(torch.zeros(2, 40)).mul(6).long()
        goal = chances.uniform(torch.zeros(2, 40)).mul(3).long()
        done = place.step(goal, action)
        running_on = ~(done.terminated | done.truncated)
        after = env.state.streak.view(2, 40, 3)
        mine = before.gather(-1, goal[..., None]).squeeze(-1)
        now = after.gather(-1, goal[..., None]).squeeze(-1)
        paid = torch.where(lead[action] == goal, done.reward, 0.0)
        assert torch.equal(done.intrinsic[running_on].round(), (now + paid - mine)[running_on])
        assert torch.equal(done.reached, (done.reward > 0) & (lead[action] == goal))
        seen_rewards += int((paid > 0).sum())
        seen_losses += int((done.intrinsic < -0.5).sum())
    assert seen_rewards > 5
    assert seen_losses > 20


def test_progress_of_a_flat_policy_sums_to_the_clicks_of_a_reward():
    learned = [sessions.users_of(s, 0) for s in SMALL]
    running = sessions.PaidForProgress(learned, (sessions.TASK,), 200, sessions.settings_of(2), SMALL)
    action = torch.zeros(2, 200, dtype=torch.long)  # one category all the time: nothing is undone
    total = torch.zeros(2, 200)
    clicks = torch.zeros(2, 200)
    for _ in range(4):
        done = running.step({sessions.TASK: Acted(action)})[sessions.TASK]
        total += done.rewards
        clicks += done.clicked
    torch.testing.assert_close(total, clicks)
    assert float(total.max()) >= 3


def test_a_flat_policy_gains_and_loses_progress_in_all_categories():
    learned = [sessions.users_of(s, 0) for s in SMALL]
    running = sessions.PaidForProgress(learned, (sessions.TASK,), 40, sessions.settings_of(3), SMALL)
    env, chances, gained, lost, paid = running.envs[sessions.TASK], Chooser(2, 1), 0, 0, 0
    plain = Sessions(learned, (sessions.TASK,), 40, sessions.settings_of(3), SMALL)
    for _ in range(60):
        before = env.state.streak.view(2, 40, 3).sum(-1)
        action = chances.uniform(torch.zeros(2, 40)).mul(6).long()
        done, other = (s.step({sessions.TASK: Acted(action)})[sessions.TASK] for s in (running, plain))
        goes_on = ~(done.terminated | done.truncated)
        expected = env.state.streak.view(2, 40, 3).sum(-1) - before + other.rewards
        assert torch.equal(done.rewards[goes_on].round(), expected[goes_on])
        torch.testing.assert_close(done.rewards, done.rewards.round(), rtol=0, atol=1e-5)
        for name in ("observations", "next_observations", "terminated", "truncated", "clicked"):
            assert torch.equal(getattr(done, name), getattr(other, name))  # nothing but the reward differs
        gained, lost = gained + int((done.rewards > 0.5).sum()), lost + int((done.rewards < -0.5).sum())
        paid += int((other.rewards > 0).sum())
    assert min(gained, lost) > 50
    assert paid > 5


def levels_alone(learned, judged, settings, how, by_chance, every=5):
    """Two levels trained by themselves: their returns on the way, and in the end from more sessions."""
    stack = sessions._stack(sessions.two_level_network, SMALL, how)
    running = Sessions(learned, (sessions.TASK,), how.sessions, settings, SMALL)
    walker = two_levels.Walker(stack, sessions.SessionPlace(running), how.goal_steps, Chooser(2, SMALL[0]))
    training = two_levels.train(stack, walker, how, meta_untaught=torch.tensor([by_chance] * 2), every=every)
    found = [sessions.judge_two_levels(stack, judged, settings, how.goal_steps, sessions.GLANCE) for _ in training]
    found[-1] = sessions.judge_two_levels(stack, judged, settings, how.goal_steps, sessions.LOOK)
    return torch.stack(found, dim=1)


def flat_alone(learned, judged, settings, how, kind, every=5):
    """The same for flat policies in one kind of sessions."""
    stack = sessions._stack(sessions.flat_network, SMALL, how)
    running = kind(learned, (sessions.TASK,), how.sessions, settings, SMALL)
    training = actor_critic.train(stack, running, how, every=every)
    found = [sessions.judge_flat(stack, judged, settings, sessions.GLANCE) for _ in training]
    found[-1] = sessions.judge_flat(stack, judged, settings, sessions.LOOK)
    return torch.stack(found, dim=1)


def arms_alone(arms, learned, judged, settings, how=LEVELS, flat_how=POLICIES, every=5):
    """{arm: returns on the way and in the end}, each trained again."""
    users = (learned, judged, settings)
    ways = {
        "two levels": lambda: levels_alone(*users, how, False, every),
        "goals by chance": lambda: levels_alone(*users, how, True, every),
        "flat": lambda: flat_alone(*users, flat_how, Sessions, every),
        "paid for progress": lambda: flat_alone(*users, flat_how, sessions.PaidForProgress, every),
    }
    return {arm: ways[arm]() for arm in arms}


def best_by_hand(users, settings):
    return SessionPlanner(users, sessions.TASK, settings, 0.9).best().returns.mean()


def test_arms_of_sessions_come_to_what_they_do_when_trained_alone(late):
    learned, judged = ([sessions.users_of(seed, group) for seed in SMALL] for group in (0, 1))
    expected = arms_alone(sessions.ARMS, learned, judged, sessions.settings_of(3))
    assert set(late.curves) == set(late.returns) == set(late.stacks) == set(expected)
    assert late.steps.tolist() == [5 * 30, 10 * 30, 15 * 30]
    for arm, curve in expected.items():
        torch.testing.assert_close(late.curves[arm], curve, rtol=0, atol=1e-3)
        assert torch.equal(late.returns[arm], late.curves[arm][:, -1])
    for arm in ("two levels", "goals by chance"):  # in the end on other sessions than on the way
        glance = sessions.judge_two_levels(late.stacks[arm], judged, sessions.settings_of(3), LEVELS.goal_steps)
        assert float((glance - late.returns[arm]).abs().min()) > 1e-2
    for arm in ("flat", "paid for progress"):
        glance = sessions.judge_flat(late.stacks[arm], judged, sessions.settings_of(3))
        assert float((glance - late.returns[arm]).abs().min()) > 1e-2
    assert apart(late.curves.values()) > 1e-2  # no arm can be taken for another
    assert apart(late.returns.values()) > 1e-2
    assert float(min(values.min() for values in late.returns.values())) > 0


def test_fewer_arms_are_those_that_were_asked_for(late):
    arms = ("paid for progress", "two levels")
    found = sessions.compare(3, arms, SMALL, LEVELS, POLICIES, group=1, every=15)
    assert set(found.curves) == set(found.stacks) == set(arms)
    assert found.steps.tolist() == [15 * 30]
    for arm in arms:
        torch.testing.assert_close(found.curves[arm], late.curves[arm][:, 2:], rtol=0, atol=1e-3)


def test_controls_have_the_first_of_the_seeds(monkeypatch, late):
    """And leads are taken seed by seed, where both have one."""
    monkeypatch.setattr(sessions, "CONTROL_SEEDS", 2)
    found = sessions.compare(3, sessions.ARMS, (*SMALL, 2), LEVELS, POLICIES, group=1, every=15)
    sizes = {arm: len(values) for arm, values in found.returns.items()}
    assert sizes == {arm: 2 if arm in sessions.CONTROLS else 3 for arm in sessions.ARMS}
    for arm in sessions.CONTROLS:
        torch.testing.assert_close(found.returns[arm], late.returns[arm], rtol=0, atol=1e-3)
    for one, other in itertools.permutations(sessions.ARMS, 2):
        lead = found.lead(one, other)
        assert len(lead) == min(sizes[one], sizes[other])
        for k, value in enumerate(lead):
            assert float(value) == float(found.returns[one][k] - found.returns[other][k])
    pictures.draw_sessions(found, found, new_figure(11.5, 4.6))


def test_the_comparison_of_sessions_keeps_what_it_was_judged_with(late):
    settings = sessions.settings_of(3)
    for arm in ("two levels", "goals by chance"):
        again = sessions.judge_two_levels(late.stacks[arm], late.judged, settings, SHORT.goal_steps, sessions.LOOK)
        assert torch.equal(late.returns[arm], again)
    best = torch.stack([best_by_hand(sessions.users_of(seed, 1)[:10], settings) for seed in SMALL])
    torch.testing.assert_close(late.best, best, rtol=0, atol=2e-3)  # as near as value iteration ends
    assert float(best[0] - best[1]) != pytest.approx(0, abs=2e-2)
    everyone = torch.stack([best_by_hand(sessions.users_of(seed, 1), settings) for seed in SMALL])
    assert float((everyone - best).abs().max()) > 0.1
    pictures.draw_sessions(late, late, new_figure(11.5, 4.6))


def test_goals_by_chance_stay_what_they_were_before_the_training(late):
    """And are nearly even; those of the other arm are not, nor are the controllers what they were."""
    untrained = sessions._stack(sessions.two_level_network, SMALL, SHORT)
    for arm in ("two levels", "goals by chance"):
        assert len(late.stacks[arm]) == 2
        for number in range(2):
            now, then = late.stacks[arm].model(number), untrained.model(number)
            moved = {
                level: not torch.equal(getattr(now, level).policy.weight, getattr(then, level).policy.weight)
                for level in ("meta", "controllers")
            }
            assert moved == {"meta": arm == "two levels", "controllers": True}
    states = torch.rand(200, sessions.STATE_DIM, generator=torch.Generator().manual_seed(0))
    for number in range(2):
        wished = late.stacks["goals by chance"].model(number).goal_probabilities(states)
        assert float((wished - 1 / 3).detach().abs().max()) < 0.05


PLAYED = 128
FAR = 60  # steps that are judged here, so that next to nothing comes after them
MANY = tuple(range(40))  # seeds: of every two of them, one plays with one group of users and one with another


def agree_with_exact_values(judge, actions, clicks):
    """Means over twenty seeds' sessions lie within four standard errors of the value of always doing the same."""
    settings, groups = sessions.settings_of(clicks), [sessions.users_of(seed, 1) for seed in SMALL]
    found = judge(groups * 20, settings).unflatten(1, (20, 2))  # (arms, repetitions, groups)
    planners = [SessionPlanner(users, sessions.TASK, settings, 0.9) for users in groups]
    shape = (sessions.TEST_USERS, len(planners[0].states.user), sessions.ACTIONS[sessions.TASK])
    exact = torch.empty(len(actions), 2)
    for k, action in enumerate(actions):
        policy = torch.eye(sessions.ACTIONS[sessions.TASK])[action].expand(shape)
        exact[k] = torch.stack([planner.value_of(policy).mean() for planner in planners])
    error = found.std(1) / 20**0.5
    beyond = 0.9**FAR * clicks / (1 - 0.9**clicks)  # what can come after the steps that count, at most
    assert bool(((found.mean(1) - exact).abs() < 4 * error + beyond).all())
    assert min(apart(exact), apart(exact.T)) > 6 * float(error.max())  # no arm, no group can be taken for the other


@pytest.mark.parametrize("clicks", [1, 2])
def test_what_a_flat_policy_is_judged_to_earn_is_its_value(clicks, monkeypatch):
    monkeypatch.setattr(sessions, "HORIZON", FAR)
    stacks = [sessions._stack(sessions.flat_network, MANY, SHORT) for _ in range(2)]
    for stack, action in zip(stacks, (0, 4), strict=True):
        force(stack, "policy_heads.0", [action] * 40)

    def judge(worlds, settings):
        return torch.stack([sessions.judge_flat(stack, worlds, settings, PLAYED) for stack in stacks])

    agree_with_exact_values(judge, (0, 4), clicks)


@pytest.mark.parametrize("clicks", [1, 2])
def test_what_two_levels_are_judged_to_earn_is_the_value_of_their_goals_controllers(clicks, monkeypatch):
    monkeypatch.setattr(sessions, "HORIZON", FAR)
    stacks = [sessions._stack(sessions.two_level_network, MANY, SHORT) for _ in range(2)]
    for stack, goal, of_goals in zip(stacks, (0, 2), ([0, 3, 2], [2, 3, 4]), strict=True):
        force(stack, "meta.policy", [goal] * 40)
        force(stack, "controllers.policy", [of_goals] * 40)

    def judge(worlds, settings):
        return torch.stack([sessions.judge_two_levels(stack, worlds, settings, 4, PLAYED) for stack in stacks])

    agree_with_exact_values(judge, (0, 4), clicks)


def test_both_kinds_of_network_have_about_as_many_parameters():
    levels, policy = (
        sum(p.numel() for p in build().parameters()) for build in (sessions.two_level_network, sessions.flat_network)
    )
    assert abs(levels - policy) < 0.03 * policy


# Watching, and training live.


CATEGORIES = ("news", "music", "sport")


def with_sure_levels(late, actions=(0, 2, 4)):
    """A comparison whose meta-controllers always want music, and whose controllers each show one ranking."""
    stack = sessions._stack(sessions.two_level_network, SMALL, SHORT)
    force(stack, "meta.policy", [1, 1])
    return replace(late, stacks={"two levels": force(stack, "controllers.policy", [list(actions)] * 2)})


@pytest.mark.parametrize("mine", [("music", "sport", "news"), ("sport", "sport", "news"), ("news", "news", "sport")])
def test_goals_can_be_taken_over(late, mine):
    late, most = with_sure_levels(late), 0
    for user, seed in itertools.product(range(watching.SHOWN_USERS), range(3)):
        line = watching.follow(late, user, *mine, seed=seed)
        starts = line.began.nonzero().flatten()
        wanted = [*mine, *["music"] * len(starts)][: len(starts)]
        assert [CATEGORIES[goal] for goal in line.goal[starts]] == wanted
        assert line.yours[starts].tolist() == [True, True, True, *[False] * len(starts)][: len(starts)]
        most = max(most, len(starts))
    assert most >= 3  # all three are asked for


@pytest.mark.parametrize("control", [1, 2, 3])
def test_one_goal_can_be_taken_over_and_the_others_left(late, control):
    late, met = with_sure_levels(late), 0  # of users who can be picked
    for user, seed in itertools.product(range(watching.SHOWN_USERS), range(3)):
        line = watching.follow(late, user, seed=seed, **{f"goal_{control}": "sport"})
        goals = [CATEGORIES[goal] for goal in line.goal[line.began]]
        assert goals == ["sport" if k == control else "music" for k in range(1, len(goals) + 1)]
        assert line.yours[line.began].tolist() == [k == control for k in range(1, len(goals) + 1)]
        met += len(goals) >= control
    assert met


@pytest.mark.parametrize("agent", [0, 1])
def test_an_agent_serves_the_users_of_its_seed(late, agent):
    """Of the arm that learned at both levels: the first wants music, the second sport, all other arms news."""
    stacks = {arm: sessions._stack(sessions.two_level_network, SMALL, SHORT) for arm in sessions.ARMS}
    for arm, stack in stacks.items():
        force(stack, "meta.policy", [1, 2] if arm == "two levels" else [0, 0])
    users, late = sessions.users_of(SMALL[agent], 1), replace(late, stacks=stacks)
    for user in (0, 3, sessions.TEST_USERS - 1):
        line = watching.follow(late, user, agent=agent)
        assert {CATEGORIES[goal] for goal in line.goal.tolist()} == {CATEGORIES[1 + agent]}
        assert int(line.wished.argmax()) == 1 + agent
        torch.testing.assert_close(line.tastes, users.on(sessions.TASK)[user])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"user": -1}, "user: got -1, expected 0 to 199"),
        ({"agent": 2}, "agent: got 2, expected 0 to 1"),
        ({"agent": -1}, "agent: got -1, expected 0 to 1"),
        ({"user": sessions.TEST_USERS}, "user: got 200, expected 0 to 199"),
        ({"user": 1.5}, "user: got 1.5, expected 0 to 199"),
        ({"user": "3"}, "user: got '3', expected 0 to 199"),
        *(
            ({f"goal_{k}": goal}, f"goal_{k}: got {goal!r}, expected {watching.LEFT_TO_IT!r} or one of 'news', 'music'")
            for k, goal in ((1, "cooking"), (2, "News"), (3, ""), (1, None), (2, 0), (3, ("news",)))
        ),
    ],
)
def test_users_and_goals_that_there_are_not_are_refused(late, changed, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        watching.follow(late, **{"user": 0, **changed})


@pytest.mark.parametrize("user", [0, sessions.TEST_USERS - 1])
def test_sessions_at_two_levels_can_be_drawn(late, user):
    left = watching.follow(late, user)
    assert not bool(left.yours.any())
    for line in (left, watching.follow(late, user, "music", "sport", "news")):
        assert len(line) <= watching.STEPS
        assert line.progress.shape == (len(line) + 1, 3)
        assert bool(((line.reward == 0) | (line.reward == lesson.LATE)).all())
        pictures.draw_timeline(line, new_figure(11, 6.2), {})
        assert "Goals:" in pictures.describe_timeline(line, {})


def test_a_goal_lasts_until_it_pays_or_its_time_is_over(late):
    """The controller of news shows sport first: what it is paid for is not its goal."""
    late, lead = with_sure_levels(late, (4, 2, 4)), [0, 0, 1, 1, 2, 2]
    paid, too_late, paid_elsewhere = 0, 0, 0
    for user in range(sessions.TEST_USERS):
        for goals in (("sport", "music", "sport"), ("news", "sport", "news")):
            line = watching.follow(late, user, *goals)
            bounds = [*line.began.nonzero().flatten().tolist(), len(line)]
            for start, end in itertools.pairwise(bounds):
                rewarded = [t for t in range(start, end) if line.reward[t] > 0]
                reached = [t for t in rewarded if lead[line.action[t]] == line.goal[start]]
                assert bool((line.goal[start:end] == line.goal[start]).all())
                assert end - start <= lesson.TRAINING.goal_steps
                assert all(t == end - 1 for t in reached)
                if end < len(line):
                    assert bool(reached) or end - start == lesson.TRAINING.goal_steps
                    paid, too_late = paid + bool(reached), too_late + (not reached)
                    paid_elsewhere += len(rewarded) > len(reached)
    assert min(paid, too_late, paid_elsewhere) >= 2


def test_the_explorer_of_goals_moves_at_every_end(late, monkeypatch):
    explorer = explorers.explore_goals(late)
    for user, goal in ((0, "news"), (watching.SHOWN_USERS - 1, "sport"), (3, watching.LEFT_TO_IT)):
        line = explorer.run(user=user, goal_1=goal, goal_2="music", goal_3=goal)
        assert bool(line.yours[0]) == (goal != watching.LEFT_TO_IT)
    explorer.new_seed()
    explorer.wait(30)
    assert explorer.values["seed"] == 1
    explorer.close()


@pytest.mark.parametrize(("goal_steps", "clicks"), [(1, 1), (30, 12), (5, 4)])
def test_a_training_can_be_run_at_every_end_of_its_controls(goal_steps, clicks, to_the_end):
    found = to_the_end(sessions.train_live(goal_steps, clicks, 1, SHORT, replace(SHORT, epochs=2)))
    assert found.values.shape == (3, sessions.LIVE_SEEDS, len(found.steps))
    assert found.steps[-1] == SHORT.environment_steps
    assert bool((found["best, tastes known"] > 0.1).all())
    controls = {"goal_steps": goal_steps, "clicks_needed": clicks}
    pictures.draw_live(found, new_figure(10, 4.4), controls)
    said = pictures.describe_live(found, controls)
    assert f"Goals of up to {counted(goal_steps, 'step')}, {counted(clicks, 'click')} a reward" in said


def test_a_training_can_be_stopped_and_shows_how_far_it_came():
    march = sessions.train_live(3, 2, 0, replace(SHORT, updates=12), replace(SHORT, updates=12))
    moment = next(march)
    assert len(moment.snapshot().steps) == 1
    assert (moment.done, moment.total) == (sessions.LIVE_EVERY, 12)
    march.close()


# Real tastes, and what is left to draw.


def test_arms_on_films_come_to_what_they_do_when_trained_again_by_hand(small_movielens, monkeypatch):
    """Two clicks a reward: by eight nobody is paid so soon."""
    assert lesson.LATE == 8
    monkeypatch.setattr(sessions, "LATE", 2)
    monkeypatch.setattr(sessions, "TEST_USERS", 10)  # fewer than the small data have
    ratings = replace(small_movielens, genre_names=("Drama", "Comedy", "Action", "D"))
    found = sessions.compare_on_films(ratings, SMALL, LEVELS, POLICIES)
    learned, others = ([users_from_ratings(ratings, seed, group) for seed in SMALL] for group in (0, 2))
    assert len(others[0]) > 10
    judged, settings = [users[:10] for users in others], sessions.settings_of(2)
    expected = arms_alone(("two levels", "flat"), learned, judged, settings, every=15)
    assert set(found.curves) == set(expected)
    for arm, curve in expected.items():
        torch.testing.assert_close(found.curves[arm], curve, rtol=0, atol=1e-3)
    assert apart(found.returns.values()) > 1e-2  # no arm can be taken for another
    best = torch.stack([best_by_hand(users, settings) for users in judged])
    torch.testing.assert_close(found.best, best, rtol=0, atol=2e-3)
    assert float(best[0] - best[1]) != pytest.approx(0, abs=2e-2)
    assert found.clicks_needed == 2
    pictures.draw_films(found, new_figure(8.6, 4.2))


def test_pictures_of_ideas_can_be_drawn():
    pictures.draw_levels(new_figure(11, 3.9))
    pictures.draw_chain_itself(new_figure(10, 3.4))


# How settings were chosen.


TINY = replace(chain.FLAT_TRAINING, updates=20, sessions=16, steps=8)


def late_by_hand(points):
    """Mean over the second half of four points."""
    assert points.shape[-1] == 4
    return (points[..., 2] + points[..., 3]) / 2


def test_scores_of_flat_policies_are_those_of_their_settings(monkeypatch):
    """Trained again in another order, as one arm after the other in the key's own words."""
    monkeypatch.setattr(chain, "FLAT_TRAINING", TINY)
    rates = (6e-3, 2e-2)
    grid = {"history": (0.0, 1.0), "discount": (0.9, 0.99), "gae_lambda": (0.5, 1.0), "entropy": (0.01,)}
    found = chain.score_flat_policies({**grid, "learning_rate": rates}, SMALL)
    assert set(found) == set(itertools.product(*grid.values(), rates))
    assert apart(found.values()) > 1e-4
    for rate in rates:
        keys = sorted((key for key in found if key[-1] == rate), key=lambda key: key[::-1], reverse=True)
        arms = [
            {"entropy": entropy, "gae_lambda": gae_lambda, "discount": discount, "history": history}
            for history, discount, gae_lambda, entropy, _ in keys
        ]
        how = replace(TINY, learning_rate=rate)
        stack, running = chain.flat_policies(arms, SMALL, how)
        points = [chain.flat_policy_value(stack) for _ in actor_critic.train(stack, running, how, every=5)]
        expected = stack.by_setting(late_by_hand(torch.stack(points, dim=1)))
        for key, returns in zip(keys, expected, strict=True):
            torch.testing.assert_close(found[key], returns, rtol=0, atol=2e-5)


def test_scores_of_tables_are_those_of_their_settings(monkeypatch):
    """Once learned anew in another order, and once with returns from which the table can be told."""
    monkeypatch.setattr(chain, "FLAT_TRAINING", replace(TINY, sessions=64))
    grid = {"epsilon": (0.0, 0.3), "exploration_fraction": (0.5, 1.0), "history": (False, True), "discount": (0.9, 1.0)}
    found, learn = chain.score_tables(grid, SMALL), chain.q_learning
    tables = [
        chain.QLearning(history=history, discount=discount, epsilon=epsilon, exploration_fraction=fraction)
        for history, discount, epsilon, fraction in itertools.product((True, False), (1.0, 0.9), (0.3, 0.0), (1.0, 0.5))
    ]
    assert set(found) == set(tables)
    for table, points in zip(tables, learn(tables, SMALL, 20 * 64 * 8, 4), strict=True):
        torch.testing.assert_close(found[table], late_by_hand(points))

    def number_of(arm):
        return 100.0 * arm.history + 10 * arm.discount + arm.epsilon + 1000 * arm.exploration_fraction

    def told_apart(arms, seeds, steps, points):
        assert (steps, points) == (20 * 64 * 8, 4)
        number = torch.tensor([[number_of(arm)] for arm in arms])
        return (number + torch.tensor([[0.2, 0.4]]))[..., None] + torch.tensor([9.0, 7.0, 0.0, 1.0])

    monkeypatch.setattr(chain, "q_learning", told_apart)
    for arm, returns in chain.score_tables(grid, SMALL).items():
        assert returns.tolist() == pytest.approx([number_of(arm) + 0.7, number_of(arm) + 0.9])


def test_scores_of_rates_are_what_arms_earn_with_users_of_group_1(monkeypatch):
    how, flat_how = replace(LEVELS, updates=6), replace(POLICIES, updates=6)
    monkeypatch.setattr(sessions, "LOOK", 24)
    monkeypatch.setattr(sessions, "TRAINING", how)
    monkeypatch.setattr(sessions, "FLAT_TRAINING", flat_how)
    arms, rates = ("two levels", "paid for progress", "flat"), (8e-3, 4e-2)
    found = sessions.score_rates(2, rates, arms, SMALL)
    assert set(found) == set(itertools.product(arms, rates))
    assert apart(found.values()) > 1e-2
    learned, judged = ([sessions.users_of(seed, group) for seed in SMALL] for group in (0, 1))
    for rate in rates:
        hows = (replace(each, learning_rate=rate) for each in (how, flat_how))
        alone = arms_alone(arms, learned, judged, sessions.settings_of(2), *hows, every=6)
        for arm, curve in alone.items():
            torch.testing.assert_close(found[arm, rate], curve[:, -1], rtol=0, atol=1e-3)


def test_scores_of_two_levels_on_the_chain_are_those_of_levels_without_a_mistake(monkeypatch):
    how = replace(ON_CHAIN, updates=20, sessions=16, steps=8)
    monkeypatch.setattr(chain, "TRAINING", how)
    found = chain.score_two_levels((5, 6, 7, 8))
    expected = late_by_hand(levels_on_chain((5, 6, 7, 8), how).double())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert float(expected.max() - expected.min()) > 1e-3


@pytest.fixture(scope="module")
def flat_scores():
    return chain.score_flat_policies()


@SLOW
@pytest.mark.parametrize(("learner", "tried"), [("policy, λ = 0.5", 8), ("policy, λ = 1", 8), ("policy, history", 16)])
def test_flat_policies_have_settings_near_the_best_of_those_tried(flat_scores, learner, tried):
    """Among those with as much of the history, and without it the same lambda."""
    arm = chain.FLAT_ARMS[learner]
    history = arm["history"] > 0
    mine = (history, arm["discount"], arm["gae_lambda"], arm["entropy"], arm["learning_rate"])
    alike = {k: float(v.mean()) for k, v in flat_scores.items() if k[0] == history and (history or k[2] == mine[2])}
    assert len(alike) == tried
    assert alike[mine] > max(alike.values()) - 0.03, alike


@SLOW
def test_tables_have_settings_near_the_best_of_those_tried():
    """Of those that see the place alone it is the one that stops exploring; the plain one is far from it."""
    scores = {table: float(returns.mean()) for table, returns in chain.score_tables().items()}
    assert len(scores) == 64
    for learner in ("flat Q, stops", "flat Q, history"):
        mine = chain.TABLES[learner]
        assert scores[mine] > max(v for table, v in scores.items() if table.history == mine.history) - 0.02, scores
    assert scores[chain.TABLES["flat Q"]] < scores[chain.TABLES["flat Q, stops"]] - 0.05
    plain, history = chain.TABLES["flat Q"], chain.TABLES["flat Q, history"]
    assert history == replace(plain, history=True)  # they differ in what they see
    assert scores[replace(history, exploration_fraction=0.5)] < 0.1  # which has to explore for long


@SLOW
@pytest.mark.parametrize("clicks", [sessions.LATE, 1])
def test_arms_of_sessions_have_a_rate_near_the_best_of_those_tried(clicks):
    scores = sessions.score_rates(clicks)
    for arm in ("two levels", "flat", "paid for progress"):
        means = {rate: float(returns.mean()) for (name, rate), returns in scores.items() if name == arm}
        assert len(means) == 5
        how = sessions.TRAINING if arm == "two levels" else sessions.FLAT_TRAINING
        assert means[how.learning_rate] > max(means.values()) - 0.06, (arm, means)


@SLOW
def test_on_seeds_that_were_looked_at_once_two_levels_lead_by_what_the_notebook_says():
    found = sessions.compare(arms=("two levels", "flat"), seeds=tuple(range(300, 324)), every=100)
    mean, low, _ = t_interval(found.lead("two levels", "flat"))
    assert mean == pytest.approx(sessions.ON_FRESH_SEEDS[0], abs=0.05)
    assert low > 0


@SLOW
def test_two_levels_on_the_chain_never_fail():
    found = chain.score_two_levels()
    assert len(found) == 48
    assert float(found.min()) > 0.15, found
