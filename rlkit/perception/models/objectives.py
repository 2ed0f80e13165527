"""What generative models are trained for: pure functions of tensors. Means are over the batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from rlkit.errors import unknown

# Autoencoders


def reconstruction_loss(logits: Tensor, images: Tensor, kind: str = "bce") -> Tensor:
    """Summed over pixels: cross-entropy of the logits, in nats (`bce`), or squared error of their sigmoid (`mse`)."""
    if kind == "bce":
        return functional.binary_cross_entropy_with_logits(logits, images, reduction="sum") / len(images)
    if kind == "mse":
        return ((logits.sigmoid() - images) ** 2).sum() / len(images)
    raise unknown("loss", kind, ["bce", "mse"])


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) = −log σ + ½σ² + ½μ² − ½, summed over latent numbers: (batch,)."""
    return (-0.5 * log_variance + 0.5 * log_variance.exp() + 0.5 * mean**2 - 0.5).sum(1)


def elbo(logits: Tensor, images: Tensor, mean: Tensor, log_variance: Tensor, beta: float = 1.0) -> Tensor:
    """E[log p(x|z)] − β KL(q(z|x) ‖ p(z)) with Bernoulli pixels, in nats: a bound of log p(x) from below for β = 1."""
    return -reconstruction_loss(logits, images) - beta * gaussian_kl(mean, log_variance).mean()


def contractive_penalty(encode: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Σ (∂z_j/∂x_i)²: how much latent numbers change with the pixels (Rifai et al. 2011); a pass for each."""
    images = images.detach().requires_grad_()
    latents = encode(images)
    penalty = torch.zeros((), device=images.device)
    for j in range(latents.shape[1]):
        (gradient,) = torch.autograd.grad(latents[:, j].sum(), images, create_graph=True)
        penalty = penalty + (gradient**2).sum()
    return penalty / len(images)


# Adversaries: `real` and `fake` are the discriminator's outputs, (batch,) or any shape.


def discriminator_loss(real: Tensor, fake: Tensor, objective: str = "non_saturating") -> Tensor:
    """What the discriminator makes small.

    `minimax` and `non_saturating`: −log D(real) − log(1 − D(fake)); `wasserstein`: D(fake) − D(real); `hinge`: both
    margins of 1; `least_squares`: to 1 and 0. Raises RlkitError for others.
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
    """What the generator makes small.

    `minimax`: log(1 − D(fake)), whose gradient vanishes where D is sure; `non_saturating`: −log D(fake); `wasserstein`
    and `hinge`: −D(fake); `least_squares`: to 1. Raises RlkitError for others.
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


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """(‖∇D(x̂)‖₂ − 1)² at x̂ = t · real + (1 − t) · fake, t uniform per sample (Gulrajani et al. 2017)."""
    shape = (len(real), *[1] * (real.dim() - 1))
    t = torch.rand(shape, generator=generator, device=real.device, dtype=real.dtype)
    between = (t * real + (1 - t) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    norms: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return ((norms - 1) ** 2).mean()


def information_loss(logits: Tensor, means: Tensor, codes: Tensor, continuous: Tensor) -> Tensor:
    """−E[log Q(c|x)] without constants: cross-entropy of the codes, and ½(error)² of the continuous numbers."""
    return functional.cross_entropy(logits, codes) + 0.5 * ((means - continuous) ** 2).sum(1).mean()


def information_bound(cross_entropy: float, num_codes: int) -> float:
    """A bound from below of the mutual information of code and image: H(c) − E[−log Q(c|x)], in nats."""
    return math.log(num_codes) - cross_entropy


def cycle_loss(images: Tensor, back: Tensor) -> Tensor:
    """|x − G(F(x))|, the mean over pixels."""
    return (images - back).abs().mean()
