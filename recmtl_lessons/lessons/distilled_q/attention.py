"""Does the attention do anything? Its weights, and what is left of a trained student when it is cut."""

from collections.abc import Sequence

import torch
from torch import Tensor

from recmtl_lessons.lessons.distilled_q.experiments import (
    ACTIONS,
    HEADS,
    OWN,
    PLAIN,
    SHARED,
    STATE_DIM,
    School,
    kept,
    student,
)
from recmtl_lessons.models.distilled_q import MultiTaskDistilledQNetwork
from recmtl_lessons.training import Actors, Stack
from recmtl_lessons.training.q_learning import TransferSet


class LooksEvenly(MultiTaskDistilledQNetwork):
    """Every task looks at all tasks alike, itself included, whatever queries and keys say."""

    def _weights(self, looking: Tensor, tokens: Tensor) -> Tensor:
        size = len(self.tasks)
        return tokens.new_full((len(tokens), self.num_heads, looking.shape[1], size), 1 / size)


def looks_evenly() -> LooksEvenly:
    """Return the student, with all weights a third."""
    return LooksEvenly(STATE_DIM, ACTIONS, SHARED, OWN, num_heads=HEADS)


def looks_at_itself() -> MultiTaskDistilledQNetwork:
    """Return the student, with each task's whole weight on itself."""
    return MultiTaskDistilledQNetwork(STATE_DIM, ACTIONS, SHARED, OWN, num_heads=HEADS, attention=False)


def cut(students: Stack, of: School, whole: Tensor) -> dict[str, Tensor]:
    """Replace trained students' weights; return what they keep, {weights: Tensor (S,)}. Nothing is trained again.

    ``whole`` is what they keep as trained, (S,), as `Comparison.student`.
    """
    found = {"as trained": whole}
    for name, build in (("a third each", looks_evenly), ("itself alone", looks_at_itself)):
        same = Actors(build, [PLAIN], students.seeds)
        same.load(students)
        found[name] = kept(same, of)[0]
    return found


def attention_of(students: Stack, transfer_set: TransferSet, rows: int = 300) -> Tensor:
    """Return each student's attention, mean over heads, in some states that teachers remember: (S, rows, K, K)."""
    states = transfer_set.steps["state"]
    spread = torch.linspace(0, states.shape[1] - 1, rows).long()
    return students.each(lambda model, x: model.attention_weights(x).mean(1), states[:, spread])


def untrained(seeds: Sequence[int]) -> Stack:
    """Return students as they are before the first step."""
    return Actors(student, [PLAIN], seeds)


def differs_by_task(weights: Tensor) -> Tensor:
    """Return the deviation over the tasks that look, of means over states; mean over those looked at: (S,)."""
    return weights.mean(1).std(1).mean(1)


def differs_by_state(weights: Tensor) -> Tensor:
    """Return the standard deviation over states, mean over who looks at whom: (S,)."""
    return weights.std(1).flatten(1).mean(1)
