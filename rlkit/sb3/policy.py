"""An agent with the interface of SB3's policies, as far as it can have one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import maybe_transpose
from torch import Tensor, nn

from rlkit.agents.base import Agent
from rlkit.errors import RlkitError


class Policy:
    """Acts as SB3's policies do, and holds their tensors."""

    def __init__(self, agent: Agent[Any]) -> None:
        self._agent = agent
        self.observation_space, self.action_space = agent.observation_space, agent.action_space

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Returns actions for one observation or a batch, and the state; sampled ones unless `deterministic`.

        Images may have their channels last.
        """
        if isinstance(observation, tuple):
            raise RlkitError(
                "the observation is a tuple, as Gymnasium's reset returns it with an info: you are mixing Gym API with "
                "SB3's VecEnv API; expected the observation alone"
            )
        if isinstance(self.observation_space, spaces.Dict):
            observation = {
                key: maybe_transpose(np.asarray(observation[key]), part)
                for key, part in self.observation_space.spaces.items()
            }
        else:
            observation = maybe_transpose(np.asarray(observation), self.observation_space)
        action, _ = self._agent.predict(observation, state, episode_start, deterministic)
        return np.asarray(action), state

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return next(self.parameters()).device

    @property
    def convolutional(self) -> bool:
        """True if there are convolutions, which compute with all cores."""
        return any(isinstance(part, nn.Conv2d) for part in self._agent.model.modules())

    def parameters(self) -> Iterator[Tensor]:
        """Yields the tensors that learn."""
        yield from self._agent.model.parameters()

    def state_dict(self) -> dict[str, Tensor]:
        """Returns copies of all tensors by rlkit's names."""
        return {name: tensor.detach().clone() for name, tensor in self._agent.model.state_dict().items()}

    def load_state_dict(self, tensors: Mapping[str, Tensor], strict: bool = True) -> None:
        """Takes tensors that `state_dict` returned."""
        self._agent.model.load_state_dict(dict(tensors), strict=strict)
