"""The interface of data sets: three parts, each of which hands out batches of inputs and targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from rlkit.errors import RlkitError, check_range


class Batch(NamedTuple):
    """Inputs and targets of some samples."""

    inputs: Tensor
    """Inputs, (batch, …)."""
    targets: Tensor
    """Labels, (batch,), values, (batch, outputs), or whatever else the task learns from."""


class Samples(Protocol):
    """One part of a data set: training, validation or test."""

    def __len__(self) -> int:
        """Number of samples."""

    def batch(self, indices: Tensor) -> Batch:
        """Returns the samples with these indices, a vector of integers."""

    def to(self, device: str) -> Samples:
        """Returns a copy whose batches are on `device`."""


class TensorSamples:
    """Samples that are held in memory as two tensors."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        if len(inputs) != len(targets):
            raise RlkitError(f"there are {len(inputs)} inputs, but {len(targets)} targets")
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, indices: Tensor) -> Batch:
        """Returns the samples with these indices."""
        indices = indices.to(self.inputs.device)
        return Batch(self.inputs[indices], self.targets[indices])

    def to(self, device: str) -> TensorSamples:
        """Returns a copy on the device; all of it, as the data sets here fit into a GPU's memory."""
        return TensorSamples(self.inputs.to(device), self.targets.to(device))

    def select(self, indices: Tensor) -> TensorSamples:
        """Returns only the samples with these indices."""
        return TensorSamples(self.inputs[indices], self.targets[indices])


@dataclass(frozen=True)
class Data:
    """A data set in three parts, with the facts about it that models need."""

    train: Samples
    """Samples that the model learns from."""
    validation: Samples | None
    """Samples that choose the best model; with None, the model at the end is the result."""
    test: Samples
    """Samples on which the result is measured."""
    input_shape: tuple[int, ...]
    """Shape of one input; (channels, height, width) for images, whose values are bytes or floats from 0 to 1."""
    num_outputs: int = 1
    """Number of classes, or of values to predict."""
    classes: tuple[str, ...] = ()
    """Names of the labels; empty where values are predicted."""
    vocabulary: tuple[str, ...] = ()
    """Words in the order of their numbers; empty unless the inputs are texts."""
    vectors: Tensor | None = None
    """Pre-trained vectors of the words, (vocabulary, size), where there are any."""
    mean: tuple[float, ...] = ()
    """Mean of the training inputs, per channel or column; empty where standardising makes no sense."""
    std: tuple[float, ...] = ()
    """Standard deviation of the training inputs, per channel or column."""
    notes: tuple[str, ...] = ()
    """Sentences for the user, such as on images that are new."""

    def to(self, device: str) -> Data:
        """Returns a copy of all three parts on the device."""
        validation = self.validation and self.validation.to(device)
        return replace(self, train=self.train.to(device), validation=validation, test=self.test.to(device))


def split(count: int, shares: Sequence[float], seed: int) -> list[Tensor]:
    """Splits the indices below `count` at random: returns one vector per share, and the remaining indices last.

    Equal seeds give equal splits. Raises RlkitError if nothing would remain, or if a share above 0 would be empty.
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
    """Makes a data set of labelled images; `validation` is the share of `images` that is kept for validation.

    At most `limit` images are kept for training, and at most `test_limit` each for validation and for the test. Raises
    RlkitError for labels out of range.
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
    """Raises RlkitError for labels that are not from 0 to num_classes - 1; its message begins with `where`."""
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise RlkitError(
            f"{where}labels go from {int(labels.min())} to {int(labels.max())}: with {num_classes} classes they must "
            f"be from 0 to {num_classes - 1}"
        )


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation per channel of (batch, channels, …); bytes are scaled to 0 … 1 first."""
    scale = 255.0 if images.dtype == torch.uint8 else 1.0
    means, stds = [], []
    for channel in images.unbind(1):  # one at a time, because all of them as floats would take a lot of memory
        values = channel.float() / scale
        means.append(float(values.mean()))
        stds.append(max(float(values.std(correction=0)), 1e-6))
    return tuple(means), tuple(stds)
