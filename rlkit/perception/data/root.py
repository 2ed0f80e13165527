"""The folder that holds the data sets on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rlkit.errors import RlkitError
from rlkit.system.user_paths import user_path

VARIABLE = "RLKIT_DATA"
"""Environment variable with the folder of the data sets, for commands without `data_root`."""


def locate(data_root: str | Path | None, name: str, files: Sequence[str]) -> Path:
    """Returns the folder of the data set `name`, `<data_root>/<name>`; without data_root, RLKIT_DATA takes its place.

    Raises RlkitError, which names the command that fetches the data set, unless all `files` are there, gzipped or not.
    """
    root = data_root or os.environ.get(VARIABLE)
    if root is None:
        raise RlkitError(
            f"the data set {name} comes in files, and neither data_root=FOLDER nor the variable {VARIABLE} says where; "
            f"`python -m rlkit.perception.fetch {name} data_root=FOLDER` fetches it; recipe=lenet-digits needs none"
        )
    folder = user_path(root) / name
    missing = [file for file in files if not (folder / file).exists() and not (folder / f"{file}.gz").exists()]
    if missing:
        raise RlkitError(
            f"the data set {name} is not in {user_path(root)}: {name}/{missing[0]} is missing; "
            f"`python -m rlkit.perception.fetch {name} data_root={root}` fetches it"
        )
    return folder
