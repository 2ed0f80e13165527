"""The operations that analytic engines are built of, in C (`rlkit/engine/native/c/`), called with NumPy arrays.

The C extension is optional: if it is not there, `missing` gives the reason, and torch computes. It takes the widest
vector instructions that the processor has, unless the environment variable RLKIT_SIMD names others.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from rlkit.buffers.batch import PolicyBatch
from rlkit.networks.array_heads import ArrayHead
from rlkit.spaces import Array
from rlkit.system.threads import in_threads, shard_threads

Metrics = dict[str, float]
Arrays = tuple[Array, ...]

missing: str | None = None
"""The reason why the C engine cannot be used here, or None if it can."""
try:
    import rlkit.engine.native.kernels as c_engine
except ModuleNotFoundError:
    missing = "the C engine was not built: it needs a C compiler, and x86-64 or 64-bit ARM, when rlkit is installed"
except ImportError as error:
    missing = f"the C engine cannot run here: {error}"


def follow_variable(asked: str | None) -> str | None:
    """Computes with the vector instructions that RLKIT_SIMD asks for; returns the reason if that cannot be."""
    if not asked:
        return None
    if missing:
        return f"RLKIT_SIMD={asked}: {missing}"
    available = c_engine.available_simd()
    if asked not in available:
        return f"RLKIT_SIMD={asked}: the C engine can use {' or '.join(available)} on this processor"
    c_engine.use_simd(asked)
    return None


def simd() -> str:
    """Returns the vector instructions that the C engine, which must be there, computes with."""
    return c_engine.simd()


refused = follow_variable(os.environ.get("RLKIT_SIMD"))
"""The reason why RLKIT_SIMD cannot be followed, or None if it can."""


MIN_SHARD_FLOPS = 2e7
"""Floating-point operations of a forward pass that make a shard worth a thread."""
MIN_SHARD_ROWS = 256
"""Smallest number of rows of a shard, however large the network is."""
MAX_SHARDS = 16
"""Largest number of shards; each one has gradients of its own, which take memory."""


ACTIVATIONS: Mapping[type[nn.Module], str] = {
    nn.Tanh: "tanh",
    nn.ReLU: "relu",
    nn.ELU: "elu",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
    nn.LeakyReLU: "leaky_relu",
}
"""Names in C of torch's activations, as `rlkit.networks.mlp.activation` makes them."""


class NativeMLP:
    """A torch Sequential as `rlkit.networks.mlp.mlp` makes it, computed in C on the module's own memory.

    Large batches are split into shards, which run on all cores. The number of threads does not change the results: the
    shards depend on the batch size only, and their gradients are added up in their order.
    """

    def __init__(self, module: nn.Sequential) -> None:
        linears = [layer for layer in module if isinstance(layer, nn.Linear)]
        self._activation = next((name for layer in module if (name := ACTIVATIONS.get(type(layer)))), "identity")
        self._parameters: list[Arrays] = []
        """Weights and biases of each layer, and the gain and shift of its normalisation, if it has one."""
        self._gradients: list[list[Arrays]] = [[]]
        """Their gradients: the module's own, and those of further shards."""
        for layer in module:
            if isinstance(layer, nn.Linear | nn.LayerNorm):
                parameters, gradients = zip(*map(_arrays, (layer.weight, layer.bias)), strict=True)
                if isinstance(layer, nn.LayerNorm):
                    parameters, gradients = self._parameters.pop() + parameters, self._gradients[0].pop() + gradients
                self._parameters.append(parameters)
                self._gradients[0].append(gradients)
        self._mlps = [self._mlp(self._gradients[0])]
        self._num_outputs = linears[-1].out_features
        flops_per_row = 2 * sum(layer.weight.numel() for layer in linears)
        self._shard_rows = max(MIN_SHARD_ROWS, int(MIN_SHARD_FLOPS / flops_per_row))

    def forward(self, x: Array) -> Array:
        """Computes the outputs: (batch, outputs)."""
        self._x = x = np.ascontiguousarray(x, np.float32)
        outputs = np.empty((len(x), self._num_outputs), np.float32)
        if len(x) <= self._shard_rows:
            self._mlps[0].forward(x, outputs)
        else:
            self._in_shards(lambda mlp, rows: mlp.forward(x[rows], outputs[rows]))
        return outputs

    def backward(self, d_output: Array) -> None:
        """Writes the gradients that belong to the last `forward` into the module's `grad`."""
        x, d_output = self._x, np.ascontiguousarray(d_output, np.float32)
        if len(x) <= self._shard_rows:
            self._mlps[0].backward(x, d_output)
            return
        count = self._in_shards(lambda mlp, rows: mlp.backward(x[rows], d_output[rows]))
        for shard in self._gradients[1:count]:
            for totals, parts in zip(self._gradients[0], shard, strict=True):
                for total, part in zip(totals, parts, strict=True):
                    total += part

    def _in_shards(self, compute: Callable[[c_engine.MLP, slice], None]) -> int:
        """Calls `compute` for each shard of the batch, each with an MLP of its own; returns the number of shards."""
        rows = len(self._x)
        count = min(math.ceil(rows / self._shard_rows), MAX_SHARDS)
        while len(self._mlps) < count:
            self._gradients.append([tuple(map(np.empty_like, layer)) for layer in self._parameters])
            self._mlps.append(self._mlp(self._gradients[-1]))
        shards = [slice(i * rows // count, (i + 1) * rows // count) for i in range(count)]
        in_threads([partial(compute, *shard) for shard in zip(self._mlps, shards, strict=False)], shard_threads())
        return count

    def _mlp(self, gradients: list[Arrays]) -> c_engine.MLP:
        layers = [
            layer[:2] + gradient[:2] + layer[2:] + gradient[2:]
            for layer, gradient in zip(self._parameters, gradients, strict=True)
        ]
        return c_engine.MLP(layers, self._activation)


def _arrays(parameter: Tensor) -> tuple[Array, Array]:
    """Returns a parameter and its gradient as arrays on the same memory."""
    assert parameter.grad is not None, "flatten_parameters makes the gradients"
    return parameter.detach().numpy(), parameter.grad.numpy()


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


def policy_loss(
    head: ArrayHead, params: Array, values: Array, batch: PolicyBatch, advantages: Array, terms: PolicyTerms
) -> tuple[Array, Array, Metrics]:
    """Computes a policy-gradient loss: its derivatives by the head's parameters and by the values, and its metrics.

    For the objective `log_prob`, which has no old policy, the metrics `approx_kl` and `clip_fraction` are zero.
    """
    d_params, d_values = np.empty(params.shape, np.float32), np.empty(len(values), np.float32)
    action = batch.action.reshape(len(values), -1)
    clip_value_coef = math.inf if terms.clip_value_coef is None else terms.clip_value_coef
    coefficients = (terms.clip_coef, terms.kl_coef, clip_value_coef, terms.ent_coef, terms.vf_coef, terms.divisor)
    metrics = c_engine.policy_loss(
        head.kind,
        head.part_sizes,
        terms.objective,
        coefficients,
        _floats(params),
        _floats(values),
        np.ascontiguousarray(action, np.int64 if head.kind == "categorical" else np.float32),
        _floats(advantages),
        _floats(batch.returns),
        _floats(batch.log_prob),
        _floats(batch.old_params),
        _floats(batch.values),
        d_params,
        d_values,
    )
    names = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")
    return d_params, d_values, dict(zip(names, metrics, strict=True))


def td_loss(
    q_values: Array, action: Array, targets: Array, weights: Array | None, kind: str
) -> tuple[Array, float, Array]:
    """Computes a temporal-difference loss: its derivatives by all action values, its value, and the TD errors, (rows,).

    `q_values` and the derivatives are (rows, actions); `action`, `targets` and `weights`, if there are any, are
    (rows,). `kind` is `huber` or `mse`.
    """
    d_q_values, td_errors = np.empty(q_values.shape, np.float32), np.empty(len(q_values), np.float32)
    value = c_engine.td_loss(
        np.ascontiguousarray(q_values),
        np.ascontiguousarray(action, np.int64),
        _floats(targets),
        _floats(weights),
        kind,
        d_q_values,
        td_errors,
    )
    return d_q_values, value, td_errors


def _floats(array: Any) -> Any:
    """Converts an array to dense float32, without a copy if it is that already; None stays None."""
    return None if array is None else np.ascontiguousarray(array, np.float32)
