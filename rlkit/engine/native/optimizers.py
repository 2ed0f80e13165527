"""Optimiser steps on flat NumPy arrays, in place; torch's own optimisers are the reference."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from rlkit.spaces import Array

MOMENTS = {"adam": ("exp_avg", "exp_avg_sq"), "rmsprop": ("square_avg",)}
"""The optimisers by name, with torch's names for what each remembers of the gradients."""


class Optimizer(Protocol):
    """Moves flat parameters against a flat gradient."""

    steps: int

    def step(self, parameters: Array, gradient: Array, learning_rate: float) -> None:
        """Moves `parameters` in place; `gradient` is used as working memory."""


def clip_global_norm(gradient: Array, max_norm: float | None) -> float:
    """Scales the flat gradient down to `max_norm` where its norm is larger; returns the norm before."""
    norm = math.sqrt(gradient @ gradient)
    if max_norm is not None and norm > max_norm:
        gradient *= max_norm / (norm + 1e-6)
    return norm


class Adam:
    """Adam (Kingma & Ba 2015) as torch.optim.Adam computes it, in the cheaper order at the end of their section 2."""

    def __init__(self, size: int, eps: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.exp_avg = np.zeros(size, np.float32)
        self.exp_avg_sq = np.zeros(size, np.float32)
        self.steps = 0
        self._betas, self._eps = betas, eps
        self._buffer = np.empty(size, np.float32)

    def step(self, parameters: Array, gradient: Array, learning_rate: float) -> None:
        beta1, beta2 = self._betas
        self.steps += 1
        # Python floats: a NumPy one would make each product below one of float64s, at three times the cost.
        root_correction = math.sqrt(1 - beta2**self.steps)
        step_size = learning_rate * root_correction / (1 - beta1**self.steps)
        buffer = self._buffer
        np.multiply(gradient, gradient, out=buffer)
        buffer *= 1 - beta2
        self.exp_avg_sq *= beta2
        self.exp_avg_sq += buffer
        gradient *= 1 - beta1
        self.exp_avg *= beta1
        self.exp_avg += gradient
        np.sqrt(self.exp_avg_sq, out=buffer)
        buffer += self._eps * root_correction
        np.divide(self.exp_avg, buffer, out=buffer)
        buffer *= step_size
        parameters -= buffer


class RMSprop:
    """RMSProp (Tieleman & Hinton 2012) as torch.optim.RMSprop computes it: ε is added to the root, not below it."""

    def __init__(self, size: int, eps: float, alpha: float = 0.99) -> None:
        self.square_avg = np.zeros(size, np.float32)
        self.steps = 0
        self._alpha, self._eps = alpha, eps
        self._buffer = np.empty(size, np.float32)

    def step(self, parameters: Array, gradient: Array, learning_rate: float) -> None:
        self.steps += 1
        buffer = self._buffer
        np.multiply(gradient, gradient, out=buffer)
        buffer *= 1 - self._alpha
        self.square_avg *= self._alpha
        self.square_avg += buffer
        np.sqrt(self.square_avg, out=buffer)
        buffer += self._eps
        np.divide(gradient, buffer, out=buffer)
        buffer *= learning_rate
        parameters -= buffer


def make_optimizer(name: str, size: int, eps: float) -> tuple[Optimizer, dict[str, Array]]:
    """The optimiser of that name, and the arrays it remembers: its state, by the names in `MOMENTS`."""
    optimizer = {"adam": Adam, "rmsprop": RMSprop}[name](size, eps)
    return optimizer, {moment: getattr(optimizer, moment) for moment in MOMENTS[name]}
