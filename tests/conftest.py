"""For all tests; what closes the network and keeps the learner's progress apart is `tests.support.isolated`."""

import hypothesis

# The first example of a test pays for imports and warm-up: a deadline would measure those.
hypothesis.settings.register_profile("course", deadline=None)
hypothesis.settings.load_profile("course")
