"""A folder that is loaded must not bring code with it: while it is read, no module of its own can be imported.

Whoever gives away a run folder chooses its name, its files, and the strings in them. Python's path may lead into such a
folder, for example where the working directory is in it or beside it. So the rule is kept where modules are found,
whatever asks for one: a name in a file, a plugin, or an optional package that a library looks for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

COMMANDS = ("rlkit.evaluate", "rlkit.perception")
"""Modules that `python -m` runs, and that read a run folder."""
CHECKPOINTS = "checkpoints"
SETTINGS = ".hydra"
_left: list[str] = []
"""The working directory, where it was left out of Python's path."""


def loaded_folder(path: str) -> str:
    """Returns the folder to which all files at `path` belong: of a checkpoint in a run folder, the run folder."""
    folder = os.path.realpath(path)
    if not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    parent = os.path.dirname(folder)
    if os.path.basename(parent) == CHECKPOINTS:
        return os.path.dirname(parent)
    return parent if os.path.basename(folder) in (CHECKPOINTS, SETTINGS) else folder


def return_to_path(folder: str, command: Sequence[str]) -> None:
    """Puts the working directory back to the front of Python's path, unless it is in the run folder that is read.

    `command` is the whole command line of `python -m`, which has put `folder` there; in front of all others, a
    `json.py` of a run folder would be taken for Python's own.
    """
    paths = [argument.removeprefix("resume=") for argument in command[command.index("-m") + 2 :]]
    reads = any(name in command for name in COMMANDS)
    loaded = _Folders([loaded_folder(path) for path in paths if reads and os.path.exists(path)])
    (_left if loaded.hold(folder or os.getcwd()) else sys.path).insert(0, folder)


def return_to_working_directory() -> None:
    """Puts the working directory back after all, for modules that the user names on the command line."""
    sys.path[:0] = _left
    _left.clear()


class NothingImportedFrom:
    """A context in which modules that lie in the folder of `path` are not found; `path` is as for `loaded_folder`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._folder = loaded_folder(os.fspath(path))

    def __enter__(self) -> NothingImportedFrom:
        _GUARD.add(self._folder)
        return self

    def __exit__(self, *error: object) -> None:
        _GUARD.remove(self._folder)

    def refused(self, module: str) -> str | None:
        """Returns the place of a module, or of a package around it, that was left out; None if it is missing."""
        names = module.split(".")
        packages = [".".join(names[: i + 1]) for i in range(len(names))]
        found = [_GUARD.refused[name] for name in packages if name in _GUARD.refused]
        left = PathFinder.find_spec(names[0], [folder or os.getcwd() for folder in _left])
        if left is not None and (places := _places(left)):
            found.append(places[0])
        return next(iter(found), None)


class _Folders:
    """Folders, which are compared by what the system knows them by, because some file systems ignore case."""

    def __init__(self, folders: list[str]) -> None:
        self.folders = folders
        self._known: dict[str, bool] = {}

    def hold(self, place: str) -> bool:
        """Returns True if a file or folder is in one of them, by its own path or by where links lead."""
        return any(self._is_below(path) for path in {os.path.abspath(place), os.path.realpath(place)})

    def _is_below(self, path: str) -> bool:
        """Returns True if `path` or a folder around it is one of them, before a folder of installed packages."""
        if path not in self._known:
            parent = os.path.dirname(path)
            if any(_same(path, folder) for folder in self.folders):
                self._known[path] = True
            elif parent == path or any(_same(path, folder) for folder in _installation()):
                self._known[path] = False
            else:
                self._known[path] = self._is_below(parent)
        return self._known[path]


class _Guard:
    """A finder of modules that asks all the others, in whose place it stands, and leaves out what is in `_folders`."""

    def __init__(self) -> None:
        self.refused: dict[str, str] = {}
        """Places of the modules that were left out, by their names."""
        self._folders = _Folders([])
        self._finders: list[Any] = []

    def add(self, folder: str) -> None:
        if not self._folders.folders:
            self._finders, sys.meta_path[:] = list(sys.meta_path), [self]
        self._folders = _Folders([*self._folders.folders, folder])

    def remove(self, folder: str) -> None:
        remaining = list(self._folders.folders)
        remaining.remove(folder)
        self._folders = _Folders(remaining)
        if not remaining:
            added = [finder for finder in sys.meta_path if finder is not self]
            sys.meta_path[:] = [*self._finders, *added]
            self.refused = {}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Finds a module as Python's import system asks for it."""
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in self._finders)), None)
        if spec is None or self._is_allowed(spec):
            return spec
        # The name may be that of an installed package too, before which the folder's file came.
        entries = sys.path if path is None else list(path)
        spec = PathFinder.find_spec(name, [each for each in entries if not self._folders.hold(each or os.getcwd())])
        return spec if spec is not None and self._is_allowed(spec) else None

    def invalidate_caches(self) -> None:
        """Forgets what is known about the files in Python's path."""
        for finder in self._finders:
            if hasattr(finder, "invalidate_caches"):
                finder.invalidate_caches()

    def find_distributions(self, *context: Any, **fields: Any) -> Any:
        """Finds installed packages for `importlib.metadata`."""
        for finder in self._finders:
            if hasattr(finder, "find_distributions"):
                yield from finder.find_distributions(*context, **fields)

    def _is_allowed(self, spec: ModuleSpec) -> bool:
        """Returns False for what is in the folders; takes their parts out of a package that is spread over several."""
        if spec.name.startswith("rlkit."):
            return True
        places = _places(spec)
        allowed = [place for place in places if not self._folders.hold(place)]
        if places and not allowed:
            self.refused[spec.name] = places[0]
            return False
        if len(allowed) < len(places):
            spec.submodule_search_locations = allowed
        return True


def _places(spec: ModuleSpec) -> list[str]:
    """Lists the file of a module, or the folders of a package without a file of its own; empty if built into Python."""
    return [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or ())


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _installation() -> list[str]:
    """Lists the folders of Python itself and of installed packages, which may be inside of the user's folder."""
    packages = [entry for entry in sys.path if os.path.basename(entry) in ("site-packages", "dist-packages")]
    return [*dict.fromkeys([sys.prefix, sys.base_prefix, sys.exec_prefix]), *packages]


_GUARD = _Guard()
