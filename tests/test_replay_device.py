"""Images of a replay buffer as tensors on a device, here the CPU, against the same buffer in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from test_replay import ACTIONS, STACK, Both, Film, Sampling
from training import assert_same_parameters, train

import rlkit
from rlkit.agents.dqn import DQN, DQNConfig
from rlkit.buffers import frames, replay
from rlkit.buffers import make as make_module
from rlkit.buffers.batch import ReplayBatch
from rlkit.buffers.device import DeviceArray, Placement, place_images
from rlkit.buffers.frames import FrameStackStorage
from rlkit.buffers.prioritized import PrioritizedReplayBuffer
from rlkit.buffers.replay import ReplayBuffer
from rlkit.collector import Collector
from rlkit.errors import RlkitError
from rlkit.field_groups import ReplayConfig
from rlkit.networks.features import ObsFeatures
from rlkit.setting import NetworkConfig, Setting, updated
from rlkit.system import gpu

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ATARI = spaces.Box(0, 255, (4, 84, 84), np.uint8)
IMAGES = (0, 2, 3)
KINDS: dict[str, Any] = {"uniform": ReplayBuffer, "prioritized": partial(PrioritizedReplayBuffer, alpha=0.7)}


class Cinema(Film):
    """A film with more to see than its frames; episodes end either way, and not every action is always allowed."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed)
        self.observation_space = spaces.Dict(
            frames=self.observation_space,
            number=spaces.Box(-1, 1, (2,), np.float32),
            picture=spaces.Box(0, 255, (9, 8, 3), np.uint8),
            scan=spaces.Box(0, 1, (1, 8, 8), np.float32),
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self._seen(super().reset()[0])

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.allowed[action]
        frames, reward, terminated, truncated, _ = super().step(action)
        obs, info = self._seen(frames)
        return obs, reward, terminated, truncated, info

    def _seen(self, frames: Any) -> tuple[Any, dict[str, Any]]:
        self.allowed = np.array([True, self.rng.random() < 0.5])
        obs = {
            "frames": frames,
            "number": self.rng.normal(size=2).clip(-1, 1).astype(np.float32),
            "picture": self.rng.integers(256, size=(9, 8, 3), dtype=np.uint8),
            "scan": self.rng.random((1, 8, 8), np.float32),
        }
        return obs, {"action_mask": self.allowed}


def vector(make: Callable[[int], gym.Env[Any, Any]], num_envs: int, mode: AutoresetMode) -> Any:
    return SyncVectorEnv([partial(make, seed) for seed in range(num_envs)], autoreset_mode=mode)


def assert_same(batches: list[ReplayBatch], device: torch.device, images: tuple[int, ...]) -> None:
    """The first one is NumPy's; of the others, images are tensors on the device, and all else is arrays."""
    first, *others = batches
    for other in others:
        for name in first._fields:
            expected, found = getattr(first, name), getattr(other, name)
            if name not in ("obs", "next_obs"):
                np.testing.assert_array_equal(found, expected, err_msg=name)
                continue
            for i, (a, b) in enumerate(zip(expected, found, strict=True)):
                if i in images:
                    assert b.device.type == device.type
                    np.testing.assert_array_equal(b.cpu().numpy(), a, err_msg=name, strict=True)
                else:
                    np.testing.assert_array_equal(b, a, err_msg=name, strict=True)


def check_same_batches(kind: str, mode: AutoresetMode, n_step: int, num_envs: int, device: torch.device) -> None:
    """Drawn along the way, around the ring many times, and once the state of each has gone to one of the other kind."""
    envs = vector(Cinema, num_envs, mode)
    place = Placement(device, IMAGES)
    sizes = (20 * num_envs, num_envs, envs.single_observation_space, ACTIONS)

    def make(images: Placement | None) -> Any:
        return KINDS[kind](*sizes, n_step=n_step, gamma=0.9, images=images)

    def check(buffers: list[Any]) -> None:
        batches = [buffer.sample(40, np.random.default_rng(len(buffers[0]))) for buffer in buffers]
        assert_same(batches, device, IMAGES)
        assert batches[0].next_action_mask is not None
        if kind == "prioritized":
            for buffer in buffers:
                buffer.update_priorities(batches[0].rows, np.random.default_rng(0).random(40) + 0.1)

    buffers = [make(None), make(place)]
    collector, agent = Collector(envs, list(range(num_envs))), Sampling(ACTIONS)
    for steps in (3, 9, 9, 9, 50, 9):
        collector.collect(agent, Both(buffers), steps)
        check(buffers)
    states = [buffer.state_dict() for buffer in buffers]
    buffers = [make(None), make(place), make(place)]
    for buffer, state in zip(buffers, [states[1], states[0], states[1]], strict=True):
        buffer.load_state_dict(state)
    check(buffers)
    collector.collect(agent, Both(buffers), 5)
    Collector(envs, list(range(num_envs))).collect(agent, Both(buffers), 30)  # cuts what was open
    check(buffers)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize(("n_step", "num_envs"), [(1, 1), (1, 2), (3, 2)])
def test_batches_are_those_of_the_buffer_in_numpy(kind: str, mode: AutoresetMode, n_step: int, num_envs: int) -> None:
    check_same_batches(kind, mode, n_step, num_envs, CPU)


def test_frames_are_stored_once_and_both_observations_are_views_of_them() -> None:
    buffer = ReplayBuffer(1000, 1, ATARI, ACTIONS, images=Placement(CPU, (0,)))
    assert isinstance(buffer._obs[0], FrameStackStorage)
    assert buffer.nbytes / 1000 == pytest.approx(84 * 84, rel=0.01)
    envs = vector(lambda seed: Film(seed=seed), 2, AutoresetMode.SAME_STEP)
    buffer = ReplayBuffer(100, 2, envs.single_observation_space, ACTIONS, images=Placement(CPU, (0,)))
    Collector(envs, [0, 1]).collect(Sampling(ACTIONS), buffer, 40)
    batch = buffer.sample(64, np.random.default_rng(0))
    obs, next_obs = batch.obs[0], batch.next_obs[0]
    assert isinstance(obs, torch.Tensor)
    assert isinstance(next_obs, torch.Tensor)
    assert obs.dtype == torch.uint8
    assert obs.shape == (64, STACK, 8, 9)
    assert obs[:, 1:].data_ptr() == next_obs.data_ptr()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_step", [1, 3])
def test_what_is_drawn_never_comes_back_from_the_device(
    kind: str, n_step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a device that has shapes and no numbers: reading one of its tensors is an error."""
    nowhere = torch.device("meta")

    def on_host(found: Any) -> Any:  # as frames are written, a few are compared
        return found if isinstance(found, np.ndarray) else np.zeros(found.shape, np.uint8)

    for module in (frames, replay):
        monkeypatch.setattr(module, "on_host", on_host)
    monkeypatch.setattr(gpu, "uploaded", lambda array, device: torch.as_tensor(array).to(device))
    envs = vector(Cinema, 2, AutoresetMode.SAME_STEP)
    space = envs.single_observation_space
    buffer = KINDS[kind](40, 2, space, ACTIONS, n_step=n_step, images=Placement(nowhere, IMAGES))
    collector, features = Collector(envs, [0, 1]), ObsFeatures(space)
    for _ in range(6):
        collector.collect(Sampling(ACTIONS), buffer, 9)
        batch = buffer.sample(40, np.random.default_rng(0))
        for obs in (batch.obs, batch.next_obs):
            parts: tuple[Any, ...] = features(obs)
            vectors, *images = parts
            assert isinstance(vectors, np.ndarray)
            assert [image.device for image in images] == [nowhere] * 3
            assert [image.shape[1:] for image in images] == [(STACK, 8, 9), (3, 9, 8), (1, 8, 8)]


class Bright(gym.Env[Any, Any]):
    """Stacked frames, black or white; the action that names the newest one is worth 1. Ten steps, then a time limit."""

    observation_space = spaces.Box(0, 255, (2, 8, 8), np.uint8)
    action_space = spaces.Discrete(2)

    def __init__(self, seed: int) -> None:
        self.rng, self.stack = np.random.default_rng(seed), np.zeros((2, 8, 8), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.steps = 0
        return self._film(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        reward = float(action == self.stack[-1, 0, 0] // 255)
        return self._film(), reward, False, self.steps == 10, {}

    def _film(self) -> Any:
        frame = np.full((1, 8, 8), 255 * self.rng.integers(2), np.uint8)
        self.stack = np.concatenate([self.stack[1:], frame])
        return self.stack


QUICK = DQNConfig(learning_starts=32, replay=ReplayConfig(size=300), num_steps=4, gradient_steps=2, minibatch_size=16)


def trained(config: DQNConfig) -> Any:
    envs = vector(Bright, 2, AutoresetMode.SAME_STEP)
    return train(envs, config, 30, num_envs=2, network=NetworkConfig(normalize_obs=True), device="cpu")[0]


@pytest.mark.parametrize(
    "fields", [{}, {"replay": {"prioritized": True}, "n_step": 3, "double": True}, {"distributional": True}]
)
def test_an_agent_learns_the_same_to_the_last_bit(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    config = updated(QUICK, fields)
    in_numpy = trained(config)
    places = []

    def on_the_cpu(wanted: str, device: torch.device, images: list[int], *_: Any) -> Placement:
        places.append(Placement(device, tuple(images)))
        return places[0]

    monkeypatch.setattr(make_module, "place_images", on_the_cpu)
    on_device = trained(config)
    assert places == [Placement(CPU, (0,))]
    assert on_device._gradient_steps > 40
    assert_same_parameters(in_numpy, on_device)


# Where images are kept


def place(
    wanted: str, device: torch.device = GPU, *, images: tuple[int, ...] = (0,), folder: str | None = None
) -> Placement:
    parts: list[spaces.Space[Any]] = [ATARI, spaces.Box(-1, 1, (3,)), spaces.Box(0, 1, (8, 8, 3), np.float64)]
    return place_images(wanted, device, images, spaces.Tuple(parts), 1_000_000, Path(folder) if folder else None)


@pytest.fixture(params=[20])
def free(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many gigabytes of a GPU that has 80."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(request.param * 1e9), int(80e9)))


@pytest.mark.usefixtures("free")
def test_images_go_to_the_gpu_by_themselves_where_they_take_half_of_its_memory() -> None:
    words = "images replayed from the GPU's memory: 7.1 of 20.0 GB that are free"
    assert place("auto") == place("cuda") == Placement(GPU, (0,), words)
    # Doubles are stored as float32; integers of more than a byte would not be there.
    assert place("auto", images=(0, 2)).leaves == (0, 2)
    for nothing in (place("cpu"), place("auto", CPU), place("auto", folder="."), place("auto", images=())):
        assert (nothing.leaves, nothing.note) == ((), "")


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize("free", [10], indirect=True)
def test_images_stay_where_they_were_if_they_would_take_more_and_that_is_said() -> None:
    words = "images replayed from the computer's memory: 7.1 GB would be more than 50% of the GPU's 10.0 that are free"
    assert place("auto") == Placement(GPU, (), words)
    assert place("cuda").leaves == (0,)


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize("free", [5], indirect=True)
def test_a_gpu_that_is_too_small_is_an_error() -> None:
    words = (
        r"^agent.replay.size=1_000_000 needs 7,056,000,000 bytes of the GPU's memory, but only 5,000,000,000 are free: "
        r"at most about 708_616 transitions fit; agent.replay.device=cpu takes the computer's$"
    )
    with pytest.raises(RlkitError, match=words):
        place("cuda")


def test_a_gpu_that_cannot_be_is_an_error() -> None:
    with pytest.raises(RlkitError, match="^agent.replay.device=cuda, but the network is on the CPU; .*cpu would"):
        place("cuda", CPU)
    with pytest.raises(RlkitError, match="^agent.replay.device=cuda, but the network takes no images"):
        place("cuda", images=())
    with pytest.raises(RlkitError, match=r"^agent.replay.device=cuda and agent.replay.folder=\. are two places"):
        replace(QUICK, replay=ReplayConfig(device="cuda", folder=".")).validate(2)
    with pytest.raises(RlkitError, match=r"unknown agent.replay.device 'gpu'"):
        replace(QUICK, replay=ReplayConfig(device="gpu")).validate(2)
    on_gpu = replace(QUICK, replay=ReplayConfig(device="cuda"))
    vectors = DQN(on_gpu, Setting(spaces.Box(-1, 1, (3,)), ACTIONS, device="cpu"))
    with pytest.raises(RlkitError, match="^agent.replay.device=cuda, but the network is on the CPU"):
        vectors.make_buffer(2)


def test_memory_that_others_took_meanwhile_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate …")

    monkeypatch.setattr(torch, "zeros", full)
    with pytest.raises(RlkitError, match=r"^the GPU cannot hold 28,224 bytes more .*replay.device=cpu, would work$"):
        DeviceArray(4, np.dtype((np.uint8, (84, 84))), CPU)


def test_a_run_says_where_its_images_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(make_module, "place_images", lambda *_: Placement(CPU, (), "images replayed from somewhere"))
    rlkit.train(agent="dqn", env="CartPole-v1", total_timesteps=64, final_eval_episodes=0, run_dir=tmp_path / "run")
    said = "".join(capsys.readouterr())
    assert "; images replayed from somewhere; " in said
