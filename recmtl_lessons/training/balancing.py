"""Networks with several tasks, many at once, each with its own way of weighing them."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recmtl_lessons.datasets.two_tasks import Tasks
from recmtl_lessons.models import balancing
from recmtl_lessons.models.balancing import SharedBottomNetwork, TaskSchedule
from recmtl_lessons.training.progress import Moment, with_bar
from recmtl_lessons.training.stacked import ManyModels

#: Losses of predicting the mean of standardised ratings, and of a coin flip: what a task has before it is learned.
UNLEARNED = {"regression": 1.0, "classification": 0.6931472}


@dataclass(frozen=True)
class Now:
    """What a way of weighing T tasks may look at, n models side by side.

    Attributes
    ----------
    step, steps : int
        The step's number, from 0, and how many there are.
    losses, first : Tensor, (n, T)
        On this step's batch, and on the first step's.
    gram : Tensor, (n, T, T)
        Products of the gradients of what the tasks share.
    """

    step: int
    steps: int
    losses: Tensor
    first: Tensor
    gram: Tensor

    @property
    def norms(self) -> Tensor:
        """Return the lengths of those gradients, (n, T)."""
        return self.gram.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()


#: Asked at each step for weights, (n, T) or (T,); made anew for each training.
Weigher = Callable[[Now], Tensor]


@dataclass(frozen=True)
class Arm:
    """A way of weighing tasks.

    Attributes
    ----------
    start : callable (n_models, types) -> Weigher
    heads_too : bool
        Whether its weights hold for the heads as well, as where one task is trained at a time, or where the paper's
        total is taken as it is.
    """

    start: Callable[[int, Sequence[str]], Weigher]
    heads_too: bool = False


def fixed(*weights: float) -> Arm:
    """Return static weights."""
    return Arm(lambda n, types: lambda now: torch.tensor(weights))


def by_losses(rule: Callable[[Tensor], Tensor]) -> Arm:
    """Return weights that a function reads off the losses."""
    return Arm(lambda n, types: lambda now: rule(now.losses))


def by_gradients(rule: Callable[..., Tensor], **options) -> Arm:
    """Return weights that a function reads off the gradients' products."""
    return Arm(lambda n, types: lambda now: rule(now.gram, **options))


def projected(seed: int = 0) -> Arm:
    """Return the weights of `pcgrad`, with orders that are drawn from a seed."""

    def start(n: int, types: Sequence[str]) -> Weigher:
        generator = torch.Generator().manual_seed(seed)
        return lambda now: balancing.pcgrad(now.gram, generator=generator)

    return Arm(start)


def by_uncertainty(rate: float, objective: Callable[[nn.Module, Tensor], Tensor] | None = None) -> Arm:
    """Return learned log-variances, with the rate of an Adam of their own.

    Parameters
    ----------
    rate : float
        0: they are never given to an optimizer.
    objective : callable (UncertaintyWeights, losses) -> Tensor, optional
        What they minimise; their own total unless given.
    """

    def start(n: int, types: Sequence[str]) -> Weigher:
        weigh = balancing.UncertaintyWeights(types, size=(n,))
        minimised = objective or (lambda weigh, losses: weigh(losses))
        return _learned(weigh, rate, lambda now: minimised(weigh, now.losses))

    return Arm(start)


def by_norms(rate: float, alpha: float) -> Arm:
    """Return the weights of `GradNorm`, with the rate of an Adam of their own."""

    def start(n: int, types: Sequence[str]) -> Weigher:
        weigh = balancing.GradNorm(len(types), alpha, size=(n,))
        return _learned(weigh, rate, lambda now: weigh(now.norms, now.losses, now.first))

    return Arm(start)


def _learned(weigh: nn.Module, rate: float, objective: Callable[[Now], Tensor]) -> Weigher:
    optimizer = torch.optim.Adam(weigh.parameters(), lr=rate)

    def weights(now: Now) -> Tensor:
        found = weigh.weights
        if rate:
            optimizer.zero_grad()
            objective(now).sum().backward()
            optimizer.step()
        return found

    return weights


def by_progress(temperature: float, period: int = 20) -> Arm:
    """Return the weights of `DynamicWeightAverage`; a period has so many steps."""

    def start(n: int, types: Sequence[str]) -> Weigher:
        rule, losses = balancing.DynamicWeightAverage(temperature), []
        weights = torch.ones(n, len(types))

        def weigher(now: Now) -> Tensor:
            nonlocal weights
            losses.append(now.losses)
            if len(losses) == period:
                weights = rule.update(torch.stack(losses).mean(0))
                losses.clear()
            return weights

        return weigher

    return Arm(start)


def annealed(first: Sequence[float], last: Sequence[float]) -> Arm:
    """Return weights on a straight line from the first to the last."""
    a, b = torch.tensor(first, dtype=torch.float32), torch.tensor(last, dtype=torch.float32)
    return Arm(lambda n, types: lambda now: torch.lerp(a, b, now.step / max(1, now.steps - 1)))


def unlearned(types: Sequence[str]) -> Callable[[Now], Tensor]:
    """Return a measure of how much a task lags: its loss as a share of that of an answer that knows no features."""
    bare = torch.tensor([UNLEARNED[kind] for kind in types])
    return lambda now: now.losses / bare


def scheduled(schedule: TaskSchedule, lag: Callable[[Now], Tensor] | None = None, seed: int = 0) -> Arm:
    """Return one task a step, by a schedule; what is drawn comes from a seed."""

    def start(n: int, types: Sequence[str]) -> Weigher:
        generator = torch.Generator().manual_seed(seed)

        def weigher(now: Now) -> Tensor:
            task = schedule.choose(now.step, now.steps, lag(now) if lag else None, generator, (n,))
            return F.one_hot(task, len(types)).float()

        return weigher

    return Arm(start, heads_too=True)


@dataclass(frozen=True)
class Recipe:
    """How networks are made and trained.

    Attributes
    ----------
    learning_rate : float
        Adam's.
    hidden_dims : tuple of int
    steps : int
    batch_size : int
    linear : bool
        Whether the shared layers do without ReLUs.
    """

    learning_rate: float
    hidden_dims: tuple[int, ...] = (4,)
    steps: int = 300
    batch_size: int = 64
    linear: bool = False

    def build(self, tasks: Tasks) -> SharedBottomNetwork:
        """Return one network, drawn from torch's generator."""
        return SharedBottomNetwork(tasks.feature_dim, tasks.types, self.hidden_dims, self.linear)


@dataclass
class Trained:
    """What a training has come to so far: A arms, S seeds, T tasks.

    Attributes
    ----------
    models : ManyModels
        Arm after arm, with the seeds of each.
    arms : tuple
    steps : list of int
        The moments.
    weights, losses : list of Tensor, (A, S, T)
        At each moment: the weights of its step, and each task's loss on held-out rows.
    """

    models: ManyModels
    arms: tuple[Hashable, ...]
    steps: list[int] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)


def loss_of_each(types: Mapping[str, str], model: nn.Module, batch: Mapping) -> dict[str, Tensor]:
    """Return each task's loss on its own stream of a batch, {task: Tensor ()}."""
    answers = {stream: model(fields["x"]) for stream, fields in batch.items()}
    found = {}
    for task, kind in types.items():
        stream = next(name for name, fields in batch.items() if task in fields)
        (found[task],) = balancing.task_losses(answers[stream], batch[stream], {task: kind})
    return found


def losses_of(types: Mapping[str, str], model: nn.Module, batch: Mapping) -> Tensor:
    """Return the tasks' losses on a batch, (T,)."""
    return torch.stack(list(loss_of_each(types, model, batch).values()))


def balance(
    tasks: Tasks,
    arms: Mapping[Hashable, Arm],
    seeds: Sequence[int],
    recipe: Recipe,
    every: int | None = None,
    by: str = "test",
    rates: Mapping[Hashable, float] | None = None,
) -> Iterator[tuple[Moment, Trained]]:
    """Train one network for each arm and seed, all side by side.

    Networks of one seed start from the same weights and see the same batches. Each step asks every arm for its weights,
    and then moves what is shared by the weighted sum of the tasks' gradients, and each head by its own.

    Parameters
    ----------
    tasks : Tasks
    arms : mapping {name: Arm}
    seeds : sequence of int
        As many as the tasks have.
    recipe : Recipe
    every : int, optional
        Steps between two moments; the end alone if not given.
    by : {"test", "valid"}
        The rows that the losses of the moments are about: settings are chosen by "valid".
    rates : mapping {name: float}, optional
        Learning rates of arms that have one of their own.

    Yields
    ------
    Moment, Trained
        The same object each time, which grows.
    """
    types, n = tasks.types, len(seeds)
    settings = [{"arm": float(k)} for k in range(len(arms))]
    models = ManyModels(
        lambda: recipe.build(tasks),
        lambda model, batch, setting, progress: (losses_of(types, model, batch).sum(), {}),
        tasks.train,
        settings,
        seeds,
        recipe.batch_size,
        recipe.learning_rate,
    )
    weighers = [arm.start(n, tuple(types.values())) for arm in arms.values()]
    with_heads = torch.tensor([arm.heads_too for arm in arms.values()]).repeat_interleave(n).unsqueeze(1)
    own_rates = torch.tensor([(rates or {}).get(name, recipe.learning_rate) for name in arms])
    scale = (own_rates / recipe.learning_rate).repeat_interleave(n) if rates else None
    found, first = Trained(models, tuple(arms)), None
    every = every or recipe.steps
    for step, batch in enumerate(models.batches(recipe.steps)):
        losses, gradients = models.gradients_of(list(types), lambda model, b, s: _reported(types, model, b), batch)
        shared = [{k: g[:, t] for k, g in gradients.items() if k.startswith("shared.")} for t in range(len(types))]
        losses, gram = losses.cpu(), balancing.gram_matrix(shared, dims=1).cpu()
        first = losses if first is None else first
        parts = []
        for k, weigher in enumerate(weighers):
            own = slice(k * n, (k + 1) * n)
            parts.append(weigher(Now(step, recipe.steps, losses[own], first[own], gram[own])).to(losses).expand(n, -1))
        weights = torch.cat(parts)  # (A * S, T)
        of_heads = torch.where(with_heads, weights, torch.ones_like(weights))
        models.step({name: _weighted(name, own, weights, of_heads) for name, own in gradients.items()}, scale)
        if (step + 1) % every == 0 or step + 1 == recipe.steps:
            found.steps.append(step + 1)
            found.weights.append(models.by_setting(weights))
            found.losses.append(held_out_losses(models, tasks, by))
            yield Moment(step + 1, recipe.steps), found


def balanced(tasks: Tasks, arms: Mapping[Hashable, Arm], seeds: Sequence[int], recipe: Recipe, label: str, **options):
    """Train to the end with a progress bar, or without one if the label is empty; the rest as for `balance`.

    Returns what it came to.
    """
    latest: list[Trained] = []

    def moments() -> Iterator[Moment]:
        for moment, found in balance(tasks, arms, seeds, recipe, **options):
            latest[:] = [found]
            yield moment

    for _ in with_bar(moments(), label and f"{label}, {len(arms) * len(seeds)} models", recipe.steps):
        pass
    return latest[0]


def held_out_losses(models: ManyModels, tasks: Tasks, by: str = "test") -> Tensor:
    """Return each task's loss on held-out rows, (A, S, T)."""
    found = []
    for task, kind in tasks.types.items():
        fields = next(fields for fields in getattr(tasks, by).values() if task in fields)
        answers = models.each(lambda model, x, task=task: model(x)[task], fields["x"]).cpu()
        labels = fields[task].repeat(models.n_settings, 1)
        if kind == "classification":
            found.append(F.binary_cross_entropy_with_logits(answers, labels, reduction="none").mean(1))
        else:
            found.append((answers - labels).square().mean(1))
    return models.by_setting(torch.stack(found, dim=1))


def _reported(types: Mapping[str, str], model: nn.Module, batch: Mapping) -> tuple[Tensor, dict[str, Tensor]]:
    losses = loss_of_each(types, model, batch)
    return sum(losses.values()), losses


def _weighted(name: str, gradients: Tensor, weights: Tensor, of_heads: Tensor) -> Tensor:
    """Sum the tasks' gradients of one parameter, (n_models, T, ...), with the weights of what it belongs to."""
    own = (weights if name.startswith("shared.") else of_heads).to(gradients)
    return (gradients * own.view(*own.shape, *[1] * (gradients.ndim - 2))).sum(1)
