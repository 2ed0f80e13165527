"""The multi-layer perceptron: fully connected layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from rlkit.errors import RlkitError, check_range, unknown
from rlkit.perception.models.layers import activation, init_he, init_normal, init_xavier


class MLP(nn.Module):
    """Linear layers with an activation between them; images are flattened.

    `dropout` is one probability for all hidden layers or a list with one for each. `init` chooses the initial weights:
    `torch` (torch's default), `he`, `xavier`, or a number, the standard deviation of normal weights. Raises RlkitError
    for fields that cannot work, and for inputs of another size.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (1, 28, 28),
        num_outputs: int = 10,
        hidden_sizes: Sequence[int] = (256, 128),
        activation: str = "relu",
        dropout: float | Sequence[float] = 0.0,
        batch_norm: bool = False,
        init: str | float = "torch",
    ) -> None:
        super().__init__()
        self.input_shape = tuple(int(size) for size in input_shape)
        self.input_size = math.prod(int(size) for size in input_shape)
        dropouts = [float(dropout)] * len(hidden_sizes) if isinstance(dropout, int | float) else list(dropout)
        if len(dropouts) != len(hidden_sizes):
            raise RlkitError(f"dropout={dropouts} has {len(dropouts)} values for {len(hidden_sizes)} hidden layers")
        layers: list[nn.Module] = [nn.Flatten()]  # (batch, …) -> (batch, input_size)
        size = self.input_size
        for hidden, probability in zip(hidden_sizes, dropouts, strict=True):
            layers += hidden_layer(size, hidden, activation, probability, batch_norm)  # (batch, hidden)
            size = hidden
        self.features = nn.Sequential(*layers)
        self.feature_size = size
        self.head = nn.Linear(size, num_outputs)  # (batch, num_outputs)
        _initialise(self, init)

    def encode(self, inputs: Tensor) -> Tensor:
        """Returns the outputs of the last hidden layer: (batch, …) -> (batch, feature_size)."""
        if math.prod(inputs.shape[1:]) != self.input_size:
            raise RlkitError(
                f"mlp was built for inputs of {self.input_size} values (input_shape), but got a batch of "
                f"{list(inputs.shape)}"
            )
        features: Tensor = self.features(inputs)
        return features

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns logits, or the predictions of a regression: (batch, …) -> (batch, num_outputs)."""
        outputs: Tensor = self.head(self.encode(inputs))
        return outputs


def hidden_layer(
    inputs: int, outputs: int, name: str, dropout: float = 0.0, batch_norm: bool = False
) -> list[nn.Module]:
    """Makes a linear layer, batch normalisation if asked for, the activation called `name`, and dropout above 0."""
    check_range("dropout", dropout, 0, 1)
    layers: list[nn.Module] = [nn.Linear(inputs, outputs)]
    if batch_norm:
        layers.append(nn.BatchNorm1d(outputs))
    layers.append(activation(name))
    if dropout:
        layers.append(nn.Dropout(dropout))
    return layers


def _initialise(network: nn.Module, init: str | float) -> None:
    if isinstance(init, int | float):
        check_range("init", init, 0, exclusive=True)
        init_normal(network, float(init))
    elif init == "he":
        init_he(network)
    elif init == "xavier":
        init_xavier(network)
    elif init != "torch":
        raise unknown("init", init, ["he", "torch", "xavier"])
