"""The lesson's explorers: a session to watch, and a training to steer."""

from functools import partial

from recmtl_lessons.envs import SURFACES
from recmtl_lessons.lessons.policy.experiments import TEST_USERS, Comparison, train_live
from recmtl_lessons.lessons.policy.pictures import describe_live, describe_session, draw_live, draw_session
from recmtl_lessons.lessons.policy.questions import LESSON
from recmtl_lessons.lessons.policy.watching import ACTORS, STEPS, watch
from recmtl_lessons.teaching import Choice, Explorer, Slider


def explore_session(result: Comparison) -> Explorer:
    """Return the explorer of a session: who acts, for whom, and where in the session one looks."""
    return Explorer(
        lesson=LESSON,
        key="explorer-session",
        title="A session, action by action",
        controls=[
            Choice("task", "Surface", SURFACES, "home"),
            Choice("actor", "Who acts", ACTORS, ACTORS[0]),
            Slider("user", "User", tuple(range(TEST_USERS)), 3),
            Slider("step", "Look at step", tuple(range(1, STEPS + 1)), 4),
        ],
        compute=partial(watch, result),
        draw=draw_session,
        describe=describe_session,
        seeded=True,
        size=(11.0, 6.6),
    )


def explore_training() -> Explorer:
    """Return the explorer of a live training: what is learned, in which world, from how much, against the optimum."""
    return Explorer(
        lesson=LESSON,
        key="explorer-training",
        title="One policy for three tasks",
        controls=[
            Slider("entropy", "Entropy bonus", (0.0, 0.003, 0.01, 0.03, 0.1, 0.3), 0.01),
            Slider("discount", "Discount, γ", (0.0, 0.3, 0.6, 0.8, 0.9, 0.95), 0.9),
            Slider("sharing", "Sharing of tastes", (0.0, 0.25, 0.5, 0.75, 1.0), 1.0),
            Slider("satiation", "Satiation, β", (0.0, 0.5, 1.0, 1.5), 1.0, "logits"),
            Slider("rollouts", "Rollouts", (10, 20, 40, 80), 20),
        ],
        compute=train_live,
        draw=draw_live,
        describe=describe_live,
        seeded=True,
        size=(10.0, 4.4),
    )
