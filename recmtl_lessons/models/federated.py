r"""Federated learning: clients train the server's network on ratings that stay with them, and send how it moved.

Sources: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-efficient learning of deep networks from
decentralized data", AISTATS 2017 (FedAvg, FedSGD); Fallah, Mokhtari, Ozdaglar, "Personalized federated learning with
theoretical guarantees: a model-agnostic meta-learning approach", NeurIPS 2020 (Per-FedAvg); Singhal, Sidahmed, Garrett,
Wu, Rush, Prakash, "Federated reconstruction: partially local federated learning", NeurIPS 2021 (FedRecon); McMahan,
Ramage, Talwar, Zhang, "Learning differentially private recurrent language models", ICLR 2018 (clipping and noise).

Departures: the loss is squared error only, and a local step takes all of a client's rows. Per-FedAvg's step adapts on
the first rows of a client and is judged on the others, where the paper draws new rows. FedRecon's personal head is
solved in closed form, by ridge regression, and differentiated through; the paper takes gradient steps for it.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import grad

from recmtl_lessons.models._adaptable import AdaptableNetwork, Params, detached
from recmtl_lessons.models._checks import (
    _values_are_at_hand,
    check_answer,
    check_choice,
    check_count,
    check_dense,
    check_finite,
    check_number,
    check_positive,
    check_values,
    check_widths,
)

METHODS = ("fedavg", "per-fedavg", "per-fedavg-first-order", "reconstruction")


class FederatedRecommender(AdaptableNetwork):
    r"""A network whose clients take local steps on their own ratings. What a client sends is one vector, W - phi.

    With :math:`\phi` the server's parameters and :math:`F_c` the loss of client c,

    .. math:: W_{c,0} = \phi, \quad W_{c,k+1} = W_{c,k} - \eta \nabla F_c(W_{c,k}), \qquad
              \phi \leftarrow \phi + \sum_c \frac{n_c}{\sum n} (W_{c,K} - \phi).

    One step is FedSGD, which is gradient descent on all rows of the round. The methods differ in the loss alone.

    Parameters
    ----------
    input_dim : int
        Width of the input.
    hidden_dims : sequence of int
        Widths of the hidden layers, each followed by a ReLU.
    method : {"fedavg", "per-fedavg", "per-fedavg-first-order", "reconstruction"}
        A client's loss: of all its rows; of its query rows after one step on its support rows, with or without the
        gradient through that step; of its query rows, with a head that ridge regression finds on its support rows. The
        last sends the body alone: the head never leaves the client.
    local_steps : int
        K.
    local_lr : float
        :math:`\eta`.
    inner_lr : float
        The rate of Per-FedAvg's step within the loss, and of `personalise`.
    support_rows : int
        How many of a client's rows are its support; the others are its query. FedAvg makes no such difference.
    ridge : float
        The penalty of the reconstructed head, over the sum of squared errors.

    Notes
    -----
    Weights frozen by ``requires_grad_(False)`` stay, but for a head that is reconstructed. (Within
    `torch.func.functional_call`, as in a stack of models, steps cannot tell frozen weights, and move them too.)

    References
    ----------
    McMahan et al. (2017), algorithm 1. Fallah et al. (2020), algorithm 1. Singhal et al. (2021), algorithm 1.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dims: Sequence[int] = (32, 32),
        method: str = "fedavg",
        *,
        local_steps: int = 5,
        local_lr: float = 0.05,
        inner_lr: float = 0.05,
        support_rows: int = 10,
        ridge: float = 1.0,
    ):
        check_choice("method", method, METHODS)
        check_count("local_steps", local_steps)
        check_positive("local_lr", local_lr)
        check_count("support_rows", support_rows)
        check_positive("ridge", ridge)
        check_widths("hidden_dims", hidden_dims, empty=method != "reconstruction")  # sends nothing but the body
        super().__init__(input_dim, hidden_dims, 1, 1.0, inner_lr, 0.0)
        self.method, self.local_steps, self.local_lr = method, local_steps, float(local_lr)
        self.support_rows, self.ridge = support_rows, float(ridge)
        if method == "reconstruction":
            self._adapting = tuple(name for name in self._adapting if not name.startswith("head."))

    @property
    def update_size(self) -> int:
        """The numbers that a client sends in a round, P."""
        return sum(value.numel() for name, value in self.named_weights().items() if name in self._adapting)

    def unflatten(self, vector: Tensor) -> Params:
        """Return what a client sends, or many do, as parameters by name: (..., P) -> {name: (..., *shape)}."""
        check_values("vector", vector, (*getattr(vector, "shape", ())[:-1], self.update_size))
        shapes = {name: value.shape for name, value in self.named_weights().items() if name in self._adapting}
        parts = vector.split([shape.numel() for shape in shapes.values()], dim=-1)
        return {name: part.unflatten(-1, shapes[name]) for name, part in zip(shapes, parts, strict=True)}

    def client_updates(
        self,
        x: Tensor,
        y: Tensor,
        known: Tensor | None = None,
        num_steps: int | None = None,
        local_lr: float | Tensor | None = None,
    ) -> Tensor:
        """Return what each of C clients sends after its local steps: how far its parameters moved.

        The model stays as it is, and nothing leads back to it. Works under `torch.vmap` over models.

        Parameters
        ----------
        x : Tensor, (C, rows, input_dim)
        y : Tensor, (C, rows)
        known : Tensor, (C, rows), bool, optional
            False where a row is there to fill up, as clients differ in how many they have; at least one of each part
            is known. All unless given.
        num_steps, local_lr : optional
            Others than the model's own.

        Returns
        -------
        Tensor, (C, P)

        Raises
        ------
        ValueError
            If the steps diverge, or an argument does not fit.
        """
        x, y = self._check_rows(("x", "y"), x, y)  # (C, rows, input_dim), (C, rows, 1)
        num_steps = self.local_steps if num_steps is None else num_steps
        rate = self.local_lr if local_lr is None else local_lr
        check_count("num_steps", num_steps)
        check_positive("local_lr", rate)
        weight = self._row_weights(known, y)
        start = {n: v.expand(len(x), *v.shape) for n, v in detached(self.named_weights()).items()}
        moving = {name: start[name] for name in self._moving}
        fixed = {name: value for name, value in start.items() if name not in moving}
        with torch.no_grad():
            for _ in range(num_steps):
                # Clients do not meet: the gradient of the sum is each client's own.
                slope = grad(lambda own: self._losses({**fixed, **own}, x, y, weight).sum())(moving)
                moving = {name: value - rate * slope[name] for name, value in moving.items()}
        self._check_moved("x", moving.values(), num_steps, rate)
        return torch.cat([(moving.get(n, start[n]) - start[n]).flatten(1) for n in self._adapting], dim=1)  # (C, P)

    def personalise(
        self,
        support_x: Tensor,
        support_y: Tensor,
        num_steps: int = 3,
        params: Mapping[str, Tensor] | None = None,
        inner_lr: float | Tensor | None = None,
    ) -> Params:
        """Return parameters for one client who has the network: steps on its rows, or a head of its own.

        Parameters
        ----------
        support_x : Tensor, (rows, input_dim)
        support_y : Tensor, (rows,)
        num_steps : int
            Gradient steps on all rows; by reconstruction one that is not 0 finds the head anew.
        params : mapping {name: Tensor}, optional
            Where to start; the model's own parameters if not given.
        inner_lr : optional
            Another rate than the model's.

        Returns
        -------
        dict {name: Tensor}
            Detached, for ``model(x, params)`` or ``model.predict(x, params)``.
        """
        self._check_features("support_x", support_x)
        x, y = self._check_rows(("support_x", "support_y"), support_x[None], self._targets_of(support_y, support_x))
        check_count("num_steps", num_steps, least=0)
        rate = self.inner_lr if inner_lr is None else inner_lr
        check_positive("inner_lr", rate)
        if params is not None:
            self._check_params(params)
        own = {name: value[None] for name, value in detached(params or self.named_weights()).items()}
        with torch.no_grad():
            if self.method == "reconstruction" and num_steps:
                own |= self._head(own, x, y, torch.ones_like(y))
            elif num_steps:
                weight = torch.full_like(y, 1 / y.shape[1])
                for _ in range(num_steps):
                    own = self._stepped(own, x, y, weight, rate)
        self._check_moved("support_x", own.values(), num_steps, rate)
        return {name: value.squeeze(0).clone() for name, value in own.items()}

    # A client's loss, of C clients side by side.

    def _losses(self, params: Params, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        if self.method == "fedavg":
            return self._errors(params, x, y, weight)
        k = self.support_rows
        support, query = (x[:, :k], y[:, :k], weight[:, :k]), (x[:, k:], y[:, k:], weight[:, k:])
        if self.method == "reconstruction":
            return self._errors({**params, **self._head(params, *support[:2], (support[2] > 0).to(y))}, *query)
        return self._errors(self._stepped(params, *support, self.inner_lr), *query)

    def _stepped(self, params: Params, x: Tensor, y: Tensor, weight: Tensor, rate: float | Tensor) -> Params:
        """Take one gradient step of each client on its rows, from all parameters but frozen ones."""
        start = detached(params) if self.method == "per-fedavg-first-order" else params
        moving = {name: start[name] for name in self._moving}
        slope = grad(lambda own: self._errors({**start, **own}, x, y, weight).sum())(moving)
        return {**params, **{name: params[name] - rate * slope[name] for name in moving}}

    def _errors(self, params: Params, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Return each client's mean squared error, (C,); its rows' weights add up to 1."""
        return (weight * (self._answer_each(params, x) - y).square()).sum((1, 2))

    def _head(self, params: Params, x: Tensor, y: Tensor, known: Tensor) -> Params:
        """Solve ridge regression for each client's head, on the body's answers: rows as many as equations."""
        for layer in self._layers[:-1]:
            x = torch.baddbmm(params[f"{layer}.bias"].unsqueeze(1), x, params[f"{layer}.weight"].mT).relu()
        phi = torch.cat([x, torch.ones_like(y)], dim=2) * known  # (C, rows, hidden + 1)
        kernel = phi @ phi.mT + self.ridge * torch.eye(phi.shape[1], dtype=phi.dtype, device=phi.device)
        factor, failed = torch.linalg.cholesky_ex(kernel)
        factor = factor.masked_fill((failed > 0)[:, None, None], torch.nan)  # is refused with what comes of it
        head = phi.mT @ torch.cholesky_solve(y * known, factor)  # (C, hidden + 1, 1)
        return {"head.weight": head[:, :-1].mT, "head.bias": head[:, -1]}

    # What comes in.

    def _row_weights(self, known: Tensor | None, y: Tensor) -> Tensor:
        """Return each row's share of its client's loss, (C, rows, 1); support and query each add up to 1."""
        parts = [slice(None)] if self.method == "fedavg" else [slice(self.support_rows), slice(self.support_rows, None)]
        if self.method != "fedavg" and y.shape[1] <= self.support_rows:
            raise ValueError(f"x: got {y.shape[1]} rows a client, expected more than support_rows={self.support_rows}")
        if known is None:
            known = torch.ones_like(y[..., 0], dtype=torch.bool)
        elif not isinstance(known, Tensor) or known.dtype != torch.bool:
            came = known.dtype if isinstance(known, Tensor) else type(known).__name__
            raise ValueError(f"known: got {came}, expected a bool tensor {tuple(y.shape[:2])}")
        check_values("known", known, tuple(y.shape[:2]))
        weight = known.to(y)
        for part in parts:
            if _values_are_at_hand(known) and not known[:, part].any(1).all():
                raise ValueError("known: got a client without a row, expected at least one of each part")
        return torch.cat([weight[:, part] / weight[:, part].sum(1, keepdim=True) for part in parts], dim=1)[..., None]

    def _targets_of(self, y: Tensor, x: Tensor) -> Tensor:
        return self._targets("support_y", y, (len(x),))[None]


def federated_average(updates: Tensor, weights: Tensor) -> Tensor:
    r"""Return the weighted mean of what clients sent, :math:`\sum_c w_c u_c / \sum_c w_c`.

    With the clients' numbers of rows it is FedAvg; with equal weights every client counts the same, and then FedAvg is
    Reptile (Jiang et al. 2019).

    Parameters
    ----------
    updates : Tensor, (..., C, P)
    weights : Tensor, (..., C)
        At least 0, and not all 0.

    Returns
    -------
    Tensor, (..., P)
    """
    _check_updates(updates)
    check_values("weights", weights, tuple(updates.shape[:-1]))
    if _values_are_at_hand(weights):
        if not (weights >= 0).all():
            raise ValueError(f"weights: got {weights.min():g}, expected 0 or more")
        if not (weights > 0).any(-1).all():
            raise ValueError("weights: got only 0, expected one above it")
    share = weights.double() / weights.double().sum(-1, keepdim=True)  # not to grow beyond what the updates can hold
    return (share.to(updates).unsqueeze(-1) * updates).sum(-2)


def clip_updates(updates: Tensor, norm: float) -> Tensor:
    """Shorten each client's whole update to this length at most: (..., C, P) -> (..., C, P)."""
    _check_updates(updates)
    check_positive("norm", norm)
    length = torch.linalg.vector_norm(updates, dim=-1, keepdim=True, dtype=torch.float64)  # squares grow beyond float32
    return (updates * (norm / length.clamp(min=torch.finfo(length.dtype).tiny)).clamp(max=1.0)).to(updates.dtype)


def private_average(
    updates: Tensor, clip: float, noise_multiplier: float, expected_clients: float, noise: Tensor
) -> Tensor:
    r"""Return a mean that says little about any one client: :math:`(\sum_c \mathrm{clip}(u_c) + \sigma S z) / qN`.

    All clients count the same, so that one client moves the sum by at most S, and the denominator is the number that is
    expected, not the number that came, which would be about the clients again. `privacy_spent` says what it costs.

    Parameters
    ----------
    updates : Tensor, (..., C, P)
        Of the clients who were drawn, each with the same chance q; zeros to fill up.
    clip : float
        S, the largest length of one client's update.
    noise_multiplier : float
        :math:`\sigma`.
    expected_clients : float
        qN.
    noise : Tensor, (..., P)
        Standard normal numbers z, drawn anew each round.

    Returns
    -------
    Tensor, (..., P)

    References
    ----------
    McMahan et al. (2018), algorithm 1, with the fixed-denominator estimator.
    """
    total = clip_updates(updates, clip).sum(-2)
    check_number("noise_multiplier", noise_multiplier, 0.0)
    check_positive("expected_clients", expected_clients)
    check_values("noise", noise, tuple(total.shape))
    mean = (total + noise_multiplier * clip * noise.to(total)) / expected_clients
    check_answer(
        mean, small=("expected_clients",), updates=updates, clip=clip, noise_multiplier=noise_multiplier, noise=noise,
        expected_clients=expected_clients,
    )  # fmt: skip
    return mean


def _check_updates(updates: Tensor) -> None:
    if not isinstance(updates, Tensor) or updates.ndim < 2 or 0 in updates.shape or not updates.is_floating_point():
        came = f"{updates.dtype} {tuple(updates.shape)}" if isinstance(updates, Tensor) else type(updates).__name__
        raise ValueError(f"updates: got {came}, expected floats (..., clients, numbers), no 0")
    check_dense("updates", updates)
    check_finite("updates", updates)
