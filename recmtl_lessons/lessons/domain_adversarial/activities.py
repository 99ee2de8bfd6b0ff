"""What there is to do in the lesson, as the map of the course shows it."""

from recmtl_lessons.teaching import Lesson

LESSON = Lesson(
    "domain_adversarial",
    {
        "predict": "Predict the score abroad",
        "explorer-lambda": "Explore λ",
        "explorer-schedule": "Explore the schedule of λ",
        "exercise-reversal": "Exercise: the reversal",
        "exercise-objective": "Exercise: the objective",
        "exercise-distance": "Exercise: the distance",
        "study": "Study question: how it works",
    },
)
