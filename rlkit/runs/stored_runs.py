"""Run folders as they are read again: what a run was asked to do, its metrics, and how it ended."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkit.errors import RlkitError
from rlkit.runs.loggers import STEP_KEY
from rlkit.runs.reading import LARGEST_TEXT, damaged, open_file, read_json, read_rows, read_yaml
from rlkit.runs.run_folder import RUN_FILES
from rlkit.system.user_paths import user_path

Column = NDArray[np.float64]
RUNNING = "not finished"
"""Status of a run without a summary, which goes on or was killed."""


class StoredRun:
    """One run folder of an agent, read when it is asked for; raises RlkitError for files that are damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @functools.cached_property
    def summary(self) -> Mapping[str, Any]:
        """Contents of summary.json; empty while the run goes on, or if it was killed."""
        file = self.path / "summary.json"
        if not file.exists():
            return {}
        found = read_json(file)
        if not isinstance(found, dict):
            raise damaged(file, "expected a dict")
        return found

    @functools.cached_property
    def config(self) -> Mapping[str, Any]:
        """Values of the configuration by their dotted names; empty where there is none."""
        from omegaconf import DictConfig, OmegaConf

        file = self.path / ".hydra" / "config.yaml"
        if not file.exists():
            return {}
        found = read_yaml(file)
        if not isinstance(found, DictConfig):
            raise damaged(file, "expected a dict")
        return dict(flattened(OmegaConf.to_container(found, resolve=False)))

    @functools.cached_property
    def metrics(self) -> Mapping[str, Column]:
        """Columns of metrics.csv by their log keys, NaN where a cell is empty; empty where there are no rows."""
        file = self.path / "metrics.csv"
        if not file.exists():
            return {}
        rows = read_rows(file, STEP_KEY)
        columns = list(next(rows, {}))
        values = [[float(cell) if cell else math.nan for cell in row.values()] for row in rows]
        table = np.asarray(values, np.float64).reshape(len(values), len(columns))
        return {column: table[:, i] for i, column in enumerate(columns)} if len(values) else {}

    def curve(self, key: str) -> tuple[Column, Column]:
        """Returns the timesteps at which a metric was logged, and its values; both empty where it never was."""
        if key not in self.metrics:
            return np.empty(0), np.empty(0)
        there = np.isfinite(self.metrics[key])
        return self.metrics[STEP_KEY][there], self.metrics[key][there]

    @property
    def status(self) -> str:
        """One of finished, interrupted, failed, or not finished."""
        return str(self.summary.get("status", RUNNING))

    @property
    def agent(self) -> str:
        """The agent's name."""
        return str(self.summary.get("agent") or self.config.get("agent.name") or self.path.parent.parent.name)

    @property
    def env(self) -> str:
        """The environment's id."""
        return str(self.summary.get("env") or self.config.get("env.id") or self.path.parent.name)

    @property
    def seed(self) -> int | None:
        """The run's seed; None where it is not known."""
        seed = self.summary.get("seed", self.config.get("seed"))
        return seed if isinstance(seed, int) else None

    @property
    def timesteps(self) -> int:
        """Environment steps so far."""
        steps = self.summary.get("total_timesteps")
        if isinstance(steps, int):
            return steps
        logged = self.metrics.get(STEP_KEY)
        return 0 if logged is None else int(logged[-1])

    def number(self, key: str) -> float | None:
        """Returns a finite number of summary.json; None where there is no such number."""
        value = self.summary.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        return float(value)


def flattened(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the values of nested dicts by their dotted names; lists and empty dicts are values."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def find_runs(paths: Iterable[str | Path]) -> list[StoredRun]:
    """Finds agents' run folders: those that are named, and those below a folder that is none.

    Raises RlkitError for a path at which there are none.
    """
    found: dict[Path, StoredRun] = {}
    for path in paths:
        folder = user_path(path)
        if not folder.is_dir():
            raise RlkitError(f"there is no run folder {path}")
        runs = sorted(_below(folder))
        if not runs:
            raise RlkitError(f"{path} holds no run: expected run folders, with {', '.join(RUN_FILES[:2])} in them")
        found |= {run.resolve(): StoredRun(run) for run in runs}
    return list(found.values())


def _below(folder: Path) -> Iterator[Path]:
    """Yields the run folders of agents in a folder, itself among them; nothing within a run folder is looked at."""
    for place, folders, files in os.walk(folder):
        if "metrics.csv" in files or "summary.json" in files or ".hydra" in folders:
            folders.clear()
            if not _of_companion(Path(place)):
                yield Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def _of_companion(run: Path) -> bool:
    """True for the run folder of a companion model, whose steps are epochs."""
    file = run / "metrics.csv"
    if not file.exists():
        return False
    with open_file(file) as opened:
        return b"time/epoch" in opened.readline(LARGEST_TEXT)
