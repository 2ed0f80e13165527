"""Training in a few lines, for the tests of all agents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rlkit.agents import make_agent
from rlkit.collector import Collector, Episode
from rlkit.config import NetworkConfig
from rlkit.envs import EnvFactory, make_vector_env
from rlkit.spaces import Array

COMPUTES = ("torch", "numpy")


def train(
    env: str | Any,
    config: Any,
    updates: int,
    *,
    network: NetworkConfig | None = None,
    compute: str = "auto",
    num_envs: int = 8,
    seed: int = 0,
    prepare: Callable[[Any], None] = lambda agent: None,
) -> tuple[Any, list[Episode]]:
    """The agent after so many updates on `env`, a name or a vector environment, and all episodes that ended.

    `prepare` sees the agent before it acts.
    """
    envs = make_vector_env(EnvFactory(env), num_envs, "sync")[0] if isinstance(env, str) else env
    spaces = envs.single_observation_space, envs.single_action_space
    agent: Any = make_agent(config, *spaces, network=network, num_envs=num_envs, seed=seed, compute=compute)
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
    agent, _ = train(env, config, 3, network=network, num_envs=2)
    envs, _ = make_vector_env(EnvFactory(env), 2, "sync")
    spaces = envs.single_observation_space, envs.single_action_space
    other: Any = make_agent(config, *spaces, network=network, num_envs=2, seed=99)
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
