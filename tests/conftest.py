"""For all tests; what closes the network and keeps the learner's progress apart is `tests.support.isolated`."""

import hypothesis
import pytest

from recmtl_lessons.datasets import load_movielens
from tests.support.films import FOLDER

# The first example of a test pays for imports and warm-up: a deadline would measure those.
hypothesis.settings.register_profile("course", deadline=None)
hypothesis.settings.load_profile("course")


@pytest.fixture
def movielens(monkeypatch):
    """The real ratings, as a lesson loads them; for tests that are marked as `needs_films`."""
    monkeypatch.setenv("RECMTL_DATA_DIR", str(FOLDER))
    return load_movielens()
