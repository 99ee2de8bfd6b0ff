"""Rollouts of many models: who meets whom, what is kept of a step, and returns against exact values."""

import inspect
import math
from dataclasses import fields

import pytest
import torch
from scipy.stats import binomtest, chisquare

from recmtl_lessons.envs import SURFACES, SessionPlanner, SessionSettings, SessionVectorEnv, make_users
from recmtl_lessons.training import Acted, Actors, Chooser, Rollout, Sessions, Stack, returns_of, stack_steps
from recmtl_lessons.training import stacked as stacked_module
from recmtl_lessons.training._optimizers import GradientDescent

WORLDS = [make_users(20, seed) for seed in (1, 2)]
SEEDS = (1, 2)
TASKS = ("home", "notify")
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))


def sessions(worlds=WORLDS, tasks=TASKS, per_model=4, **more):
    return Sessions(worlds, tasks, per_model, **{"seeds": SEEDS * (len(worlds) // 2), **more})


def by_chance(n_actions, seed=0, seeds=2):
    """Act at random, alike for all models of one seed; keep the number of the step and the chance."""
    chooser, steps = Chooser(seeds, seed), []

    def choose(observations):
        steps.append(len(steps))
        acted = {}
        for task, seen in observations.items():
            chance = chooser.uniform(seen[..., 0])
            action = (chance * n_actions[task]).long()
            acted[task] = Acted(action, {"chance": chance, "step": torch.full(seen.shape[:2], steps[-1])})
        return acted

    return choose


def always(number):
    def choose(observations):
        return {task: Acted(torch.full(seen.shape[:2], number)) for task, seen in observations.items()}

    return choose


def assert_same_rollouts(one, other):
    for name in ("observations", "actions", "rewards", "next_observations", "terminated", "truncated", "clicked"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def models_of(rollout, rows):
    """The rollout of some of the models."""
    names = ("observations", "actions", "rewards", "next_observations", "terminated", "truncated", "clicked")
    return Rollout(**{name: getattr(rollout, name)[:, rows] for name in names}, kept={})


class TestCollect:
    @pytest.mark.parametrize("device", ["cpu", CUDA])
    def test_shapes(self, device):
        played = sessions(device=device)
        assert played.n_actions == {"home": 3, "notify": 4}
        assert played.observation_dim == 15
        assert {task: seen.shape for task, seen in played.observations.items()} == dict.fromkeys(TASKS, (2, 4, 15))
        rollouts = played.collect(by_chance(played.n_actions), 7)
        assert tuple(rollouts) == TASKS
        for rollout in rollouts.values():
            assert rollout.observations.shape == rollout.next_observations.shape == (7, 2, 4, 15)
            for name in ("actions", "rewards", "terminated", "truncated", "clicked"):
                assert getattr(rollout, name).shape == (7, 2, 4)
                assert getattr(rollout, name).device.type == device
            assert rollout.kept.keys() == {"chance", "step"}
            assert rollout.kept["step"][:, 0, 0].tolist() == list(range(7))

    def test_what_is_recorded_is_what_was_done(self):
        played = sessions()
        count = played.n_actions
        rollouts = played.collect(by_chance(count), 20)
        for task, rollout in rollouts.items():
            assert torch.equal(rollout.actions, (rollout.kept["chance"] * count[task]).long())
            assert float(rollout.rewards.sum()) == int(rollout.clicked.sum()) > 0

    @pytest.mark.parametrize("task", SURFACES)
    def test_each_session_is_a_session(self, task):
        """The same as an environment of its own, with the model's world, its seed and the session's number."""
        played = sessions(tasks=("home", task) if task != "home" else ("home",), per_model=3)
        number = played.tasks.index(task)
        rollout = played.collect(by_chance(played.n_actions), 60)[task]
        for model, (world, seed) in enumerate(zip(WORLDS, SEEDS, strict=True)):
            env = SessionVectorEnv(world, task, 3)
            seen, _ = env.reset(seed=[10_000_019 * (seed + 1) + 100_003 * number + b for b in range(3)])
            for t in range(60):
                assert torch.equal(rollout.observations[t, model], seen)
                seen, reward, terminated, truncated, info = env.step(rollout.actions[t, model])
                assert torch.equal(rollout.next_observations[t, model], torch.as_tensor(info["final_obs"]))
                assert torch.equal(rollout.rewards[t, model], reward)
                assert torch.equal(rollout.terminated[t, model], terminated)
                assert torch.equal(rollout.truncated[t, model], truncated)
                assert torch.equal(rollout.clicked[t, model], torch.as_tensor(info["clicked"]))
        assert bool(rollout.terminated.any())

    def test_what_a_step_leads_to_is_what_is_seen_next_unless_the_session_ends(self):
        rollout = sessions().collect(always(0), 80)["home"]
        ended = (rollout.terminated | rollout.truncated)[:-1]
        led_to, next_seen = rollout.next_observations[:-1], rollout.observations[1:]
        assert torch.equal(led_to[~ended], next_seen[~ended])
        assert bool((next_seen[ended][:, 8:] == 0).all()), "a fresh session"
        assert bool((led_to[ended][:, 8] > 0).all()), "the first category was shown till the end"
        assert int(ended.sum()) > 20

    def test_sessions_go_on_from_where_they_stand(self):
        whole = sessions().collect(always(0), 30)["home"]
        played = sessions()
        parts = [played.collect(always(0), steps)["home"] for steps in (10, 1, 19)]
        for name in ("observations", "rewards", "terminated"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))

    def test_a_step_is_a_rollout_without_time(self):
        played, other = sessions(), sessions()
        step = played.step(always(1)(played.observations))["notify"]
        rollout = other.collect(always(1), 1)["notify"]
        assert step.observations.shape == (2, 4, 15)
        assert torch.equal(step.next_observations, rollout.next_observations[0])


class TestStackSteps:
    @staticmethod
    def taken(count=5):
        played = sessions()
        choose = by_chance(played.n_actions)
        return [played.step(choose(played.observations))["home"] for _ in range(count)]

    def test_time_comes_first(self):
        steps = self.taken()
        rollout = stack_steps(steps)
        for t, step in enumerate(steps):
            for part in fields(Rollout):
                if part.name != "kept":
                    assert torch.equal(getattr(rollout, part.name)[t], getattr(step, part.name)), part.name
            assert all(torch.equal(rollout.kept[name][t], step.kept[name]) for name in ("chance", "step"))
        assert rollout.observations.shape == (5, 2, 4, 15)
        assert rollout.kept.keys() == {"chance", "step"}

    def test_it_is_what_collecting_makes_of_them(self):
        played = sessions()
        assert_same_rollouts(stack_steps(self.taken()), played.collect(by_chance(played.n_actions), 5)["home"])

    def test_one_step_is_enough(self):
        assert stack_steps(tuple(self.taken(1))).actions.shape == (1, 2, 4)


class TestPairing:
    def four(self, **more):
        """Two settings of two seeds: model i and model i + 2 are paired."""
        return sessions(WORLDS * 2, **more)

    def test_models_of_one_seed_meet_the_same_users_and_chances(self):
        played = self.four()
        for rollout in played.collect(by_chance(played.n_actions), 100).values():
            assert_same_rollouts(models_of(rollout, slice(0, 2)), models_of(rollout, slice(2, 4)))
            assert not torch.equal(rollout.observations[0, 0], rollout.observations[0, 1])
            assert not torch.equal(rollout.rewards[:, 0], rollout.rewards[:, 1])

    def test_as_long_as_they_act_the_same(self):
        """The first setting of seed 1 shows another category: seed 2 is not touched."""

        def choose(observations):
            acted = always(0)(observations)
            acted["home"].action[0] = 1
            return acted

        rollouts = self.four().collect(choose, 100)
        assert_same_rollouts(models_of(rollouts["home"], [1]), models_of(rollouts["home"], [3]))
        assert_same_rollouts(models_of(rollouts["notify"], [0]), models_of(rollouts["notify"], [2]))
        users = rollouts["home"].observations[0, :, :, :8]
        assert torch.equal(users[0], users[2]), "the same first users"
        assert not torch.equal(rollouts["home"].rewards[:, 0], rollouts["home"].rewards[:, 2])

    def test_leaving_models_out_changes_nothing_for_the_others(self):
        whole, fewer = sessions(), sessions(WORLDS[1:], seeds=SEEDS[1:])
        one, other = (s.collect(always(2), 50)["home"] for s in (whole, fewer))
        assert_same_rollouts(models_of(one, [1]), models_of(other, [0]))

    def test_equal_worlds_that_are_two_tables_are_the_same_to_the_models(self):
        copies = [make_users(20, seed) for seed in (1, 2)]
        one, other = (sessions([*WORLDS, *w]).collect(always(0), 30)["home"] for w in (WORLDS, copies))
        assert_same_rollouts(one, other)

    def test_without_seeds_models_are_numbered(self):
        one, other = (Sessions(WORLDS, TASKS, 3, seeds=s).observations["home"] for s in (None, (0, 1)))
        assert torch.equal(one, other)

    def test_tasks_are_sessions_apart(self):
        seen = sessions(per_model=20).observations
        assert not torch.equal(seen["home"], seen["notify"])

    def test_satiation_of_each_model(self):
        played = sessions([WORLDS[0]] * 2, seeds=(1, 1), satiation=(0.0, 3.0))
        rollout = played.collect(always(0), 200)["home"]
        clicks = rollout.clicked.float().mean((0, 2))
        assert float(clicks[0]) > float(clicks[1]) + 0.15
        for model, strength in enumerate((0.0, 3.0)):
            alone = Sessions([WORLDS[0]], TASKS, 4, SessionSettings(satiation=strength), seeds=(1,))
            assert_same_rollouts(models_of(alone.collect(always(0), 200)["home"], [0]), models_of(rollout, [model]))

    def test_settings_reach_the_sessions(self):
        played = sessions(settings=SessionSettings(time_limit=2, patience=9))
        rollout = played.collect(always(0), 6)["home"]
        assert rollout.truncated[:, 0, 0].tolist() == [False, True] * 3


class TestReturns:
    @staticmethod
    def fixed(planners, seeds):
        """Policies that follow what is seen by a fixed formula, as sampled and as tables of probabilities."""
        weights = {
            task: torch.randn(15, len(planner.rules.surface), generator=torch.Generator().manual_seed(k)) / 2
            for k, (task, planner) in enumerate(planners.items())
        }
        chooser = Chooser(seeds, 7)

        def choose(observations):
            return {task: Acted(chooser.sample(seen @ weights[task])) for task, seen in observations.items()}

        return choose, {t: (planner.observations() @ weights[t]).softmax(-1) for t, planner in planners.items()}

    @pytest.mark.parametrize("settings", [SessionSettings(), SessionSettings(satiation=0.3, clicks_needed=2, levels=3)])
    def test_against_exact_values(self, settings):
        """Forty models play fifty sessions each by one policy: their mean is within four standard errors."""
        users, models = make_users(10, 1), 40
        planners = {task: SessionPlanner(users, task, settings) for task in TASKS}
        choose, policies = self.fixed(planners, models)
        found = returns_of([users] * models, TASKS, choose, settings, seeds=range(models), sessions=50, horizon=70)
        for task, planner in planners.items():
            exact = float(planner.value_of(policies[task]).mean())
            error = float(found[task].std()) / math.sqrt(models)
            assert found[task].shape == (models,)
            assert float(found[task].mean()) == pytest.approx(exact, abs=4 * error)
            assert error < 0.05 * exact

    def test_by_hand(self):
        """Sport is always clicked and nothing else ever; the time limit of the settings cuts no session off."""
        users = make_users(5, 0)
        users.tastes[:] = torch.tensor([-40.0, -40.0, 40.0])
        late = SessionSettings(satiation=0.0, time_limit=5, clicks_needed=3)
        third = returns_of([users], ("home",), always(2), late, sessions=3, horizon=40)["home"]
        assert third.tolist() == pytest.approx([3 * sum(0.9**t for t in range(2, 40, 3))])
        each = SessionSettings(satiation=0.0)
        half = returns_of([users], ("home",), always(2), each, sessions=3, horizon=4, discount=0.5)["home"]
        assert half.tolist() == pytest.approx([1.875])
        assert returns_of([users], ("home",), always(0), each, sessions=3)["home"].tolist() == [0.0]

    def test_what_comes_after_the_end_does_not_count(self):
        """The user leaves after one ignored step; the session that begins in its place would be paid."""
        users = make_users(5, 0)
        users.tastes[:] = torch.tensor([-40.0, 40.0, 40.0])
        steps = iter([1, 1, 0, 1, 1, 1])

        def choose(observations):
            return always(next(steps))(observations)

        settings = SessionSettings(satiation=0.0, patience=1)
        found = returns_of([users], ("home",), choose, settings, sessions=4, horizon=6)["home"]
        assert found.tolist() == pytest.approx([1.9])

    def test_models_of_one_seed_are_paired(self):
        found = returns_of([*WORLDS, *WORLDS], ("home",), always(1), seeds=SEEDS * 2, sessions=30)["home"]
        assert torch.equal(found[:2], found[2:])
        assert found[0] != found[1]


class TestActors:
    def test_a_stack_on_the_cpu_unless_a_device_is_given(self, monkeypatch):
        """The default of other stacks is not even looked at."""
        asked = []
        monkeypatch.setattr(stacked_module, "default_device", lambda: asked.append(1) or torch.device("cpu"))
        build = lambda: torch.nn.Linear(2, 1)  # noqa: E731
        assert Actors(build, [{"arm": 0.0}], SEEDS).device == torch.device("cpu")
        assert not asked
        Stack(build, [{"arm": 0.0}], SEEDS)
        assert asked
        assert Actors(build, [{"arm": 0.0}], SEEDS, device=torch.device("cpu", 0)).device == torch.device("cpu", 0)

    def test_it_takes_what_a_stack_takes(self):
        assert inspect.signature(Actors).parameters == inspect.signature(Stack).parameters
        made = Actors(lambda: torch.nn.Linear(2, 1), {"arm": (0.0, 1.0)}, SEEDS, 0.25, (0.5, 0.6), None, "adam", 2.0)
        ((_, rate),) = made._optimizer.groups
        assert (rate, made._optimizer.betas, made._clip) == (0.25, (0.5, 0.6), 2.0)
        plain = Actors(lambda: torch.nn.Linear(2, 1), [{}], SEEDS, optimizer="sgd")
        assert type(plain._optimizer) is GradientDescent


class TestChooser:
    LOGITS = torch.tensor([0.5, -1.0, 2.0, 0.0])

    def test_draws_follow_the_softmax(self):
        drawn = Chooser(2, 0).sample(self.LOGITS.expand(2, 20_000, 4))
        for row in drawn:
            counts = torch.bincount(row, minlength=4).numpy()
            assert chisquare(counts, 20_000 * self.LOGITS.double().softmax(0).numpy()).pvalue > 1e-3
            assert chisquare(counts).pvalue < 1e-9  # and not uniformly
        assert not torch.equal(drawn[0], drawn[1])

    def test_masked_logits_are_never_drawn(self):
        masked = self.LOGITS.clone()
        masked[2] = -math.inf
        drawn = Chooser(1, 0).sample(masked.expand(1, 50_000, 4))
        counts = torch.bincount(drawn[0], minlength=4)
        assert int(counts[2]) == 0
        assert int(counts[[0, 1, 3]].min()) > 1000

    def test_what_is_certain_is_drawn(self):
        logits = torch.eye(5).expand(3, 5, 5) * 60
        assert torch.equal(Chooser(3, 0).sample(logits), torch.arange(5).expand(3, 5))

    def test_settings_of_one_seed_have_the_same_chances(self):
        chooser = Chooser(3, 5)
        uniform = chooser.uniform(torch.empty(6, 4, 2))
        assert uniform.shape == (6, 4, 2)
        assert torch.equal(uniform[:3], uniform[3:])
        assert len(uniform[:3].unique()) == 24
        assert not torch.equal(chooser.uniform(torch.empty(6, 4, 2)), uniform), "each time others"
        drawn = chooser.sample(self.LOGITS.expand(6, 100, 4))
        assert torch.equal(drawn[:3], drawn[3:])

    def test_its_seed_decides(self):
        one, same, other = (Chooser(2, seed).uniform(torch.empty(2, 9)) for seed in (3, 3, 4))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_torchs_own_generator_is_neither_read_nor_moved(self):
        before = torch.get_rng_state()
        Chooser(2, 0).sample(torch.zeros(2, 9, 3))
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("epsilon", [0.0, 0.2, 1.0])
    def test_epsilon_greedy_rates(self, epsilon):
        """The best with probability 1 - epsilon + epsilon / A, any other with epsilon / A."""
        many, values = 30_000, torch.tensor([0.1, 0.4, 0.9, -2.0, 0.3])
        counts = torch.bincount(Chooser(1, 0).epsilon_greedy(values.expand(1, many, 5), epsilon)[0], minlength=5)
        for action, count in enumerate(counts.tolist()):
            p = epsilon / 5 + (action == 2) * (1 - epsilon)
            assert count == round(p * many) if p in (0, 1) else binomtest(count, many, p).pvalue > 1e-4

    def test_epsilon_greedy_explores_apart_from_what_it_would_choose(self):
        """Whether a step explores, and what it then takes, are two numbers: else small ones always went together."""
        values = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(1, 30_000, 4)
        drawn = Chooser(1, 0).epsilon_greedy(values, 0.3)[0]
        others = torch.bincount(drawn[drawn != 3], minlength=3)
        assert chisquare(others.numpy()).pvalue > 1e-3

    def test_epsilon_greedy_takes_two_numbers_a_step_however_many_actions_there_are(self):
        values = torch.rand(4, 50, 5, generator=torch.Generator().manual_seed(1))
        drawn = Chooser(2, 3).epsilon_greedy(values, 0.5)
        chance = Chooser(2, 3).uniform(torch.empty(4, 50, 2))
        expected = torch.where(chance[..., 1] < 0.5, (5 * chance[..., 0]).long(), values.argmax(-1))
        assert torch.equal(drawn, expected)
        one, two = Chooser(2, 3), Chooser(2, 3)
        assert torch.equal(one.epsilon_greedy(values[..., :1], 0.5), torch.zeros(4, 50, dtype=torch.int64))
        two.epsilon_greedy(values, 0.5)
        assert torch.equal(one.uniform(values), two.uniform(values)), "the next draws are the same"

    def test_epsilon_greedy_with_an_epsilon_of_each_model(self):
        values = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(2, 20_000, 4)
        drawn = Chooser(2, 0).epsilon_greedy(values, torch.tensor([[0.0], [1.0]]))
        assert bool((drawn[0] == 3).all())
        assert chisquare(torch.bincount(drawn[1], minlength=4).numpy()).pvalue > 1e-3
