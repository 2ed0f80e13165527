"""ONNX files of agents and companion models: onnxruntime computes what rlkit does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import rlkit.perception as perception
from rlkit.agents.a2c import A2CConfig
from rlkit.agents.dqn import DQNConfig
from rlkit.agents.ppo import PPOConfig
from rlkit.agents.reinforce import REINFORCEConfig
from rlkit.agents.temporal_difference import TemporalDifferenceConfig
from rlkit.agents.trpo import TRPOConfig
from rlkit.errors import RlkitError
from rlkit.export import onnx_file
from rlkit.export.__main__ import main
from rlkit.export.agent_graph import leaf_names
from rlkit.export.exporting import export, export_agent
from rlkit.networks.own import probe
from rlkit.registry import make_agent
from rlkit.setting import AgentConfig, NetworkConfig, Setting
from rlkit.system.ranks import ALONE

VECTOR = spaces.Box(-1, 1, (3,))
IMAGE = spaces.Box(0, 255, (36, 36, 2), np.uint8)
MIXED = spaces.Dict(
    {
        "camera": IMAGE,
        "arm": spaces.Box(-200, 300, (2, 2), np.float64),
        "count": spaces.Box(0, 1000, (2,), np.uint32),
        "door": spaces.Discrete(3, start=1),
        "locks": spaces.MultiBinary(2),
        "zone": spaces.Tuple([spaces.MultiDiscrete([2, 3]), spaces.Box(0, 255, (8,), np.uint8)]),
    }
)
CASES: Mapping[str, tuple[AgentConfig, Any, Any, dict[str, Any]]] = {
    "discrete with a start": (PPOConfig(), VECTOR, spaces.Discrete(3, start=2), {}),
    "mixed": (PPOConfig(), MIXED, spaces.MultiDiscrete(np.array([[2, 3], [2, 2]])), {}),
    "mixed, normalised": (A2CConfig(), MIXED, spaces.MultiBinary([2, 2]), {"normalize_obs": True}),
    "far bounds": (A2CConfig(), spaces.Box(-500, 100, (3,)), spaces.Discrete(2), {"activation": "gelu"}),
    "box": (PPOConfig(), VECTOR, spaces.Box(-0.01, np.array([0.0, 2.0]), (2,), np.float64), {}),
    "squashed": (PPOConfig(), VECTOR, spaces.Box(-2, 1, (2, 1)), {"squash": True, "state_dependent_std": True}),
    "stack": (PPOConfig(), spaces.Box(0, 255, (4, 40, 40), np.uint8), spaces.Discrete(4), {}),
    "small image": (PPOConfig(), spaces.Box(0, 1, (10, 10, 4), np.bool_), spaces.Discrete(4), {}),
    "trpo": (TRPOConfig(), VECTOR, spaces.Discrete(2), {}),
    "reinforce": (REINFORCEConfig(), VECTOR, spaces.Discrete(2), {}),
    "dqn": (DQNConfig(), spaces.Discrete(5), spaces.Discrete(3, start=-1), {}),
    "rainbow": (DQNConfig(dueling=True, distributional=True, noisy=True), IMAGE, spaces.Discrete(3), {}),
    "q-learning by a network": (
        TemporalDifferenceConfig(target="greedy"),
        VECTOR,
        spaces.Discrete(3),
        {},
    ),
}


def made(case: str) -> Any:
    config, space, actions, network = CASES[case]
    agent: Any = make_agent(config, Setting(space, actions, NetworkConfig(**network), seed=1))
    if network.get("normalize_obs"):
        agent.network.features.update(probe(space, 50), ALONE)
    return agent


@pytest.mark.parametrize("case", CASES)
def test_onnxruntime_acts_and_values_as_the_agent_does(case: str, tmp_path: Path) -> None:
    agent = made(case)
    exported = export_agent(agent, tmp_path / "model.onnx", observations=300)
    assert exported.observations == 300
    assert all(value <= 1e-5 for value in exported.differences.values())
    assert exported.actions_differ <= 1
    obs = probe(agent.observation_space, 1)  # of another size than the batch that was traced
    names = leaf_names(agent.observation_space, "obs")
    widened = {
        name: leaf.astype(np.int64) if leaf.dtype == np.uint32 else leaf for name, leaf in zip(names, obs, strict=True)
    }
    action = onnx_file.run(exported.file, widened)["action"]
    space = agent.action_space
    assert action.shape == (1, *space.shape)
    assert action.dtype == space.dtype
    assert space.contains(action[0])


def test_a_wrong_graph_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = made("box")
    monkeypatch.setattr(agent, "predict", lambda obs: (np.ones((len(obs), 2)), None))
    with pytest.raises(RlkitError, match="onnxruntime's action differs by"):
        export_agent(agent, tmp_path / "model.onnx", observations=10)
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_beside_the_model_and_says_how_it_agrees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx

    agent = made("discrete with a start")
    agent.env = {"id": "CartPole-v1", "kwargs": {}, "preprocessing": "none"}
    agent.save(tmp_path)
    assert main([str(tmp_path), "observations=20"]) == 0
    out = capsys.readouterr().out
    assert f"written: {tmp_path / 'model.onnx'}" in out
    assert "onnxruntime agrees on 20 observations" in out
    properties = {each.key: each.value for each in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert properties["agent"] == "ppo"
    assert json.loads(properties["env"])["id"] == "CartPole-v1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one run folder"),
        (["{run}", "files=x"], "unknown option 'files'; did you mean 'file'"),
        (["{run}", "observations=0"], "observations=0 is no number of observations"),
        (["{run}", "file={run}"], "expected the path of a file"),
        (["{run}/nothing"], "nothing"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made("discrete with a start").save(tmp_path)
    assert main([argument.format(run=tmp_path) for argument in arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_table_has_no_graph(tmp_path: Path) -> None:
    agent = make_agent(TemporalDifferenceConfig(target="greedy"), Setting(spaces.Discrete(3), spaces.Discrete(2)))
    with pytest.raises(RlkitError, match="agent=q_learning has no network but a table"):
        export_agent(agent, tmp_path / "model.onnx")


def test_missing_packages_are_told_with_the_line_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "PACKAGES", ("onnx_of_nobody", "onnxruntime"))
    with pytest.raises(RlkitError, match="pip install onnx_of_nobody$"):
        onnx_file.check_installed()


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("lenet-digits", {"model": "lenet"}),
        ("lenet-digits", {"model": "mlp", "data.image_size": 8}),
        ("lenet-digits", {"model": "resnet", "model.channel_divisor": 16}),
        ("lenet-digits", {"model": "autoencoder", "task": "autoencoding", "scale": "unit"}),
        ("lenet-digits", {"model": "vae", "task": "variational", "scale": "unit"}),
        ("moons-depth", {}),
        ("sine-polynomial", {}),
    ],
    ids=lambda value: str(value)[:30],
)
def test_companion_models_are_computed_alike(recipe: str, settings: dict[str, Any], tmp_path: Path) -> None:
    run = perception.train(recipe, run_dir=tmp_path / "run", **{"fit.epochs": 1, **settings}).run_dir
    exported = export(run, tmp_path / "model.onnx", observations=40)
    assert exported.differences["output"] <= 1e-5
    assert exported.actions_differ == 0


def test_what_is_no_function_of_a_sample_is_refused(tmp_path: Path) -> None:
    run = perception.train("learn-kernel", run_dir=tmp_path / "run", **{"fit.epochs": 1}).run_dir
    with pytest.raises(RlkitError, match="model kernel cannot be exported: it takes images of any size"):
        export(run, tmp_path / "model.onnx")


@pytest.mark.parametrize("kind", ["mean", "gru", "lstm"])
def test_texts_of_any_length(kind: str, tmp_path: Path) -> None:
    from rlkit.export.model_graph import ModelGraph
    from rlkit.perception.checkpoint import Description
    from rlkit.perception.inputs import Inputs
    from rlkit.perception.models import make_model

    fields: dict[str, Any] = {"vocabulary_size": 30, "num_outputs": 2, "embedding_size": 4}
    fields |= {"kind": kind}
    model = make_model("text_classifier", **fields).eval()
    graph = ModelGraph(model, Inputs(), Description("mine", "text_classifier", fields, {}, ("bad", "good")))
    words = graph.sample(5, torch.Generator().manual_seed(0))
    onnx_file.write(graph, [words[:2]], tmp_path / "model.onnx", {})
    for texts in (words, words[:3, :7]):
        with torch.no_grad():
            expected = model(texts).numpy()
        found = onnx_file.run(tmp_path / "model.onnx", {"inputs": texts.numpy()})
        assert onnx_file.difference(expected, found["output"]) <= 1e-5
        np.testing.assert_array_equal(found["label"], expected.argmax(1))
