"""The lesson's real data: two genres of MovieLens as shops, the same people in both, few ratings in the second."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from recmtl_lessons.datasets import Ratings, genre_domains, place_within
from recmtl_lessons.datasets.shops import GENRE_PAIRS
from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.cross_domain_transfer.linking import build, stacked
from recmtl_lessons.training import ManyModels, concurrently, rmse

FEW = 5  # ratings of the target that each user leaves to learn from
LEAST = 10  # ratings that a user has in each of the two genres
STEPS, EVERY = 50, 10
JUDGED = 2000  # held-out ratings a split, at most, for each of validation and test; drawn at random
ARMS = ("alone", "linked", "pooled", "rule")
PENALTY = 0.5


@dataclass(frozen=True)
class GenreSplits:
    """Eight splits of one pair of genres: tables of ``user``, ``item`` and ``rating``, (S, n) each.

    Ratings are centred at the mean of what may be learned from: the source's at its own, the target's at ``train``'s.
    """

    source: dict[str, Tensor]
    train: dict[str, Tensor]
    valid: dict[str, Tensor]
    test: dict[str, Tensor]
    sizes: tuple[int, int, int]


@dataclass(frozen=True)
class GenreTransfer:
    """RMSE of held-out ratings of the target, one row per pair of genres and one column per split: (pairs, S) each.

    Attributes
    ----------
    pairs : tuple of (source, target)
    rule : Tensor
        The error of a rule without a network: the mean, plus a number for each user and each film. A user's number
        comes from both genres.
    alone, linked, pooled : Tensor
        The errors of the network: without the source; with it, all accounts linked; with all rows taken for rows of
        the target.
    steps : dict {arm: tuple of int}
        The step at which each arm was stopped, one per pair, chosen on validation ratings.
    """

    pairs: tuple[tuple[str, str], ...]
    rule: Tensor
    alone: Tensor
    linked: Tensor
    pooled: Tensor
    steps: dict[str, tuple[int, ...]]


def transfer_between_genres(
    ratings: Ratings, pairs: Sequence[tuple[str, str]] = GENRE_PAIRS, seeds: Sequence[int] = SEEDS
) -> GenreTransfer:
    """Train alone, linked and pooled for each pair of genres, all splits at once.

    Each arm of each pair stops after the number of steps at which its validation error, averaged over the splits, is
    least; its error is then read from other ratings. The rule's two settings are chosen the same way.
    """
    splits = [genre_splits(ratings, source, target, seeds) for source, target in pairs]
    found = concurrently(*(partial(_one_pair, one) for one in splits))
    arms = {name: torch.stack([errors[name][0] for errors in found]) for name in ARMS}
    steps = {name: tuple(errors[name][1] for errors in found) for name in ("alone", "linked", "pooled")}
    return GenreTransfer(tuple(pairs), **arms, steps=steps)


def _one_pair(splits: GenreSplits) -> dict[str, tuple[Tensor, int]]:
    """Return each arm's errors, (S,), and when or with what setting they were least on validation ratings."""
    (alone, linked), (pooled,) = concurrently(
        lambda: _errors(splits, objective, {"source": (0.0, 1.0)}, "alone and linked"),
        lambda: _errors(pooled_ids(splits), pooled_objective, {"source": (1.0,)}, "pooled"),
    )
    found = {}
    for name, errors in (("alone", alone), ("linked", linked), ("pooled", pooled), ("rule", _rules(splits))):
        valid, test = errors.unbind(-1)  # (S, choices) each
        best = int(valid.mean(0).argmin())
        found[name] = test[:, best], EVERY * (best + 1)
    return found


def genre_splits(ratings: Ratings, source: str, target: str, seeds: Sequence[int] = SEEDS) -> GenreSplits:
    """Number users and films anew, and cut each user's ratings of the target at random, differently for each seed."""
    films = genre_domains(ratings, (source, target), min_user_ratings=LEAST)
    users, user = films.user.unique(return_inverse=True)
    here, there = ((films.domain == d).nonzero().squeeze(1) for d in (0, 1))
    source_items, source_item = films.item[here].unique(return_inverse=True)
    target_items, target_item = films.item[there].unique(return_inverse=True)
    from_source = {
        "user": user[here], "item": source_item, "rating": films.rating[here] - films.rating[here].mean()
    }  # fmt: skip
    cuts = [_cut(user[there], target_item, films.rating[there], seed) for seed in seeds]
    train, valid, test = (stacked([cut[k] for cut in cuts]) for k in range(3))
    valid, test = ({name: column[:, :JUDGED] for name, column in part.items()} for part in (valid, test))
    return GenreSplits(
        stacked([from_source] * len(seeds)), train, valid, test, (len(users), len(source_items), len(target_items))
    )


def _cut(user: Tensor, item: Tensor, rating: Tensor, seed: int) -> list[dict[str, Tensor]]:
    """Return each user's first ``FEW`` ratings in a random order to learn from; others to validate and to test."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(user), generator=generator)
    place = torch.empty_like(order)
    place[order] = place_within(user[order])
    train = place < FEW
    mean = rating[train].mean()
    parts = (train, ~train & (place % 2 == 1), ~train & (place % 2 == 0))
    return [{"user": user[rows], "item": item[rows], "rating": rating[rows] - mean} for rows in parts]


def pooled_ids(splits: GenreSplits) -> GenreSplits:
    """Number the source's films after the target's, as if there were one shop."""
    n_users, source_items, target_items = splits.sizes
    source = {**splits.source, "item": splits.source["item"] + target_items}
    return GenreSplits(
        source, splits.train, splits.valid, splits.test, (n_users, source_items, target_items + source_items)
    )


def objective(model, batch, setting, progress):
    """Return the squared error of both genres, the source's times ``source``, plus a penalty on the embeddings."""
    return _loss(model, batch, setting, ("source", "target"))


def pooled_objective(model, batch, setting, progress):
    """Return the same loss with the source's rows taken for rows of the target."""
    return _loss(model, batch, setting, ("target", "target"))


def _loss(model, batch, setting, domains):
    loss, logs = 0.0, {}
    for stream, domain, weight in zip(("source", "target"), domains, (setting["source"], 1.0), strict=True):
        rows = batch[stream]
        embedded = model.embed(domain, rows["user"], rows["item"])
        answers = model.read(domain, model.encode_embeddings(domain, *embedded))
        error = (answers - rows["rating"]).square().mean()
        size = sum(part.square().sum(1).mean() for part in embedded)
        loss = loss + weight * (error + PENALTY * size)
        logs[stream] = error
    return loss, logs


def _errors(splits: GenreSplits, training_objective: Callable, settings: dict, label: str) -> Tensor:
    """Return the RMSE on validation and on test ratings, while training: (arms, splits, moments, 2)."""
    n_splits = len(splits.train["rating"])
    models = ManyModels(
        build(splits.sizes),
        training_objective,
        {"source": splits.source, "target": splits.train},
        settings,
        range(n_splits),
        batch_size=256,
        learning_rate={"": 5e-3, "towers": 1e-3, "shared_layers": 1e-3},
    )

    def error(models: ManyModels, part: dict[str, Tensor]) -> Tensor:
        answers = models.each(lambda m, user, item: m.answer("target", user, item), part["user"], part["item"])
        return rmse(answers.cpu(), part["rating"].repeat(models.n_settings, 1))

    measure = lambda models: {"valid": error(models, splits.valid), "test": error(models, splits.test)}  # noqa: E731
    models.fit(STEPS, label=label, every=EVERY, measure=measure)
    return torch.stack([models.by_setting(models.history[name]) for name in ("valid", "test")], dim=-1)


def _rules(splits: GenreSplits) -> Tensor:
    """Return the RMSE of the rule with several settings, on validation and on test ratings: (S, settings, 2)."""
    pairs = [(weight, ridge) for weight in (0.03, 0.1, 0.3) for ridge in (2.0, 5.0)]
    found = []
    for weight, ridge in pairs:
        of_user, of_item = means_of_users_and_items(splits, weight, ridge)
        answers = [
            of_user.gather(1, part["user"]) + of_item.gather(1, part["item"]) for part in (splits.valid, splits.test)
        ]
        parts = zip(answers, (splits.valid, splits.test), strict=True)
        found.append(torch.stack([rmse(answer, part["rating"]) for answer, part in parts], dim=-1))  # (S, 2)
    return torch.stack(found, dim=1)


def means_of_users_and_items(splits: GenreSplits, weight: float, ridge: float) -> tuple[Tensor, Tensor]:
    """Fit one number per user and one per film of the target, (S, n) each, to the centred ratings by ridge regression.

    A rating of the source counts ``weight`` times as much as one of the target, and each number is drawn towards 0 as
    by ``ridge`` ratings. The numbers of users, of the source's films and of the target's are fitted in turn, ten times.
    """
    n_users, source_items, target_items = splits.sizes
    rows = pooled_ids(splits)
    user, item, rating = (torch.cat([rows.source[k], rows.train[k]], dim=1) for k in ("user", "item", "rating"))
    weights = torch.ones_like(rating)
    weights[:, : rows.source["user"].shape[1]] = weight
    n_splits = len(rating)
    of_user, of_item = torch.zeros(n_splits, n_users), torch.zeros(n_splits, target_items + source_items)
    for _ in range(10):
        for mine, key, other in ((of_user, user, of_item.gather(1, item)), (of_item, item, None)):
            rest = rating - (other if other is not None else of_user.gather(1, user))
            total = torch.zeros_like(mine).scatter_add_(1, key, weights * rest)
            count = torch.zeros_like(mine).scatter_add_(1, key, weights)
            mine.copy_(total / (count + ridge))
    return of_user, of_item[:, :target_items]
