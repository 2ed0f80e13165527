"""A user's own classes by dotted path, `package.module:Class`: their names, and when a name may be imported.

What the user writes is imported as it stands. What a saved file names is imported only from outside of the folder that
holds the file: whoever gives away a checkpoint must not give away code that runs when it is loaded.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from rlkit.errors import RlkitError, unknown

FORM = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
EXPECTED = "package.module:Class"


def is_dotted_path(name: str) -> bool:
    """Tell a dotted path from a short name such as `ppo`."""
    return ":" in name


def check_form(field: str, path: object) -> None:
    """Raises RlkitError unless the path has the form of one; imports nothing."""
    if not isinstance(path, str) or not FORM.fullmatch(path) or path.startswith("__main__"):
        raise RlkitError(f"{field}={path}: expected {EXPECTED}, of a module that can be imported")


def dotted_path(field: str, part: type) -> str:
    """The path of a class, by which other processes and saved files find it.

    Raises RlkitError for a class that has none: one of the script that runs, or one defined inside a function.
    """
    module, name = part.__module__, part.__qualname__
    remedy = f"put it in a module of its own, my_module.py, and import it from there: {field}=my_module:{part.__name__}"
    if module == "__main__":
        where = "in the script that runs"
    elif "<locals>" in name:
        where = "inside a function"
    elif _attribute(sys.modules.get(module), name) is not part:
        where = f"where {module}:{name} is something else"
    else:
        return f"{module}:{name}"
    raise RlkitError(f"{field}: {name} is defined {where}, so no worker or saved file could name it; {remedy}")


def find_class(field: str, path: str, kind: type) -> type:
    """The class at the path, imported; raises RlkitError where it is missing, or is no class of that kind."""
    check_form(field, path)
    module, name = path.split(":")
    _import(field, path, module)
    return _class_of(field, path, sys.modules[module], name, kind)


def import_from_file(field: str, path: str, file: Path) -> None:
    """Imports the module that a saved file names.

    Raises RlkitError where it cannot be imported, and where it lies in the folder that holds the file, or in the run
    folder around that one.
    """
    where = f"{file}: {field}"
    check_form(where, path)
    folder = file.parent.resolve()
    forbidden = folder.parent.parent if folder.parent.name == "checkpoints" else folder
    module = path.split(":")[0]
    packages = module.split(".")
    for i in range(len(packages)):  # each package before what is in it, which cannot be found without importing it
        name = ".".join(packages[: i + 1])
        for place in _places(name):
            if place.is_relative_to(forbidden):
                raise RlkitError(
                    f"{where}={path} is in the folder that is loaded, and nothing in there is executed; if you trust "
                    f"it, move {place.name} to where Python finds it elsewhere"
                )
        _import(where, path, name)


def _import(field: str, path: str, module: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not error.name or not (module == error.name or module.startswith(f"{error.name}.")):
            raise _failed(field, path, module, error) from error
        raise RlkitError(f"{field}={path}: there is no module {error.name}{_hint(error.name)}") from error
    except Exception as error:
        raise _failed(field, path, module, error) from error


def _failed(field: str, path: str, module: str, error: Exception) -> RlkitError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return RlkitError(f"{field}={path}: importing {module} raised {reason}")


def _hint(module: str) -> str:
    """The nearest module that there is, or why this one is not found though it is in the working directory."""
    parent, _, name = module.rpartition(".")
    if not parent and (os.path.isdir(name) or os.path.isfile(f"{name}.py")):
        return "; it is in the working directory, where `python -m rlkit` looks and `rlkit` does not"
    path = sys.modules[parent].__path__ if parent in sys.modules else None
    names = [found.name for found in pkgutil.iter_modules(path)]
    nearest = difflib.get_close_matches(name, names, n=1)
    if nearest:
        return f"; did you mean {f'{parent}.' if parent else ''}{nearest[0]}?"
    return " in Python's path; PYTHONPATH=FOLDER adds a folder to it"


def _places(module: str) -> Iterator[Path]:
    """The files and folders that importing a module would read, its parents having been imported."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # ValueError: `__main__` of a script has no spec
        return
    if spec is not None:
        origin = [spec.origin] if spec.has_location and spec.origin else []
        for place in [*origin, *(spec.submodule_search_locations or [])]:
            yield Path(place).resolve()


def _class_of(field: str, path: str, module: ModuleType, name: str, kind: type) -> type:
    found = _attribute(module, name)
    if found is None:
        classes = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, kind)]
        raise RlkitError(f"{field}={path}: {unknown('class', name, classes)}")
    if not isinstance(found, type) or not issubclass(found, kind):
        what = "a class" if isinstance(found, type) else f"a value of type {type(found).__name__}"
        raise RlkitError(f"{field}={path} is {what}: expected a class that inherits from {kind.__name__}")
    return found


def _attribute(part: object, name: str) -> object:
    for key in name.split("."):
        part = getattr(part, key, None)
    return part
