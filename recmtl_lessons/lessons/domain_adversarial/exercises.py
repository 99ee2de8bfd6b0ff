"""Three exercises: the reversal, the objective, which then trains, and the distance."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from recmtl_lessons.lessons.domain_adversarial.experiments import train_with
from recmtl_lessons.lessons.domain_adversarial.pictures import describe_own, draw_own
from recmtl_lessons.lessons.domain_adversarial.questions import TEXTS
from recmtl_lessons.teaching.exercise import Experiment


class Reversal(torch.autograd.Function):
    """The identity, whose gradient comes back times minus lam, as the notebook writes it."""

    @staticmethod
    def forward(ctx, x, lam):
        """Hand ``x`` on."""
        ctx.lam = lam
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        """Turn the gradient."""
        return -ctx.lam * gradient, None


class RowReversal(Reversal):
    """The same with one strength per row."""

    @staticmethod
    def backward(ctx, gradient):
        """Turn the gradient of row k by its own strength."""
        return -ctx.lam[:, None] * gradient, None


def _reversal_with(
    backward: Callable, forward: Callable = lambda x, alpha: x.view_as(x), gradients: Callable = lambda g: (g, None)
) -> type:
    class Mistaken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, alpha):
            ctx.alpha = alpha
            return forward(x, alpha)

        @staticmethod
        def backward(ctx, gradient):
            return gradients(backward(gradient, ctx.alpha))

    return Mistaken


def _rows_to_reverse(generator: torch.Generator) -> Iterator[dict]:
    for n, width in ((2, 3), (3, 3), (4, 2)):  # as many rows as columns, or not: alpha belongs to the rows
        x = torch.randn(n, width, generator=generator).requires_grad_()
        yield {"x": x, "alpha": 0.2 + 2 * torch.rand(n, generator=generator)}


exercise_reversal = TEXTS.exercise(
    "exercise-reversal",
    cases=_rows_to_reverse,
    call=lambda answer, x, alpha: answer.apply(x, alpha),
    solution=RowReversal,
    mistakes={
        "plain identity": _reversal_with(lambda g, a: g),
        "no sign": _reversal_with(lambda g, a: a[:, None] * g),
        "no alpha": _reversal_with(lambda g, a: -g),
        "constant": _reversal_with(lambda g, a: -a[:, None] * torch.ones_like(g)),
        "divided": _reversal_with(lambda g, a: -g / a[:, None]),
        "columns": _reversal_with(lambda g, a: -a * g),
        "one for all": _reversal_with(lambda g, a: -a.mean() * g),
        "forward negated": _reversal_with(lambda g, a: -a[:, None] * g, lambda x, a: -a[:, None] * x),
        "forward turned": _reversal_with(lambda g, a: -a[:, None] * g, lambda x, a: -x),
        "no gradient": _reversal_with(lambda g, a: None),
        "one gradient": _reversal_with(lambda g, a: -a[:, None] * g, gradients=lambda g: g),
    },
)


def objective(encoder, task_head, domain_classifier, home, abroad, clicks, lam):
    """Clicks where they are known, domains everywhere, and the reversal between encoder and domain classifier."""
    shared_home, shared_abroad = encoder(home), encoder(abroad)  # (n, hidden) each
    task = F.binary_cross_entropy_with_logits(task_head(shared_home), clicks)
    shared = torch.cat([shared_home, shared_abroad])
    domains = torch.tensor([0] * len(home) + [1] * len(abroad))
    return task + F.cross_entropy(domain_classifier(Reversal.apply(shared, lam)), domains)


def _objective_with(
    domain: Callable = F.cross_entropy,
    strength: Callable = lambda lam: lam,
    together: Callable = lambda task, domain, lam: task + domain,
    head_sees: str = "shared",
    clicked: str = "home",
    told_apart: str = "both",
    swapped: bool = False,
    from_logits: Callable = F.binary_cross_entropy_with_logits,
    behind: bool = False,
) -> Callable:
    """The objective with another domain loss, reversal or sum, or with other rows before a head."""

    def answer(encoder, task_head, domain_classifier, home, abroad, clicks, lam):
        shared = encoder(torch.cat([home, abroad]))
        turned = shared if behind else Reversal.apply(shared, strength(lam))
        domains = torch.tensor([int(swapped)] * len(home) + [int(not swapped)] * len(abroad))
        known = len(home) if clicked == "home" else len(shared)
        labels = torch.cat([clicks, torch.zeros(len(abroad))])[:known]
        logits = task_head((shared if head_sees == "shared" else turned)[:known])
        seen = len(home) if told_apart == "home" else len(shared)
        told = domain_classifier(turned[:seen])
        told = Reversal.apply(told, strength(lam)) if behind else told
        return together(from_logits(logits, labels), domain(told, domains[:seen]), lam)

    return answer


def _two_shops(generator: torch.Generator) -> Iterator[dict]:
    for n, m in ((4, 4), (5, 7), (6, 3)):

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        yield {
            "encoder_weight": normal(3, 2).requires_grad_(),
            "head_weight": normal(2).requires_grad_(),
            "classifier_weight": normal(2, 2).requires_grad_(),
            "home": normal(n, 3),
            "abroad": 1 + normal(m, 3),
            "clicks": torch.tensor([float(k % 2) for k in range(n)]),
            "lam": float(0.3 + 2 * torch.rand((), generator=generator)),
        }  # fmt: skip


def _with_networks(answer, encoder_weight, head_weight, classifier_weight, home, abroad, clicks, lam):
    def through(weight: Tensor) -> Callable:
        return lambda x: x @ weight.to(x.dtype)

    encoder = through(encoder_weight)
    parts = (lambda x: encoder(x).tanh(), through(head_weight), through(classifier_weight))
    return answer(*parts, home, abroad, clicks, lam)


exercise_objective = TEXTS.exercise(
    "exercise-objective",
    cases=_two_shops,
    call=_with_networks,
    solution=objective,
    mistakes={
        "no reversal": _objective_with(strength=lambda lam: -1.0),
        "two signs": _objective_with(together=lambda t, d, lam: t - d),
        "a minus for a reversal": _objective_with(strength=lambda lam: -1.0, together=lambda t, d, lam: t - lam * d),
        "strength in the sum, no reversal": _objective_with(
            strength=lambda lam: -1.0, together=lambda t, d, lam: t + lam * d
        ),
        "reversal behind the classifier": _objective_with(behind=True),
        "strength forgotten": _objective_with(strength=lambda lam: 1.0),
        "minus lambda": _objective_with(strength=lambda lam: -lam),
        "detached": _objective_with(strength=lambda lam: 0.0),
        "domains swapped": _objective_with(swapped=True),
        "a mean for each shop": _objective_with(
            lambda logits, d: F.cross_entropy(logits[d == 0], d[d == 0]) + F.cross_entropy(logits[d == 1], d[d == 1])
        ),
        "sigmoid before": _objective_with(from_logits=lambda x, y: F.binary_cross_entropy_with_logits(x.sigmoid(), y)),
        "domain only": _objective_with(together=lambda t, d, lam: d),
        "strength in the sum": _objective_with(strength=lambda lam: 1.0, together=lambda t, d, lam: t + lam * d),
        "strength twice": _objective_with(together=lambda t, d, lam: t + lam * d),
        "task only": _objective_with(together=lambda t, d, lam: t),
        "home only": _objective_with(told_apart="home"),
        "softmax inside": _objective_with(lambda logits, domains: F.cross_entropy(logits.softmax(1), domains)),
        "unlabelled as zero": _objective_with(clicked="both"),
        "reversed for both": _objective_with(head_sees="turned"),
        "sum for mean": _objective_with(lambda logits, domains: F.cross_entropy(logits, domains, reduction="sum")),
    },
    experiment=Experiment(
        train_with,
        draw_own,
        describe_own,
        alt="AUC abroad over training: the course's networks without and with the adversary. Yours come here.",
    ),
)


def distance(right_home: int, right_abroad: int, n: int) -> float:
    """2 (1 - 2 error), the error averaged over the two domains."""
    error = 1 - (right_home + right_abroad) / (2 * n)
    return 2 * (1 - 2 * error)


def _trials(generator: torch.Generator) -> Iterator[dict]:
    for n, low, high in ((100, 50, 101), (40, 20, 41), (250, 60, 120)):
        home, abroad = torch.randint(low, high, (2,), generator=generator).tolist()
        yield {"right_home": home, "right_abroad": abroad if abroad != home else abroad - 1, "n": n}


exercise_distance = TEXTS.exercise(
    "exercise-distance",
    cases=_trials,
    solution=distance,
    mistakes={
        "accuracy for error": lambda h, a, n: 2 * (1 - 2 * (h + a) / (2 * n)),
        "no factor": lambda h, a, n: (h + a) / n - 1,
        "half the rows": lambda h, a, n: 2 * (1 - 2 * (1 - (h + a) / n)),
        "once the error": lambda h, a, n: (h + a) / n,
        "absolute": lambda h, a, n: abs(2 * ((h + a) / n - 1)),
        "cut off": lambda h, a, n: max(0.0, 2 * ((h + a) / n - 1)),
        "one domain": lambda h, a, n: 2 * (2 * h / n - 1),
        "the other domain": lambda h, a, n: 2 * (2 * a / n - 1),
        "the error itself": lambda h, a, n: 1 - (h + a) / (2 * n),
        "sum of the errors": lambda h, a, n: 2 * (1 - 2 * (2 - (h + a) / n)),
    },
)
