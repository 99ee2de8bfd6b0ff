"""The lesson's explorers: three users in a plane, and a race."""

from recmtl_lessons.lessons.reptile.pictures import describe_plane, describe_race, draw_plane, draw_race
from recmtl_lessons.lessons.reptile.plane import UPDATES, reptile_in_the_plane
from recmtl_lessons.lessons.reptile.questions import LESSON
from recmtl_lessons.lessons.reptile.race import BUDGETS, RIVALS, race
from recmtl_lessons.teaching import Choice, Explorer, Slider


def explore_plane() -> Explorer:
    """Return the explorer of the outer step: where three users pull, and where the meta-parameters come to rest."""
    return Explorer(
        lesson=LESSON,
        key="explorer-plane",
        title="Three users pull",
        controls=[
            Slider("inner_steps", "Inner steps, k", (1, 2, 3, 5, 10, 20), 5),
            Slider("inner_lr", "Inner rate, α", (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6), 0.1),
            Slider("meta_lr", "Outer rate, ε", (0.1, 0.2, 0.3, 0.5, 1.0, 1.5, 2.0, 2.5), 0.3),
            Slider("update", "Show the inner loops of update", tuple(range(1, UPDATES + 1)), 3),
        ],
        compute=reptile_in_the_plane,
        draw=draw_plane,
        describe=describe_plane,
        size=(11.0, 4.8),
    )


def explore_race() -> Explorer:
    """Return the explorer of cost: both methods train live, on equal gradients or for equal seconds."""
    return Explorer(
        lesson=LESSON,
        key="explorer-race",
        title="MAML against Reptile",
        controls=[
            Choice("budget", "Both may use", BUDGETS, BUDGETS[0]),
            Slider("inner_steps", "Reptile's inner steps, k", (1, 2, 4, 8), 4),
            Slider("meta_lr", "Reptile's outer rate, ε", (0.1, 0.25, 0.5, 1.0, 1.5, 2.0), 1.0),
            Choice("rival", "Against", RIVALS, "MAML"),
        ],
        compute=race,
        draw=draw_race,
        describe=describe_race,
        seeded=True,
        size=(9.0, 4.4),
    )
