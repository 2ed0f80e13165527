"""What the analytic engines compute with: a few operations in NumPy, always there, or in C, where that was built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from torch import nn

from rlkit.engine.native.optimizers import Optimizer
from rlkit.spaces import Array


class Tower(Protocol):
    """A multi-layer perceptron on the memory of its torch module."""

    def forward(self, x: Array) -> Array:
        """The outputs, (batch, outputs), of (batch, inputs); may be overwritten by the next call."""

    def backward(self, d_output: Array) -> None:
        """Writes the gradients of the last `forward` into the module's `grad`."""


class Primitives(NamedTuple):
    """One way to compute. The engines put these together, and know nothing of what is behind them."""

    mlp: Callable[[nn.Sequential], Tower]
    clip_global_norm: Callable[[Array, float | None], float]
    make_optimizer: Callable[[str, int, float], tuple[Optimizer, dict[str, Array]]]
    losses: Mapping[Callable[..., Any], Callable[..., Any]]
    """Faster ways to compute some of the analytic losses, by those; others stay as they are."""
