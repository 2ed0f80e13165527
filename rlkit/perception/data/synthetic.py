"""Data sets that are drawn at random when they are needed; equal seeds give equal samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from rlkit.errors import check_range
from rlkit.perception.data.samples import Data, TensorSamples, split


def moons(
    *,
    count: int = 1000,
    noise: float = 0.25,
    seed: int = 100,
    validation: float = 0.1,
    test: float = 0.3,
    split_seed: int = 42,
) -> Data:
    """Points of the plane on two half circles that reach into each other, one for each class.

    The test samples are those that scikit-learn's `train_test_split` chooses, so that results can be compared with
    others'.
    """
    from sklearn.datasets import make_moons

    check_range("data.count", count, 10)
    points, labels = make_moons(count, noise=noise, random_state=seed)
    check_range("data.test", test, 0, 0.99)
    order = np.random.RandomState(split_seed).permutation(count)  # scikit-learn's shuffle, with the test samples first
    testing, rest = np.split(order, [math.ceil(test * count)])
    validating, training = split(len(rest), [validation], split_seed)
    return _parts(points, labels, 2, [rest[training.numpy()], rest[validating.numpy()], testing])


def gaussians(
    *,
    count: int = 10_000,
    modes: int = 8,
    radius: float = 2.0,
    std: float = 0.02,
    seed: int = 0,
    validation: float = 0.1,
    test: float = 0.2,
    split_seed: int = 0,
) -> Data:
    """Points around `modes` places on a circle, of which a generator that collapses covers only some."""
    check_range("data.count", count, 10)
    check_range("data.modes", modes, 1)
    generator = np.random.default_rng(seed)
    labels = generator.integers(modes, size=count)
    angles = 2 * math.pi * labels / modes
    centres = radius * np.stack([np.cos(angles), np.sin(angles)], 1)
    points = centres + std * generator.standard_normal((count, 2))
    testing, validating, training = split(count, [test, validation], split_seed)
    return _parts(points, labels, modes, [training.numpy(), validating.numpy(), testing.numpy()])


def linear(
    *,
    count: int = 1000,
    weights: Sequence[float] = (2.0, -3.4),
    bias: float = 4.2,
    noise: float = 0.01,
    uniform: float | None = None,
    seed: int = 0,
) -> Data:
    """A linear function with noise, y = weights · x + bias + noise; x is standard normal, or uniform in ± `uniform`.

    All `count` samples are for training. As many test samples are drawn anew, and there are none for validation.
    """
    w = torch.tensor([float(weight) for weight in weights])

    def inputs(generator: torch.Generator) -> Tensor:
        if uniform is not None:
            return uniform * (2 * torch.rand(count, len(w), generator=generator) - 1)
        return torch.randn(count, len(w), generator=generator)

    return _function(inputs, lambda x: (x @ w + bias).unsqueeze(1), noise, count, seed)


def sine(
    *, count: int = 120, frequency: float = 1.2, noise: float = 0.3, low: float = -1.0, high: float = 1.0, seed: int = 0
) -> Data:
    """A sine with noise, y = sin(frequency · π · x) + noise, with x uniform between `low` and `high`.

    All `count` samples are for training. As many test samples are drawn anew, and there are none for validation.
    """

    def inputs(generator: torch.Generator) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, generator=generator)

    return _function(inputs, lambda x: torch.sin(frequency * math.pi * x), noise, count, seed)


def stripes() -> Data:
    """One white image of 6 × 8 pixels with a black middle; the targets are its vertical edges, which a kernel learns.

    They are +1 between a white pixel and a black one to its right, −1 the other way round, and 0 elsewhere. The kernel
    (1, −1) computes them.
    """
    image = torch.ones(1, 1, 6, 8)
    image[..., 2:6] = 0
    samples = TensorSamples(image, image[..., :-1] - image[..., 1:])
    return Data(train=samples, validation=None, test=samples, input_shape=(1, 6, 8))


def nothing() -> Data:
    """One sample without values, for functions that are minimised without data."""
    samples = TensorSamples(torch.zeros(1, 0), torch.zeros(1, 0))
    return Data(train=samples, validation=None, test=samples, input_shape=(0,))


def _parts(points: np.ndarray, labels: np.ndarray, classes: int, parts: Sequence[np.ndarray]) -> Data:
    """Makes a data set of labelled points; `parts` are the indices for training, validation and test."""
    part = [TensorSamples(torch.from_numpy(points[i]).float(), torch.from_numpy(labels[i]).long()) for i in parts]
    return Data(
        train=part[0],
        validation=part[1] if len(part[1]) else None,
        test=part[2],
        input_shape=(2,),
        num_outputs=classes,
        classes=tuple(str(label) for label in range(classes)),
    )


def _function(
    inputs: Callable[[torch.Generator], Tensor],
    function: Callable[[Tensor], Tensor],
    noise: float,
    count: int,
    seed: int,
) -> Data:
    """Makes a data set of a function with noise: `count` samples for training, and as many for the test."""
    check_range("data.count", count, 1)
    check_range("data.noise", noise, 0)
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for _ in range(2):
        x = inputs(generator)
        parts.append(TensorSamples(x, function(x) + noise * torch.randn(count, 1, generator=generator)))
    return Data(train=parts[0], validation=None, test=parts[1], input_shape=tuple(parts[0].inputs.shape[1:]))
