"""Three exercises: an end or only a limit, drawing among what is allowed, and the clipped step."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from recmtl_lessons.lessons.policy.questions import TEXTS

# An end, or only a limit.


def advantages(rewards, values, next_values, terminated, truncated, discount, gae_lambda):
    """Walk backwards; the value counts unless the session is over, the chain is cut wherever it was cut."""
    found, running = torch.zeros_like(rewards), 0.0
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + discount * next_values[t] * ~terminated[t] - values[t]
        running = delta + discount * gae_lambda * ~(terminated[t] | truncated[t]) * running
        found[t] = running
    return found


def _alive(terminated: Tensor, truncated: Tensor) -> Tensor:
    return ~terminated


def _uncut(terminated: Tensor, truncated: Tensor) -> Tensor:
    return ~(terminated | truncated)


def _with_rule(
    counts: Callable = _alive,
    goes_on: Callable = _uncut,
    baseline: float = 1.0,
    factor: Callable = lambda discount, gae_lambda: discount * gae_lambda,
    order: Callable = reversed,
) -> Callable:
    """Return the same with other rules for what counts after a step, and where the chain is cut or how it shrinks."""

    def answer(rewards, values, next_values, terminated, truncated, discount, gae_lambda):
        found, running = torch.zeros_like(rewards), 0.0
        delta = rewards + discount * next_values * counts(terminated, truncated) - baseline * values
        for t in order(range(len(rewards))):
            running = delta[t] + factor(discount, gae_lambda) * goes_on(terminated[t], truncated[t]) * running
            found[t] = running
        return found

    return answer


def _next_rows_value(rewards, values, next_values, *rest):
    return advantages(rewards, values, torch.cat([values[1:], next_values[-1:]]), *rest)


def _several_sessions(generator: torch.Generator) -> Iterator[dict]:
    for steps in (7, 5, 10):
        rewards, values, reached = torch.randn(3, steps, generator=generator)
        one, other, both = torch.randperm(steps - 1, generator=generator)[:3]
        terminated, truncated = torch.zeros(2, steps, dtype=torch.bool)
        terminated[one] = truncated[other] = True
        terminated[both] = truncated[both] = steps > 5
        ended = terminated | truncated
        discount, gae_lambda = (0.4 + 0.5 * torch.rand(2, generator=generator)).tolist()
        yield {
            "rewards": rewards,
            "values": values,
            "next_values": torch.where(ended, reached, torch.cat([values[1:], reached[-1:]])),
            "terminated": terminated,
            "truncated": truncated,
            "discount": discount,
            "gae_lambda": gae_lambda,
        }


exercise_returns = TEXTS.exercise(
    "exercise-returns",
    cases=_several_sessions,
    solution=advantages,
    mistakes={
        "limit is an end": _with_rule(counts=_uncut),
        "end is a limit": _with_rule(counts=lambda terminated, truncated: torch.ones_like(terminated)),
        "never cut": _with_rule(goes_on=_alive),
        "no baseline": _with_rule(baseline=0.0),
        "no lambda": _with_rule(factor=lambda discount, gae_lambda: discount),
        "no discount": _with_rule(factor=lambda discount, gae_lambda: gae_lambda),
        "one step": _with_rule(factor=lambda discount, gae_lambda: 0.0),
        "rules exchanged": _with_rule(counts=_uncut, goes_on=_alive),
        "the other flag": _with_rule(counts=lambda terminated, truncated: ~truncated),
        "the next row's value": _next_rows_value,
        "forwards": _with_rule(order=iter),
        "returns": lambda rewards, values, *rest: advantages(rewards, values, *rest) + values,
    },
)


# Draw among what is allowed.


def masked_log_probs(logits: Tensor, mask: Tensor) -> Tensor:
    """Make logits of what is not allowed minus infinity; the softmax then divides what is left."""
    return logits.masked_fill(~mask, float("-inf")).log_softmax(-1)


def _menus(generator: torch.Generator) -> Iterator[dict]:
    for rows, actions in ((3, 4), (5, 3), (4, 6)):
        mask = torch.rand(rows, actions, generator=generator) < 0.5
        mask[:, 0] |= ~mask.any(1)
        mask[:, -1] &= mask.sum(1) < actions
        mask[0], mask[1] = torch.arange(actions) == 1, True  # one action alone, and all of them
        logits = 2 * torch.randn(rows, actions, generator=generator)
        yield {"logits": logits.requires_grad_(), "mask": mask}


def _as_chances(value: Tensor, inputs) -> list[Tensor]:
    """Return what is compared: probabilities, and which are 0; any logarithm that exp takes to 0 is right there."""
    return [value.exp(), value.exp() == 0]


exercise_mask = TEXTS.exercise(
    "exercise-mask",
    cases=_menus,
    view=_as_chances,
    solution=masked_log_probs,
    mistakes={
        "probabilities": lambda x, m: masked_log_probs(x, m).exp(),
        "inverted": lambda x, m: masked_log_probs(x, ~m),
        "logits times mask": lambda x, m: (x * m).log_softmax(-1),
        "masked behind the softmax": lambda x, m: x.log_softmax(-1).masked_fill(~m, float("-inf")),
        "divided by the number": lambda x, m: (x.softmax(-1) * m / m.sum(-1, keepdim=True)).log(),
        "divided behind the softmax": lambda x, m: (
            x.softmax(-1) * m / (x.softmax(-1) * m).sum(-1, keepdim=True)
        ).log(),
        "zero log-probability": lambda x, m: x.log_softmax(-1).masked_fill(~m, 0.0),
        "no mask": lambda x, m: x.log_softmax(-1),
        "over the batch": lambda x, m: x.masked_fill(~m, float("-inf")).log_softmax(0),
        "only logits": lambda x, m: x.masked_fill(~m, float("-inf")),
        "not low enough": lambda x, m: x.masked_fill(~m, -10.0).log_softmax(-1),
    },
)


# The clipped step.


def clipped_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Take the smaller of the two, so that going too far never looks good."""
    ratio = (log_prob - old_log_prob).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


def _loss_of(surrogate: Callable) -> Callable:
    """Return minus the mean of another function of ratio, ratio clipped and advantage, as an answer."""

    def answer(log_prob, old_log_prob, advantage, clip):
        ratio = (log_prob - old_log_prob).exp()
        return -surrogate(ratio, ratio.clamp(1 - clip, 1 + clip), advantage).mean()

    return answer


def _steps_taken(generator: torch.Generator) -> Iterator[dict]:
    """Draw steps that went too far and not, either way, and were good or bad, all in every case."""
    moved = torch.tensor([0.6, 0.6, -0.6, -0.6, 0.03, -0.03]).repeat(3)
    for rows in (6, 9, 14):
        by, size = 0.8 + 0.4 * torch.rand(2, rows, generator=generator)
        old = -0.8 - 2 * torch.rand(rows, generator=generator)
        yield {
            "log_prob": (old + moved[:rows] * by).requires_grad_(),
            "old_log_prob": old,
            "advantage": torch.tensor([1.0, -1.0] * 7)[:rows] * size * (1 + torch.arange(rows) / rows),
            "clip": float(0.1 + 0.2 * torch.rand((), generator=generator)),
        }


exercise_ratio = TEXTS.exercise(
    "exercise-ratio",
    cases=_steps_taken,
    solution=clipped_loss,
    mistakes={
        "sign": lambda n, o, a, c: -clipped_loss(n, o, a, c),
        "maximum": _loss_of(lambda ratio, clipped, a: torch.maximum(ratio * a, clipped * a)),
        "always clipped": _loss_of(lambda ratio, clipped, a: clipped * a),
        "never clipped": _loss_of(lambda ratio, clipped, a: ratio * a),
        "smaller ratio": _loss_of(lambda ratio, clipped, a: torch.minimum(ratio, clipped) * a),
        "no exponential": lambda n, o, a, c: -((n - o) * a).mean(),
        "no exponential inside": lambda n, o, a, c: -torch.minimum((n - o) * a, (n - o).clamp(1 - c, 1 + c) * a).mean(),
        "clipped around 0": lambda n, o, a, c: -torch.minimum((n - o).exp() * a, (n - o).exp().clamp(-c, c) * a).mean(),
        "upside down": lambda n, o, a, c: clipped_loss(o, n, a, c),
        "sum": lambda n, o, a, c: len(a) * clipped_loss(n, o, a, c),
        "no old policy": lambda n, o, a, c: -(n * a).mean(),
    },
)
