"""Checks of an environment before training, so that mistakes in it are reported at once and in one line."""

from __future__ import annotations

import contextlib
import copy
import math
import random
import sys
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlkit.action_masks import KEY, fitted_mask
from rlkit.errors import Misfit, RlkitError, one_line, shown, told
from rlkit.spaces import LARGEST, LEAF_SPACES, Array, check_computable, fitted, leaf_spaces, leaves

Env = gym.Env[Any, Any]

LIMIT = float(LARGEST)
FLOAT64, BOOL = np.dtype(np.float64), np.dtype(np.bool_)

CHECKED_STEPS = 5
"""Number of random steps that `check_env` takes."""

ENDLESS_STEPS = 1_000
"""Random steps without an episode's end after which an environment may have none."""


def env_error(name: str, message: str) -> RlkitError:
    """Makes an error whose message is on one line, although arrays and spaces in it may be printed on several."""
    return RlkitError(f"env {name}: {one_line(message)}")


@contextlib.contextmanager
def env_errors(name: str, doing: str) -> Iterator[None]:
    """Turns any exception into an RlkitError of one line with the environment's name; `doing` is what raised it."""
    try:
        yield
    except Misfit as misfit:
        raise env_error(name, f"{doing} returned {misfit}") from misfit
    except RlkitError:
        raise
    except (Exception, SystemExit) as error:  # sys.exit, as of a window that was closed, must not end a run silently
        raise env_error(name, f"{doing} raised {told(error)}") from error


def check_env(env: Env, name: str, steps: int = CHECKED_STEPS) -> list[str]:
    """Checks an environment by resetting it and taking a few random steps, and returns notes on what is unwise in it.

    Raises RlkitError if it is defined wrongly, if reset or step raises an exception, if what they return does not fit
    its spaces, or if the spaces change. `name` is the environment's name in the message. Notes are about an environment
    that writes into its actions, changes an observation after it was returned, or draws from global generators; and,
    where at least `ENDLESS_STEPS` steps are taken, about one that has no time limit and does not end.
    """
    _check_definition(env, name)
    before = copy.deepcopy((env.observation_space, env.action_space))
    env.action_space.seed(0)
    notes: dict[str, None] = {}  # in the order in which they were found, each once
    ended = False
    generators = _generator_states()
    obs, mask = _checked_reset(env, name, seed=0)
    for _ in range(steps):
        action = sample_action(env.action_space, mask)
        kept, given = _copied(env.observation_space, obs), _copied(env.action_space, action)
        with env_errors(name, "step"):
            next_obs, _, terminated, truncated, info = checked_step(env.step(action))
            fitted(env.observation_space, next_obs)
        if not _equal(given, _copied(env.action_space, action)):
            notes["it writes into the actions that it gets; it should copy them first"] = None
        if not _equal(kept, _copied(env.observation_space, obs)):
            notes["it changes an observation after it was returned; rlkit copies them, others may not"] = None
        obs = next_obs
        mask = _checked_mask(env, info, name)
        if terminated or truncated:
            ended = True
            obs, mask = _checked_reset(env, name)
        _check_unchanged(env, before, name)
    for which, state in _generator_states().items():
        if state != generators.get(which, state):
            notes[f"it draws from the global generator of {which}, which a reset does not seed; use self.np_random"] = (
                None
            )
    if not ended and steps >= ENDLESS_STEPS and (env.spec is None or env.spec.max_episode_steps is None):
        notes[f"no episode ended in {steps:,} random steps, and it has no time limit: register max_episode_steps"] = (
            None
        )
    return [f"env {name}: {note}" for note in notes]


def _copied(space: spaces.Space[Any], value: Any) -> list[Array]:
    return [leaf.copy() for leaf in leaves(space, value)]


def _equal(some: list[Array], others: list[Array]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(some, others, strict=True))


def _check_unchanged(env: Env, before: tuple[Any, Any], name: str) -> None:
    for which, was in zip(("observation_space", "action_space"), before, strict=True):
        if (now := getattr(env, which)) != was:
            raise env_error(name, f"its {which} changed from {was} to {now}; it must stay, as networks are made for it")


def _generator_states() -> dict[str, Any]:
    """The states of the global generators, by the names of their modules; torch's only if it was imported."""
    legacy: Any = np.random.get_state()
    states: dict[str, Any] = {"np.random": (legacy[1].tobytes(), *legacy[2:]), "random": random.getstate()}
    if (torch := sys.modules.get("torch")) is not None:
        states["torch"] = bytes(torch.get_rng_state().numpy())
    return states


def checked_reset(result: Any) -> tuple[Any, dict[str, Any]]:
    """Takes apart the result of `reset`; raises Misfit unless it is an observation, not looked at here, and a dict."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise Misfit(_described(result), "reset must return (obs, info)")
    checked_info(result[1])
    return result


def checked_step(result: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    """Takes apart what `step` returned, with the reward as a float and the flags as bools.

    Raises Misfit unless there are five, the reward is one finite number, each flag is a bool and the info is a dict.
    The observation is not looked at.
    """
    if not isinstance(result, tuple) or len(result) != 5:
        raise Misfit(_described(result), "step must return (obs, reward, terminated, truncated, info)")
    obs, reward, terminated, truncated, info = result
    if type(reward) is not float or not -LIMIT <= reward <= LIMIT:
        reward = checked_reward(reward)
    if type(terminated) is not bool:
        terminated = checked_flag("terminated", terminated)
    if type(truncated) is not bool:
        truncated = checked_flag("truncated", truncated)
    checked_info(info)
    return obs, reward, terminated, truncated, info


def checked_reward(reward: Any) -> float:
    """Returns a reward as a float; raises Misfit unless it is one real, finite number."""
    try:
        array = np.asarray(reward)
        number = float(array[()]) if array.ndim == 0 and array.dtype.kind in "biufO" else None
    except Exception:  # integers beyond a float's range, tensors with a gradient, objects of the user's own
        number = None
    if number is None or isinstance(reward, str | bytes):
        raise Misfit(f"the reward {shown(reward)}", "it must be a finite number")
    check_computable("the reward", np.asarray(number), 0)
    return number


def checked_rewards(rewards: list[Any]) -> Array:
    """Returns the rewards of several environments as an array of float64; raises Misfit like `checked_reward`.

    Whether the numbers are finite is left to whoever gets them, for whom it is cheaper.
    """
    try:
        array = np.array(rewards)
        if array.dtype is FLOAT64 and array.ndim == 1:
            return array
        if array.dtype.kind in "fiub" and array.ndim == 1:
            return array.astype(np.float64)
    except Exception:  # of several shapes, or of anything that is no number: look at each
        pass
    return np.array([checked_reward(reward) for reward in rewards])


def checked_flag(name: str, flag: Any) -> bool:
    """Returns `terminated` or `truncated` as a bool; raises Misfit unless it is one, or the number 0 or 1."""
    try:
        array = np.asarray(flag)
        fits = array.ndim == 0 and array.dtype.kind in "biuf" and bool(array in (0, 1))
    except Exception:  # objects of the user's own may raise anything
        fits = False
    if not fits:
        raise Misfit(f"{name}={shown(flag)}", "it must be a bool")
    return bool(array)


def checked_flags(name: str, flags: list[Any]) -> Array:
    """Returns the flags of several environments as an array; raises Misfit like `checked_flag`."""
    try:
        array = np.array(flags)
        if array.dtype is BOOL and array.ndim == 1:
            return array
    except Exception:  # of several shapes: look at each
        pass
    return np.array([checked_flag(name, flag) for flag in flags])


def checked_info(info: Any) -> None:
    """Raises Misfit unless an environment's info is a dict."""
    if not isinstance(info, dict):
        raise Misfit(f"the info {shown(info)}", "it must be a dict")


def sample_action(space: spaces.Space[Any], mask: Any = None) -> Any:
    """Draws a random action, among those that the mask allows if there is one.

    The mask is True for allowed actions; for MultiDiscrete, those of all parts stand one after the other.
    """
    if mask is None:
        return space.sample()
    allowed = np.asarray(mask, dtype=np.int8)
    if isinstance(space, spaces.MultiDiscrete):
        return space.sample(tuple(np.split(allowed, np.cumsum(np.ravel(space.nvec))[:-1])))
    return space.sample(allowed)


def _described(result: Any) -> str:
    return f"a tuple of {len(result)}" if isinstance(result, tuple) else f"a {type(result).__name__}"


def _checked_reset(env: Env, name: str, seed: int | None = None) -> tuple[Any, np.ndarray[Any, Any] | None]:
    with env_errors(name, "reset"):
        obs, info = checked_reset(env.reset(seed=seed))
        fitted(env.observation_space, obs)
    return obs, _checked_mask(env, info, name)


def _check_definition(env: Env, name: str) -> None:
    """Raises RlkitError for spaces that are none or that no agent can have, and for metadata that are no dict."""
    for which in ("observation_space", "action_space"):
        with env_errors(name, f"its {which}"):
            space = getattr(env, which, None)
        if not isinstance(space, spaces.Space):
            raise env_error(name, f"its {which} is {shown(space)}; expected a space of gymnasium.spaces")
        if any(0 in (part.shape or ()) for part in _some(space)):
            raise env_error(name, f"its {which} {space} has no numbers in it; expected a shape without 0")
    if not isinstance(metadata := getattr(env, "metadata", None), dict):
        raise env_error(name, f"its metadata is {shown(metadata)}; expected a dict")
    parts = leaf_spaces(env.observation_space)
    if not parts:
        raise env_error(name, f"the observation space {env.observation_space} is empty")
    for part in parts:
        if not isinstance(part, LEAF_SPACES):
            supported = ", ".join(kind.__name__ for kind in LEAF_SPACES)
            problem = f"observations of the space {part} are not supported"
            raise env_error(name, f"{problem}; supported are {supported}, and Dict and Tuple of them")


def _some(space: spaces.Space[Any]) -> tuple[spaces.Space[Any], ...]:
    """The leaves of a space if they hold no number between them, else none: one part may be empty beside others."""
    parts = leaf_spaces(space)
    return () if any(math.prod(part.shape or ()) for part in parts) else parts


def _checked_mask(env: Env, info: dict[str, Any], name: str) -> np.ndarray[Any, Any] | None:
    with env_errors(name, "reset or step"):
        return None if info.get(KEY) is None else fitted_mask(env.action_space, info[KEY])
