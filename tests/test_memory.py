"""Tests that an environment that writes into its action changes nothing that an agent keeps."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.buffers.rollout import RolloutBuffer
from rlkit.collector import Collector
from rlkit.envs.vector import SyncVectorEnv
from rlkit.networks.heads import make_head
from rlkit.registry import find_agent, make_agent
from rlkit.setting import NetworkConfig, Setting

SPACES = [
    spaces.MultiBinary(3),
    spaces.MultiBinary((2, 3)),
    spaces.MultiDiscrete([2, 3, 4]),
    spaces.MultiDiscrete(np.array([[2, 3], [4, 2]])),
    spaces.MultiDiscrete([2, 3], start=[1, -1]),
    spaces.Discrete(4),
    spaces.Discrete(4, start=-2),
    spaces.Box(-1, 1, (2,), np.float32),
    spaces.Box(-1, 1, (2, 2), np.float64),
    spaces.Box(-np.inf, np.inf, (3,), np.float32),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 4), explore=st.booleans())
def test_actions_for_the_environment_are_arrays_of_their_own(
    space: spaces.Space[Any], seed: int, rows: int, explore: bool
) -> None:
    head, rng = make_head(space, NetworkConfig()), np.random.default_rng(seed)
    params = rng.standard_normal((rows, head.num_params)).astype(np.float32)
    action = head.sample(params, rng) if explore else head.mode(params)
    kept, kept_params = action.copy(), params.copy()
    handed = head.env_action(action)
    assert not np.shares_memory(handed, action)
    handed[...] = 0
    np.testing.assert_array_equal(action, kept)
    np.testing.assert_array_equal(params, kept_params)


class Zeroing(gym.Env[Any, Any]):
    """An environment that records its actions, and then writes zeros into them."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, action_space: spaces.Space[Any], got: list[Any]) -> None:
        self.action_space, self.got = action_space, got

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.got.append(np.array(action))
        if isinstance(action, np.ndarray):
            action[...] = 0
        return np.zeros(2, np.float32), 1.0, False, False, {}


@pytest.mark.parametrize("space", [SPACES[0], SPACES[1], SPACES[2], SPACES[3]], ids=str)
@pytest.mark.parametrize("name", ["a2c", "ppo"])
def test_a_rollout_has_the_actions_that_the_environment_got(name: str, space: spaces.Space[Any]) -> None:
    got: list[Any] = []
    envs = SyncVectorEnv([lambda: Zeroing(space, got)] * 2)
    setting = Setting(envs.single_observation_space, envs.single_action_space, NetworkConfig(), 2, 0)
    agent = make_agent(find_agent(name).make(), setting)
    buffer = RolloutBuffer(8, 2)
    Collector(envs, [0, 1]).collect(agent, buffer, 8)
    np.testing.assert_array_equal(buffer.actions.reshape(16, -1), np.array(got).reshape(16, -1))
    assert np.any(buffer.actions)
