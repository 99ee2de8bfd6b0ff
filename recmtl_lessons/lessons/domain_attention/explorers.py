"""The lesson's explorers: attention itself, and its temperature and width."""

from recmtl_lessons.lessons.domain_attention.experiments import DOMAINS, Comparison, train_live
from recmtl_lessons.lessons.domain_attention.looking import LOOKED_AT, look, typical_user
from recmtl_lessons.lessons.domain_attention.pictures import describe_live, describe_look, draw_live, draw_look
from recmtl_lessons.lessons.domain_attention.questions import LESSON
from recmtl_lessons.teaching import Choice, Explorer, Slider, log_stops


def explore_users() -> Explorer:
    """Return the explorer of attention: a user, a shop to ask about, a history to shorten, a shop to take out.

    It starts with a typical user, see `typical_user`.
    """
    asked, longest = "films", 32
    return Explorer(
        lesson=LESSON,
        key="explorer-look",
        title="Whom does the prediction listen to?",
        controls=[
            Slider("user", "User", tuple(range(1, LOOKED_AT + 1)), typical_user(asked, longest)),
            Choice("asked", "Shop asked about", DOMAINS, asked),
            Slider("length", "History in the closest shop", (0, 1, 2, 4, 8, 16, longest), longest),
            Choice("out", "Take out", ("none", *DOMAINS), "none"),
        ],
        compute=look,
        draw=draw_look,
        describe=describe_look,
        size=(11.0, 4.3),
    )


def explore_training(reference: Comparison) -> Explorer:
    """Return the explorer of temperature and width: eight networks train at each move."""
    return Explorer(
        lesson=LESSON,
        key="explorer-train",
        title="How sharp, and how wide?",
        controls=[
            Slider("temperature", "Temperature of the softmax", log_stops(0.1, 100.0, 4), 1.0),
            Slider("attention_dim", "Width of queries and keys", (1, 2, 4, 8, 16, 32), 8),
        ],
        compute=train_live,
        draw=lambda result, figure, controls: draw_live(result, reference.live_auc, figure),
        describe=describe_live,
        seeded=True,
        size=(10.0, 4.2),
    )
