"""Three exercises: the unbiased MMD, the bandwidth of its kernel, and the test that is built on it."""

from collections.abc import Iterator

import torch
from torch import Tensor

from recmtl_lessons.lessons.cross_domain_transfer.questions import TEXTS


def unbiased_mmd(within_home: Tensor, within_abroad: Tensor, between: Tensor) -> Tensor:
    """Mean without the diagonal, twice, less twice the mean between."""
    m, n = len(within_home), len(within_abroad)
    home = (within_home.sum() - within_home.trace()) / (m * (m - 1))
    abroad = (within_abroad.sum() - within_abroad.trace()) / (n * (n - 1))
    return home + abroad - 2 * between.mean()


def _divided_by_all(a: Tensor, b: Tensor, between: Tensor) -> Tensor:
    within = [(k.sum() - k.trace()) / len(k) ** 2 for k in (a, b)]
    return within[0] + within[1] - 2 * between.mean()


def _kernels(generator: torch.Generator) -> Iterator[dict]:
    for m, n, sigma in ((5, 7, 1.0), (4, 3, 2.0), (6, 2, 0.7)):
        home, abroad = torch.randn(m, 2, generator=generator), 3 + torch.randn(n, 2, generator=generator)
        if n == 2:  # rows that are closer to the other shop than to their own: the MMD is negative
            abroad = 4.0 * torch.arange(n)[:, None] + 0.1 * abroad
            home = 4.0 * torch.arange(m)[:, None] + 0.1 * home
        a, b, ab = (
            torch.exp(-torch.cdist(*pair).square() / (2 * sigma**2))
            for pair in ((home, home), (abroad, abroad), (home, abroad))
        )
        yield {"within_home": a, "within_abroad": b, "between": ab.requires_grad_()}


exercise_mmd = TEXTS.exercise(
    "exercise-mmd",
    cases=_kernels,
    solution=unbiased_mmd,
    mistakes={
        "biased": lambda a, b, ab: a.mean() + b.mean() - 2 * ab.mean(),
        "divided by all": _divided_by_all,
        "once between": lambda a, b, ab: unbiased_mmd(a, b, ab) + ab.mean(),
        "clamped": lambda a, b, ab: unbiased_mmd(a, b, ab).clamp(min=0),
        "rooted": lambda a, b, ab: unbiased_mmd(a, b, ab).sqrt(),
        "clamped and rooted": lambda a, b, ab: unbiased_mmd(a, b, ab).clamp(min=0).sqrt(),
        "turned": lambda a, b, ab: -unbiased_mmd(a, b, ab),
    },
)


def pooled_median(home: Tensor, abroad: Tensor) -> Tensor:
    """Median of the distances between different rows of both samples together, without a gradient."""
    both = torch.cat([home, abroad]).detach()
    return torch.pdist(both).median()


def _two_clouds(generator: torch.Generator) -> Iterator[dict]:
    for m, n, width in ((6, 8, 3), (7, 4, 2), (3, 7, 5)):  # the number of pairs is odd: there is one in the middle
        home, abroad = torch.randn(m, width, generator=generator), torch.randn(n, width, generator=generator)
        yield {"home": home.requires_grad_(), "abroad": (3 + 2 * abroad).requires_grad_()}


exercise_bandwidth = TEXTS.exercise(
    "exercise-bandwidth",
    cases=_two_clouds,
    solution=pooled_median,
    mistakes={
        "with itself": lambda h, a: torch.cdist(torch.cat([h, a]).detach(), torch.cat([h, a]).detach()).median(),
        "home alone": lambda h, a: torch.pdist(h.detach()).median(),
        "abroad alone": lambda h, a: torch.pdist(a.detach()).median(),
        "between only": lambda h, a: torch.cdist(h.detach(), a.detach()).median(),
        "squared": lambda h, a: torch.pdist(torch.cat([h, a]).detach()).square().median(),
        "mean": lambda h, a: torch.pdist(torch.cat([h, a]).detach()).mean(),
        "with gradient": lambda h, a: torch.pdist(torch.cat([h, a])).median(),
    },
)


def p_value(statistic: float, permuted: Tensor) -> float:
    """Share of all divisions, the one that came among them, that are at least as extreme."""
    return (1 + int((permuted >= statistic).sum())) / (1 + len(permuted))


def _shuffles(generator: torch.Generator) -> Iterator[dict]:
    for n, place in ((9, "tie"), (19, "above"), (12, "below"), (15, "between")):
        permuted = torch.randint(-3, 6, (n,), generator=generator) / 64  # quantities that a float32 holds exactly
        permuted[0] = -0.5  # no sign of a difference, however large
        permuted[1:4] = torch.tensor([-1.0, 2.0, 2.0]) / 64
        statistic = {"tie": 2 / 64, "above": 7 / 64, "below": -0.75, "between": 1.5 / 64}[place]
        yield {"statistic": statistic, "permuted": permuted}


exercise_test = TEXTS.exercise(
    "exercise-test",
    cases=_shuffles,
    solution=p_value,
    mistakes={
        "can be zero": lambda s, p: (p >= s).float().mean(),
        "ties": lambda s, p: (1 + (p > s).sum()) / (1 + len(p)),
        "wrong side": lambda s, p: (1 + (p <= s).sum()) / (1 + len(p)),
        "two sides": lambda s, p: (1 + (p.abs() >= abs(s)).sum()) / (1 + len(p)),
        "above only": lambda s, p: (1 + (p >= s).sum()) / len(p),
        "below only": lambda s, p: (p >= s).sum() / (1 + len(p)),
    },
)
