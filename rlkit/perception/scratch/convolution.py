"""Convolution, its gradients and pooling as explicit sums, and convolution as a product with a matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkit.errors import RlkitError, check_choice

Array = NDArray[Any]

KERNELS: dict[str, Array] = {
    "identity": np.array([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]),
    "sharpen": np.array([[0.0, -1, 0], [-1, 5, -1], [0, -1, 0]]),
    "blur": np.array([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16,
    "edge": np.array([[-1.0, -1, -1], [-1, 8, -1], [-1, -1, -1]]),
}
"""Well-known kernels by their effect on an image."""


def corr2d(image: Array, kernel: Array, stride: int = 1, padding: int = 0) -> Array:
    """Cross-correlation, which neural networks call convolution: o[i, j] = Σ image[si + a, sj + b] kernel[a, b].

    (h, w) and (kh, kw) -> (⌊(h + 2p − kh)/s⌋ + 1, …). Raises RlkitError for a kernel larger than the padded image.
    """
    image = np.pad(image, padding)
    height, width = _size(image, kernel.shape[0], kernel.shape[1], stride)
    output = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            window = image[i * stride : i * stride + kernel.shape[0], j * stride : j * stride + kernel.shape[1]]
            output[i, j] = (window * kernel).sum()
    return output


def convolve2d(image: Array, kernel: Array) -> Array:
    """Convolution as mathematics defines it, for which the kernel is turned by 180° first."""
    return corr2d(image, kernel[::-1, ::-1])


def corr2d_multi_in(image: Array, kernel: Array) -> Array:
    """Sum of the cross-correlations of all channels: (c, h, w) and (c, kh, kw) -> (h', w')."""
    total: Array = np.sum([corr2d(x, k) for x, k in zip(image, kernel, strict=True)], axis=0)
    return total


def corr2d_multi_in_out(image: Array, kernels: Array) -> Array:
    """Cross-correlation with one kernel per output channel: (c, h, w) and (o, c, kh, kw) -> (o, h', w')."""
    return np.stack([corr2d_multi_in(image, kernel) for kernel in kernels])


def corr2d_1x1(image: Array, kernels: Array) -> Array:
    """Convolution with 1 × 1 kernels, which is a linear layer at every pixel: (c, h, w) and (o, c) -> (o, h, w)."""
    channels, height, width = image.shape
    return (kernels @ image.reshape(channels, -1)).reshape(-1, height, width)


def pool2d(image: Array, size: int, stride: int | None = None, mode: str = "max") -> Array:
    """Pooling: the maximum (`max`) or mean (`avg`) of every window, (h, w) -> (h', w').

    Without a `stride`, windows stand side by side. Raises RlkitError for windows larger than the image.
    """
    check_choice("mode", mode, ["max", "avg"])
    stride = stride or size
    height, width = _size(image, size, size, stride)
    output = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            window = image[i * stride : i * stride + size, j * stride : j * stride + size]
            output[i, j] = window.max() if mode == "max" else window.mean()
    return output


def kernel_gradient(image: Array, output_gradient: Array) -> Array:
    """Gradient ∂L/∂kernel[a, b] = Σ ∂L/∂o[i, j] image[i + a, j + b]: the image correlated with the output gradient."""
    return corr2d(image, output_gradient)


def image_gradient(kernel: Array, output_gradient: Array) -> Array:
    """Gradient ∂L/∂image, which spreads each output pixel's gradient over its window: a transposed convolution."""
    return transposed2d(output_gradient, kernel)


def transposed2d(image: Array, kernel: Array, stride: int = 1, padding: int = 0) -> Array:
    """Transposed convolution: adds image[i, j] · kernel to the output at (si, sj), then cuts `padding` off each side.

    (h, w) -> ((h − 1)s + kh − 2p, …). It undoes the change of shape that `corr2d` with this stride and padding makes,
    but not the change of values.
    """
    height, width = image.shape
    output = np.zeros(((height - 1) * stride + kernel.shape[0], (width - 1) * stride + kernel.shape[1]))
    for i in range(height):
        for j in range(width):
            rows = slice(i * stride, i * stride + kernel.shape[0])
            output[rows, j * stride : j * stride + kernel.shape[1]] += image[i, j] * kernel
    end = (output.shape[0] - padding, output.shape[1] - padding)
    return output[padding : end[0], padding : end[1]]


def matrix_of(kernel: Array, shape: tuple[int, int], stride: int = 1) -> Array:
    """Matrix W with corr2d(image, kernel) = W · image, both as vectors; Wᵀ is the transposed convolution."""
    columns = []
    for pixel in range(shape[0] * shape[1]):
        unit = np.zeros(shape[0] * shape[1])
        unit[pixel] = 1
        columns.append(corr2d(unit.reshape(shape), kernel, stride).ravel())
    return np.stack(columns, axis=1)


def _size(image: Array, height: int, width: int, stride: int) -> tuple[int, int]:
    if height > image.shape[0] or width > image.shape[1]:
        raise RlkitError(
            f"a window of {height} x {width} is larger than the image, {image.shape[0]} x {image.shape[1]}"
        )
    return (image.shape[0] - height) // stride + 1, (image.shape[1] - width) // stride + 1
