"""The lesson's explorers: domains that arrive one after another, and a single weight."""

from recmtl_lessons.datasets.arrivals import PAIRS
from recmtl_lessons.lessons.continual.experiments import METHODS, ORDERS, look_at_weight, train_live
from recmtl_lessons.lessons.continual.pictures import describe_live, describe_weight, draw_live, draw_weight
from recmtl_lessons.lessons.continual.questions import LESSON
from recmtl_lessons.teaching import Choice, Explorer, Slider, log_stops


def explore_arrivals() -> Explorer:
    """Return the explorer of domains that arrive one after another: what is done, how strongly, and how related."""
    return Explorer(
        lesson=LESSON,
        key="explorer-arrivals",
        title="One domain after another",
        controls=[
            Choice("method", "Against forgetting", METHODS, "nothing"),
            Slider("strength", "Strength, of EWC and of distilling", log_stops(0.01, 10.0, 4), 0.1),
            Slider("rows", "Rows kept of each domain", (30, 100, 300, 500, 1000, 2000, 5000), 500),
            Slider("relatedness", "How related tastes are", [k / 10 for k in range(11)], PAIRS.relatedness),
            Choice("order", "Order", tuple(ORDERS), next(iter(ORDERS))),
        ],
        compute=train_live,
        draw=draw_live,
        describe=describe_live,
        seeded=True,
        size=(11.0, 4.4),
    )


def explore_weight() -> Explorer:
    """Return the explorer of one weight: how much it mattered, where it stood, and how far each strength lets it go."""
    return Explorer(
        lesson=LESSON,
        key="explorer-weight",
        title="One weight",
        controls=[
            Slider("rank", "Which weight: 0 is the most important, 100 the least", tuple(range(101)), 0, "%"),
            Choice("importance", "Importance", ("exact", "shuffled", "ones"), "exact"),
        ],
        compute=look_at_weight,
        draw=draw_weight,
        describe=describe_weight,
        seeded=True,
        size=(11.0, 4.2),
    )
