"""What there is to do in the lesson, as the map of the course shows it."""

from recmtl_lessons.teaching import Lesson

LESSON = Lesson(
    "hierarchical",
    {
        "predict": "Predict what a table learns on six states",
        "explorer-goals": "Choose the goals of a session yourself",
        "explorer-training": "Train two levels beside a flat policy",
        "exercise-target": "Exercise: what a goal was worth",
        "exercise-rows": "Exercise: to each row its own controller",
        "exercise-progress": "Exercise: paid for progress",
        "study": "Study question: deciding at several levels",
    },
)
