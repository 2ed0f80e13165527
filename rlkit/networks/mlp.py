"""Multi-layer perceptrons, their activations, and the initialisation of their weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn

from rlkit.setting import NetworkConfig, activation_key

HIDDEN_GAIN = math.sqrt(2)
"""Gain of orthogonal weights in hidden layers: it makes up for ReLU, which halves the mean square of its inputs."""

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def mlp(
    sizes: Sequence[int],
    config: NetworkConfig,
    output_gain: float,
    generator: torch.Generator,
    linear: Callable[[int, int], nn.Linear] = nn.Linear,
) -> nn.Sequential:
    """Makes linear layers, by calling `linear`, from sizes[0] to sizes[-1], with an activation after all but the last.

    With `config.layer_norm`, a layer normalisation comes between each layer and its activation.

    Orthogonal weights have a gain of √2 in hidden layers and of `output_gain` in the last one.
    """
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        gain = output_gain if last else HIDDEN_GAIN
        layers.append(initialized(linear(inputs, outputs), config.initialization, gain, generator))
        if not last:
            if config.layer_norm:
                layers.append(nn.LayerNorm(outputs))
            layers.append(activation(config.activation))
    return nn.Sequential(*layers)


def activation(name: str) -> nn.Module:
    """Makes torch's activation of that name, which may be spelt `leaky_relu` or `LeakyReLU`."""
    classes = {activation_key(key): value for key, value in vars(nn).items() if isinstance(value, type)}
    made: nn.Module = classes[activation_key(name)]()
    return made


def initialized(layer: Layer, initialization: str, gain: float, generator: torch.Generator) -> Layer:
    """Initialises a layer and returns it: orthogonal weights (Saxe et al. 2014), or `he_normal` (He et al. 2015).

    Orthogonal weights are multiplied by `gain`; those of He et al. have a variance of 2 / inputs in every layer. Biases
    start at zero.
    """
    if initialization == "he_normal":
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    else:
        nn.init.orthogonal_(layer.weight, gain, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def hidden_sizes(config: NetworkConfig, *, ends_in_hidden_layer: bool) -> list[int]:
    """Returns the units of each hidden layer of a network behind an encoder, which may end in a hidden layer itself.

    An encoder that puts parts of different kinds side by side does not: without hidden layers behind it, outputs would
    be a sum of functions of one part each, and linear in the vector.
    """
    if config.hidden_sizes is not None:
        return list(config.hidden_sizes)
    return [] if ends_in_hidden_layer else [64, 64]
