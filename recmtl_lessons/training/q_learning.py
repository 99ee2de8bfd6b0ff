"""How many Q-networks learn: from rewards, by double Q-learning with replay, and from teachers, by distillation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recmtl_lessons.models.distilled_q import distillation_loss, double_q_target, q_loss, q_value_scale
from recmtl_lessons.training.actor_critic import DISCOUNT
from recmtl_lessons.training.progress import Moment
from recmtl_lessons.training.replay import ReplayBuffer
from recmtl_lessons.training.rollouts import Acted, Chooser, Rollout, Sessions
from recmtl_lessons.training.stacked import Stack

Memory = dict[str, ReplayBuffer]  # {task: steps of sessions}


@dataclass(frozen=True)
class QLearning:
    """The settings of a training from rewards.

    Attributes
    ----------
    updates : int
        Steps of the optimizer. Before each, every session takes a step.
    sessions : int
        That run side by side, per task and model.
    batch : int
        Steps drawn from a task's memory for an update.
    learning_rate : float
    clip : float
        The largest norm of a gradient.
    tau : float
        How far the target network moves towards the network after each update. It is a mean of the network's recent
        parameters then, errs less than the network itself, and is what is judged in the end.
    exploration_fraction : float
        Part of the training over which epsilon falls from 1 to ``epsilon``.
    epsilon : float
    """

    updates: int = 300
    sessions: int = 64
    batch: int = 128
    learning_rate: float = 2e-3
    clip: float = 0.5
    tau: float = 0.03
    exploration_fraction: float = 0.5
    epsilon: float = 0.1

    @property
    def environment_steps(self) -> int:
        """Return how many steps a model takes on each task."""
        return self.updates * self.sessions

    def epsilon_at(self, update: int) -> float:
        """Return the share of actions that are drawn by chance in an update, the first being 0."""
        return max(self.epsilon, 1 - (1 - self.epsilon) * update / (self.exploration_fraction * self.updates))


def memories(tasks: Sequence[str], how: QLearning, models: int) -> Memory:
    """Return an empty memory for each task, large enough for all steps of a training."""
    return {task: ReplayBuffer(how.environment_steps, models) for task in tasks}


def learn_from_rewards(
    stack: Stack, target: Stack, sessions: Sessions, memory: Memory, how: QLearning, every: int = 10
) -> Iterator[Moment]:
    """Train a stack of networks by double Q-learning in running sessions.

    Rewards are multiplied by 1 - `DISCOUNT`, so that a Q-value is a mean reward per step and lies between 0 and 1.

    Parameters
    ----------
    stack, target : Stack
        The networks, and as many target networks, which begin as their copies.
    sessions : Sessions
    memory : dict {task: ReplayBuffer}
        Filled on the way.
    how : QLearning
    every : int
        Updates between two moments.

    Yields
    ------
    Moment
    """
    tasks, chances = sessions.tasks, Chooser(stack.n_seeds, stack.seeds[0])
    draws = torch.Generator().manual_seed(stack.seeds[0])
    target.copy_from(stack)
    for update in range(how.updates):
        for task, step in sessions.step(_explore(stack, sessions, chances, how.epsilon_at(update))).items():
            memory[task].add(**_to_remember(step))
        drawn = {task: memory[task].sample(how.batch, draws) for task in tasks}
        stack.update(_td_loss, _with_targets(stack, target, drawn))
        target.copy_from(stack, how.tau)
        if (update + 1) % every == 0 or update + 1 == how.updates:
            yield Moment(update + 1, how.updates)


def _explore(stack: Stack, sessions: Sessions, chances: Chooser, epsilon: float) -> dict[str, Acted]:
    values = stack.each_own(_answers, sessions.observations)
    return {task: Acted(chances.epsilon_greedy(q, epsilon)) for task, q in values.items()}


def _answers(model, states: dict[str, Tensor]) -> dict[str, Tensor]:
    return model.answer_own(states)


def _to_remember(step: Rollout) -> dict[str, Tensor]:
    return {
        "state": step.observations, "action": step.actions, "reward": step.rewards * (1 - DISCOUNT),
        "next_state": step.next_observations, "terminated": step.terminated,
    }  # fmt: skip


def _with_targets(stack: Stack, target: Stack, drawn: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Return states and actions of the steps drawn, {task: {field: (M, batch, ...)}}, with their Q-values' targets."""
    led_to = {task: steps["next_state"] for task, steps in drawn.items()}
    online, rated = stack.each_own(_answers, led_to), target.each_own(_answers, led_to)
    targets = torch.vmap(lambda *step: double_q_target(*step, DISCOUNT))
    return {
        task: {
            "state": steps["state"], "action": steps["action"],
            "target": targets(steps["reward"], online[task], rated[task], steps["terminated"]),
        }
        for task, steps in drawn.items()
    }  # fmt: skip


def _td_loss(model, batch, _):
    """Return the TD loss of one network, the sum over its tasks."""
    answers = model.answer_own({task: steps["state"] for task, steps in batch.items()})
    losses = [q_loss(answers[task], steps["action"], steps["target"]) for task, steps in batch.items()]
    return sum(losses), {}


# From teachers.


@dataclass(frozen=True)
class TransferSet:
    """The transfer set (Hinton et al., 2015): steps that teachers remember, and what each says to every state.

    N steps of each of K tasks stand one after another, (S, K * N, ...), S seeds.

    Attributes
    ----------
    steps : dict {field: Tensor (S, K * N, ...)}
        As in the memory.
    answers : dict {task: Tensor (S, K * N, n_actions)}
        Every task's teacher answers every state, those of the other tasks' sessions too.
    scale : dict {task: Tensor (S,)}
        `q_value_scale` of a teacher's answers to the states of its own task.
    """

    steps: dict[str, Tensor]
    answers: dict[str, Tensor]
    scale: dict[str, Tensor]

    def of(self, count: int) -> "TransferSet":
        """Return the transfer set of the first ``count`` seeds."""
        return TransferSet(*({name: v[:count] for name, v in part.items()} for part in vars(self).values()))


def transfer_set_of(teachers: Stack, memory: Memory, rows: int, seed: int) -> TransferSet:
    """Draw some steps of each task from the teachers' memory, and ask all teachers about their states."""
    tasks, draws = tuple(memory), torch.Generator().manual_seed(seed)
    drawn = [memory[task].sample(rows, draws) for task in tasks]
    steps = {name: torch.cat([d[name] for d in drawn], dim=1) for name in drawn[0]}
    answers = teachers.each_own(lambda model, states: {task: model(states, task) for task in tasks}, steps["state"])
    scale = {
        task: torch.stack([q_value_scale(q) for q in answers[task][:, k * rows : (k + 1) * rows]])
        for k, task in enumerate(tasks)
    }
    return TransferSet(steps, answers, scale)


@dataclass(frozen=True)
class Distilling:
    """The settings of a distillation.

    Attributes
    ----------
    updates : int
    states : int
        Of each task's sessions, for an update; each is answered by the teachers of all tasks.
    learning_rate : float
    tau : float
        Of the target network, as in `QLearning`; there is one only where rewards are mixed in.
    """

    updates: int = 200
    states: int = 22
    learning_rate: float = 5e-3
    tau: float = 0.03


def distil(
    students: Stack, transfer_set: TransferSet, how: Distilling, target: Stack | None = None, every: int = 10
) -> Iterator[Moment]:
    """Teach a stack of students.

    A model's setting holds its ``temperature`` and ``weight``, the share of the distillation. It may hold ``factor``,
    by which its distillation loss is multiplied, and ``wrong``: 1 for answers that belong to other states.

    Parameters
    ----------
    students : Stack
    transfer_set : TransferSet
    how : Distilling
    target : Stack, optional
        As many target networks, for students whose weight is below 1: they learn from rewards too, those of the
        teachers' memory.
    every : int
        Updates between two moments.

    Yields
    ------
    Moment
    """
    if target is None and bool((students.setting("weight") < 1).any()):
        raise ValueError("target: got None, expected target networks, as some students learn from rewards too")
    draws = torch.Generator().manual_seed(students.seeds[0])
    if target is not None:
        target.copy_from(students)
    for update in range(1, how.updates + 1):
        batch = draw_batch(students, transfer_set, how.states, draws)
        if target is not None:
            batch["target"] = _targets_of(students, target, batch["steps"], tuple(transfer_set.answers))
        students.update(teach, batch)
        if target is not None:
            target.copy_from(students, how.tau)
        if update % every == 0 or update == how.updates:
            yield Moment(update, how.updates)


def draw_batch(students: Stack, transfer_set: TransferSet, states: int, draws: torch.Generator) -> dict:
    """Draw some steps of each task with all answers, for every model; models of one seed get the same."""
    seeds, tasks = students.n_seeds, len(transfer_set.answers)
    rows = next(iter(transfer_set.steps.values())).shape[1] // tasks
    drawn = torch.randint(rows, (seeds, tasks, states), generator=draws)
    drawn = (drawn + rows * torch.arange(tasks)[:, None]).flatten(1)  # (S, K * states)
    which = torch.arange(seeds)[:, None]

    def every(values: Tensor) -> Tensor:
        return values.repeat(students.n_settings, *[1] * (values.ndim - 1))

    answers = {task: every(values[which, drawn]) for task, values in transfer_set.answers.items()}
    wrong = students.setting("wrong", 0.0)[:, None, None] > 0
    return {
        "steps": {name: every(values[which, drawn]) for name, values in transfer_set.steps.items()},
        "answers": {task: torch.where(wrong, q.roll(states, dims=1), q) for task, q in answers.items()},
        "scale": {task: every(values) for task, values in transfer_set.scale.items()},
    }


def teach(student, batch, setting):
    """Return the loss of one student: in every state, the answers of all tasks' teachers are asked for."""
    answers = student(batch["steps"]["state"])  # {task: (K * states, n_actions)}
    distillation = sum(
        distillation_loss(q, batch["answers"][task], setting["temperature"], batch["scale"][task])
        for task, q in answers.items()
    ) / len(answers)
    loss = setting["weight"] * setting.get("factor", 1.0) * distillation
    if "target" in batch:
        loss = loss + (1 - setting["weight"]) * _from_memory(answers, batch)
    return loss, {"distillation": distillation}


def _from_memory(answers: dict[str, Tensor], batch: dict) -> Tensor:
    """Return the TD loss of steps taken on K tasks, K equal parts of the batch: a reward counts in its own task.

    It is in the unit of the teacher's Q-values, as the distillation is: else one of the two would drown in the other.
    """
    parts = [values.chunk(len(answers)) for values in (batch["steps"]["action"], batch["target"])]
    losses = []
    for k, (task, q) in enumerate(answers.items()):
        scale, own = batch["scale"][task], q.chunk(len(answers))[k]  # (states, n_actions)
        losses.append(q_loss(own / scale, parts[0][k], parts[1][k] / scale))
    return sum(losses) / len(losses)


def _targets_of(students: Stack, target: Stack, steps: dict[str, Tensor], tasks: Sequence[str]) -> Tensor:
    """Return double Q-learning's targets of steps taken on K tasks, K equal parts of the batch: (M, K * states)."""
    led_to = dict(zip(tasks, steps["next_state"].chunk(len(tasks), dim=1), strict=True))  # {task: (M, states, D)}
    online, rated = students.each_own(_answers, led_to), target.each_own(_answers, led_to)
    parts = [steps[name].unflatten(1, (len(tasks), -1)) for name in ("reward", "terminated")]
    of_each = torch.vmap(lambda *step: double_q_target(*step, DISCOUNT))
    found = [of_each(parts[0][:, k], online[t], rated[t], parts[1][:, k]) for k, t in enumerate(tasks)]
    return torch.cat(found, dim=1)
