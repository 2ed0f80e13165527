"""Network in network, which has 1 × 1 convolutions instead of linear layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from rlkit.perception.models.layers import init_he
from rlkit.perception.models.shapes import check_images, image_shape, output_shape


class NiN(nn.Module):
    """Four blocks, of which the last has a channel per class, whose mean over the image is a logit (Lin et al. 2014).

    `small_input` is for images from 15 × 15 on: the network then begins with a 5 × 5 kernel of stride 1. Raises
    RlkitError for images of the wrong shape.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (3, 224, 224),
        num_outputs: int = 10,
        dropout: float = 0.5,
        small_input: bool = False,
    ) -> None:
        super().__init__()
        self.input_shape = image_shape("nin", input_shape)
        channels = self.input_shape[0]
        stem = nin_block(channels, 96, 5, 1, 2) if small_input else nin_block(channels, 96, 11, 4, 0)
        self.convolutions = nn.Sequential(
            stem,  # (batch, 96, 54, 54)
            nn.MaxPool2d(3, 2),  # (batch, 96, 26, 26)
            nin_block(96, 256, 5, 1, 2),
            nn.MaxPool2d(3, 2),  # (batch, 256, 12, 12)
            nin_block(256, 384, 3, 1, 1),
            nn.MaxPool2d(3, 2),  # (batch, 384, 5, 5)
        )
        self.head = nn.Sequential(
            nn.Dropout(dropout), nin_block(384, num_outputs, 3, 1, 1)
        )  # (batch, num_outputs, 5, 5)
        output_shape("nin", self.convolutions, self.input_shape)
        self.feature_size = 384
        init_he(self)

    def encode(self, images: Tensor) -> Tensor:
        """Returns the means of the last hidden channels over the image: (batch, *input_shape) -> (batch, 384)."""
        check_images("nin", images, self.input_shape)
        features: Tensor = self.convolutions(images).mean((2, 3))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of the classes: (batch, *input_shape) -> (batch, num_outputs)."""
        check_images("nin", images, self.input_shape)
        logits: Tensor = self.head(self.convolutions(images)).mean((2, 3))
        return logits


def nin_block(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> nn.Sequential:
    """Makes a convolution and two of 1 × 1 behind it, which are a small MLP at every pixel."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 1),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 1),
        nn.ReLU(),
    )
