"""A session of one user on one surface: its rules, and the environment under the Gymnasium API.

The rules stand once, for a batch of sessions as tensors. The environment of a single session here and the batched one
in `recmtl_lessons.envs.vector` both follow them, so that they agree step for step.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

from recmtl_lessons.envs._checks import (
    MOST_LOGITS,
    check_chances,
    check_choices,
    check_no_options,
    checked_seed,
    whole_number,
)
from recmtl_lessons.envs.surfaces import Surface, make_surface
from recmtl_lessons.envs.users import WIDEST_PROFILE, SessionUsers
from recmtl_lessons.models._checks import check_choice, check_count, check_number, check_values, checked_device


@dataclass(frozen=True)
class SessionSettings:
    """The knobs of a session.

    Attributes
    ----------
    satiation : float
        By how many logits one level of satiation lowers the appeal of a category; at most a million.
    levels : int
        Satiation is a whole number from 0 to levels - 1.
    patience : int
        A user leaves after so many ignored steps in a row.
    clicks_needed : int
        How late the reward comes: a reward of so much is paid for the last of so many clicks on one category. Clicks
        on another category in between start the count anew; ignored steps do not.
    time_limit : int
        After so many steps a session is cut off, though the user would have stayed.
    """

    satiation: float = 1.0
    levels: int = 4
    patience: int = 3
    clicks_needed: int = 1
    time_limit: int = 20

    def __post_init__(self):
        check_number("satiation", self.satiation, 0, MOST_LOGITS)
        object.__setattr__(self, "satiation", float(self.satiation))
        for name, least in (("levels", 2), ("patience", 1), ("clicks_needed", 1), ("time_limit", 1)):
            check_count(name, getattr(self, name), least)


@dataclass(frozen=True)
class SessionState:
    """Where N sessions stand.

    Attributes
    ----------
    user : Tensor, (N,)
        Row in the table of users.
    satiation : Tensor, (N, C)
        Levels.
    streak : Tensor, (N, C)
        Clicks towards the next reward; all 0 but for one category at most.
    ignored : Tensor, (N,)
        Steps ignored in a row.
    elapsed : Tensor, (N,)
        Steps since the session began.
    """

    user: Tensor
    satiation: Tensor
    streak: Tensor
    ignored: Tensor
    elapsed: Tensor


@dataclass(frozen=True)
class ObservationLayout:
    """Where in an observation, (..., F + 2 C + 1), things stand; see `SessionRules.observe`.

    Attributes
    ----------
    profile : slice
        F places.
    satiation : slice
        C places: how much of each category was shown lately.
    streak : slice
        C places: the share of the clicks towards a reward.
    ignored : slice
        One place: the share of the patience that is gone.
    """

    profile: slice
    satiation: slice
    streak: slice
    ignored: slice


def layout_of(observation_dim: int, n_categories: int) -> ObservationLayout:
    """Return the layout of observations of a width, with C categories."""
    check_count("n_categories", n_categories)
    check_count("observation_dim", observation_dim, least=2 * n_categories + 2)
    streak, satiation = observation_dim - 1 - n_categories, observation_dim - 1 - 2 * n_categories  # where they begin
    return ObservationLayout(
        profile=slice(0, satiation),
        satiation=slice(satiation, streak),
        streak=slice(streak, observation_dim - 1),
        ignored=slice(observation_dim - 1, observation_dim),
    )


class SessionRules:
    r"""What happens in a session, for any number of sessions at once.

    The user clicks with probability

    .. math:: \sigma\Big(\sum_c \text{share}_c \, (\theta_c - \beta \cdot \text{satiation}_c)\Big).

    Satiation of what is shown rises, of everything else it falls by a level. A click makes
    the user patient again, each ignored step brings them closer to leaving.

    Parameters
    ----------
    users : SessionUsers
    task : str
        The surface.
    settings : SessionSettings, optional
    device : torch.device
    satiation : Tensor, (N,), optional
        Another strength of satiation for each of N sessions, instead of that of the settings.
    """

    def __init__(
        self,
        users: SessionUsers,
        task: str,
        settings: SessionSettings | None = None,
        device: torch.device | str = "cpu",
        satiation: Tensor | None = None,
    ):
        if not isinstance(users, SessionUsers):
            raise ValueError(f"users: got {type(users).__name__}, expected SessionUsers")
        if not isinstance(settings, SessionSettings | None):
            raise ValueError(f"settings: got {settings!r}, expected SessionSettings or None")
        tastes = users.on(task)
        self.users, self.settings, self.device = users, settings or SessionSettings(), checked_device("device", device)
        self.surface: Surface = make_surface(task, len(users.categories))
        self.tastes = tastes.detach().to(self.device)  # (U, C)
        self.profile = users.profile.detach().to(self.device)  # (U, F)
        self._share, self._dose = self.surface.share.to(self.device), self.surface.dose.to(self.device)  # (A, C)
        self._lead, self._shows = self.surface.lead.to(self.device), self.surface.shows.to(self.device)  # (A,)
        self._categories = torch.arange(len(users.categories), device=self.device)
        self._satiation = self.settings.satiation if satiation is None else self._strengths(satiation)

    @property
    def observation_dim(self) -> int:
        """Return the width of what is seen, F + 2 C + 1: see `observe`."""
        return self.profile.shape[1] + 2 * len(self._categories) + 1

    @property
    def layout(self) -> ObservationLayout:
        """Return where things stand in an observation."""
        return layout_of(self.observation_dim, len(self._categories))

    def begin(self, user: Tensor) -> SessionState:
        """Begin sessions of some users, (N,)."""
        check_choices("user", user, (user.numel(),) if isinstance(user, Tensor) else (), len(self.users))
        return self._begin(user)

    def observe(self, state: SessionState) -> Tensor:
        """Return what a system can see, (N, F + 2 C + 1).

        The profile; how much of each category was shown lately, 0 to 1: its satiation, though not how strongly that is
        felt; the share of the clicks towards the next reward, per category; the share of the patience that is gone. The
        tastes are hidden.
        """
        self._check_state(state)
        return self._observe(state)

    def click_logit(self, state: SessionState, action: Tensor) -> Tensor:
        """Return the appeal of what an action shows, (N,)."""
        self._check_action(state, action)
        return self._click_logit(state, action)

    def click_probability(self, state: SessionState, action: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return how likely a click on what an action shows is, (N,); 0 where nothing is shown.

        In double precision unless told otherwise: in single, a batch's sigmoid and a row's differ in the last digit.
        """
        self._check_action(state, action)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ValueError(f"dtype: got {dtype!r}, expected a floating point dtype")
        return self._click_probability(state, action, dtype)

    def step(self, state: SessionState, action: Tensor, chance: Tensor) -> "Outcome":
        """Take a step in every session.

        Parameters
        ----------
        state : SessionState
            Of N sessions.
        action : Tensor, (N,)
        chance : Tensor, (N,)
            Uniform numbers in [0, 1): the user clicks where the number lies below the probability.

        Returns
        -------
        Outcome
        """
        self._check_action(state, action)
        check_chances("chance", chance, action.shape)
        return self._step(state, action, chance)

    def advance(self, state: SessionState, action: Tensor, clicked: Tensor) -> "Outcome":
        """Take a step with known clicks, (N,). The rest of a step is certain, which `envs.planning` makes use of."""
        self._check_action(state, action)
        if not isinstance(clicked, Tensor) or clicked.dtype != torch.bool or clicked.shape != action.shape:
            came = f"{clicked.dtype} {tuple(clicked.shape)}" if isinstance(clicked, Tensor) else type(clicked).__name__
            raise ValueError(f"clicked: got {came}, expected torch.bool {tuple(action.shape)}")
        return self._advance(state, action, clicked)

    def _check_state(self, state: SessionState) -> None:
        """Refuse anything but a state of sessions under these rules."""
        if not isinstance(state, SessionState):
            raise ValueError(f"state: got {type(state).__name__}, expected a SessionState")
        count = state.user.numel() if isinstance(state.user, Tensor) else 0
        if isinstance(self._satiation, Tensor) and count != len(self._satiation):
            raise ValueError(f"state: got {count} sessions, expected {len(self._satiation)}, as of satiation")
        table = (count, len(self._categories))
        check_choices("state.user", state.user, (count,), len(self.users))
        check_choices("state.satiation", state.satiation, table, self.settings.levels)
        check_choices("state.streak", state.streak, table, self.settings.clicks_needed)
        check_choices("state.ignored", state.ignored, (count,), math.inf)
        check_choices("state.elapsed", state.elapsed, (count,), math.inf)

    def _check_action(self, state: SessionState, action: Tensor) -> None:
        """Refuse anything but such a state, and an action for each of its sessions."""
        self._check_state(state)
        check_choices("action", action, state.user.shape, len(self.surface))

    # What environments do at every step, with what they have looked at.

    def _begin(self, user: Tensor) -> SessionState:
        none = torch.zeros(len(user), len(self._categories), dtype=torch.long, device=self.device)
        nil = torch.zeros(len(user), dtype=torch.long, device=self.device)
        return SessionState(user, none, none, nil, nil)

    def _observe(self, state: SessionState) -> Tensor:
        lately = state.satiation / (self.settings.levels - 1)
        streak = state.streak / self.settings.clicks_needed
        gone = state.ignored[:, None] / self.settings.patience
        return torch.cat([self.profile[state.user], lately, streak, gone], dim=1).float()

    def _click_logit(self, state: SessionState, action: Tensor) -> Tensor:
        appeal = self.tastes[state.user] - self._satiation * state.satiation  # (N, C)
        return (self._share[action] * appeal).sum(1)

    def _click_probability(self, state: SessionState, action: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.where(self._shows[action], self._click_logit(state, action).to(dtype).sigmoid(), 0.0)

    def _step(self, state: SessionState, action: Tensor, chance: Tensor) -> "Outcome":
        return self._advance(state, action, chance < self._click_probability(state, action, torch.float64))

    def _advance(self, state: SessionState, action: Tensor, clicked: Tensor) -> "Outcome":
        needed = self.settings.clicks_needed
        dose, lead = self._dose[action], self._lead[action]  # (N, C), (N,)
        satiation = (state.satiation + torch.where(dose > 0, dose, -1)).clamp(0, self.settings.levels - 1)
        here = self._categories == lead[:, None]  # (N, C)
        after_click = torch.where(here, state.streak + 1, 0)
        paid = clicked & (after_click >= needed).any(1)
        streak = torch.where(clicked[:, None], after_click % needed, state.streak)
        ignored = torch.where(clicked, 0, state.ignored + self._shows[action].long())
        elapsed = state.elapsed + 1
        after = SessionState(state.user, satiation, streak, ignored, elapsed)
        terminated, truncated = ignored >= self.settings.patience, elapsed >= self.settings.time_limit
        return Outcome(after, needed * paid.float(), terminated, truncated, clicked)

    def _strengths(self, satiation: Tensor) -> Tensor:
        """Return the strengths of satiation as a column, (N, 1)."""
        check_values("satiation", satiation, (max(1, satiation.numel()),) if isinstance(satiation, Tensor) else ())
        if not bool(((satiation >= 0) & (satiation <= MOST_LOGITS)).all()):
            came = f"values from {satiation.min():g} to {satiation.max():g}"
            raise ValueError(f"satiation: got {came}, expected numbers in [0, {MOST_LOGITS}]")
        return satiation.float().to(self.device)[:, None]


class Outcome(NamedTuple):
    """What a step of N sessions led to.

    Attributes
    ----------
    state : SessionState
    reward : Tensor, (N,), float
    terminated, truncated : Tensor, (N,), bool
        The user left; the time limit was reached, whatever else happened.
    clicked : Tensor, (N,), bool
    """

    state: SessionState
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    clicked: Tensor


class SessionEnv(gymnasium.Env):
    """One session at a time, under the Gymnasium API.

    Parameters
    ----------
    users : SessionUsers
        Each session draws one of them.
    task : str
        The surface: "home", "search" or "notify".
    settings : SessionSettings, optional
    render_mode : {None, "ansi"}

    Notes
    -----
    ``info`` has what an observation has not: the user's number, the tastes and levels of satiation.

    In Gymnasium's `AsyncVectorEnv` each worker computes on one thread, `make_users` included: in a process that was
    forked, several would wait for each other for ever. For hundreds of sessions `SessionVectorEnv` is faster.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012  as Gymnasium asks for it

    def __init__(
        self,
        users: SessionUsers,
        task: str = "home",
        settings: SessionSettings | None = None,
        render_mode: str | None = None,
    ):
        check_choice("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        self.render_mode = render_mode
        self.rules = SessionRules(users, task, settings)
        self.observation_space, self.action_space = spaces_of(self.rules)
        self._state: SessionState | None = None
        self._running, self._last = False, ""

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Begin a session with a user drawn at random, or with ``options={"user": number}``."""
        asked, seed = _asked_user(options, len(self.rules.users)), checked_seed(seed)
        super().reset(seed=seed)
        chance = torch.tensor([self.np_random.random()], dtype=torch.float64)  # drawn even if a user is asked for
        user = user_of(chance, 0, len(self.rules.users)) if asked is None else torch.tensor([asked])
        self._state, self._running, self._last = self.rules._begin(user), True, ""
        return self._observation(), self._info()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Show something and see what the user does.

        Raises
        ------
        RuntimeError
            Before the first `reset`, and after the end.
        """
        if not self._running:
            raise RuntimeError("step: the session has not begun or is over, call reset() first")
        action = whole_number("action", action, len(self.rules.surface) - 1)
        chance = torch.tensor([self.np_random.random()], dtype=torch.float64)
        outcome = self.rules._step(self._state, torch.tensor([action]), chance)
        terminated, truncated, clicked = bool(outcome.terminated), bool(outcome.truncated), bool(outcome.clicked)
        self._state, self._running = outcome.state, not (terminated or truncated)
        shown = bool(self.rules.surface.shows[action])
        heard = "clicked" if clicked else "ignored" if shown else "left alone"
        self._last = f"{self.rules.surface.actions[action]}: {heard}"
        info = {**self._info(), "clicked": clicked}
        return self._observation(), float(outcome.reward), terminated, truncated, info

    def render(self) -> str | None:
        """Return where the session stands in a line of text, if ``render_mode`` is "ansi"."""
        if self.render_mode != "ansi" or self._state is None:
            return None
        names = self.rules.users.categories
        levels = ", ".join(f"{n} {int(s)}" for n, s in zip(names, self._state.satiation[0], strict=True))
        said = f"; {self._last}" if self._last else ""
        return (
            f"step {int(self._state.elapsed)}{said}; satiation: {levels}; ignored in a row {int(self._state.ignored)}"
        )

    def _observation(self) -> np.ndarray:
        return self.rules._observe(self._state)[0].numpy()

    def _info(self) -> dict:
        user = int(self._state.user)
        return {
            "user": user,
            "tastes": self.rules.tastes[user].numpy().copy(),
            "satiation": self._state.satiation[0].numpy().copy(),
        }


def spaces_of(rules: SessionRules) -> tuple[gymnasium.spaces.Box, gymnasium.spaces.Discrete]:
    """Return the spaces of one session's observations and actions."""
    width, profile = rules.observation_dim, rules.layout.profile
    low, high = np.zeros(width, np.float32), np.ones(width, np.float32)
    low[profile], high[profile] = -WIDEST_PROFILE, WIDEST_PROFILE
    return gymnasium.spaces.Box(low, high, dtype=np.float32), gymnasium.spaces.Discrete(len(rules.surface))


def user_of(chance: Tensor, low: Tensor | int, high: Tensor | int) -> Tensor:
    """Return the user in low..high-1 that a uniform number in [0, 1) stands for."""
    return (low + (chance * (high - low)).floor()).long()


def with_rows(state: SessionState, where: Tensor, other: SessionState) -> SessionState:
    """Return the sessions of ``other`` where ``where`` (N,) is True, of ``state`` elsewhere."""
    names = ("user", "satiation", "streak", "ignored", "elapsed")

    def pick(name: str) -> Tensor:
        new, old = getattr(other, name), getattr(state, name)
        return torch.where(where if new.ndim == 1 else where[:, None], new, old)

    return replace(state, **{name: pick(name) for name in names})


def _asked_user(options: dict | None, count: int) -> int | None:
    """Return the user that options ask for, None if they ask for nobody."""
    if isinstance(options, dict) and set(options) == {"user"}:
        return whole_number("options['user']", options["user"], count - 1)
    check_no_options(options, "{'user': number} or none")
    return None
