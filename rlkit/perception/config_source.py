"""Plugins through which Hydra finds the configuration of companion runs. Importing this module registers them.

The recipes are the YAML files in rlkit.conf.perception. The groups `data`, `model` and `task` have no files: the fields
of each choice are made from the keyword parameters of its function or class. A `logger` brings a dataclass of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, List, Union  # noqa: UP035

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf, open_dict

from rlkit.errors import RlkitError
from rlkit.perception.config import PerceptionConfig
from rlkit.runs import grammar, hydra_app
from rlkit.runs.hydra_app import App, Job, stored_choices
from rlkit.runs.loggers import logger_names, logger_settings
from rlkit.runs.resuming import continued, read_stored

CONF = "rlkit.conf.perception"
"""Package with the YAML files of the recipes."""
PROVIDED = ("data_root", "input_shape", "num_outputs", "vocabulary_size", "model")
"""Parameters that the run fills in, so that they are no fields of the configuration."""
PARTS = ("data", "model", "task")
"""Groups whose choices are functions or classes, and whose fields are their keyword parameters."""


def table(group: str) -> Mapping[str, Callable[..., Any]]:
    """Returns the functions or classes behind the names in the group `data`, `model` or `task`."""
    if group == "data":
        from rlkit.perception.data import DATASETS

        return DATASETS
    if group == "model":
        from rlkit.perception.models import MODELS

        return MODELS
    from rlkit.perception.tasks import TASKS

    return TASKS


def recipes() -> list[str]:
    """Returns the names of all recipes, sorted."""
    return sorted(file.name.removesuffix(".yaml") for file in (resources.files(CONF) / "recipe").iterdir())


@functools.cache
def fields_of(group: str, name: str) -> type[Any]:
    """Makes a config dataclass from the keyword parameters of a data set, model or task.

    Its class attribute `name` is the name by which it was chosen.
    """
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
            default = "???"  # marks a value that the user has to give, in OmegaConf
        fields.append((parameter.name, kind, default))
    return dataclasses.make_dataclass(f"{group.title()}Fields", fields, namespace={"name": name})


def _plain(hint: Any) -> Any:
    """Returns the hint if OmegaConf can check it (int, float, bool, str, each or None), and `Any` otherwise."""
    if hint in (int, float, bool, str):
        return hint
    if typing.get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not NoneType]
        if len(kinds) == 1 and kinds[0] in (int, float, bool, str):
            return hint
    return Any


class PerceptionSource(ConfigSource):
    """Hydra's source of the configs that have no YAML file: the schema, data sets, models, tasks and loggers."""

    @staticmethod
    def scheme() -> str:
        """Returns the prefix that names this source in a search path."""
        return "rlkit-perception"

    def available(self) -> bool:
        """Returns True: this source needs nothing that could be missing."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Returns True if this source has a group at the path."""
        return config_path in ("data", "model", "task", "logger")

    def is_config(self, config_path: str) -> bool:
        """Returns True if this source has a config at the path."""
        return _lookup(config_path) is not None

    def load_config(self, config_path: str) -> ConfigResult:
        """Returns the config at a path for which `is_config` is true."""
        config = _lookup(config_path)
        assert config is not None
        header = {"package": "_global_" if config_path.startswith("logger/") else None}
        return ConfigResult(self.provider, self.full_path(), config, header)

    def list(self, config_path: str, results_filter: ObjectType | None) -> List[str]:  # noqa: UP006 (`list` is this)
        """Returns the choices in a group, for error messages and shell completion."""
        if config_path == "logger":
            return logger_names()
        return sorted(table(config_path)) if self.is_group(config_path) else []


def _lookup(config_path: str) -> Any:
    """Returns the config at the path, or None if this source has none there."""
    group, _, name = config_path.partition("/")
    if config_path == "schema":
        schema = grammar.structured(PerceptionConfig)
        for takes_any_key in (schema.augment, schema.fit.learning_rates):
            OmegaConf.set_struct(takes_any_key, False)
        return schema
    if group == "logger" and name:
        return OmegaConf.create(logger_settings(name))
    if group in PARTS and name in table(group):
        # Without types as yet: the recipe's fields, which come next, may be those of another choice.
        return OmegaConf.create(OmegaConf.to_container(OmegaConf.structured(fields_of(group, name))))
    return None


def finish(composed: DictConfig, hydra_config: DictConfig) -> None:
    """Gives the fields of the data set, the model and the task their types, in a composed configuration.

    Where the command line has another choice than the recipe, the recipe's fields are left out that the other choice
    does not have; a model's also where the default differs, as the depths of two families of networks do.
    """
    hydra: Any = hydra_config.hydra
    choices = hydra.runtime.choices
    overrides = [str(override) for override in hydra.overrides.task]
    parsed = grammar.parse(overrides)
    given = {override.key_or_group for override in parsed}
    own = _choices_of_recipe(hydra) if given & {*PARTS} and choices.get("recipe") else choices
    OmegaConf.set_struct(composed, True)
    for part in PARTS:
        fields = fields_of(part, choices[part])
        untyped, typed = composed[part], grammar.structured(fields)
        if choices[part] != own[part]:
            of_recipe, defaults = fields_of(part, own[part])(), fields()
            for name in list(untyped):
                taken = name in typed and (part != "model" or _same_default(name, of_recipe, defaults))
                if not taken and not any(key == f"{part}.{name}" for key in given):
                    with open_dict(untyped):
                        del untyped[name]
        composed[part] = typed
        OmegaConf.update(composed, part, untyped)


def _same_default(name: str, one: Any, other: Any) -> bool:
    return bool(getattr(one, name, None) == getattr(other, name))


def _choices_of_recipe(hydra: Any) -> DictConfig:
    """Returns the choices that the recipe of a composed configuration makes by itself."""
    folders = [source.path for source in hydra.runtime.config_sources if source.schema == "file"]
    overrides = [f"recipe='{hydra.runtime.choices.recipe}'"]
    if folders:
        paths = ",".join(f"'file://{folder}'" for folder in folders)
        overrides.append(f"hydra.searchpath=[{paths}]")
    _, alone, _ = hydra_app.compose_unfinished(APP, overrides)
    choices: DictConfig = alone.hydra.runtime.choices
    return choices


def resumed(run_dir: Path, changes: Sequence[str]) -> Job:
    """Makes the job that continues the run in a folder, with the configuration that is stored there, and changes.

    Raises RlkitError for a folder that holds no such configuration, and for a change that cannot be.
    """
    stored = read_stored(run_dir)
    choices = [*stored_choices(stored.hydra, PARTS), "~recipe"]
    return continued(APP, run_dir, stored, choices, changes, _check_change)


def _check_change(change: str, key: str) -> None:
    """Raises RlkitError for a change of what the run consists of."""
    if key in ("recipe", *PARTS) or key.startswith("hydra"):
        raise RlkitError(
            f"{change}: a run that is resumed keeps its folder and its {', '.join(PARTS)}; expected fields"
        )


class PerceptionSearchPath(SearchPathPlugin):
    """Appends PerceptionSource to every search path that contains the YAML files of rlkit.conf.perception."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Appends the source; Hydra calls this with every search path that it makes."""
        if any(element.path == f"pkg://{CONF}" for element in search_path.get_path()):
            search_path.append("rlkit", f"{PerceptionSource.scheme()}://")


Plugins.instance().register(PerceptionSource)
Plugins.instance().register(PerceptionSearchPath)
APP = App(
    name="perception",
    conf=CONF,
    config=PerceptionConfig,
    groups=("", "hydra", "recipe", "data", "model", "task", "logger"),
    finish=finish,
)
