"""Recipes whose results are known, the small models behind them, inputs, and backbones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rlkit import perception
from rlkit.errors import RlkitError
from rlkit.perception.backbone import Backbone
from rlkit.perception.data import Data, TensorSamples
from rlkit.perception.data.images import digits
from rlkit.perception.data.synthetic import linear, sine
from rlkit.perception.inputs import AUGMENTATIONS, Inputs, augmentation, make_inputs
from rlkit.perception.models import make_model
from rlkit.perception.models.numpy_mlp import NumpyMLP
from rlkit.perception.models.simple import Kernel
from rlkit.perception.tasks import himmelblau
from rlkit.runs.tensor_files import read_tensors


def run(recipe: str, folder: Path, **settings: Any) -> dict[str, Any]:
    return perception.train(recipe, run_dir=folder / "run", **settings).summary


MINIMA = {
    (4, 0): (3.584428, -1.848126),
    (1, 0): (3, 2),
    (-4, 0): (-3.779310, -3.283186),
    (-2, 2): (-2.805118, 3.131312),
}


@pytest.mark.parametrize("start", MINIMA)
def test_himmelblau_ends_in_the_source_s_four_minima(tmp_path: Path, start: tuple[int, int]) -> None:
    summary = run("himmelblau", tmp_path, **{"model.start": list(start)})
    assert (summary["test_x"], summary["test_y"]) == pytest.approx(MINIMA[start], abs=1e-5)
    assert summary["test_loss"] < 1e-10
    assert (tmp_path / "run/function.png").stat().st_size > 1000
    assert himmelblau(torch.tensor(0.0), torch.tensor(0.0)).item() == 170


def test_linear_regression_ends_at_the_least_squares_solution(tmp_path: Path) -> None:
    summary = run("linear-regression", tmp_path)
    batch = linear(count=100, weights=[1.477], bias=0.089, noise=0.1, uniform=10.0).train.batch(torch.arange(100))
    design = np.c_[batch.inputs.numpy(), np.ones(100)]
    (w, b), *_ = np.linalg.lstsq(design, batch.targets.numpy()[:, 0])
    assert (summary["test_weight_0"], summary["test_bias_0"]) == pytest.approx((w, b), abs=1e-4)
    assert summary["test_weight_0"] == pytest.approx(1.477, abs=0.01)


def test_minibatches_find_the_plane(tmp_path: Path) -> None:
    summary = run("linear-regression-minibatch", tmp_path)
    found = [summary[f"test_{name}"] for name in ("weight_0", "weight_1", "bias_0")]
    assert found == pytest.approx([2, -3.4, 4.2], abs=2e-3)
    assert (tmp_path / "run/predictions.png").stat().st_size > 1000


def test_a_kernel_that_finds_edges_is_learned(tmp_path: Path) -> None:
    """Ten steps of w <- w - 0.03 · 2 Σ x (w·x - y), with the numbers of the 6 × 8 image by hand."""
    summary = run("learn-kernel", tmp_path)
    torch.manual_seed(0)
    kernel = Kernel().conv.weight.detach().flatten().double().numpy()
    image = np.ones((6, 8))
    image[:, 2:6] = 0
    left, right = image[:, :-1].ravel(), image[:, 1:].ravel()
    for _ in range(10):
        error = kernel[0] * left + kernel[1] * right - (left - right)
        kernel = kernel - 0.03 * 2 * np.array([error @ left, error @ right])
    assert [summary["test_weight_0"], summary["test_weight_1"]] == pytest.approx(kernel.tolist(), abs=1e-5)
    assert kernel == pytest.approx([0.9895, -0.9873], abs=0.01)  # the source's, which began elsewhere within ±0.07
    assert (tmp_path / "run/edges.png").stat().st_size > 1000


def test_a_polynomial_is_the_least_squares_fit(tmp_path: Path) -> None:
    summary = run("sine-polynomial", tmp_path, **{"model.degree": 4})
    batch = sine().train.batch(torch.arange(120))
    expected = np.polynomial.chebyshev.chebfit(batch.inputs.numpy()[:, 0], batch.targets.numpy()[:, 0], 4)
    assert [summary[f"test_weight_{i}"] for i in range(5)] == pytest.approx(expected.tolist(), abs=0.01)


def test_numpy_gradients_are_those_of_autograd() -> None:
    torch.manual_seed(0)
    network = NumpyMLP(input_shape=[2], num_outputs=3, hidden_sizes=[5, 4]).double()
    x, gradient = torch.randn(7, 2).double(), torch.randn(7, 3).double()
    outputs = network(x)
    expected = x
    for w, b in zip(network.weights, network.biases, strict=True):
        expected = torch.sigmoid(expected @ w + b)
    torch.testing.assert_close(outputs, expected, atol=1e-12, rtol=0)
    parameters = list(network.parameters())
    ours = torch.autograd.grad(outputs, parameters, gradient)
    for mine, theirs in zip(ours, torch.autograd.grad(expected, parameters, gradient), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)


def test_backprop_in_numpy_learns(tmp_path: Path) -> None:
    settings = {"data.count": 400, "fit.epochs": 15, "fit.batch_size": 4, "fit.learning_rate": 1.0}
    assert run("backprop-numpy", tmp_path, **settings)["test_accuracy"] > 0.8
    assert (tmp_path / "run/boundary.png").stat().st_size > 1000


def test_l2_shrinks_the_weights_that_it_is_for(tmp_path: Path) -> None:
    largest = []
    for l2 in (0.0, 0.1):
        folder = tmp_path / f"{l2}"
        settings: dict[str, Any] = {"fit.l2": l2, "fit.epochs": 20, "fit.learning_rate": 0.01}
        perception.train("moons-l2", run_dir=folder, **settings)
        model, _ = read_tensors(folder / "checkpoints/last/model.safetensors")
        largest.append({name: tensor.abs().max().item() for name, tensor in model.items()})
    free, shrunk = largest
    for name in ("model.features.3.weight", "model.features.5.weight"):
        assert shrunk[name] < 0.5 * free[name]
    assert shrunk["model.features.1.weight"] > 0.3  # not among them


# Inputs


def images(count: int = 4, channels: int = 1, size: int = 8) -> Data:
    values = torch.randint(256, (count, channels, size, size), dtype=torch.uint8)
    samples = TensorSamples(values, torch.zeros(count, dtype=torch.int64))
    mean, std = (0.5,) * channels, (0.25,) * channels
    return Data(samples, None, samples, input_shape=(channels, size, size), num_outputs=2, mean=mean, std=std)


def test_scales() -> None:
    data = images()
    raw = data.train.batch(torch.arange(4)).inputs
    unit = raw.float() / 255
    expected = {"unit": unit, "signed": unit * 2 - 1, "standardize": (unit - 0.5) / 0.25, "auto": (unit - 0.5) / 0.25}
    for scale, values in expected.items():
        torch.testing.assert_close(make_inputs(data, scale=scale, resize=None, augment={})(raw), values)
    assert make_inputs(data, scale="unit", resize=12, augment={})(raw).shape == (4, 1, 12, 12)
    words = torch.tensor([[1, 2]])
    assert Inputs()(words) is words


def test_inputs_that_do_not_suit_the_data() -> None:
    data = linear(count=10)
    with pytest.raises(RlkitError, match=r"augment=\{'flip': 0.5\} is for images"):
        make_inputs(data, scale="auto", resize=None, augment={"flip": 0.5})
    with pytest.raises(RlkitError, match="resize=8 is for images"):
        make_inputs(data, scale="auto", resize=8, augment={})
    with pytest.raises(RlkitError, match="scale=standardize: this data set's inputs cannot be standardised"):
        make_inputs(data, scale="standardize", resize=None, augment={})


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_changes_images_in_training_only(name: str) -> None:
    torch.manual_seed(0)
    inputs = Inputs(augment={name: {"crop": 2, "rotate": 30}.get(name, 1.0 if name != "color" else 0.5)})
    batch = torch.rand(6, 3, 8, 8)
    changed = inputs.train()(batch)
    assert changed.shape == batch.shape
    assert not torch.equal(changed, batch)
    assert torch.equal(inputs.eval()(batch), batch)


def test_crops_are_shifted_images_with_zeros_behind() -> None:
    torch.manual_seed(0)
    batch = torch.arange(1.0, 17).view(1, 1, 4, 4).expand(50, 2, 4, 4)
    padded = nn.functional.pad(batch[0], [1] * 4)
    shifts = [padded[:, y : y + 4, x : x + 4] for y in range(3) for x in range(3)]
    crops = augmentation("crop", 1)(batch)
    seen = {next(i for i, shift in enumerate(shifts) if torch.equal(crop, shift)) for crop in crops}
    assert len(seen) > 5


# Backbones


def lenet() -> nn.Module:
    torch.manual_seed(0)
    return make_model("lenet", input_shape=[1, 16, 16], num_outputs=3, batch_norm=True)


def test_a_backbone_encodes() -> None:
    model = lenet().eval()
    backbone = Backbone(model, Inputs([0.5], [0.25]), frozen=True)
    assert backbone.feature_size == 84
    grey = torch.randint(256, (5, 1, 16, 16), dtype=torch.uint8)
    features = backbone.encode(grey)
    encode: Any = model.encode
    torch.testing.assert_close(features, encode((grey.float() / 255 - 0.5) / 0.25))
    assert features.shape == (5, 84)
    colours = grey.expand(-1, 3, -1, -1)
    torch.testing.assert_close(backbone.encode(colours), features, rtol=1e-3, atol=1e-3)
    assert backbone.encode(torch.rand(2, 3, 40, 30)).shape == (2, 84)
    with pytest.raises(RlkitError, match="was trained on images of 1 channels, these have 4"):
        backbone.encode(torch.rand(2, 4, 16, 16))


def test_a_frozen_backbone_stays_as_it_is_and_an_unfrozen_one_learns() -> None:
    backbone = Backbone(lenet(), frozen=True)
    whole = nn.Sequential(backbone, nn.Linear(84, 1))
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    batch = torch.rand(8, 1, 16, 16)

    def step() -> Tensor:
        parameters = [parameter for parameter in whole.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(parameters, 0.1)
        loss: Tensor = whole.train()(batch).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss

    step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    backbone.unfreeze()
    step()
    changed = [name for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[name])]
    assert any("running_mean" in name for name in changed)
    assert any(name.endswith("weight") for name in changed)


def test_a_backbone_comes_from_a_run(tmp_path: Path) -> None:
    """Its features under the trained head are as accurate as the run says."""
    result = perception.train("lenet-digits", run_dir=tmp_path / "run", **{"fit.epochs": 2})
    backbone = Backbone.load(tmp_path / "run")
    test = digits(image_size=16).test
    batch = test.batch(torch.arange(len(test)))
    model: Any = result.task.model
    with torch.no_grad():
        logits = model.head(backbone.encode(batch.inputs))
    accuracy = (logits.argmax(1) == batch.targets).double().mean().item()
    assert accuracy == pytest.approx(result.summary["test_accuracy"])
    with pytest.raises(RlkitError, match="Linear is no backbone: it has no `encode` and `feature_size`"):
        Backbone(nn.Linear(1, 1))
    (tmp_path / "run/checkpoints/best/model.json").write_text('{"format": 9}')
    with pytest.raises(RlkitError, match=r"model.json has format 9; this version of rlkit reads format 1"):
        Backbone.load(tmp_path / "run")
    (tmp_path / "run/checkpoints/best/model.json").write_text("{")
    with pytest.raises(RlkitError, match="model.json is damaged: JSONDecodeError"):
        Backbone.load(tmp_path / "run")
