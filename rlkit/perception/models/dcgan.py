"""DCGAN, a GAN of convolutions without pooling, and InfoGAN, whose latent numbers get a meaning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlkit.errors import RlkitError, check_choice, check_range
from rlkit.perception.models.gan import Adversaries, with_labels
from rlkit.perception.models.shapes import image_shape


class DCGenerator(nn.Module):
    """A generator whose first layer makes an image of 4 × 4 to 7 × 7, which the others double: 4 -> 8 -> … -> 64.

    Batch normalisation and ReLU are in between, and tanh is at the end; there are no biases.
    """

    def __init__(
        self, latent_size: int, output_shape: tuple[int, int, int], width: int, *, num_classes: int = 0
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        start, doublings = start_of(output_shape)
        channels = width * 2 ** (doublings - 1)
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(latent_size + num_classes, channels, start, bias=False),  # (batch, 512, 4, 4)
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
        for _ in range(doublings - 1):  # 256 channels of 8 × 8, 128 of 16 × 16, 64 of 32 × 32
            layers += [
                nn.ConvTranspose2d(channels, channels // 2, 4, 2, padding=1, bias=False),
                nn.BatchNorm2d(channels // 2),
                nn.ReLU(),
            ]
            channels //= 2
        layers += [nn.ConvTranspose2d(channels, output_shape[0], 4, 2, padding=1, bias=False), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generates images in [−1, 1] from latent numbers, (batch, latent_size), and labels if it is conditional."""
        outputs: Tensor = self.layers(with_labels(latents, labels, self.num_classes)[:, :, None, None])
        return outputs


class DCDiscriminator(nn.Module):
    """A discriminator of convolutions with leaky ReLU; the mean over the last image gives one score.

    Images of 64 × 64 shrink without padding: to 31, 14 and 6 with stride 2, to 4 and 2 with stride 1. With
    `small_input` they are halved with padding until 4 × 4 to 7 × 7 are left, and the score depends on all of these
    pixels. `norm` is `batch`, `none`, or `layer`, which the gradient penalty needs because it is defined for single
    samples.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        width: int,
        *,
        norm: str = "batch",
        num_classes: int = 0,
        small_input: bool,
    ) -> None:
        super().__init__()
        check_choice("discriminator_norm", norm, ["batch", "layer", "none"])
        self.num_classes = num_classes
        channels = input_shape[0] + num_classes
        layers: list[nn.Module] = []
        if small_input:
            start, halvings = start_of(input_shape)
            plan = [(width * 2**i, 4, 2, 1) for i in range(halvings)]
        else:
            plan = [
                (width, 4, 2, 0),
                (2 * width, 4, 2, 0),
                (4 * width, 4, 2, 0),
                (8 * width, 3, 1, 0),
                (16 * width, 3, 1, 0),
            ]
        for wide, kernel, stride, padding in plan:
            layers.append(nn.Conv2d(channels, wide, kernel, stride, padding, bias=norm == "none"))
            layers += [*_norm(norm, wide), nn.LeakyReLU(0.2)]
            channels = wide
        last = [nn.Flatten()] if small_input else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.features = nn.Sequential(*layers, *last)
        self.feature_size = channels * start**2 if small_input else channels
        self.head = nn.Linear(self.feature_size, 1)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Returns a score per sample, given (batch,) labels if it is conditional: (batch, *input_shape) -> (batch,)."""
        score: Tensor = self.head(self.features(with_labels(images, labels, self.num_classes)))
        return score[:, 0]


class DCGAN(Adversaries):
    """A GAN of convolutions (Radford et al. 2016); `conditional` gives the label to generator and discriminator.

    The default is for 64 × 64; `small_input` is for 28 × 28, 32 × 32 and other sizes that can be halved twice. Raises
    RlkitError for images of other sizes.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (3, 64, 64),
        num_outputs: int = 10,
        latent_size: int = 100,
        width: int = 64,
        discriminator_norm: str = "batch",
        conditional: bool = False,
        prior: str = "normal",
        small_input: bool = False,
    ) -> None:
        shape = check_size("dcgan", input_shape, small_input)
        classes = num_outputs if conditional else 0
        discriminator = DCDiscriminator(
            shape, width, norm=discriminator_norm, num_classes=classes, small_input=small_input
        )
        super().__init__(
            DCGenerator(latent_size, shape, width, num_classes=classes),
            discriminator,
            latent_size=latent_size,
            num_classes=classes,
            prior=prior,
        )
        init_dcgan(self)


class InfoGAN(Adversaries):
    """A GAN with a second head of the discriminator that finds some of the latent numbers in images (Chen et al. 2016).

    Latent numbers are noise, then a one-hot code of `num_codes` values, then `num_continuous` numbers from [−1, 1]. The
    second head has to find the code and the continuous numbers.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (1, 28, 28),
        noise_size: int = 54,
        num_codes: int = 10,
        num_continuous: int = 2,
        width: int = 32,
        small_input: bool = True,
    ) -> None:
        shape = check_size("infogan", input_shape, small_input)
        check_range("num_codes", num_codes, 2)
        discriminator = DCDiscriminator(shape, width, small_input=small_input)
        latent_size = noise_size + num_codes + num_continuous
        super().__init__(DCGenerator(latent_size, shape, width), discriminator, latent_size=latent_size)
        self.num_codes, self.num_continuous = num_codes, num_continuous
        self.code_head = nn.Sequential(
            nn.Linear(discriminator.feature_size, 128), nn.LeakyReLU(0.2), nn.Linear(128, num_codes + num_continuous)
        )
        init_dcgan(self)

    def draw_latents(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws latent numbers, (count, noise_size + num_codes + num_continuous)."""
        latents = super().draw_latents(count, generator)
        noise = latents[:, : -self.num_codes - self.num_continuous]
        codes = torch.randint(self.num_codes, (count,), generator=generator, device=noise.device)
        continuous = torch.rand(count, self.num_continuous, generator=generator, device=noise.device) * 2 - 1
        return torch.cat([noise, functional.one_hot(codes, self.num_codes).to(noise.dtype), continuous], 1)

    def codes(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the code numbers, (batch,), and continuous numbers, (batch, num_continuous), in latent numbers."""
        end = latents.shape[1] - self.num_continuous
        return latents[:, end - self.num_codes : end].argmax(1), latents[:, end:]

    def find_codes(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates codes from images: logits, (batch, num_codes), and means of the continuous numbers."""
        found: Tensor = self.code_head(self.discriminator.get_submodule("features")(images))
        return found[:, : self.num_codes], found[:, self.num_codes :]


def start_of(shape: tuple[int, int, int]) -> tuple[int, int]:
    """Returns the side that is left after halving an image while it is even and above 7, and the number of halvings."""
    side, halvings = shape[1], 0
    while side % 2 == 0 and side > 7:
        side, halvings = side // 2, halvings + 1
    return side, halvings


def check_size(model: str, input_shape: Sequence[int], small_input: bool) -> tuple[int, int, int]:
    """Returns `input_shape` if the network can make and judge such images; raises RlkitError if not."""
    shape = image_shape(model, input_shape)
    _, height, width = shape
    start, halvings = start_of(shape)
    if not small_input and (height, width) != (64, 64):
        raise RlkitError(f"{model} makes images of 64 x 64, not {height} x {width}: resize=64, or small_input=true")
    if height != width or halvings < 2 or start > 7:
        raise RlkitError(
            f"{model} can't make images of {height} x {width}: they must be square and 4 to 7 times a power of 2 "
            f"from 4 on, such as 28, 32 or 64 (resize)"
        )
    return shape


def init_dcgan(network: nn.Module) -> None:
    """Draws weights around 0, and γ of batch normalisation around 1, with standard deviation 0.02, as in the paper."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1, 0.02)


def _norm(norm: str, channels: int) -> list[nn.Module]:
    if norm == "none":
        return []
    return [nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(1, channels)]
