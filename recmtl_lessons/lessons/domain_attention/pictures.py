"""What the lesson draws: plain functions of a result and a figure."""

from collections.abc import Sequence

import torch
from torch import Tensor

from recmtl_lessons.lessons.domain_attention.experiments import (
    DOMAINS,
    STEPS,
    Comparison,
    LiveTraining,
    Turning,
    agreement,
)
from recmtl_lessons.lessons.domain_attention.films import GenreAttention
from recmtl_lessons.lessons.domain_attention.looking import OneUser
from recmtl_lessons.teaching import style
from recmtl_lessons.teaching.claim import t_interval
from recmtl_lessons.teaching.looks import GREY, Look, line_at, look_of
from recmtl_lessons.training import Scores

LOOKS = {
    "uniform": Look("all alike", "orange", None, "--"),
    "closest": Look("closest shop\nonly", "green"),
    "concatenation": Look("all in\none row", "purple"),
    "fixed": Look("one weight\na pair of shops", "sky"),
    "attention": Look("attention", "blue"),
    "truth": Look("by the truth,\nnot trained", "black"),
    "turned": Look("weight of games", "vermillion", "^"),
    "by length": Look("weight", "blue"),
    "any": Look("any of\nthem", "orange"),
    "films": Look("films\n(a twin)", "purple"),
    "games": Look("games\n(its twin)", "purple"),
    "music": Look("music", "green"),
    "films + games": Look("both\ntwins", "vermillion"),
    "yours": Look("yours", "blue"),
}


def draw_idea(figure) -> None:
    """Draw where a prediction for a new shop comes from: profiles, weights, one summary, an item."""
    axis = figure.subplots()
    axis.set(xlim=(0, 13.4), ylim=(-0.3, 5.5))
    axis.axis("off")
    blue, green, red = (style.PALETTE[c] for c in ("blue", "green", "vermillion"))
    weights = {"films": 0.5, "games": 0.08, "music": 0.3, "news": 0.12}
    for k, (name, weight) in enumerate(weights.items()):
        y = 3.9 - 1.3 * k
        style.box(axis, 0.2, y, 2.3, f"history in {name}", GREY, height=0.85)
        axis.plot([2.6, 5.6], [y + 0.4, 2.5], "-", color=blue, lw=1 + 16 * weight, solid_capstyle="butt", alpha=0.65)
        axis.text(
            3.35, y + 0.4 + 0.25 * (2.1 - y), f"{weight:.2f}", fontsize=13, color=blue, ha="center", va="center",
            bbox={"fc": "white", "ec": "none", "pad": 1.5},
        )  # fmt: skip
    style.box(axis, 5.7, 2.1, 2.1, "what is known\nof the user", blue, height=0.85)
    style.box(axis, 5.7, 4.45, 2.1, "query: books", green, height=0.85)
    style.box(axis, 9.0, 0.4, 2.0, "a book", red, height=0.85)
    style.box(axis, 9.0, 2.1, 2.0, "small network", GREY, height=0.85)
    for start, end, colour in (
        ((6.75, 4.35), (5.0, 3.3), green),
        ((7.9, 2.55), (8.9, 2.55), GREY),
        ((10.0, 1.4), (10.0, 2.0), red),
        ((11.1, 2.55), (12.0, 2.55), GREY),
    ):
        style.arrow(axis, start, end, colour)
    axis.text(7.0, 3.7, "asks each history: how\nmuch do you tell about me?", fontsize=13, color=green, va="center")
    axis.text(12.1, 2.55, "click?", fontsize=14, va="center")
    axis.text(4.6, 0.1, "weights sum to 1", fontsize=13, color=blue, ha="center")


def draw_comparison(result: Comparison, figure) -> None:
    """Draw the AUC of the six ways to use the other shops, the same seeds joined."""
    (axis,) = style.panels(figure, 1)
    result.auc.only("uniform", "closest", "concatenation", "fixed", "attention", "truth").draw(axis, LOOKS)
    axis.set_title("Six ways to use the other shops")


def draw_weights(result: Comparison, figure) -> None:
    """Draw one seed's relatedness and learned weights as matrices, then every pair of every seed as a point."""
    truth, learned, points = style.panels(figure, 3, (1.0, 1.0, 1.15))
    heat_map(truth, result.shops.relatedness[0], DOMAINS, "Relatedness, one seed", signed=True)
    weights = result.weights
    heat_map(learned, weights[0], DOMAINS, "Learned weights")
    truth.set(ylabel="shop asked about")
    _draw_pairs(points, result.shops.relatedness, weights)
    points.set_title(f"All {len(weights)} seeds")


def _draw_pairs(axis, relatedness: Tensor, weights: Tensor) -> None:
    """Draw each pair of different shops as a point, with a colour and a marker for each seed: (S, D, D) both."""
    pairs = ~torch.eye(len(DOMAINS), dtype=torch.bool)
    for s, (truth, weight) in enumerate(zip(relatedness, weights, strict=True)):
        look = look_of(s, None, s)
        axis.plot(truth[pairs], weight[pairs], look.marker, ms=6, color=style.PALETTE[look.colour], alpha=0.75)
    _line_of_equal_weights(axis)
    axis.set(xlabel="true relatedness", ylabel="mean weight", xlim=(-0.75, 1.02))


def _line_of_equal_weights(axis) -> None:
    line_at(axis, 1 / (len(DOMAINS) - 1), "all alike")


def heat_map(
    axis, values: Tensor, names: Sequence[str], title: str, signed: bool = False, fontsize: float = 11
) -> None:
    """Draw a matrix of shops by shops, its diagonal left out, with numbers in its cells."""
    import seaborn  # it brings pandas and pyplot along
    from matplotlib.backend_bases import FigureCanvasBase

    own = torch.eye(len(names), dtype=torch.bool)
    top = float(values[~own].abs().max().clamp(min=1e-9))
    digits = 3 if top < 0.1 else 2
    written = [[f"{round(x, digits) + 0.0:.{digits}f}".replace("-", "−") for x in row] for row in values.tolist()]
    FigureCanvasBase(axis.figure)  # seaborn draws the whole figure once more, unless its canvas has no pixels
    seaborn.heatmap(
        values.numpy(), mask=own.numpy(), annot=written, fmt="", annot_kws={"fontsize": fontsize}, cbar=False,
        cmap="PuOr_r" if signed else "Blues", vmin=-top if signed else 0.0, vmax=top * 1.15, ax=axis,
    )  # fmt: skip
    axis.grid(False)
    places = [k + 0.5 for k in range(len(names))]
    axis.set_xticks(places, names, rotation=30, ha="right", rotation_mode="anchor")
    axis.set_yticks(places, names, rotation=0)
    axis.tick_params(length=0)
    axis.set_title(title)


def draw_turning(turning: Turning, by_length: Scores, figure) -> None:
    """Draw the weight of a shop as it turns around, and weights by the length of the history."""
    left, right = style.panels(figure, 2)
    turning.weight.draw(left, LOOKS["turned"])
    levels = turning.weight.arms
    left.set_xticks(levels, [f"{level:g}".replace("-", "−") for level in levels])
    left.set(xlabel="relatedness of games to the others", ylabel="mean weight", title="A shop turns around")
    lengths = by_length.arms
    by_length.draw(right, LOOKS["by length"], place=lengths.index)
    right.set_xticks(range(len(lengths)), lengths)
    right.set(xlabel="interactions in the history", title="Equally related shops")
    for axis in (left, right):
        _line_of_equal_weights(axis)
        axis.set_ylim(0, None)


def draw_removal(lost: Scores, twins: dict[str, Scores], figure) -> None:
    """Draw what is lost with the most attended shop, the second, and so on, and then in a town with twins."""
    left, right = style.panels(figure, 2, (1.0, 1.1))
    *ranks, _ = lost
    names = ("most\nattended", "second", "third", *(f"{k}th" for k in ranks[3:]))
    looks = [Look(name) for name in (*names[: len(ranks) - 1], "least")]
    _bars(left, lost, [*looks, LOOKS["any"]])
    left.set(ylabel="AUC lost", title="Take one shop out")
    shown = twins["lost"].only("films", "games", "music", "films + games")
    highs = _bars(right, shown, [LOOKS[out] for out in shown])
    for k, (out, high) in enumerate(zip(shown, highs, strict=True)):
        weight = sum(float(twins["weight"][name].mean()) for name in out.split(" + "))
        right.text(k, high + 0.006, f"weight {weight:.2f}", ha="center", fontsize=12)
    right.set(ylabel="AUC lost, same scale", title="Books, asked in a town with twins")
    top = 1.1 * right.get_ylim()[1]
    for axis in (left, right):
        axis.set_ylim(-0.01, top)


def _bars(axis, scores: Scores, looks: Sequence[Look]) -> list[float]:
    """Draw a bar an arm, and return where their intervals end."""
    hatches = ("", "//", "..", "xx", "\\\\")
    highs = []
    for k, (arm, look) in enumerate(zip(scores, looks, strict=True)):
        mean, low, high = t_interval(scores[arm])
        highs.append(float(high))
        axis.bar(
            k, mean, 0.7, yerr=[[mean - low], [high - mean]], capsize=6, color=style.PALETTE[look.colour], alpha=0.75,
            hatch=hatches[k % len(hatches)], edgecolor="white", ecolor="black",
        )  # fmt: skip
    axis.axhline(0, color=GREY, lw=1)
    axis.set_xticks(range(len(looks)), [look.label for look in looks])
    return highs


def draw_genres(result: GenreAttention, figure) -> None:
    """Draw who attends to whom among users new to a genre, and what is lost without."""
    left, right = style.panels(figure, 2)
    for axis, values, name, digits in ((left, result.weights, "Weights", 2), (right, result.lost, "AUC lost", 3)):
        mean, low, high = (torch.as_tensor(x) for x in t_interval(values))
        title = f"{name} (each ±{float((high - low).max() / 2):.{digits}f} at most)"
        heat_map(axis, mean, result.genres, title, signed=axis is right, fontsize=13.5)
    left.set(ylabel="genre asked about", xlabel="genre attended to")
    right.set(xlabel="genre taken out")


# The explorers' pictures.


def draw_look(result: OneUser, figure, controls: dict) -> None:
    """Draw one user: weights for each shop asked about, flows to the one that is, predictions beside the truth."""
    heat, flows, items = style.panels(figure, 3, (1.0, 1.05, 1.0))
    heat_map(heat, result.weights, DOMAINS, f"User {controls['user']}: weights")
    row, n = DOMAINS.index(controls["asked"]), len(DOMAINS)
    heat.plot(
        [0, n, n, 0, 0], [row, row, row + 1, row + 1, row], color=style.PALETTE["vermillion"], lw=3, clip_on=False
    )
    heat.set(ylabel="shop asked about")
    _draw_flows(result, controls["asked"], flows)
    place = range(len(result.truth))
    items.hlines(place, result.truth, result.probability, color="#BBBBBB", lw=2)
    items.plot(result.truth, place, "D", ms=8, color=style.PALETTE["black"], label="truth")
    items.plot(result.probability, place, "o", ms=8, color=style.PALETTE["blue"], label="predicted")
    items.set_yticks([])
    items.set(xlim=(-0.03, 1.03), ylim=(-0.7, len(place) + 2.2), xlabel="probability of a click")
    items.set_title(f"{len(place)} items of {controls['asked']}")
    items.legend(loc="upper left", ncols=2, columnspacing=1.0, handletextpad=0.2)


def _draw_flows(result: OneUser, name: str, axis) -> None:
    axis.set(xlim=(0, 10), ylim=(-0.6, 4.4))
    axis.axis("off")
    asked = DOMAINS.index(name)
    others = [d for d in range(len(DOMAINS)) if d != asked]
    axis.set_title(f"What flows to {name}")
    for y, d in zip(torch.linspace(3.6, 0.15, len(others)).tolist(), others, strict=True):
        weight = float(result.weights[asked, d])
        empty = int(result.history[d]) == 0
        if not empty:
            axis.plot(
                [5.6, 8.1], [y, 1.9], "-", color=style.PALETTE["blue"], lw=0.6 + 22 * weight, alpha=0.55,
                solid_capstyle="butt",
            )  # fmt: skip
        close = " (closest)" if DOMAINS[d] == result.closest else ""
        axis.text(0.0, y + 0.14, DOMAINS[d] + close, fontsize=13, weight="bold", va="bottom")
        known = "no history" if empty else f"{int(result.history[d])} known"
        related = f"{float(result.relatedness[d]):.2f}".replace("-", "−")
        axis.text(0.0, y + 0.06, f"related {related}, {known}", fontsize=11, color=GREY, va="top")
    axis.text(8.5, 1.9, name, fontsize=14, weight="bold", va="center", color=style.PALETTE["vermillion"])


def describe_look(result: OneUser, controls: dict) -> str:
    """Say the picture of one user in words."""
    user, asked, out = (controls[name] for name in ("user", "asked", "out"))
    row = result.weights[DOMAINS.index(asked)]
    shares = ", ".join(f"{name} {float(w):.2f}" for name, w in zip(DOMAINS, row, strict=True) if name != asked)
    known = int(result.history[DOMAINS.index(result.closest)])
    gone = "" if out == "none" else f", {out} taken out"
    if result.probability.isnan().any():
        return f"User {user}, asked about {asked}{gone}: nothing is left to attend to."
    error = float((result.probability - result.truth).abs().mean())
    return (
        f"User {user}, new to {asked}{gone}; {known} interactions known in {result.closest}, the closest "
        f"shop. Weights: {shares}. Predictions are {error:.2f} from the truth on average."
    )


def draw_live(result: LiveTraining, reference: Scores, figure) -> None:
    """Draw the AUC while the networks train, and their weights over the true relatedness, now."""
    curves, points = style.panels(figure, 2)
    for arm, look in (("attention", Look("temperature 1, width 8", "black", line=":")), ("uniform", LOOKS["uniform"])):
        level = float(reference[arm].mean())
        curves.axhline(level, color=style.PALETTE[look.colour], lw=1.6, ls=look.line, label=look.label)
    result.curve.draw(curves, LOOKS)
    curves.set(xlim=(0, STEPS), ylim=(0.48, 0.76), title=f"{len(result.weights)} networks, live")
    curves.legend(loc="lower right")
    _draw_pairs(points, result.relatedness, result.weights)
    points.set_ylim(-0.03, 1.03)
    points.set_title(f"Rank correlation {float(agreement(result.weights, result.relatedness).mean()):.2f}")


def describe_live(result: LiveTraining, controls: dict) -> str:
    """Say the live picture in words."""
    mean, low, high = t_interval(result.curve.at_end()["yours"])
    rank = t_interval(agreement(result.weights, result.relatedness))
    return (
        f"Temperature {controls['temperature']:g}, width {controls['attention_dim']}, step {result.curve.steps[-1]} of "
        f"{STEPS}, {len(result.weights)} networks: AUC {mean:.3f} (95 % interval {low:.3f} to {high:.3f}); rank "
        f"correlation of weights and relatedness {rank[0]:.2f} ({rank[1]:.2f} to {rank[2]:.2f})."
    )
