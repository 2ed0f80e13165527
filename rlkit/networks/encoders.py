"""What every network starts with: a CNN for each image of an observation, put beside the vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlkit.config import NetworkConfig
from rlkit.networks.features import ObsFeatures, image_shape
from rlkit.networks.mlp import cnn


class ImageEncoders(nn.ModuleList):
    """`ObsFeatures`' output to one (batch, num_outputs) tensor; the vector itself where there are no images."""

    def __init__(self, features: ObsFeatures, config: NetworkConfig, generator: torch.Generator) -> None:
        images = [features.leaves[i] for i in features.images]
        super().__init__(cnn(image_shape(space), config, generator) for space in images)
        self.num_outputs = features.vector_size + 512 * len(images)
        self._scales = [255.0 if space.dtype == "uint8" else 1.0 for space in images]

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """`features`: the vector, if there is one, then each image."""
        vector, images = features[: len(features) - len(self)], features[len(features) - len(self) :]
        encoded = [net(image.float() / scale) for net, image, scale in zip(self, images, self._scales, strict=True)]
        parts = [*vector, *encoded]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def hidden_sizes(config: NetworkConfig, encoders: ImageEncoders) -> list[int]:
    """The units of each hidden layer behind the encoders."""
    if config.hidden_sizes is not None:
        return list(config.hidden_sizes)
    return [] if len(encoders) else [64, 64]
