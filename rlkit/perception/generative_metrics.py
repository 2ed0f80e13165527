"""Measures of generated samples: Fréchet distance, inception score, coverage of a mixture's modes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.errors import RlkitError


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Fréchet distance ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) of two sets of features (Heusel et al. 2017).

    `real` and `fake` are (samples, features). It is the squared 2-Wasserstein distance of normal distributions with
    these means and covariances. Few samples bias it upwards, so compare equal numbers. Raises RlkitError for fewer
    than 2.
    """
    if min(len(real), len(fake)) < 2:
        raise RlkitError(f"the Fréchet distance needs 2 samples of each kind, but got {len(real)} and {len(fake)}")
    real, fake = real.double(), fake.double()
    mean_real, mean_fake = real.mean(0), fake.mean(0)
    cov_real, cov_fake = (torch.cov(features.T).reshape(features.shape[1], -1) for features in (real, fake))
    # tr (Σ₁Σ₂)^½ is computed from Σ₁^½ Σ₂ Σ₁^½, which has the same eigenvalues and is symmetric.
    values, vectors = torch.linalg.eigh(cov_real)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_fake @ root).clamp(min=0).sqrt().sum()
    distance = ((mean_real - mean_fake) ** 2).sum() + cov_real.trace() + cov_fake.trace() - 2 * cross
    return max(0.0, float(distance))


def inception_score(probabilities: Tensor) -> float:
    """Inception score exp E[KL(p(y|x) ‖ p(y))], between 1 and the number of classes (Salimans et al. 2016).

    `probabilities` are a classifier's, (samples, classes). The score is large if every sample is surely of one class
    and all classes occur.
    """
    p = probabilities.double()
    kl = (torch.special.xlogy(p, p) - torch.special.xlogy(p, p.mean(0))).sum(1)
    return float(kl.mean().exp())


class Modes(NamedTuple):
    """Coverage of a mixture's modes by samples."""

    covered: int
    """Number of modes that have near them at least a quarter of the samples that are due to each."""
    share_near: float
    """Share of the samples that are near any mode."""


def mode_coverage(samples: Tensor, centers: Tensor, std: float) -> Modes:
    """Counts the modes of a mixture of Gaussians that samples cover; near a mode is within 4 standard deviations.

    `samples` is (count, dims), `centers` is (modes, dims), and `std` is that of every mode along one axis.
    """
    distances, nearest = torch.cdist(samples.double(), centers.double()).min(1)
    near = distances <= 4 * std
    counts = torch.bincount(nearest[near], minlength=len(centers))
    covered = int((counts >= len(samples) / len(centers) / 4).sum())
    return Modes(covered, float(near.double().mean()))
