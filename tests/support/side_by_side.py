"""A pytest plugin for runs with several workers (``-n``): one thread each, and what belongs together stays together.

A notebook's cells share a kernel, the browser tests a JupyterLab, and the tests of one file what its fixtures have
trained: each of these is a group, which one worker runs from beginning to end. The groups that take longest go first.
"""

import os

import pytest

BROWSER = "tests/browser/"
SLOWEST_FIRST = (BROWSER, "notebooks/", "tests/lessons/")  # then the others

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported, here and in the kernels that this worker starts. Two teams of threads on the same cores
    # wait for each other.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    os.environ.setdefault("RECMTL_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """In a worker, put the slowest groups first."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: next((k for k, way in enumerate(SLOWEST_FIRST) if item.nodeid.startswith(way)), 9))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Hand out whole groups in that order; a distribution that somebody has chosen with ``--dist`` stays."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return BROWSER if nodeid.startswith(BROWSER) else nodeid.split("::")[0]

    if config.getvalue("dist") != "load":
        return None
    config.option.loadscopereorder = False  # by numbers of tests, which say little
    return Groups(config, log)
