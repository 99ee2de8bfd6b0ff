"""What there is to do in the lesson, as the map of the course shows it."""

from recmtl_lessons.teaching import Lesson

LESSON = Lesson(
    "prototypical",
    {
        "predict": "Predict how many shelves to train on at a time",
        "explorer-plane": "Explore one episode in the plane",
        "explorer-pull": "Explore how far to believe a new user",
        "exercise-classify": "Exercise: log-probabilities",
        "exercise-linear": "Exercise: the linear classifier inside",
        "exercise-design": "Exercise: serve every new user",
        "study-cold-start": "Study question: a design for cold start",
    },
)
