"""The lesson's explorers: a student at school, and which task looks at which."""

from functools import partial

from recmtl_lessons.lessons.distilled_q.experiments import TASKS, School
from recmtl_lessons.lessons.distilled_q.pictures import describe_looking, describe_watched, draw_looking, draw_watched
from recmtl_lessons.lessons.distilled_q.questions import LESSON
from recmtl_lessons.lessons.distilled_q.watching import HEADS, STEPS, USERS, WHEN, look, watch
from recmtl_lessons.teaching import Choice, Explorer, Slider
from recmtl_lessons.training import Stack


def _state() -> list:
    return [
        Choice("task", "Session on", TASKS, TASKS[0]),
        Slider("user", "User", tuple(range(1, USERS + 1)), 1),
        Slider("step", "Step of the session", tuple(range(1, STEPS + 1)), 3),
    ]


def explore_distilling(school: School) -> Explorer:
    """Return the explorer of temperature and weight: the student trains live beside its teacher."""
    return Explorer(
        lesson=LESSON,
        key="explorer-distilling",
        title="A student beside its teacher",
        controls=[
            Slider("temperature", "Temperature, T", (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0), 1.0),
            Slider("weight", "Share of the distillation, ω", (0.0, 0.25, 0.5, 0.75, 1.0), 1.0),
            *_state(),
        ],
        compute=partial(watch, school),
        draw=draw_watched,
        describe=describe_watched,
        size=(10.5, 4.4),
    )


def explore_attention(school: School, students: Stack) -> Explorer:
    """Return the explorer of attention, task by task, in a state that one picks."""
    return Explorer(
        lesson=LESSON,
        key="explorer-attention",
        title="Which task looks at which",
        controls=[
            *_state(),
            Choice("head", "Head", HEADS, HEADS[0]),
            Choice("when", "The student is", WHEN, WHEN[0]),
        ],
        compute=partial(look, school, students),
        draw=draw_looking,
        describe=describe_looking,
        size=(10.5, 4.0),
    )
