"""The classic mistake: one Adam for all users, whose state each hands on to the next."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F

from recmtl_lessons.datasets.few_shot import SHOP, SHOTS, ColdStart, Shop, Tasks, shop_users
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.lessons.reptile.experiments import SETTINGS
from recmtl_lessons.models import ReptileRecommender
from recmtl_lessons.training import Scores
from recmtl_lessons.training.few_shot import ERROR, FIELDS, HIDDEN, INNER_STEPS, all_ratings, mean_error, over_seeds

MOMENTUM, NO_MOMENTUM = SETTINGS["adam"]  # Adam's first decay rate; the second is 0.999
META_LR = 1.0
UPDATES = 80
USERS = 4  # an update; what one hands on, the one in its place in the next update gets


def train_with_inner_adam(phi, loss, batches, rate, momentum, carried):
    """Train Reptile with Adam inside. Each parameter (seeds * 4, ...) holds 4 users beside each other."""
    params = {name: value.clone().requires_grad_() for name, value in phi.items()}
    adam = torch.optim.Adam(params.values(), lr=rate, betas=(momentum, 0.999), fused=True)
    for halves in batches:
        with torch.no_grad():
            for name, value in params.items():
                value.copy_(phi[name])  # new users: back to phi ...
        if not carried:
            adam.state.clear()  # ... and to an optimizer that has seen nothing
        for k in range(INNER_STEPS + 1):
            adam.zero_grad()
            loss(params, *halves[k % 2]).sum().backward()
            adam.step()
        phi = {name: towards(value, params[name].detach()) for name, value in phi.items()}
    return phi


def towards(phi: Tensor, after: Tensor) -> Tensor:
    """Take Reptile's step, and hand the result to the next users of each seed: (seeds * 4, ...)."""
    mean = after.unflatten(0, (-1, USERS)).mean(1).repeat_interleave(USERS, dim=0)
    return phi + META_LR * (mean - phi)


def _batches(train: Tasks, seeds: Sequence[int], updates: int):
    """Yield users by chance, as halves of ten ratings: x (seeds * 4, 10, F) and y (seeds * 4, 10)."""
    x, y = all_ratings({f: getattr(train, f).flatten(0, 1) for f in FIELDS})
    count = train.support_y.shape[1]
    drawn = [
        s * count + torch.randint(count, (updates, USERS), generator=torch.Generator().manual_seed(seed))
        for s, seed in enumerate(seeds)
    ]
    for rows in torch.cat(drawn, dim=1):  # (seeds * 4,)
        yield (x[rows, :SHOTS], y[rows, :SHOTS]), (x[rows, SHOTS:], y[rows, SHOTS:])


def _trained(
    users: ColdStart, seeds: Sequence[int], rate: float, momentum: float, carried: bool, updates: int
) -> list[ReptileRecommender]:
    networks = []
    for seed in seeds:
        torch.manual_seed(seed)
        width = users.train.support_x.shape[-1]
        networks.append(ReptileRecommender(width, HIDDEN, inner_optimizer="adam", inner_betas=(momentum, 0.999)))
    start, _ = stack_module_state(networks)  # (seeds, ...)
    phi = {name: value.detach().repeat_interleave(USERS, dim=0) for name, value in start.items()}

    def loss(params, x, y):
        return torch.vmap(lambda p, x, y: F.mse_loss(functional_call(networks[0], p, (x,)).squeeze(1), y))(params, x, y)

    phi = train_with_inner_adam(phi, loss, _batches(users.train, seeds, updates), rate, momentum, carried)
    for s, network in enumerate(networks):
        network.load_state_dict({name: value[s * USERS] for name, value in phi.items()})
    return networks


def _errors(networks: Sequence[ReptileRecommender], tasks: Tasks, rate: float) -> Tensor:
    """Return the mean absolute error after three steps of a fresh Adam on each user's support rows, (S,)."""
    answers = []
    for s, network in enumerate(networks):

        def one_user(x, y, query_x, network=network):
            return network(query_x, network.inner_loop((x, y), INNER_STEPS, inner_lr=rate)).squeeze(1)

        answers.append(torch.vmap(one_user)(tasks.support_x[s], tasks.support_y[s], tasks.query_x[s]).detach())
    return mean_error(torch.stack(answers), tasks)


def serve(networks: Sequence[ReptileRecommender], tasks: Tasks, rate: float, momentum: float, carried: bool) -> Tensor:
    """Return errors (S,) of users who come one by one, each to the starting point; ``carried``: to one Adam for all."""
    phi, _ = stack_module_state(list(networks))
    phi = {name: value.detach() for name, value in phi.items()}  # (S, ...)
    params = {name: value.clone().requires_grad_() for name, value in phi.items()}
    adam, ask, answers = (
        torch.optim.Adam(params.values(), lr=rate, betas=(momentum, 0.999), fused=True),
        _ask(networks[0]),
        [],
    )
    for x, y, query_x in zip(*(f.unbind(1) for f in (tasks.support_x, tasks.support_y, tasks.query_x)), strict=True):
        with torch.no_grad():
            for name, value in params.items():
                value.copy_(phi[name])
        if not carried:
            adam.state.clear()
        for _ in range(INNER_STEPS):
            adam.zero_grad()
            (ask(params, x) - y).square().mean(1).sum().backward()
            adam.step()
        answers.append(ask(params, query_x).detach())
    return mean_error(torch.stack(answers, dim=1), tasks)


def _ask(network: ReptileRecommender):
    """Return a function by which stacked parameters (S, ...) answer rows of their own, (S, rows, F) -> (S, rows)."""
    return torch.vmap(lambda params, x: functional_call(network, params, (x,)).squeeze(1))


def with_inner_adam(shop: Shop = SHOP, seeds: tuple[int, ...] = SEEDS, updates: int = UPDATES) -> Scores:
    """Train with a fresh Adam for each user and with one for all, and let new users come to either.

    Returns
    -------
    Scores of (momentum, way)
        "fresh": an Adam of their own for each user, in training and for new users. "trained", "served": its state is
        carried from user to user in training alone, and for new users alone. What is served is the fresh one's network;
        every way has its own best rates.
    """
    users = shop_users(shop, seeds)
    test, found = users.test.shots(SHOTS), {}
    for momentum, chosen in SETTINGS["adam"].items():
        (rate, test_rate), (other, other_rate) = chosen["fresh"], chosen["trained"]
        networks = _trained(users, seeds, rate, momentum, False, updates)
        found[momentum, "fresh"] = _errors(networks, test, test_rate)
        carried = _trained(users, seeds, other, momentum, True, updates)
        found[momentum, "trained"] = _errors(carried, test, other_rate)
        found[momentum, "served"] = serve(networks, test, chosen["served"], momentum, True)
    return Scores.of(ERROR, found)


def score_adam(
    momentum: float, carried: bool, rates: Sequence[float] = SETTINGS["adam_rates"]
) -> dict[tuple[float, float], float]:
    """Score rates in training and for a new user on validation users of the design seeds: so they were chosen."""
    users, found = shop_users(SHOP, DESIGN_SEEDS), {}
    for rate in rates:
        networks = _trained(users, DESIGN_SEEDS, rate, momentum, carried, UPDATES)
        found |= {(rate, t): over_seeds(_errors(networks, users.valid.shots(SHOTS), t)) for t in rates}
    return found


def score_serving(momentum: float, rates: Sequence[float] = SETTINGS["serving_rates"]) -> dict[float, float]:
    """Score rates for users who come to one Adam, after training with a fresh one, as `score_adam` does."""
    users = shop_users(SHOP, DESIGN_SEEDS)
    networks = _trained(users, DESIGN_SEEDS, SETTINGS["adam"][momentum]["fresh"][0], momentum, False, UPDATES)
    return {t: over_seeds(serve(networks, users.valid.shots(SHOTS), t, momentum, True)) for t in rates}
