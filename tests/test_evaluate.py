from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import rlkit
from rlkit import checkpoint, episodes
from rlkit.agents.ppo import PPOConfig
from rlkit.episodes import Evaluation, evaluate_policy
from rlkit.errors import RlkitError
from rlkit.evaluate import EvaluateConfig, help_text, main, parse
from rlkit.registry import make_agent
from rlkit.setting import NetworkConfig, Setting


class Lottery(gym.Env[Any, Any]):
    """An episode takes as many steps as its seed says, 1 to 6, and pays 10 at its end; observes seed and step."""

    observation_space = spaces.Box(0, np.inf, (2,))
    action_space = spaces.Discrete(3)

    def __init__(self, render_mode: str | None = None) -> None:
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
        self.render_mode = render_mode
        self.seeds: list[int] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        assert seed is not None
        self.seeds.append(seed)
        self.seed, self.steps = seed, 0
        return self.obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.steps < self.length, "stepped after the end of the episode"
        self.steps += 1
        over = self.steps == self.length
        return self.obs(), 10.0 * over, over and self.seed % 2 == 0, over and self.seed % 2 == 1, {}

    def render(self) -> Any:
        return np.full((5, 7, 3), 20 * self.steps, np.uint8)

    @property
    def length(self) -> int:
        return 1 + self.seed % 6

    def obs(self) -> Any:
        return np.array([self.seed, self.steps], np.float32)


class Fixed:
    """Always does the same, and notes what it is asked."""

    def __init__(self, env: gym.Env[Any, Any], action: Any = 0) -> None:
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.action = action
        self.asked: list[dict[str, Any]] = []

    def predict(self, obs: Any, **others: Any) -> tuple[Any, Any]:
        self.asked.append({"obs": np.copy(obs), **others})
        state = np.zeros(len(obs), int) if others["state"] is None else others["state"]
        return np.array([self.action] * len(obs)), np.where(others["episode_start"], 0, state) + 1


@pytest.mark.parametrize("num_envs", [1, 3, 5, 20])
def test_every_episode_has_its_own_seed_on_any_number_of_envs(num_envs: int) -> None:
    envs = [Lottery() for _ in range(num_envs)]
    evaluation = evaluate_policy(Fixed(envs[0]), envs, 10, seed=100)
    assert evaluation.lengths == [1 + (100 + i) % 6 for i in range(10)]  # truncated episodes count like others
    assert evaluation.returns == [10.0] * 10
    assert sorted(seed for env in envs for seed in env.seeds) == list(range(100, 110))  # and none is begun in vain


def test_an_agent_with_memory_is_told_where_episodes_start() -> None:
    envs = [Lottery(), Lottery()]
    agent = Fixed(envs[0])
    evaluate_policy(agent, envs, 6, seed=0)
    first = agent.asked[0]
    assert first["state"] is None
    assert first["episode_start"].all()
    for asked in agent.asked:
        assert asked["deterministic"] is True
        np.testing.assert_array_equal(asked["episode_start"], asked["obs"][:, 1] == 0)
        if asked["state"] is not None:  # the memory counts the episode's steps
            alive = asked["obs"][:, 1] < 1 + asked["obs"][:, 0] % 6
            counted = np.where(asked["episode_start"], 0, asked["state"])
            np.testing.assert_array_equal(counted[alive], asked["obs"][alive, 1])


def test_means_and_deviations_are_over_episodes() -> None:
    evaluation = Evaluation([1.0, 2.0, 6.0], [4, 5, 6])
    assert evaluation.return_mean == 3.0
    assert evaluation.return_std == pytest.approx(np.std([1, 2, 6]))
    assert evaluation.length_mean == 5.0


class Masked(Lottery):
    """Allows only the action that the step counts to; its last info has no mask."""

    def reset(self, **others: Any) -> tuple[Any, dict[str, Any]]:
        obs, _ = super().reset(**others)
        return obs, {"action_mask": self.mask()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.mask()[action]
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, terminated, truncated, {} if terminated or truncated else {"action_mask": self.mask()}

    def mask(self) -> Any:
        return np.arange(3) == self.steps % 3


def test_action_masks_reach_the_agent() -> None:
    class Obedient(Fixed):
        def predict(self, obs: Any, **others: Any) -> tuple[Any, Any]:
            super().predict(obs, **others)
            return np.argmax(others["action_masks"], axis=1), None

    envs = [Masked(), Masked()]
    assert evaluate_policy(Obedient(envs[0]), envs, 5).lengths == [1, 2, 3, 4, 5]


def test_masks_work_with_a_real_agent() -> None:
    env = Masked()
    agent = make_agent(
        PPOConfig(), Setting(env.observation_space, env.action_space, network=NetworkConfig(hidden_sizes=[8]))
    )
    assert evaluate_policy(agent, env, 4, deterministic=False).lengths == [1, 2, 3, 4]


def test_nested_observations_are_batched() -> None:
    class Nested(Lottery):
        observation_space: Any = spaces.Dict({"x": spaces.Box(0, 9, (1,)), "y": spaces.Discrete(9)})

        def obs(self) -> Any:
            return {"x": np.array([self.seed], np.float32), "y": self.steps}

    class Looks(Fixed):
        def predict(self, obs: Any, **others: Any) -> tuple[Any, Any]:
            assert obs["x"].shape == (2, 1)
            assert obs["y"].shape == (2,)
            return np.zeros(2, int), None

    envs = [Nested(), Nested()]
    assert evaluate_policy(Looks(envs[0]), envs, 3).lengths == [1, 2, 3]


def test_by_id_equals_by_environment() -> None:
    env = gym.make("CartPole-v1")
    agent = make_agent(
        PPOConfig(), Setting(env.observation_space, env.action_space, network=NetworkConfig(hidden_sizes=[8]))
    )
    by_id = evaluate_policy(agent, "CartPole-v1", 6, seed=5, env_kwargs={"sutton_barto_reward": True}, num_envs=4)
    sutton = gym.make("CartPole-v1", sutton_barto_reward=True)
    assert by_id == evaluate_policy(agent, sutton, 6, seed=5)
    assert by_id.returns == [-1.0] * 6


def test_an_episode_that_never_ends_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episodes, "MAX_EPISODE_STEPS", 50)

    class Endless(Lottery):
        length = 10**9

    evaluation = evaluate_policy(Fixed(Endless()), Endless(), 2)
    assert evaluation.lengths == [50, 50]
    assert evaluation.remark().startswith("2 of 2 evaluation episodes did not end, and were cut after 50 steps")
    assert episodes.Evaluation([1.0, 2.0], [50, 7], 1).remark().startswith("1 of 2")
    assert episodes.Evaluation([1.0, 2.0], [49, 7]).remark() == ""


class Broken(Lottery):
    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def reset(self, **others: Any) -> tuple[Any, dict[str, Any]]:
        if self.where == "reset":
            raise ValueError("no\nluck")
        return super().reset(**others)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.where == "step":
            raise KeyError("key")
        obs, _, *rest = super().step(action)
        return obs, float("nan"), *rest


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("reset", "^env Broken: reset raised ValueError: no luck$"),
        ("step", "^env Broken: step raised KeyError: 'key'$"),
        ("reward", "^env Broken: step returned the reward nan; it must be a finite number$"),
    ],
)
def test_an_environment_that_fails_is_one_line(where: str, message: str) -> None:
    with pytest.raises(RlkitError, match=message):
        evaluate_policy(Fixed(Lottery()), Broken(where), 1)


def test_an_environment_that_does_not_fit_the_agent_is_refused() -> None:
    cartpole, pendulum = gym.make("CartPole-v1"), gym.make("Pendulum-v1")
    with pytest.raises(RlkitError, match=r"^env Pendulum-v1 does not fit the agent: its observations are Box"):
        evaluate_policy(Fixed(cartpole), pendulum)
    agent = Fixed(cartpole)
    agent.action_space = spaces.Discrete(3)
    with pytest.raises(RlkitError, match=r"its actions are Discrete\(2\), the agent's are Discrete\(3\)"):
        evaluate_policy(agent, cartpole)
    agent = Fixed(cartpole)
    agent.observation_space = spaces.Box(-1, 1, (4,))  # other bounds only, as a wrapper may set them
    evaluate_policy(agent, cartpole, 1)
    with pytest.raises(RlkitError, match="episodes=0"):
        evaluate_policy(agent, cartpole, 0)


def test_stable_baselines_agents_can_be_evaluated() -> None:
    from stable_baselines3 import PPO

    model = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu")
    evaluation = evaluate_policy(model, "CartPole-v1", 2)
    assert evaluation.returns == [float(length) for length in evaluation.lengths]


# The command


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    env = gym.make("CartPole-v1")
    agent = make_agent(
        PPOConfig(), Setting(env.observation_space, env.action_space, network=NetworkConfig(hidden_sizes=[8]))
    )
    agent.env = {"id": "CartPole-v1", "kwargs": {"sutton_barto_reward": False}, "preprocessing": "auto"}
    checkpoint.save(agent, tmp_path / "checkpoints" / "best")
    return tmp_path


def test_the_command_prints_and_writes_the_result(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run_dir), "episodes=3", "seed=7"]) == 0
    report = json.loads((run_dir / "evaluation.json").read_text())
    expected = rlkit.evaluate_policy(rlkit.load(run_dir), "CartPole-v1", 3, seed=7)
    assert report["returns"] == expected.returns
    assert report["return_mean"] == expected.return_mean
    assert report["checkpoint"] == str(run_dir / "checkpoints" / "best")
    out = capsys.readouterr().out
    assert f"return {expected.return_mean:.2f} ± {expected.return_std:.2f} over 3 episodes" in out
    assert "evaluation.json" in out
    assert not (run_dir / "videos").exists()


def test_the_command_prints_the_result_where_it_cannot_be_written(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run_dir, folder)
    (folder / "evaluation.json").unlink(missing_ok=True)
    (folder / "evaluation.json" / "in the way").mkdir(parents=True)
    assert main([str(folder), "episodes=2"]) == 2
    shown = capsys.readouterr()
    assert "over 2 episodes" in shown.out
    (line,) = shown.err.splitlines()
    assert line.startswith("error: cannot write ")


def test_the_command_takes_other_env_kwargs(run_dir: Path) -> None:
    assert main([str(run_dir), "episodes=1", "env_kwargs.sutton_barto_reward=true"]) == 0
    report = json.loads((run_dir / "evaluation.json").read_text())
    assert report["env_kwargs"] == {"sutton_barto_reward": True}
    assert report["returns"] == [-1.0]


def test_the_command_records(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run_dir), "episodes=3", "video=true", "video_episodes=2"]) == 0
    assert sorted(file.name for file in (run_dir / "videos").iterdir()) == ["episode-0.mp4", "episode-1.mp4"]
    assert "episode-1.mp4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one run folder, checkpoint or model file, and none was given"),
        (["RUN", "RUN"], "expected one run folder, checkpoint or model file, not "),
        (["nowhere"], "there is no run folder or checkpoint nowhere"),
        (["RUN", "episods=3"], "unknown key 'episods'; did you mean 'episodes'?"),
        (["RUN", "episodes=many"], "episodes: Value 'many' of type 'str' could not be converted to Integer"),
        (["RUN", "episodes=["], "cannot read 'episodes=[': expected key=value"),
        (["RUN", "episodes=0"], "episodes=0 is out of range"),
        (["RUN", "device=gpu"], "unknown device 'gpu'"),
        (["RUN", "--video"], "unknown option '--video': options are key=value"),
        (["RUN", "env=CartPol-v1"], "unknown env 'CartPol-v1'; did you mean 'CartPole-v1'?"),
        (["RUN", "env=Pendulum-v1"], "env Pendulum-v1 does not fit the agent"),
        (["RUN", "video=true", "env=rlkit/ProbeConstantReward-v0"], "cannot be recorded: that takes the render mode"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.replace("RUN", str(run_dir)) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(file.name for file in run_dir.iterdir()) == ["checkpoints"]


def test_a_path_may_hold_an_equals_sign() -> None:
    run, config = parse(["runs/agent=ppo,seed=1", "episodes=2", "deterministic=false"])
    assert run == Path("runs/agent=ppo,seed=1")
    assert config == EvaluateConfig(episodes=2, deterministic=False)


def test_a_folder_beside_the_user_may_be_called_like_a_sweeps_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("agent=ppo,seed=0", "a=b", "seed=0"):
        (tmp_path / name).mkdir()
    for name in ("agent=ppo,seed=0", "a=b", "./seed=0"):
        assert parse([name, "seed=0", "episodes=2"]) == (Path(name), EvaluateConfig(episodes=2))
    with pytest.raises(RlkitError, match="none was given"):
        parse(["seed=0"])  # an option stays one


def test_help_names_every_option() -> None:
    text = help_text()
    for name in vars(EvaluateConfig()):
        assert f"  {name}=" in text
    assert "episodes=20 " in text


def test_help_and_mistakes_do_not_import_torch() -> None:
    code = """
import sys
from rlkit.evaluate import main
assert (main(["--help"]), main(["nowhere"]), main(["x", "episods=1"])) == (0, 2, 2)
slow = {"torch", "stable_baselines3", "wandb", "matplotlib", "tensorboard", "rich", "imageio_ffmpeg"}
assert not slow & set(sys.modules), slow & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
