"""Run folders by sides: runs of one configuration but for the seed belong together, and are named by what differs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rlkit.runs.stored_runs import StoredRun

NOT_SETTINGS = ("seed", "env.id", "logger", "own_classes", "profile", "verbose", "curves")
"""Beginnings of the fields that do not tell sides apart."""


def sides_of(runs: Sequence[StoredRun]) -> dict[str, dict[str, list[StoredRun]]]:
    """Groups runs by environment, versions of one together, and then by side."""
    envs: dict[str, list[StoredRun]] = {}
    for run in runs:
        envs.setdefault(re.sub(r"-v\d+$", "", run.env), []).append(run)
    return {_title(members): _sides(members) for members in envs.values()}


def _title(runs: Sequence[StoredRun]) -> str:
    return ", ".join(sorted({run.env for run in runs}))


def _sides(runs: Sequence[StoredRun]) -> dict[str, list[StoredRun]]:
    sides: list[list[StoredRun]] = []
    for run in runs:
        for side in sides:
            if _alike(run, side[0]):
                side.append(run)
                break
        else:
            sides.append([run])
    return dict(zip(side_names([side[0] for side in sides]), sides, strict=True))


def _alike(one: StoredRun, other: StoredRun) -> bool:
    """True if two runs have equal settings, as far as both have them: other versions have other fields."""
    ours, theirs = settings(one), settings(other)
    same = all(ours[key] == theirs[key] for key in ours.keys() & theirs.keys())
    return same and (one.agent, one.env) == (other.agent, other.env)


def settings(run: StoredRun) -> dict[str, Any]:
    """Returns the fields of a run's configuration that tell sides apart."""
    return {key: value for key, value in run.config.items() if not key.startswith(NOT_SETTINGS)}


def side_names(runs: Sequence[StoredRun]) -> list[str]:
    """Names sides, of which each has one run here: by agent, and by fields that differ between those of one agent."""
    names = []
    for run in runs:
        alike = [settings(other) for other in runs if other.agent == run.agent]
        own = settings(run)
        differ = [key for key in own if len({repr(other.get(key)) for other in alike}) > 1]
        several = len({other.env for other in runs}) > 1
        parts = [run.agent, *([run.env] if several else []), *(f"{key}={own[key]}" for key in differ[:3])]
        name = " ".join(parts) + (" …" if len(differ) > 3 else "")
        names.append(name)
    return [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names, 1)]
