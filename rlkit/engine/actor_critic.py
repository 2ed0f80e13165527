"""The engine of an actor-critic network, as agents see it, and the loss that it follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from rlkit.buffers.batch import PolicyBatch
from rlkit.engine.descent import Descent
from rlkit.networks.array_heads import ArrayHead
from rlkit.networks.heads import Head
from rlkit.spaces import Array

Metrics = dict[str, float]
TorchLoss = Callable[[Head, Tensor, Tensor, PolicyBatch, Any], tuple[Tensor, dict[str, Tensor]]]
"""(head, params, values, batch, coefficients) -> the loss to differentiate, and metrics."""
AnalyticLoss = Callable[[ArrayHead, Array, Array, PolicyBatch, Any], tuple[Array, Array, Metrics]]
"""(head, params, values, batch, coefficients) -> d loss / d params, d loss / d values, and metrics."""


class ActorCriticLoss(NamedTuple):
    """A loss on an actor-critic network's outputs: written with torch, and perhaps with its derivatives as well."""

    torch: TorchLoss
    """The reference, which autograd can differentiate for every network."""
    native: AnalyticLoss | None = None
    """The derivatives of the same loss, for the C engine; None: it leaves the loss to torch."""


class Engine(Protocol):
    """Evaluates an actor-critic network and takes gradient steps on a loss; in and out go NumPy arrays."""

    @property
    def descent(self) -> Descent[Any]:
        """The optimiser, with clipping."""

    def policy(self, features: tuple[Array, ...]) -> Array:
        """The head's parameters: (batch, num_params). Overwritten by the next call."""

    def evaluate(self, features: tuple[Any, ...]) -> tuple[Array, Array]:
        """The head's parameters, and the values: (batch,)."""

    def uploaded(self, features: tuple[Array, ...]) -> tuple[Any, ...]:
        """The features where the engine computes, for calls that use them more than once: on a GPU, tensors."""

    def load(self, batch: PolicyBatch) -> None:
        """Takes the batch whose rows the next steps learn from."""

    def step(self, rows: Array, coefficients: Any, learning_rate: float) -> Metrics:
        """Takes one gradient step on these rows of the batch; returns the loss's metrics."""

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state, alike for every engine: its moments by torch's names, and `steps`."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state that `state_dict` returned."""
