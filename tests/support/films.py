"""MovieLens ml-latest-small for tests that need the real ratings; without it they are skipped."""

import os
from pathlib import Path

import pytest

_NAMED = os.environ.get("RECMTL_DATA_DIR")  # read here, before a test takes it away
_PLACES = [Path(_NAMED).expanduser()] if _NAMED else [Path(__file__).parents[2].parent / "shared" / "data"]

#: Its folder, or None.
FOLDER = next((f for p in _PLACES for f in (p, p / "ml-latest-small") if (f / "ratings.csv").is_file()), None)

#: For tests and classes that take the fixture ``movielens``.
needs_films = pytest.mark.skipif(FOLDER is None, reason="ml-latest-small is not here: set RECMTL_DATA_DIR to it")
