"""Four exercises: the Fisher, the penalty, which then trains, the reservoir, and a continual learner of one's own."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recmtl_lessons.datasets.arrivals import Arrivals
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.lessons.continual.experiments import auc_of, make_network, open_clues, train_with
from recmtl_lessons.lessons.continual.pictures import describe_matrices, describe_own, draw_matrices, draw_own
from recmtl_lessons.lessons.continual.questions import TEXTS
from recmtl_lessons.teaching import Running
from recmtl_lessons.teaching.exercise import Experiment

BUDGET = 2500  # numbers that a learner may keep between two domains


def fisher(slopes, logits):
    """The mean over rows of p (1 - p) times the squared slope."""
    p = logits.sigmoid()
    return ((p * (1 - p))[:, None] * slopes**2).mean(0)


def _fisher_with(
    share: Callable = lambda p: p * (1 - p),
    square: Callable = lambda weights, slopes: (weights[:, None] * slopes**2).mean(0),
) -> Callable:
    return lambda slopes, logits: square(share(logits.sigmoid()), slopes)


def _rows_of_slopes(generator: torch.Generator) -> Iterator[dict]:
    for n, weights in ((6, 3), (4, 4), (9, 2)):
        slopes = 0.5 + torch.randn(n, weights, generator=generator)
        yield {"slopes": slopes, "logits": 2 * torch.randn(n, generator=generator)}


exercise_fisher = TEXTS.exercise(
    "exercise-fisher",
    cases=_rows_of_slopes,
    solution=fisher,
    mistakes={
        "a batch's gradient": _fisher_with(square=lambda w, s: (w.sqrt()[:, None] * s).mean(0) ** 2),
        "a batch's gradient, weighted": _fisher_with(square=lambda w, s: (w[:, None] * s).mean(0) ** 2),
        "a batch's slope": _fisher_with(square=lambda w, s: s.mean(0) ** 2),
        "mean first": _fisher_with(square=lambda w, s: w.mean() * s.mean(0) ** 2),
        "logit for chance": lambda slopes, logits: ((logits * (1 - logits))[:, None] * slopes**2).mean(0),
        "slopes not squared": _fisher_with(square=lambda w, s: (w[:, None] * s).mean(0)),
        "chances left out": _fisher_with(share=torch.ones_like),
        "only one label": _fisher_with(share=lambda p: p),
        "the other label": _fisher_with(share=lambda p: 1 - p),
        "chances squared": _fisher_with(share=lambda p: (p * (1 - p)) ** 2),
        "only its own label's error": _fisher_with(share=lambda p: (1 - p) ** 2),
        "sum for mean": _fisher_with(square=lambda w, s: (w[:, None] * s**2).sum(0)),
        "over the weights": lambda slopes, logits: _fisher_with()(slopes, logits).mean().expand(slopes.shape[1]),
    },
)


def penalty(weights, anchor, fisher):
    """Half the sum of Fisher times squared distance, over the weights that the Fisher knows."""
    return sum((fisher[name] * (weights[name] - anchor[name]) ** 2).sum() for name in fisher) / 2


def _penalty_with(
    part: Callable = lambda f, w, a: (f * (w - a) ** 2).sum(), factor: float = 0.5, at: Callable = lambda w: w
) -> Callable:
    return lambda weights, anchor, fisher: (
        factor * sum(part(fisher[name], at(weights[name]), anchor[name]) for name in fisher)
    )


def _all_held(weights, anchor, fisher):
    new = [value.square().sum() for name, value in weights.items() if name not in fisher]
    return penalty(weights, anchor, fisher) + sum(new) / 2


def _networks(generator: torch.Generator) -> Iterator[dict]:
    for n, m in ((2, 3), (3, 3), (4, 1)):
        shapes = {"encoder": (n, m), "head of books": (m,)}

        def normal(shape: tuple) -> Tensor:
            return torch.randn(shape, generator=generator)

        weights = {name: normal(shape).requires_grad_() for name, shape in shapes.items()}
        later = {"head of films": normal((m + 1,)).requires_grad_()}
        yield {
            "weights": {**weights, **later},
            "anchor": {name: normal(shape) for name, shape in shapes.items()},
            "fisher": {name: normal(shape).square() for name, shape in shapes.items()},
        }


exercise_penalty = TEXTS.exercise(
    "exercise-penalty",
    cases=_networks,
    solution=penalty,
    mistakes={
        "no half": _penalty_with(factor=1.0),
        "held alike": _penalty_with(lambda f, w, a: ((w - a) ** 2).sum()),
        "distance not squared": _penalty_with(lambda f, w, a: (f * (w - a).abs()).sum()),
        "to zero": _penalty_with(lambda f, w, a: (f * w**2).sum()),
        "Fisher squared": _penalty_with(lambda f, w, a: (f**2 * (w - a) ** 2).sum()),
        "Fisher within the square": _penalty_with(lambda f, w, a: (f * (w - a)).sum() ** 2),
        "means": _penalty_with(lambda f, w, a: (f * (w - a) ** 2).mean()),
        "wrong sign": _penalty_with(factor=-0.5),
        "later weights held": _all_held,
        "detached": _penalty_with(at=lambda w: w.detach()),
    },
    experiment=Experiment(
        train_with,
        draw_own,
        describe_own,
        alt="AUC of books while films and games are learned: the course's networks without and with the penalty. "
        "Yours come here.",
    ),
)


def keep(memory, row, seen, capacity, draw):
    """Row number seen + 1 of a stream takes a random place among so many; it is kept if the memory has that place."""
    if len(memory) < capacity:
        return [*memory, row]
    place = int(draw * (seen + 1))
    return [row if k == place else kept for k, kept in enumerate(memory)]


def _keep_with(place_of: Callable = lambda draw, seen, capacity: int(draw * (seen + 1)), fill: bool = True) -> Callable:
    def answer(memory, row, seen, capacity, draw):
        if fill and len(memory) < capacity:
            return [*memory, row]
        place = place_of(draw, seen, capacity)
        return [row if k == place else kept for k, kept in enumerate(memory)]

    return answer


def _streams(generator: torch.Generator) -> Iterator[dict]:
    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    for capacity, seen, low, high in (
        (4, 2, 0.0, 1.0),  # still filling
        (4, 4, 0.61, 0.66),  # the first that may be refused, and is not
        (3, 9, 0.0, 0.29),
        (5, 20, 0.3, 1.0),  # refused
        (6, 11, 0.1, 0.4),
    ):
        memory = torch.randperm(90, generator=generator)[: min(seen, capacity)].tolist()
        yield {
            "memory": memory,
            "row": int(uniform(90, 999)),
            "seen": seen,
            "capacity": capacity,
            "draw": uniform(low, high),
        }


exercise_reservoir = TEXTS.exercise(
    "exercise-reservoir",
    cases=_streams,
    solution=keep,
    mistakes={
        "always kept": _keep_with(lambda draw, seen, capacity: int(draw * capacity)),
        "one too few": _keep_with(lambda draw, seen, capacity: int(draw * seen)),
        "the last ones": lambda memory, row, seen, capacity, draw: [*memory, row][-capacity:],
        "the first ones": lambda memory, row, seen, capacity, draw: [*memory, row][:capacity],
        "not filled": _keep_with(fill=False),
        "the oldest goes": lambda memory, row, seen, capacity, draw: (
            [*memory, row] if len(memory) < capacity else [*memory[1:], row] if draw * (seen + 1) < capacity else memory
        ),
        "at the end": lambda memory, row, seen, capacity, draw: (
            [*memory, row]
            if len(memory) < capacity
            else [kept for k, kept in enumerate(memory) if k != int(draw * (seen + 1))] + [row]
            if draw * (seen + 1) < capacity
            else memory
        ),
    },
)


# A continual learner of one's own.


def learn(model, domain, x, clicks, memory):
    """Train on the new rows, and keep what the network answered on them for the domains before."""
    old = memory.get("network")  # the weights as they were
    known = memory.get("domains", [])
    with torch.no_grad():
        asked = {d: torch.func.functional_call(model, old, (x, d)).squeeze(1) for d in known}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(80):
        rows = torch.randint(len(x), (128,))
        loss = F.binary_cross_entropy_with_logits(model(x[rows], domain).squeeze(1), clicks[rows])
        for d in known:
            expected = asked[d][rows].sigmoid()
            loss = loss + F.binary_cross_entropy_with_logits(model(x[rows], d).squeeze(1), expected)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    memory["network"] = {name: value.detach().clone() for name, value in model.named_parameters()}
    memory["domains"] = [*known, domain]


def _plainly(model, domain, x, clicks, also: tuple = ()):
    """Train on rows of one domain, and on others that were kept."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(80):
        loss = 0.0
        for name, inputs, labels in ((domain, x, clicks), *also):
            rows = torch.randint(len(inputs), (128,))
            loss = loss + F.binary_cross_entropy_with_logits(model(inputs[rows], name).squeeze(1), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _naive(model, domain, x, clicks, memory):
    _plainly(model, domain, x, clicks)


def _hoarder(model, domain, x, clicks, memory):
    _plainly(model, domain, x, clicks, also=tuple(memory.get("rows", ())))
    memory["rows"] = [*memory.get("rows", ()), (domain, x, clicks)]


def _first_alone(model, domain, x, clicks, memory):
    if not memory:
        _plainly(model, domain, x, clicks)
    memory["done"] = True


def _idle(model, domain, x, clicks, memory):
    pass


@lru_cache(maxsize=4)
def _judging(seed: int) -> Arrivals:
    return open_clues(seeds=DESIGN_SEEDS).one(seed)


def _through_the_stream(answer: Callable, seed: int) -> dict[str, Tensor]:
    """Hand an answer the three domains in turn; return the matrix of AUCs, and what it kept."""
    return matrix_of(answer, _judging(seed), DESIGN_SEEDS[seed])


def matrix_of(answer: Callable, shop: Arrivals, seed: int) -> dict[str, Tensor]:
    """Return the AUC of each domain after each, (3, 3), and how many numbers were kept between two calls, (2,).

    Each call gets a new network with the weights of the one before, so that nothing else can be kept in it.
    """
    model, memory, matrix, kept = make_network(seed), {}, [], []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for domain, fields in shop.train.items():
            if matrix:
                kept.append(float(_numbers_in(memory)))
            answer(model, domain, fields["x"].clone(), fields["click"].clone(), memory)
            weights, model = model.state_dict(), make_network(seed)
            model.load_state_dict(weights)
            matrix.append([auc_of(model, shop, d) for d in shop.domains])
    return {"matrix": torch.tensor(matrix), "kept": torch.tensor(kept)}


def _numbers_in(value: object) -> int:
    """How many numbers something holds, with all that it consists of; texts do not count."""
    if isinstance(value, (Tensor, np.ndarray)):
        return value.numel() if isinstance(value, Tensor) else value.size
    if value is None or isinstance(value, (str, bytes, bool)):
        return 0
    if isinstance(value, (int, float, complex)):
        return 1
    if isinstance(value, nn.Module):
        return sum(map(_numbers_in, (*value.parameters(), *value.buffers())))
    if isinstance(value, Mapping):
        return sum(map(_numbers_in, value.values()))
    if isinstance(value, Iterable):
        return sum(map(_numbers_in, value))
    return sum(map(_numbers_in, vars(value).values())) if hasattr(value, "__dict__") else 1


@lru_cache(maxsize=1)
def yardsticks() -> tuple[float, float]:
    """Return the mean AUC at the end of doing nothing and of keeping all rows, over the seeds that judge."""
    return tuple(
        sum(float(_through_the_stream(how, seed)["matrix"][-1].mean()) for seed in _JUDGES) / len(_JUDGES)
        for how in (_naive, _hoarder)
    )


_JUDGES = (0, 1)


def _judged(ask: Callable) -> str | None:
    """Say what is wrong with a learner; None where it ends nearer to keeping all rows than to doing nothing."""
    messages = TEXTS.messages("exercise-learner")
    runs = [ask(seed=seed) for seed in _JUDGES]
    matrices, kept = [run["matrix"] for run in runs], max(float(run["kept"].max()) for run in runs)
    learned = torch.stack([m.diagonal() for m in matrices]).mean(0)  # (3,)
    average = sum(float(m[-1].mean()) for m in matrices) / len(matrices)
    low, high = yardsticks()
    if kept > BUDGET:
        return messages["keeps everything"]
    if learned[0] < 0.7:
        return messages["learns nothing"]
    if learned[1:].min() < 0.7:
        return messages["learns nothing new"]
    if average < (low + high) / 2:
        return messages["forgets"]
    return None


def train_learner(answer: Callable) -> Iterator[Running]:
    """Hand an answer the shops of the claims' first three seeds, one after another."""
    shops, found = open_clues(), []
    for k in range(3):
        found.append(matrix_of(answer, shops.one(k), SEEDS[k])["matrix"])
        yield Running(k + 1, 3, lambda: torch.stack(found), "seed")
    return torch.stack(found)


exercise_learner = TEXTS.exercise(
    "exercise-learner",
    judge=_judged,
    call=_through_the_stream,
    solution=learn,
    mistakes={
        "forgets": _naive,
        "keeps everything": _hoarder,
        "learns nothing new": _first_alone,
        "learns nothing": _idle,
    },
    experiment=Experiment(
        train_learner,
        draw_matrices,
        describe_matrices,
        alt="The mean AUC after each domain: doing nothing, and keeping all rows. Yours comes here.",
    ),
)
