"""Checks of an environment before training, so that mistakes in it are reported at once and in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlkit.errors import RlkitError
from rlkit.spaces import LEAF_SPACES, leaf_spaces, leaves

Env = gym.Env[Any, Any]

CHECKED_STEPS = 5
"""Number of random steps that `check_env` takes."""


def env_error(name: str, message: str) -> RlkitError:
    """Makes an error whose message is on one line, although arrays and spaces in it may be printed on several."""
    return RlkitError(f"env {name}: {' '.join(message.split())}")


@contextlib.contextmanager
def env_errors(name: str, doing: str) -> Iterator[None]:
    """Turns any exception into an RlkitError of one line with the environment's name; `doing` is what raised it."""
    try:
        yield
    except RlkitError:
        raise
    except Exception as error:
        raise env_error(name, f"{doing} raised {type(error).__name__}: {error}") from error


def check_env(env: Env, name: str) -> None:
    """Checks an environment by resetting it and taking a few random steps.

    Raises RlkitError if its observation space is not supported, if reset or step raises an exception, if an observation
    or an action mask does not fit its space, or if an observation or a reward is not finite. `name` is the
    environment's name in the message.
    """
    _check_space(env.observation_space, name)
    env.action_space.seed(0)
    mask = _checked_reset(env, name, seed=0)
    for _ in range(CHECKED_STEPS):
        with env_errors(name, "step"):
            result: Any = env.step(sample_action(env.action_space, mask))
        if not isinstance(result, tuple) or len(result) != 5:
            expected = "(obs, reward, terminated, truncated, info)"
            raise env_error(name, f"step must return {expected}, not {_described(result)}")
        obs, reward, terminated, truncated, info = result
        _check_obs(env.observation_space, obs, name, "step")
        if np.ndim(reward) != 0 or not np.isfinite(np.asarray(reward, dtype=np.float64)):
            raise env_error(name, f"step returned the reward {reward!r}; it must be a finite number")
        if np.ndim(terminated) != 0 or np.ndim(truncated) != 0:
            raise env_error(
                name, f"step returned terminated={terminated!r}, truncated={truncated!r}; each must be a bool"
            )
        mask = _checked_reset(env, name) if terminated or truncated else _checked_mask(env, info, name)


def sample_action(space: spaces.Space[Any], mask: Any = None) -> Any:
    """Draws a random action, among those that the mask allows if there is one.

    The mask is True for allowed actions; for MultiDiscrete, those of all parts stand one after the other.
    """
    if mask is None:
        return space.sample()
    allowed = np.asarray(mask, dtype=np.int8)
    if isinstance(space, spaces.MultiDiscrete):
        return space.sample(tuple(np.split(allowed, np.cumsum(space.nvec)[:-1])))
    return space.sample(allowed)


def _described(result: Any) -> str:
    return f"a tuple of {len(result)}" if isinstance(result, tuple) else f"a {type(result).__name__}"


def _checked_reset(env: Env, name: str, seed: int | None = None) -> np.ndarray[Any, Any] | None:
    with env_errors(name, "reset"):
        result: Any = env.reset(seed=seed)
    if not isinstance(result, tuple) or len(result) != 2:
        raise env_error(name, f"reset must return (obs, info), not {_described(result)}")
    _check_obs(env.observation_space, result[0], name, "reset")
    return _checked_mask(env, result[1], name)


def _check_space(space: spaces.Space[Any], name: str) -> None:
    parts = leaf_spaces(space)
    if not parts:
        raise env_error(name, f"the observation space {space} is empty")
    for part in parts:
        if not isinstance(part, LEAF_SPACES):
            supported = ", ".join(kind.__name__ for kind in LEAF_SPACES)
            problem = f"observations of the space {part} are not supported"
            raise env_error(name, f"{problem}; supported are {supported}, and Dict and Tuple of them")


def _check_obs(space: spaces.Space[Any], obs: Any, name: str, method: str) -> None:
    returned = f"{method} returned an observation"
    try:
        arrays = leaves(space, obs)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise env_error(name, f"{returned} that does not fit {space}") from error
    for part, array in zip(leaf_spaces(space), arrays, strict=True):
        assert part.dtype is not None  # every supported space has a dtype
        if array.shape != part.shape:
            raise env_error(name, f"{returned} of shape {array.shape}; the space {part} has shape {part.shape}")
        if not np.can_cast(array.dtype, part.dtype, "same_kind"):
            raise env_error(name, f"{returned} of dtype {array.dtype}; the space {part} has dtype {part.dtype}")
        if not np.isfinite(array).all():
            raise env_error(name, f"{returned} that holds {array[~np.isfinite(array)].flat[0]}; it must be finite")
        if not isinstance(part, spaces.Box) and not part.contains(array.astype(part.dtype)):
            raise env_error(name, f"{returned} {array} that is not in its space {part}")


def _checked_mask(env: Env, info: Any, name: str) -> np.ndarray[Any, Any] | None:
    if not isinstance(info, dict):
        raise env_error(name, f"info must be a dict, not {_described(info)}")
    if "action_mask" not in info:
        return None
    with env_errors(name, "reading its action mask"):
        mask = np.asarray(info["action_mask"], dtype=np.bool_)
    space = env.action_space
    if isinstance(space, spaces.Discrete):
        sizes = [int(space.n)]
    elif isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        sizes = [int(n) for n in space.nvec]
    else:
        raise env_error(name, f"action masks are for Discrete and MultiDiscrete actions, not for {space}")
    if mask.shape != (sum(sizes),):
        raise env_error(name, f"the action mask has shape {mask.shape}; {space} needs ({sum(sizes)},)")
    if not all(part.any() for part in np.split(mask, np.cumsum(sizes)[:-1])):
        raise env_error(name, f"the action mask allows no action: {mask}")
    return mask
