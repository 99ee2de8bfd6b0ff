"""The lesson's looks, and those drawings that no shared one makes."""

from dataclasses import replace
from itertools import pairwise

import torch
from torch.nn.utils.rnn import pad_sequence

from recmtl_lessons.envs.chain import LENGTH, OPTIMUM
from recmtl_lessons.lessons.hierarchical.chain import second_half
from recmtl_lessons.lessons.hierarchical.sessions import LATE, LIVE, Comparison
from recmtl_lessons.lessons.hierarchical.watching import STEPS, Timeline
from recmtl_lessons.teaching import style
from recmtl_lessons.teaching.looks import GREY, Look, draw_line, line_at
from recmtl_lessons.training import Scores

LOOKS = {
    "two levels": Look("two\nlevels", "green", "o", "-"),
    "flat Q": Look("flat Q", "vermillion", "s", "--"),
    "flat Q, stops": Look("flat Q,\nstops", "sky"),
    "flat Q, history": Look("flat Q,\nhistory", "blue"),
    "policy, λ = 0.5": Look("policy,\nλ = 0.5", "orange"),
    "policy, λ = 1": Look("policy,\nλ = 1", "black"),
    "policy, history": Look("policy,\nhistory", "purple"),
    "two goals": Look("one goal followed, another recorded", "purple", "s", "--"),
    "no gradient": Look("controllers without gradient", "vermillion", "^", ":"),
    "flat": Look("flat", "orange", "s", "--"),
    "goals by chance": Look("goals by\nchance", "purple", "^", "-."),
    "paid for progress": Look("flat, for\nprogress", "blue", "D", ":"),
}
_CATEGORIES = (Look("", "blue", "o"), Look("", "orange", "s"), Look("", "green", "^"))
_ON_TOP = {"frameon": True, "framealpha": 0.85, "edgecolor": "none"}  # a legend over what is drawn
_EDGE = {"edgecolor": "white", "linewidth": 1.6}  # of a goal or an action


# The idea.


def draw_levels(figure) -> None:
    """Draw who decides what: goals above, actions below, and which reward goes where."""
    (axis,) = style.panels(figure, 1)
    blue, green, red = (style.PALETTE[name] for name in ("blue", "green", "vermillion"))
    style.box(axis, 0.0, 3.9, 5.2, "meta-controller\nchooses a goal", blue, 1.4)
    style.box(axis, 0.0, 0.6, 5.2, "the goal's controller\nchooses actions", green, 1.4)
    style.box(axis, 15.4, 0.6, 4.4, "the user, or\nthe chain", red, 1.4)
    style.arrow(axis, (2.6, 3.7), (2.6, 2.2), GREY)
    axis.text(2.9, 2.95, "a goal, kept for several steps", va="center", fontsize=14, color=GREY)
    for height, words in ((1.7, "an action, every step"), (0.9, "")):
        start, end = ((5.4, height), (15.2, height)) if words else ((15.2, height), (5.4, height))
        style.arrow(axis, start, end, GREY)
        axis.text(10.3, height + 0.28, words, ha="center", fontsize=14, color=GREY)
    axis.text(10.3, 0.25, "intrinsic reward: is the goal nearer?", ha="center", fontsize=14, color=green)
    axis.plot([17.6, 17.6], [2.2, 4.6], color=blue, lw=2.4, ls="-")
    style.arrow(axis, (17.6, 4.6), (5.4, 4.6), blue)
    axis.text(11.5, 4.85, "the real rewards of all those steps, discounted", ha="center", fontsize=14, color=blue)
    axis.set(xlim=(-0.3, 20.2), ylim=(-0.1, 5.6))
    axis.axis("off")


def draw_chain_itself(figure) -> None:
    """Draw the six states, where it begins and what it pays."""
    (axis,) = style.panels(figure, 1)
    places = range(LENGTH)
    for k in places:
        kind = "green" if k == LENGTH - 1 else "vermillion" if k == 0 else "blue"
        axis.plot(k, 0, "o", ms=44, mfc="white", mec=style.PALETTE[kind], mew=3)
        axis.text(k, 0, f"s{k + 1}", ha="center", va="center", fontsize=16)
    for k in places[1:]:
        if k < LENGTH - 1:
            style.arrow(axis, (k + 0.25, 0.2), (k + 0.75, 0.2), GREY, width=2)
        style.arrow(axis, (k - 0.25, -0.2), (k - 0.75, -0.2), GREY, width=2)
    axis.text(2.5, 0.62, "right: works half of the time, else it leads left", ha="center", fontsize=14, color=GREY)
    axis.text(2.5, -0.72, "left: always works", ha="center", fontsize=14, color=GREY)
    axis.text(0, -1.25, "the end: 1 if s6 was visited, 0.01 if not", ha="left", fontsize=14,
              color=style.PALETTE["vermillion"])  # fmt: skip
    axis.text(1, 0.98, "start", ha="center", fontsize=14, color=style.PALETTE["blue"])
    style.arrow(axis, (1, 0.9), (1, 0.42), style.PALETTE["blue"], width=2)
    axis.set(xlim=(-0.5, LENGTH - 0.5), ylim=(-1.45, 1.3))
    axis.axis("off")


# The chain.


def draw_chain(result: dict[str, Scores], figure) -> None:
    """Draw two levels and flat Q-learning on the way, and what all learners earn in the second half of it."""
    curves, late = style.panels(figure, 2, (1.0, 1.25))
    _draw_returns(curves, dict.fromkeys(("two levels", "flat Q"), result["learners"]))
    curves.set_title("Seeing the place alone")
    shown = (
        "two levels",
        "flat Q",
        "flat Q, stops",
        "flat Q, history",
        "policy, λ = 0.5",
        "policy, λ = 1",
        "policy, history",
    )
    second_half(result["learners"]).only(*shown).draw(late, LOOKS, joined=False)
    line_at(late, OPTIMUM, f"optimum {OPTIMUM}", "black")
    late.set(ylim=(-0.005, 0.245), ylabel="", title="All seven: mean of the second half")
    late.tick_params(axis="x", labelsize=12)
    _legend_below(figure, curves, 2)


def draw_mistakes(result: dict[str, Scores], figure) -> None:
    """Draw two levels beside the two mistakes."""
    (axis,) = style.panels(figure, 1)
    mistakes = {mistake: result[mistake] for mistake in ("two goals", "no gradient")}
    _draw_returns(axis, {"two levels": result["learners"], **mistakes})
    axis.set_title("The chain, learned with a mistake")
    _legend_below(figure, axis, 3)


def _draw_returns(axis, scores: dict[str, Scores]) -> None:
    """Draw exact returns over training, each arm from its scores, against the optimum."""
    for arm, one in scores.items():
        draw_line(axis, _thousands(one), one[arm], _on_one_line(arm))
    line_at(axis, OPTIMUM, f"optimum {OPTIMUM}", "black")
    axis.set(xlim=(0, 1.03 * _thousands(one)[-1]), ylim=(-0.005, 0.245), xlabel="thousand steps", ylabel=one.measure)


def _thousands(scores: Scores) -> list[float]:
    return [step / 1000 for step in scores.steps]


def _on_one_line(arm: str) -> Look:
    """Return an arm's look for a legend."""
    return replace(LOOKS[arm], label=LOOKS[arm].label.replace("\n", " "))


def _legend_below(figure, axis, columns: int) -> None:
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncol=columns, fontsize=12)


# Sessions.


def draw_sessions(late: Comparison, immediate: Comparison, figure) -> None:
    """Draw the curves where the reward is late, and the arms in the end, late and immediate."""
    curves, first, second = style.panels(figure, 3, (1.3, 1.4, 0.8))
    for arm, values in late.curves.items():  # means alone: intervals would cover each other, and stand beside them
        look = _on_one_line(arm)
        curves.plot(late.steps / 1000, values.mean(0), color=style.PALETTE[look.colour], marker=look.marker,
                    ls=look.line, label=look.label)  # fmt: skip
    best = float(late.best.mean())
    line_at(curves, best, "best, tastes known", "black")
    curves.set(xlim=(0, 1.05 * float(late.steps[-1]) / 1000), ylim=(-0.05, best * 1.12), xlabel="thousand steps")
    curves.set(ylabel="discounted reward of a session", title=f"{LATE} clicks a reward, means")
    curves.legend(loc="upper left", bbox_to_anchor=(0.0, 0.9), fontsize=11)
    _in_the_end(first, late, f"{LATE} clicks")
    _in_the_end(second, immediate, "each click")


def _in_the_end(axis, result: Comparison, title: str) -> None:
    """Draw what the arms of a comparison earn in the end, seed by seed."""
    each, looks = list(result.returns.values()), [LOOKS[arm] for arm in result.returns]
    values = pad_sequence(each, padding_value=torch.nan)  # (S, arms); controls have fewer seeds
    style.points_with_interval(axis, [k.label for k in looks], values, [k.colour for k in looks], gaps=True)
    axis.set(ylim=(0, max(1.3, float(max(v.max() for v in each)) * 1.1)), title=title)
    axis.set_xlabel(f"after {int(result.steps[-1]):,} steps")


def draw_films(films: Comparison, figure) -> None:
    """Draw the arms with tastes of MovieLens."""
    (axis,) = style.panels(figure, 1)
    _in_the_end(axis, films, f"MovieLens tastes, {LATE} clicks a reward")
    axis.set_ylabel("discounted reward of a session")


# One session.


def draw_timeline(line: Timeline, figure, controls: dict) -> None:
    """Draw the user and the first wish; beside them goals, below these actions and the clicks towards a reward."""
    grid = getattr(figure, "_recmtl_timeline", None)
    if grid is None:
        figure.clear()
        grid = figure.subplot_mosaic([["user", "time"], ["wish", "progress"]], width_ratios=[1, 3.6],
                                     height_ratios=[1, 1.05])  # fmt: skip
        figure._recmtl_timeline = grid
    for axis in grid.values():
        axis.clear()
    places = range(len(line.categories))
    shades = [_shade(c) for c in places]
    grid["user"].bar(places, line.tastes.tolist(), color=shades)
    grid["user"].axhline(0, color=GREY, lw=1)
    grid["user"].set(title="Hidden: tastes", ylim=(-9, 9), ylabel="logit of a click")
    grid["wish"].bar(places, line.wished.tolist(), color=shades)
    grid["wish"].set(title="Its first goal", ylim=(0, 1), ylabel="probability")
    for name in ("user", "wish"):
        grid[name].set_xticks(places, line.categories)
    _draw_lanes(grid["time"], line)
    _draw_progress(grid["progress"], line)


def _draw_lanes(axis, line: Timeline) -> None:
    starts = [t for t in range(len(line)) if line.began[t]]
    for start, end in pairwise([*starts, len(line)]):
        goal, width = int(line.goal[start]), end - start
        mine = bool(line.yours[start])
        edge = {"edgecolor": "black", "linewidth": 3.4} if mine else _EDGE
        axis.barh(2.2, width, 0.9, start, align="edge", color=_shade(goal), **edge)
        label = line.categories[goal] if width > 4 else line.categories[goal][0]
        axis.text(start + width / 2, 2.65, label + (" (you)" if mine and width > 6 else ""), ha="center", va="center",
                  fontsize=13, color="white", weight="bold")  # fmt: skip
    for t in range(len(line)):
        names = line.labels[int(line.action[t])].split(", ")
        for k, name in enumerate(names):
            shade, height = _shade(line.categories.index(name)), 0.24 if k else 0.42
            axis.barh(1.15 - 0.42 * k, 1, height, t, align="edge", color=shade, **_EDGE)
        mark, colour = ("o", "green") if line.clicked[t] else ("x", "vermillion")
        axis.plot(t + 0.5, 0.3, mark, color=style.PALETTE[colour], ms=6.5, mew=2.2)
    if line.left:
        axis.text(len(line) + 0.2, 0.3, "leaves", va="center", fontsize=13, color=style.PALETTE["vermillion"])
    axis.set(xlim=(0, STEPS + 2.4), ylim=(-0.1, 3.4), xticks=[], title="Goals above, actions below: ● click, × ignored")
    axis.set_yticks([2.65, 1.36, 0.85, 0.3], ["goal", "shown first", "second", "user"])
    axis.grid(False)


def _shade(category: int) -> str:
    return style.PALETTE[_CATEGORIES[category].colour]


def _draw_progress(axis, line: Timeline) -> None:
    steps = torch.arange(len(line) + 1)
    for c, name in enumerate(line.categories):
        axis.step(steps, line.progress[:, c] + 0.08 * (c - 1), where="post", color=_shade(c), lw=2.4,
                  marker=_CATEGORIES[c].marker, ms=5, label=name)  # fmt: skip
    for t in line.reward.nonzero().flatten().tolist():
        axis.plot(t + 1, LATE, "*", color="black", ms=20)
        axis.text(t + 1, LATE + 0.55, f"+{int(line.reward[t])}", ha="center", va="bottom", fontsize=13)
    axis.axhline(LATE, color=GREY, lw=1.2, ls=":")
    axis.set(xlim=(0, STEPS + 2.4), ylim=(-0.5, LATE + 3.6), xlabel="step", ylabel="clicks so far")
    axis.set(title=f"{LATE} clicks in one category bring a reward ★", yticks=range(0, LATE + 1, 2))
    axis.legend(loc="upper left", fontsize=11, ncol=3, **_ON_TOP)


def describe_timeline(line: Timeline, controls: dict) -> str:
    """Put the picture of a session into words."""
    tastes = ", ".join(f"{n} {t:+.1f}" for n, t in zip(line.categories, line.tastes, strict=True))
    starts = [t for t in range(len(line)) if line.began[t]]
    goals = ", ".join(
        line.categories[int(line.goal[t])] + (" (you)" if line.yours[t] else "") + f" from step {t + 1}" for t in starts
    )
    end = "the user left" if line.left else "the user was still there"
    return (
        f"Hidden tastes: {tastes}. Goals: {goals}. {int(line.clicked.sum())} clicks in {len(line)} steps brought a "
        f"reward of {int(line.reward.sum())}; at the end {end}."
    )


# A training.


def draw_live(live: Scores, figure, controls: dict) -> None:
    """Draw both curves against the best possible, and where they stand."""
    curves, final = style.panels(figure, 2, (1.7, 1.0))
    for arm in ("two levels", "flat"):
        draw_line(curves, _thousands(live), live[arm], _on_one_line(arm))
    live.at_end().only("two levels", "flat").draw(final, LOOKS)
    top = float(live["best, tastes known"].mean())
    for axis, words in ((curves, "best, tastes known"), (final, "")):
        line_at(axis, top, words, "black")
        axis.set_ylim(-0.15 * top, 1.15 * top)
    curves.set(xlabel="thousand steps", ylabel=live.measure, xlim=(0, 1.03 * LIVE.environment_steps / 1000))
    curves.set_title(f"{_clicks(controls)} a reward, goals of up to {_steps(controls)}")
    final.set(ylabel="", title="Now")
    curves.legend(loc="best", **_ON_TOP)


def _clicks(controls: dict) -> str:
    return f"{controls['clicks_needed']} click{'s' if controls['clicks_needed'] > 1 else ''}"


def _steps(controls: dict) -> str:
    return f"{controls['goal_steps']} step{'s' if controls['goal_steps'] > 1 else ''}"


def describe_live(live: Scores, controls: dict) -> str:
    """Put the picture of a training into words."""
    levels, flat, best = (float(live.at_end()[arm].mean()) for arm in ("two levels", "flat", "best, tastes known"))
    return (
        f"Goals of up to {_steps(controls)}, {_clicks(controls)} a reward: after {live.steps[-1]:,} steps two levels "
        f"earn {levels:.2f} a session, the flat policy {flat:.2f}; {best:.2f} is possible for whoever knows the tastes."
    )
