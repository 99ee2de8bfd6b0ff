"""The lesson's looks, and those drawings that no shared one makes."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from recmtl_lessons.lessons.reptile.breaking import MOMENTUM, NO_MOMENTUM
from recmtl_lessons.lessons.reptile.experiments import SHOP_ARMS
from recmtl_lessons.lessons.reptile.plane import ACROSS, UP, USERS, Bowls, Plane
from recmtl_lessons.lessons.reptile.race import BUDGETS, Race
from recmtl_lessons.teaching import style
from recmtl_lessons.teaching.looks import GREY, Look, draw_line
from recmtl_lessons.training import Scores
from recmtl_lessons.training.few_shot import Compared

_HIGHEST = 4.5  # squared error that the plane's right panel shows
_USERS = (("blue", "o"), ("green", "s"), ("purple", "^"))
LOOKS = {
    1: Look("one inner step\n(joint training)", "blue", "s", "--"),
    2: Look("two inner steps", "sky"),
    4: Look("four inner steps", "green", "v", "-"),
    "Reptile": Look("Reptile", "green", "v", "-"),
    "MAML": Look("MAML", "vermillion", "^", "--"),
    "first-order MAML": Look("first-order MAML", "orange", "s", "-."),
    "nobody's": Look("four steps on\nnobody's ratings", "black"),
    "film mean + offset": Look("film mean\n+ offset", "sky"),
}
_WAYS = {
    "fresh": Look("fresh", "blue"),
    "trained": Look("carried on\nin training", "orange"),
    "served": Look("carried on\nwhen serving", "vermillion"),
}
ADAM = {(momentum, way): look for momentum in (MOMENTUM, NO_MOMENTUM) for way, look in _WAYS.items()}


# Three users in a plane.


def draw_idea(plane: Plane, figure) -> None:
    """Draw one update: three inner loops from phi, the mean of where they end, and the step towards it."""
    (axis,) = style.panels(figure, 1)
    _draw_bowls(axis, plane)
    _draw_paths(axis, plane)
    before, after = plane.way[plane.shown - 1], plane.way[plane.shown]
    mean = plane.paths[:, -1].mean(0)
    red = style.PALETTE["vermillion"]
    axis.plot(*mean, "X", ms=14, color="white", mec="black", zorder=6)
    axis.annotate("", after, before, arrowprops={"arrowstyle": "-|>", "color": red, "lw": 4}, zorder=5)
    axis.plot(*before, "o", ms=13, color="white", mec=red, mew=3, zorder=6)
    for text, at, shift in (("φ", before, (-0.32, 0.12)), ("mean of the three ends", mean, (0.0, 0.22))):
        axis.text(
            float(at[0]) + shift[0], float(at[1]) + shift[1], text, fontsize=14, weight="bold",
            bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1}, zorder=7,
        )  # fmt: skip
    _name_the_axes(axis, "One update: each user's steps, then part of the way")


def draw_plane(plane: Plane, figure, controls: dict) -> None:
    """Left: the meta-parameters' way among the users' losses. Right: the users' losses before and after their steps."""
    left, right = style.panels(figure, 2, (1.25, 1.0))
    _draw_bowls(left, plane)
    _draw_paths(left, plane)
    red = style.PALETTE["vermillion"]
    left.plot(*plane.way.T, "-o", color=red, ms=4, lw=2.4, zorder=5, label="φ, update by update")
    left.plot(*plane.way[0], "o", ms=12, color="white", mec=red, mew=3, zorder=6)
    left.plot(*plane.joint, "P", ms=15, color="white", mec="black", mew=1.6, zorder=6, label="joint optimum")
    left.plot(*plane.rest, "*", ms=19, color="white", mec="black", mew=1.4, zorder=6, label=f"where φ {_rests(plane)}")
    left.plot(
        *plane.users.optimum.mean(0), "D", ms=9, color="white", mec="black", mew=1.6, zorder=6,
        label="mean of the three optima",
    )  # fmt: skip
    left.legend(loc="lower right", fontsize=11, frameon=True, framealpha=0.9, edgecolor="none")
    if plane.diverges:
        _say(left, f"φ leaves: farther off after {len(plane.way) - 1} updates", 0.9)
    elif climbers := plane.climbers(controls["inner_lr"]):
        _say(left, f"inner steps climb: {' and '.join(climbers)}", 0.9)
    _name_the_axes(left, f"{_steps(controls['inner_steps'])}, paths of update {plane.shown}")
    _draw_losses(right, plane, controls["inner_steps"], controls["inner_lr"])


def _draw_bowls(axis, plane: Plane) -> None:
    for (colour, _), surface, least in zip(_USERS, plane.surface, plane.users.least, strict=True):
        levels = [float(least) + height for height in (0.15, 0.6, 1.35, 2.4)]
        axis.contour(ACROSS, UP, surface, levels=levels, colors=style.PALETTE[colour], linewidths=1.2, alpha=0.55)
    axis.grid(False)
    axis.set(xlim=(float(ACROSS[0]), float(ACROSS[-1])), ylim=(float(UP[0]), float(UP[-1])))


def _draw_paths(axis, plane: Plane) -> None:
    for name, (colour, marker), path, optimum in zip(USERS, _USERS, plane.paths, plane.users.optimum, strict=True):
        shade = style.PALETTE[colour]
        axis.plot(*path.T, "-", marker=marker, color=shade, ms=6, lw=2, zorder=4)
        axis.text(
            *(optimum + torch.tensor([0.08, 0.1])), name, color=shade, fontsize=14, weight="bold", zorder=7,
            bbox={"fc": "white", "ec": "none", "alpha": 0.7, "pad": 1}, clip_on=True,
        )  # fmt: skip
        axis.plot(*optimum, marker="x", ms=9, mew=2.5, color=shade, zorder=6)


def _name_the_axes(axis, title: str) -> None:
    axis.set(xlabel="weight of suspense", ylabel="weight of humour", title=title)


def _draw_losses(axis, plane: Plane, inner_steps: int, inner_lr: float) -> None:
    """Draw the users' mean loss over the inner steps: from where phi comes to rest, and from the joint optimum."""
    steps = range(inner_steps + 1)
    tops = []
    for name, start, colour, marker, line, size in (
        ("from the joint optimum", plane.joint, "black", "s", "--", 9),
        (f"from where φ {_rests(plane)}", plane.rest, "vermillion", "o", "-", 6),
    ):
        above = after_steps(plane.users, start, inner_steps, inner_lr).mean(1)  # (inner_steps + 1,)
        axis.plot(steps, above, ls=line, marker=marker, color=style.PALETTE[colour], label=name, ms=size)
        tops.append(float(above.max()))
    if max(tops) > _HIGHEST:
        _say(axis, "partly off the axis" + ": inner steps climb" * bool(plane.climbers(inner_lr)))
    axis.set(
        xlabel="inner step", ylabel="squared error above the least", title="Mean of the three users",
        ylim=(0, min(_HIGHEST, 1.2 * max(tops))),
        xlim=(-0.3, inner_steps + 0.3),
    )  # fmt: skip
    axis.set_xticks(steps if inner_steps <= 10 else range(0, inner_steps + 1, 5))
    axis.legend(loc="upper right")


def _rests(plane: Plane) -> str:
    return "would rest" if plane.diverges else "comes to rest"


def _say(axis, text: str, height: float = 0.03) -> None:
    axis.text(
        0.5, height, text, transform=axis.transAxes, ha="center", va="bottom", fontsize=13, weight="bold", zorder=8,
        bbox={"fc": "white", "ec": "none", "alpha": 0.9},
    )  # fmt: skip


def after_steps(users: Bowls, start: Tensor, inner_steps: int, inner_lr: float) -> Tensor:
    """Return each user's loss above their least after 0, 1, ... inner steps from a start, (inner_steps + 1, 3)."""
    shrink = torch.eye(2) - inner_lr * users.hessian
    places = [start.expand(3, 2)]
    for _ in range(inner_steps):
        away = places[-1] - users.optimum
        places.append(users.optimum + torch.einsum("tij,tj->ti", shrink, away))
    return torch.stack([users.loss(place).diagonal() - users.least for place in places])


def describe_plane(plane: Plane, controls: dict) -> str:
    """Put the picture into words."""
    loops = controls["inner_steps"], controls["inner_lr"]
    settings = f"{_steps(loops[0])} at {loops[1]:g}, outer rate {controls['meta_lr']:g}"
    climbers = plane.climbers(loops[1])
    climb = f" The inner steps of {' and '.join(climbers)} climb." if climbers else ""
    end = plane.way[-1]
    to_joint, to_rest = float((end - plane.joint).norm()), float((end - plane.rest).norm())
    if plane.diverges:
        return (
            f"{settings}: the steps overshoot; after {len(plane.way) - 1} updates φ is {to_rest:.3g} from where it "
            f"would be at rest, farther than at the start.{climb}"
        )
    to_mean = float((plane.rest - plane.users.optimum.mean(0)).norm())
    mine, joint = (float(after_steps(plane.users, start, *loops)[-1].mean()) for start in (plane.rest, plane.joint))
    return (
        f"{settings}: after {len(plane.way) - 1} updates φ is {to_joint:.2f} from the joint optimum and {to_rest:.2f} "
        f"from its point of rest, which is {to_mean:.2f} from the mean of the three optima. After their own steps the "
        f"users err by {mine:.2f} above the least from the point of rest, by {joint:.2f} from the joint optimum.{climb}"
    )


# Comparisons.


def draw_comparison(result: Compared, figure) -> None:
    """Draw the error of every arm on new users: seeds joined, means with intervals."""
    (axis,) = style.panels(figure, 1)
    result.after.only(1, 2, 4, "MAML").draw(axis, LOOKS)
    axis.set(title="New users, ten ratings, three steps: lower is better")
    _group(axis, 1, "Reptile", -0.26)


def _group(axis, place: float, name: str, height: float) -> None:
    """Name a group of columns below it, and part the columns behind the third from those before."""
    axis.text(place, height, name, transform=axis.get_xaxis_transform(), ha="center", weight="bold", fontsize=13)
    axis.axvline(2.5, color=GREY, lw=1, ls=":")


def draw_together(result: Scores, figure) -> None:
    """Draw how far Reptile lies from joint training, update by update."""
    (axis,) = style.panels(figure, 1)
    axis.set_yscale("log")
    for arm in (4, 1):
        look = {"color": style.PALETTE[LOOKS[arm].colour], "ls": LOOKS[arm].line}
        name = LOOKS[arm].label.splitlines()[0]
        axis.plot(result.steps, result[arm].T, alpha=0.25, lw=1, **look)
        axis.plot(result.steps, result[arm].median(0).values, marker=LOOKS[arm].marker, ms=5, label=name, **look)
    axis.set(
        xlabel="update", ylabel=result.measure, ylim=(1e-17, 10), title="Reptile beside gradient descent on the heap"
    )
    axis.legend(loc="center right")


def draw_memory(memory: Mapping[str, list[int]], numbers: tuple[int, ...], figure) -> None:
    """Draw the bytes that autograd keeps over the number of gradients."""
    (axis,) = style.panels(figure, 1)
    for name, values in memory.items():
        look, kib = LOOKS[name], [v / 1024 for v in values]
        # The two that coincide are both seen.
        size = {"ms": 13, "mfc": "none", "mew": 2.5} if name == "first-order MAML" else {"ms": 7}
        colour = style.PALETTE[look.colour]
        axis.plot(numbers, kib, ls=look.line, marker=look.marker, color=colour, label=name, **size)
    axis.set_xticks(numbers)
    axis.set(
        xlabel="gradients for one user", ylabel="kept by autograd, KiB", ylim=(0, None), title="Memory for one user"
    )
    axis.legend(loc="upper left")


def draw_controls(result: Compared, shuffled: Compared, figure) -> None:
    """Draw what is left where groups of ratings are nobody's."""
    (axis,) = style.panels(figure, 1)
    both = {1: result.after[1], "nobody's": shuffled.after["nobody's"], 4: result.after[4]}
    looks = {
        1: replace(LOOKS[1], label="one step\n(joint training)"),
        "nobody's": LOOKS["nobody's"],
        4: replace(LOOKS[4], label="four steps on\na user's ratings"),
    }
    Scores.of(result.after.measure, both).draw(axis, looks)
    axis.set(title="Does it need users?")


def draw_adam(result: Scores, figure) -> None:
    """Draw what carrying Adam's state from user to user does, with momentum and without."""
    (axis,) = style.panels(figure, 1)
    result.draw(axis, ADAM)
    _group(axis, 1, "with momentum (β₁ = 0.9)", -0.27)
    _group(axis, 4, "without (β₁ = 0)", -0.27)
    axis.set(title="A fresh Adam for each user, or one for all")


def draw_films(result: Compared, figure) -> None:
    """Left: the arms on new users of MovieLens. Right: step by step."""
    left, right = style.panels(figure, 2, (1.25, 1.0))
    looks = LOOKS | {
        1: replace(LOOKS[1], label="one step\n(joint)", line=":"),
        4: replace(LOOKS[4], label="Reptile,\nfour steps"),
    }
    result.after.only(1, "film mean + offset", "MAML", 4).draw(left, looks)
    left.set(title="New users of MovieLens")
    lines = {arm: replace(look, label=look.label.replace("\n", " ")) for arm, look in looks.items()}
    result.by_step.only(1, "MAML", 4).draw(right, lines)
    right.set_xticks(result.by_step.steps)
    right.set(xlabel="steps on ten ratings", ylabel="", title="Step by step")
    right.legend(loc="upper right")


# The race.


def draw_race(result: Race, figure, controls: dict) -> None:
    """Draw the errors of both over what they have used up."""
    (axis,) = style.panels(figure, 1)
    in_seconds = controls["budget"] == BUDGETS[1]
    used = result.seconds if in_seconds else tuple(g / 1000 for g in result.gradients)
    for name, at, error in zip(("Reptile", controls["rival"]), used, result.error, strict=True):
        label = f"Reptile, {_steps(controls['inner_steps'])}" if name == "Reptile" else name
        draw_line(axis, at, error, replace(LOOKS[name], label=label))
    axis.set(
        xlabel="seconds of training, this machine, eight seeds together" if in_seconds
        else "thousand gradients of ten ratings, per seed",
        ylabel="mean absolute error, stars", ylim=(0.48, 0.95), xlim=(0, None),
        title="New users after three steps on ten ratings",
    )  # fmt: skip
    axis.legend(loc="upper right")


def describe_race(result: Race, controls: dict) -> str:
    """Put the picture into words."""
    in_seconds, inner_steps = controls["budget"] == BUDGETS[1], controls["inner_steps"]
    used = [
        (f"{float(seconds[-1]):.1f} s and " if in_seconds else "") + f"{int(gradients[-1]):,} gradients"
        for gradients, seconds in zip(result.gradients, result.seconds, strict=True)
    ]
    parts = [
        f"{name} errs by {float(error[:, -1].mean()):.3f} stars after {amount}"
        for name, error, amount in zip(("Reptile", controls["rival"]), result.error, used, strict=True)
    ]
    borrowed = "" if inner_steps in SHOP_ARMS else ", with the inner rates that were chosen for 4"
    settings = f"{_steps(inner_steps)} and outer rate {controls['meta_lr']:g} for Reptile{borrowed}"
    return f"{settings}. {'; '.join(parts)}."


def _steps(count: int) -> str:
    return f"{count} inner step" + "s" * (count != 1)
