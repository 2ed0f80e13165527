"""The life of environments: made when they are first needed, seeded in all that they may draw from, and closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from rlkit.errors import RlkitError, told
from rlkit.system.terminal import say

Env = gym.Env[Any, Any]


class LazyEnvs:
    """Equal environments that are made by `make` when they are first asked for; `close` closes them.

    `say` is told if there are fewer than asked for, as of environments that can exist only a few times.
    """

    def __init__(self, make: Callable[[], Env], say: Callable[[str], object] = lambda line: None) -> None:
        self._make, self._say = make, say
        self._envs: list[Env] = []
        self._complete = False

    def __call__(self, count: int) -> list[Env]:
        """Returns `count` environments, or as many as can be made; raises RlkitError if that is none."""
        while len(self._envs) < count and not self._complete:
            try:
                self._envs.append(self._make())
            except RlkitError as error:
                if not self._envs:
                    raise
                self._complete = True
                self._say(f"episodes are evaluated in {len(self._envs)} environments and not in {count}: {error}")
        return self._envs[:count]

    def close(self) -> None:
        """Closes all that were made."""
        close_all(self._envs)


def layers(env: Any) -> Iterator[Any]:
    """Yields an environment and all that it wraps, from the outside to the inside."""
    yield env
    while isinstance(env, gym.Wrapper | gym.vector.VectorWrapper):
        env = env.env
        yield env


def name_of(env: Any) -> str:
    """Returns the environment's id, or the name of its class if it has none."""
    spec = getattr(env, "spec", None)
    return spec.id if spec else type(env.unwrapped).__name__


def has_time_limit(env: Env) -> bool:
    """True if the environment says that its episodes are limited: by Gymnasium's time limit, or Atari's of frames."""
    if any(isinstance(layer, gym.wrappers.TimeLimit) for layer in layers(env)):
        return True
    spec = env.spec
    return spec is not None and (bool(spec.max_episode_steps) or "max_num_frames_per_episode" in spec.kwargs)


def seed_spaces(env: Any, seed: int) -> None:
    """Seeds the spaces of an environment and of all that it wraps, because some environments draw from them.

    Their seeds are derived from `seed`: with the environment's own one, they would all draw the same numbers.
    """
    actions, observations = (int(number) >> 1 for number in np.random.SeedSequence(seed).generate_state(2))
    for layer in layers(env):
        for name, own in (("action_space", actions), ("observation_space", observations)):
            if isinstance(space := getattr(layer, name, None), gym.Space):
                space.seed(own)


def close_all(envs: Sequence[Any]) -> None:
    """Closes environments; what raises in that is said on stderr, and takes nothing from what was done with them."""
    failed: list[tuple[str, BaseException]] = []
    for env in envs:
        try:
            env.close()
        except (Exception, SystemExit) as error:
            failed.append((name_of(env), error))
    if failed:
        name, first = failed[0]
        times = f" in {len(failed)} environments" if len(failed) > 1 else ""
        say(f"remark: env {name}: close raised {told(first)}{times}; the results are whole", "stderr")
