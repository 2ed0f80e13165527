"""SARSA and Q-learning: their updates, known values, discrete spaces, several environments, state, and learning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector import SyncVectorEnv as GymSyncVectorEnv

import rlkit
from rlkit.agents import VARIANTS
from rlkit.agents.temporal_difference import TemporalDifference, TemporalDifferenceConfig
from rlkit.buffers.latest import LatestSteps
from rlkit.buffers.transition import Transition
from rlkit.collector import Collector, Episode
from rlkit.engine.tabular import QTable, table_rows
from rlkit.envs import EnvFactory, make_vector_env
from rlkit.envs.maze import CELLS, WALL, Maze, state_of
from rlkit.errors import RlkitError
from rlkit.field_groups import EpsilonConfig
from rlkit.maths.value_iteration import value_iteration
from rlkit.registry import make_agent
from rlkit.setting import Setting, updated
from rlkit.spaces import Array

QUICK: dict[str, Any] = {
    "learning_rate": 0.5,
    "learning_rate_end": 0.02,
    "learning_rate_schedule": "exponential",
    "gamma": 0.9,
}
CONFIGS: dict[str, Any] = {
    "q_learning": TemporalDifferenceConfig(target="greedy", **QUICK),
    "sarsa": TemporalDifferenceConfig(**QUICK),
    "expected_sarsa": TemporalDifferenceConfig(**QUICK, target="expected"),
}
AGENTS = sorted(CONFIGS)


def train(
    env: str | Any, config: Any, timesteps: int, *, num_envs: int = 8, seed: int = 0
) -> tuple[Any, list[Episode]]:
    envs = make_vector_env(EnvFactory(env), num_envs, "sync")[0] if isinstance(env, str) else env
    agent: Any = make_agent(config, Setting(envs.single_observation_space, envs.single_action_space, seed=seed))
    collector, buffer = Collector(envs, list(range(num_envs))), agent.make_buffer(num_envs)
    episodes = []
    while collector.timesteps < timesteps:
        episodes += collector.collect(agent, buffer, agent.steps_per_update)
        agent.update(buffer, collector.timesteps / timesteps)
    envs.close()
    return agent, episodes


def table_of(agent: Any) -> Array:
    table: Array = agent.values.approximator.values
    return table


def step(
    obs: list[int],
    action: list[int],
    reward: list[float],
    next_obs: list[int],
    *,
    terminated: int | None = None,
    truncated: int | None = None,
    final_obs: dict[int, int] | None = None,
    valid: list[bool] | None = None,
    mask: Array | None = None,
) -> Transition:
    """A vector step, of which one environment may have ended."""
    environments = np.arange(len(obs))
    return Transition(
        obs=(np.array(obs),),
        action=np.array(action),
        reward=np.array(reward),
        terminated=environments == terminated,
        truncated=environments == truncated,
        next_obs=(np.array(next_obs),),
        final_obs={env: (np.array(last),) for env, last in (final_obs or {}).items()},
        valid=np.ones(len(obs), np.bool_) if valid is None else np.array(valid),
        action_mask=mask,
    )


def learned(agent: Any, *steps: Transition) -> Array:
    """The agent's table after it has learned from these steps, from zero but for what row 1 and 2 hold."""
    table_of(agent)[1:3] = [[1.0, 3.0], [10.0, 30.0]]
    buffer: LatestSteps = agent.make_buffer(1)
    for one in steps:
        buffer.add(one)
        agent.update(buffer, 0.0)
    table: Array = table_of(agent)
    return table


def small(config: Any, **fields: Any) -> Any:
    """An agent for three observations and two actions, with a step of 1/2, γ = 0.9 and ε = 0.4 for good."""
    changed = {"learning_rate": 0.5, "learning_rate_end": None, "epsilon": {"start": 0.4, "end": 0.4}, **fields}
    return make_agent(updated(config, changed), Setting(spaces.Discrete(3), spaces.Discrete(2)))


# What one step teaches


def test_q_learning_goes_towards_the_best_next_action() -> None:
    table = learned(small(CONFIGS["q_learning"]), step([0], [1], [1.0], [1]))
    np.testing.assert_allclose(table[0], [0, 0.5 * (1 + 0.9 * 3)])


def test_sarsa_goes_towards_the_next_action_that_is_taken() -> None:
    first, then = step([0], [1], [1.0], [1]), step([1], [0], [0.0], [2])
    agent = small(CONFIGS["sarsa"])
    np.testing.assert_allclose(learned(agent, first)[0], [0, 0])  # nobody knows yet what is taken next
    np.testing.assert_allclose(learned(agent, first, then)[0], [0, 0.5 * (1 + 0.9 * 1)])
    np.testing.assert_allclose(table_of(agent)[1], [1, 3])


def test_expected_sarsa_goes_towards_the_mean_over_next_actions() -> None:
    table = learned(small(CONFIGS["expected_sarsa"]), step([0], [1], [1.0], [1]))
    np.testing.assert_allclose(table[0], [0, 0.5 * (1 + 0.9 * (0.2 * 1 + 0.8 * 3))])


@pytest.mark.parametrize("name", AGENTS)
def test_an_end_has_no_next_value(name: str) -> None:
    ended = step([0], [1], [1.0], [1], terminated=0, truncated=0, final_obs={0: 2})
    following = step([1], [0], [0.0], [1])
    np.testing.assert_allclose(learned(small(CONFIGS[name]), ended, following)[0], [0, 0.5])


@pytest.mark.parametrize(("name", "value"), [("q_learning", 30.0), ("sarsa", 26.0), ("expected_sarsa", 26.0)])
def test_a_truncated_episode_goes_on_from_its_own_last_observation(name: str, value: float) -> None:
    cut = step([0], [1], [1.0], [1], truncated=0, final_obs={0: 2})
    following = step([1], [0], [0.0], [1])
    np.testing.assert_allclose(learned(small(CONFIGS[name]), cut, following)[0], [0, 0.5 * (1 + 0.9 * value)])


@pytest.mark.parametrize("name", AGENTS)
def test_a_step_that_only_resets_teaches_nothing(name: str) -> None:
    """NEXT_STEP mode: after the end, a step whose action and reward mean nothing leads to the next start."""
    cut = step([0], [1], [1.0], [2], truncated=0)
    reset = step([2], [0], [0.0], [1], valid=[False])
    following = step([1], [1], [0.0], [1], terminated=0)
    before = small(CONFIGS[name])
    np.testing.assert_array_equal(learned(before, cut)[2], [10, 30])
    agent = small(CONFIGS[name])
    table = learned(agent, cut, reset, following)
    np.testing.assert_array_equal(table[2], [10, 30])
    np.testing.assert_array_equal(table[0], table_of(before)[0])
    np.testing.assert_allclose(table[1], [1, 1.5])


@pytest.mark.parametrize("name", AGENTS)
def test_environments_in_the_same_place_move_its_value_one_after_the_other(name: str) -> None:
    """And never past the targets, as their sum would: 3 x 1/2 of the way."""
    together = step([0, 0, 0], [1, 1, 1], [8.0, 8.0, 4.0], [1, 1, 1], terminated=0)
    together = together._replace(terminated=np.ones(3, np.bool_))
    np.testing.assert_allclose(learned(small(CONFIGS[name]), together)[0], [0, 0.5 * (6 - 4) + 4])


@pytest.mark.parametrize("name", AGENTS)
def test_the_value_of_a_forbidden_action_is_nobodys_next_value(name: str) -> None:
    """Never learned, it stays at zero, above what the allowed one has come to."""
    agent = small(CONFIGS[name])
    table_of(agent)[1, 0] = -8.0
    mask = np.array([[True, False]])
    buffer = agent.make_buffer(1)
    for one in [
        step([1], [0], [-8.0], [1], terminated=0, final_obs={0: 2}, mask=mask),
        step([0], [0], [0.0], [1], mask=~mask | mask),
        step([1], [0], [-8.0], [0], terminated=0, final_obs={0: 2}, mask=mask),
    ]:
        buffer.add(one)
        agent.update(buffer, 0.0)
    np.testing.assert_allclose(table_of(agent)[0, 0], 0.5 * 0.9 * -8)
    assert agent.predict(1)[0] == 0
    np.testing.assert_array_equal(agent.action_probabilities(np.array([1])), [[1, 0]])


# Known values


MAZE = value_iteration(Maze().P, 0.9)
FREE = [state_of(cell) for cell in CELLS if cell != WALL]


def test_q_learning_finds_the_exact_values_of_the_maze() -> None:
    """The maze has no chance in it, so a step of 1 learns each value at once, and random actions visit all of them."""
    config = replace(CONFIGS["q_learning"], learning_rate=1.0, learning_rate_end=None, epsilon=EpsilonConfig(end=1.0))
    agent, _ = train("rlkit/Maze-v0", config, 8000)
    np.testing.assert_allclose(agent.q_values(np.array(FREE)), MAZE[FREE], atol=1e-9)
    start = agent.q_values(np.array([state_of((2, 1))]))[0]
    assert start[2] == pytest.approx(3.122)  # right
    assert start[0] == pytest.approx(0.62882)  # left
    np.testing.assert_allclose(agent.value(np.array(FREE)), MAZE[FREE].max(1), atol=1e-9)


def test_expected_sarsa_finds_the_values_of_the_best_exploring_policy() -> None:
    config = replace(
        CONFIGS["expected_sarsa"], learning_rate=1.0, learning_rate_end=None, epsilon=EpsilonConfig(0.5, 0.5)
    )
    agent, _ = train("rlkit/Maze-v0", config, 16_000)
    expected = value_iteration(Maze().P, 0.9, epsilon=0.5)
    np.testing.assert_allclose(agent.q_values(np.array(FREE)), expected[FREE], atol=1e-3)


class RandomWalk(gym.Env[int, int]):
    """Five states in a row, a start in the middle; the right end pays 1."""

    observation_space: spaces.Space[Any] = spaces.Discrete(5)
    action_space: spaces.Space[Any] = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = 2
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.state += 2 * int(action) - 1
        return min(max(self.state, 0), 4), float(self.state == 5), self.state in (-1, 5), False, {}


@pytest.mark.parametrize("name", ["sarsa", "expected_sarsa"])
def test_the_values_of_the_random_walk(name: str) -> None:
    config = replace(
        CONFIGS[name], gamma=1.0, epsilon=EpsilonConfig(end=1.0), initial_value=0.5, learning_rate_end=0.005
    )
    envs = GymSyncVectorEnv([RandomWalk] * 8, autoreset_mode=AutoresetMode.SAME_STEP)
    agent, _ = train(envs, config, 20_000)
    np.testing.assert_allclose(agent.value(np.arange(5)), np.arange(1, 6) / 6, atol=0.05)


class OneState(gym.Wrapper[Any, Any, Any, Any]):
    """An observation that is always the same, as the number of it."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.observation_space = spaces.Discrete(1)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        return 0, self.env.reset(**kwargs)[1]

    def step(self, action: Any) -> Any:
        return 0, *self.env.step(action)[1:]


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("name", AGENTS)
def test_truncation_is_not_an_end_in_any_autoreset_mode(name: str, mode: AutoresetMode) -> None:
    """The one state is worth 10; 5.263 with truncations as ends, 9.091 with resets as steps."""

    def make() -> Any:
        return OneState(gym.make("rlkit/ProbeTruncation-v0"))

    envs = GymSyncVectorEnv([make] * 4, autoreset_mode=mode)
    agent, _ = train(envs, replace(CONFIGS[name], learning_rate_end=None), 2000, num_envs=4)
    assert agent.value(np.array([0]))[0] == pytest.approx(10.0, abs=1e-3)


# Spaces


PROBES: dict[str, list[tuple[Any, int]]] = {
    "ProbeDiscreteObs-v0": [(3, 0), (4, 1)],
    "ProbeMultiDiscreteObs-v0": [([0, 0], 0), ([0, 1], 1), ([1, 0], 2), ([1, 1], 3)],
    "ProbeMultiBinaryObs-v0": [([0, 0], 0), ([0, 1], 1), ([1, 0], 2), ([1, 1], 3)],
}


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("name", AGENTS)
def test_every_kind_of_discrete_observation_has_its_row(name: str, probe: str) -> None:
    agent, _ = train(f"rlkit/{probe}", CONFIGS[name], 2000)
    for obs, right in PROBES[probe]:
        values = np.full(agent.action_space.n, -1.0)
        values[right] = 1.0
        np.testing.assert_allclose(agent.q_values(np.array([obs]))[0], values, atol=0.05)
        assert agent.predict(np.asarray(obs))[0] == right


def test_blackjack_is_played_better_than_at_random() -> None:
    """Its observations are a Tuple of Discrete spaces; the best policy loses 0.045 a game, a random one 0.4."""
    config = TemporalDifferenceConfig(
        target="greedy", gamma=1.0, learning_rate=0.1, learning_rate_end=0.005, epsilon=EpsilonConfig(end=0.2)
    )
    agent, _ = train("Blackjack-v1", config, 20_000)
    assert table_of(agent).shape == (32 * 11 * 2, 2)
    assert agent.predict((20, 10, 0))[0] == 0
    assert agent.predict((8, 10, 0))[0] == 1
    assert rlkit.evaluate_policy(agent, "Blackjack-v1", episodes=500).return_mean > -0.2


def test_dict_observations_and_actions_that_start_elsewhere() -> None:
    nested = spaces.Dict({"a": spaces.Discrete(3, start=-1), "b": spaces.MultiDiscrete(np.array([[2, 2]]))})
    agent = TemporalDifference(CONFIGS["q_learning"], Setting(nested, spaces.Discrete(2, start=5)))
    assert table_of(agent).shape == (12, 2)
    table_of(agent)[2 * 4 + 1] = [1.0, 2.0]
    obs = {"a": 1, "b": np.array([[0, 1]])}
    assert agent.predict(obs)[0] == 6
    batch = {"a": np.array([1, 1]), "b": np.array([[[0, 1]], [[1, 1]]])}
    np.testing.assert_array_equal(agent.q_values(batch), [[1, 2], [0, 0]])


@pytest.mark.parametrize("name", ["q_learning", "sarsa"])
def test_actions_that_are_not_discrete_are_refused(name: str) -> None:
    with pytest.raises(RlkitError, match=rf"agent={name} needs Discrete actions, not Box.*: .*ppo") as error:
        make_agent(CONFIGS[name], Setting(spaces.Discrete(3), spaces.Box(-1, 1, (2,))))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("observations", "rows"),
    [
        (spaces.Discrete(7), 7),
        (spaces.MultiBinary([2, 3]), 64),
        (spaces.Tuple((spaces.Discrete(3), spaces.MultiDiscrete([4, 5]))), 60),
        (spaces.MultiDiscrete([10] * 30), 10**30),
        (spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(0, 1, (1,))), None),
    ],
)
def test_observations_that_can_be_counted(observations: Any, rows: int | None) -> None:
    assert table_rows(observations) == rows
    agent: Any = make_agent(CONFIGS["sarsa"], Setting(observations, spaces.Discrete(2)))
    assert isinstance(agent.values.approximator, QTable) == (rows is not None and rows < 10**6)


@pytest.mark.parametrize("resource", [{"device": "cuda"}, {"compute": "torch"}])
def test_a_table_is_on_the_cpu(resource: dict[str, str]) -> None:
    with pytest.raises(
        RlkitError, match="cannot be: for Discrete.2., values are in a table, which no engine computes; auto would"
    ):
        TemporalDifference(CONFIGS["sarsa"], Setting(spaces.Discrete(2), spaces.Discrete(2), **resource))  # type: ignore[arg-type]


def test_observations_and_masks_that_do_not_fit_are_refused() -> None:
    agent = TemporalDifference(CONFIGS["q_learning"], Setting(spaces.Discrete(3), spaces.Discrete(2)))
    with pytest.raises(RlkitError, match=r"an observation 3 that is not in its space Discrete\(3\); expected 0 to 2"):
        agent.predict(3)
    with pytest.raises(RlkitError, match="does not fit"):
        agent.predict(np.zeros((2, 2), np.int64))
    with pytest.raises(RlkitError, match=r"action mask of shape \(3,\); expected 2 booleans"):
        agent.predict(0, action_masks=np.ones(3, bool))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"learning_rate": 0.0}, "agent.learning_rate=0.0 is out of range: it must be greater than 0"),
        ({"learning_rate": 1.5}, "agent.learning_rate=1.5 is out of range"),
        ({"epsilon": {"start": 1.1}}, "agent.epsilon.start=1.1 is out of range"),
        ({"epsilon": {"fraction": 0.0}}, "agent.epsilon.fraction=0.0 is out of range"),
        (
            {"epsilon": {"schedule": "exponental"}},
            r"unknown agent.epsilon.schedule 'exponental'; did you mean 'exponential'",
        ),
        ({"epsilon": {"schedule": "exponential", "end": 0.0}}, "agent.epsilon.end=0.0 is out of range"),
        ({"learning_rate_schedule": "fast"}, "unknown agent.learning_rate_schedule 'fast'"),
        ({"gamma": -0.1}, "agent.gamma=-0.1 is out of range"),
    ],
)
@pytest.mark.parametrize("name", ["q_learning", "sarsa"])
def test_hyperparameters_that_cannot_work_are_refused(name: str, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RlkitError, match=words):
        updated(CONFIGS[name], fields).validate(8)


# Schedules, seeds, state


def test_schedules_run_over_their_share_of_the_run() -> None:
    config = TemporalDifferenceConfig(
        target="greedy", learning_rate=0.4, learning_rate_end=0.1, learning_rate_schedule="exponential"
    )
    agent = small(CONFIGS["q_learning"])
    agent.config = replace(config, epsilon=EpsilonConfig(start=1.0, end=0.2, fraction=0.5))
    buffer = agent.make_buffer(1)
    buffer.add(step([0], [0], [0.0], [0]))
    seen = [agent.update(buffer, progress) for progress in (0.0, 0.25, 0.5, 1.0)]
    assert [metrics["train/epsilon"] for metrics in seen] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert [metrics["train/learning_rate"] for metrics in seen] == pytest.approx([0.4, 0.4 / 2**0.5, 0.2, 0.1])


@pytest.mark.parametrize("name", AGENTS)
def test_one_seed_gives_identical_tables(name: str) -> None:
    first, second, other = (table_of(train("Taxi-v4", CONFIGS[name], 2000, seed=seed)[0]) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


@pytest.mark.parametrize("name", AGENTS)
def test_a_state_dict_brings_training_back_to_where_it_was(name: str) -> None:
    agent, _ = train("Taxi-v4", CONFIGS[name], 2000)
    envs, _ = make_vector_env(EnvFactory("Taxi-v4"), 4, "sync")
    state = agent.state_dict()

    def go_on(one: Any) -> dict[str, Array]:
        collector, buffer = Collector(envs, [5, 6, 7, 8]), one.make_buffer(4)
        for _ in range(100):
            collector.collect(one, buffer, 1)
            one.update(buffer, 0.5)
        model: dict[str, Array] = one.state_dict()["model"]
        return model

    expected = go_on(agent)
    other: Any = make_agent(CONFIGS[name], Setting(agent.observation_space, agent.action_space, seed=99))
    other.load_state_dict(state)
    found = go_on(other)
    assert found.keys() == expected.keys() == {"values", "allowed", "epsilon"}
    for key, array in found.items():
        np.testing.assert_array_equal(array, expected[key], err_msg=key)


@pytest.mark.parametrize("name", AGENTS)
def test_saved_agents_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    agent, _ = train("Taxi-v4", CONFIGS[name], 2000)
    agent.save(tmp_path)
    loaded: Any = rlkit.load(tmp_path)
    everything = np.arange(500)
    np.testing.assert_array_equal(loaded.q_values(everything), agent.q_values(everything))
    np.testing.assert_array_equal(loaded.action_probabilities(everything), agent.action_probabilities(everything))
    np.testing.assert_array_equal(loaded.predict(everything)[0], agent.predict(everything)[0])
    table_of(loaded)[0, 0] = 7.0  # the table that it acts by is the one that is saved
    assert loaded.model.state_dict()["values"][0, 0] == 7.0


def test_acting_leaves_the_table_alone() -> None:
    agent = small(CONFIGS["q_learning"])
    before = agent.state_dict()["model"]
    agent.predict(0, action_masks=np.array([True, False]), deterministic=False)
    for key, array in agent.state_dict()["model"].items():
        np.testing.assert_array_equal(array, before[key])


# Learning


def greedy_path(agent: Any) -> list[int]:
    """The states of CliffWalking that the greedy policy goes through, the start and the goal (47) among them."""
    env: Any = gym.make("CliffWalking-v1", max_episode_steps=50)
    obs, _ = env.reset(seed=0)
    path, over = [int(obs)], False
    while not over:
        obs, _, terminated, truncated, _ = env.step(agent.predict(obs)[0])
        path.append(int(obs))
        over = terminated or truncated
    return path


EDGE = set(range(25, 35))
"""The states right above the cliff."""
EXPLORING: dict[str, Any] = {"gamma": 1.0, "epsilon": EpsilonConfig(0.1, 0.1)}


def test_q_learning_walks_along_the_cliff() -> None:
    agent, episodes = train("CliffWalking-v1", replace(CONFIGS["q_learning"], **EXPLORING), 20_000)
    path = greedy_path(agent)
    assert len(path) == 14  # 13 steps, a return of -13
    assert set(path) >= EDGE
    assert np.mean([e.episode_return for e in episodes[-200:]]) < -25  # exploring, it falls again and again


@pytest.mark.parametrize("name", ["sarsa", "expected_sarsa"])
def test_sarsa_takes_the_safe_path(name: str) -> None:
    agent, episodes = train("CliffWalking-v1", replace(CONFIGS[name], **EXPLORING), 40_000)
    path = greedy_path(agent)
    assert path[-1] == 47
    assert len(path) in (16, 18)  # one or two rows further up
    assert not EDGE & set(path)
    assert np.mean([e.episode_return for e in episodes[-200:]]) > -25


@pytest.mark.parametrize("name", ["q_learning", "sarsa"])
def test_the_frozen_lake_is_crossed(name: str) -> None:
    fields = {"gamma": 0.99, "initial_value": 1.0, "learning_rate_end": 0.01, "epsilon": EpsilonConfig(start=0.1)}
    agent, _ = train("FrozenLake-v1", replace(CONFIGS[name], **fields), 30_000)
    assert rlkit.evaluate_policy(agent, "FrozenLake-v1", episodes=200).return_mean > 0.6  # the best: 0.74


FAST: dict[str, Any] = {"agent.learning_rate": 0.5, "agent.epsilon.start": 0.3, "agent.epsilon.end": 0.01}


def test_a_run_by_name_with_masks(tmp_path: Path) -> None:
    """Taxi offers masks."""
    result = rlkit.train(
        agent="q_learning",
        env="Taxi-v4",
        total_timesteps=24_000,
        num_envs=4,
        eval_interval=0,
        final_eval_episodes=50,
        run_dir=tmp_path / "run",
        **FAST,
    )
    assert result.summary["eval_return_mean"] > 0  # the best: 7.9
    assert result.summary["compute"] == "table"
    masks = result.agent.model.state_dict()["allowed"].numpy()
    assert not table_of(result.agent)[~masks].any()
    assert {"q_learning", "sarsa", "expected_sarsa"} <= VARIANTS.keys()
