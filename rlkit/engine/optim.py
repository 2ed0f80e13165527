"""Optimiser steps on flat NumPy arrays, in place; torch's own optimisers are the reference."""

from __future__ import annotations

import numpy as np

from rlkit.spaces import Array


def clip_global_norm(gradient: Array, max_norm: float | None) -> float:
    """Scales the flat gradient down to `max_norm` where its norm is larger; returns the norm before."""
    norm = float(np.sqrt(gradient @ gradient))
    if max_norm is not None and norm > max_norm:
        gradient *= max_norm / (norm + 1e-6)
    return norm


class Adam:
    """Adam (Kingma & Ba 2015) as torch.optim.Adam computes it."""

    def __init__(self, size: int, eps: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.exp_avg = np.zeros(size, np.float32)
        self.exp_avg_sq = np.zeros(size, np.float32)
        self.steps = 0
        self._betas, self._eps = betas, eps
        self._buffer = np.empty(size, np.float32)

    def step(self, parameters: Array, gradient: Array, learning_rate: float) -> None:
        """Moves `parameters` in place; `gradient` is used as working memory."""
        beta1, beta2 = self._betas
        self.steps += 1
        buffer = self._buffer
        np.multiply(gradient, gradient, out=buffer)
        buffer -= self.exp_avg_sq
        buffer *= 1 - beta2
        self.exp_avg_sq += buffer
        gradient -= self.exp_avg
        gradient *= 1 - beta1
        self.exp_avg += gradient
        np.sqrt(self.exp_avg_sq, out=buffer)
        buffer *= 1 / np.sqrt(1 - beta2**self.steps)
        buffer += self._eps
        np.divide(self.exp_avg, buffer, out=buffer)
        buffer *= learning_rate / (1 - beta1**self.steps)
        parameters -= buffer
