"""The lesson's looks, and those drawings that no shared one makes."""

import torch
from torch import Tensor

from recmtl_lessons.envs import SessionSettings, layout_of
from recmtl_lessons.lessons.policy.breaking import Dropout
from recmtl_lessons.lessons.policy.experiments import (
    BANDIT,
    KNOWING,
    SEPARATE,
    SHARED,
    TASKS,
    where_satiated,
)
from recmtl_lessons.lessons.policy.watching import STEPS, Watched
from recmtl_lessons.teaching import style
from recmtl_lessons.teaching.looks import GREY, Look, draw_line, line_at
from recmtl_lessons.training import Scores

LOOKS = {
    "home": Look("home", "blue", "o", "-"),
    "search": Look("search", "vermillion", "s", "--"),
    "notify": Look("notify", "green", "^", "-."),
    SHARED: Look("one\nfor all", "green"),
    SEPARATE: Look("one\nfor each", "orange"),
    BANDIT: Look("myopic\nbandit", "purple"),
    KNOWING: Look("knows the tastes,\nmyopic", "sky"),
    "tastes and rules": Look("tastes and rules", "green"),
    "rules alone": Look("rules alone", "sky"),
    "nothing": Look("nothing", "black"),
    "without": Look("without", "green"),
    "dropout": Look("dropout", "vermillion"),
    "gets": Look("what\ncomes", "blue"),
    "expects": Look("bootstraps", "green"),
    "expects, mistaken": Look("limit is\nan end", "vermillion"),
}
_CATEGORY = ("blue", "orange", "green")
_ON_TOP = {"fontsize": 10.5, "frameon": True, "framealpha": 0.85, "edgecolor": "none"}  # a legend over what is drawn


# The idea, and one session.


def draw_loop(figure) -> None:
    """Draw what goes round in a session: state, policy, action, user, reward."""
    (axis,) = style.panels(figure, 1)
    blue, red, green = (style.PALETTE[name] for name in ("blue", "vermillion", "green"))
    style.box(axis, 0.0, 2.6, 4.6, "what the system sees:\nprofile, satiation,\nignored in a row", blue, 1.5)
    style.box(axis, 6.0, 2.6, 2.5, "shared\ntrunk", green, 1.5)
    for k, name in enumerate(("home: 3 actions", "search: 6 actions", "notify: 4 actions")):
        style.box(axis, 10.0, 4.6 - 1.7 * k, 3.8, name, green, 1.1)
        style.arrow(axis, (8.7, 3.35), (9.8, 5.15 - 1.7 * k), GREY)
        style.arrow(axis, (14.0, 5.15 - 1.7 * k), (15.5, 3.35), GREY)
    style.box(axis, 15.7, 2.6, 4.3, "the user: hidden\ntastes, satiation,\npatience", red, 1.5)
    style.arrow(axis, (4.8, 3.35), (5.8, 3.35), GREY)
    axis.text(16.2, 4.9, "an action", ha="center", fontsize=14, color=GREY)
    for start, end in (((17.8, 2.4), (17.8, 0.35)), ((2.3, 0.35), (2.3, 2.4))):
        style.arrow(axis, start, end, GREY)
    axis.plot([2.3, 17.8], [0.35, 0.35], color=GREY, lw=2.4, ls="-")
    axis.text(10.0, -0.25, "a click or not, a reward, and what is seen next", ha="center", fontsize=14, color=GREY)
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
    axis.axhline(0, color=GREY, lw=1)
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
    shades = [GREY] * features + [style.PALETTE[c] for c in _CATEGORY[:width]] + [style.PALETTE["vermillion"]]
    axis.barh(places, values.tolist(), color=shades)
    axis.set_yticks(places, [*labels, "ignored"], fontsize=10.5)
    axis.invert_yaxis()
    axis.axvline(0, color=GREY, lw=1)
    axis.set(xlim=(-3, 3), title="What the policy sees")


def _draw_choice(axis, watched: Watched, k: int) -> None:
    above, below = ([j + shift for j in range(len(watched.labels))] for shift in (-0.2, 0.2))
    axis.barh(above, watched.probabilities[k].tolist(), 0.38, color=style.PALETTE["purple"], label="policy")
    axis.barh(below, watched.chance[k].tolist(), 0.38, color="white", edgecolor=GREY, hatch="//",
              label="click, if shown")  # fmt: skip
    axis.set_yticks(range(len(watched.labels)), watched.labels, fontsize=11)
    axis.get_yticklabels()[int(watched.action[k])].set_weight("bold")
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xlabel="probability", title=f"Step {k + 1}: {watched.labels[int(watched.action[k])]}")
    axis.legend(loc="lower right", **_ON_TOP)


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
    axis.legend(loc="lower right", ncol=3, **_ON_TOP)


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


def draw_sharing(shares: dict[str, Scores], figure) -> None:
    """Draw both ways in the three worlds, seeds paired."""
    for axis, (name, scores) in zip(style.panels(figure, len(shares)), shares.items(), strict=True):
        scores.only(SHARED, SEPARATE).draw(axis, LOOKS)
        axis.set(ylim=(0, 1.02), ylabel="", title=f"In common: {name}")
    figure.axes[0].set_ylabel(scores.measure)


def draw_planning(shares: dict[str, Scores], figure) -> None:
    """Draw the planning policy beside the myopic bandit, with satiation and without."""
    looks = {**LOOKS, SHARED: Look("plans ahead", "green")}
    both = {"satiation strong": where_satiated(shares), "no satiation": shares["nothing"]}
    for axis, (title, scores) in zip(style.panels(figure, 2), both.items(), strict=True):
        scores.only(SHARED, BANDIT).draw(axis, looks)
        line_at(axis, 1, "best", style.PALETTE["blue"])
        knowing = float(scores[KNOWING].mean())
        line_at(axis, knowing, "", "black")
        axis.text(1.45, knowing + 0.02, "myopic, knows all tastes", ha="right", va="bottom", fontsize=11)
        axis.set(ylim=(0, 1.14), ylabel="", yticks=[0, 0.2, 0.4, 0.6, 0.8, 1.0], title=title)
    figure.axes[0].set_ylabel(scores.measure)


def draw_cosines(cosines: Scores, figure) -> None:
    """Draw how two tasks' gradients on the shared layers agree, world by world."""
    (axis,) = style.panels(figure, 1)
    cosines.draw(axis, LOOKS)
    line_at(axis, 0, "")
    for height, words in ((0.42, "the same way (1 would be entirely)"), (-0.42, "against each other (−1)")):
        axis.text(1, height, words, ha="center", va="center", fontsize=13, color=GREY)
    axis.set(ylim=(-0.5, 0.5), title="Do two tasks pull the same way?")


def draw_live(live: dict[str, Scores], figure, controls: dict) -> None:
    """Draw each task's way from chance to the best, as training goes."""
    curves, final = style.panels(figure, 2, (1.6, 1.0))
    trained, end = live["trained"], live["trained"].at_end()
    for task in TASKS:
        draw_line(curves, [step / 1000 for step in trained.steps], trained[task], LOOKS[task])
    line_at(curves, 0, "")
    curves.text(0.99, 0.01, "chance", transform=curves.get_yaxis_transform(), ha="right", va="bottom", fontsize=11)
    curves.set(
        xlim=(0, None), xlabel="thousand steps on each task", ylabel=trained.measure,
        title=f"Training, {len(end[task])} seeds",
    )  # fmt: skip
    curves.legend(loc="upper left", bbox_to_anchor=(0, 0.93))
    for k, task in enumerate(TASKS):
        final.bar(k, float(end[task].mean()), color=style.PALETTE[LOOKS[task].colour], width=0.6)
        final.plot([k] * len(end[task]), end[task], "o", color="black", ms=5, alpha=0.6)
        final.plot([k - 0.36, k + 0.36], [float(live["myopic"][task].mean())] * 2, color="black", lw=2.4, ls=":",
                   label="myopic, knows the tastes" if k == 0 else None)  # fmt: skip
    final.set_xticks(range(len(TASKS)), TASKS)
    final.set_title("Now")
    for axis, words in ((curves, "best"), (final, "")):
        line_at(axis, 1, words, "black")
        axis.set_ylim(-0.15, 1.12)
    final.legend(loc="lower right", **_ON_TOP)


def describe_live(live: dict[str, Scores], controls: dict) -> str:
    """Put the picture of a training into words."""
    trained = live["trained"]
    means = [float(trained.at_end()[task].mean()) for task in TASKS]
    now = ", ".join(f"{task} {mean:.2f}" for task, mean in zip(TASKS, means, strict=True))
    return (
        f"Entropy bonus {controls['entropy']:g}, discount {controls['discount']:g}, sharing {controls['sharing']:g}, "
        f"satiation {controls['satiation']:g}: after {trained.steps[-1]:,} steps on each task the policy has come, "
        f"of the way from chance to the best, {now}; mean {sum(means) / len(means):.2f}."
    )


def draw_breaking(dropout: Dropout, short: Scores, right: Tensor, figure) -> None:
    """Draw ratios at unchanged weights, what dropout costs, and values where the limit is taken for an end."""
    ratios, costs, values = style.panels(figure, 3, (1.15, 1.0, 1.15))
    edges = torch.linspace(0, 2.5, 51)
    shown = dropout.ratios.flatten().clamp(max=2.49)
    ratios.hist(shown, edges, color=style.PALETTE["vermillion"], label="with dropout")
    ratios.axvline(1, color=style.PALETTE["green"], lw=4, label="without: all 1")
    ratios.set_xticks([0, 0.5, 1, 1.5, 2, 2.5], ["0", "0.5", "1", "1.5", "2", "2.5+"])
    ratios.set(xlabel="ratio, weights unchanged", yticks=[], title="Dropout: ratios before a step", xlim=(0, 2.5))
    ratios.legend(loc="upper right", fontsize=11)
    Scores.of("way from chance to best", {"without": right, "dropout": dropout.share}).draw(costs, LOOKS)
    costs.set(ylim=(0, 1.02), title="Dropout: what it costs")
    short.only("gets", "expects", "expects, mistaken").draw(values, LOOKS)
    values.set(ylim=(0, None), title="Time limit: what V says")


def draw_films(shares: Scores, figure) -> None:
    """Draw the arms with users whose tastes are measured in MovieLens."""
    (axis,) = style.panels(figure, 1)
    shares.draw(axis, LOOKS)
    axis.set(ylim=(0, 1.02), title="Tastes of MovieLens users")
