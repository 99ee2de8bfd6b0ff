"""Many models as one: a whole grid of settings, times all its seeds, trained in a single stacked loop.

Small models leave a processor idle: most of a step is Python calling operations on tiny tensors. Here the
parameters of M models stand in one tensor each, with a leading dimension of M, `torch.vmap` runs the objective
over that dimension, and one optimizer (a fused Adam, or plain gradient descent) updates all of them. Models do not
meet: the gradient of the summed losses with respect to one model's parameters is the gradient of its own loss.
"""

import ctypes
import itertools
import math
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from recmtl_lessons.training._checks import check_count, check_fraction
from recmtl_lessons.training._optimizers import Adam, GradientDescent
from recmtl_lessons.training._rows import laid_out, pick_rows
from recmtl_lessons.training.device import default_device, settle_threads
from recmtl_lessons.training.jobs import stop_if_told
from recmtl_lessons.training.progress import Moment, with_bar

Batch = dict[str, dict[str, Tensor]]
Objective = Callable[[nn.Module, Batch, dict[str, Tensor], float], tuple[Tensor, dict[str, Tensor]]]


# Torch has one generator for all threads: whoever seeds it must have it to themselves until it is put back.
_SEEDING = threading.Lock()


class _Doer(nn.Module):
    """Lets `functional_call`, which only knows ``forward``, run any function of the wrapped model."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, function: Callable, *arguments):
        return function(self.model, *arguments)


class Stack:
    """Models side by side, a grid of settings times seeds, with one optimizer for all.

    Model number ``i`` has setting ``i // n_seeds`` and seed ``i % n_seeds``. Models of one seed start from the same
    parameters whatever their setting.

    Parameters
    ----------
    build : callable () -> nn.Module
        Makes one model; called once a seed, with torch's generator set to that seed.
    settings : mapping {name: values} or sequence of mappings
        A mapping is a grid (all combinations, the last name fastest); a sequence is taken as it is.
    seeds : sequence of int
    learning_rate : float or mapping {prefix: float}
        The optimizer's. A mapping gives the parameters whose name starts with a prefix a rate of their own; ``""`` is
        the rate of all others.
    betas : (float, float)
        Adam's decay rates.
    device : torch.device, optional
        `default_device` unless given.
    optimizer : {"adam", "sgd"}
        "sgd" is plain gradient descent, without momentum.
    clip : float, optional
        The largest norm of a model's gradient, over all its parameters; longer ones are shortened. None unless given.

    Attributes
    ----------
    settings : tuple of dict
        One a model.
    seeds : tuple of int
        One a model.

    Raises
    ------
    ValueError
        If settings or seeds do not fit.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        settings: Mapping[str, Sequence[float]] | Sequence[Mapping[str, float]],
        seeds: Sequence[int],
        learning_rate: float | Mapping[str, float] = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        device: torch.device | None = None,
        optimizer: str = "adam",
        clip: float | None = None,
    ):
        if optimizer not in ("adam", "sgd"):
            raise ValueError(f"optimizer: got {optimizer!r}, expected 'adam' or 'sgd'")
        if clip is not None and not 0 < clip < math.inf:
            raise ValueError(f"clip: got {clip!r}, expected a positive number or None")
        grid = _grid(settings)
        _check_grid(grid, seeds)
        _keep_freed_memory()
        settle_threads()
        self.device = device or self._usual_device()
        self.n_settings, self.n_seeds = len(grid), len(seeds)
        self.settings = tuple(setting for setting in grid for _ in seeds)
        self.seeds = tuple(seeds) * len(grid)
        self._setting = {
            name: torch.tensor([float(s[name]) for s in self.settings], device=self.device) for name in grid[0]
        }
        one_a_seed = [_build_from(seed, build) for seed in seeds]
        self._skeleton = _Doer(deepcopy(one_a_seed[0]))
        self._judged = deepcopy(self._skeleton).eval()  # to switch one back and forth takes a tenth of a short call
        self._ties = _ties_weights(self._skeleton)
        stack = [_Doer(m).to(self.device) for m in one_a_seed]
        parameters, buffers = stack_module_state(stack)  # (n_seeds, ...)
        self._parameters = {k: self._over_settings(v).requires_grad_() for k, v in parameters.items()}
        self._buffers = {k: self._over_settings(v) for k, v in buffers.items()}
        groups = _rate_groups(self._parameters, learning_rate)
        self._optimizer = Adam(groups, betas) if optimizer == "adam" else GradientDescent(groups)
        self._clip = clip
        self._done = 0
        self._draws = False  # whether an objective has drawn, as dropout does: then torch's generator is needed
        self._alone = threading.RLock()  # held by whoever puts parameters into the skeleton; taken after _SEEDING

    @staticmethod
    def _usual_device() -> torch.device:
        """Where models live unless a device is given."""
        return default_device()

    def __len__(self) -> int:
        return len(self.settings)

    def setting(self, name: str, default: float | None = None) -> Tensor:
        """What the models have for a setting, (n_models,).

        Parameters
        ----------
        name : str
        default : float, optional
            What they have where no setting has this name.

        Raises
        ------
        ValueError
            If no setting has this name, and there is no default.
        """
        if name in self._setting:
            return self._setting[name]
        if default is None:
            raise ValueError(f"name: got {name!r}, expected one of {', '.join(map(repr, self._setting))}")
        return torch.full((len(self),), float(default), device=self.device)

    def update(self, objective: Callable, batch: object) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of the optimizer on every model's own batch.

        Parameters
        ----------
        objective : callable (model, batch, setting) -> (loss, {name: value})
            Written for one model, in operations that `torch.vmap` knows; ``setting`` holds one scalar tensor a name.
        batch : nested dicts of Tensor (n_models, ...)

        Returns
        -------
        loss : Tensor, (n_models,)
        logs : dict {name: Tensor (n_models, ...)}
            Both from before the step.

        Raises
        ------
        ValueError
            If something in the batch is no tensor with one row a model. Nothing has changed then.
        """
        stop_if_told()
        loss, logs = self.evaluate(objective, batch)
        self._optimizer.zero_grad()
        loss.sum().backward()
        if self._clip is not None:
            self._shorten_gradients()
        self._optimizer.step()
        self._done += 1
        return loss.detach(), {name: value.detach() for name, value in logs.items()}

    def evaluate(self, objective: Callable, batch: object) -> tuple[Tensor, dict[str, Tensor]]:
        """As `update`, but without a step: every model's loss and what it reports, in training mode."""
        with self._rows_checked({"batch": batch}):
            if not self._draws:
                buffers = {name: value.clone() for name, value in self._buffers.items()}  # lest a failed try moves them
                try:
                    with self._alone:
                        found = self._vmap(objective, "error")(self._parameters, buffers, batch, self._setting)
                except RuntimeError:
                    self._draws = True  # so it seems, and if it was another error, it comes again
                else:
                    self._buffers = buffers
                    return found
            with self._own_randomness(), self._alone:
                return self._vmap(objective, "different")(self._parameters, self._buffers, batch, self._setting)

    def gradients(self, objective: Callable, batch: object) -> dict[str, Tensor]:
        """Gradient of every model's loss, without a step: {parameter: Tensor (n_models, ...)}.

        Parameters
        ----------
        objective, batch
            As in `update`.
        """
        loss, _ = self.evaluate(objective, batch)
        names, values = zip(*self._parameters.items(), strict=True)
        found = torch.autograd.grad(loss.sum(), values, allow_unused=True)
        return {
            name.removeprefix("model."): torch.zeros_like(value) if gradient is None else gradient
            for name, value, gradient in zip(names, values, found, strict=True)
        }

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

        Raises
        ------
        ValueError
            If an argument does not have one row a seed.
        """
        for number, argument in enumerate(arguments, start=1):
            if argument.shape[:1] != (self.n_seeds,):
                came = tuple(argument.shape)
                raise ValueError(f"argument {number}: got shape {came}, expected (n_seeds={self.n_seeds}, ...)")
        return self.each_own(function, *(self._over_settings(a.to(self.device)) for a in arguments))

    @torch.no_grad()
    def each_own(self, function: Callable, *arguments: object) -> object:
        """As `each`, but every model has arguments of its own: nested dicts of Tensor (n_models, ...).

        Raises
        ------
        ValueError
            If something in an argument is no tensor with one row a model.
        """
        named = {f"argument {number}": argument for number, argument in enumerate(arguments, start=1)}
        with self._alone, self._rows_checked(named):
            return self._vmap(function, "different", self._judged)(self._parameters, self._buffers, *arguments)

    def by_setting(self, values: Tensor) -> Tensor:
        """View (n_models, ...) as (n_settings, n_seeds, ...)."""
        return values.reshape(self.n_settings, self.n_seeds, *values.shape[1:])

    @torch.no_grad()
    def model(self, index: int) -> nn.Module:
        """One model of the stack as an ordinary module, on the CPU, in evaluation mode."""
        doer = deepcopy(self._skeleton)
        for name, parameter in doer.named_parameters():
            parameter.copy_(self._parameters[name][index])
        for name, buffer in doer.named_buffers():
            buffer.copy_(self._buffers[name][index])
        return doer.model.eval()

    @torch.no_grad()
    def copy_from(self, other: "Stack", tau: float = 1.0) -> None:
        """Move all parameters towards those of a stack of the same shape, as a target network's.

        Parameters
        ----------
        other : Stack
        tau : float
            In [0, 1]: the share of the way.

        Raises
        ------
        ValueError
            If ``tau`` is out of range, or the stacks differ in the number of models, or a parameter's name or shape.
            Nothing has changed then.
        """
        check_fraction("tau", tau)
        pairs = self._pairs(other)
        extra = [name.removeprefix("model.") for name in other._parameters if name not in self._parameters]
        if extra:
            raise ValueError(f"other: got {', '.join(map(repr, extra))} as well, expected no such parameters")
        for mine, theirs in pairs:
            mine.lerp_(theirs, tau)

    @torch.no_grad()
    def load(self, other: "Stack", prefix: str = "") -> None:
        """Take over the parameters of a stack with as many models.

        Parameters
        ----------
        other : Stack
        prefix : str
            What comes before each name there, such as ``"policy."`` where these models are a part of those.

        Raises
        ------
        ValueError
            If the other stack has not as many models, or lacks a parameter of this name and shape. Nothing has changed
            then.
        """
        for mine, theirs in self._pairs(other, prefix):
            mine.copy_(theirs)

    def _pairs(self, other: "Stack", prefix: str = "") -> list[tuple[Tensor, Tensor]]:
        """Each parameter beside the other stack's of the same name behind the prefix."""
        if not isinstance(other, Stack) or len(other) != len(self):
            came = f"{len(other)} models" if isinstance(other, Stack) else type(other).__name__
            raise ValueError(f"other: got {came}, expected a stack of {len(self)} models")
        pairs = []
        for name, mine in self._parameters.items():
            named = prefix + name.removeprefix("model.")
            theirs = other._parameters.get(f"model.{named}")
            if theirs is None or theirs.shape != mine.shape:
                came = "no parameter" if theirs is None else tuple(theirs.shape)
                raise ValueError(f"other: got {came} for {named!r}, expected one of shape {tuple(mine.shape)}")
            pairs.append((mine, theirs))
        return pairs

    def _shorten_gradients(self) -> None:
        """Bring each model's gradient to a norm of at most ``clip``; models do not meet."""
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        squares = sum(g.square().flatten(1).sum(1) for g in gradients)  # (n_models,)
        factor = (self._clip / (squares.sqrt() + 1e-12)).clamp(max=1.0)
        for g in gradients:
            g.mul_(factor.view(-1, *[1] * (g.ndim - 1)))

    def _vmap(self, function: Callable, randomness: str, skeleton: _Doer | None = None) -> Callable:
        skeleton = skeleton or self._skeleton

        def one(parameters, buffers, *arguments):
            # Looking for tied weights at every call takes a third of its time.
            return functional_call(skeleton, (parameters, buffers), (function, *arguments), tie_weights=self._ties)

        return torch.vmap(one, randomness=randomness)

    @contextmanager
    def _rows_checked(self, arguments: Mapping[str, object]) -> Iterator[None]:
        """Say which argument has not one row a model, where `torch.vmap` refuses the sizes.

        Looking at each tensor only then costs nothing where all is well.
        """
        try:
            yield
        except ValueError as error:
            for name, argument in arguments.items():
                for way, value in _leaves(name, argument):
                    if not isinstance(value, Tensor) or value.shape[:1] != (len(self),):
                        came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                        expected = f"a tensor (n_models={len(self)}, ...)"
                        raise ValueError(f"{way}: got {came}, expected {expected}") from error
            raise

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Let dropout and the like depend on the first seed, the step and the place in the stack, and on nothing else.

        The caller's generator is left as it was.
        """
        cuda = [self.device] if self.device.type == "cuda" else []
        seed = 1_000_003 * (self.seeds[0] + 1) + self._done
        with _SEEDING, torch.random.fork_rng(devices=cuda):
            torch.default_generator.manual_seed(seed)
            for device in cuda:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield

    def _over_settings(self, values: Tensor) -> Tensor:
        """(n_seeds, ...) -> (n_models, ...): every setting gets its own copy."""
        if self.n_settings == 1:
            return values.detach()
        # A single seed would stay a view, and all settings would share one model: contiguous() copies then.
        return values.detach().expand(self.n_settings, *values.shape).flatten(0, 1).contiguous()


class ManyModels(Stack):
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
    learning_rate, betas, device, optimizer
        As in `Stack`.

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
        optimizer: str = "adam",
    ):
        grid = _grid(settings)
        _check_grid(grid, seeds)
        _check_data(data, seeds, batch_size)
        super().__init__(build, grid, seeds, learning_rate, betas, device, optimizer)
        self.batch_size = batch_size
        self._objective = objective
        self._data = {s: {f: laid_out(t.to(self.device)) for f, t in fields.items()} for s, fields in data.items()}
        self._columns: list[dict[str, Tensor]] = []
        self.history_steps: list[int] = []

    def train(
        self,
        steps: int,
        every: int = 20,
        measure: Callable[["ManyModels"], Mapping[str, Tensor]] | None = None,
    ) -> Iterator[Moment]:
        """Train step by step; leave the loop, or close the iterator, to stop between two steps.

        Training again goes on from there, with batches not seen before; ``progress`` starts anew.

        Parameters
        ----------
        steps : int
            Updates, each on a fresh batch.
        every : int
            The history gets a column, and the caller a `Moment`, each ``every`` steps and at the end.
        measure : callable (ManyModels) -> {name: Tensor (n_models,)}, optional
            Further columns, for instance a score on held-out rows.

        Yields
        ------
        Moment

        Raises
        ------
        ValueError
            If ``steps`` or ``every`` is not an integer of at least 1.
        """
        check_count("steps", steps)
        check_count("every", every)
        rows = self._draw_rows(self._done + steps)
        for step in range(1, steps + 1):
            loss, logs = self.update(self._at((step - 1) / steps), self._batch(rows, self._done))
            if step % every == 0 or step == steps:
                column = {"loss": loss, **logs, **(measure(self) if measure else {})}
                self._columns.append({name: value.detach().cpu() for name, value in column.items()})
                self.history_steps.append(self._done)
                yield Moment(step, steps)

    def fit(self, steps: int, label: str = "training", **options) -> "ManyModels":
        """Train to the end with a progress bar, or without one if the label is empty; ``options`` as in `train`.

        Returns the stack itself.
        """
        for _ in with_bar(self.train(steps, **options), label and f"{label}, {len(self)} models", steps):
            pass
        return self

    @property
    def history(self) -> dict[str, Tensor]:
        """The columns kept so far, each (n_models, moments)."""
        names = self._columns[0] if self._columns else {}
        return {name: torch.stack([column[name] for column in self._columns], dim=1) for name in names}

    def draw_batches(self, seed_number: int, steps: int) -> Iterator[Batch]:
        """The batches that models of one seed see in their first ``steps`` steps, one after another."""
        rows = self._draw_rows(steps)
        for step in range(steps):
            yield {
                stream: {f: t[seed_number, rows[stream][seed_number, step]] for f, t in fields.items()}
                for stream, fields in self._data.items()
            }

    def _at(self, progress: float) -> Callable:
        def objective(model, batch, setting):
            return self._objective(model, batch, setting, progress)

        return objective

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
        return {
            stream: pick_rows(fields, rows[stream][:, step].repeat(self.n_settings, 1), self.n_seeds)
            for stream, fields in self._data.items()
        }


def _ties_weights(model: nn.Module) -> bool:
    """Whether a parameter or buffer has more than one name."""
    for members in (model.named_parameters, model.named_buffers):
        if len(list(members(remove_duplicate=False))) > len(list(members())):
            return True
    return False


def _grid(settings) -> list[dict[str, float]]:
    if isinstance(settings, Mapping):
        for name, values in settings.items():
            if isinstance(values, (int, float, str)):
                raise ValueError(f"settings[{name!r}]: got {values!r}, expected a sequence of numbers")
        names, values = list(settings), [tuple(v) for v in settings.values()]
        return [dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*values)]
    return [dict(setting) for setting in settings]


def _check_grid(grid, seeds) -> None:
    if not grid or any(set(setting) != set(grid[0]) for setting in grid):
        raise ValueError(f"settings: got {grid!r}, expected at least one, all with the same names")
    for setting in grid:
        for name, value in setting.items():
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"settings[{name!r}]: got {value!r}, expected a finite number")
    if any(isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in seeds):
        raise ValueError(f"seeds: got {tuple(seeds)}, expected integers of at least 0")
    if not len(seeds) or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds: got {tuple(seeds)}, expected at least one and no repetition")


def _check_data(data, seeds, batch_size) -> None:
    check_count("batch_size", batch_size)
    if not data:
        raise ValueError("data: got no stream, expected at least one")
    for stream, fields in data.items():
        for name, values in fields.items():
            if not isinstance(values, Tensor):
                raise ValueError(f"data[{stream!r}][{name!r}]: got {type(values).__name__}, expected a tensor")
        shapes = {name: tuple(tensor.shape) for name, tensor in fields.items()}
        fits = len({shape[:2] for shape in shapes.values()}) == 1 and len(next(iter(shapes.values()))) >= 2
        if not fits or next(iter(shapes.values()))[0] != len(seeds):
            raise ValueError(
                f"data[{stream!r}]: got shapes {shapes}, expected (n_seeds={len(seeds)}, n_rows, ...), "
                "with the same n_rows in all fields"
            )
        if next(iter(shapes.values()))[1] == 0:
            raise ValueError(f"data[{stream!r}]: got no rows, expected at least one")
        for name, tensor in fields.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"data[{stream!r}][{name!r}]: got NaN or infinite values, expected numbers")


def _leaves(name: str, value: object) -> Iterator[tuple[str, object]]:
    """What nested dicts, lists and tuples hold, each with the way that leads to it."""
    if isinstance(value, (Mapping, list, tuple)):
        inner = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, part in inner:
            yield from _leaves(f"{name}[{key!r}]", part)
    else:
        yield name, value


def _rate_groups(
    parameters: Mapping[str, Tensor], learning_rate: float | Mapping[str, float]
) -> list[tuple[list[Tensor], float]]:
    """The parameters of each rate."""
    rates = learning_rate if isinstance(learning_rate, Mapping) else {"": learning_rate}
    groups: dict[str, list[Tensor]] = {prefix: [] for prefix in rates}
    for name, parameter in parameters.items():
        own = name.removeprefix("model.")
        prefix = max((p for p in rates if own.startswith(p)), key=len, default=None)
        if prefix is None:
            raise ValueError(f"learning_rate: no rate for parameter {own!r}, expected one under the name ''")
        groups[prefix].append(parameter)
    for prefix, members in groups.items():
        if not 0 <= rates[prefix] < math.inf:
            raise ValueError(f"learning_rate: got {rates[prefix]!r}, expected a finite number of at least 0")
        if not members:
            raise ValueError(f"learning_rate: no parameter's name starts with {prefix!r}")
    return [(members, rates[prefix]) for prefix, members in groups.items()]


def _build_from(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build().train()


def _keep_freed_memory() -> None:
    """Ask the C library to keep freed blocks: fetching them anew costs a stacked step a fifth."""
    if sys.platform == "linux":
        c_library = ctypes.CDLL(None)
        if hasattr(c_library, "mallopt"):
            trim_threshold, mmap_threshold = -1, -3
            c_library.mallopt(mmap_threshold, 32 << 20)  # the largest it accepts
            c_library.mallopt(trim_threshold, 1 << 30)
