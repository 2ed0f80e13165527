"""Action masks: the one rule for what environments and callers say about allowed actions.

A mask is True, or 1, where an action is allowed. No mask, at a step or in one of several environments, allows every
action. For MultiDiscrete actions the masks of all dimensions stand one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlkit.errors import Misfit, shown

Masks = NDArray[np.bool_]
KEY = "action_mask"
"""The key of an environment's info that holds its mask."""


def mask_sizes(space: spaces.Space[Any]) -> list[int]:
    """Returns the number of choices in each dimension of an action; raises Misfit for actions that have no masks."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(n) for n in np.ravel(space.nvec)]
    raise Misfit("an action mask", f"masks are for Discrete and MultiDiscrete actions, not for {space}")


def fitted_mask(space: spaces.Space[Any], mask: Any) -> Masks:
    """Returns one mask as booleans, (number of actions,).

    Raises Misfit for another shape, for what is neither True nor False, and for a mask that forbids every action.
    """
    sizes = mask_sizes(space)
    try:
        if isinstance(mask, list | tuple) and len(sizes) > 1 and len(mask) == len(sizes):
            mask = np.concatenate(mask)  # an array for each dimension, as Gymnasium's own `sample` takes them
        array = np.asarray(mask)
    except Exception as error:
        raise Misfit(f"the action mask {shown(mask)}, which is no array", _expected(space, sizes)) from error
    if array.shape != (sum(sizes),):
        raise Misfit(f"an action mask of shape {array.shape}", _expected(space, sizes))
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise Misfit(f"the action mask {shown(mask)}", _expected(space, sizes))
    array = array.astype(np.bool_)
    if not _allow_some(array[None], sizes):
        each = " in each dimension" if len(sizes) > 1 else ""
        raise Misfit(f"an action mask that forbids every action, {shown(mask)}", f"at least one must be allowed{each}")
    return array


def fitted_masks(space: spaces.Space[Any], masks: Sequence[Any]) -> Masks | None:
    """Returns masks of several environments, None for an environment that gave none, as (rows, number of actions).

    None if no environment gave one. Raises Misfit like `fitted_mask`.
    """
    given = [mask is not None for mask in masks]
    if not any(given):
        return None
    sizes = mask_sizes(space)
    if all(given):
        try:
            rows = np.array(masks)
            if rows.dtype.kind == "b" and rows.shape == (len(masks), sum(sizes)) and _allow_some(rows, sizes):
                return rows
        except Exception:  # of several lengths, or of anything: look at each
            pass
    rows = np.ones((len(masks), sum(sizes)), np.bool_)
    for i, mask in enumerate(masks):
        if mask is None:
            continue
        try:
            rows[i] = fitted_mask(space, mask)
        except Misfit as misfit:
            where = f" in environment {i}" if len(masks) > 1 else ""
            raise Misfit(misfit.what + where, misfit.expected) from misfit
    return rows


def masks_in(infos: Mapping[str, Any], num_envs: int) -> list[Any]:
    """Lists the masks in the infos of a vector environment, None for each environment that gave none.

    Gymnasium marks in `_action_mask` which environments gave one. Raises Misfit unless there is one for each.
    """
    masks, given = infos.get(KEY), infos.get(f"_{KEY}")
    if masks is None:
        return [None] * num_envs
    try:
        listed = [mask if given is None or given[i] else None for i, mask in enumerate(masks)]
    except Exception:
        listed = []
    if len(listed) != num_envs:
        raise Misfit(f"the action masks {shown(masks)}", f"expected one for each of the {num_envs} environments")
    return listed


def batch_of_masks(space: spaces.Space[Any], masks: Any, rows: int) -> Masks | None:
    """Returns the masks that a caller gave for a batch of observations: one for all rows, or one for each.

    None allows everything. Raises Misfit like `fitted_mask`, and for another number of masks.
    """
    if masks is None:
        return None
    try:
        dims = np.ndim(masks)
    except Exception:  # lists of several lengths
        dims = 1
    if rows == 1 and dims < 2:
        return fitted_mask(space, masks)[None]
    listed = [masks] if dims == 0 else list(masks)
    if len(listed) != rows:
        raise Misfit(f"{len(listed)} action masks", f"expected one for each of the {rows} observations")
    return fitted_masks(space, listed)


def _allow_some(rows: Masks, sizes: list[int]) -> bool:
    """Returns True if each row allows at least one choice in every dimension."""
    starts = np.cumsum([0, *sizes[:-1]])
    return bool(np.logical_or.reduceat(rows, starts, axis=1).all())


def _expected(space: spaces.Space[Any], sizes: list[int]) -> str:
    return f"expected {sum(sizes)} booleans, True for each allowed action of {space}"
