"""Sessions whose reward comes late, of invented users and of those of MovieLens: two levels beside a flat policy."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial

import torch
from torch import Tensor, nn

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.envs import (
    ACTIONS,
    STATE_DIM,
    SessionPlanner,
    SessionSettings,
    SessionUsers,
    join_users,
    make_users,
    users_from_ratings,
)
from recmtl_lessons.envs.users import N_CATEGORIES, mean_by_group
from recmtl_lessons.lessons._seeds import MORE_SEEDS, MOST_SEEDS, SEEDS
from recmtl_lessons.lessons.hierarchical.chain import SETTINGS, judged_on_the_way
from recmtl_lessons.models import HierarchicalMultiTaskRL, MultiTaskPolicyNetwork
from recmtl_lessons.teaching import Running
from recmtl_lessons.training import (
    Acted,
    Actors,
    Chooser,
    Rollout,
    Scores,
    Sessions,
    Stack,
    actor_critic,
    concurrently_for,
    returns_of,
)
from recmtl_lessons.training.actor_critic import DISCOUNT
from recmtl_lessons.training.two_levels import Stepped, Training, Walker, train

TASK = "search"
LATE = 8  # clicks on one category for a reward
USERS, TEST_USERS = 200, 200  # a seed
TIME_LIMIT = 60  # steps of a session that is learned from
HORIZON = 40  # steps of a session that judges: a reward after them would count less than 1.5 per cent
GLANCE, LOOK = 32, 512  # sessions that a model is judged on: on the way, and in the end
TRAINING = Training(**SETTINGS["sessions"]["two_levels"])
FLAT_TRAINING = replace(TRAINING, **SETTINGS["sessions"]["flat"])
ON_FRESH_SEEDS = SETTINGS["on_fresh_seeds"]
EVERY = 7  # updates between two glances

ARMS = ("two levels", "flat", "goals by chance", "paid for progress")
CONTROLS = ARMS[2:]
CONTROL_SEEDS = len(MORE_SEEDS)  # what the controls show is large, and seen on fewer seeds

LIVE, FLAT_LIVE = (replace(how, updates=12) for how in (TRAINING, FLAT_TRAINING))
LIVE_SEEDS = 4
LIVE_EVERY, LIVE_SESSIONS = 3, 64  # updates between two points, and sessions that a model is judged on there


def settings_of(clicks_needed: int) -> SessionSettings:
    """Return settings of up to `TIME_LIMIT` steps, little satiation, and a reward for the last of so many clicks."""
    return SessionSettings(satiation=0.3, levels=3, clicks_needed=clicks_needed, time_limit=TIME_LIMIT)


@lru_cache(maxsize=64)
def users_of(seed: int, group: int) -> SessionUsers:
    """Return a seed's users; group 0 is learned from, 1 chooses settings, 2 judges."""
    return make_users(TEST_USERS if group else USERS, seed, group=group)


# Acting.


class SessionPlace:
    """Sessions on one surface as a place for two levels: a goal is a category, reached where it brings a reward.

    A controller is paid for progress: 1 for each click in the goal's category, less the clicks that a click elsewhere
    undoes.

    Parameters
    ----------
    sessions : Sessions
        On one task.
    """

    def __init__(self, sessions: Sessions):
        self.sessions, (self.task,) = sessions, sessions.tasks
        self._lead = sessions.envs[self.task].rules.surface.lead

    @property
    def seen(self) -> Tensor:
        """Return what the models see now, (M, B, D)."""
        return self.sessions.observations[self.task]

    def step(self, goal: Tensor, action: Tensor) -> Stepped:
        """Act, and say which goals were reached."""
        done = self.sessions.step({self.task: Acted(action)})[self.task]
        here = done.clicked & (self._lead[action] == goal)
        paid = _gained(self.sessions, done).gather(-1, goal[..., None]).squeeze(-1)
        reached = here & (done.rewards > 0)
        return Stepped(done.rewards, paid, reached, done.terminated, done.truncated, done.next_observations)


def _gained(sessions: Sessions, done: Rollout) -> Tensor:
    """Return the clicks towards the next reward that a step brought each category, or lost, below 0: (..., C)."""
    rules = sessions.envs[sessions.tasks[0]].rules
    needed, count = rules.settings.clicks_needed, len(rules.users.categories)
    before, after = (needed * o[..., rules.layout.streak] for o in (done.observations, done.next_observations))
    paid = torch.nn.functional.one_hot(rules.surface.lead[done.actions].clamp(min=0), count) * done.rewards[..., None]
    return after + paid - before  # whoever is paid begins to count anew


class PaidForProgress(Sessions):
    """Sessions whose reward is progress in any category: lateness taken away."""

    def step(self, acted) -> dict[str, Rollout]:
        """Take a step, with the reward in its other form."""
        ((task, done),) = super().step(acted).items()
        return {task: replace(done, rewards=_gained(self, done).sum(-1))}


def flat_network() -> MultiTaskPolicyNetwork:
    """Return a policy for one surface."""
    return MultiTaskPolicyNetwork(STATE_DIM, {TASK: ACTIONS[TASK]}, shared_dims=(64, 64), task_dims=())


def two_level_network() -> HierarchicalMultiTaskRL:
    """Return two levels: a goal for each category, all actions for each controller, about as many parameters."""
    return HierarchicalMultiTaskRL(STATE_DIM, N_CATEGORIES, ACTIONS[TASK], meta_dims=(64,), task_dims=(52,), goal_dim=4)


# Training and judging.


def two_levels(
    worlds: Sequence[SessionUsers], seeds: Sequence[int], settings: SessionSettings, how: Training
) -> tuple[Stack, Walker]:
    """Return untrained models of two levels, one per seed, in sessions with the users of their seed."""
    stack = _stack(two_level_network, seeds, how)
    sessions = Sessions(list(worlds), (TASK,), how.sessions, settings, stack.seeds)
    return stack, Walker(stack, SessionPlace(sessions), how.goal_steps, Chooser(len(seeds), seeds[0]))


def flat_policies(
    worlds: Sequence[SessionUsers],
    seeds: Sequence[int],
    settings: SessionSettings,
    how: Training,
    kind: type[Sessions] = Sessions,
) -> tuple[Stack, Sessions]:
    """Return the same for the flat policy; the kind of sessions may be `PaidForProgress`."""
    stack = _stack(flat_network, seeds, how)
    return stack, kind(list(worlds), (TASK,), how.sessions, settings, stack.seeds)


def _stack(build: Callable[[], nn.Module], seeds: Sequence[int], how: Training) -> Stack:
    return Actors(build, [{}], seeds, how.learning_rate, clip=0.5)


def judge_flat(stack: Stack, worlds: Sequence[SessionUsers], settings: SessionSettings, played: int = GLANCE) -> Tensor:
    """Play whole sessions; return their mean discounted reward, (S,)."""
    choose = actor_critic.choose_with(stack, Chooser(stack.n_seeds, 77), (TASK,))
    found = returns_of(
        worlds, (TASK,), choose, settings, seeds=stack.seeds, sessions=played, discount=DISCOUNT, horizon=HORIZON
    )
    return found[TASK]


def judge_two_levels(
    stack: Stack, worlds: Sequence[SessionUsers], settings: SessionSettings, goal_steps: int, played: int = GLANCE
) -> Tensor:
    """Play as much with two levels, (S,)."""
    endless = replace(settings, time_limit=HORIZON + 1)
    sessions = Sessions(list(worlds), (TASK,), played, endless, stack.seeds)
    walker = Walker(stack, SessionPlace(sessions), goal_steps, Chooser(stack.n_seeds, 77))
    total, going = torch.zeros(len(stack), played), torch.ones(len(stack), played)
    for t in range(HORIZON):
        done = walker.step()
        total += going * DISCOUNT**t * done.reward
        going *= ~done.terminated
    return total.mean(1)


@dataclass(frozen=True)
class Comparison:
    """Arms of S seeds, the controls of the first `CONTROL_SEEDS` of them.

    Returns are mean discounted rewards of a session with users who were not learned from.

    Attributes
    ----------
    clicks_needed : int
    steps : Tensor, (P,)
        Steps each model had taken at P moments.
    curves : dict {arm: Tensor (S, P)}
        Returns then, on the way from few sessions, in the end from more.
    judged : tuple of SessionUsers
        The users, one group per seed.
    stacks : dict {arm: Stack}
        Trained to the end.
    """

    clicks_needed: int
    steps: Tensor
    curves: dict[str, Tensor]
    judged: tuple[SessionUsers, ...]
    stacks: dict[str, Stack]

    @property
    def returns(self) -> dict[str, Tensor]:
        """Return what each arm earned in the end, {arm: Tensor (S,)}."""
        return {arm: values[:, -1] for arm, values in self.curves.items()}

    def lead(self, arm: str, other: str) -> Tensor:
        """Return what one arm earned in the end beyond another, on the seeds that both have."""
        one, two = self.returns[arm], self.returns[other]
        both = min(len(one), len(two))
        return one[:both] - two[:both]

    @cached_property
    def best(self) -> Tensor:
        """Return what is possible for whoever knows the tastes, (S,), with the first ten users, without an end.

        Arms are judged with all users, and over `HORIZON` steps: this is where the ceiling lies, not an exact bound.
        """
        return best_returns([users[:10] for users in self.judged], settings_of(self.clicks_needed))


@lru_cache(maxsize=4)
def compare(
    clicks_needed: int = LATE,
    arms: tuple[str, ...] = ARMS,
    seeds: tuple[int, ...] = MOST_SEEDS,
    how: Training = TRAINING,
    flat_how: Training = FLAT_TRAINING,
    group: int = 2,
    every: int = EVERY,
) -> Comparison:
    """Train arms on as many steps, and judge them: at a glance after every so many updates, and in the end."""
    learned, judged = ([users_of(seed, g) for seed in seeds] for g in (0, group))
    return compare_users(learned, judged, clicks_needed, arms, seeds, how, flat_how, every)


def compare_users(
    learned: Sequence[SessionUsers],
    judged: Sequence[SessionUsers],
    clicks_needed: int,
    arms: Sequence[str],
    seeds: tuple[int, ...],
    how: Training,
    flat_how: Training,
    every: int = EVERY,
) -> Comparison:
    """Compare as `compare` does, with users that are handed in, one group per seed."""
    settings = settings_of(clicks_needed)

    def learn(arm: str) -> tuple[Stack, tuple[int, ...], Tensor]:
        few = slice(CONTROL_SEEDS if arm in CONTROLS else None)
        if arm in ("two levels", "goals by chance"):
            stack, walker = two_levels(learned[few], seeds[few], settings, how)
            by_chance = torch.full((len(stack),), arm == "goals by chance")
            training = train(stack, walker, how, meta_untaught=by_chance, every=every)
            judge = partial(judge_two_levels, stack, judged[few], settings, how.goal_steps)
        else:
            kind = PaidForProgress if arm == "paid for progress" else Sessions
            stack, sessions = flat_policies(learned[few], seeds[few], settings, flat_how, kind)
            training = actor_critic.train(stack, sessions, flat_how, every=every)
            judge = partial(judge_flat, stack, judged[few], settings)
        clicks = f"{clicks_needed} clicks" if clicks_needed > 1 else "each click"
        return stack, *judged_on_the_way(
            training, how.updates, f"{arm}, {clicks} a reward", judge, partial(judge, played=LOOK)
        )

    learned_by = concurrently_for(arms, learn)
    updates = learned_by[arms[0]][1]
    return Comparison(
        clicks_needed,
        torch.tensor(updates) * how.sessions * how.steps,
        {arm: curve for arm, (_, _, curve) in learned_by.items()},
        tuple(judged),
        {arm: stack for arm, (stack, _, _) in learned_by.items()},
    )


def best_returns(worlds: Sequence[SessionUsers], settings: SessionSettings) -> Tensor:
    """Return what is possible with each seed's users, by dynamic programming, (S,)."""
    plan = SessionPlanner(join_users(list(worlds)), TASK, settings, DISCOUNT).best()
    return mean_by_group(plan.returns, len(worlds))


# Real tastes.


def compare_on_films(
    ratings: Ratings, seeds: tuple[int, ...] = SEEDS, how: Training = TRAINING, flat_how: Training = FLAT_TRAINING
) -> Comparison:
    """Train two levels and the flat policy with six tenths of the raters, where the reward is late.

    They are judged with some of those whom nobody learned from; S splits of the raters.
    """
    learned = [users_from_ratings(ratings, seed, 0) for seed in seeds]
    judged = [users_from_ratings(ratings, seed, 2)[:TEST_USERS] for seed in seeds]
    return compare_users(learned, judged, LATE, ("two levels", "flat"), seeds, how, flat_how, every=how.updates)


# One setting, live.


def train_live(
    goal_steps: int, clicks_needed: int, seed: int, how: Training = LIVE, flat_how: Training = FLAT_LIVE
) -> Iterator[Running]:
    """Train both on four seeds; ``seed`` k takes the k-th four. Judged on validation users."""
    seeds = tuple(SEEDS[0] + LIVE_SEEDS * seed + k for k in range(LIVE_SEEDS))
    settings, how = settings_of(clicks_needed), replace(how, goal_steps=goal_steps)
    learned, judged = ([users_of(s, group) for s in seeds] for group in (0, 1))
    best = best_returns([users[:20] for users in judged], settings)
    stack, walker = two_levels(learned, seeds, settings, how)
    policies, sessions = flat_policies(learned, seeds, settings, flat_how)
    steps, found = [], {"two levels": [], "flat": [], "best, tastes known": []}

    def snapshot() -> Scores:
        curves = {arm: torch.stack(values, dim=1) for arm, values in found.items()}
        return Scores.of("discounted reward", curves, steps)

    above = train(stack, walker, how, every=LIVE_EVERY)
    beside = actor_critic.train(policies, sessions, flat_how, every=LIVE_EVERY)
    for moment, _ in zip(above, beside, strict=True):
        steps.append(moment.step * how.sessions * how.steps)
        found["two levels"].append(judge_two_levels(stack, judged, settings, goal_steps, LIVE_SESSIONS))
        found["flat"].append(judge_flat(policies, judged, settings, LIVE_SESSIONS))
        found["best, tastes known"].append(best)
        yield Running(moment.step, moment.steps, snapshot, "update")
    return snapshot()


def score_rates(
    clicks_needed: int,
    rates: Sequence[float] = SETTINGS["sessions"]["rates"],
    arms: Sequence[str] = ("two levels", "flat", "paid for progress"),
    seeds: Sequence[int] = range(24),
) -> dict[tuple[str, float], Tensor]:
    """Return what arms earn by learning rate, with users of group 1, {(arm, rate): Tensor (S,)}."""
    found = {}
    for rate in rates:
        hows = (replace(how, learning_rate=rate) for how in (TRAINING, FLAT_TRAINING))
        result = compare(clicks_needed, tuple(arms), tuple(seeds), *hows, group=1, every=TRAINING.updates)
        found |= {(arm, rate): returns for arm, returns in result.returns.items()}
    return found
