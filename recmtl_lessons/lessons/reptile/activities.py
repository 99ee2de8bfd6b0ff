"""What there is to do in the lesson, as the map of the course shows it."""

from recmtl_lessons.teaching import Lesson

LESSON = Lesson(
    "reptile",
    {
        "predict": "Predict what one inner step makes of Reptile",
        "explorer-plane": "Explore three users in a plane",
        "explorer-race": "Race MAML and Reptile",
        "exercise-step": "Exercise: the outer step",
        "exercise-optimizer": "Exercise: a fresh optimizer",
        "exercise-count": "Exercise: count the gradients",
        "study": "Study question: MAML and Reptile",
    },
)
