"""Sessions of many models at once: every model of a stack acts in sessions of its own, on every task, as tensors.

A rollout has time first, then the models, then each model's sessions: (T, M, B, ...).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from recmtl_lessons.envs import SURFACES, SessionSettings, SessionUsers, SessionVectorEnv, join_users
from recmtl_lessons.models._callables import check_callable
from recmtl_lessons.models._checks import check_choice, check_count, check_dense, check_number, listed
from recmtl_lessons.training.stacked import LARGEST, Stack

Observations = dict[str, Tensor]  # {task: (M, B, D)}


@dataclass(frozen=True)
class Acted:
    """What all models do in one step on one task.

    Attributes
    ----------
    action : Tensor, (M, B)
    kept : dict {name: Tensor (M, B, ...)}
        What else is to be remembered of the step, such as its log-probability.
    """

    action: Tensor
    kept: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Rollout:
    """T steps of M models in B sessions each, on one task.

    Attributes
    ----------
    observations, next_observations : Tensor, (T, M, B, D)
        What was seen before a step, and what the step led to: where a session ended, its last observation.
    actions : Tensor, (T, M, B)
    rewards : Tensor, (T, M, B)
    terminated, truncated, clicked : Tensor, (T, M, B), bool
    kept : dict {name: Tensor (T, M, B, ...)}
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminated: Tensor
    truncated: Tensor
    clicked: Tensor
    kept: dict[str, Tensor]


Choose = Callable[[Observations], Mapping[str, Acted]]


class Sessions:
    """B running sessions for each of M models, on each of some tasks.

    Parameters
    ----------
    worlds : sequence of SessionUsers
        The users of each model, M groups of the same size. Models of one seed share theirs, so that they are paired.
    tasks : sequence of str
    per_model : int
        B.
    settings : SessionSettings, optional
    seeds : sequence of int, optional
        One per model; 0 to M - 1 unless given. Models of one seed meet the same users, and the same chances of a click.
    satiation : sequence of float, optional
        One per model, instead of the settings'.
    device : torch.device, optional
        The CPU unless given.
    """

    def __init__(
        self,
        worlds: Sequence[SessionUsers],
        tasks: Sequence[str],
        per_model: int,
        settings: SessionSettings | None = None,
        seeds: Sequence[int] | None = None,
        satiation: Sequence[float] | None = None,
        device: torch.device | str = "cpu",
    ):
        worlds, tasks = listed("worlds", worlds), listed("tasks", tasks)
        if not all(isinstance(world, SessionUsers) for world in worlds):
            raise ValueError(f"worlds: got {worlds!r}, expected SessionUsers")
        if len({len(world) for world in worlds}) != 1:
            raise ValueError(f"worlds: got {[len(w) for w in worlds]} users, expected at least one, all as many")
        for task in tasks:
            check_choice("tasks", task, tuple(SURFACES))
        if not tasks or len(set(tasks)) < len(tasks):
            raise ValueError(f"tasks: got {tasks!r}, expected at least one, all different")
        check_count("per_model", per_model)
        seeds = range(len(worlds)) if seeds is None else seeds
        for name, values in (("seeds", seeds), ("satiation", satiation)):
            if values is not None and len(listed(name, values)) != len(worlds):
                raise ValueError(f"{name}: got {len(values)}, expected one for each of {len(worlds)} worlds")
        for seed in seeds:
            check_count("seeds", seed, 0)
        for strength in satiation if satiation is not None else ():
            check_number("satiation", strength, 0, LARGEST)
        self.n_models, self.per_model, self.tasks = len(worlds), per_model, tuple(tasks)
        distinct = {id(world): world for world in worlds}  # each world's users stand in the table once
        first = {key: k * len(worlds[0]) for k, key in enumerate(distinct)}
        low = torch.tensor([first[id(world)] for world in worlds]).repeat_interleave(per_model)  # (M * B,)
        strength = None if satiation is None else torch.tensor(satiation).float().repeat_interleave(per_model)
        users, ranges = join_users(list(distinct.values())), torch.stack([low, low + len(worlds[0])], dim=1)
        self.envs, self._observed = {}, {}
        for number, task in enumerate(self.tasks):
            env = SessionVectorEnv(users, task, self.n_models * per_model, settings, ranges, strength, device)
            drawn = [10_000_019 * (seed + 1) + 100_003 * number + b for seed in seeds for b in range(per_model)]
            self.envs[task], self._observed[task] = env, self._by_model(env.reset(seed=drawn)[0])

    @property
    def n_actions(self) -> dict[str, int]:
        """Return the number of actions of each task."""
        return {task: len(env.rules.surface) for task, env in self.envs.items()}

    @property
    def observation_dim(self) -> int:
        """Return D, the width of what is seen."""
        return next(iter(self.envs.values())).rules.observation_dim

    @property
    def observations(self) -> Observations:
        """Return what the models see now, {task: (M, B, D)}."""
        return dict(self._observed)

    def step(self, acted: Mapping[str, Acted]) -> dict[str, Rollout]:
        """Take a step in all sessions; return it as a rollout without the dimension of time."""
        if not isinstance(acted, Mapping):
            raise ValueError(f"acted: got {type(acted).__name__}, expected {{task: Acted}}")
        wanted = (self.n_models, self.per_model)
        for task in self.tasks:
            did = acted.get(task)
            if not isinstance(did, Acted) or not isinstance(did.action, Tensor) or not isinstance(did.kept, Mapping):
                raise ValueError(f"acted[{task!r}]: got {did!r}, expected Acted with a tensor and a dict")
            if did.action.shape != wanted:
                raise ValueError(f"acted[{task!r}]: got {tuple(did.action.shape)}, expected actions of shape {wanted}")
        actions = {
            task: env.check_actions(acted[task].action.flatten(), f"acted[{task!r}]") for task, env in self.envs.items()
        }
        done = {}
        for task, env in self.envs.items():
            seen, did = self._observed[task], acted[task]
            taken = env.advance(actions[task])
            self._observed[task] = self._by_model(taken.observations)
            parts = (taken.rewards, taken.reached, taken.terminated, taken.truncated, taken.clicked)
            done[task] = Rollout(seen, did.action, *map(self._by_model, parts), did.kept)
        return done

    def collect(self, choose: Choose, steps: int) -> dict[str, Rollout]:
        """Let all models act for some steps; sessions go on from where they stand.

        Parameters
        ----------
        choose : callable ({task: (M, B, D)}) -> {task: Acted}
        steps : int
            T.

        Returns
        -------
        dict {task: Rollout}
        """
        check_callable("choose", choose, 1)
        check_count("steps", steps)
        taken = [self.step(choose(self.observations)) for _ in range(steps)]
        return {task: stack_steps([step[task] for step in taken]) for task in self.tasks}

    def _by_model(self, values: Tensor) -> Tensor:
        """Give models a dimension of their own: (M * B, ...) -> (M, B, ...)."""
        return values.unflatten(0, (self.n_models, self.per_model))


def stack_steps(steps: Sequence[Rollout]) -> Rollout:
    """Make one rollout of steps that were taken one after another.

    Parameters
    ----------
    steps : sequence of Rollout
        T of them, without the dimension of time, (M, B, ...), all alike.

    Returns
    -------
    Rollout, (T, M, B, ...)
    """
    if not listed("steps", steps) or not all(isinstance(step, Rollout) for step in steps):
        raise ValueError(f"steps: got {steps!r}, expected at least one Rollout")
    names = [part.name for part in fields(Rollout) if part.name != "kept"]
    parts = {name: _stacked(name, [getattr(step, name) for step in steps]) for name in names}
    for number, step in enumerate(steps):
        if not isinstance(step.kept, Mapping):
            raise ValueError(f"steps[{number}].kept: got {step.kept!r}, expected {{name: tensor}}")
        if step.kept.keys() != steps[0].kept.keys():
            raise ValueError(f"steps[{number}].kept: got {sorted(step.kept)}, expected {sorted(steps[0].kept)}")
    kept = {name: _stacked(f"kept[{name!r}]", [step.kept[name] for step in steps]) for name in steps[0].kept}
    return Rollout(**parts, kept=kept)


def _stacked(name: str, values: list[Tensor]) -> Tensor:
    """Stack values side by side in a new first dimension."""
    for number, value in enumerate(values):
        if not isinstance(value, Tensor):
            raise ValueError(f"steps[{number}].{name}: got {type(value).__name__}, expected a tensor")
        if (value.shape, value.dtype) != (values[0].shape, values[0].dtype):
            kinds = [f"{v.dtype} {tuple(v.shape)}" for v in (value, values[0])]
            raise ValueError(f"steps[{number}].{name}: got {kinds[0]}, expected {kinds[1]}, as at first")
    return torch.stack(values)


def returns_of(
    worlds: Sequence[SessionUsers],
    tasks: Sequence[str],
    choose: Choose,
    settings: SessionSettings | None = None,
    *,
    seeds: Sequence[int] | None = None,
    satiation: Sequence[float] | None = None,
    sessions: int = 64,
    discount: float = 0.9,
    horizon: int = 40,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    r"""Play whole sessions; return each model's mean :math:`\sum_t \gamma^t r_t` on each task.

    Parameters
    ----------
    worlds, tasks, settings, seeds, satiation, device
        As in `Sessions`. The time limit is lifted: a session ends when its user leaves.
    choose : callable
        As in `Sessions.collect`.
    sessions : int
        Played by each model.
    discount : float
        In [0, 1].
    horizon : int
        Steps after which counting stops; what comes later weighs less than ``discount ** horizon``.

    Returns
    -------
    dict {task: Tensor (M,)}
    """
    check_callable("choose", choose, 1)
    check_count("sessions", sessions)
    check_count("horizon", horizon)
    check_number("discount", discount, 0, 1)
    if not isinstance(settings, SessionSettings | None):
        raise ValueError(f"settings: got {settings!r}, expected SessionSettings or None")
    endless = replace(settings or SessionSettings(), time_limit=horizon + 1)
    played = Sessions(worlds, tasks, sessions, endless, seeds, satiation, device)
    going = {task: torch.ones(played.n_models, sessions, device=device) for task in tasks}
    total = {task: torch.zeros(played.n_models, sessions, device=device) for task in tasks}
    for t in range(horizon):
        for task, step in played.step(choose(played.observations)).items():
            total[task] += going[task] * discount**t * step.rewards
            going[task] *= (~step.terminated).float()
    return {task: values.mean(1).cpu() for task, values in total.items()}


class Actors(Stack):
    """A stack of models that act in sessions: as `Stack`, but on the CPU unless a device is given.

    Steps of small networks wait for each other, which leaves a graphics card idle most of the time.
    """

    @staticmethod
    def _usual_device() -> torch.device:
        return torch.device("cpu")


class Chooser:
    """Draws actions for a whole stack, the same chances for all models of one seed.

    Parameters
    ----------
    n_seeds : int
    seed : int
        Of the chances.
    """

    def __init__(self, n_seeds: int, seed: int):
        check_count("n_seeds", n_seeds)
        check_count("seed", seed, least=0)
        self.n_seeds, self._generator = n_seeds, torch.Generator().manual_seed(seed)

    def uniform(self, like: Tensor) -> Tensor:
        """Draw uniform numbers (M, ...), the same for model i and model i + n_seeds."""
        self._check_models("like", like)
        rows = torch.rand(self.n_seeds, *like.shape[1:], generator=self._generator)
        return rows.repeat(len(like) // self.n_seeds, *[1] * (like.ndim - 1)).to(like.device)

    def _check_models(self, name: str, value: Tensor) -> None:
        if not isinstance(value, Tensor) or not value.ndim or not len(value) or len(value) % self.n_seeds:
            came = f"{len(value) if value.ndim else 'no'} models" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name}: got {came}, expected a multiple of {self.n_seeds} seeds")

    def _check_values(self, name: str, value: Tensor) -> None:
        """Refuse anything but floats (M, ..., A) of which each row has a largest one that is finite."""
        self._check_models(name, value)
        check_dense(name, value)
        if value.ndim < 2 or 0 in value.shape or not value.is_floating_point():
            came = f"{value.dtype} {tuple(value.shape)}"
            raise ValueError(f"{name}: got {came}, expected floats (M, B, A) with A at least 1")
        if not torch.isfinite(value.amax(-1)).all():  # that of a row with NaN is NaN
            raise ValueError(
                f"{name}: got NaN, infinity or a row of -infinity alone, expected a finite one in each row"
            )

    def sample(self, logits: Tensor) -> Tensor:
        """Draw from softmax(logits), (M, B, A) -> (M, B), by adding Gumbel noise; logits of -infinity never are."""
        self._check_values("logits", logits)
        noise = -torch.log(-torch.log(self.uniform(logits).clamp(1e-9, 1 - 1e-7)))
        return (logits + noise).argmax(-1)

    def epsilon_greedy(self, values: Tensor, epsilon: float | Tensor) -> Tensor:
        """Choose the best action, or with probability epsilon any: (M, B, A) -> (M, B).

        Parameters
        ----------
        values : Tensor, (M, B, A)
        epsilon : float or Tensor
            In [0, 1]; a tensor of any shape that fits (M, B).
        """
        self._check_values("values", values)
        _check_epsilon(epsilon, values.shape[:-1])
        chance = self.uniform(values[..., :1].expand(*values.shape[:-1], 2))  # (M, B, 2)
        anything = (chance[..., 0] * values.shape[-1]).long()
        return torch.where(chance[..., 1] < epsilon, anything, values.argmax(-1))


def _check_epsilon(epsilon: float | Tensor, shape: torch.Size) -> None:
    if not isinstance(epsilon, Tensor):
        check_number("epsilon", epsilon, 0, 1)
        return
    pairs = zip(reversed(epsilon.shape), reversed(shape), strict=False)
    if not epsilon.is_floating_point() or epsilon.ndim > len(shape) or any(e not in (1, n) for e, n in pairs):
        came = f"{epsilon.dtype} {tuple(epsilon.shape)}"
        raise ValueError(f"epsilon: got {came}, expected floats that fit {tuple(shape)}")
    if not ((epsilon >= 0) & (epsilon <= 1)).all():
        raise ValueError(f"epsilon: got {epsilon.tolist()}, expected numbers in [0, 1]")
