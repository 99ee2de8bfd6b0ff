"""Lesson 09: its exercises accept what is right, its values are exact, its levels learn from what they should."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from recmtl_lessons.envs import ChainEnv, chain_value
from recmtl_lessons.lessons import hierarchical as lesson
from recmtl_lessons.lessons.hierarchical import chain, explorers, films, learning, live, pictures, sessions, watching
from recmtl_lessons.models import semi_markov_returns
from recmtl_lessons.teaching.style import new_figure
from recmtl_lessons.training import Acted, Actors, Chooser, Sessions

SMALL = (0, 1)
SHORT = learning.Training(goal_steps=4, updates=5, sessions=6, steps=5, epochs=1, minibatches=2)


@pytest.fixture(scope="module")
def late():
    return sessions.compare(3, SMALL, replace(SHORT, updates=sessions.EARLY), 1)


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

    assert verdict(lesson.exercise_target, by_a_loop).kind == "right"
    assert verdict(lesson.exercise_rows, by_gather).kind == "right"
    assert verdict(lesson.exercise_progress, by_one_hot).kind == "right"


def test_further_wrong_answers_are_named(verdict):
    assert "one number" in verdict(lesson.exercise_target, lambda r, v, t, g: r).message
    assert "(4, 2)" in verdict(lesson.exercise_rows, lambda a, g: a[0, :, 0]).message
    assert "(5,)" in verdict(lesson.exercise_progress, lambda b, a, p, g: a - b).message
    assert "tensor" in verdict(lesson.exercise_rows, lambda a, g: 3).message


def test_the_notebook_with_solutions_in_it_passes_its_checks(solved):
    answers = {
        "my_target": "powers = discount ** torch.arange(len(rewards))\n"
        "return (powers * rewards).sum() + discount ** len(rewards) * value_after * ~terminated",
        "my_rows": "return answers[goals, torch.arange(len(goals))]",
        "my_progress": "rows = torch.arange(len(goal))\nreturn (after - before)[rows, goal] + paid",
    }
    kinds = solved("09_hierarchical.ipynb", {"lesson": lesson, "torch": torch}, answers)
    assert kinds == dict.fromkeys(answers, "right")


def test_the_study_question_can_be_answered(weighs):
    explorer = explorers.explore_training()
    sentences = (
        "A meta-controller comes first.",
        "Its controller takes the actions.",
        "What was wanted is kept until it is reached.",
        "There is intrinsic reward.",
        "The target is semi-Markov.",
        "It helps where rewards are sparse.",
        "All depends on how they were designed.",
    )
    weighs(lesson.study_question(explorer), sentences)
    explorer.close()


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
    stack = Actors(chain.two_level_network, [{"arm": 0.0}], SMALL, 1e-2)
    how = replace(chain.TRAINING, updates=12)
    chances = Chooser(2, 0)
    walker = learning.Walker(stack, chain.ChainPlace(2, how.sessions, chances), how.goal_steps, chances)
    for _ in learning.train(stack, walker, how):
        pass
    exact = chain.two_levels_value(stack)
    with torch.no_grad():
        played = played_return(stack.model(0), 600)
    assert 0.02 < float(exact[0]) < 0.209
    # A return is 1 or 0.01, so that the standard error of the mean is known.
    error = float(exact[0] * (1 - exact[0]) / 600) ** 0.5
    assert abs(played - float(exact[0])) < 4 * error


def test_levels_whose_goal_is_always_s6_go_right_and_earn_the_optimum():
    stack = Actors(chain.two_level_network, [{"arm": 0.0}], (0,), 1e-2)
    with torch.no_grad():
        for name, value in stack._parameters.items():
            if "controllers.policy.bias" in name:
                value[..., 1] = 60.0  # whatever the goal: right
    assert float(chain.two_levels_value(stack)) == pytest.approx(0.208, abs=1e-6)


def test_a_flat_policy_has_the_value_of_its_table():
    stack = Actors(chain.flat_network, [{"discount": 0.99}], SMALL, 1e-2)
    for number, found in enumerate(chain.flat_policy_value(stack)):
        with torch.no_grad():
            policy = stack.model(number)(torch.eye(6), "chain")[0].softmax(-1)
        torch.testing.assert_close(found, chain_value(policy.unsqueeze(1).expand(6, 2, 2)))


def test_a_table_with_the_history_reaches_the_optimum_and_one_without_does_not():
    arms = [chain.QLearning(history=True, epsilon=0.3), chain.QLearning()]
    history, without = chain.q_learning(arms, (20, 21, 22), 25_600, 10)
    assert history.shape == without.shape == (3, 10)
    torch.testing.assert_close(history[:, -1], torch.full((3,), 0.208, dtype=torch.float64))
    assert float(without[:, -3:].mean()) < 0.15


def test_a_table_moves_by_the_mean_of_its_errors():
    table = torch.zeros(1, 12, 2)
    chain._move(table, torch.tensor([[3, 3, 8]]), torch.tensor([[1.0, 3.0, -2.0]]), 0.5)
    expected = torch.zeros(24)
    expected[3], expected[8] = 1.0, -1.0
    assert torch.equal(table.flatten(), expected)


def test_the_comparison_on_the_chain_holds_what_it_says():
    how = replace(chain.TRAINING, updates=20, sessions=4, steps=8)
    result = chain.compare_on_chain(SMALL, how)
    assert set(result.returns) == {
        chain.TWO_LEVELS, chain.TWO_GOALS, chain.NO_GRADIENT, chain.FLAT_POLICY, chain.FLAT_Q, chain.FLAT_Q_HISTORY,
    }  # fmt: skip
    assert result.steps.tolist() == [160, 320, 480, 640]
    for values in result.returns.values():
        assert values.shape == (2, 4)
        assert bool(((values > 0.009) & (values < 0.2081)).all())
    assert result.late(chain.FLAT_Q).shape == (2,)
    pictures.draw_chain(result, new_figure(11, 4.5))
    pictures.draw_mistakes(result, new_figure(8.6, 4.3))


# How both levels learn.


def walker_of(two_goals=None, goal_steps=3, clicks=3):
    stack = sessions._stack(sessions.two_level_network, 1, SMALL, SHORT)
    learned, settings = [sessions.users_of(s, 0) for s in SMALL], sessions.settings_of(clicks)
    running = Sessions(learned, (sessions.TASK,), SHORT.sessions, settings, SMALL)
    return stack, learning.Walker(stack, sessions.SessionPlace(running), goal_steps, Chooser(2, 0), two_goals)


def test_a_goal_is_kept_until_it_ends_and_is_the_one_recorded():
    stack, walker = walker_of()
    walked = walker.walk(30)
    ended = walked.goal_ended
    assert torch.equal(walked.began[1:], ended[:-1])
    assert bool(walked.began[0].all())
    kept = ~walked.began[1:]
    assert bool((walked.goal[1:] == walked.goal[:-1])[kept].all())
    assert bool(ended[walked.terminated | walked.truncated | walked.reached].all())
    age = torch.zeros(2, SHORT.sessions)
    for t in range(30):
        age = torch.where(walked.began[t], 1, age + 1)
        assert bool((age <= 3).all())
        assert bool(ended[t][age == 3].all())
    logits = stack.each_own(lambda m, s: m(s)[0], walked.state[0])
    found = logits.log_softmax(-1).gather(-1, walked.goal[0][..., None]).squeeze(-1)
    torch.testing.assert_close(walked.goal_log_prob[0], found)


def test_who_follows_one_goal_and_records_another_is_found_out():
    _, right = walker_of()
    _, wrong = walker_of(torch.tensor([False, True]))
    right.walk(1)
    wrong.walk(1)
    assert torch.equal(right.goal, right.recorded)
    assert torch.equal(wrong.goal[0], wrong.recorded[0])
    assert not torch.equal(wrong.goal[1], wrong.recorded[1])


def test_both_targets_are_those_of_each_model_by_itself():
    stack, walker = walker_of()
    walked = walker.walk(12)
    rows = learning.prepared(stack, walked, 0.6)
    for m in range(2):
        network = stack.model(m)
        with torch.no_grad():
            after = torch.stack([network(s)[1] for s in walked.led_to[:, m]])
            before = torch.stack([network(s)[1] for s in walked.state[:, m]])
        target = semi_markov_returns(
            walked.reward[:, m] * 0.1, after, walked.goal_ended[:, m], walked.terminated[:, m], 0.9
        )
        torch.testing.assert_close(rows["goal_returns"][m], target.flatten(), rtol=1e-4, atol=1e-5)
        chosen = walked.began[:, m].flatten()
        advantage = (target - before).flatten()[chosen]
        torch.testing.assert_close(
            rows["goal_advantage"][m][chosen], (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-6),
            rtol=1e-3, atol=1e-3,
        )  # fmt: skip


def test_a_goal_that_went_on_teaches_the_meta_controller_nothing():
    stack, walker = walker_of()
    rows = learning.prepared(stack, walker.walk(12), 0.6)
    taught = torch.ones(2)
    loss = {}
    for name, where in (("all", rows), ("twisted", dict(rows))):
        if name == "twisted":
            went_on = rows["began"] == 0
            where["goal_advantage"] = torch.where(went_on, 99.0, rows["goal_advantage"])
            where["goal_returns"] = torch.where(went_on, -99.0, rows["goal_returns"])
        loss[name], _ = stack.evaluate(
            lambda *a: learning.objective(*a, clip=0.2, bonus=0.01), {**where, "taught": taught}
        )
    torch.testing.assert_close(loss["all"], loss["twisted"])


def test_untaught_controllers_keep_their_weights_and_the_meta_controller_learns():
    stack, walker = walker_of()
    before = [stack.model(m).state_dict() for m in range(2)]
    for _ in learning.train(stack, walker, SHORT, untaught=torch.tensor([False, True])):
        pass
    for m, kept in ((0, False), (1, True)):
        after = stack.model(m).state_dict()
        same = [torch.equal(before[m][name], after[name]) for name in after if name.startswith("controllers")]
        assert all(same) == kept
        assert not torch.equal(before[m]["meta.policy.weight"], after["meta.policy.weight"])


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


def test_who_is_paid_for_clicks_loses_nothing_by_clicks_elsewhere():
    running = Sessions([sessions.users_of(s, 0) for s in SMALL], (sessions.TASK,), 40, sessions.settings_of(3), SMALL)
    place = sessions.SessionPlace(running, torch.tensor([False, True]))
    chances, lowest = Chooser(2, 1), torch.zeros(2)
    for _ in range(40):
        action = chances.uniform(torch.zeros(2, 40)).mul(6).long()
        done = place.step(torch.zeros(2, 40, dtype=torch.long), action)
        lowest = torch.minimum(lowest, done.intrinsic.amin(1))
    assert float(lowest[0]) < -0.5
    assert float(lowest[1]) == 0.0


def test_progress_of_a_flat_policy_sums_to_the_clicks_of_a_reward():
    flags = torch.tensor([True, True])
    running = sessions.PaidForProgress(
        flags, [sessions.users_of(s, 0) for s in SMALL], (sessions.TASK,), 200, sessions.settings_of(2), SMALL
    )
    action = torch.zeros(2, 200, dtype=torch.long)  # one category all the time: nothing is undone
    total = torch.zeros(2, 200)
    clicks = torch.zeros(2, 200)
    for _ in range(4):
        done = running.step({sessions.TASK: Acted(action)})[sessions.TASK]
        total += done.rewards
        clicks += done.clicked
    torch.testing.assert_close(total, clicks)
    assert float(total.max()) >= 3


def test_the_comparison_of_sessions_holds_what_it_says(late):
    arms = {sessions.TWO_LEVELS, sessions.FLAT, sessions.FOR_CLICKS, sessions.FOR_PROGRESS}
    assert set(late.returns) == arms
    assert late.steps.tolist() == [5 * 30, 10 * 30, 15 * 30]
    for values in late.returns.values():
        assert values.shape == (2, 3)
        assert bool((values >= 0).all())
        assert bool((values < late.best[:, None] + 0.3).all())
    assert set(late.strays) == {sessions.TWO_LEVELS, sessions.FOR_CLICKS}
    assert all(bool(((values > 0) & (values < 1)).all()) for values in late.strays.values())
    assert torch.equal(late.early(sessions.FLAT), late.returns[sessions.FLAT][:, 2])
    pictures.draw_sessions(late, late, new_figure(11.5, 4.6))
    pictures.draw_clicks(late, new_figure(8.6, 4.3))


def test_both_kinds_of_network_have_about_as_many_parameters():
    levels, policy = (
        sum(p.numel() for p in build().parameters()) for build in (sessions.two_level_network, sessions.flat_network)
    )
    assert abs(levels - policy) < 0.03 * policy


def test_who_always_shows_one_category_strays_where_the_goal_is_another():
    stack = sessions._stack(sessions.two_level_network, 1, SMALL, SHORT)
    with torch.no_grad():
        for name, value in stack._parameters.items():
            if "controllers.policy.bias" in name:
                value[..., 0] = 60.0  # the ranking that news leads
            if "meta.policy.bias" in name:
                value[0, 0], value[1, 2] = 60.0, 60.0  # the first model wants news, the second sport
    settings = sessions.settings_of(2)
    found = sessions.strays_of(stack, [sessions.users_of(s, 1) for s in SMALL], settings, 5)
    assert found.tolist() == [[0.0, 1.0]]


# Watching, and training live.


@pytest.mark.parametrize("user", [0, sessions.TEST_USERS - 1])
def test_goals_can_be_taken_over(late, user):
    left = watching.follow(late, user, 0, SMALL, **{f"goal_{k}": watching.LEFT_TO_IT for k in range(1, 5)})
    assert not bool(left.yours.any())
    mine = watching.follow(late, user, 0, SMALL, goal_1="music", goal_2="sport", goal_3="news", goal_4="music")
    starts = mine.began.nonzero().flatten()
    assert mine.goal[starts].tolist()[:4] == [1, 2, 0, 1][: len(starts)]
    assert bool(mine.yours[mine.began][:4].all())
    for line in (left, mine):
        assert len(line) <= watching.STEPS
        assert line.progress.shape == (len(line) + 1, 3)
        assert bool(((line.reward == 0) | (line.reward == lesson.LATE)).all())
        pictures.draw_timeline(line, new_figure(11, 6.2))
        assert "Goals:" in pictures.describe_timeline(line)


def test_a_goal_lasts_until_it_pays_or_its_time_is_over(late):
    line = watching.follow(late, 2, 1, SMALL, goal_1="news")
    starts = [*line.began.nonzero().flatten().tolist(), len(line)]
    for start, end in pairwise(starts):
        assert end - start <= lesson.TRAINING.goal_steps
        if end < len(line) and end - start < lesson.TRAINING.goal_steps:
            assert float(line.reward[end - 1]) > 0


def test_the_explorer_of_goals_moves_at_every_end(late, monkeypatch):
    explorer = explorers.explore_goals(late)
    for user, goal in ((0, "news"), (sessions.TEST_USERS - 1, "sport"), (3, watching.LEFT_TO_IT)):
        line = explorer.run(user=user, goal_1=goal, goal_2="music", goal_3=goal, goal_4=goal)
        assert bool(line.yours[0]) == (goal != watching.LEFT_TO_IT)
    explorer.new_seed()
    explorer.wait(30)
    assert explorer.values["seed"] == 1
    explorer.close()


@pytest.mark.parametrize(("goal_steps", "clicks"), [(1, 1), (30, 12), (5, 4)])
def test_a_training_can_be_run_at_every_end_of_its_controls(goal_steps, clicks, to_the_end):
    found = to_the_end(live.train_live(goal_steps, clicks, 1, SHORT))
    assert found.two_levels.shape == found.flat.shape == (live.N_SEEDS, len(found.steps))
    assert int(found.steps[-1]) == SHORT.environment_steps
    assert bool((found.best > 0.1).all())
    pictures.draw_live(found, new_figure(10, 4.4))
    assert f"{clicks} clicks a reward" in pictures.describe_live(found)


def test_a_training_can_be_stopped_and_shows_how_far_it_came():
    march = live.train_live(3, 2, 0, replace(SHORT, updates=12))
    moment = next(march)
    assert len(moment.snapshot().steps) == 1
    assert (moment.done, moment.total) == (live.EVERY, 12)
    march.close()


# Real tastes, and what is left to draw.


def test_films(small_movielens):
    ratings = replace(small_movielens, genre_names=("Drama", "Comedy", "Action", "D"))
    found = films.compare_on_films(ratings, SMALL, replace(SHORT, updates=sessions.EARLY))
    assert found.clicks_needed == lesson.LATE
    assert set(found.returns) == {sessions.TWO_LEVELS, sessions.FLAT}
    assert found.early(sessions.FLAT).shape == (2,)
    pictures.draw_films(found, new_figure(8.6, 4.2))


def test_pictures_of_ideas_can_be_drawn():
    pictures.draw_levels(new_figure(11, 3.9))
    pictures.draw_chain_itself(new_figure(10, 3.4))
