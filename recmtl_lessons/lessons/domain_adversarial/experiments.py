"""The lesson's shop, its networks, and what is measured of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from functools import lru_cache, partial

import torch
from torch import Tensor
from torch.nn import functional as F

from recmtl_lessons.datasets import (
    Ratings,
    WorldSettings,
    describe_items,
    describe_raters,
    genre_domains,
    make_world,
)
from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.models import DomainAdversarialNetwork, domain_loss, lambda_schedule, task_loss
from recmtl_lessons.teaching import Running
from recmtl_lessons.training import ManyModels, accuracy, auc, concurrently, proxy_a_distance, rmse

SHOP = WorldSettings(
    domains=("home", "abroad"), interactions=4000, relatedness=1.0, nuisance=0.45, shift=1.5, offset=2.0
)
LAMBDAS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
STEPS = 250
CLICK = {"click": {"task_type": "classification", "output_dim": 1}}
CLICK_AND_RATING = {**CLICK, "rating": {"task_type": "regression", "output_dim": 1}}


def without_shift() -> WorldSettings:
    """The negative control: the banner leans abroad as it does at home."""
    return replace(SHOP, shift=0.0)


def turned_around() -> WorldSettings:
    """The banner leans the opposite way abroad and, looked at alone, looks the same."""
    return replace(SHOP, shift=2.0, offset=0.0)


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


def both_heads(model, batch, setting, progress):
    """The click loss of the rows that have labels, and the domain logits of all rows."""
    x = torch.cat([fields["x"] for fields in batch.values()])  # (domains * batch, F)
    home = next(iter(batch.values()))
    alpha = setting["lam"] * lambda_schedule(progress, setting["gamma"])
    clicks, domain_logits = model(x, "click", alpha)
    at_home = clicks[: len(home["x"])]  # (batch, 1)
    return task_loss(at_home, home["click"], CLICK["click"]), domain_logits


def objective(model, batch, setting, progress):
    """Click loss at home plus domain loss everywhere; the reversal inside the model does the rest."""
    task, domain_logits = both_heads(model, batch, setting, progress)
    domain = domain_loss(domain_logits, _domain_labels(batch))
    return task + domain, {"task": task, "domain": domain}


def objective_with_softmax_inside(model, batch, setting, progress):
    """Broken on purpose: probabilities go where the cross-entropy expects logits."""
    task, domain_logits = both_heads(model, batch, setting, progress)
    domain = domain_loss(domain_logits.softmax(dim=1), _domain_labels(batch))
    return task + domain, {"task": task, "domain": domain}


def objective_with_two_signs(model, batch, setting, progress):
    """Broken on purpose: the reversal and a minus sign, which cancel for the encoder."""
    task, domain_logits = both_heads(model, batch, setting, progress)
    domain = domain_loss(domain_logits, _domain_labels(batch))
    return task - domain, {"task": task, "domain": domain}


def objective_with_shuffled_domains(model, batch, setting, progress):
    """The second negative control: an adversary with nothing to find, its labels have nothing to do with the domain."""
    task, domain_logits = both_heads(model, batch, setting, progress)
    domain = domain_loss(domain_logits, torch.arange(len(domain_logits), device=domain_logits.device) % 2)
    return task + domain, {"task": task, "domain": domain}


def objective_of_two_tasks(model, batch, setting, progress):
    """Clicks and ratings of the first domain, and the domain loss, through one encoder."""
    loss, logs = objective(model, batch, setting, progress)
    home = next(iter(batch.values()))
    ratings, _ = model(home["x"], "rating")
    rating = task_loss(ratings, home["rating"], CLICK_AND_RATING["rating"])
    return loss + rating, {**logs, "rating": rating}


def _domain_labels(batch) -> Tensor:
    sizes = [len(fields["x"]) for fields in batch.values()]
    device = next(iter(batch.values()))["x"].device
    return torch.repeat_interleave(torch.arange(len(sizes), device=device), torch.tensor(sizes, device=device))


# The experiment: a grid of lambdas, all seeds at once.


@dataclass(frozen=True)
class Sweep:
    """What a grid of lambdas came to, on rows that nothing was trained on. L lambdas, S seeds, T moments of training.

    Attributes
    ----------
    source_auc, target_auc : Tensor, (L, S)
        AUC of the clicks at home and abroad.
    domain_accuracy : Tensor, (L, S)
        Share of rows whose domain the network's own classifier names; 0.5 is chance.
    a_distance : Tensor, (L, S)
        How well a fresh classifier tells the domains by the encoder's features: 0 not at all, 2 always.
    domain_curve : Tensor, (L, S, T)
        Loss of the domain classifier while it trained.
    """

    lambdas: tuple[float, ...]
    source_auc: Tensor
    target_auc: Tensor
    domain_accuracy: Tensor
    a_distance: Tensor
    domain_curve: Tensor

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
        # Two habits from generative adversarial networks: the opponent learns faster than what it judges, and Adam
        # forgets its momentum sooner. The faster opponent is what lowers the distance that a fresh classifier sees.
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
    return measured(models.fit(steps, label=label), shops, tuple(lambdas))


def two_sweeps(lambdas: Sequence[float], first: WorldSettings, second: WorldSettings) -> tuple[Sweep, Sweep]:
    """Sweep two kinds of shop as one stack, which costs less than one after the other."""
    many = [open_shops(first), open_shops(second)]
    shops = _side_by_side(many)
    seeds = tuple(range(2 * len(SEEDS)))
    models = many_networks(shops.streams("click"), {"lam": lambdas, "gamma": (10.0,)}, seeds)
    both = measured(models.fit(STEPS, label="no shift; turned"), shops, tuple(lambdas))

    def part(seeds: slice) -> Sweep:
        scores = {f.name: getattr(both, f.name)[:, seeds] for f in dataclass_fields(both) if f.name != "lambdas"}
        return Sweep(lambdas=both.lambdas, **scores)

    return part(slice(None, len(SEEDS))), part(slice(len(SEEDS), None))


def trained_abroad(shops: Shops | None = None) -> Tensor:
    """The reference: AUC abroad of the same network trained on abroad's own clicks, (S,)."""
    shops = shops or open_shops()
    swapped = Shops({domain: shops.train[domain] for domain in ("abroad", "home")}, shops.test)
    models = many_networks(swapped.streams("click"), {"lam": (0.0,), "gamma": (10.0,)}, range(len(SEEDS)))
    return click_auc(models.fit(STEPS, label="trained abroad"), shops, "abroad")


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
        domain_curve=split(models.history["domain"]),
    )


def click_auc(models: ManyModels, shops: Shops, domain: str) -> Tensor:
    """AUC of the clicks in one domain's later half, (n_models,)."""
    fields = shops.test[domain]
    scores = models.each(lambda model, x: model(x, "click")[0].squeeze(1), fields["x"])  # (M, n)
    return auc(scores.cpu(), fields["click"].repeat(models.n_settings, 1))


def _both(shops: Shops) -> Tensor:
    return torch.cat([fields["x"] for fields in shops.test.values()], dim=1)  # (S, 2n, F)


def _features_of_both(models: ManyModels, shops: Shops) -> tuple[Tensor, Tensor]:
    features = models.each(lambda model, x: model.encode(x), _both(shops))  # (M, 2n, hidden)
    n = features.shape[1] // 2
    return features, torch.arange(2, device=features.device).repeat_interleave(n)


# Three domains, two tasks.


@dataclass(frozen=True)
class TwoTasks:
    """Scores of two tasks in three domains, without and with the adversary: (2, S) a domain.

    ``constant_rmse``, (S,) a domain, is the error of answering home's mean rating always.
    """

    domains: tuple[str, ...]
    click_auc: dict[str, Tensor]
    rating_rmse: dict[str, Tensor]
    constant_rmse: dict[str, Tensor]


def two_tasks_in_three_domains(lam: float = 1.0) -> TwoTasks:
    """Train click and rating together in one network over three domains; only the first has labels."""
    settings = replace(SHOP, domains=("home", "near", "far"))
    shops = open_shops(settings)
    grid = {"lam": (0.0, lam), "gamma": (10.0,)}
    models = many_networks(
        shops.streams("click", "rating"), grid, tasks=CLICK_AND_RATING, training_objective=objective_of_two_tasks
    ).fit(STEPS, label="two tasks")
    return TwoTasks(
        settings.domains,
        {d: models.by_setting(click_auc(models, shops, d)) for d in settings.domains},
        {d: models.by_setting(_rating_rmse(models, shops, d)) for d in settings.domains},
        {d: _constant_rmse(shops, d) for d in settings.domains},
    )


def _constant_rmse(shops: Shops, domain: str) -> Tensor:
    ratings = shops.test[domain]["rating"]  # (S, n)
    return rmse(shops.train["home"]["rating"].mean(1, keepdim=True).expand_as(ratings), ratings)


def _rating_rmse(models: ManyModels, shops: Shops, domain: str) -> Tensor:
    fields = shops.test[domain]
    values = models.each(lambda model, x: model.answer(x, "rating"), fields["x"])  # (M, n)
    return rmse(values.cpu(), fields["rating"].repeat(models.n_settings, 1))


# Real ratings: genres as domains.

GENRE_PAIRS = (("Comedy", "Horror"), ("Drama", "Sci-Fi"), ("Romance", "Action"))
_ROWS = 1500


@dataclass(frozen=True)
class GenreTransfer:
    """AUC of likes in a genre whose labels were never seen, a row a pair of genres and a column a seed.

    Attributes
    ----------
    pairs : tuple of (source, target)
    unaligned, aligned : Tensor, (pairs, S)
        Without and with the adversary.
    native : Tensor, (pairs, S)
        The same network trained on as many labels of the target itself.
    """

    pairs: tuple[tuple[str, str], ...]
    unaligned: Tensor
    aligned: Tensor
    native: Tensor


def transfer_between_genres(
    ratings: Ratings, pairs: Sequence[tuple[str, str]] = GENRE_PAIRS, lam: float = 1.0, steps: int = STEPS
) -> GenreTransfer:
    """Predict likes in one genre from the likes in another, for several pairs at once.

    Each seed cuts the users in two halves, one to train on and one to test on, and starts a network of its own.
    """
    shops = _side_by_side([film_shops(ratings, source, target) for source, target in pairs])
    seeds = tuple(range(len(pairs) * len(SEEDS)))
    swapped = Shops({d: shops.train[d] for d in ("abroad", "home")}, shops.test)

    def learn(known: Shops, lambdas: tuple[float, ...], label: str) -> Tensor:
        models = many_networks(known.streams("click"), {"lam": lambdas, "gamma": (10.0,)}, seeds)
        return models.by_setting(click_auc(models.fit(steps, label=label), shops, "abroad"))

    (unaligned, aligned), (native,) = concurrently(
        partial(learn, shops, (0.0, lam), "genres"), partial(learn, swapped, (0.0,), "trained on the target")
    )
    shape = (len(pairs), len(SEEDS))
    return GenreTransfer(tuple(pairs), unaligned.view(shape), aligned.view(shape), native.view(shape))


def film_shops(ratings: Ratings, source: str, target: str, seeds: Sequence[int] = SEEDS) -> Shops:
    """Ratings of two genres as two shops: features of user and film, and whether the film was liked (4 stars or more).

    A user is known by one half of their ratings of the source genre, and rows at home are drawn from the other half: to
    leave out only the row's own rating would let its label shine through, at home and not abroad. A film is known by
    its year, its number of ratings and its other genres. No feature contains a label of the target genre.
    """
    films = genre_domains(ratings, (source, target))
    liked = (films.rating >= 4).float()
    at_home = films.domain == 0
    history = at_home & (torch.rand(len(films), generator=torch.Generator().manual_seed(0)) < 0.5)
    habits, count = describe_raters(films.user[history], films.n_users, films.rating[history], liked[history])
    of_users = torch.cat([habits, (count + 1).log()[:, None] - 3], dim=1)  # (n_users, 3)
    of_items = describe_items(films, (source, target))
    x = torch.cat([of_users[films.user], of_items[films.item]], dim=1)
    halves: tuple[dict, dict] = ({}, {})
    for d, name in enumerate(("home", "abroad")):
        open_rows = (films.domain == d) & ~history
        drawn = [_rows_of_two_halves(films, open_rows, seed) for seed in seeds]
        for fields, half in zip(halves, (0, 1), strict=True):
            rows = torch.stack([pair[half] for pair in drawn])  # (S, n)
            fields[name] = {"x": x[rows], "click": liked[rows]}
    return Shops(*halves)


def _rows_of_two_halves(films: Ratings, open_rows: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Rows by users to train on and by users to test on, as many of each, drawn from the open ones."""
    generator = torch.Generator().manual_seed(seed)
    users = films.user.unique()
    to_train = torch.zeros(films.n_users, dtype=torch.bool)
    to_train[users[torch.randperm(len(users), generator=generator)[: len(users) // 2]]] = True
    drawn = []
    for half in (to_train, ~to_train):
        rows = (open_rows & half[films.user]).nonzero().squeeze(1)
        if len(rows) < _ROWS:
            raise ValueError(f"films: got {len(rows)} ratings in a half of the users, expected at least {_ROWS}")
        drawn.append(rows[torch.randperm(len(rows), generator=generator)[:_ROWS]])
    return drawn[0], drawn[1]


def _side_by_side(many: Sequence[Shops]) -> Shops:
    """Several pairs of shops as one, their seeds one after another, so that all train as one stack."""

    def joined(halves: list[dict]) -> dict:
        return {d: {f: torch.cat([h[d][f] for h in halves]) for f in fields} for d, fields in halves[0].items()}

    return Shops(joined([s.train for s in many]), joined([s.test for s in many]))


# One setting, live.


@dataclass(frozen=True)
class LiveTraining:
    """Eight networks of one setting while they train: S seeds, T moments so far, P points.

    Attributes
    ----------
    lam, gamma : float
    steps : tuple of int
        Steps of the moments.
    source_auc, target_auc, domain_accuracy : Tensor, (S, T)
    points : Tensor, (P, 2)
        Features of the first network in two dimensions: where the domains' centres lie apart, and where the rest
        spreads most.
    abroad, clicked : Tensor, (P,), bool
    """

    lam: float
    gamma: float
    steps: tuple[int, ...]
    source_auc: Tensor
    target_auc: Tensor
    domain_accuracy: Tensor
    points: Tensor
    abroad: Tensor
    clicked: Tensor


def train_live(lam: float, gamma: float, seed: int) -> Iterator[Running]:
    """Train eight networks of one setting; ``seed`` k takes the k-th eight worlds and starts."""
    seeds = tuple(SEEDS[0] + 8 * seed + k for k in range(8))
    shops = open_shops(SHOP, seeds)
    models = many_networks(shops.streams("click"), {"lam": (lam,), "gamma": (gamma,)}, seeds)

    def snapshot() -> LiveTraining:
        history = models.history
        curves = (history[name] for name in ("source_auc", "target_auc", "domain_accuracy"))
        return LiveTraining(lam, gamma, tuple(models.history_steps), *curves, *_plane(models, shops))

    def measure(models: ManyModels) -> dict[str, Tensor]:
        return {
            "source_auc": click_auc(models, shops, "home"),
            "target_auc": click_auc(models, shops, "abroad"),
            "domain_accuracy": _own_accuracy(models, shops),
        }

    for moment in models.train(STEPS, every=20, measure=measure):
        yield Running(moment.step, moment.steps, snapshot)
    return snapshot()


def _own_accuracy(models: ManyModels, shops: Shops) -> Tensor:
    logits = models.each(lambda model, x: model(x, "click")[1], _both(shops)[:, ::4])  # (M, n / 2, 2)
    domains = torch.arange(2).repeat_interleave(logits.shape[1] // 2)
    return accuracy(logits.cpu(), domains.expand(logits.shape[:-1]))


_POINTS = 220  # of each domain


def _plane(models: ManyModels, shops: Shops) -> tuple[Tensor, Tensor, Tensor]:
    """The first network's features in two dimensions, and which points are from abroad, and which were clicked."""
    x = torch.cat([fields["x"][:, :_POINTS] for fields in shops.test.values()], dim=1)  # (S, 2P, F)
    clicked = torch.cat([fields["click"][0, :_POINTS] for fields in shops.test.values()]) > 0  # (2P,)
    abroad = torch.arange(len(clicked)) >= _POINTS
    features = models.each(lambda model, x: model.encode(x), x)[0].cpu()  # (2P, hidden)
    return plane(features, abroad, clicked)[0], abroad, clicked


def plane(features: Tensor, abroad: Tensor, clicked: Tensor) -> tuple[Tensor, Tensor]:
    """Features (P, hidden) in two dimensions, (P, 2), and the length there was for each unit there is now.

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
