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
    """1 / (1 + e⁻ᶻ), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * z))


ACTIVATIONS: dict[str, Activation] = {
    "identity": (lambda z: z, np.ones_like),
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * (1 - sigmoid(z))),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(z.dtype)),
    "leaky_relu": (lambda z: np.where(z > 0, z, 0.01 * z), lambda z: np.where(z > 0, 1.0, 0.01)),
}
"""Functions of z, and their derivatives."""


class NumpyMLP:
    """Layers o = σ(xW + b), trained on the mean squared error; RlkitError for an unknown activation.

    `sizes` are those of the input, of each hidden layer, and of the output. Weights begin as N(0, 1/inputs), biases
    uniform in [0, 0.1].
    """

    def __init__(self, sizes: Sequence[int], rng: np.random.Generator, activation: str = "sigmoid") -> None:
        if activation not in ACTIVATIONS:
            raise unknown("activation", activation, ACTIVATIONS)
        self.function, self.derivative = ACTIVATIONS[activation]
        self.weights = [rng.normal(size=(n, m)) * np.sqrt(1 / n) for n, m in pairwise(sizes)]
        self.biases = [rng.random(m) * 0.1 for m in sizes[1:]]

    def forward(self, x: Array) -> tuple[list[Array], list[Array]]:
        """Every layer's z = xW + b, and its output, the input before them: (n, size) each."""
        outputs, zs = [x], []
        for w, b in zip(self.weights, self.biases, strict=True):
            zs.append(outputs[-1] @ w + b)
            outputs.append(self.function(zs[-1]))
        return zs, outputs

    def gradients(self, x: Array, targets: Array) -> tuple[float, list[Array], list[Array]]:
        """The loss, mean of (o − t)² over samples and outputs, and its gradients by all weights and biases.

        δ of the last layer is ∂L/∂o · σ'(z), that of each layer before it δWᵀ · σ'(z); ∂L/∂W = xᵀδ, ∂L/∂b = Σδ.
        """
        zs, outputs = self.forward(x)
        error = outputs[-1] - targets
        delta = 2 * error / error.size * self.derivative(zs[-1])
        w_gradients, b_gradients = [], []
        for i in reversed(range(len(self.weights))):
            w_gradients.append(outputs[i].T @ delta)
            b_gradients.append(delta.sum(0))
            if i > 0:
                delta = delta @ self.weights[i].T * self.derivative(zs[i - 1])
        return float((error**2).mean()), w_gradients[::-1], b_gradients[::-1]

    def step(self, x: Array, targets: Array, learning_rate: float) -> float:
        """One step down the gradient of these samples; returns the loss before it."""
        loss, w_gradients, b_gradients = self.gradients(x, targets)
        for values, gradients in ((self.weights, w_gradients), (self.biases, b_gradients)):
            for value, gradient in zip(values, gradients, strict=True):
                value -= learning_rate * gradient  # in place
        return loss

    def predict(self, x: Array) -> Array:
        """The number of the largest output: (n, inputs) -> (n,)."""
        largest: Array = self.forward(x)[1][-1].argmax(1)
        return largest
