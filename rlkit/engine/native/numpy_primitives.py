"""The primitives in NumPy, which need no compiler.

Small networks spend their time on dispatch, not on arithmetic. A torch step of a 64-64 network takes three times as
long as these few dozen NumPy calls, which take twice as long as C (`rlkit/engine/native/c_primitives.py`).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from rlkit.buffers.batch import PolicyBatch
from rlkit.engine.native.heads import AnalyticHead
from rlkit.engine.native.optimizers import OPTIMIZERS
from rlkit.engine.native.primitives import Metrics, PolicyTerms, Primitives
from rlkit.spaces import Array

MIN_PRUNED_PRODUCT = 2**17
"""Multiplications of a layer's backward product from which it pays to leave out the units whose ReLU is off."""
MAX_LIVE_FRACTION = 0.8
"""Largest fraction of live units with which it pays to leave out the others."""
MAX_KEPT_BATCH_SIZES = 8
"""Number of batch sizes for which activations are kept: of acting, of minibatches, of the last one, and some spares."""


class MLP:
    """Computes a torch Sequential of Linear layers with one kind of activation, on the module's own memory."""

    def __init__(self, module: nn.Sequential) -> None:
        linears = [layer for layer in module if isinstance(layer, nn.Linear)]
        self._weights = [layer.weight.detach().numpy() for layer in linears]
        self._biases = [layer.bias.detach().numpy() for layer in linears]
        self._weight_gradients = [gradient_of(layer.weight) for layer in linears]
        self._bias_gradients = [gradient_of(layer.bias) for layer in linears]
        self._relu = any(isinstance(layer, nn.ReLU) for layer in module)
        self._outputs: dict[int, list[Array]] = {}
        """Arrays for the layers' outputs by batch size, kept because allocating them anew costs as much as a layer."""
        self._zeros = np.zeros(0, np.float32)

    def forward(self, x: Array) -> Array:
        """Computes the outputs, (batch, outputs); the next call with as many rows overwrites them."""
        self._x, rows = x, len(x)
        if rows not in self._outputs:
            if len(self._outputs) == MAX_KEPT_BATCH_SIZES:  # batches of whole episodes have ever new sizes
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
                    # An array of zeros makes this three times as fast as np.maximum(out, 0).
                    np.maximum(out, self._zeros[: out.size].reshape(out.shape), out=out)
                else:
                    np.tanh(out, out=out)
            x = out
        return x

    def backward(self, d_output: Array) -> None:
        """Writes the gradients that belong to the last `forward` into the module's `grad`; overwrites activations."""
        ones = np.ones(len(d_output), np.float32)  # a product with it sums over rows, faster than np.sum
        for i in reversed(range(len(self._weights))):
            inputs = self._activations[i - 1] if i else self._x
            weights, weight_gradients = self._weights[i], self._weight_gradients[i]
            np.matmul(ones, d_output, out=self._bias_gradients[i])
            if (live := self._live_units(i, ones)) is None:
                np.matmul(d_output.T, inputs, out=weight_gradients)
            else:  # units that are off contribute zeros: leaving them out changes nothing, and is much faster
                d_output, weights = d_output.take(live, 1), weights.take(live, 0)
                weight_gradients.fill(0)
                weight_gradients[live] = d_output.T @ inputs
            if i:
                d_inputs = d_output @ weights
                # The derivative of a ReLU, by its output h, is [h > 0], and that of tanh is 1 - h².
                if self._relu:
                    d_inputs *= inputs > 0
                else:
                    np.multiply(inputs, inputs, out=inputs)
                    np.subtract(1, inputs, out=inputs)
                    d_inputs *= inputs
                d_output = d_inputs

    def _live_units(self, layer: int, ones: Array) -> Array | None:
        """Returns the indices of the units whose ReLU is on in any row, or None if it does not pay to pick them out."""
        weights = self._weights[layer]
        if not self._relu or layer == len(self._weights) - 1 or weights.size * len(ones) < MIN_PRUNED_PRODUCT:
            return None
        live: Array = np.flatnonzero(ones @ self._activations[layer])  # NaN counts as live, too
        return live if len(live) <= MAX_LIVE_FRACTION * len(weights) else None


def policy_loss(
    head: AnalyticHead, params: Array, values: Array, batch: PolicyBatch, advantages: Array, terms: PolicyTerms
) -> tuple[Array, Array, Metrics]:
    """Computes a policy-gradient loss: its derivatives by the head's parameters and by the values, and its metrics.

    For the objective `log_prob`, which has no old policy, the metrics `approx_kl` and `clip_fraction` are zero.
    """
    objective, d_params, metrics = _objective(head, params, batch, advantages, terms)
    value_loss, d_values = _value_loss(values, batch, terms)
    losses = {"policy_loss": objective, "value_loss": value_loss}
    return d_params, d_values.astype(np.float32, copy=False), {**losses, **metrics}


def _objective(
    head: AnalyticHead, params: Array, batch: PolicyBatch, advantages: Array, terms: PolicyTerms
) -> tuple[float, Array, Metrics]:
    """Computes the policy's part of the loss, its derivatives by the head's parameters, and its metrics.

    Means are written as sums divided by a count: for a few hundred numbers, `np.mean` takes five times as long as
    `np.sum`.
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
        d_log_prob[clipped < surrogate] = 0.0  # there the clipped term counts, which does not depend on the policy
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
    """Computes the values' mean squared error, and the derivatives by the values of `vf_coef` times that."""
    rows = len(values)
    errors = values - batch.returns
    d_values = errors * (2 * terms.vf_coef / rows)
    squares = errors * errors
    if terms.clip_value_coef is not None:
        moved = values - batch.values
        within = np.clip(moved, -terms.clip_value_coef, terms.clip_value_coef)
        clipped_errors = batch.values + within - batch.returns
        clipped_squares = clipped_errors * clipped_errors
        d_values[(clipped_squares > squares) & (moved != within)] = 0.0  # rounding alone can make a square larger
        squares = np.maximum(squares, clipped_squares)
    return float(squares.sum()) / rows, d_values


def td_loss(
    q_values: Array, action: Array, targets: Array, weights: Array | None, kind: str
) -> tuple[Array, float, Array]:
    """Computes a temporal-difference loss: its derivatives by all action values, its value, and the TD errors, (rows,).

    `q_values` and the derivatives are (rows, actions); `action`, `targets` and `weights`, if there are any, are
    (rows,). `kind` is `huber` or `mse`.
    """
    rows = np.arange(len(q_values))
    td_errors: Array = targets - q_values[rows, action]
    # Both kinds of loss are a product: the slope (the derivative by the TD error) times a height.
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
    """Returns the gradient of a parameter as an array on the same memory."""
    assert parameter.grad is not None, "flatten_parameters makes the gradients"
    gradient: Array = parameter.grad.numpy()
    return gradient
