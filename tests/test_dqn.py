"""DQN: its loss and targets, both engines, dueling, probe environments, determinism, state, and learning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector import SyncVectorEnv as GymSyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from small_envs import Counting, NativeCounting
from training import make_q_engine, needs_native

import rlkit
from rlkit.agents import VARIANTS
from rlkit.agents.dqn import DQN, DQNConfig
from rlkit.buffers.prioritized import PrioritizedReplayBuffer
from rlkit.collector import Collector, Episode
from rlkit.engine.losses import dqn_loss
from rlkit.engine.make import make_q_network
from rlkit.engine.native.q import dqn_gradient
from rlkit.engine.q import QEngine, QLoss, TDBatch
from rlkit.envs import EnvFactory, make_vector_env
from rlkit.errors import RlkitError
from rlkit.field_groups import EpisodicEpsilonConfig, ReplayConfig, TargetConfig
from rlkit.maths.returns import next_values
from rlkit.maths.schedules import annealed
from rlkit.networks.q_network import action_values
from rlkit.registry import make_agent
from rlkit.setting import NetworkConfig, Setting, updated

QUICK = DQNConfig(
    learning_rate=3e-3,
    gamma=0.9,
    num_steps=4,
    gradient_steps=16,
    minibatch_size=64,
    learning_starts=200,
    target=TargetConfig(interval=50),
    epsilon=EpisodicEpsilonConfig(fraction=0.5, end=0.1),
)
FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "double": {"double": True},
    "dueling": {"dueling": True},
    "dueling_sum": {"dueling": True, "dueling_advantage": "sum"},
    "prioritized": {"replay": {"prioritized": True}},
    "soft_target": {"target": {"tau": 0.05, "interval": 1}},
    "all": {"double": True, "dueling": True, "replay": {"prioritized": True}, "n_step": 2},
}
COMPUTES = ("torch", "native")
DISCRETE = spaces.Discrete(2)
VECTOR = spaces.Box(-1, 1, (1,))


def train(
    env: str | Any,
    config: DQNConfig = QUICK,
    updates: int = 60,
    *,
    network: NetworkConfig | None = None,
    compute: str = "auto",
    num_envs: int = 8,
    seed: int = 0,
) -> tuple[DQN, list[Episode]]:
    envs = make_vector_env(EnvFactory(env), num_envs, "sync")[0] if isinstance(env, str) else env
    spaces_ = envs.single_observation_space, envs.single_action_space
    agent = DQN(
        config, Setting(*spaces_, network=network or NetworkConfig(), num_envs=num_envs, seed=seed, compute=compute)
    )
    collector, buffer = Collector(envs, list(range(num_envs))), agent.make_buffer(num_envs)
    episodes = []
    for update in range(updates):
        episodes += collector.collect(agent, buffer, config.num_steps)
        agent.update(buffer, update / updates)
    envs.close()
    return agent, episodes


def numbers(*values: float) -> Any:
    """What the probes that show a number show: a batch."""
    return np.array(values, np.float32)[:, None]


# The loss and its targets


@pytest.mark.parametrize(
    ("loss", "error", "expected", "slope"),
    [
        ("huber", 0.5, 0.125, 0.5),
        ("huber", 3.0, 2.5, 1.0),
        ("huber", -3.0, 2.5, -1.0),
        ("mse", 3.0, 9.0, 6.0),
        ("mse", -0.5, 0.25, -1.0),
    ],
)
def test_the_loss_of_one_transition(loss: str, error: float, expected: float, slope: float) -> None:
    q_values = torch.tensor([[7.0, 2.0]], requires_grad=True)
    batch = TDBatch((), torch.tensor([1]), torch.tensor([2.0 + error]))
    value, td_errors = dqn_loss(q_values, batch, loss)
    assert value.item() == pytest.approx(expected)
    assert td_errors.item() == pytest.approx(error)
    torch.autograd.backward(value)
    assert q_values.grad is not None
    np.testing.assert_allclose(q_values.grad, [[0, -slope]])


def test_weights_multiply_the_loss_of_each_row() -> None:
    batch = TDBatch((), torch.tensor([0, 0]), torch.tensor([1.0, 2.0]), torch.tensor([0.5, 1.0]))
    assert dqn_loss(torch.zeros(2, 3), batch, "mse")[0].item() == pytest.approx((0.5 * 1 + 1.0 * 4) / 2)


@needs_native
@settings(max_examples=50, deadline=None)
@given(
    errors=st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=20),
    actions=st.integers(1, 6),
    loss=st.sampled_from(["huber", "mse"]),
    weighted=st.booleans(),
)
def test_the_analytic_derivatives_are_autograds(errors: list[float], actions: int, loss: str, weighted: bool) -> None:
    rng, rows = np.random.default_rng(len(errors)), len(errors)
    q_values = rng.normal(size=(rows, actions)).astype(np.float32)
    action = rng.integers(actions, size=rows)
    targets = q_values[np.arange(rows), action] + np.array(errors, np.float32)
    weights = rng.random(rows).astype(np.float32) if weighted else None
    tensor = torch.from_numpy(q_values).requires_grad_()
    tensors = TDBatch((), *(None if a is None else torch.from_numpy(a) for a in (action, targets, weights)))
    value, td_errors = dqn_loss(tensor, tensors, loss)
    torch.autograd.backward(value)
    d_q_values, fast_value, fast_errors = dqn_gradient(q_values, TDBatch((), action, targets, weights), loss)
    assert tensor.grad is not None
    np.testing.assert_allclose(d_q_values, tensor.grad, atol=1e-6)
    assert fast_value == pytest.approx(value.item(), rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(fast_errors, td_errors, atol=1e-6)


def test_double_q_learning_removes_the_maximisation_bias() -> None:
    """Ten arms of true value 0, of which each network has an estimate with noise N(0, 1) of its own."""
    rng = np.random.default_rng(0)
    online, target = rng.normal(size=(2, 100_000, 10))
    assert next_values(target, target, None).mean() == pytest.approx(1.5388, abs=0.01)
    assert next_values(online, target, None).mean() == pytest.approx(0, abs=0.01)


def test_next_values_are_of_allowed_actions() -> None:
    q_values = np.array([[1.0, 5.0, 3.0], [1.0, 5.0, 3.0]], np.float32)
    mask = np.array([[True, False, True], [True, True, True]])
    np.testing.assert_array_equal(next_values(q_values, q_values, mask), [3, 5])
    np.testing.assert_array_equal(next_values(-q_values, q_values, mask), [1, 1])


def targets_of(agent: DQN, buffer: Any) -> dict[float, set[float]]:
    """The targets that an update learns from, by observation; nothing is learned."""
    seen: dict[float, set[float]] = {}

    def watching(batch: TDBatch, loss: str, learning_rate: float, noise: Any = None) -> Any:
        for obs, target in zip(batch.features[0][:, 0], batch.targets, strict=True):
            seen.setdefault(float(obs), set()).add(round(float(target), 3))
        return np.zeros(len(batch.targets), np.float32), {"value_loss": 0.0}

    agent.engine.step = watching  # type: ignore[method-assign]
    agent.update(buffer, 0.5)
    return seen


def counting_agent(config: DQNConfig, envs: Any, slope: float) -> tuple[DQN, Any]:
    """An agent whose Q(s, ·) is (slope · s, 0), with 100 steps of an environment that counts its steps."""
    agent = DQN(config, Setting(envs.single_observation_space, DISCRETE, network=NetworkConfig(hidden_sizes=[])))
    body: Any = agent.network.body
    with torch.no_grad():
        body[0].weight[:] = torch.tensor([[slope], [0.0]])
    buffer = agent.make_buffer(envs.num_envs)
    Collector(envs, list(range(envs.num_envs))).collect(agent, buffer, 100)
    return agent, buffer


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("terminate", [False, True])
def test_targets_bootstrap_from_the_final_observation_unless_the_episode_terminated(
    terminate: bool, double: bool
) -> None:
    for mode in AutoresetMode:
        envs = GymSyncVectorEnv([lambda: Counting(terminate=terminate)] * 2, autoreset_mode=mode)
        agent, buffer = counting_agent(replace(QUICK, double=double, learning_starts=10), envs, slope=10.0)
        # r + γ · 10 s' = s' + 9 s', where s' is the count after the step; of the last one 4, or nothing.
        last = 4.0 if terminate else 40.0
        assert targets_of(agent, buffer) == {0: {10.0}, 1: {20.0}, 2: {30.0}, 3: {last}}


def test_targets_of_two_steps() -> None:
    envs = NativeCounting(4)
    agent, buffer = counting_agent(replace(QUICK, n_step=2, learning_starts=10), envs, slope=10.0)
    found = targets_of(agent, buffer)
    for obs in (0, 1, 2):  # r1 + γ r2 + γ² · 10 s''
        whole = (obs + 1) + 0.9 * (obs + 2) + 0.81 * 10 * (obs + 2)
        cut = (obs + 1) + 0.9 * 10 * (obs + 1)
        assert round(whole, 3) in found[obs]
        assert found[obs] <= {round(whole, 3), round(cut, 3)}  # the newest step knows no second reward
    assert found[3] == {40.0}


def test_rewards_can_be_scaled() -> None:
    agent, buffer = counting_agent(replace(QUICK, reward_scale=0.01, learning_starts=10), NativeCounting(2), slope=0.0)
    assert targets_of(agent, buffer) == {0: {0.01}, 1: {0.02}, 2: {0.03}, 3: {0.04}}


# The network


def test_a_dueling_networks_mean_over_actions_is_the_value() -> None:
    outputs = np.random.default_rng(0).normal(size=(20, 5))
    np.testing.assert_allclose(action_values(outputs, "mean").mean(1), outputs[:, 0])
    np.testing.assert_allclose(action_values(outputs, "sum"), outputs[:, :1] + outputs[:, 1:])
    np.testing.assert_array_equal(action_values(outputs, "none"), outputs)
    for dueling in ("mean", "sum"):  # differences between actions are those of the advantages
        np.testing.assert_allclose(np.diff(action_values(outputs, dueling)), np.diff(outputs[:, 1:]))


def both_engines(dueling: str, **config: Any) -> dict[str, tuple[Any, Any]]:
    setting = Setting(spaces.Box(-1, 1, (5,)), DISCRETE, NetworkConfig(**config))
    engines = {}
    for compute in COMPUTES:
        network, _ = make_q_network(setting, 3, np.random.SeedSequence(0), dueling=dueling)
        engine, chosen = make_q_engine(network, compute, QLoss(dqn_loss, dqn_gradient), 1.0)
        assert chosen == compute
        engines[compute] = (network, engine)
    return engines


def some_batch(rows: int, seed: int = 0) -> TDBatch:
    rng = np.random.default_rng(seed)
    return TDBatch(
        (rng.normal(size=(rows, 5)).astype(np.float32),),
        rng.integers(3, size=rows),
        rng.normal(size=rows).astype(np.float32) * 2,
        rng.random(rows).astype(np.float32),
    )


@needs_native
@pytest.mark.parametrize("dueling", ["none", "mean", "sum"])
@pytest.mark.parametrize("loss", ["huber", "mse"])
@pytest.mark.parametrize("config", [{}, {"hidden_sizes": [], "activation": "relu"}, {"activation": "relu"}])
def test_both_engines_take_the_same_steps(dueling: str, loss: str, config: dict[str, Any]) -> None:
    engines = both_engines(dueling, **config)
    for i in range(30):
        batch = some_batch(32, seed=i)
        (plain_errors, plain), (fast_errors, fast) = (engines[c][1].step(batch, loss, 1e-2) for c in COMPUTES)
        np.testing.assert_allclose(fast_errors, plain_errors, atol=1e-4)
        assert plain.keys() == fast.keys()
        for key, value in plain.items():
            assert fast[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key
        for _, engine in engines.values():
            engine.update_target(0.3)
    features = some_batch(2000).features
    (network, plain_engine), (fast_network, fast_engine) = (engines[compute] for compute in COMPUTES)
    np.testing.assert_allclose(fast_engine.q_values(features), plain_engine.q_values(features), atol=1e-3)
    np.testing.assert_allclose(fast_engine.target_outputs(features), plain_engine.target_outputs(features), atol=1e-3)
    for fast_part, part in zip(fast_network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(fast_part, part, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("compute", COMPUTES)
def test_the_target_network_moves_as_far_as_tau_says(compute: str) -> None:
    network, engine = both_engines("mean")[compute]
    features = some_batch(10).features
    start = engine.target_outputs(features).copy()
    np.testing.assert_array_equal(start, engine.q_values(features))
    before = torch.cat([p.detach().reshape(-1) for p in network.parameters()])
    for i in range(5):
        engine.step(some_batch(10, i), "huber", 0.1)
    after = torch.cat([p.detach().reshape(-1) for p in network.parameters()])
    np.testing.assert_array_equal(engine.target_outputs(features), start)
    engine.update_target(0.25)
    np.testing.assert_allclose(engine.state_dict()["target"], before + 0.25 * (after - before), atol=1e-6)
    engine.update_target(1.0)
    np.testing.assert_array_equal(engine.target_outputs(features), engine.q_values(features))


def test_gradients_are_clipped() -> None:
    for _, engine in both_engines("none").values():
        batch = some_batch(8)._replace(targets=np.full(8, 1e4, np.float32))
        _, metrics = engine.step(batch, "mse", 0.0)
        assert metrics["grad_norm"] > 1000
        first_moment = engine.state_dict()["exp_avg"]
        assert np.linalg.norm(first_moment) == pytest.approx(0.1, rel=1e-3)  # (1 - 0.9) times a gradient of norm 1


def test_the_target_network_is_copied_every_so_many_gradient_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, _ = train("CartPole-v1", updates=0)
    copies: list[tuple[int, float]] = []
    steps: list[int] = []
    original = agent.engine.step

    def counting(*args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(agent.engine, "step", counting)
    monkeypatch.setattr(agent.engine, "update_target", lambda tau: copies.append((len(steps), tau)))
    envs, _ = make_vector_env(EnvFactory("CartPole-v1"), 8, "sync")
    collector, buffer = Collector(envs, list(range(8))), agent.make_buffer(8)
    agent.config = replace(QUICK, target=TargetConfig(interval=10, tau=0.5), gradient_steps=16)
    for _ in range(9):
        collector.collect(agent, buffer, 4)
        agent.update(buffer, 0.0)
    assert len(steps) == 3 * 16  # nothing before 200 transitions: six updates and a bit
    assert copies == [(0, 1.0), (10, 0.5), (20, 0.5), (30, 0.5), (40, 0.5)]


def test_gradient_steps_can_be_counted_by_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    envs = GymSyncVectorEnv([lambda: Counting(4), lambda: Counting(6)], autoreset_mode=AutoresetMode.SAME_STEP)
    config = replace(QUICK, num_steps=1, gradient_steps=3, gradient_steps_per="episode", learning_starts=10)
    agent, _ = train(envs, config, updates=0, num_envs=2)
    taken: list[int] = []
    learn = agent._learn

    def counting(replay: Any, steps: int, *rest: Any) -> Any:
        taken.append(steps)
        return learn(replay, steps, *rest)

    monkeypatch.setattr(agent, "_learn", counting)
    collector, buffer = Collector(envs, [0, 1]), agent.make_buffer(2)
    by_step = []
    for _ in range(12):
        collector.collect(agent, buffer, 1)
        agent.update(buffer, 0.0)
        by_step.append(sum(taken))
        taken.clear()
    # Episodes end after steps 4, 6, 8, and two after step 12; the first ten transitions are there after step 5.
    assert by_step == [0, 0, 0, 0, 0, 3, 0, 3, 0, 0, 0, 6]
    agent.load_state_dict(agent.state_dict())
    agent.update(buffer, 0.0)
    assert not taken, "the episodes that were learned from are part of the state"


@pytest.mark.parametrize("compute", COMPUTES)
def test_transitions_drawn_twice_are_valued_once_and_alike(compute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    valued: list[int] = []
    original = QEngine._target_outputs_once

    def counting(engine: Any, rows: Any, next_features: Any, stored: int, noise: Any) -> Any:
        evaluate = engine.target_outputs

        def noted(features: Any, **noise: Any) -> Any:
            valued.append(len(features[0]))
            return evaluate(features, **noise)

        with monkeypatch.context() as patch:
            patch.setattr(engine, "target_outputs", noted)
            found = original(engine, rows, next_features, stored, noise)
        np.testing.assert_allclose(found, evaluate(next_features), rtol=1e-5, atol=1e-6)
        assert valued[-1] == (len(np.unique(rows)) if share < 1 else len(rows))
        return found

    monkeypatch.setattr(QEngine, "_target_outputs_once", counting)
    parameters = []
    for share in (1 / 16, 100.0):
        monkeypatch.setattr("rlkit.engine.q.DUPLICATES_SHARE", share)
        agent, _ = train("CartPole-v1", QUICK, 20, compute=compute)
        parameters.append(torch.cat([p.detach().flatten() for p in agent.network.parameters()]))
    assert min(valued) < max(valued)
    torch.testing.assert_close(*parameters, rtol=1e-3, atol=1e-4)


# Probes


@pytest.mark.parametrize(("features", "compute"), [*((name, "native") for name in FEATURES), ("all", "torch")])
def test_probes_of_the_value(features: str, compute: str) -> None:
    config = updated(QUICK, FEATURES[features])
    agent, _ = train("rlkit/ProbeTwoStepCredit-v0", config, compute=compute)
    np.testing.assert_allclose(agent.q_values(numbers(0, 1)), np.array([[0.9, 0.9], [1, 1]]), atol=0.07)
    agent, _ = train("rlkit/ProbeActionMatters-v0", config, compute=compute)
    np.testing.assert_allclose(agent.q_values(numbers(0)), [[-1, 1]], atol=0.1)
    assert agent.value(numbers(0))[0] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("mode", "n_step"), [*((mode, 1) for mode in AutoresetMode), (AutoresetMode.SAME_STEP, 3)])
def test_truncation_is_not_an_end_in_any_autoreset_mode(mode: AutoresetMode, n_step: int) -> None:
    envs = GymSyncVectorEnv([EnvFactory("rlkit/ProbeTruncation-v0")] * 4, autoreset_mode=mode)
    config = replace(QUICK, n_step=n_step, learning_rate=0.01, target=TargetConfig(interval=16), gradient_steps=32)
    agent, _ = train(envs, config, updates=110, num_envs=4)
    assert agent.value(numbers(0))[0] == pytest.approx(10.0, abs=0.3)


PROBES_OF_THE_OBSERVATION: dict[str, list[tuple[Any, int]]] = {
    "ProbeActionObs-v0": [([-1.0], 0), ([1.0], 1)],
    "ProbeDiscreteObs-v0": [(3, 0), (4, 1)],
    "ProbeMultiDiscreteObs-v0": [([0, 0], 0), ([0, 1], 1), ([1, 0], 2), ([1, 1], 3)],
    "ProbeDictObs-v0": [
        ({"low": np.array([s], np.float32), "more": {"high": h}}, 2 * h + (s > 0)) for h in (0, 1) for s in (-1, 1)
    ],
    "ProbeTupleObs-v0": [((np.array([s], np.float32), (h,)), 2 * h + (s > 0)) for h in (0, 1) for s in (-1, 1)],
}


@pytest.mark.parametrize("probe", PROBES_OF_THE_OBSERVATION)
def test_every_kind_of_observation_reaches_the_values(probe: str) -> None:
    agent, _ = train(f"rlkit/{probe}", replace(QUICK, dueling=True))
    for obs, right in PROBES_OF_THE_OBSERVATION[probe]:
        if isinstance(obs, list):
            obs = np.asarray(obs, dtype=agent.observation_space.dtype)
        assert agent.predict(obs)[0] == right
        assert agent.q_values(obs)[0, right] == pytest.approx(1, abs=0.15)


def test_images_reach_the_values() -> None:
    config = replace(QUICK, learning_rate=3e-4, gradient_steps=4, minibatch_size=32, learning_starts=64)
    agent, episodes = train("rlkit/ProbeImageObs-v0", config, updates=20)
    assert agent.compute == "torch"
    assert np.mean([e.episode_return for e in episodes[-50:]]) > 0.6  # a tenth of the actions is random


@pytest.mark.parametrize("double", [False, True])
def test_forbidden_actions_are_never_taken(double: bool) -> None:
    agent, _ = train("rlkit/ProbeMaskedAction-v0", replace(QUICK, double=double))  # raises at a forbidden one
    assert agent.predict(np.ones(1, np.float32), action_masks=np.array([True, True, False]))[0] == 1
    assert agent.predict(-np.ones(1, np.float32), action_masks=np.ones(3, bool))[0] == 2
    mask = np.array([[True, True, False]])
    drawn = [agent.predict(np.ones(1, np.float32), action_masks=mask[0], deterministic=False)[0] for _ in range(300)]
    assert set(drawn) == {0, 1}
    assert agent.action_probabilities(numbers(1), mask)[0, 2] == 0


def test_a_mask_that_does_not_fit_is_refused() -> None:
    agent = DQN(QUICK, Setting(VECTOR, DISCRETE))
    with pytest.raises(RlkitError, match=r"action mask of shape \(3,\); expected 2 booleans"):
        agent.predict(np.zeros(1, np.float32), action_masks=np.ones(3, bool))


def test_actions_start_where_their_space_does() -> None:
    agent = DQN(QUICK, Setting(VECTOR, spaces.Discrete(3, start=5)))
    assert {int(agent.predict(np.zeros(1, np.float32), deterministic=False)[0]) for _ in range(100)} == {5, 6, 7}


# Exploration


def test_epsilon_falls_as_scheduled() -> None:
    assert [annealed("linear", 1.0, 0.2, share) for share in (0, 0.25, 0.5, 1, 3)] == pytest.approx(
        [1, 0.8, 0.6, 0.2, 0.2]
    )
    assert [annealed("exponential", 1.0, 0.01, share) for share in (0, 0.5, 1, 2)] == pytest.approx(
        [1, 0.1, 0.01, 0.01]
    )
    agent, _ = train("CartPole-v1", replace(QUICK, epsilon=EpisodicEpsilonConfig(fraction=0.5, end=0.1)), updates=0)
    buffer = agent.make_buffer(1)
    for progress, epsilon in ((0, 1), (0.25, 0.55), (0.5, 0.1), (0.9, 0.1)):
        assert agent.update(buffer, progress)["train/epsilon"] == pytest.approx(epsilon)


def test_epsilon_can_fall_by_episodes() -> None:
    """The source's schedule: 0.08 less 0.01 for each 200 episodes, down to 0.01."""
    config = replace(QUICK, epsilon=EpisodicEpsilonConfig(start=0.08, end=0.01, episodes=1400))
    agent = DQN(config, Setting(VECTOR, DISCRETE))
    buffer = agent.make_buffer(1)
    for episodes in (0, 200, 700, 1400, 5000):
        buffer.episodes = episodes
        agent.update(buffer, 0.99)
        assert agent.epsilon == pytest.approx(max(0.01, 0.08 - 0.01 * episodes / 200))


def test_exploration_is_random_as_often_as_epsilon_says() -> None:
    agent = DQN(updated(QUICK, {"epsilon": {"start": 0.3}}), Setting(VECTOR, spaces.Discrete(3)))
    obs = np.ones((5000, 1), np.float32)
    best = agent.predict(obs)[0]
    assert (agent.predict(obs, deterministic=False)[0] != best).mean() == pytest.approx(0.3 * 2 / 3, abs=0.02)


# Promises


@pytest.mark.parametrize("compute", COMPUTES)
def test_one_seed_gives_identical_parameters(compute: str) -> None:
    config = updated(QUICK, FEATURES["all"])
    network = NetworkConfig(normalize_obs=True)

    def parameters(seed: int) -> dict[str, Any]:
        torch.rand(1)  # other users of torch's generator must not matter
        agent, _ = train("CartPole-v1", config, 15, network=network, compute=compute, seed=seed)
        return {name: tensor.numpy().copy() for name, tensor in agent.model.state_dict().items()}

    first, second, other = parameters(0), parameters(0), parameters(1)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)
    assert any((array != other[name]).any() for name, array in first.items())


def test_a_buffer_on_disk_changes_nothing_that_is_learned(tmp_path: Path) -> None:
    in_memory, _ = train("CartPole-v1", QUICK, 15)
    on_disk, _ = train("CartPole-v1", replace(QUICK, replay=ReplayConfig(folder=str(tmp_path))), 15)
    for name, tensor in in_memory.model.state_dict().items():
        np.testing.assert_array_equal(tensor, on_disk.model.state_dict()[name], err_msg=name)


@pytest.mark.parametrize("prioritized", [False, True])
def test_a_state_dict_brings_training_back_to_where_it_was(prioritized: bool) -> None:
    config = replace(QUICK, double=True, replay=ReplayConfig(prioritized=prioritized), n_step=2)
    network = NetworkConfig(normalize_obs=True)
    envs, _ = make_vector_env(EnvFactory("CartPole-v1"), 2, "sync")
    parts = envs.single_observation_space, envs.single_action_space
    agent = DQN(config, Setting(*parts, network=network, num_envs=2))
    buffer = agent.make_buffer(2)
    collector = Collector(envs, [0, 1])
    for _ in range(40):
        collector.collect(agent, buffer, 4)
        agent.update(buffer, 0.2)
    state, stored = agent.state_dict(), buffer.state_dict()

    def go_on(one: DQN, replay: Any) -> dict[str, Any]:
        fresh = Collector(envs, [5, 6])
        for _ in range(5):
            fresh.collect(one, replay, 4)
            one.update(replay, 0.5)
        return {name: tensor.numpy().copy() for name, tensor in one.model.state_dict().items()}

    expected = go_on(agent, buffer)
    other = DQN(config, Setting(*parts, network=network, num_envs=2, seed=99))
    other.load_state_dict(state)
    replay = other.make_buffer(2)
    replay.load_state_dict(stored)
    for name, array in go_on(other, replay).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_a_saved_agent_comes_back(tmp_path: Path) -> None:
    agent, _ = train("CartPole-v1", replace(QUICK, dueling=True), updates=20, network=NetworkConfig(normalize_obs=True))
    agent.save(tmp_path / "agent")
    loaded: Any = rlkit.load(tmp_path / "agent")
    obs = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    np.testing.assert_array_equal(loaded.q_values(obs), agent.q_values(obs))
    assert loaded.epsilon == agent.epsilon < 1
    np.testing.assert_array_equal(loaded.predict(obs)[0], agent.predict(obs)[0])
    # What it learns next has targets of the loaded network, not of the one it was made with.
    loaded.engine.update_target = lambda tau: targets.append(tau)
    targets: list[float] = []
    buffer = loaded.make_buffer(1)
    envs, _ = make_vector_env(EnvFactory("CartPole-v1"), 1, "sync")
    Collector(envs, [0]).collect(loaded, buffer, 200)
    loaded.update(buffer, 0.0)
    assert targets[0] == 1.0


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([2, 3])])
def test_other_actions_are_refused_and_the_agents_named_that_can(space: spaces.Space[Any]) -> None:
    with pytest.raises(
        RlkitError, match=r"agent=dqn needs Discrete actions, not .*; agents that .*: .*a2c, .*ppo"
    ) as info:
        make_agent(QUICK, Setting(VECTOR, space))
    named = str(info.value).split(": ")[-1].split(", ")
    assert not {"dqn", "double_dqn", "sarsa", "q_learning", "ppo2"} & set(named)


@pytest.mark.parametrize("name", ["dqn", "double_dqn", "dueling_dqn"])
def test_named_options_are_fields(name: str) -> None:
    config: Any = VARIANTS[name].make()
    assert (config.double, config.dueling) == (name == "double_dqn", name == "dueling_dqn")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"replay": {"size": 100}}, "replay.size=100 is too small for agent.learning_starts=200 .* at least 200"),
        ({"replay": {"size": 12}, "learning_starts": 1}, "is too small for .*num_envs=8: it must be at least 16"),
        ({"loss": "hubber"}, r"unknown agent.loss 'hubber'; did you mean 'huber'\?"),
        ({"dueling_advantage": "max"}, "unknown agent.dueling_advantage 'max'"),
        ({"gradient_steps_per": "step"}, "unknown agent.gradient_steps_per 'step'"),
        ({"target": {"tau": 0.0}}, "agent.target.tau=0.0 is out of range: it must be greater than 0"),
        ({"target": {"tau": 1.1}}, "agent.target.tau=1.1 is out of range"),
        ({"epsilon": {"end": 0.0, "schedule": "exponential"}}, "agent.epsilon.end=0.0 is out of range"),
        ({"n_step": 0}, "agent.n_step=0 is out of range: it must be at least 1"),
        ({"epsilon": {"episodes": 0}}, "agent.epsilon.episodes=0 is out of range"),
    ],
)
def test_hyperparameters_that_cannot_work_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RlkitError, match=words):
        updated(QUICK, fields).validate(8)


def test_a_whole_run_by_name(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"agent.replay.prioritized": True, "agent.learning_starts": 100, "agent.n_step": 3}
    result = rlkit.train(
        agent="dueling_dqn",
        env="CartPole-v1",
        tuned=False,
        total_timesteps=1500,
        num_envs=2,
        final_eval_episodes=2,
        eval_episodes=2,
        run_dir=tmp_path / "run",
        **fields,
    )
    assert isinstance(result.agent, DQN)
    assert result.agent.network.dueling == "mean"
    assert isinstance(result.agent.make_buffer(1), PrioritizedReplayBuffer)
    header, *rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    keys = ("train/td_error", "train/value_loss", "train/epsilon", "train/q_value", "train/grad_norm")
    assert set(keys) <= set(header.split(","))
    assert len(rows) > 50


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, r"agent.replay.size=1_000_000_000_000 needs 28,000,\d{3},\d{3},\d{3} bytes"),
        ({"agent.replay.folder": "."}, r"needs 12,000,\d{3},\d{3},\d{3} bytes of memory.* fit$"),  # all the rest
    ],
)
def test_a_buffer_that_does_not_fit_leaves_no_run_folder_behind(
    given: dict[str, Any], words: str, tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"agent.replay.size": 10**12, **given}
    with pytest.raises(RlkitError, match=words):
        rlkit.train(agent="dqn", run_dir=tmp_path / "run", **fields)
    assert not (tmp_path / "run").exists()


def test_it_learns_cartpole() -> None:
    config = DQNConfig(
        double=True,
        learning_rate=2.3e-3,
        learning_rate_schedule="linear",
        num_steps=32,
        gradient_steps=128,
        target=TargetConfig(interval=128),
        epsilon=EpisodicEpsilonConfig(fraction=0.16, end=0.04),
    )
    agent, episodes = train("CartPole-v1", config, updates=80, network=NetworkConfig(activation="relu"), seed=4)
    assert np.mean([e.episode_return for e in episodes[-20:]]) > 70  # at random, 22
    assert rlkit.evaluate_policy(agent, "CartPole-v1", episodes=5).return_mean > 70
