"""One Q-network for many tasks, whose tasks attend to each other, and which learns from teachers as well as rewards.

Sources: Rusu et al., "Policy distillation", ICLR 2016; Parisotto, Ba, Salakhutdinov, "Actor-mimic", ICLR 2016; Hinton,
Vinyals, Dean, "Distilling the knowledge in a neural network", 2015; van Hasselt, Guez, Silver, "Deep reinforcement
learning with double Q-learning", AAAI 2016; Vaswani et al., "Attention is all you need", NeurIPS 2017.

Departures: both papers on policies divide the teacher's Q-values alone by a temperature; here teacher and student are
divided by the same one, and the loss multiplied by its square, as Hinton et al. do. A scale, one number taken from the
teacher, comes first, so that a temperature means the same whatever the unit of the reward. The network can learn from
rewards at the same time, where both papers distil without them. Of a Transformer's layer the network has the attention
and the residual sum. It has no LayerNorm, which is there to keep sums of many layers in bounds, costs a third of a step
where many models train as one, and would take away the size of a state's features, on which Q-values depend; and no
position but one learned embedding per task.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recmtl_lessons.models._actor_critic import check_counts_by_name, check_generator, check_no_dropout
from recmtl_lessons.models._checks import (
    _values_are_at_hand,
    check_answer,
    check_choice,
    check_count,
    check_dense,
    check_features,
    check_finite,
    check_labels,
    check_number,
    check_positive,
    check_values,
    check_widths,
)
from recmtl_lessons.models._layers import relu_layers
from recmtl_lessons.models._names import NamedParts


class MultiTaskDistilledQNetwork(NamedParts):
    r"""Q-values of every task's actions, from one trunk and from tokens of the tasks that attend to each other.

    With :math:`h` the trunk's answer to a state, and :math:`e_k` an embedding learned for task k of K,

    .. math:: x_k = \mathrm{ReLU}(P h + e_k), \qquad
              w_{kj} = \mathrm{softmax}_j \frac{(W_q x_k) \cdot (W_k x_j)}{\sqrt{d}}, \qquad
              z_k = x_k + W_o \sum_j w_{kj} W_v x_j, \qquad Q_k = f_k(z_k),

    with H heads of width d side by side, and :math:`f_k` the task's own layers. The sequence that is attended over is
    that of the tasks. Without the ReLU a token would be the sum of a state's part and a task's part, and what tasks
    hand each other could not depend on both. Whether one task is asked for or all, every token is there, so the answer
    is the same.

    There is no dropout: the target network's Q-values, the greedy action and the loss are then those of one function. A
    `state_dict` holds the names of the tasks, and is loaded by them, whatever their order.

    Parameters
    ----------
    state_dim : int
        Width of the state.
    action_dims : mapping {str: int}
        Each task's name and its number of actions. The order of the names is the order of the attention's rows.
    shared_dims : sequence of int
        Widths of the trunk's layers, each followed by a ReLU; the last is the width of the tokens, which ``num_heads``
        must divide.
    task_dims : sequence of int
        Widths of each task's own layers, each followed by a ReLU; none puts its Q-values straight onto its token.
    distillation_weight : float
        Share of the distillation in `loss`, in [0, 1]; the rest is the share of the rewards.
    num_heads : int
    attention : bool
        False is the ablation: every token attends to itself alone, w is the identity. The network then has no
        :math:`W_q` and :math:`W_k`; all else is the same, and from one seed starts from the same numbers. One task has
        nothing else to attend to, so with one task it is False.
    dropout_rate : float
        0, for the reason above; any other is refused.

    References
    ----------
    Vaswani et al. (2017), section 3.2.2 (multi-head attention); Rusu et al. (2016), section 3 (one trunk, an
    output layer per task), for the multi-task student.
    """

    _parts = ("heads.",)
    _rows = ("task_embeddings",)

    def __init__(
        self,
        state_dim: int,
        action_dims: Mapping[str, int],
        shared_dims: Sequence[int] = (256, 128),
        task_dims: Sequence[int] = (64,),
        distillation_weight: float = 0.5,
        num_heads: int = 4,
        *,
        attention: bool = True,
        dropout_rate: float = 0.0,
    ):
        _check_arguments(state_dim, action_dims, shared_dims, task_dims, num_heads, attention)
        check_no_dropout(dropout_rate)
        check_number("distillation_weight", distillation_weight, 0.0, 1.0)
        super().__init__()
        self.state_dim, self.action_dims = state_dim, dict(action_dims)
        self.tasks = tuple(action_dims)
        self.distillation_weight, self.num_heads = float(distillation_weight), num_heads
        self.attention = attention and len(self.tasks) > 1

        width = shared_dims[-1]
        self.trunk = relu_layers(state_dim, shared_dims)
        self.to_token = nn.Linear(width, width, bias=False)  # the embeddings are its biases, one per task
        # Of size 1, as in nn.Embedding, and so larger than P h at the start: with smaller ones the tokens are so alike
        # that the tasks are slow to look at each other differently.
        self.task_embeddings = nn.Parameter(torch.randn(len(self.tasks), width))
        self.to_value = nn.Linear(width, width, bias=False)
        self.to_output = nn.Linear(width, width, bias=False)
        own = (width, *task_dims)[-1]
        # A list, not a ModuleDict: task names are the user's words, and may hold dots or spaces.
        self.heads = nn.ModuleList(
            nn.Sequential(*relu_layers(width, task_dims), nn.Linear(own, n_actions))
            for n_actions in action_dims.values()
        )
        # The last to be made, so that the ablation draws the same numbers for all that it has.
        self.to_query = nn.Linear(width, width, bias=False) if self.attention else None
        self.to_key = nn.Linear(width, width, bias=False) if self.attention else None

    def forward(self, state: Tensor, task_name: str | None = None) -> Tensor | dict[str, Tensor]:
        """Return the Q-values of one task's actions, or of all tasks'.

        Parameters
        ----------
        state : Tensor, (batch, state_dim)
        task_name : str, optional
            One of ``tasks``; all of them if not given.

        Returns
        -------
        Tensor, (batch, n_actions), or dict {task: Tensor}
            In the unit of the reward. The same for a task whether it is named or all are asked for.

        Raises
        ------
        ValueError
            If the answer is not finite, as from weights that are not; or an argument does not fit.
        """
        if task_name is not None:
            check_choice("task_name", task_name, self.tasks)
        self._check_state(state)
        if task_name is not None:
            return self._answers({task_name: state})[task_name]
        tokens = self._tokens(state)  # (batch, K, width)
        mixed = self._mix(tokens, tokens)
        answers = {name: head(mixed[:, k]) for k, (name, head) in enumerate(zip(self.tasks, self.heads, strict=True))}
        for answer in answers.values():
            check_answer(answer, self, state=state)
        return answers

    def answer_own(self, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return Q-values of several tasks, each in states of its own: `forward`'s of each pair, in one pass.

        Where sessions run on every task, each task's states are others. The trunk and the attention take all of them
        together: small networks on small batches answer in about half the time.

        Parameters
        ----------
        states : mapping {task: Tensor (batch of the task, state_dim)}

        Returns
        -------
        dict {task: Tensor (batch of the task, n_actions)}
        """
        if not isinstance(states, Mapping) or not states:
            came = "none" if isinstance(states, Mapping) else type(states).__name__
            raise ValueError(f"states: got {came}, expected {{task: states}}, at least one")
        for name, own in states.items():
            check_choice("states", name, self.tasks)
            self._check_state(own, f"states[{name!r}]")
        return self._answers(states, "states[{!r}]")

    def attention_weights(self, state: Tensor) -> Tensor:
        """Return how much each task's token takes from each.

        Parameters
        ----------
        state : Tensor, (batch, state_dim)

        Returns
        -------
        Tensor, (batch, num_heads, K, K)
            Row k is the task that looks, column j the task looked at, in the order of ``tasks``; rows sum to 1. The
            identity if the network has no attention.
        """
        self._check_state(state)
        tokens = self._tokens(state)
        if self.attention:
            weights = self._weights(tokens, tokens)
            check_answer(weights, self, state=state)
            return weights
        size = len(self.tasks)
        return torch.eye(size, dtype=tokens.dtype, device=tokens.device).expand(len(state), self.num_heads, size, size)

    def compute_distillation_loss(
        self,
        state: Tensor,
        target_task: str,
        teacher_q_values: Tensor,
        temperature: float | Tensor = 1.0,
        scale: float | Tensor | None = None,
    ) -> Tensor:
        """Return the `distillation_loss` of this network's Q-values in one task.

        Parameters
        ----------
        state : Tensor, (batch, state_dim)
        target_task : str
            The task of the teacher.
        teacher_q_values : Tensor, (batch, n_actions)
            The teacher's answers to the same states.
        temperature, scale
            As in `distillation_loss`.

        Returns
        -------
        Tensor, ()
        """
        check_choice("target_task", target_task, self.tasks)
        return distillation_loss(self(state, target_task), teacher_q_values, temperature, scale)

    def loss(
        self,
        state: Tensor,
        task_name: str,
        actions: Tensor,
        targets: Tensor,
        teacher_q_values: Tensor,
        temperature: float | Tensor = 1.0,
        scale: float | Tensor | None = None,
        weights: Tensor | None = None,
        distillation_weight: float | Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        r"""Learn one task from rewards and from a teacher: :math:`(1 - \omega) L_{TD} + \omega L_{distil}`.

        Parameters
        ----------
        state : Tensor, (batch, state_dim)
        task_name : str
        actions : Tensor, (batch,), integers
            The actions that were taken.
        targets : Tensor, (batch,)
            What their Q-values should be, as from `double_q_target`.
        teacher_q_values : Tensor, (batch, n_actions)
        temperature, scale
            As in `distillation_loss`.
        weights : Tensor, (batch,), optional
            As in `q_loss`. They count in the TD loss alone: distillation asks for no rewards, and has no sampling to
            correct.
        distillation_weight : float or scalar Tensor, optional
            :math:`\omega`; the network's own if not given.

        Returns
        -------
        loss : Tensor, ()
        parts : dict {str: Tensor ()}
            ``td``, that of `q_loss`, and ``distillation``, both before they are weighed.
        """
        share = self.distillation_weight if distillation_weight is None else distillation_weight
        check_number("distillation_weight", share, 0.0, 1.0)
        check_choice("task_name", task_name, self.tasks)
        q_values = self(state, task_name)  # (batch, n_actions)
        td = q_loss(q_values, actions, targets, weights)
        distillation = distillation_loss(q_values, teacher_q_values, temperature, scale)
        return (1 - share) * td + share * distillation, {"td": td, "distillation": distillation}

    @torch.no_grad()
    def greedy_action(self, state: Tensor, task_name: str) -> Tensor:
        """Return the action of the highest Q-value, (batch,), the first of equals."""
        check_choice("task_name", task_name, self.tasks)
        return self(state, task_name).argmax(dim=-1)

    @torch.no_grad()
    def act(
        self, state: Tensor, task_name: str, epsilon: float | Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw as `epsilon_greedy` does on one task's Q-values, (batch,); for a stack of models call that itself."""
        check_choice("task_name", task_name, self.tasks)
        check_number("epsilon", epsilon, 0.0, 1.0)
        check_generator(generator)
        return epsilon_greedy(self(state, task_name), epsilon, generator)

    @torch.no_grad()
    def action_probabilities(
        self, state: Tensor, task_name: str, temperature: float | Tensor = 1.0, scale: float | Tensor = 1.0
    ) -> Tensor:
        r"""Return what distillation compares: :math:`\mathrm{softmax}(Q / (s T))`, (batch, n_actions).

        Give the student the teacher's ``scale``, from `q_value_scale`.
        """
        check_choice("task_name", task_name, self.tasks)
        check_positive("temperature", temperature)
        check_positive("scale", scale)
        policy = (self(state, task_name) / scale / temperature).softmax(dim=-1)
        check_answer(policy, small=("temperature", "scale"), state=state, temperature=temperature, scale=scale)
        return policy

    # The tokens, and how they mix.

    def _answers(self, states: Mapping[str, Tensor], called: str = "state") -> dict[str, Tensor]:
        """Answer states that have been checked as `answer_own` does: the other tasks are looked at, and do not look."""
        counts, columns = [len(own) for own in states.values()], [self.tasks.index(name) for name in states]
        tokens = self._tokens(torch.cat(list(states.values())))  # (all, K, width)
        looking = [part[:, k : k + 1] for part, k in zip(tokens.split(counts), columns, strict=True)]
        mixed = self._mix(torch.cat(looking), tokens)[:, 0].split(counts)  # (batch of the task, width) each
        answers = {name: self.heads[k](rows) for name, k, rows in zip(states, columns, mixed, strict=True)}
        for name, answer in answers.items():
            check_answer(answer, self, **{called.format(name): states[name]})
        return answers

    def _tokens(self, state: Tensor) -> Tensor:
        """Make the tokens of states: (batch, state_dim) -> (batch, K, width)."""
        shared = self.to_token(self.trunk(state))  # (batch, width)
        return (shared.unsqueeze(1) + self.task_embeddings).relu()

    def _mix(self, looking: Tensor, tokens: Tensor) -> Tensor:
        """Return J of the K tokens after they have looked at all: (batch, J, width), as they came."""
        if not self.attention:
            return looking + self.to_output(self.to_value(looking))
        values = self._split(self.to_value(tokens))  # (batch, heads, K, d)
        attended = self._weights(looking, tokens) @ values  # (batch, heads, J, d)
        return looking + self.to_output(attended.transpose(1, 2).flatten(2))  # heads * d = width

    def _weights(self, looking: Tensor, tokens: Tensor) -> Tensor:
        """Return who looks at whom: (batch, J, width) and (batch, K, width) -> (batch, heads, J, K), rows sum to 1."""
        query, key = self._split(self.to_query(looking)), self._split(self.to_key(tokens))  # (batch, heads, J or K, d)
        return (query @ key.mT / math.sqrt(query.shape[-1])).softmax(dim=-1)

    def _split(self, values: Tensor) -> Tensor:
        """Split the width among heads: (batch, K, width) -> (batch, heads, K, d), with heads * d = width."""
        return values.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    # What comes in.

    def _check_state(self, state: Tensor, name: str = "state") -> None:
        check_features(name, state, self.state_dim, self.to_token.weight.dtype)


def q_value_scale(q_values: Tensor) -> Tensor:
    r"""Return the standard deviation of Q-values over the actions of a state, pooled over states.

    .. math:: s = \sqrt{\frac{1}{B C} \sum_{b,a} (Q_{ba} - \bar Q_b)^2}

    A state's mean is taken out first: softmax does not see it, and states differ in it by far more than actions do when
    rewards add up over a session. Where no action differs from another there is no scale, and 1 is returned.

    Parameters
    ----------
    q_values : Tensor, (batch, n_actions)

    Returns
    -------
    Tensor, ()
        In the unit of the reward; more than 0, detached.
    """
    _check_q_values("q_values", q_values)
    q_values, limits = q_values.detach(), torch.finfo(q_values.dtype)
    # A power of 2 near the largest is taken out first, which rounds nothing: no square is then too large or too small.
    unit = q_values.abs().amax().clamp(limits.tiny, limits.max / 2).log2().floor().exp2()
    q_values = q_values / unit
    spread = (q_values - q_values.mean(dim=1, keepdim=True)).square().mean().sqrt()
    rounding = 10 * limits.eps * q_values.abs().amax()
    return torch.where(spread > rounding, spread * unit, torch.ones_like(spread))


def distillation_loss(
    student_q_values: Tensor,
    teacher_q_values: Tensor,
    temperature: float | Tensor = 1.0,
    scale: float | Tensor | None = None,
) -> Tensor:
    r"""Measure how far a student's softened policy is from its teacher's.

    .. math:: L = T^2 \, \frac1B \sum_b \mathrm{KL}\!\left(\mathrm{softmax}\frac{Q^{teacher}_b}{s T} \,\Big\|\,
                  \mathrm{softmax}\frac{Q^{student}_b}{s T}\right)

    Summed over actions, the mean over the batch. The gradient of the divergence falls as :math:`1/T^2`, so that the
    factor keeps it of one size (Hinton et al. 2015, section 2); as T grows, L becomes half the mean square, over states
    and actions, of the difference in Q/s, each with its state's mean taken out. As T goes to 0 only the teacher's
    best action counts (Rusu et al. 2016, section 3). Q-values are no logits, and have the reward's unit: s takes it
    out. It is the same for both, so that a student with its teacher's Q-values has no loss.

    Parameters
    ----------
    student_q_values : Tensor, (batch, n_actions)
    teacher_q_values : Tensor, (batch, n_actions)
        No gradient goes there.
    temperature : float or scalar Tensor
        T, more than 0.
    scale : float or scalar Tensor, optional
        s, more than 0: `q_value_scale` of the teacher's values on this batch if not given. Taken once on many states
        and handed in, it does not change from batch to batch.

    Returns
    -------
    Tensor, ()
    """
    _check_q_values("student_q_values", student_q_values)
    check_values("teacher_q_values", teacher_q_values, tuple(student_q_values.shape))
    check_positive("temperature", temperature)
    teacher = teacher_q_values.detach().to(student_q_values.dtype)
    if scale is None:
        scale = q_value_scale(teacher)
    check_positive("scale", scale)
    loss = softened_divergence(teacher / scale, student_q_values / scale, temperature)
    values = {"student_q_values": student_q_values, "teacher_q_values": teacher_q_values}
    check_answer(loss, small=("temperature", "scale"), **values, temperature=temperature, scale=scale)
    return loss


def softened_divergence(expected: Tensor, found: Tensor, temperature: float | Tensor) -> Tensor:
    """T² times the mean divergence of ``found`` from ``expected``, both logits (batch, n), softened by T."""
    expected = (expected / temperature).log_softmax(dim=-1)  # (batch, n)
    found = (found / temperature).log_softmax(dim=-1)
    # Written out: `F.kl_div` has no rule for vmap, and would go through the models one by one.
    divergence = (expected.exp() * (expected - found)).sum(dim=-1)  # (batch,)
    return 1.0 * temperature * temperature * divergence.mean()  # as floats: integers know no bound, tensors do


def double_q_target(
    rewards: Tensor,
    next_q_online: Tensor,
    next_q_target: Tensor,
    terminated: Tensor,
    discount: float | Tensor,
) -> Tensor:
    r"""Return what the Q-value of an action taken should be: one network chooses the next action, another rates it.

    .. math:: y = r + \gamma \, (1 - \text{terminated}) \, Q^{target}(s', \arg\max_a Q^{online}(s', a))

    Only an end of the session itself (``terminated``) ends the sum. A session that was cut at a time limit would have
    gone on: its target takes in the value of s', which must be the state in which it was cut, not the one after a
    reset.

    Parameters
    ----------
    rewards : Tensor, (batch,)
    next_q_online, next_q_target : Tensor, (batch, n_actions)
        Both networks' answers to the next states. The same twice is plain Q-learning, whose maximum over noisy values
        is too high on average.
    terminated : Tensor, (batch,), bool, or 0 and 1
    discount : float or scalar Tensor
        :math:`\gamma`, in [0, 1].

    Returns
    -------
    Tensor, (batch,)
        Detached.

    References
    ----------
    van Hasselt et al. (2016), equation 4 with the target network in its second role (section "Double DQN").
    """
    _check_q_values("next_q_online", next_q_online)
    check_values("next_q_target", next_q_target, tuple(next_q_online.shape))
    rows = (len(next_q_online),)
    check_values("rewards", rewards, rows)
    check_values("terminated", terminated, rows, binary=True)
    check_number("discount", discount, 0.0, 1.0)
    best = next_q_online.argmax(dim=-1, keepdim=True)  # (batch, 1)
    value = next_q_target.gather(-1, best).squeeze(-1)  # (batch,)
    value = value.masked_fill(terminated.bool(), 0.0)
    target = (rewards.to(value.dtype) + discount * value).detach()
    check_answer(target, rewards=rewards, next_q_online=next_q_online, next_q_target=next_q_target)
    return target


def td_errors(q_values: Tensor, actions: Tensor, targets: Tensor) -> Tensor:
    """Return the target minus the Q-value of the action taken, (batch,): what `q_loss` is made of.

    Parameters
    ----------
    q_values : Tensor, (batch, n_actions)
    actions : Tensor, (batch,), integers
    targets : Tensor, (batch,)
        No gradient goes there.

    Returns
    -------
    Tensor, (batch,)
    """
    _check_q_values("q_values", q_values)
    rows, n_actions = q_values.shape
    check_labels("actions", actions, rows, n_actions)
    check_values("targets", targets, (rows,))
    taken = q_values.gather(-1, actions.long().unsqueeze(-1)).squeeze(-1)  # (batch,)
    errors = targets.detach().to(taken.dtype) - taken
    check_answer(errors, q_values=q_values, targets=targets)
    return errors


def q_loss(q_values: Tensor, actions: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""Return the Huber loss of the TD errors, the mean over the batch.

    .. math:: L = \frac1B \sum_b w_b \, \begin{cases} \delta_b^2 / 2 & |\delta_b| \le 1 \\
                  |\delta_b| - 1/2 & \text{else} \end{cases}

    Its gradient is the TD error clipped to [-1, 1], in the unit of the reward (Mnih et al. 2015, methods).

    Parameters
    ----------
    q_values, actions, targets
        As in `td_errors`.
    weights : Tensor, (batch,), optional
        At least 0; 1 if not given. They are not normalised here.

    Returns
    -------
    Tensor, ()
    """
    errors = td_errors(q_values, actions, targets)
    if weights is not None:
        check_values("weights", weights, (len(q_values),))
        if _values_are_at_hand(weights) and float(weights.min()) < 0:
            raise ValueError(f"weights: got {weights.min():g}, expected at least 0")
    losses = F.huber_loss(errors, torch.zeros_like(errors), reduction="none")  # (batch,)
    loss = losses.mean() if weights is None else (weights.detach().to(losses.dtype) * losses).mean()
    check_answer(loss, q_values=q_values, targets=targets, **({} if weights is None else {"weights": weights}))
    return loss


def epsilon_greedy(q_values: Tensor, epsilon: float | Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Choose the best action, or with probability epsilon one drawn uniformly among all, the best one too.

    Parameters
    ----------
    q_values : Tensor, (..., n_actions)
        Of any number of leading dimensions: of models, say, and of sessions.
    epsilon : float or scalar Tensor
        In [0, 1].
    generator : torch.Generator, optional
        Torch's own if not given. Its device may be another than that of the Q-values.

    Returns
    -------
    Tensor, (...,), int64
    """
    if not isinstance(q_values, Tensor) or not q_values.ndim or 0 in q_values.shape or not q_values.is_floating_point():
        raise ValueError(f"q_values: got {_kind(q_values)}, expected a float tensor (..., n_actions), no 0")
    check_dense("q_values", q_values)
    check_finite("q_values", q_values)
    check_number("epsilon", epsilon, 0.0, 1.0)
    check_generator(generator)
    *shape, n_actions = q_values.shape
    where = q_values.device if generator is None else generator.device
    chance = torch.rand(shape, generator=generator, device=where).to(q_values.device)  # (...,)
    drawn = torch.randint(n_actions, shape, generator=generator, device=where).to(q_values.device)
    return torch.where(chance < epsilon, drawn, q_values.argmax(dim=-1))


def _check_arguments(state_dim, action_dims, shared_dims, task_dims, num_heads, attention) -> None:
    check_count("state_dim", state_dim)
    check_counts_by_name("action_dims", action_dims)
    check_widths("shared_dims", shared_dims)
    check_widths("task_dims", task_dims, empty=True)
    check_count("num_heads", num_heads)
    if shared_dims[-1] % num_heads:
        raise ValueError(
            f"shared_dims: got a last width of {shared_dims[-1]}, expected one that num_heads={num_heads} divides"
        )
    check_choice("attention", attention, (False, True))


def _check_q_values(name: str, value: Tensor) -> None:
    """Refuse anything but finite floats of shape (batch, n_actions), both at least 1."""
    if not isinstance(value, Tensor) or value.ndim != 2 or 0 in value.shape or not value.is_floating_point():
        raise ValueError(f"{name}: got {_kind(value)}, expected a float tensor (batch, n_actions), no 0")
    check_dense(name, value)
    check_finite(name, value)


def _kind(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
