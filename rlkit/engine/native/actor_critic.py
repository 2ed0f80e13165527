"""The fast engine for plain MLPs on the CPU: analytic gradients on the torch module's own memory.

Tiny networks pay for dispatch, not for arithmetic: a torch step of a 64-64 network takes three times as long as
these few dozen NumPy calls, and those twice as long as the same in C, see native.py. The agent's torch loss stays the
reference; a test compares the gradients.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from torch import Tensor, nn

from rlkit.buffers.batch import PolicyBatch
from rlkit.engine.base import AnalyticLoss, Metrics
from rlkit.engine.descent import NumpyDescent
from rlkit.engine.native.heads import analytic_head
from rlkit.engine.native.optimizers import clip_global_norm, make_optimizer
from rlkit.engine.native.primitives import Primitives
from rlkit.networks.actor_critic import ActorCritic
from rlkit.networks.heads import Gaussian
from rlkit.spaces import Array, masked

CHUNK = 1024
"""Rows evaluated at once outside of updates: their activations stay in the cache."""
LEAST_WORK, MOST_LIVE = 2**17, 0.8
"""From how many multiplications on live units are picked out of a layer, and up to which share of it they are."""
KEPT_SIZES = 8
"""Batch sizes for which working memory is kept: acting's, a minibatch's and the last one's, and some to spare."""


class MLP:
    """A torch Sequential of Linear layers and one kind of activation, computed on its own memory."""

    def __init__(self, module: nn.Sequential) -> None:
        linears = [layer for layer in module if isinstance(layer, nn.Linear)]
        self._weights = [layer.weight.detach().numpy() for layer in linears]
        self._biases = [layer.bias.detach().numpy() for layer in linears]
        self._weight_gradients = [_gradient(layer.weight) for layer in linears]
        self._bias_gradients = [_gradient(layer.bias) for layer in linears]
        self._relu = any(isinstance(layer, nn.ReLU) for layer in module)
        self._outputs: dict[int, list[Array]] = {}
        """Working memory by batch size, since allocating it anew costs as much as a layer."""
        self._zeros = np.zeros(0, np.float32)

    def forward(self, x: Array) -> Array:
        """The outputs, (batch, outputs): overwritten by the next call with as many rows."""
        self._x, rows = x, len(x)
        if rows not in self._outputs:
            if len(self._outputs) == KEPT_SIZES:  # batches of whole episodes have ever new sizes
                self._outputs.clear()
            self._outputs[rows] = outputs = [np.empty((rows, len(w)), np.float32) for w in self._weights]
            if self._relu and (most := max(out.size for out in outputs)) > len(self._zeros):
                self._zeros = np.zeros(most, np.float32)
        self._activations = self._outputs[rows]
        last = len(self._weights) - 1
        for i, (weight, bias, out) in enumerate(zip(self._weights, self._biases, self._activations, strict=True)):
            np.matmul(x, weight.T, out=out)
            out += bias
            if i < last:
                if self._relu:
                    # In a third of the time of np.maximum(out, 0).
                    np.maximum(out, self._zeros[: out.size].reshape(out.shape), out=out)
                else:
                    np.tanh(out, out=out)
            x = out
        return x

    def backward(self, d_output: Array) -> None:
        """Writes the gradients of the last `forward` into the module's `grad`; uses up its activations."""
        ones = np.ones(len(d_output), np.float32)  # a product with it sums the rows in less time than np.sum
        for i in reversed(range(len(self._weights))):
            inputs = self._activations[i - 1] if i else self._x
            weights, weight_gradients = self._weights[i], self._weight_gradients[i]
            np.matmul(ones, d_output, out=self._bias_gradients[i])
            if (live := self._live_units(i, ones)) is None:
                np.matmul(d_output.T, inputs, out=weight_gradients)
            else:  # without the others, the products take so much less time, and have the same results
                d_output, weights = d_output.take(live, 1), weights.take(live, 0)
                weight_gradients.fill(0)
                weight_gradients[live] = d_output.T @ inputs
            if i:
                d_inputs = d_output @ weights
                # Of a ReLU's or a tanh's output h, the derivative is [h > 0] or 1 - h².
                if self._relu:
                    d_inputs *= inputs > 0
                else:
                    np.multiply(inputs, inputs, out=inputs)
                    np.subtract(1, inputs, out=inputs)
                    d_inputs *= inputs
                d_output = d_inputs

    def _live_units(self, layer: int, ones: Array) -> Array | None:
        """Those whose ReLU is on in any row, where these are few enough; None: all count as live."""
        weights = self._weights[layer]
        if not self._relu or layer == len(self._weights) - 1 or weights.size * len(ones) < LEAST_WORK:
            return None
        live: Array = np.flatnonzero(ones @ self._activations[layer])  # what is not a number is not zero either
        return live if len(live) <= MOST_LIVE * len(weights) else None


NUMPY = Primitives(MLP, clip_global_norm, make_optimizer, losses={})


class NumpyEngine:
    """Gradient steps on a loss whose derivatives are written out, by primitives in NumPy or others; see `Engine`."""

    def __init__(
        self, network: ActorCritic, loss: AnalyticLoss, *, primitives: Primitives = NUMPY, **descent: Any
    ) -> None:
        if reason := unsupported(network):
            raise ValueError(reason)
        self.descent = NumpyDescent(network, primitives, **descent)
        self._actor, self._critic = primitives.mlp(network.actor), primitives.mlp(network.critic)
        self._log_std = None if network.log_std is None else network.log_std.detach().numpy()
        self._log_std_gradient = None if network.log_std is None else _gradient(network.log_std)
        self._head = analytic_head(network.head)
        self._loss: AnalyticLoss = primitives.losses.get(loss, loss)
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

    def load(self, batch: PolicyBatch) -> None:
        self._batch = batch

    def step(self, rows: Array, coefficients: Any, learning_rate: float) -> Metrics:
        assert self._batch is not None, "load comes before step"
        batch = self._batch.map(lambda part: part.take(rows, 0))  # in less time than part[rows]
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
    """Why this engine cannot compute a network, or None where it can."""
    if reason := network.cnns.only_torch or only_torch_activation(network.actor, network.critic):
        return reason
    if isinstance(network.head, Gaussian) and network.head.state_dependent_std:
        return "the standard deviation depends on the state"
    if next(network.parameters()).is_cuda:
        return "the network is on a GPU"
    return None


def only_torch_activation(*towers: nn.Sequential) -> str | None:
    """The reason why no engine but torch can compute the activation of MLPs; None where others can."""
    for layer in itertools.chain(*towers):
        if not isinstance(layer, nn.Linear | nn.Tanh | nn.ReLU):
            return f"the activation is {type(layer).__name__}, and not tanh or relu"
    return None


def _gradient(parameter: Tensor) -> Array:
    assert parameter.grad is not None, "flatten_parameters makes the gradients"
    gradient: Array = parameter.grad.numpy()
    return gradient
