"""Optimisers on flat arrays, in place and in C; torch's own are the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from rlkit.spaces import Array

with suppress(ImportError):  # `rlkit.engine.native.primitives.missing` says why it is not there
    import rlkit.engine.native.kernels as c_engine

if TYPE_CHECKING:
    from rlkit.engine.descent import Rate


def clip_global_norm(gradient: Array, max_norm: float | None) -> float:
    """Scales the flat gradient down if its norm exceeds `max_norm`; returns the norm before that."""
    return c_engine.clip_global_norm(gradient, math.inf if max_norm is None else max_norm)


class ArrayOptimizer:
    """Base class of these optimisers, a `rlkit.engine.descent.Optimizer`; a subclass writes `move`.

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


class NativeAdam(ArrayOptimizer):
    """Adam (Kingma & Ba 2015) as torch.optim.Adam computes it, with its step in C."""

    moment_names = ("exp_avg", "exp_avg_sq")
    betas = (0.9, 0.999)

    def move(self, learning_rate: float) -> None:
        exp_avg, exp_avg_sq = self.moments["exp_avg"], self.moments["exp_avg_sq"]
        rates = (learning_rate, *self.betas, self.eps)
        c_engine.adam(self.parameters, self.gradients, exp_avg, exp_avg_sq, self.steps, *rates)


class NativeRMSprop(ArrayOptimizer):
    """RMSProp (Tieleman & Hinton 2012) as torch.optim.RMSprop computes it, with its step in C."""

    moment_names = ("square_avg",)
    alpha = 0.99

    def move(self, learning_rate: float) -> None:
        square_avg = self.moments["square_avg"]
        c_engine.rmsprop(self.parameters, self.gradients, square_avg, learning_rate, self.alpha, self.eps)


OPTIMIZERS: dict[str, type[ArrayOptimizer]] = {"adam": NativeAdam, "rmsprop": NativeRMSprop}
"""The optimisers by their names in configurations."""
