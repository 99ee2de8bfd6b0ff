"""What the lesson draws: plain functions of a result and a figure."""

import math

import torch
from torch import Tensor

from recmtl_lessons.datasets import make_world
from recmtl_lessons.lessons.domain_adversarial.experiments import (
    SEEDS,
    SHOP,
    STEPS,
    GenreTransfer,
    LiveTraining,
    Shops,
    Sweep,
    TwoTasks,
)
from recmtl_lessons.models import lambda_schedule
from recmtl_lessons.teaching import style
from recmtl_lessons.teaching.claim import t_interval


def draw_idea(figure) -> None:
    """Draw the network as boxes, what flows forward, and what comes back as gradients."""
    axis = figure.subplots()
    axis.set(xlim=(0, 13.2), ylim=(-0.1, 5.0))
    axis.axis("off")
    grey, blue, red, green = "#555555", *(style.PALETTE[c] for c in ("blue", "vermillion", "green"))
    style.box(axis, 0.2, 1.9, 2.2, "features x\nhome, abroad", grey)
    style.box(axis, 3.7, 1.9, 1.9, "encoder f", blue)
    style.box(axis, 7.3, 3.6, 2.1, "task head g", green)
    style.box(axis, 6.4, 0.3, 1.7, "reversal", red)
    style.box(axis, 9.5, 0.3, 2.1, "domain\nclassifier h", red)
    for start, end in (
        ((2.5, 2.4), (3.6, 2.4)),
        ((5.7, 2.8), (7.2, 4.0)),
        ((5.7, 2.0), (6.5, 1.5)),
        ((8.2, 1.0), (9.4, 1.0)),
    ):
        style.arrow(axis, start, end, grey, "-")
    for start, end, colour in (
        ((7.2, 3.6), (5.7, 2.4), green),
        ((9.4, 0.6), (8.2, 0.6), red),
        ((6.3, 0.8), (4.7, 1.8), red),
    ):
        style.arrow(axis, start, end, colour, "--")
    words = (
        (9.7, 4.1, "click?  labels at home only", green, "left"),
        (11.8, 0.8, "home or\nabroad?", red, "left"),
        (6.75, 2.75, "gradient", green, "left"),
        (8.8, 0.22, "gradient", red, "center"),
        (5.2, 0.75, "− λ · gradient", red, "right"),
    )
    for x, y, text, colour, align in words:
        axis.text(x, y, text, color=colour, fontsize=14, ha=align, va="center")


def draw_banner(shops: Shops, figure) -> None:
    """Draw what the banner says, beside what was clicked and what was not: the first shop, with the mixing undone."""
    (axis,) = style.panels(figure, 1)
    mixing = make_world(SHOP, SEEDS[0]).mixing
    for d, fields in enumerate(shops.train.values()):
        banner = (fields["x"][0] @ mixing.T)[:, SHOP.taste_dim :].mean(1)  # (n,)
        for clicked, colour, marker in ((True, "vermillion", "^"), (False, "blue", "o")):
            values = banner[(fields["click"][0] > 0) == clicked]
            axis.errorbar(
                values.mean(), d + (0.12 if clicked else -0.12), xerr=values.std(), fmt=marker, ms=12, lw=3,
                capsize=6, color=style.PALETTE[colour],
                label=("clicked" if clicked else "not clicked") if d == 0 else None,
            )  # fmt: skip
    axis.set_yticks(range(len(shops.train)), shops.train)
    axis.set(
        xlabel="size of the banner, mean ± standard deviation (0: the middle at home)",
        title="The banner beside what people click",
        xlim=(-1.2, 2.4), ylim=(1.5, -0.5),
    )  # fmt: skip
    axis.legend(loc="lower left")


def draw_softmax(right: Sweep, wrong: Sweep, figure) -> None:
    """AUC abroad over lambda, with logits and with a softmax too many."""
    (axis,) = style.panels(figure, 1)
    _lambda_axis(axis)
    for sweep, label, colour, marker, line in (
        (right, "logits", "vermillion", "^", "-"),
        (wrong, "softmax inside", "black", "s", "--"),
    ):
        place = [_place(lam) for lam in sweep.lambdas]
        style.band(axis, place, sweep.target_auc.T, label, colour, marker, line)
    _coin_flip(axis)
    axis.set(ylim=(0.3, 1.02), ylabel="AUC of clicks abroad", title="The same rise, further to the right")
    axis.legend(loc="lower right")


def draw_sweep(result: Sweep, reference: Tensor, figure) -> None:
    """Left: AUC at home and abroad over lambda. Right: how well the domains can be told apart."""
    left, right = style.panels(figure, 2)
    _lambda_axis(left)
    place = [_place(lam) for lam in result.lambdas]
    style.band(left, place, result.source_auc.T, "at home (labels)", "blue", "o", "-")
    style.band(left, place, result.target_auc.T, "abroad (no labels)", "vermillion", "^", "--")
    _coin_flip(left)
    left.axhline(reference.mean(), color=style.PALETTE["vermillion"], lw=1.4, ls=":")
    left.text(
        0.02, reference.mean() + 0.008, "trained abroad", transform=left.get_yaxis_transform(),
        color=style.PALETTE["vermillion"], fontsize=11,
    )  # fmt: skip
    left.set(ylim=(0.3, 1.02), ylabel="AUC of clicks", title="Who is served?")
    left.legend(loc="lower right")
    _lambda_axis(right)
    style.band(right, place, _own_distance(result).T, "the network's own classifier", "purple", "s", "-.")
    style.band(right, place, result.a_distance.T, "a fresh classifier", "black", "D", ":")
    right.axhline(0, color="#555555", lw=1.2, ls=":")
    right.text(0.01, 0.03, "must guess", transform=right.get_yaxis_transform(), fontsize=11, color="#555555")
    right.set(ylim=(-0.4, 2.05), ylabel="distance: 0 guesses, 2 always knows", title="Who can tell home from abroad?")
    right.legend(loc="upper right")


def _own_distance(result: Sweep) -> Tensor:
    """Proxy A-distance by the network's own classifier, 2 (1 - 2 error)."""
    return 2 * (2 * result.domain_accuracy - 1)


def draw_two_tasks(result: TwoTasks, figure) -> None:
    """Click AUC and rating error in each domain, without and with the adversary."""
    axes = style.panels(figure, 2)
    measures = (
        (result.click_auc, "AUC of clicks (higher is better)"),
        (result.rating_rmse, "RMSE of ratings (lower is better)"),
    )
    for axis, (scores, title) in zip(axes, measures, strict=True):
        place = torch.arange(len(result.domains))
        style.band(axis, place, torch.stack([scores[d][0] for d in result.domains], 1), "λ = 0", "blue", "o", "-")
        style.band(
            axis, place, torch.stack([scores[d][1] for d in result.domains], 1), "λ = 1", "vermillion", "^", "--"
        )
        if scores is result.rating_rmse:
            constant = torch.stack([result.constant_rmse[d] for d in result.domains], 1)
            style.band(axis, place, constant, "always home's mean", "black", None, ":")
        axis.set_xticks(place, result.domains)
        axis.set(title=title, xlabel="domain")
        axis.legend()


def draw_genres(result: GenreTransfer, figure) -> None:
    """The gain of alignment for each pair of genres, and the room there was."""
    (axis,) = style.panels(figure, 1)
    rows = torch.arange(len(result.pairs))[:, None]
    arms = (
        (result.aligned - result.unaligned, "gain with λ = 1", "vermillion", "^", -0.14),
        (result.native - result.unaligned, "gain with labels of the target", "blue", "o", 0.14),
    )
    for gains, label, colour, marker, lift in arms:
        mean, low, high = t_interval(gains.T)
        y = rows.squeeze(1) + lift
        axis.plot(gains, (rows + lift).expand_as(gains), "o", ms=4, color=style.PALETTE[colour], alpha=0.3)
        axis.errorbar(
            mean, y, xerr=[mean - low, high - mean], fmt=marker, ms=10, lw=3, capsize=6,
            color=style.PALETTE[colour], label=label,
        )  # fmt: skip
    axis.axvline(0, color="#555555", lw=1.2)
    axis.set_yticks(range(len(result.pairs)), [f"{source} → {target}" for source, target in result.pairs])
    axis.set(
        xlabel="gain in AUC over λ = 0 (small dots: single splits)", title="MovieLens: what alignment is worth",
        ylim=(len(result.pairs) - 0.2, -0.5),
    )  # fmt: skip
    axis.legend(loc="lower right", ncols=2)


_SHOWN_LAMBDAS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def _place(lam: float) -> float:
    """Where a lambda stands on the axis: logarithmic from 0.03 on, with 0 a step to its left."""
    return lam / 0.03 if lam < 0.03 else 1.0 + 2.0 * math.log10(lam / 0.03)


def _lambda_axis(axis) -> None:
    axis.set_xticks([_place(lam) for lam in _SHOWN_LAMBDAS], [f"{lam:g}" for lam in _SHOWN_LAMBDAS])
    axis.set(xlabel="strength of the reversal, λ", xlim=(-0.3, _place(_SHOWN_LAMBDAS[-1]) + 0.3))


def _coin_flip(axis) -> None:
    axis.axhline(0.5, color="#555555", lw=1.2, ls=":")
    axis.text(0.01, 0.505, "coin flip", transform=axis.get_yaxis_transform(), fontsize=11, color="#555555", va="bottom")


def draw_live(result: LiveTraining, band: Sweep, figure) -> None:
    """Draw the two clouds, the two curves, and the place in the band."""
    clouds, curves, place = style.panels(figure, 3, (1.0, 1.0, 1.15))
    draw_clouds(clouds, result.points, result.abroad, result.clicked)
    style.band(curves, result.steps, result.target_auc, "AUC abroad", "vermillion", None, "--")
    style.band(curves, result.steps, result.domain_accuracy, "domain accuracy", "purple", None, "-.")
    _coin_flip(curves)
    curves.set(xlim=(0, STEPS), ylim=(0.15, 1.02), xlabel="training step", title="Eight networks, live")
    curves.legend(loc="lower right")
    grid = [_place(lam) for lam in band.lambdas]
    _lambda_axis(place)
    style.band(place, grid, band.source_auc.T, "home", "blue", "o", "-")
    style.band(place, grid, band.target_auc.T, "abroad", "vermillion", "^", "--")
    for scores, label in ((result.source_auc, None), (result.target_auc, "yours")):
        style.star(place, _place(result.lam), scores[:, -1], label)
    _coin_flip(place)
    place.set(ylim=(0.15, 1.02), ylabel="AUC of clicks", title="You in the whole picture")
    place.legend(loc="lower right")


def draw_clouds(axis, points: Tensor, abroad: Tensor, clicked: Tensor) -> None:
    """Draw one network's features in their plane, (P, 2): the shop by colour and marker, a click by a filled one."""
    for away, name, colour, marker in ((False, "home", "blue", "o"), (True, "abroad", "vermillion", "^")):
        for filled in (False, True):
            x, y = points[(abroad == away) & (clicked == filled)].T
            shade = style.PALETTE[colour]
            axis.scatter(
                x, y, s=26, marker=marker, edgecolors=shade, linewidths=1.1, alpha=0.75,
                facecolors=shade if filled else "none", label=name if filled else None,
            )  # fmt: skip
    axis.set(
        xlim=(-2.2, 2.2), ylim=(-3.3, 2.2), xlabel="where the domains lie apart", ylabel="where the rest spreads",
        title="One network's features",
    )  # fmt: skip
    axis.legend(loc="lower center", ncols=2, columnspacing=0.8, handletextpad=0.1, title="filled: clicked, open: not")


def describe_live(result: LiveTraining) -> str:
    """The live picture in words."""
    mean, low, high = t_interval(result.target_auc[:, -1])
    home, right = float(result.source_auc[:, -1].mean()), float(result.domain_accuracy[:, -1].mean())
    return (
        f"λ = {result.lam:g}, step {result.steps[-1]} of {STEPS}, 8 networks: AUC abroad {mean:.2f} (95 % interval "
        f"{low:.2f} to {high:.2f}), at home {home:.2f}; the domain classifier is right {right:.0%} of the time, 50% is "
        "chance."
    )


def draw_schedule(result: LiveTraining, figure) -> None:
    """Left: the strength over training, beside the paper's. Right: what eight networks made of it."""
    schedule, curves = style.panels(figure, 2)
    p = torch.linspace(0, 1, 101)
    for gamma, colour, line, label in (
        (10.0, "black", ":", "γ = 10, the paper's"),
        (result.gamma, "blue", "-", "yours"),
    ):
        strength = [result.lam * lambda_schedule(float(q), gamma) for q in p]
        schedule.plot(p * STEPS, strength, color=style.PALETTE[colour], ls=line, label=label)
    now = result.steps[-1] / STEPS
    schedule.plot(
        result.steps[-1], result.lam * lambda_schedule(now, result.gamma), "o", ms=11, color=style.PALETTE["blue"]
    )
    schedule.set(
        xlim=(0, STEPS), ylim=(-0.03 * result.lam, 1.08 * result.lam), xlabel="training step", ylabel="λ at that step",
        title="The schedule",
    )  # fmt: skip
    schedule.legend(loc="lower right")
    style.band(curves, result.steps, result.target_auc, "AUC abroad", "vermillion", None, "--")
    style.band(curves, result.steps, result.domain_accuracy, "domain accuracy", "purple", None, "-.")
    _coin_flip(curves)
    curves.set(xlim=(0, STEPS), ylim=(0.15, 1.02), xlabel="training step", title="Eight networks, live")
    curves.legend(loc="lower right")
