"""The lesson's explorers: one wave, one user's path, and the reader as a new user."""

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.lessons.maml.path import ORDERS, SHOTS_TO_TRY, adaptation_path
from recmtl_lessons.lessons.maml.pictures import (
    describe_fit,
    describe_path,
    describe_recommendations,
    draw_fit,
    draw_path,
    draw_recommendations,
    short_title,
)
from recmtl_lessons.lessons.maml.questions import LESSON
from recmtl_lessons.lessons.maml.reader import TO_RATE, open_desk, recommend
from recmtl_lessons.lessons.maml.sinusoid import SHORT_STEPS, ShortRun, fit_a_wave
from recmtl_lessons.teaching import Choice, Explorer, Slider, log_stops
from recmtl_lessons.training.few_shot import Compared


def explore_waves(run: ShortRun) -> Explorer:
    """Return the explorer of the first meeting: one wave, its points, and two networks that fit it step by step."""
    return Explorer(
        lesson=LESSON,
        key="explorer-waves",
        title="One wave, step by step",
        controls=[
            Slider("step", "Inner steps", tuple(range(SHORT_STEPS + 1)), 1),
            Slider("points", "Points of the wave", tuple(range(1, 21)), 10),
            Slider("amplitude", "Amplitude", tuple(k / 10 for k in range(1, 51)), 3.0),
            Slider("phase", "Phase", tuple(k / 10 for k in range(32)), 1.0),
        ],
        compute=lambda step, **wave: fit_a_wave(run, **wave),
        draw=draw_fit,
        describe=describe_fit,
        size=(11.0, 4.2),
    )


def explore_path(result: Compared) -> Explorer:
    """Return the explorer of adapting: where it starts, how far each step goes, how many there are, and on what."""
    return Explorer(
        lesson=LESSON,
        key="explorer-path",
        title="Where do a few steps lead?",
        controls=[
            Choice("start", "Starting point", tuple(ORDERS), "MAML"),
            Slider("rate", "Inner learning rate", log_stops(0.003, 3.0, 6), 0.05),
            Slider("steps", "Inner steps", (1, 2, 3, 5, 10, 20), 3),
            Slider("shots", "Ratings to learn from", SHOTS_TO_TRY, 10),
            Slider("user", "User", tuple(range(1, 101)), 1),
        ],
        compute=lambda **controls: adaptation_path(result, **controls),
        draw=draw_path,
        describe=describe_path,
        size=(11.0, 4.4),
    )


def explore_cold_start(ratings: Ratings, result: Compared) -> Explorer:
    """Return the explorer of the reader's own cold start: ten films to rate, and what each step recommends."""
    desk = open_desk(ratings, result.models["MAML"].model(0))
    first = {"toy_story": 5, "shrek": 5, "mask": 4, "alien": 1, "fargo": 1}
    sliders = [
        Slider(key, short_title(title), (0, 1, 2, 3, 4, 5), first.get(key, 0), "stars")
        for key, title in TO_RATE.items()
    ]
    return Explorer(
        lesson=LESSON,
        key="explorer-cold-start",
        title="Rate ten films (0: not seen)",
        controls=[*sliders, Slider("steps", "Inner steps", (1, 2, 3, 5, 10), 3)],
        compute=lambda steps, **stars: recommend(desk, stars, steps),
        draw=draw_recommendations,
        describe=describe_recommendations,
        size=(11.0, 4.2),
    )
