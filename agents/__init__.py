"""The agents, one file per algorithm, and the table that names them."""

from __future__ import annotations

from collections.abc import Mapping
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
from rlkit.setting import AgentConfig, updated


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
