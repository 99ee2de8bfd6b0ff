"""What there is to do in the lesson, as the map of the course shows it."""

from recmtl_lessons.teaching import Lesson

LESSON = Lesson(
    "domain_attention",
    {
        "predict": "Predict the weight of a mirror",
        "explorer-look": "Look at attention",
        "explorer-train": "Explore temperature and width",
        "exercise-softmax": "Exercise: the masked softmax",
        "exercise-align": "Exercise: rows aligned by user",
        "exercise-contribution": "Exercise: what a domain contributes",
        "study-attention": "Study question: how attention helps",
        "study-mechanisms": "Study question: mechanisms compared",
    },
)
