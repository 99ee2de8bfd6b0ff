"""Lesson 01's 56 networks as one stack, against the same 56 in plain PyTorch, one after another."""

import time
from collections.abc import Iterator

import torch
from torch import nn

from recmtl_lessons.lessons.domain_adversarial import LAMBDAS, SEEDS, many_networks, objective, open_shops
from recmtl_lessons.training import ManyModels

STEPS = 400


def measure(repeats: int = 3) -> Iterator[tuple[str, list[float], str]]:
    """Seconds for all 56, both ways in turn in this process with its threads, and their ratio.

    The plain way gets its networks built and its batches cut beforehand, for nothing; the stack's time holds both.
    """
    streams = open_shops().streams("click")
    warm = _stack(streams)
    batches = [list(warm.draw_batches(number, STEPS)) for number in range(warm.n_seeds)]
    list(warm.train(5))
    together, apart = [], []
    for _ in range(repeats):
        fresh = _stack(streams)
        models = [fresh.model(index).train() for index in range(len(fresh))]

        start = time.perf_counter()
        stack = _stack(streams)
        list(stack.train(STEPS, every=STEPS))
        together.append(time.perf_counter() - start)

        start = time.perf_counter()
        losses = [
            _train_one(m, s, batches[i % len(SEEDS)])
            for i, (m, s) in enumerate(zip(models, stack.settings, strict=True))
        ]
        apart.append(time.perf_counter() - start)
        _check_same(stack.history["loss"][:, -1], torch.stack(losses))
    yield f"{len(stack)} networks stacked, {STEPS} steps of {stack.batch_size}", together, "s"
    yield "the same one after another", apart, "s"
    yield "one after another / stacked", [a / t for a, t in zip(apart, together, strict=True)], "times"


def _stack(streams) -> ManyModels:
    return many_networks(streams, {"lam": LAMBDAS, "gamma": (10.0,)})


def _train_one(model: nn.Module, setting: dict[str, float], batches: list) -> torch.Tensor:
    """Train one network as anybody would; returns its last loss."""
    fast = list(model.domain_classifier.parameters())
    slow = [*model.encoder.parameters(), *model.task_heads.parameters()]
    groups = [{"params": slow, "lr": 1e-3}, {"params": fast, "lr": 5e-3}]
    optimizer = torch.optim.Adam(groups, betas=(0.5, 0.999), fused=True)
    setting = {name: torch.tensor(value) for name, value in setting.items()}
    for step, batch in enumerate(batches):
        loss, _ = objective(model, batch, setting, step / STEPS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.detach()


def _check_same(stacked: torch.Tensor, single: torch.Tensor) -> None:
    """Make sure that both ways did the same work: a typical loss agrees, though single trajectories may part."""
    if float((stacked - single).abs().median()) > 0.02:
        raise RuntimeError(f"the two ways trained different things: {stacked} and {single}")
