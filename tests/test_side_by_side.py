"""A run with several workers keeps together what belongs together; a run without any is as it was."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]

WHICH_WORKER = """
import os
import pytest
from pathlib import Path

@pytest.mark.parametrize("k", range(3))
def test_all_on_one(k):
    __WORKERS__.joinpath(f"{k} of {__name__}").write_text(os.environ["PYTEST_XDIST_WORKER"])
    assert os.environ["OMP_NUM_THREADS"] == os.environ["RECMTL_THREADS"] == "1"
"""
PLAIN = "import os\n\ndef test_no_setting():\n    assert 'RECMTL_THREADS' not in os.environ\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run pytest with the project's configuration on what a test has written, as from a shell of its own."""
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "RECMTL_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)

    def in_a_shell(*options):
        command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-q", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, *options, str(tmp_path / "written")], cwd=ROOT, capture_output=True, text=True, timeout=250
        )
        return done.returncode, done.stdout + done.stderr

    (tmp_path / "written").mkdir()
    return in_a_shell


def test_a_file_and_a_notebook_stay_with_one_worker(run, tmp_path):
    cells = [nbformat.v4.new_code_cell(source) for source in ("a = 1", "b = a + 1", "assert (a, b) == (1, 2)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "written" / "together.ipynb")
    for name in ("one", "other"):
        test = WHICH_WORKER.replace("__WORKERS__", f"Path({str(tmp_path)!r})")
        (tmp_path / "written" / f"test_{name}.py").write_text(test, encoding="utf-8")
    code, said = run("-n", "2")
    assert code == 0, said
    assert "9 passed" in said
    for name in ("one", "other"):
        workers = [path.read_text() for path in tmp_path.glob(f"* of *test_{name}")]
        assert len(workers) == 3
        assert len(set(workers)) == 1


@pytest.mark.parametrize("options", [("-n", "0"), ("-p", "no:xdist")], ids=" ".join)
def test_one_process_does_without_workers(run, tmp_path, options):
    (tmp_path / "written" / "test_plain.py").write_text(PLAIN, encoding="utf-8")
    code, said = run(*options)
    assert code == 0, said
    assert "1 passed" in said
