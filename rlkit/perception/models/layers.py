"""Activations by name and initial weights, which several models share."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from rlkit.errors import unknown

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


def activation(name: str) -> nn.Module:
    """Makes the activation called `name`; raises RlkitError for an unknown name."""
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]()


def weighted(network: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    """Returns the linear and convolutional layers of a network, in order."""
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def init_he(network: nn.Module) -> None:
    """Draws normal weights of variance 2 / fan-in, with biases 0 (He et al. 2015).

    That keeps the variance of activations through layers with ReLU.
    """
    for layer in weighted(network):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def init_xavier(network: nn.Module) -> None:
    """Draws uniform weights of variance 2 / (fan-in + fan-out), with biases 0 (Glorot & Bengio 2010).

    That suits layers with sigmoid and tanh.
    """
    for layer in weighted(network):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def init_normal(network: nn.Module, std: float) -> None:
    """Draws normal weights of standard deviation `std`, with biases 0."""
    for layer in weighted(network):
        nn.init.normal_(layer.weight, std=std)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
