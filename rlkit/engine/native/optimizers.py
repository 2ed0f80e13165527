"""Optimiser steps on flat NumPy arrays, in place; torch's own optimisers are the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rlkit.spaces import Array

if TYPE_CHECKING:
    from rlkit.engine.descent import Rate


def clip_global_norm(gradient: Array, max_norm: float | None) -> float:
    """Scales the flat gradient down if its norm exceeds `max_norm`; returns the norm before that."""
    norm = math.sqrt(gradient @ gradient)
    if max_norm is not None and norm > max_norm:
        gradient *= max_norm / (norm + 1e-6)
    return norm


class ArrayOptimizer:
    """Base class of optimisers on flat arrays, a `rlkit.engine.descent.Optimizer`; a subclass writes `move`.

    `rates`, if given, has a factor of the learning rate for each parameter; see `rlkit.engine.descent.rates`.
    """

    moment_names: tuple[str, ...] = ()
    """Torch's names of the optimiser's moments."""

    def __init__(self, parameters: Array, gradients: Array, *, eps: float, rates: Array | None = None) -> None:
        self.parameters, self.gradients, self.eps = parameters, gradients, eps
        self.moments: Mapping[str, Array] = {name: np.zeros_like(parameters) for name in self.moment_names}
        self.steps = 0
        self._rates = rates

    def attach(self, parameters: Array, moments: Mapping[str, Array]) -> None:
        self.parameters, self.moments = parameters, moments

    def clip(self, max_norm: float | None) -> float:
        return clip_global_norm(self.gradients, max_norm)

    def step(self, learning_rate: Rate) -> None:
        self.steps += 1
        rate = float(learning_rate)
        if self._rates is None:
            self.move(rate)
            return
        before = self.parameters.copy()
        self.move(rate)
        self.parameters[:] = before + self._rates * (self.parameters - before)

    def move(self, learning_rate: float) -> None:
        """Takes one step; `steps` counts it already. The gradients may be overwritten."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {**{name: moment.copy() for name, moment in self.moments.items()}, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, moment in self.moments.items():
            moment[:] = state[name]
        self.steps = int(state["steps"])


class Adam(ArrayOptimizer):
    """Adam (Kingma & Ba 2015) as torch.optim.Adam has it, in the cheaper order of the end of the paper's section 2."""

    moment_names = ("exp_avg", "exp_avg_sq")
    betas = (0.9, 0.999)

    def __init__(self, parameters: Array, gradients: Array, *, eps: float, rates: Array | None = None) -> None:
        super().__init__(parameters, gradients, eps=eps, rates=rates)
        self._buffer = np.empty_like(parameters)

    def move(self, learning_rate: float) -> None:
        beta1, beta2 = self.betas
        exp_avg, exp_avg_sq = self.moments["exp_avg"], self.moments["exp_avg_sq"]
        # These are Python floats: a NumPy float64 would turn each product below into float64, at three times the cost.
        root_correction = math.sqrt(1 - beta2**self.steps)
        step_size = learning_rate * root_correction / (1 - beta1**self.steps)
        gradient, buffer = self.gradients, self._buffer
        np.multiply(gradient, gradient, out=buffer)
        buffer *= 1 - beta2
        exp_avg_sq *= beta2
        exp_avg_sq += buffer
        gradient *= 1 - beta1
        exp_avg *= beta1
        exp_avg += gradient
        np.sqrt(exp_avg_sq, out=buffer)
        buffer += self.eps * root_correction
        np.divide(exp_avg, buffer, out=buffer)
        buffer *= step_size
        self.parameters -= buffer


class RMSprop(ArrayOptimizer):
    """RMSProp (Tieleman & Hinton 2012) as torch.optim.RMSprop computes it: ε is added to the root, not below it."""

    moment_names = ("square_avg",)
    alpha = 0.99

    def __init__(self, parameters: Array, gradients: Array, *, eps: float, rates: Array | None = None) -> None:
        super().__init__(parameters, gradients, eps=eps, rates=rates)
        self._buffer = np.empty_like(parameters)

    def move(self, learning_rate: float) -> None:
        square_avg, gradient, buffer = self.moments["square_avg"], self.gradients, self._buffer
        np.multiply(gradient, gradient, out=buffer)
        buffer *= 1 - self.alpha
        square_avg *= self.alpha
        square_avg += buffer
        np.sqrt(square_avg, out=buffer)
        buffer += self.eps
        np.divide(gradient, buffer, out=buffer)
        buffer *= learning_rate
        self.parameters -= buffer


OPTIMIZERS: dict[str, type[ArrayOptimizer]] = {"adam": Adam, "rmsprop": RMSprop}
"""The optimisers by their names in configurations."""
