"""Finds agents by name: ours, those of installed packages, and classes of the user's own by dotted path; makes them."""

from __future__ import annotations

import inspect
from importlib import resources
from pathlib import Path
from typing import Any

from rlkit.agents import VARIANTS, Variant
from rlkit.agents.base import Agent
from rlkit.errors import RlkitError, unknown
from rlkit.setting import AgentConfig, Setting
from rlkit.system.dotted_paths import config_class, dotted_path, find_class, installed, is_dotted_path
from rlkit.system.threads import one_thread

GROUP = "rlkit.agents"
"""The group of entry points by which installed packages give their agents short names."""


def agent_names() -> list[str]:
    """Every name that `agent=` takes beside dotted paths: ours first, then those of installed packages."""
    return [*VARIANTS, *(name for name in installed(GROUP) if name not in VARIANTS)]


def find_agent(name: str) -> Variant:
    """The agent of a name: one of ours, one of an installed package, or a class of the user's own by dotted path.

    Raises RlkitError for an unknown name, and where the class or its config cannot be found.
    """
    if name in VARIANTS:
        return VARIANTS[name]
    path = name if is_dotted_path(name) else installed(GROUP).get(name)
    if path is None:
        raise unknown("agent", name, agent_names())
    agent: type[Agent[Any]] = find_class("agent", path, Agent)
    config = config_class("agent", path, agent, Agent)
    if config is None or AgentConfig not in config.__mro__:
        raise RlkitError(
            f"agent={path} does not say which config it takes; expected `config: MyConfig` in the class, with a "
            "dataclass that inherits from rlkit.setting.AgentConfig"
        )
    return Variant(agent, config, path=path)


def name_of(agent: Agent[Any]) -> str:
    """The name under which `find_agent` finds an agent's class: its own, or its dotted path.

    Raises RlkitError for a class that has neither.
    """
    variant = VARIANTS.get(agent.config.name)
    if variant is not None and type(agent) is variant.agent:
        return agent.config.name
    return dotted_path("agent", type(agent))


def make_agent(config: AgentConfig, setting: Setting, path: str = "") -> Agent[Any]:
    """Makes the agent that a config belongs to, or, with a dotted `path`, an agent of the user's own class.

    Its first weights depend on the setting's seed alone, not on the number of cores. Raises RlkitError for a config
    that belongs to no agent in the table, and for a path that leads nowhere.
    """
    with one_thread():
        if path:
            return find_agent(path).agent(config, setting)
        for variant in VARIANTS.values():
            if type(config) is variant.config:
                return variant.agent(config, setting)
    raise RlkitError(f"no agent takes the config {type(config).__name__}; known: {', '.join(VARIANTS)}")


def tuned_values(variant: Variant, env_id: str) -> str | None:
    """The YAML text of the values for an environment, None where there are none.

    A user's own agent has them in `tuned/<agent name>/<env id>.yaml`, beside its module.
    """
    folder = Path(inspect.getfile(variant.agent)).parent if variant.path else resources.files("rlkit.conf")
    file = folder.joinpath("tuned", variant.tuned or variant.make().name, f"{env_id}.yaml")
    return file.read_text(encoding="utf-8") if file.is_file() else None
