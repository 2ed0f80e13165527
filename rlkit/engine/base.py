"""What an actor-critic engine does, whichever way it does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from rlkit.buffers.batch import PolicyBatch
from rlkit.engine.descent import Descent
from rlkit.engine.native.heads import AnalyticHead
from rlkit.networks.heads import Head
from rlkit.spaces import Array

Metrics = dict[str, float]
TorchLoss = Callable[[Head, Tensor, Tensor, PolicyBatch, Any], tuple[Tensor, dict[str, Tensor]]]
"""(head, params, values, batch, coefficients) -> the loss to differentiate, and metrics."""
AnalyticLoss = Callable[[AnalyticHead, Array, Array, PolicyBatch, Any], tuple[Array, Array, Metrics]]
"""(head, params, values, batch, coefficients) -> d loss / d params, d loss / d values, and metrics."""


class Engine(Protocol):
    """Evaluates an actor-critic network and takes gradient steps on a loss; in and out go NumPy arrays."""

    @property
    def descent(self) -> Descent:
        """What follows the gradients."""

    def policy(self, features: tuple[Array, ...]) -> Array:
        """The head's parameters: (batch, num_params). Overwritten by the next call."""

    def evaluate(self, features: tuple[Array, ...]) -> tuple[Array, Array]:
        """The head's parameters, and the values: (batch,)."""

    def load(self, batch: PolicyBatch) -> None:
        """Takes what the next steps learn from."""

    def step(self, rows: Array, coefficients: Any, learning_rate: float) -> Metrics:
        """One gradient step on these rows of the batch; returns the loss's metrics."""

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state, the same for every engine: its moments by name (`optim.MOMENTS`), and steps."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
