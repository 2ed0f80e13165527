"""Readers for files as the authors of data sets publish them, which check all that they read."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlkit.errors import RlkitError

IDX_BYTES = 0x08
"""The type code of unsigned bytes, in the third byte of an idx file."""


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Reads the array of bytes in an idx file, gzipped or not, which must have this number of `dimensions`.

    The format: two zero bytes, a type code, the number of dimensions, each size as a big-endian 32-bit integer, the
    values (yann.lecun.com/exdb/mnist). Raises RlkitError for anything else, and for a file that is too short or long.
    """
    raw = read_bytes(path)
    magic = struct.pack(">HBB", 0, IDX_BYTES, dimensions)
    if raw[:4] != magic:
        raise RlkitError(
            f"{path} is no idx file of {dimensions} dimensions: it starts with {raw[:4].hex() or 'nothing'}, not "
            f"{magic.hex()}"
        )
    header = 4 + 4 * dimensions
    if len(raw) < header:
        raise RlkitError(f"{path} is truncated: its header alone takes {header} bytes, the file has {len(raw)}")
    shape = struct.unpack(f">{dimensions}I", raw[4:header])
    expected = header + int(np.prod(shape))
    if len(raw) != expected:
        raise wrong_size(path, len(raw), expected)
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=header).reshape(shape).copy())


def read_cifar(paths: Sequence[Path], num_classes: int = 10) -> tuple[Tensor, Tensor]:
    """Reads images (n, 3, 32, 32) as bytes, and labels (n,), from files in CIFAR-10's binary format.

    The format: per image one label byte and 3072 bytes, red, green and blue, each row by row
    (cs.toronto.edu/~kriz/cifar.html). Raises RlkitError for a file that is no multiple of 3073 bytes long, and for
    labels out of range.
    """
    record = 1 + 3 * 32 * 32
    parts = []
    for path in paths:
        raw = read_bytes(path)
        if not raw or len(raw) % record:
            raise wrong_size(path, len(raw), (len(raw) // record + 1) * record)
        parts.append(np.frombuffer(raw, np.uint8).reshape(-1, record))
        if (largest := int(parts[-1][:, 0].max())) >= num_classes:
            raise RlkitError(
                f"{path} has the label {largest}: with {num_classes} classes the largest is {num_classes - 1}"
            )
    rows = np.concatenate(parts)
    return torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32).copy()), torch.from_numpy(rows[:, 0].astype(np.int64))


def check_equally_long(paths: Sequence[Path]) -> None:
    """Raises RlkitError if one of the files is shorter than the longest; CIFAR-10's are all of one length."""
    sizes = {path: path.stat().st_size for path in paths}
    for path, size in sizes.items():
        if size < max(sizes.values()):
            raise wrong_size(path, size, max(sizes.values()))


def read_bytes(path: Path) -> bytes:
    """Reads a file, unpacking it if its name ends in `.gz`; raises RlkitError if it is damaged or missing."""
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as file:
            return file.read()
    except EOFError as error:
        raise RlkitError(f"{path} is truncated: fetch it again") from error
    except (OSError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or f"{error}"
        raise RlkitError(f"cannot read {path}: {reason}; fetch it again") from error


def wrong_size(path: Path, found: int, expected: int) -> RlkitError:
    """Makes the error for a file that is too short or too long."""
    what = "is truncated" if found < expected else "is too long"
    return RlkitError(f"{path} {what}: {found:,} bytes instead of {expected:,}; fetch it again")
