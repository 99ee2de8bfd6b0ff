"""How models are measured: batched over leading dimensions, so that a whole stack of models is one call.

Every metric takes tensors, counts in float64, carries no gradient, and refuses what would give a plausible
wrong number: shapes that would broadcast, NaN, labels out of range, a row the metric is not defined for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from recmtl_lessons.models._checks import check_answer, check_count, check_dense

_RIDGE = 1.0  # weight of |w|^2 / 2 beside the summed log loss, as scikit-learn's C=1
_NEWTON_STEPS = 50


def auc(scores: Tensor, labels: Tensor) -> Tensor:
    r"""Return the area under the ROC curve: how often a positive outranks a negative.

    .. math:: \mathrm{AUC} = P(s^+ > s^-) + \tfrac12 P(s^+ = s^-)
        = \frac{\sum_{i: y_i=1} r_i - P(P+1)/2}{P\,N},

    with :math:`r_i` the rank of score i (tied scores share their mean rank), P positives and N negatives.

    Parameters
    ----------
    scores : Tensor
        Shape (..., n): the higher, the more likely positive. Infinite scores are ranked like any other.
    labels : Tensor
        Shape (..., n), the same: 0 or 1, of any dtype.

    Returns
    -------
    Tensor
        Shape (...), float64, in [0, 1]; 0.5 is chance.
    """
    scores = _numbers("scores", scores)
    labels = _numbers("labels", labels)
    _check_same_shape("labels", labels, "scores", scores)
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError(f"labels: got {_first(labels, (labels != 0) & (labels != 1)):g}, expected 0 or 1")
    positives = labels.sum(-1)
    negatives = labels.shape[-1] - positives
    one_class = (positives == 0) | (negatives == 0)
    if one_class.any():
        row = tuple(one_class.nonzero()[0].tolist())
        raise ValueError(f"labels: got one class only in row {row}, expected both 0 and 1")
    ordered = scores.sort(-1).values
    below, up_to = _places(ordered, scores)
    rank = (below + up_to + 1) / 2  # (..., n), from 1; tied scores share their mean
    return ((rank * labels).sum(-1) - positives * (positives + 1) / 2) / (positives * negatives)


def mae(predictions: Tensor, targets: Tensor) -> Tensor:
    r"""Return the mean absolute error, :math:`\frac1n\sum_i |\hat y_i - y_i|`.

    Parameters
    ----------
    predictions, targets : Tensor
        Shape (..., n), the same for both: they are never broadcast.

    Returns
    -------
    Tensor
        Shape (...), float64, in the units of the targets.
    """
    return _mean_error(predictions, targets, lambda errors: errors.abs().mean(-1))


def rmse(predictions: Tensor, targets: Tensor) -> Tensor:
    r"""Return the root of the mean squared error, :math:`\sqrt{\frac1n\sum_i (\hat y_i - y_i)^2}`.

    Parameters
    ----------
    predictions, targets : Tensor
        Shape (..., n), the same for both: they are never broadcast.

    Returns
    -------
    Tensor
        Shape (...), float64, in the units of the targets.
    """
    return _mean_error(predictions, targets, lambda errors: errors.square().mean(-1).sqrt())


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Return the share of rows whose largest logit is the label's, :math:`\frac1n\sum_i [\arg\max_c z_{ic} = y_i]`.

    Parameters
    ----------
    logits : Tensor
        Shape (..., n, C), C at least 2. Of equal logits the first class counts as the largest.
    labels : Tensor
        Shape (..., n), integers in 0..C-1.

    Returns
    -------
    Tensor
        Shape (...), float64, in [0, 1].
    """
    logits = _numbers("logits", logits)
    if logits.dim() < 2 or logits.shape[-1] < 2:
        raise ValueError(f"logits: got shape {tuple(logits.shape)}, expected (..., n, C) with C at least 2")
    _check_integers("labels", labels)
    _check_same_shape("labels", _numbers("labels", labels), "logits without its last dimension", logits[..., 0])
    out = (labels < 0) | (labels >= logits.shape[-1])
    if out.any():
        raise ValueError(f"labels: got {_first(labels, out)}, expected 0 to {logits.shape[-1] - 1}")
    return (logits.argmax(-1) == labels).double().mean(-1)


@dataclass(frozen=True)
class TransferMatrix:
    """What learning T domains one after another came to, over leading dimensions such as models.

    Attributes
    ----------
    average : Tensor, (...)
        Mean score over all domains at the end.
    forgetting : Tensor, (...)
        How far each domain but the last is below its best so far, at the end, on average; negative where it has risen.
    backward_transfer : Tensor, (...)
        How far each domain but the last is above where it was when it had just been learned, on average.
    forward_transfer : Tensor, (...)
        How far each domain but the first is, just before it is learned, above where it was before anything was learned.
    """

    average: Tensor
    forgetting: Tensor
    backward_transfer: Tensor
    forward_transfer: Tensor


def transfer_matrix(scores: Tensor, before: Tensor) -> TransferMatrix:
    r"""Sum up the matrix of scores of domains that were learned one after another.

    With :math:`R_{ij}` the score of domain j after domain i was learned, T domains, and :math:`b_j` before any,

    .. math:: \text{average} = \tfrac1T \sum_j R_{Tj}, \quad
              \text{forgetting} = \tfrac{1}{T-1} \sum_{j<T} \bigl(\max_{j \le i < T} R_{ij} - R_{Tj}\bigr), \quad
              \text{backward} = \tfrac{1}{T-1} \sum_{j<T} (R_{Tj} - R_{jj}), \quad
              \text{forward} = \tfrac{1}{T-1} \sum_{j>1} (R_{j-1,j} - b_j).

    Parameters
    ----------
    scores : Tensor, (..., T, T)
        R, higher is better; T is at least 2.
    before : Tensor, (..., T)
        b.

    Returns
    -------
    TransferMatrix
        float64.

    References
    ----------
    Lopez-Paz and Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017, section 2, for the average
    and both transfers; Chaudhry et al., "Riemannian walk for incremental learning", ECCV 2018, section 2.3, for the
    forgetting, whose best is taken over the time since the domain was learned.
    """
    scores, before = _numbers("scores", scores, finite=True), _numbers("before", before, finite=True)
    if scores.ndim < 2 or scores.shape[-2] != scores.shape[-1] or scores.shape[-1] < 2:
        raise ValueError(f"scores: got shape {tuple(scores.shape)}, expected (..., T, T) with T at least 2")
    if before.shape != scores.shape[:-1]:
        raise ValueError(f"before: got shape {tuple(before.shape)}, expected {tuple(scores.shape[:-1])}")
    at_end, learned = scores[..., -1, :], scores.diagonal(dim1=-2, dim2=-1)  # (..., T) each
    best = torch.stack([scores[..., j:-1, j].amax(-1) for j in range(scores.shape[-1] - 1)], dim=-1)  # (..., T - 1)
    earlier = scores.diagonal(offset=1, dim1=-2, dim2=-1)  # (..., T - 1), of j after j - 1
    return TransferMatrix(
        average=at_end.mean(-1),
        forgetting=(best - at_end[..., :-1]).mean(-1),
        backward_transfer=(at_end - learned)[..., :-1].mean(-1),
        forward_transfer=(earlier - before[..., 1:]).mean(-1),
    )


def proxy_a_distance(features: Tensor, domains: Tensor, seed: int = 0) -> Tensor:
    r"""Return the proxy A-distance: how well a linear classifier tells domains apart from their features.

    .. math:: \hat d_A = 2\,(1 - 2\,\varepsilon),

    with :math:`\varepsilon` the error of a logistic classifier on examples it was not trained on. For each
    pair of domains, as many examples of each are drawn as the smaller one has (an even number of them); half
    of them train the classifier and half are held out. Features are standardised by the training half, so
    that their scale does not matter, and the weights, not the intercept, carry a penalty of
    :math:`\tfrac12 |w|^2` beside the summed loss. Of several pairs the mean is returned. The same ``domains``
    and ``seed`` give the same split, which makes the distances before and after training a paired comparison.

    Parameters
    ----------
    features : Tensor
        Shape (..., n, d), finite: leading dimensions are models, each with its own features of the same rows.
    domains : Tensor
        Shape (n,), integers: the domain of each row; two or more domains, each with two rows at least.
    seed : int
        Seed of the draw.

    Returns
    -------
    Tensor
        Shape (...), float64, in [-2, 2]. 2 is perfectly separable and 0 is chance. A sample from identical
        domains falls on both sides of 0; it is not clipped, so that its mean over seeds stays near 0.

    References
    ----------
    Ben-David, Blitzer, Crammer and Pereira 2007, "Analysis of representations for domain adaptation", section
    4; Ben-David et al. 2010, "A theory of learning from different domains". Departure: the bound leaves open
    which linear classifier is trained, and often it is a linear SVM; the logistic loss here has a smooth
    optimum that Newton's method finds for a whole stack of models at once.
    """
    features = _numbers("features", features, finite=True)
    _check_integers("domains", domains)
    if features.dim() < 2 or domains.shape != features.shape[-2:-1] or 0 in features.shape:
        shapes = f"{tuple(features.shape)} and domains of {tuple(domains.shape)}"
        raise ValueError(f"features: got shape {shapes}, expected (..., n, d) and (n,), none of them 0")
    check_count("seed", seed, 0)
    names, counts = domains.unique(return_counts=True)
    if len(names) < 2 or counts.min() < 2:
        sizes = dict(zip(names.tolist(), counts.tolist(), strict=True))
        raise ValueError(f"domains: got {sizes} rows a domain, expected two domains or more of two rows or more")
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for first, second in combinations(names.tolist(), 2):
        train, held_out = _balanced_halves(domains, first, second, generator)
        fit, test = features[..., train, :], features[..., held_out, :]
        mean, spread = fit.mean(-2, keepdim=True), fit.std(-2, correction=0, keepdim=True)
        check_answer(spread, features=features)
        spread = torch.where(spread > 1e-12 * (1 + mean.abs()), spread, 1.0)  # a constant feature stays 0
        weight = _fit_logistic((fit - mean) / spread, (domains[train] == second).double())
        logit = _with_intercept((test - mean) / spread) @ weight.unsqueeze(-1)  # (..., m, 1)
        wrong = (logit.squeeze(-1) > 0) != (domains[held_out] == second)
        distances.append(2 * (1 - 2 * wrong.double().mean(-1)))
    return torch.stack(distances).mean(0)


def _mean_error(predictions: Tensor, targets: Tensor, mean: Callable[[Tensor], Tensor]) -> Tensor:
    predictions, targets = _numbers("predictions", predictions, True), _numbers("targets", targets, True)
    _check_same_shape("targets", targets, "predictions", predictions)
    answer = mean(predictions - targets)
    check_answer(answer, predictions=predictions, targets=targets)
    return answer


def _places(ordered: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Count the entries of ``ordered`` (ascending) below each value, and those up to it; both (..., n)."""
    ordered, values = ordered.contiguous(), values.contiguous()
    return torch.searchsorted(ordered, values), torch.searchsorted(ordered, values, right=True)


def _balanced_halves(domains: Tensor, first: int, second: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return rows to train on and rows held out, each half with as many rows of one domain as of the other."""
    rows = [(domains == name).nonzero().squeeze(1) for name in (first, second)]
    size = min(len(r) for r in rows) // 2
    drawn = [r[torch.randperm(len(r), generator=generator).to(r.device)[: 2 * size]] for r in rows]
    return torch.cat([r[:size] for r in drawn]), torch.cat([r[size:] for r in drawn])


def _with_intercept(features: Tensor) -> Tensor:
    return torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)


def _fit_logistic(features: Tensor, labels: Tensor) -> Tensor:
    """Minimise the ridge-penalised logistic loss by Newton's method, for all models at once.

    It is written by hand because it is stacked: scikit-learn, which the tests hold it against, fits one at a time.
    The loss is the sum of log(1 + exp(-(2y-1) z)) plus _RIDGE |w|^2 / 2, where z = x w + b. ``features``
    (..., m, d) and ``labels`` (m,) are float64; returned is (..., d+1), the intercept last.
    """
    x = _with_intercept(features)  # (..., m, d+1)
    penalty = torch.full(x.shape[-1:], _RIDGE, dtype=x.dtype, device=x.device)
    penalty[-1] = 0.0
    weight = x.new_zeros(*x.shape[:-2], x.shape[-1])  # (..., d+1)
    for _ in range(_NEWTON_STEPS):
        probability = torch.sigmoid(x @ weight.unsqueeze(-1))  # (..., m, 1)
        slope = (x * (probability - labels.unsqueeze(-1))).sum(-2) + penalty * weight
        if (slope.abs() < 1e-9 * len(labels)).all():
            break
        curvature = (x * probability * (1 - probability)).mT @ x + torch.diag(penalty)
        # The curvature is positive definite. torch.linalg.solve would fail with many threads (pytorch#142815).
        factor = torch.linalg.cholesky(curvature)
        weight = weight - torch.cholesky_solve(slope.unsqueeze(-1), factor).squeeze(-1)
    return weight


def _numbers(name: str, value: Tensor, finite: bool = False) -> Tensor:
    """Return the tensor in float64, without gradient; refuse NaN, and infinity too where ``finite``."""
    _check_real(name, value)
    value = value.detach().double()
    bad = ~torch.isfinite(value) if finite else torch.isnan(value)
    if bad.any():
        came, wanted = ("NaN or infinity", "finite numbers") if finite else ("NaN", "numbers")
        raise ValueError(f"{name}: got {came} in {int(bad.sum())} of {value.numel()} places, expected {wanted}")
    return value


def _check_real(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor) or value.is_complex():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name}: got {kind}, expected a tensor of real numbers")
    check_dense(name, value)


def _check_integers(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name}: got {kind}, expected an integer tensor")


def _check_same_shape(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.shape != other.shape:
        raise ValueError(f"{name}: got shape {tuple(value.shape)}, expected that of {other_name}, {tuple(other.shape)}")
    if value.dim() == 0 or value.shape[-1] == 0:
        raise ValueError(f"{name}: got shape {tuple(value.shape)}, expected (..., n) with n at least 1")


def _first(values: Tensor, where: Tensor) -> float | int:
    return values[where][0].item()
