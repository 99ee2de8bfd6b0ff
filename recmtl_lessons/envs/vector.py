"""Many sessions at once, under Gymnasium's vector API, with the whole batch as tensors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from recmtl_lessons.envs._checks import check_count, checked_device
from recmtl_lessons.envs.session import SessionRules, SessionSettings, spaces_of, user_of, with_rows
from recmtl_lessons.envs.users import SessionUsers

_BLOCK = 256  # uniform numbers kept ready for each session


class SessionVectorEnv(VectorEnv):
    """N sessions that step together; one that ends begins anew in the same step.

    Observations, actions, rewards and flags are tensors. Session i draws from a generator of its own, seeded as
    Gymnasium's `SyncVectorEnv` seeds its i-th environment: with the same seed and the same actions the two agree step
    for step (against ``SyncVectorEnv(..., autoreset_mode=AutoresetMode.SAME_STEP)``).

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

    Raises
    ------
    ValueError
        If an argument does not fit.
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
        _check_satiation(satiation, num_envs)
        self.num_envs, self.device = num_envs, checked_device(device)
        self.rules = SessionRules(users, task, settings or SessionSettings(), self.device, satiation)
        self.single_observation_space, self.single_action_space = spaces_of(self.rules)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._low, self._high = _check_ranges(user_ranges, num_envs, len(users)).to(self.device).unbind(1)
        self._rows = torch.arange(num_envs, device=self.device)
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

        Raises
        ------
        ValueError
            If there is not one seed for each session, or there are options.
        """
        if options:
            raise ValueError(f"options: got {options!r}, expected none")
        if seed is not None or not self._generators:
            self._seed(seed)
        self._state = self.rules.begin(self._new_users())
        return self.rules.observe(self._state), {}

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
        info : dict
            ``final_obs`` (N, F + 2 C + 1): what was reached by the step, before a new session began, for every row;
            ``_final_obs`` (N,): the rows where one ended; ``clicked`` (N,).

        Raises
        ------
        ValueError
            If the actions are not N of the surface's.
        RuntimeError
            Before the first `reset`.
        """
        if self._state is None:
            raise RuntimeError("step: the sessions have not begun, call reset() first")
        actions = self.check_actions(actions)
        chance = self._draw(self._rows)
        after, rewards, terminated, truncated, clicked = self.rules.step(self._state, actions, chance)
        final, ended = self.rules.observe(after), terminated | truncated
        observations = final
        if bool(ended.any()):
            after = with_rows(after, ended, self.rules.begin(self._new_users(ended, after.user)))
            observations = torch.where(ended[:, None], self.rules.observe(after), final)
        self._state = after
        info = {"final_obs": final, "_final_obs": ended, "clicked": clicked}
        return observations, rewards, terminated, truncated, info

    @property
    def state(self):
        """Where the sessions stand, `SessionState`; hidden from a policy."""
        return self._state

    def check_actions(self, actions: Any, name: str = "actions") -> Tensor:
        """The actions as a tensor (N,) of int64, on the environment's device.

        Parameters
        ----------
        actions : Tensor, (N,), or what makes one
        name : str
            What they are called where they are refused.

        Raises
        ------
        ValueError
            If the actions are not N of the surface's.
        """
        try:
            actions = torch.as_tensor(actions, device=self.device)
        except (TypeError, ValueError, RuntimeError) as error:
            came = f"{type(actions).__name__}, of which no tensor can be made"
            raise ValueError(f"{name}: got {came}, expected {self.num_envs} whole numbers") from error
        count = len(self.rules.surface)
        whole = not (actions.is_floating_point() or actions.is_complex() or actions.dtype == torch.bool)
        if actions.shape != (self.num_envs,) or not whole:
            raise ValueError(
                f"{name}: got {actions.dtype} {tuple(actions.shape)}, expected {self.num_envs} whole numbers"
            )
        if not bool(((actions >= 0) & (actions < count)).all()):
            raise ValueError(
                f"{name}: got numbers from {int(actions.min())} to {int(actions.max())}, expected 0 to {count - 1}"
            )
        return actions.long()

    def _seed(self, seed: int | Sequence[int] | None) -> None:
        self._generators = [np_random(s)[0] for s in _seeds_of(seed, self.num_envs)]
        self._chances = torch.from_numpy(np.stack([g.random(_BLOCK) for g in self._generators])).to(self.device)
        self._used = torch.zeros(self.num_envs, dtype=torch.long, device=self.device)
        self._left = _BLOCK  # of the row that has drawn most, at least

    def _new_users(self, where: Tensor | None = None, old: Tensor | None = None) -> Tensor:
        """Users for new sessions, (N,); only the rows named draw a number, the others keep their user."""
        if where is None:
            return user_of(self._draw(self._rows), self._low, self._high)
        rows = where.nonzero().squeeze(1)
        return old.index_put((rows,), user_of(self._draw(rows), self._low[rows], self._high[rows]))

    def _draw(self, rows: Tensor) -> Tensor:
        """The next uniform number of some sessions, in double precision as numpy draws it."""
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
    if isinstance(seed, (int, np.integer)):
        seeds = [seed + k for k in range(num_envs)]
    else:
        try:
            seeds = list(seed)
        except TypeError as error:
            raise ValueError(f"seed: got {seed!r}, expected one number, or one for each of {num_envs}") from error
    if len(seeds) != num_envs:
        raise ValueError(f"seed: got {len(seeds)} seeds, expected one number, or one for each of {num_envs}")
    if not all(isinstance(s, (int, np.integer)) and s >= 0 for s in seeds):
        raise ValueError(f"seed: got {seed!r}, expected integers of at least 0")
    return [int(s) for s in seeds]


def _check_ranges(ranges: Tensor | None, num_envs: int, n_users: int) -> Tensor:
    if ranges is None:
        return torch.tensor([[0, n_users]]).expand(num_envs, 2)
    if not isinstance(ranges, Tensor) or ranges.shape != (num_envs, 2) or ranges.dtype != torch.int64:
        came = f"{ranges.dtype} {tuple(ranges.shape)}" if isinstance(ranges, Tensor) else type(ranges).__name__
        raise ValueError(f"user_ranges: got {came}, expected a tensor of torch.int64 ({num_envs}, 2)")
    low, high = ranges.unbind(1)
    wrong = ~((low >= 0) & (low < high) & (high <= n_users))
    if bool(wrong.any()):
        first = ranges[wrong][0].tolist()
        raise ValueError(f"user_ranges: got {first}, expected low < high, both from 0 to {n_users}")
    return ranges


def _check_satiation(satiation: Tensor | None, num_envs: int) -> None:
    if satiation is None:
        return
    if not isinstance(satiation, Tensor) or satiation.shape != (num_envs,):
        came = tuple(satiation.shape) if isinstance(satiation, Tensor) else type(satiation).__name__
        raise ValueError(f"satiation: got {came}, expected a tensor ({num_envs},)")
    if not bool(((satiation >= 0) & torch.isfinite(satiation)).all()):
        came = f"values from {satiation.min():g} to {satiation.max():g}"
        raise ValueError(f"satiation: got {came}, expected finite numbers of at least 0")
