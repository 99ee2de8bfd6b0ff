"""The lesson's looks, and those drawings that no shared one makes."""

import math
from collections.abc import Hashable, Mapping, Sequence

import torch

from recmtl_lessons.datasets.shops import Shops
from recmtl_lessons.lessons.cross_domain_transfer.linking import RATINGS_A_USER, Errors, LiveLinking
from recmtl_lessons.lessons.cross_domain_transfer.linking import STEPS as LINKING_STEPS
from recmtl_lessons.lessons.cross_domain_transfer.matching import LiveMatching
from recmtl_lessons.models import median_bandwidth, squared_mmd
from recmtl_lessons.teaching import style
from recmtl_lessons.teaching.claim import t_interval
from recmtl_lessons.teaching.clouds import draw_clouds
from recmtl_lessons.teaching.looks import GREY, Look, draw_line, line_at
from recmtl_lessons.training import Scores
from recmtl_lessons.training.shops import STEPS

LOOKS = {
    "MMD": Look("MMD", "blue", "o", "-"),
    "adversary": Look("adversary", "vermillion", "^", "--"),
    "CORAL": Look("CORAL", "green", "s", "-."),
    "means": Look("means", "black", "D", ":"),
    "home": Look("home", "blue", "o", "-"),
    "abroad": Look("abroad", "vermillion", "^", "--"),
    "linked": Look("linked", "vermillion", "^"),
    "pooled": Look("all in one pool", "blue", "o"),
    "rule": Look("the rule without a network", "black", "s"),
}


def draw_kernel(shops: Shops, figure, reaches: Sequence[float] = (0.1, 1.0, 10.0), rows: int = 24) -> list[float]:
    """Draw the kernel between all pairs of some rows, at three bandwidths; return the squared MMD at each."""
    home, abroad = (shops.train[domain]["x"][0, :rows] for domain in ("home", "abroad"))
    both = torch.cat([home, abroad])
    sigma = median_bandwidth(home, abroad)
    found = []
    for axis, reach in zip(style.panels(figure, len(reaches)), reaches, strict=True):
        kernel = torch.exp(-torch.cdist(both, both).square() / (2 * (reach * sigma) ** 2))
        found.append(float(squared_mmd(home, abroad, reach * sigma, scales=(1.0,))))
        axis.imshow(kernel, cmap="cividis", vmin=0, vmax=1)
        axis.axhline(rows - 0.5, color="white", lw=2)
        axis.axvline(rows - 0.5, color="white", lw=2)
        axis.grid(visible=False)
        axis.set_xticks([rows / 2, 1.5 * rows], ["home", "abroad"])
        axis.set_yticks([rows / 2, 1.5 * rows], ["home", "abroad"], rotation=90, va="center")
        axis.set_title(f"σ = {reach:g} × median\nMMD² = {abs(found[-1]) if abs(found[-1]) < 5e-4 else found[-1]:.3f}")
    return found


def draw_alignments(results: Mapping[str, Mapping[str, Scores]], figure) -> None:
    """Draw, over the weight of each alignment, AUC abroad and what a fresh classifier still finds of the shop."""
    left, right = style.panels(figure, 2)
    for axis, measure in ((left, "abroad"), (right, "fresh")):
        for name, result in results.items():
            result[measure].draw(axis, LOOKS[name], place=_place)
        line_at(axis, float(results["MMD"][measure][0.0].mean()), "")
        axis.set_xticks([_place(w) for w in _SHOWN], _SHOWN_AS)
        axis.set(xlabel="weight of the alignment", xlim=(-0.4, _place(_SHOWN[-1]) + 0.7))
    left.text(0.0, results["MMD"]["abroad"][0.0].mean() - 0.04, "no alignment", fontsize=11, color=GREY)
    left.set(ylim=(0.3, 1.0), ylabel="AUC of clicks abroad", title="Who is served?")
    right.set(ylim=(0, 2.45), ylabel="proxy A-distance: 0 guesses, 2 knows", title="What a fresh classifier finds")
    right.legend(loc="upper right", ncols=2)


_SHOWN = (0.0, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4)
_SHOWN_AS = ("0", "0.1", "1", "10", "10²", "10³", "10⁴")


def _place(weight: float) -> float:
    """Return where a weight stands on the axis: logarithmic from 0.1 on, with 0 a step to its left."""
    return 1.0 + math.log10(weight / 0.1) if weight >= 0.1 else weight / 0.1


def draw_bandwidth(pull: Scores, fixed: Scores, figure) -> None:
    """Draw how hard the MMD pulls, over its bandwidth, and AUC abroad after training with one that stays.

    Arms of ``fixed`` are (weight, bandwidth).
    """
    left, right = style.panels(figure, 2)
    pull.draw(left, Look("pull", "blue"))
    left.axvline(1.0, color=GREY, lw=1.4, ls=":")
    left.text(1.1, 0.03, "median", color=GREY, fontsize=12)
    left.set(
        xscale="log", ylim=(-0.03, 1.08), xlabel="bandwidth, in pooled medians", ylabel=pull.measure,
        title="At the start of training",
    )  # fmt: skip
    for weight, look in (
        (1.0, Look("weight 1", "vermillion", "^", "--")),
        (100.0, Look("weight 100", "black", "s", ":")),
    ):
        over = {bandwidth: fixed[w, bandwidth] for w, bandwidth in fixed if w == weight}
        Scores.of(fixed.measure, over).draw(right, look)
    right.set(
        xscale="log", ylim=(0.3, 1.0), xlabel="bandwidth, fixed", ylabel=fixed.measure, title="After training with it",
    )  # fmt: skip
    right.legend(loc="upper left")


def draw_test(rejected: Scores, figure) -> None:
    """Draw the share of samples that the permutation test rejects, over how far they lie apart."""
    (axis,) = style.panels(figure, 1)
    rejected.draw(axis, Look("rejected", "blue"))
    line_at(axis, 0.05, "")
    axis.text(rejected.arms[-1], 0.08, "5 %", color=GREY, fontsize=12, ha="right")
    axis.set(
        ylim=(-0.02, 1.05), xlabel="shift, as a share of the way from home to abroad", ylabel=rejected.measure,
        title="How often the test says: different",
    )  # fmt: skip


def draw_network(figure) -> None:
    """Draw the transfer network as boxes: what is shared, and what each shop has of its own."""
    axis = figure.subplots()
    axis.set(xlim=(0, 13.4), ylim=(-0.1, 5.1))
    axis.axis("off")
    blue, red, green = (style.PALETTE[c] for c in ("blue", "vermillion", "green"))
    boxes = (
        (0.2, 3.9, 2.3, "items: books", blue), (0.2, 2.2, 2.3, "users", green), (0.2, 0.5, 2.3, "items: films", red),
        (4.3, 3.1, 2.2, "tower: books", blue), (4.3, 1.3, 2.2, "tower: films", red),
        (8.0, 2.2, 2.0, "shared\nlayers", green), (11.3, 2.2, 1.7, "head", green),
    )  # fmt: skip
    for box in boxes:
        style.box(axis, *box)
    for start, end, colour in (
        ((2.6, 4.4), (4.2, 3.9), blue), ((2.6, 2.9), (4.2, 3.4), blue), ((2.6, 2.5), (4.2, 2.0), red),
        ((2.6, 1.0), (4.2, 1.5), red), ((6.6, 3.6), (7.9, 3.0), blue), ((6.6, 1.8), (7.9, 2.4), red),
        ((10.1, 2.7), (11.2, 2.7), green),
    ):  # fmt: skip
        style.arrow(axis, start, end, colour)
    axis.text(1.35, 3.45, "one row a person", color=green, fontsize=12, ha="center")
    axis.text(10.65, 3.0, "z", color=green, fontsize=16, ha="center")
    axis.text(10.65, 1.5, "MMD compares\nthe z of both shops", color=green, fontsize=12, ha="center")
    axis.text(5.4, 0.5, "a product of the embeddings\nruns beside each tower", color=GREY, fontsize=12, ha="center")


def draw_ratings(ways: Mapping[str, tuple[Errors, Hashable]], constant: Errors, figure) -> None:
    """Draw the RMSE over the number of ratings that a user had to learn from, for an arm of some errors a way."""
    (axis,) = style.panels(figure, 1)
    _over_ratings(axis, ways)
    level = [float(constant[n]["constant"].mean()) for n in RATINGS_A_USER]
    axis.plot(range(len(level)), level, color=GREY, lw=1.6, ls=":")
    mean = sum(level) / len(level)
    axis.text(len(level) - 1, mean + 0.01, "the mean rating always", color=GREY, ha="right")
    axis.set(title="Who gains from whom?")
    axis.legend(loc="lower left")


def _over_ratings(axis, ways: Mapping[str, tuple[Errors, Hashable]]) -> None:
    place = range(len(RATINGS_A_USER))
    looks = (("blue", "o", "-"), ("green", "s", "-."), ("vermillion", "^", "--"), ("black", "D", ":"))
    for (name, (errors, arm)), look in zip(ways.items(), looks, strict=False):
        draw_line(axis, place, torch.stack([errors[n][arm] for n in RATINGS_A_USER], dim=1), Look(name, *look))
    axis.set_xticks(place, RATINGS_A_USER)
    axis.set(ylim=(0.5, 1.15), xlabel="ratings of films a user has given", ylabel="RMSE of their other ratings")


def draw_grid(grid: Mapping[float, Errors], figure) -> None:
    """Draw the gain over overlap and relatedness as a heat map with its numbers."""
    (axis,) = style.panels(figure, 1)
    _heat_map(axis, grid)


def _heat_map(axis, grid: Mapping[float, Errors]) -> None:
    rows = {relatedness: errors["few"] for relatedness, errors in grid.items()}
    overlaps = next(iter(rows.values())).arms
    gain = [[float(few.lead(overlaps[0], over=overlap).mean()) for overlap in overlaps] for few in rows.values()]
    edges = [_edges(values) for values in (overlaps, tuple(rows))]
    axis.pcolormesh(*edges, gain, cmap="RdBu", vmin=-0.3, vmax=0.3)
    for relatedness, row in zip(rows, gain, strict=True):
        for overlap, value in zip(overlaps, row, strict=True):
            axis.text(
                overlap, relatedness, _signed(value), ha="center", va="center", fontsize=13,
                color="white" if abs(value) > 0.18 else "black",
            )  # fmt: skip
    axis.set_xticks(overlaps, [f"{overlap:.0%}" for overlap in overlaps])
    axis.set_yticks(list(rows), [f"{relatedness:g}" for relatedness in rows])
    axis.grid(visible=False)
    axis.set(
        xlabel="share of accounts linked", ylabel="correlation of tastes", xlim=(edges[0][0], edges[0][-1]),
        ylim=(edges[1][0], edges[1][-1]), title="How much lower the error is",
    )  # fmt: skip


def _signed(value: float) -> str:
    """Write two decimals with their sign; none for what rounds to 0."""
    return "0.00" if abs(value) < 0.005 else f"{value:+.2f}".replace("-", "−")


def _edges(values: Sequence[float]) -> list[float]:
    """Return the borders of cells around values at equal distances."""
    half = (values[1] - values[0]) / 2
    return [values[0] - half, *(value + half for value in values)]


def draw_live_linking(result: LiveLinking, grid: Mapping[float, Errors], figure, controls: dict) -> None:
    """Draw the map with your place in it, and the error of your two arms, by number of ratings."""
    place, curves = style.panels(figure, 2)
    _heat_map(place, grid)
    gain = result.errors["few"].lead("nobody linked", over="yours").mean()
    place.text(
        controls["overlap"], controls["relatedness"], f"★ {_signed(float(gain))}", ha="center", va="center",
        fontsize=15, fontweight="bold", bbox={"fc": style.PALETTE["yellow"], "ec": "black", "lw": 1.6, "pad": 3.5},
    )  # fmt: skip
    _over_ratings(curves, {arm: (result.errors, arm) for arm in ("nobody linked", "yours")})
    curves.set(title=f"Your place, eight worlds, step {result.step} of {LINKING_STEPS}")
    curves.legend(loc="lower left")


def describe_live_linking(result: LiveLinking, controls: dict) -> str:
    """Say the live picture in words."""
    few = result.errors["few"]
    gain, low, high = t_interval(few.lead("nobody linked", over="yours"))
    without, yours = few.values.square().mean(1).sqrt().tolist()
    return (
        f"{controls['overlap']:.0%} of the accounts linked, tastes correlated at {controls['relatedness']:g}, books "
        f"weighed {controls['weight']:g}, step {result.step} of {LINKING_STEPS}, 8 worlds: RMSE of users with 2 or 4 "
        f"ratings {without:.2f} with nobody linked and {yours:.2f} with yours, {gain:+.3f} lower (95 % interval "
        f"{low:+.3f} to {high:+.3f})."
    )


def draw_live_matching(result: LiveMatching, band: Mapping[str, Scores], figure, controls: dict) -> None:
    """Draw the two clouds and the kernel's reach, the curves, and the place in the band."""
    from matplotlib.patches import Circle

    clouds, curves, place = style.panels(figure, 3, (1.0, 1.0, 1.0))
    draw_clouds(clouds, result.points, result.abroad, result.clicked)
    clouds.add_patch(Circle((0, 0), result.radius, fc="none", ec="black", lw=2.2))
    if result.radius > 3.0:
        clouds.text(0, 1.9, "σ reaches beyond the picture", ha="center", fontsize=12)
    else:
        clouds.text(0, min(result.radius + 0.1, 1.85), "σ", ha="center", fontsize=14)
    clouds.set_aspect("equal")
    looks = {"abroad": Look("AUC abroad", "vermillion", None, "--"), "mmd": Look("MMD² (median σ)", "black", None)}
    result.curves.only(*looks).draw(curves, looks)
    curves.set(xlim=(0, STEPS), ylim=(-0.05, 1.3), ylabel="", title="Eight networks, live")
    curves.set_yticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    curves.legend(loc="upper left")
    for name, label in (("home", None), ("abroad", "yours")):
        band[name].draw(place, LOOKS[name], place=_place)
        style.star(place, _place(controls["weight"]), result.curves[name][:, -1], label)
    shown = _SHOWN[:4]
    place.set_xticks([_place(w) for w in shown], [f"{w:g}" for w in shown])
    place.set(
        xlim=(-0.4, _place(30.0) + 0.2), ylim=(0.05, 1.02), xlabel="weight of the MMD", title="You beside the sweep",
    )  # fmt: skip
    place.legend(loc="lower right")


def describe_live_matching(result: LiveMatching, controls: dict) -> str:
    """Say the live picture in words."""
    end = result.curves.at_end()
    mean, low, high = t_interval(end["abroad"])
    return (
        f"Weight {controls['weight']:g}, bandwidth {controls['reach']:g} times the median, step "
        f"{result.curves.steps[-1]} of {STEPS}, 8 networks: squared MMD {end['mmd'].mean():.3f}, AUC abroad {mean:.2f} "
        f"(95 % interval {low:.2f} to {high:.2f}), at home {end['home'].mean():.2f}."
    )


def draw_genres(result: Mapping[str, Scores], figure) -> None:
    """Draw how much lower than alone the error of each way is, for each pair of genres."""
    (axis,) = style.panels(figure, 1)
    rows = torch.arange(len(result))
    for arm, lift in (("linked", -0.22), ("pooled", 0.0), ("rule", 0.22)):
        gains = torch.stack([scores.lead("alone", over=arm) for scores in result.values()])  # (pairs, S)
        mean, low, high = t_interval(gains.T)
        look, colour = LOOKS[arm], style.PALETTE[LOOKS[arm].colour]
        axis.plot(gains, (rows[:, None] + lift).expand_as(gains), "o", ms=4, color=colour, alpha=0.3)
        axis.errorbar(
            mean, rows + lift, xerr=[mean - low, high - mean], fmt=look.marker, ms=10, lw=3, capsize=6, color=colour,
            label=look.label,
        )  # fmt: skip
    axis.axvline(0, color=GREY, lw=1.2)
    axis.set_yticks(rows, result)
    axis.set(
        xlabel="RMSE of the second genre alone minus RMSE of each way (right: better)",
        title="MovieLens: what the other genre is worth", ylim=(len(result) - 0.05, -0.5),
    )  # fmt: skip
    axis.legend(loc="lower left", ncols=3, fontsize=11)
