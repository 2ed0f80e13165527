"""What an update learns from: arrays of one row per transition, as NumPy arrays or as tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rlkit.spaces import Array


class PolicyBatch(NamedTuple):
    """Transitions for a policy-gradient loss. Fields hold arrays or tensors alike; a loss names those it needs."""

    features: tuple[Any, ...]
    """What the network takes: see `ObsFeatures`."""
    action: Any
    log_prob: Any
    """Of the action, under the policy that chose it; None where the loss has no ratio of probabilities."""
    advantages: Any
    returns: Any
    values: Any
    """Of the observation, when the rollout was made."""
    action_mask: Any = None
    old_params: Any = None
    """The action distribution's parameters when the rollout was made."""

    def map(self, function: Callable[[Any], Any]) -> PolicyBatch:
        """The batch with `function` applied to every array that is there."""
        features = tuple(function(part) for part in self.features)
        return PolicyBatch(features, *(None if part is None else function(part) for part in self[1:]))


class ReplayBatch(NamedTuple):
    """Transitions for a TD loss, of one step or of several: arrays of one row per transition."""

    obs: tuple[Any, ...]
    """Arrays; images that the buffer keeps on a device are tensors there."""
    action: Array
    reward: Array
    """The discounted sum of the rewards on the way to `next_obs`."""
    next_obs: tuple[Any, ...]
    """What was reached; anything where the episode terminated on the way."""
    next_action_mask: Array | None
    """Which actions `next_obs` allows; None: all."""
    terminated: Array
    gamma: Array
    """The discount of what comes after `next_obs`: to the power of the steps on the way."""
    rows: Array
    """Where the transitions are in the buffer."""
    weights: Array | None = None
    """What each one counts in the loss; None: all the same."""


def distinct(rows: Array) -> tuple[Array, Array]:
    """Where each different number in `rows` is found once, `first`, and for each of all which one of those it equals.

    So `rows[first][which]` is `rows`: what np.unique finds, in another order and a tenth of the time.
    """
    positions = np.arange(len(rows))
    place = np.empty(rows.max() + 1, np.int64)
    place[rows] = positions  # of equal numbers, one of them
    first = np.flatnonzero(place[rows] == positions)
    place[rows[first]] = np.arange(len(first))
    return first, place[rows]
