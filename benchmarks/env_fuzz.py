"""Fuzz of the environment API: random spaces, random faults at random steps; each case trains, or ends in one line.

    python benchmarks/env_fuzz.py [--cases 2000]

Case i is drawn by hypothesis from seed i: an observation space nested up to three deep, an action space, an agent, the
number of environments, and a fault that one environment has in one step of its life. Training is a few updates, by the
collector and agents of every run, with an evaluation after it. Writes a row per case to results/env_fuzz.csv as it
goes, continues one that was stopped, and ends with exit code 1 where a case is neither trained nor one line.
"""

from __future__ import annotations

import argparse
import csv
import signal
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from rlkit.agents.a2c import A2CConfig
from rlkit.agents.dqn import DQNConfig
from rlkit.agents.ppo import PPOConfig
from rlkit.agents.temporal_difference import TemporalDifferenceConfig
from rlkit.collector import Collector
from rlkit.envs.check import check_env
from rlkit.envs.vector import SyncVectorEnv
from rlkit.episodes import evaluate_policy
from rlkit.errors import RlkitError
from rlkit.field_groups import ReplayConfig
from rlkit.registry import make_agent
from rlkit.setting import NetworkConfig, Setting
from rlkit.trainer import CollectAndUpdate

RESULTS = Path(__file__).resolve().parent / "results" / "env_fuzz.csv"
LIMIT = 60
"""Seconds after which a case hangs; one takes a fraction of a second."""
STEPS = 48
"""Vector steps that a case trains for."""

LEAVES = st.one_of(
    st.builds(
        lambda shape, dtype: spaces.Box(0 if dtype == np.uint8 else -1, 255 if dtype == np.uint8 else 1, shape, dtype),
        st.sampled_from([(), (1,), (3,), (2, 2), (8, 8, 1)]),
        st.sampled_from([np.float32, np.float64, np.uint8]),
    ),
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 5), st.integers(-2, 2)),
    st.lists(st.integers(1, 4), min_size=1, max_size=3).map(spaces.MultiDiscrete),
    st.integers(1, 4).map(spaces.MultiBinary),
)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    parts = st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3)
    return inner | parts.map(spaces.Dict) | st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple)


SPACES = _nested(_nested(_nested(LEAVES)))
ACTIONS = st.one_of(
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 4), st.integers(-1, 1)),
    st.lists(st.integers(1, 3), min_size=1, max_size=2).map(spaces.MultiDiscrete),
    st.integers(1, 3).map(spaces.MultiBinary),
    st.integers(1, 3).map(lambda n: spaces.Box(-1, 1, (n,))),
)
ODD: list[Any] = [
    None,
    "text",
    1j,
    -1,
    0.5,
    300,
    10**400,
    1e30,
    1e300,
    float("nan"),
    float("inf"),
    [],
    {},
    (1, 2),
    [[1], [1, 2]],
]
ODD += [np.zeros((7, 7)), np.full(3, -1), np.array(["a"]), object(), lambda: None, b"bytes", np.zeros(1), 2**70, True]
PLACES = (
    "none",
    "obs",
    "leaf",
    "reward",
    "terminated",
    "truncated",
    "info",
    "mask",
    "infos",
    "result",
    "reset",
    "raise",
)


RIGHT = ("none", "infos")
"""Places where nothing is wrong: infos may be anything, so such environments have to train."""

AGENTS: dict[str, Callable[[], Any]] = {
    "ppo": lambda: PPOConfig(num_steps=8, minibatch_size=8, num_epochs=1),
    "a2c": lambda: A2CConfig(num_steps=4),
    "dqn": lambda: DQNConfig(learning_starts=8, minibatch_size=4, replay=ReplayConfig(size=50)),
    "sarsa": TemporalDifferenceConfig,
}
FOR_ALL_ACTIONS = ("a2c", "ppo")
"""Agents whose actions need not be Discrete."""


class Case(NamedTuple):
    """One case, as hypothesis draws it."""

    observations: spaces.Space[Any]
    actions: spaces.Space[Any]
    agent: str
    num_envs: int
    place: str
    """The part of the environment that has the fault."""
    odd: int
    """The index in `ODD` of the value that it gives there."""
    at: int
    """The step of its life in which it does so first."""
    every: bool
    """True if it does so in every later step, too."""

    def fitting(self) -> Case:
        """The case with an agent that can take its actions."""
        able = isinstance(self.actions, spaces.Discrete) or self.agent in FOR_ALL_ACTIONS
        return self if able else self._replace(agent=FOR_ALL_ACTIONS[self.odd % 2])


CASES = st.builds(
    Case,
    SPACES,
    ACTIONS,
    st.sampled_from(sorted(AGENTS)),
    st.integers(1, 3),
    st.sampled_from(PLACES),
    st.integers(0, len(ODD) - 1),
    st.integers(1, STEPS),
    st.booleans(),
)


class Fuzzed(gym.Env[Any, Any]):
    """An environment of random observations that fit, but for the case's fault."""

    def __init__(self, case: Case, *, faulty: bool) -> None:
        self.case, self.faulty, self.life, self.steps = case, faulty, 0, 0
        self.observation_space, self.action_space = case.observations, case.actions

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        if self._now("reset"):
            return ODD[self.case.odd]
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        self.life += 1
        self.steps += 1
        odd = ODD[self.case.odd]
        if self._now("raise"):
            raise RuntimeError(f"of its own:\n{odd!r:.50}")
        if self._now("result"):
            return odd
        obs = self.observation_space.sample()
        if self._now("leaf"):
            obs = with_odd_leaf(obs, odd)
        info: Any = {"action_mask": odd} if self._now("mask") else {"it": odd} if self._now("infos") else {}
        right = {"obs": obs, "reward": 1.0, "terminated": self.steps >= 9, "truncated": False, "info": info}
        return tuple(odd if self._now(place) else value for place, value in right.items())

    def _now(self, place: str) -> bool:
        due = self.life >= self.case.at if self.case.every else self.life == self.case.at
        return self.faulty and place == self.case.place and due


def with_odd_leaf(obs: Any, odd: Any) -> Any:
    """Puts `odd` in the place of an observation's first leaf, or of its first number."""
    if isinstance(obs, dict):
        first = next(iter(obs))
        return {**obs, first: with_odd_leaf(obs[first], odd)}
    if isinstance(obs, tuple):
        return (with_odd_leaf(obs[0], odd), *obs[1:])
    return odd


def outcome(case: Case) -> tuple[str, str]:
    """Trains and evaluates on a case: returns `trained`, `one line` or `fault`, and the line or what was raised."""
    try:
        envs = [lambda: Fuzzed(case, faulty=False)] * (case.num_envs - 1) + [lambda: Fuzzed(case, faulty=True)]
        check_env(Fuzzed(case, faulty=True), "Fuzzed")
        vector = SyncVectorEnv(envs)
        network = NetworkConfig(hidden_sizes=[4])
        setting = Setting(case.observations, case.actions, network, case.num_envs)
        agent: Any = make_agent(AGENTS[case.agent](), setting)
        collector = Collector(vector, list(range(case.num_envs)), "environment Fuzzed")
        source: Any = CollectAndUpdate(agent, agent.make_buffer(case.num_envs), collector)
        while collector.timesteps < STEPS * case.num_envs:
            source.advance(0.0)
        evaluate_policy(agent, Fuzzed(case, faulty=True), 3)
    except RlkitError as error:
        line = str(error)
        if case.place in RIGHT:
            return "fault", f"a right environment was refused: {line!r}"
        return ("fault", f"several lines: {line!r}") if "\n" in line else ("one line", line)
    except Hung:
        return "fault", f"hung for {LIMIT} s"
    except BaseException as error:  # whatever it is, it is a fault of ours
        return "fault", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return "trained", ""


class Hung(BaseException):
    """Raised in a case that takes longer than `LIMIT`."""


def drawn(number: int) -> Case:
    """Draws the case of this number."""
    found: list[Case] = []

    @seed(number)
    @settings(
        max_examples=2, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(CASES)
    def draw(case: Case) -> None:
        found.append(case)

    draw()
    return found[-1].fitting()  # the first one is always the simplest


def run(number: int) -> dict[str, str]:
    """Draws and tries one case: its row in the results."""
    case = drawn(number)
    case.observations.seed(number)
    with warnings.catch_warnings(action="ignore"):
        result, words = outcome(case)
    return {
        "case": str(number),
        "agent": case.agent,
        "place": case.place,
        "odd": " ".join(f"{type(ODD[case.odd]).__name__}".split()),
        "at": str(case.at),
        "outcome": result,
        "words": words[:200],
    }


def main() -> int:
    """Runs the cases that are not in the results yet; returns 1 if one is neither trained nor one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given_ = parser.parse_args()

    def hung(*_: object) -> None:
        raise Hung

    signal.signal(signal.SIGALRM, hung)
    rows = list(csv.DictReader(given_.results.open())) if given_.results.exists() else []
    done = {row["case"] for row in rows}
    with given_.results.open("a", newline="") as file:
        for number in range(given_.cases):
            if str(number) in done:
                continue
            signal.alarm(LIMIT)
            row = run(number)
            signal.alarm(0)
            writer = csv.DictWriter(file, list(row))
            if not rows:
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            rows.append(row)
    counts = Counter(row["outcome"] for row in rows)
    print(f"{len(rows):,} cases: {dict(counts)}")
    return int(counts["fault"] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
