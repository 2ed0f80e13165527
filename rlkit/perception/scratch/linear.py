"""The perceptron, linear regression and softmax regression, with the gradients written out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkit.errors import RlkitError

Array = NDArray[Any]


def neuron_through(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """Returns w and b of the line y = wx + b through two points; raises RlkitError if one is above the other."""
    (x1, y1), (x2, y2) = first, second
    if x1 == x2:
        raise RlkitError(f"no function goes through two points of the same x = {x1}")
    w = (y2 - y1) / (x2 - x1)
    return w, y1 - w * x1


# The perceptron


def threshold_unit(x: Array, w: Array, b: float) -> Array:
    """Returns 1 where w·x + b ≥ 0 and −1 elsewhere: (n, d) -> (n,)."""
    return np.where(x @ w + b >= 0, 1.0, -1.0)


def train_perceptron(
    x: Array, y: Array, *, learning_rate: float = 1.0, max_epochs: int = 100
) -> tuple[Array, float, bool]:
    """Trains a perceptron by Rosenblatt's rule: w += ηyx and b += ηy for every sample on the wrong side.

    Returns w, b, and True if an epoch passed without a mistake. With enough epochs that happens if and only if a line
    separates the classes, y = 1 from y = −1.
    """
    w, b = np.zeros(x.shape[1]), 0.0
    for _ in range(max_epochs):
        mistakes = 0
        for sample, label in zip(x, y, strict=True):
            if label * (sample @ w + b) <= 0:
                w, b = w + learning_rate * label * sample, b + learning_rate * label
                mistakes += 1
        if not mistakes:
            return w, b, True
    return w, b, False


# Linear regression


def squared_error(x: Array, y: Array, w: Array, b: float) -> tuple[float, Array, float]:
    """Returns the loss L = mean of e² with e = xw + b − y, and its gradients by w and b, 2 mean(e x) and 2 mean(e).

    `x` is (n, d), `y` is (n,) and `w` is (d,).
    """
    error = x @ w + b - y
    return float((error**2).mean()), 2 * x.T @ error / len(y), float(2 * error.mean())


def least_squares(x: Array, y: Array) -> tuple[Array, float]:
    """Returns the best w and b by the normal equations (XᵀX)⁻¹Xᵀy, where X has a column of ones for b."""
    solution = np.linalg.solve(*_normal_equations(np.column_stack([x, np.ones(len(y))]), y))
    return solution[:-1], float(solution[-1])


def _normal_equations(x: Array, y: Array) -> tuple[Array, Array]:
    return x.T @ x, x.T @ y


def gradient_descent(x: Array, y: Array, *, learning_rate: float, steps: int) -> tuple[Array, float, list[float]]:
    """Gradient descent on all samples at once, from w = 0 and b = 0.

    Returns w, b, and the losses before every step and after the last.
    """
    w, b = np.zeros(x.shape[1]), 0.0
    losses = []
    for _ in range(steps):
        loss, w_gradient, b_gradient = squared_error(x, y, w, b)
        losses.append(loss)
        w, b = w - learning_rate * w_gradient, b - learning_rate * b_gradient
    return w, b, [*losses, squared_error(x, y, w, b)[0]]


def minibatches(count: int, batch_size: int, rng: np.random.Generator) -> Iterator[Array]:
    """Yields the numbers 0 … count − 1 in random order, `batch_size` at a time; the last batch may be smaller."""
    order = rng.permutation(count)
    for start in range(0, count, batch_size):
        yield order[start : start + batch_size]


def minibatch_sgd(
    x: Array, y: Array, *, learning_rate: float, batch_size: int, epochs: int, rng: np.random.Generator
) -> tuple[Array, float]:
    """Stochastic gradient descent on the mean of ½(xw + b − y)², whose gradient has no factor 2; returns w and b.

    The weights start from a normal distribution of standard deviation 0.01.
    """
    w: Array = rng.normal(0, 0.01, size=(x.shape[1],))
    b = 0.0
    for _ in range(epochs):
        for indices in minibatches(len(y), batch_size, rng):
            _, w_gradient, b_gradient = squared_error(x[indices], y[indices], w, b)
            w = w - learning_rate * w_gradient / 2
            b -= learning_rate * b_gradient / 2
    return w, b


# Softmax regression


def softmax(logits: Array) -> Array:
    """Softmax e^o_i / Σ e^o_j along the last axis; the largest logit is subtracted first, so that nothing overflows."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities: Array = exponentials / exponentials.sum(-1, keepdims=True)
    return probabilities


def log_softmax(logits: Array) -> Array:
    """Logarithm of softmax, o_i − log Σ e^o_j; log(softmax) itself would be −∞ where softmax rounds to 0."""
    shifted = logits - logits.max(-1, keepdims=True)
    log_p: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return log_p


def cross_entropy(logits: Array, labels: Array) -> tuple[float, Array]:
    """Returns the mean of −log p(label), and its gradient by the logits, (p − one-hot)/n.

    `logits` is (n, classes), and `labels` is (n,).
    """
    rows = np.arange(len(labels))
    gradient = softmax(logits)
    gradient[rows, labels] -= 1
    return float(-log_softmax(logits)[rows, labels].mean()), gradient / len(labels)


class SoftmaxRegression:
    """Softmax regression, p(class|x) = softmax(xW + b), learned by minibatch SGD."""

    def __init__(self, num_features: int, num_classes: int, rng: np.random.Generator) -> None:
        self.w = rng.normal(0, 0.01, (num_features, num_classes))
        self.b = np.zeros(num_classes)
        self.rng = rng

    def fit(
        self, x: Array, labels: Array, *, learning_rate: float = 0.1, batch_size: int = 256, epochs: int = 10
    ) -> list[float]:
        """Trains on samples (n, features) with labels (n,); returns the mean loss of every epoch."""
        losses = []
        for _ in range(epochs):
            total = 0.0
            for indices in minibatches(len(labels), batch_size, self.rng):
                loss, gradient = cross_entropy(x[indices] @ self.w + self.b, labels[indices])
                self.w -= learning_rate * x[indices].T @ gradient
                self.b -= learning_rate * gradient.sum(0)
                total += loss * len(indices)
            losses.append(total / len(labels))
        return losses

    def predict(self, x: Array) -> Array:
        """Returns the likeliest class of each sample: (n, features) -> (n,)."""
        likeliest: Array = (x @ self.w + self.b).argmax(1)
        return likeliest
