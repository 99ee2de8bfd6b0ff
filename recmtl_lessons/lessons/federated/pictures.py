"""The lesson's looks, and those drawings that no shared one makes."""

import math

import numpy as np
import torch

from recmtl_lessons.lessons.federated.experiments import (
    LIVE_ROUNDS,
    PEOPLE,
    PRIVATE,
    Compared,
    LiveRounds,
    Masked,
    band,
)
from recmtl_lessons.teaching import style
from recmtl_lessons.teaching.claim import t_interval
from recmtl_lessons.teaching.looks import GREY, Look, draw_line, line_at
from recmtl_lessons.training import Scores

LOOKS = {
    "central": Look("central: all ratings\nin one place", "black", "s", "-"),
    "one step": Look("one local step (FedSGD)", "blue", "o", "-"),
    "five steps": Look("five local steps (FedAvg)", "vermillion", "^", "--"),
    "dealt": Look("five, ratings dealt\nat random", "purple", "D", ":"),
    "twenty steps": Look("twenty local steps", "purple", "X", "-."),
    "own mean": Look("a person's own mean", "sky", "P", ":"),
    "yours": Look("yours", "black", "*", "-"),
    300: Look("300 people", "vermillion", "^", "--"),
    3000: Look("3,000 people", "blue", "o", "-"),
}


def draw_idea(figure) -> None:
    """Draw a round: what stays with three people and what travels; and two people's local steps, seen from above."""
    left, right = style.panels(figure, 2, (1.25, 1.0))
    left.set(xlim=(0, 10.4), ylim=(-0.2, 6.2), title="One round")
    left.axis("off")
    for height, end in ((4.6, 3.6), (2.5, 3.0), (0.4, 2.4)):
        style.box(left, 0.2, height, 3.0, "20 ratings\nstay here", style.PALETTE["blue"], height=1.2)
        style.arrow(left, (3.4, height + 0.6), (6.9, end), style.PALETTE["vermillion"])
    left.text(6.3, 5.05, "577 numbers:\nhow far W is from φ", fontsize=13, ha="center")
    style.box(left, 7.1, 2.2, 3.0, "φ moves by\ntheir mean", "black", height=1.6)
    _draw_local_steps(right)


def _draw_local_steps(axis) -> None:
    """Draw two people's paths on losses that are steep in different directions, and the means of one step and five."""
    paths = {}
    for colour, best, steep in (("blue", (1.6, 1.0), (1.0, 0.12)), ("vermillion", (0.9, -1.2), (0.15, 1.0))):
        path = [np.zeros(2)]
        for _ in range(5):
            path.append(path[-1] - 0.45 * np.array(steep) * (path[-1] - np.array(best)))
        paths[colour] = np.array(path)
        axis.plot(*paths[colour].T, "o-", color=style.PALETTE[colour], ms=7, lw=2.5)
        axis.plot(*best, "*", color=style.PALETTE[colour], ms=24)
        axis.text(best[0] - 0.1, best[1], "best for one", fontsize=12, ha="right", va="center")
    axis.plot(0, 0, "s", color="black", ms=12)
    axis.text(-0.14, 0.08, "φ", fontsize=17, ha="center")
    for steps in (1, 5):
        end = np.mean([path[steps] for path in paths.values()], axis=0)
        axis.plot(*end, "D", color="black", ms=11, mfc="white" if steps == 1 else "black")
        axis.text(end[0] + 0.08, end[1] - 0.05, f"mean, {steps} step{'s' if steps > 1 else ''}", fontsize=13)
    axis.set(xlim=(-0.35, 2.0), ylim=(-1.45, 1.25), xticks=[], yticks=[], title="Two people's local steps")


def draw_own(own: dict[str, Scores] | None, figure, course: dict[str, Scores] | None = None) -> None:
    """Draw the learner's servers upon the course's bands: errors as they are, and after three steps for a person."""
    course = course or band()
    titles = {"before": "As the network is", "after": "After three steps each"}
    for axis, (name, title) in zip(style.panels(figure, 2), titles.items(), strict=True):
        course[name].draw(axis, LOOKS)
        if own is not None:
            mine, look = own[name], LOOKS["yours"]
            if len(mine["yours"]) > 1:
                draw_line(axis, mine.steps, mine["yours"], look)
            else:
                axis.plot(mine.steps, mine["yours"][0], color="black", marker=look.marker, ls=look.line, label="yours")
        axis.set(title=title, xlabel="round")
    axis.legend(loc="upper right")


def describe_own(own: dict[str, Scores]) -> str:
    """The learner's servers in words."""
    course, (*_, last) = band(), own["after"].steps
    place = course["after"].steps.index(last)
    theirs = {arm: float(course["after"][arm][:, place].mean()) for arm in course["after"]}
    count = len(own["after"]["yours"])
    return (
        f"Yours, {count} server{'s' if count > 1 else ''}, after {last} rounds: error "
        f"{own['before']['yours'][:, -1].mean():.3f} stars as it is, {own['after']['yours'][:, -1].mean():.3f} "
        f"after three steps for each person. There the course's eight have {theirs['one step']:.3f} with one local "
        f"step and {theirs['five steps']:.3f} with five."
    )


def draw_arms(found: Compared, control: Compared, figure) -> None:
    """Draw each arm's error as it is (faint) and after three steps, with tastes that differ and with one for all."""
    arms, panels = ("central", "one step", "dealt", "five steps"), style.panels(figure, 2)
    for axis, own, title in zip(panels, (found, control), ("Tastes differ", "One taste for all"), strict=True):
        for place, arm in ((k, arm) for k, arm in enumerate(arms) if arm in own.before.arms):
            colour = style.PALETTE.get(LOOKS[arm].colour, LOOKS[arm].colour)
            for scores, fill in ((own.before, "white"), (own.after, colour)):
                mean, low, high = (float(v) for v in t_interval(scores[arm]))
                axis.errorbar(
                    mean, place, xerr=[[mean - low], [high - mean]], fmt=LOOKS[arm].marker, ms=13, mfc=fill, capsize=6,
                    lw=3, color=colour,
                )  # fmt: skip
        axis.set_yticks(range(len(arms)), [LOOKS[arm].label for arm in arms] if axis is panels[0] else [""] * len(arms))
        axis.set(ylim=(len(arms) - 0.5, -0.5), xlabel=own.after.measure, title=title)
    for fill, text in (("white", "as the network is"), ("black", "after three steps")):
        panels[1].plot([], [], "o", ms=11, color="black", mfc=fill, label=text)
    panels[1].legend(loc="center")


def draw_private(found: Scores, spent: dict, figure) -> None:
    """Draw error against epsilon, of 300 people and of 3,000, and where each is without privacy."""
    (axis,) = style.panels(figure, 1)
    for people in (PEOPLE, 10 * PEOPLE):
        arms = [arm for arm in found if arm[1] == people and math.isfinite(spent[arm])]
        order = sorted(arms, key=spent.get)
        draw_line(axis, [spent[arm] for arm in order], torch.stack([found[arm] for arm in order], 1), LOOKS[people])
        for arm in order:
            place = (spent[arm], float(found[arm].mean()))
            axis.annotate(f"noise {arm[0]:g}", place, (12, 4), textcoords="offset points", fontsize=13)
    line_at(axis, float(found["open", PEOPLE].mean()), "without privacy")
    axis.set(xscale="log", xlabel=f"epsilon, at delta {PRIVATE['delta']:g}", ylabel=found.measure)
    axis.set_xticks([0.1, 0.3, 1.0, 3.0], ["0.1", "0.3", "1", "3"])
    axis.minorticks_off()
    axis.legend(loc="upper right")


# Explorers.


def draw_live(result: LiveRounds, figure, controls: dict) -> None:
    """Left: errors over the rounds. Right: epsilon spent so far."""
    left, right = style.panels(figure, 2, (1.25, 1.0))
    found = result.over_rounds
    steps = found["after"].steps
    draw_line(left, steps, found["before"]["live"], Look("as it is", "blue", "o", "-"))
    draw_line(left, steps, found["after"]["live"], Look("after three steps", "vermillion", "^", "--"))
    line_at(left, result.own_mean, "a person's own mean")
    left.set(
        xlim=(0, LIVE_ROUNDS), ylim=(0.3, 0.95), xlabel="round", ylabel=found["after"].measure, title="Error, live"
    )
    left.legend(loc="lower left")
    if math.isfinite(result.spent[-1]):
        right.plot(steps, result.spent, "-", color="black", lw=3)
        right.plot(steps[-1], result.spent[-1], "*", ms=22, color="black")
        right.set(yscale="log", ylim=(0.01, 3000))
        right.set_yticks([0.01, 0.1, 1, 10, 100, 1000], ["0.01", "0.1", "1", "10", "100", "1,000"])
        right.minorticks_off()
        right.annotate(
            f"{result.spent[-1]:.3g}",
            (steps[-1], result.spent[-1]),
            (-14, 10),
            textcoords="offset points",
            fontsize=17,
            ha="right",
        )
    else:
        right.text(0.5, 0.5, "no noise:\nno bound", transform=right.transAxes, fontsize=20, ha="center", va="center")
        right.set(yticks=[])
    right.set(xlim=(0, LIVE_ROUNDS), xlabel="round", ylabel="epsilon", title="Epsilon spent: lower is more private")


def describe_live(result: LiveRounds, controls: dict) -> str:
    """The live picture in words."""
    before, after = (float(result.over_rounds[k].at_end()["live"].mean()) for k in ("before", "after"))
    spent = result.spent[-1]
    private = f"epsilon {spent:.3g}" if math.isfinite(spent) else "no noise and so no epsilon"
    last = result.over_rounds["after"].steps[-1]
    return (
        f"Local steps {controls['local_steps']}, {controls['clients']} of {PEOPLE} people a round, spread of tastes "
        f"{controls['spread']:g}, clip {controls['clip']:g}, round {last}: error {before:.3f} stars as it is, "
        f"{after:.3f} after three steps; a person's own mean {result.own_mean:.3f}; {private}. 4 servers."
    )


def draw_masked(result: Masked, figure, controls: dict) -> None:
    """Left: one client's update and what it sends. Right: what the server reads as the sum, and the true one."""
    first, middle, last = style.panels(figure, 3)
    place, k = np.arange(result.updates.shape[1]), controls["client"] - 1
    first.bar(place, result.updates[k].numpy(), color=style.PALETTE["blue"])
    first.set(title=f"Client {k + 1}: its update")
    middle.bar(place, result.messages[k].double().numpy(), color=GREY)
    middle.set(title=f"What client {k + 1} sends" if k in result.here else f"Client {k + 1} dropped out")
    truth = result.updates[list(result.here)].sum(0)
    last.bar(place, result.total.numpy(), color=style.PALETTE["vermillion"], label="what the server reads")
    last.plot(place, truth, "_", ms=12, mew=3.5, color="black", label="the true sum")
    last.set(title=f"The sum of {len(result.here)}")
    last.legend(loc="best")
    for axis in (first, middle, last):
        axis.axhline(0.0, color=GREY, lw=1)
        axis.set(xticks=[], xlabel="24 of 577 numbers")


def describe_masked(result: Masked, controls: dict) -> str:
    """The messages in words."""
    k = controls["client"] - 1
    gone = f"client {controls['dropped']}" if len(result.here) < len(result.updates) else "nobody"
    sent = (
        "sends nothing"
        if k not in result.here
        else f"sends numbers from {result.messages[k].min():.3g} to {result.messages[k].max():.3g}"
    )
    return (
        f"Masks of {controls['masks']}, {gone} dropped out: client {k + 1}, whose update has numbers up to "
        f"{result.updates[k].abs().max():.3f}, {sent}. The server's sum is off by {result.off:.2g} at most."
    )
