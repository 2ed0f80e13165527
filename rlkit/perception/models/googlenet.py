"""GoogLeNet, whose blocks look at an image at several scales at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlkit.perception.models.layers import init_he
from rlkit.perception.models.shapes import check_images, image_shape, output_shape


class Inception(nn.Module):
    """A block of four branches side by side: 1 × 1; 1 × 1 then 3 × 3; 1 × 1 then 5 × 5; pooling then 1 × 1.

    `c1` to `c4` are the channels of their layers: (batch, inputs, h, w) -> (batch, c1 + c2[1] + c3[1] + c4, h, w).
    """

    def __init__(self, inputs: int, c1: int, c2: tuple[int, int], c3: tuple[int, int], c4: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                nn.Sequential(*_conv(inputs, c1, 1)),
                nn.Sequential(*_conv(inputs, c2[0], 1), *_conv(c2[0], c2[1], 3)),
                nn.Sequential(*_conv(inputs, c3[0], 1), *_conv(c3[0], c3[1], 5)),
                nn.Sequential(nn.MaxPool2d(3, 1, padding=1), *_conv(inputs, c4, 1)),
            ]
        )

    def forward(self, images: Tensor) -> Tensor:
        """Returns the outputs of all branches, concatenated as channels."""
        return torch.cat([branch(images) for branch in self.branches], 1)


class GoogLeNet(nn.Module):
    """Nine Inception blocks (Szegedy et al. 2015), without the auxiliary classifiers and without normalisation.

    `small_input` leaves the stem's three halvings out, for images from 4 × 4 on. `batch_norm` normalises the features
    before the blocks and after each of their three groups; without it, a small learning rate and patience are needed.
    Raises RlkitError for images of the wrong shape.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (3, 224, 224),
        num_outputs: int = 1000,
        dropout: float = 0.4,
        small_input: bool = False,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.input_shape = image_shape("googlenet", input_shape)
        channels = self.input_shape[0]
        if small_input:
            stem = nn.Sequential(*_conv(channels, 64, 3), *_conv(64, 192, 3))
        else:
            stem = nn.Sequential(
                nn.Conv2d(channels, 64, 7, 2, padding=3),  # (batch, 64, 112, 112)
                nn.ReLU(),
                nn.MaxPool2d(3, 2, padding=1),  # (batch, 64, 56, 56)
                *_conv(64, 64, 1),
                *_conv(64, 192, 3),
                nn.MaxPool2d(3, 2, padding=1),  # (batch, 192, 28, 28)
            )
        self.features = nn.Sequential(
            stem,
            *_norm(192, batch_norm),
            Inception(192, 64, (96, 128), (16, 32), 32),  # 3a: (batch, 256, 28, 28)
            Inception(256, 128, (128, 192), (32, 96), 64),  # 3b: (batch, 480, 28, 28)
            *_norm(480, batch_norm),
            nn.MaxPool2d(3, 2, padding=1),
            Inception(480, 192, (96, 208), (16, 48), 64),  # 4a: (batch, 512, 14, 14)
            Inception(512, 160, (112, 224), (24, 64), 64),
            Inception(512, 128, (128, 256), (24, 64), 64),
            Inception(512, 112, (144, 288), (32, 64), 64),
            Inception(528, 256, (160, 320), (32, 128), 128),  # 4e: (batch, 832, 14, 14)
            *_norm(832, batch_norm),
            nn.MaxPool2d(3, 2, padding=1),
            Inception(832, 256, (160, 320), (32, 128), 128),  # 5a
            Inception(832, 384, (192, 384), (48, 128), 128),  # 5b: (batch, 1024, 7, 7)
            *_norm(1024, batch_norm),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),  # (batch, 1024)
        )
        output_shape("googlenet", self.features, self.input_shape)
        self.feature_size = 1024
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(1024, num_outputs))
        init_he(self)

    def encode(self, images: Tensor) -> Tensor:
        """Returns the features before the head: (batch, *input_shape) -> (batch, 1024)."""
        check_images("googlenet", images, self.input_shape)
        features: Tensor = self.features(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of the classes: (batch, *input_shape) -> (batch, num_outputs)."""
        logits: Tensor = self.head(self.encode(images))
        return logits


def _conv(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    """Makes a convolution that keeps the size, and a ReLU."""
    return [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.ReLU()]


def _norm(channels: int, batch_norm: bool) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels)] if batch_norm else []
