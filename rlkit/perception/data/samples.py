"""What a data set is: three parts, each of which hands out batches of inputs and targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from rlkit.errors import RlkitError, check_range


class Batch(NamedTuple):
    """Some samples."""

    inputs: Tensor
    """(batch, …)"""
    targets: Tensor
    """(batch,) labels, (batch, outputs) values, or whatever else the task learns from."""


class Samples(Protocol):
    """One part of a data set."""

    def __len__(self) -> int:
        """How many there are."""

    def batch(self, indices: Tensor) -> Batch:
        """Those samples: `indices` is a vector of integers."""

    def to(self, device: str) -> Samples:
        """The same samples, whose batches are on `device`."""


class TensorSamples:
    """Samples in memory."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        if len(inputs) != len(targets):
            raise RlkitError(f"there are {len(inputs)} inputs, but {len(targets)} targets")
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, indices: Tensor) -> Batch:
        """Those samples."""
        indices = indices.to(self.inputs.device)
        return Batch(self.inputs[indices], self.targets[indices])

    def to(self, device: str) -> TensorSamples:
        """A copy on the device: the data sets here fit into a GPU's memory."""
        return TensorSamples(self.inputs.to(device), self.targets.to(device))

    def select(self, indices: Tensor) -> TensorSamples:
        """Only those samples."""
        return TensorSamples(self.inputs[indices], self.targets[indices])


@dataclass(frozen=True)
class Data:
    """A data set: what is learned from, what chooses the best model, and what the result is measured on."""

    train: Samples
    validation: Samples | None
    """None: the model at the end is the result."""
    test: Samples
    input_shape: tuple[int, ...]
    """Of one sample; (channels, height, width) for images, whose values are bytes or from 0 to 1."""
    num_outputs: int = 1
    """Classes, or values to predict."""
    classes: tuple[str, ...] = ()
    """Names of the labels; none where values are predicted."""
    vocabulary: tuple[str, ...] = ()
    """Of texts: the word of each number."""
    vectors: Tensor | None = None
    """Of texts: pre-trained word vectors, (vocabulary, size)."""
    mean: tuple[float, ...] = ()
    """Of the training inputs, per channel or column; empty where standardising makes no sense."""
    std: tuple[float, ...] = ()

    def to(self, device: str) -> Data:
        """The same on the device."""
        validation = self.validation and self.validation.to(device)
        return replace(self, train=self.train.to(device), validation=validation, test=self.test.to(device))


def split(count: int, shares: Sequence[float], seed: int) -> list[Tensor]:
    """Random disjoint indices below `count`: one vector per share, and the rest last. The same seed, the same split.

    Raises RlkitError for shares that leave nothing, or make a part empty that should not be.
    """
    for share in shares:
        check_range("share of a split", share, 0, 1)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(count))
    sizes = [round(share * count) for share in shares]
    rest = count - sum(sizes)
    if rest < 1 or any(size < 1 and share > 0 for size, share in zip(sizes, shares, strict=True)):
        raise RlkitError(f"{count} samples cannot be split by the shares {list(shares)}: a part would be empty")
    return list(torch.split(order, [*sizes, rest]))


def image_data(
    images: Tensor,
    labels: Tensor,
    test_images: Tensor,
    test_labels: Tensor,
    classes: Sequence[str],
    *,
    validation: float,
    split_seed: int,
    limit: int | None = None,
    test_limit: int | None = None,
) -> Data:
    """Labelled images with a test part of their own; `validation` is the share of the rest that is not learned from.

    `limit` keeps only so many of the training images, `test_limit` of those for validation and of those for the test.
    Raises RlkitError for labels out of range.
    """
    for part in (labels, test_labels):
        check_labels(part, len(classes))
    check_range("data.limit", limit, 1)
    check_range("data.test_limit", test_limit, 1)
    check_range("data.validation", validation, 0, 0.9)
    validating, training = split(len(images), [validation], split_seed)
    training, validating = training[:limit], validating[:test_limit]
    train = TensorSamples(images[training], labels[training])
    mean, std = channel_statistics(train.inputs)
    return Data(
        train=train,
        validation=TensorSamples(images[validating], labels[validating]) if len(validating) else None,
        test=TensorSamples(test_images[:test_limit], test_labels[:test_limit]),
        input_shape=tuple(images.shape[1:]),
        num_outputs=len(classes),
        classes=tuple(classes),
        mean=mean,
        std=std,
    )


def check_labels(labels: Tensor, num_classes: int, where: str = "") -> None:
    """Raises RlkitError for labels that are not from 0 to num_classes - 1; `where` says which ones they are."""
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise RlkitError(
            f"{where}labels go from {int(labels.min())} to {int(labels.max())}: with {num_classes} classes they must "
            f"be from 0 to {num_classes - 1}"
        )


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of (batch, channels, …); bytes count as from 0 to 1."""
    scale = 255.0 if images.dtype == torch.uint8 else 1.0
    means, stds = [], []
    for channel in images.unbind(1):  # one at a time: as floats, all would take a lot of memory
        values = channel.float() / scale
        means.append(float(values.mean()))
        stds.append(max(float(values.std(correction=0)), 1e-6))
    return tuple(means), tuple(stds)
