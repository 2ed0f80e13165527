"""Images of the user's own, in a folder per class, with an index in a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlkit.errors import RlkitError, check_range
from rlkit.perception.data.root import locate
from rlkit.perception.data.samples import (
    Batch,
    Data,
    Samples,
    TensorSamples,
    channel_statistics,
    check_labels,
    split,
)
from rlkit.runs.files import write_text

INDEX = "images.csv"
"""File with the path and the label of every image."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
"""Endings of the files that are taken for images."""


class FileSamples:
    """Images that are read from their files anew for every batch, because all of them may not fit into memory."""

    def __init__(self, files: Sequence[Path], labels: Tensor, size: int, device: str = "cpu") -> None:
        self.files, self.labels, self.size, self.device = files, labels, size, device

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, indices: Tensor) -> Batch:
        """Reads the images with these indices, (batch, 3, size, size) bytes; raises RlkitError if one is damaged."""
        with ThreadPoolExecutor(4) as readers:  # threads help, because decoding releases Python's lock
            images = list(readers.map(lambda i: read_image(self.files[i], self.size), indices.tolist()))
        return Batch(torch.stack(images).to(self.device), self.labels[indices].to(self.device))

    def to(self, device: str) -> FileSamples:
        """Returns samples of these files whose batches are on `device`."""
        return FileSamples(self.files, self.labels, self.size, device)


def image_folder(
    *,
    data_root: Path | None = None,
    folder: str = "environments",
    image_size: int = 64,
    in_memory: bool = True,
    validation: float = 0.2,
    test: float = 0.2,
    split_seed: int = 0,
) -> Data:
    """Images of one's own in `<data_root>/<folder>/<class>/`, with an index `images.csv` of their paths and labels.

    The classes are the names of the folders, in alphabetical order. The index is written if there is none. `in_memory`
    reads all images once, at the beginning. Raises RlkitError for labels out of range and for files that are missing or
    damaged.
    """
    check_range("data.image_size", image_size, 1)
    root = locate(data_root, folder, [])
    if not root.is_dir():
        raise RlkitError(
            f"there is no folder {root}: expected a folder in it for each class; "
            f"`python -m rlkit.perception.fetch environments data_root={data_root or 'FOLDER'}` makes an example"
        )
    classes = sorted(path.name for path in root.iterdir() if path.is_dir())
    if len(classes) < 2:
        raise RlkitError(f"{root} has {len(classes)} folders: expected one for each of two classes or more")
    if not (root / INDEX).exists():
        write_index(root, classes)
    files, labels = read_index(root, classes)
    testing, validating, training = split(len(files), [test, validation], split_seed)
    parts: list[Samples] = []
    for indices in (training, validating, testing):
        part = FileSamples([files[i] for i in indices.tolist()], labels[indices], image_size)
        everything = part.batch(torch.arange(len(part))) if in_memory and len(part) else None
        parts.append(TensorSamples(*everything) if everything else part)
    some = parts[0].batch(torch.arange(min(len(parts[0]), 500)))
    mean, std = channel_statistics(some.inputs)
    return Data(
        train=parts[0],
        validation=parts[1] if len(validating) else None,
        test=parts[2],
        input_shape=(3, image_size, image_size),
        num_outputs=len(classes),
        classes=tuple(classes),
        mean=mean,
        std=std,
    )


def write_index(root: Path, classes: Sequence[str]) -> None:
    """Writes the path and the label of every image in the classes' folders; raises RlkitError if there is no image."""
    rows = [
        (path.relative_to(root).as_posix(), label)
        for label, name in enumerate(classes)
        for path in sorted((root / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if not rows:
        raise RlkitError(f"{root} has no images: expected files that end in {', '.join(SUFFIXES)} in its folders")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label"])
    writer.writerows(rows)
    write_text(root / INDEX, text.getvalue())


def read_index(root: Path, classes: Sequence[str]) -> tuple[list[Path], Tensor]:
    """Reads the files and their labels, (n,); raises RlkitError for a wrong row, or one whose file is missing."""
    files, labels = [], []
    with (root / INDEX).open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not {"path", "label"} <= set(rows.fieldnames or ()):
            raise RlkitError(f"{root / INDEX} has the columns {rows.fieldnames}: expected path and label")
        for number, row in enumerate(rows, 1):
            label = row["label"] or ""
            if not label.isdecimal():
                raise RlkitError(f"{root / INDEX}: row {number} has the label {row['label']!r}: expected a number")
            path = root / row["path"]
            if not path.is_file():
                raise RlkitError(f"{root / INDEX}: row {number} names {row['path']}, which is missing")
            files.append(path)
            labels.append(int(label))
    numbers = torch.tensor(labels)
    check_labels(numbers, len(classes), f"{root / INDEX}: ")
    return files, numbers


def read_image(path: Path, size: int) -> Tensor:
    """Reads a file's image in colours as (3, size, size) bytes, shrunk or enlarged.

    Raises RlkitError for a file that is no image, or damaged.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            resized = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
            return torch.from_numpy(np.asarray(resized).transpose(2, 0, 1).copy())
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's for damaged PNG files
        raise RlkitError(f"{path} is no image, or damaged: {error}") from error
