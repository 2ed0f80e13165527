"""The actor-critic network: one MLP for the policy and one for the value, behind an encoder that both share."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit.networks.encoders import make_encoders
from rlkit.networks.heads import LOG_STD_LIMITS, Gaussian, Head, make_head
from rlkit.networks.mlp import hidden_sizes, mlp
from rlkit.setting import NetworkConfig


class ActorCritic(nn.Module):
    """Maps features of observations to the parameters of the action distribution, and to values."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        config: NetworkConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.head: Head = make_head(action_space, config)
        self.features, self.cnns = make_encoders(observation_space, config, generator)
        inputs = self.cnns.num_outputs
        hidden = hidden_sizes(config, ends_in_hidden_layer=self.cnns.ends_in_hidden_layer)
        # The policy's small last gain makes its first actions nearly uniform: see docs/ppo-details.md.
        self.actor = mlp([inputs, *hidden, self.head.num_outputs], config, 0.01, generator)
        critic_hidden = hidden if config.critic_hidden_sizes is None else config.critic_hidden_sizes
        self.critic = mlp([inputs, *critic_hidden, 1], config, 1.0, generator)
        self.critic_trains_cnns = True
        """True if the gradient of the value loss also trains the CNNs, which policy and value share."""
        self.log_std: nn.Parameter | None = None
        if isinstance(self.head, Gaussian) and not self.head.state_dependent_std:
            self.log_std = nn.Parameter(torch.full((self.head.num_actions,), self.head.log_std_init))

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Computes the head's parameters, (batch, num_params), and the values, (batch,), from `ObsFeatures`' output."""
        trunk = self.cnns(features)
        return self._params(trunk), self.critic(trunk if self.critic_trains_cnns else trunk.detach())[:, 0]

    def policy(self, features: tuple[Tensor, ...]) -> Tensor:
        """Computes the head's parameters alone, since acting needs no values."""
        return self._params(self.cnns(features))

    def _params(self, trunk: Tensor) -> Tensor:
        params: Tensor = self.actor(trunk)
        if isinstance(self.head, Gaussian):
            if self.log_std is not None:
                return torch.cat([params, self.log_std.expand(len(params), -1)], 1)
            mean, log_std = torch.split(params, self.head.num_actions, 1)
            return torch.cat([mean, (log_std + self.head.log_std_init).clamp(*LOG_STD_LIMITS)], 1)
        return params
