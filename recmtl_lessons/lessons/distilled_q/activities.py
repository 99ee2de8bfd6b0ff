"""What there is to do in the lesson, as the map of the course shows it."""

from recmtl_lessons.teaching import Lesson

LESSON = Lesson(
    "distilled_q",
    {
        "predict": "Predict the best temperature",
        "explorer-distilling": "Distil at a temperature you choose",
        "explorer-attention": "See which task looks at which",
        "exercise-loss": "Exercise: the distillation loss",
        "exercise-target": "Exercise: the double target",
        "exercise-tokens": "Exercise: a sequence of tasks",
        "study": "Study question: knowledge distillation",
    },
)
