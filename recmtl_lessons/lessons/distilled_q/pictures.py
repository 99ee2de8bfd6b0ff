"""What the lesson draws: plain functions of a result and a figure."""

import numpy as np
import torch
from torch import Tensor

from recmtl_lessons.envs import layout_of
from recmtl_lessons.envs.surfaces import CATEGORIES, make_surface
from recmtl_lessons.lessons.distilled_q.breaking import HOT, Gradients, WithoutSquare
from recmtl_lessons.lessons.distilled_q.experiments import (
    DISTILLING,
    FROM_REWARDS,
    TASKS,
    ByTemperature,
    Comparison,
    School,
)
from recmtl_lessons.lessons.distilled_q.films import FilmComparison
from recmtl_lessons.lessons.distilled_q.watching import WATCHED, Looking, Watched, answers, state_of
from recmtl_lessons.teaching import style

_GREY = "#555555"
_SHOWN = CATEGORIES[:3]


def actions_of(task: str) -> tuple[str, ...]:
    """Return the labels of a surface's actions, a line each."""
    return tuple(label.replace(", ", ",\n") for label in make_surface(task, len(_SHOWN)).actions)


def draw_idea(of: School, figure, task: str = "home", temperatures: tuple[float, ...] = (0.1, 1.0, 10.0)) -> None:
    """Draw a teacher's Q-values in one state, and what they become at three temperatures."""
    axes = style.panels(figure, 1 + len(temperatures))
    q = answers(of.teachers, state_of(of, task, 1, 3), task)[0]
    labels, scale = actions_of(task), of.transfer_set.scale[task][0]
    axes[0].bar(labels, q.tolist(), color=style.PALETTE["black"], width=0.6)
    axes[0].set(title="Q-values", ylabel="mean reward a step")
    for axis, temperature, colour in zip(axes[1:], temperatures, ("vermillion", "green", "blue"), strict=True):
        axis.bar(labels, (q / scale / temperature).softmax(-1).tolist(), color=style.PALETTE[colour], width=0.6)
        axis.set(ylim=(0, 1), title=f"T = {temperature:g}")
    axes[1].set(ylabel="probability")
    for axis in axes:
        axis.grid(axis="x", visible=False)


def draw_comparison(result: Comparison, figure) -> None:
    """Draw what the small network keeps of its teachers' return, by how it learned."""
    (axis,) = style.panels(figure, 1)
    short, long = FROM_REWARDS.updates, DISTILLING.updates
    labels = (
        f"from rewards,\n{short} steps", f"distilled,\n{short} steps",
        f"distilled,\n{long} steps", f"no attention,\n{long} steps",
    )  # fmt: skip
    columns = [result.rewards, result.short, result.student, result.ablation]
    style.points_with_interval(axis, labels, 100 * torch.stack(columns, dim=1), ("blue", "sky", "green", "orange"))
    _line_at(axis, 100, "teachers")
    _line_at(axis, 0, "random")
    axis.set(ylabel="return over random,\n% of the teachers'", title="Small networks, users not learned from")


def _line_at(axis, height: float, text: str, side: str = "left") -> None:
    axis.axhline(height, color=_GREY, lw=1.5, ls=":")
    axis.text(
        {"left": 0.005, "right": 0.995}[side], height, text, transform=axis.get_yaxis_transform(), va="bottom", ha=side,
        fontsize=12, color=_GREY, style="italic",
    )  # fmt: skip


def draw_temperatures(result: ByTemperature, figure) -> None:
    """Draw what students keep after a short training by the temperature, and with other states' answers."""
    left, right = style.panels(figure, 2, (2.0, 1.0))
    temperatures = tuple(result.kept)
    style.band(left, temperatures, 100 * torch.stack(list(result.kept.values()), dim=1), "distilled", "green", "o")
    left.set_xscale("log")
    left.set_xticks(temperatures, [f"{t:g}" for t in temperatures])
    left.minorticks_off()
    left.set(xlabel="temperature", ylabel="return over random,\n% of the teachers'", title="After a short training")
    values = 100 * torch.stack([result.kept[1.0], result.wrong], dim=1)
    style.points_with_interval(right, ("this state's\nanswers", "another\nstate's"), values, ("green", "black"))
    right.set(title="Answers to ...", ylim=left.set_ylim(-115, 130))
    for axis in (left, right):
        _line_at(axis, 100, "teachers", "right")
        _line_at(axis, 0, "random", "right")


def draw_attention(weights: Tensor, kept: dict[str, Tensor], figure) -> None:
    """Draw the mean attention of the first seed's student, and what students keep when weights are replaced."""
    left, right = style.panels(figure, 2, (1.0, 1.5))
    _matrix(left, weights[0].mean(0), "Who looks at whom", reach=2 / 3)  # nothing here is far from a third
    labels = [name.replace(" ", "\n").replace("a\n", "a ") for name in kept]
    style.points_with_interval(
        right, labels, 100 * torch.stack(list(kept.values()), dim=1), ("green", "sky", "vermillion")
    )
    _line_at(right, 100, "teachers", "right")
    right.set(ylabel="return over random,\n% of the teachers'", title="Weights replaced in trained students")


def _matrix(axis, weights: Tensor, title: str, even: float = 1 / 3, reach: float = 0.15, form: str = ".2f") -> None:
    """Draw who looks at whom; colours say how far a weight is from ``even``, the strongest ``reach`` away from it."""
    axis.imshow(weights.tolist(), cmap="PuOr", vmin=even - reach, vmax=even + reach)
    for k, row in enumerate(weights.tolist()):
        for j, weight in enumerate(row):
            dark = abs(weight - even) > 0.6 * reach
            axis.text(
                j, k, f"{weight:{form}}", ha="center", va="center", fontsize=14, color="white" if dark else "black"
            )
    axis.set_xticks(range(len(TASKS)), TASKS)
    axis.set_yticks(range(len(TASKS)), TASKS)
    axis.grid(False)
    axis.set(xlabel="is looked at", ylabel="looks", title=title)


def draw_square(gradients: Gradients, trained: WithoutSquare, figure) -> None:
    """Draw the gradient's norm over the temperature, and a training's outcome, with T squared and without."""
    left, right = style.panels(figure, 2, (1.25, 1.0))
    for values, label, colour, marker, line in (
        (gradients.right, "with T²", "green", "o", "-"), (gradients.without, "without", "vermillion", "s", "--"),
    ):  # fmt: skip
        colour = style.PALETTE[colour]
        left.plot(gradients.temperatures, values.numpy(), color=colour, alpha=0.3, lw=1, ls=line)
        left.plot(
            gradients.temperatures, values.median(1).values.tolist(), color=colour, marker=marker, ls=line, label=label
        )
    left.set(xscale="log", yscale="log")
    left.set_xticks(gradients.temperatures, [f"{t:g}" for t in gradients.temperatures])
    left.minorticks_off()
    left.set(xlabel="temperature", ylabel="norm of the gradient", title="What is left of the teacher")
    left.legend(loc="lower left")
    values = 100 * torch.stack([trained.right, trained.without, trained.rewards], dim=1)
    labels = ("with T²", "without", "no\nteacher")
    style.points_with_interval(right, labels, values, ("green", "vermillion", "blue"))
    _line_at(right, 0, "random", "right")
    right.set(ylabel="return over random,\n% of the teachers'", title=f"Half rewards, T = {HOT:g}")


def draw_films(result: FilmComparison, figure) -> None:
    """Draw what the student keeps, and how far its teachers are on the way to the best."""
    left, right = style.panels(figure, 2)
    for axis, values, label, colour, of in (
        (left, result.kept, "student", "green", "% of what its teachers get"),
        (right, result.of_best, "teachers", "black", "% of what knowing\nthe tastes is worth"),
    ):
        style.points_with_interval(axis, (label,), 100 * values[:, None], (colour,))
        _line_at(axis, 100, "teachers" if axis is left else "best possible")
        axis.set(ylabel=of, ylim=(0, max(135, 108 * float(values.max()))))
    left.set(title="Return over random, people of MovieLens")


# The explorers.


def draw_watched(result: Watched, figure, controls: dict) -> None:
    """Draw teacher's and student's probabilities side by side, and what the students keep, update by update."""
    left, right = style.panels(figure, 2, (1.35, 1.0))
    places = np.arange(len(result.teacher))
    for shift, values, label, colour, hatch in (
        (-0.2, result.teacher, "teacher", "black", None),
        (0.2, result.student, "student", "green", "//"),
    ):
        left.bar(
            places + shift,
            values.tolist(),
            width=0.38,
            color=style.PALETTE[colour],
            label=label,
            hatch=hatch,
            edgecolor="white",
        )
    left.set_xticks(places, actions_of(controls["task"]))
    left.set(ylim=(0, 1.18), ylabel=f"probability at T = {controls['temperature']:g}", title=_where(controls))
    left.grid(axis="x", visible=False)
    left.legend(loc="upper right", ncols=2)
    style.band(right, result.updates, 100 * result.kept, "students", "green", "o")
    _line_at(right, 100, "teachers")
    _line_at(right, 0, "random")
    right.set(
        xlabel="update", ylabel="% of the teachers' return", ylim=(-200, 150), xlim=(-2, 1.03 * WATCHED.updates),
        title=f"ω = {controls['weight']:g}: return over random",
    )  # fmt: skip


def _where(controls: dict) -> str:
    return f"{controls['task']}, user {controls['user']}, step {controls['step']}"


def describe_watched(result: Watched, controls: dict) -> str:
    """Put the picture into words."""
    labels = make_surface(controls["task"], len(_SHOWN)).actions
    best, copied = (labels[int(p.argmax())] for p in (result.teacher, result.student))
    mean = float(result.kept[:, -1].mean())
    alike = "the student's too" if best == copied else f"the student's is {copied} ({float(result.student.max()):.2f})"
    return (
        f"Temperature {controls['temperature']:g}, share of the distillation {controls['weight']:g}. "
        f"{_where(controls)}: the teacher's likeliest action is {best} ({float(result.teacher.max()):.2f}), {alike}. "
        f"After {result.updates[-1]} updates the students keep {100 * mean:.0f} % of their teachers' return over "
        "random."
    )


def draw_looking(result: Looking, figure, controls: dict) -> None:
    """Draw what is seen, attention in this state, and how far that is from its mean over many states."""
    left, middle, right = style.panels(figure, 3, (0.9, 1.0, 1.0))
    layout = layout_of(len(result.state), len(_SHOWN))
    satiation, gone = result.state[layout.satiation].tolist(), float(result.state[layout.ignored])
    shades = [style.PALETTE[name] for name in ("blue", "blue", "blue", "vermillion")]
    left.bar([*_SHOWN, "patience\ngone"], [*satiation, gone], color=shades, width=0.6)
    left.set(ylim=(0, 1), title=_where(controls), ylabel="satiation, 1 is the most")
    left.grid(axis="x", visible=False)
    _matrix(middle, result.weights, "In this state")
    _matrix(right, result.weights - result.usual, "Minus their mean", even=0.0, reach=0.04, form="+.3f")


def describe_looking(result: Looking, controls: dict) -> str:
    """Put the picture into words."""
    rows = [
        f"{task} looks most at {TASKS[int(row.argmax())]} ({float(row.max()):.2f})"
        for task, row in zip(TASKS, result.weights, strict=True)
    ]
    moved = float((result.weights - result.usual).abs().max())
    return (
        f"{_where(controls)}, head: {controls['head']}, student {controls['when']}. {'; '.join(rows)}. The largest "
        f"difference from the mean over states is {moved:.3f}."
    )
