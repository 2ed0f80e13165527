"""What engines do on a GPU: the logic without one, and against the CPU's results where there is one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from test_images import CLIP, IMAGE, SEED, batch, images
from test_replay_device import check_same_batches
from training import make_engine, make_q_engine

from rlkit.agents.dqn import DQN, DQNConfig
from rlkit.agents.ppo import ppo_loss
from rlkit.buffers.transition import Transition
from rlkit.engine.actor_critic import ActorCriticLoss
from rlkit.engine.losses import dqn_loss
from rlkit.engine.make import make_actor_critic, make_q_network
from rlkit.engine.q import QLoss, TDBatch
from rlkit.errors import RlkitError
from rlkit.field_groups import ReplayConfig
from rlkit.networks.own import probe
from rlkit.setting import NetworkConfig, Setting
from rlkit.system import gpu

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU_SETTINGS = [("torch", "off", 1e-3), ("compile", "off", 1e-3), ("torch", "bfloat16", 0.05)]


def test_on_the_cpu_an_upload_is_the_arrays_own_memory() -> None:
    array = np.arange(6, dtype=np.float32)
    tensor = gpu.uploaded(array, torch.device("cpu"))
    array[0] = 7
    assert tensor[0] == 7
    assert gpu.uploaded(tensor, torch.device("cpu")) is tensor


def test_on_a_gpu_compiled_steps_are_recorded_and_each_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    modes, begun = [], []

    def compile(function: Any, mode: str | None = None, dynamic: bool | None = None) -> Any:
        modes.append(mode)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(True))
    on_gpu, on_cpu = (gpu.compiled(lambda a, b: a + b, torch.device(name)) for name in ("cuda", "cpu"))
    assert modes == ["reduce-overhead", None]
    assert [on_gpu(1, 2), on_gpu(3, 4), on_cpu(5, 6)] == [3, 7, 11]
    assert len(begun) == 2


def compiled_by_rows(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> tuple[Callable[[torch.Tensor], torch.Tensor], list[torch.Tensor]]:
    """A function that doubles, and what its compiled self was called with."""
    compiled: list[torch.Tensor] = []

    def compile(function: Any, *, dynamic: bool, mode: str | None = None) -> Any:
        assert not dynamic
        assert (mode == "reduce-overhead") == (device == "cuda")

        def call(features: tuple[torch.Tensor, ...]) -> Any:
            compiled.append(features[0])
            return function(features)

        return call

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)
    double = gpu.compiled_by_rows(lambda features: 2 * features[0], torch.device(device))
    return lambda tensor: double((tensor,)), compiled


def test_what_is_called_often_is_compiled_and_other_numbers_of_rows_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    double, compiled = compiled_by_rows(monkeypatch, "cpu")
    for _ in range(gpu.COMPILE_AFTER_CALLS - 1):
        for rows in range(1, 9):
            assert torch.equal(double(torch.ones(rows, 2)), torch.full((rows, 2), 2.0))
    assert compiled == []
    for _ in range(3):
        for rows in (8, 3, 9, 5, 7, 1):  # after three of them come no others; 9 is not called often
            double(torch.ones(rows, 2))
    assert [len(tensor) for tensor in compiled] == 3 * [8, 3, 5]


def test_compiled_functions_see_one_layout_whatever_an_image_is_a_part_of(monkeypatch: pytest.MonkeyPatch) -> None:
    double, compiled = compiled_by_rows(monkeypatch, "cpu")
    frames = torch.arange(2 * 5 * 3).reshape(2, 5, 3)
    for part in [frames[:, 1:]] * gpu.COMPILE_AFTER_CALLS:
        assert torch.equal(double(part), 2 * part)
    assert [tensor.stride() for tensor in compiled] == [(12, 3, 1)]


@pytest.mark.parametrize(("device", "expected"), [("cuda", 1), ("cpu", 2)])
def test_a_gpus_recordings_are_left_to_their_thread(
    device: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "COMPILE_AFTER_CALLS", 1)
    double, compiled = compiled_by_rows(monkeypatch, device)
    double(torch.ones(4))
    with ThreadPoolExecutor(1) as other:
        assert torch.equal(other.submit(double, torch.ones(4)).result(), torch.full((4,), 2.0))
    assert len(compiled) == expected


@needs_gpu
def test_uploads_arrive_whatever_happens_to_the_array_afterwards() -> None:
    rng = np.random.default_rng(0)
    device = torch.device("cuda")
    for _ in range(20):
        array = rng.integers(256, size=(64, 5, 84, 84), dtype=np.uint8)
        part = array[:, 1:]  # with gaps, as replay buffers give them
        expected, tensor = part.copy(), gpu.uploaded(part, device)
        array[:] = 0
        np.testing.assert_array_equal(tensor.cpu().numpy(), expected)


@needs_gpu
@pytest.mark.parametrize("kind", ["uniform", "prioritized"])
@pytest.mark.parametrize("n_step", [1, 3])
def test_images_in_a_gpus_memory_make_the_same_batches(kind: str, n_step: int) -> None:
    check_same_batches(kind, AutoresetMode.SAME_STEP, n_step, 2, torch.device("cuda"))


@needs_gpu
def test_by_default_a_gpus_images_are_replayed_from_its_memory() -> None:
    config = DQNConfig(replay=ReplayConfig(size=500), learning_starts=64)
    agent = DQN(config, Setting(IMAGE, spaces.Discrete(3), num_envs=2))
    buffer = agent.make_buffer(2)
    assert agent.device == "cuda"
    assert agent.notes[0].startswith("images replayed from the GPU's memory: 0.0 of ")
    rng = np.random.default_rng(0)
    frames = rng.integers(256, size=(100, 2, *IMAGE.shape), dtype=np.uint8)
    nobody, everybody = np.zeros(2, np.bool_), np.ones(2, np.bool_)
    for i in range(99):
        flags = nobody, nobody
        step = Transition((frames[i],), nobody, np.ones(2), *flags, (frames[i + 1],), {}, everybody, None)
        buffer.add(step)
    assert buffer.sample(32, rng).obs[0].is_cuda
    assert np.isfinite(agent.update(buffer, 0.5)["train/value_loss"])


@needs_gpu
@pytest.mark.filterwarnings("default")  # of compilers
@pytest.mark.parametrize(("compute", "amp", "tolerance"), GPU_SETTINGS)
def test_policies_move_on_a_gpu_as_on_the_cpu(
    compute: str, amp: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    monkeypatch.setattr(gpu, "COMPILE_AFTER_CALLS", 1)
    for device, how in (("cpu", "torch"), ("cuda", compute)):
        config = NetworkConfig(amp="off" if device == "cpu" else amp)
        network, _ = make_actor_critic(Setting(IMAGE, spaces.Discrete(3), config, device=device), SEED)
        engine, _ = make_engine(network, how, ActorCriticLoss(ppo_loss), 0.5)
        engine.load(batch(64))
        steps = [engine.step(np.arange(32 * i, 32 * i + 32), CLIP, 1e-4) for i in (0, 1, 0)]
        params = [engine.policy(images(8)[:1]), engine.policy(images(8))]
        steps += [engine.step(np.arange(32), CLIP, 1e-3)]  # what was recorded has to see new weights
        params += [engine.policy(images(8)), engine.policy(images(8))]
        found.append((steps, params, engine.evaluate(images(40))[1]))
    (steps, params, values), (gpu_steps, gpu_params, gpu_values) = found
    for step, gpu_step in zip(steps, gpu_steps, strict=True):
        assert gpu_step == pytest.approx(step, rel=tolerance, abs=tolerance)
    for ours, theirs in zip(params, gpu_params, strict=True):
        np.testing.assert_allclose(theirs, ours, atol=tolerance)
    np.testing.assert_allclose(gpu_values, values, atol=tolerance)


@needs_gpu
@pytest.mark.filterwarnings("default")  # of compilers
@pytest.mark.parametrize(("compute", "amp", "tolerance"), GPU_SETTINGS)
def test_action_values_move_on_a_gpu_as_on_the_cpu(
    compute: str, amp: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    monkeypatch.setattr(gpu, "COMPILE_AFTER_CALLS", 1)
    some = TDBatch(images(32), np.arange(32) % 3, np.linspace(-1, 1, 32, dtype=np.float32))
    for device, how in (("cpu", "torch"), ("cuda", compute)):
        config = NetworkConfig(amp="off" if device == "cpu" else amp)
        network, _ = make_q_network(Setting(IMAGE, spaces.Discrete(3), config, device=device), 3, SEED)
        engine, _ = make_q_engine(network, how, QLoss(dqn_loss), 10.0)
        before = [engine.q_values(images(8)), engine.target_outputs(images(32))]
        errors = [engine.step(some, "huber", 1e-4)[0] for _ in range(3)]
        found.append((*before, *errors, engine.q_values(images(8)), engine.target_outputs(images(8))))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(theirs, ours, atol=tolerance)


@needs_gpu
def test_a_network_of_the_users_own_goes_to_the_gpu() -> None:
    observation_space, actions = spaces.Box(0, 255, (3, 36, 36), np.uint8), spaces.Discrete(2)
    seed, config = np.random.SeedSequence(0), NetworkConfig(module="user_networks:Convolutional")
    setting = Setting(observation_space, actions, config)
    network, device = make_actor_critic(setting, seed)
    assert device == "cuda"
    rows = probe(observation_space, 8)
    params = network.policy(tuple(torch.as_tensor(part, device="cuda") for part in network.features(rows)))
    on_cpu = make_actor_critic(replace(setting, device="cpu"), seed)[0]
    expected = on_cpu.policy(tuple(torch.as_tensor(part) for part in on_cpu.features(rows)))
    torch.testing.assert_close(params.cpu(), expected, rtol=1e-3, atol=1e-5)
    left = NetworkConfig(module="user_networks:LeftBehind")
    with pytest.raises(RlkitError, match="a tensor is moved with its module by register_buffer"):
        make_actor_critic(Setting(spaces.Box(-1, 1, (3,)), actions, left, device="cuda"), seed)
