"""For tests of environments."""

import pytest

from recmtl_lessons.training.device import settle_threads


@pytest.fixture(scope="session", autouse=True)
def one_core_left_alone():
    """As in a lesson: a full team of threads becomes many times slower as soon as anything else runs."""
    settle_threads()
