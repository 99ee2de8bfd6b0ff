"""The features of two shops in a plane."""

from typing import TYPE_CHECKING

from torch import Tensor

from recmtl_lessons.teaching.style import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_clouds(axis: "Axes", points: Tensor, abroad: Tensor, clicked: Tensor) -> None:
    """Draw one network's features in their plane, (P, 2): the shop by colour and marker, a click by a filled one."""
    for away, name, shade, marker in ((False, "home", PALETTE["blue"], "o"), (True, "abroad", PALETTE["vermillion"],
                                      "^")):  # fmt: skip
        for filled in (False, True):
            x, y = points[(abroad == away) & (clicked == filled)].T
            axis.scatter(
                x, y, s=26, marker=marker, edgecolors=shade, linewidths=1.1, alpha=0.75,
                facecolors=shade if filled else "none", label=name if filled else None,
            )  # fmt: skip
    axis.set(
        xlim=(-2.2, 2.2), ylim=(-3.3, 2.2), xlabel="where the domains lie apart", ylabel="where the rest spreads",
        title="One network's features",
    )  # fmt: skip
    axis.legend(loc="lower center", ncols=2, columnspacing=0.8, handletextpad=0.1, title="filled: clicked, open: not")
