"""Agents and loggers as a user's own module would define them, good and bad ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rlkit.agents.a2c import A2C, A2CConfig
from rlkit.agents.a3c import A3C, A3CConfig
from rlkit.agents.base import Agent
from rlkit.agents.ppo import PPO
from rlkit.setting import Abilities, AgentConfig


class QuickA2C(A2C):
    """An agent of ours with another name and the same config."""


class Workers(A3C):
    """An agent that worker processes have to import."""

    config: OwnA3CConfig


@dataclass
class OwnA3CConfig(A3CConfig):
    """A3C's hyperparameters, and one more."""

    name: ClassVar[str] = "workers"

    marker: int = 1
    """Nothing depends on it."""


@dataclass
class OwnPPOConfig(AgentConfig):
    """Hyperparameters without those of PPO."""

    name: ClassVar[str] = "own"

    width: int = 3
    """Nothing depends on it."""

    def validate(self, num_envs: int) -> None:
        """Accepts everything."""


@dataclass
class NoAgentConfig:
    """A dataclass that is no agent's."""


class WrongConfig(PPO):
    """Names a class that is no agent's config."""

    config: NoAgentConfig  # type: ignore[assignment]


class UnknownConfig(PPO):
    """Names a class that is not in its module."""

    config: NowhereConfig  # type: ignore[name-defined]  # noqa: F821


class NoConfig(Agent[Any]):
    """Names no config but that of every agent."""


class NoAgent:
    """A class of another kind."""


@dataclass
class LinesConfig:
    """A file of JSON lines."""

    file: str = "lines.jsonl"
    """Its name in the run folder."""


class Lines:
    """Writes each log point as a line."""

    config: LinesConfig

    def __init__(self, config: LinesConfig, run_dir: Path, run_config: Mapping[str, Any]) -> None:
        self._file = (run_dir / config.file).open("w", encoding="utf-8")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._file.write(json.dumps({"step": step, "keys": sorted(metrics)}) + "\n")

    def close(self) -> None:
        self._file.close()


class Counts:
    """Has no settings."""

    def __init__(self, config: object, run_dir: Path, run_config: Mapping[str, Any]) -> None:
        self._count, self._path = 0, run_dir / "count.txt"

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._count += 1

    def close(self) -> None:
        self._path.write_text(str(self._count), encoding="utf-8")


class NeverCloses:
    """Lacks a method."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Forgets the metrics."""


@dataclass
class ClaimsWorkersConfig(A2CConfig):
    """A config that promises workers, which no agent but A3C has."""

    name: ClassVar[str] = "claims_workers"
    abilities: ClassVar[Abilities] = Abilities(has_workers=True)


class ClaimsWorkers(A2C):
    """An agent that only says that it has workers."""

    config: ClaimsWorkersConfig
