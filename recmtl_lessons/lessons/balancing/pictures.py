"""The lesson's looks, and those drawings that no shared one makes."""

import math

import numpy as np
import torch
from torch import Tensor

from recmtl_lessons.lessons.balancing.experiments import (
    GRID,
    Arrows,
    LiveBalance,
    band,
    draw_by_hand,
    narrow,
    narrow_arms,
)
from recmtl_lessons.lessons.balancing.landscape import LOWEST, Descent, losses_at
from recmtl_lessons.teaching import style
from recmtl_lessons.teaching.claim import t_interval
from recmtl_lessons.teaching.looks import GREY, Look, draw_line, line_at
from recmtl_lessons.training import Scores

LOOKS = {
    "equal": Look("plain sum", "blue", "o", "-"),
    "sum": Look("plain sum", "blue", "o", "-"),
    "tuned": Look("tuned weights", "black", "s", "-"),
    "uncertainty": Look("uncertainty", "vermillion", "^", "--"),
    "logs": Look("sum of logs", "blue", "D", "-."),
    "GradNorm": Look("GradNorm", "orange", "v", ":"),
    "DWA": Look("DWA", "sky", "P", "--"),
    "PCGrad": Look("PCGrad", "purple", "X", "-."),
    "MGDA": Look("MGDA", "orange", "v", ":"),
    "MGDA, unit": Look("MGDA, unit", "sky", "s", "--"),
    "CAGrad": Look("CAGrad", "green", "o", "-."),
    "Aligned-MTL": Look("Aligned-MTL", "blue", "*", "-"),
    "spread": Look("plain sum, ratings\nover their spread", "vermillion", "*", "-"),
    "in turn": Look("in turn", "sky", "P", "--"),
    "CAGrad, 0.5": Look("CAGrad, c = 0.5", "green", "h", ":"),
    "stopped": Look("static,\nstopped in time", "orange", "v", "-."),
    "lagging": Look("the one that lags", "vermillion", "*", "--"),
    "yours": Look("yours", "black", "*", "-"),
    "click": Look("click", "blue", "o", "-"),
    "rating": Look("rating", "vermillion", "s", "--"),
    "click alone": Look("click alone", "blue", "o", "-"),
    "static": Look("best static weights", "black", "s", "-"),
    "annealed": Look("rating first,\nthen click", "vermillion", "^", "--"),
    "reversed": Look("click first,\nthen rating", "sky", "P", "--"),
    "mean": Look("mean", "black", "s", "-"),
    "PCGrad / 2 = UPGrad": Look("PCGrad / 2 = UPGrad", "purple", "X", "-."),
}


def draw_idea(figure) -> None:
    """Draw two gradients in conflict, and the directions of the ways."""
    draw_arrows(draw_by_hand(125.0, 3.0), figure, {})


def draw_arrows(result: Arrows, figure, controls: dict) -> None:
    """Left: gradients and directions, and where neither task loses. Right: what a short step does to each task."""
    left, right = style.panels(figure, 2, (1.0, 1.15))
    first, second = result.gradients
    reach = 1.2 * max(float(first.norm()), float(second.norm()))
    _shade_where_none_loses(left, result.gradients, reach)
    for task, gradient in zip(("click", "rating"), result.gradients, strict=True):
        colour = style.PALETTE[LOOKS[task].colour]
        style.arrow(left, (0, 0), tuple(gradient.tolist()), colour, width=5)
        x, y = gradient.tolist()
        left.text(x, y + (-0.09 if task == "click" else 0.05) * reach, task, fontsize=14, color=colour, ha="center")
    for way, direction in result.directions.items():
        look = LOOKS[way]
        left.plot(*zip((0, 0), direction.tolist(), strict=True), ls=look.line, color=style.PALETTE[look.colour], lw=2)
        left.plot(*direction.tolist(), marker=look.marker, ms=12, color=style.PALETTE[look.colour])
    sides = torch.stack([torch.zeros(2, dtype=first.dtype), first, second]) / reach
    left.set(xlim=(reach * (float(sides[:, 0].min()) - 0.2), reach * (float(sides[:, 0].max()) + 0.2)))
    left.set(ylim=(-0.2 * reach, reach), aspect="equal", adjustable="box", title="Where each one goes")
    left.set(xlabel="a weight", ylabel="another weight")
    places = np.arange(len(result.directions))
    for offset, task, gradient in ((-0.18, "click", first), (0.18, "rating", second)):
        gains = [
            float(gradient @ d / (gradient.norm() * d.norm().clamp(min=1e-12))) for d in result.directions.values()
        ]
        look = LOOKS[task]
        right.barh(
            places + offset,
            gains,
            0.34,
            color=style.PALETTE[look.colour],
            label=task,
            hatch="" if task == "click" else "//",
        )
    right.axvline(0.0, color=GREY, lw=1.2)
    for place, way in enumerate(result.directions):
        look = LOOKS[way]
        right.plot(-0.98, place, marker=look.marker, ms=12, color=style.PALETTE[look.colour])
    right.set_yticks(places, [LOOKS[way].label for way in result.directions])
    right.set(xlim=(-1.05, 1.05), xlabel="how directly a short step serves the task", title="Who gains, who loses")
    right.invert_yaxis()
    right.legend(loc="upper left", bbox_to_anchor=(0.06, 0.9))


def _shade_where_none_loses(axis, gradients: Tensor, reach: float) -> None:
    """Shade the directions that both losses fall along."""
    turns = torch.linspace(0, 2 * math.pi, 721, dtype=torch.float64)
    around = torch.stack([turns.cos(), turns.sin()], dim=1)  # (721, 2)
    fine = (around @ gradients.T >= -1e-9).all(1)
    edge = torch.where(fine.unsqueeze(1), 2 * reach * around, torch.zeros(2, dtype=torch.float64))
    axis.fill(*edge.T.numpy(), color=style.PALETTE["green"], alpha=0.13, lw=0)


def describe_arrows(result: Arrows, controls: dict) -> str:
    """The arrows in words."""
    first, second = result.gradients
    losers = []
    for way, d in result.directions.items():
        lost = [task for task, g in (("click", first), ("rating", second)) if float(g @ d) < -1e-9]
        if lost:
            losers.append(f"{way.split(' /')[0]} makes the {' and the '.join(lost)} worse")
    said = "; ".join(losers) or "no way makes a task worse"
    mgda = torch.linalg.vector_norm(result.directions["MGDA"])
    return (
        f"Angle {controls['angle']:g} degrees, the rating's gradient {controls['length']:g} times the click's. "
        f"A short step: {said}. MGDA's direction has length {mgda:.2f}, the mean's "
        f"{torch.linalg.vector_norm(result.directions['mean']):.2f}."
    )


def draw_own(own: dict[str, Scores] | None, figure, course: dict[str, Scores] | None = None) -> None:
    """Draw the learner's training upon the course's bands: the click's loss, and the rating's error."""
    course = course or band()
    for axis, name, title in zip(
        style.panels(figure, 2),
        ("click", "rating"),
        ("Clicks: lower is better", "Ratings: lower is better"),
        strict=True,
    ):
        course[name].draw(axis, LOOKS)
        if own is not None:
            look, mine = LOOKS["yours"], own[name]
            if len(mine["yours"]) > 1:
                draw_line(axis, mine.steps, mine["yours"], look)
            else:
                axis.plot(mine.steps, mine["yours"][0], color="black", marker=look.marker, ls=look.line, label="yours")
        axis.set_title(title)
    axis.legend(loc="upper right")


def describe_own(own: dict[str, Scores]) -> str:
    """The learner's training in words."""
    course, count = band(), len(own["click"]["yours"])
    ends = {
        name: {arm: float(course[name].at_end()[arm].mean()) for arm in course[name]} for name in ("click", "rating")
    }
    return (
        f"Yours, {count} network{'s' if count > 1 else ''}: loss of clicks {own['click']['yours'][:, -1].mean():.3f}, "
        f"error of ratings {own['rating']['yours'][:, -1].mean():.2f} stars. The course's eight come to "
        f"{ends['click']['sum']:.3f} and {ends['rating']['sum']:.2f} with the plain sum, "
        f"{ends['click']['uncertainty']:.3f} and "
        f"{ends['rating']['uncertainty']:.2f} with uncertainty weighting."
    )


def draw_ways(gains: Scores, figure, arms: tuple[str, ...]) -> None:
    """Draw the gain of each way, one below the other, with the plain sum of ratings over their spread among them."""
    (axis,) = style.panels(figure, 1)
    for place, arm in enumerate(arms):
        mean, low, high = (float(x) for x in t_interval(gains[arm]))
        look = LOOKS[arm]
        axis.plot(gains[arm], np.full(len(gains[arm]), place), "o", ms=4, alpha=0.25, color=style.PALETTE[look.colour])
        axis.errorbar(
            mean, place, xerr=[[mean - low], [high - mean]], fmt=look.marker, ms=11, capsize=6, lw=3,
            color=style.PALETTE[look.colour],
        )  # fmt: skip
    if "tuned" in gains.arms:
        axis.axvline(float(gains["tuned"].mean()), color=GREY, ls=":", lw=1.4)
    axis.axvline(0.0, color=GREY, lw=1.2)
    axis.set_yticks(range(len(arms)), [LOOKS[arm].label for arm in arms])
    axis.invert_yaxis()
    axis.set(xlabel=gains.measure)


def draw_narrow(figure, own: Tensor | None = None, worlds: tuple[tuple, ...] = ((1, 0.0), (2, 0.0))) -> None:
    """Draw what was learned of each task: a point for each static weight and seed, and the mean of each way."""
    for axis, (width, relatedness) in zip(style.panels(figure, len(worlds)), worlds, strict=True):
        found = narrow(width, relatedness)
        front = torch.stack(
            [torch.cat([found[task][s] for s in GRID if s in found[task].arms]) for task in ("click", "rating")]
        )
        axis.plot(*front, "o", ms=8, color=GREY, alpha=0.25, label="static weights, each seed")
        for arm in (arm for arm in narrow_arms() if arm in found["click"].arms):
            look = LOOKS[arm]
            point = [[float(found[task][arm].mean())] for task in ("click", "rating")]
            axis.plot(*point, marker=look.marker, ms=15, ls="", color=style.PALETTE[look.colour], label=look.label)
        if own is not None:
            axis.plot(*own.mean(0).tolist(), "*", ms=26, color="black", label="yours")
        axis.plot((0, 1), (0, 1), color=GREY, ls=":", lw=1)
        axis.set(xlim=(-0.08, 1.08), ylim=(-0.08, 1.08), xlabel="learned of clicks", ylabel="learned of ratings")
        axis.set_title(f"{width} shared number{'s' if width > 1 else ''}, relatedness {relatedness:g}")
    first = figure.axes[0]
    if len(worlds) > 1:
        axis.legend(*first.get_legend_handles_labels(), loc="lower left", fontsize=12, framealpha=1, frameon=True)
    else:
        axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))


def describe_narrow(own: Tensor) -> str:
    """A learner's schedule in words."""
    found = narrow(1, 0.0)
    best = max(float(found["worst"][share].mean()) for share in GRID)
    shares = ", ".join(f"{share:.2f}" for share in own.mean(0).tolist())
    return (
        f"Yours, {len(own)} networks: learned of clicks and of ratings {shares}, as a share of a network for each; the "
        f"smaller of the two {own.amin(1).mean():.2f}. One static weight for all seeds {best:.2f}, the one that lags "
        f"{found['worst']['lagging'].mean():.2f}."
    )


def draw_helpers(scores: Scores, figure) -> None:
    """Draw the loss of clicks with the rating as a task that helps, over the best static weights."""
    (axis,) = style.panels(figure, 1)
    arms = [arm for arm in scores if arm != "static"]
    leads = {arm: scores.lead(arm, "static") for arm in arms}
    Scores.of("loss of clicks, less static weights'", leads).draw(axis, LOOKS, joined=False)
    axis.axhline(0.0, color=GREY, lw=1.2)


def draw_live(result: LiveBalance, figure, controls: dict) -> None:
    """Left: the click's share of the weights. Right: both tasks, on the way and at the end, beside static weights."""
    left, right = style.panels(figure, 2, (1.0, 1.2))
    own = result.over_training
    (way,) = own["share"].arms
    draw_line(left, own["share"].steps, own["share"][way], Look(way, "vermillion", None, "-"))
    left.set(ylim=(-0.03, 1.03), xlabel="training step", ylabel="click's share of the weights", title="Weights, live")
    line_at(left, 0.5, "equal")
    right.plot(*result.front.T, "-s", color="black", alpha=0.6, label="static weights")
    way_there = torch.stack([own["click"][way].mean(0), own["rating"][way].mean(0)])
    right.plot(*way_there, "-", color=style.PALETTE["vermillion"], label="on the way")
    right.plot(*way_there[:, -1:], "*", ms=22, color=style.PALETTE["vermillion"], label="now")
    right.axvline(float(result.alone[0]), color=GREY, ls=":", lw=1.2)
    right.axhline(float(result.alone[1]), color=GREY, ls=":", lw=1.2)
    right.set(xlim=(0.44, 0.76), ylim=(0.58, 1.12), xlabel="loss of clicks", ylabel="error of ratings, stars")
    right.set_title("Both tasks (dotted: one network each, same rate)")
    right.legend(loc="upper left")


def describe_live(result: LiveBalance, controls: dict) -> str:
    """The live picture in words."""
    own = result.over_training
    (way,) = own["share"].arms
    click, rating, share = (float(own[name].at_end()[way].mean()) for name in ("click", "rating", "share"))
    best = result.front[((result.front - result.alone) / result.alone).mean(1).argmin()]
    return (
        f"{way}, ratings in {controls['unit']}, relatedness {controls['relatedness']:g}, {controls['width']} shared "
        f"units, step {own['click'].steps[-1]}: loss of clicks {click:.3f}, error of ratings {rating:.2f} stars, "
        f"{share:.0%} of the weight on clicks. Best static weight {best[0]:.3f} and {best[1]:.2f}; one network each "
        f"{result.alone[0]:.3f} and {result.alone[1]:.2f}. 8 networks."
    )


def draw_descent(result: Descent, figure, controls: dict) -> None:
    """Left: the ways down over the mean of the two losses. Right: that mean, step by step."""
    left, right = style.panels(figure, 2, (1.0, 1.1))
    a, b, heights = _heights()
    left.contourf(a, b, heights, levels=np.linspace(-16, 8, 17), cmap="cividis", extend="both")
    lines = ("-", "--", "-.")
    chosen = range(3) if controls["start"] == "all" else [int(controls["start"]) - 1]
    for number, way in zip(chosen, result.points, strict=True):
        path = np.array(way)
        left.plot(path[:, 0], path[:, 1], color="white", lw=3, ls=lines[number])
        left.plot(*path[0], "o", ms=11, mfc="white", mec="black")
        left.plot(*path[-1], "*", ms=20, mfc=style.PALETTE["vermillion"], mec="white")
        means = [sum(losses_at(*place)[0]) / 2 for place in way]
        right.plot(
            result.steps, means, ls=lines[number], color=style.PALETTE["blue"], lw=2.6, label=f"from start {number + 1}"
        )
    left.set(xlim=(-10, 10), ylim=(-10, 10), xlabel="a weight", ylabel="another weight", title="Two losses, their mean")
    line_at(right, LOWEST, "lowest")
    right.set(
        ylim=(-17, 10),
        xlabel="step",
        ylabel="mean of the two losses",
        title=f"{controls['way']}, rate {controls['rate']:g}",
    )
    right.legend(loc="upper right")


def _heights() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    axis = np.linspace(-10, 10, 81)
    return axis, axis, np.array([[sum(losses_at(a, b)[0]) / 2 for a in axis] for b in axis])


def describe_descent(result: Descent, controls: dict) -> str:
    """The ways down in words."""
    ends = [f"{end:.1f}" for end in result.ends]
    numbers = "1, 2 and 3" if len(ends) == 3 else controls["start"]
    return (
        f"{controls['way']}, rate {controls['rate']:g}, after {result.steps[-1]:,} steps: from start {numbers} "
        f"the mean of the two losses has come to {', '.join(ends)}; the lowest there is, is {LOWEST:g}."
    )
