"""Three ways to get MAML wrong without an error message, and what each costs."""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor
from torch.func import functional_call, grad
from torch.nn import functional as F

from recmtl_lessons.datasets.few_shot import SHOTS, Tasks
from recmtl_lessons.lessons.maml.experiments import SHOP_ARMS
from recmtl_lessons.models import MAMLRecommender
from recmtl_lessons.training import Scores
from recmtl_lessons.training.few_shot import ERROR, FIELDS, HIDDEN, INNER_STEPS, Compared, mean_error


def meta_gradient_in_place(network, tasks, rate):
    """Broken on purpose: the inner steps overwrite the parameters, so nothing leads back through them."""
    total = [torch.zeros_like(p) for p in network.parameters()]
    for support_x, support_y, query_x, query_y in zip(*tasks, strict=True):
        adapted = deepcopy(network)
        optimizer = torch.optim.SGD(adapted.parameters(), lr=rate)
        for _ in range(INNER_STEPS):
            optimizer.zero_grad()
            F.mse_loss(adapted(support_x).squeeze(1), support_y).backward()
            optimizer.step()
        loss = F.mse_loss(adapted(query_x).squeeze(1), query_y)
        for sum_, gradient in zip(total, torch.autograd.grad(loss, adapted.parameters()), strict=True):
            sum_ += gradient / len(tasks[0])
    return torch.cat([t.flatten() for t in total])


def meta_gradient(network: MAMLRecommender, tasks: tuple[Tensor, ...], rate: float, first_order: bool) -> Tensor:
    """Return the right meta-gradient, or its first-order part, as one long row."""
    losses = network.query_losses(tasks, INNER_STEPS, first_order, inner_lr=rate)
    return torch.cat([g.flatten() for g in torch.autograd.grad(losses.mean(), network.parameters())])


def compare_gradients(result: Compared, users: int = 16) -> dict[str, Tensor]:
    """Compare the meta-gradients of one batch of training users, at the start of a training.

    Returns
    -------
    dict {name: Tensor (S,)}
        How far the one with parameters overwritten lies from first-order MAML's (``to first order``) and from the right
        one (``to right``), as shares of the right one's length; and the ``cosine`` of its angle with the right one.
    """
    rows = []
    for s in range(result.models["MAML"].n_seeds):
        torch.manual_seed(s)
        train, rate = result.users.train, SHOP_ARMS["MAML"].rate
        network = MAMLRecommender(train.support_x.shape[-1], HIDDEN)
        tasks = tuple(getattr(train, field)[s, :users] for field in FIELDS)
        right, first = (meta_gradient(network, tasks, rate, order) for order in (False, True))
        broken = meta_gradient_in_place(network, tasks, rate)
        size = right.norm()
        cosine = F.cosine_similarity(broken, right, dim=0)
        rows.append(torch.stack([(broken - first).norm() / size, (broken - right).norm() / size, cosine]))
    return dict(zip(("to first order", "to right", "cosine"), torch.stack(rows, dim=1), strict=True))


# Wrong ways to adapt a network that was trained rightly.


def right_loss(model, params, x, y):
    """Return the mean squared error, shapes (K,) against (K,)."""
    return (functional_call(model, params, (x,)).squeeze(1) - y).square().mean()


def broadcast_loss(model, params, x, y):
    """Broken on purpose: (K, 1) against (K,) makes K times K differences, each answer against every rating."""
    return (functional_call(model, params, (x,)) - y).square().mean()


def adapted_errors(result: Compared, loss: Callable = right_loss, dropout: float = 0.0) -> Tensor:
    """Return the trained MAML networks' errors after three steps with this loss, and with dropout left on, (S,)."""
    test, rate = result.users.test.shots(SHOTS), SHOP_ARMS["MAML"].rate
    models = result.models["MAML"]
    answers = []
    for s in range(models.n_seeds):
        trained = models.model(s)
        model = MAMLRecommender(trained.input_dim, HIDDEN, dropout_rate=dropout)
        model.load_state_dict(trained.state_dict())
        answers.append(_adapt_all(model, test, s, rate, loss))
    return mean_error(torch.stack(answers), test)


def adapted_wrongly(result: Compared) -> Scores:
    """Return the errors of the trained MAML networks, not adapted, adapted rightly, and in two wrong ways."""
    return Scores.of(ERROR, {
        "not adapted": result.before["MAML"],
        "adapted": adapted_errors(result),
        "dropout": adapted_errors(result, dropout=0.2),
        "broadcast": adapted_errors(result, broadcast_loss),
    })  # fmt: skip


@torch.no_grad()
def _adapt_all(model: MAMLRecommender, test: Tasks, s: int, rate: float, loss: Callable) -> Tensor:
    def one_user(x, y, query_x):
        params = model.train().named_weights()  # training mode: dropout, if there is any, is on
        for _ in range(INNER_STEPS):
            gradients = grad(lambda p: loss(model, p, x, y))(params)
            params = {name: p - rate * gradients[name] for name, p in params.items()}
        return model.eval()(query_x, params).squeeze(1)

    torch.manual_seed(s)  # of dropout
    return torch.vmap(one_user, randomness="different")(test.support_x[s], test.support_y[s], test.query_x[s])
