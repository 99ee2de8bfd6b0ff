"""The lesson's looks, and those drawings that no shared one makes."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from recmtl_lessons.lessons.prototypical.experiments import NewShelves
from recmtl_lessons.lessons.prototypical.plane import Plane, cells
from recmtl_lessons.lessons.prototypical.serving import WEIGHTS, FilmRanking, Pull, Served
from recmtl_lessons.teaching import style
from recmtl_lessons.teaching.claim import t_interval
from recmtl_lessons.teaching.looks import GREY, Look, draw_line, line_at
from recmtl_lessons.training import Scores

SORTED = {
    "signal itself": Look("signal itself", "black", None, ":"),
    "prototypes": Look("prototypes", "vermillion", "^", "-"),
    "logistic regression": Look("logistic regression", "blue", "o", "--"),
    "nearest mean": Look("nearest mean", "green", "s", "-."),
    "nearest neighbours": Look("nearest neighbours", "purple", "D", (0, (3, 1, 1, 1))),
}
LOOKS = {
    2: Look("2 shelves\nan episode", "sky"),
    5: Look("5 shelves\nan episode", "orange"),
    20: Look("20 shelves\nan episode", "vermillion"),
    "classifier": Look("no episodes:\nclassifier, head cut", "black"),
    "best rival": Look("best rival", "blue", "o"),
    "prototypes": Look("prototypes", "vermillion", "^"),
    "untrained": Look("prototypes, f untrained", "black", "d"),
    "right": Look("log_softmax(−distance)", "blue", None, "-"),
    "wrong": Look("−log_softmax(distance)", "vermillion", None, "--"),
}
RANKED = {
    "nearest mean of features": Look("nearest mean\nof features", "green"),
    "number of ratings": Look("number of\nratings", "black"),
    "prototypes": Look("prototypes", "purple"),
    "mean rating": Look("film's\nmean rating", "sky"),
    "everybody's": Look("everybody's\nprototypes", "blue"),
    "prototypes, pulled": Look("prototypes,\npulled", "orange"),
}
SERVED = {
    "prototypes, pulled": Look("prototypes, pulled", "orange", "X"),
    "prototypes": Look("prototypes", "purple", "P"),
    "Reptile": Look("Reptile", "green", "v"),
    "fine-tuning": Look("fine-tuning", "blue", "D"),
    "film mean + offset": Look("film mean + offset", "sky", "s"),
}
_SHELF_MARKERS = (*style.MARKERS[:7], "p")  # no star: those are the prototypes
_SHELF_COLOURS = ("blue", "vermillion", "green", "purple", "orange", "sky", "black", "yellow")


# The idea.


def draw_idea(figure) -> None:
    """Left: what happens to an item. Right: three classes in the plane, their means, and an item to be sorted."""
    left, right = style.panels(figure, 2, (1.0, 1.1))
    left.set(xlim=(0, 10), ylim=(-0.2, 6.2))
    left.axis("off")
    blue, red, green = (style.PALETTE[c] for c in ("blue", "vermillion", "green"))
    style.box(left, 0.2, 4.3, 3.6, "few labelled\nitems of each", green, 1.5)
    style.box(left, 0.2, 0.5, 3.6, "an item\nto be sorted", GREY, 1.5)
    style.box(left, 5.2, 2.4, 1.6, "f", blue, 1.5)
    style.box(left, 7.9, 2.4, 1.9, "points", red, 1.5)
    for start, end in (((4.0, 5.0), (5.1, 3.7)), ((4.0, 1.3), (5.1, 2.6)), ((7.0, 3.15), (7.8, 3.15))):
        style.arrow(left, start, end, GREY)
    _draw_three_classes(right)


def _draw_three_classes(axis) -> None:
    rows = torch.tensor([
        [[-2.4, 0.3], [-1.4, 1.5], [-1.2, 0.1]],
        [[1.2, 1.6], [2.4, 1.0], [1.5, 0.4]],
        [[-0.5, -1.5], [0.7, -1.1], [0.4, -2.2]],
    ])  # fmt: skip
    means, query, frame = rows.mean(1), torch.tensor([0.95, 0.45]), (-3.2, 3.2, -2.8, 2.3)
    _fill_cells(axis, means, frame)
    for k, (own, mean) in enumerate(zip(rows, means, strict=True)):
        colour, marker = style.PALETTE[_SHELF_COLOURS[k]], _SHELF_MARKERS[k]
        for point in own:
            axis.plot(*zip(point, mean, strict=True), color=colour, lw=1.2, ls="-", alpha=0.6)
        axis.plot(*own.T, marker, color=colour, ms=10, ls="")
        axis.plot(*mean, "*", color=colour, ms=24, mec="white", mew=1.4)
        axis.plot(*zip(query, mean, strict=True), color=GREY, lw=1.6, ls=":")
    axis.plot(*query, "o", ms=20, color="white", mec="black", mew=1.8)
    axis.text(*query, "?", ha="center", va="center", fontsize=15, weight="bold")
    axis.set(xlim=frame[:2], ylim=frame[2:], title="Stars: prototypes. Borders lie halfway.")
    axis.set_xticks([])
    axis.set_yticks([])


def _fill_cells(axis, prototypes: Tensor, frame: tuple[float, float, float, float]) -> None:
    from matplotlib.patches import Polygon

    for k, corners in enumerate(cells(prototypes, frame)):
        if len(corners):
            shade = style.PALETTE[_SHELF_COLOURS[k % 8]]
            axis.add_patch(Polygon(corners, closed=True, fc=shade, alpha=0.13, ec="none", zorder=0))
            axis.add_patch(Polygon(corners, closed=True, fc="none", ec=GREY, lw=1.2, zorder=1))
    axis.grid(False)


# New shelves.


def draw_new_shelves(result: NewShelves, figure) -> None:
    """Left: accuracy by labelled items of each new shelf. Right: how far ahead of the better rival."""
    left, right = style.panels(figure, 2, (1.25, 1.0))
    shots, found = tuple(result.accuracy), result.accuracy.values()
    for name, look in SORTED.items():
        draw_line(left, range(len(shots)), torch.stack([scores[name] for scores in found], 1), look)
    line_at(left, 0.2, "guessing")
    left.set(ylabel="share sorted right", ylim=(0.1, 1.0), title="Five new shelves")
    left.legend(
        loc="lower right", fontsize=11, bbox_to_anchor=(1.02, 0.0), frameon=True, framealpha=1, edgecolor="none"
    )
    for rival in ("logistic regression", "nearest neighbours"):
        ahead = torch.stack([scores.lead("prototypes", over=rival) for scores in found], 1)
        draw_line(right, range(len(shots)), ahead, replace(SORTED[rival], label=f"over {rival}"))
    line_at(right, 0, "")
    right.set(ylabel="prototypes are ahead by", ylim=(-0.03, 0.42), title="The gap")
    right.legend(loc="lower left", fontsize=11, bbox_to_anchor=(0.0, 0.06))
    for axis in (left, right):
        axis.set_xticks(range(len(shots)), shots)
        axis.set(xlabel="labelled items of each shelf")


def draw_ways(result: Scores, figure) -> None:
    """Draw accuracy on five new shelves by the number of shelves in a training episode, and of the classifier."""
    (axis,) = style.panels(figure, 1)
    result.draw(axis, LOOKS)
    axis.set(title="The same rows an update, dealt differently")


def draw_controls(shop: Scores, controls: Mapping[str, Scores], figure) -> None:
    """Draw prototypes beside their best rival in the shop, and where old shelves say nothing about new ones."""
    (axis,) = style.panels(figure, 1)
    groups = {"the shop": shop, **controls}
    for k, found in enumerate(groups.values()):
        for offset, arm in ((-0.2, "best rival"), (0.0, "prototypes"), (0.2, "untrained")):
            look = LOOKS[arm]
            _interval(axis, found[arm], k + offset, look, look.label if k == 0 else None)
    line_at(axis, 1 / 5, "guessing")
    wrapped = {
        "nothing hidden": "nothing\nhidden",
        "shuffled": "old labels\nshuffled",
        "swapped": "signal and\nnuisance swapped",
    }
    axis.set_xticks(range(len(groups)), [wrapped.get(name, name) for name in groups])
    axis.set(xlim=(-0.5, len(groups) - 0.5), ylim=(0.1, 1.05), ylabel="share sorted right",
             title="Where old shelves have nothing to teach")  # fmt: skip
    axis.legend(loc="upper right", fontsize=12)


def _interval(axis, values: Tensor, place: float, look: Look, label: str | None = None, across: bool = False) -> None:
    """Draw seeds, mean and 95 % interval up at a place along the axis, or ``across`` at a height."""
    mean, low, high = t_interval(values)
    colour, reach = style.PALETTE[look.colour], [[mean - low], [high - mean]]
    seeds, points = (values, [place] * len(values)), (mean, place)
    seeds, points = (seeds, points) if across else (seeds[::-1], points[::-1])
    axis.plot(*seeds, "o", color=colour, alpha=0.25, ms=5, ls="")
    axis.errorbar(
        *points, **{"xerr" if across else "yerr": reach}, color=colour, marker=look.marker, ms=12, capsize=6, lw=3,
        ls="", label=label,
    )  # fmt: skip


def draw_broken(broken: Mapping[str, Scores], figure) -> None:
    """Left: the losses. Right: what the exponentials of a row sum to."""
    left, right = style.panels(figure, 2)
    broken["loss"].draw(left, LOOKS)
    left.set_yscale("symlog", linthresh=1.0)
    left.set_yticks([1, 0, -1, -100, -1e4, -1e6, -1e8], ["1", "0", "−1", "−100", "−10⁴", "−10⁶", "−10⁸"])
    left.set(xlabel="update", title="The wrong loss knows no floor")
    broken["row sum"].draw(right, LOOKS)
    right.set_yscale("symlog", linthresh=1.0)
    right.set_yticks(
        [0, 1, 100, 1e4, 1e6, 1e8], ["1", "10", "10 to the 100", "10 to the 10⁴", "10 to the 10⁶", "10 to the 10⁸"]
    )
    right.axhline(0, color=style.PALETTE["blue"], lw=2.2, label=LOOKS["right"].label)
    right.set(xlabel="update", ylabel="", title="“Probabilities” of one row, summed", ylim=(-0.6, None))
    left.legend(loc="lower left")


# Films, and the section.


def draw_films(ranked: FilmRanking, figure) -> None:
    """Draw the AUC within users for six ways to rank a new user's films."""
    (axis,) = style.panels(figure, 1)
    ranked.auc.draw(axis, RANKED)
    line_at(axis, 0.5, "coin flip")
    axis.set(title="New users of MovieLens: liked above disliked")


def draw_section(shop: Served, films: Served | None, figure) -> None:
    """Draw how far each arm is behind MAML, by error and by AUC, in the shop and on MovieLens; one row per arm."""
    parts = [(scores, sign, f"{where}: {measure}") for served, where in ((shop, "Shop"), (films, "MovieLens"))
             if served for scores, sign, measure in ((served.error, 1, "error"), (served.auc, -1, "AUC"))]  # fmt: skip
    names = [name for name in SERVED if any(name in scores for scores, *_ in parts)]
    axes = style.panels(figure, len(parts))
    for axis, (scores, sign, title) in zip(axes, parts, strict=True):
        axis.axvline(0, color=style.PALETTE["vermillion"], lw=2.4)
        for row, name in enumerate(names):
            if name in scores:
                _interval(axis, sign * scores.lead(name, over="MAML"), row, SERVED[name], across=True)
        axis.set(ylim=(-0.6, len(names) - 0.4), xlabel="stars behind MAML" if sign == 1 else "behind MAML", title=title)
        axis.set_yticks(range(len(names)), names if axis is axes[0] else [""] * len(names))


# The explorers.


def draw_plane(plane: Plane, figure, controls: dict) -> None:
    """Left: the episode in the plane. Right: how many of each shelf's items are sorted right."""
    left, right = style.panels(figure, 2, (1.35, 1.0))
    everything = torch.cat([plane.support.flatten(0, 1), plane.queries.flatten(0, 1), plane.start[None]])
    low, high = everything.amin(0), everything.amax(0)
    middle, half = (low + high) / 2, 0.56 * (high - low).clamp(min=1e-3)
    half = torch.maximum(half, half.flip(0) * torch.tensor([_WIDE, 1 / _WIDE]))  # a unit is as long either way
    frame = [float(v) for m, h in zip(middle, half, strict=True) for v in (m - h, m + h)]
    _fill_cells(left, plane.prototypes, frame)
    for k in range(len(plane.prototypes)):
        colour, marker = style.PALETTE[_SHELF_COLOURS[k]], _SHELF_MARKERS[k]
        edge = {"mec": GREY, "mew": 0.6}
        left.plot(*plane.queries[k].T, marker, color=colour, ms=5, alpha=0.45, ls="", **edge)
        left.plot(*plane.support[k].T, marker, color=colour, ms=11, ls="", mec="black", mew=1.2)
    for k in range(len(plane.prototypes)):
        place, label = plane.prototypes[k].tolist(), {"fc": "white", "ec": "none", "alpha": 0.75, "pad": 1.0}
        left.plot(*place, "*", color=style.PALETTE[_SHELF_COLOURS[k]], ms=25, mec="white", mew=1.6)
        left.annotate(_LETTERS[k], place, (0, 16), textcoords="offset points", ha="center", va="center", fontsize=13,
                      weight="bold", bbox=label)  # fmt: skip
    _draw_move(left, plane)
    left.set_aspect("equal", adjustable="box")
    left.set(xlim=frame[:2], ylim=frame[2:], xlabel="first output of f", ylabel="second output of f",
             title=f"Update {plane.updates}: stars are prototypes")  # fmt: skip
    _draw_accuracies(right, plane)


_WIDE = 1.45  # the picture of the plane, width by height


def _draw_move(axis, plane: Plane) -> None:
    k, now = plane.shelf - 1, plane.support[plane.shelf - 1, 0]
    if bool((now == plane.start).all()):
        axis.plot(*now, "o", ms=20, mfc="none", mec="black", mew=1.6)
        return
    look = {"arrowstyle": "-|>", "color": "black", "lw": 1.8}
    axis.annotate("", now.tolist(), plane.start.tolist(), arrowprops=look)
    axis.annotate("", plane.prototypes[k].tolist(), plane.before[k].tolist(), arrowprops=look)
    axis.plot(*plane.before[k], "*", ms=18, mfc="none", mec="black", mew=1.2)


def _draw_accuracies(axis, plane: Plane) -> None:
    ways = len(plane.prototypes)
    for k in range(ways):
        row = ways - 1 - k
        axis.barh(row, float(plane.accuracy[k]), height=0.6, color=style.PALETTE[_SHELF_COLOURS[k]], ec=GREY)
        axis.plot(plane.accuracy_before[k], row, "d", ms=10, mfc="white", mec="black", mew=1.6)
    axis.axvline(1 / ways, color=GREY, lw=1.4, ls=(0, (1, 2)))
    names = [f"{_LETTERS[k]} {_SIGNS[k]}" for k in range(ways)]
    axis.set_yticks(range(ways), reversed(names))
    axis.set(xlim=(0, 1.02), ylim=(-0.6, ways - 0.4), xlabel="share sorted right (diamond: before the move)",
             title=f"All: {float(plane.accuracy.mean()):.0%}")  # fmt: skip


_LETTERS, _SIGNS = "ABCDEFGH", ("●", "■", "▲", "◆", "▼", "✚", "✖", "⬟")


def describe_plane(plane: Plane, controls: dict) -> str:
    """Put the picture into words."""
    now, then = float(plane.accuracy.mean()), float(plane.accuracy_before.mean())
    ways, shots, worst = controls["ways"], controls["shots"], int(plane.accuracy.argmin())
    text = (
        f"{ways} new shelves, {shots} labelled item{'s' * (shots != 1)} of each, after {plane.updates} updates: "
        f"{now:.0%} of {plane.queries[..., 0].numel()} items are sorted right, guessing gives {1 / ways:.0%}. Worst is "
        f"shelf {_LETTERS[worst]} with {float(plane.accuracy[worst]):.0%}."
    )
    moved = (plane.support[plane.shelf - 1, 0] - plane.start).norm()
    if float(moved) == 0:
        return text
    share = (plane.prototypes[plane.shelf - 1] - plane.before[plane.shelf - 1]).norm() / moved
    return (
        f"{text} Shelf {_LETTERS[plane.shelf - 1]}'s first item was moved; its prototype followed {float(share):.0%} "
        f"of the way. Before the move {then:.0%} were sorted right."
    )


def draw_pull(pull: Pull, figure, controls: dict) -> None:
    """Draw what a user's own ratings bring beside everybody's prototypes, by their weight, and where it stands."""
    (axis,) = style.panels(figure, 1)
    everybody = pull.curve[WEIGHTS[-1]]
    own = Scores("", WEIGHTS, pull.curve.values - everybody)
    own.draw(axis, Look("mean and 95 % interval"), place=_place)
    now = float((pull.auc - everybody).mean())
    axis.plot(_place(controls["weight"]), now, "*", ms=24, color=style.PALETTE["vermillion"], mec="white",
              label=f"weight {controls['weight']:g}: AUC {float(pull.auc.mean()):.3f}", zorder=5)  # fmt: skip
    axis.axhline(0, color=GREY, lw=1.4, ls=":", label=f"nearly everybody's: AUC {float(everybody.mean()):.3f}")
    axis.set_xticks([_place(w) for w in WEIGHTS], [f"{w:g}" for w in WEIGHTS])
    axis.set(
        xlabel="weight of everybody's prototypes, in ratings", ylabel="AUC over nearly everybody's",
        title=f"{controls['where']}: {_ratings(controls['count'])} of each new user",
    )  # fmt: skip
    axis.legend(loc="lower right")


def _place(weight: float) -> float:
    return math.log10(1 + 3 * weight)


def _ratings(count: int) -> str:
    return f"{count} rating" + "s" * (count != 1)


def describe_pull(pull: Pull, controls: dict) -> str:
    """Put the picture into words."""
    means = pull.curve.values.mean(1)
    return (
        f"{controls['where']}, {_ratings(controls['count'])} of each new user, weight {controls['weight']:g}: AUC "
        f"{float(pull.auc.mean()):.3f}. The user's own prototypes alone give {float(means[0]):.3f}, "
        f"everybody's nearly alone {float(means[-1]):.3f}; of the weights on the curve "
        f"{WEIGHTS[int(means.argmax())]:g} is best here. {pull.one_sided:.0%} of the users have one class only."
    )
