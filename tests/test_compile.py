"""compute=compile against compute=torch: the same steps, compiled once for all values of a schedule."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from training import make_engine, make_q_engine, setting_of

from rlkit.agents.ppo import PPOCoefficients, ppo_loss
from rlkit.buffers.batch import PolicyBatch
from rlkit.engine.actor_critic import ActorCriticLoss
from rlkit.engine.losses import dqn_loss
from rlkit.engine.make import chosen, make_actor_critic, make_q_network
from rlkit.engine.q import QLoss, TDBatch
from rlkit.errors import RlkitError
from rlkit.setting import NetworkConfig, Setting
from rlkit.system.ranks import ALONE, Launch, Ranks

PPO_LOSS = ActorCriticLoss(ppo_loss)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
COMPILER_IS_IMPORTED = pytest.mark.filterwarnings("default:.*torch.jit.script_method:DeprecationWarning")
SEED = np.random.SeedSequence(0)


def parameters_of(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in network.parameters()])


@needs_compiler
@COMPILER_IS_IMPORTED
def test_compiled_policy_gradients_are_torchs_and_schedules_compile_nothing_anew() -> None:
    rng = np.random.default_rng(0)
    floats = rng.normal(size=(4, 64)).astype(np.float32)
    mask = rng.random((64, 3)) < 0.7
    mask[:, 0] = True
    features = (rng.normal(size=(64, 4)).astype(np.float32),)
    batch = PolicyBatch(features, np.zeros(64, np.int64), floats[0] - 1, floats[1], floats[2], floats[3], mask)
    found = []
    for compute in ("torch", "compile"):
        setting = Setting(spaces.Box(-1, 1, (4,)), spaces.Discrete(3), NetworkConfig(hidden_sizes=[8]))
        network, _ = make_actor_critic(setting, SEED)
        engine, became = make_engine(network, compute, PPO_LOSS, 0.5)
        assert became == compute
        before = parameters_of(network)
        engine.load(batch)
        coefficients = PPOCoefficients("clip", 0.2, 0.0, 0.2, 0.01, 0.5, True, ALONE)
        steps = [engine.step(np.arange(48), coefficients, 1e-2)]
        with torch.compiler.set_stance("fail_on_recompile"):
            steps += [engine.step(np.arange(16, 64), coefficients._replace(clip_coef=0.1), 1e-3)]
        found.append((steps, parameters_of(network)))
    (plain_steps, plain), (compiled_steps, compiled) = found
    for plain_step, compiled_step in zip(plain_steps, compiled_steps, strict=True):
        assert compiled_step == pytest.approx(plain_step, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=1e-6)
    assert (plain - before).abs().max() > 5e-3


@needs_compiler
@COMPILER_IS_IMPORTED
def test_compiled_q_gradients_are_torchs() -> None:
    rng = np.random.default_rng(0)
    floats = rng.normal(size=(2, 32)).astype(np.float32)
    batch = TDBatch(
        (rng.normal(size=(32, 4)).astype(np.float32),), rng.integers(2, size=32), 3 * floats[0], np.abs(floats[1])
    )
    setting = Setting(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), NetworkConfig(hidden_sizes=[8]))
    plain_network, _ = make_q_network(setting, 2, SEED, dueling="mean")
    compiled_network = copy.deepcopy(plain_network)
    plain, _ = make_q_engine(plain_network, "torch", QLoss(dqn_loss), 10.0)
    compiled, _ = make_q_engine(compiled_network, "compile", QLoss(dqn_loss), 10.0)
    for _ in range(2):
        errors, metrics = plain.step(batch, "huber", 1e-2)
        compiled_errors, compiled_metrics = compiled.step(batch, "huber", 1e-2)
        np.testing.assert_allclose(compiled_errors, errors, rtol=1e-4, atol=1e-5)
        assert compiled_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(parameters_of(compiled_network), parameters_of(plain_network), rtol=1e-5, atol=1e-6)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled to Python only, for which code need not be generated."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


@needs_compiler
@COMPILER_IS_IMPORTED
@pytest.mark.usefixtures("traced")
def test_frames_of_a_replay_buffer_and_other_images_are_compiled_once() -> None:
    space = spaces.Box(0, 255, (2, 8, 8), np.uint8)
    network, _ = make_q_network(Setting(space, spaces.Discrete(2), device="cpu"), 2, SEED)
    engine, _ = make_q_engine(network, "compile", QLoss(dqn_loss), 10.0)
    frames = np.random.default_rng(0).integers(256, size=(32, 3, 8, 8), dtype=np.uint8)
    numbers = np.zeros(32, np.int64), np.ones(32, np.float32)
    first, _ = engine.step(TDBatch((frames[:, :-1],), *numbers), "huber", 0.0)
    with torch.compiler.set_stance("fail_on_recompile"):
        second, _ = engine.step(TDBatch((frames[:, :-1].copy(),), *numbers), "huber", 0.0)
    np.testing.assert_array_equal(first, second)


def test_what_compile_needs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RlkitError, match=r"compute=compile needs a C\+\+ compiler.*compute=auto would work"):
        chosen(setting_of("compile"), nn.Linear(1, 1), None)
    with pytest.raises(RlkitError, match="compute=compile does not work under torchrun"):
        chosen(replace(setting_of("compile"), ranks=Ranks(Launch(0, 2))), nn.Linear(1, 1), None)
