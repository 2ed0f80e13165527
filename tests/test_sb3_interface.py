"""SB3's interface on our agents: scripts written for it run with one import changed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

import rlkit
from rlkit.agents.dqn import DQNConfig
from rlkit.agents.ppo import PPOConfig
from rlkit.errors import RlkitError
from rlkit.sb3 import A2C, DQN, PPO, from_zoo
from rlkit.sb3.vector import GymnasiumVectorEnv
from rlkit.sb3.zoo import read_expression

SMALL: dict[Any, dict[str, Any]] = {
    PPO: {"n_steps": 16, "batch_size": 16, "n_epochs": 2},
    A2C: {},
    DQN: {"buffer_size": 500, "learning_starts": 16},
}
MODELS = list(SMALL)


class Countdown(gym.Env[Any, Any]):
    """Counts down from three; every other episode is cut."""

    observation_space = spaces.Box(0, 3, (1,))
    action_space = spaces.Discrete(2)
    episodes = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 3
        self.episodes += 1
        return np.full(1, 3, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        over, cut = self.left == 0, self.episodes % 2 == 0
        return np.full(1, self.left, np.float32), 1.0, over and not cut, over and cut, {}


def weights(model: Any) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.policy.parameters()]


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_learns_predicts_saves_and_loads(kind: Any, tmp_path: Path) -> None:
    model = kind("MlpPolicy", "CartPole-v1", seed=0, **SMALL[kind])
    before = weights(model)
    assert model.learn(64) is model
    assert model.num_timesteps >= 64
    assert any(not torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))
    obs = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    actions, state = model.predict(obs, deterministic=True)
    assert actions.shape == (20,)
    assert state is None
    assert model.predict(obs[0])[0].shape == ()
    model.save(tmp_path / "model")
    loaded = kind.load(tmp_path / "model", env=make_vec_env("CartPole-v1"))
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], actions)
    assert loaded.num_timesteps == model.num_timesteps
    loaded.learn(32, reset_num_timesteps=False)
    assert loaded.num_timesteps >= model.num_timesteps + 32
    buffer = io.BytesIO()
    model.save(buffer)
    buffer.seek(0)
    np.testing.assert_array_equal(kind.load(buffer).predict(obs, deterministic=True)[0], actions)


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_a_model_that_sb3_saved_is_loaded(kind: Any, tmp_path: Path) -> None:
    import stable_baselines3

    theirs = getattr(stable_baselines3, kind.__name__)("MlpPolicy", "CartPole-v1", device="cpu", **SMALL[kind])
    theirs.save(tmp_path / "model")
    model = kind.load(tmp_path / "model", env="CartPole-v1")
    obs = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    expected = theirs.predict(obs, deterministic=True)[0]
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], expected)
    other = A2C if kind is PPO else PPO
    with pytest.raises(RlkitError, match=f"holds a model of {kind.__name__}: expected one of {other.__name__}"):
        other.load(tmp_path / "model")


def test_equal_seeds_give_equal_models() -> None:
    first, second = (PPO("MlpPolicy", "CartPole-v1", seed=3, **SMALL[PPO]).learn(64) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


def test_arguments_become_our_fields() -> None:
    kwargs = {"net_arch": {"pi": [8], "vf": [4, 4]}, "activation_fn": nn.ReLU, "optimizer_kwargs": {"eps": 1e-7}}
    model = PPO("MlpPolicy", "CartPole-v1", 1e-3, 32, 8, 3, 0.9, 0.8, 0.1, ent_coef=0.01, policy_kwargs=kwargs)
    config, network = model.agent.config, model.agent.network_config
    assert isinstance(config, PPOConfig)
    assert (config.learning_rate, config.num_steps, config.minibatch_size, config.num_epochs) == (1e-3, 32, 8, 3)
    assert (config.gamma, config.gae_lambda, config.clip_coef, config.ent_coef) == (0.9, 0.8, 0.1, 0.01)
    assert (config.learning_rate_schedule, config.adam_eps) == ("constant", 1e-7)
    assert (network.hidden_sizes, network.critic_hidden_sizes, network.activation) == ([8], [4, 4], "relu")


def test_dqns_arguments_become_our_fields() -> None:
    envs = make_vec_env("CartPole-v1", 2)
    model = DQN("MlpPolicy", envs, train_freq=4, gradient_steps=-1, target_update_interval=80, tau=0.5, n_steps=3)
    config = model.agent.config
    assert isinstance(config, DQNConfig)
    assert (config.num_steps, config.gradient_steps, config.target.interval) == (4, 8, 80)
    assert (config.target.tau, config.n_step, config.epsilon.fraction) == (0.5, 3, 0.1)


def test_schedules_are_followed() -> None:
    seen: list[float] = []

    def schedule(left: float) -> float:
        seen.append(left)
        return 1e-3 * left

    model = PPO("MlpPolicy", "CartPole-v1", schedule, clip_range=lambda left: 0.1 + left, **SMALL[PPO])
    model.learn(64)
    assert seen[-4:] == [0.75, 0.5, 0.25, 0.0]
    assert model.agent.config.learning_rate == 1e-3  # type: ignore[attr-defined]


def test_callbacks_see_every_step_and_end_the_training(tmp_path: Path) -> None:
    class Counting(BaseCallback):
        steps = rollouts = 0

        def _on_step(self) -> bool:
            assert self.locals["dones"].shape == (2,)
            assert self.training_env is model.get_env()
            self.steps += 1
            return self.steps < 40

        def _on_rollout_end(self) -> None:
            self.rollouts += 1

    model = PPO("MlpPolicy", make_vec_env("CartPole-v1", 2), **SMALL[PPO])
    counting = Counting()
    model.learn(1000, counting)
    assert (counting.steps, counting.rollouts, model.num_timesteps) == (40, 2, 80)
    best = tmp_path / "best"
    evaluating = EvalCallback(
        make_vec_env("CartPole-v1"), eval_freq=16, n_eval_episodes=1, verbose=0, best_model_save_path=str(best)
    )
    model.learn(64, [CheckpointCallback(16, str(tmp_path)), evaluating])
    assert (tmp_path / "rl_model_32_steps.zip").is_file()
    assert isinstance(PPO.load(best / "best_model"), PPO)
    model.learn(10_000, StopTrainingOnMaxEpisodes(3))
    assert model.num_timesteps < 10_000


def test_progress_is_shown_without_more_packages(capsys: pytest.CaptureFixture[str]) -> None:
    PPO("MlpPolicy", "CartPole-v1", **SMALL[PPO]).learn(160, progress_bar=True)
    assert "100" in capsys.readouterr().err


def test_sb3s_vector_environments_end_episodes_as_gymnasiums_do() -> None:
    envs = GymnasiumVectorEnv(DummyVecEnv([Countdown]), None)
    envs.reset()
    ends = [envs.step(np.zeros(1, np.int64)) for _ in range(6)]
    assert [bool(terminated[0]) for _, _, terminated, _, _ in ends] == [False, False, True, False, False, False]
    assert [bool(truncated[0]) for _, _, _, truncated, _ in ends] == [False, False, False, False, False, True]
    assert ends[5][0][0] == 3  # the next episode's first observation
    assert ends[5][4]["final_obs"][0] == 0


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_dicts_and_images(kind: Any) -> None:
    from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv

    for policy, env in (
        ("CnnPolicy", FakeImageEnv(screen_height=40, screen_width=40, n_channels=1, discrete=True)),
        ("MultiInputPolicy", SimpleMultiObsEnv(random_start=False)),
    ):
        model = kind(policy, env, **{**SMALL[kind], **({"buffer_size": 40} if kind is DQN else {})})
        model.learn(20)
        obs, _ = env.reset()
        assert env.action_space.contains(int(model.predict(obs)[0]))


def test_statistics_of_vec_normalize_stay_with_the_environment() -> None:
    envs = VecNormalize(make_vec_env("CartPole-v1", 2))
    model = A2C("MlpPolicy", envs, seed=1).learn(50)
    assert model.get_vec_normalize_env() is envs
    assert envs.obs_rms.count > 50  # type: ignore[attr-defined]
    assert not model.agent.network_config.normalize_obs
    mean, _ = evaluate_policy(model, envs, n_eval_episodes=2, warn=False)
    assert np.isfinite(mean)


def test_parameters_can_be_taken_and_given() -> None:
    first, second = (PPO("MlpPolicy", "CartPole-v1", seed=seed, **SMALL[PPO]).learn(16) for seed in (0, 1))
    second.set_parameters(first.get_parameters())
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))
    with pytest.raises(RlkitError, match="parameters of 'actor'"):
        second.set_parameters({"actor": {}}, exact_match=False)
    with pytest.raises(RlkitError, match="env has the observation_space"):
        second.set_env("Acrobot-v1")


def test_to_sb3_and_save_go_together(tmp_path: Path) -> None:
    model = DQN("MlpPolicy", "CartPole-v1", **SMALL[DQN]).learn(64)
    theirs = rlkit.to_sb3(model.agent)
    obs = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    expected = model.predict(obs, deterministic=True)[0]
    np.testing.assert_array_equal(theirs.predict(obs, deterministic=True)[0], expected)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (PPO, {"use_sde": True}, "use_sde=True: there is no generalised state-dependent exploration"),
        (PPO, {"policy": "MlpLstmPolicy"}, "unknown policy 'MlpLstmPolicy'"),
        (PPO, {"policy": "MultiInputPolicy"}, "you must use `MlpPolicy` or `CnnPolicy`"),
        (PPO, {"policy": "CnnPolicy"}, "CnnPolicy is for images of bytes"),
        (PPO, {"policy_kwargs": {"ortho_init": False}}, "ortho_init=False"),
        (PPO, {"policy_kwargs": {"net_arch": "big"}}, "net_arch=big"),
        (PPO, {"policy_kwargs": {"features_extractor_class": object}}, "features_extractor_class"),
        (PPO, {"policy_kwargs": {"activation_fn": nn.Linear}}, "activation_fn"),
        (PPO, {"gamma": 2.0}, "agent.gamma=2.0 is out of range"),
        (DQN, {"train_freq": (4, "episode")}, "train_freq"),
        (DQN, {"replay_buffer_class": object}, "replay_buffer_class"),
        (DQN, {"env": "Pendulum-v1"}, "agent=dqn needs Discrete actions"),
        (A2C, {"env": None}, "env=None: expected an id"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_done_is_refused_with_the_reason(kind: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RlkitError, match=f"^[^\n]*{message}[^\n]*$"):
        kind(**{"policy": "MlpPolicy", "env": "CartPole-v1", **arguments})


ZOO = """
defaults: &defaults
  n_envs: 2
  n_timesteps: !!float 1e5
  policy: 'MlpPolicy'
CartPole-v1:
  <<: *defaults
  n_steps: 32
  batch_size: 16
  learning_rate: lin_0.001
  clip_range: lin_0.2
  normalize: "dict(norm_obs=True, norm_reward=False)"
  policy_kwargs: "dict(activation_fn=nn.ReLU, net_arch=dict(pi=[8], vf=[8]))"
Acrobot-v1:
  policy_kwargs: "dict(net_arch=[__import__('os').getpid()])"
Pendulum-v1:
  env_wrapper: os.path.join
"""


def test_rl_zoos_files_are_read_without_evaluating_them(tmp_path: Path) -> None:
    (tmp_path / "ppo.yml").write_text(ZOO)
    model, steps = from_zoo(tmp_path / "ppo.yml", "CartPole-v1", n_steps=16)
    assert steps == 100_000
    assert isinstance(model, PPO)
    assert (model.n_envs, model.agent.network_config.hidden_sizes) == (2, [8])
    normalize = model.get_vec_normalize_env()
    assert normalize is not None
    assert not normalize.norm_reward
    assert isinstance(model.agent.config, PPOConfig)
    assert model.agent.config.num_steps == 16
    model.learn(64)
    for env, message in (
        ("Acrobot-v1", "nothing is run"),
        ("Pendulum-v1", "unknown env_wrapper 'os.path.join'"),
        ("CartPole-v0", "did you mean 'CartPole-v1'"),
    ):
        with pytest.raises(RlkitError, match=message):
            from_zoo(tmp_path / "ppo.yml", env)


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "nn.__doc__", "nn.modules", "open('x')", "dict(a=exit())", "[x for x in ()]", "(", "a.b"],
)
def test_expressions_that_are_no_literals_are_refused(text: str) -> None:
    with pytest.raises(RlkitError, match="policy_kwargs="):
        read_expression("policy_kwargs", text)
