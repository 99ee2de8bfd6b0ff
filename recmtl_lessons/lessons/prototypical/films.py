"""Users as episodes of two classes, liked and disliked: on MovieLens, and wherever users are tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.datasets.few_shot import FILM_MEAN, SHOTS, ColdStart, Tasks, film_users, own_mean
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.lessons.prototypical.experiments import EMBEDDING, SETTINGS, fit
from recmtl_lessons.lessons.prototypical.rivals import nearest_mean
from recmtl_lessons.models import PrototypicalNetworkRecommender
from recmtl_lessons.training import ManyModels, Scores, concurrently_for
from recmtl_lessons.training.few_shot import FILM_HIDDEN, STEPS, USERS, mean_error

FILM_COUNT = 1  # the feature that holds the logarithm of the film's number of ratings
_ROUNDING = 1e-4  # a rating that is the mean does not lie above it
EVERYBODY = 1e6  # a weight at which no user's own ratings count
PLAIN, PULLED = "prototypes", "prototypes, pulled"


# Liked and disliked.


def liked(tasks: Tasks) -> tuple[Tensor, Tensor]:
    """Say which ratings lie above the mean of the user's support ratings: (S, T, K) and (S, T, Q), 0 or 1."""
    mean = tasks.support_y.mean(2, keepdim=True) + _ROUNDING
    return (tasks.support_y > mean).long(), (tasks.query_y > mean).long()


def two_sided(tasks: Tasks) -> Tensor:
    """Say whether a user's support ratings differ, so that both classes have a rating, (S, T)."""
    good = liked(tasks)[0].bool()
    return good.any(2) & ~good.all(2)


def taste_stream(tasks: Tasks) -> dict[str, dict[str, Tensor]]:
    """Return training users as episodes of two classes, to train on.

    Users whose support ratings are all the same have one class; others of the same seed stand in for them.
    """
    support_y, query_y = liked(tasks)
    fields = {"support_x": tasks.support_x, "support_y": support_y, "query_x": tasks.query_x, "query_y": query_y}
    rows = [keep.nonzero().squeeze(1) for keep in two_sided(tasks)]
    rows = torch.stack([r[torch.arange(tasks.user.shape[1]) % len(r)] for r in rows])  # (S, T)
    seed = torch.arange(len(rows))[:, None]
    return {"users": {name: values[seed, rows] for name, values in fields.items()}}


# Training and serving.


def everybodys_prototypes(model, embeddings: Tensor, labels: Tensor) -> Tensor:
    """Return the prototypes of all users' ratings in one heap: (T, K, D), (T, K) -> (2, D)."""
    return model.compute_prototypes(embeddings.flatten(0, 1), labels.flatten(), 2)


def pulled_prototypes(embeddings: Tensor, labels: Tensor, everybody: Tensor, weight: float) -> Tensor:
    """Pull users' prototypes towards everybody's, which count for ``weight`` ratings: (T, K, D) -> (T, 2, D).

    Rows labelled -1 count for neither class.
    """
    member = (labels.unsqueeze(-1) == torch.arange(2, device=labels.device)).float()  # (T, K, 2)
    count = member.sum(-2).unsqueeze(-1)  # (T, 2, 1)
    return (member.mT @ embeddings + weight * everybody) / (count + weight)


def taste_objective(model, batch, setting, progress, weight=0.0):
    """Tell liked from disliked query items by the prototypes of the support, pulled or not."""
    u = batch["users"]
    if not weight:
        return model.query_losses((u["support_x"], u["support_y"], u["query_x"], u["query_y"]), 2).mean(), {}
    embeddings, labels = model(u["support_x"]), u["support_y"]
    everybody = everybodys_prototypes(model, embeddings, labels)
    log_p = model.classify(model(u["query_x"]), pulled_prototypes(embeddings, labels, everybody, weight))
    return -log_p.gather(-1, u["query_y"].unsqueeze(-1)).mean(), {}


@dataclass(frozen=True)
class Tastes:
    """Networks that tell liked from disliked.

    Attributes
    ----------
    models : ManyModels
    weight : float
        How many ratings everybody's prototypes count for; 0: a user's own alone.
    train : Tasks
        Whose ratings everybody's prototypes are made of.
    """

    models: ManyModels
    weight: float
    train: Tasks


def train_tastes(
    tasks: Tasks, seeds: Sequence[int], rate: float, hidden: Sequence[int], weight: float = 0.0, steps: int = STEPS,
    label: str = "",
) -> Tastes:  # fmt: skip
    """Train one network a seed on users as episodes."""
    build = partial(PrototypicalNetworkRecommender, tasks.support_x.shape[-1], EMBEDDING, tuple(hidden))
    objective = partial(taste_objective, weight=weight)
    models = ManyModels(build, objective, taste_stream(tasks), [{"rate": rate}], seeds, USERS, rate)
    return Tastes(fit(models, steps, label), weight, tasks)


def train_both(
    users: ColdStart, chosen: Mapping[str, Mapping], hidden: Sequence[int], seeds: Sequence[int], steps: int = STEPS,
    label: str = "",
) -> dict[str, Tastes]:  # fmt: skip
    """Train networks for prototypes that are a user's own, and for pulled ones, each with its rate and weight."""

    def learn(name: str) -> Tastes:
        rate, weight = chosen[name]["rate"], chosen[name]["weight"]
        return train_tastes(users.train, seeds, rate, hidden, weight, steps, label and f"{label}, {name}")

    return concurrently_for((PLAIN, PULLED), learn)


def log_odds(tastes: Tastes, tasks: Tasks, weight: float | None = None) -> Tensor:
    """Return how much likelier liked than disliked each query item is, (S, T, Q); ``weight`` overrides training's.

    A user whose support ratings are all the same says nothing of what they prefer. With a pull they get everybody's
    prototypes, without one 0 for all items.
    """
    weight, both = tastes.weight if weight is None else weight, two_sided(tasks)
    everybody_y = liked(tastes.train)[0]
    support_y = torch.where(both[..., None], liked(tasks)[0], -1)

    def answer(model, support_x, support_y, query_x, all_x, all_y):
        embeddings = model(support_x)
        if weight:
            everybody = everybodys_prototypes(model, model(all_x), all_y)
            prototypes = pulled_prototypes(embeddings, support_y, everybody, weight)
        else:
            prototypes = model.compute_prototypes(embeddings, support_y, 2)  # NaN where a class is missing
        log_p = model.classify(model(query_x), prototypes)  # (T, Q, 2)
        return log_p[..., 1] - log_p[..., 0]

    x = (tasks.support_x, support_y, tasks.query_x, tastes.train.support_x, everybody_y)
    found = tastes.models.each(answer, *x).cpu()
    return found if weight else torch.where(both[..., None], found, 0.0)


def as_ratings(odds: Tensor, tasks: Tasks, scale: float, most: float) -> Tensor:
    """Make ratings of log-odds: the user's own mean, plus ``scale`` stars per unit, of ``most`` units at most."""
    return own_mean(tasks) + scale * odds.clamp(-most, most)


def within_user_auc(scores: Tensor, tasks: Tasks) -> Tensor:
    """Return how often a liked query item is ranked before a disliked one of the same user: (S, T, Q) -> (S,).

    Ties count half. Users who like all their query items, or none, are left out, the same for every way to rank.
    """
    if scores.shape != tasks.query_y.shape or scores.isnan().any():
        raise ValueError(f"scores: got {tuple(scores.shape)} with {int(scores.isnan().sum())} NaN, expected numbers of "
                         f"shape {tuple(tasks.query_y.shape)}")  # fmt: skip
    good, bad = (side.bool() & tasks.known for side in (liked(tasks)[1], 1 - liked(tasks)[1]))  # (S, T, Q)
    pairs = good.unsqueeze(-1) & bad.unsqueeze(-2)  # (S, T, Q, Q)
    ahead = scores.unsqueeze(-1) - scores.unsqueeze(-2)
    won = ((ahead > 0).float() + 0.5 * (ahead == 0).float()) * pairs
    count = pairs.sum((-1, -2))
    share = won.sum((-1, -2)) / count.clamp(min=1)  # (S, T), 0 where there is no pair
    return share.sum(1) / (count > 0).sum(1)


def score_stars(tastes: Tastes, tasks: Tasks) -> dict[tuple[float, float], float]:
    """Score each scale and limit of `as_ratings` by the error: so both were chosen, on validation users."""
    odds, pairs = log_odds(tastes, tasks), product(SETTINGS["scales"], SETTINGS["limits"])
    return {pair: float(mean_error(as_ratings(odds, tasks, *pair), tasks).mean()) for pair in pairs}


def score_tastes(
    users: ColdStart, hidden: Sequence[int] = FILM_HIDDEN, rates: Sequence[float] = SETTINGS["taste_rates"],
    weights: Sequence[float] = SETTINGS["taste_weights"],
) -> dict[tuple[float, float], float]:  # fmt: skip
    """Score each rate and pull by the AUC on validation users of `DESIGN_SEEDS`: so both were chosen."""
    valid, found = users.valid.shots(SHOTS), {}
    for rate, weight in product(rates, weights):
        tastes = train_tastes(users.train, DESIGN_SEEDS, rate, hidden, weight)
        found[rate, weight] = float(within_user_auc(log_odds(tastes, valid), valid).mean())
    return found


# What the lesson compares on MovieLens.


@dataclass(frozen=True)
class FilmRanking:
    """How well held-out films are ranked for new users of MovieLens; S splits of the users.

    Attributes
    ----------
    users : ColdStart
    auc : Scores
        Within users, of six ways to rank.
    tastes : dict {"prototypes", "prototypes, pulled"}
    one_sided, left_out : Tensor, (S,)
        Share of the users whose ten ratings are all the same; share without a liked or a disliked film to be judged on.
    """

    users: ColdStart
    auc: Scores
    tastes: dict[str, Tastes]
    one_sided: Tensor
    left_out: Tensor


def rank_films(ratings: Ratings, seeds: tuple[int, ...] = SEEDS, steps: int = STEPS) -> FilmRanking:
    """Train on users as episodes, and rank the films of others."""
    users = film_users(ratings, seeds)
    test = users.test
    tastes = train_both(users, SETTINGS["films"]["tastes"], FILM_HIDDEN, seeds, steps, "films")
    features = nearest_mean(test.support_x, liked(test)[0], test.query_x, 2)  # as they are
    ways = {
        "nearest mean of features": torch.where(two_sided(test)[..., None], features[..., 1] - features[..., 0], 0.0),
        "number of ratings": test.query_x[..., FILM_COUNT],
        PLAIN: log_odds(tastes[PLAIN], test),
        "mean rating": test.query_x[..., FILM_MEAN],
        "everybody's": log_odds(tastes[PULLED], test, EVERYBODY),
        PULLED: log_odds(tastes[PULLED], test),
    }
    auc = Scores.of("AUC within users", {name: within_user_auc(scores, test) for name, scores in ways.items()})
    query = liked(test)[1].bool()
    no_pair = ~(query & test.known).any(2) | ~(~query & test.known).any(2)
    return FilmRanking(users, auc, tastes, (~two_sided(test)).float().mean(1), no_pair.float().mean(1))
