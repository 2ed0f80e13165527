"""A lock on a run folder, so that two runs, or a run and its resumption, never write into one folder."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

from rlkit.errors import RlkitError

LOCK_FILE = ".lock"
"""File in the run folder that is locked while a run writes into the folder; it says which process that is."""

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""Flags with which the lock file is opened, not by a link: in somebody else's folder that could lead to any file."""
_held: set[tuple[int, int]] = set()
"""Device and inode of the lock files that this process holds: the kernel would give it each of them a second time."""
_changing = threading.Lock()


class FolderLock:
    """The right to write into a run folder, until `release` or the end of this process, whatever ends it.

    The lock is the kernel's, not the file's existence, so a process that is killed leaves nothing to be removed, and
    its children do not inherit it. Raises RlkitError if another run holds it. Where a file system has no locks, there
    is none.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        with _changing:
            # Asked before opening, because closing any descriptor of the file would give up this process's lock.
            if self._path.exists() and _identity(os.stat(self._path)) in _held:
                raise _in_use(folder, f"this process, {os.getpid()}")
            self._descriptor = os.open(self._path, _FLAGS, 0o666)
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    owner = os.pread(self._descriptor, 100, 0).decode(errors="replace").strip()
                    os.close(self._descriptor)
                    raise _in_use(folder, owner or "another process") from error
            self._identity = _identity(os.fstat(self._descriptor))
            _held.add(self._identity)
            with suppress(OSError):  # on a full disk, nobody learns which process holds the lock
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    @property
    def removed(self) -> bool:
        """True if the folder, or the lock file in it, is no longer the one that was locked."""
        try:
            return _identity(os.stat(self._path)) != self._identity
        except OSError:
            return True

    def release(self) -> None:
        """Gives the folder to others; the file stays, because removing it would race with who locks it next."""
        with _changing:
            if self._identity in _held:
                _held.remove(self._identity)
                with suppress(OSError):
                    os.close(self._descriptor)


def is_locked(folder: Path) -> bool | None:
    """Returns True while a run writes into a folder, False if none does, and None where that cannot be told."""
    file = folder / LOCK_FILE
    with _changing, suppress(OSError):
        if _identity(os.stat(file)) in _held:  # asked before opening, as above
            return True
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except OSError as error:
            return True if error.errno in (errno.EACCES, errno.EAGAIN) else None
        finally:
            os.close(descriptor)
    return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _in_use(folder: Path, owner: str) -> RlkitError:
    return RlkitError(
        f"the run folder {folder} is in use by {owner}: expected a folder into which no other run writes; wait until "
        "that one has ended, or choose another folder"
    )
