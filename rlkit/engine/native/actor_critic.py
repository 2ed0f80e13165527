"""The fast engine for plain MLPs on the CPU: analytic gradients on the torch module's own memory.

Small networks spend their time on dispatch, not on arithmetic. A torch step of a 64-64 network takes six times as long
as these few calls of C (`rlkit/engine/native/primitives.py`). The agent's torch loss stays the reference; a test
compares the gradients.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from torch import nn

from rlkit.buffers.batch import PolicyBatch
from rlkit.engine.actor_critic import AnalyticLoss
from rlkit.engine.descent import Descent
from rlkit.engine.native.primitives import ACTIVATIONS, Metrics, NativeMLP
from rlkit.networks.actor_critic import ActorCritic
from rlkit.networks.array_heads import array_head
from rlkit.networks.heads import Gaussian
from rlkit.spaces import Array, masked

CHUNK = 1024
"""Rows that are evaluated at once outside of updates, so that their activations stay in the processor's cache."""


class AnalyticEngine:
    """Takes gradient steps in C on a loss whose derivatives are written out; see `Engine`."""

    def __init__(self, network: ActorCritic, loss: AnalyticLoss, descent: Descent[float]) -> None:
        if reason := unsupported(network):
            raise ValueError(reason)
        self.descent = descent
        self._actor, self._critic = NativeMLP(network.actor), NativeMLP(network.critic)
        self._log_std = self._log_std_gradient = None
        if network.log_std is not None:
            assert network.log_std.grad is not None, "flatten_parameters makes the gradients"
            self._log_std, self._log_std_gradient = network.log_std.detach().numpy(), network.log_std.grad.numpy()
        self._head = array_head(network.head)
        self._loss = loss
        self._batch: PolicyBatch | None = None

    def policy(self, features: tuple[Array, ...]) -> Array:
        return self._params(self._actor.forward(features[0]))

    def evaluate(self, features: tuple[Array, ...]) -> tuple[Array, Array]:
        params, values = [], []
        for start in range(0, len(features[0]), CHUNK):
            chunk = features[0][start : start + CHUNK]
            params.append(self.policy((chunk,)).copy())
            values.append(self._critic.forward(chunk)[:, 0].copy())
        return np.concatenate(params), np.concatenate(values)

    def uploaded(self, features: tuple[Array, ...]) -> tuple[Array, ...]:
        return features

    def load(self, batch: PolicyBatch) -> None:
        self._batch = batch

    def step(self, rows: Array, coefficients: Any, learning_rate: float) -> Metrics:
        assert self._batch is not None, "load comes before step"
        batch = self._batch.map(lambda part: part.take(rows, 0))  # faster than part[rows]
        params = masked(self.policy(batch.features), batch.action_mask)
        values = self._critic.forward(batch.features[0])[:, 0]
        d_params, d_values, metrics = self._loss(self._head, params, values, batch, coefficients)
        if self._log_std_gradient is not None:
            d_mean, d_log_std = np.split(d_params, 2, axis=1)
            np.sum(d_log_std, axis=0, out=self._log_std_gradient)
            d_params = np.ascontiguousarray(d_mean)
        self._actor.backward(d_params)
        self._critic.backward(d_values[:, None])
        metrics["grad_norm"] = self.descent.step(learning_rate)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return self.descent.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.descent.load_state_dict(state)

    def _params(self, outputs: Array) -> Array:
        if self._log_std is None:
            return outputs
        return np.concatenate([outputs, np.broadcast_to(self._log_std, outputs.shape)], axis=1)


def unsupported(network: ActorCritic) -> str | None:
    """Returns the reason why this engine cannot compute a network, or None if it can."""
    if reason := network.cnns.only_torch or only_torch_activation(network.actor, network.critic):
        return reason
    if isinstance(network.head, Gaussian) and network.head.state_dependent_std:
        return "the standard deviation depends on the state"
    if next(network.parameters()).is_cuda:
        return "the network is on a GPU"
    return None


def only_torch_activation(*towers: nn.Sequential) -> str | None:
    """Returns the reason why only torch can compute the activation of MLPs, or None if C can too."""
    for layer in itertools.chain(*towers):
        if not isinstance(layer, nn.Linear | nn.LayerNorm) and type(layer) not in ACTIVATIONS:
            return f"the activation is {type(layer).__name__}, and not one of {', '.join(ACTIVATIONS.values())}"
    return None
