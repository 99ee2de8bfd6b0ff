"""What there is to do in the lesson, as the map of the course shows it."""

from recmtl_lessons.teaching import Lesson

LESSON = Lesson(
    "policy",
    {
        "predict": "Predict how far the next click leads",
        "explorer-session": "Watch a session, action by action",
        "explorer-training": "Train a policy for three tasks",
        "exercise-returns": "Exercise: an end, or only a limit",
        "exercise-mask": "Exercise: draw among what is allowed",
        "exercise-ratio": "Exercise: the clipped step",
        "study": "Study question: what makes it hard",
    },
)
