"""The variational autoencoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlkit.errors import check_range
from rlkit.perception.models.coders import conv_decoder, conv_encoder, dense_decoder, dense_encoder


class VAE(nn.Module):
    """A variational autoencoder: it encodes to a normal distribution and decodes a draw (Kingma & Welling 2014).

    The default has linear layers of the sizes 784-128-(20, 20)-128-784. `channels` makes it convolutional, with a
    convolution for each of them that halves the image. Raises RlkitError for fields that cannot work.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (1, 28, 28),
        latent_size: int = 20,
        hidden_sizes: Sequence[int] = (128,),
        channels: Sequence[int] = (),
    ) -> None:
        super().__init__()
        check_range("latent_size", latent_size, 1)
        if channels:
            self.encoder = conv_encoder("vae", input_shape, channels, 2 * latent_size, 0.0)
            self.decoder = conv_decoder("vae", latent_size, channels, input_shape, 0.0)
        else:
            self.encoder = dense_encoder(input_shape, hidden_sizes, 2 * latent_size, 0.0)
            self.decoder = dense_decoder(latent_size, hidden_sizes, input_shape, 0.0)
        self.input_shape, self.feature_size = tuple(input_shape), latent_size

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and log variance of q(z|x), each (batch, latent_size), for images (batch, *input_shape)."""
        mean, log_variance = self.encoder(images).chunk(2, 1)
        return mean, log_variance

    def encode(self, images: Tensor) -> Tensor:
        """Returns the posterior's mean: (batch, *input_shape) -> (batch, latent_size)."""
        return self.posterior(images)[0]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns logits of the pixels from one draw of z, and the posterior's mean and log variance."""
        mean, log_variance = self.posterior(images)
        return self.decoder(reparameterize(mean, log_variance)), mean, log_variance


def reparameterize(mean: Tensor, log_variance: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws z = μ + σ ⊙ ε with ε ~ N(0, I), so that gradients flow through the draw to μ and to σ = exp(½ log σ²)."""
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + (0.5 * log_variance).exp() * noise
