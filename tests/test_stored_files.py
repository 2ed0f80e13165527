"""Stored files that are damaged or hostile: each is refused in one line, or loads as it was written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

import rlkit
from rlkit import checkpoint
from rlkit.agents.ppo import PPOConfig
from rlkit.errors import RlkitError
from rlkit.registry import make_agent
from rlkit.runs.reading import read_json, read_rows, read_yaml
from rlkit.runs.tensor_files import read_tensors, write_tensors
from rlkit.setting import NetworkConfig, Setting


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    env = gym.make("CartPole-v1")
    setting = Setting(env.observation_space, env.action_space, NetworkConfig(hidden_sizes=[4]))
    return make_agent(PPOConfig(), setting).save(tmp_path / "agent")


def rewrite(folder: Path, change: Any) -> None:
    """Changes the description, and makes the fingerprint in the weights that of the new one."""
    description = json.loads((folder / "agent.json").read_text())
    change(description)
    (folder / "agent.json").write_text(json.dumps(description))
    tensors, metadata = read_tensors(folder / "model.safetensors")
    fingerprint = {"agent": checkpoint._fingerprint(description)}
    write_tensors(folder / "model.safetensors", tensors, {**metadata, **fingerprint})


@pytest.mark.parametrize("name", ["agent.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "zeros", "folder", "sparse"])
def test_what_is_no_file_is_not_waited_for(name: str, kind: str, saved: Path) -> None:
    file = saved / name
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "zeros":
        file.symlink_to("/dev/zero")
    elif kind == "folder":
        file.mkdir()
    else:
        with file.open("wb") as sparse:
            sparse.truncate(2**32)
    with pytest.raises(RlkitError, match="^[^\n]*$"):
        rlkit.load(saved)


@pytest.mark.parametrize("place", [-1, -20, -50])
def test_one_bit_of_the_weights_is_noticed(place: int, saved: Path) -> None:
    content = bytearray((saved / "model.safetensors").read_bytes())
    content[place] ^= 1
    (saved / "model.safetensors").write_bytes(content)
    with pytest.raises(RlkitError, match="are not those that were written: their digest differs"):
        rlkit.load(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_are_finite(value: float, saved: Path) -> None:
    tensors, metadata = read_tensors(saved / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] = value
    write_tensors(saved / "model.safetensors", tensors, metadata)
    with pytest.raises(RlkitError, match="expected finite numbers"):
        rlkit.load(saved)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float16, torch.float64, torch.float8_e4m3fn])
def test_types_of_weights_are_compared(dtype: torch.dtype, saved: Path) -> None:
    tensors, metadata = read_tensors(saved / "model.safetensors")
    write_tensors(saved / "model.safetensors", {name: one.to(dtype) for name, one in tensors.items()}, metadata)
    with pytest.raises(RlkitError, match="there and float32 in the model"):
        rlkit.load(saved)


@pytest.mark.parametrize("sizes", [[-1], ["a"], [10**9], [10**30], "a", {"a": 1}, [4] * 5000, [None], [True]])
def test_hidden_sizes_that_cannot_be(sizes: Any, saved: Path) -> None:
    rewrite(saved, lambda description: description["network"].update(hidden_sizes=sizes))
    with pytest.raises(RlkitError, match="^[^\n]*$"):
        rlkit.load(saved)


@pytest.mark.parametrize(
    "space",
    [
        {"type": "Discrete", "n": 10**9, "start": 0, "dtype": "int64"},
        {"type": "Box", "low": 0, "high": 1, "shape": [10**9], "dtype": "float32"},
        {"type": "Box", "low": 0, "high": 1, "shape": [4], "dtype": "S100000000"},
        {"type": "MultiDiscrete", "nvec": [10**9], "start": [0], "dtype": "int64"},
        {"type": "MultiBinary", "n": 10**9},
        {"type": ["Box"]},
        7,
    ],
)
def test_spaces_that_cannot_be(space: Any, saved: Path) -> None:
    rewrite(saved, lambda description: description.update(observation_space=space))
    with pytest.raises(RlkitError, match="^[^\n]*$"):
        rlkit.load(saved)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 1000 + "1" + "}" * 1000, '{"a": 1, "a": 2}', "9" * 5000])
def test_json_that_cannot_be(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RlkitError, match="^[^\n]*a.json is damaged: [^\n]*$"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    "text", ["a: &a [1]\nb: *a", "a: !!python/name:os.system", "[" * 1000, "a: b: c", "? [a]\n: 1"]
)
def test_yaml_that_cannot_be(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(RlkitError, match="^[^\n]*a.yaml is damaged: [^\n]*$"):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "text", ["\0\1\n", "a,b\n1,2\n", "time/step,a\n1\n", "time/step,a\nx,1\n", "time/step,a\n1,x\n"]
)
def test_metrics_that_cannot_be(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(RlkitError, match="^[^\n]*metrics.csv is damaged: [^\n]*$"):
        list(read_rows(tmp_path / "metrics.csv", "time/step"))


def test_a_row_that_a_crash_cut_off_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("time/step,a\n1,2\n3,")
    assert list(read_rows(tmp_path / "metrics.csv", "time/step"))[1:] == [{"time/step": "1", "a": "2"}]
