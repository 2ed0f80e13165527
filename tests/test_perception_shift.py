"""Weights against distribution shift: exact where the truth is known, and a gain over seeds in the example."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlkit.errors import RlkitError
from rlkit.perception.shift import (
    confusion_matrix,
    density_ratio,
    effective_samples,
    label_ratio,
    reweighted_posterior,
)

EXAMPLE = Path(__file__).parent.parent / "examples/distribution_shift.py"


def normal(mean: float, count: int, seed: int) -> Tensor:
    return mean + torch.randn(count, 1, generator=torch.Generator().manual_seed(seed))


def test_density_ratio_of_two_gaussians() -> None:
    """N(1, 1) over N(0, 1) is exp(x − ½): what a linear classifier can say exactly, whatever the counts are."""
    old, new = normal(0, 4000, 0), normal(1, 2000, 1)
    weights = density_ratio(old, new, weight_decay=0, limit=1e6)
    exact = torch.exp(old[:, 0] - 0.5)
    exact /= exact.mean()
    assert weights.mean().item() == pytest.approx(1)
    near = old[:, 0].abs() < 2
    assert ((weights - exact).abs() / exact)[near].max() < 0.25
    assert (weights * old[:, 0]).mean().item() == pytest.approx(1, abs=0.1)  # importance sampling: the new mean


def test_density_ratio_is_bounded_and_one_without_shift() -> None:
    old = normal(0, 500, 0)
    torch.testing.assert_close(density_ratio(old, old), torch.ones(500), atol=0.02, rtol=0)
    weights = density_ratio(old, normal(6, 500, 1), weight_decay=0, limit=5)
    assert weights.max() / weights.min() > 5
    assert effective_samples(weights) < 100


def test_density_ratio_takes_a_model_of_ones_own() -> None:
    torch.manual_seed(0)
    old, new = torch.randn(1000, 1), 0.3 * torch.randn(1000, 1)  # same mean: a line can't tell them apart
    model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    weights = density_ratio(old, new, model=model)
    middle, outside = weights[old[:, 0].abs() < 0.3].mean(), weights[old[:, 0].abs() > 1.5].mean()
    assert middle > 20 * outside
    plain = density_ratio(old, new)
    assert (plain - 1).abs().max() < 0.5


def test_inputs_that_do_not_go_together_are_an_error() -> None:
    with pytest.raises(RlkitError, match=r"not \[5, 2\] and \[5, 3\]"):
        density_ratio(torch.zeros(5, 2), torch.zeros(5, 3))
    with pytest.raises(RlkitError, match="rows of one shape"):
        density_ratio(torch.zeros(0, 2), torch.zeros(5, 2))


def test_confusion_matrix() -> None:
    matrix = confusion_matrix(torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 1, 1, 0]), 2)
    assert matrix.tolist() == [[0.2, 0.2], [0.2, 0.4]]


def test_label_ratio_is_exact_for_exact_shares() -> None:
    """Predicted shares under q are C w: made from w = (1.7, 0.3), they give it back."""
    confusion = torch.tensor([[0.4, 0.1], [0.1, 0.4]], dtype=torch.float64)
    w = torch.tensor([1.7, 0.3], dtype=torch.float64)
    shares = confusion @ w
    predicted = torch.cat(
        [torch.zeros(round(float(shares[0]) * 100)), torch.ones(round(float(shares[1]) * 100))]
    ).long()
    torch.testing.assert_close(label_ratio(confusion, predicted), w)


def test_label_ratio_is_never_negative_and_refuses_useless_models() -> None:
    confusion = torch.tensor([[0.4, 0.1], [0.1, 0.4]], dtype=torch.float64)
    assert label_ratio(confusion, torch.zeros(10).long()).min() == 0
    with pytest.raises(RlkitError, match="confusion matrix is singular"):
        label_ratio(torch.full((2, 2), 0.25, dtype=torch.float64), torch.zeros(10).long())


def test_reweighted_posterior_is_bayes_rule() -> None:
    """p(y|x) ∝ p(x|y)p(y): with q(y) instead of p(y) every class weighs q/p."""
    likelihood, p, q = torch.tensor([0.2, 0.6]), torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
    old = likelihood * p / (likelihood * p).sum()
    new = likelihood * q / (likelihood * q).sum()
    torch.testing.assert_close(reweighted_posterior(old[None], q / p)[0], new)


def test_effective_samples() -> None:
    assert effective_samples(torch.ones(7)) == pytest.approx(7)
    assert effective_samples(torch.tensor([1.0, 0.0, 0.0])) == pytest.approx(1)


@pytest.mark.parametrize(
    ("experiment", "before", "after", "gain"),
    [("covariate_shift", "unweighted", "weighted", -0.03), ("label_shift", "uncorrected", "corrected", 0.08)],
)
def test_the_example_gains_for_every_seed(experiment: str, before: str, after: str, gain: float) -> None:
    run: Callable[[torch.Generator], dict[str, Any]] = runpy.run_path(str(EXAMPLE))[experiment]
    results = [run(torch.Generator().manual_seed(seed)) for seed in range(5)]
    differences = [result[after] - result[before] for result in results]
    assert all(difference / gain > 0.5 for difference in differences)
    assert sum(differences) / 5 / gain > 1
