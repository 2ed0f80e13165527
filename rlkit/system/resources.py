"""The resources that a program takes, wall time, CPU time and memory, and the processor that it runs on."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Clock:
    """Counts wall and CPU seconds from its making on, while it is not stopped."""

    def __init__(self) -> None:
        self._counted = (0.0, 0.0)
        self._since: tuple[float, float] | None = _now()

    @property
    def wall_s(self) -> float:
        """Wall seconds so far."""
        return self._read()[0]

    @property
    def cpu_s(self) -> float:
        """CPU seconds so far, of this process and of its child processes that have ended."""
        return self._read()[1]

    def add(self, wall_s: float, cpu_s: float) -> None:
        """Counts seconds as well that passed before, as of a run that goes on."""
        wall, cpu = self._counted
        self._counted = wall + wall_s, cpu + cpu_s

    def stop(self) -> None:
        """Stops counting; a clock that is stopped stays as it is."""
        self._counted, self._since = self._read(), None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops counting until the end of a block."""
        self.stop()
        try:
            yield
        finally:
            self._since = _now()

    def _read(self) -> tuple[float, float]:
        (wall, cpu), since = self._counted, self._since
        if since is None:
            return wall, cpu
        now = _now()
        return wall + now[0] - since[0], cpu + now[1] - since[1]


def _now() -> tuple[float, float]:
    return time.perf_counter(), cpu_seconds()


def cpu_seconds() -> float:
    """Returns the CPU seconds of this process, all its threads, and its child processes that have ended."""
    times = os.times()  # which counts in hundredths of a second, and knows of children
    return time.process_time() + times.children_user + times.children_system


def peak_memory_mib() -> float:
    """Returns the most physical memory that this process has had at a time, in MiB, libraries included."""
    try:
        # Not `ru_maxrss` on Linux, where a process that was started begins with the peak of the one that started it.
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 1024
    except (OSError, KeyError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 1024)


def processor(*, model: bool = False) -> str:
    """Returns the processor's name, as far as the system knows it; `model` adds the numbers of its family and model."""
    found: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            found.setdefault(key.strip(), value.strip())
    name = found.get("model name") or platform.processor() or platform.machine()
    return f"{name} (family {found['cpu family']}, model {found['model']})" if model and "cpu family" in found else name
