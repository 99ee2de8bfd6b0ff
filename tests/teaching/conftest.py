"""Shared by the tests of the teaching kit: own progress, what was displayed, callbacks whose errors count."""

import pytest
from IPython.core.interactiveshell import InteractiveShell
from ipywidgets import CallbackDispatcher
from traitlets.config import Config


@pytest.fixture(autouse=True)
def progress_folder(tmp_path, monkeypatch):
    """Keep each test's progress in a folder of its own."""
    folder = tmp_path / "progress"
    monkeypatch.setenv("RECMTL_PROGRESS_DIR", str(folder))
    return folder


@pytest.fixture(autouse=True)
def failing_callbacks_fail(monkeypatch):
    """Let an error in a widget's callback reach the test; ipywidgets would only log it."""

    def call(self, *args, **kwargs):
        for callback in self.callbacks:
            callback(*args, **kwargs)

    monkeypatch.setattr(CallbackDispatcher, "__call__", call)


@pytest.fixture
def shell():
    """An IPython shell without a history file; it is taken down again after the test."""
    config = Config({"HistoryManager": {"enabled": False}})
    yield InteractiveShell.instance(config=config)
    InteractiveShell.clear_instance()


@pytest.fixture
def shown(shell, monkeypatch):
    """The mimebundles displayed so far, in order."""
    bundles = []
    monkeypatch.setattr(
        shell.display_pub, "publish", lambda data, metadata=None, **_: bundles.append((data, metadata or {}))
    )
    return bundles
