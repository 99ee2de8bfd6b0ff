"""The lesson's explorers: the match and its kernel, and the map of overlap and relatedness."""

from recmtl_lessons.lessons.cross_domain_transfer import linking, matching
from recmtl_lessons.lessons.cross_domain_transfer.pictures import (
    describe_live_linking,
    describe_live_matching,
    draw_live_linking,
    draw_live_matching,
)
from recmtl_lessons.lessons.cross_domain_transfer.questions import LESSON
from recmtl_lessons.teaching import Explorer, Slider, log_stops
from recmtl_lessons.training import Scores


def explore_matching(band: dict[str, Scores]) -> Explorer:
    """Return the explorer of the MMD: its weight, and the bandwidth of its kernel."""
    return Explorer(
        lesson=LESSON,
        key="explorer-matching",
        title="Make them look alike",
        controls=[
            Slider("weight", "Weight of the MMD", log_stops(0.1, 30.0, 4, zero=True), 1.0),
            Slider("reach", "Bandwidth σ", log_stops(0.03, 100.0, 4), 1.0, "× median"),
        ],
        compute=matching.train_live,
        draw=lambda result, figure, controls: draw_live_matching(result, band, figure, controls),
        describe=describe_live_matching,
        seeded=True,
        size=(10.6, 4.6),
    )


def explore_linking(grid: dict[float, linking.Errors]) -> Explorer:
    """Return the explorer of the map: link some accounts, relate the tastes, and see who gains."""
    return Explorer(
        lesson=LESSON,
        key="explorer-linking",
        title="Who knows whom, and does it help?",
        controls=[
            Slider("overlap", "Share of accounts linked", [k / 20 for k in range(21)], 1.0),
            Slider("relatedness", "Correlation of tastes", [k / 20 for k in range(21)], 0.3),
            Slider("weight", "Weight of the books", log_stops(0.01, 1.0, 6), 1.0),
        ],
        compute=linking.train_live,
        draw=lambda result, figure, controls: draw_live_linking(result, grid, figure, controls),
        describe=describe_live_linking,
        seeded=True,
        size=(10.4, 4.8),
    )
