"""AlexNet, the network that won ImageNet 2012."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from rlkit.perception.models.layers import init_he
from rlkit.perception.models.shapes import check_images, image_shape, output_shape


class AlexNet(nn.Module):
    """Five convolutions, three linear layers, ReLU, dropout (Krizhevsky et al. 2012; channels as in arXiv 1404.5997).

    Local response normalisation is left out, as later work found that it does not help. `small_input` is for images
    from 15 × 15 on: the network then begins with a 5 × 5 kernel of stride 1. Raises RlkitError for images of the wrong
    shape.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (3, 224, 224),
        num_outputs: int = 1000,
        hidden_size: int = 4096,
        dropout: float = 0.5,
        small_input: bool = False,
    ) -> None:
        super().__init__()
        self.input_shape = image_shape("alexnet", input_shape)
        channels = self.input_shape[0]
        stem = nn.Conv2d(channels, 64, 5, padding=2) if small_input else nn.Conv2d(channels, 64, 11, 4, padding=2)
        convolutions = nn.Sequential(
            stem,  # (batch, 64, 55, 55) for 224 × 224
            nn.ReLU(),
            nn.MaxPool2d(3, 2),  # (batch, 64, 27, 27)
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),  # (batch, 192, 13, 13)
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),  # (batch, 256, 6, 6)
        )
        flat = math.prod(output_shape("alexnet", convolutions, self.input_shape))  # 9216
        self.feature_size = hidden_size
        self.features = nn.Sequential(
            *convolutions,
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(flat, hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, hidden_size),
            nn.ReLU(),
        )
        self.head = nn.Linear(hidden_size, num_outputs)
        init_he(self)

    def encode(self, images: Tensor) -> Tensor:
        """Returns the features before the head: (batch, *input_shape) -> (batch, hidden_size)."""
        check_images("alexnet", images, self.input_shape)
        features: Tensor = self.features(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of the classes: (batch, *input_shape) -> (batch, num_outputs)."""
        logits: Tensor = self.head(self.encode(images))
        return logits
