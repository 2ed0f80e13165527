"""SB3's vector environments as Gymnasium's, which collectors step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from rlkit.spaces import Array

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv


class GymnasiumVectorEnv(VectorEnv[Any, Any, Any]):
    """Steps a vector environment of SB3's; the last step's results stay, for callbacks to look at."""

    def __init__(self, vec_env: VecEnv, seed: int | None) -> None:
        self.vec_env, self._seed = vec_env, seed
        self.num_envs = vec_env.num_envs
        self.single_observation_space, self.single_action_space = vec_env.observation_space, vec_env.action_space
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.last: dict[str, Any] = {}
        """The last step's `new_obs`, `rewards`, `dones`, `infos` and `actions`, by the names that callbacks know."""

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Resets all environments, by the seed that the user gave, if any: SB3 seeds none otherwise."""
        if self._seed is not None:
            self.vec_env.seed(self._seed)
            self._seed = None
        return self.vec_env.reset(), {}

    def step(self, actions: Any) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Steps all environments; those whose episode is over are reset at once."""
        obs, rewards, dones, infos = self.vec_env.step(actions)
        self.last = {"new_obs": obs, "rewards": rewards, "dones": dones, "infos": infos, "actions": actions}
        cut = np.array([bool(info.get("TimeLimit.truncated", False)) for info in infos])
        info: dict[str, Any] = {}
        if dones.any():
            final = np.empty(self.num_envs, object)
            for i in np.flatnonzero(dones):
                final[i] = infos[i]["terminal_observation"]
            info["final_obs"] = final
        return obs, rewards, dones & ~cut, dones & cut, info
