"""Rainbow's parts in DQN: noisy layers, distributions of values, and all parts together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector import SyncVectorEnv as GymSyncVectorEnv
from small_envs import Counting, NativeCounting
from torch import nn
from training import assert_goes_on_from_its_state, assert_same_parameters, make_q_engine, parameters, train

import rlkit
from rlkit.agents import VARIANTS
from rlkit.agents.dqn import DQN, DQNConfig
from rlkit.buffers.prioritized import PrioritizedReplayBuffer
from rlkit.collector import Collector
from rlkit.engine.losses import categorical_loss, dqn_loss
from rlkit.engine.make import make_q_network
from rlkit.engine.native.q import dqn_gradient
from rlkit.engine.q import QLoss, TDBatch
from rlkit.errors import RlkitError
from rlkit.field_groups import AtomsConfig, EpisodicEpsilonConfig, TargetConfig
from rlkit.maths.returns import next_values
from rlkit.networks.noisy import NoisyLinear, noise_from
from rlkit.setting import NetworkConfig, Setting, updated
from rlkit.spaces import Array
from rlkit.testing import check_agent

QUICK = DQNConfig(
    learning_rate=5e-3,
    gamma=0.9,
    gradient_steps=8,
    learning_starts=200,
    target=TargetConfig(interval=25),
    epsilon=EpisodicEpsilonConfig(fraction=0.5),
    atoms=AtomsConfig(v_min=-10.0, v_max=10.0),
)
CONFIGS = {
    "noisy": replace(QUICK, noisy=True),
    "distributional": replace(QUICK, distributional=True),
    "rainbow": updated(QUICK, VARIANTS["rainbow"].fields),
}
SPACES = spaces.Box(-1, 1, (5,)), spaces.Discrete(3)
OBS = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
ATOMS = np.linspace(-2, 2, 5, dtype=np.float32)


# Noisy layers


def noisy_layers(network: Any) -> list[NoisyLinear]:
    return [layer for layer in network.body if isinstance(layer, NoisyLinear)]


def test_a_noisy_layer_has_the_weights_of_the_paper() -> None:
    layer = NoisyLinear(16, 3, std=0.5)
    assert all((std == 0.125).all() for std in (layer.weight_std, layer.bias_std))  # 0.5 / √16
    x = torch.randn(4, 16)
    mean = nn.functional.linear(x, layer.weight, layer.bias)
    assert torch.equal(layer(x), mean)
    with noise_from(np.random.default_rng(0), nn.Sequential(layer)):
        assert layer.noise is not None
        inputs, outputs = layer.noise
        noise = torch.tensor([[float(outputs[j] * inputs[i]) for i in range(16)] for j in range(3)])
        weight, bias = layer.weight + layer.weight_std * noise, layer.bias + layer.bias_std * outputs
        torch.testing.assert_close(layer(x), x @ weight.T + bias)
    assert torch.equal(layer(x), mean)


def test_noise_is_f_of_a_standard_normal() -> None:
    """f(x) = sign(x) √|x|, so that f² is |x|, whose mean is √(2/π)."""
    layer = NoisyLinear(1, 1, std=0.5)
    layer.in_features, layer.out_features = 100_000, 100_000  # as if it had so many: weights are of no interest
    with noise_from(np.random.default_rng(0), nn.Sequential(layer)):
        assert layer.noise is not None
        for part in layer.noise:
            assert part.mean().item() == pytest.approx(0, abs=0.01)
            assert part.square().mean().item() == pytest.approx(np.sqrt(2 / np.pi), abs=0.01)
            assert part.square().square().mean().item() == pytest.approx(1, abs=0.02)
        assert abs(np.corrcoef(*layer.noise)[0, 1]) < 0.01


def test_the_noises_size_is_learned() -> None:
    layer = NoisyLinear(2, 1, std=0.5)
    with noise_from(np.random.default_rng(0), nn.Sequential(layer)):
        assert layer.noise is not None
        inputs, outputs = layer.noise
        torch.autograd.backward(layer(torch.tensor([[3.0, 5.0]])).sum())
    assert layer.weight_std.grad is not None
    assert layer.bias_std.grad is not None
    torch.testing.assert_close(layer.weight_std.grad, outputs * inputs * torch.tensor([[3.0, 5.0]]))
    torch.testing.assert_close(layer.bias_std.grad, outputs)


def test_noise_ends_with_an_error_too() -> None:
    layer = NoisyLinear(2, 1, std=0.5)
    with pytest.raises(ZeroDivisionError), noise_from(np.random.default_rng(0), nn.Sequential(layer)):
        1 / 0  # noqa: B018
    assert layer.noise is None


def test_all_layers_behind_the_encoder_are_noisy() -> None:
    assert len(noisy_layers(DQN(CONFIGS["noisy"], Setting(*SPACES)).network)) == 3
    assert not noisy_layers(DQN(QUICK, Setting(*SPACES)).network)


def test_acting_has_noise_and_evaluation_has_none() -> None:
    agent = DQN(CONFIGS["noisy"], Setting(*SPACES))
    engine, rng = agent.engine, np.random.default_rng(0)
    without = engine.q_values((OBS,))
    np.testing.assert_array_equal(engine.q_values((OBS,)), without)
    np.testing.assert_array_equal(agent.q_values(OBS), without)
    first, second = engine.q_values((OBS,), noise=rng), engine.q_values((OBS,), noise=rng)
    assert (first != second).all()
    assert (first != without).all()

    best = agent.predict(OBS)[0]
    explored = np.array([agent.predict(OBS, deterministic=False)[0] for _ in range(50)])
    assert 0.1 < (explored != best).mean() < 0.9
    np.testing.assert_array_equal(agent.predict(OBS)[0], best)


def test_every_gradient_step_and_every_target_has_noise_of_its_own() -> None:
    """An agent whose networks are equal: what differs between their outputs is the noise."""
    agent = DQN(CONFIGS["noisy"], Setting(*SPACES))
    rng = np.random.default_rng(0)
    seen: list[Array] = []
    original = agent.network.forward

    def forward(features: Any) -> Any:
        outputs = original(features)
        seen.append(outputs.detach().numpy().copy())
        return outputs

    agent.network.forward = forward  # type: ignore[method-assign]
    batch = TDBatch((OBS,), np.zeros(20, np.int64), np.zeros(20, np.float32))
    for _ in range(2):
        agent.engine.step(batch, "huber", 0.0, noise=rng)
    seen += [agent.engine.target_outputs((OBS,), noise=rng) for _ in range(2)]
    seen.append(agent.engine.q_values((OBS,)))  # appends itself, too
    for i, one in enumerate(seen[:-1]):
        assert all((one != other).all() for other in seen[:i]), i


def test_the_agent_asks_for_noise_wherever_it_learns_or_explores(monkeypatch: pytest.MonkeyPatch) -> None:
    envs = NativeCounting(1)
    config = replace(CONFIGS["noisy"], double=True, learning_starts=10, gradient_steps=3)
    agent = DQN(config, Setting(envs.single_observation_space, spaces.Discrete(2)))
    buffer = agent.make_buffer(1)
    Collector(envs, [0]).collect(agent, buffer, 20)
    asked: list[tuple[str, bool]] = []

    def watch(name: str) -> None:
        original = getattr(agent.engine, name)

        def watching(*args: Any, noise: Any = None) -> Any:
            asked.append((name, noise is not None))
            return original(*args, noise=noise)

        monkeypatch.setattr(agent.engine, name, watching)

    for name in ("q_values", "target_outputs", "step"):
        watch(name)
    agent.act((OBS[:, :1],))
    agent.act((OBS[:, :1],), explore=False)
    assert asked == [("q_values", True), ("q_values", False)]
    agent.update(buffer, 0.5)
    assert asked[2:] == 3 * [("target_outputs", True), ("q_values", True), ("step", True)]


def test_epsilon_is_off_unless_it_is_given() -> None:
    for fields, epsilons in (
        ({}, [0, 0, 0]),
        ({"epsilon": {"schedule": "exponential"}}, [0, 0, 0]),
        ({"epsilon": {"start": 0.5}}, [0.5, 0.275, 0.05]),
        ({"noisy": False}, [1, 0.525, 0.05]),
    ):
        config = updated(CONFIGS["noisy"], fields)
        config.validate(1)
        agent = DQN(config, Setting(*SPACES))
        assert agent.epsilon == epsilons[0]
        buffer = agent.make_buffer(1)
        for progress, epsilon in zip((0, 0.25, 1), epsilons, strict=True):
            assert agent.update(buffer, progress)["train/epsilon"] == pytest.approx(epsilon)
    assert DQN(CONFIGS["noisy"], Setting(*SPACES)).action_probabilities(OBS).max(1).min() == 1


# Distributions


def test_the_loss_is_the_cross_entropy_and_the_error_the_divergence() -> None:
    probabilities = np.array([[[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]], [[0.1, 0.1, 0.8], [0.25, 0.25, 0.5]]], np.float32)
    targets = np.array([[0.0, 0.5, 0.5], [0.25, 0.25, 0.5]], np.float32)
    batch = TDBatch((), torch.tensor([0, 1]), torch.from_numpy(targets))
    log_probs = torch.from_numpy(probabilities).log()
    loss, divergences = categorical_loss(log_probs, batch, "huber")
    first, second = -np.log(0.25), 0.5 * np.log(4) + 0.5 * np.log(2)  # the second is the target's own entropy
    assert loss.item() == pytest.approx((first + second) / 2)
    np.testing.assert_allclose(divergences, [np.log(4) - np.log(2), 0], atol=1e-6)
    weighted, same = categorical_loss(log_probs, batch._replace(weights=torch.tensor([1.0, 0.5])), "huber")
    assert weighted.item() == pytest.approx((first + 0.5 * second) / 2)
    np.testing.assert_array_equal(same, divergences)


def test_the_derivative_by_the_logits_is_what_the_network_has_too_much() -> None:
    logits = torch.randn(4, 3, 5, requires_grad=True)
    targets = torch.rand(4, 5)
    targets /= targets.sum(1, keepdim=True)
    action = torch.tensor([0, 2, 1, 2])
    torch.autograd.backward(categorical_loss(logits.log_softmax(2), TDBatch((), action, targets), "")[0])
    expected = torch.zeros(4, 3, 5)
    for row, a in enumerate(action):
        expected[row, a] = (logits[row, a].softmax(0) - targets[row]).detach() / 4
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("dueling", ["none", "mean", "sum"])
def test_a_categorical_network_has_a_distribution_for_each_action(dueling: str) -> None:
    network, _ = make_q_network(Setting(*SPACES), 3, np.random.SeedSequence(0), dueling=dueling, atoms=ATOMS)
    outputs = network((torch.from_numpy(OBS),))
    assert outputs.shape == (20, 3, 5)
    torch.testing.assert_close(outputs.exp().sum(2), torch.ones(20, 3))
    torch.testing.assert_close(network.expected(outputs), (outputs.exp() * torch.from_numpy(ATOMS)).sum(2))
    if dueling == "none":
        return
    raw = network.body(torch.from_numpy(OBS)).view(20, 4, 5)  # the value's logits, then the advantages'
    logits = raw[:, :1] + raw[:, 1:] - (raw[:, 1:].mean(1, keepdim=True) if dueling == "mean" else 0)
    torch.testing.assert_close(outputs, logits.log_softmax(2))


def test_next_distributions_are_of_the_best_allowed_actions() -> None:
    distributions = np.random.default_rng(0).dirichlet(np.ones(5), (2, 3))
    choosing = np.array([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]])
    mask = np.array([[True, True, True], [True, False, True]])
    found = next_values(choosing, distributions, mask)
    np.testing.assert_array_equal(found, [distributions[0, 1], distributions[1, 2]])


def sure_of(agent: DQN, *atoms: int) -> None:
    """Makes both networks sure that the actions' values are these atoms."""
    last: Any = agent.network.body[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        for action, atom in enumerate(atoms):
            last.bias.view(-1, agent.config.atoms.count)[action, atom] = 100.0
    agent.engine.update_target(1.0)


def targets_of(agent: DQN, buffer: Any) -> Iterator[tuple[float, Array]]:
    """The observations and target distributions that an update learns from; nothing is learned."""
    batches: list[TDBatch] = []

    def watching(batch: TDBatch, loss: str, learning_rate: float, noise: Any = None) -> Any:
        batches.append(batch)
        return np.zeros(len(batch.targets), np.float32), {"value_loss": 0.0}

    agent.engine.step = watching  # type: ignore[method-assign]
    agent.update(buffer, 0.5)
    return ((float(o), target) for b in batches for o, target in zip(b.features[0][:, 0], b.targets, strict=True))


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("terminate", [False, True])
def test_targets_are_distributions_whose_means_are_the_plain_targets(terminate: bool, double: bool) -> None:
    config = replace(
        QUICK, distributional=True, double=double, learning_starts=10, atoms=AtomsConfig(v_min=-5, v_max=15, count=21)
    )
    for mode in AutoresetMode:
        envs = GymSyncVectorEnv([lambda: Counting(terminate=terminate)] * 2, autoreset_mode=mode)
        agent = DQN(config, Setting(envs.single_observation_space, spaces.Discrete(2)))
        buffer = agent.make_buffer(2)
        Collector(envs, [0, 1]).collect(agent, buffer, 100)
        sure_of(agent, 15)  # Q is 10 for sure, or 5, as all atoms are as probable; the reward is s + 1
        np.testing.assert_allclose(agent.q_values(np.ones((1, 1), np.float32)), [[10, 5]], atol=1e-5)
        seen = set()
        for obs, target in targets_of(agent, buffer):
            last = terminate and obs == 3
            mean = obs + 1 + (0 if last else 9)
            assert target @ np.linspace(-5, 15, 21) == pytest.approx(mean, abs=1e-4)
            assert target.max() == pytest.approx(1, abs=1e-4)  # all values are atoms
            seen.add(obs)
        assert seen == {0, 1, 2, 3}


def test_targets_of_several_steps_have_the_discount_of_each_row() -> None:
    config = replace(
        QUICK, distributional=True, n_step=2, learning_starts=10, atoms=AtomsConfig(v_min=0, v_max=20, count=41)
    )
    envs = NativeCounting(4)
    agent = DQN(config, Setting(envs.single_observation_space, spaces.Discrete(2)))
    buffer = agent.make_buffer(4)
    Collector(envs, [0, 1, 2, 3]).collect(agent, buffer, 100)
    sure_of(agent, 20, 0)  # Q = 10
    found: dict[float, set[float]] = {}
    for obs, target in targets_of(agent, buffer):
        found.setdefault(obs, set()).add(round(float(target @ np.linspace(0, 20, 41)), 2))
    for obs in (0, 1, 2):
        whole, cut = (obs + 1) + 0.9 * (obs + 2) + 0.81 * 10, (obs + 1) + 0.9 * 10
        assert round(whole, 2) in found[obs]
        assert found[obs] <= {round(whole, 2), round(cut, 2)}
    assert found[3] == {13.0}


# Both, and all together


@pytest.mark.parametrize("name", CONFIGS)
def test_the_conformance_suite_finds_nothing(name: str) -> None:
    check_agent(CONFIGS[name]).raise_if_failed()


def test_values_beyond_the_atoms_end_at_the_last_one() -> None:
    config = updated(CONFIGS["distributional"], {"atoms": {"v_min": 0.0, "v_max": 0.5}})
    agent, _ = train("rlkit/ProbeActionMatters-v0", config, 30)  # -1 and 1
    np.testing.assert_allclose(agent.q_values(np.zeros((1, 1), np.float32)), [[0, 0.5]], atol=0.05)


def test_truncation_is_not_an_end() -> None:
    config = updated(
        CONFIGS["rainbow"],
        {"atoms": {"v_min": 0.0, "v_max": 12.0}, "learning_rate": 0.01, "target": {"interval": 8}},
    )
    agent, _ = train("rlkit/ProbeTruncation-v0", config, 100, num_envs=4)
    assert agent.value(np.zeros((1, 1), np.float32))[0] == pytest.approx(10.0, abs=0.5)


def test_images_reach_the_distributions() -> None:
    config = replace(CONFIGS["rainbow"], learning_rate=3e-4, gradient_steps=4, minibatch_size=32, learning_starts=64)
    agent, episodes = train("rlkit/ProbeImageObs-v0", config, 20)
    assert len(noisy_layers(agent.network)) == 1
    assert np.mean([episode.episode_return for episode in episodes[-50:]]) > 0.6


def test_one_seed_gives_identical_parameters() -> None:
    network = NetworkConfig(normalize_obs=True)
    runs = []
    for run, seed in enumerate((0, 0, 1)):
        torch.manual_seed(run)  # other users of torch's generator must not matter
        runs.append(train("CartPole-v1", CONFIGS["rainbow"], 12, network=network, seed=seed)[0])
    assert_same_parameters(runs[0], runs[1])
    assert any((array != parameters(runs[2])[name]).any() for name, array in parameters(runs[0]).items())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_state_dict_brings_training_back_to_where_it_was(name: str) -> None:
    assert_goes_on_from_its_state("CartPole-v1", replace(CONFIGS[name], learning_starts=16))


def test_a_saved_agent_comes_back(tmp_path: Path) -> None:
    agent, _ = train("CartPole-v1", CONFIGS["rainbow"], 10)
    agent.save(tmp_path)
    loaded: Any = rlkit.load(tmp_path)
    obs = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    assert loaded.q_values(obs).shape == (50, 2)
    np.testing.assert_array_equal(loaded.q_values(obs), agent.q_values(obs))
    np.testing.assert_array_equal(loaded.predict(obs)[0], agent.predict(obs)[0])
    for name, array in parameters(agent).items():
        np.testing.assert_array_equal(parameters(loaded)[name], array)


@pytest.mark.parametrize(
    ("fields", "words"), [({"noisy": True}, "is noisy"), ({"distributional": True}, "values are distributions")]
)
def test_numpy_says_why_it_cannot(fields: dict[str, Any], words: str) -> None:
    config = updated(QUICK, fields)
    with pytest.raises(RlkitError, match=f"compute=native cannot be used because the network.*{words}; compute=auto"):
        DQN(config, Setting(*SPACES, compute="native"))
    assert DQN(config, Setting(*SPACES)).compute == "torch"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"atoms": {"v_min": 10.0}},
            "agent.atoms.v_min=10.0 must be less than agent.atoms.v_max=10.0: they are the least and the greatest",
        ),
        ({"atoms": {"v_min": 5.0, "v_max": -5.0}}, "agent.atoms.v_min=5.0 must be less than agent.atoms.v_max=-5.0"),
        ({"atoms": {"v_max": float("inf")}}, "agent.atoms.v_max=inf"),
        ({"atoms": {"v_min": float("nan")}}, "agent.atoms.v_min=nan"),
        ({"atoms": {"count": 1}}, "agent.atoms.count=1 is out of range: it must be at least 2"),
        ({"noisy_std": 0.0}, "agent.noisy_std=0.0 is out of range: it must be greater than 0"),
        ({"epsilon": {"start": 1.5}}, "agent.epsilon.start=1.5 is out of range"),
    ],
)
def test_hyperparameters_that_cannot_work_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RlkitError, match=words):
        updated(CONFIGS["rainbow"], fields).validate(8)


def test_tuned_values_of_dqn_and_rainbows_fields_go_together(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"agent.learning_starts": 100}
    result = rlkit.train(
        agent="rainbow", env="CartPole-v1", total_timesteps=512, final_eval_episodes=1, run_dir=tmp_path, **fields
    )
    agent: Any = result.agent
    config = agent.config
    assert updated(config, VARIANTS["rainbow"].fields) == config
    assert (config.num_steps, config.atoms.v_min, config.atoms.v_max) == (16, 0, 100)  # the tuned file's
    assert (agent.compute, agent.epsilon) == ("torch", 0)
    assert isinstance(agent.make_buffer(1), PrioritizedReplayBuffer)
    assert len(noisy_layers(agent.network)) == 3
    assert agent.network.dueling == "mean"
    obs = np.zeros((3, 4), np.float32)
    assert agent.q_values(obs).shape == (3, 2)


def test_an_engine_for_plain_networks_takes_no_noise() -> None:
    network, _ = make_q_network(Setting(*SPACES), 3, np.random.SeedSequence(0))
    for compute in ("torch", "native"):
        engine, _ = make_q_engine(network, compute, QLoss(dqn_loss, dqn_gradient))
        rng = np.random.default_rng(0)
        np.testing.assert_array_equal(engine.q_values((OBS,), noise=rng), engine.q_values((OBS,)).copy())
        assert rng.random() == np.random.default_rng(0).random()  # nothing was drawn
