"""Observations as flat tuples of arrays, whatever their space's nesting: the form that buffers and networks take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlkit.errors import Misfit, RlkitError, shown

Array: TypeAlias = NDArray[Any]
Obs: TypeAlias = tuple[Array, ...]
"""A batch of observations: one array of shape (batch, *leaf shape) per leaf of the observation space. A Box is
its own only leaf; Dict and Tuple spaces contribute the leaves of their parts, in the space's order."""

MASKED_LOGIT = np.float32(-1e8)
"""Logit of a forbidden action: low enough for a probability of exactly zero, and finite so that zero times it is zero.
"""

LARGEST = np.array(1e19, np.float32)
"""Largest number that is computed with: networks and losses are of float32, in which its square is still finite.

An array without dimensions, because NumPy compares arrays with that faster than with a number."""

SQUARES_WITHIN = 0.9 * float(LARGEST) ** 2
"""Sum of squares below which each of the numbers is within `LARGEST`, however the sum was rounded."""
FEW_NUMBERS = 10_000
"""Count of numbers up to which OpenBLAS computes that sum with one thread."""

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


def fitted(space: spaces.Space[Any], obs: Any, batch: tuple[int, ...] = ()) -> Obs:
    """Takes an observation of `space` apart into its leaves, each an array of its space's shape and dtype.

    `batch` is the shape in front of each leaf's own: (rows,) for a batch of observations. Raises Misfit for an
    observation that is not in the space: parts that are missing, other shapes, floats for integers, integers that the
    dtype or a discrete space does not have, and numbers that are not finite or beyond `LARGEST`. A Box's bounds are
    not looked at, because many environments state them only roughly.
    """
    if type(space) is spaces.Box:  # most are, and `isinstance` takes long to find out that a space is no Dict
        return (_fitted_leaf(space, obs, batch),)
    return tuple([_fitted_leaf(part, value, batch) for part, value in _parts(space, obs)])


def stacked(space: spaces.Space[Any], observations: Sequence[Any]) -> Any:
    """Stacks single observations of `space` into one batch, which is nested like they are.

    The result equals that of gymnasium.vector.utils.concatenate, in new arrays; small ones take a quarter of the time.
    Raises Misfit like `fitted` for an observation that would have to be changed to fit; whoever gets the batch looks at
    its numbers.
    """
    try:
        return _stacked(space, observations)
    except Exception:  # the observations may be anything: look at each, to find the one that is wrong
        for i, obs in enumerate(observations):
            try:
                fitted(space, obs)
            except Misfit as misfit:
                where = f" in environment {i}" if len(observations) > 1 else ""
                raise Misfit(misfit.what + where, misfit.expected) from misfit
        raise


def _stacked(space: spaces.Space[Any], observations: Sequence[Any]) -> Any:
    if type(space) is spaces.Box:  # as in `fitted`
        return _stacked_leaf(space, observations)
    if isinstance(space, spaces.Dict):
        return {key: _stacked(part, [obs[key] for obs in observations]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        columns = zip(*observations, strict=True)
        return tuple(_stacked(part, column) for part, column in zip(space.spaces, columns, strict=True))
    return _stacked_leaf(space, observations)


def _stacked_leaf(space: spaces.Space[Any], observations: Sequence[Any]) -> Array:
    leaf, dtype = np.array(observations), space.dtype
    assert dtype is not None  # leaves have one
    if leaf.dtype == dtype and leaf.shape[1:] == space.shape:
        return leaf
    if leaf.shape[1:] == space.shape and leaf.dtype.kind in ("biuf" if dtype.kind == "f" else "biu"):
        return _cast(space, leaf)
    return np.stack([_fitted_leaf(space, value, ()) for value in observations])


def _parts(space: spaces.Space[Any], obs: Any) -> list[tuple[spaces.Space[Any], Any]]:
    """Lists the leaves of a space, each with its value in an observation; raises Misfit where one is missing."""
    if isinstance(space, spaces.Dict):
        return [leaf for key, part in space.spaces.items() for leaf in _parts(part, _part(space, obs, key))]
    if isinstance(space, spaces.Tuple):
        if (count := _length(obs)) > len(space.spaces):
            what = f"an observation of {count} parts, {shown(obs)}"
            raise Misfit(what, f"the space {space} has {len(space.spaces)}")
        return [leaf for i, part in enumerate(space.spaces) for leaf in _parts(part, _part(space, obs, i))]
    return [(space, obs)]


def _length(obs: Any) -> int:
    try:
        return len(obs)
    except Exception:  # of a number, which has no parts either, or of an object of the user's own
        return 0


def _part(space: spaces.Space[Any], obs: Any, key: Any) -> Any:
    try:
        return obs[key]
    except Exception as error:
        what = f"an observation that does not fit {space}: {shown(obs)}"
        raise Misfit(what, f"expected a {type(space).__name__.lower()} with {key!r} in it") from error


def _fitted_leaf(space: spaces.Space[Any], value: Any, batch: tuple[int, ...]) -> Array:
    array = value if type(value) is np.ndarray else _array(space, value)
    if array.shape != (shape := batch + (space.shape or ())):
        raise Misfit(f"an observation of shape {array.shape}", f"the space {space} has shape {shape}")
    if array.dtype != space.dtype:
        array = _cast(space, array)
    check_numbers(space, array)
    return array


def _array(space: spaces.Space[Any], value: Any) -> Array:
    try:
        return np.asarray(value)
    except Exception as error:  # lists of several lengths, tensors with a gradient, objects of the user's own
        raise Misfit(f"the observation {shown(value)}, which is no array", f"expected one of {space}") from error


def _cast(space: spaces.Space[Any], array: Array) -> Array:
    """Casts numbers to a space's dtype; raises Misfit where that would change them by more than rounding."""
    dtype = space.dtype
    assert dtype is not None  # leaves have one
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and dtype.kind != "f"):
        raise Misfit(f"the observation {shown(array)} of dtype {array.dtype}", f"the space {space} has dtype {dtype}")
    if dtype.kind == "f":
        with np.errstate(over="ignore"):  # what is beyond the dtype becomes infinite
            cast = array.astype(dtype)
        low, high = -np.finfo(dtype).max, np.finfo(dtype).max
        wrong = np.isinf(cast) & np.isfinite(array)
    else:
        low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        wrong = (array < low) | (array > high)
        cast = array.astype(dtype)
    if wrong.any():
        within = f"{dtype}, which has numbers from {low} to {high}"
        raise Misfit(f"an observation that holds {array[wrong].flat[0]}", f"the space {space} has dtype {within}")
    return cast


def check_numbers(space: spaces.Space[Any], leaf: Array) -> None:
    """Raises Misfit for numbers, of one observation or a batch, that a discrete space does not have or no float32."""
    if leaf.dtype.kind == "f":
        check_computable("an observation that holds", leaf, leaf.ndim - len(space.shape or ()))
    elif not isinstance(space, spaces.Box):
        low = getattr(space, "start", 0)
        high = low + (space.n if isinstance(space, spaces.Discrete) else getattr(space, "nvec", 2)) - 1
        wrong = (leaf < low) | (leaf > high)
        if wrong.any():
            row = tuple(np.argwhere(wrong)[0][: leaf.ndim - len(space.shape or ())])
            what = f"an observation {leaf[row]}{_in_environment(row)} that is not in its space {space}"
            raise Misfit(what, f"expected {low} to {high}")


def check_computable(what: str, numbers: Array, batch_dims: int = 1) -> None:
    """Raises Misfit, with `what` before the number, for one that is infinite, NaN, or beyond `LARGEST`."""
    if numbers.size <= FEW_NUMBERS and np.vdot(numbers, numbers) < SQUARES_WITHIN:
        return  # as nearly always; this takes half the time of looking at each number
    within = np.less_equal(np.absolute(numbers), LARGEST)
    if within.all():
        return
    place = tuple(np.argwhere(~within)[0])
    number, where = numbers[place], _in_environment(place[:batch_dims])
    if np.isfinite(number):
        largest = f"{float(LARGEST):.0e}".replace("+", "")
        limit = f"networks and losses are computed in float32, so scale it to within ±{largest}"
        raise Misfit(f"{what} {number!s}{where}, which is beyond what is computed with", limit)
    raise Misfit(f"{what} {number!s}{where}", "it must be a finite number")


def _in_environment(row: tuple[Any, ...]) -> str:
    return f" in environment {row[0]}" if row else ""


def count_true(flags: Array) -> int:
    """Counts the flags that are True; a few of them in a fraction of the time that NumPy's functions take."""
    return flags.tobytes().count(1)


def shifted(space: spaces.Discrete[Any], action: Array) -> Array:
    """Converts a batch of actions, which are counted from 0, to elements of a space that may start at another number.

    The result is an array of its own, because environments may write into what they get.
    """
    if not space.start:
        return action.astype(space.dtype)
    moved: Array = action + space.start
    return moved.astype(space.dtype, copy=False)


def masked(logits: Array, action_mask: Array | None) -> Array:
    """Replaces logits by `MASKED_LOGIT` where the boolean mask of their shape is False; None masks nothing."""
    return logits if action_mask is None else np.where(action_mask, logits, MASKED_LOGIT)


def as_batch(space: spaces.Space[Any], obs: Any) -> tuple[Obs, bool]:
    """The leaves of `obs` with a batch dimension, and True if it had one before.

    Raises RlkitError where the shapes fit neither one observation nor a batch, and like `fitted`.
    """
    found: set[bool] = set()
    arrays = []
    for part, value in _parts(space, obs):
        leaf = _array(part, value)
        shape = part.shape or ()
        if (leaf.shape != shape and leaf.shape[1:] != shape) or leaf.ndim > len(shape) + 1:
            raise RlkitError(
                f"observation of shape {leaf.shape} does not fit {part}: expected {shape}, or (batch, *{shape})"
            )
        batched = leaf.ndim == len(shape) + 1
        found.add(batched)
        leaf = _fitted_leaf(part, leaf, leaf.shape[: int(batched)])
        arrays.append(leaf if batched else leaf[None])
    if len(found) != 1:
        raise RlkitError("some parts of the observation have a batch dimension and some do not")
    if len({len(leaf) for leaf in arrays}) != 1:
        rows = ", ".join(str(len(leaf)) for leaf in arrays)
        raise RlkitError(f"the parts of the observation are batches of {rows}: expected as many rows in each")
    return tuple(arrays), found.pop()
