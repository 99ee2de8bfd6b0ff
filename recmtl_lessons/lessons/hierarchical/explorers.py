"""The lesson's explorers: a session whose goals one may choose, and a training to steer."""

from functools import partial

from recmtl_lessons.envs.surfaces import CATEGORIES
from recmtl_lessons.envs.users import N_CATEGORIES
from recmtl_lessons.lessons.hierarchical.pictures import describe_live, describe_timeline, draw_live, draw_timeline
from recmtl_lessons.lessons.hierarchical.questions import LESSON
from recmtl_lessons.lessons.hierarchical.sessions import LATE, TRAINING, Comparison, train_live
from recmtl_lessons.lessons.hierarchical.watching import LEFT_TO_IT, SHOWN_USERS, follow
from recmtl_lessons.teaching import Choice, Explorer, Slider


def explore_goals(result: Comparison, agent: int = 0) -> Explorer:
    """Return the explorer of a session with one of the trained agents: whose it is, and who chooses the goals."""
    options = (LEFT_TO_IT, *CATEGORIES[:N_CATEGORIES])
    places = ("First goal", "Second goal", "Third goal")
    goals = [Choice(f"goal_{k}", place, options, LEFT_TO_IT) for k, place in enumerate(places, 1)]
    return Explorer(
        lesson=LESSON,
        key="explorer-goals",
        title="A session at two levels",
        controls=[Slider("user", "User", tuple(range(SHOWN_USERS)), 1), *goals],
        compute=partial(follow, result, agent=agent),
        draw=draw_timeline,
        describe=describe_timeline,
        seeded=True,
        size=(11.0, 6.2),
    )


def explore_training() -> Explorer:
    """Return the explorer of training: how long a goal lasts and how late the reward comes, beside the flat policy."""
    return Explorer(
        lesson=LESSON,
        key="explorer-training",
        title="Two levels beside one",
        controls=[
            Slider("goal_steps", "A goal lasts at most", (1, 2, 5, 10, 20, 30), TRAINING.goal_steps, "steps"),
            Slider("clicks_needed", "A reward takes", (1, 2, 4, 6, 8, 12), LATE, "clicks in one category"),
        ],
        compute=train_live,
        draw=draw_live,
        describe=describe_live,
        seeded=True,
        size=(10.0, 4.4),
    )
