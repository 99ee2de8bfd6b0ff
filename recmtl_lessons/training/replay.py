"""Replay: steps of sessions, kept for later, drawn again at random, for many models side by side.

Sources: Mnih et al., "Human-level control through deep reinforcement learning", Nature 2015 (uniform replay); Schaul,
Quan, Antonoglou, Silver, "Prioritized experience replay", ICLR 2016.

Departures: each of a stack of models has a memory of its own, and all are written, drawn from and updated in one
operation. Priorities stand in a plain tensor, and each draw reads all of them: O(N) where the paper's tree of sums is
O(log N). At the sizes of a lesson, 1e4 to 1e5 steps, one pass over a tensor is quicker than a walk in Python. Draws are
independent, not one from each of equal parts of the whole.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from recmtl_lessons.models._checks import check_count, check_dense, check_finite, check_number, check_positive
from recmtl_lessons.training._rows import pick_rows

_RESERVED = ("rows", "weights")
_MOST_CATEGORIES = 2**24  # torch.multinomial's


class ReplayBuffer:
    """The last ``capacity`` steps of each of a stack of models.

    The first `add` settles the fields: their names, shapes, dtypes and device.

    Parameters
    ----------
    capacity : int
        Steps kept for each model; then a new one takes the place of the oldest.
    stacks : int
        Models side by side.

    Raises
    ------
    ValueError
        If an argument is not an integer of at least 1.
    """

    def __init__(self, capacity: int, stacks: int = 1):
        check_count("capacity", capacity)
        check_count("stacks", stacks)
        self.capacity, self.stacks = capacity, stacks
        self._store: dict[str, Tensor] = {}
        self._next, self._size = 0, 0

    def __len__(self) -> int:
        """Steps kept for each model."""
        return self._size

    def add(self, **fields: Tensor) -> None:
        """Keep n steps of every model, the latest last.

        Parameters
        ----------
        **fields : Tensor, (stacks, n, ...)
            For instance ``state``, ``action``, ``reward``, ``next_state``, ``terminated``. Copied, without gradients.
            Of more than ``capacity`` steps the last are kept.

        Raises
        ------
        ValueError
            If the fields differ from those of the first call, their shapes do not fit, there is no step, or a value is
            not finite. Nothing has changed then.
        """
        self._write(fields)

    def sample(self, batch_size: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw steps uniformly and with replacement, each model its own.

        Parameters
        ----------
        batch_size : int
            Steps drawn for each model.
        generator : torch.Generator, optional
            Torch's own if not given. Its device may be another than that of the fields.

        Returns
        -------
        dict {field: Tensor (stacks, batch_size, ...)}

        Raises
        ------
        ValueError
            If ``batch_size`` is not an integer of at least 1, ``generator`` is something else, or nothing has been
            added.
        """
        self._check_draw(batch_size, generator)
        where = self._device if generator is None else generator.device
        rows = torch.randint(self._size, (self.stacks, batch_size), generator=generator, device=where)
        return self._read(rows.to(self._device))

    @property
    def _device(self) -> torch.device:
        return next(iter(self._store.values())).device

    def _read(self, rows: Tensor) -> dict[str, Tensor]:
        """The steps in some rows, (stacks, batch) -> {field: (stacks, batch, ...)}."""
        return pick_rows(self._store, rows, self.stacks)

    def _write(self, fields: dict[str, Tensor]) -> Tensor:
        """Keep the steps, and return the rows in which they stand, (kept,), the same for all models."""
        steps = self._check_fields(fields)
        kept = min(steps, self.capacity)
        if not self._store:
            self._store = {
                name: value.new_zeros((self.stacks, self.capacity, *value.shape[2:])) for name, value in fields.items()
            }
        places = torch.arange(self._next + steps - kept, self._next + steps, device=self._device) % self.capacity
        for name, value in fields.items():
            self._store[name].index_copy_(1, places, value.detach()[:, steps - kept :])
        self._next = (self._next + steps) % self.capacity
        self._size = min(self._size + steps, self.capacity)
        return places

    # What comes in.

    def _check_fields(self, fields: dict[str, Tensor]) -> int:
        """Refuse fields that do not fit each other or those kept; return the number of steps."""
        expected = tuple(self._store) if self._store else ()
        if not fields or (expected and set(fields) != set(expected)):
            wanted = f"exactly {_listed(expected)}" if expected else "at least one"
            raise ValueError(f"fields: got {_listed(fields) or 'none'}, expected {wanted}")
        steps = None
        for name, value in fields.items():
            if name in _RESERVED:
                raise ValueError(f"fields: got the name {name!r}, expected another than {_listed(_RESERVED)}")
            self._check_field(name, value, steps)
            steps = value.shape[1]
        if len({value.device for value in fields.values()}) > 1:
            devices = {name: str(value.device) for name, value in fields.items()}
            raise ValueError(f"fields: got tensors on {devices}, expected one device")
        return steps

    def _check_field(self, name: str, value: Tensor, steps: int | None) -> None:
        kept = self._store.get(name)
        rest = "..." if kept is None else ", ".join(map(str, kept.shape[2:]))
        wanted = f"({self.stacks}, {'n' if steps is None else steps}{', ' if rest else ''}{rest})"
        if not isinstance(value, Tensor):
            raise ValueError(f"{name}: got {type(value).__name__}, expected a tensor {wanted}")
        check_dense(name, value)
        fits = value.ndim >= 2 and value.shape[0] == self.stacks and value.shape[1] == (steps or value.shape[1])
        if not fits or 0 in value.shape or (kept is not None and value.shape[2:] != kept.shape[2:]):
            raise ValueError(f"{name}: got shape {tuple(value.shape)}, expected {wanted} with at least one step")
        if kept is not None and (value.dtype, value.device) != (kept.dtype, kept.device):
            came = f"{value.dtype} on {value.device}"
            raise ValueError(f"{name}: got {came}, expected {kept.dtype} on {kept.device}, as at first")
        check_finite(name, value)

    def _check_draw(self, batch_size: int, generator: torch.Generator | None = None) -> None:
        check_count("batch_size", batch_size)
        if not isinstance(generator, torch.Generator | None):
            raise ValueError(f"generator: got {generator!r}, expected a torch.Generator or None")
        if not self._size:
            raise ValueError("sample: got an empty buffer, expected at least one step added")


class PrioritisedReplayBuffer(ReplayBuffer):
    r"""A buffer that draws a step the more often, the further its Q-value was from its target.

    With priority :math:`p_i = |\delta_i| + \epsilon`, of N steps step i is drawn with probability, and its loss
    weighed by,

    .. math:: P_i = \frac{p_i^\alpha}{\sum_k p_k^\alpha}, \qquad
              w_i = \frac{(N P_i)^{-\beta}}{\max_k (N P_k)^{-\beta}}.

    The maximum is over all that the model's memory holds, not over the batch, so that one step's weight does not depend
    on the others drawn with it. A step that has just been added gets the highest priority there is.

    Parameters
    ----------
    capacity, stacks : int
        As in `ReplayBuffer`; at most 2^24 steps.
    alpha : float
        In [0, 1]: 0 draws uniformly, 1 in proportion to the priority.
    beta : float
        In [0, 1]: 1 corrects the loss for the drawing entirely, 0 not at all.
    epsilon : float
        More than 0; in the unit of the TD errors. Keeps a step without error from never being drawn again.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    References
    ----------
    Schaul et al. (2016), sections 3.3 (proportional variant) and 3.4, algorithm 1. The defaults of alpha and beta are
    those chosen there for that variant; there, beta grows to 1 in the course of training.
    """

    def __init__(self, capacity: int, stacks: int = 1, alpha: float = 0.6, beta: float = 0.4, epsilon: float = 1e-6):
        check_count("capacity", capacity, most=_MOST_CATEGORIES)
        super().__init__(capacity, stacks)
        check_number("alpha", alpha, 0, 1)
        check_number("beta", beta, 0, 1)
        check_positive("epsilon", epsilon)
        self.alpha, self.beta, self.epsilon = float(alpha), float(beta), float(epsilon)
        self._priorities: Tensor | None = None  # (stacks, capacity); 0 where nothing stands yet

    def add(self, **fields: Tensor) -> None:
        """Keep n steps of every model, as `ReplayBuffer.add`; each gets the highest priority of its model's steps."""
        places = self._write(fields)
        if self._priorities is None:
            self._priorities = torch.zeros(self.stacks, self.capacity, device=self._device)
            highest = torch.ones(self.stacks, 1, device=self._device)
        else:
            highest = self._priorities.amax(dim=1, keepdim=True)  # (stacks, 1)
        self._priorities[:, places] = highest.expand(-1, len(places))

    def probabilities(self) -> Tensor:
        """P, with which each step is drawn: (stacks, len(buffer)), rows sum to 1."""
        self._check_draw(1)
        priorities = self._priorities[:, : self._size]
        powers = (priorities / priorities.amax(dim=1, keepdim=True)) ** self.alpha  # at most 1: no sum can overflow
        return powers / powers.sum(dim=1, keepdim=True)

    def sample(
        self, batch_size: int, generator: torch.Generator | None = None, beta: float | None = None
    ) -> dict[str, Tensor]:
        """Draw steps by their priorities, with replacement, each model its own.

        Parameters
        ----------
        batch_size, generator
            As in `ReplayBuffer.sample`.
        beta : float, optional
            The buffer's own if not given.

        Returns
        -------
        dict {field: Tensor (stacks, batch_size, ...)}
            Beside the fields ``rows``, where the steps stand, for `update_priorities`; and ``weights``, w in (0, 1],
            for the loss. Both are (stacks, batch_size).

        Raises
        ------
        ValueError
            As `ReplayBuffer.sample`, and if ``beta`` is not in [0, 1].
        """
        self._check_draw(batch_size, generator)
        beta = self.beta if beta is None else beta
        check_number("beta", beta, 0, 1)
        chances = self.probabilities()  # (stacks, size)
        drawn_from = chances if generator is None else chances.to(generator.device)
        rows = torch.multinomial(drawn_from, batch_size, replacement=True, generator=generator).to(self._device)
        # N cancels, and so does the sum in P: what is left is the smallest P over the step's own.
        weights = (chances.amin(dim=1, keepdim=True) / chances.gather(1, rows)) ** float(beta)  # (stacks, batch)
        return {**self._read(rows), "rows": rows, "weights": weights}

    def update_priorities(self, rows: Tensor, td_errors: Tensor) -> None:
        """Give steps the priority of their latest TD errors.

        Parameters
        ----------
        rows : Tensor, (stacks, batch), int64
            As drawn by `sample`. Of a step that was drawn twice, the larger error counts.
        td_errors : Tensor, (stacks, batch)
            Their sign does not matter.

        Raises
        ------
        ValueError
            If the shapes do not fit, a row holds no step, or an error is not finite. Nothing has changed then.
        """
        self._check_rows(rows)
        if not isinstance(td_errors, Tensor) or td_errors.shape != rows.shape or not td_errors.is_floating_point():
            raise ValueError(f"td_errors: got {_kind(td_errors)}, expected a float tensor {tuple(rows.shape)}")
        check_dense("td_errors", td_errors)
        check_finite("td_errors", td_errors)
        priorities = td_errors.detach().abs().to(self._priorities) + self.epsilon
        check_finite("td_errors", priorities, f"numbers that {priorities.dtype} holds")
        self._priorities.scatter_reduce_(1, rows, priorities, "amax", include_self=False)

    def _check_rows(self, rows: Tensor) -> None:
        fits = isinstance(rows, Tensor) and rows.dtype == torch.int64
        if not fits or rows.ndim != 2 or rows.shape[0] != self.stacks or 0 in rows.shape:
            raise ValueError(f"rows: got {_kind(rows)}, expected torch.int64 ({self.stacks}, batch), as drawn")
        if not self._size or not bool(((rows >= 0) & (rows < self._size)).all()):
            last = self._size - 1
            raise ValueError(f"rows: got {int(rows.min())} to {int(rows.max())}, expected 0 to {last}, those kept")


def _kind(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
