"""How far to believe a new user: few ratings or many, their own prototypes or everybody's."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recmtl_lessons.datasets.few_shot import SHOTS, Tasks
from recmtl_lessons.lessons.prototypical.films import Tastes, log_odds, two_sided, within_user_auc

WEIGHTS = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
COUNTS = (1, 2, 3, 5, 10)


@dataclass(frozen=True)
class Pull:
    """How well new users are served, by how strongly their prototypes are pulled towards everybody's.

    Attributes
    ----------
    curve : Tensor, (S, len(WEIGHTS))
        AUC within users at each weight of `WEIGHTS`.
    auc : Tensor, (S,)
        At the chosen weight.
    one_sided : float
        Share of the users whose ratings are all the same, or who have one alone.
    """

    curve: Tensor
    auc: Tensor
    one_sided: float


class ColdStartDesk:
    """Trained networks and new users at hand, for `look`.

    Parameters
    ----------
    places : mapping {name: (Tastes, Tasks)}
        Networks, and users to be judged.
    """

    def __init__(self, places: Mapping[str, tuple[Tastes, Tasks]]):
        self._places = {name: (tastes, tasks.shots(SHOTS)) for name, (tastes, tasks) in places.items()}
        self._curves: dict[tuple[str, int], Tensor] = {}

    @property
    def places(self) -> tuple[str, ...]:
        """The places where there are users to look at."""
        return tuple(self._places)

    def look(self, where: str, count: int, weight: float) -> Pull:
        """Serve the new users of a place from their first ratings."""
        tasks = self._places[where][1]
        if (where, count) not in self._curves:
            curve = [self._auc(where, count, w) for w in WEIGHTS]
            self._curves[where, count] = torch.stack(curve, dim=1)
        alone = float((~two_sided(tasks.shots(count))).float().mean())
        return Pull(self._curves[where, count], self._auc(where, count, weight), alone)

    def _auc(self, where: str, count: int, weight: float) -> Tensor:
        """Judge by what lies above the mean of all ten ratings, however few are shown."""
        tastes, tasks = self._places[where]
        return within_user_auc(log_odds(tastes, tasks.shots(count), weight), tasks)
