"""Resumed runs: they end exactly as runs do that were never interrupted, and what cannot be resumed is told."""

from __future__ import annotations

import csv
import importlib
import shutil
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.numpy import load_file

import rlkit
from rlkit import checkpoint
from rlkit.buffers.episodes import EpisodeBuffer
from rlkit.buffers.transition import Transition
from rlkit.envs.attributes import Unreadable
from rlkit.envs.make import EnvFactory
from rlkit.envs.state import Recorded, is_readable, read_attributes, read_env, write_env
from rlkit.errors import RlkitError
from rlkit.runs.state_files import read_state, write_state
from rlkit.spaces import leaves
from rlkit.trainer import Trainer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it crashes where its warnings are errors
    importlib.import_module("Box2D")

SHORT: dict[str, Any] = {"eval_episodes": 2, "final_eval_episodes": 2, "verbose": False}
TIMES = (
    *("time/steps_per_second", "time/training_time_s"),
    *("wall_time_s", "steps_per_second", "training_time_s", "training_cpu_s", "peak_memory_mib"),
)
DQN: dict[str, Any] = {"agent.learning_starts": 64, "agent.num_steps": 4, "agent.gradient_steps": 2}
RUNS: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "ppo": ("ppo", "CartPole-v1", 1024, {"num_envs": 4, "agent.num_steps": 32, "agent.minibatch_size": 64}),
    "ppo_box2d": (
        *("ppo", "LunarLander-v3", 1024),
        {"num_envs": 2, "vectorization": "sync", "agent.num_steps": 64, "network.normalize_obs": True},
    ),
    "ppo_async": (
        *("ppo", "Pendulum-v1", 1024),
        {"num_envs": 2, "vectorization": "async", "agent.num_steps": 64, "agent.normalize_rewards": True},
    ),
    "ppo_native": (
        *("ppo", "CartPole-v1", 4096),
        {"num_envs": 64, "vectorization": "native", "agent.num_steps": 8, "agent.minibatch_size": 128},
    ),
    "ppo_kl": ("ppo_adaptive_kl", "Acrobot-v1", 1024, {"num_envs": 4, "agent.num_steps": 32}),
    "a2c": ("a2c", "Acrobot-v1", 640, {"num_envs": 4}),
    "trpo": ("trpo", "Pendulum-v1", 1024, {"num_envs": 4, "agent.num_steps": 64}),
    "reinforce": ("reinforce_baseline", "CartPole-v1", 1500, {"num_envs": 2}),
    "dqn": ("dqn", "CartPole-v1", 600, {**DQN, "network.normalize_obs": True}),
    "rainbow": ("rainbow", "CartPole-v1", 300, DQN),
    "dqn_episodes": ("dqn", "CartPole-v1", 600, {**DQN, "agent.gradient_steps_per": "episode", "num_envs": 2}),
    "sarsa": ("sarsa", "Taxi-v4", 600, {}),
    "sarsa_network": ("sarsa", "CartPole-v1", 600, {}),
    "maze": ("q_learning", "rlkit/Maze-v0", 600, {}),
    "pong": (
        *("dqn", "ALE/Pong-v5", 96),
        {
            **DQN,
            "agent.learning_starts": 40,
            "agent.replay.size": 200,
            "num_envs": 2,
            "vectorization": "sync",
            "env_kwargs": {"repeat_action_probability": 0.0},
            "eval_interval": 0,
            "final_eval_episodes": 0,
        },
    ),
}


def run(name: str, folder: Path, **more: Any) -> rlkit.run.Result:
    agent, env, total, fields = RUNS[name]
    settings = {**SHORT, **fields, "total_timesteps": total, **more}
    return rlkit.train(agent, env, tuned=False, run_dir=folder, **settings)


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A dict whose `at` is the share of the budget after which a run is asked to stop."""
    asked = {"at": 2.0}
    advance = Trainer.advance

    def advance_and_stop(self: Trainer) -> Any:
        result = advance(self)
        self.stopping = self.spent >= asked["at"]
        return result

    monkeypatch.setattr(Trainer, "advance", advance_and_stop)
    return asked


def interrupted(name: str, folder: Path, stopping: dict[str, float], at: float, **more: Any) -> None:
    stopping["at"] = at
    with pytest.raises(KeyboardInterrupt):
        run(name, folder, **more)
    stopping["at"] = 2.0


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        found = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in found]


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_ends_like_one_that_was_not_interrupted(
    name: str, tmp_path: Path, stopping: dict[str, float]
) -> None:
    whole = run(name, tmp_path / "whole")
    interrupted(name, tmp_path / "cut", stopping, 0.3)
    stopping["at"] = 0.7
    with pytest.raises(KeyboardInterrupt):
        rlkit.train(resume=tmp_path / "cut")
    stopping["at"] = 2.0
    resumed = rlkit.train(resume=tmp_path / "cut")
    for which in ("last", "best"):
        files = [tmp_path / run / "checkpoints" / which / "model.safetensors" for run in ("whole", "cut")]
        assert files[0].exists() == files[1].exists()
        if not files[0].exists():  # a run without evaluations has no best agent
            continue
        expected, found = map(load_file, files)
        assert expected.keys() == found.keys()
        for tensor in expected:
            np.testing.assert_array_equal(found[tensor], expected[tensor])
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    for key in resumed.summary.keys() - {*TIMES}:
        assert resumed.summary[key] == whole.summary[key]


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came after the checkpoint is done again, and the rows about it are written once."""
    whole = run("dqn", tmp_path / "whole", checkpoint_interval=100, log_interval=20)
    log = Trainer.log

    def dying(self: Trainer, *arguments: Any) -> None:
        log(self, *arguments)
        if self.timesteps >= 370:
            raise SystemError("the power is gone")

    monkeypatch.setattr(Trainer, "log", dying)
    with pytest.raises(SystemError):
        run("dqn", tmp_path / "cut", checkpoint_interval=100, log_interval=20)
    monkeypatch.setattr(Trainer, "log", log)
    assert int(rows(tmp_path / "cut")[-1]["time/total_timesteps"]) > 320
    assert checkpoint.load_run(tmp_path / "cut" / "checkpoints" / "last")["timesteps"] == 320
    resumed = rlkit.train(resume=tmp_path / "cut")
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert resumed.summary["eval_return_mean"] == whole.summary["eval_return_mean"]


def test_a_finished_run_is_extended(tmp_path: Path) -> None:
    run("ppo", tmp_path / "run")
    with pytest.raises(RlkitError, match=r"has finished, after 1,024 timesteps.*total_timesteps=2048"):
        rlkit.train(resume=tmp_path / "run")
    changes: dict[str, Any] = {"total_timesteps": 2048, "agent.learning_rate": 1e-4}
    longer = rlkit.train(resume=tmp_path / "run", **changes)
    assert longer.summary["total_timesteps"] == 2048
    steps = [int(row["time/total_timesteps"]) for row in rows(tmp_path / "run")]
    assert steps == sorted(steps)
    assert steps[-1] == 2048
    assert "learning_rate: 0.0001" in (tmp_path / "run" / ".hydra" / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"env": "Acrobot-v1"}, "env='Acrobot-v1': a run that is resumed keeps its folder, agent"),
        ({"agent": "dqn"}, "agent='dqn': a run that is resumed keeps"),
        ({"num_envs": 2}, "num_envs=2: a run that is resumed keeps"),
        ({"seed": 2}, "seed=2: a run that is resumed keeps"),
        ({"agent.num_steps": 8}, "agent.num_steps=8: a run that is resumed keeps"),
        ({"network": {"hidden_sizes": [4]}}, "a run that is resumed keeps"),
        ({"agent.learning_rat": 8}, "agent.learning_rat=8"),
        ({"total_timesteps": "many"}, "total_timesteps"),
        ({"run_dir": "elsewhere"}, "a run that is resumed keeps its folder"),
    ],
)
def test_what_a_run_consists_of_cannot_change(
    change: dict[str, Any], words: str, tmp_path: Path, stopping: dict[str, float]
) -> None:
    interrupted("ppo", tmp_path / "run", stopping, 0.5)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(RlkitError) as error:
        rlkit.train(resume=tmp_path / "run", **change)
    assert words in str(error.value)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_folders_that_hold_no_run_are_told(tmp_path: Path, stopping: dict[str, float]) -> None:
    interrupted("ppo", tmp_path / "run", stopping, 0.5)
    state = tmp_path / "run" / "checkpoints" / "last" / "training.safetensors"
    whole = state.read_bytes()

    def refused(words: str) -> None:
        with pytest.raises(RlkitError) as error:
            rlkit.train(resume=tmp_path / "run")
        assert words in str(error.value)
        assert "\n" not in str(error.value)

    with pytest.raises(RlkitError, match="cannot be resumed: cannot read"):
        rlkit.train(resume=tmp_path / "nothing")
    state.write_bytes(whole[:-20] + bytes(20))
    refused("their digest differs")
    state.write_bytes(whole[:1000])
    refused("damaged")
    write_state(state, {"timesteps": 5}, {"format": "1"})
    refused("'episodes'")
    rows_before = (tmp_path / "run" / "metrics.csv").read_bytes()
    write_state(state, {"timesteps": 5, "episodes": 1, "source": {"agent": {}}}, {"format": "1"})
    refused("damaged")
    collector = {"vectorization": "sync"}
    write_state(
        state, {"timesteps": 5, "episodes": 1, "source": {"agent": {}, "collector": collector}}, {"format": "1"}
    )
    refused("damaged")
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == rows_before
    write_state(state, {"timesteps": 5}, {"format": "99"})
    refused("has format '99'; this version of rlkit reads format 1")
    state.unlink()
    refused("training.safetensors is missing")
    shutil.rmtree(tmp_path / "run" / ".hydra")
    refused("cannot be resumed")


def test_workers_runs_are_not_resumed(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"total_timesteps": 64, "agent.num_workers": 1, **SHORT}
    rlkit.train("a3c", "CartPole-v1", run_dir=tmp_path / "run", tuned=False, **fields)
    with pytest.raises(RlkitError, match="agent=a3c cannot be resumed: its workers' episodes"):
        rlkit.train(resume=tmp_path / "run", total_timesteps=128)


IDS = (
    *("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1", "FrozenLake-v1"),
    *("Taxi-v4", "CliffWalking-v1", "Blackjack-v1", "LunarLander-v3", "ALE/Pong-v5", "rlkit/Maze-v0"),
)


def same(one: Any, other: Any, space: spaces.Space[Any]) -> bool:
    return all(map(np.array_equal, leaves(space, one), leaves(space, other)))


@pytest.mark.parametrize("id", IDS)
def test_an_environment_goes_on_in_another_object(id: str, tmp_path: Path) -> None:
    """The state passes through a file, and 60 steps that follow are equal, with all resets in them."""
    kwargs = {"repeat_action_probability": 0.0} if id.startswith("ALE") else {}
    recorded = not is_readable_after_reset(id)
    one, other = (EnvFactory(id, kwargs, recorded=recorded)(seed=seed) for seed in (1, 2))
    for env, seed in ((one, 1), (other, 2)):
        env.reset(seed=seed)
    one.action_space.seed(0)
    actions = [one.action_space.sample() for _ in range(85)]
    obs = played(one, actions[:25])[-1][0]
    write_state(tmp_path / "state.safetensors", read_env(one), {})
    state = read_state(tmp_path / "state.safetensors")[0]
    assert write_env(other, state, leaves(one.observation_space, obs)) is None
    for one_step, other_step in zip(played(one, actions[25:]), played(other, actions[25:]), strict=True):
        assert same(one_step[0], other_step[0], one.observation_space)
        assert one_step[1:] == other_step[1:]


def is_readable_after_reset(id: str) -> bool:
    env = EnvFactory(id)()
    env.reset(seed=0)
    return is_readable(env)


def played(env: gym.Env[Any, Any], actions: list[Any]) -> list[tuple[Any, ...]]:
    found = []
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            obs, _ = env.reset()
        found.append((obs, reward, terminated, truncated))
    return found


class Counting(gym.Env[Any, Any]):
    """An environment with attributes of many kinds, two names for one array, and a part that leads back to it."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.numbers = np.zeros(2, np.float32)
        self.again = self.numbers
        self.part = Part(self)
        self.memory: dict[Any, Any] = {"a": [1, (2, None)], 3: {4.5, 6.5}, (1, 2): b"x"}
        self.texts = np.array(["one", "two"])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.numbers[:] = 0
        return self.numbers.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.numbers += 1
        self.memory["a"].append(float(self.np_random.random()))
        self.part.steps += 1
        return self.again.copy(), 1.0, False, False, {}


class Part:
    def __init__(self, whole: Counting) -> None:
        self.whole, self.steps = whole, 0


@pytest.mark.parametrize(("probability", "count"), [(0.0, 0), (0.25, 1)])
def test_an_emulator_that_repeats_actions_is_told(probability: float, count: int) -> None:
    env = EnvFactory("ALE/Pong-v5", {"repeat_action_probability": probability})()
    env.reset(seed=0)
    assert len(read_env(env)["remarks"]) == count


def test_attributes_of_all_kinds_are_restored_with_what_they_share() -> None:
    one, other = Counting(), Counting()
    one.reset(seed=1)
    other.reset(seed=2)
    for _ in range(3):
        one.step(0)
    state = read_env(one)
    assert write_env(other, state, []) is None
    assert other.memory == one.memory
    assert other.numbers is other.again
    assert other.part.whole is other
    assert (other.part.steps, other.numbers.tolist()) == (3, [3, 3])
    assert other.np_random.random() == one.np_random.random()
    other.step(0)
    assert one.numbers.tolist() == [3, 3], "the two share nothing"


class Hidden:
    """An object that holds more than its attributes say."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Secretive(gym.Env[Any, Any]):
    """An environment whose state cannot be read; with `wild`, it draws from no generator of its own."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,))
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, wild: bool = False) -> None:
        self.hidden, self.wild = Hidden(), wild
        self.entropy = np.random.SeedSequence().spawn(1)[0]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.hidden.count = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.hidden.count += 1
        drawn = np.random.default_rng(self.entropy.spawn(1)[0]) if self.wild else self.np_random
        obs = np.array([drawn.random() + action[0], self.hidden.count], np.float32)
        return obs, 0.0, False, self.hidden.count >= 20, {}


def test_an_episode_that_cannot_be_read_is_played_again() -> None:
    with pytest.raises(Unreadable, match=r"Secretive.hidden is a Hidden"):
        read_attributes(Secretive())
    one, other = Recorded(Secretive()), Recorded(Secretive())
    one.reset(seed=1)
    other.reset(seed=2)
    one.reset()
    for i in range(7):
        obs, *_ = one.step(np.array([i / 10], np.float32))
    assert write_env(other, read_env(one), [obs]) is None
    action = np.array([0.5], np.float32)
    np.testing.assert_array_equal(one.step(action)[0], other.step(action)[0])
    np.testing.assert_array_equal(one.reset()[0], other.reset()[0])
    np.testing.assert_array_equal(one.step(action)[0], other.step(action)[0])


def test_an_episode_that_leads_elsewhere_begins_anew_and_the_run_says_so(
    tmp_path: Path, stopping: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    if "Secretive-v0" not in gym.registry:
        gym.register("Secretive-v0", "test_resume:Secretive", max_episode_steps=50)
    for agent in ("ppo", "a2c"):
        folder = tmp_path / agent
        fields: dict[str, Any] = {**SHORT, "total_timesteps": 400, "num_envs": 2, "verbose": True}
        stopping["at"] = 0.45
        with pytest.raises(KeyboardInterrupt):
            rlkit.train(agent, "Secretive-v0", run_dir=folder, env_kwargs={"wild": True}, **fields)
        assert f"python -m rlkit resume={folder}" in capsys.readouterr().err
        stopping["at"] = 2.0
        rlkit.train(resume=folder)
        told = capsys.readouterr().err
        assert "the open episodes of 2 of 2 environments begin anew: its episode, played again, led elsewhere" in told


def test_an_episode_that_does_not_go_on_is_not_learned_from_as_one() -> None:
    def step(count: int, done: list[bool]) -> Transition:
        obs = (np.full((2, 1), count, np.float32),)
        flags = np.zeros(2, np.bool_)
        action, reward = np.zeros(2, np.int64), np.full(2, count, np.float32)
        return Transition(obs, action, reward, np.array(done), flags, obs, {}, ~flags, None)

    buffer = EpisodeBuffer(2)
    for count in range(3):
        buffer.add(step(count, [False, False]))
    again = EpisodeBuffer(2)
    again.load_state_dict(buffer.state_dict())
    again.cut_off([1])
    again.add(step(3, [True, True]))
    episodes = again.take()
    assert episodes.lengths.tolist() == [4, 1]
    assert episodes.rewards.tolist() == [0, 1, 2, 3, 3]


def test_states_pass_through_files_as_they_are(tmp_path: Path) -> None:
    arrays: list[Any] = [np.arange(6, dtype=np.uint32).reshape(2, 3), np.zeros((0, 3)), np.array(5, np.int8)]
    plain: dict[str, Any] = {
        "numbers": [1, 2.5, None, "x", True, float("inf"), 2**100, -(2**63)],
        "many": list(range(100)),
        "nested": {"a": {"array": 1}, "": [], "numbered": {0: "x", 1: {}}},
    }
    tensor = torch.arange(3, dtype=torch.bfloat16)
    write_state(tmp_path / "state", {"arrays": arrays, "tensor": tensor, **plain}, {"format": "1"})
    found, metadata = read_state(tmp_path / "state")
    assert torch.equal(found.pop("tensor"), tensor)
    assert metadata["format"] == "1"
    for one, other in zip(found.pop("arrays"), arrays, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    assert found == plain
    for wrong in (object(), {1.5: 2}, {1, 2}, np.array([object()])):
        with pytest.raises(TypeError):
            write_state(tmp_path / "wrong", {"value": wrong}, {})
    assert not (tmp_path / "wrong").exists()


def test_a_state_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    states: list[dict[str, Any]] = [{"many": [[]] * 100_001}, {"long": "x" * 2**22}]
    for state in states:
        with pytest.raises(TypeError):
            write_state(tmp_path / "state", state, {})
        assert not (tmp_path / "state").exists()


def test_tables_of_an_environment_are_not_stored() -> None:
    env = EnvFactory("Taxi-v4")(seed=1)
    env.reset(seed=1)
    read_attributes(env)
    assert len(repr(read_attributes(env))) < 10_000
