"""Real users: MovieLens."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.lessons.maml import experiments as maml
from recmtl_lessons.lessons.maml.films import FILM_ARMS as MAML_ARMS
from recmtl_lessons.lessons.maml.films import FILM_HIDDEN, FILM_RATES
from recmtl_lessons.lessons.maml.users import film_mean_and_offset, film_users, mean_error, over_seeds
from recmtl_lessons.lessons.reptile.experiments import RATES, TEST_STEPS, Arm, errors, train
from recmtl_lessons.training import concurrently_for

# Chosen on validation users of the design seeds: see `score_films`.
FILM_ARMS = {1: Arm(1, 1.0, 0.1, 0.07), 4: Arm(4, 0.12, 0.2, 0.1)}


@dataclass(frozen=True)
class FilmComparison:
    """The arms on new users of MovieLens with ten ratings; S splits of the users.

    Attributes
    ----------
    after : dict {arm: Tensor (S,)}
        Mean absolute error in stars after three steps, and that of "film mean + offset".
    by_step : dict {arm: Tensor (TEST_STEPS + 1, S)}
    """

    after: dict[str | int, Tensor]
    by_step: dict[str | int, Tensor]


def compare_on_films(ratings: Ratings, seeds: tuple[int, ...] = SEEDS, steps: int = maml.STEPS) -> FilmComparison:
    """Train the arms on the same users, with as many gradients, and judge them on users of their own."""
    users, marks = film_users(ratings, seeds), range(TEST_STEPS + 1)

    def learn(arm: str | int) -> Tensor:
        if arm in FILM_ARMS:
            models = train(FILM_ARMS[arm], users.train, seeds, FILM_HIDDEN, steps, f"films, Reptile, {arm} inner")
            return errors(models, users.test, FILM_ARMS[arm].rate, marks)[:, 0]
        models = maml.train(MAML_ARMS["MAML"], users.train, seeds, FILM_HIDDEN, steps, "films, MAML")
        return maml.errors(models, users.test, FILM_RATES["MAML"], marks)[:, 0]

    by_step = concurrently_for(("MAML", *FILM_ARMS), learn)
    after = {name: scores[-1] for name, scores in by_step.items()}
    after["film mean + offset"] = mean_error(film_mean_and_offset(users.test), users.test)
    return FilmComparison(after, by_step)


def score_films(
    ratings: Ratings,
    inner_steps: int,
    meta_rates: Sequence[float] = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0),
    inner_rates: Sequence[float] = (0.07, 0.1, 0.15, 0.2, 0.3),
) -> dict[tuple[float, float, float], float]:
    """Error on validation users of the design seeds, as `experiments.score_training`: how `FILM_ARMS` was chosen."""
    users, found = film_users(ratings, DESIGN_SEEDS), {}
    for meta_lr in meta_rates:
        models = train(Arm(inner_steps, meta_lr), users.train, DESIGN_SEEDS, FILM_HIDDEN, rates=inner_rates)
        for rate in RATES:
            scores = over_seeds(errors(models, users.valid, rate, (TEST_STEPS,))[0])
            found |= {(meta_lr, inner, rate): s for inner, s in zip(inner_rates, scores, strict=True)}
    return found
