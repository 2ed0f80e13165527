"""Values in Hydra's grammar, which all commands read: from Python, from `key=value`, and to stored files."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.grammar.utils import escape_special_characters
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, IntegerNode, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlkit.errors import RlkitError
from rlkit.system.dotted_paths import dotted_path
from rlkit.system.user_paths import user_path

HANDED_ON = ("env_kwargs", "network.module_args")
"""Fields whose values go to constructors of users' own, which must get what the user gave."""
MOST_BITS = 10_000
"""Size of the largest whole number from Python, which Python can still write in digits."""
_INTERPOLATION = re.compile(r"(\\*)\$\{")
"""The beginning of what OmegaConf resolves, with the backslashes before it, which escape it where they are odd."""
_HOME = re.compile(r"((?<=[=,\[:\s'\"])|(?<=file://))~[\w.-]*(?=[/,\]}\s'\"]|$)")
"""A home folder at the beginning of a value."""
_QUOTED_OR_HOME = re.compile(rf"'(\\.|[^'\\])*'|\"(\\.|[^\"\\])*\"|{_HOME.pattern}")


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parses overrides by Hydra's grammar; raises HydraException for one that it does not describe."""
    return OverridesParser.create().parse_overrides(list(overrides))


def apply(config: DictConfig, overrides: Sequence[str]) -> None:
    """Sets the values of overrides in a configuration, as Hydra does.

    Raises RlkitError for a sweep, and errors of Hydra for a key or a value that cannot be.
    """
    parsed = parse(overrides)
    for override in parsed:
        if override.is_sweep_override():
            key, _, value = str(override.input_line).partition("=")
            raise RlkitError(f"{key}={value}: expected one value; a list has brackets, [{value}]")
    ConfigLoaderImpl._apply_overrides_to_config(parsed, config)


def with_homes(arguments: Sequence[str]) -> list[str]:
    """Returns a command line with the home folder in place of each `~` that no shell has expanded.

    Hydra's grammar has no `~` in values. What is in quotes is a text, and stays, but in Hydra's own folders. Raises
    RlkitError for the home of a user that there is not.
    """
    expanded = [_with_home(argument) for argument in arguments]
    for i, option in enumerate(arguments[:-1]):
        if option in ("--config-dir", "-cd"):
            expanded[i + 1] = str(user_path(arguments[i + 1]))
    return expanded


def _with_home(argument: str) -> str:
    key, equals, value = argument.partition("=")
    pattern = _HOME if key.startswith("hydra.") else _QUOTED_OR_HOME

    def home(found: re.Match[str]) -> str:
        text = found.group()
        return escape_special_characters(str(user_path(text))) if text.startswith("~") else text

    return key + pattern.sub(home, equals + value)


def override(key: str, value: Any) -> str:
    """Returns `key=value` as it is written on the command line, which is read as that very value.

    A tuple is read as a list, but for those in HANDED_ON. Raises RlkitError for a value that cannot be written so.
    """
    text = f"{key}={_literal(key, value)}"
    try:
        (parsed,) = parse([text])
        back = OmegaConf.to_container(OmegaConf.create({"value": parsed.value()}), resolve=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise RlkitError(f"{key}={value!r} cannot be written as key=value: {str(error).splitlines()[0]}") from error
    assert isinstance(back, dict)
    if parsed.key_or_group != key.lstrip("+") or parsed.package is not None:
        raise RlkitError(f"'{key}' is no key: expected names with dots between them, such as agent.gamma")
    if repr(back["value"]) != repr(plain := _plain(value)):
        raise RlkitError(f"{key}={plain!r} would be read as {back['value']!r}; expected other keys or values")
    return text


def _check_handed_on(key: str, value: Any) -> None:
    """Raises RlkitError for a value that a run's files cannot hold, so that a constructor would get another one."""
    if isinstance(value, tuple | range):
        raise RlkitError(
            f"{key}={value!r}: a run's files have no {type(value).__name__}s; expected a list, {list(value)[:9]}"
        )
    if isinstance(value, Path):
        raise RlkitError(f"{key}={value!r}: a run's files have no paths; expected a text, {str(value)!r}")
    if isinstance(value, type):
        name = f"{value.__module__}.{value.__qualname__}"
        raise RlkitError(f"{key}={name}: a run's files have no classes; expected a text that the constructor looks up")


def _literal(key: str, value: Any) -> str:
    """Returns `value` as it is written on the command line; raises RlkitError, which names `key`, if it cannot be."""
    value = value.item() if isinstance(value, np.generic) else value
    if key.startswith(HANDED_ON):
        _check_handed_on(key, value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, type):
        return _literal(key, dotted_path(key, value))
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise RlkitError(f"{key}: a whole number of {value.bit_length():,} bits; expected at most {MOST_BITS:,}")
    if isinstance(value, int | float) and not isinstance(value, enum.Enum):
        return str(value)
    if isinstance(value, str | Path) and not isinstance(value, enum.Enum):
        return _quoted(key, str(value))
    if isinstance(value, Mapping):
        return (
            "{" + ",".join(f"{_key(key, name)}:{_literal(f'{key}.{name}', item)}" for name, item in value.items()) + "}"
        )
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return "[" + ",".join(_literal(key, item) for item in value) + "]"
    raise RlkitError(
        f"{key}={value!r}: expected None, a bool, a number, a string, a path, a class, or a list or dict of these"
    )


def _quoted(key: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RlkitError(f"{key}={text!r}: expected a text that is Unicode, which files can hold") from error
    return QuotedString(escaped(text), Quote.single).with_quotes()


def _key(key: str, name: object) -> str:
    """Returns a key of a dict as the command line has it."""
    if isinstance(name, bool | int | float):
        return _literal(key, name)
    if isinstance(name, str):
        return escape_special_characters(name)
    raise RlkitError(f"{key}: the key {name!r} is a {type(name).__name__}; expected a string, a number or a bool")


def _plain(value: Any) -> Any:
    """Returns a value as it is read back: built-in types, texts for paths and classes, lists for sequences."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, type):
        return dotted_path("", value)
    if isinstance(value, str | Path):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    return value


def escaped(text: str) -> str:
    """Returns a text that OmegaConf takes for `text` itself, although it looks like an interpolation, `${…}`."""
    return _INTERPOLATION.sub(lambda found: found.group(1) * 2 + r"\${", text)


def as_yaml(config: DictConfig) -> str:
    """Returns the YAML text of a configuration's values, in which a text with `${` stays one when it is read."""

    def texts(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: texts(item) for key, item in value.items()}
        if isinstance(value, list):
            return [texts(item) for item in value]
        return escaped(value) if isinstance(value, str) else value

    return OmegaConf.to_yaml(OmegaConf.create(texts(OmegaConf.to_container(config, resolve=True))))


def is_interpolation(text: object) -> bool:
    """True for a text that OmegaConf would resolve, by which it could read more than the file that has it."""
    return isinstance(text, str) and any(len(found.group(1)) % 2 == 0 for found in _INTERPOLATION.finditer(text))


class WholeNumber(IntegerNode):
    """A whole number in a configuration, which may also be written as `1e6`."""

    def _validate_and_convert_impl(self, value: Any) -> int:
        whole = isinstance(value, float) and value.is_integer()
        return super()._validate_and_convert_impl(int(value) if whole else value)

    def __deepcopy__(self, memo: dict[int, Any]) -> WholeNumber:
        copy = WholeNumber()
        self._deepcopy_impl(copy, memo)
        return copy


def structured(config: Any) -> DictConfig:
    """Makes a typed configuration of a dataclass, whose whole numbers may also be written as `1e6`."""
    made: DictConfig = OmegaConf.structured(config)
    _take_whole_numbers(made)
    return made


def _take_whole_numbers(config: DictConfig) -> None:
    content: Any = config._content
    for key, node in content.items():
        if isinstance(node, DictConfig) and isinstance(node._content, dict):
            _take_whole_numbers(node)
        elif type(node) is IntegerNode:
            whole = WholeNumber(
                node._value(), key=key, parent=config, is_optional=node._is_optional(), flags=node._metadata.flags
            )
            content[key] = whole
