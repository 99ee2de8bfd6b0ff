"""Replay: what was seen, kept for later, for many models side by side: the last steps, or a fair sample of all rows.

Source: Mnih et al., "Human-level control through deep reinforcement learning", Nature 2015.

Departure: each of a stack of models has a memory of its own, and all are written and drawn from in one operation.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from recmtl_lessons.models._checks import check_count, check_dense, check_finite
from recmtl_lessons.training._rows import pick_rows


class ReplayBuffer:
    """The last ``capacity`` steps of each of a stack of models.

    The first `add` settles the fields: their names, shapes, dtypes and device.

    Parameters
    ----------
    capacity : int
        Steps kept for each model; then a new one takes the place of the oldest.
    stacks : int
        Models side by side.
    """

    def __init__(self, capacity: int, stacks: int = 1):
        check_count("capacity", capacity)
        check_count("stacks", stacks)
        self.capacity, self.stacks = capacity, stacks
        self._store: dict[str, Tensor] = {}
        self._next, self._size = 0, 0

    def __len__(self) -> int:
        """Return how many steps are kept for each model."""
        return self._size

    def add(self, **fields: Tensor) -> None:
        """Keep n steps of every model, the latest last.

        Parameters
        ----------
        **fields : Tensor, (stacks, n, ...)
            For instance ``state``, ``action``, ``reward``, ``next_state``, ``terminated``. Copied, without gradients.
            Of more than ``capacity`` steps the last are kept.
        """
        steps = check_fields(fields, self._store, self.stacks)
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
        """
        check_count("batch_size", batch_size)
        if not isinstance(generator, torch.Generator | None):
            raise ValueError(f"generator: got {generator!r}, expected a torch.Generator or None")
        if not self._size:
            raise ValueError("sample: got an empty buffer, expected at least one step added")
        where = self._device if generator is None else generator.device
        rows = torch.randint(self._size, (self.stacks, batch_size), generator=generator, device=where)
        return pick_rows(self._store, rows.to(self._device), self.stacks)

    @property
    def _device(self) -> torch.device:
        return next(iter(self._store.values())).device


class ReservoirBuffer:
    """Rows of a stream whose length nobody knows, each kept with the same probability, for each of a stack of models.

    Row number t of the stream takes a random place among the first t; if that is one of the ``capacity`` places, it is
    kept, and what stood there is forgotten. After N rows each has been kept with probability capacity / N.

    Parameters
    ----------
    capacity : int
        Rows kept for each model.
    stacks : int
        Models side by side; each chooses for itself.

    References
    ----------
    Vitter, "Random sampling with a reservoir", ACM Transactions on Mathematical Software 11 (1985), algorithm R.
    """

    def __init__(self, capacity: int, stacks: int = 1):
        check_count("capacity", capacity)
        check_count("stacks", stacks)
        self.capacity, self.stacks, self.seen = capacity, stacks, 0
        self._store: dict[str, Tensor] = {}

    def __len__(self) -> int:
        """Return how many rows are kept for each model."""
        return min(self.seen, self.capacity)

    def add(self, generator: torch.Generator | None = None, **fields: Tensor) -> None:
        """Offer n rows of every model, one after another.

        Parameters
        ----------
        generator : torch.Generator, optional
            On the CPU; torch's own if not given.
        **fields : Tensor, (stacks, n, ...)
            The first call settles their names, shapes, dtypes and device.
        """
        if not isinstance(generator, torch.Generator | None):
            raise ValueError(f"generator: got {generator!r}, expected a torch.Generator or None")
        n = check_fields(fields, self._store, self.stacks)
        device = next(iter(fields.values())).device
        ages = torch.arange(self.seen, self.seen + n)  # rows before each one
        chance = torch.rand(self.stacks, n, generator=generator, dtype=torch.float64)
        places = (chance * (ages + 1)).long().minimum(ages)  # uniform among the first places
        places = torch.where(ages < self.capacity, ages, places)  # the first ones fill it up
        # Of several that take a place the last stays.
        latest = torch.full((self.stacks, self.capacity + 1), -1)
        order = torch.arange(n).expand(self.stacks, n)
        latest.scatter_reduce_(1, places.clamp(max=self.capacity), order, "amax")
        latest = latest[:, : self.capacity].to(device)
        for name, value in fields.items():
            value = value.detach()
            old = self._store.get(name, value.new_zeros((self.stacks, self.capacity, *value.shape[2:])))
            there = latest.view(*latest.shape, *[1] * (value.ndim - 2))
            taken = value.gather(1, there.clamp(min=0).expand(*latest.shape, *value.shape[2:]))
            self._store[name] = torch.where(there >= 0, taken, old)
        self.seen += n

    def rows(self) -> dict[str, Tensor]:
        """Return what is kept: {field: Tensor (stacks, len(self), ...)}."""
        return {name: values[:, : len(self)] for name, values in self._store.items()}


# What comes in.


def check_fields(fields: Mapping[str, Tensor], kept: Mapping[str, Tensor], stacks: int) -> int:
    """Refuse fields (stacks, n, ...) that do not fit each other or those kept; return n."""
    if not fields or (kept and set(fields) != set(kept)):
        wanted = f"exactly {_listed(kept)}" if kept else "at least one"
        raise ValueError(f"fields: got {_listed(fields) or 'none'}, expected {wanted}")
    steps = None
    for name, value in fields.items():
        _check_field(name, value, kept.get(name), stacks, steps)
        steps = value.shape[1]
    if len({value.device for value in fields.values()}) > 1:
        devices = {name: str(value.device) for name, value in fields.items()}
        raise ValueError(f"fields: got tensors on {devices}, expected one device")
    return steps


def _check_field(name: str, value: Tensor, kept: Tensor | None, stacks: int, steps: int | None) -> None:
    rest = "..." if kept is None else ", ".join(map(str, kept.shape[2:]))
    wanted = f"({stacks}, {'n' if steps is None else steps}{', ' if rest else ''}{rest})"
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}: got {type(value).__name__}, expected a tensor {wanted}")
    check_dense(name, value)
    fits = value.ndim >= 2 and value.shape[0] == stacks and value.shape[1] == (steps or value.shape[1])
    if not fits or 0 in value.shape or (kept is not None and value.shape[2:] != kept.shape[2:]):
        raise ValueError(f"{name}: got shape {tuple(value.shape)}, expected {wanted} with at least one step")
    if kept is not None and (value.dtype, value.device) != (kept.dtype, kept.device):
        came = f"{value.dtype} on {value.device}"
        raise ValueError(f"{name}: got {came}, expected {kept.dtype} on {kept.device}, as at first")
    check_finite(name, value)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
