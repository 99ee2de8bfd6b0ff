"""Three exercises: the distillation loss, the double target, and a sequence of tasks."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from recmtl_lessons.lessons.distilled_q.questions import TEXTS

# The distillation loss.


def distillation(student: Tensor, teacher: Tensor, temperature: float, scale: float) -> Tensor:
    """Return T squared times the divergence of the student from the teacher, summed over actions."""
    expected = (teacher.detach() / scale / temperature).log_softmax(-1)
    found = (student / scale / temperature).log_softmax(-1)
    return temperature**2 * (expected.exp() * (expected - found)).sum(-1).mean()


def _loss_of(terms: Callable, dim: int = -1, factor: Callable = lambda T: T**2) -> Callable:
    """Return the same with other terms, of the softened policies' logarithms, or another factor in front."""

    def answer(student, teacher, temperature, scale):
        expected, found = ((q / scale / temperature).log_softmax(dim) for q in (teacher.detach(), student))
        return factor(temperature) * terms(expected, found)

    return answer


def _divergence(expected: Tensor, found: Tensor) -> Tensor:
    return (expected.exp() * (expected - found)).sum(-1).mean()


def _attached(student, teacher, temperature, scale):
    expected, found = ((q / scale / temperature).log_softmax(-1) for q in (teacher, student))
    return temperature**2 * _divergence(expected, found)


def _batches(generator: torch.Generator) -> Iterator[dict]:
    for rows, actions in ((5, 4), (3, 6), (8, 3)):
        size = 0.5 + 2 * torch.rand((), generator=generator)
        student, teacher = size * torch.randn(2, rows, actions, generator=generator)
        temperature, spread = (0.5 + torch.rand(2, generator=generator)).tolist()
        yield {
            "student": student.requires_grad_(),
            "teacher": teacher.requires_grad_(),
            "temperature": temperature * (3.0 if rows > 3 else 1.1),
            "scale": spread * float(size) / 3,
        }


exercise_loss = TEXTS.exercise(
    "exercise-loss",
    cases=_batches,
    solution=distillation,
    mistakes={
        "no T squared": _loss_of(_divergence, factor=lambda T: 1.0),
        "T once": _loss_of(_divergence, factor=lambda T: T),
        "mean over actions": _loss_of(lambda expected, found: (expected.exp() * (expected - found)).mean()),
        "sum over states": _loss_of(lambda expected, found: (expected.exp() * (expected - found)).sum()),
        "exchanged": _loss_of(lambda expected, found: _divergence(found, expected)),
        "no scale": lambda s, t, temperature, scale: distillation(s, t, temperature, 1.0),
        "teacher alone": lambda s, t, temperature, scale: distillation(s * temperature, t, temperature, scale),
        "over the batch": _loss_of(_divergence, dim=0),
        "cross-entropy": _loss_of(lambda expected, found: -(expected.exp() * found).sum(-1).mean()),
        "no logarithm": _loss_of(lambda expected, found: (expected.exp() * (expected - found.exp())).sum(-1).mean()),
        "not detached": _attached,
    },
)


# The double target.


def double_target(
    reward: Tensor, online: Tensor, target: Tensor, terminated: Tensor, truncated: Tensor, discount: float
) -> Tensor:
    """The online network chooses the next action, the target network rates it; only a real end has no next."""
    value = target.gather(1, online.argmax(1, keepdim=True)).squeeze(1)
    return reward + discount * torch.where(terminated, torch.zeros_like(value), value)


def _with_end(ends: Callable) -> Callable:
    """Return the same with another rule for what ends a session."""

    def answer(reward, online, target, terminated, truncated, discount):
        return double_target(reward, online, target, ends(terminated, truncated), truncated, discount)

    return answer


def _next_states(generator: torch.Generator) -> Iterator[dict]:
    for rows, actions in ((8, 3), (5, 4), (11, 2)):
        online = torch.randn(rows, actions, generator=generator)
        kind = torch.randperm(rows, generator=generator)
        yield {
            "reward": torch.rand(rows, generator=generator),
            "online": online,
            "target": online.roll(1, dims=1) + 0.5 * torch.randn(rows, actions, generator=generator),
            "terminated": (kind == 0) | (kind == 1),  # and truncated too, terminated alone,
            "truncated": (kind == 0) | (kind == 2),  # truncated alone; the others go on
            "discount": float(0.3 + 0.6 * torch.rand((), generator=generator)),
        }


exercise_target = TEXTS.exercise(
    "exercise-target",
    cases=_next_states,
    solution=double_target,
    mistakes={
        "plain maximum": lambda reward, online, target, *rest: double_target(reward, target, target, *rest),
        "exchanged": lambda reward, online, target, *rest: double_target(reward, target, online, *rest),
        "online alone": lambda reward, online, target, *rest: double_target(reward, online, online, *rest),
        "limit is an end": _with_end(lambda terminated, truncated: terminated | truncated),
        "never ends": _with_end(lambda terminated, truncated: torch.zeros_like(terminated)),
        "flags exchanged": _with_end(lambda terminated, truncated: truncated),
        "ends where both are set": _with_end(lambda terminated, truncated: terminated & ~truncated),
        "no discount": lambda *given: double_target(*given[:-1], 1.0),
        "no last reward": lambda *given: double_target(*given) * ~given[3],
    },
)


# A sequence of tasks.


def tokens(features: Tensor, embeddings: Tensor) -> Tensor:
    """Make a token for each task, all of one state in a row: (batch, tasks, width)."""
    return (features[:, None] + embeddings).relu()


def _states_and_tasks(generator: torch.Generator) -> Iterator[dict]:
    for rows, tasks, width in ((5, 3, 4), (2, 4, 3), (6, 2, 5)):
        yield {
            "features": torch.randn(rows, width, generator=generator).requires_grad_(),
            "embeddings": torch.randn(tasks, width, generator=generator).requires_grad_(),
        }


exercise_tokens = TEXTS.exercise(
    "exercise-tokens",
    cases=_states_and_tasks,
    solution=tokens,
    mistakes={
        "length 1": lambda features, embeddings: features[:, None].relu(),
        "length 1, of all tasks": lambda features, embeddings: (features + embeddings.mean(0))[:, None].relu(),
        "states as the sequence": lambda features, embeddings: (features + embeddings[:, None]).relu(),
        "copies": lambda features, embeddings: features[:, None].expand(-1, len(embeddings), -1).relu(),
        "no state": lambda features, embeddings: embeddings.expand(len(features), -1, -1).relu(),
        "no ReLU": lambda features, embeddings: features[:, None] + embeddings,
        "ReLU before the sum": lambda features, embeddings: features.relu()[:, None] + embeddings.relu(),
    },
)
