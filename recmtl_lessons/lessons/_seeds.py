"""The seeds of all lessons."""

#: What claims rest on. Lessons are made, and settings chosen, on others; where a lesson was changed after these had
#: spoken, it says so.
SEEDS = tuple(range(100, 108))
#: The same and four more, where runs differ widely.
MORE_SEEDS = tuple(range(100, 112))
#: And twelve more, where a small lead must be told from luck.
MOST_SEEDS = tuple(range(100, 124))
#: What lessons are made on: designs, step sizes, settings.
DESIGN_SEEDS = tuple(range(8))
