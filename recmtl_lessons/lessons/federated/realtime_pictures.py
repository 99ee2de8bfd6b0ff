"""The second half's looks, and those drawings that no shared one makes."""

from collections.abc import Mapping

import numpy as np

from recmtl_lessons.lessons.federated.realtime import LIVE_USERS, TURN, Live, by_tens, tens_of, window_band
from recmtl_lessons.teaching import style
from recmtl_lessons.teaching.looks import GREY, Look, draw_line
from recmtl_lessons.training import Scores

LOOKS = {
    "static": Look("as trained, static", "black", "s", ":"),
    "fitted once": Look("fitted once,\nto ten ratings", "purple", "X", "-."),
    "joint": Look("online, from joint\ntraining's weights", "blue", "o", "-"),
    "MAML": Look("online, from\nMAML's weights", "vermillion", "^", "--"),
    10: Look("the last 10", "orange", "v", "-."),
    30: Look("the last 30", "vermillion", "^", "--"),
    "all": Look("all so far", "blue", "o", "-"),
    "alarm": Look("all since the\nlast alarm", "green", "D", ":"),
    "yours": Look("yours", "black", "*", "-"),
}
TITLES = {
    "stand still": "Tastes stand still",
    "turn steadily": "They turn steadily",
    "turn at once": "They turn at once",
}


def draw_stream_idea(figure) -> None:
    """Draw what happens at each rating, and which tastes a window of thirty holds when tastes turn."""
    left, right = style.panels(figure, 2, (1.2, 1.0))
    left.set(xlim=(0, 10.4), ylim=(-0.3, 5.2), title="At each rating")
    left.axis("off")
    steps = ("predict", "black"), ("see the rating,\nscore", "blue"), ("learn from the\nlatest ones", "vermillion")
    for place, (text, colour) in zip((0.1, 3.6, 7.1), steps, strict=True):
        style.box(left, place, 2.0, 2.8, text, style.PALETTE[colour], height=1.5)
    for place in (2.95, 6.45):
        style.arrow(left, (place, 2.75), (place + 0.6, 2.75), "black")
    left.plot([8.5, 8.5, 1.5], [1.9, 0.7, 0.7], color="black", lw=2.4)
    style.arrow(left, (1.5, 0.7), (1.5, 1.95), "black")
    left.text(5.0, 0.15, "the next one", fontsize=13, ha="center")
    place = np.arange(1, 121)
    for turned, colour, line, name in (
        (np.zeros(120), "black", ":", "stands still"),
        (90 * (place - 1) / 119, "vermillion", "--", "turns steadily"),
        (90.0 * (place > TURN), "blue", "-", "turns at once"),
    ):
        right.plot(place, turned, color=style.PALETTE[colour], ls=line, lw=3, label=name)
    right.axvspan(61, 90, color=GREY, alpha=0.2, lw=0)
    right.text(75.5, 104, "window at 90", fontsize=12, ha="center")
    right.set(
        xlim=(0, 121), ylim=(-5, 115), yticks=(0, 45, 90), xlabel="rating", ylabel="taste has turned, degrees",
        title="Three kinds of taste",
    )  # fmt: skip
    right.legend(loc="upper left", bbox_to_anchor=(0.0, 0.93))


def _errors_on(axis, shop: str, low: float, high: float) -> None:
    axis.set(title=TITLES[shop], xlabel="rating", xlim=(0, 121), ylim=(low, high))
    if shop == "turn at once":
        axis.axvline(TURN + 0.5, color=GREY, lw=1.5, ls=":")


def draw_course(found: Mapping[str, Scores], figure) -> None:
    """Draw the error of each arm by tens of ratings, a panel for each shop."""
    panels = style.panels(figure, len(found))
    for axis, (shop, scores) in zip(panels, found.items(), strict=True):
        scores.draw(axis, LOOKS)
        _errors_on(axis, shop, 0.35, 1.0)
    panels[0].legend(loc="upper left", ncols=2, fontsize=11)


def draw_windows(found: Mapping[str, Scores], figure) -> None:
    """Draw each window's error less that of all ratings, a panel for each shop."""
    panels = style.panels(figure, len(found))
    for axis, (shop, scores) in zip(panels, found.items(), strict=True):
        less = {arm: scores.lead(arm, over="all") for arm in scores if arm != "all"}
        Scores.of("error less that with all ratings", less).draw(axis, LOOKS, joined=False)
        axis.axhline(0.0, color="black", lw=1.5)
        axis.set(title=TITLES[shop], ylim=(-0.15, 0.05))
    for axis in panels[1:]:
        axis.set_ylabel("")


def draw_streams(own: Mapping[str, Scores] | None, figure, shops: tuple[str, ...] = ("stand still", "turn at once")):
    """Draw a learner's errors by tens of ratings on the course's bands, with all ratings and with the last thirty."""
    panels = style.panels(figure, len(shops))
    for axis, shop in zip(panels, shops, strict=True):
        window_band(shop).draw(axis, LOOKS)
        if own is not None:
            draw_line(axis, own[shop].steps, own[shop]["yours"], LOOKS["yours"])
        _errors_on(axis, shop, 0.25, 1.1)
    panels[0].legend(loc="upper left")


def describe_streams(own: Mapping[str, Scores]) -> str:
    """Return the learner's errors in words."""
    said, people = [], 0
    for shop, scores in own.items():
        course = {w: float(e[:, 1:].mean()) for w, e in ((w, window_band(shop)[w]) for w in ("all", 30))}
        people = len(scores["yours"])
        said.append(
            f"where tastes {shop}, yours has an error of {scores['yours'][:, 1:].mean():.3f} stars, the "
            f"course's over 160 people with all ratings {course['all']:.3f}, with the last 30 {course[30]:.3f}"
        )
    whom = f"{people} people" if people > 1 else "One person"
    return f"{whom}, from the eleventh rating on: " + "; ".join(said) + "."


def draw_film_streams(found: Mapping[str, Scores], figure) -> None:
    """Draw the error on films, in order of time and shuffled."""
    left, right = style.panels(figure, 2, (1.4, 1.0))
    for axis, (name, scores) in zip((left, right), found.items(), strict=True):
        scores.draw(axis, LOOKS, joined=False)
        axis.set(title=f"MovieLens, {name}", ylim=(0.65, 0.9))


# The explorer.


def draw_live(result: Live, figure, controls: dict) -> None:
    """Left: errors over the ratings. Right: at which ratings a detector gave an alarm."""
    left, right = style.panels(figure, 2, (1.4, 1.0))
    tens = tens_of(result.done + 1)[: result.done // 10]
    if len(tens):
        draw_line(left, tens, by_tens(result.standing, result.done), Look("static", "black", "s", ":"))
        draw_line(left, tens, by_tens(result.found, result.done), Look("online", "vermillion", "^", "--"))
        left.legend(loc="upper left")
    left.set(xlim=(0, 121), ylim=(0.3, 1.2), xlabel="rating", ylabel="mean absolute error, stars", title="Error, live")
    if controls["alarms"] == "off":
        right.text(0.5, 0.5, "no detector", transform=right.transAxes, fontsize=20, ha="center", va="center")
    else:
        alarms = result.found.alarms.unflatten(2, (-1, 10)).sum(3).float().mean((0, 1))  # a user, each ten ratings
        right.bar(tens_of(120), alarms.tolist(), width=8, color=style.PALETTE["blue"])
    right.set(xlim=(0, 121), ylim=(0, 0.8), xlabel="rating", ylabel="alarms a person, in ten ratings", title="Alarms")
    if _turns_at_once(controls):
        for axis in (left, right):
            axis.axvline(TURN + 0.5, color=GREY, lw=2, ls=":")
            axis.text(TURN + 2, axis.get_ylim()[1] * 0.96, "the turn", fontsize=12, color=GREY, va="top")


def _turns_at_once(controls: dict) -> bool:
    return controls["turn"] == "at once" and controls["drift"] > 0


def describe_live(result: Live, controls: dict) -> str:
    """Return the live picture in words."""
    errors = [
        f"{float(one.mean(11, result.done).mean()):.3f}" if result.done > 10 else "not yet known"
        for one in (result.found, result.standing)
    ]
    turn = f"turn by {90 * controls['drift']:.0f} degrees, {controls['turn']}" if controls["drift"] else "stand still"
    window = "all ratings" if controls["window"] == "all" else f"the last {controls['window']} ratings"
    told = ""
    if controls["alarms"] != "off":
        alarms = result.found.alarms.float().sum(2).mean()
        told = f" Alarms a person: {alarms:.2f}"
        if _turns_at_once(controls):
            told += (
                f", {result.found.alarms[..., TURN : TURN + 30].any(2).float().mean():.0%} had one soon after the turn"
            )
        told += "."
    return (
        f"{LIVE_USERS * len(result.found.errors)} people whose tastes {turn}; start {controls['begin']}, steps of rate "
        f"{controls['rate']:g} on {window}, after {result.done} ratings: error {errors[0]} stars online, {errors[1]} "
        f"static, from the eleventh rating on.{told}"
    )
