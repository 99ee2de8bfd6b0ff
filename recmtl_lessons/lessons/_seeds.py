"""The seeds of all lessons."""

#: What claims rest on. No lesson was made, and no setting chosen, on these.
SEEDS = tuple(range(100, 108))
#: What lessons are made on: designs, step sizes, settings.
DESIGN_SEEDS = tuple(range(8))
