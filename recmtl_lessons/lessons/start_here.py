"""Notebook 00: the map of the course, the world made visible, and one of each thing to try."""

import html
import importlib.metadata
import importlib.util
import math
import platform
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from IPython.display import display
from torch import Tensor

from recmtl_lessons.datasets import DataUnavailable, World, WorldSettings, load_movielens, make_world
from recmtl_lessons.teaching import Explorer, Lesson, Slider, style
from recmtl_lessons.teaching.exercise import Exercise, Outcome, right, wrong
from recmtl_lessons.teaching.quiz import Predict, Quiz
from recmtl_lessons.training import default_device

LESSON = Lesson(
    "start_here",
    {
        "predict": "Make a prediction",
        "explorer-world": "Move the world",
        "quiz": "Answer a question",
        "exercise-agreement": "Write a line or two",
    },
)


@dataclass(frozen=True)
class Entry:
    """A lesson on the map: ``notebooks/{number:02d}_{name}.ipynb``."""

    number: int
    name: str
    title: str
    section: str
    minutes: int

    @property
    def notebook(self) -> str:
        """File name of the lesson's notebook."""
        return f"{self.number:02d}_{self.name}.ipynb"

    def lesson(self) -> Lesson | None:
        """The lesson's activities; None while it is not written yet."""
        module = f"recmtl_lessons.lessons.{self.name}"
        # A folder without code, such as git leaves behind for its caches, can be imported and holds no lesson.
        return getattr(import_module(module), "LESSON", None) if importlib.util.find_spec(module) else None


COURSE = (
    Entry(0, "start_here", "Start here", "The map", 20),
    Entry(1, "domain_adversarial", "Domain-adversarial training", "Cross-domain transfer", 60),
    Entry(2, "cross_domain_transfer", "Matching distributions, linking people", "Cross-domain transfer", 60),
    Entry(3, "domain_attention", "Attention across domains", "Cross-domain transfer", 60),
    Entry(4, "maml", "MAML: learning to adapt", "Meta-learning", 75),
    Entry(5, "reptile", "Reptile", "Meta-learning", 60),
    Entry(6, "prototypical", "Prototypical networks", "Meta-learning", 60),
    Entry(7, "policy", "Policies for several tasks", "Multi-task reinforcement learning", 75),
    Entry(8, "distilled_q", "Distilled Q-networks", "Multi-task reinforcement learning", 60),
    Entry(9, "hierarchical", "Hierarchy: deciding at two levels", "Multi-task reinforcement learning", 75),
    Entry(10, "continual", "Continual learning", "Training", 60),
    Entry(11, "balancing", "Balancing tasks", "Training", 60),
    Entry(12, "federated", "Federated meta-learning", "Training", 75),
    Entry(13, "study_questions", "The twelve study questions", "The map", 60),
)


# The map.


def show_map() -> None:
    """Display the fourteen lessons, with what the learner has done in each."""
    rows, plain, section = [], [], ""
    for entry in COURSE:
        if entry.section != section:
            section = entry.section
            rows.append(f'<tr><th colspan="4" style="{_HEAD}">{html.escape(section)}</th></tr>')
        lesson = entry.lesson()
        done, total = _progress(lesson)
        title = html.escape(entry.title)
        shown = f'<a href="{entry.notebook}">{title}</a>' if lesson else title
        state = _dots(done, total) if lesson else '<span style="opacity:0.6">not written yet</span>'
        words = f"{done} of {total} done" if lesson else "not written yet"
        rows.append(
            f'<tr><td style="{_CELL}">{entry.number:02d}</td><td style="{_CELL}">{shown}</td>'
            f'<td style="{_CELL};text-align:right">{entry.minutes} min</td><td style="{_CELL}">{state}</td></tr>'
        )
        plain.append(f"{entry.number:02d}  {entry.title:<36} {entry.minutes:>3} min  {words}")
    table = f'<table style="border-collapse:collapse;font-size:15px">{"".join(rows)}</table>'
    display({"text/html": table, "text/plain": "\n".join(plain)}, raw=True)


_HEAD = f"text-align:left;padding:12px 10px 4px 0;color:{style.PALETTE['blue']}"
_CELL = "text-align:left;padding:3px 18px 3px 0"


def _progress(lesson: Lesson | None) -> tuple[int, int]:
    states = list(lesson.states().values()) if lesson else []
    return states.count("done"), len(states)


def _dots(done: int, total: int) -> str:
    dots = f'<span style="color:{style.PALETTE["green"]}">{"●" * done}</span>{"○" * (total - done)}'
    return f'<span aria-hidden="true" style="letter-spacing:2px">{dots}</span> {done} of {total} done'


# The set-up.


@dataclass(frozen=True)
class Finding:
    """One thing the set-up needs: what it is, what was found, and what to do if it is not right."""

    what: str
    found: str
    fine: bool
    remedy: str = ""


def check_setup() -> list[Finding]:
    """Look at versions, device, data and the Jupyter setting that the explorers rely on."""
    packages = map(_package, ("torch", "jupyterlab", "ipywidgets", "anywidget"))
    return [_python(), *packages, _device(), _jupyter(), _data()]


def show_setup() -> None:
    """Display what `check_setup` finds, with a remedy for each thing that is missing."""
    findings = check_setup()
    lines = [f"{'✓' if f.fine else '✗'} {f.what}: {f.found}{'' if f.fine else '. ' + f.remedy}" for f in findings]
    items = "".join(
        f'<li style="list-style:none;margin:2px 0">{_sign(f.fine)} <strong>{html.escape(f.what)}</strong> '
        f"{html.escape(f.found)}{'' if f.fine else '<br>' + html.escape(f.remedy)}</li>"
        for f in findings
    )
    display({"text/html": f'<ul style="padding-left:0">{items}</ul>', "text/plain": "\n".join(lines)}, raw=True)


def _sign(fine: bool) -> str:
    colour = style.PALETTE["green" if fine else "vermillion"]
    return f'<span style="color:{colour}">{"✓" if fine else "✗"}</span>'


_INSTALL = "Run the README's first command again; it brings every package to the version of this course."


def _python() -> Finding:
    fine = sys.version_info >= (3, 11)
    return Finding("Python", platform.python_version(), fine, "The course needs 3.11 or later.")


def _package(name: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name), True)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "missing", False, _INSTALL)


def _device() -> Finding:
    try:
        device = default_device()
    except ValueError as error:
        return Finding("device", str(error), False, "Unset RECMTL_DEVICE, or set it to cpu.")
    return Finding(
        "device", f"{device.type}{'' if device.type == 'cuda' else ', which is enough for every lesson'}", True
    )


def _jupyter() -> Finding:
    setting = Path(sys.prefix, "share/jupyter/lab/settings/overrides.d/recmtl_lessons.json")
    remedy = "Moving a slider while a cell draws may disturb the picture. " + _INSTALL
    return Finding(
        "JupyterLab's setting for explorers", "in place" if setting.exists() else "missing", setting.exists(), remedy
    )


def _data() -> Finding:
    try:
        ratings = load_movielens()
    except DataUnavailable as error:
        return Finding("MovieLens", "not here; the lessons skip their real-data cells", False, str(error))
    return Finding(
        "MovieLens", f"{len(ratings):,} ratings of {ratings.n_items:,} films by {ratings.n_users} users", True
    )


# The world made visible.


RELATED = ((1.0, 0.8, 0.2), (0.8, 1.0, 0.5), (0.2, 0.5, 1.0))


def draw_relatedness(world: World, figure) -> None:
    """Draw how related the domains are: the matrix the world was made with, and what its users' tastes show."""
    import seaborn

    tastes = world.tastes.permute(1, 0, 2).flatten(1)  # (D, n_users * K)
    pairs = (("the truth", world.relatedness), ("measured in the tastes", torch.corrcoef(tastes)))
    for axis, (title, matrix) in zip(style.panels(figure, 2), pairs, strict=True):
        seaborn.heatmap(
            matrix.numpy(), ax=axis, annot=True, fmt=".2f", cmap="cividis", vmin=0, vmax=1, square=True, cbar=False,
            xticklabels=world.settings.domains, yticklabels=world.settings.domains,
        )  # fmt: skip
        axis.set_title(title)


def related_world(seed: int = 0) -> World:
    """A world in which books and films are close, and books and games are not."""
    return make_world(WorldSettings(relatedness=RELATED, interactions=10), seed)


def explore_world() -> Explorer:
    """The explorer of the world's knobs."""
    tenths = [k / 10 for k in range(11)]
    return Explorer(
        lesson=LESSON,
        key="explorer-world",
        title="A shop whose truth is known",
        controls=[
            Slider("relatedness", "Relatedness of tastes", tenths, 0.7),
            Slider("overlap", "Users who shop everywhere", tenths, 0.5),
            Slider("sparsity", "Sparsity, domain by domain", tenths[:-1], 0.4),
            Slider("nuisance", "Strength of the nuisance", [k / 10 for k in range(16)], 0.6),
            Slider("shift", "Shift of the nuisance", [k / 5 for k in range(11)], 1.4),
        ],
        compute=lambda seed, **knobs: make_world(WorldSettings(interactions=3000, **knobs), seed),
        draw=draw_world,
        describe=describe_world,
        seeded=True,
        size=(10.0, 4.2),
    )


def draw_world(world: World, figure) -> None:
    """Draw tastes in two domains, interactions by domain, and what the nuisance says of clicks."""
    tastes, counts, nuisance = style.panels(figure, 3)
    first, second, _ = names = world.settings.domains
    tastes.scatter(*world.tastes[:300, :2, 0].T, s=22, color=style.PALETTE["blue"], alpha=0.5)
    tastes.axline((0, 0), slope=1, color="#555555", lw=1.2, ls=":")
    tastes.set(
        xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), xlabel=f"taste in {first}", ylabel=f"taste in {second}",
        title="Users (300 shown)",
    )  # fmt: skip
    _draw_counts(world, counts)
    lean = _nuisance(world)
    for clicked, colour, marker, shift in ((True, "vermillion", "^", 0.1), (False, "blue", "o", -0.1)):
        for d in range(len(names)):
            values = lean[(world.domain == d) & ((world.click > 0) == clicked)]
            label = ("clicked" if clicked else "not clicked") if d == 0 else None
            nuisance.errorbar(
                d + shift, values.mean(), values.std(), fmt=marker, ms=10, lw=2.5, capsize=5,
                color=style.PALETTE[colour], label=label,
            )  # fmt: skip
    nuisance.axhline(0, color="#555555", lw=1.2, ls=":")
    nuisance.set_xticks(range(len(names)), names)
    nuisance.set(ylim=(-3.2, 3.2), xlim=(-0.5, 2.5), ylabel="nuisance, mean ± sd", title="What the nuisance says")
    nuisance.legend(loc="lower left")


def _draw_counts(world: World, axis) -> None:
    everywhere = world.active.all(1)[world.user]
    for d in range(len(world.settings.domains)):
        here = world.domain == d
        shared, alone = int((here & everywhere).sum()), int((here & ~everywhere).sum())
        axis.bar(d, shared, color=style.PALETTE["green"], label="users of all domains" if d == 0 else None)
        axis.bar(d, alone, bottom=shared, color=style.PALETTE["sky"], hatch="//", edgecolor="white",
                 label="users of this one alone" if d == 0 else None)  # fmt: skip
    axis.set_xticks(range(len(world.settings.domains)), world.settings.domains)
    axis.set(ylim=(0, 4300), ylabel="interactions", title="Who shops where")
    axis.legend(loc="upper right", fontsize=11)


def _nuisance(world: World) -> Tensor:
    """Mean of the nuisance features of each row, with the mixing undone: (N,)."""
    unmixed = world.features @ world.mixing.T
    return unmixed[:, world.settings.taste_dim :].mean(1)


def describe_world(world: World) -> str:
    """The picture of the world in words."""
    first, second, last = world.settings.domains
    correlation = torch.corrcoef(world.tastes[:, :2, 0].T)[0, 1]
    lean = _nuisance(world)

    def gap(d: int) -> float:
        here = world.domain == d
        return float(lean[here & (world.click > 0)].mean() - lean[here & (world.click == 0)].mean())

    counts = torch.bincount(world.domain, minlength=3).tolist()
    return (
        f"Tastes in {first} and {second} correlate at {correlation:.2f}. Interactions: {counts[0]}, {counts[1]} and "
        f"{counts[2]}. Beside a click the nuisance is higher by {gap(0):+.1f} in {first}, by {gap(2):+.1f} in {last}."
    )


# One of each, to try.

prediction = Predict(
    LESSON,
    "predict",
    "Tastes in books and in films correlate at 0.7. For how many users do the two have the same sign?",
    {
        "About 70 %": "A correlation is not a share: uncorrelated tastes already agree for half of the users.",
        "About 75 %": "For two normal variables the share is 1/2 + arcsin(correlation) / π, here 0.747.",
        "About 85 %": "That is halfway from 50 % to 100 % by a straight line. The true curve is an arcsine, and lies "
        "below the line until the correlation is nearly 1.",
        "About 95 %": "So much agreement needs a correlation of 0.99.",
    },
)
THREE_QUARTERS = tuple(prediction.choices)[1]


def agreement(first: Tensor, second: Tensor) -> float:
    """Share of places in which two tensors have the same sign."""
    same = torch.sign(first) == torch.sign(second)
    return same.float().mean().item()


def share_of_equal_signs(correlation: float) -> float:
    """What the share is for two normal variables of this correlation: 1/2 + arcsin(correlation) / π."""
    return 0.5 + math.asin(correlation) / math.pi


def agreement_by_seed(correlation: float = 0.7, seeds: int = 8) -> Tensor:
    """Measured share of users whose tastes in the first two domains have the same sign: (seeds,)."""
    worlds = (make_world(WorldSettings(relatedness=correlation, interactions=10), seed) for seed in range(seeds))
    return torch.tensor([agreement(w.tastes[:, 0], w.tastes[:, 1]) for w in worlds])


def _check_agreement(answer) -> Outcome:
    first = torch.tensor([1.0, -2.0, 3.0, -4.0, -0.5])
    second = torch.tensor([2.0, -1.0, -3.0, 4.0, -0.1])
    got = float(answer(first, second))
    mistakes = (
        (3.0, "You count the places that agree. A share is that count divided by the number of places."),
        (0.4, "You measured how often the signs differ."),
        (float(torch.corrcoef(torch.stack([first, second]))[0, 1]), "That is the correlation, not a share."),
        (float((first * second).mean()), "You average the products themselves; only their signs matter."),
    )
    for mistaken, message in mistakes:
        if abs(got - mistaken) < 1e-6:
            return wrong(message)
    if abs(got - 0.6) > 1e-6:
        return wrong(f"For {first.tolist()} and {second.tolist()} I expected 0.6, and got {got:g}.")
    return right("Three of five signs agree. Checks in this course speak like this: they name the mistake they see.")


exercise_agreement = Exercise(
    LESSON,
    "exercise-agreement",
    title="How often do two tastes agree?",
    level="beginner",
    minutes=3,
    task="Return the share of places, from 0 to 1, in which two tensors of the same length have the same sign.",
    check=_check_agreement,
    hints=["`torch.sign` gives −1, 0 or 1.", "Compare the two signs, turn the answer into floats, and take the mean."],
    solution=agreement,
    wrong_answers={
        "a count": (lambda a, b: (torch.sign(a) == torch.sign(b)).sum(), "divided by the number"),
        "the opposite": (lambda a, b: (torch.sign(a) != torch.sign(b)).float().mean(), "how often the signs differ"),
        "the correlation": (lambda a, b: torch.corrcoef(torch.stack([a, b]))[0, 1], "correlation"),
        "the products": (lambda a, b: (a * b).mean(), "average the products"),
        "positive only": (lambda a, b: ((a > 0) & (b > 0)).float().mean(), "expected 0.6"),
    },
)

quiz = Quiz(
    LESSON,
    "quiz",
    "A claim cell says: effect +0.03, 95 % interval [−0.01, +0.07], 8 seeds. What do you know?",
    {
        "There is an effect, and its size is close to 0.03": "That is only the middle. Eight other seeds would give "
        "another middle, and zero lies inside the interval.",
        "These seeds cannot tell whether there is an effect": "Zero lies inside the interval, and so do effects "
        "that would matter. A claim of a gain would raise here, and the tests of the course would fail.",
        "There is no effect, as the interval contains zero": "Containing zero is not being zero: 0.07 is as compatible "
        "with these seeds as −0.01. To claim that there is none, the whole interval must lie close to zero.",
    },
    "These seeds cannot tell whether there is an effect",
)
