"""The lesson's arms and controls, and what is measured of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from recmtl_lessons.datasets import Ratings, WorldSettings
from recmtl_lessons.datasets.shops import GENRE_PAIRS, SHOP, Shops, film_shops, side_by_side
from recmtl_lessons.datasets.shops import open_shops as _open_shops
from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.models import DomainAdversarialNetwork, domain_loss, lambda_schedule, task_loss
from recmtl_lessons.teaching import Running
from recmtl_lessons.teaching.texts import read_yaml
from recmtl_lessons.training import (
    ManyModels,
    Scores,
    accuracy,
    auc,
    concurrently,
    draw_batches,
    proxy_a_distance,
    rmse,
)
from recmtl_lessons.training.shops import (
    BETAS,
    CLICK,
    HIDDEN,
    LEARNING_RATE,
    adversarial_objective,
    both_heads,
    click_auc,
    click_logits,
    domain_accuracy,
    domain_labels,
    first_in_plane,
    many_networks,
)

SETTINGS = read_yaml(Path(__file__).with_name("settings.yaml"))
LAMBDAS, GAMMA, STEPS, EVERY = (SETTINGS[name] for name in ("lambdas", "gamma", "steps", "every"))
LONGER_ON_FILMS = SETTINGS["longer_on_films"]
CLICK_AND_RATING = {**CLICK, "rating": {"task_type": "regression", "output_dim": 1}}


def open_shops(settings: WorldSettings = SHOP, seeds: tuple[int, ...] = SEEDS, displaced: float = 0.0) -> Shops:
    """Return one pair of shops per seed, those of the claims unless others are asked for."""
    return _open_shops(settings, seeds, displaced)


def still_leaning() -> Shops:
    """Return the counter-world: the banner is larger abroad by as much as before, and still stands beside clicks."""
    return open_shops(replace(SHOP, shift=0.0), displaced=SHOP.shift * SHOP.offset)


# The objective, broken in three ways.


def softmax_inside(model, batch, setting, progress):
    """Broken on purpose: probabilities go where the cross-entropy expects logits."""
    task, domain_logits = both_heads(model, batch, setting, progress)
    domain = domain_loss(domain_logits.softmax(dim=1), domain_labels(batch))
    return task + domain, {"task": task, "domain": domain}


def two_signs(model, batch, setting, progress):
    """Broken on purpose: the reversal and a minus sign, which cancel for the encoder."""
    task, domain_logits = both_heads(model, batch, setting, progress)
    domain = domain_loss(domain_logits, domain_labels(batch))
    return task - domain, {"task": task, "domain": domain}


def shuffled_domains(model, batch, setting, progress):
    """The second negative control: the adversary has nothing to find, as its labels do not depend on the domain."""
    task, domain_logits = both_heads(model, batch, setting, progress)
    domain = domain_loss(domain_logits, torch.arange(len(domain_logits), device=domain_logits.device) % 2)
    return task + domain, {"task": task, "domain": domain}


def of_two_tasks(model, batch, setting, progress):
    """Clicks and ratings of the first domain, and the domain loss, through one encoder."""
    loss, logs = adversarial_objective(model, batch, setting, progress)
    home = next(iter(batch.values()))
    ratings, _ = model(home["x"], "rating")
    rating = task_loss(ratings, home["rating"], CLICK_AND_RATING["rating"])
    return loss + rating, {**logs, "rating": rating}


# A grid of lambdas, all seeds at once.


def networks(shops: Shops | None = None, lambdas: Sequence[float] = LAMBDAS, **options) -> ManyModels:
    """Return a stack of networks, one for each lambda and seed; ``options`` as for `many_networks`."""
    shops = shops or open_shops()
    n_seeds = len(next(iter(shops.train.values()))["x"])
    seeds = SEEDS if n_seeds == len(SEEDS) else tuple(range(n_seeds))
    return many_networks(shops.streams("click"), {"lam": lambdas, "gamma": (GAMMA,)}, seeds, **options)


def sweep(
    lambdas: Sequence[float] = LAMBDAS, shops: Shops | None = None, label: str = "sweep", **options
) -> dict[str, Scores]:
    """Train one network for each lambda and seed, all at once, and measure each on its later half.

    Returns
    -------
    dict {measure: Scores of the lambdas}
        ``home`` and ``abroad``: AUC of clicks. ``own`` and ``fresh``: proxy A-distance, by the network's own domain
        classifier and by a new one. ``banner at home`` and ``banner abroad``: its standardised weight in the score.
        ``over training``: AUC of clicks abroad, moment by moment; with the objective and the shops of the claims alone.
    """
    of_the_claims = shops is None and not options
    shops = shops or open_shops()
    watched = {"measure": lambda m: {"abroad": click_auc(m, shops, "abroad")}} if of_the_claims else {}
    models = networks(shops, lambdas, **options).fit(STEPS, label=label, every=EVERY, **watched)
    found = measured(models, shops)
    if of_the_claims and {0.0, 1.0} <= set(lambdas):
        _LAST.update(found)
    return found


_LAST: dict[str, Scores] = {}  # what the claims' own sweep came to


def measured(models: ManyModels, shops: Shops | None = None) -> dict[str, Scores]:
    """Measure a stack of networks of two shops, as `sweep` returns it."""
    shops = shops or open_shops()
    both = torch.cat([fields["x"] for fields in shops.test.values()], dim=1)  # (S, 2n, F)
    features = models.each(lambda model, x: model.encode(x), both)  # (M, 2n, hidden)
    domains = torch.arange(2, device=features.device).repeat_interleave(features.shape[1] // 2)
    logits = models.each_own(lambda model, f: model.domain_classifier(f), features)  # (M, 2n, 2)
    own = accuracy(logits, domains.expand(logits.shape[:-1]))
    found = {
        "home": ("AUC of clicks at home", click_auc(models, shops, "home")),
        "abroad": ("AUC of clicks abroad", click_auc(models, shops, "abroad")),
        "own": ("distance", 2 * (2 * own - 1)),
        "fresh": ("distance", proxy_a_distance(features, domains)),
    }
    if "banner" in shops.test["home"]:
        for place, domain in (("at home", "home"), ("abroad", "abroad")):
            found[f"banner {place}"] = ("weight of the banner", banner_weight(models, shops, domain))
    arms = tuple(setting["lam"] for setting in models.settings[:: models.n_seeds])
    scores = {name: Scores(measure, arms, models.by_setting(values)) for name, (measure, values) in found.items()}
    if "abroad" in models.history:
        curve = models.by_setting(models.history["abroad"])
        scores["over training"] = Scores("AUC abroad", arms, curve, tuple(models.history_steps))
    return scores


def banner_weight(models: ManyModels, shops: Shops, domain: str) -> Tensor:
    """Return the banner's standardised weight in the score, beside that of taste: (n_models,).

    The click logits of one domain's later half are regressed on taste and banner, all with mean 0 and variance 1.
    """
    fields = shops.test[domain]
    logits = _standard(click_logits(models, fields["x"]).cpu())[..., None]  # (M, n, 1)
    clues = torch.stack([_standard(fields["taste"]), _standard(fields["banner"])], dim=-1)  # (S, n, 2)
    return torch.linalg.lstsq(clues.repeat(models.n_settings, 1, 1), logits).solution[:, 1, 0]


def _standard(values: Tensor) -> Tensor:
    return (values - values.mean(-1, keepdim=True)) / values.std(-1, keepdim=True)


def taste_alone(shops: Shops | None = None) -> Tensor:
    """Return the AUC abroad of ranking by taste, as the features show it, and by nothing else: (S,)."""
    fields = (shops or open_shops()).test["abroad"]
    return auc(fields["taste"], fields["click"])


def difference_from_the_stack(make_network: Callable, train: Callable) -> float:
    """Train a network of one's own, and the stack's of the same seed; return the largest difference of any weight.

    In float64: sums in another order differ in float32's seventh digit, and now and then such a difference grows.

    Parameters
    ----------
    make_network : callable (seed) -> sequence of nn.Module
        Encoder, task head and domain classifier.
    train : callable (network, batches, steps, shop)
        The loop, as the notebook writes it.
    """
    shops, seed = open_shops(SHOP, SEEDS[:2]).double(), SEEDS[0]
    shop, network = shops.one(0), [part.double() for part in make_network(seed)]
    train(network, draw_batches(shop.streams("click"), seed, STEPS), STEPS, shop)
    grid = {"lam": (1.0,), "gamma": (GAMMA,)}
    stack = many_networks(shops.streams("click"), grid, SEEDS[:2]).fit(STEPS, label="the same in float64")
    theirs = stack.model(stack.number(seed, lam=1.0, gamma=GAMMA)).parameters()
    mine = (weights for part in network for weights in part.parameters())
    return max(float((a - b).detach().abs().max()) for a, b in zip(mine, theirs, strict=True))


def trained_abroad(shops: Shops | None = None) -> Tensor:
    """Return the AUC abroad of the same network trained on abroad's own clicks, (S,)."""
    shops = shops or open_shops()
    models = networks(shops.with_labels_of("abroad"), (0.0,))
    return click_auc(models.fit(STEPS, label="trained abroad"), shops, "abroad")


def sweep_of_several(worlds: dict[str, Shops], lambdas: Sequence[float] = (0.0, 1.0)) -> dict[str, dict[str, Scores]]:
    """Sweep several kinds of shop as one stack, which costs less than one after the other."""
    shops = side_by_side(list(worlds.values()))
    found = measured(networks(shops, lambdas).fit(STEPS, label="; ".join(worlds)), shops)
    parts = {name: slice(k * len(SEEDS), (k + 1) * len(SEEDS)) for k, name in enumerate(worlds)}
    return {
        world: {name: replace(scores, values=scores.values[:, part]) for name, scores in found.items()}
        for world, part in parts.items()
    }


# One network at a time, in a loop of one's own.


@torch.no_grad()
def auc_of(network, shop: Shops, domain: str = "abroad") -> float:
    """Return the AUC of one network's clicks in one domain's later half, of a shop of one seed."""
    fields = shop.test[domain]
    return float(auc(_click_logits(network, network.encode(fields["x"])), fields["click"]))


def _click_logits(network: DomainAdversarialNetwork, shared: Tensor) -> Tensor:
    return network.read(shared, "click").squeeze(1)


def train_with(answer: Callable) -> Iterator[Running]:
    """Train eight networks, one after another, with an answer to the exercise for the objective, at lambda 1.

    Starts, batches and optimizer are those of the sweep, so that a right answer gives the sweep's networks.
    """
    curves: list[list[float]] = []

    def snapshot() -> Scores | None:
        whole = [curve for curve in curves if len(curve) == STEPS // EVERY] or [curves[0]]
        return own_scores(whole) if whole[0] else None

    for number, seed in enumerate(SEEDS):
        shop = open_shops().one(number)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = DomainAdversarialNetwork(shop.train["home"]["x"].shape[1], HIDDEN, 2, CLICK)
        optimizer = optimizer_of(network)
        curves.append([])
        for step, batch in enumerate(draw_batches(shop.streams("click"), seed, STEPS)):
            home, abroad, clicks = batch["home"]["x"], batch["abroad"]["x"], batch["home"]["click"]
            lam = lambda_schedule(step / STEPS, GAMMA)
            head = partial(_click_logits, network)
            loss = answer(network.encode, head, network.domain_classifier, home, abroad, clicks, lam)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if (step + 1) % EVERY == 0:
                curves[-1].append(auc_of(network, shop))
            yield Running(number * STEPS + step + 1, len(SEEDS) * STEPS, snapshot)
    return snapshot()


def own_scores(curves: Sequence[Sequence[float]]) -> Scores:
    """Return AUC abroad of networks of one's own, measured every 25 steps, as the scores of an arm called yours."""
    return Scores(
        "AUC abroad", ("yours",), torch.tensor([curves]), tuple(range(EVERY, EVERY * len(curves[0]) + 1, EVERY))
    )


def optimizer_of(network: DomainAdversarialNetwork) -> torch.optim.Adam:
    """Return the optimizer that a stack has, for one network: the domain classifier learns faster than the rest."""
    slow = [*network.encoder.parameters(), *network.task_heads.parameters()]
    fast = {"params": network.domain_classifier.parameters(), "lr": LEARNING_RATE["domain_classifier"]}
    return torch.optim.Adam([{"params": slow}, fast], lr=LEARNING_RATE[""], betas=BETAS)


def course_band() -> Scores:
    """Return the AUC abroad over training without and with the adversary: of the last sweep, or of a small one."""
    return _LAST.get("over training") or sweep((0.0, 1.0), label="the course's")["over training"]


# Three domains, two tasks.


def two_tasks_in_three_domains(lam: float = 1.0) -> dict[str, dict[str, Scores]]:
    """Train click and rating together in one network over three domains; only the first has labels.

    Returns
    -------
    dict {"click" or "rating": {domain: Scores}}
        AUC of clicks and RMSE of ratings, without and with the adversary; for ratings also of a constant answer,
        home's mean.
    """
    settings = replace(SHOP, domains=("home", "near", "far"))
    shops = open_shops(settings)
    grid = {"lam": (0.0, lam), "gamma": (GAMMA,)}
    streams = shops.streams("click", "rating")
    models = many_networks(streams, grid, SEEDS, CLICK_AND_RATING, of_two_tasks).fit(STEPS, label="two tasks")
    arms = ("without", "with")

    def clicks(domain: str) -> Scores:
        return Scores("AUC of clicks", arms, models.by_setting(click_auc(models, shops, domain)))

    def ratings(domain: str) -> Scores:
        fields = shops.test[domain]
        values = models.each(lambda model, x: model.answer(x, "rating"), fields["x"])  # (M, n)
        errors = models.by_setting(rmse(values.cpu(), fields["rating"].repeat(models.n_settings, 1)))
        mean = shops.train["home"]["rating"].mean(1, keepdim=True).expand_as(fields["rating"])
        return Scores.of("RMSE of ratings", {**dict(zip(arms, errors, strict=True)), "constant": rmse(
            mean, fields["rating"])})  # fmt: skip

    return {"click": {d: clicks(d) for d in settings.domains}, "rating": {d: ratings(d) for d in settings.domains}}


# Real ratings: genres as domains.


def transfer_between_genres(
    ratings: Ratings, pairs: Sequence[tuple[str, str]] = GENRE_PAIRS, lam: float = 1.0, steps: int = STEPS
) -> dict[str, Scores]:
    """Predict likes in one genre from the likes in another, for several pairs at once.

    Returns
    -------
    dict {"source → target": Scores of AUC in the target}
        Without and with the adversary, and of the same network trained on as many labels of the target itself. A seed
        cuts the users in two halves, one to train on and one to test on, and starts a network.
    """
    shops = side_by_side([film_shops(ratings, source, target, SEEDS) for source, target in pairs])

    def learn(known: Shops, lambdas: tuple[float, ...], label: str) -> Tensor:
        models = networks(known, lambdas)
        return models.by_setting(click_auc(models.fit(steps, label=label), shops, "abroad"))

    found = concurrently(
        partial(learn, shops, (0.0, lam), "genres"),
        partial(learn, shops.with_labels_of("abroad"), (0.0,), "trained on the target"),
    )
    values = torch.cat(found).view(3, len(pairs), len(SEEDS))
    arms = ("without", "with", "labels of the target")
    return {f"{s} → {t}": Scores("AUC of likes", arms, values[:, k]) for k, (s, t) in enumerate(pairs)}


# One setting, live.


@dataclass(frozen=True)
class LiveTraining:
    """Eight networks of one setting while they train: T moments so far, P points.

    Attributes
    ----------
    curves : Scores
        ``home``, ``abroad`` and ``own``, the share of rows whose domain the own classifier names.
    points : Tensor, (P, 2)
        Features of the first network in two dimensions: where the domains' centres lie apart, and where the rest
        spreads most.
    abroad, clicked : Tensor, (P,), bool
    """

    curves: Scores
    points: Tensor
    abroad: Tensor
    clicked: Tensor


def train_live(lam: float, seed: int, gamma: float = GAMMA) -> Iterator[Running]:
    """Train eight networks of one setting; ``seed`` k takes the k-th eight worlds and starts."""
    seeds = tuple(SEEDS[0] + 8 * seed + k for k in range(8))
    shops = open_shops(SHOP, seeds)
    models = many_networks(shops.streams("click"), {"lam": (lam,), "gamma": (gamma,)}, seeds)

    def snapshot() -> LiveTraining:
        curves = {name: models.history[name] for name in ("home", "abroad", "own")}
        return LiveTraining(Scores.of("", curves, models.history_steps), *first_in_plane(models, shops))

    def measure(models: ManyModels) -> dict[str, Tensor]:
        clicks = {domain: click_auc(models, shops, domain) for domain in ("home", "abroad")}
        return {**clicks, "own": domain_accuracy(models, shops)}

    for moment in models.train(STEPS, every=20, measure=measure):
        yield Running(moment.step, moment.steps, snapshot)
    return snapshot()
