"""What the chain and the sessions share: the name of an arm, and how arms are judged on the way."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from recmtl_lessons.training import Moment, with_bar

TWO_LEVELS = "two levels"


def judged_on_the_way(
    training: Iterator[Moment],
    updates: int,
    label: str,
    judge: Callable[[], Tensor],
    judge_last: Callable[[], Tensor] | None = None,
) -> tuple[tuple[int, ...], Tensor]:
    """Train to the end under a progress bar; return the updates after which it was judged, and the judgements.

    Moments are their last dimension. In the end it may be judged in another way, more thoroughly than on the way.
    """
    at, found = [], []
    for moment in with_bar(training, label, updates, "updates"):
        at.append(moment.step)
        found.append(judge_last() if judge_last and moment.step == updates else judge())
    return tuple(at), torch.stack(found, dim=-1)
