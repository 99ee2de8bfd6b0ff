"""Three exercises: uncertainty weighting, which then trains, projection, and a schedule of one's own."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from recmtl_lessons.lessons._seeds import DESIGN_SEEDS
from recmtl_lessons.lessons.balancing.experiments import learn_by, narrow_with, train_with
from recmtl_lessons.lessons.balancing.pictures import describe_narrow, describe_own, draw_narrow, draw_own
from recmtl_lessons.lessons.balancing.questions import TEXTS
from recmtl_lessons.teaching.exercise import Experiment

HALVES = torch.tensor([1.0, 0.5])


def total(losses, s):
    """Each loss times exp(-s), the rating's with a half, and half of each s."""
    return (torch.exp(-s) * losses * torch.tensor([1.0, 0.5])).sum() + s.sum() / 2


def _total_with(
    factors: Tensor = HALVES,
    weight: Callable = lambda s: torch.exp(-s),
    penalty: Callable = lambda s: s / 2,
    of: Callable = lambda losses: losses,
    joined: Callable = Tensor.sum,
) -> Callable:
    return lambda losses, s: joined(weight(s) * of(losses) * factors.to(losses) + penalty(s))


def _losses(generator: torch.Generator) -> Iterator[dict]:
    for size in (0.7, 3.0, 40.0):
        losses = torch.tensor([0.7, size]) * (0.5 + torch.rand(2, generator=generator))
        s = torch.randn(2, generator=generator) + torch.tensor([0.3, -0.4])
        yield {"losses": losses.requires_grad_(), "s": s.requires_grad_()}


exercise_uncertainty = TEXTS.exercise(
    "exercise-uncertainty",
    cases=_losses,
    solution=total,
    mistakes={
        "no s": _total_with(penalty=lambda s: 0 * s),
        "sign turned": _total_with(weight=torch.exp),
        "no half for ratings": _total_with(torch.tensor([1.0, 1.0])),
        "half for both": _total_with(torch.tensor([0.5, 0.5])),
        "halves swapped": _total_with(torch.tensor([0.5, 1.0])),
        "whole s": _total_with(penalty=lambda s: s),
        "s for sigma": _total_with(weight=lambda s: 1 / s),
        "sigma for variance": _total_with(weight=lambda s: torch.exp(-2 * s)),
        "s is log sigma": _total_with(weight=lambda s: torch.exp(-2 * s), penalty=lambda s: s),
        "detached": lambda losses, s: total(losses, s.detach()),
        "losses detached": lambda losses, s: total(losses.detach(), s),
        "means": _total_with(joined=Tensor.mean),
    },
    experiment=Experiment(
        train_with,
        draw_own,
        describe_own,
        alt="Loss of clicks and error of ratings over training: the course's networks with the plain sum and with "
        "uncertainty weighting. Yours come here.",
    ),
)


def project(gradients, orders):
    """The sum of what is left of each gradient when its parts along those that it conflicts with are gone."""
    left = torch.zeros_like(gradients[0])
    for i, order in enumerate(orders):
        g = gradients[i]
        for j in order:
            h = gradients[int(j)]
            if g @ h < 0:
                g = g - (g @ h) / (h @ h) * h
        left = left + g
    return left


def _project_with(
    conflict: Callable = lambda product: product < 0,
    divide: Callable = lambda g, h: h @ h,
    meets: Callable = lambda gradients, inside, j: gradients[j],
    asks: Callable = lambda g, first: g,
    joined: Callable = lambda rows: rows.sum(0),
    most: int = 99,
) -> Callable:
    def answer(gradients, orders):
        inside = [row.clone() for row in gradients]
        for i, order in enumerate(orders):
            done = 0
            for j in order:
                h = meets(gradients, inside, int(j))
                product = asks(inside[i], gradients[i]) @ h
                if conflict(product) and done < most:
                    inside[i] = inside[i] - product / divide(inside[i], h) * h
                    done += 1
        return joined(torch.stack(inside))

    return answer


def _conflicts(generator: torch.Generator) -> Iterator[dict]:
    """Gradients of which some conflict and some do not, drawn until the order matters, and each mistake shows."""
    for n, width in ((2, 3), (3, 4), (4, 3), (3, 6)):
        told = False
        while not told:
            gradients = torch.randn(n, width, generator=generator) * (0.5 + 3 * torch.rand(n, 1, generator=generator))
            if n == 2:
                gradients[1] -= 1.5 * gradients[0]
            orders = torch.stack([_others(n, task, generator) for task in range(n)])
            right = project(gradients, orders)
            wrong = [answer(gradients, orders) for answer in _BROKEN.values()] if n > 2 else []
            told = all(float((right - other).abs().max()) > 0.02 for other in wrong)
        yield {"gradients": gradients, "orders": orders}


def _others(n: int, task: int, generator: torch.Generator) -> Tensor:
    order = torch.randperm(n, generator=generator)
    return order[order != task]


_BROKEN = {
    "in place": _project_with(meets=lambda gradients, inside, j: inside[j]),
    "always": _project_with(conflict=lambda product: True),
    "turned around": _project_with(conflict=lambda product: product > 0),
    "not squared": _project_with(divide=lambda g, h: h.norm()),
    "own length": _project_with(divide=lambda g, h: g @ g),
    "as at first": _project_with(asks=lambda g, first: first),
    "mean": _project_with(joined=lambda rows: rows.mean(0)),
    "the first alone": _project_with(most=1),
    "order ignored": lambda gradients, orders: project(gradients, orders.sort(1).values),
    "order reversed": lambda gradients, orders: project(gradients, orders.flip(1)),
    "plain sum": lambda gradients, orders: gradients.sum(0),
}

exercise_projection = TEXTS.exercise("exercise-projection", cases=_conflicts, solution=project, mistakes=_BROKEN)


# A schedule of one's own.


def choose(step, steps, losses):
    """Train the task whose loss is the larger share of what an answer has that knows nothing."""
    return int((losses / torch.tensor([0.69, 1.0])).argmax())


_JUDGES, ENOUGH = (0, 1, 2), 0.25


class _NoTask(Exception):
    """An answer that is no number of a task: no use in going on."""


def _through_the_training(answer: Callable, seed: int) -> dict[str, Tensor]:
    """Train one network by an answer; return what it learned of each task, (2,), and what its choices were like."""
    seen = set()

    def chosen(step: int, steps: int, losses: Tensor) -> int:
        task = answer(step, steps, losses)
        try:
            number = -1.0 if isinstance(task, str) else float(task)
        except (TypeError, ValueError):
            number = -1.0
        if number not in (0.0, 1.0):
            raise _NoTask
        seen.add(int(number))
        return int(number)

    try:
        shares, amiss = learn_by(chosen, DESIGN_SEEDS[: len(_JUDGES)], seed), 0.0
    except _NoTask:
        shares, amiss = torch.zeros(2), 1.0
    return {"shares": shares, "amiss": torch.tensor(amiss), "seen": torch.tensor(float(len(seen)))}


def _judged(ask: Callable) -> str | None:
    """Say what is wrong with a schedule; None where both tasks learn enough, whatever the seed."""
    messages = TEXTS.messages("exercise-schedule")
    runs = [ask(seed=seed) for seed in _JUDGES]
    if any(float(run["amiss"]) for run in runs):
        return messages["no task"]
    if all(float(run["seen"]) < 2 for run in runs):
        return messages["always the same"]
    worst = min(float(run["shares"].min()) for run in runs)
    return messages["one is lost"] if worst < ENOUGH else None


exercise_schedule = TEXTS.exercise(
    "exercise-schedule",
    judge=_judged,
    call=_through_the_training,
    solution=choose,
    mistakes={
        "one is lost": lambda step, steps, losses: step % 2,
        "always the same": lambda step, steps, losses: 1,
        "no task": lambda step, steps, losses: "click",
    },
    experiment=Experiment(
        narrow_with,
        lambda own, figure: draw_narrow(figure, own, ((1, 0.0),)),
        describe_narrow,
        alt="What was learned of clicks and of ratings with one shared number: static weights, and the ways. Yours "
        "comes here.",
    ),
)
