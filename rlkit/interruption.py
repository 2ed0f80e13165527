"""Interrupting a run between two updates, where all of it can be saved, and going on with it from there."""

from __future__ import annotations

import _thread
import math
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rlkit.checkpoint import RUN_FILE, load_run
from rlkit.config import TrainConfig
from rlkit.envs.make import VECTORIZATIONS
from rlkit.errors import RlkitError, check_choice, shown
from rlkit.runs.reading import damaged
from rlkit.runs.run_folder import RunFolder
from rlkit.system.processes import handled
from rlkit.system.ranks import Ranks
from rlkit.trainer import CollectAndUpdate, Source, Trainer

SECONDS_TO_STOP = 4.0
"""Seconds that a run which is interrupted has for the update that it is at."""


@contextmanager
def stoppable(signals: Sequence[signal.Signals], trainer: Trainer) -> Iterator[None]:
    """Makes signals stop the trainer between two updates, where the whole run can be saved.

    A second signal stops it where it is, as do `SECONDS_TO_STOP` without the end of an update: then the run can be
    resumed from its last checkpoint only.
    """
    timers: list[threading.Timer] = []

    def stop(*_: object) -> None:
        if trainer.stopping:
            raise KeyboardInterrupt
        trainer.stopping = True
        timers.append(threading.Timer(SECONDS_TO_STOP, lambda: None if trainer.stopped else _thread.interrupt_main()))
        timers[0].daemon = True
        timers[0].start()

    asked = [signal.SIGINT, *signals] if callable(signal.getsignal(signal.SIGINT)) else signals
    try:
        with handled(asked, stop):
            yield
    finally:
        for timer in timers:
            timer.cancel()


class InterruptedRun(NamedTuple):
    """An interrupted run, whose folder is locked."""

    folder: RunFolder
    state: dict[str, Any]

    @property
    def timesteps(self) -> int:
        """The timesteps after which it goes on."""
        return int(self.state["timesteps"])

    @property
    def vectorization(self) -> str | None:
        """The way in which its environments were stepped, which `auto` may not choose again; None: by their own."""
        found: str | None = self.state["source"]["collector"]["vectorization"]
        return found

    def restore(self, source: Source) -> list[str]:
        """Gives the agent, the buffer and the environments their state; returns sentences about it for the user.

        Raises RlkitError for a state that is not theirs.
        """
        assert isinstance(source, CollectAndUpdate)  # runs with another one are refused before
        with self._damage_told():
            told = source.load_state_dict(self.state["source"])
        return [f"resumed after {self.timesteps:,} timesteps", *told]

    def hand_over(self, trainer: Trainer) -> None:
        """Gives the trainer its counters and clocks; raises RlkitError like `restore`."""
        with self._damage_told():
            trainer.go_on_from(self.state)

    @contextmanager
    def _damage_told(self) -> Iterator[None]:
        try:
            yield
        except RlkitError:
            raise
        except Exception as error:  # of any part, about what is not its own
            raise damaged(self.folder.checkpoint("last") / RUN_FILE, error) from error


def interrupted_run(config: TrainConfig, run_dir: Path, ranks: Ranks, stack: ExitStack) -> InterruptedRun:
    """Locks the folder of a run and reads its state; raises RlkitError for a run that cannot go on."""
    if ranks.size > 1:
        raise RlkitError(f"a run of {ranks.size} processes under torchrun cannot be resumed; expected one process")
    if config.abilities.has_workers:
        raise RlkitError(
            f"agent={config.agent.name} cannot be resumed: its workers' episodes and generators are not stored; "
            "rlkit.load has its parameters"
        )
    folder = RunFolder.resume(run_dir)
    stack.callback(folder.release)
    stored = InterruptedRun(folder, load_run(folder.checkpoint("last")))
    try:
        done, episodes = stored.timesteps, int(stored.state["episodes"])
        if not 0 <= episodes <= done:
            raise ValueError(f"{shown(episodes)} episodes in {shown(done)} timesteps")
        check_choice("vectorization", stored.vectorization or "auto", VECTORIZATIONS)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder.checkpoint("last") / RUN_FILE, error) from error
    if done >= config.total_timesteps or episodes >= (config.total_episodes or math.inf):
        raise RlkitError(
            f"the run in {run_dir} has finished, after {done:,} timesteps and {episodes:,} episodes; "
            f"total_timesteps={2 * config.total_timesteps}, or another number above these, goes on with it"
        )
    return stored
