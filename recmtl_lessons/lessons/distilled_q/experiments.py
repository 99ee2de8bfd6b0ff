"""The lesson's arms: a teacher for each task, a small student for all, and the same student without teachers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.envs import (
    ACTIONS,
    STATE_DIM,
    SessionPlanner,
    SessionSettings,
    SessionUsers,
    join_users,
    make_users,
    users_from_ratings,
)
from recmtl_lessons.envs import SURFACES as TASKS
from recmtl_lessons.envs.users import mean_by_group
from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.models.distilled_q import MultiTaskDistilledQNetwork
from recmtl_lessons.teaching.texts import read_yaml
from recmtl_lessons.training import Actors, Scores, Sessions, Stack, concurrently, with_bar
from recmtl_lessons.training.actor_critic import DISCOUNT
from recmtl_lessons.training.q_learning import (
    Distilling,
    Memory,
    QLearning,
    TransferSet,
    distil,
    learn_from_rewards,
    memories,
    transfer_set_of,
)

SETTINGS = read_yaml(Path(__file__).with_name("settings.yaml"))
USERS, TEST_USERS = 400, 40  # to learn from and to be judged on, a seed
VALIDATION, TEST = 1, 2  # groups of users: settings are chosen on the one, claims are judged by the other
ROWS = 4_000  # steps of each task that the teachers hand on
TEACHING = QLearning()
DISTILLING = Distilling()
SHORT = replace(DISTILLING, updates=80)  # to compare ways of learning while there is much to learn
# Without teachers, as many gradient steps, each on about as many pairs of a state and a task.
FROM_REWARDS = replace(TEACHING, updates=SHORT.updates, **SETTINGS["from_rewards"])
TEACHERS_HIDDEN = (128, 128)
SHARED, OWN = SETTINGS["widths"]["40 units"]  # the student's widths
HEADS = 2
WIDER = (72, 46)  # those without attention, for about as many parameters
PLAIN = {"temperature": 1.0, "weight": 1.0}
KEPT = "share of the teachers' return over random"
_MODELS_TIMES_USERS = 40  # asked at once for their answers in all states: more do not fit into a processor's cache

Crowd = Callable[[int, int], SessionUsers]  # users by seed and group, those to learn from with group 0


@lru_cache(maxsize=64)
def shop_users(seed: int, group: int) -> SessionUsers:
    """Return invented users."""
    return make_users(TEST_USERS if group else USERS, seed, group=group)


# The networks.


class Teachers(nn.Module):
    """A Q-network for each task, a plain one that knows nothing of the others, but for the clipping of gradients."""

    def __init__(self, hidden: Sequence[int] = TEACHERS_HIDDEN):
        super().__init__()
        self.networks = nn.ModuleDict({task: _plain((STATE_DIM, *hidden, count)) for task, count in ACTIONS.items()})

    def forward(self, state: Tensor, task_name: str | None = None) -> Tensor | dict[str, Tensor]:
        """Return the Q-values of the task's own network, or of all."""
        if task_name is None:
            return {task: network(state) for task, network in self.networks.items()}
        return self.networks[task_name](state)

    def answer_own(self, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return each task's Q-values in states of its own, as the student does."""
        return {task: self.networks[task](own) for task, own in states.items()}


def _plain(widths: Sequence[int]) -> nn.Sequential:
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])  # no ReLU on the Q-values


def student(
    shared: Sequence[int] = SHARED,
    own: Sequence[int] = OWN,
    kind: type[MultiTaskDistilledQNetwork] = MultiTaskDistilledQNetwork,
    attention: bool = True,
) -> MultiTaskDistilledQNetwork:
    """Return a small network for all tasks; without attention each task's token sees itself alone."""
    return kind(STATE_DIM, ACTIONS, shared, own, num_heads=HEADS, attention=attention)


#: The ablation, a little wider, for as many parameters.
without_attention = partial(student, WIDER, attention=False)


class LooksEvenly(MultiTaskDistilledQNetwork):
    """Every task looks at all tasks alike, itself included, whatever queries and keys say."""

    def _weights(self, looking: Tensor, tokens: Tensor) -> Tensor:
        size = len(self.tasks)
        return tokens.new_full((len(tokens), self.num_heads, looking.shape[1], size), 1 / size)


# What a network gets, exactly.


@lru_cache(maxsize=32)
def planner(
    crowd: Crowd, task: str, seeds: tuple[int, ...], group: int = TEST, users: int = TEST_USERS
) -> SessionPlanner:
    """Return the sessions of all seeds' users of a group as Markov decision processes."""
    crowds = [crowd(seed, group)[:users] for seed in seeds]
    return SessionPlanner(join_users(crowds), task, SessionSettings(), DISCOUNT)


def greedy_returns(
    stack: Stack, crowd: Crowd = shop_users, group: int = TEST, users: int = TEST_USERS
) -> dict[str, Tensor]:
    """Return the expected discounted reward of a session of best actions alone, {task: Tensor (n_settings, S)}.

    Nothing is played: a policy's value is computed for each test user from what it does in all states.
    """
    seeds, found = stack.seeds[: stack.n_seeds], {}
    plans = {task: planner(crowd, task, seeds, group, users) for task in TASKS}
    seen = plans[TASKS[0]].observations().unflatten(0, (len(seeds), -1))  # (S, U, states, D), the same on all surfaces

    def best(model, observations):
        q_values = model(observations.flatten(0, 1))  # {task: (U * states, A)}
        return {task: q.argmax(-1).view(observations.shape[:2]) for task, q in q_values.items()}

    few = max(1, _MODELS_TIMES_USERS // len(stack))
    parts = [stack.each(best, some) for some in seen.split(few, dim=1)]
    actions = {task: torch.cat([part[task] for part in parts], dim=1) for task in TASKS}  # (M, U, states)
    for task, plan in plans.items():
        of_each = stack.by_setting(actions[task])  # (settings, S, U, states)
        found[task] = torch.stack([mean_by_group(plan.value_of_actions(a.flatten(0, 1)), len(seeds)) for a in of_each])
    return found


@lru_cache(maxsize=32)
def chance_returns(
    seeds: tuple[int, ...], crowd: Crowd = shop_users, group: int = TEST, users: int = TEST_USERS
) -> dict[str, Tensor]:
    """Return the same for actions drawn at random, {task: Tensor (S,)}."""
    return {task: mean_by_group(planner(crowd, task, seeds, group, users).even(), len(seeds)) for task in TASKS}


@lru_cache(maxsize=32)
def best_returns(
    seeds: tuple[int, ...], crowd: Crowd = shop_users, group: int = TEST, users: int = TEST_USERS
) -> dict[str, Tensor]:
    """Return the same for whoever knows the hidden tastes and plans, {task: Tensor (S,)}."""
    plans = {task: planner(crowd, task, seeds, group, users) for task in TASKS}
    return {task: mean_by_group(plan.best().returns, len(seeds)) for task, plan in plans.items()}


def over_chance(found: dict[str, Tensor], chance: dict[str, Tensor]) -> Tensor:
    """Subtract the return of chance, and take the mean over the tasks: (..., S)."""
    return torch.stack([found[task] - chance[task] for task in TASKS]).mean(0)


# Training.


def _titled(label: str, stack: Stack) -> str:
    return label and f"{label}, {len(stack)} models"


def sessions_for(stack: Stack, how: QLearning, crowd: Crowd = shop_users) -> Sessions:
    """Return sessions to learn from."""
    return Sessions([crowd(seed, 0) for seed in stack.seeds], TASKS, how.sessions, SessionSettings(), stack.seeds)


def from_rewards(
    build: Callable[[], nn.Module], seeds: Sequence[int], how: QLearning, label: str = "", crowd: Crowd = shop_users
) -> tuple[Stack, Memory]:
    """Train networks by double Q-learning, one per seed; return them, and the steps that they remember."""
    stack, target = (Actors(build, [{}], seeds, how.learning_rate, clip=how.clip) for _ in range(2))
    memory = memories(TASKS, how, len(stack))
    trainer = learn_from_rewards(stack, target, sessions_for(stack, how, crowd), memory, how)
    for _ in with_bar(trainer, _titled(label, stack), how.updates):
        pass
    return target, memory


@dataclass(frozen=True, eq=False)
class School:
    """The teachers of some seeds.

    Attributes
    ----------
    teachers : Stack
    transfer_set : TransferSet
        What they hand on.
    crowd : Crowd
        Their users.
    group : int
        Of the users who judge: the teachers, and whoever learns from them.
    """

    teachers: Stack
    transfer_set: TransferSet
    crowd: Crowd
    group: int

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seeds, one for each stack of the tasks' teachers."""
        return self.teachers.seeds


def school(
    seeds: Sequence[int] = SEEDS,
    how: QLearning = TEACHING,
    crowd: Crowd = shop_users,
    group: int = TEST,
    label: str = "teachers",
) -> School:
    """Train the teachers; those of the same arguments only once."""
    return _school(tuple(seeds), how, crowd, group, label)


@lru_cache(maxsize=3)
def _school(seeds: tuple[int, ...], how: QLearning, crowd: Crowd, group: int, label: str) -> School:
    teachers, memory = from_rewards(Teachers, seeds, how, label, crowd)
    transfer_set = transfer_set_of(teachers, memory, min(ROWS, how.environment_steps), seeds[0])
    return School(teachers, transfer_set, crowd, group)


def from_teachers(
    build: Callable[[], nn.Module],
    of: School,
    settings: Sequence[dict],
    how: Distilling = DISTILLING,
    label: str = "",
    look: Callable[[int, Stack], None] | None = None,
) -> Stack:
    """Teach students, one for each setting and seed; ``look`` gets step and students after every update."""
    students = Actors(build, settings, of.seeds, how.learning_rate)
    rewards = any(setting["weight"] < 1 for setting in settings)
    target = Actors(build, settings, of.seeds) if rewards else None
    trainer = distil(students, of.transfer_set, how, target, every=1 if look else 10)
    for moment in with_bar(trainer, _titled(label, students), how.updates):
        if look:
            look(moment.step, students)
    return students


@lru_cache(maxsize=8)
def gained(of: School, users: int = TEST_USERS) -> Tensor:
    """Return what the teachers get over random with users not learned from, the mean of the tasks, (S,)."""
    chance = chance_returns(of.seeds, of.crowd, of.group, users)
    return over_chance(greedy_returns(of.teachers, of.crowd, of.group, users), chance)[0]


def kept(stack: Stack, of: School, users: int = TEST_USERS) -> Tensor:
    """Return the share of the teachers' return over random that networks keep, (n_settings, seeds of the stack).

    Each is divided by the teachers of its own seed; the stack's seeds are the first of the school's.
    """
    seeds = stack.seeds[: stack.n_seeds]
    if seeds != of.seeds[: len(seeds)]:
        raise ValueError(f"stack: got seeds {seeds}, expected the first of the school's, {of.seeds}")
    chance = chance_returns(seeds, of.crowd, of.group, users)
    return over_chance(greedy_returns(stack, of.crowd, of.group, users), chance) / gained(of, users)[: len(seeds)]


def share_of_best(of: School, users: int = TEST_USERS) -> Tensor:
    """Return the teachers' return over random as a share of that of whoever knows the tastes and plans, (S,)."""
    chance = chance_returns(of.seeds, of.crowd, of.group, users)
    return gained(of, users) / over_chance(best_returns(of.seeds, of.crowd, of.group, users), chance)


# What the lesson compares.


def compare(
    of: School | None = None, distilling: Distilling = DISTILLING, rewards: QLearning = FROM_REWARDS
) -> tuple[Scores, Stack]:
    """Train the small network from teachers, with attention and without, and from rewards; only once.

    The training from rewards may last as long as the distillation, so that there is a student of its length.

    Returns
    -------
    kept : Scores
        The share of the teachers' return over random that is kept by a "student" distilled, by the "ablation" without
        attention, and after fewer steps: distilled ("short"), and from "rewards".
    students : Stack
    """
    if not 1 <= rewards.updates <= distilling.updates:
        most = distilling.updates
        raise ValueError(f"rewards: got {rewards.updates} updates, expected from 1 to the distillation's {most}")
    return _compare(of or school(), distilling, rewards)


@lru_cache(maxsize=2)
def _compare(of: School, distilling: Distilling, rewards: QLearning) -> tuple[Scores, Stack]:
    on_the_way = {}

    def look(step: int, students: Stack) -> None:
        if step == rewards.updates:
            on_the_way["short"] = kept(students, of)[0]

    def judged(stack: Stack) -> tuple[Stack, Tensor]:
        return stack, kept(stack, of)[0]

    gained(of)  # what all are divided by, once
    (students, mine), (_, without), (_, earned) = concurrently(
        lambda: judged(from_teachers(student, of, [PLAIN], distilling, "distilled", look)),
        lambda: judged(from_teachers(without_attention, of, [PLAIN], distilling, "without attention")),
        lambda: judged(from_rewards(student, of.seeds, rewards, "from rewards", of.crowd)[0]),
    )
    return Scores.of(KEPT, {"rewards": earned, **on_the_way, "student": mine, "ablation": without}), students


TEMPERATURES = (0.03, 0.3, 1.0, 30.0)


def by_temperature(
    of: School, at_one: Tensor, how: Distilling = SHORT, temperatures: Sequence[float] = TEMPERATURES
) -> Scores:
    """Distil at several temperatures for a short time, and once from the "wrong" answers, those to other states.

    ``at_one`` is what students kept at temperature 1 after as many steps, (S,): they were trained by `compare`.
    """
    others = [t for t in temperatures if t != 1.0]
    settings = [{**PLAIN, "temperature": t, "wrong": 0.0} for t in others] + [{**PLAIN, "wrong": 1.0}]
    found = kept(from_teachers(student, of, settings, how, "temperatures"), of)
    return Scores(KEPT, (1.0, *others, "wrong"), torch.cat([at_one[None], found])).only(*temperatures, "wrong")


# Does the attention do anything? Its weights, and what is left of a trained student when they are replaced.


def cut(students: Stack, of: School, whole: Tensor) -> Scores:
    """Replace trained students' weights; return what they keep. Nothing is trained again.

    ``whole`` is what they keep as trained, (S,), as `compare` found.
    """
    found = {"as trained": whole}
    for name, changed in (("a third each", {"kind": LooksEvenly}), ("itself alone", {"attention": False})):
        same = Actors(partial(student, **changed), [PLAIN], students.seeds)
        same.load(students)
        found[name] = kept(same, of)[0]
    return Scores.of(KEPT, found)


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


# Real users: MovieLens. Tastes are measured from ratings; how a session runs stays invented.

FILM_TEACHING, FILM_DISTILLING = replace(TEACHING, updates=120), replace(DISTILLING, updates=120)


def film_crowd(ratings: Ratings) -> Crowd:
    """Return raters as users of sessions."""

    @lru_cache(maxsize=64)
    def draw(seed: int, group: int) -> SessionUsers:
        users = users_from_ratings(ratings, seed, group)
        return users[:TEST_USERS] if group else users

    return draw


def compare_on_films(
    ratings: Ratings,
    seeds: Sequence[int] = SEEDS,
    teaching: QLearning = FILM_TEACHING,
    distilling: Distilling = FILM_DISTILLING,
) -> Scores:
    """Train teachers on sessions with people of MovieLens, and a student from them; S splits of the people.

    Returns
    -------
    Scores
        ``kept``: the share of the teachers' return over random that the student keeps. ``of_best``: that return as a
        share of that of whoever knows the tastes and plans.
    """
    of = school(seeds, teaching, film_crowd(ratings), TEST, "films, teachers")
    students = from_teachers(student, of, [PLAIN], distilling, "films, distilled")
    return Scores.of("share of a return", {"kept": kept(students, of)[0], "of_best": share_of_best(of)})
