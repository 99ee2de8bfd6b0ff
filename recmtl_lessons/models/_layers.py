"""The plain layers that most networks here are made of."""

from collections.abc import Sequence

from torch import nn


def relu_layers(inputs: int, widths: Sequence[int], dropout_rate: float = 0.0) -> nn.Sequential:
    """Return a linear layer and a ReLU for each width, with dropout behind each if there is to be any."""
    layers: list[nn.Module] = []
    for before, after in zip((inputs, *widths), widths, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
        if dropout_rate:
            layers.append(nn.Dropout(float(dropout_rate)))
    return nn.Sequential(*layers)
