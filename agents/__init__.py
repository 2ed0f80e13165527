"""The agents, one file per algorithm, and the table that names them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from rlkit.agents.a2c import A2C, A2CConfig
from rlkit.agents.a3c import A3C, A3CConfig
from rlkit.agents.base import Agent
from rlkit.agents.dqn import DQN, DQNConfig
from rlkit.agents.ppo import PPO, PPOConfig
from rlkit.agents.reinforce import REINFORCE, REINFORCEConfig
from rlkit.agents.temporal_difference import TemporalDifference, TemporalDifferenceConfig
from rlkit.agents.trpo import TRPO, TRPOConfig
from rlkit.dotted_paths import config_class, dotted_path, find_class, installed, is_dotted_path
from rlkit.errors import RlkitError, unknown
from rlkit.setting import AgentConfig, Setting, updated

GROUP = "rlkit.agents"
"""The group of entry points by which installed packages give their agents short names."""


class Variant(NamedTuple):
    """An `agent=` choice: a class, its config class, and the fields that the name sets."""

    agent: type[Agent[Any]]
    """Agents differ in the buffers that they learn from; whoever holds the table can't know which."""
    config: type[AgentConfig]
    fields: Mapping[str, Any] = MappingProxyType({})
    run: Mapping[str, Any] = MappingProxyType({})
    """Defaults of its own for fields of the run."""
    tuned: str = ""
    """The folder of conf/tuned/ with its tuned values; empty: the one of the config's name."""
    path: str = ""
    """The dotted path of a class of the user's own; empty: it is one of ours."""

    def make(self, **values: Any) -> AgentConfig:
        """The config of this choice, with the values of some more fields; a mapping is for the fields of a group."""
        return updated(updated(self.config(), self.fields), values)

    def tuned_values(self, env_id: str) -> str | None:
        """The YAML text of the values for an environment, None where there are none.

        A user's own agent has them in `tuned/<agent name>/<env id>.yaml`, beside its module.
        """
        folder = Path(inspect.getfile(self.agent)).parent if self.path else resources.files("rlkit.conf")
        file = folder.joinpath("tuned", self.tuned or self.make().name, f"{env_id}.yaml")
        return file.read_text(encoding="utf-8") if file.is_file() else None


RAINBOW = {
    **dict.fromkeys(("double", "dueling", "noisy", "distributional"), True),
    "n_step": 3,
    "replay": {"prioritized": True},
}
"""All that Hessel et al. (2018) put together."""
VARIANTS: dict[str, Variant] = {
    "reinforce": Variant(REINFORCE, REINFORCEConfig),
    "reinforce_baseline": Variant(REINFORCE, REINFORCEConfig, {"baseline": "value"}),
    "a2c": Variant(A2C, A2CConfig),
    "a3c": Variant(A3C, A3CConfig, run={"num_envs": 1}),
    "ppo": Variant(PPO, PPOConfig),
    "ppo2": Variant(PPO, PPOConfig, {"objective": "clip"}),
    "ppo_kl": Variant(PPO, PPOConfig, {"objective": "kl"}),
    "ppo_adaptive_kl": Variant(PPO, PPOConfig, {"objective": "adaptive_kl"}),
    "trpo": Variant(TRPO, TRPOConfig),
    "sarsa": Variant(TemporalDifference, TemporalDifferenceConfig, {"target": "sampled"}),
    "expected_sarsa": Variant(TemporalDifference, TemporalDifferenceConfig, {"target": "expected"}, tuned="sarsa"),
    "q_learning": Variant(TemporalDifference, TemporalDifferenceConfig, {"target": "greedy"}),
    "dqn": Variant(DQN, DQNConfig),
    "double_dqn": Variant(DQN, DQNConfig, {"double": True}),
    "dueling_dqn": Variant(DQN, DQNConfig, {"dueling": True}),
    "rainbow": Variant(DQN, DQNConfig, RAINBOW),
}
"""Every `agent=` choice."""


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
    """The agent that a config is for, or with a `path` the user's own class there.

    Raises RlkitError for a config that belongs to no agent in the table, and for a path that leads nowhere.
    """
    if path:
        return find_agent(path).agent(config, setting)
    for variant in VARIANTS.values():
        if type(config) is variant.config:
            return variant.agent(config, setting)
    raise RlkitError(f"no agent takes the config {type(config).__name__}; known: {', '.join(VARIANTS)}")
