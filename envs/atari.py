"""The Atari preprocessing stack, which gives equal frames for single environments and ale-py's vector environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation, TransformReward

from rlkit.envs.wrappers import Env, Transition

NOOP_MAX = 30
"""Largest number of no-ops at the start of an episode."""
FRAME_SKIP = 4
"""Frames for which an action is repeated."""
SCREEN_SIZE = 84
"""Height and width of an observation in pixels."""
FRAME_STACK = 4
"""Frames in an observation."""


def is_atari(spec: EnvSpec) -> bool:
    """True if the environment is one of ale-py's."""
    return spec.entry_point == "ale_py.env:AtariEnv"


def silence_banner() -> None:
    """Keeps ale-py from printing its name and version in every process."""
    import ale_py

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)


def atari_stack(env: Env, *, frame_skip: int, training: bool) -> Env:
    """Wraps an Atari environment so that its observations are stacks of four grey frames, (4, 84, 84) uint8.

    Each frame is the maximum of two consecutive ones, and only every `frame_skip`-th is kept. Episodes start with 1 to
    30 no-ops. In training, an episode ends with each life and rewards are their signs; in evaluation, an episode is a
    whole game and rewards are points.
    """
    env = AtariPreprocessing(env, noop_max=NOOP_MAX, frame_skip=frame_skip, screen_size=SCREEN_SIZE)
    env = FrameStackObservation(env, FRAME_STACK, padding_type="zero")
    return TransformReward(EpisodicLife(env), lambda reward: np.sign(float(reward))) if training else env


def native_atari_kwargs(kwargs: Mapping[str, Any], *, training: bool) -> dict[str, Any]:
    """Returns the keyword arguments with which ale-py's vector environment preprocesses like `atari_stack`."""
    return {
        "frameskip": FRAME_SKIP,
        "img_height": SCREEN_SIZE,
        "img_width": SCREEN_SIZE,
        "stack_num": FRAME_STACK,
        "noop_max": NOOP_MAX,
        "use_fire_reset": False,
        "life_loss_info": training,
        "reward_clipping": training,
        "autoreset_mode": AutoresetMode.SAME_STEP,
        **kwargs,
    }


class EpisodicLife(gym.Wrapper[Any, Any, Any, Any]):
    """A wrapper that ends an episode when a life is lost, while the game itself goes on until none is left.

    A reset in between changes nothing, unless it has a seed: the next episode starts where the last one ended.
    """

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self._lives = 0
        self._game_over = True
        self._last: tuple[Any, dict[str, Any]] = (None, {})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts a new game if the last one is over or there is a seed; otherwise returns the last observation."""
        if self._game_over or seed is not None:
            self._last = self.env.reset(seed=seed, options=options)
            self._game_over = False
            self._lives = self._last[1]["lives"]
        return self._last

    def step(self, action: Any) -> Transition:
        """Steps the game; the episode also terminates when a life is lost."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._game_over = terminated or truncated
        lost_life = info["lives"] < self._lives
        self._lives = info["lives"]
        self._last = obs, info
        return obs, reward, terminated or lost_life, truncated, info
