"""Loggers, to which a run hands its metrics: CSV always, TensorBoard and Weights & Biases when asked for.

A logger is a class with `log` and `close`, built as `Class(config, run_dir, run_config)` and named in `LOGGERS`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rlkit.errors import RlkitError, check_choice, unknown
from rlkit.runs.files import atomic

STEP_KEY = "time/total_timesteps"
"""First column of an agent's metrics.csv."""
WANDB_MODES = ("offline", "online")


class Logger(Protocol):
    """The interface of loggers, which take the metrics of one log point after another."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records metrics by log key; `step` never decreases."""

    def close(self) -> None:
        """Writes everything that is still in memory."""


class CSVLogger:
    """Writes metrics.csv, one row per log point, at once; its columns are `step_key` and then the log keys.

    `resume_at` is the step from which a run is resumed: its file is continued, without the rows after that step.
    Otherwise raises RlkitError when the file exists already. Raises RlkitError when it cannot be written.
    """

    def __init__(self, run_dir: Path, step_key: str = STEP_KEY, resume_at: int | None = None) -> None:
        self._path = run_dir / "metrics.csv"
        self._step_key = step_key
        self._columns = [step_key]
        if resume_at is not None and self._path.exists():
            self._columns, rows = self._read()
            self._rewrite([row for row in rows if int(row[step_key]) <= resume_at])
            return
        try:
            self._file = self._path.open("x", newline="", encoding="utf-8")
        except OSError as error:
            raise RlkitError(f"cannot write {self._path}: {error.strerror}") from error
        self._writer = csv.DictWriter(self._file, self._columns)
        self._writer.writeheader()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Appends a row; a key that was not there before gets a new column, which is empty in earlier rows."""
        row = {**metrics, self._step_key: step}
        if new := [key for key in row if key not in self._columns]:
            self._add_columns(new)
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _add_columns(self, new: list[str]) -> None:
        self._file.close()
        rows = self._read()[1]
        self._columns += new
        self._rewrite(rows)

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        with self._path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or self._columns), list(reader)

    def _rewrite(self, rows: Iterable[Mapping[str, str]]) -> None:
        with atomic(self._path, durable=False) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        self._file = self._path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, self._columns)


@dataclass
class TensorBoardConfig:
    """TensorBoard events, in the run folder's `tensorboard/`."""


class TensorBoardLogger:
    """Writes event files for `tensorboard --logdir <run folder>`."""

    def __init__(self, config: TensorBoardConfig, run_dir: Path, run_config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_dir / "tensorboard"), flush_secs=10)
        text = "\n".join(f"    {key}: {value}" for key, value in run_config.items())
        self._writer.add_text("config", text)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Adds one scalar per metric; the files are written in the background."""
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        """Writes all events that are still in memory."""
        self._writer.close()


@dataclass
class WandbConfig:
    """Weights & Biases, in the run folder's `wandb/`."""

    mode: str = "offline"
    """`offline` needs neither a login nor a network: `wandb sync <run folder>/wandb/offline-run-*` uploads the run
    later; `online` needs `wandb login`."""
    project: str = "rlkit"
    """The project that the run belongs to."""
    entity: str | None = None
    """The user or team that owns the run; null: the user who is logged in."""
    name: str | None = None
    """The run's name; null: the name of its folder."""
    group: str | None = None
    """A group, whose runs are shown together; null: none."""
    tags: list[str] = field(default_factory=list)
    """Labels of the run."""


class WandbLogger:
    """A Weights & Biases run, whose metrics go to a process of wandb's own, which ends with this one.

    Raises RlkitError when wandb cannot start, as in mode `online` without a login or a network.
    """

    def __init__(self, config: WandbConfig, run_dir: Path, run_config: Mapping[str, Any]) -> None:
        check_choice("logger.wandb.mode", config.mode, WANDB_MODES)
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",  # otherwise wandb would wrap stdout and stderr, and disturb the progress bar
            init_timeout=20,
            finish_timeout=60,
            x_disable_stats=True,  # wandb would start another process to watch the machine
        )
        try:
            self._run = wandb.init(
                project=config.project,
                entity=config.entity,
                name=config.name or run_dir.name,
                group=config.group,
                tags=config.tags,
                mode=config.mode,  # type: ignore[arg-type]
                dir=run_dir,
                config=dict(run_config),
                settings=settings,
                reinit="create_new",
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            raise RlkitError(f"logger.wandb.mode={config.mode}: {reason} (mode=offline needs no login)") from error

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Hands the metrics to wandb's process without waiting for it."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Marks the run as finished; online, waits up to a minute for the upload."""
        self._run.finish()


class LoggerKind(NamedTuple):
    """The config dataclass and the class of a logger that `logger=[…]` can name."""

    config: type[Any]
    logger: type[Any]


LOGGERS: dict[str, LoggerKind] = {
    "tensorboard": LoggerKind(TensorBoardConfig, TensorBoardLogger),
    "wandb": LoggerKind(WandbConfig, WandbLogger),
}
"""All choices of `logger=` by name."""


def make_loggers(
    configs: Mapping[str, Any],
    run_dir: Path,
    run_config: Mapping[str, Any],
    *,
    step_key: str = STEP_KEY,
    resume_at: int | None = None,
) -> list[Logger]:
    """Makes the CSV logger, and one for each of `configs`, which maps loggers' names to their configs.

    `run_config` is the run's configuration, for loggers that show it. `step_key` and `resume_at` are for the CSV
    logger. Raises RlkitError for an unknown name, for a logger whose package is missing, and when one cannot start.
    """
    for name in configs:
        if name not in LOGGERS:
            raise unknown("logger", name, LOGGERS)
    with ExitStack() as started:
        loggers: list[Logger] = [CSVLogger(run_dir, step_key, resume_at)]
        started.callback(loggers[0].close)
        for name, config in configs.items():
            try:
                loggers.append(LOGGERS[name].logger(config, run_dir, run_config))
            except ModuleNotFoundError as error:
                raise RlkitError(f"logger={name} needs the package {error.name}: pip install {error.name}") from error
            started.callback(loggers[-1].close)
        started.pop_all()  # all of them have started, so that none is to be closed here
    return loggers
