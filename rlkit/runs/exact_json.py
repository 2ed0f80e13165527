"""Values as JSON that is read back as those very values: JSON itself makes texts of a dict's keys, `{0: 1.0}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PAIRS = "$pairs"
"""The only key of the JSON object that stands for a dict whose keys are not all texts; its value lists the items."""


def to_json(value: Any) -> Any:
    """Returns a value of dicts, lists, texts, numbers, bools and None as JSON has it."""
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and key != PAIRS for key in value):
            return {key: to_json(item) for key, item in value.items()}
        return {PAIRS: [[key, to_json(item)] for key, item in value.items()]}
    return [to_json(item) for item in value] if isinstance(value, list) else value


def from_json(value: Any) -> Any:
    """Returns the value that `to_json` was given; raises ValueError for pairs that are none."""
    if isinstance(value, dict):
        if value.keys() != {PAIRS}:
            return {key: from_json(item) for key, item in value.items()}
        try:
            return {key: from_json(item) for key, item in value[PAIRS]}
        except TypeError as error:
            raise ValueError(f"{PAIRS} holds no pairs of a key and a value") from error
    return [from_json(item) for item in value] if isinstance(value, list) else value
