"""The operations that the analytic engines compute with: in NumPy, always there, or in C, where that was built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from torch import nn

from rlkit.buffers.batch import PolicyBatch
from rlkit.engine.native.heads import AnalyticHead
from rlkit.engine.native.optimizers import ArrayOptimizer
from rlkit.spaces import Array

Metrics = dict[str, float]


class Tower(Protocol):
    """A multi-layer perceptron on the memory of its torch module."""

    def forward(self, x: Array) -> Array:
        """The outputs, (batch, outputs), of (batch, inputs); may be overwritten by the next call."""

    def backward(self, d_output: Array) -> None:
        """Writes the gradients of the last `forward` into the module's `grad`."""


class PolicyTerms(NamedTuple):
    """The terms of a policy-gradient loss."""

    objective: str
    """`log_prob`: log π · A; `clip`: PPO's clipped surrogate; `kl`: the surrogate less `kl_coef` times the KL."""
    ent_coef: float
    vf_coef: float
    divisor: int
    """Sums over rows are divided by this; it is the number of rows for a mean."""
    clip_coef: float = 0.0
    kl_coef: float = 0.0
    clip_value_coef: float | None = None


class PolicyLoss(Protocol):
    """A policy-gradient loss with its derivatives: see `numpy_primitives.policy_loss`."""

    def __call__(
        self,
        head: AnalyticHead,
        params: Array,
        values: Array,
        batch: PolicyBatch,
        advantages: Array,
        terms: PolicyTerms,
    ) -> tuple[Array, Array, Metrics]: ...


class Primitives(NamedTuple):
    """One way to compute. The engines put these together, and know nothing of the arithmetic behind them."""

    mlp: Callable[[nn.Sequential], Tower]
    optimizers: Mapping[str, type[ArrayOptimizer]]
    """The optimisers by their names in configurations."""
    policy_loss: PolicyLoss
    td_loss: Callable[[Array, Array, Array, Array | None, str], tuple[Array, float, Array]]
    """A loss on action values: see `numpy_primitives.td_loss`."""
