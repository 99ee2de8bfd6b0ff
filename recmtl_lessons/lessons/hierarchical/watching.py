"""A session at two levels, whose goals can be taken over."""

from dataclasses import dataclass

import torch
from torch import Tensor

from recmtl_lessons.envs import SessionRules
from recmtl_lessons.lessons.hierarchical.sessions import LATE, TASK, TRAINING, Comparison, settings_of

STEPS = 45
SHOWN_USERS = 20  # that can be picked
LEFT_TO_IT = "the meta-controller's"


@dataclass(frozen=True)
class Timeline:
    """A session of T steps at two levels; C categories.

    Attributes
    ----------
    categories, labels : tuple of str
        Names of the categories and of the actions.
    tastes : Tensor, (C,)
        Hidden.
    goal, action : Tensor, (T,)
    began : Tensor, (T,), bool
        Whether the goal was chosen in this step.
    yours : Tensor, (T,), bool
        Whether the learner chose it.
    clicked : Tensor, (T,), bool
    reward : Tensor, (T,)
    progress : Tensor, (T + 1, C)
        Clicks towards the next reward, before each step and after the last.
    wished : Tensor, (C,)
        The meta-controller's probabilities of a first goal.
    left : bool
        Whether the user left at the end.
    """

    categories: tuple[str, ...]
    labels: tuple[str, ...]
    tastes: Tensor
    goal: Tensor
    action: Tensor
    began: Tensor
    yours: Tensor
    clicked: Tensor
    reward: Tensor
    progress: Tensor
    wished: Tensor
    left: bool

    def __len__(self) -> int:
        return len(self.goal)


def follow(
    result: Comparison,
    user: int,
    goal_1: str = LEFT_TO_IT,
    goal_2: str = LEFT_TO_IT,
    goal_3: str = LEFT_TO_IT,
    seed: int = 0,
    agent: int = 0,
) -> Timeline:
    """Let one of the trained levels serve a user of its seed whom nobody has learned from, some goals chosen by hand.

    Parameters
    ----------
    result : Comparison
    user : int
        Number of the user, from 0.
    goal_1, goal_2, goal_3 : str
        A category, or `LEFT_TO_IT`.
    seed : int
        Of the chances in the session, which are the same whatever is chosen.
    agent : int
        Its number among the seeds, from 0.
    """
    if agent not in range(len(result.judged)):
        raise ValueError(f"agent: got {agent!r}, expected 0 to {len(result.judged) - 1}")
    users = result.judged[agent]
    if user not in range(len(users)):
        raise ValueError(f"user: got {user!r}, expected 0 to {len(users) - 1}")
    hands = [_chosen(f"goal_{k}", goal, users.categories) for k, goal in enumerate((goal_1, goal_2, goal_3), 1)]
    rules, network = SessionRules(users, TASK, settings_of(LATE)), result.stacks["two levels"].model(agent)
    luck = torch.rand(STEPS, 3, generator=torch.Generator().manual_seed(1_000 * seed + user), dtype=torch.float64)
    state, rows, states, age, goal, count = rules.begin(torch.tensor([user])), [], [], 0, None, 0
    wished = network.goal_probabilities(rules.observe(state))[0].detach()
    for step in range(STEPS):
        states.append(state)
        began = age == 0
        if began:
            mine = count < len(hands) and hands[count] is not None
            wish = network.goal_probabilities(rules.observe(state))[0]
            goal, count = hands[count] if mine else _drawn(wish, luck[step, 0]), count + 1
        action = _drawn(network.action_probabilities(rules.observe(state), torch.tensor([goal]))[0], luck[step, 1])
        outcome = rules.step(state, torch.tensor([action]), luck[step, 2:3])
        reached = bool(outcome.reward > 0) and int(rules.surface.lead[action]) == goal
        rows.append((goal, action, began, mine, bool(outcome.clicked), float(outcome.reward)))
        state, age = outcome.state, 0 if reached or age + 1 == TRAINING.goal_steps else age + 1
        if outcome.terminated:
            break
    goals, actions, starts, yours, clicked, reward = (torch.tensor(part) for part in zip(*rows, strict=True))
    progress = torch.cat([s.streak for s in (*states, state)])
    return Timeline(
        users.categories, rules.surface.actions, rules.tastes[user], goals, actions, starts, yours, clicked, reward,
        progress, wished, bool(outcome.terminated),
    )  # fmt: skip


def _chosen(name: str, goal: str, categories: tuple[str, ...]) -> int | None:
    """Return the number of the category, None where the goal is left to the meta-controller."""
    if goal not in (LEFT_TO_IT, *categories):
        raise ValueError(f"{name}: got {goal!r}, expected {LEFT_TO_IT!r} or one of {', '.join(map(repr, categories))}")
    return None if goal == LEFT_TO_IT else categories.index(goal)


def _drawn(probability: Tensor, luck: Tensor) -> int:
    """Return the choice that a uniform number stands for."""
    return min(int((probability.detach().double().cumsum(0) < luck).sum()), len(probability) - 1)
