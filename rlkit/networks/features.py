"""Features of observations, the input of every network: one float32 vector, and images with their channels first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from torch import nn

from rlkit.networks.backbone import BackboneEncoder
from rlkit.networks.normalization import CLIP, RunningStatistics
from rlkit.spaces import Array, Obs, leaf_spaces
from rlkit.system.ranks import Ranks

if TYPE_CHECKING:
    from rlkit.perception.backbone import Backbone

MIN_IMAGE_SIZE = 8
"""Height and width in pixels below which `auto` takes an array for a vector and not for an image."""


def is_image(space: spaces.Space[Any], encoder: str = "auto") -> bool:
    """Returns True if a leaf of the observation space is an image, for a CNN.

    `encoder` is as in `NetworkConfig`: with `auto`, images have three or four dimensions, or two of bytes.
    """
    if not isinstance(space, spaces.Box) or len(space.shape) < 2 or encoder == "mlp":
        return False
    if encoder == "cnn":
        return len(space.shape) <= 4
    image_like = len(space.shape) in (3, 4) or (len(space.shape) == 2 and space.dtype == np.uint8)
    return image_like and min(image_shape(space)[1:]) >= MIN_IMAGE_SIZE


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


class ObsFeatures(nn.Module):
    """Splits an observation into the vector and the images that a network takes; has no parameters to learn.

    Box leaves are flattened, discrete ones become one-hot, and all are concatenated into the vector. With `normalize`,
    the vector's Box parts are whitened by running statistics, which `update` feeds and which are saved with the model.
    A frozen `backbone` turns images into parts of the vector.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        *,
        encoder: str = "auto",
        normalize: bool = False,
        backbone: Backbone | None = None,
    ) -> None:
        super().__init__()
        self.leaves = leaf_spaces(space)
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
        self._is_vector = len(self.leaves) == 1 and isinstance(space, spaces.Box) and len(space.shape) == 1
        kinds = [(_vector_size(self.leaves[i]), isinstance(self.leaves[i], spaces.Box)) for i in self.vectors]
        self._whitened = np.concatenate([np.full(*kind) for kind in [*kinds, (num_features, True)]])

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
            vector = np.where(self._whitened, whitened, vector)
        return (vector, *images)

    def update(self, obs: Obs, ranks: Ranks) -> None:
        """Adds a batch of observations to the running statistics, if there are any; every rank adds its own."""
        if self.statistics is not None:
            self.statistics.update(self._vector(obs), ranks)

    def _vector(self, obs: Obs) -> Array:
        if self._is_vector and obs[0].dtype == np.float32:
            return obs[0]
        parts = [_as_vector(obs[i], self.leaves[i]) for i in self.vectors]
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


def _as_vector(leaf: Array, space: spaces.Space[Any]) -> Array:
    if isinstance(space, spaces.Discrete):
        return one_hot(leaf.reshape(-1) - space.start, int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        columns = (leaf - space.start).reshape(len(leaf), -1).T
        return np.concatenate([one_hot(c, int(n)) for c, n in zip(columns, space.nvec.flat, strict=True)], axis=1)
    return leaf.reshape(len(leaf), -1).astype(np.float32, copy=False)


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
