"""The rules of a session by hand, by a loop in plain Python and by counting; the environment under Gymnasium's API."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from scipy.stats import chisquare

from recmtl_lessons.envs import (
    SURFACES,
    SessionEnv,
    SessionPlanner,
    SessionRules,
    SessionSettings,
    SessionState,
    SessionUsers,
    layout_of,
    make_users,
)

USERS = make_users(12, 3)
NEVER, ALWAYS = -40.0, 40.0  # tastes, in logits
KNOBS = [
    SessionSettings(),
    SessionSettings(clicks_needed=2, levels=3, patience=2),
    SessionSettings(satiation=0.3, levels=6, patience=5, time_limit=7, clicks_needed=3),
]


def of_taste(*tastes):
    """One user for each row of tastes, the same on all surfaces, with a profile of 0."""
    theta = torch.tensor(tastes, dtype=torch.float32)  # (U, C)
    categories = ("news", "music", "sport", "food")[: theta.shape[1]]
    return SessionUsers(torch.zeros(len(theta), 2), theta[:, None].expand(-1, 3, -1).clone(), categories=categories)


def walk(task, steps, settings=None, categories=3):
    """Let one user click or not as told, ``steps`` of (action, clicked); returns the outcomes."""
    rules = SessionRules(of_taste([0.0] * categories), task, settings or SessionSettings(time_limit=1000))
    state, outcomes = rules.begin(torch.tensor([0])), []
    for action, clicked in steps:
        outcomes.append(rules.advance(state, torch.tensor([action]), torch.tensor([clicked])))
        state = outcomes[-1].state
    return outcomes


def levels_of(outcomes):
    return [o.state.satiation[0].tolist() for o in outcomes]


class TestSatiation:
    def test_what_is_shown_rises_by_two_to_the_limit_and_the_rest_falls_by_one(self):
        news, music, sport, nothing = range(4)
        found = walk("notify", [(a, True) for a in (news, news, music, sport, nothing, nothing, nothing, news)])
        assert levels_of(found) == [
            [2, 0, 0],
            [3, 0, 0],
            [2, 2, 0],
            [1, 1, 2],
            [0, 0, 1],
            [0, 0, 0],
            [0, 0, 0],
            [2, 0, 0],
        ]

    def test_a_ranking_sates_both_that_are_seen_by_one(self):
        news_music, sport_music = 0, 5
        found = walk("search", [(a, True) for a in (news_music, news_music, sport_music, sport_music, sport_music)])
        assert levels_of(found) == [[1, 1, 0], [2, 2, 0], [1, 3, 1], [0, 3, 2], [0, 3, 3]]

    @pytest.mark.parametrize("levels", [2, 5])
    def test_the_limit_is_the_highest_level(self, levels):
        found = walk("home", [(1, True)] * 4, SessionSettings(levels=levels))
        assert levels_of(found)[-1] == [0, levels - 1, 0]

    def test_clicked_or_not_makes_no_difference(self):
        clicked, ignored = (walk("home", [(0, c), (2, c)]) for c in (True, False))
        assert levels_of(clicked) == levels_of(ignored)


class TestPatience:
    def test_ignored_steps_in_a_row_end_it_and_a_click_starts_anew(self):
        found = walk("home", [(0, False), (0, False), (0, True), (0, False), (0, False), (0, False)])
        assert [int(o.state.ignored) for o in found] == [1, 2, 0, 1, 2, 3]
        assert [bool(o.terminated) for o in found] == [False] * 5 + [True]
        assert not any(bool(o.truncated) for o in found)

    def test_whoever_is_left_alone_loses_no_patience_and_gains_none(self):
        nothing = 3
        found = walk("notify", [(0, False), (0, False), (nothing, False), (nothing, False), (0, False)])
        assert [int(o.state.ignored) for o in found] == [1, 2, 2, 2, 3]
        assert [bool(o.terminated) for o in found] == [False] * 4 + [True]

    def test_of_one(self):
        assert bool(walk("home", [(0, False)], SessionSettings(patience=1))[0].terminated)


class TestReward:
    def test_of_one_click_each(self):
        found = walk("home", [(0, True), (1, False), (1, True), (1, True)])
        assert [float(o.reward) for o in found] == [1, 0, 1, 1]
        assert all(o.state.streak.sum() == 0 for o in found)

    def test_of_the_last_of_three_on_one_category(self):
        steps = [(0, True), (0, False), (0, True), (1, True), (0, True), (0, True), (1, False), (0, True), (0, True)]
        found = walk("home", steps, SessionSettings(clicks_needed=3, patience=9))
        assert [float(o.reward) for o in found] == [0, 0, 0, 0, 0, 0, 0, 3, 0]
        assert [o.state.streak[0].tolist() for o in found] == [
            [1, 0, 0],
            [1, 0, 0],  # ignored: the count stands
            [2, 0, 0],
            [0, 1, 0],  # another category: anew
            [1, 0, 0],
            [2, 0, 0],
            [2, 0, 0],  # another was shown, and not clicked
            [0, 0, 0],  # paid
            [1, 0, 0],
        ]

    def test_in_a_ranking_the_leading_category_counts(self):
        news_music, news_sport, music_news = 0, 1, 2
        two = SessionSettings(clicks_needed=2)
        assert [float(o.reward) for o in walk("search", [(news_music, True), (news_sport, True)], two)] == [0, 2]
        assert [float(o.reward) for o in walk("search", [(news_music, True), (music_news, True)], two)] == [0, 0]

    def test_nothing_shown_keeps_the_count(self):
        found = walk("notify", [(0, True), (3, False), (0, True)], SessionSettings(clicks_needed=2))
        assert [float(o.reward) for o in found] == [0, 0, 2]


class TestTimeLimit:
    def test_cuts_off_and_does_not_end(self):
        found = walk("home", [(0, True)] * 4, SessionSettings(time_limit=4))
        assert [bool(o.truncated) for o in found] == [False, False, False, True]
        assert not any(bool(o.terminated) for o in found)

    def test_both_at_once(self):
        last = walk("home", [(0, False)] * 3, SessionSettings(time_limit=3, patience=3))[-1]
        assert bool(last.terminated)
        assert bool(last.truncated)

    def test_nothing_shown_takes_time(self):
        found = walk("notify", [(3, False)] * 3, SessionSettings(time_limit=3))
        assert [bool(o.truncated) for o in found] == [False, False, True]


def by_hand(surface, settings, steps):
    """Satiation, streak, ignored, reward and flags after each step, as the rules' text has them, without tensors."""
    categories = len(surface.share[0])
    sated, streak, ignored, found = [0] * categories, {}, 0, []
    for number, (action, wish) in enumerate(steps, start=1):
        lead = int(surface.lead[action])
        clicked = wish and lead >= 0
        for c in range(categories):
            dose = int(surface.dose[action][c])
            sated[c] = min(sated[c] + dose, settings.levels - 1) if dose else max(sated[c] - 1, 0)
        reward = 0
        if clicked:
            ignored, streak = 0, {lead: streak.get(lead, 0) + 1}
            if streak[lead] == settings.clicks_needed:
                reward, streak = settings.clicks_needed, {}
        elif lead >= 0:
            ignored += 1
        counts = [streak.get(c, 0) for c in range(categories)]
        found.append(
            (list(sated), counts, ignored, reward, ignored >= settings.patience, number >= settings.time_limit)
        )
    return found


some_settings = st.builds(
    SessionSettings,
    levels=st.integers(2, 6),
    patience=st.integers(1, 5),
    clicks_needed=st.integers(1, 4),
    time_limit=st.integers(1, 30),
)


@given(st.sampled_from(SURFACES), st.integers(2, 5), some_settings, st.data())
@examples(max_examples=60)
def test_any_course_of_events_is_as_by_hand(task, categories, settings, data):
    """Several sessions side by side, each with actions and clicks of its own."""
    users = make_users(4, 0, n_categories=categories)
    rules = SessionRules(users, task, settings)
    one = st.tuples(st.integers(0, len(rules.surface) - 1), st.booleans())
    plans = data.draw(st.lists(st.lists(one, min_size=12, max_size=12), min_size=1, max_size=4))
    expected = [by_hand(rules.surface, settings, plan) for plan in plans]
    state = rules.begin(torch.arange(len(plans)))
    for t in range(12):
        action, wish = (torch.tensor([plan[t][k] for plan in plans]) for k in (0, 1))
        outcome = rules.advance(state, action, wish & rules.surface.shows[action])
        state = outcome.state
        assert torch.equal(state.user, torch.arange(len(plans)))
        found = zip(
            state.satiation.tolist(),
            state.streak.tolist(),
            state.ignored.tolist(),
            outcome.reward.tolist(),
            outcome.terminated.tolist(),
            outcome.truncated.tolist(),
            strict=True,
        )
        assert list(found) == [course[t] for course in expected]


def random_states(rules, count, seed=0):
    draws = torch.Generator().manual_seed(seed)
    s, categories = rules.settings, len(rules.users.categories)
    user = torch.randint(len(rules.users), (count,), generator=draws)
    satiation = torch.randint(s.levels, (count, categories), generator=draws)
    streak = torch.randint(s.clicks_needed, (count, categories), generator=draws)
    streak *= torch.arange(categories) == torch.randint(categories, (count, 1), generator=draws)
    ignored = torch.randint(s.patience, (count,), generator=draws)
    elapsed = torch.randint(s.time_limit, (count,), generator=draws)
    action = torch.randint(len(rules.surface), (count,), generator=draws)
    return SessionState(user, satiation, streak, ignored, elapsed), action


def click_probability(users, task, beta, user, satiation, action):
    """The formula for one session, in numpy and double precision; what is shown is written out again."""
    appeal = users.tastes[user, SURFACES.index(task)].double().numpy() - beta * satiation.numpy()
    categories = len(appeal)
    if task == "search":
        pairs = [(i, j) for i in range(categories) for j in range(categories) if i != j]
        first, second = pairs[action]
        logit = 0.6 * appeal[first] + 0.4 * appeal[second]
    elif action == categories:
        return 0.0  # nothing is shown
    else:
        logit = appeal[action]
    return 1 / (1 + math.exp(-logit))


def rated_by_the_formula(task, beta):
    """Rules, some states and actions, and how likely a click is in each."""
    rules = SessionRules(USERS, task, SessionSettings(satiation=beta))
    state, action = random_states(rules, 400)
    rows = zip(state.user.tolist(), state.satiation, action.tolist(), strict=True)
    expected = torch.tensor([click_probability(USERS, task, beta, *row) for row in rows], dtype=torch.float64)
    return rules, state, action, expected


class TestClicks:
    @pytest.mark.parametrize("task", SURFACES)
    @pytest.mark.parametrize("beta", [0.0, 1.7])
    def test_by_the_formula(self, task, beta):
        """A click where chance lies below the probability, and none where it does not."""
        rules, state, action, expected = rated_by_the_formula(task, beta)
        assert float(expected.std()) > 0.1
        shows = rules.surface.shows[action]
        torch.testing.assert_close(rules.click_logit(state, action)[shows].double().sigmoid(), expected[shows])
        below, above = (expected + step for step in (-1e-5, 1e-5))
        assert torch.equal(rules.step(state, action, below.clamp(min=0)).clicked, shows)
        assert not bool(rules.step(state, action, above.clamp(max=1)).clicked.any())

    @pytest.mark.parametrize("task", SURFACES)
    def test_by_counting(self, task):
        """40,000 steps from each of ten states; each share within 4.5 standard errors."""
        many, rules = 40_000, SessionRules(USERS, task, SessionSettings())
        state, action = random_states(rules, 10, seed=2)
        rows = torch.arange(10).repeat_interleave(many)
        parts = (state.user, state.satiation, state.streak, state.ignored, state.elapsed)
        chance = torch.rand(len(rows), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        outcome = rules.step(SessionState(*(part[rows] for part in parts)), action[rows], chance)
        shares = outcome.clicked.view(10, many).double().mean(1).tolist()
        for k, share in enumerate(shares):
            p = click_probability(USERS, task, 1.0, int(state.user[k]), state.satiation[k], int(action[k]))
            assert share == pytest.approx(p, abs=4.5 * math.sqrt(p * (1 - p) / many))
            assert (share > 0) == (p > 0)

    @pytest.mark.parametrize("task", SURFACES)
    @pytest.mark.parametrize("beta", [0.0, 1.7])
    def test_their_probability(self, task, beta):
        """By the formula, and the very number that decides whether there is a click."""
        rules, state, action, expected = rated_by_the_formula(task, beta)
        found = rules.click_probability(state, action)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
        shows = rules.surface.shows[action]
        assert torch.equal(found == 0, ~shows)
        assert not bool(rules.step(state, action, found).clicked.any())
        just_below = torch.nextafter(found, torch.tensor(0.0).double())
        assert torch.equal(rules.step(state, action, just_below).clicked, shows)

    def test_their_probability_in_single_precision(self):
        rules = SessionRules(USERS, "notify", SessionSettings())
        state, action = random_states(rules, 400)
        found = rules.click_probability(state, action, torch.float32)
        expected = torch.where(rules.surface.shows[action], rules.click_logit(state, action).sigmoid(), 0.0)
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)

    def test_satiation_of_each_session(self):
        """A strength for each of N sessions, instead of the settings'."""
        strength = torch.tensor([0.0, 0.5, 2.0])
        rules = SessionRules(USERS, "home", SessionSettings(satiation=9.0), satiation=strength)
        begun = rules.begin(torch.tensor([4, 4, 4]))
        state = SessionState(begun.user, begun.satiation + 2, begun.streak, begun.ignored, begun.elapsed)
        expected = USERS.on("home")[4, 1] - 2 * strength
        torch.testing.assert_close(rules.click_logit(state, torch.tensor([1, 1, 1])), expected)

    def test_one_session_and_a_batch_agree_to_the_last_digits(self):
        """Not in single precision, where a vector's sigmoid is another than a number's."""
        rules = SessionRules(make_users(600, 1), "search", SessionSettings())
        state, action = random_states(rules, 600)
        parts = (state.user, state.satiation, state.streak, state.ignored, state.elapsed)
        together = rules.click_logit(state, action).double().sigmoid()
        for row in range(600):
            alone = SessionState(*(part[row : row + 1] for part in parts))
            for step in (-1e-14, 1e-14):
                clicked = rules.step(alone, action[row : row + 1], together[row : row + 1] + step).clicked
                assert bool(clicked) == (step < 0)


class TestObservation:
    SETTINGS = SessionSettings(levels=5, clicks_needed=4, patience=8)

    def test_by_hand(self):
        rules = SessionRules(USERS, "home", self.SETTINGS)
        state = SessionState(
            torch.tensor([7]),
            torch.tensor([[1, 0, 4]]),
            torch.tensor([[0, 3, 0]]),
            torch.tensor([2]),
            torch.tensor([9]),
        )
        seen = rules.observe(state)[0]
        assert seen.dtype == torch.float32
        assert torch.equal(seen[:8], USERS.profile[7])
        assert seen[8:].tolist() == [0.25, 0, 1, 0, 0.75, 0, 0.25]

    @pytest.mark.parametrize("categories", [2, 3, 5])
    def test_its_layout_names_every_place_once(self, categories):
        """Each part moves when what it shows does, and nothing else."""
        users = make_users(12, 3, n_categories=categories, profile_dim=4)
        rules = SessionRules(users, "home", self.SETTINGS)
        layout, begun = rules.layout, rules.begin(torch.tensor([3]))
        assert layout == layout_of(rules.observation_dim, categories)
        places = torch.arange(rules.observation_dim)
        parts = [places[part] for part in (layout.profile, layout.satiation, layout.streak, layout.ignored)]
        assert [len(part) for part in parts] == [4, categories, categories, 1]
        assert torch.equal(torch.cat(parts), places)
        one = torch.ones(1, categories, dtype=torch.int64)
        changed = {
            "profile": replace(begun, user=begun.user + 1),
            "satiation": replace(begun, satiation=one),
            "streak": replace(begun, streak=one),
            "ignored": replace(begun, ignored=one[:, 0]),
        }
        for name, state in changed.items():
            moved = (rules.observe(state) != rules.observe(begun))[0]
            assert torch.equal(places[moved], places[getattr(layout, name)])

    @pytest.mark.parametrize("task", SURFACES)
    @pytest.mark.parametrize("settings", KNOBS)
    def test_it_lies_in_the_space_and_has_its_width(self, task, settings):
        env = SessionEnv(USERS, task, settings)
        state, action = random_states(env.rules, 300)
        led_to = env.rules.step(state, action, torch.rand(300).double()).state
        for row in (*env.rules.observe(state).numpy(), *env.rules.observe(led_to).numpy()):
            assert env.observation_space.contains(row)
        assert env.rules.observation_dim == env.observation_space.shape[0] == 8 + 2 * 3 + 1

    @pytest.mark.parametrize("task", SURFACES)
    def test_neither_tastes_nor_what_satiation_does_can_be_seen(self, task):
        """Other tastes, another strength, another time: the same is seen, though other things happen."""
        strangers = SessionUsers(USERS.profile, USERS.tastes.flip(0) + 1)
        rules = SessionRules(USERS, task, self.SETTINGS)
        others = SessionRules(strangers, task, SessionSettings(satiation=3.0, levels=5, clicks_needed=4, patience=8))
        state, action = random_states(rules, 200)
        later = SessionState(state.user, state.satiation, state.streak, state.ignored, state.elapsed + 5)
        assert torch.equal(rules.observe(state), others.observe(later))
        assert not torch.equal(rules.click_logit(state, action), others.click_logit(state, action))


def environment(task="home", settings=None, users=USERS, **more):
    return SessionEnv(users, task, settings, **more)


class TestGymnasium:
    @pytest.mark.parametrize("task", SURFACES)
    @pytest.mark.parametrize("settings", KNOBS)
    def test_its_checker_has_nothing_to_say(self, task, settings):
        env = environment(task, settings)
        env.spec = EnvSpec("Session-v0", entry_point=lambda **how: environment(task, settings, **how))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_env(env)

    @pytest.mark.parametrize("task", SURFACES)
    def test_a_session_is_the_rules_with_the_generators_numbers(self, task):
        """The first number draws the user, each step takes one."""
        env, rules = environment(task), SessionRules(USERS, task, SessionSettings())
        actions = np.random.default_rng(0).integers(env.action_space.n, size=200)
        ended = 0
        for seed in range(12):
            numbers = np.random.default_rng(seed)
            observed, info = env.reset(seed=seed)
            state = rules.begin(torch.tensor([int(numbers.random() * len(USERS))]))
            assert info["user"] == int(state.user)
            for action in actions:
                chance = torch.tensor([numbers.random()], dtype=torch.float64)
                outcome = rules.step(state, torch.tensor([action]), chance)
                state = outcome.state
                observed, reward, terminated, truncated, info = env.step(action)
                assert np.array_equal(observed, rules.observe(state)[0].numpy())
                assert (reward, terminated, truncated) == tuple(float(v) for v in outcome[1:4])
                assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
                assert info["clicked"] == bool(outcome.clicked)
                assert info["satiation"].tolist() == state.satiation[0].tolist()
                if terminated or truncated:
                    ended += 1
                    break
        assert ended == 12

    def test_without_a_seed_the_generator_goes_on(self):
        env, numbers = environment(), np.random.default_rng(4)
        drawn = [env.reset(seed=4 if k == 0 else None)[1]["user"] for k in range(50)]
        assert drawn == [int(numbers.random() * len(USERS)) for _ in range(50)]

    def test_users_come_alike_often(self):
        env = environment()
        env.reset(seed=1)
        drawn = [env.reset()[1]["user"] for _ in range(1200)]
        assert chisquare(np.bincount(drawn, minlength=len(USERS))).pvalue > 1e-3

    def test_a_user_can_be_asked_for(self):
        env = environment("search")
        for user in (0, 7, 11):
            observed, info = env.reset(seed=2, options={"user": user})
            assert info["user"] == user
            assert np.array_equal(observed[:8], USERS.profile[user].numpy())
            assert np.array_equal(info["tastes"], USERS.on("search")[user].numpy())

    def test_what_it_hands_out_is_not_its_own(self):
        env = environment(users=of_taste([0.5, 1.0, 2.0]))
        _, info = env.reset(seed=0)
        info["tastes"][:] = 99
        info["satiation"][:] = 99
        observed, *_, info = env.step(0)
        assert info["tastes"].tolist() == [0.5, 1.0, 2.0]
        assert info["satiation"].tolist() == [2, 0, 0]
        observed[:] = 99
        assert env.step(0)[0].max() <= 1

    def test_what_is_heard(self):
        env = environment("notify", users=of_taste([ALWAYS, NEVER, NEVER]), render_mode="ansi")
        assert env.render() is None
        env.reset(seed=0)
        assert env.render() == "step 0; satiation: news 0, music 0, sport 0; ignored in a row 0"
        for action, said in (
            (0, "step 1; news: clicked; satiation: news 2, music 0, sport 0; ignored in a row 0"),
            (1, "step 2; music: ignored; satiation: news 1, music 2, sport 0; ignored in a row 1"),
            (3, "step 3; nothing: left alone; satiation: news 0, music 1, sport 0; ignored in a row 1"),
        ):
            env.step(action)
            assert env.render() == said
        env.reset(seed=0)
        assert env.render().startswith("step 0; satiation")
        assert environment().render() is None

    def test_steps_before_the_beginning_and_after_the_end(self):
        for users, settings in (
            (of_taste([NEVER] * 3), SessionSettings(patience=2)),
            (USERS, SessionSettings(time_limit=2)),
        ):
            env = environment(users=users, settings=settings)
            with pytest.raises(RuntimeError, match="has not begun"):
                env.step(0)
            env.reset(seed=0)
            env.step(0)
            assert any(env.step(0)[2:4])
            with pytest.raises(RuntimeError, match="is over, call reset"):
                env.step(0)
            env.reset()
            env.step(0)

    def test_users_that_carry_gradients(self):
        env = environment(users=SessionUsers(USERS.profile.clone().requires_grad_(), USERS.tastes))
        assert np.array_equal(env.reset(seed=0)[0], environment().reset(seed=0)[0])

    def test_the_last_state_can_be_rendered(self):
        env = environment(users=of_taste([NEVER] * 3), render_mode="ansi")
        env.reset(seed=0)
        for _ in range(3):
            env.step(0)
        assert env.render() == "step 3; news: ignored; satiation: news 3, music 0, sport 0; ignored in a row 3"


def test_stable_baselines3_learns_on_it():
    """A2C of Stable-Baselines3 beats acting by chance, both measured exactly: 2.75 by chance, 4.86 at best.

    Ten seeds gained from 0.28 to 0.60, this one 0.58; before training all ten lay within 0.003 of chance.
    """
    sb3 = pytest.importorskip("stable_baselines3")
    users = make_users(10, 1, strength=2.0, noise=0.0)
    planner = SessionPlanner(users, "home", discount=0.9)
    seen = planner.observations()

    def value(agent):
        with torch.no_grad():
            chosen = agent.policy.get_distribution(seen.flatten(0, 1)).distribution.probs
        return float(planner.value_of(chosen.view(*seen.shape[:2], -1)).mean())

    how = {"gamma": 0.9, "n_steps": 16, "learning_rate": 3e-3, "policy_kwargs": {"net_arch": [32]}}
    agent = sb3.A2C("MlpPolicy", environment(users=users), seed=0, device="cpu", **how)
    chance = float(planner.even().mean())
    assert value(agent) == pytest.approx(chance, abs=0.01)  # nothing is learnt yet
    agent.learn(2000)
    assert value(agent) > chance + 0.2
