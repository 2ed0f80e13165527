"""Models with few parameters: a polynomial, a single convolution kernel, a point."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlkit.errors import RlkitError, check_range


class Polynomial(nn.Module):
    """A polynomial of one variable in [−1, 1], as a weighted sum of Chebyshev polynomials up to `degree`."""

    def __init__(self, *, degree: int = 3) -> None:
        super().__init__()
        check_range("degree", degree, 0)
        self.degree = degree
        self.weight = nn.Parameter(torch.zeros(degree + 1))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the polynomial's values: (batch, 1) -> (batch, 1)."""
        terms = [torch.ones_like(x), x]
        for _ in range(2, self.degree + 1):
            terms.append(2 * x * terms[-1] - terms[-2])  # T(n+1) = 2 x T(n) − T(n−1)
        return torch.cat(terms[: self.degree + 1], 1) @ self.weight.unsqueeze(1)


class Kernel(nn.Module):
    """A single kernel without a bias, for images of one channel; its weights start uniform within ± `init`."""

    def __init__(self, *, size: Sequence[int] = (1, 2), init: float = 0.07) -> None:
        super().__init__()
        check_range("init", init, 0)
        if len(size) != 2:
            raise RlkitError(f"size={list(size)} must be a height and a width")
        self.conv = nn.Conv2d(1, 1, (int(size[0]), int(size[1])), bias=False)
        nn.init.uniform_(self.conv.weight, -init, init)

    def forward(self, images: Tensor) -> Tensor:
        """Cross-correlates: (batch, 1, height, width) -> (batch, 1, height − size[0] + 1, width − size[1] + 1)."""
        outputs: Tensor = self.conv(images)
        return outputs


class Point(nn.Module):
    """A point whose coordinates are the only parameters, for tasks that minimise a function of a point without data."""

    def __init__(self, *, start: Sequence[float] = (4.0, 0.0)) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.tensor([float(value) for value in start]))

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the coordinates, whatever the inputs are."""
        return self.place
