"""Asynchronous advantage actor-critic (Mnih et al. 2016): several processes improve one set of parameters, unlocked.

Each worker process has an agent like A2C's: it acts by its own copy of the network and computes A2C's gradient; only
where gradients go is different. They move parameters in memory that all workers share, or go to a parameter server,
and what the others have learned comes back. `rlkit.workers.worker` is the process around it; without one it is A2C. A
test holds one worker to the same parameters as A2C, to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from rlkit.agents.a2c import A2C, A2CConfig
from rlkit.buffers.rollout import RolloutBuffer
from rlkit.errors import RlkitError, check_range
from rlkit.setting import Abilities, Setting
from rlkit.spaces import Array

if TYPE_CHECKING:
    from rlkit.engine.shared import SharedParameters
    from rlkit.workers.parameter_server import RemoteParameters


@dataclass
class A3CConfig(A2CConfig):
    """A3C's hyperparameters: A2C's, which each worker has for itself, and two more."""

    name: ClassVar[str] = "a3c"
    abilities: ClassVar[Abilities] = Abilities(has_workers=True)
    for_probes: ClassVar[Mapping[str, Any]] = {"num_steps": 8, "learning_rate": 3e-3}

    ent_coef: float = 0.01
    """Weight of the entropy bonus."""
    num_workers: int | str = "auto"
    """Worker processes, each with its own environments (`num_envs` of them) and its own copy of the network; `auto`:
    one per core."""
    max_restarts: int = 3
    """Restarts of workers that die, in the whole run; after that the run ends."""

    def validate(self, num_envs: int) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        if isinstance(self.num_workers, str):
            if self.num_workers != "auto":
                raise RlkitError(f"agent.num_workers={self.num_workers}: expected a whole number, or auto")
        else:
            check_range("agent.num_workers", self.num_workers, 1)
        check_range("agent.max_restarts", self.max_restarts, 0)
        super().validate(num_envs)


class A3C(A2C):
    """One worker's agent: acts by its own copy of the policy, and improves the one that all workers share.

    Until `share` or `connect` it has no company, and improves its own.
    """

    config: A3CConfig

    def __init__(self, config: A3CConfig, setting: Setting) -> None:
        from rlkit.networks.normalization import RunningStatistics

        # Shared parameters are in the CPU's memory.
        super().__init__(config, replace(setting, device="cpu") if setting.device == "auto" else setting)
        self._statistics = [part for part in self.model.modules() if isinstance(part, RunningStatistics)]

    def shareable(self) -> tuple[Array, list[int]]:
        """The flat parameters that workers share, and how many numbers each of the running statistics takes.

        Raises RlkitError for an agent on a GPU.
        """
        if self.device != "cpu":
            raise RlkitError(
                f"device={self.device}: A3C's workers share parameters in the CPU's memory; expected device=cpu, or "
                "an agent that uses a GPU better: agent=a2c or agent=ppo"
            )
        parameters = self.engine.descent.flat.numpy().copy()  # in the order of their memory, as gradients are
        return parameters, [statistics.shared_row for statistics in self._statistics]

    def make_shared(self, num_workers: int) -> SharedParameters:
        """Moves this agent's parameters into memory that it shares from now on; workers `share` it as well.

        Raises RlkitError for an agent on a GPU.
        """
        from rlkit.engine.shared import SharedParameters

        parameters, rows = self.shareable()
        shared = SharedParameters(parameters, self.engine.descent.optimizer.moments, rows, num_workers)
        self.share(shared)
        return shared

    def share(self, shared: SharedParameters, worker: int = 0) -> None:
        """Copies the shared parameters, which updates move from then on, as the worker with that index."""
        from rlkit.engine.shared import SharedMemory

        descent = self.engine.descent
        descent.sink = SharedMemory(descent.optimizer, shared, worker)
        self._join(shared.statistics, worker)

    def connect(self, remote: RemoteParameters) -> None:
        """Copies the parameters of a server, to which updates send their gradients from then on."""
        self.engine.descent.sink = remote
        self._join(remote.statistics, remote.worker)

    def _join(self, shared_statistics: list[Array], worker: int) -> None:
        for statistics, rows in zip(self._statistics, shared_statistics, strict=True):
            statistics.share(rows, worker)
        self.pull()

    def pull(self) -> None:
        """Copies the shared parameters, and the running statistics of all workers, into this agent's network."""
        self.engine.descent.pull()
        for statistics in self._statistics:
            statistics.pull()

    def update(self, buffer: RolloutBuffer, progress: float) -> dict[str, float]:
        metrics = super().update(buffer, progress)
        self.pull()
        return metrics
