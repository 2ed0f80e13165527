"""Self-attention over the pixels of a feature map, and a GAN that uses it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from rlkit.perception.models.dcgan import check_size, init_dcgan, start_of
from rlkit.perception.models.gan import Adversaries, with_labels


class SelfAttention(nn.Module):
    """Self-attention x + γ · attention(x), in which every pixel looks at all others (Zhang et al. 2019).

    γ is learned and starts at 0, so that the layer begins as the identity. The output has the shape of the input,
    (batch, channels, h, w).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        small = max(1, channels // 8)
        self.query, self.key = nn.Conv2d(channels, small, 1), nn.Conv2d(channels, small, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def weights(self, images: Tensor) -> Tensor:
        """Returns the weight of pixel j for pixel i, (batch, h · w, h · w); each row adds up to 1."""
        query, key = self.query(images).flatten(2), self.key(images).flatten(2)  # (batch, channels/8, h · w)
        weights: Tensor = (query.transpose(1, 2) @ key).softmax(2)
        return weights

    def forward(self, images: Tensor) -> Tensor:
        """Returns the layer's output: (batch, channels, h, w) -> (batch, channels, h, w)."""
        values = self.value(images).flatten(2)  # (batch, channels, h · w)
        attended = values @ self.weights(images).transpose(1, 2)
        added: Tensor = self.gamma * attended.view_as(images)
        return images + added


class SAGenerator(nn.Module):
    """A generator that doubles the image like DCGAN's, with attention before the last doubling."""

    def __init__(self, latent_size: int, output_shape: tuple[int, int, int], width: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        start, doublings = start_of(output_shape)
        channels = width * 2 ** (doublings - 1)
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(latent_size + num_classes, channels, start, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
        for _ in range(doublings - 1):
            up = nn.ConvTranspose2d(channels, channels // 2, 4, 2, padding=1, bias=False)
            layers += [up, nn.BatchNorm2d(channels // 2), nn.ReLU()]
            channels //= 2
        layers += [SelfAttention(channels), nn.ConvTranspose2d(channels, output_shape[0], 4, 2, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        init_dcgan(self)
        _normalise_spectrally(self)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generates images in [−1, 1] from latent numbers, (batch, latent_size), and labels if it is conditional."""
        outputs: Tensor = self.layers(with_labels(latents, labels, self.num_classes)[:, :, None, None])
        return outputs


class SADiscriminator(nn.Module):
    """A discriminator that halves the image repeatedly, with attention behind the first halving.

    Spectral normalisation keeps it nearly 1-Lipschitz.
    """

    def __init__(self, input_shape: tuple[int, int, int], width: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        start, halvings = start_of(input_shape)
        channels = input_shape[0] + num_classes
        layers: list[nn.Module] = []
        for i in range(halvings):
            layers += [nn.Conv2d(channels, width * 2**i, 4, 2, padding=1), nn.LeakyReLU(0.2)]
            channels = width * 2**i
            if i == 0:
                layers.append(SelfAttention(channels))
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * start**2, 1), nn.Flatten(0))
        init_dcgan(self)
        _normalise_spectrally(self)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Returns a score per sample, given (batch,) labels if it is conditional: (batch, *input_shape) -> (batch,)."""
        scores: Tensor = self.layers(with_labels(images, labels, self.num_classes))
        return scores


class SelfAttentionGAN(Adversaries):
    """SAGAN for images of 28 × 28 to 64 × 64; train it with `objective=hinge`. Raises RlkitError for other sizes."""

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (1, 28, 28),
        num_outputs: int = 10,
        latent_size: int = 64,
        width: int = 32,
        conditional: bool = False,
    ) -> None:
        shape = check_size("self_attention_gan", input_shape, small_input=True)
        classes = num_outputs if conditional else 0
        super().__init__(
            SAGenerator(latent_size, shape, width, classes),
            SADiscriminator(shape, width, classes),
            latent_size=latent_size,
            num_classes=classes,
        )


def _normalise_spectrally(network: nn.Module) -> None:
    """Makes each layer divide its weights by their largest singular value, estimated anew in every training step."""
    for layer in list(network.modules()):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            spectral_norm(layer)
