"""One look for every picture and every block of text that the course shows.

Figures are bare `matplotlib.figure.Figure` objects. Nothing here touches pyplot, whose current figure is
shared by all threads: a slider moved while a cell draws would mix the two.
"""

import html
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from IPython.display import display
from numpy.typing import ArrayLike

from recmtl_lessons.teaching.claim import t_interval
from recmtl_lessons.teaching.lesson import require_texts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "LINES",
    "MARKERS",
    "PALETTE",
    "apply",
    "arrow",
    "band",
    "box",
    "card",
    "new_figure",
    "panels",
    "png",
    "points_with_interval",
    "prose",
    "show",
    "show_card",
    "star",
]

#: The eight colours of Okabe and Ito, told apart by people of any colour vision.
PALETTE = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "black": "#000000",
    "yellow": "#F0E442",
}
#: Markers and line styles to go with the colours, so that no picture depends on colour alone.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))

_ON_WHITE = [colour for name, colour in PALETTE.items() if name != "yellow"]  # yellow lines vanish on white
_PNG_COLOURS = 128
_applied = False


def apply() -> None:
    """Set the course's style in matplotlib's ``rcParams``, for every figure made afterwards."""
    import matplotlib
    from cycler import cycler

    global _applied
    matplotlib.rcParams.update(
        {
            "font.family": ["DejaVu Sans"],
            "font.size": 13,
            "axes.titlesize": 14,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 13,
            "xtick.labelsize": 12,
            "ytick.labelsize": 12,
            "legend.fontsize": 12,
            "legend.frameon": False,
            "axes.formatter.use_mathtext": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#DDDDDD",
            "grid.linewidth": 0.8,
            "lines.linewidth": 2.2,
            "lines.markersize": 7,
            "axes.prop_cycle": cycler(color=_ON_WHITE, linestyle=LINES[: len(_ON_WHITE)]),
            "figure.facecolor": "white",
            "axes.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.dpi": 110,
            "savefig.dpi": "figure",
        }
    )
    _applied = True


def new_figure(width: float = 9.0, height: float = 4.2) -> "Figure":
    """Return an empty figure in the course's style, laid out by matplotlib's constrained layout.

    Parameters
    ----------
    width, height : float
        Size in inches; at 110 dots an inch the default is 990 by 462 pixels.
    """
    from matplotlib.figure import Figure

    for name, size in (("width", width), ("height", height)):
        if not 0 < size < np.inf:
            raise ValueError(f"{name}: got {size!r}, expected a positive number of inches")
    if not _applied:
        apply()
    return Figure(figsize=(width, height), layout="constrained")


def panels(figure: "Figure", columns: int, widths: Sequence[float] | None = None) -> "list[Axes]":
    """Return a figure's axes side by side, wiped for a new picture.

    The second time, the same axes come back without what was drawn on them. Making axes and their ticks is most of
    the work of a small picture, so an explorer that draws this way answers twice as fast.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    columns : int
        Number of axes.
    widths : sequence of float, optional
        Their relative widths.
    """
    shape = (columns, tuple(widths or (1.0,) * columns))
    if getattr(figure, "_recmtl_panels", None) != shape:
        figure.clear()
        figure.subplots(1, columns, width_ratios=shape[1])
        figure._recmtl_panels = shape
    for axis in figure.axes:
        for artist in (*axis.lines, *axis.collections, *axis.patches, *axis.texts, *axis.images):
            artist.remove()
        if axis.get_legend():
            axis.get_legend().remove()
        axis.containers.clear()
        axis.set_prop_cycle(None)
        axis.relim()
        axis.autoscale(True)
    return list(figure.axes)


def png(figure: "Figure") -> bytes:
    """Draw a figure and return it as a PNG file of at most 128 colours, a third of the usual size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    few = picture.quantize(_PNG_COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.putpalette([255 if level >= 252 else level for level in few.getpalette()])  # white stays white
    file = io.BytesIO()
    few.save(file, format="png", compress_level=6)
    return file.getvalue()


def show(figure: "Figure", alt: str) -> None:
    """Display a figure as one picture, with its description as text below it.

    JupyterLab drops the alternative text of a picture, so the description is a caption that everybody sees
    and a screen reader reads. It is in the picture's metadata as well, for the renderers that look there.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        What to draw.
    alt : str
        What the picture shows, in words: what is drawn against what, and what to see in it.
    """
    require_texts(alt=alt)
    display({"image/png": png(figure), "text/plain": "[picture]"}, metadata={"image/png": {"alt": alt}}, raw=True)
    caption = f'<p style="margin:0 0 0.6em;max-width:60em;opacity:0.85">{prose_line(alt)}</p>'
    display({"text/html": caption, "text/plain": alt}, raw=True)


def band(
    axis: "Axes",
    x: ArrayLike,
    values: ArrayLike,
    label: str,
    colour: str = "blue",
    marker: str | None = None,
    line: str | tuple = "-",
) -> None:
    """Draw the mean over the seeds as a line and its 95 % t interval as a translucent band.

    Parameters
    ----------
    axis : matplotlib.axes.Axes
        Where to draw.
    x : array_like, shape (points,)
    values : array_like, shape (seeds, points)
        At least two seeds.
    label : str
        Name in the legend.
    colour : str
        A name in `PALETTE`.
    marker, line
        A matplotlib marker and line style.
    """
    x, data, shade = np.asarray(x), np.asarray(values), _colour(colour)
    if x.ndim != 1 or data.ndim != 2 or data.shape[1] != len(x):
        raise ValueError(f"values: got shape {data.shape} for x of shape {x.shape}, expected (seeds, points)")
    mean, low, high = t_interval(data)
    axis.fill_between(x, low, high, color=shade, alpha=0.22, linewidth=0)
    axis.plot(x, mean, color=shade, marker=marker, linestyle=line, label=label)


def points_with_interval(
    axis: "Axes",
    labels: Sequence[str],
    values: ArrayLike,
    colours: Sequence[str] = ("blue",),
    gaps: bool = False,
    joined: bool = True,
) -> None:
    """Draw a comparison: each seed faint, joined across the groups if they are paired; mean and 95 % t interval strong.

    Parameters
    ----------
    axis : matplotlib.axes.Axes
        Where to draw.
    labels : sequence of str
        The groups' names, written below the axis.
    values : array_like, shape (seeds, groups)
        Row i holds seed i in every group.
    colours : sequence of str
        Names in `PALETTE`, repeated as needed.
    gaps : bool
        Whether NaN stands for a seed that a group does not have.
    joined : bool
        Whether lines join a seed's points. Across many groups they hide more than they show.
    """
    data, shades = np.asarray(values), [_colour(colour) for colour in colours]
    if not shades:
        raise ValueError("colours: got none, expected at least one name")
    if data.ndim != 2 or data.shape[1] != len(labels):
        raise ValueError(f"values: got shape {data.shape} for {len(labels)} labels, expected (seeds, groups)")
    groups = [column[~np.isnan(column)] if gaps else column for column in data.T]
    mean, low, high = zip(*(t_interval(group) for group in groups), strict=True)
    places = np.arange(len(labels))
    if joined:
        axis.plot(places, data.T, color="#888888", alpha=0.35, linewidth=1, linestyle="-", zorder=1)
    for k in places:
        shade = shades[k % len(shades)]
        axis.plot(np.full(len(data), k), data[:, k], linestyle="", marker="o", color=shade, alpha=0.3, zorder=2)
        reach = [[mean[k] - low[k]], [high[k] - mean[k]]]
        marker = MARKERS[k % len(MARKERS)]
        axis.errorbar(k, mean[k], reach, color=shade, marker=marker, markersize=11, capsize=7, lw=3, zorder=3)
    axis.set_xticks(places, labels)
    axis.set_xlim(-0.5, len(labels) - 0.5)


def star(axis: "Axes", x: float, values: ArrayLike, label: str | None = None) -> None:
    """Mark the learner's own place in a picture: a black star at the mean over the seeds, with its 95 % t interval.

    Parameters
    ----------
    axis : matplotlib.axes.Axes
        Where to draw.
    x : float
    values : array_like, shape (seeds,)
        At least two seeds.
    label : str, optional
        Name in the legend.
    """
    data = np.asarray(values)
    if data.ndim != 1:
        raise ValueError(f"values: got shape {data.shape}, expected (seeds,)")
    mean, low, high = t_interval(data)
    reach = [[mean - low], [high - mean]]
    axis.errorbar(x, mean, reach, fmt="*", ms=19, lw=3, capsize=7, color="black", label=label)


def box(axis: "Axes", x: float, y: float, width: float, text: str, colour: str, height: float = 1.0) -> None:
    """Draw a part of a diagram: a rounded box with its lower left corner at (x, y), and a text in its middle.

    Parameters
    ----------
    axis : matplotlib.axes.Axes
        Where to draw.
    x, y, width, height : float
        In the axis' own units.
    text : str
    colour : str
        Of the edge, as matplotlib names colours.
    """
    from matplotlib.patches import FancyBboxPatch

    axis.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.08", fc="white", ec=colour, lw=2.8))
    axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=14)


def arrow(
    axis: "Axes", start: tuple[float, float], end: tuple[float, float], colour: str, line: str = "-", width: float = 2.4
) -> None:
    """Draw an arrow of a diagram from ``start`` to ``end``, in the axis' own units."""
    look = {"arrowstyle": "-|>", "color": colour, "lw": width, "linestyle": line}
    axis.annotate("", end, start, arrowprops=look)


_TONES = {
    "note": (PALETTE["blue"], ""),
    "right": (PALETTE["green"], "✓ "),
    "wrong": (PALETTE["vermillion"], "✗ "),
    "quiet": ("#999999", ""),
}


def card(title: str, body: str = "", tone: str = "note") -> str:
    """Return HTML for one readable block: a coloured edge, a title, and a body that already is HTML.

    Parameters
    ----------
    title : str
        Plain text; escaped here.
    body : str
        HTML, for instance from `prose`.
    tone : {"note", "right", "wrong", "quiet"}
        The edge's colour, and a tick or a cross before the title.
    """
    colour, sign = _TONES[tone]
    return (
        f'<div style="border-left:4px solid {colour};padding:0.3em 0 0.3em 0.9em;margin:0.4em 0;'
        f'max-width:60em;line-height:1.5"><strong>{sign}{prose_line(title)}</strong>{body}</div>'
    )


def show_card(title: str, text: str = "", tone: str = "note") -> None:
    """Display a titled block of text, as HTML and as plain text."""
    plain = f"{_TONES[tone][1]}{title}\n{text}".rstrip()
    display({"text/html": card(title, prose(text), tone), "text/plain": plain}, raw=True)


def prose(text: str) -> str:
    """Turn plain text into HTML, with everything in it escaped.

    Understood are paragraphs (a blank line between them), lists (lines that start with ``- ``), fenced code
    blocks, `` `code` `` and ``**strong**``. Everything else stays the text it is.
    """
    parts = re.split(r"^```\w*\n(.*?)\n```$", text, flags=re.MULTILINE | re.DOTALL)
    shown = [_code_block(part) if k % 2 else _paragraphs(part) for k, part in enumerate(parts)]
    return "".join(shown)


def prose_line(text: str) -> str:
    """Turn one line of text into HTML as `prose` does, without a paragraph around it."""
    pieces = re.split(r"`([^`\n]+)`", text)
    return "".join(_code(piece) if k % 2 else _strong(piece) for k, piece in enumerate(pieces))


def _code(text: str) -> str:
    return f"<code>{html.escape(text)}</code>"


def _strong(text: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(text))


def _code_block(text: str) -> str:
    return f'<pre style="overflow-x:auto">{html.escape(text)}</pre>'


def _paragraphs(text: str) -> str:
    return "".join(_paragraph(block) for block in re.split(r"\n\s*\n", text.strip()) if block.strip())


def _paragraph(block: str) -> str:
    written, items = [], []
    for line in block.splitlines():
        line = line.strip()
        if line.startswith("- "):
            items.append(line[2:])
        elif items:
            items[-1] += " " + line
        else:
            written.append(line)
    lead = f'<p style="margin:0.3em 0">{prose_line(" ".join(written))}</p>' if written else ""
    listed = "".join(f"<li>{prose_line(item)}</li>" for item in items)
    return lead + (f'<ul style="margin:0.3em 0 0.3em 1.2em">{listed}</ul>' if items else "")


def _colour(name: str) -> str:
    if name not in PALETTE:
        raise ValueError(f"colour: got {name!r}, expected one of {', '.join(PALETTE)}")
    return PALETTE[name]
