"""What the docstrings below the fields of config dataclasses say, for `--help` and for the documentation."""

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
    """What there is to know about one field of a config dataclass."""

    name: str
    type: str
    default: Any
    doc: str


def field_docs(config: Any) -> list[FieldDoc]:
    """The fields of a config (an instance: its values are the defaults), each with the docstring below it."""
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
    """A title, and each field of the config as an override, with its documentation; nested configs are left out."""
    width = min(shutil.get_terminal_size().columns, 120)
    lines = [title]
    for field in field_docs(config):
        if dataclasses.is_dataclass(field.default) or field.name in ("agent", "id"):
            continue  # has a section of its own, or is chosen by name
        lines.append(f"  {prefix}{field.name}={as_override(field.default)}  ({field.type})")
        lines += textwrap.wrap(field.doc, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def as_override(value: Any) -> str:
    """A value as the command line has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def show(text: str) -> None:
    """Prints a help text; ends quietly when `head` or a pager has read enough of it."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would flush again, and complain
