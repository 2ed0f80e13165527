"""SARSA and Q-learning by a network: one gradient step on each vector step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector import SyncVectorEnv as GymSyncVectorEnv

import rlkit
from rlkit.agents.temporal_difference import TemporalDifferenceConfig
from rlkit.buffers.transition import Transition
from rlkit.collector import Collector, Episode
from rlkit.envs import EnvFactory, make_vector_env
from rlkit.field_groups import EpsilonConfig
from rlkit.registry import make_agent
from rlkit.setting import NetworkConfig, Setting
from rlkit.spaces import Array

QUICK: dict[str, Any] = {"gamma": 0.9, "learning_rate": 3e-3}
CONFIGS: dict[str, Any] = {
    "q_learning": TemporalDifferenceConfig(target="greedy", epsilon=EpsilonConfig(end=0.2), **QUICK),
    "sarsa": TemporalDifferenceConfig(epsilon=EpsilonConfig(end=0.0, fraction=0.8), **QUICK),
    "expected_sarsa": TemporalDifferenceConfig(target="expected", epsilon=EpsilonConfig(end=0.2), **QUICK),
}
AGENTS = sorted(CONFIGS)
CONFIGS["cartpole"] = TemporalDifferenceConfig(
    gamma=0.98, learning_rate_end=1e-4, epsilon=EpsilonConfig(end=0.05, fraction=0.2), target="expected"
)


def train(
    env: str | Any, name: str, timesteps: int, *, seed: int = 0, num_envs: int = 8, **parts: Any
) -> tuple[Any, list[Episode]]:
    envs = make_vector_env(EnvFactory(env), num_envs, "sync")[0] if isinstance(env, str) else env
    agent: Any = make_agent(
        CONFIGS[name], Setting(envs.single_observation_space, envs.single_action_space, seed=seed, **parts)
    )
    collector, buffer = Collector(envs, list(range(num_envs))), agent.make_buffer(num_envs)
    episodes = []
    while collector.timesteps < timesteps:
        episodes += collector.collect(agent, buffer, agent.steps_per_update)
        agent.update(buffer, collector.timesteps / timesteps)
    envs.close()
    return agent, episodes


def column(*numbers: float) -> Array:
    return np.array(numbers, np.float32)[:, None]


@pytest.mark.parametrize(("name", "compute"), [*((name, "native") for name in AGENTS), ("sarsa", "torch")])
@pytest.mark.parametrize(
    ("probe", "observations", "values"),
    [
        ("ProbeConstantReward", [0], [1]),
        ("ProbeObsValue", [-1, 1], [-1, 1]),
        ("ProbeTwoStepCredit", [0, 1], [0.9, 1]),
        ("ProbeActionMatters", [0], [1]),
    ],
)
def test_probes_of_the_value(name: str, compute: str, probe: str, observations: list[int], values: list[float]) -> None:
    agent, _ = train(f"rlkit/{probe}-v0", name, 4000, compute=compute)
    assert agent.compute == compute
    np.testing.assert_allclose(agent.q_values(column(*observations)).max(1), values, atol=0.1)


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("probe", ["ProbeActionObs", "ProbeTupleObs"])
def test_the_observation_reaches_the_values(name: str, probe: str) -> None:
    agent, _ = train(f"rlkit/{probe}-v0", name, 5000)
    for sign, high in ((-1, 0), (1, 0), (-1, 1), (1, 1)):
        obs = np.array([sign], np.float32)
        right = int(sign > 0) + (2 * high if probe == "ProbeTupleObs" else 0)
        assert agent.predict(obs if probe == "ProbeActionObs" else (obs, (high,)))[0] == right


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("name", AGENTS)
def test_truncation_is_not_an_end_in_any_autoreset_mode(name: str, mode: AutoresetMode) -> None:
    envs = GymSyncVectorEnv([EnvFactory("rlkit/ProbeTruncation-v0")] * 4, autoreset_mode=mode)
    agent, _ = train(envs, name, 8000, num_envs=4)
    assert agent.value(column(0))[0] == pytest.approx(10.0, abs=0.3)


@pytest.mark.parametrize("name", AGENTS)
def test_forbidden_actions_are_never_taken(name: str) -> None:
    agent, _ = train("rlkit/ProbeMaskedAction-v0", name, 6000)  # raises at a forbidden one
    assert agent.predict(np.array([-1], np.float32))[0] == 2
    assert agent.predict(np.array([1], np.float32), action_masks=np.array([True, True, False]))[0] == 1


def test_the_next_value_is_of_an_allowed_action() -> None:
    """The last layer's biases are the values; the mask that comes with the next observation rules the best one out."""
    agent: Any = make_agent(CONFIGS["q_learning"], Setting(spaces.Box(-1, 1, (1,)), spaces.Discrete(3)))
    with torch.no_grad():
        last = agent.values.approximator.network.body[-1]
        last.weight.zero_()
        last.bias.copy_(torch.tensor([1.0, 2.0, 5.0]))
    nothing = np.zeros(2, np.bool_)
    step = Transition(
        obs=(column(0, 0),),
        action=np.array([0, 0]),
        reward=np.zeros(2),
        terminated=nothing,
        truncated=np.array([False, True]),
        next_obs=(column(0, 0),),
        final_obs={1: (np.zeros(1, np.float32),)},
        valid=~nothing,
        action_mask=None,
        next_action_mask=np.array([[True, True, False], [True, False, False]]),
    )
    # In row 1 the mask is of the next episode's first observation: not of what was reached.
    np.testing.assert_allclose(agent.values.next_values(step, 0.0), [2, 5])


@pytest.mark.parametrize("name", AGENTS)
def test_one_seed_gives_identical_parameters_and_state_dicts_bring_them_back(name: str) -> None:
    network = NetworkConfig(normalize_obs=True)
    agent, _ = train("CartPole-v1", name, 800, network=network)
    again, _ = train("CartPole-v1", name, 800, network=network)
    other, _ = train("CartPole-v1", name, 800, network=network, seed=1)
    for key, tensor in agent.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[key], tensor, rtol=0, atol=0)
    weights = "network.body.0.weight"
    assert (agent.model.state_dict()[weights] != other.model.state_dict()[weights]).any()

    envs, _ = make_vector_env(EnvFactory("CartPole-v1"), 8, "sync")
    other.load_state_dict(agent.state_dict())
    found = []
    for one in (agent, other):
        collector, buffer = Collector(envs, list(range(8))), one.make_buffer(8)
        for _ in range(50):
            collector.collect(one, buffer, 1)
            one.update(buffer, 0.5)
        found.append(one.model.state_dict())
    for key, tensor in found[0].items():
        torch.testing.assert_close(found[1][key], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("name", AGENTS)
def test_saved_agents_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    agent, _ = train("CartPole-v1", name, 400)
    agent.save(tmp_path)
    loaded: Any = rlkit.load(tmp_path)
    obs = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    np.testing.assert_array_equal(loaded.q_values(obs), agent.q_values(obs))
    np.testing.assert_array_equal(loaded.action_probabilities(obs), agent.action_probabilities(obs))


def test_it_learns_cartpole() -> None:
    """Somewhat: without a replay buffer it is slow. At random, the return is 22."""
    _, episodes = train("CartPole-v1", "cartpole", 40_000, seed=1)
    assert np.mean([e.episode_return for e in episodes[-60:]]) > 80
