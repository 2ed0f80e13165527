"""Observation and action spaces as JSON, so that loading a model needs neither a pickle nor its environment."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces

from rlkit.errors import RlkitError, unknown
from rlkit.spaces import Array

SPACES = ("Box", "Discrete", "MultiDiscrete", "MultiBinary", "Dict", "Tuple")
"""Kinds of spaces that can be saved."""


def to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """Returns the space as a dict of JSON values; raises RlkitError for a kind of space that is not in `SPACES`.

    A bound of a Box that is equal everywhere is stored as one number instead of an array. Infinities are the strings
    "inf" and "-inf", because JSON has none.
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


def from_json(data: dict[str, Any]) -> spaces.Space[Any]:
    """Makes the space that `to_json` described; raises RlkitError for an unknown type, KeyError for a missing field."""
    match data["type"]:
        case "Box":
            shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
            low, high = (_bound_from_json(data[name], shape, dtype) for name in ("low", "high"))
            return spaces.Box(low, high, shape, dtype)
        case "Discrete":
            return spaces.Discrete(data["n"], start=data["start"], dtype=np.dtype(data["dtype"]))
        case "MultiDiscrete":
            dtype = np.dtype(data["dtype"])
            return spaces.MultiDiscrete(np.array(data["nvec"]), dtype=dtype, start=np.array(data["start"]))
        case "MultiBinary":
            return spaces.MultiBinary(data["n"])
        case "Dict":
            return spaces.Dict([(key, from_json(part)) for key, part in data["spaces"]])
        case "Tuple":
            return spaces.Tuple([from_json(part) for part in data["spaces"]])
    raise unknown("type of space", data["type"], SPACES)


def _bound_to_json(bound: Array) -> Any:
    """Returns one number if the bound is equal everywhere, and otherwise nested lists."""
    if bound.size and (bound == bound.flat[0]).all():
        return _number_to_json(bound.flat[0].item())
    return _nested_to_json(bound.tolist())


def _nested_to_json(value: Any) -> Any:
    return [_nested_to_json(item) for item in value] if isinstance(value, list) else _number_to_json(value)


def _number_to_json(number: Any) -> Any:
    return str(number) if math.isinf(number) else number


def _bound_from_json(bound: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    # NumPy reads the strings "inf" and "-inf" when it makes floats.
    return np.broadcast_to(np.array(bound, dtype=dtype), shape).copy()
