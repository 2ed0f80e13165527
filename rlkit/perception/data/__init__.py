"""Data sets by name, each of a few keyword values that a configuration file can hold."""

from __future__ import annotations

from collections.abc import Callable

from rlkit.perception.data.images import cifar10, digits, fashion_mnist, mnist
from rlkit.perception.data.samples import Batch, Data, Samples, TensorSamples

__all__ = ["DATASETS", "Batch", "Data", "Samples", "TensorSamples"]

DATASETS: dict[str, Callable[..., Data]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
}
"""Every `data=` choice. Those that are in files take `data_root`."""
