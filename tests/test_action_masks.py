"""Masks that come now and then, infos that may be anything, and actions that an environment writes into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from hypothesis import given
from hypothesis import strategies as st
from training import train

from rlkit.action_masks import batch_of_masks, fitted_mask, fitted_masks, masks_in
from rlkit.agents import VARIANTS
from rlkit.agents.a2c import A2CConfig
from rlkit.agents.a3c import A3CConfig
from rlkit.agents.dqn import DQNConfig
from rlkit.agents.ppo import PPOConfig
from rlkit.agents.reinforce import REINFORCEConfig
from rlkit.agents.trpo import TRPOConfig
from rlkit.buffers.episodes import EpisodeBuffer
from rlkit.buffers.replay import ReplayBuffer
from rlkit.buffers.rollout import RolloutBuffer
from rlkit.collector import Collector, Step
from rlkit.envs.vector import AsyncVectorEnv, SyncVectorEnv
from rlkit.episodes import evaluate_policy
from rlkit.errors import Misfit, RlkitError
from rlkit.field_groups import ReplayConfig
from rlkit.registry import make_agent
from rlkit.setting import NetworkConfig, Setting

THREE = spaces.Discrete(3)
PAIR = spaces.MultiDiscrete([2, 3])
TABLE = spaces.MultiDiscrete(np.array([[2, 2]]))
AGENTS: dict[str, Any] = {
    "ppo": PPOConfig(num_steps=12, minibatch_size=12, num_epochs=2),
    "a2c": A2CConfig(num_steps=7),
    "a3c": A3CConfig(num_steps=7),
    "trpo": TRPOConfig(num_steps=12, minibatch_size=12),
    "reinforce": REINFORCEConfig(episodes_per_update=2),
    "dqn": DQNConfig(learning_starts=16, replay=ReplayConfig(size=200), minibatch_size=8),
    "sarsa": VARIANTS["sarsa"].make(),
    "q_learning": VARIANTS["q_learning"].make(),
}


class Masked(gym.Env[Any, Any]):
    """Ten steps with a reward of 1. `info_at(t)` is its info after t steps; a forbidden action raises."""

    observation_space = spaces.Discrete(11)
    action_space: spaces.Space[Any] = THREE

    def __init__(self, info_at: Callable[[int], dict[str, Any]]) -> None:
        self._info_at, self._t = info_at, 0
        self._mask: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._t = 0
        return self._t, self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._mask is not None and not self._mask[action]:
            raise ValueError(f"{action} is forbidden in step {self._t}")
        self._t += 1
        return self._t, 1.0, self._t == 10, False, self._info()

    def _info(self) -> dict[str, Any]:
        info = self._info_at(self._t)
        self._mask = info.get("action_mask")
        return info


def vector(info_at: Callable[[int], dict[str, Any]], num_envs: int = 2) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: Masked(info_at) for _ in range(num_envs)])


ONLY_SECOND = np.array([False, True, False])
NOW_AND_THEN: dict[str, Callable[[int], dict[str, Any]]] = {
    "only where something is forbidden": lambda t: {"action_mask": ONLY_SECOND} if t % 3 == 2 else {},
    "not at reset": lambda t: {} if t == 0 else {"action_mask": ONLY_SECOND},
    "None": lambda t: {"action_mask": None if t % 2 else ONLY_SECOND},
    "at the end of the episode nothing is allowed": lambda t: {"action_mask": np.full(3, t < 10)},
    "another length when it is over": lambda t: {"action_mask": np.ones(3 if t < 10 else 0, bool)},
    "of bytes, as Gymnasium's spaces take them": lambda t: {"action_mask": np.array([t % 2, 1, 0], np.int8)},
    "a list": lambda t: {"action_mask": [True, False, t > 5]},
    "from the fifth step on": lambda t: {"action_mask": ONLY_SECOND} if t >= 5 else {"other": 1},
}


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("when", NOW_AND_THEN)
def test_masks_may_come_now_and_then(when: str, agent: str) -> None:
    """The environment raises for a forbidden action: none is taken, neither in training nor in evaluation."""
    info_at = NOW_AND_THEN[when]
    network = NetworkConfig(hidden_sizes=[8]) if agent not in ("sarsa", "q_learning") else None
    trained, episodes = train(vector(info_at), AGENTS[agent], 20, num_envs=2, network=network)
    assert all(episode.episode_return == 10 for episode in episodes)
    for deterministic in (True, False):
        evaluation = evaluate_policy(trained, [Masked(info_at) for _ in range(3)], 5, deterministic=deterministic)
        assert evaluation.returns == [10.0] * 5


class Random:
    """Draws allowed actions."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def act(self, obs: Any, *, action_mask: Any = None, explore: bool = True) -> Step:
        weights = self.rng.random((len(obs[0]), 3)) * (1 if action_mask is None else action_mask)
        action = weights.argmax(1)
        return Step(action, action)


def mask_after(t: int) -> list[bool]:
    return [False, True, False] if t >= 5 and t != 7 else [True, True, True]


def late(t: int) -> dict[str, Any]:
    return {"action_mask": ONLY_SECOND} if t >= 5 and t != 7 else {}


def test_a_rollout_knows_the_masks_of_all_its_steps_whenever_the_first_one_comes() -> None:
    buffer, collector = RolloutBuffer(16, 2), Collector(vector(late), [1, 2])
    collector.collect(Random(), buffer, 16)
    assert buffer.action_masks is not None
    expected = [[mask_after(t % 10)] * 2 for t in range(16)]
    np.testing.assert_array_equal(buffer.action_masks, expected)
    buffer.clear()
    collector.collect(Random(), buffer, 16)
    np.testing.assert_array_equal(buffer.action_masks, [[mask_after(t % 10)] * 2 for t in range(16, 32)])


def test_episodes_know_the_masks_of_all_their_steps() -> None:
    buffer = EpisodeBuffer(2)
    Collector(vector(late), [1, 2]).collect(Random(), buffer, 13)
    masks = buffer.take().action_masks
    assert masks is not None
    np.testing.assert_array_equal(masks, 2 * [mask_after(t) for t in range(10)])


@pytest.mark.parametrize("first", [5, 25])
def test_a_replay_buffer_knows_what_each_next_observation_allows(first: int) -> None:
    """Also of what it stored before the first mask came, final observations among them."""
    steps_so_far = 0

    def since(t: int) -> dict[str, Any]:
        return late(t) if steps_so_far >= first else {}

    class CutShort(Masked):
        def step(self, action: Any) -> Any:
            obs, reward, _, _, info = super().step(action)
            return obs, reward, False, obs == 10, info

    envs = SyncVectorEnv([lambda: CutShort(since)])
    buffer = ReplayBuffer(40, 1, envs.single_observation_space, THREE)
    collector = Collector(envs, [1])
    for _ in range(38):
        collector.collect(Random(), buffer, 1)
        steps_so_far += 1
    batch = buffer.sample(500, np.random.default_rng(0))
    assert batch.next_action_mask is not None
    known = set()
    for row, next_obs, mask in zip(batch.rows, batch.next_obs[0], batch.next_action_mask, strict=True):
        # Nobody asks for a mask after an episode's last step, so every action counts as allowed there.
        allowed = mask_after(int(next_obs)) if next_obs < 10 and row >= first else [True, True, True]
        assert mask.tolist() == allowed, (row, next_obs)
        known.add((bool(row >= first), bool(next_obs == 10)))
    assert known >= {(False, False), (True, False), (True, True)}
    assert ((False, True) in known) == (first > 10)


def test_each_environment_has_its_own_mask_or_none() -> None:
    def info(i: int) -> Callable[[int], dict[str, Any]]:
        return lambda t: {"action_mask": ONLY_SECOND} if i == 1 else {}

    def make(i: int) -> Callable[[], Masked]:
        return lambda: Masked(info(i))

    collector = Collector(SyncVectorEnv([make(i) for i in range(3)]), [0, 1, 2])
    buffer = RolloutBuffer(4, 3)
    collector.collect(Random(), buffer, 4)
    assert buffer.action_masks is not None
    assert buffer.action_masks[:, 1].tolist() == 4 * [[False, True, False]]
    assert buffer.action_masks[:, [0, 2]].all()


BAD_MASKS: dict[str, tuple[Any, str]] = {
    "nothing allowed": (np.zeros(3, bool), r"an action mask that forbids every action, array\(.*at least one"),
    "longer": (
        np.ones(4, bool),
        r"an action mask of shape \(4,\).*expected 3 booleans, True for each allowed action",
    ),
    "shorter": ([True], r"an action mask of shape \(1,\)"),
    "a matrix": (np.ones((3, 1), bool), r"an action mask of shape \(3, 1\)"),
    "a number": (True, r"an action mask of shape \(\)"),
    "words": (["yes", "no", "no"], r"the action mask \['yes', 'no', 'no'\].*expected 3 booleans"),
    "indices": ([0, 2, 1], r"the action mask \[0, 2, 1\].*expected 3 booleans"),
    "logits": ([0.5, 0.0, 1.0], r"the action mask \[0.5, 0.0, 1.0\]"),
    "ragged": ([[True], [True, False], [True]], "the action mask .*expected 3 booleans"),
    "a set": ({1, 2}, "an action mask of shape"),
    "NaN": (np.full(3, np.nan), "the action mask"),
}


@pytest.mark.parametrize("bad", BAD_MASKS)
def test_a_mask_that_is_none_is_one_line_wherever_it_comes(bad: str) -> None:
    mask, words = BAD_MASKS[bad]

    class Bad(Masked):
        def step(self, action: Any) -> Any:
            self._t += 1
            return self._t, 1.0, self._t == 10, False, {"action_mask": mask} if self._t == 4 else {}

    name = "env bad"
    collector = Collector(SyncVectorEnv([lambda: Masked(lambda t: {}), lambda: Bad(lambda t: {})]), [1, 2], name)
    with pytest.raises(
        RlkitError, match=r"^env bad returned (an|the) action mask.* in environment 1 after 6 timesteps; "
    ) as one:
        collector.collect(Random(), RolloutBuffer(9, 2), 9)
    assert "\n" not in str(one.value)
    setting = Setting(Masked.observation_space, THREE, NetworkConfig(hidden_sizes=[8]))
    agent: Any = make_agent(AGENTS["ppo"], setting)
    with pytest.raises(RlkitError, match=words):
        evaluate_policy(agent, Bad(lambda t: {}), 1)
    with pytest.raises(RlkitError, match=r"mask"):
        agent.predict(3, action_masks=mask)
    workers = AsyncVectorEnv([BadInWorkers], "bad")
    with pytest.raises(RlkitError, match="an action mask of shape"):
        Collector(workers, [1], name).collect(Random(), RolloutBuffer(9, 1), 9)
    workers.close()


class BadInWorkers(Masked):
    def __init__(self) -> None:
        super().__init__(lambda t: {"action_mask": np.ones(3 if t < 4 else 2, bool)})


@given(
    space=st.sampled_from([THREE, PAIR, spaces.Discrete(1), spaces.Discrete(4, start=2), TABLE]),
    data=st.data(),
)
def test_masks_of_any_batch(space: Any, data: st.DataObject) -> None:
    """Each row is its environment's mask, all True where it gave none, in whatever form the mask is."""
    sizes = [int(space.n)] if isinstance(space, spaces.Discrete) else [int(n) for n in space.nvec.ravel()]
    one = st.lists(st.booleans(), min_size=sum(sizes), max_size=sum(sizes))
    masks = data.draw(st.lists(st.none() | one, min_size=1, max_size=5))
    ends = np.cumsum(sizes)[:-1]
    right = [mask is None or all(part.any() for part in np.split(np.array(mask), ends)) for mask in masks]
    forms: Sequence[Callable[[Any], Any]] = (
        list,
        tuple,
        np.array,
        lambda m: np.array(m, np.int8),
        lambda m: [float(x) for x in m],
    )
    given_masks = [None if mask is None else data.draw(st.sampled_from(forms))(mask) for mask in masks]
    if not all(right):
        with pytest.raises(Misfit, match="an action mask that forbids every action"):
            fitted_masks(space, given_masks)
        return
    found = fitted_masks(space, given_masks)
    if all(mask is None for mask in masks):
        assert found is None
        return
    assert found is not None
    assert found.dtype == bool
    assert found.tolist() == [[True] * sum(sizes) if mask is None else mask for mask in masks]


def test_masks_of_several_dimensions_may_come_one_by_one() -> None:
    assert fitted_mask(PAIR, (np.array([1, 0]), np.array([1, 1, 0]))).tolist() == [True, False, True, True, False]
    with pytest.raises(Misfit, match="forbids every action.*in each dimension"):
        fitted_mask(PAIR, [True, True, False, False, False])
    with pytest.raises(Misfit, match=r"an action mask; masks are for Discrete and MultiDiscrete actions, not for Box"):
        fitted_mask(spaces.Box(-1, 1, (3,)), np.ones(3))


def test_infos_of_vector_environments_mark_who_gave_a_mask() -> None:
    """As Gymnasium does: zeros stand where there was none, and `_action_mask` says so."""
    rows = np.array([[True, False, True], [False, False, False]])
    listed = masks_in({"action_mask": rows, "_action_mask": np.array([True, False])}, 2)
    assert listed[1] is None
    assert listed[0].tolist() == [True, False, True]
    assert masks_in({}, 2) == masks_in({"action_mask": None}, 2) == [None, None]
    for wrong in (rows[:1], 7, "ab c"):
        with pytest.raises(Misfit, match="expected one for each of the 2 environments"):
            masks_in({"action_mask": wrong}, 2)


def test_masks_of_a_batch_are_one_for_each_row() -> None:
    one, both = np.array([True, False, True]), np.array([[True, False, True], [False, True, False]])
    found = batch_of_masks(THREE, one, 1), batch_of_masks(THREE, both[:1], 1), batch_of_masks(THREE, both, 2)
    assert [None if mask is None else mask.tolist() for mask in found] == [
        [one.tolist()],
        [one.tolist()],
        both.tolist(),
    ]
    for masks in (both[:1], np.ones((3, 3), bool), True, [[True], [True, False], [True]]):
        with pytest.raises(Misfit, match=r"\d action masks; expected one for each of the 2 observations"):
            batch_of_masks(THREE, masks, 2)


# Infos


ANYTHING: dict[str, Callable[[int, int], Any]] = {
    "arrays of several lengths": lambda i, t: np.zeros(i + t),
    "a number or None": lambda i, t: None if (i + t) % 2 else t,
    "a number or text": lambda i, t: "text" if (i + t) % 2 else 1.5,
    "a dict or None": lambda i, t: {"a": {"b": t}} if (i + t) % 2 else None,
    "dicts of dicts of other keys": lambda i, t: {str(i): {str(t): [t]}},
    "a number beyond 64 bits": lambda i, t: 2**70 if t else 1,
    "lists": lambda i, t: [1] * (i + t),
    "a set": lambda i, t: {i, t},
    "an object": lambda i, t: object(),
    "a function that cannot be pickled": lambda i, t: lambda: t,
    "an array, then a number": lambda i, t: np.ones(2) if t < 3 else 1,
}
KEYS = ("anything", "final_obs", "_final_obs", "final_info", "episode", "_action_mask", "action_masks", "reward")


class Talkative(Masked):
    """Its info says something else in every step and environment, under names that others use as well."""

    def __init__(self, what: str, i: int, key: str) -> None:
        super().__init__(lambda t: {key: ANYTHING[what](i, t)})


@pytest.mark.parametrize("what", ANYTHING)
def test_infos_may_be_anything(what: str) -> None:
    for key in KEYS:
        envs = SyncVectorEnv([partial(Talkative, what, i, key) for i in range(3)])
        buffer = RolloutBuffer(25, 3)
        episodes = Collector(envs, [1, 2, 3]).collect(Random(), buffer, 25)
        assert [(episode.episode_return, episode.length) for episode in episodes] == 6 * [(10.0, 10)]
        np.testing.assert_array_equal(buffer.obs[0][:, 0], [t % 10 for t in range(26)])
        assert buffer.action_masks is None
    setting = Setting(Masked.observation_space, THREE, NetworkConfig(hidden_sizes=[8]))
    agent: Any = make_agent(AGENTS["ppo"], setting)
    assert evaluate_policy(agent, Talkative(what, 1, "episode"), 2).returns == [10.0, 10.0]


class AllTalkative(Talkative):
    def __init__(self) -> None:
        super().__init__("a function that cannot be pickled", 1, "final_obs")


def test_infos_may_be_anything_in_worker_processes() -> None:
    envs = AsyncVectorEnv([AllTalkative, AllTalkative], "talkative")
    buffer = RolloutBuffer(25, 2)
    assert len(Collector(envs, [1, 2]).collect(Random(), buffer, 25)) == 4
    envs.close()
    np.testing.assert_array_equal(buffer.obs[0][:, 0], [t % 10 for t in range(26)])


@pytest.mark.parametrize("mode", AutoresetMode)
def test_masks_in_all_of_gymnasiums_ways_to_reset(mode: AutoresetMode) -> None:
    def info_at(t: int) -> dict[str, Any]:
        return {"action_mask": np.array([t < 10, t % 2 == 0, False])}

    envs = gym.vector.SyncVectorEnv([lambda: Masked(info_at) for _ in range(2)], autoreset_mode=mode)
    buffer = RolloutBuffer(20, 2)
    Collector(envs, [1, 2]).collect(Random(), buffer, 20)
    assert buffer.action_masks is not None
    for t, env in np.argwhere(buffer.valid):
        observed = int(buffer.obs[0][t, env])
        assert buffer.action_masks[t, env].tolist() == [True, observed % 2 == 0, False]


# Actions


class WritesIntoActions(gym.Env[Any, Any]):
    """Ten steps; each is worth the share of bits that are one. It zeroes its action once it has read it."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space: spaces.Space[Any] = spaces.MultiBinary(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._t += 1
        reward = float(np.mean(action))
        action[...] = 0
        return np.zeros(1, np.float32), reward, self._t == 10, False, {}


class WritesIntoBoxes(WritesIntoActions):
    action_space = spaces.Box(-1, 1, (3,), np.float32)


class WritesIntoChoices(WritesIntoActions):
    action_space = spaces.MultiDiscrete([2, 2, 2])


class LeavesActions(WritesIntoActions):
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return super().step(np.copy(action))


@pytest.mark.parametrize("agent", ["ppo", "a2c", "a3c", "trpo", "reinforce"])
@pytest.mark.parametrize("writes", [WritesIntoActions, WritesIntoBoxes, WritesIntoChoices])
def test_what_an_environment_does_with_its_action_is_its_own_business(writes: Any, agent: str) -> None:
    """An environment that writes into its actions trains the parameters that one trains that leaves them alone."""

    class Leaves(writes):  # type: ignore[misc]
        def step(self, action: Any) -> Any:
            return super().step(np.copy(action))

    found = []
    for kind in (writes, Leaves):
        envs = SyncVectorEnv([kind, kind])
        trained, _ = train(envs, AGENTS[agent], 5, num_envs=2, network=NetworkConfig(hidden_sizes=[8]))
        found.append({name: tensor.numpy().copy() for name, tensor in trained.model.state_dict().items()})
        assert len(evaluate_policy(trained, [kind(), kind()], 3).returns) == 3
    for name, values in found[0].items():
        np.testing.assert_array_equal(values, found[1][name], err_msg=name)


def test_buffers_keep_what_agents_and_environments_overwrite() -> None:
    """An agent and a vector environment that hand out the same arrays at every step."""

    class Reusing(gym.vector.VectorEnv[Any, Any, Any]):
        num_envs = 2
        single_observation_space = spaces.Box(0, 100, (1,), np.float32)
        single_action_space = THREE
        metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

        def __init__(self) -> None:
            self.obs, self.reward = np.zeros((2, 1), np.float32), np.zeros(2)
            self.flags = np.zeros(2, bool), np.zeros(2, bool)

        def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            return self.obs, {}

        def step(self, actions: Any) -> Any:
            self.obs += 1
            self.reward += 1
            actions[...] = 2
            return self.obs, self.reward, *self.flags, {}

    class ReusingAgent:
        def __init__(self) -> None:
            self.action = np.zeros(2, np.int64)

        def act(self, obs: Any, *, action_mask: Any = None, explore: bool = True) -> Step:
            self.action[...] = obs[0][:, 0] % 2
            return Step(self.action, self.action)

    rollout, episodes = RolloutBuffer(5, 2), EpisodeBuffer(2)
    for buffer in (rollout, episodes):
        Collector(Reusing(), [0, 0]).collect(ReusingAgent(), buffer, 5)
    np.testing.assert_array_equal(rollout.actions, [[t % 2] * 2 for t in range(5)])
    np.testing.assert_array_equal(rollout.rewards, [[t + 1] * 2 for t in range(5)])
    kept = episodes.state_dict()["steps"]
    np.testing.assert_array_equal(kept["action"], rollout.actions)
    np.testing.assert_array_equal(kept["reward"], rollout.rewards)
    np.testing.assert_array_equal(kept["obs"][0], rollout.obs[0][:-1])
