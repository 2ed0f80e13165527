"""Policy-gradient losses with their derivatives written out; the agents' files hold the torch losses they equal.

Means are sums divided by the number of rows: of a few hundred numbers, `np.mean` takes five times as long as `np.sum`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rlkit.buffers.batch import PolicyBatch
from rlkit.engine.base import Metrics
from rlkit.engine.native.heads import AnalyticHead
from rlkit.spaces import Array
from rlkit.system import ranks

if TYPE_CHECKING:
    from rlkit.agents.a2c import A2CCoefficients
    from rlkit.agents.ppo import PPOCoefficients
    from rlkit.agents.reinforce import REINFORCECoefficients


def ppo_gradient(
    head: AnalyticHead, params: Array, values: Array, batch: PolicyBatch, c: PPOCoefficients
) -> tuple[Array, Array, Metrics]:
    """The derivatives of `rlkit.agents.ppo.ppo_loss` by the head's parameters and by the values."""
    rows = len(values)
    log_prob, entropy, kl = head.evaluate(params, batch.action, batch.old_params)
    advantages = whitened(batch.advantages) if c.normalize_advantages else batch.advantages

    log_ratio = log_prob - batch.log_prob
    ratio = np.exp(log_ratio)
    surrogate = ratio * advantages
    d_log_prob = surrogate / -rows
    outside = np.abs(ratio - 1) > c.clip_coef
    if c.objective == "clip":
        clipped = np.clip(ratio, 1 - c.clip_coef, 1 + c.clip_coef) * advantages
        d_log_prob[clipped < surrogate] = 0.0  # the clipped term is the smaller: it does not depend on the policy
        surrogate = np.minimum(surrogate, clipped)
    policy_loss = surrogate.sum() / -rows
    d_kl = 0.0
    if kl is not None:
        policy_loss += c.kl_coef * kl.sum() / rows
        d_kl = c.kl_coef / rows
    d_params = head.gradient(d_log_prob, -c.ent_coef / rows, d_kl)

    errors = values - batch.returns
    d_values = errors * (2 * c.vf_coef / rows)
    squares = errors * errors
    if c.clip_value_coef is not None:
        moved = values - batch.values
        within = np.clip(moved, -c.clip_value_coef, c.clip_value_coef)
        clipped_errors = batch.values + within - batch.returns
        clipped_squares = clipped_errors * clipped_errors
        d_values[(clipped_squares > squares) & (moved != within)] = 0.0  # not where only rounding makes it larger
        squares = np.maximum(squares, clipped_squares)

    metrics = {
        "policy_loss": float(policy_loss),
        "value_loss": float(squares.sum()) / rows,
        "entropy": float(entropy.sum()) / rows,
        "approx_kl": float((ratio - 1 - log_ratio).sum()) / rows,
        "clip_fraction": np.count_nonzero(outside) / rows,
    }
    return d_params, d_values.astype(np.float32, copy=False), metrics


def a2c_gradient(
    head: AnalyticHead, params: Array, values: Array, batch: PolicyBatch, c: A2CCoefficients
) -> tuple[Array, Array, Metrics]:
    """The derivatives of `rlkit.agents.a2c.a2c_loss` by the head's parameters and by the values."""
    return _gradient(head, params, values, batch, c, len(values))


def reinforce_gradient(
    head: AnalyticHead, params: Array, values: Array, batch: PolicyBatch, c: REINFORCECoefficients
) -> tuple[Array, Array, Metrics]:
    """The derivatives of `rlkit.agents.reinforce.reinforce_loss` by the head's parameters and by the values."""
    return _gradient(head, params, values, batch, c, c.num_episodes)


def critic_gradient(
    head: AnalyticHead, params: Array, values: Array, batch: PolicyBatch, c: None
) -> tuple[Array, Array, Metrics]:
    """The derivatives of `rlkit.agents.trpo.critic_loss`: none by the head's parameters."""
    del head, c
    errors = values - batch.returns
    return np.zeros_like(params), errors * (2 / len(values)), {"value_loss": float(errors @ errors) / len(values)}


def _gradient(
    head: AnalyticHead,
    params: Array,
    values: Array,
    batch: PolicyBatch,
    c: A2CCoefficients | REINFORCECoefficients,
    count: int,
) -> tuple[Array, Array, Metrics]:
    """Of the policy's and the entropy's sums over all rows, divided by `count`, and of the values' mean square."""
    rows = len(values)
    log_prob, entropy, _ = head.evaluate(params, batch.action)
    advantages = whitened(batch.advantages) if c.normalize_advantages else batch.advantages
    d_params = head.gradient(advantages / -count, -c.ent_coef / count, 0.0)
    errors = values - batch.returns
    metrics = {
        "policy_loss": float(log_prob @ advantages) / -count,
        "value_loss": float(errors @ errors) / rows,
        "entropy": float(entropy.sum()) / rows,
    }
    return d_params, errors * (2 * c.vf_coef / rows), metrics


def whitened(advantages: Array) -> Array:
    """Advantages of mean 0 and standard deviation 1, over all ranks; a single one as it is."""
    if len(advantages) * ranks.size() < 2:
        return advantages
    mean, std = ranks.mean_and_std(advantages)
    standard: Array = (advantages - mean) / (std + 1e-8)
    return standard
