"""Distributions of actions: torch formulas for losses (the reference), and sampling in NumPy.

A head reads the policy network's output, `params` of shape (batch, num_params). Log-probabilities, entropies and
KL divergences are (batch,) and summed over an action's dimensions, which are independent of each other.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from rlkit.errors import RlkitError
from rlkit.setting import NetworkConfig
from rlkit.spaces import Array
from rlkit.system.ranks import RowGenerator

SMALLEST = np.finfo(np.float32).tiny
HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
LOG_STD_LIMITS = (-20.0, 2.0)


class Head(Protocol):
    """What a policy's network outputs, and what can be done with it."""

    num_params: int
    num_outputs: int
    """Outputs of the policy network; fewer than `num_params` where some parameters are free."""

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Log-probability (density) of `action`."""

    def entropy(self, params: Tensor) -> Tensor:
        """Entropy in nats."""

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """KL divergence KL(old || new)."""

    def sample(self, params: Array, rng: RowGenerator, noise: Array | None = None) -> Array:
        """One action per row; `noise`, standard normal, takes the place of fresh noise in a Gaussian."""

    def mode(self, params: Array) -> Array:
        """The most likely action of each row."""

    def env_action(self, action: Array) -> Array:
        """The action in the environment's own terms."""


class Categorical:
    """Discrete and MultiDiscrete actions: one softmax over each dimension's logits."""

    def __init__(self, space: spaces.Discrete[Any] | spaces.MultiDiscrete) -> None:
        self.multi = isinstance(space, spaces.MultiDiscrete)
        nvec = np.ravel(space.nvec) if isinstance(space, spaces.MultiDiscrete) else np.array([space.n])
        self.sizes = [int(n) for n in nvec]
        self.num_params = self.num_outputs = sum(self.sizes)
        self._ends = np.cumsum(self.sizes)[:-1]
        self._start = space.start
        self._shape = space.shape or ()
        self._dtype = space.dtype

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        columns = action.reshape(len(action), -1).unbind(1)
        parts = zip(torch.split(params, self.sizes, 1), columns, strict=True)
        return torch.stack([F.log_softmax(p, 1).gather(1, a[:, None])[:, 0] for p, a in parts]).sum(0)

    def entropy(self, params: Tensor) -> Tensor:
        logs = [F.log_softmax(part, 1) for part in torch.split(params, self.sizes, 1)]
        return torch.stack([-(log.exp() * log).sum(1) for log in logs]).sum(0)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        pairs = zip(torch.split(old, self.sizes, 1), torch.split(new, self.sizes, 1), strict=True)
        logs = [(F.log_softmax(p, 1), F.log_softmax(q, 1)) for p, q in pairs]
        return torch.stack([(p.exp() * (p - q)).sum(1) for p, q in logs]).sum(0)

    def sample(self, params: Array, rng: RowGenerator, noise: Array | None = None) -> Array:
        # Gumbel-max: the argmax of logits plus Gumbel noise, -log of an exponential draw, is a draw from their
        # softmax. One float32 draw in ten million is zero, whose noise would be infinite, on a masked logit too.
        exponential = rng.standard_exponential(params.shape, dtype=np.float32)
        return self.mode(params - np.log(np.maximum(exponential, SMALLEST)))

    def mode(self, params: Array) -> Array:
        if not self.multi:
            best: Array = params.argmax(1)
            return best
        return np.stack([part.argmax(1) for part in np.split(params, self._ends, axis=1)], axis=1)

    def env_action(self, action: Array) -> Array:
        if self.multi:
            action = action.reshape(len(action), *self._shape)
        shifted: Array = (action + self._start).astype(self._dtype, copy=False)
        return shifted


class Bernoulli:
    """MultiBinary actions: a coin of its own for each bit; `params` are logits."""

    def __init__(self, space: spaces.MultiBinary) -> None:
        self._shape = space.shape
        self.num_params = self.num_outputs = int(np.prod(space.shape))

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        return (params * action - F.softplus(params)).sum(1)

    def entropy(self, params: Tensor) -> Tensor:
        return (F.softplus(params) - params.sigmoid() * params).sum(1)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        return (old.sigmoid() * (old - new) + F.softplus(new) - F.softplus(old)).sum(1)

    def sample(self, params: Array, rng: RowGenerator, noise: Array | None = None) -> Array:
        # A bit is one where logistic noise stays below its logit; the comparison needs no overflowing exp.
        uniform = rng.random(params.shape)
        with np.errstate(divide="ignore"):
            logistic = np.log(uniform) - np.log1p(-uniform)
        return (logistic < params).astype(np.int8)

    def mode(self, params: Array) -> Array:
        return (params > 0).astype(np.int8)

    def env_action(self, action: Array) -> Array:
        return action.reshape(len(action), *self._shape)


class Gaussian:
    """Box actions: independent normals; `params` are the means, then the logarithms of the standard deviations.

    With `squash`, the environment gets tanh of the action, scaled to the bounds; without, the action clipped to
    them. Either way the probabilities are those of the unbounded action, which is what the agent stores: tanh's
    Jacobian cancels in ratios and KL divergences, and the entropy meant is the one before squashing.
    """

    def __init__(self, space: spaces.Box, config: NetworkConfig) -> None:
        bounded = bool(np.isfinite(space.low).all() and np.isfinite(space.high).all())
        if config.squash and not bounded:
            raise RlkitError(f"network.squash=true needs bounded actions, but the action space is {space}")
        self.squash = config.squash
        self.state_dependent_std = config.state_dependent_std
        self.log_std_init = config.log_std_init
        self.num_actions = int(np.prod(space.shape))
        self.num_params = 2 * self.num_actions
        self.num_outputs = self.num_params if config.state_dependent_std else self.num_actions
        self._low, self._high = space.low, space.high
        self._shape = space.shape
        self._dtype = space.dtype

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        mean, log_std = torch.split(params, self.num_actions, 1)
        scaled = (action - mean) * (-log_std).exp()
        return (-0.5 * scaled.square() - log_std - HALF_LOG_TWO_PI).sum(1)

    def entropy(self, params: Tensor) -> Tensor:
        return (params[:, self.num_actions :] + 0.5 + HALF_LOG_TWO_PI).sum(1)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        (m1, s1), (m2, s2) = torch.split(old, self.num_actions, 1), torch.split(new, self.num_actions, 1)
        spread = (2 * s1).exp() + (m1 - m2).square()
        return (s2 - s1 + 0.5 * spread * (-2 * s2).exp() - 0.5).sum(1)

    def sample(self, params: Array, rng: RowGenerator, noise: Array | None = None) -> Array:
        mean, log_std = params[:, : self.num_actions], params[:, self.num_actions :]
        if noise is None:
            noise = rng.standard_normal(mean.shape, dtype=np.float32)
        sampled: Array = mean + np.exp(log_std) * noise
        return sampled

    def mode(self, params: Array) -> Array:
        return params[:, : self.num_actions]

    def env_action(self, action: Array) -> Array:
        shaped = action.reshape(len(action), *self._shape)
        if self.squash:
            shaped = self._low + (np.tanh(shaped) + 1) / 2 * (self._high - self._low)
        return np.clip(shaped, self._low, self._high).astype(self._dtype, copy=False)


def make_head(space: spaces.Space[Any], config: NetworkConfig) -> Head:
    """The head for an action space; raises RlkitError for one that no head can handle."""
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        return Categorical(space)
    if isinstance(space, spaces.MultiBinary):
        return Bernoulli(space)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return Gaussian(space, config)
    raise RlkitError(
        f"the action space {space} cannot be handled: expected Discrete, MultiDiscrete, MultiBinary or a Box of floats"
    )
