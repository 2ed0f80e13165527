"""Atomic writing: a file is written under a temporary name and then moved to its place, so that it is never partial."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rlkit.errors import RlkitError


@contextmanager
def atomic(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which replaces `path` at the end or is removed after an exception.

    A reader of `path` sees either the old file or the new one, even if this process is killed. With `durable`, this
    waits until the file is on the disk, so that it also outlasts a power cut. The file gets the mode that the umask
    gives new files, whatever the library that writes it would choose. Raises RlkitError when the folder cannot be
    written to.
    """
    # The process id keeps two writers apart. The suffix stays, because encoders of images and videos choose their
    # format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        temporary.chmod(mode)
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
    """Makes the folder and its parents if they are missing; raises RlkitError when that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RlkitError(f"cannot make the folder {path}: {_reason(error)}") from error
    return path


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path`, atomically and durably; raises RlkitError when that is not possible."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Writes `data`, which may hold NumPy numbers, to `path` as JSON; raises RlkitError like `write_text`."""
    write_text(path, json_text(data))


def json_text(data: Any) -> str:
    """Returns `data`, which may hold NumPy numbers, as the text of a JSON file."""
    return json.dumps(data, indent=2, default=lambda number: number.item()) + "\n"


def _reason(error: OSError) -> str:
    return error.strerror or f"{error}".partition("\n")[0]


def _sync_folder(folder: Path) -> None:
    """Writes the folder itself to the disk, so that a new file's name in it outlasts a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
