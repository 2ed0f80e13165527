"""How far a run is: a bar in a terminal, a plain line every tenth of the run elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

RETURN_KEY = "rollout/episode_return"


class Progress:
    """Shows timesteps, steps per second, time left and the latest return, on stderr; a context manager.

    `silent` shows nothing: of the processes of one run, one speaks.
    """

    def __init__(self, total_timesteps: int, *, silent: bool = False) -> None:
        self._silent = silent
        self._total = total_timesteps
        self._start = time.perf_counter()
        self._next_line = 0.1
        self._return = ""
        self._bar: Bar | None = _make_bar() if sys.stderr.isatty() and not silent else None

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.add_task("", total=self._total, speed="", latest="")
            self._bar.start()
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, timesteps: int, metrics: Mapping[str, float]) -> None:
        """Shows that `timesteps` are done; `metrics` may hold the latest `rollout/episode_return`."""
        if RETURN_KEY in metrics:
            self._return = f"return {metrics[RETURN_KEY]:,.1f}"
        seconds = time.perf_counter() - self._start
        speed = timesteps / seconds
        if self._bar is not None:
            speed_text = f"{speed:,.0f} steps/s"
            self._bar.update(self._bar.task_ids[0], completed=timesteps, speed=speed_text, latest=self._return)
        elif (share := timesteps / self._total) >= self._next_line:
            self._next_line = int(share * 10) / 10 + 0.1
            left = timedelta(seconds=round(max(0, self._total - timesteps) / speed))
            done = f"{min(share, 1):4.0%}  {timesteps:,} / {self._total:,} steps"
            self.say(f"{done}  {speed:,.0f} steps/s  {left} left  {self._return}".rstrip())

    def say(self, line: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self._silent:
            return
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            with contextlib.suppress(BrokenPipeError):  # whoever read along has gone: no reason to stop a run
                print(line, file=sys.stderr, flush=True)


def _make_bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[latest]}"),
        console=Console(stderr=True),
        refresh_per_second=4,  # each refresh costs the run a millisecond
    )
