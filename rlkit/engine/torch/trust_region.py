"""Mathematics of trust-region steps: conjugate gradients, and products with the Fisher matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def conjugate_gradient(product: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """Solves A x = b for a symmetric positive definite A, which is given as a function: its `product` with a vector.

    Apart from rounding, the solution is exact after as many iterations as A has rows. It stops early once the residual
    has vanished.
    """
    x = torch.zeros_like(b)
    residual, direction = b.clone(), b.clone()
    squares = residual @ residual
    for _ in range(iterations):
        if squares < 1e-10:
            break
        image = product(direction)
        length = squares / (direction @ image)
        x += length * direction
        residual -= length * image
        before, squares = squares, residual @ residual
        direction = residual + (squares / before) * direction
    return x


def flat_gradient(output: Tensor, parameters: Sequence[Tensor], *, differentiable: bool = False) -> Tensor:
    """Computes the derivatives of a scalar by all parameters, as one flat vector; keeps the graph for further calls.

    They are zero for parameters that the scalar does not depend on, as a network of the user's own may have.
    """
    gradients = torch.autograd.grad(
        output, list(parameters), retain_graph=True, create_graph=differentiable, materialize_grads=True
    )
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


def hessian_product(output: Tensor, parameters: Sequence[Tensor], damping: float) -> Callable[[Tensor], Tensor]:
    """Returns a function that multiplies a vector by H + `damping` · I, where H are a scalar's second derivatives.

    For the KL divergence from the policy to itself, H is the Fisher matrix.
    """
    gradient = flat_gradient(output, parameters, differentiable=True)
    return lambda vector: flat_gradient(gradient @ vector, parameters) + damping * vector


def natural_step(
    objective: Tensor, divergence: Tensor, parameters: Sequence[Tensor], limit: float, iterations: int, damping: float
) -> Tensor:
    """The step along the natural gradient of `objective` that changes the policy by a KL divergence of `limit`.

    `divergence` is that of the policy from itself, 0, whose second derivatives are the Fisher matrix F. To second order
    a step x changes the policy by ½ xᵀFx. `iterations` and `damping` are those of the conjugate gradients.
    """
    gradient = flat_gradient(objective, parameters)
    fisher = hessian_product(divergence, parameters, damping)
    direction = conjugate_gradient(fisher, gradient, iterations)
    curvature = direction @ fisher(direction)
    return direction * (2 * limit / (curvature + 1e-12)).sqrt()


def assign(parameters: Sequence[Tensor], flat: Tensor) -> None:
    """Copies a flat vector into the parameters, in place, since engines hold views of their memory."""
    with torch.no_grad():
        for parameter, part in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
            parameter.copy_(part.view_as(parameter))
