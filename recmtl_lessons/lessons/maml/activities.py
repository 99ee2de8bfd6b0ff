"""What there is to do in the lesson, as the map of the course shows it."""

from recmtl_lessons.teaching import Lesson

LESSON = Lesson(
    "maml",
    {
        "predict": "Predict what more ratings do to the lead",
        "explorer-waves": "Explore one wave, step by step",
        "explorer-path": "Explore one user's path",
        "explorer-cold-start": "Rate ten films yourself",
        "exercise-inner": "Exercise: the inner step",
        "exercise-outer": "Exercise: the meta-loss",
        "exercise-rate": "Exercise: each arm its own rate",
    },
)
