"""The lesson's looks, and those drawings that no shared one makes."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from recmtl_lessons.lessons.maml.path import Path
from recmtl_lessons.lessons.maml.reader import TO_RATE, TOP, Recommendations
from recmtl_lessons.lessons.maml.sinusoid import Fit, ShortRun
from recmtl_lessons.teaching import style
from recmtl_lessons.teaching.looks import GREY, Look, draw_line, line_at
from recmtl_lessons.training import Scores
from recmtl_lessons.training.few_shot import Compared

LOOKS = {
    "MAML": Look("MAML", "vermillion", "^", "-"),
    "joint": Look("joint training", "blue", "o", "--"),
    "as it is": Look("joint,\nas it is", "sky"),
    "joint, longer": Look("six times\nas long", "purple"),
    "first-order MAML": Look("first-order\nMAML", "orange"),
    "ANIL": Look("ANIL", "green"),
    "own mean": Look("own\nmean", "black"),
    "bias alone": Look("its bias\nalone", "purple"),
    "film mean + offset": Look("film mean\n+ offset", "green"),
    "not adapted": Look("not adapted", "sky"),
    "adapted": Look("adapted", "vermillion"),
    "dropout": Look("with\ndropout 0.2", "black"),
    "broadcast": Look("(K, 1) against\n(K,)", "purple"),
}
TUNED = LOOKS | {"joint": replace(LOOKS["joint"], label="joint, fine-tuned")}


def draw_idea(figure) -> None:
    """Draw one task: three steps on the support ratings, the loss on the query ratings, and the way back."""
    axis = figure.subplots()
    axis.set(xlim=(0, 13.4), ylim=(-0.5, 5.0))
    axis.axis("off")
    blue, red, green = (style.PALETTE[c] for c in ("blue", "vermillion", "green"))
    style.box(axis, 0.1, 2.0, 1.5, "start\nθ", red)
    for k, left in enumerate((3.0, 5.5, 8.0)):
        style.box(axis, left, 2.0, 1.5, f"step {k + 1}", blue)
        style.arrow(axis, (left + 0.75, 3.7), (left + 0.75, 3.1), green, "-")
    style.box(axis, 10.6, 2.0, 2.4, "query loss", GREY)
    style.box(axis, 3.0, 3.8, 6.5, "support: ten ratings of one user", green)
    style.box(axis, 10.2, 3.8, 3.1, "query: their others", green)
    style.arrow(axis, (11.8, 3.7), (11.8, 3.1), green, "-")
    for start, end in ((1.7, 2.9), (4.6, 5.4), (7.1, 7.9), (9.6, 10.5)):
        style.arrow(axis, (start, 2.7), (end, 2.7), GREY, "-")
        style.arrow(axis, (end, 2.2), (start, 2.2), red, "--")
    axis.text(6.7, 1.25, "gradient, back through every step", color=red, fontsize=14, ha="center", va="center")
    axis.text(0.1, 0.2, "one such row for each of 16 users; θ moves by the mean of their gradients",
              color=GREY, fontsize=14, va="center")  # fmt: skip


def draw_waves(run: ShortRun, figure) -> None:
    """Draw the error over many new waves, step by step."""
    (axis,) = style.panels(figure, 1)
    run.error.draw(axis, LOOKS)
    axis.set_xticks(run.error.steps)
    axis.set(title="200 new waves, ten points of each", xlabel="inner step", ylim=(0, None))
    axis.legend(loc="lower left")


def draw_fit(fit: Fit, figure, controls: dict) -> None:
    """Draw how two networks fit one new wave, before and at one step, and their errors step by step."""
    *fits, errors = style.panels(figure, 3, (1.0, 1.0, 0.85))
    step = controls["step"]
    for axis, (name, curves) in zip(fits, fit.curves.items(), strict=True):
        look, colour = LOOKS[name], style.PALETTE[LOOKS[name].colour]
        axis.plot(fit.x, fit.truth, color=GREY, ls="-", lw=5, alpha=0.3, label="the wave")
        axis.plot(fit.x, curves[0], color="black", ls=":", lw=1.8, label="before")
        axis.plot(fit.x, curves[step], color=colour, ls="-", lw=3, label=f"after {_steps(step)}")
        axis.plot(fit.points_x, fit.points_y, "o", ms=8, color="black", label="its points")
        axis.set(title=look.label, xlabel="x", ylim=(-6, 8.5), xlim=(-5, 5))
        axis.legend(loc="upper left", fontsize=10, ncols=2, columnspacing=0.8, handlelength=1.6)
        steps = range(len(curves))
        draw = {"color": colour, "marker": look.marker}
        errors.plot(steps, fit.error[name], ls=look.line, label=look.label, **draw)
        errors.plot(step, fit.error[name][step], ls="", ms=15, mec="black", mew=2, **draw)
    fits[0].set_ylabel("y")
    top = max(float(error.max()) for error in fit.error.values())
    errors.set_xticks(range(0, len(steps), 2))
    errors.set(title="error on this wave", xlabel="inner step", ylabel="squared error", ylim=(0, 1.35 * top + 0.1))
    errors.legend(loc="upper right", fontsize=11)


def describe_fit(fit: Fit, controls: dict) -> str:
    """Put the picture into words."""
    before, after = ({n: float(error[k]) for n, error in fit.error.items()} for k in (0, controls["step"]))
    return (
        f"After {_steps(controls['step'])} on {len(fit.points_x)} points of one wave, MAML's squared error has gone "
        f"from {before['MAML']:.2f} to {after['MAML']:.2f}, that of joint training from {before['joint']:.2f} to "
        f"{after['joint']:.2f}."
    )


def _beside_as_it_is(result: Compared, *arms: str) -> Scores:
    """Return the errors of some arms after adapting, with joint training "as it is" among them."""
    still = {"as it is": result.before["joint"]}
    return Scores.of(result.after.measure, {arm: still[arm] if arm in still else result.after[arm] for arm in arms})


def draw_comparison(result: Compared, figure) -> None:
    """Draw the error of every arm on new users: seeds joined, means with intervals."""
    (axis,) = style.panels(figure, 1)
    arms = ("as it is", "joint", "joint, longer", "first-order MAML", "ANIL", "MAML")
    looks = LOOKS | {"joint": replace(LOOKS["joint"], label="joint,\nfine-tuned")}
    _beside_as_it_is(result, *arms).draw(axis, looks)
    axis.set(title="New users, ten ratings each: lower is better")


def draw_by_ratings(result: Compared, found: Mapping[str, Mapping[int, Scores]], figure) -> None:
    """Left: errors after three steps, by number of ratings. Right: what MAML is ahead by."""
    left, right = style.panels(figure, 2)
    three, numbers = found["three steps"], list(found["three steps"])
    for name in ("joint", "MAML"):
        draw_line(left, range(len(numbers)), torch.stack([scores[name] for scores in three.values()], 1), TUNED[name])
    still = result.before["joint"][:, None].expand(-1, len(numbers))
    draw_line(left, range(len(numbers)), still, Look("joint, as it is", "black", None, ":"))
    left.set(ylabel=result.after.measure, title="After three steps")
    left.legend(loc="lower left")
    looks = Look("three steps each", "purple", "s", "-"), Look("as many as help", "green", "D", "--")
    for race, look in zip(found.values(), looks, strict=True):
        ahead = torch.stack([scores.lead("joint", over="MAML") for scores in race.values()], 1)
        draw_line(right, [numbers.index(k) for k in race], ahead, look)
    line_at(right, 0, "")
    right.set(ylabel="MAML is ahead by, stars", title="The gap to fine-tuning")
    right.legend(loc="upper left")
    for axis in (left, right):
        axis.set_xticks(range(len(numbers)), numbers)
        axis.set(xlabel="ratings of the new user")


def draw_broken(result: Scores, figure) -> None:
    """Draw what wrong inner steps cost: errors of the same trained networks."""
    (axis,) = style.panels(figure, 1)
    result.draw(axis, LOOKS)
    axis.set(title="The same networks, adapted rightly and wrongly")


def draw_films(result: Compared, figure) -> None:
    """Left: the arms on new users of MovieLens. Right: MAML and joint training, step by step."""
    left, right = style.panels(figure, 2, (1.25, 1.0))
    arms = ("own mean", "as it is", "bias alone", "film mean + offset", "joint", "MAML")
    looks = LOOKS | {"joint": replace(LOOKS["joint"], label="fine-\ntuned")}
    _beside_as_it_is(result, *arms).draw(left, looks)
    left.set(title="New users of MovieLens")
    result.by_step.draw(right, TUNED)
    right.set_xticks(result.by_step.steps)
    right.set(xlabel="inner steps on ten ratings", ylabel="", title="Step by step")
    right.legend(loc="upper right")


# The path.

_LOW, _HIGH = 0.05, 20.0  # of the losses that are drawn


def draw_path(path: Path, figure, controls: dict) -> None:
    """Left: the walk over one user's loss. Right: every user's query loss, step by step."""
    surface, losses = style.panels(figure, 2, (1.0, 1.15))
    heights = path.surface.nan_to_num(50.0, 50.0).clamp(0.01, 50.0)
    low, high = float(heights.min()), max(float(heights.max()), 1.01 * float(heights.min()))
    levels = torch.logspace(math.log10(low), math.log10(high) + 1e-4, 14)
    surface.contourf(path.across, path.up, heights, levels=levels, cmap="cividis", norm="log")
    surface.grid(False)
    x, y = path.walk.T
    surface.plot(x, y, "-o", color=style.PALETTE["vermillion"], ms=6, lw=2)
    surface.plot(x[0], y[0], "s", ms=11, color="white", mec="black")
    surface.plot(x[-1], y[-1], "*" if not path.next_step else "X", ms=19, color="white", mec="black")
    if path.next_step:
        far = f"{path.next_step:,.0f}" if path.next_step < 1e6 else f"{path.next_step:.0e}"
        away = f"{far} away" if math.isfinite(path.next_step) else "at no number"
        surface.text(
            0.5, 0.96, f"diverges: step {len(x)} lands {away}", transform=surface.transAxes, ha="center", va="top",
            fontsize=13, weight="bold", bbox={"fc": "white", "ec": "none", "alpha": 0.85},
        )  # fmt: skip
    surface.set(
        xlabel="from the start (square) to the last step (" + ("cross)" if path.next_step else "star)"),
        ylabel="second direction",
        xlim=(float(path.across[0]), float(path.across[-1])), ylim=(float(path.up[0]), float(path.up[-1])),
        title=f"User {controls['user']}: loss of {_ratings(controls['shots'])} (bright: high)",
    )  # fmt: skip
    _draw_losses(losses, path, controls["user"])


def _draw_losses(axis, path: Path, user: int) -> None:
    axis.set_yscale("log")
    last = path.query.shape[1] - 1
    steps = torch.arange(last + 1)
    finite = torch.where(torch.isfinite(path.query), path.query, 1e30)
    low, middle, high = torch.quantile(finite, torch.tensor([0.1, 0.5, 0.9]), dim=0)
    shade = style.PALETTE["blue"]
    axis.fill_between(steps, low, high.clamp(max=1e6), color=shade, alpha=0.22, lw=0, label="80 % of users")
    axis.plot(steps, middle.clamp(max=1e6), "-o", color=shade, label="median user")
    own = path.query[user - 1]
    axis.plot(
        steps, own.nan_to_num(1e6, 1e6).clamp(max=1e6), "--^", color=style.PALETTE["vermillion"], label="this user"
    )
    lost = diverged(path)
    if lost.any():
        axis.text(
            0.97, 0.96, f"{int(lost.sum())} of {len(lost)} users diverge", transform=axis.transAxes, ha="right",
            va="top", fontsize=13, weight="bold", bbox={"fc": "white", "ec": "none", "alpha": 0.85},
        )  # fmt: skip
    axis.set_xticks(steps if last <= 10 else steps[::5])
    axis.set_yticks([0.1, 0.3, 1, 3, 10], ["0.1", "0.3", "1", "3", "10"])
    axis.minorticks_off()
    axis.set(
        ylim=(_LOW, _HIGH), xlim=(-0.2, last + 0.2), xlabel="inner step", ylabel="query loss, squared stars",
        title=f"{len(path.query)} users: ratings not seen",
    )  # fmt: skip
    axis.legend(loc="lower left", fontsize=11)


def diverged(path: Path) -> Tensor:
    """Return which users' query loss ends above the picture or is no number, (users,)."""
    return ~(path.query[:, -1] <= _HIGH)


def describe_path(path: Path, controls: dict) -> str:
    """Put the picture into words."""
    lost, user = int(diverged(path).sum()), controls["user"]
    start, end = path.query[:, 0].median(), path.query[:, -1].nan_to_num(torch.inf, torch.inf).median()
    settings = (
        f"{controls['start']}, rate {controls['rate']:g}, {_steps(controls['steps'])} on {_ratings(controls['shots'])}"
    )
    if lost:
        ends = f"{end:.2f}" if end < 1e3 else f"{end:.0e}" if torch.isfinite(end) else "no number"
        return (
            f"{settings}: the steps diverge for {lost} of {len(path.query)} users; the median query loss goes from "
            f"{start:.2f} to {ends}."
        )
    better = int((path.query[:, -1] < path.query[:, 0]).sum())
    return (
        f"{settings}: the median query loss goes from {start:.2f} to {end:.2f}; {better} of {len(path.query)} users "
        f"are better off than before. User {user}: support loss {path.support[0]:.2f} to {path.support[-1]:.2f}, "
        f"query loss {path.query[user - 1, 0]:.2f} to {path.query[user - 1, -1]:.2f}."
    )


def _ratings(count: int) -> str:
    return f"{count} rating" + "s" * (count != 1)


def _steps(count: int) -> str:
    return f"{count} step" + "s" * (count != 1)


# Recommendations.


def draw_recommendations(result: Recommendations, figure, controls: dict) -> None:
    """Draw the places of the best films after each step, with their names on both sides."""
    (axis,) = style.panels(figure, 1)
    last = controls["steps"]
    films = result.top.unique()
    place = result.stars.argsort(dim=1, descending=True, stable=True).argsort(dim=1)[:, films] + 1  # (steps + 1, films)
    at_end = set(result.top[-1].tolist())
    colours = [style.PALETTE[c] for c in ("blue", "vermillion", "green", "purple", "orange", "sky", "black")] + [GREY]
    for k, film in enumerate(films.tolist()):
        kept = film in at_end
        look = result.top[-1].tolist().index(film) if kept else 0  # its place at the end says which colour and marker
        axis.plot(
            range(last + 1), place[:, k].clamp(max=TOP + 1), marker=style.MARKERS[look] if kept else ".",
            ls="-" if kept else ":", color=colours[look] if kept else GREY, alpha=1.0 if kept else 0.6,
            lw=2.4 if kept else 1.4, clip_on=True,
        )  # fmt: skip
    for step, side, align in ((0, -0.02 * last, "right"), (last, 1.02 * last, "left")):
        for rank, film in enumerate(result.top[step].tolist(), start=1):
            stars, name = f"{float(result.stars[step, film]):.1f}", short_title(result.titles[film])
            text = f"{name}  {stars} " if align == "right" else f" {stars}  {name}"
            axis.text(side, rank, text, ha=align, va="center", fontsize=12)
    axis.set_xticks(range(last + 1))
    axis.set_yticks(range(1, TOP + 1))
    axis.set(
        xlim=(-0.85 * last, 1.85 * last), ylim=(TOP + 0.6, 0.4), xlabel="inner step", ylabel="place",
        title=f"The best for you, from {_ratings(_rated(controls))}: before (left), after {_steps(last)} (right)",
    )  # fmt: skip
    axis.grid(visible=False)  # it would strike the titles through


def short_title(title: str) -> str:
    """Return a film's title without its year, the article where it is spoken, short enough to stand by a picture."""
    name = title.rsplit(" (", 1)[0]
    for article in ("The", "A", "An"):
        if name.endswith(f", {article}"):
            name = f"{article} {name.removesuffix(f', {article}')}"
    return name if len(name) <= 30 else name[:29].rstrip() + "…"


def _rated(controls: dict) -> int:
    return sum(controls[key] > 0 for key in TO_RATE)


def describe_recommendations(result: Recommendations, controls: dict) -> str:
    """Put the picture into words."""
    best = ", ".join(short_title(result.titles[film]) for film in result.top[-1, :3].tolist())
    if not _rated(controls):
        return f"Nothing rated yet. For everybody, the network recommends {best}."
    new = len(set(result.top[-1].tolist()) - set(result.top[0].tolist()))
    return (
        f"{_ratings(_rated(controls))}, {_steps(controls['steps'])}: first come {best}. {new} of the {TOP} films "
        f"were not among the first {TOP} before. On your own ratings the network errs by {result.error[-1]:.2f} "
        f"stars, before {result.error[0]:.2f}."
    )
