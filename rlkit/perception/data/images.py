"""Labelled images: the digits that scikit-learn brings, and MNIST, Fashion-MNIST and CIFAR-10 from files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rlkit.errors import RlkitError
from rlkit.perception.data.formats import check_equally_long, read_cifar, read_idx
from rlkit.perception.data.readers import existing
from rlkit.perception.data.root import locate
from rlkit.perception.data.samples import Data, check_labels, image_data, split

DIGITS = tuple("0123456789")
FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def digits(*, validation: float = 0.1, test: float = 0.2, split_seed: int = 0, image_size: int = 8) -> Data:
    """1,797 handwritten digits of 8 x 8 pixels, which come with scikit-learn; `image_size` enlarges them."""
    from sklearn.datasets import load_digits

    sheet = load_digits()
    images = torch.from_numpy(sheet.images).float().unsqueeze(1) / 16  # (n, 1, 8, 8), from 0 to 1
    if image_size != 8:
        size = (image_size, image_size)
        images = torch.nn.functional.interpolate(images, size, mode="bilinear", align_corners=False)
    labels = torch.from_numpy(sheet.target).long()
    testing, rest = split(len(images), [test], split_seed)
    return image_data(
        *(images[rest], labels[rest], images[testing], labels[testing], DIGITS),
        validation=validation,
        split_seed=split_seed,
    )


def mnist(
    *,
    data_root: Path | None = None,
    validation: float = 0.1,
    split_seed: int = 0,
    limit: int | None = None,
    test_limit: int | None = None,
) -> Data:
    """60,000 + 10,000 handwritten digits of 28 x 28 pixels (LeCun et al. 1998), from idx files."""
    return _idx("mnist", DIGITS, data_root, validation, split_seed, limit, test_limit)


def fashion_mnist(
    *,
    data_root: Path | None = None,
    validation: float = 0.1,
    split_seed: int = 0,
    limit: int | None = None,
    test_limit: int | None = None,
) -> Data:
    """60,000 + 10,000 pieces of clothing of 28 x 28 pixels (Xiao et al. 2017), from idx files."""
    return _idx("fashion-mnist", FASHION, data_root, validation, split_seed, limit, test_limit)


def cifar10(
    *,
    data_root: Path | None = None,
    validation: float = 0.1,
    split_seed: int = 0,
    limit: int | None = None,
    test_limit: int | None = None,
) -> Data:
    """50,000 + 10,000 photographs of 32 x 32 pixels (Krizhevsky 2009), from files in the binary format."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)]
    folder = locate(data_root, "cifar10", [f"cifar-10-batches-bin/{name}" for name in [*names, "test_batch.bin"]])
    folder /= "cifar-10-batches-bin"
    files = [folder / name for name in [*names, "test_batch.bin"]]
    check_equally_long(files)
    images, labels = read_cifar(files[:-1])
    test_images, test_labels = read_cifar(files[-1:])
    return image_data(
        *(images, labels, test_images, test_labels, CIFAR10),
        validation=validation,
        split_seed=split_seed,
        limit=limit,
        test_limit=test_limit,
    )


def _idx(
    name: str,
    classes: tuple[str, ...],
    data_root: Path | None,
    validation: float,
    split_seed: int,
    limit: int | None,
    test_limit: int | None,
) -> Data:
    parts = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    folder = locate(data_root, name, parts)
    sheets: list[tuple[Tensor, Tensor]] = []
    for images, labels in (parts[:2], parts[2:]):
        values = read_idx(existing(folder / images), 3).unsqueeze(1)
        kinds = read_idx(existing(folder / labels), 1).long()
        if len(values) != len(kinds):
            raise RlkitError(f"{folder}: {images} has {len(values)} images, but {labels} has {len(kinds)} labels")
        check_labels(kinds, len(classes), f"{folder / labels}: ")
        sheets.append((values, kinds))
    (train, test) = sheets
    return image_data(
        *(*train, *test, classes), validation=validation, split_seed=split_seed, limit=limit, test_limit=test_limit
    )
