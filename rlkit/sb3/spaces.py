"""Spaces of Gymnasium, and of Gym before it, out of pickles that were not executed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from rlkit.errors import RlkitError
from rlkit.sb3.pickles import Global, Unmade
from rlkit.space_json import SPACES, from_json

LARGEST_SPACE = 2**24
"""Bytes that a space may take beside those of the file that it is in."""


def read_space(pickled: Any, name: str, size: int) -> spaces.Space[Any]:
    """Makes the space that a pickle in a file of `size` bytes describes; `name` is what messages call it.

    Raises RlkitError for anything else, and for spaces of the user's own.
    """
    return from_json(_description(pickled, name), name, LARGEST_SPACE + size)


def _description(pickled: Any, name: str) -> dict[str, Any]:
    """Returns a space as `rlkit.space_json` describes it, from the state that its pickle gives it."""
    kind = pickled.maker.name if isinstance(pickled, Unmade) else None
    if kind not in SPACES or not re.match(r"gym(nasium)?\.spaces\.", pickled.maker.module):
        found = ".".join(pickled.maker) if isinstance(pickled, Unmade) else type(pickled).__name__
        raise RlkitError(f"{name} is {found}: expected one of Gymnasium's {', '.join(SPACES)}")
    parts = pickled.get("spaces")
    if kind == "Dict" and isinstance(parts, Mapping):
        return {"type": kind, "spaces": [[key, _leaf(part, f"{name}.{key}")] for key, part in parts.items()]}
    return _leaf(pickled, name)


def _leaf(pickled: Any, name: str) -> dict[str, Any]:
    """Describes a space without parts."""
    if not isinstance(pickled, Unmade) or pickled.maker.name in ("Dict", "Tuple"):
        raise RlkitError(f"{name} is a space within a space within a space: expected arrays and numbers in a Dict")
    n, nvec, start, dtype = (pickled.get(field) for field in ("n", "nvec", "start", "dtype"))
    if start is None:  # of a version that did not have it
        start = 0 if nvec is None else np.zeros_like(nvec)
    fields = {
        "low": pickled.get("low"),
        "high": pickled.get("high"),
        "shape": pickled.get("_shape"),
        "dtype": dtype.name if isinstance(dtype, np.dtype | Global) else "int64",
        "n": list(n) if isinstance(n, tuple) else n.item() if isinstance(n, np.integer) else n,
        "nvec": nvec,
        "start": start.item() if isinstance(start, np.integer) else start,
    }
    present = {key: value for key, value in fields.items() if value is not None}
    return {"type": pickled.maker.name, **present}
