"""The actor-critic network: an MLP for the policy, one for the value, and a CNN before both for images."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit.config import NetworkConfig
from rlkit.networks.features import ObsFeatures, image_shape
from rlkit.networks.heads import LOG_STD_LIMITS, Gaussian, Head, make_head
from rlkit.networks.mlp import cnn, mlp


class ActorCritic(nn.Module):
    """Features of observations to the parameters of the action distribution, and to values."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        config: NetworkConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.head: Head = make_head(action_space, config)
        self.features = ObsFeatures(observation_space, encoder=config.encoder, normalize=config.normalize_obs)
        image_spaces = [self.features.leaves[i] for i in self.features.images]
        self.cnns = nn.ModuleList(cnn(image_shape(space), generator) for space in image_spaces)
        self.image_scales = [255.0 if space.dtype == "uint8" else 1.0 for space in image_spaces]
        inputs = self.features.vector_size + 512 * len(self.cnns)
        default_sizes = [] if self.cnns else [64, 64]
        hidden = default_sizes if config.hidden_sizes is None else list(config.hidden_sizes)
        # The policy's small last gain makes its first actions nearly uniform: see docs/ppo-details.md.
        self.actor = mlp([inputs, *hidden, self.head.num_outputs], config.activation, 0.01, generator)
        self.critic = mlp([inputs, *hidden, 1], config.activation, 1.0, generator)
        self.log_std: nn.Parameter | None = None
        if isinstance(self.head, Gaussian) and not self.head.state_dependent_std:
            self.log_std = nn.Parameter(torch.full((self.head.num_actions,), self.head.log_std_init))

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """The head's parameters, (batch, num_params), and the values, (batch,), of `ObsFeatures`' output."""
        trunk = self._trunk(features)
        return self._params(trunk), self.critic(trunk)[:, 0]

    def policy(self, features: tuple[Tensor, ...]) -> Tensor:
        """The head's parameters alone: what acting takes."""
        return self._params(self._trunk(features))

    def _trunk(self, features: tuple[Tensor, ...]) -> Tensor:
        vector, images = features[: len(features) - len(self.cnns)], features[len(features) - len(self.cnns) :]
        encoded = [
            net(image.float() / scale) for net, image, scale in zip(self.cnns, images, self.image_scales, strict=True)
        ]
        parts = [*vector, *encoded]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _params(self, trunk: Tensor) -> Tensor:
        params: Tensor = self.actor(trunk)
        if isinstance(self.head, Gaussian):
            if self.log_std is not None:
                return torch.cat([params, self.log_std.expand(len(params), -1)], 1)
            mean, log_std = torch.split(params, self.head.num_actions, 1)
            return torch.cat([mean, (log_std + self.head.log_std_init).clamp(*LOG_STD_LIMITS)], 1)
        return params
