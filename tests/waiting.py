"""Waiting for what other processes do, on machines that are as busy as they like."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 300.0
"""Seconds until what has to happen counts as never happening: far more than it takes, since a busy machine takes its
time, and a test that passes does not wait for longer than it must."""


def wait_until(condition: Callable[[], object], failure: Callable[[], str] = lambda: "") -> None:
    """Returns once the condition holds; fails with the words of `failure` if it never does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"still waiting after {PATIENCE:.0f} s {failure()}"
        time.sleep(0.05)


def rows_in(metrics: Path) -> int:
    """How many rows a run has logged so far: its updates, where it logs each of them."""
    return metrics.read_text().count("\n") - 1 if metrics.is_file() else 0
