"""The one place from which rlkit talks to the terminal, which no run depends on.

A terminal may know few letters (ASCII, cp1252), have gone (a closed window, the reader of a pipe that has read enough,
a full disk), or never have been there. What cannot be written is lost; nothing is raised.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, Literal

from rlkit.errors import RlkitError, one_line

SPELLED = str.maketrans({"±": "+/-", "−": "-", "–": "-", "…": "...", "×": "x", "²": "^2", "₁": "1", "₂": "2"})
"""Spellings of our own letters for terminals that do not know them; any other letter becomes a question mark."""


class Terminal(io.TextIOBase):
    """Wraps a text stream, such as sys.stderr or None where there is none, so that writing to it never raises."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes the text, with other letters in place of those that the stream does not know."""
        with contextlib.suppress(Exception):  # of any kind: the stream may be anybody's
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding or "ascii"
                self._stream.write(text.translate(SPELLED).encode(encoding, "replace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Hands on what was written so far."""
        with contextlib.suppress(Exception):
            self._stream.flush()

    def isatty(self) -> bool:
        """True if a person looks at it."""
        with contextlib.suppress(Exception):
            return bool(self._stream.isatty())
        return False

    def fileno(self) -> int:
        """The stream's descriptor; raises OSError where it has none."""
        try:
            return int(self._stream.fileno())
        except Exception as error:
            raise OSError("there is no descriptor") from error

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's encoding, by which others choose their letters."""
        return str(getattr(self._stream, "encoding", None) or "utf-8")


def say(text: str, stream: Literal["stdout", "stderr"] = "stdout") -> None:
    """Prints the text and a line's end; never raises, whatever has become of the terminal."""
    terminal = Terminal(getattr(sys, stream))
    terminal.write(text + "\n")
    terminal.flush()


def complain(error: object) -> None:
    """Prints an error as one line on stderr."""
    say(f"error: {one_line(str(error))}", "stderr")


@functools.cache
def prepare() -> None:
    """Prepares a command for the terminal that it has, which may be none.

    A descriptor that is closed would go to the next file that is opened, and what libraries print would be written into
    it. What could not be written is dropped at the end; otherwise Python would try once more, complain, and return
    another exit code.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest descriptor that is free: this one
    atexit.register(_drop_unwritten)


def _drop_unwritten() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            with contextlib.suppress(Exception):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def remarked(what: str) -> Iterator[None]:
    """Makes an exception a remark on stderr, around what no result depends on: pictures, loggers, closing.

    So it costs no result, and hides no earlier error.
    """
    try:
        yield
    except Exception as error:
        say(remark(what, error), "stderr")


def remark(what: str, error: Exception) -> str:
    """Returns the line about something that failed and that no result depends on."""
    kind = "" if isinstance(error, RlkitError) else f"{type(error).__name__}: "
    return f"remark: {what} failed: {kind}{one_line(str(error))}"[:LONGEST_REMARK]


LONGEST_REMARK = 300
"""Characters of a remark, because some libraries' errors are pages."""
