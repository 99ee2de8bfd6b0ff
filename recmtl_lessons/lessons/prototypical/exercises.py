"""Three exercises: log-probabilities, the linear classifier inside, and a service for every new user."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from recmtl_lessons.lessons.prototypical.questions import TEXTS

# Log-probabilities.


def classify(queries: Tensor, prototypes: Tensor) -> Tensor:
    """Return log-probabilities of the classes by the squared distances."""
    distance = (queries[:, None] - prototypes[None]).square().sum(-1)  # (Q, n)
    return (-distance).log_softmax(dim=1)


def _squares(queries: Tensor, prototypes: Tensor) -> Tensor:
    return (queries[:, None] - prototypes[None]).square().sum(-1)


def _means(queries: Tensor, prototypes: Tensor) -> Tensor:
    return (queries[:, None] - prototypes[None]).square().mean(-1)


def _expanded(queries: Tensor, prototypes: Tensor) -> Tensor:
    square = queries.square().sum(1, keepdim=True) - 2 * queries @ prototypes.T + prototypes.square().sum(1)
    return (-square).log_softmax(1)


def _points(generator: torch.Generator) -> Iterator[dict]:
    """Draw points near the origin, one of them on a prototype, and far from it."""
    for q, n, d, far in ((4, 3, 2, 0.0), (3, 5, 4, 0.0), (5, 2, 3, 3_000.0)):
        shift = far * (1 + torch.rand(d, generator=generator))
        prototypes = shift + torch.randn(n, d, generator=generator)
        queries = shift + torch.randn(q, d, generator=generator)
        if n == 3:
            queries[0] = prototypes[1]
        yield {"queries": queries.requires_grad_(), "prototypes": prototypes.requires_grad_()}


exercise_classify = TEXTS.exercise(
    "exercise-classify",
    cases=_points,
    solution=classify,
    mistakes={
        "minus outside": lambda q, c: -_squares(q, c).log_softmax(1),
        "minus outside the root's": lambda q, c: -torch.cdist(q, c).log_softmax(1),
        "minus outside the mean's": lambda q, c: -_means(q, c).log_softmax(1),
        "no minus": lambda q, c: _squares(q, c).log_softmax(1),
        "probabilities": lambda q, c: (-_squares(q, c)).softmax(1),
        "logits": lambda q, c: -_squares(q, c),
        "root": lambda q, c: (-torch.cdist(q, c)).log_softmax(1),
        "over the queries": lambda q, c: (-_squares(q, c)).log_softmax(0),
        "mean": lambda q, c: (-_means(q, c)).log_softmax(1),
        "inner products": lambda q, c: (q @ c.T).log_softmax(1),
        "expanded": _expanded,
    },
)


# The linear classifier inside.


def as_linear(prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights (n, D) and biases (n,) of the linear classifier that prototypes are."""
    return 2 * prototypes, -prototypes.square().sum(1)


def _some_prototypes(generator: torch.Generator) -> Iterator[dict]:
    for n, d in ((4, 2), (3, 5), (2, 3)):
        yield {"prototypes": torch.randn(n, d, generator=generator)}


def _but_for_what_all_share(value, inputs) -> list[Tensor]:
    """What is the same for all classes drops out of the softmax."""
    return [part - part.mean(0) for part in value]


exercise_linear = TEXTS.exercise(
    "exercise-linear",
    cases=_some_prototypes,
    view=_but_for_what_all_share,
    solution=as_linear,
    mistakes={
        "half the weights": lambda c: (c, -c.square().sum(1)),
        "half of both": lambda c: (c, -c.square().sum(1) / 2),
        "sign": lambda c: (2 * c, c.square().sum(1)),
        "no bias": lambda c: (2 * c, torch.zeros(len(c))),
        "length": lambda c: (2 * c, -c.norm(dim=1)),
        "turned": lambda c: (-2 * c, c.square().sum(1)),
    },
)


# Serve every new user: a design, judged by what it does.


def serve(own: Tensor, ratings: Tensor, offered: Tensor, everybody: Tensor, weight: float = 10.0) -> Tensor:
    """Score items by the user's prototypes, pulled towards everybody's."""
    prototypes = everybody.clone()  # (2, D): disliked, liked
    liked = ratings > ratings.mean() if len(ratings) else torch.zeros(0, dtype=torch.bool)
    if liked.any():  # ratings that are all the same say nothing of what the user prefers
        for k, rows in enumerate((own[~liked], own[liked])):
            prototypes[k] = (rows.sum(0) + weight * everybody[k]) / (len(rows) + weight)
    distance = (offered[:, None] - prototypes[None]).square().sum(-1)  # (n, 2)
    return distance[:, 0] - distance[:, 1]  # the log-odds of liked


WRONG_DESIGNS = {
    "no numbers": "For some user your scores are not finite. The mean of no rows is NaN: what if there are no ratings, "
    "or all lie in one class?",
    "flat for newcomers": "A user without ratings gets the same score for every item. Everybody's prototypes still "
    "know what most people like.",
    "turned": "The wrong way round: row 0 of `everybody` is disliked, row 1 liked, and high scores are shown first.",
    "newcomers": "A user without ratings should get everybody's order, by everybody's prototypes. Yours is another.",
    "flat for one-sided users": "For a user who gave the same stars to everything your scores are all the same. "
    "Everybody's prototypes can fill in for a class without ratings.",
    "one-sided users": "For a user who gave the same stars to everything your order is not everybody's. Ratings that "
    "are all the same say how generous a user is, not what they prefer.",
    "believes two": "After two ratings your scores put another item first than everybody's favourite, although it is "
    "far ahead for everybody. Two ratings are noisy: pull the prototypes towards everybody's, as if those counted for "
    "ten ratings or so.",
    "never believes": "After 200 ratings that all say the same, your scores still do not follow the user. The pull "
    "should lose weight as ratings come in: it counts as a fixed number of ratings.",
    "stands still": "With 2, 10, 40 and 200 ratings that all say the same, your scores should come towards the user "
    "each time. Somewhere they stand still: the weight of the user's own ratings should rise with every one, and not "
    "jump at some number.",
    "fixed threshold": "A user who gives 5 and 4 stars, or 2 and 1, where another gives 5 and 1, gets another order. "
    "Liked means above the user's own mean.",
}


def _judged(ask: Callable) -> str | None:
    """Name what is wrong with a design, in three spaces of which each is turned in another way."""
    for dims in (2, 3, 5):
        turn = torch.linalg.qr(torch.randn(dims, dims, generator=torch.Generator().manual_seed(dims))).Q[:2]
        fault = _fault_in(partial(_scores, ask, turn))
        if fault:
            return WRONG_DESIGNS[fault]
    return None


def _scores(ask: Callable, turn: Tensor, own: list, ratings: list) -> Tensor:
    """Ask for the scores of four items; everybody likes what lies right, whatever its height."""
    everybody, offered = [[-1.0, 0.0], [1.0, 0.0]], [[1.5, 0.0], [0.2, 1.0], [0.1, -1.0], [-1.2, 0.3]]
    own, offered, everybody = (torch.tensor(rows).view(-1, 2) @ turn for rows in (own, offered, everybody))
    return ask(own=own, ratings=torch.tensor(ratings), offered=offered, everybody=everybody)


def _fault_in(scores: Callable) -> str | None:
    everybodys = [0, 1, 2, 3]  # the items in everybody's order

    def order(found: Tensor) -> list[int]:
        return found.argsort(descending=True, stable=True).tolist()

    def likes_up(each: int, stars: tuple[float, float] = (5.0, 1.0)) -> Tensor:
        own = [[0.0, 3.0]] * each + [[0.0, -3.0]] * each
        return scores(own, [stars[0]] * each + [stars[1]] * each)

    newcomer = scores([], [])
    one_sided = [scores([[1.4, 0.5], [1.6, 0.3], [0.9, 0.7]] * 10, [stars] * 30) for stars in (5.0, 1.0)]
    by_count = [likes_up(each) for each in (1, 5, 20, 100)]
    two, many = by_count[0], by_count[-1]
    leads = [float(found[1] - found[0]) for found in by_count]  # of what the user likes, over everybody's favourite
    others = [likes_up(100, stars) for stars in ((5.0, 4.0), (2.0, 1.0))]
    faults = {
        "no numbers": any(not torch.isfinite(s).all() for s in (newcomer, *one_sided, *by_count, *others)),
        "flat for newcomers": float(newcomer.std()) < 1e-6,
        "turned": order(newcomer) == everybodys[::-1],
        "newcomers": order(newcomer) != everybodys,
        "flat for one-sided users": any(float(found.std()) < 1e-6 for found in one_sided),
        "one-sided users": any(order(found) != everybodys for found in one_sided),
        "believes two": order(two)[0] != 0,
        "never believes": order(many)[0] != 1 or order(many)[-1] != 2,
        "stands still": not all(b > a + 1e-3 for a, b in pairwise(leads)),
        "fixed threshold": any(order(found) != order(many) for found in others),
    }
    return next((name for name, found in faults.items() if found), None)


def _serve_with(
    weight: Callable = lambda n: 10.0,
    liked: Callable = lambda ratings: ratings > ratings.mean(),
    guarded: Callable = lambda liked: bool(liked.any() and not liked.all()),
) -> Callable:
    """Return a service with another weight of everybody's, another meaning of liked, or other special cases."""

    def answer(own, ratings, offered, everybody):
        good, pull = liked(ratings), weight(len(ratings))
        near, far = everybody[1], everybody[0]
        if guarded(good):
            near = (own[good].sum(0) + pull * near) / (good.sum() + pull)
            far = (own[~good].sum(0) + pull * far) / ((~good).sum() + pull)
        return (offered - far).square().sum(1) - (offered - near).square().sum(1)

    return answer


def _flat_unless(served: Callable) -> Callable:
    """Return a service that gives up, with zeros, where it is not served."""
    return lambda own, ratings, *rest: serve(own, ratings, *rest) if served(ratings) else torch.zeros(len(rest[0]))


exercise_design = TEXTS.exercise(
    "exercise-design",
    judge=_judged,
    solution=serve,
    mistakes={
        "own prototypes alone": _serve_with(weight=lambda n: 0.0, guarded=lambda liked: True),
        "zeros for newcomers": _flat_unless(lambda ratings: len(ratings) > 0),
        "the wrong way round": lambda *inputs: -serve(*inputs),
        "by length": lambda own, ratings, offered, everybody: offered.norm(dim=1),
        "zeros for one-sided users": _flat_unless(lambda ratings: len(ratings) == 0 or ratings.min() < ratings.max()),
        "one-sided as disliked": _serve_with(guarded=lambda liked: len(liked) > 0),
        "believes two ratings": _serve_with(weight=lambda n: 1e-6),
        "everybody's alone": lambda own, ratings, *rest: serve(own[:0], ratings[:0], *rest),
        "a weight that grows": _serve_with(weight=lambda n: 50.0 * n),
        "a cliff": _serve_with(weight=lambda n: 1e9 if n <= 20 else 1e-6),
        "a fixed threshold": _serve_with(liked=lambda ratings: ratings >= 4),
    },
)
