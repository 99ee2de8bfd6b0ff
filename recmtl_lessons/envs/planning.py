"""The best that can be done in a session, by dynamic programming, for whoever knows the user's tastes.

With the tastes known, a session is a small Markov decision process: levels of satiation, clicks towards a reward, steps
ignored in a row. Its best policy is found by value iteration, user by user, and the value of any policy that acts on
what it can observe by solving linear equations, or by following its actions where it leaves nothing to chance. The time
limit plays no part: it cuts a session off, the user would have stayed.
"""

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits
from torch import Tensor

from recmtl_lessons.envs._checks import check_choices, check_policy
from recmtl_lessons.envs.session import SessionRules, SessionSettings, SessionState
from recmtl_lessons.envs.users import SessionUsers
from recmtl_lessons.models._checks import check_number

_MOST_STATES = 50_000
_AT_ONCE = 2**24  # coefficients of the equations that are solved together
_TOLERANCE = 1e-4  # of 1 and the largest value together: how far from the fixed point value iteration may end
_EXACTLY = 1e-6  # the same where a policy is judged
_SOLVING = threading.Lock()


@dataclass(frozen=True)
class Plan:
    r"""Values and actions of U users in S states.

    Attributes
    ----------
    value : Tensor, (U, S)
        Expected discounted reward, :math:`\sum_t \gamma^t r_t`, from each state on.
    action : Tensor, (U, S)
        What is done there.
    """

    value: Tensor
    action: Tensor

    @property
    def returns(self) -> Tensor:
        """Return the value of a whole session, (U,)."""
        return self.value[:, 0]


class SessionPlanner:
    """Solve the sessions of some users on one surface.

    Parameters
    ----------
    users : SessionUsers
    task : str
    settings : SessionSettings, optional
        Of at most 50,000 states: levels, clicks towards a reward and patience multiply.
    discount : float
        In [0, 1).
    """

    def __init__(self, users: SessionUsers, task: str, settings: SessionSettings | None = None, discount: float = 0.9):
        check_number("discount", discount, 0, 1, below=True)
        self.rules, self.discount = SessionRules(users, task, settings), float(discount)
        self.states = self._all_states()
        self._clicked, self._ignored = self._what_follows(True), self._what_follows(False)

    def best(self) -> Plan:
        """Find the optimal policy, by value iteration to a ten-thousandth of 1 and the largest value together."""
        value = self._iterate(lambda value: self._q(value).amax(1))
        return Plan(value, self._q(value).argmax(1))

    def myopic(self) -> Plan:
        """Plan as who knows the tastes and the state as well, and takes what pays most in this very step.

        Where several actions pay as much, it is the first of them: so wherever nothing can be paid yet because more
        clicks are needed.
        """
        action = (self._chance * self._clicked[1]).argmax(1)  # (U, S)
        value = self._iterate(lambda value: self._q(value).gather(1, action[:, None]).squeeze(1))
        return Plan(value, action)

    def observations(self) -> Tensor:
        """Return what a system sees in each state with each user, (U, S, F + 2 C + 1)."""
        count, users = len(self.states.user), len(self.rules.users)
        every = [torch.arange(users).repeat_interleave(count)]
        parts = (self.states.satiation, self.states.streak, self.states.ignored, self.states.elapsed)
        every += [part.repeat(users, *[1] * (part.ndim - 1)) for part in parts]
        return self.rules.observe(SessionState(*every)).unflatten(0, (users, count))

    def value_of(self, policy: Tensor) -> Tensor:
        """Return the exact value of a policy, (U,): a whole session's expected discounted reward.

        It solves the linear equations that the value fulfils. The value carries no gradient, and is on the CPU.

        Parameters
        ----------
        policy : Tensor, (U, S, A)
            Probability of each action in each state, for instance a network's at `observations`.
        """
        users, count, actions = len(self.rules.users), len(self.states.user), len(self.rules.surface)
        check_policy(policy, (users, count, actions))
        at_once = max(1, _AT_ONCE // count**2)
        policy = policy.detach().cpu()
        policy = policy if policy.dtype == torch.float32 else policy.double()
        chunks = zip(policy.split(at_once), self._chance.split(at_once), strict=True)
        return torch.cat([self._solved(probability.transpose(1, 2), chance) for probability, chance in chunks])

    def value_of_actions(self, action: Tensor) -> Tensor:
        """Return a policy's value without chance, (U,), as `value_of`, to a millionth of 1 and the largest value.

        By iteration: with one action a state there are only two ways to go on, which takes less time than equations.

        Parameters
        ----------
        action : Tensor, (U, S), integers
            What is done in each state.
        """
        shape, actions = (len(self.rules.users), len(self.states.user)), len(self.rules.surface)
        check_choices("action", action, shape, actions)
        action = action.detach().cpu()

        def chosen(table: Tensor) -> Tensor:  # (A, S) or (U, A, S) -> (U, S)
            return table.expand(shape[0], -1, -1).gather(1, action[:, None]).squeeze(1)

        chance = chosen(self._chance).double()
        paid, ways = 0.0, []
        for outcome, happens in ((self._clicked, chance), (self._ignored, 1 - chance)):
            follow, reward, goes_on = map(chosen, outcome)
            paid = paid + happens * reward
            ways.append((follow, self.discount * happens * goes_on))
        follow, weight = (torch.stack(parts, dim=-1) for parts in zip(*ways, strict=True))  # (U, S, 2) each
        moves = self._moves(follow, weight)

        def a_step_before(value: Tensor) -> Tensor:
            return paid + torch.from_numpy(moves @ value.numpy().ravel()).view(shape)

        return self._iterate(a_step_before, _EXACTLY)[:, 0]

    def even(self) -> Tensor:
        """Return the exact value of acting by chance, all actions alike, (U,)."""
        users, count, actions = len(self.rules.users), len(self.states.user), len(self.rules.surface)
        return self.value_of(torch.full((users, count, actions), 1 / actions))

    def _moves(self, follow: Tensor, weight: Tensor) -> csr_array:
        """Return the matrix that takes values to what they add up to a step before; two ways to go on, (U, S, 2) each.

        (U * S, U * S), users one after another.
        """
        users, count, ways = follow.shape
        columns = follow + count * torch.arange(users)[:, None, None]
        starts = torch.arange(0, columns.numel() + 1, ways)
        parts = (weight.flatten().numpy(), columns.flatten().numpy(), starts.numpy())
        return csr_array(parts, shape=(users * count, users * count))

    def _solved(self, policy: Tensor, chance: Tensor) -> Tensor:
        """Solve (I - discount P) V = r for values at the start of some users' sessions; policy and chance (U, A, S).

        Only the states that a session can reach have an equation.
        """
        states, count = self._reachable, len(self._reachable)
        row = torch.zeros(len(self.states.user), dtype=torch.long).index_put((states,), torch.arange(count))  # (S,)
        policy, chance = policy[..., states], chance[..., states]  # (U, A, R) each
        left = torch.eye(count, dtype=policy.dtype).expand(len(policy), -1, -1).clone()  # (U, R, R)
        right = torch.zeros(len(policy), count, dtype=policy.dtype)
        for (follow, reward, goes_on), happens in ((self._clicked, chance), (self._ignored, 1 - chance)):
            weight = policy * happens  # (U, A, R)
            right += (weight * reward[:, states]).sum(1)
            moves = -self.discount * weight * goes_on[:, states]
            places = count * torch.arange(count) + row[follow[:, states]]  # (A, R), in a matrix laid out flat
            left.view(len(left), -1).scatter_add_(1, places.flatten().expand(len(left), -1), moves.flatten(1))
        # Torch fails at many matrices of this size with more than one thread (pytorch#142815). NumPy starts a thread
        # for each core, and on a machine with sixteen this took minutes instead of a tenth of a second.
        # The limit is the process's: who lifts it must not lift it for another thread, nor keep another's for good.
        with _SOLVING, threadpool_limits(1, "blas"):
            return torch.from_numpy(np.linalg.solve(left.numpy(), right.numpy()[..., None]))[:, 0, 0]

    @cached_property
    def _reachable(self) -> Tensor:
        """Return the states that a session can be in, whatever is done, (R,); the first is its start."""
        reached = torch.zeros(len(self.states.user), dtype=torch.bool)
        reached[0], before = True, 0
        while int(reached.sum()) > before:
            before = int(reached.sum())
            for follow, _, goes_on in (self._clicked, self._ignored):
                reached[follow[(goes_on > 0) & reached]] = True
        return reached.nonzero().squeeze(1)

    def index(self, state: SessionState) -> Tensor:
        """Return the number of each session's state among the S, (N,)."""
        self.rules._check_state(state)
        if bool(((state.streak > 0).sum(1) > 1).any()):
            raise ValueError("state.streak: got clicks on several categories, expected on one at most")
        levels, needed = self.rules.settings.levels, self.rules.settings.clicks_needed
        categories = state.satiation.shape[1]
        places = levels ** torch.arange(categories - 1, -1, -1)
        satiation = (state.satiation * places).sum(1)
        # 0 for no click, then the clicks towards a reward in the first category, then in the second ...
        begun, most = state.streak.sum(1), needed - 1
        streak = torch.where(begun > 0, state.streak.argmax(1) * most + begun, 0)
        ignored = state.ignored.clamp(max=self.rules.settings.patience - 1)  # whoever left is in no state
        return (ignored * (1 + categories * most) + streak) * levels**categories + satiation

    @cached_property
    def _chance(self) -> Tensor:
        """Return the probability of a click, (U, A, S)."""
        appeal = self.rules.tastes[:, None] - self.rules.settings.satiation * self.states.satiation  # (U, S, C)
        chance = torch.einsum("ac,usc->uas", self.rules.surface.share, appeal).sigmoid()
        return torch.where(self.rules.surface.shows[:, None], chance, 0.0)

    def _all_states(self) -> SessionState:
        s, categories = self.rules.settings, len(self.rules.users.categories)
        count = s.levels**categories * s.patience * (1 + categories * (s.clicks_needed - 1))
        if count > _MOST_STATES:
            raise ValueError(f"settings: got {count:,} states, expected at most {_MOST_STATES:,}")
        satiation = torch.tensor(list(itertools.product(range(s.levels), repeat=categories)))
        none = torch.zeros(1, categories, dtype=torch.long)
        begun = [k * row for row in torch.eye(categories, dtype=torch.long) for k in range(1, s.clicks_needed)]
        streak = torch.cat([none, torch.stack(begun)]) if begun else none
        grid = torch.cartesian_prod(torch.arange(s.patience), torch.arange(len(streak)), torch.arange(len(satiation)))
        ignored, which, sated = grid.unbind(1)
        nil = torch.zeros(count, dtype=torch.long)
        return SessionState(nil, satiation[sated], streak[which], ignored, nil)

    def _what_follows(self, clicked: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return what actions in each state lead to: the next state, the reward, whether it goes on; (A, S) each."""
        nexts = []
        for action in range(len(self.rules.surface)):
            here = torch.full_like(self.states.user, action)
            hit = torch.full(here.shape, clicked) & self.rules.surface.shows[action]
            outcome = self.rules.advance(self.states, here, hit)
            nexts.append((self.index(outcome.state), outcome.reward, (~outcome.terminated).float()))
        return tuple(torch.stack(parts) for parts in zip(*nexts, strict=True))

    def _q(self, value: Tensor) -> Tensor:
        """Return the value of each action in each state, (U, A, S)."""
        worth = []
        for follow, reward, goes_on in (self._clicked, self._ignored):
            after = value.index_select(1, follow.flatten()).view(-1, *follow.shape)  # (U, A, S)
            worth.append(reward + self.discount * goes_on * after)
        return torch.lerp(worth[1], worth[0], self._chance.to(value.dtype))

    def _iterate(self, step: Callable[[Tensor], Tensor], tolerance: float = _TOLERANCE) -> Tensor:
        """Iterate until the fixed point is near: it is at most discount / (1 - discount) times the last move away."""
        short = (1 - self.discount) * tolerance  # the last move, of 1 and the largest value
        dtype = torch.float32 if short > 20 * torch.finfo(torch.float32).eps else torch.float64
        value = torch.zeros(len(self.rules.users), len(self.states.user), dtype=dtype)
        while True:
            after = step(value)
            moved, value = float((after - value).abs().max()), after
            if self.discount * moved <= short * (1 + float(value.abs().max())):
                return value.float()
