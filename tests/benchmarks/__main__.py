"""Run the benchmarks and print what they measured: ``python -m tests.benchmarks [name ...] [--repeats N]``.

Repeats are interleaved, so that a machine that slows down or speeds up meanwhile does so for both sides, and what
is printed is the median with the smallest and largest value.
"""

import argparse
import os
import platform
import statistics

import torch

from recmtl_lessons.training.device import settle_threads
from tests.benchmarks import importing, jobs, maml, reptile, sessions, stacked, world

BENCHMARKS = {
    "stacked": stacked.measure,
    "jobs": jobs.measure,
    "maml": maml.measure,
    "reptile": reptile.measure,
    "sessions": sessions.measure,
    "importing": importing.measure,
    "world": world.measure,
}


def main() -> None:
    """Read the command line, print the machine's facts, run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(BENCHMARKS)}; all if left out")
    parser.add_argument("--repeats", type=int, help="instead of each benchmark's own number")
    asked = parser.parse_args()
    unknown = sorted(set(asked.names) - set(BENCHMARKS))
    if unknown or (asked.repeats is not None and asked.repeats < 1):
        parser.error(f"got {unknown or asked.repeats}, expected {', '.join(BENCHMARKS)}, and repeats of at least 1")
    os.environ["RECMTL_DEVICE"] = "cpu"  # both sides of every comparison run there
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, {settle_threads()} threads, "
        f"{os.cpu_count()} cores, {platform.machine()}"
    )
    for name in asked.names or BENCHMARKS:
        print(f"\n{name}")
        for label, values, unit in BENCHMARKS[name](**({"repeats": asked.repeats} if asked.repeats else {})):
            low, middle, high = min(values), statistics.median(values), max(values)
            print(f"  {label:<46} {middle:9.3f} {unit}  ({low:.3f} to {high:.3f}, {len(values)} repeats)", flush=True)


if __name__ == "__main__":
    main()
