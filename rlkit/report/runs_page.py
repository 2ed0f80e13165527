"""The page about runs: how they ended, what differs between them, their curves, films, environments and versions."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlkit.errors import RlkitError
from rlkit.maths.statistics import curve_interval
from rlkit.report.page import Cell, Chart, Curve, Page
from rlkit.report.sides import settings, sides_of
from rlkit.runs.field_docs import as_override
from rlkit.runs.loggers import STEP_KEY
from rlkit.runs.reading import read_bytes
from rlkit.runs.stored_runs import Column, StoredRun

MOST_NUMBERS = 900_000
"""Numbers in all curves, above which further metrics are shown with fewer points, so that the page stays small."""
RETURNS = ("eval/return_mean", "rollout/episode_return")
"""Log keys whose curves are shown first, and with every point."""
SECONDS = "time/training_time_s"
MOST_DIFFERENCES = 40
"""Fields of the configurations that are shown at most, if they differ."""
FILMS = {".mp4": "video/mp4", ".gif": "image/gif", ".webm": "video/webm"}
AXES = {"timesteps": "timesteps", "seconds": "seconds of training"}


class NamedRun:
    """A run with the name of its side and a colour, for tables and curves."""

    def __init__(self, run: StoredRun, side: str, color: int, alone: bool) -> None:
        self.run, self.side, self.color = run, side, color
        self.name = side if alone else f"{side}, seed {run.seed}"


Groups = Mapping[str, Mapping[str, Sequence[StoredRun]]]


def runs_page(runs: Sequence[StoredRun], title: str | None, videos_mb: float) -> str:
    """Returns the page as HTML; raises RlkitError for run folders whose files are damaged."""
    groups = sides_of(runs)
    page = Page(title or f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}: {', '.join(groups)}"[:120])
    page.paragraph(f"{time.strftime('%Y-%m-%d %H:%M')}; {_of_what(runs)}", soft=True)
    page.alarm(warnings_of(runs))
    every = _every(runs)
    for env, sides in groups.items():
        page.heading(env)
        named = named_runs(sides)
        _returns(page, sides, named)
        _table(page, named)
        _differences(page, sides)
        _other_metrics(page, named, every)
    _films(page, runs, videos_mb)
    _environments(page, runs)
    return page.html()


def named_runs(sides: Mapping[str, Sequence[StoredRun]]) -> list[NamedRun]:
    """Names the runs of all sides, each side in its own colour, or each run if there is one side."""
    found = []
    for color, (side, runs) in enumerate(sides.items()):
        for number, run in enumerate(runs):
            found.append(NamedRun(run, side, number if len(sides) == 1 else color, len(runs) == 1))
    return found


def warnings_of(runs: Sequence[StoredRun]) -> list[str]:
    """Lists what a reader must not overlook."""
    found = []
    if unfinished := [run for run in runs if run.status != "finished"]:
        shown = ", ".join(f"{run.path} ({run.status})" for run in unfinished[:5])
        found.append(f"{len(unfinished)} of {len(runs)} runs are not finished: {shown}{' …' if unfinished[5:] else ''}")
    if empty := [run for run in runs if not run.metrics]:
        found.append(f"without any metrics: {', '.join(str(run.path) for run in empty[:5])}")
    for package, versions in _versions(runs).items():
        if len(versions) > 1:
            found.append(f"made with different versions of {package}: {', '.join(versions)}")
    return found


def _of_what(runs: Sequence[StoredRun]) -> str:
    agents = sorted({run.agent for run in runs})
    steps = sum(run.timesteps for run in runs)
    return f"{', '.join(agents)}; {steps:,} timesteps in all"


def _every(runs: Sequence[StoredRun]) -> int:
    """Returns n, so that every n-th point of the metrics that are not returns keeps the page small."""
    numbers = sum(int(np.isfinite(column).sum()) for run in runs for column in run.metrics.values())
    return max(1, math.ceil(numbers / MOST_NUMBERS))


# Curves


def curve_of(run: StoredRun, key: str, every: int = 1) -> tuple[dict[str, Column], Column]:
    """Returns the places of a metric's points on each axis, and its values; of many points every n-th and the last."""
    if key not in run.metrics:
        return {}, np.empty(0)
    there = np.flatnonzero(np.isfinite(run.metrics[key]))
    kept = there[::-1][::every][::-1]
    places = {"timesteps": run.metrics[STEP_KEY][kept]}
    if SECONDS in run.metrics:
        places["seconds"] = run.metrics[SECONDS][kept]
    return places, run.metrics[key][kept]


def averaged(runs: Sequence[StoredRun], key: str) -> tuple[dict[str, Column], Column, Column, Column] | None:
    """Averages a metric over runs: places, mean, and the ends of its interval; None where no run has it.

    Runs that go on count only if none is finished. The places are those of the run with fewest points, as far as all
    of them go.
    """
    kept = [run for run in runs if run.status == "finished"] or runs
    curves = [(places, values) for places, values in (curve_of(run, key) for run in kept) if len(values)]
    if not curves:
        return None
    steps = [places["timesteps"] for places, _ in curves]
    fewest = min(steps, key=len)
    grid = fewest[(fewest >= max(own[0] for own in steps)) & (fewest <= min(own[-1] for own in steps))]
    if not len(grid):
        return None
    values = np.stack([np.interp(grid, own, values) for own, (_, values) in zip(steps, curves, strict=True)])
    places = {"timesteps": grid}
    if all("seconds" in own for own, _ in curves):
        seconds = [np.interp(grid, own["timesteps"], own["seconds"]) for own, _ in curves]
        places["seconds"] = np.mean(seconds, 0)
    return places, *curve_interval(values)


def _axes(curves: Sequence[Curve]) -> dict[str, str]:
    """The axes that all curves have places on."""
    return {key: label for key, label in AXES.items() if all(key in curve.x for curve in curves)}


def _returns(page: Page, sides: Mapping[str, Sequence[StoredRun]], named: Sequence[NamedRun]) -> None:
    """Adds the charts of the returns: over seeds with intervals, where there are several, and of each run."""
    several = any(len(runs) > 1 for runs in sides.values())
    for key, what in zip(RETURNS, ("return in evaluations", "return of the episodes of training"), strict=True):
        if several:
            curves = []
            for color, (side, runs) in enumerate(sides.items()):
                if found := averaged(runs, key):
                    places, mean, low, high = found
                    count = len(runs)
                    interval = {"low": low, "high": high} if count > 1 else {}
                    curves.append(Curve(f"{side} ({count})", places, mean, color, **interval))
            page.chart(Chart(f"{what}: mean over seeds, 95 % interval", _axes(curves), curves))
        curves = [Curve(one.name, *curve_of(one.run, key), one.color) for one in named if key in one.run.metrics]
        page.chart(Chart(f"{what}: each run", _axes(curves), curves, smooth=True))


def _other_metrics(page: Page, named: Sequence[NamedRun], every: int) -> None:
    """Adds a chart for each further metric, folded away."""
    keys = dict.fromkeys(key for one in named for key in one.run.metrics)
    keys = {key: None for key in sorted(keys) if key not in (STEP_KEY, SECONDS, *RETURNS)}
    if not keys:
        return
    thinned = "" if every == 1 else f", every {every}th point"
    page.begin_details(f"{len(keys)} more metrics{thinned}")
    for key in keys:
        curves = [Curve(one.name, *curve_of(one.run, key, every), one.color) for one in named if key in one.run.metrics]
        curves = [curve for curve in curves if len(curve.y)]
        page.chart(Chart(key, _axes(curves), curves, smooth=True))
    page.end_details()


# Tables


def _table(page: Page, named: Sequence[NamedRun]) -> None:
    heads = [
        "run",
        "seed",
        "status",
        "timesteps",
        "final return",
        "±",
        "best",
        "steps/s",
        "training s",
        "MiB",
        "folder",
    ]
    rows: list[Sequence[str | Cell]] = []
    for one in named:
        run = one.run
        numbers = ("eval_return_mean", "eval_return_std", "best_eval_return_mean")
        rest = ("steps_per_second", "training_time_s", "peak_memory_mib")
        rows.append(
            [
                one.side,
                Cell("–" if run.seed is None else str(run.seed), run.seed),
                run.status,
                Cell(f"{run.timesteps:,}", run.timesteps),
                *(_number(run.number(key), 2) for key in numbers),
                *(_number(run.number(key), 0) for key in rest),
                str(run.path),
            ]
        )
    page.table(heads, rows, sortable=True)


def _number(value: float | None, digits: int) -> Cell:
    return Cell("–" if value is None else f"{value:,.{digits}f}", value)


def _differences(page: Page, sides: Mapping[str, Sequence[StoredRun]]) -> None:
    """Adds what differs between the configurations of the sides, and their full configurations, folded away."""
    own = {side: settings(runs[0]) for side, runs in sides.items()}
    keys = dict.fromkeys(key for values in own.values() for key in values)
    # Agents of different kinds have different fields, of which each says something about its own kind alone.
    differ = [key for key in keys if len({repr(values[key]) for values in own.values() if key in values}) > 1]
    if differ:
        page.heading("What differs between the configurations", 3)
        kept = differ[:MOST_DIFFERENCES]
        page.table(["", *own], [[key, *(_shown(values.get(key, "–")) for values in own.values())] for key in kept])
        if differ[MOST_DIFFERENCES:]:
            page.paragraph(f"and {len(differ) - MOST_DIFFERENCES} more fields", soft=True)
    for side, values in own.items():
        if values:
            page.begin_details(f"the whole configuration of {side}")
            page.table(["field", "value"], [[key, _shown(value)] for key, value in values.items()])
            page.end_details()


def _shown(value: Any) -> str:
    return as_override(value)[:200]


# Films, environments, versions


def films_of(run: StoredRun) -> Iterator[Path]:
    """Yields a run's videos and moving pictures, in the order of their names."""
    folder = run.path / "videos"
    if folder.is_dir():
        yield from sorted(file for file in folder.iterdir() if file.suffix in FILMS and not file.name.startswith("."))


def _films(page: Page, runs: Sequence[StoredRun], videos_mb: float) -> None:
    """Adds the runs' films in turn, as long as they are small enough together; the others are named."""
    by_run = [(run, list(films_of(run))) for run in runs]
    turns = max((len(files) for _, files in by_run), default=0)
    films = [(run, files[turn]) for turn in range(turns) for run, files in by_run if turn < len(files)]
    if not films:
        return
    page.heading("Videos")
    left, away = int(videos_mb * 1e6), []
    for run, file in films:
        size = file.stat().st_size
        if size > left:
            away.append(str(file))
            continue
        try:
            content = read_bytes(file, size)
        except RlkitError:
            away.append(str(file))
            continue
        left -= size
        page.film(content, FILMS[file.suffix], f"{run.agent} on {run.env}, seed {run.seed}: {file.stem}")
    if away:
        page.paragraph(f"Not part of the page, which has {videos_mb:g} MB of videos at most (videos_mb):", soft=True)
        page.notes(away)


def _environments(page: Page, runs: Sequence[StoredRun]) -> None:
    page.heading("Environments and versions")
    rows = []
    for env in sorted({run.env for run in runs}):
        own = [run for run in runs if run.env == env]
        arguments = sorted({str(_arguments(run)) for run in own})
        rows.append(
            [env, "; ".join(arguments), ", ".join(sorted({str(run.config.get("num_envs", "–")) for run in own}))]
        )
    page.table(["environment", "arguments", "side by side"], rows)
    page.table(["package", "version"], [[name, ", ".join(found)] for name, found in _versions(runs).items()])


def _arguments(run: StoredRun) -> dict[str, Any]:
    own = {key.removeprefix("env_kwargs."): value for key, value in run.config.items() if key.startswith("env_kwargs.")}
    preprocessing = run.config.get("env.preprocessing", "auto")
    return {**own, **({} if preprocessing == "auto" else {"preprocessing": preprocessing})}


def _versions(runs: Sequence[StoredRun]) -> dict[str, list[str]]:
    """Collects the versions that runs were made with, by package."""
    found: dict[str, set[str]] = {}
    for run in runs:
        versions = run.summary.get("versions")
        for package, version in (versions if isinstance(versions, dict) else {}).items():
            found.setdefault(str(package), set()).add(str(version))
    return {package: sorted(versions) for package, versions in found.items()}
