"""Subnormal numbers are flushed while rlkit computes, and are there while an environment does."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from training import COMPUTES, make_q_engine, needs_native

from rlkit.buffers.prioritized import PRIORITY_EPS, PrioritizedReplayBuffer
from rlkit.collector import Collector, Step
from rlkit.engine.losses import dqn_loss
from rlkit.engine.native.optimizers import NativeAdam, NativeRMSprop
from rlkit.engine.native.q import dqn_gradient
from rlkit.engine.q import QLoss
from rlkit.engine.torch.optimizer import TorchOptimizer
from rlkit.networks.normalization import RewardNormalizer
from rlkit.networks.q_network import QNetwork
from rlkit.setting import NetworkConfig
from rlkit.system.ranks import ALONE
from rlkit.system.subnormals import are_flushed, flushed
from rlkit.system.threads import in_threads

with flushed():
    HAS_MODE = are_flushed()
needs_mode = pytest.mark.skipif(not HAS_MODE, reason="the processor has no mode that flushes subnormal numbers")


def subnormals_are_lost() -> list[bool]:
    doubles, floats = np.full(9, 1e-310), np.full(9, 1e-40, np.float32)
    single = (floats * np.float32(1)).view(np.int32)
    tensor = (torch.from_numpy(floats) * 1).numpy().view(np.int32)
    return [not (doubles * 1).view(np.int64).any(), not single.any(), not tensor.any(), are_flushed()]


@needs_mode
def test_the_mode_holds_inside_the_block_and_is_given_back() -> None:
    assert not any(subnormals_are_lost())
    with flushed():
        assert all(subnormals_are_lost())
        with flushed(False):
            assert not any(subnormals_are_lost())
        assert all(subnormals_are_lost())
    with pytest.raises(ValueError, match="ours"), flushed():
        raise ValueError("ours")
    assert not any(subnormals_are_lost())


@needs_mode
def test_helping_threads_flush_too() -> None:
    seen: list[bool] = []
    both = threading.Barrier(2, timeout=60)  # a task waits until another thread has one

    def task() -> None:
        both.wait()
        seen.extend(subnormals_are_lost())

    in_threads([task, task], 2)
    assert len(seen) == 8
    assert all(seen)
    assert not are_flushed()


TORCHS_THREADS = """
import numpy as np, torch
from rlkit.networks.normalization import RewardNormalizer
from rlkit.networks.q_network import QNetwork
from rlkit.setting import NetworkConfig
from rlkit.system.ranks import ALONE
from rlkit.system.subnormals import flushed

def lost():
    return float(np.mean((torch.full((2**22,), 1e-40) * 1).numpy().view(np.int32) == 0))

torch.set_num_threads(2)
with flushed():
    found = [lost()]
    with flushed(False):
        found.append(lost())
    found.append(lost())
print(*found, lost())
"""


@needs_mode
def test_torchs_own_threads_follow_the_thread_that_they_compute_for() -> None:
    # In a process of its own, since such threads keep the mode that they were started with.
    done = subprocess.run([sys.executable, "-c", TORCHS_THREADS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1.0", "0.0", "1.0", "0.0"]


class Probe(gym.Env[Any, Any]):
    """Notes if subnormal numbers are lost in its own methods."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def reset(self, **kwargs: Any) -> Any:
        self.seen += subnormals_are_lost()
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.seen += subnormals_are_lost()
        return np.full(1, 1e-40, np.float32), 0.0, len(self.seen) % 3 == 0, False, {}


@needs_mode
def test_the_agent_acts_with_the_mode_and_the_environment_steps_without() -> None:
    acted: list[bool] = []

    class Agent:
        def act(self, obs: Any, **kwargs: Any) -> Any:
            acted.extend(subnormals_are_lost())
            return Step(np.zeros(1, np.int64), np.zeros(1, np.int64))

    class Nowhere:
        def add(self, transition: Any) -> None:
            pass

    env = Probe()
    Collector(SyncVectorEnv([lambda: env]), [1]).collect(Agent(), Nowhere(), 10)
    assert len(acted) == 40
    assert all(acted)
    assert len(env.seen) >= 40
    assert not any(env.seen)
    assert not are_flushed()


def native_adam(parameters: torch.Tensor, gradients: torch.Tensor) -> Any:
    return NativeAdam(parameters.numpy(), gradients.numpy(), eps=1e-8)


def native_rmsprop(parameters: torch.Tensor, gradients: torch.Tensor) -> Any:
    return NativeRMSprop(parameters.numpy(), gradients.numpy(), eps=1e-8)


def torch_adam(parameters: torch.Tensor, gradients: torch.Tensor) -> Any:
    return TorchOptimizer("adam", parameters, gradients, eps=1e-8)


def torch_rmsprop(parameters: torch.Tensor, gradients: torch.Tensor) -> Any:
    return TorchOptimizer("rmsprop", parameters, gradients, eps=1e-8)


@needs_mode
@pytest.mark.parametrize(
    "make",
    [
        torch_adam,
        torch_rmsprop,
        pytest.param(native_adam, marks=needs_native),
        pytest.param(native_rmsprop, marks=needs_native),
    ],
)
def test_moments_of_a_dead_unit_do_not_become_subnormal(make: Any) -> None:
    found = []
    for flush in (False, True):
        parameters, gradients = torch.ones(40), torch.full((40,), 1e-17)
        optimizer = make(parameters, gradients)
        with flushed(flush):
            optimizer.step(1e-3)
            for _ in range(5000):
                gradients.zero_()
                optimizer.step(1e-3)
        smallest = np.finfo(np.float32).smallest_normal.view(np.int32)
        bits = np.concatenate([moment.view(np.int32) & 0x7FFFFFFF for moment in optimizer.moments.values()])
        found.append(bool(((bits > 0) & (bits < smallest)).any()))
    assert found == [True, False]  # and without the mode they do


def has_subnormal(numbers: Any) -> bool:
    """Looks at the bits of float32 numbers, since a comparison would take subnormal ones for zero."""
    bits = numbers.view(np.int32) & 0x7FFFFFFF
    return bool(((bits > 0) & (bits < np.finfo(np.float32).smallest_normal.view(np.int32))).any())


@needs_mode
@pytest.mark.parametrize("compute", COMPUTES)
def test_a_target_network_that_follows_slowly_does_not_become_subnormal(compute: str) -> None:
    found = []
    for flush in (False, True):
        network = QNetwork(gym.spaces.Box(-1, 1, (3,)), 2, NetworkConfig(), torch.Generator())
        engine, _ = make_q_engine(network, compute, QLoss(dqn_loss, dqn_gradient))
        engine.update_target(1.0)
        with torch.no_grad():
            for parameter in engine.network.parameters():
                parameter.zero_()
        with flushed(flush):
            for _ in range(900):  # a tenth of the way each time: 0.9 ** 900 of the first weights is left
                engine.update_target(0.1)
        found.append(has_subnormal(engine.state_dict()["target"]))
    assert found == [True, False]


@needs_mode
def test_a_return_that_runs_on_without_rewards_does_not_become_subnormal() -> None:
    found = []
    for flush in (False, True):
        normalizer = RewardNormalizer(gamma=0.9, num_envs=1)
        rewards, never, always = np.zeros((900, 1), np.float32), np.zeros((900, 1), bool), np.ones((900, 1), bool)
        rewards[0] = 1.0
        with flushed(flush):
            normalizer.normalize(rewards, never, always, ALONE)
        found.append(has_subnormal(normalizer.running))
    assert found == [True, False]


def test_a_priority_is_never_too_small() -> None:
    space, actions = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(2)
    buffer = PrioritizedReplayBuffer(8, 1, space, actions, alpha=1.0)
    buffer.update_priorities(np.arange(4), np.array([0.0, 1e-45, 1e-40, 1e-20], np.float32))
    np.testing.assert_allclose(buffer._tree[np.arange(4)], PRIORITY_EPS, rtol=1e-6)
