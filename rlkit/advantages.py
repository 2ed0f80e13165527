"""Advantages: how much better each action of a rollout was than the policy's average one."""

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
    """Generalised advantage estimates (Schulman et al. 2016, eq. 16); add `values` for the returns.

    All arrays are (num_steps, num_envs). `next_values` holds the value of the observation that each step led to:
    of an episode's own last observation where it was truncated, never of the next episode's first. Where the
    episode terminated, the next value does not count, whatever it is, even if it was truncated as well.
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
    """The rollout as one row per transition with its advantage, and the indices of the rows that are experience.

    Values and, if asked for, actions' `log_prob` and distributions' `old_params` are those of the policy as it is.
    """
    steps, envs = buffer.rewards.shape
    transitions = steps * envs
    features = policy.network.features(buffer.flat_obs())
    params, flat_values = policy.engine.evaluate(features)
    values = flat_values.reshape(steps + 1, envs)
    next_values = values[1:]
    if buffer.final_obs:
        at_steps, at_envs, last_obs = buffer.final_batch()
        next_values = next_values.copy()
        next_values[at_steps, at_envs] = policy.values(last_obs)
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
        log_prob=policy.analytic_head.evaluate(params, action).log_prob if log_prob else None,
        advantages=advantages.reshape(transitions),
        returns=(advantages + values[:-1]).reshape(transitions),
        values=flat_values[:transitions],
        action_mask=mask,
        old_params=params if old_params else None,
    )
    return batch, policy.ranks.even(np.flatnonzero(buffer.valid))
