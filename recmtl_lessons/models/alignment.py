"""How far apart two samples lie, as numbers that a network can be trained to make small.

Maximum mean discrepancy (MMD), the two-sample test built on it, and CORAL, which compares covariances alone. All of
them compute in single precision or better and answer in the samples' dtype.

Sources: Gretton, Borgwardt, Rasch, Schölkopf, Smola, "A kernel two-sample test", JMLR 13 (2012), for MMD and the test;
Sun and Saenko, "Deep CORAL: correlation alignment for deep domain adaptation", ECCV 2016 workshops, for CORAL.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recmtl_lessons.models._checks import (
    check_answer,
    check_choice,
    check_count,
    check_features,
    check_positive,
)

SCALES = (0.5, 1.0, 2.0)


def squared_mmd(
    x: Tensor,
    y: Tensor,
    bandwidth: float | Tensor | None = None,
    scales: Sequence[float] = SCALES,
    unbiased: bool = True,
) -> Tensor:
    r"""Return the squared maximum mean discrepancy of two samples, with a Gaussian kernel at one or several scales.

    .. math:: \text{MMD}^2 = \frac{1}{m(m-1)} \sum_{i \neq j} k(x_i, x_j)
              + \frac{1}{n(n-1)} \sum_{i \neq j} k(y_i, y_j) - \frac{2}{mn} \sum_{i,j} k(x_i, y_j),
              \qquad k(a, b) = \frac1S \sum_s e^{-\|a - b\|^2 / (2 (s \sigma)^2)}.

    The unbiased form averages 0 where both samples come from one distribution, so it falls on both sides of 0: as a
    loss it is neither clamped nor rooted. The biased form keeps the diagonal (and divides by m² and n²); it is never
    negative, and above 0 for two samples of one distribution.

    Parameters
    ----------
    x, y : Tensor, (m, d) and (n, d)
        The samples; sizes may differ. At least 2 rows each in the unbiased form.
    bandwidth : float or Tensor (), optional
        Sigma, in the units of ``x``; `median_bandwidth` of the two samples if not given.
    scales : sequence of float
        What sigma is multiplied by; the kernel is the mean over them.
    unbiased : bool
        Whether the diagonal is left out.

    Returns
    -------
    Tensor, ()

    References
    ----------
    Gretton et al. (2012), equation 3 (unbiased) and 5 (biased; there its root). Departure: the mean over scales, which
    is a kernel too, and still tells samples apart when one scale is badly chosen.
    """
    check_choice("unbiased", unbiased, (True, False))
    check_samples(x, y, least=2 if unbiased else 1)
    _check_kernel(bandwidth, scales)
    dtype, (x, y, unit) = x.dtype, _in_one_unit(x, y)
    sigma = _pooled_median(x, y) if bandwidth is None else bandwidth / unit
    within = _mean_off_diagonal if unbiased else torch.mean
    squared = (
        within(_gaussian(_squared_distances(x, x), sigma, scales))
        + within(_gaussian(_squared_distances(y, y), sigma, scales))
        - 2 * _gaussian(_squared_distances(x, y), sigma, scales).mean()
    )
    return squared.to(dtype)


def median_bandwidth(x: Tensor, y: Tensor) -> Tensor:
    """Return the median distance between two different rows of the pooled samples, without a gradient.

    It is a yardstick and not something to learn: a gradient through it would move the one pair of rows that happens to
    be the median.

    Parameters
    ----------
    x, y : Tensor, (m, d) and (n, d)

    Returns
    -------
    Tensor, ()
        Of an even number of pairs, the lower of the two middle ones. Never 0: where half of the pairs or more
        coincide, what rounding leaves visible of the mean distance.

    References
    ----------
    Gretton et al. (2012), section 8: "the median distance between points in the aggregate sample".
    """
    check_samples(x, y, least=1)
    in_x, in_y, unit = _in_one_unit(x, y)
    median = (_pooled_median(in_x, in_y) * unit).to(x.dtype)
    check_answer(median, x=x, y=y)
    return median


def coral_loss(x: Tensor, y: Tensor) -> Tensor:
    r"""Return the squared distance of the two covariances, :math:`\|C_x - C_y\|_F^2 / (4 d^2)`.

    It does not see means: two samples that differ by a shift alone are at distance 0.

    Parameters
    ----------
    x, y : Tensor, (m, d) and (n, d)
        At least 2 rows each.

    Returns
    -------
    Tensor, ()

    References
    ----------
    Sun and Saenko (2016), equations 1 to 3.
    """
    check_samples(x, y, least=2)
    loss = covariance_distance(x, y)
    check_answer(loss, x=x, y=y)
    return loss


def covariance_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return the `coral_loss` of samples that have been checked, which may not be finite."""
    return ((_covariance(x) - _covariance(y)).square().sum() / (4 * x.shape[1] ** 2)).to(x.dtype)


@dataclass(frozen=True)
class TwoSampleTest:
    """The outcome of a permutation test.

    Attributes
    ----------
    statistic : float
        Squared MMD of the two samples.
    p_value : float
        Share of permutations, the samples as they came among them, whose statistic is at least as large.
    permuted : Tensor, (n_permutations,)
        The statistic under each permutation: what chance alone does.
    """

    statistic: float
    p_value: float
    permuted: Tensor


def mmd_permutation_test(
    x: Tensor,
    y: Tensor,
    generator: torch.Generator,
    n_permutations: int = 199,
    bandwidth: float | Tensor | None = None,
    scales: Sequence[float] = SCALES,
) -> TwoSampleTest:
    r"""Test whether two samples come from one distribution, by shuffling which row belongs to which.

    Under that hypothesis every division of the pooled rows is as likely as the one that came, so that

    .. math:: p = \frac{1 + \#\{b : \text{MMD}^2_b \ge \text{MMD}^2\}}{1 + B}

    is at most 0.05 in at most 5 % of all cases, whatever the distribution, the kernel and the sample sizes (with B of
    19, 99 or 199 in exactly 5 %, but for ties). The pooled median bandwidth keeps that: it is the same for every
    division.

    Parameters
    ----------
    x, y : Tensor, (m, d) and (n, d)
        At least 2 rows each.
    generator : torch.Generator
        Where the permutations come from; on the CPU.
    n_permutations : int
        B, at least 19, or 0.05 could not be reached.
    bandwidth, scales
        As in `squared_mmd`.

    Returns
    -------
    TwoSampleTest

    References
    ----------
    Gretton et al. (2012), section 5, which takes the threshold from a bootstrap on the aggregated data; the p-value
    with the one in both places is that of Phipson and Smyth (2010), "Permutation p-values should never be zero".
    """
    check_samples(x, y, least=2)
    _check_kernel(bandwidth, scales)
    check_count("n_permutations", n_permutations, least=19)
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        raise ValueError(f"generator: got {generator!r}, expected a torch.Generator on the CPU")
    dtype, (x, y, unit) = x.dtype, _in_one_unit(x.detach().double(), y.detach().double())
    m, pooled = len(x), torch.cat([x, y])  # ..., (m + n, d)
    distances = _squared_distances(pooled, pooled)  # (m + n, m + n), squared
    sigma = _median_off_diagonal(distances) if bandwidth is None else bandwidth / unit
    kernel = _gaussian(distances, sigma, scales).fill_diagonal_(0.0)
    orders = torch.stack([torch.randperm(len(pooled), generator=generator) for _ in range(n_permutations)])
    orders = torch.cat([torch.arange(len(pooled))[None], orders])  # (1 + B, m + n), first as they came
    first = (orders < m).to(kernel)  # (1 + B, m + n), which rows play x
    statistics = _squared_mmd_of_divisions(kernel, first, m)  # (1 + B,)
    extreme = statistics[1:] >= statistics[0] - 1e-13  # equal but for rounding counts as equal
    p_value = (1 + int(extreme.sum())) / (1 + n_permutations)
    return TwoSampleTest(float(statistics[0]), p_value, statistics[1:].to(dtype))


def _squared_mmd_of_divisions(kernel: Tensor, first: Tensor, m: int) -> Tensor:
    """Return the unbiased squared MMD of many divisions of the rows: kernel (N, N), its diagonal zero, first (B, N)."""
    n = len(kernel) - m
    to_first = first @ kernel  # (B, N), how similar each row is to those that play x, added up
    in_x = (to_first * first).sum(1)  # (B,)
    across = (to_first * (1 - first)).sum(1)
    in_y = kernel.sum() - in_x - 2 * across
    return in_x / (m * (m - 1)) + in_y / (n * (n - 1)) - 2 * across / (m * n)


def check_samples(x: Tensor, y: Tensor, least: int, names: tuple[str, str] = ("x", "y")) -> None:
    """Refuse anything but two finite matrices of one width and dtype, with at least ``least`` rows each."""
    if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[1] == 0:
        came = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{names[0]}: got {came}, expected a float tensor (rows, width)")
    for name, sample in zip(names, (x, y), strict=True):
        check_features(name, sample, x.shape[1])
        if len(sample) < least:
            raise ValueError(f"{name}: got {len(sample)} rows, expected at least {least}")
    if x.dtype != y.dtype:
        raise ValueError(f"{names[1]}: got dtype {y.dtype}, expected {x.dtype} as {names[0]} has")


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return squared Euclidean distances, (m, n), from one matrix product.

    Both are moved to their common middle first: distances stay, and keep their digits far from the origin.
    """
    middle = (x.detach().mean(0) + y.detach().mean(0)) / 2  # (d,)
    x, y = x - middle, y - middle
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp(min=0.0)


def _gaussian(squared_distances: Tensor, sigma: Tensor, scales: Sequence[float]) -> Tensor:
    """Return the mean over the scales of exp(-distance² / (2 (scale sigma)²)), of the shape of the distances.

    A kernel too narrow for any distance to be seen is as narrow as its gradient stays finite.
    """
    least = 1024 / torch.finfo(squared_distances.dtype).max ** 0.5
    widths = [(scale * sigma).detach().to(squared_distances.dtype).clamp(min=least) for scale in scales]
    kernels = [torch.exp(squared_distances / (-2 * width.square())) for width in widths]
    return sum(kernels[1:], kernels[0]) / len(kernels)


def _mean_off_diagonal(kernel: Tensor) -> Tensor:
    rows = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (rows * (rows - 1))


def _median_off_diagonal(squared: Tensor) -> Tensor:
    """Return the median distance between two different rows, or what rounding leaves visible where that is more.

    It is taken from all squared distances (N, N).
    """
    rows = len(squared)
    one, other = torch.triu_indices(rows, rows, offset=1, device=squared.device)  # each pair of different rows once
    squared = squared.flatten().index_select(0, one * rows + other)
    kind = torch.finfo(squared.dtype)
    visible = (16 * kind.eps * squared.mean()).clamp(min=kind.tiny**0.75)
    return torch.maximum(squared.median(), visible).sqrt()


def _pooled_median(x: Tensor, y: Tensor) -> Tensor:
    pooled = torch.cat([x, y]).detach()  # (m + n, d)
    return _median_off_diagonal(_squared_distances(pooled, pooled))


def _in_one_unit(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return both samples, in single precision at least, and the unit in which all squares of theirs are finite.

    It is a power of two near their largest number, which costs no digits.
    """
    x, y = x.to(_computed_in(x)), y.to(_computed_in(y))
    largest = torch.maximum(x.detach().abs().amax(), y.detach().abs().amax())
    unit = largest / (2 * torch.frexp(largest).mantissa)
    unit = unit.clamp(min=16 * torch.finfo(x.dtype).tiny).where(largest > 0, 1.0)
    return x / unit, y / unit, unit


def _computed_in(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _covariance(x: Tensor) -> Tensor:
    x = x.to(_computed_in(x))
    centred = x - x.mean(0)
    return centred.T @ centred / (len(x) - 1)  # (d, d)


def _check_kernel(bandwidth: object, scales: object) -> None:
    if bandwidth is not None:
        check_positive("bandwidth", bandwidth)
    if not isinstance(scales, Sequence) or not scales:
        raise ValueError(f"scales: got {scales!r}, expected a sequence of at least one positive number")
    for scale in scales:
        check_positive("scales", scale)
