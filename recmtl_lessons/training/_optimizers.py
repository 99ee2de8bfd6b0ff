"""The optimizers of a stack: the steps are torch's own, called as functions.

The first optimizer that is made of a class of `torch.optim` imports torch's compiler, which takes one to three seconds,
and no stack is compiled. The functions behind the classes do without.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adam import adam

Groups = Sequence[tuple[Sequence[Tensor], float]]  # parameters, and their learning rate


class GradientDescent:
    """Each step takes the gradient times the learning rate away, without momentum.

    Parameters
    ----------
    groups : sequence of (parameters, learning rate)
        What has no gradient stays as it is.
    """

    def __init__(self, groups: Groups):
        self.groups = [(list(parameters), rate) for parameters, rate in groups]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameters, _ in self.groups:
            for parameter in parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move all parameters."""
        for parameters, rate in self.groups:
            moving = [p for p in parameters if p.grad is not None]
            if moving:
                self._move(moving, [p.grad for p in moving], rate)

    def _move(self, parameters: list[Tensor], gradients: list[Tensor], rate: float) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.add_(gradient, alpha=-rate)


@dataclass(frozen=True)
class _Moments:
    """Of one parameter: running means of its gradient and of the gradient's square, and the steps taken."""

    first: Tensor
    second: Tensor
    steps: Tensor


class Adam(GradientDescent):
    """Torch's fused Adam, without weight decay.

    Parameters
    ----------
    groups : sequence of (parameters, learning rate)
    betas : (float, float)
        Decay rates of the two running means, in [0, 1).

    References
    ----------
    Kingma, Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1.
    """

    def __init__(self, groups: Groups, betas: tuple[float, float]):
        super().__init__(groups)
        self.betas = tuple(map(float, betas))
        self._moments: dict[Tensor, _Moments] = {}  # begun with a parameter's first gradient, as torch's are

    def _move(self, parameters: list[Tensor], gradients: list[Tensor], rate: float) -> None:
        for p in parameters:
            if p not in self._moments:
                steps = torch.zeros((), device=p.device)
                self._moments[p] = _Moments(torch.zeros_like(p), torch.zeros_like(p), steps)
        moments = [self._moments[p] for p in parameters]
        adam(
            parameters, gradients, [m.first for m in moments], [m.second for m in moments], [],
            [m.steps for m in moments], fused=True, amsgrad=False, beta1=self.betas[0], beta2=self.betas[1], lr=rate,
            weight_decay=0.0, eps=1e-8, maximize=False,
        )  # fmt: skip
