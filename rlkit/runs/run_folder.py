"""The folder that a run leaves behind, with its configuration, checkpoints and summary."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlkit.errors import RlkitError
from rlkit.runs.files import write_json, write_text
from rlkit.runs.folder_lock import FolderLock
from rlkit.runs.tensor_files import MODEL_FILE
from rlkit.system.user_paths import user_path

RUN_FILES = ("summary.json", "metrics.csv", "checkpoints", ".hydra")
"""Files and folders by which a folder is recognised as a run's."""


class LostFolder(RlkitError):
    """Raised when a run's folder was removed while the run was writing into it."""


class RunFolder:
    """One run's folder: `.hydra/`, `metrics.csv`, `summary.json`, `checkpoints/{last,best}/`, `videos/`.

    `create` and `resume` lock it until `release`, so that no other run writes into it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: FolderLock | None = None

    @classmethod
    def create(cls, path: Path, hydra_files: Mapping[str, str]) -> RunFolder:
        """Makes the folder and writes `.hydra/<name>` for each of `hydra_files`.

        Raises RlkitError when `path` is a file, cannot be written to, or holds another run.
        """
        folder = cls(path)
        try:
            for name in RUN_FILES:
                if (path / name).exists():
                    raise _occupied(path, name)
            path.mkdir(parents=True, exist_ok=True)
            # The process that makes this folder owns the run folder, so that of two runs that start together only one
            # gets past this line.
            (path / ".hydra").mkdir()
            folder._lock = FolderLock(path)
        except FileExistsError as error:
            if path.is_dir():
                raise _occupied(path, ".hydra") from error
            raise RlkitError(f"the run folder {path} is a file: it must be a new or an empty folder") from error
        except OSError as error:
            raise RlkitError(f"cannot make the run folder {path}: {error.strerror}") from error
        try:
            folder.write_configuration(hydra_files)
        except BaseException:
            folder.release()
            raise
        return folder

    @classmethod
    def resume(cls, path: Path) -> RunFolder:
        """Locks the folder of a run that is to be continued; raises RlkitError if a run still writes into it."""
        folder = cls(path)
        try:
            folder._lock = FolderLock(path)
        except OSError as error:
            raise RlkitError(f"cannot write into the run folder {path}: {error.strerror}") from error
        return folder

    def release(self) -> None:
        """Gives up the lock, at the end of the run."""
        if self._lock is not None:
            self._lock.release()

    def check_kept(self) -> None:
        """Raises LostFolder if the folder was removed since it was locked, or another one stands in its place."""
        if self._lock is not None and self._lock.removed:
            raise LostFolder(
                f"the run folder {self.path} was removed during the run, and its metrics and checkpoints with it; "
                "expected it to stay until the run has ended"
            )

    def write_configuration(self, hydra_files: Mapping[str, str]) -> None:
        """Writes `.hydra/<name>` for each of `hydra_files`."""
        for name, text in hydra_files.items():
            write_text(self.path / ".hydra" / name, text)

    def checkpoint(self, which: str) -> Path:
        """Returns the folder of the checkpoint `last` or `best`, which need not exist yet."""
        return self.path / "checkpoints" / which

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json; numbers that JSON does not have, NaN and infinity, become null."""
        write_json(
            self.path / "summary.json",
            {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in summary.items()
            },
        )

    def write_profile(self, report: Mapping[str, Any]) -> None:
        """Writes profile.json, the report of a profiled run."""
        write_json(self.path / "profile.json", report)


def _occupied(path: Path, name: str) -> RlkitError:
    return RlkitError(
        f"the run folder {path} already holds a run ({name} is there): choose a new folder (hydra.run.dir=...) "
        f"or remove this one"
    )


def find_checkpoint(path: str | Path) -> Path:
    """Returns the folder with the model at `path`, which is a run folder, a checkpoint folder or a model file.

    In a run folder it is the best checkpoint, else the last one. Raises RlkitError when there is no model.
    """
    given = user_path(path)
    if given.name == MODEL_FILE and os.path.isfile(given):
        return given.parent
    for folder in (given, given / "checkpoints" / "best", given / "checkpoints" / "last"):
        if os.path.isfile(folder / MODEL_FILE):
            return folder
    if os.path.exists(given):
        expected = f"a run folder with checkpoints/best or last, a folder with {MODEL_FILE}, or that file"
        raise RlkitError(f"{path} holds no saved model: expected {expected}")
    siblings: list[str] = []
    with suppress(OSError):
        siblings = os.listdir(given.parent)
    nearest = difflib.get_close_matches(given.name, siblings, n=1)
    hint = f"; did you mean {given.parent / nearest[0]}?" if nearest else ""
    raise RlkitError(f"there is no run folder or checkpoint {path}{hint}")


def asked_folder(arguments: Sequence[str]) -> tuple[Path, list[str]]:
    """Returns the folder that `resume=FOLDER` in a command line names, and the rest of the command line.

    Raises RlkitError for more than one folder.
    """
    folders = [argument.removeprefix("resume=") for argument in arguments if argument.startswith("resume=")]
    if len(folders) != 1:
        raise RlkitError(f"expected one run folder to resume, not {' and '.join(folders)}")
    return user_path(folders[0]).absolute(), [argument for argument in arguments if not argument.startswith("resume=")]
