"""The engine in C against torch's: same results, no write beyond its arrays, errors instead of crashes.

Everything is tested with each kind of vector instructions that this processor has.
"""

from __future__ import annotations

import copy
import importlib
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_engine import (
    A2C_LOSS,
    ACTION_SPACES,
    PPO_LOSS,
    REINFORCE_LOSS,
    gradients_by,
    make_batch,
    make_network,
    parameters_of,
)
from torch import nn
from training import COMPUTES, assert_same_parameters, make_engine, make_q_engine, parameters, setting_of, train

import rlkit
from rlkit.agents.a2c import A2CCoefficients, A2CConfig
from rlkit.agents.dqn import DQNConfig
from rlkit.agents.ppo import OBJECTIVES, PPOCoefficients, PPOConfig
from rlkit.agents.reinforce import REINFORCECoefficients, REINFORCEConfig
from rlkit.agents.temporal_difference import TemporalDifferenceConfig
from rlkit.cli.composition import compose
from rlkit.engine.descent import flatten_parameters
from rlkit.engine.losses import dqn_loss
from rlkit.engine.make import chosen, make_q_network
from rlkit.engine.native import primitives as native
from rlkit.engine.native.optimizers import OPTIMIZERS, NativeAdam, clip_global_norm
from rlkit.engine.native.q import dqn_gradient
from rlkit.engine.q import QLoss, TDBatch
from rlkit.engine.torch.optimizer import TorchOptimizer
from rlkit.errors import RlkitError
from rlkit.field_groups import ReplayConfig
from rlkit.networks.mlp import activation, mlp
from rlkit.registry import make_agent
from rlkit.setting import NetworkConfig, Setting
from rlkit.spaces import Array
from rlkit.system.ranks import ALONE
from rlkit.system.threads import in_threads

ROOT = Path(__file__).resolve().parent.parent
needs_native = pytest.mark.skipif(native.missing is not None, reason=str(native.missing))
c: Any = importlib.import_module("rlkit.engine.native.kernels") if native.missing is None else None

SIMD: tuple[str, ...] = c.available_simd() if c else ()

ACTIVATIONS = tuple(native.ACTIVATIONS.values())
ROWS = (1, 7, 40, 256, 1000)
WIDTHS = st.one_of(st.integers(1, 40), st.sampled_from([64, 256, 300]))


@pytest.fixture(scope="module", autouse=True, params=SIMD or ("without the C engine",))
def simd(request: pytest.FixtureRequest) -> Iterator[str]:
    """Computes with one kind of vector instructions; pytest runs the whole file with each."""
    if not SIMD:
        yield request.param
        return
    before = c.simd()
    c.use_simd(request.param)
    yield request.param
    c.use_simd(before)


def floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def assert_close(found: Array, expected: Array, name: str = "", within: float = 1e-5) -> None:
    """Within this share of the largest number, or of one if that is less."""
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(found / scale, expected / scale, atol=within, rtol=0, err_msg=name)


def assume_rounding_is_small(tower: nn.Sequential, x: Array) -> None:
    """Where a unit's input is next to zero, rounding may switch it off, and its gradient.

    And where a normalisation divides by a small deviation, it enlarges the rounding errors of what is before it.
    """
    inputs = torch.from_numpy(x)
    with torch.no_grad():
        for layer in tower:
            if isinstance(layer, nn.ReLU | nn.LeakyReLU):
                assume(float(inputs.abs().min()) > 1e-5)
            if isinstance(layer, nn.LayerNorm):
                assume(float(inputs.std(1, correction=0).min()) > 0.2)
            inputs = layer(inputs)


def test_where_there_is_a_compiler_the_engine_was_built() -> None:
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    cpu = Path("/proc/cpuinfo")
    if not (platform.machine() == "x86_64" and shutil.which("gcc") and header.exists() and cpu.exists()):
        pytest.skip("needs Linux on x86-64 with gcc and Python's headers")
    if not {"avx2", "fma"} <= set(cpu.read_text().split()):
        assert "processor" in str(native.missing)
    else:
        assert native.missing is None, "build it: pip install -e .  or  python setup.py build_ext --inplace"


@needs_native
def test_the_widest_vectors_are_used_that_the_processor_has() -> None:
    assert set(SIMD) <= {"avx2", "avx512", "neon"}
    cpu = Path("/proc/cpuinfo")
    if platform.machine() == "x86_64" and cpu.exists():
        flags = set(cpu.read_text().split())
        wide = {"avx512f", "avx512vl", "avx512dq", "avx512bw"} <= flags
        assert c.available_simd() == (("avx512", "avx2") if wide else ("avx2",))


ASKING = """
from rlkit.engine.native import primitives as native
print(native.refused or native.simd())
"""


@needs_native
@pytest.mark.parametrize("asked", ["", *SIMD, "avx", "AVX2", "sse2", "avx512 "])
def test_rlkit_simd_forces_one_of_them(asked: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RLKIT_SIMD": asked}
    said = subprocess.check_output([sys.executable, "-c", ASKING], env=environment, text=True).rstrip("\n")
    refusal = f"RLKIT_SIMD={asked}: the C engine can use {' or '.join(SIMD)} on this processor"
    assert said == (SIMD[0] if not asked else asked if asked in SIMD else refusal)


@pytest.mark.parametrize(("compute", "fails"), [("auto", True), ("native", True), ("torch", False), ("compile", False)])
def test_a_refused_simd_is_a_mistake_where_the_c_engine_could_compute(
    compute: str, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "missing", None)
    monkeypatch.setattr(native, "refused", "RLKIT_SIMD=mmx: no")
    if fails:
        with pytest.raises(RlkitError, match="RLKIT_SIMD=mmx: no; without RLKIT_SIMD"):
            chosen(setting_of(compute), nn.Linear(1, 1), None)
    else:
        assert chosen(setting_of(compute), nn.Linear(1, 1), None) == compute


def test_without_the_engine_rlkit_simd_forces_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "missing", "it was not built")
    assert native.follow_variable("avx2") == "RLKIT_SIMD=avx2: it was not built"
    assert native.follow_variable(None) is None


@needs_native
@pytest.mark.parametrize("wrong", ["sse2", ""])
def test_other_instructions_are_refused_and_nothing_changes(wrong: str, simd: str) -> None:
    with pytest.raises(ValueError, match=f"cannot compute with '{wrong}'"):
        c.use_simd(wrong)
    with pytest.raises(TypeError):
        c.use_simd(2)
    assert c.simd() == simd


@needs_native
def test_a_network_keeps_the_vectors_that_it_was_made_with(simd: str) -> None:
    """Its working memory is laid out for them."""
    module = mlp([30, 300, 2], NetworkConfig(activation="relu"), 1.0, torch.Generator().manual_seed(0))
    gradients = flatten_parameters(module)[1].numpy()
    x, d_outputs, found = floats(40, 30), floats(40, 2), []
    for others in (simd, *SIMD):
        c.use_simd(simd)
        tower = native.NativeMLP(module)
        tower.forward(x)
        c.use_simd(others)
        tower.backward(d_outputs)
        found.append(gradients.copy())
    c.use_simd(simd)
    for other in found:
        np.testing.assert_array_equal(other, found[0])


def test_a_run_says_which_instructions_it_computes_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields: dict[str, Any] = {"total_timesteps": 8, "final_eval_episodes": 0, "eval_interval": 0, "num_envs": 1}
    for compute in ("native", "torch") if SIMD else ("torch",):
        rlkit.train("a2c", "CartPole-v1", run_dir=tmp_path / compute, compute=compute, **fields)
        said, used = capsys.readouterr(), c.simd() if compute == "native" else None
        assert f"{compute} on cpu{f' with {used}' if used else ''}" in (said.out + said.err).splitlines()[1]
        assert json.loads((tmp_path / compute / "summary.json").read_text())["simd"] == used


# Primitives


@needs_native
@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(1, 60) | st.sampled_from([128, 256]),
    columns=st.integers(1, 80) | st.sampled_from([128, 256]),
    depth=st.integers(1, 80) | st.sampled_from([255, 256, 257, 512, 700]),
    seed=st.integers(0, 1000),
)
def test_products_are_within_rounding_of_float64s(rows: int, columns: int, depth: int, seed: int) -> None:
    """A sum of n products, in any order, is off by at most n + 1 roundings of the sum of their magnitudes."""
    x, weights, biases = (
        floats(rows, depth, seed=seed),
        floats(columns, depth, seed=seed + 1),
        floats(columns, seed=seed),
    )
    d_outputs = floats(rows, columns, seed=seed + 2)
    outputs, d_weights, d_biases = floats(rows, columns), floats(columns, depth), floats(columns)
    tower = c.MLP([(weights, biases, d_weights, d_biases)], "identity")
    tower.forward(x, outputs)
    tower.backward(x, d_outputs)
    exact, sizes = x.astype(np.float64) @ weights.T.astype(np.float64) + biases, abs(x) @ abs(weights).T + abs(biases)
    assert (abs(outputs - exact) <= (depth + 2) * 2.0**-23 * sizes).all()
    exact, sizes = d_outputs.T.astype(np.float64) @ x.astype(np.float64), abs(d_outputs).T @ abs(x)
    assert (abs(d_weights - exact) <= (rows + 2) * 2.0**-23 * sizes).all()


@needs_native
@settings(max_examples=120, deadline=None)
@given(
    sizes=st.lists(WIDTHS, min_size=2, max_size=5),
    activation=st.sampled_from(ACTIVATIONS),
    layer_norm=st.booleans(),
    rows=st.sampled_from(ROWS),
    off=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    seed=st.integers(0, 1000),
)
def test_outputs_and_gradients_of_mlps_are_those_of_autograd_in_float64(
    sizes: list[int], activation: str, layer_norm: bool, rows: int, off: float, seed: int
) -> None:
    x, d_outputs = floats(rows, sizes[0], seed=seed), floats(rows, sizes[-1], seed=seed + 1) / rows
    config = NetworkConfig(activation=activation, layer_norm=layer_norm)
    module = mlp(sizes, config, 1.0, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in module.parameters():  # biases too
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
        for layer in [layer for layer in module if isinstance(layer, nn.Linear)][:-1]:
            if not layer_norm:  # this share of the hidden units is off, or saturated, in all rows
                layer.bias[torch.from_numpy(np.random.default_rng(seed).random(len(layer.bias)) < off)] -= 1000
    double = copy.deepcopy(module).double()
    assume_rounding_is_small(double, x.astype(np.float64))
    gradients = flatten_parameters(module)[1]
    tower = native.NativeMLP(module)
    outputs = tower.forward(x).copy()
    gradients.fill_(7)  # what was there before makes no difference
    tower.backward(d_outputs)
    exact = double(torch.from_numpy(x).double())
    torch.autograd.backward(exact, torch.from_numpy(d_outputs).double())
    assert_close(outputs, exact.detach().numpy())
    expected = [parameter.grad.reshape(-1) for parameter in double.parameters() if parameter.grad is not None]
    assert_close(gradients.numpy(), torch.cat(expected).numpy())


@needs_native
def test_without_an_activation_layers_are_a_product() -> None:
    module = nn.Sequential(nn.Linear(5, 20), nn.Linear(20, 3))
    gradients = flatten_parameters(module)[1].numpy()
    tower, x, d_outputs = native.NativeMLP(module), floats(30, 5), floats(30, 3)
    outputs = module(torch.from_numpy(x))
    assert_close(tower.forward(x), outputs.detach().numpy())
    tower.backward(d_outputs)
    found = gradients.copy()
    gradients[:] = 0
    torch.autograd.backward(outputs, torch.from_numpy(d_outputs))
    assert_close(found, gradients)


@needs_native
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_their_slopes_are_within_their_bounds_everywhere(name: str) -> None:
    """Against float64, relative to |x|, or to one if that is less."""
    x = np.concatenate([np.linspace(-20, 20, 100_001), np.geomspace(1e-30, 1e4, 3000), -np.geomspace(1e-30, 1e4, 3000)])
    exact = torch.from_numpy(x.astype(np.float32)).double().requires_grad_()
    made = activation(name)
    made(exact).sum().backward()
    values, slopes = of_activation(name, x.astype(np.float32))
    scale = np.maximum(1, np.abs(x))
    assert (np.abs(values - made(exact).detach().numpy()) / scale).max() < (1e-12 if name == "relu" else 5e-7)
    assert exact.grad is not None
    assert np.abs(slopes - exact.grad.numpy()).max() < 1e-6
    if name == "tanh":
        np.testing.assert_allclose(values, np.tanh(x), rtol=5e-7, atol=0)
        assert np.abs(values).max() <= 1


@needs_native
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_of_infinity_and_of_not_a_number(name: str) -> None:
    """As torch computes them, but that GELU of infinity is infinity, which torch's kernels make not a number of."""
    x = np.array([np.inf, -np.inf, np.nan, -0.0], np.float32)
    exact = activation(name)(torch.from_numpy(x)).numpy()
    values, slopes = of_activation(name, x)
    if name == "gelu":
        exact[0] = np.inf
    np.testing.assert_allclose(values, exact, atol=3e-7)
    if name != "relu":  # whose slope is one or zero, and its outputs are not a number
        assert np.isnan(slopes[2])


def of_activation(name: str, x: Array) -> tuple[Array, Array]:
    """An activation's values, and its derivatives as the last of three layers passes them on to the first's biases."""
    one, zero = np.ones((1, 1), np.float32), np.zeros(1, np.float32)
    layers = [(one, zero, one.copy(), zero.copy()), (one, zero, one.copy(), zero.copy())]
    values, slopes = np.empty((len(x), 1), np.float32), np.empty(len(x), np.float32)
    c.MLP(layers, name).forward(np.ascontiguousarray(x[:, None]), values)
    # Each unit has an input of its own, so that each bias' gradient is one slope.
    for start in range(0, len(x), 1000):
        part = x[start : start + 1000]
        n = len(part)
        wide = [(np.zeros((n, 1), np.float32), part.copy(), np.empty((n, 1), np.float32), slopes[start : start + n])]
        last = np.ones((1, n), np.float32)
        wide.append((last, zero, last.copy(), zero.copy()))
        tower = c.MLP(wide, name)
        tower.forward(np.zeros((1, 1), np.float32), np.empty((1, 1), np.float32))
        tower.backward(np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32))
    return values[:, 0], slopes


@needs_native
@pytest.mark.parametrize("name", ["adam", "rmsprop"])
@pytest.mark.parametrize("size", [1, 7, 31, 2500])
@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_optimisers_are_torchs_for_any_size(name: str, size: int, max_norm: float | None) -> None:
    found = []
    for engine in ("torch", "native"):
        moved, gradient, norms = floats(size, seed=1), floats(size), []
        both = torch.from_numpy(moved), torch.from_numpy(gradient)
        optimizer: Any = OPTIMIZERS[name](moved, gradient, eps=1e-5)
        if engine == "torch":
            optimizer = TorchOptimizer(name, *both, eps=1e-5)
        for step in range(20):
            gradient[:] = floats(size, seed=step)
            norms.append(float(optimizer.clip(max_norm)))
            optimizer.step(0.01)
        assert optimizer.steps == 20
        found.append([moved, np.array(norms), *optimizer.moments.values()])
    for expected, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


# Losses


@needs_native
@settings(max_examples=60, deadline=None)
@given(
    losses=st.sampled_from([PPO_LOSS, PPO_LOSS, A2C_LOSS, REINFORCE_LOSS]),
    action_space=st.sampled_from(ACTION_SPACES),
    hidden=st.lists(WIDTHS, max_size=3),
    activation=st.sampled_from(["tanh", "relu"]),
    objective=st.sampled_from(OBJECTIVES),
    rows=st.sampled_from(ROWS[:4]),
    ent_coef=st.sampled_from([0.0, 0.05]),
    clip_value_coef=st.sampled_from([None, 0.1]),
    normalize=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_gradients_of_losses_are_torchs(
    losses: Any,
    action_space: spaces.Space[Any],
    hidden: list[int],
    activation: str,
    objective: str,
    rows: int,
    ent_coef: float,
    clip_value_coef: float | None,
    normalize: bool,
    seed: int,
) -> None:
    def network() -> Any:
        return make_network(action_space, hidden_sizes=hidden, activation=activation)

    coefficients: Any = PPOCoefficients(objective, 0.2, 0.5, clip_value_coef, ent_coef, 0.5, normalize, ALONE)
    if losses is A2C_LOSS:
        coefficients = A2CCoefficients(ent_coef, 0.5, normalize, ALONE)
    elif losses is REINFORCE_LOSS:
        coefficients = REINFORCECoefficients(7, ent_coef, 0.5, normalize, ALONE)
    mask = isinstance(action_space, spaces.Discrete | spaces.MultiDiscrete) and seed % 2 == 0
    batch = make_batch(network(), rows, seed, mask=mask)
    if isinstance(action_space, spaces.MultiDiscrete) and mask:  # a choice is left in its second part too
        batch = make_batch(network(), rows, seed)
    largest = 0.0 if batch.old_params is None else float(np.abs(batch.old_params[batch.old_params > -1e7]).max())
    if objective == "clip" or losses is not PPO_LOSS:
        batch = batch._replace(old_params=None)
    if "relu" in activation:
        for tower in (network().actor, network().critic):
            assume_rounding_is_small(tower, batch.features[0])
    plain, fast = (gradients_by(name, network(), batch, coefficients, losses) for name in COMPUTES)
    # A ratio is e to the power of a difference of log-probabilities, which are off by some roundings of the parameters.
    assert_close(fast.numpy(), plain.numpy(), within=max(1e-5, 32 * 2.0**-24 * largest))


@needs_native
@pytest.mark.parametrize("action_space", ACTION_SPACES, ids=lambda space: type(space).__name__)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_metrics_and_parameters_stay_torchs_over_many_steps(action_space: spaces.Space[Any], objective: str) -> None:
    coefficients = PPOCoefficients(objective, 0.2, 0.5, 0.2, 0.01, 0.5, True, ALONE)
    histories, ends = [], []
    for compute in COMPUTES:
        network = make_network(action_space)
        batch = make_batch(network, 64, seed=0, mask=isinstance(action_space, spaces.Discrete))
        engine, _ = make_engine(network, compute, PPO_LOSS, 0.5)
        engine.load(batch if objective != "clip" else batch._replace(old_params=None))
        rng = np.random.default_rng(0)
        histories.append([engine.step(rng.permutation(64)[:48], coefficients, 1e-3) for _ in range(20)])
        ends.append(parameters_of(network))
    for plain, fast in zip(*histories, strict=True):
        assert fast == pytest.approx(plain, abs=2e-5, rel=1e-4)
    torch.testing.assert_close(ends[1], ends[0], atol=2e-5, rtol=1e-4)


def q_engine(compute: str, dueling: str = "none", **config: Any) -> tuple[Any, Any]:
    setting = Setting(spaces.Box(-1, 1, (5,)), spaces.Discrete(3), NetworkConfig(**config), device="cpu")
    network, _ = make_q_network(setting, 3, np.random.SeedSequence(0), dueling=dueling)
    engine, found = make_q_engine(network, compute, QLoss(dqn_loss, dqn_gradient), 10.0)
    assert found == compute
    return network, engine


def td_batch(rows: int, weighted: bool = False, seed: int = 0) -> TDBatch:
    rng = np.random.default_rng(seed)
    weights = rng.random(rows).astype(np.float32) if weighted else None
    return TDBatch((floats(rows, 5, seed=seed),), rng.integers(3, size=rows), 2 * floats(rows, seed=seed), weights)


@needs_native
@pytest.mark.parametrize("dueling", ["none", "mean", "sum"])
@pytest.mark.parametrize("loss", ["huber", "mse"])
@pytest.mark.parametrize("weighted", [False, True])
def test_q_learning_steps_are_torchs(dueling: str, loss: str, weighted: bool) -> None:
    found, last = {}, {}
    for compute in COMPUTES:
        network, engine = q_engine(compute, dueling, hidden_sizes=[20, 30], activation="relu")
        steps = [engine.step(td_batch(33, weighted, seed), loss, 1e-3) for seed in range(5)]
        engine.update_target(0.5)
        target = engine.target_outputs(td_batch(1100).features)
        found[compute] = (*(errors for errors, _ in steps), target, parameters_of(network).numpy())
        last[compute] = steps[-1][1]
    assert last["native"] == pytest.approx(last["torch"], rel=1e-4, abs=1e-6)
    for ours, theirs in zip(found["native"], found["torch"], strict=True):
        assert_close(ours, theirs)


# Engines


@needs_native
@pytest.mark.parametrize("action_space", ACTION_SPACES, ids=lambda space: type(space).__name__)
def test_actions_are_torchs_for_the_same_generator(action_space: spaces.Space[Any]) -> None:
    features, actions = (floats(16, 5),), []
    for compute in COMPUTES:
        network = make_network(action_space)
        engine, _ = make_engine(network, compute, PPO_LOSS, 0.5)
        rng = np.random.default_rng(0)
        rows = [1, 3, 16] * 30
        actions.append([network.head.sample(engine.policy((features[0][:n],)), rng) for n in rows])
    for plain, fast in zip(*actions, strict=True):
        np.testing.assert_allclose(fast, plain, atol=1e-5)


AGENTS: dict[str, tuple[str, Any]] = {
    "ppo": ("CartPole-v1", PPOConfig(num_steps=16, minibatch_size=40, num_epochs=3, ent_coef=0.01)),
    "ppo on continuous actions": ("Pendulum-v1", PPOConfig(objective="adaptive_kl", num_steps=16, minibatch_size=40)),
    "a2c": ("CartPole-v1", A2CConfig(ent_coef=0.01)),
    "reinforce": ("CartPole-v1", REINFORCEConfig(baseline="value")),
    "dqn": ("CartPole-v1", DQNConfig(learning_starts=64, num_steps=8)),
    "dqn, all of it": (
        "CartPole-v1",
        DQNConfig(
            learning_starts=64, num_steps=8, double=True, dueling=True, n_step=3, replay=ReplayConfig(prioritized=True)
        ),
    ),
}


@needs_native
@pytest.mark.parametrize("name", AGENTS)
def test_training_is_torchs_up_to_rounding_and_repeats_to_the_last_bit(name: str) -> None:
    env, config = AGENTS[name]
    updates = 20 if "dqn" in name else 5
    network = NetworkConfig(hidden_sizes=[32, 32])
    plain, fast, again = (
        train(env, config, updates, network=network, compute=compute, num_envs=4)[0]
        for compute in ("torch", "native", "native")
    )
    assert (plain.compute, fast.compute) == COMPUTES
    assert_same_parameters(fast, again)
    start = parameters(train(env, config, 0, network=network, num_envs=4)[0])
    for key, array in parameters(plain).items():
        np.testing.assert_allclose(parameters(fast)[key], array, atol=2e-4, err_msg=key)
    assert any(np.abs(array - start[key]).max() > 1e-3 for key, array in parameters(plain).items())


@needs_native
@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
@pytest.mark.parametrize(("before", "after"), [("native", "torch"), ("torch", "native")])
def test_any_engine_goes_on_from_the_others_state(before: str, after: str, optimizer: str) -> None:
    coefficients = PPOCoefficients("clip", 0.2, 0.0, None, 0.01, 0.5, True, ALONE)
    pairs = {}
    for compute in (before, after):
        network = make_network(spaces.Discrete(3))
        engine, _ = make_engine(network, compute, PPO_LOSS, 0.5, 1e-5, optimizer)
        engine.load(make_batch(network, 32, seed=0)._replace(old_params=None))
        pairs[compute] = (network, engine)
    (first, first_engine), (second, second_engine) = pairs[before], pairs[after]
    for _ in range(5):
        first_engine.step(np.arange(32), coefficients, 1e-3)
    second.load_state_dict(first.state_dict())
    second_engine.load_state_dict(first_engine.state_dict())
    for _ in range(5):
        first_engine.step(np.arange(32), coefficients, 1e-3)
        second_engine.step(np.arange(32), coefficients, 1e-3)
    torch.testing.assert_close(parameters_of(second), parameters_of(first), atol=1e-5, rtol=1e-4)


# Memory, errors, and what is left as it was

GUARD = np.float32(-12345.0)


class Guarded:
    """Arrays with guard words before and after each of them."""

    def __init__(self) -> None:
        self._all: list[tuple[Array, int]] = []

    def array(self, values: Array) -> Array:
        whole = np.full(values.size + 64, GUARD, np.float32)
        self._all.append((whole, values.size))
        inner: Array = whole[32 : 32 + values.size].reshape(values.shape)
        inner[...] = values
        return inner

    def check(self) -> None:
        for whole, size in self._all:
            assert (whole[:32] == GUARD).all()
            assert (whole[32 + size :] == GUARD).all()


@needs_native
@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    activation=st.sampled_from([*ACTIVATIONS, "identity"]),
    layer_norm=st.booleans(),
    rows=st.integers(0, 30) | st.sampled_from([128, 129, 300]),
)
def test_nothing_is_written_beyond_the_arrays(sizes: list[int], activation: str, layer_norm: bool, rows: int) -> None:
    memory = Guarded()
    layers = []
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        weights, biases = floats(outputs, inputs), floats(outputs)
        norm = [biases] * 4 if layer_norm and i < len(sizes) - 2 else []
        layers.append(tuple(memory.array(array) for array in (weights, biases, weights, biases, *norm)))
    tower = c.MLP(layers, activation)
    x, y, d_outputs = (memory.array(floats(rows, n)) for n in (sizes[0], sizes[-1], sizes[-1]))
    tower.forward(x, y)
    tower.backward(x, d_outputs)
    size = sizes[0]
    moved, gradient, first, second = (memory.array(np.abs(floats(size))) for _ in range(4))
    c.clip_global_norm(gradient, 1e-3)
    c.adam(moved, gradient, first, second, 1, 1e-3, 0.9, 0.999, 1e-8)
    c.rmsprop(moved, gradient, second, 1e-3, 0.99, 1e-8)
    if rows:
        q_values, d_q_values = memory.array(floats(rows, size)), memory.array(floats(rows, size))
        columns = [memory.array(floats(rows, seed=seed)) for seed in range(6)]
        action = np.random.default_rng(rows).integers(size, size=rows)
        c.td_loss(q_values, action, columns[0], columns[1], "huber", d_q_values, columns[2])
        for kind in ("categorical", "bernoulli", "gaussian"):
            parts, params = {
                "categorical": ([size, 2], size + 2),
                "bernoulli": ([1] * size, size),
                "gaussian": ([2] * size, 2 * size),
            }[kind]
            actions = np.zeros((rows, len(parts)), np.int64 if kind == "categorical" else np.float32)
            c.policy_loss(
                kind,
                np.array(parts),
                "kl",
                (0.2, 0.5, 0.1, 0.01, 0.5, float(rows)),
                memory.array(floats(rows, params)),
                columns[0],
                actions,
                *columns[1:4],
                memory.array(floats(rows, params, seed=1)),
                columns[4],
                memory.array(floats(rows, params)),
                columns[5],
            )
    memory.check()


@needs_native
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layer_norm", [False, True])
def test_not_a_number_stays_visible(activation: str, layer_norm: bool) -> None:
    config = NetworkConfig(activation=activation, layer_norm=layer_norm)
    module = mlp([3, 20, 20, 2], config, 1.0, torch.Generator().manual_seed(0))
    gradients = flatten_parameters(module)[1].numpy()
    tower, x = native.NativeMLP(module), floats(10, 3)
    x[4, 1] = np.nan
    outputs = tower.forward(x)
    np.testing.assert_array_equal(np.isnan(outputs).all(1), np.arange(10) == 4)
    assert np.isfinite(np.delete(outputs, 4, axis=0)).all()
    tower.backward(outputs)
    assert np.isnan(gradients).all()
    assert math.isnan(clip_global_norm(gradients, 0.5))
    moved = floats(len(gradients))
    NativeAdam(moved, gradients, eps=1e-8).step(1e-3)
    assert np.isnan(moved).all()
    for kind, parts in (("categorical", [2]), ("bernoulli", [1, 1]), ("gaussian", [2])):
        params, actions = floats(3, 2), np.zeros((3, len(parts)), np.int64 if kind == "categorical" else np.float32)
        params[1, 0] = np.nan
        d_params, d_values, column = floats(3, 2), floats(3), floats(3)
        for objective in ("log_prob", "clip", "kl"):
            coefficients = (0.2, 0.5, math.inf, 0.01, 0.5, 3.0)
            rest = (column, actions, column, column, column, floats(3, 2), None, d_params, d_values)
            loss = c.policy_loss(kind, np.array(parts), objective, coefficients, params, *rest)[0]
            assert math.isnan(loss)
            assert np.isnan(d_params[1]).any()
            assert np.isfinite(d_params[[0, 2]]).all()


@needs_native
def test_small_numbers_are_not_flushed_to_zero() -> None:
    """As code that was compiled with -ffast-math makes the whole process do."""
    train("CartPole-v1", PPOConfig(num_steps=8, minibatch_size=8, num_epochs=1), 1, compute="native", num_envs=1)
    smallest = np.full(100, 1e-40, np.float32)
    assert (smallest * np.float32(0.5) > 0).all()
    assert (torch.from_numpy(smallest) * 0.5 > 0).all()


def two_layers() -> Any:
    weights, biases = floats(4, 3), floats(4)
    last_weights, last_biases = floats(2, 4), floats(2)
    return c.MLP(
        [(weights, biases, weights.copy(), biases.copy()), (last_weights, last_biases, last_weights, last_biases)],
        "tanh",
    )


MISTAKES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "wrong type": (lambda: two_layers().forward(floats(5, 3).astype(np.float64), floats(5, 2)), ValueError, "type 'd'"),
    "wrong width": (lambda: two_layers().forward(floats(5, 4), floats(5, 2)), ValueError, "x: dimension 1 is 4"),
    "wrong rows": (lambda: two_layers().forward(floats(5, 3), floats(6, 2)), ValueError, "outputs: dimension 0 is 6"),
    "a vector": (lambda: two_layers().forward(floats(3), floats(1, 2)), ValueError, "x: 1 dimensions, expected 2"),
    "not dense": (lambda: two_layers().forward(floats(3, 5).T, floats(5, 2)), ValueError, "contiguous"),
    "not an array": (lambda: two_layers().forward([[1.0]], floats(1, 2)), TypeError, "bytes-like"),
    "backward first": (lambda: two_layers().backward(floats(5, 3), floats(5, 2)), RuntimeError, "forward comes before"),
    "too few": (lambda: two_layers().forward(floats(5, 3)), TypeError, "forward takes 2 arguments, 1 given"),
    "no layers": (lambda: c.MLP([], "tanh"), ValueError, "expected at least one"),
    "a layer of one": (lambda: c.MLP([floats(2, 2)], "tanh"), TypeError, "a layer: expected a tuple"),
    "activation": (
        lambda: c.MLP([], "mish"),
        ValueError,
        "'mish': expected tanh, relu, elu, silu, gelu, ",
    ),
    "half a normalisation": (
        lambda: c.MLP([(floats(4, 3), floats(4), floats(4, 3), floats(4), floats(4))], "tanh"),
        ValueError,
        "a layer: 5 arrays, expected 4, or 8",
    ),
    "a normalisation at the end": (
        lambda: c.MLP([(floats(4, 3), floats(4), floats(4, 3), *[floats(4)] * 5)], "tanh"),
        ValueError,
        "the last layer has a normalisation",
    ),
    "a gain that does not fit": (
        lambda: c.MLP([(floats(4, 3), floats(4), floats(4, 3), floats(4), floats(3), *[floats(4)] * 3)], "tanh"),
        ValueError,
        "gain: dimension 0 is 3, expected 4",
    ),
    "layers that do not fit": (
        lambda: c.MLP([(floats(4, 3), floats(4)) * 2, (floats(2, 5), floats(2)) * 2], "tanh"),
        ValueError,
        "weights: dimension 1 is 5, expected 4",
    ),
    "not a module": (lambda: c.MLP.__new__(c.MLP).forward(floats(1, 1), floats(1, 1)), RuntimeError, "not initialised"),
    "optimiser": (lambda: c.rmsprop(floats(3), floats(4), floats(3), 1.0, 1.0, 1.0), ValueError, "gradient: dimension"),
    "rate": (lambda: c.rmsprop(floats(3), floats(3), floats(3), "fast", 1.0, 1.0), TypeError, "real number"),
    "loss": (
        lambda: c.td_loss(floats(2, 3), np.zeros(2, np.int64), floats(2), None, "l1", floats(2, 3), floats(2)),
        ValueError,
        "'l1' is none",
    ),
    "action": (
        lambda: c.td_loss(floats(2, 3), np.array([0, 3]), floats(2), None, "mse", floats(2, 3), floats(2)),
        ValueError,
        "action: row 1 is out of range",
    ),
    "action of a policy": (
        lambda: c.policy_loss(
            "categorical",
            np.array([2]),
            "log_prob",
            (0.0, 0.0, math.inf, 0.0, 0.5, 2.0),
            floats(2, 2),
            floats(2),
            np.array([[-1], [0]]),
            *[floats(2)] * 3,
            None,
            None,
            floats(2, 2),
            floats(2),
        ),
        ValueError,
        "action: row 0 is out of range",
    ),
}


@needs_native
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_errors(mistake: str) -> None:
    call, error, words = MISTAKES[mistake]
    with pytest.raises(error, match=words):
        call()


@needs_native
def test_arrays_that_must_not_change_are_refused() -> None:
    frozen = floats(5)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        c.clip_global_norm(frozen, 0.5)


@needs_native
def test_other_threads_run_meanwhile_but_not_on_the_same_network() -> None:
    module = mlp([8, 64, 64, 1], NetworkConfig(activation="tanh"), 1.0, torch.Generator().manual_seed(0))
    flatten_parameters(module)
    tower, done = native.NativeMLP(module), threading.Event()
    errors: list[RuntimeError] = []
    inputs = floats(2000, 8), floats(2000, 8)

    def compute(x: Array) -> None:
        while not done.is_set():
            try:
                tower.forward(x)
            except RuntimeError as error:
                errors.append(error)
                done.set()

    threads = [threading.Thread(target=compute, args=(x,)) for x in inputs]
    for thread in threads:
        thread.start()
    done.wait(60)
    done.set()
    for thread in threads:
        thread.join()
    assert "computing in another thread" in str(errors[0])


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_share_tasks_and_say_what_went_wrong(threads: int) -> None:
    done: list[int] = []
    in_threads([partial(done.append, i) for i in range(50)], threads)
    assert sorted(done) == list(range(50))

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        in_threads([partial(done.append, 50), fail, partial(done.append, 51)], threads)


def test_a_thread_that_does_not_begin_is_not_waited_for() -> None:
    begun, over = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        over.wait(60)

    def leave_it_to_the_other() -> None:
        assert begun.wait(60)

    # Two threads: the only helper is kept busy by the first call, made elsewhere, while the second goes on without it.
    elsewhere = threading.Thread(target=in_threads, args=([leave_it_to_the_other, hold], 2))
    elsewhere.start()
    assert begun.wait(60)
    done: list[int] = []
    in_threads([partial(done.append, i) for i in range(3)], 2)
    over.set()
    elsewhere.join(60)
    assert done == [0, 1, 2]


@needs_native
def test_the_number_of_threads_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    x, d_outputs = floats(1500, 17), floats(1500, 3, seed=1) / 1500
    results: list[list[Array]] = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        network = NetworkConfig(activation="gelu", layer_norm=True)
        module = mlp([17, 128, 128, 3], network, 1.0, torch.Generator().manual_seed(0))
        _, gradients = flatten_parameters(module)
        tower = native.NativeMLP(module)
        for _ in range(3):
            outputs = tower.forward(x)
            tower.backward(d_outputs)
        assert len(tower._mlps) > 2  # several shards, or this proves nothing
        results.append([outputs, gradients.numpy().copy()])
    for other in results[1:]:
        np.testing.assert_array_equal(other[0], results[0][0])
        np.testing.assert_array_equal(other[1], results[0][1])
    monkeypatch.setattr(native, "MAX_SHARDS", 2)
    tower = native.NativeMLP(module)
    np.testing.assert_array_equal(tower.forward(x), results[0][0])
    tower.backward(d_outputs)
    assert len(tower._mlps) == 2
    assert_close(gradients.numpy(), results[0][1])


# Without it


WITHOUT = """
import sys
sys.modules["rlkit.engine.native.kernels"] = None
import rlkit
fields = {"num_envs": 1, "total_timesteps": 64, "eval_interval": 0, "final_eval_episodes": 0}
few = {"agent.num_steps": 32, "agent.minibatch_size": 32}
agents = {"ppo": few, "trpo": few, "dqn": {"agent.learning_starts": 16}, "a2c": {}, "reinforce": {}, "sarsa": {}}
for agent, more in agents.items():
    rlkit.train(agent=agent, env="CartPole-v1", run_dir=agent, **fields, **more)
try:
    rlkit.train(agent="ppo", env="CartPole-v1", run_dir="other", compute="native", **fields)
except rlkit.errors.RlkitError as error:
    print("refused:", error)
"""


def test_without_the_engine_torch_takes_its_place_and_the_run_says_so(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "RLKIT_SIMD": ""}
    command = [sys.executable, "-c", WITHOUT]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (result.stdout + result.stderr).count("torch on cpu: the C engine was not built") == 6
    assert "refused: compute=native: the C engine was not built" in result.stdout
    for agent in ("ppo", "trpo", "dqn", "a2c", "reinforce", "sarsa"):
        summary = json.loads((tmp_path / agent / "summary.json").read_text())
        assert (summary["status"], summary["compute"], summary["simd"]) == ("finished", "torch", None)


def test_a_build_without_a_compiler_succeeds_without_the_engine(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    shutil.copy(ROOT / "setup.py", tmp_path)
    shutil.copytree(ROOT / "rlkit" / "engine" / "native" / "c", tmp_path / "rlkit" / "engine" / "native" / "c")
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    environment = {**os.environ, "CC": "/bin/false"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.rglob("*.so")) == []


@pytest.mark.parametrize(
    ("compute", "reason", "missing", "expected"),
    [
        ("auto", None, None, "native"),
        ("auto", None, "it was not built", "torch"),
        ("auto", "it has convolutions", None, "torch"),
        ("torch", None, None, "torch"),
        ("compile", "it has convolutions", None, "compile"),
        ("native", None, None, "native"),
        ("native", None, "it was not built", RlkitError),
        ("native", "it has convolutions", None, RlkitError),
    ],
)
def test_what_compute_becomes(
    compute: str, reason: str | None, missing: str | None, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "missing", missing)
    if isinstance(expected, str):
        assert chosen(setting_of(compute), nn.Linear(1, 1), reason) == expected
    else:
        with pytest.raises(expected, match=str(reason or missing)):
            chosen(setting_of(compute), nn.Linear(1, 1), reason)


def test_compute_numpy_is_gone_and_the_error_names_what_remains(tmp_path: Path) -> None:
    gone = "^compute=numpy is gone, and torch computes where the C engine cannot: expected auto, torch, compile, "
    with pytest.raises(RlkitError, match=gone + "cudagraph or native$"):
        rlkit.train("ppo", "CartPole-v1", compute="numpy", run_dir=tmp_path / "run")
    for config, actions in (
        (PPOConfig(), spaces.Discrete(2)),
        (DQNConfig(), spaces.Discrete(2)),
        (TemporalDifferenceConfig(), spaces.Discrete(2)),
    ):
        for observations in (spaces.Box(-1, 1, (2,)), spaces.Discrete(3)):
            with pytest.raises(RlkitError, match=gone):
                make_agent(config, Setting(observations, actions, compute="numpy"))
    assert not (tmp_path / "run").exists()


def test_a_configuration_file_of_an_earlier_version_becomes_auto_and_the_user_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "old.yaml").write_text("# @package _global_\ncompute: numpy\n")
    searched = f"hydra.searchpath=[file://{tmp_path}]"
    assert compose([searched, "experiment=old"]).compute == "auto"
    assert "compute=numpy in a configuration file" in capsys.readouterr().err
    with pytest.raises(RlkitError, match="compute=numpy is gone"):
        compose([searched, "experiment=old", "compute=numpy"])
