"""TRPO: its limit, its step's known answer, probe environments, determinism, state, and learning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector import SyncVectorEnv as GymSyncVectorEnv
from training import COMPUTES, assert_goes_on_from_its_state, assert_same_parameters, parameters, train

import rlkit
from rlkit.advantages import policy_batch
from rlkit.agents.trpo import TRPO, TRPOConfig
from rlkit.buffers.batch import PolicyBatch
from rlkit.collector import Collector
from rlkit.envs import EnvFactory, make_vector_env
from rlkit.errors import RlkitError
from rlkit.setting import NetworkConfig, Setting

QUICK = TRPOConfig(num_steps=32, minibatch_size=64, gamma=0.9, learning_rate=3e-3, target_kl=0.02)
OBS, DISCRETE = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)


def rollout(agent: TRPO, env: str) -> tuple[Any, PolicyBatch, Any]:
    envs, _ = make_vector_env(EnvFactory(env), 8, "sync")
    buffer = agent.make_buffer(8)
    Collector(envs, list(range(8))).collect(agent, buffer, agent.steps_per_update)
    envs.close()
    return (buffer, *policy_batch(buffer, agent.policy, 0.9, 0.95, old_params=True))


@pytest.mark.parametrize("compute", COMPUTES)
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_every_update_keeps_the_limit_and_most_come_close_to_it(env: str, compute: str) -> None:
    divergences: list[float] = []

    def watched(agent: Any) -> None:
        improve = agent._improve_policy

        def measured(batch: PolicyBatch, rows: Any) -> dict[str, float]:
            metrics: dict[str, float] = improve(batch, rows)
            after = agent.engine.evaluate(batch.features)[0]
            kl = agent.policy.array_head.evaluate(after, batch.action, batch.old_params).kl[rows].mean()
            assert kl == pytest.approx(metrics["train/approx_kl"], abs=1e-4)
            divergences.append(float(kl))
            return metrics

        agent._improve_policy = measured

    train(env, QUICK, 8, compute=compute, prepare=watched)
    assert max(divergences) <= 0.02 * 1.001
    assert np.median(divergences) > 0.005


def test_the_step_is_the_natural_gradients_on_a_bandit() -> None:
    """One logit counts for a two-armed bandit, so the direction is known and its length is δ's alone."""
    config = replace(QUICK, normalize_advantages=False, cg_damping=0.0, target_kl=1e-4)
    agent = TRPO(config, Setting(OBS, DISCRETE, network=NetworkConfig(hidden_sizes=[])))
    zeros = np.zeros(4, np.float32)
    old = agent.engine.policy((zeros[:, None],)).copy()
    actions = np.array([0, 1, 0, 1])
    batch = PolicyBatch(
        features=(zeros[:, None],),
        action=actions,
        log_prob=np.log([0.5] * 4).astype(np.float32),
        advantages=np.where(actions == 1, 1, -1).astype(np.float32),
        returns=zeros,
        values=zeros,
        old_params=old,
    )
    metrics = agent._improve_policy(batch, np.arange(4))
    p = agent.action_probabilities(np.zeros((1, 1), np.float32))[0, 1]
    assert metrics["train/line_search_steps"] <= 1
    shrink = config.line_search_shrink ** metrics["train/line_search_steps"]
    # KL = ½ Δ² p (1 - p) of the log-odds Δ, with p = ½.
    assert np.log(p / (1 - p)) == pytest.approx(shrink * np.sqrt(8 * 1e-4), rel=0.01)


def test_an_update_that_gains_nothing_leaves_the_policy_alone() -> None:
    agent = TRPO(replace(QUICK, normalize_advantages=False), Setting(OBS, DISCRETE, num_envs=8))
    _, batch, rows = rollout(agent, "rlkit/ProbeActionObs-v0")
    before = parameters(agent)
    metrics = agent._improve_policy(batch._replace(advantages=np.zeros_like(batch.advantages)), rows)
    assert metrics["train/line_search_steps"] == QUICK.line_search_steps
    assert metrics["train/approx_kl"] == 0
    for name, array in parameters(agent).items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


@pytest.mark.parametrize("compute", COMPUTES)
def test_the_critic_leaves_the_policy_alone(compute: str) -> None:
    agent = TRPO(QUICK, Setting(OBS, DISCRETE, num_envs=8, compute=compute))
    _, batch, rows = rollout(agent, "rlkit/ProbeActionObs-v0")
    before = parameters(agent)
    agent._fit_critic(batch, rows, 1e-2)
    for name, array in parameters(agent).items():
        assert (array == before[name]).all() == (".critic." not in name), name


def test_the_critic_leaves_the_shared_cnn_alone() -> None:
    space = spaces.Box(0, 255, (12, 12, 3), np.uint8)
    agent = TRPO(QUICK, Setting(space, DISCRETE, num_envs=8))
    rng = np.random.default_rng(0)
    obs = rng.integers(0, 255, (64, 12, 12, 3), dtype=np.uint8)
    zeros = np.zeros(64, np.float32)
    batch = PolicyBatch(agent.network.features((obs,)), zeros.astype(np.int64), zeros, zeros, zeros + 5, zeros)
    before = parameters(agent)
    agent._fit_critic(batch, np.arange(64), 1e-2)
    changed = {name for name, array in parameters(agent).items() if (array != before[name]).any()}
    assert changed
    assert all(".critic." in name for name in changed)


@pytest.mark.parametrize("compute", COMPUTES)
@pytest.mark.parametrize(
    ("probe", "observations", "values"),
    [("ProbeObsValue", [-1, 1], [-1, 1]), ("ProbeTwoStepCredit", [0, 1], [0.9, 1])],
)
def test_probes_of_the_value(compute: str, probe: str, observations: list[int], values: list[float]) -> None:
    agent, _ = train(f"rlkit/{probe}-v0", QUICK, 20, compute=compute)
    np.testing.assert_allclose(agent.value(np.array(observations, np.float32)[:, None]), values, atol=0.05)


def test_truncation_is_not_an_end() -> None:
    envs = GymSyncVectorEnv([EnvFactory("rlkit/ProbeTruncation-v0")] * 4, autoreset_mode=AutoresetMode.SAME_STEP)
    agent, _ = train(envs, replace(QUICK, gae_lambda=0.0, num_steps=40, learning_rate=0.02), 100, num_envs=4)
    assert agent.value(np.zeros((1, 1), np.float32))[0] == pytest.approx(10.0, abs=0.3)


@pytest.mark.parametrize("compute", COMPUTES)
def test_the_policy_reads_the_observation(compute: str) -> None:
    agent, _ = train("rlkit/ProbeActionObs-v0", QUICK, 30, compute=compute)
    probabilities = agent.action_probabilities(np.array([[-1.0], [1.0]], np.float32))
    assert probabilities[0, 0] > 0.9
    assert probabilities[1, 1] > 0.9


@pytest.mark.parametrize("network", [NetworkConfig(), NetworkConfig(state_dependent_std=True)])
def test_continuous_actions_reach_the_environment(network: NetworkConfig) -> None:
    agent, _ = train("rlkit/ProbeBoxAction-v0", replace(QUICK, target_kl=0.05), 60, network=network)
    for number, right in ((-1, (0.5, 1.5)), (1, (1.5, 0.5))):
        np.testing.assert_allclose(agent.predict(np.array([number], np.float32))[0], np.array(right), atol=0.2)


@pytest.mark.parametrize("probe", ["MultiDiscreteAction", "MultiBinaryAction", "MaskedAction", "TupleObs"])
def test_other_spaces_and_masks(probe: str) -> None:
    _, episodes = train(f"rlkit/Probe{probe}-v0", QUICK, 30)
    last = np.mean([e.episode_return for e in episodes[-100:]])
    first = np.mean([e.episode_return for e in episodes[:100]])
    assert last > first + 0.3


@pytest.mark.parametrize("compute", COMPUTES)
def test_one_seed_gives_identical_parameters(compute: str) -> None:
    config, network = replace(QUICK, normalize_rewards=True), NetworkConfig(normalize_obs=True)
    first, second, other = (
        train("CartPole-v1", config, 3, network=network, compute=compute, seed=seed)[0] for seed in (0, 0, 1)
    )
    assert_same_parameters(first, second)
    assert any((array != parameters(other)[name]).any() for name, array in parameters(first).items())


def test_a_state_dict_brings_training_back_to_where_it_was() -> None:
    config = replace(QUICK, normalize_rewards=True)
    assert_goes_on_from_its_state("Pendulum-v1", config, network=NetworkConfig(normalize_obs=True))


def test_a_run_is_saved_and_loaded(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"total_timesteps": 800, "num_envs": 4, "eval_episodes": 1, "final_eval_episodes": 1}
    settings |= {"agent.num_steps": 64, "agent.minibatch_size": 64}
    result = rlkit.train("trpo", "CartPole-v1", run_dir=tmp_path / "run", vectorization="sync", **settings)
    loaded = rlkit.load(result.run_dir / "checkpoints" / "last")
    assert isinstance(loaded, TRPO)
    assert_same_parameters(loaded, result.agent)
    obs = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    np.testing.assert_array_equal(loaded.predict(obs)[0], result.agent.predict(obs)[0])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"target_kl": 0.0}, "agent.target_kl=0.0 is out of range: it must be greater than 0"),
        ({"line_search_shrink": 1.5}, "agent.line_search_shrink=1.5 is out of range"),
    ],
)
def test_hyperparameters_that_cannot_work_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RlkitError, match=words):
        replace(QUICK, **fields).validate(8)


def test_it_learns_cartpole() -> None:
    config = TRPOConfig(num_steps=64, minibatch_size=128, gae_lambda=0.98)
    _, episodes = train("CartPole-v1", config, 50, seed=1)
    assert np.mean([e.episode_return for e in episodes[-20:]]) > 120
