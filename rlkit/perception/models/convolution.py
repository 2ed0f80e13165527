"""Variants of convolution: dilated, transposed and depthwise separable."""

from __future__ import annotations

from torch import nn

from rlkit.errors import check_range
from rlkit.perception.models.layers import activation as make_activation


def dilated_block(
    inputs: int, outputs: int, *, kernel: int = 3, dilation: int = 2, activation: str = "relu"
) -> nn.Sequential:
    """Makes a dilated convolution with activation: (batch, inputs, h, w) -> (batch, outputs, h, w).

    Its kernel has holes and spans dilation · (kernel − 1) + 1 pixels, so that it sees farther with the same number of
    weights. Dilations that share a factor in consecutive layers leave pixels unseen ("gridding"): take 1, 2, 5 rather
    than 2, 4, 8. Raises RlkitError for an even kernel, which can't keep the size.
    """
    check_range("dilation", dilation, 1)
    padding = same_padding(kernel, dilation)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation), make_activation(activation)
    )


def transposed_block(
    inputs: int, outputs: int, *, kernel: int = 4, stride: int = 2, activation: str = "relu", batch_norm: bool = True
) -> nn.Sequential:
    """Makes a transposed convolution: (batch, inputs, h, w) -> (batch, outputs, stride · h, stride · w).

    Decoders and generators enlarge images with it. Raises RlkitError if kernel − stride is odd or negative, because no
    padding gives that size then.
    """
    check_range("kernel - stride", kernel - stride, 0)
    check_range("(kernel - stride) % 2", (kernel - stride) % 2, 0, 0)
    layers: list[nn.Module] = [
        nn.ConvTranspose2d(inputs, outputs, kernel, stride, (kernel - stride) // 2, bias=not batch_norm)
    ]
    if batch_norm:
        layers.append(nn.BatchNorm2d(outputs))
    return nn.Sequential(*layers, make_activation(activation))


def separable_conv(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, bias: bool = False) -> nn.Sequential:
    """Makes a depthwise separable convolution: (batch, inputs, h, w) -> (batch, outputs, h/stride, w/stride).

    One kernel per channel is followed by a 1 × 1 convolution across channels. That takes k²·inputs + inputs·outputs
    weights instead of k²·inputs·outputs.
    """
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, kernel, stride, same_padding(kernel), groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1, bias=bias),
    )


def same_padding(kernel: int, dilation: int = 1) -> int:
    """Returns the padding with which a kernel of odd size keeps an image's size; raises RlkitError for an even one."""
    check_range("kernel % 2", kernel % 2, 1)
    return dilation * (kernel - 1) // 2
