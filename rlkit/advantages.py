"""Advantages of a rollout's actions over the policy's average action, and the batch that an update learns from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rlkit.buffers.batch import PolicyBatch
from rlkit.buffers.rollout import RolloutBuffer
from rlkit.maths.returns import Bools, Floats
from rlkit.spaces import Array, masked

if TYPE_CHECKING:
    from rlkit.policy import ActorCriticPolicy


def gae(
    rewards: Floats,
    values: Floats,
    next_values: Floats,
    terminated: Bools,
    truncated: Bools,
    gamma: float,
    gae_lambda: float,
) -> Floats:
    """Computes generalised advantage estimates (Schulman et al. 2016, eq. 16); adding `values` gives the returns.

    All arrays are (num_steps, num_envs). `next_values` are the values of the observations that steps led to: at a
    truncation, of the episode's own last observation, never of the next episode's first. At a termination the next
    value is ignored, even if the episode was truncated as well.
    """
    td_errors = rewards + gamma * next_values * ~terminated - values
    decay = (gamma * gae_lambda) * ~(terminated | truncated)
    advantages = np.empty_like(td_errors)
    following = np.zeros_like(td_errors[0])
    for t in reversed(range(len(td_errors))):
        following = td_errors[t] + decay[t] * following
        advantages[t] = following
    return advantages


def policy_batch(
    buffer: RolloutBuffer,
    policy: ActorCriticPolicy,
    gamma: float,
    gae_lambda: float,
    *,
    log_prob: bool = True,
    old_params: bool = False,
) -> tuple[PolicyBatch, Array]:
    """Makes a batch of a rollout, one row per transition, and returns it with the indices of rows that are experience.

    Values and, if asked for, the actions' log-probabilities and the distributions' parameters (`old_params`) are those
    of the policy at the time of the call.
    """
    steps, envs = buffer.rewards.shape
    transitions = steps * envs
    features = policy.engine.uploaded(policy.features(buffer.flat_obs()))
    params, flat_values = policy.engine.evaluate(features)
    values = flat_values.reshape(steps + 1, envs)
    next_values = _next_values(buffer, policy, values)
    rewards, terminated, truncated = buffer.rewards, buffer.terminated, buffer.truncated
    if policy.rewards is not None:
        rewards = policy.rewards.normalize(rewards, terminated | truncated, buffer.valid, policy.ranks)
    advantages = gae(rewards, values[:-1], next_values, terminated, truncated, gamma, gae_lambda)

    action = buffer.actions.reshape(transitions, *buffer.actions.shape[2:])
    mask = None if buffer.action_masks is None else buffer.action_masks.reshape(transitions, -1)
    params = masked(params[:transitions], mask)
    batch = PolicyBatch(
        features=tuple(part[:transitions] for part in features),
        action=action,
        log_prob=policy.array_head.evaluate(params, action).log_prob if log_prob else None,
        advantages=advantages.reshape(transitions),
        returns=(advantages + values[:-1]).reshape(transitions),
        values=flat_values[:transitions],
        action_mask=mask,
        old_params=params if old_params else None,
    )
    return batch, policy.ranks.even(np.flatnonzero(buffer.valid))


def _next_values(buffer: RolloutBuffer, policy: ActorCriticPolicy, values: Array) -> Array:
    """Returns the values of the observations that steps led to, (num_steps, num_envs), as `gae` expects them.

    `values`, (num_steps + 1, num_envs), are those of the observations that were acted from. The two differ where an
    episode ended, and its last observation is not the one that was acted from next.
    """
    next_values = values[1:]
    if buffer.final_obs:
        at_steps, at_envs, last_obs = buffer.final_batch()
        next_values = next_values.copy()
        next_values[at_steps, at_envs] = policy.values(last_obs)
    return next_values
