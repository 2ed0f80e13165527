"""Files of a run's whole state: nested dicts and lists of numbers and arrays, in one safetensors file.

The arrays are tensors of the file, as bytes; all else is JSON in its header, with the number of an array in its place.
Nothing in such a file can be executed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlkit.runs.reading import MOST_CONTAINERS, MOST_VALUES, checked, damaged, parse_json, shown
from rlkit.runs.tensor_files import LARGEST_HEADER, Header, load_tensors, open_tensors, write_tensors
from rlkit.spaces import Array

if TYPE_CHECKING:
    import torch

TREE = "state"
"""The key in the header of all that is not an array."""
DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
"""Types of numbers that arrays can have."""
MANY = 16
"""Whole numbers in a list from which on they are kept as an array, since a header is read as a whole."""
HEADER_PER_TENSOR = 100
"""Bytes of a header that describe one tensor, at most."""
WORD = 2**63
"""Beyond this, whole numbers do not fit into an array."""


def write_state(file: Path, state: Mapping[str, Any], metadata: Mapping[str, str], *, durable: bool = True) -> None:
    """Writes a state to `file`, whole or not at all.

    It may hold None, bools, numbers, strings, arrays, tensors, lists, and dicts whose keys are strings or whole
    numbers; tuples become lists. Raises TypeError for anything else, and RlkitError when the file cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_packed(state, tensors))
    # What could not be read again must not take the place of what can.
    if tree.count("[") + tree.count("{") > MOST_CONTAINERS or tree.count(",") > MOST_VALUES:
        raise TypeError(f"more than {MOST_CONTAINERS:,} lists and dicts, or {MOST_VALUES:,} values")
    if len(tree) + HEADER_PER_TENSOR * len(tensors) > LARGEST_HEADER:
        raise TypeError(f"{len(tree):,} characters and {len(tensors):,} arrays, which do not fit into a header")
    write_tensors(file, tensors, {**metadata, TREE: tree}, durable=durable)


def read_state(file: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Reads the state in a file, and its metadata; raises RlkitError if the file is missing or damaged."""
    with open_tensors(file) as header:
        tree = parse_json(header.metadata.get(TREE, ""), file)
        tensors = load_tensors(header)
        metadata = {name: text for name, text in header.metadata.items() if name != TREE}
        return checked(_unpacked(tree, tensors, header), dict[str, Any], f"{file}"), metadata


def _packed(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Returns a value as JSON, and puts the arrays and tensors in it into `tensors`."""
    import torch

    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu()
        return {"tensor": name}
    if isinstance(value, np.ndarray | np.generic):
        array, name = np.asarray(value), str(len(tensors))
        tensors[name] = torch.from_numpy(_bytes_of(array))
        return {"array": name, "dtype": array.dtype.name, "shape": list(array.shape)}
    if isinstance(value, list | tuple):
        if len(value) >= MANY and all(type(item) is int and -WORD <= item < WORD for item in value):
            return {"integers": _packed(np.array(value, np.int64), tensors)}
        return [_packed(item, tensors) for item in value]
    if isinstance(value, Mapping):
        pairs = [(_key(key), _packed(item, tensors)) for key, item in value.items()]
        return {"dict": dict(pairs)} if all(isinstance(key, str) for key in value) else {"pairs": pairs}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__}: {shown(value)}")


def _key(key: Any) -> str | int:
    if not isinstance(key, str | int) or isinstance(key, bool):
        raise TypeError(f"the key {shown(key)}, which is no string and no whole number")
    return key


def _unpacked(value: Any, tensors: Mapping[str, torch.Tensor], header: Header) -> Any:
    """Returns the value that `_packed` was given; raises RlkitError for anything that it could not have returned."""
    if isinstance(value, list):
        return [_unpacked(item, tensors, header) for item in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return _array(value, tensors, header)
    if list(value) == ["tensor"] and value["tensor"] in tensors:
        return tensors[value["tensor"]]
    if list(value) == ["pairs"]:
        pairs = checked(value["pairs"], list[list[Any]], f"{header.file}: pairs")
        if all(len(pair) == 2 and isinstance(pair[0], str | int) for pair in pairs):
            return {key: _unpacked(item, tensors, header) for key, item in pairs}
    if list(value) == ["integers"]:
        return _unpacked(value["integers"], tensors, header).tolist()
    if list(value) == ["float"] and value["float"] in ("nan", "inf", "-inf"):
        return float(value["float"])
    if list(value) == ["dict"] and isinstance(value["dict"], dict):
        return {key: _unpacked(item, tensors, header) for key, item in value["dict"].items()}
    raise damaged(header.file, f"{shown(value)} in its state")


def _array(described: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], header: Header) -> Array:
    shape = checked(described.get("shape"), list[int], f"{header.file}: shape of an array")
    name, dtype = described["array"], described.get("dtype")
    if name not in tensors or dtype not in DTYPES or min(shape, default=0) < 0:
        raise damaged(header.file, f"{shown(dict(described))} in its state")
    flat = tensors[name].numpy()
    if flat.dtype != np.uint8 or flat.ndim != 1 or flat.nbytes != math.prod(shape) * np.dtype(dtype).itemsize:
        raise damaged(header.file, f"the array {name} has {flat.nbytes} bytes: expected {shape} of {dtype}")
    found: Array = flat.view(dtype).reshape(shape)
    return found


def _bytes_of(array: Array) -> Array:
    if array.dtype.name not in DTYPES:
        raise TypeError(f"an array of {array.dtype}")
    flat: Array = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return flat if flat.flags.writeable else flat.copy()  # torch wants to be able to write into it
