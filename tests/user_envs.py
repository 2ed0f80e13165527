"""Environments as a user's own module would register them, good and bad ones."""

from __future__ import annotations

import multiprocessing
import os
import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

Transition = tuple[Any, Any, bool, bool, dict[str, Any]]


class Walk(gym.Env[Any, Any]):
    """A seeded random walk with noise, an info that varies, and a single array for all of its observations.

    Steps take `step_time` seconds, but no time once there is a file called `hurry`.
    """

    def __init__(self, limit: int = 4, step_time: float = 0.0, hurry: str = "") -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.limit, self.step_time, self.hurry = limit, step_time, hurry
        self._obs = np.zeros(2, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        self._obs[:] = self.np_random.normal(size=2)
        return self._obs, {"steps": 0}

    def step(self, action: Any) -> Transition:
        if not os.path.exists(self.hurry):
            time.sleep(self.step_time)
        self.steps += 1
        self._obs += action + self.np_random.normal(size=2)
        info = {"steps": self.steps, "far": {"by": float(abs(self._obs[0]))}} if abs(self._obs[0]) > 1 else {}
        return self._obs, float(self._obs[1]), bool(self._obs[0] > 3), self.steps >= self.limit, info


class Unpicklable(Exception):
    def __init__(self, message: str, *, key: int) -> None:
        super().__init__(f"{message} {key}")


class Bad(gym.Env[Any, Any]):
    """Does one thing wrong, which `fault` names."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.observation_space: spaces.Space[Any] = spaces.Box(-1, 1, (2,), np.float32)
        self.action_space: spaces.Space[Any] = spaces.Discrete(2)
        if fault == "not here" and multiprocessing.parent_process() is not None:
            raise ValueError("no display")
        if fault == "constructor":
            raise ValueError("boom\nin two lines")
        if fault == "text":
            self.observation_space = spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Text(4)})
        if fault == "no parts":
            self.observation_space = spaces.Dict({})
        if fault in ("discrete", "missing key"):
            self.observation_space = spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Discrete(2)})
        if fault == "uint8":
            self.observation_space = spaces.Box(0, 255, (2,), np.uint8)
        if fault == "mask space":
            self.action_space = spaces.Box(-1, 1, (2,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        match self.fault:
            case "reset":
                raise ValueError("boom\nin two lines")
            case "old reset":
                return np.zeros(2, np.float32)
            case "reset shape":
                return np.zeros(3, np.float32), {}
            case "reset nan":
                return np.array([0, np.nan], np.float32), {}
            case "uint8":
                return np.zeros(2, np.float64), {}
            case "discrete":
                return {"a": 1, "b": 2}, {}
            case "missing key":
                return {"a": 1}, {}
            case "info":
                return np.zeros(2, np.float32), None
            case "mask shape":
                return np.zeros(2, np.float32), {"action_mask": np.ones(3, np.int8)}
            case "mask empty":
                return np.zeros(2, np.float32), {"action_mask": np.zeros(2, np.int8)}
            case "mask ragged":
                return np.zeros(2, np.float32), {"action_mask": (np.ones(2), np.ones(3))}
            case "mask space":
                return np.zeros(2, np.float32), {"action_mask": np.ones(2, np.int8)}
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        obs: Any = np.zeros(2, np.float32)
        match self.fault:
            case "step":
                raise KeyError("boom")
            case "late step" if self.steps == 10:
                raise KeyError("late boom")
            case "late step of rank 1" if self.steps == 10 and os.environ["RANK"] == "1":
                raise KeyError("late boom")
            case "unpicklable" if self.steps == 10:
                raise Unpicklable("boom", key=3)
            case "exit" if self.steps == 10:
                os._exit(7)
            case "hang" if self.steps == 10:
                time.sleep(600)
            case "old step":
                return obs, 0.0, False, {}
            case "step shape":
                return np.zeros((1, 2), np.float32), 0.0, False, False, {}
            case "inf":
                return np.array([np.inf, 0], np.float32), 0.0, False, False, {}
            case "reward nan":
                return obs, float("nan"), False, False, {}
            case "done shape":
                return obs, 0.0, np.zeros(1, bool), False, {}
            case "late connection" if self.steps == 10:
                raise ConnectionRefusedError("no simulator")
            case "reward shape":
                return obs, np.zeros(1), False, False, {}
        return obs, 0.0, False, False, {}


class Pictures(gym.Env[Any, Any]):
    """Pictures of 16 x 16, drawn from the seed, that reward those who choose their brightest channel; 8 an episode."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (as Gymnasium has it)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (16, 16, 3), np.uint8)
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._draw(), {}

    def step(self, action: Any) -> Transition:
        reward = float(action == self.picture.sum((0, 1)).argmax())
        self.steps += 1
        return self._draw(), reward, self.steps == 8, False, {}

    def render(self) -> Any:
        return self.picture

    def _draw(self) -> Any:
        self.picture = self.np_random.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        return self.picture


BOX, BYTES = spaces.Box(-1, 1, (2,), np.float32), spaces.Box(0, 255, (2,), np.uint8)
WIDE = spaces.Box(-np.inf, np.inf, (2,), np.float64)
BOTH = spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Tuple((BOX, spaces.MultiBinary(2)))})
GOOD_BOTH = {"a": 1, "b": (np.zeros(2, np.float32), np.zeros(2, np.int8))}

LATE_OBS: dict[str, tuple[spaces.Space[Any], Any, Any, str]] = {
    "shape": (BOX, np.zeros(2, np.float32), np.zeros(3, np.float32), "an observation of shape (3,)"),
    "batch of one": (BOX, np.zeros(2, np.float32), np.zeros((1, 2), np.float32), "an observation of shape (1, 2)"),
    "number": (BOX, np.zeros(2, np.float32), 0.5, "an observation of shape ()"),
    "none": (BOX, np.zeros(2, np.float32), None, "an observation of shape ()"),
    "ragged": (BOX, np.zeros(2, np.float32), [[1.0], [1.0, 2.0]], "the observation [[1.0], [1.0, 2.0]], which is no"),
    "text": (BOX, np.zeros(2, np.float32), ["a", "b"], "the observation array(['a', 'b'], dtype='<U1') of dtype <U1"),
    "complex": (BOX, np.zeros(2, np.float32), np.ones(2) * 1j, "of dtype complex128"),
    "objects": (BOX, np.zeros(2, np.float32), [None, 1.0], "the observation array([None, 1.0], dtype=object)"),
    "nan": (BOX, np.zeros(2, np.float32), np.array([0, np.nan], np.float32), "an observation that holds nan"),
    "inf": (BOX, np.zeros(2, np.float32), np.array([-np.inf, 0], np.float32), "an observation that holds -inf"),
    "1e30": (BOX, np.zeros(2, np.float32), np.array([1e30, 0], np.float32), "holds 1e+30"),
    "float32 overflow": (BOX, np.zeros(2, np.float32), np.array([1e300, 0.0]), "an observation that holds 1e+300"),
    "wide": (WIDE, np.zeros(2), np.array([-1e300, 0.0]), "an observation that holds -1e+300"),
    "discrete 3": (spaces.Discrete(3), 1, 3, "an observation 3"),
    "discrete -1": (spaces.Discrete(3), np.int64(1), np.int64(-1), "an observation -1"),
    "discrete 1.7": (spaces.Discrete(3), 1, 1.7, "the observation array(1.7) of dtype float64"),
    "discrete start": (spaces.Discrete(3, start=2), 2, 1, "an observation 1"),
    "discrete array": (spaces.Discrete(3), 1, np.array([1]), "an observation of shape (1,)"),
    "discrete none": (spaces.Discrete(3), 1, None, "the observation array(None, dtype=object)"),
    "discrete text": (spaces.Discrete(3), 1, "1", "the observation array('1', dtype='<U1')"),
    "discrete 2**70": (spaces.Discrete(3), 1, 2**70, "the observation array(1180591620717411303424, dtype=object)"),
    "multidiscrete -1": (
        spaces.MultiDiscrete([2, 3]),
        np.array([0, 0]),
        np.array([0, -1]),
        "space MultiDiscrete([2 3])",
    ),
    "multidiscrete 3": (spaces.MultiDiscrete([2, 3]), np.array([0, 0]), np.array([1, 3]), "an observation [1 3]"),
    "multidiscrete 0.5": (spaces.MultiDiscrete([2, 3]), np.array([0, 0]), np.array([0, 0.5]), "dtype float64"),
    "multibinary 2": (spaces.MultiBinary(2), np.zeros(2, np.int8), np.array([0, 2], np.int8), "an observation [0 2]"),
    "multibinary -1": (spaces.MultiBinary(2), np.zeros(2, np.int8), np.array([-1, 0]), "an observation [-1 0]"),
    "bytes 300": (BYTES, np.zeros(2, np.uint8), np.array([300, 0]), "an observation that holds 300"),
    "bytes 256": (BYTES, np.zeros(2, np.uint8), np.array([0, 256], np.uint16), "an observation that holds 256"),
    "bytes -1": (BYTES, np.zeros(2, np.uint8), np.array([-1, 0], np.int8), "an observation that holds -1"),
    "bytes 0.5": (BYTES, np.zeros(2, np.uint8), np.array([0.5, 0]), "the observation array([0.5, 0. ]) of dtype"),
    "key": (BOTH, GOOD_BOTH, {"a": 1}, "an observation that does not fit Dict("),
    "no dict": (BOTH, GOOD_BOTH, None, "an observation that does not fit Dict("),
    "short tuple": (BOTH, GOOD_BOTH, {"a": 1, "b": (np.zeros(2, np.float32),)}, "that does not fit Tuple("),
    "inner": (BOTH, GOOD_BOTH, {"a": 3, "b": GOOD_BOTH["b"]}, "an observation 3"),
    "inner shape": (BOTH, GOOD_BOTH, {"a": 1, "b": (np.zeros(2, np.float32), 1)}, "an observation of shape ()"),
}
"""Spaces with a right observation and a wrong one, and the words by which errors name the wrong one."""


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError("not even its name")


LATE_OUTCOMES: dict[str, tuple[Any, str]] = {
    "reward (1,)": ((np.ones(1), False, False, {}), "the reward array([1.])"),
    "reward none": ((None, False, False, {}), "the reward None"),
    "reward text": (("1.0", False, False, {}), "the reward '1.0'"),
    "reward complex": ((1j, False, False, {}), "the reward 1j"),
    "reward nan": ((float("nan"), False, False, {}), "the reward nan"),
    "reward 10**400": ((10**400, False, False, {}), "the reward 1000"),
    "reward 10**5000": ((10**5000, False, False, {}), "the reward <int>"),
    "reward 1e30": ((1e30, False, False, {}), "the reward 1e+30"),
    "reward list": (([1.0, 2.0], False, False, {}), "the reward [1.0, 2.0]"),
    "reward object": ((Unprintable(), False, False, {}), "the reward <Unprintable>"),
    "terminated (1,)": ((1.0, np.zeros(1, bool), False, {}), "terminated=array([False])"),
    "terminated (2,)": ((1.0, np.zeros(2, bool), False, {}), "terminated=array([False, False])"),
    "terminated none": ((1.0, None, False, {}), "terminated=None"),
    "terminated text": ((1.0, "False", False, {}), "terminated='False'"),
    "truncated 0.3": ((1.0, False, 0.3, {}), "truncated=0.3"),
    "truncated object": ((1.0, False, Unprintable(), {}), "truncated=<Unprintable>"),
    "info none": ((1.0, False, False, None), "the info None"),
    "info list": ((1.0, False, False, ["a"]), "the info ['a']"),
    "four": ((1.0, False, False), "a tuple of 4"),
}
"""Wrong results of a step, without its observation, and the words by which errors name them."""


class Late(gym.Env[Any, Any]):
    """Episodes of ten steps with rewards of 1; in step `at` of its life it does what `fault` names wrong.

    `when` is where observations go wrong: in any step, in an episode's last one (`final`), or in a reset.
    """

    def __init__(self, fault: str = "", at: int = 30, when: str = "step") -> None:
        self.fault, self.at, self.when = fault, at, when
        if fault in LATE_OBS:
            self.observation_space, self.good, self.bad, _ = LATE_OBS[fault]
        else:
            self.observation_space, self.good, self.bad = BOX, np.zeros(2, np.float32), None
        self.action_space = spaces.Discrete(2)
        self.life = self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        wrong = self.when == "reset" and self.life >= self.at
        return self.bad if wrong else self.good, {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        self.life += 1
        over = self.steps == 10
        now = self.life == self.at if self.when == "step" else over and self.life >= self.at
        if now and self.fault in LATE_OUTCOMES:
            return (self.good, *LATE_OUTCOMES[self.fault][0])
        return self.bad if now and self.when != "reset" else self.good, 1.0, over, False, {}


gym.register("user/Late-v0", "user_envs:Late")
gym.register("user/Pictures-v0", "user_envs:Pictures")
gym.register("user/Walk-v0", "user_envs:Walk")
gym.register("user/Bad-v0", "user_envs:Bad")
