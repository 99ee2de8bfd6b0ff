"""The lesson's arms and controls, and what is measured of them."""

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.datasets.two_tasks import APART, Tasks, clicks_and_ratings, genres_as_tasks, rated_and_how
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, MORE_SEEDS, MOST_SEEDS, SEEDS
from recmtl_lessons.models import balancing
from recmtl_lessons.models.balancing import TaskSchedule
from recmtl_lessons.teaching import Running
from recmtl_lessons.teaching.texts import read_yaml
from recmtl_lessons.training import ManyModels, Scores, auc, draw_batches
from recmtl_lessons.training.balancing import (
    UNLEARNED,
    Arm,
    Now,
    Recipe,
    Trained,
    annealed,
    balance,
    balanced,
    by_gradients,
    by_losses,
    by_norms,
    by_progress,
    by_uncertainty,
    fixed,
    held_out_losses,
    losses_of,
    projected,
    scheduled,
    unlearned,
)

SETTINGS = read_yaml(Path(__file__).with_name("settings.yaml"))
TRIED = SETTINGS["tried"]
SHOWN, NARROW = SETTINGS["shown"], SETTINGS["narrow"]
CLICK, RATING = (1.0, 0.0), (0.0, 1.0)  # weights of a network with one task

#: Each way of weighing, from its own setting if it has one.
WAYS: dict[str, Callable[..., Arm]] = {
    "equal": lambda: fixed(1.0, 1.0),
    "tuned": lambda weight: fixed(weight, 1.0),
    "uncertainty": by_uncertainty,
    "logs": lambda: by_losses(balancing.scale_free),
    "GradNorm": lambda rate: by_norms(rate, 0.5),
    "DWA": by_progress,
    "PCGrad": projected,
    "MGDA": lambda: by_gradients(balancing.mgda),
    "MGDA, unit": lambda: by_gradients(balancing.mgda, unit=True),
    "CAGrad": lambda c: by_gradients(balancing.cagrad, c=c),
    "Aligned-MTL": lambda: by_gradients(balancing.aligned_mtl),
    "click alone": lambda: fixed(*CLICK),
    "rating alone": lambda: fixed(*RATING),
}
ALONE = ("click alone", "rating alone")


def open_shop(unit: str = "tenths", seeds: Sequence[int] = SEEDS, relatedness: float = 0.0, rows: int = 1000) -> Tasks:
    """Return clicks and ratings of the shop, whose ratings are in tenths of a star, in stars, or over their spread."""
    return clicks_and_ratings(replace(APART, task_relatedness=relatedness), tuple(seeds), rows).in_unit(unit)[0]


def recipe_of(learning_rate: float, **changed) -> Recipe:
    """Return how the lesson's networks are made and trained, but for the learning rate."""
    known = {**SETTINGS["recipe"], **changed}
    return Recipe(learning_rate, **{**known, "hidden_dims": tuple(known["hidden_dims"])})


def gain(losses: Tensor, alone: Tensor) -> Tensor:
    """Return by how much the losses are below those of a network for each task, as a share, mean over the tasks.

    It is the field's delta-m (Maninis et al. 2019): (..., T), (..., T) -> (...).
    """
    return ((alone - losses) / alone).mean(-1)


# Which way is best, each with as many tries.


def score_ways(unit: str, ways: Sequence[str] = tuple(WAYS)) -> dict[str, dict[tuple, float]]:
    """Score each way's tries, on validation rows of the design seeds: {way: {(rate, own setting): score}}.

    The score is the gain over the best networks for one task; for these the loss itself, with its sign turned.
    """
    tasks, losses = open_shop(unit, DESIGN_SEEDS), {}
    for rate in TRIED["rates"]:
        tries = {
            (way, rate, *own): WAYS[way](*own)
            for way in (*ways, *(one for one in ALONE if one not in ways))
            for own in _own_settings(way, rate)
        }
        found = balanced(tasks, tries, DESIGN_SEEDS, recipe_of(rate), f"rate {rate:g}", by="valid").losses[-1]
        losses |= dict(zip(tries, found, strict=True))
    alone = []
    for task, way in enumerate(ALONE):
        alone.append(min((own[:, task] for name, own in losses.items() if name[0] == way), key=Tensor.mean))
    alone = torch.stack(alone, dim=1)  # (S, T)
    scores: dict[str, dict[tuple, float]] = {way: {} for way in ways}
    for (way, *chosen), found in losses.items():
        if way in ways:
            score = -found[:, ALONE.index(way)] if way in ALONE else gain(found, alone)
            scores[way][tuple(chosen)] = float(score.mean())
    return scores


def _own_settings(way: str, rate: float) -> list[tuple]:
    """Return the settings that a way tries with a learning rate."""
    if way not in TRIED["own"]:
        return [()]
    return [(own,) for own in TRIED["own"][way]] if rate in TRIED["seven"] else []


def chosen_arm(way: str) -> tuple[float, Arm]:
    """Return the learning rate of a way, and the way with its own setting, as they were chosen."""
    rate, *own = SETTINGS["chosen"][way]
    return rate, WAYS[way](*own)


def compare(seeds: tuple[int, ...] = MORE_SEEDS) -> dict[str, Scores]:
    """Train all ways, each with what was chosen for it, on ratings in tenths; and sums on ratings in other units.

    Returns
    -------
    dict {measure: Scores}
        ``gain`` over a network for each task, that for ratings trained on ratings over their spread; the ``click``'s
        loss; the ``rating``'s error in stars; and the ``odds`` of the weights at the end.
    """
    rates = {way: rate for way, (rate,) in SETTINGS["over_spread"].items()}
    over_spread = {"spread": (rates["equal"], fixed(1.0, 1.0)), "rating alone": (rates["rating alone"], fixed(*RATING))}
    parts = [("tenths", {way: chosen_arm(way) for way in SETTINGS["chosen"]}), ("spread", over_spread)]
    losses, weights = {}, {}
    for unit, chosen in parts:
        arms, rates = ({way: pair[k] for way, pair in chosen.items()} for k in (1, 0))
        found = balanced(open_shop(unit, seeds), arms, seeds, recipe_of(SHOWN["learning_rate"]), unit, rates=rates)
        losses |= dict(zip(found.arms, in_stars(found.losses[-1], unit, seeds), strict=True))
        weights |= dict(zip(found.arms, found.weights[-1], strict=True))
    return {**_measured(losses), "odds": odds({way: weights[way] for way in WAYS if way not in ALONE})}


def _measured(losses: Mapping[Hashable, Tensor]) -> dict[str, Scores]:
    """Return the gain over the networks for one task that are among the arms, and each task by itself."""
    alone = torch.stack([losses[way][:, task] for task, way in enumerate(ALONE)], dim=1)  # (S, 2)
    return {
        "gain": Scores.of("gain over a network for each task", {n: gain(own, alone) for n, own in losses.items()}),
        "click": Scores.of("loss of clicks", {name: own[:, 0] for name, own in losses.items()}),
        "rating": Scores.of("error of ratings, stars", {name: own[:, 1].sqrt() for name, own in losses.items()}),
    }


def odds(weights: Mapping[Hashable, Tensor]) -> Scores:
    """Return by what power of ten the click's weight is larger than the rating's, from weights (S, 2)."""
    logs = {way: own.clamp(min=1e-6).log10() for way, own in weights.items()}
    return Scores.of(
        "click's weight over the rating's, powers of ten", {w: own[:, 0] - own[:, 1] for w, own in logs.items()}
    )


def compare_over_spread(seeds: tuple[int, ...] = SEEDS) -> dict[str, Scores]:
    """Train all ways on ratings over their spread, at the plain sum's learning rate; as `compare` has it."""
    (rate,) = SETTINGS["over_spread"]["equal"]
    arms = {way: WAYS[way](*own) for way, (_, *own) in SETTINGS["chosen"].items() if way != "tuned"}
    arms["rating alone"] = fixed(*RATING)
    found = balanced(open_shop("spread", seeds), arms, seeds, recipe_of(rate), "over their spread")
    return _measured(dict(zip(arms, in_stars(found.losses[-1], "spread", seeds), strict=True)))


def in_stars(losses: Tensor, unit: str, seeds: tuple[int, ...], relatedness: float = 0.0) -> Tensor:
    """Return losses (..., S, 2) whose second is in squared stars, whatever unit it was learned in."""
    world = replace(APART, task_relatedness=relatedness)
    sizes = clicks_and_ratings(world, tuple(seeds)).in_unit(unit)[1]  # (S, 2)
    return losses * sizes**2


# One network in a loop of one's own, and eight in the stack.


def whole(arm: Arm) -> Arm:
    """Return the same weights, which then hold for the heads as well, as in a plain sum of weighted losses."""
    return replace(arm, heads_too=True)


@lru_cache(maxsize=1)
def band() -> dict[str, Scores]:
    """Train eight networks by the plain sum, and eight by uncertainty weighting; `over_training` of them."""
    arms = {"sum": whole(fixed(1.0, 1.0)), "uncertainty": whole(by_uncertainty(SHOWN["uncertainty"]))}
    found = balanced(open_shop(), arms, SEEDS, recipe_of(SHOWN["learning_rate"]), "sum, uncertainty", every=20)
    return over_training(found, SEEDS)


def over_training(
    found: Trained, seeds: tuple[int, ...], unit: str = "tenths", relatedness: float = 0.0
) -> dict[str, Scores]:
    """Return the ``click``'s loss, the ``rating``'s error in stars and the click's ``share`` while they train."""
    losses = torch.stack([in_stars(own, unit, seeds, relatedness) for own in found.losses], dim=2)  # (A, S, moments, 2)
    weights = torch.stack(found.weights, dim=2)
    steps = tuple(found.steps)
    return {
        "click": Scores("loss of clicks", found.arms, losses[..., 0], steps),
        "rating": Scores("error of ratings, stars", found.arms, losses[..., 1].sqrt(), steps),
        "share": Scores("click's share of the weights", found.arms, weights[..., 0] / weights.sum(-1), steps),
    }


def make_network(seed: int) -> balancing.SharedBottomNetwork:
    """Return the network of a seed, as the stack makes it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return recipe_of(SHOWN["learning_rate"]).build(open_shop())


def learn(model: nn.Module, shop: Tasks, seed: int, total: Callable[[Tensor, Tensor], Tensor]) -> Iterator[int]:
    """Train one network in a plain loop, on the stack's batches, as the notebook does; yield each step's number."""
    s = torch.zeros(2, requires_grad=True)
    groups = [{"params": model.parameters()}, {"params": [s], "lr": SHOWN["uncertainty"]}]
    optimizer, recipe = torch.optim.Adam(groups, lr=SHOWN["learning_rate"]), SETTINGS["recipe"]
    for step, batch in enumerate(draw_batches(shop.train, seed, recipe["steps"], recipe["batch_size"]), start=1):
        loss = total(losses_of(shop.types, model, batch), s)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield step


@torch.no_grad()
def held_out(model: nn.Module, shop: Tasks) -> tuple[float, float]:
    """Return the loss of clicks and the error of ratings in stars, on the shop's test rows in tenths of a star."""
    click, rating = losses_of(shop.types, model, shop.test)
    return float(click), float(rating.sqrt() / 10)


def own_scores(curves: Sequence[Sequence[tuple[float, float]]]) -> dict[str, Scores]:
    """Return the curves of one's own networks, each a list of `held_out` at every 20th step."""
    values = torch.tensor(curves)  # (networks, moments, 2)
    steps = tuple(20 * (k + 1) for k in range(values.shape[1]))
    measures = {"click": "loss of clicks", "rating": "error of ratings, stars"}
    return {
        name: Scores(text, ("yours",), values[None, ..., k], steps) for k, (name, text) in enumerate(measures.items())
    }


def train_with(total: Callable[[Tensor, Tensor], Tensor]) -> Iterator[Running]:
    """Train one network of each of the claims' first three seeds with an answer in the loss."""
    curves: list[list[tuple[float, float]]] = []
    shops, steps = open_shop(), SETTINGS["recipe"]["steps"]
    for k in range(3):
        curves.append([])
        model, shop = make_network(SEEDS[k]), shops.one(k)
        for step in learn(model, shop, SEEDS[k], total):
            if step % 20 == 0:
                curves[-1].append(held_out(model, shop))
                whole_ones = [curve for curve in curves if len(curve) == len(curves[0])]
                yield Running(k * steps + step, 3 * steps, partial(own_scores, [list(c) for c in whole_ones]))
    return own_scores(curves)


def difference_from_the_stack(make: Callable, learn: Callable) -> dict[str, float]:
    """Return by how much one's own network differs from the stack's at most, in any weight, from the same batches.

    Parameters
    ----------
    make : callable (seed) -> nn.Module
    learn : callable (model, shop, seed)
        As the notebook writes it.

    Returns
    -------
    dict {arm: difference}
        From the network that was trained by the plain sum, and by uncertainty weighting.
    """
    seeds = SEEDS[:2]
    shop = open_shop(seeds=seeds).double()
    model = make(seeds[0]).double()
    learn(model, shop.one(0), seeds[0])
    recipe = _InDouble(**vars(recipe_of(SHOWN["learning_rate"])))
    arms = {"sum": whole(fixed(1.0, 1.0)), "uncertainty": whole(by_uncertainty(SHOWN["uncertainty"]))}
    stack = balanced(shop, arms, seeds, recipe, "float64").models

    def gap(number: int) -> float:
        theirs = dict(stack.model(number * len(seeds)).named_parameters())
        mine = dict(model.named_parameters())
        return max(float((mine[name] - theirs[name]).detach().abs().max()) for name in theirs)

    return {name: gap(number) for number, name in enumerate(arms)}


class _InDouble(Recipe):
    def build(self, tasks: Tasks) -> nn.Module:
        return super().build(tasks).double()


# One task at a time.


def schedules(seeds: tuple[int, ...] = SEEDS) -> Scores:
    """Return the loss of clicks, ratings over their spread, with one task a step: in turn, and first all clicks."""
    arms = {
        "in turn": scheduled(TaskSchedule("in turn", 2)),
        "click first": scheduled(TaskSchedule("one after another", 2)),
    }
    recipe = recipe_of(SHOWN["learning_rate"], steps=2 * SETTINGS["recipe"]["steps"])
    found = balanced(open_shop("spread", seeds), arms, seeds, recipe, ", ".join(arms))
    return Scores("loss of clicks", tuple(arms), found.losses[-1][..., 0])


# A shared part that is too small.


BARE = torch.tensor([UNLEARNED["classification"], UNLEARNED["regression"]])
GRID = (0.3, 0.5, 0.6, *(k / 50 for k in range(32, 41)), 0.85, 0.9)  # click's share of static weights; tips at 0.75


def narrow_arms(control: bool = False) -> dict[str, Arm]:
    """Return what is tried where little can be shared, besides static weights; two of them in controls."""
    lag = scheduled(TaskSchedule("lagging", 2), unlearned(("classification", "regression")))
    if control:
        return {"MGDA": by_gradients(balancing.mgda), "lagging": lag}
    return {
        "logs": WAYS["logs"](),
        "uncertainty": by_uncertainty(SHOWN["uncertainty"]),
        "PCGrad": projected(),
        "CAGrad": by_gradients(balancing.cagrad, c=0.95),
        "CAGrad, 0.5": by_gradients(balancing.cagrad, c=0.5),
        "MGDA": by_gradients(balancing.mgda),
        "in turn": scheduled(TaskSchedule("in turn", 2)),
        "lagging": lag,
    }


@lru_cache(maxsize=4)
def narrow(width: int = 1, relatedness: float = 0.0, **changed: float) -> dict[str, Scores]:
    """Train with linear shared layers of a width, ratings over their spread; ``changed`` is of the recipe.

    Returns
    -------
    dict {measure: Scores}
        ``click`` and ``rating``: what was learned, as a share of what a network for that task alone learns; ``worst``,
        the smaller of the two; and ``mean``. Arms are `narrow_arms`, the shares of `GRID`, and ``hindsight``: for each
        seed the largest that a share of the grid came to. Controls have two ways, and with two units a third of the
        grid.
    """
    arms = {"click alone": fixed(*CLICK), "rating alone": fixed(*RATING)}
    control = (width, relatedness) != (1, 0.0)
    arms |= {share: fixed(share, 1 - share) for share in GRID[:: 3 if width > 1 else 1]} | narrow_arms(control)
    recipe = recipe_of(**{**NARROW, "hidden_dims": (width,), **changed})
    label = f"{width} shared, relatedness {relatedness:g}"
    found = balanced(open_shop("spread", relatedness=relatedness), arms, SEEDS, recipe, label)
    return learned_shares(dict(zip(arms, found.losses[-1], strict=True)))


def learned_shares(losses: Mapping[Hashable, Tensor]) -> dict[str, Scores]:
    """Return what was learned of each task as a share of what a network for it alone learns, from losses (S, 2)."""
    alone = torch.stack([losses[way][:, task] for task, way in enumerate(ALONE)], dim=1)
    shares = {name: (BARE - own) / (BARE - alone) for name, own in losses.items()}  # (S, 2)
    of = "learned, as a share of one task alone"
    parts = {
        "click": lambda own: own[:, 0],
        "rating": lambda own: own[:, 1],
        "worst": lambda own: own.amin(1),
        "mean": lambda own: own.mean(1),
    }
    found = {}
    for name, part in parts.items():
        by_arm = {arm: part(own) for arm, own in shares.items()}
        by_arm["hindsight"] = torch.stack([by_arm[share] for share in GRID if share in by_arm]).amax(0)
        found[name] = Scores.of(of, by_arm)
    return found


# A task that helps at first.


def score_helpers(relatedness: float = 0.9) -> dict[str, dict[tuple[float, float], float]]:
    """Score static weights, and weights that end on the click alone or begin there, by the click's loss."""
    tasks = open_shop("spread", DESIGN_SEEDS, relatedness, SETTINGS["helper"]["rows"])
    scores: dict[str, dict] = {name: {} for name in _HELPERS}
    for rate in SETTINGS["helper"]["rates"]:
        arms = {(name, share): make(share) for name, make in _HELPERS.items() for share in SETTINGS["helper"]["shares"]}
        recipe = recipe_of(rate, **SETTINGS["helper"]["recipe"])
        found = balanced(tasks, arms, DESIGN_SEEDS, recipe, f"rate {rate:g}", by="valid").losses[-1]
        for (name, share), own in zip(arms, found, strict=True):
            scores[name][rate, share] = float(own[:, 0].mean())
    return scores


_HELPERS: dict[str, Callable[[float], Arm]] = {
    "static": lambda share: fixed(share, 1 - share),
    "annealed": lambda share: annealed((share, 1 - share), CLICK),
    "reversed": lambda share: annealed(CLICK, (share, 1 - share)),
}


def helpers(seeds: tuple[int, ...] = MOST_SEEDS) -> Scores:
    """Return the loss of clicks, with the rating as a task that helps: few rows, weights and rates as they were chosen.

    ``stopped`` is the static weight at the step, of every 20th, at which the click's loss on each seed's own validation
    rows was least.
    """
    tasks, arms, recipe = _with_a_helper(0.9, seeds)
    everyone = {**arms, "click alone": fixed(*CLICK)}
    valid = []
    for _, found in balance(tasks, everyone, seeds, recipe, every=20):
        valid.append(held_out_losses(found.models, tasks, "valid")[0, :, 0])  # the static weight's, (S,)
    test = torch.stack([own[..., 0] for own in found.losses])  # (moments, A, S)
    losses = dict(zip(everyone, test[-1], strict=True))
    best = torch.stack(valid).argmin(0, keepdim=True)  # (1, S)
    losses["stopped"] = test[:, 0].gather(0, best).squeeze(0)
    return Scores.of("loss of clicks", losses)


def helpers_unrelated(seeds: tuple[int, ...] = MOST_SEEDS) -> Scores:
    """Return the same of a static weight and of rating first, where the rating has nothing to do with the click."""
    tasks, arms, recipe = _with_a_helper(0.0, seeds)
    two = {name: arms[name] for name in ("static", "annealed")}
    return Scores("loss of clicks", tuple(two), balanced(tasks, two, seeds, recipe, "unrelated").losses[-1][..., 0])


def _with_a_helper(relatedness: float, seeds: tuple[int, ...]) -> tuple[Tasks, dict[str, Arm], Recipe]:
    helper = SETTINGS["helper"]
    tasks = open_shop("spread", seeds, relatedness, helper["rows"])
    arms = {name: _HELPERS[name](share) for name, (_, share) in helper["chosen"].items()}
    (rate,) = {own for own, _ in helper["chosen"].values()}  # the same for all
    return tasks, arms, recipe_of(rate, **helper["recipe"])


# What goes wrong.


def mistakes(seeds: tuple[int, ...] = SEEDS) -> tuple[dict[str, Scores], Tensor]:
    """Train uncertainty weighting right and in three broken ways, and GradNorm with weights that are free numbers.

    Returns
    -------
    dict {"click", "rating", "share": Scores}
    Tensor, (S,)
        The least weight that the free ones came to.
    """
    least = torch.full((len(seeds),), torch.inf)
    arms = {
        "equal": fixed(1.0, 1.0),
        "uncertainty": by_uncertainty(SHOWN["uncertainty"]),
        "never": by_uncertainty(0.0),
        "slow": by_uncertainty(0.001),
        "no s": by_uncertainty(SHOWN["uncertainty"], lambda own, losses: own(losses) - own.log_variances.sum(-1) / 2),
        "free": Arm(lambda n, types: _free_norms(least)),
    }
    found = balanced(open_shop(seeds=seeds), arms, seeds, recipe_of(SHOWN["learning_rate"]), ", ".join(arms))
    measured = over_training(found, seeds)
    return {name: scores.at_end() for name, scores in measured.items()}, least


def _free_norms(least: Tensor, rate: float = 0.025, alpha: float = 0.5) -> Callable[[Now], Tensor]:
    """GradNorm's own step on the weights themselves: gradient descent, then the sum brought back to T."""
    weights = torch.ones(len(least), 2)

    def weigher(now: Now) -> Tensor:
        nonlocal weights
        ratios = now.losses / now.first
        own = weights * now.norms
        wanted = own.mean(-1, keepdim=True) * (ratios / ratios.mean(-1, keepdim=True)) ** alpha
        used = weights
        weights = weights - rate * (own - wanted).sign() * now.norms
        weights = 2 * weights / weights.sum(-1, keepdim=True)
        least.copy_(torch.minimum(least, weights.amin(-1)))
        return used

    return weigher


def conflicts_left(draws: int = 2000, tasks: int = 3, width: int = 5, seed: int = 0) -> dict[str, float]:
    """Return how often a projected update still makes some task worse: with originals, and in place."""
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(draws, tasks, width, generator=generator, dtype=torch.float64)
    orders = torch.rand(draws, tasks, tasks, generator=generator).argsort(-1)
    gram = gradients @ gradients.mT
    right = (balancing.pcgrad(gram, orders).unsqueeze(-2) @ gradients).squeeze(-2)
    inside = gradients.clone()
    rows = torch.arange(draws)
    for task in range(tasks):
        for other in orders[:, task].unbind(-1):
            own, against = inside[:, task], inside[rows, other]
            product = (own * against).sum(-1)
            share = torch.where((product < 0) & (other != task), product / against.square().sum(-1), 0.0)
            inside[:, task] = own - share.unsqueeze(-1) * against
    found = {"originals": right, "in place": inside.sum(-2)}
    return {
        name: float(((gradients * update.unsqueeze(-2)).sum(-1) < -1e-9).any(-1).double().mean())
        for name, update in found.items()
    }


def conversions(hidden: int = 0, seeds: tuple[int, ...] = SEEDS, rows: int = 3000) -> dict[str, Scores]:
    """Predict conversions after a click in four ways; a conversion is a rating of a star or more above the mean.

    The world knows what a click would have led to where there was none: the AUC of conversions is taken over all rows.
    So many features are ``hidden`` from the networks.

    Returns
    -------
    dict {measure: Scores}
        AUC of ``conversion`` over all rows, of ``both``, the click and the conversion, and how far the mean predicted
        chance of a conversion is ``off``.
    """
    shop = open_shop("stars", seeds, relatedness=0.5, rows=rows)
    data = {}
    for part, fields in (("train", shop.train["rows"]), ("test", shop.test["rows"])):
        high = (fields["rating"] >= 1.0).float()  # a star above the mean
        data[part] = {"x": fields["x"][..., hidden:], "click": fields["click"], "high": high}
    types = {"click": "classification", "conversion": "classification"}
    ways = ("entire space", "clicked rows", "not clicked is no", "logits multiplied")

    def objective(model, batch, setting, progress):
        rows = batch["rows"]
        a, b = model(rows["x"]).values()
        bought, bce = rows["click"] * rows["high"], F.binary_cross_entropy_with_logits
        click = bce(a, rows["click"])
        clicked = (rows["click"] * bce(b, rows["high"], reduction="none")).sum() / rows["click"].sum().clamp(min=1)
        losses = (
            balancing.entire_space_loss(a, b, rows["click"], bought).sum(),
            click + clicked,
            click + bce(b, bought),
            click + bce(a * b, bought),
        )
        return (torch.stack(losses) * F.one_hot(setting["way"].long(), len(ways))).sum(), {}

    models = ManyModels(
        lambda: balancing.SharedBottomNetwork(shop.feature_dim - hidden, types, (8,)),
        objective,
        {"rows": data["train"]},
        {"way": range(len(ways))},
        seeds,
        128,
        0.01,
    ).fit(300, "conversions")
    a, b = models.each(lambda model, x: torch.stack(tuple(model(x).values())), data["test"]["x"]).cpu().unbind(1)
    click, high = (data["test"][name].repeat(len(ways), 1) for name in ("click", "high"))
    both = a.sigmoid() * b.sigmoid()
    multiplied = (torch.arange(len(ways)) == ways.index("logits multiplied")).repeat_interleave(len(seeds)).unsqueeze(1)
    both = torch.where(multiplied, (a * b).sigmoid(), both)
    measured = {
        "conversion": ("AUC of a conversion, all rows", auc(b, high)),
        "both": ("AUC of click and conversion", auc(both, click * high)),
        "off": ("mean predicted chance of a conversion less the true one", b.sigmoid().mean(1) - high.mean(1)),
    }
    return {name: Scores(label, ways, models.by_setting(values)) for name, (label, values) in measured.items()}


# Real ratings.


def films(ratings: Ratings) -> dict[str, Scores]:
    """Predict whether a film is rated, and how, in tenths of a star; gains are over a network for each task."""
    arms = {"rated alone": fixed(*CLICK), "rating alone": fixed(*RATING), "equal": fixed(1.0, 1.0)}
    arms |= {way: WAYS[way](*SETTINGS["chosen"][way][1:]) for way in ("logs", "PCGrad", "CAGrad")}
    recipe, losses = recipe_of(**SETTINGS["films"]), {}
    in_stars = rated_and_how(ratings, SEEDS)
    for unit, which in (("tenths", arms), ("spread", {"spread": fixed(1.0, 1.0)})):
        tasks, sizes = in_stars.in_unit(unit)
        found = balanced(tasks, which, SEEDS, recipe, f"films, {unit}")
        losses |= dict(zip(which, found.losses[-1] * sizes**2, strict=True))
    alone = torch.stack([losses["rated alone"][:, 0], losses["rating alone"][:, 1]], dim=1)
    return {
        "gain": Scores.of("gain over a network for each task", {n: gain(own, alone) for n, own in losses.items()}),
        "rated": Scores.of("loss of being rated", {name: own[:, 0] for name, own in losses.items()}),
        "rating": Scores.of("error of ratings, stars", {name: own[:, 1].sqrt() for name, own in losses.items()}),
    }


def genres(ratings: Ratings) -> Scores:
    """Predict ratings in each genre as a task of its own; gains over a network for each genre, mean over the genres."""
    tasks, _ = genres_as_tasks(ratings, SEEDS).in_unit("spread")
    n = len(tasks.types)
    alone = {genre: fixed(*(float(other == genre) for other in tasks.types)) for genre in tasks.types}
    arms = {
        "equal": fixed(*[1.0] * n),
        "logs": WAYS["logs"](),
        "PCGrad": projected(),
        "UPGrad": by_gradients(balancing.upgrad),
    }
    found = balanced(tasks, {**alone, **arms}, SEEDS, recipe_of(**SETTINGS["films"]), "genres").losses[-1]
    singles = torch.stack([found[k, :, k] for k in range(n)], dim=1)  # (S, T)
    return Scores("gain over a network for each genre", tuple(arms), gain(found[n:], singles))


# One setting, live.


WAYS_LIVE = ("equal", "tuned", "uncertainty", "logs", "GradNorm", "PCGrad", "MGDA", "MGDA, unit", "CAGrad", "lagging")
FRONT = (1, 3, 10, 30, 100, 300, 1000)  # the click's static weight, where ratings are in tenths


@dataclass(frozen=True)
class LiveBalance:
    """Eight networks that weigh their tasks, and static weights beside them.

    Attributes
    ----------
    over_training : dict {"click", "rating", "share": Scores}
        Of the way that was chosen.
    front, alone : Tensor, (weights, 2), (2,)
        Loss of clicks and error of ratings of static weights at the end, and of a network for each task.
    """

    over_training: dict[str, Scores]
    front: Tensor
    alone: Tensor


def train_live(way: str, unit: str, relatedness: float, width: int, seed: int) -> Iterator[Running]:
    """Train one way, eight networks; ``seed`` k takes the k-th eight worlds and starts."""
    seeds = tuple(SEEDS[0] + 8 * seed + k for k in range(8))
    front, alone = _front(unit, relatedness, width, seeds)
    lagging = scheduled(TaskSchedule("lagging", 2), unlearned(("classification", "regression")))
    arm = lagging if way == "lagging" else WAYS[way](*SETTINGS["chosen"][way][1:])
    tasks, recipe = open_shop(unit, seeds, relatedness), recipe_of(SHOWN["learning_rate"], hidden_dims=(width,))

    def snapshot(found: Trained) -> LiveBalance:
        return LiveBalance(over_training(found, seeds, unit, relatedness), front, alone)

    for moment, found in balance(tasks, {way: arm}, seeds, recipe, every=10):
        yield Running(moment.step, moment.steps, partial(snapshot, found))
    return snapshot(found)


@lru_cache(maxsize=16)
def _front(unit: str, relatedness: float, width: int, seeds: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    size = {"tenths": 1.0, "stars": 100.0, "spread": 100.0}[unit]  # the same trade-offs in every unit
    arms = {"click alone": fixed(*CLICK), "rating alone": fixed(*RATING)}
    arms |= {weight: fixed(float(weight), size) for weight in FRONT}
    recipe = recipe_of(SHOWN["learning_rate"], hidden_dims=(width,))
    found = balanced(open_shop(unit, seeds, relatedness), arms, seeds, recipe, "static weights")
    ends = in_stars(found.losses[-1], unit, seeds, relatedness).mean(1)  # (A, 2)
    ends[:, 1] = ends[:, 1].sqrt()
    return ends[2:], ends[:2].diagonal()


@dataclass(frozen=True)
class Arrows:
    """Two gradients in the plane, and the direction of each way.

    Attributes
    ----------
    gradients : Tensor, (2, 2)
        One a row.
    directions : dict {way: Tensor (2,)}
    """

    gradients: Tensor
    directions: dict[str, Tensor]


DIRECTIONS = {
    "mean": lambda G: torch.full_like(G[0], 0.5),
    "PCGrad / 2 = UPGrad": lambda G: balancing.pcgrad(G) / 2,
    "MGDA": balancing.mgda,
    "MGDA, unit": lambda G: balancing.mgda(G, unit=True),
    "CAGrad": balancing.cagrad,
    "Aligned-MTL": balancing.aligned_mtl,
}


def draw_by_hand(angle: float, length: float) -> Arrows:
    """Return two gradients with an angle in degrees between them, the second so many times as long as the first."""
    turn = torch.tensor(math.radians(angle), dtype=torch.float64)
    gradients = torch.stack([torch.tensor([1.0, 0.0]).double(), length * torch.stack([turn.cos(), turn.sin()])])
    gram = gradients @ gradients.T
    return Arrows(gradients, {way: weights(gram) @ gradients for way, weights in DIRECTIONS.items()})


# A schedule of one's own.


@lru_cache(maxsize=4)
def _alone_in_narrow(seeds: tuple[int, ...]) -> Tensor:
    """Losses of a narrow network for each task, (S, 2)."""
    arms = {"click alone": fixed(*CLICK), "rating alone": fixed(*RATING)}
    found = balanced(open_shop("spread", seeds), arms, seeds, recipe_of(**NARROW), "one task each")
    return found.losses[-1].diagonal(dim1=0, dim2=2)


def learn_by(choose: Callable[[int, int, Tensor], int], seeds: tuple[int, ...], number: int) -> Tensor:
    """Train one narrow network in a plain loop, one task a step; return what it learned of each as a share, (2,).

    Parameters
    ----------
    choose : callable (step, steps, losses) -> int
        The task of a step, 0 the click and 1 the rating, from the losses (2,) on its batch.
    seeds : tuple of int
    number : int
        Which of the seeds.
    """
    shop, recipe = open_shop("spread", seeds).one(number), recipe_of(**NARROW)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds[number])
        model = recipe.build(shop)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    for step, batch in enumerate(draw_batches(shop.train, seeds[number], recipe.steps, recipe.batch_size)):
        losses = losses_of(shop.types, model, batch)
        task = choose(step, recipe.steps, losses.detach().clone())
        optimizer.zero_grad()
        losses[int(task)].backward()
        optimizer.step()
    with torch.no_grad():
        ends = losses_of(shop.types, model, shop.test)
    return (BARE - ends) / (BARE - _alone_in_narrow(tuple(seeds))[number])


def narrow_with(choose: Callable[[int, int, Tensor], int]) -> Iterator[Running]:
    """Train a narrow network of each of the claims' first three seeds by an answer: shares learned, (networks, 2)."""
    found: list[Tensor] = []
    for k in range(3):
        found.append(learn_by(choose, SEEDS, k))
        yield Running(k + 1, 3, lambda: torch.stack(found), "seed")
    return torch.stack(found)
