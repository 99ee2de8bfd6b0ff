"""Networks with several tasks, many at once, each with its own way of weighing them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recmtl_lessons.models import balancing
from recmtl_lessons.training.progress import Moment
from recmtl_lessons.training.stacked import ManyModels


@dataclass(frozen=True)
class Now:
    """What a way of weighing may look at, n models with T tasks: (n, T) each, and the products (n, T, T)."""

    step: int
    steps: int
    losses: Tensor
    first: Tensor
    gram: Tensor | None


#: How n models weigh their tasks: made anew for a training, then asked at each step for weights, (n, T).
Weigher = Callable[[Now], Tensor]


@dataclass(frozen=True)
class Arm:
    """A way of weighing tasks.

    Attributes
    ----------
    start : callable (n_models, types) -> Weigher
    gradients : bool
        Whether it looks at the gradients' products.
    heads_too : bool
        Whether its weights hold for the heads as well, as where one task is trained at a time.
    """

    start: Callable[[int, Sequence[str]], Weigher]
    gradients: bool = False
    heads_too: bool = False


def fixed(*weights: float) -> Arm:
    return Arm(lambda n, types: lambda now: torch.tensor(weights).expand(n, -1))


def from_losses(rule: Callable[[Tensor], Tensor]) -> Arm:
    return Arm(lambda n, types: lambda now: rule(now.losses))


def from_gradients(rule: Callable[..., Tensor], **options) -> Arm:
    return Arm(lambda n, types: lambda now: rule(now.gram, **options), gradients=True)


def drawn_pcgrad() -> Arm:
    def start(n, types):
        generator = torch.Generator().manual_seed(0)
        return lambda now: balancing.pcgrad(now.gram.cpu(), generator=generator)

    return Arm(start, gradients=True)


def learned(rate: float, start_at: float = 0.0, penalty: bool = True) -> Arm:
    def start(n, types):
        weigh = balancing.UncertaintyWeights(types, start_at, (n,))
        optimizer = torch.optim.Adam(weigh.parameters(), lr=rate)

        def step(now):
            weights = weigh.weights
            total = weigh(now.losses).sum()
            if not penalty:
                total = total - weigh.log_variances.sum() / 2
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            return weights

        return step

    return Arm(start)


def gradnorm(rate: float, alpha: float) -> Arm:
    def start(n, types):
        weigh = balancing.GradNorm(len(types), alpha, (n,))
        optimizer = torch.optim.Adam(weigh.parameters(), lr=rate)

        def step(now):
            weights = weigh.weights
            norms = now.gram.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
            optimizer.zero_grad()
            weigh(norms, now.losses, now.first).sum().backward()
            optimizer.step()
            return weights

        return step

    return Arm(start, gradients=True)


def averaged(temperature: float, period: int = 20) -> Arm:
    def start(n, types):
        rule, state = balancing.DynamicWeightAverage(temperature), {"sum": 0.0, "weights": torch.ones(n, len(types))}

        def step(now):
            state["sum"] = state["sum"] + now.losses
            if (now.step + 1) % period == 0:
                state["weights"], state["sum"] = rule.update(state["sum"] / period), 0.0
            return state["weights"]

        return step

    return Arm(start)


def scheduled(schedule: balancing.TaskSchedule, lag: Callable[[Now], Tensor] | None = None, seed: int = 0) -> Arm:
    def start(n, types):
        generator = torch.Generator().manual_seed(seed)

        def step(now):
            task = schedule.choose(now.step, now.steps, lag(now) if lag else None, generator, (n,))
            return torch.nn.functional.one_hot(task, len(types)).float()

        return step

    return Arm(start, heads_too=True)


def train_balanced(
    build,
    streams,
    arms,
    seeds,
    learning_rate,
    steps,
    losses_of,
    types,
    every=20,
    measure=None,
    batch_size=128,
    optimizer="adam",
):
    """..."""
    n = len(seeds)
    models = (
        ManyModels(
            build,
            lambda *a: None,
            streams,
            {"arm": range(len(arms))},
            seeds,
            batch_size,
            learning_rate,
            optimizer=optimizer,
        )
        if False
        else ManyModels(
            build,
            lambda m, b, s, p: None,
            streams,
            {"arm": [float(k) for k in range(len(arms))]},
            seeds,
            batch_size,
            learning_rate,
            optimizer=optimizer,
        )
    )
    weighers = [arm.start(n, types) for arm in arms.values()]
    any_gram = any(arm.gradients for arm in arms.values())
    heads_too = torch.tensor([arm.heads_too for arm in arms.values()]).repeat_interleave(n)[:, None]
    first = None

    def objective(model, batch, setting):
        losses = losses_of(model, batch, batch["weights"])
        return (losses * batch["heads"]).sum(), {"losses": losses}

    def just(task):
        return lambda model, batch, setting: (losses_of(model, batch, None)[task], {})

    def look(model, batch, setting):
        losses = losses_of(model, batch, None)
        return losses.sum(), {"losses": losses}

    kept = []
    for step, batch in enumerate(models.batches(steps)):
        losses = models.evaluate(look, batch)[1]["losses"].detach().cpu()
        first = losses if first is None else first
        gram = None
        if any_gram:
            gradients = [
                {k: v for k, v in models.gradients(just(t), batch).items() if not k.startswith("heads.")}
                for t in range(len(types))
            ]
            gram = balancing.gram_matrix(gradients, 1).cpu()
        weights = torch.cat(
            [
                weigh(
                    Now(
                        step,
                        steps,
                        losses[k * n : (k + 1) * n],
                        first[k * n : (k + 1) * n],
                        None if gram is None else gram[k * n : (k + 1) * n],
                    )
                )
                for k, weigh in enumerate(weighers)
            ]
        ).float()
        heads = torch.where(heads_too, (weights != 0).float(), torch.ones_like(weights))
        models.update(objective, {**batch, "weights": weights.to(models.device), "heads": heads.to(models.device)})
        if (step + 1) % every == 0 or step + 1 == steps:
            kept.append((step + 1, weights, losses, measure(models) if measure else None))
            yield Moment(step + 1, steps), models, kept
