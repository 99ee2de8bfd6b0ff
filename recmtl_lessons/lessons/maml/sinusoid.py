"""The sinusoid of Finn et al.: the first meeting with MAML, and the full run as one command.

``python -m recmtl_lessons.lessons.maml`` trains 15,000 updates for five and for ten points, some minutes, and
prints the table that `FULL_RUN` keeps. ``--updates`` and ``--tasks`` change its length.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.lessons.maml.experiments import SETTINGS
from recmtl_lessons.models import MAMLRecommender
from recmtl_lessons.training import ManyModels, Scores, concurrently_for
from recmtl_lessons.training.few_shot import FIELDS, joint_objective

AT_STEPS = (0, 1, 5, 10)
RATE = SETTINGS["waves"]["MAML"]  # of the inner steps, as in the paper
SHORT_UPDATES = 300
SHORT_TASKS = 8  # an update; the paper has 25
SHORT_RATE = 0.004  # Adam's; the paper has 0.001
SHORT_STEPS = 10
FULL_RUN = SETTINGS["full_run"]


def heights(x: Tensor, amplitude: Tensor, phase: Tensor) -> Tensor:
    """Return sine waves at x, (T, points); amplitude and phase are (T, 1)."""
    return amplitude * torch.sin(x - phase)


def draw_waves(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw amplitudes from 0.1 to 5 and phases from 0 to pi (Finn et al. 2017, section 5.1), (T, 1) each."""
    amplitude = 0.1 + 4.9 * torch.rand(count, 1, generator=generator)
    return amplitude, math.pi * torch.rand(count, 1, generator=generator)


def draw_tasks(count: int, points: int, queries: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Draw stacked tasks: points x from -5 to 5 of a wave each, (T, points, 1), (T, points), and the same to query."""
    waves = draw_waves(count, generator)
    x = 10 * torch.rand(count, points + queries, generator=generator) - 5
    y = heights(x, *waves)
    return x[:, :points, None], y[:, :points], x[:, points:, None], y[:, points:]


@dataclass(frozen=True)
class ShortRun:
    """What a training of seconds came to.

    Attributes
    ----------
    error : Scores of "MAML" and "joint"
        Mean squared error over 200 new waves after each inner step on ten points.
    networks : dict {"MAML", "joint": list of MAMLRecommender}
    """

    error: Scores
    networks: dict[str, list[MAMLRecommender]]


def network() -> MAMLRecommender:
    """Return the paper's network: two hidden layers of 40, one inner step in training."""
    return MAMLRecommender(1, (40, 40), inner_lr=RATE, inner_steps=1)


def _meta(model, batch, setting, progress):
    return model.query_losses(tuple(batch["users"][field] for field in FIELDS)).mean(), {}  # at the network's own rate


def short_run(seeds: Sequence[int] = SEEDS, updates: int = SHORT_UPDATES) -> ShortRun:
    """Train MAML and a joint network on the same waves, eight seeds at once, and let both fit new waves."""
    networks = concurrently_for(SETTINGS["waves"], lambda name: _networks(name, seeds, updates))
    error = {
        name: torch.stack([_error_by_step(net, seed, rate) for net, seed in zip(networks[name], seeds, strict=True)])
        for name, rate in SETTINGS["waves"].items()
    }
    return ShortRun(Scores.of("squared error", error, range(SHORT_STEPS + 1)), networks)


def _networks(name: str, seeds: Sequence[int], updates: int) -> list[MAMLRecommender]:
    drawn = [draw_tasks(2_000, 10, 10, torch.Generator().manual_seed(seed)) for seed in seeds]
    data = {"users": {field: torch.stack([d[k] for d in drawn]) for k, field in enumerate(FIELDS)}}  # a wave is a user
    objective = {"MAML": _meta, "joint": joint_objective}[name]
    models = ManyModels(network, objective, data, [{"none": 0.0}], seeds, SHORT_TASKS, SHORT_RATE)
    models.fit(updates, label=f"sinusoid, {name}", every=updates)
    return [models.model(k) for k in range(len(seeds))]


@torch.no_grad()
def _error_by_step(model: MAMLRecommender, seed: int, rate: float) -> Tensor:
    x, y, new_x, new_y = draw_tasks(200, 10, 100, torch.Generator().manual_seed(10_000 + seed))
    step = torch.vmap(lambda params, x, y: model.inner_update(x, y, params=params, inner_lr=rate))
    ask = torch.vmap(lambda params, x, y: (model(x, params).squeeze(1) - y).square().mean())
    params = {name: value.expand(len(x), *value.shape) for name, value in model.named_weights().items()}
    losses = [ask(params, new_x, new_y).mean()]
    for _ in range(SHORT_STEPS):
        params = step(params, x, y)
        losses.append(ask(params, new_x, new_y).mean())
    return torch.stack(losses)


def score_joint_waves(rates: Sequence[float] = SETTINGS["tried_of_waves"]) -> dict[float, float]:
    """Score rates by the joint networks' error after five steps, on the design seeds: so theirs was chosen."""
    networks = list(zip(DESIGN_SEEDS, _networks("joint", DESIGN_SEEDS, SHORT_UPDATES), strict=True))
    return {
        rate: float(torch.stack([_error_by_step(net, seed, rate)[5] for seed, net in networks]).mean())
        for rate in rates
    }


@dataclass(frozen=True)
class Fit:
    """One new wave, fitted step by step by the first network of each arm.

    Attributes
    ----------
    x : Tensor, (P,)
        Where the curves are drawn.
    truth : Tensor, (P,)
    points_x, points_y : Tensor, (points,)
    curves : dict {"MAML", "joint": Tensor (SHORT_STEPS + 1, P)}
    error : dict {"MAML", "joint": Tensor (SHORT_STEPS + 1,)}
        Mean squared distance of the curve from the wave, after each step.
    """

    x: Tensor
    truth: Tensor
    points_x: Tensor
    points_y: Tensor
    curves: dict[str, Tensor]
    error: dict[str, Tensor]


@torch.no_grad()
def fit_a_wave(run: ShortRun, amplitude: float, phase: float, points: int) -> Fit:
    """Let the first network of each arm take `SHORT_STEPS` steps on some points of one wave."""
    wave = torch.tensor([[amplitude]]), torch.tensor([[phase]])
    points_x = 10 * torch.rand(1, 20, generator=torch.Generator().manual_seed(0))[:, :points] - 5
    x = torch.linspace(-5, 5, 121)[None]
    points_y, truth = heights(points_x, *wave), heights(x, *wave)
    curves = {}
    for name, models in run.networks.items():
        model, params, curve = models[0], None, [models[0](x.T).squeeze(1)]
        for _ in range(SHORT_STEPS):
            params = model.inner_update(points_x.T, points_y[0], params=params, inner_lr=SETTINGS["waves"][name])
            curve.append(model(x.T, params).squeeze(1))
        curves[name] = torch.stack(curve)
    error = {name: (curve - truth).square().mean(1) for name, curve in curves.items()}
    return Fit(x[0], truth[0], points_x[0], points_y[0], curves, error)


# The full run.


def full_run(points: int, updates: int = 15_000, tasks: int = 25, seed: int = 0) -> tuple[tuple[float, float], ...]:
    """Train the paper's network at its rates and waves an update.

    Returns
    -------
    tuple of (float, float)
        At each of `AT_STEPS`, the mean squared error on 600 new waves, and 1.96 standard errors.
    """
    torch.manual_seed(seed)
    model, generator = network(), torch.Generator().manual_seed(seed)
    for update in range(1, updates + 1):
        loss = model.meta_update(draw_tasks(tasks, points, points, generator))
        if update % max(1, updates // 15) == 0:
            print(f"K = {points}, update {update:,} of {updates:,}, loss {loss:.2f}", flush=True)
    new = draw_tasks(600, points, 100, torch.Generator().manual_seed(1_000_000 + seed))
    return tuple(_with_interval(model, new, steps) for steps in AT_STEPS)


@torch.no_grad()
def _with_interval(model: MAMLRecommender, tasks: tuple[Tensor, ...], steps: int) -> tuple[float, float]:
    losses = model.query_losses(tasks, num_steps=steps)
    return float(losses.mean()), 1.96 * float(losses.std()) / len(losses) ** 0.5


def table(results: Mapping[int, Sequence[tuple[float, float]]]) -> str:
    """Return the results as text: a row for each number of points, a column for each number of steps."""
    lines = ["points  " + "".join(f"{f'{steps} step' + 's' * (steps != 1):>16}" for steps in AT_STEPS)]
    for points, cells in results.items():
        lines.append(f"{points:>6}  " + "".join(f"{f'{mean:.2f} ± {half:.2f}':>16}" for mean, half in cells))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both halves of the table and print it."""
    parser = argparse.ArgumentParser(prog="python -m recmtl_lessons.lessons.maml", description=__doc__)
    parser.add_argument("--updates", type=int, default=15_000)
    parser.add_argument("--tasks", type=int, default=25, help="waves an update")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    if asked.updates < 1 or asked.tasks < 1 or asked.seed < 0:
        parser.error("updates and tasks must be at least 1, seed at least 0")
    results = {points: full_run(points, asked.updates, asked.tasks, asked.seed) for points in (5, 10)}
    print(f"mean squared error on 600 new waves, 95 % intervals, after {asked.updates:,} updates")
    print(table(results))
