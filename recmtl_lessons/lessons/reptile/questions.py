"""What the lesson asks: a prediction, three exercises, and the study question."""

from collections.abc import Callable

import torch
from torch import Tensor

from recmtl_lessons.lessons.reptile.activities import LESSON
from recmtl_lessons.teaching import Explorer
from recmtl_lessons.teaching.exercise import Exercise, Outcome, right, wrong
from recmtl_lessons.teaching.quiz import Predict, Quiz
from recmtl_lessons.teaching.study import KeyPoint, StudyQuestion

prediction = Predict(
    LESSON,
    "predict",
    "You set the number of inner steps to one. What kind of training is that?",
    {
        "First-order MAML with one inner step: both leave out the gradient of the gradient": "First-order MAML takes "
        "its gradient after the step, at the user's own parameters. Reptile with one step takes it before: the step "
        "itself is all it has.",
        "Joint training: gradient descent on the error of all ratings in one heap": "The way to where one step leads "
        "is that step: the rate times the user's gradient. The mean over users is the gradient of the mean error, and "
        "the users are gone.",
        "A weaker Reptile: it still prepares for new users, but only for a single step": "A plausible hope. But one "
        "step is the user's gradient times the rate, and a mean of gradients does not know where users' own steps "
        "would lead.",
    },
)
JOINT = tuple(prediction.choices)[1]


# Exercise: the outer step.


def _outer_step(phi: Tensor, after: list[Tensor], epsilon: float) -> Tensor:
    """Part of the way from phi to the mean of where the users' steps ended."""
    return phi + epsilon * (torch.stack(after).mean(0) - phi)


def _check_step(answer: Callable) -> Outcome:
    phi = torch.tensor([1.0, -2.0, 0.5])
    after = [torch.tensor([2.0, -1.0, 0.0]), torch.tensor([0.0, -3.5, 1.0]), torch.tensor([1.6, -1.2, 2.0])]
    before, mean, total = phi.clone(), torch.stack(after).mean(0), torch.stack(after).sum(0)
    got = answer(phi, list(after), 0.2)
    if not isinstance(got, Tensor) or got.shape != (3,):
        return wrong(f"Return a tensor of the shape of phi, (3,). I got {getattr(got, 'shape', type(got).__name__)}.")
    if not torch.equal(phi, before):
        return wrong("You changed phi itself. Return a new tensor, and leave it to the caller what becomes of the old.")
    got = got.detach().to(phi.dtype)
    mistakes = (
        (before - 0.2 * (mean - before), "You walk away from the users: the step goes from phi towards the mean."),
        (0.8 * before + 0.2 * (mean - before), "This is (1 - ε) φ + ε (W - φ), a mixture of two ways to write it. It "
         "draws the parameters towards 0: where all users stay at φ, yours shrinks."),
        (before + 0.2 * (total - 3 * before), "You summed over the users. With the mean, ε means the same for three "
         "users and for thirty."),
        (before + 0.2 * (after[-1] - before), "This is the way to the last user alone."),
        (mean, "You went all the way to the mean. Where is ε?"),
        (0.2 * before + 0.8 * mean, "You went 1 - ε of the way. With ε = 0, phi should stay."),
        (0.2 * (mean - before), "This is the move. Where does it lead to?"),
    )  # fmt: skip
    for mistaken, message in mistakes:
        if torch.allclose(got, mistaken, atol=1e-6):
            return wrong(message)
    expected = _outer_step(before, after, 0.2)
    if not torch.allclose(got, expected, atol=1e-6):
        return wrong(f"For my example I expected {_rounded(expected)}, and got {_rounded(got)}.")
    return right("That is the whole outer loop: no loss, no gradient, one subtraction.")


def _rounded(values: Tensor) -> list[float]:
    return [round(x, 3) for x in values.tolist()]


exercise_step = Exercise(
    LESSON,
    "exercise-step",
    title="The outer step",
    level="beginner",
    minutes=5,
    task="`phi` (P,) are the meta-parameters, `after` is a list of tensors (P,): where each user's inner steps ended. "
    "Return the new meta-parameters for the outer rate `epsilon`.",
    check=_check_step,
    hints=["Which point lies between phi and the mean of the ends, at share epsilon of the way?"],
    solution=_outer_step,
    wrong_answers={
        "away": (lambda p, a, e: p - e * (torch.stack(a).mean(0) - p), "walk away"),
        "two formulas mixed": (lambda p, a, e: (1 - e) * p + e * (torch.stack(a).mean(0) - p), "towards 0"),
        "a sum": (lambda p, a, e: p + e * sum(w - p for w in a), "summed over the users"),
        "the last": (lambda p, a, e: p + e * (a[-1] - p), "last user alone"),
        "all the way": (lambda p, a, e: torch.stack(a).mean(0), "Where is ε"),
        "shares exchanged": (lambda p, a, e: e * p + (1 - e) * torch.stack(a).mean(0), "1 - ε of the way"),
        "the move": (lambda p, a, e: e * (torch.stack(a).mean(0) - p), "This is the move"),
        "in place": (lambda p, a, e: p.add_(e * (torch.stack(a).mean(0) - p)), "changed phi itself"),
    },
)


# Exercise: a fresh optimizer.


def _inner_loops(phi: Tensor, users: list, loss: Callable, make_optimizer: Callable) -> list[Tensor]:
    """Each user from phi, with an optimizer that has seen nothing."""
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


def _user_loss(w: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return (x @ w - y).square().mean()


def _users() -> tuple[Tensor, list]:
    generator = torch.Generator().manual_seed(2)
    users = [
        [(torch.randn(4, 2, generator=generator), torch.randn(4, generator=generator)) for _ in range(3)]
        for _ in range(3)
    ]
    return torch.tensor([0.5, -1.0]), users


def _adam(params: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr=0.1)


def _one_optimizer(phi: Tensor, users: list, loss: Callable, make_optimizer: Callable) -> list[Tensor]:
    """The mistake: made once, so that its state goes from user to user."""
    w = phi.clone().requires_grad_()
    optimizer, after = make_optimizer([w]), []
    for batches in users:
        with torch.no_grad():
            w.copy_(phi)
        for batch in batches:
            optimizer.zero_grad()
            loss(w, batch).backward()
            optimizer.step()
        after.append(w.detach().clone())
    return after


def _never_back(phi: Tensor, users: list, loss: Callable, make_optimizer: Callable) -> list[Tensor]:
    after, start = [], phi
    for batches in users:
        start = _inner_loops(start, [batches], loss, make_optimizer)[0]
        after.append(start)
    return after


def _gradients_pile_up(phi: Tensor, users: list, loss: Callable, make_optimizer: Callable) -> list[Tensor]:
    after = []
    for batches in users:
        w = phi.clone().requires_grad_()
        optimizer = make_optimizer([w])
        for batch in batches:
            loss(w, batch).backward()
            optimizer.step()
        after.append(w.detach())
    return after


def _first_batch_only(phi: Tensor, users: list, loss: Callable, make_optimizer: Callable) -> list[Tensor]:
    return _inner_loops(phi, [batches[:1] for batches in users], loss, make_optimizer)


def _check_optimizer(answer: Callable) -> Outcome:
    phi, users = _users()
    before = phi.clone()
    got = answer(phi, users, _user_loss, _adam)
    if not torch.equal(phi, before):
        return wrong("You changed phi itself: an optimizer works in place. Give it a clone.")
    fits = isinstance(got, list) and len(got) == 3 and all(isinstance(w, Tensor) and w.shape == (2,) for w in got)
    if not fits:
        return wrong("Return a list with one tensor for each user: the parameters after that user's batches.")
    if len({w.data_ptr() for w in got}) < 3:
        return wrong("Your list holds the same tensor several times, so all users end where the last one did. Clone "
                     "what you append.")  # fmt: skip
    if any(w.requires_grad for w in got):
        return wrong("Your ends still ask for gradients. Detach them, or every user's steps are kept in memory.")
    found = torch.stack(got).to(phi.dtype)
    mistakes = (
        (_one_optimizer, "One optimizer for all users: the first user's end is right, and the others' steps carry the "
         "averages of users before them. Make a fresh one for each user."),
        (_never_back, "Your second user starts where the first one ended. Each starts from phi."),
        (_gradients_pile_up, "Gradients add up from batch to batch: `zero_grad()` is missing."),
        (_first_batch_only, "You stop after the first batch. With one step it is joint training."),
        (lambda *a: [w - phi for w in _inner_loops(*a)], "These are the moves. Return where each user ends."),
    )  # fmt: skip
    for mistaken, message in mistakes:
        if torch.allclose(found, torch.stack(mistaken(phi, users, _user_loss, _adam)), atol=1e-5):
            return wrong(message)
    expected = torch.stack(_inner_loops(phi, users, _user_loss, _adam))
    if not torch.allclose(found, expected, atol=1e-5):
        return wrong(f"For my second user I expected {_rounded(expected[1])}, and got {_rounded(found[1])}.")
    return right("Where a user ends depends on phi and on the user, and on nobody before.")


exercise_optimizer = Exercise(
    LESSON,
    "exercise-optimizer",
    title="A fresh optimizer",
    level="intermediate",
    minutes=10,
    task="`users` is a list; each user is a list of batches. `loss(w, batch)` is the error of parameters w (P,) on a "
    "batch, and `make_optimizer([w])` makes an optimizer for w, such as Adam. Let each user take one step a batch, "
    "from `phi` (P,) on. Return the list of where they end, detached, and leave `phi` as it is.",
    check=_check_optimizer,
    hints=[
        "What has an Adam in it after its first step, besides the parameters?",
        "Clone phi, ask for its gradient, and make the optimizer inside the loop over users.",
    ],
    solution=_inner_loops,
    wrong_answers={
        "one optimizer": (_one_optimizer, "One optimizer for all users"),
        "never back to phi": (_never_back, "Each starts from phi"),
        "no zero_grad": (_gradients_pile_up, "Gradients add up"),
        "first batch": (_first_batch_only, "stop after the first batch"),
        "moves": (lambda *a: [w - a[0] for w in _inner_loops(*a)], "These are the moves"),
        "one tensor": (lambda *a: [_inner_loops(*a)[0]] * 3, "same tensor several times"),
        "not detached": (lambda *a: [w.requires_grad_() for w in _inner_loops(*a)], "still ask for gradients"),
    },
)


# Exercise: count the gradients.


def _count(method: str, inner_steps: int) -> tuple[int, int]:
    """Gradients, and products with a second derivative, for one user in one update."""
    if method == "Reptile":
        return inner_steps, 0
    return inner_steps + 1, inner_steps if method == "MAML" else 0


def _check_count(answer: Callable) -> Outcome:
    asked = [(method, n) for method in ("MAML", "first-order MAML", "Reptile") for n in (1, 3, 5)]
    try:
        got = {(method, n): tuple(int(x) for x in answer(method, n)) for method, n in asked}
    except (TypeError, ValueError):
        return wrong("Return two numbers for each method: gradients, and products with a second derivative.")
    if any(len(pair) != 2 for pair in got.values()):
        return wrong("Return two numbers for each method: gradients, and products with a second derivative.")
    if got["MAML", 3][0] == 3:
        return wrong("MAML takes one gradient more than inner steps: that of the query loss.")
    if 6 in {gradients for (_, n), (gradients, _) in got.items() if n == 3}:
        return wrong("You count two gradients a step. The query is asked once, after the last inner step.")
    if got["Reptile", 3][0] == 4:
        return wrong("Reptile has no query loss. Its inner steps are all it takes.")
    if got["first-order MAML", 3][1]:
        return wrong("First-order MAML leaves out just these products. That is its whole difference from MAML.")
    if got["Reptile", 3][1]:
        return wrong("Reptile never differentiates a step. It subtracts where it started from where it came.")
    if got["MAML", 3][1] in (0, 1):
        return wrong("MAML's gradient runs back through every inner step, and meets a second derivative in each.")
    if got["MAML", 3][1] == 6:
        return wrong("You count two products a step. The gradient comes back through each inner step once.")
    if got["MAML", 3][1] == 4:
        return wrong("The query gradient itself needs no second derivative; only the inner steps behind it do.")
    for (method, n), pair in got.items():
        if pair != _count(method, n):
            return wrong(f"For {method} with {n} inner step(s) I expected {_count(method, n)}, and got {pair}.")
    return right("So four gradients are three inner steps of MAML, and four of Reptile; MAML pays three products more.")


exercise_count = Exercise(
    LESSON,
    "exercise-count",
    title="Count before you compare",
    level="beginner",
    minutes=10,
    task='`method` is `"MAML"`, `"first-order MAML"` or `"Reptile"`. Return two numbers for one user in one update '
    "with `inner_steps` inner steps: how many gradients of a loss are taken, and how many products of a second "
    "derivative with a vector (one for each inner step that a gradient runs back through).",
    check=_check_count,
    hints=["Draw the row of steps of lesson 04. Which arrows go back, and where does the query come in?"],
    solution=_count,
    wrong_answers={
        "no query": (lambda m, n: (n, n if m == "MAML" else 0), "one gradient more"),
        "query for all": (lambda m, n: (n + 1, n if m == "MAML" else 0), "no query loss"),
        "first order pays": (lambda m, n: (n + (m != "Reptile"), 0 if m == "Reptile" else n), "just these products"),
        "Reptile pays": (
            lambda m, n: (n + (m != "Reptile"), 0 if m == "first-order MAML" else n),
            "never differentiates a step",
        ),
        "one product": (lambda m, n: (n + (m != "Reptile"), int(m == "MAML")), "every inner step"),
        "one product too many": (lambda m, n: (n + (m != "Reptile"), (n + 1) * (m == "MAML")), "query gradient itself"),
        "two a step": (lambda m, n: (2 * n, n * (m == "MAML")), "two gradients a step"),
        "two for MAML": (lambda m, n: (n if m == "Reptile" else 2 * n, n * (m == "MAML")), "two gradients a step"),
        "two products": (lambda m, n: (n + (m != "Reptile"), 2 * n * (m == "MAML")), "two products a step"),
        "one number": (lambda m, n: n, "Return two numbers"),
    },
)


_WORKED = """
Both look for parameters from which a few gradient steps on a new user's ratings lead far. They differ in what they ask
of a training user.

MAML splits the ratings. It takes its steps on the support, asks how large the error on the query is then, and follows
the gradient of that error back through the steps. That gradient contains gradients of gradients, and autograd must keep
every step until it is done.

Reptile does not split, and asks nothing afterwards. It trains on the user with an ordinary optimizer and moves the
meta-parameters part of the way to where that led. Each step can be forgotten once it is taken: as many bytes for
sixteen steps as for two, and no more than first-order MAML.

With one step this is joint training. With several, each step's gradient is taken where the step before has led, and to
first order that adds a term which makes gradients of different ratings of a user agree. It is the same term that MAML's
gradient has, in another proportion.

In this lesson, on as many gradients, Reptile came within 0.015 stars of MAML. In the plane it came to rest between the
joint optimum and the mean of the users' own optima, nearer the latter the more inner steps it took.

Our advice, not measured here: choose MAML where the number of steps at serving is known and small, and memory is no
matter. Choose Reptile where inner loops are long, where an optimizer such as Adam is wanted inside, or where simple
code counts.
"""


def study_question(evidence_from: Explorer) -> StudyQuestion:
    """The lesson's study question, with the explorer it takes its evidence from."""
    return StudyQuestion(
        LESSON,
        "study",
        level="beginner",
        question="What separates MAML from Reptile? Say what each asks of a training user, what each costs, what "
        "Reptile is with one inner step, and when you would take which.",
        evidence_prompt="In the race, run Reptile with 1 and with 4 inner steps on as many gradients as MAML, then "
        "both for as many seconds. Note the errors.",
        checks=[
            Quiz(
                LESSON,
                "study/check-1",
                "Each training user's twenty ratings are left in one piece. Which method can no longer be trained?",
                {
                    "MAML: the gradient that it follows is that of the error on the query": "Without a query there is "
                    "nothing to ask after the steps. Reptile asks nothing: it subtracts two sets of parameters.",
                    "Reptile: it has to know where the steps on the support have led to": "It does look at where the "
                    "steps led, but it needs no ratings for that, only the parameters.",
                    "Both: without held-out ratings neither would prepare for new ones": "Both are judged on held-out "
                    "ratings in the end. In training, Reptile takes steps on all ratings of a user.",
                },
                "MAML: the gradient that it follows is that of the error on the query",
            ),
            Quiz(
                LESSON,
                "study/check-2",
                "You double the number of inner steps. What happens to the memory that autograd needs for one user?",
                {
                    "It about doubles for both, as both remember every step": "Reptile forgets a step once it is "
                    "taken. The picture of the bytes shows a flat line for it.",
                    "It stays for both, as the network has the same size": "The network has, but MAML's gradient "
                    "runs back through all steps, and each has to be kept until then.",
                    "It about doubles for MAML, and stays the same for Reptile": "MAML's gradient runs back through "
                    "all steps, Reptile's outer step through none. First-order MAML is flat too.",
                },
                "It about doubles for MAML, and stays the same for Reptile",
            ),
            Quiz(
                LESSON,
                "study/check-3",
                "Reptile takes four inner steps. What does its update hold beyond the sum of four gradients at φ?",
                {
                    "Nothing: four short steps are one long step in the same direction": "They would be if the "
                    "gradient did not change on the way. It does, and the difference was measured.",
                    "How each gradient changes along the steps before it, to first order": "Minus the rate times a "
                    "second derivative times earlier gradients. No second derivative is ever computed for it.",
                    "The gradient of the query loss, as in MAML, but without its second part": "There is no query loss "
                    "in Reptile. What you describe is first-order MAML.",
                },
                "How each gradient changes along the steps before it, to first order",
            ),
        ],
        points=[
            KeyPoint(
                "both learn a starting point for a few steps",
                (r"start\w*", r"initiali[sz]ation", r"initial (parameters|weights)"),
                "That is what they share, and what separates both from joint training.",
            ),
            KeyPoint(
                "MAML follows the gradient of the query loss after the steps",
                (r"query", r"held-?out", r"after (the )?(inner )?(steps|adapt)"),
                "It asks for what it wants: a small error on ratings that were not seen.",
            ),
            KeyPoint(
                "Reptile moves towards where the steps end",
                (
                    r"\btowards?\b",
                    r"interpolat\w*|subtract\w*|part of the way",
                    r"(average|mean) of (the )?(users|where|adapted|ends)",
                    r"W ?[-−] ?(φ|phi)",
                ),
                "An ordinary optimizer, and one subtraction.",
            ),
            KeyPoint(
                "second derivatives, or none",
                (r"second[- ](order|deriv)", r"hessian", r"gradients? of (the )?gradients?", r"back\w* through"),
                "It is where MAML's cost comes from.",
            ),
            KeyPoint(
                "memory or time",
                (r"memor", r"\bbytes\b", r"cheap|cost|faster|slower|expens"),
                "Reptile keeps one step at a time, whatever their number.",
            ),
            KeyPoint(
                "with one inner step Reptile is joint training",
                (
                    r"(one|1|single)[^.;]{0,40}step[^.;]{0,60}joint",
                    r"joint[^.;]{0,60}(one|1|single)[^.;]{0,30}step",
                    r"k ?= ?1",
                ),
                "Everything it has beyond joint training comes from the steps after the first.",
            ),
            KeyPoint(
                "when you would take which",
                (
                    r"\b(choos|prefer|pick|recommend|opt for)\w*",
                    r"\b(take|use) (it|maml|reptile)\b",
                    r"\b(better|best|suits?|good) (when|where|if|for)\b",
                ),
                "Long inner loops, an optimizer of any kind or little memory speak for Reptile; few steps that are "
                "known beforehand for MAML.",
            ),
        ],
        worked=_WORKED,
        start="Both look for …",
        evidence_from=evidence_from,
    )
