"""Answers bent out of a solution: in ways that keep it right, and in ways that make it wrong, for any exercise."""

import inspect
import sys

import numpy as np
import torch
from torch import Tensor

from recmtl_lessons.teaching.answers import copied, leaves


def mapped(function, value, what=Tensor):
    """A value with a function applied to each tensor in it, or to each of another kind."""
    if isinstance(value, dict):
        return {key: mapped(function, part, what) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(function, part, what) for part in value)
    return function(value) if isinstance(value, what) else value


def as_answer(exercise, function):
    """A function as an answer: as it is, or as a class with ``apply`` where the solution is a class."""
    if inspect.isclass(exercise.reference):
        return type("Bent", (), {"apply": staticmethod(function)})
    return function


def original(exercise):
    return exercise.reference.apply if inspect.isclass(exercise.reference) else exercise.reference


def floats(value):
    return isinstance(value, Tensor) and value.is_floating_point()


def asked(exercise, seed=1):
    """What the answer itself is called with in the first of the drawn cases, and what the solution makes of it."""
    found = []

    def spy(*args):
        args = copied(list(args))
        found.append((args, original(exercise)(*args)))
        return found[-1][1]

    for case in exercise._cases(torch.Generator().manual_seed(seed)):
        exercise._call(as_answer(exercise, spy), *copied(dict(case)).values())
    return found


def right_forms(exercise):
    """Answers that are right in another form, by name."""
    solution = original(exercise)

    def double(*args):
        return solution(*mapped(lambda x: x.double() if floats(x) else x, list(args)))

    def on_a_copy(*args):
        def moved_and_back(x):
            x = x.clone()
            return x.logical_not_().logical_not_() if x.dtype == torch.bool else x.neg_().neg_()

        return solution(*mapped(moved_and_back, list(args)))

    def other_sequence(*args):
        value = solution(*args)
        return list(value) if isinstance(value, tuple) else tuple(value) if isinstance(value, list) else value

    def plain(*args):
        value = mapped(lambda x: x.numpy() if x.ndim else x.item(), solution(*args))
        return np.float64(value) if isinstance(value, float) else value

    forms = {"float64": double, "in place on a copy": on_a_copy, "list for tuple": other_sequence}
    return forms if is_attached(exercise) else {**forms, "NumPy": plain}


def is_attached(exercise):
    """Whether a gradient can flow back from what the solution returns."""
    parts = (part for _, value in asked(exercise) for part in leaves(value))
    return any(isinstance(part, Tensor) and part.requires_grad for part in parts)


def wrong_forms(exercise):
    """Answers that are wrong in a way that an exercise's author need not think of, by name."""
    solution, first = original(exercise), asked(exercise)
    forms = {}
    args, _ = first[0]

    def hard_coded(k):
        kept = []

        def answer(*args):
            kept[:] = kept or [args[k]]
            return solution(*args[:k], kept[0], *args[k + 1 :])

        return answer

    def changed_first(k, back):
        def answer(*args):
            value = solution(*args[:k], copied(args[k]), *args[k + 1 :]) if back else None
            with torch.no_grad():
                part = next(part for part in leaves(args[k]) if isinstance(part, Tensor) and part.numel())
                part.logical_not_() if part.dtype == torch.bool else part.add_(1)
            return value if back else solution(*args)

        return answer

    def detached(k):
        def answer(*args):
            return solution(*args[:k], mapped(torch.Tensor.detach, args[k]), *args[k + 1 :])

        return answer

    for k, arg in enumerate(args):
        if isinstance(arg, (int, float)) and not isinstance(arg, bool):
            forms[f"argument {k} hard-coded"] = hard_coded(k)
        tensors = [part for part in leaves(arg) if isinstance(part, Tensor) and part.numel()]
        if tensors:
            forms[f"argument {k} changed first"] = changed_first(k, back=False)
            forms[f"argument {k} changed"] = changed_first(k, back=True)
        if any(part.requires_grad for part in tensors) and gradient_passes(exercise, k):
            forms[f"argument {k} detached"] = detached(k)

    def holes(*args):
        made = []

        def hole(x):
            numbers = isinstance(x, Tensor) and x.dtype != torch.bool and x.numel()
            if made or not (numbers or (isinstance(x, (int, float)) and not isinstance(x, bool))):
                return x
            made.append(True)
            if not isinstance(x, Tensor):
                return float("nan")
            x = x.clone() if floats(x) else x.double()
            x.view(-1)[-1] = torch.nan
            return x

        return mapped(hole, solution(*args), what=(Tensor, int, float))

    def the_first_again(*args):
        return copied(first[0][1])

    def leaves_python(*args):
        sys.exit(3)

    return {
        **forms,
        "NaN in one place": holes,
        "a constant": the_first_again,
        "sys.exit()": leaves_python,
        **untrue_gradients(exercise),
    }


def gradient_passes(exercise, k):
    """Whether the solution has a gradient other than 0 for an argument."""
    for args, _ in asked(exercise):
        args = copied(args)
        parts = [part for part in leaves(args[k]) if isinstance(part, Tensor) and part.requires_grad]
        out = [part for part in leaves(original(exercise)(*args)) if isinstance(part, Tensor) and part.requires_grad]
        if parts and out:
            total = sum(torch.where(torch.isfinite(part), part, 0.0).sum() for part in out)
            if any(g is not None and g.any() for g in torch.autograd.grad(total, parts, allow_unused=True)):
                return True
    return False


def untrue_gradients(exercise):
    """Right values with other gradients: none at all, and one that is of another function."""
    solution = original(exercise)
    if not is_attached(exercise):
        return {}

    def none_at_all(*args):
        return mapped(torch.Tensor.detach, solution(*args))

    def of_another(*args):
        value = solution(*args)
        return mapped(lambda x: x.detach() + (x - x.detach()) * 0.5 if x.requires_grad else x, value)

    return {"detached": none_at_all, "half the gradient": of_another}
