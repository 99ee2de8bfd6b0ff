"""The lesson's arms: one network for all tasks or one for each, in worlds that share much or nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from recmtl_lessons.envs import (
    ACTIONS,
    STATE_DIM,
    SessionPlanner,
    SessionSettings,
    SessionUsers,
    join_users,
    make_users,
)
from recmtl_lessons.envs import SURFACES as TASKS
from recmtl_lessons.envs.users import mean_by_group
from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.models import MultiTaskPolicyNetwork
from recmtl_lessons.training import Actors, Chooser, Sessions, Stack, concurrently, with_bar
from recmtl_lessons.training.actor_critic import DISCOUNT, Training, choose_with, objective_of, prepared, train

USERS = 100  # to learn from, a seed
TEST_USERS = 30
TRAINING = Training()
Build = Callable[[], nn.Module]  # makes one network
SHARED, SEPARATE = "one for all", "one for each"


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


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable numbers."""
    return sum(parameter.numel() for parameter in model.parameters())


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


@dataclass(frozen=True)
class Bounds:
    """Exact returns with the test users, {task: Tensor (S,)}: the best, the myopic who knows the tastes, and chance."""

    best: dict[str, Tensor]
    myopic: dict[str, Tensor]
    chance: dict[str, Tensor]

    def share(self, found: dict[str, Tensor]) -> Tensor:
        """Return how far returns lie on the way from chance (0) to the best (1), mean over the tasks: (..., S)."""
        parts = [(found[t] - self.chance[t]) / (self.best[t] - self.chance[t]) for t in found]
        return torch.stack(parts).mean(0)


def bounds(world: World, seeds: tuple[int, ...] = SEEDS, group: int = 2) -> Bounds:
    """Solve every test user's sessions by dynamic programming; those of the same arguments only once."""
    return _bounds(world, seeds, group)


@lru_cache(maxsize=64)
def _bounds(world: World, seeds: tuple[int, ...], group: int) -> Bounds:
    return bounds_under({task: planner(world, task, seeds, group) for task in TASKS}, len(seeds))


def bounds_under(plans: Mapping[str, SessionPlanner], n_seeds: int) -> Bounds:
    """Return the bounds of the users of some planners, {task: planner}; each has the users of all seeds."""
    ways = {"best": lambda plan: plan.best().returns, "myopic": lambda plan: plan.myopic().returns,
            "chance": SessionPlanner.even}  # fmt: skip
    return Bounds(
        **{name: {task: mean_by_group(way(plan), n_seeds) for task, plan in plans.items()}
           for name, way in ways.items()}
    )  # fmt: skip


# What the lesson compares.


@dataclass(frozen=True)
class Comparison:
    """Both ways in three worlds, and the myopic bandit; shares of the way from chance to the best, (S,) each.

    Attributes
    ----------
    shared, separate : dict {world: Tensor (S,)}
    bandit : dict {world: Tensor (S,)}
        One network for all, trained with a discount of 0: only the next reward counts.
    knowing : dict {world: Tensor (S,)}
        Who knows every taste and is myopic, exact.
    cosines : dict {world: Tensor (S,)}
        Of two tasks' gradients on the shared layers, mean over two places in the training; see `gradient_cosines`.
    stacks : dict {way: Stack}
    """

    shared: dict[str, Tensor]
    separate: dict[str, Tensor]
    bandit: dict[str, Tensor]
    knowing: dict[str, Tensor]
    cosines: dict[str, Tensor]
    stacks: dict[str, Stack]


def where_satiated(values: Mapping[str, Tensor]) -> Tensor:
    """Return the mean over the two worlds with satiation, in which surfaces have something in common: (S,)."""
    return torch.stack([values[name] for name, world in WORLDS.items() if world.satiation > 0]).mean(0)


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

    def shares(returns: dict[str, Tensor], start: int = 0) -> dict[str, Tensor]:
        rows = {name: {task: returns[task][start + k] for task in TASKS} for k, name in enumerate(names)}
        return {name: limits[name].share(row) for name, row in rows.items()}

    return Comparison(
        shares(got),
        shares(got_apart),
        shares(got, len(names)),
        {name: limits[name].share(limits[name].myopic) for name in names},
        dict(zip(names, torch.stack(cosines).mean(0), strict=False)),
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
