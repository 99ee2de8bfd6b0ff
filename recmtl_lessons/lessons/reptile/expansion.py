"""What several steps on one user add: Reptile's update against its parts (Nichol et al. 2018, section 5)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call, grad
from torch.nn import functional as F

from recmtl_lessons.datasets.few_shot import SHOTS, ColdStart, Tasks
from recmtl_lessons.lessons._seeds import SEEDS
from recmtl_lessons.lessons.reptile.experiments import SHOP_ARMS
from recmtl_lessons.models import ReptileRecommender
from recmtl_lessons.training import ManyModels, Scores
from recmtl_lessons.training.few_shot import FIELDS, HIDDEN, ReptileLearner, all_ratings

# One inner step.


def beside_joint_training(train: Tasks, seeds: Sequence[int] = SEEDS, updates: int = 12) -> Scores:
    """Let the lesson's arms and plain joint training start alike and see the same ratings, in double precision.

    The joint network takes one step of gradient descent per update, on all ratings of the update's users in one heap.
    Its rate is epsilon times the inner rate times k: if gradients did not change along the inner steps, both would go
    to the same place.

    Returns
    -------
    Scores of 1 and 4 inner steps
        Update by update, how far the two lie apart, as a share of how far the joint network has come.
    """
    apart = {
        k: torch.tensor([_apart(SHOP_ARMS[k], train, s, seed, updates) for s, seed in enumerate(seeds)]) for k in (1, 4)
    }
    return Scores.of("apart, as a share of the way", apart, range(1, updates + 1))


def _apart(arm: ReptileLearner, train: Tasks, s: int, seed: int, updates: int) -> list[float]:
    torch.manual_seed(seed)
    reptile = _network(
        train, meta_lr=arm.meta_lr, inner_lr=arm.inner_lr, inner_steps=arm.inner_steps, inner_batch_size=arm.rows
    )
    torch.manual_seed(seed)
    joint = _network(train)
    start, shares = _row(joint), []
    optimizer = torch.optim.SGD(joint.parameters(), lr=arm.meta_lr * arm.inner_lr * arm.inner_steps)
    for update in range(updates):
        x, y = _batch(train, s, range(update * arm.users, (update + 1) * arm.users))
        reptile.meta_update((x, y))
        optimizer.zero_grad()
        F.mse_loss(joint(x.flatten(0, 1)).squeeze(1), y.flatten()).backward()  # one heap of users * 20 rows
        optimizer.step()
        shares.append(float((_row(reptile) - _row(joint)).norm() / (_row(joint) - start).norm()))
    return shares


def _network(train: Tasks, **options) -> ReptileRecommender:
    return ReptileRecommender(train.support_x.shape[-1], HIDDEN, **options).double()


def _batch(train: Tasks, s: int, users: Sequence[int]) -> tuple[Tensor, Tensor]:
    chosen = torch.tensor(users) % train.support_y.shape[1]
    return all_ratings({f: getattr(train, f)[s, chosen].double() for f in FIELDS})


def _row(model: ReptileRecommender) -> Tensor:
    return torch.cat([value.detach().flatten() for value in model.parameters()])


# Two inner steps, on two minibatches of one user.


def loss(network, params, x, y):
    """Return the mean squared error with these parameters."""
    return F.mse_loss(functional_call(network, params, (x,)).squeeze(1), y)


def two_steps(network, params, first, second, rate):
    """Return Reptile's (phi - W) / rate after a step on each of two minibatches, and its parts at phi."""
    g1 = grad(lambda p: loss(network, p, *first))(params)
    moved = {name: value - rate * g1[name] for name, value in params.items()}
    g2_moved = grad(lambda p: loss(network, p, *second))(moved)
    update = {name: g1[name] + g2_moved[name] for name in params}

    slope = grad(lambda p: loss(network, p, *second))
    g2 = slope(params)
    curved = grad(lambda p: sum((slope(p)[name] * g1[name]).sum() for name in p))(params)  # H2 g1
    sum_of_gradients = {name: g1[name] + g2[name] for name in params}
    return update, sum_of_gradients, {name: -rate * curved[name] for name in params}


def take_apart(
    train: Tasks,
    seeds: Sequence[int] = SEEDS,
    rates: Sequence[float] = (1e-5, 1e-4, 1e-3, 1e-2, SHOP_ARMS[4].inner_lr),
    users: int = 8,
) -> dict[str, Scores]:
    """Split updates of two steps, of fresh networks, into the sum of gradients, the second-order term, and the rest.

    Returns
    -------
    dict {measure: Scores of the rates}, means over users
        ``extra``: length of what the update has beyond the sum of the gradients, as a share of that sum.
        ``unexplained``: length of what is left of that after minus rate times H2 g1, as a share of it.
    """
    extra, left = torch.zeros(len(rates), len(seeds)), torch.zeros(len(rates), len(seeds))
    for s, seed in enumerate(seeds):
        torch.manual_seed(seed)
        network = _network(train)
        params = {name: value.detach() for name, value in network.named_weights().items()}
        x, y = _batch(train, s, range(users))
        for r, rate in enumerate(rates):

            def of_one_user(x, y, params=params, network=network, rate=rate):
                halves = (x[:SHOTS], y[:SHOTS]), (x[SHOTS:], y[SHOTS:])
                return tuple(_flat(part) for part in two_steps(network, params, *halves, rate))

            update, plain, curved = torch.vmap(of_one_user)(x, y)  # (users, P) each
            more = update - plain
            extra[r, s] = (more.norm(dim=1) / plain.norm(dim=1)).mean()
            left[r, s] = ((more - curved).norm(dim=1) / more.norm(dim=1)).mean()
    found = {"extra": extra, "unexplained": left}
    return {name: Scores("a share of the length", tuple(rates), values) for name, values in found.items()}


def gradients_agree(models: ManyModels, users: ColdStart) -> Tensor:
    """Return the cosine between the gradients of two sets of ten ratings of one new user, at the trained parameters.

    A user's first fifty ratings make five sets; their ten pairs, and the users of both parts that were not trained on,
    are averaged.

    Returns
    -------
    Tensor, (S,)
    """

    def of_one_user(model, x, y):
        phi = model.named_weights()

        def direction(x, y):
            slope = grad(lambda p: F.mse_loss(model(x, p).squeeze(1), y))(phi)
            return F.normalize(_flat(slope), dim=0)

        sets = x.unflatten(0, (-1, SHOTS)), y.unflatten(0, (-1, SHOTS))  # (sets, 10, F), (sets, 10)
        directions = torch.vmap(direction)(*sets)  # (sets, P)
        count = len(directions)
        return ((directions @ directions.mT).sum() - count) / (count * (count - 1))  # without each with itself

    def of_all(model, x, y):
        return torch.vmap(lambda *user: of_one_user(model, *user))(x, y)  # (T,)

    parts = [models.each(of_all, part.support_x, part.support_y) for part in (users.valid, users.test)]
    return torch.cat(parts, dim=1).mean(1).cpu()


def _flat(params: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in params.values()])
