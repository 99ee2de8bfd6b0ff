"""What models that act share: layers and starting weights, drawing an action, checks of numbers and rollouts."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from recmtl_lessons.models._checks import (
    _values_are_at_hand,
    check_answer,
    check_choice,
    check_count,
    check_names,
    check_number,
    check_values,
)


def orthogonal_linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def tanh_layers(widths: Sequence[int]) -> nn.Sequential:
    """Return layers from the first width to the last; with one width alone, nothing happens in them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [orthogonal_linear(inputs, outputs, gain=math.sqrt(2)), nn.Tanh()]
    return nn.Sequential(*layers)


def exponential_times(like: Tensor, generator: torch.Generator | None, uniform: Tensor | None) -> Tensor:
    """Return exponential times of rate 1, from uniform numbers handed in or drawn where the generator lives."""
    if uniform is None:
        device = like.device if generator is None else generator.device
        uniform = torch.rand(like.shape, generator=generator, dtype=like.dtype, device=device).to(like.device)
    else:
        check_like("uniform", uniform, like.shape, like.dtype)
        if _values_are_at_hand(uniform) and not ((uniform >= 0) & (uniform < 1)).all():
            came = f"values from {uniform.min():g} to {uniform.max():g}"
            raise ValueError(f"uniform: got {came}, expected numbers of at least 0 and below 1")
    # A number of 0 stands for those below the next, which is eps / 2: a time of 0 would win against any probability.
    return (-torch.log1p(-uniform)).clamp(min=torch.finfo(like.dtype).eps / 4)


def choose(
    logits: Tensor, deterministic: bool, generator: torch.Generator | None, uniform: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Choose one column per row; return it with its log-probability: (batch, choices) -> (batch,), (batch,)."""
    log_policy = logits.log_softmax(dim=1)  # (batch, choices)
    score = log_policy.detach()
    if not deterministic:  # of exponential times with the probabilities as rates, the shortest
        score = score - exponential_times(score, generator, uniform).log()
    chosen = score.argmax(dim=1)  # (batch,)
    return chosen, pick(log_policy, chosen)


def evaluate(logits: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probability of what was chosen, and entropy: (batch, choices), (batch,) -> (batch,), (batch,)."""
    log_policy = logits.log_softmax(dim=1)  # (batch, choices)
    finite = log_policy.masked_fill(log_policy.isneginf(), 0.0)  # 0 * -inf would be NaN
    entropy = -(log_policy.exp() * finite).sum(dim=1)  # (batch,)
    return pick(log_policy, chosen), entropy


def pick(log_policy: Tensor, action: Tensor) -> Tensor:
    """Pick the entry of each row's action: (batch, n_actions) and (batch,) -> (batch,)."""
    return log_policy.gather(1, action.long().unsqueeze(1)).squeeze(1)


def check_answers(network: nn.Module, state: Tensor, logits: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits before any mask and the value as they came; refuse them if they are no numbers."""
    check_answer(logits, network, state=state)
    check_answer(value, network, state=state)
    return logits, value


def check_luck(deterministic: object, generator: object, uniform: object) -> None:
    check_choice("deterministic", deterministic, (False, True))
    check_generator(generator)
    if generator is not None and uniform is not None:
        raise ValueError("uniform: got numbers beside a generator, expected one of the two")


def check_generator(generator: object) -> None:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(f"generator: got {type(generator).__name__}, expected a torch.Generator")


def check_counts_by_name(name: str, counts: Mapping[str, int]) -> None:
    """Refuse anything but a mapping of task names to numbers of actions."""
    check_names(name, counts, "{task name: number of actions}")
    for task, count in counts.items():
        check_count(f"{name}[{task!r}]", count)


def check_no_dropout(rate: object) -> None:
    """Refuse dropout, which other models have: say why, and what to write."""
    check_number("dropout_rate", rate)
    if rate != 0:
        why = "with dropout one network says two things of an action, when it is taken and when it is learned from"
        raise ValueError(f"dropout_rate: got {rate}, expected 0, or to be left out: {why}")


def check_rollout(numbers: Mapping[str, Tensor], flags: Mapping[str, Tensor]) -> None:
    """Refuse anything but floats and bools of one shape (T, ...), that of the first, which is named in the message."""
    name, rewards = next(iter(numbers.items()))
    if not isinstance(rewards, Tensor) or rewards.ndim == 0 or 0 in rewards.shape or not rewards.is_floating_point():
        came = f"{rewards.dtype} {tuple(rewards.shape)}" if isinstance(rewards, Tensor) else type(rewards).__name__
        raise ValueError(f"{name}: got {came}, expected a float tensor (T, ...) with at least one step")
    for name, value in numbers.items():
        check_like(name, value, rewards.shape, rewards.dtype)
    for name, value in flags.items():
        if not isinstance(value, Tensor) or value.dtype != torch.bool or value.shape != rewards.shape:
            came = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name}: got {came}, expected a bool tensor {tuple(rewards.shape)}")


def check_like(name: str, value: Tensor, shape: torch.Size, dtype: torch.dtype) -> None:
    check_values(name, value, tuple(shape))
    if value.dtype != dtype:
        raise ValueError(f"{name}: got dtype {value.dtype}, expected {dtype}")
