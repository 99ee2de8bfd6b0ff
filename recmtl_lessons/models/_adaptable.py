"""What MAML and Reptile share: a network whose parameters can be handed in, for many tasks at once."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from recmtl_lessons.models._checks import (
    _values_are_at_hand,
    check_answer,
    check_count,
    check_dense,
    check_features,
    check_finite,
    check_number,
    check_positive,
    check_values,
    check_weights,
    check_widths,
)
from recmtl_lessons.models._modes import evaluating

Params = dict[str, Tensor]


class AdaptableNetwork(nn.Module):
    """Linear layers with a ReLU between each two, which answer with their own parameters or with others.

    The other parameters are those of one task, (...), or of T tasks side by side, (T, ...): then all tasks take a step
    together, as one batched product a layer. That computes what `torch.vmap` over the tasks would, with fewer
    operations.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dims: Sequence[int],
        output_dim: int,
        meta_lr: float,
        inner_lr: float,
        dropout_rate: float,
    ):
        check_count("input_dim", input_dim)
        check_widths("hidden_dims", hidden_dims, empty=True)
        check_count("output_dim", output_dim)
        check_positive("meta_lr", meta_lr)
        check_positive("inner_lr", inner_lr)
        check_number("dropout_rate", dropout_rate, 0.0, 1.0, below=True)
        super().__init__()
        self.input_dim = input_dim
        self.meta_lr, self.inner_lr, self.dropout_rate = float(meta_lr), float(inner_lr), float(dropout_rate)
        widths = (input_dim, *hidden_dims)
        self.body = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, hidden_dims, strict=False))
        self.head = nn.Linear(widths[-1], output_dim)
        self._layers = (*(f"body.{k}" for k in range(len(hidden_dims))), "head")
        self._adapting = tuple(self.named_weights())  # what an inner step moves, unless it is frozen
        self._optimizer: torch.optim.Optimizer | None = None

    @property
    def output_dim(self) -> int:
        """The number of values answered for each row."""
        return self.head.out_features

    def named_weights(self) -> Params:
        """Return the network's weights and biases by name, as `forward` takes them."""
        own = ("body.", "head.")
        return {name: value for name, value in self.named_parameters() if name.startswith(own)}

    def forward(self, x: Tensor, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """Answer rows, with the model's own parameters or with others.

        Parameters
        ----------
        x : Tensor, (batch, input_dim)
        params : mapping {name: Tensor}, optional
            Parameters of one task, as `adapt_to_new_task` returns them.

        Returns
        -------
        Tensor, (batch, output_dim)

        Raises
        ------
        ValueError
            If the answer is not finite, as from weights that are not; or an argument does not fit.
        """
        self._check_features("x", x)
        if params is not None:
            self._check_params(params)
            return functional_call(self, dict(params), (x,))
        hidden = x
        for layer in self.body:
            hidden = F.dropout(layer(hidden).relu(), self.dropout_rate, self.training)  # (batch, hidden)
        answers = self.head(hidden)  # (batch, output_dim)
        check_answer(answers, self, x=x)
        return answers

    @torch.no_grad()
    def predict(self, x: Tensor, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """Answer without dropout and without gradients: (batch,) if ``output_dim`` is 1, or (batch, output_dim)."""
        with evaluating(self):
            answers = self(x, params)
        return answers.squeeze(1) if self.output_dim == 1 else answers

    # All tasks at once.

    def _answer_each(self, params: Params, x: Tensor, dropout: float = 0.0) -> Tensor:
        """Answer each task's rows by its own parameters (T, ...): (T, rows, input_dim) -> (T, rows, output_dim)."""
        for layer in self._layers:
            weight, bias = params[f"{layer}.weight"], params[f"{layer}.bias"]  # (T, out, in), (T, out)
            x = torch.baddbmm(bias.unsqueeze(1), x, weight.mT)  # (T, rows, out)
            if layer != "head":
                x = F.dropout(x.relu(), dropout, dropout > 0)
        return x

    def _support_loss(
        self, fixed: Params, x: Tensor, y: Tensor, factor: float | Tensor, dropout: float = 0.0
    ) -> Callable[[Params], Tensor]:
        """Return a function of the moving parameters (T, ...): the sum over tasks of factor times mean squared error.

        Tasks do not meet, so its gradient is each task's own.
        """

        def loss(moving: Params) -> Tensor:
            answers = self._answer_each({**fixed, **moving}, x, dropout)
            return F.mse_loss(answers, y, reduction="sum") * (factor / (y.shape[1] * y.shape[2]))

        return loss

    @property
    def _moving(self) -> tuple[str, ...]:
        """Names of the weights that an inner step moves: frozen ones stay.

        Within `torch.func.functional_call`, as in a stack, weights are plain tensors: none of them is frozen.
        """
        weights = self.named_weights()
        frozen = {n for n, w in weights.items() if isinstance(w, nn.Parameter) and not w.requires_grad}
        moving = tuple(name for name in self._adapting if name not in frozen)
        if not moving:
            raise ValueError(
                f"parameters: got {', '.join(self._adapting)} all frozen, expected one that may move; "
                "requires_grad_(True) frees them"
            )
        return moving

    # What comes in, and what comes out.

    def _check_features(self, name: str, x: Tensor) -> None:
        check_features(name, x, self.input_dim, self.head.weight.dtype)

    def _check_moved(
        self, name: str, values: Iterable[Tensor], num_steps: int, inner_lr: float | Tensor | None = None
    ) -> None:
        """Refuse what is not finite after inner steps: by the weights, if they are not, or by the name of the data."""
        if not all(torch.isfinite(value).all() for value in values if _values_are_at_hand(value)):
            check_weights(self)
            raise ValueError(self._diverged(name, num_steps, inner_lr))

    def _diverged(self, name: str, num_steps: int, inner_lr: float | Tensor | None = None) -> str:
        return (
            f"{name}: got numbers after {num_steps} inner steps that are not finite, expected finite ones; a lower "
            f"inner_lr than {self.inner_lr if inner_lr is None else inner_lr:g} may help, or features of moderate size"
        )

    def _check_params(self, params: Mapping[str, Tensor]) -> None:
        expected = {name: value.shape for name, value in self.named_weights().items()}
        came = params if isinstance(params, Mapping) else {}
        if came.keys() != expected.keys():
            names = ", ".join(map(repr, came)) if came else type(params).__name__
            raise ValueError(f"params: got {names}, expected exactly {', '.join(map(repr, expected))}")
        for name, shape in expected.items():
            value, dtype = came[name], self.head.weight.dtype
            if not isinstance(value, Tensor) or value.shape != shape or value.dtype != dtype:
                kind = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"params[{name!r}]: got {kind}, expected {dtype} {tuple(shape)}")
            check_dense(f"params[{name!r}]", value)
            check_finite(f"params[{name!r}]", value)

    def _targets(self, name: str, y: Tensor, rows: tuple[int, ...]) -> Tensor:
        """Return the targets as (..., output_dim); (...,) alone is taken for one value per row, never broadcast."""
        flat = self.output_dim == 1 and isinstance(y, Tensor) and y.ndim == len(rows)
        check_values(name, y, rows if flat else (*rows, self.output_dim))
        y = y.unsqueeze(-1) if flat else y  # (..., output_dim)
        y = y.to(self.head.weight.dtype)
        check_finite(name, y, f"numbers that fit into {y.dtype}")
        return y

    def _check_rows(self, names: tuple[str, str], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows of T tasks side by side: x (T, rows, input_dim), and y as (T, rows, output_dim)."""
        if not isinstance(x, Tensor) or x.ndim != 3 or 0 in x.shape:
            came = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"{names[0]}: got {came}, expected (tasks, rows, {self.input_dim}), no 0")
        check_dense(names[0], x)
        self._check_features(names[0], x.flatten(0, 1))  # (tasks * rows, input_dim)
        return x, self._targets(names[1], y, tuple(x.shape[:2]))


def stack_by_shape(tasks: object, fields: Sequence[str], name: str = "tasks_data") -> list[tuple[Tensor, ...]]:
    """Stack tasks given as stacked tensors or as a list of tuples of tensors: those of one shape and kind together."""
    size, count = len(fields), _WORDS[len(fields)]
    if _are_tensors(tasks, size) and isinstance(tasks, tuple):
        return [tasks]
    if not isinstance(tasks, Sequence) or not tasks:
        came = "none" if isinstance(tasks, Sequence) else type(tasks).__name__
        raise ValueError(f"{name}: got {came}, expected a list of at least one, or {count} stacked tensors")
    groups: dict[tuple, list[tuple[Tensor, ...]]] = {}
    for number, task in enumerate(tasks):
        if not _are_tensors(task, size):
            raise ValueError(f"{name}[{number}]: got {_kind(task)}, expected {count} tensors: {', '.join(fields)}")
        for field, part in zip(fields, task, strict=True):
            check_dense(f"{name}[{number}], {field}", part)
        groups.setdefault(tuple((part.shape, part.dtype, part.device) for part in task), []).append(tuple(task))
    return [tuple(torch.stack(parts) for parts in zip(*group, strict=True)) for group in groups.values()]


def adam_step(model: nn.Module, loss: Tensor, refusal: str) -> float:
    """Take one step of the model's own Adam on a loss, and return the loss.

    Raises
    ------
    ValueError
        As `outer_step`, with ``refusal`` if the loss is not finite, or if no parameter that requires a gradient takes
        part in it. Nothing has changed then.
    """
    moving = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if not loss.requires_grad:
        came = "gradients switched off" if moving else "all frozen"
        raise ValueError(f"parameters: got {came}, expected at least one that a gradient leads to")
    if not torch.isfinite(loss):
        raise ValueError(refusal)
    gradients = torch.autograd.grad(loss, list(moving.values()), allow_unused=True)
    found = {name: value for name, value in zip(moving, gradients, strict=True) if value is not None}
    outer_step(model, found, torch.optim.Adam, refusal)
    return float(loss.detach())


def outer_step(model: nn.Module, gradients: Params, kind: type[torch.optim.Optimizer], refusal: str) -> None:
    """Take one step of the model's own optimizer, at its ``meta_lr``, along gradients by the parameter's name.

    The optimizer keeps to the parameters that the model has now. What it remembers of one goes with it, to another
    device or dtype too; one that has taken another's place begins afresh; one without a gradient stays as it is.

    Raises
    ------
    ValueError
        With ``refusal``, if a gradient's square, which Adam keeps, is not finite. Nothing has changed then.
    """
    check_positive("meta_lr", model.meta_lr)
    if not all(torch.isfinite(value.square()).all() for value in gradients.values()):
        raise ValueError(refusal)
    parameters = dict(model.named_parameters())
    if model._optimizer is None:
        model._optimizer = kind(parameters.values())
    state = model._optimizer.state
    model._optimizer.param_groups[0] |= {"params": list(parameters.values()), "lr": float(model.meta_lr)}
    for gone in state.keys() - set(parameters.values()):
        del state[gone]
    for name, value in parameters.items():
        value.grad = gradients.get(name)
        if value in state:
            state[value] |= {key: kept.to(value) for key, kept in state[value].items() if key != "step"}
    model._optimizer.step()


def detached(params: Mapping[str, Tensor]) -> Params:
    """Return the same numbers, from which no gradient leads back."""
    return {name: value.detach() for name, value in params.items()}


_WORDS = {2: "two", 4: "four"}


def _are_tensors(value: object, size: int) -> bool:
    fits = isinstance(value, (tuple, list)) and len(value) == size
    return fits and all(isinstance(part, Tensor) for part in value)


def _kind(value: object) -> str:
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, (tuple, list)) else type(value).__name__
