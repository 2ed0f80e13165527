"""Distribution shift, its cost, and the part of it that weights win back, over five seeds with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rlkit.perception.shift import (
    confusion_matrix,
    density_ratio,
    effective_samples,
    label_ratio,
    reweighted_posterior,
)

T95 = 2.776
"""Student's t for a 95 % interval of the mean of five seeds."""


def covariate_shift(generator: torch.Generator) -> dict[str, float]:
    """Fits a line to a sine where x ~ N(0, 1), and returns its mean squared errors where x ~ N(1.5, 0.5²)."""

    def target(x: Tensor) -> Tensor:
        return torch.sin(x) + 0.1 * torch.randn(x.shape, generator=generator)

    old = torch.randn(1000, 1, generator=generator)
    new = 1.5 + 0.5 * torch.randn(1000, 1, generator=generator)
    y = target(old)
    # log q/p of two Gaussians is quadratic in x, so the classifier of old and new inputs gets x and x².
    weights = density_ratio(torch.cat([old, old**2], 1), torch.cat([new, new**2], 1))
    errors = {}
    for name, w in (("unweighted", torch.ones(1000)), ("weighted", weights)):
        design = torch.cat([old, torch.ones_like(old)], 1)
        line = torch.linalg.solve(design.T @ (w[:, None] * design), design.T @ (w[:, None] * y))
        errors[name] = float(((torch.cat([new, torch.ones_like(new)], 1) @ line - target(new)) ** 2).mean())
    return {**errors, "effective samples": effective_samples(weights)}


def label_shift(generator: torch.Generator) -> dict[str, float]:
    """Trains on three overlapping classes of equal size; returns accuracies where their sizes are 85 : 10 : 5."""
    centers = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])

    def draw(count: int, shares: list[float]) -> tuple[Tensor, Tensor]:
        labels = torch.multinomial(torch.tensor(shares), count, replacement=True, generator=generator)
        return centers[labels] + torch.randn(count, 2, generator=generator), labels

    x, labels = draw(2000, [1.0, 1.0, 1.0])
    held_out, held_out_labels = draw(2000, [1.0, 1.0, 1.0])
    new, new_labels = draw(2000, [0.85, 0.10, 0.05])
    model = nn.Linear(2, 3)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=100)

    def closure() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), labels)
        torch.autograd.backward(loss)
        return float(loss.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        confusion = confusion_matrix(model(held_out).argmax(1), held_out_labels, 3)
        probabilities = model(new).softmax(1)
    ratio = label_ratio(confusion, probabilities.argmax(1))
    corrected = reweighted_posterior(probabilities, ratio)
    return {
        "uncorrected": float((probabilities.argmax(1) == new_labels).double().mean()),
        "corrected": float((corrected.argmax(1) == new_labels).double().mean()),
        "estimated share of class 0": float(ratio[0] / 3),
    }


def report(title: str, experiment: Callable[[torch.Generator], dict[str, float]]) -> None:
    """Prints the mean and the 95 % interval over five seeds of each of an experiment's results."""
    results = [experiment(torch.Generator().manual_seed(seed)) for seed in range(5)]
    print(title)
    for name in results[0]:
        values = torch.tensor([result[name] for result in results])
        print(f"  {name:28} {values.mean():8.3f} ± {T95 * float(values.std()) / math.sqrt(5):.3f}")


if __name__ == "__main__":
    report("covariate shift: mean squared error where the line is used", covariate_shift)
    report("label shift: accuracy where the classifier is used", label_shift)
