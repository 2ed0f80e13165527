"""Reading of stored files: the one place where files of run folders are opened, and where their bytes become values.

A stored file may be damaged, or made by somebody who means harm. So it is opened only if it is a regular file, its size
is checked before memory is taken for it, and no message repeats its contents but for a short value.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import stat
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from rlkit.errors import RlkitError, unknown

LARGEST_TEXT = 2**24
"""Bytes of the largest JSON file."""
LARGEST_SETTINGS = 2**18
"""Bytes of the largest YAML file, which takes a hundred times longer to read."""
LARGEST_TABLE = 2**28
"""Bytes of the largest CSV file, which is read row by row."""
DEEPEST = 50
"""Levels of lists and dicts within each other."""
MOST_VALUES = 500_000
MOST_CONTAINERS = 100_000
"""Lists and dicts in a JSON file, which take much more memory than their text."""
LARGEST_HOLE = 2**26
"""Bytes that a file may hold without taking any room on the disk."""


def damaged(file: Path, reason: Exception | str) -> RlkitError:
    """Makes the error for a file whose contents cannot be read."""
    if isinstance(reason, Exception):
        reason = f"{type(reason).__name__}: {reason}" if f"{reason}" else type(reason).__name__
    return RlkitError(f"{file} is damaged: {' '.join(reason.split())[:300]}")


def shown(value: object) -> str:
    """Returns a value of a file in a few characters, for messages."""
    if isinstance(value, Mapping | list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:36]} …"


# Bytes and text


def open_file(file: Path, limit: int | None = None) -> BinaryIO:
    """Opens a regular file of at most `limit` bytes; raises RlkitError for others, without waiting for any."""
    try:
        # A named pipe would be waited for without O_NONBLOCK, until somebody writes into it.
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise RlkitError(f"cannot read {file}: {error.strerror}") from error
    status = os.fstat(descriptor)
    try:
        if not stat.S_ISREG(status.st_mode):
            raise RlkitError(f"cannot read {file}: it is {_kind(status.st_mode)}; expected a file")
        if limit is not None and status.st_size > limit:
            raise RlkitError(f"cannot read {file}: it has {status.st_size:,} bytes; expected at most {limit:,}")
        if _in_holes(descriptor, status.st_size) > max(LARGEST_HOLE, status.st_size * 7 // 8):
            raise RlkitError(f"{file} is damaged: most of its {status.st_size:,} bytes were never written")
    except RlkitError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return kinds.get(stat.S_IFMT(mode), "no file")


def _in_holes(descriptor: int, size: int) -> int:
    """Counts the bytes of a file that were never written, where the system can tell."""
    if size <= LARGEST_HOLE or not hasattr(os, "SEEK_HOLE"):
        return 0
    holes = end = 0
    try:
        while end < size:
            start = os.lseek(descriptor, end, os.SEEK_HOLE)
            try:
                end = os.lseek(descriptor, start, os.SEEK_DATA)
            except OSError:  # there are no data behind the last hole
                end = size
            holes += end - start
    except OSError:
        return 0
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)
    return holes


def read_bytes(file: Path, limit: int = LARGEST_TEXT) -> bytes:
    """Reads a regular file; raises RlkitError if it is none, cannot be read, or has more than `limit` bytes."""
    try:
        with open_file(file, limit) as opened:
            content = opened.read(limit + 1)
    except OSError as error:
        raise RlkitError(f"cannot read {file}: {error.strerror}") from error
    if len(content) > limit:  # files of the system have no size
        raise RlkitError(f"cannot read {file}: it has more than {limit:,} bytes")
    return content


def read_text(file: Path, limit: int = LARGEST_TEXT) -> str:
    """Reads a text in UTF-8; raises RlkitError like `read_bytes`, and for bytes that are no such text."""
    try:
        return read_bytes(file, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(file, f"it is not in UTF-8, from byte {error.start:,} on") from error


# JSON and YAML


def read_json(file: Path) -> Any:
    """Reads a JSON file; raises RlkitError if it is none, too large, or nested too deep."""
    return parse_json(read_text(file), file)


def parse_json(text: str, file: Path) -> Any:
    """Reads JSON in a file; raises RlkitError like `read_json`."""
    if text.count("[") + text.count("{") > MOST_CONTAINERS or text.count(",") > MOST_VALUES:
        raise damaged(file, f"it has more than {MOST_CONTAINERS:,} lists and dicts, or {MOST_VALUES:,} values")
    try:
        tree = json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        raise damaged(file, f"lists and dicts are nested deeper than {DEEPEST} levels") from error
    except ValueError as error:
        raise damaged(file, error) from error
    _check_depth(tree, file)
    return tree


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _check_depth(tree: object, file: Path) -> None:
    level = [tree]
    for _ in range(DEEPEST):
        inner: list[object] = []
        for value in level:
            inner += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if not inner:
            return
        level = inner
    raise damaged(file, f"lists and dicts are nested deeper than {DEEPEST} levels")


def read_yaml(file: Path) -> Any:
    """Reads a YAML file as OmegaConf writes it: a DictConfig or a ListConfig, whose values are not resolved.

    Raises RlkitError if it is no YAML, too large, nested too deep, or has aliases or types of its own, which make much
    of little.
    """
    import yaml  # type: ignore[import-untyped]
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    text = read_text(file, LARGEST_SETTINGS)
    depth = 0
    try:
        for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
                line = event.start_mark.line + 1
                raise damaged(file, f"line {line} has an alias or a type, which no stored configuration has")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise damaged(file, f"lists and dicts are nested deeper than {DEEPEST} levels")
        return OmegaConf.load(io.StringIO(text))
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise damaged(file, f"it is no YAML{where}") from error
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError) as error:
        raise damaged(file, "it is no configuration") from error


# Tables


def read_rows(file: Path, step_key: str) -> Iterator[dict[str, str]]:
    """Yields the rows of a run's metrics.csv, its column names first, as a row that maps each to itself.

    A last line without its end, as a crash leaves it, is left out. Raises RlkitError for what is no table of numbers
    that counts steps in the column `step_key`.
    """
    with open_file(file, LARGEST_TABLE) as opened:
        rows = csv.reader(_whole_lines(opened, file), strict=True)
        columns: list[str] = []
        try:
            for row in rows:
                if not columns:
                    columns = row
                    if step_key not in columns or len(set(columns)) < len(columns):
                        raise damaged(file, f"expected a column {step_key}, and no name twice, in its first line")
                else:
                    _check_row(row, columns, step_key, file, rows.line_num)
                yield dict(zip(columns, row, strict=True))
        except csv.Error as error:
            raise damaged(file, f"line {rows.line_num}: {error}") from error


def _whole_lines(opened: BinaryIO, file: Path) -> Iterator[str]:
    for number, line in enumerate(iter(lambda: opened.readline(LARGEST_TEXT), b""), 1):
        if not line.endswith(b"\n"):
            if len(line) == LARGEST_TEXT:
                raise damaged(file, f"line {number} is longer than {LARGEST_TEXT:,} bytes")
            return
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise damaged(file, f"line {number} is not in UTF-8") from error


def _check_row(row: Sequence[str], columns: Sequence[str], step_key: str, file: Path, line: int) -> None:
    if len(row) != len(columns):
        raise damaged(file, f"line {line} has {len(row)} cells: expected {len(columns)}")
    for column, cell in zip(columns, row, strict=True):
        try:
            wrong = bool(cell) and float(cell) is None
            wrong = wrong or (column == step_key and int(cell) < 0)
        except ValueError:
            wrong = True
        if wrong:
            kind = "a number of steps" if column == step_key else "a number"
            raise damaged(file, f"line {line}, {column}: {shown(cell)} is not {kind}")


# Types


def checked(value: Any, hint: Any, name: str) -> Any:
    """Returns a value from a file, if it is of the type that `hint` says; `name` is what messages call it.

    For a dataclass, a dict of some of its fields is expected. Whole numbers stand for floats, and floats without a
    fraction for whole numbers. Types that JSON does not have are not checked. Raises RlkitError for a wrong type.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return checked_fields(value, hint, name)
    if origin in (typing.Union, types.UnionType):
        return _checked_union(value, arguments, name)
    if hint in (None, type(None)) and value is not None:
        raise _wrong(value, "null", name)
    if hint in (int, float, bool, str):
        return _checked_scalar(value, hint, name)
    if origin in (list, tuple, Sequence):
        if not isinstance(value, list | tuple):
            raise _wrong(value, "a list", name)
        kinds = [item for item in arguments if item is not Ellipsis] or [Any]
        return [checked(item, kinds[min(i, len(kinds) - 1)], f"{name}[{i}]") for i, item in enumerate(value)]
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise _wrong(value, "a dict with names as keys", name)
        each = arguments[1] if arguments else Any
        return {key: checked(item, each, f"{name}.{shown(key)[1:-1]}") for key, item in value.items()}
    return value


def checked_fields(value: Any, config: type[Any], name: str) -> dict[str, Any]:
    """Returns the fields of a dataclass that a file holds; raises RlkitError for unknown names and wrong types."""
    if not isinstance(value, Mapping):
        raise _wrong(value, "a dict of fields", name)
    known = [field.name for field in dataclasses.fields(config)]
    try:
        hints = typing.get_type_hints(config)
    except NameError:  # of a user's class, under `if TYPE_CHECKING`
        hints = {}
    for key in value:
        if key not in known:
            raise unknown(f"field in {name}", shown(key), known)
    return {key: checked(item, hints.get(key, Any), f"{name}.{key}") for key, item in value.items()}


def _checked_union(value: Any, kinds: Sequence[Any], name: str) -> Any:
    errors = []
    for kind in kinds:
        try:
            return checked(value, kind, name)
        except RlkitError as error:
            errors.append(error)
    raise errors[0]


def _checked_scalar(value: Any, kind: type[Any], name: str) -> Any:
    if kind in (bool, str):
        if not isinstance(value, kind):
            raise _wrong(value, {bool: "true or false", str: "a text"}[kind], name)
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or (kind is int and value != value // 1):
        raise _wrong(value, {int: "a whole number", float: "a number"}[kind], name)
    if kind is int:
        return int(value)
    try:
        return float(value)
    except OverflowError as error:
        raise _wrong(value, "a number of at most 1e308", name) from error


def _wrong(value: object, expected: str, name: str) -> RlkitError:
    return RlkitError(f"{name} is {shown(value)}: expected {expected}")


def check_finite(value: float, name: str) -> None:
    """Raises RlkitError for a number that is infinite or not a number."""
    if not math.isfinite(value):
        raise _wrong(value, "a finite number", name)
