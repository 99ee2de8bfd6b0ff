"""The lesson's looks, and those drawings that no shared one makes."""

import math

import torch
from torch import Tensor

from recmtl_lessons.datasets.shops import Shops
from recmtl_lessons.lessons.domain_adversarial.experiments import LAMBDAS, STEPS, LiveTraining, course_band
from recmtl_lessons.models import lambda_schedule
from recmtl_lessons.teaching import style
from recmtl_lessons.teaching.claim import t_interval
from recmtl_lessons.teaching.clouds import draw_clouds
from recmtl_lessons.teaching.looks import GREY, Look, draw_line, line_at
from recmtl_lessons.training import Scores

LOOKS = {
    "home": Look("at home (labels)", "blue", "o", "-"),
    "abroad": Look("abroad (no labels)", "vermillion", "^", "--"),
    "own": Look("the network's own classifier", "purple", "s", "-."),
    "fresh": Look("a fresh classifier", "black", "D", ":"),
    "banner at home": Look("at home", "blue", "o", "-"),
    "banner abroad": Look("abroad", "vermillion", "^", "--"),
    "with": Look("λ = 1", "vermillion", "^", "--"),
    "without": Look("λ = 0", "blue", "o", "-"),
    "labels of the target": Look("labels of the target", "green", "s", "-"),
    "constant": Look("always home's mean", "black", None, ":"),
    "clicked": Look("clicked", "vermillion", "^"),
    "not clicked": Look("not clicked", "blue", "o"),
    "yours": Look("yours", "black", "*", "-"),
    0.0: Look("the course's, λ = 0", "sky", None, "-."),
    1.0: Look("the course's, λ = 1", "vermillion", None, "--"),
}


def draw_idea(figure) -> None:
    """Draw the network as boxes, what flows forward, and what comes back as gradients."""
    axis = figure.subplots()
    axis.set(xlim=(0, 13.2), ylim=(-0.1, 5.0))
    axis.axis("off")
    blue, red, green = (style.PALETTE[c] for c in ("blue", "vermillion", "green"))
    style.box(axis, 0.2, 1.9, 2.2, "features x\nhome, abroad", GREY)
    style.box(axis, 3.7, 1.9, 1.9, "encoder f", blue)
    style.box(axis, 7.3, 3.6, 2.1, "task head g", green)
    style.box(axis, 6.4, 0.3, 1.7, "reversal", red)
    style.box(axis, 9.5, 0.3, 2.1, "domain\nclassifier h", red)
    forward = (((2.5, 2.4), (3.6, 2.4)), ((5.7, 2.8), (7.2, 4.0)), ((5.7, 2.0), (6.5, 1.5)), ((8.2, 1.0), (9.4, 1.0)))
    for start, end in forward:
        style.arrow(axis, start, end, GREY, "-")
    back = (((7.2, 3.6), (5.7, 2.4), green), ((9.4, 0.6), (8.2, 0.6), red), ((6.3, 0.8), (4.7, 1.8), red))
    for start, end, colour in back:
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
    """Draw what the banner says, beside what was clicked and what was not, in the first shop."""
    (axis,) = style.panels(figure, 1)
    for d, fields in enumerate(shops.train.values()):
        for name, lift in (("clicked", 0.12), ("not clicked", -0.12)):
            values = fields["banner"][0][(fields["click"][0] > 0) == (name == "clicked")]
            look = LOOKS[name]
            axis.errorbar(
                values.mean(), d + lift, xerr=values.std(), fmt=look.marker, ms=12, lw=3, capsize=6,
                color=style.PALETTE[look.colour], label=None if d else look.label,
            )  # fmt: skip
    axis.set_yticks(range(len(shops.train)), shops.train)
    axis.set(
        xlabel="size of the banner, mean ± standard deviation (0: the middle at home)",
        title="The banner beside what people click", xlim=(-1.2, 2.4), ylim=(1.5, -0.5),
    )  # fmt: skip
    axis.legend(loc="lower left")


def draw_own(own: Scores | None, figure, band: Scores | None = None) -> None:
    """Draw the learner's training upon the course's band: a curve for one network, a band for several."""
    (axis,) = style.panels(figure, 1)
    (band or course_band()).only(0.0, 1.0).draw(axis, LOOKS)
    if own is not None and len(own["yours"]) > 1:
        own.draw(axis, LOOKS)
    elif own is not None:
        look = LOOKS["yours"]
        axis.plot(own.steps, own["yours"][0], color="black", marker=look.marker, ls=look.line, label=look.label)
    line_at(axis, 0.5, "coin flip")
    axis.set(xlim=(0, STEPS), ylim=(0.0, 1.02), title="AUC abroad while it trains")
    axis.legend(loc="lower right", ncols=3)


def describe_own(own: Scores) -> str:
    """The learner's training in words."""
    came, band = own["yours"][:, -1].mean(), course_band().at_end()
    mean, low, high = (float(x) for x in t_interval(band[1.0]))
    count = len(own["yours"])
    return (
        f"Yours, {count} network{'s' if count > 1 else ''}: AUC abroad {came:.2f} at step {own.steps[-1]}. The "
        f"course's eight come to {mean:.2f} (95 % interval {low:.2f} to {high:.2f}) with λ = 1, and to "
        f"{band[0.0].mean():.2f} with λ = 0."
    )


def draw_sweep(result: dict[str, Scores], reference: Tensor, taste: Tensor, figure) -> None:
    """Over lambda. Left: AUC at home and abroad. Middle: how well the domains are told apart. Right: the banner."""
    served, told, banner = style.panels(figure, 3)
    panels = ((served, ("home", "abroad")), (told, ("own", "fresh")), (banner, ("banner at home", "banner abroad")))
    for axis, names in panels:
        lambda_axis(axis)
        for name in names:
            result[name].draw(axis, LOOKS[name], place=place_of)
    line_at(served, 0.5, "coin flip")
    line_at(served, float(reference.mean()), "trained abroad", style.PALETTE["vermillion"])
    line_at(served, float(taste.mean()), "taste alone", style.PALETTE["green"])
    served.set(ylim=(0.3, 1.05), ylabel="AUC of clicks", title="Who is served?")
    line_at(told, 0.0, "must guess")
    told.set(ylim=(-0.4, 2.05), ylabel="0 guesses, 2 always knows", title="Who can tell the shop?")
    line_at(banner, 0.0, "not used")
    banner.set(ylabel="standardised weight in the score", title="What of the banner?")
    for axis in (served, told, banner):
        axis.legend(loc="lower right" if axis is served else "upper right")


def draw_softmax(right: Scores, wrong: Scores, figure) -> None:
    """AUC abroad over lambda, with logits and with a softmax too many."""
    (axis,) = style.panels(figure, 1)
    lambda_axis(axis)
    right.draw(axis, Look("logits", "vermillion", "^"), place=place_of)
    wrong.draw(axis, Look("softmax inside", "black", "s", "--"), place=place_of)
    line_at(axis, 0.5, "coin flip")
    axis.set(ylim=(0.3, 1.02), ylabel="AUC of clicks abroad", title="The same rise, further to the right")
    axis.legend(loc="lower right")


def draw_two_tasks(result: dict[str, dict[str, Scores]], figure) -> None:
    """Click AUC and rating error in each domain, without and with the adversary."""
    titles = {"click": "AUC of clicks (higher is better)", "rating": "RMSE of ratings (lower is better)"}
    for axis, (task, title) in zip(style.panels(figure, 2), titles.items(), strict=True):
        scores = result[task]
        for arm in next(iter(scores.values())):
            draw_line(axis, range(len(scores)), torch.stack([s[arm] for s in scores.values()], 1), LOOKS[arm])
        axis.set_xticks(range(len(scores)), scores)
        axis.set(title=title, xlabel="domain")
        axis.legend()


def draw_genres(result: dict[str, Scores], figure) -> None:
    """The gain of alignment for each pair of genres, and the room there was."""
    (axis,) = style.panels(figure, 1)
    for arm, lift in (("with", -0.14), ("labels of the target", 0.14)):
        gains = torch.stack([scores.lead(arm, "without") for scores in result.values()])  # (pairs, S)
        mean, low, high = t_interval(gains.T)
        rows = torch.arange(len(result))[:, None] + lift
        look, colour = LOOKS[arm], style.PALETTE[LOOKS[arm].colour]
        axis.plot(gains, rows.expand_as(gains), "o", ms=4, color=colour, alpha=0.3)
        axis.errorbar(
            mean, rows.squeeze(1), xerr=[mean - low, high - mean], fmt=look.marker, ms=10, lw=3, capsize=6,
            color=colour, label=f"gain with {look.label}",
        )  # fmt: skip
    axis.axvline(0, color=GREY, lw=1.2)
    axis.set_yticks(range(len(result)), result)
    axis.set(
        xlabel="gain in AUC over λ = 0 (small dots: single splits)", title="MovieLens: what alignment is worth",
        ylim=(len(result) - 0.2, -0.5),
    )  # fmt: skip
    axis.legend(loc="lower right", ncols=2)


def place_of(lam: float) -> float:
    """Return where a lambda stands on the axis: logarithmic from 0.03 on, with 0 a step to its left."""
    return lam / 0.03 if lam < 0.03 else 1.0 + 2.0 * math.log10(lam / 0.03)


def lambda_axis(axis) -> None:
    """Give an axis the ticks of lambda."""
    axis.set_xticks([place_of(lam) for lam in LAMBDAS], [f"{lam:g}" for lam in LAMBDAS])
    axis.set(xlabel="strength of the reversal, λ", xlim=(-0.3, place_of(LAMBDAS[-1]) + 0.3))


def draw_curves(axis, curves: Scores) -> None:
    """Draw AUC abroad and the own classifier's accuracy over training."""
    looks = {"abroad": Look("AUC abroad", "vermillion", None, "--"), "own": Look("domain accuracy", "purple", None,
             "-.")}  # fmt: skip
    curves.only(*looks).draw(axis, looks)
    line_at(axis, 0.5, "coin flip")
    axis.set(xlim=(0, STEPS), ylim=(0.15, 1.02), ylabel="", title="Eight networks, live")
    axis.legend(loc="lower right")


def draw_live(result: LiveTraining, band: dict[str, Scores], figure, controls: dict) -> None:
    """Draw the two clouds, the two curves, and the place in the band."""
    clouds, curves, place = style.panels(figure, 3, (1.0, 1.0, 1.15))
    draw_clouds(clouds, result.points, result.abroad, result.clicked)
    draw_curves(curves, result.curves)
    lambda_axis(place)
    for name in ("home", "abroad"):
        band[name].draw(place, LOOKS[name], place=place_of)
        own = result.curves[name][:, -1]
        style.star(place, place_of(controls["lam"]), own, "yours" if name == "abroad" else None)
    line_at(place, 0.5, "coin flip")
    place.set(ylim=(0.15, 1.02), ylabel="AUC of clicks", title="You in the whole picture")
    place.legend(loc="lower right")


def describe_live(result: LiveTraining, controls: dict) -> str:
    """The live picture in words."""
    end = result.curves.at_end()
    mean, low, high = t_interval(end["abroad"])
    return (
        f"λ = {controls['lam']:g}, step {result.curves.steps[-1]} of {STEPS}, 8 networks: AUC abroad {mean:.2f} (95 % "
        f"interval {low:.2f} to {high:.2f}), at home {end['home'].mean():.2f}; the domain classifier is right "
        f"{end['own'].mean():.0%} of the time, 50% is chance."
    )


def draw_schedule(result: LiveTraining, figure, controls: dict) -> None:
    """Left: the strength over training, beside the paper's. Right: what eight networks made of it."""
    schedule, curves = style.panels(figure, 2)
    lam, gamma, step = controls["lam"], controls["gamma"], result.curves.steps[-1]
    p = torch.linspace(0, 1, 101)
    for steepness, colour, line, label in (
        (10.0, "black", ":", "γ = 10, the paper's"),
        (gamma, "blue", "-", "yours"),
    ):
        strength = [lam * lambda_schedule(float(q), steepness) for q in p]
        schedule.plot(p * STEPS, strength, color=style.PALETTE[colour], ls=line, label=label)
    schedule.plot(step, lam * lambda_schedule(step / STEPS, gamma), "o", ms=11, color=style.PALETTE["blue"])
    schedule.set(
        xlim=(0, STEPS), ylim=(-0.03 * lam, 1.08 * lam), xlabel="training step", ylabel="λ at that step",
        title="The schedule",
    )  # fmt: skip
    schedule.legend(loc="lower right")
    draw_curves(curves, result.curves)
