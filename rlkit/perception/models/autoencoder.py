"""Autoencoders, which encode an image as few numbers and decode it again.

Denoising and contractive autoencoders have these networks too; only their losses differ.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from rlkit.errors import check_range
from rlkit.perception.models.coders import conv_decoder, conv_encoder, dense_decoder, dense_encoder
from rlkit.perception.models.mlp import hidden_layer


class Autoencoder(nn.Module):
    """An autoencoder of linear layers, or with `channels` of convolutions, each of which halves the image.

    The default has the sizes 784-256-128-20-128-256-784. `dropout` acts behind every hidden layer, which makes it a
    dropout autoencoder. Raises RlkitError for fields that cannot work.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (1, 28, 28),
        latent_size: int = 20,
        hidden_sizes: Sequence[int] = (256, 128),
        channels: Sequence[int] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_range("latent_size", latent_size, 1)
        if channels:
            self.encoder = conv_encoder("autoencoder", input_shape, channels, latent_size, dropout)
            self.decoder = conv_decoder("autoencoder", latent_size, channels, input_shape, dropout)
        else:
            self.encoder = dense_encoder(input_shape, hidden_sizes, latent_size, dropout)
            self.decoder = dense_decoder(latent_size, hidden_sizes, input_shape, dropout)
        self.input_shape, self.feature_size = tuple(input_shape), latent_size

    def encode(self, images: Tensor) -> Tensor:
        """Returns the latent numbers of images: (batch, *input_shape) -> (batch, latent_size)."""
        latents: Tensor = self.encoder(images)
        return latents

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of the reconstructed pixels: (batch, *input_shape) -> (batch, *input_shape)."""
        logits: Tensor = self.decoder(self.encode(images))
        return logits


class AdversarialAutoencoder(nn.Module):
    """An autoencoder, and a discriminator that tells its latent numbers from normal ones (Makhzani et al. 2015).

    When the discriminator is deceived, latent numbers are normally distributed, so that decoding normal random numbers
    generates images like the data.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (1, 28, 28),
        latent_size: int = 8,
        hidden_sizes: Sequence[int] = (256, 128),
        channels: Sequence[int] = (),
        dropout: float = 0.0,
        discriminator_sizes: Sequence[int] = (128, 64),
    ) -> None:
        super().__init__()
        self.autoencoder = Autoencoder(
            input_shape=input_shape,
            latent_size=latent_size,
            hidden_sizes=hidden_sizes,
            channels=channels,
            dropout=dropout,
        )
        layers, size = [], latent_size
        for hidden in discriminator_sizes:
            layers += hidden_layer(size, hidden, "leaky_relu")
            size = hidden
        self.discriminator = nn.Sequential(
            *layers, nn.Linear(size, 1), nn.Flatten(0)
        )  # (batch, latent_size) -> (batch,)
        self.input_shape, self.feature_size = tuple(input_shape), latent_size

    def encode(self, images: Tensor) -> Tensor:
        """Returns the latent numbers of images: (batch, *input_shape) -> (batch, latent_size)."""
        return self.autoencoder.encode(images)

    def decoder(self, latents: Tensor) -> Tensor:
        """Returns the logits of the pixels: (batch, latent_size) -> (batch, *input_shape)."""
        logits: Tensor = self.autoencoder.decoder(latents)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of the reconstructed pixels: (batch, *input_shape) -> (batch, *input_shape)."""
        logits: Tensor = self.autoencoder(images)
        return logits
