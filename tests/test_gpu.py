"""What engines do on a GPU: the logic without one, and against the CPU's results where there is one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from test_images import CLIP, IMAGE, SEED, batch, images
from test_replay_device import check_same_batches
from training import make_engine, make_q_engine, setting_of

from rlkit.agents.dqn import DQN, DQNConfig
from rlkit.agents.ppo import ppo_loss
from rlkit.buffers.transition import Transition
from rlkit.engine import make as make_module
from rlkit.engine.actor_critic import ActorCriticLoss
from rlkit.engine.descent import Optimization, rates
from rlkit.engine.losses import dqn_loss
from rlkit.engine.make import chosen, make_actor_critic, make_q_network, torch_descent
from rlkit.engine.q import QLoss, TDBatch
from rlkit.engine.torch.actor_critic import TorchEngine
from rlkit.engine.torch.q import TorchQEngine
from rlkit.errors import RlkitError
from rlkit.field_groups import ReplayConfig
from rlkit.networks.own import probe
from rlkit.setting import NetworkConfig, Setting
from rlkit.spaces import Array
from rlkit.system import gpu
from rlkit.system.ranks import Launch, Ranks

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU_SETTINGS = [
    ("torch", "off", 1e-3),
    ("cudagraph", "off", 1e-3),
    ("compile", "off", 1e-3),
    ("torch", "bfloat16", 0.05),
    ("cudagraph", "bfloat16", 0.05),
]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """No TensorFloat32 in convolutions, whose 11 bits could not be told from a mistake."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def test_on_the_cpu_an_upload_is_the_arrays_own_memory() -> None:
    array = np.arange(6, dtype=np.float32)
    tensor = gpu.uploaded(array, torch.device("cpu"))
    array[0] = 7
    assert tensor[0] == 7
    assert gpu.uploaded(tensor, torch.device("cpu")) is tensor


class Replayed(gpu.CudaGraph):
    """Stands for a CUDA graph where there is no GPU: a replay is a call, with results where the first ones were."""

    recordings: ClassVar[list[list[tuple[int, ...]]]] = []

    def __init__(self, function: Callable[..., gpu.Tensors], inputs: Sequence[torch.Tensor]) -> None:
        assert all(part.is_contiguous() for part in inputs)
        self._function, self._inputs = function, [part.clone() for part in inputs]
        self._outputs: gpu.Tensors = ()
        self.recordings.append([tuple(part.shape) for part in inputs])

    def replay(self, inputs: Sequence[Any]) -> gpu.Tensors:
        for place, given in zip(self._inputs, inputs, strict=True):
            gpu.upload_into(place, given)
        found = self._function(*self._inputs)
        if not self._outputs:
            self._outputs = found
        for place, part in zip(self._outputs, found, strict=True):
            place.copy_(part)
        return self._outputs


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, ...]]]:
    """The shapes of what has been recorded, by CUDA graphs or by what stands for them; each shape's third call is."""
    monkeypatch.setattr(gpu, "CudaGraph", Replayed)
    monkeypatch.setattr(gpu, "RECORD_AFTER_CALLS", 1)
    monkeypatch.setattr(gpu, "WARM_UP_CALLS", 1)
    Replayed.recordings.clear()
    return Replayed.recordings


def test_shapes_that_come_often_are_recorded_and_others_are_not(recordings: list[list[tuple[int, ...]]]) -> None:
    plain: list[int] = []
    fast: list[int] = []

    def double(calls: list[int], tensor: torch.Tensor) -> tuple[torch.Tensor]:
        calls.append(len(tensor))
        return (2 * tensor,)

    doubled = gpu.Recorded(partial(double, plain), CPU, partial(double, fast))
    for _ in range(4):
        for rows in (8, 3, 9, 5):
            assert torch.equal(doubled(np.full((rows, 2), rows))[0], torch.full((rows, 2), 2 * rows))
    assert recordings == [[(8, 2)], [(3, 2)], [(9, 2)]]  # after MAX_RECORDINGS of them come no others
    assert plain == [8, 3, 9, 5, 5, 5, 5]
    assert fast == 3 * [8, 3, 9]


def test_recordings_see_one_layout_and_one_type(recordings: list[list[tuple[int, ...]]]) -> None:
    """A replay is given images with gaps between their rows; numbers of another type are recorded apart."""
    doubled = gpu.Recorded(lambda tensor: (2 * tensor,), CPU)
    frames = np.arange(2 * 5 * 3).reshape(2, 5, 3)
    for array in (frames[:, 1:], frames[:, :-1], frames[:, 1:], frames[:, :-1], frames[:, 1:].astype(np.float32)):
        assert torch.equal(doubled(array)[0], torch.as_tensor(2 * array))
    assert recordings == [[(2, 4, 3)]]


CLIP_AS_TIME_GOES_BY = [CLIP._replace(clip_coef=clip) for clip in (0.3, 0.2, 0.1, 0.05, 0.04, 0.03)]


def policy_steps(recorded: bool, optimizer: str) -> tuple[list[Any], Array]:
    """Metrics of gradient steps on two batches, policies and values, and the parameters in the end."""
    setting = Setting(IMAGE, spaces.Discrete(3), NetworkConfig(hidden_sizes=[8]), device="cpu")
    network, _ = make_actor_critic(setting, SEED)
    multiples = rates(network, network.critic, 0.5)
    descent = torch_descent(network, Optimization(0.5, 1e-5, optimizer), setting.ranks, multiples)
    engine = TorchEngine(network, ppo_loss, descent, recorded=recorded)
    found: list[Any] = []
    for i, size in enumerate((64, 64, 48)):  # the last one does not fit in the place of those before
        some = batch(size)
        engine.load(some._replace(features=(some.features[0][::-1].copy(),), advantages=i - some.advantages))
        for j, clip in enumerate(CLIP_AS_TIME_GOES_BY):
            found.append(engine.step(np.arange(j, 24 + j), clip, 1e-3 / (1 + j)))
        found += [engine.policy(images(8)), *engine.evaluate(images(40))]
        state = engine.state_dict()
        engine.load_state_dict(state)
    return found, descent.flat.numpy().copy()


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_recorded_policy_steps_are_plain_ones(optimizer: str, recordings: list[list[tuple[int, ...]]]) -> None:
    """Other rows, batches, coefficients and learning rates are inputs of what was recorded, not part of it."""
    plain, parameters = policy_steps(False, optimizer)
    assert not recordings
    recorded, recorded_parameters = policy_steps(True, optimizer)
    assert [shapes[0] for shapes in recordings].count((24,)) == 2
    assert [(8, *IMAGE.shape)] in recordings
    assert [(40, *IMAGE.shape)] in recordings
    for ours, theirs in zip(recorded, plain, strict=True):
        if isinstance(theirs, dict):
            assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-7)
        else:
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(recorded_parameters, parameters, rtol=1e-5, atol=1e-7)


def test_steps_that_another_process_takes_part_in_are_not_recorded(recordings: list[list[tuple[int, ...]]]) -> None:
    setting = Setting(IMAGE, spaces.Discrete(3), NetworkConfig(hidden_sizes=[8]), device="cpu")
    network, _ = make_actor_critic(setting, SEED)
    descent = torch_descent(network, Optimization(0.5, 1e-5), setting.ranks)
    engine = TorchEngine(network, ppo_loss, descent, recorded=True)
    rates: list[Any] = []

    class Elsewhere:
        def follow(self, gradients: torch.Tensor, learning_rate: Any) -> None:
            rates.append(learning_rate)

        def pull(self) -> None:
            return None

    descent.sink = Elsewhere()
    engine.load(batch(64))
    for _ in range(4):
        engine.step(np.arange(8), CLIP, 1e-3)
    assert rates == 4 * [1e-3]
    assert not recordings


@pytest.mark.parametrize("weighted", [False, True])
def test_recorded_q_steps_are_plain_ones(weighted: bool, recordings: list[list[tuple[int, ...]]]) -> None:
    found = []
    weights = np.linspace(0, 1, 32, dtype=np.float32) if weighted else None
    for recorded in (False, True):
        setting = Setting(IMAGE, spaces.Discrete(3), NetworkConfig(hidden_sizes=[8]), device="cpu")
        network, _ = make_q_network(setting, 3, SEED, dueling="mean")
        descent = torch_descent(network, Optimization(10.0, 1e-8), setting.ranks)
        engine = TorchQEngine(network, copy.deepcopy(network), dqn_loss, descent, recorded=recorded)
        outputs: list[Any] = []
        for i in range(5):
            some = TDBatch(images(32), np.arange(32) % 3, np.linspace(-1, i, 32, dtype=np.float32), weights)
            errors, metrics = engine.step(some, "huber" if i < 4 else "mse", 1e-3 * (i + 1))
            outputs += [errors, np.array(list(metrics.values()))]
            outputs += [engine.q_values(images(8)), engine.target_outputs(images(32))]
            engine.update_target(0.5)
        found.append(outputs)
    assert [(8, *IMAGE.shape)] in recordings
    assert [(1,), (32, *IMAGE.shape), *(2 + weighted) * [(32,)]] in recordings
    for plain, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)


def test_noise_is_drawn_anew_so_noisy_networks_are_not_recorded(recordings: list[list[tuple[int, ...]]]) -> None:
    setting = Setting(IMAGE, spaces.Discrete(3), NetworkConfig(hidden_sizes=[8]), device="cpu")
    network, _ = make_q_network(setting, 3, SEED, noisy_std=0.5)
    descent = torch_descent(network, Optimization(10.0, 1e-8), setting.ranks)
    engine = TorchQEngine(network, copy.deepcopy(network), dqn_loss, descent, recorded=True)
    rng = np.random.default_rng(0)
    values = [engine.q_values(images(8), noise=rng) for _ in range(5)]
    assert all(np.abs(a - b).max() > 0 for a, b in pairwise(values))
    assert not recordings


def test_a_cuda_graph_needs_a_gpu_and_one_process() -> None:
    network = make_actor_critic(Setting(IMAGE, spaces.Discrete(3), device="cpu"), SEED)[0]
    with pytest.raises(RlkitError, match="compute=cudagraph is for networks on a GPU, and this one is on the CPU"):
        chosen(setting_of("cudagraph"), network, None)
    with pytest.raises(RlkitError, match="compute=cudagraph does not work under torchrun"):
        chosen(replace(setting_of("cudagraph"), ranks=Ranks(Launch(0, 2))), network, None)


def test_on_a_gpu_only_networks_and_losses_of_ours_are_recorded_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_module, "on_gpu", lambda network: True)
    ours = make_actor_critic(Setting(IMAGE, spaces.Discrete(3), device="cpu"), SEED)[0]
    config = NetworkConfig(module="user_networks:Convolutional")
    own = make_actor_critic(
        Setting(spaces.Box(0, 255, (3, 36, 36), np.uint8), spaces.Discrete(2), config, device="cpu"), SEED
    )[0]
    reason = "it has convolutions"
    assert chosen(setting_of("auto"), ours, reason) == "cudagraph"
    assert chosen(setting_of("auto"), ours, reason, has_native_loss=False) == "torch"
    assert chosen(setting_of("auto"), own, reason) == "torch"
    assert chosen(setting_of("cudagraph"), own, reason) == "cudagraph"
    assert chosen(replace(setting_of("auto"), ranks=Ranks(Launch(0, 2))), ours, reason) == "torch"


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
    monkeypatch.setattr(gpu, "RECORD_AFTER_CALLS", 1)
    monkeypatch.setattr(gpu, "WARM_UP_CALLS", 1)
    for device, how in (("cpu", "torch"), ("cuda", compute)):
        config = NetworkConfig(amp="off" if device == "cpu" else amp)
        network, _ = make_actor_critic(Setting(IMAGE, spaces.Discrete(3), config, device=device), SEED)
        engine, _ = make_engine(network, how, ActorCriticLoss(ppo_loss), 0.5)
        engine.load(batch(64))
        steps = [engine.step(np.arange(32 * i, 32 * i + 32), CLIP, 1e-4) for i in (0, 1, 0, 1)]
        params = [engine.policy(images(8)[:1]), *(engine.policy(images(8)) for _ in range(3))]
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
    monkeypatch.setattr(gpu, "RECORD_AFTER_CALLS", 1)
    monkeypatch.setattr(gpu, "WARM_UP_CALLS", 1)
    some = TDBatch(images(32), np.arange(32) % 3, np.linspace(-1, 1, 32, dtype=np.float32))
    for device, how in (("cpu", "torch"), ("cuda", compute)):
        config = NetworkConfig(amp="off" if device == "cpu" else amp)
        network, _ = make_q_network(Setting(IMAGE, spaces.Discrete(3), config, device=device), 3, SEED)
        engine, _ = make_q_engine(network, how, QLoss(dqn_loss), 10.0)
        before = [engine.q_values(images(8)), engine.target_outputs(images(32))]
        errors = [engine.step(some, "huber", 1e-4)[0] for _ in range(5)]
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
