"""Real users: MovieLens."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.datasets.few_shot import film_mean_and_offset, film_users
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.training import concurrently_for
from recmtl_lessons.training.few_shot import (
    FILM_HIDDEN,
    FILM_LEARNERS,
    INNER_STEPS,
    RATES,
    STEPS,
    ReptileLearner,
    errors,
    mean_error,
    over_seeds,
    train,
)

# Chosen on validation users of the design seeds: see `score_films`.
FILM_ARMS = {
    "MAML": FILM_LEARNERS["MAML"],
    1: ReptileLearner(1, 1.0, inner_lr=0.1, rate=0.07),
    4: FILM_LEARNERS["Reptile"],
}


@dataclass(frozen=True)
class FilmComparison:
    """What the arms make of new users of MovieLens with ten ratings; S splits of the users.

    Attributes
    ----------
    after : dict {arm: Tensor (S,)}
        Mean absolute error in stars after three steps, and that of "film mean + offset".
    by_step : dict {arm: Tensor (INNER_STEPS + 1, S)}
    """

    after: dict[str | int, Tensor]
    by_step: dict[str | int, Tensor]


def compare_on_films(ratings: Ratings, seeds: tuple[int, ...] = SEEDS, steps: int = STEPS) -> FilmComparison:
    """Train the arms on the same users, with as many gradients, and judge them on users of their own."""
    users = film_users(ratings, seeds)

    def learn(name: str | int) -> Tensor:
        arm, label = FILM_ARMS[name], "films, MAML" if name == "MAML" else f"films, Reptile, {name} inner"
        models = train(arm, users.train, seeds, FILM_HIDDEN, steps, label)
        return errors(arm, models, users.test, arm.rate, range(INNER_STEPS + 1))[:, 0]

    by_step = concurrently_for(FILM_ARMS, learn)
    after = {name: scores[-1] for name, scores in by_step.items()}
    after["film mean + offset"] = mean_error(film_mean_and_offset(users.test), users.test)
    return FilmComparison(after, by_step)


def score_films(
    ratings: Ratings,
    inner_steps: int,
    meta_rates: Sequence[float] = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0),
    inner_rates: Sequence[float] = (0.07, 0.1, 0.15, 0.2, 0.3),
) -> dict[tuple[float, float, float], float]:
    """Score rates on validation users, as `experiments.score_training` does: so `FILM_ARMS` was chosen."""
    users, found = film_users(ratings, DESIGN_SEEDS), {}
    for meta_lr in meta_rates:
        arm = ReptileLearner(inner_steps, meta_lr)
        models = train(arm, users.train, DESIGN_SEEDS, FILM_HIDDEN, rates=inner_rates)
        for rate in RATES:
            scores = over_seeds(errors(arm, models, users.valid, rate, (INNER_STEPS,))[0])
            found |= {(meta_lr, inner, rate): s for inner, s in zip(inner_rates, scores, strict=True)}
    return found
