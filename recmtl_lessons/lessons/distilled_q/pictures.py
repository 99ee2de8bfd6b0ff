"""The lesson's looks, and those drawings that no shared one makes."""

import numpy as np
from torch import Tensor

from recmtl_lessons.envs import layout_of
from recmtl_lessons.envs.surfaces import CATEGORIES, make_surface
from recmtl_lessons.lessons.distilled_q.breaking import HOT
from recmtl_lessons.lessons.distilled_q.experiments import DISTILLING, FROM_REWARDS, TASKS, School
from recmtl_lessons.lessons.distilled_q.watching import WATCHED, Looking, Watched, answers, state_of
from recmtl_lessons.teaching import style
from recmtl_lessons.teaching.looks import Look, line_at
from recmtl_lessons.training import Scores

_SHORT, _LONG = f"{FROM_REWARDS.updates} steps", f"{DISTILLING.updates} steps"
LOOKS = {
    "rewards": Look(f"from rewards,\n{_SHORT}", "blue"),
    "short": Look(f"distilled,\n{_SHORT}", "sky"),
    "student": Look(f"distilled,\n{_LONG}", "green"),
    "ablation": Look(f"no attention,\n{_LONG}", "orange"),
    1.0: Look("this state's\nanswers", "green"),
    "wrong": Look("another\nstate's", "black"),
    "as trained": Look("as\ntrained", "green"),
    "a third each": Look("a third\neach", "sky"),
    "itself alone": Look("itself\nalone", "vermillion"),
    "with T²": Look("with T²", "green", "o", "-"),
    "without": Look("without", "vermillion", "s", "--"),
    "no teacher": Look("no\nteacher", "blue"),
    "kept": Look("student", "green"),
    "of_best": Look("teachers", "black"),
}
STUDENTS = Look("students", "green")
_LEVELS = {100: "teachers", 0: "random"}
_OF_TEACHERS = "return over random,\n% of the teachers'"
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


def _draw_shares(axis, scores: Scores, looks=LOOKS, levels=_LEVELS) -> None:
    """Draw shares of the teachers' return over random, in per cent, and levels with their names."""
    Scores(_OF_TEACHERS, scores.arms, 100 * scores.values, scores.steps).draw(axis, looks)
    for height, name in levels.items():
        line_at(axis, height, name)


def draw_comparison(kept: Scores, figure) -> None:
    """Draw what the small network keeps of its teachers' return, by how it learned."""
    (axis,) = style.panels(figure, 1)
    _draw_shares(axis, kept)
    axis.set_title("Small networks, users not learned from")


def draw_temperatures(kept: Scores, figure) -> None:
    """Draw what students keep after a short training by the temperature, and with other states' answers."""
    left, right = style.panels(figure, 2, (2.0, 1.0))
    temperatures = [t for t in kept if t != "wrong"]
    _draw_shares(left, kept.only(*temperatures), STUDENTS)
    _temperature_axis(left, temperatures)
    left.set(ylabel=_OF_TEACHERS, title="After a short training")
    _draw_shares(right, kept.only(1.0, "wrong"), levels=dict.fromkeys(_LEVELS, ""))  # named on the left
    right.set(ylabel="", title="Answers to ...", ylim=left.set_ylim(-115, 130))


def _temperature_axis(axis, temperatures) -> None:
    axis.set(xscale="log", xlabel="temperature")
    axis.set_xticks(temperatures, [f"{t:g}" for t in temperatures])
    axis.minorticks_off()


def draw_attention(weights: Tensor, kept: Scores, figure) -> None:
    """Draw the mean attention of the first seed's student, and what students keep when weights are replaced."""
    left, right = style.panels(figure, 2, (1.0, 1.5))
    _matrix(left, weights[0].mean(0), "Who looks at whom", reach=2 / 3)  # nothing here is far from a third
    _draw_shares(right, kept, levels={100: "teachers"})
    right.set(title="Weights replaced in trained students", xlim=(-1.0, 2.5))  # with room for a name on the left


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


def draw_square(norms: dict[str, Scores], trained: Scores, figure) -> None:
    """Draw the gradient's norm over the temperature, and a training's outcome, with T squared and without."""
    left, right = style.panels(figure, 2, (1.25, 1.0))
    for name, scores in norms.items():
        look, colour = LOOKS[name], style.PALETTE[LOOKS[name].colour]
        left.plot(scores.arms, scores.values.numpy(), color=colour, alpha=0.3, lw=1, ls=look.line)
        medians = scores.values.median(1).values.tolist()
        left.plot(scores.arms, medians, color=colour, marker=look.marker, ls=look.line, label=look.label)
    _temperature_axis(left, scores.arms)
    left.set(yscale="log", ylabel=scores.measure, title="What is left of the teacher")
    left.legend(loc="lower left")
    _draw_shares(right, trained, levels={0: "random"})
    right.set(title=f"Half rewards, T = {HOT:g}", xlim=(-1.0, 2.5))


def draw_films(films: Scores, figure) -> None:
    """Draw what the student keeps, and how far its teachers are on the way to the best."""
    for axis, arm, most, of in zip(
        style.panels(figure, 2), films, ("teachers", "best possible"),
        ("% of what its teachers get", "% of what knowing\nthe tastes is worth"), strict=True,
    ):  # fmt: skip
        _draw_shares(axis, films.only(arm), levels={100: most})
        axis.set(ylabel=of, ylim=(0, max(135, 108 * float(films[arm].max()))))
    figure.axes[0].set_title("Return over random, people of MovieLens")


# The explorers.


def draw_watched(result: Watched, figure, controls: dict) -> None:
    """Draw teacher's and student's probabilities side by side, and what the students keep, update by update."""
    left, right = style.panels(figure, 2, (1.35, 1.0))
    places = np.arange(len(result.teacher))
    for shift, values, label, colour, hatch in (
        (-0.2, result.teacher, "teacher", "black", None),
        (0.2, result.student, "student", "green", "//"),
    ):
        left.bar(places + shift, values.tolist(), width=0.38, color=style.PALETTE[colour], label=label, hatch=hatch,
                 edgecolor="white")  # fmt: skip
    left.set_xticks(places, actions_of(controls["task"]))
    left.set(ylim=(0, 1.18), ylabel=f"probability at T = {controls['temperature']:g}", title=_where(controls))
    left.grid(axis="x", visible=False)
    left.legend(loc="upper right", ncols=2)
    _draw_shares(right, result.kept, {"student": STUDENTS})
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
    mean = float(result.kept.at_end()["student"].mean())
    alike = "the student's too" if best == copied else f"the student's is {copied} ({float(result.student.max()):.2f})"
    return (
        f"Temperature {controls['temperature']:g}, share of the distillation {controls['weight']:g}. "
        f"{_where(controls)}: the teacher's likeliest action is {best} ({float(result.teacher.max()):.2f}), {alike}. "
        f"After {result.kept.steps[-1]} updates the students keep {100 * mean:.0f} % of their teachers' return over "
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
