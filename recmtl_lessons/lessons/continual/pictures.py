"""The lesson's looks, and those drawings that no shared one makes."""

import math

import torch
from torch import Tensor

from recmtl_lessons.lessons.continual.experiments import (
    DOMAINS,
    LOOK_STRENGTHS,
    STEPS,
    STRENGTH,
    LiveCourse,
    OneWeight,
    course_band,
    nothing_or_all,
    on_table,
    open_pairs,
    so_far,
)
from recmtl_lessons.teaching import style
from recmtl_lessons.teaching.claim import t_interval
from recmtl_lessons.teaching.looks import GREY, Look, draw_line, line_at
from recmtl_lessons.training import Scores

LOOKS = {
    "naive": Look("nothing", "blue", "o", "-"),
    "EWC": Look("EWC", "vermillion", "^", "--"),
    "distil": Look("distil", "green", "s", "-."),
    "rows": Look("few rows", "orange", "D", ":"),
    "joint": Look("all rows", "black", "v", "-"),
    "own": Look("own vectors", "purple", "P", "--"),
    "yours": Look("yours", "black", "*", "-"),
    "exact": Look("exact Fisher", "vermillion", "^", "--"),
    "batched": Look("square of a batch's gradient", "purple", "s", "-."),
    "shuffled": Look("exact, shuffled", "sky", "D", ":"),
    "slower": Look("slower", "purple", "X", "--"),
    "wide": Look("one for all, three times as wide", "sky", "D", ":"),
    "shared": Look("one vector for all", "blue", "o", "-"),
    "per_domain": Look("one for each domain", "purple", "s", "--"),
    "differ": Look("the banner turns", "vermillion", None, "-"),
    "same": Look("it stays as it is", "blue", None, "--"),
    0.0: Look("the course's, no penalty", "sky", None, "-."),
    STRENGTH: Look(f"the course's, λ = {STRENGTH:g}", "vermillion", None, "--"),
}
_ARRIVALS = ("blue", "vermillion", "green")


def draw_idea(figure) -> None:
    """Draw two losses as valleys over two weights, and three descents into the second: free, held alike, held by F."""
    (axis,) = style.panels(figure, 1)
    old, new = torch.tensor([0.0, 0.0]), torch.tensor([3.0, 2.2])
    steep, other = torch.tensor([0.15, 6.0]), torch.tensor([1.0, 1.0])
    x, y = torch.meshgrid(torch.linspace(-1.6, 4.4, 200), torch.linspace(-1.2, 3.4, 160), indexing="xy")
    for centre, curvature, colour in ((old, steep, "blue"), (new, other, "vermillion")):
        height = (curvature[0] * (x - centre[0]) ** 2 + curvature[1] * (y - centre[1]) ** 2) / 2
        axis.contour(x, y, height, levels=[0.15, 0.6, 1.35, 2.4], colors=style.PALETTE[colour], alpha=0.45)
    for fisher, name, colour, line in (  # held alike so that books loses as much as below
        (0 * steep, "free", "black", ":"),
        (torch.tensor([3.34, 3.34]), "held alike", "orange", "-."),
        (steep, "held by importance", "green", "-"),
    ):
        path = [old]
        for _ in range(400):
            here = path[-1]
            path.append(here - 0.05 * (other * (here - new) + fisher * (here - old)))
        way = torch.stack(path)
        axis.plot(way[:, 0], way[:, 1], ls=line, lw=3, color=style.PALETTE[colour], label=name)
        axis.plot(*way[-1], "o", ms=11, color=style.PALETTE[colour])
    axis.plot(*old, "*", ms=20, color=style.PALETTE["blue"])
    axis.text(-1.5, -1.0, "books: steep upwards, flat sideways", color=style.PALETTE["blue"], fontsize=13)
    axis.text(2.3, 3.05, "films", color=style.PALETTE["vermillion"], fontsize=13)
    axis.set(xlabel="a weight that books hardly needed", ylabel="a weight that books needed")
    axis.legend(loc="upper left")


def draw_own(own: Scores | None, figure, band: dict[str, Scores] | None = None) -> None:
    """Draw the learner's training upon the course's bands: the first domain, and the last, which pays for it."""
    band = band or course_band()
    panels = zip(style.panels(figure, 2), (0, -1), ("over training", "last over training"), strict=True)
    for axis, place, name in panels:
        band[name].only(0.0, STRENGTH).draw(axis, LOOKS)
        look, domain = LOOKS["yours"], DOMAINS[place]
        if own is not None and len(own[domain]) > 1:
            draw_line(axis, own.steps, own[domain], look)
        elif own is not None:
            axis.plot(own.steps, own[domain][0], color="black", marker=look.marker, ls=look.line, label=look.label)
        _arrivals(axis, DOMAINS, STEPS)
        axis.set(ylim=(0.4, 1.05), ylabel=f"AUC of {domain}", title=f"{domain.capitalize()}, while it learns")
    axis.legend(loc="lower right")


def describe_own(own: Scores) -> str:
    """The learner's training in words."""
    band, count = course_band(), len(own[DOMAINS[0]])
    ends = [band[name].at_end() for name in ("over training", "last over training")]
    mean, low, high = (float(x) for x in t_interval(ends[0][STRENGTH]))
    return (
        f"Yours, {count} network{'s' if count > 1 else ''}: AUC of books {own['books'][:, -1].mean():.2f}, of games "
        f"{own['games'][:, -1].mean():.2f} at step {own.steps[-1]}. The course's eight come to {mean:.2f} (95 % "
        f"interval {low:.2f} to {high:.2f}) and {ends[1][STRENGTH].mean():.2f} with λ = {STRENGTH:g}, and to "
        f"{ends[0][0.0].mean():.2f} and {ends[1][0.0].mean():.2f} without the penalty."
    )


def _arrivals(axis, domains, steps: int) -> None:
    """Mark where each domain begins."""
    for k, domain in enumerate(domains):
        if k:
            axis.axvline(k * steps, color=GREY, lw=1.2)
        place = {"transform": axis.get_xaxis_transform(), "ha": "center", "va": "top"}
        axis.text((k + 0.5) * steps, 0.98, f"learning {domain}", fontsize=11, color=GREY, **place)
    axis.set(xlim=(0, len(domains) * steps), xlabel="training step")


def draw_strengths(swept: dict[str, dict[str, Scores]], figure) -> None:
    """Over the strength. Left: what becomes of books and of games. Right: the mean, by each kind of importance."""
    left, right = style.panels(figure, 2)
    exact = swept["exact"]
    for place, colour, marker in ((0, "blue", "o"), (2, "green", "s")):
        exact[place].draw(
            left, Look(f"{DOMAINS[place]} ({'first' if place == 0 else 'last'})", colour, marker), place=place_of
        )
    left.set(ylabel="AUC after all three", title="Old against new")
    for kind, scores in swept.items():
        scores["average"].draw(right, LOOKS[kind], place=place_of)
    right.set(ylabel="mean AUC of the three", title="Each importance has a strength of its own")
    for axis in (left, right):
        strength_axis(axis)
    left.legend(loc="lower center")
    right.legend(loc="lower left")


def place_of(strength: float) -> float:
    """Return where a strength stands on the axis: logarithmic from 0.01 on, with 0 a step to its left."""
    return -3.2 if strength < 1e-3 else math.log10(strength)


def strength_axis(axis) -> None:
    """Give an axis the ticks of the strengths."""
    axis.set_xticks([place_of(s) for s in LOOK_STRENGTHS], [f"{s:g}" for s in LOOK_STRENGTHS])
    axis.set_xlabel("strength λ")


def draw_over_relatedness(result: dict[str, dict[str, Scores]], figure) -> None:
    """Over relatedness. Left: what learning on did to what was learned. Right: shared vectors and own ones."""
    left, right = style.panels(figure, 2)
    result["shared"]["backward"].draw(left, LOOKS["shared"])
    line_at(left, 0.0, "neither lost nor gained")
    left.set(ylabel="backward transfer (AUC)", title="Forgetting turns into help")
    for users, scores in result.items():
        scores["average"].draw(right, LOOKS[users])
    right.set(ylabel="mean AUC of the three", title="Share the users' vectors?")
    right.legend(loc="upper left")
    for axis in (left, right):
        axis.set_xlabel("how related tastes are")


def draw_methods(tables: dict[str, Scores], head: dict[str, Scores], figure) -> None:
    """The mean AUC of each method, over nothing done: left on a network with one head, right on tables."""
    for axis, scores, title in zip(
        style.panels(figure, 2), (head, tables), ("A network on features, one head", "Tables of users and items"),
        strict=True,
    ):  # fmt: skip
        arms = [arm for arm in scores["average"] if arm != "naive"]
        Scores.of("mean AUC over doing nothing", {arm: scores["average"].lead(arm, "naive") for arm in arms}).draw(
            axis, LOOKS, joined=False
        )
        axis.axhline(0.0, color=GREY, lw=1.2)
        axis.set_title(title)


def draw_gap(curves: Scores, figure) -> None:
    """AUC of books while films, and then games, join the rows that are trained on."""
    (axis,) = style.panels(figure, 1)
    curves.draw(axis, LOOKS)
    _arrivals(axis, ("books", "books, films", "all three"), STEPS)
    axis.set(ylim=(0.75, 1.02), ylabel="AUC of books", title="Every row is kept")
    axis.legend(loc="lower left")


def draw_genres(scores: dict[str, Scores], figure) -> None:
    """The mean AUC over genres that arrived one after another, over nothing done."""
    (axis,) = style.panels(figure, 1)
    arms = [arm for arm in scores["average"] if arm != "naive"]
    Scores.of("mean AUC over doing nothing", {a: scores["average"].lead(a, "naive") for a in arms}).draw(
        axis, LOOKS, joined=False
    )
    axis.axhline(0.0, color=GREY, lw=1.2)
    axis.set_title("MovieLens: drama, then comedy, then action")


def draw_live(result: LiveCourse, figure, controls: dict) -> None:
    """Left: the matrix of scores, row by row. Right: each domain's AUC while the others arrive."""
    import seaborn

    left, right = style.panels(figure, 2, (1.0, 1.35))
    means = torch.full((3, 3), math.nan)
    done = result.matrix[:, 1:].mean(0)  # (arrivals so far, T)
    means[: len(done)] = done.float()
    seaborn.heatmap(
        means.numpy(), annot=True, fmt=".2f", vmin=0.5, vmax=0.85, cmap="cividis", cbar=False, ax=left,
        annot_kws={"fontsize": 15}, xticklabels=list(result.domains),
        yticklabels=[f"after {d}" for d in result.domains],
    )  # fmt: skip
    left.tick_params(axis="y", rotation=0)
    left.set_title("AUC of each domain, so far")
    steps = on_table(open_pairs()).steps
    for (domain, values), colour, line in zip(
        ((d, result.curves[d]) for d in result.curves), _ARRIVALS, ("-", "--", "-."), strict=True
    ):
        draw_line(right, result.curves.steps, values, Look(domain, colour, None, line))
    _arrivals(right, result.domains, steps)
    line_at(right, 0.5, "coin flip")
    right.set(ylim=(0.4, 0.98), ylabel="AUC", title="Eight models, live")
    right.legend(loc="lower right")


def describe_live(result: LiveCourse, controls: dict) -> str:
    """The live picture in words."""
    first, arrived = result.domains[0], result.matrix.shape[1] - 1
    asks = {
        "EWC": f", strength {controls['strength']:g}",
        "distil pairs": f", strength {controls['strength']:g}",
        "some rows": f", {controls['rows']} rows of each domain",
    }
    end = result.curves.at_end()
    said = f"{controls['method']}{asks.get(controls['method'], '')}; relatedness {controls['relatedness']:g}. "
    said += f"{arrived} of {len(result.domains)} domains learned. "
    if arrived:
        learned = result.matrix[:, 1, 0].mean()
        said += f"{first}: AUC {learned:.2f} when it had been learned, {end[first].mean():.2f} now. "
    return said + f"Mean over the domains {end.values.mean():.3f}, 8 models."


def draw_weight(result: OneWeight, figure, controls: dict) -> None:
    """Left: all importances, and the one looked at. Right: where the weight ends, over the strength."""
    left, right = style.panels(figure, 2)
    count = torch.arange(1, len(result.importances) + 1)
    left.plot(count, result.importances.clamp(min=1e-9), color=style.PALETTE["blue"])
    left.plot(result.rank + 1, result.importances[result.rank].clamp(min=1e-9), "*", ms=20, color="black")
    left.set(yscale="log", xlabel="weights, the most important first", ylabel="importance (none: at the bottom)")
    left.set_title("How much each weight mattered for books")
    places = [place_of(s) for s in LOOK_STRENGTHS]
    right.plot(places, result.after, "-o", color=style.PALETTE["vermillion"], label="after films")
    right.axhline(result.before, color=style.PALETTE["blue"], ls="--", label="after books")
    strength_axis(right)
    right.set(ylabel="value of the weight", title=result.name)
    right.legend()


def describe_weight(result: OneWeight, controls: dict) -> str:
    """The weight in words."""
    free, held = result.moved[0, result.rank], result.moved[LOOK_STRENGTHS.index(STRENGTH), result.rank]
    top, rest = (
        result.moved[LOOK_STRENGTHS.index(STRENGTH), part].mean() / result.moved[0, part].mean()
        for part in (slice(0, 50), slice(400, 600))
    )
    return (
        f"{result.name}, number {result.rank + 1} of {len(result.importances)}, importance "
        f"{result.importances[result.rank]:.2g}: films move it by {free:.3f} without a penalty, by {held:.3f} with "
        f"λ = {STRENGTH:g}. The 50 most important weights go {top:.0%} as far as without, those from 400 "
        f"to 600 {rest:.0%}."
    )


def draw_matrices(own: Tensor | None, figure) -> None:
    """Draw the mean AUC of what has been learned so far, after each domain: the course's arms, and a learner's own."""
    (axis,) = style.panels(figure, 1)
    course = nothing_or_all()["so far"]
    for arm in course:
        draw_line(axis, range(3), course[arm], LOOKS[arm])
    if own is not None:
        axis.plot(range(3), so_far(own).mean(0), color="black", marker="*", ms=16, label=LOOKS["yours"].label)
    axis.set_xticks(range(3), [f"after {domain}" for domain in DOMAINS])
    axis.set(ylim=(0.6, 1.0), ylabel="mean AUC of the domains so far", title="Your learner, between the two")
    axis.legend(loc="lower left")


def describe_matrices(own: Tensor) -> str:
    """A learner's matrix in words."""
    course = nothing_or_all()["average"]
    arms = {arm: float(course[arm].mean()) for arm in course}
    rows = "; ".join(
        f"after {domain} " + ", ".join(f"{value:.2f}" for value in row)
        for domain, row in zip(DOMAINS, own.mean(0).tolist(), strict=True)
    )
    return (
        f"Yours, {len(own)} networks, AUC of {', '.join(DOMAINS)}: {rows}. Mean at the end {own[:, -1].mean():.3f}; "
        f"doing nothing {arms['naive']:.3f}, keeping all rows {arms['joint']:.3f}, 8 networks each."
    )
