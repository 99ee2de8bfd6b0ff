"""Two classic mistakes: attention with nobody else to look at, and a distillation loss without T squared."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.distilled_q.experiments import (
    PLAIN,
    SHORT,
    STATE_DIM,
    School,
    from_teachers,
    kept,
    student,
)
from recmtl_lessons.training import Actors
from recmtl_lessons.training.q_learning import Distilling, draw_batch, teach

WIDTH, HEADS = 16, 2
AT = (1.0, 10.0, 100.0, 1000.0)  # temperatures at which gradients are measured
HOT = 10.0  # at which the mistake is trained


def look_at_one(seed: int, copies: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Make the mistake: attention over the state's features as a sequence of one token, or of copies of it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        features = nn.Linear(STATE_DIM, WIDTH)(torch.randn(32, STATE_DIM))
        attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    sequence = features.unsqueeze(1).expand(-1, copies, -1)  # (batch, copies, width): no other task is in it
    mixed, weights = attention(sequence, sequence, sequence)
    mixed.square().mean().backward()
    query, key, value = attention.in_proj_weight.grad.chunk(3)
    return torch.cat([query, key]).norm(), value.norm(), weights


def gradients_at_one(seeds: Sequence[int] = SEEDS, copies: int = 1) -> tuple[Tensor, Tensor]:
    """Return the norms of the gradients of queries and keys, and of values, (S,) each."""
    found = [look_at_one(seed, copies)[:2] for seed in seeds]
    return tuple(torch.stack(norms) for norms in zip(*found, strict=True))


@dataclass(frozen=True)
class Gradients:
    """Norms of a student's gradients by temperature, before training; S seeds.

    Attributes
    ----------
    temperatures : tuple of float
    right, without : Tensor, (temperatures, S)
        Of the distillation loss, with the factor T squared and without.
    """

    temperatures: tuple[float, ...]
    right: Tensor
    without: Tensor


def gradients_by_temperature(of: School, temperatures: Sequence[float] = AT) -> Gradients:
    """Take the distillation's gradient at several temperatures, with T squared and without."""
    with_square = [{**PLAIN, "temperature": t, "factor": 1.0} for t in temperatures]
    settings = with_square + [{**setting, "factor": setting["temperature"] ** -2} for setting in with_square]
    students = Actors(student, settings, of.seeds)
    batch = draw_batch(students, of.transfer_set, 64, torch.Generator().manual_seed(0))
    squares = sum(g.square().flatten(1).sum(1) for g in students.gradients(teach, batch).values())
    right, without = students.by_setting(squares.sqrt()).chunk(2)
    return Gradients(tuple(temperatures), right, without)


@dataclass(frozen=True)
class WithoutSquare:
    """What students keep that learn from teachers and rewards by halves, at a high temperature; (S,) each.

    Attributes
    ----------
    right, without : Tensor
        With the factor T squared and without.
    rewards : Tensor
        From the same rewards, and no teacher at all.
    """

    right: Tensor
    without: Tensor
    rewards: Tensor


def train_without_square(of: School, how: Distilling = SHORT, temperature: float = HOT) -> WithoutSquare:
    """Train with the mistake: half of the loss is the distillation, but for the factor that is missing."""
    half = {"temperature": temperature, "weight": 0.5}
    settings = [{**half, "factor": 1.0}, {**half, "factor": temperature**-2}, {**half, "weight": 0.0, "factor": 1.0}]
    students = from_teachers(student, of, settings, how, "teachers and rewards")
    return WithoutSquare(*kept(students, of))
