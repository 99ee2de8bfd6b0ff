"""The lesson's explorers: lambda, and its schedule."""

from recmtl_lessons.lessons.domain_adversarial.experiments import train_live
from recmtl_lessons.lessons.domain_adversarial.pictures import describe_live, draw_live, draw_schedule
from recmtl_lessons.lessons.domain_adversarial.questions import LESSON
from recmtl_lessons.teaching import Explorer, Slider, log_stops
from recmtl_lessons.training import Scores


def explore_lambda(band: dict[str, Scores]) -> Explorer:
    """Return the explorer of lambda: features, curves, and where you stand in the pre-trained band."""
    return Explorer(
        lesson=LESSON,
        key="explorer-lambda",
        title="Turn up the adversary",
        controls=[Slider("lam", "Strength of the reversal, λ", log_stops(0.03, 10.0, 6, zero=True), 1.0)],
        compute=train_live,
        draw=lambda result, figure, controls: draw_live(result, band, figure, controls),
        describe=describe_live,
        seeded=True,
        size=(10.4, 4.4),
    )


def explore_schedule() -> Explorer:
    """Return the explorer of the schedule: how lambda rises, and what training makes of it."""
    return Explorer(
        lesson=LESSON,
        key="explorer-schedule",
        title="When should the encoder start to listen?",
        controls=[
            Slider("gamma", "Steepness of the schedule, γ", [float(g) for g in range(0, 41)], 4.0),
            Slider("lam", "Final strength, λ", log_stops(0.1, 10.0, 6), 1.0),
        ],
        compute=train_live,
        draw=draw_schedule,
        describe=lambda result, controls: f"Steepness γ = {controls['gamma']:g}. {describe_live(result, controls)}",
        seeded=True,
        size=(10.0, 4.2),
    )
