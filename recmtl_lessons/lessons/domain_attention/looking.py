"""One user, looked at: whom the prediction listens to, and what it says beside the truth."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from recmtl_lessons.datasets import World
from recmtl_lessons.lessons.domain_attention.experiments import (
    DOMAINS,
    TASTES,
    TOWN,
    by_domain,
    compare,
    place_in_history,
    profile,
)
from recmtl_lessons.models import MultiDomainAttentionNetwork

CANDIDATES = 10
LOOKED_AT = 60  # users


@dataclass(frozen=True)
class Look:
    """What the first attention network of `compare` makes of one user that it was not trained on. D domains, C items.

    Attributes
    ----------
    closest : str
        The shop most related to the one asked about.
    history : Tensor, (D,)
        How many interactions are known in each shop.
    relatedness : Tensor, (D,)
        How each shop is related to the one asked about.
    weights : Tensor, (D, D)
        The user's weights for each shop asked about.
    probability, truth : Tensor, (C,)
        The probability of a click on each of some items, predicted and true, in the order of the truth.
    """

    closest: str
    history: Tensor
    relatedness: Tensor
    weights: Tensor
    probability: Tensor
    truth: Tensor


@dataclass(frozen=True)
class _Desk:
    """What `look` needs: a network, its world, users to look at, and sums of their first interactions."""

    network: MultiDomainAttentionNetwork
    world: World
    users: Tensor  # (U,)
    history: Tensor  # (U, D)
    sums: Tensor  # (n_users, D, longest + 1, TASTES): of the first 0, 1, 2, ... turned items
    available: Tensor  # (n_users, D)


@lru_cache(maxsize=1)
def _desk() -> _Desk:
    result = compare()
    world, test, longest = result.shops.worlds[0], result.shops.test, max(TOWN.histories)
    users, row = _first_rows(test["user"][0])
    place = place_in_history(world)
    known = place < longest
    turned = (world.click - 0.5)[:, None] * world.item_factors[world.domain, world.item]
    single = torch.zeros(world.settings.n_users, len(DOMAINS), longest + 1, TASTES)
    single[world.user[known], world.domain[known], place[known] + 1] = turned[known]
    cell = (world.user * len(DOMAINS) + world.domain)[known]
    available = torch.bincount(cell, minlength=world.settings.n_users * len(DOMAINS)).view(-1, len(DOMAINS))
    return _Desk(result.networks[0], world, users, test["history"][0, row], single.cumsum(2), available)


def _first_rows(users: Tensor) -> tuple[Tensor, Tensor]:
    """Return each user once, in increasing order, and a row of theirs."""
    unique, inverse = users.unique(return_inverse=True)
    row = torch.empty_like(unique)
    row[inverse] = torch.arange(len(users))
    return unique, row


def typical_user(asked: str, length: int) -> int:
    """Return the user, counted from 1, whose weights for a shop are nearest to the mean of all."""
    row = DOMAINS.index(asked)
    users = range(1, min(LOOKED_AT, len(_desk().users)) + 1)
    weights = torch.stack([look(user, asked, length, "none").weights[row] for user in users])
    return int((weights - weights.mean(0)).square().sum(1).argmin()) + 1


def look(user: int, asked: str, length: int, out: str) -> Look:
    """Ask the trained network about one user.

    Parameters
    ----------
    user : int
        Number among the users that were held out, from 1.
    asked : str
        The shop asked about, in which the user counts as new.
    length : int
        Interactions known in the shop most related to it; 0 takes it out.
    out : str
        A shop to take out, or "none".
    """
    desk = _desk()
    who, query = int(desk.users[user - 1]), DOMAINS.index(asked)
    relatedness = desk.world.relatedness[query]
    closest = int(relatedness.masked_fill(F.one_hot(torch.tensor(query), len(DOMAINS)).bool(), -2.0).argmax())
    history = desk.history[user - 1].clone()
    history[closest] = min(length, int(desk.available[who, closest]))
    if out != "none":
        history[DOMAINS.index(out)] = 0
    totals = desk.sums[who, torch.arange(len(DOMAINS)), history]  # (D, TASTES)
    features = profile(totals, history)
    weights = _weights_of_one(desk.network, features, history)
    items, truth = _candidates(desk.world, who, query)
    known = (history > 0) & (torch.arange(len(DOMAINS)) != query)
    if known.any():
        n = len(items)
        table = by_domain(features.expand(n, -1, -1))
        probability = desk.network.predict(asked, table, known.expand(n, -1), items)
    else:
        probability = torch.full((len(items),), math.nan)
    return Look(DOMAINS[closest], history, relatedness, weights, probability, truth)


def _weights_of_one(network: MultiDomainAttentionNetwork, features: Tensor, history: Tensor) -> Tensor:
    """Return one user's weights for each shop asked about, (D, D); a row of zeros where nothing is left."""
    n = len(DOMAINS)
    mask = (history > 0) & ~torch.eye(n, dtype=torch.bool)  # (D, D)
    asked = mask.any(1).nonzero().squeeze(1)
    weights = torch.zeros(n, n)
    if len(asked):
        table = by_domain(features.expand(len(asked), -1, -1))
        with torch.no_grad():
            weights[asked] = network.compute_cross_domain_attention(asked, table, mask[asked])[1]
    return weights


def _candidates(world: World, user: int, query: int) -> tuple[Tensor, Tensor]:
    """Return items of a shop, (C, TASTES), and how likely the user is to click them, (C,), the least likely first."""
    items = world.item_factors[query, :CANDIDATES]
    scale = world.settings.affinity_scale / math.sqrt(TASTES)
    truth = (scale * items @ world.tastes[user, query]).sigmoid()
    order = truth.argsort()
    return items[order], truth[order]
