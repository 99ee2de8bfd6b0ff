"""The reader as a new user of MovieLens."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.datasets.few_shot import deal_film_users, describe_films
from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.maml.experiments import SETTINGS
from recmtl_lessons.models import MAMLRecommender

TO_RATE = {
    "toy_story": "Toy Story (1995)",
    "pulp_fiction": "Pulp Fiction (1994)",
    "titanic": "Titanic (1997)",
    "matrix": "Matrix, The (1999)",
    "shrek": "Shrek (2001)",
    "alien": "Alien (1979)",
    "fargo": "Fargo (1996)",
    "forrest_gump": "Forrest Gump (1994)",
    "mask": "Mask, The (1994)",
    "gladiator": "Gladiator (2000)",
}
_CANDIDATES = 150  # the films with most ratings are those that may be recommended
TOP = 8


@dataclass(frozen=True)
class Desk:
    """What `recommend` needs: a trained network, the films to rate, and the films to recommend.

    Attributes
    ----------
    network : MAMLRecommender
    middle : float
        Taken off the ratings in training.
    rated_x, offered_x : Tensor, (10, F) and (C, F)
    offered : tuple of str
        Titles.
    """

    network: MAMLRecommender
    middle: float
    rated_x: Tensor
    offered_x: Tensor
    offered: tuple[str, ...]


def open_desk(ratings: Ratings, network: MAMLRecommender, seed: int = SEEDS[0]) -> Desk:
    """Make ready what `recommend` needs; ``network`` is the one trained on the split of this seed."""
    described, middle = describe_films(ratings, deal_film_users(ratings, seed)["catalogue"])
    missing = [title for title in TO_RATE.values() if title not in ratings.titles]
    if missing:
        raise ValueError(f"ratings: got no film {missing[0]!r}, expected it among the titles")
    rated = [ratings.titles.index(title) for title in TO_RATE.values()]
    popular = torch.bincount(ratings.item, minlength=ratings.n_items).argsort(descending=True, stable=True)
    offered = [k for k in popular.tolist() if k not in rated][:_CANDIDATES]
    return Desk(network, middle, described[rated], described[offered], tuple(ratings.titles[k] for k in offered))


@dataclass(frozen=True)
class Recommendations:
    """What the network would recommend after each step.

    Attributes
    ----------
    top : Tensor, (steps + 1, TOP)
        The films predicted best after each step, by number.
    stars : Tensor, (steps + 1, C)
        Predicted stars of all films on offer.
    titles : tuple of str
    error : Tensor, (steps + 1,)
        Mean absolute error on the rated films themselves; NaN if there are none.
    """

    top: Tensor
    stars: Tensor
    titles: tuple[str, ...]
    error: Tensor


@torch.no_grad()
def recommend(desk: Desk, stars: Mapping[str, int], steps: int) -> Recommendations:
    """Adapt to the reader's stars (0: not seen), and rank the films on offer after each step."""
    seen = torch.tensor([stars[key] > 0 for key in TO_RATE])
    y = torch.tensor([float(stars[key]) for key in TO_RATE])[seen] - desk.middle
    x, network, params = desk.rated_x[seen], desk.network, desk.network.named_weights()
    rates = SETTINGS["readers"]
    rate = rates[max((count for count in rates if count <= len(y)), default=1)]
    predicted, error = [], []
    for step in range(steps + 1):
        if step and len(y):
            params = network.inner_update(x, y, params=params, inner_lr=rate)
        predicted.append(network.predict(desk.offered_x, params) + desk.middle)
        error.append((network.predict(x, params) - y).abs().mean() if len(y) else torch.tensor(torch.nan))
    predicted = torch.stack(predicted)  # (steps + 1, C)
    top = predicted.argsort(dim=1, descending=True, stable=True)[:, :TOP]
    return Recommendations(top, predicted, desk.offered, torch.stack(error))
