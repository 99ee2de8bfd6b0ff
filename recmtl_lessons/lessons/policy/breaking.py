"""Two classic mistakes, trained: dropout in the policy, and a time limit that is taken for an end."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from recmtl_lessons.envs import SessionSettings
from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.policy.experiments import (
    TASKS,
    TEST_USERS,
    TRAINING,
    WORLDS,
    bounds,
    exact_returns,
    fit,
    sessions_for,
    shared_network,
    stack_of,
    way,
)
from recmtl_lessons.training import Chooser, Scores, Sessions, Stack
from recmtl_lessons.training.actor_critic import DISCOUNT, Training, by_rows, choose_with

DROPOUT = 0.2
SHORT = 4  # steps until a session is cut off, in training
WORLD = WORLDS["tastes and rules"]


class WithDropout(nn.Module):
    """The mistake: a policy whose state is dropped out on the way in, in training: another policy at every look.

    Actions are drawn in evaluation, by the whole state; what is learned from is looked up with dropout.
    """

    def __init__(self, rate: float = DROPOUT):
        super().__init__()
        self.rate, self.policy = rate, shared_network()

    def forward(self, state: Tensor, task_name: str) -> tuple[Tensor, Tensor]:
        """Return logits and value after dropout."""
        return self.policy(nn.functional.dropout(state, self.rate, self.training), task_name)

    def evaluate_actions(self, state: Tensor, task_name: str, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-probability, entropy and value after dropout, another one than when the action was drawn."""
        dropped = nn.functional.dropout(state, self.rate, self.training)
        return self.policy.evaluate_actions(dropped, task_name, action)


@dataclass(frozen=True)
class Dropout:
    """What dropout does to a policy.

    Attributes
    ----------
    ratios : Tensor, (S, n)
        Importance ratios of actions just taken, at unchanged weights, in the trained network with dropout.
    without : Tensor, (S, n)
        The same in a network of the same weights without dropout.
    share : Tensor, (S,)
        Where the network with dropout gets, on the way from chance to the best.
    """

    ratios: Tensor
    without: Tensor
    share: Tensor


@lru_cache(maxsize=2)
def with_dropout(seeds: tuple[int, ...] = SEEDS, how: Training = TRAINING) -> Dropout:
    """Train one network for all tasks with dropout in it, and everything else as before."""
    stack = stack_of(WithDropout, [{"discount": DISCOUNT}], seeds, how)
    sessions = sessions_for(stack, [WORLD], how)
    fit(stack, sessions, how, "with dropout")
    # Ratios of trained policies: at the start all actions are as likely as each other whatever the state.
    plain = stack_of(shared_network, [{"discount": DISCOUNT}], seeds, how)
    plain.load(stack, "policy.")
    found = exact_returns(stack, [WORLD])
    share = way(bounds(WORLD, seeds), {task: values[0] for task, values in found.items()})
    return Dropout(_ratios(stack, how), _ratios(plain, how), share)


def _ratios(stack: Stack, how: Training) -> Tensor:
    """Return the ratios of the probabilities in training to those with which the actions were drawn, (S, n)."""
    sessions = sessions_for(stack, [WORLD], how)
    rollout = sessions.collect(choose_with(stack, Chooser(stack.n_seeds, 3), TASKS), how.steps)["home"]
    batch = by_rows(
        {"state": rollout.observations, "action": rollout.actions, "old": rollout.kept["log_prob"]}
    )  # fmt: skip

    def objective(model, batch, _):
        log_prob, _, _ = model.evaluate_actions(batch["state"], "home", batch["action"])
        return log_prob.sum(), {"ratio": (log_prob - batch["old"]).exp()}

    return stack.evaluate(objective, batch)[1]["ratio"].detach()


@lru_cache(maxsize=2)
def with_short_sessions(seeds: tuple[int, ...] = SEEDS, how: Training = TRAINING) -> Scores:
    """Train on sessions of four steps, once bootstrapping at the limit, once taking it for an end: "mistaken".

    Returns
    -------
    Scores
        Discounted reward, mean over the tasks: what a policy "expects" of a session at its start, and what it "gets" in
        sessions that are not cut off; and the same "mistaken".
    """
    settings = SessionSettings(time_limit=SHORT)
    stack = stack_of(shared_network, [{"discount": DISCOUNT}, {"discount": DISCOUNT}], seeds, how)
    sessions = sessions_for(stack, [WORLD, WORLD], how, settings)
    wrong = torch.arange(len(stack)) >= stack.n_seeds
    fit(stack, sessions, how, f"{SHORT} steps a session", limit_is_end=wrong)
    found = torch.stack(list(exact_returns(stack, [WORLD, WORLD]).values())).mean(0)  # (2, S)
    value = stack.by_setting(_value_at_the_start(stack))  # (2, S)
    return Scores(
        "discounted reward", ("expects", "expects, mistaken", "gets", "gets, mistaken"), torch.cat([value, found])
    )


def _value_at_the_start(stack: Stack) -> Tensor:
    """Return the mean value of sessions' first observations with users not learned from, over the tasks, (M,)."""
    users = [WORLD.users(seed, 2, TEST_USERS) for seed in stack.seeds]
    fresh = Sessions(users, TASKS, 64, SessionSettings(), [10_000 + seed for seed in stack.seeds])

    def values(model, observations):
        return torch.stack([model(observations[task], task)[1].mean() for task in TASKS]).mean()

    return stack.each_own(values, fresh.observations) / (1 - DISCOUNT)
