"""A pytest plugin for every run, of tests or of notebooks alone: no network, and the learner's own progress untouched.

Notebooks run in kernels, which are processes of their own. They inherit the environment set here: their IPython
profile closes the network before the first cell runs, and progress goes to a folder that is thrown away.

``pyproject.toml`` names it, because pytest reads ``tests/conftest.py`` only when a path in ``tests`` is collected.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

_FOLDER = tempfile.TemporaryDirectory(prefix="recmtl-tests-")  # removed when the run ends
_STARTUP = Path(_FOLDER.name, "ipython", "profile_default", "startup")
_STARTUP.mkdir(parents=True)
shutil.copy(Path(__file__).with_name("no_network.py"), _STARTUP / "00-no-network.py")

os.environ["IPYTHONDIR"] = str(_STARTUP.parents[1])
os.environ["RECMTL_PROGRESS_DIR"] = str(Path(_FOLDER.name, "progress"))
os.environ["RECMTL_DEVICE"] = "cpu"  # the same numbers on every machine; tests of CUDA name it themselves


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Let pytest-socket refuse every connection but those within this computer."""
    config.option.allow_hosts = config.option.allow_hosts or "127.0.0.1,::1,localhost"
    config.option.allow_unix_socket = True
