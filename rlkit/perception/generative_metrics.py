"""How good generated samples are: Fréchet distance, inception score, modes of a mixture that are found."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.errors import RlkitError


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) of two sets of features, (samples, features) (Heusel et al. 2017).

    The squared 2-Wasserstein distance of normal distributions with these means and covariances. Few samples bias it
    upwards: compare equal numbers. Raises RlkitError for fewer than 2.
    """
    if min(len(real), len(fake)) < 2:
        raise RlkitError(f"the Fréchet distance needs 2 samples of each kind, but got {len(real)} and {len(fake)}")
    real, fake = real.double(), fake.double()
    mean_real, mean_fake = real.mean(0), fake.mean(0)
    cov_real, cov_fake = (torch.cov(features.T).reshape(features.shape[1], -1) for features in (real, fake))
    # tr (Σ₁Σ₂)^½ by the symmetric Σ₁^½ Σ₂ Σ₁^½, which has the same eigenvalues
    values, vectors = torch.linalg.eigh(cov_real)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_fake @ root).clamp(min=0).sqrt().sum()
    distance = ((mean_real - mean_fake) ** 2).sum() + cov_real.trace() + cov_fake.trace() - 2 * cross
    return max(0.0, float(distance))


def inception_score(probabilities: Tensor) -> float:
    """exp E[KL(p(y|x) ‖ p(y))] of a classifier's (samples, classes): between 1 and the number of classes.

    Large where each sample is surely of one class and all classes occur (Salimans et al. 2016).
    """
    p = probabilities.double()
    kl = (torch.special.xlogy(p, p) - torch.special.xlogy(p, p.mean(0))).sum(1)
    return float(kl.mean().exp())


class Modes(NamedTuple):
    """What of a mixture was found."""

    covered: int
    """Modes with at least a quarter of their share of the samples near them."""
    share_near: float
    """Samples near any mode, of all."""


def mode_coverage(samples: Tensor, centers: Tensor, std: float) -> Modes:
    """How many modes of a mixture of Gaussians samples cover; near a mode is within 4 standard deviations.

    `samples`: (count, dims), `centers`: (modes, dims).
    """
    distances, nearest = torch.cdist(samples.double(), centers.double()).min(1)
    near = distances <= 4 * std
    counts = torch.bincount(nearest[near], minlength=len(centers))
    covered = int((counts >= len(samples) / len(centers) / 4).sum())
    return Modes(covered, float(near.double().mean()))
