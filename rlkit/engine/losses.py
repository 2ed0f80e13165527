"""Losses that several agents share, and what others are made of: pure functions of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from rlkit.system.ranks import Ranks

if TYPE_CHECKING:  # so that agents can be listed without importing torch
    from torch import Tensor

    from rlkit.buffers.batch import PolicyBatch
    from rlkit.engine.q import TDBatch
    from rlkit.networks.heads import Head
    from rlkit.spaces import Array

Values = TypeVar("Values", bound="Array | Tensor")


def surrogate(head: Head, params: Tensor, batch: PolicyBatch, advantages: Tensor) -> tuple[Tensor, Tensor]:
    """The importance-sampled objective of each row, π(a|s) / π_old(a|s) · A, and the logarithm of that ratio: (rows,).

    Where the policies are equal, the gradient of its mean is the policy gradient.
    """
    log_ratio = head.log_prob(params, batch.action) - batch.log_prob
    return log_ratio.exp() * advantages, log_ratio


def whitened(advantages: Values, ranks: Ranks) -> Values:
    """Advantages, as an array or a tensor, of mean 0 and standard deviation 1 over all ranks; a single one as it is."""
    if len(advantages) * ranks.size < 2:
        return advantages
    mean, std = ranks.mean_and_std(advantages)
    standard: Values = (advantages - mean) / (std + 1e-8)
    return standard


def dqn_loss(q_values: Tensor, batch: TDBatch, loss: str) -> tuple[Tensor, Tensor]:
    """The loss on a minibatch, and the TD errors; `q_values`, (rows, actions), are the network's now.

    The analytic engine computes this function's derivatives in `rlkit.engine.native.q`.
    """
    td_errors = batch.targets - q_values.gather(1, batch.action[:, None])[:, 0]
    sizes = td_errors.abs()
    losses = (0.5 * sizes.square()).where(sizes < 1, sizes - 0.5) if loss == "huber" else td_errors.square()
    if batch.weights is not None:
        losses = losses * batch.weights
    return losses.mean(), td_errors.detach()


def categorical_loss(log_probs: Tensor, batch: TDBatch, loss: str) -> tuple[Tensor, Tensor]:
    """The cross-entropy between target distributions and the network's (Bellemare et al. 2017), and their divergence.

    `log_probs`, (rows, actions, atoms), are the network's now, `batch.targets`, (rows, atoms), probabilities. The
    divergence, (rows,), is KL(target || network): the cross-entropy less what no network can undercut. `loss`, the
    kind of a `dqn_loss`, does not matter.
    """
    taken = log_probs.take_along_dim(batch.action[:, None, None], 1)[:, 0]
    losses = -(batch.targets * taken).sum(1)
    divergences = losses.detach() + batch.targets.xlogy(batch.targets).sum(1)
    if batch.weights is not None:
        losses = losses * batch.weights
    return losses.mean(), divergences
