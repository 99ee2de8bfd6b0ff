"""How the settings were chosen, and what longer trainings bring: on the seeds on which the lesson was made."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from recmtl_lessons.lessons._seeds import DESIGN_SEEDS
from recmtl_lessons.lessons.distilled_q.experiments import (
    DISTILLING,
    FROM_REWARDS,
    PLAIN,
    SETTINGS,
    SHORT,
    VALIDATION,
    School,
    from_rewards,
    from_teachers,
    kept,
    school,
    student,
)
from recmtl_lessons.models.distilled_q import MultiTaskDistilledQNetwork

RATES, TAUS, WIDTHS = (SETTINGS[name] for name in ("rates", "taus", "widths"))
#: What was measured once, mean and 95 % interval: longer trainings (`score_longer`), and eight seeds looked at once.
LONGER, ON_FRESH_SEEDS = SETTINGS["longer"], SETTINGS["on_fresh_seeds"]
MORE_SEEDS = range(32)


def score_distilling(
    temperatures: Sequence[float] = (1.0,), updates: int = SHORT.updates, rates: Sequence[float] = RATES
) -> dict[tuple[float, float], Tensor]:
    """Teach students at several temperatures and rates; return what they keep, {(temperature, rate): Tensor (S,)}."""
    of, scores = school(DESIGN_SEEDS, group=VALIDATION), {}
    settings = [{**PLAIN, "temperature": t} for t in temperatures]
    for rate in rates:
        how = replace(DISTILLING, updates=updates, learning_rate=rate)
        found = kept(from_teachers(student, of, settings, how), of)
        scores |= {(t, rate): values for t, values in zip(temperatures, found, strict=True)}
    return scores


def score_rewards(
    updates: int = FROM_REWARDS.updates, rates: Sequence[float] = RATES, taus: Sequence[float] = TAUS
) -> dict[tuple[float, float], Tensor]:
    """Train the small network from rewards; return what it keeps, {(rate, tau): Tensor (S,)}."""
    of, scores = school(DESIGN_SEEDS, group=VALIDATION), {}
    for rate in rates:
        for tau in taus:
            how = replace(FROM_REWARDS, updates=updates, learning_rate=rate, tau=tau)
            scores[rate, tau] = kept(from_rewards(student, DESIGN_SEEDS, how)[0], of)[0]
    return scores


def score_longer() -> dict[str, Tensor]:
    """Train for longer; return what is kept, as in `LONGER`, seed by seed: {what: Tensor (S,)}."""
    of, found = school(DESIGN_SEEDS, group=VALIDATION), {}
    for updates in (200, 400):
        alone, _ = from_rewards(student, of.seeds, replace(FROM_REWARDS, updates=updates))
        found[f"from rewards, {updates} steps"] = kept(alone, of)[0]
    slower, _ = from_rewards(student, of.seeds, replace(FROM_REWARDS, updates=400, tau=0.03))
    found["the same, target network slower"] = kept(slower, of)[0]
    for updates, temperatures in ((200, (1.0, 30.0, 0.03)), (600, (0.03,))):
        settings = [{**PLAIN, "temperature": temperature} for temperature in temperatures]
        students = from_teachers(student, of, settings, replace(DISTILLING, updates=updates))
        for temperature, values in zip(temperatures, kept(students, of), strict=True):
            found[f"distilled at T = {temperature:g}, {updates} steps"] = values
    return found


def score_widths(seeds: Sequence[int] = MORE_SEEDS, at_once: int = 8) -> dict[str, tuple[Tensor, Tensor]]:
    """Teach students of several widths; return what they keep, (S,), and their silent units, (S, K): {width: (both)}.

    Students of ``at_once`` seeds are trained side by side.
    """
    found = {name: ([], []) for name in WIDTHS}
    for part in torch.tensor(list(seeds)).split(at_once):
        of = school(part.tolist(), group=VALIDATION)
        for name, (shared, own) in WIDTHS.items():
            students = from_teachers(partial(student, shared, own), of, [PLAIN])
            found[name][0].append(kept(students, of)[0])
            found[name][1].extend(silent_units(students.model(i), of, i) for i in range(len(students)))
    return {name: (torch.cat(scores), torch.stack(silent)) for name, (scores, silent) in found.items()}


def silent_units(network: MultiTaskDistilledQNetwork, of: School, seed_number: int = 0) -> Tensor:
    """Return the share of each task's own units that are 0 in every state which the teachers remember, (K,)."""
    answered: list[Tensor] = []
    units = [next(part for part in head if isinstance(part, nn.ReLU)) for head in network.heads]
    hooks = [unit.register_forward_hook(lambda _, __, output: answered.append(output)) for unit in units]
    with torch.no_grad():
        network(of.transfer_set.steps["state"][seed_number])
    for hook in hooks:
        hook.remove()
    return torch.stack([(output == 0).all(0).float().mean() for output in answered])
