"""The progress of a run: a bar in a terminal, and elsewhere a plain line every tenth of the run."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import IO, TYPE_CHECKING, cast

from rlkit.system.terminal import Terminal, say

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

LATEST = {"rollout/episode_return": "return {:,.1f}"}
"""Metrics that an agent's progress shows, with their formats."""

LONGEST = 86_400.0 * 9_999
"""Seconds above which the time that is left is not told apart."""


class Progress:
    """A context manager that shows a run's progress, speed, remaining time and latest metrics on stderr.

    `total` is the length of the run in `unit`, and it starts at `done`, which is not 0 in a resumed run. `latest` maps
    the metrics that are shown to their formats. `silent` shows nothing, because only one process of a run should.
    """

    def __init__(
        self,
        total: int,
        *,
        unit: str = "steps",
        done: int = 0,
        latest: Mapping[str, str] = LATEST,
        silent: bool = False,
    ) -> None:
        self._silent = silent
        self._total, self._done, self._unit = total, done, unit
        self._start = time.perf_counter()
        self._next_line = int(done / total * 10) / 10 + 0.1
        self._formats = latest
        self._latest: dict[str, str] = {}
        terminal = Terminal(sys.stderr)
        self._bar: Bar | None = _make_bar(terminal) if terminal.isatty() and not silent else None

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.add_task("", total=self._total, completed=self._done, speed="", latest="")
            self._bar.start()
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, metrics: Mapping[str, float]) -> None:
        """Shows that `done` of the total are done, and the latest values among `metrics`."""
        self._latest |= {key: text.format(metrics[key]) for key, text in self._formats.items() if key in metrics}
        share = done / self._total
        if self._bar is None and share < self._next_line:
            return
        latest = "  ".join(self._latest.values())
        seconds = max(time.perf_counter() - self._start, 1e-9)
        speed = (done - self._done) / seconds
        speed_text = f"{speed:,.0f} {self._unit}/s"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, speed=speed_text, latest=latest)
        else:
            self._next_line = int(share * 10) / 10 + 0.1
            rest = max(0, self._total - done) / max(speed, 1e-9)
            left = timedelta(seconds=round(min(rest, LONGEST)))
            so_far = f"{min(share, 1):4.0%}  {done:,} / {self._total:,} {self._unit}"
            self.say(f"{so_far}  {speed_text}  {left} left  {latest}".rstrip())

    def say(self, line: str) -> None:
        """Prints a line, which stands above the bar if there is one."""
        if self._silent:
            return
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            say(line, "stderr")


def _make_bar(terminal: Terminal) -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[latest]}"),
        console=Console(file=cast(IO[str], terminal)),
        refresh_per_second=4,  # each refresh costs the run a millisecond
    )
