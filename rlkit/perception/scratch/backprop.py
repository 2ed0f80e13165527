"""A multi-layer perceptron whose gradients are backpropagated by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkit.errors import unknown

Array = NDArray[Any]

Activation = tuple[Callable[[Array], Array], Callable[[Array], Array]]


def sigmoid(z: Array) -> Array:
    """Logistic function 1 / (1 + e⁻ᶻ), in a form that cannot overflow."""
    return 0.5 * (1 + np.tanh(0.5 * z))


ACTIVATIONS: dict[str, Activation] = {
    "identity": (lambda z: z, np.ones_like),
    "sigmoid": (sigmoid, lambda o: o * (1 - o)),
    "tanh": (np.tanh, lambda o: 1 - o**2),
    "relu": (lambda z: np.maximum(z, 0), lambda o: (o > 0).astype(o.dtype)),
    "leaky_relu": (lambda z: np.where(z > 0, z, 0.01 * z), lambda o: np.where(o > 0, 1.0, 0.01)),
}
"""Activations o = σ(z) by name, each with its derivative dσ/dz as a function of the output o."""


def forward(x: Array, weights: Sequence[Array], biases: Sequence[Array], activation: str = "sigmoid") -> list[Array]:
    """Returns the outputs o = σ(xW + b) of all layers, (n, size) each, with the input before them."""
    function, _ = ACTIVATIONS[activation]
    outputs = [x]
    for w, b in zip(weights, biases, strict=True):
        outputs.append(function(outputs[-1] @ w + b))
    return outputs


def backward(
    outputs: Sequence[Array], weights: Sequence[Array], gradient: Array, activation: str = "sigmoid"
) -> tuple[list[Array], list[Array]]:
    """Returns the gradients of all weights and of all biases by backpropagation.

    `gradient` is ∂L/∂o of the last layer, and `outputs` are those of `forward`. In each layer δ = ∂L/∂o ⊙ σ',
    ∂L/∂W = xᵀδ and ∂L/∂b = Σδ, and ∂L/∂o of the layer before is δWᵀ.
    """
    _, derivative = ACTIVATIONS[activation]
    w_gradients, b_gradients = [], []
    for i in reversed(range(len(weights))):
        delta = gradient * derivative(outputs[i + 1])
        w_gradients.append(outputs[i].T @ delta)
        b_gradients.append(delta.sum(0))
        gradient = delta @ weights[i].T
    return w_gradients[::-1], b_gradients[::-1]


class MLP:
    """A multi-layer perceptron of layers o = σ(xW + b), trained on the mean squared error.

    `sizes` are those of the input, of each hidden layer, and of the output. Weights start from N(0, 1/inputs), biases
    from the uniform distribution on [0, 0.1]. Raises RlkitError for an unknown activation.
    """

    def __init__(self, sizes: Sequence[int], rng: np.random.Generator, activation: str = "sigmoid") -> None:
        if activation not in ACTIVATIONS:
            raise unknown("activation", activation, ACTIVATIONS)
        self.activation = activation
        self.weights = [rng.normal(size=(n, m)) * np.sqrt(1 / n) for n, m in pairwise(sizes)]
        self.biases = [rng.random(m) * 0.1 for m in sizes[1:]]

    def gradients(self, x: Array, targets: Array) -> tuple[float, list[Array], list[Array]]:
        """Returns the loss, the mean of (o − t)² over samples and outputs, and its gradients by weights and biases."""
        outputs = forward(x, self.weights, self.biases, self.activation)
        error = outputs[-1] - targets
        gradients = backward(outputs, self.weights, 2 * error / error.size, self.activation)
        return float((error**2).mean()), *gradients

    def step(self, x: Array, targets: Array, learning_rate: float) -> float:
        """Takes one step of gradient descent on these samples; returns the loss before the step."""
        loss, w_gradients, b_gradients = self.gradients(x, targets)
        for values, gradients in ((self.weights, w_gradients), (self.biases, b_gradients)):
            for value, gradient in zip(values, gradients, strict=True):
                value -= learning_rate * gradient  # in place
        return loss

    def predict(self, x: Array) -> Array:
        """Returns the index of the largest output: (n, inputs) -> (n,)."""
        largest: Array = forward(x, self.weights, self.biases, self.activation)[-1].argmax(1)
        return largest
