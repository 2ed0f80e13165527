"""Objects as plain data: the attributes of an environment, and of the objects in it, read and written one by one.

Most environments are Python objects whose attributes are numbers, arrays, generators and other such objects; an
emulator of ale-py is read by its own means. Nothing that is stored can be executed: what is restored are values, in
objects that are there already.
"""

from __future__ import annotations

import enum
import functools
import logging
import random
import re
import types
from abc import ABCMeta
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from rlkit.spaces import Array

Node = Any
"""A value as JSON has it, with arrays in it: None, a bool, a number, a string, or a dict that says its `kind`."""

SCALARS = (type(None), bool, int, float, str)
CONSTANTS = (
    *(type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, functools.partial),
    *(EnvSpec, np.dtype, np.ufunc, re.Pattern, PurePath, logging.Logger, range),
)
"""Types of values that stay as the constructor made them."""
SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
TABLE = 64
"""Items from which on a list or dict is large."""
STICKY = (
    "the emulator repeats actions at random, and does not tell which action it would repeat: the first frame may "
    "differ from that of an uninterrupted run"
)
"""The remark about Atari's sticky actions."""


class Unreadable(Exception):
    """Raised for a value that is more than plain data; the text says where it is."""


class Unrestorable(Exception):
    """Raised if an environment is not made like the one whose state was read; the text says where it differs."""


class Reader:
    """Reads the attributes of an object, and of the objects in them; `partly` leaves out those that cannot be read.

    `tables` are copies of large lists and dicts of plain values as they were at first, by their places. One that has
    not changed is not read again: a new environment has it, too. Those that are read are added.
    """

    def __init__(self, tables: dict[str, Any] | None = None, *, partly: bool = False) -> None:
        self._partly = partly
        self._tables = tables
        self.remarks: dict[str, None] = {}
        """Sentences about state that is not in what was read, in the order in which they were found."""
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no other object takes the place of one that was seen

    def read(self, value: Any, place: str, *, contained: bool = False) -> Node:
        """Returns a value as plain data; an object in a container could not be restored, and is not read.

        Raises Unreadable, unless the reader reads partly.
        """
        if type(value) in SCALARS:
            return value
        if isinstance(value, enum.Enum):
            return {"kind": "enum", "name": value.name}
        if isinstance(value, CONSTANTS):
            return {"kind": "constant"}
        if isinstance(value, np.str_ | np.bytes_):
            return {"kind": "texts", **_read_texts(np.asarray(value)), "single": True}
        if isinstance(value, np.generic):
            return {"kind": "number", "value": np.asarray(value)}
        if id(value) in self._seen:
            return {"kind": "seen", "number": self._seen[id(value)]}
        self._seen[id(value)] = number = len(self._kept)
        self._kept.append(value)
        return {"number": number, **self._read_once(value, place, contained)}

    def _read_once(self, value: Any, place: str, contained: bool) -> dict[str, Any]:
        large = self._tables is not None and isinstance(value, list | tuple | dict) and len(value) >= TABLE
        if large and self._tables and self._tables.get(place) == value:
            return {"kind": "constant"}
        try:
            node = self._read_new(value, place, contained)
        except Unreadable:
            if self._partly:
                return {"kind": "constant"}
            raise
        if large and self._tables is not None and _is_table(node):
            self._tables.setdefault(place, _copied(value))
        return node

    def _read_new(self, value: Any, place: str, contained: bool) -> dict[str, Any]:
        if (of_generator := _read_generator(value)) is not None:
            return of_generator
        if type(value) is np.ndarray and value.dtype.kind in "biuf":
            if isinstance(value.base, np.ndarray) and id(value.base) in self._seen:
                raise Unreadable(f"{place} is a view of another array")
            return {"kind": "array", "value": value.copy()}
        if type(value) is np.ndarray and value.dtype.kind in "SU":
            return {"kind": "texts", **_read_texts(value), "single": False}
        if (of_container := self._read_container(value, place)) is not None:
            return of_container
        if isinstance(value, gym.Space):
            parts = value.spaces if isinstance(value, gym.spaces.Dict | gym.spaces.Tuple) else ()
            inner = parts.values() if isinstance(parts, Mapping) else parts
            generators = [self.read(space._np_random, f"{place}._np_random") for space in (value, *inner)]
            return {"kind": "space", "generators": generators}
        if isinstance(value, bytes):
            return {"kind": "bytes", "value": np.frombuffer(value, np.uint8)}
        if _is_emulator(value):
            if value.getFloat("repeat_action_probability"):
                self.remarks[STICKY] = None
            return {
                "kind": "emulator",
                "value": np.frombuffer(value.cloneState(include_rng=True).serialize(), np.uint8),
            }
        if contained or not _is_plain(type(value)):
            raise Unreadable(f"{place} is a {type(value).__qualname__}")
        attributes = {name: self.read(item, f"{place}.{name}") for name, item in vars(value).items()}
        of_class = {name: self.read(space, f"{place}.{name}") for name, space in _spaces_of_class(value).items()}
        return {"kind": "object", "class": type(value).__qualname__, "attributes": attributes, "spaces": of_class}

    def _read_container(self, value: Any, place: str) -> dict[str, Any] | None:
        """Returns a list, tuple, set, deque or dict with all that is in it; None for other values."""
        kind: type[Any] = type(value)
        if kind is dict:
            keys = [self.read(key, f"a key of {place}", contained=True) for key in value]
            items = [self.read(item, f"{place}[{key!r}]", contained=True) for key, item in value.items()]
            return {"kind": "dict", "items": [list(pair) for pair in zip(keys, items, strict=True)]}
        name = "deque" if kind is deque else next((name for name, made in SEQUENCES.items() if made is kind), None)
        if name is None:
            return None
        items = [self.read(item, f"{place}[{i}]", contained=True) for i, item in enumerate(value)]
        return {"kind": name, "items": items, **({"most": value.maxlen} if kind is deque else {})}


def _copied(table: Any) -> Any:
    """Copies lists, tuples and dicts, and no values: as long as those stay, comparing takes next to no time."""
    if isinstance(table, dict):
        return {key: _copied(item) for key, item in table.items()}
    if isinstance(table, list | tuple):
        return type(table)(map(_copied, table))
    return table


def _is_table(node: Node) -> bool:
    """True if a node is of lists, tuples and dicts of plain values only, which can be compared."""
    if not isinstance(node, dict) or node["kind"] in ("number", "seen"):
        return True
    if node["kind"] in ("list", "tuple"):
        return all(map(_is_table, node["items"]))
    return node["kind"] == "dict" and all(_is_table(key) and _is_table(item) for key, item in node["items"])


class Writer:
    """Gives the attributes of an object the values that a reader returned; `partly` leaves out what does not fit."""

    def __init__(self, *, partly: bool = False) -> None:
        self._partly = partly
        self._restored: dict[int, Any] = {}

    def restored(self, node: Node, current: Any, place: str) -> Any:
        """Returns the value that a node stands for; `current` is what is in its place now, and may be changed.

        Raises Unrestorable where an object of another kind is there.
        """
        if not isinstance(node, dict):
            return node
        kind = node["kind"]
        if kind == "number":
            return node["value"][()]
        if kind == "enum":
            return self._enum(node["name"], current, place)
        if kind == "seen":
            if node["number"] not in self._restored:
                if self._partly:
                    return current
                raise Unrestorable(f"{place} was an object that is not there now")
            return self._restored[node["number"]]
        number = node.get("number", -1)
        self._restored[number] = current  # before its attributes, which may lead back to it
        self._restored[number] = value = self._new(kind, node, current, place)
        return value

    def _new(self, kind: str, node: Mapping[str, Any], current: Any, place: str) -> Any:
        if kind == "constant":
            return current
        if kind == "array":
            return node["value"].copy()
        if kind in SEQUENCES or kind == "deque":
            there = list(current) if isinstance(current, list | tuple | deque) else []
            there += [None] * (len(node["items"]) - len(there))
            items = [self.restored(item, now, f"{place}[]") for item, now in zip(node["items"], there, strict=False)]
            return deque(items, node["most"]) if kind == "deque" else SEQUENCES[kind](items)
        if kind == "dict":
            now = current if isinstance(current, dict) else {}
            keys = [self.restored(key, None, place) for key, _ in node["items"]]
            return {
                key: self.restored(item, now.get(key), f"{place}[{key!r}]")
                for key, (_, item) in zip(keys, node["items"], strict=True)
            }
        if kind == "texts":
            texts = np.frombuffer(node["value"].tobytes(), _text_type(node["dtype"])).reshape(node["shape"]).copy()
            return texts[()] if node["single"] else texts
        if kind == "bytes":
            return node["value"].tobytes()
        if kind == "emulator":
            return _restored_emulator(current, node["value"].tobytes(), place)
        if kind == "space":
            return self._space(node["generators"], current, place)
        if kind == "object":
            return self._object(node, current, place)
        return _restored_generator(kind, node)

    def _object(self, node: Mapping[str, Any], current: Any, place: str) -> Any:
        if type(current).__qualname__ != node["class"] or not _is_plain(type(current)):
            if self._partly:
                return current
            raise Unrestorable(f"{place} is a {type(current).__qualname__} now and was a {node['class']}")
        attributes, spaces = vars(current), _spaces_of_class(current)
        for name, item in node["spaces"].items():
            self.restored(item, spaces.get(name), f"{place}.{name}")
        for name, item in node["attributes"].items():
            attributes[name] = self.restored(item, attributes.get(name), f"{place}.{name}")
        if not self._partly:
            for name in set(attributes) - set(node["attributes"]):
                del attributes[name]
        return current

    def _space(self, generators: list[Node], current: Any, place: str) -> Any:
        parts = current.spaces if isinstance(current, gym.spaces.Dict | gym.spaces.Tuple) else ()
        inner = parts.values() if isinstance(parts, Mapping) else parts
        spaces = (current, *inner)
        if not isinstance(current, gym.Space) or len(spaces) != len(generators):
            raise Unrestorable(f"{place} is another space now")
        for space, generator in zip(spaces, generators, strict=True):
            space._np_random = self.restored(generator, space._np_random, place)
        return current

    def _enum(self, name: str, current: Any, place: str) -> Any:
        if not isinstance(current, enum.Enum) or name not in type(current).__members__:
            raise Unrestorable(f"{place} is no member {name} of an enumeration")
        return type(current)[name]


def _spaces_of_class(value: Any) -> dict[str, gym.Space[Any]]:
    """Returns the spaces that an environment has from its class, whose generators it may draw from."""
    names = ("action_space", "observation_space") if isinstance(value, gym.Env) else ()
    found = {name: getattr(type(value), name, None) for name in names if name not in vars(value)}
    return {name: space for name, space in found.items() if isinstance(space, gym.Space)}


def _read_texts(texts: Array) -> dict[str, Any]:
    flat = np.frombuffer(texts.tobytes(), np.uint8)
    return {"value": flat, "dtype": texts.dtype.str, "shape": list(texts.shape)}


def _text_type(name: str) -> np.dtype[Any]:
    if not re.fullmatch(r"[<>|=][SU]\d+", name):
        raise Unrestorable(f"texts of the type {name}")
    return np.dtype(name)


_plain: dict[Any, bool] = {}
"""Classes that were looked at, and whether `_is_plain` is true of them."""


def _is_plain(kind: type[Any]) -> bool:
    """True if objects of a class are nothing but their attributes: all of its bases are written in Python."""
    if kind not in _plain:
        _plain[kind] = _has_plain_bases(kind)
    return _plain[kind]


def _has_plain_bases(kind: type[Any]) -> bool:
    return all(
        type(base) in (type, ABCMeta) and "__slots__" not in vars(base) and "__dict__" in dir(base) and _in_python(base)
        for base in kind.__mro__
        if base is not object and getattr(base, "__module__", "") not in ("typing", "abc", "collections.abc")
    )


def _in_python(kind: type[Any]) -> bool:
    return bool(kind.__flags__ & 1 << 9) and "__module__" in vars(kind) and "__weakref__" in dir(kind)


def _is_emulator(value: Any) -> bool:
    return type(value).__name__ == "ALEInterface" and hasattr(value, "cloneState")


def _restored_emulator(current: Any, state: bytes, place: str) -> Any:
    if not _is_emulator(current):
        raise Unrestorable(f"{place} is no emulator now")
    from ale_py import ALEState

    current.restoreState(ALEState(state))
    return current


def _read_generator(value: Any) -> dict[str, Any] | None:
    """Returns the state of a generator of random numbers; None for all other values."""
    if isinstance(value, np.random.Generator):
        return {"kind": "Generator", "state": _plain_state(value.bit_generator.state)}
    if isinstance(value, np.random.RandomState):
        return {"kind": "RandomState", "state": _plain_state(value.get_state(legacy=False))}
    if type(value) is random.Random:
        version, internal, gauss = value.getstate()
        return {"kind": "Random", "state": {"version": version, "internal": list(internal), "gauss": gauss}}
    return None


def _plain_state(state: Any) -> Any:
    return {name: _plain_state(item) for name, item in state.items()} if isinstance(state, Mapping) else state


BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


def _restored_generator(kind: str, node: Mapping[str, Any]) -> Any:
    state = node["state"]
    if kind == "Random":
        generator = random.Random()
        generator.setstate((state["version"], tuple(state["internal"]), state["gauss"]))
        return generator
    if kind not in ("Generator", "RandomState") or state["bit_generator"] not in BIT_GENERATORS:
        raise Unrestorable(f"a generator of kind {kind}")
    bits = getattr(np.random, state["bit_generator"])()
    if kind == "Generator":
        bits.state = state
        return np.random.Generator(bits)
    legacy = np.random.RandomState(bits)
    legacy.set_state(state)
    return legacy
