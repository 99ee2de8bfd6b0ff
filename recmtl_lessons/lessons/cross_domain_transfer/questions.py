"""What the lesson asks: a prediction and three exercises."""

from collections.abc import Callable

import torch
from torch import Tensor

from recmtl_lessons.lessons.cross_domain_transfer.activities import LESSON
from recmtl_lessons.models import median_bandwidth, squared_mmd
from recmtl_lessons.teaching.exercise import Exercise, Outcome, right, wrong
from recmtl_lessons.teaching.quiz import Predict

prediction = Predict(
    LESSON,
    "predict",
    "Tastes in books and films are unrelated, and every account is linked. What happens to the error for people who "
    "have rated two or four films, compared with the same training with no account linked?",
    {
        "It stays as it is: the network learns to ignore the books": "Nothing tells it to. A linked account is one "
        "embedding, and the loss of the books pulls at it as hard as that of the films, and far more often.",
        "It falls a little: more ratings make the embeddings steadier": "They do become steadier, around what the "
        "person likes in books, which here is beside the point.",
        "It rises: the films of a person are read off their books": "Forty books outvote two films in the one "
        "embedding that a linked account has.",
        "It rises only if half of the accounts are linked, and not if all are": "More links mean more people whose "
        "films are read off their books. The map below shows both.",
    },
)
RISES = tuple(prediction.choices)[2]


# Exercise 1: the unbiased MMD.


def _mmd_by_hand(within_home: Tensor, within_abroad: Tensor, between: Tensor) -> Tensor:
    """Mean without the diagonal, twice, less twice the mean between."""
    m, n = len(within_home), len(within_abroad)
    home = (within_home.sum() - within_home.trace()) / (m * (m - 1))
    abroad = (within_abroad.sum() - within_abroad.trace()) / (n * (n - 1))
    return home + abroad - 2 * between.mean()


def _check_mmd(answer: Callable) -> Outcome:
    generator = torch.Generator().manual_seed(1)
    home = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    abroad = 1 + torch.randn(7, 2, generator=generator, dtype=torch.float64)
    pairs = ((home, home), (abroad, abroad), (home, abroad))
    a, b, ab = (torch.exp(-torch.cdist(*pair).square() / 2) for pair in pairs)
    got = answer(a, b, ab)
    if not isinstance(got, Tensor) or got.shape != ():
        return wrong(
            f"I expected one number as a tensor of shape (), and got {getattr(got, 'shape', type(got).__name__)}."
        )
    expected = squared_mmd(home, abroad, 1.0, (1.0,))
    off_a, off_b = ((k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (a, b))
    without = [(k.sum() - k.trace()) / len(k) ** 2 for k in (a, b)]
    mistakes = (
        (a.mean() + b.mean() - 2 * ab.mean(), "Your means include the diagonal, where every row meets itself at "
         "similarity 1. That is the biased form: above 0 even for two samples of one distribution."),
        (without[0] + without[1] - 2 * ab.mean(), "You leave out the diagonal, but still divide by all m² pairs. "
         "Without the diagonal there are m (m − 1)."),
        (off_a + off_b - ab.mean(), "The similarity between the samples counts twice: once as home with abroad, once "
         "as abroad with home."),
        (expected.clamp(min=0).sqrt(), "You take the root. The square may be negative, and near 0 the root's gradient "
         "has no bound."),
        (-expected, "Your sign is turned: yours grows as the samples become alike."),
    )  # fmt: skip
    if not torch.allclose(got, expected, atol=1e-9):
        for mistaken, message in mistakes:
            if torch.allclose(got, mistaken.to(got), atol=1e-9):
                return wrong(message)
        return wrong(f"For five and seven rows I expected {float(expected):.4f}, and got {float(got):.4f}.")
    swapped = torch.full((3, 3), 0.2, dtype=torch.float64).fill_diagonal_(1.0)
    near = answer(swapped, swapped, torch.full((3, 3), 0.5, dtype=torch.float64))
    if float(near) > -0.5:
        return wrong(f"Where rows are closer to the other sample than to their own I expected −0.6, and got "
                     f"{float(near):.1f}. An unbiased estimate of 0 falls on both sides of it: clamped, it is too "
                     "large on average, and half of the time without a gradient.")  # fmt: skip
    return right("Unbiased: 0 on average where there is no difference, and so sometimes below.")


exercise_mmd = Exercise(
    LESSON,
    "exercise-mmd",
    title="The unbiased MMD",
    level="beginner",
    minutes=10,
    task="`within_home` (m, m) and `within_abroad` (n, n) hold the kernel between the rows of one shop, `between` "
    "(m, n) between rows of the two. Return the unbiased squared MMD as one tensor.",
    check=_check_mmd,
    hints=[
        "How similar is a row to itself, and does that say anything about the shops?",
        "A mean over m (m − 1) pairs, a mean over n (n − 1), and one over m n, which counts twice.",
    ],
    solution=_mmd_by_hand,
    wrong_answers={
        "biased": (lambda a, b, ab: a.mean() + b.mean() - 2 * ab.mean(), "include the diagonal"),
        "divided by all": (
            lambda a, b, ab: (a.sum() - a.trace()) / len(a) ** 2 + (b.sum() - b.trace()) / len(b) ** 2 - 2 * ab.mean(),
            "still divide",
        ),
        "once between": (lambda a, b, ab: _mmd_by_hand(a, b, ab) + ab.mean(), "counts twice"),
        "clamped": (lambda a, b, ab: _mmd_by_hand(a, b, ab).clamp(min=0), "clamped, it is too large"),
        "rooted": (lambda a, b, ab: _mmd_by_hand(a, b, ab).clamp(min=0).sqrt(), "take the root"),
        "turned": (lambda a, b, ab: -_mmd_by_hand(a, b, ab), "sign is turned"),
    },
)


# Exercise 2: the bandwidth.


def _bandwidth_by_hand(home: Tensor, abroad: Tensor) -> Tensor:
    """Median of the distances between different rows of both samples together, without a gradient."""
    both = torch.cat([home, abroad]).detach()
    return torch.pdist(both).median()


def _check_bandwidth(answer: Callable) -> Outcome:
    generator = torch.Generator().manual_seed(2)
    home = torch.randn(6, 3, generator=generator).requires_grad_()
    abroad = (3 + torch.randn(8, 3, generator=generator)).requires_grad_()
    got = answer(home, abroad)
    if not isinstance(got, Tensor) or got.shape != ():
        return wrong(
            f"I expected one number as a tensor of shape (), and got {getattr(got, 'shape', type(got).__name__)}."
        )
    both, expected = torch.cat([home, abroad]).detach(), median_bandwidth(home, abroad)
    with torch.no_grad():
        mistakes = (
            (torch.cdist(both, both).median(), "Your median counts each row's distance to itself, which is 0, and so "
             "comes out too small. Compare different rows only."),
            (torch.pdist(home).median(), "You look at home alone. If abroad lies far away, all of it is out of reach."),
            (torch.pdist(abroad).median(), "You look at abroad alone. Pool the two samples."),
            (torch.cdist(home, abroad).median(), "You take distances between the samples only. Pool the two, and "
             "compare all pairs."),
            (torch.pdist(both).square().median(), "That is the median of the squared distances. A bandwidth is a "
             "distance: take the root."),
            (torch.pdist(both).mean(), "That is the mean. A few far rows can make it as large as they like."),
        )  # fmt: skip
    for mistaken, message in mistakes:
        if torch.allclose(got.detach(), mistaken, atol=1e-5):
            return wrong(message)
    if not torch.allclose(got.detach(), expected, atol=1e-4):
        return wrong(f"For my two samples I expected {float(expected):.3f}, and got {float(got):.3f}.")
    if got.requires_grad:
        return wrong("Right number, but it carries a gradient: the network would be asked to move the one pair of rows "
                     "that happens to be the median. Detach it.")  # fmt: skip
    return right("The scale of the pooled rows, and no gradient through it.")


exercise_bandwidth = Exercise(
    LESSON,
    "exercise-bandwidth",
    title="The median bandwidth",
    level="intermediate",
    minutes=10,
    task="`home` (m, d) and `abroad` (n, d) are features that carry gradients. Return the bandwidth of the median "
    "heuristic: the median distance between two different rows of the pooled samples, without a gradient.",
    check=_check_bandwidth,
    hints=[
        "`torch.cat` pools. `torch.pdist` gives the distance of each pair of different rows once.",
        "Which call makes a tensor that has the same numbers and no history?",
    ],
    solution=_bandwidth_by_hand,
    wrong_answers={
        "with itself": (
            lambda h, a: torch.cdist(torch.cat([h, a]).detach(), torch.cat([h, a]).detach()).median(),
            "distance to itself",
        ),
        "home alone": (lambda h, a: torch.pdist(h.detach()).median(), "home alone"),
        "between only": (lambda h, a: torch.cdist(h.detach(), a.detach()).median(), "between the samples only"),
        "squared": (lambda h, a: torch.pdist(torch.cat([h, a]).detach()).square().median(), "take the root"),
        "mean": (lambda h, a: torch.pdist(torch.cat([h, a]).detach()).mean(), "That is the mean"),
        "with gradient": (lambda h, a: torch.pdist(torch.cat([h, a])).median(), "carries a gradient"),
    },
)


# Exercise 3: the permutation test.


def _p_value_by_hand(statistic: float, permuted: Tensor) -> float:
    """Share of all divisions, the one that came among them, that are at least as extreme."""
    return (1 + int((permuted >= statistic).sum())) / (1 + len(permuted))


def _check_p_value(answer: Callable) -> Outcome:
    permuted = torch.tensor([-0.03, -0.01, 0.0, 0.01, 0.01, 0.02, 0.02, 0.04, 0.05])
    cases = (0.1, 0.04, 0.015, -0.05)
    got = [float(answer(statistic, permuted)) for statistic in cases]
    mistakes = (
        (lambda s, p: (p >= s).float().mean(), "Yours can be 0, which no number of shuffles can show. The division "
         "that came is one of those that chance might have dealt: count it, above and below."),
        (lambda s, p: (1 + (p > s).sum()) / (1 + len(p)), "A shuffle that ties with the statistic is as extreme as it: "
         "count it."),
        (lambda s, p: (1 + (p <= s).sum()) / (1 + len(p)), "You count the shuffles below. A large MMD speaks for a "
         "difference, so the extreme ones are above."),
        (lambda s, p: (1 + (p.abs() >= abs(s)).sum()) / (1 + len(p)), "You take absolute values. A very negative MMD "
         "is no sign of a difference: the test has one side."),
        (lambda s, p: (1 + (p >= s).sum()) / len(p), "You add the division that came above, but not below: yours "
         "can exceed 1."),
    )  # fmt: skip
    for mistake, message in mistakes:
        if all(abs(g - float(mistake(s, permuted))) < 1e-6 for g, s in zip(got, cases, strict=True)):
            return wrong(message)
    for statistic, g in zip(cases, got, strict=True):
        expected = _p_value_by_hand(statistic, permuted)
        if abs(g - expected) > 1e-6:
            return wrong(f"With a statistic of {statistic} among my nine shuffles I expected {expected:.1f}, and got "
                         f"{g:.2f}.")  # fmt: skip
    return right("It can never be 0, and under the null hypothesis it is at most 0.05 in at most 5 % of the cases.")


exercise_test = Exercise(
    LESSON,
    "exercise-test",
    title="The permutation test",
    level="beginner",
    minutes=5,
    task="`statistic` is the squared MMD of two samples, `permuted` (B,) the same after each of B shuffles of the "
    "pooled rows. Return the p-value of the hypothesis that both samples have one distribution.",
    check=_check_p_value,
    hints=["How many of the 1 + B divisions, the one that came among them, have at least the statistic that came?"],
    solution=_p_value_by_hand,
    wrong_answers={
        "can be zero": (lambda s, p: (p >= s).float().mean(), "can be 0"),
        "ties": (lambda s, p: (1 + (p > s).sum()) / (1 + len(p)), "ties with the statistic"),
        "wrong side": (lambda s, p: (1 + (p <= s).sum()) / (1 + len(p)), "extreme ones are above"),
        "two sides": (lambda s, p: (1 + (p.abs() >= abs(s)).sum()) / (1 + len(p)), "one side"),
        "above only": (lambda s, p: (1 + (p >= s).sum()) / len(p), "not below"),
    },
)
