"""Generative tasks: whose parameters learn from which loss, what is measured and drawn, and a few steps that help."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlkit.errors import RlkitError
from rlkit.perception import FitConfig, fit
from rlkit.perception.data.samples import Batch, Data, TensorSamples
from rlkit.perception.generative import Adversarial, CycleConsistency, Judge, pca_error, points_metrics
from rlkit.perception.inputs import Inputs
from rlkit.perception.models import make_model
from rlkit.perception.run import train
from rlkit.perception.task import Task
from rlkit.perception.tasks import TASKS

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "autoencoding": ({"name": "autoencoder", "latent_size": 4, "hidden_sizes": [8]}, {"contraction": 0.01}, False),
    "variational": ({"name": "vae", "latent_size": 4, "hidden_sizes": [8]}, {}, False),
    "adversarial_autoencoding": ({"name": "adversarial_autoencoder", "latent_size": 4, "hidden_sizes": [8]}, {}, False),
    "adversarial": ({"name": "dcgan", "small_input": True, "width": 4, "conditional": True}, {}, True),
    "information_maximizing": ({"name": "infogan", "width": 4, "num_codes": 3}, {}, True),
    "cycle_consistency": ({"name": "cyclegan", "width": 4, "blocks": 1}, {}, True),
}
"""By task: a model, the task's fields, and whether images are signed."""


def images(count: int = 12) -> Data:
    """Bright squares at the top or at the bottom of images of 16 × 16."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (count,), generator=generator)
    pixels = torch.rand(count, 1, 16, 16, generator=generator) * 0.1
    for image, label in zip(pixels, labels.tolist(), strict=True):
        image[:, 8 * label + 2 : 8 * label + 7, 3:12] = 1
    samples = TensorSamples(pixels, labels)
    return Data(train=samples, validation=None, test=samples, input_shape=(1, 16, 16), num_outputs=2)


def make(name: str, **fields: Any) -> tuple[Task, Inputs]:
    """A small task, and what goes before it."""
    model_fields, task_fields, signed = CASES[name]
    sizes: dict[str, Any] = {"input_shape": [1, 16, 16]} | ({"num_outputs": 2} if name == "adversarial" else {})
    torch.manual_seed(0)
    model = make_model(**model_fields, **sizes)
    return TASKS[name](model, **{**task_fields, **fields}), Inputs((0.5,), (0.5,)) if signed else Inputs()


def batch_of(data: Data, inputs: Inputs) -> Batch:
    some = data.train.batch(torch.arange(len(data.train)))
    return Batch(inputs(some.inputs), some.targets)


@pytest.mark.parametrize("name", CASES)
def test_every_loss_moves_its_own_part_and_reaches_all_of_it(name: str) -> None:
    data = images()
    task, inputs = make(name)
    seen = []
    for loss in task.losses(batch_of(data, inputs)):
        part = task.parts()[loss.part]
        task.zero_grad()
        torch.autograd.backward(loss.value)
        assert all(parameter.grad is not None for parameter in part.parameters()), loss.part
        seen.append(loss.part)
    assert seen
    assert set(seen) == set(task.parts())


@pytest.mark.parametrize("name", CASES)
def test_training_measures_draws_and_keeps_its_state(name: str, tmp_path: Path) -> None:
    data = images()
    task, inputs = make(name)
    fitted = fit(task, data, FitConfig(epochs=2, batch_size=6), inputs=inputs)
    assert all(torch.tensor(value).isfinite() for value in fitted.metrics.values())
    for file, draw in task.pictures(data, inputs).items():
        with torch.no_grad():
            draw(tmp_path / file)
        assert (tmp_path / file).read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir())
    again, _ = make(name)
    again.load_state_dict(task.state_dict())
    names = list(task.state_dict())
    pointers = [tensor.data_ptr() for tensor in task.state_dict().values() if tensor.numel()]
    assert len(set(pointers)) == len(pointers), f"a tensor is in the state twice: {names}"


def steps(task: Task, batch: Batch, count: int, learning_rate: float = 2e-3) -> dict[str, float]:
    """Takes Adam steps; returns the last metrics."""
    task.train()
    optimizers = {
        name: torch.optim.Adam(part.parameters(), learning_rate, (0.5, 0.9)) for name, part in task.parts().items()
    }
    metrics: dict[str, Tensor] = {}
    for _ in range(count):
        for loss in task.losses(batch):
            optimizers[loss.part].zero_grad()
            torch.autograd.backward(loss.value)
            optimizers[loss.part].step()
            metrics |= loss.metrics
    return {name: value.item() for name, value in metrics.items()}


@pytest.mark.parametrize("name", ["autoencoding", "variational", "adversarial_autoencoding"])
def test_autoencoders_learn_to_reconstruct(name: str) -> None:
    data = images()
    task, inputs = make(name)
    batch = batch_of(data, inputs)
    before = task.eval().measure(batch)["mse"].item()
    steps(task, batch, 100, 0.01)
    assert task.eval().measure(batch)["mse"].item() < 0.5 * before


def test_denoising_takes_noise_away() -> None:
    data = images(32)
    task, inputs = make("autoencoding", noise=0.3, contraction=0.0)
    steps(task, batch_of(data, inputs), 150, 0.01)
    results = task.eval().finish(data, inputs)
    assert results["noise_mse"] == pytest.approx(0.09, rel=0.1)
    assert task.measure(batch_of(data, inputs))["mse"].item() < results["noise_mse"]


def test_beta_is_in_the_loss_but_not_in_the_bound() -> None:
    data = images()
    metrics = []
    for beta in (1.0, 4.0):
        task, inputs = make("variational", beta=beta)
        torch.manual_seed(1)
        metrics.append(task.measure(batch_of(data, inputs)))
    torch.testing.assert_close(metrics[0]["elbo"], metrics[1]["elbo"])
    torch.testing.assert_close(metrics[1]["loss"] - metrics[0]["loss"], 3 * metrics[0]["kl"])
    torch.testing.assert_close(-metrics[0]["loss"], metrics[0]["elbo"])


def test_pca_error_is_what_the_dropped_components_hold() -> None:
    points = torch.randn(300, 5, generator=torch.Generator().manual_seed(0)).double() * torch.tensor(
        [5, 4, 1, 0.5, 0.1]
    )
    singular = torch.linalg.svdvals(points - points.mean(0))
    assert pca_error(points, points, 2) == pytest.approx(float((singular[2:] ** 2).sum()) / points.numel())
    assert pca_error(points, points, 5) == pytest.approx(0, abs=1e-12)
    few = torch.zeros(4, 300).double()  # fewer than values, and alike but for two directions
    few[:, 7], few[0, 9] = torch.arange(4.0).double(), 3.0
    assert pca_error(few, few, 2) == pytest.approx(0, abs=1e-12)
    assert pca_error(few, few, 1) > 1e-4


def test_generator_learns_from_every_so_manyth_batch() -> None:
    data = images()
    task, inputs = make("adversarial", discriminator_steps=3)
    parts = [[loss.part for loss in task.losses(batch_of(data, inputs))] for _ in range(6)]
    assert parts == [["discriminator"], ["discriminator"], ["discriminator", "generator"]] * 2
    assert all(parameter.requires_grad for parameter in task.parameters())


def test_clipped_critics_have_small_weights() -> None:
    data = images()
    task, inputs = make("adversarial", objective="wasserstein", weight_clip=0.01)
    for _ in task.losses(batch_of(data, inputs)):
        pass
    weights = torch.cat([parameter.flatten() for parameter in task.parts()["discriminator"].parameters()])
    assert weights.abs().max().item() == pytest.approx(0.01)


def test_gan_of_points_moves_to_them() -> None:
    points = torch.tensor([3.0, -2.0]) + 0.1 * torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = make_model("gan", input_shape=[2], latent_size=2, hidden_sizes=[16], discriminator_sizes=[16])
    task = Adversarial(model, objective="wasserstein", gradient_penalty=1.0)
    steps(task, Batch(points, torch.zeros(64)), 300, 0.01)
    generated = model(torch.randn(200, 2))
    assert (generated.mean(0) - points.mean(0)).norm().item() < 0.55 * points.mean(0).norm().item()


def test_points_metrics_know_the_groups() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    centers = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0], [5.0, 5.0]])
    points = centers[labels] + 0.1 * torch.randn(400, 2, generator=generator)
    samples = TensorSamples(points, labels)
    data = Data(train=samples, validation=None, test=samples, input_shape=(2,), num_outputs=4)
    assert points_metrics(data, Inputs(), points[labels != 3]) == {
        "modes_covered": 3,
        "modes": 4,
        "share_near_modes": pytest.approx(1, abs=0.01),
    }


def test_infogan_learns_to_find_its_codes() -> None:
    data = images()
    task, inputs = make("information_maximizing")
    batch = batch_of(data, inputs)
    first = steps(task, batch, 1)["information_loss"]
    assert steps(task, batch, 40)["information_loss"] < 0.7 * first


def test_a_perfect_translator_has_no_error() -> None:
    data = images()
    task, inputs = make("cycle_consistency", other="negative")
    assert isinstance(task, CycleConsistency)
    batch = batch_of(data, inputs)
    for way in ("a_to_b", "b_to_a"):
        task.nets.translators[way] = Negative()
    metrics = task.measure(batch)
    assert metrics["loss"].item() == metrics["cycle_error"].item() == 0
    assert metrics["untranslated_error"].item() > 1


class Negative(torch.nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return -images


def test_a_classifier_judges_samples(tmp_path: Path) -> None:
    result = train("lenet-digits", run_dir=tmp_path / "judge", **{"fit.epochs": 1})
    judge = Judge(str(result.run_dir))
    samples = torch.rand(30, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    scores = judge.compare(samples, samples.flip(0), samples / 2)
    assert scores["frechet_distance"] == pytest.approx(0, abs=1e-4)
    assert scores["real_frechet_distance"] > 0.01
    assert 1 <= scores["inception_score"] <= 10
    assert Judge(None).compare(samples, samples, samples) == {}
    task, inputs = make("variational", features_from=str(result.run_dir))
    assert task.eval().finish(images(), inputs)["frechet_distance"] > 0
    assert not any(name.startswith("judge") for name in task.state_dict())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: make("variational", beta=-1.0), "task.beta=-1.0 is out of range"),
        (lambda: make("adversarial", objective="hinges"), "did you mean 'hinge'"),
        (lambda: make("adversarial", objective="wasserstein"), "needs a Lipschitz critic"),
        (lambda: make("adversarial", features_from="/nowhere"), "/nowhere"),
        (lambda: TASKS["variational"](make_model("lenet")), "task=variational trains VAE, not LeNet"),
        (lambda: TASKS["autoencoding"](make_model("lenet")), "needs an autoencoder, and LeNet is none"),
        (lambda: make("cycle_consistency", other="thin"), "unknown task.other 'thin'"),
    ],
)
def test_tasks_that_cannot_work_are_errors(build: Callable[[], object], message: str) -> None:
    with pytest.raises(RlkitError, match=message):
        build()


@pytest.mark.parametrize(
    ("name", "scale"), [("autoencoding", "unit"), ("variational", "unit"), ("adversarial", "signed")]
)
def test_images_on_the_wrong_scale_are_errors(name: str, scale: str) -> None:
    data = images()
    task, _ = make(name)
    wrong = Inputs() if scale == "signed" else Inputs((0.5,), (0.5,))
    with pytest.raises(RlkitError, match=f"scale={scale}"):
        next(iter(task.losses(batch_of(data, wrong))))


@pytest.mark.parametrize("recipe", ["gan-8gaussians", "wgan-gp-8gaussians"])
def test_recipes_of_points_run(recipe: str, tmp_path: Path) -> None:
    fields = {"data.count": 600, "fit.epochs": 1, "fit.batch_size": 64}
    summary = train(recipe, run_dir=tmp_path / "run", **fields).summary
    assert summary["test_modes"] == 8
    assert (tmp_path / "run/samples.png").exists()
