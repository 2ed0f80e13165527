"""Gradients: descent on a function of two variables, clipping, products of matrices that grow and shrink."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def himmelblau(x: Array) -> Array:
    """(x² + y − 11)² + (x + y² − 7)², which is 0 at four points; x: (2, …)."""
    value: Array = (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2
    return value


def himmelblau_gradient(x: Array) -> Array:
    """∂/∂x and ∂/∂y: (2, …)."""
    first, second = x[0] ** 2 + x[1] - 11, x[0] + x[1] ** 2 - 7
    return np.stack([4 * x[0] * first + 2 * second, 2 * first + 4 * x[1] * second])


def descend(gradient: Callable[[Array], Array], start: Sequence[float], *, learning_rate: float, steps: int) -> Array:
    """x ← x − η∇f(x), `steps` times: (steps + 1, dims), the start first."""
    path = [np.array(start, dtype=np.float64)]
    for _ in range(steps):
        path.append(path[-1] - learning_rate * gradient(path[-1]))
    return np.stack(path)


def clip_by_norm(gradient: Array, limit: float) -> Array:
    """The same direction, with a Euclidean norm of at most `limit`."""
    norm = float(np.linalg.norm(gradient))
    return gradient * min(1.0, limit / norm) if norm else gradient


def clip_by_global_norm(gradients: Sequence[Array], limit: float) -> tuple[list[Array], float]:
    """All gradients by the same factor, so that the norm of them together is at most `limit`; and that norm before."""
    norm = float(np.sqrt(sum((gradient**2).sum() for gradient in gradients)))
    scale = min(1.0, limit / norm) if norm else 1.0
    return [gradient * scale for gradient in gradients], norm


def power_norms(matrix: Array, count: int) -> list[float]:
    """Frobenius norms of W, W², …, Wⁿ: what a gradient is multiplied by on its way back through n steps of an RNN."""
    norms, product = [], np.eye(len(matrix))
    for _ in range(count):
        product = product @ matrix
        norms.append(float(np.linalg.norm(product)))
    return norms
