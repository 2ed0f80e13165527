from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors import safe_open
from waiting import wait_until

import rlkit
from rlkit import checkpoint
from rlkit.agents.base import Agent
from rlkit.agents.ppo import PPOConfig
from rlkit.errors import RlkitError
from rlkit.registry import make_agent
from rlkit.runs import tensor_files
from rlkit.runs.run_folder import find_checkpoint
from rlkit.setting import NetworkConfig, Setting

VECTOR = spaces.Box(-1, 1, (3,))
TWO = spaces.Discrete(2)


def make(
    observation_space: spaces.Space[Any] = VECTOR,
    action_space: spaces.Space[Any] = TWO,
    seed: int = 0,
    config: PPOConfig | None = None,
    **network: Any,
) -> Agent[Any]:
    network = {"hidden_sizes": [8], **network}
    return make_agent(
        config or PPOConfig(), Setting(observation_space, action_space, network=NetworkConfig(**network), seed=seed)
    )


NESTED = spaces.Dict(
    {
        "b": spaces.Box(-np.inf, np.inf, (2,)),
        "a": spaces.Tuple([spaces.Discrete(3, start=1), spaces.MultiBinary(2), spaces.MultiDiscrete([2, 4])]),
    }
)
KINDS: dict[str, tuple[spaces.Space[Any], spaces.Space[Any], dict[str, Any]]] = {
    "discrete": (VECTOR, spaces.Discrete(3, start=-1), {}),
    "gaussian": (VECTOR, spaces.Box(-2, 2, (2,)), {"state_dependent_std": True}),
    "squashed": (VECTOR, spaces.Box(-2, 2, (2,)), {"squash": True, "activation": "relu"}),
    "multidiscrete": (NESTED, spaces.MultiDiscrete([2, 3]), {}),
    "multibinary": (spaces.Discrete(5), spaces.MultiBinary(3), {}),
    "image": (spaces.Box(0, 255, (84, 84, 3), np.uint8), TWO, {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_agent_acts_alike(kind: str, tmp_path: Path) -> None:
    observation_space, action_space, network = KINDS[kind]
    agent = make(observation_space, action_space, seed=1, **network)
    loaded = rlkit.load(agent.save(tmp_path / "model"))
    assert (loaded.config, loaded.network_config) == (agent.config, agent.network_config)
    assert (loaded.observation_space, loaded.action_space) == (observation_space, action_space)
    for name, tensor in agent.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    observation_space.seed(0)
    for _ in range(5):
        obs = observation_space.sample()
        np.testing.assert_array_equal(loaded.predict(obs)[0], agent.predict(obs)[0])


def test_normalisation_statistics_are_in_the_model_file(tmp_path: Path) -> None:
    agent = make(normalize_obs=True)
    statistics = [name for name in agent.model.state_dict() if name.endswith("mean")]
    assert statistics
    for name in statistics:
        agent.model.state_dict()[name].fill_(0.75)
    loaded = rlkit.load(agent.save(tmp_path))
    assert all((loaded.model.state_dict()[name] == 0.75).all() for name in statistics)
    other = make(normalize_obs=True)
    obs = np.array([[0.1, 0.2, 0.3]], np.float32)
    probabilities = [one.action_probabilities(obs) for one in (loaded, other)]  # type: ignore[attr-defined]
    assert not np.allclose(*probabilities), "the loaded statistics are not used"


def test_agent_json_says_all_and_stays_as_it_is(tmp_path: Path) -> None:
    agent = make()
    agent.env = {"id": "CartPole-v1", "kwargs": {"sutton_barto_reward": True}, "preprocessing": "auto"}
    checkpoint.save(agent, tmp_path, metadata={"timesteps": "1"})
    before = (tmp_path / "agent.json").stat().st_ino
    checkpoint.save(agent, tmp_path, metadata={"timesteps": "2"})
    assert (tmp_path / "agent.json").stat().st_ino == before  # not written again
    description = json.loads((tmp_path / "agent.json").read_text())
    assert description["agent"] == "ppo"
    assert description["config"]["learning_rate"] == PPOConfig().learning_rate
    assert description["env"] == agent.env == checkpoint.read_env(tmp_path) == rlkit.load(tmp_path).env
    with safe_open(tmp_path / "model.safetensors", framework="np") as file:
        assert file.metadata()["timesteps"] == "2"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["agent.json", "model.safetensors"]


def test_an_agent_without_an_environment(tmp_path: Path) -> None:
    make().save(tmp_path)
    with pytest.raises(RlkitError, match=r"agent.json names no environment: give one with env=<id>"):
        checkpoint.read_env(tmp_path)


def test_a_run_folder_loads_its_best_then_its_last(tmp_path: Path) -> None:
    last, best = make(seed=1), make(seed=2)
    last.save(tmp_path / "checkpoints" / "last")
    assert find_checkpoint(tmp_path) == tmp_path / "checkpoints" / "last"
    best.save(tmp_path / "checkpoints" / "best")
    for path in ("", "checkpoints/best", "checkpoints/best/model.safetensors"):
        assert same(rlkit.load(tmp_path / path), best)
    assert same(rlkit.load(str(tmp_path / "checkpoints" / "last")), last)


def same(one: Agent[Any], other: Agent[Any]) -> bool:
    tensors = other.model.state_dict()
    return all(torch.equal(tensor, tensors[name]) for name, tensor in one.model.state_dict().items())


def test_missing_checkpoints_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "2026-seed0").mkdir()
    with pytest.raises(RlkitError, match=r"^there is no run folder or checkpoint .*-seed1; did you mean .*-seed0\?$"):
        rlkit.load(tmp_path / "2026-seed1")
    with pytest.raises(RlkitError, match="^there is no run folder or checkpoint .*/x/y$"):
        rlkit.load(tmp_path / "x" / "y")
    with pytest.raises(RlkitError, match=r"2026-seed0 holds no saved model: expected a run folder with checkpoints/"):
        rlkit.load(tmp_path / "2026-seed0")
    make().save(tmp_path)
    (tmp_path / "agent.json").unlink()
    with pytest.raises(RlkitError, match=r"agent.json is missing: it belongs beside model.safetensors$"):
        rlkit.load(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_a_model_file_that_is_cut_off_is_one_line(tmp_path: Path, kept: float) -> None:
    model = make().save(tmp_path) / "model.safetensors"
    content = model.read_bytes()
    model.write_bytes(content[: int(kept * len(content)) if kept == 0.5 else int(kept)])
    with pytest.raises(RlkitError, match=r"^.*model.safetensors is damaged: [^\n]*$"):
        rlkit.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"format": 1}'])
def test_an_agent_json_that_is_damaged_is_one_line(tmp_path: Path, text: str) -> None:
    make().save(tmp_path)
    (tmp_path / "agent.json").write_text(text)
    with pytest.raises(RlkitError, match=r"^.*agent.json (is damaged: |has format None)[^\n]*$"):
        rlkit.load(tmp_path)


def edit(folder: Path, **changes: Any) -> None:
    description = json.loads((folder / "agent.json").read_text())
    (folder / "agent.json").write_text(json.dumps({**description, **changes}))


def test_what_this_version_does_not_know_is_named(tmp_path: Path) -> None:
    make().save(tmp_path)
    edit(tmp_path, format=5)
    with pytest.raises(RlkitError, match="agent.json has format 5; this version of rlkit reads formats 1, 2, 3 and 4"):
        rlkit.load(tmp_path)
    edit(tmp_path, format=4, agent="pqo")
    with pytest.raises(RlkitError, match=r"unknown agent in .*agent.json 'pqo'; did you mean 'ppo'"):
        rlkit.load(tmp_path)
    with pytest.raises(RlkitError, match="unknown device 'gpu'"):
        rlkit.load(tmp_path, device="gpu")


def in_format_2(folder: Path) -> None:
    """Rewrites a saved agent as an earlier version would have saved it, with no word of what it did not know."""
    network = json.loads((folder / "agent.json").read_text())["network"]
    del network["scale_obs"]
    rewrite(folder, 2, {**network, "hidden_sizes": None})


def rewrite(folder: Path, format: int, network: dict[str, Any]) -> None:
    """Gives a saved agent the format and the network of an earlier version, whose encoders had no number."""
    edit(folder, format=format, network={**network, "encoder": network["encoder"].removesuffix("_v1")})
    description = json.loads((folder / "agent.json").read_text())
    tensors, metadata = tensor_files.read_tensors(folder / "model.safetensors")
    metadata = {**metadata, "agent": checkpoint._fingerprint(description)}
    tensor_files.write_tensors(folder / "model.safetensors", tensors, metadata)


CAMERA = spaces.Box(0, 255, (8, 8, 3), np.uint8)
MIXED = {
    "an image and more": spaces.Dict({"camera": CAMERA, "way": spaces.Discrete(3), "far": spaces.Box(0, 99, (2,))}),
    "two images": spaces.Tuple((CAMERA, CAMERA)),
    "one image": CAMERA,
    "one image of far floats": spaces.Box(0, 255, (8, 8, 3)),
}


@pytest.mark.parametrize("name", MIXED)
def test_networks_of_earlier_versions_stay_as_they_were(name: str, tmp_path: Path) -> None:
    """Without hidden layers behind CNNs, and with numbers as they came."""
    space = MIXED[name]
    was: Any = make(space, encoder="auto_v1", hidden_sizes=[], scale_obs=False)
    was.save(tmp_path)
    in_format_2(tmp_path)
    now: Any = rlkit.load(tmp_path, device="cpu")
    again: Any = rlkit.load(now.save(tmp_path / "again"), device="cpu")
    obs = space.sample()
    assert was.value(obs) == now.value(obs) == again.value(obs)


@pytest.mark.parametrize("encoder", ["auto_v1", "cnn_v1"])
@pytest.mark.parametrize("size", [7, 8, 40])
def test_images_of_earlier_versions_keep_their_networks(encoder: str, size: int, tmp_path: Path) -> None:
    space = spaces.Dict({"camera": spaces.Box(0, 255, (size, 9, 3), np.uint8), "table": spaces.Box(-1, 1, (5, 6))})
    was: Any = make(space, encoder=encoder)
    was.save(tmp_path)
    rewrite(tmp_path, 3, json.loads((tmp_path / "agent.json").read_text())["network"])
    now: Any = rlkit.load(tmp_path, device="cpu")
    again: Any = rlkit.load(now.save(tmp_path / "again"), device="cpu")
    obs = space.sample()
    assert was.value(obs) == now.value(obs) == again.value(obs)


def test_vectors_of_earlier_versions_keep_their_default_hidden_layers(tmp_path: Path) -> None:
    space = spaces.Box(0, 255, (4,), np.uint8)
    was: Any = make(space, hidden_sizes=[64, 64], scale_obs=False)
    was.save(tmp_path)
    in_format_2(tmp_path)
    now: Any = rlkit.load(tmp_path)
    obs = np.array([0, 9, 200, 255], np.uint8)
    assert was.value(obs) == now.value(obs) != make(space, hidden_sizes=[64, 64]).value(obs)  # type: ignore[attr-defined]


@pytest.mark.parametrize("other", [{"activation": "relu"}, {"hidden_sizes": [9]}], ids=str)
def test_files_of_two_agents_are_told_apart(tmp_path: Path, other: dict[str, Any]) -> None:
    mine, theirs = make().save(tmp_path / "mine"), make(**other).save(tmp_path / "theirs")
    (theirs / "agent.json").replace(mine / "agent.json")
    with pytest.raises(RlkitError, match="model.safetensors is of another agent than the one that agent.json"):
        rlkit.load(mine)


def test_tensors_that_do_not_fit_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make().save(tmp_path)
    grown = make(hidden_sizes=[9])
    monkeypatch.setattr("rlkit.registry.make_agent", lambda *_, **__: grown)  # as a later version might build it
    with pytest.raises(RlkitError, match=r"does not fit agent.json: '.*' is \(.*8.*\) there and \(.*9.*\) in"):
        rlkit.load(tmp_path)


def test_loading_executes_nothing_from_the_files(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    make().save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(RlkitError, match="is damaged"):
        rlkit.load(tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_what_is_not_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    agent = make()
    agent.env = {"id": "CartPole-v1", "kwargs": {"f": print}, "preprocessing": "auto"}
    with pytest.raises(RlkitError, match="the agent cannot be saved: its configuration or env_kwargs is not JSON"):
        agent.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = make(seed=1)
    old.save(tmp_path)

    def disk_full(tensors: Any, path: Path, **_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", disk_full)
    with pytest.raises(RlkitError, match=r"^cannot write .*model.safetensors: No space left on device$"):
        make(seed=2).save(tmp_path)
    assert same(rlkit.load(tmp_path), old)
    assert len(list(tmp_path.iterdir())) == 2


SAVE_FOR_EVER = """
import sys
import torch
from gymnasium import spaces
from rlkit.registry import make_agent
from rlkit.agents.ppo import PPOConfig
from rlkit.setting import NetworkConfig, Setting
setting = Setting(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), NetworkConfig(hidden_sizes=[256]))
agent = make_agent(PPOConfig(), setting)
value = 0
while True:
    value += 1
    for tensor in agent.model.state_dict().values():
        tensor.fill_(value)
    agent.save(sys.argv[1])
    print(value, flush=True)
"""


def test_a_kill_while_saving_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        seen: set[float] = set()

        def several_seen() -> bool:
            values = {tensor.flatten()[0].item() for tensor in rlkit.load(tmp_path).model.state_dict().values()}
            assert len(values) == 1  # what others see meanwhile is always whole
            seen.update(values)
            return len(seen) > 5

        wait_until(several_seen)
        process.send_signal(signal.SIGKILL)
        said = [1, *map(int, process.stdout.read().split())]
    assert len(said) > 1
    values = {tensor.flatten()[0].item() for tensor in rlkit.load(tmp_path).model.state_dict().values()}
    assert values <= {said[-1], said[-1] + 1}
    assert len(values) == 1


def test_sb3_evaluates_a_loaded_agent(tmp_path: Path) -> None:
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    env = gym.make("CartPole-v1")
    agent = rlkit.load(make(env.observation_space, env.action_space).save(tmp_path))
    vec_env = make_vec_env("CartPole-v1", 2, seed=3)
    returns, lengths = evaluate_policy(agent, vec_env, 4, return_episode_rewards=True)
    assert isinstance(lengths, list)
    assert len(lengths) == 4
    assert returns == lengths  # a reward of 1 per step


def test_sb3_evaluates_on_dict_observations_and_boxes(tmp_path: Path) -> None:
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    class Reach(gym.Env[Any, Any]):
        observation_space = spaces.Dict({"at": spaces.Box(-1, 1, (2,)), "goal": spaces.Discrete(3)})
        action_space = spaces.Box(-1, 1, (2,))

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed)
            self.steps = 0
            return {"at": np.zeros(2, np.float32), "goal": 1}, {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            assert action.shape == (2,)
            self.steps += 1
            return {"at": action, "goal": 1}, 1.0, False, self.steps == 5, {}

    agent = rlkit.load(make(Reach.observation_space, Reach.action_space).save(tmp_path))
    assert evaluate_policy(agent, Monitor(Reach()), 2) == (5.0, 0.0)
