"""ResNet, whose blocks learn what to add to their input."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from rlkit.errors import unknown
from rlkit.perception.models.layers import init_he
from rlkit.perception.models.shapes import check_images, image_shape, output_shape

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Number of residual blocks in each group, by the depth, which counts layers with weights."""
CHANNELS = (64, 128, 256, 512)
"""Channels of each group."""


class ResidualBlock(nn.Module):
    """A residual block H(x) = x + F(x), where F is two 3 × 3 convolutions.

    (batch, inputs, h, w) -> (batch, outputs, h/stride, w/stride). If that changes the shape, x goes through a 1 × 1
    convolution. `textbook` is explained at ResNet.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, textbook: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=textbook)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=textbook)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride, bias=textbook))
            if not textbook:
                self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, images: Tensor) -> Tensor:
        """Returns the block's output: (batch, inputs, h, w) -> (batch, outputs, h/stride, w/stride)."""
        residual = functional.relu(self.norm1(self.conv1(images)))
        residual = self.norm2(self.conv2(residual))
        return functional.relu(self.shortcut(images) + residual)


class ResNet(nn.Module):
    """A stem, four groups of residual blocks, the mean over the image, and a linear layer (He et al. 2016).

    `small_input` is for images of about 32 × 32: the stem is a 3 × 3 convolution that keeps the size, without pooling.
    `textbook` gives the convolutions biases and leaves the shortcuts without normalisation, as textbooks often print
    it; the paper has it the other way round. `channel_divisor` divides the channels of every group. Raises RlkitError
    for images of the wrong shape.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (3, 224, 224),
        num_outputs: int = 1000,
        depth: int = 18,
        small_input: bool = False,
        textbook: bool = False,
        channel_divisor: int = 1,
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise unknown("depth", depth, [str(known) for known in BLOCKS])
        self.input_shape = image_shape("resnet", input_shape)
        channels = CHANNELS[0] // channel_divisor
        if small_input:
            stem = [nn.Conv2d(self.input_shape[0], channels, 3, padding=1, bias=textbook)]
        else:
            stem = [nn.Conv2d(self.input_shape[0], channels, 7, 2, padding=3, bias=textbook)]  # (batch, 64, 112, 112)
        layers: list[nn.Module] = [*stem, nn.BatchNorm2d(channels), nn.ReLU()]
        if not small_input:
            layers.append(nn.MaxPool2d(3, 2, padding=1))  # (batch, 64, 56, 56)
        for group, (repeats, wide) in enumerate(zip(BLOCKS[depth], CHANNELS, strict=True)):
            outputs = wide // channel_divisor
            for i in range(repeats):  # 56 -> 56 -> 28 -> 14 -> 7
                stride = 2 if group > 0 and i == 0 else 1
                layers.append(ResidualBlock(channels, outputs, stride, textbook=textbook))
                channels = outputs
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())  # (batch, 512)
        output_shape(f"resnet-{depth}", self.features, self.input_shape)
        self.feature_size = channels
        self.head = nn.Linear(channels, num_outputs)
        init_he(self.features)

    def encode(self, images: Tensor) -> Tensor:
        """Returns the features before the head: (batch, *input_shape) -> (batch, feature_size)."""
        check_images("resnet", images, self.input_shape)
        features: Tensor = self.features(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of the classes: (batch, *input_shape) -> (batch, num_outputs)."""
        logits: Tensor = self.head(self.encode(images))
        return logits
