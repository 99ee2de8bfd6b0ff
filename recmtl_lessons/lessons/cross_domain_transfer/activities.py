"""What there is to do in the lesson, as the map of the course shows it."""

from recmtl_lessons.teaching import Lesson

LESSON = Lesson(
    "cross_domain_transfer",
    {
        "predict": "Predict what linking unrelated shops does",
        "explorer-matching": "Explore the match and its kernel",
        "explorer-linking": "Explore overlap and relatedness",
        "exercise-mmd": "Exercise: the unbiased MMD",
        "exercise-bandwidth": "Exercise: the median bandwidth",
        "exercise-test": "Exercise: the permutation test",
    },
)
