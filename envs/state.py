"""The state of environments as plain data, so that a run can go on in the middle of their episodes.

The attributes of most environments can be read and written. Others hold what cannot be read, as those of Box2D and
MuJoCo do: of them, the actions of an episode are kept, and the generators as they were before it, and the episode is
played again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from rlkit.envs.attributes import Node, Reader, Unreadable, Unrestorable, Writer
from rlkit.errors import told
from rlkit.spaces import Array, Obs, leaves

Env = gym.Env[Any, Any]

LONGEST_EPISODE = 100_000
"""Steps of an episode that are played again; a longer one is begun anew."""
_tables: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
"""Large lists and dicts of each environment, as they were when it was read for the first time."""


def read_attributes(env: Any) -> Node:
    """Returns the state of an environment that is plain data; raises Unreadable for another one."""
    return _read(env)[0]


def _read(env: Any) -> tuple[Node, list[str]]:
    """Returns the state of an environment that is plain data, and remarks about what is not in it."""
    reader = Reader(_tables.setdefault(env, {}))
    return reader.read(env, type(env).__name__), list(reader.remarks)


def write_attributes(env: Any, node: Node) -> None:
    """Gives an environment, made alike, the state that `read_attributes` returned; raises Unrestorable."""
    Writer().restored(node, env, type(env).__name__)


class Recorded(gym.Wrapper[Any, Any, Any, Any]):
    """A wrapper around an environment whose state cannot be read: it keeps what it takes to play its episode again."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self._start: Node = None
        self._actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment, and notes how it was before."""
        self._actions = []
        self._start = {"attributes": Reader(partly=True).read(self.env, ""), "seed": seed}
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        """Steps the environment, and notes the action."""
        if len(self._actions) <= LONGEST_EPISODE:
            self._actions.append(np.array(action))
        return self.env.step(action)

    def state(self) -> Node:
        """Returns what it takes to play the episode again; raises Unreadable for one that is too long."""
        if len(self._actions) > LONGEST_EPISODE:
            raise Unreadable(f"the episode has more than {LONGEST_EPISODE:,} steps")
        actions = np.stack(self._actions) if self._actions else None
        return {**self._start, "actions": actions}

    def play(self, state: Node) -> Any:
        """Plays an episode again, and returns its last observation."""
        Writer(partly=True).restored(state["attributes"], self.env, "")
        obs, _ = self.reset(seed=state["seed"])
        for action in () if state["actions"] is None else state["actions"]:
            obs, *_ = self.step(action if action.ndim else action[()])
        return obs


def is_readable(env: Env) -> bool:
    """True if the state of an environment can be read as it is, so that no episode needs to be played again."""
    try:
        read_attributes(env)
    except Unreadable:
        return False
    return True


def read_env(env: Any) -> dict[str, Any]:
    """Returns the state of an environment as data that can be stored; `missing` in it says why there is none.

    `remarks` in it are sentences about what is not stored.
    """
    try:
        if isinstance(env, Recorded):
            return {"episode": env.state()}
        attributes, remarks = _read(env)
        return {"attributes": attributes, "remarks": remarks}
    except Unreadable as error:
        return {"missing": f"{error}, which cannot be stored"}


def write_env(env: Any, state: Mapping[str, Any], last_obs: Sequence[Array]) -> str | None:
    """Restores the state of an environment that was reset; returns the reason where that cannot be.

    `last_obs` are the leaves of the observation that the episode had reached: an episode that is played again has to
    lead there.
    """
    if "missing" in state:
        return str(state["missing"])
    try:
        if "attributes" in state:
            write_attributes(env, state["attributes"])
            return None
        if not isinstance(env, Recorded):
            return "its state could not be read before, and now it can"
        reached = leaves(env.observation_space, env.play(state["episode"]))
    except Unrestorable as error:
        return f"{error}"
    except Exception as error:  # of an environment that takes other values for what it was
        return told(error)
    same = all(np.array_equal(one, other) for one, other in zip(reached, last_obs, strict=True))
    return None if same else "its episode, played again, led elsewhere"


def read_envs(envs: VectorEnv[Any, Any, Any]) -> list[dict[str, Any]]:
    """Returns the state of each environment in a vector; one for all of them where they are one object."""
    states: list[dict[str, Any]] = envs.read_states() if hasattr(envs, "read_states") else [read_env(envs)]
    return states


def write_envs(envs: VectorEnv[Any, Any, Any], states: Sequence[Mapping[str, Any]], last_obs: Obs) -> list[str | None]:
    """Restores the states that `read_envs` returned; returns the reason for each environment, None where it worked."""
    if hasattr(envs, "write_states"):
        rows = [tuple(leaf[i] for leaf in last_obs) for i in range(envs.num_envs)]
        reasons: list[str | None] = envs.write_states(states, rows)
        return reasons
    return [write_env(envs, states[0], last_obs)] * envs.num_envs
