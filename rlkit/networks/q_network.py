"""The Q-network: an MLP from features to a value for each action, behind a CNN for images.

Plain or dueling, with noisy layers or without, and of values or of their distributions.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit.errors import RlkitError
from rlkit.networks.encoders import make_encoders
from rlkit.networks.mlp import hidden_sizes, mlp
from rlkit.networks.noisy import NoisyLinear
from rlkit.setting import NetworkConfig
from rlkit.spaces import Array

DUELING = ("none", "mean", "sum")


class QNetwork(nn.Module):
    """Features of observations to action values; `dueling` says how they are made, see `action_values`.

    With `noisy_std` the MLP's layers are noisy, from such a σ on. With `atoms`, (num_atoms,) evenly spaced values,
    the network finds how probable each of them is (Bellemare et al. 2017).
    """

    atoms: Tensor | None

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        num_actions: int,
        config: NetworkConfig,
        generator: torch.Generator,
        dueling: str = "none",
        *,
        noisy_std: float | None = None,
        atoms: Array | None = None,
    ) -> None:
        super().__init__()
        if config.critic_hidden_sizes is not None:
            raise RlkitError(
                f"network.critic_hidden_sizes={config.critic_hidden_sizes} is for agents with a policy and a critic; "
                "action values have one network: network.hidden_sizes"
            )
        self.dueling, self.noisy = dueling, noisy_std is not None
        self.register_buffer("atoms", None if atoms is None else torch.as_tensor(atoms), persistent=False)
        self.features, self.cnns = make_encoders(observation_space, config, generator)
        num_outputs = (num_actions + (dueling != "none")) * (1 if atoms is None else len(atoms))
        sizes = [self.cnns.num_outputs, *hidden_sizes(config, len(self.cnns)), num_outputs]
        linear = nn.Linear if noisy_std is None else partial(NoisyLinear, std=noisy_std)
        self.body = mlp(sizes, config, 1.0, generator, linear)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """The action values, (batch, num_actions), of `ObsFeatures`' output.

        With atoms, the logarithms of their probabilities, (batch, num_actions, num_atoms), of which `expected` makes
        action values.
        """
        outputs = self.body(self.cnns(features))
        if self.atoms is not None:
            outputs = outputs.view(len(outputs), -1, len(self.atoms))
        values: Tensor = action_values(outputs, self.dueling)
        return values if self.atoms is None else values.log_softmax(2)

    def expected(self, outputs: Tensor) -> Tensor:
        """The action values, (batch, num_actions), that outputs of the network mean."""
        return outputs if self.atoms is None else outputs.exp() @ self.atoms


def action_values(outputs: Any, dueling: str) -> Any:
    """Action values, (batch, num_actions), from the outputs of a Q-network; arrays and tensors alike.

    A dueling network's first output is the state's value, the others are advantages (Wang et al. 2016): `mean`
    subtracts their mean, which makes the value the mean of the action values; with `sum`, the two are not told apart.
    Both streams share all hidden layers. Of distributions, the same holds for the logits of each atom, the last axis.
    """
    if dueling == "none":
        return outputs
    value, advantages = outputs[:, :1], outputs[:, 1:]
    return value + (advantages - advantages.mean(1)[:, None] if dueling == "mean" else advantages)
