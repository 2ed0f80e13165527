"""DenseNet, in which every layer's input is the output of all layers before it in its block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlkit.perception.models.layers import init_he
from rlkit.perception.models.shapes import check_images, image_shape, output_shape


class DenseBlock(nn.Module):
    """A block of layers, each of which adds `growth` channels to its input.

    (batch, inputs, h, w) -> (batch, inputs + repeats · growth, h, w). `bottleneck` puts a 1 × 1 convolution to
    4 · growth channels before each 3 × 3 one, which saves weights where the input has many channels.
    """

    def __init__(self, inputs: int, repeats: int, growth: int, *, bottleneck: bool) -> None:
        super().__init__()
        layers = []
        for i in range(repeats):
            channels = inputs + i * growth
            squeeze = _norm_relu_conv(channels, 4 * growth, 1) if bottleneck else []
            layers.append(nn.Sequential(*squeeze, *_norm_relu_conv(4 * growth if bottleneck else channels, growth, 3)))
        self.layers = nn.ModuleList(layers)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the input's channels, followed by the channels that each layer computes from all those before."""
        for layer in self.layers:
            images = torch.cat([images, layer(images)], 1)
        return images


class DenseNet(nn.Module):
    """Dense blocks, and between them transitions that halve channels and image (Huang et al. 2017).

    DenseNet-121 is `blocks=[6, 12, 24, 16]` with `bottleneck`; the default is the smaller one that textbooks train.
    With `small_input` the network begins with a 3 × 3 convolution that keeps the size. Raises RlkitError for images of
    the wrong shape.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (3, 224, 224),
        num_outputs: int = 10,
        blocks: Sequence[int] = (4, 4, 4, 4),
        growth: int = 32,
        bottleneck: bool = False,
        small_input: bool = False,
    ) -> None:
        super().__init__()
        self.input_shape = image_shape("densenet", input_shape)
        channels = 64
        layers: list[nn.Module]
        if small_input:
            layers = [nn.Conv2d(self.input_shape[0], channels, 3, padding=1, bias=False)]
        else:
            layers = [
                nn.Conv2d(self.input_shape[0], channels, 7, 2, padding=3, bias=False),  # (batch, 64, 112, 112)
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.MaxPool2d(3, 2, padding=1),  # (batch, 64, 56, 56)
            ]
        for i, repeats in enumerate(blocks):
            if i > 0:  # 56 -> 28 -> 14 -> 7
                layers += [*_norm_relu_conv(channels, channels // 2, 1), nn.AvgPool2d(2)]
                channels //= 2
            layers.append(DenseBlock(channels, repeats, growth, bottleneck=bottleneck))
            channels += repeats * growth
        self.features = nn.Sequential(
            *layers, nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )  # (batch, channels)
        output_shape("densenet", self.features, self.input_shape)
        self.feature_size = channels
        self.head = nn.Linear(channels, num_outputs)
        init_he(self.features)

    def encode(self, images: Tensor) -> Tensor:
        """Returns the features before the head: (batch, *input_shape) -> (batch, feature_size)."""
        check_images("densenet", images, self.input_shape)
        features: Tensor = self.features(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of the classes: (batch, *input_shape) -> (batch, num_outputs)."""
        logits: Tensor = self.head(self.encode(images))
        return logits


def _norm_relu_conv(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    return [
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
    ]
