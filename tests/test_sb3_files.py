"""Files that claim to be SB3's: nothing in them is executed, and what is wrong is said in one line."""

from __future__ import annotations

import base64
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import rlkit
from rlkit.errors import RlkitError
from rlkit.sb3.pickles import Global, PickleError, Unmade, read_pickle
from rlkit.sb3.spaces import read_space

MODEL = "model.zip"
STATISTICS = "statistics.pkl"


class Payload:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and its statistics."""
    folder = tmp_path_factory.mktemp("sb3")
    env = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    model = PPO("MlpPolicy", env, n_steps=16, batch_size=16, n_epochs=1, device="cpu", learning_rate=lambda left: left)
    model.learn(16).save(folder / MODEL)
    env.save(str(folder / STATISTICS))
    return folder


def contents(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(file: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file


def changed(saved: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the model whose settings were changed."""
    files = contents(saved / MODEL)
    settings = json.loads(files["data"])
    change(settings)
    return write(folder / MODEL, {**files, "data": json.dumps(settings).encode()})


def pickled(value: Any) -> dict[str, str]:
    return {":type:": "a type", ":serialized:": base64.b64encode(pickle.dumps(value)).decode()}


def payload(marker: Path) -> bytes:
    content = pickle.dumps(Payload(marker))
    pickle.loads(content)  # what it would do
    assert marker.exists()
    marker.unlink()
    return content


def names_in(saved: Path) -> Iterator[str]:
    yield from json.loads(contents(saved / MODEL)["data"])


def test_a_payload_under_any_name_of_the_settings_is_not_executed(saved: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    content = payload(marker)
    loaded, told = [], []
    for name in names_in(saved):

        def hostile(settings: dict[str, Any], name: str = name) -> None:
            settings[name] = {":type:": "a type", ":serialized:": base64.b64encode(content).decode()}

        try:
            rlkit.from_sb3(changed(saved, tmp_path, hostile))
            loaded.append(name)
        except RlkitError as error:
            told.append(str(error))
        assert not marker.exists()
    assert all("\n" not in message for message in told)
    assert {"policy_class", "observation_space", "action_space", "policy_kwargs"}.isdisjoint(loaded)
    assert "rollout_buffer_class" in loaded  # of no use to us


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_payload_beside_what_is_read_is_not_executed(protocol: int, saved: Path, tmp_path: Path) -> None:
    """A whole space with one thing more in its state."""
    marker = tmp_path / "marker"
    content = pickle.dumps([gym.make("CartPole-v1").observation_space, Payload(marker)], protocol)
    _, unmade = read_pickle(content)
    assert isinstance(unmade, Unmade)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["policy.pth", "policy.optimizer.pth", "pytorch_variables.pth", "system_info.txt"])
@pytest.mark.parametrize("with_torch", [True, False])
def test_a_payload_in_place_of_tensors_is_not_executed(
    name: str, with_torch: bool, saved: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    buffer = io.BytesIO()
    torch.save({"weight": Payload(marker)}, buffer)
    content = buffer.getvalue() if with_torch else payload(marker)
    file = write(tmp_path / MODEL, {**contents(saved / MODEL), name: content})
    if name == "policy.pth":
        with pytest.raises(RlkitError, match="^[^\n]*policy.pth holds more or less than tensors[^\n]*$"):
            rlkit.from_sb3(file)
    else:
        rlkit.from_sb3(file)
    assert not marker.exists()


def test_a_payload_in_place_of_the_statistics_is_not_executed(saved: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (tmp_path / STATISTICS).write_bytes(payload(marker))
    with pytest.raises(RlkitError, match="expected what VecNormalize's save"):
        rlkit.from_sb3(saved / MODEL, vec_normalize=tmp_path / STATISTICS)
    assert not marker.exists()


def test_numbers_and_texts_of_any_protocol_are_read() -> None:
    value = {"a": [1, -2.5, None, True, "é", b"b", (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), 2**70, -(2**40)], 3: {}}
    arrays = [np.arange(6.0).reshape(2, 3), np.float32(2.5), np.arange(3, dtype=">i4"), np.ones((2, 2), bool, "F")]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert read_pickle(pickle.dumps(value, protocol)) == value
        for array in arrays:
            found = read_pickle(pickle.dumps(array, protocol))
            np.testing.assert_array_equal(found, array)
            assert found.dtype == array.dtype  # type: ignore[attr-defined]
    assert read_pickle(pickle.dumps(int, 4)) == Global("builtins", "int")


@pytest.mark.parametrize(
    "content", [b"", b".", b"abc", b"\x80\x05", b"(", b"]a.", b"}K\x01s.", b"Pabc\n.", b"\x80\x05\x95"]
)
def test_bytes_that_are_no_pickle_are_told(content: bytes) -> None:
    with pytest.raises(PickleError):
        read_pickle(content)


def test_any_damage_to_a_pickle_is_told_or_harmless(saved: Path) -> None:
    content = (saved / STATISTICS).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(500):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            damaged[place] = rng.integers(256)
        try:
            read_pickle(bytes(damaged))
        except PickleError:
            continue


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, 2.5, (2, 3), np.float64),
        spaces.Box(0, 255, (1, 4, 4), np.uint8),
        spaces.Discrete(4, start=-1),
        spaces.MultiDiscrete([2, 3], start=[1, 0]),
        spaces.MultiBinary(4),
        spaces.MultiBinary([2, 2]),
        spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Box(-1, 1, (2,))}),
    ],
    ids=str,
)
def test_spaces_are_read_exactly(space: spaces.Space[Any]) -> None:
    content = pickle.dumps(space)
    found = read_space(read_pickle(content), "space", len(content))
    assert found == space
    if isinstance(space, spaces.Dict):
        assert isinstance(found, spaces.Dict)
        assert list(found.spaces) == list(space.spaces)
    space.seed(0)  # which leaves a generator in the pickle
    assert read_space(read_pickle(pickle.dumps(space)), "space", len(content)) == space


def test_what_is_no_model_is_told(saved: Path, tmp_path: Path) -> None:
    files = contents(saved / MODEL)
    (tmp_path / "text.zip").write_text("no zip")
    cases = {
        "text.zip": "no model of Stable-Baselines3: it is no zip file",
        "missing.zip": "No such file",
    }
    for name in ("data", "policy.pth", "_stable_baselines3_version"):
        write(tmp_path / f"without-{name}.zip", {key: value for key, value in files.items() if key != name})
        cases[f"without-{name}.zip"] = f"there is no {name} in it"
    changes: dict[str, tuple[bytes, str]] = {
        "_stable_baselines3_version": (b"3.0.1", "saved by Stable-Baselines3 '3.0.1'; versions 1 and 2 can be read"),
        "data": (b"[1]", "data is a list of 1"),
        "policy.pth": (b"", "policy.pth holds more or less than tensors"),
    }
    for name, (content, message) in changes.items():
        write(tmp_path / f"changed-{name}.zip", {**files, name: content})
        cases[f"changed-{name}.zip"] = message
    (tmp_path / "cut.zip").write_bytes((saved / MODEL).read_bytes()[:2000])
    cases["cut.zip"] = "it is no zip file"
    write(tmp_path / "blown-up.zip", {**files, "policy.pth": bytes(2**26)}, zipfile.ZIP_DEFLATED)
    cases["blown-up.zip"] = "policy.pth has 67,108,864 bytes"
    for name, message in cases.items():
        with pytest.raises(RlkitError, match=f"^[^\n]*{message}[^\n]*$"):
            rlkit.from_sb3(tmp_path / name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_sde": True}, "gSDE"),
        ({"policy_kwargs": {"squash_output": True}}, "squash_output=True"),
        ({"policy_kwargs": {"lstm_hidden_size": 8}}, "lstm_hidden_size"),
        (
            {"policy_kwargs": pickled({"features_extractor_class": PPO})},
            "features_extractor_class is stable_baselines3",
        ),
        ({"policy_kwargs": pickled({"activation_fn": PPO})}, "activation_fn is stable_baselines3"),
        ({"policy_class": pickled(A2C)}, "its policy is stable_baselines3.a2c.a2c.A2C"),
        ({"cg_max_steps": 15}, "a model of TRPO"),
        ({"action_space": pickled(spaces.Discrete(2, start=1))}, "does not begin at 0"),
        ({"action_space": pickled(spaces.Discrete(3))}, "'action_net.bias' is .2,. where .3,. is due"),
        ({"action_space": pickled(spaces.Discrete(2**40))}, "more than a model"),
        ({"observation_space": pickled(7)}, "observation_space is int: expected one of Gymnasium's"),
        ({"observation_space": pickled(spaces.MultiBinary(2**40))}, "more than a model"),
        ({"gamma": "much"}, ""),
        ({"gamma": 1.5}, "gamma=1.5 is out of range"),
        ({"policy_kwargs": {":serialized:": "é"}}, "policy_kwargs: its pickle is not in base64"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_models_that_ours_cannot_be_are_told(
    settings: dict[str, Any], message: str, saved: Path, tmp_path: Path
) -> None:
    file = changed(saved, tmp_path, lambda data: data.update(settings))
    if settings == {"gamma": "much"}:  # no number is no hyperparameter
        assert rlkit.from_sb3(file).config.gamma == 0.99  # type: ignore[attr-defined]
        return
    with pytest.raises(RlkitError, match=f"^[^\n]*({message})[^\n]*$"):
        rlkit.from_sb3(file)


def test_encoders_that_policy_and_value_do_not_share_are_told(tmp_path: Path) -> None:
    image = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    env: Any = gym.Env()
    env.observation_space, env.action_space = image, spaces.Discrete(2)
    apart = PPO("CnnPolicy", env, n_steps=2, batch_size=2, policy_kwargs={"share_features_extractor": False})
    apart.save(tmp_path / MODEL)
    with pytest.raises(RlkitError, match="share_features_extractor=False"):
        rlkit.from_sb3(tmp_path / MODEL)


def test_tensors_of_numbers_that_are_not_there_are_told(saved: Path, tmp_path: Path) -> None:
    files = contents(saved / MODEL)
    tensors = torch.load(io.BytesIO(files["policy.pth"]), weights_only=True)
    name = "action_net.bias"
    for tensor, message in (
        (torch.zeros(1).expand(2**40), "is no tensor of numbers"),
        (torch.zeros(2).to_sparse(), "is no tensor of numbers"),
        (torch.tensor([0.0, torch.nan]), "not finite"),
        (torch.zeros(3), "where .2,. is due"),
    ):
        buffer = io.BytesIO()
        torch.save({**tensors, name: tensor}, buffer)
        file = write(tmp_path / MODEL, {**files, "policy.pth": buffer.getvalue()})
        with pytest.raises(RlkitError, match=message):
            rlkit.from_sb3(file)


def test_statistics_that_do_not_fit_are_told(saved: Path, tmp_path: Path) -> None:
    for change, message in (
        ({"clip_obs": 5.0}, "clip_obs=5: rlkit clips what it normalises to ±10"),
        ({"env": "Acrobot-v1"}, r"of observations of shape \(6,\), the model's are of \(4,\)"),
    ):
        arguments: dict[str, Any] = dict(change)
        env_id = arguments.pop("env", "CartPole-v1")
        env = VecNormalize(DummyVecEnv([partial(gym.make, env_id)]), **arguments)
        env.save(str(tmp_path / STATISTICS))
        with pytest.raises(RlkitError, match=message):
            rlkit.from_sb3(saved / MODEL, vec_normalize=tmp_path / STATISTICS)


def test_a_path_without_its_ending_is_found_as_sb3_does(saved: Path) -> None:
    assert rlkit.from_sb3(saved / "model").config.name == "ppo"


def test_a_model_of_another_agent_of_sb3_is_told(tmp_path: Path) -> None:
    from stable_baselines3 import SAC

    SAC("MlpPolicy", "Pendulum-v1", buffer_size=10, device="cpu").save(tmp_path / MODEL)
    with pytest.raises(RlkitError, match="its policy is stable_baselines3.sac.policies.SACPolicy"):
        rlkit.from_sb3(tmp_path / MODEL)


def test_dqn_keeps_its_exploration(tmp_path: Path) -> None:
    model = DQN("MlpPolicy", "CartPole-v1", buffer_size=100, device="cpu")
    model.exploration_rate = 0.25
    model.save(tmp_path / MODEL)
    agent: Any = rlkit.from_sb3(tmp_path / MODEL)
    assert agent.epsilon == 0.25
    back: Any = rlkit.to_sb3(agent)
    assert back.exploration_rate == 0.25
