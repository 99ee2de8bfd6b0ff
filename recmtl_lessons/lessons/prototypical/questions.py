"""What the lesson asks: a prediction, three exercises, and a study question."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from recmtl_lessons.lessons.prototypical.activities import LESSON
from recmtl_lessons.teaching import Explorer
from recmtl_lessons.teaching.exercise import Exercise, Outcome, right, wrong
from recmtl_lessons.teaching.quiz import Predict, Quiz
from recmtl_lessons.teaching.study import KeyPoint, StudyQuestion

prediction = Predict(
    LESSON,
    "predict",
    "In the end, five new shelves at a time will be sorted. Every update of training may use 200 items of 20 old "
    "shelves: as ten episodes of 2 shelves, as four of 5, or as one of 20. Which sorts five new shelves "
    "best?",
    {
        "Ten episodes of 2 shelves: the most episodes an update": "There are more episodes, but each asks little: to "
        "tell one shelf from one other, a single direction is often enough.",
        "Four episodes of 5 shelves: train as you will be tested": "It is the natural guess, and how episodes were "
        "first made. But what is trained here is a space, and nothing in it belongs to the number five.",
        "One episode of 20 shelves: the most to be told apart": "Each item is told from nineteen other shelves at "
        "once, so the space must keep more of what makes a shelf. That serves five shelves too.",
        "It makes no difference: they are the same items": "The same items, but not the same questions about them. An "
        "item in an episode of 2 is compared with one other shelf, in one of 20 with nineteen.",
    },
)
TWENTY = tuple(prediction.choices)[2]


# Exercise: log-probabilities.


def _rounded(values: Tensor) -> list:
    return [[round(x, 2) for x in row] for row in values.tolist()]


def _classify(queries: Tensor, prototypes: Tensor) -> Tensor:
    """Log-probabilities of the classes by the squared distances."""
    distance = (queries[:, None] - prototypes[None]).square().sum(-1)  # (Q, n)
    return (-distance).log_softmax(dim=1)


def _check_classify(answer: Callable) -> Outcome:
    queries = torch.tensor([[0.5, 0.2], [1.5, -0.4], [-0.3, 1.1], [0.9, 0.9]])
    prototypes = torch.tensor([[0.0, 0.0], [1.2, -0.5], [0.4, 1.3]])
    got, expected = answer(queries.clone(), prototypes.clone()), _classify(queries, prototypes)
    if not isinstance(got, Tensor) or got.shape != (4, 3):
        return wrong(f"I expected a tensor (4, 3), a row for each query, and got "
                     f"{tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__}.")  # fmt: skip
    plain = torch.cdist(queries, prototypes)
    square = plain.square()
    row = float((-square.log_softmax(1)).exp()[0].sum())
    mistakes = (
        (-square.log_softmax(1), f"Your rows sum to {row:.2f} and more: these are no log-probabilities. The minus "
         "belongs to the distance, inside the softmax. Outside, it turns each probability p into 1/p."),
        (-plain.log_softmax(1), "The minus belongs to the distance, inside the softmax. Outside, it turns each "
         "probability p into 1/p. And the distance is to be squared."),
        (square.log_softmax(1), "The minus is missing: the farther a prototype, the likelier its class."),
        ((-square).softmax(1), "These are probabilities. Return their logarithms; `log_softmax` is exact also where a "
         "probability is too small for a float."),
        (-square, "Minus the squared distances: these are logits. Make log-probabilities of them."),
        ((-plain).log_softmax(1), "You took the root of the squared distance. With the square, the classifier is "
         "linear in the embedding; and the root has no slope where a query lies on a prototype."),
        ((-square).log_softmax(0), "Your softmax runs over the queries (dim=0). Each query's probabilities must sum "
         "to 1 over the classes."),
        (-(queries[:, None] - prototypes[None]).square().mean(-1).log_softmax(1), "The minus belongs inside the "
         "softmax, and the distance is the sum over the coordinates, not their mean."),
        ((-(queries[:, None] - prototypes[None]).square().mean(-1)).log_softmax(1), "You averaged over the "
         "coordinates. The squared distance is their sum; the mean is another temperature for every width."),
        ((queries @ prototypes.T).log_softmax(1), "These are inner products alone. A prototype far from the origin "
         "would win too often: half its squared length is missing."),
    )  # fmt: skip
    for mistaken, message in mistakes:
        if torch.allclose(got, mistaken, atol=1e-5):
            return wrong(message)
    if not torch.allclose(got, expected, atol=1e-5):
        return wrong(f"For my example I expected {_rounded(expected)[:2]} and so on, and got {_rounded(got)[:2]}.")
    far = answer(queries + 3_000.0, prototypes + 3_000.0)
    if not torch.allclose(far, expected, atol=0.02):
        return wrong("Right near the origin. But I moved all points by 3,000, which changes no distance, and your "
                     "answer lost its digits: |q|² − 2 q c + |c|² subtracts large numbers. Subtract the points "
                     "first.")  # fmt: skip
    return right("Log-probabilities: every row's exponentials sum to 1, wherever the points lie.")


def _expanded(queries: Tensor, prototypes: Tensor) -> Tensor:
    square = queries.square().sum(1, keepdim=True) - 2 * queries @ prototypes.T + prototypes.square().sum(1)
    return (-square).log_softmax(1)


def _squares(queries: Tensor, prototypes: Tensor) -> Tensor:
    return (queries[:, None] - prototypes[None]).square().sum(-1)


exercise_classify = Exercise(
    LESSON,
    "exercise-classify",
    title="Log-probabilities",
    level="intermediate",
    minutes=10,
    task="`queries` (Q, D) and `prototypes` (n, D) lie in the same space. Return log-probabilities (Q, n): the "
    "softmax, over the classes, of minus the squared Euclidean distance. Points may lie far from the origin.",
    check=_check_classify,
    hints=[
        "`queries[:, None] - prototypes[None]` has shape (Q, n, D).",
        "Square, sum over the last dimension, minus, `log_softmax` over the classes; in this order.",
    ],
    solution=_classify,
    wrong_answers={
        "minus outside": (lambda q, c: -_squares(q, c).log_softmax(1), "no log-probabilities"),
        "no minus": (lambda q, c: _squares(q, c).log_softmax(1), "minus is missing"),
        "probabilities": (lambda q, c: (-_squares(q, c)).softmax(1), "These are probabilities"),
        "logits": (lambda q, c: -_squares(q, c), "these are logits"),
        "root": (lambda q, c: (-torch.cdist(q, c)).log_softmax(1), "took the root"),
        "over the queries": (lambda q, c: (-_squares(q, c)).log_softmax(0), "over the queries"),
        "mean": (lambda q, c: (-_squares(q, c) / q.shape[1]).log_softmax(1), "averaged over the coordinates"),
        "inner products": (lambda q, c: (q @ c.T).log_softmax(1), "inner products alone"),
        "expanded": (_expanded, "lost its digits"),
    },
)


# Exercise: the linear classifier inside.


def _as_linear(prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (n, D) and biases (n,) of the linear classifier that prototypes are."""
    return 2 * prototypes, -prototypes.square().sum(1)


def _check_linear(answer: Callable) -> Outcome:
    prototypes = torch.tensor([[1.0, 0.5], [-0.7, 2.0], [0.3, -1.4], [2.2, 1.1]])
    queries = torch.tensor([[0.2, 0.1], [1.4, 0.9], [-0.5, 0.6]])
    got = answer(prototypes.clone())
    if not isinstance(got, tuple) or len(got) != 2 or not all(isinstance(part, Tensor) for part in got):
        return wrong("Return two tensors: weights (n, D) and biases (n,).")
    weight, bias = got
    if weight.shape != (4, 2) or bias.shape != (4,):
        return wrong(f"For four prototypes in two dimensions I expected weights (4, 2) and biases (4,), and got "
                     f"{tuple(weight.shape)} and {tuple(bias.shape)}.")  # fmt: skip
    length = prototypes.square().sum(1)
    mistakes = (
        (prototypes, -length, "Your weights are half as large as they should be: 2 q·c stands in the square of q − c. "
         "Or halve the biases too: that is the same border, and another softmax."),
        (prototypes, -length / 2, "The borders are right. But everything is half as large, so the softmax is softer "
         "than that of the squared distances."),
        (2 * prototypes, length, "The sign of the biases: −|q − c|² holds −|c|². With a plus, far prototypes win."),
        (2 * prototypes, torch.zeros(4), "The biases are missing. |q|² is the same for all classes and drops out; "
         "|c|² is not."),
        (2 * prototypes, -prototypes.norm(dim=1), "The biases hold the length. |c|² is its square."),
        (-2 * prototypes, length, "Both signs are turned: these are the logits of distances, and the "
         "farthest class wins."),
    )  # fmt: skip
    for mistaken_weight, mistaken_bias, message in mistakes:
        if torch.allclose(weight, mistaken_weight) and torch.allclose(bias, mistaken_bias):
            return wrong(message)
    found, expected = (queries @ weight.T + bias).log_softmax(1), _classify(queries, prototypes)
    if not torch.allclose(found, expected, atol=1e-5):
        return wrong(f"For my example the log-probabilities should be {_rounded(expected)[:1]} and so on; with your "
                     f"weights and biases they are {_rounded(found)[:1]}.")  # fmt: skip
    return right("So a class is added to a running system by one row of weights and one bias, without any training.")


exercise_linear = Exercise(
    LESSON,
    "exercise-linear",
    title="The linear classifier inside",
    level="intermediate",
    minutes=10,
    task="With squared Euclidean distances, prototypes are a linear classifier of the embedding. Return its weights "
    "(n, D) and biases (n,), so that `(q @ weight.T + bias).log_softmax(1)` are the log-probabilities.",
    check=_check_linear,
    hints=["Write out −|q − c|². Which part is the same for all classes?", "−|q|² is. Left are 2 q·c and −|c|²."],
    solution=_as_linear,
    wrong_answers={
        "half the weights": (lambda c: (c, -c.square().sum(1)), "half as large as they should be"),
        "half of both": (lambda c: (c, -c.square().sum(1) / 2), "softer"),
        "sign": (lambda c: (2 * c, c.square().sum(1)), "sign of the biases"),
        "no bias": (lambda c: (2 * c, torch.zeros(len(c))), "biases are missing"),
        "length": (lambda c: (2 * c, -c.norm(dim=1)), "its square"),
        "turned": (lambda c: (-2 * c, c.square().sum(1)), "farthest class"),
        "one tensor": (lambda c: 2 * c, "Return two tensors"),
    },
)


# Exercise: serve every new user.


def _serve(own: Tensor, ratings: Tensor, offered: Tensor, everybody: Tensor, weight: float = 10.0) -> Tensor:
    """Score items by the user's prototypes, pulled towards everybody's."""
    prototypes = everybody.clone()  # (2, D): disliked, liked
    liked = ratings > ratings.mean() if len(ratings) else torch.zeros(0, dtype=torch.bool)
    if liked.any():  # ratings that are all the same say nothing of what the user prefers
        for k, rows in enumerate((own[~liked], own[liked])):
            prototypes[k] = (rows.sum(0) + weight * everybody[k]) / (len(rows) + weight)
    distance = (offered[:, None] - prototypes[None]).square().sum(-1)  # (n, 2)
    return distance[:, 0] - distance[:, 1]  # the log-odds of liked


_EVERYBODY = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
_OFFERED = torch.tensor([[1.5, 0.0], [0.2, 1.0], [0.1, -1.0], [-1.2, 0.3]])


def _check_design(answer: Callable) -> Outcome:
    for refusal in (_refuse_newcomer, _refuse_one_sided, _refuse_believing):
        outcome = refusal(answer)
        if outcome is not None:
            return outcome
    return right("It answers from the first second, does not jump at one rating, and in the end believes the user.")


def _scores(answer: Callable, own: Tensor, ratings: Tensor) -> Tensor | Outcome:
    got = answer(own.clone(), ratings.clone(), _OFFERED.clone(), _EVERYBODY.clone())
    if not isinstance(got, Tensor) or got.shape != (4,):
        came = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
        return wrong(f"Return one score for each item on offer, (4,) in my example; I got {came}.")
    if not torch.isfinite(got).all():
        given = ", ".join(f"{stars:g}" for stars in ratings.tolist()) or "none"
        return wrong(f"For a user with {len(ratings)} ratings ({given}) your scores are not finite. The mean of no "
                     "rows is NaN: what if a class is empty?")  # fmt: skip
    return got


def _order(scores: Tensor) -> list[int]:
    return scores.argsort(descending=True, stable=True).tolist()


def _by_everybody() -> Tensor:
    distance = (_OFFERED[:, None] - _EVERYBODY[None]).square().sum(-1)
    return distance[:, 0] - distance[:, 1]


def _refuse_newcomer(answer: Callable) -> Outcome | None:
    got = _scores(answer, torch.zeros(0, 2), torch.zeros(0))
    if isinstance(got, Outcome):
        return got
    if float(got.std()) < 1e-6:
        return wrong("A user without ratings gets the same score for every item. Everybody's prototypes still know "
                     "what most people like.")  # fmt: skip
    if _order(got) == _order(-_by_everybody()):
        return wrong(
            "The wrong way round: row 0 of `everybody` is disliked, row 1 liked, and high scores are shown first."
        )
    if _order(got) != _order(_by_everybody()):
        return wrong(
            "A user without ratings should get everybody's order, by everybody's prototypes. Yours is another."
        )
    return None


def _refuse_one_sided(answer: Callable) -> Outcome | None:
    own = torch.tensor([[1.4, 0.1], [1.6, -0.1], [0.9, 0.2]])
    for stars in (5.0, 1.0):
        got = _scores(answer, own, torch.full((3,), stars))
        if isinstance(got, Outcome):
            return got
        if float(got.std()) < 1e-6:
            return wrong(f"For a user who gave {stars:g} stars to everything your scores are all the same. Everybody's "
                         "prototypes can fill in for a class without ratings.")  # fmt: skip
        if _order(got) != _order(_by_everybody()):
            return wrong(f"For a user who gave {stars:g} stars to everything your order is not everybody's. Ratings "
                         "that are all the same say how generous a user is, not what they prefer.")  # fmt: skip
    return None


def _refuse_believing(answer: Callable) -> Outcome | None:
    up, down = (
        torch.tensor([0.0, 3.0]),
        torch.tensor([0.0, -3.0]),
    )  # likes what lies up, against everybody's left to right
    two = _scores(answer, torch.stack([up, down]), torch.tensor([5.0, 1.0]))
    if isinstance(two, Outcome):
        return two
    if _order(two)[0] != 0:
        return wrong("After two ratings your scores put another item first than everybody's favourite, although it is "
                     "far ahead for everybody. Two ratings are noisy: pull the prototypes towards everybody's, as if "
                     "those counted for ten ratings or so.")  # fmt: skip
    many = _scores(answer, torch.stack([up] * 100 + [down] * 100), torch.tensor([5.0] * 100 + [1.0] * 100))
    if isinstance(many, Outcome):
        return many
    if _order(many)[0] != 1 or _order(many)[-1] != 2:
        return wrong("After 200 ratings that all say the same, your scores still do not follow the user. The pull "
                     "should lose weight as ratings come in: it counts as a fixed number of ratings.")  # fmt: skip
    leads = []
    for each in (1, 5, 20, 100):
        ratings = torch.tensor([5.0] * each + [1.0] * each)
        got = _scores(answer, torch.stack([up] * each + [down] * each), ratings)
        if isinstance(got, Outcome):
            return got
        leads.append(float(got[1] - got[0]))  # of what the user likes, over everybody's favourite
    if not all(b > a + 1e-3 for a, b in pairwise(leads)):
        return wrong("With 2, 10, 40 and 200 ratings that all say the same, your scores should come towards the user "
                     "each time. Somewhere they stand still: the weight of the user's own ratings should rise with "
                     "every one, and not jump at some number.")  # fmt: skip
    generous = _scores(answer, torch.stack([up] * 100 + [down] * 100), torch.tensor([5.0] * 100 + [4.0] * 100))
    if isinstance(generous, Outcome):
        return generous
    if _order(generous) != _order(many):
        return wrong("A generous user, who gives 5 and 4 stars where another gives 5 and 1, gets another order. Liked "
                     "means above the user's own mean.")  # fmt: skip
    return None


def _own_alone(own: Tensor, ratings: Tensor, offered: Tensor, everybody: Tensor) -> Tensor:
    liked = ratings > ratings.mean()
    near, far = own[liked].mean(0), own[~liked].mean(0)
    return (offered - far).square().sum(1) - (offered - near).square().sum(1)


def _fixed_threshold(own: Tensor, ratings: Tensor, offered: Tensor, everybody: Tensor) -> Tensor:
    if len(ratings) and float(ratings.std()) > 0:
        return _serve(own, torch.where(ratings >= 4, 5.0, 1.0), offered, everybody)
    return _serve(own[:0], ratings[:0], offered, everybody)


def _own_as_soon_as_possible(own: Tensor, ratings: Tensor, offered: Tensor, everybody: Tensor) -> Tensor:
    two_sided = len(ratings) > 1 and float(ratings.std()) > 0
    return (
        _serve(own, ratings, offered, everybody, 1e-6)
        if two_sided
        else _serve(own[:0], ratings[:0], offered, everybody)
    )


def _one_sided_as_disliked(own: Tensor, ratings: Tensor, offered: Tensor, everybody: Tensor) -> Tensor:
    shifted = torch.cat([own + 40 * (len(ratings) > 0), offered[:0]])
    everything = torch.cat([ratings, torch.tensor([9.0])]) if len(ratings) else ratings
    mine = torch.cat([shifted, everybody[1:]]) if len(ratings) else own
    return _serve(mine, everything, offered, everybody, 0.1)


def _a_cliff(own: Tensor, ratings: Tensor, offered: Tensor, everybody: Tensor) -> Tensor:
    if len(ratings) <= 20:
        return _serve(own[:0], ratings[:0], offered, everybody)
    return _serve(own, ratings, offered, everybody, 1e-6)


def _half_and_half(own: Tensor, ratings: Tensor, offered: Tensor, everybody: Tensor) -> Tensor:
    return _serve(own, ratings, offered, everybody, 50.0 * max(len(ratings), 1))


exercise_design = Exercise(
    LESSON,
    "exercise-design",
    title="Serve every new user",
    level="intermediate",
    minutes=20,
    task="The design of the study question, as code. `own` (K, D) holds the embeddings of the items that a user has "
    "rated, `ratings` (K,) the stars, `offered` (n, D) the items on offer, and `everybody` (2, D) the prototypes of "
    "everybody's disliked (row 0) and liked items (row 1). Return a score for each item on offer, (n,), high for what "
    "to show first. K may be 0. All ratings may be the same. Two ratings are noisy; two hundred are not.",
    check=_check_design,
    hints=[
        "Liked is what lies above the user's own mean. Who rates everything alike has told nothing about preferences.",
        "Let everybody's prototypes count for ten ratings: (sum of the user's rows + 10 × everybody's) / (rows + 10). "
        "Without ratings that is everybody's.",
        "The score is the distance to disliked minus the distance to liked, both squared.",
    ],
    solution=_serve,
    wrong_answers={
        "own prototypes alone": (_own_alone, "not finite"),
        "everybody's alone": (lambda o, r, x, e: _serve(o[:0], r[:0], x, e), "do not follow the user"),
        "the wrong way round": (lambda o, r, x, e: -_serve(o, r, x, e), "wrong way round"),
        "believes two ratings": (_own_as_soon_as_possible, "Two ratings are noisy"),
        "a weight that grows": (_half_and_half, "lose weight"),
        "a cliff": (_a_cliff, "stand still"),
        "a fixed threshold": (_fixed_threshold, "generous user"),
        "one-sided users": (_one_sided_as_disliked, "not everybody's"),
        "zeros for newcomers": (
            lambda o, r, x, e: _serve(o, r, x, e) if len(r) else torch.zeros(len(x)),
            "same score for every item",
        ),
        "a list": (lambda o, r, x, e: _serve(o, r, x, e).tolist(), "Return one score"),
    },
)


# The study question.

_WORKED = """
Before the first rating there is nothing to adapt to. Serve what holds for everybody: the jointly trained network, or
everybody's prototypes, or the item's mean rating. A meta-trained starting point need not be good here (lesson 04).

What is learned from old users is what all share: an embedding, or a starting point. What is taken from the new user is
small: two means, or three gradient steps. Both are trained as they will be used: users are tasks, a few ratings are the
support, others the query, and no user is in two parts.

From the first ratings on there are two families. Prototypes need no gradient when serving: a mean, and a
distance. They add a class or a user at once, and their cost is one pass through the encoder. MAML and Reptile move
parameters, take a few steps for each user, and bend more: in the shop of this section, where tastes differ in four
hidden things, they were ahead.

Few ratings are noisy. A user's own prototypes, made of ten ratings, ranked films worse than the films' mean. Pulled
towards everybody's, as if those counted for ten ratings, they ranked better; most of that is everybody's taste, and
what ten ratings add to it is small there, and large in the shop, where people disagree. The weight is chosen on
validation users. It takes care of special cases too: no ratings, or one class only, gives everybody's.

A limit: all of this rests on new users being like old ones in what the embedding keeps. Where old shelves were told
apart by something else, the trained embedding sorted new ones hardly better than guessing.

Then measure on users of their own, by split, beside the plain rivals: the user's mean, the item's mean, fine-tuning
with its own best rate. And weigh quality against the cost of an update and of serving.
"""


def study_cold_start(evidence_from: Explorer) -> StudyQuestion:
    """The study question on cold start, with the explorer it takes its evidence from."""
    return StudyQuestion(
        LESSON,
        "study-cold-start",
        level="intermediate",
        question="Design a meta-learning recommender for cold start. What is learned from old users, what from the new "
        "one, what is served before the first rating and after two, ten and two hundred, and how do you know that it "
        "works?",
        evidence_prompt="In the second explorer, find the best weight of everybody's prototypes for 2 and for 10 "
        "ratings, and note the AUC at weight 0 too. Where is believing the user worse than believing everybody?",
        checks=[
            Quiz(
                LESSON,
                "study-cold-start/check-1",
                "A new user has rated nothing yet. What should a design with MAML, or with prototypes, serve?",
                {
                    "The meta-trained starting point as it is, since it was made for new users": "Nothing in MAML's "
                    "loss asks how good the start is before the first step. On MovieLens, lesson 04 found it behind "
                    "joint training there.",
                    "What holds for everybody: a jointly trained answer, or everybody's prototypes": "Yes. There is "
                    "nothing to adapt to, and the answer of the many is the best there is.",
                    "Nothing at all, until the user has rated enough items for both classes": "The items' means and "
                    "everybody's prototypes are at hand, and rank well above a coin flip.",
                },
                "What holds for everybody: a jointly trained answer, or everybody's prototypes",
            ),
            Quiz(
                LESSON,
                "study-cold-start/check-2",
                "You choose the weight of everybody's prototypes. On whose ratings?",
                {
                    "On validation users, who are neither in training nor in the test": "Yes: the weight says how "
                    "alike users are, and only users that nobody trained on can say that.",
                    "On the test users, because the weight is no parameter of the network": "It is chosen by looking "
                    "at their answers all the same. The figure would promise what the next user does not get.",
                    "On the training users, because there are many more of them to average": "The embedding was fitted "
                    "to them: their own prototypes look better than a new user's will.",
                },
                "On validation users, who are neither in training nor in the test",
            ),
            Quiz(
                LESSON,
                "study-cold-start/check-3",
                "The catalogue gets a kind of item that no training shelf was like. What becomes of the prototypes?",
                {
                    "They stay right, since a prototype is made of the new items themselves": "It is a mean of "
                    "embedded items. If the encoder has learned to ignore what makes the new kind, their means fall "
                    "together.",
                    "They fail, until f has been trained for as long again on the old shelves": "The old shelves hold "
                    "nothing of what makes the new kind, however long one looks at them.",
                    "They may be worth nothing, where the encoder ignores what makes the kind": "Yes. In the swapped "
                    "shop the trained embedding sorted hardly better than guessing, and raw features did.",
                },
                "They may be worth nothing, where the encoder ignores what makes the kind",
            ),
        ],
        points=[
            KeyPoint(
                "users are tasks, with support and query",
                (r"support[^.]{0,120}query", r"users? (are|as) (a )?tasks?", r"\bepisodes?\b"),
                "Training asks the question that serving will ask: a few ratings, then others to be judged on.",
            ),
            KeyPoint(
                "what all share is learned; what is the user's own is small",
                (
                    r"(shared|all|everybody|common)[^.]{0,80}(embedding|encoder|start|initiali[sz]ation|parameters)",
                    r"(embedding|encoder|start|initiali[sz]ation)[^.]{0,80}(shared|old users|all users|everybody)",
                ),
                "Ten ratings cannot train a network; they can place two means, or steer three steps.",
            ),
            KeyPoint(
                "before the first rating: what holds for everybody",
                (
                    r"(no|without|before|first)[^.]{0,40}rating[^.]{0,120}(popular|everybody|joint|mean|average|all)",
                    r"(popular|everybody|joint|mean|average)[^.]{0,80}(no|without|before|until)[^.]{0,30}rating",
                ),
                "There is nothing to adapt to yet, and a meta-trained start is not made to be good as it stands.",
            ),
            KeyPoint(
                "few ratings are pulled towards everybody's, many are believed",
                (
                    r"\bshr[iu]nk",
                    r"\bpull",
                    r"\bprior\b",
                    r"\bregulari[sz]",
                    r"weigh\w*[^.]{0,60}(everybody|all users)",
                ),
                "The pull counts as a fixed number of ratings, so it fades by itself.",
            ),
            KeyPoint(
                "users with one class alone, or none, are served too",
                (
                    r"(one|single) class",
                    r"(all|only|everything)[^.]{0,40}(liked|same|five|equal)",
                    r"(likes?|liked|rates?|rated) (all|everything)",
                    r"no (dis)?liked",
                    r"one-sided",
                ),
                "They come, and the mean of no rows is NaN.",
            ),
            KeyPoint(
                "judged on users of their own, beside plain rivals",
                (
                    r"(validation|held.?out|test|unseen) users?",
                    r"users? (of their own|not in training)",
                    r"\b(baseline|rival|fine-?tun)",
                ),
                "A design is worth what it brings over the item's mean and over fine-tuning, on people it never saw.",
            ),
            KeyPoint(
                "the cost of serving counts",
                (r"\bcosts?\b", r"\b(latency|milliseconds?|cheap|fast)\b", r"(no|without)[^.]{0,20}gradient"),
                "Prototypes serve with one pass; MAML and Reptile take steps for every user.",
            ),
        ],
        worked=_WORKED,
        start="From old users I would learn …",
        evidence_from=evidence_from,
    )
