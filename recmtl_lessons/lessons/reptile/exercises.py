"""Three exercises: the outer step, a fresh optimizer for each user, and what a comparison has to count."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from recmtl_lessons.lessons.reptile.questions import TEXTS

# The outer step.


def outer_step(phi: Tensor, after: list[Tensor], epsilon: float) -> Tensor:
    """Go part of the way from phi to the mean of where the users' steps ended."""
    return phi + epsilon * (torch.stack(after).mean(0) - phi)


def _ends_of_users(generator: torch.Generator) -> Iterator[dict]:
    for n, size, least in ((3, 4, 0.1), (2, 3, 0.6), (5, 2, 1.2)):  # epsilon may be more than 1
        yield {
            "phi": torch.randn(size, generator=generator),
            "after": [torch.randn(size, generator=generator) for _ in range(n)],
            "epsilon": float(least + 0.3 * torch.rand((), generator=generator)),
        }


exercise_step = TEXTS.exercise(
    "exercise-step",
    cases=_ends_of_users,
    solution=outer_step,
    mistakes={
        "in place": lambda phi, after, epsilon: phi.add_(epsilon * (torch.stack(after).mean(0) - phi)),
        "away": lambda phi, after, epsilon: phi - epsilon * (torch.stack(after).mean(0) - phi),
        "two formulas mixed": lambda phi, after, epsilon: (
            (1 - epsilon) * phi + epsilon * (torch.stack(after).mean(0) - phi)
        ),
        "a sum": lambda phi, after, epsilon: phi + epsilon * sum(w - phi for w in after),
        "the last": lambda phi, after, epsilon: phi + epsilon * (after[-1] - phi),
        "one after another": lambda phi, after, epsilon: [phi := phi + epsilon * (w - phi) for w in after][-1],
        "all the way": lambda phi, after, epsilon: torch.stack(after).mean(0),
        "shares exchanged": lambda phi, after, epsilon: epsilon * phi + (1 - epsilon) * torch.stack(after).mean(0),
        "the move": lambda phi, after, epsilon: epsilon * (torch.stack(after).mean(0) - phi),
    },
)


# A fresh optimizer.


def inner_loops(phi: Tensor, users: list, loss: Callable, make_optimizer: Callable) -> list[Tensor]:
    """Train on each user from phi, with an optimizer that has seen nothing."""
    after = []
    for batches in users:
        w = phi.clone().requires_grad_()
        optimizer = make_optimizer([w])
        for batch in batches:
            optimizer.zero_grad()
            loss(w, batch).backward()
            optimizer.step()
        after.append(w.detach())
    return after


def _learn(w, batches, loss, optimizer, clear=True):
    for batch in batches:
        if clear:
            optimizer.zero_grad()
        loss(w, batch).backward()
        optimizer.step()
    return w.detach()


def _phi_itself(phi, users, loss, make_optimizer):
    after = []
    for batches in users:
        w = phi.detach().requires_grad_()  # no copy: it shares its numbers with phi
        after.append(_learn(w, batches, loss, make_optimizer([w])).clone())
    return after


def _one_optimizer(phi, users, loss, make_optimizer):
    w = phi.clone().requires_grad_()
    optimizer, after = make_optimizer([w]), []
    for batches in users:
        with torch.no_grad():
            w.copy_(phi)
        after.append(_learn(w, batches, loss, optimizer).clone())
    return after


def _one_tensor(phi, users, loss, make_optimizer):
    w, after = phi.clone().requires_grad_(), []
    for batches in users:
        with torch.no_grad():
            w.copy_(phi)
        after.append(_learn(w, batches, loss, make_optimizer([w])))
    return after


def _never_back(phi, users, loss, make_optimizer):
    after = []
    for batches in users:
        after += inner_loops(after[-1] if after else phi, [batches], loss, make_optimizer)
    return after


def _gradients_pile_up(phi, users, loss, make_optimizer):
    starts = [phi.clone().requires_grad_() for _ in users]
    return [_learn(w, b, loss, make_optimizer([w]), clear=False) for w, b in zip(starts, users, strict=True)]


def _few_users(generator: torch.Generator) -> Iterator[dict]:
    for counts, size, kind in (((3, 2, 3), 2, "Adam"), ((2, 4), 3, "momentum"), ((1, 3, 2, 2), 2, "Adam")):

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        yield {
            "phi": normal(size),
            "users": [[(normal(4, size), normal(4)) for _ in range(count)] for count in counts],
            "optimizer": kind,
            "rate": float(0.05 + 0.1 * torch.rand((), generator=generator)),
        }


def _with_optimizer(answer: Callable, phi: Tensor, users: list, optimizer: str, rate: float):
    def loss(w: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return (x.to(w.dtype) @ w - y).square().mean()

    def make_optimizer(params: list[Tensor]) -> torch.optim.Optimizer:
        if optimizer == "Adam":
            return torch.optim.Adam(params, lr=rate)
        return torch.optim.SGD(params, lr=rate, momentum=0.9)

    return answer(phi, users, loss, make_optimizer)


exercise_optimizer = TEXTS.exercise(
    "exercise-optimizer",
    cases=_few_users,
    call=_with_optimizer,
    solution=inner_loops,
    mistakes={
        "phi itself": _phi_itself,
        "one optimizer": _one_optimizer,
        "one tensor": _one_tensor,
        "never back to phi": _never_back,
        "no zero_grad": _gradients_pile_up,
        "first batch": lambda phi, users, *rest: inner_loops(phi, [batches[:1] for batches in users], *rest),
        "moves": lambda phi, *rest: [w - phi for w in inner_loops(phi, *rest)],
        "not detached": lambda *inputs: [w.requires_grad_() for w in inner_loops(*inputs)],
    },
)


# Count the gradients.


def count(method: str, inner_steps: int) -> tuple[int, int]:
    """Count gradients, and products with a second derivative, for one user in one update."""
    if method == "Reptile":
        return inner_steps, 0
    return inner_steps + 1, inner_steps if method == "MAML" else 0


def _counted(gradients: Callable = lambda method, n: n + (method != "Reptile"),
             products: Callable = lambda method, n: n * (method == "MAML")) -> Callable:  # fmt: skip
    """Return the count with other gradients or other products."""
    return lambda method, inner_steps: (gradients(method, inner_steps), products(method, inner_steps))


def _updates(generator: torch.Generator) -> Iterator[dict]:
    for method in ("MAML", "first-order MAML", "Reptile"):
        for n in (2 + torch.randperm(8, generator=generator)[:2]).tolist():
            yield {"method": method, "inner_steps": n}
    yield {"method": "MAML", "inner_steps": 1}


exercise_count = TEXTS.exercise(
    "exercise-count",
    cases=_updates,
    solution=count,
    mistakes={
        "no query": _counted(lambda method, n: n),
        "query for all": _counted(lambda method, n: n + 1),
        "two for all": _counted(lambda method, n: 2 * n),
        "two for MAML": _counted(lambda method, n: n if method == "Reptile" else 2 * n),
        "first order pays": _counted(products=lambda method, n: 0 if method == "Reptile" else n),
        "Reptile pays": _counted(products=lambda method, n: 0 if method == "first-order MAML" else n),
        "one product": _counted(products=lambda method, n: int(method == "MAML")),
        "no products": _counted(products=lambda method, n: 0),
        "two products a step": _counted(products=lambda method, n: 2 * n * (method == "MAML")),
        "one product too many": _counted(products=lambda method, n: (n + 1) * (method == "MAML")),
    },
)
