"""Many models as one: a whole grid of settings, times all its seeds, trained in a single stacked loop.

Small models leave a processor idle: most of a step is Python calling operations on tiny tensors. Here the
parameters of M models stand in one tensor each, with a leading dimension of M, `torch.vmap` runs the objective
over that dimension, and one fused Adam updates all of them. Models do not meet: the gradient of the summed
losses with respect to one model's parameters is the gradient of its own loss.
"""

import ctypes
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from recmtl_lessons.training.device import default_device

Batch = dict[str, dict[str, Tensor]]
Objective = Callable[[nn.Module, Batch, dict[str, Tensor], float], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Moment:
    """Where a training stands: ``step`` of ``steps`` done."""

    step: int
    steps: int


class _Doer(nn.Module):
    """Lets `functional_call`, which only knows ``forward``, run any function of the wrapped model."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, function: Callable, *arguments):
        return function(self.model, *arguments)


class ManyModels:
    """A grid of settings times seeds, as one stack of models.

    Model number ``i`` has setting ``i // n_seeds`` and seed ``i % n_seeds``. Models of one seed start from the
    same parameters and see the same batches whatever their setting, so that their differences are paired.

    Parameters
    ----------
    build : callable () -> nn.Module
        Makes one model; called once a seed, with torch's generator set to that seed.
    objective : callable (model, batch, setting, progress) -> (loss, {name: value})
        Written for one model, in operations that `torch.vmap` knows. ``batch[stream][field]`` has shape
        (batch_size, ...); ``setting`` holds one scalar tensor a name; ``progress`` is a float in [0, 1).
        The second answer is what to keep in the history, scalars.
    data : mapping {stream: {field: Tensor (n_seeds, n_rows, ...)}}
        The fields of a stream are drawn together. Use ``tensor.expand(n_seeds, ...)`` where seeds share data.
    settings : mapping {name: values} or sequence of mappings
        A mapping is a grid (all combinations, the last name fastest); a sequence is taken as it is.
    seeds : sequence of int
        One model of every setting is trained from each.
    batch_size : int
        Rows drawn from each stream at a step, uniformly and with replacement.
    learning_rate : float or mapping {prefix: float}
        Adam's. A mapping gives the parameters whose name starts with a prefix a rate of their own; ``""`` is
        the rate of all others.
    betas : (float, float)
        Adam's decay rates.
    device : torch.device, optional
        `default_device` unless given.

    Attributes
    ----------
    settings : tuple of dict
        One a model.
    seeds : tuple of int
        One a model.
    history : dict {name: Tensor (n_models, moments)}
        What the objective and ``measure`` reported, with the step of each column in ``history_steps``.

    Raises
    ------
    ValueError
        If data, settings or seeds do not fit together, or the data hold values that are not finite.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        objective: Objective,
        data: Mapping[str, Mapping[str, Tensor]],
        settings: Mapping[str, Sequence[float]] | Sequence[Mapping[str, float]],
        seeds: Sequence[int],
        batch_size: int = 128,
        learning_rate: float | Mapping[str, float] = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        device: torch.device | None = None,
    ):
        grid = _grid(settings)
        _check(data, grid, seeds, batch_size)
        _keep_freed_memory()
        self.device = device or default_device()
        self.n_settings, self.n_seeds = len(grid), len(seeds)
        self.settings = tuple(setting for setting in grid for _ in seeds)
        self.seeds = tuple(seeds) * len(grid)
        self.batch_size = batch_size
        self._objective = objective
        self._data = {s: {f: t.to(self.device) for f, t in fields.items()} for s, fields in data.items()}
        self._setting = {
            name: torch.tensor([float(s[name]) for s in self.settings], device=self.device) for name in grid[0]
        }
        one_a_seed = [_build_from(seed, build) for seed in seeds]
        self._skeleton = _Doer(deepcopy(one_a_seed[0]).to("meta"))
        stack = [_Doer(m).to(self.device) for m in one_a_seed]
        parameters, buffers = stack_module_state(stack)  # (n_seeds, ...)
        self._parameters = {k: self._over_settings(v).requires_grad_() for k, v in parameters.items()}
        self._buffers = {k: self._over_settings(v) for k, v in buffers.items()}
        groups = _rate_groups(self._parameters, learning_rate)
        self._optimizer = torch.optim.Adam(groups, betas=betas, fused=True)
        self._columns: list[dict[str, Tensor]] = []
        self.history_steps: list[int] = []

    def __len__(self) -> int:
        return len(self.settings)

    def train(
        self,
        steps: int,
        every: int = 20,
        measure: Callable[["ManyModels"], Mapping[str, Tensor]] | None = None,
    ) -> Iterator[Moment]:
        """Train step by step; leave the loop, or close the iterator, to stop between two steps.

        Parameters
        ----------
        steps : int
            Adam updates, each on a fresh batch.
        every : int
            The history gets a column, and the caller a `Moment`, each ``every`` steps and at the end.
        measure : callable (ManyModels) -> {name: Tensor (n_models,)}, optional
            Further columns, for instance a score on held-out rows.

        Yields
        ------
        Moment
        """
        rows = self._draw_rows(steps)
        for step in range(1, steps + 1):
            batch = self._batch(rows, step - 1)
            loss, logs = self._forward(batch, progress=(step - 1) / steps)
            self._optimizer.zero_grad()
            loss.sum().backward()
            self._optimizer.step()
            if step % every == 0 or step == steps:
                column = {"loss": loss, **logs, **(measure(self) if measure else {})}
                self._columns.append({name: value.detach().cpu() for name, value in column.items()})
                self.history_steps.append(step)
                yield Moment(step, steps)

    def fit(self, steps: int, label: str = "training", **options) -> "ManyModels":
        """Train to the end with a progress bar; ``options`` as in `train`. Returns the stack itself."""
        from tqdm.auto import tqdm

        with tqdm(total=steps, desc=f"{label}: {len(self)} models", unit="step", file=sys.stdout) as bar:
            for moment in self.train(steps, **options):
                bar.update(moment.step - bar.n)
        return self

    @property
    def history(self) -> dict[str, Tensor]:
        """The columns kept so far, each (n_models, moments)."""
        names = self._columns[0] if self._columns else {}
        return {name: torch.stack([column[name] for column in self._columns], dim=1) for name in names}

    @torch.no_grad()
    def each(self, function: Callable, *arguments: Tensor) -> Tensor:
        """Run ``function(model, *arguments)`` for every model, without dropout and without gradients.

        Parameters
        ----------
        function : callable
            Written for one model, for instance ``lambda model, x: model.encode(x)``.
        *arguments : Tensor, (n_seeds, ...)
            One row a seed; models of one seed share it.

        Returns
        -------
        Tensor, (n_models, ...)
        """
        spread = [self._over_settings(a.to(self.device)) for a in arguments]
        self._skeleton.eval()
        try:
            return self._vmap(function)(self._parameters, self._buffers, *spread)
        finally:
            self._skeleton.train()

    def by_setting(self, values: Tensor) -> Tensor:
        """View (n_models, ...) as (n_settings, n_seeds, ...)."""
        return values.reshape(self.n_settings, self.n_seeds, *values.shape[1:])

    def model(self, index: int) -> nn.Module:
        """One model of the stack as an ordinary module, on the CPU, in evaluation mode."""
        state = {**self._parameters, **self._buffers}
        doer = deepcopy(self._skeleton).to_empty(device="cpu")
        doer.load_state_dict({k: v[index].detach() for k, v in state.items()}, strict=False)
        return doer.model.eval()

    def draw_batches(self, seed_number: int, steps: int) -> Iterator[Batch]:
        """The batches that models of one seed see in their first ``steps`` steps, one after another."""
        rows = self._draw_rows(steps)
        for step in range(steps):
            yield {
                stream: {f: t[seed_number, rows[stream][seed_number, step]] for f, t in fields.items()}
                for stream, fields in self._data.items()
            }

    def _forward(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        def objective(model, batch, setting):
            return self._objective(model, batch, setting, progress)

        return self._vmap(objective)(self._parameters, self._buffers, batch, self._setting)

    def _vmap(self, function: Callable) -> Callable:
        def one(parameters, buffers, *arguments):
            return functional_call(self._skeleton, (parameters, buffers), (function, *arguments))

        return torch.vmap(one, randomness="different")

    def _draw_rows(self, steps: int) -> dict[str, Tensor]:
        """Row numbers of every batch, (n_seeds, steps, batch_size) a stream; they depend on the seed alone."""
        rows = {}
        for number, (stream, fields) in enumerate(self._data.items()):
            n_rows = next(iter(fields.values())).shape[1]
            drawn = []
            for seed in self.seeds[: self.n_seeds]:
                generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + number)
                drawn.append(torch.randint(n_rows, (steps, self.batch_size), generator=generator))
            rows[stream] = torch.stack(drawn).to(self.device)
        return rows

    def _batch(self, rows: dict[str, Tensor], step: int) -> Batch:
        seed = torch.arange(self.n_seeds, device=self.device)[:, None]
        return {
            stream: {f: self._over_settings(t[seed, rows[stream][:, step]]) for f, t in fields.items()}
            for stream, fields in self._data.items()
        }

    def _over_settings(self, values: Tensor) -> Tensor:
        """(n_seeds, ...) -> (n_models, ...): every setting gets its own copy."""
        if self.n_settings == 1:
            return values.detach()
        return values.detach().expand(self.n_settings, *values.shape).flatten(0, 1)


def _grid(settings) -> list[dict[str, float]]:
    if isinstance(settings, Mapping):
        names, values = list(settings), [tuple(v) for v in settings.values()]
        return [dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*values)]
    return [dict(setting) for setting in settings]


def _check(data, grid, seeds, batch_size) -> None:
    if not grid or any(set(setting) != set(grid[0]) for setting in grid):
        raise ValueError(f"settings: got {grid!r}, expected at least one, all with the same names")
    if not len(seeds) or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds: got {tuple(seeds)}, expected at least one and no repetition")
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, expected at least 1")
    if not data:
        raise ValueError("data: got no stream, expected at least one")
    for stream, fields in data.items():
        shapes = {name: tuple(tensor.shape) for name, tensor in fields.items()}
        if len({shape[:2] for shape in shapes.values()}) != 1 or next(iter(shapes.values()))[0] != len(seeds):
            raise ValueError(
                f"data[{stream!r}]: got shapes {shapes}, expected (n_seeds={len(seeds)}, n_rows, ...), "
                "with the same n_rows in all fields"
            )
        if next(iter(shapes.values()))[1] == 0:
            raise ValueError(f"data[{stream!r}]: got no rows, expected at least one")
        for name, tensor in fields.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"data[{stream!r}][{name!r}]: got NaN or infinite values, expected numbers")


def _rate_groups(parameters: Mapping[str, Tensor], learning_rate: float | Mapping[str, float]) -> list[dict]:
    rates = learning_rate if isinstance(learning_rate, Mapping) else {"": learning_rate}
    groups: dict[str, list[Tensor]] = {prefix: [] for prefix in rates}
    for name, parameter in parameters.items():
        own = name.removeprefix("model.")
        prefix = max((p for p in rates if own.startswith(p)), key=len, default=None)
        if prefix is None:
            raise ValueError(f"learning_rate: no rate for parameter {own!r}, expected one under the name ''")
        groups[prefix].append(parameter)
    for prefix, members in groups.items():
        if not members:
            raise ValueError(f"learning_rate: no parameter's name starts with {prefix!r}")
    return [{"params": members, "lr": rates[prefix]} for prefix, members in groups.items()]


def _build_from(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().train()


def _keep_freed_memory() -> None:
    """Ask the C library to keep freed blocks: fetching them anew costs a stacked step a fifth."""
    if sys.platform == "linux":
        c_library = ctypes.CDLL(None)
        if hasattr(c_library, "mallopt"):
            trim_threshold, mmap_threshold = -1, -3
            c_library.mallopt(mmap_threshold, 32 << 20)  # the largest it accepts
            c_library.mallopt(trim_threshold, 1 << 30)
