"""Results of a comparison: the numbers of each side of each group, from the run folders, as one JSON file."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlkit.maths import statistics
from rlkit.maths.statistics import Estimate
from rlkit.runs.stored_runs import Column, StoredRun
from rlkit.system.resources import processor

FEW_SEEDS = 5
"""Seeds below which intervals are said to be too narrow."""
SETTINGS = ("agent.", "network.", "wrappers.", "num_envs", "vectorization")
"""Beginnings of the fields that are shown as a side's settings."""
SAME_BUDGET = 0.02
"""Share by which budgets may differ, because they are rounded up to whole updates."""


@dataclass
class Side:
    """The runs of one side of a group, one per seed, and what they came to."""

    name: str
    agent: str
    seeds: list[int | None]
    returns: list[float]
    """Mean return of each run's final evaluation."""
    mean: Estimate
    iqm: Estimate
    timesteps: list[int]
    steps_per_second: float | None
    """Median over runs, of training without evaluations."""
    cpu_s: float | None
    """Median CPU seconds of training."""
    peak_memory_mib: float | None
    seconds_to_threshold: float | None
    """Median over all runs, of which one that never gets there takes infinitely long; None: that is the median."""
    reached: int
    """Number of runs that got to the threshold."""
    curve: dict[str, list[float]]
    """The mean over runs, the interval's ends `low` and `high`, and `seconds` of training, all over `timesteps`."""
    runs: list[str]
    settings: dict[str, Any]
    """Hyperparameters, network and number of environments of the first run."""
    notes: list[str] = field(default_factory=list)


@dataclass
class Versus:
    """The first side of a group beside another one."""

    ours: str
    theirs: str
    probability_of_improvement: Estimate
    difference: Estimate
    """Mean return of ours, less that of theirs."""
    speed: float | None
    """Steps per second of ours, as a multiple of theirs."""


@dataclass
class Group:
    """Runs that are compared with each other: an environment, and sides."""

    title: str
    env: str
    threshold: float | None
    sides: list[Side]
    versus: list[Versus]
    warnings: list[str]


@dataclass
class Comparison:
    """All groups of a comparison, as comparison.json has them."""

    command: str
    created: str
    machine: str
    groups: list[Group]
    overall: list[dict[str, Any]]
    """Over all groups in which both sides are: the probability of improvement, and IQMs of scores between 0 and 1."""
    warnings: list[str]
    notes: list[str]
    """Differences between the sides that no setting removes."""
    versions: dict[str, list[str]]


def summarized(groups: Mapping[str, Mapping[str, Sequence[StoredRun]]], threshold: float | None) -> list[Group]:
    """Summarises runs by group and side; runs that are not finished are left out with a warning, as are empty sides."""
    found = []
    for title, sides in groups.items():
        runs = {name: [run for run in runs if _usable(run)] for name, runs in sides.items()}
        warnings = _warnings(sides)
        runs = {name: kept for name, kept in runs.items() if kept}
        if not runs:
            continue
        env = next(iter(runs.values()))[0].env
        goal = threshold if threshold is not None else registered_threshold(env)
        made = [_side(name, kept, goal) for name, kept in runs.items()]
        versus = [_versus(made[0], other) for other in made[1:]]
        found.append(Group(title, env, goal, made, versus, warnings))
    return found


def _usable(run: StoredRun) -> bool:
    return run.status == "finished" and run.number("eval_return_mean") is not None


def registered_threshold(env: str) -> float | None:
    """Returns the return from which on an environment counts as solved; None where its registration says nothing."""
    import gymnasium

    spec = gymnasium.registry.get(env.rpartition(":")[2])
    return None if spec is None or spec.reward_threshold is None else float(spec.reward_threshold)


def _side(name: str, runs: Sequence[StoredRun], threshold: float | None) -> Side:
    returns = [run.number("eval_return_mean") or 0.0 for run in runs]
    times = [_seconds_to(run, threshold) for run in runs]
    median = float(np.median(times)) if times else math.inf
    return Side(
        name=name,
        agent=runs[0].agent,
        seeds=[run.seed for run in runs],
        returns=returns,
        mean=statistics.mean_estimate(returns),
        iqm=statistics.iqm_estimate([returns]),
        timesteps=[run.timesteps for run in runs],
        steps_per_second=_median(_speed(run) for run in runs),
        cpu_s=_median(run.number("training_cpu_s") for run in runs),
        peak_memory_mib=_median(run.number("peak_memory_mib") for run in runs),
        seconds_to_threshold=median if math.isfinite(median) else None,
        reached=sum(map(math.isfinite, times)),
        curve=_curve(runs),
        runs=[str(run.path) for run in runs],
        settings={key: value for key, value in runs[0].config.items() if key.startswith(SETTINGS)},
        notes=list(dict.fromkeys(note for run in runs for note in run.summary.get("notes", ()))),
    )


def _speed(run: StoredRun) -> float | None:
    seconds = run.number("training_time_s")
    return run.timesteps / seconds if seconds else run.number("steps_per_second")


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _seconds_to(run: StoredRun, threshold: float | None) -> float:
    """Seconds of training until the first evaluation that reached the threshold; infinite if none did."""
    if threshold is None or "time/training_time_s" not in run.metrics:
        return math.inf
    returns = run.metrics.get("eval/return_mean", np.empty(0))
    reached = np.flatnonzero(returns >= threshold)  # NaN is not
    return float(run.metrics["time/training_time_s"][reached[0]]) if len(reached) else math.inf


def evaluations(run: StoredRun) -> tuple[Column, Column]:
    """Returns timesteps and mean returns of a run's evaluations, or else of its episodes of training."""
    steps, returns = run.curve("eval/return_mean")
    return (steps, returns) if len(steps) else run.curve("rollout/episode_return")


def _curve(runs: Sequence[StoredRun]) -> dict[str, list[float]]:
    """Averages the runs' evaluations at the timesteps of the run that has fewest of them."""
    curves = [curve for run in runs if len((curve := evaluations(run))[0])]
    if not curves:
        return {}
    first, last = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    fewest = min((steps for steps, _ in curves), key=len)
    grid = fewest[(fewest >= first) & (fewest <= last)]
    mean, low, high = statistics.curve_interval(np.stack([np.interp(grid, *curve) for curve in curves]))
    clocks = [clock for run in runs if len((clock := run.curve("time/training_time_s"))[0])]
    seconds = np.mean([np.interp(grid, *clock) for clock in clocks], 0) if clocks else np.full(len(grid), np.nan)
    columns = {"timesteps": grid, "mean": mean, "low": low, "high": high, "seconds": seconds}
    return {name: [float(f"{value:.7g}") for value in column] for name, column in columns.items()}


def _versus(ours: Side, theirs: Side) -> Versus:
    both = ours.steps_per_second and theirs.steps_per_second
    return Versus(
        ours.name,
        theirs.name,
        statistics.improvement_estimate([ours.returns], [theirs.returns]),
        statistics.difference_estimate(ours.returns, theirs.returns),
        ours.steps_per_second / theirs.steps_per_second if both else None,  # type: ignore[operator]
    )


def overall(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Aggregates over groups, for each pair of sides that several of them have.

    For the IQM, returns are scaled to 0 for the lowest and 1 for the highest run of a group, on whichever side.
    """
    pairs: dict[tuple[str, str], list[tuple[Side, Side]]] = {}
    for group in groups:
        for other in group.sides[1:]:
            pairs.setdefault((group.sides[0].name, other.name), []).append((group.sides[0], other))
    found = []
    for (ours, theirs), sides in pairs.items():
        if len(sides) < 2:
            continue
        scaled = [_scaled(one.returns, other.returns) for one, other in sides]
        found.append(
            {
                "ours": ours,
                "theirs": theirs,
                "groups": len(sides),
                "probability_of_improvement": statistics.improvement_estimate(
                    [one.returns for one, _ in sides], [other.returns for _, other in sides]
                ),
                "iqm_ours": statistics.iqm_estimate([one for one, _ in scaled]),
                "iqm_theirs": statistics.iqm_estimate([other for _, other in scaled]),
            }
        )
    return found


def _scaled(ours: Sequence[float], theirs: Sequence[float]) -> tuple[list[float], list[float]]:
    low, high = min(*ours, *theirs), max(*ours, *theirs)
    width = high - low or 1.0
    return [(value - low) / width for value in ours], [(value - low) / width for value in theirs]


# Warnings


def _warnings(sides: Mapping[str, Sequence[StoredRun]]) -> list[str]:
    """Lists all that makes the sides of a group unequal, or their numbers uncertain."""
    found = []
    for name, runs in sides.items():
        if broken := [run for run in runs if not _usable(run)]:
            states = ", ".join(sorted({run.status for run in broken}))
            found.append(f"{name}: {len(broken)} of {len(runs)} runs have no result ({states}) and are left out")
    usable = {name: [run for run in runs if _usable(run)] for name, runs in sides.items()}
    usable = {name: runs for name, runs in usable.items() if runs}
    return [*found, *_of_seeds(usable), *_of_budgets(usable), *_of_environments(usable)]


def _of_seeds(sides: Mapping[str, Sequence[StoredRun]]) -> list[str]:
    fewest = min(map(len, sides.values()), default=FEW_SEEDS)
    found = []
    if fewest == 1:
        found.append("A SINGLE SEED: no interval can be given, and no conclusion drawn; training runs differ by chance")
    elif fewest < FEW_SEEDS:
        found.append(f"only {fewest} seeds: intervals are narrower than they should be; {FEW_SEEDS} or more are better")
    for name, runs in sides.items():
        seeds = [run.seed for run in runs]
        if len(set(seeds)) < len(seeds):
            found.append(f"{name}: a seed is there twice, in {', '.join(str(run.path) for run in runs)}")
    return found


def _of_budgets(sides: Mapping[str, Sequence[StoredRun]]) -> list[str]:
    steps = {name: [run.timesteps for run in runs] for name, runs in sides.items()}
    every = [count for counts in steps.values() for count in counts]
    if every and max(every) > min(every) * (1 + SAME_BUDGET):
        shown = "; ".join(f"{name}: {_span(counts)}" for name, counts in steps.items())
        return [f"DIFFERENT BUDGETS, in timesteps: {shown}"]
    return []


def _of_environments(sides: Mapping[str, Sequence[StoredRun]]) -> list[str]:
    found = []
    runs = [run for side in sides.values() for run in side]
    ids = sorted({run.env for run in runs})
    if len(ids) > 1:
        found.append(f"DIFFERENT ENVIRONMENTS: {', '.join(ids)}")
    for key in sorted({key for run in runs for key in run.config if key.startswith(("env_kwargs", "env.preproc"))}):
        values = sorted({str(run.config.get(key)) for run in runs})
        if len(values) > 1:
            found.append(f"DIFFERENT ENVIRONMENTS: {key} is {' or '.join(values)}")
    for package in ("gymnasium", "rlkit", "torch", "stable-baselines3"):
        known = {str(version) for run in runs if (version := _versions(run).get(package))}
        if len(known) > 1:
            kind = "DIFFERENT VERSIONS of the environments' library" if package == "gymnasium" else "different versions"
            found.append(f"{kind}: {package} {' and '.join(sorted(known))}")
    counts = sorted({int(run.number("eval_episodes") or 0) for run in runs})
    if len(counts) > 1:
        found.append(f"final evaluations differ in their episodes: {' and '.join(map(str, counts))}")
    return found


def _versions(run: StoredRun) -> Mapping[str, Any]:
    found = run.summary.get("versions")
    return found if isinstance(found, dict) else {}


def _span(counts: Sequence[int]) -> str:
    return f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"


# The whole


def versions_of(runs: Iterable[StoredRun]) -> dict[str, list[str]]:
    """Collects the versions that runs were made with, by package."""
    found: dict[str, set[str]] = {}
    for run in runs:
        for package, version in _versions(run).items():
            found.setdefault(package, set()).add(str(version))
    return {package: sorted(versions) for package, versions in found.items()}


def machine() -> str:
    """Names the processor, its cores, and the system."""
    from rlkit.system.processes import num_cores

    return f"{processor()}, {num_cores()} cores, {platform.system()}"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Returns a comparison as JSON has it, where estimates are dicts of their parts."""

    def parts(value: Any) -> Any:
        if isinstance(value, Estimate):
            return value._asdict()
        if isinstance(value, dict):
            return {key: parts(item) for key, item in value.items()}
        if isinstance(value, list):
            return [parts(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    whole = {**vars(comparison), "groups": [{**vars(group)} for group in comparison.groups]}
    for group in whole["groups"]:
        group["sides"] = [vars(side) for side in group["sides"]]
        group["versus"] = [vars(versus) for versus in group["versus"]]
    found: dict[str, Any] = parts(whole)
    return found
