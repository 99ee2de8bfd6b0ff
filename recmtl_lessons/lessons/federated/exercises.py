"""Four exercises of the first half: the mean, clip and noise, a mask that cancels, and a round, which then trains."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from recmtl_lessons.lessons.federated.experiments import train_with
from recmtl_lessons.lessons.federated.pictures import describe_own, draw_own
from recmtl_lessons.lessons.federated.questions import TEXTS
from recmtl_lessons.teaching.exercise import Experiment


def average(updates, rows):
    """The mean of the clients' updates, each weighed by its number of rows."""
    return (rows[:, None] * updates).sum(0) / rows.sum()


def _sent(generator: torch.Generator) -> Iterator[dict]:
    for clients, size in ((3, 4), (5, 2), (1, 3), (4, 6)):
        updates = torch.randn(clients, size, generator=generator) + 0.5
        rows = torch.randint(1, 40, (clients,), generator=generator).float()
        if clients == 4:
            rows[2] = 0.0  # one who has nothing yet
        yield {"updates": updates, "rows": rows}


exercise_average = TEXTS.exercise(
    "exercise-average",
    cases=_sent,
    solution=average,
    mistakes={
        "weights forgotten": lambda updates, rows: updates.mean(0),
        "not divided": lambda updates, rows: (rows[:, None] * updates).sum(0),
        "divided by clients": lambda updates, rows: (rows[:, None] * updates).mean(0),
        "over the numbers": lambda updates, rows: (rows[:, None] * updates).sum(1) / rows.sum(),
        "softmax": lambda updates, rows: (rows.softmax(0)[:, None] * updates).sum(0),
        "rows squared": lambda updates, rows: (rows[:, None] ** 2 * updates).sum(0) / rows.square().sum(),
        "divided by the largest": lambda updates, rows: (rows[:, None] * updates).sum(0) / rows.max(),
    },
)


def private_mean(updates, clip, sigma, expected, noise):
    """The sum of the clipped updates and of noise made for one of them, over the expected number of clients."""
    length = updates.norm(dim=1, keepdim=True)
    clipped = updates * (clip / length.clamp(min=1e-12)).clamp(max=1.0)
    return (clipped.sum(0) + sigma * clip * noise) / expected


def _shortened(updates: Tensor, clip: float) -> Tensor:
    return updates * (clip / updates.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0)


def _private_with(
    clipped: Callable = _shortened,
    scale: Callable = lambda sigma, clip, expected: sigma * clip / expected,
    count: Callable = lambda updates, expected: expected,
) -> Callable:
    return lambda updates, clip, sigma, expected, noise: (
        clipped(updates, clip).sum(0) / count(updates, expected) + scale(sigma, clip, count(updates, expected)) * noise
    )


def _private(generator: torch.Generator) -> Iterator[dict]:
    for clients, size, clip, sigma, expected in ((5, 4, 0.8, 1.5, 7.5), (3, 6, 2.5, 0.7, 2.0), (6, 3, 1.3, 2.2, 4.5)):
        updates = torch.randn(clients, size, generator=generator)
        updates = updates / updates.norm(dim=1, keepdim=True) * clip * torch.linspace(0.3, 3.0, clients)[:, None]
        if clients == 6:
            updates[0] = 0.0  # nobody has to move
        noise = torch.randn(size, generator=generator)
        yield {"updates": updates, "clip": clip, "sigma": sigma, "expected": expected, "noise": noise}


exercise_private = TEXTS.exercise(
    "exercise-private",
    cases=_private,
    solution=private_mean,
    mistakes={
        "not clipped": _private_with(clipped=lambda updates, clip: updates),
        "each number": _private_with(clipped=lambda updates, clip: updates.clamp(-clip, clip)),
        "all lengthened": _private_with(
            clipped=lambda updates, clip: updates * clip / updates.norm(dim=1, keepdim=True).clamp(min=1e-12)
        ),
        "the sum clipped": _private_with(
            clipped=lambda updates, clip: _shortened(updates.sum(0, keepdim=True), clip),
        ),
        "one length for all": _private_with(
            clipped=lambda updates, clip: updates * (clip / updates.norm()).clamp(max=1.0),
        ),
        "clip missing": _private_with(scale=lambda sigma, clip, expected: sigma / expected),
        "not divided": _private_with(scale=lambda sigma, clip, expected: sigma * clip),
        "variance": _private_with(scale=lambda sigma, clip, expected: (sigma * clip) ** 2 / expected),
        "no noise": _private_with(scale=lambda sigma, clip, expected: 0.0),
        "those who came": _private_with(count=lambda updates, expected: len(updates)),
        "as a norm": _private_with(scale=lambda sigma, clip, expected: sigma * clip / expected**0.5),
    },
)


def masked(numbers, streams, client):
    """The numbers, plus the streams with later clients, minus those with earlier ones, modulo 2^32."""
    total = numbers.clone()
    for other in range(len(streams)):
        if other > client:
            total = total + streams[client, other]
        elif other < client:
            total = total - streams[client, other]
    return total % 2**32


def _masked_with(sign: Callable, left: Callable = lambda total: total % 2**32) -> Callable:
    def answer(numbers, streams, client):
        signs = torch.tensor([sign(client, other) for other in range(len(streams))])
        return left(numbers + (signs[:, None] * streams[client]).sum(0))

    return answer


def _order(client: int, other: int) -> int:
    return (other > client) - (other < client)


def _streams(generator: torch.Generator) -> Iterator[dict]:
    for clients, size, client in ((4, 3, 1), (5, 4, 4), (3, 5, 0), (6, 2, 3)):
        drawn = torch.randint(2**32, (clients, clients, size), generator=generator)
        both = torch.stack([torch.stack([drawn[min(i, j), max(i, j)] for j in range(clients)]) for i in range(clients)])
        numbers = torch.randint(2**22, (size,), generator=generator)
        yield {"numbers": numbers, "streams": both, "client": client}


exercise_mask = TEXTS.exercise(
    "exercise-mask",
    cases=_streams,
    solution=masked,
    mistakes={
        "all added": _masked_with(lambda client, other: int(other != client)),
        "its own as well": _masked_with(lambda client, other: 1 if other >= client else -1),
        "turned around": _masked_with(lambda client, other: -_order(client, other)),
        "no modulus": _masked_with(_order, left=lambda total: total),
        "another modulus": _masked_with(_order, left=lambda total: total % 2**22),
        "nothing masked": lambda numbers, streams, client: numbers,
        "the mask alone": lambda numbers, streams, client: masked(torch.zeros_like(numbers), streams, client),
        "one pair": _masked_with(lambda client, other: _order(client, other) if abs(other - client) == 1 else 0),
    },
)


# A round of one's own.

STEPS, LOCAL_RATE = 5, 0.1


def federated_round(w, gradient, rows):
    """Five local steps from w for each client, and w plus the mean of how far they moved, weighed by rows."""
    moved = []
    for client in range(len(rows)):
        own = w.clone()
        for _ in range(5):
            own = own - 0.1 * gradient(own, client)
        moved.append(own - w)
    return w + (rows[:, None] * torch.stack(moved)).sum(0) / rows.sum()


def _round_with(
    steps: int = STEPS,
    rate: float = LOCAL_RATE,
    at: Callable = lambda own, w: own,
    start: Callable = lambda w, before: w,
    weight: Callable = lambda rows: rows / rows.sum(),
    joined: Callable = lambda w, move: w + move,
) -> Callable:
    def answer(w, gradient, rows):
        moved, before = [], w
        for client in range(len(rows)):
            own = start(w, before)
            for _ in range(steps):
                own = own - rate * gradient(at(own, w), client)
            moved.append(own - w)
            before = own
        return joined(w, (weight(rows)[:, None] * torch.stack(moved)).sum(0))

    return answer


def _bowls(generator: torch.Generator) -> Iterator[dict]:
    """Clients whose losses are bowls, so that gradients are straight lines, each with another steepness and bottom."""
    for clients, size in ((3, 2), (4, 3), (2, 5)):
        rows = torch.randint(2, 30, (clients,), generator=generator).float()
        rows[0] += 40  # surely not all alike
        yield {
            "w": torch.randn(size, generator=generator),
            "steep": 0.5 + 2 * torch.rand(clients, size, generator=generator),
            "bottom": 2 * torch.randn(clients, size, generator=generator),
            "rows": rows,
        }


exercise_round = TEXTS.exercise(
    "exercise-round",
    cases=_bowls,
    call=lambda answer, w, steep, bottom, rows: answer(w, lambda v, c: steep[c] * (v - bottom[c]), rows),
    solution=federated_round,
    mistakes={
        "one step": _round_with(steps=1),
        "four steps": _round_with(steps=4),
        "gradient where it began": _round_with(at=lambda own, w: w),
        "one after another": _round_with(start=lambda w, before: before),
        "uphill": _round_with(rate=-LOCAL_RATE),
        "rate forgotten": _round_with(rate=1.0),
        "weights forgotten": _round_with(weight=lambda rows: torch.full_like(rows, 1 / len(rows))),
        "not divided": _round_with(weight=lambda rows: rows),
        "the move alone": _round_with(joined=lambda w, move: move),
        "moved away": _round_with(joined=lambda w, move: w - move),
        "rate once more": _round_with(joined=lambda w, move: w + LOCAL_RATE * move),
    },
    experiment=Experiment(
        train_with,
        draw_own,
        describe_own,
        alt="Error of new people over the rounds: the course's servers with one local step and with five. Yours come "
        "here.",
    ),
)
