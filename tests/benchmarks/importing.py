"""What ``import recmtl_lessons`` costs beside ``import torch``, each in a fresh interpreter."""

import subprocess
import sys
from collections.abc import Iterator

TIMED = "import time; start = time.perf_counter(); {what}; print(time.perf_counter() - start)"


def measure(repeats: int = 9) -> Iterator[tuple[str, list[float], str]]:
    """Seconds for torch alone, for torch and the package, and their ratio."""
    for what in ("import torch", "import torch, recmtl_lessons"):
        _seconds(what)  # warm up: files come into the disk's cache
    alone, both = [], []
    for _ in range(repeats):
        alone.append(_seconds("import torch"))
        both.append(_seconds("import torch, recmtl_lessons"))
    yield "import torch", alone, "s"
    yield "import torch, recmtl_lessons", both, "s"
    yield "the second / the first", [b / a for a, b in zip(alone, both, strict=True)], "times"


def _seconds(what: str) -> float:
    done = subprocess.run([sys.executable, "-c", TIMED.format(what=what)], capture_output=True, text=True, check=True)
    return float(done.stdout)
