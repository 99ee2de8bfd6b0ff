"""What the explorers compute: a student at school before one's eyes, and attention in a state that one picks."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from recmtl_lessons.envs.session import SessionRules, SessionSettings
from recmtl_lessons.lessons.distilled_q.experiments import (
    DISTILLING,
    KEPT,
    VALIDATION,
    School,
    kept,
    student,
    untrained,
)
from recmtl_lessons.teaching import Running
from recmtl_lessons.training import Actors, Scores, Stack
from recmtl_lessons.training.q_learning import distil

AT_SCHOOL = 4  # seeds that train before one's eyes
WATCHED = replace(DISTILLING, updates=100)
FEW = 10  # test users, a seed, on whom the watched are measured
USERS, STEPS = 8, 6  # that can be picked
EVERY = 20  # updates between two measurements
HEADS = ("both, their mean", "first", "second")
WHEN = ("distilled", "before training")


@lru_cache(maxsize=4)
def _judged_by_others(of: School) -> School:
    """Return the same teachers, with users by whom the lesson's claims are not judged."""
    return replace(of, group=VALIDATION)


# A state that one picks.


@lru_cache(maxsize=64)
def state_of(of: School, task: str, user: int, step: int) -> Tensor:
    """Return what is seen of a user of the first seed's world before step ``step`` of a session, (1, D).

    The teacher acts. Chances of a click are drawn once and for all; the user clicks where they would leave otherwise.
    """
    rules = SessionRules(of.crowd(of.seeds[0], VALIDATION), task, SessionSettings())
    state, draws = rules.begin(torch.tensor([user - 1])), torch.Generator().manual_seed(user)
    for _ in range(step - 1):
        action = answers(of.teachers, rules.observe(state), task).argmax(-1)
        outcome = rules.step(state, action, torch.rand(1, generator=draws))
        if bool(outcome.terminated):
            outcome = rules.advance(state, action, torch.tensor([True]))
        state = outcome.state
    return rules.observe(state)


def answers(stack: Stack, states: Tensor, task: str) -> Tensor:
    """Return the Q-values of the first seed's first network, (batch, actions)."""
    every = states.expand(len(stack), *states.shape)
    return stack.each_own(lambda model, x: model(x, task), every)[0]


# Distilling.


@dataclass(frozen=True)
class Watched:
    """Where the watched students stand.

    Attributes
    ----------
    teacher, student : Tensor, (actions,)
        Their probabilities in the state that was picked, at the temperature, in the first seed's world.
    kept : Scores
        Of the arm "student", over the updates.
    """

    teacher: Tensor
    student: Tensor
    kept: Scores


_trained: dict[tuple[School, float, float], tuple[Stack, Scores]] = {}


def watch(of: School, temperature: float, weight: float, task: str, user: int, step: int) -> Iterator[Running]:
    """Train four students at a temperature and with a share of the distillation; a state can be picked without it."""
    by_few = _judged_by_others(of)
    seeds, key = of.seeds[:AT_SCHOOL], (of, temperature, weight)
    scale = of.transfer_set.scale[task][0]
    state = state_of(of, task, user, step)
    says = (answers(of.teachers, state, task)[0] / scale / temperature).softmax(-1)
    updates, scores = [0], []

    def shown(students: Stack, kept: Scores) -> Watched:
        copies = (answers(students, state, task)[0] / scale / temperature).softmax(-1)
        return Watched(says, copies, kept)

    def so_far() -> Scores:
        return Scores.of(KEPT, {"student": torch.stack(scores, dim=1)}, updates)

    if key not in _trained:
        settings = [{"temperature": temperature, "weight": weight}]
        students = Actors(student, settings, seeds, WATCHED.learning_rate)
        target = Actors(student, settings, seeds) if weight < 1 else None
        scores.append(kept(students, by_few, FEW)[0])
        for moment in distil(students, of.transfer_set.of(len(seeds)), WATCHED, target, every=5):
            if moment.step % EVERY == 0:
                updates.append(moment.step)
                scores.append(kept(students, by_few, FEW)[0])
            yield Running(moment.step, moment.steps, lambda: shown(students, so_far()), "update")
        if len(_trained) > 40:
            _trained.clear()
        _trained[key] = students, so_far()
    return shown(*_trained[key])


# Attention.


@dataclass(frozen=True)
class Looking:
    """Attention of the first seed's student in a state.

    Attributes
    ----------
    state : Tensor, (D,)
    weights : Tensor, (K, K)
        Row k looks at column j.
    usual : Tensor, (K, K)
        Its mean over states that the teachers remember.
    """

    state: Tensor
    weights: Tensor
    usual: Tensor


def look(of: School, students: Stack, task: str, user: int, step: int, head: str, when: str) -> Looking:
    """Return attention in a state, of one head or the mean of both, distilled or not trained yet."""
    model = (students if when == WHEN[0] else untrained(of.seeds[:1])).model(0)
    state = state_of(of, task, user, step)
    with torch.no_grad():
        here, usual = (
            model.attention_weights(x).mean(0) for x in (state, of.transfer_set.steps["state"][0, ::40])
        )  # (heads, K, K)
    pick = (lambda w: w.mean(0)) if head == HEADS[0] else (lambda w: w[HEADS.index(head) - 1])
    return Looking(state[0], pick(here), pick(usual))
