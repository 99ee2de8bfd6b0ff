"""The second half's explorer: people whose tastes turn while one watches."""

from recmtl_lessons.lessons.federated.questions import LESSON
from recmtl_lessons.lessons.federated.realtime import watch
from recmtl_lessons.lessons.federated.realtime_pictures import describe_live, draw_live
from recmtl_lessons.teaching import Choice, Explorer, Slider


def explore_stream() -> Explorer:
    """Return the explorer of people who are followed live: start, window, rate, how tastes turn, and alarms."""
    return Explorer(
        lesson=LESSON,
        key="explorer-stream",
        title="Tastes that turn while you watch",
        controls=[
            Choice("begin", "Start at the weights of", ("joint", "MAML"), "MAML"),
            Choice("window", "Learn from the last", ("10", "30", "all"), "all"),
            Slider("rate", "Rate of the steps", (0.0, 0.01, 0.02, 0.05, 0.07), 0.05),
            Slider("drift", "How far tastes turn, times 90 degrees", (0.0, 0.25, 0.5, 0.75, 1.0), 1.0),
            Choice("turn", "They turn", ("steadily", "at once"), "at once"),
            Choice("alarms", "Detector", ("off", "shown", "acted upon"), "off"),
        ],
        compute=watch,
        draw=draw_live,
        describe=describe_live,
        size=(11.0, 4.4),
    )
