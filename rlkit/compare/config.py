"""Options of `python -m rlkit.compare` beside those of training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlkit.compare.peers import peer_names
from rlkit.errors import RlkitError, check_choice, check_range

VALUES = ("auto", "same", "defaults")
"""Choices of `CompareConfig.sb3_values`."""


@dataclass
class CompareConfig:
    """Options of `python -m rlkit.compare`, beside every field of training."""

    seeds: Any = 5
    """Number of seeds, 0, 1, …, or a list of them: `[3,4,5]`."""
    peers: list[str] = field(default_factory=lambda: ["sb3"])
    """Agents to compare with: `sb3` is Stable-Baselines3's PPO, A2C or DQN; `sb3-contrib` its TRPO, and `qrdqn` and
    `recurrent-ppo` further agents of that package, if it is installed. []: rlkit's agents with each other."""
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
        seeds = self.seeds
        number = isinstance(seeds, int) and not isinstance(seeds, bool)
        if not number and not (isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)):
            raise RlkitError(f"seeds={seeds}: expected a number of seeds, or a list of them such as [0,1,2]")
        if isinstance(seeds, list) and len(set(seeds)) < len(seeds):
            raise RlkitError(f"seeds={seeds}: a seed is there twice; expected different ones")
        for seed in self.all_seeds:
            check_range("seeds", seed, 0, 2**31 - 1)
        check_range("seeds", len(self.all_seeds), 1, 1000)
        for peer in self.peers:
            check_choice("peers", peer, peer_names())
        check_choice("sb3_values", self.sb3_values, VALUES)
        check_range("jobs", self.jobs, 1)

    @property
    def all_seeds(self) -> list[int]:
        """The seeds themselves."""
        return list(range(min(self.seeds, 1001))) if isinstance(self.seeds, int) else self.seeds
