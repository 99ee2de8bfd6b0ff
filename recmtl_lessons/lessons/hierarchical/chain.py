"""The six-state chain: two levels, a flat policy, and flat Q-learning, with the history and without."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from recmtl_lessons.envs import Chains, chain_matrices, chain_value
from recmtl_lessons.envs.chain import LENGTH, START
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, MORE_SEEDS
from recmtl_lessons.models import HierarchicalMultiTaskRL, MultiTaskPolicyNetwork
from recmtl_lessons.teaching.texts import read_yaml
from recmtl_lessons.training import (
    Actors,
    Chooser,
    Moment,
    Rollout,
    Scores,
    Stack,
    actor_critic,
    concurrently,
    concurrently_for,
    stack_steps,
    with_bar,
)
from recmtl_lessons.training.two_levels import Stepped, Training, Walker, train

SETTINGS = read_yaml(Path(__file__).with_name("settings.yaml"))
CHAIN = SETTINGS["chain"]
TRAINING = Training(**CHAIN["two_levels"])
FLAT_TRAINING = replace(TRAINING, **CHAIN["flat"])
EVERY = 5  # updates between two points of a curve
FLAT_ARMS = CHAIN["policies"]


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


# Two levels.


class ChainPlace:
    """The chain as a place for two levels: a goal is a state to be reached, and pays its controller 1.

    Parameters
    ----------
    models, per_model : int
    chances : Chooser
    """

    def __init__(self, models: int, per_model: int, chances: Chooser):
        self.chains, self.chances = Chains(models, per_model), chances

    @property
    def seen(self) -> Tensor:
        """Return one-hot positions, (M, B, 6)."""
        return self.chains.observations

    def step(self, goal: Tensor, action: Tensor) -> Stepped:
        """Act, and say where the goal was reached."""
        led_to, reward, terminated, position = self.chains.step(action, self.chances.uniform(action.float()))
        reached = position == goal
        return Stepped(reward, reached.float(), reached, terminated, torch.zeros_like(terminated), led_to)


def two_levels_on_chain() -> HierarchicalMultiTaskRL:
    """Return a network with six goals, one for each state, and two actions for each controller."""
    return HierarchicalMultiTaskRL(LENGTH, LENGTH, 2, meta_dims=(32,), task_dims=(32,), goal_dim=4)


def two_levels_value(stack: Stack) -> Tensor:
    """Return the exact undiscounted return of all models as they act, goals held until they are reached, (M,).

    It solves the linear equations over goal, position and whether s6 was visited.
    """
    goals, actions = (probability.double() for probability in _both_levels(stack))  # (M, 6, 6), (M, 6, 6, 2)
    reward, moves = chain_matrices()  # (A, S), (A, S, S), S = position and visited
    among = moves.view(2, LENGTH, 2, LENGTH, 2)
    paid = torch.einsum("mgpa,apv->mgpv", actions, reward.view(2, LENGTH, 2))
    kept = torch.einsum("mgpa,apvqw->mgpvqw", actions, among)  # under goal g from (p, v) to (q, w)
    here = torch.eye(LENGTH, dtype=torch.float64)  # goal g is reached at position g
    held = torch.einsum("mgpvqw,gq,gh->mgpvhqw", kept, 1 - here, here)
    anew = torch.einsum("mgpvqw,gq,mqh->mgpvhqw", kept, here, goals)
    size = LENGTH * LENGTH * 2
    matrix = (held + anew).reshape(-1, size, size)
    value = torch.linalg.solve(torch.eye(size, dtype=torch.float64) - matrix, paid.flatten(1))
    at_start = value.view(-1, LENGTH, LENGTH, 2)[:, :, START, 0]  # (M, G)
    return (goals[:, START] * at_start).sum(1)


def _both_levels(stack: Stack) -> tuple[Tensor, Tensor]:
    """Return all models' probabilities: goals by position (M, 6, 6), actions by goal and position (M, 6, 6, 2)."""
    every = torch.eye(LENGTH).repeat(LENGTH, 1)  # goal by goal, every position
    which = torch.arange(LENGTH).repeat_interleave(LENGTH)

    def ask(model, seen, goal):
        actions = model(seen, "task", goal)[0].view(LENGTH, LENGTH, 2)
        return model(seen[:LENGTH])[0].softmax(-1), actions.softmax(-1)

    many = len(stack)
    return stack.each_own(ask, every.expand(many, -1, -1), which.expand(many, -1))


# Flat.


class ChainSessions:
    """The chain as `actor_critic.train` takes its sessions: one task, "chain", with two actions.

    Parameters
    ----------
    history : sequence of bool
        One per model: whether it sees that s6 was visited. The others see a 0 in its place.
    per_model : int
    chances : Chooser
    """

    tasks = ("chain",)

    def __init__(self, history: Sequence[bool], per_model: int, chances: Chooser):
        self.chains, self.chances = Chains(len(history), per_model, history), chances

    def collect(self, choose: Callable, steps: int) -> dict[str, Rollout]:
        """Let all models act for some steps, (T, M, B, ...)."""
        return {"chain": stack_steps([self._step(choose) for _ in range(steps)])}

    def _step(self, choose: Callable) -> Rollout:
        seen = self._with_history(self.chains.observations)
        acted = choose({"chain": seen})["chain"]
        led_to, reward, terminated, _ = self.chains.step(acted.action, self.chances.uniform(acted.action.float()))
        never = torch.zeros_like(terminated)
        return Rollout(
            seen, acted.action, reward, self._with_history(led_to), terminated, never, never, acted.kept
        )  # fmt: skip

    @staticmethod
    def _with_history(seen: Tensor) -> Tensor:
        """Add a place for the history, where no model of the chains sees it: (M, B, 6 or 7) -> (M, B, 7)."""
        return torch.nn.functional.pad(seen, (0, LENGTH + 1 - seen.shape[-1]))


def flat_policy_on_chain() -> MultiTaskPolicyNetwork:
    """Return a policy for the chain: it sees the place, and whether s6 was visited (0 for those who do not)."""
    return MultiTaskPolicyNetwork(LENGTH + 1, {"chain": 2}, shared_dims=(64, 32), task_dims=())


def flat_policies(arms: Sequence[dict], seeds: Sequence[int], how: Training) -> tuple[Stack, ChainSessions]:
    """Return untrained policies on the chain, for arms like `FLAT_ARMS`; the learning rate is that of ``how``."""
    stack = Actors(flat_policy_on_chain, arms, seeds, how.learning_rate, clip=0.5)
    return stack, ChainSessions(stack.setting("history") > 0, how.sessions, Chooser(len(seeds), seeds[0]))


def flat_policy_value(stack: Stack) -> Tensor:
    """Return the exact undiscounted return of all models as they act, (M,)."""
    places, history = torch.eye(LENGTH), stack.setting("history")
    every = torch.cat([places.repeat_interleave(2, 0), torch.arange(2.0).repeat(LENGTH)[:, None]], dim=1)  # (12, 7)
    seen = every.repeat(len(stack), 1, 1)
    seen[..., -1] *= history[:, None]
    policy = stack.each_own(lambda model, s: model(s, "chain")[0].softmax(-1), seen)  # (M, 12, 2)
    return chain_value(policy.unflatten(1, (LENGTH, 2)))


@dataclass(frozen=True)
class QLearning:
    """A learner that keeps a table of values.

    Attributes
    ----------
    history : bool
        Whether its table has rows of their own for the time after s6 was visited.
    epsilon : float
        Exploration falls evenly from 1 to this.
    exploration_fraction : float
        Part of the training over which it falls.
    discount : float
    """

    history: bool = False
    epsilon: float = 0.05
    exploration_fraction: float = 1.0
    discount: float = 1.0


# The plain table, the same one with the history, for which this is best, and what is best without: see `score_tables`.
TABLES = {
    "flat Q": QLearning(),
    "flat Q, history": QLearning(history=True),
    "flat Q, stops": QLearning(epsilon=0.0, exploration_fraction=0.5),
}
RATE, EPISODES = 0.1, 4  # how far an entry moves towards its target; episodes that a table runs side by side


def q_learning(arms: Sequence[QLearning], seeds: Sequence[int], steps: int, points: int) -> Tensor:
    """Learn a table of values for each arm on each seed; return exact greedy returns on the way, (arms, S, points).

    Every round is a step of each episode; an entry moves by the mean error of the transitions that met it.

    Parameters
    ----------
    arms : sequence of QLearning
    seeds : sequence of int
    steps : int
        Taken by each table, over all its episodes.
    points : int
        Judgements, evenly spread: at most one per round.
    """
    models, chances, rounds = len(arms) * len(seeds), Chooser(len(seeds), seeds[0]), steps // EPISODES
    if not 1 <= points <= rounds:
        raise ValueError(f"points: got {points}, expected 1 to {rounds}, the number of rounds")
    fields = ((arm.history, arm.epsilon, arm.exploration_fraction, arm.discount) for arm in arms)
    history, last, fraction, discount = (
        torch.tensor(values).repeat_interleave(len(seeds))[:, None]  # (M, 1)
        for values in zip(*fields, strict=True)
    )
    chains, table = Chains(models, EPISODES), torch.zeros(models, 2 * LENGTH, 2)
    found = []
    for k in range(1, rounds + 1):
        visited = chains.state.visited
        row = 2 * chains.state.position + (visited & history).long()  # (M, B)
        values = table.gather(1, row[..., None].expand(-1, -1, 2))  # (M, B, 2)
        ties = 1e-6 * chances.uniform(values)
        explored = (k / (rounds * fraction)).clamp(max=1)  # (M, 1), of the way from 1 to the last epsilon
        action = chances.epsilon_greedy(values + ties, 1 - (1 - last) * explored)
        _, reward, terminated, position = chains.step(action, chances.uniform(action.float()))
        after = 2 * position + ((visited | (position == LENGTH - 1)) & history).long()
        ahead = table.gather(1, after[..., None].expand(-1, -1, 2)).amax(-1)
        target = reward + discount * torch.where(terminated, 0.0, ahead)
        _move(table, 2 * row + action, target - values.gather(2, action[..., None]).squeeze(2), RATE)
        if k * points // rounds > len(found):
            found.append(_greedy_return(table, history))
    return torch.stack(found, dim=-1).unflatten(0, (len(arms), len(seeds)))


def _move(table: Tensor, place: Tensor, error: Tensor, rate: float) -> None:
    """Move each entry of the tables (M, rows, 2) by the mean of the errors (M, B) that belong to it."""
    entries = table.view(len(table), -1)
    total = torch.zeros_like(entries).scatter_add_(1, place, error)
    count = torch.zeros_like(entries).scatter_add_(1, place, torch.ones_like(error))
    entries += rate * total / count.clamp(min=1)


def _greedy_return(table: Tensor, history: Tensor) -> Tensor:
    """Return the exact undiscounted return of the tables (M, rows, 2), (M,)."""
    q = table.view(-1, LENGTH, 2, 2)
    q = torch.where(history[:, :, None, None], q, q[:, :, :1])
    return chain_value(torch.nn.functional.one_hot(q.argmax(-1), 2))


# What the lesson compares.


def second_half(scores: Scores) -> Scores:
    """Return the mean over the second half of the moments: some learners never settle."""
    return Scores(scores.measure, scores.arms, _second_half(scores.values))


def _second_half(returns: Tensor) -> Tensor:
    return returns[..., returns.shape[-1] // 2 :].mean(-1)


@lru_cache(maxsize=2)
def compare_on_chain(
    seeds: tuple[int, ...] = MORE_SEEDS, how: Training = TRAINING, flat_how: Training = FLAT_TRAINING
) -> dict[str, Scores]:
    """Train two levels, flat policies and tables on as many steps, flat ones with and without the history.

    Returns
    -------
    dict {"learners", "two goals" or "no gradient": Scores of learners over training}
        Undiscounted returns, exact: tables act greedily when judged, networks as they do while they learn. Each mistake
        stands beside the right two levels: one goal followed and another recorded, on three quarters of the seeds, and
        controllers under ``no_grad``, on the others.
    """
    if len(seeds) < 4:
        raise ValueError(f"seeds: got {len(seeds)}, expected at least 4")
    if flat_how.environment_steps != how.environment_steps:
        raise ValueError(f"flat_how: got {flat_how.environment_steps:,} steps, expected {how.environment_steps:,}")
    (updates, (right, wrong)), policies, tables = concurrently(
        lambda: train_two_levels(seeds, how, mistakes=True),
        lambda: train_flat_arms(seeds, flat_how),
        lambda: q_learning(list(TABLES.values()), seeds, how.environment_steps, math.ceil(how.updates / EVERY)),
    )
    steps = tuple(update * how.sessions * how.steps for update in updates)
    learners = {"two levels": right, **policies, **dict(zip(TABLES, tables, strict=True))}

    def scores(by_arm: dict[str, Tensor], part: slice = slice(None)) -> Scores:
        return Scores.of("exact return", {arm: values[part].float() for arm, values in by_arm.items()}, steps)

    most = slice(len(seeds) - len(seeds) // 4)
    parts = {"two goals": most, "no gradient": slice(most.stop, None)}
    mistakes = {mistake: scores({"two levels": right, mistake: wrong}, part) for mistake, part in parts.items()}
    return {"learners": scores(learners), **mistakes}


def train_two_levels(seeds: tuple[int, ...], how: Training, mistakes: bool = False) -> tuple[tuple[int, ...], Tensor]:
    """Train two levels; return at which updates they were judged, and exact returns on the way, (arms, S, points).

    With ``mistakes`` a second arm, which follows one goal and records another, but for the last quarter of its seeds:
    these have controllers without gradient.
    """
    arms = [{"arm": float(arm)} for arm in range(1 + mistakes)]
    stack = Actors(two_levels_on_chain, arms, seeds, how.learning_rate, clip=0.5)
    number, chances = torch.arange(len(stack)), Chooser(len(seeds), seeds[0])
    untaught = number >= 2 * len(seeds) - len(seeds) // 4
    two_goals = (number >= len(seeds)) & ~untaught
    place = ChainPlace(len(stack), how.sessions, chances)
    walker = Walker(stack, place, how.goal_steps, chances, two_goals)
    updates, found = judged_on_the_way(
        train(stack, walker, how, untaught, every=EVERY), how.updates, "two levels on the chain",
        partial(two_levels_value, stack),
    )  # fmt: skip
    return updates, stack.by_setting(found)


def train_flat_arms(seeds: Sequence[int], how: Training) -> dict[str, Tensor]:
    """Train the policies of `FLAT_ARMS`, those of one learning rate together: {learner: Tensor (S, points)}."""

    def learn(rate: float) -> dict[str, Tensor]:
        arms = {name: arm for name, arm in FLAT_ARMS.items() if arm["learning_rate"] == rate}
        found = train_flat_policies(list(arms.values()), seeds, replace(how, learning_rate=rate))
        return dict(zip(arms, found, strict=True))

    by_rate = concurrently_for(sorted({arm["learning_rate"] for arm in FLAT_ARMS.values()}), learn)
    return {name: by_rate[arm["learning_rate"]][name] for name, arm in FLAT_ARMS.items()}


def train_flat_policies(arms: Sequence[dict], seeds: Sequence[int], how: Training) -> Tensor:
    """Train arms as in `flat_policies`; return exact returns on the way, (arms, S, points)."""
    stack, sessions = flat_policies(arms, seeds, how)
    _, found = judged_on_the_way(
        actor_critic.train(stack, sessions, how, every=EVERY), how.updates, "flat policies on the chain",
        partial(flat_policy_value, stack),
    )  # fmt: skip
    return stack.by_setting(found)


# How settings were chosen: on the seeds on which the lesson was made.


def score_flat_policies(
    grid: Mapping[str, Sequence[float]] = CHAIN["grid_of_policies"], seeds: Sequence[int] = DESIGN_SEEDS
) -> dict[tuple[float, ...], Tensor]:
    """Return what flat policies earn, {settings in the order of the grid: Tensor (S,)}."""
    *names, rate_name = grid
    arms, found = [dict(zip(names, arm, strict=True)) for arm in product(*(grid[name] for name in names))], {}
    for rate in grid[rate_name]:
        returns = _second_half(train_flat_policies(arms, seeds, replace(FLAT_TRAINING, learning_rate=rate)))
        found |= {(*arm.values(), rate): late for arm, late in zip(arms, returns, strict=True)}
    return found


def score_tables(
    grid: Mapping[str, Sequence[float]] = CHAIN["grid_of_tables"], seeds: Sequence[int] = DESIGN_SEEDS
) -> dict[QLearning, Tensor]:
    """Return what tables earn, {settings: Tensor (S,)}."""
    arms = [QLearning(**dict(zip(grid, arm, strict=True))) for arm in product(*grid.values())]
    found = q_learning(arms, seeds, FLAT_TRAINING.environment_steps, FLAT_TRAINING.updates // EVERY)
    return dict(zip(arms, _second_half(found), strict=True))


def score_two_levels(seeds: Sequence[int] = range(200, 248)) -> Tensor:
    """Return what two levels earn, on seeds enough to see how often they fail, (S,)."""
    return _second_half(train_two_levels(tuple(seeds), TRAINING)[1][:1])[0]
