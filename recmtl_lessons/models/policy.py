"""One policy for several tasks: a shared trunk, and for each task a trunk, a policy head and a value head of its own.

Sources: Mnih, Badia, Mirza, Graves, Lillicrap, Harley, Silver, Kavukcuoglu, "Asynchronous methods for deep
reinforcement learning", ICML 2016, section 4 (advantage actor-critic). Schulman, Moritz, Levine, Jordan, Abbeel,
"High-dimensional continuous control using generalized advantage estimation", ICLR 2016, section 3. Schulman, Wolski,
Dhariwal, Radford, Klimov, "Proximal policy optimization algorithms", 2017, sections 3 and 5. Pardo, Tavakoli, Levdik,
Kormushev, "Time limits in reinforcement learning", ICML 2018, section 4.

Departures: the papers have one task; here the lower layers serve all tasks (hard parameter sharing), and each task has
its own actions. All sessions step together, so that there is one learner and nothing is asynchronous. PPO's values are
not clipped, and advantages are taken as they come: whoever wants them normalised does it before. Weights start
orthogonal, as in many programs and in none of these papers: gain sqrt(2) in the hidden layers, 1 for values, 0.01 for
policies, so that the first policy is nearly uniform; biases start at 0.

The hidden layers have tanh, as is usual in small actor-critics and recommended by Andrychowicz et al., "What matters
for on-policy deep actor-critic methods?", ICLR 2021, section 3.2: a bounded layer keeps one task's large gradient from
leaving dead units to the others. (They advise separate networks for policy and value, too. Here sharing is the
subject.) There is no dropout: two evaluations of one policy would differ, and with them the ratio of its probabilities
would not be 1 before the first step. For the same reason there is no batch normalisation.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recmtl_lessons.models._actor_critic import (
    check_answers,
    check_counts_by_name,
    check_like,
    check_luck,
    check_no_dropout,
    check_rollout,
    choose,
    evaluate,
    orthogonal_linear,
    tanh_layers,
)
from recmtl_lessons.models._checks import (
    _values_are_at_hand,
    check_answer,
    check_choice,
    check_count,
    check_features,
    check_labels,
    check_number,
    check_positive,
    check_widths,
)
from recmtl_lessons.models._names import NamedParts


class MultiTaskPolicyNetwork(NamedParts):
    r"""A stochastic policy and its value for each of several tasks, on a trunk that all tasks share.

    With f the shared trunk, and for task k a trunk :math:`g_k`, a policy head :math:`P_k, b_k` and a value head
    :math:`w_k, c_k`,

    .. math:: h = g_k(f(s)), \qquad \pi_k(a \mid s) = \mathrm{softmax}(P_k h + b_k)_a, \qquad
              V_k(s) = w_k \cdot h + c_k.

    Where a mask allows some actions only, the logits of the others become :math:`-\infty` before the softmax. A
    `state_dict` holds the names of the tasks, and is loaded by them, whatever their order.

    Parameters
    ----------
    state_dim : int
        Width of the state, the same in all tasks.
    action_dims : mapping {str: int}
        Each task's name and its number of actions.
    shared_dims : sequence of int
        Widths of the shared layers, each followed by a tanh. None: the tasks share nothing.
    task_dims : sequence of int
        Widths of each task's own layers, each followed by a tanh. None: the heads stand on the shared layers.
    dropout_rate : float
        0, for the reason above; any other is refused.
    """

    _parts = ("task_trunks.", "policy_heads.", "value_heads.")

    def __init__(
        self,
        state_dim: int,
        action_dims: Mapping[str, int],
        shared_dims: Sequence[int] = (128, 64),
        task_dims: Sequence[int] = (32,),
        dropout_rate: float = 0.0,
    ):
        _check_arguments(state_dim, action_dims, shared_dims, task_dims, dropout_rate)
        super().__init__()
        self.state_dim = state_dim
        self.action_dims = dict(action_dims)
        self.tasks = tuple(action_dims)
        self.shared = tanh_layers((state_dim, *shared_dims))
        shared_width = (state_dim, *shared_dims)[-1]
        width = (shared_width, *task_dims)[-1]
        # Lists, not a ModuleDict: task names are the user's words, and may hold dots or spaces.
        self.task_trunks = nn.ModuleList(tanh_layers((shared_width, *task_dims)) for _ in self.tasks)
        self.policy_heads = nn.ModuleList(
            orthogonal_linear(width, count, gain=0.01) for count in self.action_dims.values()
        )
        self.value_heads = nn.ModuleList(orthogonal_linear(width, 1, gain=1.0) for _ in self.tasks)

    def forward(self, state: Tensor, task_name: str) -> tuple[Tensor, Tensor]:
        """Answer one task: logits of its actions, and the value of each state.

        Parameters
        ----------
        state : Tensor, (batch, state_dim)
        task_name : str

        Returns
        -------
        logits : Tensor, (batch, n_actions)
            Logits, not probabilities; no mask is applied.
        value : Tensor, (batch,)
            The discounted return expected from the state on, in units of the task's reward.

        Raises
        ------
        ValueError
            If the answer is not finite, as from weights that are not; or an argument does not fit.
        """
        task = self._number(task_name)
        self._check_state(state)
        return check_answers(self, state, *self._answer(state, task))

    def action_probabilities(self, state: Tensor, task_name: str, mask: Tensor | None = None) -> Tensor:
        """Return the policy itself, (batch, n_actions): rows sum to 1, exactly 0 where the mask is False.

        Arguments and errors as in `get_action`. In the current mode, with gradients.
        """
        return self._masked(state, task_name, mask)[0].softmax(dim=1)

    def get_action(
        self,
        state: Tensor,
        task_name: str,
        deterministic: bool = False,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        uniform: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        r"""Choose an action in each state.

        With u uniform in [0, 1), independent for each row and action,

        .. math:: a = \arg\max_j \left[ \log \pi_k(j \mid s) - \log(-\log(1 - u_j)) \right],

        which is j with probability :math:`\pi_k(j \mid s)`: of independent exponential times at rates
        :math:`\pi_k(j \mid s)`, it picks the shortest. There is no branch on a value, so that it works under
        `torch.vmap`: with ``randomness="different"`` each model draws its own numbers, or with ``uniform`` the numbers
        are handed in.

        Parameters
        ----------
        state : Tensor, (batch, state_dim)
        task_name : str
        deterministic : bool
            The most probable action instead (the first of several), for measuring, not for learning.
        mask : Tensor, (batch, n_actions), bool, optional
            True where an action is allowed. All are unless given. Inside ``torch.vmap`` its values cannot be looked at:
            there a row in which nothing is allowed has a log-probability of NaN.
        generator : torch.Generator, optional
            Where the uniform numbers come from, drawn on its own device; torch's global generator unless given.
        uniform : Tensor, (batch, n_actions), optional
            The numbers u themselves, in [0, 1), in place of the generator: models that get the same ones can be
            compared under the same luck.

        Returns
        -------
        action : Tensor, (batch,), int64
        log_prob : Tensor, (batch,)
            Its log-probability in nats, with its gradient. Collect sessions under `torch.no_grad`.
        """
        check_luck(deterministic, generator, uniform)
        logits, _ = self._masked(state, task_name, mask)
        return choose(logits, deterministic, generator, uniform)

    def evaluate_actions(
        self, state: Tensor, task_name: str, action: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Return what the losses need of actions that were taken, with gradients.

        Parameters
        ----------
        state : Tensor, (batch, state_dim)
        task_name : str
        action : Tensor, (batch,)
            Integers in 0..n_actions-1.
        mask : Tensor, (batch, n_actions), bool, optional
            The mask under which they were taken. Inside ``torch.vmap`` an action that it excludes has a log-probability
            of minus infinity.

        Returns
        -------
        log_prob : Tensor, (batch,)
            :math:`\log \pi_k(a \mid s)`, in nats.
        entropy : Tensor, (batch,)
            :math:`-\sum_j \pi_k(j \mid s) \log \pi_k(j \mid s)` over the allowed actions, in nats: from 0 to the
            logarithm of their number.
        value : Tensor, (batch,)
        """
        logits, value = self._masked(state, task_name, mask)
        check_labels("action", action, *logits.shape)
        _check_allowed(action, mask)
        return *evaluate(logits, action), value

    def shared_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that all tasks train, by name: those on which gradients of tasks can meet.

        The names are those of `named_parameters`, and begin with ``shared.``. Empty without shared layers.
        """
        return {name: value for name, value in self.named_parameters() if name.startswith("shared.")}

    def task_parameters(self, task_name: str) -> dict[str, nn.Parameter]:
        """Return one task's own parameters, by name; with `shared_parameters` they are all that its answers need."""
        task = self._number(task_name)
        own = tuple(f"{part}.{task}." for part in ("task_trunks", "policy_heads", "value_heads"))
        return {name: value for name, value in self.named_parameters() if name.startswith(own)}

    def _masked(self, state: Tensor, task_name: str, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return logits, (batch, n_actions), minus infinity where excluded, and value, (batch,)."""
        task = self._number(task_name)
        self._check_state(state)
        self._check_mask(mask, state, task)
        logits, value = check_answers(self, state, *self._answer(state, task))
        if mask is not None:  # before the softmax, so that the others share the whole probability
            logits = logits.masked_fill(~mask, -math.inf)
        return logits, value

    def _answer(self, state: Tensor, task: int) -> tuple[Tensor, Tensor]:
        hidden = self.task_trunks[task](self.shared(state))  # (batch, width)
        return self.policy_heads[task](hidden), self.value_heads[task](hidden).squeeze(-1)

    # What comes in.

    def _number(self, task_name: str) -> int:
        check_choice("task_name", task_name, self.tasks)
        return self.tasks.index(task_name)

    def _check_state(self, state: Tensor) -> None:
        check_features("state", state, self.state_dim, self.value_heads[0].weight.dtype)

    def _check_mask(self, mask: Tensor | None, state: Tensor, task: int) -> None:
        if mask is None:
            return
        shape = (len(state), self.action_dims[self.tasks[task]])
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != shape:
            came = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(f"mask: got {came}, expected a bool tensor {shape}, True where an action is allowed")
        if _values_are_at_hand(mask) and not mask.any(dim=1).all():
            empty = int((~mask.any(dim=1)).nonzero()[0])
            raise ValueError(f"mask: got no allowed action in row {empty}, expected at least one True in each row")


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    discount: float | Tensor = 0.99,
    gae_lambda: float | Tensor = 0.95,
) -> tuple[Tensor, Tensor]:
    r"""Return generalised advantage estimates, and the returns that belong to them.

    .. math:: \delta_t = r_t + \gamma (1 - \mathrm{terminated}_t) V(s'_t) - V(s_t), \qquad
              A_t = \delta_t + \gamma \lambda \, (1 - \mathrm{ended}_t) A_{t+1}, \qquad
              R_t = A_t + V(s_t),

    where :math:`s'_t` is the state that step t really reached, and a session has ended where it was terminated or
    truncated. An end of the task is worth nothing more, so that nothing is added there. A time limit is only the end of
    watching: what would have come is worth :math:`V(s'_t)`. Behind either of them another session begins, which does
    not count. The last row of a rollout ends nothing, but what follows it is unknown: there, too, :math:`V(s'_t)`
    stands for it.

    Parameters
    ----------
    rewards : Tensor, (T, ...), float
        Time first; the rest are sessions side by side.
    values : Tensor, (T, ...)
        V of the state in which step t was taken.
    next_values : Tensor, (T, ...)
        V of the state reached by step t: within a session ``values[t + 1]``; where one ended, V of its final state, not
        of the first of the next session. Read as 0 where terminated.
    terminated, truncated : Tensor, (T, ...), bool
        Whether step t ended the task, and whether a time limit cut the session off after it. If both, it is terminated.
    discount : float or scalar Tensor
        :math:`\gamma`, in [0, 1].
    gae_lambda : float or scalar Tensor
        :math:`\lambda`, in [0, 1]: 0 is the one-step temporal difference, 1 the discounted return to the end.

    Returns
    -------
    advantages : Tensor, (T, ...)
    returns : Tensor, (T, ...)
        What a value is trained towards. Neither carries a gradient.

    References
    ----------
    Schulman et al. (2016), section 3, equations 11 to 16. Their sum has no end; here it ends with the session or the
    rollout, and the longest estimate takes the weight of all longer ones. Pardo et al. (2018), section 4, for
    truncation.
    """
    check_rollout(
        {"rewards": rewards, "values": values, "next_values": next_values},
        {"terminated": terminated, "truncated": truncated},
    )
    check_number("discount", discount, 0.0, 1.0)
    check_number("gae_lambda", gae_lambda, 0.0, 1.0)
    with torch.no_grad():
        delta = rewards + discount * next_values.masked_fill(terminated, 0.0) - values  # (T, ...)
        ended = terminated | truncated
        running, backwards = torch.zeros_like(rewards[-1]), []
        for t in reversed(range(len(rewards))):
            running = delta[t] + discount * gae_lambda * running.masked_fill(ended[t], 0.0)
            backwards.append(running)
        advantages = torch.stack(backwards[::-1])  # (T, ...)
        returns = advantages + values
    check_answer(returns, rewards=rewards, values=values, next_values=next_values)
    return advantages, returns


def n_step_returns(
    rewards: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    discount: float | Tensor = 0.99,
    n: int = 5,
) -> Tensor:
    r"""Add up to n rewards, and the value of the state reached by the last of them.

    .. math:: R_t = \sum_{k=0}^{m-1} \gamma^k r_{t+k} + \gamma^m (1 - \mathrm{terminated}_{t+m-1}) V(s'_{t+m-1}),

    where m is n, or fewer if the session or the rollout ends before.

    Parameters
    ----------
    rewards, next_values, terminated, truncated, discount
        As in `gae`.
    n : int
        At least 1. From T on, every return goes to the end of its session or of the rollout.

    Returns
    -------
    Tensor, (T, ...)
        Without a gradient.

    References
    ----------
    Mnih et al. (2016), section 4, where all rows of a rollout reach to its last one: that is n of at least T. Pardo et
    al. (2018), section 4, for truncation.
    """
    check_rollout({"rewards": rewards, "next_values": next_values}, {"terminated": terminated, "truncated": truncated})
    check_number("discount", discount, 0.0, 1.0)
    check_count("n", n)
    with torch.no_grad():
        one_step = rewards + discount * next_values.masked_fill(terminated, 0.0)  # (T, ...)
        ended = terminated | truncated
        stops = torch.cat([ended[:-1], torch.ones_like(ended[-1:])])  # (T, ...)
        returns = one_step
        for _ in range(min(n, len(rewards)) - 1):  # each round makes every return one reward longer, if it can be
            later = torch.cat([returns[1:], returns[-1:]])  # (T, ...); the last row is not read
            returns = torch.where(stops, one_step, rewards + discount * later)
    check_answer(returns, rewards=rewards, next_values=next_values)
    return returns


def actor_critic_loss(
    log_prob: Tensor,
    entropy: Tensor,
    value: Tensor,
    advantage: Tensor,
    returns: Tensor,
    value_weight: float | Tensor = 0.5,
    entropy_weight: float | Tensor = 0.01,
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Return the loss of the advantage actor-critic with an entropy bonus.

    .. math:: L = \mathrm{mean}\left[ -A \log \pi(a \mid s) + w_V (R - V(s))^2 - w_H H(\pi(\cdot \mid s)) \right]

    A and R are numbers here: no gradient passes through them.

    Parameters
    ----------
    log_prob, entropy, value : Tensor, (batch,)
        As `MultiTaskPolicyNetwork.evaluate_actions` gives them. Any other shape will do, such as (T, sessions), if
        it is the same for all: nothing is broadcast.
    advantage, returns : Tensor, of the same shape
        As `gae` gives them; or returns of `n_step_returns`, and those minus the value.
    value_weight, entropy_weight : float or scalar Tensor
        :math:`w_V` and :math:`w_H`, at least 0.

    Returns
    -------
    loss : Tensor, ()
    parts : dict {str: Tensor ()}
        Detached and not weighted: ``policy_loss``, ``value_loss`` (the mean squared error), ``entropy`` (nats).

    References
    ----------
    Mnih et al. (2016), section 4. There the value's squared error has no weight of its own; sums over a rollout are
    means here.
    """
    terms = {"log_prob": log_prob, "entropy": entropy, "value": value, "advantage": advantage, "returns": returns}
    _check_terms(**terms)
    policy_loss = -(advantage.detach() * log_prob).mean()
    return _total(policy_loss, terms, value_weight, entropy_weight)


def ppo_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    entropy: Tensor,
    value: Tensor,
    advantage: Tensor,
    returns: Tensor,
    clip: float | Tensor = 0.2,
    value_weight: float | Tensor = 0.5,
    entropy_weight: float | Tensor = 0.01,
    counted: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Return the loss of proximal policy optimisation, in its clipped form, for several steps on the same sessions.

    .. math:: \rho = \frac{\pi(a \mid s)}{\pi_\text{old}(a \mid s)}, \qquad
              L = \mathrm{mean}\left[ -\min(\rho A, \mathrm{clip}(\rho, 1 - \epsilon, 1 + \epsilon) A)
                  + w_V (R - V(s))^2 - w_H H(\pi(\cdot \mid s)) \right]

    While the weights are those that took the actions, :math:`\rho` is 1, and the gradient is that of
    `actor_critic_loss`. A row whose ratio has left the interval in the direction that its advantage asks for has no
    gradient of the policy any more.

    Parameters
    ----------
    log_prob, entropy, value, advantage, returns, value_weight, entropy_weight
        As in `actor_critic_loss`.
    old_log_prob : Tensor, of the same shape
        Log-probability of each action when it was taken. No gradient passes through it.
    clip : float or scalar Tensor
        :math:`\epsilon`, more than 0.
    counted : Tensor, of the same shape, bool, optional
        Rows over which means are taken, all unless given: for steps in which this policy decided nothing, such as those
        of a goal that went on. Where no row counts the loss is 0.

    Returns
    -------
    loss : Tensor, ()
    parts : dict {str: Tensor ()}
        As in `actor_critic_loss`, and ``clip_fraction``, the share of rows whose ratio is outside the interval, and
        ``approximate_kl``, the mean of :math:`\rho - 1 - \log \rho` in nats: it is at least 0, and estimates the
        divergence of the new policy from the old.

    References
    ----------
    Schulman et al. (2017), equation 7, and equation 9 for the sum, of which this is the negative.
    """
    terms = {"log_prob": log_prob, "old_log_prob": old_log_prob, "entropy": entropy, "value": value}
    terms |= {"advantage": advantage, "returns": returns}
    _check_terms(**terms)
    check_positive("clip", clip)
    _check_counted(counted, log_prob.shape)
    advantage, log_ratio = advantage.detach(), log_prob - old_log_prob.detach()
    if counted is not None:  # before the exponential, whose gradient is NaN where it overflows
        log_ratio = log_ratio.masked_fill(~counted, 0.0)
    ratio = log_ratio.exp()
    divergence = _mean(torch.expm1(log_ratio) - log_ratio, counted).detach()
    check_answer(divergence, log_prob=log_prob, old_log_prob=old_log_prob)
    low, high = (torch.as_tensor(end, dtype=ratio.dtype, device=ratio.device) for end in (1.0 - clip, 1.0 + clip))
    clipped = ratio.clamp(low, high)
    policy_loss = -_mean(torch.minimum(ratio * advantage, clipped * advantage), counted)
    loss, parts = _total(policy_loss, terms, value_weight, entropy_weight, counted)
    parts["clip_fraction"] = _mean(((ratio - 1).abs() > clip).to(ratio.dtype), counted)
    parts["approximate_kl"] = divergence
    return loss, parts


def _mean(values: Tensor, counted: Tensor | None) -> Tensor:
    """Return the mean over the rows that count, 0 if there are none."""
    if counted is None:
        return values.mean()
    return values.masked_fill(~counted, 0.0).sum() / counted.sum().clamp(min=1)


def _total(
    policy_loss: Tensor, terms: Mapping[str, Tensor], value_weight, entropy_weight, counted: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    weights = {"value_weight": value_weight, "entropy_weight": entropy_weight}
    for name, weight in weights.items():
        check_number(name, weight, 0.0)
    value_loss = _mean((terms["returns"].detach() - terms["value"]).square(), counted)
    entropy = _mean(terms["entropy"], counted)
    loss = policy_loss + value_weight * value_loss - entropy_weight * entropy
    check_answer(loss, **terms, **weights)
    parts = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
    return loss, {name: part.detach() for name, part in parts.items()}


def _check_allowed(action: Tensor, mask: Tensor | None) -> None:
    if mask is None or not _values_are_at_hand(action) or not _values_are_at_hand(mask):
        return
    allowed = mask.gather(1, action.long().unsqueeze(1)).squeeze(1)  # (batch,)
    if not allowed.all():
        row = int((~allowed).nonzero()[0])
        raise ValueError(f"action: got {int(action[row])} in row {row}, expected an action that the mask allows")


def _check_arguments(state_dim, action_dims, shared_dims, task_dims, dropout_rate) -> None:
    check_count("state_dim", state_dim)
    check_counts_by_name("action_dims", action_dims)
    for name, widths in (("shared_dims", shared_dims), ("task_dims", task_dims)):
        check_widths(name, widths, empty=True)
    check_no_dropout(dropout_rate)


def _check_counted(counted: Tensor | None, shape: torch.Size) -> None:
    if counted is None:
        return
    if not isinstance(counted, Tensor) or counted.dtype != torch.bool or counted.shape != shape:
        came = f"{counted.dtype} {tuple(counted.shape)}" if isinstance(counted, Tensor) else type(counted).__name__
        raise ValueError(f"counted: got {came}, expected a bool tensor {tuple(shape)}")


def _check_terms(log_prob: Tensor, **others: Tensor) -> None:
    """Refuse anything but finite floats of one shape and dtype, with at least one row."""
    if not isinstance(log_prob, Tensor) or 0 in log_prob.shape or not log_prob.is_floating_point():
        came = f"{log_prob.dtype} {tuple(log_prob.shape)}" if isinstance(log_prob, Tensor) else type(log_prob).__name__
        raise ValueError(f"log_prob: got {came}, expected a float tensor (batch,) with at least one row")
    for name, value in {"log_prob": log_prob, **others}.items():
        check_like(name, value, log_prob.shape, log_prob.dtype)
