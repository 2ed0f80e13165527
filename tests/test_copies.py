"""Copies of agents, and networks of which a part was replaced."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from training import train

from rlkit.agents import VARIANTS
from rlkit.agents.a2c import A2CConfig
from rlkit.agents.dqn import DQNConfig
from rlkit.agents.ppo import PPOConfig
from rlkit.collector import Collector
from rlkit.engine.descent import STEPS_BETWEEN_LOOKS
from rlkit.engine.q import TDBatch
from rlkit.envs import EnvFactory, make_vector_env
from rlkit.errors import RlkitError
from rlkit.registry import make_agent
from rlkit.setting import NetworkConfig, Setting, updated

SMALL = NetworkConfig(hidden_sizes=[8], normalize_obs=True)
ENV = {"sarsa": "FrozenLake-v1", "expected_sarsa": "FrozenLake-v1", "q_learning": "FrozenLake-v1"}


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_copy_acts_and_learns_on_as_its_original_does(name: str, way: str) -> None:
    variant = VARIANTS[name]
    config: Any = updated(variant.make(), variant.config.for_probes)
    network = None if name in ENV else SMALL
    env = ENV.get(name, "CartPole-v1")
    agent, _ = train(env, config, 3, num_envs=2, network=network)
    agent.env = {"id": env}
    other = copy.deepcopy(agent) if way == "deepcopy" else pickle.loads(pickle.dumps(agent))
    assert other.env == agent.env
    assert other.config == agent.config
    found = []
    for each in (agent, other):
        envs = make_vector_env(EnvFactory(env), 2, "sync")[0]
        collector, buffer = Collector(envs, [5, 6]), each.make_buffer(2)
        for _ in range(3):
            collector.collect(each, buffer, each.steps_per_update)
            if len(buffer) if hasattr(buffer, "__len__") else True:
                each.update(buffer, 0.5)
        found.append({key: value.clone() for key, value in each.model.state_dict().items()})
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=0, atol=0)


def test_a_copy_shares_nothing_with_its_original() -> None:
    agent, _ = train("CartPole-v1", PPOConfig(num_steps=16, minibatch_size=16), 1, num_envs=2, network=SMALL)
    before = {key: value.clone() for key, value in agent.model.state_dict().items()}
    other = copy.deepcopy(agent)
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter.add_(1)
    for key, value in agent.model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


@pytest.mark.parametrize("compute", ["native", "torch"])
@pytest.mark.parametrize("config", [PPOConfig(num_steps=16, minibatch_size=16), A2CConfig(num_steps=4)])
def test_a_replaced_part_of_the_network_is_refused_before_it_would_not_be_trained(config: Any, compute: str) -> None:
    def replaced(agent: Any) -> None:
        agent.network.actor[0] = nn.Linear(4, 8)

    with pytest.raises(RlkitError, match="a part of the network was replaced after the agent was made, '0'"):
        train("CartPole-v1", config, STEPS_BETWEEN_LOOKS, num_envs=2, network=SMALL, compute=compute, prepare=replaced)


def test_replacing_a_whole_tower_or_a_parameter_is_refused_too() -> None:
    setting = Setting(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), NetworkConfig(hidden_sizes=[8]))
    for part in ("body", "weight"):
        agent: Any = make_agent(DQNConfig(), setting)
        if part == "body":
            agent.network.body = copy.deepcopy(agent.network.body)
        else:
            agent.network.body[0].weight = nn.Parameter(torch.zeros(8, 3))
        some = TDBatch((np.zeros((4, 3), np.float32),), np.zeros(4, np.int64), np.zeros(4, np.float32))
        with pytest.raises(RlkitError, match=f"replaced after the agent was made, '{part}'"):
            agent.engine.step(some, "huber", 1e-3)
