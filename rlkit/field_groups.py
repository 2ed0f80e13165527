"""Groups of fields that agents have in common: a replay buffer, exploration by ε, a target network, atoms.

Each is a dataclass that stands in an agent's config as one field, `agent.replay.size`, and checks itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlkit.errors import RlkitError, check_choice, check_fields, check_range
from rlkit.maths.schedules import ANNEALINGS, annealed
from rlkit.spaces import Array

REPLAY_DEVICES = ("auto", "cpu", "cuda")
"""The memories that `ReplayConfig.device` can name."""


@dataclass
class ReplayConfig:
    """The replay buffer of an agent: how much it holds and where, and how transitions are drawn from it."""

    size: int = 100_000
    """Transitions in the replay buffer, over all environments."""
    folder: str | None = None
    """Keep the buffer's observations on disk, in files without a name in this folder, which are gone when the run is
    over, however it ends; null: in memory."""
    device: str = "auto"
    """The memory that holds the buffer's images: `cuda` is that of the network's GPU, where minibatches are then made
    without a transfer; `cpu` the computer's; `auto`: the GPU's, if they take at most half of what is free there."""
    prioritized: bool = False
    """Draw transitions by their last TD error instead of evenly (Schaul et al. 2016)."""
    alpha: float = 0.6
    """`prioritized` only: the exponent of the priorities; 0 draws evenly, 1 in proportion to the error."""
    beta: float = 0.4
    """`prioritized` only: the exponent at the start of the importance weights, which undo the uneven draw in the
    loss; it rises to 1 over the run."""

    def validate(self, prefix: str) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        check_choice(f"{prefix}.device", self.device, REPLAY_DEVICES)
        check_fields(self, prefix, counts=("size",), shares=("alpha", "beta"))
        if self.device == "cuda" and self.folder is not None:
            raise RlkitError(
                f"{prefix}.device=cuda and {prefix}.folder={self.folder} are two places for the same images: leave out "
                "one of them"
            )


@dataclass
class EpsilonConfig:
    """The probability of a random action, ε, over a run."""

    start: float | None = None
    """The probability of a random action at the start; null: 1, or none at all where `noisy` networks explore."""
    end: float = 0.05
    """The probability of a random action after `fraction` of the run."""
    schedule: str = "linear"
    """`linear`: ε falls by equal steps; `exponential`: by equal factors."""
    fraction: float = 0.5
    """The share of the run in which ε falls."""

    def validate(self, prefix: str) -> None:
        """Raises RlkitError on the first field whose value cannot work; `prefix` is what stands before its name."""
        check_choice(f"{prefix}.schedule", self.schedule, ANNEALINGS)
        exponential = ("start", "end") if self.schedule == "exponential" else ()
        check_fields(self, prefix, positive=("fraction", *exponential), shares=("start", "end", "fraction"))

    def at(self, progress: float) -> float:
        """The value of ε when the share `progress` of the run is over."""
        return self._after(progress / self.fraction)

    def _after(self, share: float) -> float:
        """The value of ε after a share of the time in which it falls."""
        return annealed(self.schedule, 1.0 if self.start is None else self.start, self.end, share)


@dataclass
class EpisodicEpsilonConfig(EpsilonConfig):
    """The probability of a random action, ε, over a run or over a number of episodes."""

    fraction: float = 0.1
    """The share of the run in which ε falls."""
    episodes: int | None = None
    """Let ε fall over this many episodes instead; null: over `fraction` of the run."""

    def validate(self, prefix: str) -> None:
        super().validate(prefix)
        check_fields(self, prefix, counts=("episodes",))

    def at(self, progress: float, episodes: int = 0) -> float:
        """The value of ε when the share `progress` of the run is over, and so many episodes have ended."""
        return super().at(progress) if self.episodes is None else self._after(episodes / self.episodes)


@dataclass
class TargetConfig:
    """The target network: a copy of the online network that follows it now and then, and values next states."""

    interval: int = 250
    """Gradient steps between updates of the target network."""
    tau: float = 1.0
    """The share of the way to the online network that such an update goes: 1 copies; small values, with an interval
    of 1, make it a moving average."""

    def validate(self, prefix: str) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        check_fields(self, prefix, counts=("interval",), positive=("tau",), shares=("tau",))


@dataclass
class AtomsConfig:
    """The atoms of a distributional network: evenly spaced values, whose probabilities it learns."""

    count: int = 51
    """`distributional` only: the number of atoms, from v_min to v_max."""
    v_min: float = -100.0
    """`distributional` only: the least discounted return that can be told apart; one below it counts as this one."""
    v_max: float = 100.0
    """`distributional` only: the greatest discounted return that can be told apart. Rewards up to ±1 stay between
    -100 and 100 at a gamma of 0.99."""

    def validate(self, prefix: str) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        check_range(f"{prefix}.count", self.count, 2)
        if not -np.inf < self.v_min < self.v_max < np.inf:
            raise RlkitError(
                f"{prefix}.v_min={self.v_min} must be less than {prefix}.v_max={self.v_max}: they are the least and "
                "the greatest discounted return"
            )

    def values(self) -> Array:
        """The values of the atoms: (count,)."""
        return np.linspace(self.v_min, self.v_max, self.count, dtype=np.float32)
