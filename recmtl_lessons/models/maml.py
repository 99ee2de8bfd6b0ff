"""MAML: parameters from which a few gradient steps on a few examples lead far.

Sources: Finn, Abbeel, Levine, "Model-agnostic meta-learning for fast adaptation of deep networks", ICML 2017; for the
options Li, Zhou, Chen, Li, "Meta-SGD: learning to learn quickly for few-shot learning", 2017 (learned rates), and
Raghu, Raghu, Bengio, Vinyals, "Rapid learning or feature reuse? Towards understanding the effectiveness of MAML", ICLR
2020 (ANIL: the head alone adapts).

Departures: the loss is squared error only. Dropout, if there is any, acts on the query rows of meta-training and never
on support rows: an inner step is the same step whenever it is taken. All tasks of equal size take their inner steps
together, as one batched product a layer; that computes what `torch.vmap` over the tasks would, with fewer operations.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import grad

from recmtl_lessons.models._adaptable import AdaptableNetwork, Params, adam_step, detached, stack_by_shape
from recmtl_lessons.models._checks import check_choice, check_count, check_positive

Task = tuple[Tensor, Tensor, Tensor, Tensor]
_FIELDS = ("support_x", "support_y", "query_x", "query_y")


class MAMLRecommender(AdaptableNetwork):
    r"""A network whose parameters are a starting point: for each task they move a few steps from there.

    With :math:`\theta` the parameters, :math:`S` and :math:`Q` the support and query rows of a task, and L the mean
    squared error,

    .. math:: \theta_0 = \theta, \quad
              \theta_{k+1} = \theta_k - \alpha \nabla_{\theta_k} L(\theta_k; S), \qquad
              \min_\theta \; \frac1T \sum_{t=1}^{T} L(\theta_n^{(t)}; Q^{(t)}).

    Parameters
    ----------
    input_dim : int
        Width of the input.
    hidden_dims : sequence of int
        Widths of the hidden layers, each followed by a ReLU; none makes the model linear.
    output_dim : int
        Values answered for each row.
    meta_lr : float
        Adam's rate for :math:`\theta`, in `meta_update`.
    inner_lr : float
        :math:`\alpha`, the rate of the inner steps.
    dropout_rate : float
        Share of the hidden units dropped for query rows in training, in [0, 1).
    inner_steps : int
        n, the inner steps that `meta_update` takes.
    first_order : bool
        Whether `meta_update` takes :math:`\partial\theta_n / \partial\theta` for the identity (first-order MAML).
    learn_inner_lr : bool
        Whether :math:`\alpha` is a parameter too, one number for each parameter that adapts, starting at ``inner_lr``
        (Meta-SGD). Such rates may become negative.
    adapt : {"all", "head"}
        What an inner step moves: everything, or the last layer alone (ANIL).

    Raises
    ------
    ValueError
        If an argument is out of its range; the message names it, what came and what was expected.

    Notes
    -----
    The default rates are for standardised features and targets: with features of scale 3 and raw stars they hardly
    converge.

    References
    ----------
    Finn et al. (2017), section 2.2 and algorithm 1; first-order MAML, section 5.2. Li et al. (2017), section 3.2;
    Raghu et al. (2020), section 4.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dims: Sequence[int] = (128, 64),
        output_dim: int = 1,
        meta_lr: float = 1e-3,
        inner_lr: float = 0.03,
        dropout_rate: float = 0.0,
        *,
        inner_steps: int = 5,
        first_order: bool = False,
        learn_inner_lr: bool = False,
        adapt: str = "all",
    ):
        super().__init__(input_dim, hidden_dims, output_dim, meta_lr, inner_lr, dropout_rate)
        check_count("inner_steps", inner_steps)
        check_choice("first_order", first_order, (False, True))
        check_choice("adapt", adapt, ("all", "head"))
        self.inner_steps, self.first_order, self.adapt = inner_steps, bool(first_order), adapt
        self._moving = tuple(name for name in self.named_weights() if adapt == "all" or name.startswith("head."))
        self.inner_rates = None
        if learn_inner_lr:
            moving = [self.named_weights()[name] for name in self._moving]
            self.inner_rates = nn.ParameterList(torch.full_like(weight, inner_lr) for weight in moving)
        self._optimizer: torch.optim.Adam | None = None

    def inner_update(
        self,
        support_x: Tensor,
        support_y: Tensor,
        num_steps: int = 1,
        params: Mapping[str, Tensor] | None = None,
        first_order: bool = False,
        inner_lr: float | Tensor | None = None,
    ) -> Params:
        """Take inner steps on one task's support rows. The model stays as it is; the graph back to it is kept.

        Works under `torch.vmap`, for many tasks or many models.

        Parameters
        ----------
        support_x : Tensor, (shots, input_dim)
        support_y : Tensor, (shots, output_dim)
            Or (shots,) if ``output_dim`` is 1.
        num_steps : int
            Steps, each on all support rows; 0 returns the starting point.
        params : mapping {name: Tensor}, optional
            Where to start; the model's own parameters if not given.
        first_order : bool
            Whether gradients through the steps' own gradients are left out.
        inner_lr : float or scalar Tensor, optional
            Another rate than the model's; not together with learned rates.

        Returns
        -------
        dict {name: Tensor}
            All parameters, those that do not adapt among them.

        Raises
        ------
        ValueError
            If shapes or values do not fit, ``params`` are not this network's, or ``num_steps`` is negative.
        """
        self._check_features("support_x", support_x)
        targets = self._targets("support_y", support_y, (len(support_x),))
        check_count("num_steps", num_steps, least=0)
        self._check_rate(inner_lr)
        if params is not None:
            self._check_params(params)
        start = {name: value.unsqueeze(0) for name, value in (params or self.named_weights()).items()}
        moved = self._inner_loops(start, support_x[None], targets[None], num_steps, first_order, inner_lr)
        return {name: value.squeeze(0) for name, value in moved.items()}

    def adapt_to_new_task(self, support_x: Tensor, support_y: Tensor, num_steps: int = 5) -> Params:
        """Parameters for one new task, detached: nothing leads back to the model, and the model stays as it is.

        Parameters
        ----------
        support_x, support_y, num_steps
            As `inner_update`.

        Returns
        -------
        dict {name: Tensor}
            For ``model(x, params)`` or ``model.predict(x, params)``.

        Raises
        ------
        ValueError
            As `inner_update`.
        """
        with torch.no_grad():
            adapted = self.inner_update(support_x, support_y, num_steps)
        return {name: value.detach().clone() for name, value in adapted.items()}

    def query_losses(
        self,
        tasks: Task,
        num_steps: int | None = None,
        first_order: bool | None = None,
        inner_lr: float | Tensor | None = None,
    ) -> Tensor:
        """Mean squared error of each task's query rows after adapting to its support rows, with gradients.

        What `meta_update` makes small. Works under `torch.vmap` over models.

        Parameters
        ----------
        tasks : tuple of four Tensor
            Stacked: support_x (T, shots, input_dim), support_y (T, shots) or (T, shots, output_dim), and the same for
            the query rows.
        num_steps, first_order : optional
            The model's ``inner_steps`` and ``first_order`` if not given.
        inner_lr : optional
            As in `inner_update`.

        Returns
        -------
        Tensor, (T,)

        Raises
        ------
        ValueError
            If shapes or values do not fit.
        """
        if not isinstance(tasks, (tuple, list)) or len(tasks) != len(_FIELDS):
            came = f"{len(tasks)} parts" if isinstance(tasks, (tuple, list)) else type(tasks).__name__
            raise ValueError(f"tasks: got {came}, expected four stacked tensors: {', '.join(_FIELDS)}")
        support_x, support_y, query_x, query_y = self._check_stacked(tasks)
        num_steps = self.inner_steps if num_steps is None else num_steps
        check_count("num_steps", num_steps, least=0)
        self._check_rate(inner_lr)
        first_order = self.first_order if first_order is None else first_order
        count = len(support_x)
        start = {name: value.expand(count, *value.shape) for name, value in self.named_weights().items()}
        adapted = self._inner_loops(start, support_x, support_y, num_steps, first_order, inner_lr)
        answers = self._answer_each(adapted, query_x, self.dropout_rate if self.training else 0.0)
        return (answers - query_y).square().mean((1, 2))

    def meta_update(self, tasks: Sequence[Task] | Task) -> float:
        """One step of Adam on the mean query loss of some tasks after adapting to each.

        Parameters
        ----------
        tasks : list of (support_x, support_y, query_x, query_y), or a tuple of four stacked tensors
            Shapes as in `inner_update`; stacked, with a leading dimension of tasks. Tasks of a list may differ in their
            numbers of rows; each counts the same.

        Returns
        -------
        float
            The mean query loss before the step.

        Raises
        ------
        ValueError
            If there is no task, shapes or values do not fit, or the query loss or its gradient is not finite, which
            means that the inner steps diverge. Nothing has changed then.
        """
        groups = [self._check_stacked(group) for group in stack_by_shape(tasks, _FIELDS)]
        n_tasks = sum(len(group[0]) for group in groups)
        loss = torch.stack([self.query_losses(group).sum() for group in groups]).sum() / n_tasks
        refusal = (
            f"tasks: got a query loss of {float(loss.detach()):g} after {self.inner_steps} inner steps, or its "
            f"gradient, that is not finite, expected finite ones; a lower inner_lr than {self.inner_lr:g} may help"
        )
        return adam_step(self, loss, refusal)

    # All tasks at once.

    def _inner_loops(
        self, params: Params, x: Tensor, y: Tensor, num_steps: int, first_order: bool,
        inner_lr: float | Tensor | None,
    ) -> Params:  # fmt: skip
        """Inner steps of T tasks: ``params`` (T, ...), x (T, shots, input_dim), y (T, shots, output_dim)."""
        rate = self.inner_lr if inner_lr is None else inner_lr
        rate = 1.0 if self.inner_rates is not None else rate
        fixed = {name: value for name, value in params.items() if name not in self._moving}
        moving = {name: params[name] for name in self._moving}
        for _ in range(num_steps):
            seen, frozen = moving, fixed
            if first_order:
                seen, frozen = detached(moving), detached(fixed)
            # Tasks do not meet: the gradient of the sum is each task's own. The rate goes into
            # the loss, where it multiplies one number and not each parameter.
            loss = self._support_loss(frozen, x, y, -rate)
            move = grad(loss)(seen)  # minus rate times gradient, (T, ...)
            if self.inner_rates is not None:
                rates = zip(self._moving, self.inner_rates, strict=True)
                move = {name: rate * move[name] for name, rate in rates}
            moving = {name: value + move[name] for name, value in moving.items()}
        return {name: moving.get(name, value) for name, value in params.items()}

    # What comes in.

    def _check_rate(self, inner_lr: float | Tensor | None) -> None:
        if inner_lr is None:
            return
        if self.inner_rates is not None:
            raise ValueError(f"inner_lr: got {inner_lr!r}, expected None: this model learns its rates")
        check_positive("inner_lr", inner_lr)

    def _check_stacked(self, tasks: Task) -> Task:
        support = self._check_rows(_FIELDS[:2], *tasks[:2])
        query = self._check_rows(_FIELDS[2:], *tasks[2:])
        if len(support[0]) != len(query[0]):
            raise ValueError(f"query_x: got {len(query[0])} tasks, expected {len(support[0])} as in support_x")
        return (*support, *query)
