"""Gradient descent on a function of two variables, gradient clipping, and powers of a matrix that grow or shrink."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def himmelblau(x: Array) -> Array:
    """Himmelblau's function (x² + y − 11)² + (x + y² − 7)², which is 0 at four points; `x` is (2, …)."""
    value: Array = (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2
    return value


def himmelblau_gradient(x: Array) -> Array:
    """Gradient of Himmelblau's function, (∂f/∂x, ∂f/∂y): (2, …) -> (2, …)."""
    first, second = x[0] ** 2 + x[1] - 11, x[0] + x[1] ** 2 - 7
    return np.stack([4 * x[0] * first + 2 * second, 2 * first + 4 * x[1] * second])


def descend(gradient: Callable[[Array], Array], start: Sequence[float], *, learning_rate: float, steps: int) -> Array:
    """Gradient descent x ← x − η∇f(x); returns all its points, (steps + 1, dims), the start first."""
    path = [np.array(start, dtype=np.float64)]
    for _ in range(steps):
        path.append(path[-1] - learning_rate * gradient(path[-1]))
    return np.stack(path)


def clip_by_norm(gradient: Array, limit: float) -> Array:
    """Scales a gradient down until its Euclidean norm is at most `limit`, so that it keeps its direction."""
    norm = float(np.linalg.norm(gradient))
    return gradient * min(1.0, limit / norm) if norm else gradient


def clip_by_global_norm(gradients: Sequence[Array], limit: float) -> tuple[list[Array], float]:
    """Scales all gradients by one factor, so that their norm together is at most `limit`.

    Returns the gradients, and their norm before.
    """
    norm = float(np.sqrt(sum((gradient**2).sum() for gradient in gradients)))
    scale = min(1.0, limit / norm) if norm else 1.0
    return [gradient * scale for gradient in gradients], norm


def power_norms(matrix: Array, count: int) -> list[float]:
    """Returns the Frobenius norms of W, W², …, Wⁿ, with n = `count`.

    A gradient is multiplied by Wⁿ on its way back through n steps of a recurrent network, so the norms show how
    gradients explode or vanish.
    """
    norms, product = [], np.eye(len(matrix))
    for _ in range(count):
        product = product @ matrix
        norms.append(float(np.linalg.norm(product)))
    return norms
