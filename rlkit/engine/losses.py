"""Losses that several agents use, and terms that other losses are made of: pure functions of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from rlkit.system.ranks import Ranks

if TYPE_CHECKING:  # so that agents can be listed without importing torch
    from torch import Tensor

    from rlkit.buffers.batch import PolicyBatch
    from rlkit.engine.q import TDBatch
    from rlkit.networks.heads import Head
    from rlkit.spaces import Array

Values = TypeVar("Values", bound="Array | Tensor")


def mean_metrics(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Averages the metrics of an update's gradient steps, which have the same names, and makes log keys of these."""
    columns = zip(*[step.values() for step in history], strict=True)
    return {f"train/{name}": sum(column) / len(history) for name, column in zip(history[0], columns, strict=True)}


def surrogate(head: Head, params: Tensor, batch: PolicyBatch, advantages: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the importance-sampled objective π(a|s) / π_old(a|s) · A and the logarithm of its ratio: (rows,) both.

    While the two policies are equal, the gradient of the objective's mean is the policy gradient.
    """
    log_ratio = head.log_prob(params, batch.action) - batch.log_prob
    return log_ratio.exp() * advantages, log_ratio


def whitened(advantages: Values, ranks: Ranks) -> Values:
    """Standardises advantages to mean 0 and standard deviation 1 over all ranks; leaves a single one as it is."""
    if len(advantages) * ranks.size < 2:
        return advantages
    mean, std = ranks.mean_and_std(advantages)
    standard: Values = (advantages - mean) / (std + 1e-8)
    return standard


def dqn_loss(q_values: Tensor, batch: TDBatch, loss: str) -> tuple[Tensor, Tensor]:
    """Computes the loss of a minibatch, `huber` or `mse`, and its TD errors, (rows,).

    `q_values`, (rows, actions), are the network's current ones. The derivatives of this function are written out in
    `rlkit.engine.native.q.dqn_gradient`.
    """
    td_errors = batch.targets - q_values.gather(1, batch.action[:, None])[:, 0]
    sizes = td_errors.abs()
    losses = (0.5 * sizes.square()).where(sizes < 1, sizes - 0.5) if loss == "huber" else td_errors.square()
    if batch.weights is not None:
        losses = losses * batch.weights
    return losses.mean(), td_errors.detach()


def categorical_loss(log_probs: Tensor, batch: TDBatch, loss: str) -> tuple[Tensor, Tensor]:
    """Computes the cross-entropy of the network's distributions to the targets (Bellemare et al. 2017), and their KL.

    `log_probs`, (rows, actions, atoms), are the network's current ones, and `batch.targets`, (rows, atoms), are
    probabilities. The divergence KL(target || network), (rows,), is the cross-entropy less the targets' entropy, which
    no network can undercut. `loss` is ignored; it is there for the signature of `dqn_loss`.
    """
    taken = log_probs.take_along_dim(batch.action[:, None, None], 1)[:, 0]
    losses = -(batch.targets * taken).sum(1)
    divergences = losses.detach() + batch.targets.xlogy(batch.targets).sum(1)
    if batch.weights is not None:
        losses = losses * batch.weights
    return losses.mean(), divergences
