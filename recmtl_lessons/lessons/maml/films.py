"""Real users: MovieLens, and the reader."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.datasets.few_shot import (
    SHOTS,
    ColdStart,
    deal_film_users,
    describe_films,
    film_mean_and_offset,
    film_users,
    own_mean,
)
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.lessons.maml.experiments import errors_of_parts
from recmtl_lessons.models import MAMLRecommender
from recmtl_lessons.training import ManyModels, concurrently_for
from recmtl_lessons.training.few_shot import (
    FILM_HIDDEN,
    FILM_LEARNERS,
    INNER_STEPS,
    RATES,
    STEPS,
    errors,
    mean_error,
    meta_objective,
    over_seeds,
    train,
)

# Chosen on validation users of the design seeds' splits, as in the shop: `score_films` and `score_bias` do it again.
FILM_ARMS = {name: FILM_LEARNERS[name] for name in ("joint", "MAML")}
FILM_BIAS_RATE = 0.2
READERS_RATES = {1: 0.01, 2: 0.03, 5: 0.05, 10: 0.07}  # MAML's, by number of ratings


@dataclass(frozen=True)
class FilmComparison:
    """What the arms make of new users of MovieLens with ten ratings; S splits of the users.

    Attributes
    ----------
    users : ColdStart
    before, after : dict {arm: Tensor (S,)}
        Mean absolute error in stars without adapting, and after three steps; ``after`` has "own mean", "film mean +
        offset" and "bias alone" too, where joint training's network moves its last bias and nothing else.
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

    def learn(name: str) -> tuple[ManyModels, Tensor]:
        arm = FILM_ARMS[name]
        models = train(arm, users.train, seeds, FILM_HIDDEN, steps, f"films, {name}")
        return models, errors(arm, models, users.test, arm.rate, range(INNER_STEPS + 1))[:, 0]

    found = concurrently_for(FILM_ARMS, learn)
    by_step, joint, maml = {name: scores for name, (_, scores) in found.items()}, found["joint"][0], found["MAML"][0]
    after |= {name: scores[-1] for name, scores in by_step.items()}
    after["bias alone"] = errors_of_parts(joint, users.test, FILM_BIAS_RATE, "bias alone")[0]
    before = {name: scores[0] for name, scores in by_step.items()}
    return FilmComparison(users, before, after, by_step, maml.model(0))


def score_films(
    ratings: Ratings,
    arm: str,
    meta_rates: Sequence[float] = (0.001, 0.002, 0.005, 0.01),
    inner_rates: Sequence[float] = (0.03, 0.05, 0.1, 0.15),
    shots: int = SHOTS,
) -> dict[tuple[float, float | None, float], float]:
    """Score rates by the error on validation users of the design seeds' splits: so those above were chosen.

    Keys are Adam's rate, the rate of the inner steps in training (None for joint training), and that for new users.
    """
    users, found = film_users(ratings, DESIGN_SEEDS), {}
    in_training = inner_rates if FILM_ARMS[arm].objective is meta_objective else (None,)
    for meta_rate in meta_rates:
        chosen = replace(FILM_ARMS[arm], meta_lr=meta_rate)
        rates = None if in_training == (None,) else in_training
        models = train(chosen, users.train, DESIGN_SEEDS, FILM_HIDDEN, rates=rates)
        for rate in RATES:
            scores = over_seeds(
                errors(chosen, models, users.valid.shots(shots), rate, (INNER_STEPS,))[0]
            )  # (settings,)
            found |= {(meta_rate, inner, rate): s for inner, s in zip(in_training, scores, strict=True)}
    return found


def score_bias(ratings: Ratings, rates: Sequence[float] = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)) -> dict[float, float]:
    """Score the rates at which joint training's last bias moves alone, as `score_films` does."""
    users = film_users(ratings, DESIGN_SEEDS)
    models = train(FILM_ARMS["joint"], users.train, DESIGN_SEEDS, FILM_HIDDEN)
    return {rate: over_seeds(errors_of_parts(models, users.valid, rate, "bias alone")[0]) for rate in rates}


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
    rate = READERS_RATES[max((count for count in READERS_RATES if count <= len(y)), default=1)]
    predicted, error = [], []
    for step in range(steps + 1):
        if step and len(y):
            params = network.inner_update(x, y, params=params, inner_lr=rate)
        predicted.append(network.predict(desk.offered_x, params) + desk.middle)
        error.append((network.predict(x, params) - y).abs().mean() if len(y) else torch.tensor(torch.nan))
    predicted = torch.stack(predicted)  # (steps + 1, C)
    top = predicted.argsort(dim=1, descending=True, stable=True)[:, :TOP]
    return Recommendations(top, predicted, desk.offered, torch.stack(error))
