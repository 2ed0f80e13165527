"""Distances between discrete distributions by their definitions, which the objectives of GANs estimate."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def entropy(p: Array, base: float = np.e) -> float:
    """Entropy −Σ p log p of a discrete distribution; base 2 gives bits."""
    return float(-np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum() / np.log(base))


def kl(p: Array, q: Array) -> float:
    """Kullback-Leibler divergence Σ p log(p/q), in nats; infinite if q is 0 anywhere that p is not."""
    if np.any((p > 0) & (q == 0)):
        return float("inf")
    where = p > 0
    return float((p[where] * np.log(p[where] / q[where])).sum())


def jensen_shannon(p: Array, q: Array) -> float:
    """Jensen-Shannon divergence ½KL(p ‖ m) + ½KL(q ‖ m) with m = ½(p + q).

    Its largest value, log 2, is that of any two distributions that do not overlap.
    """
    middle = (p + q) / 2
    return (kl(p, middle) + kl(q, middle)) / 2


def optimal_discriminator(real: Array, fake: Array) -> Array:
    """Discriminator D*(x) = p_r(x) / (p_r(x) + p_g(x)) that maximises `gan_value` against a fixed generator.

    It is ½ where both are 0.
    """
    total = real + fake
    return np.where(total > 0, real / np.where(total > 0, total, 1), 0.5)


def gan_value(discriminator: Array, real: Array, fake: Array) -> float:
    """Value E_r[log D] + E_g[log(1 − D)] of a GAN's game, over the points of a discrete distribution."""
    with np.errstate(divide="ignore"):
        log_d, log_not_d = np.log(discriminator), np.log1p(-discriminator)
    return float(np.where(real > 0, real * log_d, 0).sum() + np.where(fake > 0, fake * log_not_d, 0).sum())


def earth_mover(p: Array, q: Array, places: Array) -> float:
    """Earth mover's, or 1-Wasserstein, distance ∫ |F_p − F_q| of two distributions on the same `places` of a line."""
    order = np.argsort(places)
    gaps = np.diff(places[order])
    return float((np.abs(np.cumsum((p - q)[order]))[:-1] * gaps).sum())
