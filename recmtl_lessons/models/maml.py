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
from recmtl_lessons.models._checks import check_choice, check_count, check_number, check_positive

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

    Notes
    -----
    The default rates are for standardised features and targets: with features of scale 3 and raw stars they hardly
    converge.

    Weights frozen by ``requires_grad_(False)`` stay in inner steps and in `meta_update`, while the others move. (Within
    `torch.func.functional_call`, as in a stack of models, inner steps cannot tell frozen weights, and move them too.)

    `state_dict` holds the weights, and the rates if they are learned, but nothing of the optimizer: Adam's moments are
    not in it. They stay with their parameters; those of a new head, or of ``load_state_dict(..., assign=True)``, begin
    afresh.

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
        check_count("inner_steps", inner_steps)
        check_choice("first_order", first_order, (False, True))
        check_choice("learn_inner_lr", learn_inner_lr, (False, True))
        if learn_inner_lr:
            check_number("inner_lr", inner_lr, 0.0, torch.finfo(torch.get_default_dtype()).max, above=True)
        check_choice("adapt", adapt, ("all", "head"))
        super().__init__(input_dim, hidden_dims, output_dim, meta_lr, inner_lr, dropout_rate)
        self.inner_steps, self.first_order, self.adapt = inner_steps, bool(first_order), adapt
        if adapt == "head":
            self._adapting = ("head.weight", "head.bias")
        self.inner_rates = None
        if learn_inner_lr:
            adapting = [self.named_weights()[name] for name in self._adapting]
            self.inner_rates = nn.ParameterList(torch.full_like(weight, self.inner_lr) for weight in adapting)

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
            If the steps diverge, or all that adapts is frozen; or an argument does not fit.
        """
        self._check_features("support_x", support_x)
        targets = self._targets("support_y", support_y, (len(support_x),))
        self._check_steps(num_steps, first_order, inner_lr)
        if params is not None:
            self._check_params(params)
        start = {name: value.unsqueeze(0) for name, value in (params or self.named_weights()).items()}
        moved = self._inner_loops(start, support_x[None], targets[None], num_steps, first_order, inner_lr)
        self._check_moved("support_x", moved.values(), num_steps, inner_lr)
        return {name: value.squeeze(0) for name, value in moved.items()}

    def adapt_to_new_task(self, support_x: Tensor, support_y: Tensor, num_steps: int = 5) -> Params:
        """Return parameters for one new task, detached: nothing leads back to the model, which stays as it is.

        Parameters
        ----------
        support_x, support_y, num_steps
            As `inner_update`.

        Returns
        -------
        dict {name: Tensor}
            For ``model(x, params)`` or ``model.predict(x, params)``.
        """
        with torch.no_grad():
            adapted = self.inner_update(support_x, support_y, num_steps)
        return {name: value.detach().clone() for name, value in adapted.items()}

    def query_losses(
        self,
        tasks_data: Task,
        num_steps: int | None = None,
        first_order: bool | None = None,
        inner_lr: float | Tensor | None = None,
    ) -> Tensor:
        """Return the mean squared error of each task's query rows after adapting to its support rows, with gradients.

        It is what `meta_update` makes small. Works under `torch.vmap` over models.

        Parameters
        ----------
        tasks_data : tuple of four Tensor
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
            If the inner steps diverge, or all that adapts is frozen; or an argument does not fit.
        """
        if not isinstance(tasks_data, (tuple, list)) or len(tasks_data) != len(_FIELDS):
            came = f"{len(tasks_data)} parts" if isinstance(tasks_data, (tuple, list)) else type(tasks_data).__name__
            raise ValueError(f"tasks_data: got {came}, expected four stacked tensors: {', '.join(_FIELDS)}")
        support_x, support_y, query_x, query_y = self._check_stacked(tasks_data)
        num_steps = self.inner_steps if num_steps is None else num_steps
        first_order = self.first_order if first_order is None else first_order
        self._check_steps(num_steps, first_order, inner_lr)
        count = len(support_x)
        start = {name: value.expand(count, *value.shape) for name, value in self.named_weights().items()}
        adapted = self._inner_loops(start, support_x, support_y, num_steps, first_order, inner_lr)
        answers = self._answer_each(adapted, query_x, self.dropout_rate if self.training else 0.0)
        losses = (answers - query_y).square().mean((1, 2))
        self._check_moved("tasks_data", [losses], num_steps, inner_lr)
        return losses

    def meta_update(self, tasks_data: Sequence[Task] | Task) -> float:
        """Take one step of Adam on the mean query loss of some tasks after adapting to each.

        Parameters
        ----------
        tasks_data : list of (support_x, support_y, query_x, query_y), or a tuple of four stacked tensors
            Shapes as in `inner_update`; stacked, with a leading dimension of tasks. Tasks of a list may differ in their
            numbers of rows; each counts the same.

        Returns
        -------
        float
            The mean query loss before the step.

        Raises
        ------
        ValueError
            If all parameters are frozen, or the query loss or its gradient is not finite, which means that the inner
            steps diverge; or an argument does not fit. Nothing has changed then.
        """
        groups = [self._check_stacked(group) for group in stack_by_shape(tasks_data, _FIELDS)]
        n_tasks = sum(len(group[0]) for group in groups)
        loss = torch.stack([self.query_losses(group).sum() for group in groups]).sum() / n_tasks
        return adam_step(self, loss, self._diverged("tasks_data", self.inner_steps))

    # All tasks at once.

    def _inner_loops(
        self, params: Params, x: Tensor, y: Tensor, num_steps: int, first_order: bool,
        inner_lr: float | Tensor | None,
    ) -> Params:  # fmt: skip
        """Take inner steps of T tasks: ``params`` (T, ...), x (T, shots, input_dim), y (T, shots, output_dim)."""
        rate = self.inner_lr if inner_lr is None else inner_lr
        rate = 1.0 if self.inner_rates is not None else rate
        moving = {name: params[name] for name in self._moving}
        fixed = {name: value for name, value in params.items() if name not in moving}
        for _ in range(num_steps):
            seen, frozen = moving, fixed
            if first_order:
                seen, frozen = detached(moving), detached(fixed)
            # Tasks do not meet: the gradient of the sum is each task's own. The rate goes into
            # the loss, where it multiplies one number and not each parameter.
            loss = self._support_loss(frozen, x, y, -rate)
            move = grad(loss)(seen)  # minus rate times gradient, (T, ...)
            if self.inner_rates is not None:
                rates = dict(zip(self._adapting, self.inner_rates, strict=True))
                move = {name: rates[name] * value for name, value in move.items()}
            moving = {name: value + move[name] for name, value in moving.items()}
        return {name: moving.get(name, value) for name, value in params.items()}

    # What comes in.

    def _check_steps(self, num_steps: int, first_order: bool, inner_lr: float | Tensor | None) -> None:
        check_count("num_steps", num_steps, least=0)
        check_choice("first_order", first_order, (False, True))
        if inner_lr is not None and self.inner_rates is not None:
            raise ValueError(
                f"inner_lr: got {inner_lr!r}, expected None: this model learns its rates; to give one, build it "
                "without learn_inner_lr"
            )
        if inner_lr is not None:
            check_positive("inner_lr", inner_lr)
        weights = self.named_weights()
        for name, rate in zip(self._adapting, self.inner_rates or (), strict=False):
            if rate.shape != weights[name].shape:
                came, wanted = tuple(rate.shape), tuple(weights[name].shape)
                raise ValueError(f"inner_rates: got shape {came} for {name}, expected {wanted}: one rate a number")

    def _check_stacked(self, tasks_data: Task) -> Task:
        support = self._check_rows(_FIELDS[:2], *tasks_data[:2])
        query = self._check_rows(_FIELDS[2:], *tasks_data[2:])
        if len(support[0]) != len(query[0]):
            raise ValueError(f"query_x: got {len(query[0])} tasks, expected {len(support[0])} as in support_x")
        return (*support, *query)
