r"""How much a federated training tells of one client: the :math:`\varepsilon` of differential privacy.

Sources: McMahan et al., "Learning differentially private recurrent language models", ICLR 2018, for the mechanism;
Mironov, Talwar and Zhang, "Rényi differential privacy of the sampled Gaussian mechanism", 2019, for the cost of a
round; Canonne, Kamath and Steinke, "The discrete Gaussian for differential privacy", NeurIPS 2020, proposition 12, for
the way from there to :math:`\varepsilon`.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from recmtl_lessons.models._checks import check_count, check_number

_ORDERS = 1 + 2.0 ** torch.arange(-7, 16.01, 1 / 8, dtype=torch.float64)  # from 1.008 to 65,537
_POINTS = 2048  # of each integral


def privacy_spent(sampling_rate: float, noise_multiplier: float, rounds: int, delta: float) -> float:
    r"""Return the :math:`\varepsilon` that so many noisy sums of clients' updates cost a client, at this ``delta``.

    Neighbours are two sets of clients of which one has one client more, *with all their ratings*. With each round's
    clients drawn anew by Poisson sampling, every client with chance q whatever the others do, the Rényi divergence of
    one round's sums is at most

    .. math:: D_\alpha = \frac{1}{\alpha - 1} \log E_{z \sim N(0, \sigma^2)}
        \left[\left(1 - q + q e^{(2z - 1) / 2 \sigma^2}\right)^\alpha\right],

    for whole orders :math:`\frac{1}{\alpha - 1} \log \sum_k \binom{\alpha}{k} (1 - q)^{\alpha - k} q^k e^{k(k - 1) / 2
    \sigma^2}`. Rounds are compositions: T of them cost :math:`T D_\alpha`, and :math:`\varepsilon` is the least
    :math:`T D_\alpha + \log((\alpha - 1) / \alpha) - (\log \delta + \log \alpha) / (\alpha - 1)` of all orders. With
    little noise the best order lies between 1 and 2, so that the expectation is integrated, for orders of all sizes.
    The answer is an upper bound: to follow the whole distribution of the privacy loss gives a smaller one.

    Parameters
    ----------
    sampling_rate : float
        q, the chance of a client to take part in a round, 0 to 1. A fixed number of clients, drawn without replacement,
        is another mechanism with another :math:`\varepsilon`.
    noise_multiplier : float
        :math:`\sigma`, the standard deviation of the noise *on the sum* of the updates, each of weight 1, in units of
        the norm that they are clipped to.
    rounds : int
        T, 0 or more.
    delta : float
        Between 0 and 1, and well below 1 / clients, with which even publishing a random client's ratings is private.

    Returns
    -------
    float
        0 or more; infinity without noise.
    """
    check_number("sampling_rate", sampling_rate, 0.0, 1.0)
    check_number("noise_multiplier", noise_multiplier, 0.0)
    check_count("rounds", rounds, 0)
    check_number("delta", delta, 0.0, 1.0, above=True, below=True)
    if sampling_rate == 0 or rounds == 0:
        return 0.0
    if noise_multiplier == 0:
        return math.inf
    spent = rounds * _divergences(float(sampling_rate), float(noise_multiplier))  # (orders,)
    converted = torch.log1p(-1 / _ORDERS) - (math.log(delta) + _ORDERS.log()) / (_ORDERS - 1)
    return max(0.0, float((spent + converted).min()))


@lru_cache(maxsize=256)
def _divergences(q: float, sigma: float) -> Tensor:
    """Divergence of one round at each order, (orders,): a sum over t = z / sigma from -9 to 9 beyond alpha / sigma."""
    step = (_ORDERS[:, None] / sigma + 18) / _POINTS
    t = step * torch.arange(_POINTS + 1, dtype=torch.float64) - 9  # (orders, points)
    absent = torch.tensor(-q, dtype=torch.float64).log1p()
    ratio = torch.logaddexp(absent, math.log(q) + t / sigma - 0.5 / sigma / sigma)
    density = -t.square() / 2 - math.log(2 * math.pi) / 2
    moments = torch.logsumexp(step.log() + density + _ORDERS[:, None] * ratio, dim=1)
    # Such a sum is the integral up to rounding, unless its steps are wide: there, with all clients in every round.
    return torch.where(step[:, 0] < 0.4 * min(1.0, sigma), moments / (_ORDERS - 1), _ORDERS / 2 / sigma / sigma)
