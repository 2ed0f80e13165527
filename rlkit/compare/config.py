"""Options of `python -m rlkit.compare` beside those of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rlkit.compare.peers import peer_names
from rlkit.errors import RlkitError, check_choice, check_range

VALUES = ("auto", "same", "defaults")
"""Choices of `CompareConfig.sb3_values`."""
MOST_SEEDS = 1000


@dataclass
class CompareConfig:
    """Options of `python -m rlkit.compare`, beside every field of training."""

    seeds: Any = 5
    """Number of seeds, 0, 1, …, or a list of them: `[3,4,5]`."""
    peers: Any = field(default_factory=lambda: ["sb3"])
    """Agents to compare with: `sb3` is Stable-Baselines3's PPO, A2C or DQN; `sb3-contrib` its TRPO, and `qrdqn` and
    `recurrent-ppo` further agents of that package, if it is installed. One alone needs no brackets; []: rlkit's
    agents with each other."""
    sb3_values: str = "auto"
    """Hyperparameters of the peers: `same` as rlkit's, network included; their own `defaults`; or `auto`, which is
    `defaults` with ~tuned, and else `same`."""
    sb3_args: dict[str, Any] = field(default_factory=dict)
    """Arguments for the peers' constructors, which win over both: `{n_steps:64}`."""
    folder: str | None = None
    """The folder of the results, in which finished runs are not run again; null: `runs/compare/<agents>-<envs>`."""
    threshold: float | None = None
    """The return until which the time is measured; null: what the environment's registration says, if anything."""
    jobs: int = 1
    """Runs at the same time. More than one disturb each other's times."""

    def validate(self) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        seeds = self.all_seeds
        if not isinstance(self.seeds, list):
            check_range("seeds", self.seeds, 1, MOST_SEEDS)
        elif not seeds:
            raise RlkitError("seeds=[]: expected a number of seeds, or a list of them such as [0,1,2]")
        for seed in seeds:
            check_range("seeds", seed, 0, 2**31 - 1)
        check_once("seeds", seeds)
        for peer in self.all_peers:
            check_choice("peers", peer, peer_names())
        check_once("peers", self.all_peers)
        check_choice("sb3_values", self.sb3_values, VALUES)
        check_range("jobs", self.jobs, 1)

    @property
    def all_seeds(self) -> list[int]:
        """The seeds themselves; raises RlkitError for what is neither a number of them nor a list."""
        given = self.seeds if isinstance(self.seeds, list) else [self.seeds]
        if any(isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 for value in given):
            raise RlkitError(f"seeds={self.seeds}: expected a number of seeds, or a list of them such as [0,1,2]")
        whole = [int(value) for value in given]
        return whole if isinstance(self.seeds, list) else list(range(min(whole[0], MOST_SEEDS)))

    @property
    def all_peers(self) -> list[str]:
        """The names of the peers; raises RlkitError for what is no list of names."""
        peers = [self.peers] if isinstance(self.peers, str) else self.peers
        if not isinstance(peers, list) or not all(isinstance(name, str) for name in peers):
            raise RlkitError(f"peers={self.peers}: expected a list of names, such as [sb3]")
        return peers


def check_once(name: str, values: Sequence[object]) -> None:
    """Raises RlkitError for a value that is there twice, whose runs would be equal."""
    for value in values:
        if values.count(value) > 1:
            raise RlkitError(f"{name}: {value} is there twice; expected each one once")
