"""The agents, one file per algorithm, and the table that names them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from gymnasium import spaces

from rlkit.agents.a2c import A2C, A2CConfig
from rlkit.agents.a3c import A3C, A3CConfig
from rlkit.agents.base import Agent, AgentConfig
from rlkit.agents.dqn import DQN, DQNConfig
from rlkit.agents.ppo import PPO, PPOConfig
from rlkit.agents.q_learning import QLearning, QLearningConfig
from rlkit.agents.reinforce import REINFORCE, REINFORCEConfig
from rlkit.agents.sarsa import SARSA, SARSAConfig
from rlkit.agents.trpo import TRPO, TRPOConfig
from rlkit.errors import RlkitError


class Variant(NamedTuple):
    """What an `agent=` name stands for: a class, its config class, and the fields that the name sets."""

    agent: type[Agent]
    config: type[Any]
    fields: dict[str, Any]
    run: Mapping[str, Any] = MappingProxyType({})
    """Defaults of its own for fields of the run."""


RAINBOW = {
    **dict.fromkeys(("double", "dueling", "noisy", "distributional"), True),
    "n_step": 3,
    "replay": {"prioritized": True},
}
"""All that Hessel et al. (2018) put together."""
VARIANTS: dict[str, Variant] = {
    "reinforce": Variant(REINFORCE, REINFORCEConfig, {}),
    "reinforce_baseline": Variant(REINFORCE, REINFORCEConfig, {"baseline": "value"}),
    "a2c": Variant(A2C, A2CConfig, {}),
    "a3c": Variant(A3C, A3CConfig, {}, run={"num_envs": 1}),
    "ppo": Variant(PPO, PPOConfig, {}),
    "ppo2": Variant(PPO, PPOConfig, {"objective": "clip"}),
    "ppo_kl": Variant(PPO, PPOConfig, {"objective": "kl"}),
    "ppo_adaptive_kl": Variant(PPO, PPOConfig, {"objective": "adaptive_kl"}),
    "trpo": Variant(TRPO, TRPOConfig, {}),
    "sarsa": Variant(SARSA, SARSAConfig, {}),
    "expected_sarsa": Variant(SARSA, SARSAConfig, {"expected": True}),
    "q_learning": Variant(QLearning, QLearningConfig, {}),
    "dqn": Variant(DQN, DQNConfig, {}),
    "double_dqn": Variant(DQN, DQNConfig, {"double": True}),
    "dueling_dqn": Variant(DQN, DQNConfig, {"dueling": True}),
    "rainbow": Variant(DQN, DQNConfig, RAINBOW),
}
"""Every `agent=` choice. A config's `name` is the agent's own name, under which its tuned values are found."""


def make_agent(
    config: AgentConfig, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], **parts: Any
) -> Agent:
    """The agent that a config is for, with the keyword arguments of its constructor.

    Raises RlkitError for a config that belongs to no agent in the table.
    """
    for variant in VARIANTS.values():
        if type(config) is variant.config:
            make: Any = variant.agent
            agent: Agent = make(config, observation_space, action_space, **parts)
            return agent
    raise RlkitError(f"no agent takes the config {type(config).__name__}; known: {', '.join(VARIANTS)}")
