"""How both levels of many models are trained together: goals that last, and a loss for each from its own reward."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from recmtl_lessons.models.hierarchical import semi_markov_target
from recmtl_lessons.models.policy import gae, ppo_loss
from recmtl_lessons.training import actor_critic
from recmtl_lessons.training.actor_critic import DISCOUNT, VALUE_WEIGHT, by_rows, log_prob_of, minibatches
from recmtl_lessons.training.progress import Moment
from recmtl_lessons.training.rollouts import Chooser
from recmtl_lessons.training.stacked import Stack


@dataclass(frozen=True)
class Training(actor_critic.Training):
    """The settings of a training: those of one level, the same at both, and how long a goal may last.

    Attributes
    ----------
    goal_steps : int
        After so many steps a goal is given up.
    """

    goal_steps: int = 10


class Stepped(NamedTuple):
    """What a step of M models in B episodes each led to.

    Attributes
    ----------
    reward : Tensor, (M, B)
        Of the environment.
    intrinsic : Tensor, (M, B)
        For the controller, given the goal.
    reached : Tensor, (M, B), bool
        Whether the step reached the goal.
    terminated, truncated : Tensor, (M, B), bool
    led_to : Tensor, (M, B, D)
        What was seen then: where an episode ended, its last observation.
    """

    reward: Tensor
    intrinsic: Tensor
    reached: Tensor
    terminated: Tensor
    truncated: Tensor
    led_to: Tensor


class Place(Protocol):
    """Where models act: M of them, in B episodes each."""

    @property
    def seen(self) -> Tensor:
        """Return what the models see now, (M, B, D)."""

    def step(self, goal: Tensor, action: Tensor) -> Stepped:
        """Act, (M, B) each; the goals decide what is reached and what the controllers are paid."""


@dataclass(frozen=True)
class Walked:
    """A rollout of both levels, (T, M, B, ...).

    Attributes
    ----------
    state, led_to : Tensor, (T, M, B, D)
    goal, action : Tensor, (T, M, B)
    age : Tensor, (T, M, B)
        Steps of the goal so far, this one included. Goals go on from one rollout to the next.
    goal_ended : Tensor, (T, M, B), bool
        Whether the goal ended with this step.
    chosen_in : Tensor, (T, M, B, D)
        The state in which the goal was chosen.
    paid : Tensor, (T, M, B)
        The environment's rewards since then, discounted to there.
    goal_log_prob, action_log_prob : Tensor, (T, M, B)
        Of what was done, when it was done.
    reward, intrinsic : Tensor, (T, M, B)
    reached, terminated, truncated : Tensor, (T, M, B), bool
    """

    state: Tensor
    goal: Tensor
    action: Tensor
    age: Tensor
    chosen_in: Tensor
    paid: Tensor
    goal_log_prob: Tensor
    action_log_prob: Tensor
    reward: Tensor
    intrinsic: Tensor
    reached: Tensor
    goal_ended: Tensor
    terminated: Tensor
    truncated: Tensor
    led_to: Tensor


class Walker:
    """Both levels of all models in motion: keeps each goal until it is reached, given up, or the episode is over.

    Parameters
    ----------
    stack : Stack
        Of `HierarchicalMultiTaskRL`.
    place : Place
    goal_steps : int or Tensor, (M,)
    chances : Chooser
    two_goals : Tensor, (M,), bool, optional
        The mistake: models that draw twice, a goal to follow and another to write down.
    """

    def __init__(
        self,
        stack: Stack,
        place: Place,
        goal_steps: int | Tensor,
        chances: Chooser,
        two_goals: Tensor | None = None,
    ):
        self.stack, self.place, self.chances = stack, place, chances
        shape = place.seen.shape[:2]
        self.goal_steps = torch.as_tensor(goal_steps).expand(len(stack))[:, None]
        self.two_goals = torch.zeros(len(stack), dtype=torch.bool) if two_goals is None else two_goals
        self.goal, self.recorded = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        self.age, self.needs = torch.zeros(shape, dtype=torch.long), torch.ones(shape, dtype=torch.bool)
        self.chosen_in, self.paid, self.log_prob = place.seen, torch.zeros(shape), torch.zeros(shape)  # of its choice

    @torch.no_grad()
    def step(self) -> Walked:
        """Take one step: draw goals where one is needed, and an action everywhere."""
        state, began = self.place.seen, self.needs
        goal_logits = self.stack.each_own(lambda model, s: model(s)[0], state)  # (M, B, G)
        drawn = self.chances.sample(goal_logits)  # (M, B)
        followed = torch.where(self.two_goals[:, None], self.chances.sample(goal_logits), drawn)
        self.goal, self.recorded = torch.where(began, followed, self.goal), torch.where(began, drawn, self.recorded)
        self.log_prob = torch.where(began, log_prob_of(goal_logits, drawn), self.log_prob)
        self.chosen_in = torch.where(began[..., None], state, self.chosen_in)
        logits = self.stack.each_own(lambda model, s, g: model(s, "task", g)[0], state, self.goal)  # (M, B, A)
        action = self.chances.sample(logits)
        stepped = self.place.step(self.goal, action)
        self.age = torch.where(began, 1, self.age + 1)
        self.paid = torch.where(began, 0.0, self.paid) + DISCOUNT ** (self.age - 1) * stepped.reward
        self.needs = stepped.reached | (self.age >= self.goal_steps) | stepped.terminated | stepped.truncated
        return Walked(
            state, self.recorded, action, self.age, self.chosen_in, self.paid, self.log_prob,
            log_prob_of(logits, action), goal_ended=self.needs, **stepped._asdict(),
        )  # fmt: skip

    def walk(self, steps: int) -> Walked:
        """Take several steps, and return them with time first."""
        taken = [self.step() for _ in range(steps)]
        return Walked(**{name: torch.stack([getattr(s, name) for s in taken]) for name in vars(taken[0])})


def train(
    stack: Stack,
    walker: Walker,
    how: Training,
    untaught: Tensor | None = None,
    meta_untaught: Tensor | None = None,
    every: int = 5,
) -> Iterator[Moment]:
    """Train both levels: the meta-controller on the environment's reward, the controllers on the intrinsic one.

    Rewards of both levels are multiplied by 1 - `DISCOUNT`, as in `actor_critic.train`.

    Parameters
    ----------
    stack : Stack
    walker : Walker
        In motion.
    how : Training
    untaught : Tensor, (M,), bool, optional
        The mistake: models whose controllers were put under ``no_grad``.
    meta_untaught : Tensor, (M,), bool, optional
        The control: models whose meta-controllers learn nothing, and go on drawing goals by chance.
    every : int
        Updates between two moments.

    Yields
    ------
    Moment
    """
    none = torch.zeros(len(stack), dtype=torch.bool)
    taught, meta_taught = ((~(none if flags is None else flags)).float() for flags in (untaught, meta_untaught))
    shuffle = torch.Generator().manual_seed(stack.seeds[0])
    loss_of_both = partial(objective, clip=how.clip, bonus=how.entropy)
    for update in range(1, how.updates + 1):
        rows = prepared(stack, walker.walk(how.steps), how.gae_lambda)
        for part in minibatches(how, shuffle):
            batch = {name: values[:, part] for name, values in rows.items()}
            stack.update(loss_of_both, {**batch, "taught": taught, "meta_taught": meta_taught})
        if update % every == 0 or update == how.updates:
            yield Moment(update, how.updates)


def prepared(stack: Stack, walked: Walked, gae_lambda: float) -> dict[str, Tensor]:
    """Return what both losses need of a rollout, with time and episodes in one dimension: (M, T * B, ...).

    A goal counts in the row in which it ends: there all that it was paid is known, in earlier rollouts too. The price:
    its log-probability may be some rollouts old, so that PPO's ratio is not 1 to begin with; the first rollouts hold
    only goals that ended early, failures mostly; and goals that still run at the end of a training teach nothing.
    """
    scale = 1 - DISCOUNT
    value, after = (_values(stack, s) for s in (walked.chosen_in, walked.led_to))
    goal_returns = semi_markov_target(walked.paid * scale, walked.age, after, walked.terminated, DISCOUNT)
    own, own_after = (_values(stack, s, walked.goal) for s in (walked.state, walked.led_to))
    done = walked.terminated | walked.reached
    advantage, returns = gae(
        walked.intrinsic * scale, own, own_after, done, walked.goal_ended & ~done, DISCOUNT, gae_lambda
    )
    rows = by_rows({
        "state": walked.state, "goal": walked.goal, "action": walked.action,
        "goal_ended": walked.goal_ended, "chosen_in": walked.chosen_in,
        "goal_log_prob": walked.goal_log_prob, "action_log_prob": walked.action_log_prob,
        "goal_returns": goal_returns, "goal_advantage": goal_returns - value,
        "returns": returns, "advantage": advantage,
    })  # fmt: skip
    rows["goal_advantage"] = _standard(rows["goal_advantage"], rows["goal_ended"])
    rows["advantage"] = _standard(rows["advantage"], torch.ones_like(rows["goal_ended"]))
    return rows


def _values(stack: Stack, states: Tensor, goals: Tensor | None = None) -> Tensor:
    """Return the meta-controller's values, or those of the goals' controllers: (T, M, B, D) -> (T, M, B)."""
    by_model = states.transpose(0, 1)  # (M, T, B, D)
    if goals is None:
        found = stack.each_own(lambda model, s: model(s.flatten(0, 1))[1].view(s.shape[:2]), by_model)
    else:
        found = stack.each_own(
            lambda model, s, g: model(s.flatten(0, 1), "task", g.flatten())[1].view(s.shape[:2]),
            by_model, goals.transpose(0, 1),
        )  # fmt: skip
    return found.transpose(0, 1)


def _standard(values: Tensor, counted: Tensor) -> Tensor:
    """Bring values (M, N) to mean 0 and standard deviation 1 over the rows that count."""
    counted = counted.to(values)
    number = counted.sum(1, keepdim=True).clamp(min=1)
    mean = (values * counted).sum(1, keepdim=True) / number
    spread = (((values - mean).square() * counted).sum(1, keepdim=True) / number).sqrt()
    return (values - mean) / (spread + 1e-6)


def objective(model, batch: dict[str, Tensor], _, clip: float, bonus: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the sum of one model's two losses. A goal counts once, where it has ended, an action everywhere."""
    b, weights = batch, {"clip": clip, "value_weight": VALUE_WEIGHT, "entropy_weight": bonus}
    log_prob, entropy, value = model.evaluate_goals(b["chosen_in"], b["goal"])
    meta, _ = ppo_loss(
        log_prob, b["goal_log_prob"], entropy, value, b["goal_advantage"], b["goal_returns"], counted=b["goal_ended"],
        **weights,
    )  # fmt: skip
    log_prob, entropy, value = model.evaluate_actions(b["state"], b["goal"], b["action"])
    task, _ = ppo_loss(log_prob, b["action_log_prob"], entropy, value, b["advantage"], b["returns"], **weights)
    return b["meta_taught"] * meta + b["taught"] * task, {}
