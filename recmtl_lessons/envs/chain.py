"""The six-state chain of Kulkarni et al. (2016): a reward that depends on where one has been, and not on where one is.

Source: Kulkarni, Narasimhan, Saeedi, Tenenbaum, "Hierarchical deep reinforcement learning: integrating temporal
abstraction and intrinsic motivation", NeurIPS 2016, section 4.1. What happens to the right of the last state they do
not say; here a step that would lead there stays.

The dynamics stand once, for a batch as tensors. The environment of one episode and the batched one both follow them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from recmtl_lessons.envs._checks import (
    check_chances,
    check_choices,
    check_no_options,
    check_policy,
    checked_seed,
    whole_number,
)
from recmtl_lessons.models._checks import check_choice, check_count, check_number

LENGTH = 6  # states, numbered from 0 here: s1 is 0, s6 is 5
START, LAST = 1, LENGTH - 1
LEFT, RIGHT = 0, 1
RIGHT_WORKS = 0.5  # otherwise the step goes left
REWARD, SMALL_REWARD = 1.0, 0.01  # at s1: if s6 was visited, and if not
OPTIMUM = 0.208  # undiscounted, from s2: 0.2 * 1 + 0.8 * 0.01


@dataclass(frozen=True)
class ChainState:
    """Where episodes stand.

    Attributes
    ----------
    position : Tensor, (...), int64
        0 for s1 to 5 for s6.
    visited : Tensor, (...), bool
        Whether s6 has been visited.
    """

    position: Tensor
    visited: Tensor


def begin_chain(*shape: int) -> ChainState:
    """Begin episodes, all in s2."""
    return ChainState(torch.full(shape, START), torch.zeros(shape, dtype=torch.bool))


def step_chain(state: ChainState, action: Tensor, chance: Tensor) -> tuple[ChainState, Tensor, Tensor]:
    """Take a step in every episode.

    Parameters
    ----------
    state : ChainState
        (...) episodes, none of them in s1.
    action : Tensor, (...)
        0 left, which always works; 1 right, which works half of the time, and else leads left.
    chance : Tensor, (...)
        Uniform numbers in [0, 1): right works where the number lies below a half.

    Returns
    -------
    state : ChainState
    reward : Tensor, (...), float
        1 on arrival in s1 if s6 was visited, 0.01 if it was not, 0 elsewhere.
    terminated : Tensor, (...), bool
    """
    works = (action == RIGHT) & (chance < RIGHT_WORKS)
    position = (state.position + torch.where(works, 1, -1)).clamp(0, LAST)
    after = ChainState(position, state.visited | (position == LAST))
    return after, _paid(after, torch.float32), position == 0


def _paid(state: ChainState, dtype: torch.dtype) -> Tensor:
    large, small = (torch.tensor(value, dtype=dtype) for value in (REWARD, SMALL_REWARD))
    return torch.where(state.position == 0, torch.where(state.visited, large, small), 0.0)


def observe_chain(state: ChainState, history: bool = False) -> Tensor:
    """Return what is seen, (..., 6): the position, one-hot; with ``history`` (..., 7), whether s6 was visited too."""
    seen = torch.nn.functional.one_hot(state.position, LENGTH).float()
    return torch.cat([seen, state.visited.unsqueeze(-1).float()], dim=-1) if history else seen


class ChainEnv(gymnasium.Env):
    """One episode at a time, under the Gymnasium API.

    Parameters
    ----------
    history : bool
        Show whether s6 was visited. Without it the observation is not the state: the same place is worth 1 or 0.01.
    render_mode : {None, "ansi"}
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012  as Gymnasium asks for it

    def __init__(self, history: bool = False, render_mode: str | None = None):
        check_choice("history", history, (False, True))
        check_choice("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        self.history, self.render_mode = history, render_mode
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (LENGTH + history,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self._state: ChainState | None = None
        self._running = False

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Begin in s2."""
        check_no_options(options)
        super().reset(seed=checked_seed(seed))
        self._state, self._running = begin_chain(1), True
        return self._observation(), self._info()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Go left or right.

        Raises
        ------
        RuntimeError
            Before the first `reset`, and after the end.
        """
        if not self._running:
            raise RuntimeError("step: the episode has not begun or is over, call reset() first")
        action = whole_number("action", action, RIGHT)
        chance = torch.tensor([self.np_random.random()], dtype=torch.float64)
        self._state, reward, terminated = step_chain(self._state, torch.tensor([action]), chance)
        self._running = not bool(terminated)
        return self._observation(), float(reward), bool(terminated), False, self._info()

    def render(self) -> str | None:
        """Return the chain as a line of text, if ``render_mode`` is "ansi"; the place one is at in brackets."""
        if self.render_mode != "ansi" or self._state is None:
            return None
        at = int(self._state.position)
        return " ".join(f"[s{k + 1}]" if k == at else f"s{k + 1}" for k in range(LENGTH))

    def _observation(self) -> np.ndarray:
        return observe_chain(self._state, self.history)[0].numpy()

    def _info(self) -> dict:
        return {"visited": bool(self._state.visited)}


class Chains:
    """Episodes of many models side by side; one that ends begins anew in the same step.

    Parameters
    ----------
    models, per_model : int
        M and B.
    history : sequence of bool
        For each model whether it sees that s6 was visited. If no model does, observations have no place for it; if
        some do, the others read 0 there.
    """

    def __init__(self, models: int, per_model: int, history: Sequence[bool] | None = None):
        for name, value in (("models", models), ("per_model", per_model)):
            check_count(name, value)
        history = [False] * models if history is None else history
        history = history.tolist() if isinstance(history, (np.ndarray, Tensor)) else history
        if not isinstance(history, Sequence) or len(history) != models:
            raise ValueError(f"history: got {history!r}, expected a flag for each of {models} models")
        for flag in history:
            check_choice("history", flag, (False, True))
        self._shown = torch.tensor(history) if any(history) else None
        self.state = begin_chain(models, per_model)

    @property
    def observations(self) -> Tensor:
        """Return what the models see now, (M, B, 6) or (M, B, 7)."""
        return self._seen(self.state)

    def step(self, action: Tensor, chance: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Take a step in all episodes.

        Parameters
        ----------
        action : Tensor, (M, B)
        chance : Tensor, (M, B)
            As in `step_chain`.

        Returns
        -------
        observations : Tensor, (M, B, D)
            What the step led to: where an episode ended, its last observation.
        reward : Tensor, (M, B)
        terminated : Tensor, (M, B), bool
        position : Tensor, (M, B)
            Reached by the step.
        """
        check_choices("action", action, self.state.position.shape, 1 + RIGHT)
        check_chances("chance", chance, self.state.position.shape)
        after, reward, terminated = step_chain(self.state, action, chance)
        fresh = begin_chain(*terminated.shape)
        self.state = ChainState(
            torch.where(terminated, fresh.position, after.position), after.visited & ~terminated
        )  # fmt: skip
        return self._seen(after), reward, terminated, after.position

    def _seen(self, state: ChainState) -> Tensor:
        if self._shown is None:
            return observe_chain(state)
        return observe_chain(ChainState(state.position, state.visited & self._shown[:, None]), True)


def solve_chain(discount: float = 1.0) -> Tensor:
    """Return each action's value for whoever knows whether s6 was visited, by value iteration: (6, 2, 2).

    Parameters
    ----------
    discount : float
        In [0, 1]; without a discount the sum is finite as well, since every step leads left at least half of the time.

    Returns
    -------
    Tensor, (position, visited, action)
        In double precision. Rows of s1 are 0: the episode is over there.
    """
    discount = _checked_discount(discount)
    reward, moves = chain_matrices()
    value, moved = torch.zeros(2 * LENGTH, dtype=torch.float64), 1.0
    while moved > 1e-14:
        q = reward + discount * moves @ value  # (A, S)
        moved, value = float((q.amax(0) - value).abs().max()), q.amax(0)
    return (reward + discount * moves @ value).T.reshape(LENGTH, 2, 2)


def _checked_discount(discount: float) -> float:
    check_number("discount", discount, 0, 1)
    return float(discount)


def chain_value(policy: Tensor, discount: float = 1.0) -> Tensor:
    """Return the exact return of policies from the start, by the linear equations that it fulfils.

    Parameters
    ----------
    policy : Tensor, (..., 6, 2, 2)
        Probability of each action, by position and whether s6 was visited. A policy that does not see the latter has
        the same rows for both.
    discount : float

    Returns
    -------
    Tensor, (...)
        In double precision.
    """
    discount = _checked_discount(discount)
    check_policy(policy, (LENGTH, 2, 2), more=True)
    reward, moves = chain_matrices()
    chosen = policy.double().flatten(-3, -2)  # (..., S, A)
    expected = torch.einsum("...sa,as->...s", chosen, reward)
    among = torch.einsum("...sa,ast->...st", chosen, moves)
    equations = torch.eye(2 * LENGTH, dtype=torch.float64) - discount * among
    return torch.linalg.solve(equations, expected)[..., 2 * START]


def chain_values_by_place(policy: Tensor) -> Tensor:
    """Return what Q-learning that sees the place alone tends to, while a policy acts: (6, 2), undiscounted.

    To such a learner an action's reward and what follows it are means over the times with s6 visited and without, as
    often as the policy is there in each. What it tends to is the best that a Markov decision process with those means
    would allow.

    On the chain that is one number: left from s2 pays r, the mean prize of an end, and whatever else one does leads to
    s2 again, sooner or later, and so to r. It is what the policy itself earns. Nothing tells left from right.

    Parameters
    ----------
    policy : Tensor, (6, 2)
        Probability of each action by position; every place is reached by it.

    Returns
    -------
    Tensor, (position, action)
        In double precision. The row of s1 is 0.

    References
    ----------
    Singh, Jaakkola and Jordan, "Learning without state-estimation in partially observable Markovian decision
    processes", ICML 1994: what Q-learning converges to when it does not see the state.
    """
    check_policy(policy, (LENGTH, 2))
    reward, moves = chain_matrices()
    acting = policy.double().repeat_interleave(2, 0)  # (S, A)
    among = torch.einsum("sa,ast->st", acting, moves)
    start = torch.zeros(2 * LENGTH, dtype=torch.float64)
    start[2 * START] = 1
    visits = torch.linalg.solve(torch.eye(2 * LENGTH, dtype=torch.float64) - among.T, start).view(LENGTH, 2)
    never = int((visits[1:].sum(1) <= 0).sum())
    if never:
        raise ValueError(f"policy: got one that never comes to {never} of the places, expected one that comes to all")
    share = visits / visits.sum(1, keepdim=True).clamp(min=1e-300)  # with s6 visited or not, of the times in a place
    mean_reward = torch.einsum("pv,apv->ap", share, reward.view(2, LENGTH, 2))
    mean_moves = torch.einsum("pv,apvqw->apq", share, moves.view(2, LENGTH, 2, LENGTH, 2))
    value, moved = torch.zeros(LENGTH, dtype=torch.float64), 1.0
    while moved > 1e-14:
        q = mean_reward + mean_moves @ value  # (A, positions)
        moved, value = float((q.amax(0) - value).abs().max()), q.amax(0)
    return q.T.contiguous()


def chain_matrices() -> tuple[Tensor, Tensor]:
    """Return the chain as a table.

    Returns
    -------
    reward : Tensor, (A, S)
        Expected, by action and state; state number 2 * position + visited. In double precision.
    moves : Tensor, (A, S, S)
        Probability of what follows: rows sum to 1 less the probability that the episode ends; those of s1 are 0.
    """
    grid = torch.cartesian_prod(torch.arange(1, LENGTH), torch.arange(2))  # (S', 2)
    state, rows = ChainState(grid[:, 0], grid[:, 1].bool()), 2 * grid[:, 0] + grid[:, 1]
    reward = torch.zeros(2, 2 * LENGTH, dtype=torch.float64)
    moves = torch.zeros(2, 2 * LENGTH, 2 * LENGTH, dtype=torch.float64)
    for action in (LEFT, RIGHT):
        for chance, weight in ((0.0, RIGHT_WORKS), (RIGHT_WORKS, 1 - RIGHT_WORKS)):
            happens = torch.full(rows.shape, chance)
            after, _, terminated = step_chain(state, torch.full(rows.shape, action), happens)
            reward[action, rows] += weight * _paid(after, torch.float64)
            moves[action, rows, 2 * after.position + after.visited.long()] += weight * (~terminated).double()
    return reward, moves
