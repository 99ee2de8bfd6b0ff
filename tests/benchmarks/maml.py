"""MAML's meta-gradient for all tasks at once, against one task after another, and against `higher`.

Net 16-128-64-1, five inner steps, ten shots. Everything runs in one process with its number of threads; the ways take
turns, so that a machine that slows down meanwhile does so for all.
"""

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from recmtl_lessons.models import MAMLRecommender
from recmtl_lessons.training.device import settle_threads
from recmtl_lessons.training.stacked import _keep_freed_memory

TASKS = 32
CURVE = (4, 8, 16, 32, 64, 128, 256)
STEPS, SHOTS, RATE = 5, 10, 0.01

Gradient = list[Tensor]


def measure(repeats: int = 9) -> Iterator[tuple[str, list[float], str]]:
    """Milliseconds for one meta-gradient of 32 tasks each way, their ratios, and the cost over 4 to 256 tasks."""
    settle_threads()
    _keep_freed_memory()  # for all ways, as in every process that has trained a stack
    torch.manual_seed(0)
    model, tasks = MAMLRecommender(16, (128, 64), inner_lr=RATE, inner_steps=STEPS), draw_tasks(TASKS)
    ways: dict[str, Callable] = {"together": together, "apart": apart, "mapped": mapped}
    if _higher() is None:
        print("  higher is not installed: pip install -e '.[reference]'")
    else:
        ways["higher"] = with_higher
    expected = together(model, tasks)
    for way in ways.values():  # warm up, and make sure that all do the same work
        _check_same(way(model, tasks), expected)
    took = _in_turn({name: lambda way=way: way(model, tasks) for name, way in ways.items()}, repeats)
    labels = {
        "together": f"{TASKS} tasks at once, as meta_update",
        "mapped": "the same by torch.vmap over inner_update",
        "apart": "one task after another, plain autograd",
        "higher": "one task after another, higher",
    }
    for name, values in took.items():
        yield labels[name], values, "ms"
    for name in ("apart", "higher"):
        if name in took:
            ratios = [slow / fast for slow, fast in zip(took[name], took["together"], strict=True)]
            yield f"{labels[name]} / at once", ratios, "times"
    yield from _curve(model, min(repeats, 5))


def _curve(model: MAMLRecommender, repeats: int) -> Iterator[tuple[str, list[float], str]]:
    for count in CURVE:
        tasks = draw_tasks(count)
        jobs = {"at once": lambda t=tasks: together(model, t), "one by one": lambda t=tasks: apart(model, t)}
        for name, values in _in_turn(jobs, repeats).items():
            yield f"{count} tasks, {name}, a task", [value / count for value in values], "ms"


def draw_tasks(count: int) -> tuple[Tensor, ...]:
    """Stacked tasks of random numbers."""
    x, y = torch.randn(2, count, SHOTS, 16), torch.randn(2, count, SHOTS)
    return x[0], y[0], x[1], y[1]


def together(model: MAMLRecommender, tasks: tuple[Tensor, ...]) -> Gradient:
    """The package's way."""
    return list(torch.autograd.grad(model.query_losses(tasks).mean(), model.parameters()))


def mapped(model: MAMLRecommender, tasks: tuple[Tensor, ...]) -> Gradient:
    """`torch.vmap` over the inner loop of one task."""

    def one(support_x, support_y, query_x, query_y):
        adapted = model.inner_update(support_x, support_y, STEPS)
        return F.mse_loss(model(query_x, adapted).squeeze(1), query_y)

    return list(torch.autograd.grad(torch.vmap(one)(*tasks).mean(), model.parameters()))


def apart(model: MAMLRecommender, tasks: tuple[Tensor, ...]) -> Gradient:
    """A plain loop over tasks as anybody would write it, without the package's checks."""
    losses = []
    for support_x, support_y, query_x, query_y in zip(*tasks, strict=True):
        params = dict(model.named_parameters())
        for _ in range(STEPS):
            loss = F.mse_loss(_answer(model, params, support_x), support_y)
            gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            params = {name: p - RATE * g for (name, p), g in zip(params.items(), gradients, strict=True)}
        losses.append(F.mse_loss(_answer(model, params, query_x), query_y))
    return list(torch.autograd.grad(torch.stack(losses).mean(), model.parameters()))


def _answer(model: MAMLRecommender, params: dict[str, Tensor], x: Tensor) -> Tensor:
    return functional_call(model, params, (x,)).squeeze(1)


def with_higher(model: MAMLRecommender, tasks: tuple[Tensor, ...]) -> Gradient:
    """The library `higher`, as its own examples use it: one task after another, gradients added up."""
    higher, optimizer = _higher(), torch.optim.SGD(model.parameters(), lr=RATE)
    total = [torch.zeros_like(p) for p in model.parameters()]
    for support_x, support_y, query_x, query_y in zip(*tasks, strict=True):
        with higher.innerloop_ctx(model, optimizer, copy_initial_weights=False) as (functional, stepper):
            for _ in range(STEPS):
                stepper.step(F.mse_loss(functional(support_x).squeeze(1), support_y))
            loss = F.mse_loss(functional(query_x).squeeze(1), query_y)
            gradients = torch.autograd.grad(loss, model.parameters())
        for sum_, gradient in zip(total, gradients, strict=True):
            sum_ += gradient / len(tasks[0])
    return total


def _higher():
    try:
        import higher
    except ImportError:
        return None
    return higher


def _in_turn(jobs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            took[name].append(1_000 * (time.perf_counter() - start))
    return took


def _check_same(one: Gradient, other: Gradient) -> None:
    apart_by = max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))
    if not apart_by < 1e-5:
        raise RuntimeError(f"the ways compute different meta-gradients, up to {apart_by:g} apart")
