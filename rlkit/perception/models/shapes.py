"""Sizes of images on their way through a network, and errors for images that do not fit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from rlkit.errors import RlkitError

LARGEST_TRIED = 512
"""Largest side that is tried in the search for the smallest image that a network can take."""


def conv_size(size: int, kernel: int, *, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Output size of a convolution or of pooling along one axis: ⌊(size + 2p − d(k − 1) − 1) / s⌋ + 1."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def transposed_size(size: int, kernel: int, *, stride: int = 1, padding: int = 0, output_padding: int = 0) -> int:
    """Output size of a transposed convolution along one axis: (size − 1)s − 2p + k + a."""
    return (size - 1) * stride - 2 * padding + kernel + output_padding


def output_padding(size: int, kernel: int, *, stride: int = 1, padding: int = 0) -> int:
    """Output padding (size + 2p − k) mod s, with which a transposed convolution restores `size`.

    The size is that before a convolution with the same kernel, stride and padding.
    """
    return (size + 2 * padding - kernel) % stride


def image_shape(model: str, input_shape: Sequence[int]) -> tuple[int, int, int]:
    """Returns `input_shape` as (channels, height, width); raises RlkitError unless it is three positive numbers."""
    shape = tuple(int(size) for size in input_shape)
    if len(shape) != 3 or min(shape) < 1:
        raise RlkitError(f"{model} takes images: input_shape must be (channels, height, width), not {shape}")
    return (shape[0], shape[1], shape[2])


def output_shape(model: str, layers: nn.Module, input_shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Returns the shape of the layers' output for one image, without computing the output.

    Raises RlkitError, which names the smallest square image that `model` can take, if this one is too small.
    """
    shape = _try(layers, input_shape)
    if shape is None:
        channels, *size = input_shape
        tried = range(min(size) + 1, LARGEST_TRIED)
        smallest = next((side for side in tried if _try(layers, (channels, side, side))), LARGEST_TRIED)
        raise RlkitError(
            f"images of {size[0]} x {size[1]} are too small for {model}: it needs at least {smallest} x {smallest}"
        )
    return shape


def _try(layers: nn.Module, shape: tuple[int, int, int]) -> tuple[int, ...] | None:
    """Returns the shape of the layers' output, found with tensors without data; None if the image is too small."""
    tensors = {name: tensor.to("meta") for name, tensor in [*layers.named_parameters(), *layers.named_buffers()]}
    training = layers.training
    layers.eval()
    try:
        output = functional_call(layers, tensors, (torch.empty(1, *shape, device="meta"),))
    except (RuntimeError, ValueError):
        return None
    finally:
        layers.train(training)
    return tuple(output.shape[1:]) if output.numel() else None


def check_images(model: str, images: Tensor, input_shape: tuple[int, int, int]) -> None:
    """Raises RlkitError unless `images` are (batch, *input_shape)."""
    expected, got = list(input_shape), list(images.shape)
    if got[1:] == expected:
        return
    if len(got) == 4 and got[2:] == expected[1:]:
        raise RlkitError(f"{model} was built for {expected[0]} channels (input_shape), but the images have {got[1]}")
    raise RlkitError(f"{model} was built for images of {expected} (input_shape), but got a batch of {got}")
