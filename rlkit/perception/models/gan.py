"""The base class of all GANs here, and a GAN whose generator and discriminator are MLPs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlkit.errors import check_choice, check_range
from rlkit.perception.models.mlp import hidden_layer


def with_labels(inputs: Tensor, labels: Tensor | None, num_classes: int) -> Tensor:
    """Appends one-hot labels to vectors, (batch, size), or as constant channels to images, (batch, channels, h, w)."""
    if labels is None or not num_classes:
        return inputs
    one_hot = functional.one_hot(labels, num_classes).to(inputs.dtype)
    if inputs.dim() == 4:
        one_hot = one_hot[:, :, None, None].expand(-1, -1, *inputs.shape[2:])
    return torch.cat([inputs, one_hot], 1)


class DenseGenerator(nn.Module):
    """A generator of linear layers; `bounded` puts its outputs into [−1, 1] by tanh."""

    def __init__(
        self,
        latent_size: int,
        hidden_sizes: Sequence[int],
        output_shape: Sequence[int],
        *,
        num_classes: int,
        bounded: bool,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        layers, size = [], latent_size + num_classes
        for hidden in hidden_sizes:
            layers += hidden_layer(size, hidden, "relu")
            size = hidden
        layers.append(nn.Linear(size, math.prod(output_shape)))
        self.layers = nn.Sequential(*layers, *([nn.Tanh()] if bounded else []), nn.Unflatten(1, tuple(output_shape)))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generates samples from latent numbers, (batch, latent_size), and (batch,) labels if it is conditional."""
        outputs: Tensor = self.layers(with_labels(latents, labels, self.num_classes))
        return outputs


class DenseDiscriminator(nn.Module):
    """A discriminator of linear layers; its output is the logit of "real", or a critic's score."""

    def __init__(
        self, input_shape: Sequence[int], hidden_sizes: Sequence[int], *, num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        layers, size = [], math.prod(input_shape) + num_classes
        for hidden in hidden_sizes:
            layers += hidden_layer(size, hidden, "leaky_relu", dropout)
            size = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(size, 1), nn.Flatten(0))

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """Returns a score per sample, given (batch,) labels if it is conditional: (batch, *input_shape) -> (batch,)."""
        outputs: Tensor = self.layers(with_labels(inputs.flatten(1), labels, self.num_classes))
        return outputs


class Adversaries(nn.Module):
    """A generator and a discriminator, with the distribution of the latent numbers that the generator starts from."""

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        *,
        latent_size: int,
        num_classes: int = 0,
        prior: str = "normal",
    ) -> None:
        super().__init__()
        check_range("latent_size", latent_size, 1)
        check_choice("prior", prior, ["normal", "uniform"])
        self.generator, self.discriminator = generator, discriminator
        self.latent_size, self.num_classes, self.prior = latent_size, num_classes, prior

    def draw_latents(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws latent numbers, (count, latent_size), from N(0, 1) or uniformly from [−1, 1], as `prior` says."""
        device = next(self.parameters()).device
        if self.prior == "uniform":
            return torch.rand(count, self.latent_size, generator=generator, device=device) * 2 - 1
        return torch.randn(count, self.latent_size, generator=generator, device=device)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generates samples from latent numbers, (batch, latent_size), and labels, (batch,), if it is conditional."""
        outputs: Tensor = self.generator(latents, labels)
        return outputs


class GAN(Adversaries):
    """A GAN of two MLPs (Goodfellow et al. 2014); `conditional` gives both of them the label (Mirza & Osindero 2014).

    Generated images are in [−1, 1], so that real ones need scale=signed; other data have no bounds.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (1, 28, 28),
        num_outputs: int = 10,
        latent_size: int = 64,
        hidden_sizes: Sequence[int] = (128, 256),
        discriminator_sizes: Sequence[int] = (256, 128),
        dropout: float = 0.0,
        conditional: bool = False,
        prior: str = "normal",
    ) -> None:
        classes = num_outputs if conditional else 0
        images = len(input_shape) == 3
        super().__init__(
            DenseGenerator(latent_size, hidden_sizes, input_shape, num_classes=classes, bounded=images),
            DenseDiscriminator(input_shape, discriminator_sizes, num_classes=classes, dropout=dropout),
            latent_size=latent_size,
            num_classes=classes,
            prior=prior,
        )
