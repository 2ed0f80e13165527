"""A2C: its loss, its equality with PPO, probe environments, spaces, determinism, state, and learning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector import SyncVectorEnv as GymSyncVectorEnv
from training import COMPUTES, assert_goes_on_from_its_state, assert_same_parameters, needs_native, parameters, train

import rlkit
from rlkit.agents.a2c import A2C, A2CCoefficients, A2CConfig, a2c_loss
from rlkit.agents.ppo import PPOConfig
from rlkit.buffers.batch import PolicyBatch
from rlkit.envs import EnvFactory
from rlkit.errors import RlkitError
from rlkit.networks.heads import make_head
from rlkit.setting import NetworkConfig
from rlkit.system.ranks import ALONE

QUICK = A2CConfig(num_steps=8, learning_rate=3e-3, gamma=0.9, ent_coef=0.01, learning_rate_schedule="constant")


def test_the_loss_is_the_sum_of_its_parts() -> None:
    """By hand: two actions, log-odds 0 and ln 3, advantages 2 and -1, values off by 1 and -2."""
    head = make_head(spaces.Discrete(2), NetworkConfig())
    params = torch.tensor([[0.0, 0.0], [np.log(3.0), 0.0]])
    batch = PolicyBatch(
        features=(),
        action=torch.tensor([1, 0]),
        log_prob=None,
        advantages=torch.tensor([2.0, -1.0]),
        returns=torch.tensor([1.0, 2.0]),
        values=None,
    )
    loss, parts = a2c_loss(head, params, torch.tensor([2.0, 0.0]), batch, A2CCoefficients(0.1, 0.5, False, ALONE))
    policy_loss = -(2 * np.log(0.5) - np.log(0.75)) / 2
    entropy = (np.log(2) - 0.75 * np.log(0.75) - 0.25 * np.log(0.25)) / 2
    assert parts["policy_loss"].item() == pytest.approx(policy_loss)
    assert parts["value_loss"].item() == pytest.approx((1 + 4) / 2)
    assert parts["entropy"].item() == pytest.approx(entropy)
    assert loss.item() == pytest.approx(policy_loss - 0.1 * entropy + 0.5 * 2.5)


def without_rounding(agent: Any) -> None:
    """Makes PPO's ratio one, and its only minibatch as ordered as A2C's rollout.

    Otherwise sums over differently many or differently ordered rows round differently.
    """
    load, network = agent.engine.load, agent.network
    agent.rng = SimpleNamespace(permutation=lambda rows: rows)

    def load_exactly(batch: PolicyBatch) -> None:
        if agent.compute != "torch":
            log_prob = agent.policy.array_head.evaluate(agent.engine.policy(batch.features), batch.action).log_prob
        else:
            with torch.no_grad():
                params, _ = network(tuple(torch.from_numpy(part) for part in batch.features))
                log_prob = network.head.log_prob(params, torch.from_numpy(batch.action)).numpy()
        np.testing.assert_allclose(log_prob, batch.log_prob, atol=1e-5)
        load(batch._replace(log_prob=log_prob))

    agent.engine.load = load_exactly


@pytest.mark.parametrize("compute", COMPUTES)
@pytest.mark.parametrize(("env", "gae_lambda"), [("CartPole-v1", 1.0), ("Pendulum-v1", 0.9)])
def test_it_is_ppo_with_one_epoch_of_one_minibatch(env: str, gae_lambda: float, compute: str) -> None:
    """Huang et al. 2022 (arXiv 2205.09123): the same parameters, by torch with a difference of 0.

    In C the ratio is one up to rounding only, because what was collected has NumPy's logarithms.
    """
    shared: dict[str, Any] = {"num_steps": 8, "learning_rate": 3e-3, "gae_lambda": gae_lambda, "ent_coef": 0.01}
    a2c = A2CConfig(**shared, optimizer="adam", optimizer_eps=1e-5, normalize_rewards=True)
    ppo = PPOConfig(
        **shared, num_epochs=1, minibatch_size=64, normalize_advantages=False, normalize_rewards=True, adam_eps=1e-5
    )
    network = NetworkConfig(normalize_obs=True)
    first, _ = train(env, a2c, 20, network=network, compute=compute)
    second, _ = train(env, ppo, 20, network=network, compute=compute, prepare=without_rounding)
    if compute == "torch":
        assert_same_parameters(first, second)
    for name, array in parameters(first).items():
        np.testing.assert_allclose(parameters(second)[name], array, atol=2e-5, err_msg=name)
    one_update, rounded = (train(env, config, 1, network=network, compute=compute)[0] for config in (a2c, ppo))
    for name, array in parameters(one_update).items():
        np.testing.assert_allclose(parameters(rounded)[name], array, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("compute", COMPUTES)
@pytest.mark.parametrize(
    ("probe", "observations", "values"),
    [
        ("ProbeConstantReward", [0], [1]),
        ("ProbeObsValue", [-1, 1], [-1, 1]),
        ("ProbeTwoStepCredit", [0, 1], [0.9, 1]),
    ],
)
def test_probes_of_the_value(compute: str, probe: str, observations: list[int], values: list[float]) -> None:
    agent, _ = train(f"rlkit/{probe}-v0", QUICK, 300, compute=compute)
    np.testing.assert_allclose(agent.value(np.array(observations, np.float32)[:, None]), values, atol=0.05)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_truncation_is_not_an_end_in_any_autoreset_mode(mode: AutoresetMode) -> None:
    envs = GymSyncVectorEnv([EnvFactory("rlkit/ProbeTruncation-v0")] * 4, autoreset_mode=mode)
    agent, _ = train(envs, replace(QUICK, num_steps=5), 600, num_envs=4)
    assert agent.value(np.zeros((1, 1), np.float32))[0] == pytest.approx(10.0, abs=0.3)


@pytest.mark.parametrize("compute", COMPUTES)
@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_probes_of_the_policy(compute: str, optimizer: str) -> None:
    config = replace(QUICK, optimizer=optimizer)
    matters, _ = train("rlkit/ProbeActionMatters-v0", config, 120, compute=compute)
    assert matters.action_probabilities(np.zeros((1, 1), np.float32))[0, 1] > 0.9
    reads, _ = train("rlkit/ProbeActionObs-v0", config, 200, compute=compute)
    probabilities = reads.action_probabilities(np.array([[-1.0], [1.0]], np.float32))
    assert probabilities[0, 0] > 0.9
    assert probabilities[1, 1] > 0.9


@pytest.mark.parametrize("compute", COMPUTES)
def test_continuous_actions_reach_the_environment(compute: str) -> None:
    agent, _ = train("rlkit/ProbeBoxAction-v0", replace(QUICK, num_steps=16, learning_rate=5e-3), 250, compute=compute)
    for number, right in ((-1, (0.5, 1.5)), (1, (1.5, 0.5))):
        np.testing.assert_allclose(agent.predict(np.array([number], np.float32))[0], np.array(right), atol=0.2)


@pytest.mark.parametrize("compute", COMPUTES)
def test_forbidden_actions_are_never_taken(compute: str) -> None:
    agent, episodes = train("rlkit/ProbeMaskedAction-v0", QUICK, 200, compute=compute)  # raises at a forbidden one
    assert np.mean([e.episode_return for e in episodes[-100:]]) > 1.4
    mask = np.array([[True, True, False]])
    assert agent.action_probabilities(np.ones((1, 1), np.float32), mask)[0, 2] == 0


def test_images_and_nested_observations_reach_the_policy() -> None:
    for probe in ("ProbeDictObs", "ProbeImageObs"):
        config = replace(QUICK, learning_rate=1e-3, num_steps=16)
        _, episodes = train(f"rlkit/{probe}-v0", config, 40 if probe == "ProbeImageObs" else 200)
        assert np.mean([e.episode_return for e in episodes[-100:]]) > 0.8


@pytest.mark.parametrize("compute", COMPUTES)
def test_one_seed_gives_identical_parameters(compute: str) -> None:
    config, network = replace(QUICK, normalize_rewards=True), NetworkConfig(normalize_obs=True)
    first, second, other = (
        train("CartPole-v1", config, 20, network=network, compute=compute, seed=seed)[0] for seed in (0, 0, 1)
    )
    assert_same_parameters(first, second)
    assert any((array != parameters(other)[name]).any() for name, array in parameters(first).items())


@needs_native
@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_both_engines_train_alike(optimizer: str) -> None:
    config, network = replace(QUICK, optimizer=optimizer), NetworkConfig(normalize_obs=True)
    plain, fast = (train("Pendulum-v1", config, 5, network=network, compute=compute)[0] for compute in COMPUTES)
    for name, array in parameters(plain).items():
        np.testing.assert_allclose(parameters(fast)[name], array, atol=1e-4, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_a_state_dict_brings_training_back_to_where_it_was(optimizer: str) -> None:
    config = replace(QUICK, optimizer=optimizer, normalize_rewards=True)
    assert_goes_on_from_its_state("Pendulum-v1", config, network=NetworkConfig(normalize_obs=True))


def test_a_run_is_saved_and_loaded(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"total_timesteps": 800, "num_envs": 4, "eval_episodes": 1, "final_eval_episodes": 1}
    result = rlkit.train("a2c", "CartPole-v1", run_dir=tmp_path / "run", vectorization="sync", **settings)
    loaded = rlkit.load(result.run_dir / "checkpoints" / "last")
    assert isinstance(loaded, A2C)
    assert_same_parameters(loaded, result.agent)
    obs = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    np.testing.assert_array_equal(loaded.predict(obs)[0], result.agent.predict(obs)[0])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"optimizer": "rmsdrop"}, r"unknown agent.optimizer 'rmsdrop'; did you mean 'rmsprop'\?"),
        ({"num_steps": 0}, "agent.num_steps=0 is out of range: it must be at least 1"),
        ({"gae_lambda": 2.0}, "agent.gae_lambda=2.0 is out of range: it must be at least 0 and at most 1"),
    ],
)
def test_hyperparameters_that_cannot_work_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RlkitError, match=words):
        replace(QUICK, **fields).validate(8)


def test_it_learns_cartpole() -> None:
    config = A2CConfig(learning_rate_schedule="constant")
    _, episodes = train("CartPole-v1", config, 3000, seed=1)
    assert np.mean([e.episode_return for e in episodes[-20:]]) > 120
