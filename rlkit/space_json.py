"""Observation and action spaces as JSON, so that loading a model needs neither a pickle nor its environment."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from rlkit.errors import RlkitError, unknown
from rlkit.runs.reading import checked, shown
from rlkit.spaces import Array

SPACES = ("Box", "Discrete", "MultiDiscrete", "MultiBinary", "Dict", "Tuple")
"""Kinds of spaces that can be saved."""

DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
"""Types of numbers that spaces can have."""


def to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """Returns the space as a dict of JSON values; raises RlkitError for one that is not in `SPACES` or too large.

    A bound of a Box that is equal everywhere is stored as one number instead of an array, and one that repeats along a
    dimension, such as that of a picture's channels, once. Infinities are the strings "inf" and "-inf", because JSON has
    none.
    """
    match space:
        case spaces.Box():
            return {
                "type": "Box",
                "low": _bound_to_json(space.low),
                "high": _bound_to_json(space.high),
                "shape": list(space.shape),
                "dtype": space.dtype.name,
            }
        case spaces.Discrete():
            return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": space.dtype.name}
        case spaces.MultiDiscrete():
            return {
                "type": "MultiDiscrete",
                "nvec": space.nvec.tolist(),
                "start": space.start.tolist(),
                "dtype": space.dtype.name,
            }
        case spaces.MultiBinary():
            return {"type": "MultiBinary", "n": space.n}
        case spaces.Dict():
            # A list of pairs, because the order of the keys is part of the space.
            return {"type": "Dict", "spaces": [[key, to_json(part)] for key, part in space.spaces.items()]}
        case spaces.Tuple():
            return {"type": "Tuple", "spaces": [to_json(part) for part in space.spaces]}
    raise RlkitError(f"a {type(space).__name__} space cannot be saved: {space} (known: {', '.join(SPACES)})")


def from_json(data: Any, name: str = "space", most_bytes: int = 2**30) -> spaces.Space[Any]:
    """Makes the space that `to_json` described; `name` is what messages call it.

    Raises RlkitError for anything else, and for a space that would take more than `most_bytes` of memory.
    """
    return _read(data, name, [most_bytes])


def _read(data: Any, name: str, budget: list[int]) -> spaces.Space[Any]:
    """Makes a space, whose bytes are taken off the budget first."""
    fields = checked(data, dict[str, Any], name)
    kind = fields.get("type")
    if kind not in SPACES:
        raise unknown(f"type of {name}", shown(kind).strip("'"), SPACES)
    missing = [field for field in FIELDS[kind] if field not in fields]
    if missing:
        raise RlkitError(f"{name} has no {missing[0]}: expected a {kind} of {', '.join(FIELDS[kind])}")
    try:
        return READERS[kind](fields, name, budget)
    except (ValueError, TypeError, OverflowError, AssertionError) as error:  # NumPy's and Gymnasium's
        raise RlkitError(f"{name} is no {kind}: {' '.join(str(error).split())[:200]}") from error


def _read_box(fields: Mapping[str, Any], name: str, budget: list[int]) -> spaces.Space[Any]:
    shape, dtype = _shape(fields["shape"], f"{name}.shape"), _dtype(fields["dtype"], f"{name}.dtype", "biuf")
    _take(budget, math.prod(shape) * (2 * dtype.itemsize + 2), name)  # both bounds, and where they are finite
    low, high = (_bound_from_json(fields[bound], shape, dtype, f"{name}.{bound}") for bound in ("low", "high"))
    if not np.all(low <= high):
        raise RlkitError(f"{name}: low is above high, or is no number")
    return spaces.Box(low, high, shape, dtype)


def _read_discrete(fields: Mapping[str, Any], name: str, budget: list[int]) -> spaces.Space[Any]:
    n, start = (checked(fields[key], int, f"{name}.{key}") for key in ("n", "start"))
    _take(budget, n, name)  # it becomes one number for each of them
    return spaces.Discrete(n, start=start, dtype=_dtype(fields["dtype"], f"{name}.dtype", "iu"))


def _read_multi_discrete(fields: Mapping[str, Any], name: str, budget: list[int]) -> spaces.Space[Any]:
    dtype = _dtype(fields["dtype"], f"{name}.dtype", "iu")
    nvec, start = (np.array(fields[key], dtype) for key in ("nvec", "start"))
    _take(budget, int(nvec.astype(float).sum()), name)
    return spaces.MultiDiscrete(nvec, dtype=dtype, start=start)


def _read_multi_binary(fields: Mapping[str, Any], name: str, budget: list[int]) -> spaces.Space[Any]:
    shape = _shape(fields["n"], f"{name}.n") if isinstance(fields["n"], list) else fields["n"]
    n = checked(shape, int, f"{name}.n") if not isinstance(shape, tuple) else shape
    _take(budget, math.prod(n) if isinstance(n, tuple) else n, name)
    return spaces.MultiBinary(n)


def _read_dict(fields: Mapping[str, Any], name: str, budget: list[int]) -> spaces.Space[Any]:
    pairs = checked(fields["spaces"], list[list[Any]], f"{name}.spaces")
    keys = [pair[0] for pair in pairs if len(pair) == 2 and isinstance(pair[0], str | int)]
    if len(set(keys)) < len(pairs):
        raise RlkitError(f"{name}.spaces: expected pairs of a name and a space, and no name twice")
    return spaces.Dict([(key, _read(part, f"{name}.{shown(key)}", budget)) for key, part in pairs])


def _read_tuple(fields: Mapping[str, Any], name: str, budget: list[int]) -> spaces.Space[Any]:
    parts = checked(fields["spaces"], list[Any], f"{name}.spaces")
    return spaces.Tuple([_read(part, f"{name}[{i}]", budget) for i, part in enumerate(parts)])


FIELDS = {
    "Box": ("low", "high", "shape", "dtype"),
    "Discrete": ("n", "start", "dtype"),
    "MultiDiscrete": ("nvec", "start", "dtype"),
    "MultiBinary": ("n",),
    "Dict": ("spaces",),
    "Tuple": ("spaces",),
}
READERS: dict[str, Callable[[Mapping[str, Any], str, list[int]], spaces.Space[Any]]] = {
    "Box": _read_box,
    "Discrete": _read_discrete,
    "MultiDiscrete": _read_multi_discrete,
    "MultiBinary": _read_multi_binary,
    "Dict": _read_dict,
    "Tuple": _read_tuple,
}
BYTES_PER_SPACE = 2**10
MOST_BOUNDS = 100_000
"""Different numbers in one bound of a Box that are saved; the file may have four bounds of so many."""


def _take(budget: list[int], size: int, name: str) -> None:
    if size < 0:
        raise RlkitError(f"{name} has a negative size")
    budget[0] -= size + BYTES_PER_SPACE
    if budget[0] < 0:
        raise RlkitError(f"{name} has {size:,} values or bytes: more than a model in the file beside it could take")


def _shape(value: Any, name: str) -> tuple[int, ...]:
    shape = tuple(checked(value, list[int], name))
    if len(shape) > 32 or min(shape, default=0) < 0:
        raise RlkitError(f"{name} is {shown(value)}: expected the sizes of an array")
    return shape


def _dtype(value: Any, name: str, kinds: str) -> np.dtype[Any]:
    known = [each for each in DTYPES if np.dtype(each).kind in kinds]
    if value not in known:
        raise RlkitError(f"{name} is {shown(value)}: expected one of {', '.join(known)}")
    found: np.dtype[Any] = np.dtype(value)
    return found


def _bound_to_json(bound: Array) -> Any:
    """Returns one number if the bound is equal everywhere, else nested lists, of length one where they repeat."""
    for axis, length in enumerate(bound.shape):
        if length > 1 and (bound == (first := bound.take([0], axis))).all():
            bound = first
    if bound.size == 1:
        return _number_to_json(bound.item())
    if bound.size > MOST_BOUNDS:
        raise RlkitError(
            f"a Box with {bound.size:,} bounds that do not repeat along any dimension cannot be saved: expected at "
            f"most {MOST_BOUNDS:,}; wider bounds that are equal would do"
        )
    return _nested_to_json(bound.tolist())


def _nested_to_json(value: Any) -> Any:
    return [_nested_to_json(item) for item in value] if isinstance(value, list) else _number_to_json(value)


def _number_to_json(number: Any) -> Any:
    return str(number) if math.isinf(number) else number


def _bound_from_json(bound: Any, shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> Array:
    # NumPy reads the strings "inf" and "-inf" when it makes floats.
    found = np.array(bound, dtype=dtype)
    if np.any(np.isnan(found)):
        raise RlkitError(f"{name} is not a number: expected a bound")
    return np.broadcast_to(found, shape).copy()
