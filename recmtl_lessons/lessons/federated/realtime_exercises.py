"""The second half's exercise: an online learner of one's own, judged on people it has not seen."""

from collections.abc import Callable

import torch
from torch import Tensor

from recmtl_lessons.lessons.federated.questions import TEXTS
from recmtl_lessons.lessons.federated.realtime import (
    FIRST,
    OWN_SEEDS,
    OWN_SHOPS,
    OWN_USERS,
    NoWeights,
    follow_one,
    follow_with,
    plan,
    run,
)
from recmtl_lessons.lessons.federated.realtime_pictures import describe_streams, draw_streams
from recmtl_lessons.teaching.exercise import Experiment


def learn(w, gradient, x, y, errors):
    """One step on the last twenty ratings."""
    return w - 0.05 * gradient(w, x[-20:], y[-20:])


ENOUGH = 0.02  # stars behind the course's


def _through_the_streams(answer: Callable, shop: str) -> dict[str, Tensor]:
    """Follow people by an answer; return its error from the eleventh rating on, and when it moved at last."""
    errors, last, amiss = [], 0, 0.0
    try:
        for seed in range(OWN_SEEDS):
            for user in range(OWN_USERS):
                found, moved = follow_one(answer, shop, seed, user)
                errors.append(found[FIRST - 1 :].mean())
                last = max([last, *moved])
    except NoWeights:
        errors, amiss = [torch.tensor(0.0)], 1.0
    return {"error": torch.stack(errors).mean(), "last": torch.tensor(float(last)), "amiss": torch.tensor(amiss)}


def _course(shop: str) -> float:
    """Return the error of the same people by what suits their shop: all ratings, or the last thirty."""
    found = run("MAML", plan("MAML", "all" if shop == "stand still" else 30), shop).errors
    return float(found[:OWN_SEEDS, :OWN_USERS, FIRST - 1 :].mean())


def _judged(ask: Callable) -> str | None:
    """Say what is wrong with an online learner; None where it keeps up in both shops."""
    messages = TEXTS.messages("exercise-online")
    runs = {}
    for shop in OWN_SHOPS:
        runs[shop] = ask(shop=shop)
        if float(runs[shop]["amiss"]):
            return messages["no weights"]
        if not torch.isfinite(runs[shop]["error"]):
            return messages["diverges"]
    last = max(float(one["last"]) for one in runs.values())
    if last <= 60:
        return messages["learns nothing" if last == 0 else "stops"]
    behind = {shop: float(runs[shop]["error"]) - _course(shop) > ENOUGH for shop in OWN_SHOPS}
    if all(behind.values()):
        return messages["behind in both"]
    if behind["turn at once"]:
        return messages["never forgets"]
    return messages["forgets too much"] if behind["stand still"] else None


exercise_online = TEXTS.exercise(
    "exercise-online",
    judge=_judged,
    call=_through_the_streams,
    solution=learn,
    mistakes={
        "never forgets": lambda w, gradient, x, y, errors: w - 0.05 * gradient(w, x, y),
        "forgets too much": lambda w, gradient, x, y, errors: w - 0.05 * gradient(w, x[-4:], y[-4:]),
        "behind in both": lambda w, gradient, x, y, errors: w - 0.07 * gradient(w, x[-1:], y[-1:]),
        "stops": lambda w, gradient, x, y, errors: w - 0.05 * gradient(w, x, y) * (len(y) <= 10),
        "learns nothing": lambda w, gradient, x, y, errors: w,
        "diverges": lambda w, gradient, x, y, errors: w + 0.3 * gradient(w, x, y),
        "no weights": lambda w, gradient, x, y, errors: gradient(w, x, y).norm(),
    },
    experiment=Experiment(
        follow_with,
        lambda own, figure: draw_streams(own, figure),
        describe_streams,
        alt="Error by tens of ratings, tastes that stand still and that turn at once: the course's learners with all "
        "ratings and with the last 30. Yours comes here.",
        size=(11.0, 4.2),
    ),
)
