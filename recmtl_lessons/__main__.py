"""``python -m recmtl_lessons claims``: every claim of the executed notebooks, the tightest first."""

import argparse
from pathlib import Path

from recmtl_lessons.teaching.claim import claims_of


def main() -> None:
    """List the claims of the notebooks in a folder, with how far each is from failing."""
    parser = argparse.ArgumentParser(prog="python -m recmtl_lessons", description=__doc__)
    parser.add_argument("what", choices=["claims"])
    parser.add_argument("--notebooks", type=Path, default=Path("notebooks"), help="the folder; ./notebooks by default")
    folder = parser.parse_args().notebooks
    found = [(path.stem, one) for path in sorted(folder.glob("*.ipynb")) for one in claims_of(path)]
    if not found:
        parser.error(f"no claims in the notebooks of {folder.resolve()}: none is there, or none was executed")
    print(f"{len(found)} claims. Room: from the interval to the bound, in half-widths of the interval.")
    for name, one in sorted(found, key=lambda pair: pair[1].room):
        print(f"{one.room:8.2f}  {name[:2]}  {one.sentence}\n{'':14}{one.numbers}; {one.demand}")


if __name__ == "__main__":
    main()
