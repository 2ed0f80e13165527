"""Edges of data sets: what has no spread, is tiny, empty, huge or not a number; and which model is the best."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rlkit import perception
from rlkit.errors import RlkitError
from rlkit.perception import FitConfig, fit
from rlkit.perception import run as runs
from rlkit.perception.backbone import transfer
from rlkit.perception.config_source import APP
from rlkit.perception.data.samples import (
    Batch,
    Data,
    TensorSamples,
    channel_statistics,
    column_statistics,
)
from rlkit.perception.inputs import Inputs, make_inputs
from rlkit.perception.loop import Training
from rlkit.perception.models import make_model
from rlkit.perception.task import Better, Loss, Task
from rlkit.perception.tasks import TASKS, Classification, Regression
from rlkit.runs.hydra_app import compose_job
from rlkit.runs.tensor_files import read_tensors, write_tensors


def training(task: Task, data: Data, **fields: Any) -> Training:
    return Training(task, data, FitConfig(**fields), Inputs(), seed=0, device="cpu")


def command(overrides: Mapping[str, Any], *, resume: bool = False) -> runs.Result:
    job = compose_job(APP, [f"{key}={value}" for key, value in overrides.items()])
    return runs.run(job.config, job.run_dir, hydra_files={} if resume else job.hydra_files, resume=resume)


# No spread


def table(train: Tensor, test: Tensor) -> Data:
    """A data set whose targets are the first column."""
    mean, std, limits = column_statistics(train)
    parts = [TensorSamples(some, some[:, :1].clone()) for some in (train, test)]
    shape = tuple(train.shape[1:])
    return Data(parts[0], None, parts[1], input_shape=shape, mean=mean, std=std, limits=limits)


def error(data: Data) -> float:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(data.input_shape[0], 16), nn.ReLU(), nn.Linear(16, 1))
    inputs = make_inputs(data, scale="auto", resize=None, augment={})
    return fit(Regression(model), data, FitConfig(epochs=60, learning_rate=0.02), inputs=inputs).metrics["test_mae"]


@pytest.mark.parametrize("constant", [0.0, 8.0, -1e-9, 1e12, 1e30])
@pytest.mark.parametrize("jitter", [0.0, 1e-7, 1e-4])
@pytest.mark.parametrize("new", [0.0, 4.0, 1e20])
def test_a_column_without_spread_costs_nothing_when_it_changes(constant: float, jitter: float, new: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=generator)
    x[:, 1] = constant * (1 + jitter * x[:, 1])
    test = x[100:].clone()
    test[:, 1] = new
    data = table(x[:100], test)
    assert data.limits[1] == 0 or jitter == 1e-4
    assert error(data) < 0.7  # of numbers that are 0.8 from 0 in the mean


@given(
    st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=20),
    st.floats(allow_nan=False, width=32),
)
def test_any_column_becomes_numbers_near_those_of_training(column: list[float], new: float) -> None:
    train = torch.tensor(column).unsqueeze(1)
    mean, std, limits = column_statistics(train)
    inputs = Inputs(mean, std, limits).eval()
    seen, unseen = inputs(train), inputs(torch.tensor([[new]]))
    assert seen.isfinite().all()
    assert unseen.isfinite().all()
    assert seen.abs().max() <= math.sqrt(len(column)) + 1e-2  # the farthest that one of n values can be
    assert unseen.abs().max() <= 2 * seen.abs().max() + 1e-3
    again = Inputs(**json.loads(json.dumps(inputs.describe())))
    assert torch.equal(again(train), seen)


def test_a_channel_without_spread() -> None:
    images = torch.randint(256, (40, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert channel_statistics(images).limits == ()  # as ever, when no pixel can be far off
    images[:, 2] = 7
    spread = channel_statistics(images)
    assert (spread.std[2], spread.limits[2]) == (1.0, 0.0)
    blue = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    blue[:, 2] = 255
    samples = TensorSamples(images, torch.zeros(40))
    data = Data(samples, None, samples, (3, 4, 4), mean=spread.mean, std=spread.std, limits=spread.limits)
    inputs = make_inputs(data, scale="standardize", resize=None, augment={})
    assert (inputs(blue)[:, 2] == 0).all()
    assert data.remarks() == ["the same in all samples to learn from, and so left out: channel 2"]


@pytest.mark.parametrize(
    ("mean", "std", "limits"), [([0.0], [0.0], []), ([0.0], [math.nan], []), ([0.0], [1.0, 1.0], []), ([], [], [1.0])]
)
def test_a_scale_that_is_none_is_refused(mean: list[float], std: list[float], limits: list[float]) -> None:
    with pytest.raises(RlkitError, match="inputs cannot be scaled by mean="):
        Inputs(mean, std, limits)


@pytest.mark.parametrize("target", [0.0, 5.0, 1e6])
def test_targets_without_spread(tmp_path: Path, target: float) -> None:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    samples = TensorSamples(x, torch.full((40, 1), target))
    data = Data(samples, samples, samples, input_shape=(3,))
    loop = training(Regression(nn.Linear(3, 1)), data, epochs=2)
    loop.train()
    assert math.isfinite(loop.finish()["test_loss"])
    loop.draw(tmp_path)
    assert (tmp_path / "predictions.png").exists()


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (1.0, 1e30, "the training targets go up to 1e.30, whose square 32 bits can't hold: expected at most 1e.18"),
        (math.nan, 1.0, "the training inputs have NaN or infinity, first in sample 3: expected numbers"),
        (1.0, -math.inf, "the training targets have NaN or infinity, first in sample 3"),
        (
            1e38,
            1.0,
            r"the loss is (inf|nan) in step 1 \(epoch 1\); the data's numbers are too large for 32 bits: scale=",
        ),
    ],
)
def test_numbers_that_cannot_be_computed_with(inputs: float, targets: float, message: str) -> None:
    samples = TensorSamples(torch.ones(8, 2), torch.ones(8, 1))
    samples.inputs[3, 1], samples.targets[3, 0] = inputs, targets
    with pytest.raises(RlkitError, match=message):
        training(Regression(nn.Linear(2, 1)), Data(samples, None, samples, (2,)), epochs=2).train()


# The best


class Measured(Task):
    """Its validation metrics go through a script."""

    better: Mapping[str, Better] = {"loss": "smaller", "error": "smaller", "score": "larger"}

    def __init__(self, script: list[float]) -> None:
        super().__init__(nn.Linear(1, 1))
        self.script = script

    def losses(self, batch: Batch) -> Iterator[Loss]:
        yield Loss("model", self.model(batch.inputs).square().mean())

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        value = torch.tensor(self.script.pop(0))
        return {"loss": torch.zeros(()), "error": value, "score": value, "other": value}


def one() -> Data:
    samples = TensorSamples(torch.zeros(2, 1), torch.zeros(2, 1))
    return Data(samples, samples, samples, (1,))


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=6), st.sampled_from(["error", "score"]))
@settings(deadline=None)
def test_the_best_epoch_is_the_best_in_the_metrics_own_direction(script: list[float], monitor: str) -> None:
    loop = training(Measured([*script]), one(), epochs=len(script), monitor=monitor)
    loop.train()
    best = min(script) if monitor == "error" else max(script)
    assert loop.best_epoch == script.index(best) + 1


@pytest.mark.parametrize(("monitor", "epochs"), [("error", 5), ("score", 4)])
def test_patience_knows_the_direction(monitor: str, epochs: int) -> None:
    loop = training(Measured([3.0, 4.0, 2.0, 2.5, 2.5, 2.5]), one(), epochs=6, monitor=monitor, patience=2)
    loop.train()
    assert loop.epoch == epochs


@pytest.mark.parametrize("monitor", ["other", "eror", "val/loss", ""])
def test_a_metric_without_a_direction_is_refused_before_the_first_step(monitor: str) -> None:
    with pytest.raises(RlkitError, match=rf"unknown fit.monitor '{monitor}'.*\(known: error, loss, score\)"):
        training(Measured([]), one(), monitor=monitor)


def test_a_direction_that_is_none_is_refused() -> None:
    task = Measured([])
    task.better = {"loss": "min"}  # type: ignore[dict-item]
    with pytest.raises(RlkitError, match=r"unknown Measured.better of loss 'min' \(known: larger, smaller\)"):
        training(task, one())


@pytest.mark.parametrize("name", TASKS)
def test_every_tasks_directions_are_of_metrics_that_it_measures(name: str) -> None:
    from test_perception_tasks import CASES, batch_of, images, make

    assert TASKS[name].better["loss"] == "smaller"
    if name in CASES:
        task, inputs = make(name)
        task.eval()
        with torch.no_grad():
            assert set(task.better) <= set(task.measure(batch_of(images(), inputs)))


def test_an_autoencoder_monitored_by_its_error_keeps_the_best_epoch(tmp_path: Path) -> None:
    overrides = {
        "recipe": "lenet-digits",
        "model": "autoencoder",
        "+model.hidden_sizes": "[8]",
        "+model.latent_size": 2,
        "task": "autoencoding",
        "scale": "unit",
        "fit.monitor": "mse",
        "fit.epochs": 3,
        "hydra.run.dir": tmp_path / "run",
    }
    job = compose_job(APP, [f"{key.lstrip('+')}={value}" for key, value in overrides.items()])
    result = runs.run(job.config, job.run_dir, hydra_files=job.hydra_files)
    assert result.summary["best_epoch"] == 3  # it learns
    with pytest.raises(RlkitError, match=r"unknown fit.monitor 'accuracy' \(known: loss, mae\)"):
        perception.train("lenet-digits", run_dir=tmp_path / "no", task="regression", **{"fit.monitor": "accuracy"})
    assert not (tmp_path / "no").exists()


def test_another_monitor_seeks_its_best_anew() -> None:
    loop = training(Measured([0.1, 0.2]), one(), epochs=2, monitor="error")
    loop.train()
    tensors, numbers = loop.state()
    assert loop.best_epoch == 1
    same = training(Measured([0.3]), one(), epochs=3, monitor="error")
    same.load_state(tensors, json.loads(json.dumps(numbers)))
    same.train()
    assert same.best_epoch == 1
    for monitor, old in (("score", numbers), ("error", {k: v for k, v in numbers.items() if k != "monitor"})):
        other = training(Measured([-5.0]), one(), epochs=3, monitor=monitor)
        other.load_state(tensors, json.loads(json.dumps(old)))
        other.train()
        assert (other.best_epoch, other.best) == (3, 5.0 if monitor == "score" else -5.0)


# Tiny and empty


@pytest.mark.parametrize("count", [2, 3, 8, 9, 17])
@pytest.mark.parametrize("size", [2, 4, 8, 100])
@pytest.mark.parametrize("drop_last", [False, True])
def test_every_sample_is_learned_from_in_batches_that_are_large_enough(count: int, size: int, drop_last: bool) -> None:
    model = make_model("mlp", input_shape=[2], num_outputs=2, hidden_sizes=[4], batch_norm=True)
    samples = TensorSamples(torch.randn(count, 2), torch.zeros(count, dtype=torch.long))
    data = Data(samples, None, samples, (2,), num_outputs=2)
    loop = training(Classification(model), data, epochs=2, batch_size=size, drop_last=drop_last)
    sizes = [len(batch.inputs) for batch in loop.batches()]
    assert len(sizes) == loop.batches_per_epoch
    assert min(sizes) >= 2
    assert sum(sizes) == (count // size * size or count) if drop_last else count
    loop.train()


def test_without_batch_normalisation_a_last_batch_of_one_stays() -> None:
    samples = TensorSamples(torch.randn(9, 1), torch.zeros(9, 1))
    loop = training(Regression(nn.Linear(1, 1)), Data(samples, None, samples, (1,)), batch_size=4)
    assert [len(batch.inputs) for batch in loop.batches()] == [4, 4, 1]


@pytest.mark.parametrize(("count", "size"), [(1, 4), (3, 1)])
def test_batch_normalisation_of_one_value_is_one_line(count: int, size: int) -> None:
    samples = TensorSamples(torch.randn(count, 2), torch.zeros(count, 1))
    task = Regression(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)))
    with pytest.raises(
        RlkitError, match="normalisation can't be trained on 1 value per channel: expected fit.batch_si"
    ):
        training(task, Data(samples, None, samples, (2,)), batch_size=size).train()


@pytest.mark.parametrize("recipe", ["lenet-digits", "moons-depth", "gan-8gaussians"])
def test_without_a_test_there_are_no_results(tmp_path: Path, recipe: str) -> None:
    result = command({"recipe": recipe, "data.test": 0, "fit.epochs": 1, "hydra.run.dir": tmp_path / "run"})
    assert result.summary["status"] == "finished"
    assert not any(key.startswith("test_") for key in result.summary)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_empty_parts(part: str) -> None:
    full, empty = TensorSamples(torch.ones(4, 1), torch.ones(4, 1)), TensorSamples(torch.ones(0, 1), torch.ones(0, 1))
    train, validation, test = (empty if name == part else full for name in ("train", "validation", "test"))
    data = Data(train, validation, test, input_shape=(1,))
    if part == "train":
        with pytest.raises(RlkitError, match="there are no samples to learn from: expected 1 or more"):
            fit(Regression(nn.Linear(1, 1)), data, FitConfig(epochs=1))
        return
    fitted = fit(Regression(nn.Linear(1, 1)), data, FitConfig(epochs=2))
    assert (fitted.best_epoch is None) == (part == "validation")
    assert bool(fitted.metrics) == (part != "test")


@pytest.mark.parametrize("where", ["last", "middle"])
@pytest.mark.parametrize("validation", [False, True])
def test_an_overflow_is_not_a_finished_run(where: str, validation: bool) -> None:
    written = []

    class Overflowing(Training):
        def step(self, batch: Batch) -> None:
            super().step(batch)
            if self.steps == (4 if where == "last" else 2):
                with torch.no_grad():
                    next(self.task.parameters()).fill_(math.inf)

    samples = TensorSamples(torch.ones(8, 1), torch.ones(8, 1))
    data = Data(samples, samples if validation else None, samples, (1,))
    config = FitConfig(epochs=2, batch_size=4, checkpoint_interval=1)
    loop = Overflowing(Regression(nn.Linear(1, 1)), data, config, Inputs(), seed=0, device="cpu")
    loop.write = lambda: written.append(loop.steps)
    with pytest.raises(RlkitError, match="training diverged: .* is (inf|nan) in step"):
        loop.train()
    assert written == ([2] if where == "last" else [])  # the last good one


def test_a_recipe_that_overflows_in_its_last_step_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlkit.perception.config.LARGEST_RATE", 1e39)
    overrides = {
        "recipe": "sine-polynomial",
        "fit.epochs": 1,
        "fit.optimizer": "sgd",
        "fit.learning_rate": 1e38,
        "hydra.run.dir": tmp_path / "run",
    }
    with pytest.raises(RlkitError, match="training diverged"):
        command(overrides)
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "failed"


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("name", ["autoencoding", "variational", "adversarial", "cycle_consistency"])
def test_generative_tasks_of_few_images(
    tmp_path: Path, name: str, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    from test_perception_tasks import images, make

    task, inputs = make(name)
    data = images(count)
    if count == 1 and name == "cycle_consistency":
        with pytest.raises(RlkitError, match="needs batches of 2 images or more"):
            fit(task, data, FitConfig(epochs=1), inputs=inputs)
        return
    loop = Training(task, data, FitConfig(epochs=1, batch_size=2), inputs, seed=0, device="cpu")
    loop.train()
    assert math.isfinite(loop.finish()["test_loss"])
    loop.draw(tmp_path)
    assert capsys.readouterr().err == ""
    assert list(tmp_path.iterdir())


# An index that knows what it is an index of


@pytest.fixture(scope="module")
def folder_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from test_perception_folder import write_class

    root = tmp_path_factory.mktemp("data")
    for name in ("cats", "dogs"):
        write_class(root / "mine", name)
    command(folder_overrides(root))
    return root


def folder_overrides(root: Path) -> dict[str, Any]:
    small = {"model.channel_divisor": 16, "data.image_size": 8, "data.folder": "mine", "fit.epochs": 1, "augment": "{}"}
    return {"recipe": "custom-dataset", "data_root": root, "hydra.run.dir": root / "run", **small}


@pytest.mark.parametrize("change", ["none", "class", "image", "asked"])
def test_a_resumed_run_has_the_data_that_it_began_with(folder_run: Path, tmp_path: Path, change: str) -> None:
    from test_perception_folder import write_class

    shutil.copytree(folder_run, tmp_path / "data")
    root = tmp_path / "data"
    again = folder_overrides(root) | {"fit.epochs": 2}
    if change == "class":
        write_class(root / "mine", "birds")
    if change == "image":
        shutil.copy(root / "mine/cats/0.png", root / "mine/cats/9.png")
    if change == "asked":
        again["data.test"] = 0.3
    if change in ("none", "asked"):
        assert command(again, resume=True).summary["epochs"] == 2
        return
    message = {
        "class": "the classes of its data have changed: new: birds; put the data back, or start a new run",
        "image": r"its data set had 8 \+ 2 \+ 2 samples \(to learn, to validate, to test\) and now has 7 \+ 3 \+ 3",
    }[change]
    with pytest.raises(RlkitError, match=message):
        command(again, resume=True)


def test_words_that_are_numbered_otherwise_are_not_transferred(tmp_path: Path) -> None:
    reviews = tmp_path / "imdb"
    reviews.mkdir()

    def write(words: str) -> None:
        rows = [f"{word} film {word},{i % 2}" for i, word in enumerate(words.split() * 4)]
        (reviews / "imdb.csv").write_text("\n".join(["text,label", *rows]) + "\n")

    def overrides(name: str) -> dict[str, Any]:
        small = {"data.vocabulary": 6, "data.words": 4, "fit.epochs": 1, "model.embedding_size": 4}
        small |= {"model.hidden_size": 4}
        return {"recipe": "imdb-gru", "data_root": tmp_path, "hydra.run.dir": tmp_path / name, **small}

    write("good bad fine poor")
    command(overrides("first"))
    assert command({**overrides("second"), "init_from": tmp_path / "first"}).summary["status"] == "finished"
    write("great worst fine poor")
    with pytest.raises(RlkitError, match=r"init_from=.*first numbers the words of its inputs otherwise: new: "):
        command({**overrides("third"), "init_from": tmp_path / "first"})
    with pytest.raises(RlkitError, match="the vocabulary of its data have changed: new: "):
        command(overrides("first"), resume=True)


def test_columns_that_are_numbered_otherwise_are_not_transferred(tmp_path: Path) -> None:
    folder = tmp_path / "auto-mpg"
    folder.mkdir()
    cars = [f"8,{300 + i},130.0,3504.0,12.0,{70 + i},{i % 3 + 1},a car,{18 + i}.0" for i in range(12)]
    (folder / "auto-mpg.csv").write_text("\n".join(cars) + "\n")
    overrides = {"recipe": "auto-mpg", "data_root": tmp_path, "fit.epochs": 1, "hydra.run.dir": tmp_path / "run"}
    result = command(overrides)
    model = result.task.model
    columns = tuple(json.loads((tmp_path / "run/checkpoints/last/model.json").read_text())["columns"])
    assert columns[:2] == ("cylinders", "displacement")
    transfer(model, tmp_path / "run", freeze=False, names=((), columns))
    with pytest.raises(
        RlkitError, match="numbers the columns of its inputs otherwise: number 0 was cylinders and is J"
    ):
        transfer(model, tmp_path / "run", freeze=False, names=((), columns[::-1]))


def test_a_judge_of_other_classes_is_refused_before_the_first_step(tmp_path: Path) -> None:
    from test_perception_tasks import images, make

    command({"recipe": "lenet-digits", "fit.epochs": 1, "hydra.run.dir": tmp_path / "judge"})
    task, inputs = make("adversarial", features_from=str(tmp_path / "judge"))
    data = images()
    named = Data(data.train, None, data.test, data.input_shape, num_outputs=2, classes=("up", "down"))
    with pytest.raises(
        RlkitError, match="tells the classes 0, 1, 2, .*: expected those of the data, up, down, in this"
    ):
        Training(task, named, FitConfig(), inputs, seed=0, device="cpu")


def test_two_classes_of_one_name_are_refused() -> None:
    samples = TensorSamples(torch.ones(4, 1), torch.ones(4, 1))
    with pytest.raises(RlkitError, match="the classes are a, b, a: expected each name once"):
        Data(samples, None, samples, (1,), num_outputs=3, classes=("a", "b", "a"))


def test_a_checkpoint_of_an_earlier_version_has_no_fingerprint(folder_run: Path, tmp_path: Path) -> None:
    shutil.copytree(folder_run / "run/checkpoints/last", tmp_path / "last")
    tensors, metadata = read_tensors(tmp_path / "last/model.safetensors")
    write_tensors(tmp_path / "last/model.safetensors", tensors, {"epoch": metadata["epoch"]})
    old = json.loads((tmp_path / "last/model.json").read_text())
    (tmp_path / "last/model.json").write_text(
        json.dumps({k: v for k, v in old.items() if k not in ("columns", "data")})
    )
    assert perception.Backbone.load(tmp_path / "last").description is not None
