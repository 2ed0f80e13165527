"""The Q-network: an MLP from features to a value for each action, behind a CNN for images.

It can be plain or dueling, its layers can be noisy, and it can predict values or distributions of returns.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit.errors import RlkitError
from rlkit.networks.encoders import make_encoders
from rlkit.networks.features import check_categories
from rlkit.networks.mlp import hidden_sizes, mlp
from rlkit.networks.noisy import NoisyLinear
from rlkit.setting import NetworkConfig
from rlkit.spaces import Array


class QNetwork(nn.Module):
    """Maps features of observations to action values; `dueling` is explained at `action_values`.

    With `noisy_std` the MLP's layers are noisy, and their σ starts from that. With `atoms`, (num_atoms,) evenly spaced
    returns, the network predicts the probability of each of them (Bellemare et al. 2017).
    """

    atoms: Tensor | None
    """The returns that the network predicts probabilities of, (num_atoms,); None: it predicts values."""

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
        check_categories("actions", f"Discrete({num_actions})", num_actions)
        self.dueling, self.noisy = dueling, noisy_std is not None
        self.register_buffer("atoms", None if atoms is None else torch.as_tensor(atoms), persistent=False)
        self.features, self.cnns = make_encoders(observation_space, config, generator)
        num_outputs = (num_actions + (dueling != "none")) * (1 if atoms is None else len(atoms))
        hidden = hidden_sizes(config, ends_in_hidden_layer=self.cnns.ends_in_hidden_layer)
        sizes = [self.cnns.num_outputs, *hidden, num_outputs]
        linear = nn.Linear if noisy_std is None else partial(NoisyLinear, std=noisy_std)
        self.body = mlp(sizes, config, 1.0, generator, linear)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """Computes action values, (batch, num_actions), from `ObsFeatures`' output.

        With atoms it computes the logarithms of their probabilities, (batch, num_actions, num_atoms), which `expected`
        turns into action values.
        """
        outputs = self.body(self.cnns(features))
        if self.atoms is not None:
            outputs = outputs.view(len(outputs), -1, len(self.atoms))
        values: Tensor = action_values(outputs, self.dueling)
        return values if self.atoms is None else values.log_softmax(2)

    def expected(self, outputs: Tensor) -> Tensor:
        """Turns outputs of the network into action values, (batch, num_actions): with atoms, their expectation."""
        return outputs if self.atoms is None else outputs.exp() @ self.atoms


def action_values(outputs: Any, dueling: str) -> Any:
    """Combines the outputs of a Q-network, arrays or tensors, into action values, (batch, num_actions).

    With `none` the outputs are the action values. A dueling network's first output is the state's value V, and the
    others are advantages A (Wang et al. 2016). `mean` subtracts the advantages' mean, so that V is the mean of the
    action values. `sum` just adds, which leaves open what belongs to V and what to A. Both streams share all hidden
    layers. Distributions have a last axis of atoms, and the logits of each atom are combined in this way.
    """
    if dueling == "none":
        return outputs
    value, advantages = outputs[:, :1], outputs[:, 1:]
    return value + (advantages - advantages.mean(1)[:, None] if dueling == "mean" else advantages)
