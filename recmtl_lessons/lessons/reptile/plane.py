"""Three users in a plane: a recommender with two weights, where the way of everything can be drawn as it is."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from recmtl_lessons.models import ReptileRecommender
from recmtl_lessons.teaching import Running

USERS = ("Ada", "Ben", "Cleo")
UPDATES = 60
ACROSS, UP = torch.linspace(-3.4, 3.2, 121), torch.linspace(-3.8, 3.1, 121)  # what is drawn
_FAR = 50.0

# A user's rating is taste times the film's two properties. Each has seen films of another kind: Ada's differ in
# suspense and hardly in humour, Ben's the other way round, and Cleo's in both.
_TASTES = ((2.0, 1.2), (-1.0, 2.0), (-0.2, -1.6))
_SPREADS = ((1.5, 0.45), (0.4, 1.3), (0.7, 0.7))
_FILMS = 40


@dataclass(frozen=True)
class Bowls:
    """The users' exact losses: L(w) = (w - optimum)' H (w - optimum) / 2 + least, T users.

    Attributes
    ----------
    hessian : Tensor, (T, 2, 2)
    optimum : Tensor, (T, 2)
    least : Tensor, (T,)
    """

    hessian: Tensor
    optimum: Tensor
    least: Tensor

    def loss(self, weights: Tensor) -> Tensor:
        """Return each user's mean squared error, (..., 2) -> (..., T)."""
        away = weights[..., None, :] - self.optimum  # (..., T, 2)
        return torch.einsum("...ti,tij,...tj->...t", away, self.hessian, away) / 2 + self.least


def ratings(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw films seen x (3, films, 2), and stars y (3, films), with some noise; both minus the user's own means.

    So there is nothing for a bias to learn: it stays at 0, and two weights are all that moves.
    """
    generator = torch.Generator().manual_seed(seed)
    tastes, spreads = torch.tensor(_TASTES), torch.tensor(_SPREADS)
    x = torch.randn(3, _FILMS, 2, generator=generator) * spreads[:, None]
    y = torch.einsum("tfi,ti->tf", x, tastes) + 0.3 * torch.randn(3, _FILMS, generator=generator)
    return x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)


def bowls(x: Tensor, y: Tensor) -> Bowls:
    """Solve least squares user by user: x (T, films, 2), y (T, films)."""
    films = x.shape[1]
    hessian = 2 * x.mT @ x / films  # (T, 2, 2)
    pull = 2 * torch.einsum("tfi,tf->ti", x, y) / films
    optimum = torch.linalg.solve(hessian, pull)
    least = (torch.einsum("tfi,ti->tf", x, optimum) - y).square().mean(1)
    return Bowls(hessian, optimum, least)


def joint_optimum(of: Bowls) -> Tensor:
    """Return where the sum of the losses is least, (2,): every user pulls with the steepness of their bowl."""
    return torch.linalg.solve(of.hessian.sum(0), (of.hessian @ of.optimum[..., None]).sum(0)).squeeze(1)


def rest_point(of: Bowls, inner_steps: int, inner_lr: float) -> Tensor:
    r"""Return where Reptile comes to rest, (2,): the sum of :math:`(I - (I - aH)^k)(w^* - \phi)` is 0."""
    shrink = torch.eye(2) - inner_lr * of.hessian
    reach = torch.eye(2) - torch.linalg.matrix_power(shrink, inner_steps)  # (T, 2, 2), what k steps leave behind
    return torch.linalg.solve(reach.sum(0), (reach @ of.optimum[..., None]).sum(0)).squeeze(1)


@dataclass(frozen=True)
class Plane:
    """Reptile's way on three users, from the first update to the last.

    Attributes
    ----------
    users : Bowls
    surface : Tensor, (3, len(UP), len(ACROSS))
        Each user's loss over the picture; rows go up.
    way : Tensor, (UPDATES + 1, 2)
        The meta-parameters; fewer where they leave for infinity.
    shown : int
        The update whose inner loops are drawn.
    paths : Tensor, (3, inner_steps + 1, 2)
        The inner loops of that update.
    joint, rest : Tensor, (2,)
        The joint optimum, and where Reptile comes to rest.
    """

    users: Bowls
    surface: Tensor
    way: Tensor
    shown: int
    paths: Tensor
    joint: Tensor
    rest: Tensor

    @property
    def diverges(self) -> bool:
        """Whether the way leaves for infinity, or leads away from where it should come to rest."""
        first, last = ((self.way[k] - self.rest).norm() for k in (0, -1))
        return float(self.way[-1].abs().max()) > _FAR or float(last) > float(first)

    def climbers(self, inner_lr: float) -> tuple[str, ...]:
        """Name the users whose inner steps lead away from their optimum: rate times steepest curvature above 2."""
        steepest = torch.linalg.eigvalsh(self.users.hessian)[:, -1]  # (T,)
        return tuple(name for name, h in zip(USERS, steepest.tolist(), strict=True) if inner_lr * h > 2)


START = (-2.9, -0.2)


def reptile_in_the_plane(inner_steps: int, inner_lr: float, meta_lr: float, update: int) -> Iterator[Running]:
    """Train the package's model on three users, and keep every point it comes to."""
    x, y = ratings()
    users, model = bowls(x, y), _linear(inner_steps, inner_lr, meta_lr)
    way, paths = [_place(model.named_weights())], []
    surface = users.loss(torch.stack(torch.meshgrid(ACROSS, UP, indexing="xy"), dim=-1)).movedim(-1, 0)
    joint, rest = joint_optimum(users), rest_point(users, inner_steps, inner_lr)

    def snapshot() -> Plane:
        return Plane(users, surface, torch.stack(way), len(paths), paths[-1], joint, rest)

    while len(way) <= UPDATES and float(way[-1].abs().max()) <= _FAR:
        if len(paths) < update:
            paths.append(_paths(model, x, y))
        model.meta_update((x, y))
        way.append(_place(model.named_weights()))
        yield Running(len(way) - 1, UPDATES, snapshot, "update")
    return snapshot()


def one_update(inner_steps: int = 5, inner_lr: float = 0.1, meta_lr: float = 0.5) -> Plane:
    """Return the plane after the first update."""
    return next(reptile_in_the_plane(inner_steps, inner_lr, meta_lr, 1)).snapshot()


def _linear(inner_steps: int, inner_lr: float, meta_lr: float) -> ReptileRecommender:
    model = ReptileRecommender(2, (), meta_lr=meta_lr, inner_lr=inner_lr, inner_steps=inner_steps)
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor([START]))
        model.head.bias.zero_()
    return model


def _paths(model: ReptileRecommender, x: Tensor, y: Tensor) -> Tensor:
    """Return each user's inner loop from where the model stands, (3, inner_steps + 1, 2)."""
    paths = []
    for t in range(len(x)):
        params, path = model.named_weights(), []
        for _ in range(model.inner_steps):
            path.append(_place(params))
            params = model.inner_loop((x[t], y[t]), 1, params)
        paths.append(torch.stack([*path, _place(params)]))
    return torch.stack(paths)


def _place(params: dict[str, Tensor]) -> Tensor:
    return params["head.weight"][0].detach().clone()
