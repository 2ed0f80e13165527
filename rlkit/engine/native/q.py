"""The engine of a Q-network by analytic gradients, in C: for MLPs on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random import Generator

from rlkit.engine.actor_critic import Metrics
from rlkit.engine.descent import Descent, flatten_parameters
from rlkit.engine.native.actor_critic import only_torch_activation
from rlkit.engine.native.primitives import NativeMLP, td_loss
from rlkit.engine.q import AnalyticTDLoss, QEngine, TDBatch
from rlkit.networks.q_network import QNetwork, action_values
from rlkit.spaces import Array

CHUNK_SIZE = 256
"""Rows that are evaluated at once: the outputs of layers of up to 256 units stay in the processor's cache."""


class AnalyticQEngine(QEngine):
    """Analytic gradients on the torch modules' own memory, for MLPs on the CPU; see `QEngine`."""

    def __init__(
        self,
        network: QNetwork,
        target: QNetwork,
        loss: AnalyticTDLoss,
        descent: Descent[float],
    ) -> None:
        if reason := q_unsupported(network):
            raise ValueError(reason)
        self.network = network
        self._target_flat: Array = flatten_parameters(target)[0].numpy()
        self._descent, self._flat = descent, descent.flat.numpy()
        self._online, self._target = NativeMLP(network.body), NativeMLP(target.body)
        self._dueling = network.dueling
        self._loss = loss

    def q_values(self, features: tuple[Array, ...], noise: Generator | None = None) -> Array:
        return self._evaluate(self._online, features[0])

    def target_outputs(self, features: tuple[Array, ...], noise: Generator | None = None) -> Array:
        return self._evaluate(self._target, features[0])

    def step(
        self, batch: TDBatch, loss: str, learning_rate: float, noise: Generator | None = None
    ) -> tuple[Array, Metrics]:
        q_values = action_values(self._online.forward(batch.features[0]), self._dueling)
        d_q_values, value, td_errors = self._loss(q_values, batch, loss)
        mean = float(q_values.sum()) / q_values.size
        self._online.backward(_d_outputs(d_q_values, self._dueling))
        norm = self._descent.step(learning_rate)
        return td_errors, {"value_loss": value, "grad_norm": norm, "q_value": mean}

    def update_target(self, tau: float) -> None:
        # Written so that a share of 1 is a copy, without rounding.
        self._target_flat[:] = self._flat - (self._flat - self._target_flat) * np.float32(1 - tau)

    def state_dict(self) -> dict[str, Any]:
        return {**self._descent.state_dict(), "target": self._target_flat.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._descent.load_state_dict(state)
        self._target_flat[:] = state["target"]

    def _evaluate(self, body: NativeMLP, vector: Array) -> Array:
        if len(vector) <= CHUNK_SIZE:
            outputs = body.forward(vector)
        else:
            starts = range(0, len(vector), CHUNK_SIZE)
            outputs = np.concatenate([body.forward(vector[start : start + CHUNK_SIZE]).copy() for start in starts])
        q_values: Array = action_values(outputs, self._dueling)
        return q_values


def dqn_gradient(q_values: Array, batch: TDBatch, loss: str) -> tuple[Array, float, Array]:
    """Computes the derivatives of `rlkit.engine.losses.dqn_loss` by the action values, the loss, and the TD errors."""
    return td_loss(q_values, batch.action, batch.targets, batch.weights, loss)


def _d_outputs(d_q_values: Array, dueling: str) -> Array:
    """Computes the derivatives by the network's outputs: the backward pass of `action_values`."""
    if dueling == "none":
        return d_q_values
    d_value = d_q_values.sum(1, keepdims=True)
    d_advantages = d_q_values - d_value / d_q_values.shape[1] if dueling == "mean" else d_q_values
    return np.concatenate([d_value, d_advantages], axis=1)


def q_unsupported(network: QNetwork) -> str | None:
    """Returns the reason why only torch can compute a Q-network, or None if the analytic engine can."""
    if reason := network.cnns.only_torch or only_torch_activation(network.body):
        return reason
    if network.noisy:
        return "the network is noisy"
    if network.atoms is not None:
        return "the network's values are distributions"
    if next(network.parameters()).is_cuda:
        return "the network is on a GPU"
    return None
