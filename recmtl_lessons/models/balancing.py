r"""Balancing tasks: by how much each task moves what all of them share.

Every method here comes down to one number per task, its weight :math:`c_i` in the update :math:`\sum_i c_i g_i` of the
shared parameters, where :math:`g_i` is the gradient of task i's loss :math:`L_i`. Some read the weights off the losses;
the others need only the gradients' products :math:`G_{ij} = g_i \cdot g_j`, the Gram matrix, since each of their
directions lies in the span of the gradients. `scale_gradient` then lets the heads learn with weight 1.

Sources: Kendall, Gal and Cipolla, "Multi-task learning using uncertainty to weigh losses", CVPR 2018; Chen,
Badrinarayanan, Lee and Rabinovich, "GradNorm", ICML 2018; Liu, Johns and Davison, "End-to-end multi-task learning with
attention", CVPR 2019, for the dynamic weight average; Yu et al., "Gradient surgery for multi-task learning", NeurIPS
2020; Sener and Koltun, "Multi-task learning as multi-objective optimization", NeurIPS 2018; Liu, Liu, Jin, Stone and
Liu, "Conflict-averse gradient descent", NeurIPS 2021; Senushkin et al., "Independent component alignment for
multi-task learning", CVPR 2023; Quinton and Rey, "Jacobian descent for multi-objective optimization", 2024; Ma et al.,
"Entire space multi-task model", SIGIR 2018.

Departures: the quadratic programs are solved exactly, by going through all sets of tasks whose weights are not zero,
instead of by an iteration that stops; GradNorm's weights are a softmax, so that none turns negative.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recmtl_lessons.models._actor_critic import check_generator
from recmtl_lessons.models._checks import (
    check_answer,
    check_choice,
    check_count,
    check_dense,
    check_features,
    check_finite,
    check_names,
    check_number,
    check_positive,
    check_values,
    check_widths,
    listed,
)
from recmtl_lessons.models._layers import relu_layers
from recmtl_lessons.models._names import NamedParts
from recmtl_lessons.models.domain_adversarial import TASK_TYPES

SCHEDULES = ("in turn", "random", "proportional", "lagging", "one after another", "annealed")
_MOST_TASKS = 10  # whose sets are gone through: 1,023


class SharedBottomNetwork(NamedParts):
    """Layers that all tasks share, and a linear head for each task.

    A `state_dict` holds the names of the tasks and is loaded by them.

    Parameters
    ----------
    feature_dim : int
        Width of the input.
    tasks : mapping {name: "classification" or "regression"}
        Each has one output: a logit, or a value.
    hidden_dims : sequence of int
        Widths of the shared layers, each with a ReLU.
    linear : bool
        Whether the shared layers do without ReLUs: then the last width is the rank of what the tasks can share.
    """

    _parts = ("heads.",)

    def __init__(
        self,
        feature_dim: int,
        tasks: Mapping[str, str],
        hidden_dims: Sequence[int] = (32,),
        linear: bool = False,
    ):
        check_count("feature_dim", feature_dim)
        check_widths("hidden_dims", hidden_dims)
        check_choice("linear", linear, (True, False))
        _check_types("tasks", tasks)
        super().__init__()
        self.feature_dim = feature_dim
        self.tasks = tuple(tasks)
        self.task_types = dict(tasks)
        layers = relu_layers(feature_dim, hidden_dims)
        self.shared = nn.Sequential(*(layer for layer in layers if isinstance(layer, nn.Linear))) if linear else layers
        self.heads = nn.ModuleList(nn.Linear(hidden_dims[-1], 1) for _ in tasks)

    def forward(self, x: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Answer all tasks.

        Parameters
        ----------
        x : Tensor, (batch, feature_dim)
        weights : Tensor, (tasks,), optional
            By how much each task's loss moves the shared layers; the answers and the heads' gradients are the same
            whatever they are. Ones if not given.

        Returns
        -------
        dict {task: Tensor (batch,)}
            Logits of a classification, values of a regression.
        """
        check_features("x", x, self.feature_dim, self.heads[0].weight.dtype)
        z = self.shared(x)  # (batch, hidden)
        if weights is None:
            own = [z] * len(self.tasks)
        else:
            check_values("weights", weights, (len(self.tasks),))
            own = [_scaled(z, weight) for weight in weights]
        answers = [head(part).squeeze(1) for head, part in zip(self.heads, own, strict=True)]
        for answer in answers:
            check_answer(answer, self, x=x, **({} if weights is None else {"weights": weights}))
        return dict(zip(self.tasks, answers, strict=True))


def scale_gradient(x: Tensor, weight: Tensor | float) -> Tensor:
    """Return ``x`` as it is, with a gradient that is ``weight`` times what comes from behind.

    Where a task's loss reaches the shared layers through this alone, the task counts with this weight there, and with
    weight 1 in its own head.
    """
    _check_numbers("x", x)
    check_number("weight", weight)
    scaled = _scaled(x, weight)
    check_answer(scaled, x=x, weight=weight)
    return scaled


def _scaled(x: Tensor, weight: Tensor | float) -> Tensor:
    return x.detach() + weight * (x - x.detach())


# Weights from the losses.


def task_losses(answers: Mapping[str, Tensor], labels: Mapping[str, Tensor], types: Mapping[str, str]) -> Tensor:
    """Return the loss of each task, (tasks,): binary cross-entropy of logits, or the mean squared error.

    Parameters
    ----------
    answers, labels : mapping {task: Tensor (batch,)}
        The labels may hold more than the tasks.
    types : mapping {task: "classification" or "regression"}
        Says which tasks there are, in this order.
    """
    _check_types("types", types)
    for name, value in (("answers", answers), ("labels", labels)):
        lacking = [task for task in types if not isinstance(value, Mapping) or task not in value]
        if lacking:
            raise ValueError(f"{name}: got none for {lacking[0]!r}, expected a tensor (batch,) for each task")
    for task, kind in types.items():
        _check_numbers(f"answers[{task!r}]", answers[task])
        rows = (max(1, len(answers[task])) if answers[task].ndim else 1,)
        check_values(f"answers[{task!r}]", answers[task], rows)
        check_values(f"labels[{task!r}]", labels[task], rows, kind == "classification")
    losses = []
    for task, kind in types.items():
        loss = F.binary_cross_entropy_with_logits if kind == "classification" else F.mse_loss
        losses.append(loss(answers[task], labels[task].to(answers[task].dtype)))
        check_answer(losses[-1], answers=answers[task], labels=labels[task])
    return torch.stack(losses)


class UncertaintyWeights(nn.Module):
    r"""Weights that are learned with the network, one log-variance :math:`s_i = \log \sigma_i^2` per task.

    .. math:: \sum_{\text{regressions}} \tfrac12 e^{-s_i} L_i + \tfrac12 s_i
              + \sum_{\text{classifications}} e^{-s_i} L_i + \tfrac12 s_i

    (Kendall et al. 2018, eq. 10). It sums. Where the :math:`s_i` have settled each loss counts :math:`1 / (2 L_i)`, as
    in half the sum of the logarithms. The total may be negative. The log-variances have to be given to an optimizer.

    Parameters
    ----------
    types : sequence of {"classification", "regression"}
        One a task.
    start : float
        The log-variances at the start.
    size : tuple of int
        Of a stack: one set of log-variances for each of these.
    """

    def __init__(self, types: Sequence[str], start: float = 0.0, size: tuple[int, ...] = ()):
        types = listed("types", types)
        for kind in types or [None]:
            check_choice("types", kind, TASK_TYPES)
        check_number("start", start, -50.0, 50.0)
        super().__init__()
        halves = [0.5 if kind == "regression" else 1.0 for kind in types]
        self.register_buffer("factors", torch.tensor(halves), persistent=False)
        self.log_variances = nn.Parameter(torch.full((*_checked_size(size), len(types)), float(start)))

    def forward(self, losses: Tensor) -> Tensor:
        """Return the total to minimise: (..., tasks) -> (...)."""
        check_values("losses", losses, tuple(self.log_variances.shape))
        s = self.log_variances
        total = (self.factors * (-s).exp() * losses + s / 2).sum(-1)
        check_answer(total, self, losses=losses)
        return total

    @property
    def weights(self) -> Tensor:
        """What each loss is multiplied by now, (..., tasks)."""
        return (self.factors * (-self.log_variances).exp()).detach()


class GradNorm(nn.Module):
    r"""Weights that bring the gradients' norms together, the slower a task learns the larger its own.

    With weights :math:`w`, norms :math:`n_i = \|g_i\|` and :math:`r_i` the ratio :math:`L_i / L_i(0)` over its mean,

    .. math:: \sum_i | w_i n_i - \operatorname{mean}_j (w_j n_j) \, r_i^\alpha |

    is minimised over the weights, with what comes after the minus held (Chen et al. 2018, algorithm 1). The weights sum
    to the number of tasks; here they are a softmax of ``scores``, so that none becomes negative. The scores have to be
    given to an optimizer of their own.

    Parameters
    ----------
    n_tasks : int
    alpha : float
        How strongly a task that lags is pulled, at least 0.
    size : tuple of int
        Of a stack: one set of scores for each of these.
    """

    def __init__(self, n_tasks: int, alpha: float = 1.5, size: tuple[int, ...] = ()):
        check_count("n_tasks", n_tasks)
        check_number("alpha", alpha, 0.0, 100.0)
        super().__init__()
        self.alpha = float(alpha)
        self.scores = nn.Parameter(torch.zeros(*_checked_size(size), n_tasks))

    def forward(self, norms: Tensor, losses: Tensor, first_losses: Tensor) -> Tensor:
        """Return the loss of the weights, (..., tasks) -> (...), from the gradients' norms with weight 1."""
        for name, value in (("norms", norms), ("losses", losses), ("first_losses", first_losses)):
            check_values(name, value, tuple(self.scores.shape))
        _check_positive_all("first_losses", first_losses)
        ratios = losses / first_losses
        ratios = ratios / ratios.mean(-1, keepdim=True).clamp(min=1e-12)
        own = self._weights() * norms
        wanted = own.mean(-1, keepdim=True) * ratios.clamp(min=0) ** self.alpha
        loss = (own - wanted.detach()).abs().sum(-1)
        check_answer(loss, self, ("first_losses",), norms=norms, losses=losses, first_losses=first_losses)
        return loss

    @property
    def weights(self) -> Tensor:
        """What each loss is multiplied by now, (..., tasks): they sum to the number of tasks."""
        return self._weights().detach()

    def _weights(self) -> Tensor:
        return self.scores.softmax(-1) * self.scores.shape[-1]


def scale_free(losses: Tensor) -> Tensor:
    r"""Weights :math:`1 / L_i` of the sum of logarithms, :math:`\sum_i \log L_i`: (..., tasks) -> (..., tasks).

    They sum the tasks. A loss that is multiplied by ten counts as much as before.
    """
    _check_tasks("losses", losses)
    _check_positive_all("losses", losses)
    weights = (1 / losses).detach()
    check_answer(weights, small=("losses",), losses=losses)
    return weights


class DynamicWeightAverage:
    r"""Weights from how much each loss fell lately.

    .. math:: w_i = T \, \operatorname{softmax}_i (r_i / \tau), \qquad r_i = L_i(t - 1) / L_i(t - 2)

    (Liu et al. 2019, eq. 7), for T tasks; they sum to T. A loss is compared with itself alone: its scale is not seen.

    Parameters
    ----------
    temperature : float
        The larger, the more alike the weights.
    """

    def __init__(self, temperature: float = 2.0):
        check_positive("temperature", temperature)
        self.temperature = float(temperature)
        self._before: Tensor | None = None

    def update(self, losses: Tensor) -> Tensor:
        """Take the mean losses of one more period, (..., tasks); return the weights of the next, ones at first."""
        _check_tasks("losses", losses)
        _check_positive_all("losses", losses)
        if self._before is not None and self._before.shape != losses.shape:
            raise ValueError(f"losses: got {tuple(losses.shape)}, expected {tuple(self._before.shape)} as before")
        weights = torch.ones_like(losses)
        if self._before is not None:
            weights = (losses / self._before / self.temperature).softmax(-1) * losses.shape[-1]
        check_answer(weights, losses=losses)
        self._before = losses.detach()
        return weights.detach()


# Weights from the gradients' products.


def gram_matrix(gradients: Sequence[Mapping[str, Tensor]], dims: int = 0) -> Tensor:
    """Products of the tasks' gradients, (..., tasks, tasks).

    Parameters
    ----------
    gradients : sequence of mapping {parameter: Tensor}
        One a task, each with the same parameters: those that all tasks share.
    dims : int
        How many leading dimensions of the gradients are those of a stack.
    """
    check_count("dims", dims, 0, 8)
    flat = []
    for task, own in enumerate(listed("gradients", gradients)):
        if not isinstance(own, Mapping) or not own or not all(isinstance(g, Tensor) for g in own.values()):
            raise ValueError(f"gradients[{task}]: got {type(own).__name__}, expected {{parameter: tensor}}")
        if task and {n: g.shape for n, g in own.items()} != {n: g.shape for n, g in gradients[0].items()}:
            raise ValueError(f"gradients[{task}]: got other parameters or shapes than the first task's")
        for name, gradient in own.items():
            _check_numbers(f"gradients[{task}][{name!r}]", gradient)
            stack = next(iter(own.values())).shape[:dims]
            if gradient.ndim < dims or gradient.shape[:dims] != stack:
                raise ValueError(
                    f"gradients[{task}][{name!r}]: got shape {tuple(gradient.shape)}, expected {dims} dimensions of a "
                    f"stack, as the task's first gradient has them"
                )
        flat.append(
            torch.cat(
                [
                    gradient.flatten(dims) if gradient.ndim > dims else gradient.unsqueeze(-1)
                    for gradient in own.values()
                ],
                dim=-1,
            )
        )
    if not flat:
        raise ValueError("gradients: got none, expected one a task")
    stacked = torch.stack(flat, dim=-2)  # (..., tasks, parameters)
    products = stacked @ stacked.mT
    check_answer(products, gradients=stacked)
    return products


def pcgrad(gram: Tensor, orders: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
    r"""Weights of the projection of conflicting gradients.

    Each :math:`g_i` loses, task after task in random order, its part along every :math:`g_j` that it conflicts with:
    :math:`g_i \leftarrow g_i - \frac{g_i \cdot g_j}{\|g_j\|^2} g_j` where :math:`g_i \cdot g_j < 0`, with
    :math:`g_j` as it was at first (Yu et al. 2020, algorithm 1). It sums what is left.

    Parameters
    ----------
    gram : Tensor, (..., tasks, tasks)
    orders : Tensor, (..., tasks, tasks), int64, optional
        For each task the order in which it meets the tasks; itself is left out. Drawn if not given.
    generator : torch.Generator, optional
        What they are drawn from; torch's own unless given.

    Returns
    -------
    Tensor, (..., tasks)
    """
    G = _checked_gram(gram)
    n = G.shape[-1]
    if generator is not None:
        check_generator(generator)
    if orders is None:
        drawn = torch.rand(G.shape, generator=generator, device=generator.device if generator else None)
        orders = drawn.argsort(-1).to(G.device)
    elif not isinstance(orders, Tensor) or orders.dtype != torch.int64 or orders.shape != G.shape:
        raise ValueError(f"orders: got {_came(orders)}, expected int64 of shape {tuple(G.shape)}")
    elif not torch.equal(orders.sort(-1).values, torch.arange(n, device=orders.device).expand_as(orders)):
        raise ValueError("orders: got rows that are no order of the tasks, expected each task once")
    own = torch.eye(n, dtype=G.dtype, device=G.device).expand_as(G).clone()  # row i: what is left of task i
    squares = G.diagonal(dim1=-2, dim2=-1)  # (..., tasks)
    for place in range(n):
        other = orders[..., place]  # (..., tasks): whom each task meets
        columns = torch.take_along_dim(G, other.unsqueeze(-2), dim=-1)  # (..., tasks, tasks): g_k . g_other(i)
        product = (own * columns.mT).sum(-1)  # (..., tasks)
        square = torch.take_along_dim(squares, other, dim=-1)
        conflict = (product < 0) & (square > 0) & (other != torch.arange(n, device=G.device))
        share = torch.where(conflict, product / square.clamp(min=torch.finfo(G.dtype).tiny), 0.0)
        own = own - share.unsqueeze(-1) * F.one_hot(other, n)
    return own.sum(-2).to(gram.dtype)


def mgda(gram: Tensor, unit: bool = False) -> Tensor:
    r"""Weights of the shortest vector in the convex hull of the gradients (Sener and Koltun 2018, eq. 3).

    They are at least 0 and sum to 1, an average. A small gradient draws the weight to itself; ``unit`` takes gradients
    of length 1 first, whose weights in the hull sum to 1, and returns those of the gradients as they are.

    Parameters
    ----------
    gram : Tensor, (..., tasks, tasks)
    unit : bool

    Returns
    -------
    Tensor, (..., tasks)
    """
    G = _checked_gram(gram, _MOST_TASKS)
    check_choice("unit", unit, (True, False))
    lengths = G.diagonal(dim1=-2, dim2=-1).sqrt()
    lengths = torch.where(unit & (lengths > 0), lengths, torch.ones_like(lengths))
    G = _of_moderate_size(G / lengths.unsqueeze(-1) / lengths.unsqueeze(-2))
    candidates, _ = _on_sets(G, torch.zeros_like(G[..., 0]))
    return (_best(candidates, _squares(candidates, G)) / lengths).to(gram.dtype)


def cagrad(gram: Tensor, c: float = 0.5) -> Tensor:
    r"""Weights of the direction that lets the worst task gain most, near the mean gradient :math:`g_0`.

    .. math:: \max_d \min_i g_i \cdot d \quad \text{with} \quad \|d - g_0\| \le c \, \|g_0\|

    (Liu et al. 2021, eq. 2, without the rescaling of their code), whose solution is
    :math:`d = g_0 + c \|g_0\| \, g_w / \|g_w\|` with the w of the simplex that minimises
    :math:`g_w \cdot g_0 + c \|g_0\| \|g_w\|`. Where that g_w is zero, d is :math:`g_0` projected to where no
    task loses. It averages: with c = 0 each of T tasks has the weight 1 / T.

    Parameters
    ----------
    gram : Tensor, (..., tasks, tasks)
    c : float
        How far from the mean gradient it may go, at least 0; below 1 it ends at a minimum of the mean loss.

    Returns
    -------
    Tensor, (..., tasks)
    """
    G = _checked_gram(gram, _MOST_TASKS)
    check_number("c", c, 0.0, 100.0)
    G = _of_moderate_size(G)
    mean = G.mean(-1)  # (..., tasks): g_i . g_0
    radius = c * mean.mean(-1).clamp(min=0).sqrt().unsqueeze(-1)  # (..., 1)
    # On a set of tasks the minimum is first + t second, and the two are orthogonal in the gradients' products.
    first, second = _on_sets(G, mean)  # (..., sets, tasks)
    t = (_squares(first, G).clamp(min=0) / (radius**2 - _squares(second, G))).sqrt()  # no number: no minimum there
    candidates = torch.cat([first, first + t.unsqueeze(-1) * second], dim=-2)
    lengths = _squares(candidates, G).clamp(min=0).sqrt()
    best = _best(candidates, (candidates * mean.unsqueeze(-2)).sum(-1) + radius * lengths)
    square, rounding = (_squares(best.unsqueeze(-2), table) for table in (G, G.abs()))  # (..., 1) each
    vanishes = square <= rounding * 8 * G.shape[-1] * torch.finfo(gram.dtype).eps
    moved = 1 / G.shape[-1] + radius / square.masked_fill(vanishes, 1.0).sqrt() * best
    stands = vanishes & (radius > 0)
    if stands.any():  # g_w has no direction, and the worst task can gain nothing: it is enough that none loses
        start = torch.full_like(G[..., :1, :], 1 / G.shape[-1])
        moved = torch.where(stands, _where_no_task_loses(start, G).squeeze(-2), moved)
    return moved.to(gram.dtype)


def upgrad(gram: Tensor) -> Tensor:
    r"""Weights of the mean of the gradients, each first projected to where no task loses.

    The projection of :math:`g_i` is the nearest d with :math:`g_j \cdot d \ge 0` for all j (Quinton and Rey 2024,
    section 3). It averages. For two tasks it is half of `pcgrad`.

    Parameters
    ----------
    gram : Tensor, (..., tasks, tasks)

    Returns
    -------
    Tensor, (..., tasks)
    """
    G = _of_moderate_size(_checked_gram(gram, _MOST_TASKS))
    return _where_no_task_loses(torch.eye(G.shape[-1]).to(G), G).mean(-2).to(gram.dtype)


def aligned_mtl(gram: Tensor) -> Tensor:
    r"""Weights of the mean of gradients whose principal directions were brought to one length, that of the shortest.

    With :math:`G = V \Lambda V^\top` the weights are :math:`\sqrt{\lambda_{\min}} \, V \Lambda^{-1/2} V^\top` times
    the vector of 1 / T, over the eigenvalues that are not zero (Senushkin et al. 2023, algorithm 1). It averages.

    Parameters
    ----------
    gram : Tensor, (..., tasks, tasks)

    Returns
    -------
    Tensor, (..., tasks)
    """
    G = _checked_gram(gram)
    values, vectors = torch.linalg.eigh(G)  # ascending
    n, lengths = G.shape[-1], G.diagonal(dim1=-2, dim2=-1).sqrt()
    # What rounding alone may leave of a zero: in the eigenvalues, and in the products that the gradients' dtype holds.
    in_products = torch.finfo(gram.dtype).eps * 4 * (vectors.abs() * lengths.unsqueeze(-1)).sum(-2) ** 2
    counts = values > n * torch.maximum(values[..., -1:] * torch.finfo(G.dtype).eps, in_products)
    smallest = values.masked_fill(~counts, torch.inf).amin(-1, keepdim=True)
    scales = torch.where(counts, (smallest / values.clamp(min=torch.finfo(G.dtype).tiny)).sqrt(), 0.0)
    return ((vectors * scales.unsqueeze(-2)) @ vectors.mT).mean(-1).to(gram.dtype)


def _where_no_task_loses(start: Tensor, G: Tensor) -> Tensor:
    """Weights of the nearest vectors that no gradient points against: (vectors, T) or (..., vectors, T) -> the latter.

    What is added to each are multiples of at least 0, of the gradients of a set; of those the shortest sum is it.
    """
    sets = _sets(G)  # (sets, T)
    both = sets.unsqueeze(-1) * sets.unsqueeze(-2)
    inner = both * G.unsqueeze(-3) + torch.diag_embed(1 - sets)  # (..., sets, T, T)
    products = (G @ start.mT).unsqueeze(-3)  # (..., 1, T, vectors)
    added = torch.linalg.solve_ex(inner, -sets.unsqueeze(-1) * products).result.mT  # (..., sets, vectors, T)
    added = torch.cat([torch.zeros_like(added[..., :1, :, :]), added], dim=-3).transpose(-3, -2)
    projected = added + start.unsqueeze(-2)  # (..., vectors, sets, T)
    fits = (added > -1e-12).all(-1)
    values = _squares(projected, G.unsqueeze(-3)).masked_fill(~fits, torch.inf)
    return _best(projected, values)


def _sets(G: Tensor) -> Tensor:
    """Return all sets of tasks that are not empty, as rows of zeros and ones: (2^T - 1, T)."""
    n = G.shape[-1]
    numbers = torch.arange(1, 2**n, device=G.device)
    return (numbers.unsqueeze(-1) >> torch.arange(n, device=G.device) & 1).to(G.dtype)


def _on_sets(G: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each set of tasks what solves two linear systems: (..., sets, tasks) each.

    The first are the weights that sum to 1 and make the vector shortest; the second, which sum to 0, are where ``pull``
    moves them: G w + pull is the same for all tasks of the set.
    """
    n, sets = G.shape[-1], _sets(G)
    both = sets.unsqueeze(-1) * sets.unsqueeze(-2)
    system = G.new_zeros(*G.shape[:-2], len(sets), n + 1, n + 1)
    system[..., :n, :n] = both * G.unsqueeze(-3) + torch.diag_embed(1 - sets)
    system[..., :n, n] = system[..., n, :n] = sets
    right = torch.zeros_like(system[..., :2])
    right[..., n, 0] = 1
    right[..., :n, 1] = -sets * pull.unsqueeze(-2)
    first, second = torch.linalg.solve_ex(system, right).result[..., :n, :].unbind(-1)
    return first, second


def _squares(weights: Tensor, G: Tensor) -> Tensor:
    """Squared lengths of weighted sums of the gradients: (..., sets, tasks), (..., tasks, tasks) -> (..., sets)."""
    return ((weights @ G) * weights).sum(-1)


def _best(candidates: Tensor, values: Tensor) -> Tensor:
    """Return the candidate with the least value among those without a negative weight: (..., sets, T) -> (..., T)."""
    fits = (candidates > -1e-12).all(-1) & torch.isfinite(candidates).all(-1)
    chosen = values.masked_fill(~fits, torch.inf).argmin(-1)
    return torch.take_along_dim(candidates, chosen[..., None, None], dim=-2).squeeze(-2).clamp(min=0)


def _of_moderate_size(G: Tensor) -> Tensor:
    """Return the products divided by the largest: weights do not change where all gradients are scaled alike."""
    largest = G.diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None]
    return G / torch.where(largest > 0, largest, 1.0)


# One task at a time.


class TaskSchedule:
    """Which task is trained at a step.

    "in turn": one after the other, again and again; "random": each as likely; "proportional": as likely as ``shares``
    say, for instance by the numbers of rows; "lagging": the task with the largest ``lag`` that is handed in, whatever
    it is measured by; "one after another": each for its part of the training, then never again; "annealed": as likely
    as ``shares`` say at first, and ``towards`` at the end, on a straight line between.

    Parameters
    ----------
    kind : str
    n_tasks : int
    shares, towards : sequence of float, (n_tasks,), optional
        At least 0, with a sum above 0; they are divided by it. All alike if not given.
    """

    def __init__(
        self,
        kind: str,
        n_tasks: int,
        shares: Sequence[float] | None = None,
        towards: Sequence[float] | None = None,
    ):
        check_choice("kind", kind, SCHEDULES)
        check_count("n_tasks", n_tasks)
        self.kind, self.n_tasks = kind, n_tasks
        self.shares = _checked_shares("shares", shares, n_tasks)
        self.towards = _checked_shares("towards", towards, n_tasks)

    def choose(
        self,
        step: int,
        steps: int,
        lag: Tensor | None = None,
        generator: torch.Generator | None = None,
        size: tuple[int, ...] = (),
    ) -> Tensor:
        """Choose the task of a step.

        Parameters
        ----------
        step, steps : int
            The step's number, from 0, and how many there are.
        lag : Tensor, (..., n_tasks), optional
            By how much each task lags; "lagging" needs it.
        generator : torch.Generator, optional
            What is drawn comes from it; from torch's own unless given.
        size : tuple of int
            How many choices, where no lag says so.

        Returns
        -------
        Tensor, size, int64
            Numbers of tasks.
        """
        check_count("steps", steps)
        check_count("step", step, 0, steps - 1)
        if generator is not None:
            check_generator(generator)
        size = _checked_size(size)
        if self.kind == "lagging":
            if lag is None:
                raise ValueError("lag: got None, expected how much each task lags, which this schedule goes by")
            _check_tasks("lag", lag, self.n_tasks)
            return lag.argmax(-1)
        if self.kind in ("in turn", "one after another"):
            number = step % self.n_tasks if self.kind == "in turn" else step * self.n_tasks // steps
            return torch.full(size, number)
        count = max(1, torch.Size(size).numel())
        drawn = torch.multinomial(self.probabilities(step, steps), count, replacement=True, generator=generator)
        return drawn.view(size)

    def probabilities(self, step: int, steps: int) -> Tensor:
        """How likely each task is at a step of the schedules that draw, (n_tasks,)."""
        check_count("steps", steps)
        check_count("step", step, 0, steps - 1)
        if self.kind == "random":
            return torch.full((self.n_tasks,), 1 / self.n_tasks)
        if self.kind not in ("proportional", "annealed"):
            raise ValueError(f"kind: got {self.kind!r}, expected one that draws: random, proportional or annealed")
        share = step / (steps - 1) if self.kind == "annealed" and steps > 1 else 0.0
        return (1 - share) * self.shares + share * self.towards


# Conversions behind clicks.


def entire_space_loss(click_logits: Tensor, conversion_logits: Tensor, click: Tensor, conversion: Tensor) -> Tensor:
    r"""Return the losses of clicks, and of conversions that follow clicks, over all that was shown: (2,).

    .. math:: p(\text{click and conversion}) = \sigma(a) \, \sigma(b)

    for the logits a of a click and b of a conversion after one (Ma et al. 2018, eq. 3). What came after rows without a
    click is not asked about: b has no loss of its own.

    Parameters
    ----------
    click_logits, conversion_logits : Tensor, (batch,)
    click, conversion : Tensor, (batch,)
        0 or 1; a conversion without a click does not exist.
    """
    if not isinstance(click_logits, Tensor) or click_logits.ndim != 1 or not len(click_logits):
        raise ValueError(f"click_logits: got {_came(click_logits)}, expected (batch,) with at least one row")
    for name, value in (("click_logits", click_logits), ("conversion_logits", conversion_logits)):
        _check_numbers(name, value)
        check_values(name, value, click_logits.shape)
    for name, value in (("click", click), ("conversion", conversion)):
        check_values(name, value, click_logits.shape, binary=True)
    click, conversion = click.to(click_logits.dtype), conversion.to(click_logits.dtype)
    log_both = F.logsigmoid(click_logits) + F.logsigmoid(conversion_logits)
    # log(1 - pq) = log(1 - p + p(1 - q)), from logarithms that do not lose small numbers
    log_not = torch.logaddexp(
        F.logsigmoid(-click_logits), F.logsigmoid(click_logits) + F.logsigmoid(-conversion_logits)
    )
    both = -(conversion * log_both + (1 - conversion) * log_not).mean()
    losses = torch.stack([F.binary_cross_entropy_with_logits(click_logits, click), both])
    check_answer(losses, click_logits=click_logits, conversion_logits=conversion_logits)
    return losses


def _checked_gram(gram: Tensor, most: int = 1000) -> Tensor:
    """Refuse what is no table of products, and return it as float64."""
    expected = f"products of 1 to {most} gradients, (..., tasks, tasks)"
    if (
        not isinstance(gram, Tensor)
        or gram.ndim < 2
        or gram.shape[-1] != gram.shape[-2]
        or not gram.is_floating_point()
    ):
        raise ValueError(f"gram: got {_came(gram)}, expected {expected}")
    if not 1 <= gram.shape[-1] <= most:
        raise ValueError(f"gram: got {gram.shape[-1]} tasks, expected {expected}")
    _check_numbers("gram", gram)
    G = gram.detach().double()
    squares = G.diagonal(dim1=-2, dim2=-1)
    bound = (squares.unsqueeze(-1) * squares.unsqueeze(-2)).clamp(min=0).sqrt()
    slack = 1e-4 * squares.abs().amax(-1)[..., None, None]
    if bool((squares < 0).any()) or bool((G.abs() > bound + slack).any()) or bool(((G - G.mT).abs() > slack).any()):
        raise ValueError("gram: got a table that no gradients have, expected a symmetric one of products")
    return (G + G.mT) / 2


def _check_types(name: str, types: Mapping[str, str]) -> None:
    check_names(name, types, "{task: type}")
    for task, kind in types.items():
        check_choice(f"{name}[{task!r}]", kind, TASK_TYPES)


def _check_numbers(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError(f"{name}: got {_came(value)}, expected a float tensor")
    check_dense(name, value)
    check_finite(name, value)


def _check_tasks(name: str, value: Tensor, n_tasks: int | None = None) -> None:
    _check_numbers(name, value)
    if value.ndim < 1 or not value.shape[-1] or n_tasks not in (None, value.shape[-1]):
        raise ValueError(f"{name}: got shape {tuple(value.shape)}, expected (..., {n_tasks or 'tasks'})")


def _check_positive_all(name: str, value: Tensor) -> None:
    if bool((value <= 0).any()):
        raise ValueError(f"{name}: got {float(value.min()):g}, expected losses above 0")


def _checked_shares(name: str, shares: Sequence[float] | None, n_tasks: int) -> Tensor:
    if shares is None:
        return torch.full((n_tasks,), 1 / n_tasks)
    values = listed(name, shares)
    for value in values:
        check_number(name, value, 0.0, 1e12)
    if len(values) != n_tasks or not sum(values) > 0:
        raise ValueError(f"{name}: got {values!r}, expected {n_tasks} numbers with a sum above 0")
    return torch.tensor(values, dtype=torch.float32) / sum(values)


def _checked_size(size: tuple[int, ...]) -> tuple[int, ...]:
    size = tuple(listed("size", size))
    for number in size:
        check_count("size", number)
    return size


def _came(value: object) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
