"""The lesson's real data: two genres of MovieLens as shops, the same people in both, few ratings in the second."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import torch
from torch import Tensor

from recmtl_lessons.datasets import Ratings, genre_domains, place_within
from recmtl_lessons.datasets.shops import GENRE_PAIRS
from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.cross_domain_transfer.linking import (
    Ledgers,
    many_networks,
    objective_with,
    predictions,
    stacked,
)
from recmtl_lessons.lessons.cross_domain_transfer.matching import SETTINGS
from recmtl_lessons.training import ManyModels, Scores, concurrently, rmse

FEW = 5  # ratings of the target that each user leaves to learn from
LEAST = 10  # ratings that a user has in each of the two genres
STEPS, EVERY = (SETTINGS["genres"][name] for name in ("steps", "every"))
JUDGED = 2000  # held-out ratings a split, at most, for each of validation and test; drawn at random


def transfer_between_genres(
    ratings: Ratings, pairs: Sequence[tuple[str, str]] = GENRE_PAIRS, seeds: Sequence[int] = SEEDS
) -> dict[str, Scores]:
    """Train alone, linked and pooled for each pair of genres, all splits at once.

    Each arm of each pair stops after the number of steps at which its validation error, averaged over the splits, is
    least; its error is then read from other ratings. The rule's two settings are chosen the same way.

    Returns
    -------
    dict {"source → target": Scores}
        RMSE of held-out ratings of the target. "alone", without the source; "linked", with it, all accounts linked;
        "pooled", all rows taken for rows of the target; "rule", without a network: the mean, plus a number for each
        user and each film. A user's number comes from both genres.
    """
    splits = [genre_splits(ratings, source, target, seeds) for source, target in pairs]
    found = concurrently(*(partial(_one_pair, one) for one in splits))
    return {f"{source} → {target}": scores for (source, target), scores in zip(pairs, found, strict=True)}


def _one_pair(splits: Ledgers) -> Scores:
    """Return each arm's errors where they were least on validation ratings."""
    pool = pooled_ids(splits)
    (alone, linked), (pooled,) = concurrently(
        lambda: _errors(splits, objective_with(splits.sizes[0]), (0.0, 1.0), "alone and linked"),
        lambda: _errors(pool, objective_with(pool.sizes[0], domains=("target", "target")), (1.0,), "pooled"),
    )
    found = {}
    for name, errors in (("alone", alone), ("linked", linked), ("pooled", pooled), ("rule", _rules(splits))):
        valid, test = errors.unbind(-1)  # (S, choices) each
        found[name] = test[:, int(valid.mean(0).argmin())]
    return Scores.of("RMSE of held-out ratings", found)


def genre_splits(ratings: Ratings, source: str, target: str, seeds: Sequence[int] = SEEDS) -> Ledgers:
    """Number users and films anew, and cut each user's ratings of the target at random, differently for each seed.

    Ratings are centred at the mean of what may be learned from: the source's at its own, the target's at ``train``'s.
    """
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
    sizes = (len(users), len(source_items), len(target_items))
    return Ledgers(stacked([from_source] * len(seeds)), train, test, sizes, valid)


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


def pooled_ids(splits: Ledgers) -> Ledgers:
    """Number the source's films after the target's, as if there were one shop."""
    n_users, source_items, target_items = splits.sizes
    source = {**splits.source, "item": splits.source["item"] + target_items}
    return replace(splits, source=source, sizes=(n_users, source_items, target_items + source_items))


def _errors(splits: Ledgers, objective: Callable, sources: Sequence[float], label: str) -> Tensor:
    """Return the RMSE on validation and on test ratings, while training: (sources, splits, moments, 2)."""
    settings = {"source": sources, "overlap": (1.0,), "penalty": (SETTINGS["genres"]["penalty"],)}
    models = many_networks(splits, settings, objective, batch_size=256, rate=5e-3)

    def error(models: ManyModels, part: dict[str, Tensor]) -> Tensor:
        answers = predictions(models, part, splits.sizes[0])
        return rmse(answers, part["rating"].repeat(models.n_settings, 1))

    def measure(models: ManyModels) -> dict[str, Tensor]:
        return {"valid": error(models, splits.valid), "test": error(models, splits.test)}

    models.fit(STEPS, label=label, every=EVERY, measure=measure)
    return torch.stack([models.by_setting(models.history[name]) for name in ("valid", "test")], dim=-1)


def _rules(splits: Ledgers) -> Tensor:
    """Return the RMSE of the rule with several settings, on validation and on test ratings: (S, settings, 2)."""
    weights, ridges = (SETTINGS["genres"][name] for name in ("rule_weights", "rule_ridges"))
    found = []
    for weight, ridge in product(weights, ridges):
        of_user, of_item = means_of_users_and_items(splits, weight, ridge)
        parts = (splits.valid, splits.test)
        answers = [of_user.gather(1, part["user"]) + of_item.gather(1, part["item"]) for part in parts]
        both = [rmse(answer, part["rating"]) for answer, part in zip(answers, parts, strict=True)]
        found.append(torch.stack(both, dim=-1))  # (S, 2)
    return torch.stack(found, dim=1)


def means_of_users_and_items(splits: Ledgers, weight: float, ridge: float) -> tuple[Tensor, Tensor]:
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
