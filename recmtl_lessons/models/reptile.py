"""Reptile: walk towards where each task's own training leads.

Source: Nichol, Achiam, Schulman, "On first-order meta-learning algorithms", 2018.

Departures: the loss is squared error only. The tasks of an update are averaged, as in the paper's algorithm 2, and
epsilon is not annealed, as the authors' code can. The minibatches of an inner loop are the task's rows in the order in
which they come, not drawn at random. Dropout, if there is any, acts in the inner steps of
`ReptileRecommender.meta_update` alone, since that is where the model learns. All tasks of equal size take their inner
steps together, where the paper's serial version takes one task at a time.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import grad_and_value

from recmtl_lessons.models._adaptable import AdaptableNetwork, Params, detached, outer_step, stack_by_shape
from recmtl_lessons.models._checks import check_choice, check_count, check_number, check_positive

TaskData = tuple[Tensor, Tensor]
_FIELDS = ("x", "y")
_EPSILON = 1e-8  # Adam's


class ReptileRecommender(AdaptableNetwork):
    r"""A network whose parameters are a starting point, moved towards where training on each task leads.

    With :math:`\phi` the parameters and :math:`W_t` those after k steps of an ordinary optimizer on task t,

    .. math:: W_t = \mathrm{steps}_k(\phi; \mathrm{task}_t), \qquad
              \phi \leftarrow \phi + \epsilon \, \frac1T \sum_{t=1}^{T} (W_t - \phi).

    There is no gradient of a gradient, and no split of a task's rows into support and query.

    Parameters
    ----------
    input_dim : int
        Width of the input.
    hidden_dims : sequence of int
        Widths of the hidden layers, each followed by a ReLU; none makes the model linear.
    output_dim : int
        Values answered for each row.
    meta_lr : float
        :math:`\epsilon`; with ``meta_optimizer="adam"``, Adam's rate.
    inner_lr : float
        The rate of the inner optimizer.
    dropout_rate : float
        Share of the hidden units dropped in the inner steps of `meta_update` in training mode, in [0, 1).
    inner_steps : int
        k, the inner steps that `meta_update` takes.
    inner_batch_size : int, optional
        Rows an inner step: the first so many, then the next, and from the start again after the last. All rows if not
        given.
    inner_optimizer : {"sgd", "adam"}
        Begun afresh for each task.
    inner_betas : (float, float)
        Decay rates of an inner Adam. The first is 0, no momentum, as in the authors' own code.
    meta_optimizer : {"sgd", "adam"}
        "sgd" is the step above; "adam" gives the mean of :math:`\phi - W_t` to Adam as if it were a gradient.

    Notes
    -----
    Weights frozen by ``requires_grad_(False)`` stay in inner steps and in `meta_update`, while the others move. (Within
    `torch.func.functional_call`, as in a stack of models, inner steps cannot tell frozen weights, and move them too.)

    `state_dict` holds the weights, but nothing of the outer optimizer: Adam's moments are not in it. They stay with
    their parameters; those of a new head, or of ``load_state_dict(..., assign=True)``, begin afresh.

    References
    ----------
    Nichol et al. (2018), algorithm 2 (several tasks an update), and section 3 for Adam outside.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dims: Sequence[int] = (128, 64),
        output_dim: int = 1,
        meta_lr: float = 0.5,
        inner_lr: float = 0.03,
        dropout_rate: float = 0.0,
        *,
        inner_steps: int = 10,
        inner_batch_size: int | None = None,
        inner_optimizer: str = "sgd",
        inner_betas: tuple[float, float] = (0.0, 0.999),
        meta_optimizer: str = "sgd",
    ):
        check_count("inner_steps", inner_steps)
        if inner_batch_size is not None:
            check_count("inner_batch_size", inner_batch_size)
        check_choice("inner_optimizer", inner_optimizer, ("sgd", "adam"))
        check_choice("meta_optimizer", meta_optimizer, ("sgd", "adam"))
        if not isinstance(inner_betas, (tuple, list)) or len(inner_betas) != 2:
            raise ValueError(f"inner_betas: got {inner_betas!r}, expected two decay rates")
        for beta in inner_betas:
            check_number("inner_betas", beta, 0.0, 1.0, below=True)
        super().__init__(input_dim, hidden_dims, output_dim, meta_lr, inner_lr, dropout_rate)
        self.inner_steps, self.inner_batch_size = inner_steps, inner_batch_size
        self.inner_optimizer, self.inner_betas = inner_optimizer, tuple(map(float, inner_betas))
        self.meta_optimizer = meta_optimizer

    def inner_loop(
        self,
        task_data: TaskData,
        num_steps: int = 10,
        params: Mapping[str, Tensor] | None = None,
        inner_lr: float | Tensor | None = None,
    ) -> Params:
        """Train on one task from the model's parameters, with a fresh optimizer. The model stays as it is.

        Works under `torch.vmap`, for many tasks or many models.

        Parameters
        ----------
        task_data : (Tensor, Tensor)
            x (rows, input_dim), and y (rows, output_dim), or (rows,) if ``output_dim`` is 1.
        num_steps : int
            Steps; 0 returns a copy of the starting point.
        params : mapping {name: Tensor}, optional
            Where to start; the model's own parameters if not given.
        inner_lr : float or scalar Tensor, optional
            Another rate than the model's.

        Returns
        -------
        dict {name: Tensor}
            Detached: nothing leads back to the model. For ``model(x, params)`` or ``model.predict(x, params)``.

        Raises
        ------
        ValueError
            If the steps diverge, or all weights are frozen; or an argument does not fit.
        """
        if not isinstance(task_data, (tuple, list)) or len(task_data) != 2:
            came = f"{type(task_data).__name__}" + (f" of {len(task_data)}" if isinstance(task_data, Sequence) else "")
            raise ValueError(f"task_data: got {came}, expected (x, y)")
        return self._adapt(_FIELDS, *task_data, num_steps, params, inner_lr)

    def adapt_to_new_task(self, support_x: Tensor, support_y: Tensor, num_steps: int = 5) -> Params:
        """Return parameters for one new task: `inner_loop` under the name that it has in MAML.

        Parameters
        ----------
        support_x, support_y : Tensor
            As x and y in `inner_loop`.
        num_steps : int

        Returns
        -------
        dict {name: Tensor}
        """
        return self._adapt(("support_x", "support_y"), support_x, support_y, num_steps, None, None)

    def pseudo_gradient(
        self, tasks_data: TaskData, num_steps: int | None = None, inner_lr: float | Tensor | None = None
    ) -> Params:
        r"""Return what stands where other methods have a gradient: the mean over some tasks of :math:`\phi - W_t`.

        Works under `torch.vmap` over models.

        Parameters
        ----------
        tasks_data : tuple of two Tensor
            Stacked: x (T, rows, input_dim), and y (T, rows) or (T, rows, output_dim).
        num_steps, inner_lr : optional
            The model's ``inner_steps`` and ``inner_lr`` if not given.

        Returns
        -------
        dict {name: Tensor}
            Detached.

        Raises
        ------
        ValueError
            If the inner steps diverge, or all weights are frozen; or an argument does not fit.
        """
        if not isinstance(tasks_data, (tuple, list)) or len(tasks_data) != 2:
            came = f"{len(tasks_data)} parts" if isinstance(tasks_data, (tuple, list)) else type(tasks_data).__name__
            raise ValueError(f"tasks_data: got {came}, expected two stacked tensors: x, y")
        x, y = self._check_rows(_FIELDS, *tasks_data)
        num_steps = self.inner_steps if num_steps is None else num_steps
        check_count("num_steps", num_steps)
        move = self._move(x, y, num_steps, self._rate(inner_lr))[0]
        self._check_moved("tasks_data", move.values(), num_steps, inner_lr)
        return move

    def meta_update(self, tasks_data: Sequence[TaskData] | TaskData) -> float:
        r"""Take one step towards the parameters of some tasks after their inner loops.

        A new value of ``meta_lr`` counts from the next update on.

        Parameters
        ----------
        tasks_data : list of (x, y), or a tuple of two stacked tensors
            Shapes as in `inner_loop`; stacked, with a leading dimension of tasks. Tasks of a list may differ in their
            numbers of rows; each counts the same.

        Returns
        -------
        float
            The squared error of the rows that the inner steps saw, each before its step: the mean over tasks and steps.

        Raises
        ------
        ValueError
            If all weights are frozen, or the inner steps diverge; or an argument does not fit. Nothing has changed
            then.
        """
        groups = [self._check_rows(_FIELDS, *group) for group in stack_by_shape(tasks_data, _FIELDS)]
        moves = [self._move(*group, self.inner_steps, self.inner_lr) for group in groups]
        shares = [len(x) / sum(len(x) for x, _ in groups) for x, _ in groups]
        loss = sum(share * loss for share, (_, loss) in zip(shares, moves, strict=True))
        mean = {name: sum(s * move[name] for s, (move, _) in zip(shares, moves, strict=True)) for name in moves[0][0]}
        self._check_moved("tasks_data", (loss, *mean.values()), self.inner_steps)
        # phi - W: an SGD step of rate epsilon is phi += epsilon (W - phi)
        kind = torch.optim.SGD if self.meta_optimizer == "sgd" else torch.optim.Adam
        moving = {name: mean[name] for name in self._moving}
        outer_step(self, moving, kind, self._diverged("tasks_data", self.inner_steps))
        self._optimizer.zero_grad()
        return float(loss)

    # All tasks at once.

    def _move(self, x: Tensor, y: Tensor, num_steps: int, inner_lr: float | Tensor) -> tuple[Params, Tensor]:
        """Return the mean of phi - W over T tasks, and their mean loss: x (T, rows, input_dim), y (T, rows, output)."""
        weights, count = detached(self.named_weights()), len(x)
        start = {name: value.expand(count, *value.shape) for name, value in weights.items()}
        dropout = self.dropout_rate if self.training else 0.0
        with torch.no_grad():
            after, loss = self._inner_loops(start, x, y, num_steps, inner_lr, dropout)
        return {name: value - after[name].mean(0) for name, value in weights.items()}, loss / num_steps

    def _inner_loops(
        self, params: Params, x: Tensor, y: Tensor, num_steps: int, inner_lr: float | Tensor, dropout: float = 0.0
    ) -> tuple[Params, Tensor]:
        """Take inner steps of T tasks from ``params`` (T, ...), and sum the tasks' mean loss over the steps."""
        adam = _Adam(self.inner_betas) if self.inner_optimizer == "adam" else None  # a fresh one, for each task
        size, total = self.inner_batch_size or x.shape[1], x.new_zeros(())
        # Without Adam the loss is multiplied by minus the rate, so that its gradient already is the step: one product,
        # and not one at each parameter.
        factor = 1.0 if adam else -inner_lr
        moving = {name: params[name] for name in self._moving}
        fixed = {name: value for name, value in params.items() if name not in moving}
        for step in range(num_steps):
            rows_x, rows_y = (_rows(part, step, size) for part in (x, y))  # (T, size, ...)
            gradient, loss = grad_and_value(self._support_loss(fixed, rows_x, rows_y, factor, dropout))(moving)
            move = {n: -inner_lr * m for n, m in adam(gradient).items()} if adam else gradient  # (T, ...)
            moving = {name: value + move[name] for name, value in moving.items()}
            total = total + loss / (factor * len(x))
        return {name: moving.get(name, value) for name, value in params.items()}, total

    # What comes in.

    def _adapt(
        self,
        names: tuple[str, str],
        x: Tensor,
        y: Tensor,
        num_steps: int,
        params: Mapping[str, Tensor] | None,
        inner_lr: float | Tensor | None,
    ) -> Params:
        if not isinstance(x, Tensor) or x.ndim != 2 or 0 in x.shape:
            came = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"{names[0]}: got {came}, expected (rows, {self.input_dim}) with at least one row")
        y = self._targets(names[1], y, (len(x),))
        x, y = self._check_rows(names, x[None], y[None])
        check_count("num_steps", num_steps, least=0)
        rate = self._rate(inner_lr)
        if params is not None:
            self._check_params(params)
        start = {n: value[None] for n, value in detached(params or self.named_weights()).items()}
        with torch.no_grad():
            after, _ = self._inner_loops(start, x, y, num_steps, rate)
        self._check_moved(names[0], after.values(), num_steps, inner_lr)
        return {name: value.squeeze(0).clone() for name, value in after.items()}

    def _rate(self, inner_lr: float | Tensor | None) -> float | Tensor:
        if inner_lr is None:
            return self.inner_lr
        check_positive("inner_lr", inner_lr)
        return inner_lr


class _Adam:
    """Adam's direction for parameters (T, ...), with a state that begins at nothing (Kingma and Ba 2015).

    A rule of its own, since PyTorch's optimizers work in place and so not under `torch.vmap`.
    """

    def __init__(self, betas: tuple[float, float]):
        self._betas, self._steps = betas, 0
        self._mean: Params = {}
        self._square: Params = {}

    def __call__(self, gradient: Params) -> Params:
        first, second = self._betas
        self._steps += 1
        self._mean = {n: first * self._mean.get(n, 0.0) + (1 - first) * g for n, g in gradient.items()}
        self._square = {n: second * self._square.get(n, 0.0) + (1 - second) * g * g for n, g in gradient.items()}
        mean_scale, square_scale = 1 - first**self._steps, 1 - second**self._steps
        return {n: m / mean_scale / ((self._square[n] / square_scale).sqrt() + _EPSILON) for n, m in self._mean.items()}


def _rows(values: Tensor, step: int, size: int) -> Tensor:
    """Return the rows of one inner step, (T, rows, ...) -> (T, min(size, rows), ...)."""
    count = values.shape[1]
    return values if size >= count else values.roll(-(step * size % count), 1)[:, :size]
