"""Real users: MovieLens, and the reader."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.maml.experiments import (
    INNER_STEPS,
    STEPS,
    Arm,
    errors,
    joint_objective,
    meta_objective,
    train,
)
from recmtl_lessons.lessons.maml.users import (
    ColdStart,
    deal_film_users,
    describe_films,
    film_mean_and_offset,
    film_users,
    mean_error,
    own_mean,
)
from recmtl_lessons.models import MAMLRecommender

# Chosen on validation users of the design seeds, as in the shop.
FILM_ARMS = {"joint": Arm(joint_objective, 0.002), "MAML": Arm(meta_objective, 0.002, 0.1)}
FILM_RATES = {"joint": 0.07, "MAML": 0.1}
FILM_HIDDEN = (32,)


@dataclass(frozen=True)
class FilmComparison:
    """The arms on new users of MovieLens with ten ratings; S splits of the users.

    Attributes
    ----------
    users : ColdStart
    before, after : dict {arm: Tensor (S,)}
        Mean absolute error in stars without adapting, and after three steps; ``after`` has "own mean" and "film mean +
        offset" too.
    by_step : dict {arm: Tensor (INNER_STEPS + 1, S)}
    network : MAMLRecommender
        The first split's MAML.
    """

    users: ColdStart
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    by_step: dict[str, Tensor]
    network: MAMLRecommender


def compare_on_films(ratings: Ratings, seeds: tuple[int, ...] = SEEDS, steps: int = STEPS) -> FilmComparison:
    """Train both arms on the same users for as many updates, and judge them on users of their own."""
    users = film_users(ratings, seeds)
    after = {
        "own mean": mean_error(own_mean(users.test), users.test),
        "film mean + offset": mean_error(film_mean_and_offset(users.test), users.test),
    }
    by_step, models = {}, {}
    for name, arm in FILM_ARMS.items():
        models[name] = train(arm, users.train, seeds, FILM_HIDDEN, steps, f"films, {name}")
        by_step[name] = errors(models[name], users.test, FILM_RATES[name], range(INNER_STEPS + 1))[:, 0]
        after[name] = by_step[name][-1]
    before = {name: scores[0] for name, scores in by_step.items()}
    return FilmComparison(users, before, after, by_step, models["MAML"].model(0))


# The reader as a new user.

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
    """A trained network, the films to rate, and the films to recommend.

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
    steps, rated : int
        Inner steps, and films that were rated.
    top : Tensor, (steps + 1, TOP)
        The films predicted best after each step, by number.
    stars : Tensor, (steps + 1, C)
        Predicted stars of all films on offer.
    titles : tuple of str
    error : Tensor, (steps + 1,)
        Mean absolute error on the rated films themselves; NaN if there are none.
    """

    steps: int
    rated: int
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
    predicted, error = [], []
    for step in range(steps + 1):
        if step and len(y):
            params = network.inner_update(x, y, params=params, inner_lr=FILM_RATES["MAML"])
        predicted.append(network.predict(desk.offered_x, params) + desk.middle)
        error.append((network.predict(x, params) - y).abs().mean() if len(y) else torch.tensor(torch.nan))
    predicted = torch.stack(predicted)  # (steps + 1, C)
    top = predicted.argsort(dim=1, descending=True, stable=True)[:, :TOP]
    return Recommendations(steps, len(y), top, predicted, desk.offered, torch.stack(error))
