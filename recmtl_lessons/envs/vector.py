"""Many sessions at once, under Gymnasium's vector API, with the whole batch as tensors."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from recmtl_lessons.envs._checks import check_no_options, whole_number
from recmtl_lessons.envs.session import SessionRules, SessionSettings, spaces_of, user_of, with_rows
from recmtl_lessons.envs.users import SessionUsers
from recmtl_lessons.models._checks import check_count, check_dense, check_values

_BLOCK = 256  # uniform numbers kept ready for each session


class VectorOutcome(NamedTuple):
    """What a step of N sessions led to.

    Attributes
    ----------
    observations : Tensor, (N, F + 2 C + 1)
        Of the session that began, where one ended.
    rewards : Tensor, (N,)
    terminated, truncated : Tensor, (N,), bool
    reached : Tensor, (N, F + 2 C + 1)
        What was seen before a new session began.
    clicked : Tensor, (N,), bool
    """

    observations: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    reached: Tensor
    clicked: Tensor


class _Numbers(Tensor):
    """A tensor that NumPy's functions compute with as with an array, as Gymnasium's wrappers expect.

    Torch's own answer to ``array += tensor`` and ``np.sum(np.logical_or(tensor, tensor))`` is an error. What torch
    makes of it is a plain tensor, as is a copy, and what is shown or saved.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> np.ndarray:
        arrays = [value.cpu().numpy() if isinstance(value, Tensor) else value for value in inputs]
        return getattr(ufunc, method)(*arrays, **options)

    def __repr__(self) -> str:
        return repr(self.as_subclass(Tensor))

    def __deepcopy__(self, memo: dict) -> Tensor:
        return self.clone()

    def __reduce_ex__(self, protocol: int) -> tuple:
        return self.as_subclass(Tensor).__reduce_ex__(protocol)


class SessionVectorEnv(VectorEnv):
    """N sessions that step together; one that ends begins anew in the same step.

    Observations, actions, rewards and flags are tensors. Session i draws from a generator of its own, seeded as
    Gymnasium's `SyncVectorEnv` seeds its i-th environment: with the same seed and the same actions the two agree step
    for step (against ``SyncVectorEnv(..., autoreset_mode=AutoresetMode.SAME_STEP)``).

    Of Gymnasium's wrappers for vectors, `RecordEpisodeStatistics`, `DictInfoToList`, `TransformReward`, `ClipReward`
    and those of actions work on it. `NormalizeReward` subtracts flags, which tensors refuse: it works on
    ``ArrayConversion(env, env_xp=torch, target_xp=numpy)``, for which ``pip install array-api-compat`` is needed.
    Wrappers of observations such as `NormalizeObservation` take no vector that begins sessions anew in the same step.

    Parameters
    ----------
    users : SessionUsers
    task : str
        The surface: "home", "search" or "notify".
    num_envs : int
        N.
    settings : SessionSettings, optional
    user_ranges : Tensor, (N, 2), optional
        Session i draws its users from rows low..high-1 of the table. All rows unless given. So one environment serves
        many worlds, whose users stand in one table one after another.
    satiation : Tensor, (N,), optional
        A strength of satiation for each session, instead of that of the settings.
    device : torch.device, optional
        Of the tensors; the CPU unless given.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self,
        users: SessionUsers,
        task: str = "home",
        num_envs: int = 256,
        settings: SessionSettings | None = None,
        user_ranges: Tensor | None = None,
        satiation: Tensor | None = None,
        device: torch.device | str = "cpu",
    ):
        check_count("num_envs", num_envs)
        if satiation is not None:
            check_values("satiation", satiation, (num_envs,))
        self.rules = SessionRules(users, task, settings, device, satiation)
        self.num_envs, self.device = num_envs, self.rules.device
        self.single_observation_space, self.single_action_space = spaces_of(self.rules)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._low, self._high = _check_ranges(user_ranges, num_envs, len(users)).to(self.device).unbind(1)
        self._rows = torch.arange(num_envs, device=self.device)
        self._everyone = np.ones(num_envs, dtype=bool)
        self._everyone.flags.writeable = False  # one array for all steps
        self._generators: list[np.random.Generator] = []
        self._state = None

    def reset(self, *, seed: int | Sequence[int] | None = None, options: dict | None = None) -> tuple[Tensor, dict]:
        """Begin all sessions anew.

        Parameters
        ----------
        seed : int or sequence of N int, optional
            An integer s seeds session i with s + i. Without one the generators go on, or begin anywhere.
        options : dict, optional
            Has to be empty: here no user can be asked for, as with `SessionEnv`.

        Returns
        -------
        observations : Tensor, (N, F + 2 C + 1)
        info : dict
        """
        check_no_options(options)
        if seed is not None or not self._generators:
            self._seed(seed)
        self._state = self.rules._begin(self._new_users())
        return self.rules._observe(self._state), {}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict]:
        """Let every session take a step.

        Parameters
        ----------
        actions : Tensor, (N,), or what makes one

        Returns
        -------
        observations : Tensor, (N, F + 2 C + 1)
            Of the session that began, where one ended.
        rewards : Tensor, (N,)
        terminated, truncated : Tensor, (N,), bool
        info : dict of NumPy arrays, as Gymnasium's own vectors have it
            ``clicked`` (N,); ``final_obs`` (N, F + 2 C + 1): what was reached by the step, before a new session began,
            for every row; ``_clicked`` and ``_final_obs`` (N,): the rows that have one, which are all, and those where
            a session ended.

        Raises
        ------
        RuntimeError
            Before the first `reset`.
        """
        taken = self.advance(actions)
        info = {
            "clicked": taken.clicked.numpy(force=True),
            "_clicked": self._everyone,
            "final_obs": taken.reached.numpy(force=True),
            "_final_obs": taken.terminated.numpy(force=True) | taken.truncated.numpy(force=True),
        }
        numbers = (part.as_subclass(_Numbers) for part in (taken.rewards, taken.terminated, taken.truncated))
        return taken.observations, *numbers, info

    def advance(self, actions: Tensor) -> VectorOutcome:
        """Take a step as `step` does, and return all that came of it as tensors on the environment's device."""
        if self._state is None:
            raise RuntimeError("step: the sessions have not begun, call reset() first")
        actions = self.check_actions(actions)
        chance = self._draw(self._rows)
        after, rewards, terminated, truncated, clicked = self.rules._step(self._state, actions, chance)
        reached, ended = self.rules._observe(after), terminated | truncated
        observations = reached
        if bool(ended.any()):
            after = with_rows(after, ended, self.rules._begin(self._new_users(ended, after.user)))
            observations = torch.where(ended[:, None], self.rules._observe(after), reached)
        self._state = after
        return VectorOutcome(observations, rewards, terminated, truncated, reached, clicked)

    @property
    def state(self):
        """Return where the sessions stand, `SessionState`; hidden from a policy."""
        return self._state

    def check_actions(self, actions: Any, name: str = "actions") -> Tensor:
        """Return the actions as a tensor (N,) of int64, on the environment's device.

        Parameters
        ----------
        actions : Tensor, (N,), or what makes one
        name : str
            What they are called where they are refused.
        """
        try:
            actions = torch.as_tensor(actions, device=self.device)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            came = f"{type(actions).__name__}, of which no tensor can be made"
            raise ValueError(f"{name}: got {came}, expected {self.num_envs} whole numbers") from error
        count = len(self.rules.surface)
        whole = not (actions.is_floating_point() or actions.is_complex() or actions.dtype == torch.bool)
        if actions.shape != (self.num_envs,) or not whole:
            raise ValueError(
                f"{name}: got {actions.dtype} {tuple(actions.shape)}, expected {self.num_envs} whole numbers"
            )
        check_dense(name, actions)
        actions = actions.long()
        if not bool(((actions >= 0) & (actions < count)).all()):
            raise ValueError(
                f"{name}: got numbers from {int(actions.min())} to {int(actions.max())}, expected 0 to {count - 1}"
            )
        return actions

    def _seed(self, seed: int | Sequence[int] | None) -> None:
        self._generators = [np_random(s)[0] for s in _seeds_of(seed, self.num_envs)]
        self._chances = torch.from_numpy(np.stack([g.random(_BLOCK) for g in self._generators])).to(self.device)
        self._used = torch.zeros(self.num_envs, dtype=torch.long, device=self.device)
        self._left = _BLOCK  # of the row that has drawn most, at least

    def _new_users(self, where: Tensor | None = None, old: Tensor | None = None) -> Tensor:
        """Draw users for new sessions, (N,); only the rows named draw a number, the others keep their user."""
        if where is None:
            return user_of(self._draw(self._rows), self._low, self._high)
        rows = where.nonzero().squeeze(1)
        return old.index_put((rows,), user_of(self._draw(rows), self._low[rows], self._high[rows]))

    def _draw(self, rows: Tensor) -> Tensor:
        """Draw the next uniform number of some sessions, in double precision as numpy draws it."""
        if self._left == 0:
            self._refill()
        self._left -= 1
        chance = self._chances[rows, self._used[rows]]
        self._used[rows] += 1
        return chance

    def _refill(self) -> None:
        kept = self._chances.cpu().numpy()
        used = self._used.tolist()
        fresh = [np.concatenate([k[u:], g.random(u)]) for k, u, g in zip(kept, used, self._generators, strict=True)]
        self._chances = torch.from_numpy(np.stack(fresh)).to(self.device)
        self._used.zero_()
        self._left = _BLOCK


def _seeds_of(seed: int | Sequence[int] | None, num_envs: int) -> list[int] | list[None]:
    if seed is None:
        return [None] * num_envs
    many = isinstance(seed, (Sequence, np.ndarray, Tensor)) and not isinstance(seed, (str, bytes))
    if not many or getattr(seed, "ndim", 1) == 0:
        first = whole_number("seed", seed, math.inf)
        return [first + k for k in range(num_envs)]
    if len(seed) != num_envs:
        raise ValueError(f"seed: got {len(seed)} seeds, expected one number, or one for each of {num_envs}")
    return [whole_number("seed", one, math.inf) for one in seed]


def _check_ranges(ranges: Tensor | None, num_envs: int, n_users: int) -> Tensor:
    if ranges is None:
        return torch.tensor([[0, n_users]]).expand(num_envs, 2)
    if not isinstance(ranges, Tensor) or ranges.shape != (num_envs, 2) or ranges.dtype != torch.int64:
        came = f"{ranges.dtype} {tuple(ranges.shape)}" if isinstance(ranges, Tensor) else type(ranges).__name__
        raise ValueError(f"user_ranges: got {came}, expected a tensor of torch.int64 ({num_envs}, 2)")
    check_dense("user_ranges", ranges)
    low, high = ranges.unbind(1)
    wrong = ~((low >= 0) & (low < high) & (high <= n_users))
    if bool(wrong.any()):
        first = ranges[wrong][0].tolist()
        raise ValueError(f"user_ranges: got {first}, expected low < high, both from 0 to {n_users}")
    return ranges
