"""Losses of generative models, as pure functions of tensors. Means are over the batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from rlkit.errors import unknown

# Autoencoders


def reconstruction_loss(logits: Tensor, images: Tensor, kind: str = "bce") -> Tensor:
    """Reconstruction loss of an image, summed over its pixels.

    `kind` is `bce`, the cross-entropy of the logits in nats, or `mse`, the squared error of their sigmoid. Raises
    RlkitError for others.
    """
    if kind == "bce":
        return functional.binary_cross_entropy_with_logits(logits, images, reduction="sum") / len(images)
    if kind == "mse":
        return ((logits.sigmoid() - images) ** 2).sum() / len(images)
    raise unknown("loss", kind, ["bce", "mse"])


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence KL(N(μ, σ²) ‖ N(0, 1)) = −log σ + ½σ² + ½μ² − ½, summed over latent numbers: (batch,)."""
    return (-0.5 * log_variance + 0.5 * log_variance.exp() + 0.5 * mean**2 - 0.5).sum(1)


def elbo(logits: Tensor, images: Tensor, mean: Tensor, log_variance: Tensor, beta: float = 1.0) -> Tensor:
    """Evidence lower bound E[log p(x|z)] − β KL(q(z|x) ‖ p(z)) with Bernoulli pixels, in nats.

    For β = 1 it is a lower bound of log p(x).
    """
    return -reconstruction_loss(logits, images) - beta * gaussian_kl(mean, log_variance).mean()


def contractive_penalty(encode: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Contractive penalty Σ (∂z_j/∂x_i)², large if latent numbers change much with the pixels (Rifai et al. 2011).

    It takes a backward pass for each latent number.
    """
    images = images.detach().requires_grad_()
    latents = encode(images)
    penalty = torch.zeros((), device=images.device)
    for j in range(latents.shape[1]):
        (gradient,) = torch.autograd.grad(latents[:, j].sum(), images, create_graph=True)
        penalty = penalty + (gradient**2).sum()
    return penalty / len(images)


# Adversaries: `real` and `fake` are the discriminator's outputs for real and generated samples, of any shape.


def discriminator_loss(real: Tensor, fake: Tensor, objective: str = "non_saturating") -> Tensor:
    """Loss of a discriminator or critic.

    `minimax` and `non_saturating` are −log D(real) − log(1 − D(fake)), where D is the sigmoid of the output;
    `wasserstein` is D(fake) − D(real). `hinge` wants outputs above 1 for real and below −1 for generated samples.
    `least_squares` is half the squared distance of the outputs from 1 and 0. Raises RlkitError for others.
    """
    if objective in ("minimax", "non_saturating"):
        return functional.softplus(-real).mean() + functional.softplus(fake).mean()
    if objective == "wasserstein":
        return fake.mean() - real.mean()
    if objective == "hinge":
        return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
    if objective == "least_squares":
        return 0.5 * ((real - 1) ** 2).mean() + 0.5 * (fake**2).mean()
    raise unknown("objective", objective, OBJECTIVES)


def generator_loss(fake: Tensor, objective: str = "non_saturating") -> Tensor:
    """Loss of a generator, which is small if the discriminator takes its samples for real.

    `minimax` is log(1 − D(fake)), whose gradient vanishes where D is sure; `non_saturating` is −log D(fake), where D is
    the sigmoid of the output. `wasserstein` and `hinge` are −D(fake). `least_squares` is half the squared distance of
    the output from 1. Raises RlkitError for others.
    """
    if objective == "minimax":
        return -functional.softplus(fake).mean()
    if objective == "non_saturating":
        return functional.softplus(-fake).mean()
    if objective in ("wasserstein", "hinge"):
        return -fake.mean()
    if objective == "least_squares":
        return 0.5 * ((fake - 1) ** 2).mean()
    raise unknown("objective", objective, OBJECTIVES)


OBJECTIVES = ("minimax", "non_saturating", "wasserstein", "hinge", "least_squares")
"""Objectives that `discriminator_loss` and `generator_loss` know."""


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Gradient penalty (‖∇D(x̂)‖₂ − 1)² at x̂ = t · real + (1 − t) · fake (Gulrajani et al. 2017).

    Each sample has a t of its own, uniform in [0, 1].
    """
    shape = (len(real), *[1] * (real.dim() - 1))
    t = torch.rand(shape, generator=generator, device=real.device, dtype=real.dtype)
    between = (t * real + (1 - t) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    norms: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return ((norms - 1) ** 2).mean()


def information_loss(logits: Tensor, means: Tensor, codes: Tensor, continuous: Tensor) -> Tensor:
    """Loss −E[log Q(c|x)] of finding InfoGAN's codes, without constants.

    It is the cross-entropy of the `logits` for the `codes`, plus half the squared errors of the `means` of the
    `continuous` numbers.
    """
    return functional.cross_entropy(logits, codes) + 0.5 * ((means - continuous) ** 2).sum(1).mean()


def information_bound(cross_entropy: float, num_codes: int) -> float:
    """Lower bound of the mutual information of code and image, H(c) − E[−log Q(c|x)], in nats.

    All `num_codes` codes are equally likely.
    """
    return math.log(num_codes) - cross_entropy


def cycle_loss(images: Tensor, back: Tensor) -> Tensor:
    """Cycle consistency loss |x − G(F(x))|, the mean over pixels; `back` is G(F(x))."""
    return (images - back).abs().mean()
