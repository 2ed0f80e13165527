"""Self-attention over the pixels of a feature map, and the GAN that uses it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from rlkit.perception.models.dcgan import check_size, init_dcgan, start_of
from rlkit.perception.models.gan import Adversaries, with_labels


class SelfAttention(nn.Module):
    """x + γ · attention(x): every pixel looks at all others; γ starts at 0 (Zhang et al. 2019).

    (batch, channels, h, w) -> the same shape.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        small = max(1, channels // 8)
        self.query, self.key = nn.Conv2d(channels, small, 1), nn.Conv2d(channels, small, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def weights(self, images: Tensor) -> Tensor:
        """How much pixel i takes from pixel j: (batch, h · w, h · w), rows add up to 1."""
        query, key = self.query(images).flatten(2), self.key(images).flatten(2)  # (batch, channels/8, h · w)
        weights: Tensor = (query.transpose(1, 2) @ key).softmax(2)
        return weights

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, h, w) -> the same shape."""
        values = self.value(images).flatten(2)  # (batch, channels, h · w)
        attended = values @ self.weights(images).transpose(1, 2)
        added: Tensor = self.gamma * attended.view_as(images)
        return images + added


class SAGenerator(nn.Module):
    """Doubles the image like DCGAN's, with attention before the last doubling."""

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
        """(batch, latent_size), and (batch,) labels if it is conditional -> (batch, *output_shape) in [−1, 1]."""
        outputs: Tensor = self.layers(with_labels(latents, labels, self.num_classes)[:, :, None, None])
        return outputs


class SADiscriminator(nn.Module):
    """Halves the image, with attention behind the first halving; spectral norms of 1 keep it nearly 1-Lipschitz."""

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
        """(batch, *input_shape), and (batch,) labels if it is conditional -> (batch,)."""
        scores: Tensor = self.layers(with_labels(images, labels, self.num_classes))
        return scores


class SelfAttentionGAN(Adversaries):
    """SAGAN at a size for 28 × 28 to 64 × 64; train it with `objective=hinge`. Raises RlkitError for other sizes."""

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
    """Divides each layer's weights by their largest singular value, which every forward pass in training refines."""
    for layer in list(network.modules()):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            spectral_norm(layer)
