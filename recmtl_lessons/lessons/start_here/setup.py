"""What the course needs of a computer, and what to do where something is missing."""

import html
import importlib.metadata
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from IPython.display import display

from recmtl_lessons.datasets import DataUnavailable, load_movielens
from recmtl_lessons.teaching import style
from recmtl_lessons.training import default_device


@dataclass(frozen=True)
class Finding:
    """One thing the set-up needs: what it is, what was found, and what to do if it is not right."""

    what: str
    found: str
    fine: bool
    remedy: str = ""


def check_setup() -> list[Finding]:
    """Look at versions, device, data and the Jupyter setting that the explorers rely on."""
    packages = map(_package, ("torch", "jupyterlab", "ipywidgets", "anywidget"))
    return [_python(), *packages, _device(), _jupyter(), _data()]


def show_setup() -> None:
    """Display what `check_setup` finds, with a remedy for each thing that is missing."""
    findings = check_setup()
    lines = [f"{'✓' if f.fine else '✗'} {f.what}: {f.found}{'' if f.fine else '. ' + f.remedy}" for f in findings]
    items = "".join(
        f'<li style="list-style:none;margin:2px 0">{_sign(f.fine)} <strong>{html.escape(f.what)}</strong> '
        f"{html.escape(f.found)}{'' if f.fine else '<br>' + html.escape(f.remedy)}</li>"
        for f in findings
    )
    display({"text/html": f'<ul style="padding-left:0">{items}</ul>', "text/plain": "\n".join(lines)}, raw=True)


def _sign(fine: bool) -> str:
    colour = style.PALETTE["green" if fine else "vermillion"]
    return f'<span style="color:{colour}">{"✓" if fine else "✗"}</span>'


_INSTALL = "Run the README's first command again; it brings every package to the version of this course."


def _python() -> Finding:
    fine = sys.version_info >= (3, 11)
    return Finding("Python", platform.python_version(), fine, "The course needs 3.11 or later.")


def _package(name: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name), True)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "missing", False, _INSTALL)


def _device() -> Finding:
    try:
        device = default_device()
    except ValueError as error:
        return Finding("device", str(error), False, "Unset RECMTL_DEVICE, or set it to cpu.")
    return Finding(
        "device", f"{device.type}{'' if device.type == 'cuda' else ', which is enough for every lesson'}", True
    )


def _jupyter() -> Finding:
    setting = Path(sys.prefix, "share/jupyter/lab/settings/overrides.d/recmtl_lessons.json")
    remedy = "Moving a slider while a cell draws may disturb the picture. " + _INSTALL
    return Finding(
        "JupyterLab's setting for explorers", "in place" if setting.exists() else "missing", setting.exists(), remedy
    )


def _data() -> Finding:
    try:
        ratings = load_movielens()
    except DataUnavailable as error:
        return Finding("MovieLens", "not here; the lessons skip their real-data cells", False, str(error))
    return Finding(
        "MovieLens", f"{len(ratings):,} ratings of {ratings.n_items:,} films by {ratings.n_users} users", True
    )
