"""What several agents' losses are made of: pure functions of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlkit import ranks

if TYPE_CHECKING:  # so that agents can be listed without importing torch
    from torch import Tensor

    from rlkit.buffers.batch import PolicyBatch
    from rlkit.networks.heads import Head


def surrogate(head: Head, params: Tensor, batch: PolicyBatch, advantages: Tensor) -> tuple[Tensor, Tensor]:
    """The importance-sampled objective of each row, π(a|s) / π_old(a|s) · A, and the logarithm of that ratio: (rows,).

    Where the policies are equal, the gradient of its mean is the policy gradient.
    """
    log_ratio = head.log_prob(params, batch.action) - batch.log_prob
    return log_ratio.exp() * advantages, log_ratio


def whitened(advantages: Tensor) -> Tensor:
    """Advantages of mean 0 and standard deviation 1, over all ranks; a single one as it is."""
    if len(advantages) * ranks.size() < 2:
        return advantages
    mean, std = ranks.mean_and_std(advantages)
    standard: Tensor = (advantages - mean) / (std + 1e-8)
    return standard
