"""What the lesson asks: a prediction and three exercises."""

from collections.abc import Callable

import torch
from torch import Tensor

from recmtl_lessons.lessons.maml.activities import LESSON
from recmtl_lessons.teaching.exercise import Exercise, Outcome, right, wrong
from recmtl_lessons.teaching.quiz import Predict

prediction = Predict(
    LESSON,
    "predict",
    "With ten ratings and three steps each, the meta-trained network's answers are "
    "better than the fine-tuned one's. Now every new user gives fifty ratings, and both"
    " still take three steps. Its lead is then...",
    {
        "smaller: fifty ratings say so much that the start hardly matters": "They say more, and both networks err "
        "less. But three steps are three steps: a network that starts in the wrong "
        "place cannot use what it is told.",
        "larger: three steps from a good start make more of fifty ratings": "Fifty ratings point each step in a better "
        "direction, and from a start that was made for steps, three of them lead far. "
        "From the other, they end on the way. (With as many steps as help, the lead "
        "does shrink.)",
        "the same: both see the same ratings and take as many steps": "Both gain, but not alike: what a step is worth "
        "depends on where it starts.",
    },
)
LARGER = tuple(prediction.choices)[1]


# Exercise: the inner step.


def _inner_step(answer: Callable, params: dict[str, Tensor], x: Tensor, y: Tensor, rate: float) -> dict[str, Tensor]:
    """One step of gradient descent, with the graph kept."""
    loss = (answer(params, x).squeeze(1) - y).square().mean()
    gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
    return {name: p - rate * g for (name, p), g in zip(params.items(), gradients, strict=True)}


def _linear(params: dict[str, Tensor], x: Tensor) -> Tensor:
    return x @ params["weight"] + params["bias"]  # (K, 1)


def _example() -> tuple[dict[str, Tensor], Tensor, Tensor]:
    params = {"weight": torch.tensor([[0.5], [-1.0]]), "bias": torch.tensor([0.2])}
    x = torch.tensor([[1.0, 2.0], [0.5, -1.0], [-1.5, 0.3]])
    return {k: v.requires_grad_() for k, v in params.items()}, x, torch.tensor([1.0, -2.0, 0.5])


def _check_inner(answer: Callable) -> Outcome:
    params, x, y = _example()
    before = {name: value.detach().clone() for name, value in params.items()}
    got = answer(_linear, params, x, y, 0.1)
    if any(not torch.equal(before[name], params[name].detach()) for name in before):
        return wrong("You changed the parameters themselves. The next user would start from where this one ended, and "
                     "no gradient leads back through the step. Return new tensors.")  # fmt: skip
    if not isinstance(got, dict) or set(got) != set(params):
        return wrong("Return a dict with the same names as `params`: weight and bias.")
    shapes = {name: tuple(value.shape) for name, value in got.items()}
    if shapes != {"weight": (2, 1), "bias": (1,)}:
        return wrong(f"The shapes should stay (2, 1) and (1,), and yours are {shapes}.")
    with torch.no_grad():
        found = torch.cat([value.detach().flatten() for value in got.values()])
    for mistaken, message in _inner_mistakes():
        if torch.allclose(found, mistaken, atol=1e-5):
            return wrong(message)
    expected = _inner_step(_linear, params, x, y, 0.1)
    if not torch.allclose(found, torch.cat([v.detach().flatten() for v in expected.values()]), atol=1e-5):
        return wrong(f"For my example I expected {_rounded(expected)}, and got {_rounded(got)}.")
    return _check_graph(got, expected, params)


def _check_graph(got: dict, expected: dict, params: dict) -> Outcome:
    """Whether the gradient of something after the step is that through the step."""

    def slope(moved: dict[str, Tensor]) -> Tensor | None:
        after = sum(value.square().sum() for value in moved.values())
        if not after.requires_grad:
            return None
        gradients = torch.autograd.grad(after, list(params.values()), retain_graph=True, allow_unused=True)
        return torch.cat([g.flatten() for g in gradients if g is not None])

    wanted, found = slope(expected), slope(got)
    if found is None:
        return wrong("The numbers are right, but nothing leads back from your new parameters to the old ones. Was "
                     "something detached, or computed under `no_grad`?")  # fmt: skip
    if found.shape != wanted.shape or not torch.allclose(found, wanted, atol=1e-4):
        return wrong("The numbers are right, but the gradient of the step itself is missing: this is first-order MAML. "
                     "`torch.autograd.grad` keeps the graph with `create_graph=True`.")  # fmt: skip
    return right("New parameters, with the whole way back to the old ones.")


def _inner_mistakes() -> list[tuple[Tensor, str]]:
    params, x, y = _example()

    def after(loss: Tensor, rate: float = 0.1, only: tuple[str, ...] = ("weight", "bias")) -> Tensor:
        gradients = torch.autograd.grad(loss, list(params.values()))
        moved = [p - rate * g * (n in only) for (n, p), g in zip(params.items(), gradients, strict=True)]
        return torch.cat([value.detach().flatten() for value in moved])

    def error() -> Tensor:
        return _linear(params, x).squeeze(1) - y

    return [
        (after(error().square().mean(), -0.1), "You step uphill: the new parameters are the old ones minus the rate "
         "times the gradient."),
        (after((_linear(params, x) - y).square().mean()), "(3, 1) minus (3,) is 3 times 3 differences: every answer "
         "against every rating. `squeeze(1)` the answers first."),
        (after(error().square().sum()), "You summed the squared errors. With the mean, a step is the same length for "
         "three ratings and for thirty."),
        (after(error().square().mean(), 1.0), "You left out the rate."),
        (after(error().square().mean(), only=("weight",)), "The bias did not move. For a generous user it is the first "
         "thing to move."),
        (after(error().square().mean(), 0.0), "Nothing moved: these are the parameters you were given."),
    ]  # fmt: skip


def _rounded(params: dict[str, Tensor]) -> list:
    return [[round(x, 3) for x in value.detach().flatten().tolist()] for value in params.values()]


def _step_with(loss_of: Callable, create_graph: bool = True, sign: float = 1.0) -> Callable:
    def step(answer, params, x, y, rate):
        gradients = torch.autograd.grad(loss_of(answer(params, x), y), list(params.values()), create_graph=create_graph)
        return {name: p - sign * rate * g for (name, p), g in zip(params.items(), gradients, strict=True)}

    return step


def _step_in_place(answer, params, x, y, rate):
    loss = (answer(params, x).squeeze(1) - y).square().mean()
    gradients = torch.autograd.grad(loss, list(params.values()))
    with torch.no_grad():
        for p, g in zip(params.values(), gradients, strict=True):
            p -= rate * g
    return params


def _step_detached(answer, params, x, y, rate):
    return {name: value.detach() for name, value in _inner_step(answer, params, x, y, rate).items()}


def _mse(answers: Tensor, y: Tensor) -> Tensor:
    return (answers.squeeze(1) - y).square().mean()


exercise_inner = Exercise(
    LESSON,
    "exercise-inner",
    title="The inner step",
    level="beginner",
    minutes=10,
    task="`answer(params, x)` gives answers (K, 1) for rows x (K, F), with parameters from the dict `params`. Take one "
    "step of gradient descent on the mean squared error against the ratings y (K,), at "
    "the given rate. Return a new dict with the same names. Gradients must be able to "
    "flow through the step, back to `params`.",
    check=_check_inner,
    hints=[
        "`torch.autograd.grad(loss, list(params.values()))` gives the gradients in the "
        "order of the dict. What does it need so that they can be differentiated once "
        "more?",
        "`create_graph=True`. And look at the shapes of answers and ratings before you subtract them.",
    ],
    solution=_inner_step,
    wrong_answers={
        "no graph": (_step_with(_mse, create_graph=False), "first-order MAML"),
        "detached": (_step_detached, "nothing leads back"),
        "in place": (_step_in_place, "changed the parameters themselves"),
        "uphill": (_step_with(_mse, sign=-1.0), "uphill"),
        "broadcast": (_step_with(lambda a, y: (a - y).square().mean()), "every answer against every rating"),
        "a sum": (_step_with(lambda a, y: (a.squeeze(1) - y).square().sum()), "summed the squared errors"),
        "a list": (lambda *a: list(_inner_step(*a).values()), "Return a dict"),
    },
)


# Exercise: the meta-loss.


def _meta_loss(adapt: Callable, loss: Callable, tasks: list) -> Tensor:
    """Mean over the tasks: adapt to the support rows, be judged on the query rows."""
    losses = [loss(adapt(sx, sy), qx, qy) for sx, sy, qx, qy in tasks]
    return torch.stack(losses).mean()


def _two_tasks() -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(4)
    return [tuple(torch.randn(n, generator=generator) for n in (4, 4, 3, 3)) for _ in range(3)]


def _slope_fit(start: Tensor) -> tuple[Callable, Callable]:
    def loss(slope: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return (slope * x - y).square().mean()

    def adapt(x: Tensor, y: Tensor) -> Tensor:
        return start - 0.1 * torch.autograd.grad(loss(start, x, y), start, create_graph=True)[0]

    return adapt, loss


def _check_outer(answer: Callable) -> Outcome:
    start = torch.tensor(0.7, requires_grad=True)
    adapt, loss = _slope_fit(start)
    tasks = _two_tasks()
    got = answer(adapt, loss, tasks)
    if not isinstance(got, Tensor) or got.shape != ():
        return wrong(f"I expected one number as a tensor, and got {getattr(got, 'shape', type(got).__name__)}. Without "
                     "a tensor there is no gradient.")  # fmt: skip
    value = got.detach()
    mistakes = (
        ([loss(adapt(sx, sy), sx, sy) for sx, sy, _, _ in tasks], "You judge on the support ratings, which were just "
         "fitted: a network that learns them by heart would look perfect. Judge on the query ratings."),
        ([loss(adapt(qx, qy), qx, qy) for _, _, qx, qy in tasks], "You adapt to the query ratings: they are the ones "
         "to be judged on."),
        ([loss(adapt(qx, qy), sx, sy) for sx, sy, qx, qy in tasks], "Support and query have changed places."),
        ([loss(start, qx, qy) for _, _, qx, qy in tasks], "You judge the starting point; nobody has adapted."),
    )  # fmt: skip
    for losses, message in mistakes:
        if torch.allclose(value, torch.stack(losses).mean(), atol=1e-6):
            return wrong(message)
    expected = _meta_loss(adapt, loss, tasks)
    if torch.allclose(value, expected * len(tasks), atol=1e-6):
        return wrong("You summed over the tasks. With the mean, the rate does not depend on how many there are.")
    if torch.allclose(value, loss(adapt(*tasks[-1][:2]), *tasks[-1][2:]), atol=1e-6):
        return wrong("This is the last task's loss alone. Take the mean over all.")
    if not torch.allclose(value, expected, atol=1e-6):
        return wrong(f"For my example I expected {float(expected):.4f}, and got {float(value):.4f}.")
    if not got.requires_grad:
        return wrong("The number is right, but nothing leads back to the starting point: without a gradient, no "
                     "learning. Was `.item()`, `float()` or `detach()` in the way?")  # fmt: skip
    return right("Adapt to the support, be judged on the query, and take the mean: the whole of MAML's loss.")


exercise_outer = Exercise(
    LESSON,
    "exercise-outer",
    title="The meta-loss",
    level="intermediate",
    minutes=10,
    task="`adapt(x, y)` returns parameters after the inner steps on these rows, `loss(params, x, y)` their mean "
    "squared error on these. `tasks` is a list of `(support_x, support_y, query_x, "
    "query_y)`. Return the loss that MAML makes small, as one tensor.",
    check=_check_outer,
    hints=[
        "A user's ratings have two roles. Which are seen when adapting, and which decide whether that was any good?",
        "`loss(adapt(support_x, support_y), query_x, query_y)` for each task, then `torch.stack(...).mean()`.",
    ],
    solution=_meta_loss,
    wrong_answers={
        "judged on the support": (
            lambda a, f, ts: torch.stack([f(a(sx, sy), sx, sy) for sx, sy, _, _ in ts]).mean(),
            "just fitted",
        ),
        "adapted to the query": (
            lambda a, f, ts: torch.stack([f(a(qx, qy), qx, qy) for _, _, qx, qy in ts]).mean(),
            "You adapt to the query",
        ),
        "changed places": (
            lambda a, f, ts: torch.stack([f(a(qx, qy), sx, sy) for sx, sy, qx, qy in ts]).mean(),
            "changed places",
        ),
        "a sum": (lambda a, f, ts: sum(f(a(sx, sy), qx, qy) for sx, sy, qx, qy in ts), "summed over the tasks"),
        "the last": (lambda a, f, ts: [f(a(sx, sy), qx, qy) for sx, sy, qx, qy in ts][-1], "last task"),
        "numbers": (lambda a, f, ts: torch.tensor(_meta_loss(a, f, ts).item()), "nothing leads back"),
        "a float": (lambda a, f, ts: _meta_loss(a, f, ts).item(), "Without a tensor"),
    },
)


# Exercise: each arm its own rate.


def _fair(valid: dict[str, Tensor], test: dict[str, Tensor]) -> dict[str, float]:
    """Each arm's error on test users, at the rate that was best for it on validation users."""
    return {arm: float(test[arm][valid[arm].argmin()]) for arm in valid}


def _check_rate(answer: Callable) -> Outcome:
    valid = {"joint": torch.tensor([0.62, 0.58, 0.66]), "MAML": torch.tensor([0.57, 0.55, 0.54])}
    test = {"joint": torch.tensor([0.56, 0.60, 0.65]), "MAML": torch.tensor([0.52, 0.53, 0.56])}
    got = answer(dict(valid), dict(test))
    if not isinstance(got, dict) or set(got) != {"joint", "MAML"}:
        return wrong("Return a dict with one number for each arm: joint and MAML.")
    found = tuple(round(float(got[arm]), 4) for arm in ("joint", "MAML"))
    mistakes = (
        ((0.56, 0.52), "You took each arm's best rate on the test users. That is choosing on the test: the luckiest "
         "rate wins, and nobody can promise it to the next user."),
        ((0.60, 0.53), "One rate for both arms, the one that is best for joint training. MAML has a best rate of its "
         "own."),
        ((0.65, 0.56), "One rate for both arms, the one that is best for MAML. Fine-tuning at somebody else's rate "
         "loses for that reason alone."),
        ((0.58, 0.54), "These are errors on the validation users, which have chosen the rate. Judge on the test."),
    )  # fmt: skip
    for mistaken, message in mistakes:
        if found == mistaken:
            return wrong(message)
    if found == tuple(round(float(test[a][valid[a].argmax()]), 4) for a in ("joint", "MAML")):
        return wrong("You took the rate with the largest error on validation. Smaller is better.")
    if found != (0.60, 0.56):
        return wrong(f"I expected 0.60 for joint and 0.56 for MAML, and got {found[0]:g} and {found[1]:g}.")
    return right("Each arm chose on validation, and was judged once. Both look worse than their luckiest rate, and "
                 "both numbers can be believed.")  # fmt: skip


exercise_rate = Exercise(
    LESSON,
    "exercise-rate",
    title="A fair comparison",
    level="beginner",
    minutes=10,
    task="`valid[arm]` and `test[arm]` hold an arm's errors on validation users and on test "
    "users, at several inner rates, a tensor each; the rates are the same for all. Return a "
    "dict with the number that you would report for each arm.",
    check=_check_rate,
    hints=["Each arm has a best rate of its own. Which users may choose it, and which may not?"],
    solution=_fair,
    wrong_answers={
        "chosen on test": (lambda v, t: {a: float(t[a].min()) for a in t}, "choosing on the test"),
        "joint's rate for all": (
            lambda v, t: {a: float(t[a][v["joint"].argmin()]) for a in t},
            "best for joint training",
        ),
        "MAML's rate for all": (lambda v, t: {a: float(t[a][v["MAML"].argmin()]) for a in t}, "somebody else's rate"),
        "validation errors": (lambda v, t: {a: float(v[a].min()) for a in v}, "errors on the validation users"),
        "the largest": (lambda v, t: {a: float(t[a][v[a].argmax()]) for a in v}, "largest error"),
    },
)
