"""The reader of all texts and tables that users bring, in the encodings and dialects that their programs write."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

from rlkit.errors import RlkitError

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16's, with which it begins
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""Encodings by the bytes with which their files begin; a file without any of them is in UTF-8."""
DELIMITERS = (",", ";", "\t", "|")
"""Characters between the columns of tables: where decimals have a comma, programs write semicolons."""
LONGEST_LINE = 10**7
"""Characters of the longest line, and of the longest cell of a table, that are read."""
LARGEST_FILE = 2**30
"""Bytes of the largest file that is read."""


def existing(path: Path) -> Path:
    """Returns the path, or that of the gzipped file if only that exists."""
    packed = Path(f"{path}.gz")
    return packed if packed.exists() and not path.exists() else path


def read_text(path: Path) -> str:
    """Reads a whole text, with plain line feeds and without a byte-order mark; raises RlkitError like `read_lines`."""
    return "".join(read_lines(path))


def read_lines(path: Path) -> Iterator[str]:
    """Yields the lines of a text file, gzipped or not, each with its line feed.

    The text is UTF-8, or what its byte-order mark says; lines end as on Unix, Windows or old Macs. Raises RlkitError
    for a file that is missing, no text, damaged, or too large.
    """
    path = existing(path)
    number = 0
    try:
        if path.exists() and not path.is_file():
            raise RlkitError(f"cannot read {path}: expected a file")
        if (size := path.stat().st_size) > LARGEST_FILE:
            raise RlkitError(f"{path} has {size:,} bytes: expected at most {LARGEST_FILE:,}")
        with path.open("rb") as raw, gzip.open(raw) if path.suffix == ".gz" else raw as file:
            text = io.TextIOWrapper(cast(BinaryIO, file), encoding=_encoding(cast(BinaryIO, file)), newline=None)
            for number, line in enumerate(iter(lambda: text.readline(LONGEST_LINE), ""), 1):
                if "\0" in line:
                    raise RlkitError(f"{path} is no text, or UTF-16 without a byte-order mark: save it as UTF-8")
                if len(line) == LONGEST_LINE:
                    raise RlkitError(f"{path}, line {number}: longer than {LONGEST_LINE:,} characters")
                yield line.replace("\ufeff", "")  # where files were joined, marks are in the middle too
    except UnicodeDecodeError as error:
        byte, near = error.object[error.start], number + 1 + error.object[: error.start].count(b"\n")
        raise RlkitError(
            f"{path} is not in {error.encoding.upper()}: byte 0x{byte:02x} near line {near}; save it as UTF-8"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or f"{error}"
        raise RlkitError(f"cannot read {path}: {reason}") from error


def _encoding(file: BinaryIO) -> str:
    """Returns the encoding of a text, and leaves the file behind its byte-order mark."""
    start = file.read(4)
    mark = next((mark for mark in BYTE_ORDER_MARKS if start.startswith(mark)), b"")
    file.seek(len(mark))
    return BYTE_ORDER_MARKS.get(mark, "utf-8")


def read_table(
    path: Path, required: Sequence[str], *, headerless: Sequence[str] = (), aliases: Mapping[str, str] = {}
) -> Iterator[dict[str, str]]:
    """Yields the rows of a CSV file as cells by column; empty lines are left out.

    The columns are divided by one of DELIMITERS, and their names are lower-cased without the spaces around them.
    `headerless` are the names for a table whose first row is data already, and `aliases` maps other names of columns to
    ours. Raises RlkitError for a file that lacks a column of `required`, for a row with too few or too many cells, and
    like `read_lines`.
    """
    csv.field_size_limit(LONGEST_LINE)
    lines = read_lines(path)
    first = next((line for line in lines if line.strip()), "")
    if first.lower().startswith("sep="):  # a line of Excel's
        first = next(lines, "")
    if not first:
        raise RlkitError(f"{existing(path)} is empty: expected the columns {' and '.join(required)}")
    heads = {delimiter: [aliases.get(name, name) for name in _header(first, delimiter)] for delimiter in DELIMITERS}
    fitting = [delimiter for delimiter, names in heads.items() if set(required) <= set(names)]
    bare = [delimiter for delimiter, names in heads.items() if len(names) == len(headerless)]
    if not fitting and not bare:
        found = max(heads.values(), key=len)
        raise RlkitError(f"{existing(path)} has the columns {found}: expected {' and '.join(required)}")
    delimiter = (fitting or bare)[0]
    names = heads[delimiter] if fitting else list(headerless)
    if twice := [name for name in required if names.count(name) > 1]:
        raise RlkitError(f"{existing(path)} has the column {twice[0]} twice")
    rows = csv.reader(
        lines if fitting else chain([first], lines), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    try:
        number = 0
        for cells in rows:
            while len(cells) > len(names) and not cells[-1].strip():
                cells.pop()
            if not any(cell.strip() for cell in cells):
                continue
            number += 1
            if len(cells) != len(names):
                raise RlkitError(
                    f"{existing(path)}: row {number} has {len(cells)} columns instead of {len(names)}; truncated?"
                )
            yield dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise RlkitError(f"{existing(path)} is truncated or damaged: {error}") from error


def _header(line: str, delimiter: str) -> list[str]:
    try:
        names = [
            " ".join(cell.split()).lower()
            for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True))
        ]
    except csv.Error:  # the quotes of another delimiter
        return []
    while names and not names[-1]:
        names.pop()
    return names
