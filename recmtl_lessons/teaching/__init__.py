"""How things are shown and asked: explorer, claim, exercise, quiz, study question, plot style, progress."""

from recmtl_lessons.teaching.explorer import Choice, Explorer, Running, Slider, Toggle, log_stops
from recmtl_lessons.teaching.lesson import Lesson

__all__ = ["Choice", "Explorer", "Lesson", "Running", "Slider", "Toggle", "log_stops"]
