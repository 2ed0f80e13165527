"""The heads of `rlkit/networks/heads.py` on NumPy arrays, which acting needs; tests compare them with torch's."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from rlkit.networks.heads import HALF_LOG_TWO_PI, Bernoulli, Categorical, Gaussian, Head
from rlkit.spaces import Array


class Evaluated(NamedTuple):
    """Properties of a batch of action distributions."""

    log_prob: Array
    """Log-probability of each row's action: (batch,)."""
    entropy: Array
    """Entropy of each row's distribution: (batch,)."""
    kl: Array | None
    """KL(old || new) of each row, (batch,); None if no old parameters were given."""


class ArrayHead(Protocol):
    """A head that evaluates distributions in NumPy, without derivatives."""

    kind: str
    """Name of the family: "categorical", "bernoulli" or "gaussian"."""
    part_sizes: Array
    """Number of parameters of each dimension of the action."""

    def evaluate(self, params: Array, action: Array, old: Array | None = None) -> Evaluated:
        """Evaluates the distributions of `params`, (batch, num_params)."""


class ArrayCategorical:
    """A softmax over the logits of each action dimension.

    The arrays are transposed to (choices, rows): with few choices, NumPy is several times faster along that axis.
    """

    kind = "categorical"

    def __init__(self, head: Categorical) -> None:
        self.part_sizes = np.array(head.sizes, np.int64)
        ends = np.cumsum(head.sizes)
        self._parts = [slice(int(end) - size, int(end)) for end, size in zip(ends, head.sizes, strict=True)]

    def evaluate(self, params: Array, action: Array, old: Array | None = None) -> Evaluated:
        logs, rows = _log_softmax(params, self._parts), np.arange(len(params))
        columns = action.reshape(len(action), -1).T
        log_prob = sum(log[a, rows] for log, a in zip(logs, columns, strict=True))
        entropy = -sum((np.exp(log) * log).sum(0) for log in logs)
        if old is None:
            return Evaluated(np.asarray(log_prob), np.asarray(entropy), None)
        old_logs = _log_softmax(old, self._parts)
        kl = sum((np.exp(before) * (before - after)).sum(0) for before, after in zip(old_logs, logs, strict=True))
        return Evaluated(np.asarray(log_prob), np.asarray(entropy), np.asarray(kl))


class ArrayBernoulli:
    """An independent Bernoulli distribution for each bit, with logits as parameters."""

    kind = "bernoulli"

    def __init__(self, head: Bernoulli) -> None:
        self.part_sizes = np.ones(head.num_params, np.int64)

    def evaluate(self, params: Array, action: Array, old: Array | None = None) -> Evaluated:
        soft = np.logaddexp(0, params)
        entropy = (soft - np.exp(params - soft) * params).sum(1)
        log_prob = (params * action - soft).sum(1)
        if old is None:
            return Evaluated(log_prob, entropy, None)
        old_soft = np.logaddexp(0, old)
        return Evaluated(log_prob, entropy, (np.exp(old - old_soft) * (old - params) + soft - old_soft).sum(1))


class ArrayGaussian:
    """Independent normal distributions, with means and logarithms of standard deviations as parameters."""

    kind = "gaussian"

    def __init__(self, head: Gaussian) -> None:
        self._size = head.num_actions
        self.part_sizes = np.full(head.num_actions, 2, np.int64)

    def evaluate(self, params: Array, action: Array, old: Array | None = None) -> Evaluated:
        n = self._size
        mean, log_std = params[:, :n], params[:, n:]
        inverse_std = np.exp(-log_std)
        z = (action - mean) * inverse_std
        log_prob = (-0.5 * z**2 - log_std - HALF_LOG_TWO_PI).sum(1)
        entropy = (log_std + (0.5 + HALF_LOG_TWO_PI)).sum(1)
        if old is None:
            return Evaluated(log_prob, entropy, None)
        old_mean, old_log_std = old[:, :n], old[:, n:]
        # The shift is that of the mean, and the spread is the old variance plus the shift's square; both in units of
        # the new standard deviation.
        shift = (mean - old_mean) * inverse_std
        spread = np.exp(2 * (old_log_std - log_std)) + shift**2
        return Evaluated(log_prob, entropy, (log_std - old_log_std + 0.5 * spread - 0.5).sum(1))


def array_head(head: Head) -> ArrayHead:
    """Makes the counterpart of a head for arrays."""
    if isinstance(head, Categorical):
        return ArrayCategorical(head)
    if isinstance(head, Gaussian):
        return ArrayGaussian(head)
    assert isinstance(head, Bernoulli)
    return ArrayBernoulli(head)


def _log_softmax(params: Array, parts: list[slice]) -> list[Array]:
    """Computes the log-softmax of each part of the parameters' columns: (choices, rows)."""
    transposed = np.ascontiguousarray(params.T)
    logs = []
    for part in parts:
        shifted = transposed[part] - transposed[part].max(0)
        logs.append(shifted - np.log(np.exp(shifted).sum(0)))
    return logs
