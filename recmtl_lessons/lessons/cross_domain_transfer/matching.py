"""First half of the lesson: two shops with features, one of them without labels, whose distributions are matched.

The shops are those of lesson 01, and so is the network, so that the alignments can be compared side by side.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from recmtl_lessons.datasets import WorldSettings
from recmtl_lessons.datasets.shops import SHOP, Shops
from recmtl_lessons.datasets.shops import open_shops as _open_shops
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.models import (
    coral_loss,
    lambda_schedule,
    median_bandwidth,
    mmd_permutation_test,
    squared_mmd,
    task_loss,
)
from recmtl_lessons.teaching import Running
from recmtl_lessons.teaching.texts import read_yaml
from recmtl_lessons.training import ManyModels, Scores, concurrently, proxy_a_distance
from recmtl_lessons.training.shops import CLICK, STEPS, adversarial_objective, click_auc, plane
from recmtl_lessons.training.shops import many_networks as _many_networks

SETTINGS = read_yaml(Path(__file__).with_name("settings.yaml"))
WEIGHTS = SETTINGS["weights"]
ROWS = 32  # of each shop, in which a step compares the distributions: its cost grows with the square


def open_shops(settings: WorldSettings = SHOP, seeds: tuple[int, ...] = SEEDS) -> Shops:
    """Return one pair of shops per seed, those of the claims unless others are asked for."""
    return _open_shops(settings, seeds)


# Objectives: the clicks at home, and one way to make the shops look alike.


def objective_with(alignment: Callable) -> Callable:
    """Return the objective: click loss at home plus ``weight`` times an alignment of the two shops' features.

    The weight rises over training as lambda does in lesson 01, so that all alignments have the same schedule.
    """

    def objective(model, batch, setting, progress):
        home, abroad = model.encode(batch["home"]["x"]), model.encode(batch["abroad"]["x"])  # (batch, hidden) each
        task = task_loss(model.read(home, "click"), batch["home"]["click"], CLICK["click"])
        distance = alignment(home, abroad, setting)
        return task + setting["weight"] * lambda_schedule(progress) * distance, {"task": task, "distance": distance}

    return objective


def mmd_of(home: Tensor, abroad: Tensor, setting) -> Tensor:
    """Return the unbiased squared MMD of some rows, around the pooled median bandwidth."""
    return squared_mmd(home[:ROWS], abroad[:ROWS])


def mmd_at_one_scale(home: Tensor, abroad: Tensor, setting) -> Tensor:
    """Return the squared MMD of some rows at one bandwidth: ``reach`` times the pooled median."""
    home, abroad = home[:ROWS], abroad[:ROWS]
    return squared_mmd(home, abroad, setting["reach"] * median_bandwidth(home, abroad), scales=(1.0,))


def mmd_at_a_fixed_bandwidth(home: Tensor, abroad: Tensor, setting) -> Tensor:
    """Return the squared MMD of some rows at a bandwidth that stays as it is, whatever the features do."""
    return squared_mmd(home[:ROWS], abroad[:ROWS], setting["bandwidth"], scales=(1.0,))


def coral_of(home: Tensor, abroad: Tensor, setting) -> Tensor:
    """Return the distance of the covariances of all rows."""
    return coral_loss(home, abroad)


def means_of(home: Tensor, abroad: Tensor, setting) -> Tensor:
    """Return the squared distance of the means of all rows."""
    return (home.mean(0) - abroad.mean(0)).square().sum()


def mmd_of_mixed_halves(home: Tensor, abroad: Tensor, setting) -> Tensor:
    """Return the second negative control: an MMD between two samples that hold as many rows of either shop."""
    half = ROWS // 2
    return squared_mmd(torch.cat([home[:half], abroad[:half]]), torch.cat([home[half:ROWS], abroad[half:ROWS]]))


def adversary(model, batch, setting, progress):
    """Return lesson 01's objective, with the weight for its lambda."""
    return adversarial_objective(model, batch, {"lam": setting["weight"], "gamma": 10.0}, progress)


OBJECTIVES = {
    "MMD": objective_with(mmd_of),
    "adversary": adversary,
    "CORAL": objective_with(coral_of),
    "means": objective_with(means_of),
}

# The experiment: for each alignment a row of weights.


def many_networks(shops: Shops, objective: Callable, settings) -> ManyModels:
    """Return a stack of lesson 01's networks, trained with another objective and the same rates."""
    seeds = range(len(shops.train["home"]["x"]))
    return _many_networks(shops.streams("click"), settings, seeds, objective=objective)


def match(objective: Callable, settings: dict[str, Sequence[float]], label: str, shops: Shops | None = None):
    """Train one network for each setting and seed, all at once, and measure each on its later half.

    Returns
    -------
    dict {measure: Scores of the settings}
        ``home`` and ``abroad``: AUC of clicks. ``fresh``: what a fresh classifier finds of the shop, 0 nothing, 2
        everything. An arm is named by its weight, or by a tuple of all numbers of its setting if there are several.
    """
    shops = shops or open_shops()
    return measured(many_networks(shops, objective, settings).fit(STEPS, label=label), shops)


def match_each(shops: Shops | None = None) -> dict[str, dict[str, Scores]]:
    """Train with every alignment of `OBJECTIVES`, each at its `WEIGHTS`, and measure, as `match` does."""
    jobs = (partial(match, OBJECTIVES[name], {"weight": weights}, name, shops) for name, weights in WEIGHTS.items())
    return dict(zip(WEIGHTS, concurrently(*jobs), strict=True))


def score_weights(seeds: tuple[int, ...] = DESIGN_SEEDS) -> dict[str, dict[float, float]]:
    """Return the mean AUC abroad for each alignment and weight, in worlds that no claim is about.

    It is how the weights were chosen. It takes labels from abroad, which a shop without labels does not have: this
    favours every alignment alike.
    """
    found = match_each(open_shops(SHOP, seeds))
    return {name: {w: float(scores["abroad"][w].mean()) for w in WEIGHTS[name]} for name, scores in found.items()}


def measured(models: ManyModels, shops: Shops) -> dict[str, Scores]:
    """Measure a stack of networks, as `match` returns it."""
    both = torch.cat([models.each(lambda m, x: m.encode(x), shops.test[d]["x"]) for d in ("home", "abroad")], dim=1)
    shop = torch.arange(2, device=both.device).repeat_interleave(both.shape[1] // 2)
    found = {
        "home": ("AUC of clicks at home", click_auc(models, shops, "home")),
        "abroad": ("AUC of clicks abroad", click_auc(models, shops, "abroad")),
        "fresh": ("proxy A-distance", proxy_a_distance(both, shop)),
    }
    arms = [tuple(setting.values()) for setting in models.settings[:: models.n_seeds]]
    arms = tuple(arm if len(arm) > 1 else arm[0] for arm in arms)
    return {name: Scores(measure, arms, models.by_setting(values)) for name, (measure, values) in found.items()}


# The kernel's reach.


def pull_over_bandwidth(reaches: Sequence[float], shops: Shops | None = None) -> Scores:
    """Return how hard the MMD pulls the cloud of abroad at the start of training, at several bandwidths.

    The pull is the norm of the gradient averaged over abroad's rows, as a share of the hardest pull.
    Bandwidths are ``reaches`` times the pooled median.
    """
    shops = shops or open_shops()
    models = many_networks(shops, OBJECTIVES["MMD"], {"weight": (1.0,)})
    rows = 4 * ROWS
    home, abroad = (
        models.each(lambda m, x: m.encode(x), shops.train[d]["x"][:, :rows]).cpu() for d in ("home", "abroad")
    )

    def pull(reach: float) -> Tensor:
        def distance(abroad, home):
            return squared_mmd(home, abroad, reach * median_bandwidth(home, abroad), scales=(1.0,))

        return torch.vmap(torch.func.grad(distance))(abroad, home).mean(1).norm(dim=1)  # (S,)

    pulls = torch.stack([pull(reach) for reach in reaches], dim=1)
    return Scores("pull on abroad's cloud (hardest = 1)", tuple(reaches), (pulls / pulls.max(1, keepdim=True).values).T)


# The two-sample test.

SHIFTS = (0.0, 0.1, 0.3, 0.5)


def rejection_rates(shifts: Sequence[float] = SHIFTS, seeds: Sequence[int] = SEEDS) -> tuple[Scores, dict[float, int]]:
    """Draw two small samples of features again and again, and test whether they differ.

    Both come from home, without a row in common. To the second is added ``shift`` times the way from home's mean to
    abroad's; at 0 both have one distribution, and there eight times as many tests are made.

    Returns
    -------
    rejected : Scores of the shifts
        Share of the tests that reject at 5 %.
    tests : dict {shift: int}
        How many tests were made per seed.
    """
    rates, tests = [], {shift: 200 if shift == 0 else 25 for shift in shifts}
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        shops = open_shops(SHOP, (seed,))
        home = torch.cat([half["home"]["x"][0] for half in (shops.train, shops.test)])  # (n, features)
        step = shops.train["abroad"]["x"][0].mean(0) - shops.train["home"]["x"][0].mean(0)
        rates.append([_rejection_rate(home, shift * step, n, generator) for shift, n in tests.items()])
    return Scores("share rejected", tuple(shifts), torch.tensor(rates).T), tests


def _rejection_rate(sample: Tensor, step: Tensor, tests: int, generator: torch.Generator) -> float:
    rows, rejected = 40, 0
    for _ in range(tests):
        drawn = sample[torch.randperm(len(sample), generator=generator)[: 2 * rows]]  # (2 rows, features)
        test = mmd_permutation_test(drawn[:rows], drawn[rows:] + step, generator, n_permutations=39)
        rejected += test.p_value <= 0.05
    return rejected / tests


# Training that is watched.


@dataclass(frozen=True)
class LiveMatching:
    """A training as far as it has come: eight networks and the features of the first.

    Attributes
    ----------
    curves : Scores
        ``mmd``, and ``home`` and ``abroad``, the AUC of clicks.
    points : Tensor, (P, 2)
        Features in a plane, in which the kernel's bandwidth is ``radius``.
    abroad, clicked : Tensor, (P,), bool
    radius : float
    """

    curves: Scores
    points: Tensor
    abroad: Tensor
    clicked: Tensor
    radius: float


def train_live(weight: float, reach: float, seed: int) -> Iterator[Running]:
    """Train eight networks with an MMD of one bandwidth, and report on the way."""
    shops = open_shops(SHOP, tuple(range(1000 + 8 * seed, 1008 + 8 * seed)))
    settings = {"weight": (weight,), "reach": (reach,)}
    models = many_networks(shops, objective_with(mmd_at_one_scale), settings)

    def snapshot() -> LiveMatching:
        curves = {name: models.history[name] for name in ("mmd", "home", "abroad")}
        return LiveMatching(Scores.of("", curves, models.history_steps), *_plane(models, shops, reach))

    def measure(models: ManyModels) -> dict[str, Tensor]:
        home, abroad = (models.each(lambda m, x: m.encode(x), shops.test[d]["x"][:, :150]) for d in ("home", "abroad"))
        clicks = {domain: click_auc(models, shops, domain) for domain in ("home", "abroad")}
        return {"mmd": torch.vmap(squared_mmd)(home, abroad), **clicks}

    for moment in models.train(STEPS, every=20, measure=measure):
        yield Running(moment.step, moment.steps, snapshot)
    return snapshot()


_POINTS = 160  # of each shop


def _plane(models: ManyModels, shops: Shops, reach: float) -> tuple[Tensor, Tensor, Tensor, float]:
    """Return the first network's features in two dimensions, who is from abroad, who was clicked, and the bandwidth."""
    x = torch.cat([fields["x"][:, :_POINTS] for fields in shops.test.values()], dim=1)  # (S, 2P, F)
    clicked = torch.cat([fields["click"][0, :_POINTS] for fields in shops.test.values()]) > 0  # (2P,)
    abroad = torch.arange(len(clicked)) >= _POINTS
    features = models.each(lambda model, x: model.encode(x), x)[0].cpu()  # (2P, hidden)
    bandwidth = reach * median_bandwidth(features[~abroad], features[abroad])
    points, scale = plane(features, abroad, clicked)
    return points, abroad, clicked, float(bandwidth / scale)
