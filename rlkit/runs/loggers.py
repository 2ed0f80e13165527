"""Loggers, to which a run hands its metrics: CSV always, TensorBoard and Weights & Biases when asked for.

A logger is a class with `log` and `close`, built as `Class(config, run_dir, run_config)`. Ours are named in `LOGGERS`,
a user's own by its dotted path; the dataclass of its fields is the one that it names in its body: `config: MyConfig`.
"""

from __future__ import annotations

import csv
import inspect
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rlkit.errors import RlkitError, check_choice, unknown
from rlkit.runs.files import atomic
from rlkit.runs.reading import read_rows
from rlkit.system.dotted_paths import config_class, find_class, installed, is_dotted_path
from rlkit.system.terminal import remark, remarked, say

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
    Otherwise raises RlkitError when the file exists already. Raises RlkitError when it cannot be written at the start.
    Later, as on a full disk, rows wait until they can be written, and a remark says so.
    """

    def __init__(self, run_dir: Path, step_key: str = STEP_KEY, resume_at: int | None = None) -> None:
        self._path = run_dir / "metrics.csv"
        self._step_key = step_key
        self._columns = [step_key]
        self._waiting: list[dict[str, Any]] = []
        self._told = False
        if resume_at is not None and os.path.lexists(self._path):
            self._columns, rows = self._read()
            self._rewrite((row for row in rows if int(row[step_key]) <= resume_at), self._columns)
            return
        try:
            self._file = self._path.open("x", newline="", encoding="utf-8")
        except OSError as error:
            raise RlkitError(f"cannot write {self._path}: {error.strerror}") from error
        self._writer = csv.DictWriter(self._file, self._columns)
        self._writer.writeheader()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Appends a row; a key that was not there before gets a new column, which is empty in earlier rows.

        A file that somebody has removed is begun again.
        """
        self._waiting.append({**metrics, self._step_key: step})
        try:
            self._write_waiting()
        except (OSError, RlkitError) as error:
            if not self._told:
                say(remark(f"writing {self._path}", error), "stderr")
            self._told = True

    def close(self) -> None:
        """Closes the file."""
        with remarked(f"writing {self._path}"):
            if self._waiting:
                self._write_waiting()
            self._file.close()

    def _write_waiting(self) -> None:
        new = [key for key in {key: None for row in self._waiting for key in row} if key not in self._columns]
        if not self._path.exists():
            self._file.close()
            self._rewrite([], [*self._columns, *new])
        elif new or self._file.closed:
            self._file.close()
            self._rewrite(self._read()[1], [*self._columns, *new])
        while self._waiting:
            self._writer.writerow(self._waiting.pop(0))  # from here on, the file's own buffer keeps it
        self._file.flush()

    def _read(self) -> tuple[list[str], Iterator[dict[str, str]]]:
        """Returns the columns and the rows of the file as it is."""
        rows = read_rows(self._path, self._step_key)
        return list(next(rows, {self._step_key: ""})), rows

    def _rewrite(self, rows: Iterable[Mapping[str, str]], columns: list[str]) -> None:
        with atomic(self._path, durable=False) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        self._columns = columns
        self._file = self._path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, self._columns)


@dataclass
class TensorBoardConfig:
    """TensorBoard events, in the run folder's `tensorboard/`."""


class TensorBoardLogger:
    """Writes event files for `tensorboard --logdir <run folder>`.

    In a run that is resumed, TensorBoard drops what earlier files have after the step `resume_at`.
    """

    def __init__(
        self, config: TensorBoardConfig, run_dir: Path, run_config: Mapping[str, Any], resume_at: int | None = None
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge_step = None if resume_at is None else resume_at + 1
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=purge_step)
        text = "\n".join(f"    {key}: {value}" for key, value in run_config.items())
        self._writer.add_text("config", text, purge_step or 0)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Adds one scalar per metric to the file, which keeps them even if the run is killed."""
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()  # a checkpoint that follows must not be ahead of what is logged

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

    A run that is resumed goes on under its id. Online, the server keeps one value per step. Offline, a new file begins
    with the rows of metrics.csv, and takes the place of the earlier one, which may go beyond `resume_at`. Raises
    RlkitError when wandb cannot start, as in mode `online` without a login or a network.
    """

    def __init__(
        self, config: WandbConfig, run_dir: Path, run_config: Mapping[str, Any], resume_at: int | None = None
    ) -> None:
        check_choice("logger.wandb.mode", config.mode, WANDB_MODES)
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",  # otherwise wandb would wrap stdout and stderr, and disturb the progress bar
            init_timeout=20,
            finish_timeout=60,
            x_disable_stats=True,  # wandb would start another process to watch the machine
        )
        earlier = _wandb_folders(run_dir) if resume_at is not None else []
        try:
            self._run = wandb.init(
                id=earlier[-1].name.rpartition("-")[2] if earlier else None,
                resume="allow" if earlier and config.mode == "online" else None,
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
        if earlier and config.mode == "offline":
            self._repeat(run_dir / "metrics.csv")
            for folder in earlier:
                if folder.name.startswith("offline-"):
                    shutil.rmtree(folder, ignore_errors=True)

    def _repeat(self, path: Path) -> None:
        """Logs the rows of a metrics.csv, whose first column is the step."""
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                step, *values = row.items()
                self.log({key: float(value) for key, value in values if value}, int(step[1]))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Hands the metrics to wandb's process without waiting for it."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Marks the run as finished; online, waits up to a minute for the upload."""
        self._run.finish()


def _wandb_folders(run_dir: Path) -> list[Path]:
    """The folders of a run folder's Weights & Biases runs, in the order in which they began."""
    folders = [path for path in (run_dir / "wandb").glob("*run-*-*") if path.is_dir() and not path.is_symlink()]
    return sorted(folders, key=lambda path: path.name.split("-")[-2])


class Tolerated:
    """A logger whose failures are remarks, because no result depends on it; after one it gets no more metrics."""

    def __init__(self, name: str, logger: Logger) -> None:
        self._name, self._logger = name, logger
        self._failed = False

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Hands the metrics to the logger, unless it has failed."""
        if self._failed:
            return
        try:
            self._logger.log(metrics, step)
        except Exception as error:
            self._failed = True
            say(f"{remark(f'logger={self._name}', error)}; it gets nothing from step {step} on", "stderr")

    def close(self) -> None:
        """Closes the logger."""
        with remarked(f"closing logger={self._name}"):
            self._logger.close()


class LoggerKind(NamedTuple):
    """The config dataclass and the class of a logger that `logger=[…]` can name."""

    config: type[Any]
    logger: type[Any]
    path: str = ""
    """The dotted path of a class of the user's own; empty: it is one of ours."""


LOGGERS: dict[str, LoggerKind] = {
    "tensorboard": LoggerKind(TensorBoardConfig, TensorBoardLogger),
    "wandb": LoggerKind(WandbConfig, WandbLogger),
}
"""Our choices of `logger=` by name."""
GROUP = "rlkit.loggers"
"""The group of entry points by which installed packages give their loggers short names."""


@dataclass
class NoFields:
    """The config of a logger of the user's own that has no settings."""


def logger_names() -> list[str]:
    """Every name that `logger=` takes beside dotted paths: ours first, then those of installed packages."""
    return [*LOGGERS, *(name for name in installed(GROUP) if name not in LOGGERS)]


def find_logger(name: str) -> LoggerKind:
    """The logger of a name: one of ours, one of an installed package, or a class of the user's own by dotted path.

    Raises RlkitError for an unknown name, and for a class that is no logger.
    """
    if name in LOGGERS:
        return LOGGERS[name]
    path = name if is_dotted_path(name) else installed(GROUP).get(name)
    if path is None:
        raise unknown("logger", name, logger_names())
    logger = find_class("logger", path, object)
    for method in ("log", "close"):
        if not callable(getattr(logger, method, None)):
            raise RlkitError(f"logger={path} has no method `{method}`; expected a class with `log` and `close`")
    return LoggerKind(config_class("logger", path, logger) or NoFields, logger, path)


def logger_key(name: str) -> str:
    """The key of a logger's settings, `logger.<key>`: its name, or that of the class if it is a dotted path."""
    return re.split("[:.]", name)[-1]


def logger_settings(name: str) -> dict[str, Any]:
    """The part of a configuration that choosing a logger adds; raises RlkitError like `find_logger`."""
    kind, key = find_logger(name), logger_key(name)
    own = {"own_classes": {key: kind.path}} if kind.path else {}
    return {"logger": {key: kind.config()}, **own}


def check_loggers(configs: Mapping[str, Any], own: Mapping[str, str]) -> None:
    """Raises RlkitError for settings of a logger that is unknown or was not chosen."""
    for key, config in configs.items():
        if not isinstance(config, find_logger(own.get(key, key)).config):
            raise unused_logger(key)


def unused_logger(key: str) -> RlkitError:
    """The error for settings of a logger that was not chosen."""
    return RlkitError(f"logger.{key} is not in use: choose it by logger=[{key}]")


def make_loggers(
    configs: Mapping[str, Any],
    run_dir: Path,
    run_config: Mapping[str, Any],
    *,
    own: Mapping[str, str] = {},
    step_key: str = STEP_KEY,
    resume_at: int | None = None,
) -> list[Logger]:
    """Makes the CSV logger, and one for each of `configs`, which maps loggers' names to their configs.

    `run_config` is the run's configuration, for loggers that show it; `own` has the dotted paths of the user's own,
    by name. `step_key` is for the CSV logger, and `resume_at` for every logger whose class takes it: it is the step
    from which a run is resumed, and loggers forget what they have after it. Raises RlkitError for an unknown name, for
    a logger whose package is missing, and when one cannot start.
    """
    kinds = {name: find_logger(own.get(name, name)) for name in configs}
    with ExitStack() as started:
        loggers: list[Logger] = [CSVLogger(run_dir, step_key, resume_at)]
        started.callback(loggers[0].close)
        for name, config in configs.items():
            try:
                logger = kinds[name].logger
                resumed = {} if resume_at is None or not _takes_resume_at(logger) else {"resume_at": resume_at}
                loggers.append(Tolerated(name, logger(config, run_dir, run_config, **resumed)))
            except ModuleNotFoundError as error:
                raise RlkitError(f"logger={name} needs the package {error.name}: pip install {error.name}") from error
            started.callback(loggers[-1].close)
        started.pop_all()  # all of them have started, so that none is to be closed here
    return loggers


def _takes_resume_at(logger: type[Any]) -> bool:
    """True if the constructor of a logger's class has a parameter `resume_at`."""
    return "resume_at" in inspect.signature(logger).parameters
