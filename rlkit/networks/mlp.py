"""Multi-layer perceptrons and convolutional encoders, with orthogonal initialisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}
HIDDEN_GAIN = math.sqrt(2)
Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def mlp(
    sizes: Sequence[int],
    activation: str,
    output_gain: float,
    generator: torch.Generator,
    linear: Callable[[int, int], nn.Linear] = nn.Linear,
) -> nn.Sequential:
    """Linear layers, as `linear` makes them, from sizes[0] to sizes[-1] with an activation after each but the last.

    Weights are orthogonal, with gain √2 in hidden layers and `output_gain` in the last; biases are zero.
    """
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        layers.append(orthogonal(linear(inputs, outputs), output_gain if last else HIDDEN_GAIN, generator))
        if not last:
            layers.append(ACTIVATIONS[activation]())
    return nn.Sequential(*layers)


def cnn(shape: tuple[int, int, int], generator: torch.Generator, features: int = 512) -> nn.Sequential:
    """(channels, height, width) images to `features`: the network of Mnih et al. (2015), or two layers of
    3x3 filters for images under 36 pixels, which those strides would leave nothing of."""
    channels, height, width = shape
    if min(height, width) >= 36:
        filters = [(32, 8, 4, 0), (64, 4, 2, 0), (64, 3, 1, 0)]
    else:
        filters = [(32, 3, 1, 1), (64, 3, 2, 1)]
    layers: list[nn.Module] = []
    for outputs, kernel, stride, padding in filters:
        convolution = nn.Conv2d(channels, outputs, kernel, stride, padding)
        layers += [orthogonal(convolution, HIDDEN_GAIN, generator), nn.ReLU()]
        height = (height + 2 * padding - kernel) // stride + 1
        width = (width + 2 * padding - kernel) // stride + 1
        channels = outputs
    linear = orthogonal(nn.Linear(channels * height * width, features), HIDDEN_GAIN, generator)
    return nn.Sequential(*layers, nn.Flatten(), linear, nn.ReLU())


def orthogonal(layer: Layer, gain: float, generator: torch.Generator) -> Layer:
    """Initialises the layer's weights orthogonally (Saxe et al. 2014) and its bias to zero."""
    nn.init.orthogonal_(layer.weight, gain, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
