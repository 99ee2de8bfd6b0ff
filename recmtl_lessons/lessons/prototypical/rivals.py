"""What needs no training on other shelves: rules that see the support rows of one episode alone.

All take rows (..., K, F), labels (..., K) from 0 to N - 1 and queries (..., Q, F), and return scores (..., Q, N).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_STEPS = 400
_CLOSE = 0.05  # of a gradient that is a sum over the support rows


def nearest_mean(support_x: Tensor, support_y: Tensor, query_x: Tensor, ways: int) -> Tensor:
    """Score by minus the squared distance to the mean of each class: a prototype without a network."""
    member = F.one_hot(support_y, ways).to(support_x.dtype)  # (..., K, N)
    means = member.mT @ support_x / member.sum(-2).unsqueeze(-1)  # (..., N, F)
    return -torch.cdist(query_x, means).square()


def nearest_neighbours(support_x: Tensor, support_y: Tensor, query_x: Tensor, ways: int, k: int) -> Tensor:
    """Count how many of the k nearest support rows are of each class; of equal counts, the nearer class wins."""
    distance, row = torch.cdist(query_x, support_x).topk(k, largest=False)  # (..., Q, k)
    label = support_y.unsqueeze(-2).expand(*query_x.shape[:-1], -1).gather(-1, row)
    votes = F.one_hot(label, ways).to(distance.dtype)  # (..., Q, k, N)
    nearness = (votes / (1 + distance).unsqueeze(-1)).sum(-2)
    return votes.sum(-2) + 1e-3 * nearness  # nearness is at most k: it only breaks ties


def logistic_regression(support_x: Tensor, support_y: Tensor, query_x: Tensor, ways: int, c: float) -> Tensor:
    r"""Fit a multinomial logistic regression to each episode, and return its logits.

    .. math:: \min_{W, b} \; C \sum_i -\log p(y_i \mid x_i) + \tfrac12 \lVert W \rVert^2

    with free intercepts: scikit-learn's ``LogisticRegression(C=c)``, which it is tested against. It is written by hand
    since all episodes of all seeds are fitted together, many times as fast as one after another: each step divides the
    gradient by a fixed bound of the curvature (Böhning, "Multinomial logistic regression algorithm", 1992).
    """
    x = torch.cat([support_x, torch.ones_like(support_x[..., :1])], dim=-1)  # (..., K, F + 1)
    width, target = x.shape[-1], F.one_hot(support_y, ways).to(x.dtype)
    penalty = torch.full((width,), 1 / c, dtype=x.dtype)
    penalty[-1] = 1e-4 / c  # next to nothing on the intercepts; without any, the bound would be singular
    bound = torch.linalg.inv(0.5 * x.mT @ x + torch.diag(penalty))  # (..., F + 1, F + 1)
    weight = ahead = x.new_zeros(*x.shape[:-2], width, ways)
    for step in range(_STEPS):
        slope = x.mT @ ((x @ ahead).softmax(-1) - target) + penalty[:, None] * ahead  # (..., F + 1, N)
        if slope.abs().max() < _CLOSE:
            break
        before, weight = weight, ahead - bound @ slope
        ahead = weight + step / (step + 3) * (weight - before)  # Nesterov's momentum
    return torch.cat([query_x, torch.ones_like(query_x[..., :1])], dim=-1) @ ahead  # (..., Q, N)
