"""VGG, whose convolutions are all 3 × 3, in blocks that halve the image."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from rlkit.errors import unknown
from rlkit.perception.models.layers import init_he
from rlkit.perception.models.mlp import hidden_layer
from rlkit.perception.models.shapes import check_images, image_shape, output_shape

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Number of convolutions in each block, by the depth of the paper's configurations A, B, D and E."""
CHANNELS = (64, 128, 256, 512, 512)
"""Channels of each block."""


class VGG(nn.Module):
    """Five blocks of convolutions and pooling, then linear layers (Simonyan & Zisserman 2015).

    For images of 32 × 32, `hidden_sizes=[256, 128]` and `dropout=0` are enough, which give 9.6 million parameters at
    depth 13. `channel_divisor=4` makes every block a quarter as wide. Raises RlkitError for images of the wrong shape.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (3, 224, 224),
        num_outputs: int = 1000,
        depth: int = 16,
        hidden_sizes: Sequence[int] = (4096, 4096),
        dropout: float = 0.5,
        batch_norm: bool = False,
        channel_divisor: int = 1,
    ) -> None:
        super().__init__()
        if depth not in CONVOLUTIONS:
            raise unknown("depth", depth, [str(known) for known in CONVOLUTIONS])
        self.input_shape = image_shape("vgg", input_shape)
        blocks, channels = [], self.input_shape[0]
        for repeats, wide in zip(CONVOLUTIONS[depth], CHANNELS, strict=True):
            outputs = wide // channel_divisor
            blocks.append(vgg_block(channels, outputs, repeats, batch_norm))
            channels = outputs
        convolutions = nn.Sequential(*blocks)
        size = math.prod(output_shape(f"vgg-{depth}", convolutions, self.input_shape))  # 512 · 7 · 7 for 224 × 224
        layers: list[nn.Module] = [nn.Flatten()]
        for hidden in hidden_sizes:
            layers += hidden_layer(size, hidden, "relu", dropout)
            size = hidden
        self.features = nn.Sequential(convolutions, *layers)
        self.feature_size = size
        self.head = nn.Linear(size, num_outputs)
        init_he(self)

    def encode(self, images: Tensor) -> Tensor:
        """Returns the features before the head: (batch, *input_shape) -> (batch, feature_size)."""
        check_images("vgg", images, self.input_shape)
        features: Tensor = self.features(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of the classes: (batch, *input_shape) -> (batch, num_outputs)."""
        logits: Tensor = self.head(self.encode(images))
        return logits


def vgg_block(inputs: int, outputs: int, repeats: int, batch_norm: bool = False) -> nn.Sequential:
    """Makes a block of `repeats` convolutions and a pooling: (batch, inputs, h, w) -> (batch, outputs, h/2, w/2)."""
    layers: list[nn.Module] = []
    for i in range(repeats):
        layers.append(nn.Conv2d(inputs if i == 0 else outputs, outputs, 3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(outputs))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.MaxPool2d(2))
