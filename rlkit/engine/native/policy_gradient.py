"""Policy-gradient losses with their derivatives written out; the torch losses that they equal are in agents' files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rlkit.buffers.batch import PolicyBatch
from rlkit.engine.losses import whitened
from rlkit.engine.native.primitives import Metrics, PolicyTerms, policy_loss
from rlkit.networks.array_heads import ArrayHead
from rlkit.spaces import Array

if TYPE_CHECKING:
    from rlkit.agents.a2c import A2CCoefficients
    from rlkit.agents.ppo import PPOCoefficients
    from rlkit.agents.reinforce import REINFORCECoefficients

Gradients = tuple[Array, Array, Metrics]
"""Derivatives by the head's parameters, (rows, num_params), and by the values, (rows,), and the loss's metrics."""


def ppo_gradient(head: ArrayHead, params: Array, values: Array, batch: PolicyBatch, c: PPOCoefficients) -> Gradients:
    """Computes the derivatives of `rlkit.agents.ppo.ppo_loss`."""
    advantages = whitened(batch.advantages, c.ranks) if c.normalize_advantages else batch.advantages
    objective = "clip" if c.objective == "clip" else "kl"
    terms = PolicyTerms(objective, c.ent_coef, c.vf_coef, len(values), c.clip_coef, c.kl_coef, c.clip_value_coef)
    return policy_loss(head, params, values, batch, advantages, terms)


def a2c_gradient(head: ArrayHead, params: Array, values: Array, batch: PolicyBatch, c: A2CCoefficients) -> Gradients:
    """Computes the derivatives of `rlkit.agents.a2c.a2c_loss`."""
    return _log_prob_gradient(head, params, values, batch, c, len(values))


def reinforce_gradient(
    head: ArrayHead, params: Array, values: Array, batch: PolicyBatch, c: REINFORCECoefficients
) -> Gradients:
    """Computes the derivatives of `rlkit.agents.reinforce.reinforce_loss`."""
    return _log_prob_gradient(head, params, values, batch, c, c.num_episodes)


def critic_gradient(head: ArrayHead, params: Array, values: Array, batch: PolicyBatch, c: None) -> Gradients:
    """Computes the derivatives of `rlkit.agents.trpo.critic_loss`; those by the head's parameters are zero."""
    del head, c
    errors = values - batch.returns
    return np.zeros_like(params), errors * (2 / len(values)), {"value_loss": float(errors @ errors) / len(values)}


def _log_prob_gradient(
    head: ArrayHead,
    params: Array,
    values: Array,
    batch: PolicyBatch,
    c: A2CCoefficients | REINFORCECoefficients,
    count: int,
) -> Gradients:
    advantages = whitened(batch.advantages, c.ranks) if c.normalize_advantages else batch.advantages
    terms = PolicyTerms("log_prob", c.ent_coef, c.vf_coef, count)
    d_params, d_values, metrics = policy_loss(head, params, values, batch, advantages, terms)
    return d_params, d_values, {name: metrics[name] for name in ("policy_loss", "value_loss", "entropy")}
