"""What the lesson draws: plain functions of a result and a figure."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from recmtl_lessons.envs.chain import LENGTH, OPTIMUM
from recmtl_lessons.lessons.hierarchical.arms import TWO_LEVELS
from recmtl_lessons.lessons.hierarchical.chain import (
    BOOTSTRAPS,
    FLAT_Q,
    FLAT_Q_HISTORY,
    FLAT_Q_STOPS,
    NO_GRADIENT,
    SEES_HISTORY,
    TWO_GOALS,
    WAITS,
    ChainComparison,
)
from recmtl_lessons.lessons.hierarchical.live import LIVE, Live
from recmtl_lessons.lessons.hierarchical.sessions import (
    FLAT,
    FOR_PROGRESS,
    LATE,
    RANDOM_GOALS,
    Comparison,
)
from recmtl_lessons.lessons.hierarchical.watching import STEPS, Timeline
from recmtl_lessons.teaching import style

_GREY = "#555555"
_CATEGORY = ("blue", "orange", "green")
_CATEGORY_MARK = ("o", "s", "^")
_ON_TOP = {"frameon": True, "framealpha": 0.85, "edgecolor": "none"}  # a legend over what is drawn


# The idea.


def draw_levels(figure) -> None:
    """Draw who decides what: goals above, actions below, and which reward goes where."""
    (axis,) = style.panels(figure, 1)
    blue, green, red = (style.PALETTE[name] for name in ("blue", "green", "vermillion"))
    style.box(axis, 0.0, 3.9, 5.2, "meta-controller\nchooses a goal", blue, 1.4)
    style.box(axis, 0.0, 0.6, 5.2, "the goal's controller\nchooses actions", green, 1.4)
    style.box(axis, 15.4, 0.6, 4.4, "the user, or\nthe chain", red, 1.4)
    style.arrow(axis, (2.6, 3.7), (2.6, 2.2), _GREY)
    axis.text(2.9, 2.95, "a goal, kept for several steps", va="center", fontsize=14, color=_GREY)
    for height, words in ((1.7, "an action, every step"), (0.9, "")):
        start, end = ((5.4, height), (15.2, height)) if words else ((15.2, height), (5.4, height))
        style.arrow(axis, start, end, _GREY)
        axis.text(10.3, height + 0.28, words, ha="center", fontsize=14, color=_GREY)
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
    for k in places[1:-1]:
        axis.annotate("", (k + 0.75, 0.2), (k + 0.25, 0.2), arrowprops={"arrowstyle": "-|>", "color": _GREY, "lw": 2})
        axis.annotate("", (k - 0.75, -0.2), (k - 0.25, -0.2), arrowprops={"arrowstyle": "-|>", "color": _GREY, "lw": 2})
    last = LENGTH - 1
    axis.annotate("", (last - 0.75, -0.2), (last - 0.25, -0.2),
                  arrowprops={"arrowstyle": "-|>", "color": _GREY, "lw": 2})  # fmt: skip
    axis.text(2.5, 0.62, "right: works half of the time, else it leads left", ha="center", fontsize=14, color=_GREY)
    axis.text(2.5, -0.72, "left: always works", ha="center", fontsize=14, color=_GREY)
    axis.text(0, -1.25, "the end: 1 if s6 was visited, 0.01 if not", ha="left", fontsize=14,
              color=style.PALETTE["vermillion"])  # fmt: skip
    axis.text(1, 0.98, "start", ha="center", fontsize=14, color=style.PALETTE["blue"])
    axis.annotate("", (1, 0.42), (1, 0.9), arrowprops={"arrowstyle": "-|>", "color": style.PALETTE["blue"], "lw": 2})
    axis.set(xlim=(-0.5, LENGTH - 0.5), ylim=(-1.45, 1.3))
    axis.axis("off")


# The chain.

_ON_CHAIN = {
    TWO_LEVELS: ("two\nlevels", "green"),
    FLAT_Q: ("flat Q", "vermillion"),
    FLAT_Q_STOPS: ("flat Q,\nstops", "sky"),
    FLAT_Q_HISTORY: ("flat Q,\nhistory", "blue"),
    BOOTSTRAPS: ("policy,\nλ = 0.5", "orange"),
    WAITS: ("policy,\nλ = 1", "black"),
    SEES_HISTORY: ("policy,\nhistory", "purple"),
}


def draw_chain(result: ChainComparison, figure) -> None:
    """Draw two levels and flat Q-learning on the way, and what all learners earn in the second half of it."""
    curves, late = style.panels(figure, 2, (1.0, 1.25))
    for learner, look in ((TWO_LEVELS, ("o", "-")), (FLAT_Q, ("s", "--"))):
        style.band(curves, result.steps / 1000, result.returns[learner], learner, _ON_CHAIN[learner][1], *look)
    _optimum(curves)
    curves.set(xlabel="thousand steps", ylabel="exact return", title="Seeing the place alone", ylim=(-0.005, 0.245))
    curves.set(xlim=(0, 1.03 * float(result.steps[-1]) / 1000))
    names, colours = zip(*_ON_CHAIN.values(), strict=True)
    values = torch.stack([result.late(learner) for learner in _ON_CHAIN], dim=1)
    style.points_with_interval(late, names, values, colours, joined=False)
    _optimum(late)
    late.set(ylim=(-0.005, 0.245), title="All seven: mean of the second half")
    late.tick_params(axis="x", labelsize=12)
    _legend_below(figure, curves, 2)


def draw_mistakes(result: ChainComparison, figure) -> None:
    """Draw two levels beside the two mistakes."""
    (axis,) = style.panels(figure, 1)
    looks = {
        TWO_LEVELS: ("green", "o", "-"),
        TWO_GOALS: ("purple", "s", "--"),
        NO_GRADIENT: ("vermillion", "^", ":"),
    }
    for learner, look in looks.items():
        style.band(axis, result.steps / 1000, result.returns[learner], learner, *look)
    _optimum(axis)
    axis.set(xlim=(0, 1.03 * float(result.steps[-1]) / 1000), ylim=(-0.005, 0.245), xlabel="thousand steps")
    axis.set(ylabel="exact return", title="The chain, learned with a mistake")
    _legend_below(figure, axis, 3)


def _mean(axis, x: Tensor, values: Tensor, label: str, colour: str, marker: str, line: str | tuple) -> None:
    """Draw the mean over the seeds alone, where intervals would cover each other and stand beside it."""
    axis.plot(x, values.mean(0), color=style.PALETTE[colour], marker=marker, linestyle=line, label=label)


def _legend_below(figure, axis, columns: int) -> None:
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncol=columns, fontsize=12)


def _optimum(axis) -> None:
    axis.axhline(OPTIMUM, color="black", lw=1.6, ls="--")
    axis.text(
        0.01, OPTIMUM + 0.004, f"optimum {OPTIMUM}", transform=axis.get_yaxis_transform(), va="bottom", fontsize=12
    )


# Sessions.


_ARMS = {
    TWO_LEVELS: ("two\nlevels", "green", "o", "-"), FLAT: ("flat", "orange", "s", "--"),
    RANDOM_GOALS: ("goals by\nchance", "purple", "^", "-."), FOR_PROGRESS: ("flat, for\nprogress", "blue", "D", ":"),
}  # fmt: skip


def draw_sessions(late: Comparison, immediate: Comparison, figure) -> None:
    """Draw the curves where the reward is late, and the arms in the end, late and immediate."""
    curves, first, second = style.panels(figure, 3, (1.3, 1.4, 0.8))
    for arm, (_, *look) in _ARMS.items():
        _mean(curves, late.steps / 1000, late.curves[arm], arm, *look)
    best = float(late.best.mean())
    curves.axhline(best, color="black", lw=1.6, ls="--")
    curves.text(0.99, best + 0.02, "best, tastes known", transform=curves.get_yaxis_transform(), ha="right",
                va="bottom", fontsize=12)  # fmt: skip
    curves.set(xlim=(0, 1.05 * float(late.steps[-1]) / 1000), ylim=(-0.05, best * 1.12), xlabel="thousand steps")
    curves.set(ylabel="discounted reward of a session", title=f"{LATE} clicks a reward, means")
    curves.legend(loc="upper left", bbox_to_anchor=(0.0, 0.9), fontsize=11)
    _in_the_end(first, late, f"{LATE} clicks")
    _in_the_end(second, immediate, "each click")


def _in_the_end(axis, result: Comparison, title: str) -> None:
    """Draw what the arms of a comparison earn in the end, seed by seed."""
    arms = [arm for arm in _ARMS if arm in result.returns]
    each = [result.returns[arm] for arm in arms]
    values = pad_sequence(each, padding_value=torch.nan)  # (S, arms); controls have fewer seeds
    names, colours, *_ = zip(*(_ARMS[arm] for arm in arms), strict=True)
    style.points_with_interval(axis, names, values, colours, gaps=True)
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
    shades = [style.PALETTE[name] for name in _CATEGORY]
    places = range(len(line.categories))
    grid["user"].bar(places, line.tastes.tolist(), color=shades)
    grid["user"].axhline(0, color=_GREY, lw=1)
    grid["user"].set(title="Hidden: tastes", ylim=(-9, 9), ylabel="logit of a click")
    grid["wish"].bar(places, line.wished.tolist(), color=shades)
    grid["wish"].set(title="Its first goal", ylim=(0, 1), ylabel="probability")
    for name in ("user", "wish"):
        grid[name].set_xticks(places, line.categories)
    _draw_lanes(grid["time"], line)
    _draw_progress(grid["progress"], line)


def _draw_lanes(axis, line: Timeline) -> None:
    starts = [t for t in range(len(line)) if line.began[t]]
    for start, end in zip(starts, [*starts[1:], len(line)], strict=True):
        goal, width = int(line.goal[start]), end - start
        shade, mine = style.PALETTE[_CATEGORY[goal]], bool(line.yours[start])
        axis.add_patch(_bar(start, 2.2, width, shade, mine))
        label = line.categories[goal] if width > 4 else line.categories[goal][0]
        axis.text(start + width / 2, 2.65, label + (" (you)" if mine and width > 6 else ""), ha="center", va="center",
                  fontsize=13, color="white", weight="bold")  # fmt: skip
    for t in range(len(line)):
        names = line.labels[int(line.action[t])].split(", ")
        for k, name in enumerate(names):
            shade = style.PALETTE[_CATEGORY[line.categories.index(name)]]
            axis.add_patch(_bar(t, 1.15 - 0.42 * k, 1, shade, False, 0.42 if k == 0 else 0.24))
        mark, colour = ("o", "green") if line.clicked[t] else ("x", "vermillion")
        axis.plot(t + 0.5, 0.3, mark, color=style.PALETTE[colour], ms=6.5, mew=2.2)
    if line.left:
        axis.text(len(line) + 0.2, 0.3, "leaves", va="center", fontsize=13, color=style.PALETTE["vermillion"])
    axis.set(xlim=(0, STEPS + 2.4), ylim=(-0.1, 3.4), xticks=[], title="Goals above, actions below: ● click, × ignored")
    axis.set_yticks([2.65, 1.36, 0.85, 0.3], ["goal", "shown first", "second", "user"])
    axis.grid(False)


def _bar(left: float, bottom: float, width: float, colour: str, mine: bool, height: float = 0.9):
    from matplotlib.patches import Rectangle

    edge = {"edgecolor": "black", "linewidth": 3.4} if mine else {"edgecolor": "white", "linewidth": 1.6}
    return Rectangle((left, bottom), width, height, facecolor=colour, **edge)


def _draw_progress(axis, line: Timeline) -> None:
    steps = torch.arange(len(line) + 1)
    for c, name in enumerate(line.categories):
        axis.step(steps, line.progress[:, c] + 0.08 * (c - 1), where="post", color=style.PALETTE[_CATEGORY[c]],
                  lw=2.4, marker=_CATEGORY_MARK[c], ms=5, label=name)  # fmt: skip
    for t in line.reward.nonzero().flatten().tolist():
        axis.plot(t + 1, LATE, "*", color="black", ms=20)
        axis.text(t + 1, LATE + 0.55, f"+{int(line.reward[t])}", ha="center", va="bottom", fontsize=13)
    axis.axhline(LATE, color=_GREY, lw=1.2, ls=":")
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


def draw_live(live: Live, figure, controls: dict) -> None:
    """Draw both curves against the best possible, and where they stand."""
    curves, final = style.panels(figure, 2, (1.7, 1.0))
    top = float(live.best.mean())
    for name, values, look in (
        ("two levels", live.two_levels, ("green", "o", "-")), ("flat", live.flat, ("orange", "s", "--")),
    ):  # fmt: skip
        style.band(curves, live.steps / 1000, values, name, *look)
    style.points_with_interval(
        final,
        ["two levels", "flat"],
        torch.stack([live.two_levels[:, -1], live.flat[:, -1]], dim=1),
        ("green", "orange"),
    )
    for axis in (curves, final):
        axis.axhline(top, color="black", lw=1.6, ls="--")
        axis.set_ylim(-0.15 * top, 1.15 * top)
    curves.text(0.01, top, "best, tastes known", transform=curves.get_yaxis_transform(), va="bottom", fontsize=12)
    curves.set(xlabel="thousand steps", ylabel="discounted reward", xlim=(0, 1.03 * LIVE.environment_steps / 1000))
    clicks, steps = _count(controls["clicks_needed"], "click"), _count(controls["goal_steps"], "step")
    curves.set_title(f"{clicks} a reward, goals of up to {steps}")
    final.set_title("Now")
    curves.legend(loc="best", **_ON_TOP)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' if number > 1 else ''}"


def describe_live(live: Live, controls: dict) -> str:
    """Put the picture of a training into words."""
    levels, flat = (float(values[:, -1].mean()) for values in (live.two_levels, live.flat))
    steps, clicks = _count(controls["goal_steps"], "step"), _count(controls["clicks_needed"], "click")
    return (
        f"Goals of up to {steps}, {clicks} a reward: "
        f"after {int(live.steps[-1]):,} steps two levels earn {levels:.2f} a session, the flat policy {flat:.2f}; "
        f"{float(live.best.mean()):.2f} is possible for whoever knows the tastes."
    )
