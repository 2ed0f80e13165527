"""LeNet, the first convolutional network in wide use, as it is taught today and as it was published."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from rlkit.errors import check_choice
from rlkit.perception.models.layers import init_xavier
from rlkit.perception.models.shapes import check_images, image_shape, output_shape


class LeNet(nn.Module):
    """Two convolutions with pooling, then three linear layers (LeCun et al. 1998).

    | `variant`  | kernels        | activation | pooling | parameters for 28 × 28 × 1, 10 classes |
    |------------|----------------|------------|---------|----------------------------------------|
    | `relu`     | 3              | ReLU       | maximum | 60,074                                 |
    | `sigmoid`  | 5, padded by 2 | sigmoid    | mean    | 61,706; Xavier's initial weights       |
    | `original` | 5              | tanh       | mean    | 61,706 for 32 × 32                     |

    The paper's subsampling had weights and its output layer was Gaussian; here `original` has plain means and a linear
    layer instead. `batch_norm` normalises after each layer but the last. Raises RlkitError for images of the wrong
    shape.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (1, 28, 28),
        num_outputs: int = 10,
        variant: str = "relu",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        check_choice("variant", variant, ["relu", "sigmoid", "original"])
        self.input_shape = image_shape("lenet", input_shape)
        kernel = 3 if variant == "relu" else 5
        padding = 2 if variant == "sigmoid" else 0
        act = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "original": nn.Tanh}[variant]

        def norm(layer: nn.Module) -> list[nn.Module]:
            return [layer] if batch_norm else []

        def pool() -> list[nn.Module]:  # ReLU commutes with the maximum, and is cheaper on the smaller image behind it
            return [nn.MaxPool2d(2), act()] if variant == "relu" else [act(), nn.AvgPool2d(2)]

        convolutions = nn.Sequential(  # shapes for `relu` and 28 × 28
            nn.Conv2d(self.input_shape[0], 6, kernel, padding=padding),  # (batch, 6, 26, 26)
            *norm(nn.BatchNorm2d(6)),
            *pool(),  # (batch, 6, 13, 13)
            nn.Conv2d(6, 16, kernel),  # (batch, 16, 11, 11)
            *norm(nn.BatchNorm2d(16)),
            *pool(),  # (batch, 16, 5, 5)
        )
        flat = math.prod(output_shape("lenet", convolutions, self.input_shape))  # 400
        self.feature_size = 84
        self.features = nn.Sequential(
            *convolutions,
            nn.Flatten(),
            nn.Linear(flat, 120),
            *norm(nn.BatchNorm1d(120)),
            act(),
            nn.Linear(120, 84),
            *norm(nn.BatchNorm1d(84)),
            act(),
        )
        self.head = nn.Linear(84, num_outputs)
        if variant != "relu":
            init_xavier(self)

    def encode(self, images: Tensor) -> Tensor:
        """Returns the features before the head: (batch, *input_shape) -> (batch, 84)."""
        check_images("lenet", images, self.input_shape)
        features: Tensor = self.features(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of the classes: (batch, *input_shape) -> (batch, num_outputs)."""
        logits: Tensor = self.head(self.encode(images))
        return logits
