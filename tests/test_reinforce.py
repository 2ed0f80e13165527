"""REINFORCE: the policy gradient's known answers, the baselines', probe environments, state, and learning."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector import SyncVectorEnv as GymSyncVectorEnv
from small_envs import Counting
from training import COMPUTES, assert_goes_on_from_its_state, assert_same_parameters, needs_native, parameters, train

import rlkit
from rlkit.agents.reinforce import (
    BASELINES,
    REINFORCE,
    REINFORCECoefficients,
    REINFORCEConfig,
    reinforce_loss,
)
from rlkit.buffers.episodes import Episodes
from rlkit.collector import Collector
from rlkit.engine.native.policy_gradient import reinforce_gradient
from rlkit.envs import EnvFactory, make_vector_env
from rlkit.errors import RlkitError
from rlkit.maths.returns import episode_baseline
from rlkit.setting import NetworkConfig, Setting
from rlkit.spaces import Array
from rlkit.system.ranks import ALONE

QUICK = REINFORCEConfig(num_steps=8, episodes_per_update=16, gamma=0.9, learning_rate_schedule="constant")
OBS, DISCRETE = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)
THETA = np.log(3.0)
"""The log-odds of arm 1, which is taken with probability 3/4."""
REWARDS = np.array([[10.0, 12.0], [7.0, 4.0]])
"""By step and action, of a problem of two steps; the first alone makes the bandit."""


def played(actions: Array) -> Episodes:
    """Episodes of these actions, (episodes, steps), and the rewards they earn."""
    count, length = actions.shape
    rewards = REWARDS[np.arange(length), actions].astype(np.float32)
    rows = np.zeros((count * length, 1), np.float32)
    ends = np.ones(count, np.bool_)
    return Episodes((rows,), actions.ravel(), rewards.ravel(), None, np.full(count, length), ends, (rows[:count],))


def estimate(agent: REINFORCE, actions: Array) -> float:
    """The gradient of the expected return by the log-odds of arm 1, as the agent estimates it from episodes."""
    batch = agent._batch(played(actions)).map(torch.as_tensor)
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    params = torch.stack([torch.zeros(()), theta]).expand(len(batch.returns), 2)
    coefficients = REINFORCECoefficients(len(actions), 0.0, 0.0, False, ALONE)
    loss, _ = reinforce_loss(agent.network.head, params, batch.values, batch, coefficients)
    torch.autograd.backward(loss)
    assert theta.grad is not None
    return -theta.grad.item()


def analytic(steps: int) -> float:
    """Of arm 1, the log-odds' gradient: p (1 - p) times what it earns more than arm 0, at each step."""
    return float((0.75 * 0.25 * (REWARDS[:steps, 1] - REWARDS[:steps, 0])).sum())


def make_agent(**fields: Any) -> REINFORCE:
    return REINFORCE(REINFORCEConfig(**{"gamma": 1.0, **fields}), Setting(OBS, DISCRETE))


def test_the_gradient_is_the_analytic_one_on_a_two_armed_bandit() -> None:
    """Arm 1 in three of four episodes, as often as the policy takes it: the estimate has no error left."""
    assert estimate(make_agent(), np.array([[1], [0], [1], [1]])) == pytest.approx(analytic(1), rel=1e-6)


@needs_native
def test_the_analytic_engine_knows_the_bandits_gradient() -> None:
    agent = make_agent()
    batch = agent._batch(played(np.array([[1], [0], [1], [1]])))
    params = np.tile([0.0, THETA], (4, 1))
    coefficients = REINFORCECoefficients(4, 0.0, 0.0, False, ALONE)
    d_params, _, _ = reinforce_gradient(agent.policy.array_head, params, batch.values, batch, coefficients)
    np.testing.assert_allclose(d_params.sum(0), [analytic(1), -analytic(1)], rtol=1e-5)  # in float32


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("reward_to_go", [True, False])
def test_baselines_leave_the_expected_gradient_and_lower_its_variance(reward_to_go: bool, steps: int) -> None:
    """Exactly, over all outcomes of an update of three episodes."""
    outcomes = [np.array(outcome).reshape(3, steps) for outcome in product((0, 1), repeat=3 * steps)]
    chances = [np.where(actions == 1, 0.75, 0.25).prod() for actions in outcomes]
    variances = {}
    for baseline in BASELINES:
        agent = make_agent(baseline=baseline, reward_to_go=reward_to_go)
        critic: Any = agent.network.critic
        with torch.no_grad():  # a critic that has learned something, though not everything
            critic[-1].bias.fill_(10.0)
        estimates = np.array([estimate(agent, actions) for actions in outcomes])
        mean = chances @ estimates
        assert mean == pytest.approx(analytic(steps), rel=1e-4), baseline
        variances[baseline] = chances @ (estimates - mean) ** 2
    assert all(variances[baseline] < variances["none"] for baseline in BASELINES[1:])
    if steps == 2 and reward_to_go:
        assert variances["time_step"] < variances["mean"]


def test_rewards_to_go_lower_the_variance_too() -> None:
    outcomes = [np.array(outcome).reshape(1, 2) for outcome in product((0, 1), repeat=2)]
    chances = np.array([np.where(actions == 1, 0.75, 0.25).prod() for actions in outcomes])
    whole, to_go = (
        np.array([estimate(make_agent(reward_to_go=later), actions) for actions in outcomes]) for later in (False, True)
    )
    assert chances @ whole == pytest.approx(chances @ to_go)
    assert chances @ to_go**2 < chances @ whole**2


def test_the_known_baselines_of_three_episodes() -> None:
    to_go = np.array([[6.0, 3.0, 9.0], [5.0, 0.0, 4.0], [0.0, 0.0, 1.0]])
    np.testing.assert_array_equal(episode_baseline("time_step", to_go), [[6, 7.5, 4.5], [2, 4.5, 2.5], [0.5, 0.5, 0]])
    np.testing.assert_array_equal(episode_baseline("mean", to_go), np.tile([6, 7.5, 4.5], (3, 1)))


@pytest.mark.parametrize(
    ("fields", "weights"),
    [
        ({}, [1.75, 1.5, 1.0, 1.0]),
        ({"reward_to_go": False}, [1.75, 1.75, 1.75, 1.0]),
        ({"baseline": "mean"}, [0.75, 0.5, 0.0, 1.0 - 1.75]),
        ({"baseline": "time_step"}, [0.75, 1.5, 1.0, 1.0 - 1.75]),
        ({"baseline": "time_step", "reward_to_go": False}, [0.75, 1.75, 1.75, 1.0 - 1.75]),
    ],
)
def test_what_weighs_the_steps_of_a_long_and_a_short_episode(fields: dict[str, Any], weights: list[float]) -> None:
    """Three steps and one, a reward of 1 each, γ = 0.5."""
    rows, ends = np.zeros((4, 1), np.float32), np.ones(2, np.bool_)
    ones = np.ones(4, np.float32)
    episodes = Episodes((rows,), np.zeros(4, np.int64), ones, None, np.array([3, 1]), ends, (rows[:2],))
    np.testing.assert_allclose(make_agent(gamma=0.5, **fields)._batch(episodes).advantages, weights)


@pytest.mark.parametrize("terminate", [True, False])
def test_only_truncated_episodes_are_continued_by_the_value_of_their_final_observation(terminate: bool) -> None:
    """Observations count up to 4, where the episode ends; V(s) = 10 s, by hand."""
    envs = GymSyncVectorEnv([lambda: Counting(4, terminate)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    config = REINFORCEConfig(baseline="value", gamma=0.5)
    agent = REINFORCE(config, Setting(envs.single_observation_space, DISCRETE, num_envs=2))
    critic: Any = agent.network.critic
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.zero_()
        critic[0].weight[0, 0] = 1e-3
        critic[2].weight[0, 0] = 1.0
        critic[4].weight[0, 0] = 1e4
    buffer = agent.make_buffer(2)
    Collector(envs, [0, 1]).collect(agent, buffer, 4)
    last = 0.0 if terminate else 40.0
    expected = [1 + 0.5 * (2 + 0.5 * (3 + 0.5 * (4 + 0.5 * last)))]
    for reward in (1, 2, 3):
        expected.append((expected[-1] - reward) / 0.5)
    batch = agent._batch(buffer.take())
    np.testing.assert_allclose(batch.returns, expected * 2, rtol=1e-3)
    np.testing.assert_allclose(batch.advantages, np.array(expected * 2) - [0, 10, 20, 30] * 2, rtol=1e-2)


def test_the_value_of_a_time_limit() -> None:
    config = replace(QUICK, baseline="value", num_steps=10, episodes_per_update=4, learning_rate=0.01)
    agent, _ = train("rlkit/ProbeTruncation-v0", config, 800, num_envs=4)
    assert agent.value(np.zeros((1, 1), np.float32))[0] == pytest.approx(10.0, abs=0.3)


@pytest.mark.parametrize("compute", COMPUTES)
@pytest.mark.parametrize(
    ("probe", "observations", "values"),
    [("ProbeObsValue", [-1, 1], [-1, 1]), ("ProbeTwoStepCredit", [0, 1], [0.9, 1])],
)
def test_probes_of_the_value(compute: str, probe: str, observations: list[int], values: list[float]) -> None:
    agent, _ = train(f"rlkit/{probe}-v0", replace(QUICK, baseline="value"), 200, compute=compute)
    np.testing.assert_allclose(agent.value(np.array(observations, np.float32)[:, None]), values, atol=0.05)


@pytest.mark.parametrize("compute", COMPUTES)
@pytest.mark.parametrize("baseline", BASELINES)
def test_the_policy_reads_the_observation(baseline: str, compute: str) -> None:
    config = replace(QUICK, baseline=baseline, ent_coef=0.01)
    agent, _ = train("rlkit/ProbeActionObs-v0", config, 120, compute=compute)
    probabilities = agent.action_probabilities(np.array([[-1.0], [1.0]], np.float32))
    assert probabilities[0, 0] > 0.9
    assert probabilities[1, 1] > 0.9


@pytest.mark.parametrize("compute", COMPUTES)
def test_continuous_actions_reach_the_environment(compute: str) -> None:
    config = replace(QUICK, baseline="time_step", learning_rate=0.01)
    agent, _ = train("rlkit/ProbeBoxAction-v0", config, 250, compute=compute)
    for number, right in ((-1, (0.5, 1.5)), (1, (1.5, 0.5))):
        np.testing.assert_allclose(agent.predict(np.array([number], np.float32))[0], np.array(right), atol=0.2)


@pytest.mark.parametrize("probe", ["MultiDiscreteAction", "MultiBinaryAction", "MaskedAction", "TupleObs"])
def test_other_spaces_and_masks(probe: str) -> None:
    _, episodes = train(f"rlkit/Probe{probe}-v0", replace(QUICK, baseline="value", learning_rate=0.01), 250)
    last = np.mean([e.episode_return for e in episodes[-100:]])
    first = np.mean([e.episode_return for e in episodes[:100]])
    assert last > first + 0.4


def test_it_waits_for_enough_episodes() -> None:
    agent, _ = train("CartPole-v1", replace(QUICK, episodes_per_update=1000), 0)
    envs, _ = make_vector_env(EnvFactory("CartPole-v1"), 4, "sync")
    collector, buffer = Collector(envs, [0, 1, 2, 3]), agent.make_buffer(4)
    before = parameters(agent)
    collector.collect(agent, buffer, 100)
    assert agent.update(buffer, 0.0) == {}
    assert 0 < len(buffer) < 1000
    for name, array in parameters(agent).items():
        np.testing.assert_array_equal(array, before[name])
    agent.config = replace(agent.config, episodes_per_update=len(buffer))
    metrics = agent.update(buffer, 0.0)
    assert "train/policy_loss" in metrics
    assert "train/value_loss" not in metrics
    assert len(buffer) == 0


@pytest.mark.parametrize(("size", "minibatches"), [(None, [5]), (2, [1, 2, 2]), (1, [1] * 5), (9, [5])])
def test_an_update_goes_through_its_time_steps_once_from_the_last_to_the_first(
    size: int | None, minibatches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    envs = GymSyncVectorEnv([lambda: Counting(5)], autoreset_mode=AutoresetMode.SAME_STEP)
    config = REINFORCEConfig(minibatch_size=size, episodes_per_update=1, learning_rate_schedule="constant")
    agent = REINFORCE(config, Setting(envs.single_observation_space, DISCRETE))
    buffer, rows, step = agent.make_buffer(1), [], agent.engine.step
    Collector(envs, [0]).collect(agent, buffer, 5)

    def recording(chosen: Array, *rest: Any) -> Any:
        rows.append(chosen.tolist())
        return step(chosen, *rest)

    monkeypatch.setattr(agent.engine, "step", recording)
    agent.update(buffer, 0.0)
    assert [len(chosen) for chosen in rows] == minibatches
    assert [row for chosen in reversed(rows) for row in chosen] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("compute", COMPUTES)
def test_one_seed_gives_identical_parameters(compute: str) -> None:
    config, network = replace(QUICK, baseline="value"), NetworkConfig(normalize_obs=True)
    first, second, other = (
        train("CartPole-v1", config, 30, network=network, compute=compute, seed=seed)[0] for seed in (0, 0, 1)
    )
    assert_same_parameters(first, second)
    assert any((array != parameters(other)[name]).any() for name, array in parameters(first).items())


@needs_native
@pytest.mark.parametrize(
    "fields", [{"baseline": "value"}, {"normalize_advantages": True, "max_grad_norm": 0.5}, {"minibatch_size": 50}]
)
def test_both_engines_train_alike(fields: dict[str, Any]) -> None:
    config = replace(QUICK, ent_coef=0.1, **fields)
    plain, fast = (train("CartPole-v1", config, 20, compute=compute)[0] for compute in COMPUTES)
    for name, array in parameters(plain).items():
        np.testing.assert_allclose(parameters(fast)[name], array, atol=1e-3, rtol=1e-3, err_msg=name)


def test_a_state_dict_brings_training_back_to_where_it_was() -> None:
    config = replace(QUICK, baseline="value", num_steps=64, episodes_per_update=2)
    assert_goes_on_from_its_state("CartPole-v1", config, network=NetworkConfig(normalize_obs=True))


def test_a_run_is_saved_and_loaded(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"total_timesteps": 2000, "num_envs": 4, "eval_episodes": 1, "final_eval_episodes": 1}
    result = rlkit.train(
        "reinforce_baseline", "CartPole-v1", run_dir=tmp_path / "run", vectorization="sync", **settings
    )
    loaded = rlkit.load(result.run_dir / "checkpoints" / "last")
    assert isinstance(loaded, REINFORCE)
    assert loaded.config.baseline == "value"
    assert_same_parameters(loaded, result.agent)
    obs = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    np.testing.assert_array_equal(loaded.predict(obs)[0], result.agent.predict(obs)[0])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"baseline": "vale"}, r"unknown agent.baseline 'vale'; did you mean 'value'\?"),
        (
            {"baseline": "mean", "episodes_per_update": 1},
            "agent.baseline=mean compares episodes with each other: agent.episodes_per_update=1 must be at least 2",
        ),
        ({"minibatch_size": 0}, "agent.minibatch_size=0 is out of range"),
        ({"num_steps": 0}, "agent.num_steps=0 is out of range: it must be at least 1"),
    ],
)
def test_hyperparameters_that_cannot_work_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RlkitError, match=words):
        replace(QUICK, **fields).validate(8)


def test_values_that_were_never_learned_are_not_given() -> None:
    with pytest.raises(RlkitError, match=r"agent.baseline=none learns no values: agent.baseline=value does"):
        make_agent().value(np.zeros((1, 1), np.float32))


def test_it_learns_cartpole() -> None:
    _, episodes = train("CartPole-v1", REINFORCEConfig(baseline="value"), 400, seed=1)
    assert np.mean([e.episode_return for e in episodes[-20:]]) > 150
