"""Features of observations, the input of every network: one float32 vector, and images with their channels first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium import spaces
from torch import nn

from rlkit.errors import RlkitError
from rlkit.networks.backbone import BackboneEncoder
from rlkit.networks.normalization import CLIP, RunningStatistics
from rlkit.spaces import Array, Obs, leaf_spaces
from rlkit.system.ranks import Ranks

if TYPE_CHECKING:
    from rlkit.perception.backbone import Backbone

MIN_IMAGE_SIZE, MIN_IMAGE_SIZE_V1 = 7, 8
"""Height and width in pixels below which `auto`, and `auto_v1`, take an array for a vector and not for an image."""
NEAR = 30.0
"""Largest bound of a Box whose numbers a network takes as they are: learning copes with them, as with Acrobot's ±28."""
LARGEST_BOUND = 1e6
"""Bounds beyond this say that an environment knows none, so that nothing can be scaled by them."""


MAX_CATEGORIES = 2**22
"""Most values that discrete observations or actions have in a network, which has weights for each of them."""


def check_categories(kind: str, space: object, count: int) -> None:
    """Raises RlkitError for more values of discrete observations or actions than a network can have weights for."""
    if count > MAX_CATEGORIES:
        raise RlkitError(f"the {kind} {space} are {count:,} values for a network: expected at most {MAX_CATEGORIES:,}")


def is_image(space: spaces.Space[Any], encoder: str = "auto") -> bool:
    """Returns True if a leaf of the observation space is an image, for a CNN.

    `encoder` is as in `NetworkConfig`: with `auto`, images have three or four dimensions, or two of bytes.
    """
    if not isinstance(space, spaces.Box) or len(space.shape) < 2 or encoder == "mlp":
        return False
    if not encoder.startswith("auto"):
        return len(space.shape) <= 4
    image_like = len(space.shape) in (3, 4) or (len(space.shape) == 2 and space.dtype == np.uint8)
    smallest = MIN_IMAGE_SIZE_V1 if encoder == "auto_v1" else MIN_IMAGE_SIZE
    return image_like and min(image_shape(space)[1:]) >= smallest


def encoder_notes(space: spaces.Space[Any], encoder: str) -> list[str]:
    """Returns a note for the user if an encoder for images was asked for and there is no image."""
    if encoder in ("auto", "auto_v1", "mlp") or any(is_image(leaf, encoder) for leaf in leaf_spaces(space)):
        return []
    return [f"network.encoder={encoder} encodes nothing: no part of the observations has two dimensions or more"]


def image_shape(space: spaces.Space[Any]) -> tuple[int, int, int]:
    """Returns the (channels, height, width) of an image leaf; stacked frames count as channels."""
    shape = space.shape or ()
    if len(shape) == 2:
        return (1, shape[0], shape[1])
    if len(shape) == 4:
        stack, image = shape[0], shape[1:]
        c, h, w = (image[2], image[0], image[1]) if _channels_last(image) else image
        return (stack * c, h, w)
    return (shape[2], shape[0], shape[1]) if _channels_last(shape) else (shape[0], shape[1], shape[2])


def backbone_encoder(backbone: Backbone, space: spaces.Space[Any]) -> BackboneEncoder:
    """Makes the encoder of an image leaf from a backbone; raises RlkitError if the backbone cannot take such images."""
    assert isinstance(space, spaces.Box)
    return BackboneEncoder(backbone, space, image_shape(space))


def _channels_last(shape: tuple[int, ...]) -> bool:
    return shape[-1] < shape[0]


class Scaling(NamedTuple):
    """Offsets that are subtracted from numbers of a Box, and scales that they are divided by then: float32 both."""

    offset: Array
    """The number between the bounds that is nearest to zero."""
    scale: Array
    """The largest distance between the offset and a bound."""

    @property
    def changes(self) -> bool:
        """True if there is a number that is not left as it is."""
        return bool(np.any(self.offset != 0) or np.any(self.scale != 1))


def scaling(low: Any, high: Any) -> Scaling:
    """Returns what maps numbers between far bounds, arrays of one shape, into -1 to 1, or 0 to 1 on one side of zero.

    Numbers stay as they are, each by itself, where no bound is beyond `NEAR`, or one is infinite or as good as that.
    """
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    farthest = np.maximum(np.abs(low), np.abs(high))
    far = (farthest > NEAR) & (farthest <= LARGEST_BOUND)
    offset = np.where(far, np.clip(0.0, low, high), 0.0)
    distance = np.where(far, np.maximum(high - offset, offset - low), 1.0)
    return Scaling(offset.astype(np.float32), np.where(distance > 0, distance, 1.0).astype(np.float32))


def pixel_scaling(space: spaces.Space[Any], *, by_bounds: bool) -> tuple[float, float]:
    """Returns the offset and the scale of an image's pixels: by the bounds of them all, or else 255 for bytes alone."""
    assert isinstance(space, spaces.Box)
    if not by_bounds:
        return 0.0, 255.0 if space.dtype == np.uint8 else 1.0
    return tuple(float(number) for number in scaling(space.low.min(), space.high.max()))  # type: ignore[return-value]


class ObsFeatures(nn.Module):
    """Splits an observation into the vector and the images that a network takes; has no parameters to learn.

    Box leaves are flattened, discrete ones become one-hot, and all are concatenated into the vector. With `scale`, the
    vector's Box parts are scaled by their bounds, if these are far; with `normalize`, they are whitened instead by
    running statistics, which `update` feeds and which are saved with the model. A frozen `backbone` turns images into
    parts of the vector.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        *,
        encoder: str = "auto",
        scale: bool = True,
        normalize: bool = False,
        backbone: Backbone | None = None,
    ) -> None:
        super().__init__()
        self.leaves = leaf_spaces(space)
        discrete = [_vector_size(leaf) for leaf in self.leaves if not isinstance(leaf, spaces.Box)]
        check_categories("observations", space, sum(discrete))
        images = [i for i, leaf in enumerate(self.leaves) if is_image(leaf, encoder)]
        self.vectors = [i for i in range(len(self.leaves)) if i not in images]
        self.images = [] if backbone else images
        self.encoded = images if backbone else []
        encoders = [backbone_encoder(backbone, self.leaves[i]) for i in images] if backbone else []
        self.encoders = nn.ModuleList(encoders)
        num_features = sum(encoder.num_outputs for encoder in encoders)
        self.vector_size = sum(_vector_size(self.leaves[i]) for i in self.vectors) + num_features
        self.has_vector = bool(self.vectors or self.encoded)
        self.statistics = RunningStatistics(self.vector_size) if normalize and self.vector_size else None
        self.scalings = {i: found for i in self.vectors if scale and (found := _leaf_scaling(self.leaves[i]))}
        """Scalings of the vectors that have one, by the number of the leaf."""
        if normalize:  # which finds the scale out by itself
            self.scalings = {}
        self._is_vector = (
            not self.scalings and len(self.leaves) == 1 and isinstance(space, spaces.Box) and len(space.shape) == 1
        )
        kinds = [(_vector_size(self.leaves[i]), isinstance(self.leaves[i], spaces.Box)) for i in self.vectors]
        self.whitened = np.concatenate([np.full(*kind) for kind in [*kinds, (num_features, True)]])

    def __call__(self, obs: Obs) -> tuple[Array, ...]:
        """Returns the vector, (batch, vector_size), if there is one, and then each image: (batch, c, h, w).

        Images that are tensors stay tensors.
        """
        if self._is_vector and self.statistics is None and obs[0].dtype == np.float32:
            return obs
        images = tuple(_channels_first(obs[i], self.leaves[i]) for i in self.images)
        if not self.has_vector:
            return images
        vector = self._vector(obs)
        if self.statistics is not None:
            mean, std = self.statistics.mean_and_std()
            whitened = np.clip((vector - mean) / std, -CLIP, CLIP)
            vector = np.where(self.whitened, whitened, vector)
        return (vector, *images)

    def update(self, obs: Obs, ranks: Ranks, rows: Array | slice = slice(None)) -> None:
        """Adds these rows of a batch of observations to the running statistics, if there are any.

        Every rank adds its own.
        """
        if self.statistics is not None:
            self.statistics.update(self._vector(tuple(leaf[rows] for leaf in obs)), ranks)

    def _vector(self, obs: Obs) -> Array:
        if self._is_vector and obs[0].dtype == np.float32:
            return obs[0]
        parts = [_as_vector(obs[i], self.leaves[i], self.scalings.get(i)) for i in self.vectors]
        for i, encoder in zip(self.encoded, self.encoders, strict=True):
            assert isinstance(encoder, BackboneEncoder)
            parts.append(encoder.encode(_channels_first(obs[i], self.leaves[i])))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _vector_size(space: spaces.Space[Any]) -> int:
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    return int(np.prod(space.shape or ()))


def _leaf_scaling(space: spaces.Space[Any]) -> Scaling | None:
    if not isinstance(space, spaces.Box):
        return None
    found = scaling(space.low.reshape(-1), space.high.reshape(-1))
    return found if found.changes else None


def _as_vector(leaf: Array, space: spaces.Space[Any], scaling: Scaling | None) -> Array:
    if isinstance(space, spaces.Discrete):
        return one_hot(leaf.reshape(-1) - space.start, int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        columns = (leaf - space.start).reshape(len(leaf), -1).T
        return np.concatenate([one_hot(c, int(n)) for c, n in zip(columns, space.nvec.flat, strict=True)], axis=1)
    rows: Array = leaf.reshape(len(leaf), -1)
    if scaling is not None:
        rows = (rows - scaling.offset) / scaling.scale
    return rows.astype(np.float32, copy=False)


def one_hot(indices: Array, size: int) -> Array:
    """Encodes (batch,) integers as one-hot rows: (batch, size) float32."""
    rows = np.zeros((len(indices), size), np.float32)
    rows[np.arange(len(indices)), indices] = 1.0
    return rows


def _channels_first(leaf: Array, space: spaces.Space[Any]) -> Array:
    shape = space.shape or ()
    if len(shape) >= 3 and _channels_last(shape[-3:]):
        leaf = leaf.swapaxes(-1, -2).swapaxes(-2, -3)  # a method that tensors have too
    return leaf.reshape(len(leaf), *image_shape(space))
