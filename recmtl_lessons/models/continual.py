r"""Continual learning: domains arrive one after another, and what was learned of the earlier ones is to stay.

Sources: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 114 (2017), for elastic
weight consolidation; Schwarz et al., "Progress & compress", ICML 2018, for its online form; Li and Hoiem, "Learning
without forgetting", ECCV 2016; Chaudhry, Ranzato, Rohrbach and Elhoseiny, "Efficient lifelong learning with A-GEM",
ICLR 2019; van de Ven, "On the computation of the Fisher information in continual learning", ICLR blogposts 2025, for
the ways in which the Fisher is computed in use.

Departures: the networks are recommenders that grow, a head for each task or a table of items for each domain. The
Fisher is a mean over rows, not a sum, so that a strength does not depend on how many rows there were.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from recmtl_lessons.models._actor_critic import check_generator
from recmtl_lessons.models._callables import takes
from recmtl_lessons.models._checks import (
    check_answer,
    check_choice,
    check_count,
    check_dense,
    check_features,
    check_finite,
    check_ids,
    check_labels,
    check_number,
    check_positive,
    check_values,
    check_widths,
)
from recmtl_lessons.models._layers import relu_layers
from recmtl_lessons.models._modes import Doer, evaluating
from recmtl_lessons.models._names import NamedParts
from recmtl_lessons.models.distilled_q import softened_divergence
from recmtl_lessons.models.domain_adversarial import TASK_TYPES

USERS = ("shared", "per_domain")
KINDS = ("exact", "sampled", "empirical", "batched")
_WITH_LABELS = ("empirical", "batched")
_ROWS_AT_ONCE = 128  # rows whose gradients are held side by side

Weights = Mapping[str, Tensor]


class ContinualRecommender(NamedParts):
    """An encoder on features that all tasks share, and a head for each task, added when the task arrives.

    To add a task changes no answer of the earlier ones. An optimizer made before does not know the new head: make a new
    one, or hand it the head's parameters. A `state_dict` holds the names of the tasks and is loaded by them.

    Parameters
    ----------
    feature_dim : int
        Width of the input.
    hidden_dims : sequence of int
        Widths of the encoder's layers.
    dropout_rate : float
        Share of the encoder's hidden units dropped in training, in [0, 1).
    """

    _parts = ("heads.",)

    def __init__(self, feature_dim: int, hidden_dims: Sequence[int] = (64, 32), dropout_rate: float = 0.0):
        check_count("feature_dim", feature_dim)
        check_widths("hidden_dims", hidden_dims)
        check_number("dropout_rate", dropout_rate, 0.0, 1.0, below=True)
        super().__init__()
        self.feature_dim = feature_dim
        self.tasks: tuple[str, ...] = ()
        self.task_configs: dict[str, dict] = {}
        self.encoder = relu_layers(feature_dim, hidden_dims, dropout_rate)
        self.heads = nn.ModuleList()
        self._width = hidden_dims[-1]

    def add_task(self, name: str, task_type: str = "classification", output_dim: int = 1) -> None:
        """Add a head for a task that has not been there before, drawn from torch's generator.

        Parameters
        ----------
        name : str
        task_type : {"classification", "regression"}
            A classification with ``output_dim`` 1 is binary: one logit.
        output_dim : int
        """
        _check_new_name(name, self.tasks)
        check_choice("task_type", task_type, TASK_TYPES)
        check_count("output_dim", output_dim)
        self.heads.append(nn.Linear(self._width, output_dim).to(self.encoder[0].weight))
        self.tasks = (*self.tasks, name)
        self.task_configs[name] = {"task_type": task_type, "output_dim": output_dim}

    def forward(self, x: Tensor, task_name: str) -> Tensor:
        """Answer one task: (batch, feature_dim) -> (batch, output_dim), logits of a classification or values."""
        check_choice("task_name", task_name, self.tasks or ("a task that was added",))
        check_features("x", x, self.feature_dim, self.encoder[0].weight.dtype)
        answers = self.heads[self.tasks.index(task_name)](self.encoder(x))  # (batch, output_dim)
        check_answer(answers, self, x=x)
        return answers

    @torch.no_grad()
    def predict(self, x: Tensor, task_name: str) -> Tensor:
        """Answer in the words of the task, without dropout and without gradients.

        Returns
        -------
        Tensor
            Probabilities of a classification, values of a regression: (batch,) if ``output_dim`` is 1, otherwise
            (batch, output_dim).
        """
        with evaluating(self):
            answers = self(x, task_name)
        if self.task_configs[task_name]["task_type"] == "classification":
            answers = answers.sigmoid() if answers.shape[1] == 1 else answers.softmax(dim=1)
        return answers.squeeze(1) if answers.shape[1] == 1 else answers


class ContinualFactorization(NamedParts):
    r"""Vectors of users and items, whose product is the logit of a click; a table of items for each domain.

    .. math:: s_d(u, i) = \langle p_u, q_{d,i} \rangle + b_{d,i}

    With ``users="per_domain"`` the user's vector is :math:`p_{d,u}`: each domain has a model of its own, nothing is
    forgotten and nothing is passed on. To add a domain changes no answer of the earlier ones; an optimizer made before
    does not know its tables. A `state_dict` holds the names of the domains and is loaded by them.

    Parameters
    ----------
    n_users : int
        Users are numbered alike in all domains.
    embedding_dim : int
        Width of the vectors.
    users : {"shared", "per_domain"}
        Whether a user has one vector for all domains, or one for each.
    """

    _named = "domains"
    _parts = ("items.", "item_biases.", "own_users.")

    def __init__(self, n_users: int, embedding_dim: int = 16, users: str = "shared"):
        check_count("n_users", n_users)
        check_count("embedding_dim", embedding_dim)
        check_choice("users", users, USERS)
        super().__init__()
        self.n_users, self.embedding_dim, self.users = n_users, embedding_dim, users
        self.domains: tuple[str, ...] = ()
        self.n_items: dict[str, int] = {}
        self.register_buffer("_like", torch.empty(0), persistent=False)  # of the dtype and on the device of all tables
        self.shared_users = self._table(n_users) if users == "shared" else None
        self.own_users, self.items = nn.ParameterList(), nn.ParameterList()
        self.item_biases = nn.ParameterList()

    def add_domain(self, name: str, n_items: int) -> None:
        """Add the tables of a domain that has not been there before, drawn from torch's generator."""
        _check_new_name(name, self.domains)
        check_count("n_items", n_items)
        if self.users == "per_domain":
            self.own_users.append(self._table(self.n_users))
        self.items.append(self._table(n_items))
        self.item_biases.append(nn.Parameter(self._like.new_zeros(n_items)))
        self.domains = (*self.domains, name)
        self.n_items[name] = n_items

    def forward(self, domain: str, user_ids: Tensor, item_ids: Tensor) -> Tensor:
        """Score pairs of a user and an item of one domain: ids (batch,) each -> logits (batch,)."""
        check_choice("domain", domain, self.domains or ("a domain that was added",))
        number = self.domains.index(domain)
        check_ids("user_ids", user_ids, self.n_users)
        check_ids("item_ids", item_ids, self.n_items[domain], len(user_ids))
        table = self.shared_users if self.users == "shared" else self.own_users[number]
        of_users = nn.functional.embedding(user_ids.long(), table)  # (batch, embedding_dim)
        of_items = nn.functional.embedding(item_ids.long(), self.items[number])  # (batch, embedding_dim)
        logits = (of_users * of_items).sum(1) + self.item_biases[number][item_ids.long()]  # (batch,)
        check_answer(logits, self)
        return logits

    def _table(self, rows: int) -> nn.Parameter:
        return nn.Parameter(0.1 * torch.randn(rows, self.embedding_dim).to(self._like))


# How much each weight matters.


def fisher_diagonal(
    model: nn.Module,
    answer: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    labels: Tensor | None = None,
    kind: str = "exact",
    task_type: str = "classification",
    batch_size: int = 32,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    r"""Return the diagonal of the Fisher information of a model's answers, one number a weight.

    .. math:: F_i = \frac1N \sum_n \mathbb{E}_{y \sim p_\theta(y \mid x_n)}
                    \left(\frac{\partial \log p_\theta(y \mid x_n)}{\partial \theta_i}\right)^2

    For a click with logit s that is the mean of :math:`p (1 - p) (\partial s / \partial \theta_i)^2`.

    Parameters
    ----------
    model : nn.Module
        Taken as it is, in its current mode; frozen weights are left out. May be one of a `Stack`, where all look alike
        and frozen ones come along.
    answer : callable (model, *inputs) -> Tensor, (rows, outputs) or (rows,)
        Logits of a classification, one if it is binary; values of a regression, whose noise has variance 1. It is asked
        about one row at a time, within `torch.vmap`.
    inputs : sequence of Tensor, (rows, ...) each
        What ``answer`` is asked.
    labels : Tensor, optional
        What really came, for the kinds "empirical" and "batched": (rows,) classes, or values as the answers.
    kind : {"exact", "sampled", "empirical", "batched"}
        "exact": the expectation over labels in full. "sampled": one label a row, drawn from the model. "empirical": the
        true labels, which is no Fisher: it goes to 0 as a model fits its rows. "batched": the square of the gradient
        of a *batch's* mean loss, a mistake that is common in public code: gradients of single rows cancel before they
        are squared.
    task_type : {"classification", "regression"}
    batch_size : int
        Rows of a batch of the kind "batched"; the last batch may be smaller.
    generator : torch.Generator, optional
        Draws the labels of the kind "sampled"; on the CPU, torch's own if not given.

    Returns
    -------
    dict {name: Tensor}
        Of the weights' shapes, at least 0, detached. Exactly 0 where no row's answer depends on a weight.
    """
    check_choice("kind", kind, KINDS)
    check_choice("task_type", task_type, TASK_TYPES)
    check_count("batch_size", batch_size)
    _check_module(model)
    check_generator(generator)
    inputs = _checked_inputs(inputs)
    rows = len(inputs[0])
    if kind in _WITH_LABELS:
        if not isinstance(labels, Tensor) or labels.shape[:1] != (rows,):
            came = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
            raise ValueError(f"labels: got {came}, expected those of {rows} rows for kind {kind!r}")
        check_dense("labels", labels)
    weights = {
        name: weight.detach()
        for name, weight in model.named_parameters()
        if weight.requires_grad or not isinstance(weight, nn.Parameter)  # in a stack, weights are plain tensors
    }
    if not weights:
        raise ValueError("model: got one without a weight to train, expected one that is not frozen")
    doer = Doer(model)

    def one(weights: Weights, *row: Tensor) -> tuple[Tensor, Tensor]:
        named = {f"model.{name}": value for name, value in weights.items()}
        outputs = functional_call(doer, named, (answer, *(value.unsqueeze(0) for value in row)))
        _check_outputs(outputs)
        outputs = outputs.reshape(-1)
        return outputs, outputs  # both: what is derived, and its value

    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    size = batch_size if kind == "batched" else _ROWS_AT_ONCE
    with _drawing(generator):
        for start in range(0, rows, size):
            part = [value[start : start + size] for value in inputs]
            of_rows = vmap(jacrev(one, has_aux=True), (None, *[0] * len(part)), randomness="different")
            try:
                with torch.enable_grad():
                    slopes, outputs = of_rows(weights, *part)
            except TypeError as error:
                if takes(answer, 1 + len(part)):
                    raise
                expected = f"a function of a model and {len(part)} more"
                raise ValueError(f"answer: got {answer!r}, expected {expected}") from error
            outputs = outputs.detach()  # (n, outputs)
            own = labels[start : start + size] if kind in _WITH_LABELS else None
            pushes, shares = _scores(outputs, own, kind, task_type, generator)  # (n, labels, outputs), (n, labels)
            for name, slope in slopes.items():  # (n, outputs, ...)
                of_labels = torch.einsum("nlk,nkp->nlp", pushes, slope.detach().reshape(*outputs.shape, -1))
                if kind == "batched":
                    squares = len(outputs) * of_labels.mean(dim=(0, 1)).square()
                else:
                    squares = torch.einsum("nl,nlp->p", shares, of_labels.square())
                total[name] += squares.reshape(total[name].shape) / rows
        for value in total.values():
            check_answer(value, model, **{f"inputs[{k}]": x for k, x in enumerate(inputs) if x.is_floating_point()})
    return total


def _scores(
    outputs: Tensor, labels: Tensor | None, kind: str, task_type: str, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Slopes of log p(label) by the outputs, (n, labels, outputs), and each label's share, (n, labels)."""
    n, width = outputs.shape
    single, everything = width == 1, torch.eye(width, dtype=outputs.dtype, device=outputs.device)
    if task_type == "regression":
        means, candidates = torch.zeros_like(outputs), everything
        chances = torch.ones_like(outputs)
    elif single:
        means = outputs.sigmoid()  # (n, 1)
        candidates, chances = means.new_tensor([[0.0], [1.0]]), torch.cat([1 - means, means], dim=1)
    else:
        means = chances = outputs.softmax(dim=1)
        candidates = everything
    if kind == "exact":
        return candidates - means.unsqueeze(1), chances
    if kind == "sampled" and task_type == "regression":
        seen = means + torch.randn(n, width, generator=generator).to(means)
    elif kind == "sampled":
        levels = torch.rand(n, 1, generator=generator).to(means)
        seen = candidates[(chances.cumsum(1) < levels).sum(1).clamp(max=len(candidates) - 1)]  # (n, outputs)
    elif task_type == "regression":
        check_values("labels", labels, (n,) if single and labels.ndim == 1 else (n, width))
        seen = labels.reshape(n, width).to(outputs.dtype) - outputs
    elif single:
        check_values("labels", labels, (n,), binary=True)
        seen = labels.unsqueeze(1).to(outputs.dtype)
    else:
        check_labels("labels", labels, n, width)
        seen = candidates[labels.long()]
    return (seen - means).unsqueeze(1), torch.ones_like(outputs[:, :1])


@contextmanager
def _drawing(generator: torch.Generator | None) -> Iterator[None]:
    """Put a generator back, torch's own if None, where what drew from it is refused."""
    luck = torch.default_generator if generator is None else generator
    before = luck.get_state()
    try:
        yield
    except ValueError:
        luck.set_state(before)
        raise


def _checked_inputs(inputs: object) -> list[Tensor]:
    fits = isinstance(inputs, (list, tuple)) and bool(inputs) and all(isinstance(v, Tensor) for v in inputs)
    if not fits or any(v.ndim == 0 or len(v) == 0 or len(v) != len(inputs[0]) for v in inputs):
        shapes = [tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__ for v in inputs] if fits else inputs
        raise ValueError(f"inputs: got {shapes!r}, expected a list of tensors with as many rows each, at least one")
    for number, value in enumerate(inputs):
        check_values(f"inputs[{number}]", value, tuple(value.shape))
    return list(inputs)


# What holds the weights back.


def quadratic_penalty(weights: Weights, anchor: Weights, fisher: Weights) -> Tensor:
    r"""Measure how far weights have left where they stood, each by its importance.

    .. math:: \tfrac12 \sum_i F_i \, (\theta_i - \theta^*_i)^2

    Half of the square, as in Kirkpatrick et al. (2017), equation 3; code without the half has another strength.

    Parameters
    ----------
    weights : mapping {name: Tensor}
        Where they are. Names that the Fisher has not, such as those of a later domain, do not count.
    anchor, fisher : mapping {name: Tensor}
        Where they stood, and how much each matters, of the weights' shapes.

    Returns
    -------
    Tensor, ()
    """
    _check_fisher(fisher)
    for whose, values in (("weights", weights), ("anchor", anchor)):
        for name, value in fisher.items():
            if not isinstance(values, Mapping) or name not in values:
                raise ValueError(f"{whose}: got none for {name!r}, expected {{name: tensor}} with all of the Fisher's")
            _check_floats(f"{whose}[{name!r}]", values[name], tuple(value.shape))
    parts = [(value * (weights[name] - anchor[name]).square()).sum() for name, value in fisher.items()]
    penalty = 0.5 * torch.stack(parts).sum()
    came = {"weights": weights, "anchor": anchor, "fisher": fisher}
    check_answer(penalty, **{f"{whose}[{name!r}]": v[name] for whose, v in came.items() for name in fisher})
    return penalty


class ElasticWeightConsolidation:
    r"""Holds weights near where earlier tasks left them, each by how much it mattered there.

    .. math:: \lambda \sum_{k} \tfrac12 \sum_i F_{k,i} \, (\theta_i - \theta^*_{k,i})^2

    Only what an earlier task touched is held: a weight on which no answer depended has a Fisher of exactly 0, and
    weights that were added later are not in the sum.

    Parameters
    ----------
    strength : float
        λ, at least 0. It belongs to the way in which the Fisher was computed, and has to be chosen for each.
    online : bool
        Keep one running Fisher, and the last place, instead of one of each for every task (Schwarz et al. 2018,
        section 3.2).
    decay : float
        Only online: what the running Fisher is multiplied by before a new one is added, in [0, 1].
    """

    def __init__(self, strength: float, online: bool = False, decay: float = 1.0):
        check_number("strength", strength, 0.0)
        check_choice("online", online, (True, False))
        check_number("decay", decay, 0.0, 1.0)
        self.strength, self.online, self.decay = float(strength), online, float(decay)
        self.memories: list[dict[str, dict[str, Tensor]]] = []

    def consolidate(self, model: nn.Module, fisher: Weights) -> None:
        """Remember where the weights stand, and how much each matters: call it when a task has been learned.

        Parameters
        ----------
        model : nn.Module
        fisher : mapping {name: Tensor}
            As `fisher_diagonal` returns it.
        """
        weights = self._weights_of(model)
        _check_fisher(fisher)
        for name, value in fisher.items():
            if name not in weights:
                raise ValueError(f"fisher: got {name!r}, expected names of the model's weights")
            check_values(f"fisher[{name!r}]", value, tuple(weights[name].shape))
            if (value < 0).any():
                raise ValueError(f"fisher[{name!r}]: got negative numbers, expected numbers of at least 0")
        before = self.memories[-1]["fisher"] if self.online and self.memories else {}
        kept = {name: self.decay * before.get(name, 0.0) + value.detach() for name, value in fisher.items()}
        kept = {**{name: self.decay * value for name, value in before.items()}, **kept}
        for name, value in kept.items():
            check_finite(f"fisher[{name!r}]", value, "numbers whose sum is finite")
        anchor = {name: weights[name].detach().clone() for name in kept}
        self.memories = [*([] if self.online else self.memories), {"anchor": anchor, "fisher": kept}]

    def penalty(self, model: nn.Module) -> Tensor:
        """Return the penalty of where a model's weights are now, to be added to the loss: a scalar; 0 at first."""
        weights = self._weights_of(model)
        if not self.memories:
            return next(iter(weights.values())).new_zeros(())
        held = torch.stack([quadratic_penalty(weights, **kept) for kept in self.memories]).sum()
        penalty = self.strength * held
        check_answer(penalty, strength=self.strength, weights=held)
        return penalty

    def _weights_of(self, model: nn.Module) -> dict[str, Tensor]:
        """All weights of a model, among them those of which something is remembered."""
        _check_module(model)
        weights = dict(model.named_parameters())
        for name, value in (item for kept in self.memories for item in kept["anchor"].items()):
            if name not in weights or weights[name].shape != value.shape:
                raise ValueError(f"model: got one without {name!r}, expected all weights that are remembered, as large")
        return weights


def forgetting_loss(logits: Tensor, old_logits: Tensor, temperature: float | Tensor = 2.0) -> Tensor:
    r"""Measure how far answers have left those of the network before: learning without forgetting.

    .. math:: T^2 \, \frac1N \sum_n
                  \mathrm{KL}\!\left(p^\text{old}_{T}(\cdot \mid x_n) \,\|\, p_{T}(\cdot \mid x_n)\right)

    with both softened by the temperature T, as in `distillation_loss`.

    Parameters
    ----------
    logits, old_logits : Tensor, (rows,) or (rows, 1) of a binary task, or (rows, classes)
        No gradient goes to the old ones.
    temperature : float or scalar Tensor
        T, more than 0.

    Returns
    -------
    Tensor, ()

    References
    ----------
    Li and Hoiem (2016), section 3; Hinton, Vinyals and Dean (2015), section 2, for the T squared.
    """
    check_positive("temperature", temperature)
    both = []
    for name, value in (("logits", logits), ("old_logits", old_logits)):
        if not isinstance(value, Tensor) or value.ndim not in (1, 2) or 0 in value.shape:
            came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name}: got {came}, expected a tensor (rows,) or (rows, classes), no 0")
        if not value.is_floating_point():
            raise ValueError(f"{name}: got dtype {value.dtype}, expected a floating point dtype")
        value = value.unsqueeze(1) if value.ndim == 1 else value
        check_values(name, value, tuple((both or [value])[0].shape))
        both.append(value)  # (rows, classes)
    pair = [torch.cat([value, torch.zeros_like(value)], dim=1) if value.shape[1] == 1 else value for value in both]
    loss = softened_divergence(pair[1].detach().to(logits.dtype), pair[0], temperature)
    check_answer(loss, small=("temperature",), logits=logits, old_logits=old_logits, temperature=temperature)
    return loss


def agem_project(gradient: Tensor, reference: Tensor) -> Tensor:
    r"""Take out of a gradient what would raise the loss on the memory, if anything would.

    .. math:: \tilde g = g - \min\!\left(0, \frac{g^\top g_\text{ref}}{\|g_\text{ref}\|^2}\right) g_\text{ref}

    Parameters
    ----------
    gradient, reference : Tensor, (..., weights)
        Of the new rows' loss and of the memory's, all weights in one row; leading dimensions are models.

    Returns
    -------
    Tensor, (..., weights)
        The nearest to the gradient whose product with the reference is not negative.

    References
    ----------
    Chaudhry et al. (2019), equation 11.
    """
    for name, value in (("gradient", gradient), ("reference", reference)):
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim == 0 or 0 in value.shape:
            came = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name}: got {came}, expected a float tensor (..., weights), no 0")
        check_values(name, value, tuple(gradient.shape))
    least = torch.finfo(reference.dtype).tiny
    moderate = reference / reference.abs().amax(-1, keepdim=True).clamp(min=least)  # its square is a number, and not 0
    unit = nn.functional.normalize(moderate, dim=-1, eps=least)
    along = (gradient * unit).sum(-1, keepdim=True).clamp(max=0.0)
    projected = gradient - along * unit
    check_answer(projected, gradient=gradient, reference=reference)
    return projected


def _check_new_name(name: object, known: tuple[str, ...]) -> None:
    if not isinstance(name, str) or not name or name in known:
        raise ValueError(f"name: got {name!r}, expected a non-empty string that is not among {list(known)}")


def _check_module(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: got {type(model).__name__}, expected a torch.nn.Module")


def _check_outputs(outputs: object) -> None:
    """Refuse what an answer about one row must not be."""
    if not isinstance(outputs, Tensor) or outputs.ndim not in (1, 2) or len(outputs) != 1 or 0 in outputs.shape:
        came = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(f"answer: got {came} from it for one row, expected a tensor (1, outputs) or (1,)")
    if not outputs.is_floating_point():
        raise ValueError(f"answer: got dtype {outputs.dtype} from it, expected a floating point dtype")


def _check_fisher(fisher: object) -> None:
    if not isinstance(fisher, Mapping) or not fisher:
        raise ValueError(f"fisher: got {fisher!r}, expected {{name of a weight: tensor}}, at least one")
    for name, value in fisher.items():
        _check_floats(f"fisher[{name!r}]", value, tuple(getattr(value, "shape", ())))


def _check_floats(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    check_values(name, value, shape)
    if not value.is_floating_point():
        raise ValueError(f"{name}: got dtype {value.dtype}, expected a floating point dtype")
