"""Observations as flat tuples of arrays, whatever their space's nesting: the form that buffers and networks take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlkit.errors import RlkitError

Array: TypeAlias = NDArray[Any]
Obs: TypeAlias = tuple[Array, ...]
"""A batch of observations: one array of shape (batch, *leaf shape) per leaf of the observation space. A Box is
its own only leaf; Dict and Tuple spaces contribute the leaves of their parts, in the space's order."""

MASKED_LOGIT = np.float32(-1e8)
"""Logit of a forbidden action: low enough for a probability of exactly zero, and finite so that zero times it is zero.
"""

LEAF_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
"""Spaces whose observations are one array."""


def leaf_spaces(space: spaces.Space[Any]) -> tuple[spaces.Space[Any], ...]:
    """Lists the leaves of a nested space, in order: Box, Discrete, MultiDiscrete, MultiBinary or other plain spaces."""
    if isinstance(space, spaces.Dict):
        return tuple(leaf for part in space.spaces.values() for leaf in leaf_spaces(part))
    if isinstance(space, spaces.Tuple):
        return tuple(leaf for part in space.spaces for leaf in leaf_spaces(part))
    return (space,)


def leaves(space: spaces.Space[Any], obs: Any) -> Obs:
    """Takes an observation of `space`, single or a batch, apart into its arrays, in the order of `leaf_spaces`."""
    if isinstance(space, spaces.Dict):
        return tuple(leaf for key, part in space.spaces.items() for leaf in leaves(part, obs[key]))
    if isinstance(space, spaces.Tuple):
        return tuple(leaf for i, part in enumerate(space.spaces) for leaf in leaves(part, obs[i]))
    return (np.asarray(obs),)


def stacked(space: spaces.Space[Any], observations: Sequence[Any]) -> Any:
    """Stacks single observations of `space` into one batch, which is nested like they are.

    The result equals that of gymnasium.vector.utils.concatenate, in new arrays; small ones take a quarter of the time.
    """
    if isinstance(space, spaces.Dict):
        return {key: stacked(part, [obs[key] for obs in observations]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stacked(part, [obs[i] for obs in observations]) for i, part in enumerate(space.spaces))
    return np.array(observations, dtype=space.dtype)


def count_true(flags: Array) -> int:
    """Counts the flags that are True; a few of them in a fraction of the time that NumPy's functions take."""
    return flags.tobytes().count(1)


def all_finite(numbers: Array) -> bool:
    """Returns True if all numbers are finite: none is infinite or NaN."""
    return 0 not in np.isfinite(numbers).tobytes()  # faster than .all()


def masked(logits: Array, action_mask: Array | None) -> Array:
    """Replaces logits by `MASKED_LOGIT` where the boolean mask of their shape is False; None masks nothing."""
    return logits if action_mask is None else np.where(action_mask, logits, MASKED_LOGIT)


def as_batch(space: spaces.Space[Any], obs: Any) -> tuple[Obs, bool]:
    """The leaves of `obs` with a batch dimension, and True if it had one before.

    Raises RlkitError where the shapes fit neither one observation nor a batch.
    """
    found: set[bool] = set()
    arrays = []
    for part, leaf in zip(leaf_spaces(space), leaves(space, obs), strict=True):
        shape = part.shape or ()
        if (leaf.shape != shape and leaf.shape[1:] != shape) or leaf.ndim > len(shape) + 1:
            raise RlkitError(
                f"observation of shape {leaf.shape} does not fit {part}: expected {shape}, or (batch, *{shape})"
            )
        batched = leaf.ndim == len(shape) + 1
        found.add(batched)
        arrays.append(leaf if batched else leaf[None])
    if len(found) != 1:
        raise RlkitError("some parts of the observation have a batch dimension and some do not")
    return tuple(arrays), found.pop()
