"""Images of the user's own, in a folder per class, with an index in a CSV file."""

from __future__ import annotations

import csv
import io
import os
import struct
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rlkit.errors import RlkitError, check_range, unknown
from rlkit.perception.data.readers import read_table
from rlkit.perception.data.root import locate
from rlkit.perception.data.samples import (
    Batch,
    Data,
    Samples,
    TensorSamples,
    channel_statistics,
    split,
)
from rlkit.runs.files import write_text

if TYPE_CHECKING:
    from PIL.Image import Image

INDEX = "images.csv"
"""File with the path and the class of every image."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
"""Endings of the files that are taken for images."""
LEFT_BEHIND = (
    "__MACOSX",
    "@eaDir",
    "lost+found",
    "$RECYCLE.BIN",
    "System Volume Information",
    "Thumbs.db",
    "desktop.ini",
)
"""Names of what systems leave in folders, beside all names that begin with a dot: neither classes nor images."""


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
    """Images of one's own in `<data_root>/<folder>/<class>/`, with an index `images.csv` of their paths and classes.

    The classes are the names of the folders, in alphabetical order, unless the index says otherwise; hidden folders and
    files are left out. The index is written if there is none. Images that are new since then are read and added to it,
    and the data set's notes say so. `in_memory` reads all images once, at the beginning. Raises RlkitError for an index
    that cannot be right, for a folder without images, and for images that are missing or damaged.
    """
    check_range("data.image_size", image_size, 1)
    root = locate(data_root, folder, [])
    if not root.is_dir():
        raise RlkitError(
            f"there is no folder {root}: expected a folder in it for each class; "
            f"`python -m rlkit.perception.fetch environments data_root={data_root or 'FOLDER'}` makes an example"
        )
    index, notes = find_images(root)
    classes = sorted(set(index.values()))
    if len(classes) < 2:
        raise RlkitError(f"{root} has images of {len(classes)} class: expected a folder for each of two or more")
    files = [root / path for path in index]
    labels = torch.tensor([classes.index(name) for name in index.values()])
    testing, validating, training = split(len(files), [test, validation], split_seed)
    parts: list[Samples] = []
    for indices in (training, validating, testing):
        part = FileSamples([files[i] for i in indices.tolist()], labels[indices], image_size)
        everything = part.batch(torch.arange(len(part))) if in_memory and len(part) else None
        parts.append(TensorSamples(*everything) if everything else part)
    some = parts[0].batch(torch.arange(min(len(parts[0]), 500)))
    mean, std, limits = channel_statistics(some.inputs)
    return Data(
        train=parts[0],
        validation=parts[1] if len(validating) else None,
        test=parts[2],
        input_shape=(3, image_size, image_size),
        num_outputs=len(classes),
        classes=tuple(classes),
        mean=mean,
        std=std,
        limits=limits,
        notes=notes,
    )


def find_images(root: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Returns the class of every image by its path from `root`, and sentences on what has changed since the last time.

    Raises RlkitError when an image of the index is missing, or its class has no folder while others' have.
    """
    there, notes = scan(root)
    if not (root / INDEX).exists():
        return there, (*notes, *write_index(root, there))
    index = read_index(root)
    if gone := [path for path in index if not (root / path).is_file()]:
        raise RlkitError(
            f"{root / INDEX} names {len(gone)} images that are missing, such as {gone[0]}: put them back, or remove "
            f"{INDEX}, which is then written anew"
        )
    folders, classes = set(there.values()), set(index.values())
    if classes & folders and (strange := sorted(classes - folders)):
        raise unknown(f"class in {root / INDEX}", strange[0], folders)
    if new := {path: name for path, name in there.items() if path not in index}:
        appeared = sorted(set(new.values()) - classes)
        also = f", and the class {' and '.join(appeared)}" if appeared else ""
        notes = (*notes, f"{len(new)} images are new since {INDEX} was written, such as {next(iter(new))}{also}")
        index |= new
        notes = (*notes, *write_index(root, index))
    return index, notes


def scan(root: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Returns the class of every image in the visible folders, sorted by path, and a sentence on files left out.

    Raises RlkitError for a folder without images.
    """
    found: dict[str, str] = {}
    others = Counter[str]()
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name)):
        before = len(found)
        for path in sorted(folder.rglob("*")):
            if path.is_dir() or any(map(is_hidden, path.relative_to(root).parts)):
                continue
            if path.suffix.lower() in SUFFIXES:
                found[path.relative_to(root).as_posix()] = folder.name
            else:
                others[path.suffix.lower() or path.name] += 1
        if len(found) == before:
            raise RlkitError(
                f"{folder} has no images: expected files that end in {', '.join(SUFFIXES)}; a folder that is no class "
                f"is left out if its name begins with a dot"
            )
    if not others:
        return found, ()
    return found, (f"{others.total()} files are no images, by their endings: {', '.join(sorted(others))}",)


def is_hidden(name: str) -> bool:
    """True for a file or folder that a system keeps for itself: `.ipynb_checkpoints`, `._x.png`, `Thumbs.db`."""
    return name.startswith(".") or name in LEFT_BEHIND


def write_index(root: Path, index: Mapping[str, str]) -> tuple[str, ...]:
    """Writes the path and the class of every image; returns a sentence if the folder can't be written to."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "class"])
    writer.writerows(index.items())
    try:
        write_text(root / INDEX, text.getvalue())
    except RlkitError as error:
        return (f"{error}, so that changes of the folder will not be noticed",)
    return ()


def read_index(root: Path) -> dict[str, str]:
    """Reads the class of every image by its path, from the column `class`, or `label` with names or numbers.

    Raises RlkitError for a row without a class, for two rows that contradict each other, and for numbers that don't
    tell classes.
    """
    found: dict[str, str] = {}
    column = "class"
    for number, row in enumerate(read_table(root / INDEX, ["path"]), 1):
        column = "class" if "class" in row else "label"
        if column not in row:
            raise RlkitError(f"{root / INDEX} has the columns {list(row)}: expected path and class")
        path, name = path_from(root, row["path"].strip()), row[column].strip()
        if not name or found.setdefault(path, name) != name:
            raise RlkitError(f"{root / INDEX}: row {number} gives {path} the {column} {name!r}: expected one class")
    if column == "label" and all(name.isdecimal() for name in found.values()):
        return _named_by_folder(root / INDEX, found)
    return found


def path_from(root: Path, given: str) -> str:
    """Returns a path of an index as `scan` spells it, so that no image counts twice, and once for the test.

    Indices have `.\\cats\\1.png` from Windows, `./cats/1.png` from `find`, and paths from the system's root.
    """
    if "\\" in given and not (root / given).is_file():
        given = given.replace("\\", "/")
    return Path(os.path.relpath(root / given, root)).as_posix()


def _named_by_folder(file: Path, numbers: Mapping[str, str]) -> dict[str, str]:
    """Returns the classes of images whose labels are numbers, as earlier versions wrote them into the index.

    Such a number counted the folders of its time, which may have changed. So it stands for the folder that all of its
    images are in. Raises RlkitError if there is no such folder.
    """
    named = {path: path.split("/")[0] for path in numbers if "/" in path}
    pairs = {(numbers[path], named.get(path)) for path in numbers}
    labels, folders = Counter(number for number, _ in pairs), Counter(folder for _, folder in pairs)
    for number, folder in sorted(pairs, key=str):
        if folder is None or labels[number] > 1 or folders[folder] > 1:
            raise RlkitError(
                f"{file}: label {number} does not stand for one folder, so that its class is not known: call the column"
                f" `class` and write the classes' names into it"
            )
    return named


def read_image(path: Path, size: int) -> Tensor:
    """Reads a file's picture as it is seen, in colours as (3, size, size) bytes, shrunk or enlarged.

    Raises RlkitError for a file that is no image, or damaged.
    """
    from PIL import Image

    try:
        if not path.is_file():
            raise OSError("expected a file")
        with Image.open(path) as image:
            resized = as_seen(image).resize((size, size), Image.Resampling.BILINEAR)
            return torch.from_numpy(np.asarray(resized).transpose(2, 0, 1).copy())
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's for damaged PNG files
        raise RlkitError(f"{path} is no image, or damaged: {error}") from error


def as_seen(image: Image) -> Image:
    """Returns an opened picture as viewers show it, in 8-bit colours: upright, its first frame, on white paper.

    Raises ValueError for pixels of 32 bits, of which no file says how large white is.
    """
    from PIL import Image, ImageOps

    kind = image.format
    warnings.filterwarnings("ignore", module=r"PIL\.")  # on damaged notes, which are passed over below
    with suppress(SyntaxError, ValueError, TypeError, KeyError, struct.error):  # damaged notes on a picture that is not
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        values, transparent = np.asarray(image), image.info.get("transparency")
        image = Image.fromarray(np.where(values == transparent, 255, (values / 257).round()).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("it has 32 bits per pixel: expected 8 or 16")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
