"""EnvPool's implementations of Gymnasium's environments, which threads step in C++; EnvPool is an optional extra."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rlkit.envs.atari import FRAME_SKIP, FRAME_STACK, NOOP_MAX, SCREEN_SIZE, is_atari
from rlkit.envs.vector import Env, Transitions
from rlkit.errors import RlkitError, unknown
from rlkit.system.processes import num_cores


class EnvPoolVectorEnv(VectorEnv[Any, Any, Any]):
    """EnvPool's environments as a vector environment of Gymnasium, in NEXT_STEP mode, where a reset is a separate step.

    Data differ from those of Gymnasium's implementation by rounding and by their random numbers.
    """

    def __init__(self, env: Env, id: str, num_envs: int, options: Mapping[str, Any]) -> None:
        """Makes the environments; `id` and `options` are EnvPool's.

        `env` is Gymnasium's own environment, for whose spaces the agent is made. Raises RlkitError if EnvPool is
        not installed, has no such environment or option, or has other spaces.
        """
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = env.observation_space, env.action_space
        self.observation_space = batch_space(env.observation_space, num_envs)
        self.action_space = batch_space(env.action_space, num_envs)
        self._id, self._options = id, options
        self._pool = self._made(0)
        for name in ("observation_space", "action_space"):
            ours, theirs = getattr(env, name), getattr(self._pool, name)
            if not same_arrays(ours, theirs):
                raise RlkitError(f"vectorization=envpool: {id} has the {name} {theirs} there, and {ours} in Gymnasium")

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets all environments; a seed, which is one for all together, makes them anew."""
        if seed is not None:
            self._pool.close()
            self._pool = self._made(int(seed) % 2**31)
        return self._pool.reset()[0], {}

    def step(self, actions: Any) -> Transitions:
        """Steps all environments; one whose episode ended in the last step is reset instead, without a reward."""
        obs, rewards, terminated, truncated, _ = self._pool.step(np.asarray(actions))
        return obs, rewards, terminated, truncated, {}

    def close_extras(self, **kwargs: Any) -> None:
        """Ends EnvPool's threads."""
        self._pool.close()

    def _made(self, seed: int) -> Any:
        envpool = import_envpool()
        if self._id not in (known := envpool.list_all_envs()):
            raise unknown("EnvPool environment", self._id, known)
        taken = envpool.make_spec(self._id)._config_keys
        for name in self._options:
            if name not in taken:
                raise unknown(f"option of EnvPool's {self._id}", name, taken)
        threads = min(num_cores(), self.num_envs)
        sizes = {"num_envs": self.num_envs, "num_threads": threads}
        with warnings.catch_warnings(action="ignore"):  # Gymnasium warns of the precision of EnvPool's bounds
            pool = envpool.make_gymnasium(self._id, seed=seed, **sizes, **self._options)
            _ = pool.observation_space, pool.action_space  # their first use makes them, and gives the warnings
        return pool


def make_envpool(
    spec: EnvSpec, env: Env, num_envs: int, kwargs: Mapping[str, Any], *, stacked: bool, training: bool
) -> EnvPoolVectorEnv:
    """Makes EnvPool's environments for a registered one; `stacked` is True if that has the Atari stack.

    Raises RlkitError for an environment with action masks, for an Atari game without the stack, and like
    EnvPoolVectorEnv.
    """
    if env.has_wrapper_attr("action_masks"):
        raise RlkitError(f"vectorization=envpool: {spec.id} has action masks, which EnvPool does not give")
    options = dict(kwargs)
    if spec.max_episode_steps is not None:
        options.setdefault("max_episode_steps", spec.max_episode_steps)
    if is_atari(spec):
        if not stacked:
            raise RlkitError(f"vectorization=envpool: {spec.id} is there with preprocessing=atari only")
        options = atari_options(spec, options, training=training)
    return EnvPoolVectorEnv(env, spec.name + f"-v{spec.version}", num_envs, options)


def atari_options(spec: EnvSpec, options: Mapping[str, Any], *, training: bool) -> dict[str, Any]:
    """Returns the options with which EnvPool preprocesses like `rlkit.envs.atari.atari_stack`."""
    options = dict(options)
    return {
        "frame_skip": options.pop("frameskip", FRAME_SKIP),
        "stack_num": FRAME_STACK,
        "img_height": SCREEN_SIZE,
        "img_width": SCREEN_SIZE,
        "noop_max": NOOP_MAX,
        "use_fire_reset": False,
        "episodic_life": training,
        "reward_clip": training,
        "repeat_action_probability": spec.kwargs.get("repeat_action_probability", 0.0),
        **options,
    }


def same_arrays(ours: spaces.Space[Any], theirs: spaces.Space[Any]) -> bool:
    """True if values of both spaces have equal shapes and types; bounds may differ, as some spaces leave them open."""
    if isinstance(ours, spaces.Discrete) and isinstance(theirs, spaces.Discrete):
        return bool(ours.n == theirs.n and ours.start == theirs.start)
    return type(ours) is type(theirs) is spaces.Box and (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


def import_envpool() -> Any:
    """Imports EnvPool; raises RlkitError if it is not installed."""
    try:
        return importlib.import_module("envpool")
    except ModuleNotFoundError as error:
        raise RlkitError(
            'vectorization=envpool needs EnvPool: pip install -e ".[envpool]" in a clone; vectorization=auto needs none'
        ) from error
