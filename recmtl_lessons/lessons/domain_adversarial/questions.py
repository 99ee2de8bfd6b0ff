"""What the lesson asks: a prediction, three exercises, and the study question."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from recmtl_lessons.lessons.domain_adversarial.activities import LESSON
from recmtl_lessons.teaching import Explorer
from recmtl_lessons.teaching.exercise import Exercise, Outcome, right, wrong
from recmtl_lessons.teaching.quiz import Predict, Quiz
from recmtl_lessons.teaching.study import KeyPoint, StudyQuestion

prediction = Predict(
    LESSON,
    "predict",
    "At home the model's AUC is 0.98. What will it be abroad, where nobody has told it a single click?",
    {
        "About 0.95: tastes are the same, and taste is among the features": "Tastes are the same, but the model leans "
        "on the banner as well, and at home the banner was the easier clue.",
        "About 0.75: of its two clues one fails, and the other still holds": "That would be so if the banner merely "
        "stopped helping. It does more: abroad it points the other way.",
        "About 0.50: it trusts a clue that no longer says anything there": "A coin is what remains when the only clue "
        "is worthless. This clue still says something abroad, the opposite, and the model follows it.",
        "Below 0.50: it trusts a clue that says the opposite there": "The banner that stood beside what people clicked "
        "at home stands, abroad, beside what they do not click. A model that trusts it ranks backwards.",
    },
)
BELOW_A_COIN = tuple(prediction.choices)[3]


class _Reversal(torch.autograd.Function):
    """The identity, whose gradient comes back with row k times minus alpha[k]."""

    @staticmethod
    def forward(ctx, x, alpha):
        ctx.alpha = alpha
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.alpha[:, None] * gradient, None


def _reversal_with(backward: Callable, forward: Callable = lambda x, alpha: x.view_as(x)) -> type:
    """A reversal built from its two halves, for the wrong answers below."""

    class Reversal(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, alpha):
            ctx.alpha = alpha
            return forward(x, alpha)

        @staticmethod
        def backward(ctx, gradient):
            return backward(gradient, ctx.alpha), None

    return Reversal


def _check_reversal(answer: type) -> Outcome:
    x = torch.tensor([[1.0, -2.0], [0.5, 3.0]], requires_grad=True)
    above = torch.tensor([[1.0, 2.0], [-3.0, 0.5]])
    alpha = torch.tensor([0.5, 2.0])
    y = answer.apply(x, alpha)
    if not torch.equal(y, x):
        return wrong("Your forward changes `x`. The reversal is the identity on the way forward; only gradients turn.")
    gradient = torch.autograd.grad(y, x, above, allow_unused=True)[0]
    if gradient is None:
        return wrong("No gradient reaches `x`: backward returned None in the first place, or forward cut the graph.")
    rows = alpha[:, None]
    mistakes = (
        (above, "Your gradient passes unchanged: neither the sign nor alpha is in it."),
        (rows * above, "Your gradient is scaled by alpha but keeps its sign: the encoder would help the classifier."),
        (-above, "Your gradient changes its sign but forgets alpha: the strength could not be tuned."),
        (-rows.expand(2, 2), "Your gradient is -alpha whatever comes from above: multiply what arrives by it."),
        (-above / rows, "You divide by alpha. A larger alpha must turn the encoder harder, not less."),
        (-alpha * above, "You scale column k by alpha[k]. A strength belongs to a row: give alpha a second axis."),
        (-alpha.mean() * above, "Every row gets the same strength. Row k should get its own, alpha[k]."),
    )
    for mistaken, message in mistakes:
        if gradient.shape == mistaken.shape and torch.allclose(gradient, mistaken):
            return wrong(message)
    expected = -rows * above
    if gradient.shape != expected.shape or not torch.allclose(gradient, expected):
        return wrong(f"For alpha = {alpha.tolist()} and {above.tolist()} from above I expected {expected.tolist()}, "
                     f"and got {gradient.tolist()}.")  # fmt: skip
    return right("The identity forward, each row's gradient times minus its own alpha back. With it, rows you trust "
                 "less can be aligned more gently.")  # fmt: skip


exercise_reversal = Exercise(
    LESSON,
    "exercise-reversal",
    title="A reversal with one strength a row",
    level="beginner",
    minutes=10,
    task="Some rows should be turned harder than others. `x` has shape (n, d) and `alpha` shape (n,), one strength a "
    "row. `forward` is done: it hands `x` on and keeps `alpha`. Write `backward`: it gets the gradient from above, "
    "(n, d), and returns the gradient for `x`, and `None` for `alpha`.",
    check=_check_reversal,
    hints=[
        "A descent step follows minus the gradient. What must arrive at the encoder, for its step to make the domain "
        "classifier's loss larger?",
        "Row k should be multiplied by `-alpha[k]`. What does (n,) times (n, d) do, and what does (n, 1) times (n, d)?",
    ],
    solution=_Reversal,
    wrong_answers={
        "no sign": (_reversal_with(lambda g, a: a[:, None] * g), "keeps its sign"),
        "no alpha": (_reversal_with(lambda g, a: -g), "forgets alpha"),
        "plain identity": (_reversal_with(lambda g, a: g), "passes unchanged"),
        "constant": (_reversal_with(lambda g, a: -a[:, None] * torch.ones_like(g)), "whatever comes from above"),
        "forward negated": (
            _reversal_with(lambda g, a: -a[:, None] * g, lambda x, a: -a[:, None] * x),
            "forward changes",
        ),
        "columns": (_reversal_with(lambda g, a: -a * g), "scale column k"),
        "one for all": (_reversal_with(lambda g, a: -a.mean() * g), "same strength"),
        "divided": (_reversal_with(lambda g, a: -g / a[:, None]), "divide by alpha"),
    },
)


def _objective_by_hand(click_logits, clicks, domain_logits, domains):
    """Clicks where they are known, domains everywhere, one plain sum."""
    known = len(clicks)
    task = F.binary_cross_entropy_with_logits(click_logits[:known], clicks)
    return task + F.cross_entropy(domain_logits, domains)


def _check_objective(answer: Callable) -> Outcome:
    generator = torch.Generator().manual_seed(1)
    click_logits = torch.randn(10, generator=generator).requires_grad_()
    domain_logits = torch.randn(10, 2, generator=generator).requires_grad_()
    clicks = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    domains = torch.tensor([0] * 5 + [1] * 5)
    got = answer(click_logits, clicks, domain_logits, domains)
    if not isinstance(got, Tensor) or got.shape != ():
        came = f"a tensor of shape {tuple(got.shape)}" if isinstance(got, Tensor) else f"a {type(got).__name__}"
        return wrong(f"I expected one number as a tensor of shape (), for `backward()` to start from, and got {came}.")
    if not got.requires_grad:
        return wrong("No gradient comes back from your loss: something in it was detached, or turned into a number.")
    task = F.binary_cross_entropy_with_logits(click_logits[:5], clicks)
    domain = F.cross_entropy(domain_logits, domains)
    mistakes = (
        (task - domain, "You subtract the domain loss. The reversal already turns it for the encoder; with a minus as "
         "well, the classifier is trained to be wrong and the encoder to betray the domain."),
        (task, "The domain loss is missing: nobody is there to be fooled."),
        (task + F.cross_entropy(domain_logits[:5], domains[:5]), "The domain loss sees home alone. A classifier that "
         "only ever meets one domain has nothing to tell apart."),
        (task + F.cross_entropy(domain_logits.softmax(1), domains), "There is a softmax before `cross_entropy`, which "
         "takes logits and has one inside: the loss can no longer fall below 0.313."),
        (F.binary_cross_entropy_with_logits(click_logits, torch.cat([clicks, torch.zeros(5)])) + domain,
         "You take the unlabelled rows for rows without a click. Nothing is known of them."),
    )  # fmt: skip
    for mistaken, message in mistakes:
        if torch.allclose(got, mistaken, atol=1e-6):
            return wrong(message)
    if not torch.allclose(got, task + domain, atol=1e-6):
        return wrong(f"For my example I expected {(task + domain).item():.4f}, and got {got.item():.4f}. It is the "
                     "mean click loss of the labelled rows plus the mean domain loss of all rows.")  # fmt: skip
    return right("One plain sum. All the adversity sits in the reversal.")


exercise_objective = Exercise(
    LESSON,
    "exercise-objective",
    title="Write the objective",
    level="intermediate",
    minutes=10,
    task="`click_logits` (2n,) and `domain_logits` (2n, 2) come from a network with the reversal inside; the first n "
    "rows are from home. `clicks` (n,) are the labels of home, `domains` (2n,) says where each row is from. Return the "
    "loss to descend on.",
    check=_check_objective,
    hints=[
        "Which rows have click labels? Which rows have a domain?",
        "`F.binary_cross_entropy_with_logits` for the first n rows, `F.cross_entropy` for all. Which sign goes between "
        "them, given that the reversal is already inside?",
    ],
    solution=_objective_by_hand,
    wrong_answers={
        "two signs": (
            lambda c, y, d, k: F.binary_cross_entropy_with_logits(c[: len(y)], y) - F.cross_entropy(d, k),
            "You subtract",
        ),
        "task only": (lambda c, y, d, k: F.binary_cross_entropy_with_logits(c[: len(y)], y), "missing"),
        "a plain number": (
            lambda c, y, d, k: (F.binary_cross_entropy_with_logits(c[: len(y)], y) + F.cross_entropy(d, k)).item(),
            "to start from, and got a float",
        ),
        "detached": (
            lambda c, y, d, k: (F.binary_cross_entropy_with_logits(c[: len(y)], y) + F.cross_entropy(d, k)).detach(),
            "No gradient",
        ),
        "home only": (
            lambda c, y, d, k: (
                F.binary_cross_entropy_with_logits(c[: len(y)], y) + F.cross_entropy(d[: len(y)], k[: len(y)])
            ),
            "home alone",
        ),
        "softmax inside": (
            lambda c, y, d, k: F.binary_cross_entropy_with_logits(c[: len(y)], y) + F.cross_entropy(d.softmax(1), k),
            "softmax before",
        ),
        "unlabelled as zero": (
            lambda c, y, d, k: F.binary_cross_entropy_with_logits(c, torch.cat([y, 0 * y])) + F.cross_entropy(d, k),
            "Nothing is known",
        ),
    },
)


def _distance_by_hand(right_home: int, right_abroad: int, n: int) -> float:
    """2 (1 - 2 error), the error averaged over the two domains."""
    error = 1 - (right_home + right_abroad) / (2 * n)
    return 2 * (1 - 2 * error)


def _check_distance(answer: Callable) -> Outcome:
    cases = ((100, 100), (50, 50), (90, 70), (20, 70))
    got = [float(answer(home, abroad, 100)) for home, abroad in cases]
    accuracies = [(home + abroad) / 200 for home, abroad in cases]
    mistakes = (
        ([2 * (1 - 2 * a) for a in accuracies], "You use the share that is right as the error: your distance is least "
         "where the domains are easiest to tell apart."),
        ([2 * a - 1 for a in accuracies], "The factor 2 is missing: domains always told apart are at distance 2."),
        ([2 * (1 - 2 * (1 - 2 * a)) for a in accuracies], "You divide by n, but n rows of *each* domain were tried."),
        ([2 * (1 - (1 - a)) for a in accuracies], "A coin flip is wrong half the time and must be at distance 0; yours "
         "is at 1. It is 1 minus *twice* the error."),
        ([abs(2 * (2 * a - 1)) for a in accuracies], "A classifier that is wrong more often than right on new rows has "
         "found nothing: its distance is slightly negative, not turned positive."),
        ([max(0.0, 2 * (2 * a - 1)) for a in accuracies], "You cut the distance off at 0. A classifier may be wrong "
         "more often than right on new rows: then it is slightly negative, and its mean over seeds is not biased."),
    )  # fmt: skip
    for mistaken, message in mistakes:
        if all(abs(g - m) < 1e-5 for g, m in zip(got, mistaken, strict=True)):
            return wrong(message)
    for (home, abroad), g in zip(cases, got, strict=True):
        expected = _distance_by_hand(home, abroad, 100)
        if abs(g - expected) > 1e-5:
            return wrong(f"With {home} of 100 right at home and {abroad} of 100 abroad I expected {expected:.2f}, "
                         f"and got {g:.2f}.")  # fmt: skip
    return right("0 for a coin flip, 2 for domains that can always be told apart.")


exercise_distance = Exercise(
    LESSON,
    "exercise-distance",
    title="Measure what is hidden",
    level="beginner",
    minutes=5,
    task="A fresh classifier was tried on `n` new rows of each domain, and placed `right_home` and `right_abroad` of "
    "them rightly. Return the proxy A-distance, 2 (1 − 2 error).",
    check=_check_distance,
    hints=["The error is the share of all 2n rows that were placed wrongly."],
    solution=_distance_by_hand,
    wrong_answers={
        "accuracy for error": (lambda h, a, n: 2 * (1 - 2 * (h + a) / (2 * n)), "as the error"),
        "no factor": (lambda h, a, n: (h + a) / n - 1, "factor 2"),
        "once the error": (lambda h, a, n: (h + a) / n, "coin flip"),
        "absolute": (lambda h, a, n: abs(2 * ((h + a) / n - 1)), "slightly negative"),
        "cut off": (lambda h, a, n: max(0.0, 2 * ((h + a) / n - 1)), "cut the distance off"),
        "half the rows": (lambda h, a, n: 2 * (1 - 2 * (1 - (h + a) / n)), "divide by n"),
        "one domain": (lambda h, a, n: 2 * (2 * h / n - 1), "I expected"),
    },
)


_WORKED = """
The encoder turns each interaction, from home or from abroad, into shared features. The task head learns clicks from
the rows of home, the only ones with labels. The domain classifier learns from all rows to say where each is from.

The encoder wants the first to succeed and the second to fail. Between encoder and classifier stands the reversal: it
hands features on as they are, and hands gradients back times −λ. So one descent on task loss plus domain loss trains
the classifier to find the domain and the encoder to hide it.

It helps when a clue that serves the task at home differs between the domains, so that hiding the domain means
dropping that clue, while another clue that means the same in both remains. A λ too high takes from the task at home
what it needs. In this lesson that lifted the AUC abroad by more than 0.10, from below a coin flip. Without a shift it
gained nothing. Between MovieLens genres it brought less than 0.02.

It cannot help where nothing common remains, and it can harm: it makes the features of the two domains look alike,
and nothing tells it whether the alike mean the same.
"""


def study_question(evidence_from: Explorer) -> StudyQuestion:
    """The lesson's study question, with the explorer it takes its evidence from."""
    return StudyQuestion(
        LESSON,
        "study",
        level="beginner",
        question="How does domain-adversarial training work in cross-domain recommendation? Say what each of the three "
        "parts wants, how the reversal makes one descent of it, when it helps, and when it cannot.",
        evidence_prompt="In the first explorer, run λ = 0, a λ where abroad is served well, and the largest. Note for "
        "each the AUC abroad and how often the domain classifier is right.",
        checks=[
            Quiz(
                LESSON,
                "study/check-1",
                "You raise λ from 1 to 10 and change no weight. Which gradients change?",
                {
                    "Those of the encoder and the domain classifier": "The classifier's own gradient never passes the "
                    "reversal, so it is not scaled. It learns as fast at λ = 0.01 as at λ = 10.",
                    "Those of all three parts, as their losses are summed": "The sum has no λ in it. Nothing of the "
                    "domain loss reaches the task head, and the classifier's own gradient does not pass the reversal.",
                    "Those of the encoder, and of no other part": "The reversal stands between the encoder and the "
                    "classifier, so λ scales only what the encoder receives from the domain loss.",
                },
                "Those of the encoder, and of no other part",
            ),
            Quiz(
                LESSON,
                "study/check-2",
                "The network's own domain classifier is right for 50 % of the rows. What follows?",
                {
                    "This one classifier cannot find the domain in the features": "And no more than that. It was "
                    "fooled while it learned, which is why the lesson measures a fresh classifier as well.",
                    "No classifier could find the domain in the features now": "In the sweep a fresh one, trained on "
                    "the finished features, still told the domains apart.",
                    "The features serve clicks in both domains equally well": "A classifier at 50 % says nothing about "
                    "clicks: an encoder that outputs a constant reaches 50 % too.",
                },
                "This one classifier cannot find the domain in the features",
            ),
            Quiz(
                LESSON,
                "study/check-3",
                "Two shops do not differ in any clue. You train with λ = 1 instead of 0. What does the AUC abroad do?",
                {
                    "It rises a little, as with most regularisation": "A plausible hope, but the negative control "
                    "looked for it: the whole interval of the gain lay within 0.005 of zero.",
                    "It stays, as there is no domain for it to hide": "That is this lesson's negative control: an "
                    "adversary that finds nothing has nothing to push on.",
                    "It falls a little, as the encoder serves two masters": "The negative control would have shown it: "
                    "the whole interval lay within 0.005 of zero. The cost at home comes with a domain to hide.",
                },
                "It stays, as there is no domain for it to hide",
            ),
        ],
        points=[
            KeyPoint(
                "one encoder is shared by the domains",
                (r"\bencoder\b", r"shared (features|representation|layers?)", r"feature extractor"),
                "It is the part that is pulled in two directions: serve the task, hide the domain.",
            ),
            KeyPoint(
                "a domain classifier tries to tell the domains apart",
                (r"domain (classifier|discriminator|head)", r"\badversar", r"discriminator"),
                "Without an opponent that really tries, nothing is hidden.",
            ),
            KeyPoint(
                "the gradient is reversed on its way to the encoder",
                (r"revers", r"\bgrl\b", r"minus (lambda|alpha|λ)", r"(negat|flip)\w* .{0,20}gradient"),
                "It turns a game of two into one ordinary descent.",
            ),
            KeyPoint(
                "labels come from home, the source domain, alone",
                (
                    r"(no|without|unlabell?ed|lack\w*).{0,30}(target|abroad|label)",
                    r"label\w*[^.;]{0,40}(source|home)",
                    r"(source|home)[^.;]{0,60}label",
                ),
                "It is why the method is worth its trouble: the target needs features only.",
            ),
            KeyPoint(
                "lambda trades the task against hiding",
                (
                    r"trade-?off|balanc",
                    r"(λ|lambda|strength)[^.;]{0,80}\b(too|high|low|large|small|cost|pays?|home|source)",
                    r"too (high|strong|much|large)[^.;]{0,60}(home|source|task)",
                ),
                "Too little hides nothing; too much takes from the task what it needs.",
            ),
            KeyPoint(
                "a condition or a limit",
                (
                    r"(helps?|works?|useful|gains?) (only |nothing |not )?(if|when|where|unless)",
                    r"(fails?|cannot help|can't help|does not help|harms?|no gain|gains? nothing)\b",
                    r"same (tastes?|labelling|relation|meaning)|mean the same",
                    r"negative transfer",
                ),
                "It aligns what the features look like, not what they mean: if the same features mean different things "
                "in the two domains, aligning them can do harm.",
            ),
        ],
        worked=_WORKED,
        start="An encoder, a task head and a domain classifier …",
        evidence_from=evidence_from,
    )
