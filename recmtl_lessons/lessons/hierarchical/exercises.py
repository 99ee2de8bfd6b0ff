"""Three exercises: what a goal was worth, to each row its own controller, and paid for progress."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from recmtl_lessons.lessons.hierarchical.questions import TEXTS

# What a goal was worth.


def goal_return(rewards: Tensor, value_after: Tensor, terminated: Tensor, discount: float) -> Tensor:
    """Add up all rewards of the goal, each a step later, and behind them the value of where it led."""
    k = len(rewards)
    powers = discount ** torch.arange(k)
    return (powers * rewards).sum() + discount**k * value_after * ~terminated


def _with_powers(
    of_reward: Callable = lambda j, k: j, of_value: Callable = lambda k: k, counts: Callable = lambda over: ~over
) -> Callable:
    """Return the same with other powers of the discount, or another rule for when the value counts."""

    def answer(rewards, value_after, terminated, discount):
        k = len(rewards)
        paid = sum(discount ** of_reward(j, k) * reward for j, reward in enumerate(rewards))
        return paid + discount ** of_value(k) * value_after * counts(terminated)

    return answer


def _goals(generator: torch.Generator) -> Iterator[dict]:
    for steps, over in ((4, False), (3, True), (6, False), (1, False)):
        yield {
            "rewards": torch.randint(0, 4, (steps,), generator=generator) + torch.rand(steps, generator=generator),
            "value_after": 2 + 4 * torch.rand((), generator=generator),
            "terminated": torch.tensor(over),
            "discount": float(0.5 + 0.4 * torch.rand((), generator=generator)),
        }


exercise_target = TEXTS.exercise(
    "exercise-target",
    cases=_goals,
    solution=goal_return,
    mistakes={
        "undiscounted": _with_powers(of_reward=lambda j, k: 0),
        "one power": _with_powers(of_value=lambda k: 1),
        "as in the paper": _with_powers(of_reward=lambda j, k: 0, of_value=lambda k: 1),
        "no power": _with_powers(of_value=lambda k: 0),
        "a power too few": _with_powers(of_value=lambda k: k - 1),
        "a power too many": _with_powers(of_value=lambda k: k + 1),
        "all a step late": _with_powers(of_reward=lambda j, k: j + 1, of_value=lambda k: k + 1),
        "backwards": _with_powers(of_reward=lambda j, k: k - 1 - j),
        "nothing discounted": _with_powers(of_reward=lambda j, k: 0, of_value=lambda k: 0),
        "no value": lambda rewards, value_after, *rest: goal_return(rewards, 0 * value_after, *rest),
        "one step": lambda rewards, value_after, terminated, discount: (
            rewards[0] + discount * value_after * ~terminated
        ),
        "no end": _with_powers(counts=lambda over: True),
    },
)


# To each row its own controller.


def own_rows(answers: Tensor, goals: Tensor) -> Tensor:
    """Row b of the answer comes from controller goals[b]."""
    return answers[goals, torch.arange(len(goals))]


def _controllers(generator: torch.Generator) -> Iterator[dict]:
    for goals, rows, actions in ((3, 4, 2), (2, 5, 3), (4, 7, 4)):
        wanted = torch.randint(goals, (rows,), generator=generator)
        wanted[:2] = torch.tensor([goals - 1, 0])  # neither the same everywhere nor in the order of the goals
        answers = torch.randn(goals, rows, actions, generator=generator)
        yield {"answers": answers.requires_grad_(), "goals": wanted}


exercise_rows = TEXTS.exercise(
    "exercise-rows",
    cases=_controllers,
    solution=own_rows,
    mistakes={
        "all rows of it": lambda answers, goals: answers[goals],
        "the first goal": lambda answers, goals: answers[goals[0]],
        "controller 0": lambda answers, goals: answers[0],
        "goal twice": lambda answers, goals: answers[goals, goals],
        "goal by goal": lambda answers, goals: torch.cat([answers[k][goals == k] for k in range(len(answers))]),
        "the mean": lambda answers, goals: answers.mean(0),
        "the largest": lambda answers, goals: answers.amax(0),
    },
)


# Paid for progress.


def progress(before: Tensor, after: Tensor, paid: Tensor, goal: Tensor) -> Tensor:
    """Count clicks in the goal's category that a step added, or undid; a reward has used up what it took."""
    rows = torch.arange(len(goal))
    return after[rows, goal] + paid - before[rows, goal]


def _from_change(function: Callable) -> Callable:
    """Return an answer made of what the step changed in the goal's category, what was paid, and where it stands."""

    def answer(before, after, paid, goal):
        rows = torch.arange(len(goal))
        return function((after - before)[rows, goal], paid, after[rows, goal])

    return answer


def _one_step_each(generator: torch.Generator) -> Iterator[dict]:
    """Draw clicks in the goal's category, paid or not, clicks elsewhere that undo some or not, and steps without."""
    for categories, needed, more in ((3, 4, 0), (4, 6, 3), (2, 3, 1)):
        count = int(torch.randint(1, needed - 1, (), generator=generator))  # clicks before, not the last but one
        steps = [  # goal's category before and after, another's before and after, paid
            (count, count + 1, 0, 0, 0),
            (needed - 1, 0, 0, 0, needed),
            (count + 1, 0, 0, 1, 0),
            (0, 0, count, count + 1, 0),
            (count, count, 0, 0, 0),
        ]
        steps = steps + steps[:more]
        rows = torch.randperm(len(steps), generator=generator)
        mine, mine_after, other, other_after, paid = torch.tensor(steps).float()[rows].T
        goal = torch.randint(categories, (len(steps),), generator=generator)
        at, elsewhere = torch.arange(len(steps)), (goal + 1) % categories
        before, after = torch.zeros(2, len(steps), categories)
        before[at, goal], before[at, elsewhere] = mine, other
        after[at, goal], after[at, elsewhere] = mine_after, other_after
        yield {"before": before, "after": after, "paid": paid, "goal": goal}


exercise_progress = TEXTS.exercise(
    "exercise-progress",
    cases=_one_step_each,
    solution=progress,
    mistakes={
        "a reward looks like a loss": _from_change(lambda change, paid, now: change),
        "no losses": _from_change(lambda change, paid, now: (change + paid).clamp(min=0)),
        "any category": lambda before, after, paid, goal: (after - before).sum(1) + paid,
        "sign": _from_change(lambda change, paid, now: -change + paid),
        "where it stands": _from_change(lambda change, paid, now: now + paid),
        "all at once": _from_change(lambda change, paid, now: torch.where(paid > 0, paid, change)),
        "one for a reward": _from_change(lambda change, paid, now: change + (paid > 0)),
        "the reward itself": _from_change(lambda change, paid, now: paid),
    },
)
