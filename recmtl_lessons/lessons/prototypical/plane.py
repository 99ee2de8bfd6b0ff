"""One episode in a plane: an encoder with two outputs, so that nothing is projected and borders are exact."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.prototypical.experiments import (
    HIDDEN,
    SHELVES_AN_UPDATE,
    WAYS,
    episodic_objective,
    old_shelves,
)
from recmtl_lessons.lessons.prototypical.shelves import SHOP, Episodes, Shop, draw_episodes, open_shops
from recmtl_lessons.models import PrototypicalNetworkRecommender
from recmtl_lessons.models.prototypical import squared_distances
from recmtl_lessons.teaching import Running
from recmtl_lessons.training import ManyModels

MOST_WAYS, MOST_SHOTS, QUERIES = 8, 10, 20
UPDATES = (0, 10, 30, 100, 300)
RATE = 0.003


@dataclass(frozen=True)
class Plane:
    """An episode of new shelves in the plane; N shelves with K labelled items, and Q of each to sort.

    Attributes
    ----------
    updates, shelf : int
        How long the encoder has trained so far; the shelf whose first labelled item was moved, from 1.
    support, queries : Tensor, (N, K, 2) and (N, Q, 2)
        Embeddings; the moved item already where it is now.
    start : Tensor, (2,)
        Where the moved item was.
    prototypes, before : Tensor, (N, 2)
        With and without the move.
    accuracy, accuracy_before : Tensor, (N,)
        Share of each shelf's queries that are sorted right.
    """

    updates: int
    shelf: int
    support: Tensor
    queries: Tensor
    start: Tensor
    prototypes: Tensor
    before: Tensor
    accuracy: Tensor
    accuracy_before: Tensor


def look(
    ways: int, shots: int, updates: int, shelf: int, right: float, up: float, seed: int = 0, shop: Shop = SHOP
) -> Iterator[Running]:
    """Sort new shelves by prototypes in the plane, after one labelled item was moved.

    Parameters
    ----------
    ways, shots, updates : int
        Shelves, labelled items of each, and updates of the encoder, which is trained now if it was not before.
    shelf : int
        Whose first labelled item moves, from 1; the last shelf where there are fewer.
    right, up : float
        How far, in standard deviations of the labelled items.
    seed : int
        Of the episode: which new shelves, and which of their items.

    Yields
    ------
    Running
        While the encoder trains; returns a `Plane`.
    """
    key, episode = (shop, updates), new_episode(shop, seed)

    def show(network: PrototypicalNetworkRecommender, done: int) -> Plane:
        return _plane(network, episode, ways, shots, done, min(shelf, ways), (right, up))

    if key not in _KEPT:
        models = _untrained(shop)
        if updates:
            for moment in models.train(updates, every=max(1, updates // 20)):
                yield Running(
                    moment.step, moment.steps, lambda step=moment.step: show(models.model(0), step), "update"
                )  # fmt: skip
        _KEPT[key] = models.model(0)
    return show(_KEPT[key], updates)


_KEPT: dict[tuple[Shop, int], PrototypicalNetworkRecommender] = {}


def _untrained(shop: Shop) -> ManyModels:
    build = partial(PrototypicalNetworkRecommender, shop.measurements, 2, HIDDEN)
    stream = _pool(shop).stream()
    return ManyModels(build, episodic_objective, stream, [{"rate": RATE}], SEEDS[:1], SHELVES_AN_UPDATE // WAYS, RATE)


@lru_cache(maxsize=2)
def _pool(shop: Shop) -> Episodes:
    return old_shelves(shop, SEEDS[:1])


@lru_cache(maxsize=16)
def new_episode(shop: Shop, seed: int) -> tuple[Tensor, Tensor]:
    """Draw items of eight new shelves: ten labelled, (8, 10, F), and twenty to sort, (8, 20, F)."""
    episode = draw_episodes(open_shops(shop, SEEDS[:1]).test, 1, MOST_WAYS, MOST_SHOTS, QUERIES, (seed,))
    support, queries = episode.support_x[0, 0], episode.query_x[0, 0]
    return support.unflatten(0, (MOST_WAYS, MOST_SHOTS)), queries.unflatten(0, (MOST_WAYS, QUERIES))


@torch.no_grad()
def _plane(network, episode, ways: int, shots: int, updates: int, shelf: int, move: tuple[float, float]) -> Plane:
    support, queries = (network(rows) for rows in (episode[0][:ways, :shots], episode[1][:ways]))  # (N, K or Q, 2)
    start, before = support[shelf - 1, 0].clone(), support.mean(1)
    spread = support.flatten(0, 1).std(0).mean()
    support[shelf - 1, 0] += spread * torch.tensor(move)
    prototypes = network.compute_prototypes(support.flatten(0, 1), torch.arange(ways).repeat_interleave(shots))
    right, right_before = (_sorted_right(queries, points) for points in (prototypes, before))
    return Plane(updates, shelf, support, queries, start, prototypes, before, right, right_before)


def _sorted_right(queries: Tensor, prototypes: Tensor) -> Tensor:
    nearest = squared_distances(queries.flatten(0, 1), prototypes).argmin(1).view(queries.shape[:2])  # (N, Q)
    return (nearest == torch.arange(len(queries))[:, None]).float().mean(1)


def cells(prototypes: Tensor, frame: tuple[float, float, float, float]) -> list[Tensor]:
    """Cut a frame (left, right, bottom, top) into what is nearest to each prototype: corners, (M, 2), exact.

    Between two prototypes the border is the straight line halfway, so a cell is the frame cut by such lines.
    """
    left, right, bottom, top = frame
    whole = torch.tensor([[left, bottom], [right, bottom], [right, top], [left, top]], dtype=torch.float64)
    found = []
    for k, own in enumerate(prototypes.double()):
        corners = whole
        for j, other in enumerate(prototypes.double()):
            if j != k and len(corners):
                corners = _cut(corners, 2 * (other - own), other.square().sum() - own.square().sum())
        found.append(corners)
    return found


def _cut(corners: Tensor, normal: Tensor, limit: Tensor) -> Tensor:
    """Return what of a convex polygon lies where normal @ x <= limit."""
    kept, beyond = [], corners @ normal - limit  # (M,)
    for k in range(len(corners)):
        after = (k + 1) % len(corners)
        if beyond[k] <= 0:
            kept.append(corners[k])
        if (beyond[k] <= 0) != (beyond[after] <= 0):
            share = beyond[k] / (beyond[k] - beyond[after])
            kept.append(corners[k] + share * (corners[after] - corners[k]))
    return torch.stack(kept) if kept else corners[:0]
