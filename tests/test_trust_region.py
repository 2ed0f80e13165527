"""Conjugate gradients and Fisher products, against linear algebra and closed forms."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces

from rlkit.engine.torch.trust_region import assign, conjugate_gradient, flat_gradient, hessian_product
from rlkit.networks.heads import make_head
from rlkit.setting import NetworkConfig


def test_conjugate_gradients_solve_a_linear_system_in_as_many_steps_as_it_has_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    matrix = root @ root.T + 0.1 * torch.eye(6)
    b = torch.randn(6, generator=generator, dtype=torch.float64)
    exact = torch.linalg.solve(matrix, b)
    torch.testing.assert_close(conjugate_gradient(lambda v: matrix @ v, b, 6), exact)
    early = conjugate_gradient(lambda v: matrix @ v, b, 3)
    assert (matrix @ early - b).norm() > 1e-3
    assert not conjugate_gradient(lambda v: matrix @ v, torch.zeros(6), 6).any()


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_the_fisher_matrix_of_a_softmax_is_known(damping: float) -> None:
    """diag(p) - p pᵀ, by the logits."""
    logits = torch.tensor([[0.3, -1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    head = make_head(spaces.Discrete(3), NetworkConfig())
    product = hessian_product(head.kl(logits.detach(), logits).mean(), [logits], damping)
    p = logits.detach().softmax(1)[0]
    expected = p.diag() - torch.outer(p, p) + damping * torch.eye(3)
    for row, unit in zip(expected, torch.eye(3, dtype=torch.float64), strict=True):
        torch.testing.assert_close(product(unit), row)


def test_the_fisher_matrix_of_a_gaussian_is_known() -> None:
    """1/σ² by the mean, 2 by the logarithm of σ, and nothing between them."""
    params = torch.tensor([[0.7, -0.4]], dtype=torch.float64, requires_grad=True)
    head = make_head(spaces.Box(-1, 1, (1,)), NetworkConfig())
    product = hessian_product(head.kl(params.detach(), params).mean(), [params], 0.0)
    expected = torch.tensor([torch.exp(torch.tensor(0.8)), 2.0], dtype=torch.float64).diag()
    for row, unit in zip(expected, torch.eye(2, dtype=torch.float64), strict=True):
        torch.testing.assert_close(product(unit), row, rtol=1e-6, atol=1e-12)


def test_flat_vectors_go_into_the_parameters_own_memory() -> None:
    first, second = torch.zeros(2, 2, requires_grad=True), torch.zeros(3, requires_grad=True)
    view = first.detach().numpy()
    assign([first, second], torch.arange(7.0))
    assert view.tolist() == [[0, 1], [2, 3]]
    gradient = flat_gradient((first**2).sum() + 3 * second.sum(), [first, second])
    assert gradient.tolist() == [0, 2, 4, 6, 3, 3, 3]
