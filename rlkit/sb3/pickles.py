"""Reading of pickles without executing them: opcodes become numbers, texts, lists, dicts and arrays, and nothing else.

A pickle is a program that may call anything. This reader knows its opcodes, imports nothing and calls nothing: a class
or a function stays a `Global`, a name, and what it would have made is an `Unmade`, its name beside its arguments. Only
NumPy's arrays, numbers and types are built, from their bytes.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rlkit.spaces import Array

DTYPE = re.compile(r"[biuf][1248]")
"""The types of NumPy whose numbers are read: truth values, integers and floats."""


class Global(NamedTuple):
    """The name of a class or a function, which is never imported."""

    module: str
    name: str


@dataclass(eq=False)
class Unmade:
    """An object that was not made: the class or function that would have made it, its arguments, and its state."""

    maker: Global
    arguments: Any
    state: Any = None

    def get(self, name: str) -> Any:
        """Returns an attribute in the object's state, None if it has none of that name."""
        return self.state.get(name) if isinstance(self.state, dict) else None


class PickleError(ValueError):
    """Bytes that are no pickle, or one that has other opcodes than those of plain data."""


class _Mark:
    """The place on the stack where a tuple, a list or a dict begins."""


def read_pickle(content: bytes) -> Any:
    """Returns what a pickle holds, with every object of a class as an `Unmade`.

    Raises PickleError for bytes that are no pickle of plain data.
    """
    try:
        return _Machine().run(content)
    except PickleError:
        raise
    except Exception as error:  # of opcodes in an order that makes no sense: the bytes may be anything
        raise PickleError(f"it is no pickle of plain data ({type(error).__name__})") from error


class _Machine:
    """The stack and the memo of a pickle, and the opcodes that change them."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        """Follows the opcodes up to STOP, and returns what is on the stack then."""
        for opcode, argument, _ in pickletools.genops(content):
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in CONSTANTS:
                self.stack.append(CONSTANTS[name]())
            elif name in LITERALS:
                self.stack.append(argument)
            elif name in OPCODES:
                OPCODES[name](self, argument)
            elif name not in IGNORED:
                raise PickleError(f"it has the opcode {name}, which plain data do without")
        raise PickleError("it ends before its end")

    def pop(self, count: int) -> list[Any]:
        """Takes so many values off the stack."""
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        if len(taken) < count:
            raise PickleError("it takes more from its stack than there is")
        return taken

    def pop_mark(self) -> list[Any]:
        """Takes all values above the last mark off the stack, and the mark."""
        start = max(i for i, value in enumerate(self.stack) if isinstance(value, _Mark))
        taken = self.stack[start + 1 :]
        del self.stack[start:]
        return taken

    def push_global(self, _: Any) -> None:
        """STACK_GLOBAL: a module and a name become a `Global`."""
        module, name = self.pop(2)
        self.stack.append(Global(str(module), str(name)))

    def reduce(self, _: Any) -> None:
        """REDUCE: a call, which makes an array, a number or a type of NumPy, or is left unmade."""
        maker, arguments = self.pop(2)
        self.stack.append(_made(maker, arguments))

    def new(self, _: Any) -> None:
        """NEWOBJ: an object of a class, left unmade."""
        maker, arguments = self.pop(2)
        self.stack.append(_unmade(maker, arguments))

    def new_with_keywords(self, _: Any) -> None:
        """NEWOBJ_EX: an object of a class made with keywords, left unmade."""
        maker, arguments, keywords = self.pop(3)
        self.stack.append(_unmade(maker, (arguments, keywords)))

    def new_above_mark(self, _: Any) -> None:
        """OBJ: an object of the class that stands above the last mark, left unmade."""
        maker, *arguments = self.pop_mark()
        self.stack.append(_unmade(maker, tuple(arguments)))

    def new_of_name(self, argument: str) -> None:
        """INST: an object of a class by name, left unmade."""
        self.stack.append(_unmade(_global(argument), tuple(self.pop_mark())))

    def build(self, _: Any) -> None:
        """BUILD: the state of an object, which completes arrays and types of NumPy."""
        (state,) = self.pop(1)
        made = self.stack[-1]
        if isinstance(made, Unmade):
            made.state = state
            if made.maker in ARRAYS:
                self._replace(made, _array_of_state(state))
        elif isinstance(made, np.dtype):
            self._replace(made, made.newbyteorder(state[1]) if state[1] in "<>" else made)
        else:
            raise PickleError(f"it gives a state to {type(made).__name__}, which has none")

    def _replace(self, old: Any, new: Any) -> None:
        """Puts a completed value in the place of the one that was begun, which the memo already refers to."""
        self.stack[-1] = new
        for key, value in self.memo.items():
            if value is old:
                self.memo[key] = new

    def append(self, values: list[Any]) -> None:
        """APPEND and APPENDS: values into the list on the stack; those of an object of a class are left out."""
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)
        elif not isinstance(self.stack[-1], Unmade):
            raise PickleError("it appends to what is no list")

    def set_items(self, values: list[Any]) -> None:
        """SETITEM and SETITEMS: keys and values into the dict on the stack; an object's own are left out."""
        if isinstance(self.stack[-1], dict):
            self.stack[-1].update(zip(values[::2], values[1::2], strict=True))
        elif not isinstance(self.stack[-1], Unmade):
            raise PickleError("it sets items of what is no dict")

    def add(self, values: list[Any]) -> None:
        """ADDITEMS: values into the set on the stack."""
        self.stack[-1].update(values)

    def memoize(self, key: int | None) -> None:
        """PUT and MEMOIZE: remembers what is on the stack."""
        self.memo[len(self.memo) if key is None else int(key)] = self.stack[-1]


def _global(argument: str) -> Global:
    module, _, name = argument.partition(" ")
    return Global(module, name)


def _pairs(values: list[Any]) -> dict[Any, Any]:
    return dict(zip(values[::2], values[1::2], strict=True))


IGNORED = {"PROTO", "FRAME", "READONLY_BUFFER"}
"""Opcodes that change nothing."""
CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "MARK": _Mark,
}
"""Opcodes that put a new value on the stack."""
LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}
"""Opcodes that put their own argument on the stack."""
OPCODES: Mapping[str, Callable[[_Machine, Any], object]] = {
    "GLOBAL": lambda machine, argument: machine.stack.append(_global(argument)),
    "STACK_GLOBAL": _Machine.push_global,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.new,
    "NEWOBJ_EX": _Machine.new_with_keywords,
    "OBJ": _Machine.new_above_mark,
    "INST": _Machine.new_of_name,
    "BUILD": _Machine.build,
    "APPEND": lambda machine, _: machine.append(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.append(machine.pop_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    "ADDITEMS": lambda machine, _: machine.add(machine.pop_mark()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.stack.append(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.stack.append(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.stack.append(tuple(machine.pop(3))),
    "LIST": lambda machine, _: machine.stack.append(machine.pop_mark()),
    "DICT": lambda machine, _: machine.stack.append(_pairs(machine.pop_mark())),
    "FROZENSET": lambda machine, _: machine.stack.append(frozenset(machine.pop_mark())),
    "POP": lambda machine, _: machine.pop(1),
    "POP_MARK": lambda machine, _: machine.pop_mark(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "PUT": _Machine.memoize,
    "BINPUT": _Machine.memoize,
    "LONG_BINPUT": _Machine.memoize,
    "MEMOIZE": _Machine.memoize,
    "GET": lambda machine, key: machine.stack.append(machine.memo[int(key)]),
    "BINGET": lambda machine, key: machine.stack.append(machine.memo[key]),
    "LONG_BINGET": lambda machine, key: machine.stack.append(machine.memo[key]),
}
"""Opcodes that work on the stack."""


# Arrays, numbers and types of NumPy


def _makers(module: str, name: str) -> set[Global]:
    """Names a function of NumPy by the module that it is in now, and the one where it was before NumPy 2."""
    return {Global(f"numpy.{core}.{module}", name) for core in ("core", "_core")}


ARRAYS = _makers("multiarray", "_reconstruct")
"""The function that makes an empty array, which a state then fills."""


def _made(maker: Any, arguments: Any) -> Any:
    if maker == Global("numpy", "dtype"):
        return _dtype(arguments[0])
    if maker in _makers("numeric", "_frombuffer"):
        buffer, dtype, shape, order = arguments
        return _array(buffer, dtype, shape, order)
    if maker in _makers("multiarray", "scalar"):
        return _array(arguments[1], arguments[0], (), "C")[()]
    if maker == Global("_codecs", "encode") and arguments[1] == "latin1":  # bytes, before protocol 3
        return str(arguments[0]).encode("latin1")
    if maker == Global("collections", "OrderedDict"):
        return dict(*arguments)
    return _unmade(maker, arguments)


def _unmade(maker: Any, arguments: Any) -> Unmade:
    if isinstance(maker, Unmade):  # a class or a function that a call would have made, as of functions pickled whole
        maker = maker.maker
    if not isinstance(maker, Global):
        raise PickleError("it calls what is no class and no function")
    return Unmade(maker, arguments)


def _dtype(name: Any) -> Any:
    """Returns a type of numbers; any other stays a name."""
    if isinstance(name, str) and DTYPE.fullmatch(name):
        return np.dtype(name)
    return Unmade(Global("numpy", "dtype"), name)


def _array_of_state(state: Any) -> Any:
    """Returns the array of the state that `_reconstruct` left open; one of objects, texts or dates stays unmade."""
    _, shape, dtype, fortran, buffer = state
    if not isinstance(dtype, np.dtype):
        return Unmade(Global("numpy", "ndarray"), ())
    return _array(buffer, dtype, shape, "F" if fortran else "C")


def _array(buffer: Any, dtype: Any, shape: Any, order: str) -> Array:
    if not isinstance(dtype, np.dtype) or not isinstance(buffer, bytes | bytearray):
        raise PickleError("it has an array that is not made of numbers")
    flat = np.frombuffer(bytes(buffer), dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C").copy()
