"""Where Hydra finds the configuration of companion runs: the recipes in rlkit.conf.perception, and the groups `data`,
`model`, `task` and `logger`, whose fields are the keyword parameters of what they stand for. Importing this module
tells Hydra about it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from types import NoneType, UnionType
from typing import Any, List, Union  # noqa: UP035

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from rlkit.perception.config import PerceptionConfig
from rlkit.runs.hydra_app import App
from rlkit.runs.loggers import LOGGERS

CONF = "rlkit.conf.perception"
"""The package of the YAML files."""
PROVIDED = ("data_root", "input_shape", "num_outputs", "vocabulary_size", "model")
"""Parameters that a run fills in, and no one else."""
APP = App(
    name="perception",
    conf=CONF,
    config=PerceptionConfig,
    groups=("", "hydra", "recipe", "data", "model", "task", "logger"),
)


def table(group: str) -> Mapping[str, Callable[..., Any]]:
    """What the names in a group stand for."""
    if group == "data":
        from rlkit.perception.data import DATASETS

        return DATASETS
    if group == "model":
        from rlkit.perception.models import MODELS

        return MODELS
    from rlkit.perception.tasks import TASKS

    return TASKS


def recipes() -> list[str]:
    """Every `recipe=` choice."""
    return sorted(file.name.removesuffix(".yaml") for file in (resources.files(CONF) / "recipe").iterdir())


@functools.cache
def fields_of(group: str, name: str) -> type[Any]:
    """A dataclass of the keyword parameters of what the name stands for; its attribute `name` is the name."""
    made = table(group)[name]
    hints = typing.get_type_hints(made.__init__ if inspect.isclass(made) else made)
    fields: list[Any] = []
    for parameter in inspect.signature(made).parameters.values():
        if parameter.name in PROVIDED:
            continue
        kind, default = _plain(hints[parameter.name]), parameter.default
        if isinstance(default, Mapping):
            default = dataclasses.field(default_factory=functools.partial(dict, default))
        elif isinstance(default, Sequence) and not isinstance(default, str):
            default = dataclasses.field(default_factory=functools.partial(list, default))
        elif default is inspect.Parameter.empty:
            default = "???"  # OmegaConf's word for a value that has to be given
        fields.append((parameter.name, kind, default))
    return dataclasses.make_dataclass(f"{group.title()}Fields", fields, namespace={"name": name})


def _plain(hint: Any) -> Any:
    """The type as OmegaConf knows it: `int`, `float`, `bool` and `str`, those or None, and anything else as `Any`."""
    if hint in (int, float, bool, str):
        return hint
    if typing.get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not NoneType]
        if len(kinds) == 1 and kinds[0] in (int, float, bool, str):
            return hint
    return Any


class PerceptionSource(ConfigSource):
    """Serves the configs that are not YAML files: what `_lookup` finds."""

    @staticmethod
    def scheme() -> str:
        """What stands for this source in a search path."""
        return "rlkit-perception"

    def available(self) -> bool:
        """Always."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Whether the path is a group of this source."""
        return config_path in ("data", "model", "task", "logger")

    def is_config(self, config_path: str) -> bool:
        """Whether the path is a config of this source."""
        return _lookup(config_path) is not None

    def load_config(self, config_path: str) -> ConfigResult:
        """The config at the path, which `is_config`."""
        config = _lookup(config_path)
        assert config is not None
        name = config_path.removeprefix("logger/")
        header = {"package": f"logger.{name}" if config_path.startswith("logger/") else None}
        return ConfigResult(self.provider, self.full_path(), config, header)

    def list(self, config_path: str, results_filter: ObjectType | None) -> List[str]:  # noqa: UP006 (`list` is this)
        """The choices in a group, for error messages and shell completion."""
        if config_path == "logger":
            return sorted(LOGGERS)
        return sorted(table(config_path)) if self.is_group(config_path) else []


def _lookup(config_path: str) -> Any:
    """The config at the path, or None."""
    group, _, name = config_path.partition("/")
    if config_path == "schema":
        schema = OmegaConf.structured(PerceptionConfig)
        for takes_any_key in (schema.augment, schema.fit.learning_rates):
            OmegaConf.set_struct(takes_any_key, False)
        return schema
    if group == "logger" and name in LOGGERS:
        return OmegaConf.structured(LOGGERS[name].config)
    if group in ("data", "model", "task") and name in table(group):
        return OmegaConf.structured(fields_of(group, name))
    return None


class PerceptionSearchPath(SearchPathPlugin):
    """Puts PerceptionSource behind the YAML files of rlkit.conf.perception, in search paths that have them."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra with every search path that it makes."""
        if any(element.path == f"pkg://{CONF}" for element in search_path.get_path()):
            search_path.append("rlkit", f"{PerceptionSource.scheme()}://")


Plugins.instance().register(PerceptionSource)
Plugins.instance().register(PerceptionSearchPath)
