"""The lesson's explorers: rounds of clients, and messages under masks."""

from recmtl_lessons.lessons.federated.experiments import send_masked, train_live
from recmtl_lessons.lessons.federated.pictures import describe_live, describe_masked, draw_live, draw_masked
from recmtl_lessons.lessons.federated.questions import LESSON
from recmtl_lessons.teaching import Choice, Explorer, Slider, Toggle


def explore_rounds() -> Explorer:
    """Return the explorer of federated rounds, with epsilon beside the error."""
    return Explorer(
        lesson=LESSON,
        key="explorer-rounds",
        title="Rounds of clients",
        controls=[
            Slider("local_steps", "Local steps", (1, 2, 5, 10, 20), 5),
            Slider("clients", "People a round, of 300, on average", (5, 10, 30, 60, 150), 30),
            Slider("spread", "How far tastes differ", [k / 10 for k in range(11)], 0.7),
            Slider("noise", "Noise multiplier", (0.0, 0.5, 1.0, 2.0, 4.0), 0.0),
            Slider("clip", "Clip, the longest an update may be", (0.05, 0.1, 0.2, 0.4, 0.8), 0.4),
        ],
        compute=train_live,
        draw=draw_live,
        describe=describe_live,
        seeded=True,
        size=(11.0, 4.4),
    )


def explore_masks() -> Explorer:
    """Return the explorer of one client's message, and of the sum in which the masks vanish."""
    return Explorer(
        lesson=LESSON,
        key="explorer-masks",
        title="Messages under masks",
        controls=[
            Slider("client", "Look at client", (1, 2, 3, 4, 5), 1),
            Choice("dropped", "Who drops out", ("nobody", "1", "2", "3", "4", "5"), "nobody"),
            Toggle("shares", "The others give shares of the lost key", False),
            Choice("masks", "Masks", ("whole numbers", "floats"), "whole numbers"),
        ],
        compute=_masked,
        draw=draw_masked,
        describe=describe_masked,
        size=(13.0, 4.2),
    )


def _masked(client: int, dropped: str, shares: bool, masks: str):
    return send_masked(dropped, shares, masks)
