"""Statistics of SB3's VecNormalize out of the file that its `save` wrote, which is a pickle and is not executed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from rlkit.errors import RlkitError
from rlkit.networks.features import ObsFeatures
from rlkit.networks.normalization import CLIP, EPSILON, Moments
from rlkit.runs.reading import checked, damaged, read_bytes
from rlkit.sb3.pickles import Global, PickleError, Unmade, read_pickle
from rlkit.spaces import leaf_spaces
from rlkit.system.user_paths import user_path

LARGEST_STATISTICS = 2**26
"""Bytes of the largest file of statistics."""
CLASS = Global("stable_baselines3.common.vec_env.vec_normalize", "VecNormalize")


@dataclass(frozen=True)
class Normalization:
    """The normalisation that a VecNormalize does."""

    file: Path
    obs: Mapping[str, Moments] | Moments | None
    """Moments of the observation, or of its parts by key; None: observations stay as they are."""
    rewards: Moments | None
    """Moments of the discounted return, of which rewards are divided by the root of the variance; None: not at all."""

    def moments(self, space: spaces.Space[Any], features: ObsFeatures) -> Moments:
        """Returns the moments of a network's input vector; raises RlkitError where other parts are normalised."""
        vectors = [leaf for i, leaf in enumerate(leaf_spaces(space)) if i in features.vectors]
        keys = list(space.spaces) if isinstance(space, spaces.Dict) else [""]
        keys = [key for i, key in enumerate(keys) if i in features.vectors]
        found = self.obs if isinstance(self.obs, Mapping) else {"": self.obs}
        boxes = [key for key, leaf in zip(keys, vectors, strict=True) if isinstance(leaf, spaces.Box)]
        if sorted(found) != sorted(boxes):
            raise RlkitError(
                f"{self.file} normalises the parts {sorted(found)} of the observation: rlkit normalises every Box "
                f"that is no image, and nothing else, here {boxes}"
            )
        parts = [self._part(found.get(key), leaf) for key, leaf in zip(keys, vectors, strict=True)]
        mean, var = (np.concatenate([getattr(part, name) for part in parts]) for name in ("mean", "var"))
        return Moments(mean, var, max(part.count for part in parts))

    def _part(self, moments: Moments | None, space: spaces.Space[Any]) -> Moments:
        """Returns the moments of a part of the vector; for discrete parts, which stay as they are, any would do."""
        if moments is None:
            size = spaces.flatdim(space)
            return Moments(np.zeros(size), np.ones(size), 0.0)
        if moments.mean.shape != space.shape:
            shape = moments.mean.shape
            raise RlkitError(f"{self.file} is of observations of shape {shape}, the model's are of {space.shape}")
        return Moments(moments.mean.ravel(), moments.var.ravel(), moments.count)


def read_normalization(path: str | Path) -> Normalization:
    """Reads the file that VecNormalize's `save` wrote.

    Raises RlkitError for a file that is missing, damaged or of another class, and for limits that rlkit does not have.
    """
    file = user_path(path)
    try:
        pickled = read_pickle(read_bytes(file, LARGEST_STATISTICS))
    except PickleError as error:
        raise damaged(file, error) from error
    if not isinstance(pickled, Unmade) or pickled.maker != CLASS:
        found = ".".join(pickled.maker) if isinstance(pickled, Unmade) else type(pickled).__name__
        raise RlkitError(f"{file} is of {found}: expected what VecNormalize's save(…) writes")
    epsilon = checked(pickled.get("epsilon"), float, f"{file}: epsilon")
    obs = _obs(pickled, epsilon, file) if pickled.get("norm_obs") is True else None
    rewards = None
    if pickled.get("norm_reward") is True:
        _check_limit(pickled, "clip_reward", file)
        rewards = _moments(pickled.get("ret_rms"), epsilon, f"{file}: ret_rms")
    return Normalization(file, obs, rewards)


def _obs(pickled: Unmade, epsilon: float, file: Path) -> Mapping[str, Moments] | Moments:
    _check_limit(pickled, "clip_obs", file)
    found = pickled.get("obs_rms")
    if isinstance(found, Mapping):
        return {str(key): _moments(part, epsilon, f"{file}: obs_rms.{key}") for key, part in found.items()}
    return _moments(found, epsilon, f"{file}: obs_rms")


def _check_limit(pickled: Unmade, name: str, file: Path) -> None:
    limit = checked(pickled.get(name), float, f"{file}: {name}")
    if limit != CLIP:
        raise RlkitError(f"{file} clips by {name}={limit:g}: rlkit clips what it normalises to ±{CLIP:g}")


def _moments(pickled: Any, epsilon: float, name: str) -> Moments:
    """Returns the moments in a RunningMeanStd; its ε, where it is another than ours, becomes part of the variance."""
    values = [pickled.get(field) for field in ("mean", "var")] if isinstance(pickled, Unmade) else [None, None]
    mean, var = (np.asarray(value, np.float64) if isinstance(value, np.ndarray | float) else None for value in values)
    if mean is None or var is None or mean.shape != var.shape or not np.isfinite([mean, var]).all() or (var < 0).any():
        raise RlkitError(f"{name} has no mean and variance: expected arrays of finite numbers")
    count = checked(pickled.get("count"), float, f"{name}.count")
    return Moments(mean, var + (epsilon - EPSILON), count)
