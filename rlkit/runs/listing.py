"""A table of run folders for the terminal: which there are, how far they are, and what they came to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlkit.errors import RlkitError, check_choice, check_range
from rlkit.runs.folder_lock import is_locked
from rlkit.runs.stored_runs import RUNNING, StoredRun, find_runs
from rlkit.system.user_paths import user_path

RECENT = 300.0
"""Seconds since the last row of metrics below which a run counts as running, where its lock does not tell."""
COLUMNS: Mapping[str, Callable[[StoredRun], Any]] = {
    "when": lambda run: began(run),
    "agent": lambda run: run.agent,
    "env": lambda run: run.env,
    "seed": lambda run: run.seed,
    "status": lambda run: status(run),
    "timesteps": lambda run: run.timesteps,
    "return": lambda run: last_return(run),
    "steps/s": lambda run: speed(run),
    "folder": lambda run: str(run.path),
}
"""Columns of the table, by which it can be sorted too, with their values."""


@dataclass
class ListConfig:
    """Options of `python -m rlkit.runs [FOLDER …] key=value …`."""

    agent: str | None = None
    """Only runs of this agent, or whose agent begins so."""
    env: str | None = None
    """Only runs in this environment, or in one whose id begins so."""
    status: str | None = None
    """Only runs of this status: `finished`, `interrupted`, `failed`, `running` or `stopped`."""
    seed: int | None = None
    """Only runs with this seed."""
    sort: str = "when"
    """The column to sort by: `when`, `agent`, `env`, `seed`, `status`, `timesteps`, `return`, `steps/s` or `folder`."""
    most: int = 50
    """Number of rows, the last ones of the order."""
    every: float = 2.0
    """Seconds between looks of `--watch`."""
    folders: list[str] = field(default_factory=lambda: ["runs"])
    """Folders to look into, beside those that are named as such."""

    def validate(self) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        check_choice("sort", self.sort, COLUMNS)
        if self.status is not None:
            check_choice("status", self.status, STATES)
        check_range("most", self.most, 1)
        check_range("every", self.every, 0.1)


STATES = ("finished", "interrupted", "failed", "running", "stopped")
"""Choices of `ListConfig.status`."""


def began(run: StoredRun) -> float:
    """Returns when a run began, as seconds since 1970."""
    for name in (".hydra/config.yaml", "metrics.csv", "."):
        if (file := run.path / name).exists():
            return file.stat().st_mtime
    return 0.0


def status(run: StoredRun) -> str:
    """Returns a run's status; one without a summary is running while it holds its folder's lock, and else stopped."""
    if run.status != RUNNING:
        return run.status
    locked = is_locked(run.path)
    if locked is not None:
        return "running" if locked else "stopped"
    file = run.path / "metrics.csv"
    last = file.stat().st_mtime if file.exists() else began(run)
    return "running" if time.time() - last < RECENT else "stopped"


def last_return(run: StoredRun) -> float | None:
    """Returns the final evaluation's mean, or else the last evaluation's, or that of the last episodes of training."""
    final = run.number("eval_return_mean")
    if final is not None:
        return final
    for key in ("eval/return_mean", "rollout/episode_return"):
        values = run.curve(key)[1]
        if len(values):
            return float(values[-1])
    return None


def speed(run: StoredRun) -> float | None:
    """Returns the steps per second of the whole run, or of the last row of a run that goes on."""
    whole = run.number("steps_per_second")
    if whole is not None:  # metrics are then not read, of which there may be many
        return whole
    values = run.curve("time/steps_per_second")[1]
    return float(values[-1]) if len(values) else None


class Row:
    """A run's values by column, or the reason for which it cannot be read."""

    def __init__(self, run: StoredRun) -> None:
        self.values: dict[str, Any] = {"folder": str(run.path), "when": began(run)}
        try:
            self.values = {name: value(run) for name, value in COLUMNS.items()}
        except RlkitError as error:
            self.values |= {"agent": "", "env": "", "status": f"damaged: {error}"}

    def text(self, column: str) -> str:
        """Returns a value as the table shows it."""
        value = self.values.get(column)
        if value is None:
            return "–"
        if column == "when":
            return time.strftime("%Y-%m-%d %H:%M", time.localtime(value))
        if column == "return":
            return f"{value:,.2f}"
        return f"{value:,.0f}" if column in ("timesteps", "steps/s") else str(value)


def rows_of(config: ListConfig, folders: Sequence[Path]) -> list[Row]:
    """Reads the runs below folders that the options ask for, in their order; raises RlkitError for what is no folder.

    Runs that cannot be read have a row that says so.
    """
    rows = [Row(run) for run in find_runs(folders)]
    rows = [row for row in rows if _wanted(row.values, config)]
    return sorted(rows, key=lambda row: _order(row.values.get(config.sort)))[-config.most :]


def _wanted(values: Mapping[str, Any], config: ListConfig) -> bool:
    return (
        (config.agent is None or values["agent"].lower().startswith(config.agent.lower()))
        and (config.env is None or values["env"].lower().startswith(config.env.lower()))
        and (config.status is None or values["status"] == config.status)
        and (config.seed is None or values.get("seed") == config.seed)
    )


def _order(value: Any) -> tuple[bool, Any]:
    """A key by which values of a column are sorted, those that are not there first."""
    return (value is not None, value if value is not None else 0)


def folders_of(config: ListConfig, named: Sequence[str]) -> list[Path]:
    """Returns the folders to look into: those that were named, or else those of the options."""
    folders = [user_path(name) for name in named or config.folders]
    if not named and not any(folder.exists() for folder in folders):
        raise RlkitError(f"there are no runs yet in {', '.join(map(str, folders))}: expected folders with runs in them")
    return folders
