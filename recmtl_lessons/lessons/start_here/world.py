"""The synthetic world made visible: how related its domains are, and an explorer of its knobs."""

import torch
from torch import Tensor

from recmtl_lessons.datasets import World, WorldSettings, make_world
from recmtl_lessons.lessons.start_here.questions import LESSON
from recmtl_lessons.teaching import Explorer, Slider, style
from recmtl_lessons.teaching.looks import GREY

RELATED = ((1.0, 0.8, 0.2), (0.8, 1.0, 0.5), (0.2, 0.5, 1.0))


def draw_relatedness(world: World, figure) -> None:
    """Draw how related the domains are: the matrix the world was made with, and what its users' tastes show."""
    import seaborn

    tastes = world.tastes.permute(1, 0, 2).flatten(1)  # (D, n_users * K)
    pairs = (("the truth", world.relatedness), ("measured in the tastes", torch.corrcoef(tastes)))
    for axis, (title, matrix) in zip(style.panels(figure, 2), pairs, strict=True):
        seaborn.heatmap(
            matrix.numpy(), ax=axis, annot=True, fmt=".2f", cmap="cividis", vmin=0, vmax=1, square=True, cbar=False,
            xticklabels=world.settings.domains, yticklabels=world.settings.domains,
        )  # fmt: skip
        axis.set_title(title)


def related_world(seed: int = 0) -> World:
    """Return a world in which books and films are close, and books and games are not."""
    return make_world(WorldSettings(relatedness=RELATED, interactions=10), seed)


def explore_world() -> Explorer:
    """Return the explorer of the world's knobs."""
    tenths = [k / 10 for k in range(11)]
    return Explorer(
        lesson=LESSON,
        key="explorer-world",
        title="A shop whose truth is known",
        controls=[
            Slider("relatedness", "Relatedness of tastes", tenths, 0.7),
            Slider("overlap", "Users who shop everywhere", tenths, 0.5),
            Slider("sparsity", "Sparsity, domain by domain", tenths[:-1], 0.4),
            Slider("nuisance", "Strength of the nuisance", [k / 10 for k in range(16)], 0.6),
            Slider("shift", "Shift of the nuisance", [k / 5 for k in range(11)], 1.4),
        ],
        compute=lambda seed, **knobs: make_world(WorldSettings(interactions=3000, **knobs), seed),
        draw=draw_world,
        describe=describe_world,
        seeded=True,
        size=(10.0, 4.2),
    )


def draw_world(world: World, figure, controls: dict) -> None:
    """Draw tastes in two domains, interactions by domain, and what the nuisance says of clicks."""
    tastes, counts, nuisance = style.panels(figure, 3)
    first, second, _ = names = world.settings.domains
    width = world.settings.taste_dim
    tastes.scatter(*world.tastes[:300, :2, 0].T, s=22, color=style.PALETTE["blue"], alpha=0.5)
    tastes.axline((0, 0), slope=1, color=GREY, lw=1.2, ls=":")
    tastes.set(
        xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), xlabel=f"taste in {first}, 1st of {width}", ylabel=f"the same in {second}",
        title="Users (300 shown)",
    )  # fmt: skip
    _draw_counts(world, counts)
    lean = _nuisance(world)
    for clicked, colour, marker, shift in ((True, "vermillion", "^", 0.1), (False, "blue", "o", -0.1)):
        for d in range(len(names)):
            values = lean[(world.domain == d) & ((world.click > 0) == clicked)]
            label = ("clicked" if clicked else "not clicked") if d == 0 else None
            nuisance.errorbar(
                d + shift, values.mean(), values.std(), fmt=marker, ms=10, lw=2.5, capsize=5,
                color=style.PALETTE[colour], label=label,
            )  # fmt: skip
    nuisance.axhline(0, color=GREY, lw=1.2, ls=":")
    nuisance.set_xticks(range(len(names)), names)
    nuisance.set(ylim=(-3.2, 3.2), xlim=(-0.5, 2.5), ylabel="nuisance, mean ± sd", title="What the nuisance says")
    nuisance.legend(loc="lower left")


def _draw_counts(world: World, axis) -> None:
    everywhere = world.active.all(1)[world.user]
    for d in range(len(world.settings.domains)):
        here = world.domain == d
        shared, alone = int((here & everywhere).sum()), int((here & ~everywhere).sum())
        axis.bar(d, shared, color=style.PALETTE["green"], label="users of all domains" if d == 0 else None)
        axis.bar(d, alone, bottom=shared, color=style.PALETTE["sky"], hatch="//", edgecolor="white",
                 label="users of this one alone" if d == 0 else None)  # fmt: skip
    axis.set_xticks(range(len(world.settings.domains)), world.settings.domains)
    axis.set(ylim=(0, 4300), ylabel="interactions", title="Who shops where")
    axis.legend(loc="upper right", fontsize=11)


def _nuisance(world: World) -> Tensor:
    """Return the mean of the nuisance features of each row, with the mixing undone: (N,)."""
    unmixed = world.features @ world.mixing.T
    return unmixed[:, world.settings.taste_dim :].mean(1)


def describe_world(world: World, controls: dict) -> str:
    """The picture of the world in words."""
    first, second, last = world.settings.domains
    correlation = torch.corrcoef(world.tastes[:, :2, 0].T)[0, 1]
    lean = _nuisance(world)

    def gap(d: int) -> float:
        here = world.domain == d
        return float(lean[here & (world.click > 0)].mean() - lean[here & (world.click == 0)].mean())

    counts = torch.bincount(world.domain, minlength=3).tolist()
    return (
        f"In the first coordinate, tastes in {first} and {second} correlate at {correlation:.2f}. "
        f"Interactions: {counts[0]}, {counts[1]} and "
        f"{counts[2]}. Beside a click the nuisance is higher by {gap(0):+.1f} in {first}, by {gap(2):+.1f} in {last}."
    )
