"""Files that are either whole or not there: written beside their place, then moved onto it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rlkit.errors import RlkitError


@contextmanager
def atomic(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`; moves it onto `path`, or removes it when the block raises.

    Whoever reads `path` sees the old file or the new one, also when this process is killed; `durable` waits until it
    is on the disk, and so outlasts a power cut. Raises RlkitError when the folder cannot be written to.
    """
    # The process id keeps two writers apart; the suffix stays, because encoders choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise RlkitError(f"cannot write {path}: {_reason(error)}") from error
        raise


def make_folder(path: Path) -> Path:
    """Makes the folder and those above it unless they are there; raises RlkitError when that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RlkitError(f"cannot make the folder {path}: {_reason(error)}") from error
    return path


def write_text(path: Path, text: str) -> None:
    """Replaces the file `path` by `text`; raises RlkitError when that is not possible."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Replaces the file `path` by `data` as JSON, NumPy numbers included; raises RlkitError like `write_text`."""
    write_text(path, json.dumps(data, indent=2, default=lambda number: number.item()) + "\n")


def _reason(error: OSError) -> str:
    return error.strerror or f"{error}".partition("\n")[0]


def _sync_folder(folder: Path) -> None:
    """Makes the new name in the folder outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
