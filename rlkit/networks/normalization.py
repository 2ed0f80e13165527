"""Running statistics, kept as module buffers so that they are saved with the weights they belong to."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from rlkit import ranks
from rlkit.spaces import Array

CLIP = 10.0
EPSILON = 1e-8


class RunningStatistics(nn.Module):
    """Mean and variance of all rows seen so far, by the parallel update of Chan et al. (1979)."""

    mean: torch.Tensor
    var: torch.Tensor
    count: torch.Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("var", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def update(self, rows: Array) -> None:
        """Adds the rows of a (rows, size) array, of all ranks."""
        new, new_mean, new_var = ranks.moments(rows)
        if new == 0:
            return
        count = self.count.item()
        mean, var = self.mean.cpu().numpy(), self.var.cpu().numpy()
        delta = new_mean - mean
        total = count + new
        # The initial variance of one stands for no row at all: it has no weight in the sum.
        squares = var * count + new_var * new + delta**2 * (count * new / total)
        self.mean.copy_(torch.from_numpy(mean + delta * (new / total)))
        self.var.copy_(torch.from_numpy(squares / total))
        self.count.fill_(float(total))

    def mean_and_std(self) -> tuple[Array, Array]:
        """What normalises a row: float32 arrays of shape (size,)."""
        std = np.sqrt(self.var.cpu().numpy() + EPSILON)
        return self.mean.cpu().numpy().astype(np.float32), std.astype(np.float32)


class RewardNormalizer(nn.Module):
    """Divides rewards by the running standard deviation of the discounted return, clipped to ±10.

    The return runs forwards, R_t = γ R_{t-1} + r_t, as in OpenAI Baselines' VecNormalize; only its scale is used,
    so the sign of a reward never changes.
    """

    def __init__(self, gamma: float, num_envs: int) -> None:
        super().__init__()
        self.gamma = gamma
        self.statistics = RunningStatistics(1)
        self.running = np.zeros(num_envs, np.float32)
        """Each environment's discounted return so far: state of training, not of the model."""

    def normalize(self, rewards: Array, done: Array, valid: Array) -> Array:
        """Takes in a (num_steps, num_envs) rollout's rewards and returns them normalised."""
        returns = np.empty_like(rewards)
        for t, reward in enumerate(rewards):
            self.running = self.gamma * self.running + reward
            returns[t] = self.running
            self.running = self.running * ~done[t]
        self.statistics.update(returns[valid][:, None])
        scaled: Array = np.clip(rewards / self.statistics.mean_and_std()[1], -CLIP, CLIP)
        return scaled
