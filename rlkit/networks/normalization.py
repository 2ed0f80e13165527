"""Normalisation by running statistics, which are module buffers so that they are saved with the weights."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from rlkit.spaces import Array
from rlkit.system.ranks import Ranks

CLIP = 10.0
"""Largest absolute value of a normalised number, in standard deviations."""
EPSILON = 1e-8
"""Added to variances, so that a constant is not divided by zero."""


@dataclass
class Moments:
    """Mean, variance and number of some rows."""

    mean: Array
    """The mean along the rows: (size,)."""
    var: Array
    """The variance along the rows: (size,)."""
    count: float
    """The number of rows."""


def combined(a: Moments, b: Moments) -> Moments:
    """Combines the moments of two sets of rows into those of their union (Chan et al. 1979); a set may be empty."""
    if a.count == 0 or b.count == 0:
        return a if b.count == 0 else b
    delta, count = b.mean - a.mean, a.count + b.count
    squares = a.var * a.count + b.var * b.count + delta**2 * (a.count * b.count / count)
    return Moments(a.mean + delta * (b.count / count), squares / count, count)


class RunningStatistics(nn.Module):
    """Mean and variance of all rows seen so far, in this process or, after `share`, in several processes together."""

    mean: torch.Tensor
    """The mean of the rows: (size,) float64."""
    var: torch.Tensor
    """The variance of the rows: (size,) float64."""
    count: torch.Tensor
    """The number of rows."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("var", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self._size = size
        self._shared: tuple[Array, int] | None = None

    def update(self, rows: Array, ranks: Ranks) -> None:
        """Adds the rows of a (rows, size) array to the statistics; every rank adds its own."""
        count, mean, var = ranks.moments(rows)
        if count == 0:
            return
        new = Moments(mean, var, count)
        if self._shared is None:
            self._set(combined(Moments(self.mean.cpu().numpy(), self.var.cpu().numpy(), self.count.item()), new))
        else:
            shared, worker = self._shared
            ours = combined(self._moments(shared[worker]), new)
            shared[worker] = np.hstack([ours.mean, ours.var, ours.count])
            self.pull()

    @property
    def shared_row(self) -> int:
        """Length of a process's row in shared memory: mean, variance and count, as float64."""
        return 2 * self._size + 1

    def share(self, shared: Array, worker: int) -> None:
        """Combines the statistics with other processes' from now on, in shared memory.

        `shared`, (processes, shared_row), has a row for each process, zero until it has seen something; this process
        writes the row `worker`. There is no lock, so a row may be read while it is half written. That mixes statistics
        before and after one rollout, which does not matter among thousands.
        """
        self._shared = shared, worker

    def pull(self) -> None:
        """Updates the statistics by those that other processes have shared; does nothing without `share`."""
        if self._shared is not None:
            self._set(functools.reduce(combined, map(self._moments, self._shared[0])))

    def _moments(self, row: Array) -> Moments:
        return Moments(row[: self._size], row[self._size : -1], float(row[-1]))

    def _set(self, moments: Moments) -> None:
        if moments.count:
            self.mean.copy_(torch.from_numpy(moments.mean))
            self.var.copy_(torch.from_numpy(moments.var))
            self.count.fill_(moments.count)

    def mean_and_std(self) -> tuple[Array, Array]:
        """Returns the mean and the standard deviation that rows are normalised by: (size,) float32 both."""
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
        """Each environment's discounted return so far, (num_envs,); it is part of training, not of the saved model."""

    def normalize(self, rewards: Array, done: Array, valid: Array, ranks: Ranks) -> Array:
        """Updates the statistics by a rollout's rewards, (num_steps, num_envs), and returns the rewards normalised.

        `done` marks the ends of episodes and `valid` the steps that are experience.
        """
        returns = np.empty_like(rewards)
        for t, reward in enumerate(rewards):
            self.running = self.gamma * self.running + reward
            returns[t] = self.running
            self.running = self.running * ~done[t]
        self.statistics.update(returns[valid][:, None], ranks)
        scaled: Array = np.clip(rewards / self.statistics.mean_and_std()[1], -CLIP, CLIP)
        return scaled
