"""The primitives in NumPy, which need no compiler.

Tiny networks pay for dispatch, not for arithmetic: a torch step of a 64-64 network takes three times as long as
these few dozen NumPy calls, and those twice as long as the same in C, see c_primitives.py.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from rlkit.buffers.batch import PolicyBatch
from rlkit.engine.native.heads import AnalyticHead
from rlkit.engine.native.optimizers import OPTIMIZERS
from rlkit.engine.native.primitives import Metrics, PolicyTerms, Primitives
from rlkit.spaces import Array

LEAST_WORK = 2**17
"""The multiplications of a layer's backward product from which it pays to leave out units that are off."""
MOST_LIVE = 0.8
"""The share of live units up to which it pays to leave out the others."""
KEPT_SIZES = 8
"""Batch sizes for which working memory is kept: acting's, a minibatch's and the last one's, and some to spare."""


class MLP:
    """A torch Sequential of Linear layers and one kind of activation, computed on its own memory."""

    def __init__(self, module: nn.Sequential) -> None:
        linears = [layer for layer in module if isinstance(layer, nn.Linear)]
        self._weights = [layer.weight.detach().numpy() for layer in linears]
        self._biases = [layer.bias.detach().numpy() for layer in linears]
        self._weight_gradients = [gradient_of(layer.weight) for layer in linears]
        self._bias_gradients = [gradient_of(layer.bias) for layer in linears]
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
            # Zeros, because some BLAS reads the memory that it writes to, and warns of numbers left there.
            self._outputs[rows] = outputs = [np.zeros((rows, len(w)), np.float32) for w in self._weights]
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


def policy_loss(
    head: AnalyticHead, params: Array, values: Array, batch: PolicyBatch, advantages: Array, terms: PolicyTerms
) -> tuple[Array, Array, Metrics]:
    """A policy-gradient loss: its derivatives by the head's parameters and by the values, and its metrics.

    `approx_kl` and `clip_fraction` are zero where `batch` has no old log-probabilities.
    """
    objective, d_params, metrics = _objective(head, params, batch, advantages, terms)
    value_loss, d_values = _value_loss(values, batch, terms)
    losses = {"policy_loss": objective, "value_loss": value_loss}
    return d_params, d_values.astype(np.float32, copy=False), {**losses, **metrics}


def _objective(
    head: AnalyticHead, params: Array, batch: PolicyBatch, advantages: Array, terms: PolicyTerms
) -> tuple[float, Array, Metrics]:
    """The policy's part of the loss, its derivatives by the head's parameters, and its metrics.

    Means are sums divided by a number: of a few hundred numbers, `np.mean` takes five times as long as `np.sum`.
    """
    rows, divisor = len(params), terms.divisor
    if terms.objective == "log_prob":
        log_prob, entropy, _ = head.evaluate(params, batch.action)
        d_params = head.gradient(advantages / -divisor, -terms.ent_coef / divisor, 0.0)
        metrics = {"entropy": float(entropy.sum()) / rows, "approx_kl": 0.0, "clip_fraction": 0.0}
        return float(log_prob @ advantages) / -divisor, d_params, metrics

    log_prob, entropy, kl = head.evaluate(params, batch.action, batch.old_params)
    log_ratio = log_prob - batch.log_prob
    ratio = np.exp(log_ratio)
    surrogate = ratio * advantages
    d_log_prob = surrogate / -divisor
    if terms.objective == "clip":
        clipped = np.clip(ratio, 1 - terms.clip_coef, 1 + terms.clip_coef) * advantages
        d_log_prob[clipped < surrogate] = 0.0  # the clipped term is the smaller: it does not depend on the policy
        surrogate = np.minimum(surrogate, clipped)
    loss = surrogate.sum() / -divisor
    d_kl = 0.0
    if kl is not None:
        loss += terms.kl_coef * kl.sum() / divisor
        d_kl = terms.kl_coef / divisor
    metrics = {
        "entropy": float(entropy.sum()) / rows,
        "approx_kl": float((ratio - 1 - log_ratio).sum()) / rows,
        "clip_fraction": np.count_nonzero(np.abs(ratio - 1) > terms.clip_coef) / rows,
    }
    return float(loss), head.gradient(d_log_prob, -terms.ent_coef / divisor, d_kl), metrics


def _value_loss(values: Array, batch: PolicyBatch, terms: PolicyTerms) -> tuple[float, Array]:
    """The mean squared error of the values, before its weight, and the derivatives of the weighted one by them."""
    rows = len(values)
    errors = values - batch.returns
    d_values = errors * (2 * terms.vf_coef / rows)
    squares = errors * errors
    if terms.clip_value_coef is not None:
        moved = values - batch.values
        within = np.clip(moved, -terms.clip_value_coef, terms.clip_value_coef)
        clipped_errors = batch.values + within - batch.returns
        clipped_squares = clipped_errors * clipped_errors
        d_values[(clipped_squares > squares) & (moved != within)] = 0.0  # not where only rounding makes it larger
        squares = np.maximum(squares, clipped_squares)
    return float(squares.sum()) / rows, d_values


def td_loss(
    q_values: Array, action: Array, targets: Array, weights: Array | None, kind: str
) -> tuple[Array, float, Array]:
    """A loss on the values of taken actions: its derivatives by all action values, the loss, and the TD errors.

    `q_values` are (rows, actions), `action`, `targets` and `weights`, if there are any, (rows,); `kind` is `huber` or
    `mse`.
    """
    rows = np.arange(len(q_values))
    td_errors: Array = targets - q_values[rows, action]
    # A row's loss is its slope times a height.
    if kind == "huber":
        slopes = np.maximum(np.minimum(td_errors, 1), -1)
        heights = td_errors - 0.5 * slopes
    else:
        slopes, heights = 2 * td_errors, 0.5 * td_errors
    if weights is not None:
        slopes *= weights
    d_q_values = np.zeros_like(q_values)
    d_q_values[rows, action] = slopes / -len(rows)
    return d_q_values, float(slopes @ heights) / len(rows), td_errors


NUMPY = Primitives(mlp=MLP, optimizers=OPTIMIZERS, policy_loss=policy_loss, td_loss=td_loss)
"""The primitives in NumPy."""


def gradient_of(parameter: Tensor) -> Array:
    """The gradient of a parameter, as an array on the same memory."""
    assert parameter.grad is not None, "flatten_parameters makes the gradients"
    gradient: Array = parameter.grad.numpy()
    return gradient
