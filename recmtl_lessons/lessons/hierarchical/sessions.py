"""Sessions whose reward comes late: two levels beside the flat policy of lesson 07."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial

import torch
from torch import Tensor, nn

from recmtl_lessons.envs import SessionPlanner, SessionSettings, SessionUsers, join_users, make_surface, make_users
from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.hierarchical.learning import (
    TWO_LEVELS,
    Stepped,
    Training,
    Walked,
    Walker,
    judged_on_the_way,
    train,
)
from recmtl_lessons.lessons.policy import learning as flat
from recmtl_lessons.lessons.policy.experiments import by_seed
from recmtl_lessons.lessons.policy.learning import DISCOUNT
from recmtl_lessons.models import HierarchicalMultiTaskRL, MultiTaskPolicyNetwork
from recmtl_lessons.training import Acted, Actors, Chooser, Rollout, Sessions, Stack, returns_of

TASK = "search"
ACTIONS, CATEGORIES, STATE_DIM = 6, 3, 15
LATE = 12  # clicks on one category for a reward
USERS, TEST_USERS = 200, 20  # a seed
PLAYED, HORIZON = 128, 60  # sessions a model is judged on, and their steps
TRAINING = Training(
    goal_steps=20, updates=30, sessions=32, steps=10, epochs=3, minibatches=2, learning_rate=8e-3, entropy=0.01,
    gae_lambda=0.6,
)  # fmt: skip
EARLY = 15  # the update after which arms are compared
FEW = replace(TRAINING, updates=EARLY)  # 4,800 steps

FLAT = "flat"
FOR_CLICKS, FOR_PROGRESS = "two levels, paid for clicks", "flat, paid for progress"
CONTROLS = (FOR_CLICKS, FOR_PROGRESS)


def settings_of(clicks_needed: int) -> SessionSettings:
    """Sessions of up to 60 steps with little satiation, and a reward for the last of so many clicks."""
    return SessionSettings(satiation=0.3, levels=3, clicks_needed=clicks_needed, time_limit=HORIZON)


@lru_cache(maxsize=64)
def users_of(seed: int, group: int) -> SessionUsers:
    """A seed's users; group 0 is learned from, 1 chooses settings, 2 judges."""
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
    for_clicks : Tensor, (M,), bool, optional
        Models whose controllers are paid for clicks alone, whatever is undone.
    """

    def __init__(self, sessions: Sessions, for_clicks: Tensor | None = None):
        self.sessions, (self.task,) = sessions, sessions.tasks
        self._lead = sessions.envs[self.task].rules.surface.lead
        self._for_clicks = None if for_clicks is None else for_clicks[:, None]

    @property
    def seen(self) -> Tensor:
        """(M, B, D)."""
        return self.sessions.observations[self.task]

    def step(self, goal: Tensor, action: Tensor) -> Stepped:
        """Act, and say which goals were reached."""
        done = self.sessions.step({self.task: Acted(action)})[self.task]
        here = done.clicked & (self._lead[action] == goal)
        paid = _gained(self.sessions, done).gather(-1, goal[..., None]).squeeze(-1)
        if self._for_clicks is not None:
            paid = torch.where(self._for_clicks, here.float(), paid)
        reached = here & (done.rewards > 0)
        return Stepped(done.rewards, paid, reached, done.terminated, done.truncated, done.next_observations)


def _gained(sessions: Sessions, done: Rollout) -> Tensor:
    """Clicks towards the next reward that a step brought each category, below 0 where it lost them: (..., C)."""
    rules = sessions.envs[sessions.tasks[0]].rules
    needed, count = rules.settings.clicks_needed, len(rules.users.categories)
    before, after = (needed * o[..., rules.layout.streak] for o in (done.observations, done.next_observations))
    paid = torch.nn.functional.one_hot(rules.surface.lead[done.actions].clamp(min=0), count) * done.rewards[..., None]
    return after + paid - before  # whoever is paid begins to count anew


class PaidForProgress(Sessions):
    """Sessions whose reward, for some of the models, is progress in any category: lateness taken away.

    Parameters
    ----------
    flags : Tensor, (M,), bool
        Which models.
    *arguments
        Of `Sessions`.
    """

    def __init__(self, flags: Tensor, *arguments):
        super().__init__(*arguments)
        self._flags = flags[:, None]

    def step(self, acted) -> dict[str, Rollout]:
        """One step, with the reward in its other form."""
        ((task, done),) = super().step(acted).items()
        return {task: replace(done, rewards=torch.where(self._flags, _gained(self, done).sum(-1), done.rewards))}


def flat_network() -> MultiTaskPolicyNetwork:
    """Lesson 07's network for one surface."""
    return MultiTaskPolicyNetwork(STATE_DIM, {TASK: ACTIONS}, shared_dims=(64, 64), task_dims=())


def two_level_network() -> HierarchicalMultiTaskRL:
    """A goal for each category, all actions for each controller, and about as many parameters."""
    return HierarchicalMultiTaskRL(STATE_DIM, CATEGORIES, ACTIONS, meta_dims=(64,), task_dims=(52,), goal_dim=4)


# Training and judging.


def two_levels(
    worlds: Sequence[SessionUsers], seeds: Sequence[int], settings: SessionSettings, how: Training, clicks: bool = False
) -> tuple[Stack, Walker]:
    """Untrained models of two levels, in sessions with the users of their seed; with ``clicks`` an arm paid for them.

    The stack's first arm is paid for progress.
    """
    stack = _stack(two_level_network, 1 + clicks, seeds, how)
    sessions = Sessions(list(worlds) * (1 + clicks), (TASK,), how.sessions, settings, stack.seeds)
    place = SessionPlace(sessions, torch.arange(len(stack)) >= len(seeds))
    return stack, Walker(stack, place, how.goal_steps, Chooser(len(seeds), seeds[0]))


def flat_policies(
    worlds: Sequence[SessionUsers],
    seeds: Sequence[int],
    settings: SessionSettings,
    how: Training,
    progress: bool = False,
) -> tuple[Stack, Sessions]:
    """The same for the flat policy; with ``progress`` a second arm whose reward is progress."""
    stack = _stack(flat_network, 1 + progress, seeds, how)
    everyone = list(worlds) * (1 + progress)
    flags = torch.arange(len(stack)) >= len(seeds)
    return stack, PaidForProgress(flags, everyone, (TASK,), how.sessions, settings, stack.seeds)


def _stack(build: Callable[[], nn.Module], arms: int, seeds: Sequence[int], how: Training) -> Stack:
    return Actors(build, [{"arm": float(arm)} for arm in range(arms)], seeds, how.learning_rate, clip=0.5)


def judge_flat(stack: Stack, worlds: Sequence[SessionUsers], settings: SessionSettings) -> Tensor:
    """Mean discounted reward of whole sessions, played, (arms, S); all arms of a seed have the same chances."""
    everyone = list(worlds) * stack.n_settings
    choose = flat.choose_with(stack, Chooser(stack.n_seeds, 77), (TASK,))
    found = returns_of(
        everyone, (TASK,), choose, settings, seeds=stack.seeds, sessions=PLAYED, discount=DISCOUNT, horizon=HORIZON
    )
    return stack.by_setting(found[TASK])


def judge_two_levels(
    stack: Stack, worlds: Sequence[SessionUsers], settings: SessionSettings, goal_steps: int
) -> Tensor:
    """The same for two levels, (arms, S)."""
    total = torch.zeros(len(stack), PLAYED)
    for t, (done, going) in enumerate(_played(stack, worlds, settings, goal_steps)):
        total += going * DISCOUNT**t * done.reward
    return stack.by_setting(total.mean(1))


def strays_of(stack: Stack, worlds: Sequence[SessionUsers], settings: SessionSettings, goal_steps: int) -> Tensor:
    """In how much of their steps controllers lead with another category than their goal's, (arms, S)."""
    lead = make_surface(TASK, CATEGORIES).lead
    steps = strayed = torch.zeros(len(stack))
    for done, going in _played(stack, worlds, settings, goal_steps):
        steps = steps + going.sum(1)
        strayed = strayed + (going * (lead[done.action] != done.goal)).sum(1)
    return stack.by_setting(strayed / steps)


def _played(
    stack: Stack, worlds: Sequence[SessionUsers], settings: SessionSettings, goal_steps: int
) -> Iterator[tuple[Walked, Tensor]]:
    """Each step of whole sessions, and which of them, (M, B), had not ended before it."""
    endless = replace(settings, time_limit=HORIZON + 1)
    sessions = Sessions(list(worlds) * stack.n_settings, (TASK,), PLAYED, endless, stack.seeds)
    walker = Walker(stack, SessionPlace(sessions), goal_steps, Chooser(stack.n_seeds, 77))
    going = torch.ones(len(stack), PLAYED)
    for _ in range(HORIZON):
        done = walker.step()
        yield done, going
        going = going * ~done.terminated


@dataclass(frozen=True)
class Comparison:
    """Arms judged on the way; S seeds, P points.

    Attributes
    ----------
    clicks_needed : int
    updates : tuple of int
        After how many updates each point was taken.
    steps : Tensor, (P,)
        Steps each model had taken.
    returns : dict {arm: Tensor (S, P)}
        Mean discounted reward of a session with users who were not learned from.
    strays : dict {arm: Tensor (S,)}
        Of both arms with two levels, at the end of the training; see `strays_of`. Empty without `FOR_CLICKS`.
    judged : tuple of SessionUsers
        The users, one group a seed.
    stack : Stack
        Of two levels, trained to the end.
    """

    clicks_needed: int
    updates: tuple[int, ...]
    steps: Tensor
    returns: dict[str, Tensor]
    strays: dict[str, Tensor]
    judged: tuple[SessionUsers, ...]
    stack: Stack

    @cached_property
    def best(self) -> Tensor:
        """What is possible for whoever knows the tastes, (S,); see `best_returns`."""
        return best_returns(self.judged, settings_of(self.clicks_needed))

    def early(self, arm: str) -> Tensor:
        """An arm's returns after `EARLY` updates, (S,)."""
        return self.returns[arm][:, self.updates.index(EARLY)]

    @property
    def ablest(self) -> int:
        """Number of the seed whose two levels earn most in the end."""
        return int(self.returns[TWO_LEVELS][:, -1].argmax())


@lru_cache(maxsize=4)
def compare(
    clicks_needed: int = LATE,
    seeds: tuple[int, ...] = SEEDS,
    how: Training = TRAINING,
    group: int = 2,
    controls: tuple[str, ...] = (),
    every: int = EARLY,
) -> Comparison:
    """Train two levels and the flat policy on as many steps, and some of `CONTROLS`; judge after ``every`` updates."""
    learned, judged = ([users_of(seed, g) for seed in seeds] for g in (0, group))
    return compare_users(learned, judged, clicks_needed, seeds, how, controls, every)


def compare_users(
    learned: Sequence[SessionUsers],
    judged: Sequence[SessionUsers],
    clicks_needed: int,
    seeds: tuple[int, ...],
    how: Training,
    controls: Sequence[str] = (),
    every: int = EARLY,
) -> Comparison:
    """As `compare`, for users that are handed in, one group a seed."""
    settings, late = settings_of(clicks_needed), _late(clicks_needed)
    stack, walker = two_levels(learned, seeds, settings, how, clicks=FOR_CLICKS in controls)
    updates, goals = judged_on_the_way(
        train(stack, walker, how, every=every), how.updates, f"two levels, {late}",
        partial(judge_two_levels, stack, judged, settings, how.goal_steps),
    )  # fmt: skip
    policies, sessions = flat_policies(learned, seeds, settings, how, progress=FOR_PROGRESS in controls)
    _, actions = judged_on_the_way(
        flat.train(policies, sessions, how, every=every), how.updates, f"flat, {late}",
        partial(judge_flat, policies, judged, settings),
    )  # fmt: skip
    levels = (TWO_LEVELS, FOR_CLICKS)[: stack.n_settings]
    returns = dict(zip(levels, goals, strict=True))
    returns |= dict(zip((FLAT, FOR_PROGRESS)[: policies.n_settings], actions, strict=True))
    strayed = strays_of(stack, judged, settings, how.goal_steps) if FOR_CLICKS in controls else ()
    strays = dict(zip(levels, strayed, strict=False))
    steps = torch.tensor(updates) * how.sessions * how.steps
    return Comparison(clicks_needed, updates, steps, returns, strays, tuple(judged), stack)


def _late(clicks_needed: int) -> str:
    return f"{clicks_needed} clicks a reward" if clicks_needed > 1 else "each click a reward"


def best_returns(worlds: Sequence[SessionUsers], settings: SessionSettings) -> Tensor:
    """What is possible with each seed's users, by dynamic programming, (S,)."""
    plan = SessionPlanner(join_users(list(worlds)), TASK, settings, DISCOUNT).best()
    return by_seed(plan.returns, range(len(worlds)))
