"""A companion run from its config: builds the parts, trains, and writes the run folder with its summary."""

from __future__ import annotations

import dataclasses
import inspect
import os
import platform
import shlex
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import rlkit
from rlkit.errors import RlkitError, check_range, one_error
from rlkit.perception import checkpoint
from rlkit.perception.backbone import transfer
from rlkit.perception.checkpoint import Description
from rlkit.perception.config import PerceptionConfig
from rlkit.perception.data import DATASETS, Data
from rlkit.perception.inputs import Inputs, make_inputs
from rlkit.perception.loop import LATEST, STEP_KEY, Training
from rlkit.perception.models import MODELS, make_model
from rlkit.perception.plots import draw_curves
from rlkit.perception.task import Task
from rlkit.perception.tasks import TASKS
from rlkit.runs.loggers import make_loggers
from rlkit.runs.progress import Progress
from rlkit.runs.reading import checked, read_json
from rlkit.runs.run_folder import LostFolder, RunFolder
from rlkit.system.processes import ending_signals, handled
from rlkit.system.terminal import remarked
from rlkit.system.threads import one_thread_unless_asked


@dataclass
class Result:
    """The trained task of a companion run, its summary, and its run folder."""

    task: Task
    summary: dict[str, Any]
    run_dir: Path
    monitored: float | None = None
    """The validation metric `fit.monitor` at its best; without validation the test's, None where there is neither."""


def train(recipe: str, run_dir: str | Path | None = None, **settings: Any) -> Result:
    """Trains a companion model like `python -m rlkit.perception recipe=…`; `settings` are keys of the configuration.

    Nested keys are dotted: `**{"fit.epochs": 3}`. Raises RlkitError for any mistake in them.
    """
    from rlkit.perception.config_source import APP
    from rlkit.runs.grammar import override
    from rlkit.runs.hydra_app import compose_job

    with one_error():
        overrides = [override("recipe", recipe), *(override(key, value) for key, value in settings.items())]
        if run_dir is not None:
            overrides.append(override("hydra.run.dir", run_dir))
        job = compose_job(APP, overrides)
    return run(job.config, job.run_dir, hydra_files=job.hydra_files)


def run(config: PerceptionConfig, run_dir: Path, *, hydra_files: Mapping[str, str], resume: bool = False) -> Result:
    """Trains as configured and writes the run folder; Ctrl-C saves a checkpoint before it raises KeyboardInterrupt.

    `hydra_files` are written into the folder's .hydra/, by file name. With `resume`, the run in the folder is
    continued, and the files replace those that are there. Raises RlkitError for settings that cannot work, before
    anything is written.
    """
    config.validate()
    device = _device(config.device)
    torch.manual_seed(config.seed)
    data = make_data(config)
    inputs = make_inputs(data, scale=config.scale, resize=config.resize, augment=config.augment)
    model, fields = build_model(config, data, inputs)
    task = TASKS[config.task.name](model, **_plain(config.task))
    names = (data.classes, data.vocabulary, data.columns)
    made_of = {"name": config.data.name, **_plain(config.data)}
    description = Description(config.recipe, config.model.name, fields, inputs.describe(), *names, made_of)
    with ExitStack() as stack:
        training = Training(task, data, config.fit, inputs, seed=config.seed, device=device)
        if resume:
            folder, seconds = RunFolder.resume(run_dir), _seconds_so_far(run_dir)
            stack.callback(folder.release)
            checkpoint.resume(training, description, folder)
            folder.write_configuration(hydra_files)
        else:
            folder, seconds = RunFolder.create(run_dir, hydra_files), 0.0
            stack.callback(folder.release)
        training.loggers = make_loggers(
            *(config.logger, run_dir, asdict(config)),
            own=config.own_classes,
            step_key=STEP_KEY,
            resume_at=training.steps if resume else None,
        )
        for logger in training.loggers:
            stack.callback(logger.close)
        training.check_folder = folder.check_kept
        training.write = lambda: checkpoint.save(training, description, folder)
        done = round(training.total_samples * training.epoch / config.fit.epochs)
        progress = stack.enter_context(Progress(training.total_samples, unit="samples", done=done, latest=LATEST))
        training.progress = progress
        progress.say(f"{config.recipe}: {config.model.name} on {config.data.name}, seed {config.seed}: {run_dir}")
        for remark in data.remarks():
            progress.say(f"data: {remark}")
        count = sum(parameter.numel() for parameter in task.parameters() if parameter.requires_grad)
        progress.say(
            "{:,} samples to learn from, {:,} to validate, {:,} to test; ".format(*training.sizes)
            + f"{count:,} parameters; {device}"
        )
        started, status, results = time.perf_counter(), "failed", {}
        try:
            with _interruptible(training), one_thread_unless_asked():
                training.train()
                results = training.finish()
            folder.check_kept()
            status = "finished"
        except (KeyboardInterrupt, LostFolder) as error:  # a removed folder must not cost the model
            status = "failed" if isinstance(error, LostFolder) else "interrupted"
            with remarked("saving the model"):
                training.save()
            raise
        finally:
            seconds += time.perf_counter() - started
            summary = {
                "recipe": config.recipe,
                "data": config.data.name,
                "model": config.model.name,
                "task": config.task.name,
                "seed": config.seed,
                "device": device,
                "parameters": count,
                "epochs": training.epoch,
                "best_epoch": training.best_epoch,
                "steps": training.steps,
                "wall_time_s": round(seconds, 3),
                **results,
                "versions": {
                    "rlkit": rlkit.__version__,
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "numpy": np.__version__,
                },
                "status": status,
            }
            with nullcontext() if status == "finished" else remarked("writing the summary"):  # after the first error
                folder.write_summary(summary)
            if status == "finished":
                training.draw(run_dir)
            if (run_dir / "metrics.csv").exists():
                draw_curves(run_dir)
            with remarked("the closing words"):
                progress.say(_closing_words(summary, run_dir))
    monitored = training.monitored
    if monitored is None:
        monitored = results.get(f"test_{config.fit.monitor}")
    return Result(task, summary, run_dir, monitored)


def make_data(config: PerceptionConfig) -> Data:
    """Loads or draws the configured data set; raises RlkitError when it is missing or damaged."""
    load = DATASETS[config.data.name]
    fields = _plain(config.data)
    if "data_root" in inspect.signature(load).parameters:
        fields["data_root"] = Path(config.data_root) if config.data_root else None
    return load(**fields)


def build_model(config: PerceptionConfig, data: Data, inputs: Inputs) -> tuple[nn.Module, dict[str, Any]]:
    """Builds the network; returns it with its constructor's arguments, configured or known from the data set.

    Raises RlkitError when the network cannot read this kind of data.
    """
    shape = data.input_shape
    if inputs.resize is not None:
        shape = (shape[0], inputs.resize, inputs.resize)
    known = {"input_shape": list(shape), "num_outputs": data.num_outputs, "vocabulary_size": len(data.vocabulary)}
    taken = inspect.signature(MODELS[config.model.name]).parameters
    if "vocabulary_size" in taken and not data.vocabulary:
        raise RlkitError(f"model={config.model.name} reads texts, and data={config.data.name} are none")
    fields = _plain(config.model) | {name: value for name, value in known.items() if name in taken}
    model = make_model(config.model.name, **fields)
    if data.vectors is not None and hasattr(model, "load_vectors"):
        model.load_vectors(data.vectors)  # type: ignore[operator]
    if config.init_from is not None:
        transfer(model, config.init_from, freeze=config.freeze, names=(data.vocabulary, data.columns))
    return model, fields


def _plain(fields: Any) -> dict[str, Any]:
    return {field.name: getattr(fields, field.name) for field in dataclasses.fields(fields)}


def _device(name: str) -> str:
    if name == "cuda" and not torch.cuda.is_available():
        raise RlkitError("device=cuda: there is no GPU that this PyTorch can use; device=cpu always works")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _seconds_so_far(run_dir: Path) -> float:
    """The time that a run has taken before it is resumed; 0 if it was killed before it wrote its summary."""
    file = run_dir / "summary.json"
    if not os.path.lexists(file):
        return 0.0
    try:
        summary = checked(read_json(file), dict[str, Any], f"{file}")
        seconds: float = checked(summary.get("wall_time_s", 0.0), float, f"{file}: wall_time_s")
        check_range(f"{file}: wall_time_s", seconds, 0, 1e12)
    except RlkitError as error:
        raise RlkitError(f"{error}; the run can be resumed without this file") from error
    return seconds


@contextmanager
def _interruptible(training: Training) -> Iterator[None]:
    """Makes Ctrl-C, SIGTERM and SIGHUP stop the training after its current step; a second Ctrl-C stops it at once."""

    def stop(*_: Any) -> None:
        training.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with handled([signal.SIGINT, *ending_signals()], stop):
        yield


def _closing_words(summary: Mapping[str, Any], run_dir: Path) -> str:
    results = "  ".join(f"{key} {value:.4g}" for key, value in summary.items() if key.startswith("test_"))
    lines = [f"{summary['status']} after {summary['epochs']} epochs in {summary['wall_time_s']:.1f} s"]
    if results:
        chosen = f"the best epoch, {summary['best_epoch']}" if summary["best_epoch"] else "the last epoch"
        lines.append(f"test of {chosen}: {results}")
    for name in ("last", "best"):
        if (folder := run_dir / "checkpoints" / name).is_dir():
            lines.append(f"{name} checkpoint: {folder}")
    for name in ("metrics.csv", "summary.json"):
        if (run_dir / name).exists():
            lines.append(f"{name.partition('.')[0] + ':':<17}{run_dir / name}")
    shown = sorted(path for path in run_dir.iterdir() if path.suffix in (".png", ".txt"))
    lines += [f"{path.stem + ':':<17}{path}" for path in shown]
    if summary["status"] == "interrupted":
        lines.append(f"go on:           python -m rlkit.perception resume={shlex.quote(str(run_dir))}")
    return "\n".join(lines)
