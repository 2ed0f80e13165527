"""Models of Stable-Baselines3 as agents of ours, and back: same actions, values and Q."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

import rlkit
from rlkit.agents.a2c import A2CConfig
from rlkit.agents.base import Agent
from rlkit.agents.dqn import DQNConfig
from rlkit.agents.ppo import PPOConfig
from rlkit.errors import RlkitError
from rlkit.registry import make_agent
from rlkit.setting import AgentConfig, NetworkConfig, Setting
from rlkit.spaces import Array, stacked

CLASSES: Mapping[str, type[BaseAlgorithm]] = {"PPO": PPO, "A2C": A2C, "DQN": DQN}
SMALL: Mapping[str, Mapping[str, Any]] = {
    "PPO": {"n_steps": 16, "batch_size": 16, "n_epochs": 2},
    "A2C": {},
    "DQN": {"buffer_size": 200, "learning_starts": 8, "learning_rate": 1e-3},
}
BOUND = 1e-6
IMAGE = spaces.Box(0, 255, (2, 36, 36), np.uint8)
MIXED = spaces.Dict(
    {
        "camera": IMAGE,
        "arm": spaces.Box(-1, 1, (2, 2)),
        "door": spaces.Discrete(3),
        "locks": spaces.MultiBinary(2),
        "zone": spaces.MultiDiscrete([2, 3]),
    }
)
OBSERVATIONS: Mapping[str, tuple[spaces.Space[Any], str]] = {
    "vector": (spaces.Box(-np.inf, np.inf, (3,)), "MlpPolicy"),
    "far bounds": (spaces.Box(-200, 100, (3,)), "MlpPolicy"),
    "discrete": (spaces.Discrete(5), "MlpPolicy"),
    "image as a vector": (IMAGE, "MlpPolicy"),
    "image": (IMAGE, "CnnPolicy"),
    "dict": (MIXED, "MultiInputPolicy"),
}
ACTIONS: Mapping[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(4),
    "box": spaces.Box(-0.5, 0.25, (2,)),
    "multi-discrete": spaces.MultiDiscrete([2, 3]),
    "multi-binary": spaces.MultiBinary(3),
}


class RandomEnv(gym.Env[Any, Any]):
    """Observations drawn from the space, and rewards of either sign."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], scale: float = 1) -> None:
        self.observation_space, self.action_space, self.scale = observation_space, action_space, scale

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observe(), float(self.np_random.normal()), self.steps % 7 == 0, False, {}

    def observe(self) -> Any:
        obs = self.observation_space.sample()
        return obs * np.float32(self.scale) + np.float32(self.scale) if self.scale != 1 else obs


def trained(kind: str, policy: str, env: Any, **kwargs: Any) -> BaseAlgorithm:
    """A small model that has learned a little, so that no weights are the first ones, and no biases zero."""
    hidden = {} if policy == "CnnPolicy" else {"net_arch": [8, 6] if kind == "DQN" else {"pi": [8, 6], "vf": [7]}}
    policy_kwargs = hidden | kwargs.pop("policy_kwargs", {})
    model = CLASSES[kind](policy, env, seed=0, device="cpu", policy_kwargs=policy_kwargs, **{**SMALL[kind], **kwargs})
    return model.learn(32)


def observations(space: spaces.Space[Any], rows: int = 1000) -> Any:
    space.seed(1)
    return stacked(space, [space.sample() for _ in range(rows)])


def outputs_of_sb3(model: BaseAlgorithm, obs: Any) -> list[Array]:
    """Logits or means, and values; or Q."""
    policy: Any = model.policy
    with torch.no_grad():
        tensors = policy.obs_to_tensor(obs)[0]
        if isinstance(model, DQN):
            return [policy.q_net(tensors).numpy()]
        latent = policy.mlp_extractor(policy.extract_features(tensors))
        params, values = policy.action_net(latent[0]).numpy(), policy.value_net(latent[1]).numpy()[:, 0]
    return [params, values]


def outputs_of_ours(agent: Any, obs: Any) -> list[Array]:
    if agent.config.name == "dqn":
        return [agent.q_values(obs)]
    from rlkit.spaces import as_batch

    params = agent.policy.params(as_batch(agent.observation_space, obs)[0])
    return [params[:, : agent.network.actor[-1].out_features], agent.value(obs)]


def assert_same(model: BaseAlgorithm, agent: Agent[Any], obs: Any, theirs: Any = None) -> None:
    """`theirs` are the observations as SB3's model takes them, where they are normalised before."""
    theirs = obs if theirs is None else theirs
    for expected, found in zip(outputs_of_sb3(model, theirs), outputs_of_ours(agent, obs), strict=True):
        assert expected.shape == found.shape
        assert np.abs(expected).max() > 1e-3
        assert np.abs(expected - found).max() <= BOUND
    actions, ours = model.predict(theirs, deterministic=True)[0], agent.predict(obs)[0]
    assert np.abs(actions.astype(np.float64) - ours.reshape(actions.shape)).max() <= BOUND


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_every_policy_in_and_out(kind: str, observation: str, tmp_path: Path) -> None:
    space, policy = OBSERVATIONS[observation]
    scale = 1 if observation != "far bounds" else 1 / 16  # SB3 does not scale, and saturates otherwise
    model = trained(kind, policy, RandomEnv(space, spaces.Discrete(4), scale))
    model.save(tmp_path / "model")
    agent = rlkit.from_sb3(tmp_path / "model")
    obs = observations(space, 1000 if observation in ("vector", "far bounds", "discrete") else 200)
    obs = obs / 16 if observation == "far bounds" else obs
    assert_same(model, agent, obs)
    assert_same(rlkit.to_sb3(agent), agent, obs)
    assert_same(model, rlkit.load(agent.save(tmp_path / "agent")), obs)


@pytest.mark.parametrize("kind", ["PPO", "A2C"])
@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_in_and_out(kind: str, action: str, tmp_path: Path) -> None:
    space = spaces.Box(-1, 1, (3,))
    model = trained(kind, "MlpPolicy", RandomEnv(space, ACTIONS[action]), policy_kwargs={"activation_fn": nn.ELU})
    model.save(tmp_path / "model.zip")
    agent = rlkit.from_sb3(tmp_path / "model.zip")
    obs = observations(space)
    assert_same(model, agent, obs)
    assert_same(rlkit.to_sb3(agent), agent, obs)
    if action == "box":
        std = agent.model.state_dict()["network.log_std"]
        assert torch.equal(std, model.policy.state_dict()["log_std"])


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("space", [OBSERVATIONS["vector"][0], MIXED], ids=["vector", "dict"])
def test_statistics_of_vec_normalize_in_and_out(kind: str, space: spaces.Space[Any], tmp_path: Path) -> None:
    in_dict = isinstance(space, spaces.Dict)
    env = RandomEnv(space, spaces.Discrete(4))
    normalized = VecNormalize(DummyVecEnv([lambda: env]), norm_obs_keys=["arm"] if in_dict else None, epsilon=1e-4)
    model = trained(kind, "MultiInputPolicy" if in_dict else "MlpPolicy", normalized)
    model.save(tmp_path / "model.zip")
    normalized.save(str(tmp_path / "statistics.pkl"))
    agent = rlkit.from_sb3(tmp_path / "model.zip", vec_normalize=tmp_path / "statistics.pkl")
    obs = observations(space, 200 if in_dict else 1000)
    assert_same(model, agent, obs, normalized.normalize_obs(obs))
    back = rlkit.to_sb3(agent)
    again = back.get_vec_normalize_env()
    assert again is not None
    assert_same(back, agent, obs, again.normalize_obs(obs))
    if kind != "DQN":
        np.testing.assert_allclose(again.normalize_reward(np.ones(1)), normalized.normalize_reward(np.ones(1)))


def test_hyperparameters_are_taken_over_and_given_back() -> None:
    space, actions = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)
    configs: list[AgentConfig] = [
        PPOConfig(num_steps=32, minibatch_size=8, num_epochs=3, clip_coef=0.1, target_kl=0.02, max_grad_norm=None),
        A2CConfig(num_steps=7, gae_lambda=0.8, ent_coef=0.02, vf_coef=0.3),
        DQNConfig(learning_rate=2e-4, learning_starts=50, num_steps=3, gradient_steps=6, minibatch_size=16, n_step=2),
    ]
    for config in configs:
        agent = make_agent(config, Setting(space, actions, NetworkConfig(hidden_sizes=[8])))
        model: Any = rlkit.to_sb3(agent)
        assert model.gamma == config.gamma  # type: ignore[attr-defined]
        if isinstance(config, DQNConfig):
            assert (model.train_freq.frequency, model.gradient_steps) == (3, 6)
            assert model.target_update_interval == config.target.interval * 3 / 6
            assert (model.batch_size, model.learning_starts, model.n_steps) == (16, 50, 2)
        elif isinstance(config, PPOConfig):
            assert (model.n_steps, model.batch_size, model.n_epochs, model.target_kl) == (32, 8, 3, 0.02)
            assert (model.clip_range(1), model.max_grad_norm, model.learning_rate(0.5)) == (0.1, np.inf, 1.5e-4)
        else:
            assert (model.n_steps, model.gae_lambda, model.ent_coef, model.vf_coef) == (7, 0.8, 0.02, 0.3)


def test_a_model_that_was_given_an_environment_learns_on() -> None:
    config = PPOConfig(num_steps=16, learning_rate_schedule="constant")
    agent: Any = make_agent(config, Setting(spaces.Box(-1, 1, (3,)), spaces.Discrete(2)))
    env = RandomEnv(agent.observation_space, agent.action_space)
    before = agent.value(observations(agent.observation_space))
    model = rlkit.to_sb3(agent, env).learn(16)
    assert np.abs(outputs_of_sb3(model, observations(agent.observation_space))[1] - before).max() > BOUND
    with pytest.raises(RlkitError, match=r"to_sb3\(agent, env=…\)"):
        rlkit.to_sb3(agent).learn(16)


def test_an_imported_agent_learns_on_with_sb3s_hyperparameters(tmp_path: Path) -> None:
    model = trained(
        "DQN", "MlpPolicy", RandomEnv(spaces.Box(-1, 1, (3,)), spaces.Discrete(2)), train_freq=(2, "episode")
    )
    model.save(tmp_path / "model.zip")
    config = rlkit.from_sb3(tmp_path / "model.zip").config
    assert isinstance(config, DQNConfig)
    assert (config.learning_rate, config.replay.size, config.gradient_steps_per) == (1e-3, 200, "episode")


@pytest.mark.parametrize(
    ("network", "named"),
    [
        ({"squash": True}, "network.squash=True"),
        ({"layer_norm": True}, "network.layer_norm=True"),
        ({"state_dependent_std": True}, "network.state_dependent_std=True"),
    ],
)
def test_what_sb3_does_not_have_is_refused(network: dict[str, Any], named: str) -> None:
    setting = Setting(spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,)), NetworkConfig(**network))
    with pytest.raises(RlkitError, match=named):
        rlkit.to_sb3(make_agent(PPOConfig(), setting))


def test_agents_and_spaces_that_sb3_does_not_have_are_refused() -> None:
    from rlkit.agents.trpo import TRPOConfig

    box = spaces.Box(-1, 1, (3,))
    with pytest.raises(RlkitError, match="agent=trpo has no counterpart"):
        rlkit.to_sb3(make_agent(TRPOConfig(), Setting(box, spaces.Discrete(2))))
    with pytest.raises(RlkitError, match="agent.dueling=True"):
        rlkit.to_sb3(make_agent(DQNConfig(dueling=True), Setting(box, spaces.Discrete(2))))
    with pytest.raises(RlkitError, match="no space within a space"):
        rlkit.to_sb3(make_agent(PPOConfig(), Setting(spaces.Tuple([box, box]), spaces.Discrete(2))))
    small = spaces.Box(0, 255, (1, 20, 20), np.uint8)
    with pytest.raises(RlkitError, match="a CNN that SB3 does not have"):
        rlkit.to_sb3(make_agent(PPOConfig(), Setting(small, spaces.Discrete(2))))
    agent = make_agent(PPOConfig(), Setting(box, spaces.Discrete(2)))
    with pytest.raises(RlkitError, match="env has the action_space"):
        rlkit.to_sb3(agent, RandomEnv(box, spaces.Discrete(3)))
