"""Actor-critic and PPO on the sessions of many models: a rollout, advantages, a few clipped steps, and again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recmtl_lessons.models.policy import gae, ppo_loss
from recmtl_lessons.training.progress import Moment
from recmtl_lessons.training.rollouts import Acted, Chooser, Observations, Rollout, Sessions
from recmtl_lessons.training.stacked import Stack

DISCOUNT = 0.9  # of every training on sessions, and of what is measured in them
VALUE_WEIGHT = 2.0  # of the values' part in the loss, at every level


@dataclass(frozen=True)
class Training:
    """The settings of a training.

    Attributes
    ----------
    updates : int
        Rollouts, each followed by `epochs` passes of the optimizer over it.
    sessions : int
        That run side by side, per task and model.
    steps : int
        Of a rollout.
    epochs : int
        Passes over a rollout.
    minibatches : int
        Into which a rollout is dealt for a pass, each good for a step. With one of each it is plain actor-critic.
    learning_rate : float
    entropy : float
        Weight of the entropy bonus.
    gae_lambda : float
    clip : float
        Of the importance ratio.
    """

    updates: int = 40
    sessions: int = 64
    steps: int = 5
    epochs: int = 1
    minibatches: int = 6
    learning_rate: float = 1e-2
    entropy: float = 0.01
    gae_lambda: float = 0.6
    clip: float = 0.2

    @property
    def environment_steps(self) -> int:
        """Return how many steps a model takes on each task."""
        return self.updates * self.sessions * self.steps


def choose_with(stack: Stack, chances: Chooser, tasks: Sequence[str]) -> Callable[[Observations], dict[str, Acted]]:
    """Let every model of a stack draw its actions, and keep their log-probabilities and the states' values."""

    def answer(model, observations):
        return {task: model(observations[task], task) for task in tasks}

    def choose(observations: Observations) -> dict[str, Acted]:
        answers = stack.each_own(answer, observations)
        return {task: _drawn(chances, *answers[task]) for task in tasks}

    return choose


def _drawn(chances: Chooser, logits: Tensor, value: Tensor) -> Acted:
    action = chances.sample(logits)  # (M, B)
    return Acted(action, {"log_prob": log_prob_of(logits, action), "value": value})


def log_prob_of(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return the log-probability of what was chosen: (..., A) and (...) -> (...)."""
    return logits.log_softmax(-1).gather(-1, chosen.unsqueeze(-1)).squeeze(-1)


def train(
    stack: Stack,
    sessions: Sessions,
    how: Training,
    limit_is_end: Tensor | None = None,
    every: int = 5,
) -> Iterator[Moment]:
    """Train a stack of policies on running sessions.

    Every model's setting may hold a ``discount``, an ``entropy`` and a ``gae_lambda``; `DISCOUNT` and those of ``how``
    otherwise. Rewards are multiplied by 1 - discount, so that a value is a mean reward per step, and the network's
    outputs stay near 1.

    Parameters
    ----------
    stack : Stack
        Of models whose ``forward(state, task)`` returns logits and a value.
    sessions : Sessions
    how : Training
    limit_is_end : Tensor, (M,), bool, optional
        The mistake: models that take the time limit for an end.
    every : int
        Updates between two moments.

    Yields
    ------
    Moment
    """
    tasks = sessions.tasks
    choose = choose_with(stack, Chooser(stack.n_seeds, stack.seeds[0]), tasks)
    discount = stack.setting("discount", DISCOUNT)  # (M,)
    gae_lambda, entropy_weight = (stack.setting(name, getattr(how, name)) for name in ("gae_lambda", "entropy"))
    shuffle = torch.Generator().manual_seed(stack.seeds[0])
    for update in range(1, how.updates + 1):
        batch = prepared(stack, sessions.collect(choose, how.steps), discount, gae_lambda, limit_is_end)
        for part in minibatches(how, shuffle):
            rows = {task: {name: values[:, part] for name, values in batch[task].items()} for task in tasks}
            stack.update(objective_of(tasks, how.clip), {**rows, "entropy_weight": entropy_weight})
        if update % every == 0 or update == how.updates:
            yield Moment(update, how.updates)


def minibatches(how: Training, shuffle: torch.Generator) -> Iterator[Tensor]:
    """Yield the row numbers of the minibatches: each epoch deals the rollout's rows into parts anew."""
    rows = how.sessions * how.steps
    for _ in range(how.epochs):
        yield from torch.randperm(rows, generator=shuffle).chunk(how.minibatches)


def by_rows(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put time and sessions into one dimension: {name: (T, M, B, ...)} -> {name: (M, T * B, ...)}."""
    return {name: part.transpose(0, 1).flatten(1, 2) for name, part in parts.items()}


def prepared(
    stack: Stack,
    rollouts: Mapping[str, Rollout],
    discount: Tensor,
    gae_lambda: float | Tensor,
    limit_is_end: Tensor | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Return what the objective needs of rollouts: rows (M, T * B, ...) of each task.

    ``discount`` is (M,), and so may ``gae_lambda`` be. Advantages are brought to mean 0 and standard deviation 1, task
    by task and model by model.
    """
    parts = ((r.rewards, r.kept["value"], r.terminated, r.truncated) for r in rollouts.values())
    rewards, values, terminated, truncated = (torch.cat(part, dim=2) for part in zip(*parts, strict=True))
    after = torch.cat(list(_next_values(stack, rollouts).values()), dim=2)  # (T, M, tasks * B)
    if limit_is_end is not None:
        terminated = terminated | (truncated & limit_is_end[:, None])
    advantages, returns = torch.vmap(gae, in_dims=(1, 1, 1, 1, 1, 0, 0), out_dims=1)(
        rewards * (1 - discount[:, None]), values, after, terminated, truncated, discount,
        torch.as_tensor(gae_lambda).expand(len(stack)),
    )  # fmt: skip
    by_task = (part.chunk(len(rollouts), dim=2) for part in (advantages, returns))
    return {task: _rows(rollouts[task], *both) for task, *both in zip(rollouts, *by_task, strict=True)}


def _next_values(stack: Stack, rollouts: Mapping[str, Rollout]) -> dict[str, Tensor]:
    """Return the values of what each step led to, (T, M, B) of each task.

    Within a session it is the value of the next row. The networks are asked only about the last row and about sessions
    that a time limit cut off; after an end nothing counts.
    """
    asked, states = {}, {}
    for task, r in rollouts.items():
        unknown = r.truncated & ~r.terminated
        unknown[-1] = True
        unknown = unknown.transpose(0, 1).flatten(1)  # (M, T * B)
        # As many rows of each model: those who need fewer ask about some whose value they know.
        asked[task] = unknown.byte().argsort(dim=1, descending=True, stable=True)[:, : int(unknown.sum(1).max())]
        led_to = r.next_observations.transpose(0, 1).flatten(1, 2)  # (M, T * B, D)
        states[task] = led_to.gather(1, asked[task][..., None].expand(-1, -1, led_to.shape[2]))
    answers, after = stack.each_own(_values, states), {}
    for task, r in rollouts.items():
        values = r.kept["value"].roll(-1, dims=0)  # (T, M, B)
        by_model = values.transpose(0, 1).flatten(1).scatter(1, asked[task], answers[task])
        after[task] = by_model.unflatten(1, (len(values), -1)).transpose(0, 1)
    return after


def _values(model, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the values of states (n, D) of each task, (n,)."""
    return {task: model(s, task)[1] for task, s in states.items()}


def _rows(rollout: Rollout, advantages: Tensor, returns: Tensor) -> dict[str, Tensor]:
    flat = by_rows({
        "state": rollout.observations, "action": rollout.actions, "log_prob": rollout.kept["log_prob"],
        "advantage": advantages, "returns": returns,
    })  # fmt: skip
    spread = flat["advantage"].std(1, keepdim=True) + 1e-6
    flat["advantage"] = (flat["advantage"] - flat["advantage"].mean(1, keepdim=True)) / spread
    return flat


def objective_of(tasks: Sequence[str], clip: float) -> Callable:
    """Return the clipped objective, summed over tasks, for one model: as `Stack.update` takes it."""

    def objective(model, batch, _):
        total = 0.0
        for task in tasks:
            b = batch[task]
            log_prob, entropy, value = model.evaluate_actions(b["state"], task, b["action"])
            loss, _ = ppo_loss(
                log_prob, b["log_prob"], entropy, value, b["advantage"], b["returns"], clip,
                value_weight=VALUE_WEIGHT, entropy_weight=batch["entropy_weight"],
            )  # fmt: skip
            total = total + loss
        return total, {}

    return objective
