"""A run of one notebook, with no test beside it, is as closed as a run of everything."""

import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]

IN_THE_NOTEBOOK = """
import os, pathlib, socket, tempfile
progress = pathlib.Path(os.environ["RECMTL_PROGRESS_DIR"]).resolve()
assert progress.is_relative_to(pathlib.Path(tempfile.gettempdir()).resolve()), progress
assert progress != pathlib.Path({outer!r}).resolve(), "the run took its folder from the run around it"
try:
    socket.create_connection(("192.0.2.1", 80), timeout=2)
except OSError as error:
    assert "the tests block the network" in str(error), error
else:
    raise AssertionError("the network is open")
"""


def test_a_notebook_alone_reaches_neither_the_network_nor_the_learners_progress(tmp_path, monkeypatch):
    outer = tmp_path / "the-learners-own"
    monkeypatch.setenv("RECMTL_PROGRESS_DIR", str(outer))
    monkeypatch.delenv("IPYTHONDIR", raising=False)
    cell = nbformat.v4.new_code_cell(IN_THE_NOTEBOOK.format(outer=str(outer)))
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "alone.ipynb")
    options = ["-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider", "-q"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", str(tmp_path / "alone.ipynb"), *options],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout
