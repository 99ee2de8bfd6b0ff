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

from recmtl_lessons.models._callables import check_callable, takes
from recmtl_lessons.models._checks import (
    check_choice,
    check_count,
    check_dense,
    check_finite,
    check_number,
    check_positive,
    check_values,
    checked_device,
    listed,
)
from recmtl_lessons.models._modes import Doer
from recmtl_lessons.training._optimizers import Adam, GradientDescent
from recmtl_lessons.training._rows import laid_out, pick_rows
from recmtl_lessons.training.device import default_device, settle_threads
from recmtl_lessons.training.jobs import stop_if_told
from recmtl_lessons.training.progress import Moment, with_bar

Batch = dict[str, dict[str, Tensor]]
Objective = Callable[[nn.Module, Batch, dict[str, Tensor], float], tuple[Tensor, dict[str, Tensor]]]


LARGEST = torch.finfo(torch.float32).max

# Torch has one generator for all threads: whoever seeds it must have it to themselves until it is put back.
_SEEDING = threading.Lock()


class DivergenceError(ValueError):
    """A training whose losses or gradients grow beyond what can be counted with; nothing was changed by that step."""


class Stack:
    """Models side by side, a grid of settings times seeds, with one optimizer for all.

    Model number ``i`` has setting ``i // n_seeds`` and seed ``i % n_seeds``. Models of one seed start from the same
    parameters whatever their setting. Parameters that are frozen (``requires_grad_(False)``) stay as they are.

    The models cannot look at values, as they run within `torch.vmap`: the stack looks at what they are asked, and at
    their losses and gradients before it takes a step. The optimizer's running means live and die with the stack: no
    `state_dict` holds them, `model`, `load` and `copy_from` neither take them along nor reset them.

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
    device : torch.device or str, optional
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
        check_callable("build", build)
        check_choice("optimizer", optimizer, ("adam", "sgd"))
        if clip is not None:
            check_positive("clip", clip)
        grid = _checked_grid(settings)
        _check_seeds(seeds)
        _check_betas(betas)
        _keep_freed_memory()
        settle_threads()
        self.device = self._usual_device() if device is None else checked_device("device", device)
        self.n_settings, self.n_seeds = len(grid), len(seeds)
        self.settings = tuple(setting for setting in grid for _ in seeds)
        self.seeds = tuple(seeds) * len(grid)
        self._setting = {
            name: torch.tensor([float(s[name]) for s in self.settings], device=self.device) for name in grid[0]
        }
        one_a_seed = [_build_from(seed, build) for seed in seeds]
        self._skeleton = Doer(deepcopy(one_a_seed[0]))
        self._judged = deepcopy(self._skeleton).eval()  # to switch one back and forth takes a tenth of a short call
        self._ties = _ties_weights(self._skeleton)
        parameters, buffers = _side_by_side([Doer(m).to(self.device) for m in one_a_seed])  # (n_seeds, ...)
        self._parameters = {k: self._over_settings(v).requires_grad_(v.requires_grad) for k, v in parameters.items()}
        self._buffers = {k: self._over_settings(v) for k, v in buffers.items()}
        numbers = [v for v in [*parameters.values(), *buffers.values()] if v.is_floating_point() or v.is_complex()]
        self._dtypes = {v.dtype for v in numbers}
        self._extra = _extra_state(one_a_seed[0])
        trained = {k: v for k, v in self._parameters.items() if v.requires_grad}
        if not trained:
            raise ValueError("build: got models without a parameter to train, expected one that is not frozen")
        self._largest_norm = math.sqrt(min(torch.finfo(dtype).max for dtype in self._dtypes))
        groups = _rate_groups(trained, learning_rate)
        self._optimizer = Adam(groups, betas) if optimizer == "adam" else GradientDescent(groups)
        self._clip = None if clip is None else float(clip)
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
        """
        if default is not None:
            check_number("default", default, -LARGEST, LARGEST)
        if isinstance(name, str) and name in self._setting:
            return self._setting[name]
        if default is None or not isinstance(name, str):
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
            If something in the batch is no tensor with one row a model or has another floating dtype than the models,
            or if a loss or a gradient is not finite, or too large to be squared. Nothing has changed then.
        """
        stop_if_told()
        loss, logs, buffers = self._evaluate(objective, batch)
        _check_depends(loss)
        self._optimizer.zero_grad()
        loss.sum().backward()
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        try:
            self._check_finite(loss, batch, gradients)
        except ValueError:
            self._optimizer.zero_grad()
            raise
        if self._clip is not None:
            _shorten(gradients, self._clip)
        self._optimizer.step()
        self._buffers = buffers
        self._done += 1
        return loss.detach(), {name: value.detach() for name, value in logs.items()}

    def evaluate(self, objective: Callable, batch: object) -> tuple[Tensor, dict[str, Tensor]]:
        """As `update`, but without a step: every model's loss and what it reports, in training mode."""
        loss, logs, buffers = self._evaluate(objective, batch)
        self._check_finite(loss, batch)
        self._buffers = buffers
        return loss, logs

    def gradients(self, objective: Callable, batch: object) -> dict[str, Tensor]:
        """Gradient of every model's loss, without a step: {parameter: Tensor (n_models, ...)}, less frozen ones.

        Parameters
        ----------
        objective, batch
            As in `update`.
        """
        loss, _, buffers = self._evaluate(objective, batch)
        _check_depends(loss)
        trained = {name: value for name, value in self._parameters.items() if value.requires_grad}
        found = torch.autograd.grad(loss.sum(), list(trained.values()), allow_unused=True)
        self._check_finite(loss, batch, [gradient for gradient in found if gradient is not None])
        self._buffers = buffers
        return {
            name.removeprefix("model."): torch.zeros_like(value) if gradient is None else gradient
            for (name, value), gradient in zip(trained.items(), found, strict=True)
        }

    def gradients_of(
        self, names: Sequence[str], objective: Callable, batch: object
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradients of each of several losses that an objective reports, without a step.

        Parameters
        ----------
        names : sequence of str
            What the objective reports them as, each a scalar of one model. A loss is the cheaper, the less of the
            model it goes through.
        objective, batch
            As in `update`.

        Returns
        -------
        losses : Tensor, (n_models, len(names))
        gradients : dict {parameter: Tensor (n_models, len(names), ...)}
            Less frozen parameters; zeros where a loss does not depend on one.
        """
        names = listed("names", names)
        _, logs, buffers = self._evaluate(objective, batch)
        for name in names or [None]:
            if not isinstance(name, str) or name not in logs or logs[name].ndim != 1:
                raise ValueError(f"names: got {name!r}, expected what the objective reports a loss as")
        own = [logs[name] for name in names]
        losses = torch.stack(own, dim=1)
        for one in own:
            _check_depends(one)
        trained = {key: value for key, value in self._parameters.items() if value.requires_grad}
        found = [
            torch.autograd.grad(one.sum(), list(trained.values()), retain_graph=True, allow_unused=True) for one in own
        ]
        self._check_finite(losses.sum(1), batch, [one for of_loss in found for one in of_loss if one is not None])
        self._buffers = buffers
        gradients = {}
        for (key, value), of_losses in zip(trained.items(), zip(*found, strict=True), strict=True):
            rows = [torch.zeros_like(value) if one is None else one for one in of_losses]
            gradients[key.removeprefix("model.")] = torch.stack(rows, dim=1)
        return losses.detach(), gradients

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], scale: Tensor | None = None) -> None:
        """Take a step of the optimizer with gradients of one's own making.

        Parameters
        ----------
        gradients : mapping {parameter: Tensor (n_models, ...)}
            One for each parameter that is trained.
        scale : Tensor, (n_models,), optional
            How far each model goes, as a multiple of the optimizer's step, at least 0: a learning rate of its own. Ones
            unless given.

        Raises
        ------
        ValueError
            If a parameter that is trained has no gradient of its shape, or if one is not finite, or too large to be
            squared, or if a scale is negative or not finite. Nothing has changed then.
        """
        stop_if_told()
        if scale is not None:
            check_values("scale", scale, (len(self),))
            check_number("scale", float(scale.min()), 0.0)
        trained = {key.removeprefix("model."): value for key, value in self._parameters.items() if value.requires_grad}
        if not isinstance(gradients, Mapping) or gradients.keys() != trained.keys():
            raise ValueError(f"gradients: got {_came(gradients)}, expected one for each of {', '.join(trained)}")
        for key, value in trained.items():
            one = gradients[key]
            if not isinstance(one, Tensor) or _kind(one) != _kind(value):
                came = _kind(one) if isinstance(one, Tensor) else type(one).__name__
                raise ValueError(f"gradients[{key!r}]: got {came}, expected a tensor {_kind(value)}")
            check_dense(f"gradients[{key!r}]", one)
        own = {key: gradients[key].detach() for key in trained}
        norms = torch.stack([one.reshape(len(self), -1).norm(dim=1) for one in own.values()]).sum(0)
        self._check_finite(norms, {}, name="gradients")
        self._optimizer.zero_grad()
        for key, value in trained.items():
            value.grad = torch.empty_like(value).copy_(own[key])  # laid out as the fused Adam takes for granted
        if self._clip is not None:
            _shorten([value.grad for value in trained.values()], self._clip)
        before = [value.clone() for value in trained.values()] if scale is not None else []
        self._optimizer.step()
        for value, start in zip(trained.values(), before, strict=False):
            far = scale.to(value).view(-1, *[1] * (value.ndim - 1))
            value.copy_(start + far * (value - start))
        self._done += 1

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
        for number, argument in enumerate(arguments, start=1):
            if not isinstance(argument, Tensor) or argument.shape[:1] != (self.n_seeds,):
                came = _came(argument)
                raise ValueError(f"argument {number}: got {came}, expected a tensor (n_seeds={self.n_seeds}, ...)")
        return self.each_own(function, *(self._over_settings(a.to(self.device)) for a in arguments))

    @torch.no_grad()
    def each_own(self, function: Callable, *arguments: object) -> object:
        """As `each`, but every model has arguments of its own: nested dicts of Tensor (n_models, ...).

        Raises
        ------
        ValueError
            If something in an argument is no tensor with one row a model, has another floating dtype than the models,
            or is not finite. What comes out is not looked at.
        """
        for number, argument in enumerate(arguments, start=1):
            values = self._check_rows(f"argument {number}", argument)
            if not math.isfinite(_norm(values)):
                self._blame(f"argument {number}", argument)
        with self._alone:
            run = self._vmap("function", function, _check_answer, "different", self._judged)
            return run(self._parameters, self._buffers, *arguments)

    def number(self, seed: int, **setting: float) -> int:
        """Return the number of the model of a seed and a setting, all of whose names are given."""
        check_count("seed", seed, 0)
        for name, value in setting.items():
            check_number(name, value)
        for number, (own, its_seed) in enumerate(zip(self.settings, self.seeds, strict=True)):
            if own == setting and its_seed == seed:
                return number
        raise ValueError(f"setting: got {setting!r} and seed {seed!r}, expected those of a model of the stack")

    def by_setting(self, values: Tensor) -> Tensor:
        """View (n_models, ...) as (n_settings, n_seeds, ...)."""
        if not isinstance(values, Tensor) or values.shape[:1] != (len(self),):
            raise ValueError(f"values: got {_came(values)}, expected a tensor (n_models={len(self)}, ...)")
        return values.reshape(self.n_settings, self.n_seeds, *values.shape[1:])

    @torch.no_grad()
    def model(self, index: int) -> nn.Module:
        """One model of the stack as an ordinary module, on the CPU, in evaluation mode."""
        check_count("index", index, 0, len(self) - 1)
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
            If ``tau`` is out of range, or the stacks differ in the number of models, in a parameter's name, shape or
            dtype, or in what else a model's state holds, such as the order of its tasks. Nothing has changed then.
        """
        check_number("tau", tau, 0, 1)
        pairs = self._pairs(other)
        extra = [name.removeprefix("model.") for name in other._parameters if name not in self._parameters]
        if extra:
            raise ValueError(f"other: got {', '.join(map(repr, extra))} as well, expected no such parameters")
        for mine, theirs in pairs:
            mine.lerp_(theirs, float(tau))

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
            If the other stack has not as many models, lacks a parameter of this name, shape and dtype, or differs in
            what else a model's state holds. Nothing has changed then.
        """
        for mine, theirs in self._pairs(other, prefix):
            mine.copy_(theirs)

    def _pairs(self, other: "Stack", prefix: str = "") -> list[tuple[Tensor, Tensor]]:
        """Each parameter beside the other stack's of the same name behind the prefix."""
        if not isinstance(other, Stack) or len(other) != len(self):
            came = f"{len(other)} models" if isinstance(other, Stack) else type(other).__name__
            raise ValueError(f"other: got {came}, expected a stack of {len(self)} models")
        if not isinstance(prefix, str):
            raise ValueError(f"prefix: got {prefix!r}, expected a str")
        pairs = []
        for name, mine in self._parameters.items():
            named = prefix + name.removeprefix("model.")
            theirs = other._parameters.get(f"model.{named}")
            if theirs is None or (theirs.shape, theirs.dtype) != (mine.shape, mine.dtype):
                came = "no parameter" if theirs is None else _kind(theirs)
                raise ValueError(f"other: got {came} for {named!r}, expected one of {_kind(mine)}")
            pairs.append((mine, theirs))
        for name, mine in self._extra.items():
            if other._extra.get(prefix + name) != mine:
                raise ValueError(f"other: got another {prefix + name!r} in the models' states, expected the same")
        return pairs

    def _evaluate(self, objective: Callable, batch: object) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Loss, logs, and what the buffers are then; nothing has changed yet."""
        self._check_rows("batch", batch)
        if not self._draws:
            try:
                with self._alone:
                    return self._ran(objective, batch, "error")
            except RuntimeError:
                pass  # something was drawn, so it seems; if it was another error, it comes again
        with self._own_randomness(), self._alone:
            found = self._ran(objective, batch, "different")
        self._draws = True
        return found

    def _ran(self, objective: Callable, batch: object, randomness: str):
        buffers = {name: value.clone() for name, value in self._buffers.items()}
        run = self._vmap("objective", objective, _check_objective, randomness)
        return *run(self._parameters, buffers, batch, self._setting), buffers

    def _vmap(
        self, name: str, function: Callable, check: Callable, randomness: str, skeleton: Doer | None = None
    ) -> Callable:
        """The function of one model, for all; ``name`` is that of the argument that it came as."""
        skeleton = skeleton or self._skeleton

        def checked(*arguments):
            answer = function(*arguments)
            check(answer)
            return answer

        def one(parameters, buffers, *arguments):
            # Looking for tied weights at every call takes a third of its time.
            return functional_call(skeleton, (parameters, buffers), (checked, *arguments), tie_weights=self._ties)

        def run(parameters, buffers, *arguments):
            try:
                return torch.vmap(one, randomness=randomness)(parameters, buffers, *arguments)
            except TypeError as error:
                if takes(function, 1 + len(arguments)):
                    raise
                expected = f"a function of a model and {len(arguments)} more"
                raise ValueError(f"{name}: got {function!r}, expected {expected}") from error

        return run

    def _check_rows(self, name: str, value: object) -> list[Tensor]:
        """Refuse what is no tensor with one row a model, or of another floating dtype; return all of a floating one."""
        rows, found = len(self), []
        for way, leaf in _leaves(name, value):
            if not isinstance(leaf, Tensor) or leaf.shape[:1] != (rows,):
                raise ValueError(f"{way}: got {_came(leaf)}, expected a tensor (n_models={rows}, ...)")
            check_dense(way, leaf)
            self._check_dtype(way, leaf)
            if leaf.dtype in self._dtypes:
                found.append(leaf)
        return found

    def _check_dtype(self, name: str, value: Tensor) -> None:
        """Refuse floats of a dtype that is none of the models'."""
        if (value.is_floating_point() or value.is_complex()) and value.dtype not in self._dtypes:
            expected = " or ".join(sorted(map(str, self._dtypes)))
            raise ValueError(f"{name}: got dtype {value.dtype}, expected {expected} as the models'")

    def _check_finite(self, loss: Tensor, batch: object, gradients: Sequence[Tensor] = (), name: str = "loss") -> None:
        """Refuse losses and gradients that are not finite, or whose squares, which the optimizer needs, would not be.

        One look for all: on a graphics card a step waits once for what was computed, before anything changes.
        """
        values = [loss.detach(), *gradients]
        if _norm(values) < self._largest_norm:  # no number is less
            return
        self._blame("batch", batch)
        norms = torch.stack([v.reshape(len(self), -1).double().norm(dim=1) for v in values])  # (values, n_models)
        index = int(norms.sum(0).nan_to_num(math.inf).argmax())
        came = f"{loss[index]:g}" + (f" with gradients of up to {norms[1:, index].max():g}" if gradients else "")
        raise DivergenceError(f"{name}: got {came} from {self._which(index)}, expected finite numbers of moderate size")

    def _blame(self, name: str, value: object) -> None:
        """Refuse what is not finite in a batch, by its name and the first model that it came to."""
        for way, leaf in _leaves(name, value):
            amiss = ~torch.isfinite(leaf).reshape(len(self), -1).all(1)
            if amiss.any():
                which = self._which(int(amiss.nonzero()[0]))
                raise ValueError(f"{way}: got NaN or infinite values for {which}, expected finite numbers")

    def _which(self, index: int) -> str:
        return f"model {index} (setting {self.settings[index]}, seed {self.seeds[index]})"

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
    own : nested dicts of Tensor (n_models, ...), optional
        What each model has for itself beside the rows that are drawn, such as where its weights once stood; handed to
        the objective with every batch, under its names.

    Attributes
    ----------
    settings : tuple of dict
        One a model.
    seeds : tuple of int
        One a model.
    history : dict {name: Tensor (n_models, moments)}
        What the objective and ``measure`` reported, with the step of each column in ``history_steps``.
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
        own: Mapping[str, object] | None = None,
    ):
        check_callable("objective", objective, 4)
        check_count("batch_size", batch_size)
        _check_seeds(seeds)
        _check_data(data, len(seeds))
        super().__init__(build, settings, seeds, learning_rate, betas, device, optimizer)
        for stream, fields in data.items():
            for name, values in fields.items():
                self._check_dtype(f"data[{stream!r}][{name!r}]", values)
        if own is not None and (not isinstance(own, Mapping) or not own.keys().isdisjoint(data)):
            raise ValueError(f"own: got {_came(own)}, expected a mapping of names that are no stream")
        self._check_rows("own", dict(own or {}))
        for way, leaf in _leaves("own", dict(own or {})):
            check_finite(way, leaf)
        self._own = _moved(dict(own or {}), self.device)
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
        """
        check_count("steps", steps)
        check_count("every", every)
        if measure is not None:
            check_callable("measure", measure, 1)
        for step, batch in enumerate(self.batches(steps), start=1):
            loss, logs = self.update(self._at((step - 1) / steps), batch)
            if step % every == 0 or step == steps:
                column = {"loss": loss, **logs, **(self._measured(measure) if measure else {})}
                self._columns.append({name: value.detach().cpu() for name, value in column.items()})
                self.history_steps.append(self._done)
                yield Moment(step, steps)

    def fit(self, steps: int, label: str = "training", **options) -> "ManyModels":
        """Train to the end with a progress bar, or without one if the label is empty; ``options`` as in `train`.

        Returns the stack itself.
        """
        check_count("steps", steps)
        if not isinstance(label, str):
            raise ValueError(f"label: got {label!r}, expected a str")
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
        check_count("seed_number", seed_number, 0, self.n_seeds - 1)
        check_count("steps", steps)
        own = {stream: {f: t[seed_number] for f, t in fields.items()} for stream, fields in self._data.items()}
        return draw_batches(own, self.seeds[seed_number], steps, self.batch_size)

    def batches(self, steps: int) -> Iterator[Batch]:
        """Batches of all models for their next steps, each (n_models, ...), for a loop that calls `update` itself."""
        check_count("steps", steps)
        rows = self._draw_rows(self._done + steps)
        for _ in range(steps):
            yield self._batch(rows, self._done)

    def _measured(self, measure: Callable[["ManyModels"], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        found = measure(self)
        for value in found.values() if isinstance(found, Mapping) else [found]:
            if not isinstance(value, Tensor) or value.shape[:1] != (len(self),):
                raise ValueError(
                    f"measure: got {_came(value)} from it, expected {{name: a tensor (n_models={len(self)},)}}"
                )
        return found

    def _at(self, progress: float) -> Callable:
        def objective(model, batch, setting):
            return self._objective(model, batch, setting, progress)

        return objective

    def _draw_rows(self, steps: int) -> dict[str, Tensor]:
        """Row numbers of every batch, (n_seeds, steps, batch_size) a stream; they depend on the seed alone."""
        rows = {}
        for number, (stream, fields) in enumerate(self._data.items()):
            n_rows = next(iter(fields.values())).shape[1]
            drawn = [_rows_of(seed, number, n_rows, steps, self.batch_size) for seed in self.seeds[: self.n_seeds]]
            rows[stream] = torch.stack(drawn).to(self.device)
        return rows

    def _batch(self, rows: dict[str, Tensor], step: int) -> Batch:
        drawn = {
            stream: pick_rows(fields, rows[stream][:, step].repeat(self.n_settings, 1), self.n_seeds)
            for stream, fields in self._data.items()
        }
        return {**drawn, **self._own}


def draw_batches(
    data: Mapping[str, Mapping[str, Tensor]], seed: int, steps: int, batch_size: int = 128
) -> Iterator[Batch]:
    """Return the batches that a `ManyModels` gives to its models of one seed, for a loop of one's own.

    Parameters
    ----------
    data : mapping {stream: {field: Tensor (n_rows, ...)}}
        What that seed has: as for `ManyModels`, without the dimension of the seeds.
    seed : int
    steps : int
    batch_size : int
        Rows drawn from each stream at a step, uniformly and with replacement.

    Returns
    -------
    iterator of dict {stream: {field: Tensor (batch_size, ...)}}
    """
    check_count("seed", seed, 0)
    check_count("steps", steps)
    check_count("batch_size", batch_size)
    _check_data(data, None)
    rows = {
        stream: _rows_of(seed, number, len(next(iter(fields.values()))), steps, batch_size)
        for number, (stream, fields) in enumerate(data.items())
    }
    return (
        {s: {f: t[rows[s][step].to(t.device)] for f, t in fields.items()} for s, fields in data.items()}
        for step in range(steps)
    )


def _rows_of(seed: int, stream_number: int, n_rows: int, steps: int, batch_size: int) -> Tensor:
    """Row numbers of every batch of one seed and stream, (steps, batch_size)."""
    generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + stream_number)
    return torch.randint(n_rows, (steps, batch_size), generator=generator)


def _ties_weights(model: nn.Module) -> bool:
    """Whether a parameter or buffer has more than one name."""
    for members in (model.named_parameters, model.named_buffers):
        if len(list(members(remove_duplicate=False))) > len(list(members())):
            return True
    return False


def _side_by_side(models: list[nn.Module]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters and buffers, each with the models as its first dimension."""
    try:
        return stack_module_state(models)
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"build: got models that differ by more than values ({error}), expected all alike") from error


def _extra_state(model: nn.Module) -> dict[str, object]:
    """What a model's state holds beside parameters and buffers, such as the names of its tasks; tensors as lists."""
    known = {
        name for members in (model.named_parameters, model.named_buffers) for name, _ in members(remove_duplicate=False)
    }
    extra = {name: value for name, value in model.state_dict().items() if name not in known}
    return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in extra.items()}


def _norm(values: Sequence[Tensor]) -> float:
    """Sum of the tensors' norms, in few calls; NaN or infinity where one holds such or its squares are too large."""
    return torch.stack(torch._foreach_norm(values)).sum().item() if values else 0.0


def _check_depends(loss: Tensor) -> None:
    if not loss.requires_grad:
        raise ValueError("objective: got a loss in which no parameter has a part, expected one to train")


def _shorten(gradients: Sequence[Tensor], norm: float) -> None:
    """Bring each model's gradient to this norm at most; models do not meet."""
    squares = sum(g.square().flatten(1).sum(1) for g in gradients)  # (n_models,)
    factor = (norm / (squares.sqrt() + 1e-12)).clamp(max=1.0)
    for g in gradients:
        g.mul_(factor.view(-1, *[1] * (g.ndim - 1)))


def _check_objective(answer: object) -> None:
    """Refuse what an objective of one model must not answer."""
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[1], dict):
        raise ValueError(f"objective: got {_came(answer)} from it, expected (loss, {{name: value}})")
    loss, logs = answer
    if not isinstance(loss, Tensor) or loss.ndim or not loss.is_floating_point():
        raise ValueError(f"objective: got a loss of {_came(loss)}, expected one number, a float tensor of shape ()")
    _check_answer(logs, "objective")


def _check_answer(answer: object, name: str = "function") -> None:
    """Refuse anything but tensors, however nested: nothing else can stand side by side."""
    for way, leaf in _leaves(name, answer):
        if not isinstance(leaf, Tensor):
            raise ValueError(f"{way}: got {_came(leaf)} from it, expected tensors")


def _came(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _kind(value: Tensor) -> str:
    return f"{value.dtype} {tuple(value.shape)}"


def _checked_grid(settings: object) -> list[dict[str, float]]:
    """One dict a setting, of plain finite numbers."""
    if isinstance(settings, Mapping):
        names, values = list(settings), [listed(f"settings[{name!r}]", v) for name, v in settings.items()]
        grid = [dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*values)]
    else:
        grid = listed("settings", settings)
    if not grid or not all(isinstance(s, Mapping) and set(s) == set(grid[0]) for s in grid):
        raise ValueError(f"settings: got {settings!r}, expected at least one, all with the same names")
    for setting in grid:
        for name, value in setting.items():
            check_number(f"settings[{name!r}]", value, -LARGEST, LARGEST)
    return [{n: v.item() if isinstance(v, Tensor) else v for n, v in setting.items()} for setting in grid]


def _check_seeds(seeds: object) -> None:
    for seed in listed("seeds", seeds):
        check_count("seeds", seed, 0)
    if not len(seeds) or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds: got {tuple(seeds)}, expected at least one and no repetition")


def _check_betas(betas: object) -> None:
    if len(listed("betas", betas)) != 2:
        raise ValueError(f"betas: got {betas!r}, expected two numbers")
    for beta in betas:
        check_number("betas", beta, 0, 1, below=True)


def _check_data(data: object, n_seeds: int | None) -> None:
    """Refuse anything but streams of tensors (n_seeds, n_rows, ...); (n_rows, ...) where there is no such dimension."""
    if not isinstance(data, Mapping) or not data:
        raise ValueError(f"data: got {data!r}, expected at least one stream, {{name: {{field: tensor}}}}")
    for stream, fields in data.items():
        named = f"data[{stream!r}]"
        if not isinstance(fields, Mapping) or not fields:
            raise ValueError(f"{named}: got {fields!r}, expected at least one field, {{name: tensor}}")
        for name, values in fields.items():
            if not isinstance(values, Tensor):
                raise ValueError(f"{named}[{name!r}]: got {type(values).__name__}, expected a tensor")
            check_dense(f"{named}[{name!r}]", values)
        shapes = {name: tuple(tensor.shape) for name, tensor in fields.items()}
        first = () if n_seeds is None else (n_seeds,)
        fits = all(len(s) > len(first) and s[: len(first)] == first and 0 not in s for s in shapes.values())
        if not fits or len({shape[len(first)] for shape in shapes.values()}) > 1:
            seeds = "" if n_seeds is None else f"n_seeds={n_seeds}, "
            raise ValueError(
                f"{named}: got shapes {shapes}, expected ({seeds}n_rows, ...), "
                "with the same n_rows in all fields, and nothing empty"
            )
        for name, values in fields.items():
            check_finite(f"{named}[{name!r}]", values)


def _leaves(name: str, value: object) -> Iterator[tuple[str, object]]:
    """What nested dicts, lists and tuples hold, each with the way that leads to it."""
    if isinstance(value, (dict, list, tuple)):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in inner:
            yield from _leaves(f"{name}[{key!r}]", part)
    else:
        yield name, value


def _moved(value: object, device: torch.device) -> object:
    """The same nested dicts, lists and tuples with their tensors on this device."""
    if isinstance(value, dict):
        return {key: _moved(part, device) for key, part in value.items()}
    return value.to(device) if isinstance(value, Tensor) else type(value)(_moved(part, device) for part in value)


def _rate_groups(
    parameters: Mapping[str, Tensor], learning_rate: float | Mapping[str, float]
) -> list[tuple[list[Tensor], float]]:
    """The parameters of each rate."""
    rates = learning_rate if isinstance(learning_rate, Mapping) else {"": learning_rate}
    for prefix, rate in rates.items():
        if not isinstance(prefix, str):
            raise ValueError(f"learning_rate: got {prefix!r}, expected beginnings of parameters' names")
        check_number("learning_rate", rate, 0)
    groups: dict[str, list[Tensor]] = {prefix: [] for prefix in rates}
    for name, parameter in parameters.items():
        own = name.removeprefix("model.")
        prefix = max((p for p in rates if own.startswith(p)), key=len, default=None)
        if prefix is None:
            raise ValueError(f"learning_rate: got no rate for parameter {own!r}, expected one under the name ''")
        groups[prefix].append(parameter)
    for prefix, members in groups.items():
        if not members:
            raise ValueError(f"learning_rate: got {prefix!r}, expected how the name of a parameter to train begins")
    return [(members, float(rates[prefix])) for prefix, members in groups.items()]


def _build_from(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = build()
    if not isinstance(model, nn.Module):
        raise ValueError(f"build: got {_came(model)} from it, expected a torch.nn.Module")
    return model.train()


def _keep_freed_memory() -> None:
    """Ask the C library to keep freed blocks: fetching them anew costs a stacked step a fifth."""
    if sys.platform == "linux":
        c_library = ctypes.CDLL(None)
        if hasattr(c_library, "mallopt"):
            trim_threshold, mmap_threshold = -1, -3
            c_library.mallopt(mmap_threshold, 32 << 20)  # the largest it accepts
            c_library.mallopt(trim_threshold, 1 << 30)
