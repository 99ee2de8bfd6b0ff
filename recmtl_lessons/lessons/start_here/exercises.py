"""One exercise to try, and the experiment that goes with the prediction."""

import math

import torch
from torch import Tensor

from recmtl_lessons.datasets import WorldSettings, make_world
from recmtl_lessons.lessons.start_here.questions import TEXTS


def agreement(first: Tensor, second: Tensor) -> float:
    """Return the share of places in which two tensors have the same sign."""
    same = torch.sign(first) == torch.sign(second)
    return same.float().mean().item()


def share_of_equal_signs(correlation: float) -> float:
    """Return the share for two normal variables of this correlation: 1/2 + arcsin(correlation) / π."""
    return 0.5 + math.asin(correlation) / math.pi


def agreement_by_seed(correlation: float = 0.7, seeds: int = 8) -> Tensor:
    """Return the share of places, users times coordinates, in which two domains' tastes agree in sign: (seeds,)."""
    worlds = (make_world(WorldSettings(relatedness=correlation, interactions=10), seed) for seed in range(seeds))
    return torch.tensor([agreement(w.tastes[:, 0], w.tastes[:, 1]) for w in worlds])


def _two_tastes(generator: torch.Generator):
    for n in (5, 8, 3):
        yield {"first": torch.randn(n, generator=generator), "second": torch.randn(n, generator=generator)}
    first, second = torch.randn(2, 6, generator=generator)
    first[0] = second[0] = second[1] = 0.0  # zero has a sign of its own
    yield {"first": first, "second": second}


exercise_agreement = TEXTS.exercise(
    "exercise-agreement",
    cases=_two_tastes,
    solution=agreement,
    mistakes={
        "a count": lambda a, b: (torch.sign(a) == torch.sign(b)).sum(),
        "the opposite": lambda a, b: (torch.sign(a) != torch.sign(b)).float().mean(),
        "the correlation": lambda a, b: torch.corrcoef(torch.stack([a, b]))[0, 1],
        "the products": lambda a, b: (a * b).mean(),
        "positive only": lambda a, b: ((a > 0) & (b > 0)).float().mean(),
        "zero left out": lambda a, b: ((a * b) > 0).float().mean(),
    },
)
