"""Three exercises: the inner step, the meta-loss, and a fair comparison."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from recmtl_lessons.lessons.maml.questions import TEXTS

# The inner step.


def inner_step(answer: Callable, params: dict[str, Tensor], x: Tensor, y: Tensor, rate: float) -> dict[str, Tensor]:
    """Take one step of gradient descent, and keep the graph."""
    loss = (answer(params, x).squeeze(1) - y).square().mean()
    gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
    return {name: p - rate * g for (name, p), g in zip(params.items(), gradients, strict=True)}


def _mse(answers: Tensor, y: Tensor) -> Tensor:
    return (answers.squeeze(1) - y).square().mean()


def _step_with(loss_of: Callable = _mse, create_graph: bool = True, rate_of: Callable = lambda rate: rate) -> Callable:
    """Return the inner step with another loss, without the graph, or with another rate."""

    def step(answer, params, x, y, rate):
        gradients = torch.autograd.grad(loss_of(answer(params, x), y), list(params.values()), create_graph=create_graph)
        return {name: p - rate_of(rate) * g for (name, p), g in zip(params.items(), gradients, strict=True)}

    return step


def _step_in_place(answer, params, x, y, rate):
    gradients = torch.autograd.grad(_mse(answer(params, x), y), list(params.values()))
    with torch.no_grad():
        for p, g in zip(params.values(), gradients, strict=True):
            p -= rate * g
    return params


def _step_detached(answer, params, x, y, rate):
    return {name: value.detach() for name, value in inner_step(answer, params, x, y, rate).items()}


def _step_without_the_bias(answer, params, x, y, rate):
    return {**inner_step(answer, params, x, y, rate), "bias": params["bias"]}


def _users_of_networks(generator: torch.Generator) -> Iterator[dict]:
    for k, f, hidden in ((3, 2, ()), (5, 3, (4,)), (4, 5, (2,))):

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        widths = (f, *hidden, 1)
        sizes = {f"weight {n}": widths[n : n + 2] for n in range(len(widths) - 1)} | {"bias": (1,)}
        yield {
            "params": {name: normal(*size).requires_grad_() for name, size in sizes.items()},
            "x": normal(k, f),
            "y": normal(k),
            "rate": float(0.05 + 0.4 * torch.rand((), generator=generator)),
        }


def _with_network(answer: Callable, params: dict[str, Tensor], x: Tensor, y: Tensor, rate: float):
    *weights, bias = params

    def network(params: dict[str, Tensor], x: Tensor) -> Tensor:
        for name in weights:
            x = (x @ params[name].to(x.dtype)).tanh()
        return x + params[bias]  # (K, 1)

    return answer(network, params, x, y, rate)


exercise_inner = TEXTS.exercise(
    "exercise-inner",
    cases=_users_of_networks,
    call=_with_network,
    solution=inner_step,
    mistakes={
        "in place": _step_in_place,
        "detached": _step_detached,
        "no graph": _step_with(create_graph=False),
        "uphill": _step_with(rate_of=lambda rate: -rate),
        "broadcast": _step_with(lambda answers, y: (answers - y).square().mean()),
        "a sum": _step_with(lambda answers, y: (answers.squeeze(1) - y).square().sum()),
        "no rate": _step_with(rate_of=lambda rate: 1.0),
        "the bias stays": _step_without_the_bias,
        "no step": lambda answer, params, x, y, rate: dict(params),
    },
)


# The meta-loss.


def meta_loss(adapt: Callable, loss: Callable, tasks: list) -> Tensor:
    """Adapt to the support rows of each task, be judged on its query rows, and take the mean."""
    losses = [loss(adapt(sx, sy), qx, qy) for sx, sy, qx, qy in tasks]
    return torch.stack(losses).mean()


def _meta_loss_with(judged: Callable, together: Callable = lambda losses: torch.stack(losses).mean()) -> Callable:
    """Return the meta-loss with other rows to adapt to or be judged on, or put together in another way."""
    return lambda adapt, loss, tasks: together([judged(adapt, loss, *task) for task in tasks])


def _on_the_query(adapt, loss, sx, sy, qx, qy):
    return loss(adapt(sx, sy), qx, qy)


def _few_tasks(generator: torch.Generator) -> Iterator[dict]:
    for sizes, f in ([(4, 3), (4, 3), (4, 3)], 2), ([(2, 5), (6, 3)], 3), ([(3, 2), (5, 4), (2, 6), (4, 1)], 1):

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        yield {
            "start": normal(f).requires_grad_(),
            "rate": float(0.1 + 0.2 * torch.rand((), generator=generator)),
            "tasks": [(normal(k, f), normal(k), normal(q, f), normal(q)) for k, q in sizes],
        }


def _with_linear_model(answer: Callable, start: Tensor, rate: float, tasks: list):
    def loss(params: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return (x @ params.to(x.dtype) - y).square().mean()

    def adapt(x: Tensor, y: Tensor) -> Tensor:
        return start - rate * torch.autograd.grad(loss(start, x, y), start, create_graph=True)[0]

    return answer(adapt, loss, tasks)


exercise_outer = TEXTS.exercise(
    "exercise-outer",
    cases=_few_tasks,
    call=_with_linear_model,
    solution=meta_loss,
    mistakes={
        "judged on the support": _meta_loss_with(lambda adapt, loss, sx, sy, qx, qy: loss(adapt(sx, sy), sx, sy)),
        "adapted to the query": _meta_loss_with(lambda adapt, loss, sx, sy, qx, qy: loss(adapt(qx, qy), qx, qy)),
        "changed places": _meta_loss_with(lambda adapt, loss, sx, sy, qx, qy: loss(adapt(qx, qy), sx, sy)),
        "adapted to both": _meta_loss_with(
            lambda adapt, loss, sx, sy, qx, qy: loss(adapt(torch.cat([sx, qx]), torch.cat([sy, qy])), qx, qy)
        ),
        "a sum": _meta_loss_with(_on_the_query, lambda losses: torch.stack(losses).sum()),
        "the last": _meta_loss_with(_on_the_query, lambda losses: losses[-1]),
        "a number": lambda adapt, loss, tasks: meta_loss(adapt, loss, tasks).item(),
    },
)


# Each arm its own rate.


def fair(valid: dict[str, Tensor], test: dict[str, Tensor]) -> dict[str, Tensor]:
    """Report each arm's error on test users, at the rate that was best for it on validation users."""
    return {arm: test[arm][valid[arm].argmin()] for arm in valid}


def _errors_by_rate(generator: torch.Generator) -> Iterator[dict]:
    """Each arm has a best rate of its own, and another one on test."""
    for arms, n, shift in ((("joint", "MAML"), 3, 1), (("joint", "MAML", "ANIL"), 5, 2), (("MAML", "joint"), 4, 2)):
        best = int(torch.randint(n, (), generator=generator))

        def errors(least: float, shift: int, arms=arms, n=n, best=best) -> dict[str, Tensor]:
            places = {arm: torch.arange(n).roll(best + k + shift) for k, arm in enumerate(arms)}
            return {arm: least + 0.03 * p + 0.01 * torch.rand(n, generator=generator) for arm, p in places.items()}

        yield {"valid": errors(0.5, 0), "test": errors(0.52, shift)}


exercise_rate = TEXTS.exercise(
    "exercise-rate",
    cases=_errors_by_rate,
    solution=fair,
    mistakes={
        "chosen on test": lambda valid, test: {arm: test[arm].min() for arm in test},
        "joint's rate for all": lambda valid, test: {arm: test[arm][valid["joint"].argmin()] for arm in test},
        "MAML's rate for all": lambda valid, test: {arm: test[arm][valid["MAML"].argmin()] for arm in test},
        "validation errors": lambda valid, test: {arm: valid[arm].min() for arm in valid},
        "the largest": lambda valid, test: {arm: test[arm][valid[arm].argmax()] for arm in valid},
        "the mean": lambda valid, test: {arm: test[arm].mean() for arm in test},
    },
)
