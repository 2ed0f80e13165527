"""Companion runs from the command line and from Python: the folder they leave, resuming, and mistakes."""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor
from waiting import PATIENCE, rows_in, wait_until

from rlkit import perception
from rlkit.errors import RlkitError
from rlkit.perception.__main__ import main
from rlkit.perception.checkpoint import load_model
from rlkit.perception.config_source import APP, recipes
from rlkit.perception.loop import Training
from rlkit.perception.optimization import learning_rate_factor
from rlkit.runs.hydra_app import compose_job
from rlkit.runs.run_folder import LostFolder, RunFolder
from rlkit.runs.tensor_files import read_tensors

ROOT = Path(__file__).resolve().parents[1]
QUICK = {"fit.epochs": 2, "data.image_size": 8, "model": "mlp"}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return perception.train("lenet-digits", run_dir=tmp_path_factory.mktemp("runs") / "run", **QUICK)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of `python -m rlkit.perception …`, in this process."""
    monkeypatch.setattr(sys, "argv", ["rlkit.perception", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def rows_of(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_its_folder(result: Any) -> None:
    summary = json.loads((result.run_dir / "summary.json").read_text())
    assert summary == json.loads(json.dumps(result.summary))
    for key in ("recipe", "seed", "epochs", "wall_time_s", "test_loss", "test_accuracy"):
        assert key in summary
    assert (summary["recipe"], summary["epochs"], summary["status"]) == ("lenet-digits", 2, "finished")
    assert 0.2 < summary["test_accuracy"] <= 1
    files = {path.relative_to(result.run_dir).as_posix() for path in result.run_dir.rglob("*") if path.is_file()}
    model = [
        f"checkpoints/{which}/{name}" for which in ("best", "last") for name in ("model.json", "model.safetensors")
    ]
    hydra = [f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides")]
    expected = {
        "summary.json",
        "metrics.csv",
        "curves.png",
        ".lock",
        "checkpoints/last/training.safetensors",
        *model,
        *hydra,
    }
    assert files == expected
    rows = rows_of(result.run_dir)
    assert [float(row["time/epoch"]) for row in rows] == [1, 2]
    assert next(iter(rows[0])) == "time/step"


def test_a_saved_model_gives_the_same_outputs(result: Any) -> None:
    model, inputs, description = load_model(result.run_dir)
    assert description.classes == tuple("0123456789")
    images = torch.rand(5, 1, 8, 8)
    expected = result.task.eval().model((images - inputs.mean) / inputs.std)
    with torch.no_grad():
        assert torch.equal(model(inputs(images)), expected)


def test_every_recipe_composes() -> None:
    for recipe in recipes():
        config = compose_job(APP, [f"recipe={recipe}", "init_from=runs/a-run"]).config  # `transfer` needs one
        assert config.recipe == recipe


def test_recipes_can_be_overridden_in_every_group() -> None:
    overrides = ["recipe=lenet-mnist", "model=resnet", "model.depth=34", "fit.optimizer=sgd", "augment={crop:4}"]
    config = compose_job(APP, overrides).config
    assert (config.model.name, config.model.depth, config.fit.optimizer) == ("resnet", 34, "sgd")
    assert (config.augment, config.data.name) == ({"crop": 4.0}, "mnist")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recipe=lenet-mnst"], "unknown recipe 'lenet-mnst'; did you mean 'lenet-mnist'?"),
        (["model=resnt"], "unknown model 'resnt'; did you mean 'resnet'?"),
        (["data=mnst"], "unknown data 'mnst'; did you mean 'mnist'?"),
        (["task=clasification"], "unknown task 'clasification'; did you mean 'classification'?"),
        (["model.varient=relu"], "unknown key 'model.varient'; did you mean 'model.variant'?"),
        (["fit.epoch=3"], "unknown key 'fit.epoch'; did you mean 'fit.epochs'?"),
        (["fit.epochs=many"], "fit.epochs: Value 'many' of type 'str' could not be converted to Integer"),
        (["model=resnet", "model.depth=deep"], "model.depth: Value 'deep' of type 'str' could not be converted to Int"),
        (["model.variant=rellu"], "unknown variant 'rellu'; did you mean 'relu'?"),
        (["augment={flipp:0.5}"], "unknown augmentation 'flipp'; did you mean 'flip'?"),
        (["augment={flip:2}"], "augment.flip=2.0 is out of range: it must be at least 0 and at most 1"),
        (["data.image_size=4"], "images of 4 x 4 are too small for lenet: it needs at least"),
        (["model=text_classifier"], "model=text_classifier reads texts, and data=digits are none"),
        (["freeze=true"], "freeze=true needs init_from=RUN"),
        (["init_from=nowhere"], "there is no run folder or checkpoint nowhere"),
        (
            ["recipe=lenet-mnist"],
            "the data set mnist comes in files, and neither data_root=FOLDER nor the var",
        ),
        (
            ["recipe=lenet-mnist", "data_root=nowhere"],
            "`python -m rlkit.perception.fetch mnist data_root=nowhere`",
        ),
        (["resume=nowhere"], "nowhere cannot be resumed: cannot read "),
        (["--epochs=3"], "cannot read '--epochs=3': expected key=value"),
        (["device=cuda"], "device=cuda: there is no GPU"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLKIT_DATA", raising=False)
    assert command(monkeypatch, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_and_resume_goes_on_as_if_nothing_had_been(
    number: signal.Signals,
    result: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir = tmp_path / "run"
    slow = [f"{key}={value}" for key, value in {**QUICK, "fit.epochs": 2000}.items()]
    arguments = ["-m", "rlkit.perception", "recipe=lenet-digits", f"hydra.run.dir={run_dir}", *slow]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, *arguments], env=environment, stderr=subprocess.PIPE, text=True)
    metrics = run_dir / "metrics.csv"
    wait_until(lambda: process.poll() is not None or rows_in(metrics) > 1)
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert f"python -m rlkit.perception resume={run_dir}" in err
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["status"], summary["epochs"] < 2000) == ("interrupted", True)

    until = summary["epochs"] + 3
    assert command(monkeypatch, f"resume={run_dir}", f"fit.epochs={until}", "fit.schedule=constant") == 0
    again = json.loads((run_dir / "summary.json").read_text())
    assert (again["status"], again["epochs"]) == ("finished", until)
    assert again["wall_time_s"] > summary["wall_time_s"]
    stored = {name: OmegaConf.load(run_dir / ".hydra" / f"{name}.yaml") for name in ("config", "overrides")}
    assert (stored["config"].fit.epochs, stored["config"].fit.schedule) == (until, "constant"), "what changed is stored"
    assert list(stored["overrides"])[-2:] == [f"fit.epochs={until}", "fit.schedule=constant"]
    steps = [int(row["time/step"]) for row in rows_of(run_dir)]
    assert steps == sorted(set(steps))
    assert command(monkeypatch, f"resume={result.run_dir.parent}") == 2


def test_a_resumed_run_ends_where_the_whole_one_does(result: Any, tmp_path: Path) -> None:
    """One run of two epochs, and one whose Ctrl-C comes after the first: the same models, bit by bit."""
    from rlkit.perception import run as runs
    from rlkit.perception.loop import Training

    class Stopped(Training):
        def log(self) -> None:
            super().log()
            self.interrupted = self.epoch == 1

    overrides = ["recipe=lenet-digits", f"hydra.run.dir={tmp_path / 'run'}"]
    overrides += [f"{key}={value}" for key, value in QUICK.items()]
    job = compose_job(APP, overrides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "Training", Stopped)
        with pytest.raises(KeyboardInterrupt):
            runs.run(job.config, job.run_dir, hydra_files=job.hydra_files)
    resumed = runs.run(job.config, job.run_dir, hydra_files={}, resume=True)
    assert resumed.summary["test_loss"] == result.summary["test_loss"]
    for which in ("last", "best"):
        file = Path("checkpoints") / which / "model.safetensors"
        (mine, about_mine), (theirs, about_theirs) = (read_tensors(run / file) for run in (job.run_dir, result.run_dir))
        assert about_mine == about_theirs
        assert all(torch.equal(mine[name], theirs[name]) for name in mine | theirs)


def test_a_run_that_is_stopped_in_its_test_is_resumed_there(result: Any, tmp_path: Path) -> None:
    from rlkit.perception import run as runs
    from rlkit.perception.loop import Training

    class Stopped(Training):
        def finish(self) -> dict[str, float]:
            self.interrupted = True
            return super().finish()

    overrides = ["recipe=lenet-digits", f"hydra.run.dir={tmp_path / 'run'}"]
    job = compose_job(APP, overrides + [f"{key}={value}" for key, value in QUICK.items()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "Training", Stopped)
        with pytest.raises(KeyboardInterrupt):
            runs.run(job.config, job.run_dir, hydra_files=job.hydra_files)
    assert json.loads((job.run_dir / "summary.json").read_text())["status"] == "interrupted"
    resumed = runs.run(job.config, job.run_dir, hydra_files={}, resume=True)
    assert resumed.summary["test_loss"] == result.summary["test_loss"]
    mine, theirs = (
        read_tensors(run / "checkpoints/last/model.safetensors")[0] for run in (job.run_dir, result.run_dir)
    )
    assert all(torch.equal(mine[name], theirs[name]) for name in mine | theirs)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_tensorboard_has_the_values_of_metrics_csv_after_a_real_interruption(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    run_dir = tmp_path / "run"
    settings = {"data.count": 40, "data.validation": 0.3, "fit.epochs": 100_000, "fit.checkpoint_interval": 10}
    arguments = ["recipe=moons-depth", f"hydra.run.dir={run_dir}", "logger=tensorboard", "fit.schedule=constant"]
    arguments += [f"{key}={value}" for key, value in settings.items()]
    command_line = [sys.executable, "-m", "rlkit.perception", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command_line, env=environment, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: process.poll() is not None or rows_in(run_dir / "metrics.csv") > 25)
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    before = rows_of(run_dir)
    # TensorBoard reads files in the order of their names, which have whole seconds and then the process in them.
    started = max(int(file.name.split(".")[3]) for file in (run_dir / "tensorboard").glob("events.out.tfevents.*"))
    wait_until(lambda: int(time.time()) > started)
    until = int(float(before[-1]["time/epoch"])) + 5
    assert command(monkeypatch, f"resume={run_dir}", f"fit.epochs={until}") == 0

    rows = rows_of(run_dir)
    steps = [int(row["time/step"]) for row in rows]
    assert steps == sorted(set(steps))
    assert float(rows[-1]["time/epoch"]) == until
    events = accumulator.EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    keys = [key for key in rows[0] if key != "time/step"]
    assert sorted(events.Tags()["scalars"]) == sorted(keys)
    for key in keys:
        expected = [(int(row["time/step"]), float(row[key])) for row in rows if row[key]]
        found = [(event.step, event.value) for event in events.Scalars(key)]
        assert [step for step, _ in found] == [step for step, _ in expected], key
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-5), key


def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    """Killed in its fourth epoch, with a checkpoint after each second: as good as never killed, and no row twice."""
    from rlkit.perception import run as runs
    from rlkit.perception.loop import Training

    class Kill(BaseException):
        pass

    class Killed(Training):
        def log(self) -> None:
            super().log()
            if self.epoch == 3:
                raise Kill

    results = []
    for name in ("whole", "killed"):
        settings = {**QUICK, "fit.epochs": 5, "fit.checkpoint_interval": 2, "hydra.run.dir": tmp_path / name}
        job = compose_job(APP, ["recipe=lenet-digits", *(f"{key}={value}" for key, value in settings.items())])
        if name == "killed":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(runs, "Training", Killed)
                with pytest.raises(Kill):
                    runs.run(job.config, job.run_dir, hydra_files=job.hydra_files)
            assert [row["time/epoch"] for row in rows_of(job.run_dir)] == ["1.0", "2.0", "3.0"]
        results.append(runs.run(job.config, job.run_dir, hydra_files=job.hydra_files, resume=name == "killed"))
        assert [float(row["time/epoch"]) for row in rows_of(job.run_dir)] == [1, 2, 3, 4, 5]
    whole, killed = (result.summary for result in results)
    assert (whole["test_loss"], whole["best_epoch"]) == (killed["test_loss"], killed["best_epoch"])
    again = runs.run(job.config, job.run_dir, hydra_files={}, resume=True)  # finished: nothing left to train
    assert (again.summary["steps"], again.summary["test_loss"]) == (killed["steps"], killed["test_loss"])
    assert len(rows_of(job.run_dir)) == 5


def test_a_diverged_run_keeps_its_last_good_checkpoint(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = {**QUICK, "fit.epochs": 10, "fit.optimizer": "sgd", "fit.schedule": "constant"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlkit.perception.config.LARGEST_RATE", 1e9)
        with pytest.raises(RlkitError, match=r"training diverged: the loss is (nan|inf) in step \d+ \(epoch 1\)"):
            perception.train("lenet-digits", run_dir=run_dir, **{**settings, "fit.learning_rate": 1e9})
    assert json.loads((run_dir / "summary.json").read_text())["status"] == "failed"

    with pytest.MonkeyPatch.context() as patch:  # diverges later: the checkpoint of the second epoch stays

        def exploding(config: Any, step: int, total: int, epoch: int) -> float:
            return learning_rate_factor(config, step, total, epoch) * (1e12 if epoch > 1 else 1)

        patch.setattr("rlkit.perception.loop.learning_rate_factor", exploding)
        with pytest.raises(RlkitError, match=r"\(epoch 3\)"):
            perception.train("lenet-digits", run_dir=tmp_path / "later", **settings)
    model, _, _ = load_model(tmp_path / "later" / "checkpoints" / "last")
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_transfer_starts_from_another_runs_features(result: Any, tmp_path: Path) -> None:
    settings = {**QUICK, "fit.epochs": 1, "init_from": str(result.run_dir), "freeze": True}
    moved = perception.train("lenet-digits", run_dir=tmp_path / "run", **settings)
    source, _, _ = load_model(result.run_dir)
    before, after = source.state_dict(), moved.task.model.state_dict()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) != name.startswith("head."), name
    with pytest.raises(RlkitError, match="holds another network: mlp"):
        perception.train("lenet-digits", run_dir=tmp_path / "other", init_from=str(result.run_dir))


def test_help_lists_every_group(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(monkeypatch, "--help", "model=resnet") == 0
    text = capsys.readouterr().out
    for part in ("recipe=NAME", "lenet-mnist", "model.depth=18", "fit.learning_rate=0.001", "data=NAME", "  seed=0"):
        assert part in text


def test_every_recipe_and_every_file_and_key_of_a_run_is_documented(result: Any) -> None:
    page = (ROOT / "docs/perception.md").read_text()
    for recipe in recipes():
        assert f"`{recipe}`" in page, recipe
    named = set(re.findall(r"`([^`]+)`", re.sub("```.*?```", "", page, flags=re.DOTALL)))
    assert set(result.summary) <= named
    for key in rows_of(result.run_dir)[0]:
        assert {key, f"{key.partition('/')[0]}/<metric>"} & named, key
    for name in ("curves.png", "checkpoints/*/model.safetensors", "checkpoints/*/model.json"):
        assert name in named


def test_a_sweep_trains_every_combination(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = [
        "-m",
        "recipe=himmelblau",
        "model.start=[4,0],[1,0]",
        "fit.epochs=2,3",
        f"hydra.sweep.dir={tmp_path / 's'}",
    ]
    assert command(monkeypatch, *sweep) == 0
    summaries = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("s/*/summary.json"))]
    assert [summary["epochs"] for summary in summaries] == [2, 3, 2, 3]
    assert len({summary["test_loss"] for summary in summaries}) == 4


def test_the_benchmark_trains_what_is_missing_and_makes_a_table(tmp_path: Path) -> None:
    where = ["--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")]
    script, environment = str(ROOT / "benchmarks/perception.py"), {**os.environ, "PYTHONPATH": str(ROOT)}

    def benchmark(*arguments: str) -> str:
        command = [sys.executable, script, *where, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert benchmark("--recipe", "himmelblau", "fit.epochs=3").startswith("himmelblau seed 0: test_loss")
    assert benchmark("--recipe", "himmelblau", "fit.epochs=3") == ""
    (row,) = [line for line in benchmark("--table").splitlines() if line.startswith("| himmelblau")]
    summary = json.loads((tmp_path / "runs/himmelblau-seed0/summary.json").read_text())
    assert f"loss {summary['test_loss']:.4g}" in row
    assert row in (tmp_path / "results/perception.md").read_text()


def test_a_run_that_goes_on_is_not_resumed_a_second_time(
    result: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in result.run_dir.rglob("*") if path.is_file()}
    running = RunFolder.resume(result.run_dir)
    try:
        before[result.run_dir / ".lock"] = (result.run_dir / ".lock").stat().st_mtime_ns
        assert command(monkeypatch, f"resume={result.run_dir}", "fit.epochs=3") == 2
    finally:
        running.release()
    (line,) = capsys.readouterr().err.splitlines()
    assert f"the run folder {result.run_dir} is in use by" in line
    assert {path: path.stat().st_mtime_ns for path in result.run_dir.rglob("*") if path.is_file()} == before


def test_a_run_whose_folder_is_removed_says_so_and_still_saves_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = Training.validate

    def remove(self: Training) -> None:
        validate(self)
        if self.epoch == 2:
            shutil.rmtree(tmp_path / "run")

    monkeypatch.setattr(Training, "validate", remove)
    with pytest.raises(LostFolder, match="was removed during the run"):
        perception.train("lenet-digits", run_dir=tmp_path / "run", **{**QUICK, "fit.epochs": 3})
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    assert load_model(tmp_path / "run" / "checkpoints" / "last")[2].model == "mlp"


@pytest.mark.parametrize("validation", [0.0, 0.2])
def test_the_best_model_is_never_saved_as_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, validation: float
) -> None:
    finish = Training.finish
    held: dict[str, Tensor] = {}

    def remove(self: Training) -> dict[str, float]:
        results = finish(self)
        held.update(self.task.state_dict())  # by now the parameters of the best epoch, if there was a validation
        shutil.rmtree(tmp_path / "run")
        return results

    monkeypatch.setattr(Training, "finish", remove)
    settings = {**QUICK, "data.validation": validation, "fit.restore_best": True}
    with pytest.raises(LostFolder, match="was removed during the run"):
        perception.train("lenet-digits", run_dir=tmp_path / "run", **settings)
    which = "best" if validation else "last"
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [which]
    saved, _ = read_tensors(tmp_path / "run" / "checkpoints" / which / "model.safetensors")
    assert all(torch.equal(saved[name], held[name]) for name in held)
