"""CNNs of agents: channels last in memory, and bfloat16, against the same network without."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from training import make_engine, make_q_engine, train

from rlkit.agents.ppo import PPOCoefficients, PPOConfig, ppo_loss
from rlkit.buffers.batch import PolicyBatch
from rlkit.engine.actor_critic import ActorCriticLoss
from rlkit.engine.descent import flatten_parameters
from rlkit.engine.losses import dqn_loss
from rlkit.engine.make import make_actor_critic, make_q_network
from rlkit.engine.q import QLoss, TDBatch
from rlkit.setting import NetworkConfig, Setting
from rlkit.system.allocator import keep_freed_memory
from rlkit.system.ranks import ALONE

IMAGE = spaces.Box(0, 255, (4, 40, 40), np.uint8)
SEED = np.random.SeedSequence(0)
CLIP = PPOCoefficients("clip", 0.2, 0.0, None, 0.01, 0.5, True, ALONE)


def images(rows: int) -> tuple[np.ndarray[Any, Any]]:
    return (np.random.default_rng(0).integers(256, size=(rows, *IMAGE.shape), dtype=np.uint8),)


def batch(rows: int) -> PolicyBatch:
    rng = np.random.default_rng(1)
    floats = rng.normal(size=(4, rows)).astype(np.float32)
    return PolicyBatch(images(rows), rng.integers(3, size=rows), floats[0] - 1, floats[1], floats[2], floats[3])


def setting(amp: str = "auto") -> Setting:
    return Setting(IMAGE, spaces.Discrete(3), NetworkConfig(amp=amp), device="cpu")


def gradient_of(amp: str, rows: int = 32) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """By parameter, after one step of an engine, which leaves them where they are; and the step's metrics."""
    network, _ = make_actor_critic(setting(amp), SEED)
    engine, _ = make_engine(network, "torch", ActorCriticLoss(ppo_loss))
    engine.load(batch(rows))
    metrics = engine.step(np.arange(rows), CLIP, 0.0)
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}, metrics


def test_filters_have_their_channels_last_and_gradients_are_those_of_a_plain_network() -> None:
    network, _ = make_actor_critic(setting(), SEED)
    plain, _ = make_actor_critic(setting(), SEED)
    plain.cnns.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    engine, _ = make_engine(network, "torch", ActorCriticLoss(ppo_loss))
    for p in network.cnns.parameters():
        if p.dim() == 4:
            assert p.is_contiguous(memory_format=torch.channels_last)
            assert p.grad is not None
            assert p.grad.stride() == p.stride() != p.contiguous().stride()

    some = batch(32)
    engine.load(some)
    engine.step(np.arange(32), CLIP, 0.0)
    tensors = some.map(torch.as_tensor)
    pixels = tensors.features[0].float() / 255
    trunk = plain.cnns[0](pixels)
    loss, _ = ppo_loss(plain.head, plain.actor(trunk), plain.critic(trunk)[:, 0], tensors, CLIP)
    loss.backward()  # type: ignore[no-untyped-call]
    for p, q in zip(network.parameters(), plain.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert q.grad.abs().max() > 1e-4
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6)


def test_flat_parameters_are_written_through_whichever_order_their_memory_has() -> None:
    convolution = torch.nn.Conv2d(3, 5, 2)
    weight, bias = convolution.weight.detach().clone(), convolution.bias
    assert bias is not None
    convolution.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    flat, gradients = flatten_parameters(convolution)
    torch.testing.assert_close(convolution.weight.detach(), weight, rtol=0, atol=0)
    assert flat[1] == weight[0, 1, 0, 0]  # the next channel is the next number
    flat.mul_(2)
    torch.testing.assert_close(convolution.weight.detach(), 2 * weight, rtol=0, atol=0)
    convolution.load_state_dict({"weight": weight, "bias": torch.zeros(5)})
    assert flat[1] == weight[0, 1, 0, 0]
    convolution(torch.ones(1, 3, 2, 2)).sum().backward()
    assert gradients.tolist() == [1.0] * (5 * 12 + 5)


def test_bfloat16_gradients_are_near_float32s() -> None:
    exact, exact_metrics = gradient_of("off")
    rounded, metrics = gradient_of("bfloat16")
    for name, gradient in exact.items():
        error = (rounded[name] - gradient).norm() / gradient.norm()
        # Positive and negative advantages cancel out in the filters' gradients; the rounding does not.
        assert error < (0.15 if name.startswith("cnns") else 0.03), name
        if name.startswith("cnns"):
            assert error > 1e-5, name  # or it was not bfloat16 at all
    for name in ("value_loss", "entropy", "grad_norm"):
        assert metrics[name] == pytest.approx(exact_metrics[name], rel=0.02)


def test_auto_is_float32_on_the_cpu_to_the_last_bit() -> None:
    (by_default, _), (off, _) = gradient_of("auto"), gradient_of("off")
    for name, gradient in off.items():
        assert torch.equal(by_default[name], gradient), name


def test_few_images_are_not_rounded_on_the_cpu() -> None:
    found = []
    for amp in ("off", "bfloat16"):
        network, _ = make_q_network(setting(amp), 3, SEED)
        engine, _ = make_q_engine(network, "torch", QLoss(dqn_loss))
        few, many = engine.q_values(images(16)).copy(), engine.q_values(images(17)).copy()
        engine.step(TDBatch(images(17), np.zeros(17, np.int64), np.ones(17, np.float32)), "huber", 1e-3)
        found.append((few, many, engine.q_values(images(16))))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert (found[0][1] != found[1][1]).any()
    np.testing.assert_allclose(found[0][1], found[1][1], atol=0.05)
    np.testing.assert_allclose(found[0][2], found[1][2], atol=0.05)


def test_a_policy_on_images_is_learned_in_bfloat16() -> None:
    config = replace(PPOConfig(), num_steps=16, minibatch_size=32, num_epochs=4, learning_rate=1e-3)
    agent, episodes = train("rlkit/ProbeImageObs-v0", config, 8, network=NetworkConfig(amp="bfloat16"))
    assert agent.compute == "torch"
    assert np.mean([e.episode_return for e in episodes[-100:]]) > 0.9


def test_memory_is_kept_by_glibc_and_nothing_is_done_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Libc:
        def mallopt(self, name: int, value: int) -> int:
            asked.append((name, value))
            return 1

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("ctypes.CDLL", lambda name: Libc())
    assert keep_freed_memory()
    assert asked == [(-3, 2**30), (-1, 2**31 - 1)]
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())  # another C library: it has no mallopt
    assert not keep_freed_memory()
    monkeypatch.setattr("sys.platform", "darwin")
    assert not keep_freed_memory()
