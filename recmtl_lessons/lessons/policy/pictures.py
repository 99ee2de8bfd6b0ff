"""What the lesson draws: plain functions of a result and a figure."""

import torch

from recmtl_lessons.envs import SessionSettings, layout_of
from recmtl_lessons.lessons.policy.breaking import Dropout, ShortSessions
from recmtl_lessons.lessons.policy.experiments import TASKS, WORLDS, Comparison, where_satiated
from recmtl_lessons.lessons.policy.films import FilmComparison
from recmtl_lessons.lessons.policy.live import Live
from recmtl_lessons.lessons.policy.watching import STEPS, Watched
from recmtl_lessons.teaching import style

_GREY = "#555555"
_LOOKS = {"home": ("blue", "o", "-"), "search": ("vermillion", "s", "--"), "notify": ("green", "^", "-.")}
_CATEGORY = ("blue", "orange", "green")


# The idea, and one session.


def draw_loop(figure) -> None:
    """Draw what goes round in a session: state, policy, action, user, reward."""
    (axis,) = style.panels(figure, 1)
    blue, red, green = (style.PALETTE[name] for name in ("blue", "vermillion", "green"))
    style.box(axis, 0.0, 2.6, 4.6, "what the system sees:\nprofile, satiation,\nignored in a row", blue, 1.5)
    style.box(axis, 6.0, 2.6, 2.5, "shared\ntrunk", green, 1.5)
    for k, name in enumerate(("home: 3 actions", "search: 6 actions", "notify: 4 actions")):
        style.box(axis, 10.0, 4.6 - 1.7 * k, 3.8, name, green, 1.1)
        style.arrow(axis, (8.7, 3.35), (9.8, 5.15 - 1.7 * k), _GREY)
        style.arrow(axis, (14.0, 5.15 - 1.7 * k), (15.5, 3.35), _GREY)
    style.box(axis, 15.7, 2.6, 4.3, "the user: hidden\ntastes, satiation,\npatience", red, 1.5)
    style.arrow(axis, (4.8, 3.35), (5.8, 3.35), _GREY)
    axis.text(16.2, 4.9, "an action", ha="center", fontsize=14, color=_GREY)
    for start, end in (((17.8, 2.4), (17.8, 0.35)), ((2.3, 0.35), (2.3, 2.4))):
        style.arrow(axis, start, end, _GREY)
    axis.plot([2.3, 17.8], [0.35, 0.35], color=_GREY, lw=2.4, ls="-")
    axis.text(10.0, -0.25, "a click or not, a reward, and what is seen next", ha="center", fontsize=14, color=_GREY)
    axis.set(xlim=(-0.3, 20.4), ylim=(-0.7, 6.1))
    axis.axis("off")


def draw_session(watched: Watched, figure, controls: dict) -> None:
    """Draw, above, the hidden user and what the policy sees and does at one step; below, the session so far."""
    grid = getattr(figure, "_recmtl_session", None)
    if grid is None:
        figure.clear()
        grid = figure.subplot_mosaic([["user", "seen", "acts"], ["time", "time", "time"]], height_ratios=[1.25, 1])
        figure._recmtl_session = grid
    for axis in grid.values():
        axis.clear()
    k = watched.step - 1
    _draw_user(grid["user"], watched, k)
    _draw_seen(grid["seen"], watched, k)
    _draw_choice(grid["acts"], watched, k)
    _draw_timeline(grid["time"], watched, k)


def _draw_user(axis, watched: Watched, k: int) -> None:
    names, tastes = watched.categories, watched.tastes.tolist()
    now = (watched.tastes - watched.satiation[k]).tolist()
    for c, shade in enumerate(style.PALETTE[colour] for colour in _CATEGORY[: len(names)]):
        axis.bar(c - 0.2, tastes[c], 0.38, color=shade)
        axis.bar(c + 0.2, now[c], 0.38, color="white", edgecolor=shade, hatch="//", lw=1.8)
    axis.axhline(0, color=_GREY, lw=1)
    most = SessionSettings().patience
    patience = most - int(watched.ignored[k])
    room = (min(-4.2, *now) - 0.2, max(2.8, *tastes) + 1.4)  # above: the hearts
    axis.set(ylim=room, ylabel="logit of a click", title="Hidden: taste ■, appeal now ▨")
    axis.text(0.97, 0.95, "patience " + "♥" * patience + "♡" * (most - patience), transform=axis.transAxes, ha="right",
              va="top", fontsize=14, color=style.PALETTE["vermillion"])  # fmt: skip
    axis.set_xticks(range(len(names)), names)


def _draw_seen(axis, watched: Watched, k: int) -> None:
    seen, width = watched.seen[k], len(watched.categories)
    layout = layout_of(len(seen), width)
    features = len(seen[layout.profile])
    labels = [f"trait {j + 1}" for j in range(features)] + [f"satiation, {name}" for name in watched.categories]
    values = torch.cat([seen[layout.profile], seen[layout.satiation], seen[layout.ignored]])
    places = range(len(values))
    shades = [_GREY] * features + [style.PALETTE[c] for c in _CATEGORY[:width]] + [style.PALETTE["vermillion"]]
    axis.barh(places, values.tolist(), color=shades)
    axis.set_yticks(places, [*labels, "ignored"], fontsize=10.5)
    axis.invert_yaxis()
    axis.axvline(0, color=_GREY, lw=1)
    axis.set(xlim=(-3, 3), title="What the policy sees")


def _draw_choice(axis, watched: Watched, k: int) -> None:
    above, below = ([j + shift for j in range(len(watched.labels))] for shift in (-0.2, 0.2))
    axis.barh(above, watched.probabilities[k].tolist(), 0.38, color=style.PALETTE["purple"], label="policy")
    axis.barh(below, watched.chance[k].tolist(), 0.38, color="white", edgecolor=_GREY, hatch="//",
              label="click, if shown")  # fmt: skip
    axis.set_yticks(range(len(watched.labels)), watched.labels, fontsize=11)
    axis.get_yticklabels()[int(watched.action[k])].set_weight("bold")
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xlabel="probability", title=f"Step {k + 1}: {watched.labels[int(watched.action[k])]}")
    axis.legend(loc="lower right", fontsize=10.5, frameon=True, framealpha=0.85, edgecolor="none")


def _draw_timeline(axis, watched: Watched, k: int) -> None:
    steps = torch.arange(len(watched) + 1)
    for c, name in enumerate(watched.categories):
        axis.step(steps, watched.satiation[:, c] + 0.06 * (c - 1), where="post", color=style.PALETTE[_CATEGORY[c]],
                  lw=2.2, label=f"satiation with {name}")  # fmt: skip
    for t in range(len(watched)):
        label = watched.labels[int(watched.action[t])]
        mark, colour = ("o", "green") if watched.reward[t] > 0 else ("x", "vermillion")
        if label == "nothing":
            mark, colour = "_", "black"
        axis.text(t + 0.5, 3.75, label.replace(", ", "\n"), ha="center", va="center", fontsize=11.5,
                  weight="bold" if t == k else "normal")  # fmt: skip
        axis.plot(t + 0.5, 4.6, mark, color=style.PALETTE[colour], ms=10, mew=2.6)
    if watched.left:
        axis.text(
            len(watched) + 0.12, 4.6, "the user leaves", va="center", fontsize=13, color=style.PALETTE["vermillion"]
        )
    axis.axvspan(k, k + 1, color=style.PALETTE["yellow"], alpha=0.35, lw=0)
    axis.set_xticks([t + 0.5 for t in range(STEPS)], range(1, STEPS + 1))
    axis.grid(False, axis="x")
    axis.set(
        xlim=(0, 16.9),
        ylim=(-1.25, 5.1),
        xlabel="step",
        yticks=[0, 1, 2, 3],
        title="The session: ● click, × ignored" + (", – nothing sent" if "nothing" in watched.labels else ""),
    )
    axis.legend(loc="lower right", ncol=3, fontsize=10.5, frameon=True, framealpha=0.85, edgecolor="none")


def describe_session(watched: Watched, controls: dict) -> str:
    """Put the picture of a session into words."""
    k = watched.step - 1
    tastes = ", ".join(f"{n} {t:+.1f}" for n, t in zip(watched.categories, watched.tastes, strict=True))
    levels = ", ".join(f"{n} {s}" for n, s in zip(watched.categories, watched.satiation[k].tolist(), strict=True))
    action = int(watched.action[k])
    shows = watched.labels[action]
    heard = "a click" if watched.reward[k] > 0 else "no click"
    clicks = int((watched.reward > 0).sum())
    end = "the user left" if watched.left else "the user was still there"
    return (
        f"On {controls['task']}, acting: {controls['actor']}. Hidden tastes: {tastes}. Step {k + 1}: satiation "
        f"{levels}; {shows}, chosen with probability {watched.probabilities[k, action]:.2f}, brought {heard}. Whole "
        f"session: {clicks} click{'' if clicks == 1 else 's'} in {len(watched)} steps, then {end}."
    )


# What the lesson compares.


def draw_sharing(result: Comparison, figure) -> None:
    """Draw both ways in the three worlds, seeds paired."""
    for axis, name in zip(style.panels(figure, len(WORLDS)), WORLDS, strict=True):
        pair = torch.stack([result.shared[name], result.separate[name]], dim=1)
        style.points_with_interval(axis, ["one\nfor all", "one\nfor each"], pair, ("green", "orange"))
        axis.set(ylim=(0, 1.02), title=f"In common: {name}")
    figure.axes[0].set_ylabel("way from chance to best")


def draw_planning(result: Comparison, figure) -> None:
    """Draw the planning policy beside the myopic bandit, with satiation and without."""
    ways = {"satiation strong": where_satiated, "no satiation": lambda values: values["nothing"]}
    for axis, (title, of) in zip(style.panels(figure, 2), ways.items(), strict=True):
        pair = torch.stack([of(result.shared), of(result.bandit)], dim=1)
        style.points_with_interval(axis, ["plans ahead", "myopic\nbandit"], pair, ("green", "purple"))
        knowing = float(of(result.knowing).mean())
        axis.axhline(1, color=style.PALETTE["blue"], lw=2.2, ls="--")
        axis.text(-0.45, 1.02, "best", va="bottom", fontsize=12, color=style.PALETTE["blue"])
        axis.axhline(knowing, color="black", lw=2.2, ls=":")
        axis.text(1.45, knowing + 0.02, "myopic, knows all tastes", ha="right", va="bottom", fontsize=12)
        axis.set(ylim=(0, 1.14), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1.0], title=title)
    figure.axes[0].set_ylabel("way from chance to best")


def draw_cosines(cosines: dict, figure) -> None:
    """Draw how two tasks' gradients on the shared layers agree, world by world."""
    (axis,) = style.panels(figure, 1)
    style.points_with_interval(
        axis, list(cosines), torch.stack(list(cosines.values()), dim=1), ("green", "sky", "black")
    )
    axis.axhline(0, color=_GREY, lw=1.2, ls=":")
    for height, words in ((0.42, "the same way (1 would be entirely)"), (-0.42, "against each other (−1)")):
        axis.text(1, height, words, ha="center", va="center", fontsize=13, color=_GREY)
    axis.set(ylim=(-0.5, 0.5), ylabel="cosine of gradients", title="Do two tasks pull the same way?")


def draw_live(live: Live, figure, controls: dict) -> None:
    """Draw each task's way from chance to the best, as training goes."""
    curves, final = style.panels(figure, 2, (1.6, 1.0))
    for task, (colour, marker, line) in _LOOKS.items():
        style.band(curves, live.steps / 1000, live.share[task], task, colour, marker, line)
    curves.axhline(1, color="black", lw=1.6, ls="--")
    curves.text(0.99, 1.01, "best", transform=curves.get_yaxis_transform(), ha="right", va="bottom", fontsize=12)
    curves.axhline(0, color=_GREY, lw=1.2)
    curves.text(0.99, 0.01, "chance", transform=curves.get_yaxis_transform(), ha="right", va="bottom", fontsize=12)
    curves.set(
        xlim=(0, None), ylim=(-0.15, 1.12), xlabel="thousand steps on each task", ylabel="way from chance to best",
        title=f"Training, {len(next(iter(live.share.values())))} seeds",
    )  # fmt: skip
    curves.legend(loc="upper left", bbox_to_anchor=(0, 0.93))
    for k, task in enumerate(TASKS):
        values = live.share[task][:, -1]
        final.bar(k, float(values.mean()), color=style.PALETTE[_LOOKS[task][0]], width=0.6)
        final.plot([k] * len(values), values, "o", color="black", ms=5, alpha=0.6)
        final.plot([k - 0.36, k + 0.36], [live.myopic[task]] * 2, color="black", lw=2.4, ls=":",
                   label="myopic, knows the tastes" if k == 0 else None)  # fmt: skip
    final.axhline(1, color="black", lw=1.6, ls="--")
    final.set_xticks(range(len(TASKS)), TASKS)
    final.set(ylim=(-0.15, 1.12), title="Now")
    final.legend(loc="lower right", fontsize=10.5, frameon=True, framealpha=0.85, edgecolor="none")


def describe_live(live: Live, controls: dict) -> str:
    """Put the picture of a training into words."""
    now = ", ".join(f"{task} {float(live.share[task][:, -1].mean()):.2f}" for task in TASKS)
    mean = sum(float(live.share[task][:, -1].mean()) for task in TASKS) / len(TASKS)
    return (
        f"Entropy bonus {controls['entropy']:g}, discount {controls['discount']:g}, sharing {controls['sharing']:g}, "
        f"satiation {controls['satiation']:g}: after {int(live.steps[-1]):,} steps on each task the policy has come, "
        f"of the way from chance to the best, {now}; mean {mean:.2f}."
    )


def draw_breaking(dropout: Dropout, short: ShortSessions, right, figure) -> None:
    """Draw ratios at unchanged weights, what dropout costs, and values where the limit is taken for an end."""
    ratios, costs, values = style.panels(figure, 3, (1.15, 1.0, 1.15))
    edges = torch.linspace(0, 2.5, 51)
    ratios.hist(
        dropout.ratios.flatten().clamp(max=2.49), edges, color=style.PALETTE["vermillion"], label="with dropout"
    )
    ratios.axvline(1, color=style.PALETTE["green"], lw=4, label="without: all 1")
    ratios.set_xticks([0, 0.5, 1, 1.5, 2, 2.5], ["0", "0.5", "1", "1.5", "2", "2.5+"])
    ratios.set(xlabel="ratio, weights unchanged", yticks=[], title="Dropout: ratios before a step", xlim=(0, 2.5))
    ratios.legend(loc="upper right", fontsize=11)
    pair = torch.stack([right, dropout.share], dim=1)
    style.points_with_interval(costs, ["without", "dropout"], pair, ("green", "vermillion"))
    costs.set(ylim=(0, 1.02), ylabel="way from chance to best", title="Dropout: what it costs")
    groups = torch.stack([short.found, short.value, short.value_wrong], dim=1)
    style.points_with_interval(
        values, ["what\ncomes", "bootstraps", "limit is\nan end"], groups, ("blue", "green", "vermillion")
    )
    values.set(ylim=(0, None), ylabel="discounted reward", title="Time limit: what V says")


def draw_films(films: FilmComparison, figure) -> None:
    """Draw the arms with users whose tastes are measured in MovieLens."""
    (axis,) = style.panels(figure, 1)
    names = list(films.share)
    style.points_with_interval(
        axis, [name.replace(", ", ",\n") for name in names], torch.stack([films.share[n] for n in names], dim=1),
        ("green", "orange", "sky"),
    )  # fmt: skip
    axis.set(ylim=(0, 1.02), ylabel="way from chance to best", title="Tastes of MovieLens users")
