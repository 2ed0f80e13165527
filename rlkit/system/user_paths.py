"""Paths that users give: one rule for `~`, which no shell expands after `=`, in quotes, in YAML or in Python."""

from __future__ import annotations

from pathlib import Path

from rlkit.errors import RlkitError


def user_path(path: str | Path) -> Path:
    """Returns a path as the user means it: `~` is the home folder and `~name` that of a user, as in a shell.

    Raises RlkitError where there is no such home. `./~` is a file of that name.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise RlkitError(
            f"{path}: there is no home folder {Path(path).parts[0]}; expected ~, ~user, or a path; ./{path} is a file "
            "of that name"
        ) from error
