"""Runs the tasks of a comparison, each in a process of its own, which ends when this one does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from typing import Any, NoReturn

from rlkit.cli import composition
from rlkit.compare.child import OUTPUT
from rlkit.compare.peers import PeerTask
from rlkit.compare.plan import Task, begin
from rlkit.errors import one_line
from rlkit.runs.stored_runs import StoredRun
from rlkit.system.processes import SPAWN, ending_signals, handled, interrupts_deferred, run_child

SECONDS_TO_SAVE = 20.0
"""Time that runs are given to end when the comparison is interrupted."""


def run_tasks(
    tasks: Sequence[Task], *, same: bool, more: Mapping[str, Any], jobs: int, say: Callable[[str], object]
) -> list[str]:
    """Runs tasks in their order, `jobs` at a time, and says how each ended; returns a line for each that failed.

    When this process is interrupted, all runs are ended first.
    """
    waiting, failures = list(tasks), []
    running: dict[SpawnProcess, Task] = {}
    with handled(ending_signals(), _interrupt):
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    task = waiting.pop(0)
                    running[_start(task, same, more)] = task
                connection.wait([process.sentinel for process in running])
                for process in [process for process in running if not process.is_alive()]:
                    process.join()
                    task = running.pop(process)
                    done = len(tasks) - len(waiting) - len(running)
                    line = _outcome(task, process.exitcode)
                    if StoredRun(task.run_dir).status != "finished":
                        failures.append(line)
                    say(f"{done}/{len(tasks)}  {line}")
        finally:
            _end(running)
    return failures


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _start(task: Task, same: bool, more: Mapping[str, Any]) -> SpawnProcess:
    begin(task)
    what: Any = task.overrides
    if task.peer is not None:
        what = PeerTask(task.peer, composition.compose(task.overrides), same, more)
    process = SPAWN.Process(
        target=run_child, args=("rlkit.compare.child:train", what, str(task.run_dir)), name=task.title, daemon=True
    )
    with interrupts_deferred():  # Ctrl-C reaches this process alone, which ends the others
        process.start()
    return process


def _outcome(task: Task, exitcode: int | None) -> str:
    """Says in a line how a run ended."""
    run = StoredRun(task.run_dir)
    if run.status == "finished":
        speed = run.timesteps / max(run.number("training_time_s") or 0.0, 1e-9)
        mean = run.number("eval_return_mean")
        ended = "" if mean is None else f"return {mean:.2f}, "
        return f"{task.title}: {ended}{speed:,.0f} steps/s"
    output = task.run_dir / OUTPUT
    lines: list[str] = []
    with suppress(OSError):
        lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    reason = one_line(lines[-1]).removeprefix("error: ") if lines else f"exit code {exitcode}"
    return f"{task.title} failed: {reason} ({output})"


def _end(running: Mapping[SpawnProcess, Task]) -> None:
    """Ends runs, ours by the signal upon which they save, and those that go on all the same for good."""
    for process in running:
        process.terminate()
    deadline = time.monotonic() + SECONDS_TO_SAVE
    for process in running:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
