"""Wrappers around single environments."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np

Env = gym.Env[Any, Any]
Transition = tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]


class ActionMaskInfo(gym.Wrapper[Any, Any, Any, Any]):
    """Puts what the environment's `action_masks()` returns into info["action_mask"], as a boolean array.

    At the end of an episode there is nothing to choose any more, and no mask.
    """

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self._action_masks = env.get_wrapper_attr("action_masks")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment; info has the mask for the first action."""
        obs, info = self.env.reset(seed=seed, options=options)
        return obs, self._with_mask(info)

    def step(self, action: Any) -> Transition:
        """Steps the environment; info has the mask for the next action."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, info if terminated or truncated else self._with_mask(info)

    def _with_mask(self, info: dict[str, Any]) -> dict[str, Any]:
        return {**info, "action_mask": np.asarray(self._action_masks(), dtype=np.bool_)}


class WorkerEnv(gym.Wrapper[Any, Any, Any, Any]):
    """What an environment needs for sending its results to another process.

    An episode's last observation is copied, because some environments overwrite it when they reset. Some exceptions
    become RuntimeErrors with their text: those of classes that are not Python's own may not survive pickling, and
    EOFError and OSErrors would be mistaken for the pipe's.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment."""
        with _plain_errors():
            return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> Transition:
        """Steps the environment."""
        with _plain_errors():
            obs, reward, terminated, truncated, info = self.env.step(action)
        return deepcopy(obs) if terminated or truncated else obs, reward, terminated, truncated, info


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if type(error).__module__ == "builtins" and not isinstance(error, EOFError | OSError):
            raise
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
