"""Reads the docstrings below the fields of config dataclasses, for `--help` and for the documentation."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import shutil
import sys
import textwrap
from typing import Any, NamedTuple


class FieldDoc(NamedTuple):
    """The documentation of one field of a config dataclass."""

    name: str
    type: str
    """The field's type as it is written in the source."""
    default: Any
    doc: str
    """The docstring below the field, on one line; empty if there is none."""


def field_docs(config: Any) -> list[FieldDoc]:
    """Returns the fields of a config, each with the docstring below it; the instance's values are the defaults."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(type(config)))).body
    assert isinstance(body, ast.ClassDef)
    docs = {
        statement.target.id: " ".join(following.value.value.split())
        for statement, following in zip(body.body, body.body[1:], strict=False)
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        if isinstance(following.value.value, str)
    }
    return [
        FieldDoc(field.name, str(field.type), getattr(config, field.name), docs.get(field.name, ""))
        for field in dataclasses.fields(config)
    ]


def section(title: str, prefix: str, config: Any) -> str:
    """Returns a title, and below it each field of the config as an override with its documentation.

    Fields that hold another config are left out.
    """
    width = min(shutil.get_terminal_size().columns, 120)
    lines = [title]
    for field in field_docs(config):
        if dataclasses.is_dataclass(field.default) or field.name in ("agent", "id"):
            continue  # a nested config has a section of its own, and the others are chosen by name
        lines.append(f"  {prefix}{field.name}={as_override(field.default)}  ({field.type})")
        lines += textwrap.wrap(field.doc, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def as_override(value: Any) -> str:
    """Returns a value as it is written on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def show(text: str) -> None:
    """Prints a help text, and ends quietly when `head` or a pager has read enough of it."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Otherwise Python would flush the broken pipe once more at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
