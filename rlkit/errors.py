"""Errors that are the user's to mend: one line that names the value and what would be right."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

LONGEST_VALUE = 100
"""Characters of a value that an error shows."""


class RlkitError(Exception):
    """A mistake in what the user gave; the command line prints it in one line, without a traceback."""


class Misfit(RlkitError):
    """A value that an environment gave, or a caller, and that is not what its space or the interface says.

    `what` names the value, as in "an observation of shape (3,)", and `expected` says what would be right. Those who
    know whose value it is put its name and "returned" before it.
    """

    def __init__(self, what: str, expected: str) -> None:
        self.what, self.expected = one_line(what), one_line(expected)
        super().__init__(what, expected)  # so that it survives pickling

    def __str__(self) -> str:
        return f"{self.what}; {self.expected}"


def one_line(text: str) -> str:
    """Puts a text on one line, although arrays and spaces in it may be printed on several."""
    return " ".join(text.split())


def told(error: BaseException) -> str:
    """Returns the class and the message of an exception of anybody's code, on one line."""
    try:
        message = one_line(f"{error}")
    except Exception:  # of a class whose own __str__ fails
        message = ""
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def shown(value: object) -> str:
    """Returns a value as errors show it: on one line, and cut where it would be long."""
    try:
        text = one_line(repr(value))
    except Exception:  # of an object whose own __repr__ fails, or an integer of more digits than Python prints
        text = f"<{type(value).__name__}>"
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 4]} ..."


@contextmanager
def one_error() -> Iterator[None]:
    """Raises an RlkitError without the errors of libraries that led to it, but with HYDRA_FULL_ERROR=1."""
    try:
        yield
    except RlkitError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        raise error.with_traceback(None) from None


def unknown(kind: str, value: object, choices: Iterable[str]) -> RlkitError:
    """The error for a name that does not exist: says the nearest one that does, and all of them when few."""
    names = sorted(choices)
    near = nearest(str(value), names)
    hint = f"; did you mean '{near}'?" if near else ""
    listing = f" (known: {', '.join(names)})" if 0 < len(names) <= 24 else ""
    return RlkitError(f"unknown {kind} '{value}'{hint}{listing}")


def nearest(value: str, names: Iterable[str]) -> str | None:
    """Returns the name that `value` is most likely a misspelling of; None if it is another word than all of them.

    That is the name with few of its letters changed, or the one that goes on, or begins, with `value`: the newest of
    several versions.
    """
    own, names = _letters(value), list(names)
    edits = {name: min(_edits(own, _letters(part)) for part in (name, name.rpartition(".")[2])) for name in names}
    fewest = min(edits.values(), default=len(own))
    if fewest <= min(3, max(1, len(own) // 2)):
        near = [name for name in names if edits[name] == fewest]
        return max(near, key=lambda name: (difflib.SequenceMatcher(None, own, _letters(name)).ratio(), name))
    parts = [name for name in edits if len(own) > 2 and re.search(rf"(^|[^a-z0-9]){re.escape(own)}", _letters(name))]
    shortest = min(map(len, parts), default=0)
    return max((name for name in parts if len(name) == shortest), default=None)


def _letters(name: str) -> str:
    return name.lower().replace("-", "_")


def _edits(one: str, other: str) -> int:
    """Counts the letters to change, insert, leave out or swap with their neighbour to make `one` of `other`."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one):
        before, last, row = row, before, [i + 1]
        for j, target in enumerate(other):
            row.append(min(before[j + 1] + 1, row[j] + 1, before[j] + (letter != target)))
            if i and j and letter == other[j - 1] and one[i - 1] == target:
                row[-1] = min(row[-1], last[j - 1] + 1)
    return row[-1]


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises RlkitError unless `value` is one of `choices`."""
    if value not in (known := list(choices)):
        raise unknown(name, value, known)


def check_range(
    name: str,
    value: float | None,
    low: float = float("-inf"),
    high: float = float("inf"),
    *,
    exclusive: bool = False,
) -> None:
    """Raises RlkitError unless low <= value <= high (low < value when `exclusive`); None passes."""
    if value is None:
        return
    too_low = value <= low if exclusive else value < low
    if too_low or value > high or value != value:
        limits = [f"{'greater than' if exclusive else 'at least'} {low:,}"] if low > float("-inf") else []
        limits += [f"at most {high:,}"] if high < float("inf") else []
        raise RlkitError(f"{name}={value} is out of range: it must be {' and '.join(limits)}")


def check_fields(
    config: object,
    prefix: str,
    *,
    counts: Iterable[str] = (),
    positive: Iterable[str] = (),
    not_negative: Iterable[str] = (),
    shares: Iterable[str] = (),
) -> None:
    """Checks fields of `config` by kind: `counts` >= 1, `positive` > 0, `not_negative` >= 0, `shares` in [0, 1].

    Raises RlkitError, which names the first wrong one as `prefix.field`; None passes.
    """
    for names, low, high, exclusive in (
        (counts, 1, float("inf"), False),
        (positive, 0, float("inf"), True),
        (not_negative, 0, float("inf"), False),
        (shares, 0, 1, False),
    ):
        for name in names:
            check_range(f"{prefix}.{name}", getattr(config, name), low, high, exclusive=exclusive)
