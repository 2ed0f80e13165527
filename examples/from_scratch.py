"""The basics without a framework: a perceptron, backpropagation by hand, a learned kernel, and gradient descent."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import make_moons

from rlkit.perception.scratch.backprop import MLP
from rlkit.perception.scratch.calculus import descend, himmelblau, himmelblau_gradient, power_norms
from rlkit.perception.scratch.convolution import corr2d, kernel_gradient
from rlkit.perception.scratch.linear import train_perceptron


def perceptron() -> None:
    """Trains a perceptron on AND, whose classes a line can separate, and on XOR, whose classes it can't."""
    corners = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    for name, labels in (("and", [-1.0, -1, -1, 1]), ("xor", [-1.0, 1, 1, -1])):
        w, b, converged = train_perceptron(corners, np.array(labels))
        print(f"perceptron, {name}: {'converged' if converged else 'never converges'} at w = {w}, b = {b}")


def learned_kernel() -> None:
    """Learns a kernel that finds edges, from an image and its edges."""
    image = np.ones((6, 8))
    image[:, 2:6] = 0
    edges = corr2d(image, np.array([[1.0, -1.0]]))
    kernel = np.zeros((1, 2))
    for _ in range(10):
        error = corr2d(image, kernel) - edges
        kernel -= 0.03 * 2 * kernel_gradient(image, error)
    print(f"learned kernel after 10 steps: {kernel[0].round(4)}, squared error {(error**2).sum():.4f}")


def minima() -> None:
    """Descends to four minima of one function, to show that the start decides where gradient descent ends."""
    for start in ((4, 0), (1, 0), (-4, 0), (-2, 2)):
        end = descend(himmelblau_gradient, start, learning_rate=0.01, steps=200)[-1]
        print(f"Himmelblau from {start}: {end.round(6)}, f = {himmelblau(end):.1e}")


def moons(epochs: int = 25) -> None:
    """Trains a network of 2-25-50-25-2 sigmoid units on two moons, with one sample per step.

    `epochs` is small, but the learning rate is large: `recipe=backprop-numpy` trains 1,000 epochs with a small one.
    """
    x, labels = make_moons(2000, noise=0.2, random_state=100)
    rng = np.random.default_rng(42)
    order = rng.permutation(2000)
    training, test = order[:1400], order[1400:]
    network, targets = MLP([2, 25, 50, 25, 2], rng), np.eye(2)[labels]
    for _ in range(epochs):
        loss = np.mean([network.step(x[[i]], targets[[i]], 0.5) for i in rng.permutation(training)])
    accuracy = (network.predict(x[test]) == labels[test]).mean()
    print(f"moons by backpropagation in NumPy, {epochs} epochs: squared error {loss:.4f}, test accuracy {accuracy:.2%}")


if __name__ == "__main__":
    perceptron()
    learned_kernel()
    minima()
    moons()
    for value in (1.0, 0.4):
        norms = power_norms(np.full((2, 2), value), 10)
        print(f"norms of the powers of a 2 × 2 matrix of {value}: {', '.join(f'{norm:.3g}' for norm in norms)}")
