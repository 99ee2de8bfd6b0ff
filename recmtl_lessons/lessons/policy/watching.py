"""A session as it unfolds, action by action, with what the policy sees and what it does not."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recmtl_lessons.envs import SessionPlanner, SessionRules, SessionSettings, SessionState
from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.policy.experiments import (
    SHARED,
    TEST_USERS,
    WORLDS,
    Comparison,
    planner,
)

STEPS = 16
WORLD = WORLDS["tastes and rules"]
ACTORS = ("trained policy", "myopic bandit", "myopic, knows all tastes", "best possible", "chance")
_KNOWING = {"myopic, knows all tastes": SessionPlanner.myopic, "best possible": SessionPlanner.best}


@dataclass(frozen=True)
class Watched:
    """A session of one user, T steps long; C categories, A actions.

    Attributes
    ----------
    step : int
        The step that is looked at, from 1: the one asked for, or the last.
    categories, labels : tuple of str
        Names of the C categories and the A actions.
    tastes : Tensor, (C,)
    satiation : Tensor, (T + 1, C)
        Levels before each step, and after the last.
    ignored : Tensor, (T + 1,)
    seen : Tensor, (T, D)
        What the policy sees before each step.
    probabilities : Tensor, (T, A)
    chance : Tensor, (T, A)
        Of a click, for each action: hidden, too.
    action : Tensor, (T,)
    reward : Tensor, (T,)
    left : bool
        Whether the user left at the end.
    """

    step: int
    categories: tuple[str, ...]
    labels: tuple[str, ...]
    tastes: Tensor
    satiation: Tensor
    ignored: Tensor
    seen: Tensor
    probabilities: Tensor
    chance: Tensor
    action: Tensor
    reward: Tensor
    left: bool

    def __len__(self) -> int:
        return len(self.action)


def watch(
    result: Comparison, task: str, actor: str, user: int, step: int, seed: int = 0, seeds: tuple[int, ...] = SEEDS
) -> Watched:
    """Let an actor serve a user whom nobody has learned from.

    Parameters
    ----------
    result : Comparison
        With the trained networks; that of the first seed acts.
    task : str
    actor : str
        One of `ACTORS`.
    user : int
        Number of the user, from 0.
    step : int
        The step to look at; the last one where the session is shorter.
    seed : int
        Of the chances in the session.
    """
    users = WORLD.users(seeds[0], 2, TEST_USERS)
    rules = SessionRules(users, task, SessionSettings())
    ask = _asked(result, actor, task, rules, seeds)
    state, chances = rules.begin(torch.tensor([user])), torch.Generator().manual_seed(1_000 * seed + user)
    rows, states, left = [], [state], False
    while len(rows) < STEPS and not left:
        probability = ask(state)  # (A,)
        action = torch.multinomial(probability, 1, generator=chances)
        outcome = rules.step(state, action, torch.rand(1, generator=chances, dtype=torch.float64))
        rows.append((rules.observe(state)[0], probability, _click_chances(rules, state), action[0], outcome.reward[0]))
        state, left = outcome.state, bool(outcome.terminated)
        states.append(state)
    seen, probabilities, chance, action, reward = (torch.stack(part) for part in zip(*rows, strict=True))
    return Watched(
        min(step, len(rows)), users.categories, rules.surface.actions, rules.tastes[user],
        torch.cat([s.satiation for s in states]), torch.cat([s.ignored for s in states]), seen, probabilities,
        chance, action, reward, left,
    )  # fmt: skip


def _asked(
    result: Comparison, actor: str, task: str, rules: SessionRules, seeds: tuple[int, ...]
) -> Callable[[SessionState], Tensor]:
    """Return what gives the actor's probabilities in a state, (A,)."""
    count = len(rules.surface)
    if actor == "chance":
        return lambda state: torch.full((count,), 1 / count)
    if actor in _KNOWING:
        solved = planner(WORLD, task, seeds[:1])
        plan = _KNOWING[actor](solved).action
        return lambda state: torch.eye(count)[plan[state.user, solved.index(state)][0]]
    if actor not in ACTORS:
        raise ValueError(f"actor: got {actor!r}, expected one of {', '.join(map(repr, ACTORS))}")
    setting = 0 if actor == "trained policy" else len(WORLDS)  # the first world's
    network = result.stacks[SHARED].model(setting * len(seeds))

    @torch.no_grad()
    def ask(state: SessionState) -> Tensor:
        return network.action_probabilities(rules.observe(state), task)[0]

    return ask


def _click_chances(rules: SessionRules, state: SessionState) -> Tensor:
    """Return the probability of a click for each action, (A,)."""
    every = torch.arange(len(rules.surface))
    fields = ("user", "satiation", "streak", "ignored", "elapsed")
    repeated = SessionState(*(getattr(state, f).expand(len(every), *getattr(state, f).shape[1:]) for f in fields))
    return rules.click_probability(repeated, every, torch.float32)
