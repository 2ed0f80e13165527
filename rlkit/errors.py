"""Errors that are the user's to mend: one line that names the value and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

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


def shown(value: object) -> str:
    """Returns a value as errors show it: on one line, and cut where it would be long."""
    try:
        text = one_line(repr(value))
    except Exception:  # of an object whose own __repr__ fails, or an integer of more digits than Python prints
        text = f"<{type(value).__name__}>"
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 4]} ..."


def unknown(kind: str, value: object, choices: Iterable[str]) -> RlkitError:
    """The error for a name that does not exist: says the nearest one that does, and all of them when few."""
    names = sorted(choices)
    nearest = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
    listing = f" (known: {', '.join(names)})" if len(names) <= 24 else ""
    return RlkitError(f"unknown {kind} '{value}'{hint}{listing}")


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
