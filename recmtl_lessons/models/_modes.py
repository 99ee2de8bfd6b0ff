"""Answering without dropout, leaving every mode as it was; and answering with other weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model and all its parts into evaluation mode, and each back into its own afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class Doer(nn.Module):
    """Lets `functional_call`, which only knows ``forward``, run any function of the wrapped model."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, function: Callable, *arguments):
        return function(self.model, *arguments)
