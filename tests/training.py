"""Training in a few lines, for the tests of all agents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rlkit.collector import Collector, Episode
from rlkit.engine import make
from rlkit.engine.actor_critic import ActorCriticLoss
from rlkit.engine.descent import Optimization
from rlkit.engine.native import primitives as native
from rlkit.engine.q import QLoss
from rlkit.envs import EnvFactory, make_vector_env
from rlkit.networks.actor_critic import ActorCritic
from rlkit.networks.q_network import QNetwork
from rlkit.registry import make_agent
from rlkit.setting import NetworkConfig, Setting
from rlkit.spaces import Array

COMPUTES = ("torch", "native")
"""Engines that all small networks are tested with; conftest.py skips `native` where it cannot be used."""
needs_native = pytest.mark.skipif(native.missing is not None, reason=str(native.missing))


def train(
    env: str | Any,
    config: Any,
    updates: int,
    *,
    network: NetworkConfig | None = None,
    compute: str = "auto",
    device: str = "auto",
    num_envs: int = 8,
    seed: int = 0,
    prepare: Callable[[Any], None] = lambda agent: None,
) -> tuple[Any, list[Episode]]:
    """The agent after so many updates on `env`, a name or a vector environment, and all episodes that ended.

    `prepare` sees the agent before it acts.
    """
    envs = make_vector_env(EnvFactory(env), num_envs, "sync")[0] if isinstance(env, str) else env
    both = envs.single_observation_space, envs.single_action_space
    setting = Setting(*both, network or NetworkConfig(), num_envs=num_envs, seed=seed, device=device, compute=compute)
    agent: Any = make_agent(config, setting)
    prepare(agent)
    collector, buffer = Collector(envs, list(range(num_envs))), agent.make_buffer(num_envs)
    episodes = []
    for update in range(updates):
        episodes += collector.collect(agent, buffer, agent.steps_per_update)
        agent.update(buffer, update / updates)
    envs.close()
    return agent, episodes


def parameters(agent: Any) -> dict[str, Array]:
    """Copies of all that is saved of an agent."""
    return {name: tensor.numpy().copy() for name, tensor in agent.model.state_dict().items()}


def assert_same_parameters(first: Any, second: Any) -> None:
    """To the last bit."""
    for name, array in parameters(first).items():
        np.testing.assert_array_equal(array, parameters(second)[name], err_msg=name)


def assert_goes_on_from_its_state(env: str, config: Any, *, network: NetworkConfig | None = None) -> None:
    """A second agent that takes over the state of a trained one ends an update with the very same parameters."""
    agent, _ = train(env, config, 3, network=network or NetworkConfig(), num_envs=2)
    envs, _ = make_vector_env(EnvFactory(env), 2, "sync")
    both = envs.single_observation_space, envs.single_action_space
    other: Any = make_agent(config, Setting(*both, network=network or NetworkConfig(), num_envs=2, seed=99))
    other.load_state_dict(agent.state_dict())
    before = parameters(agent)
    for one in (agent, other):
        collector, buffer = Collector(envs, [5, 6]), one.make_buffer(2)
        for _ in range(3):
            collector.collect(one, buffer, one.steps_per_update)
            one.update(buffer, 0.5)
    envs.close()
    assert_same_parameters(agent, other)
    assert any((before[name] != array).any() for name, array in parameters(agent).items())


def setting_of(compute: str, device: str = "cpu") -> Setting:
    """A setting for parts that ask for the engine and the device only."""
    return Setting(spaces.Box(-1, 1, (1,)), spaces.Discrete(2), compute=compute, device=device)


def make_engine(
    network: ActorCritic,
    compute: str,
    loss: ActorCriticLoss,
    max_grad_norm: float | None = None,
    eps: float = 1e-5,
    optimizer: str = "adam",
    critic_rate: float = 1.0,
) -> tuple[Any, str]:
    """The engine that `compute` stands for, and its name."""
    optimization = Optimization(max_grad_norm, eps, optimizer, critic_rate)
    return make.make_engine(network, loss, optimization, setting_of(compute))


def make_q_engine(network: QNetwork, compute: str, loss: QLoss, max_grad_norm: float | None = None) -> tuple[Any, str]:
    """The engine that `compute` stands for, and its name."""
    return make.make_q_engine(network, loss, Optimization(max_grad_norm, 1e-8), setting_of(compute))
