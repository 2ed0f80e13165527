"""The interface of data sets: three parts, each of which hands out batches of inputs and targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from rlkit.errors import RlkitError, check_range

ROUNDING = 8 * torch.finfo(torch.float32).eps
"""Standard deviation, as a share of the largest value, below which numbers differ by their rounding only."""
WIDER = 2.0
"""Farthest distance from the mean that inputs keep, as a multiple of the farthest one in training."""
LARGEST_TARGET = 1e18
"""Largest value to predict, whose square 32 bits can still hold."""


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
    """Standard deviation of the training inputs, per channel or column; 1 where there is none."""
    limits: tuple[float, ...] = ()
    """Largest distance from the mean that inputs keep, in standard deviations, per channel or column; empty: any."""
    columns: tuple[str, ...] = ()
    """Names of the columns of a table, in their order; empty for other inputs."""
    notes: tuple[str, ...] = ()
    """Sentences for the user, such as on images that are new."""

    def __post_init__(self) -> None:
        if len(set(self.classes)) < len(self.classes):
            raise RlkitError(f"the classes are {', '.join(self.classes)}: expected each name once")

    def remarks(self) -> list[str]:
        """Returns sentences for the user: the notes, and the columns or channels that tell nothing."""
        names = self.columns or [f"channel {i}" for i in range(len(self.limits))]
        silent = [name for name, limit in zip(names, self.limits, strict=True) if limit == 0]
        told = f"the same in all samples to learn from, and so left out: {', '.join(silent)}"
        return [*self.notes, *([told] if silent else [])]

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
        raise RlkitError(
            f"{count} samples cannot be split by the shares {list(shares)}: a part would be empty; "
            "expected more samples, or a share of 0 where data.test or data.validation can have it"
        )
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
    mean, std, limits = channel_statistics(train.inputs)
    return Data(
        train=train,
        validation=TensorSamples(images[validating], labels[validating]) if len(validating) else None,
        test=TensorSamples(test_images[:test_limit], test_labels[:test_limit]),
        input_shape=tuple(images.shape[1:]),
        num_outputs=len(classes),
        classes=tuple(classes),
        mean=mean,
        std=std,
        limits=limits,
    )


def check_labels(labels: Tensor, num_classes: int, where: str = "") -> None:
    """Raises RlkitError for labels that are not from 0 to num_classes - 1; its message begins with `where`."""
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise RlkitError(
            f"{where}labels go from {int(labels.min())} to {int(labels.max())}: with {num_classes} classes they must "
            f"be from 0 to {num_classes - 1}"
        )


def check_numbers(data: Data) -> None:
    """Raises RlkitError for samples in memory that hold NaN or infinity, and for targets with infinite squares."""
    parts = {"training": data.train, "validation": data.validation, "test": data.test}
    for name, samples in parts.items():
        if not isinstance(samples, TensorSamples):
            continue
        for kind, values in (("inputs", samples.inputs), ("targets", samples.targets)):
            if not values.is_floating_point() or not values.numel():
                continue
            if not values.isfinite().all():
                first = int((~values.isfinite()).reshape(len(values), -1).any(1).nonzero()[0])
                raise RlkitError(f"the {name} {kind} have NaN or infinity, first in sample {first}: expected numbers")
            if kind == "targets" and (largest := float(values.abs().max())) > LARGEST_TARGET:
                raise RlkitError(
                    f"the {name} targets go up to {largest:g}, whose square 32 bits can't hold: expected at most "
                    f"{LARGEST_TARGET:g}, in larger units"
                )


class Spread(NamedTuple):
    """The mean of inputs, and how far they are from it, per channel or column."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Standard deviation; 1 where the inputs are constant."""
    limits: tuple[float, ...]
    """Largest distance from the mean that inputs keep, in standard deviations: 0 where they are constant."""


def column_statistics(columns: Tensor) -> Spread:
    """Returns the spread of the columns of a table, (samples, columns)."""
    return Spread(*(tuple(values) for values in zip(*map(_spread, columns.unbind(1)), strict=True)))


def channel_statistics(images: Tensor) -> Spread:
    """Returns the spread of the channels of (batch, channels, …); bytes are scaled to 0 … 1 first.

    There are no limits unless a pixel from 0 to 1 can exceed them.
    """
    scale = 255.0 if images.dtype == torch.uint8 else 1.0
    # One at a time, because all of them as floats would take a lot of memory.
    spread = [_spread(channel.float() / scale) for channel in images.unbind(1)]
    mean, std, limits = (tuple(values) for values in zip(*spread, strict=True))
    farthest = [max(m, 1 - m) / s for m, s in zip(mean, std, strict=True)]
    return Spread(mean, std, limits if any(f > limit for f, limit in zip(farthest, limits, strict=True)) else ())


def _spread(values: Tensor) -> tuple[float, float, float]:
    """Returns the mean of numbers, their standard deviation, and how far from the mean new ones are taken seriously.

    What is constant in training, up to rounding, tells nothing: its limit is 0. Elsewhere, new values can be WIDER as
    far from the mean as those in training.
    """
    if not values.std(correction=0).isfinite():  # their squares are too large for 32 bits
        values = values.double()
    mean, std = float(values.mean()), float(values.std(correction=0))
    low, high = float(values.min()), float(values.max())
    if std <= ROUNDING * max(abs(low), abs(high)):
        return mean, 1.0, 0.0
    return mean, std, WIDER * max(mean - low, high - mean) / std
