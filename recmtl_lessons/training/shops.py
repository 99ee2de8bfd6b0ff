"""Networks for two shops: many at once, the adversarial objective, and what is measured of them."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from recmtl_lessons.datasets.shops import Shops, Streams
from recmtl_lessons.models import DomainAdversarialNetwork, domain_loss, lambda_schedule, task_loss
from recmtl_lessons.training.metrics import accuracy, auc
from recmtl_lessons.training.stacked import ManyModels

CLICK = {"click": {"task_type": "classification", "output_dim": 1}}
STEPS = 250
HIDDEN = (32, 16)
# Two habits from generative adversarial networks: the opponent learns faster than what it judges, and Adam forgets its
# momentum sooner.
LEARNING_RATE = {"": 1e-3, "domain_classifier": 5e-3}
BETAS = (0.5, 0.999)


def both_heads(model, batch, setting, progress):
    """Return the click loss of the rows that have labels, and the domain logits of all rows."""
    x = torch.cat([fields["x"] for fields in batch.values()])  # (domains * batch, F)
    home = next(iter(batch.values()))
    alpha = setting["lam"] * lambda_schedule(progress, setting["gamma"])
    clicks, domain_logits = model(x, "click", alpha)
    at_home = clicks[: len(home["x"])]  # (batch, 1)
    return task_loss(at_home, home["click"], CLICK["click"]), domain_logits


def adversarial_objective(model, batch, setting, progress):
    """Return click loss at home plus domain loss everywhere; the reversal inside the model does the rest."""
    task, domain_logits = both_heads(model, batch, setting, progress)
    domain = domain_loss(domain_logits, domain_labels(batch))
    return task + domain, {"task": task, "domain": domain}


def domain_labels(batch) -> Tensor:
    """Return the number of each row's domain, in the order of the batch."""
    sizes = [len(fields["x"]) for fields in batch.values()]
    device = next(iter(batch.values()))["x"].device
    return torch.repeat_interleave(torch.arange(len(sizes), device=device), torch.tensor(sizes, device=device))


def many_networks(
    streams: Streams,
    settings: Sequence[dict[str, float]] | dict[str, Sequence[float]],
    seeds: Sequence[int],
    tasks: Mapping[str, Mapping] = CLICK,
    objective: Callable = adversarial_objective,
    learning_rate: float | Mapping[str, float] = LEARNING_RATE,
) -> ManyModels:
    """Return a stack of domain-adversarial networks, one for each setting and seed, of the dtype of the data."""
    x = next(iter(streams.values()))["x"]
    return ManyModels(
        lambda: DomainAdversarialNetwork(x.shape[-1], HIDDEN, len(streams), tasks).to(x.dtype),
        objective, streams, settings, seeds, learning_rate=learning_rate, betas=BETAS,
    )  # fmt: skip


def click_auc(models: ManyModels, shops: Shops, domain: str) -> Tensor:
    """Return the AUC of the clicks in one domain's later half, (n_models,)."""
    fields = shops.test[domain]
    return auc(click_logits(models, fields["x"]).cpu(), fields["click"].repeat(models.n_settings, 1))


def click_logits(models: ManyModels, x: Tensor) -> Tensor:
    """Return each model's logits of a click, (S, n, F) -> (n_models, n)."""
    return models.each(lambda model, x: model.read(model.encode(x), "click").squeeze(1), x)


def domain_accuracy(models: ManyModels, shops: Shops) -> Tensor:
    """Return the share of later rows, one in four, whose domain each model's own classifier names: (n_models,)."""
    both = torch.cat([fields["x"][:, ::4] for fields in shops.test.values()], dim=1)
    logits = models.each(lambda model, x: model.domain_classifier(model.encode(x)), both).cpu()  # (M, n / 2, 2)
    domains = torch.arange(2).repeat_interleave(logits.shape[1] // 2)
    return accuracy(logits, domains.expand(logits.shape[:-1]))


def first_in_plane(models: ManyModels, shops: Shops, points: int = 220) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first model's features of so many later rows of each domain, in two dimensions.

    Returns
    -------
    points : Tensor, (2 * points, 2)
    abroad, clicked : Tensor, (2 * points,), bool
    """
    x = torch.cat([fields["x"][:, :points] for fields in shops.test.values()], dim=1)  # (S, 2P, F)
    clicked = torch.cat([fields["click"][0, :points] for fields in shops.test.values()]) > 0  # (2P,)
    abroad = torch.arange(len(clicked)) >= points
    features = models.each(lambda model, x: model.encode(x), x)[0].cpu()  # (2P, hidden)
    return plane(features, abroad, clicked)[0], abroad, clicked


def plane(features: Tensor, abroad: Tensor, clicked: Tensor) -> tuple[Tensor, Tensor]:
    """Return features (P, hidden) in two dimensions, (P, 2), and the length there was for each unit there is now.

    The first axis runs from home's mean to abroad's, the second where the rest spreads most, with home's clicks up.
    """
    centred = features - features.mean(0)
    scale = centred.square().sum(1).mean().sqrt().clamp(min=1e-9)
    centred = centred / scale
    apart = F.normalize(centred[abroad].mean(0) - centred[~abroad].mean(0), dim=0)  # (hidden,)
    across = centred @ apart
    rest = centred - across[:, None] * apart
    up = torch.linalg.svd(rest, full_matrices=False).Vh[0]  # (hidden,), where the rest spreads most
    up = up * torch.sign((rest @ up)[clicked & ~abroad].mean() - (rest @ up)[~clicked & ~abroad].mean())
    return torch.stack([across, rest @ up], dim=1), scale
