"""The Q-network: an MLP from features to a value for each action, behind a CNN for images; plain or dueling."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit.config import NetworkConfig
from rlkit.networks.encoders import ImageEncoders, hidden_sizes
from rlkit.networks.features import ObsFeatures
from rlkit.networks.mlp import mlp

DUELING = ("none", "mean", "sum")


class QNetwork(nn.Module):
    """Features of observations to action values; `dueling` says how they are made, see `action_values`."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        num_actions: int,
        config: NetworkConfig,
        generator: torch.Generator,
        dueling: str = "none",
    ) -> None:
        super().__init__()
        self.dueling = dueling
        self.features = ObsFeatures(observation_space, encoder=config.encoder, normalize=config.normalize_obs)
        self.cnns = ImageEncoders(self.features, config, generator)
        sizes = [self.cnns.num_outputs, *hidden_sizes(config, self.cnns), num_actions + (dueling != "none")]
        self.body = mlp(sizes, config, 1.0, generator)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """The action values, (batch, num_actions), of `ObsFeatures`' output."""
        q_values: Tensor = action_values(self.body(self.cnns(features)), self.dueling)
        return q_values


def action_values(outputs: Any, dueling: str) -> Any:
    """Action values, (batch, num_actions), from the outputs of a Q-network; arrays and tensors alike.

    A dueling network's first output is the state's value, the others are advantages (Wang et al. 2016): `mean`
    subtracts their mean, which makes the value the mean of the action values; with `sum`, the two are not told apart.
    Both streams share all hidden layers.
    """
    if dueling == "none":
        return outputs
    value, advantages = outputs[:, :1], outputs[:, 1:]
    return value + (advantages - advantages.mean(1)[:, None] if dueling == "mean" else advantages)
