"""Adapting in real time: the second half's arms and controls, and what is measured of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.datasets.few_shot import SHOP, SHOTS
from recmtl_lessons.datasets.streams import Following, Streams, StreamShop, film_streams, shop_streams, shuffled
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.models import MAMLRecommender
from recmtl_lessons.teaching import Running
from recmtl_lessons.teaching.texts import read_yaml
from recmtl_lessons.training import DivergenceError, ManyModels, Scores
from recmtl_lessons.training.few_shot import (
    ERROR,
    FILM_LEARNERS,
    MAMLLearner,
    joint_objective,
    meta_objective,
    milliseconds_by_turns,
    train,
)
from recmtl_lessons.training.online import STANDING, Detector, Followed, Plan, alarms_on, follow, followed

SETTINGS = read_yaml(Path(__file__).with_name("settings.yaml"))["realtime"]
HIDDEN = (32,)  # as in the first half: 577 numbers a user
FIRST = SHOTS + 1  # the first rating that counts
PEOPLE, FILM_USERS = 20, 40  # who are followed, of each shop and of each split of MovieLens
TURN, SPAN = 60, 30  # a sudden turn comes after so many ratings; a detector has so many to find it
SHOPS = {
    "stand still": StreamShop(),
    "turn steadily": StreamShop(drift=1.0),
    "turn at once": StreamShop(drift=1.0, sudden=True),
}
ONE_TASTE = StreamShop(taste_spread=0.0)
WINDOWS: dict[object, int | None] = {10: 10, 30: 30, "all": None}
OBJECTIVES = {"joint": joint_objective, "MAML": meta_objective}


def open_streams(shop: str | StreamShop = "stand still", seeds: Sequence[int] = SEEDS) -> Following:
    """Return users of a shop by how their tastes turn, or of a shop with other knobs."""
    return shop_streams(SHOPS[shop] if isinstance(shop, str) else shop, tuple(seeds))


def start(name: str, seeds: tuple[int, ...] = SEEDS, taste_spread: float = SHOP.taste_spread) -> ManyModels:
    """Train the networks of a start, "joint" or "MAML", on users whose tastes stand still; once."""
    return _start(name, seeds, taste_spread)


@lru_cache(maxsize=8)
def _start(name: str, seeds: tuple[int, ...], taste_spread: float) -> ManyModels:
    known = open_streams(StreamShop(taste_spread=taste_spread), seeds).train
    learner = MAMLLearner(OBJECTIVES[name], rate=0.1, **SETTINGS["trained"][name])
    return train(learner, known, seeds, HIDDEN, label=name)


def plan(start: str, window: object = 30) -> Plan:
    """Return how a user is followed from a start with a window of 10, 30 or "all", at the rate that was chosen."""
    return Plan(SETTINGS["windows"][start][window], window=WINDOWS[window])


def fitted_once() -> Plan:
    """Return the plan that learns from the first ten ratings, from MAML's start, and then nothing more."""
    return Plan(*SETTINGS["once"]["chosen"], after=(SHOTS,))


def restarting(rate: float | None = None) -> Plan:
    """Return the plan that begins at the start's weights again at each rating, at the rate that was chosen."""
    chosen = SETTINGS["restart"]
    return Plan(chosen["rate"] if rate is None else rate, chosen["steps"], chosen["window"], restart=True)


@lru_cache(maxsize=64)
def run(
    name: str, how: Plan, shop: str | StreamShop = "stand still", seeds: tuple[int, ...] = SEEDS, **more
) -> Followed:
    """Follow the users of a shop from a start; what was run once is kept."""
    spread = (SHOPS[shop] if isinstance(shop, str) else shop).taste_spread
    return followed(start(name, seeds, spread), open_streams(shop, seeds).test.users(PEOPLE), how, **more)


# How the settings were chosen.


def score(name: str, how: Plan, shops: Sequence[str] = ("stand still", "turn steadily"), spread: float = 0.7) -> float:
    """Score a plan on validation users of the design seeds, the mean over some shops; infinite where it diverges."""
    models = start(name, DESIGN_SEEDS, spread)
    opened = [open_streams(replace(SHOPS[shop], taste_spread=spread), DESIGN_SEEDS).valid for shop in shops]
    return sum(_error(models, streams, how) for streams in opened) / len(opened)


def _error(models: ManyModels, streams: Streams, how: Plan) -> float:
    try:
        return float(followed(models, streams, how).mean(FIRST).mean())
    except DivergenceError:
        return float("inf")


def score_online(name: str, windows: Sequence[object] = tuple(WINDOWS), **more) -> dict[tuple[object, float], float]:
    """Score each rate with each window: {(window, rate): error}."""
    return {(w, r): score(name, Plan(r, window=WINDOWS[w]), **more) for w in windows for r in SETTINGS["rates"]}


def score_once() -> dict[tuple[float, int], float]:
    """Score each rate and number of steps for who is fitted once: {(rate, steps): error}."""
    tried = SETTINGS["once"]["tried"]
    return {(r, n): score("MAML", Plan(r, n, after=(SHOTS,))) for n in tried for r in SETTINGS["rates"]}


def score_restarting() -> dict[float, float]:
    """Score each rate for who begins at MAML's weights again: {rate: error}."""
    return {rate: score("MAML", restarting(rate)) for rate in SETTINGS["restart"]["tried"]}


def score_detectors() -> dict[tuple[str, float], float]:
    """Score what each detector finds of sudden turns, less what it finds elsewhere: {(name, setting): score}."""
    models = start("MAML", DESIGN_SEEDS)
    still, turned = (
        followed(models, open_streams(shop, DESIGN_SEEDS).valid, plan("MAML", "all"))
        for shop in ("stand still", "turn at once")
    )
    scores = {}
    for name in DETECTORS:
        for setting in SETTINGS["detectors"][name]["tried"]:
            found, false = (float(_found(one, partial(DETECTORS[name], setting))[0].mean()) for one in (turned, still))
            scores[name, setting] = found - false
    return scores


# Detectors.


def adwin(delta: float) -> Detector:
    """Return ADWIN, which compares the means of two parts of what it saw, and looks at each rating."""
    from river.drift import ADWIN  # slow to import

    return ADWIN(delta=delta, clock=1, grace_period=5)


def page_hinkley(threshold: float) -> Detector:
    """Return Page and Hinkley's test, which sums by how much errors exceed their mean so far, less 0.1."""
    from river.drift import PageHinkley

    return PageHinkley(min_instances=SHOTS, delta=0.1, threshold=threshold, mode="up")


def as_delivered(name: str) -> Detector:
    """Return a detector with the settings that it has in the library."""
    from river import drift

    return {"ADWIN": drift.ADWIN, "Page-Hinkley": drift.PageHinkley}[name]()


DETECTORS: dict[str, Callable[[float], Detector]] = {"ADWIN": adwin, "Page-Hinkley": page_hinkley}


def chosen_detector(name: str = "Page-Hinkley") -> Detector:
    """Return a new detector with the setting that was chosen."""
    key = {"ADWIN": "delta", "Page-Hinkley": "threshold"}[name]
    return DETECTORS[name](SETTINGS["detectors"][name][key])


def _found(one: Followed, detector: Callable[[], Detector], scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for each network, the share of users with an alarm soon after the turn, how late, and alarms a stream."""
    alarms = alarms_on(one.errors * scale, one.known, detector)  # (M, T, N)
    soon = alarms[..., TURN : TURN + SPAN]
    hit = soon.any(2)  # (M, T)
    late = 1 + soon.float().argmax(2)
    return hit.float().mean(1), (late * hit).sum(1) / hit.sum(1), alarms.sum(2).float().mean(1)


# What the lesson compares.


def by_tens(one: Followed, done: int | None = None) -> Tensor:
    """Return each network's error of each ten ratings so far, (M, done / 10)."""
    return torch.stack([one.mean(n + 1, n + 10) for n in range(0, (done or one.errors.shape[2]) - 9, 10)], dim=1)


def _scores(found: Mapping[str, Followed]) -> Scores:
    return Scores.of(ERROR, {arm: one.mean(FIRST) for arm, one in found.items()})


def arms() -> dict[str, tuple[str, Plan]]:
    """Return the arms: where each starts, and how it follows."""
    return {
        "static": ("joint", STANDING),
        "fitted once": ("MAML", fitted_once()),
        "joint": ("joint", plan("joint")),
        "MAML": ("MAML", plan("MAML")),
    }


def compare(shop: str) -> dict[str, Scores]:
    """Follow the users of a shop with all arms.

    Returns
    -------
    dict
        ``error`` from the eleventh rating on; ``early``, of ratings 11 to 30, and ``late``, of the last thirty;
        ``course``, by tens of ratings.
    """
    found = {arm: run(name, how, shop) for arm, (name, how) in arms().items()}
    length = found["MAML"].errors.shape[2]
    return {
        "error": _scores(found),
        "early": Scores.of(ERROR, {arm: one.mean(FIRST, 30) for arm, one in found.items()}),
        "late": Scores.of(ERROR, {arm: one.mean(length - 29) for arm, one in found.items()}),
        "course": Scores.of(ERROR, {arm: by_tens(one) for arm, one in found.items()}, tens_of(length)),
    }


def compare_one_taste() -> Scores:
    """Follow users who all share one taste from both starts, ratings 11 to 30: the control."""
    plans = {name: Plan(rate, window=30) for name, rate in SETTINGS["one_taste"].items()}
    return Scores.of(ERROR, {name: run(name, how, ONE_TASTE).mean(FIRST, 30) for name, how in plans.items()})


def windows(shop: str) -> Scores:
    """Follow a shop's users from MAML's start with each window; "alarm" has all ratings since the last alarm."""
    found = {window: run("MAML", plan("MAML", window), shop) for window in WINDOWS}
    found["alarm"] = run("MAML", plan("MAML", "all"), shop, detector=chosen_detector)
    return _scores(found)


def detect() -> dict[str, Scores]:
    """Let detectors look on while MAML's start follows with all ratings: at sudden turns, and where tastes stand still.

    Returns
    -------
    dict {measure: Scores}
        ``found``: the share of users with an alarm within 30 ratings after the turn; ``by chance``: with one at those
        ratings where nothing turned, the control; ``late``: ratings from the turn to the alarm; ``false``: alarms in
        120 ratings where nothing turned. The arm "scaled" is ADWIN on a tenth of each error.
    """
    turned, still = (run("MAML", plan("MAML", "all"), shop) for shop in ("turn at once", "stand still"))
    ways = {name: (partial(chosen_detector, name), 1.0) for name in DETECTORS}
    ways |= {f"{name}, as delivered": (partial(as_delivered, name), 1.0) for name in DETECTORS}
    ways["scaled"] = (partial(chosen_detector, "ADWIN"), 0.1)
    found, quiet = ({way: _found(one, *how) for way, how in ways.items()} for one in (turned, still))
    return {
        "found": Scores.of("share of sudden turns found", {way: f[0] for way, f in found.items()}),
        "late": Scores.of("ratings until the alarm", {way: found[way][1] for way in DETECTORS}),
        "by chance": Scores.of("share with an alarm then, nothing turned", {way: f[0] for way, f in quiet.items()}),
        "false": Scores.of("false alarms in 120 ratings", {way: f[2] for way, f in quiet.items()}),
    }


def mistakes() -> Scores:
    """Score two variants of the online learner in the shop whose tastes turn steadily.

    "peeking", the mistake, scores each rating after it was learned. "restarting" begins at MAML's weights again at each
    rating, and keeps none of a user's own.
    """
    shop = "turn steadily"
    return _scores({
        "MAML": run("MAML", plan("MAML"), shop),
        "peeking": run("MAML", plan("MAML"), shop, peek=True),
        "restarting": run("MAML", restarting(), shop),
    })  # fmt: skip


def chosen_in_hindsight() -> Scores:
    """Choose one of six plans for each user, and score the second half of their stream, where tastes turn steadily.

    "in hindsight" chooses by the half that is scored; "beforehand" by the first half; "for all" is one plan.
    """
    plans = [(name, plan(name, window)) for name in OBJECTIVES for window in WINDOWS]
    runs = [run(name, how, "turn steadily") for name, how in plans]
    first, second = (torch.stack([one.each_user(*part) for one in runs]) for part in ((FIRST, TURN), (TURN + 1, None)))
    return Scores.of(ERROR, {
        "in hindsight": second.amin(0).mean(1),
        "beforehand": second.gather(0, first.argmin(0, keepdim=True))[0].mean(1),
        "for all": second[plans.index(("MAML", plan("MAML")))].mean(1),
    })  # fmt: skip


def films(ratings: Ratings, seeds: tuple[int, ...] = SEEDS) -> dict[str, Scores]:
    """Follow users of MovieLens from MAML's start: as it is, fitted once, and with two windows.

    Returns
    -------
    dict {"in time": Scores, "shuffled": Scores}
        The latter is the control, and has the windows alone: the same users, whose ratings come in an order drawn anew.
    """
    users = film_streams(ratings, seeds)
    models, streams = _film_start(users, seeds), users.test.users(FILM_USERS)
    plans = {"static": STANDING} | {how: _film_plan(how, rate) for how, rate in SETTINGS["films"].items()}
    mixed, windows = shuffled(streams, seeds[0]), {how: plans[how] for how in WINDOWS if how in plans}
    return {
        "in time": _scores({arm: followed(models, streams, how) for arm, how in plans.items()}),
        "shuffled": _scores({arm: followed(models, mixed, how) for arm, how in windows.items()}),
    }


def _film_start(users: Following, seeds: tuple[int, ...]) -> ManyModels:
    return train(FILM_LEARNERS["MAML"], users.train, seeds, HIDDEN, label="films")


def _film_plan(how: object, rate: float) -> Plan:
    """Return the plan of a window, or of who is fitted once, by ten steps."""
    return Plan(rate, 10, after=(SHOTS,)) if how == "fitted once" else Plan(rate, window=WINDOWS[how])


def score_films(ratings: Ratings) -> dict[tuple[object, float], float]:
    """Score each rate with each window, and fitted once: {(window or "once", rate): error}."""
    users = film_streams(ratings, DESIGN_SEEDS)
    models, streams = _film_start(users, DESIGN_SEEDS), users.valid.users(FILM_USERS)
    return {
        (how, rate): _error(models, streams, _film_plan(how, rate))
        for how in SETTINGS["films"]
        for rate in SETTINGS["rates"]
    }


# What it costs.


def costs() -> dict[str, dict[str, float]]:
    """Return, for some plans, gradients of one rating a rating, milliseconds a rating for one user, and bytes to keep.

    The bytes are of what belongs to one user alone: four for a weight, eight for a rating and its item's number.
    """
    model, stream = start("MAML").model(0), _one(open_streams("turn steadily").test)
    weights = sum(value.numel() for value in model.named_weights().values())
    length = stream.y.shape[-1]
    plans = {"last 10": plan("MAML", 10), "last 30": plan("MAML"), "all": plan("MAML", "all")}
    plans["last 30, restarting"] = restarting()
    times = milliseconds_by_turns([partial(_adapt, model, stream, how) for how in plans.values()], 9).median(0).values
    return {
        name: {
            "gradients": how.gradients(length) / length,
            "milliseconds": float(time),
            "bytes": 4 * weights * (not how.restart) + 8 * (how.window or length),
        }
        for (name, how), time in zip(plans.items(), times, strict=True)
    }


def _one(streams: Streams) -> Streams:
    return Streams(*(getattr(streams, field)[0, 0] for field in Streams.__dataclass_fields__))


def _adapt(model: MAMLRecommender, stream: Streams, how: Plan) -> None:
    """Take the steps after the last rating of a user, once."""
    rows = how.rows_after(len(stream.y))
    model.inner_update(stream.x[-rows:], stream.y[-rows:], how.steps, first_order=True, inner_lr=how.rate)


# Streams in a loop of one's own.


def one_shop_streams(shop: str = "turn steadily", seed: int = 0) -> tuple[MAMLRecommender, Tensor, Tensor]:
    """Return MAML's network of a seed, and its shop's new users: items (T, N, F) and ratings (T, N)."""
    test = open_streams(shop).test.users(PEOPLE)
    return start("MAML").model(seed), test.x[seed], test.y[seed]


def difference_from_the_stack(errors: Tensor, shop: str = "turn steadily") -> dict[object, float]:
    """Return the largest difference of the first shop's first errors, (T, N), from the stack's with two windows."""
    stack = {w: run("MAML", plan("MAML", w), shop).errors[0, : len(errors)] for w in ("all", 30)}
    return {w: float((theirs - errors).abs().max()) for w, theirs in stack.items()}


def tens_of(length: int) -> range:
    """Return the middles of the tens of so many ratings."""
    return range(5, length, 10)


def own_scores(errors: Tensor, shop: str = "turn steadily") -> dict[str, Scores]:
    """Return a learner's errors, (people, N), by tens of ratings: {shop: Scores}, a person a row."""
    tens = errors.unflatten(1, (-1, 10)).mean(2)
    return {shop: Scores.of(ERROR, {"yours": tens}, tens_of(errors.shape[1]))}


def window_band(shop: str) -> Scores:
    """Return the course's errors with all ratings and with the last 30, by tens of ratings."""
    found = {window: run("MAML", plan("MAML", window), shop) for window in ("all", 30)}
    return Scores.of(ERROR, {w: by_tens(one) for w, one in found.items()}, tens_of(found[30].errors.shape[2]))


OWN_SEEDS, OWN_USERS = 4, 2
OWN_SHOPS = ("stand still", "turn at once")
Learner = Callable[[Tensor, Callable, Tensor, Tensor, Tensor], Tensor]


class NoWeights(Exception):
    """What a learner's function returned is not the weights of a network."""


def follow_one(answer: Learner, shop: str, seed: int, user: int) -> tuple[Tensor, list[int]]:
    """Follow one new user by a learner's function (w, gradient, x, y, errors) -> w, asked after each rating.

    Returns
    -------
    Tensor (N,), list of int
        Errors, each of a prediction made before its rating was seen; and after which ratings the weights moved.
    """
    network, streams = start("MAML").model(seed), open_streams(shop).test
    x, y = streams.x[seed, user], streams.y[seed, user]
    w = torch.nn.utils.parameters_to_vector(network.named_weights().values()).detach()

    errors, moved = [], []
    for n in range(len(y)):
        errors.append(float(_off_and_slope(w, x[n : n + 1], y[n : n + 1])[0].abs()))
        given = x[: n + 1].clone(), y[: n + 1].clone(), torch.tensor(errors)
        came = _as_weights(answer(w.clone(), _gradient, *given), w)
        moved += [n + 1] * (not torch.equal(came, w))
        w = came
    return torch.tensor(errors), moved


def _off_and_slope(w: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return predictions minus ratings, (n,), and the gradient of their mean square, (P,), written out: it is fast.

    ``w`` holds the network's weights in its order: (H, F), (H,), (1, H), (1,).
    """
    (hidden,), width = HIDDEN, x.shape[1]
    first, bias, head, shift = w.split([hidden * width, hidden, hidden, 1])
    inside = torch.addmm(bias, x, first.view(hidden, width).T)  # (n, H)
    on = inside.clamp(min=0)
    off = on @ head + shift - y
    slope = 2 * off / len(y)
    below = torch.outer(slope, head) * (inside > 0)  # (n, H)
    return off, torch.cat([(below.T @ x).flatten(), below.sum(0), slope @ on, slope.sum().unsqueeze(0)])


def _gradient(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of the mean squared error on rows x (n, F), y (n,), as a learner asks for it, (P,)."""
    return _off_and_slope(w.detach(), x, y)[1]


def _as_weights(came: object, w: Tensor) -> Tensor:
    try:
        came = torch.as_tensor(came).detach().to(w)
    except (TypeError, ValueError, RuntimeError):
        raise NoWeights from None
    if came.shape != w.shape:
        raise NoWeights
    return came


def follow_with(answer: Learner) -> Iterator[Running]:
    """Follow people whose tastes stand still, and others' which turn at once, by a learner's function."""
    people = [(seed, user) for seed in range(OWN_SEEDS) for user in range(OWN_USERS)]
    curves: dict[str, list[Tensor]] = {shop: [] for shop in OWN_SHOPS}
    for k, (seed, user) in enumerate(people):
        for shop, kept in curves.items():
            kept.append(follow_one(answer, shop, seed, user)[0])
        yield Running(k + 1, len(people), partial(_joined, {shop: list(kept) for shop, kept in curves.items()}))
    return _joined(curves)


def _joined(curves: Mapping[str, Sequence[Tensor]]) -> dict[str, Scores]:
    return {shop: own_scores(torch.stack(list(kept)), shop)[shop] for shop, kept in curves.items()}


# Live.


@dataclass(frozen=True)
class Live:
    """Users while they are followed.

    Attributes
    ----------
    found, standing : Followed
        So far; and the same users by the network as it is.
    done : int
        Ratings so far.
    """

    found: Followed
    standing: Followed
    done: int


LIVE_USERS = 8  # of each of eight shops


def watch(begin: str, window: str, rate: float, drift: float, turn: str, alarms: str) -> Iterator[Running]:
    """Follow 64 users whose tastes turn while one watches.

    ``alarms`` says whether a detector is "off", looks on ("shown"), or empties the window ("acted upon").
    """
    streams = open_streams(StreamShop(drift=drift, sudden=turn == "at once")).test.users(LIVE_USERS)
    models, how = start(begin), Plan(rate, window=None if window == "all" else int(window))
    standing = followed(models, streams, STANDING)
    detector = chosen_detector if alarms == "acted upon" else None
    for moment, found in follow(models, streams, how, detector):
        yield Running(moment.step, moment.steps, partial(Live, found, standing, moment.step), "rating")
    if alarms == "shown":
        found.alarms[:] = alarms_on(found.errors, found.known, chosen_detector)
    return Live(found, standing, found.errors.shape[2])
