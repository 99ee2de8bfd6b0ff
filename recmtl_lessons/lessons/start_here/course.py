"""The fourteen lessons, and the map that shows what a learner has done in each."""

import html
import importlib.util
from dataclasses import dataclass
from importlib import import_module

from IPython.display import display

from recmtl_lessons.teaching import Lesson, style


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
    Entry(1, "domain_adversarial", "Domain-adversarial training", "Cross-domain transfer", 100),
    Entry(2, "cross_domain_transfer", "Matching distributions, linking people", "Cross-domain transfer", 60),
    Entry(3, "domain_attention", "Attention across domains", "Cross-domain transfer", 60),
    Entry(4, "maml", "MAML: learning to adapt", "Meta-learning", 75),
    Entry(5, "reptile", "Reptile", "Meta-learning", 60),
    Entry(6, "prototypical", "Prototypical networks", "Meta-learning", 60),
    Entry(7, "policy", "Policies for several tasks", "Multi-task reinforcement learning", 75),
    Entry(8, "distilled_q", "Distilled Q-networks", "Multi-task reinforcement learning", 60),
    Entry(9, "hierarchical", "Hierarchy: deciding at two levels", "Multi-task reinforcement learning", 75),
    Entry(10, "continual", "Continual learning", "Training", 110),
    Entry(11, "balancing", "Balancing tasks", "Training", 130),
    Entry(12, "federated", "Federated meta-learning", "Training", 90),
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
