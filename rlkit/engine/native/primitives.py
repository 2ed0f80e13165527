"""Interface of the operations that analytic engines compute with: in NumPy, or in C if that was built."""

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
    """A multi-layer perceptron, computed on the memory of its torch module."""

    def forward(self, x: Array) -> Array:
        """Computes the outputs, (batch, outputs), of (batch, inputs); the next call may overwrite them."""

    def backward(self, d_output: Array) -> None:
        """Writes the gradients that belong to the last `forward` into the module's `grad`."""


class PolicyTerms(NamedTuple):
    """The terms of a policy-gradient loss, and their weights."""

    objective: str
    """`log_prob`: log π · A; `clip`: PPO's clipped surrogate; `kl`: the surrogate less `kl_coef` times the KL."""
    ent_coef: float
    """Weight of the entropy."""
    vf_coef: float
    """Weight of the values' mean squared error."""
    divisor: int
    """Divisor of the sums of policy and entropy terms over rows; the number of rows makes them means."""
    clip_coef: float = 0.0
    """Bound on |ratio - 1| in the objective `clip`, and for the metric `clip_fraction`."""
    kl_coef: float = 0.0
    """Weight of the KL divergence in the objective `kl`."""
    clip_value_coef: float | None = None
    """Bound on a value's move from the old value; None: no bound."""


class PolicyLoss(Protocol):
    """A policy-gradient loss with its derivatives; `numpy_primitives.policy_loss` explains it."""

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
    """The operations in one language; engines are built of them, and know nothing of the arithmetic behind them."""

    mlp: Callable[[nn.Sequential], Tower]
    """Makes the forward and backward pass of an MLP."""
    optimizers: Mapping[str, type[ArrayOptimizer]]
    """The optimisers by their names in configurations."""
    policy_loss: PolicyLoss
    """A policy-gradient loss with its derivatives."""
    td_loss: Callable[[Array, Array, Array, Array | None, str], tuple[Array, float, Array]]
    """A loss of action values with its derivatives; `numpy_primitives.td_loss` explains it."""
