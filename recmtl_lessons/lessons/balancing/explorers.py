"""The lesson's explorers: two gradients, a landscape with two losses, and weights while networks train."""

from collections.abc import Iterator

from recmtl_lessons.lessons.balancing.experiments import WAYS_LIVE, draw_by_hand, train_live
from recmtl_lessons.lessons.balancing.landscape import WAYS_DOWN, descend
from recmtl_lessons.lessons.balancing.pictures import (
    describe_arrows,
    describe_descent,
    describe_live,
    draw_arrows,
    draw_descent,
    draw_live,
)
from recmtl_lessons.lessons.balancing.questions import LESSON
from recmtl_lessons.teaching import Choice, Explorer, Running, Slider


def explore_arrows() -> Explorer:
    """Return the explorer of two gradients, by their angle and lengths, and of the ways' directions."""
    return Explorer(
        lesson=LESSON,
        key="explorer-arrows",
        title="Two gradients",
        controls=[
            Slider("angle", "Angle between them", tuple(range(0, 181, 5)), 90, "degrees"),
            Slider("length", "Length of the rating's, the click's is 1", (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0), 1.0),
        ],
        compute=draw_by_hand,
        draw=draw_arrows,
        describe=describe_arrows,
        size=(11.0, 4.4),
    )


def _descend(way: str, rate: float, start: str) -> Iterator[Running]:
    return (yield from descend(way, rate, 0 if start == "all" else int(start)))


def explore_landscape() -> Explorer:
    """Return the explorer of CAGrad's landscape: the way, the learning rate, and the start."""
    return Explorer(
        lesson=LESSON,
        key="explorer-landscape",
        title="Two losses over two weights",
        controls=[
            Choice("way", "Direction", tuple(WAYS_DOWN), "mean"),
            Slider("rate", "Learning rate; the steps are 100 over it", (0.001, 0.003, 0.01, 0.03, 0.1), 0.001),
            Choice("start", "Start", ("all", "1", "2", "3"), "all"),
        ],
        compute=_descend,
        draw=draw_descent,
        describe=describe_descent,
        size=(11.0, 4.4),
    )


def explore_weights() -> Explorer:
    """Return the explorer of a way of weighing while it trains, beside all static weights."""
    return Explorer(
        lesson=LESSON,
        key="explorer-weights",
        title="Weights while networks train",
        controls=[
            Choice("way", "Weights", WAYS_LIVE, "equal"),
            Choice("unit", "Ratings in", ("tenths", "stars", "spread"), "tenths"),
            Slider("relatedness", "How related the tasks are", [k / 5 for k in range(-5, 6)], 0.0),
            Slider("width", "Shared units", (1, 2, 4, 8, 16), 4),
        ],
        compute=train_live,
        draw=draw_live,
        describe=describe_live,
        seeded=True,
        size=(11.0, 4.4),
    )
