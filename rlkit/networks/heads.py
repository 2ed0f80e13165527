"""Action distributions: torch formulas for losses (the reference), and sampling in NumPy.

A head reads the policy network's output, `params` of shape (batch, num_params). Log-probabilities, entropies and
KL divergences are (batch,): they are sums over an action's dimensions, which are independent of each other.
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
from rlkit.networks.features import check_categories
from rlkit.setting import NetworkConfig
from rlkit.spaces import Array
from rlkit.system.ranks import RowGenerator

SMALLEST = np.finfo(np.float32).tiny
"""The smallest positive normal float32, whose logarithm is finite."""
HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
"""Constant term of a normal distribution's negative log-density: ½ log 2π."""
LOG_STD_LIMITS = (-20.0, 2.0)
"""Bounds of the logarithm of a standard deviation that is an output of the network."""
LEAST_INSIDE = 0.2
"""Share of the first actions within the bounds of a Box below which the user is told."""
LEAST_TRIED = 0.1
"""Share of a Box's range, covered by two standard deviations to either side, below which the user is told."""


class Head(Protocol):
    """A family of action distributions, of which the policy network outputs the parameters."""

    num_params: int
    """Number of parameters of a distribution."""
    num_outputs: int
    """Outputs of the policy network; fewer than `num_params` if some parameters do not depend on the observation."""

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Returns the log-probability, or log-density, of each `action`."""

    def entropy(self, params: Tensor) -> Tensor:
        """Returns the entropy of each row's distribution, in nats."""

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """Returns the KL divergence KL(old || new) of each row."""

    def sample(self, params: Array, rng: RowGenerator, noise: Array | None = None) -> Array:
        """Draws one action per row; in a Gaussian, standard normal `noise` takes the place of fresh noise."""

    def mode(self, params: Array) -> Array:
        """Returns the most likely action of each row."""

    def env_action(self, action: Array) -> Array:
        """Converts actions, as agents store them, to elements of the environment's action space."""


class Categorical:
    """Discrete and MultiDiscrete actions: a softmax over the logits of each dimension."""

    def __init__(self, space: spaces.Discrete[Any] | spaces.MultiDiscrete) -> None:
        self.multi = isinstance(space, spaces.MultiDiscrete)
        nvec = np.ravel(space.nvec) if isinstance(space, spaces.MultiDiscrete) else np.array([space.n])
        self.sizes = [int(n) for n in nvec]
        self.num_params = self.num_outputs = sum(self.sizes)
        self._ends = np.cumsum(self.sizes)[:-1]
        self._start = space.start if np.any(space.start) else None
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
        # The Gumbel-max trick: the argmax of logits plus Gumbel noise is a draw from their softmax, and Gumbel noise is
        # -log of an exponential draw. One float32 draw in ten million is zero. Its noise would be infinite, and could
        # choose even a masked action; hence SMALLEST.
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
        if self._start is None:
            return action.astype(self._dtype)  # a copy: environments may write into what they get
        return (action + self._start).astype(self._dtype, copy=False)


class Bernoulli:
    """MultiBinary actions: independent bits; `params` are the logits of their being one."""

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
        # A bit is one if logistic noise is below its logit. Compared like this, no exp can overflow.
        uniform = rng.random(params.shape)
        with np.errstate(divide="ignore"):
            logistic = np.log(uniform) - np.log1p(-uniform)
        return (logistic < params).astype(np.int8)

    def mode(self, params: Array) -> Array:
        return (params > 0).astype(np.int8)

    def env_action(self, action: Array) -> Array:
        return action.reshape(len(action), *self._shape).copy()  # environments may write into what they get


class Gaussian:
    """Box actions: independent normals; `params` are their means, then the logarithms of their standard deviations.

    With `squash`, the environment gets the tanh of the action, scaled to the bounds; without, the action clipped to
    them. Either way the agent stores the unbounded action, and probabilities are of that: the Jacobian of tanh cancels
    in ratios and KL divergences, and the entropy is the one before squashing.
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


def action_notes(space: spaces.Space[Any], config: NetworkConfig) -> list[str]:
    """Returns a note for the user if the first actions of a Gaussian policy that is not squashed miss the bounds.

    They are N(0, std²) around zero, where `std` is e to the power of `log_std_init`: nearly all of them are clipped if
    the bounds lie elsewhere or are much nearer, and if they are much wider hardly any of the range is tried.
    """
    if config.squash or not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        return []
    low, high = space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()
    std = math.exp(config.log_std_init)
    inside = [_normal_cdf(above / std) - _normal_cdf(below / std) for below, above in zip(low, high, strict=True)]
    bounded = np.isfinite(low) & np.isfinite(high)
    tried = np.where(bounded, 4 * std / np.maximum(high - low, 1e-300), 1.0)
    if min(inside) >= LEAST_INSIDE and tried.min() >= LEAST_TRIED:
        return []
    worst = int(np.argmin(inside if min(inside) < LEAST_INSIDE else tried))
    bounds = f"[{low[worst]:g}, {high[worst]:g}]"
    told = f"the first actions are N(0, {std:g}²), of which {inside[worst]:.0%} lie within the bounds {bounds}"
    remedy = "network.squash=true fits them to the bounds" if bounded.all() else "bounds around zero would fit them"
    return [f"{told}; {remedy}"]


def _normal_cdf(x: float) -> float:
    """The probability that a standard normal number is at most `x`."""
    return 0.5 * math.erfc(-x / math.sqrt(2))


def make_head(space: spaces.Space[Any], config: NetworkConfig) -> Head:
    """Makes the head for an action space; raises RlkitError for a space that no head can handle."""
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        sizes = [space.n] if isinstance(space, spaces.Discrete) else space.nvec
        check_categories("actions", space, int(np.sum(sizes, dtype=np.int64)))
        return Categorical(space)
    if isinstance(space, spaces.MultiBinary):
        return Bernoulli(space)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return Gaussian(space, config)
    raise RlkitError(
        f"the action space {space} cannot be handled: expected Discrete, MultiDiscrete, MultiBinary or a Box of floats"
    )
