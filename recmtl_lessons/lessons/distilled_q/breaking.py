"""Two classic mistakes: attention with nobody else to look at, and a distillation loss without T squared."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.distilled_q.experiments import (
    KEPT,
    PLAIN,
    SHORT,
    STATE_DIM,
    School,
    from_teachers,
    kept,
    student,
)
from recmtl_lessons.training import Actors, Scores
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


def gradients_by_temperature(of: School, temperatures: Sequence[float] = AT) -> dict[str, Scores]:
    """Take the distillation's gradient at several temperatures, before training, with T squared and without.

    Returns
    -------
    dict {"with T²" or "without": Scores of the temperatures}
    """
    with_square = [{**PLAIN, "temperature": t, "factor": 1.0} for t in temperatures]
    settings = with_square + [{**setting, "factor": setting["temperature"] ** -2} for setting in with_square]
    students = Actors(student, settings, of.seeds)
    batch = draw_batch(students, of.transfer_set, 64, torch.Generator().manual_seed(0))
    squares = sum(g.square().flatten(1).sum(1) for g in students.gradients(teach, batch).values())
    norms = zip(("with T²", "without"), students.by_setting(squares.sqrt()).chunk(2), strict=True)
    return {name: Scores("norm of the gradient", tuple(temperatures), values) for name, values in norms}


def train_without_square(of: School, how: Distilling = SHORT, temperature: float = HOT) -> Scores:
    """Train from teachers and rewards by halves, hot: "with T²", "without" it, and from the rewards alone.

    That one, "no teacher", has the same rewards.
    """
    half = {"temperature": temperature, "weight": 0.5}
    settings = [{**half, "factor": 1.0}, {**half, "factor": temperature**-2}, {**half, "weight": 0.0, "factor": 1.0}]
    students = from_teachers(student, of, settings, how, "teachers and rewards")
    return Scores(KEPT, ("with T²", "without", "no teacher"), kept(students, of))
