"""Where Hydra finds the configuration: YAML files in rlkit.conf, and what RlkitSource makes up.

RlkitSource serves the configs of agents and loggers from their dataclasses, an `env` group of every Gymnasium id,
and the tuned values that an agent's variants inherit. Importing this module tells Hydra about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, List  # noqa: UP035

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from rlkit.config import EnvConfig, TrainConfig
from rlkit.registry import agent_names, find_agent, tuned_values
from rlkit.runs.loggers import logger_names, logger_settings

CONF = "rlkit.conf"
"""The package of the YAML files."""
GROUPS = ("", "hydra", "agent", "env", "logger", "tuned", "experiment")
"""The folders of configs: their names as keys choose a config by name. Hydra's own have subfolders too."""


class RlkitSource(ConfigSource):
    """Serves the configs that are not YAML files: what `_lookup` finds.

    Hydra's ConfigStore would do for most of them, but it is one for all Hydra applications of a process.
    """

    @staticmethod
    def scheme() -> str:
        """What stands for this source in a search path."""
        return "rlkit"

    def available(self) -> bool:
        """Always."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Whether the path is a group of this source."""
        return config_path in ("agent", "env", "logger")

    def is_config(self, config_path: str) -> bool:
        """Whether the path is a config of this source; raises RlkitError for an unknown environment."""
        return _lookup(config_path) is not None

    def load_config(self, config_path: str) -> ConfigResult:
        """The config at the path, which `is_config`."""
        found = _lookup(config_path)
        assert found
        config, package = found
        return ConfigResult(self.provider, self.full_path(), config, {"package": package})

    def list(self, config_path: str, results_filter: ObjectType | None) -> List[str]:  # noqa: UP006 (`list` is this)
        """The choices in a group, for error messages and shell completion."""
        import gymnasium

        groups: dict[str, Iterable[str]] = {"agent": agent_names(), "env": gymnasium.registry, "logger": logger_names()}
        return sorted(groups.get(config_path, ()))


def _lookup(config_path: str) -> tuple[Any, str | None] | None:
    """The config at the path, and the package it goes to where that is not its group's name."""
    group, _, name = config_path.partition("/")
    if config_path == "schema":
        schema = OmegaConf.structured(TrainConfig)
        for arguments in (schema.env_kwargs, schema.network.module_args):
            OmegaConf.set_struct(arguments, False)  # takes any key
        return schema, None
    if group == "agent" and name:
        variant = find_agent(name)
        config = OmegaConf.structured(variant.make())
        own = {"own_classes": {"agent": variant.path}} if variant.path else {}
        return OmegaConf.create({"agent": config, **own, **variant.run}), "_global_"
    if group == "logger" and name:
        return OmegaConf.create(logger_settings(name)), "_global_"
    if group == "env" and name:
        from rlkit.envs import check_id  # imports Gymnasium

        check_id(name)
        return OmegaConf.structured(EnvConfig(id=name)), None
    if group == "tuned" and (tuned := _inherited_tuned_values(*name.split("/", 1))):
        return tuned, "_global_"
    return None


def _inherited_tuned_values(agent: str, env_id: str = "") -> Any:
    """The values of the agent that `agent` is a variant of, under the fields that the variant sets."""
    if agent == "none":  # tuned=none, which an experiment can choose: Hydra's null does not replace an interpolation
        return None
    variant = find_agent(agent)
    values = tuned_values(variant, env_id)
    return None if values is None else OmegaConf.merge(OmegaConf.create(values), {"agent": dict(variant.fields)})


class RlkitSearchPath(SearchPathPlugin):
    """Puts RlkitSource behind the YAML files of rlkit.conf, in search paths that have them."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra with every search path that it makes."""
        if any(element.path == f"pkg://{CONF}" for element in search_path.get_path()):
            search_path.append("rlkit", f"{RlkitSource.scheme()}://")


Plugins.instance().register(RlkitSource)
Plugins.instance().register(RlkitSearchPath)
OmegaConf.register_new_resolver("rlkit.slug", lambda text: re.sub(r"[^\w.-]+", "-", text), replace=True)
