"""Three exercises: the masked softmax, rows aligned by user, and what a shop contributes."""

from collections.abc import Iterator

import torch
from torch import Tensor

from recmtl_lessons.lessons.domain_attention.questions import TEXTS


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the domains that the mask leaves."""
    return scores.masked_fill(~mask, -torch.inf).softmax(dim=1)


def _scores(generator: torch.Generator) -> Iterator[dict]:
    for n, width, level in ((3, 4, 0.0), (4, 3, 1.0), (2, 5, -60.0)):  # far below 0 a small number is a large one
        order = torch.rand(n, width, generator=generator).argsort(1)
        known = torch.tensor([1 + k % (width - 1) for k in range(n)])  # shops with a history: one, several, not all
        scores = level + 2 * torch.randn(n, width, generator=generator)
        mask = order < known[:, None]
        mask[0] = torch.arange(width) == 1
        mask[1] = torch.arange(width) != 1  # each shop is known to somebody
        yield {"scores": scores if level == 0.0 else scores.requires_grad_(), "mask": mask}


exercise_softmax = TEXTS.exercise(
    "exercise-softmax",
    cases=_scores,
    solution=masked_softmax,
    mistakes={
        "no mask": lambda s, m: s.softmax(1),
        "mask after": lambda s, m: s.softmax(1) * m,
        "zero for minus infinity": lambda s, m: s.masked_fill(~m, 0.0).softmax(1),
        "over the users": lambda s, m: s.masked_fill(~m, -torch.inf).softmax(0),
        "infinity times mask": lambda s, m: (s - torch.inf * ~m).softmax(1),
        "upside down": lambda s, m: s.masked_fill(m, -torch.inf).softmax(1),
        "no sum": lambda s, m: s.exp() * m,
        "a small number": lambda s, m: s.masked_fill(~m, -5.0).softmax(1),
    },
)


def aligned_rows(users: Tensor, ids: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """The features of these users in this order, zeros where there are none, and where there are any."""
    same = users[:, None] == ids[None, :]  # (n, m)
    return same.to(features.dtype) @ features, same.any(dim=1)


def _by_search(users: Tensor, ids: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    order = ids.argsort()
    place = torch.searchsorted(ids[order], users).clamp(max=len(ids) - 1)
    return features[order][place], torch.isin(users, ids)


def _table_order(users: Tensor, ids: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    kept = features[torch.isin(ids, users)]
    return torch.cat([kept, torch.zeros(len(users) - len(kept), features.shape[1])]), torch.isin(users, ids)


def _tables(generator: torch.Generator) -> Iterator[dict]:
    for in_table, strangers, asked, width in ((5, 2, 3, 2), (7, 1, 4, 3), (4, 3, 0, 5), (3, 0, 3, 4)):
        people = torch.randperm(60, generator=generator)[: in_table + strangers]
        ids = people[:in_table].sort(descending=True).values
        batch = torch.cat([people[in_table:], ids[-asked:].flip(0)]) if asked else people[in_table:]
        if strangers and asked:  # somebody appears twice
            batch = torch.cat([batch, batch[-1:]])
        features = torch.randn(in_table, width, generator=generator)
        yield {"users": batch, "ids": ids, "features": features}


exercise_align = TEXTS.exercise(
    "exercise-align",
    cases=_tables,
    solution=aligned_rows,
    mistakes={
        "as they stand": lambda u, i, f: (f[: len(u)], torch.isin(u, i)),
        "the table's order": _table_order,
        "somebody else": _by_search,
        "the first row": lambda u, i, f: (f[(u[:, None] == i).int().argmax(1)], torch.isin(u, i)),
        "all known": lambda u, i, f: (aligned_rows(u, i, f)[0], torch.ones(len(u), dtype=torch.bool)),
        "upside down": lambda u, i, f: (aligned_rows(u, i, f)[0], ~torch.isin(u, i)),
        "the table's mask": lambda u, i, f: (aligned_rows(u, i, f)[0], torch.isin(i, u)),
    },
)


def contributions(weights: Tensor, values: Tensor) -> Tensor:
    """Each domain's share of the lengths that are added up: (n, D)."""
    length = weights * values.norm(dim=2)
    return length / length.sum(dim=1, keepdim=True)


def _share(x: Tensor) -> Tensor:
    return x / x.sum(1, keepdim=True)


def _attended(generator: torch.Generator) -> Iterator[dict]:
    for n, shops, width in ((2, 3, 4), (4, 5, 2), (3, 2, 6)):
        weights = 2 * torch.randn(n, shops, generator=generator)
        weights[1, 0] = -torch.inf  # one shop is masked
        reach = 0.2 + 3 * torch.rand(n, shops, 1, generator=generator)
        yield {
            "weights": weights.softmax(1),
            "values": reach * torch.randn(n, shops, width, generator=generator),
        }


exercise_contribution = TEXTS.exercise(
    "exercise-contribution",
    cases=_attended,
    solution=contributions,
    mistakes={
        "weights alone": lambda w, v: w,
        "lengths alone": lambda w, v: _share(v.norm(dim=2)),
        "no shares": lambda w, v: w * v.norm(dim=2),
        "sum for length": lambda w, v: _share(w * v.sum(2)),
        "sizes for length": lambda w, v: _share(w * v.abs().sum(2)),
        "squared": lambda w, v: _share(w * v.square().sum(2)),
        "over the batch": lambda w, v: w * v.norm(dim=2) / (w * v.norm(dim=2)).sum(),
    },
)
