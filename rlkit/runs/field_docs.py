"""Reads the docstrings below the fields of config dataclasses, for `--help` and for the documentation."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import shutil
import textwrap
from collections.abc import Collection
from typing import Any, NamedTuple


class FieldDoc(NamedTuple):
    """The documentation of one field of a config dataclass."""

    name: str
    type: str
    """The field's type as it is written in the source."""
    default: Any
    doc: str
    """The docstring below the field, on one line; empty if there is none."""


def field_docs(config: Any, without: Collection[str] = ()) -> list[FieldDoc]:
    """Returns the fields of a config, each with the docstring below it; the instance's values are the defaults.

    A group of fields, which is a nested config, stands with its fields' dotted names, `group.field`. Fields and groups
    named in `without` are left out.
    """
    docs: dict[str, str] = {}
    for cls in reversed(type(config).__mro__):
        docs |= _docstrings(cls) if dataclasses.is_dataclass(cls) else {}
    found = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in without:
            continue
        if dataclasses.is_dataclass(value):
            found += [nested._replace(name=f"{field.name}.{nested.name}") for nested in field_docs(value)]
        else:
            found.append(FieldDoc(field.name, str(field.type), value, docs.get(field.name, "")))
    return found


def _docstrings(cls: type[Any]) -> dict[str, str]:
    """Returns the docstring below each field in a class's own source."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(body, ast.ClassDef)
    return {
        statement.target.id: " ".join(following.value.value.split())
        for statement, following in zip(body.body, body.body[1:], strict=False)
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        if isinstance(following.value.value, str)
    }


def section(title: str, prefix: str, config: Any, without: Collection[str] = ()) -> str:
    """Returns a title, and below it each field of the config as an override with its documentation.

    Fields named in `without` are left out.
    """
    width = min(shutil.get_terminal_size().columns, 120)
    lines = [title]
    for field in field_docs(config, without):
        lines.append(f"  {prefix}{field.name}={as_override(field.default)}  ({field.type})")
        lines += textwrap.wrap(field.doc, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def as_override(value: Any) -> str:
    """Returns a value as it is written on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
