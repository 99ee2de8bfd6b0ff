"""Domain-adversarial training: one encoder for all domains, several tasks, and a domain classifier to fool.

Source: Ganin, Ustinova, Ajakan, Germain, Larochelle, Laviolette, Marchand, Lempitsky, "Domain-adversarial
training of neural networks", JMLR 17 (2016).

Departures from the paper: any number of domains, and several tasks, each with a head of its own on the shared encoder;
the paper has two domains and one task. As in its experiments (section 5.2.2), the strength lambda scales only what the
encoder receives; the domain classifier learns at full strength whatever lambda is. There is no batch normalisation:
statistics shared by the domains would carry one into the other, and a batch of one row has none.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recmtl_lessons.models._checks import (
    check_answer,
    check_choice,
    check_count,
    check_features,
    check_labels,
    check_names,
    check_number,
    check_values,
    check_widths,
)
from recmtl_lessons.models._layers import relu_layers
from recmtl_lessons.models._modes import evaluating
from recmtl_lessons.models._names import NamedParts

TASK_TYPES = ("classification", "regression")


class GradientReversalLayer(torch.autograd.Function):
    """Identity on the way forward, minus ``alpha`` times the gradient on the way back.

    ``alpha`` is one finite number, plain or a scalar tensor. Written in the ``setup_context`` form, so that it works
    under ``torch.func.grad`` and ``torch.vmap`` (where there may be one for each model).

    Examples
    --------
    >>> x = torch.ones(2, requires_grad=True)
    >>> GradientReversalLayer.apply(x, 0.5).sum().backward()
    >>> x.grad
    tensor([-0.5000, -0.5000])

    References
    ----------
    Ganin et al. (2016), section 4.2, equations 16 and 17.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, alpha: float | Tensor) -> Tensor:
        """Return ``x`` unchanged, any shape."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise ValueError(
                f"x: got {x.dtype if isinstance(x, Tensor) else type(x).__name__}, expected a float tensor"
            )
        check_number("alpha", alpha)
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        """Keep ``alpha`` for the way back."""
        _, alpha = inputs
        if isinstance(alpha, Tensor):
            ctx.save_for_backward(alpha)
        else:
            ctx.alpha = float(alpha)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        """Return ``-alpha * gradient``; ``alpha`` itself gets none."""
        alpha = ctx.saved_tensors[0] if ctx.saved_tensors else ctx.alpha
        return -(alpha * gradient), None


class DomainAdversarialNetwork(NamedParts):
    r"""A shared encoder, one head a task, and a domain classifier behind a gradient reversal.

    The encoder f, the task heads g_t and the domain classifier h play

    .. math:: \min_{f, g}\; L_\text{task}(g_t(f(x)), y) - \lambda L_\text{domain}(h(f(x)), d),
              \qquad \min_{h}\; L_\text{domain}(h(f(x)), d),

    which the reversal turns into one ordinary descent on ``task loss + domain loss``. A `state_dict` holds the names of
    the tasks, and is loaded by them, whatever their order.

    Parameters
    ----------
    feature_dim : int
        Width of the input.
    hidden_dims : sequence of int
        Widths of the encoder's layers; the last is the width of the shared features.
    n_domains : int
        Number of domains to tell apart, at least 2.
    task_configs : mapping
        ``{task name: {"task_type": "classification" | "regression", "output_dim": n}}``; what is left out is
        "regression", and 1. A classification with ``output_dim`` 1 is binary: one logit.
    lambda_domain : float
        Strength of the reversal when ``alpha`` is 1.
    dropout_rate : float
        Share of the encoder's hidden units dropped in training, in [0, 1).
    """

    _parts = ("task_heads.",)

    def __init__(
        self,
        feature_dim: int,
        hidden_dims: Sequence[int],
        n_domains: int,
        task_configs: Mapping[str, Mapping],
        lambda_domain: float = 1.0,
        dropout_rate: float = 0.0,
    ):
        _check_arguments(feature_dim, hidden_dims, n_domains, task_configs, lambda_domain, dropout_rate)
        super().__init__()
        self.feature_dim = feature_dim
        self.n_domains = n_domains
        self.task_configs = {name: _complete(config) for name, config in task_configs.items()}
        self.tasks = tuple(task_configs)
        self.lambda_domain = float(lambda_domain)

        self.encoder = relu_layers(feature_dim, hidden_dims, dropout_rate)

        width = hidden_dims[-1]
        # A list, not a ModuleDict: task names are the user's words, and may hold dots or spaces.
        self.task_heads = nn.ModuleList(_head(width, c["output_dim"]) for c in self.task_configs.values())
        self.domain_classifier = _head(width, n_domains)

    def encode(self, x: Tensor) -> Tensor:
        """Shared features of ``x``: (batch, feature_dim) -> (batch, hidden_dims[-1])."""
        check_features("x", x, self.feature_dim, self.encoder[0].weight.dtype)
        shared = self.encoder(x)
        check_answer(shared, self, x=x)
        return shared

    def read(self, shared: Tensor, task_name: str) -> Tensor:
        """Output of one task's head for shared features: (batch, hidden_dims[-1]) -> (batch, output_dim)."""
        head = self._head_of(task_name)
        check_features("shared", shared, head[0].in_features, head[0].weight.dtype)
        output = head(shared)
        check_answer(output, self, shared=shared)
        return output

    def forward(self, x: Tensor, task_name: str, alpha: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
        """Answer one task, and guess the domain of each row.

        Parameters
        ----------
        x : Tensor, (batch, feature_dim)
            One row an interaction.
        task_name : str
            Which head answers.
        alpha : float or scalar Tensor
            Factor on ``lambda_domain`` in the reversal, for instance from `lambda_schedule`.

        Returns
        -------
        task_output : Tensor, (batch, output_dim)
            Logits of a classification, values of a regression.
        domain_logits : Tensor, (batch, n_domains)
            Logits; their gradient reaches the encoder reversed and times ``alpha * lambda_domain``.
        """
        head = self._head_of(task_name)
        check_number("alpha", alpha, 0.0)
        shared = self.encode(x)  # (batch, hidden)
        reversed_ = GradientReversalLayer.apply(shared, alpha * self.lambda_domain)  # (batch, hidden)
        task_output, domain_logits = head(shared), self.domain_classifier(reversed_)
        for answer in (task_output, domain_logits):  # (batch, output_dim), (batch, n_domains)
            check_answer(answer, self, x=x)
        return task_output, domain_logits

    def answer(self, x: Tensor, task_name: str) -> Tensor:
        """Probabilities or values like `predict`, but in the current mode and with gradients."""
        output = self._head_of(task_name)(self.encode(x))  # (batch, output_dim)
        check_answer(output, self, x=x)
        if self.task_configs[task_name]["task_type"] == "classification":
            output = output.sigmoid() if output.shape[1] == 1 else output.softmax(dim=1)
        return output.squeeze(1) if output.shape[1] == 1 else output

    @torch.no_grad()
    def predict(self, x: Tensor, task_name: str) -> Tensor:
        """What the task's head says, in the words of the task, without dropout and without gradients.

        Returns
        -------
        Tensor
            Binary classification: the probability of 1, (batch,). Several classes: their probabilities,
            (batch, output_dim), rows summing to 1. Regression: values, (batch,) if ``output_dim`` is 1,
            otherwise (batch, output_dim).
        """
        with evaluating(self):
            return self.answer(x, task_name)

    def _head_of(self, task_name: str) -> nn.Module:
        check_choice("task_name", task_name, self.tasks)
        return self.task_heads[self.tasks.index(task_name)]


def lambda_schedule(progress: float | Tensor, gamma: float | Tensor = 10.0) -> float | Tensor:
    r"""Strength of the reversal over training, from 0 to nearly 1.

    .. math:: \lambda(p) = \frac{2}{1 + e^{-\gamma p}} - 1

    A domain classifier that has not learned yet sends noise; the schedule lets the encoder listen only later.

    Parameters
    ----------
    progress : float or scalar Tensor
        Share of the training that is done, in [0, 1].
    gamma : float or scalar Tensor
        How steeply it rises; 10 in the paper, 0 keeps the adversary silent. A tensor gives a tensor.

    References
    ----------
    Ganin et al. (2016), section 5.2.2.
    """
    check_number("progress", progress, 0.0, 1.0)
    check_number("gamma", gamma, 0.0)
    exponent = -1.0 * progress * gamma
    exp = torch.exp if isinstance(exponent, Tensor) else math.exp
    return 2.0 / (1.0 + exp(exponent)) - 1.0


def task_loss(output: Tensor, target: Tensor, task_config: Mapping) -> Tensor:
    """Mean loss of one task: cross-entropy on logits, or squared error on values.

    Parameters
    ----------
    output : Tensor, (batch, output_dim)
        As `DomainAdversarialNetwork.forward` returns it.
    target : Tensor
        Binary classification: 0 or 1, (batch,). Several classes: integer labels, (batch,). Regression: values,
        (batch,) if ``output_dim`` is 1, otherwise (batch, output_dim). Nothing is broadcast: (batch, 1) is refused.
    task_config : mapping
        The task's entry in ``task_configs``; what it leaves out is "regression", and 1.

    Returns
    -------
    Tensor, ()
    """
    _check_task("task_config", task_config)
    kind, width = _complete(task_config).values()
    check_features("output", output, width)
    rows, binary = output.shape[0], kind == "classification" and width == 1
    if kind == "classification" and not binary:
        check_labels("target", target, rows, width)
        loss = F.cross_entropy(output, target.long())
    else:
        check_values("target", target, (rows,) if width == 1 else (rows, width), binary)
        values = output.squeeze(1) if width == 1 else output
        of = F.binary_cross_entropy_with_logits if binary else F.mse_loss
        loss = of(values, target.to(values.dtype))
    check_answer(loss, output=output, target=target)
    return loss


def domain_loss(domain_logits: Tensor, domains: Tensor) -> Tensor:
    """Mean cross-entropy of the domain classifier, in nats.

    Parameters
    ----------
    domain_logits : Tensor, (batch, n_domains)
        Logits, not probabilities.
    domains : Tensor, (batch,)
        Integer domain of each row, in 0..n_domains-1.

    Returns
    -------
    Tensor, ()
        log(n_domains) when the classifier knows nothing.
    """
    if not isinstance(domain_logits, Tensor) or domain_logits.ndim != 2 or domain_logits.shape[1] < 2:
        came = tuple(domain_logits.shape) if isinstance(domain_logits, Tensor) else type(domain_logits).__name__
        raise ValueError(f"domain_logits: got {came}, expected a tensor (batch, n_domains), n_domains at least 2")
    check_features("domain_logits", domain_logits, domain_logits.shape[1])
    check_labels("domains", domains, *domain_logits.shape)
    loss = F.cross_entropy(domain_logits, domains.long())
    check_answer(loss, domain_logits=domain_logits)
    return loss


def _head(width: int, output_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, output_dim))


def _complete(task_config: Mapping) -> dict:
    """A task's type and width, in this order, with what is left out."""
    return {"task_type": "regression", "output_dim": 1, **task_config}


def _check_task(name: str, config: object) -> None:
    if not isinstance(config, Mapping) or not set(config) <= {"task_type", "output_dim"}:
        raise ValueError(f"{name}: got {config!r}, expected a mapping with the keys 'task_type' and 'output_dim'")
    config = _complete(config)
    check_choice(f"{name}['task_type']", config["task_type"], TASK_TYPES)
    check_count(f"{name}['output_dim']", config["output_dim"])


def _check_arguments(feature_dim, hidden_dims, n_domains, task_configs, lambda_domain, dropout_rate) -> None:
    check_count("feature_dim", feature_dim)
    check_widths("hidden_dims", hidden_dims)
    check_count("n_domains", n_domains, least=2)
    check_names("task_configs", task_configs, "{task name: configuration}")
    for name, config in task_configs.items():
        _check_task(f"task_configs[{name!r}]", config)
    check_number("lambda_domain", lambda_domain, 0.0)
    check_number("dropout_rate", dropout_rate, 0.0, 1.0, below=True)
