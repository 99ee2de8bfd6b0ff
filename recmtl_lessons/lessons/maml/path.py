"""One user's path over the surface of their loss, and all users' losses step by step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from recmtl_lessons.models import MAMLRecommender
from recmtl_lessons.training.few_shot import Compared

ORDERS = {"MAML": "MAML", "first-order MAML": "first-order MAML", "joint training": "joint"}
SHOTS_TO_TRY = (1, 2, 5, 10, 20, 50)
_GRID = 31
_FAR = 30.0  # the starting point itself lies about 6 from 0


@dataclass(frozen=True)
class Path:
    """How a network adapts to one user, and to all.

    Attributes
    ----------
    across, up : Tensor, (_GRID,)
        Places along two directions in the space of the parameters, from the starting point on.
    surface : Tensor, (_GRID, _GRID)
        The user's support loss there; rows go up.
    walk : Tensor, (W, 2)
        Where the steps lie in that plane, up to the first that lands farther than `_FAR` from the start.
    next_step : float
        How far from the start the step after that lands; 0 where the walk is whole, infinite where it is no number.
    support : Tensor, (steps + 1,)
        The user's support loss after each step.
    query : Tensor, (users, steps + 1)
        Every user's query loss after each step; infinite or NaN where the steps diverge.
    """

    across: Tensor
    up: Tensor
    surface: Tensor
    walk: Tensor
    next_step: float
    support: Tensor
    query: Tensor


@torch.no_grad()
def adaptation_path(result: Compared, start: str, rate: float, steps: int, shots: int, user: int) -> Path:
    """Let the first network of an arm take steps on some ratings of one user, and of all users to be judged."""
    network, test = result.models[ORDERS[start]].model(0), result.users.test
    x, y = test.support_x[0, :, :shots], test.support_y[0, :, :shots]
    params = {name: value.expand(len(x), *value.shape) for name, value in network.named_weights().items()}
    step = torch.vmap(lambda p, x, y: network.inner_update(x, y, params=p, inner_lr=rate))
    ask = torch.vmap(lambda p, x, y: (network(x, p).squeeze(1) - y).square().mean())
    walk, support, query = [], [], []
    for k in range(steps + 1):
        params = step(params, x, y) if k else params
        walk.append(torch.cat([value[user - 1].flatten() for value in params.values()]))
        support.append(ask(params, x, y)[user - 1])
        query.append(ask(params, test.query_x[0], test.query_y[0]))
    points, next_step = _until_far(torch.stack(walk))
    plane = _plane(network, points, test.query_x[0, user - 1], test.query_y[0, user - 1])
    surface = _surface(network, plane, x[user - 1], y[user - 1])
    support, query = torch.stack(support), torch.stack(query, dim=1)
    return Path(plane.across, plane.up, surface, plane.walk, next_step, support, query)


def _until_far(points: Tensor) -> tuple[Tensor, float]:
    """Return the first points of a walk, while they stay near, and how far from the start the next one lies."""
    distance = (points - points[0]).norm(dim=1)
    far = (~(distance <= _FAR)).nonzero().squeeze(1)
    if not len(far):
        return points, 0.0
    first = int(far[0])
    return points[:first], float(distance[first].nan_to_num(torch.inf))


@dataclass(frozen=True)
class _Plane:
    start: Tensor  # (P,)
    directions: Tensor  # (2, P)
    across: Tensor
    up: Tensor
    walk: Tensor  # (W, 2)


def _plane(network: MAMLRecommender, points: Tensor, query_x: Tensor, query_y: Tensor) -> _Plane:
    """Lay a plane through the first point, the last, and the direction in which the rest of the walk strays most.

    Where the walk is straight, the second direction is that in which the query loss falls, as far as it is new.
    """
    moves = points - points[0]  # (W, P)
    first = _unit(moves[-1] if len(points) > 1 else torch.ones_like(points[0]))
    rest = moves - (moves @ first)[:, None] * first
    if len(points) > 2 and float(rest.norm()) > 1e-3 * float(moves.norm()):
        second = torch.linalg.svd(rest, full_matrices=False).Vh[0]
    else:
        second = _downhill(network, query_x, query_y)
    second = _unit(second - (second @ first) * first)
    walk = moves @ torch.stack([first, second], dim=1)  # (W, 2)
    reach = max(1.3 * float(walk.abs().max()), 0.3)
    low, high = float(walk[:, 0].min()), float(walk[:, 0].max())
    middle = (low + high) / 2
    return _Plane(
        points[0],
        torch.stack([first, second]),
        torch.linspace(middle - 0.75 * reach, middle + 0.75 * reach, _GRID),
        torch.linspace(-0.6 * reach, 0.6 * reach, _GRID),
        walk,
    )


def _unit(direction: Tensor) -> Tensor:
    return direction / direction.norm().clamp(min=1e-12)


def _downhill(network: MAMLRecommender, x: Tensor, y: Tensor) -> Tensor:
    """Return minus the gradient of a loss at the starting point, as one long row."""
    moved = network.inner_update(x, y, inner_lr=1.0)
    return torch.cat([(moved[name] - value).flatten() for name, value in network.named_weights().items()])


def _surface(network: MAMLRecommender, plane: _Plane, x: Tensor, y: Tensor) -> Tensor:
    """Return the loss at each place of the grid, (_GRID, _GRID)."""
    up, across = torch.meshgrid(plane.up, plane.across, indexing="ij")
    places = torch.stack([across.flatten(), up.flatten()], dim=1)  # (_GRID * _GRID, 2)
    points = plane.start + places @ plane.directions  # (_GRID * _GRID, P)
    weights, sizes = network.named_weights(), [value.numel() for value in network.named_weights().values()]
    params = {
        name: part.unflatten(1, value.shape)
        for (name, value), part in zip(weights.items(), points.split(sizes, dim=1), strict=True)
    }
    losses = torch.vmap(lambda p: (network(x, p).squeeze(1) - y).square().mean())(params)
    return losses.view(_GRID, _GRID)
