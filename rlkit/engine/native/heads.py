"""The heads of `rlkit/networks/heads.py` in NumPy with their derivatives written out; tests compare them with autograd.

`evaluate` computes log-probability, entropy and KL(old || new), and keeps intermediate results. `gradient` then takes
the derivatives of the loss by those three, and returns the derivatives by the head's parameters: the chain rule.
"""

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


class AnalyticHead(Protocol):
    """A head whose derivatives are written out."""

    kind: str
    """Name of the family: "categorical", "bernoulli" or "gaussian"."""
    part_sizes: Array
    """Number of parameters of each dimension of the action."""

    def evaluate(self, params: Array, action: Array, old: Array | None = None) -> Evaluated:
        """Evaluates the distributions of `params`, (batch, num_params), and keeps intermediate results."""

    def gradient(self, d_log_prob: Array, d_entropy: float, d_kl: float) -> Array:
        """Computes d loss / d params of the last `evaluate`, (batch, num_params).

        The arguments are the derivatives of the loss by each row's log-probability, by an entropy, and by a KL.
        """


class AnalyticCategorical:
    """A softmax over the logits of each action dimension.

    The arrays are transposed to (choices, rows): with few choices, NumPy is several times faster along that axis.
    """

    kind = "categorical"

    def __init__(self, head: Categorical) -> None:
        self.part_sizes = np.array(head.sizes, np.int64)
        ends = np.cumsum(head.sizes)
        self._parts = [slice(int(end) - size, int(end)) for end, size in zip(ends, head.sizes, strict=True)]

    def evaluate(self, params: Array, action: Array, old: Array | None = None) -> Evaluated:
        logs = _log_softmax(params, self._parts)
        self._rows = np.arange(len(params))
        self._columns = action.reshape(len(action), -1).T
        self._probs = [np.exp(log) for log in logs]
        negative_entropies = [(p * log).sum(0) for p, log in zip(self._probs, logs, strict=True)]
        self._centred = [log - negative for log, negative in zip(logs, negative_entropies, strict=True)]
        log_prob = sum(log[a, self._rows] for log, a in zip(logs, self._columns, strict=True))
        entropy = -sum(negative_entropies)
        if old is None:
            return Evaluated(np.asarray(log_prob), np.asarray(entropy), None)
        old_logs = _log_softmax(old, self._parts)
        self._old_probs = [np.exp(log) for log in old_logs]
        terms = zip(self._old_probs, old_logs, logs, strict=True)
        kl = sum((p * (before - after)).sum(0) for p, before, after in terms)
        return Evaluated(np.asarray(log_prob), np.asarray(entropy), np.asarray(kl))

    def gradient(self, d_log_prob: Array, d_entropy: float, d_kl: float) -> Array:
        gradient = np.empty((len(self._rows), self._parts[-1].stop), d_log_prob.dtype)
        for i, (p, column) in enumerate(zip(self._probs, self._columns, strict=True)):
            d = p * -d_log_prob
            d[column, self._rows] += d_log_prob
            if d_entropy:
                d -= d_entropy * p * self._centred[i]
            if d_kl:
                d += d_kl * (p - self._old_probs[i])
            gradient[:, self._parts[i]] = d.T
        return gradient


class AnalyticBernoulli:
    """An independent Bernoulli distribution for each bit, with logits as parameters."""

    kind = "bernoulli"

    def __init__(self, head: Bernoulli) -> None:
        self.part_sizes = np.ones(head.num_params, np.int64)

    def evaluate(self, params: Array, action: Array, old: Array | None = None) -> Evaluated:
        self._logits, self._action = params, action
        soft = np.logaddexp(0, params)
        self._probs = np.exp(params - soft)
        entropy = (soft - self._probs * params).sum(1)
        log_prob = (params * action - soft).sum(1)
        if old is None:
            return Evaluated(log_prob, entropy, None)
        old_soft = np.logaddexp(0, old)
        self._old_probs = np.exp(old - old_soft)
        return Evaluated(log_prob, entropy, (self._old_probs * (old - params) + soft - old_soft).sum(1))

    def gradient(self, d_log_prob: Array, d_entropy: float, d_kl: float) -> Array:
        d = d_log_prob[:, None] * (self._action - self._probs)
        d -= d_entropy * self._logits * self._probs * (1 - self._probs)
        if d_kl:
            d += d_kl * (self._probs - self._old_probs)
        gradient: Array = d
        return gradient


class AnalyticGaussian:
    """Independent normal distributions, with means and logarithms of standard deviations as parameters."""

    kind = "gaussian"

    def __init__(self, head: Gaussian) -> None:
        self._size = head.num_actions
        self.part_sizes = np.full(head.num_actions, 2, np.int64)

    def evaluate(self, params: Array, action: Array, old: Array | None = None) -> Evaluated:
        n = self._size
        mean, log_std = params[:, :n], params[:, n:]
        self._inverse_std = np.exp(-log_std)
        self._z = (action - mean) * self._inverse_std
        log_prob = (-0.5 * self._z**2 - log_std - HALF_LOG_TWO_PI).sum(1)
        entropy = (log_std + (0.5 + HALF_LOG_TWO_PI)).sum(1)
        if old is None:
            return Evaluated(log_prob, entropy, None)
        old_mean, old_log_std = old[:, :n], old[:, n:]
        # The shift is that of the mean, and the spread is the old variance plus the shift's square; both in units of
        # the new standard deviation.
        self._shift = (mean - old_mean) * self._inverse_std
        self._spread = np.exp(2 * (old_log_std - log_std)) + self._shift**2
        return Evaluated(log_prob, entropy, (log_std - old_log_std + 0.5 * self._spread - 0.5).sum(1))

    def gradient(self, d_log_prob: Array, d_entropy: float, d_kl: float) -> Array:
        column = d_log_prob[:, None]
        d_mean = column * self._z * self._inverse_std
        d_log_std = column * (self._z**2 - 1) + d_entropy
        if d_kl:
            d_mean += d_kl * self._shift * self._inverse_std
            d_log_std += d_kl * (1 - self._spread)
        return np.concatenate([d_mean, d_log_std], axis=1)


def analytic_head(head: Head) -> AnalyticHead:
    """Makes the analytic counterpart of a head."""
    if isinstance(head, Categorical):
        return AnalyticCategorical(head)
    if isinstance(head, Gaussian):
        return AnalyticGaussian(head)
    assert isinstance(head, Bernoulli)
    return AnalyticBernoulli(head)


def _log_softmax(params: Array, parts: list[slice]) -> list[Array]:
    """Computes the log-softmax of each part of the parameters' columns: (choices, rows)."""
    transposed = np.ascontiguousarray(params.T)
    logs = []
    for part in parts:
        shifted = transposed[part] - transposed[part].max(0)
        logs.append(shifted - np.log(np.exp(shifted).sum(0)))
    return logs
