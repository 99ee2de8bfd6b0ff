"""Two levels of decisions: a meta-controller chooses a goal, and the controller of that goal chooses actions.

Sources: Kulkarni, Narasimhan, Saeedi, Tenenbaum, "Hierarchical deep reinforcement learning: integrating temporal
abstraction and intrinsic motivation", NeurIPS 2016, section 3. Sutton, Precup, Singh, "Between MDPs and semi-MDPs: a
framework for temporal abstraction in reinforcement learning", Artificial Intelligence 112, 1999, section 3.

Departures: both levels are actor-critics, a policy and a value each, where Kulkarni et al. learn Q-values by replay.
Each goal has a controller of its own, with its own number of actions, where theirs is one network that reads the goal.
They add up the rewards of a goal without a discount, and discount what follows once (their equation 2); here every step
is discounted, as in Sutton et al., so that a goal's length changes what it is worth in the same way as it would in a
flat policy. When a goal is reached, and what reward a controller gets for it, is not the model's business.

Layers and starting weights are those of `recmtl_lessons.models.policy`, for the same reasons, so that a flat policy
and this one differ in the hierarchy. There is no dropout: the log-probability of what was done could not be found
again.
"""

import math
from collections.abc import Mapping, MutableMapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recmtl_lessons.models._actor_critic import (
    check_answers,
    check_counts_by_name,
    check_luck,
    check_no_dropout,
    check_rollout,
    choose,
    evaluate,
    orthogonal_linear,
    pick,
    tanh_layers,
)
from recmtl_lessons.models._checks import (
    _INTEGERS,
    _values_are_at_hand,
    check_answer,
    check_choice,
    check_count,
    check_features,
    check_labels,
    check_number,
    check_values,
    check_widths,
)
from recmtl_lessons.models._names import NamedParts

_LEVELS = ("meta", "task")


class LevelLogProbs(NamedTuple):
    """Log-probabilities of what was done, in nats.

    Attributes
    ----------
    meta : Tensor, (batch,)
        Of the goal, given the state.
    task : Tensor, (batch,)
        Of the action, given the state and the goal.
    """

    meta: Tensor
    task: Tensor


class HierarchicalMultiTaskRL(NamedParts):
    r"""A meta-controller that chooses one of several goals, and a controller of its own for each goal.

    With m and :math:`c_g` the trunks of the meta-controller and of the controller of goal g, and :math:`e_g` a vector
    learned for each goal,

    .. math:: \pi(g \mid s) = \mathrm{softmax}(M\, m(s) + d)_g, \qquad V(s) = w \cdot m(s) + b, \\
              \pi_g(a \mid s) = \mathrm{softmax}(P_g\, c_g([s, e_g]) + p_g)_a, \qquad
              V_g(s) = w_g \cdot c_g([s, e_g]) + b_g.

    The levels share no parameter, so that a loss of one level leaves the other alone. The controllers' parameters stand
    in one tensor a layer, with a leading dimension of goals. All controllers answer every row in one product, and each
    row keeps the answer of its own goal: with four to six goals and 16 to 512 rows, a step on a CPU took 1.5 to 9 times
    as long with a weight matrix gathered for each row. A goal that no row has gets a gradient of 0, which is not none
    at all: an optimizer with momentum still moves its controller.

    A goal's vector reaches its own controller alone, where it acts as a bias of the first layer that is learned at
    another speed. A `state_dict` holds the names of the tasks, or the goals' numbers, and is loaded by them, whatever
    their order.

    Parameters
    ----------
    state_dim : int
        Width of the state.
    meta_action_dim : int
        Number of goals.
    task_action_dims : mapping {str: int}, sequence of int, or int
        Number of actions of each goal's controller, one per goal; or one number for all. In a mapping, by the name of
        the task that the goal stands for: goal k is the k-th, ``tasks[k]``. Without names ``tasks`` are 0, 1, ...
    meta_dims : sequence of int
        Widths of the meta-controller's layers, each followed by a tanh; none makes it linear.
    task_dims : sequence of int
        Widths of each controller's layers, each followed by a tanh; none makes them linear.
    goal_dim : int
        Width of :math:`e_g`, whatever the other widths are.
    dropout_rate : float
        0, for the reason above; any other is refused.

    References
    ----------
    Kulkarni et al. (2016), section 3: a meta-controller whose goals last several steps, and controllers below it.
    """

    _rows = ("meta.policy.", "controllers.", "allowed")
    allowed: Tensor

    def __init__(
        self,
        state_dim: int,
        meta_action_dim: int,
        task_action_dims: Mapping[str, int] | Sequence[int] | int,
        meta_dims: Sequence[int] = (128, 64),
        task_dims: Sequence[int] = (64, 32),
        goal_dim: int = 16,
        dropout_rate: float = 0.0,
    ):
        _check_arguments(state_dim, meta_action_dim, task_action_dims, meta_dims, task_dims, goal_dim)
        check_no_dropout(dropout_rate)
        super().__init__()
        self.state_dim, self.meta_action_dim, self.goal_dim = state_dim, meta_action_dim, goal_dim
        if isinstance(task_action_dims, int):
            task_action_dims = (task_action_dims,) * meta_action_dim
        named = isinstance(task_action_dims, Mapping)
        self.tasks = tuple(task_action_dims) if named else tuple(range(meta_action_dim))
        self.task_action_dims = dict(task_action_dims) if named else tuple(task_action_dims)
        counts = [self.task_action_dims[task] for task in self.tasks]
        self.max_actions = max(counts)
        self.meta = _MetaController(state_dim, meta_action_dim, meta_dims)
        self.controllers = _Controllers(state_dim, goal_dim, counts, task_dims)
        allowed = torch.arange(self.max_actions) < torch.tensor(counts).unsqueeze(1)  # (goals, max_actions)
        self.register_buffer("allowed", allowed)

    def forward(self, state: Tensor, level: str = "meta", goal: Tensor | str | None = None) -> tuple[Tensor, Tensor]:
        r"""Answer at one level: logits of what can be chosen there, and the value of each state.

        Parameters
        ----------
        state : Tensor, (batch, state_dim)
        level : {"meta", "task"}
        goal : Tensor, (batch,), or str
            Each row's goal, integers in 0..meta_action_dim-1, or the name of a task for all; for level "task" alone,
            and needed there.

        Returns
        -------
        logits : Tensor
            At level "meta" (batch, meta_action_dim). At level "task" (batch, max_actions), of the row's own controller;
            :math:`-\infty` where that controller has fewer actions.
        value : Tensor, (batch,)
            The return expected from the state on: at level "meta" of the rewards of the environment, at level "task" of
            whatever reward the controllers are trained with.

        Raises
        ------
        ValueError
            If the answer is not finite, as from weights that are not; or an argument does not fit.
        """
        check_choice("level", level, _LEVELS)
        if level == "meta" and goal is not None:
            raise ValueError("goal: got a value, expected None, because level is 'meta'")
        return self._meta(state) if level == "meta" else self._task(state, goal)

    def goal_probabilities(self, state: Tensor) -> Tensor:
        """Return the meta-controller's policy, (batch, meta_action_dim): rows sum to 1. Arguments as `get_goal`."""
        return self._meta(state)[0].softmax(dim=1)

    def action_probabilities(self, state: Tensor, goals: Tensor | str) -> Tensor:
        """Return the policies of the goals' controllers, (batch, max_actions): rows sum to 1, 0 where no action is.

        Arguments and errors as `get_action`.
        """
        return self._task(state, goals, "goals")[0].softmax(dim=1)

    def get_goal(
        self,
        state: Tensor,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
        uniform: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Choose a goal in each state; for rows whose goal goes on, keep the old one with `torch.where`.

        Parameters
        ----------
        state : Tensor, (batch, state_dim)
        deterministic, generator
            As in `get_hierarchical_action`.
        uniform : Tensor, (batch, meta_action_dim), optional
            Numbers in [0, 1) in place of the generator.

        Returns
        -------
        goals : Tensor, (batch,), int64
        log_prob : Tensor, (batch,)
            In nats, with its gradient.
        """
        check_luck(deterministic, generator, uniform)
        return choose(self._meta(state)[0], deterministic, generator, uniform)

    def get_action(
        self,
        state: Tensor,
        goals: Tensor | str,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
        uniform: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Choose an action in each state, for goals that are given.

        Parameters
        ----------
        state : Tensor, (batch, state_dim)
        goals : Tensor, (batch,), or str
            Integers in 0..meta_action_dim-1, or the name of a task for all rows.
        deterministic, generator
            As in `get_hierarchical_action`.
        uniform : Tensor, (batch, max_actions), optional
            Numbers in [0, 1) in place of the generator.

        Returns
        -------
        actions : Tensor, (batch,), int64
            Each below the number of actions of its goal.
        log_prob : Tensor, (batch,)
            In nats, with its gradient.
        """
        check_luck(deterministic, generator, uniform)
        return choose(self._task(state, goals, "goals")[0], deterministic, generator, uniform)

    def get_hierarchical_action(
        self,
        state: Tensor,
        deterministic: bool = False,
        goal: Tensor | str | None = None,
        generator: torch.Generator | None = None,
        uniform: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, LevelLogProbs]:
        """Choose a goal in each state, and an action of that goal's controller.

        One goal is drawn a row. It is the goal whose controller acts, the goal returned, and the goal whose
        log-probability is returned.

        Works under `torch.vmap`: with ``randomness="different"`` each model draws its own numbers, or with ``uniform``
        the numbers are handed in.

        Parameters
        ----------
        state : Tensor, (batch, state_dim)
        deterministic : bool
            The most probable goal, and the most probable action under it (the first of several), for measuring.
        goal : Tensor, (batch,), or str, optional
            Goals kept from earlier steps, as in `get_action`: then actions alone are chosen.
        generator : torch.Generator, optional
            Where random numbers come from, drawn on its own device, for goals first; torch's global generator unless
            given.
        uniform : Tensor, (batch, meta_action_dim + max_actions), optional
            The numbers themselves, in [0, 1), in place of the generator: the first ``meta_action_dim`` columns for the
            goal, also where it is not drawn, the others for the action.

        Returns
        -------
        goals : Tensor, (batch,), int64
        actions : Tensor, (batch,), int64
            Each below the number of actions of its goal.
        log_probs : LevelLogProbs
            ``meta`` and ``task``, (batch,) each, in nats, with their gradients; of a goal handed in as well, as the
            meta-controller would choose it now. Collect sessions under `torch.no_grad`, and train both levels on what
            `evaluate_goals` and `evaluate_actions` say.
        """
        check_luck(deterministic, generator, uniform)
        goal_logits, _ = self._meta(state)  # (batch, goals)
        goal_luck, action_luck = self._split(uniform, len(state))
        if goal is None:
            goals, goal_log_prob = choose(goal_logits, deterministic, generator, goal_luck)
        else:
            goals = self._goals("goal", goal, len(state))
            goal_log_prob = pick(goal_logits.log_softmax(dim=1), goals)
        actions, action_log_prob = choose(self._controlled(state, goals)[0], deterministic, generator, action_luck)
        return goals, actions, LevelLogProbs(goal_log_prob, action_log_prob)

    def evaluate_goals(self, state: Tensor, goals: Tensor | str) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the meta-controller's loss needs of goals that were chosen, with gradients to it alone.

        Only rows in which a goal was chosen belong here: a goal that merely went on was no decision.

        Parameters
        ----------
        state : Tensor, (batch, state_dim)
        goals : Tensor, (batch,), or str
            Integers in 0..meta_action_dim-1, or the name of a task for all rows.

        Returns
        -------
        log_prob : Tensor, (batch,)
            In nats.
        entropy : Tensor, (batch,)
            Of the policy over goals, in nats, from 0 to log(meta_action_dim).
        value : Tensor, (batch,)
        """
        logits, value = self._meta(state)
        return *evaluate(logits, self._goals("goals", goals, len(state))), value

    def evaluate_actions(self, state: Tensor, goals: Tensor | str, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the controllers' loss needs of actions that were taken, with gradients to them alone.

        Parameters
        ----------
        state : Tensor, (batch, state_dim)
        goals : Tensor, (batch,), or str
            The goals under which they were taken, as in `get_action`.
        actions : Tensor, (batch,)
            Integers, each from 0 to below the number of actions of its goal. Inside ``torch.vmap`` values cannot be
            looked at: there an action that the goal does not have gets a log-probability of minus infinity.

        Returns
        -------
        log_prob : Tensor, (batch,)
            In nats.
        entropy : Tensor, (batch,)
            Of the policy over the goal's own actions, in nats, from 0 to the logarithm of their number.
        value : Tensor, (batch,)
            Of the goal's controller.
        """
        self._check_state(state)
        goals = self._goals("goals", goals, len(state))
        self._check_actions(actions, goals)
        logits, value = self._controlled(state, goals)
        return *evaluate(logits, actions), value

    def meta_parameters(self) -> dict[str, nn.Parameter]:
        """Return the meta-controller's parameters, named as in `named_parameters`; all begin with ``meta.``."""
        return {f"meta.{name}": value for name, value in self.meta.named_parameters()}

    def task_parameters(self) -> dict[str, nn.Parameter]:
        """Return the controllers' parameters, (goals, ...), named as in `named_parameters`: ``controllers.`` first."""
        return {f"controllers.{name}": value for name, value in self.controllers.named_parameters()}

    def _meta(self, state: Tensor) -> tuple[Tensor, Tensor]:
        self._check_state(state)
        return check_answers(self, state, *self.meta(state))

    def _task(self, state: Tensor, goals: Tensor | str | None, name: str = "goal") -> tuple[Tensor, Tensor]:
        self._check_state(state)
        return self._controlled(state, self._goals(name, goals, len(state)))

    def _controlled(self, state: Tensor, goals: Tensor) -> tuple[Tensor, Tensor]:
        """Return masked logits, (batch, max_actions), and value, (batch,), of each row's own controller."""
        logits, value = check_answers(self, state, *self.controllers(state, goals))
        return logits.masked_fill(~self.allowed[goals], -math.inf), value

    def _split(self, uniform: Tensor | None, rows: int) -> tuple[Tensor | None, Tensor | None]:
        """Split the luck of both levels: (batch, goals + max_actions) -> (batch, goals), (batch, max_actions)."""
        if uniform is None:
            return None, None
        check_values("uniform", uniform, (rows, self.meta_action_dim + self.max_actions))
        return uniform[:, : self.meta_action_dim], uniform[:, self.meta_action_dim :]

    # What comes in.

    def _check_state(self, state: Tensor) -> None:
        check_features("state", state, self.state_dim, self.meta.value.weight.dtype)

    def _goals(self, name: str, goals: Tensor | str | None, rows: int) -> Tensor:
        """Return each row's goal by its number, (batch,), int64."""
        if isinstance(goals, str):
            check_choice(name, goals, self.tasks)
            return torch.full((rows,), self.tasks.index(goals), device=self.allowed.device)
        check_labels(name, goals, rows, self.meta_action_dim)
        return goals.long()

    def _check_actions(self, actions: Tensor, goals: Tensor) -> None:
        check_labels("actions", actions, len(goals), self.max_actions)
        if not _values_are_at_hand(actions) or not _values_are_at_hand(goals):
            return
        known = pick(self.allowed[goals], actions)  # (batch,)
        if not known.all():
            row = int((~known).nonzero()[0])
            task = self.tasks[int(goals[row])]
            expected = f"0 to {self.task_action_dims[task] - 1} under goal {task!r}"
            raise ValueError(f"actions: got {int(actions[row])} in row {row}, expected {expected}")

    def _put_in_order(self, state: MutableMapping[str, Tensor], prefix: str) -> None:
        """Sort by name; refuse names that can do something else, which the shapes of padded controllers do not say."""
        super()._put_in_order(state, prefix)
        theirs = state.get(f"{prefix}allowed")
        if theirs is not None and not torch.equal(theirs.to(self.allowed), self.allowed):
            counts = theirs.sum(-1).tolist()
            raise ValueError(f"state_dict: got {counts} actions of {self.tasks}, expected {self.task_action_dims}")


def semi_markov_returns(
    rewards: Tensor,
    next_values: Tensor,
    goal_ended: Tensor,
    terminated: Tensor,
    discount: float | Tensor = 0.99,
) -> Tensor:
    r"""Return what a meta-controller's value is trained towards, when a goal lasts several steps.

    With k the number of steps from t to the end of the goal that runs at t, both included,

    .. math:: G_t = r_t + \gamma r_{t+1} + \dots + \gamma^{k-1} r_{t+k-1}
              + \gamma^k (1 - \mathrm{terminated}_{t+k-1}) V(s'_{t+k-1}).

    The meta-controller learns from the rows in which a goal begins, and from no other: there :math:`G_t - V(s_t)` is
    the advantage of the goal. The rewards are those of the environment. A controller's intrinsic reward, for reaching
    its goal, never enters here: the meta-controller would be paid for goals that are easy, whatever they are good for.

    Parameters
    ----------
    rewards : Tensor, (T, ...)
        Of the environment, time first.
    next_values : Tensor, (T, ...)
        The meta-controller's V of the state reached by step t: where a session ended, its final state, not the first of
        the next session. Read where a goal ends and in the last row, and as 0 where terminated.
    goal_ended : Tensor, (T, ...), bool
        Whether step t was the last of its goal: the goal was reached, its length ran out, or the session ended, by a
        time limit as well. A session that was truncated and is not marked here would run on into the next one.
    terminated : Tensor, (T, ...), bool
        Whether step t ended the task; its goal then ends, marked or not. A time limit is not meant: what the state is
        worth is still there, and V stands for it.
    discount : float or scalar Tensor
        :math:`\gamma`, per step, in [0, 1].

    Returns
    -------
    Tensor, (T, ...)
        Without a gradient. A goal that still runs in the last row is cut off there, and V stands for the rest: what it
        is paid later is in no target. Where rollouts are not much longer than goals, sum up the rewards of each goal
        while it runs, and use `semi_markov_target` when it ends. The same as `n_step_returns` with n of at least T, and
        the end of a goal in the place of truncation.

    References
    ----------
    Sutton et al. (1999), section 3: the target of their SMDP Q-learning, with V of the state in the place of the best
    option's value there. Kulkarni et al. (2016), equation 2, sum a goal's rewards undiscounted and discount V once.
    """
    check_rollout(
        {"rewards": rewards, "next_values": next_values}, {"goal_ended": goal_ended, "terminated": terminated}
    )
    check_number("discount", discount, 0.0, 1.0)
    with torch.no_grad():
        after = next_values.masked_fill(terminated, 0.0)  # (T, ...)
        stops = goal_ended | terminated
        target, backwards = after[-1], []
        for t in reversed(range(len(rewards))):
            target = rewards[t] + discount * torch.where(stops[t], after[t], target)
            backwards.append(target)
        targets = torch.stack(backwards[::-1])  # (T, ...)
    check_answer(targets, rewards=rewards, next_values=next_values)
    return targets


def semi_markov_target(
    paid: Tensor, steps: Tensor, next_values: Tensor, terminated: Tensor, discount: float | Tensor = 0.99
) -> Tensor:
    r"""Return targets as `semi_markov_returns`, of ended goals whose rewards were summed up while they ran.

    .. math:: G = \sum_{j=0}^{k-1} \gamma^j r_j + \gamma^k (1 - \mathrm{terminated}) V(s').

    Parameters
    ----------
    paid : Tensor, (N, ...), float
        The sum: the environment's rewards from a goal's first step on, discounted to there.
    steps : Tensor, (N, ...), integers
        k, how many steps the goal took.
    next_values : Tensor, (N, ...)
        The meta-controller's V of the state that the goal led to. Read as 0 where terminated.
    terminated : Tensor, (N, ...), bool
    discount : float or scalar Tensor
        :math:`\gamma`, per step, in [0, 1].

    Returns
    -------
    Tensor, (N, ...)
        Without a gradient; what V and the goal's advantage are measured by in the state where the goal began.
    """
    check_rollout({"paid": paid, "next_values": next_values}, {"terminated": terminated})
    if not isinstance(steps, Tensor) or steps.dtype not in _INTEGERS or steps.shape != paid.shape:
        came = f"{steps.dtype} {tuple(steps.shape)}" if isinstance(steps, Tensor) else type(steps).__name__
        raise ValueError(f"steps: got {came}, expected integers of shape {tuple(paid.shape)}")
    if _values_are_at_hand(steps) and int(steps.min()) < 1:
        raise ValueError(f"steps: got {int(steps.min())}, expected at least 1")
    check_number("discount", discount, 0.0, 1.0)
    with torch.no_grad():
        target = paid + discount ** steps.to(paid) * next_values.masked_fill(terminated, 0.0)
    check_answer(target, paid=paid, next_values=next_values)
    return target


class _MetaController(nn.Module):
    """(batch, state_dim) -> logits (batch, goals), value (batch,)."""

    def __init__(self, state_dim: int, goals: int, widths: Sequence[int]):
        super().__init__()
        width = (state_dim, *widths)[-1]
        self.trunk = tanh_layers((state_dim, *widths))
        self.policy = orthogonal_linear(width, goals, gain=0.01)
        self.value = orthogonal_linear(width, 1, gain=1.0)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.trunk(state)  # (batch, width)
        return self.policy(hidden), self.value(hidden).squeeze(-1)


class _Controllers(nn.Module):
    """One actor-critic per goal: (batch, state_dim), goals (batch,) -> logits (batch, max_actions), value (batch,)."""

    def __init__(self, state_dim: int, goal_dim: int, action_counts: Sequence[int], widths: Sequence[int]):
        super().__init__()
        goals, inputs = len(action_counts), (state_dim + goal_dim, *widths)
        self.goal_embedding = nn.Parameter(torch.randn(goals, goal_dim) / math.sqrt(goal_dim))
        self.trunk = nn.ModuleList(_StackedLinear(goals, *pair, gain=math.sqrt(2)) for pair in pairwise(inputs))
        self.policy = _StackedLinear(goals, inputs[-1], max(action_counts), gain=0.01)
        self.value = _StackedLinear(goals, inputs[-1], 1, gain=1.0)

    def forward(self, state: Tensor, goals: Tensor | str) -> tuple[Tensor, Tensor]:
        hidden = torch.cat([state, self.goal_embedding[goals]], dim=-1)  # (batch, state_dim + goal_dim)
        for layer in self.trunk:
            hidden = layer(hidden, goals).tanh()  # (batch, width)
        return self.policy(hidden, goals), self.value(hidden, goals).squeeze(-1)


class _StackedLinear(nn.Module):
    """A linear layer for each goal: (batch, inputs) and goals (batch,) -> (batch, outputs)."""

    def __init__(self, goals: int, inputs: int, outputs: int, gain: float):
        super().__init__()
        each = [orthogonal_linear(inputs, outputs, gain) for _ in range(goals)]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in each]))  # (goals, outputs, inputs)
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in each]))  # (goals, outputs)

    def forward(self, x: Tensor, goals: Tensor | str) -> Tensor:
        """Answer with every goal's layer in one product, and keep of each row its own."""
        every = F.linear(x, self.weight.flatten(0, 1)).unflatten(1, self.bias.shape)  # (batch, goals, outputs)
        own = goals.view(-1, 1, 1).expand(-1, 1, self.bias.shape[1])  # (batch, 1, outputs)
        return every.gather(1, own).squeeze(1) + self.bias[goals]


def _check_arguments(state_dim, meta_action_dim, task_action_dims, meta_dims, task_dims, goal_dim) -> None:
    check_count("state_dim", state_dim)
    check_count("meta_action_dim", meta_action_dim)
    if isinstance(task_action_dims, int):
        check_count("task_action_dims", task_action_dims)
    elif isinstance(task_action_dims, Mapping):
        check_counts_by_name("task_action_dims", task_action_dims)
    else:
        check_widths("task_action_dims", task_action_dims)
    if not isinstance(task_action_dims, int) and len(task_action_dims) != meta_action_dim:
        came = f"{len(task_action_dims)} numbers of actions"
        raise ValueError(f"task_action_dims: got {came}, expected {meta_action_dim}, one for each goal")
    for name, widths in (("meta_dims", meta_dims), ("task_dims", task_dims)):
        check_widths(name, widths, empty=True)
    check_count("goal_dim", goal_dim)
