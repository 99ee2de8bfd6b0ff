"""Lesson 01: domain-adversarial training. Its shop, its experiments, its explorers and its exercises."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from recmtl_lessons.datasets import WorldSettings, make_world
from recmtl_lessons.models import DomainAdversarialNetwork, domain_loss, lambda_schedule, task_loss
from recmtl_lessons.teaching import Lesson
from recmtl_lessons.training import ManyModels, accuracy, auc, proxy_a_distance

LESSON = Lesson(
    "domain_adversarial",
    {
        "predict": "Predict the score abroad",
        "explorer-lambda": "Explore λ",
        "explorer-schedule": "Explore the schedule of λ",
        "exercise-reversal": "Exercise: the reversal",
        "exercise-objective": "Exercise: the objective",
        "exercise-distance": "Exercise: the distance",
        "study": "Study question: how it works",
    },
)

SHOP = WorldSettings(domains=("home", "abroad"), interactions=4000, nuisance=0.45, shift=1.5, offset=2.0)
LAMBDAS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
SEEDS = tuple(range(8))
STEPS = 400
CLICK = {"click": {"task_type": "classification", "output_dim": 1}}
CLICK_AND_RATING = {**CLICK, "rating": {"task_type": "regression", "output_dim": 1}}


# The data: for each seed a shop of its own.


@dataclass(frozen=True)
class Shops:
    """One shop a seed, each domain cut in two by time: S seeds, n rows a half, F features.

    Attributes
    ----------
    train, test : dict {domain: dict {field: Tensor (S, n, ...)}}
        The fields are ``x``, ``click`` and ``rating``. Nothing trains on labels but those of the first domain.
    """

    train: dict[str, dict[str, Tensor]]
    test: dict[str, dict[str, Tensor]]

    def streams(self, *labels: str) -> dict[str, dict[str, Tensor]]:
        """What training may see: features everywhere, the named labels in the first domain only."""
        first = next(iter(self.train))
        return {
            domain: {f: t for f, t in fields.items() if f == "x" or (domain == first and f in labels)}
            for domain, fields in self.train.items()
        }


@lru_cache(maxsize=8)
def open_shops(settings: WorldSettings = SHOP, seeds: tuple[int, ...] = SEEDS) -> Shops:
    """Draw one world a seed; the earlier half of each domain trains, the later half tests."""
    worlds = [make_world(settings, seed) for seed in seeds]
    halves: tuple[dict, dict] = ({}, {})
    for domain in settings.domains:
        rows = [world.rows(domain) for world in worlds]
        half = len(rows[0]) // 2
        for fields, cut in zip(halves, (slice(None, half), slice(half, None)), strict=True):
            fields[domain] = {
                "x": torch.stack([w.features[r[cut]] for w, r in zip(worlds, rows, strict=True)]),
                "click": torch.stack([w.click[r[cut]] for w, r in zip(worlds, rows, strict=True)]),
                "rating": torch.stack([w.rating[r[cut]] for w, r in zip(worlds, rows, strict=True)]),
            }
    return Shops(*halves)


# The objective, right and wrong.


def objective(model, batch, setting, progress):
    """Task loss where labels are, domain loss everywhere; the reversal inside the model does the rest."""
    x = torch.cat([fields["x"] for fields in batch.values()])  # (domains * batch, features)
    domains = _domain_labels(batch)  # (domains * batch,)
    home = next(iter(batch.values()))
    alpha = setting["lam"] * lambda_schedule(progress, setting["gamma"])

    clicks, domain_logits = model(x, "click", alpha)
    task = task_loss(clicks[: len(home["x"])], home["click"], CLICK["click"])
    domain = domain_loss(domain_logits, domains)
    return task + domain, {"task": task, "domain": domain}


def objective_with_softmax_inside(model, batch, setting, progress):
    """Broken on purpose: probabilities go where the cross-entropy expects logits."""
    x = torch.cat([fields["x"] for fields in batch.values()])
    home = next(iter(batch.values()))
    alpha = setting["lam"] * lambda_schedule(progress, setting["gamma"])
    clicks, domain_logits = model(x, "click", alpha)
    task = task_loss(clicks[: len(home["x"])], home["click"], CLICK["click"])
    domain = domain_loss(domain_logits.softmax(dim=1), _domain_labels(batch))
    return task + domain, {"task": task, "domain": domain}


def objective_with_two_signs(model, batch, setting, progress):
    """Broken on purpose: the reversal and a minus sign, which cancel for the encoder."""
    x = torch.cat([fields["x"] for fields in batch.values()])
    home = next(iter(batch.values()))
    alpha = setting["lam"] * lambda_schedule(progress, setting["gamma"])
    clicks, domain_logits = model(x, "click", alpha)
    task = task_loss(clicks[: len(home["x"])], home["click"], CLICK["click"])
    domain = domain_loss(domain_logits, _domain_labels(batch))
    return task - domain, {"task": task, "domain": domain}


def objective_of_two_tasks(model, batch, setting, progress):
    """Clicks and ratings of the first domain, and the domain loss, through one encoder."""
    x = torch.cat([fields["x"] for fields in batch.values()])
    home = next(iter(batch.values()))
    alpha = setting["lam"] * lambda_schedule(progress, setting["gamma"])
    clicks, domain_logits = model(x, "click", alpha)
    ratings, _ = model(home["x"], "rating")
    click = task_loss(clicks[: len(home["x"])], home["click"], CLICK_AND_RATING["click"])
    rating = task_loss(ratings, home["rating"], CLICK_AND_RATING["rating"])
    domain = domain_loss(domain_logits, _domain_labels(batch))
    return click + rating + domain, {"click": click, "rating": rating, "domain": domain}


def _domain_labels(batch) -> Tensor:
    sizes = [len(fields["x"]) for fields in batch.values()]
    device = next(iter(batch.values()))["x"].device
    return torch.repeat_interleave(torch.arange(len(sizes), device=device), torch.tensor(sizes, device=device))


# The experiment: a grid of lambdas, all seeds at once.


@dataclass(frozen=True)
class Sweep:
    """What a grid of lambdas came to, on rows that nothing was trained on. L lambdas, S seeds, T moments.

    Attributes
    ----------
    source_auc, target_auc : Tensor, (L, S)
        AUC of the clicks at home and abroad.
    domain_accuracy : Tensor, (L, S)
        Share of rows whose domain the network's own classifier names; 0.5 is chance.
    a_distance : Tensor, (L, S)
        How well a fresh classifier tells the domains by the encoder's features: 0 not at all, 2 always.
    target_curve : Tensor, (L, S, T)
        AUC abroad while it trained, at ``steps``.
    domain_curve : Tensor, (L, S, T)
        Loss of the domain classifier, likewise.
    """

    lambdas: tuple[float, ...]
    source_auc: Tensor
    target_auc: Tensor
    domain_accuracy: Tensor
    a_distance: Tensor
    target_curve: Tensor
    domain_curve: Tensor
    steps: tuple[int, ...]

    def at(self, lam: float) -> int:
        """Number of a lambda in the grid."""
        return self.lambdas.index(lam)


def many_networks(
    streams: dict[str, dict[str, Tensor]],
    settings: Sequence[dict[str, float]] | dict[str, Sequence[float]],
    seeds: Sequence[int] = SEEDS,
    tasks: dict = CLICK,
    training_objective: Callable = objective,
) -> ManyModels:
    """A stack of this lesson's networks, one for each setting and seed."""
    first = next(iter(streams.values()))
    return ManyModels(
        lambda: DomainAdversarialNetwork(first["x"].shape[-1], (32, 16), len(streams), tasks),
        training_objective,
        streams,
        settings,
        seeds,
        # The domain classifier learns five times faster than what it judges, and Adam forgets its momentum
        # sooner: two habits from generative adversarial networks, without which the game runs in circles.
        learning_rate={"": 1e-3, "domain_classifier": 5e-3},
        betas=(0.5, 0.999),
    )


def sweep(
    lambdas: Sequence[float] = LAMBDAS,
    shops: Shops | None = None,
    steps: int = STEPS,
    training_objective: Callable = objective,
    label: str = "sweep",
) -> Sweep:
    """Train one network for each lambda and seed, all at once, and measure each on its later half."""
    shops = shops or open_shops()
    grid = {"lam": lambdas, "gamma": (10.0,)}
    models = many_networks(shops.streams("click"), grid, training_objective=training_objective)
    models.fit(steps, label=label, every=20, measure=lambda m: {"target_auc": click_auc(m, shops, "abroad")})
    return measured(models, shops, tuple(lambdas))


def measured(models: ManyModels, shops: Shops, lambdas: tuple[float, ...]) -> Sweep:
    """Every score of a stack of two-domain networks, (L, S) each."""
    features, domains = _features_of_both(models, shops)
    logits = models.each(lambda model, x: model(x, "click")[1], _both(shops))  # (M, 2n, 2)
    split = models.by_setting
    return Sweep(
        lambdas=lambdas,
        source_auc=split(click_auc(models, shops, "home")),
        target_auc=split(click_auc(models, shops, "abroad")),
        domain_accuracy=split(accuracy(logits, domains.expand(logits.shape[:-1]))).cpu(),
        a_distance=split(proxy_a_distance(features, domains)).cpu(),
        target_curve=split(models.history["target_auc"]),
        domain_curve=split(models.history["domain"]),
        steps=tuple(models.history_steps),
    )


def click_auc(models: ManyModels, shops: Shops, domain: str) -> Tensor:
    """AUC of the clicks in one domain's later half, (n_models,)."""
    fields = shops.test[domain]
    scores = models.each(lambda model, x: model.answer(x, "click"), fields["x"])  # (M, n)
    return auc(scores.cpu(), fields["click"].repeat(models.n_settings, 1))


def _both(shops: Shops) -> Tensor:
    return torch.cat([fields["x"] for fields in shops.test.values()], dim=1)  # (S, 2n, F)


def _features_of_both(models: ManyModels, shops: Shops) -> tuple[Tensor, Tensor]:
    features = models.each(lambda model, x: model.encode(x), _both(shops))  # (M, 2n, hidden)
    n = features.shape[1] // 2
    return features, torch.arange(2, device=features.device).repeat_interleave(n)
