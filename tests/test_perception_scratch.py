"""The basics from scratch: what the source derives, and the figures that it prints, where they are right.

Where a printed figure cannot be, the test's docstring says so.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from rlkit.errors import RlkitError
from rlkit.perception.scratch import backprop, calculus, convolution, divergences, linear
from rlkit.perception.scratch.backprop import MLP

Array = NDArray[Any]


def tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).double()


# Autograd by hand


def test_first_example_of_autograd() -> None:
    """y = aw² + bw + c at a, b, c, w = 1, 2, 3, 4: dy/dw = 2aw + b = 10."""
    a, b, c, w = torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0), torch.tensor(4.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(a * w**2 + b * w + c, w)
    assert gradient.item() == 10.0


def test_computation_graph() -> None:
    """z = (x + y)w at 2, 3, 4."""
    x, y, w = (torch.tensor(value, requires_grad=True) for value in (2.0, 3.0, 4.0))
    z = (x + y) * w
    assert z.item() == 20
    assert [gradient.item() for gradient in torch.autograd.grad(z, (x, y, w))] == [4, 4, 5]


def test_chain_rule() -> None:
    """Two linear layers of one unit: ∂y₂/∂w₁ = ∂y₂/∂y₁ · ∂y₁/∂w₁ = 2."""
    x, w1, b1, w2, b2 = (torch.tensor(value, requires_grad=True) for value in (1.0, 2.0, 1.0, 2.0, 1.0))
    y1 = x * w1 + b1
    y2 = y1 * w2 + b2
    (outer,) = torch.autograd.grad(y2, y1, retain_graph=True)
    (inner,) = torch.autograd.grad(y1, w1, retain_graph=True)
    (whole,) = torch.autograd.grad(y2, w1)
    assert (outer * inner).item() == whole.item() == 2.0


@pytest.mark.parametrize("name", sorted(backprop.ACTIVATIONS))
def test_derivatives_of_activations(name: str) -> None:
    function, derivative = backprop.ACTIVATIONS[name]
    z = np.array([-30.0, -1.5, -0.1, 0.2, 3.0, 30.0])
    numeric = (function(z + 1e-6) - function(z - 1e-6)) / 2e-6
    np.testing.assert_allclose(derivative(function(z)), numeric, atol=1e-8)


def test_sigmoid_does_not_overflow() -> None:
    assert backprop.sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0, 0.5, 1]


# Linear models


def test_one_neuron_through_two_points() -> None:
    """The printed w = 1.477 and b = 0.089 are what the points were made of; they give 1.476 and 0.091."""
    w, b = linear.neuron_through((1, 1.567), (2, 3.043))
    assert (round(w, 3), round(b, 3)) == (1.476, 0.091)
    with pytest.raises(RlkitError, match="same x = 1"):
        linear.neuron_through((1, 2), (1, 3))


def test_perceptron_learns_and_but_not_xor() -> None:
    corners = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    both, one = np.array([-1.0, -1, -1, 1]), np.array([-1.0, 1, 1, -1])
    w, b, converged = linear.train_perceptron(corners, both)
    assert converged
    assert linear.threshold_unit(corners, w, b).tolist() == both.tolist()
    assert not linear.train_perceptron(corners, one, max_epochs=1000)[2]


def test_perceptron_makes_no_more_mistakes_than_novikoffs_bound() -> None:
    """(R/γ)²; a mistake adds 1 to the bias here, which counts the mistakes if all labels are 1."""
    rng = np.random.default_rng(0)
    x = rng.normal(4, 1, size=(200, 2))
    _, b, converged = linear.train_perceptron(x, np.ones(200))
    augmented = np.column_stack([x, np.ones(200)])
    direction = np.array([1, 1, 1]) / math.sqrt(3)
    assert converged
    assert b <= ((augmented**2).sum(1).max()) / (augmented @ direction).min() ** 2


def line_data(seed: int, noise: float) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-10, 10, (100, 1))
    return x, 1.477 * x[:, 0] + 0.089 + rng.normal(0, noise, 100)


def test_linear_regression_reaches_the_printed_loss_and_slope() -> None:
    """Loss 0.010977 and w = 1.47813 fit σ = 0.1; the printed b = 0.9011 lacks a digit: it would cost 0.66 and more."""
    for seed in range(5):
        x, y = line_data(seed, 0.1)
        w, b, losses = linear.gradient_descent(x, y, learning_rate=0.01, steps=1000)
        assert losses[0] > 50
        assert losses[-1] == pytest.approx(0.010977, abs=5 * 0.01 * math.sqrt(2 / 100))
        assert w[0] == pytest.approx(1.47813, abs=0.006)
        assert b == pytest.approx(0.09011, abs=0.05)
        exact_w, exact_b = linear.least_squares(x, y)
        assert (w[0], b) == pytest.approx((exact_w[0], exact_b), abs=1e-6)
        assert linear.squared_error(x, y, w, 0.9011)[0] > 0.5


def test_gradient_of_the_squared_error() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=7)
    w, b = tensor(rng.normal(size=3)).requires_grad_(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    loss = functional.mse_loss(tensor(x) @ w + b, tensor(y))
    w_gradient, b_gradient = torch.autograd.grad(loss, (w, b))
    ours = linear.squared_error(x, y, w.detach().numpy(), b.item())
    assert ours[0] == pytest.approx(loss.item())
    np.testing.assert_allclose(ours[1], w_gradient.numpy())
    assert ours[2] == pytest.approx(b_gradient.item())


def test_minibatch_sgd_comes_as_close_as_printed() -> None:
    """w = (2, −3.4), b = 4.2, σ = 0.01: errors of 4.2e-4, 7.7e-5 and 6.2e-4 are printed; a few σ/√n = 3e-4 it is."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 2))
    y = x @ [2, -3.4] + 4.2 + rng.normal(0, 0.01, 1000)
    w, b = linear.minibatch_sgd(x, y, learning_rate=0.03, batch_size=10, epochs=3, rng=rng)
    assert np.abs([*(w - [2, -3.4]), b - 4.2]).max() < 1.5e-3


def test_minibatches_are_every_sample_once() -> None:
    batches = list(linear.minibatches(10, 4, np.random.default_rng(0)))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(np.concatenate(batches)) == list(range(10))


def test_softmax_of_the_sources_logits() -> None:
    assert linear.softmax(np.array([2.0, 1.0, 0.1])).round(2).tolist() == [0.66, 0.24, 0.10]


def test_softmax_is_stable() -> None:
    logits = np.array([[1000.0, 0.0], [-1000.0, -1001.0]])
    expected = np.array([[1, 0], [1 / (1 + math.exp(-1)), 1 / (1 + math.e)]])
    np.testing.assert_allclose(linear.softmax(logits), expected, atol=1e-300)
    np.testing.assert_allclose(linear.log_softmax(logits)[0], [0, -1000])


def test_gradient_of_the_cross_entropy_is_p_minus_one_hot() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(5, 4)), np.array([0, 3, 1, 1, 2])
    theirs = tensor(logits).requires_grad_()
    loss = functional.cross_entropy(theirs, torch.from_numpy(labels))
    (gradient,) = torch.autograd.grad(loss, theirs)
    ours = linear.cross_entropy(logits, labels)
    assert ours[0] == pytest.approx(loss.item())
    np.testing.assert_allclose(ours[1], gradient.numpy(), atol=1e-12)


def test_jacobian_of_the_softmax() -> None:
    """∂p_i/∂o_j = p_i(δ_ij − p_j)."""
    logits = np.array([0.5, -1.0, 2.0])
    p = linear.softmax(logits)
    found = torch.func.jacrev(lambda o: torch.softmax(o, 0))(tensor(logits))
    np.testing.assert_allclose(np.diag(p) - np.outer(p, p), found.numpy(), atol=1e-12)


def test_softmax_regression_separates_clusters() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=600)
    x = rng.normal(size=(600, 2)) + 5 * np.array([[1, 0], [0, 1], [-1, -1]])[labels]
    model = linear.SoftmaxRegression(2, 3, rng)
    losses = model.fit(x, labels, batch_size=32)
    assert losses[-1] < losses[0] < math.log(3)
    assert (model.predict(x) == labels).mean() > 0.98
    assert linear.SoftmaxRegression(4, 3, rng).w.size + 3 == 15  # the source's 2 × 2 pixels, three animals: 12 + 3


# Backpropagation


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "leaky_relu"])
def test_backpropagation_agrees_with_autograd(activation: str) -> None:
    rng = np.random.default_rng(0)
    network = MLP([2, 25, 50, 25, 2], rng, activation)
    x, targets = rng.normal(size=(11, 2)), rng.random((11, 2))
    loss, w_gradients, b_gradients = network.gradients(x, targets)
    weights = [tensor(w).requires_grad_() for w in network.weights]
    biases = [tensor(b).requires_grad_() for b in network.biases]
    function = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu, "leaky_relu": functional.leaky_relu}
    hidden = tensor(x)
    for w, b in zip(weights, biases, strict=True):
        hidden = function[activation](hidden @ w + b)
    expected = functional.mse_loss(hidden, tensor(targets))
    gradients = torch.autograd.grad(expected, [*weights, *biases])
    assert loss == pytest.approx(expected.item(), abs=1e-12)
    for ours, theirs in zip([*w_gradients, *b_gradients], gradients, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-6)
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-9, atol=1e-14)


def test_backpropagation_learns_what_a_perceptron_cannot() -> None:
    network = MLP([2, 8, 2], np.random.default_rng(1), "tanh")
    corners, labels = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    for _ in range(500):
        network.step(corners, np.eye(2)[labels], 0.5)
    assert network.predict(corners).tolist() == labels.tolist()


def test_unknown_activation_is_an_error() -> None:
    with pytest.raises(RlkitError, match="did you mean 'sigmoid'"):
        MLP([2, 2], np.random.default_rng(0), "sigmoidd")


# Convolutions


def test_corr2d_figures() -> None:
    image, kernel = np.arange(9.0).reshape(3, 3), np.arange(4.0).reshape(2, 2)
    assert convolution.corr2d(image, kernel).tolist() == [[19, 25], [37, 43]]
    layers, kernels = np.stack([image, image + 1]), np.stack([kernel, kernel + 1])
    assert convolution.corr2d_multi_in(layers, kernels).tolist() == [[56, 72], [104, 120]]
    outputs = convolution.corr2d_multi_in_out(layers, np.stack([kernels, kernels + 1, kernels + 2]))
    assert outputs.shape == (3, 2, 2)
    assert outputs[1].tolist() == [[76, 100], [148, 172]]


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), (3, 2)])
def test_corr2d_agrees_with_torch(stride: int, padding: int) -> None:
    rng = np.random.default_rng(0)
    image, kernel = rng.normal(size=(7, 9)), rng.normal(size=(3, 2))
    expected = functional.conv2d(tensor(image)[None, None], tensor(kernel)[None, None], stride=stride, padding=padding)
    np.testing.assert_allclose(convolution.corr2d(image, kernel, stride, padding), expected[0, 0].numpy())


def test_convolution_turns_the_kernel() -> None:
    signal = pytest.importorskip("scipy.signal")
    rng = np.random.default_rng(0)
    image, kernel = rng.normal(size=(5, 6)), rng.normal(size=(3, 3))
    np.testing.assert_allclose(convolution.convolve2d(image, kernel), signal.convolve2d(image, kernel, mode="valid"))
    symmetric = convolution.KERNELS["blur"]
    np.testing.assert_allclose(convolution.convolve2d(image, symmetric), convolution.corr2d(image, symmetric))


def test_kernel_gallery() -> None:
    image = np.arange(25.0).reshape(5, 5)
    assert np.array_equal(convolution.corr2d(image, convolution.KERNELS["identity"]), image[1:-1, 1:-1])
    flat = np.full((4, 4), 7.0)
    for name, expected in (("sharpen", 7), ("blur", 7), ("edge", 0)):
        np.testing.assert_allclose(convolution.corr2d(flat, convolution.KERNELS[name]), np.full((2, 2), expected))


def test_edge_detector() -> None:
    """1 where black turns white and −1 back, in every row: the printed result has 4 rows for an image of 5."""
    image = np.ones((5, 8))
    image[:, 2:6] = 0
    edges = convolution.corr2d(image, np.array([[1.0, -1.0]]))
    assert edges.tolist() == [[0, 1, 0, 0, 0, -1, 0]] * 5
    assert not convolution.corr2d(image.T, np.array([[1.0, -1.0]])).any()  # blind for edges that lie


def test_learned_kernel_has_the_printed_digits() -> None:
    """Ten steps of rate 0.03 on the squared error: [0.9895, −0.9873] from some start that is as small as MXNet's.

    The steps are affine in the start, so that start can be solved for: it is within MXNet's uniform ±0.07.
    """
    image = np.ones((6, 8))
    image[:, 2:6] = 0
    edges = convolution.corr2d(image, np.array([[1.0, -1.0]]))

    def learn(start: Array) -> Array:
        kernel = start[None]
        for _ in range(10):
            error = convolution.corr2d(image, kernel) - edges
            kernel = kernel - 0.03 * 2 * convolution.kernel_gradient(image, error)
        learned: Array = kernel[0]
        return learned

    from_zero = learn(np.zeros(2))
    slope = np.stack([learn(unit) - from_zero for unit in np.eye(2)], axis=1)
    start = np.linalg.solve(slope, np.array([0.9895, -0.9873]) - from_zero)
    assert np.abs(start).max() < 0.07
    assert learn(start).round(4).tolist() == [0.9895, -0.9873]
    assert np.abs(from_zero - [1, -1]).max() < 0.012


def test_1x1_convolution_is_a_linear_layer_per_pixel() -> None:
    rng = np.random.default_rng(0)
    image, kernels = rng.normal(size=(3, 3, 3)), rng.normal(size=(2, 3))
    full = convolution.corr2d_multi_in_out(image, kernels[:, :, None, None])
    np.testing.assert_allclose(convolution.corr2d_1x1(image, kernels), full, atol=1e-6)


def test_pooling_figures() -> None:
    image = np.arange(16.0).reshape(4, 4)
    assert convolution.pool2d(image, 2).tolist() == [[5, 7], [13, 15]]
    assert convolution.pool2d(np.arange(9.0).reshape(3, 3), 2, 1).tolist() == [[4, 5], [7, 8]]
    assert convolution.pool2d(np.arange(9.0).reshape(3, 3), 2, 1, "avg").tolist() == [[2, 3], [5, 6]]
    window = np.array([[1.0, -1.0], [-1.0, -2.0]])
    assert convolution.pool2d(window, 2).item() == 1
    assert convolution.pool2d(window, 2, mode="avg").item() == -0.75
    padded = functional.max_pool2d(tensor(image)[None, None], 3, 2)
    np.testing.assert_allclose(convolution.pool2d(image, 3, 2), padded[0, 0].numpy())


def test_windows_larger_than_the_image_are_errors() -> None:
    with pytest.raises(RlkitError, match="window of 3 x 3 is larger than the image, 2 x 2"):
        convolution.pool2d(np.zeros((2, 2)), 3)
    with pytest.raises(RlkitError, match="did you mean 'max'"):
        convolution.pool2d(np.zeros((2, 2)), 2, mode="maxx")


def test_gradient_by_a_kernels_first_weight() -> None:
    """3 × 3 image, 2 × 2 kernel: the four outputs' gradients by w₀₀ are x₀₀, x₀₁, x₁₀, x₁₁."""
    image = np.arange(9.0).reshape(3, 3) ** 2
    for pixel in range(4):
        one = np.zeros(4)
        one[pixel] = 1
        gradient = convolution.kernel_gradient(image, one.reshape(2, 2))
        assert gradient[0, 0] == image[:2, :2].ravel()[pixel]


def test_gradients_of_a_convolution_agree_with_autograd() -> None:
    rng = np.random.default_rng(0)
    image, kernel, upstream = rng.normal(size=(5, 6)), rng.normal(size=(2, 3)), rng.normal(size=(4, 4))
    x, w = tensor(image).requires_grad_(), tensor(kernel).requires_grad_()
    output = functional.conv2d(x[None, None], w[None, None])[0, 0]
    x_gradient, w_gradient = torch.autograd.grad(output, (x, w), tensor(upstream))
    np.testing.assert_allclose(convolution.kernel_gradient(image, upstream), w_gradient.numpy(), atol=1e-12)
    np.testing.assert_allclose(convolution.image_gradient(kernel, upstream), x_gradient.numpy(), atol=1e-12)


KERNEL = np.array([[-1.0, 2, -3], [4, -5, 6], [-7, 8, -9]])


def test_figures_before_a_transposed_convolution() -> None:
    """The printed outputs, of 1 … 25 with stride 2 and of 1 … 16."""
    large, small = np.arange(1.0, 26).reshape(5, 5), np.arange(1.0, 17).reshape(4, 4)
    outputs = convolution.corr2d(large, KERNEL, 2)
    assert outputs.tolist() == [[-67, -77], [-117, -127]]
    assert convolution.corr2d(small, KERNEL).tolist() == [[-56, -61], [-76, -81]]
    back = convolution.transposed2d(outputs, KERNEL, 2)
    assert back.shape == (5, 5)  # the shape comes back, the values don't
    assert back[0, 0] == 67
    assert back[4, 4] == 1143


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 0), (2, 1), (3, 1)])
def test_transposed_convolution_agrees_with_torch(stride: int, padding: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(3, 4))
    theirs = functional.conv_transpose2d(tensor(image)[None, None], tensor(KERNEL)[None, None], None, stride, padding)
    np.testing.assert_allclose(convolution.transposed2d(image, KERNEL, stride, padding), theirs[0, 0].numpy())


@pytest.mark.parametrize("stride", [1, 2])
def test_transposed_convolution_is_the_transposed_matrix(stride: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 5))
    matrix = convolution.matrix_of(KERNEL, (5, 5), stride)
    outputs = convolution.corr2d(image, KERNEL, stride)
    np.testing.assert_allclose(matrix @ image.ravel(), outputs.ravel())
    np.testing.assert_allclose(matrix.T @ outputs.ravel(), convolution.transposed2d(outputs, KERNEL, stride).ravel())


# Optimisation


def test_himmelblau_is_descended_to_the_printed_minima() -> None:
    """200 steps of 0.01. The f = 1.137e-12 that is printed at the first minimum is float32's rounding: it is 0."""
    minima = {
        (4.0, 0.0): (3.584428, -1.848127),
        (1.0, 0.0): (3.0, 2.0),
        (-4.0, 0.0): (-3.779310, -3.283186),
        (-2.0, 2.0): (-2.805118, 3.131313),
    }
    for start, minimum in minima.items():
        path = calculus.descend(calculus.himmelblau_gradient, start, learning_rate=0.01, steps=200)
        assert path.shape == (201, 2)
        assert path[-1].round(6).tolist() == list(minimum)
        assert calculus.himmelblau(path[-1]) < 1e-25
    printed = np.array([3.584428, -1.8481264])
    lowest = calculus.descend(calculus.himmelblau_gradient, (4, 0), learning_rate=0.01, steps=200)[-1]
    assert np.abs(lowest - printed).max() < 5e-7  # as near as float32 shows


def test_gradient_of_himmelblau() -> None:
    at = np.array([1.3, -0.7])
    found = torch.func.grad(lambda x: (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2)(tensor(at))
    np.testing.assert_allclose(calculus.himmelblau_gradient(at), found.numpy())


def test_clipping_by_norm() -> None:
    """A gradient of norm 5.38 is clipped to 5, and keeps its direction; one below the limit stays."""
    gradient = np.array([[3.0, 4.0], [1.0, np.sqrt(5.38**2 - 26)]])
    assert np.linalg.norm(gradient) == pytest.approx(5.38)
    clipped = calculus.clip_by_norm(gradient, 5)
    assert np.linalg.norm(clipped) == pytest.approx(5.0)
    np.testing.assert_allclose(clipped / gradient, 5 / 5.38)
    assert np.array_equal(calculus.clip_by_norm(clipped, 6), clipped)
    assert not calculus.clip_by_norm(np.zeros(3), 1).any()


def test_clipping_by_global_norm() -> None:
    """Gradients of 4.1547 together are clipped to 2; torch does the same."""
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=(3, 2)), rng.normal(size=4)]
    scale = 4.1547 / np.sqrt(sum((g**2).sum() for g in gradients))
    gradients = [g * scale for g in gradients]
    clipped, norm = calculus.clip_by_global_norm(gradients, 2)
    assert norm == pytest.approx(4.1547)
    assert np.sqrt(sum((g**2).sum() for g in clipped)) == pytest.approx(2.0)
    parameters = [torch.nn.Parameter(torch.zeros(g.shape).double()) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = tensor(gradient)
    assert torch.nn.utils.clip_grad_norm_(parameters, 2.0).item() == pytest.approx(4.1547)
    for parameter, ours in zip(parameters, clipped, strict=True):
        assert parameter.grad is not None
        np.testing.assert_allclose(parameter.grad.numpy(), ours, rtol=1e-6)
    assert calculus.clip_by_global_norm([np.ones(2)], 100)[0][0].tolist() == [1, 1]


@pytest.mark.parametrize(("value", "eigenvalues", "factor"), [(1.0, [0, 2], 2.0), (0.4, [0, 0.8], 0.8)])
def test_powers_of_a_matrix_grow_or_shrink_with_its_largest_eigenvalue(
    value: float, eigenvalues: list[float], factor: float
) -> None:
    matrix = np.full((2, 2), value)
    assert np.linalg.eigvalsh(matrix) == pytest.approx(eigenvalues, abs=1e-12)
    assert calculus.power_norms(matrix, 10) == pytest.approx([factor**n for n in range(1, 11)])


# Distances of distributions


def test_entropy_figures() -> None:
    """1.3568 bits for (.1, .1, .1, .7); the printed 1.356 is cut off."""
    assert divergences.entropy(np.array([0.1, 0.1, 0.1, 0.7]), 2) == pytest.approx(1.35678, abs=1e-5)
    assert divergences.entropy(np.full(4, 0.25), 2) == pytest.approx(2)
    assert divergences.entropy(np.array([0.0, 1.0])) == 0


def test_kl_and_js() -> None:
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.25, 0.5])
    assert divergences.kl(p, q) == pytest.approx(math.log(2))
    assert divergences.kl(q, p) == math.inf
    assert divergences.kl(p, p) == divergences.jensen_shannon(p, p) == 0
    assert divergences.jensen_shannon(p, q) == pytest.approx(divergences.jensen_shannon(q, p))


def test_the_optimal_discriminator_makes_the_objective_js() -> None:
    """D* = p_r/(p_r + p_g), L(G, D*) = 2 JS − 2 log 2, which is −2 log 2 for equal distributions, where D* = ½."""
    rng = np.random.default_rng(0)
    real, fake = (p / p.sum() for p in rng.random((2, 6)))
    best = divergences.optimal_discriminator(real, fake)
    value = divergences.gan_value(best, real, fake)
    assert value == pytest.approx(2 * divergences.jensen_shannon(real, fake) - 2 * math.log(2))
    for _ in range(20):
        other = np.clip(best + rng.normal(0, 0.1, 6), 0.01, 0.99)
        assert divergences.gan_value(other, real, fake) < value
    same = divergences.optimal_discriminator(real, real)
    assert same.tolist() == [0.5] * 6
    assert divergences.gan_value(same, real, real) == pytest.approx(-2 * math.log(2))


@pytest.mark.parametrize("distance", [0, 1, 5])
def test_two_segments_at_a_distance(distance: int) -> None:
    """JS = log 2 wherever they are, unless they are the same; W = θ: a slope to descend."""
    places = np.arange(6.0)
    p, q = np.eye(6)[0], np.eye(6)[distance]
    assert divergences.jensen_shannon(p, q) == pytest.approx(math.log(2) if distance else 0)
    assert divergences.earth_mover(p, q, places) == pytest.approx(distance)


def test_earth_mover_agrees_with_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    p, q = (p / p.sum() for p in rng.random((2, 7)))
    places = rng.normal(size=7)
    assert divergences.earth_mover(p, q, places) == pytest.approx(stats.wasserstein_distance(places, places, p, q))
