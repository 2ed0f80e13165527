"""CycleGAN, which learns to translate images of one kind to another and back without pairs of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from rlkit.perception.models.coders import halvable


class ResidualLayer(nn.Module):
    """A residual layer x + F(x), where F is two convolutions with instance normalisation that keep the shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"),
            nn.InstanceNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Returns the layer's output: (batch, channels, h, w) -> (batch, channels, h, w)."""
        residual: Tensor = self.layers(images)
        return images + residual


def translator(channels: int, width: int, blocks: int) -> nn.Sequential:
    """Makes a network that translates images of one kind to the other: (batch, channels, h, w), both in [−1, 1]."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 7, padding=3, padding_mode="reflect"),
        nn.InstanceNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, 2, padding=1),  # (batch, 2 · width, h/2, w/2)
        nn.InstanceNorm2d(2 * width),
        nn.ReLU(),
        *(ResidualLayer(2 * width) for _ in range(blocks)),
        nn.ConvTranspose2d(2 * width, width, 4, 2, padding=1),  # (batch, width, h, w)
        nn.InstanceNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, channels, 7, padding=3, padding_mode="reflect"),
        nn.Tanh(),
    )


def patch_discriminator(channels: int, width: int) -> nn.Sequential:
    """Makes a discriminator of patches: (batch, channels, h, w) -> (batch, 1, h/4, w/4).

    Its output is a logit of "real" for each of many overlapping patches of 18 × 18 pixels.
    """
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, 2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, 2, padding=1),
        nn.InstanceNorm2d(2 * width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 1, 3, padding=1),
    )


class CycleGAN(nn.Module):
    """Two translators and two discriminators of images (Zhu et al. 2017), smaller than the paper's.

    Raises RlkitError for images whose sides are no multiples of 4.
    """

    def __init__(self, *, input_shape: Sequence[int] = (1, 28, 28), width: int = 16, blocks: int = 3) -> None:
        super().__init__()
        channels, _, _ = halvable("cyclegan", input_shape, 2)
        self.translators = nn.ModuleDict({way: translator(channels, width, blocks) for way in ("a_to_b", "b_to_a")})
        self.discriminators = nn.ModuleDict({kind: patch_discriminator(channels, 2 * width) for kind in ("a", "b")})

    def forward(self, images: Tensor) -> Tensor:
        """Translates images of kind a, (batch, *input_shape) in [−1, 1], to kind b."""
        translated: Tensor = self.translators["a_to_b"](images)
        return translated
