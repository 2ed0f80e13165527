"""Agents whose observations go through a companion model: frozen or tuned, saved and loaded, and mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import user_envs  # noqa: F401 (registers the environment)
from gymnasium import spaces
from training import assert_goes_on_from_its_state, parameters, train

import rlkit
from rlkit import perception
from rlkit.agents.a2c import A2CConfig
from rlkit.agents.dqn import DQNConfig
from rlkit.agents.ppo import PPOConfig
from rlkit.agents.trpo import TRPOConfig
from rlkit.checkpoint import load
from rlkit.errors import RlkitError
from rlkit.field_groups import ReplayConfig
from rlkit.networks.backbone import BackboneEncoder
from rlkit.perception.backbone import Backbone
from rlkit.perception.checkpoint import Description, save_model
from rlkit.perception.models import make_model
from rlkit.registry import make_agent
from rlkit.setting import NetworkConfig, Setting
from rlkit.spaces import Array
from rlkit.system.ranks import ALONE

GREY, COLOURS, GREY_28 = (1, 16, 16), (3, 16, 16), (1, 28, 28)
BYTES = np.uint8
CONFIGS: dict[str, Any] = {
    "ppo": PPOConfig(num_steps=8, minibatch_size=16, num_epochs=2),
    "a2c": A2CConfig(num_steps=8),
    "trpo": TRPOConfig(num_steps=16),
    "dqn": DQNConfig(learning_starts=8, replay=ReplayConfig(size=200), minibatch_size=8),
}
FIELDS = {"autoencoder": {"channels": [4, 8], "latent_size": 6}, "vae": {"hidden_sizes": [8], "latent_size": 6}}


def save_run(folder: Path, model: str = "autoencoder", shape: Any = COLOURS, **fields: Any) -> Path:
    """What a companion run leaves of its model; its weights are as random as they began."""
    fields = {"input_shape": list(shape)} | FIELDS.get(model, {}) | fields
    torch.manual_seed(0)
    network = make_model(model, **fields)
    mean = [0.5] * shape[0] if len(shape) == 3 else []
    description = Description("none", model, fields, {"mean": mean, "std": [0.25] * len(mean), "resize": None}, ())
    tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    save_model(folder / "checkpoints" / "last", description, tensors, {})
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save_run(tmp_path / "run")


def images(*shape: int) -> Array:
    return np.random.default_rng(0).integers(0, 256, shape).astype(BYTES)


def make(path: Any, shape: tuple[int, ...] = (16, 16, 3), agent: str = "ppo", **network: Any) -> Any:
    space = spaces.Box(0, 255, shape, BYTES)
    config = NetworkConfig(backbone=path, **network)
    return make_agent(CONFIGS[agent], Setting(space, spaces.Discrete(3), network=config, seed=1))


def of_backbone(agent: Any, *, yes: bool = True) -> dict[str, Array]:
    return {name: array for name, array in parameters(agent).items() if ("backbone" in name) == yes}


@pytest.mark.parametrize("frozen", [True, False])
def test_features_are_those_of_the_backbone(run: Path, frozen: bool) -> None:
    agent = make(run, freeze_backbone=frozen)
    batch = images(5, 16, 16, 3)
    expected = Backbone.load(run).encode(torch.from_numpy(batch).movedim(3, 1)).numpy()
    features = agent.network.features((batch,))
    if not frozen:
        assert features[0].shape == (5, 3, 16, 16)
        features = (agent.network.cnns(tuple(map(torch.from_numpy, features))).detach().numpy(),)
    np.testing.assert_allclose(features[0], expected, atol=1e-5)
    assert expected.std() > 0.01
    assert agent.network.actor[0].in_features == 6
    assert len(agent.network.actor) == 5  # two hidden layers, as behind a vector


def test_a_frozen_backbone_leaves_the_mlp_to_the_fast_engines(run: Path) -> None:
    plain = make_agent(PPOConfig(), Setting(spaces.Box(-1, 1, (6,)), spaces.Discrete(3)))
    assert make(run).compute == plain.compute != "torch"
    assert make(run, freeze_backbone=False).compute == "torch"
    network = NetworkConfig(backbone=str(run), freeze_backbone=False)
    setting = Setting(spaces.Box(0, 255, (16, 16, 3), BYTES), spaces.Discrete(2), network, compute="native")
    with pytest.raises(RlkitError, match="encodes images"):
        make_agent(CONFIGS["dqn"], setting)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_parameters_stay_and_tuned_ones_move(run: Path, name: str, frozen: bool) -> None:
    before: dict[str, Array] = {}

    def note(agent: Any) -> None:
        before.update(parameters(agent))

    network = NetworkConfig(backbone=str(run), freeze_backbone=frozen, hidden_sizes=[8])
    agent, _ = train("user/Pictures-v0", CONFIGS[name], 6, network=network, num_envs=2, prepare=note)
    stored = of_backbone(agent)
    assert len(stored) >= 12  # of encoder and decoder, so that nothing of the model is lost
    moved = {key for key, array in stored.items() if not np.array_equal(array, before[key])}
    assert moved == (set() if frozen else {key for key in stored if ".encoder." in key})
    trained = sum(p.numel() for p in agent.network.parameters())
    inside = sum(stored[key].size for key in stored if ".encoder." in key and not frozen)
    assert trained == inside + sum(a.size for key, a in of_backbone(agent, yes=False).items() if key != "epsilon")
    others = of_backbone(agent, yes=False)
    assert any(not np.array_equal(array, before[key]) for key, array in others.items())


def test_the_target_network_has_the_tuned_backbone_of_its_time(run: Path) -> None:
    agent: Any = make(run, agent="dqn", freeze_backbone=False)
    features = agent.network.features((images(4, 16, 16, 3),))
    before = agent.engine.target_outputs(features).copy()
    with torch.no_grad():
        for parameter in agent.network.cnns.parameters():
            parameter += 0.1
    np.testing.assert_array_equal(agent.engine.target_outputs(features), before)
    agent.engine.update_target(1.0)
    np.testing.assert_allclose(agent.engine.target_outputs(features), agent.engine.q_values(features))


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("name", ["ppo", "dqn"])
def test_training_goes_on_from_its_state(run: Path, name: str, frozen: bool) -> None:
    network = NetworkConfig(backbone=str(run), freeze_backbone=frozen, normalize_obs=True)
    assert_goes_on_from_its_state("user/Pictures-v0", CONFIGS[name], network=network)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_saved_agent_needs_no_run_folder(run: Path, tmp_path: Path, frozen: bool) -> None:
    agent = make(run, freeze_backbone=frozen, normalize_obs=True)
    with torch.no_grad():
        for parameter in agent.model.parameters():  # as training might
            parameter += 0.01
    observations = images(7, 16, 16, 3)
    probabilities = agent.action_probabilities(observations)
    agent.save(tmp_path / "agent")
    shutil.rmtree(run)
    moved = shutil.move(tmp_path / "agent", tmp_path / "elsewhere")
    loaded: Any = load(moved)
    np.testing.assert_array_equal(loaded.action_probabilities(observations), probabilities)
    assert parameters(loaded).keys() == parameters(agent).keys()
    again: Any = load(loaded.save(tmp_path / "again"))
    np.testing.assert_array_equal(again.action_probabilities(observations), probabilities)
    written = json.loads((tmp_path / "again/agent.json").read_text())["network"]
    assert written["backbone"]["model"] == "autoencoder"
    assert written["freeze_backbone"] is frozen


def test_normalize_obs_whitens_frozen_features(run: Path) -> None:
    agent = make(run, normalize_obs=True)
    batch = images(64, 16, 16, 3)
    agent.network.features.update((batch,), ALONE)
    (features,) = agent.network.features((batch,))
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(features.std(0), 1, atol=1e-2)


def test_vectors_beside_images_and_more_rows_than_are_encoded_at_once(run: Path) -> None:
    space = spaces.Dict({"eye": spaces.Box(0, 255, (16, 16, 3), BYTES), "hand": spaces.Box(-1, 1, (2,))})
    network = NetworkConfig(backbone=str(run))
    agent: Any = make_agent(CONFIGS["ppo"], Setting(space, spaces.Discrete(2), network=network))
    eyes, hands = images(300, 16, 16, 3), np.random.default_rng(1).normal(size=(300, 2)).astype(np.float32)
    (features,) = agent.network.features((eyes, hands))
    assert features.shape == (300, 2 + 6)
    np.testing.assert_array_equal(features[:, :2], hands)
    expected = Backbone.load(run).encode(torch.from_numpy(eyes).movedim(3, 1)).numpy()
    np.testing.assert_allclose(features[:, 2:], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("trained", "shape", "frames"),
    [
        (GREY, (4, 16, 16), 4),  # grey frames
        (GREY, (16, 16, 3), 1),  # colours, made grey
        (GREY, (3, 16, 16, 1), 3),
        (COLOURS, (2, 16, 16, 3), 2),
        (COLOURS, (16, 16, 6), 2),
        (COLOURS, (16, 16), 1),  # grey, repeated
        (COLOURS, (24, 20, 3), 1),  # shrunk
    ],
)
def test_each_frame_of_a_stack_has_its_features(tmp_path: Path, trained: Any, shape: Any, frames: int) -> None:
    path = save_run(tmp_path / "run", shape=trained)
    agent = make(path, shape)
    batch = images(3, *shape)
    (features,) = agent.network.features((batch,))
    assert features.shape == (3, frames * 6)
    if frames > 1:
        stack = batch if len(shape) == 4 or shape[0] == 4 else np.stack([batch[..., :3], batch[..., 3:]], 1)
        last = torch.from_numpy(stack[:, -1])
        if last.dim() == 3:
            last = last[:, None]
        elif len(shape) == 4 or shape[-1] == 6:
            last = last.movedim(3, 1)
        np.testing.assert_allclose(features[:, -6:], Backbone.load(path).encode(last).numpy(), atol=1e-5)


@pytest.mark.parametrize("model", ["lenet", "resnet", "vae", "mlp"])
def test_every_kind_of_image_model_can_be_tuned(tmp_path: Path, model: str) -> None:
    fields: dict[str, Any] = {"resnet": {"small_input": True, "channel_divisor": 16}}.get(model, {})
    path = save_run(tmp_path / "run", model, (1, 32, 32), **fields)
    agent = make(path, (32, 32), freeze_backbone=False)
    encoder = next(module for module in agent.model.modules() if isinstance(module, BackboneEncoder))
    assert not any(module.training for module in encoder.backbone.modules())  # neither dropout nor batch statistics
    batch = (torch.from_numpy(images(4, 1, 32, 32)),)
    values = agent.network(batch)[1].sum() + agent.network.policy(batch).square().sum()
    gradients: Any = torch.autograd.grad(values, list(agent.network.parameters()), allow_unused=True)
    unused = [key for (key, _), g in zip(agent.network.named_parameters(), gradients, strict=True) if g is None]
    assert unused == []
    head = [key for key, _ in agent.network.named_parameters() if ".head." in key or ".decoder." in key]
    assert head == []


def test_mistakes(tmp_path: Path) -> None:
    run = save_run(tmp_path / "runs" / "pictures")
    expectations: list[tuple[Any, tuple[int, ...], dict[str, Any], str]] = [
        (tmp_path / "runs" / "picture", (16, 16, 3), {}, "network.backbone: there is no run folder .*mean .*/pictures"),
        (save_run(tmp_path / "cars", "mlp", (9,)), (16, 16, 3), {}, r"takes values of shape \[9\]: expected .* images"),
        (save_run(tmp_path / "gan", "dcgan", GREY_28, small_input=True), (28, 28), {}, "DCGAN is no backbone"),
        (run, (5, 16, 16), {}, "trained on images of 3 channels, and those .* have 5: expected 3, 1, or a stack"),
        (run, (7,), {}, "takes images, and there are none in Box"),
        (run, (16, 16, 3), {"encoder": "mlp"}, "none in Box.*; network.encoder=auto"),
        ({"model": "autoencoder"}, (16, 16, 3), {}, "describes a companion model"),
    ]
    for path, shape, network, message in expectations:
        with pytest.raises(RlkitError, match=message):
            make(path, shape, **network)
    floats = spaces.Box(-1, 1, (16, 16, 3))
    with pytest.raises(RlkitError, match="bytes, or of numbers from 0 to 1"):
        make_agent(CONFIGS["ppo"], Setting(floats, spaces.Discrete(2), network=NetworkConfig(backbone=run)))
    agent = make(run)
    with pytest.raises(RlkitError, match=r"holds no companion model: model.json is missing"):
        make(agent.save(tmp_path / "agent"))
    (run / "checkpoints/last/model.json").write_text("{")
    with pytest.raises(RlkitError, match=r"network.backbone: .*model.json is damaged"):
        make(run)


def test_a_whole_run_from_a_companion_run(tmp_path: Path) -> None:
    pictures = "user_envs:user/Pictures-v0"
    settings: dict[str, Any] = {"data.envs": [pictures], "data.count": 20, "data.image_size": 16, "data.every": 1}
    settings |= {"model": "autoencoder", "model.channels": [4], "model.latent_size": 5, "task": "autoencoding"}
    companion = perception.train("frames", tmp_path / "companion", scale="unit", **settings, **{"fit.epochs": 1})
    short: dict[str, Any] = {"total_timesteps": 64, "num_envs": 2, "eval_episodes": 1, "final_eval_episodes": 1}
    short |= {"agent.num_steps": 16, "agent.minibatch_size": 8, "network.backbone": companion.run_dir}
    result = rlkit.train("ppo", pictures, run_dir=tmp_path / "run", **short)
    shutil.rmtree(companion.run_dir)
    loaded: Any = rlkit.load(result.run_dir / "checkpoints/last")
    observations = images(4, 16, 16, 3)
    trained: Any = result.agent
    expected = trained.action_probabilities(observations)
    np.testing.assert_array_equal(loaded.action_probabilities(observations), expected)
    assert len(rlkit.evaluate_policy(loaded, pictures, episodes=1).returns) == 1
