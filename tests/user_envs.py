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


gym.register("user/Pictures-v0", "user_envs:Pictures")
gym.register("user/Walk-v0", "user_envs:Walk")
gym.register("user/Bad-v0", "user_envs:Bad")
