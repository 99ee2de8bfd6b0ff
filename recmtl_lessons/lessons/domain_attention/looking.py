"""One user, looked at: whom the prediction listens to, and what it says beside the truth."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from recmtl_lessons.datasets import World
from recmtl_lessons.lessons.domain_attention.experiments import (
    DOMAINS,
    TASTES,
    by_domain,
    compare,
    place_in_history,
    profiles,
)
from recmtl_lessons.models import MultiDomainAttentionNetwork

CANDIDATES = 10
LOOKED_AT = 60  # users


@dataclass(frozen=True)
class OneUser:
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


def typical_user(asked: str, length: int) -> int:
    """Return the user, counted from 1, whose weights for a shop are nearest to the mean of all."""
    row = DOMAINS.index(asked)
    users = range(1, min(LOOKED_AT, len(compare().shops.test["user"][0].unique())) + 1)
    weights = torch.stack([look(user, asked, length, "none").weights[row] for user in users])
    return int((weights - weights.mean(0)).square().sum(1).argmin()) + 1


def look(user: int, asked: str, length: int, out: str) -> OneUser:
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
    result = compare()
    world, network, test = result.shops.worlds[0], result.networks[0], result.shops.test
    who, query = int(test["user"][0].unique()[user - 1]), DOMAINS.index(asked)
    relatedness = world.relatedness[query]
    closest = int(relatedness.masked_fill(F.one_hot(torch.tensor(query), len(DOMAINS)).bool(), -2.0).argmax())
    limit = torch.zeros(world.settings.n_users, len(DOMAINS), dtype=torch.long)
    limit[who] = test["history"][0, (test["user"][0] == who).nonzero()[0, 0]]
    limit[who, closest] = length
    if out != "none":
        limit[who, DOMAINS.index(out)] = 0
    found = profiles(world, place_in_history(world) < limit[world.user, world.domain])
    features, history = (table[who] for table in found)  # (D, WIDTH) and (D,)
    weights = _weights_of_one(network, features, history)
    items, truth = _candidates(world, who, query)
    known = (history > 0) & (torch.arange(len(DOMAINS)) != query)
    if known.any():
        n = len(items)
        table = by_domain(features.expand(n, -1, -1))
        probability = network.predict(asked, table, known.expand(n, -1), items)
    else:
        probability = torch.full((len(items),), math.nan)
    return OneUser(DOMAINS[closest], history, relatedness, weights, probability, truth)


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
