"""Sources of Hydra's configs: the YAML files in rlkit.conf, and `RlkitSource`, which generates the others.

`RlkitSource` serves the configs of agents and loggers from their dataclasses, an `env` group with every Gymnasium id,
and the tuned values that an agent's variants inherit. Importing this module registers it with Hydra.
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
from rlkit.runs import grammar
from rlkit.runs.loggers import logger_names, logger_settings

CONF = "rlkit.conf"
"""The Python package that holds the YAML files."""
GROUPS = ("", "hydra", "agent", "env", "logger", "tuned", "experiment")
"""Hydra's groups of configs: `agent=ppo` chooses the config `ppo` of the group `agent`. "" is the top folder, and the
groups below `hydra` are Hydra's own."""


class RlkitSource(ConfigSource):
    """Serves the configs that are not YAML files, as `_lookup` makes them.

    Hydra's ConfigStore could hold most of them. But all Hydra applications in a process share it, and ours must not
    show up in a user's.
    """

    @staticmethod
    def scheme() -> str:
        """Returns the prefix of this source in Hydra's search path."""
        return "rlkit"

    def available(self) -> bool:
        """Returns True: the configs are part of the package."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Returns True if the path is a group of this source."""
        return config_path in ("agent", "env", "logger")

    def is_config(self, config_path: str) -> bool:
        """Returns True if the path is a config of this source; raises RlkitError for an unknown environment."""
        return _lookup(config_path) is not None

    def load_config(self, config_path: str) -> ConfigResult:
        """Returns the config at a path for which `is_config` is true."""
        found = _lookup(config_path)
        assert found
        config, package = found
        return ConfigResult(self.provider, self.full_path(), config, {"package": package})

    def list(self, config_path: str, results_filter: ObjectType | None) -> List[str]:  # noqa: UP006 (`list` is this)
        """Lists the choices in a group, for error messages and shell completion."""
        import gymnasium

        groups: dict[str, Iterable[str]] = {"agent": agent_names(), "env": gymnasium.registry, "logger": logger_names()}
        return sorted(groups.get(config_path, ()))


def _lookup(config_path: str) -> tuple[Any, str | None] | None:
    """Makes the config at the path, and names its package (the key it is merged at) if that is not its group."""
    group, _, name = config_path.partition("/")
    if config_path == "schema":
        schema = grammar.structured(TrainConfig)
        for arguments in (schema.env_kwargs, schema.network.module_args):
            OmegaConf.set_struct(arguments, False)  # so that any key can be set
        return schema, None
    if group == "agent" and name:
        variant = find_agent(name)
        config = grammar.structured(variant.make())
        own = {"own_classes": {"agent": variant.path}} if variant.path else {}
        return OmegaConf.create({"agent": config, **own, **variant.run}), "_global_"
    if group == "logger" and name:
        return OmegaConf.create(logger_settings(name)), "_global_"
    if group == "env" and name:
        from rlkit.envs import check_id  # imports Gymnasium

        check_id(name)
        return grammar.structured(EnvConfig(id=name)), None
    if group == "tuned" and (tuned := _inherited_tuned_values(*name.split("/", 1))):
        return tuned, "_global_"
    return None


def _inherited_tuned_values(agent: str, env_id: str = "") -> Any:
    """Returns the tuned values of the agent that `agent` is a variant of; fields that the variant sets itself win.

    Returns None if there are no tuned values for the environment.
    """
    if agent == "none":  # an experiment leaves tuned values out by tuned=none, as Hydra lets null replace no `${…}`
        return None
    variant = find_agent(agent)
    values = tuned_values(variant, env_id)
    return None if values is None else OmegaConf.merge(OmegaConf.create(values), {"agent": dict(variant.fields)})


class RlkitSearchPath(SearchPathPlugin):
    """Appends `RlkitSource` to search paths that have the YAML files of rlkit.conf; files so come first."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Extends a search path; Hydra calls this with every one that it makes, those of other applications too."""
        if any(element.path == f"pkg://{CONF}" for element in search_path.get_path()):
            search_path.append("rlkit", f"{RlkitSource.scheme()}://")


Plugins.instance().register(RlkitSource)
Plugins.instance().register(RlkitSearchPath)
OmegaConf.register_new_resolver("rlkit.slug", lambda text: re.sub(r"[^\w.-]+", "-", text), replace=True)
