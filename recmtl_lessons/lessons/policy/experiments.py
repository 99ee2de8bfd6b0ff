"""The lesson's arms: one network for all tasks or one for each, in worlds that share much or nothing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import combinations
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
from recmtl_lessons.models import MultiTaskPolicyNetwork
from recmtl_lessons.teaching import Running
from recmtl_lessons.teaching.texts import read_yaml
from recmtl_lessons.training import (
    Actors,
    Chooser,
    Scores,
    Sessions,
    Stack,
    concurrently,
    concurrently_for,
    with_bar,
)
from recmtl_lessons.training.actor_critic import DISCOUNT, Training, choose_with, objective_of, prepared, train

SETTINGS = read_yaml(Path(__file__).with_name("settings.yaml"))
ON_OTHER_SEEDS, RATES = SETTINGS["on_other_seeds"], SETTINGS["rates"]
AGAIN = tuple(tuple(range(first, first + 8)) for first in range(200, 248, 8))  # nothing was chosen on these seeds
USERS = 100  # to learn from, a seed
TEST_USERS = 30
TRAINING = Training()
Build = Callable[[], nn.Module]  # makes one network
SHARED, SEPARATE, BANDIT = "one for all", "one for each", "myopic bandit"
KNOWING = "knows the tastes, myopic"
WAY = "way from chance to best"
FEWER = replace(TRAINING, updates=20)  # on films half as many rollouts, for the sake of time
LIVE_SEEDS, LIVE_POINTS = 4, 5  # of a training before one's eyes: points of a curve, after its start


@dataclass(frozen=True)
class World:
    """A kind of world: how much of the tastes the surfaces share, and how strongly satiation is felt."""

    sharing: float = 1.0
    satiation: float = 1.0

    def users(self, seed: int, group: int = 0, count: int = USERS) -> SessionUsers:
        """Return its users; group 0 is learned from, 1 chooses settings, 2 judges."""
        return _users(self.sharing, seed, group, count)


@lru_cache(maxsize=256)
def _users(sharing: float, seed: int, group: int, count: int) -> SessionUsers:
    return make_users(count, seed, sharing, group=group)


#: What the surfaces share. Without satiation there are no rules to be learned.
WORLDS = {"tastes and rules": World(1.0, 1.0), "rules alone": World(0.0, 1.0), "nothing": World(0.0, 0.0)}


# The two ways to build it.


class OnePerTask(nn.Module):
    """A network for each task that knows nothing of the others.

    Only the length of a step is in common: an optimizer clips the norm of all its gradients together, in both ways to
    build it.
    """

    def __init__(self, state_dim: int, action_dims: dict[str, int], shared_dims, task_dims):
        super().__init__()
        self.networks = nn.ModuleDict(
            {
                task: MultiTaskPolicyNetwork(state_dim, {task: count}, shared_dims, task_dims)
                for task, count in action_dims.items()
            }
        )

    def forward(self, state: Tensor, task_name: str) -> tuple[Tensor, Tensor]:
        """Return logits and value from the task's own network."""
        return self.networks[task_name](state, task_name)

    def evaluate_actions(self, state: Tensor, task_name: str, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-probability, entropy and value from the task's own network."""
        return self.networks[task_name].evaluate_actions(state, task_name, action)


def shared_network() -> MultiTaskPolicyNetwork:
    """Return one network for all three tasks."""
    return MultiTaskPolicyNetwork(STATE_DIM, ACTIONS, shared_dims=(64, 64), task_dims=())


def separate_networks() -> OnePerTask:
    """Return three networks that together have as many parameters."""
    return OnePerTask(STATE_DIM, ACTIONS, shared_dims=(43, 28), task_dims=())


# Training.


def stack_of(build: Build, settings: Sequence[dict], seeds: Sequence[int], how: Training = TRAINING) -> Stack:
    """Return untrained policies, a network for each setting and seed."""
    return Actors(build, settings, seeds, how.learning_rate, clip=0.5)


def sessions_for(
    stack: Stack, worlds: Sequence[World], how: Training = TRAINING, settings: SessionSettings | None = None
) -> Sessions:
    """Return sessions to learn from: setting k of the stack lives in ``worlds[k]``."""
    return Sessions(
        [w.users(seed) for w, seed in _cells(stack, worlds)], TASKS, how.sessions,
        settings or SessionSettings(), stack.seeds, [w.satiation for w, _ in _cells(stack, worlds)],
    )  # fmt: skip


def _cells(stack: Stack, worlds: Sequence[World]) -> list[tuple[World, int]]:
    many = [world for world in worlds for _ in range(stack.n_seeds)]
    return list(zip(many, stack.seeds, strict=True))


@lru_cache(maxsize=64)
def planner(world: World, task: str, seeds: tuple[int, ...], group: int = 2) -> SessionPlanner:
    """Return the sessions of all seeds' users of a group as Markov decision processes, to be solved exactly."""
    users = join_users([world.users(seed, group, TEST_USERS) for seed in seeds])
    return SessionPlanner(users, task, SessionSettings(satiation=world.satiation), DISCOUNT)


def exact_returns(stack: Stack, worlds: Sequence[World], group: int = 2) -> dict[str, Tensor]:
    """Return the expected discounted reward of a session with users not learned from, {task: (n_settings, S)}."""
    seeds = stack.seeds[: stack.n_seeds]
    return returns_under(stack, {task: [planner(world, task, seeds, group) for world in worlds] for task in TASKS})


def returns_under(stack: Stack, plans: Mapping[str, Sequence[SessionPlanner]]) -> dict[str, Tensor]:
    """Return the same for the users of some planners, {task: one per setting}; each has the users of all seeds.

    Nothing is played: each policy's value is computed from its probabilities in all states of all users.
    """
    found = {}
    for task, each in plans.items():
        seen = torch.cat([plan.observations().unflatten(0, (stack.n_seeds, -1)) for plan in each])  # (M, U, S, D)

        def probabilities(model, observations, task=task):
            return model(observations.flatten(0, 1), task)[0].softmax(-1).view(*observations.shape[:2], -1)

        policies = stack.by_setting(stack.each_own(probabilities, seen))  # (settings, seeds, U, S, A)
        values = [plan.value_of(policy.flatten(0, 1)) for plan, policy in zip(each, policies, strict=True)]
        found[task] = torch.stack([mean_by_group(value, stack.n_seeds) for value in values])
    return found


def fit(
    stack: Stack,
    sessions: Sessions,
    how: Training = TRAINING,
    label: str = "",
    pauses: Callable[[], None] | None = None,
    **options,
) -> Stack:
    """Train to the end, with a progress bar if there is a label; ``pauses`` is called half way and at the end."""
    name, half = label and f"{label}, {len(stack)} models", (how.updates + 1) // 2
    training = train(stack, sessions, how, every=half if pauses else 5, **options)
    for _ in with_bar(training, name, how.updates, "updates"):
        if pauses:
            pauses()
    return stack


# The ceiling and the floor, exact.

Limits = dict[str, Scores]  # by task


def bounds(world: World, seeds: tuple[int, ...] = SEEDS, group: int = 2) -> Limits:
    """Solve every test user's sessions by dynamic programming; those of the same arguments only once.

    Returns
    -------
    dict {task: Scores}
        Exact discounted rewards of a session: of the "best", of the "myopic" who knows the tastes, and of "chance".
    """
    return _bounds(world, seeds, group)


@lru_cache(maxsize=64)
def _bounds(world: World, seeds: tuple[int, ...], group: int) -> Limits:
    return bounds_under({task: planner(world, task, seeds, group) for task in TASKS}, len(seeds))


def bounds_under(plans: Mapping[str, SessionPlanner], n_seeds: int) -> Limits:
    """Return the bounds of the users of some planners, {task: planner}; each has the users of all seeds."""

    def limits(plan: SessionPlanner) -> Scores:
        ways = {"best": plan.best().returns, "myopic": plan.myopic().returns, "chance": plan.even()}
        each = {name: mean_by_group(returns, n_seeds) for name, returns in ways.items()}
        return Scores.of("discounted reward of a session", each)

    return {task: limits(plan) for task, plan in plans.items()}


def ways(limits: Limits, found: Mapping[str, Tensor] | str) -> dict[str, Tensor]:
    """Return how far returns, or one of the limits, are on the way from chance (0) to best (1), {task: (..., S)}."""
    if isinstance(found, str):
        found = {task: scores[found] for task, scores in limits.items()}
    return {
        task: (values - limits[task]["chance"]) / limits[task].lead("best", over="chance")
        for task, values in found.items()
    }


def way(limits: Limits, found: Mapping[str, Tensor] | str) -> Tensor:
    """Return the mean of `ways` over the tasks: (..., S)."""
    return torch.stack(list(ways(limits, found).values())).mean(0)


# What the lesson compares.


@dataclass(frozen=True)
class Comparison:
    """Both ways in three worlds, and the myopic bandit.

    Attributes
    ----------
    shares : dict {world: Scores}
        Shares of the way from chance to the best: one network for all tasks, one for each, the bandit (one for all,
        trained with a discount of 0: only the next reward counts), and, exact, who knows every taste and is myopic.
    cosines : Scores
        World by world, of two tasks' gradients on the shared layers, mean over two places in the training; see
        `gradient_cosines`.
    stacks : dict {way: Stack}
    """

    shares: dict[str, Scores]
    cosines: Scores
    stacks: dict[str, Stack]


def where_satiated(shares: Mapping[str, Scores]) -> Scores:
    """Return the mean over the two worlds with satiation, in which surfaces have something in common."""
    worlds = [shares[name] for name, world in WORLDS.items() if world.satiation > 0]
    return replace(worlds[0], values=torch.stack([scores.values for scores in worlds]).mean(0))


@lru_cache(maxsize=2)
def compare(seeds: tuple[int, ...] = SEEDS, how: Training = TRAINING) -> Comparison:
    """Train one network for all tasks and one for each, on as many steps, in three worlds; and the myopic bandit."""
    names = list(WORLDS)
    planning = [{"discount": DISCOUNT}] * len(names)
    shared = stack_of(shared_network, planning + [{"discount": 0.0}] * len(names), seeds, how)
    separate = stack_of(separate_networks, planning, seeds, how)
    worlds = [*WORLDS.values()] * 2
    cosines = []
    beside = sessions_for(shared, worlds, how)  # to look at gradients; nothing is learned from these

    def look() -> None:
        cosines.append(gradient_cosines(shared, beside, how))

    def learn(way: str, stack: Stack, lived: Sequence[World], pauses: Callable[[], None] | None = None):
        fit(stack, sessions_for(stack, lived, how), how, way, pauses)
        return exact_returns(stack, lived)

    got, got_apart, limits = concurrently(
        partial(learn, SHARED, shared, worlds, look),
        partial(learn, SEPARATE, separate, worlds[: len(names)]),
        lambda: {name: bounds(WORLDS[name], seeds) for name in names},
    )

    def shares(k: int, name: str) -> Scores:
        settings = {SHARED: (got, k), SEPARATE: (got_apart, k), BANDIT: (got, len(names) + k)}
        each = {arm: {task: all_[task][row] for task in TASKS} for arm, (all_, row) in settings.items()}
        found = {arm: way(limits[name], returns) for arm, returns in each.items()}
        return Scores.of(WAY, {**found, KNOWING: way(limits[name], "myopic")})

    return Comparison(
        {name: shares(k, name) for k, name in enumerate(names)},
        Scores("cosine of gradients", tuple(names), torch.stack(cosines).mean(0)[: len(names)]),
        {SHARED: shared, SEPARATE: separate},
    )


def gradient_cosines(stack: Stack, sessions: Sessions, how: Training = TRAINING, times: int = 4) -> Tensor:
    """Return the mean cosine between two tasks' gradients on the shared layers, as they are now: (n_settings, S).

    The gradients of the whole loss are taken on a rollout that is ``times`` as long as in training: those of short
    ones are mostly noise, and the cosine of noise is 0.
    """
    rollouts = sessions.collect(choose_with(stack, Chooser(stack.n_seeds, 11), TASKS), times * how.steps)
    batch = prepared(stack, rollouts, stack.setting("discount", DISCOUNT), stack.setting("gae_lambda", how.gae_lambda))
    no_bonus, flat = torch.zeros(len(stack), device=stack.device), []
    for task in TASKS:
        gradients = stack.gradients(objective_of((task,), how.clip), {task: batch[task], "entropy_weight": no_bonus})
        rows = [g.flatten(1) for name, g in gradients.items() if name.startswith("shared")]
        flat.append(torch.nn.functional.normalize(torch.cat(rows, dim=1), dim=1))  # (M, shared parameters)
    pairs = [(flat[i] * flat[j]).sum(1) for i in range(len(TASKS)) for j in range(i)]
    return stack.by_setting(torch.stack(pairs).mean(0)).cpu()


# Real tastes: users of sessions made from the ratings of MovieLens.


def compare_on_films(
    ratings: Ratings, seeds: tuple[int, ...] = SEEDS, how: Training = FEWER
) -> tuple[Scores, dict[tuple[str, str], float]]:
    """Train on six tenths of the users; judge exactly on thirty whom nobody learned from.

    Returns
    -------
    shares : Scores
        Of the way from chance to the best, mean over the tasks; S splits of the users.
    related : dict {(task, task): float}
        Correlation of two surfaces' tastes, over users and genres of the first split.
    """
    learned = [users_from_ratings(ratings, seed, 0) for seed in seeds]
    judged = [users_from_ratings(ratings, seed, 2)[:TEST_USERS] for seed in seeds]
    plans = {task: SessionPlanner(join_users(judged), task, SessionSettings(), DISCOUNT) for task in TASKS}
    limits, builds = bounds_under(plans, len(seeds)), {SHARED: shared_network, SEPARATE: separate_networks}

    def learn(arm: str) -> Tensor:
        stack = stack_of(builds[arm], [{"discount": DISCOUNT}], seeds, how)
        fit(stack, Sessions(learned, TASKS, how.sessions, SessionSettings(), stack.seeds), how, f"films, {arm}")
        found = returns_under(stack, {task: [plan] for task, plan in plans.items()})
        return way(limits, {task: values[0] for task, values in found.items()})

    shares = {**concurrently_for(builds, learn), KNOWING: way(limits, "myopic")}
    flat = {task: learned[0].on(task).flatten() for task in TASKS}
    related = {(a, b): float(torch.corrcoef(torch.stack([flat[a], flat[b]]))[0, 1]) for a, b in combinations(TASKS, 2)}
    return Scores.of(WAY, shares), related


# One setting, live.


def train_live(
    entropy: float, discount: float, sharing: float, satiation: float, rollouts: int, seed: int,
    how: Training = TRAINING,
) -> Iterator[Running]:  # fmt: skip
    """Train one network for all tasks on four seeds; ``seed`` k takes the k-th four. Judged on validation users.

    Snapshots are dicts {"trained" or "myopic": Scores of the tasks}: how far the policy has come over training, and
    where whoever knows the tastes and is myopic would be.
    """
    how, world = replace(how, updates=rollouts), World(sharing, satiation)
    seeds = tuple(SEEDS[0] + LIVE_SEEDS * seed + k for k in range(LIVE_SEEDS))
    limits = bounds(world, seeds, 1)
    stack = stack_of(shared_network, [{"discount": discount, "entropy": entropy}], seeds, how)
    myopic, steps, found = Scores.of(WAY, ways(limits, "myopic")), [0], []

    def measure() -> None:
        got = {task: values[0] for task, values in exact_returns(stack, [world], 1).items()}
        found.append(torch.stack(list(ways(limits, got).values())))

    def snapshot() -> dict[str, Scores]:
        return {"trained": Scores(WAY, TASKS, torch.stack(found, dim=-1), tuple(steps)), "myopic": myopic}

    measure()
    for moment in train(stack, sessions_for(stack, [world], how), how, every=max(1, rollouts // LIVE_POINTS)):
        steps.append(moment.step * how.sessions * how.steps)
        measure()
        yield Running(moment.step, moment.steps, snapshot, "update")
    return snapshot()


# What the lesson says of other seeds and other rates: tried once, kept in ``settings.yaml``, and to be tried again.


def compare_again(runs: Sequence[tuple[int, ...]] = AGAIN) -> dict[str, Tensor]:
    """Run the lesson's comparison on other seeds: mean leads as in `ON_OTHER_SEEDS`, {what: Tensor (runs,)}.

    Sharing is one network for all over one for each, planning is that network over the myopic bandit.
    """
    leads = {f"{what}, {world}": [] for what in ("sharing", "planning") for world in WORLDS}
    for seeds in runs:
        for world, shares in compare(seeds).shares.items():
            leads[f"sharing, {world}"].append(shares.lead(SHARED, over=SEPARATE).mean())
            leads[f"planning, {world}"].append(shares.lead(SHARED, over=BANDIT).mean())
    return {what: torch.stack(means) for what, means in leads.items()}


def score_rates(
    build: Build, discount: float, rates: Sequence[float] = RATES, seeds: tuple[int, ...] = tuple(range(32))
) -> dict[float, Tensor]:
    """Train one way to build it at several learning rates; return how far each comes, {rate: Tensor (S,)}.

    Users of group 1 judge. There are 32 seeds, as the means of eight differ by 0.03 from luck alone.
    """
    world, found = WORLDS["tastes and rules"], {}
    for rate in rates:
        how = replace(TRAINING, learning_rate=rate)
        stack = stack_of(build, [{"discount": discount}], seeds, how)
        fit(stack, sessions_for(stack, [world], how), how)
        got = {task: values[0] for task, values in exact_returns(stack, [world], 1).items()}
        found[rate] = way(bounds(world, seeds, 1), got)
    return found
