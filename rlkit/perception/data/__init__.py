"""Data sets by name; each is a function of a few keyword values, which a configuration file can hold."""

from __future__ import annotations

from collections.abc import Callable

from rlkit.perception.data.folder import image_folder
from rlkit.perception.data.images import cifar10, digits, fashion_mnist, mnist
from rlkit.perception.data.language import text
from rlkit.perception.data.rendering import frames
from rlkit.perception.data.samples import Batch, Data, Samples, TensorSamples
from rlkit.perception.data.synthetic import gaussians, linear, moons, nothing, sine, stripes
from rlkit.perception.data.tables import auto_mpg
from rlkit.perception.data.text import imdb

__all__ = ["DATASETS", "Batch", "Data", "Samples", "TensorSamples"]

DATASETS: dict[str, Callable[..., Data]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "imdb": imdb,
    "text": text,
    "auto_mpg": auto_mpg,
    "image_folder": image_folder,
    "frames": frames,
    "moons": moons,
    "gaussians": gaussians,
    "linear": linear,
    "sine": sine,
    "stripes": stripes,
    "nothing": nothing,
}
"""All choices of `data=` by name. Functions that read files take `data_root`."""
