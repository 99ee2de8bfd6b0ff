"""The lesson's explorers: one episode in the plane, and how far to believe a new user."""

from recmtl_lessons.lessons.prototypical.pictures import describe_plane, describe_pull, draw_plane, draw_pull
from recmtl_lessons.lessons.prototypical.plane import MOST_SHOTS, MOST_WAYS, UPDATES, look
from recmtl_lessons.lessons.prototypical.questions import LESSON
from recmtl_lessons.lessons.prototypical.serving import COUNTS, PULLED, WEIGHTS, Served, cold_start_desk
from recmtl_lessons.teaching import Choice, Explorer, Slider

_MOVES = [k / 2 for k in range(-8, 9)]  # in standard deviations of the labelled items
_LETTERS = tuple("ABCDEFGH"[:MOST_WAYS])


def explore_plane() -> Explorer:
    """Return the explorer of one episode: shelves, shots, training, and one labelled item to move."""
    return Explorer(
        lesson=LESSON,
        key="explorer-plane",
        title="Sort new shelves in the plane",
        controls=[
            Slider("updates", "Training of f", UPDATES, 100, "updates"),
            Slider("ways", "New shelves", tuple(range(2, MOST_WAYS + 1)), 4),
            Slider("shots", "Labelled items of each", tuple(range(1, MOST_SHOTS + 1)), 3),
            Choice("shelf", "Move an item of shelf", _LETTERS, "A"),
            Slider("right", "Move it right", _MOVES, 0.0, "sd"),
            Slider("up", "Move it up", _MOVES, 0.0, "sd"),
        ],
        compute=lambda shelf, **others: look(shelf=_LETTERS.index(shelf) + 1, **others),
        draw=draw_plane,
        describe=describe_plane,
        seeded=True,
        size=(11.0, 4.8),
    )


def explore_pull(shop: Served, films: Served | None = None) -> Explorer:
    """Return the explorer of cold start: ratings of a new user, and the weight of everybody's prototypes."""
    served = {"MovieLens": films, "shop": shop} if films else {"shop": shop}
    places = tuple(served)
    return Explorer(
        lesson=LESSON,
        key="explorer-pull",
        title="How far to believe a new user?",
        controls=[
            Choice("where", "Users of", places, places[0]),
            Slider("count", "Ratings of each new user", COUNTS, 10),
            Slider("weight", "Weight of everybody's prototypes", WEIGHTS, 3.0, "ratings"),
        ],
        compute=cold_start_desk({name: (s.tastes[PULLED], s.users.test) for name, s in served.items()}),
        draw=draw_pull,
        describe=describe_pull,
        size=(9.6, 4.2),
    )
