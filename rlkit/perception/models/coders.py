"""Encoders and decoders, of which autoencoders are composed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from rlkit.errors import RlkitError
from rlkit.perception.models.convolution import transposed_block
from rlkit.perception.models.mlp import hidden_layer
from rlkit.perception.models.shapes import image_shape


def dense_encoder(
    input_shape: Sequence[int], hidden_sizes: Sequence[int], outputs: int, dropout: float
) -> nn.Sequential:
    """Makes an encoder of linear layers: (batch, *input_shape) -> (batch, outputs)."""
    sizes = [math.prod(input_shape), *hidden_sizes]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, hidden in zip(sizes, hidden_sizes, strict=False):
        layers += hidden_layer(inputs, hidden, "relu", dropout)
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


def dense_decoder(
    latent_size: int, hidden_sizes: Sequence[int], output_shape: Sequence[int], dropout: float
) -> nn.Sequential:
    """Makes a decoder of linear layers, whose outputs are logits: (batch, latent_size) -> (batch, *output_shape).

    `hidden_sizes` are in the order of the encoder, and thus reversed here.
    """
    sizes = [latent_size, *reversed(hidden_sizes)]
    layers: list[nn.Module] = []
    for inputs, hidden in pairwise(sizes):
        layers += hidden_layer(inputs, hidden, "relu", dropout)
    return nn.Sequential(*layers, nn.Linear(sizes[-1], math.prod(output_shape)), nn.Unflatten(1, tuple(output_shape)))


def conv_encoder(
    model: str, input_shape: Sequence[int], channels: Sequence[int], outputs: int, dropout: float
) -> nn.Sequential:
    """Makes a convolutional encoder: (batch, *input_shape) -> (batch, outputs).

    There is a convolution for each of `channels`, which halves the image. `model` is the name in error messages.
    """
    inputs, height, width = halvable(model, input_shape, len(channels))
    layers: list[nn.Module] = []
    for wide in channels:
        layers += [nn.Conv2d(inputs, wide, 4, 2, padding=1), nn.ReLU(), nn.Dropout2d(dropout)]
        inputs = wide
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * height * width, outputs))


def conv_decoder(
    model: str, latent_size: int, channels: Sequence[int], output_shape: Sequence[int], dropout: float
) -> nn.Sequential:
    """Makes a convolutional decoder, whose outputs are logits: (batch, latent_size) -> (batch, *output_shape).

    `channels` are in the order of the encoder, and thus reversed here. `model` is the name in error messages.
    """
    outputs, height, width = halvable(model, output_shape, len(channels))
    wides = [*reversed(channels), outputs]
    layers: list[nn.Module] = [
        nn.Linear(latent_size, wides[0] * height * width),
        nn.Unflatten(1, (wides[0], height, width)),
        nn.ReLU(),
    ]
    for inputs, wide in pairwise(wides[:-1]):
        layers += [nn.Dropout2d(dropout), *transposed_block(inputs, wide, batch_norm=False)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(wides[-2], outputs, 4, 2, padding=1))


def halvable(model: str, input_shape: Sequence[int], times: int) -> tuple[int, int, int]:
    """Returns (channels, height, width) after `times` halvings; raises RlkitError if it can't be halved so often."""
    channels, height, width = image_shape(model, input_shape)
    unit = 2**times
    if times < 1 or height % unit or width % unit:
        nearest = max(1, round(height / unit)) * unit
        raise RlkitError(
            f"{model} halves images {times} times: {height} x {width} must be multiples of {unit}, such as {nearest} "
            f"(resize), and there must be at least one halving"
        )
    return channels, height // unit, width // unit
