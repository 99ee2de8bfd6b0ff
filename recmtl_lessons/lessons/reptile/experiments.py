"""The lesson's arms, how they are trained, and what is measured of them on new users of the shop and of MovieLens."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch

from recmtl_lessons.datasets import Ratings
from recmtl_lessons.datasets.few_shot import (
    ONE_TASTE,
    SHOP,
    SHOTS,
    Shop,
    Tasks,
    film_mean_and_offset,
    film_users,
    shop_users,
)
from recmtl_lessons.lessons._seeds import DESIGN_SEEDS, SEEDS
from recmtl_lessons.teaching.texts import read_yaml
from recmtl_lessons.training import Scores
from recmtl_lessons.training.few_shot import (
    ERROR,
    FILM_HIDDEN,
    FILM_LEARNERS,
    HIDDEN,
    INNER_STEPS,
    SHOP_LEARNERS,
    STEPS,
    Compared,
    ReptileLearner,
    compare_learners,
    errors,
    score_rates,
)

SETTINGS = read_yaml(Path(__file__).with_name("settings.yaml"))
RIVALS = ("joint", "MAML")  # lesson 04's arms
# A number of inner steps names Reptile with so many.
SHOP_ARMS = {k: ReptileLearner(k, **chosen) for k, chosen in SETTINGS["shop"].items()} | {4: SHOP_LEARNERS["Reptile"]}
SHUFFLED = ReptileLearner(4, **SETTINGS["nobodys"])  # on groups of ratings that are nobody's
FILM_ARMS = {
    "MAML": FILM_LEARNERS["MAML"],
    1: ReptileLearner(1, **SETTINGS["films"][1]),
    4: FILM_LEARNERS["Reptile"],
}


def score_training(
    inner_steps: int,
    meta_rates: Sequence[float] = SETTINGS["meta_rates"],
    inner_rates: Sequence[float] = SETTINGS["inner_rates"],
    shop: Shop = SHOP,
    shuffled: bool = False,
) -> dict[tuple[float, float, float], float]:
    """Score rates on validation users of the design seeds: so `SHOP_ARMS` was chosen, and, ``shuffled``, `SHUFFLED`."""
    users = shop_users(shop, DESIGN_SEEDS)
    known, valid = without_users(users.train, DESIGN_SEEDS) if shuffled else users.train, users.valid.shots(SHOTS)
    return score_rates(ReptileLearner(inner_steps), known, valid, DESIGN_SEEDS, meta_rates, inner_rates)


def score_one_taste(shop: Shop = ONE_TASTE) -> dict[tuple[float, None, float], float]:
    """Score rates for a new user where all share one taste: so that of `with_one_taste` was chosen."""
    users, arm = shop_users(shop, DESIGN_SEEDS), SHOP_ARMS[4]
    return score_rates(arm, users.train, users.valid.shots(SHOTS), DESIGN_SEEDS, (arm.meta_lr,))


def score_films(
    ratings: Ratings,
    inner_steps: int,
    meta_rates: Sequence[float] = SETTINGS["film_meta_rates"],
    inner_rates: Sequence[float] = SETTINGS["film_inner_rates"],
) -> dict[tuple[float, float, float], float]:
    """Score rates on validation users of MovieLens, as `score_training` does: so `FILM_ARMS` was chosen."""
    users, arm = film_users(ratings, DESIGN_SEEDS), ReptileLearner(inner_steps)
    return score_rates(arm, users.train, users.valid, DESIGN_SEEDS, meta_rates, inner_rates, FILM_HIDDEN)


# What the lesson compares.


def training_users(seeds: tuple[int, ...] = SEEDS) -> Tasks:
    """Return the shop's users to train on."""
    return shop_users(SHOP, seeds).train


@lru_cache(maxsize=2)
def compare(
    shop: Shop = SHOP, seeds: tuple[int, ...] = SEEDS, steps: int = STEPS, inner_steps: tuple[int, ...] = (1, 2, 4)
) -> Compared:
    """Train Reptile with some numbers of inner steps, and lesson 04's arms, MAML on as many gradients an update."""

    def label(name: str | int) -> str:
        return name if name in RIVALS else f"Reptile, {name} inner step" + "s" * (name > 1)

    slowest_first = ("MAML", *reversed(inner_steps), "joint")
    learners = {name: {**SHOP_LEARNERS, **SHOP_ARMS}[name] for name in slowest_first}
    return compare_learners(learners, shop_users(shop, seeds), seeds, steps=steps, label=label)


def compare_on_films(ratings: Ratings, seeds: tuple[int, ...] = SEEDS, steps: int = STEPS) -> Compared:
    """Train the arms on the same users, with as many gradients, and judge them on users of their own."""

    def label(name: str | int) -> str:
        return "films, MAML" if name == "MAML" else f"films, Reptile, {name} inner"

    known = {"film mean + offset": film_mean_and_offset}
    users, moments = film_users(ratings, seeds), range(INNER_STEPS + 1)
    return compare_learners(FILM_ARMS, users, seeds, FILM_HIDDEN, steps, label, moments, known)


# Controls.


def without_users(tasks: Tasks, seeds: Sequence[int]) -> Tasks:
    """Deal the same ratings anew, so that a "user" holds ratings of many: nobody's taste is left in a group."""
    support = tasks.support_y.shape[2]
    shuffled = {}
    for field in ("x", "y"):
        both = torch.cat([getattr(tasks, f"support_{field}"), getattr(tasks, f"query_{field}")], dim=2)
        flat = both.flatten(1, 2)  # (S, T * 20, ...)
        orders = [torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        dealt = torch.stack([rows[order] for rows, order in zip(flat, orders, strict=True)])
        dealt = dealt.unflatten(1, both.shape[1:3])
        shuffled |= {f"support_{field}": dealt[:, :, :support], f"query_{field}": dealt[:, :, support:]}
    return replace(tasks, **shuffled)


def with_shuffled_users(result: Compared, seeds: tuple[int, ...] = SEEDS, steps: int = STEPS) -> Compared:
    """Train "nobody's" on the same ratings dealt anew, with four inner steps."""
    groups = replace(result.users, train=without_users(result.users.train, seeds))
    return compare_learners({"nobody's": SHUFFLED}, groups, seeds, steps=steps, label=lambda name: f"{name} ratings")


def shuffled_for_longer(
    updates: Sequence[int] = (200, 800, 3_200), seeds: tuple[int, ...] = DESIGN_SEEDS, shop: Shop = SHOP
) -> Scores:
    """Train one step, and four on nobody's and on users' ratings, ever longer, at the rates chosen for 200 updates."""
    users = shop_users(shop, seeds)
    ways = {
        "one step": (SHOP_ARMS[1], users.train),
        "four, nobody's ratings": (SHUFFLED, without_users(users.train, seeds)),
        "four, users' ratings": (SHOP_ARMS[4], users.train),
    }
    after = {}
    for way, (arm, known) in ways.items():
        models, scores, done = arm.stack(known, seeds, HIDDEN), [], 0
        for count in updates:
            models.fit(count - done, label=way, every=count - done)
            scores.append(errors(arm, models, users.test.shots(SHOTS), arm.rate, (INNER_STEPS,))[0, 0])
            done = count
        after[way] = torch.stack(scores, dim=1)
    return Scores.of(ERROR, after, updates)


def with_one_taste(seeds: tuple[int, ...] = SEEDS, steps: int = STEPS, shop: Shop = ONE_TASTE) -> Scores:
    """Train in a shop where there is nothing to adapt to: the negative control.

    Returns
    -------
    Scores
        Reptile's error "before" adapting, "after" three steps with the rate that is best here, and "after, at the
        shop's rate", which is best where tastes differ.
    """
    arm = SHOP_ARMS[4]
    gentle = {"one taste": replace(arm, rate=SETTINGS["rate_with_one_taste"])}
    found = compare_learners(gentle, shop_users(shop, seeds), seeds, steps=steps)
    faster = errors(arm, found.models["one taste"], found.users.test.shots(SHOTS), arm.rate, (INNER_STEPS,))[0, 0]
    before, after = (scores["one taste"] for scores in (found.before, found.after))
    return Scores.of(ERROR, {"before": before, "after": after, "after, at the shop's rate": faster})
