"""Wrappers around single environments."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, SupportsFloat

import gymnasium as gym

from rlkit.action_masks import KEY, fitted_mask
from rlkit.envs.check import checked_reset, checked_step
from rlkit.envs.lifetime import close_all, seed_spaces
from rlkit.envs.state import read_env, write_env
from rlkit.spaces import Array, fitted
from rlkit.system.seeding import read_generators, seed_globally, write_generators

Env = gym.Env[Any, Any]
Transition = tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]


class ActionMaskInfo(gym.Wrapper[Any, Any, Any, Any]):
    """A wrapper that puts the result of the environment's `action_masks()` into info["action_mask"].

    The last step of an episode has no mask, because there is no action left to choose.
    """

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self._action_masks = env.get_wrapper_attr("action_masks")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment; its info has the mask for the first action."""
        obs, info = self.env.reset(seed=seed, options=options)
        return obs, self._with_mask(info)

    def step(self, action: Any) -> Transition:
        """Steps the environment; its info has the mask for the next action, unless the episode ended."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, info if terminated or truncated else self._with_mask(info)

    def _with_mask(self, info: dict[str, Any]) -> dict[str, Any]:
        return {**info, KEY: self._action_masks()}


class WorkerEnv(gym.Wrapper[Any, Any, Any, Any]):
    """A wrapper for environments whose results are sent to another process.

    It raises Misfit for results that do not fit, because on their way they would be cast without a word. Of infos it
    sends the action mask alone, since all else may be anything, and need not survive pickling. It copies an episode's
    last observation, because some environments overwrite it when they reset. It turns some exceptions into
    RuntimeErrors with their text: those of classes that are not Python's own may not survive pickling, and EOFError and
    OSErrors would be taken for errors of the pipe.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment; a seed is also that of the spaces and the global generators that it may draw from."""
        if seed is not None:
            seed_globally(seed)
            seed_spaces(self.env, seed)
        with _plain_errors():
            result = self.env.reset(seed=seed, options=options)
        obs, info = checked_reset(result)
        fitted(self.env.observation_space, obs)
        return obs, self._mask_of(info)

    def step(self, action: Any) -> Transition:
        """Steps the environment."""
        with _plain_errors():
            result = self.env.step(action)
        obs, reward, terminated, truncated, info = checked_step(result)
        fitted(self.env.observation_space, obs)
        if terminated or truncated:  # there is no action left to choose
            return deepcopy(obs), reward, terminated, truncated, {}
        return obs, reward, terminated, truncated, self._mask_of(info)

    def _mask_of(self, info: dict[str, Any]) -> dict[str, Any]:
        return {} if info.get(KEY) is None else {KEY: fitted_mask(self.env.action_space, info[KEY])}

    def state(self) -> dict[str, Any]:
        """Returns the state of the environment and of this process's global generators."""
        return {**read_env(self.env), "generators": read_generators()}

    def restore(self, state: Mapping[str, Any], last_obs: Sequence[Array]) -> str | None:
        """Restores what `state` returned; returns the reason where that cannot be."""
        reason = write_env(self.env, state, last_obs)
        write_generators(state["generators"])
        return reason

    def close(self) -> None:
        """Closes the environment; what raises in that is said on stderr."""
        close_all([self.env])


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if type(error).__module__ == "builtins" and not isinstance(error, EOFError | OSError):
            raise
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
