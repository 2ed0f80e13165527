"""A user's own classes by dotted path, `package.module:Class`: their names, and when a name may be imported.

An installed package can give its classes short names, by entry points of the groups `rlkit.agents` and `rlkit.loggers`.

What the user writes is imported as it stands. What a saved file names is imported only from outside of the folder that
holds the file: whoever gives away a checkpoint must not give away code that runs when it is loaded.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rlkit.errors import RlkitError, unknown
from rlkit.system.imports import NothingImportedFrom

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

FORM = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
EXPECTED = "package.module:Class"


def is_dotted_path(name: str) -> bool:
    """True for a dotted path, `my_package.my_agent:MyAgent`; False for a short name, `ppo`."""
    return ":" in name


def check_form(field: str, path: object) -> None:
    """Raises RlkitError unless the path has the form of one; imports nothing."""
    if not isinstance(path, str) or not FORM.fullmatch(path) or path.startswith("__main__"):
        raise RlkitError(f"{field}={path}: expected {EXPECTED}, of a module that can be imported")


def paths_in(text: str) -> list[str]:
    """The dotted paths in a setting, such as `logger=[tensorboard,my_module:MyLogger]`."""
    return [found.group() for found in FORM.finditer(text)]


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
    """Imports the module of the class that a saved file names.

    Raises RlkitError where it cannot be imported, and where it lies in the folder that holds the file, or in the run
    folder around a checkpoint or a `.hydra`.
    """
    check_form(f"{file}: {field}", path)
    import_module_from_file(field, path, path.split(":")[0], file)


def import_module_from_file(field: str, value: str, module: str, file: Path) -> None:
    """Imports the module in the `value` that a saved file gives a field; raises RlkitError as `import_from_file`."""
    where = f"{file}: {field}"
    packages = module.split(".")
    if packages[0] in sys.stdlib_module_names or "__main__" in packages:
        raise RlkitError(f"{where}={value}: expected a module of an installed package or of your own, not {module}")
    with NothingImportedFrom(file.parent) as guard:
        try:
            _import(where, value, module)
        except RlkitError as error:
            if (place := guard.refused(module)) is None:
                raise
            raise RlkitError(
                f"{where}={value} is in the folder that is loaded, and nothing in there is executed; if you trust "
                f"it, move {Path(place).name} to where Python finds it elsewhere"
            ) from error


def config_class(field: str, path: str, part: type, base: type = object) -> type[Any] | None:
    """The dataclass that a class or an ancestor below `base` names in its body, `config: MyConfig`; None if none does.

    Raises RlkitError where this is no dataclass of the module that the class is in.
    """
    for ancestor in part.__mro__[: part.__mro__.index(base)]:
        annotation = inspect.get_annotations(ancestor).get("config")
        if annotation is None:
            continue
        found = annotation
        if isinstance(annotation, str):  # as `from __future__ import annotations` leaves it
            found = _attribute(sys.modules[ancestor.__module__], annotation)
        if isinstance(found, type) and dataclasses.is_dataclass(found):
            return found
        raise RlkitError(
            f"{field}={path}: {ancestor.__name__} says `config: {annotation}`, which is no dataclass in "
            f"{ancestor.__module__}; expected one there, with a default for each field"
        )
    return None


def installed(group: str) -> Mapping[str, str]:
    """The dotted paths that installed packages have entry points for, by name."""
    return {point.name: point.value for point in _entry_points(tuple(sys.path)) if point.group == group}


@functools.lru_cache(maxsize=1)
def _entry_points(path: tuple[str, ...]) -> list[EntryPoint]:
    """The entry points for rlkit of all packages on the path, remembered, as finding them takes milliseconds."""
    from importlib.metadata import distributions

    return [point for package in distributions() for point in package.entry_points if point.group.startswith("rlkit.")]


def python_path(paths: Iterable[str]) -> str:
    """Returns `PYTHONPATH=FOLDER ` for commands that have to find classes as this process did, or nothing.

    A script's own folder is on Python's path while the script runs, and not for a command of the working directory.
    """
    main = sys.modules["__main__"]
    if getattr(main, "__spec__", None) is not None or not hasattr(main, "__file__"):
        return ""
    folder = Path(str(main.__file__)).resolve().parent
    modules = {path.split(":")[0].split(".")[0] for path in paths if is_dotted_path(path)}
    if folder == Path.cwd() or not any(folder in place.parents for module in modules for place in _places(module)):
        return ""
    others = f"{os.pathsep}$PYTHONPATH" if os.environ.get("PYTHONPATH") else ""
    return f"PYTHONPATH={shlex.quote(os.path.relpath(folder))}{others} "


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
        return "; it is in the working directory, which is not on Python's path here; PYTHONPATH=. adds it"
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
        classes = [key for key, value in vars(module).items() if isinstance(value, type) and kind in value.__mro__]
        raise RlkitError(f"{field}={path}: {unknown('class', name, classes)}")
    if not isinstance(found, type) or kind not in found.__mro__:  # issubclass refuses protocols
        what = "a class" if isinstance(found, type) else f"a value of type {type(found).__name__}"
        raise RlkitError(f"{field}={path} is {what}: expected a class that inherits from {kind.__name__}")
    return found


def _attribute(part: object, name: str) -> object:
    for key in name.split("."):
        part = getattr(part, key, None)
    return part
